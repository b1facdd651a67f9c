//! The answers of the control socket. All of them from the local state; only `locate` and `read_replica` ask other
//! members, because they tell what *is*, not what should be.

use crate::{
    member::Member,
    metrics::metrics,
    status::{leading, liveness, status},
    streaming::Streaming,
};
use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_control::{
    Audit, Drain, Error, FileCopies, Kind, Member as Controlled, MemberRow, ReplicaRow,
    SegmentCopies, Staging, Status, StoredRow, Suspicion,
};
use hydfs_fs::Mounted;
use hydfs_membership::SeenState;
use hydfs_mount::{Caller, FileSystem};
use hydfs_ring::Ring;
use hydfs_state::{Body, State};
use hydfs_types::{
    Agreement, AgreementError, BoxFuture, Command, DataRequest, DataResponse, Incarnation,
    LogIndex, MemberInfo, Net, ROOT_INO, ReadBase, Refusal, SegmentId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const READ: Duration = Duration::from_secs(5);
/// Pause between attempts at a copy whose place moves.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest wait of a leaving member for somebody who takes over its vote.
const VOTE_GOES: Duration = Duration::from_secs(10);
const SUSPICION: &str = "suspicion";

fn not_found(path: &str) -> Error {
    Error::new(Kind::NotFound, format!("{path}: no such file"))
}

/// A file's inode by path, as the local state has it.
fn resolve(state: &State, path: &str) -> Result<hydfs_types::Ino, Error> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .try_fold(ROOT_INO, |parent, name| {
            state.lookup(parent, name.as_bytes())
        })
        .map_err(|_| not_found(path))
}

/// [`hydfs_control::Member`] over a running member.
pub struct Door(pub Arc<Member>);

impl Door {
    fn rows(&self) -> Vec<MemberRow> {
        let member = &self.0;
        let state = member.ctx.state();
        let suspected: BTreeSet<String> = member
            .swim
            .get()
            .map(|swim| swim.view())
            .unwrap_or_default()
            .into_iter()
            .filter(|seen| seen.state == SeenState::Suspect)
            .map(|seen| seen.name)
            .collect();
        let voters = member.group.metrics().voters;
        let leader = member.group.leader();
        let mut rows: Vec<(u64, MemberRow)> = state
            .cluster
            .members
            .values()
            .map(|one| {
                let position = Ring::position(&one.said.name);
                let row = MemberRow {
                    name: one.said.name.clone(),
                    addr: one.said.addr,
                    state: liveness(one),
                    incarnation: one.incarnation.0,
                    ring_id: format!("{position:016x}"),
                    leader: leader == Some(one.id),
                    voter: voters.contains(&one.id),
                    suspected: suspected.contains(&one.said.name),
                };
                (position, row)
            })
            .collect();
        rows.sort_by_key(|(position, _)| *position);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    async fn barrier(&self) -> Result<(), Error> {
        self.0
            .group
            .barrier()
            .await
            .map(|_| ())
            .map_err(|error| Error::new(Kind::Unreachable, error.to_string()))
    }

    async fn copies(&self, path: String) -> Result<FileCopies, Error> {
        self.barrier().await?;
        let (key, size, segments, alive) = {
            let state = self.0.ctx.state();
            let ino = resolve(&state, &path)?;
            let inode = state.inode(ino).map_err(|_| not_found(&path))?;
            let Body::File(file) = &inode.body else {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("{path}: not a regular file"),
                ));
            };
            let segments: Vec<(u64, SegmentId, u64, u64)> = file
                .segments
                .iter()
                .filter_map(|(start, id)| {
                    state
                        .segment(*id)
                        .map(|known| (*start, *id, known.len, known.version.0))
                })
                .collect();
            (
                inode.key.position(),
                inode.attr.size,
                segments,
                state.cluster.alive.clone(),
            )
        };
        let asked = join_all(
            alive
                .keys()
                .map(|one| async { (*one, self.0.data.holdings_of(*one).await) }),
        )
        .await;
        let mut held: BTreeMap<SegmentId, Vec<(Incarnation, u64)>> = BTreeMap::new();
        for (one, holdings) in asked {
            for (segment, version, _) in holdings.unwrap_or_default() {
                held.entry(segment).or_default().push((one, version.0));
            }
        }
        let state = self.0.ctx.state();
        let segments = segments
            .into_iter()
            .map(|(start, id, len, version)| SegmentCopies {
                start,
                len,
                version,
                replicas: held
                    .remove(&id)
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|(one, version)| replica_row(&state, id, one, version))
                    .collect(),
            })
            .collect();
        Ok(FileCopies {
            path,
            ring_id: format!("{key:016x}"),
            size,
            segments,
        })
    }

    fn stored(&self) -> Vec<StoredRow> {
        let member = &self.0;
        let state = member.ctx.state();
        let mut files: BTreeMap<hydfs_types::Ino, (usize, u64)> = BTreeMap::new();
        let index = member.data.replica.index();
        for (segment, local) in &index.segments {
            let Some(known) = state.segment(*segment) else {
                continue;
            };
            let row = files.entry(known.ino).or_default();
            *row = (row.0 + 1, row.1 + local.len + local.pending_bytes);
        }
        files
            .into_iter()
            .map(|(ino, (segments, bytes))| StoredRow {
                path: state.path_of(ino),
                ring_id: state
                    .inode(ino)
                    .map(|inode| format!("{:016x}", inode.key.position()))
                    .unwrap_or_default(),
                segments,
                bytes,
            })
            .collect()
    }

    /// Bytes of one member's copy. Tried again while slots move.
    async fn read_at(
        &self,
        name: String,
        path: String,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, Error> {
        let until = Instant::now() + READ;
        loop {
            match self.try_read_at(&name, &path, offset, len).await? {
                Ok(bytes) => return Ok(bytes),
                Err(why) if Instant::now() >= until => {
                    let text = format!("{name} has no copy of {path} at byte {offset}: {why}");
                    return Err(Error::new(Kind::NotFound, text));
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// One attempt; the inner error is one that may pass.
    async fn try_read_at(
        &self,
        name: &str,
        path: &str,
        offset: u64,
        len: u32,
    ) -> Result<Result<Bytes, Refusal>, Error> {
        self.barrier().await?;
        let (to, read) = {
            let state = self.0.ctx.state();
            let to = state
                .member_named(name)
                .ok_or_else(|| Error::new(Kind::NotFound, format!("no member is named {name}")))?
                .incarnation;
            let ino = resolve(&state, path)?;
            let (inode, file) = state.file(ino).map_err(|_| not_found(path))?;
            if offset >= inode.attr.size {
                return Ok(Ok(Bytes::new()));
            }
            let Some((start, segment)) = file.segments.range(..=offset).next_back() else {
                return Ok(Ok(Bytes::new()));
            };
            let known = state.segment(*segment).ok_or_else(|| not_found(path))?;
            let config = state.config(known.slot).ok_or_else(|| not_found(path))?;
            let read = ReadBase {
                slot: known.slot,
                epoch: config.epoch,
                map: self.0.ctx.map(),
                segment: *segment,
                version: known.version,
                offset: offset - start,
                len,
            };
            (to, read)
        };
        let refused = |why: String| {
            Error::new(
                Kind::NotFound,
                format!("{name} has no copy of {path} at byte {offset}: {why}"),
            )
        };
        if to == self.0.ctx.me() {
            let (_, _, bytes) = self
                .0
                .data
                .replica
                .read_here(read.segment, read.version, read.offset, read.len)
                .await
                .map_err(|error| refused(error.to_string()))?;
            return Ok(Ok(bytes));
        }
        match self
            .0
            .ctx
            .call(to, &DataRequest::ReadBase(read), Bytes::new(), READ)
            .await
        {
            Ok((DataResponse::Bytes { .. }, bytes)) => Ok(Ok(bytes)),
            Ok((DataResponse::Refused(why @ (Refusal::StaleEpoch(_) | Refusal::Behind)), _)) => {
                Ok(Err(why))
            }
            Ok((DataResponse::Refused(why), _)) => Err(refused(why.to_string())),
            Ok(_) => Err(refused("unexpected answer".into())),
            Err(error) => Err(Error::new(Kind::Unreachable, error.to_string())),
        }
    }

    async fn set_suspicion(&self, set: Option<bool>) -> Result<Suspicion, Error> {
        if let Some(on) = set {
            let value = if on { "on" } else { "off" }.to_owned();
            let done = self
                .0
                .group
                .propose(Command::Set {
                    key: SUSPICION.to_owned(),
                    value,
                })
                .await;
            done.map_err(|error| Error::new(Kind::Unreachable, error.to_string()))?;
        }
        let state = self.0.ctx.state();
        Ok(Suspicion {
            on: state
                .cluster
                .settings
                .get(SUSPICION)
                .is_none_or(|value| value != "off"),
        })
    }

    /// A member by name, or this one.
    fn member_to_drain(&self, name: Option<&str>) -> Result<MemberInfo, Error> {
        let state = self.0.ctx.state();
        let name = name.unwrap_or(&self.0.config.name);
        let known = state
            .member_named(name)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no member is named {name}")))?;
        if !known.alive {
            let why = format!("{name} is not alive: its copies are made anew without it already");
            return Err(Error::new(Kind::Unreachable, why));
        }
        Ok(known.clone())
    }

    async fn drain_member(&self, name: Option<String>, on: bool) -> Result<Drain, Error> {
        let member = &self.0;
        let known = self.member_to_drain(name.as_deref())?;
        let me = known.incarnation;
        let others = || member.ctx.state().staying().iter().any(|one| *one != me);
        if on && !others() {
            let why = "no other live member could take its copies: start or add one, or stop this one with SIGTERM";
            return Err(Error::new(Kind::Invalid, why));
        }
        if known.draining != on {
            let command = Command::Drain {
                incarnation: me,
                on,
            };
            let done = member.group.propose(command).await;
            done.map_err(|error| Error::new(Kind::Unreachable, error.to_string()))?;
        }
        let moving = member.ctx.state().moving(Some(me));
        Ok(Drain {
            member: known.said.name,
            on,
            slots: moving.slots,
            bytes: moving.bytes,
            voter: member.group.metrics().voters.contains(&known.id),
            millis: member
                .pace
                .left(moving.bytes)
                .map(|left| left.as_millis() as u64),
        })
    }

    /// Says that a member which is down will not come back.
    async fn dismiss_member(&self, name: String, now: bool) -> Result<(), Error> {
        let (incarnation, only) = {
            let state = self.0.ctx.state();
            let known = state
                .member_named(&name)
                .ok_or_else(|| Error::new(Kind::NotFound, format!("no member is named {name}")))?;
            if known.alive {
                let why = format!("{name} is alive: run `hydfs leave` there, without its name");
                return Err(Error::new(Kind::Invalid, why));
            }
            let dead = |one: &Incarnation| !state.is_alive(*one);
            let slots = state.cluster.slots.values();
            let only = slots
                .filter(|config| config.role(known.incarnation) == Some(true))
                .filter(|config| config.synced().all(|one| dead(&one)))
                .count();
            (known.incarnation, only)
        };
        if only > 0 && !now {
            let why = format!(
                "{only} slots have no live copy, and {name} has one of each: start it again, or give them up with --now"
            );
            return Err(Error::new(Kind::Busy, why));
        }
        let command = Command::Leave {
            incarnation,
            forever: true,
            kept: LogIndex(0),
        };
        let done = self.0.group.propose(command).await;
        done.map(|_| ())
            .map_err(|error| Error::new(Kind::Unreachable, error.to_string()))
    }

    /// Gives the vote away, without which the others might have no majority, then leaves.
    async fn leave_for_ever(&self) -> Result<(), Error> {
        let until = Instant::now() + VOTE_GOES;
        while self.drain_member(None, true).await?.voter {
            if Instant::now() >= until {
                let why =
                    "no other member could take over this one's vote: see status, and try again";
                return Err(Error::new(Kind::Busy, why));
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.0.volume.end_all().await;
        let command = Command::Leave {
            incarnation: self.0.ctx.me(),
            forever: true,
            kept: LogIndex(0),
        };
        let left = || {
            let state = self.0.ctx.state();
            state.member(self.0.id()).is_some_and(|member| member.left)
        };
        match self.0.group.propose(command).await {
            Ok(_) => {}
            // The answer was lost with the leadership that this member handed on; the command was not.
            Err(AgreementError::Expired | AgreementError::InDoubt { .. }) if left() => {}
            Err(error) => return Err(Error::new(Kind::Unreachable, error.to_string())),
        }
        self.0.stop.notify_one();
        Ok(())
    }
}

fn replica_row(
    state: &State,
    segment: SegmentId,
    one: Incarnation,
    version: u64,
) -> Option<ReplicaRow> {
    let member = state.member_of(one)?;
    let config = state.config(state.segment(segment)?.slot)?;
    Some(ReplicaRow {
        member: member.said.name.clone(),
        addr: member.said.addr,
        ring_id: format!("{:016x}", Ring::position(&member.said.name)),
        version,
        synced: config.role(one) == Some(true),
    })
}

impl Door {
    fn streaming(&self) -> Result<Arc<Streaming>, Error> {
        let why = "this member does not run jobs yet: try again in a moment";
        let streaming = self.0.streaming.get().cloned();
        streaming.ok_or_else(|| Error::new(Kind::Busy, why))
    }
}

impl Controlled for Door {
    fn files(&self) -> Arc<dyn FileSystem> {
        Arc::new(Mounted(self.0.volume.clone()))
    }

    fn net(&self) -> Arc<dyn Net> {
        self.0.net.clone()
    }

    fn staging(&self) -> Arc<Staging> {
        self.0.staging.clone()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, Error>> {
        let (healthy, text) = status(&self.0);
        let state = self.0.ctx.state();
        let leader = leading(&self.0, &state).map(|one| one.said.name);
        let status = Status {
            member: self.0.config.name.clone(),
            healthy,
            text,
            leader,
            members_alive: state.cluster.alive.len(),
        };
        Box::pin(async move { Ok(status) })
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<MemberRow>, Error>> {
        Box::pin(async { Ok(self.rows()) })
    }

    fn locate(&self, path: String) -> BoxFuture<'_, Result<FileCopies, Error>> {
        Box::pin(self.copies(path))
    }

    fn store(&self) -> BoxFuture<'_, Result<Vec<StoredRow>, Error>> {
        Box::pin(async { Ok(self.stored()) })
    }

    fn read_replica(
        &self,
        member: String,
        path: String,
        offset: u64,
        len: u32,
    ) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(self.read_at(member, path, offset, len))
    }

    fn suspicion(&self, set: Option<bool>) -> BoxFuture<'_, Result<Suspicion, Error>> {
        Box::pin(self.set_suspicion(set))
    }

    fn drain(&self, member: Option<String>, on: bool) -> BoxFuture<'_, Result<Drain, Error>> {
        Box::pin(self.drain_member(member, on))
    }

    fn dismiss(&self, member: String, now: bool) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.dismiss_member(member, now))
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.leave_for_ever())
    }

    fn metrics(&self) -> String {
        metrics(&self.0)
    }

    fn check_job(
        &self,
        caller: Caller,
        path: String,
        spec: String,
    ) -> BoxFuture<'_, Result<(), Error>> {
        let streaming = self.streaming();
        Box::pin(async move { streaming?.check(caller.uid, caller.gid, &path, spec).await })
    }

    fn audit_job(&self, name: String) -> BoxFuture<'_, Result<Audit, Error>> {
        let streaming = self.streaming();
        Box::pin(async move { streaming?.audit(&name).await })
    }
}

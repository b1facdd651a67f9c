//! What a person sees of a member: the tree below `.cluster`, and the answers of the control socket. All of it from the
//! local state; only `locate` and `read_replica` ask other members, because they tell what *is*, not what should be.

use crate::{member::Member, streaming::Streaming};
use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_control::{
    Error, FileCopies, Kind, Liveness, Member as Controlled, MemberRow, ReplicaRow, SegmentCopies,
    Staging, Status, StoredRow, Suspicion,
};
use hydfs_fs::{Control, Mounted, Node};
use hydfs_membership::SeenState;
use hydfs_mount::{Caller, FileSystem, FsError};
use hydfs_ring::Ring;
use hydfs_state::{Body, State};
use hydfs_types::{
    Agreement, AgreementError, BoxFuture, Command, DataRequest, DataResponse, Incarnation,
    MemberInfo, Net, ROOT_INO, ReadBase, Refusal, SegmentId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

const READ: Duration = Duration::from_secs(5);
/// Pause between attempts at a copy whose place moves.
const AGAIN: Duration = Duration::from_millis(50);
const SUSPICION: &str = "suspicion";

/// The control tree of a mount.
pub struct Tree(Weak<Member>);

impl Tree {
    pub fn new(member: &Arc<Member>) -> Arc<Self> {
        Arc::new(Self(Arc::downgrade(member)))
    }
}

impl Control for Tree {
    fn node(&self, path: &str) -> Option<Node> {
        let member = self.0.upgrade()?;
        let parts: Vec<&str> = path.split('/').collect();
        let text = match parts[..] {
            ["cluster"] => {
                let files = ["jobs", "leader", "members", "metrics", "ring", "status"];
                let mut names: Vec<(String, bool)> = files
                    .iter()
                    .map(|name| ((*name).to_owned(), false))
                    .collect();
                names.push(("member".to_owned(), true));
                if member.faults.is_some() {
                    names.push(("faults".to_owned(), true));
                }
                return Some(Node::Directory(names));
            }
            ["cluster", "member"] => {
                let state = member.ctx.state();
                return Some(Node::Directory(
                    state
                        .cluster
                        .members
                        .values()
                        .map(|one| (one.said.name.clone(), true))
                        .collect(),
                ));
            }
            ["cluster", "member", name] => {
                member.ctx.state().member_named(name)?;
                return Some(Node::Directory(vec![
                    ("info".to_owned(), false),
                    ("why".to_owned(), false),
                ]));
            }
            ["cluster", "member", name, "info"] => info(&member, name)?,
            ["cluster", "member", name, "why"] => why(&member, name)?,
            ["cluster", "faults"] => {
                // There also where none may be made: making one says why.
                let faults = member.faults.as_ref();
                let names = faults.map(|faults| faults.names()).unwrap_or_default();
                return Some(Node::Directory(
                    names.into_iter().map(|name| (name, false)).collect(),
                ));
            }
            ["cluster", "faults", name] => member.faults.as_ref()?.text(name)?,
            ["cluster", "leader"] => leader(&member),
            ["cluster", "members"] => members(&member.ctx.state()),
            ["cluster", "metrics"] => metrics(&member),
            ["cluster", "ring"] => ring(&member.ctx.state()),
            ["cluster", "status"] => status(&member).1,
            ["cluster", "jobs"] => {
                let state = member.ctx.state();
                state.jobs.values().map(rainstorm::status_json).collect()
            }
            ["jobs", job, what @ ("status" | "progress" | "status.json")] => {
                let state = member.ctx.state();
                let job = state.jobs.values().rev().find(|one| one.name == job)?;
                match what {
                    "status" => rainstorm::status_text(job),
                    "status.json" => rainstorm::status_json(job),
                    _ => rainstorm::progress_text(job),
                }
            }
            _ => return None,
        };
        Some(Node::File(Bytes::from(text)))
    }

    fn put(&self, path: &str, text: &[u8]) -> Result<(), FsError> {
        let (member, name) = self.fault_at(path)?;
        let faults = member.faults.as_ref().ok_or_else(no_faults)?;
        faults.put(name, text, |name| {
            member.ctx.state().member_named(name).is_some()
        })
    }

    fn remove(&self, path: &str) -> Result<(), FsError> {
        let (member, name) = self.fault_at(path)?;
        member.faults.as_ref().ok_or_else(no_faults)?.remove(name)
    }
}

impl Tree {
    /// The name of the fault that a path means: nothing else below `.cluster` can be written.
    fn fault_at<'a>(&self, path: &'a str) -> Result<(Arc<Member>, &'a str), FsError> {
        let name = path
            .strip_prefix("cluster/faults/")
            .filter(|name| !name.contains('/'))
            .ok_or_else(hydfs_fs::read_only)?;
        let member = self.0.upgrade().ok_or(FsError::NotFound)?;
        Ok((member, name))
    }
}

fn no_faults() -> FsError {
    FsError::NotPermitted(
        "faults may be injected only where a member runs with --allow-faults".into(),
    )
}

fn liveness(one: &MemberInfo) -> Liveness {
    match (one.alive, one.left) {
        (true, _) => Liveness::Alive,
        (false, true) => Liveness::Left,
        (false, false) => Liveness::Dead,
    }
}

/// `NAME ADDR STATE INCARNATION` a line.
fn members(state: &State) -> String {
    state
        .cluster
        .members
        .values()
        .fold(String::new(), |mut text, one| {
            writeln!(
                text,
                "{} {} {} {}",
                one.said.name,
                one.said.addr,
                liveness(one),
                one.incarnation.0
            )
            .expect("text in memory");
            text
        })
}

/// The leader that this member follows, unless it is seen down or too few voters are left to have one: a follower that
/// cannot win an election goes on to name the last leader it had.
fn leading(member: &Member, state: &State) -> Option<MemberInfo> {
    let view = member
        .swim
        .get()
        .map(|swim| swim.view())
        .unwrap_or_default();
    let down = |id| {
        state.member(id).is_none_or(|one| {
            view.iter()
                .any(|seen| seen.name == one.said.name && seen.state == SeenState::Down)
        })
    };
    let voters = member.group.metrics().voters;
    let up = voters.iter().filter(|id| !down(**id)).count();
    let leader = member
        .group
        .leader()
        .filter(|id| !down(*id) && 2 * up > voters.len());
    leader.and_then(|id| state.member(id)).cloned()
}

fn leader(member: &Member) -> String {
    match leading(member, &member.ctx.state()) {
        Some(one) => format!("{} {}\n", one.said.name, one.said.addr),
        None => "none\n".to_owned(),
    }
}

fn info(member: &Member, name: &str) -> Option<String> {
    let state = member.ctx.state();
    let one = state.member_named(name)?;
    Some(format!(
        "name = {}\naddress = {}\nstate = {}\nid = {}\nincarnation = {}\nring_id = {:016x}\nzone = {}\nweight = {}\nstarts = {}\nfull = {}\n",
        one.said.name,
        one.said.addr,
        liveness(one),
        one.id.0,
        one.incarnation.0,
        Ring::position(&one.said.name),
        one.said.zone,
        one.said.weight,
        one.said.start_count,
        one.full,
    ))
}

/// What this member has seen of another one, and on what evidence.
fn why(member: &Member, name: &str) -> Option<String> {
    if name == member.config.name {
        return Some("this member itself\n".to_owned());
    }
    let seen = member
        .swim
        .get()?
        .view()
        .into_iter()
        .find(|seen| seen.name == name)?;
    Some(format!(
        "{:?} for {:.1} s: {}\n",
        seen.state,
        seen.age.as_secs_f64(),
        seen.evidence
    ))
}

/// Members by ring id, with the slots they keep and lead, as agreed.
fn ring(state: &State) -> String {
    let mut kept: BTreeMap<Incarnation, (u32, u32, u32)> = BTreeMap::new();
    for config in state.cluster.slots.values() {
        for acting in &config.acting {
            let row = kept.entry(acting.incarnation).or_default();
            if acting.synced {
                row.0 += 1
            } else {
                row.1 += 1
            }
        }
        kept.entry(config.leader).or_default().2 += 1;
    }
    let mut rows: Vec<(u64, &MemberInfo)> = state
        .cluster
        .members
        .values()
        .map(|one| (Ring::position(&one.said.name), one))
        .collect();
    rows.sort_by_key(|(position, _)| *position);
    let mut text = String::from("# ring_id name state slots_synced slots_learning slots_led\n");
    for (position, one) in rows {
        let (synced, learning, led) = kept.get(&one.incarnation).copied().unwrap_or_default();
        writeln!(
            text,
            "{position:016x} {} {} {synced} {learning} {led}",
            one.said.name,
            liveness(one)
        )
        .expect("text in memory");
    }
    text
}

/// Whether all is well, and the text that says so.
fn status(member: &Member) -> (bool, String) {
    let state = member.ctx.state();
    let mut troubles = Vec::new();
    let down: Vec<&str> = state
        .cluster
        .members
        .values()
        .filter(|one| !one.alive && !one.left)
        .map(|one| one.said.name.as_str())
        .collect();
    if !down.is_empty() {
        troubles.push(format!("{} down", down.join(", ")));
    }
    let full: Vec<String> = state
        .cluster
        .members
        .values()
        .filter(|one| one.alive && one.full)
        .map(|one| format!("{}: disk full", one.said.name))
        .collect();
    troubles.extend(full);
    let wanted = usize::from(state.cluster.copies);
    let (mut learning, mut short, mut frozen) = (0, 0, 0);
    for config in state.cluster.slots.values() {
        let synced = config
            .synced()
            .filter(|one| state.cluster.alive.contains_key(one))
            .count();
        learning += usize::from(config.acting.iter().any(|acting| !acting.synced));
        short += usize::from(synced < wanted);
        frozen += usize::from(config.frozen);
    }
    let slots = state.cluster.slots.len();
    if frozen > 0 {
        troubles.push(format!("{frozen} of {slots} slots have no live copy"));
    }
    if short > 0 {
        troubles.push(format!(
            "under-replicated: {short} of {slots} slots have fewer than {wanted} copies"
        ));
    }
    if learning > 0 {
        troubles.push(format!("repairing {learning} slots"));
    }
    let lost = member.data.replica.health.lost();
    if !lost.is_empty() {
        troubles.push(format!(
            "{} damaged segments here have no good copy",
            lost.len()
        ));
    }
    let leading = leading(member, &state);
    if leading.is_none() {
        troubles.push("no leader: fewer than a majority of the voters is reachable".to_owned());
    }
    if !state.cluster.alive.contains_key(&member.ctx.me()) {
        troubles.push("this member is rejoining".to_owned());
    }
    let healthy = troubles.is_empty();
    let mut text = if healthy {
        "healthy\n".to_owned()
    } else {
        format!("degraded: {}\n", troubles.join("; "))
    };
    let alive = state.cluster.alive.len();
    let leader = leading
        .as_ref()
        .map_or("none", |one| one.said.name.as_str());
    let writers = state.names.writers.len();
    writeln!(
        text,
        "member {} incarnation {}",
        member.config.name,
        member.ctx.me().0
    )
    .expect("text in memory");
    writeln!(
        text,
        "members {alive} alive of {}, leader {leader}",
        state.cluster.members.len()
    )
    .expect("text in memory");
    writeln!(
        text,
        "slots {slots}, copies {wanted}, map {}, log {}",
        state.cluster.map.0, state.index.0
    )
    .expect("text in memory");
    writeln!(
        text,
        "inodes {}, segments {}, writers {writers}, bytes {}",
        state.names.inodes.len(),
        state.names.segments.len(),
        state.names.bytes
    )
    .expect("text in memory");
    for name in member.faults.iter().flat_map(|faults| faults.names()) {
        let line = member.faults.as_ref().and_then(|faults| faults.text(&name));
        let line = line.unwrap_or_default();
        writeln!(
            text,
            "injected fault {name}: {}",
            line.lines().next().unwrap_or_default()
        )
        .expect("text in memory");
    }
    let pass = member.data.replica.health.pass();
    writeln!(
        text,
        "scrub {} of {} segments, {} passes",
        pass.done, pass.of, pass.passes
    )
    .expect("text in memory");
    for (segment, lost) in lost {
        let ino = state.segment(segment).map(|known| known.ino);
        let path = ino
            .and_then(|ino| state.path_of(ino))
            .unwrap_or_else(|| "(unlinked)".to_owned());
        writeln!(
            text,
            "damaged: {path}, segment {segment} at byte {}: {}",
            lost.offset, lost.why
        )
        .expect("text in memory");
    }
    if let Some(swim) = member.swim.get() {
        for seen in swim
            .view()
            .iter()
            .filter(|seen| seen.state != SeenState::Alive)
        {
            writeln!(
                text,
                "{} seems {:?}: {}",
                seen.name, seen.state, seen.evidence
            )
            .expect("text in memory");
        }
    }
    (healthy, text)
}

/// The Prometheus text page.
fn metrics(member: &Member) -> String {
    let mut text = String::new();
    let mut described = String::new();
    // A family is described once, in front of its rows; rows of one family differ in their labels.
    let mut put = |name: &str, help: &str, kind: &str, value: u64| {
        let family = name.split('{').next().unwrap_or(name);
        if described != family {
            described = family.to_owned();
            writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}")
                .expect("text in memory");
        }
        writeln!(text, "{name} {value}").expect("text in memory");
    };
    if let Some(counters) = member.net.counters() {
        counters.each(|name, help, value| put(name, help, "counter", value));
    }
    for (name, help, value) in member.ctx.counters.read() {
        put(name, help, "counter", value);
    }
    put(
        "hydfs_scrub_lost_segments",
        "segments with damage here that no other copy could heal",
        "gauge",
        member.data.replica.health.lost().len() as u64,
    );
    let stats = member.data.replica.journal.log().stats();
    put(
        "hydfs_journal_appends_total",
        "entries written to the record journal",
        "counter",
        stats.appends,
    );
    put(
        "hydfs_journal_bytes_total",
        "bytes written to the record journal",
        "counter",
        stats.bytes,
    );
    put(
        "hydfs_journal_syncs_total",
        "fsyncs of the record journal",
        "counter",
        stats.syncs,
    );
    let metrics = member.group.metrics();
    put(
        "hydfs_agreement_term",
        "term of the agreement group",
        "gauge",
        metrics.term,
    );
    put(
        "hydfs_agreement_log_index",
        "last entry of the agreement log here",
        "gauge",
        metrics.last.map_or(0, |index| index.0),
    );
    put(
        "hydfs_agreement_applied_index",
        "last entry applied here",
        "gauge",
        metrics.applied.0,
    );
    put(
        "hydfs_agreement_voters",
        "voters of the agreement group",
        "gauge",
        metrics.voters.len() as u64,
    );
    let state = member.ctx.state();
    put(
        "hydfs_members_alive",
        "members that are alive",
        "gauge",
        state.cluster.alive.len() as u64,
    );
    put(
        "hydfs_inodes",
        "inodes",
        "gauge",
        state.names.inodes.len() as u64,
    );
    put(
        "hydfs_segments",
        "segments",
        "gauge",
        state.names.segments.len() as u64,
    );
    put(
        "hydfs_file_bytes",
        "bytes of all files, one copy",
        "gauge",
        state.names.bytes,
    );
    text
}

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

    async fn leave_for_ever(&self) -> Result<(), Error> {
        self.0.volume.end_all().await;
        let command = Command::Leave {
            incarnation: self.0.ctx.me(),
            forever: true,
        };
        let left = || {
            let state = self.0.ctx.state();
            state.member(self.0.id()).is_some_and(|member| member.left)
        };
        match self.0.group.propose(command).await {
            Ok(_) => {}
            // The answer was lost with the leadership that this member handed on; the command was not.
            Err(AgreementError::Expired) if left() => {}
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

    fn audit_job(&self, name: String) -> BoxFuture<'_, Result<String, Error>> {
        let streaming = self.streaming();
        Box::pin(async move { streaming?.audit(name).await })
    }
}

//! What must hold when nobody writes and nothing is wrong (I12).

use crate::{client, world::World};
use hydfs_node::Member;
use hydfs_state::{Body, State};
use hydfs_types::{Ino, ROOT_INO, SlotId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Longest time until copies that are not wanted have gone.
const DROPPED: Duration = Duration::from_secs(30);
/// Longest time until synced copies are at their agreed versions.
const CURRENT: Duration = Duration::from_secs(30);
/// Longest time until flipped bits are found and replaced.
const HEALED: Duration = Duration::from_secs(60);

impl World {
    /// What must hold when nobody writes: every mount reads the same, with everything acknowledged in it; replicas and
    /// agreed states are equal (I12).
    pub async fn check_quiet(&mut self) {
        // A member reads what it alone writes without a merge (R7): writers end before the last read.
        for member in self.members() {
            member.volume.end_all().await;
        }
        self.wait_for_versions().await;
        let mut contents = Vec::new();
        for host in &self.hosts {
            let Some(member) = host.member() else {
                continue;
            };
            match client::read_once(
                &member,
                &format!("last read at {}", host.name),
                &self.oracle,
            )
            .await
            {
                Ok(content) => contents.push((host.name.clone(), content)),
                Err(error) => self
                    .oracle
                    .report(format!("the last read at {} failed: {error}", host.name)),
            }
        }
        for pair in contents.windows(2) {
            if pair[0].1 != pair[1].1 {
                self.oracle.report(format!(
                    "{} and {} read different files when all is quiet",
                    pair[0].0, pair[1].0
                ));
            }
        }
        self.check_outputs().await;
        self.wait_for_places().await;
        self.wait_for_healed().await;
        self.check_states();
        self.check_places();
        self.check_replicas().await;
    }

    /// Synced copies are at their agreed versions by themselves: a read would bring them there.
    async fn wait_for_versions(&mut self) {
        let until = Instant::now() + CURRENT;
        loop {
            self.run(Duration::from_secs(1)).await;
            let behind = self
                .members()
                .iter()
                .find_map(|member| Some((member.config.name.clone(), behind(member)?)));
            let Some((name, what)) = behind else {
                return;
            };
            if Instant::now() > until {
                self.oracle.report(format!("I12: at {name} {what}"));
                return;
            }
        }
    }

    /// Every mount shows every committed job epoch.
    async fn check_outputs(&self) {
        for host in &self.hosts {
            let Some(member) = host.member() else {
                continue;
            };
            if let Err(error) = self.jobs.read(&member, 0).await {
                self.oracle.report(format!(
                    "the last read of a job's outputs at {} failed: {error}",
                    host.name
                ));
            }
        }
    }

    /// Where bits have flipped every copy is looked at, and healed.
    async fn wait_for_healed(&mut self) {
        if !self.flips {
            return;
        }
        let passes = |member: &Arc<Member>| member.data.replica.health.pass().passes;
        let before: Vec<_> = self.members().iter().map(passes).collect();
        let until = Instant::now() + HEALED;
        loop {
            self.run(Duration::from_secs(2)).await;
            let members = self.members();
            let waits = members.iter().zip(&before).find(|(member, before)| {
                passes(member) < **before + 2 || !member.data.replica.health.lost().is_empty()
            });
            let Some((member, _)) = waits else {
                return;
            };
            if Instant::now() > until {
                let lost = member.data.replica.health.lost();
                self.oracle.report(format!(
                    "I12: {} has not healed its disk after {HEALED:?}: {lost:?}",
                    member.config.name
                ));
                return;
            }
        }
    }

    /// The wanted number of copies, of distinct members, and none besides.
    fn check_places(&self) {
        let members = self.members();
        let Some(first) = members.first() else { return };
        let state = first.ctx.state();
        let wanted = usize::from(state.cluster.copies).min(state.cluster.alive.len());
        for slot in state.names.by_slot.keys() {
            let Some(config) = state.config(*slot) else {
                continue;
            };
            let places = config.acting.iter().map(|acting| acting.incarnation);
            let owners: BTreeSet<_> = places
                .filter_map(|one| state.cluster.alive.get(&one))
                .collect();
            let synced = config.synced().count();
            if synced != wanted || owners.len() != wanted || config.frozen {
                self.oracle.report(format!(
                    "I12: {slot} has {synced} synced replicas of {} members where {wanted} are wanted: {config:?}",
                    owners.len()
                ));
            }
        }
    }

    /// Copies that nobody wants go by themselves, within a deadline.
    async fn wait_for_places(&mut self) {
        let until = Instant::now() + DROPPED;
        loop {
            self.run(Duration::from_secs(2)).await;
            let surplus = self.members().iter().find_map(|member| {
                let found = surplus_of(member, &member.ctx.state());
                (!found.is_empty()).then(|| (member.config.name.clone(), found))
            });
            let Some((name, found)) = surplus else {
                return;
            };
            if Instant::now() > until {
                self.oracle.report(format!(
                    "I12: {name} keeps copies that are not wanted there: {found:?}"
                ));
                return;
            }
        }
    }

    fn check_states(&self) {
        let members = self.members();
        let Some(first) = members.first() else { return };
        if let Err(what) = first.ctx.state().audit() {
            self.oracle
                .report(format!("the agreed state is not sound: {what}"));
        }
        for other in &members[1..] {
            let (one, two) = (first.ctx.state(), other.ctx.state());
            if one.index == two.index && *one != *two {
                self.oracle.report(format!(
                    "the agreed states of {} and {} differ at entry {}",
                    first.config.name, other.config.name, one.index
                ));
            }
        }
    }

    async fn check_replicas(&self) {
        let members = self.members();
        let Some(first) = members.first() else { return };
        let log = ino_of(&first.ctx.state(), client::FILE);
        let segments: Vec<_> = first
            .ctx
            .state()
            .names
            .segments
            .iter()
            .map(|(id, segment)| (*id, segment.clone()))
            .collect();
        for (id, segment) in segments {
            let config = first.ctx.state().config(segment.slot).cloned();
            let Some(config) = config else { continue };
            let mut copies = Vec::new();
            for incarnation in config.synced() {
                let Some(holder) = members.iter().find(|member| member.ctx.me() == incarnation)
                else {
                    self.oracle
                        .report(format!("{id}: its replica {incarnation} is nobody"));
                    continue;
                };
                match holder
                    .data
                    .replica
                    .read_here(id, segment.version, 0, segment.len as u32)
                    .await
                {
                    Ok((_, len, bytes)) if len == segment.len => {
                        copies.push((holder.config.name.clone(), bytes))
                    }
                    Ok((version, len, _)) => self.oracle.report(format!(
                        "{id} at {} is {len} bytes at {version}, agreed are {}",
                        holder.config.name, segment.len
                    )),
                    Err(error) => self.oracle.report(format!(
                        "{id} cannot be read at {}: {error}",
                        holder.config.name
                    )),
                }
                let state = holder.ctx.state();
                let index = holder.data.replica.index();
                for pending in index
                    .segments
                    .get(&id)
                    .into_iter()
                    .filter(|_| Some(segment.ino) == log)
                    .flat_map(|local| local.pending())
                {
                    let (writer, seq) = (pending.head.writer, pending.head.seq);
                    let phase = state
                        .writer(writer)
                        .map(|writer| (writer.phase, writer.read));
                    self.oracle.report(format!("{id}: record {seq} of {writer} ({phase:?}) is pending at {} after the last read", holder.config.name));
                }
            }
            if copies.windows(2).any(|pair| pair[0].1 != pair[1].1) {
                self.oracle
                    .report(format!("{id}: the replicas' bytes differ"));
            }
        }
    }
}

/// The inode of a file in the root.
fn ino_of(state: &State, name: &[u8]) -> Option<Ino> {
    match &state.names.inodes.get(&ROOT_INO)?.body {
        Body::Directory(root) => Some(root.entries.get(name)?.ino),
        _ => None,
    }
}

/// A synced copy that is behind its agreed version.
fn behind(member: &Arc<Member>) -> Option<String> {
    let (me, state) = (member.ctx.me(), member.ctx.state());
    state.names.segments.iter().find_map(|(id, segment)| {
        let synced = state.config(segment.slot)?.role(me) == Some(true);
        let here = member.data.replica.version(*id);
        (synced && here < segment.version).then(|| {
            let agreed = segment.version;
            format!("the copy of {id} stays at {here}, agreed is {agreed}")
        })
    })
}

/// Segments by slot that a member holds and does not act for.
fn surplus_of(member: &Arc<Member>, state: &State) -> BTreeMap<SlotId, usize> {
    let me = member.ctx.me();
    let index = member.data.replica.index();
    let mut surplus = BTreeMap::new();
    for local in index.segments.values() {
        let acts = state
            .config(local.slot)
            .is_some_and(|config| config.role(me).is_some());
        if !acts {
            *surplus.entry(local.slot).or_default() += 1;
        }
    }
    surplus
}

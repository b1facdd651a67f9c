//! What a machine would find on its disk after it went down: production's own recovery, run on a copy of the disk.
//!
//! A killed process loses nothing that it had answered for (R3, R4), unless a sync had failed and production's start says that
//! something may be gone: then it has to come back as somebody else, as after a power cut (R12). After either every agreed cut
//! of the slots in which it was synced can be made again from what it had synced (I2), with the same bytes as elsewhere (I3).

use crate::{
    host::{Host, Life, log_options},
    oracle::Oracle,
};
use hydfs_data::{Context, Data, Past, Standing, Trial};
use hydfs_node::Member;
use hydfs_state::State;
use hydfs_store::{Crash, Folder};
use hydfs_types::{Incarnation, SegmentId, Seq, SlotEpoch, SlotId, WriterId};
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

/// Longest read of one base.
const READ_BYTES: u32 = 8 << 20;

/// What a process held in memory when it went down.
pub struct Remains {
    name: String,
    incarnation: Incarnation,
    member: Arc<Member>,
    how: Crash,
    fences: BTreeMap<SlotId, SlotEpoch>,
    records: Vec<(SegmentId, WriterId, Seq)>,
}

impl Remains {
    /// Of the life that is about to end; `None` where it never served.
    pub fn of(life: &Life, how: Crash) -> Option<Self> {
        let member = life.member()?;
        let index = member.data.replica.index();
        let lanes = index.segments.iter().flat_map(|(segment, local)| {
            local
                .lanes
                .iter()
                .map(move |(writer, lane)| (*segment, *writer, lane))
        });
        let records = lanes
            .flat_map(|(segment, writer, lane)| {
                lane.records.keys().map(move |seq| (segment, writer, *seq))
            })
            .collect();
        Some(Self {
            name: member.config.name.clone(),
            incarnation: member.ctx.me(),
            how,
            fences: index.fences.clone(),
            records,
            member: member.clone(),
        })
    }

    /// Whose they are.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Looks at a copy of the disk of `host`, which is down, against the newest agreed state. Of a `rotten` one bits were
    /// flipped: what its bases hold says nothing. Answers whether its next start may go on as the same incarnation.
    pub async fn examine(
        self,
        host: &Host,
        state: State,
        others: &[Arc<Member>],
        oracle: &Oracle,
        rotten: bool,
    ) -> bool {
        let trial = Trial::default();
        let ctx = Arc::new(Context::new(
            self.member.net.clone(),
            self.member.group.clone(),
            Arc::new(RwLock::new(state)),
            trial,
        ));
        ctx.set_me(self.incarnation);
        let copy = host.disk.fork().attach();
        let salt = self.member.folder.salt();
        let power = self.how != Crash::Kill;
        let marked = Folder::is_marked(&*copy).unwrap_or(false);
        let past = Past {
            rebooted: power,
            sync_failed: marked,
            journaled: host.journal_end(),
        };
        let found = match Data::open(ctx.clone(), copy, log_options(salt), past) {
            Ok(found) => found,
            Err(error) => {
                oracle.report(format!(
                    "{}: its journal cannot be opened after {:?}: {error}",
                    self.name, self.how
                ));
                return !power;
            }
        };
        let lost = found.has_lost();
        if lost && !marked {
            oracle.report(format!(
                "{}: it lost the end of its journal in {:?}, and no sync had failed",
                self.name, self.how
            ));
        }
        if (power || lost) && !rotten {
            self.after_power_cut(&found, &ctx, others, oracle).await;
        }
        if !power && !lost {
            self.after_kill(&found, oracle);
        }
        !power && !lost
    }

    fn after_kill(&self, found: &Data, oracle: &Oracle) {
        let index = found.replica.index();
        for (slot, epoch) in &self.fences {
            let kept = index.fences.get(slot).copied().unwrap_or_default();
            if kept < *epoch {
                oracle.report(format!(
                    "I6: {} promised epoch {epoch} of {slot} and has {kept} in its journal",
                    self.name
                ));
            }
        }
        for (segment, writer, seq) in &self.records {
            let lane = index
                .segments
                .get(segment)
                .and_then(|local| local.lanes.get(writer));
            if !lane.is_some_and(|lane| lane.through >= *seq || lane.records.contains_key(seq)) {
                oracle.report(format!(
                    "I1: {} held record {seq} of {writer} in {segment} and has it not in its journal",
                    self.name
                ));
            }
        }
    }

    async fn after_power_cut(
        &self,
        found: &Data,
        ctx: &Context,
        others: &[Arc<Member>],
        oracle: &Oracle,
    ) {
        let state = ctx.state().clone();
        for (id, segment) in &state.names.segments {
            let role = state
                .config(segment.slot)
                .and_then(|config| config.role(self.incarnation));
            if role != Some(true) || segment.version.0 == 0 {
                continue;
            }
            match found.replica.reconcile(*id).await {
                Ok(Standing::Current) => {}
                Ok(standing) => {
                    oracle.report(format!(
                        "I2: {}, a synced replica of {id}, cannot make {} again after {:?} (it has {}): {standing:?}",
                        self.name,
                        segment.version,
                        self.how,
                        found.replica.version(*id)
                    ));
                    continue;
                }
                Err(error) => {
                    oracle.report(format!(
                        "I2: {} cannot make {} of {id} again after {:?}: {error}",
                        self.name, segment.version, self.how
                    ));
                    continue;
                }
            }
            let other = others.iter().find(|one| {
                one.ctx.me() != self.incarnation
                    && one.data.replica.version(*id) == segment.version
                    && state
                        .config(segment.slot)
                        .is_some_and(|config| config.role(one.ctx.me()) == Some(true))
            });
            let Some(other) = other else { continue };
            let here = found
                .replica
                .read_here(*id, segment.version, 0, READ_BYTES)
                .await;
            let there = other
                .data
                .replica
                .read_here(*id, segment.version, 0, READ_BYTES)
                .await;
            match (here, there) {
                (Ok(here), Ok(there)) if here == there || there.0 != segment.version => {}
                (Err(why), _) => oracle.report(format!(
                    "I3: {} cannot read {id} after {:?}: {why}",
                    self.name, self.how
                )),
                (Ok(_), Ok(_)) => oracle.report(format!(
                    "I3: {id} at {} is other bytes on {} after {:?} than on {}",
                    segment.version, self.name, self.how, other.config.name
                )),
                (Ok(_), Err(why)) => tracing::debug!(%why, "nothing to compare with"),
            }
        }
    }
}

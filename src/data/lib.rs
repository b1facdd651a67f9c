//! The data plane: records on their replicas, cuts at the reader's call, repair.
//!
//! Decisions that need no I/O are in `segment.rs`; rules and invariants stand where they are kept. It speaks to other
//! members through `Net`, to the agreement group through `Agreement`, and never carries file data through the latter.

mod apply;
mod behind;
mod checkpoint;
mod context;
mod counters;
mod error;
mod extents;
mod health;
mod include;
mod learn;
mod merge;
mod own;
mod past;
mod prepare;
mod pull;
mod reader;
mod recover;
mod repair;
mod replica;
mod room;
mod round;
mod scrub;
mod segment;
mod sender;
mod source;
mod step;
mod throttle;
mod vouch;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod learn_tests;
#[cfg(test)]
mod upkeep_tests;

pub use apply::Standing;
pub use behind::{Pushed, TRUSTED, WriteBehind};
pub use context::{Context, SharedState, Trial};
pub use counters::Counters;
pub use error::{DataError, DiskFailure};
pub use extents::{Extent, Source as ExtentSource};
pub use health::{Health, Lost, Pass};
pub use past::Past;
pub use reader::Reader;
pub use replica::Replica;
pub use scrub::SCRUB_BYTES_PER_S;
pub use segment::Lane;
pub use sender::{Draft, FileWriter, Note, Queued, Target};
pub use throttle::{FLOOR_BYTES_PER_S, Throttle};

use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_state::Event;
use hydfs_store::{Bases, Disk, Journal, LogOptions, blocking};
use hydfs_types::{
    DataRequest, DataResponse, Frame, Incarnation, Ino, Refusal, SegmentId, SegmentVersion,
    Service, WriterId,
};
use merge::SlotLeader;
use repair::Repair;
use scrub::Scrub;
use source::Source;
use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

/// Longest that a member may take to send what it has answered early.
const RECALL: Duration = Duration::from_secs(16);
/// How often a slot leader looks for segments that have too much pending.
const OVERDUE_EVERY: Duration = Duration::from_millis(100);

/// One member's data plane.
pub struct Data {
    pub ctx: Arc<Context>,
    pub replica: Arc<Replica>,
    pub reader: Reader,
    leader: Arc<SlotLeader>,
    repair: Arc<Repair>,
    source: Source,
    behind: OnceLock<Weak<dyn WriteBehind>>,
    lost: bool,
}

impl Data {
    /// Why the disk here cannot be relied on any more, if so. What was answered is on it or in memory; nothing new is taken.
    /// Whoever ends the member because of it calls [`Folder::doubt`](hydfs_store::Folder::doubt) first.
    pub fn failure(&self) -> Option<DiskFailure> {
        let base = self.replica.bases.failure().map(DiskFailure::Base);
        base.or_else(|| {
            self.replica
                .journal
                .log()
                .failure()
                .map(DiskFailure::Journal)
        })
    }

    /// Opens the local replica: replays its journal. Where the past says that something may be lost, bases are written again
    /// from it. Call [`Data::start`] once the agreed state is loaded.
    pub fn open(
        ctx: Arc<Context>,
        disk: Arc<dyn Disk>,
        options: LogOptions,
        past: Past,
    ) -> Result<Arc<Self>, DataError> {
        let room = room::Room::new(disk.clone(), options.file_bytes);
        let bases = Bases::open(disk.clone(), "base", options.sync)?;
        let (journal, entries) = blocking(|| Journal::load(disk, "journal", options))?;
        let lost = past.is_lost(journal.log().tail());
        let redo = past.rebooted || lost;
        if redo {
            bases.after_power_loss();
        }
        let replica = Arc::new(Replica::new(
            ctx.clone(),
            journal,
            bases,
            room,
            replica::Index::default(),
        ));
        blocking(|| replica.recover(entries, redo))?;
        replica.bases.redone();
        match blocking(|| replica.sweep()) {
            Ok(0) => {}
            Ok(bases) => tracing::info!(bases, "removed what the member before had left"),
            Err(error) => {
                tracing::warn!(%error, "what the member before had left could not be removed")
            }
        }
        let leader = SlotLeader::start(replica.clone());
        let repair = Arc::new(Repair::new(ctx.clone(), replica.clone()));
        let source = Source::new(ctx.clone(), replica.clone(), leader.clone());
        let reader = Reader::new(ctx.clone(), replica.clone(), leader.clone());
        Ok(Arc::new(Self {
            ctx,
            replica,
            reader,
            leader,
            repair,
            source,
            behind: OnceLock::new(),
            lost,
        }))
    }

    /// Whether the end of the journal may be gone though the machine was up: nobody may count on this replica as on one that was
    /// killed. Whoever opened it calls [`Folder::lose`](hydfs_store::Folder::lose) before anything is journaled.
    pub fn has_lost(&self) -> bool {
        self.lost
    }

    /// Starts the tasks that follow the agreed state, the scrub at this pace (0: only what reads suspect), and repair, no
    /// faster than this (0: no limit). They end with the runtime.
    pub fn start(self: &Arc<Self>, scrub_bytes_per_s: u64, repair_bytes_per_s: u64) {
        self.ctx.throttle.set_cap(repair_bytes_per_s);
        let index = self.ctx.state().index;
        self.ctx.note(index, &[Event::Replaced]);
        self.replica.adopt_state();
        self.replica.suspect_doubted();
        tokio::spawn(self.replica.clone().follow());
        tokio::spawn(self.replica.clone().checkpoint_when_long());
        tokio::spawn(self.replica.clone().watch_room());
        tokio::spawn(self.repair.clone().run());
        tokio::spawn(Scrub::new(self.ctx.clone(), self.replica.clone(), scrub_bytes_per_s).run());
        tokio::spawn(self.clone().merge_overdue());
    }

    /// Takes note of what a command changed; never waits.
    pub fn on_events(&self, events: &[Event]) {
        self.replica.on_events(events);
        if events
            .iter()
            .any(|event| matches!(event, Event::Slots(_) | Event::Replaced | Event::Members))
        {
            self.repair.rung.notify_one();
            self.ctx.configs.notify_waiters();
        }
        if events
            .iter()
            .any(|event| matches!(event, Event::Replaced | Event::Members))
        {
            self.ctx.members.notify_waiters();
        }
    }

    /// Who answers writes early here. Once.
    pub fn set_write_behind(&self, behind: Weak<dyn WriteBehind>) {
        drop(self.behind.set(behind));
    }

    /// Has a member send what these writers of a file have answered early; they answer nothing early any more.
    pub async fn recall(
        &self,
        member: Incarnation,
        ino: Ino,
        writers: Vec<WriterId>,
    ) -> Result<(), DataError> {
        let request = DataRequest::Recall { ino, writers };
        let call = self.ctx.call(member, &request, Bytes::new(), RECALL);
        round::expect(call.await?.0, |answer| {
            matches!(answer, DataResponse::Recalled).then_some(())
        })
    }

    /// Where nobody answers early there is nothing to recall.
    async fn recalled(&self, ino: Ino, writers: Vec<WriterId>) -> Result<(), Refusal> {
        let Some(behind) = self.behind.get().and_then(Weak::upgrade) else {
            return Ok(());
        };
        let recalled = behind.recall(ino, writers).await;
        recalled.map_err(|error| Refusal::NotSent(error.to_string()))
    }

    /// A writer of a file on this member.
    pub fn writer(&self, ino: Ino, writer: WriterId) -> FileWriter {
        FileWriter::new(self.ctx.clone(), self.replica.clone(), ino, writer)
    }

    /// Everything acknowledged in these segments is on disk on every acting replica.
    pub async fn sync_segments(&self, segments: &[SegmentId]) -> Result<(), DataError> {
        let syncs = segments
            .iter()
            .map(|segment| round::sync_segment(&self.ctx, &self.replica, *segment));
        join_all(syncs).await.into_iter().collect()
    }

    /// What a replica has pending of these segments: (segment, records, bytes).
    pub async fn pending_at(
        &self,
        replica: Incarnation,
        segments: Vec<SegmentId>,
    ) -> Result<Vec<(SegmentId, u64, u64)>, DataError> {
        match self.ask(replica, DataRequest::Pending { segments }).await? {
            DataResponse::Pending(pending) => Ok(pending),
            other => Err(DataError::Malformed(format!(
                "not an answer to a look at pending: {other:?}"
            ))),
        }
    }

    /// What a member has on its disk, by its own answer: (segment, version, bytes).
    pub async fn holdings_of(
        &self,
        member: Incarnation,
    ) -> Result<Vec<(SegmentId, SegmentVersion, u64)>, DataError> {
        match self.ask(member, DataRequest::Holdings).await? {
            DataResponse::Holdings(held) => Ok(held),
            other => Err(DataError::Malformed(format!(
                "not a list of holdings: {other:?}"
            ))),
        }
    }

    async fn ask(
        &self,
        member: Incarnation,
        request: DataRequest,
    ) -> Result<DataResponse, DataError> {
        if member == self.ctx.me() {
            return Ok(self.replica.serve(request, Bytes::new()).await?.0);
        }
        Ok(self
            .ctx
            .call(member, &request, Bytes::new(), context::ROUND)
            .await?
            .0)
    }

    /// Answers a frame of the data service.
    pub async fn serve(&self, frame: Frame) -> Frame {
        let answer = match frame.message::<DataRequest>() {
            Ok(request) => self.answer(request, frame.body).await,
            Err(error) => Err(Refusal::Malformed(error.to_string())),
        };
        let (response, body) =
            answer.unwrap_or_else(|refusal| (DataResponse::Refused(refusal), Bytes::new()));
        Frame::new(Service::Data, &response, body)
    }

    async fn answer(
        &self,
        request: DataRequest,
        body: Bytes,
    ) -> Result<(DataResponse, Bytes), Refusal> {
        let response = match request {
            DataRequest::Look(look) => DataResponse::Looked(self.leader.look(look).await?),
            DataRequest::Peek(look) => DataResponse::Peeked(self.leader.peek(look).await?),
            DataRequest::Cutoff(cutoff) => DataResponse::CutOff(self.leader.cutoff(cutoff).await?),
            DataRequest::PullSlots(pull) => DataResponse::Pulled(self.source.pulled(pull).await?),
            DataRequest::Promote { map, from, slots } => {
                DataResponse::Promoted(self.source.promote(map, from, slots).await?)
            }
            DataRequest::Recall { ino, writers } => {
                self.recalled(ino, writers).await?;
                DataResponse::Recalled
            }
            other => return self.replica.serve(other, body).await,
        };
        Ok((response, Bytes::new()))
    }

    /// Merges without a reader what has grown too long (bounded journals and memory).
    async fn merge_overdue(self: Arc<Self>) {
        loop {
            tokio::time::sleep(OVERDUE_EVERY).await;
            for (slot, segment) in self.leader.overdue() {
                if let Err(error) = self
                    .leader
                    .merge(slot, segment, hydfs_types::Then::Nothing, None)
                    .await
                {
                    tracing::info!(%segment, %error, "a long segment could not be merged yet");
                }
            }
        }
    }
}

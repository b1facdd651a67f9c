//! The slot leader (R6, R7, R8): lists what is pending, has every synced replica prepare it, makes it final.
//!
//! Who may crash, and what then: before the command commits nothing has changed (prepared lists are void
//! unless their digest is agreed); after it every synced replica holds list and records durably and redoes it.
//! The slot leader alone needs the fence of a roll or cutoff: an acknowledgement needs its own answer too.
//!
//! Cost: nothing pending: no message. Else one parallel round (with one group-committed fsync each) and one command,
//! which merges of other segments share.

use crate::{
    context::Context,
    counters::Counters,
    include::Promoting,
    replica::{Replica, finish},
    segment::{LocalSegment, after, runs, through},
};
use bytes::Bytes;
use futures_util::future::join_all;
use hydfs_state::{Segment, State, WriterPhase};
use hydfs_types::{
    AgreementError, BoxFuture, Command, Cutoff, DataRequest, DataResponse, Look, Looked,
    MapVersion, MergeItem, MergeOutcome, Op, Peeked, Planted, Prepare, RecordHead, Refusal, Reply,
    SegmentCut, SegmentId, SegmentVersion, SlotConfig, SlotEpoch, SlotId, Then,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

/// Merges that may wait for one command.
const BATCH_MAX: usize = 256;
/// Deadline of one prepare round.
const PREPARE: Duration = Duration::from_millis(2500);
/// How long a look may take, waiting for its turn, and then for a dead replica to be expired.
const MERGE: Duration = Duration::from_secs(15);
/// Pause before another try.
const AGAIN: Duration = Duration::from_millis(30);

type Wish = (MergeItem, oneshot::Sender<Option<MergeOutcome>>);

/// This member as leader of slots.
pub struct SlotLeader {
    pub replica: Arc<Replica>,
    pub(crate) ctx: Arc<Context>,
    pub(crate) turns: Mutex<BTreeMap<SegmentId, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) promoting: Mutex<Promoting>,
    wishes: mpsc::Sender<Wish>,
}

/// Somebody's turn to merge a segment. With it goes the fence.
struct Turn {
    leader: Arc<SlotLeader>,
    segment: SegmentId,
    /// A cut was proposed, and nobody knows yet what became of it.
    in_doubt: AtomicBool,
    /// Why the last try came to nothing.
    why: Mutex<String>,
    _held: OwnedMutexGuard<()>,
}

impl Turn {
    fn why(&self) -> MutexGuard<'_, String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries until the cut is made, or cannot be. Once it was listed it is cut at that slot epoch or not at all: at another
    /// one the fence was no fence, and whoever wanted it may have done it since.
    async fn tries(
        self: Arc<Self>,
        slot: SlotId,
        then: Then,
        mut base: Option<SegmentVersion>,
    ) -> Result<Looked, Refusal> {
        let (leader, segment) = (&self.leader, self.segment);
        let epoch_now = || leader.ctx.state().config(slot).map(|config| config.epoch);
        let epoch = epoch_now();
        // It was listed, so it may come through whatever is answered; until the fence is lifted nothing is acknowledged.
        let mut listed = false;
        loop {
            if listed && then != Then::Nothing && epoch_now() != epoch {
                let why = "it was not cut before its slot was configured anew";
                return Err(Refusal::NoMerge(why.into()));
            }
            let tried = leader.try_merge(slot, segment, then, base, &self.in_doubt);
            match tried.await {
                Ok(looked) => return Ok(looked),
                Err(Refusal::NoMerge(reason)) => *self.why() = reason,
                Err(other) if listed => return Err(Refusal::NoMerge(other.to_string())),
                Err(other) => return Err(other),
            }
            if leader.wishes.is_closed() {
                return Err(Refusal::NoMerge("stopping".into()));
            }
            if leader.is_fenced(segment) {
                (base, listed) = (None, true);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The tries of somebody who may stop waiting for them. What is in doubt then goes on by itself: until it is known whether
/// it came through nobody else merges, and nothing that it lacks is acknowledged.
struct Tries {
    turn: Arc<Turn>,
    ahead: Option<BoxFuture<'static, Result<Looked, Refusal>>>,
}

impl Tries {
    async fn within(&mut self, limit: Duration) -> Result<Looked, Refusal> {
        let ended = || Refusal::NoMerge("it has ended".into());
        let ahead = self.ahead.as_mut().ok_or_else(ended)?;
        match tokio::time::timeout(limit, ahead).await {
            Ok(done) => {
                self.ahead = None;
                done
            }
            Err(_) => Err(Refusal::NoMerge(self.turn.why().clone())),
        }
    }
}

impl Drop for Tries {
    fn drop(&mut self) {
        let in_doubt = self.turn.in_doubt.load(Relaxed);
        if let Some(ahead) = self.ahead.take().filter(|_| in_doubt)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(ahead));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(local) = self.leader.replica.index().segments.get_mut(&self.segment) {
            local.fenced = false;
        }
    }
}

/// A cut that was listed and not yet prepared.
struct Listed {
    prepare: Prepare,
    item: MergeItem,
}

impl SlotLeader {
    /// The leader part and the task that groups its merges into commands.
    pub fn start(replica: Arc<Replica>) -> Arc<Self> {
        let (wishes, queue) = mpsc::channel(1024);
        let ctx = replica.ctx.clone();
        tokio::spawn(propose_merges(ctx.clone(), queue));
        Arc::new(Self {
            replica,
            ctx,
            turns: Mutex::default(),
            promoting: Mutex::default(),
            wishes,
        })
    }

    /// R7: makes everything acknowledged so far readable and says up to where.
    pub async fn look(self: &Arc<Self>, look: Look) -> Result<Vec<Looked>, Refusal> {
        self.lead(look.slot, look.epoch, look.map).await?;
        join_all(
            look.segments
                .iter()
                .map(|segment| self.merge(look.slot, *segment, Then::Nothing, None)),
        )
        .await
        .into_iter()
        .collect()
    }

    /// How long segments are with everything that a look would merge now; it stays pending.
    pub async fn peek(&self, look: Look) -> Result<Vec<Peeked>, Refusal> {
        self.lead(look.slot, look.epoch, look.map).await?;
        let state = self.ctx.state();
        let index = self.replica.index();
        let peek = |id: &SegmentId| {
            let target = state.segment(*id).ok_or(Refusal::Retired(*id))?;
            let local = index.segments.get(id).into_iter();
            let pending = local
                .flat_map(LocalSegment::pending)
                .map(|pending| &pending.head)
                .filter(|head| eligible(&state, target, head));
            let (mut len, mut time) = (target.fenced.is_empty().then_some(target.len), None);
            for head in pending {
                len = len
                    .filter(|_| head.op == Op::Append)
                    .map(|len| after(len, head));
                let moves = state
                    .writer(head.writer)
                    .is_some_and(|writer| head.seq > writer.timed);
                time = time.max(moves.then_some(head.time));
            }
            Ok(Peeked {
                segment: *id,
                version: target.version,
                len,
                time,
                index: state.index.0,
            })
        };
        look.segments.iter().map(peek).collect()
    }

    /// R8: merges under the fence, then cuts or retires.
    pub async fn cutoff(self: &Arc<Self>, cutoff: Cutoff) -> Result<Looked, Refusal> {
        self.lead(cutoff.slot, cutoff.epoch, cutoff.map).await?;
        self.merge(cutoff.slot, cutoff.segment, cutoff.then, Some(cutoff.base))
            .await
    }

    async fn lead(
        &self,
        slot: SlotId,
        epoch: SlotEpoch,
        map: MapVersion,
    ) -> Result<SlotConfig, Refusal> {
        let config = self.ctx.gate(slot, epoch, map).await?;
        if config.leader != self.ctx.me() || config.frozen {
            return Err(Refusal::NotLeader);
        }
        Ok(config)
    }

    fn turn(&self, segment: SegmentId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self
            .turns
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if turns.len() > 4096 {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(segment).or_default().clone()
    }

    /// One merge at a time per segment. Whoever waits here lists again after its turn came: it never joins a merge that has begun.
    /// With `base` the first list is of that version, or nothing is done.
    pub async fn merge(
        self: &Arc<Self>,
        slot: SlotId,
        segment: SegmentId,
        then: Then,
        base: Option<SegmentVersion>,
    ) -> Result<Looked, Refusal> {
        let turn = self.turn(segment);
        let shared = self.ctx.has(Planted::MergeShared) && turn.try_lock().is_err();
        let waited = tokio::time::timeout(MERGE, turn.lock_owned()).await;
        let held = waited.map_err(|_| Refusal::NoMerge("another merge is not decided".into()))?;
        if shared && then == Then::Nothing {
            return self.as_it_is(segment);
        }
        let turn = Arc::new(Turn {
            leader: self.clone(),
            segment,
            in_doubt: AtomicBool::new(false),
            why: Mutex::new("too slow".into()),
            _held: held,
        });
        let mut tries = Tries {
            ahead: Some(Box::pin(turn.clone().tries(slot, then, base))),
            turn,
        };
        tries.within(MERGE).await
    }

    fn is_fenced(&self, segment: SegmentId) -> bool {
        let index = self.replica.index();
        index
            .segments
            .get(&segment)
            .is_some_and(|local| local.fenced)
    }

    /// What is agreed on the segment now.
    fn as_it_is(&self, segment: SegmentId) -> Result<Looked, Refusal> {
        let state = self.ctx.state();
        let known = state.segment(segment).ok_or(Refusal::Retired(segment))?;
        Ok(Looked {
            segment,
            version: known.version,
            len: known.len,
            index: state.index.0,
        })
    }

    async fn try_merge(
        &self,
        slot: SlotId,
        segment: SegmentId,
        then: Then,
        base: Option<SegmentVersion>,
        in_doubt: &AtomicBool,
    ) -> Result<Looked, Refusal> {
        let config = self
            .ctx
            .state()
            .config(slot)
            .cloned()
            .ok_or(Refusal::NotLeader)?;
        if config.leader != self.ctx.me() || config.frozen {
            return Err(Refusal::NotLeader);
        }
        let target = self
            .ctx
            .state()
            .segment(segment)
            .cloned()
            .ok_or(Refusal::Retired(segment))?;
        if target.version.0 > 0 || self.replica.version(segment) > target.version {
            self.replica.wait_version(segment, target.version).await?;
        }
        let Some(listed) = self.list(slot, &config, segment, then, base)? else {
            Counters::add(&self.ctx.counters.merges_idle, 1);
            let index = self.ctx.state().index.0;
            return Ok(Looked {
                segment,
                version: target.version,
                len: target.len,
                index,
            });
        };
        self.prepare_everywhere(&config, &listed.prepare).await?;
        Counters::add(&self.ctx.counters.merges, 1);
        let (done, outcome) = oneshot::channel();
        in_doubt.store(true, Relaxed);
        self.wishes
            .send((listed.item, done))
            .await
            .map_err(|_| Refusal::NoMerge("stopping".into()))?;
        let outcome = outcome.await.ok().flatten();
        // Whatever was proposed before is of this version, too, and is decided with it.
        in_doubt.store(outcome.is_none(), Relaxed);
        match outcome {
            Some(MergeOutcome::Merged(version)) => {
                self.replica.ring_behind(segment);
                Ok(Looked {
                    segment,
                    version,
                    len: listed.prepare.len,
                    index: self.ctx.state().index.0,
                })
            }
            Some(MergeOutcome::Refused) => Err(Refusal::NoMerge("the state had moved on".into())),
            None => Err(Refusal::NoMerge("no majority".into())),
        }
    }

    /// Lists everything eligible (R6 a). `None`: nothing to do. No await in here: list and fence are one step.
    fn list(
        &self,
        slot: SlotId,
        config: &SlotConfig,
        segment: SegmentId,
        then: Then,
        base: Option<SegmentVersion>,
    ) -> Result<Option<Listed>, Refusal> {
        let state = self.ctx.state();
        // Whoever waited for its base may not lead any more. Its copy may have gone since, and what is acknowledged elsewhere
        // is not here: that nothing is pending would say nothing.
        if state.config(slot).map(|now| now.epoch) != Some(config.epoch) {
            return Err(Refusal::NoMerge("the slot was configured anew".into()));
        }
        let target = state.segment(segment).ok_or(Refusal::Retired(segment))?;
        if base.is_some_and(|base| base != target.version) {
            return Err(Refusal::Moved(target.version));
        }
        let mut index = self.replica.index();
        let local = index
            .segments
            .entry(segment)
            .or_insert_with(|| LocalSegment::new(slot));
        if local.version != target.version || local.digest != target.digest {
            return Err(Refusal::NoMerge("the base here is behind".into()));
        }
        let list: Vec<RecordHead> = local
            .pending()
            .map(|pending| &pending.head)
            .filter(|head| eligible(&state, target, head))
            .cloned()
            .collect();
        let (digest, len) = local.outcome(list.iter());
        // From here on nothing is acknowledged that this list has not: it can be told whether there is anything to grow.
        let then = match then {
            Then::Grow(wanted) if len >= wanted => Then::Nothing,
            other => other,
        };
        if list.is_empty()
            && target.ended.is_empty()
            && target.fenced.is_empty()
            && then == Then::Nothing
        {
            return Ok(None);
        }
        let then = match then {
            Then::Nothing if self.rolls(&state, target, local, &list, len) => Then::Full,
            other => other,
        };
        local.fenced = then != Then::Nothing && !self.ctx.has(Planted::RolledUnfenced);
        let runs = runs(list.iter());
        let mut through = through(&runs);
        for (writer, last) in &target.ended {
            let seq = through.entry(*writer).or_insert(*last);
            *seq = (*seq).max(*last);
        }
        let (digest, len) = finish((digest, len), then);
        let map = MapVersion(state.index.0);
        let prepare = Prepare {
            slot,
            epoch: config.epoch,
            map,
            from: self.ctx.me(),
            segment,
            base: target.version,
            base_digest: target.digest,
            runs,
            digest,
            len,
            then,
        };
        let item = MergeItem {
            segment,
            slot_epoch: config.epoch,
            map,
            through: through.into_iter().collect(),
            time: list.iter().map(|head| head.time).max().unwrap_or_default(),
            cut: SegmentCut {
                base: target.version,
                digest,
                len,
            },
            then,
        };
        Ok(Some(Listed { prepare, item }))
    }

    /// Whether this cut ends the segment: it is over its size by appends, it is the file's last, and nothing acknowledged
    /// waits here for a watermark (R8).
    fn rolls(
        &self,
        state: &State,
        target: &Segment,
        local: &LocalSegment,
        list: &[RecordHead],
        len: u64,
    ) -> bool {
        if target.is_full()
            || len < self.ctx.segment_bytes()
            || !list.iter().any(|head| head.op == Op::Append)
        {
            return false;
        }
        let last = state
            .file(target.ino)
            .is_ok_and(|(_, file)| file.segments.keys().next_back() == Some(&target.start));
        let waiting = local.pending().any(|pending| {
            state.writer(pending.head.writer).is_some_and(|writer| {
                writer
                    .job
                    .is_some_and(|job| pending.head.seq > job.watermark)
            })
        });
        last && (!waiting || self.ctx.has(Planted::RolledAboveWatermark))
    }

    /// R6 b: every synced replica, and every learner that is being promoted, holds the cut durably.
    async fn prepare_everywhere(
        &self,
        config: &SlotConfig,
        prepare: &Prepare,
    ) -> Result<(), Refusal> {
        let learners = self.promoting(config, prepare.slot);
        let me = self.ctx.me();
        let rounds = config
            .acting
            .iter()
            .filter(|acting| acting.synced || learners.contains(&acting.incarnation))
            .filter(|acting| acting.incarnation == me || !self.ctx.has(Planted::ProposedUnprepared))
            .map(|acting| async move {
                if acting.incarnation == me {
                    return self
                        .replica
                        .prepare(prepare.clone())
                        .await
                        .map_err(|refusal| Refusal::NoMerge(refusal.to_string()));
                }
                match self
                    .ctx
                    .call(
                        acting.incarnation,
                        &DataRequest::Prepare(prepare.clone()),
                        Bytes::new(),
                        PREPARE,
                    )
                    .await
                {
                    Ok((DataResponse::Prepared, _)) => Ok(()),
                    Ok((DataResponse::Refused(why), _)) => Err(Refusal::NoMerge(format!(
                        "{} refused: {why}",
                        acting.incarnation
                    ))),
                    Ok(_) => Err(Refusal::NoMerge("not an answer to a prepare".into())),
                    Err(error) => Err(Refusal::NoMerge(error.to_string())),
                }
            });
        join_all(rounds).await.into_iter().collect()
    }
}

/// Whether a pending record belongs into a cut now (R6 a).
fn eligible(state: &State, target: &Segment, head: &RecordHead) -> bool {
    let Some(writer) = state.writer(head.writer) else {
        return false;
    };
    if head.op == Op::Append && !target.takes_appends_of(head.writer)
        || target
            .through
            .get(&head.writer)
            .is_some_and(|through| head.seq <= *through)
    {
        return false;
    }
    let committed = writer.job.is_none_or(|job| head.seq <= job.watermark);
    let in_time = match writer.phase {
        WriterPhase::Open => true,
        WriterPhase::Closed { last } => head.seq <= last,
        // Its end was fixed here by an earlier merge unless the segment still lists it.
        WriterPhase::Fenced { .. } => target.fenced.contains(&head.writer),
    };
    committed && in_time
}

/// Groups merges into commands: while one is under way the next gathers.
async fn propose_merges(ctx: Arc<Context>, mut queue: mpsc::Receiver<Wish>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (items, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let outcome = match ctx
            .agreement
            .propose(Command::Merge {
                incarnation: ctx.me(),
                items,
            })
            .await
        {
            Ok(Reply::Merged(outcomes)) => outcomes.into_iter().map(Some).collect(),
            Ok(_) => Vec::new(),
            Err(error @ AgreementError::Stopped(_)) => {
                tracing::debug!(%error, "nothing is merged here any more");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "a merge command did not come through");
                Vec::new()
            }
        };
        for (at, answer) in answers.into_iter().enumerate() {
            if answer.send(outcome.get(at).copied().flatten()).is_err() {
                tracing::debug!("whoever wanted this merge has given up waiting");
            }
        }
    }
}

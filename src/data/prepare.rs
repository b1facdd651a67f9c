//! A replica's part in a cut (R6 b): it holds every record of it and the list, durably, and lets others fetch what they lack.

use crate::{
    error::DataError,
    replica::{FETCH_BYTES_MAX, Replica, finish, refusal},
    segment::LocalSegment,
};
use bytes::{Bytes, BytesMut};
use hydfs_store::JournalEntry;
use hydfs_types::{
    DataRequest, DataResponse, Incarnation, Planted, Prepare, Record, RecordHead, Refusal, Run,
    SegmentId,
};

impl Replica {
    /// Prepares a cut: holds every record of it and the list, durably (R6 b). A learner keeps the list for when its base arrives.
    pub async fn prepare(&self, prepare: Prepare) -> Result<(), Refusal> {
        let config = self
            .ctx
            .gate(prepare.slot, prepare.epoch, prepare.map)
            .await?;
        if config.leader != prepare.from {
            return Err(Refusal::NotLeader);
        }
        let synced = config.role(self.ctx.me()).ok_or(Refusal::NotActing)?;
        if synced {
            self.wait_version(prepare.segment, prepare.base).await?;
        }
        if !self.holds(&prepare) {
            self.fetch_from(&prepare).await?;
            if synced && !self.holds(&prepare) {
                return Err(Refusal::Damaged(format!(
                    "the cut of {} cannot be rebuilt here",
                    prepare.segment
                )));
            }
        }
        self.ctx.check(prepare.slot, prepare.epoch)?;
        self.promise(prepare.slot, prepare.epoch, &config)?;
        self.journal
            .append(&JournalEntry::Prepared(prepare.clone()))
            .map_err(refusal)?;
        let (slot, segment) = (prepare.slot, prepare.segment);
        self.index()
            .segments
            .entry(segment)
            .or_insert_with(|| LocalSegment::new(slot))
            .prepared
            .push(prepare);
        if self.ctx.has(Planted::PreparedUnsynced) {
            return Ok(());
        }
        self.journal.sync().await.map_err(refusal)
    }

    /// Whether the records here give exactly the prepared outcome.
    fn holds(&self, prepare: &Prepare) -> bool {
        let index = self.index();
        let Some(local) = index.segments.get(&prepare.segment) else {
            return prepare.runs.is_empty();
        };
        if local.version != prepare.base || local.digest != prepare.base_digest {
            return false;
        }
        let outcome = local.outcome(local.in_runs(&prepare.runs).map(|pending| &pending.head));
        finish(outcome, prepare.then) == (prepare.digest, prepare.len)
    }

    /// Fetches the records of a cut that are missing here from the slot leader. A learner has most of them already, and its
    /// base, which would tell, is on its way.
    async fn fetch_from(&self, prepare: &Prepare) -> Result<(), Refusal> {
        if prepare.from == self.ctx.me() {
            return Err(Refusal::Damaged("the slot leader lost its own list".into()));
        }
        let missing = match self.index().segments.get(&prepare.segment) {
            Some(local) => local.missing(&prepare.runs),
            None => prepare.runs.clone(),
        };
        for record in self
            .fetch_all(prepare.from, prepare.segment, missing)
            .await
            .map_err(|error| Refusal::NoMerge(error.to_string()))?
        {
            let at = self
                .journal
                .append_record(&record.head, &record.payload)
                .map_err(refusal)?;
            let mut index = self.index();
            let local = index
                .segments
                .entry(prepare.segment)
                .or_insert_with(|| LocalSegment::new(prepare.slot));
            local.insert(record.head, at);
        }
        Ok(())
    }

    /// All records of these runs that `from` holds, in as many rounds as their bytes need.
    pub async fn fetch_all(
        &self,
        from: Incarnation,
        segment: SegmentId,
        mut runs: Vec<Run>,
    ) -> Result<Vec<Record>, DataError> {
        let mut records = Vec::new();
        while !runs.is_empty() {
            let request = DataRequest::Fetch {
                segment,
                runs: runs.clone(),
            };
            let (answer, mut body) = self
                .ctx
                .call(from, &request, Bytes::new(), crate::context::ROUND)
                .await?;
            let DataResponse::Fetched(fetched) = answer else {
                return Err(DataError::Malformed("not a fetch answer".into()));
            };
            if fetched.is_empty() {
                break;
            }
            for one in fetched {
                let len = one.head.len as usize;
                if len > body.len() {
                    return Err(DataError::Malformed("fetched payload is short".into()));
                }
                let record = Record {
                    head: one.head,
                    payload: body.split_to(len),
                };
                if !record.intact() {
                    return Err(DataError::Malformed(
                        "fetched payload does not match its checksum".into(),
                    ));
                }
                skip(&mut runs, &record.head);
                records.push(record);
            }
        }
        Ok(records)
    }

    pub(crate) fn fetch(
        &self,
        segment: SegmentId,
        runs: &[Run],
    ) -> Result<(DataResponse, Bytes), Refusal> {
        let wanted: Vec<_> = {
            let index = self.index();
            let Some(local) = index.segments.get(&segment) else {
                return Ok((DataResponse::Fetched(Vec::new()), Bytes::new()));
            };
            let mut bytes = 0;
            local
                .in_runs(runs)
                .take_while(|pending| {
                    let first = bytes == 0;
                    bytes += pending.head.len as usize + 1;
                    first || bytes <= FETCH_BYTES_MAX
                })
                .cloned()
                .collect()
        };
        let mut body = BytesMut::new();
        let mut heads = Vec::with_capacity(wanted.len());
        for pending in wanted {
            body.extend_from_slice(
                &self
                    .journal
                    .read_payload(pending.at, pending.head.len as usize)
                    .map_err(refusal)?,
            );
            heads.push(hydfs_types::FetchedRecord { head: pending.head });
        }
        Ok((DataResponse::Fetched(heads), body.freeze()))
    }
}

/// Takes what `head` answers off the front of `runs`.
fn skip(runs: &mut Vec<Run>, head: &RecordHead) {
    if let Some(at) = runs
        .iter()
        .position(|run| run.writer == head.writer && run.first <= head.seq && head.seq <= run.last)
    {
        runs.drain(..at);
        if head.seq >= runs[0].last {
            runs.remove(0);
        } else {
            runs[0].first = head.seq.next();
        }
    }
}

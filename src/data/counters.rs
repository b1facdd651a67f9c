//! Counts of what the data plane costs. Tests assert them; `.cluster/metrics` shows them.

use hydfs_types::DataRequest;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($field:ident, $name:literal, $help:literal;)*) => {
        /// Counters of one member.
        #[derive(Debug, Default)]
        pub struct Counters { $(pub $field: AtomicU64,)* }
        impl Counters {
            /// (name, help, value) of each.
            pub fn read(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($name, $help, self.$field.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    append_rounds, "hydfs_data_append_calls_total", "append requests sent to replicas";
    sync_rounds, "hydfs_data_sync_calls_total", "sync requests sent to replicas";
    prepare_rounds, "hydfs_data_prepare_calls_total", "prepare requests sent to replicas";
    look_rounds, "hydfs_data_look_calls_total", "looks sent to slot leaders";
    recall_rounds, "hydfs_data_recall_calls_total", "members asked for what they have answered early";
    behind, "hydfs_data_writes_behind_total", "writes answered here before replicas had them";
    gathered, "hydfs_data_writes_gathered_total", "writes answered early that became part of another's record";
    read_rounds, "hydfs_data_read_calls_total", "reads sent to replicas";
    repair_rounds, "hydfs_data_repair_calls_total", "pulls and fetches sent to replicas";
    records, "hydfs_data_records_total", "records journaled here";
    record_bytes, "hydfs_data_record_bytes_total", "payload bytes journaled here";
    merges, "hydfs_data_merges_total", "merge items proposed here as slot leader";
    merges_idle, "hydfs_data_looks_idle_total", "looks answered without agreement: nothing was pending";
    cuts, "hydfs_data_cuts_applied_total", "cuts applied to bases here";
    cut_bytes, "hydfs_data_cut_bytes_total", "payload bytes moved into bases here";
    mismatches, "hydfs_data_mismatches_total", "records refused because their checksum was another";
    repaired_bytes, "hydfs_data_repaired_bytes_total", "bytes pulled as a learner";
    repair_served_bytes, "hydfs_data_repair_served_bytes_total", "bytes of bases served to learners";
    repaired_segments, "hydfs_data_repaired_segments_total", "segments pulled as a learner";
    local_reads, "hydfs_data_local_reads_total", "reads answered from a local base";
    damaged_reads, "hydfs_data_damaged_reads_total", "reads that met a bad checksum here and went to another replica";
    scrub_rounds, "hydfs_scrub_calls_total", "requests for checksums sent to replicas";
    scrubbed_bytes, "hydfs_scrub_bytes_total", "bytes of bases read against their checksums";
    scrub_passes, "hydfs_scrub_passes_total", "times that all bases here were checked and compared";
    damaged_blocks, "hydfs_scrub_damaged_blocks_total", "blocks of bases found damaged here";
    healed_blocks, "hydfs_scrub_healed_blocks_total", "damaged blocks replaced from a good copy";
    healed_bytes, "hydfs_scrub_healed_bytes_total", "bytes replaced from a good copy";
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Counts a request on its way out.
    pub fn round(&self, request: &DataRequest) {
        let counter = match request {
            DataRequest::Append(_) => &self.append_rounds,
            DataRequest::Sync { .. } => &self.sync_rounds,
            DataRequest::Prepare(_) => &self.prepare_rounds,
            DataRequest::Look(_) | DataRequest::Cutoff(_) | DataRequest::Peek(_) => {
                &self.look_rounds
            }
            DataRequest::Recall { .. } => &self.recall_rounds,
            DataRequest::ReadBase(_) => &self.read_rounds,
            DataRequest::PullBase(_)
            | DataRequest::Fetch { .. }
            | DataRequest::PullSlots(_)
            | DataRequest::Promote { .. }
            | DataRequest::Pending { .. }
            | DataRequest::Holdings => &self.repair_rounds,
            DataRequest::Sums(_) => &self.scrub_rounds,
        };
        Self::add(counter, 1);
    }
}

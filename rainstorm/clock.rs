//! The event watermark of one task that reads a source: behind the newest line of each of its files by as much as lines
//! may be out of order, and then the least of them.

use crate::batch::Batch;
use crate::csv;
use crate::event_time::EventMark;
use crate::plan::ClockPlan;
use std::collections::BTreeMap;

/// Event time of the files of one task, by their number or inode. Whether a file is silent is not its to know: who reads
/// the files sees what waits in them.
pub struct Clock {
    plan: ClockPlan,
    /// The newest time of each.
    files: BTreeMap<u64, i64>,
}

impl Clock {
    /// Nothing seen.
    pub fn new(plan: ClockPlan) -> Self {
        Self {
            plan,
            files: BTreeMap::new(),
        }
    }

    /// A file that lines may come from: it holds the mark back until it says something, or is silent for too long.
    pub fn expect(&mut self, file: u64) {
        self.files.entry(file).or_insert(i64::MIN);
    }

    /// Forgets files of which nothing more comes.
    pub fn keep(&mut self, stays: impl Fn(u64) -> bool) {
        self.files.retain(|file, _| stays(*file));
    }

    /// Lines of a file were read. Those without a time say nothing.
    pub fn see(&mut self, file: u64, batch: &Batch) {
        let mut newest = i64::MIN;
        for line in batch.lines() {
            let value = csv::field(line, self.plan.column).map(csv::value);
            let time = value.and_then(|value| self.plan.format.parse(&value));
            newest = newest.max(time.unwrap_or(i64::MIN));
        }
        let known = self.files.entry(file).or_insert(i64::MIN);
        *known = newest.max(*known);
    }

    /// The event watermark. Files that are silent hold nothing back.
    pub fn mark(&self, is_silent: impl Fn(u64) -> bool) -> EventMark {
        EventMark::of_all(self.files.iter().map(|(&file, newest)| {
            let at = newest.saturating_sub(self.plan.out_of_order_ms);
            match is_silent(file) {
                true => EventMark::Idle(at),
                false => EventMark::Live(at),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_time::TimeFormat;
    use bytes::Bytes;

    #[test]
    fn a_silent_file_does_not_hold_others_back() {
        let mut clock = Clock::new(ClockPlan {
            column: 0,
            format: TimeFormat::UnixMs,
            out_of_order_ms: 5,
            idle_ms: 1000,
        });
        let lines = |text: &'static str| Batch::from_lines(Bytes::from_static(text.as_bytes()));
        clock.expect(1);
        clock.see(2, &lines("7\nno time\n100\n50\n9223372036854775807"));
        assert_eq!(clock.mark(|_| false), EventMark::Live(i64::MIN));
        clock.see(2, &lines("60"));
        assert_eq!(clock.mark(|file| file == 1), EventMark::Live(95));
        clock.see(1, &lines("90"));
        assert_eq!(clock.mark(|_| false), EventMark::Live(85));
        clock.keep(|file| file != 1);
        assert_eq!(clock.mark(|_| true), EventMark::Idle(95));
    }
}

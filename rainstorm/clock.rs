//! The event watermark of one task that reads a source: behind the newest line of each of its files by as much as lines
//! may be out of order, and then the least of them.

use crate::batch::Batch;
use crate::csv;
use crate::event_time::EventMark;
use crate::plan::ClockPlan;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Event time of the files of one task, by their number or inode.
pub struct Clock {
    plan: ClockPlan,
    files: BTreeMap<u64, Newest>,
}

struct Newest {
    time: i64,
    heard: Instant,
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
        self.files.entry(file).or_insert_with(|| Newest {
            time: i64::MIN,
            heard: Instant::now(),
        });
    }

    /// Forgets files of which nothing more comes.
    pub fn keep(&mut self, stays: impl Fn(u64) -> bool) {
        self.files.retain(|file, _| stays(*file));
    }

    /// No file is silent: what they have to say is held back here.
    pub fn keep_awake(&mut self) {
        let now = Instant::now();
        self.files.values_mut().for_each(|file| file.heard = now);
    }

    /// Lines of a file were read. Those without a time say nothing.
    pub fn see(&mut self, file: u64, batch: &Batch) {
        let mut newest = i64::MIN;
        for line in batch.lines() {
            let value = csv::field(line, self.plan.column).map(csv::value);
            let time = value.and_then(|value| self.plan.format.parse(&value));
            newest = newest.max(time.unwrap_or(i64::MIN));
        }
        self.expect(file);
        if let Some(known) = self.files.get_mut(&file) {
            known.time = known.time.max(newest);
            known.heard = Instant::now();
        }
    }

    /// The event watermark. Where files are `followed`, those that are silent hold nothing back.
    pub fn mark(&self, followed: bool) -> EventMark {
        let idle = Duration::from_millis(self.plan.idle_ms);
        EventMark::of_all(self.files.values().map(|file| {
            let at = file.time.saturating_sub(self.plan.out_of_order_ms);
            match followed && file.heard.elapsed() >= idle {
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

    #[tokio::test(start_paused = true)]
    async fn a_silent_file_does_not_hold_others_back_for_ever() {
        let mut clock = Clock::new(ClockPlan {
            column: 0,
            format: TimeFormat::UnixMs,
            out_of_order_ms: 5,
            idle_ms: 1000,
        });
        let lines = |text: &'static str| Batch::from_lines(Bytes::from_static(text.as_bytes()));
        clock.expect(1);
        clock.see(2, &lines("7\nno time\n100\n50"));
        assert_eq!(clock.mark(true), EventMark::Live(i64::MIN));
        tokio::time::advance(Duration::from_millis(600)).await;
        clock.see(2, &lines("60"));
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(clock.mark(true), EventMark::Live(95));
        assert_eq!(clock.mark(false), EventMark::Live(i64::MIN));
        clock.see(1, &lines("90"));
        assert_eq!(clock.mark(true), EventMark::Live(85));
        clock.keep(|file| file != 1);
        tokio::time::advance(Duration::from_millis(1000)).await;
        assert_eq!(clock.mark(true), EventMark::Idle(95));
    }
}

//! Rates: how many lines a second are read of a source, by all tasks of a stage together. The coordinator shares a
//! rate out among the tasks; each keeps to its share, so the sum never exceeds the rate for longer than a share takes to arrive.

use crate::message::TaskId;
use crate::plan::{Input, NodeId, Plan};
use crate::position::Positions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Largest rate, in lines a second.
pub const RATE_MAX: u64 = 1_000_000_000;
/// Lines are let through in portions of about this length of time.
const PORTION: Duration = Duration::from_millis(20);
/// What tasks read is looked at so often: long enough that portions do not matter.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What was not used is kept for so long.
const SAVED: Duration = Duration::from_millis(50);
/// A task that uses less than this much of its share, in tenths, leaves the rest to others.
const HUNGRY_TENTHS: u64 = 7;

/// What `control` says about the rates of a job, above its spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateOrder {
    /// No limit.
    Off,
    /// Lines a second, of each source.
    Lines(u64),
}

/// The shares of tasks, in thousandths of a line a second. Tasks that are not named have no limit.
pub type Shares = BTreeMap<TaskId, u64>;

/// `N/s`.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.trim().strip_suffix("/s")?.trim_end();
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let rate: u64 = plain.then(|| digits.parse().ok())??;
    (1..=RATE_MAX).contains(&rate).then_some(rate)
}

/// The rate of a source whose spec says `spec`.
pub fn effective(spec: Option<u64>, order: Option<RateOrder>) -> Option<u64> {
    match order {
        None => spec,
        Some(RateOrder::Off) => None,
        Some(RateOrder::Lines(rate)) => Some(rate),
    }
}

/// Shares a rate out: equally among those that used all they had, less to those that did not. `used`: what each task
/// read lately and its share then, in thousandths of a line a second; `None` if it is not known.
pub fn share_out(rate: u64, used: &[Option<(u64, u64)>]) -> Vec<u64> {
    let all = rate.saturating_mul(1000);
    let count = used.len().max(1) as u64;
    // Who was silent may begin at any time, and is heard then.
    let least = (all / count / 8).max(1);
    let wants = |used: &Option<(u64, u64)>| match *used {
        Some((read, share)) if read < share / 10 * HUNGRY_TENTHS => {
            Some((2 * read).max(least).min(all / count))
        }
        _ => None,
    };
    let modest: Vec<Option<u64>> = used.iter().map(wants).collect();
    let hungry = modest.iter().filter(|want| want.is_none()).count() as u64;
    if hungry == 0 {
        return vec![(all / count).max(1); used.len()];
    }
    let taken: u64 = modest.iter().flatten().sum();
    let each = (all.saturating_sub(taken) / hungry).max(1);
    modest
        .into_iter()
        .map(|want| want.unwrap_or(each))
        .collect()
}

/// Nodes whose tasks read a source with a rate, each with the rate and those of its tasks that have not ended.
fn limited(plan: &Plan, positions: &Positions) -> Vec<(u64, Vec<TaskId>)> {
    let mut all = Vec::new();
    for (node, (step, tasks)) in plan.steps.iter().zip(&positions.tasks).enumerate() {
        let Input::Source(source) = step.input else {
            continue;
        };
        let spec = plan.sources.get(source).and_then(|source| source.rate);
        let Some(rate) = effective(spec, positions.rate) else {
            continue;
        };
        let tasks = (0..).zip(tasks).filter(|(_, position)| !position.ended);
        let ids = tasks.map(|(task, _)| TaskId {
            node: node as NodeId,
            task,
        });
        all.push((rate, ids.collect()));
    }
    all
}

/// The shares that an attempt begins with.
pub fn equal_shares(plan: &Plan, positions: &Positions) -> Shares {
    shares(plan, positions, |_| None)
}

/// The shares of all tasks that have not ended. `used`: as in [`share_out`].
pub fn shares(
    plan: &Plan,
    positions: &Positions,
    used: impl Fn(TaskId) -> Option<(u64, u64)>,
) -> Shares {
    let mut all = Shares::new();
    for (rate, ids) in limited(plan, positions) {
        let used: Vec<_> = ids.iter().map(|&id| used(id)).collect();
        all.extend(ids.into_iter().zip(share_out(rate, &used)));
    }
    all
}

/// What the coordinator knows of the rates of an attempt.
pub struct Rates {
    /// As tasks were told last.
    shares: Shares,
    /// What they would be if all tasks read alike: another if the rate is, or a task has ended.
    equal: Shares,
    /// Lines read since then.
    read: BTreeMap<TaskId, u64>,
    since: Instant,
}

impl Rates {
    /// Of an attempt that begins.
    pub fn new(plan: &Plan, positions: &Positions) -> Self {
        let equal = equal_shares(plan, positions);
        Self {
            shares: equal.clone(),
            equal,
            read: BTreeMap::new(),
            since: Instant::now(),
        }
    }

    /// A barrier was passed, with so many lines of each task; the shares to be told, if they have changed.
    pub fn barrier(
        &mut self,
        plan: &Plan,
        positions: &Positions,
        rows: impl Iterator<Item = (TaskId, u64)>,
    ) -> Option<Shares> {
        for (id, rows) in rows {
            *self.read.entry(id).or_default() += rows;
        }
        let equal = equal_shares(plan, positions);
        let others = equal != self.equal;
        let elapsed = self.since.elapsed();
        if !others && elapsed < LOOK_EVERY {
            return None;
        }
        let used = |id: TaskId| {
            let rows = *self.read.get(&id)? as f64 / elapsed.as_secs_f64();
            Some(((rows * 1000.0) as u64, *self.shares.get(&id)?))
        };
        let new = match others {
            true => equal.clone(),
            false => shares(plan, positions, used),
        };
        self.equal = equal;
        self.read.clear();
        self.since = Instant::now();
        if !differ(&self.shares, &new) {
            return None;
        }
        self.shares = new;
        Some(self.shares.clone())
    }
}

/// Whether a new set of shares is worth telling.
pub fn differ(old: &Shares, new: &Shares) -> bool {
    !old.keys().eq(new.keys())
        || old
            .values()
            .zip(new.values())
            .any(|(old, new)| old.abs_diff(*new) > old / 5)
}

/// One task's share in use: it fills as time goes by.
pub struct Bucket {
    /// Thousandths of a line a second; `None`: no limit.
    share: Option<u64>,
    lines: f64,
    at: Instant,
}

impl Bucket {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            share: None,
            lines: 0.0,
            at: Instant::now(),
        }
    }

    fn per_second(&self) -> Option<f64> {
        self.share.map(|share| share as f64 / 1000.0)
    }

    fn fill(&mut self) {
        let now = Instant::now();
        if let Some(rate) = self.per_second() {
            let most = (rate * SAVED.as_secs_f64()).max(1.0);
            let grown = rate * now.duration_since(self.at).as_secs_f64();
            self.lines = (self.lines + grown).min(most);
        }
        self.at = now;
    }

    /// From now on.
    pub fn set(&mut self, share: Option<u64>) {
        if self.share != share {
            self.fill();
            self.share = share;
        }
    }

    /// How many lines may pass now, or when some may.
    pub fn ready(&mut self) -> Result<usize, Instant> {
        let Some(rate) = self.per_second() else {
            return Ok(usize::MAX);
        };
        self.fill();
        let portion = (rate * PORTION.as_secs_f64()).max(1.0);
        match self.lines >= portion {
            true => Ok(self.lines as usize),
            false => {
                let seconds = (portion - self.lines) / rate;
                Err(self.at + Duration::from_secs_f64(seconds) + Duration::from_micros(100))
            }
        }
    }

    /// So many passed.
    pub fn spend(&mut self, lines: usize) {
        if self.share.is_some() {
            self.lines -= lines as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read() {
        assert_eq!(parse("10000/s"), Some(10_000));
        assert_eq!(parse(" 5 /s"), Some(5));
        for wrong in [
            "",
            "5",
            "0/s",
            "-1/s",
            "1.5/s",
            "9999999999/s",
            "5/m",
            "+5/s",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        /// Whatever was used, shares are never more than the rate together, and nobody gets nothing.
        #[test]
        fn shares_never_exceed_the_rate(
            rate in 64_u64..1_000_000,
            used in proptest::collection::vec(proptest::option::of((0_u64..2_000_000, 1_u64..2_000_000)), 1..64),
        ) {
            let shares = share_out(rate, &used);
            prop_assert_eq!(shares.len(), used.len());
            prop_assert!(shares.iter().sum::<u64>() <= rate * 1000);
            prop_assert!(shares.iter().all(|&share| share > 0));
        }
    }

    #[test]
    fn who_has_nothing_to_read_leaves_its_share_to_others() {
        assert_eq!(share_out(900, &[None, None, None]), [300_000; 3]);
        let shares = share_out(
            900,
            &[
                Some((0, 300_000)),
                Some((300_000, 300_000)),
                Some((0, 300_000)),
            ],
        );
        assert_eq!(shares, [37_500, 825_000, 37_500]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_lets_its_rate_through_and_no_more() {
        let mut bucket = Bucket::new();
        assert_eq!(bucket.ready(), Ok(usize::MAX));
        for (share, want) in [(1_000_000, 10_000.0), (2_500, 25.0)] {
            bucket.set(Some(share));
            let (begin, mut passed) = (Instant::now(), 0);
            while begin.elapsed() < Duration::from_secs(10) {
                match bucket.ready() {
                    Ok(lines) => {
                        passed += lines;
                        bucket.spend(lines);
                    }
                    Err(until) => tokio::time::sleep_until(until).await,
                }
            }
            let passed = passed as f64;
            assert!(
                passed <= want + 1.0 + want / 100.0 && passed >= want * 0.9 - 1.0,
                "{passed}"
            );
        }
    }
}

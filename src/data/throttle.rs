//! How fast repair may go, so that calls in the foreground are served as before.
//!
//! Repair has no need to be fast that anybody would notice at once, calls have. So its speed follows what calls cost:
//! this member measures its own rounds of small appends and the syncs of its journal that others wait for, knows what they
//! cost while nothing is repaired (the *baseline*), and compares. Speed grows while the two are alike and falls by a part
//! as soon as they are not: additive increase, multiplicative decrease (Chiu and Jain, 1989), with delay as the sign of
//! congestion as in LEDBAT (RFC 6817). It never falls below a floor, so repair always comes to its end; and what calls
//! cost while it crawls along there is not its doing, so it becomes the baseline. Both ends of a pull keep their own
//! speed: the slower one decides.
//!
//! [`Pace`] decides, and has neither clock nor task; [`Throttle`] waits.

use hydfs_types::Refusal;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Repair goes on at least this fast, in bytes per second.
pub const FLOOR_BYTES_PER_S: u64 = 4 << 20;
/// Where it begins; it doubles from there until calls feel it for the first time.
const START_BYTES_PER_S: u64 = 32 << 20;
/// What "no limit" means.
const CAP_BYTES_PER_S: u64 = 64 << 30;
/// What an interval without any sign of trouble adds.
const STEP_BYTES_PER_S: u64 = 4 << 20;
/// Calls are judged this often, and once there are enough of them, but not much later.
const INTERVAL: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_millis(500);
const SAMPLES_MIN: usize = 8;
/// Of one kind and interval; what comes beyond says nothing new.
const SAMPLES_MAX: usize = 512;
/// Calls that cost less than this more than usual are as usual: clocks and schedulers are no finer.
const SLACK_US: u32 = 250;
/// A source that would have to let a learner wait for longer than this turns it away.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A round of appends to all replicas.
    Round,
    /// The same, on their disks.
    DurableRound,
    /// A sync of this member's journal.
    Sync,
}

/// Which way bytes go. Each has the whole speed to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Pulled as a learner.
    In,
    /// Served to a learner.
    Out,
}

/// What one kind of call costs.
#[derive(Debug, Default)]
struct Gauge {
    seen_us: Vec<u32>,
    baseline_us: Option<u32>,
}

impl Gauge {
    /// What nine of ten calls of this interval kept below, if there were enough to say.
    fn take(&mut self) -> Option<u32> {
        let mut seen = std::mem::take(&mut self.seen_us);
        if seen.len() < SAMPLES_MIN {
            return None;
        }
        seen.sort_unstable();
        seen.get(seen.len() * 9 / 10).copied()
    }

    /// More than half as much again as usual. Unknown is usual.
    fn is_slow(&self, now_us: u32) -> bool {
        self.baseline_us
            .is_some_and(|usual| now_us > usual.saturating_add(usual / 2).saturating_add(SLACK_US))
    }

    /// Follows what calls cost without repair: down at once, up slowly, so that one bad moment excuses nothing.
    fn learn(&mut self, now_us: u32) {
        let now = i64::from(now_us);
        let usual = i64::from(self.baseline_us.unwrap_or(now_us));
        let part = if now < usual { 4 } else { 64 };
        // Small differences count, too.
        let moved = usual + (now - usual) / part + (now - usual).signum();
        self.baseline_us = Some(u32::try_from(moved.max(0)).unwrap_or(u32::MAX));
    }
}

/// The decision. Times are since any fixed moment and never go back.
#[derive(Debug)]
pub struct Pace {
    cap: u64,
    rate: u64,
    /// Nobody has felt repair yet: speed doubles.
    probing: bool,
    /// When all bytes that were let through have had their time, each way.
    next: [Duration; 2],
    /// Of the current interval.
    began: Duration,
    moved: u64,
    gauges: [Gauge; 3],
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            cap: CAP_BYTES_PER_S,
            rate: START_BYTES_PER_S,
            probing: true,
            next: [Duration::ZERO; 2],
            began: Duration::ZERO,
            moved: 0,
            gauges: Default::default(),
        }
    }
}

impl Pace {
    /// Never faster than this many bytes per second; 0: no limit.
    pub fn set_cap(&mut self, bytes_per_s: u64) {
        self.cap = match bytes_per_s {
            0 => CAP_BYTES_PER_S,
            limit => limit.min(CAP_BYTES_PER_S),
        };
        self.rate = self.rate.min(self.cap);
    }

    /// Bytes per second now, each way.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// A call of the foreground took this long.
    pub fn note(&mut self, now: Duration, signal: Signal, took: Duration) {
        let gauge = &mut self.gauges[signal as usize];
        if gauge.seen_us.len() < SAMPLES_MAX {
            gauge
                .seen_us
                .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
        self.judge(now);
    }

    /// Repair wants to move these bytes: how long it has to wait first. `None`: longer than `at_most`, and nothing is
    /// kept for it.
    pub fn take(
        &mut self,
        now: Duration,
        way: Way,
        bytes: u64,
        at_most: Duration,
    ) -> Option<Duration> {
        self.judge(now);
        let next = &mut self.next[way as usize];
        let from = (*next).max(now);
        let wait = from.saturating_sub(now);
        if wait > at_most {
            return None;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.max(1));
        *next = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.moved += bytes;
        Some(wait)
    }

    /// Ends the interval if it is long enough, and draws the conclusion.
    fn judge(&mut self, now: Duration) {
        let lasted = now.saturating_sub(self.began);
        let known = self
            .gauges
            .iter()
            .any(|gauge| gauge.seen_us.len() >= SAMPLES_MIN);
        if lasted < INTERVAL || !known && lasted < INTERVAL_MAX {
            return;
        }
        let repairs = self.moved > 0;
        let blameless = !repairs || self.rate <= self.floor();
        let mut slow = false;
        for gauge in &mut self.gauges {
            if let Some(now_us) = gauge.take() {
                slow |= gauge.is_slow(now_us);
                if blameless {
                    gauge.learn(now_us);
                }
            }
        }
        // A speed that was not made use of says nothing about a higher one.
        let used =
            u128::from(self.moved) * 2_000_000_000 >= u128::from(self.rate) * lasted.as_nanos();
        if repairs && slow {
            self.rate = (self.rate / 10 * 7).max(self.floor());
            self.probing = false;
        } else if repairs && used {
            let faster = match self.probing {
                true => self.rate * 2,
                false => self.rate + STEP_BYTES_PER_S,
            };
            self.rate = faster.min(self.cap);
        }
        self.began = now;
        self.moved = 0;
    }

    fn floor(&self) -> u64 {
        FLOOR_BYTES_PER_S.min(self.cap)
    }
}

/// The pace of one member, and the waiting.
pub struct Throttle {
    began: Instant,
    pace: Mutex<Pace>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            pace: Mutex::default(),
        }
    }
}

impl Throttle {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Pace::set_cap`].
    pub fn set_cap(&self, bytes_per_s: u64) {
        self.pace().set_cap(bytes_per_s);
    }

    /// Bytes per second that repair may move now, each way.
    pub fn rate(&self) -> u64 {
        self.pace().rate()
    }

    /// A call of the foreground began then and has just ended.
    pub(crate) fn note(&self, signal: Signal, began: Instant) {
        let now = Instant::now();
        self.pace().note(
            now - self.began,
            signal,
            now.saturating_duration_since(began),
        );
    }

    /// Returns when a learner may pull these bytes.
    pub(crate) async fn pull(&self, bytes: u64) {
        let wait = self
            .pace()
            .take(self.began.elapsed(), Way::In, bytes, Duration::MAX);
        wait_for(wait.unwrap_or_default()).await;
    }

    /// Returns when a source may serve these bytes, or refuses where that is not soon.
    pub(crate) async fn serve(&self, bytes: u64) -> Result<(), Refusal> {
        let wait = self
            .pace()
            .take(self.began.elapsed(), Way::Out, bytes, WAIT_MAX);
        wait_for(wait.ok_or(Refusal::Overloaded)?).await;
        Ok(())
    }
}

async fn wait_for(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 512 << 10;
    const TICK: Duration = Duration::from_millis(10);

    /// A member whose calls cost `calls_us` at a given speed of repair.
    struct World {
        pace: Pace,
        now: Duration,
    }

    impl World {
        fn new() -> Self {
            Self {
                pace: Pace::default(),
                now: Duration::ZERO,
            }
        }

        /// Lets this much time pass, with repair as fast as it may; the bytes that it moved.
        fn pass(&mut self, time: Duration, repairs: bool, cost_us: impl Fn(u64) -> u64) -> u64 {
            let (until, mut moved) = (self.now + time, 0);
            while self.now < until {
                self.now += TICK;
                for _ in 0..4 {
                    let took = Duration::from_micros(cost_us(self.pace.rate()));
                    self.pace.note(self.now, Signal::Sync, took);
                }
                while repairs && self.pace.take(self.now, Way::In, PIECE, TICK).is_some() {
                    moved += PIECE;
                }
            }
            moved
        }
    }

    #[test]
    fn without_calls_repair_speeds_up_to_its_cap() {
        let mut world = World::new();
        world.pace.set_cap(256 << 20);
        let mut moved = 0;
        for _ in 0..500 {
            world.now += TICK;
            while world.pace.take(world.now, Way::In, PIECE, TICK).is_some() {
                moved += PIECE;
            }
        }
        assert_eq!(world.pace.rate(), 256 << 20);
        // Five seconds, the first of them while it sped up.
        assert!(moved > (3 * 256) << 20, "{moved}");
        assert!(moved <= (5 * 256) << 20, "{moved}");
    }

    #[test]
    fn calls_that_suffer_slow_it_down_to_where_they_do_not() {
        let mut world = World::new();
        // Every 50 MiB/s of repair add a millisecond to calls of one.
        let cost = |rate: u64| 1000 + rate / (50 << 20) * 1000;
        world.pass(Duration::from_secs(5), false, |_| 1000);
        world.pass(Duration::from_secs(5), true, cost);
        let mut rates = Vec::new();
        for _ in 0..100 {
            world.pass(Duration::from_millis(100), true, cost);
            rates.push(world.pace.rate());
        }
        let mean = rates.iter().sum::<u64>() / rates.len() as u64;
        assert!(
            (30 << 20..65 << 20).contains(&mean),
            "about 50 MiB/s is what calls bear: {mean}"
        );
    }

    #[test]
    fn it_never_stops_and_what_is_not_its_doing_becomes_usual() {
        let mut world = World::new();
        world.pass(Duration::from_secs(5), false, |_| 1000);
        // Calls are slow whatever repair does.
        let moved = world.pass(Duration::from_secs(10), true, |_| 20_000);
        assert!(moved >= 9 * FLOOR_BYTES_PER_S, "{moved}");
        world.pass(Duration::from_secs(60), true, |_| 20_000);
        assert!(
            world.pace.rate() > 8 * FLOOR_BYTES_PER_S,
            "a minute later that is how calls are: {}",
            world.pace.rate()
        );
    }

    #[test]
    fn a_cap_below_the_floor_holds() {
        let mut world = World::new();
        world.pace.set_cap(1 << 20);
        let moved = world.pass(Duration::from_secs(10), true, |_| 1000);
        assert!((9 << 20..=11 << 20).contains(&moved), "{moved}");
    }

    #[test]
    fn each_way_has_the_whole_speed_and_long_waits_are_refused() {
        let mut pace = Pace::default();
        let now = Duration::from_secs(1);
        let second = pace.rate();
        assert_eq!(
            pace.take(now, Way::In, second, WAIT_MAX),
            Some(Duration::ZERO)
        );
        assert_eq!(
            pace.take(now, Way::Out, second, WAIT_MAX),
            Some(Duration::ZERO)
        );
        assert_eq!(
            pace.take(now, Way::In, second, WAIT_MAX),
            Some(Duration::from_secs(1))
        );
        assert_eq!(
            pace.take(now, Way::In, second, Duration::from_millis(1999)),
            None
        );
    }

    #[test]
    fn fewer_calls_than_tell_anything_are_not_judged() {
        let mut pace = Pace::default();
        let mut now = Duration::ZERO;
        for at in 0..200u64 {
            now += TICK;
            // Three slow calls a second among none.
            if at % 33 == 0 {
                pace.note(now, Signal::Round, Duration::from_secs(1));
            }
            pace.take(now, Way::In, PIECE, Duration::MAX);
        }
        assert!(pace.rate() >= START_BYTES_PER_S);
    }
}

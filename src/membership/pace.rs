//! Time as the protocol sees it, and its timers.
//!
//! A process that was stopped (debugger, suspended machine, no CPU) finds all its timers due at once, before it has
//! read the answers that arrived meanwhile: it would blame the others for its own pause. So the protocol's clock stops
//! with the process: what a timer is overdue beyond some slack is taken out of time (after Lifeguard's observation
//! that slow members cause most false suspicion; Dadgar, Phillips, Currey 2018).

use std::{collections::BTreeMap, time::Duration};

/// A timer this much overdue means that the process was stopped.
const STALL_SLACK: Duration = Duration::from_millis(200);

/// Timers on a clock without pauses. Equal times fire by rank, then in the order they were set.
#[derive(Debug)]
pub(crate) struct Pace<T> {
    timers: BTreeMap<(Duration, u8, u64), T>,
    set: u64,
    now: Duration,
    /// How far the protocol's time is behind the driver's.
    lost: Duration,
}

impl<T> Pace<T> {
    pub fn new(now: Duration) -> Self {
        Self {
            timers: BTreeMap::new(),
            set: 0,
            now,
            lost: Duration::ZERO,
        }
    }

    /// The driver's clock says `driver_now`. True if a pause was taken out.
    pub fn advance(&mut self, driver_now: Duration) -> bool {
        let now = driver_now.saturating_sub(self.lost);
        let due = self
            .timers
            .keys()
            .next()
            .map_or(Duration::MAX, |(at, ..)| *at);
        let stalled = now > due.saturating_add(STALL_SLACK);
        if stalled {
            self.lost += now - due;
        }
        self.now = self.now.max(if stalled { due } else { now });
        stalled
    }

    /// The protocol's time when the driver's clock says `driver_now`, without acting on it.
    pub fn at(&self, driver_now: Duration) -> Duration {
        self.now.max(driver_now.saturating_sub(self.lost))
    }

    /// The protocol's time.
    pub fn now(&self) -> Duration {
        self.now
    }

    pub fn set(&mut self, after: Duration, rank: u8, timer: T) {
        self.set += 1;
        self.timers
            .insert((self.now + after, rank, self.set), timer);
    }

    /// The next timer that is due.
    pub fn pop(&mut self) -> Option<T> {
        let first = self.timers.first_entry()?;
        (first.key().0 <= self.now).then(|| first.remove())
    }

    /// Forgets the timers that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.timers.retain(|_, timer| keep(timer));
    }

    /// When the next timer is due, on the driver's clock.
    pub fn next(&self) -> Option<Duration> {
        self.timers.keys().next().map(|(at, ..)| *at + self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn timers_fire_in_order() {
        let mut pace = Pace::new(ms(0));
        pace.set(ms(20), 1, "c");
        pace.set(ms(20), 0, "b");
        pace.set(ms(10), 5, "a");
        assert_eq!(pace.next(), Some(ms(10)));
        assert!(!pace.advance(ms(20)));
        assert_eq!(
            [pace.pop(), pace.pop(), pace.pop(), pace.pop()],
            [Some("a"), Some("b"), Some("c"), None]
        );
    }

    #[test]
    fn a_pause_is_taken_out_of_time() {
        let mut pace = Pace::new(ms(0));
        pace.set(ms(100), 0, "probe");
        pace.set(ms(1500), 0, "down");
        assert!(pace.advance(ms(10_000)));
        assert_eq!(pace.now(), ms(100));
        assert_eq!([pace.pop(), pace.pop()], [Some("probe"), None]);
        assert_eq!(
            pace.next(),
            Some(ms(11_400)),
            "1.4 s after the pause, as it was before it"
        );
    }
}

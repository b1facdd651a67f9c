//! Time. Leases use tokio's clock (virtual in the simulator); wall time only labels files.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A point of wall time as files carry it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
}

impl Time {
    /// One nanosecond later.
    pub fn tick(self) -> Self {
        if self.nsec == 999_999_999 {
            Self {
                sec: self.sec + 1,
                nsec: 0,
            }
        } else {
            Self {
                nsec: self.nsec + 1,
                ..self
            }
        }
    }

    /// `self` where it is later than `previous`, else one nanosecond after `previous`: times of a file never stand still or go back.
    pub fn after(self, previous: Self) -> Self {
        self.max(previous.tick())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.sec, self.nsec)
    }
}

/// Wall time as handed in.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Time;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Time {
            sec: since.as_secs() as i64,
            nsec: since.subsec_nanos(),
        }
    }
}

//! How long this machine has been suspended since it booted. The clock of tokio and openraft stands still meanwhile.
#![allow(unsafe_code)]

use std::time::Duration;

/// Two readings that differ by less had no suspension between them that matters: a lease has more to spare.
const TOLERANCE: Duration = Duration::from_millis(50);

/// `CLOCK_BOOTTIME - CLOCK_MONOTONIC`, give or take the time between two system calls.
pub fn suspended() -> Duration {
    read(libc::CLOCK_BOOTTIME).saturating_sub(read(libc::CLOCK_MONOTONIC))
}

/// Whether the machine ran on between two readings.
pub fn ran_on(before: Duration, after: Duration) -> bool {
    before.abs_diff(after) < TOLERANCE
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the call to fill, and the call keeps no pointer to it.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if failed != 0 {
        Duration::ZERO
    } else {
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_machine_is_told_from_a_suspended_one() {
        let now = suspended();
        assert!(ran_on(now, now + Duration::from_millis(1)));
        assert!(!ran_on(now, now + Duration::from_secs(1)));
    }
}

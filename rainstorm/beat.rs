//! Work that may take long, as long as it gets on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time;

/// Counts the steps of some work.
#[derive(Debug, Clone, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// One step more is done.
    pub fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops `work` once it has not ended and made no step for `patience`, twice that at most.
    pub async fn follow(&self, patience: Duration, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        let mut seen = self.0.load(Ordering::Relaxed);
        while time::timeout(patience, &mut work).await.is_err() {
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn work_that_gets_on_is_waited_for() {
        let (beat, patience) = (Beat::default(), Duration::from_secs(60));
        let mut steps = 0;
        let slow = async {
            for _ in 0..10 {
                time::sleep(Duration::from_secs(50)).await;
                beat.step();
                steps += 1;
            }
        };
        beat.follow(patience, slow).await;
        assert_eq!(steps, 10);
        let began = Instant::now();
        beat.follow(patience, std::future::pending()).await;
        assert_eq!(began.elapsed(), patience);
    }
}

//! How long the copies that are still to be made will take.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Below this nothing is said: the first copies come in bursts.
const LEAST: Duration = Duration::from_millis(500);

/// Judges by how fast copies were made since the work began or grew.
#[derive(Default)]
pub struct Pace(Mutex<Option<(Instant, u64)>>);

impl Pace {
    /// Notes how many bytes are left, and says how long they will take, if that can be told.
    pub fn left(&self, bytes: u64) -> Option<Duration> {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes == 0 {
            *begun = None;
            return Some(Duration::ZERO);
        }
        let (since, most) = match *begun {
            Some((since, most)) if bytes <= most => (since, most),
            _ => *begun.insert((Instant::now(), bytes)),
        };
        let (took, done) = (since.elapsed(), most - bytes);
        (done > 0 && took >= LEAST).then(|| took.mul_f64(bytes as f64 / done as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rest_takes_as_long_as_what_is_done_says() {
        let pace = Pace::default();
        assert_eq!(pace.left(0), Some(Duration::ZERO));
        assert_eq!(pace.left(1000), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pace.left(1000), None, "nothing is done yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pace.left(750), Some(Duration::from_secs(6)));
        assert_eq!(pace.left(2000), None, "it grew: it begins anew");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pace.left(1500), Some(Duration::from_secs(3)));
        assert_eq!(pace.left(0), Some(Duration::ZERO));
    }
}

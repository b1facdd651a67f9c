//! What was done to the cluster in one run, with virtual times.

use crate::world::World;
use tokio::time::Instant;

/// The story of one run.
pub struct Story {
    pub world: World,
    pub began: Instant,
    pub faults: Vec<String>,
}

impl Story {
    /// Adds a line.
    pub fn tell(&mut self, what: String) {
        tracing::info!(at = ?self.began.elapsed(), what, "fault");
        self.faults.push(format!(
            "{:9.3} s  {what}",
            self.began.elapsed().as_secs_f64()
        ));
    }

    /// Whether something was found: the rest of the run would only bury it.
    pub fn over(&self) -> bool {
        !self.world.oracle.violations().is_empty()
    }
}

//! How many lines go on at once, by how long the last ones took: where they take long there are few, so that a job epoch never
//! has more to wait for than some seconds of work.

use std::time::Duration;

/// Lines that go on at once.
#[derive(Debug)]
pub struct Piece {
    lines: usize,
    least: usize,
    /// Twice as many go on behind a whole piece that took no longer.
    soon: Duration,
    /// Fewer go on behind one that took longer: as many as would take so long.
    slow: Duration,
}

impl Piece {
    /// Begins with so many lines, and never has fewer than `least`.
    pub fn new((lines, least): (usize, usize), soon: Duration, slow: Duration) -> Self {
        Self {
            lines,
            least,
            soon,
            slow,
        }
    }

    /// So many at most.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// So many lines took so long.
    pub fn took(&mut self, lines: usize, time: Duration) {
        if time > self.slow {
            let share = self.slow.as_secs_f64() / time.as_secs_f64();
            self.lines = ((lines as f64 * share) as usize).clamp(self.least, self.lines);
        } else if time <= self.soon && lines >= self.lines {
            self.lines = self.lines.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_while_they_are_done_soon_and_shrink_while_they_take_long() {
        let after = |now, lines, millis| {
            let (soon, slow) = (Duration::from_millis(100), Duration::from_secs(1));
            let mut piece = Piece::new((now, 1), soon, slow);
            piece.took(lines, Duration::from_millis(millis));
            piece.lines()
        };
        assert_eq!(after(16, 16, 100), 32);
        assert_eq!(after(16, 7, 1), 16, "there were no more");
        assert_eq!(after(64, 64, 500), 64);
        assert_eq!(after(1000, 1000, 10_000), 100);
        assert_eq!(after(usize::MAX, 1000, 10_000), 100);
        assert_eq!(after(1, 1, 10_000), 1);
        assert_eq!(after(usize::MAX, usize::MAX, 1), usize::MAX);
    }
}

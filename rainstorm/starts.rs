//! When open sessions began: what is put out for one is as old as its first line, whenever that is.
//!
//! However many sessions there are, this takes little memory: starts are counted by spans as long as a session's silence, and the
//! earliest is known to within one of these.

use std::collections::BTreeMap;

/// The starts of sessions.
#[derive(Debug)]
pub struct Starts {
    span: i64,
    /// How many lie in a span, by its number.
    spans: BTreeMap<i64, u64>,
}

impl Starts {
    /// None yet, of sessions that end when they are silent for so long.
    pub fn new(gap: i64) -> Self {
        Self {
            span: gap.max(1),
            spans: BTreeMap::new(),
        }
    }

    /// A session began.
    pub fn add(&mut self, start: i64) {
        *self.spans.entry(start.div_euclid(self.span)).or_default() += 1;
    }

    /// One that began then has ended, or is part of another one.
    pub fn remove(&mut self, start: i64) {
        let span = start.div_euclid(self.span);
        match self.spans.get_mut(&span) {
            Some(sessions) if *sessions > 1 => *sessions -= 1,
            _ => drop(self.spans.remove(&span)),
        }
    }

    /// No session began earlier.
    pub fn earliest(&self) -> Option<i64> {
        let (span, _) = self.spans.first_key_value()?;
        Some(span.saturating_mul(self.span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_known_to_within_a_span() {
        let mut starts = Starts::new(10);
        assert_eq!(starts.earliest(), None);
        for start in [25, -3, 21, -9] {
            starts.add(start);
        }
        assert_eq!(starts.earliest(), Some(-10));
        starts.remove(-3);
        assert_eq!(starts.earliest(), Some(-10));
        starts.remove(-9);
        assert_eq!(starts.earliest(), Some(20));
        starts.remove(21);
        starts.remove(25);
        assert_eq!(starts.earliest(), None);
    }
}

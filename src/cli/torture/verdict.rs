//! What a torture says at its end: for a person, or as JSON.

use super::{
    check::{Found, Kind},
    work::Counts,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// The outcome of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub seed: u64,
    pub members: usize,
    pub seconds: u64,
    /// Faults that were injected, by name.
    pub faults: BTreeMap<String, u64>,
    /// Lines whose write was acknowledged, and those whose fate nobody knew.
    pub acknowledged: u64,
    pub unknown: u64,
    pub files: u64,
    pub reads: u64,
    pub jobs: u64,
    /// Calls that failed, most of them on members that were down.
    pub errors: u64,
    pub lost: u64,
    pub doubled: u64,
    pub torn: u64,
    pub reordered: u64,
    pub stale: u64,
    pub diverged: u64,
    pub stuck: u64,
    /// Longest time that an acknowledged operation took through a member that was not itself hit, retries included.
    pub longest_stall_ms: u64,
    pub repaired_bytes: u64,
    /// The first violations in words.
    pub violations: Vec<String>,
}

impl Verdict {
    pub fn new(counts: Counts, found: &Found) -> Self {
        let of = |kind| found.counts.get(&kind).copied().unwrap_or(0);
        Self {
            seed: 0,
            members: 0,
            seconds: 0,
            faults: BTreeMap::new(),
            acknowledged: counts.acknowledged,
            unknown: counts.unknown,
            files: counts.names,
            reads: counts.reads,
            jobs: counts.jobs,
            errors: counts.errors,
            lost: of(Kind::Lost),
            doubled: of(Kind::Doubled),
            torn: of(Kind::Torn),
            reordered: of(Kind::Reordered),
            stale: of(Kind::Stale),
            diverged: of(Kind::Diverged),
            stuck: of(Kind::Stuck),
            longest_stall_ms: counts.stall_ms,
            repaired_bytes: 0,
            violations: found.told.clone(),
        }
    }

    /// Whether every promise held.
    pub fn is_clean(&self) -> bool {
        [
            self.lost,
            self.doubled,
            self.torn,
            self.reordered,
            self.stale,
            self.diverged,
            self.stuck,
        ]
        .iter()
        .all(|count| *count == 0)
    }

    /// For a person.
    pub fn text(&self) -> String {
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let faults = match faults.is_empty() {
            true => "none".to_owned(),
            false => faults.join(", "),
        };
        let mut text = format!(
            "{} members, {} s, seed {}; faults: {faults}\n\
             acknowledged {} lines (and {} of unknown fate), {} files, {} jobs; {} whole reads; {} calls failed\n\
             lost {}, doubled {}, torn {}, reordered {}, stale {}, diverged {}, stuck {}\n\
             longest stall {:.1} s, {} bytes repaired\n",
            self.members,
            self.seconds,
            self.seed,
            self.acknowledged,
            self.unknown,
            self.files,
            self.jobs,
            self.reads,
            self.errors,
            self.lost,
            self.doubled,
            self.torn,
            self.reordered,
            self.stale,
            self.diverged,
            self.stuck,
            self.longest_stall_ms as f64 / 1000.0,
            self.repaired_bytes,
        );
        for violation in &self.violations {
            text.push_str(&format!("  {violation}\n"));
        }
        text.push_str(match self.is_clean() {
            true => "every promise held\n",
            false => "PROMISES WERE BROKEN\n",
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_violation_breaks_the_verdict() {
        assert!(Verdict::new(Counts::default(), &Found::default()).is_clean());
        for kind in [
            Kind::Lost,
            Kind::Doubled,
            Kind::Torn,
            Kind::Reordered,
            Kind::Stale,
            Kind::Diverged,
            Kind::Stuck,
        ] {
            let mut found = Found::default();
            found.add(kind, "planted");
            let verdict = Verdict::new(Counts::default(), &found);
            assert!(!verdict.is_clean(), "{kind:?}");
            assert!(verdict.text().contains("BROKEN") && verdict.text().contains("planted"));
        }
    }
}

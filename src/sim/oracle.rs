//! What callers of the file system were promised, and whether they get it (I1, I3, I4, I5, I8 as a user sees them).
//!
//! It knows only what writers were told and what readers read; never how the cluster does it. A write whose fate is
//! unknown (an error, a crash of its machine) may appear once or not at all, in its writer's order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A writer: one task on one life of one machine.
pub type WriterName = String;

#[derive(Debug, Default)]
struct Log {
    attempted: BTreeMap<WriterName, u64>,
    acknowledged: BTreeMap<WriterName, BTreeSet<u64>>,
    durable: BTreeMap<WriterName, BTreeSet<u64>>,
    /// The longest content read so far: every other read is a prefix of it, or extends it.
    longest: Vec<u8>,
    reads: u64,
    failed_reads: u64,
    failed_writes: u64,
    violations: Vec<String>,
}

/// What must be in a read that begins now.
pub type Promised = BTreeMap<WriterName, BTreeSet<u64>>;

/// Counts of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub writes: u64,
    pub acknowledged: u64,
    pub durable: u64,
    pub failed_writes: u64,
    pub reads: u64,
    pub failed_reads: u64,
    pub bytes: u64,
    /// Calls on names and blocks.
    pub calls: u64,
    /// Committed job epochs.
    pub epochs: u64,
    /// Histories that had too many unknown outcomes to be judged.
    pub unjudged: u64,
}

/// Watches all writers and readers of one file.
#[derive(Debug, Clone, Default)]
pub struct Oracle(Arc<Mutex<Log>>);

/// One line of the file.
pub fn line(writer: &str, number: u64, padding: usize) -> Vec<u8> {
    let mut line = format!("{writer} {number} ").into_bytes();
    line.resize(line.len() + padding, b'a' + (number % 26) as u8);
    line.push(b'\n');
    line
}

impl Oracle {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer is about to send its next record; this is its number, from 1.
    pub fn attempt(&self, writer: &str) -> u64 {
        let mut log = self.log();
        let number = log.attempted.entry(writer.to_owned()).or_default();
        *number += 1;
        *number
    }

    /// The write answered well.
    pub fn acknowledged(&self, writer: &str, number: u64) {
        self.log()
            .acknowledged
            .entry(writer.to_owned())
            .or_default()
            .insert(number);
    }

    /// The write answered with an error: nobody knows what became of it.
    pub fn unknown(&self) {
        self.log().failed_writes += 1;
    }

    /// An fsync that began when everything up to here was acknowledged answered well.
    pub fn durable(&self, writer: &str, through: u64) {
        let mut log = self.log();
        let acknowledged = log.acknowledged.get(writer).cloned().unwrap_or_default();
        log.durable
            .entry(writer.to_owned())
            .or_default()
            .extend(acknowledged.range(..=through));
    }

    /// Everything acknowledged by now: a read that begins now must show it.
    pub fn promised(&self) -> Promised {
        self.log().acknowledged.clone()
    }

    /// Every machine lost power at once: what was acknowledged, neither made durable nor read, may be gone.
    pub fn blackout(&self) {
        let mut guard = self.log();
        let log = &mut *guard;
        let read = numbers_in(&log.longest);
        for (writer, numbers) in &mut log.acknowledged {
            let durable = log.durable.get(writer);
            let read = read.get(writer.as_str());
            let kept = |number: &u64| {
                [durable, read]
                    .into_iter()
                    .flatten()
                    .any(|set| set.contains(number))
            };
            numbers.retain(kept);
        }
    }

    /// A read could not be answered.
    pub fn read_failed(&self) {
        self.log().failed_reads += 1;
    }

    /// A violation that somebody else found.
    pub fn report(&self, what: String) {
        self.log().violations.push(what);
    }

    /// Takes what a reader read; `promised` was taken before the read began.
    pub fn read(&self, reader: &str, content: &[u8], promised: &Promised) {
        let mut log = self.log();
        log.reads += 1;
        let found = judge(&log, content, promised);
        if let Err(what) = found {
            log.violations.push(format!("{reader}: {what}"));
        }
        if content.len() > log.longest.len() {
            log.longest = content.to_vec();
        }
    }

    /// What went wrong so far.
    pub fn violations(&self) -> Vec<String> {
        self.log().violations.clone()
    }

    /// Counts so far.
    pub fn tally(&self) -> Tally {
        let log = self.log();
        let count = |map: &BTreeMap<WriterName, BTreeSet<u64>>| {
            map.values().map(|set| set.len() as u64).sum()
        };
        Tally {
            writes: log.attempted.values().sum(),
            acknowledged: count(&log.acknowledged),
            durable: count(&log.durable),
            failed_writes: log.failed_writes,
            reads: log.reads,
            failed_reads: log.failed_reads,
            bytes: log.longest.len() as u64,
            ..Tally::default()
        }
    }
}

fn judge(log: &Log, content: &[u8], promised: &Promised) -> Result<(), String> {
    let common = content.len().min(log.longest.len());
    if let Some(at) = (0..common).find(|at| content[*at] != log.longest[*at]) {
        return Err(format!(
            "byte {at} changed after it was read: was {:?}, is {:?}",
            around(&log.longest, at),
            around(content, at)
        ));
    }
    let mut seen: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let text = std::str::from_utf8(content)
        .map_err(|error| format!("bytes that nobody wrote: {error}"))?;
    let whole = text.is_empty() || text.ends_with('\n');
    if !whole {
        return Err(format!(
            "the last line is torn: {:?}",
            around(content, content.len())
        ));
    }
    for line in text.lines() {
        let mut parts = line.split(' ');
        let known = parts
            .next()
            .zip(parts.next().and_then(|number| number.parse::<u64>().ok()));
        let attempted = |writer: &str| log.attempted.get(writer).copied().unwrap_or_default();
        let Some((writer, number)) =
            known.filter(|(writer, number)| (1..=attempted(writer)).contains(number))
        else {
            return Err(format!(
                "a line that nobody wrote: {:?}",
                &line[..line.len().min(60)]
            ));
        };
        let padding = parts.next().unwrap_or_default();
        let fill = char::from(b'a' + (number % 26) as u8);
        if !padding.chars().all(|one| one == fill) {
            return Err(format!(
                "record {number} of {writer} has other bytes than were written"
            ));
        }
        let lane = seen.entry(writer).or_default();
        if lane.contains(&number) {
            return Err(format!("record {number} of {writer} is there twice"));
        }
        if let Some(last) = lane.last().filter(|last| **last > number) {
            return Err(format!(
                "record {number} of {writer} stands after its record {last}"
            ));
        }
        lane.insert(number);
    }
    for (writer, numbers) in promised {
        let none = BTreeSet::new();
        let there = seen.get(writer.as_str()).unwrap_or(&none);
        if let Some(number) = numbers.difference(there).next() {
            let missing = numbers.difference(there).count();
            return Err(format!(
                "record {number} of {writer} was acknowledged before the read began and is not in it ({missing} missing, {} bytes read)",
                content.len()
            ));
        }
    }
    Ok(())
}

/// The records in what was read and judged.
fn numbers_in(content: &[u8]) -> BTreeMap<&str, BTreeSet<u64>> {
    let mut found: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for line in std::str::from_utf8(content).unwrap_or_default().lines() {
        let mut parts = line.split(' ');
        let number = parts.next().zip(parts.next());
        if let Some((writer, Ok(number))) = number.map(|(writer, number)| (writer, number.parse()))
        {
            found.entry(writer).or_default().insert(number);
        }
    }
    found
}

fn around(bytes: &[u8], at: usize) -> String {
    let (from, to) = (at.saturating_sub(20), (at + 20).min(bytes.len()));
    String::from_utf8_lossy(&bytes[from..to]).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn two_written() -> Oracle {
        let oracle = Oracle::default();
        for _ in 0..2 {
            let number = oracle.attempt("w");
            oracle.acknowledged("w", number);
        }
        oracle
    }

    fn judged(oracle: &Oracle, content: &[u8]) -> Option<String> {
        oracle.read("r", content, &oracle.promised());
        oracle.violations().first().cloned()
    }

    #[test]
    fn what_was_written_in_order_is_fine() {
        let content = [line("w", 1, 3), line("w", 2, 3)].concat();
        assert_eq!(judged(&two_written(), &content), None);
    }

    #[test]
    fn loss_repetition_disorder_and_change_are_told() {
        let (one, two) = (line("w", 1, 3), line("w", 2, 3));
        let cases = [
            (one.clone(), "is not in it"),
            ([one.clone(), two.clone(), two.clone()].concat(), "twice"),
            ([two.clone(), one.clone()].concat(), "stands after"),
            ([one.clone(), two[..4].to_vec()].concat(), "torn"),
            (
                [one.clone(), two.clone(), line("w", 3, 3)].concat(),
                "nobody wrote",
            ),
        ];
        for (content, wanted) in cases {
            let found = judged(&two_written(), &content).unwrap();
            assert!(found.contains(wanted), "{found}");
        }
        let oracle = two_written();
        assert_eq!(judged(&oracle, &[one.clone(), two].concat()), None);
        oracle.read("r", &[one, line("w", 2, 4)].concat(), &Promised::new());
        assert!(oracle.violations()[0].contains("changed after it was read"));
    }
}

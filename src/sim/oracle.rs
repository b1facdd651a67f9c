//! What callers of the file system were promised, and whether they get it (I1, I3, I4, I5, I8 as a user sees them).
//!
//! It knows only what writers were told and what readers read; never how the cluster does it. A write whose fate is
//! unknown (an error, a crash of its machine) may appear once or not at all, in its writer's order. So it is with one that
//! was neither closed nor synced when its member's incarnation ended (R10): until then every reader sees it.

use hydfs_types::Incarnation;
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
    /// Acknowledged, neither closed nor synced since, and by whom: unknown once that incarnation has ended.
    unsettled: BTreeMap<WriterName, BTreeMap<u64, Incarnation>>,
    /// The longest content read so far and found good: every other read is a prefix of it, or extends it.
    longest: Vec<u8>,
    /// The records in it, and where each ends.
    read: BTreeMap<WriterName, BTreeMap<u64, usize>>,
    /// Acknowledged, and not in it.
    unread: BTreeMap<WriterName, BTreeSet<u64>>,
    /// Whatever of it was acknowledged ends here or before.
    floor: usize,
    reads: u64,
    failed_reads: u64,
    failed_writes: u64,
    violations: Vec<String>,
}

/// What must be in a read that begins now: so much of what was read before, and these records.
#[derive(Debug, Clone, Default)]
pub struct Promised {
    floor: usize,
    unread: BTreeMap<WriterName, BTreeSet<u64>>,
}

impl Promised {
    /// Nothing must be there yet.
    pub fn is_empty(&self) -> bool {
        self.floor == 0 && self.unread.values().all(BTreeSet::is_empty)
    }
}

/// Records by writer, and where each ends.
type Records<'a> = BTreeMap<&'a str, BTreeMap<u64, usize>>;

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

    /// The number of its last record.
    pub fn attempted(&self, writer: &str) -> u64 {
        self.log()
            .attempted
            .get(writer)
            .copied()
            .unwrap_or_default()
    }

    /// The write answered well; `by` is what its member was before it.
    pub fn acknowledged(&self, writer: &str, number: u64, by: Incarnation) {
        let mut guard = self.log();
        let log = &mut *guard;
        let unsettled = log.unsettled.entry(writer.to_owned()).or_default();
        unsettled.insert(number, by);
        let known = log.acknowledged.entry(writer.to_owned()).or_default();
        known.insert(number);
        match log.read.get(writer).and_then(|read| read.get(&number)) {
            Some(end) => log.floor = log.floor.max(*end),
            None => {
                let unread = log.unread.entry(writer.to_owned()).or_default();
                unread.insert(number);
            }
        }
    }

    /// The write answered with an error: nobody knows what became of it.
    pub fn unknown(&self) {
        self.log().failed_writes += 1;
    }

    /// A close or fsync that began when everything up to here was acknowledged answered well.
    pub fn settled(&self, writer: &str, through: u64) {
        if let Some(unsettled) = self.log().unsettled.get_mut(writer) {
            *unsettled = unsettled.split_off(&(through + 1));
        }
    }

    /// Incarnations that have not ended are told by `lives`: what the others have not settled is unknown.
    pub fn forget_unsettled(&self, lives: impl Fn(Incarnation) -> bool) {
        let mut guard = self.log();
        let log = &mut *guard;
        for (writer, unsettled) in &mut log.unsettled {
            let read = log.read.get(writer);
            let mut gone = |number: &u64| {
                if read.is_some_and(|read| read.contains_key(number)) {
                    return;
                }
                for known in [&mut log.acknowledged, &mut log.unread] {
                    known.get_mut(writer).map(|numbers| numbers.remove(number));
                }
            };
            unsettled.retain(|number, by| {
                let keeps = lives(*by);
                if !keeps {
                    gone(number);
                }
                keeps
            });
        }
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
        let log = self.log();
        Promised {
            floor: log.floor,
            unread: log.unread.clone(),
        }
    }

    /// Every machine lost power at once: what was acknowledged, neither made durable nor read, may be gone.
    pub fn blackout(&self) {
        let mut guard = self.log();
        let log = &mut *guard;
        for (writer, numbers) in &mut log.acknowledged {
            let durable = log.durable.get(writer);
            let read = log.read.get(writer);
            numbers.retain(|number| {
                durable.is_some_and(|durable| durable.contains(number))
                    || read.is_some_and(|read| read.contains_key(number))
            });
        }
        for (writer, numbers) in &mut log.unread {
            let durable = log.durable.get(writer);
            numbers.retain(|number| durable.is_some_and(|durable| durable.contains(number)));
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
        let mut guard = self.log();
        let log = &mut *guard;
        log.reads += 1;
        let mut promised = promised.clone();
        for (writer, numbers) in &mut promised.unread {
            // Some may be unknown since the read began.
            let still = log.unread.get(writer);
            let read = log.read.get(writer);
            numbers.retain(|number| {
                still.is_some_and(|still| still.contains(number))
                    || read.is_some_and(|read| read.contains_key(number))
            });
        }
        match judge(log, content, &promised) {
            Ok(fresh) => log.take(content, fresh),
            Err(what) => {
                // Here for whoever follows the log.
                tracing::info!(reader, what, "a broken promise");
                log.violations.push(format!("{reader}: {what}"));
            }
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

impl Log {
    /// A good read showed these records behind the longest content so far.
    fn take(&mut self, content: &[u8], fresh: Records<'_>) {
        for (writer, records) in fresh {
            let acknowledged = self.acknowledged.get(writer);
            for (number, end) in &records {
                if acknowledged.is_some_and(|known| known.contains(number)) {
                    self.floor = self.floor.max(*end);
                }
            }
            if let Some(unread) = self.unread.get_mut(writer) {
                unread.retain(|number| !records.contains_key(number));
            }
            let read = self.read.entry(writer.to_owned()).or_default();
            read.extend(records);
        }
        if content.len() > self.longest.len() {
            self.longest
                .extend_from_slice(&content[self.longest.len()..]);
        }
    }
}

/// The records behind what was read and judged before.
fn judge<'a>(log: &Log, content: &'a [u8], promised: &Promised) -> Result<Records<'a>, String> {
    let common = content.len().min(log.longest.len());
    if content[..common] != log.longest[..common] {
        let at = (0..common).find(|at| content[*at] != log.longest[*at]);
        let at = at.unwrap_or(common);
        return Err(format!(
            "byte {at} changed after it was read: was {:?}, is {:?}",
            around(&log.longest, at),
            around(content, at)
        ));
    }
    let text = std::str::from_utf8(&content[common..])
        .map_err(|error| format!("bytes that nobody wrote: {error}"))?;
    let whole = content.is_empty() || content.ends_with(b"\n");
    if !whole {
        return Err(format!(
            "the last line is torn: {:?}",
            around(content, content.len())
        ));
    }
    let fresh = records(log, text, common)?;
    let is_there = |writer: &str, number: &u64| {
        let read = log.read.get(writer).and_then(|read| read.get(number));
        read.is_some_and(|end| *end <= content.len())
            || fresh
                .get(writer)
                .is_some_and(|fresh| fresh.contains_key(number))
    };
    let missing: Vec<(&WriterName, u64)> = if content.len() < promised.floor {
        // All that is acknowledged: slow, to tell which.
        let all = log.acknowledged.iter();
        all.flat_map(|(writer, numbers)| numbers.iter().map(move |number| (writer, *number)))
            .filter(|(writer, number)| {
                let read = log.read.get(*writer).and_then(|read| read.get(number));
                read.is_some_and(|end| *end <= promised.floor) && !is_there(writer, number)
            })
            .collect()
    } else {
        let all = promised.unread.iter();
        all.flat_map(|(writer, numbers)| numbers.iter().map(move |number| (writer, *number)))
            .filter(|(writer, number)| !is_there(writer, number))
            .collect()
    };
    match missing.first() {
        Some((writer, number)) => Err(format!(
            "record {number} of {writer} was acknowledged before the read began and is not in it ({} missing, {} bytes read)",
            missing.len(),
            content.len()
        )),
        None => Ok(fresh),
    }
}

/// The records of a text that begins at `offset` of the content.
fn records<'a>(log: &Log, text: &'a str, offset: usize) -> Result<Records<'a>, String> {
    let mut fresh = Records::new();
    let mut end = offset;
    for line in text.lines() {
        end += line.len() + 1;
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
        let before = log.read.get(writer);
        let lane = fresh.entry(writer).or_default();
        if lane.contains_key(&number) || before.is_some_and(|read| read.contains_key(&number)) {
            return Err(format!("record {number} of {writer} is there twice"));
        }
        let last = |records: &BTreeMap<u64, usize>| records.keys().next_back().copied();
        let last = last(lane).or(before.and_then(last));
        if let Some(last) = last.filter(|last| *last > number) {
            return Err(format!(
                "record {number} of {writer} stands after its record {last}"
            ));
        }
        lane.insert(number, end);
    }
    Ok(fresh)
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
            oracle.acknowledged("w", number, Incarnation(1));
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
    fn what_was_not_settled_may_go_with_its_incarnation_and_not_before() {
        let one = line("w", 1, 3);
        let oracle = two_written();
        oracle.settled("w", 1);
        let promised = oracle.promised();
        oracle.forget_unsettled(|by| by == Incarnation(1));
        assert!(judged(&oracle, &one).unwrap().contains("record 2 of w"));
        let oracle = two_written();
        oracle.settled("w", 1);
        oracle.forget_unsettled(|_| false);
        oracle.read("r", &one, &promised);
        assert_eq!(oracle.violations(), [""; 0]);
        assert!(judged(&oracle, b"").unwrap().contains("record 1 of w"));
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
        oracle.read("r", &[one, line("w", 2, 4)].concat(), &Promised::default());
        assert!(oracle.violations()[0].contains("changed after it was read"));
    }
}

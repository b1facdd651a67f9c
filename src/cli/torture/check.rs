//! What was promised, checked against what is there: lines that several writers append to one file, and names. Pure: it is
//! shown what the workload knows and what was read, and says what is wrong. Each kind of violation is found in a planted
//! example below.

use serde::Serialize;
use std::collections::BTreeMap;

/// Violations that are described; more are counted.
const TOLD_MAX: usize = 20;
/// Every so many lines a long one crosses pages.
const LONG_EVERY: usize = 97;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An acknowledged line, file or output is not there.
    Lost,
    /// It is there more than once.
    Doubled,
    /// Bytes that nobody wrote so: a line in parts, or a file with other content.
    Torn,
    /// A writer's lines are not in its order, or bytes that were readable changed place.
    Reordered,
    /// A read missed what was acknowledged before it began.
    Stale,
    /// Mounts show different content, or a name has two owners.
    Diverged,
    /// A call did not return, a member did not come back, or a job did not end well.
    Stuck,
}

/// Everything that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub counts: BTreeMap<Kind, u64>,
    pub told: Vec<String>,
}

impl Found {
    /// One thing.
    pub fn of(kind: Kind, what: String) -> Self {
        let mut found = Self::default();
        found.add(kind, what);
        found
    }

    /// Notes a violation.
    pub fn add(&mut self, kind: Kind, what: impl Into<String>) {
        *self.counts.entry(kind).or_default() += 1;
        if self.told.len() < TOLD_MAX {
            self.told
                .push(format!("{kind:?}: {}", what.into()).to_lowercase());
        }
    }

    /// Adds what another check found.
    pub fn merge(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        let room = TOLD_MAX.saturating_sub(self.told.len());
        self.told.extend(other.told.into_iter().take(room));
    }

    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }
}

/// Line `n` of writer `w`, with its end. Its filling follows from both and the seed.
pub fn line(seed: u64, w: usize, n: usize) -> String {
    let mixed = (seed ^ (w as u64 + 1) << 40 ^ n as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23);
    let filling = if n % LONG_EVERY == LONG_EVERY - 1 {
        4000 + mixed % 5000
    } else {
        mixed % 120
    };
    let letter = char::from(b'a' + (mixed >> 32) as u8 % 26);
    format!(
        "w{w} {n:07} {}\n",
        String::from(letter).repeat(filling as usize)
    )
}

/// What one writer knows of its lines: `true` where the write was acknowledged, `false` where its fate is unknown.
pub type Acks = Vec<bool>;

/// A reader of the file: what it has seen so far.
pub struct Lines {
    seed: u64,
    text: Vec<u8>,
    /// Bytes of `text` that were looked at: whole lines.
    parsed: usize,
    /// Lines seen, by writer.
    seen: Vec<Vec<bool>>,
    next: Vec<usize>,
}

impl Lines {
    pub fn new(seed: u64, writers: usize) -> Self {
        Self {
            seed,
            text: Vec::new(),
            parsed: 0,
            seen: vec![Vec::new(); writers],
            next: vec![0; writers],
        }
    }

    /// A read returned `bytes`; what had been acknowledged when it began is `acks`.
    pub fn read(&mut self, bytes: Vec<u8>, acks: &[Acks], what: &str) -> Found {
        let mut found = Found::default();
        let same = self
            .text
            .iter()
            .zip(&bytes)
            .take_while(|(a, b)| a == b)
            .count();
        if same < self.text.len() && same < bytes.len() {
            found.add(
                Kind::Reordered,
                format!("{what}: byte {same} is not what was read there before"),
            );
            // Start over, so that one change is told once.
            *self = Self::new(self.seed, self.next.len());
        } else if bytes.len() < self.text.len() {
            // Shorter than before: told below, as the lines that it lacks.
            let seen = self.parsed.min(bytes.len());
            let whole = whole_lines(&bytes[..seen]);
            let mut shorter = Self::new(self.seed, self.next.len());
            shorter.text = bytes[..whole].to_vec();
            drop(shorter.parse(what));
            *self = shorter;
        }
        self.text = bytes;
        found.merge(self.parse(what));
        found.merge(self.missing(acks, Kind::Stale, what));
        found
    }

    /// The last read, with everything settled: the file holds exactly what was written.
    pub fn last(seed: u64, bytes: Vec<u8>, acks: &[Acks]) -> Found {
        let mut lines = Self::new(seed, acks.len());
        let torn_end = bytes.len() - whole_lines(&bytes);
        lines.text = bytes;
        let mut found = lines.parse("at the end");
        if torn_end > 0 {
            found.add(
                Kind::Torn,
                format!("the file ends in {torn_end} bytes of a line"),
            );
        }
        for (w, seen) in lines.seen.iter().enumerate() {
            if seen.len() > acks[w].len() {
                found.add(
                    Kind::Torn,
                    format!("writer {w} has lines that it never wrote"),
                );
            }
        }
        found.merge(lines.missing(acks, Kind::Lost, "at the end"));
        found
    }

    /// Looks at the whole lines that are new.
    fn parse(&mut self, what: &str) -> Found {
        let mut found = Found::default();
        let end = whole_lines(&self.text);
        while self.parsed < end {
            let rest = &self.text[self.parsed..end];
            let len = rest
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(rest.len(), |at| at + 1);
            let at = self.parsed;
            self.parsed += len;
            let Some((w, n)) = self.identify(&rest[..len]) else {
                found.add(
                    Kind::Torn,
                    format!("{what}: no line of any writer at byte {at}"),
                );
                continue;
            };
            let seen = &mut self.seen[w];
            if seen.len() <= n {
                seen.resize(n + 1, false);
            }
            if std::mem::replace(&mut seen[n], true) {
                found.add(
                    Kind::Doubled,
                    format!("{what}: line {n} of writer {w} again at byte {at}"),
                );
            } else if n < self.next[w] {
                found.add(
                    Kind::Reordered,
                    format!(
                        "{what}: line {n} of writer {w} at byte {at}, behind its line {}",
                        self.next[w] - 1
                    ),
                );
            }
            self.next[w] = self.next[w].max(n + 1);
        }
        found
    }

    /// Whose line this is, if it is whole.
    fn identify(&self, found: &[u8]) -> Option<(usize, usize)> {
        let text = std::str::from_utf8(found).ok()?;
        let mut words = text.split(' ');
        let w: usize = words.next()?.strip_prefix('w')?.parse().ok()?;
        let n: usize = words.next()?.parse().ok()?;
        (w < self.next.len() && text == line(self.seed, w, n)).then_some((w, n))
    }

    /// Acknowledged lines that were not seen.
    fn missing(&self, acks: &[Acks], kind: Kind, what: &str) -> Found {
        let mut found = Found::default();
        for (w, acks) in acks.iter().enumerate() {
            for n in (0..acks.len()).filter(|n| acks[*n]) {
                if !self.seen[w].get(n).copied().unwrap_or(false) {
                    found.add(kind, format!("{what}: line {n} of writer {w}"));
                }
            }
        }
        found
    }
}

/// Bytes up to the end of the last whole line.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1)
}

/// How far a file came on its way: made as `a`, renamed to `b`, removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Steps that were acknowledged, 0 to 3.
    pub done: u8,
    /// One more was tried, and its outcome is unknown.
    pub tried: bool,
}

/// What is there of such a file; the content where it could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    pub a: Option<Vec<u8>>,
    pub b: Option<Vec<u8>>,
}

/// Checks one file. `content`: what was written before the first step was acknowledged.
pub fn name(steps: Steps, standing: &Standing, content: &[u8], what: &str) -> Found {
    let mut found = Found::default();
    let there = (standing.a.is_some(), standing.b.is_some());
    let after = |step: u8| match step {
        1 => (true, false),
        2 => (false, true),
        _ => (false, false),
    };
    let possible = there == after(steps.done) || steps.tried && there == after(steps.done + 1);
    if !possible {
        let kind = match there {
            (false, false) => Kind::Lost,
            (true, true) => Kind::Doubled,
            _ => Kind::Reordered,
        };
        found.add(
            kind,
            format!("{what}: after {} steps the names are {there:?}", steps.done),
        );
    }
    for bytes in [&standing.a, &standing.b].into_iter().flatten() {
        if steps.done > 0 && bytes != content {
            found.add(
                Kind::Torn,
                format!("{what} has {} bytes that were not written so", bytes.len()),
            );
        }
    }
    found
}

/// Checks a job's output: the wanted lines, each once, in any order.
pub fn output(got: &[u8], wanted: &BTreeMap<Vec<u8>, u64>, what: &str) -> Found {
    let mut found = Found::default();
    let mut counts: BTreeMap<&[u8], u64> = BTreeMap::new();
    for line in got.split_inclusive(|byte| *byte == b'\n') {
        *counts.entry(line).or_default() += 1;
    }
    for (line, count) in &counts {
        match wanted.get(*line) {
            None => found.add(
                Kind::Torn,
                format!("{what}: a line that is none of the output"),
            ),
            Some(most) if count > most => {
                found.add(Kind::Doubled, format!("{what}: a line {count} times"));
            }
            Some(_) => {}
        }
    }
    for (line, most) in wanted {
        if counts.get(&line[..]).copied().unwrap_or(0) < *most {
            found.add(Kind::Lost, format!("{what}: a line of the output"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 5;

    fn file(lines: &[(usize, usize)]) -> Vec<u8> {
        lines
            .iter()
            .flat_map(|(w, n)| line(SEED, *w, *n).into_bytes())
            .collect()
    }

    fn acks() -> Vec<Acks> {
        vec![vec![true, true, false], vec![true]]
    }

    fn kinds(found: &Found) -> Vec<(Kind, u64)> {
        found
            .counts
            .iter()
            .map(|(kind, count)| (*kind, *count))
            .collect()
    }

    #[test]
    fn what_is_right_is_clean() {
        for lines in [
            &[(0, 0), (1, 0), (0, 1)][..],
            &[(1, 0), (0, 0), (0, 1), (0, 2)],
        ] {
            assert!(Lines::last(SEED, file(lines), &acks()).is_clean());
        }
        let mut reader = Lines::new(SEED, 2);
        let before = [vec![true], vec![]];
        assert!(reader.read(file(&[(0, 0)]), &before, "r").is_clean());
        assert!(
            reader
                .read(file(&[(0, 0), (1, 0), (0, 1)]), &acks(), "r")
                .is_clean()
        );
    }

    #[test]
    fn each_planted_violation_of_a_file_is_found() {
        let last = |bytes| kinds(&Lines::last(SEED, bytes, &acks()));
        assert_eq!(last(file(&[(0, 0), (1, 0)])), [(Kind::Lost, 1)]);
        assert_eq!(
            last(file(&[(0, 0), (1, 0), (0, 1), (0, 1)])),
            [(Kind::Doubled, 1)]
        );
        assert_eq!(
            last(file(&[(0, 1), (0, 0), (1, 0)])),
            [(Kind::Reordered, 1)]
        );
        let mut torn = file(&[(0, 0), (1, 0), (0, 1)]);
        torn.truncate(torn.len() - 1);
        assert_eq!(last(torn), [(Kind::Lost, 1), (Kind::Torn, 1)]);
        let mut mixed = file(&[(0, 0), (1, 0), (0, 1), (0, 2)]);
        mixed.splice(4..4, *b"w1 00");
        assert_eq!(last(mixed), [(Kind::Lost, 1), (Kind::Torn, 1)]);
        let mut flipped = file(&[(0, 0), (1, 0), (0, 1), (0, 2)]);
        flipped[1] ^= 4;
        assert_eq!(last(flipped), [(Kind::Lost, 1), (Kind::Torn, 1)]);
        assert_eq!(
            last(file(&[(0, 0), (1, 0), (0, 1), (0, 2), (0, 3)])),
            [(Kind::Torn, 1)],
            "a line that was never written"
        );
    }

    #[test]
    fn stale_and_changing_reads_are_found() {
        let mut reader = Lines::new(SEED, 2);
        let found = reader.read(file(&[(0, 0)]), &acks(), "r");
        assert_eq!(kinds(&found), [(Kind::Stale, 2)]);
        let whole = file(&[(0, 0), (1, 0), (0, 1)]);
        assert!(reader.read(whole.clone(), &acks(), "r").is_clean());
        let found = reader.read(file(&[(1, 0), (0, 0), (0, 1)]), &acks(), "r");
        assert_eq!(kinds(&found), [(Kind::Reordered, 1)]);
        let mut reader = Lines::new(SEED, 2);
        assert!(reader.read(whole.clone(), &acks(), "r").is_clean());
        let found = reader.read(file(&[(0, 0), (1, 0)]), &acks(), "r");
        assert_eq!(kinds(&found), [(Kind::Stale, 1)]);
        assert!(reader.read(whole, &acks(), "r").is_clean(), "told once");
    }

    #[test]
    fn each_planted_violation_of_a_name_is_found() {
        let there = |a: bool, b: bool| Standing {
            a: a.then(|| b"x".to_vec()),
            b: b.then(|| b"x".to_vec()),
        };
        let judge = |done, tried, standing: &Standing| {
            kinds(&name(Steps { done, tried }, standing, b"x", "n"))
        };
        for (done, tried, a, b) in [
            (0, true, true, false),
            (0, true, false, false),
            (1, false, true, false),
            (1, true, false, true),
            (2, false, false, true),
            (2, true, false, false),
            (3, false, false, false),
        ] {
            assert!(
                judge(done, tried, &there(a, b)).is_empty(),
                "{done} {tried} {a} {b}"
            );
        }
        assert_eq!(judge(1, false, &there(false, false)), [(Kind::Lost, 1)]);
        assert_eq!(judge(2, true, &there(true, true)), [(Kind::Doubled, 1)]);
        assert_eq!(judge(2, false, &there(true, false)), [(Kind::Reordered, 1)]);
        assert_eq!(judge(3, false, &there(false, true)), [(Kind::Reordered, 1)]);
        let other = Standing {
            b: Some(b"y".to_vec()),
            a: None,
        };
        assert_eq!(judge(2, false, &other), [(Kind::Torn, 1)]);
    }

    #[test]
    fn each_planted_violation_of_an_output_is_found() {
        let wanted = BTreeMap::from([(b"a\n".to_vec(), 2), (b"b\n".to_vec(), 1)]);
        let judge = |got: &[u8]| kinds(&output(got, &wanted, "o"));
        assert!(judge(b"a\nb\na\n").is_empty());
        assert_eq!(judge(b"a\nb\n"), [(Kind::Lost, 1)]);
        assert_eq!(judge(b"a\nb\na\nb\n"), [(Kind::Doubled, 1)]);
        assert_eq!(judge(b"a\nb\na\nc\n"), [(Kind::Torn, 1)]);
    }

    #[test]
    fn what_is_told_is_bounded_and_what_is_counted_is_not() {
        let mut found = Found::default();
        (0..100).for_each(|n| found.add(Kind::Lost, n.to_string()));
        let mut all = Found::default();
        all.merge(found.clone());
        all.merge(found);
        assert_eq!(kinds(&all), [(Kind::Lost, 200)]);
        assert_eq!(all.told.len(), TOLD_MAX);
    }
}

//! Numbered lines that several writers append to one file: how they are made, written, sampled and judged.
//!
//! A line says who wrote it, its number, and a filling of a length that follows from both: a torn, lost, doubled or
//! reordered line shows. The judge knows for each line whether its write was acknowledged, also by fsync, or is unknown.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    hash::{DefaultHasher, Hasher},
    io::{Error, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Every so many lines a long one crosses a page or two.
const LONG_EVERY: usize = 89;

/// Line `n` of writer `w`, with its end.
pub fn line(w: usize, n: usize) -> String {
    let mixed = (w * 1_000_003 + n) * 2_654_435_761 % 4_294_967_291;
    let filling = if n % LONG_EVERY == LONG_EVERY - 1 {
        4000 + mixed % 5000
    } else {
        mixed % 160
    };
    let letter = char::from(b'a' + (mixed % 26) as u8);
    format!("w{w} {n:06} {}\n", String::from(letter).repeat(filling))
}

/// What the writers know about their lines.
#[derive(Debug, Default, Clone)]
pub struct Log {
    /// Line number to whether its write returned without an error.
    pub written: BTreeMap<usize, bool>,
    /// Lines below this were acknowledged by fsync, where their write was.
    pub synced: usize,
    /// Errors met, with how often.
    pub errors: BTreeMap<String, usize>,
}

impl Log {
    pub fn acknowledged(&self) -> usize {
        self.written.values().filter(|ok| **ok).count()
    }

    fn failed(&mut self, what: &str, error: &Error) {
        *self.errors.entry(format!("{what}: {error}")).or_default() += 1;
    }
}

/// Appends lines `0..` of writer `w` to the file until `enough` says so, with an fsync every `sync_every` lines. The file has
/// to be there: where nothing is mounted for a moment it is not. A write that fails is not tried again: its line is
/// unknown. After an error the file is opened anew, until that works.
pub fn write_lines(
    path: &Path,
    w: usize,
    sync_every: usize,
    enough: impl Fn(usize) -> bool,
) -> Log {
    let mut log = Log::default();
    let mut file: Option<File> = None;
    let mut n = 0;
    while !enough(n) {
        let Some(open) = &mut file else {
            match OpenOptions::new().append(true).open(path) {
                Ok(opened) => file = Some(opened),
                Err(error) => {
                    log.failed("open", &error);
                    thread::sleep(Duration::from_millis(50));
                }
            }
            continue;
        };
        let text = line(w, n);
        let done = open.write(text.as_bytes()).and_then(|len| {
            if len == text.len() {
                Ok(())
            } else {
                Err(Error::other(format!(
                    "short write: {len} of {}",
                    text.len()
                )))
            }
        });
        log.written.insert(n, done.is_ok());
        n += 1;
        let done = match done {
            Ok(()) if n % sync_every == 0 => open
                .sync_data()
                .map(|()| log.synced = n)
                .map_err(|error| ("fsync", error)),
            Ok(()) => Ok(()),
            Err(error) => Err(("write", error)),
        };
        if let Err((what, error)) = done {
            log.failed(what, &error);
            file = None;
        }
    }
    if let Some(open) = &file {
        match open.sync_data() {
            // An error before may have hit acknowledged lines of an earlier descriptor: only a whole log counts as synced.
            Ok(()) => log.synced = n,
            Err(error) => log.failed("fsync", &error),
        }
    }
    log
}

/// One read of the whole file: its length and what it hashed to.
pub struct Sample {
    pub mount: PathBuf,
    pub len: usize,
    hash: u64,
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What the file holds when it is asked for its size, and perhaps some more. Reading to its end would run after the writers.
fn read_as_of_now(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len() as usize;
    let mut bytes = vec![0; size + 65_536];
    let mut len = 0;
    while len < size {
        match file.read(&mut bytes[len..])? {
            0 => {
                return Err(Error::other(format!(
                    "the file ends at {len}, its size is {size}"
                )));
            }
            read => len += read,
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads the file from changing mounts until told to stop; each read has to begin with the one before. Errors are counted.
pub fn sample(
    paths: &[PathBuf],
    first: usize,
    stop: &AtomicBool,
) -> (Vec<Sample>, BTreeMap<String, usize>) {
    let (mut samples, mut errors) = (Vec::new(), BTreeMap::new());
    let mut before: Vec<u8> = Vec::new();
    for turn in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let path = &paths[turn % paths.len()];
        match read_as_of_now(path) {
            Ok(bytes) => {
                let same = before
                    .iter()
                    .zip(&bytes)
                    .take_while(|(a, b)| a == b)
                    .count();
                assert!(
                    same == before.len(),
                    "{} at {turn}: a read of {} bytes does not begin with the {} bytes read before; they differ at {same}: {:?} was {:?}",
                    path.display(),
                    bytes.len(),
                    before.len(),
                    excerpt(&bytes, same),
                    excerpt(&before, same)
                );
                samples.push(Sample {
                    mount: path.clone(),
                    len: bytes.len(),
                    hash: hash(&bytes),
                });
                before = bytes;
            }
            Err(error) => *errors.entry(error.to_string()).or_default() += 1,
        }
        thread::sleep(Duration::from_millis(20));
    }
    (samples, errors)
}

/// Asserts that every sample was a prefix of the final bytes.
pub fn judge_samples(samples: &[Sample], last: &[u8]) {
    for sample in samples {
        assert!(
            sample.len <= last.len() && hash(&last[..sample.len]) == sample.hash,
            "a read of {} bytes on {} was no prefix of the final {} bytes",
            sample.len,
            sample.mount.display(),
            last.len()
        );
    }
}

/// Asserts that the file holds exactly the writers' lines: whole, once, each writer's in order; everything acknowledged,
/// and of the unknown any.
pub fn judge(bytes: &[u8], logs: &[Log]) {
    let mut next = vec![0; logs.len()];
    let mut lost: Vec<String> = Vec::new();
    let mut at = 0;
    assert!(
        bytes.is_empty() || bytes.ends_with(b"\n"),
        "the last line is torn: {:?}",
        excerpt(bytes, bytes.len())
    );
    for found in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(found);
        let mut words = text.split(' ');
        let who = words
            .next()
            .and_then(|word| word.strip_prefix('w')?.parse::<usize>().ok())
            .filter(|w| *w < logs.len());
        let number = words.next().and_then(|word| word.parse::<usize>().ok());
        let (Some(w), Some(n)) = (who, number) else {
            panic!("a torn line at byte {at}: {:?}", excerpt(bytes, at))
        };
        assert!(
            text == line(w, n),
            "line {n} of writer {w} is torn at byte {at}: {:?}",
            excerpt(bytes, at)
        );
        assert!(
            n >= next[w],
            "line {n} of writer {w} stands at byte {at}, after its line {}: doubled or out of order",
            next[w] - 1
        );
        assert!(
            logs[w].written.contains_key(&n),
            "line {n} of writer {w} was never written"
        );
        missing(&logs[w], w, next[w]..n, &mut lost);
        next[w] = n + 1;
        at += found.len();
    }
    for (w, log) in logs.iter().enumerate() {
        missing(log, w, next[w]..log.written.len(), &mut lost);
    }
    assert!(
        lost.is_empty(),
        "{} acknowledged lines are lost: {}",
        lost.len(),
        lost[..lost.len().min(40)].join(", ")
    );
}

/// Collects the acknowledged lines among those that are not in the file.
fn missing(log: &Log, w: usize, absent: std::ops::Range<usize>, lost: &mut Vec<String>) {
    for n in absent.filter(|n| log.written.get(n) == Some(&true)) {
        let how = if n < log.synced { "fsync" } else { "write" };
        lost.push(format!("w{w} {n} ({how})"));
    }
}

fn excerpt(bytes: &[u8], at: usize) -> String {
    let range = at.saturating_sub(60)..bytes.len().min(at + 60);
    String::from_utf8_lossy(&bytes[range]).into_owned()
}

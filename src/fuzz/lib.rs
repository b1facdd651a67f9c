//! Throws damaged and invented bytes at a decoder: the harness behind every test named `fuzz_…`.
//!
//! A target is a function from bytes to a text that says what they were taken for. Inputs are made of those that are
//! known, and one whose text is of a new shape becomes known, too: so mutation works its way past the first check without
//! an instrumented compiler. What a target needs to have seen stays in its corpus, a folder beside the crate's code, whose
//! files run first; an input that makes a target panic is written there, to be kept with its fix.
//!
//! In CI each target takes [`ROUNDS`] inputs, the same ones each time. `scripts/fuzz` goes on for longer, from another seed
//! each time, and can keep some of what it got to know.

mod mutate;

use mutate::{Random, mutated};
use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Inputs of a run that no time is given for.
pub const ROUNDS: usize = 10_000;
/// Bytes of an input.
const INPUT_BYTES_MAX: usize = 8 << 10;
/// Inputs that a run keeps when it is asked to, the shortest first, and bytes of one.
const KEPT_MAX: usize = 16;
const KEPT_BYTES_MAX: usize = 512;
/// Inputs that are known at a time.
const KNOWN_MAX: usize = 2048;
/// Of the text that a target answers, as much counts for its shape.
const SHAPE_BYTES: usize = 300;
/// And of one of several.
const SEEN_BYTES: usize = 70;

/// A decoder under test.
pub struct Target {
    corpus: PathBuf,
    seeds: Vec<Vec<u8>>,
}

impl Target {
    /// `crate_dir`: `env!("CARGO_MANIFEST_DIR")` of the crate whose folder `corpus/NAME` holds what is kept.
    pub fn new(crate_dir: &str, name: &str) -> Self {
        Self {
            corpus: Path::new(crate_dir).join("corpus").join(name),
            seeds: Vec::new(),
        }
    }

    /// Inputs to begin with besides those of the corpus: valid ones, so that most of a mutated one makes sense.
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Runs the target; answers how many shapes of text it gave.
    ///
    /// # Panics
    /// As the target did, once the input is written to the corpus; or if that cannot be read.
    pub fn run(self, target: impl Fn(&[u8]) -> String) -> usize {
        let seconds = std::env::var("HYDFS_FUZZ_SECONDS").ok();
        let seconds = seconds.and_then(|text| text.parse().ok());
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut random = Random::new(match until {
            Some(_) => std::process::id().into(),
            None => 1,
        });
        let mut known = self.seeds.clone();
        known.extend(kept(&self.corpus));
        known.push(Vec::new());
        let given = known.len();
        let mut shapes = BTreeSet::new();
        for input in &known {
            shapes.insert(self.shape(&target, input));
        }
        let mut rounds = 0;
        while until.map_or(rounds < ROUNDS, |until| Instant::now() < until) {
            rounds += 1;
            let input = mutated(&mut random, &known, INPUT_BYTES_MAX);
            if shapes.insert(self.shape(&target, &input)) && known.len() < KNOWN_MAX {
                known.push(input);
            }
        }
        if std::env::var_os("HYDFS_FUZZ_KEEP").is_some() {
            self.keep(known.split_off(given));
        }
        println!("{rounds} inputs, {} shapes", shapes.len());
        shapes.len()
    }

    fn shape(&self, target: &impl Fn(&[u8]) -> String, input: &[u8]) -> u64 {
        match catch_unwind(AssertUnwindSafe(|| target(input))) {
            Ok(text) => shape_of(&text),
            Err(panic) => {
                match self.write(input) {
                    Ok(path) => eprintln!("the input is kept as {}", path.display()),
                    Err(error) => eprintln!("not kept: {error}; the input is {input:?}"),
                }
                resume_unwind(panic)
            }
        }
    }

    fn keep(&self, mut learned: Vec<Vec<u8>>) {
        learned.retain(|input| input.len() <= KEPT_BYTES_MAX);
        learned.sort_by_key(Vec::len);
        for input in learned.iter().take(KEPT_MAX) {
            self.write(input)
                .unwrap_or_else(|error| panic!("{}: {error}", self.corpus.display()));
        }
    }

    fn write(&self, input: &[u8]) -> io::Result<PathBuf> {
        let path = self.corpus.join(format!("{:016x}", hash_of(input)));
        fs::create_dir_all(&self.corpus)?;
        fs::write(&path, input)?;
        Ok(path)
    }
}

/// What a decoder made of its input, as far as it counts: one of several in a text.
pub fn seen<T: std::fmt::Debug, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    let mut text = match result {
        Ok(read) => format!("{read:?}"),
        Err(error) => format!("not: {error}"),
    };
    text.retain(|char| char.is_ascii() && !char.is_ascii_digit());
    text.truncate(SEEN_BYTES);
    text
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Texts that differ in numbers alone have the same one.
fn shape_of(text: &str) -> u64 {
    let words = text.bytes().take(SHAPE_BYTES);
    hash_of(Vec::from_iter(words.filter(|byte| !byte.is_ascii_digit())))
}

/// What is kept, in the order of its names; nothing if there is no such folder.
fn kept(corpus: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(corpus) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        fs::read(&path).unwrap_or_else(|error| panic!("corpus {}: {error}", path.display()))
    };
    paths.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const WAY: [u8; 4] = [0, 0xff, b'"', 0x80];

    /// Four bytes that have to be right one after the other, each with a word of its own.
    fn maze(input: &[u8]) -> String {
        let right = input.iter().zip(WAY).take_while(|(a, b)| **a == *b);
        match right.count() {
            0 => "nothing".into(),
            1 => "one".into(),
            2 => "two".into(),
            3 => "three".into(),
            _ => panic!("found"),
        }
    }

    #[test]
    fn a_panic_behind_four_checks_is_found_and_its_input_kept() {
        let dir = std::env::temp_dir().join(format!("hydfs-fuzz-{}", std::process::id()));
        let target = Target::new(dir.to_str().unwrap(), "maze").seeds([*b"abcd"]);
        let found = catch_unwind(AssertUnwindSafe(|| target.run(maze)));
        let kept = kept(&dir.join("corpus/maze"));
        fs::remove_dir_all(&dir).unwrap();
        assert!(found.is_err());
        assert!(kept.len() == 1 && kept[0].starts_with(&WAY), "{kept:?}");
    }

    #[test]
    fn numbers_are_no_shape() {
        assert_eq!(shape_of("12 of 3"), shape_of("4 of 56"));
        assert_ne!(shape_of("12 of 3"), shape_of("12 in 3"));
    }
}

//! The two jobs of the kill matrix, what they read, and the judge of what they put out: those of `src/sim/sample.rs`.

use crate::{common::poll, desk::Desk, desk::JOB};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::chown,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Lines of each file that is there before, and files of the unordered job.
const LINES: usize = 300;
const FILES: usize = 6;
/// The pace of the writer to the file that grows, and lines of one write.
const PACE: Duration = Duration::from_millis(20);
const MORE: usize = 3;

const ORDERED: &str = r#"version = 1
[job]
epoch_ms = 100
[[source]]
name = "in"
path = "DIR/in/grows"
columns = ["key", "n"]
follow = true
[[stage]]
name = "read"
from = "in"
op = { map = { case = "lower" } }
[[stage]]
name = "once"
from = "read"
op = { dedup = { by = "key" } }
partition = "key"
key = "key"
tasks = 3
[[stage]]
name = "out"
from = "once"
op = { exec = { path = "/bin/paced", args = ["upper", "0"] } }
tasks = 3
[[sink]]
from = "out"
path = "DIR/out/"
"#;

const UNORDERED: &str = r#"version = 1
[job]
epoch_ms = 100
[[source]]
name = "in"
path = "DIR/in"
columns = ["key", "n"]
rate = "400/s"
[[stage]]
name = "read"
from = "in"
op = { filter = { column = "key", equals = "k0", not = true } }
tasks = 3
[[stage]]
name = "passed"
from = "read"
op = { exec = { path = "/bin/paced", args = ["upper", "0"], columns = ["key", "n"] } }
tasks = 3
[[stage]]
name = "sums"
from = "passed"
op = { sum = { by = "key", of = "n" } }
tasks = 2
[[sink]]
from = "passed"
path = "DIR/out/passed"
[[sink]]
from = "sums"
path = "DIR/out/sums"
"#;

/// What is to be expected of the order of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Ordered,
    Unordered,
}

impl Shape {
    /// The stages that read the source, keep state, and run an executable. What is put out comes of the last one.
    pub fn stages(self) -> [usize; 3] {
        match self {
            Self::Ordered => [0, 1, 2],
            Self::Unordered => [0, 2, 1],
        }
    }

    fn outputs(self) -> &'static [&'static str] {
        match self {
            Self::Ordered => &["out-0", "out-1", "out-2"],
            Self::Unordered => &["passed", "sums"],
        }
    }
}

/// Numbers that a seed gives (splitmix64).
pub struct Draws(pub u64);

impl Draws {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

/// Keys come again, and new ones come all the time.
fn some_lines(draws: &mut Draws, from: usize, count: usize, keys: usize) -> String {
    let mut line = |at: usize| {
        let key = draws.below(keys.max(at / 2 + 20) as u64);
        format!("k{key},{}\n", draws.below(1000))
    };
    (from..from + count).map(&mut line).collect()
}

/// A job that was begun.
pub struct Input<'a> {
    desk: &'a Desk,
    pub job: String,
    shape: Shape,
    stop: Arc<AtomicBool>,
    grows: Option<JoinHandle<()>>,
    /// What was shown of each output.
    shown: BTreeMap<&'static str, String>,
}

impl<'a> Input<'a> {
    /// Writes what is to be read, and drops the spec.
    pub fn begin(desk: &'a Desk, job: &str, shape: Shape, mut draws: Draws) -> Self {
        let dir = desk.cluster.at(1, job);
        fs::create_dir_all(dir.join("in")).expect("a directory");
        fs::create_dir_all(dir.join("out")).expect("a directory");
        chown(dir.join("out"), Some(crate::desk::USER), None).expect("giving it away");
        let spec = match shape {
            Shape::Ordered => {
                let text = some_lines(&mut draws, 0, LINES, 0);
                fs::write(dir.join("in/grows"), text).expect("a source");
                ORDERED
            }
            Shape::Unordered => {
                for file in 0..FILES {
                    let text = some_lines(&mut draws, 0, LINES, 40);
                    fs::write(dir.join(format!("in/part{file}")), text).expect("a source");
                }
                UNORDERED
            }
        };
        desk.user_spec(1, job, &spec.replace("DIR", &format!("/{job}")));
        let stop = Arc::new(AtomicBool::new(false));
        let files: Vec<PathBuf> = desk
            .cluster
            .members()
            .map(|i| desk.cluster.at(i, &format!("{job}/in/grows")))
            .collect();
        let grows = (shape == Shape::Ordered).then(|| {
            let stop = stop.clone();
            thread::spawn(move || grow(&files, draws, &stop))
        });
        Self {
            desk,
            job: job.to_owned(),
            shape,
            stop,
            grows,
            shown: BTreeMap::new(),
        }
    }

    fn read(&self, path: &str) -> String {
        self.desk.read(&format!("{}/{path}", self.job))
    }

    /// Looks at all outputs: what was shown once stays.
    fn look(&mut self) {
        for name in self.shape.outputs() {
            // Nothing is there before the first lines.
            let i = self
                .desk
                .cluster
                .members()
                .find(|i| self.desk.cluster.at(*i, &self.job).exists());
            let Some(now) = i.and_then(|i| {
                fs::read_to_string(self.desk.cluster.at(i, &format!("{}/out/{name}", self.job)))
                    .ok()
            }) else {
                continue;
            };
            let before = self.shown.entry(name).or_default();
            assert!(
                now.starts_with(before.as_str()),
                "{}: {name} has not what it showed before",
                self.job
            );
            *before = now;
        }
    }

    fn is_through(&mut self) -> bool {
        self.look();
        match self.shape {
            Shape::Unordered => {
                self.desk.value(&self.job, "status", "status").as_deref() == Some("done")
            }
            Shape::Ordered => {
                let lines = self.shown.values().map(|shown| shown.lines().count());
                lines.sum::<usize>() >= first_of_each_key(&self.read("in/grows")).len()
            }
        }
    }

    /// Ends what it reads, waits until it is through, and holds its outputs at all mounts, and its receipt, against
    /// what it read.
    pub fn judge(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(grows) = self.grows.take() {
            grows.join().expect("the writer of the source");
        }
        let through = poll(JOB, || self.is_through());
        let told = |file| self.desk.job_file(&self.job, file);
        assert!(
            through,
            "{} is not through: {}{}",
            self.job,
            told("status"),
            told("log")
        );
        if self.shape == Shape::Ordered {
            self.desk.hydfs(&["job", "cancel", &self.job]);
        }
        for i in self.desk.cluster.members() {
            match self.shape {
                Shape::Ordered => self.ordered(i),
                Shape::Unordered => self.unordered(i),
            }
        }
        self.desk.hydfs(&["job", "audit", &self.job]);
    }

    fn output(&self, i: usize, name: &str) -> String {
        let path = self.desk.cluster.at(i, &format!("{}/out/{name}", self.job));
        fs::read_to_string(path).expect("an output")
    }

    /// Each key is in one file, and each file has its keys' first lines in the order of the source.
    fn ordered(&self, i: usize) {
        let wanted = first_of_each_key(&self.read("in/grows"));
        let mut taken = BTreeSet::new();
        for name in self.shape.outputs() {
            let content = self.output(i, name);
            let keys: BTreeSet<String> = lines(&content).into_iter().map(|(key, _)| key).collect();
            let of_it = wanted.iter().filter(|(key, _)| keys.contains(key));
            let right: String = of_it.map(|(key, n)| format!("{key},{n}\n")).collect();
            assert_eq!(right, content, "{}: {name} at n{i}", self.job);
            taken.extend(keys);
        }
        assert_eq!(taken.len(), wanted.len(), "{}: keys at n{i}", self.job);
    }

    /// The same lines as often.
    fn unordered(&self, i: usize) {
        let files = (0..FILES).map(|file| self.read(&format!("in/part{file}")));
        let mut passed: Vec<_> = files.flat_map(|text| lines(&text.to_uppercase())).collect();
        passed.retain(|(key, _)| key != "K0");
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (key, n) in &passed {
            *sums.entry(key.clone()).or_default() += n.parse::<u64>().expect("a number");
        }
        let mut sums: Vec<_> = sums
            .into_iter()
            .map(|(key, sum)| (key, sum.to_string()))
            .collect();
        for (name, wanted) in [("passed", &mut passed), ("sums", &mut sums)] {
            let mut found = lines(&self.output(i, name));
            found.sort();
            wanted.sort();
            assert_eq!(found, *wanted, "{}: {name} at n{i}", self.job);
        }
    }
}

/// Appends to the followed file through any mount that serves until told to stop. Whether an append that failed is there
/// is seen in the file at the end.
fn grow(files: &[PathBuf], mut draws: Draws, stop: &AtomicBool) {
    let mut from = LINES;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PACE);
        let text = some_lines(&mut draws, from, MORE, 0);
        from += MORE;
        let at = draws.below(files.len() as u64) as usize;
        if let Ok(mut file) = OpenOptions::new().append(true).open(&files[at]) {
            file.write_all(text.as_bytes()).ok();
        }
    }
}

fn lines(text: &str) -> Vec<(String, String)> {
    let split = |line: &str| {
        let (key, n) = line.split_once(',').unwrap_or((line, ""));
        (key.to_owned(), n.to_owned())
    };
    text.lines().map(split).collect()
}

fn first_of_each_key(source: &str) -> Vec<(String, String)> {
    let mut known = BTreeSet::new();
    let mut all = lines(&source.to_uppercase());
    all.retain(|(key, _)| known.insert(key.clone()));
    all
}

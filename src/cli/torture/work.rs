//! What a torture does to the file system while members fail: lines appended to one file from every mount and read on every
//! mount, files made, renamed and removed, one name wanted by all, and jobs. What was acknowledged is written down here.

use super::{
    check::{self, Acks, Found, Kind, Lines, Standing, Steps},
    cluster::Node,
};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Error, ErrorKind, Read, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const LOG: &str = "log";
/// An fsync after so many lines.
const SYNC_EVERY: usize = 8;
/// Between two lines of a writer: the file stays small enough to be read whole again and again.
const LINE_PAUSE: Duration = Duration::from_millis(4);
const READ_PAUSE: Duration = Duration::from_millis(250);
const NAME_PAUSE: Duration = Duration::from_millis(40);
/// One name is raced for in each such time.
const RACE_MS: u128 = 400;
pub const AFTER_ERROR: Duration = Duration::from_millis(50);
/// Lines of a job's source.
const JOB_LINES: usize = 20_000;
/// Longest a job may take, faults included.
pub const JOB: Duration = Duration::from_secs(180);

/// What is shared by everybody who works.
pub struct Work {
    pub nodes: Arc<[Node]>,
    seed: u64,
    /// The folder that everything is in, below each mount, and what jobs' names begin with: a run's own.
    pub name: String,
    pub stop: AtomicBool,
    pub began: Instant,
    acks: Vec<Mutex<Acks>>,
    steps: Vec<Mutex<Vec<Steps>>>,
    /// Who won a raced name.
    races: Mutex<BTreeMap<u128, Vec<usize>>>,
    /// Odd while a fault is on this member itself: its stalls are the fault's.
    pub down: Vec<AtomicU64>,
    stall_ms: AtomicU64,
    errors: AtomicU64,
    reads: AtomicU64,
    jobs: AtomicU64,
    found: Mutex<Found>,
}

/// Counts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub acknowledged: u64,
    pub unknown: u64,
    pub names: u64,
    pub reads: u64,
    pub jobs: u64,
    pub errors: u64,
    pub stall_ms: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    /// Makes its folder; a run of the same seed must not have left one.
    pub fn new(nodes: Arc<[Node]>, seed: u64) -> Result<Self, Error> {
        let name = format!("torture-{seed}");
        let folder = nodes[0].mount.join(&name);
        fs::create_dir(&folder)?;
        fs::create_dir(folder.join("names"))?;
        fs::create_dir(folder.join("visits"))?;
        File::create_new(folder.join(LOG))?;
        let source: String = (0..JOB_LINES)
            .map(|n| format!("{},{seed}\n", key(n)))
            .collect();
        fs::write(folder.join("source"), source)?;
        Ok(Self {
            seed,
            name,
            stop: AtomicBool::new(false),
            began: Instant::now(),
            acks: nodes.iter().map(|_| Mutex::default()).collect(),
            steps: nodes.iter().map(|_| Mutex::default()).collect(),
            races: Mutex::default(),
            down: nodes.iter().map(|_| AtomicU64::new(0)).collect(),
            stall_ms: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            found: Mutex::default(),
            nodes,
        })
    }

    pub fn at(&self, i: usize, name: &str) -> PathBuf {
        self.nodes[i].mount.join(&self.name).join(name)
    }

    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Notes what somebody found.
    pub fn found(&self, found: Found) {
        lock(&self.found).merge(found);
    }

    /// A call failed: members that are down do that.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        thread::sleep(AFTER_ERROR);
    }

    /// The state of member `i` as far as stalls are concerned.
    fn mark(&self, i: usize) -> u64 {
        self.down[i].load(Ordering::Acquire)
    }

    /// An operation through member `i` took from `began` to now, retries included.
    fn took(&self, i: usize, began: Instant, mark: u64) {
        if mark.is_multiple_of(2) && self.mark(i) == mark {
            let millis = began.elapsed().as_millis() as u64;
            self.stall_ms.fetch_max(millis, Ordering::Relaxed);
        }
    }

    /// Appends lines through mount `i`. A write that failed is not tried again: its line's fate is unknown.
    pub fn append(&self, i: usize) {
        let path = self.at(i, LOG);
        let mut file: Option<File> = None;
        let (mut since, mut mark) = (Instant::now(), self.mark(i));
        while self.goes_on() {
            let Some(open) = &mut file else {
                match OpenOptions::new().append(true).open(&path) {
                    Ok(opened) => file = Some(opened),
                    Err(_) => self.failed(),
                }
                continue;
            };
            let n = lock(&self.acks[i]).len();
            let text = check::line(self.seed, i, n);
            let wrote = open.write(text.as_bytes());
            let done = wrote.as_ref().is_ok_and(|len| *len == text.len());
            lock(&self.acks[i]).push(done);
            let synced = if done && n % SYNC_EVERY == SYNC_EVERY - 1 {
                open.sync_data()
            } else {
                Ok(())
            };
            if done && synced.is_ok() {
                self.took(i, since, mark);
                thread::sleep(LINE_PAUSE);
                (since, mark) = (Instant::now(), self.mark(i));
            } else {
                file = None;
                self.failed();
            }
        }
    }

    fn acked(&self) -> Vec<Acks> {
        self.acks.iter().map(|acks| lock(acks).clone()).collect()
    }

    /// Reads the file whole through mount `i` again and again.
    pub fn read(&self, i: usize) {
        let mut lines = Lines::new(self.seed, self.nodes.len());
        let path = self.at(i, LOG);
        while self.goes_on() {
            let acks = self.acked();
            match read_as_of_now(&path) {
                Ok(bytes) => {
                    let what = format!("read on {}", self.nodes[i].name);
                    self.found(lines.read(bytes, &acks, &what));
                    self.reads.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => self.failed(),
            }
            thread::sleep(READ_PAUSE);
        }
    }

    /// Makes, renames and removes files through mount `i`, and races for one name with the others.
    pub fn names(&self, i: usize) {
        let mut raced = None;
        while self.goes_on() {
            let turn = self.began.elapsed().as_millis() / RACE_MS;
            if raced.replace(turn) != Some(turn) {
                self.race(i, turn);
            }
            let n = lock(&self.steps[i]).len();
            lock(&self.steps[i]).push(Steps {
                done: 0,
                tried: true,
            });
            let (a, b) = self.pair(i, n);
            let (began, mark) = (Instant::now(), self.mark(i));
            let mut steps = Steps {
                done: 0,
                tried: true,
            };
            for step in 0..1 + n % 3 {
                let done = match step {
                    0 => make(&a, &content(self.seed, i, n)),
                    1 => fs::rename(&a, &b),
                    _ => fs::remove_file(&b),
                };
                steps = match done {
                    Ok(()) => Steps {
                        done: step as u8 + 1,
                        tried: false,
                    },
                    Err(_) => Steps {
                        tried: true,
                        ..steps
                    },
                };
                lock(&self.steps[i])[n] = steps;
                if steps.tried {
                    self.failed();
                    break;
                }
            }
            if !steps.tried {
                self.took(i, began, mark);
            }
            thread::sleep(NAME_PAUSE);
        }
    }

    fn pair(&self, i: usize, n: usize) -> (PathBuf, PathBuf) {
        let name = |what| self.at(i, &format!("names/{what}{i}-{n}"));
        (name('a'), name('b'))
    }

    fn race(&self, i: usize, turn: u128) {
        match File::create_new(self.at(i, &format!("names/race-{turn}"))) {
            Ok(_) => lock(&self.races).entry(turn).or_default().push(i),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(_) => self.failed(),
        }
    }

    /// Runs one job after the other until told to stop; the last one is waited for.
    pub fn jobs(&self) {
        let wanted: BTreeMap<Vec<u8>, u64> = (0..JOB_LINES)
            .filter(|n| key(*n).contains("k3"))
            .fold(BTreeMap::new(), |mut all, n| {
                *all.entry(format!("{},{}\n", key(n), self.seed).into_bytes())
                    .or_default() += 1;
                all
            });
        for number in 0.. {
            if !self.goes_on() {
                return;
            }
            let name = format!("{}-{number}", self.name);
            if !self.start_job(&name) {
                return;
            }
            let began = Instant::now();
            let ended = loop {
                match self.job_status(&name) {
                    Some(status) if status != "running" => break Some(status),
                    _ if began.elapsed() > JOB => break None,
                    _ => thread::sleep(AFTER_ERROR),
                }
            };
            let mut found = Found::default();
            match ended.as_deref() {
                Some("done") => match self.anywhere(&format!("../.jobs/{name}/output")) {
                    Some(bytes) => found = check::output(&bytes, &wanted, &name),
                    None => found.add(Kind::Stuck, format!("{name}: its output cannot be read")),
                },
                Some(other) => found.add(Kind::Stuck, format!("{name} is {other}")),
                None => found.add(Kind::Stuck, format!("{name} runs for {} s", JOB.as_secs())),
            }
            self.found(found);
            self.jobs_done();
        }
    }

    /// Drops the spec of a job of the source; whether a mount took it before the end.
    fn start_job(&self, name: &str) -> bool {
        let spec = format!(
            "version = 1\n[[source]]\nname = \"in\"\npath = \"/{}/source\"\n[[stage]]\nname = \"some\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"k3\" }} }}\ntasks = 3\n",
            self.name
        );
        self.drop_spec(name, &spec)
    }

    /// Drops a spec through whichever mount takes it; whether one did before the end.
    pub fn drop_spec(&self, name: &str, spec: &str) -> bool {
        let aside = format!("../.jobs/.{name}");
        while self.goes_on() {
            for i in 0..self.nodes.len() {
                let (from, to) = (
                    self.at(i, &aside),
                    self.at(i, &format!("../.jobs/{name}.toml")),
                );
                if to.exists() {
                    return true;
                }
                if fs::write(&from, spec)
                    .and_then(|()| fs::rename(&from, &to))
                    .is_ok()
                {
                    return true;
                }
            }
            self.failed();
        }
        false
    }

    /// A job has done what it should.
    pub fn jobs_done(&self) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
    }

    pub fn job_status(&self, name: &str) -> Option<String> {
        let text = self.anywhere(&format!("../.jobs/{name}/status"))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines()
            .find_map(|line| line.strip_prefix("status = "))
            .map(str::to_owned)
    }

    /// A file as the first mount has it that answers.
    pub fn anywhere(&self, name: &str) -> Option<Vec<u8>> {
        (0..self.nodes.len()).find_map(|i| fs::read(self.at(i, name)).ok())
    }

    /// Judges everything once all is quiet and well again.
    pub fn judge(&self) -> (Counts, Found) {
        let mut found = std::mem::take(&mut *lock(&self.found));
        let acks = self.acked();
        let mut first: Option<Vec<u8>> = None;
        for node in self.nodes.iter() {
            let path = node.mount.join(&self.name).join(LOG);
            match fs::read(&path) {
                Ok(bytes) => match &first {
                    None => first = Some(bytes),
                    Some(one) if *one != bytes => found.add(
                        Kind::Diverged,
                        format!(
                            "{} shows another file than {}",
                            node.name, self.nodes[0].name
                        ),
                    ),
                    Some(_) => {}
                },
                Err(error) => found.add(Kind::Stuck, format!("{}: {error}", path.display())),
            }
        }
        if let Some(bytes) = first {
            found.merge(Lines::last(self.seed, bytes, &acks));
        }
        let mut names = 0;
        for i in 0..self.nodes.len() {
            for (n, steps) in lock(&self.steps[i]).iter().enumerate() {
                names += 1;
                found.merge(self.judge_name(i, n, *steps));
            }
        }
        for (turn, winners) in lock(&self.races)
            .iter()
            .filter(|(_, winners)| winners.len() > 1)
        {
            found.add(
                Kind::Diverged,
                format!("race-{turn} was made by {} mounts at once", winners.len()),
            );
        }
        let written: usize = acks.iter().map(Vec::len).sum();
        let acknowledged: usize = acks.iter().flatten().filter(|done| **done).count();
        let counts = Counts {
            acknowledged: acknowledged as u64,
            unknown: (written - acknowledged) as u64,
            names,
            reads: self.reads.load(Ordering::Relaxed),
            jobs: self.jobs.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            stall_ms: self.stall_ms.load(Ordering::Relaxed),
        };
        (counts, found)
    }

    /// Removes everything that the run made, for a cluster that goes on.
    pub fn clean_up(&self) -> Result<(), Error> {
        let root = &self.nodes[0].mount;
        fs::remove_dir_all(root.join(&self.name))?;
        let prefix = format!("{}-", self.name);
        for entry in fs::read_dir(root.join(".jobs"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn judge_name(&self, i: usize, n: usize, steps: Steps) -> Found {
        let (a, b) = self.pair(i, n);
        // Seen from another mount than the one that made it.
        let other = self.nodes[(i + 1) % self.nodes.len()]
            .mount
            .join(&self.name);
        let mut found = Found::default();
        let mut look = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default();
            match fs::read(other.join("names").join(name)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => {
                    found.add(Kind::Stuck, format!("{}: {error}", path.display()));
                    None
                }
            }
        };
        let standing = Standing {
            a: look(a),
            b: look(b),
        };
        if found.is_clean() {
            let what = format!("file {n} of {}", self.nodes[i].name);
            found = check::name(steps, &standing, &content(self.seed, i, n), &what);
        }
        found
    }
}

/// A new file with this content, on disk everywhere when it returns.
fn make(path: &PathBuf, content: &[u8]) -> Result<(), Error> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn content(seed: u64, i: usize, n: usize) -> Vec<u8> {
    check::line(seed ^ 1, i, n).repeat(1 + n % 5).into_bytes()
}

/// Field of line `n` of a job's source.
fn key(n: usize) -> String {
    format!("k{}-{n}", n % 7)
}

/// What the file holds when it is asked for its size, and perhaps some more: reading to its end would run after the writers.
fn read_as_of_now(path: &PathBuf) -> Result<Vec<u8>, Error> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len() as usize;
    let mut bytes = vec![0; size + 65_536];
    let mut len = 0;
    while len < size {
        match file.read(&mut bytes[len..])? {
            0 => {
                let why = format!("the file ends at {len}, its size is {size}");
                return Err(Error::other(why));
            }
            read => len += read,
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

//! A cluster of real processes for the tests in this folder: `scripts/cluster` with the binary that cargo built. One
//! cluster at a time in one test program; it is stopped and unmounted when it is dropped, also by a failing test, which
//! then prints the ends of the members' logs and what to run again. `HYDFS_KEEP=1` keeps the folder.
//!
//! Never asserts wall time: waits for conditions with generous deadlines, because test machines are slow and shared.

#![allow(dead_code, reason = "each test program uses its part of it")]

pub mod shared;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

pub const BIN: &str = env!("CARGO_BIN_EXE_hydfs");
/// For what takes a second on a quiet machine.
pub const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const LOG_LINES_SHOWN: usize = 25;

/// Clusters share the machine's few cores: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// N members n1 to nN, mounted. Stopped and unmounted on drop.
pub struct Cluster {
    n: usize,
    folder: Option<tempfile::TempDir>,
    dir: PathBuf,
    envs: Vec<(String, String)>,
    /// Another test goes on with it: it stays up when this is dropped.
    kept: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts `n` members and returns when every mount serves. `None`, after a line that says so, without the rights.
    pub fn up(n: usize) -> Option<Self> {
        Self::up_with(n, &[], &[])
    }

    /// The same, each member in a network namespace of its own, so that `cut` works.
    pub fn up_netns(n: usize) -> Option<Self> {
        Self::up_with(n, &["--netns"], &[])
    }

    /// The same with further words for `scripts/cluster up` and variables for the members.
    pub fn up_with(n: usize, words: &[&str], envs: &[(&str, &str)]) -> Option<Self> {
        Self::up_prepared(n, words, envs, |_| {})
    }

    /// The same; `prepare` gets the cluster's folder before anything of it is made.
    pub fn up_prepared(
        n: usize,
        words: &[&str],
        envs: &[(&str, &str)],
        prepare: impl FnOnce(&Path),
    ) -> Option<Self> {
        if !may_mount() {
            println!("skipped: needs root and /dev/fuse");
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new()
            .prefix("hydfs-test-")
            .tempdir()
            .expect("a temporary folder");
        let dir = folder.path().join("c");
        let envs = envs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let cluster = Self {
            n,
            folder: Some(folder),
            dir,
            envs,
            kept: false,
            _turn: turn,
        };
        prepare(cluster.dir());
        let count = n.to_string();
        let mut up = vec!["up", "-n", &count];
        up.extend(words);
        let out = cluster.run(&up);
        assert!(
            out.status.success(),
            "the cluster does not come up: {}",
            text(&out.stderr)
        );
        Some(cluster)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn members(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.n
    }

    pub fn mount(&self, i: usize) -> PathBuf {
        self.folder(i).join("mnt")
    }

    /// A file on member i's mount; `path` has no leading slash.
    pub fn at(&self, i: usize, path: &str) -> PathBuf {
        self.mount(i).join(path)
    }

    pub fn data(&self, i: usize) -> PathBuf {
        self.folder(i).join("data")
    }

    pub fn log(&self, i: usize) -> PathBuf {
        self.folder(i).join("log")
    }

    /// Everything member i has logged so far.
    pub fn log_text(&self, i: usize) -> String {
        fs::read(self.log(i))
            .map(|bytes| text(&bytes))
            .unwrap_or_default()
    }

    pub fn kill(&self, i: usize) {
        self.member("kill", i);
    }

    /// Kills member i's worker and waits until another one serves; how long a call on the mount took meanwhile.
    pub fn kill_worker(&self, i: usize) -> Duration {
        let before = self.pid(i);
        let mount = self.mount(i);
        let number = before.to_string();
        let killed = Command::new("kill").args(["-KILL", &number]).status();
        assert!(killed.expect("kill").success(), "no process {before}");
        let began = Instant::now();
        within("a call after the kill", SOON, move || {
            fs::read_dir(mount).expect("the mount lives").count()
        });
        let stall = began.elapsed();
        let data = self.data(i);
        until("the next worker", SOON, || {
            let now = fs::read_to_string(data.join("worker.pid")).unwrap_or_default();
            now.trim().parse::<u32>().is_ok_and(|now| now != before)
        });
        stall
    }

    /// Kills several members at the same moment.
    pub fn kill_all(&self, which: &[usize]) {
        thread::scope(|scope| {
            for i in which {
                scope.spawn(|| self.kill(*i));
            }
        });
    }

    pub fn stop(&self, i: usize) {
        self.member("stop", i);
    }

    /// Starts member i again and returns when it has its mount; it may still be catching up (see `wait_healthy`).
    pub fn start(&self, i: usize) {
        self.member("start", i);
    }

    pub fn pause(&self, i: usize) {
        self.member("pause", i);
    }

    pub fn resume(&self, i: usize) {
        self.member("resume", i);
    }

    pub fn cut(&self, i: usize, j: usize) {
        self.must(&["cut", &i.to_string(), &j.to_string()]);
    }

    pub fn heal(&self) {
        self.must(&["heal"]);
    }

    /// The number of the leader; waits for one.
    pub fn leader(&self) -> usize {
        let mut found = 0;
        until("a leader", SOON, || {
            let out = self.run(&["leader"]);
            found = text(&out.stdout).trim().parse().unwrap_or(0);
            found != 0
        });
        found
    }

    /// The process of member i that serves requests.
    pub fn pid(&self, i: usize) -> u32 {
        text(&self.must(&["pid", &i.to_string()]))
            .trim()
            .parse()
            .expect("a process id")
    }

    /// `.cluster/PATH` of member i; empty where the mount does not answer.
    pub fn tree(&self, i: usize, path: &str) -> String {
        let file = self.mount(i).join(".cluster").join(path);
        let out = Command::new("timeout")
            .arg("5")
            .arg("cat")
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .expect("timeout runs");
        text(&out.stdout)
    }

    /// `.cluster/status` as member i has it.
    pub fn status(&self, i: usize) -> String {
        self.tree(i, "status")
    }

    /// The value of a counter or gauge of `.cluster/metrics` of member i.
    pub fn metric(&self, i: usize, name: &str) -> u64 {
        let page = self.tree(i, "metrics");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("n{i} has no metric {name}"))
            .parse()
            .expect("a number")
    }

    /// Whether member i says that all is well with `alive` members.
    pub fn healthy(&self, i: usize, alive: usize) -> bool {
        let status = self.status(i);
        status.starts_with("healthy\n") && status.contains(&format!("members {alive} alive"))
    }

    /// Waits until all members live and say that all is well; how long that took.
    pub fn wait_healthy(&self) -> Duration {
        self.wait_healthy_within(Duration::from_secs(120))
    }

    pub fn wait_healthy_within(&self, deadline: Duration) -> Duration {
        let began = Instant::now();
        let mut bad = 1;
        let all_well = poll(deadline, || {
            bad = self
                .members()
                .find(|i| !self.healthy(*i, self.n))
                .unwrap_or(0);
            bad == 0
        });
        assert!(
            all_well,
            "n{bad} is not healthy after {deadline:?}; it says: {}",
            self.status(bad)
        );
        began.elapsed()
    }

    /// Runs the binary's own commands against member i.
    pub fn hydfs<S: AsRef<OsStr>>(&self, i: usize, words: &[S]) -> Output {
        Command::new(BIN)
            .args(words)
            .env("HYDFS_DATA", self.data(i))
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }

    /// `scripts/cluster WORDS… DIR`.
    pub fn run(&self, words: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster");
        let mut command = Command::new(script);
        command
            .args(words)
            .arg(&self.dir)
            .env("HYDFS_BIN", BIN)
            .env("HYDFS_UP_WAIT_S", "150")
            .stdin(Stdio::null());
        for (key, value) in &self.envs {
            command.env(key, value);
        }
        command.output().expect("scripts/cluster runs")
    }

    /// The same; its standard output. Fails the test where it fails.
    pub fn must(&self, words: &[&str]) -> Vec<u8> {
        let out = self.run(words);
        assert!(
            out.status.success(),
            "scripts/cluster {words:?} failed: {}",
            text(&out.stderr)
        );
        out.stdout
    }

    fn member(&self, what: &str, i: usize) {
        self.must(&[what, &i.to_string()]);
    }

    fn folder(&self, i: usize) -> PathBuf {
        self.dir.join(format!("n{i}"))
    }

    fn tell(&self) {
        let program = std::env::current_exe()
            .ok()
            .and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        let program = program
            .as_deref()
            .and_then(|name| name.rsplit_once('-'))
            .map_or("NAME", |(name, _)| name);
        let test = thread::current().name().unwrap_or("").to_owned();
        for i in self.members() {
            let log = self.log_text(i);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "---- the end of n{i}'s log, status: {}",
                self.status(i).trim_end()
            );
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                eprintln!("{line}");
            }
        }
        eprintln!(
            "---- run again, keeping everything: HYDFS_KEEP=1 cargo test --test {program} {test} -- --nocapture"
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if thread::panicking() {
            self.tell();
        }
        self.run(&["down"]);
        if std::env::var_os("HYDFS_KEEP").is_some()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}

/// Whether this process may mount.
pub fn may_mount() -> bool {
    let root = fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")));
    root && fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok()
}

/// A UDP port of this machine that nobody has now.
pub fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port()
}

/// Waits for a condition; fails the test after the deadline. Returns how long it took.
pub fn until(what: &str, deadline: Duration, condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    assert!(
        poll(deadline, condition),
        "still waiting for {what} after {deadline:?}"
    );
    began.elapsed()
}

pub fn poll(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if began.elapsed() > deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Runs something that may hang, a call on a mount for one; fails the test after the deadline.
pub fn within<T: Send + 'static>(
    what: &str,
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    match wait.recv_timeout(deadline) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} has not ended after {deadline:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what} failed"),
    }
}

/// Tries something until it succeeds, for calls that may be refused while members are replaced. How long it took.
pub fn retry<T>(
    what: &str,
    deadline: Duration,
    mut work: impl FnMut() -> std::io::Result<T>,
) -> (T, Duration) {
    let began = Instant::now();
    loop {
        match work() {
            Ok(value) => return (value, began.elapsed()),
            Err(error) if began.elapsed() > deadline => {
                panic!("{what} still fails after {deadline:?}: {error}")
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An extended attribute; `None` where it is not there or the mount does not answer.
pub fn xattr(path: &Path, name: &str) -> Option<String> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let name = std::ffi::CString::new(name).ok()?;
    let mut value = vec![0_u8; 65_536];
    // SAFETY: both names end with a zero byte, and the buffer is as long as it is said to be.
    #[allow(unsafe_code)]
    let len = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    value.truncate(usize::try_from(len).ok()?);
    Some(text(&value))
}

/// The members that keep a copy of a file, by number.
pub fn replicas(path: &Path) -> Vec<usize> {
    let names = xattr(path, "user.hydfs.replicas").unwrap_or_default();
    names
        .split_whitespace()
        .filter_map(|name| name.strip_prefix('n')?.parse().ok())
        .collect()
}

/// Writes a whole file and returns once fsync has acknowledged it.
pub fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

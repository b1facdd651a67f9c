//! What the tests of jobs share: a cluster with a data set, jobs and how they end, and the references.

use crate::common::{Cluster, poll, retry, text};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
    time::Duration,
};

/// For a job to end, on a slow and shared machine, kills included.
pub const JOB: Duration = Duration::from_secs(240);
/// For things that take a moment, also while members are replaced.
pub const CALLS: Duration = Duration::from_secs(60);
/// A user that owns specs with executables.
pub const USER: u32 = 4711;

/// Upper case, or the same, so many milliseconds for 100 rows: a job lasts long enough to be hit half-way.
const PACED: &str = r#"#!/usr/bin/env python3
import sys, time
rows, pause, change = 0, int(sys.argv[2]) / 1000, (str.upper if sys.argv[1] == "upper" else str)
for line in sys.stdin:
    if line.startswith("\x1e"):
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        rows += 1
        if rows % 100 == 0:
            time.sleep(pause)
        sys.stdout.write(change(line))
"#;

/// A cluster with `/data/signs.csv` in it.
pub struct Desk {
    pub cluster: Cluster,
    /// Every line of the CSV file but the header, in order.
    pub rows: Vec<String>,
    /// The whole file.
    pub csv: String,
}

impl Desk {
    /// `None`, after a line that says so, without the rights to mount.
    pub fn up(members: usize, rows: usize) -> Option<Self> {
        Self::up_with(members, rows, &[])
    }

    /// The same with variables for the members.
    pub fn up_with(members: usize, rows: usize, envs: &[(&str, &str)]) -> Option<Self> {
        let may_enter = |dir: &Path| {
            // Executables run as other users, from the members' data folders.
            let parent = dir.parent().expect("a cluster's folder has a parent");
            fs::set_permissions(parent, fs::Permissions::from_mode(0o711)).expect("own folder");
        };
        let cluster = Cluster::up_prepared(members, &[], envs, may_enter)?;
        let csv = sample(rows);
        let lines: Vec<String> = csv.lines().skip(1).map(str::to_owned).collect();
        assert_eq!(lines.len(), rows);
        fs::create_dir_all(cluster.at(1, "data")).expect("a directory");
        fs::create_dir_all(cluster.at(1, "bin")).expect("a directory");
        fs::write(cluster.at(1, "data/signs.csv"), &csv).expect("the data set");
        Some(Self {
            cluster,
            rows: lines,
            csv,
        })
    }

    /// Stores an executable below `/bin`.
    pub fn executable(&self, name: &str, script: &str) {
        let path = self.cluster.at(1, &format!("bin/{name}"));
        fs::write(&path, script).expect("an executable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// Drops a spec, the way `>` does it.
    pub fn write_spec(&self, i: usize, name: &str, spec: &str) {
        let path = self.cluster.at(i, &format!(".jobs/{name}.toml"));
        retry("writing a spec", CALLS, || fs::write(&path, spec));
    }

    /// Drops the spec of a user: made elsewhere, given away, renamed into place.
    pub fn user_spec(&self, i: usize, name: &str, spec: &str) {
        let draft = self.cluster.at(i, &format!("draft-{name}"));
        fs::write(&draft, spec).expect("a draft");
        chown(&draft, Some(USER), Some(USER)).expect("giving it away");
        fs::rename(&draft, self.cluster.at(i, &format!(".jobs/{name}.toml")))
            .expect("renaming it into place");
    }

    /// `/.jobs/NAME/FILE` as any member that answers has it; empty where none does.
    pub fn job_file(&self, name: &str, file: &str) -> String {
        let paths = self
            .cluster
            .members()
            .map(|i| self.cluster.at(i, &format!(".jobs/{name}/{file}")));
        let read = |path: std::path::PathBuf| {
            let out = Command::new("timeout")
                .arg("10")
                .arg("cat")
                .arg(path)
                .output()
                .expect("timeout runs");
            out.status.success().then(|| text(&out.stdout))
        };
        paths.into_iter().find_map(read).unwrap_or_default()
    }

    /// A value of `status` or `progress`.
    pub fn value(&self, name: &str, file: &str, key: &str) -> Option<String> {
        let page = self.job_file(name, file);
        page.lines().find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(" = ")
                .map(str::to_owned)
        })
    }

    pub fn number(&self, name: &str, file: &str, key: &str) -> u64 {
        self.value(name, file, key)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    /// Waits until a job has this status.
    pub fn wait_status(&self, name: &str, wanted: &str) -> String {
        let reached = poll(JOB, || {
            let now = self.value(name, "status", "status");
            let ended = now
                .as_deref()
                .is_some_and(|now| !matches!(now, "running" | "paused"));
            ended || now.as_deref() == Some(wanted)
        });
        let page = self.job_file(name, "status");
        let is_so = reached && page.starts_with(&format!("status = {wanted}\n"));
        assert!(
            is_so,
            "job {name} is not {wanted}: {page}{}{}",
            self.job_file(name, "progress"),
            self.job_file(name, "log")
        );
        page
    }

    pub fn wait_done(&self, name: &str) -> String {
        self.wait_status(name, "done")
    }

    /// Waits until a running job has taken in so many rows for good, but not all of `rows`.
    pub fn wait_rows(&self, name: &str, rows: u64) {
        let reached = poll(JOB, || {
            self.number(name, "progress", "rows_in") >= rows
                || self
                    .value(name, "status", "status")
                    .is_some_and(|now| now != "running")
        });
        assert!(
            reached,
            "job {name} has taken in {} rows, not {rows}",
            self.number(name, "progress", "rows_in")
        );
        let page = self.job_file(name, "status");
        assert!(
            page.starts_with("status = running"),
            "job {name} ended before it could be hit: {page}"
        );
    }

    /// The bytes of a file, from the first member that answers.
    pub fn read(&self, path: &str) -> String {
        let paths: Vec<_> = self
            .cluster
            .members()
            .map(|i| self.cluster.at(i, path))
            .collect();
        let (bytes, _) = retry("reading a result", CALLS, || {
            let mut last = Err(std::io::Error::other("no member"));
            for path in &paths {
                last = fs::read(path);
                if last.is_ok() {
                    break;
                }
            }
            last
        });
        String::from_utf8(bytes).expect("text")
    }

    pub fn output(&self, name: &str) -> String {
        self.read(&format!(".jobs/{name}/output"))
    }

    /// A command of the binary, at any member that answers.
    pub fn hydfs(&self, words: &[&str]) {
        let mut last = String::new();
        let done = poll(CALLS, || {
            self.cluster.members().any(|i| {
                let out = self.cluster.hydfs(i, words);
                last = [text(&out.stdout), text(&out.stderr)].concat();
                out.status.success()
            })
        });
        assert!(done, "{words:?}: {last}");
    }

    /// The attempt that a job is in.
    pub fn attempt(&self, name: &str) -> u64 {
        self.number(name, "status", "attempt")
    }

    /// Stores `/bin/paced`: upper case, or the same, and so many milliseconds for 100 rows.
    pub fn store_paced(&self) {
        if !self.cluster.at(1, "bin/paced").exists() {
            self.executable("paced", PACED);
        }
    }

    /// Starts a job that gives every row in upper case and needs `pause_ms` for each 100 of a task.
    pub fn upper(&self, name: &str, tasks: usize, pause_ms: usize) -> String {
        self.store_paced();
        let spec = format!(
            "version = 1\n[[source]]\nname = \"signs\"\npath = \"/data/signs.csv\"\nformat = \"csv\"\n\
             [[stage]]\nname = \"{name}\"\nfrom = \"signs\"\nop = {{ exec = {{ path = \"/bin/paced\", args = [\"upper\", \"{pause_ms}\"] }} }}\ntasks = {tasks}\n"
        );
        self.user_spec(1, name, &spec);
        name.to_owned()
    }

    /// Starts a sample job behind a stage that changes nothing and takes its time.
    pub fn slow_sample(&self, sample: &str) -> String {
        self.store_paced();
        let header: Vec<String> = self
            .csv
            .lines()
            .next()
            .unwrap_or_default()
            .split(',')
            .map(|name| format!("\"{name}\""))
            .collect();
        let stage = format!(
            "[[stage]]\nname = \"slow\"\nfrom = \"signs\"\ntasks = 3\n\
             op = {{ exec = {{ path = \"/bin/paced\", args = [\"same\", \"100\"], columns = [{}] }} }}\n\n[[stage]]",
            header.join(", ")
        );
        let spec = sample_spec(sample)
            .replacen("from = \"signs\"", "from = \"slow\"", 1)
            .replacen("[[stage]]", &stage, 1);
        let name = format!("slow-{sample}");
        self.user_spec(1, &name, &spec);
        name
    }

    /// Checks the output of [`Desk::upper`]: every row once, in order within each task.
    pub fn check_upper(&self, name: &str, tasks: usize) {
        let expected: Vec<String> = self.rows.iter().map(|row| row.to_uppercase()).collect();
        check_in_order(&self.output(name), &expected, &self.csv, tasks);
    }
}

/// What `scripts/sample-data ROWS` prints.
pub fn sample(rows: usize) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sample-data");
    let out = Command::new(script)
        .arg(rows.to_string())
        .output()
        .expect("scripts/sample-data runs");
    assert!(
        out.status.success(),
        "scripts/sample-data failed: {}",
        text(&out.stderr)
    );
    text(&out.stdout)
}

/// A sample spec.
pub fn sample_spec(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scripts/samples/{name}.toml"));
    fs::read_to_string(path).expect("a sample spec")
}

/// What `scripts/samples/reference.py` prints for these bytes.
pub fn reference(job: &str, csv: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("signs.csv");
    fs::write(&path, csv).expect("a file");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/samples/reference.py");
    let out = Command::new(script)
        .arg(job)
        .arg(&path)
        .output()
        .expect("reference.py runs");
    assert!(
        out.status.success(),
        "reference.py failed: {}",
        text(&out.stderr)
    );
    text(&out.stdout).lines().map(str::to_owned).collect()
}

/// The lines of each of `tasks` tasks, as `docs/JOBS.md` promises: chunks of 256 KiB at line ends, in turn.
fn shares(csv: &str, tasks: usize) -> Vec<BTreeMap<String, usize>> {
    const CHUNK: usize = 256 << 10;
    let header = csv.find('\n').map_or(csv.len(), |at| at + 1);
    let mut shares = vec![BTreeMap::new(); tasks];
    let mut at = 0;
    for (n, line) in csv[header..].lines().enumerate() {
        let id = line.split(',').next().unwrap_or_default().to_owned();
        shares[at / CHUNK % tasks].insert(id, n);
        at += line.len() + 1;
    }
    shares
}

/// The output has exactly the expected lines (which begin with a row's number), those of each task in the order of the file.
pub fn check_in_order(output: &str, expected: &[String], csv: &str, tasks: usize) {
    let got: Vec<&str> = output.lines().collect();
    assert!(
        output.is_empty() || output.ends_with('\n'),
        "the output ends in the middle of a line"
    );
    let mut sorted = got.clone();
    sorted.sort_unstable();
    let mut wanted: Vec<&str> = expected.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    if sorted != wanted {
        let (have, want): (BTreeSet<&str>, BTreeSet<&str>) = (
            sorted.iter().copied().collect(),
            wanted.iter().copied().collect(),
        );
        let missing: Vec<_> = want.difference(&have).take(3).collect();
        let foreign: Vec<_> = have.difference(&want).take(3).collect();
        panic!(
            "{} lines, not {}; missing {missing:?}, not expected {foreign:?}, {} doubled",
            got.len(),
            wanted.len(),
            got.len() - have.len()
        );
    }
    for (task, share) in shares(csv, tasks).iter().enumerate() {
        let order: Vec<usize> = got
            .iter()
            .filter_map(|line| share.get(line.split(',').next()?).copied())
            .collect();
        assert!(
            order.is_sorted(),
            "the lines of task {task} are out of order"
        );
    }
}

/// Checks the output of the sample job `filter`.
pub fn check_filter(output: &str, csv: &str) {
    check_in_order(output, &reference("filter", csv), csv, 3);
}

/// Checks the output of the sample job `count`: two tasks, each sorted.
pub fn check_count(output: &str, csv: &str) {
    let mut got: Vec<&str> = output.lines().collect();
    let value = |line: &str| line.trim_start_matches('"').to_owned();
    let breaks = got
        .windows(2)
        .filter(|pair| value(pair[0]) > value(pair[1]))
        .count();
    assert!(breaks <= 1, "each of two tasks sorts its keys: {output}");
    got.sort_unstable();
    let mut wanted = reference("count", csv);
    wanted.sort_unstable();
    assert_eq!(got, wanted);
}

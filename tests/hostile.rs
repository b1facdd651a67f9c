//! Strangers, wrong starts, dead mounts: what must not get in is refused in words, and nothing is lost by it. What a
//! stranger without any certificate, with an expired one or with another clock meets below the hello is shown by
//! `src/transport/tests/strangers.rs`; random bytes on streams of a member by `src/transport/garbage_tests.rs`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{BIN, Cluster, SOON, free_port, until};
use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// A member's process of its own, killed on drop with the worker below it, which dies with its supervisor.
struct Single {
    child: Child,
    log: PathBuf,
}

impl Single {
    fn start(log: &Path, words: &[&str]) -> Self {
        let out = fs::File::create(log).unwrap();
        let mut command = Command::new(BIN);
        command
            .arg("member")
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .current_dir("/");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HYDFS_") {
                command.env_remove(name);
            }
        }
        Self {
            child: command.spawn().unwrap(),
            log: log.to_owned(),
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for the end; what it said. Fails the test if it ended well.
    fn refused(mut self, deadline: Duration) -> String {
        let mut status = None;
        until("the member to give up", deadline, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(
            !status.unwrap().success(),
            "it ended as if all were well: {}",
            self.said()
        );
        let said = self.said();
        assert!(!said.contains("the worker died"), "one reason: {said}");
        said
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn hydfs(words: &[&str]) {
    let out = Command::new(BIN).args(words).output().unwrap();
    assert!(
        out.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn words(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a data folder of a member that was let in has, and one that was refused has not.
fn knows_a_cluster(data: &Path) -> bool {
    fs::read_to_string(data.join("format")).is_ok_and(|text| text.contains("cluster"))
        || data
            .join("raft")
            .read_dir()
            .is_ok_and(|mut dir| dir.next().is_some())
}

fn address(c: &Cluster, i: usize) -> String {
    let members = c.tree(1, "members");
    let line = members
        .lines()
        .find(|line| line.starts_with(&format!("n{i} ")))
        .expect("a listed member");
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn fault_m13_strangers_get_a_clear_refusal_and_no_state() {
    let Some(c) = Cluster::up(1) else { return };
    let lab = tempfile::tempdir().unwrap();
    fs::write(c.at(1, "secret"), "s3cret\n").unwrap();
    let door = address(&c, 1);
    let members = c.tree(1, "members");
    let served = c.metric(1, "hydfs_net_calls_served_total{service=\"agreement\"}");

    let other = lab.path().join("other");
    hydfs(&["certs", "init", "--dir", words(&other), "--cluster", "c"]);
    hydfs(&["certs", "issue", "n2", "--dir", words(&other)]);
    let expired = lab.path().join("expired");
    fs::create_dir(&expired).unwrap();
    for file in ["ca.crt", "ca.key"] {
        fs::copy(c.dir().join("certs").join(file), expired.join(file)).unwrap();
    }
    hydfs_transport::certs::issue_at(
        &expired,
        "n2",
        &[],
        1,
        SystemTime::now() - Duration::from_secs(48 * 3600),
    )
    .unwrap();
    let none = lab.path().join("none");
    fs::create_dir(&none).unwrap();
    fs::copy(c.dir().join("certs/ca.crt"), none.join("ca.crt")).unwrap();

    for (certs, expected) in [
        (&other, "not of the same certificate authority"),
        (&expired, "expired"),
        (&none, "hydfs certs issue n2"),
    ] {
        let data = lab
            .path()
            .join(format!("data-{}", certs.file_name().unwrap().display()));
        let listen = format!("127.0.0.1:{}", free_port());
        let said = Single::start(
            &lab.path().join("log"),
            &[
                "--name",
                "n2",
                "--data",
                words(&data),
                "--listen",
                &listen,
                "--certs",
                words(certs),
                "--mount",
                "none",
                "--join",
                &door,
            ],
        )
        .refused(SOON);
        assert!(said.contains(expected), "{}: {said}", certs.display());
        assert!(
            !knows_a_cluster(&data),
            "{} was told something",
            certs.display()
        );
    }

    assert_eq!(c.tree(1, "members"), members);
    assert_eq!(
        c.metric(1, "hydfs_net_calls_served_total{service=\"agreement\"}"),
        served,
        "a stranger was answered"
    );
    assert!(
        c.metric(1, "hydfs_net_refused_total") >= 1,
        "the refusal is counted"
    );
    assert_eq!(fs::read_to_string(c.at(1, "secret")).unwrap(), "s3cret\n");
}

#[test]
fn fault_m7_random_datagrams_change_nothing() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let members = c.tree(1, "members");
    let doors: Vec<String> = c.members().map(|i| address(&c, i)).collect();
    let noise = thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut seed, mut sent, mut buffer) = (0x9e37_79b9_7f4a_7c15u64, 0, [0u8; 1400]);
        while sent < 10 << 20 {
            for byte in &mut buffer {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                *byte = (seed >> 24) as u8;
            }
            let len = 1 + (seed % 1400) as usize;
            // Half of it looks like the begin of a QUIC connection.
            if seed & 1 << 40 == 0 {
                buffer[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
            }
            drop(socket.send_to(&buffer[..len], &doors[(seed >> 32) as usize % doors.len()]));
            sent += len;
        }
    });
    let mut written = String::new();
    let mut n = 0;
    while !noise.is_finished() || n < 20 {
        let line = format!("line {n}\n");
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .append(true)
            .create(true)
            .open(c.at(n % 3 + 1, "lines"))
            .unwrap();
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
        drop(file);
        written += &line;
        n += 1;
    }
    noise.join().unwrap();
    for i in c.members() {
        assert_eq!(
            fs::read_to_string(c.at(i, "lines")).unwrap(),
            written,
            "n{i}"
        );
    }
    assert_eq!(
        c.tree(1, "members"),
        members,
        "members, addresses and incarnations are the same"
    );
    c.wait_healthy();
}

/// Every wrong start ends by itself, with a line that says what is wrong and what to do, and harms nobody.
#[test]
fn wrong_starts_are_refused_in_words() {
    let Some(c) = Cluster::up(1) else { return };
    let lab = tempfile::tempdir().unwrap();
    fs::write(c.at(1, "kept"), "kept\n").unwrap();
    let certs = c.dir().join("certs");
    hydfs(&["certs", "issue", "n2", "--dir", words(&certs)]);
    let door = address(&c, 1);
    let mount = lab.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let nothing = format!("127.0.0.1:{}", free_port());
    let listen = format!("127.0.0.1:{}", free_port());
    let here = format!("127.0.0.1:{}", free_port());

    let lost = lab.path().join("lost");
    let start_lost = Single::start(
        &lab.path().join("lost.log"),
        &[
            "--name",
            "n2",
            "--data",
            words(&lost),
            "--listen",
            &here,
            "--certs",
            words(&certs),
            "--mount",
            "none",
            "--join",
            &nothing,
        ],
    );

    let file = lab.path().join("file");
    fs::write(&file, "x").unwrap();
    let read_only = lab.path().join("read-only");
    fs::create_dir(&read_only).unwrap();
    let _tmpfs = Tmpfs::mount(&read_only, "size=1m,ro");
    let data = lab.path().join("data");
    let missing = lab.path().join("missing");
    let data_of_n1 = c.data(1);
    let mount_of_n1 = c.mount(1);
    let copy_of_n1 = lab.path().join("n1");
    fs::create_dir(&copy_of_n1).unwrap();
    fs::copy(data_of_n1.join("format"), copy_of_n1.join("format")).unwrap();
    let start_as = |name: &str, data: &Path, listen: &str, mount: &Path, entry: &[&str]| {
        let mut all = vec![
            "--name",
            name,
            "--data",
            words(data),
            "--listen",
            listen,
            "--certs",
            words(&certs),
            "--mount",
            words(mount),
        ];
        all.extend(entry);
        Single::start(&lab.path().join("log"), &all).refused(SOON)
    };
    let start = |data: &Path, listen: &str, mount: &Path, entry: &[&str]| {
        start_as("n2", data, listen, mount, entry)
    };
    let join = ["--join", &door];
    let cases: [(&str, String, &[&str]); 11] = [
        (
            "data folder is a file",
            start(&file, &listen, &mount, &join),
            &["is not a folder", "--data"],
        ),
        (
            "data folder is read-only",
            start(&read_only, &listen, &mount, &join),
            &["cannot be read and written"],
        ),
        (
            "port in use",
            start(&data, &door, &mount, &join),
            &["is in use", "--listen"],
        ),
        (
            "address of another machine",
            start(&data, "192.0.2.7:7400", &mount, &join),
            &["no address 192.0.2.7"],
        ),
        (
            "mount point missing",
            start(&data, &listen, &missing, &join),
            &["does not exist", "mkdir -p"],
        ),
        (
            "mount point is a file",
            start(&data, &listen, &file, &join),
            &["is not a directory"],
        ),
        (
            "mount point of a running member",
            start(&data, &listen, &mount_of_n1, &join),
            &["already a hydfs mount"],
        ),
        (
            "no way in",
            start(&data, &listen, &mount, &[]),
            &["belongs to no cluster yet", "--join", "--bootstrap"],
        ),
        (
            "join address without a port",
            start(&data, &listen, &mount, &["--join", "n1"]),
            &["HOST:PORT"],
        ),
        (
            "data folder of another member",
            start(&copy_of_n1, &listen, &mount, &join),
            &["belongs to the member \"n1\""],
        ),
        (
            "data folder of a running member",
            start_as("n1", &data_of_n1, &listen, &mount, &[]),
            &["used by a running member"],
        ),
    ];
    for (what, said, expected) in cases {
        for text in expected {
            assert!(
                said.contains(text),
                "{what}: it does not say {text:?}: {said}"
            );
        }
        assert!(!said.contains("panicked"), "{what}: {said}");
    }
    let said = start_lost.refused(Duration::from_secs(150));
    assert!(
        said.contains("no member of the cluster could be reached") && said.contains(&nothing),
        "wrong join address: {said}"
    );
    assert!(!knows_a_cluster(&lost));

    assert_eq!(fs::read_to_string(c.at(1, "kept")).unwrap(), "kept\n");
    fs::write(c.at(1, "after"), "x").unwrap();
    assert_eq!(
        c.tree(1, "members")
            .lines()
            .filter(|line| line.contains(" alive "))
            .count(),
        1,
        "{}",
        c.tree(1, "members")
    );
}

/// Two lives of one data folder: the copy is refused, the original goes on.
#[test]
fn a_copied_data_folder_is_refused() {
    let Some(c) = Cluster::up(3) else { return };
    fs::write(c.at(2, "f"), "before\n").unwrap();
    c.stop(2);
    let lab = tempfile::tempdir().unwrap();
    let copy = lab.path().join("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .arg("--sparse=always")
        .arg(c.data(2))
        .arg(&copy)
        .status()
        .unwrap();
    assert!(copied.success());
    c.start(2);
    c.wait_healthy();
    let listen = format!("127.0.0.1:{}", free_port());
    let certs = c.dir().join("certs");
    let said = Single::start(
        &lab.path().join("log"),
        &[
            "--name",
            "n2",
            "--data",
            words(&copy),
            "--listen",
            &listen,
            "--certs",
            words(&certs),
            "--mount",
            "none",
            "--join",
            &address(&c, 1),
        ],
    )
    .refused(SOON);
    assert!(said.contains("copy or was rolled back"), "{said}");
    c.wait_healthy();
    assert_eq!(fs::read_to_string(c.at(2, "f")).unwrap(), "before\n");
    fs::write(c.at(2, "g"), "after\n").unwrap();
    assert_eq!(fs::read_to_string(c.at(1, "g")).unwrap(), "after\n");
}

/// A machine whose data folder was lost, started again as it was the first time: it must not speak for the voter it was.
#[test]
fn an_emptied_folder_does_not_bootstrap_beside_its_cluster() {
    let Some(c) = Cluster::up(3) else { return };
    let listen = address(&c, 1);
    c.kill(1);
    let lab = tempfile::tempdir().unwrap();
    let said = Single::start(
        &lab.path().join("log"),
        &[
            "--name",
            "n1",
            "--data",
            words(&lab.path().join("emptied")),
            "--listen",
            &listen,
            "--certs",
            words(&c.dir().join("certs")),
            "--mount",
            "none",
            "--bootstrap",
        ],
    )
    .refused(SOON);
    assert!(said.contains("looks for this machine"), "{said}");
    c.start(1);
    c.wait_healthy();
}

/// SIGKILL to supervisor and worker leaves a mount that nobody serves. The next start takes it over.
#[test]
fn a_dead_mount_is_cleaned_by_the_next_start() {
    let Some(c) = Cluster::up(2) else { return };
    fs::write(c.at(2, "f"), "kept\n").unwrap();
    for file in ["supervisor.pid", "worker.pid"] {
        let pid = fs::read_to_string(c.data(2).join(file)).unwrap();
        Command::new("kill")
            .args(["-KILL", pid.trim()])
            .status()
            .unwrap();
    }
    until("the mount to be dead", SOON, || {
        fs::read_dir(c.mount(2)).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    c.start(2);
    until("the mount to serve", SOON, || {
        fs::read_to_string(c.at(2, "f")).is_ok_and(|text| text == "kept\n")
    });
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounted = mounts
        .lines()
        .filter(|line| line.split(' ').nth(1) == c.mount(2).to_str())
        .count();
    assert_eq!(mounted, 1, "one mount lies there, not one over another");
}

/// `down` is the broom: after kills, pauses and foreign mounts below its folder nothing is left, and it says so.
#[test]
fn down_cleans_up_after_everything() {
    let Some(c) = Cluster::up(3) else { return };
    // Opened while there is a majority.
    let busy = fs::File::open(c.at(1, ".")).unwrap();
    c.kill(3);
    c.pause(2);
    let extra = c.dir().join("n2/extra");
    fs::create_dir(&extra).unwrap();
    let tmpfs = Tmpfs::mount(&extra, "size=1m");
    let pids: Vec<u32> = [1, 2].map(|i| c.pid(i)).to_vec();
    let out = c.run(&["down"]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(words(c.dir())), "{mounts}");
    for pid in pids {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&command).contains(words(c.dir())),
            "process {pid} lives on"
        );
    }
    drop((busy, tmpfs));
    let out = c.run(&["up"]);
    assert!(
        out.status.success(),
        "it comes up again: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(fs::read_dir(c.mount(3)).is_ok());
}

/// A small disk of its own, gone on drop.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, options: &str) -> Self {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(done.success(), "cannot mount a tmpfs at {}", at.display());
        Self(at.to_owned())
    }

    fn grow(&self, size: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(done.success(), "cannot grow {}", self.0.display());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(
            Command::new("umount")
                .args(["-l", "-q"])
                .arg(&self.0)
                .stderr(Stdio::null())
                .status(),
        );
    }
}

/// Bytes of one append: below what the kernel is sure to send as one request, so that it is atomic.
const PIECE: usize = 1_000_000;

/// Appends pieces until one fails; how many were acknowledged and the failure's errno.
fn fill(path: &Path, from: u8, pieces_max: usize) -> (usize, Option<i32>) {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    for n in 0..pieces_max {
        let piece = vec![from.wrapping_add(n as u8); PIECE];
        let done = options
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| {
                file.write_all(&piece)?;
                file.sync_all()
            });
        if let Err(error) = done {
            return (n, error.raw_os_error());
        }
    }
    (pieces_max, None)
}

/// Every acknowledged piece is there, in order; a refused one is there once or not at all, and whole.
fn check_pieces(path: &Path, acknowledged: &[u8]) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes.len() % PIECE, 0, "{}: a torn piece", path.display());
    let mut wanted = acknowledged.iter().peekable();
    for piece in bytes.chunks(PIECE) {
        assert!(piece.iter().all(|byte| *byte == piece[0]), "a torn piece");
        if wanted.peek() == Some(&&piece[0]) {
            wanted.next();
        }
    }
    assert_eq!(
        wanted.next(),
        None,
        "{}: an acknowledged piece is missing",
        path.display()
    );
}

/// A member's disk runs full: writes that need it answer ENOSPC soon, reads go on, and nothing acknowledged is lost.
/// With room they go on; with another member to take its copies they go on as well.
#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let mut disk = None;
    let prepared = Cluster::up_prepared(3, &[], &[], |dir| {
        let data = dir.join("n2/data");
        fs::create_dir_all(&data).unwrap();
        disk = Some(Tmpfs::mount(&data, "size=400m"));
    });
    let Some(c) = prepared else { return };
    let disk = disk.unwrap();
    c.wait_healthy();
    let file = c.at(1, "log");
    let (first, errno) = fill(&file, 0, 400);
    assert!(first > 10, "only {first} MB fit");
    assert_eq!(errno, Some(libc::ENOSPC), "after {first} MB");
    until("status to say it", SOON, || {
        c.status(1).contains("n2: disk full")
    });
    let began = Instant::now();
    let mut acknowledged: Vec<u8> = (0..first).map(|n| n as u8).collect();
    let (more, errno) = fill(&file, 200, 3);
    acknowledged.extend((0..more).map(|n| 200 + n as u8));
    println!(
        "full after {first} MB; asked again: {more} more, {errno:?} after {:?}",
        began.elapsed()
    );
    for i in c.members() {
        check_pieces(&c.at(i, "log"), &acknowledged);
    }
    fs::remove_file(c.at(3, "never")).unwrap_err();
    fs::create_dir(c.at(3, "names still work")).unwrap();

    disk.grow("480m");
    until("writes to go on with more room", SOON, || {
        let (done, _) = fill(&file, 220, 1);
        acknowledged.extend(std::iter::repeat_n(220, done));
        done == 1
    });
    until("status to be well again", SOON, || {
        !c.status(3).contains("disk full")
    });
    for i in c.members() {
        check_pieces(&c.at(i, "log"), &acknowledged);
    }

    let (second, errno) = fill(&file, 0, 400);
    acknowledged.extend((0..second).map(|n| n as u8));
    assert_eq!(errno, Some(libc::ENOSPC), "full again after {second} MB");
    c.must(&["up", "-n", "4"]);
    until(
        "writes to go on with another member",
        Duration::from_secs(120),
        || {
            let (done, _) = fill(&file, 230, 1);
            acknowledged.extend(std::iter::repeat_n(230, done));
            done == 1
        },
    );
    let (more, errno) = fill(&file, 240, 5);
    acknowledged.extend((0..more).map(|n| 240 + n as u8));
    assert_eq!((more, errno), (5, None));
    for i in 1..=4 {
        check_pieces(&c.at(i, "log"), &acknowledged);
    }
}

//! Power cuts of real members: their data folders are on disks that lose what was not synced, and the machine's boot is
//! another one afterwards, as far as they can tell. `HYDFS_CUTS=n` cuts more often.

use super::{
    common::{BIN, Cluster, SOON, may_mount, until},
    lines::{Log, judge, line},
    lossy::LossyDisk,
};
use fuser::BackgroundSession;
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

const MEMBERS: usize = 3;

/// Starts the binary where /proc tells of the boot that a file of the test names. What it mounts is seen outside.
const MACHINE: &str = r#"#!/bin/sh
before=
for word in "$@"; do
    [ "$before" = --name ] && boot=$(dirname -- "$0")/boot-$word
    before=$word
done
[ -n "$boot" ] || exec BIN "$@"
exec unshare --mount --propagation unchanged sh -c 'mount --make-private /proc &&
    mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"' "$boot" BIN "$@"
"#;

/// Machines with disks of their own below one cluster's folder.
struct Machines {
    folder: tempfile::TempDir,
    disks: Vec<LossyDisk>,
    mounted: Vec<Option<BackgroundSession>>,
    boots: usize,
    dir: PathBuf,
}

fn run(program: &str, words: &[&str], path: &Path) -> bool {
    let output = Command::new(program).args(words).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

/// Unmounts, whoever still looks in.
fn unmount(at: &Path, mounted: Option<BackgroundSession>) {
    run("umount", &["--lazy"], at);
    drop(mounted);
}

/// Ends the writers, also where a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Machines {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hydfs-test-power-")
            .tempdir();
        let mut machines = Self {
            folder: folder.expect("a temporary folder"),
            disks: (0..MEMBERS).map(|_| LossyDisk::new()).collect(),
            mounted: (0..MEMBERS).map(|_| None).collect(),
            boots: 0,
            dir: PathBuf::new(),
        };
        let program = machines.program();
        fs::write(&program, MACHINE.replace("BIN", BIN)).expect("a program is written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it may be run");
        (1..=MEMBERS).for_each(|i| machines.boot(i));
        machines
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("machine")
    }

    fn boot(&mut self, i: usize) {
        self.boots += 1;
        let id = format!("00000000-0000-4000-8000-{:012}\n", self.boots);
        fs::write(self.folder.path().join(format!("boot-n{i}")), id).expect("a boot begins");
    }

    fn data(&self, i: usize) -> PathBuf {
        self.dir.join(format!("n{i}/data"))
    }

    /// Puts the disks where the members of a cluster in `dir` will look for their data.
    fn attach(&mut self, dir: &Path) {
        self.dir = dir.to_owned();
        fs::create_dir_all(dir).expect("a folder is made");
        let path = dir.to_str().expect("a temporary path is text");
        assert!(run("mount", &["--bind", path], dir) && run("mount", &["--make-shared"], dir));
        for i in 1..=MEMBERS {
            fs::create_dir_all(self.data(i)).expect("a folder is made");
            self.mounted[i - 1] = Some(self.disks[i - 1].mount(&self.data(i)));
        }
    }

    /// The power of these machines fails at one moment and comes back: their members run again.
    fn cut(&mut self, cluster: &Cluster, which: &[usize], torn: Option<u64>) {
        which.iter().for_each(|i| self.disks[i - 1].power_off());
        cluster.kill_all(which);
        for i in which {
            unmount(&self.data(*i), self.mounted[i - 1].take());
            self.disks[i - 1].power_on(torn);
            self.mounted[i - 1] = Some(self.disks[i - 1].mount(&self.data(*i)));
            self.boot(*i);
        }
        which.iter().for_each(|i| cluster.start(*i));
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for i in 1..=MEMBERS {
            unmount(&self.data(i), self.mounted[i - 1].take());
        }
        unmount(&self.dir, None);
        if let Some(above) = self.dir.parent() {
            drop(fs::remove_dir_all(above));
        }
    }
}

/// Appends lines, each synced before the next, until told to stop; a line counts as written when its sync has returned.
fn write_synced_lines(path: &Path, w: usize, stop: &AtomicBool) -> Log {
    let mut log = Log::default();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let done = OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut file| {
                log.written.insert(n, false);
                file.write_all(line(w, n).as_bytes())?;
                file.sync_data()
            });
        log.written.insert(n, done.is_ok());
        if done.is_err() {
            thread::sleep(Duration::from_millis(50));
        }
    }
    log
}

#[test]
fn the_disk_loses_what_was_not_synced_and_nothing_else() {
    if !may_mount() {
        println!("skipped: needs root and /dev/fuse");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let disk = LossyDisk::new();
    let mounted = disk.mount(at);
    let write = |name: &str, text: &str| {
        let mut file = File::create(at.join(name)).expect("a file is made");
        file.write_all(text.as_bytes()).expect("it is written");
        file
    };
    write("kept", "safe").sync_data().expect("a file is synced");
    drop(write("empty", "gone"));
    let folder_itself = File::open(at).expect("a folder is opened");
    folder_itself.sync_all().expect("its names are synced");
    write("nameless", "safe")
        .sync_data()
        .expect("a file is synced");
    fs::rename(at.join("kept"), at.join("renamed")).expect("a file is renamed");
    drop(folder_itself);
    disk.power_off();
    assert!(fs::read(at.join("renamed")).is_err() && File::create(at.join("late")).is_err());
    unmount(at, Some(mounted));
    disk.power_on(None);
    let mounted = disk.mount(at);
    let names: Vec<_> = fs::read_dir(at)
        .expect("a folder is read")
        .flatten()
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(fs::read(at.join("kept")).expect("a file is read"), b"safe");
    assert_eq!(fs::read(at.join("empty")).expect("a file is read"), b"");
    unmount(at, Some(mounted));
}

#[test]
fn fault_s1_what_was_synced_survives_power_cuts_of_all_machines() {
    let cuts = std::env::var("HYDFS_CUTS").map_or(2, |n| n.parse().expect("a number"));
    let mut machines = Machines::new();
    let program = machines.program();
    let envs = [(
        "HYDFS_BIN",
        program.to_str().expect("a temporary path is text"),
    )];
    let Some(cluster) = Cluster::up_prepared(MEMBERS, &[], &envs, |dir| machines.attach(dir))
    else {
        return;
    };
    fs::write(cluster.at(1, "log"), "").expect("an empty file is made");
    let stop = AtomicBool::new(false);
    let logs = thread::scope(|scope| {
        let writer = |i| {
            let (path, stop) = (cluster.at(i, "log"), &stop);
            scope.spawn(move || write_synced_lines(&path, i - 1, stop))
        };
        let writers: Vec<_> = cluster.members().map(writer).collect();
        let stopping = Stop(&stop);
        for cut in 0..cuts {
            thread::sleep(Duration::from_millis(700 + cut * 531 % 900));
            // Names as well as bytes: half of them merged, half of them pending.
            let name = format!("file-{cut}");
            fs::write(cluster.at(2, &name), name.as_bytes()).expect("a file is written");
            let file = File::open(cluster.at(2, &name)).expect("it is opened");
            file.sync_all().expect("it is synced");
            if cut % 2 == 0 {
                fs::read(cluster.at(3, "log")).expect("the file is read");
            }
            let torn = (cut % 3 != 0).then_some(cut + 1);
            let which: Vec<usize> = match cut % 4 {
                3 => vec![1 + cut as usize / 4 % MEMBERS],
                _ => cluster.members().collect(),
            };
            machines.cut(&cluster, &which, torn);
            let took = cluster.wait_healthy();
            println!(
                "cut {cut} of {which:?}, torn: {torn:?}; healthy after {:.1} s",
                took.as_secs_f64()
            );
        }
        drop(stopping);
        writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer ended"))
            .collect::<Vec<_>>()
    });
    for i in cluster.members() {
        judge(
            &fs::read(cluster.at(i, "log")).expect("the file is read"),
            &logs,
        );
        for cut in 0..cuts {
            let name = format!("file-{cut}");
            assert_eq!(
                fs::read(cluster.at(i, &name)).expect("a file is read"),
                name.as_bytes()
            );
        }
    }
    let lines: usize = logs.iter().map(Log::acknowledged).sum();
    let syncs: u64 = machines.disks.iter().map(LossyDisk::syncs).sum();
    println!("{lines} lines synced over {cuts} cuts; {syncs} syncs of the disks");
    assert!(lines > 20, "{lines} lines were synced at all");
    until("nothing damaged", SOON, || {
        cluster.members().all(|i| cluster.healthy(i, MEMBERS))
    });
    cluster.must(&["down"]);
}

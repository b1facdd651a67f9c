//! What an operator does all day, on real processes: the predecessor's commands, members that leave, return, stall and
//! move, and what `.cluster` and the commands say about it all the while.

mod common;

use common::{BIN, Cluster, SOON, free_port, replicas, retry, text, until, write_synced};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// What a command printed; fails the test where it failed.
fn ok(out: &Output) -> String {
    assert!(
        out.status.success(),
        "{}{}",
        text(&out.stdout),
        text(&out.stderr)
    );
    text(&out.stdout)
}

/// What a command complained about; fails the test where it did not.
fn refused(out: &Output) -> String {
    assert!(
        !out.status.success(),
        "it should have been refused: {}",
        text(&out.stdout)
    );
    assert!(
        !text(&out.stderr).contains("panicked"),
        "{}",
        text(&out.stderr)
    );
    text(&out.stderr)
}

fn json(out: &Output) -> Value {
    let printed = ok(out);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// State and incarnation of a member, as another one has it.
fn member(c: &Cluster, seen_by: usize, name: &str) -> Option<(String, u64)> {
    let members = c.tree(seen_by, "members");
    let line = members
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))?
        .to_owned();
    let mut words = line.split(' ').skip(2);
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

fn address(c: &Cluster, i: usize) -> String {
    c.tree(1, "members")
        .lines()
        .find_map(|line| line.strip_prefix(&format!("n{i} ")))
        .and_then(|rest| rest.split(' ').next())
        .expect("a listed member")
        .to_owned()
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?
        .write_all(line.as_bytes())
}

/// Base files on a member's disk: segment and bytes.
fn bases(data: &Path) -> BTreeMap<String, u64> {
    let folders = fs::read_dir(data.join("base"))
        .into_iter()
        .flatten()
        .flatten();
    let files =
        folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files
        .filter_map(|file| {
            Some((
                file.file_name().into_string().ok()?,
                file.metadata().ok()?.len(),
            ))
        })
        .filter(|(name, _)| !name.contains('.'))
        .collect()
}

/// Names of the members that `ls` says hold each segment of a file.
fn listed(c: &Cluster, i: usize, path: &str) -> Vec<Vec<String>> {
    let shown = json(&c.hydfs(i, &["ls", path, "--json"]));
    let names = |segment: &Value| {
        let mut names: Vec<String> = segment["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["member"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    shown["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(names)
        .collect()
}

#[test]
fn the_predecessors_commands() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let lab = tempfile::tempdir().unwrap();
    let local = |name: &str, bytes: &[u8]| -> String {
        let path = lab.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, two) = (local("one", b"one\n"), local("two", b"two\n"));
    let fetched = lab.path().join("fetched");
    let fetched_name = fetched.to_str().unwrap().to_owned();

    ok(&c.hydfs(1, &["create", &one, "/f"]));
    assert!(refused(&c.hydfs(2, &["create", &two, "/f"])).contains("exists"));
    assert!(refused(&c.hydfs(1, &["create", "/nowhere/at/all", "/g"])).contains("cannot read"));
    ok(&c.hydfs(2, &["append", &two, "/f"]));
    assert!(refused(&c.hydfs(2, &["append", &two, "/g"])).contains("no such file"));
    ok(&c.hydfs(3, &["get", "/f", &fetched_name]));
    assert_eq!(fs::read(&fetched).unwrap(), b"one\ntwo\n");
    assert_eq!(ok(&c.hydfs(1, &["get", "/f", "-"])), "one\ntwo\n");
    assert!(refused(&c.hydfs(1, &["get", "/g", &fetched_name])).contains("no such file"));
    assert_eq!(
        fs::read(&fetched).unwrap(),
        b"one\ntwo\n",
        "a failed get leaves the local file alone"
    );
    assert_eq!(
        fs::read_to_string(c.at(3, "f")).unwrap(),
        "one\ntwo\n",
        "it is the mount's file"
    );

    append(&c.at(2, "f"), "three\n").unwrap();
    assert!(ok(&c.hydfs(1, &["merge", "/f"])).contains("14 bytes"));
    assert_eq!(json(&c.hydfs(1, &["merge", "/f", "--json"]))["size"], 14);
    assert!(
        json(&c.hydfs(1, &["merge", "/f", "--json"]))["micros"]
            .as_u64()
            .unwrap()
            > 0
    );

    let shown = json(&c.hydfs(2, &["ls", "/f", "--json"]));
    assert_eq!(shown["size"], 14);
    assert_eq!(
        shown["segments"][0]["replicas"].as_array().unwrap().len(),
        3
    );
    assert_eq!(shown["ring_id"].as_str().unwrap().len(), 16);
    let printed = ok(&c.hydfs(2, &["ls", "/f"]));
    for name in ["n1", "n2", "n3"] {
        assert!(printed.contains(name), "{printed}");
    }
    assert!(refused(&c.hydfs(2, &["ls", "/g"])).contains("no such file"));

    let store = ok(&c.hydfs(3, &["store"]));
    assert!(
        store.starts_with("member n3  ring id ") && store.contains("/f  ring id "),
        "{store}"
    );
    let stored = json(&c.hydfs(3, &["store", "--json"]));
    assert!(
        stored["files"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["path"] == "/f"),
        "{stored}"
    );

    for name in ["n1", "n2", "n3"] {
        assert_eq!(
            ok(&c.hydfs(1, &["getfromreplica", name, "/f", "-"])),
            "one\ntwo\nthree\n",
            "{name}"
        );
    }
    assert!(
        refused(&c.hydfs(1, &["getfromreplica", "n9", "/f", "-"]))
            .contains("no member is named n9")
    );

    let rows = json(&c.hydfs(1, &["list_mem_ids", "--json"]));
    let ids: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["ring_id"].as_str().unwrap())
        .collect();
    assert!(ids.len() == 3 && ids.is_sorted(), "{ids:?}");
    assert_eq!(
        rows.as_array()
            .unwrap()
            .iter()
            .filter(|row| row["leader"] == true)
            .count(),
        1
    );
    assert_eq!(ok(&c.hydfs(1, &["list_mem_ids"])).lines().count(), 3);

    // Found by the mount that holds the current directory.
    let found = Command::new(BIN)
        .args(["status", "--json"])
        .current_dir(c.mount(2))
        .env_remove("HYDFS_DATA")
        .output()
        .unwrap();
    assert_eq!(json(&found)["member"], "n2");
    assert!(
        refused(
            &Command::new(BIN)
                .args(["status"])
                .env("HYDFS_DATA", lab.path())
                .output()
                .unwrap()
        )
        .contains("hydfs")
    );
}

/// Every member's part is on its way before the first one is acknowledged, and each arrives whole, once.
#[test]
fn fault_s20_multiappend_is_concurrent() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let lab = tempfile::tempdir().unwrap();
    let mut words = vec![
        "multiappend".to_owned(),
        "--json".to_owned(),
        "/f".to_owned(),
    ];
    words.extend(["n1", "n2", "n3"].map(str::to_owned));
    for i in c.members() {
        let path = lab.path().join(format!("part{i}"));
        fs::write(&path, format!("{i}").repeat(900_000)).unwrap();
        words.push(path.to_str().unwrap().to_owned());
    }
    fs::write(c.at(1, "f"), "").unwrap();
    until("earlier writers to end", SOON, || {
        c.status(1).contains("writers 0,")
    });
    // Each of the three lives for as long as its appends last: three at once need three writers at once.
    let watched = c.mount(1);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || {
        let mut most = 0;
        while stopped.try_recv().is_err() {
            let status = fs::read_to_string(watched.join(".cluster/status")).unwrap_or_default();
            let writers = status
                .split("writers ")
                .nth(1)
                .and_then(|rest| rest.split(',').next())
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            most = usize::max(most, writers);
        }
        most
    });
    let done = json(&c.hydfs(2, &words));
    stop.send(()).unwrap();
    let most = watcher.join().unwrap();
    let rows = done["appends"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert!(
        rows.iter()
            .all(|row| row["bytes"] == 900_000 && row["error"].is_null()),
        "{done}"
    );
    assert_eq!(most, 3, "all three wrote at the same time");
    let content = fs::read_to_string(c.at(3, "f")).unwrap();
    let pieces: BTreeSet<&str> = [0, 900_000, 1_800_000]
        .map(|at| &content[at..at + 900_000])
        .into();
    assert_eq!(content.len(), 2_700_000);
    assert_eq!(
        pieces,
        ["1", "2", "3"]
            .map(|i| i.repeat(900_000))
            .iter()
            .map(String::as_str)
            .collect(),
        "each is whole and there once"
    );
    assert!(
        refused(&c.hydfs(1, &["multiappend", "/f", "n1", "n9", &words[6], &words[7]]))
            .contains("no member is named n9")
    );
}

/// Cluster-wide and live: every member says so at once, and detection goes on either way.
#[test]
fn suspicion_is_switched_everywhere() {
    let Some(c) = Cluster::up(3) else { return };
    assert_eq!(ok(&c.hydfs(1, &["suspicion"])).trim(), "suspicion on");
    ok(&c.hydfs(2, &["suspicion", "off"]));
    until("all members to have it off", SOON, || {
        c.members()
            .all(|i| ok(&c.hydfs(i, &["suspicion", "status"])).trim() == "suspicion off")
    });
    c.kill(3);
    until("the death to be seen without suspicion", SOON, || {
        member(&c, 1, "n3").is_some_and(|(state, _)| state == "dead")
    });
    assert_eq!(
        json(&c.hydfs(1, &["suspicion", "on", "--json"]))["on"],
        true
    );
    c.start(3);
    until("the returned member to have it on", SOON, || {
        text(&c.hydfs(3, &["suspicion", "status"]).stdout).trim() == "suspicion on"
    });
    c.wait_healthy();
}

/// SIGTERM: the others know at once, long before they could have noticed, and the mount is gone.
#[test]
fn a_stopped_member_leaves_cleanly() {
    let Some(c) = Cluster::up_with(3, &[], &[("HYDFS_SUSPICION_MS", "60000")]) else {
        return;
    };
    c.wait_healthy();
    let leader = c.leader();
    let other = if leader == 1 { 2 } else { 1 };
    let before = member(&c, other, &format!("n{leader}")).unwrap();
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(c.at(leader, "f"))
        .unwrap();
    file.write_all(b"written before the stop\n").unwrap();
    drop(file);
    c.stop(leader);
    until("the others to know", Duration::from_secs(20), || {
        member(&c, other, &format!("n{leader}")).is_some_and(|(state, _)| state != "alive")
    });
    assert!(
        c.log_text(leader).contains("stopped"),
        "{}",
        c.log_text(leader)
    );
    assert!(
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(c.mount(leader).to_str().unwrap()),
        "it is unmounted"
    );
    // No detection, no timing out: what it wrote is there and the others write on.
    retry("a write without the one that stopped", SOON, || {
        append(&c.at(other, "f"), "after\n")
    });
    assert_eq!(
        fs::read_to_string(c.at(other, "f")).unwrap(),
        "written before the stop\nafter\n"
    );
    c.start(leader);
    c.wait_healthy();
    assert!(
        member(&c, other, &format!("n{leader}")).unwrap().1 > before.1,
        "it is a new life"
    );
    assert_eq!(
        fs::read_to_string(c.at(leader, "f")).unwrap(),
        "written before the stop\nafter\n"
    );
}

/// `leave` ends the member for good and moves its copies; `join` brings it back with its own settings.
#[test]
fn leave_and_join() {
    let Some(c) = Cluster::up(4) else { return };
    c.wait_healthy();
    for n in 0..8 {
        write_synced(
            &c.at(1, &format!("f{n}")),
            format!("content {n}\n").as_bytes(),
        )
        .unwrap();
    }
    let pid = c.pid(4);
    assert_eq!(json(&c.hydfs(4, &["leave", "--json"]))["left"], true);
    until("the process to end", SOON, || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    until("the mount to go", SOON, || {
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(c.mount(4).to_str().unwrap())
    });
    until("the others to call it left", SOON, || {
        member(&c, 1, "n4").is_some_and(|(state, _)| state == "left")
    });
    until(
        "all copies to be on the others",
        Duration::from_secs(120),
        || {
            [1, 2, 3].into_iter().all(|i| c.healthy(i, 3))
                && (0..8).all(|n| listed(&c, 1, &format!("/f{n}")) == [["n1", "n2", "n3"]])
        },
    );
    assert!(
        refused(&c.hydfs(4, &["status"])).contains("no member"),
        "who left does not answer"
    );
    let joined = ok(&c.hydfs(4, &["join"]));
    assert!(joined.contains("member n4"), "{joined}");
    until("it to be a member again", SOON, || {
        member(&c, 1, "n4").is_some_and(|(state, _)| state == "alive")
    });
    c.wait_healthy();
    for n in 0..8 {
        assert_eq!(
            fs::read_to_string(c.at(4, &format!("f{n}"))).unwrap(),
            format!("content {n}\n")
        );
    }
}

/// Started by hand below the cluster's certificates; killed on drop.
struct Extra {
    child: Child,
    data: PathBuf,
}

impl Extra {
    fn start(c: &Cluster, name: &str, doors: &[String]) -> Self {
        let certs = c.dir().join("certs");
        ok(&Command::new(BIN)
            .args(["certs", "issue", name, "--dir"])
            .arg(&certs)
            .output()
            .unwrap());
        let data = c.dir().join(format!("extra-{name}"));
        let log = fs::File::create(c.dir().join(format!("extra-{name}.log"))).unwrap();
        let mut command = Command::new(BIN);
        command.args([
            "member",
            "--name",
            name,
            "--mount",
            "none",
            "--listen",
            &format!("127.0.0.1:{}", free_port()),
        ]);
        command
            .arg("--data")
            .arg(&data)
            .arg("--certs")
            .arg(&certs)
            .arg("--join")
            .args(doors);
        Self {
            child: command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
            data,
        }
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Any member is a door, whoever leads, also when the first doors of the list are closed (fault M12).
#[test]
fn fault_m12_join_through_any_member() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let leader = c.leader();
    let other = c.members().find(|i| *i != leader).unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    let by_follower = Extra::start(&c, "x1", &[address(&c, other)]);
    until("a member to join through a follower", SOON, || {
        member(&c, 1, "x1").is_some_and(|(state, _)| state == "alive")
    });
    let by_second = Extra::start(&c, "x2", &[nobody, address(&c, leader)]);
    until("a member to join through the second door", SOON, || {
        member(&c, 1, "x2").is_some_and(|(state, _)| state == "alive")
    });
    until("all to see five", SOON, || {
        c.members()
            .all(|i| c.tree(i, "members").matches(" alive ").count() == 5)
    });
    let rows = Command::new(BIN)
        .args(["list_mem_ids", "--json"])
        .env("HYDFS_DATA", &by_follower.data)
        .output()
        .unwrap();
    assert_eq!(
        json(&rows).as_array().unwrap().len(),
        5,
        "a member without a mount answers commands"
    );
    drop(by_second);
}

/// The same member at another address: everybody finds it there.
#[test]
fn a_member_restarts_at_another_address() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    write_synced(&c.at(1, "f"), b"before\n").unwrap();
    c.stop(2);
    let port = free_port();
    fs::write(c.dir().join("n2/port"), format!("{port}\n")).unwrap();
    c.start(2);
    c.wait_healthy();
    assert_eq!(address(&c, 2), format!("127.0.0.1:{port}"));
    fs::write(c.at(2, "g"), "after\n").unwrap();
    assert_eq!(fs::read_to_string(c.at(2, "f")).unwrap(), "before\n");
    assert_eq!(fs::read_to_string(c.at(1, "g")).unwrap(), "after\n");
    assert_eq!(fs::read_to_string(c.at(3, "g")).unwrap(), "after\n");
}

/// A member that stalled past its expiry finds out, comes back by itself as a new incarnation, and serves nothing old.
#[test]
fn fault_m8_a_stalled_member_is_fenced_and_rejoins_by_itself() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let leader = c.leader();
    let victim = c.members().find(|i| *i != leader).unwrap();
    let name = format!("n{victim}");
    write_synced(&c.at(victim, "f"), b"one\n").unwrap();
    let before = member(&c, leader, &name).unwrap();
    let pid = c.pid(victim);
    c.pause(victim);
    until("the others to exclude it", SOON, || {
        member(&c, leader, &name).is_some_and(|(state, _)| state == "dead")
    });
    retry("writes to go on without it", SOON, || {
        append(&c.at(leader, "f"), "two\n")
    });
    c.resume(victim);
    // From the first answer on it is the new content: an error is allowed, the old content is not.
    let (content, took) = retry("the member to serve again", SOON, || {
        fs::read_to_string(c.at(victim, "f"))
    });
    assert_eq!(content, "one\ntwo\n");
    until("a new incarnation", SOON, || {
        member(&c, leader, &name).is_some_and(|(state, life)| state == "alive" && life > before.1)
    });
    assert_eq!(
        c.pid(victim),
        pid,
        "it came back by itself, not by a restart"
    );
    c.wait_healthy();
    println!("served again after {took:?}");
    retry("writes through it", SOON, || {
        append(&c.at(victim, "f"), "three\n")
    });
    for i in c.members() {
        assert_eq!(
            fs::read_to_string(c.at(i, "f")).unwrap(),
            "one\ntwo\nthree\n",
            "n{i}"
        );
    }
    // Fault M9: a life that came back counts once.
    assert_eq!(c.tree(leader, "members").lines().count(), 3);
    assert_eq!(listed(&c, leader, "/f"), [["n1", "n2", "n3"]]);
}

/// Whatever came and went: exactly three copies of every segment lie on disks, on distinct members, and `ls` names those.
#[test]
fn fault_s11_s19_m9_after_churn_three_copies_and_ls_tells_the_disks() {
    let Some(c) = Cluster::up(5) else { return };
    c.wait_healthy();
    let files: Vec<(String, usize)> = (0..12).map(|n| (format!("f{n}"), 10_000 + n)).collect();
    for (at, (name, len)) in files.iter().enumerate() {
        write_synced(&c.at(at % 5 + 1, name), &vec![b'a' + at as u8; *len]).unwrap();
    }
    let disks = || -> BTreeMap<u64, BTreeSet<String>> {
        let mut found = BTreeMap::<u64, BTreeSet<String>>::new();
        for i in c.members() {
            for (_, len) in bases(&c.data(i)) {
                found.entry(len).or_default().insert(format!("n{i}"));
            }
        }
        found
    };
    let told = |i: usize, name: &str| -> BTreeSet<String> {
        listed(&c, i, &format!("/{name}"))
            .concat()
            .into_iter()
            .collect()
    };
    for round in 0..3 {
        let victim = round % 5 + 1;
        let asked = victim % 5 + 1;
        c.kill(victim);
        until("the others to exclude it", SOON, || {
            member(&c, asked, &format!("n{victim}")).is_some_and(|(state, _)| state == "dead")
        });
        // While copies are made anew, `ls` names no copy that is not there.
        for (name, _) in &files {
            let told = told(asked, name);
            assert!(
                !told.contains(&format!("n{victim}")),
                "{name}: the dead n{victim} holds nothing that anybody could read"
            );
            assert!(told.len() >= 2, "{name} is only at {told:?}");
        }
        until(
            "three copies of everything on the other four",
            Duration::from_secs(120),
            || {
                let status = c.status(asked);
                status.contains("members 4 alive")
                    && !status.contains("under-replicated")
                    && !status.contains("repairing")
            },
        );
        c.start(victim);
        c.wait_healthy();
    }
    // What a killed member had appended is merged by the first read; until then it lies in journals, not in bases.
    for (at, (name, len)) in files.iter().enumerate() {
        assert_eq!(
            fs::read(c.at(2, name)).unwrap(),
            vec![b'a' + at as u8; *len],
            "{name}"
        );
    }
    let mut seen = String::new();
    let all = common::poll(Duration::from_secs(120), || {
        let disks = disks();
        let wrong = files.iter().find_map(|(name, len)| {
            let on_disk = disks.get(&(*len as u64)).cloned().unwrap_or_default();
            let told = told(1, name);
            (on_disk.len() != 3 || told != on_disk)
                .then(|| format!("{name}: on the disks of {on_disk:?}, ls says {told:?}"))
        });
        seen = wrong.clone().unwrap_or_default();
        wrong.is_none()
    });
    assert!(all, "{seen}");
    for (name, len) in &files {
        let wanted: BTreeSet<String> = replicas(&c.at(2, name))
            .into_iter()
            .map(|i| format!("n{i}"))
            .collect();
        assert_eq!(
            wanted,
            told(3, name),
            "{name}: agreed and actual places are the same"
        );
        assert_eq!(fs::metadata(c.at(4, name)).unwrap().size(), *len as u64);
    }
    assert!(
        refused(&c.hydfs(1, &["ls", "/never"])).contains("no such file"),
        "a missing file has no places"
    );
}

/// One member is a file system, and says what it lacks.
#[test]
fn fault_s17_one_member_works_and_says_under_replicated() {
    let Some(c) = Cluster::up(1) else { return };
    fs::create_dir(c.at(1, "d")).unwrap();
    write_synced(&c.at(1, "d/f"), b"alone\n").unwrap();
    append(&c.at(1, "d/f"), "still\n").unwrap();
    assert_eq!(
        fs::read_to_string(c.at(1, "d/f")).unwrap(),
        "alone\nstill\n"
    );
    let status = c.status(1);
    assert!(status.starts_with("degraded: under-replicated"), "{status}");
    c.kill(1);
    c.start(1);
    let (content, _) = retry("the file after a restart", SOON, || {
        fs::read_to_string(c.at(1, "d/f"))
    });
    assert_eq!(content, "alone\nstill\n");
    c.must(&["up", "-n", "3"]);
    until("three copies", Duration::from_secs(120), || {
        (1..=3).all(|i| c.healthy(i, 3))
    });
    assert_eq!(listed(&c, 2, "/d/f"), [["n1", "n2", "n3"]]);
}

/// `.cluster`: reachable by name, listed nowhere, answered by the member alone.
#[test]
fn the_control_tree_tells_and_does_not_trip() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    write_synced(&c.at(1, "f"), b"x").unwrap();
    let names: Vec<_> = fs::read_dir(c.mount(2))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(!names.iter().any(|name| name == ".cluster"), "{names:?}");
    assert_eq!(c.tree(2, "members").lines().count(), 3);
    assert_eq!(
        c.tree(2, "leader").split(' ').next(),
        Some(format!("n{}", c.leader()).as_str())
    );
    assert_eq!(
        c.tree(2, "ring")
            .lines()
            .filter(|line| line.contains(" alive "))
            .count(),
        3
    );
    assert!(c.status(2).starts_with("healthy\n"));
    for line in c
        .tree(2, "metrics")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (name, value) = line.rsplit_once(' ').expect("NAME VALUE");
        assert!(
            name.starts_with("hydfs_") && value.parse::<u64>().is_ok(),
            "{line}"
        );
    }
    for name in ["replicas", "segments", "version", "pending"] {
        assert!(
            common::xattr(&c.at(3, "f"), &format!("user.hydfs.{name}")).is_some(),
            "user.hydfs.{name}"
        );
    }
    assert_eq!(replicas(&c.at(3, "f")).len(), 3);
    // Seen through the writer's own mount: to look the name up elsewhere is to ask for the size, which merges.
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(c.at(1, "f"))
        .unwrap();
    file.write_all(b"y").unwrap();
    assert_eq!(
        common::xattr(&c.at(1, "f"), "user.hydfs.pending").as_deref(),
        Some("1 records, 1 bytes")
    );
    assert_eq!(fs::read_to_string(c.at(3, "f")).unwrap(), "xy");
    assert_eq!(
        common::xattr(&c.at(1, "f"), "user.hydfs.pending").as_deref(),
        Some("0 records, 0 bytes")
    );
    drop(file);
    let denied = fs::write(c.at(1, ".cluster/status"), "x").unwrap_err();
    assert!(
        matches!(
            denied.raw_os_error(),
            Some(libc::EACCES | libc::EPERM | libc::EROFS)
        ),
        "{denied}"
    );
    // Without the others it still answers.
    c.kill(1);
    c.kill(3);
    assert!(c.status(2).contains("member n2"), "{}", c.status(2));
    assert_eq!(c.tree(2, "members").lines().count(), 3);
    until("it to say that there is no majority", SOON, || {
        c.status(2).contains("no leader")
    });
}

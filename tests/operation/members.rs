//! Members that stop, join, move, stall and die, and the copies meanwhile.

use super::*;

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
    // A leader that hears from nobody for longer than this leads no more, unless it votes alone.
    std::thread::sleep(Duration::from_secs(3));
    c.must(&["up", "-n", "3"]);
    until("three copies", Duration::from_secs(120), || {
        (1..=3).all(|i| c.healthy(i, 3))
    });
    assert_eq!(listed(&c, 2, "/d/f"), [["n1", "n2", "n3"]]);
}

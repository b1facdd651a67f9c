//! Members that go on purpose: their copies and votes go first.

use super::*;

/// What was pulled as a learner by the members so far.
fn pulled(c: &Cluster, members: &[usize]) -> u64 {
    let pulled = |i: &usize| c.metric(*i, "hydfs_data_repaired_segments_total");
    members.iter().map(pulled).sum()
}

fn votes(c: &Cluster, asked: usize) -> BTreeSet<String> {
    let rows = json(&c.hydfs(asked, &["list_mem_ids", "--json"]));
    let voters = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["voter"] == true);
    voters
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The leader, which votes and holds copies, drains and leaves while others write: no write fails, and when it has gone
/// nothing has to be copied any more.
#[test]
fn who_was_drained_goes_without_a_repair() {
    let Some(c) = Cluster::up(5) else { return };
    c.wait_healthy();
    let going = c.leader();
    let staying: Vec<usize> = c.members().filter(|i| *i != going).collect();
    let asked = staying[0];
    for n in 0..24 {
        write_synced(&c.at(asked, &format!("f{n}")), &[n; 100_000]).unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let writing = {
        let (path, done) = (c.at(staying[1], "lines"), done.clone());
        std::thread::spawn(move || {
            let mut lines = 0;
            while !done.load(Relaxed) {
                append(&path, &format!("line {lines}\n")).unwrap();
                lines += 1;
            }
            lines
        })
    };
    let drained = json(&c.hydfs(going, &["drain", "--json"]));
    assert_eq!(
        (&drained["slots"], &drained["voter"]),
        (&0.into(), &false.into())
    );
    assert_ne!(c.leader(), going, "it handed its office over");
    until("its own copies to go", SOON, || {
        json(&c.hydfs(going, &["store", "--json"]))["files"] == serde_json::json!([])
    });
    let status = c.status(asked);
    assert!(status.starts_with("healthy"), "{status}");
    assert!(
        status.contains(&format!("draining n{going}: 0 slots")),
        "{status}"
    );
    // It goes on to serve.
    append(&c.at(going, "g"), "still here\n").unwrap();
    let before = pulled(&c, &staying);
    ok(&c.hydfs(going, &["leave"]));
    until("the others to call it left", SOON, || {
        member(&c, asked, &format!("n{going}")).is_some_and(|(state, _)| state == "left")
    });
    done.store(true, Relaxed);
    let lines = writing.join().unwrap();
    let status = c.status(asked);
    assert!(status.starts_with("healthy"), "{status}");
    assert_eq!(pulled(&c, &staying), before, "nothing was left to repair");
    let want: String = (0..lines).map(|n| format!("line {n}\n")).collect();
    assert_eq!(fs::read_to_string(c.at(asked, "lines")).unwrap(), want);
    assert_eq!(
        fs::read_to_string(c.at(asked, "g")).unwrap(),
        "still here\n"
    );
    for n in 0..24 {
        assert_eq!(
            fs::read(c.at(asked, &format!("f{n}"))).unwrap(),
            [n; 100_000]
        );
    }
}

/// Drained by another member, and taken back: it has its share again.
#[test]
fn a_drain_can_be_taken_back() {
    let Some(c) = Cluster::up(4) else { return };
    c.wait_healthy();
    write_synced(&c.at(1, "f"), b"x").unwrap();
    let kept = |i: usize| {
        let ring = c.tree(1, "ring");
        let name = format!(" n{i} ");
        let row = ring
            .lines()
            .find(|row| row.contains(&name))
            .unwrap()
            .to_owned();
        row.split(' ').nth(3).unwrap().parse::<u32>().unwrap()
    };
    ok(&c.hydfs(1, &["drain", "n3"]));
    until("its slots to go", SOON, || kept(3) == 0);
    assert!(!votes(&c, 1).contains("n3"));
    assert!(refused(&c.hydfs(1, &["drain", "n9"])).contains("no member is named n9"));
    ok(&c.hydfs(2, &["drain", "n3", "--cancel"]));
    until("its slots to come back", Duration::from_secs(60), || {
        kept(3) > 2000
    });
    c.wait_healthy();
}

#[test]
fn the_last_member_is_not_drained() {
    let Some(c) = Cluster::up(1) else { return };
    for command in ["drain", "leave"] {
        let said = refused(&c.hydfs(1, &[command]));
        assert!(said.contains("no other live member"), "{said}");
    }
    append(&c.at(1, "f"), "x\n").unwrap();
}

/// A voter that stays away gives its vote to somebody who is there; when it returns it follows without one.
#[test]
fn a_voter_that_stays_away_is_replaced() {
    let envs = [("HYDFS_VOTER_REPLACE_AFTER_S", "1")];
    let Some(c) = Cluster::up_with(4, &[], &envs) else {
        return;
    };
    c.wait_healthy();
    let leader = c.leader();
    until("three voters", SOON, || votes(&c, leader).len() == 3);
    let voters = votes(&c, leader);
    let gone = c
        .members()
        .find(|i| *i != leader && voters.contains(&format!("n{i}")))
        .unwrap();
    c.kill(gone);
    until("its vote to go to another one", SOON, || {
        let now = votes(&c, leader);
        now.len() == 3 && !now.contains(&format!("n{gone}"))
    });
    c.start(gone);
    c.wait_healthy();
    append(&c.at(gone, "f"), "back\n").unwrap();
    assert_eq!(votes(&c, leader).len(), 3);
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

/// Who will not come back is said to have left, by name or by a machine with an empty folder under its name: nobody waits for it.
#[test]
fn a_machine_that_is_gone_is_not_missed_for_ever() {
    let Some(c) = Cluster::up(4) else { return };
    c.wait_healthy();
    write_synced(&c.at(1, "file"), b"content").unwrap();
    let why = refused(&c.hydfs(1, &["leave", "n4"]));
    assert!(why.contains("n4 is alive"), "{why}");
    c.kill(4);
    until("it to be missed", SOON, || c.status(1).contains("n4 down"));
    assert!(refused(&c.hydfs(1, &["leave", "n9"])).contains("no member"));
    assert!(ok(&c.hydfs(1, &["leave", "n4"])).contains("n4 has left"));
    until("the others to be healthy without it", SOON, || {
        (1..=3).all(|i| c.healthy(i, 3))
    });

    // Another machine takes the name of one that is down.
    c.start(4);
    c.wait_healthy();
    c.kill(4);
    until("it to be missed again", SOON, || {
        c.status(1).contains("n4 down")
    });
    fs::remove_dir_all(c.data(4)).unwrap();
    fs::create_dir(c.data(4)).unwrap();
    c.start(4);
    until("all four to be healthy", Duration::from_secs(60), || {
        c.members().all(|i| c.healthy(i, 4))
    });
    assert_eq!(fs::read(c.at(4, "file")).unwrap(), b"content");
}

//! The predecessor's commands.

use super::*;

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

//! What an operator does all day, on real processes: the predecessor's commands, members that leave, return, stall and
//! move, and what `.cluster` and the commands say about it all the while.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "operation/commands.rs"]
mod commands;
#[path = "operation/draining.rs"]
mod draining;
#[path = "operation/members.rs"]
mod members;
#[path = "operation/ordinary.rs"]
mod ordinary;

use common::{BIN, Cluster, SOON, free_port, replicas, retry, text, until, write_synced};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
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
    let refused = fs::write(c.at(2, "g"), "x").unwrap_err();
    let errors = c.tree(2, "errors");
    let last = errors.lines().last().expect("a line for the failed call");
    assert!(
        last.contains(" /g: error ") && last.contains(&refused.raw_os_error().unwrap().to_string()),
        "{errors}"
    );
}

//! `hydfs torture` as a user runs it: a clean verdict while members die, decay and stand still, and a broken one where an
//! acknowledged file was taken away behind its back.

mod common;

use common::{BIN, Cluster, SOON, may_mount, poll, text};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Output, Stdio},
    thread,
};

fn torture(words: &[&str]) -> Output {
    Command::new(BIN)
        .arg("torture")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn verdict(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&out.stdout), text(&out.stderr)))
}

#[test]
fn promises_hold_while_members_die_decay_and_stand_still() {
    if !may_mount() {
        return println!("skipped: needs root and /dev/fuse");
    }
    let lab = tempfile::tempdir().expect("a folder");
    let folder = lab.path().join("members");
    let folder = folder.to_str().expect("a path in UTF-8");
    let out = torture(&[
        "--minutes",
        "0.2",
        "--members",
        "3",
        "--faults",
        "kill,pause,flip",
        "--seed",
        "3",
        "--folder",
        folder,
        "--json",
    ]);
    let verdict = verdict(&out);
    assert!(out.status.success(), "{verdict:#}\n{}", text(&out.stderr));
    for promise in [
        "lost",
        "doubled",
        "torn",
        "reordered",
        "stale",
        "diverged",
        "stuck",
    ] {
        assert_eq!(verdict[promise], 0, "{verdict:#}");
    }
    for work in ["acknowledged", "files", "reads", "jobs"] {
        assert!(verdict[work].as_u64() > Some(0), "{verdict:#}");
    }
    assert!(
        verdict["faults"]
            .as_object()
            .is_some_and(|faults| !faults.is_empty())
    );
    assert!(
        fs::exists(folder).is_ok_and(|left| !left),
        "nothing is left"
    );
}

#[test]
fn a_planted_loss_breaks_the_verdict_of_a_mounted_cluster() {
    let Some(c) = Cluster::up(1) else { return };
    let mount = c.mount(1);
    let names = mount.join("torture-4/names");
    let thief = thread::spawn(move || {
        let victim = names.join("a0-0");
        // Renamed and removed names come and go; this one is to stay.
        poll(SOON, || {
            fs::metadata(&victim).is_ok_and(|meta| meta.len() > 0)
        }) && fs::remove_file(&victim).is_ok()
    });
    let mount = mount.to_str().expect("a path in UTF-8");
    let out = torture(&[
        "--minutes",
        "0.1",
        "--mounts",
        mount,
        "--faults",
        "none",
        "--seed",
        "4",
    ]);
    assert!(thief.join().expect("the thief ended"), "nothing was stolen");
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{shown}{}", text(&out.stderr));
    assert!(
        shown.contains("lost 1,") && shown.contains("file 0 of n1") && shown.contains("BROKEN"),
        "{shown}"
    );
    // The next one, undisturbed, is clean and cleans up.
    let out = torture(&[
        "--minutes",
        "0.05",
        "--mounts",
        mount,
        "--faults",
        "none",
        "--seed",
        "5",
        "--json",
    ]);
    assert!(
        out.status.success(),
        "{}{}",
        text(&out.stdout),
        text(&out.stderr)
    );
    assert_eq!(verdict(&out)["lost"], 0);
    assert!(!c.at(1, "torture-5").exists());
    // What cannot be run says so.
    let out = torture(&["--minutes", "0.05", "--mounts", "/nowhere/at/all"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(
        text(&out.stderr).contains("/nowhere/at/all"),
        "{}",
        text(&out.stderr)
    );
}

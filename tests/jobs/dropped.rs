//! A spec is picked up however it is saved, once, and what is no spec is left alone.

use crate::{
    common::poll,
    desk::{CALLS, Desk, check_count, sample_spec},
};
use std::{fs, process::Command};

#[test]
fn a_spec_dropped_by_cp_by_redirection_or_by_an_editor_runs_once() {
    let Some(desk) = Desk::up(3, 2_000) else {
        return;
    };
    let cluster = &desk.cluster;
    let spec = sample_spec("count");
    let local = cluster.dir().join("local.toml");
    fs::write(&local, &spec).expect("a local file");
    let shell = |script: String| {
        let status = Command::new("sh")
            .arg("-c")
            .arg(&script)
            .status()
            .expect("a shell");
        assert!(status.success(), "{script}");
    };
    let jobs = |i| cluster.at(i, ".jobs").display().to_string();
    let from = local.display();
    shell(format!("cp {from} {}/by-cp.toml", jobs(2)));
    shell(format!("cat {from} > {}/by-redirection.toml", jobs(3)));
    shell(format!(
        "while read -r line; do echo \"$line\" >> {0}/by-lines.draft; done < {from}; mv {0}/by-lines.draft {0}/by-lines.toml",
        jobs(1)
    ));
    // An editor: the new text in a file of its own, which takes the name's place.
    shell(format!(
        "cp {from} {0}/.by-editor.toml.swp; cp {from} {0}/by-editor.toml~; cp {from} {0}/4913; mv {0}/.by-editor.toml.swp {0}/by-editor.toml",
        jobs(2)
    ));
    // Written elsewhere and renamed at once, while its writer lingers.
    shell(format!(
        "cat {from} > {}/draft; mv {}/draft {}/by-rename.toml",
        cluster.mount(3).display(),
        cluster.mount(3).display(),
        jobs(3)
    ));
    let names = [
        "by-cp",
        "by-redirection",
        "by-lines",
        "by-editor",
        "by-rename",
    ];
    let first: Vec<String> = names.iter().map(|name| desk.wait_done(name)).collect();
    for name in names {
        check_count(&desk.output(name), &desk.csv);
    }
    // Several looks through the folder later they still are the same jobs. This one is registered after those looks.
    desk.write_spec(1, "later", &spec);
    desk.wait_done("later");
    std::thread::sleep(std::time::Duration::from_secs(5));
    for (name, before) in names.iter().zip(&first) {
        let same = poll(CALLS, || desk.job_file(name, "status") == *before);
        assert!(same, "{name} ran again: {}", desk.job_file(name, "status"));
    }
    let folders = fs::read_dir(cluster.at(1, ".jobs")).expect("the folder of jobs");
    let folders = folders
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()))
        .count();
    assert_eq!(folders, names.len() + 1, "only specs make jobs");
    // The folder of a job shows what it has, and goes in one command.
    let listed = Command::new("ls")
        .arg(cluster.at(2, ".jobs/by-cp"))
        .output()
        .expect("ls runs");
    let listed = String::from_utf8_lossy(&listed.stdout).replace("state\n", "");
    assert_eq!(listed, "output\nprogress\nreceipt\nstatus\nstatus.json\n");
    shell(format!("rm -r {}/by-cp", jobs(2)));
    assert!(!cluster.at(1, ".jobs/by-cp").exists());
}

#[test]
fn a_source_that_is_overwritten_fails_the_job_instead_of_mixing_two_contents() {
    let Some(desk) = Desk::up(3, 60_000) else {
        return;
    };
    let job = desk.upper("overwritten", 2, 100);
    desk.wait_rows(&job, 1);
    let other = desk.csv.replace("Yield", "YIELD");
    fs::write(desk.cluster.at(2, "data/signs.csv"), other).expect("the data set is replaced");
    let status = desk.wait_status(&job, "failed");
    assert!(status.contains("changed since it was pinned"), "{status}");
}

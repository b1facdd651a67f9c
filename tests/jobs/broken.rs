//! A broken spec says what is wrong, where, and what to do, and starts nothing.

use crate::{
    common::poll,
    desk::{Desk, JOB, sample_spec},
};

#[test]
fn fault_r9_a_broken_spec_fails_with_place_and_remedy_and_starts_nothing() {
    let Some(desk) = Desk::up(3, 100) else { return };
    let typo = sample_spec("filter").replacen("Sign_Post", "Sing_Post", 1);
    let place = typo
        .lines()
        .position(|line| line.contains("Sing_Post"))
        .expect("the typo")
        + 1;
    let column = typo
        .lines()
        .nth(place - 1)
        .and_then(|line| line.find("\"Sing_Post\""))
        .expect("the typo")
        + 1;
    let cases = [
        (
            "typo",
            typo,
            format!(
                "/.jobs/typo.toml:{place}:{column}: there is no column `Sing_Post`; did you mean `Sign_Post`?"
            ),
        ),
        (
            "syntax",
            "version = 1\n[[source]\n".to_owned(),
            "/.jobs/syntax.toml:2:".to_owned(),
        ),
        (
            "tasks",
            sample_spec("count").replacen("tasks = 3", "tasks = 0", 1),
            "/.jobs/tasks.toml:".to_owned(),
        ),
        (
            "gone",
            sample_spec("count").replace("/data/signs.csv", "/data/none.csv"),
            "no such file".to_owned(),
        ),
        (
            "key",
            format!("{}colour = 1\n", sample_spec("count")),
            "colour".to_owned(),
        ),
    ];
    for (i, (name, spec, _)) in cases.iter().enumerate() {
        desk.write_spec(i % 3 + 1, name, spec);
    }
    for (name, _, expected) in &cases {
        let status = desk.wait_status(name, "failed");
        assert!(status.contains(expected.as_str()), "{name} says: {status}");
        assert!(
            status.contains(&format!("/.jobs/{name}.toml:")),
            "{name} names its file: {status}"
        );
        let left: Vec<_> = std::fs::read_dir(desk.cluster.at(1, &format!(".jobs/{name}")))
            .expect("the job's folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .filter(|name| !matches!(name.as_str(), "status" | "progress" | "status.json"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "nothing was started");
    }
    // Saved again without the mistake, it runs.
    desk.write_spec(2, "typo", &sample_spec("filter"));
    let done = poll(JOB, || {
        desk.job_file("typo", "status").starts_with("status = done")
    });
    assert!(
        done,
        "the mended spec runs: {}",
        desk.job_file("typo", "status")
    );
}

//! Jobs over growing files, and the commands on jobs.

use crate::{
    common::text,
    desk::{CALLS, Desk, sample_spec},
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    time::Instant,
};

const FOLLOW: &str = "version = 1\n[[source]]\nname = \"logs\"\npath = \"/logs/*.log\"\nfollow = true\n\
    [[stage]]\nname = \"words\"\nfrom = \"logs\"\nop = { split = { by = \" \" } }\ntasks = 2\n\
    [[stage]]\nname = \"once\"\nfrom = \"words\"\nop = { dedup = { } }\ntasks = 2\n";

fn append(desk: &Desk, i: usize, file: &str, line: &str) {
    let path = desk.cluster.at(i, &format!("logs/{file}"));
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("a log file");
    file.write_all(line.as_bytes()).expect("a line is appended");
}

fn job(desk: &Desk, words: &[&str]) -> (bool, String) {
    let out = desk.cluster.hydfs(2, &[&["job"], words].concat());
    let words = [text(&out.stdout), text(&out.stderr)].concat();
    (out.status.success(), words)
}

#[test]
fn fault_r18_a_growing_directory_is_followed_and_its_job_obeys_commands() {
    let Some(desk) = Desk::up(3, 200) else { return };
    fs::create_dir_all(desk.cluster.at(1, "logs")).expect("a directory");
    append(&desk, 1, "a.log", "one two\ntwo");
    desk.write_spec(1, "words", FOLLOW);
    desk.wait_rows("words", 1);
    let seen = |count: usize| {
        let all = || {
            let output = desk.output("words");
            let mut words: Vec<String> = output.lines().map(str::to_owned).collect();
            words.sort();
            words
        };
        let found = crate::common::poll(CALLS, || all().len() >= count);
        assert!(found, "{count} words: {:?}", all());
        all()
    };
    assert_eq!(seen(2), ["one", "two"]);
    let began = Instant::now();
    append(&desk, 3, "b.log", "three one\n");
    append(&desk, 2, "a.log", "fold four\n");
    assert_eq!(seen(5), ["four", "one", "three", "two", "twofold"]);
    println!(
        "two lines were readable in the output after {:?}",
        began.elapsed()
    );

    let (good, words) = job(&desk, &["pause", "words"]);
    assert!(good && words.contains("job words is paused"), "{words}");
    append(&desk, 1, "a.log", "five\n");
    let (good, words) = job(&desk, &["await", "words", "--timeout", "1"]);
    assert!(!good && words.contains("is still paused"), "{words}");
    assert_eq!(seen(5).len(), 5, "a paused job puts nothing out");
    let (good, words) = job(&desk, &["resume", "words", "--json"]);
    assert!(good && words.contains("\"status\": \"running\""), "{words}");
    assert_eq!(seen(6).len(), 6);

    // Other tasks, by the spec and by an order: what was seen once is not put out again.
    let log_has = |what: &str| {
        let found = crate::common::poll(CALLS, || desk.job_file("words", "log").contains(what));
        assert!(found, "{}", desk.job_file("words", "log"));
    };
    let wider = FOLLOW.replace(
        "op = { dedup = { } }\ntasks = 2",
        "op = { dedup = { } }\ntasks = 3",
    );
    desk.write_spec(3, "words", &wider);
    log_has("once");
    append(&desk, 2, "b.log", "five one six\n");
    assert_eq!(seen(7).iter().filter(|word| *word == "one").count(), 1);
    let control = desk.cluster.at(1, ".jobs/words/control");
    let (good, words) = job(&desk, &["savepoint", "words", "half"]);
    assert!(
        good && words.contains("is in /.jobs/words/savepoints/half")
            && words.contains("`start = { savepoint = \"words/half\" }`"),
        "{words}"
    );
    log_has("half");
    for (name, savepoint, why) in [
        ("words", "half", "has a savepoint half already"),
        ("words", "no/name", "is no name of a savepoint"),
        ("nothing", "half", "there is no job nothing"),
    ] {
        let (good, words) = job(&desk, &["savepoint", name, savepoint]);
        assert!(!good && words.contains(why), "{words}");
    }
    fs::write(&control, "tasks.once=1\n").expect("an order is written");
    append(&desk, 1, "c.log", "six seven\n");
    assert_eq!(seen(8).len(), 8);
    desk.write_spec(2, "words", &wider.replace("dedup = { }", "count = { }"));
    log_has("refused");
    append(&desk, 3, "c.log", "eight one\n");
    assert_eq!(seen(9).len(), 9, "the job goes on as it was");

    let spec = sample_spec("count");
    let local = desk.cluster.dir().join("local.toml");
    let path = local.display().to_string();
    fs::write(&local, spec.replace("Category", "Kategory")).expect("a local file");
    let (good, words) = job(&desk, &["check", &path]);
    assert!(
        !good && words.contains("did you mean `Category`?"),
        "{words}"
    );
    fs::write(&local, &spec).expect("a local file");
    let (good, words) = job(&desk, &["check", &path]);
    assert!(good && words.contains("is good"), "{words}");
    desk.write_spec(3, "count", &spec);
    let (good, words) = job(&desk, &["await", "count", "--timeout", "100"]);
    assert!(good, "{words}");
    desk.wait_done("count");

    let (good, words) = job(&desk, &["audit", "count"]);
    assert!(good && words.contains("200 lines ("), "{words}");

    let folder = desk.cluster.at(1, ".jobs/count");
    fs::remove_dir_all(&folder).expect("a job's folder is removed");
    let (good, words) = job(&desk, &["show", "count"]);
    assert!(
        good && words.contains("status = done") && words.contains("was removed"),
        "{words}"
    );

    let (good, words) = job(&desk, &["cancel", "words"]);
    assert!(good && words.contains("job words is cancelled"), "{words}");
    let (good, words) = job(&desk, &["audit", "words"]);
    assert!(good && words.contains("job words holds"), "{words}");
    let (_, list) = job(&desk, &["list"]);
    assert!(
        list.contains("words") && list.contains("cancelled"),
        "{list}"
    );
    let (good, words) = job(&desk, &["show", "words"]);
    assert!(good && words.contains("status = cancelled"), "{words}");
    let (good, words) = job(&desk, &["logs", "nothing"]);
    assert!(
        !good && words.contains("there is no job nothing"),
        "{words}"
    );
}

#[test]
fn a_log_that_is_renamed_for_a_while_and_an_output_that_is_removed_cost_no_line() {
    let Some(desk) = Desk::up(3, 200) else { return };
    fs::create_dir_all(desk.cluster.at(1, "logs")).expect("a directory");
    append(&desk, 1, "a.log", "one\ntwo\n");
    desk.write_spec(
        1,
        "words",
        &FOLLOW.replace("dedup = { }", "map = { trim = true }"),
    );
    let is_put_out = |want: &[&str]| {
        let all = || {
            let output = desk.output("words");
            let mut words: Vec<String> = output.lines().map(str::to_owned).collect();
            words.sort();
            words
        };
        let found = crate::common::poll(CALLS, || all().len() >= want.len());
        assert!(found, "{want:?}: {:?}", all());
        assert_eq!(all(), want);
    };
    is_put_out(&["one", "two"]);
    let (log, away) = (
        desk.cluster.at(2, "logs/a.log"),
        desk.cluster.at(2, "logs/.a.tmp"),
    );
    fs::rename(&log, &away).expect("a log is renamed");
    // Longer than several looks at the directory.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    fs::rename(&away, &log).expect("it is renamed back");
    append(&desk, 3, "a.log", "tree\n");
    is_put_out(&["one", "tree", "two"]);
    fs::remove_file(desk.cluster.at(1, ".jobs/words/output")).expect("an output is removed");
    append(&desk, 3, "a.log", "four\n");
    append(&desk, 2, "b.log", "five\n");
    is_put_out(&["five", "four"]);
}

//! An executable that remembers, is given files, reads a binary source and says what it does, on real processes of which some die.

use crate::{
    common::{poll, retry, text},
    desk::{CALLS, Desk, USER},
    processes::descendants,
};
use std::{fs, os::unix::fs::chown, path::Path, process::Command};

const ROWS: u64 = 30_000;
const NAMES: u64 = 50;

const SPEC: &str = r#"version = 1
[[source]]
name = "sales"
path = "/data/sales.bin"
format = "binary"
encoding = "text"
rate = "4000/s"
columns = ["name", "item"]

[[stage]]
name = "sums"
from = "sales"
op = { exec = { path = "/bin/sums.py", state = true, inputs = ["/data/prices.csv"], columns = ["name", "sum"] } }
partition = "key"
key = "name"
tasks = 2

[[sink]]
from = "sums"
path = "/sums/all.csv"
format = "csv"
"#;

/// Behind `hydfs_lines.py`: the sum of what each name bought so far, with the prices that it is given.
const SUMS: &str = r#"
import os
with open(os.environ["HYDFS_INPUTS"] + "/prices.csv") as prices:
    price = {item: int(cents) for item, cents in csv.reader(prices)}
sums, lines = State(), 0

def work(line):
    global lines
    lines += 1
    if lines % 100 == 0:
        print("worked on", lines, "lines", file=sys.stderr)
    name, item = next(csv.reader([line]))
    sums[name] = int(sums.get(name, 0)) + price[item]
    yield f"{name},{sums[name]}"

run(work, sums)
"#;

/// What each name buys costs the same, so the order of the lines does not matter.
fn price(name: u64) -> u64 {
    name % 7 + 1
}

#[test]
fn what_executables_remember_and_are_given_survives_members_and_what_they_say_is_seen() {
    let Some(desk) = Desk::up(3, 0) else {
        return;
    };
    let cluster = &desk.cluster;
    let mut frames = Vec::new();
    for n in 0..ROWS {
        let record = format!("buyer {},item {}", n % NAMES, price(n % NAMES));
        frames.extend((record.len() as u32).to_be_bytes());
        frames.extend(record.as_bytes());
    }
    fs::write(cluster.at(1, "data/sales.bin"), frames).expect("a binary source");
    let prices: String = (1..=7).map(|n| format!("item {n},{n}\n")).collect();
    fs::write(cluster.at(1, "data/prices.csv"), prices).expect("prices");
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/operators/hydfs_lines.py");
    let helper = fs::read_to_string(helper).expect("the helper");
    desk.executable("sums.py", &[&helper, SUMS].concat());
    fs::create_dir(cluster.at(1, "sums")).expect("a folder");
    chown(cluster.at(1, "sums"), Some(USER), Some(USER)).expect("giving it away");
    desk.user_spec(1, "sums", SPEC);

    for kill in 1..=2 {
        desk.wait_rows("sums", kill * ROWS / 4);
        let busy = |i: &usize| descendants(cluster.pid(*i) as i32).len();
        let victim = cluster.members().max_by_key(busy).expect("a member");
        cluster.kill(victim);
        cluster.start(victim);
        println!(
            "n{victim} was killed; healthy after {:?}",
            cluster.wait_healthy()
        );
    }
    desk.wait_done("sums");
    assert!(desk.attempt("sums") > 1, "nobody who died ran tasks");

    let all = desk.read("sums/all.csv");
    let mut all: Vec<&str> = all.lines().collect();
    assert_eq!(all.remove(0), "name,sum");
    let line = |n: u64| format!("buyer {},{}", n % NAMES, (n / NAMES + 1) * price(n % NAMES));
    let mut want: Vec<String> = (0..ROWS).map(line).collect();
    want.sort_unstable();
    all.sort_unstable();
    assert!(all == want, "sums are wrong: {} lines of {ROWS}", all.len());
    desk.hydfs(&["job", "audit", "sums"]);

    for task in ["sums-0", "sums-1"] {
        let said = desk.job_file("sums", &format!("tasks/{task}/stderr"));
        assert!(
            said.starts_with("--- n") && said.contains("worked on 100 lines\n"),
            "{said}"
        );
        let seen = desk.value("sums", "progress", &format!("task.{task}"));
        let seen = seen.unwrap_or_default();
        assert!(seen.starts_with("ended on n"), "{seen}");
    }
    // Its owner may remove what is in its folder, and whoever may remove the folder does it in one command.
    let remove = |user: u32, what: &str| {
        let folder = cluster.at(3, ".jobs");
        let script = format!("cd {} && rm -r -- {what}", folder.display());
        let words = [
            "--reuid",
            &user.to_string(),
            "--clear-groups",
            "sh",
            "-c",
            &script,
        ];
        let out = Command::new("setpriv").args(words).output()?;
        match out.status.success() {
            true => Ok(()),
            false => Err(std::io::Error::other(text(&out.stderr))),
        }
    };
    retry("the owner's rm -r", CALLS, || remove(USER, "sums/*"));
    let listed = Command::new("ls").arg(cluster.at(1, ".jobs/sums")).output();
    let listed = text(&listed.expect("ls runs").stdout);
    assert_eq!(listed, "progress\nstatus\nstatus.json\n");
    retry("rm -r", CALLS, || remove(0, "sums"));
    assert!(poll(CALLS, || !cluster.at(1, ".jobs/sums").exists()));
}

//! Runs plans as the program does, each in a process of its own: the same plan gives the same trace there.

#![allow(dead_code)] // each test file uses some of it

use std::process::Command;

/// The program's report on one plan; panics with it, and with the command that repeats it, where a promise was broken.
pub fn run(scenario: &str, seed: u64, members: u8, seconds: u64) -> String {
    let args = [
        "--scenario",
        scenario,
        "--seed",
        &seed.to_string(),
        "--members",
        &members.to_string(),
        "--seconds",
        &seconds.to_string(),
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_hydfs-sim"))
        .args(args)
        .output()
        .expect("the simulator starts");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{report}{}\nrun again: cargo run --release -p hydfs-sim -- {}",
        String::from_utf8_lossy(&output.stderr),
        args.join(" ")
    );
    report
}

/// The number before a word of the report.
pub fn number(report: &str, word: &str) -> u64 {
    let words: Vec<&str> = report.split_whitespace().collect();
    let at = words
        .iter()
        .position(|one| one.trim_end_matches([',', ';']) == word)
        .unwrap_or_else(|| panic!("no {word} in: {report}"));
    words[at - 1]
        .parse()
        .unwrap_or_else(|error| panic!("{word}: {error} in: {report}"))
}

/// The report on the first of these seeds that finds something; `None` where all pass.
pub fn first_failure(
    scenario: &str,
    seeds: std::ops::Range<u64>,
    more: &[&str],
) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let output = Command::new(env!("CARGO_BIN_EXE_hydfs-sim"))
            .args(["--scenario", scenario, "--seed", &seed.to_string()])
            .args(more)
            .output()
            .expect("the simulator starts");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        (!output.status.success()).then_some((seed, report))
    })
}

/// The report on one seed, which has to pass.
pub fn passing(scenario: &str, seed: u64, more: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hydfs-sim"))
        .args(["--scenario", scenario, "--seed", &seed.to_string()])
        .args(more)
        .output()
        .expect("the simulator starts");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}");
    report
}

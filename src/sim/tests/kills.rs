//! The kill matrix in virtual time: a real job runs over five members, and whoever the cell names dies at the moment that it
//! names. The job comes to its end, and its outputs are what they would have been. A cell counts only when its moment was met.

mod common;

use common::{number, passing};

const MOMENTS: [&str; 5] = ["before", "at", "after", "commit", "recovery"];
/// By then every cell was met: where nobody is left to be killed, or the moment was over too soon, another seed is taken.
const SEEDS_MAX: u64 = 8;

/// All moments of one victim, with both jobs.
fn dies(victim: &str) {
    for shape in ["ordered", "unordered"] {
        for moment in MOMENTS {
            let cell = format!("{victim}/{moment}/{shape}");
            let met = (1..=SEEDS_MAX).any(|seed| {
                let report = passing("kills", seed, &["--kill", &cell]);
                assert!(report.contains("the job is through"), "{report}");
                report.contains(&format!("hit {cell}:"))
            });
            assert!(met, "{cell} was not met in {SEEDS_MAX} seeds");
        }
    }
}

#[test]
fn a_member_that_reads_the_source_dies_at_any_moment() {
    dies("source");
}

#[test]
fn a_member_that_keeps_state_dies_at_any_moment() {
    dies("stateful");
}

#[test]
fn a_member_that_writes_an_output_dies_at_any_moment() {
    dies("sink");
}

#[test]
fn the_leader_dies_at_any_moment() {
    dies("leader");
}

#[test]
fn a_member_without_tasks_dies_at_any_moment() {
    dies("plain");
}

#[test]
fn jobs_go_on_whatever_happens_beside_other_users() {
    for seed in 1..4 {
        let report = passing("chaos", seed, &["--jobs", "--seconds", "12"]);
        assert!(number(&report, "job") > 10, "{report}");
        assert!(report.contains("the jobs are through"), "{report}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_with_jobs() {
    let plans: [(&str, &[&str]); 2] = [
        ("kills", &["--kill", "leader/recovery/ordered"]),
        ("chaos", &["--jobs", "--seconds", "6"]),
    ];
    for (scenario, more) in plans {
        let runs = [passing(scenario, 5, more), passing(scenario, 5, more)];
        assert_eq!(runs[0], runs[1]);
    }
}

//! Writers and readers on all members of one file, over links that delay, lose and repeat, with clocks that lie.
//!
//! Every run checks: each acknowledged record once and whole in its writer's order, in every read that began after its
//! acknowledgement; bytes once read never change; the same version of a segment is the same everywhere; when all is quiet
//! all mounts, replicas and agreed states are equal.

mod common;

use common::{number, run};

#[test]
fn one_member_alone_serves_its_users() {
    let report = run("append", 1, 1, 5);
    assert!(number(&report, "acknowledged") > 20, "{report}");
}

#[test]
fn two_members_serve_their_users() {
    let report = run("append", 2, 2, 5);
    assert!(number(&report, "acknowledged") > 20, "{report}");
}

#[test]
fn fault_s3_concurrent_readers_merge_each_record_once() {
    for seed in 3..6 {
        let report = run("append", seed, 5, 8);
        assert!(
            number(&report, "acknowledged") > 50 && number(&report, "reads") > 10,
            "{report}"
        );
    }
}

#[test]
fn fault_s6_clocks_that_step_back_reorder_nothing() {
    // The scenario sets a machine's clock up to five seconds off, every second.
    for seed in 6..8 {
        run("append", seed, 3, 10);
    }
}

#[test]
fn fault_s7_lost_answers_and_retries_neither_lose_nor_double() {
    // One of a hundred requests and answers is lost at most, so that retries happen all the time.
    for seed in 8..10 {
        run("append", seed, 4, 8);
    }
}

#[test]
fn the_same_seed_is_the_same_run_byte_for_byte() {
    let trace = |seed| {
        let report = run("append", seed, 3, 4);
        report
            .lines()
            .find(|line| line.starts_with("trace"))
            .map(str::to_owned)
            .expect("the report names the trace")
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

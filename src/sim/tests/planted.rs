//! The simulator proves itself: each bug that it can plant is found, within a bounded number of seeds, while the same seeds
//! pass without it. What a plant breaks is in `hydfs_types::Planted`; which of the design's bugs are not among them, and
//! why, in docs/RELIABILITY.md.

mod common;

use common::first_failure;

const CHAOS: [&str; 4] = ["--members", "5", "--seconds", "20"];

/// Finds the bug within these seeds, in a report that names what it breaks.
fn found(bug: &str, scenario: &str, seeds: std::ops::Range<u64>, more: &[&str]) {
    let planted: Vec<&str> = more.iter().copied().chain(["--plant", bug]).collect();
    let tried = format!("{bug} was not found in seeds {seeds:?} of {scenario}");
    let (seed, report) =
        first_failure(scenario, seeds, &planted).unwrap_or_else(|| panic!("{tried}"));
    assert!(report.contains("VIOLATION"), "{report}");
    let clean = first_failure(scenario, seed..seed + 1, more);
    assert_eq!(clean, None, "seed {seed} fails without {bug}, too");
}

#[test]
fn a_fence_that_is_not_journaled_is_found() {
    found("fence-forgotten", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_replica_that_stays_synced_through_a_power_loss_is_found() {
    found("kept-after-power-loss", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_cut_that_was_not_prepared_is_found() {
    found("proposed-unprepared", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_prepare_that_is_not_on_disk_is_found() {
    let power = [&CHAOS[..], &["--faults", "power,blackout"]].concat();
    found("prepared-unsynced", "chaos", 1..10, &power);
}

#[test]
fn a_merge_that_readers_share_is_found() {
    found("merge-shared", "chaos", 1..10, &CHAOS);
}

#[test]
fn an_answer_without_the_barrier_is_found() {
    found("barrier-skipped", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_promotion_by_the_source_is_found() {
    found("promoted-by-source", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_replica_that_is_dropped_too_early_is_found() {
    found("dropped-before-promote", "chaos", 1..10, &CHAOS);
}

#[test]
fn records_of_an_ended_incarnation_are_found() {
    found("unlisted-accepted", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_roll_without_a_fence_is_found() {
    found("rolled-unfenced", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_reader_that_recalls_nobody_is_found() {
    found("recall-skipped", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_request_that_is_done_anew_when_it_is_sent_again_is_found() {
    let workers = [&CHAOS[..], &["--faults", "worker"]].concat();
    found("repeated-anew", "chaos", 1..10, &workers);
}

#[test]
fn an_fsync_that_is_answered_from_memory_is_found() {
    let blackouts = ["--members", "5", "--seconds", "5", "--faults", "blackout"];
    found("committed-in-memory", "chaos", 11..25, &blackouts);
}

#[test]
fn ids_that_are_used_twice_are_found() {
    found("ids-reused", "chaos", 1..10, &CHAOS);
}

#[test]
fn an_old_version_that_is_served_is_found() {
    found("old-version-served", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_copy_that_is_deleted_by_absence_is_found() {
    found("deleted-by-absence", "chaos", 1..10, &CHAOS);
}

#[test]
fn an_effect_that_is_told_before_its_holders_have_it_is_found() {
    found("told-early", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_roll_above_a_watermark_is_found() {
    found("rolled-above-watermark", "chaos", 1..10, &CHAOS);
}

#[test]
fn a_task_that_forgets_its_state_is_found() {
    let cell = ["--kill", "stateful/commit/ordered"];
    found("state-forgotten", "kills", 1..5, &cell);
}

#[test]
fn a_commit_without_its_positions_is_found() {
    let cell = ["--kill", "source/after/unordered"];
    found("positions-kept", "kills", 1..5, &cell);
}

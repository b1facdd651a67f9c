//! Faults of all kinds at once, on appends, writes in place, truncates, creates, renames and unlinks by all members; then
//! everything is healed and all promises are judged. Longer: `scripts/soak`.

mod common;

use common::{first_failure, number};

fn passes(seeds: std::ops::Range<u64>, more: &[&str]) {
    let failed = first_failure("chaos", seeds, more);
    assert!(failed.is_none(), "{failed:#?}");
}

#[test]
fn everything_at_once_breaks_no_promise() {
    passes(1..5, &["--members", "5", "--seconds", "15"]);
    passes(5..7, &["--members", "3", "--seconds", "15"]);
}

#[test]
fn fault_s7_what_a_roll_took_is_not_sent_to_the_next_segment() {
    // Found: a round whose answer was lost came through before a roll, and its records were appended once more behind it.
    for (faults, seed) in [("lossy", 2), ("lossy", 4), ("cut", 1), ("full", 3)] {
        let plan = ["--members", "5", "--seconds", "20", "--faults", faults];
        passes(seed..seed + 1, &plan);
    }
}

#[test]
fn fault_s13_a_pulled_base_is_not_damaged_by_older_cuts_after_a_power_loss() {
    // Found: after a power loss cuts from before a pull were written over the newer base that had been pulled.
    let plan = [
        "--members",
        "5",
        "--seconds",
        "30",
        "--faults",
        "power,blackout,leave,join",
    ];
    for seed in [101, 119, 140] {
        passes(seed..seed + 1, &plan);
    }
}

#[test]
fn fault_s1_a_cut_is_written_again_whatever_came_between() {
    // Found: recovery searched for what a cut had merged, did not find it where the index held other records than then,
    // and took the version without the bytes.
    let plan = ["--members", "5", "--seconds", "5", "--faults", "blackout"];
    passes(1..10, &plan);
    for seed in [135, 3] {
        passes(
            seed..seed + 1,
            &["--members", "5", "--seconds", "1", "--faults", "blackout"],
        );
    }
}

#[test]
fn a_member_whose_disk_is_full_rejoins_when_there_is_room() {
    // Found: expired while its disk was full, it could not count its start, and stopped for good.
    passes(1003..1004, &["--members", "5", "--seconds", "20"]);
}

#[test]
fn a_cluster_of_one_grows_whenever_somebody_joins() {
    // Found: a leader that votes alone heard from nobody, and let nobody in after its first second.
    for seed in [5, 10_043] {
        let plan = ["--members", "1", "--seconds", "10", "--faults", "join"];
        passes(seed..seed + 1, &plan);
    }
}

#[test]
fn a_cut_that_was_never_agreed_is_not_taken_on_the_way_to_an_empty_segment() {
    // Found: a replica with a full disk fell behind, the segment was emptied meanwhile, and a cut that had only been
    // prepared was taken for the version before that.
    let faults = "kill,power,blackout,cut,hold,lossy,clock,full,slow,eio,join,leave";
    let plan = ["--members", "5", "--seconds", "25", "--faults", faults];
    passes(10_043..10_044, &plan);
}

#[test]
fn what_a_dead_worker_had_in_hand_takes_effect_once() {
    // Found: a truncate that the kernel sent again cut what others had written, and shown, since it was made.
    passes(
        1..6,
        &["--members", "5", "--seconds", "20", "--faults", "worker"],
    );
}

#[test]
fn a_slot_leader_that_returns_cuts_nothing_that_it_was_asked_for_before() {
    // Found: it was expired while its cut was in doubt, led the slot again, and cut what had been written since.
    passes(34..35, &["--members", "5", "--seconds", "12"]);
}

#[test]
fn fault_m9_s11_members_that_come_and_go_leave_the_wanted_copies_on_distinct_members() {
    passes(
        1..4,
        &[
            "--members",
            "5",
            "--seconds",
            "15",
            "--faults",
            "kill,join,leave",
        ],
    );
}

#[test]
fn fault_s8_flipped_bits_are_never_read_and_are_healed() {
    let flips = "flip,cut,hold,lossy,clock,full,join";
    passes(
        1..5,
        &["--members", "5", "--seconds", "15", "--faults", flips],
    );
}

#[test]
fn fault_s8_a_bit_that_flips_while_a_member_is_down_is_not_taken_for_good() {
    // Found: a base of the life before was written without holding its checksums against it.
    for seed in [3, 11, 13, 16, 17, 22] {
        let plan = ["--members", "5", "--seconds", "20", "--faults", "flip,kill"];
        passes(seed..seed + 1, &plan);
    }
}

#[test]
fn fault_s7_a_truncate_that_comes_twice_cuts_once() {
    // Found: a request to cut a segment was served again two seconds later, and cut what had been written since.
    let plan = [
        "--members",
        "6",
        "--seconds",
        "15",
        "--faults",
        "leave,join,cut,lossy",
    ];
    passes(1..5, &plan);
    passes(57..58, &plan);
}

#[test]
fn drained_members_leave_no_slot_short_of_copies() {
    let plan = [
        "--members",
        "7",
        "--seconds",
        "20",
        "--faults",
        "leave,join",
    ];
    let reports = (2..5).map(|seed| common::passing("chaos", seed, &plan));
    let drained: usize = reports
        .map(|report| report.matches("for ever, drained").count())
        .sum();
    assert!(drained > 2, "{drained} members left drained");
}

#[test]
fn the_users_do_all_kinds_of_calls() {
    let report = common::run("chaos", 1, 5, 10);
    assert!(number(&report, "acknowledged") > 100, "{report}");
    assert!(number(&report, "calls") > 200, "{report}");
    // "… on names and blocks; 26 job epochs": the number stands before its first word.
    assert!(number(&report, "job") > 5, "{report}");
}

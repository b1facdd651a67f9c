//! The same promises while members are killed, lose power, are cut off one way or both, and lose messages.

mod common;

use common::{number, run};

#[test]
fn fault_s1_kills_and_power_cuts_lose_nothing_acknowledged() {
    for seed in 1..5 {
        let report = run("failover", seed, 5, 20);
        assert!(number(&report, "acknowledged") > 100, "{report}");
    }
}

#[test]
fn fault_s10_a_member_that_returns_serves_nothing_old() {
    for seed in 20..24 {
        run("failover", seed, 3, 20);
    }
}

#[test]
fn fault_m8_a_member_that_was_expired_while_it_ran_works_again() {
    // Cut off for longer than its lease, expired, healed: its later commands were refused for ever.
    run("failover", 2, 5, 20);
}

#[test]
fn kills_at_any_moment_leave_a_cluster_that_recovers_by_itself() {
    // Seeds that found: a member expired between its admission and its first look, an admission asked for twice.
    for (seed, members) in [(101, 3), (103, 3), (107, 5), (108, 5)] {
        run("storm", seed, members, 20);
    }
}

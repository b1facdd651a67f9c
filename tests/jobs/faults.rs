//! Members are killed while jobs run: the result is that of a quiet run, byte for byte. `HYDFS_LEADER_KILLS=n` kills n leaders.

use crate::{
    desk::{Desk, check_count, check_filter, sample_spec},
    processes::descendants,
};

const ROWS: usize = 100_000;

#[test]
fn fault_r1_the_leader_is_killed_again_and_again_during_a_job() {
    let kills: usize =
        std::env::var("HYDFS_LEADER_KILLS").map_or(3, |kills| kills.parse().expect("a number"));
    let rows = ROWS + 15_000 * kills.saturating_sub(3);
    let Some(desk) = Desk::up(5, rows) else {
        return;
    };
    let job = desk.upper("leaders", 2, 100);
    let samples = [desk.slow_sample("filter"), desk.slow_sample("count")];
    for kill in 1..=kills {
        desk.wait_rows(&job, kill as u64 * 15_000);
        let leader = desk.cluster.leader();
        println!(
            "kill {kill}: leader n{leader} at {} rows",
            desk.number(&job, "progress", "rows_in")
        );
        desk.cluster.kill(leader);
        if kill == 2 {
            // Its successor goes on without it, and takes new jobs.
            let i = desk
                .cluster
                .members()
                .find(|i| *i != leader)
                .expect("another member");
            desk.write_spec(i, "late", &sample_spec("count"));
            desk.wait_done("late");
        }
        desk.cluster.start(leader);
        println!("healthy after {:?}", desk.cluster.wait_healthy());
    }
    desk.wait_done(&job);
    desk.wait_done(&samples[0]);
    desk.wait_done(&samples[1]);
    for name in samples.iter().chain([&job]) {
        assert!(
            desk.attempt(name) > 1,
            "another leader went on with {name}: {}",
            desk.job_file(name, "status")
        );
    }
    assert_eq!(desk.number(&job, "progress", "rows_in"), rows as u64);
    desk.check_upper(&job, 2);
    check_samples(&desk, &samples);
    check_count(&desk.output("late"), &desk.csv);
}

#[test]
fn fault_r2_members_that_run_tasks_are_killed_during_a_job() {
    let Some(desk) = Desk::up(5, ROWS) else {
        return;
    };
    let job = desk.upper("tasks", 3, 100);
    let samples = [desk.slow_sample("filter"), desk.slow_sample("count")];
    for kill in 1..=2 {
        desk.wait_rows(&job, kill * 20_000);
        let leader = desk.cluster.leader();
        let busy = |i: &usize| descendants(desk.cluster.pid(*i) as i32).len();
        let victim = desk
            .cluster
            .members()
            .filter(|i| *i != leader)
            .max_by_key(busy)
            .expect("another member");
        assert!(busy(&victim) > 0, "no member but the leader runs tasks");
        println!(
            "kill {kill}: n{victim}, which runs tasks, at {} rows",
            desk.number(&job, "progress", "rows_in")
        );
        desk.cluster.kill(victim);
        desk.wait_rows(&job, kill * 20_000 + 5_000);
        desk.cluster.start(victim);
        println!("healthy after {:?}", desk.cluster.wait_healthy());
    }
    desk.wait_done(&job);
    let hit = samples
        .iter()
        .chain([&job])
        .filter(|name| desk.attempt(name) > 1)
        .count();
    assert!(hit > 0, "jobs were tried again elsewhere");
    println!("{hit} of 3 jobs lost tasks");
    assert_eq!(desk.number(&job, "progress", "rows_in"), ROWS as u64);
    desk.check_upper(&job, 3);
    check_samples(&desk, &samples);
}

#[test]
fn fault_r7_eight_jobs_at_once_do_not_mix() {
    let Some(desk) = Desk::up(5, 20_000) else {
        return;
    };
    let names: Vec<String> = (0..4)
        .flat_map(|n| [format!("filter-{n}"), format!("count-{n}")])
        .collect();
    for (at, name) in names.iter().enumerate() {
        let sample = name.split('-').next().expect("a sample");
        desk.write_spec(at % 5 + 1, name, &sample_spec(sample));
    }
    for name in &names {
        desk.wait_done(name);
    }
    for name in &names {
        if name.starts_with("filter") {
            check_filter(&desk.output(name), &desk.csv);
        } else {
            check_count(&desk.output(name), &desk.csv);
        }
    }
}

/// The sample jobs, which were half-way when the first member was killed, give what the reference gives.
fn check_samples(desk: &Desk, [filter, count]: &[String; 2]) {
    for name in [filter, count] {
        desk.wait_done(name);
        assert_eq!(
            desk.number(name, "progress", "rows_in"),
            desk.rows.len() as u64
        );
    }
    check_filter(&desk.output(filter), &desk.csv);
    check_count(&desk.output(count), &desk.csv);
}

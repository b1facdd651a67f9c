//! The two sample jobs over 100,000 rows with quoted commas: what a plain reference says, byte for byte.

use crate::desk::{Desk, check_count, check_filter, sample_spec};

const ROWS: usize = 100_000;

#[test]
fn both_sample_jobs_give_what_the_reference_gives_and_again_under_another_name() {
    let Some(desk) = Desk::up(3, ROWS) else {
        return;
    };
    assert!(
        desk.rows
            .iter()
            .any(|row| row.contains("\"Pole, Utility\"")),
        "the data set has quoted commas"
    );
    // The same job twice under two names, all at once, from several mounts.
    for (i, name, sample) in [
        (1, "filter", "filter"),
        (2, "filter2", "filter"),
        (3, "count", "count"),
        (1, "count2", "count"),
    ] {
        desk.write_spec(i, name, &sample_spec(sample));
    }
    for name in ["filter", "filter2", "count", "count2"] {
        let status = desk.wait_done(name);
        assert!(
            !status.contains("message"),
            "a job that is done has nothing to say: {status}"
        );
        assert_eq!(desk.number(name, "progress", "rows_in"), ROWS as u64);
        assert_eq!(desk.number(name, "progress", "percent"), 100);
    }
    for name in ["filter", "filter2"] {
        check_filter(&desk.output(name), &desk.csv);
    }
    for name in ["count", "count2"] {
        check_count(&desk.output(name), &desk.csv);
    }
    let bytes: Vec<_> = desk
        .cluster
        .members()
        .map(|i| std::fs::read(desk.cluster.at(i, ".jobs/filter/output")).expect("the output"))
        .collect();
    assert!(
        bytes.windows(2).all(|pair| pair[0] == pair[1]),
        "all mounts show the same bytes"
    );
}

//! Appends are deferred and merged by whoever reads: seen in `user.hydfs.pending` and in the counters.

use crate::{
    MEMBERS,
    common::{self, Cluster, shared::Shared, xattr},
    folders, sh,
};
use std::{fs, path::Path};

/// Records that wait, by `user.hydfs.pending`.
fn pending(path: &Path) -> u64 {
    let text = xattr(path, "user.hydfs.pending").expect("the attribute");
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("not a count: {text}"))
}

fn merges(cluster: &Cluster) -> u64 {
    cluster
        .members()
        .map(|i| cluster.metric(i, "hydfs_data_merges_total"))
        .sum()
}

/// Waits until nothing is agreed on any more: lazy ends are over.
fn quiet(cluster: &Cluster) {
    let agreed = || {
        cluster
            .status(1)
            .lines()
            .find_map(|line| line.split_once(", log ").map(|(_, log)| log.to_owned()))
            .expect("the log's length")
    };
    let mut before = agreed();
    common::until("a quiet agreement log", common::SOON, || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let now = agreed();
        std::mem::replace(&mut before, now.clone()) == now
    });
}

#[test]
fn appends_stay_pending_until_a_read() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    // Members that have just joined are learners for a moment, and promoting one merges.
    cluster.wait_healthy();
    let at = folders(&cluster, "pending");
    let f = |i: usize| at[i].join("f");
    sh(&at[0], "echo first >f");
    assert_eq!(common::text(&fs::read(f(1)).expect("read")), "first\n");
    common::until("the first writer's end", common::SOON, || {
        cluster.status(1).contains("writers 0")
    });
    let mut expected = String::from("first\n");
    for round in 0..3 {
        let before = merges(&cluster);
        for (i, at) in at.iter().enumerate() {
            sh(at, &format!("echo round {round} mount {i} >>f"));
            expected += &format!("round {round} mount {i}\n");
        }
        for i in 0..MEMBERS {
            assert_eq!(
                pending(&f(i)),
                MEMBERS as u64,
                "round {round}, asked on mount {}",
                i + 1
            );
        }
        // Neither a listing nor the lazy end of the writers merges.
        sh(&at[1], "ls");
        quiet(&cluster);
        assert_eq!(
            (pending(&f(1)), merges(&cluster)),
            (MEMBERS as u64, before),
            "round {round}: before the read"
        );
        let reader = round % MEMBERS;
        assert_eq!(
            common::text(&fs::read(f(reader)).expect("read")),
            expected,
            "round {round}: order of acknowledgement"
        );
        assert_eq!(pending(&f(0)), 0, "round {round}: after the read");
        let merged = merges(&cluster);
        assert_eq!(merged, before + 1, "round {round}: one merge for all of it");
        for i in 0..MEMBERS {
            assert_eq!(common::text(&fs::read(f(i)).expect("read")), expected);
            assert_eq!(
                fs::metadata(f(i)).expect("metadata").len(),
                expected.len() as u64
            );
        }
        assert_eq!(
            merges(&cluster),
            merged,
            "round {round}: a second read merges nothing"
        );
    }
}

/// Appends of up to 255 pages are one record each, whatever offset the kernel believes in.
#[test]
fn large_appends_are_atomic() {
    use std::io::Write;
    const LEN: usize = 1_044_480;
    const EACH: usize = 6;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "atomic");
    fs::write(at[0].join("f"), "odd").expect("made");
    std::thread::scope(|scope| {
        for (writer, at) in at.iter().enumerate() {
            scope.spawn(move || {
                let mut file = fs::OpenOptions::new()
                    .append(true)
                    .open(at.join("f"))
                    .expect("opened");
                for number in 0..EACH {
                    let mut record = vec![b'a' + writer as u8; LEN];
                    record[0] = b'0' + number as u8;
                    file.write_all(&record).expect("appended");
                }
            });
        }
    });
    let found = fs::read(at[1].join("f")).expect("read");
    assert_eq!(found.len(), 3 + LEN * EACH * MEMBERS);
    let mut next = [0; MEMBERS];
    for record in found[3..].chunks(LEN) {
        let writer = usize::from(record[1] - b'a');
        assert!(record[1..].iter().all(|byte| *byte == record[1]), "torn");
        assert_eq!(
            usize::from(record[0] - b'0'),
            next[writer],
            "order of writer {writer}"
        );
        next[writer] += 1;
    }
}

//! Five members, five writers, one file, five mounts, readers all the while: no line lost, doubled or torn, each writer's
//! order kept, every sampled read a prefix of the final bytes, all mounts equal byte for byte.
//!
//! `HYDFS_LINES` sets the lines of each writer.

mod common;
#[path = "common/lines.rs"]
mod lines;

use common::{Cluster, SOON};
use lines::{judge, judge_samples, sample, write_lines};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const MEMBERS: usize = 5;
/// What the kernel is sure to send as one request: 255 pages.
const ATOMIC_BYTES_MAX: usize = 1_044_480;

fn lines_each() -> usize {
    std::env::var("HYDFS_LINES")
        .ok()
        .and_then(|lines| lines.parse().ok())
        .unwrap_or(2_000)
}

/// The file's bytes, the same on every mount.
fn equal_everywhere(cluster: &Cluster, name: &str) -> Vec<u8> {
    let mut all = cluster.members().map(|i| {
        let path = cluster.at(i, name);
        (
            i,
            common::within("reading a file", SOON, move || fs::read(path))
                .expect("the file is read"),
        )
    });
    let (_, first) = all.next().expect("there is a member");
    for (i, bytes) in all {
        assert!(
            bytes == first,
            "n{i} has {} bytes that differ from the {} of n1",
            bytes.len(),
            first.len()
        );
    }
    first
}

#[test]
fn five_writers_append_to_one_file_while_it_is_read() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    let count = lines_each();
    fs::write(cluster.at(1, "log"), "").expect("an empty file is made");
    let paths: Vec<PathBuf> = cluster.members().map(|i| cluster.at(i, "log")).collect();
    let done = AtomicBool::new(false);
    let (logs, sampled) = thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|first| {
                scope.spawn({
                    let (paths, done) = (&paths, &done);
                    move || sample(paths, first, done)
                })
            })
            .collect();
        let writers: Vec<_> = paths
            .iter()
            .enumerate()
            .map(|(w, path)| scope.spawn(move || write_lines(path, w, 500, |n| n == count)))
            .collect();
        let logs: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        let sampled: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        (logs, sampled)
    });
    let logs: Vec<_> = logs
        .into_iter()
        .map(|log| log.expect("a writer ended"))
        .collect();
    for (w, log) in logs.iter().enumerate() {
        assert!(
            log.errors.is_empty() && log.acknowledged() == count,
            "writer {w} met errors: {:?}",
            log.errors
        );
    }
    let last = equal_everywhere(&cluster, "log");
    judge(&last, &logs);
    let mut reads = 0;
    for one in sampled {
        let (samples, errors) = one.expect("a reader ended");
        assert!(errors.is_empty(), "reads failed: {errors:?}");
        judge_samples(&samples, &last);
        reads += samples.len();
    }
    assert!(reads > 1, "nothing was sampled");
    println!(
        "{} lines, {} bytes, {reads} reads in between",
        count * MEMBERS,
        last.len()
    );
}

#[test]
fn appends_of_the_largest_atomic_size_are_whole_and_in_each_writers_order() {
    const EACH: usize = 4;
    let Some(cluster) = Cluster::up(3) else {
        return;
    };
    fs::write(cluster.at(1, "big"), "").expect("an empty file is made");
    thread::scope(|scope| {
        for w in 1..=3 {
            let path = cluster.at(w, "big");
            scope.spawn(move || {
                let mut file = OpenOptions::new()
                    .append(true)
                    .open(path)
                    .expect("the file is opened");
                for n in 0..EACH {
                    let record = vec![b'A' + (w * EACH + n) as u8; ATOMIC_BYTES_MAX];
                    assert_eq!(
                        file.write(&record).expect("the append is taken"),
                        ATOMIC_BYTES_MAX
                    );
                }
            });
        }
    });
    let last = equal_everywhere(&cluster, "big");
    assert_eq!(last.len(), 3 * EACH * ATOMIC_BYTES_MAX);
    let mut order: Vec<Vec<usize>> = vec![Vec::new(); 4];
    for record in last.chunks(ATOMIC_BYTES_MAX) {
        assert!(
            record.iter().all(|byte| *byte == record[0]),
            "an append is torn"
        );
        let number = usize::from(record[0] - b'A');
        order[number / EACH].push(number % EACH);
    }
    for (w, numbers) in order.iter().enumerate().skip(1) {
        assert_eq!(
            *numbers,
            (0..EACH).collect::<Vec<_>>(),
            "appends of n{w} are lost, doubled or out of order"
        );
    }
}

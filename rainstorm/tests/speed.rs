//! The two sign jobs over wide rows, in memory, put out what is expected with any number of tasks; and how fast, beside plain
//! single-thread loops over the same rows: `HYDFS_ROWS=1000000 cargo test --release -p rainstorm --test speed -- --nocapture`.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use memchr::{memchr, memmem};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use world::World;

/// Rows of about 215 bytes in 20 columns.
fn wide(rows: u64) -> Vec<u8> {
    let narrow = data::signs(rows);
    let mut out = Vec::with_capacity(narrow.len() * 4);
    for (row, line) in narrow.lines().enumerate() {
        let fields = data::split(line);
        let fill = |out: &mut Vec<u8>, from: usize, to: usize| {
            for column in from..to {
                match row {
                    0 => out.extend_from_slice(format!("Fill_{column},").as_bytes()),
                    _ => out.extend_from_slice(format!("{:09},", row * 31 + column).as_bytes()),
                }
            }
        };
        out.extend_from_slice(fields[..3].join(",").as_bytes());
        out.push(b',');
        fill(&mut out, 0, 6);
        out.extend_from_slice(fields[3..5].join(",").as_bytes());
        out.push(b',');
        fill(&mut out, 6, 14);
        out.extend_from_slice(fields[5].as_bytes());
        out.push(b'\n');
    }
    out
}

/// Rows that matched and bytes put out; lines by memchr, a look for the text by memmem, fields by csv-core.
fn plain(input: &[u8], looked_for: &[u8], every: bool, mut keep: impl FnMut(&[u8], &[usize])) {
    let finder = memmem::Finder::new(looked_for);
    let mut at = memchr(b'\n', input).unwrap() + 1;
    let (mut fields, mut ends) = (vec![0; 4096], [0; 64]);
    let mut reader = csv_core::Reader::new();
    while at < input.len() {
        let end = at + memchr(b'\n', &input[at..]).unwrap() + 1;
        let line = &input[at..end];
        if every || finder.find(line).is_some() {
            // The line end is part of what is given: the record is whole.
            let (_, _, wrote, _) = reader.read_record(line, &mut fields, &mut ends);
            keep(&fields[..wrote], &ends);
        }
        at = end;
    }
}

fn value<'a>(values: &'a [u8], ends: &[usize], column: usize) -> &'a [u8] {
    &values[if column == 0 { 0 } else { ends[column - 1] }..ends[column]]
}

/// The same said by an expression and by an operator of its own, where there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_beside_operators_over_wide_rows() {
    let rows = rows();
    let input = wide(rows);
    let world = World::start(1, |options| options.chunk_bytes = 256 << 10).await;
    world.knobs.calm.store(true, Relaxed);
    world.write("/data/signs.csv", &input, 0);
    world.spec("warm.toml", data::COUNT, 0);
    world.done("warm").await;
    let mut before: Option<Vec<String>> = None;
    for (at, (op, as_before)) in [
        (
            "filter = { column = \"Sign_Post\", equals = \"Wood\" }",
            false,
        ),
        ("filter = { where = \"Sign_Post == 'Wood'\" }", true),
        ("filter = { column = \"Size_\", above = 18 }", false),
        ("filter = { where = \"Size_ > 18\" }", true),
        ("map = { column = \"Sign_Post\", case = \"upper\" }", false),
        (
            "map = { set = { Sign_Post = \"Sign_Post | upper\" } }",
            true,
        ),
        ("map = { template = \"{OBJECTID}: {Sign_Post}\" }", false),
        ("map = { to = \"OBJECTID ~ ': ' ~ Sign_Post\" }", true),
        ("map = { set = { area = \"Size_ * Size_ / 144\" } }", false),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = format!(
            "version = 1\n[[source]]\nname = \"in\"\npath = \"/data/signs.csv\"\nformat = \"csv\"\n\
             [[stage]]\nname = \"op\"\nfrom = \"in\"\nop = {{ {op} }}\n"
        );
        let began = Instant::now();
        world.spec(&format!("j{at}.toml"), &spec, 0);
        world.done(&format!("j{at}")).await;
        let reached = rows as f64 / began.elapsed().as_secs_f64() / 1e6;
        let output = world.lines(&format!("/.jobs/j{at}/output"));
        println!("{op}: {reached:.2} M rows/s, {} lines", output.len());
        assert!(!as_before || before.as_ref() == Some(&output), "{op}");
        before = Some(output);
    }
    world.check();
}

fn rows() -> u64 {
    std::env::var("HYDFS_ROWS").map_or(20_000, |rows| rows.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sign_jobs_over_wide_rows() {
    let rows = rows();
    let input = wide(rows);
    let rate = |began: Instant| rows as f64 / began.elapsed().as_secs_f64() / 1e6;
    let mut loops = [0.0; 4];
    for every in [false, true] {
        let began = Instant::now();
        let mut out = Vec::new();
        plain(&input, b"Punched Telespar", every, |values, ends| {
            if value(values, ends, 9) == b"Punched Telespar" {
                out.extend_from_slice(value(values, ends, 0));
                out.push(b',');
                out.extend_from_slice(value(values, ends, 10));
                out.push(b'\n');
            }
        });
        loops[usize::from(every)] = rate(began);
        let began = Instant::now();
        let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        plain(&input, b"Telespar", every, |values, ends| {
            if memmem::find(value(values, ends, 9), b"Telespar").is_some() {
                let category = value(values, ends, 10);
                match counts.get_mut(category) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(category.to_vec(), 1)),
                }
            }
        });
        loops[2 + usize::from(every)] = rate(began);
    }
    let world = World::start(1, |options| options.chunk_bytes = 256 << 10).await;
    world.knobs.calm.store(true, Relaxed);
    world.write("/data/signs.csv", &input, 0);
    // The first job of all finds the input and its memory cold.
    world.spec("warm.toml", data::COUNT, 0);
    world.done("warm").await;
    let narrow = data::signs(rows);
    let mut wanted = [data::filtered(&narrow), data::counted(&narrow)];
    wanted.iter_mut().for_each(|lines| lines.sort());
    let jobs = [("t1", data::FILTER, 0), ("t2", data::COUNT, 2)];
    for ((name, spec, at), wanted) in jobs.into_iter().zip(wanted) {
        for tasks in [1, 2, 3] {
            let job = format!("{name}-{tasks}");
            let spec = spec
                .replace("tasks = 3", &format!("tasks = {tasks}"))
                .replace("tasks = 2", &format!("tasks = {tasks}"));
            let began = Instant::now();
            world.spec(&format!("{job}.toml"), &spec, 0);
            world.done(&job).await;
            let reached = rate(began);
            let output = world.sorted(&format!("/.jobs/{job}/output"));
            assert!(output == wanted, "{job}: {} lines", output.len());
            println!(
                "{job}: {reached:.2} M rows/s, {:.0} MB/s; plain loop {:.2} (x {:.2}), with every row parsed {:.2} (x {:.2})",
                reached * input.len() as f64 / rows as f64,
                loops[at],
                reached / loops[at],
                loops[at + 1],
                reached / loops[at + 1],
            );
        }
    }
    world.check();
}

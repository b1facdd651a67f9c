//! Input rows, the sample specs, and a reference that is as simple as can be.
#![allow(dead_code)]

use crate::world::World;
use std::collections::BTreeMap;

pub const FILTER: &str = include_str!("../../../scripts/samples/filter.toml");
pub const COUNT: &str = include_str!("../../../scripts/samples/count.toml");

/// Rows as `scripts/sample-data` makes them: quoted fields with commas and doubled quotes among them.
pub fn signs(rows: u64) -> String {
    let posts = [
        "Punched Telespar",
        "Unpunched Telespar",
        "Wood",
        "Streetlight",
        "Pole, Utility",
    ];
    let categories = [
        "Stop",
        "Yield",
        "Speed Limit",
        "Warning, \"Curve\"",
        "Street Name",
        "Parking, No",
    ];
    let quote = |text: &str| match text.contains([',', '"']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let mut out = String::from("OBJECTID,Sign_Type,Size_,Sign_Post,Category,Notes\n");
    let mut state = 42_u64;
    for row in 1..=rows {
        state = state * 1_103_515_245 % 2_147_483_648 + 12_345;
        let pick = |shift: u64, of: usize| (state >> shift) as usize % of;
        let (post, category) = (posts[pick(4, 5)], categories[pick(9, 6)]);
        let notes = if pick(13, 3) == 0 {
            format!("\"seen, noted {row}\"")
        } else {
            format!("n{row}")
        };
        let size = 12 + 6 * pick(16, 4);
        out.push_str(&format!(
            "{row},R{}-{},{size},{},{},{notes}\n",
            pick(5, 9),
            pick(7, 5),
            quote(post),
            quote(category)
        ));
    }
    out
}

/// Raw fields, split character by character.
pub fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        quoted ^= c == '"';
        match c == ',' && !quoted {
            true => fields.push(String::new()),
            false => fields.last_mut().unwrap().push(c),
        }
    }
    fields
}

/// What the filter job puts out, in the order of the input.
pub fn filtered(input: &str) -> Vec<String> {
    let rows = input
        .lines()
        .skip(1)
        .map(split)
        .filter(|row| row[3] == "Punched Telespar");
    rows.map(|row| format!("{},{}", row[0], row[4])).collect()
}

/// What the count job puts out, sorted.
pub fn counted(input: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for row in input
        .lines()
        .skip(1)
        .map(split)
        .filter(|row| row[3].contains("Telespar"))
    {
        *counts.entry(row[4].clone()).or_default() += 1;
    }
    let mut lines: Vec<String> = counts
        .into_iter()
        .map(|(key, count)| format!("{key},{count}"))
        .collect();
    lines.sort();
    lines
}

/// Every line exactly once, and those of each task in the order of the input.
pub fn check_order(world: &World, path: &str, input: &str, tasks: u64) {
    let output = world.lines(path);
    let mut sorted = output.clone();
    sorted.sort();
    let mut want = filtered(input);
    want.sort();
    assert!(
        sorted == want,
        "{path}: {} lines, {} expected",
        sorted.len(),
        want.len()
    );
    let data_at = input.find('\n').unwrap() + 1;
    let mut at = data_at;
    let mut task_of = BTreeMap::new();
    for line in input[data_at..].lines() {
        let chunk = (at - data_at) as u64 / u64::from(world.options.chunk_bytes);
        task_of.insert(split(line)[0].parse::<u64>().unwrap(), chunk % tasks);
        at += line.len() + 1;
    }
    let mut last = BTreeMap::new();
    for line in &output {
        let row: u64 = line.split(',').next().unwrap().parse().unwrap();
        let before = last.insert(task_of[&row], row);
        assert!(
            before.is_none_or(|before| before < row),
            "{path}: row {row} after {before:?}"
        );
    }
}

/// A job of one executable over `/in`.
pub fn exec_job(exec: &str, tasks: u32) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\n\
         [[stage]]\nname = \"op\"\nfrom = \"in\"\nop = {{ exec = {{ {exec} }} }}\ntasks = {tasks}\n"
    )
}

pub fn numbers(count: u64) -> Vec<u8> {
    (1..=count)
        .map(|n| format!("{n}\n"))
        .collect::<String>()
        .into_bytes()
}

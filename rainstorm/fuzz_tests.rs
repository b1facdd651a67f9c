//! Damaged and invented specs, lines, messages and positions.

use crate::{
    batch::Batch,
    csv,
    dead::{Letters, Origin, Starts},
    decimal::Decimal,
    event_time::TimeFormat,
    frames::{Encoding, Frames, Prefix, RECORD_BYTES_MAX},
    json_lines,
    key::Keys,
    message::{Request, Response},
    position::Positions,
    rate, receipt,
    remembered::Remembered,
    room::Room,
    spec::Spec,
};
use bytes::Bytes;
use hydfs_fuzz::{Target, seen};

fn target(name: &str) -> Target {
    Target::new(env!("CARGO_MANIFEST_DIR"), name)
}

/// The specs of the language's description.
fn specs() -> impl Iterator<Item = &'static str> {
    let text = include_str!("../docs/JOBS.md");
    let blocks = text.split("```toml\n").skip(1);
    blocks.filter_map(|block| Some(block.split_once("```")?.0))
}

/// Reads a spec; what is wrong with it has a place in the text.
fn read(text: &str, json: bool) -> String {
    match Spec::parse(text, json) {
        Ok(spec) => format!("{} stages", spec.stages.len()),
        Err(fault) => {
            let located = fault.located("job", text);
            assert!(located.starts_with("job:"), "{located}");
            fault.what
        }
    }
}

#[test]
fn fuzz_spec() {
    let seeds: Vec<_> = specs().collect();
    assert!(seeds.len() > 3);
    let shapes = target("spec").seeds(seeds).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        read(&text, false)
    });
    assert!(shapes > 50, "{shapes}");
}

#[test]
fn fuzz_spec_json() {
    let seed = r#"{"version": 1, "source": [{"name": "in", "path": "/in.csv", "format": "csv"}],
        "stage": [{"name": "n", "from": "in", "op": {"count": {"by": ["city"]}}, "tasks": 2}],
        "sink": [{"from": "n", "path": "/out.csv"}], "job": {"epoch_ms": 100, "x": [1.5, true, null]}}"#;
    let shapes = target("spec_json").seeds([seed]).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        read(&text, true)
    });
    assert!(shapes > 50, "{shapes}");
}

#[test]
fn fuzz_lines() {
    let seeds = [
        "a,\"b, \"\"c\"\"\",-12.50,2026-01-31T12:00:00.5Z\r\n\"\",,31/Jan/2026:12:00:00 +0100,1000/s",
        "{\"user\": \"a, \\\"b\\\"\", \"n\": 1.50, \"deep\": {\"k\": [1, null]}}\n{\"n\": true}",
    ];
    let names = ["user", "n", "deep"].map(str::to_owned);
    let shapes = target("lines").seeds(seeds).run(|bytes| {
        let batch = Batch::from_lines(Bytes::copy_from_slice(bytes));
        let mut seen = String::new();
        for field in batch.lines().flat_map(csv::fields) {
            let value = csv::value(field);
            let mut again = Vec::new();
            csv::push_value(&value, &mut again);
            assert_eq!(csv::value(&again), value, "{field:?}");
            let time = |format: TimeFormat| format.parse(&value).is_some();
            let kinds = [
                Decimal::parse(&value).is_some(),
                time(TimeFormat::Rfc3339),
                time(TimeFormat::Unix),
                time(TimeFormat::UnixMs),
                time(TimeFormat::Clf),
                std::str::from_utf8(&value).is_ok_and(|text| rate::parse(text).is_some()),
            ];
            seen.extend(kinds.map(|is| if is { 'y' } else { 'n' }));
        }
        let mut letters = Letters::new(true);
        match json_lines::to_csv(&names, &batch, &mut letters) {
            Ok(Some((csv, kept))) => assert_eq!(csv.count(), kept.len()),
            Ok(None) => seen.push('-'),
            Err(error) => seen.push_str(&error.to_string()),
        }
        seen
    });
    assert!(shapes > 20, "{shapes}");
}

/// Frames that are cut out of anything are whole, lie one behind the other, and are the same however they are read.
#[test]
fn fuzz_frames() {
    let seeds: [&[u8]; 3] = [
        b"\0\0\0\x02ab\0\0\0\0\0\0\0\x04a\nb,\0\0\0\x09c",
        b"\x03\0\0\0abc\0\0\0\0\x01\0\0\0\xff\x01",
        b"\0\0\0\x01x\x01\0\0\x01",
    ];
    let shapes = target("frames").seeds(seeds).run(|bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut seen = String::new();
        for prefix in [Prefix::U32be, Prefix::U32le] {
            let cut = match Frames::cut(&bytes, u64::MAX, prefix) {
                Ok(cut) => cut,
                Err(error) => {
                    assert!(error.length as usize > RECORD_BYTES_MAX);
                    assert!(error.at + 4 <= bytes.len());
                    seen.push('!');
                    continue;
                }
            };
            assert!(cut.need.is_some_and(|need| need > bytes.len()));
            let Some(frames) = cut.frames else { continue };
            let whole = frames.bytes().len();
            assert!(frames.bytes()[..] == bytes[..whole]);
            let one = |at: usize| {
                let alone = bytes.slice(frames.start(at)..whole);
                let cut = Frames::cut(&alone, 1, prefix).unwrap();
                assert_eq!(cut.frames, Some(frames.part(at..at + 1)));
            };
            (0..frames.count()).for_each(one);
            for encoding in [Encoding::Base64, Encoding::Hex, Encoding::Text] {
                let origin = Origin {
                    path: "/in".into(),
                    starts: Starts::Piece(0),
                };
                let mut letters = Letters::new(true);
                let lines = frames.to_lines(encoding, origin, &mut letters).unwrap();
                let lines = lines.map_or(0, |lines| lines.count());
                let dead = letters.take().len();
                assert_eq!(lines + dead, frames.count());
                seen.push_str(&"l".repeat(lines.min(5)));
                seen.push_str(&"d".repeat(dead.min(5)));
            }
        }
        seen
    });
    assert!(shapes > 10, "{shapes}");
}

/// What was heard of a program can be told to the next one, and is the same then.
#[test]
fn fuzz_state_lines() {
    let keys = Keys { task: 0, tasks: 2 };
    let remembered = || Remembered::new(keys, 2, Room::vast());
    let told = |state: &mut Remembered, text: Bytes| {
        let (output, changes) = state.split(text)?;
        let count = changes.len();
        state.take(changes).unwrap();
        state.begin_telling().unwrap();
        Ok::<_, String>((output, count, state.next_lines().unwrap()))
    };
    let seeds =
        ["a\n\x1fk1,\"x, \"\"y\"\"\"\tv\tw\nb\n\x1fk3,\"a\tb\"\t1\n\x1fk1,c\t\n\x1f,\t1\r\n"];
    let shapes = target("state_lines").seeds(seeds).run(|bytes| {
        match told(&mut remembered(), Bytes::copy_from_slice(bytes)) {
            Ok((output, count, lines)) => {
                let again = told(&mut remembered(), lines.clone().into()).unwrap();
                assert_eq!((again.0.len(), again.2), (0, lines));
                format!("{count} {}", output.is_empty())
            }
            Err(why) => why.split('`').next().unwrap_or_default().to_owned(),
        }
    });
    assert!(shapes > 3, "{shapes}");
}

#[test]
fn fuzz_messages() {
    let path = "/.jobs/a.toml".into();
    let shapes = target("messages")
        .seeds([Request::Hello, Request::SpecClosed { path }].map(|one| hydfs_types::encode(&one)))
        .seeds(
            [Response::Waiting, Response::Bad("why".into())].map(|one| hydfs_types::encode(&one)),
        )
        .run(|bytes| {
            let request = seen(&hydfs_types::decode::<Request>(bytes));
            let response = seen(&hydfs_types::decode::<Response>(bytes));
            request + &response + &seen(&Positions::decode(bytes))
        });
    assert!(shapes > 30, "{shapes}");
}

#[test]
fn fuzz_receipt() {
    let seed = r#"{"epoch": 1, "attempt": 2, "members": ["n1"], "inputs": [{"source": 0, "node": 0, "task": 1, "file": null,
        "generation": 0, "from": 0, "to": 2, "lines": 5, "bytes": 70, "crc": 9, "step": 2}],
        "outputs": {"/out": {"lines": 5, "bytes": 60, "sum": 7}}, "operators": {"x": "ab"}, "begin": {"job": "j-1",
        "chunk_bytes": 4096, "sources": [[{"path": "/in", "ino": 3, "generation": 1, "len": 70, "data_at": 0}]], "tasks": [2],
        "reads": [0, null], "shares": [[[{"next": 0, "step": 2, "end": 2, "at": 0}]]], "goes_on": [0], "savepoint": "s",
        "lengths": {"/out": 5}, "at_end": [false], "bounds": [[5, null]], "prefixes": ["u32be"]}}"#;
    assert!(serde_json::from_str::<receipt::Line>(seed).is_ok());
    let shapes = target("receipt")
        .seeds([seed])
        .run(|bytes| seen(&serde_json::from_slice::<receipt::Line>(bytes)));
    assert!(shapes > 20, "{shapes}");
}

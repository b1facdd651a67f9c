//! Windows close once, with what is theirs, also across restores.

use super::*;
use crate::stateful::{put_back, save};
use proptest::prelude::*;

fn windows(cut: Cut, kind: Kind, lateness_ms: i64) -> Windows {
    let spec = Aggregate {
        kind,
        by: vec![1],
        of: Some(2),
        best: None,
        window: None,
        json: false,
        changelog: false,
    };
    let window = WindowSpec {
        cut,
        time: 0,
        format: TimeFormat::UnixMs,
        lateness_ms,
    };
    Windows::new(spec, window, Room::vast())
}

fn feed(windows: &mut Windows, text: &str) {
    let batch = Batch::from_lines(Bytes::from(text.to_owned()));
    let mut letters = Letters::new(false);
    windows
        .apply(0, batch, &mut Vec::new(), &mut letters)
        .unwrap();
}

fn text(out: Vec<Batch>) -> String {
    let all: Vec<_> = out
        .iter()
        .map(|batch| String::from_utf8_lossy(batch.bytes()))
        .collect();
    all.join("\n")
}

fn advance(windows: &mut Windows, mark: i64) -> String {
    let mut out = Vec::new();
    windows.barrier(mark, &mut out).unwrap();
    text(out)
}

#[test]
fn tumbling_windows_close_once_and_late_lines_go_aside() {
    let mut windows = windows(Cut::Tumbling(10), Kind::Sum, 5);
    feed(&mut windows, "1,a,1\n9,a,2\n10,b,3\n-1,a,4");
    assert_eq!(advance(&mut windows, 4), "");
    assert_eq!(advance(&mut windows, 5), "-10,0,a,4");
    feed(&mut windows, "3,a,10\n-2,z,1");
    assert_eq!(windows.take_late().unwrap().bytes(), "-2,z,1");
    assert_eq!(advance(&mut windows, 15), "0,10,a,13");
    assert_eq!(advance(&mut windows, 3), "");
    feed(&mut windows, "9,a,1");
    assert_eq!(windows.take_late().unwrap().bytes(), "9,a,1");
    let mut out = Vec::new();
    windows.finish(&mut out).unwrap();
    assert_eq!(text(out), "10,20,b,3");
}

#[test]
fn sliding_windows_overlap() {
    let mut windows = windows(Cut::Sliding { size: 10, step: 5 }, Kind::Max, 0);
    feed(&mut windows, "7,a,1\n12,a,9");
    assert_eq!(advance(&mut windows, 100), "0,10,a,1\n5,15,a,9\n10,20,a,9");
}

#[test]
fn sessions_grow_together_and_survive_a_restore() {
    let mut first = windows(Cut::Session(10), Kind::Count, 0);
    feed(&mut first, "0,a,x\n15,a,x\n100,b,x\n30,a,x");
    // Nothing is left of sessions that have become part of others.
    let due = first.due.memory();
    feed(&mut first, "1,a,x\n2,a,x\n1,a,x\n16,a,x\n15,a,x\n31,a,x");
    assert_eq!(first.due.memory(), due);
    assert_eq!(first.holds(60), 0);
    let mut saved = save(&mut first, false);
    let mut again = windows(Cut::Session(10), Kind::Count, 0);
    put_back(&mut again, &saved);
    feed(&mut again, "8,a,x");
    assert_eq!(advance(&mut again, 60), "0,26,a,8\n30,41,a,2");
    // What was put out is not put out again by whoever goes on from here.
    saved.extend(save(&mut again, false));
    let mut last = windows(Cut::Session(10), Kind::Count, 0);
    put_back(&mut last, &saved);
    feed(&mut last, "9,a,x");
    assert_eq!(last.take_late().unwrap().bytes(), "9,a,x");
    let mut out = Vec::new();
    last.finish(&mut out).unwrap();
    assert_eq!(text(out), "100,110,b,1");
}

#[test]
fn a_mark_that_closed_nothing_outlives_a_restart() {
    let mut first = windows(Cut::Tumbling(10), Kind::Count, 0);
    assert_eq!(advance(&mut first, 20), "");
    assert!(!first.is_unchanged());
    let saved = save(&mut first, false);
    assert!(first.is_unchanged() && save(&mut first, false).is_empty());
    let mut again = windows(Cut::Tumbling(10), Kind::Count, 0);
    put_back(&mut again, &saved);
    feed(&mut again, "9,a,x");
    assert_eq!(again.take_late().unwrap().bytes(), "9,a,x");
}

#[test]
fn distinct_values_are_forgotten_with_their_window() {
    let mut windows = windows(Cut::Tumbling(10), Kind::Distinct, 0);
    feed(&mut windows, "1,a,x\n2,a,x\n3,a,y\n11,a,x");
    assert_eq!(advance(&mut windows, 10), "0,10,a,2");
    assert_eq!(windows.pairs.len(), 1);
    assert_eq!(advance(&mut windows, 20), "10,20,a,1");
    assert_eq!(windows.bytes(), 0);
}

proptest! {
    /// However lines come that are not behind the mark, and wherever a restore falls: each is in its session.
    #[test]
    fn sessions_equal_the_batch_computation(
        steps in proptest::collection::vec((0..4_i64, 0..6_i64, 0..3_u8), 1..40),
        restore_at in 0..40_usize,
    ) {
        let mut live = windows(Cut::Session(4), Kind::Count, 0);
        let (mut mark, mut now, mut out) = (i64::MIN, 0, String::new());
        let (mut saves, mut all) = (Vec::new(), Vec::new());
        for (at, (pause, back, key)) in steps.into_iter().enumerate() {
            now += pause;
            let time = now - back;
            all.push((time, key));
            feed(&mut live, &format!("{time},k{key},x"));
            prop_assert!(live.take_late().is_none());
            mark = mark.max(time - 6);
            let closed = advance(&mut live, mark);
            if !closed.is_empty() { out.push_str(&closed); out.push('\n'); }
            saves.extend(save(&mut live, false));
            if at == restore_at {
                let bytes = live.bytes();
                live = windows(Cut::Session(4), Kind::Count, 0);
                put_back(&mut live, &saves);
                prop_assert_eq!(live.bytes(), bytes);
            }
        }
        let mut last = Vec::new();
        live.finish(&mut last).unwrap();
        out.push_str(&text(last));
        let mut want = Vec::new();
        for key in 0..3_u8 {
            let mut times: Vec<i64> = all.iter().filter(|(_, k)| *k == key).map(|(t, _)| *t).collect();
            times.sort_unstable();
            for session in times.chunk_by(|a, b| b - a < 4) {
                want.push(format!("{},{},k{key},{}", session[0], session[session.len() - 1] + 4, session.len()));
            }
        }
        let mut got: Vec<String> = out.lines().map(str::to_owned).collect();
        got.sort();
        want.sort();
        prop_assert_eq!(got, want);
    }
}

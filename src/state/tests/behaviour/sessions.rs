//! R15: a retry is answered, never applied twice.

use crate::bench::{Bench, create};
use hydfs_state::{SESSIONS_PER_INCARNATION_MAX, WINDOW_ANSWERS_MAX};
use hydfs_types::*;

fn envelope(
    bench: &Bench,
    session: u64,
    seq: u64,
    done_through: u64,
    command: Command,
) -> Envelope {
    Envelope {
        session: SessionId(session),
        seq,
        done_through,
        incarnation: Incarnation(1),
        start: 1,
        ..bench.envelope(command)
    }
}

fn make(name: &str) -> Command {
    create(ROOT_INO, name, FileKind::Regular, None)
}

#[test]
fn a_retry_gets_the_first_answer() {
    let mut bench = Bench::new(1);
    let first = envelope(&bench, 9, 1, 0, make("a"));
    let answer = bench.send(&first);
    assert!(answer.is_ok());
    assert_eq!(bench.send(&first), answer);
    assert!(bench.events.is_empty());
    let clash = envelope(&bench, 9, 2, 0, make("a"));
    assert_eq!(bench.send(&clash), Err(CommandError::Exists));
    bench.ok(crate::bench::unlink(ROOT_INO, "a", false));
    assert_eq!(
        bench.send(&clash),
        Err(CommandError::Exists),
        "a refusal is final too"
    );
}

#[test]
fn received_answers_are_forgotten() {
    let mut bench = Bench::new(1);
    for seq in 1..=3 {
        let next = envelope(&bench, 9, seq, seq - 1, make(&format!("f{seq}")));
        bench.send(&next).unwrap();
    }
    assert_eq!(bench.state.sessions[&SessionId(9)].answers.len(), 1);
    let old = envelope(&bench, 9, 2, 1, make("f2"));
    assert_eq!(bench.send(&old), Err(CommandError::WindowPassed));
}

#[test]
fn the_window_is_bounded() {
    let mut bench = Bench::new(1);
    let set = |at: u64| Command::Set {
        key: "k".into(),
        value: at.to_string(),
    };
    for seq in 1..=WINDOW_ANSWERS_MAX as u64 + 2 {
        let next = envelope(&bench, 9, seq, 0, set(seq));
        // Without the bench's checks of every step, which are not the point here.
        bench
            .state
            .apply(LogIndex(100 + seq), &next, &mut Vec::new())
            .unwrap();
    }
    assert_eq!(
        bench.state.sessions[&SessionId(9)].answers.len(),
        WINDOW_ANSWERS_MAX
    );
    let old = envelope(&bench, 9, 2, 0, set(2));
    assert_eq!(bench.send(&old), Err(CommandError::WindowPassed));
    let kept = envelope(&bench, 9, 3, 0, set(3));
    assert_eq!(bench.send(&kept), Ok(Reply::Done));
}

#[test]
fn sessions_end_with_their_incarnation() {
    let mut bench = Bench::new(2);
    let mine = envelope(&bench, 9, 1, 0, make("a"));
    bench.send(&mine).unwrap();
    let leave = Command::Leave {
        incarnation: Incarnation(1),
        forever: false,
        kept: LogIndex(0),
    };
    let leave = envelope(&bench, 9, 2, 0, leave);
    assert_eq!(bench.send(&leave), Ok(Reply::Done));
    assert!(bench.state.sessions.is_empty());
    assert_eq!(bench.send(&leave), Err(CommandError::Ended(Incarnation(1))));
}

#[test]
fn an_unknown_session_with_a_past_is_not_applied() {
    let mut bench = Bench::new(1);
    let late = envelope(&bench, 9, 5, 4, make("a"));
    assert_eq!(bench.send(&late), Err(CommandError::WindowPassed));
}

#[test]
fn old_worker_lives_give_way() {
    let mut bench = Bench::new(1);
    for session in 1..=SESSIONS_PER_INCARNATION_MAX as u64 + 1 {
        let next = envelope(&bench, session, 1, 0, make(&format!("f{session}")));
        bench.send(&next).unwrap();
    }
    assert_eq!(bench.state.sessions.len(), SESSIONS_PER_INCARNATION_MAX);
    assert!(!bench.state.sessions.contains_key(&SessionId(1)));
}

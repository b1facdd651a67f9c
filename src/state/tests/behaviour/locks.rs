//! Advisory locks exclude, and end with who holds them.

use crate::bench::{Bench, admission};
use hydfs_state::{Event, LOCKS_PER_FILE_MAX};
use hydfs_types::*;

const ONE: Incarnation = Incarnation(1);
const TWO: Incarnation = Incarnation(2);

fn whole(owner: u64, exclusive: bool) -> Lock {
    Lock {
        start: 0,
        end: u64::MAX,
        owner,
        pid: 1,
        exclusive,
    }
}

fn lock(ino: Ino, incarnation: Incarnation, lock: Lock) -> Command {
    Command::Lock {
        ino,
        incarnation,
        lock,
    }
}

fn unlock(ino: Ino, incarnation: Incarnation, owner: u64) -> Command {
    Command::Unlock {
        ino,
        incarnation,
        owner,
        start: 0,
        end: u64::MAX,
    }
}

#[test]
fn locks_exclude_across_members() {
    let mut bench = Bench::new(2);
    let file = bench.make(ROOT_INO, "f", FileKind::Regular);
    bench.ok(lock(file, ONE, whole(5, true)));
    // The same number is another owner on another mount.
    assert_eq!(
        bench.refused(lock(file, TWO, whole(5, false))),
        CommandError::Locked
    );
    bench.ok(lock(file, ONE, whole(5, false)));
    assert_eq!(bench.events, [Event::Unlocked(file)]);
    bench.ok(lock(file, TWO, whole(5, false)));
    assert_eq!(
        bench.refused(lock(file, ONE, whole(5, true))),
        CommandError::Locked
    );
    bench.ok(unlock(file, TWO, 5));
    assert_eq!(bench.events, [Event::Unlocked(file)]);
    bench.ok(unlock(file, TWO, 5));
    assert_eq!(bench.events, []);
    bench.ok(lock(file, ONE, whole(5, true)));
    let nowhere = lock(Ino(99), ONE, whole(5, true));
    assert_eq!(bench.refused(nowhere), CommandError::Stale(Ino(99)));
    let nobody = lock(file, Incarnation(9), whole(5, true));
    assert_eq!(bench.refused(nobody), CommandError::Ended(Incarnation(9)));
}

#[test]
fn locks_end_with_their_holder_and_with_the_file() {
    let mut bench = Bench::new(2);
    let file = bench.make(ROOT_INO, "f", FileKind::Regular);
    bench.ok(lock(file, ONE, whole(5, true)));
    bench.ok(Command::Expire {
        incarnations: vec![ONE],
        why: String::new(),
    });
    assert!(bench.events.contains(&Event::Unlocked(file)));
    bench.ok(lock(file, TWO, whole(5, true)));
    // Its process was replaced: whoever held the lock is gone.
    bench.ok(Command::Admit(admission("n2", 2, 2, 2)));
    assert!(bench.state.names.locks.is_empty());
    bench.ok(lock(file, TWO, whole(5, true)));
    bench.ok(Command::Unlink {
        parent: ROOT_INO,
        name: b"f".to_vec(),
        dir: false,
    });
    bench.ok(Command::ReleaseOrphans {
        incarnation: TWO,
        inos: vec![file],
    });
    assert!(bench.state.names.locks.is_empty());
}

#[test]
fn locks_stay_where_a_worker_takes_the_mount_over() {
    let mut bench = Bench::new(2);
    let file = bench.make(ROOT_INO, "f", FileKind::Regular);
    bench.ok(lock(file, TWO, whole(5, true)));
    let reply = bench.ok(Command::TakeOver(admission("n2", 2, 2, 2)));
    assert!(matches!(reply, Reply::Admitted(admitted) if admitted.resumed));
    assert_eq!(
        bench.refused(lock(file, ONE, whole(5, true))),
        CommandError::Locked
    );
    // One that was expired meanwhile has lost them, whoever uses its mount.
    bench.expire(&[2]);
    let reply = bench.ok(Command::TakeOver(admission("n2", 2, 2, 3)));
    assert!(matches!(reply, Reply::Admitted(admitted) if !admitted.resumed));
    bench.ok(lock(file, ONE, whole(5, true)));
}

#[test]
fn a_file_has_a_limit_of_locks() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "f", FileKind::Regular);
    let byte = |at: u64| Lock {
        start: 2 * at,
        end: 2 * at,
        ..whole(5, true)
    };
    let most = LOCKS_PER_FILE_MAX as u64 - 1;
    let mut locks = Locks::default();
    for at in 0..most {
        locks.take(ONE, byte(at));
    }
    bench.state.names.locks.insert(file, locks);
    assert_eq!(
        bench.refused(lock(file, ONE, byte(most))),
        CommandError::TooManyLocks
    );
    bench.ok(unlock(file, ONE, 5));
    bench.ok(lock(file, ONE, byte(most)));
}

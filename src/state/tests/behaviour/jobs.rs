//! R13: attempts, job epochs, watermarks.

use crate::bench::Bench;
use hydfs_state::{Event, WriterPhase};
use hydfs_types::*;

const JOB: JobId = JobId(1);

fn start(name: &str, spec: u64, generation: u64) -> Command {
    Command::Job(JobCommand::Start {
        name: name.to_owned(),
        spec: Ino(spec),
        generation,
        uid: 1,
        gid: 2,
        phase: JobPhase::Running,
        message: String::new(),
    })
}

fn restart(from: u32) -> Command {
    Command::Job(JobCommand::Restart {
        job: JOB,
        from: Attempt(from),
        why: "test".to_owned(),
    })
}

fn commit(attempt: u32, epoch: u64, watermarks: &[(WriterId, u64)], done: bool) -> Command {
    Command::Job(JobCommand::Commit(JobCommit {
        job: JOB,
        attempt: Attempt(attempt),
        epoch: JobEpoch(epoch),
        watermarks: watermarks
            .iter()
            .map(|(writer, seq)| (*writer, Seq(*seq)))
            .collect(),
        positions: vec![epoch as u8],
        progress: vec![],
        done,
    }))
}

fn phase(phase: JobPhase) -> Command {
    Command::Job(JobCommand::SetPhase {
        job: JOB,
        attempt: None,
        phase,
        message: "why".to_owned(),
    })
}

/// A running job with a writer of attempt 1 by incarnation 1.
fn running() -> (Bench, Ino, WriterId, SegmentId) {
    let mut bench = Bench::new(2);
    assert_eq!(bench.ok(start("job", 50, 1)), Reply::Job(JOB));
    let ino = bench.make(ROOT_INO, "out", FileKind::Regular);
    let writer = grant(&mut bench, ino, 1);
    let segment = bench.segment_at(ino, 0);
    (bench, ino, writer, segment)
}

fn grant(bench: &mut Bench, ino: Ino, attempt: u32) -> WriterId {
    let command = Command::Grant {
        ino,
        incarnation: Incarnation(1),
        job: Some((JOB, Attempt(attempt))),
    };
    match bench.ok(command) {
        Reply::Granted(granted) => granted.writer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_spec_is_one_job() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.ok(start("job", 50, 1)), Reply::Job(JOB));
    assert_eq!(bench.ok(start("job", 50, 1)), Reply::Job(JOB));
    assert!(bench.events.is_empty());
    assert_eq!(bench.refused(start("job", 50, 2)), CommandError::Exists);
    assert_eq!(
        bench.refused(Command::Job(JobCommand::Forget { job: JOB })),
        CommandError::Busy
    );
    bench.ok(phase(JobPhase::Cancelled));
    assert_eq!(bench.refused(phase(JobPhase::Running)), CommandError::NoJob);
    assert_eq!(bench.ok(start("job", 50, 2)), Reply::Job(JobId(2)));
    bench.ok(Command::Job(JobCommand::Forget { job: JOB }));
    assert_eq!(bench.state.jobs.len(), 1);
}

#[test]
fn a_commit_is_a_compare_and_swap() {
    let (mut bench, _, writer, _) = running();
    assert_eq!(
        bench.refused(commit(2, 1, &[], false)),
        CommandError::Changed
    );
    assert_eq!(
        bench.refused(commit(1, 2, &[], false)),
        CommandError::Changed
    );
    assert_eq!(
        bench.refused(commit(1, 1, &[(WriterId(99), 1)], false)),
        CommandError::Changed
    );
    assert_eq!(bench.ok(commit(1, 1, &[(writer, 5)], false)), Reply::Done);
    assert_eq!(bench.state.jobs[&JOB].positions, [1]);
    assert_eq!(
        bench.ok(commit(1, 1, &[(writer, 5)], false)),
        Reply::Done,
        "the same again"
    );
    assert!(bench.events.is_empty());
    assert_eq!(
        bench.refused(commit(1, 2, &[(writer, 4)], false)),
        CommandError::Changed,
        "watermarks never go back"
    );
    bench.ok(phase(JobPhase::Paused));
    assert_eq!(
        bench.refused(commit(1, 2, &[(writer, 6)], false)),
        CommandError::NoJob
    );
}

#[test]
fn nothing_is_committed_into_a_file_without_a_name() {
    let (mut bench, ino, writer, _) = running();
    bench.ok(commit(1, 1, &[(writer, 5)], false));
    let name = b"out".to_vec();
    bench.ok(Command::Unlink {
        parent: ROOT_INO,
        name,
        dir: false,
    });
    let lost = commit(1, 2, &[(writer, 6)], true);
    assert_eq!(bench.refused(lost), CommandError::Stale(ino));
    assert_eq!(bench.state.jobs[&JOB].epoch, JobEpoch(1));
    bench.ok(commit(1, 2, &[], false));
}

#[test]
fn only_what_is_committed_can_be_merged() {
    let (mut bench, ino, writer, segment) = running();
    let early = bench.item(segment, &[(writer, 1)], 10);
    assert_eq!(bench.merge(early), MergeOutcome::Refused);
    bench.ok(commit(1, 1, &[(writer, 5)], false));
    let over = bench.item(segment, &[(writer, 6)], 10);
    assert_eq!(bench.merge(over), MergeOutcome::Refused);
    let good = bench.item(segment, &[(writer, 5)], 10);
    assert_eq!(bench.merge(good), MergeOutcome::Merged(SegmentVersion(1)));
    bench.end(writer, 9, &[(segment, None)]);
    assert!(
        bench.state.is_clean_file(ino),
        "records above the watermark are void"
    );
}

#[test]
fn a_restart_fences_at_the_watermark() {
    let (mut bench, ino, writer, segment) = running();
    bench.ok(commit(1, 1, &[(writer, 5)], false));
    let unaware = bench.item(segment, &[(writer, 3)], 10);
    assert_eq!(bench.ok(restart(1)), Reply::Job(JOB));
    assert_eq!(bench.state.jobs[&JOB].attempt, Attempt(2));
    assert_eq!(bench.refused(restart(1)), CommandError::Changed);
    assert_eq!(
        bench.state.cluster.map.0 + 1,
        bench.state.index.0,
        "listings have to know of the fence"
    );
    assert_eq!(bench.merge(unaware), MergeOutcome::Refused);
    let old = Command::Grant {
        ino,
        incarnation: Incarnation(1),
        job: Some((JOB, Attempt(1))),
    };
    assert_eq!(bench.refused(old), CommandError::NoJob);
    assert_eq!(
        bench.refused(commit(2, 2, &[(writer, 6)], false)),
        CommandError::Changed
    );
    let next = grant(&mut bench, ino, 2);
    assert_ne!(next, writer);
    let over = bench.item(segment, &[(writer, 6)], 10);
    assert_eq!(bench.merge(over), MergeOutcome::Refused);
    let good = bench.item(segment, &[(writer, 5)], 10);
    assert!(matches!(bench.merge(good), MergeOutcome::Merged(_)));
    assert!(bench.state.writer(writer).is_none());
    bench.ok(commit(2, 2, &[(next, 1)], false));
}

#[test]
fn uncommitted_writers_vanish_with_a_restart() {
    let (mut bench, ino, writer, _) = running();
    bench.ok(restart(1));
    assert!(bench.state.writer(writer).is_none() && bench.state.is_clean_file(ino));
}

#[test]
fn the_last_commit_closes_the_writers() {
    let (mut bench, ino, _, segment) = running();
    bench.ok(restart(1));
    assert_eq!(bench.state.jobs[&JOB].message, "test");
    let writer = grant(&mut bench, ino, 2);
    bench.ok(commit(2, 1, &[(writer, 5)], true));
    assert_eq!(bench.state.jobs[&JOB].phase, JobPhase::Done);
    assert_eq!(
        bench.state.jobs[&JOB].message, "",
        "why it was restarted matters no more"
    );
    assert_eq!(
        bench.state.writer(writer).unwrap().phase,
        WriterPhase::Closed { last: Seq(5) }
    );
    assert!(bench.events.contains(&Event::Writers(ino)) && bench.events.contains(&Event::Job(JOB)));
    assert_eq!(
        bench.ok(commit(2, 1, &[(writer, 5)], true)),
        Reply::Done,
        "the same again, after the end"
    );
    let item = bench.item(segment, &[(writer, 5)], 50);
    bench.merge(item);
    assert!(bench.state.is_clean_file(ino));
    assert_eq!(bench.attr(ino).size, 50);
}

#[test]
fn a_cancelled_job_ends_its_writers() {
    let (mut bench, ino, writer, segment) = running();
    bench.ok(Command::Extend {
        ino,
        starts: vec![SEGMENT_BYTES],
    });
    bench.ok(commit(1, 1, &[(writer, 5)], false));
    bench.ok(phase(JobPhase::Failed));
    // Which segments hold its last records is not known: one empty merge each says so.
    let item = bench.item(segment, &[(writer, 5)], 50);
    bench.merge(item);
    assert!(!bench.state.is_clean_file(ino));
    let second = bench.segment_at(ino, SEGMENT_BYTES);
    let mut nothing = bench.item(second, &[(writer, 5)], 0);
    nothing.cut.digest = bench.state.segment(second).unwrap().digest;
    assert_eq!(
        bench.merge(nothing),
        MergeOutcome::Merged(SegmentVersion(0))
    );
    assert!(bench.state.is_clean_file(ino) && bench.state.writer(writer).is_none());
}

#[test]
fn an_expired_member_ends_its_tasks() {
    let (mut bench, ino, writer, segment) = running();
    bench.ok(commit(1, 1, &[(writer, 5)], false));
    bench.admit(crate::bench::admission("n1", 1, 99, 2));
    assert!(
        bench
            .state
            .segment(segment)
            .unwrap()
            .fenced
            .contains(&writer)
    );
    assert!(!bench.state.is_clean_file(ino));
    bench.ok(restart(1));
    let item = bench.item(segment, &[(writer, 5)], 50);
    assert!(matches!(bench.merge(item), MergeOutcome::Merged(_)));
    assert!(bench.state.is_clean_file(ino));
}

fn change(from: u32, generation: u64, positions: Option<&[u8]>) -> Command {
    change_of(JobPhase::Running, from, generation, positions)
}

/// With positions that were made from job epoch 1.
fn change_of(phase: JobPhase, from: u32, generation: u64, positions: Option<&[u8]>) -> Command {
    Command::Job(JobCommand::Change {
        job: JOB,
        from: Attempt(from),
        phase,
        spec: Ino(50),
        generation,
        positions: positions.map(|positions| (JobEpoch(1), positions.to_vec())),
        uid: 3,
        gid: 4,
        message: "changed".to_owned(),
    })
}

#[test]
fn a_job_that_changes_goes_on_from_its_positions_and_its_writers_are_fenced() {
    let (mut bench, _, writer, _) = running();
    bench.ok(commit(1, 1, &[(writer, 2)], false));
    bench.ok(change(1, 2, None));
    let job = bench.state.jobs[&JOB].clone();
    assert_eq!((job.attempt, job.generation, job.uid), (Attempt(1), 2, 1));
    assert_eq!((&job.positions[..], &*job.message), (&[1][..], "changed"));
    assert_eq!(
        bench.refused(change(2, 3, Some(&[9]))),
        CommandError::Changed
    );
    bench.ok(change(1, 3, Some(&[9])));
    let job = bench.state.jobs[&JOB].clone();
    assert_eq!(
        (job.attempt, job.epoch, job.uid),
        (Attempt(2), JobEpoch(1), 3)
    );
    assert_eq!(job.positions, [9]);
    assert_eq!(
        bench.refused(commit(1, 2, &[], false)),
        CommandError::Changed
    );
    assert_ne!(
        bench.state.names.writers.get(&writer).map(|w| w.phase),
        Some(WriterPhase::Open)
    );

    // One that was cancelled runs again, unless another of its name does; one that is done is over.
    bench.ok(phase(JobPhase::Cancelled));
    bench.ok(change_of(JobPhase::Cancelled, 2, 4, Some(&[8])));
    assert_eq!(bench.state.jobs[&JOB].phase, JobPhase::Running);
    bench.ok(phase(JobPhase::Failed));
    bench.ok(start("job", 51, 1));
    assert_eq!(
        bench.refused(change_of(JobPhase::Failed, 3, 5, Some(&[7]))),
        CommandError::Exists
    );
    bench.ok(change_of(JobPhase::Failed, 3, 5, None));
    assert_eq!(bench.state.jobs[&JOB].phase, JobPhase::Failed);
}

#[test]
fn positions_of_a_job_epoch_that_is_not_the_last_are_refused() {
    let (mut bench, _, _, _) = running();
    bench.ok(commit(1, 1, &[], false));
    bench.ok(restart(1));
    // Attempt 2 is another's than the one that the positions were made under: it commits.
    bench.ok(commit(2, 2, &[], false));
    assert_eq!(
        bench.refused(change(2, 2, Some(&[9]))),
        CommandError::Changed
    );
    let job = bench.state.jobs[&JOB].clone();
    assert_eq!((job.attempt, job.generation), (Attempt(2), 1));
    assert_eq!(job.positions, [2]);
    // What is only noted needs no positions.
    bench.ok(change(2, 2, None));
    assert_eq!(bench.state.jobs[&JOB].generation, 2);
}

/// A segment at 0 that is full and the next one, where `writer` goes on.
fn rolled(bench: &mut Bench, ino: Ino, writer: WriterId, first: SegmentId) -> SegmentId {
    bench.ok(commit(1, 1, &[(writer, 1)], false));
    let roll = MergeItem {
        then: Then::Full,
        ..bench.item(first, &[(writer, 1)], SEGMENT_BYTES)
    };
    assert!(matches!(bench.merge(roll), MergeOutcome::Merged(_)));
    assert_eq!(
        bench.state.writer(writer).map(|w| w.phase),
        Some(WriterPhase::Open),
        "a roll by size ends nobody"
    );
    bench.segment_at(ino, SEGMENT_BYTES)
}

#[test]
fn a_job_epoch_whose_records_went_with_a_retired_segment_is_refused() {
    let (mut bench, ino, writer, first) = running();
    let next = rolled(&mut bench, ino, writer, first);
    // Records 2 and 3 are durable in `next`.
    let retire = MergeItem {
        then: Then::Retire,
        ..bench.item(next, &[], 0)
    };
    assert!(matches!(bench.merge(retire), MergeOutcome::Merged(_)));
    assert!(bench.events.contains(&Event::Writers(ino)));
    assert_eq!(
        bench.refused(commit(1, 2, &[(writer, 3)], false)),
        CommandError::Changed
    );
    let cut = MergeItem {
        then: Then::SetLen(0),
        ..bench.item(first, &[], 0)
    };
    assert!(matches!(bench.merge(cut), MergeOutcome::Merged(_)));
    assert!(bench.state.is_clean_file(ino));
    // The attempt runs again.
    bench.ok(restart(1));
    let again = grant(&mut bench, ino, 2);
    bench.ok(commit(2, 2, &[(again, 2)], false));
    let item = bench.item(first, &[(again, 2)], 20);
    assert!(matches!(bench.merge(item), MergeOutcome::Merged(_)));
}

#[test]
fn a_cutoff_that_fills_a_segment_ends_writers_of_jobs_first_and_keeps_what_is_committed() {
    let (mut bench, ino, writer, first) = running();
    bench.ok(commit(1, 1, &[(writer, 1)], false));
    bench.ok(Command::Extend {
        ino,
        starts: vec![SEGMENT_BYTES],
    });
    let fill = MergeItem {
        then: Then::Full,
        ..bench.item(first, &[(writer, 1)], 10)
    };
    // Record 2 was not listed, and is committed before the cut.
    bench.ok(commit(1, 2, &[(writer, 2)], false));
    assert_eq!(bench.merge(fill), MergeOutcome::Refused);
    assert!(!bench.state.segment(first).unwrap().is_full());
    assert_eq!(
        bench.refused(commit(1, 3, &[(writer, 3)], false)),
        CommandError::Changed
    );
    let again = MergeItem {
        then: Then::Full,
        ..bench.item(first, &[(writer, 2)], 20)
    };
    assert!(matches!(bench.merge(again), MergeOutcome::Merged(_)));
    assert!(bench.state.segment(first).unwrap().is_full());
}

#[test]
fn a_change_revives_no_job_that_ended_meanwhile() {
    let (mut bench, _, _, _) = running();
    bench.ok(commit(1, 1, &[], false));
    bench.ok(restart(1));
    bench.ok(phase(JobPhase::Cancelled));
    assert_eq!(
        bench.refused(change(2, 2, Some(&[9]))),
        CommandError::Changed
    );
    assert_eq!(bench.refused(change(2, 2, None)), CommandError::Changed);
    let job = &bench.state.jobs[&JOB];
    assert_eq!((job.phase, job.generation), (JobPhase::Cancelled, 1));
}

#[test]
fn a_failure_is_one_attempts_own() {
    let (mut bench, _, _, _) = running();
    let failure = |attempt| {
        Command::Job(JobCommand::SetPhase {
            job: JOB,
            attempt: Some(Attempt(attempt)),
            phase: JobPhase::Failed,
            message: "why".to_owned(),
        })
    };
    bench.ok(restart(1));
    assert_eq!(bench.refused(failure(1)), CommandError::Changed);
    assert_eq!(bench.state.jobs[&JOB].phase, JobPhase::Running);
    bench.ok(failure(2));
    bench.ok(failure(2));
    assert_eq!(bench.state.jobs[&JOB].phase, JobPhase::Failed);
}

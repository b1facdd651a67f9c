//! Random commands, most of them sensible: whatever comes, the audit holds, refusals change nothing, configs keep
//! a synced replica, nothing counts backwards, and two replicas of the log are equal.

use crate::bench::{Bench, admission};
use hydfs_state::{Body, Event, State};
use hydfs_types::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Raw numbers that choose a command by what the state holds.
type Raw = (u8, [u8; 5]);

fn pick<T: Copy>(from: impl IntoIterator<Item = T>, by: u8) -> Option<T> {
    let all: Vec<T> = from.into_iter().collect();
    (!all.is_empty()).then(|| all[usize::from(by) % all.len()])
}

fn name(by: u8) -> Vec<u8> {
    vec![b'a' + by % 5]
}

fn incarnation(state: &State, by: u8) -> Incarnation {
    let alive = pick(state.cluster.alive.keys().copied(), by);
    alive
        .filter(|_| by < 240)
        .unwrap_or(Incarnation(u64::from(by % 7)))
}

fn directory(state: &State, by: u8) -> Ino {
    let all = state
        .names
        .inodes
        .values()
        .filter(|inode| inode.attr.kind == FileKind::Directory);
    pick(all.map(|inode| inode.attr.ino), by).unwrap_or(ROOT_INO)
}

fn file(state: &State, by: u8) -> Ino {
    let all = state
        .names
        .inodes
        .values()
        .filter(|inode| inode.attr.kind == FileKind::Regular);
    pick(all.map(|inode| inode.attr.ino), by).unwrap_or(Ino(u64::from(by)))
}

fn member(state: &State, raw: [u8; 5]) -> Command {
    let storage = raw[0] % 5 + 1;
    let known = state
        .cluster
        .members
        .values()
        .find(|m| m.said.storage.0[0] == storage);
    let starts = known.map_or(1, |m| m.said.start_count + u64::from(raw[1] % 4));
    let boot = known.map_or(storage, |m| {
        m.said.boot.0[0] + u8::from(raw[2].is_multiple_of(3))
    });
    Command::Admit(admission(
        &format!("n{}", (raw[3] % 6).min(storage)),
        storage,
        boot,
        starts,
    ))
}

fn configure(state: &State, raw: [u8; 5]) -> Command {
    let slot = SlotId(u32::from(raw[0]) * 16 % SLOTS);
    let Some(config) = state.config(slot) else {
        return member(state, raw);
    };
    let mut acting = config.acting.clone();
    match raw[1] % 3 {
        0 | 1 => acting.push(Acting {
            incarnation: incarnation(state, raw[2]),
            synced: false,
        }),
        _ => drop(acting.remove(usize::from(raw[2]) % acting.len())),
    }
    let leader = pick(acting.iter().map(|a| a.incarnation), raw[3]).unwrap_or(config.leader);
    Command::Configure {
        changes: vec![SlotChange {
            slot,
            expected: config.epoch,
            acting,
            leader,
        }],
    }
}

fn promote(state: &State) -> Command {
    let learner = |(slot, config): (&SlotId, &SlotConfig)| {
        let learner = config.acting.iter().find(|a| !a.synced)?;
        Some((*slot, config.epoch, learner.incarnation))
    };
    Command::Promote {
        learners: state.cluster.slots.iter().filter_map(learner).collect(),
    }
}

fn merge(state: &State, raw: [u8; 5]) -> Command {
    let segment = pick(state.names.segments.keys().copied(), raw[0]).unwrap_or_default();
    let Some(known) = state.segment(segment) else {
        return Command::Merge {
            incarnation: Incarnation(1),
            items: vec![],
        };
    };
    let config = state.config(known.slot).cloned();
    let through = state
        .names
        .writers
        .iter()
        .filter(|(_, writer)| writer.ino == known.ino)
        .map(|(id, writer)| {
            let before = known.through.get(id).copied().unwrap_or_default();
            let seq = match writer.phase {
                hydfs_state::WriterPhase::Closed { last } => last,
                _ => Seq(before.0 + u64::from(raw[1] % 3)),
            };
            (
                *id,
                writer
                    .job
                    .map_or(seq, |job| seq.min(job.watermark))
                    .max(before),
            )
        });
    let len = u64::from(raw[2]) << 19;
    let item = MergeItem {
        segment,
        slot_epoch: config.as_ref().map(|c| c.epoch).unwrap_or_default(),
        map: MapVersion(state.index.0 - u64::from(raw[3] % 3)),
        through: through.collect(),
        time: state.time,
        cut: SegmentCut {
            base: known.version,
            digest: known.digest.after_set_len(u64::from(raw[4])),
            len,
        },
        then: match raw[4] % 9 {
            0 => Then::Full,
            1 if raw[4].is_multiple_of(2) => Then::Grow(len),
            1 => Then::SetLen(len),
            2 => Then::Retire,
            _ => Then::Nothing,
        },
    };
    Command::Merge {
        incarnation: config.map(|c| c.leader).unwrap_or_default(),
        items: vec![item.clone(), item],
    }
}

fn end(state: &State, raw: [u8; 5]) -> Command {
    let Some((id, ino)) = pick(
        state
            .names
            .writers
            .iter()
            .map(|(id, writer)| (*id, writer.ino)),
        raw[0],
    ) else {
        return Command::End { ends: vec![] };
    };
    let segments = state
        .names
        .segments
        .iter()
        .filter(|(_, segment)| segment.ino == ino);
    let touched = segments.map(|(segment, known)| Touched {
        segment: *segment,
        cut: (raw[1].is_multiple_of(2)).then(|| SegmentCut {
            base: known.version,
            digest: known.digest.after_set_len(u64::from(raw[2])),
            len: known.len + u64::from(raw[2]),
        }),
    });
    let mtime = (raw[3].is_multiple_of(2)).then(|| Time {
        sec: i64::from(raw[4]) * 20,
        nsec: 5,
    });
    Command::End {
        ends: vec![WriterEnd {
            writer: id,
            last: Seq(u64::from(raw[4] % 8)),
            touched: touched.collect(),
            mtime,
        }],
    }
}

fn truncate(state: &State, raw: [u8; 5]) -> Command {
    let ino = file(state, raw[0]);
    let size = u64::from(raw[1] % 4) * (u64::from(raw[2]) << 19);
    let live = state
        .file(ino)
        .ok()
        .and_then(|(_, file)| file.writers.first().copied());
    let sole = live.map(|writer| (writer, Seq(u64::from(raw[3] % 8))));
    let versions = state.truncate_versions(ino, size);
    if raw[4].is_multiple_of(3) {
        return Command::Grow {
            ino,
            size,
            sole,
            versions,
        };
    }
    Command::Truncate {
        ino,
        size,
        sole,
        versions,
    }
}

fn job(state: &State, raw: [u8; 5]) -> Command {
    let id = pick(state.jobs.keys().copied(), raw[0]).unwrap_or(JobId(1));
    let Some(job) = state.jobs.get(&id).filter(|_| !raw[1].is_multiple_of(8)) else {
        let (name, spec) = (format!("j{}", raw[2] % 3), Ino(u64::from(raw[3] % 4)));
        let (phase, message) = (JobPhase::Running, String::new());
        return Command::Job(JobCommand::Start {
            name,
            spec,
            generation: u64::from(raw[4] % 3),
            uid: 0,
            gid: 0,
            phase,
            message,
        });
    };
    let of_job = state
        .names
        .writers
        .iter()
        .filter_map(|(w, writer)| writer.job.filter(|j| j.job == id).map(|j| (*w, j)));
    Command::Job(match raw[1] % 8 {
        1 => JobCommand::Restart {
            job: id,
            from: Attempt(job.attempt.0 + u32::from(raw[2].is_multiple_of(5))),
            why: String::new(),
        },
        2 => JobCommand::SetPhase {
            job: id,
            attempt: raw[2]
                .is_multiple_of(2)
                .then(|| Attempt(job.attempt.0 + u32::from(raw[3].is_multiple_of(5)))),
            phase: JobPhase::Failed,
            message: String::new(),
        },
        3 => JobCommand::Forget { job: id },
        4 => JobCommand::Change {
            job: id,
            from: Attempt(job.attempt.0 + u32::from(raw[2].is_multiple_of(5))),
            phase: job.phase,
            spec: job.spec,
            generation: job.generation + u64::from(raw[3] % 2),
            positions: (!raw[4].is_multiple_of(3)).then(|| {
                (
                    JobEpoch(job.epoch.0 + u64::from(raw[4].is_multiple_of(7))),
                    Vec::new(),
                )
            }),
            uid: 0,
            gid: 0,
            message: String::new(),
        },
        _ => JobCommand::Commit(JobCommit {
            job: id,
            attempt: job.attempt,
            epoch: JobEpoch(job.epoch.0 + 1),
            watermarks: of_job
                .filter(|(_, j)| j.attempt == job.attempt)
                .map(|(w, j)| (w, Seq(j.watermark.0 + u64::from(raw[2] % 3))))
                .collect(),
            positions: vec![],
            progress: vec![],
            done: raw[3].is_multiple_of(6),
        }),
    })
}

fn grant(state: &State, raw: [u8; 5]) -> Command {
    let job = pick(state.jobs.values().map(|job| (job.id, job.attempt)), raw[1])
        .filter(|_| raw[2].is_multiple_of(3));
    Command::Grant {
        ino: file(state, raw[0]),
        incarnation: incarnation(state, raw[3]),
        job,
    }
}

fn reserve(state: &State, raw: [u8; 5]) -> Command {
    let writers = || state.names.writers.keys().copied();
    Command::Reserve {
        writer: pick(writers(), raw[0]).unwrap_or_default(),
        bytes: u64::from(raw[1]) << 10,
        spare: u64::from(raw[2]) << 12,
        instead_of: pick(writers(), raw[3]).filter(|_| raw[4].is_multiple_of(2)),
    }
}

fn create(state: &State, raw: [u8; 5]) -> Command {
    let kind = match raw[0] % 6 {
        0 | 1 => FileKind::Directory,
        2 => FileKind::Symlink,
        _ => FileKind::Regular,
    };
    Command::Create {
        parent: directory(state, raw[1]),
        name: name(raw[2]),
        kind,
        mode: 0o644 | u16::from(raw[3] % 2) << 10,
        uid: 0,
        gid: u32::from(raw[3]),
        rdev: 0,
        target: b"t".to_vec(),
        grant: (kind == FileKind::Regular && raw[4].is_multiple_of(2))
            .then(|| incarnation(state, raw[4])),
        umask: u16::from(raw[4] % 8),
    }
}

fn command(state: &State, (kind, raw): Raw) -> Command {
    // Clusters without anybody refuse everything: most histories keep somebody alive.
    let many = state.cluster.alive.len() > 1 || raw[4].is_multiple_of(8);
    match kind % 50 {
        0..=2 => member(state, raw),
        3 if many => Command::Expire {
            incarnations: raw[..1 + usize::from(raw[2].is_multiple_of(4))]
                .iter()
                .map(|by| incarnation(state, *by))
                .collect(),
            why: String::new(),
        },
        4 if many => Command::Leave {
            incarnation: incarnation(state, raw[0]),
            forever: raw[1].is_multiple_of(2),
            kept: LogIndex(0),
        },
        3 | 4 => member(state, raw),
        5 | 6 => configure(state, raw),
        7 => promote(state),
        8..=13 => create(state, raw),
        14 => Command::Link {
            ino: file(state, raw[0]),
            parent: directory(state, raw[1]),
            name: name(raw[2]),
        },
        15..=17 => Command::Unlink {
            parent: directory(state, raw[0]),
            name: name(raw[1]),
            dir: raw[2].is_multiple_of(3),
        },
        18..=20 => Command::Rename {
            parent: directory(state, raw[0]),
            name: name(raw[1]),
            to_parent: directory(state, raw[2]),
            to_name: name(raw[3]),
            no_replace: raw[4].is_multiple_of(5),
            exchange: raw[4] % 4 == 1,
        },
        40 | 41 => Command::Lock {
            ino: file(state, raw[0]),
            incarnation: incarnation(state, raw[1]),
            lock: Lock {
                start: raw[2].into(),
                end: u64::from(raw[2]) + u64::from(raw[3]),
                owner: u64::from(raw[4] % 3),
                pid: 0,
                exclusive: raw[4].is_multiple_of(2),
            },
        },
        42 => Command::Unlock {
            ino: file(state, raw[0]),
            incarnation: incarnation(state, raw[1]),
            owner: u64::from(raw[2] % 3),
            start: raw[3].into(),
            end: u64::from(raw[3]) + u64::from(raw[4]),
        },
        43 => Command::Drain {
            incarnation: incarnation(state, raw[0]),
            on: raw[1].is_multiple_of(2),
        },
        44 | 45 => Command::SetQuota {
            dir: directory(state, raw[0]),
            limit: if raw[1].is_multiple_of(2) {
                Limit::Bytes
            } else {
                Limit::Inodes
            },
            most: (!raw[2].is_multiple_of(4)).then(|| u64::from(raw[3]) << (raw[4] % 20)),
        },
        46..=48 => reserve(state, raw),
        49 => Command::Reclaim {
            ino: file(state, raw[0]),
        },
        21 => Command::SetAttr {
            ino: file(state, raw[0]),
            set: SetAttr {
                mode: Some(raw[1].into()),
                ..SetAttr::default()
            },
        },
        22 => Command::ReleaseOrphans {
            incarnation: incarnation(state, raw[0]),
            inos: state.names.orphans.iter().copied().collect(),
        },
        23..=25 => grant(state, raw),
        26 => Command::Extend {
            ino: file(state, raw[0]),
            starts: vec![
                u64::from(raw[1] % 5) * SEGMENT_BYTES,
                u64::from(raw[2]) << 20,
            ],
        },
        27 | 28 => end(state, raw),
        29..=33 => merge(state, raw),
        34 | 35 => truncate(state, raw),
        36 => acl(state, raw),
        _ => job(state, raw),
    }
}

/// `u::7,u:9:R,g::5,m::R,o::R` of a file or for what is made in a directory, or none any more.
fn acl(state: &State, raw: [u8; 5]) -> Command {
    let default = raw[0].is_multiple_of(2);
    let mut list = vec![2, 0, 0, 0];
    for (tag, rights, id) in [
        (1, 7, u32::MAX),
        (2, raw[1] % 8, 9),
        (4, 5, u32::MAX),
        (16, raw[2] % 8, u32::MAX),
        (32, raw[3] % 8, u32::MAX),
    ] {
        list.extend([tag, 0, rights, 0]);
        list.extend(id.to_le_bytes());
    }
    Command::SetAcl {
        ino: if default {
            directory(state, raw[4])
        } else {
            file(state, raw[4])
        },
        default,
        list: match raw[1] % 5 {
            0 => Vec::new(),
            _ => list,
        },
        owner: raw[1].is_multiple_of(7).then_some(1),
        set_gid: SetGid::Nowhere,
    }
}

/// Kernels keep names, and attributes of what is clean, until an event says that they changed.
fn kept_by_kernels(before: &State, after: &State, events: &[Event]) {
    for (ino, old) in &before.names.inodes {
        let same = after.inode(*ino).is_ok_and(|new| new.attr == old.attr);
        let told = events.iter().any(|event| {
            matches!(event, Event::Inode(one) | Event::Data(one) | Event::Writers(one) | Event::Gone(one) if one == ino)
        });
        let lasts = same && after.is_clean_file(*ino);
        assert!(
            !before.is_clean_file(*ino) || lasts || told,
            "the attributes of {ino} changed untold"
        );
        let lists = |inode: &hydfs_state::Inode| {
            [ACL_ACCESS, ACL_DEFAULT].map(|name| inode.xattrs.get(name).cloned())
        };
        let told = events.contains(&Event::Acl(*ino));
        assert!(
            told || after
                .inode(*ino)
                .map_or(true, |new| lists(new) == lists(old)),
            "an access control list of {ino} changed untold"
        );
        let Body::Directory(directory) = &old.body else {
            continue;
        };
        for (name, entry) in &directory.entries {
            let told = events.iter().any(|event| {
                matches!(event, Event::Entry { parent, name: one } if parent == ino && one == name)
            });
            assert!(
                after.lookup(*ino, name) == Ok(entry.ino) || told,
                "an entry of {ino} changed untold"
            );
        }
    }
}

/// What may never happen between two states.
fn compare(before: &State, after: &State, events: &[Event]) {
    for (slot, old) in &before.cluster.slots {
        let new = &after.cluster.slots[slot];
        if new == old {
            continue;
        }
        assert!(new.epoch >= old.epoch, "{slot} went back");
        assert!(
            new.epoch > old.epoch || new.acting == old.acting,
            "{slot} changed without a new epoch"
        );
        let member = |i: Incarnation, state: &State| state.member_of(i).map(|m| m.id);
        let synced: BTreeSet<_> = old.synced().filter_map(|i| member(i, before)).collect();
        let kept = new
            .synced()
            .any(|i| member(i, after).is_some_and(|m| synced.contains(&m)));
        assert!(kept, "{slot} kept no synced replica: {old:?} {new:?}");
        let told = events
            .iter()
            .any(|event| matches!(event, Event::Slots(slots) if slots.contains(slot)));
        assert!(told, "{slot} changed untold");
    }
    for (id, old) in &before.names.segments {
        let Some(new) = after.names.segments.get(id) else {
            continue;
        };
        let same = (new.version, new.digest, new.len) == (old.version, old.digest, old.len);
        assert!(
            new.version > old.version || same,
            "{id} changed without a new version"
        );
        let told = events.iter().any(|event| matches!(event, Event::Cut { segment, version, .. } if segment == id && *version == new.version));
        assert!(told || new.version == old.version, "{id} changed untold");
    }
    for (ino, old) in &before.names.inodes {
        let Some(new) = after.names.inodes.get(ino) else {
            continue;
        };
        assert!(new.attr.ctime >= old.attr.ctime && new.data_version >= old.data_version);
        assert_eq!(new.key, old.key);
    }
    kept_by_kernels(before, after, events);
    let fresh = |is_new: bool, what: &str| assert!(is_new, "{what} was issued twice");
    for ino in after
        .names
        .inodes
        .keys()
        .filter(|ino| !before.names.inodes.contains_key(ino))
    {
        fresh(ino.0 >= before.names.next_ino, "an inode");
    }
    for id in after
        .names
        .segments
        .keys()
        .filter(|id| !before.names.segments.contains_key(id))
    {
        fresh(id.0 >= before.names.next_segment, "a segment");
    }
    for id in after
        .names
        .writers
        .keys()
        .filter(|id| !before.names.writers.contains_key(id))
    {
        fresh(id.0 >= before.names.next_writer, "a writer");
    }
    for id in after
        .cluster
        .alive
        .keys()
        .filter(|id| !before.cluster.alive.contains_key(id))
    {
        fresh(id.0 >= before.cluster.next_incarnation, "an incarnation");
    }
    assert!(after.cluster.map >= before.cluster.map);
}

/// Few by default; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_keeps_the_invariants(history in prop::collection::vec(any::<Raw>(), 1..160)) {
        let mut bench = Bench::new(2);
        let mut twin = bench.state.clone();
        let mut retries = Vec::new();
        for (at, raw) in history.into_iter().enumerate() {
            let mut envelope = bench.envelope(command(&bench.state, raw));
            let alive = bench.state.cluster.alive.keys().copied();
            let incarnation = pick(alive, raw.1[4]).unwrap_or_default();
            envelope.incarnation = incarnation;
            envelope.session = SessionId(incarnation.0);
            envelope.seq = at as u64 + 1;
            let before = bench.state.clone();
            let answer = bench.send(&envelope);
            compare(&before, &bench.state, &bench.events);
            let mut events = Vec::new();
            prop_assert_eq!(&twin.apply(bench.state.index, &envelope, &mut events), &answer);
            prop_assert_eq!(&events, &bench.events);
            retries.push((envelope, answer));
            if raw.0.is_multiple_of(8) {
                // A retry of any earlier command, once for both.
                let (envelope, answer) = retries[usize::from(raw.1[0]) % retries.len()].clone();
                let again = bench.send(&envelope);
                twin.apply(bench.state.index, &envelope, &mut Vec::new()).ok();
                let ended = Err(CommandError::Ended(envelope.incarnation));
                if bench.state.is_alive(envelope.incarnation) && answer != ended {
                    prop_assert_eq!(again, answer);
                    prop_assert!(bench.events.is_empty());
                }
            }
        }
        prop_assert!(twin == bench.state);
        prop_assert!(State::restore(&bench.state.snapshot()).as_ref() == Ok(&bench.state));
    }
}

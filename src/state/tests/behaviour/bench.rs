//! A state with helpers. Every step is audited, every refusal is checked to have changed nothing.

use hydfs_state::{Event, State};
use hydfs_types::*;

#[derive(Clone)]
pub struct Bench {
    pub state: State,
    pub events: Vec<Event>,
    index: u64,
}

pub fn admission(name: &str, storage: u8, boot: u8, start_count: u64) -> Admission {
    Admission {
        name: name.to_owned(),
        addr: ([127, 0, 0, 1], 7000 + u16::from(storage)).into(),
        zone: String::new(),
        weight: 100,
        storage: StorageId([storage; 16]),
        boot: BootId([boot; 16]),
        start_count,
        drawn: 0,
        last: LogIndex(0),
    }
}

/// The state without what a refused command may change.
pub fn bare(state: &State) -> State {
    State {
        index: LogIndex(0),
        time: Time::default(),
        sessions: Default::default(),
        ..state.clone()
    }
}

impl Bench {
    pub fn empty() -> Self {
        Self {
            state: State::default(),
            events: Vec::new(),
            index: 0,
        }
    }

    /// A cluster of `members` members `n1`, `n2`, …; their incarnations are 1, 2, …
    pub fn new(members: u8) -> Self {
        let mut bench = Self::empty();
        bench.ok(Command::Bootstrap {
            cluster: ClusterId([7; 16]),
            copies: 3,
        });
        for at in 1..=members {
            bench.ok(Command::Admit(admission(&format!("n{at}"), at, at, 1)));
        }
        bench
    }

    pub fn envelope(&self, command: Command) -> Envelope {
        Envelope {
            session: SessionId(0),
            seq: 0,
            done_through: 0,
            incarnation: Incarnation(0),
            start: 0,
            time: Time {
                sec: 1000 + self.index as i64,
                nsec: 0,
            },
            command,
        }
    }

    pub fn send(&mut self, envelope: &Envelope) -> Result<Reply, CommandError> {
        self.index += 1;
        self.events.clear();
        let before = bare(&self.state);
        let answer = self
            .state
            .apply(LogIndex(self.index), envelope, &mut self.events);
        if let Err(why) = self.state.audit() {
            panic!("{why}\nafter {envelope:?}");
        }
        if answer.is_err() {
            assert!(
                bare(&self.state) == before,
                "refused, and changed something: {envelope:?}"
            );
            assert!(self.events.is_empty(), "refused, and told: {envelope:?}");
        }
        answer
    }

    pub fn run(&mut self, command: Command) -> Result<Reply, CommandError> {
        let envelope = self.envelope(command);
        self.send(&envelope)
    }

    #[track_caller]
    pub fn ok(&mut self, command: Command) -> Reply {
        let text = format!("{command:?}");
        self.run(command)
            .unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[track_caller]
    pub fn refused(&mut self, command: Command) -> CommandError {
        self.run(command).expect_err("must be refused")
    }

    #[track_caller]
    pub fn admit(&mut self, said: Admission) -> Admitted {
        match self.ok(Command::Admit(said)) {
            Reply::Admitted(admitted) => admitted,
            other => panic!("{other:?}"),
        }
    }

    pub fn expire(&mut self, incarnations: &[u64]) {
        let incarnations = incarnations.iter().copied().map(Incarnation).collect();
        self.ok(Command::Expire {
            incarnations,
            why: "test".to_owned(),
        });
    }

    #[track_caller]
    pub fn make(&mut self, parent: Ino, name: &str, kind: FileKind) -> Ino {
        match self.ok(create(parent, name, kind, None)) {
            Reply::Created(created) => created.attr.ino,
            other => panic!("{other:?}"),
        }
    }

    /// A file in the root with a writer of incarnation `by` and its first segment.
    #[track_caller]
    pub fn open_new(&mut self, name: &str, by: u64) -> (Ino, WriterId, SegmentId) {
        let command = create(ROOT_INO, name, FileKind::Regular, Some(Incarnation(by)));
        let Reply::Created(created) = self.ok(command) else {
            panic!("not created")
        };
        let ino = created.attr.ino;
        (
            ino,
            created.grant.expect("asked for").writer,
            self.segment_at(ino, 0),
        )
    }

    #[track_caller]
    pub fn grant(&mut self, ino: Ino, by: u64) -> WriterId {
        let command = Command::Grant {
            ino,
            incarnation: Incarnation(by),
            job: None,
        };
        match self.ok(command) {
            Reply::Granted(granted) => granted.writer,
            other => panic!("{other:?}"),
        }
    }

    pub fn segment_at(&self, ino: Ino, start: u64) -> SegmentId {
        self.state.file(ino).expect("a file").1.segments[&start]
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        self.state.inode(ino).expect("an inode").attr
    }

    /// What the slot leader would propose: `len` bytes after the cut.
    pub fn item(&self, segment: SegmentId, through: &[(WriterId, u64)], len: u64) -> MergeItem {
        let known = self.state.segment(segment).expect("a segment");
        let digest = match len == known.len && through.is_empty() {
            true => known.digest,
            false => known.digest.after_set_len(len + 1_000_000),
        };
        MergeItem {
            segment,
            slot_epoch: self.state.config(known.slot).expect("a slot").epoch,
            map: MapVersion(self.index),
            through: through.iter().map(|(w, s)| (*w, Seq(*s))).collect(),
            time: self.state.time,
            cut: SegmentCut {
                base: known.version,
                digest,
                len,
            },
            then: Then::Nothing,
        }
    }

    #[track_caller]
    pub fn merge(&mut self, item: MergeItem) -> MergeOutcome {
        let known = self.state.segment(item.segment).expect("a segment");
        let incarnation = self.state.config(known.slot).expect("a slot").leader;
        match self.ok(Command::Merge {
            incarnation,
            items: vec![item],
        }) {
            Reply::Merged(outcomes) => outcomes[0],
            other => panic!("{other:?}"),
        }
    }

    /// Ends a writer that wrote up to `last` in these segments.
    pub fn end(
        &mut self,
        writer: WriterId,
        last: u64,
        touched: &[(SegmentId, Option<SegmentCut>)],
    ) {
        let touched = touched.iter().map(|(segment, cut)| Touched {
            segment: *segment,
            cut: *cut,
        });
        let end = WriterEnd {
            writer,
            last: Seq(last),
            touched: touched.collect(),
            mtime: None,
        };
        self.ok(Command::End { ends: vec![end] });
    }
}

pub fn create(parent: Ino, name: &str, kind: FileKind, grant: Option<Incarnation>) -> Command {
    let target = match kind {
        FileKind::Symlink => b"target".to_vec(),
        _ => Vec::new(),
    };
    Command::Create {
        parent,
        name: name.into(),
        kind,
        mode: 0o644,
        uid: 5,
        gid: 6,
        rdev: 0,
        target,
        grant,
        umask: 0,
    }
}

pub fn unlink(parent: Ino, name: &str, dir: bool) -> Command {
    Command::Unlink {
        parent,
        name: name.into(),
        dir,
    }
}

pub fn rename(parent: Ino, name: &str, to_parent: Ino, to_name: &str) -> Command {
    Command::Rename {
        parent,
        name: name.into(),
        to_parent,
        to_name: to_name.into(),
        no_replace: false,
        exchange: false,
    }
}

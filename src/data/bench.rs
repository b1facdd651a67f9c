//! A few members' data planes over disks in memory, for tests of this crate. All share one agreed state, so that what is
//! proposed is applied everywhere at once; calls can be held up.

use crate::{Context, Data, Past, SharedState, Trial, replica::Replica};
use bytes::Bytes;
use hydfs_state::State;
use hydfs_store::{LogOptions, MemDisk, SyncMode};
use hydfs_types::*;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};
use tokio::sync::watch;

/// Small, so that checkpoints drop files soon.
pub(crate) const LOG_FILE_BYTES: u64 = 1 << 20;

/// What a call waits for before it arrives.
type Hold = Box<dyn Fn(SocketAddr, &DataRequest) -> Option<BoxFuture<'static, ()>> + Send + Sync>;

type Planes = Arc<Mutex<BTreeMap<SocketAddr, Arc<Data>>>>;

/// Agreement and network of all members.
pub(crate) struct World {
    pub state: SharedState,
    planes: Planes,
    hold: Mutex<Option<Hold>>,
    applied: watch::Sender<LogIndex>,
}

/// One member's end of it.
struct End {
    world: Arc<World>,
    addr: SocketAddr,
}

pub(crate) fn addr(member: u8) -> SocketAddr {
    ([127, 0, 0, 1], 7000 + u16::from(member)).into()
}

fn log_options() -> LogOptions {
    let delay = Duration::from_millis(1);
    LogOptions {
        file_bytes: LOG_FILE_BYTES,
        sync: SyncMode::Inline { delay },
        ..LogOptions::new(1)
    }
}

impl World {
    /// A cluster of members 1, 2, …, whose incarnations count likewise; none of them runs, and the first has every slot.
    pub fn new(members: u8) -> Arc<Self> {
        let world = Arc::new(Self {
            state: Arc::new(RwLock::new(State::default())),
            planes: Planes::default(),
            hold: Mutex::default(),
            applied: watch::channel(LogIndex(0)).0,
        });
        let copies = members;
        let cluster = ClusterId([7; 16]);
        world
            .apply(Command::Bootstrap { cluster, copies })
            .expect("it is the first command");
        for member in 1..=members {
            world
                .apply(Command::Admit(Admission {
                    name: format!("n{member}"),
                    addr: addr(member),
                    zone: String::new(),
                    weight: 100,
                    storage: StorageId([member; 16]),
                    boot: BootId([member; 16]),
                    start_count: 1,
                    drawn: 0,
                    last: LogIndex(0),
                }))
                .expect("it is new");
        }
        world
    }

    pub fn apply(&self, command: Command) -> Result<Reply, CommandError> {
        let mut events = Vec::new();
        let (reply, index) = {
            let mut state = self.state.write().expect("nobody panics with it");
            let index = LogIndex(state.index.0 + 1);
            let envelope = Envelope {
                session: SessionId(0),
                seq: 0,
                done_through: 0,
                incarnation: Incarnation(0),
                start: 0,
                time: Time {
                    sec: 1000 + index.0 as i64,
                    nsec: 0,
                },
                command,
            };
            (state.apply(index, &envelope, &mut events), index)
        };
        let planes: Vec<_> = self.planes.lock().unwrap().values().cloned().collect();
        for plane in planes {
            plane.ctx.note(index, &events);
            plane.on_events(&events);
        }
        self.applied.send_replace(index);
        reply
    }

    /// Opens a member's data plane on a disk, as after a kill, or with `redo` as after a power loss. Of its tasks the one runs that
    /// follows the agreed versions.
    pub fn open(self: &Arc<Self>, member: u8, disk: &MemDisk, redo: bool) -> Arc<Data> {
        let end = Arc::new(End {
            world: self.clone(),
            addr: addr(member),
        });
        let ctx = Context::new(end.clone(), end, self.state.clone(), Trial::default());
        ctx.set_me(Incarnation(u64::from(member)));
        let past = Past {
            rebooted: redo,
            ..Past::default()
        };
        let data = Data::open(Arc::new(ctx), disk.attach(), log_options(), past)
            .expect("the disk is sound");
        tokio::spawn(data.replica.clone().follow());
        let mut planes = self.planes.lock().unwrap();
        planes.insert(addr(member), data.clone());
        drop(planes);
        data
    }

    /// Calls wait for what this says.
    pub fn hold(
        &self,
        hold: impl Fn(SocketAddr, &DataRequest) -> Option<BoxFuture<'static, ()>>
        + Send
        + Sync
        + 'static,
    ) {
        *self.hold.lock().unwrap() = Some(Box::new(hold));
    }

    /// A file that the first member writes, with one segment.
    pub fn create(&self, name: &str) -> File {
        let incarnation = Incarnation(1);
        let create = Command::Create {
            parent: ROOT_INO,
            name: name.into(),
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
            grant: Some(incarnation),
            umask: 0,
        };
        let Ok(Reply::Created(created)) = self.apply(create) else {
            panic!("no file was made");
        };
        let ino = created.attr.ino;
        let state = self.state.read().unwrap();
        let (_, file) = state.file(ino).expect("it was made");
        let segment = *file.segments.values().next().expect("it has one");
        File {
            ino,
            writer: created.grant.expect("it was asked for").writer,
            segment,
            slot: state.segment(segment).expect("it is there").slot,
        }
    }

    /// Who acts for a slot: members, whether each is synced. The first leads.
    pub fn configure(&self, slot: SlotId, acting: &[(u8, bool)]) -> SlotEpoch {
        let config = |state: &SharedState| state.read().unwrap().config(slot).cloned();
        let expected = config(&self.state).expect("every slot has one").epoch;
        let acting: Vec<_> = acting
            .iter()
            .map(|(member, synced)| Acting {
                incarnation: Incarnation(u64::from(*member)),
                synced: *synced,
            })
            .collect();
        let change = SlotChange {
            slot,
            expected,
            leader: acting[0].incarnation,
            acting,
        };
        let changes = vec![change];
        self.apply(Command::Configure { changes })
            .expect("it follows from the one before");
        config(&self.state).expect("every slot has one").epoch
    }

    /// Members 2, 3, … are promoted, though they hold nothing: where there is nothing yet.
    pub fn promote(&self, slot: SlotId, members: &[u8]) {
        for member in members {
            let epoch = self.state.read().unwrap().config(slot).unwrap().epoch;
            let learners = vec![(slot, epoch, Incarnation(u64::from(*member)))];
            self.apply(Command::Promote { learners }).unwrap();
        }
    }
}

/// A file with one segment, and its writer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File {
    pub ino: Ino,
    pub writer: WriterId,
    pub segment: SegmentId,
    pub slot: SlotId,
}

impl File {
    /// Records `seqs` of so many bytes each, in one message.
    pub fn append(
        &self,
        data: &Data,
        seqs: std::ops::RangeInclusive<u64>,
        len: usize,
    ) -> (Append, Bytes) {
        let prev = Seq(seqs.start() - 1);
        let mut body = Vec::new();
        let records = seqs
            .map(|seq| {
                let payload = vec![seq as u8; len];
                body.extend_from_slice(&payload);
                RecordHead {
                    writer: self.writer,
                    segment: self.segment,
                    seq: Seq(seq),
                    prev: Seq(seq - 1),
                    op: Op::Append,
                    time: Time::default(),
                    len: len as u32,
                    crc: crc32c::crc32c(&payload),
                }
            })
            .collect();
        let append = Append {
            slot: self.slot,
            epoch: data.ctx.config(self.slot).unwrap().epoch,
            map: data.ctx.map(),
            from: Incarnation(1),
            records,
            acked_through: prev,
            durable: false,
        };
        (append, body.into())
    }

    /// Has the slot leader merge what is pending.
    pub async fn merge(&self, leader: &Data) {
        let merged = leader
            .leader
            .merge(self.slot, self.segment, Then::Nothing, None);
        merged.await.expect("it can be merged");
        let version = leader.ctx.state().segment(self.segment).unwrap().version;
        leader
            .replica
            .wait_version(self.segment, version)
            .await
            .expect("it is applied");
    }

    /// A cut is agreed that no replica has.
    pub fn lose_a_cut(&self, world: &World) {
        let item = {
            let state = world.state.read().unwrap();
            let known = state.segment(self.segment).unwrap();
            MergeItem {
                segment: self.segment,
                slot_epoch: state.config(self.slot).unwrap().epoch,
                map: MapVersion(state.index.0),
                through: Vec::new(),
                time: state.time,
                cut: SegmentCut {
                    base: known.version,
                    digest: known.digest.after_set_len(77),
                    len: known.len + 5,
                },
                then: Then::Nothing,
            }
        };
        let incarnation = Incarnation(1);
        let items = vec![item];
        let merged = world.apply(Command::Merge { incarnation, items });
        assert!(
            matches!(&merged, Ok(Reply::Merged(out)) if matches!(out[0], MergeOutcome::Merged(_)))
        );
    }

    /// Has a replica take records.
    pub async fn write(&self, data: &Data, seqs: std::ops::RangeInclusive<u64>, len: usize) {
        let (append, body) = self.append(data, seqs, len);
        data.replica
            .append(append, body)
            .await
            .expect("it is taken");
    }
}

/// What a replica has pending of a segment: names, where their payloads can be read.
pub(crate) fn readable(replica: &Replica, segment: SegmentId) -> Vec<u64> {
    let pending: Vec<_> = match replica.index().segments.get(&segment) {
        Some(local) => local.pending().cloned().collect(),
        None => Vec::new(),
    };
    let read = |one: &crate::segment::Pending| {
        let payload = replica.journal.read_payload(one.at, one.head.len as usize);
        payload.is_ok_and(|payload| crc32c::crc32c(&payload) == one.head.crc)
    };
    pending
        .iter()
        .filter(|one| read(one))
        .map(|one| one.head.seq.0)
        .collect()
}

impl Net for End {
    fn call(
        &self,
        to: SocketAddr,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let plane = self.world.planes.lock().unwrap().get(&to).cloned();
        let request: DataRequest = frame.message().expect("it was made here");
        let hold = self.world.hold.lock().unwrap();
        let held = hold.as_ref().and_then(|hold| hold(to, &request));
        drop(hold);
        Box::pin(async move {
            let why = String::from("it does not run");
            let plane = plane.ok_or(NetError::Unreachable { addr: to, why })?;
            let answer = async {
                if let Some(held) = held {
                    held.await;
                }
                plane.serve(frame).await
            };
            let millis = deadline.as_millis() as u64;
            let answer = tokio::time::timeout(deadline, answer).await;
            answer.map_err(|_| NetError::TimedOut { addr: to, millis })
        })
    }

    fn send_datagram(&self, _: SocketAddr, _: Bytes) {}

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Agreement for End {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, AgreementError>> {
        Box::pin(async move { Ok(self.world.apply(command)?) })
    }

    fn propose_kept<'a>(
        &'a self,
        command: Command,
        _: &'a dyn CommandIdentity,
    ) -> BoxFuture<'a, Result<Reply, AgreementError>> {
        self.propose(command)
    }

    fn forget(&self, _: u64) {}

    fn barrier(&self) -> BoxFuture<'_, Result<LogIndex, AgreementError>> {
        Box::pin(async { Ok(*self.world.applied.borrow()) })
    }

    fn wait_applied(&self, _: LogIndex) -> BoxFuture<'_, Result<(), AgreementError>> {
        Box::pin(async { Ok(()) })
    }

    fn applied(&self) -> AppliedWatch {
        self.world.applied.subscribe()
    }

    fn visible(&self) -> LogIndex {
        *self.world.applied.borrow()
    }

    fn leased(&self) -> Option<LogIndex> {
        None
    }

    fn leader(&self) -> Option<MemberId> {
        Some(MemberId(1))
    }
}

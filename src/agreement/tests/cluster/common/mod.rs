//! A cluster in one process: a network in memory, disks in memory, virtual time.
#![allow(dead_code, clippy::unwrap_used)]

use bytes::Bytes;
use hydfs_agreement::{Group, Options, Retention, StateMachine, Timing};
use hydfs_store::{Crash, LogOptions, MemDisk, SyncMode};
use hydfs_types::{
    Agreement, BoxFuture, Command, CommandError, Envelope, Frame, Incarnation, LogIndex, MemberId,
    Net, NetError, Peer, Reply, SessionId, Time,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// One way through the network.
const HOP: Duration = Duration::from_micros(300);

pub fn addr(member: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, member as u8], 7000))
}

/// Who is reachable, and what a test wants to happen on the way.
#[derive(Default)]
pub struct Wires {
    serving: BTreeMap<SocketAddr, Weak<Group>>,
    /// Frames between these two are swallowed.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Answers to these requests are swallowed this many more times: (first bytes of the head, how often).
    lose_answers: Option<(u8, u32)>,
    /// Such requests to that member are swallowed.
    lose_requests: Option<(u8, SocketAddr)>,
    /// Requests that each node works on.
    in_hand: BTreeMap<SocketAddr, usize>,
    /// Requests seen, by the variant of their message.
    seen: BTreeMap<u8, u64>,
}

/// Variants of requests, as they lie on the wire behind the version.
pub const APPEND: u8 = 1;
pub const PIECE: u8 = 4;
pub const PROPOSE: u8 = 6;
/// A barrier and a lease.
pub const LEASE: u8 = 8;

pub struct MemNet {
    pub me: SocketAddr,
    pub wires: Arc<Mutex<Wires>>,
}

impl Net for MemNet {
    fn call(
        &self,
        to: SocketAddr,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let (me, wires) = (self.me, self.wires.clone());
        Box::pin(async move {
            let lost = NetError::TimedOut {
                addr: to,
                millis: deadline.as_millis() as u64,
            };
            match timeout(deadline, carry(me, to, frame, wires)).await {
                Ok(answer) => answer,
                Err(_) => Err(lost),
            }
        })
    }

    fn send_datagram(&self, _: SocketAddr, _: Bytes) {}

    fn local_addr(&self) -> SocketAddr {
        self.me
    }
}

async fn carry(
    me: SocketAddr,
    to: SocketAddr,
    frame: Frame,
    wires: Arc<Mutex<Wires>>,
) -> Result<Frame, NetError> {
    sleep(HOP).await;
    let variant = frame.head[2];
    let (swallowed, group) = {
        let mut wires = wires.lock().unwrap();
        *wires.seen.entry(variant).or_default() += 1;
        (
            wires.cut.contains(&(me, to)) || wires.lose_requests == Some((variant, to)),
            wires.serving.get(&to).and_then(Weak::upgrade),
        )
    };
    if swallowed {
        return std::future::pending().await;
    }
    let Some(group) = group else {
        return Err(NetError::Unreachable {
            addr: to,
            why: "nobody serves there".into(),
        });
    };
    let from = Peer {
        name: me.to_string(),
        addr: me,
        member: None,
    };
    // A task of its own, as at a real server: it goes on though the caller goes away.
    let hand = |change: isize| {
        let mut wires = wires.lock().unwrap();
        let in_hand = wires.in_hand.entry(to).or_default();
        *in_hand = in_hand.saturating_add_signed(change);
    };
    hand(1);
    let answer = tokio::spawn(async move { group.serve(frame, from).await }).await;
    hand(-1);
    sleep(HOP).await;
    let lost = {
        let mut wires = wires.lock().unwrap();
        let swallowed = match &mut wires.lose_answers {
            Some((kind, left)) if *kind == variant && *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        };
        swallowed || wires.cut.contains(&(to, me))
    };
    if lost {
        return std::future::pending().await;
    }
    answer.map_err(|error| NetError::Broken {
        addr: to,
        why: error.to_string(),
    })
}

/// The state machine refuses everything of this incarnation.
pub const ENDED: Incarnation = Incarnation(99);
/// The state machine does a command of this incarnation once, and refuses it when it comes again.
pub const ENDS_AFTER: Incarnation = Incarnation(98);

/// A state machine that remembers: each command once, in order, and every time it was asked to apply it.
#[derive(Clone, Default)]
pub struct List(pub Arc<Mutex<Kept>>);

#[derive(Clone, Default, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    pub index: LogIndex,
    pub values: Vec<String>,
    pub answered: BTreeSet<(SessionId, u64)>,
    /// Identities as they arrived, retries included.
    pub arrived: Vec<(SessionId, u64)>,
    pub times: Vec<Time>,
    pub restored: u64,
}

impl StateMachine for List {
    fn apply(&mut self, index: LogIndex, envelope: Envelope) -> Result<Reply, CommandError> {
        let mut kept = self.0.lock().unwrap();
        assert!(kept.index < index, "{index} after {}", kept.index);
        kept.index = index;
        kept.times.push(envelope.time);
        let identity = (envelope.session, envelope.seq);
        kept.arrived.push(identity);
        let again = kept.answered.contains(&identity);
        if envelope.incarnation == ENDED || envelope.incarnation == ENDS_AFTER && again {
            return Err(CommandError::Ended(envelope.incarnation));
        }
        let value = match envelope.command {
            Command::Set { value, .. } => value,
            Command::Admit(said) => return Err(CommandError::Admission(said.name)),
            _ => return Err(CommandError::NoJob),
        };
        if identity.1 == 0 || kept.answered.insert(identity) {
            kept.values.push(value);
        }
        Ok(Reply::Done)
    }

    fn skip(&mut self, index: LogIndex) {
        self.0.lock().unwrap().index = index;
    }

    fn snapshot(&self) -> Vec<u8> {
        hydfs_types::encode(&*self.0.lock().unwrap()).to_vec()
    }

    fn restore(&mut self, bytes: &[u8], index: LogIndex) -> Result<(), String> {
        let mut kept: Kept = hydfs_types::decode(bytes).map_err(|error| error.to_string())?;
        assert_eq!(kept.index, index);
        kept.restored += 1;
        *self.0.lock().unwrap() = kept;
        Ok(())
    }
}

struct FixedClock(AtomicU64);

impl hydfs_types::Clock for FixedClock {
    fn now(&self) -> Time {
        Time {
            sec: self.0.fetch_add(1, Ordering::Relaxed) as i64,
            nsec: 0,
        }
    }
}

pub struct Node {
    pub id: MemberId,
    pub disk: MemDisk,
    pub group: Option<Arc<Group>>,
    pub list: List,
    lives: u64,
}

impl Node {
    pub fn group(&self) -> &Arc<Group> {
        self.group.as_ref().expect("the node runs")
    }

    pub fn values(&self) -> Vec<String> {
        self.list.0.lock().unwrap().values.clone()
    }

    pub fn kept(&self) -> Kept {
        self.list.0.lock().unwrap().clone()
    }

    pub async fn put(&self, value: &str) {
        self.group().propose(set(value)).await.unwrap();
    }
}

pub fn set(value: &str) -> Command {
    Command::Set {
        key: "k".into(),
        value: value.into(),
    }
}

pub struct Cluster {
    pub wires: Arc<Mutex<Wires>>,
    pub nodes: BTreeMap<u64, Node>,
    pub retention: Retention,
    pub seed: u64,
    /// What a sync takes on the disks of nodes that start from now on.
    pub sync: Duration,
}

impl Cluster {
    /// Nodes 1 to `count`, all voters, node 1 leading.
    pub async fn start(count: u64, seed: u64) -> Self {
        Self::start_with(count, seed, Retention::default()).await
    }

    pub async fn start_with(count: u64, seed: u64, retention: Retention) -> Self {
        let mut this = Self {
            wires: Arc::default(),
            nodes: BTreeMap::new(),
            retention,
            seed,
            sync: Duration::from_micros(500),
        };
        for id in 1..=count {
            this.add(id).await;
        }
        let first = this.group(1).clone();
        first.bootstrap().await.unwrap();
        this.until("node 1 leads", |this| this.group(1).is_leader())
            .await;
        for id in 2..=count {
            first.add_learner(MemberId(id), addr(id)).await.unwrap();
        }
        if count > 1 {
            first
                .set_voters((1..=count).map(MemberId).collect())
                .await
                .unwrap();
        }
        this
    }

    /// A new node that is part of nothing.
    pub async fn add(&mut self, id: u64) {
        let node = Node {
            id: MemberId(id),
            disk: MemDisk::new(self.seed + id),
            group: None,
            list: List::default(),
            lives: 0,
        };
        self.nodes.insert(id, node);
        self.run(id).await;
    }

    /// Starts a node that does not run.
    pub async fn run(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.lives += 1;
        node.list = List::default();
        let sync = SyncMode::Inline { delay: self.sync };
        let options = Options {
            me: node.id,
            disk: node.disk.attach(),
            dir: "raft".into(),
            log: LogOptions {
                file_bytes: 8 << 20,
                spares: 1,
                salt: id,
                sync,
            },
            net: Arc::new(MemNet {
                me: addr(id),
                wires: self.wires.clone(),
            }),
            resolve: Arc::new(|member| Some(addr(member.0))),
            clock: Arc::new(FixedClock(AtomicU64::new(1000))),
            timing: Timing::default(),
            retention: self.retention,
            session: SessionId(id * 1000 + node.lives),
            kept: None,
            seed: self.seed * 100 + id * 10 + node.lives,
            planted: None,
        };
        let group = Group::start(options, Box::new(node.list.clone()))
            .await
            .unwrap();
        group.set_incarnation(Incarnation(id), 1);
        self.wires
            .lock()
            .unwrap()
            .serving
            .insert(addr(id), Arc::downgrade(&group));
        node.group = Some(group);
    }

    /// Ends a node as a kill or a power cut does.
    pub fn crash(&mut self, id: u64, how: Crash) {
        self.wires.lock().unwrap().serving.remove(&addr(id));
        let node = self.nodes.get_mut(&id).unwrap();
        node.disk.crash(how);
        node.group = None;
    }

    pub fn group(&self, id: u64) -> &Arc<Group> {
        self.nodes[&id].group()
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    /// Who leads, as seen by the running nodes that hear of a leader that runs.
    pub fn leader(&self) -> Option<u64> {
        let running = || self.nodes.values().filter(|node| node.group.is_some());
        running()
            .find(|node| node.group().leads_within(Duration::from_millis(400)))
            .map(|node| node.id.0)
    }

    /// Cuts a node off from all others, both ways, without anybody being told.
    pub fn isolate(&self, id: u64) {
        let mut wires = self.wires.lock().unwrap();
        for other in self.nodes.keys().filter(|other| **other != id) {
            wires.cut.insert((addr(id), addr(*other)));
            wires.cut.insert((addr(*other), addr(id)));
        }
    }

    /// Swallows what goes from one node to another, one way.
    pub fn cut(&self, from: u64, to: u64) {
        self.wires
            .lock()
            .unwrap()
            .cut
            .insert((addr(from), addr(to)));
    }

    /// From now on a node also answers at the address of another.
    pub fn serve_also(&self, id: u64, at: u64) {
        let group = Arc::downgrade(self.group(id));
        self.wires.lock().unwrap().serving.insert(addr(at), group);
    }

    pub fn heal(&self) {
        let mut wires = self.wires.lock().unwrap();
        wires.cut.clear();
        wires.lose_requests = None;
    }

    pub fn lose_answers(&self, variant: u8, times: u32) {
        self.wires.lock().unwrap().lose_answers = Some((variant, times));
    }

    /// Swallows such requests to a node; `heal` ends it.
    pub fn lose_requests(&self, variant: u8, to: u64) {
        self.wires.lock().unwrap().lose_requests = Some((variant, addr(to)));
    }

    /// Requests that a node works on.
    pub fn in_hand(&self, id: u64) -> usize {
        let wires = self.wires.lock().unwrap();
        wires.in_hand.get(&addr(id)).copied().unwrap_or(0)
    }

    pub fn seen(&self, variant: u8) -> u64 {
        self.wires
            .lock()
            .unwrap()
            .seen
            .get(&variant)
            .copied()
            .unwrap_or(0)
    }

    /// Waits for a condition, at most 30 s of virtual time.
    pub async fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(Duration::from_secs(30), waiting).await.is_err() {
            panic!("never: {what} (seed {})", self.seed);
        }
    }

    /// Waits until there is a leader that a majority follows.
    pub async fn elected(&self) -> u64 {
        self.until("a leader", |this| this.leader().is_some()).await;
        self.leader().unwrap()
    }
}

//! What the network in memory knows: who lives where, how links behave, what was sent, and the hash of all deliveries.

use hydfs_types::{Handler, MemberId, Peer, Service};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

/// A request that is served twice comes again within this.
const AGAIN_MILLIS: u64 = 2_000;

/// How one direction between two members behaves. Chances are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    pub latency: Duration,
    /// Up to this much is added to each delivery, so later messages may overtake.
    pub jitter: Duration,
    pub datagram_loss: f64,
    /// Chance that a datagram arrives twice.
    pub datagram_twice: f64,
    /// Chance that a request is served twice, the second time up to two seconds later; nobody hears that answer.
    pub request_twice: f64,
    /// Chance that a request is lost before it is served.
    pub request_loss: f64,
    /// Chance that an answer is lost after its request was served.
    pub reply_loss: f64,
}

impl Default for Link {
    fn default() -> Self {
        let (latency, jitter) = (Duration::from_millis(1), Duration::ZERO);
        Self {
            latency,
            jitter,
            datagram_loss: 0.0,
            datagram_twice: 0.0,
            request_twice: 0.0,
            request_loss: 0.0,
            reply_loss: 0.0,
        }
    }
}

/// What was sent so far, for tests of costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Requests by service, in the order of [`Service`].
    pub requests: [u64; 4],
    pub datagrams: u64,
    /// Bytes of requests, answers and datagrams.
    pub bytes: u64,
}

impl Sent {
    /// Requests of one service.
    pub fn requests_of(&self, service: Service) -> u64 {
        self.requests[service as usize - 1]
    }
}

pub(crate) struct State {
    pub(crate) rng: SmallRng,
    pub(crate) members: BTreeMap<SocketAddr, Member>,
    pub(crate) lives: u64,
    pub(crate) usual: Link,
    pub(crate) links: BTreeMap<(SocketAddr, SocketAddr), Link>,
    pub(crate) cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    /// What goes to or from them waits.
    pub(crate) held: BTreeSet<SocketAddr>,
    /// Group by member while there is a partition; those not named are group 0.
    pub(crate) groups: BTreeMap<SocketAddr, usize>,
    pub(crate) sent: Sent,
    pub(crate) trace: u64,
    pub(crate) deliveries: u64,
}

pub(crate) struct Member {
    pub(crate) life: u64,
    pub(crate) name: String,
    pub(crate) id: Option<MemberId>,
    pub(crate) handler: Arc<dyn Handler>,
    /// Calls being served; they end with the member.
    pub(crate) serving: JoinSet<()>,
}

/// One direction between two lives; what is on its way when either ends arrives nowhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) from: (SocketAddr, u64),
    pub(crate) to: (SocketAddr, u64),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Request,
    Reply,
    Datagram,
}

impl State {
    /// No members, perfect links.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            members: BTreeMap::new(),
            lives: 0,
            usual: Link::default(),
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            held: BTreeSet::new(),
            groups: BTreeMap::new(),
            sent: Sent::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            deliveries: 0,
        }
    }

    /// The life at `addr`.
    pub(crate) fn life(&self, addr: SocketAddr) -> Option<u64> {
        self.members.get(&addr).map(|member| member.life)
    }

    pub(crate) fn peer(&self, addr: SocketAddr) -> Option<Peer> {
        self.members.get(&addr).map(|member| Peer {
            name: member.name.clone(),
            addr,
            member: member.id,
        })
    }

    /// Both lives go on and nothing is cut between them.
    pub(crate) fn open(&self, path: Path) -> bool {
        let group = |addr| self.groups.get(&addr).copied().unwrap_or(0);
        let (from, to) = (path.from.0, path.to.0);
        self.life(from) == Some(path.from.1)
            && self.life(to) == Some(path.to.1)
            && !self.cuts.contains(&(from, to))
            && group(from) == group(to)
    }

    /// The delay of a message, or None where it is lost at once. Draws equally often either way.
    pub(crate) fn send(&mut self, path: Path, kind: Kind, bytes: usize) -> Option<Duration> {
        self.sent.bytes += bytes as u64;
        let link = self.link(path);
        let loss = match kind {
            Kind::Request => link.request_loss,
            Kind::Reply => link.reply_loss,
            Kind::Datagram => link.datagram_loss,
        };
        let lost = self.rng.random_bool(loss.clamp(0.0, 1.0));
        let jitter = self.rng.random_range(0..=link.jitter.as_micros() as u64);
        (!lost && self.open(path)).then(|| link.latency + Duration::from_micros(jitter))
    }

    /// How much later a request comes a second time, if it does.
    pub(crate) fn again(&mut self, path: Path) -> Option<Duration> {
        let twice = self.link(path).request_twice.clamp(0.0, 1.0);
        if twice == 0.0 || !self.rng.random_bool(twice) {
            return None;
        }
        let later = self.rng.random_range(0..=AGAIN_MILLIS);
        Some(Duration::from_millis(later))
    }

    pub(crate) fn link(&self, path: Path) -> Link {
        self.links
            .get(&(path.from.0, path.to.0))
            .copied()
            .unwrap_or(self.usual)
    }

    pub(crate) fn note(&mut self, words: &[u64]) {
        for word in words {
            // FNV-1a by words, turned so that high bits reach low ones.
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(23);
        }
    }

    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        self.note(&[bytes.len() as u64]);
        for word in words {
            self.note(&[u64::from_le_bytes(*word)]);
        }
        rest.iter().for_each(|byte| self.note(&[u64::from(*byte)]));
    }
}

pub(crate) fn hash_addr(addr: SocketAddr) -> u64 {
    let ip = match addr.ip() {
        std::net::IpAddr::V4(ip) => u128::from(u32::from(ip)),
        std::net::IpAddr::V6(ip) => u128::from(ip),
    };
    (ip as u64 ^ (ip >> 64) as u64) << 16 ^ u64::from(addr.port())
}

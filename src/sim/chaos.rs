//! Everything at once: faults of all kinds by seed, overlapping, without waiting for the cluster to recover. What they
//! may take together is what is promised: machines lose power while no more than `copies - 1` are hurt, or all of them
//! do at the same moment.

use crate::{Link, host::SYNC, story::Story};
use hydfs_store::{Crash, DiskOp, Fault};
use rand::RngExt;
use std::{collections::BTreeSet, fmt, net::SocketAddr, time::Duration};
use tokio::time::Instant;

/// Longest wait for a drain, which other faults may hold up, and how often it is looked at.
const DRAIN: Duration = Duration::from_secs(20);
const DRAIN_LOOK: Duration = Duration::from_millis(200);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A process is killed and comes back.
    Kill,
    /// A machine loses power, with or without torn writes, and comes back.
    Power,
    /// All machines lose power at once.
    Blackout,
    /// Links are cut: one way, some of them, or a group from the rest.
    Cut,
    /// A process is stopped for a while; what was sent to it and by it arrives late.
    Hold,
    /// Messages are lost, late, overtake each other and come twice.
    Lossy,
    /// Wall clocks jump.
    Clock,
    /// Disks are full for a while.
    Full,
    /// Some machines come back with a slow disk.
    Slow,
    /// Syncs fail, and what they could not write may be lost; the process is started again.
    Eio,
    /// A new member comes.
    Join,
    /// A member leaves for ever, with or without its copies moved first; or they are moved, and it stays.
    Leave,
    /// A worker is killed, and its supervisor starts another one: users notice nothing but the wait.
    Worker,
    /// Bits flip in bases on a disk, or in their checksums.
    Flip,
    /// The network falls into pieces of which none has a majority, for longer than anybody waits for one.
    Apart,
}

/// Which kinds there are in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults(u16);

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Kill,
        Self::Power,
        Self::Blackout,
        Self::Cut,
        Self::Hold,
        Self::Lossy,
        Self::Clock,
        Self::Full,
        Self::Slow,
        Self::Eio,
        Self::Join,
        Self::Leave,
        Self::Worker,
        Self::Flip,
        Self::Apart,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Power => "power",
            Self::Blackout => "blackout",
            Self::Cut => "cut",
            Self::Hold => "hold",
            Self::Lossy => "lossy",
            Self::Clock => "clock",
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Eio => "eio",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Worker => "worker",
            Self::Flip => "flip",
            Self::Apart => "apart",
        }
    }
}

impl Faults {
    /// Every kind but the last two, which have not run over enough seeds yet (docs/RELIABILITY.md, "Runs").
    pub const ALL: Self = Self((1 << Kind::Flip as u16) - 1);
    /// Those, too.
    const NAMED: Self = Self((1 << Kind::ALL.len()) - 1);

    /// From names with commas between.
    ///
    /// # Errors
    /// A text that says which name is not known, and which are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self(0);
        for word in text
            .split(',')
            .filter(|word| !word.is_empty() && *word != "none")
        {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == word);
            let kind = kind.ok_or_else(|| {
                format!(
                    "there is no kind of fault {word}; there are {}",
                    Self::NAMED
                )
            })?;
            faults.0 |= 1 << kind as u16;
        }
        Ok(faults)
    }

    /// Whether this kind is one of them.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    /// The same without this kind.
    pub fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << kind as u16))
    }

    /// Those that there are.
    pub fn kinds(self) -> Vec<Kind> {
        Kind::ALL
            .into_iter()
            .filter(|kind| self.has(*kind))
            .collect()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.kinds().into_iter().map(Kind::name).collect();
        if names.is_empty() {
            return write!(f, "none");
        }
        write!(f, "{}", names.join(","))
    }
}

/// What ends a fault.
enum End {
    Start(usize),
    Mend(Vec<(SocketAddr, SocketAddr)>),
    Release(usize),
    Link,
    Room(usize),
    Replace(usize),
    /// Flipped bits are healed once the member has looked at everything this often.
    Heal(usize, u64),
    /// A drain is taken back.
    Stay(usize),
}

/// What is wrong now.
struct Chaos<'a> {
    story: &'a mut Story,
    ends: Vec<(Instant, End)>,
    /// Machines that something was done to since all was well, and those of them that lost power.
    hurt: BTreeSet<usize>,
    lost: BTreeSet<usize>,
}

/// Runs until `until`; ends and repairs everything then.
pub async fn chaos(story: &mut Story, faults: Faults, until: Instant) {
    let mut chaos = Chaos {
        story,
        ends: Vec::new(),
        hurt: BTreeSet::new(),
        lost: BTreeSet::new(),
    };
    let kinds = faults.kinds();
    while Instant::now() < until && !chaos.story.over() {
        let pause = Duration::from_millis(chaos.story.world.rng.random_range(50..2500));
        chaos.pass(until.min(Instant::now() + pause)).await;
        if !kinds.is_empty() {
            let kind = kinds[chaos.story.world.rng.random_range(0..kinds.len())];
            chaos.begin(kind, faults).await;
        }
    }
    for (_, end) in std::mem::take(&mut chaos.ends) {
        chaos.end(end).await;
    }
    for host in &mut chaos.story.world.hosts {
        host.sync = SYNC;
    }
}

impl Chaos<'_> {
    /// Lets time pass; faults end when they are due.
    async fn pass(&mut self, until: Instant) {
        while Instant::now() < until {
            let next = self.ends.iter().map(|(at, _)| *at).min();
            let next = next.unwrap_or(until).min(until);
            let span = next.saturating_duration_since(Instant::now());
            self.story.world.run(span).await;
            let now = Instant::now();
            let due = self.ends.extract_if(.., |(at, _)| *at <= now);
            for (_, end) in due.collect::<Vec<_>>() {
                self.end(end).await;
            }
            if self.ends.is_empty() && self.story.world.trouble().is_none() {
                self.hurt.clear();
                self.lost.clear();
            }
        }
    }

    fn later(&mut self, millis: std::ops::Range<u64>, end: End) {
        let span = Duration::from_millis(self.story.world.rng.random_range(millis));
        self.ends.push((Instant::now() + span, end));
    }

    async fn end(&mut self, end: End) {
        let world = &mut self.story.world;
        match end {
            End::Heal(host, passes) => self.heal(host, passes),
            End::Stay(host) => self.stay(host).await,
            End::Start(host) => {
                if world.hosts[host].life.is_none() && !world.hosts[host].gone {
                    world.hosts[host].start();
                    let name = world.hosts[host].name.clone();
                    self.story.tell(format!("{name} starts again"));
                }
            }
            End::Mend(links) => {
                for (from, to) in links {
                    world.net.mend(from, to);
                }
                self.story.tell("links are whole".into());
            }
            End::Release(host) => {
                world.net.release(world.hosts[host].addr);
                let name = world.hosts[host].name.clone();
                self.story.tell(format!("{name} goes on"));
            }
            End::Link => {
                world.net.set_usual_link(Link::default());
                self.story.tell("messages arrive as usual".into());
            }
            End::Room(host) => {
                world.hosts[host].disk.set_capacity(None);
                let name = world.hosts[host].name.clone();
                self.story.tell(format!("{name} has room again"));
            }
            End::Replace(host) => {
                world.hosts[host].disk.heal();
                let name = world.hosts[host].name.clone();
                self.story
                    .tell(format!("{name}: its disk is whole, it is started again"));
                // Its supervisor has waited for that with the mount, or has given up and is started again by somebody.
                if self.story.world.rng.random() {
                    self.story.world.crash(host, Crash::Kill).await;
                } else if self.story.world.hosts[host].life.is_some() {
                    self.story.world.kill_worker(host).await;
                }
                self.story.world.hosts[host].start();
            }
        }
    }

    /// A machine that runs, with its name.
    fn pick(&mut self) -> Option<(usize, String)> {
        let world = &mut self.story.world;
        let up: Vec<usize> = (0..world.hosts.len())
            .filter(|at| world.hosts[*at].member().is_some())
            .collect();
        let leader = world.leader().filter(|_| world.rng.random_bool(0.3));
        if up.is_empty() {
            return None;
        }
        let any = up[world.rng.random_range(0..up.len())];
        let host = leader.unwrap_or(any);
        Some((host, world.hosts[host].name.clone()))
    }

    /// Whether these may be hurt, too; then they are.
    fn may(&mut self, hosts: &[usize], power: bool) -> bool {
        let hurt: BTreeSet<usize> = self.hurt.iter().chain(hosts).copied().collect();
        let losing = power || !self.lost.is_empty();
        if losing && hurt.len() >= usize::from(self.story.world.copies) {
            return false;
        }
        self.hurt = hurt;
        if power {
            self.lost.extend(hosts);
        }
        true
    }

    async fn begin(&mut self, kind: Kind, faults: Faults) {
        let Some((host, name)) = self.pick() else {
            return;
        };
        match kind {
            Kind::Kill if self.may(&[host], false) => {
                self.crash(host, &name, Crash::Kill, faults).await;
            }
            Kind::Worker if self.may(&[host], false) => {
                self.story.tell(format!("{name}: its worker is killed"));
                self.story.world.kill_worker(host).await;
                // Long enough to be expired, now and then.
                let long = self.story.world.rng.random_range(0..5) == 0;
                let down = if long { 1000..6000 } else { 5..300 };
                self.later(down, End::Start(host));
            }
            Kind::Power if self.may(&[host], true) => {
                let torn = self.story.world.rng.random();
                let how = if torn {
                    Crash::PowerCutTorn
                } else {
                    Crash::PowerCut
                };
                self.crash(host, &name, how, faults).await;
            }
            // What flipped and was not found before is in nobody's promise then (docs/RELIABILITY.md, "Open").
            Kind::Blackout
                if self.story.world.flipped.is_empty()
                    && self.story.world.rng.random_range(0..3) == 0 =>
            {
                self.blackout(faults).await;
            }
            Kind::Cut => self.cut(host, &name),
            Kind::Hold if self.may(&[host], false) => {
                self.story.tell(format!("{name} is stopped"));
                self.story.world.net.hold(self.story.world.hosts[host].addr);
                self.later(500..8000, End::Release(host));
            }
            Kind::Lossy => self.lossy(),
            Kind::Clock => {
                let off = self.story.world.rng.random_range(-20_000..20_000);
                self.story
                    .tell(format!("{name}: its clock is {off} ms off"));
                self.story.world.hosts[host].set_clock(off);
            }
            Kind::Full => {
                let disk = &self.story.world.hosts[host].disk;
                disk.set_capacity(Some(disk.used()));
                self.story.tell(format!("{name}: its disk is full"));
                self.later(500..5000, End::Room(host));
            }
            // What was not synced may be gone, as after a power loss.
            Kind::Eio if self.may(&[host], true) => {
                self.story.tell(format!("{name}: syncs fail"));
                self.story.world.hosts[host].disk.inject(Fault {
                    op: DiskOp::Sync,
                    path: String::new(),
                    skip: 0,
                    times: u32::MAX,
                    errno: libc::EIO,
                });
                self.later(500..6000, End::Replace(host));
            }
            Kind::Join => self.join(),
            Kind::Flip if self.may(&[host], true) => self.flip(host, &name, faults).await,
            Kind::Apart if self.story.world.rng.random_range(0..4) == 0 => self.apart(),
            Kind::Leave if self.hurt.is_empty() => self.leave(host, &name).await,
            _ => {}
        }
    }

    async fn crash(&mut self, host: usize, name: &str, how: Crash, faults: Faults) {
        self.story.tell(format!("{name}: {how:?}"));
        self.story.world.crash(host, how).await;
        self.slow(host, faults);
        self.later(50..7000, End::Start(host));
    }

    fn slow(&mut self, host: usize, faults: Faults) {
        let world = &mut self.story.world;
        let slow = faults.has(Kind::Slow) && world.rng.random_range(0..4) == 0;
        world.hosts[host].sync = if slow {
            Duration::from_millis(world.rng.random_range(20..200))
        } else {
            SYNC
        };
    }

    async fn blackout(&mut self, faults: Faults) {
        self.story.tell("all machines lose power".into());
        let hosts: Vec<usize> = (0..self.story.world.hosts.len())
            .filter(|at| self.story.world.hosts[*at].life.is_some())
            .collect();
        self.story.world.blackout().await;
        for host in hosts {
            self.hurt.insert(host);
            self.lost.insert(host);
            self.slow(host, faults);
            self.later(100..3000, End::Start(host));
        }
    }

    fn cut(&mut self, host: usize, name: &str) {
        let world = &mut self.story.world;
        let addrs: Vec<SocketAddr> = world.hosts.iter().map(|host| host.addr).collect();
        let near: Vec<usize> = match world.rng.random_range(0..3) {
            0 if addrs.len() > 3 => vec![host, (host + 1) % addrs.len()],
            _ => vec![host],
        };
        let way = world.rng.random_range(0..3);
        let share = [0.3, 1.0][world.rng.random_range(0..2)];
        let mut links = Vec::new();
        for one in &near {
            for other in (0..addrs.len()).filter(|other| !near.contains(other)) {
                if !world.rng.random_bool(share) {
                    continue;
                }
                if way != 1 {
                    links.push((addrs[*one], addrs[other]));
                }
                if way != 0 {
                    links.push((addrs[other], addrs[*one]));
                }
            }
        }
        if links.is_empty() || !self.may(&near, false) {
            return;
        }
        let way = ["not heard by", "not hearing", "cut off from"][way];
        self.story.tell(format!(
            "{name} and {} more: {way} others over {} links",
            near.len() - 1,
            links.len()
        ));
        for (from, to) in &links {
            self.story.world.net.cut(*from, *to);
        }
        self.later(300..9000, End::Mend(links));
    }

    fn apart(&mut self) {
        let world = &self.story.world;
        let addrs: Vec<SocketAddr> = world.hosts.iter().map(|host| host.addr).collect();
        let hosts: Vec<usize> = (0..addrs.len()).collect();
        // Three and five members have as many voters.
        let piece = if addrs.len() < 5 { 1 } else { 2 };
        let apart = |one: usize, other: usize| one / piece != other / piece;
        let links: Vec<_> = hosts
            .iter()
            .flat_map(|one| hosts.iter().map(move |other| (*one, *other)))
            .filter(|(one, other)| apart(*one, *other))
            .map(|(one, other)| (addrs[one], addrs[other]))
            .collect();
        if !self.may(&hosts, false) {
            return;
        }
        self.story
            .tell(format!("the network is in pieces of {piece}"));
        for (from, to) in &links {
            self.story.world.net.cut(*from, *to);
        }
        self.later(14_000..24_000, End::Mend(links));
    }

    fn lossy(&mut self) {
        let rng = &mut self.story.world.rng;
        let loss = rng.random_range(0.0..0.2);
        let link = Link {
            latency: Duration::from_micros(rng.random_range(200..5000)),
            jitter: Duration::from_millis(rng.random_range(0..80)),
            datagram_loss: loss,
            datagram_twice: rng.random_range(0.0..0.2),
            request_twice: rng.random_range(0.0..0.05),
            request_loss: loss / 2.0,
            reply_loss: loss / 2.0,
        };
        self.story.world.net.set_usual_link(link);
        self.story.tell(format!(
            "{:.0} % of all messages are lost, others are late or come twice",
            loss * 100.0
        ));
        self.later(500..5000, End::Link);
    }

    fn join(&mut self) {
        let world = &mut self.story.world;
        if let Some(host) = world.hosts.iter_mut().find(|host| !host.is_used()) {
            host.start();
            let name = host.name.clone();
            self.story.tell(format!("{name} joins"));
        }
    }

    async fn leave(&mut self, host: usize, name: &str) {
        let world = &mut self.story.world;
        let staying = world
            .hosts
            .iter()
            .filter(|host| host.is_used() && !host.gone);
        if staying.count() <= usize::from(world.copies) + 1 || world.trouble().is_some() {
            return;
        }
        match world.rng.random_range(0..4) {
            0 => {
                world.drain(host, true).await;
                self.story.tell(format!("{name} is drained"));
                self.later(500..8000, End::Stay(host));
            }
            1 => {
                if world.leave(host).await {
                    self.hurt.insert(host);
                    self.story.tell(format!("{name} has left for ever"));
                }
            }
            _ => self.leave_drained(host, name).await,
        }
    }

    async fn stay(&mut self, host: usize) {
        let name = self.story.world.hosts[host].name.clone();
        if self.story.world.drain(host, false).await {
            self.story.tell(format!("{name}: its drain is taken back"));
        } else if !self.story.world.hosts[host].gone {
            self.later(500..1000, End::Stay(host));
        }
    }

    /// Leaves once nothing would be short of copies; none is then.
    async fn leave_drained(&mut self, host: usize, name: &str) {
        self.story.world.drain(host, true).await;
        self.story
            .tell(format!("{name} is drained before it leaves"));
        let until = Instant::now() + DRAIN;
        while !self.story.world.is_drained(host).await {
            if Instant::now() > until || self.story.over() {
                self.story
                    .tell(format!("{name} has copies that others have not: it stays"));
                return self.stay(host).await;
            }
            self.pass(Instant::now() + DRAIN_LOOK).await;
        }
        if self.story.world.leave_drained(host).await {
            self.story
                .tell(format!("{name} has left for ever, drained"));
        } else {
            self.later(500..1000, End::Stay(host));
        }
    }

    /// Bits flip in the bases of one machine; of a process that is down in their checksums, too, which a running one reads
    /// no more.
    async fn flip(&mut self, host: usize, name: &str, faults: Faults) {
        let killed = faults.has(Kind::Kill) && self.story.world.rng.random_range(0..3) == 0;
        if killed {
            self.story.world.crash(host, Crash::Kill).await;
            self.later(50..3000, End::Start(host));
        }
        let world = &mut self.story.world;
        let disk = &world.hosts[host].disk;
        let may = |(path, len): &(String, u64)| {
            *len > 0 && !path.contains("/tmp/") && (killed || !path.ends_with(".sum"))
        };
        let files: Vec<_> = disk.files("base").into_iter().filter(may).collect();
        if files.is_empty() {
            return;
        }
        let how = if killed { " while it is killed" } else { "" };
        let mut flipped = Vec::new();
        for _ in 0..world.rng.random_range(1..=3) {
            let (path, len) = &files[world.rng.random_range(0..files.len())];
            let offset = world.rng.random_range(0..*len);
            let bit = world.rng.random_range(0..8);
            if disk.flip_bit(path, offset, bit).is_ok() {
                flipped.push(format!("bit {bit} of byte {offset} of {path}"));
            }
        }
        if flipped.is_empty() {
            return;
        }
        world.flips = true;
        world.flipped.insert(host);
        let passes = world.hosts[host]
            .member()
            .map_or(0, |member| member.data.replica.health.pass().passes);
        let what = format!("{name}: {} flips{how}", flipped.join(", "));
        self.story.tell(what);
        self.later(1000..2000, End::Heal(host, passes + 2));
    }

    /// A pass that was under way may have been past the damage.
    fn heal(&mut self, host: usize, passes: u64) {
        let world = &mut self.story.world;
        let done = world.hosts[host].member().map(|member| {
            let health = &member.data.replica.health;
            (health.pass().passes, health.lost().is_empty())
        });
        match done {
            _ if world.hosts[host].gone => drop(world.flipped.remove(&host)),
            Some((done, true)) if done >= passes => {
                world.flipped.remove(&host);
                let name = world.hosts[host].name.clone();
                self.story.tell(format!("{name} has healed its disk"));
            }
            _ => self.later(1000..2000, End::Heal(host, passes)),
        }
    }
}

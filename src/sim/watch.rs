//! The oracle behind the scenes: hears what members tell each other and looks at what they hold, and reports what breaks
//! an invariant before any user could notice. It never changes anything.
//!
//! By ear: I6, I7, I8, I9, at the moment of each answer. By sight, every few milliseconds: I1, I2 (with the autopsies), I3,
//! I7, I11. What users see (I3, I4, I5, I8) is `oracle.rs`; what must hold when all is quiet (I12) is `quiet.rs`.

use crate::{host::Host, net::Tap, oracle::Oracle};
use hydfs_data::Lane;
use hydfs_node::Member;
use hydfs_state::{State, WriterPhase};
use hydfs_types::{
    DataRequest, DataResponse, Digest, Frame, Incarnation, Ino, LogIndex, MapVersion, MemberId,
    SegmentId, SegmentVersion, Seq, Service, SessionId, SlotConfig, SlotEpoch, SlotId, WriterId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// A request that is being served.
struct Asked {
    by: SocketAddr,
    request: DataRequest,
    /// The sender had been ended, as the server knew when the request came.
    ended: bool,
    /// Highest epoch of its slot that the server had answered at when the request came.
    promised: SlotEpoch,
}

#[derive(Default)]
struct Heard {
    members: BTreeMap<SocketAddr, Weak<Member>>,
    next: u64,
    asked: BTreeMap<u64, Asked>,
    /// Highest epoch that a machine has answered at (I6).
    promised: BTreeMap<(SocketAddr, SlotId), SlotEpoch>,
    /// How far writers have said that their lanes are acknowledged (I1).
    acknowledged: BTreeMap<(SegmentId, WriterId), Seq>,
}

/// What was seen of the agreed state.
#[derive(Default)]
struct Seen {
    map: MapVersion,
    configs: BTreeMap<SlotId, SlotConfig>,
    epochs: BTreeMap<(SlotId, SlotEpoch), SlotConfig>,
    cuts: BTreeMap<(SegmentId, SegmentVersion), (Digest, u64)>,
    bases: BTreeMap<(SegmentId, SegmentVersion), (Digest, u64, String)>,
    writers: BTreeMap<WriterId, (Ino, Incarnation)>,
    incarnations: BTreeMap<Incarnation, MemberId>,
    sessions: BTreeMap<SessionId, Incarnation>,
    /// Up to which entry each machine's state was looked at: it changes with its index alone.
    looked: BTreeMap<SocketAddr, LogIndex>,
    /// Copies, and whether the config was complete without them.
    held: BTreeMap<(SocketAddr, SegmentId), (SlotId, bool)>,
    /// Who was alive when a machine was last looked at, as it knew.
    alive: BTreeMap<SocketAddr, BTreeSet<Incarnation>>,
}

/// Watches one run.
pub struct Watch {
    oracle: Oracle,
    heard: Mutex<Heard>,
    seen: Mutex<Seen>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Reports to `oracle`.
    pub fn new(oracle: Oracle) -> Arc<Self> {
        Arc::new(Self {
            oracle,
            heard: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    fn must(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.oracle.report(what());
        }
    }

    /// The machine at `addr` is gone: what it was asked is not answered any more.
    pub fn gone(&self, addr: SocketAddr) {
        let mut heard = lock(&self.heard);
        heard.members.remove(&addr);
        heard.asked.retain(|_, asked| asked.by != addr);
        drop(heard);
        let mut seen = lock(&self.seen);
        seen.looked.remove(&addr);
        seen.held.retain(|(of, _), _| *of != addr);
        seen.alive.remove(&addr);
    }

    /// All machines lose power: what was acknowledged and not synced may be left on some of them (users know what was).
    pub fn blackout(&self) {
        lock(&self.heard).acknowledged.clear();
    }

    /// Looks at all members that serve.
    pub fn look(&self, hosts: &[Host]) {
        let members: Vec<Arc<Member>> = hosts.iter().filter_map(Host::member).collect();
        lock(&self.heard).members = members
            .iter()
            .map(|member| (member.config.advertise, Arc::downgrade(member)))
            .collect();
        for member in &members {
            self.look_at_bases(member);
            self.look_at_copies(member);
            let state = member.ctx.state();
            let before = lock(&self.seen)
                .looked
                .insert(member.config.advertise, state.index);
            if before != Some(state.index) {
                self.look_at_ids(&state);
            }
        }
        let newest = members.iter().max_by_key(|one| one.ctx.state().index);
        if let Some(newest) = newest {
            let state = newest.ctx.state();
            self.look_at_configs(&state);
            self.look_at_replicas(&state, &members);
        }
    }

    /// I3: the same segment and version is the same everywhere, at every moment.
    fn look_at_bases(&self, member: &Member) {
        let mut seen = lock(&self.seen);
        for (segment, local) in &member.data.replica.index().segments {
            let here = (local.digest, local.len);
            let first = seen
                .bases
                .entry((*segment, local.version))
                .or_insert_with(|| (here.0, here.1, member.config.name.clone()));
            self.must((first.0, first.1) == here, || {
                format!(
                    "I3: {segment} at {} differs between {} and {}: {} and {} bytes",
                    local.version, first.2, member.config.name, first.1, here.1
                )
            });
        }
    }

    /// R11: a copy goes only when those that the config names are complete, as the member knew: now, when it was last
    /// looked at, or in between, until some that lived then were ended.
    fn look_at_copies(&self, member: &Member) {
        let mut seen = lock(&self.seen);
        let (addr, state) = (member.config.advertise, member.ctx.state());
        let wanted = usize::from(state.cluster.copies).min(state.cluster.alive.len());
        let alive: BTreeSet<_> = state.cluster.alive.keys().copied().collect();
        let before = seen.alive.insert(addr, alive.clone()).unwrap_or_default();
        let ended = before.difference(&alive).count();
        let is_surplus = |slot: SlotId| {
            state.config(slot).is_some_and(|config| {
                config.role(member.ctx.me()).is_none() && config.synced().count() >= wanted
            })
        };
        let here: BTreeMap<_, _> = {
            let index = member.data.replica.index();
            let held = index.segments.iter();
            held.map(|(segment, local)| ((addr, *segment), (local.slot, is_surplus(local.slot))))
                .collect()
        };
        let first = (addr, SegmentId::default());
        let before: Vec<_> = seen
            .held
            .range(first..)
            .take_while(|((of, _), _)| *of == addr)
            .map(|(key, held)| (*key, *held))
            .collect();
        for (key, (slot, was_surplus)) in before
            .into_iter()
            .filter(|(key, _)| !here.contains_key(key))
        {
            seen.held.remove(&key);
            let known = state.segment(key.1).is_some();
            let synced = state
                .config(slot)
                .map_or(0, |config| config.synced().count());
            self.must(!known || was_surplus || synced + ended >= wanted, || {
                format!(
                    "R11: {} dropped its copy of {} while {synced} of {wanted} replicas are synced",
                    member.config.name, key.1
                )
            });
        }
        seen.held.extend(here);
    }

    /// I11: no epoch, version or id stands for two things.
    fn look_at_ids(&self, state: &State) {
        let mut guard = lock(&self.seen);
        let seen = &mut *guard;
        for (id, segment) in &state.names.segments {
            let here = (segment.digest, segment.len);
            let first = *seen.cuts.entry((*id, segment.version)).or_insert(here);
            self.must(first == here, || {
                format!("I11: {id} was cut twice as {}", segment.version)
            });
        }
        for (id, writer) in &state.names.writers {
            let here = (writer.ino, writer.incarnation);
            let first = *seen.writers.entry(*id).or_insert(here);
            self.must(first == here, || {
                format!("I11: writer {id} was issued twice")
            });
        }
        for (incarnation, life) in &state.cluster.lives {
            let first = *seen.incarnations.entry(*incarnation).or_insert(life.member);
            self.must(first == life.member, || {
                format!("I11: incarnation {incarnation} was issued twice")
            });
        }
        for (id, session) in &state.sessions {
            let first = *seen.sessions.entry(*id).or_insert(session.incarnation);
            self.must(first == session.incarnation, || {
                format!(
                    "I11: session {id} is used by {} and {}",
                    first, session.incarnation
                )
            });
        }
    }

    /// I7 and R2: what became of each config that holds something. Steps that were not seen one by one are not judged.
    fn look_at_configs(&self, state: &State) {
        let mut guard = lock(&self.seen);
        let seen = &mut *guard;
        if seen.map == state.cluster.map {
            return;
        }
        seen.map = state.cluster.map;
        // What holds nothing any more may begin anew with anybody.
        seen.configs
            .retain(|slot, _| state.names.by_slot.contains_key(slot));
        let incarnations = &seen.incarnations;
        let wanted = usize::from(state.cluster.copies).min(state.cluster.alive.len());
        for slot in state.names.by_slot.keys() {
            let Some(config) = state.config(*slot) else {
                continue;
            };
            let first = seen
                .epochs
                .entry((*slot, config.epoch))
                .or_insert_with(|| config.clone());
            let same = first.acting == config.acting && first.leader == config.leader;
            self.must(same, || {
                format!("I11: epoch {} of {slot} was issued twice", config.epoch)
            });
            let Some(old) = seen.configs.insert(*slot, config.clone()) else {
                continue;
            };
            if config.epoch.0 != old.epoch.0 + 1 || old.frozen {
                continue;
            }
            let kept = |one: &Incarnation| config.role(*one) == Some(true);
            // A member that is readmitted to a frozen slot has another incarnation (R12).
            let owner = |one: Incarnation| incarnations.get(&one).copied();
            let owners: BTreeSet<_> = config.synced().map(owner).collect();
            self.must(old.synced().any(|one| owners.contains(&owner(one))), || {
                format!(
                    "I7: no synced replica of {slot} went on to epoch {}",
                    config.epoch
                )
            });
            let dropped = old
                .synced()
                .find(|one| !kept(one) && state.cluster.alive.contains_key(one));
            let synced = config.synced().count();
            if let Some(dropped) = dropped {
                self.must(synced >= wanted, || {
                    format!("R2: {slot} dropped the live {dropped} at epoch {} and has {synced} synced replicas of {wanted}", config.epoch)
                });
            }
        }
    }

    /// I1: what is acknowledged is on every acting synced replica, or in a committed cut.
    fn look_at_replicas(&self, state: &State, members: &[Arc<Member>]) {
        let mut heard = lock(&self.heard);
        heard.acknowledged.retain(|(segment, writer), _| {
            state
                .segment(*segment)
                .is_some_and(|known| !known.is_full())
                && state
                    .writer(*writer)
                    .is_some_and(|writer| writer.phase == WriterPhase::Open)
        });
        for ((segment, writer), acknowledged) in &heard.acknowledged {
            let Some(known) = state.segment(*segment) else {
                continue;
            };
            let merged = known.through.get(writer).copied().unwrap_or_default();
            let Some(config) = state.config(known.slot).filter(|_| merged < *acknowledged) else {
                continue;
            };
            // One that has not heard of its role yet is judged when it has.
            let holders = members.iter().filter(|one| {
                config.role(one.ctx.me()) == Some(true)
                    && one.ctx.state().config(known.slot) == Some(config)
            });
            let lanes: Vec<_> = holders
                .map(|holder| (holder, lane_at(holder, *segment, *writer)))
                .collect();
            let range = merged.next()..=*acknowledged;
            let anywhere: BTreeSet<Seq> = lanes
                .iter()
                .flat_map(|(_, lane)| lane.records.range(range.clone()).map(|(seq, _)| *seq))
                .collect();
            for (holder, lane) in &lanes {
                let lacks = anywhere
                    .iter()
                    .find(|seq| **seq > lane.through && !lane.records.contains_key(seq));
                if let Some(lacks) = lacks {
                    self.oracle.report(format!(
                        "I1: {writer} was acknowledged up to {acknowledged} in {segment}; {}, a synced replica at epoch {}, lacks {lacks}",
                        holder.config.name, config.epoch
                    ));
                }
            }
        }
    }

    fn judge(&self, asked: Asked, answer: &DataResponse) {
        let server = {
            let heard = lock(&self.heard);
            heard.members.get(&asked.by).and_then(Weak::upgrade)
        };
        let name = server
            .as_ref()
            .map_or_else(|| asked.by.to_string(), |one| one.config.name.clone());
        match (&asked.request, answer) {
            (DataRequest::Append(append), DataResponse::Appended(_)) => {
                self.promised(&asked, &name, append.slot, append.epoch);
                self.must(!asked.ended, || {
                    format!(
                        "I9: {name} took records of {}, which it knew to be ended",
                        append.from
                    )
                });
            }
            (DataRequest::Prepare(prepare), DataResponse::Prepared) => {
                self.promised(&asked, &name, prepare.slot, prepare.epoch);
            }
            (
                DataRequest::ReadBase(read) | DataRequest::PullBase(read),
                DataResponse::Bytes { version, .. },
            ) => {
                self.must(*version >= read.version, || {
                    format!(
                        "I8: {name} served {} at {version} where {} was asked for",
                        read.segment, read.version
                    )
                });
            }
            _ => {}
        }
    }

    /// I6: nothing that came after a higher epoch was answered at is acknowledged at a lower one. What came before may
    /// be answered later: it was taken before.
    fn promised(&self, asked: &Asked, name: &str, slot: SlotId, epoch: SlotEpoch) {
        self.must(epoch >= asked.promised, || {
            format!(
                "I6: {name} took what came at epoch {epoch} of {slot} after it had answered at {}",
                asked.promised
            )
        });
        let mut heard = lock(&self.heard);
        let highest = heard.promised.entry((asked.by, slot)).or_default();
        *highest = epoch.max(*highest);
    }
}

/// A lane as a member holds it.
fn lane_at(member: &Member, segment: SegmentId, writer: WriterId) -> Lane {
    let index = member.data.replica.index();
    let local = index.segments.get(&segment);
    local
        .and_then(|local| local.lanes.get(&writer))
        .cloned()
        .unwrap_or_default()
}

impl Tap for Watch {
    fn asked(&self, _: SocketAddr, to: SocketAddr, request: &Frame) -> Option<u64> {
        if request.service != Service::Data {
            return None;
        }
        let request: DataRequest = request.message().ok()?;
        let mut heard = lock(&self.heard);
        let mut ended = false;
        if let DataRequest::Append(append) = &request {
            if let Some(first) = append.records.first() {
                let known = heard
                    .acknowledged
                    .entry((first.segment, first.writer))
                    .or_default();
                *known = append.acked_through.max(*known);
            }
            let server = heard.members.get(&to).and_then(Weak::upgrade);
            ended = server.is_some_and(|server| {
                let state = server.ctx.state();
                // It was issued, and is not alive any more.
                state.cluster.next_incarnation > append.from.0
                    && !state.cluster.alive.contains_key(&append.from)
            });
        }
        let slot = match &request {
            DataRequest::Append(append) => Some(append.slot),
            DataRequest::Prepare(prepare) => Some(prepare.slot),
            _ => None,
        };
        let promised = slot.and_then(|slot| heard.promised.get(&(to, slot)).copied());
        let promised = promised.unwrap_or_default();
        let number = heard.next;
        heard.next += 1;
        let asked = Asked {
            by: to,
            request,
            ended,
            promised,
        };
        heard.asked.insert(number, asked);
        Some(number)
    }

    fn answered(&self, number: u64, answer: &Frame) {
        let asked = lock(&self.heard).asked.remove(&number);
        if let (Some(asked), Ok(answer)) = (asked, answer.message::<DataResponse>()) {
            self.judge(asked, &answer);
        }
    }
}

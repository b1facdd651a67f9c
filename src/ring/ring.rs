//! Consistent hashing with virtual nodes and bounded loads over the fixed slots.
//!
//! A slot's wanted members are the first ones clockwise from it. Plain virtual nodes leave a skew (max/mean) of up
//! to 1.3 at ten members, so a member that already holds 1.2 times its share is passed over (bounded loads: Mirrokni,
//! Thorup, Zadimoghaddam 2018). Ranks are filled one after the other, first members first, each under a bound of its
//! own: the first member, the first two, ... are all spread evenly, and fewer copies are a prefix of more.

use crate::{point, slot_position};
use hydfs_types::{Incarnation, SLOTS, SlotId};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// Virtual nodes of a member of weight 100 %.
pub const VIRTUAL_NODES: u32 = 128;
/// Most copies that a ring can be asked for.
pub const COPIES_MAX: usize = 5;
/// A member holds at most this part of its fair share, as a fraction: 6/5.
const BOUND: (u64, u64) = (6, 5);

/// What the ring knows of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingMember {
    /// Fixes its places; of two with one name the higher incarnation counts.
    pub name: String,
    /// Multiplies its virtual nodes, in percent; 0 counts as 1.
    pub weight_percent: u32,
    /// Copies are kept in different zones as far as there are enough.
    pub zone: String,
    /// What `wanted` answers with.
    pub incarnation: Incarnation,
}

/// How much of the ring one member holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub name: String,
    pub incarnation: Incarnation,
    pub weight_percent: u32,
    /// Slots of which it is the first wanted member.
    pub first: u32,
    /// Slots of which it is one of the wanted members.
    pub any: u32,
}

/// The wanted members of every slot.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Sorted by name, distinct names.
    members: Vec<RingMember>,
    /// Virtual nodes clockwise: where, and index of the member.
    points: Vec<(u64, u32)>,
    /// Member indices in order of preference, `ranks` for each slot.
    wanted: Vec<u32>,
    ranks: usize,
}

impl Ring {
    /// The ring of these members. Costs one hash per virtual node and some walking: a few milliseconds for ten members.
    pub fn new(members: &[RingMember]) -> Self {
        let mut by_name = BTreeMap::<&str, &RingMember>::new();
        for member in members {
            let known = by_name.entry(&member.name).or_insert(member);
            if known.incarnation < member.incarnation {
                *known = member;
            }
        }
        let members: Vec<_> = by_name.into_values().cloned().collect();
        let mut points = Vec::new();
        for (at, member) in members.iter().enumerate() {
            points.extend(
                (0..virtual_nodes(member)).map(|index| (point(&member.name, index), at as u32)),
            );
        }
        points.sort_unstable();
        Self::filled(members, points)
    }

    /// The same ring without these members.
    pub fn without(&self, excluded: &BTreeSet<Incarnation>) -> Self {
        let stays = |at: usize| !excluded.contains(&self.members[at].incarnation);
        if (0..self.members.len()).all(stays) {
            return self.clone();
        }
        let mut moved = vec![None; self.members.len()];
        let mut members = Vec::new();
        for at in (0..self.members.len()).filter(|at| stays(*at)) {
            moved[at] = Some(members.len() as u32);
            members.push(self.members[at].clone());
        }
        let points = self
            .points
            .iter()
            .filter_map(|(position, at)| moved[*at as usize].map(|to| (*position, to)))
            .collect();
        Self::filled(members, points)
    }

    /// The members that should keep this slot, the preferred leader first: `copies` of them where there are so many
    /// (at most [`COPIES_MAX`]).
    pub fn wanted(&self, slot: SlotId, copies: usize) -> Vec<Incarnation> {
        self.row(slot)
            .iter()
            .take(copies)
            .map(|at| self.members[*at as usize].incarnation)
            .collect()
    }

    fn row(&self, slot: SlotId) -> &[u32] {
        let start = (slot.0 % SLOTS) as usize * self.ranks;
        &self.wanted[start..start + self.ranks]
    }

    /// The members, by name.
    pub fn members(&self) -> &[RingMember] {
        &self.members
    }

    /// A member's ring id, for people: where its first virtual node stands.
    pub fn position(name: &str) -> u64 {
        point(name, 0)
    }

    /// How even the ring is, by name.
    pub fn shares(&self, copies: usize) -> Vec<Share> {
        let mut first = vec![0; self.members.len()];
        let mut any = vec![0; self.members.len()];
        for row in (0..SLOTS).map(|slot| self.row(SlotId(slot))) {
            row.iter().take(1).for_each(|at| first[*at as usize] += 1);
            row.iter()
                .take(copies)
                .for_each(|at| any[*at as usize] += 1);
        }
        let share = |(at, member): (usize, &RingMember)| Share {
            name: member.name.clone(),
            incarnation: member.incarnation,
            weight_percent: member.weight_percent,
            first: first[at],
            any: any[at],
        };
        self.members.iter().enumerate().map(share).collect()
    }

    fn filled(members: Vec<RingMember>, points: Vec<(u64, u32)>) -> Self {
        let ranks = COPIES_MAX.min(members.len());
        let mut fill = Fill::new(&members, &points, ranks);
        (0..ranks).for_each(|rank| fill.rank(rank));
        let wanted = fill.wanted;
        Self {
            members,
            points,
            wanted,
            ranks,
        }
    }
}

/// The walk that fills the table, one rank at a time.
struct Fill<'a> {
    points: &'a [(u64, u32)],
    /// Zone of each member, as a number.
    zones: Vec<usize>,
    zone_count: usize,
    weights: Vec<u64>,
    /// Slots that each member holds in the ranks so far.
    held: Vec<u64>,
    /// The most it may hold in the ranks so far and the one being filled.
    bounds: Vec<u64>,
    /// The walk in which each member was met last.
    met: Vec<u64>,
    walk: u64,
    wanted: Vec<u32>,
    ranks: usize,
}

impl<'a> Fill<'a> {
    fn new(members: &[RingMember], points: &'a [(u64, u32)], ranks: usize) -> Self {
        let names: BTreeSet<&str> = members.iter().map(|m| m.zone.as_str()).collect();
        let number: BTreeMap<&str, usize> = names
            .into_iter()
            .enumerate()
            .map(|(at, name)| (name, at))
            .collect();
        Self {
            points,
            zones: members.iter().map(|m| number[m.zone.as_str()]).collect(),
            zone_count: number.len(),
            weights: members
                .iter()
                .map(|m| u64::from(virtual_nodes(m)))
                .collect(),
            held: vec![0; members.len()],
            bounds: vec![0; members.len()],
            met: vec![0; members.len()],
            walk: 0,
            wanted: vec![0; SLOTS as usize * ranks],
            ranks,
        }
    }

    /// Gives every slot one more member.
    fn rank(&mut self, rank: usize) {
        let total: u64 = self.weights.iter().sum();
        for (bound, weight) in self.bounds.iter_mut().zip(&self.weights) {
            let fair = BOUND.0 * u64::from(SLOTS) * (rank as u64 + 1) * weight;
            *bound = fair.div_ceil(BOUND.1 * total).min(u64::from(SLOTS));
        }
        for slot in 0..SLOTS {
            let row = slot as usize * self.ranks;
            let chosen = self.choose(slot, row..row + rank);
            self.held[chosen] += 1;
            self.wanted[row + rank] = chosen as u32;
        }
    }

    /// The next member clockwise that is not taken yet: in a new zone if there is one, and under its bound if there
    /// is one. Zones come first: two copies behind one switch are worse than an uneven ring.
    fn choose(&mut self, slot: u32, taken: Range<usize>) -> usize {
        self.walk += 1;
        let mut unmet = self.zones.len() - taken.len();
        let mut covered = [usize::MAX; COPIES_MAX];
        let mut zones_covered = 0;
        for at in &self.wanted[taken] {
            self.met[*at as usize] = self.walk;
            let zone = self.zones[*at as usize];
            if !covered.contains(&zone) {
                covered[zones_covered] = zone;
                zones_covered += 1;
            }
        }
        let start = self
            .points
            .partition_point(|(position, _)| *position < slot_position(SlotId(slot)));
        let mut best: Option<(u8, usize)> = None;
        for (_, at) in self.points[start..].iter().chain(&self.points[..start]) {
            let at = *at as usize;
            if std::mem::replace(&mut self.met[at], self.walk) == self.walk {
                continue;
            }
            unmet -= 1;
            let misplaced = zones_covered < self.zone_count && covered.contains(&self.zones[at]);
            let penalty = 2 * u8::from(misplaced) + u8::from(self.held[at] >= self.bounds[at]);
            if best.is_none_or(|(least, _)| penalty < least) {
                best = Some((penalty, at));
            }
            if penalty == 0 || unmet == 0 {
                break;
            }
        }
        best.expect("ranks are filled only while there are members left")
            .1
    }
}

fn virtual_nodes(member: &RingMember) -> u32 {
    (VIRTUAL_NODES * member.weight_percent.min(10_000) / 100).max(1)
}

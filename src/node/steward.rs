//! The leader's daily work: turns evidence into agreed changes. Any member runs it; it acts only while it leads.
//!
//! Nothing is remembered that another leader needs: everything is read from the agreed state and from SWIM anew.

use crate::{
    apart::Apart,
    member::Member,
    planted,
    voters::{Candidate, choose, with_heirs},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use hydfs_membership::SeenState;
use hydfs_ring::{Ring, RingMember, plan};
use hydfs_types::{
    Agreement, AgreementError, Command, CommandError, Incarnation, MapVersion, MemberId,
    MemberInfo, Planted,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const TICK: Duration = Duration::from_millis(100);
/// Ticks between looks at how far repair is.
const PACE_TICKS: u64 = 10;
/// A new leader waits this long before it expires anybody (R1), and a member that was just admitted is believed to live.
const GRACE: Duration = Duration::from_millis(1200);
const NEWCOMER: Duration = Duration::from_secs(3);
/// A member that left gets the log for so long: its own command has to reach it.
const FAREWELL: Duration = Duration::from_secs(3);
/// Members that are asked whether they have somebody down as well.
const OPINIONS_MAX: usize = 5;
/// Slot changes in one command.
const CHANGES_MAX: usize = 4096;
/// A learner votes once it lacks no more than this many entries.
const LAG_MAX: u64 = 500;
/// Who was heard of this recently answers.
const HEARD: Duration = Duration::from_secs(1);

/// The work and what it keeps between ticks, all of it only to save work.
pub struct Steward {
    member: Arc<Member>,
    leading_since: Option<Instant>,
    planned: Option<MapVersion>,
    admitted: BTreeMap<(Incarnation, u64), Instant>,
    expired: Vec<Instant>,
    /// Since when this leader has known members to be down.
    down: BTreeMap<MemberId, Instant>,
    /// Since when it has known members to have left.
    left: BTreeMap<MemberId, Instant>,
    apart: Apart,
}

impl Steward {
    pub fn new(member: Arc<Member>) -> Self {
        Self {
            member,
            leading_since: None,
            planned: None,
            admitted: BTreeMap::new(),
            expired: Vec::new(),
            down: BTreeMap::new(),
            left: BTreeMap::new(),
            apart: Apart::default(),
        }
    }

    /// Works for ever.
    pub async fn run(mut self) {
        let ctx = self.member.ctx.clone();
        for tick in 0_u64.. {
            // Who came or went is seen at once: writers wait for the next config of its slots.
            drop(tokio::time::timeout(TICK, ctx.members.notified()).await);
            if tick.is_multiple_of(PACE_TICKS) {
                let moving = self.member.ctx.state().moving(None);
                self.member.pace.left(moving.bytes);
            }
            self.note_newcomers();
            if !self.member.group.leads_within(GRACE) {
                self.leading_since = None;
                self.down.clear();
                self.left.clear();
                self.apart.look(&self.member, false, &[]).await;
                continue;
            }
            let since = *self.leading_since.get_or_insert_with(|| {
                self.planned = None;
                Instant::now()
            });
            self.include_members().await;
            self.choose_voters().await;
            if since.elapsed() > GRACE {
                self.expire_dead().await;
            }
            if since.elapsed() > NEWCOMER {
                self.expire_deaf().await;
            }
            self.plan_slots().await;
        }
    }

    fn note_newcomers(&mut self) {
        let state = self.member.ctx.state();
        let now: BTreeSet<_> = state
            .cluster
            .members
            .values()
            .filter(|one| one.alive)
            .map(|one| (one.incarnation, one.said.start_count))
            .collect();
        self.admitted.retain(|key, _| now.contains(key));
        for key in now {
            self.admitted.entry(key).or_insert_with(Instant::now);
        }
    }

    fn members(&self) -> Vec<MemberInfo> {
        self.member
            .ctx
            .state()
            .cluster
            .members
            .values()
            .cloned()
            .collect()
    }

    /// Every member gets the log; one that left for a moment longer, so that it learns that it has left. While it votes it
    /// stays: [`choose`] takes its vote away, and never leaves two voters.
    async fn include_members(&mut self) {
        let metrics = self.member.group.metrics();
        let members = self.members();
        self.left
            .retain(|id, _| members.iter().any(|one| one.id == *id && one.left));
        for one in members {
            let known = metrics.voters.contains(&one.id) || metrics.learners.contains(&one.id);
            let change = match (one.left, known) {
                (false, false) if one.alive => {
                    self.member.group.add_learner(one.id, one.said.addr).await
                }
                (true, true) if one.id != self.member.id() => {
                    let since = *self.left.entry(one.id).or_insert_with(Instant::now);
                    if since.elapsed() < FAREWELL || metrics.voters.contains(&one.id) {
                        continue;
                    }
                    self.member.group.remove(one.id).await
                }
                _ => continue,
            };
            if let Err(error) = change {
                tracing::info!(member = one.said.name, %error, "the agreement group was not changed yet");
            }
        }
    }

    /// Moves votes to whom [`choose`] says; a leader that drains hands its office over first.
    async fn choose_voters(&mut self) {
        let metrics = self.member.group.metrics();
        let members = self.members();
        self.down
            .retain(|id, _| members.iter().any(|one| one.id == *id && !one.alive));
        for one in members.iter().filter(|one| !one.alive) {
            self.down.entry(one.id).or_insert_with(Instant::now);
        }
        let me = self.member.id();
        let last = metrics.last.map_or(0, |index| index.0);
        let ready = |id: MemberId| {
            let matched = metrics.matched.get(&id).copied().flatten();
            id == me || matched.is_some_and(|at| at.0 + LAG_MAX >= last)
        };
        let answers = |id: MemberId| {
            let heard = metrics.heard.get(&id).copied().flatten();
            id == me || heard.is_some_and(|age| age < HEARD)
        };
        let patience = self.member.config.voter_replace_after;
        let candidates: Vec<Candidate> = members
            .iter()
            .filter(|one| !one.left)
            .map(|one| Candidate {
                id: one.id,
                zone: one.said.zone.clone(),
                alive: one.alive,
                draining: one.draining,
                ready: ready(one.id),
                answers: answers(one.id),
                given_up: self
                    .down
                    .get(&one.id)
                    .is_some_and(|since| since.elapsed() > patience),
            })
            .collect();
        let going = members.iter().any(|one| one.id == me && one.draining);
        let heir = |one: &Candidate| {
            let votes = one.id != me && metrics.voters.contains(&one.id);
            votes && one.alive && one.answers && !one.draining
        };
        if going && candidates.iter().any(heir) {
            // It takes this vote away.
            self.member.hand_over().await;
            return;
        }
        let chosen = match going {
            true => with_heirs(me, &metrics.voters, &candidates),
            false => choose(me, &metrics.voters, &candidates),
        };
        let wanted = chosen.or_else(|| metrics.joint.then(|| metrics.voters.clone()));
        if let Some(voters) = wanted
            && let Err(error) = self.member.group.set_voters(voters).await
        {
            tracing::info!(%error, "voters were not changed yet");
        }
    }

    /// Ends incarnations that SWIM has down here and at another member (two observers), at a bounded rate.
    async fn expire_dead(&mut self) {
        let Some(swim) = self.member.swim.get() else {
            return;
        };
        let down: BTreeMap<String, String> = swim
            .view()
            .into_iter()
            .filter(|seen| seen.state == SeenState::Down)
            .map(|seen| (seen.name, seen.evidence))
            .collect();
        if down.is_empty() {
            return;
        }
        let members = self.members();
        let alive: Vec<&MemberInfo> = members.iter().filter(|one| one.alive).collect();
        self.expired.retain(|at| at.elapsed() < GRACE);
        let limit = 2.max(alive.len() / 10);
        let me = self.member.id();
        for suspect in alive
            .iter()
            .filter(|one| down.contains_key(&one.said.name) && one.id != me)
        {
            if !self.is_settled(suspect) || self.expired.len() >= limit {
                continue;
            }
            let others: Vec<&MemberInfo> = alive
                .iter()
                .filter(|one| {
                    one.id != suspect.id && one.id != me && !down.contains_key(&one.said.name)
                })
                .copied()
                .collect();
            if !others.is_empty() && !self.is_seconded(&others, &suspect.said.name).await {
                continue;
            }
            let why = format!(
                "{}: {}",
                suspect.said.name,
                down.get(&suspect.said.name)
                    .map(String::as_str)
                    .unwrap_or_default()
            );
            self.expire(suspect, why).await;
        }
    }

    fn is_settled(&self, one: &MemberInfo) -> bool {
        self.admitted
            .get(&(one.incarnation, one.said.start_count))
            .is_some_and(|at| at.elapsed() > NEWCOMER)
    }

    /// Looks for members that this leader cannot reach though SWIM has them alive; ends one that nobody could lead better.
    async fn expire_deaf(&mut self) {
        let mut settled = self.members();
        settled.retain(|one| one.alive && self.is_settled(one));
        let Some(deaf) = self.apart.look(&self.member, true, &settled).await else {
            return;
        };
        self.expired.retain(|at| at.elapsed() < GRACE);
        if self.expired.len() < 2.max(settled.len() / 10) {
            let why = format!(
                "{}: the leader's messages have not been answered for 10 s, and no voter reaches more",
                deaf.said.name
            );
            self.expire(&deaf, why).await;
        }
    }

    async fn expire(&mut self, one: &MemberInfo, why: String) {
        tracing::warn!(member = one.said.name, incarnation = %one.incarnation, why, "expiring a dead member");
        self.expired.push(Instant::now());
        let command = Command::Expire {
            incarnations: vec![one.incarnation],
            why,
        };
        if let Err(error) = self.member.group.propose(command).await {
            tracing::warn!(%error, "a dead member could not be expired yet");
        }
    }

    /// Whether another member has `name` down as well. The first one that says so is enough: who does not answer in
    /// time may be dead himself.
    async fn is_seconded(&self, others: &[&MemberInfo], name: &str) -> bool {
        let asked = others.iter().take(OPINIONS_MAX);
        let mut opinions: FuturesUnordered<_> =
            asked.map(|one| self.member.opinion_of(one, name)).collect();
        while let Some(opinion) = opinions.next().await {
            if opinion.is_some_and(|opinion| opinion.down) {
                return true;
            }
        }
        false
    }

    /// Brings slot configs a step nearer to what the ring wants.
    async fn plan_slots(&mut self) {
        let (map, changes) = {
            let state = self.member.ctx.state();
            let map = state.cluster.map;
            if self.planned == Some(map) {
                return;
            }
            let alive: BTreeSet<Incarnation> = state.cluster.alive.keys().copied().collect();
            let full = state
                .cluster
                .members
                .values()
                .filter(|one| one.alive && one.full)
                .map(|one| one.incarnation)
                .collect();
            let on_ring: Vec<RingMember> = state
                .cluster
                .members
                .values()
                .filter(|one| one.alive && !one.draining)
                .map(|one| RingMember {
                    name: one.said.name.clone(),
                    weight_percent: one.said.weight,
                    zone: one.said.zone.clone(),
                    incarnation: one.incarnation,
                })
                .collect();
            let ring = Ring::new(&on_ring);
            let copies = usize::from(state.cluster.copies);
            let mut changes = plan(
                &state.cluster.slots,
                &alive,
                &full,
                &ring,
                copies,
                CHANGES_MAX,
            );
            if self.member.ctx.has(Planted::DroppedBeforePromote) {
                for change in &mut changes {
                    let wanted = ring.wanted(change.slot, copies).into_iter().collect();
                    planted::drop_early(change, &wanted);
                }
            }
            (map, changes)
        };
        if changes.is_empty() {
            self.planned = Some(map);
            return;
        }
        tracing::info!(slots = changes.len(), "moving slots");
        match self
            .member
            .group
            .propose(Command::Configure { changes })
            .await
        {
            Ok(_) | Err(AgreementError::Refused(CommandError::Changed)) => {}
            Err(error) => tracing::info!(%error, "slots were not moved yet"),
        }
    }
}

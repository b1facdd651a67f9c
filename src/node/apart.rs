//! Pairs that cannot talk to each other though both are alive: a link that is cut for good, a firewall, a wrong route. SWIM sees
//! both through others, and so nobody would be expired, while everybody waits for what the pair has to tell each other.
//!
//! The leader sees it by its heartbeats. If a voter reaches strictly more members than it does, that one leads instead, so
//! that leadership never goes back and forth; where nobody does, whoever is deaf is expired after [`PATIENCE`]. Whoever has
//! led goes on to say in its status that the pair is cut, until it is not.
//!
//! Two members of whom neither leads are not looked for: what they write to each other waits.

use crate::{
    join::{self, NodeRequest, NodeResponse},
    member::Member,
};
use futures_util::future::join_all;
use hydfs_membership::SeenState;
use hydfs_types::{MemberId, MemberInfo};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// Pause between looks.
const LOOK: Duration = Duration::from_secs(1);
/// A member that answered no heartbeat for so long is deaf; one that did within [`HEARD`] is not.
const SILENT: Duration = Duration::from_secs(3);
const HEARD: Duration = Duration::from_secs(1);
/// Whoever does not answer a call this soon is not reached.
const CALL: Duration = Duration::from_millis(400);
/// Others say whom they reach this soon.
const ASK: Duration = Duration::from_millis(900);
/// A deaf member is expired after so long, if nobody else could lead better.
const PATIENCE: Duration = Duration::from_secs(10);
/// Members that are called on another's behalf at once.
const REACH_MAX: usize = 256;

/// What this member knows of those it cannot reach, between two looks.
#[derive(Default)]
pub struct Apart {
    since: BTreeMap<MemberId, Instant>,
    looked: Option<Instant>,
}

impl Apart {
    /// Looks once a second. `settled` are those that the leader, if this is one, has counted on for a while. Gives whom to
    /// expire, if anybody.
    pub async fn look(
        &mut self,
        member: &Member,
        leads: bool,
        settled: &[MemberInfo],
    ) -> Option<MemberInfo> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return None;
        }
        self.looked = Some(Instant::now());
        let suspects: Vec<MemberInfo> = match leads {
            true => deaf(member, settled),
            false => members(member)
                .into_iter()
                .filter(|one| one.alive && self.since.contains_key(&one.id))
                .collect(),
        };
        let reached = reach(member, &suspects).await;
        let apart: Vec<&MemberInfo> = suspects
            .iter()
            .filter(|one| !reached.contains(&one.id))
            .collect();
        self.since
            .retain(|id, _| apart.iter().any(|one| one.id == *id));
        for one in &apart {
            self.since.entry(one.id).or_insert_with(|| {
                tracing::warn!(
                    member = one.said.name,
                    "it is alive and cannot be reached from here: is the link between the two cut?"
                );
                Instant::now()
            });
        }
        member.set_apart(apart.iter().map(|one| one.said.name.clone()).collect());
        let lasting = |one: &&&MemberInfo, span| self.since[&one.id].elapsed() >= span;
        if !leads || !apart.iter().any(|one| lasting(&one, LOOK)) {
            return None;
        }
        if let Some(better) = better_placed(member).await {
            tracing::warn!(leader = %better, "handing leadership to a voter that reaches more members");
            if let Err(error) = member.group.transfer_leader(better).await {
                tracing::info!(%error, "leadership was not handed over");
            }
            return None;
        }
        let deaf = apart.iter().find(|one| lasting(one, PATIENCE))?;
        Some((**deaf).clone())
    }
}

fn members(member: &Member) -> Vec<MemberInfo> {
    let state = member.ctx.state();
    state.cluster.members.values().cloned().collect()
}

/// Who answers no heartbeats though SWIM has it alive.
fn deaf(member: &Member, settled: &[MemberInfo]) -> Vec<MemberInfo> {
    let metrics = member.group.metrics();
    let view = member.swim.get().map(|swim| swim.view());
    let seems_alive = |name: &str| {
        let mut view = view.iter().flatten();
        view.any(|seen| seen.name == name && seen.state == SeenState::Alive)
    };
    let silent = |id: &MemberId| {
        let heard = metrics.heard.get(id);
        heard.is_some_and(|heard| heard.is_none_or(|age| age > SILENT))
    };
    let others = settled.iter().filter(|one| one.id != member.id());
    others
        .filter(|one| silent(&one.id) && seems_alive(&one.said.name))
        .cloned()
        .collect()
}

/// Those of the members that answer a call of this one.
pub async fn reach(member: &Member, others: &[MemberInfo]) -> BTreeSet<MemberId> {
    let request = NodeRequest::Opinion {
        name: member.config.name.clone(),
    };
    let request = &request;
    let calls = others.iter().take(REACH_MAX).map(|one| async move {
        let answer = join::ask(&*member.net, one.said.addr, request, CALL).await;
        answer.is_ok().then_some(one.id)
    });
    join_all(calls).await.into_iter().flatten().collect()
}

/// The answer to a member that asks whom of these this one reaches.
pub async fn answer(member: &Member, asked: &[MemberId]) -> NodeResponse {
    let asked: Vec<MemberInfo> = members(member)
        .into_iter()
        .filter(|one| asked.contains(&one.id) && one.id != member.id())
        .collect();
    let mut reached = reach(member, &asked).await;
    reached.insert(member.id());
    NodeResponse::Reached(reached)
}

/// A voter that has the log and reaches more of the members that are alive than this leader does.
async fn better_placed(member: &Member) -> Option<MemberId> {
    let metrics = member.group.metrics();
    let alive: Vec<MemberInfo> = members(member)
        .into_iter()
        .filter(|one| one.alive)
        .collect();
    let heard = |id: &MemberId| {
        let heard = metrics.heard.get(id).copied().flatten();
        heard.is_some_and(|age| age <= HEARD)
    };
    let mine = 1 + alive.iter().filter(|one| heard(&one.id)).count();
    let request = NodeRequest::Reach(alive.iter().map(|one| one.id).collect());
    let voters = alive
        .iter()
        .filter(|one| metrics.voters.contains(&one.id) && heard(&one.id) && !one.draining);
    let request = &request;
    let answers = join_all(voters.map(|one| async move {
        let answer = join::ask(&*member.net, one.said.addr, request, ASK).await;
        match answer {
            Ok(NodeResponse::Reached(reached)) => Some((reached.len(), one.id)),
            _ => None,
        }
    }))
    .await;
    let best = answers.into_iter().flatten().max()?;
    (best.0 > mine).then_some(best.1)
}

//! What a person reads of the cluster's state: whether all is well, and what is not.

use crate::member::Member;
use hydfs_control::Liveness;
use hydfs_membership::SeenState;
use hydfs_state::State;
use hydfs_types::{Agreement, MemberInfo};
use std::fmt::Write;

pub fn liveness(one: &MemberInfo) -> Liveness {
    match (one.alive, one.left) {
        (true, _) => Liveness::Alive,
        (false, true) => Liveness::Left,
        (false, false) => Liveness::Dead,
    }
}

/// The leader that this member follows, unless it is seen down or too few voters are left to have one: a follower that
/// cannot win an election goes on to name the last leader it had.
pub fn leading(member: &Member, state: &State) -> Option<MemberInfo> {
    let view = member
        .swim
        .get()
        .map(|swim| swim.view())
        .unwrap_or_default();
    let down = |id| {
        state.member(id).is_none_or(|one| {
            view.iter()
                .any(|seen| seen.name == one.said.name && seen.state == SeenState::Down)
        })
    };
    let voters = member.group.metrics().voters;
    let up = voters.iter().filter(|id| !down(**id)).count();
    let leader = member
        .group
        .leader()
        .filter(|id| !down(*id) && 2 * up > voters.len());
    leader.and_then(|id| state.member(id)).cloned()
}

/// How much repair has still to copy, and how long that takes.
fn rest(member: &Member, state: &State) -> String {
    let bytes = state.moving(None).bytes;
    let time = match member.pace.left(bytes) {
        _ if bytes == 0 => return String::new(),
        Some(left) => format!(", about {} s", left.as_secs().max(1)),
        None => String::new(),
    };
    format!(", {} MiB to copy{time}", bytes.div_ceil(1 << 20))
}

/// Whether all is well, and the text that says so.
pub fn status(member: &Member) -> (bool, String) {
    let state = member.ctx.state();
    let mut troubles = Vec::new();
    let down: Vec<&str> = state
        .cluster
        .members
        .values()
        .filter(|one| !one.alive && !one.left)
        .map(|one| one.said.name.as_str())
        .collect();
    if !down.is_empty() {
        troubles.push(format!("{} down", down.join(", ")));
    }
    for other in member.apart() {
        let name = &member.config.name;
        troubles.push(format!("{name} and {other} cannot reach each other"));
    }
    let full: Vec<String> = state
        .cluster
        .members
        .values()
        .filter(|one| one.alive && one.full)
        .map(|one| format!("{}: disk full", one.said.name))
        .collect();
    troubles.extend(full);
    let wanted = usize::from(state.cluster.copies);
    let (mut learning, mut short, mut frozen) = (0, 0, 0);
    for config in state.cluster.slots.values() {
        let synced = config
            .synced()
            .filter(|one| state.cluster.alive.contains_key(one))
            .count();
        learning += usize::from(config.acting.iter().any(|acting| !acting.synced));
        short += usize::from(synced < wanted);
        frozen += usize::from(config.frozen);
    }
    let slots = state.cluster.slots.len();
    if frozen > 0 {
        troubles.push(format!("{frozen} of {slots} slots have no live copy"));
    }
    if short > 0 {
        troubles.push(format!(
            "under-replicated: {short} of {slots} slots have fewer than {wanted} copies"
        ));
    }
    if learning > 0 {
        troubles.push(format!(
            "repairing {learning} slots{}",
            rest(member, &state)
        ));
    }
    let lost = member.data.replica.health.lost();
    if !lost.is_empty() {
        troubles.push(format!(
            "{} damaged segments here have no good copy",
            lost.len()
        ));
    }
    let leading = leading(member, &state);
    if leading.is_none() {
        troubles.push("no leader: fewer than a majority of the voters is reachable".to_owned());
    }
    if !state.cluster.alive.contains_key(&member.ctx.me()) {
        troubles.push("this member is rejoining".to_owned());
    }
    let healthy = troubles.is_empty();
    let mut text = if healthy {
        "healthy\n".to_owned()
    } else {
        format!("degraded: {}\n", troubles.join("; "))
    };
    let alive = state.cluster.alive.len();
    let leader = leading
        .as_ref()
        .map_or("none", |one| one.said.name.as_str());
    let writers = state.names.writers.len();
    writeln!(
        text,
        "member {} incarnation {}",
        member.config.name,
        member.ctx.me().0
    )
    .expect("text in memory");
    writeln!(
        text,
        "members {alive} alive of {}, leader {leader}",
        state.cluster.members.len()
    )
    .expect("text in memory");
    writeln!(
        text,
        "slots {slots}, copies {wanted}, map {}, log {}",
        state.cluster.map.0, state.index.0
    )
    .expect("text in memory");
    writeln!(
        text,
        "inodes {}, segments {}, writers {writers}, bytes {}",
        state.names.inodes.len(),
        state.names.segments.len(),
        state.names.bytes
    )
    .expect("text in memory");
    for one in state.cluster.members.values() {
        if one.alive && one.draining {
            let left = state.moving(Some(one.incarnation));
            writeln!(
                text,
                "draining {}: {} slots, {} MiB to copy",
                one.said.name,
                left.slots,
                left.bytes.div_ceil(1 << 20)
            )
            .expect("text in memory");
        }
    }
    for name in member.faults.iter().flat_map(|faults| faults.names()) {
        let line = member.faults.as_ref().and_then(|faults| faults.text(&name));
        let line = line.unwrap_or_default();
        writeln!(
            text,
            "injected fault {name}: {}",
            line.lines().next().unwrap_or_default()
        )
        .expect("text in memory");
    }
    let pass = member.data.replica.health.pass();
    writeln!(
        text,
        "scrub {} of {} segments, {} passes",
        pass.done, pass.of, pass.passes
    )
    .expect("text in memory");
    for (segment, lost) in lost {
        let ino = state.segment(segment).map(|known| known.ino);
        let path = ino
            .and_then(|ino| state.path_of(ino))
            .unwrap_or_else(|| "(unlinked)".to_owned());
        writeln!(
            text,
            "damaged: {path}, segment {segment} at byte {}: {}",
            lost.offset, lost.why
        )
        .expect("text in memory");
    }
    if let Some(swim) = member.swim.get() {
        for seen in swim
            .view()
            .iter()
            .filter(|seen| seen.state != SeenState::Alive)
        {
            writeln!(
                text,
                "{} seems {:?}: {}",
                seen.name, seen.state, seen.evidence
            )
            .expect("text in memory");
        }
    }
    (healthy, text)
}

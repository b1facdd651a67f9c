//! The next step of a config towards what is wanted (R2), as the planner of the ring proposes it.

use crate::{
    Config, MEMBERS, Plant,
    agreed::{Agreed, Change, Role},
    list::{Set, each, has, only},
};

/// The members that should keep the slot: the first of the ring that are alive.
fn wanted(agreed: &Agreed, config: &Config) -> Set {
    each(agreed.ring & agreed.alive)
        .take(usize::from(config.copies))
        .fold(0, |set, member| set | only(member))
}

/// The live synced replicas that stay: all of them until every wanted one is synced.
fn kept(agreed: &Agreed, config: &Config, synced: Set, wanted: Set) -> Set {
    let early = config.plant == Some(Plant::DroppedBeforePromote) && synced & wanted != 0;
    if early {
        return synced & wanted;
    }
    if wanted == 0 || wanted & !synced != 0 {
        return synced;
    }
    let spare = agreed.wanted(config).saturating_sub(wanted.count_ones());
    each(synced & !wanted)
        .take(spare as usize)
        .fold(wanted, |set, member| set | only(member))
}

/// The change to propose now.
pub fn plan(agreed: &Agreed, config: &Config) -> Option<Change> {
    let synced = agreed.synced() & agreed.alive;
    if agreed.frozen || synced == 0 {
        return None;
    }
    let wanted = wanted(agreed, config);
    let kept = kept(agreed, config, synced, wanted);
    let mut roles = [Role::None; MEMBERS];
    let mut named = agreed.named;
    for member in each(kept | wanted) {
        let at = usize::from(member);
        let stays = has(kept, member);
        roles[at] = if stays { Role::Synced } else { Role::Learner };
        if agreed.role(member, agreed.lives[at]) == Role::None {
            named[at] = agreed.lives[at];
        }
    }
    let leader = each(kept & wanted)
        .next()
        .or_else(|| has(kept, agreed.leader).then_some(agreed.leader))
        .unwrap_or(kept.trailing_zeros() as u8);
    let same = roles == agreed.roles && leader == agreed.leader;
    let expected = agreed.epoch;
    (!same).then_some(Change {
        expected,
        roles,
        named,
        leader,
    })
}

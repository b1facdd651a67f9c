//! Who votes in the agreement group.

use hydfs_types::MemberId;
use std::collections::{BTreeMap, BTreeSet};

/// What the choice knows of a member that has not left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: MemberId,
    pub zone: String,
    pub alive: bool,
    /// It is to go: it gives its vote to another one.
    pub draining: bool,
    /// It has nearly all of the log.
    pub ready: bool,
    /// The leader has heard of it just now, or it leads. Whoever has just crashed is agreed to live for some seconds more.
    pub answers: bool,
    /// It has been down for so long that its vote goes to another one, if there is another one.
    pub given_up: bool,
}

/// 1 voter for one or two members that stay, 3 for three or four, 5 from five on, spread over zones. Whoever votes goes on
/// to vote while it stays, even when it is down, until somebody who is there can take over. `None`: nothing to change now.
/// Voters of whom no majority answers are never chosen: they could not even agree on the next ones.
pub fn choose(
    me: MemberId,
    voting: &BTreeSet<MemberId>,
    all: &[Candidate],
) -> Option<BTreeSet<MemberId>> {
    let staying: BTreeMap<MemberId, &Candidate> = all
        .iter()
        .filter(|one| !one.draining)
        .map(|one| (one.id, one))
        .collect();
    let target = match staying.len() {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    };
    let mut voters: BTreeSet<MemberId> = voting
        .iter()
        .copied()
        .filter(|id| staying.contains_key(id))
        .collect();
    while voters.len() < target
        && let Some(next) = successor(&voters, &staying)
    {
        voters.insert(next);
    }
    let gone = |voters: &BTreeSet<MemberId>| voters.iter().copied().find(|id| staying[id].given_up);
    while let Some(gone) = gone(&voters)
        && let Some(next) = successor(&voters, &staying)
    {
        voters.remove(&gone);
        voters.insert(next);
    }
    while voters.len() > target
        && let Some(spare) = spare(me, &voters, &staying)
    {
        voters.remove(&spare);
    }
    (voters.len() == target && voters != *voting && majority_answers(&voters, all))
        .then_some(voters)
}

/// The same where the leader, which votes, is to go: somebody else has to vote before it can hand over to him, and then takes
/// its vote away. Two voters are a group that neither may leave, so a third one votes meanwhile, if there is one.
pub fn with_heirs(
    me: MemberId,
    voting: &BTreeSet<MemberId>,
    all: &[Candidate],
) -> Option<BTreeSet<MemberId>> {
    let mut voters = choose(me, voting, all)?;
    voters.insert(me);
    let third = || {
        let can = |one: &&Candidate| one.alive && one.ready && one.answers;
        let mut others = all.iter().filter(can);
        others
            .find(|one| !voters.contains(&one.id))
            .map(|one| one.id)
    };
    if let (2, Some(third)) = (voters.len(), third()) {
        voters.insert(third);
    }
    (voters != *voting && majority_answers(&voters, all)).then_some(voters)
}

fn majority_answers(voters: &BTreeSet<MemberId>, all: &[Candidate]) -> bool {
    let answer = all
        .iter()
        .filter(|one| one.answers && voters.contains(&one.id))
        .count();
    2 * answer > voters.len()
}

/// Who votes next: of those that can, one in the zone with the fewest votes.
fn successor(
    voters: &BTreeSet<MemberId>,
    staying: &BTreeMap<MemberId, &Candidate>,
) -> Option<MemberId> {
    let can = staying
        .values()
        .filter(|one| one.alive && one.ready && one.answers && !voters.contains(&one.id));
    can.min_by_key(|one| (votes_in(&one.zone, voters, staying), one.id))
        .map(|one| one.id)
}

/// Whose vote is one too many: of somebody who is down or does not answer, else in the zone with the most votes; never of the leader.
fn spare(
    me: MemberId,
    voters: &BTreeSet<MemberId>,
    staying: &BTreeMap<MemberId, &Candidate>,
) -> Option<MemberId> {
    let others = voters
        .iter()
        .map(|id| staying[id])
        .filter(|one| one.id != me);
    others
        .max_by_key(|one| {
            (
                !one.alive,
                !one.answers,
                votes_in(&one.zone, voters, staying),
                one.id,
            )
        })
        .map(|one| one.id)
}

fn votes_in(
    zone: &str,
    voters: &BTreeSet<MemberId>,
    staying: &BTreeMap<MemberId, &Candidate>,
) -> usize {
    voters.iter().filter(|id| staying[id].zone == zone).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(zones: &[&str]) -> Vec<Candidate> {
        let member = |(at, zone): (usize, &&str)| Candidate {
            id: MemberId(at as u64 + 1),
            zone: (*zone).to_owned(),
            alive: true,
            draining: false,
            ready: true,
            answers: true,
            given_up: false,
        };
        zones.iter().enumerate().map(member).collect()
    }

    fn ids(ids: &[u64]) -> BTreeSet<MemberId> {
        ids.iter().copied().map(MemberId).collect()
    }

    fn chosen(voting: &[u64], all: &[Candidate]) -> Option<BTreeSet<MemberId>> {
        choose(MemberId(1), &ids(voting), all)
    }

    #[test]
    fn the_number_follows_the_members() {
        assert_eq!(chosen(&[1], &members(&["a"; 2])), None);
        assert_eq!(chosen(&[1], &members(&["a"; 3])), Some(ids(&[1, 2, 3])));
        assert_eq!(chosen(&[1, 2, 3], &members(&["a"; 4])), None);
        assert_eq!(
            chosen(&[1, 2, 3], &members(&["a"; 6])),
            Some(ids(&[1, 2, 3, 4, 5]))
        );
        assert_eq!(chosen(&[1, 2, 3], &members(&["a"; 2])), Some(ids(&[1])));
    }

    #[test]
    fn votes_spread_over_zones() {
        let all = members(&["a", "a", "a", "b", "c", "c"]);
        assert_eq!(chosen(&[1], &all), Some(ids(&[1, 2, 4, 5, 6])));
        assert_eq!(chosen(&[1, 2, 4, 5, 6], &all), None);
        let all = members(&["a", "a", "b", "c"]);
        assert_eq!(chosen(&[1], &all), Some(ids(&[1, 3, 4])));
    }

    #[test]
    fn a_vote_moves_only_to_somebody_who_is_there() {
        let mut all = members(&["a"; 5]);
        all[2].alive = false;
        assert_eq!(chosen(&[1, 2, 3, 4, 5], &all), None);
        all[2].given_up = true;
        assert_eq!(chosen(&[1, 2, 3, 4, 5], &all), None, "nobody is left over");
        let mut all = members(&["a"; 6]);
        all[2].alive = false;
        assert_eq!(chosen(&[1, 2, 3, 4, 5], &all), None, "it may come back");
        all[2].given_up = true;
        assert_eq!(chosen(&[1, 2, 3, 4, 5], &all), Some(ids(&[1, 2, 4, 5, 6])));
        all[5].ready = false;
        assert_eq!(chosen(&[1, 2, 3, 4, 5], &all), None, "it lacks the log");
    }

    #[test]
    fn whoever_drains_votes_no_more() {
        let mut all = members(&["a"; 6]);
        all[1].draining = true;
        assert_eq!(chosen(&[1, 2, 3, 4, 5], &all), Some(ids(&[1, 3, 4, 5, 6])));
        let mut all = members(&["a"; 3]);
        all[2].draining = true;
        assert_eq!(chosen(&[1, 2, 3], &all), Some(ids(&[1])));
        // Of two that stay, the one that is there.
        all[2].draining = false;
        all[0].draining = true;
        all[1].alive = false;
        assert_eq!(chosen(&[1, 2, 3], &all), Some(ids(&[3])));
    }

    /// One of the three has just crashed, and is agreed to live for another two seconds.
    #[test]
    fn a_leader_that_drains_is_never_left_with_one_that_is_dead() {
        let mut all = members(&["a"; 3]);
        all[0].draining = true;
        all[1].answers = false;
        assert_eq!(chosen(&[1, 2, 3], &all), Some(ids(&[3])));
        all[2].answers = false;
        assert_eq!(chosen(&[1, 2, 3], &all), None, "nobody is left");
        let mut all = members(&["a"; 6]);
        (all[1].answers, all[2].answers, all[3].answers) = (false, false, false);
        all[4].draining = true;
        assert_eq!(
            chosen(&[1, 2, 3, 4, 5], &all),
            None,
            "three of them are silent"
        );
    }

    #[test]
    fn a_leader_that_goes_makes_two_voters_only_of_two_members() {
        let heirs = |voting: &[u64], all: &[Candidate]| with_heirs(MemberId(1), &ids(voting), all);
        let mut all = members(&["a"; 2]);
        all[0].draining = true;
        assert_eq!(heirs(&[1], &all), Some(ids(&[1, 2])));
        all[1].answers = false;
        assert_eq!(heirs(&[1], &all), None);
        let mut all = members(&["a"; 3]);
        all[0].draining = true;
        assert_eq!(heirs(&[1], &all), Some(ids(&[1, 2, 3])));
        all[1].answers = false;
        assert_eq!(heirs(&[1], &all), Some(ids(&[1, 3])), "both answer");
    }
}

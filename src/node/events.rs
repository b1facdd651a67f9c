//! What happens in the cluster, a line each, as this member gets to know of it: `.cluster/events`.
//!
//! Nobody reports events here. What can be seen (the agreed state, what SWIM sees, the leader) is looked at whenever it
//! changes, and the difference to the last look is told. So a member that was cut off tells what has changed meanwhile when it
//! is back, each thing once, and what came and went between two looks not at all.

use crate::{member::Member, status::leading};
use hydfs_membership::SeenState;
use hydfs_state::State;
use hydfs_types::{Incarnation, JobId, JobPhase, Time};
use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

/// Time from one look to the next, at least: a repair changes thousands of slots.
const LOOK: Duration = Duration::from_millis(50);

/// A member as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Standing {
    incarnation: Incarnation,
    alive: bool,
    left: bool,
    full: bool,
    draining: bool,
    /// It was seen to answer, in this incarnation.
    heard: bool,
    /// It was, and is not now.
    suspect: bool,
    /// Slots that it is still copying.
    learns: usize,
}

/// What can be seen at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Look {
    members: BTreeMap<String, Standing>,
    leader: Option<String>,
    /// Slots without a live copy.
    frozen: usize,
    jobs: BTreeMap<JobId, (String, JobPhase)>,
}

impl Look {
    /// With what has to be known from the look before: who joins did not stop to answer, it has not begun to.
    fn after(mut self, before: &Self) -> Self {
        for (name, now) in &mut self.members {
            let known = before.members.get(name);
            let heard =
                known.is_some_and(|known| known.heard && known.incarnation == now.incarnation);
            now.suspect = now.alive && heard && !now.heard;
            now.heard |= heard;
        }
        self
    }
}

/// Tells what happens, until the member stops.
pub(crate) async fn follow(member: Arc<Member>) {
    let mut state = member.followers.members.subscribe();
    let mut jobs = member.followers.jobs.subscribe();
    let mut leader = member.group.watch_leader();
    let Some(swim) = member.swim.get() else {
        return;
    };
    let mut seen = swim.watch();
    let mut last = look(&member).after(&Look::default());
    let me = &member.config.name;
    tell(&member, &format!("{me} watches"));
    last.members.iter().for_each(|(name, standing)| {
        if !standing.alive && !standing.left {
            tell(&member, &format!("{name} is down"));
        }
    });
    loop {
        let changed = tokio::select! {
            changed = state.changed() => changed,
            changed = jobs.changed() => changed,
            changed = leader.changed() => changed,
            changed = seen.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let now = look(&member).after(&last);
        differences(&last, &now, me)
            .iter()
            .for_each(|what| tell(&member, what));
        last = now;
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(member: &Member, what: &str) {
    let now = member.clock.now();
    member
        .events
        .push(&format!("{} {what}\n", written(now)), now);
}

fn look(member: &Member) -> Look {
    let state = member.ctx.state();
    let mut look = of_state(&state);
    look.leader = leading(member, &state).map(|leader| leader.said.name);
    drop(state);
    let view = member.swim.get().map(|swim| swim.view());
    for seen in view.unwrap_or_default() {
        if let Some(standing) = look.members.get_mut(&seen.name) {
            standing.heard = standing.alive && seen.state == SeenState::Alive;
        }
    }
    look
}

fn of_state(state: &State) -> Look {
    let mut learns: BTreeMap<Incarnation, usize> = BTreeMap::new();
    let mut frozen = 0;
    for config in state.cluster.slots.values() {
        frozen += usize::from(config.frozen);
        for acting in config.acting.iter().filter(|acting| !acting.synced) {
            *learns.entry(acting.incarnation).or_default() += 1;
        }
    }
    let members = state.cluster.members.values().map(|one| {
        let standing = Standing {
            incarnation: one.incarnation,
            alive: one.alive,
            left: one.left,
            full: one.full,
            draining: one.draining,
            heard: false,
            suspect: false,
            learns: learns.get(&one.incarnation).copied().unwrap_or_default(),
        };
        (one.said.name.clone(), standing)
    });
    let jobs = state.jobs.values();
    Look {
        members: members.collect(),
        leader: None,
        frozen,
        jobs: jobs
            .map(|job| (job.id, (job.name.clone(), job.phase)))
            .collect(),
    }
}

/// What has happened from one look to another: `NAME WHAT` each. What concerns no member is `me`'s word.
fn differences(before: &Look, now: &Look, me: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let none = Standing::default();
    for (name, one) in &now.members {
        let known = before.members.get(name);
        of_member(name, known.unwrap_or(&none), one, &mut lines);
    }
    if now.leader != before.leader {
        lines.push(match &now.leader {
            Some(leader) => format!("{leader} leads"),
            None => format!("{me} knows no leader"),
        });
    }
    if now.frozen != before.frozen {
        lines.push(match now.frozen {
            0 => format!("{me} sees a live copy of every slot again"),
            frozen => format!("{me} sees {frozen} slots without a live copy"),
        });
    }
    let by = now.leader.as_deref().unwrap_or(me);
    for (id, (name, phase)) in &now.jobs {
        if before.jobs.get(id).map(|known| known.1) != Some(*phase) {
            let phase = match phase {
                JobPhase::Running => "runs",
                JobPhase::Paused => "is paused",
                JobPhase::Done => "is done",
                JobPhase::Failed => "failed",
                JobPhase::Cancelled => "is cancelled",
            };
            lines.push(format!("{by} job {name} {phase}"));
        }
    }
    lines
}

fn of_member(name: &str, before: &Standing, now: &Standing, lines: &mut Vec<String>) {
    let mut say = |what: &str| lines.push(format!("{name} {what}"));
    // It may have gone and come back between two looks.
    let another = before.incarnation != now.incarnation;
    if before.alive && (another || !now.alive) {
        say(if now.left { "left" } else { "failed" });
    }
    if now.alive && (another || !before.alive) {
        say("joined");
    }
    if now.alive && now.suspect != before.suspect {
        let what = ["answers again", "is suspected"][usize::from(now.suspect)];
        say(what);
    }
    if now.full != before.full {
        say(["has room again", "has a full disk"][usize::from(now.full)]);
    }
    if now.draining != before.draining {
        let what = ["drains no more", "drains"][usize::from(now.draining)];
        say(what);
    }
    match (before.learns, now.learns) {
        (0, 0) => {}
        (0, slots) => say(&format!("repair begins: {slots} slots")),
        (_, 0) if now.alive => say("repair ended"),
        _ => {}
    }
}

/// `2026-11-29T08:00:00.123Z`.
fn written(time: Time) -> String {
    let (days, second) = (time.sec.div_euclid(86_400), time.sec.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: years begin in March, eras have 400 of them.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second % 3_600 / 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}");
    let (second, milli) = (second % 60, time.nsec / 1_000_000);
    write!(text, ":{second:02}.{milli:03}Z").expect("text in memory");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(standing: Standing) -> Look {
        Look {
            members: [("n3".to_owned(), standing)].into(),
            leader: Some("n1".into()),
            ..Look::default()
        }
    }

    fn up() -> Standing {
        Standing {
            incarnation: Incarnation(3),
            alive: true,
            ..Standing::default()
        }
    }

    #[test]
    fn a_members_life_line_by_line() {
        let suspect = Standing {
            suspect: true,
            ..up()
        };
        let dead = Standing {
            alive: false,
            ..up()
        };
        let back = Standing {
            incarnation: Incarnation(4),
            learns: 7,
            ..up()
        };
        let synced = Standing {
            learns: 0,
            ..back.clone()
        };
        let full = Standing {
            full: true,
            ..synced.clone()
        };
        let left = Standing {
            alive: false,
            left: true,
            ..synced.clone()
        };
        let life = [up(), suspect, dead, back.clone(), synced, full, left];
        let mut last = Look {
            leader: Some("n1".into()),
            ..Look::default()
        };
        let mut lines = Vec::new();
        for now in life.map(with) {
            lines.extend(differences(&last, &now, "n2"));
            last = now;
        }
        let told = [
            "n3 joined",
            "n3 is suspected",
            "n3 failed",
            "n3 joined",
            "n3 repair begins: 7 slots",
            "n3 repair ended",
            "n3 has a full disk",
            "n3 left",
            "n3 has room again",
        ];
        assert_eq!(lines, told);
        // Gone and back between two looks.
        let lines = differences(&with(up()), &with(back), "n2");
        assert_eq!(lines[..2], ["n3 failed", "n3 joined"]);
    }

    #[test]
    fn who_has_not_answered_yet_is_not_suspected() {
        let heard = Standing {
            heard: true,
            ..up()
        };
        let silent = with(up()).after(&Look::default());
        assert!(!silent.members["n3"].suspect);
        let answers = with(heard).after(&silent);
        assert!(differences(&silent, &answers, "n2").is_empty());
        let silent = with(up()).after(&answers);
        assert_eq!(differences(&answers, &silent, "n2"), ["n3 is suspected"]);
        let again = Standing {
            incarnation: Incarnation(4),
            ..up()
        };
        assert!(!with(again).after(&silent).members["n3"].suspect);
    }

    #[test]
    fn what_concerns_no_member_has_a_word_for_it() {
        let mut now = with(up());
        let before = now.clone();
        now.leader = None;
        now.frozen = 2;
        let job = ("count".to_owned(), JobPhase::Done);
        now.jobs.insert(JobId(1), job);
        let lines = differences(&before, &now, "n2");
        let told = [
            "n2 knows no leader",
            "n2 sees 2 slots without a live copy",
            "n2 job count is done",
        ];
        assert_eq!(lines, told);
    }

    #[test]
    fn times_are_written_as_people_read_them() {
        let at = |sec| {
            written(Time {
                sec,
                nsec: 7_000_000,
            })
        };
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_795_940_999), "2026-11-29T08:29:59.007Z");
        assert_eq!(at(-1), "1969-12-31T23:59:59.007Z");
    }
}

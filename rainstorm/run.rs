//! One attempt as its coordinator sees it: plan, places, and the positions that its reports add up to. No I/O.

use crate::error::Error;
use crate::load::Loads;
use crate::message::{Report, Response, TaskId};
use crate::plan::{Input, Pinned, Plan};
use crate::position::{Positions, Progress};
use crate::rate::Rates;
use crate::scale::Wish;
use crate::sink::Writer;
use crate::stateful::Held;
use crate::tally::Tallying;
use hydfs_types::{Ino, JobId, JobInfo, MemberId, Seq, WriterId};
use std::collections::{BTreeMap, BTreeSet};

/// How an attempt ended.
pub enum End {
    Done,
    /// The job table says so: another attempt, or the job's end.
    Over,
    Final(String),
    /// A file that it writes was removed.
    Removed(Ino),
    /// It goes on with other numbers of tasks.
    Scale(Vec<Wish>),
    Again {
        why: String,
        blame: Option<MemberId>,
    },
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Over => Self::Over,
            error if error.is_final() => Self::Final(error.to_string()),
            error => Self::Again {
                why: error.to_string(),
                blame: None,
            },
        }
    }
}

pub struct Run {
    pub info: JobInfo,
    pub plan: Plan,
    pub positions: Positions,
    pub progress: Progress,
    pub places: Vec<Vec<MemberId>>,
    /// What has been committed of each writer.
    pub watermarks: BTreeMap<WriterId, Seq>,
    /// Of the receipt, where there is one.
    pub receipt: Option<Writer>,
    /// Files of state that are no more needed and not removed yet.
    pub needless: BTreeSet<String>,
    /// Of sources with a rate.
    pub rates: Rates,
    /// Of stages whose numbers of tasks are open.
    pub loads: Loads,
    /// Where the state of each task is.
    pub held: BTreeMap<TaskId, Held>,
    pub tallying: Tallying,
}

impl Run {
    /// Members with tasks that have not ended.
    pub fn members_running(&self) -> BTreeSet<MemberId> {
        let places = self.places.iter().flatten();
        let tasks = self.positions.tasks.iter().flatten();
        places
            .zip(tasks)
            .filter(|(_, task)| !task.ended)
            .map(|(&member, _)| member)
            .collect()
    }

    /// Takes the reports of a barrier in; returns the watermarks that moved.
    pub fn merge(&mut self, reports: &[Report]) -> Vec<(WriterId, Seq)> {
        let mut moved = Vec::new();
        for report in reports {
            let slot = self
                .positions
                .tasks
                .get_mut(report.id.node as usize)
                .and_then(|all| all.get_mut(report.id.task as usize));
            if let Some(slot) = slot {
                *slot = report.position.clone();
            }
            for &(writer, seq) in &report.watermarks {
                if self.watermarks.insert(writer, seq) != Some(seq) {
                    moved.push((writer, seq));
                }
            }
            self.progress.rows_in += report.counters.rows_in;
            self.progress.bytes_in += report.counters.bytes_in;
            self.progress.rows_out += report.counters.rows_out;
            self.progress.retries += report.counters.retries;
            self.progress.dead += report.counters.dead;
            self.held.insert(report.id, report.held);
        }
        self.progress.state_memory = self.held.values().map(|held| held.memory).sum();
        self.progress.state_disk = self.held.values().map(|held| held.disk).sum();
        let read: BTreeSet<usize> = self
            .plan
            .steps
            .iter()
            .filter_map(|step| match step.input {
                Input::Source(source) => Some(source),
                Input::Nodes(_) => None,
            })
            .collect();
        let sources = read.iter().filter_map(|&at| self.positions.sources.get(at));
        // Followed sources grow on: what is read is what there is.
        let pinned: u64 = sources.map(Pinned::bytes).sum();
        self.progress.bytes_total = pinned.max(match self.plan.sources.iter().any(|s| s.follow) {
            true => self.progress.bytes_in,
            false => 0,
        });
        self.progress.tasks = self.positions.tasks.iter().flatten().count() as u32;
        self.progress.tasks_ended = self
            .positions
            .tasks
            .iter()
            .flatten()
            .filter(|task| task.ended)
            .count() as u32;
        let tally = self.tallying.barrier(&self.plan, &self.positions, reports);
        self.progress.tally.clone_from(tally);
        moved
    }
}

/// Tasks in turn over the members; each job begins at another one. Tasks of the same number share a member.
pub fn places(
    plan: &Plan,
    alive: &[(MemberId, String)],
    avoid: &BTreeSet<MemberId>,
    job: JobId,
) -> Vec<Vec<MemberId>> {
    let mut members: Vec<MemberId> = alive
        .iter()
        .map(|(member, _)| *member)
        .filter(|m| !avoid.contains(m))
        .collect();
    if members.is_empty() {
        members = alive.iter().map(|(member, _)| *member).collect();
    }
    let place = |task: u32| {
        members
            .get((task as usize + job.0 as usize) % members.len().max(1))
            .copied()
    };
    plan.steps
        .iter()
        .map(|step| (0..step.tasks).filter_map(place).collect())
        .collect()
}

pub fn refused(member: MemberId, response: Response) -> End {
    match response {
        Response::Failed {
            is_final: true,
            why,
        } => End::Final(why),
        Response::Failed {
            is_final: false,
            why,
        } => End::Again {
            why: format!("on {member}: {why}"),
            blame: None,
        },
        Response::Unknown => End::Again {
            why: format!("member {member} lost the attempt"),
            blame: None,
        },
        Response::Over => End::Over,
        other => End::Again {
            why: format!("{member} answered {other:?}"),
            blame: Some(member),
        },
    }
}

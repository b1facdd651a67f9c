//! What each task of a job does, in words and as JSON.

use crate::event_time::utc_text;
use crate::tally::{NodeTally, Pace, Tally, TaskTally};
use hydfs_types::{JobInfo, JobPhase, MemberId, Time};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Who waits for room for less than this, in percent of the time, is not held up.
const HELD_UP: u32 = 10;
/// What was seen in a look counts for as long again, and for so many milliseconds more.
const FRESH_MS: u64 = 3000;

/// Who looks, and when.
pub struct View<'a> {
    pub now: Time,
    /// What a member is called, if it is still known.
    pub name: &'a dyn Fn(MemberId) -> Option<String>,
}

/// A tally, and who looks at it.
struct Look<'a> {
    tally: &'a Tally,
    view: &'a View<'a>,
    /// What was seen last still goes on.
    is_fresh: bool,
}

/// Tasks of a node that wait for another.
struct HeldUp<'a> {
    node: &'a NodeTally,
    by: &'a NodeTally,
    /// Of their time.
    percent: u32,
}

/// A part of `progress`: one `key = value` a line.
pub fn text(job: &JobInfo, tally: &Tally, view: &View) -> String {
    let look = Look::new(job, tally, view);
    let mut text = match job.phase {
        JobPhase::Running => format!("lines_per_second = {}\n", look.lines_per_second()),
        _ => String::new(),
    };
    for edge in look.held_up() {
        text.push_str(&edge.text());
    }
    for node in &tally.nodes {
        for (number, task) in node.tasks.iter().enumerate() {
            let words = look.words(node, task).join("; ");
            text.push_str(&format!("task.{}-{number} = {words}\n", node.name));
        }
    }
    text
}

/// A part of `status.json`.
pub fn json(job: &JobInfo, tally: &Tally, view: &View) -> Map<String, Value> {
    let look = Look::new(job, tally, view);
    let stages = tally.nodes.iter().map(|node| {
        let tasks = node.tasks.iter().map(|task| look.json(node, task));
        (node.name.clone(), tasks.collect::<Value>())
    });
    let edge = |edge: &HeldUp| {
        let (stage, by) = (&edge.node.name, &edge.by.name);
        json!({ "stage": stage, "by": by, "percent": edge.percent })
    };
    Map::from_iter([
        (
            "lines_per_second".to_owned(),
            look.lines_per_second().into(),
        ),
        (
            "held_up".to_owned(),
            look.held_up().iter().map(edge).collect(),
        ),
        ("stages".to_owned(), Value::Object(stages.collect())),
    ])
}

impl<'a> Look<'a> {
    /// A job that has nothing to do commits nothing, and one whose attempts come to nothing does not, either.
    fn new(job: &JobInfo, tally: &'a Tally, view: &'a View) -> Self {
        let millis = |time: Time| time.sec * 1000 + i64::from(time.nsec / 1_000_000);
        // Who committed may have another clock.
        let age = (millis(view.now) - millis(job.changed)).unsigned_abs();
        let is_fresh = job.phase == JobPhase::Running
            && job.attempt == tally.attempt
            && tally.look_ms > 0
            && age <= FRESH_MS + tally.look_ms;
        Self {
            tally,
            view,
            is_fresh,
        }
    }

    /// Lines that all sources together take in.
    fn lines_per_second(&self) -> u64 {
        let all = || self.tally.nodes.iter();
        let fed = all().flat_map(|node| &node.next);
        let fed: BTreeSet<usize> = fed.map(|&next| usize::from(next)).collect();
        let first = all().enumerate().filter(|(at, _)| !fed.contains(at));
        let tasks = first.flat_map(|(_, node)| &node.tasks);
        tasks
            .filter_map(|task| self.pace(task))
            .map(|pace| pace.lines)
            .sum()
    }

    /// Who waits for whom.
    fn held_up(&self) -> Vec<HeldUp<'a>> {
        if !self.is_fresh {
            return Vec::new();
        }
        let edges = self.tally.nodes.iter().flat_map(|node| {
            let next = self.next(node).enumerate();
            next.map(move |(at, by)| HeldUp {
                node,
                by,
                percent: node.blocked(at),
            })
        });
        edges.filter(|edge| edge.percent >= HELD_UP).collect()
    }

    /// The nodes that one feeds.
    fn next(&self, node: &'a NodeTally) -> impl Iterator<Item = &'a NodeTally> {
        let tally = self.tally;
        let next = node.next.iter();
        next.filter_map(|&next| tally.nodes.get(usize::from(next)))
    }

    fn pace(&self, task: &'a TaskTally) -> Option<&'a Pace> {
        (self.is_fresh && !task.ended).then_some(&task.pace)
    }

    fn member(&self, id: MemberId) -> String {
        (self.view.name)(id).unwrap_or_else(|| id.to_string())
    }

    fn words(&self, node: &'a NodeTally, task: &'a TaskTally) -> Vec<String> {
        let TaskTally {
            member,
            ended,
            lines_in,
            lines_out,
            retries,
            dead,
            behind,
            mark,
            memory,
            disk,
            pace: _,
        } = task;
        let state = if *ended { "ended on" } else { "on" };
        let mut words = vec![format!("{state} {}", self.member(*member))];
        let pace = self.pace(task);
        let rate = pace.map(|pace| format!(" ({}/s)", pace.lines));
        let rate = rate.unwrap_or_default();
        words.push(format!("{lines_in} lines in{rate}, {lines_out} out"));
        words.extend(pace.map(|pace| self.time(node, pace)));
        let counts = [
            (*behind, "bytes behind"),
            (*retries, "retries"),
            (*dead, "dead letters"),
            (*memory, "bytes of state in memory"),
            (*disk, "bytes of state on disk"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        words.extend(counts.map(|(count, what)| format!("{count} {what}")));
        words.extend(mark.map(|mark| format!("event watermark {}", mark_text(mark))));
        words
    }

    fn time(&self, node: &'a NodeTally, pace: &Pace) -> String {
        let mut time = format!("works {} % of the time", pace.busy);
        if pace.writing > 0 {
            time.push_str(&format!(" (writes for {} %)", pace.writing));
        }
        time.push_str(&format!(", waits for input {} %", pace.idle));
        for (next, blocked) in self.next(node).zip(&pace.blocked) {
            if *blocked > 0 {
                time.push_str(&format!(", for {} {blocked} %", next.name));
            }
        }
        time
    }

    fn json(&self, node: &'a NodeTally, task: &'a TaskTally) -> Value {
        let pace = self.pace(task);
        let blocked = pace.map(|pace| {
            let shares = self.next(node).zip(&pace.blocked);
            let shares = shares.map(|(next, share)| (next.name.clone(), json!(share)));
            shares.collect::<Map<_, _>>()
        });
        json!({
            "member": self.member(task.member),
            "ended": task.ended,
            "lines_in": task.lines_in,
            "lines_out": task.lines_out,
            "retries": task.retries,
            "dead": task.dead,
            "bytes_behind": task.behind,
            "watermark_ms": task.mark,
            "state_memory": task.memory,
            "state_disk": task.disk,
            "lines_per_second": pace.map_or(0, |pace| pace.lines),
            "works_percent": pace.map(|pace| pace.busy),
            "writes_percent": pace.map(|pace| pace.writing),
            "waits_for_input_percent": pace.map(|pace| pace.idle),
            "waits_for_percent": blocked,
        })
    }
}

impl HeldUp<'_> {
    fn text(&self) -> String {
        let Self { node, by, percent } = self;
        let busy = by.mean(|pace| pace.busy);
        let busiest = match by.busiest() {
            most if most > busy => format!(" (its busiest task {most} %)"),
            _ => String::new(),
        };
        let writes = match by.mean(|pace| pace.writing) {
            0 => String::new(),
            writing => format!(", writes for {writing} %"),
        };
        let (node, by) = (&node.name, &by.name);
        format!(
            "held_up.{node}.by.{by} = {percent} % of the time; {by} works {busy} %{busiest}{writes}\n"
        )
    }
}

fn mark_text(mark: i64) -> String {
    match u64::try_from(mark.div_euclid(1000)) {
        Ok(seconds) => utc_text(seconds),
        Err(_) => format!("{} ms before 1970", mark.unsigned_abs()),
    }
}

//! What each task of a job does, in words and as JSON.

use crate::event_time::utc_text;
use crate::status::progress;
use crate::tally::{NodeTally, Tally, TaskTally};
use hydfs_types::{JobInfo, JobPhase, MemberId, Time};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Who waits for room for less than this, in percent of the time, is not held up.
const HELD_UP: u32 = 10;
/// What was seen in a look counts for as long after it as so many looks take.
const LOOKS_FRESH: u64 = 3;
/// A look counts as one of so long at least, in milliseconds.
const LOOK_MS_MIN: u64 = 1000;

/// Who looks, and when.
pub struct View<'a> {
    pub now: Time,
    /// What a member is called, if it is still known.
    pub name: &'a dyn Fn(MemberId) -> Option<String>,
}

/// Tasks of a node that wait for another.
pub struct HeldUp<'a> {
    node: &'a NodeTally,
    by: &'a NodeTally,
    /// Of their time.
    percent: u32,
}

impl HeldUp<'_> {
    fn text(&self) -> String {
        let Self { node, by, percent } = self;
        let writes = match by.mean(|pace| pace.writing) {
            0 => String::new(),
            writing => format!(" (writes for {writing} %)"),
        };
        format!(
            "held_up.{} = {percent} % of the time by {}, which works {} % of it{writes}\n",
            node.name,
            by.name,
            by.mean(|pace| pace.busy)
        )
    }

    pub fn json(&self) -> Value {
        json!({ "stage": self.node.name, "by": self.by.name, "percent": self.percent })
    }
}

impl View<'_> {
    /// Whether what was seen last still goes on: a job that has nothing to do commits nothing.
    fn is_fresh(&self, job: &JobInfo, tally: &Tally) -> bool {
        let millis = |time: Time| time.sec * 1000 + i64::from(time.nsec / 1_000_000);
        let age = millis(self.now) - millis(job.changed);
        let limit = LOOKS_FRESH * tally.look_ms.max(LOOK_MS_MIN);
        job.phase == JobPhase::Running && age <= limit as i64
    }

    fn member(&self, id: MemberId) -> String {
        (self.name)(id).unwrap_or_else(|| id.to_string())
    }
}

/// Lines that all sources together take in, a second.
pub fn lines_per_second(job: &JobInfo, tally: &Tally, view: &View) -> u64 {
    if !view.is_fresh(job, tally) {
        return 0;
    }
    let fed: BTreeSet<usize> = tally
        .nodes
        .iter()
        .flat_map(|node| &node.next)
        .map(|&next| usize::from(next))
        .collect();
    let nodes = tally.nodes.iter().enumerate();
    let first = nodes.filter(|(at, _)| !fed.contains(at));
    first
        .flat_map(|(_, node)| &node.tasks)
        .map(|task| task.pace.lines)
        .sum()
}

/// Who waits for whom.
pub fn held_up<'a>(job: &JobInfo, tally: &'a Tally, view: &View) -> Vec<HeldUp<'a>> {
    if !view.is_fresh(job, tally) {
        return Vec::new();
    }
    let edges = tally.nodes.iter().flat_map(|node| {
        let next = node.next.iter().enumerate();
        next.filter_map(move |(at, &by)| {
            Some(HeldUp {
                node,
                by: tally.nodes.get(usize::from(by))?,
                percent: node.blocked(at),
            })
        })
    });
    edges.filter(|edge| edge.percent >= HELD_UP).collect()
}

/// One `key = value` a line.
pub fn text(job: &JobInfo, tally: &Tally, view: &View) -> String {
    if tally.nodes.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "lines_per_second = {}\n",
        lines_per_second(job, tally, view)
    );
    for edge in held_up(job, tally, view) {
        text.push_str(&edge.text());
    }
    let is_fresh = view.is_fresh(job, tally);
    for node in &tally.nodes {
        for (number, task) in node.tasks.iter().enumerate() {
            let words = words(tally, node, task, is_fresh, view).join("; ");
            text.push_str(&format!("task.{}-{number} = {words}\n", node.name));
        }
    }
    text
}

fn words(
    tally: &Tally,
    node: &NodeTally,
    task: &TaskTally,
    is_fresh: bool,
    view: &View,
) -> Vec<String> {
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
        pace,
    } = task;
    let state = if *ended { "ended on" } else { "on" };
    let mut words = vec![format!("{state} {}", view.member(*member))];
    let goes_on = is_fresh && !ended;
    let rate = match goes_on {
        true => format!(" ({}/s)", pace.lines),
        false => String::new(),
    };
    words.push(format!("{lines_in} lines in{rate}, {lines_out} out"));
    if goes_on {
        let mut time = format!("works {} % of the time", pace.busy);
        if pace.writing > 0 {
            time.push_str(&format!(" (writes for {} %)", pace.writing));
        }
        time.push_str(&format!(", waits for input {} %", pace.idle));
        for (next, blocked) in nexts(tally, node).zip(&pace.blocked) {
            if *blocked > 0 {
                time.push_str(&format!(", for {} {blocked} %", next.name));
            }
        }
        words.push(time);
    }
    let counts = [
        (*behind, "bytes behind"),
        (*retries, "retries"),
        (*dead, "dead letters"),
        (*memory, "bytes of state in memory"),
        (*disk, "bytes of state on disk"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    words.extend(counts.map(|(count, what)| format!("{count} {what}")));
    if let Some(mark) = mark {
        words.push(format!("event watermark {}", mark_text(*mark)));
    }
    words
}

fn nexts<'a>(tally: &'a Tally, node: &'a NodeTally) -> impl Iterator<Item = &'a NodeTally> {
    let next = node.next.iter();
    next.filter_map(|&next| tally.nodes.get(usize::from(next)))
}

fn mark_text(mark: i64) -> String {
    match u64::try_from(mark.div_euclid(1000)) {
        Ok(seconds) => utc_text(seconds),
        Err(_) => format!("{mark} ms before 1970"),
    }
}

/// What the tasks of a job are called, with their nodes' names and numbers.
pub fn task_names(job: &JobInfo) -> Vec<String> {
    let tally = tally(job);
    let nodes = tally.nodes.iter().flat_map(|node| {
        (0..node.tasks.len()).map(move |number| format!("{}-{number}", node.name))
    });
    nodes.collect()
}

/// `/.jobs/NAME/tasks/STAGE-N/state`: what a task does, one `key = value` a line; `None` if there is no such task.
pub fn task_state(job: &JobInfo, name: &str, view: &View) -> Option<String> {
    let (stage, number) = name.rsplit_once('-')?;
    let tally = tally(job);
    let node = tally.nodes.iter().find(|node| node.name == stage)?;
    let task = node.tasks.get(number.parse::<usize>().ok()?)?;
    let Value::Object(fields) = task_json(&tally, node, task, view.is_fresh(job, &tally), view)
    else {
        return None;
    };
    let line = |(key, value): (&String, &Value)| match value {
        Value::Null => String::new(),
        Value::String(text) => format!("{key} = {text}\n"),
        Value::Object(parts) => {
            let part = |(name, value): (&String, &Value)| format!("{key}.{name} = {value}\n");
            parts.iter().map(part).collect()
        }
        value => format!("{key} = {value}\n"),
    };
    Some(fields.iter().map(line).collect())
}

fn tally(job: &JobInfo) -> Tally {
    progress(job).unwrap_or_default().tally
}

/// Tasks by stage.
pub fn json(job: &JobInfo, tally: &Tally, view: &View) -> Value {
    let is_fresh = view.is_fresh(job, tally);
    let nodes = tally.nodes.iter().map(|node| {
        let tasks = node.tasks.iter();
        let tasks = tasks.map(|task| task_json(tally, node, task, is_fresh, view));
        (node.name.clone(), tasks.collect::<Value>())
    });
    Value::Object(nodes.collect())
}

fn task_json(
    tally: &Tally,
    node: &NodeTally,
    task: &TaskTally,
    is_fresh: bool,
    view: &View,
) -> Value {
    let pace = (is_fresh && !task.ended).then_some(&task.pace);
    let blocked = pace.map(|pace| {
        let shares = nexts(tally, node).zip(&pace.blocked);
        let shares = shares.map(|(next, share)| (next.name.clone(), json!(share)));
        shares.collect::<Map<_, _>>()
    });
    json!({
        "member": view.member(task.member),
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

//! Texts of `/.jobs/NAME/status` and `progress`, made from the agreed job table alone.

use crate::event_time::utc_text;
use crate::position::{Positions, Progress};
use crate::rate;
use crate::scale::{Bounds, Scaled};
use crate::spec::{SourceSpec, StageSpec};
use crate::tally_text::{self, View};
use hydfs_types::{JobInfo, JobPhase, Time};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The word for a phase.
pub fn phase_word(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Running => "running",
        JobPhase::Paused => "paused",
        JobPhase::Done => "done",
        JobPhase::Failed => "failed",
        JobPhase::Cancelled => "cancelled",
    }
}

/// `/.jobs/NAME/status`: one `key = value` a line.
pub fn status_text(job: &JobInfo) -> String {
    let mut text = format!(
        "status = {}\njob = {}\nattempt = {}\nepoch = {}\nstarted = {}\nchanged = {}\n",
        phase_word(job.phase),
        job.id,
        job.attempt.0,
        job.epoch.0,
        job.started,
        job.changed
    );
    let counters = progress(job).unwrap_or_default();
    if job.phase == JobPhase::Done {
        text.push_str(&format!("summary = {}\n", summary(job, &counters)));
    }
    if counters.dead > 0 {
        text.push_str("degraded = some lines could not be worked on: see dead/\n");
    }
    if !job.message.is_empty() {
        text.push_str(&format!(
            "message = {}\n",
            job.message.trim().replace('\n', "\n  ")
        ));
    }
    text
}

/// When a job that is done ran, how long, how much it read and put out, and how fast.
fn summary(job: &JobInfo, counters: &Progress) -> String {
    let seconds = took(job);
    let (rows, bytes, rows_out) = (counters.rows_in, counters.bytes_in, counters.rows_out);
    let a_second = |all: u64| (all as f64 / seconds.max(1e-3)) as u64;
    format!(
        "from {} on {seconds:.3} s; read {rows} lines ({bytes} bytes), {} lines and {} bytes a second; put out {rows_out} lines; \
         {} job epochs, {} attempts",
        utc_text(job.started.sec.max(0) as u64),
        a_second(rows),
        a_second(bytes),
        job.epoch.0,
        job.attempt.0,
    )
}

/// Seconds from the start of a job to its last change.
fn took(job: &JobInfo) -> f64 {
    let seconds = |time: Time| time.sec as f64 + f64::from(time.nsec) / 1e9;
    (seconds(job.changed) - seconds(job.started)).max(0.0)
}

/// A line of `.cluster/jobs`: the status and the counters of a job, as JSON.
pub fn job_json(job: &JobInfo) -> String {
    let counters = progress(job).unwrap_or_default();
    format!("{}\n", Value::Object(fields(job, &counters)))
}

/// `/.jobs/NAME/status.json`: the same, and what each task does, as one line of JSON.
pub fn status_json(job: &JobInfo, view: &View) -> String {
    let counters = progress(job).unwrap_or_default();
    let mut fields = fields(job, &counters);
    fields.extend(tally_text::json(job, &counters.tally, view));
    format!("{}\n", Value::Object(fields))
}

fn fields(job: &JobInfo, counters: &Progress) -> Map<String, Value> {
    let InForce { rates, scales } = in_force(job);
    let value = json!({
        "name": job.name,
        "status": phase_word(job.phase),
        "job": job.id.to_string(),
        "attempt": job.attempt.0,
        "epoch": job.epoch.0,
        "started": job.started.to_string(),
        "changed": job.changed.to_string(),
        "message": job.message,
        "rows_in": counters.rows_in,
        "rows_out": counters.rows_out,
        "bytes_in": counters.bytes_in,
        "bytes_total": counters.bytes_total,
        "retries": counters.retries,
        "tasks": counters.tasks,
        "tasks_ended": counters.tasks_ended,
        "dead": counters.dead,
        "state_memory": counters.state_memory,
        "state_disk": counters.state_disk,
        "seconds": took(job),
        "rates": rates.into_iter().collect::<BTreeMap<_, _>>(),
        "scales": scales.iter().map(|scale| (&scale.stage, scale.json())).collect::<BTreeMap<_, _>>(),
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// `/.jobs/NAME/progress`: counters of the last committed job epoch, who waits for whom, and what each task does: one `key = value`
/// a line.
pub fn progress_text(job: &JobInfo, view: &View) -> String {
    let Some(progress) = progress(job) else {
        return "rows_in = 0\nrows_out = 0\nepoch = none is committed yet\n".to_owned();
    };
    let Progress {
        rows_in,
        rows_out,
        bytes_in,
        bytes_total,
        retries,
        tasks,
        tasks_ended,
        dead,
        state_memory,
        state_disk,
        tally,
    } = progress;
    let percent = (100 * bytes_in)
        .checked_div(bytes_total)
        .unwrap_or(100)
        .min(100);
    let InForce { rates, scales } = in_force(job);
    let rates = rates
        .iter()
        .map(|(source, rate)| format!("rate.{source} = {rate}/s\n"));
    let scales = scales.iter().map(Scale::text);
    format!(
        "percent = {percent}\nrows_in = {rows_in}\nrows_out = {rows_out}\nbytes_in = {bytes_in}\n\
         bytes_total = {bytes_total}\nretries = {retries}\ntasks = {tasks}\ntasks_ended = {tasks_ended}\ndead = {dead}\n\
         state_memory = {state_memory}\nstate_disk = {state_disk}\n{}{}",
        rates.chain(scales).collect::<String>(),
        tally_text::text(job, &tally, view),
    )
}

/// What is in force as of the last committed job epoch.
#[derive(Default)]
struct InForce {
    /// Of sources that have one, in lines a second.
    rates: Vec<(String, u64)>,
    /// Stages whose numbers of tasks are open.
    scales: Vec<Scale>,
}

struct Scale {
    stage: String,
    tasks: u32,
    bounds: Bounds,
    last: Option<Scaled>,
}

fn in_force(job: &JobInfo) -> InForce {
    let Ok(positions) = Positions::decode(&job.positions) else {
        return InForce::default();
    };
    let Ok(spec) = positions.parse() else {
        return InForce::default();
    };
    let rate = |source: SourceSpec| {
        let rate = rate::effective(source.rate, positions.rate)?;
        Some((source.name, rate))
    };
    let scale = |stage: StageSpec| {
        Some(Scale {
            tasks: stage.tasks,
            bounds: stage.scale?,
            last: positions.scaled.get(&stage.name).cloned(),
            stage: stage.name,
        })
    };
    InForce {
        rates: spec.sources.into_iter().filter_map(rate).collect(),
        scales: spec.stages.into_iter().filter_map(scale).collect(),
    }
}

impl Scale {
    fn text(&self) -> String {
        let Self {
            stage,
            tasks,
            bounds,
            last,
        } = self;
        let last = last
            .as_ref()
            .map(|last| format!("scaled.{stage} = {last}\n"));
        format!(
            "tasks.{stage} = {tasks} of {bounds}\n{}",
            last.unwrap_or_default()
        )
    }

    fn json(&self) -> Value {
        json!({
            "tasks": self.tasks,
            "min": self.bounds.min,
            "max": self.bounds.max,
            "scaled": self.last.as_ref().map(Scaled::to_string),
        })
    }
}

/// Counters of the last committed job epoch; `None` before the first.
pub fn progress(job: &JobInfo) -> Option<Progress> {
    (!job.progress.is_empty())
        .then(|| Progress::decode(&job.progress).ok())
        .flatten()
}

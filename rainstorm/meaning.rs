//! What of a spec must not change while a job goes on: how a source was read so far, and what a stage's state says.

use crate::plan::{Op, Plan};
use crate::spec::{Column, OpSpec, Partition, SourceSpec, Spec, StageSpec, TimeSpec};
use crate::spec_ends::Format;
use crate::spec_tree::Fault;

/// For each source of the new spec the old one that it goes on with, if there is one: by its name, or renamed.
pub fn sources(old: &Spec, new: &Spec) -> Result<Vec<Option<usize>>, Fault> {
    let named = |name: &str| old.sources.iter().position(|source| source.name == name);
    let is_free = |at: usize| !new.sources.iter().any(|s| s.name == old.sources[at].name);
    let mut taken = Vec::new();
    let mut kept = Vec::new();
    for source in &new.sources {
        let found = match named(&source.name) {
            Some(at) if same_input(&old.sources[at], source) => Some(at),
            Some(_) => {
                let what = format!(
                    "the source `{}` reads something else than before",
                    source.name
                );
                let remedy = "give `path`, `format`, `prefix`, `follow` and the bytes of `start` or `range` back, or the source another name: then it is read from its beginning";
                return Err(Fault::new(source.at, what, remedy));
            }
            None => (0..old.sources.len()).find(|&at| {
                is_free(at) && !taken.contains(&at) && same_input(&old.sources[at], source)
            }),
        };
        taken.extend(found);
        kept.push(found);
    }
    Ok(kept)
}

fn same_input(a: &SourceSpec, b: &SourceSpec) -> bool {
    // CSV and lines differ in where the data begins, frames in where records do.
    let data = |source: &SourceSpec| {
        let prefix = source.format.framing().map(|framing| framing.prefix);
        (source.format == Format::Csv, prefix)
    };
    let part = |source: &SourceSpec| source.extent.bounds();
    (&a.path, a.follow, data(a), part(a)) == (&b.path, b.follow, data(b), part(b))
}

/// What the state of a stage says, in words; `None` of a stage without state. Equal words: the state is the same's.
/// `origin` names a source, so that the sides of a join can be told even if stages were put in before it.
pub fn of_state(
    stage: &StageSpec,
    plan: &Plan,
    origin: impl Fn(usize) -> String,
) -> Option<String> {
    let words = match &stage.op {
        OpSpec::Aggregate(spec) => {
            let window = spec.window.as_ref().map(|(cut, of, lateness_ms)| {
                format!(
                    " in windows {cut:?} of {} up to {lateness_ms} ms late",
                    time(of)
                )
            });
            let of = spec.of.as_ref().map(|of| format!(" of {}", name(of)));
            let kind = format!("{:?}", spec.kind);
            format!(
                "{}{} by {}{}",
                kind.to_lowercase(),
                of.unwrap_or_default(),
                names(&spec.by),
                window.unwrap_or_default()
            )
        }
        OpSpec::Dedup { by, within } => {
            let within = within
                .as_ref()
                .map(|(of, ms)| format!(" within {ms} ms of {}", time(of)));
            format!("dedup by {}{}", names(by), within.unwrap_or_default())
        }
        OpSpec::Join {
            on,
            time: times,
            within_ms,
        } => {
            let step = plan.steps.iter().find(|step| step.name == stage.name);
            let columns = |at: usize| match step.map(|step| &step.op) {
                Some(Op::Join(spec)) => spec.columns[at].as_deref(),
                _ => None,
            };
            let side = |at: usize| {
                let from = stage
                    .from
                    .get(at)
                    .map(|from| origins(&from.name, plan, &origin));
                let from = from.unwrap_or_default();
                let of = columns(at).map(|columns| format!(" ({})", columns.join(", ")));
                let of = of.unwrap_or_default();
                format!("{from}{of} on {} at {}", names(&on[at]), time(&times[at]))
            };
            format!("join of {} with {} within {within_ms} ms", side(0), side(1))
        }
        OpSpec::Exec { exec, .. } if exec.state.is_some() => {
            let by = match &stage.partition {
                Partition::Key(by) => names(by),
                _ => String::new(),
            };
            let args: String = exec.args.iter().map(|arg| format!(" {arg:?}")).collect();
            format!("exec of {}{args} by {by}", exec.place)
        }
        _ => return None,
    };
    Some(words)
}

/// The sources that the lines of a source or stage come from.
fn origins(from: &str, plan: &Plan, origin: impl Fn(usize) -> String) -> String {
    let step = plan.steps.iter().find(|step| step.name == from);
    let numbers = match step {
        Some(step) => step.origins.clone(),
        None => plan
            .sources
            .iter()
            .position(|source| source.name == from)
            .into_iter()
            .collect(),
    };
    let mut all: Vec<String> = numbers.into_iter().map(origin).collect();
    all.sort();
    all.join("+")
}

fn time(of: &TimeSpec) -> String {
    format!("{} as {:?}", name(&of.column), of.format)
}

fn name(column: &Column) -> String {
    match &column.name {
        Ok(name) => name.clone(),
        Err(number) => number.to_string(),
    }
}

fn names(columns: &[Column]) -> String {
    match columns {
        [] => "the whole line".to_owned(),
        some => some.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

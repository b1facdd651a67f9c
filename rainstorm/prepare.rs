//! From a spec file to the positions that a job begins at: parse, pin the sources, read headers, resolve. Every
//! mistake that can be found before anything runs is found here (fault R9).

use crate::batch::LINE_BYTES_MAX;
use crate::csv;
use crate::ends;
use crate::error::{Error, Result};
use crate::extent;
use crate::given::INPUT_BYTES_MAX;
use crate::glob::{self, Found};
use crate::header;
use crate::lookup;
use crate::meaning;
use crate::options::Options;
use crate::plan::{Op, Pinned, PinnedFile, Plan, Step};
use crate::position::{Border, Positions, TaskPosition};
use crate::savepoint::{self, StartSpec};
use crate::seams::{Owner, Source, Storage, StorageError, StorageResult};
use crate::spec::{InputSpec, LookupSpec, OpSpec, Place, SPEC_BYTES_MAX, SourceSpec, Spec};
use crate::spec_ends::Format;
use crate::spec_tree::Fault;
use crate::upgrade::{self, ANEW, Version};
use futures_util::future::try_join_all;
use std::collections::BTreeMap;

/// Files that are pinned at the same time.
const PINS_MAX: usize = 32;
/// Most bytes of a CSV header.
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// A spec file.
#[derive(Debug, Clone)]
pub struct SpecFile {
    /// Its path.
    pub path: String,
    /// The job's name: the file's, without its ending.
    pub name: String,
    pub owner: Owner,
    pub source: Source,
}

/// The job's name in a spec's path; `None` for names that are not specs (dot files, `*~`, `4913`, no ending).
pub fn job_name(path: &str) -> Option<(&str, bool)> {
    let file = path.strip_prefix("/.jobs/")?;
    let (name, json) = match file.strip_suffix(".toml") {
        Some(name) => (name, false),
        None => (file.strip_suffix(".json")?, true),
    };
    is_job_name(name).then_some((name, json))
}

/// Whether a job can be called so.
pub fn is_job_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | '+');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(good)
}

/// A job's last committed job epoch, or a savepoint: what a spec goes on with.
pub struct Before {
    pub positions: Positions,
    pub spec: Spec,
    pub plan: Plan,
}

impl Before {
    /// Of a job of this name. Positions of another shape than their plan's, which no job writes, are refused.
    pub fn of(name: &str, positions: Positions) -> Result<Self> {
        let before = Self::planned(name, positions)?;
        let tasks = before.plan.steps.iter().map(|step| step.tasks as usize);
        match tasks.eq(before.positions.tasks.iter().map(Vec::len)) {
            true => Ok(before),
            false => Err(Error::Job(format!(
                "/.jobs/{name}: the positions are not those of its plan"
            ))),
        }
    }

    /// The same whose positions are still to be shared out anew.
    pub fn planned(name: &str, positions: Positions) -> Result<Self> {
        let broken = |what: String| Error::Job(format!("/.jobs/{name}: {what}"));
        let spec = positions.parse().map_err(|fault| broken(fault.what))?;
        let lookups = spec.stages.iter();
        let lookups = lookups.filter(|stage| matches!(stage.op, OpSpec::Lookup(_)));
        if spec.sources.len() + lookups.count() != positions.sources.len() {
            return Err(broken("the sources are not those of its spec".into()));
        }
        let broken = |fault: Fault| broken(fault.what);
        let plan = Plan::resolve(&spec, name, &positions.sources).map_err(broken)?;
        Ok(Self {
            positions,
            spec,
            plan,
        })
    }

    pub fn version(&self) -> Version<'_> {
        Version {
            spec: &self.spec,
            plan: &self.plan,
        }
    }
}

/// A spec that would start.
pub struct Ready {
    pub text: String,
    pub json: bool,
    pub spec: Spec,
    pub plan: Plan,
    pub sources: Vec<Pinned>,
    /// As in [`Positions`].
    pub counts: BTreeMap<String, u32>,
}

/// Reads, checks and pins. `Error::Spec` is for the author of the spec; `Error::Storage` may pass.
pub async fn prepare(
    storage: &dyn Storage,
    options: &Options,
    file: &SpecFile,
) -> Result<(Positions, Plan)> {
    let text = text(storage, file).await?;
    check(storage, options, &file.path, (&file.name, file.owner), text).await
}

/// The text of a spec file.
pub async fn text(storage: &dyn Storage, file: &SpecFile) -> Result<String> {
    if file.source.len > SPEC_BYTES_MAX as u64 {
        let what = format!(
            "{}:1:1: the spec has {} bytes; keep it below {SPEC_BYTES_MAX}",
            file.path, file.source.len
        );
        return Err(Error::Spec(what));
    }
    let bytes = storage
        .read(&file.source, 0, file.source.len as u32)
        .await?;
    String::from_utf8(bytes.to_vec()).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.utf8_error().valid_up_to()]).into_owned();
        let fault = Fault::new(good.len(), "the spec is not UTF-8 text", "save it as UTF-8");
        Error::Spec(fault.located(&file.path, &good))
    })
}

/// The same of a spec's text, which may stand anywhere, for a job of this name and owner.
pub async fn check(
    storage: &dyn Storage,
    options: &Options,
    path: &str,
    (name, owner): (&str, Owner),
    text: String,
) -> Result<(Positions, Plan)> {
    let saved = saved(storage, path, owner, &text).await?;
    let before = saved.as_ref().map(|(before, _)| before);
    let ready = resolve(storage, options, path, (name, owner), text, before).await?;
    header::check(storage, (&ready.spec, &ready.plan), name)
        .await
        .map_err(|fail| failed(fail, path, &ready.text))?;
    if let Some((before, start)) = saved {
        return begin_from(&before, &start, path, ready);
    }
    let tasks = |step: &Step| {
        let first = |task| TaskPosition::first(&ready.plan, step, task);
        (0..step.tasks).map(first).collect()
    };
    let positions = Positions {
        tasks: ready.plan.steps.iter().map(tasks).collect(),
        spec: ready.text,
        json: ready.json,
        sources: ready.sources,
        chunk_bytes: options.chunk_bytes,
        rate: None,
        counts: BTreeMap::new(),
        border: Some(Border {
            goes_on: vec![None; ready.plan.steps.len()],
            savepoint: None,
        }),
        scaled: BTreeMap::new(),
    };
    fitting(path, positions, ready.plan)
}

fn fitting(path: &str, positions: Positions, plan: Plan) -> Result<(Positions, Plan)> {
    match positions.too_large() {
        None => Ok((positions, plan)),
        Some(why) => Err(Error::Spec(format!("{path}: {why}"))),
    }
}

/// The savepoint that a spec's text says it begins from.
async fn saved(
    storage: &dyn Storage,
    path: &str,
    owner: Owner,
    text: &str,
) -> Result<Option<(Before, StartSpec)>> {
    // What is wrong with it otherwise is told later.
    let spec = Spec::parse(text, path.ends_with(".json")).ok();
    let Some(start) = spec.and_then(|spec| spec.start) else {
        return Ok(None);
    };
    let fault = |what: String, remedy: &str| {
        Error::Spec(Fault::new(start.at, what, remedy).located(path, text))
    };
    let (job, name) = (&start.job, &start.name);
    match savepoint::load(storage, (job, name), owner).await {
        Ok(Some(saved)) => {
            let before = Before::of(job, saved.positions)?;
            Ok(Some((before, start)))
        }
        Ok(None) => {
            let remedy = format!("write `savepoint {name}` into the `control` of {job} first");
            Err(fault(
                format!("there is no savepoint {job}/{name}"),
                &remedy,
            ))
        }
        Err(Error::Storage(error)) if error.is_temporary() => Err(error.into()),
        Err(error) => Err(fault(
            error.to_string(),
            "take another one, or leave `start` out",
        )),
    }
}

/// The positions of a job that begins from a savepoint.
fn begin_from(
    before: &Before,
    start: &StartSpec,
    path: &str,
    ready: Ready,
) -> Result<(Positions, Plan)> {
    let saved = &before.positions;
    let states = |node, task: u32| {
        saved.tasks[usize::from(node)][task as usize]
            .inherits
            .clone()
    };
    let new = Version {
        spec: &ready.spec,
        plan: &ready.plan,
    };
    let onto = upgrade::onto(saved, &states, before.version(), new)
        .map_err(|fault| Error::Spec(fault.located(path, &ready.text)))?;
    let positions = Positions {
        tasks: onto.tasks,
        spec: ready.text,
        json: ready.json,
        sources: ready.sources,
        chunk_bytes: saved.chunk_bytes,
        rate: None,
        counts: ready.counts,
        border: Some(Border {
            goes_on: vec![None; ready.plan.steps.len()],
            savepoint: Some(format!("{}/{}", start.job, start.name)),
        }),
        scaled: BTreeMap::new(),
    };
    fitting(path, positions, ready.plan)
}

/// Makes the plan of a spec's text. Sources that `before` has read stay as they were pinned, others are pinned.
pub async fn resolve(
    storage: &dyn Storage,
    options: &Options,
    path: &str,
    (name, owner): (&str, Owner),
    text: String,
    before: Option<&Before>,
) -> Result<Ready> {
    let json = path.ends_with(".json");
    let of_fail = |fail| failed(fail, path, &text);
    let located = |fault: Fault| of_fail(Fail::Fault(fault));
    if text.len() > SPEC_BYTES_MAX {
        let what = format!("the spec has {} bytes", text.len());
        let remedy = format!("keep it below {SPEC_BYTES_MAX}");
        return Err(located(Fault::new(0, what, remedy)));
    }
    let mut spec = Spec::parse(&text, json).map_err(located)?;
    let counts = before.map_or_else(BTreeMap::new, |before| goes_on_with(before, &mut spec));
    let kept = match before {
        Some(before) => meaning::sources(&before.spec, &spec).map_err(located)?,
        None => vec![None; spec.sources.len()],
    };
    let mut sources = Vec::new();
    for (source, kept) in spec.sources.iter().zip(kept) {
        let known = kept.and_then(|at| before?.positions.sources.get(at));
        let pinned = match known {
            Some(known) => again(storage, source, known, owner).await,
            None => pin(storage, source, &ends::own_folder(name), owner).await,
        };
        sources.push(pinned.map_err(of_fail)?);
    }
    for stage in &spec.stages {
        if let OpSpec::Lookup(lookup) = &stage.op {
            let pinned = pin_lookup(storage, lookup, owner).await;
            sources.push(pinned.map_err(of_fail)?);
        }
    }
    let plan = Plan::resolve(&spec, name, &sources).map_err(located)?;
    ends::check(storage, &spec, name).await.map_err(of_fail)?;
    for step in &plan.steps {
        let Op::Exec { spec: exec, .. } = &step.op else {
            continue;
        };
        if owner.uid == 0 && !options.allow_root_jobs {
            let what = "executables may not run as root, who owns this spec";
            let remedy =
                "chown the spec to another user, or set `allow_root_jobs = true` on every member";
            return Err(located(Fault::new(exec.at, what, remedy)));
        }
        if let Place::Stored(path) = &exec.place {
            let remedy =
                "copy the executable there first, or name a program of the members with `command`";
            let pinned = pin_file(storage, (path, exec.at), owner, remedy).await;
            pinned.map_err(of_fail)?;
        }
        for InputSpec { path, at } in &exec.inputs {
            let remedy = "copy the file there first, and let the owner of the spec read it";
            let pinned = pin_file(storage, (path, *at), owner, remedy).await;
            let bytes = pinned.map_err(of_fail)?.len;
            if bytes > INPUT_BYTES_MAX as u64 {
                let what =
                    format!("the input {path} has {bytes} bytes, more than {INPUT_BYTES_MAX}");
                let remedy = "make it a source, or take what the executable needs out of it";
                return Err(located(Fault::new(*at, what, remedy)));
            }
        }
    }
    Ok(Ready {
        json,
        spec,
        plan,
        sources,
        text,
        counts,
    })
}

/// Where a spec leaves the number of tasks open, what is known of it so far is kept.
fn goes_on_with(before: &Before, spec: &mut Spec) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for stage in &mut spec.stages {
        let mut known = before.spec.stages.iter();
        let known = known.find(|known| known.name == stage.name);
        if let (Some(bounds), Some(known)) = (stage.scale, known) {
            stage.tasks = bounds.nearest(known.tasks);
            counts.insert(stage.name.clone(), stage.tasks);
        }
    }
    counts
}

/// Why a spec cannot be made a plan.
pub enum Fail {
    Fault(Fault),
    Later(StorageError),
}

impl Fail {
    /// The storage refuses what stands at `at`, or cannot tell now.
    pub fn of(at: usize, error: StorageError, remedy: &str) -> Self {
        match error.is_temporary() {
            true => Self::Later(error),
            false => Self::Fault(Fault::new(at, error.to_string(), remedy)),
        }
    }
}

fn failed(fail: Fail, path: &str, text: &str) -> Error {
    match fail {
        Fail::Fault(fault) => Error::Spec(fault.located(path, text)),
        Fail::Later(error) => error.into(),
    }
}

fn wrong(at: usize, error: StorageError) -> Fail {
    Fail::of(at, error, "name a file that is there and readable")
}

async fn pin(
    storage: &dyn Storage,
    spec: &SourceSpec,
    own: &str,
    owner: Owner,
) -> std::result::Result<Pinned, Fail> {
    let found = match glob::expand(storage, &spec.path, own).await {
        Ok(found) => found,
        // A followed file may come later.
        Err(StorageError::NotFound(_)) if spec.follow && spec.format != Format::Csv => {
            Found::default()
        }
        Err(error) => return Err(wrong(spec.at, error)),
    };
    let fault = |what: String, remedy: &str| Err(Fail::Fault(Fault::new(spec.at, what, remedy)));
    if let Some(path) = found.unreadable.first() {
        return fault(
            format!("{path} has a name that is no UTF-8"),
            "rename it, or name others by a pattern",
        );
    }
    let found = found.files;
    if found.is_empty() && (!spec.follow || spec.format == Format::Csv) {
        let what = format!("{} names no file", spec.path);
        let remedy = match spec.follow {
            true => "make one with a header first: it names the columns",
            false => "name files that are there, or add `follow = true`",
        };
        return fault(what, remedy);
    }
    let mut pinned = Pinned {
        files: Vec::new(),
        columns: spec.columns.clone(),
    };
    let mut looked = Vec::with_capacity(found.len());
    for some in found.chunks(PINS_MAX) {
        let look = async |path: &str| {
            let source = storage.pin(path, owner).await?;
            let read = match spec.format {
                Format::Csv => header(storage, &source, spec.follow).await?,
                Format::Lines | Format::Json | Format::Binary(_) => None,
            };
            Ok((source, read))
        };
        let all = try_join_all(some.iter().map(|(path, _)| look(path))).await;
        looked.extend(all.map_err(|error| wrong(spec.at, error))?);
    }
    for ((path, _), (source, read)) in found.into_iter().zip(looked) {
        let mut data_at = 0;
        if spec.format == Format::Csv {
            let Some((names, at)) = read else {
                if spec.follow {
                    // It may be written still; it is read from the time on when it has one.
                    continue;
                }
                let what = format!("{path} has no CSV header in its first line");
                return fault(what, "add one, or use `format = \"lines\"`");
            };
            if pinned.columns.as_ref().is_some_and(|all| *all != names) {
                let what = format!(
                    "{path} has the columns `{}`, other than the files before it",
                    names.join("`, `")
                );
                return fault(what, "give it a source of its own");
            }
            data_at = at;
            pinned.columns = Some(names);
        }
        pinned.files.push(PinnedFile {
            path,
            source,
            data_at,
        });
    }
    if spec.format == Format::Csv && pinned.columns.is_none() {
        let what = format!("{} has no CSV header with a line end yet", spec.path);
        return fault(what, "write one first: it names the columns");
    }
    extent::cut(storage, spec, &mut pinned.files).await?;
    Ok(pinned)
}

/// A source as it was pinned before. A file that is read as it was is still there, unchanged, and readable for `owner`.
async fn again(
    storage: &dyn Storage,
    spec: &SourceSpec,
    known: &Pinned,
    owner: Owner,
) -> std::result::Result<Pinned, Fail> {
    for file in known.files.iter().filter(|_| !spec.follow) {
        let fault = |what: String| {
            let remedy = format!("bring it back, {ANEW}");
            Fail::Fault(Fault::new(spec.at, what, remedy))
        };
        let now = match storage.pin(&file.path, owner).await {
            Ok(now) => now,
            Err(error) if error.is_temporary() => return Err(Fail::Later(error)),
            Err(error) => return Err(fault(error.to_string())),
        };
        let last = file.source.len.saturating_sub(1);
        let same = match now.ino == file.source.ino {
            true => storage.read(&file.source, last, 1).await.map(drop),
            false => Err(StorageError::Changed(file.path.clone())),
        };
        match same {
            Ok(()) => {}
            Err(error) if error.is_temporary() => return Err(Fail::Later(error)),
            Err(_) => {
                let what = "is another file than the one that was read so far, or was overwritten";
                return Err(fault(format!("{} {what}", file.path)));
            }
        }
    }
    Ok(Pinned {
        files: known.files.clone(),
        columns: match spec.format {
            Format::Csv => known.columns.clone(),
            Format::Lines | Format::Json | Format::Binary(_) => spec.columns.clone(),
        },
    })
}

/// A file that an executable needs, or a fault of the spec at that place.
async fn pin_file(
    storage: &dyn Storage,
    (path, at): (&str, usize),
    owner: Owner,
    remedy: &str,
) -> std::result::Result<Source, Fail> {
    let pinned = storage.pin(path, owner).await;
    pinned.map_err(|error| Fail::of(at, error, remedy))
}

async fn pin_lookup(
    storage: &dyn Storage,
    spec: &LookupSpec,
    owner: Owner,
) -> std::result::Result<Pinned, Fail> {
    let of_file = |error| wrong(spec.at, error);
    let source = storage.pin(&spec.path, owner).await.map_err(of_file)?;
    let Some((names, data_at)) = header(storage, &source, false).await.map_err(of_file)? else {
        let what = format!("{} has no CSV header in its first line", spec.path);
        return Err(Fail::Fault(Fault::new(spec.at, what, "add one")));
    };
    let file = PinnedFile {
        path: spec.path.clone(),
        source,
        data_at,
    };
    match lookup::too_large(&file) {
        None => Ok(Pinned {
            files: vec![file],
            columns: Some(names),
        }),
        Some(what) => {
            let remedy = "make it a source and join the two streams";
            Err(Fail::Fault(Fault::new(spec.at, what, remedy)))
        }
    }
}

/// The columns that a CSV file's first line names, and where its data begins; `None` if it has no such line. The line of a
/// file that `grows` is none before its end is there.
pub async fn header(
    storage: &dyn Storage,
    source: &Source,
    grows: bool,
) -> StorageResult<Option<(Vec<String>, u64)>> {
    let len = source.len.min(HEADER_BYTES_MAX) as u32;
    let head = storage.read(source, 0, len).await?;
    let end = memchr::memchr(b'\n', &head);
    if head.is_empty() || (end.is_none() && (grows || source.len > HEADER_BYTES_MAX)) {
        return Ok(None);
    }
    let line = &head[..end.unwrap_or(head.len())];
    let line = line.strip_prefix(csv::BOM).unwrap_or(line);
    let names = csv::fields(line).map(|raw| String::from_utf8_lossy(&csv::value(raw)).into_owned());
    let data_at = end.map_or(source.len, |end| end as u64 + 1);
    Ok(Some((names.collect(), data_at)))
}

const _: () = assert!(HEADER_BYTES_MAX as usize <= LINE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_specs() {
        assert_eq!(job_name("/.jobs/a-1.toml"), Some(("a-1", false)));
        assert_eq!(job_name("/.jobs/a.b.json"), Some(("a.b", true)));
        for other in [
            "/.jobs/.a.toml",
            "/.jobs/a.toml~",
            "/.jobs/4913",
            "/.jobs/a/b.toml",
            "/a.toml",
            "/.jobs/.toml",
        ] {
            assert_eq!(job_name(other), None, "{other}");
        }
    }
}

//! The job spec as written: what TOML or JSON says, checked key by key. What the names in it mean (columns,
//! stages, files) is resolved by `plan`. `docs/JOBS.md` is its reference.

use crate::aggregate::Kind;
use crate::compute::ComputeSpec;
use crate::decimal::Decimal;
use crate::event_time::TimeFormat;
use crate::extent::Extent;
use crate::range::{self, Ranges};
use crate::savepoint::{self, StartSpec};
use crate::scale::Bounds;
use crate::spec_ends::{Format, sink, source};
use crate::spec_op::operation;
use crate::spec_tasks;
use crate::spec_tree::{Fault, Node, Table, Value, nearest, parse_json, parse_toml};

/// Largest spec file in bytes: its text travels with each committed job epoch.
pub const SPEC_BYTES_MAX: usize = 64 << 10;
/// Most tasks of one stage.
pub const TASKS_MAX: i64 = 64;
/// Longest span of time in a spec, in milliseconds: ten years.
pub const SPAN_MS_MAX: i64 = 10 * 366 * 86_400_000;
/// Milliseconds between two barriers where the spec does not say. Without exactly-once output nobody waits for them.
const EPOCH_MS: u64 = 50;
const EPOCH_MS_LOOSE: u64 = 1000;
/// Most sources, most stages and most sinks.
pub const PARTS_MAX: usize = 16;

/// A spec.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Milliseconds between two barriers.
    pub epoch_ms: u64,
    /// A line of the receipt is written with each job epoch.
    pub receipt: bool,
    /// Results become visible with their job epoch, and after a failure none is put out again.
    pub exactly_once: bool,
    /// Lines on which an executable fails go to a file, and the job goes on.
    pub dead_letters: bool,
    /// The job fails where the kernel cannot confine executables wholly.
    pub sandbox_required: bool,
    /// A new job begins from it.
    pub start: Option<StartSpec>,
    pub sources: Vec<SourceSpec>,
    pub stages: Vec<StageSpec>,
    pub sinks: Vec<SinkSpec>,
}

/// Where a source's lines say when they happened.
#[derive(Debug, Clone)]
pub struct ClockSpec {
    pub column: Column,
    pub format: TimeFormat,
    /// How far behind the newest line a line may come.
    pub out_of_order_ms: i64,
    /// A followed file that is silent for so long holds no window back.
    pub idle_ms: u64,
}

#[derive(Debug, Clone)]
pub struct SourceSpec {
    pub at: usize,
    pub name: String,
    /// A file, a directory, or a pattern.
    pub path: String,
    pub format: Format,
    /// Names of columns, where the file does not name them.
    pub columns: Option<Vec<String>>,
    /// Lines appended later, and files made later, are read as well; the job never ends by itself.
    pub follow: bool,
    pub extent: Extent,
    /// Where the spec says so.
    pub extent_at: usize,
    /// Most lines a second that a stage reads.
    pub rate: Option<u64>,
    pub clock: Option<ClockSpec>,
}

/// Where lines come from: a source, a stage, or what came too late for a stage.
#[derive(Debug, Clone)]
pub struct From {
    pub at: usize,
    pub name: String,
    pub late: bool,
}

/// How lines find their task.
#[derive(Debug, Clone)]
pub enum Partition {
    RoundRobin,
    Broadcast,
    Key(Vec<Column>),
    Range(Column, Ranges),
}

#[derive(Debug, Clone)]
pub struct StageSpec {
    pub at: usize,
    pub name: String,
    pub from: Vec<From>,
    pub op: OpSpec,
    pub tasks: u32,
    /// `tasks` is what it begins with; the job finds out how many it needs.
    pub scale: Option<Bounds>,
    pub partition: Partition,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkFormat {
    Lines,
    /// Behind a header.
    Csv,
    /// An object a line.
    JsonLines,
    /// One document.
    Json,
}

#[derive(Debug, Clone)]
pub struct SinkSpec {
    pub at: usize,
    pub from: Vec<From>,
    /// `None` is the job's own `output`.
    pub path: Option<String>,
    pub format: SinkFormat,
    /// Columns whose values are numbers of JSON lines.
    pub numbers: Vec<Column>,
    /// The path ends with `/`: a folder.
    pub folder: bool,
    /// A file of the folder for each value of this column; else for each task.
    pub by: Option<Column>,
}

/// A column by name, or by number from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub at: usize,
    pub name: Result<String, usize>,
}

/// What a filter looks for.
#[derive(Debug, Clone)]
pub enum Test {
    Contains(Vec<u8>),
    Equals(Vec<u8>),
    Regex(regex::bytes::Regex),
    /// One of these.
    In(Vec<Vec<u8>>),
    Compare(Order, Bound),
}

/// How a value compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// What it is compared with. A value that is no number is neither above nor below one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Number(Decimal),
    Text(Vec<u8>),
}

/// A template: literal text, each followed by a column or the end.
pub type Pieces = Vec<(Vec<u8>, Option<Column>)>;

/// What `map` does.
#[derive(Debug, Clone)]
pub enum Mapping {
    Template(Pieces),
    Upper,
    Lower,
    Trim,
    Replace(regex::bytes::Regex, Vec<u8>),
}

/// How an executable gets its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// One process per task; a marker line ends each batch.
    Lines,
    /// One process per batch: stdin to stdout.
    Batch,
    /// One process per batch, the lines as its last argument.
    Argv,
}

/// Where an executable is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path of the file system: all tasks run what is stored there.
    Stored(String),
    /// A name in `PATH` of the member that runs the task: each runs its own.
    Member(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stored(path) => f.write_str(path),
            Self::Member(name) => f.write_str(name),
        }
    }
}

/// An executable as operator.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    pub at: usize,
    pub place: Place,
    pub contract: Contract,
    pub args: Vec<String>,
    /// Exit statuses of a process that worked.
    pub exit_ok: Vec<i32>,
    pub timeout_ms: u64,
    pub memory_mb: u64,
    /// Runs of a batch, the first included.
    pub max_attempts: u32,
    /// Its processes reach the network.
    pub network: bool,
    /// Most processes at the same time.
    pub processes: u64,
    /// Most processor, in hundredths; 0: as much as is idle.
    pub cpu_percent: u64,
    /// It has state by the key of its stage: where the spec says so.
    pub state: Option<usize>,
    /// Files that it reads; no two have the same name.
    pub inputs: Vec<InputSpec>,
}

/// A file that an executable is given.
#[derive(Debug, Clone)]
pub struct InputSpec {
    pub path: String,
    pub at: usize,
}

impl InputSpec {
    /// The last part of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// What a stage does.
#[derive(Debug, Clone)]
pub enum OpSpec {
    Filter {
        column: Option<Column>,
        test: Test,
        not: bool,
    },
    Select(Vec<Column>),
    Map {
        column: Option<Column>,
        mapping: Mapping,
        columns: Option<Vec<String>>,
    },
    /// `column`: of its value instead of the line.
    Split {
        column: Option<Column>,
        pieces: crate::split::Pieces,
        columns: Option<Vec<String>>,
    },
    /// By expressions.
    Compute(ComputeSpec),
    Aggregate(AggregateSpec),
    Dedup {
        by: Vec<Column>,
        within: Option<(TimeSpec, i64)>,
    },
    /// Two streams.
    Join {
        on: [Vec<Column>; 2],
        time: [TimeSpec; 2],
        within_ms: i64,
    },
    /// A stream with a file.
    Lookup(LookupSpec),
    Exec {
        exec: ExecSpec,
        columns: Option<Vec<String>>,
    },
}

/// A column with times.
#[derive(Debug, Clone)]
pub struct TimeSpec {
    pub column: Column,
    pub format: TimeFormat,
}

/// An aggregate by key.
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    pub kind: Kind,
    pub by: Vec<Column>,
    pub of: Option<Column>,
    pub best: Option<usize>,
    pub window: Option<(crate::window::Cut, TimeSpec, i64)>,
    pub changelog: bool,
}

/// A CSV file whose fields are added to lines with the same key.
#[derive(Debug, Clone)]
pub struct LookupSpec {
    pub at: usize,
    pub path: String,
    pub on: Vec<Column>,
    pub file_on: Vec<Column>,
    /// Lines without a partner pass, too, with empty fields.
    pub keep_all: bool,
}

impl Spec {
    /// Where the sink stands that writes a file: that of its path, of its folder, or of the default output.
    pub fn sink_at(&self, file: &str) -> usize {
        let folder = file.rsplit_once('/').map(|(folder, _)| folder);
        let is_of = |sink: &&SinkSpec| match &sink.path {
            Some(path) => path == file || sink.folder && Some(&**path) == folder,
            None => false,
        };
        let found = self.sinks.iter().find(is_of);
        let default = || self.sinks.iter().find(|sink| sink.path.is_none());
        found.or_else(default).map_or(0, |sink| sink.at)
    }

    /// Reads a spec; `json` by its ending.
    pub fn parse(text: &str, json: bool) -> Result<Self, Fault> {
        let root = if json {
            parse_json(text)?
        } else {
            parse_toml(text)?
        };
        let keys = ["version", "job", "source", "stage", "sink"];
        let table = Table::of(&root, "the spec", &keys)?;
        if table.get("version").is_none() {
            return Err(Fault::new(
                0,
                "the spec has no `version`",
                "begin it with `version = 1`",
            ));
        }
        table.int("version", 1, 1, 1)?;
        let job = job(&table)?;
        let spec = Self {
            epoch_ms: job.epoch_ms,
            receipt: job.receipt,
            exactly_once: job.exactly_once,
            dead_letters: job.dead_letters,
            sandbox_required: job.sandbox_required,
            start: job.start,
            sources: parts(&table, "source", source)?,
            stages: parts(&table, "stage", stage)?,
            sinks: parts(&table, "sink", sink)?,
        };
        if let Some(sink) = spec
            .sinks
            .iter()
            .find(|sink| sink.format == SinkFormat::Json && !spec.exactly_once)
        {
            let what = "`format = \"json\"` with `exactly_once = false`";
            let remedy = "leave one of them out: readers would see half a document";
            return Err(Fault::new(sink.at, what, remedy));
        }
        if spec.sources.is_empty() {
            return Err(Fault::new(
                0,
                "the spec has no source",
                "add a `[[source]]` with `name` and `path`",
            ));
        }
        if spec.stages.is_empty() {
            return Err(Fault::new(
                0,
                "the spec has no stage",
                "add a `[[stage]]` with `name`, `from` and `op`",
            ));
        }
        Ok(spec)
    }
}

/// What `[job]` says.
struct JobSpec {
    epoch_ms: u64,
    receipt: bool,
    exactly_once: bool,
    dead_letters: bool,
    sandbox_required: bool,
    start: Option<StartSpec>,
}

fn job(table: &Table<'_>) -> Result<JobSpec, Fault> {
    let Some(node) = table.get("job") else {
        return Ok(JobSpec {
            epoch_ms: EPOCH_MS,
            receipt: true,
            exactly_once: true,
            dead_letters: false,
            sandbox_required: false,
            start: None,
        });
    };
    let job = Table::of(
        node,
        "[job]",
        &[
            "epoch_ms",
            "exactly_once",
            "on_error",
            "receipt",
            "sandbox",
            "start",
        ],
    )?;
    let exactly_once = job.get("exactly_once").is_none() || job.flag("exactly_once")?;
    let receipt = match job.get("receipt") {
        None => exactly_once,
        Some(node) if job.flag("receipt")? && !exactly_once => {
            let what = "`receipt = true` with `exactly_once = false`";
            let remedy =
                "leave one of them out: what is put out again after a failure is in no receipt";
            return Err(Fault::new(node.at, what, remedy));
        }
        Some(_) => job.flag("receipt")?,
    };
    let epoch_ms = if exactly_once {
        EPOCH_MS
    } else {
        EPOCH_MS_LOOSE
    };
    let sandbox = [("best", false), ("required", true)];
    Ok(JobSpec {
        epoch_ms: job.int("epoch_ms", epoch_ms as i64, 5, 60_000)? as u64,
        receipt,
        exactly_once,
        dead_letters: word(&job, "on_error", &[("fail", false), ("dead", true)])?,
        sandbox_required: word(&job, "sandbox", &sandbox)?,
        start: savepoint::start(&job)?,
    })
}

fn parts<T>(
    table: &Table<'_>,
    key: &str,
    read: impl Fn(&Node) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let items = table.list(key)?;
    if let Some(over) = items.get(PARTS_MAX) {
        return Err(Fault::new(
            over.at,
            format!("more than {PARTS_MAX} of [[{key}]]"),
            "split the job in two",
        ));
    }
    items.iter().map(read).collect()
}

/// How a column writes its time; RFC 3339 if not said.
pub fn time_format(table: &Table<'_>, key: &str) -> Result<TimeFormat, Fault> {
    let formats = [
        ("rfc3339", TimeFormat::Rfc3339),
        ("unix", TimeFormat::Unix),
        ("unix_ms", TimeFormat::UnixMs),
        ("clf", TimeFormat::Clf),
    ];
    word(table, key, &formats)
}

/// `from`: one name or several; `NAME.late` is what came too late for a stage.
pub fn from(table: &Table<'_>) -> Result<Vec<From>, Fault> {
    let one = |node: &Node| match &node.value {
        Value::Text(text) => {
            let (name, late) = match text.strip_suffix(".late") {
                Some(name) => (name, true),
                None => (text.as_str(), false),
            };
            Ok(From {
                at: node.at,
                name: name.to_owned(),
                late,
            })
        }
        other => Err(Fault::new(
            node.at,
            format!("`from` holds {}", other.kind()),
            "write names in quotes",
        )),
    };
    match table.get("from").map(|node| (&node.value, node)) {
        Some((Value::List(nodes), node)) => {
            if nodes.is_empty() || nodes.len() > PARTS_MAX {
                let what = format!("`from` has {} names", nodes.len());
                return Err(Fault::new(node.at, what, format!("use 1 to {PARTS_MAX}")));
            }
            nodes.iter().map(one).collect()
        }
        Some((_, node)) => Ok(vec![one(node)?]),
        None => table.need_text("from").map(|_| Vec::new()),
    }
}

fn stage(node: &Node) -> Result<StageSpec, Fault> {
    let table = Table::of(
        node,
        "[[stage]]",
        &["name", "from", "op", "tasks", "partition", "key", "bounds"],
    )?;
    let from = from(&table)?;
    let Some(op) = table.get("op") else {
        return Err(Fault::new(
            node.at,
            "[[stage]] has no `op`",
            "add for example `op = { filter = { contains = \"x\" } }`",
        ));
    };
    let op = operation(op)?;
    let (tasks, scale) = spec_tasks::tasks(&table)?;
    let partition = match range::partition(node, &table, &op, tasks)? {
        Some(range) => range,
        None => partition(node, &table, &op)?,
    };
    Ok(StageSpec {
        at: node.at,
        name: name(&table)?,
        from,
        partition,
        op,
        tasks,
        scale,
    })
}

fn partition(node: &Node, table: &Table<'_>, op: &OpSpec) -> Result<Partition, Fault> {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        RoundRobin,
        Key,
        Broadcast,
    }
    let words = [
        ("round-robin", Word::RoundRobin),
        ("key", Word::Key),
        ("broadcast", Word::Broadcast),
        // Read by `range` already; here it is a word that others are near to.
        ("range", Word::Key),
    ];
    let word = word(table, "partition", &words)?;
    let key = table.get("key").map(columns).transpose()?;
    let at = table.get("key").map_or(node.at, |key| key.at);
    // Where the operator has a key, its lines have to meet in one task.
    let own = match op {
        OpSpec::Aggregate(spec) => Some(&spec.by),
        OpSpec::Dedup { by, .. } => Some(by),
        OpSpec::Join { on, .. } => Some(&on[0]),
        _ => None,
    };
    if let OpSpec::Exec { exec, .. } = op
        && let Some(at) = exec.state
        && word != Word::Key
    {
        return Err(state_without_key(at));
    }
    match (own, word, key) {
        (Some(_), Word::Broadcast, _) => Err(Fault::new(
            node.at,
            "`partition = \"broadcast\"` of a stage that works by key",
            "leave it out",
        )),
        (Some(own), _, Some(key)) if !same(own, &key) => Err(Fault::new(
            at,
            "`key` is not the column that the stage works by",
            "leave `key` out",
        )),
        (Some(own), _, _) => Ok(Partition::Key(own.clone())),
        (None, Word::Key, None) => Err(Fault::new(
            node.at,
            "`partition = \"key\"` without a key",
            "add `key = \"column\"`",
        )),
        (None, Word::Key, Some(key)) => Ok(Partition::Key(key)),
        (None, _, Some(_)) => Err(Fault::new(
            at,
            "`key` without `partition = \"key\"`",
            "add `partition = \"key\"`",
        )),
        (None, Word::Broadcast, None) => Ok(Partition::Broadcast),
        (None, Word::RoundRobin, None) => Ok(Partition::RoundRobin),
    }
}

/// State of an executable that lines do not come to by key.
pub fn state_without_key(at: usize) -> Fault {
    let what = "`state` of a stage without `partition = \"key\"`";
    let remedy = "add `partition = \"key\"` and `key = \"column\"`: state is kept for each key, in the task that its lines come to";
    Fault::new(at, what, remedy)
}

fn same(a: &[Column], b: &[Column]) -> bool {
    a.iter().map(|c| &c.name).eq(b.iter().map(|c| &c.name))
}

/// A column, or a list of columns.
pub fn columns(node: &Node) -> Result<Vec<Column>, Fault> {
    match &node.value {
        Value::List(nodes) if nodes.is_empty() => {
            Err(Fault::new(node.at, "no column is named", "name one"))
        }
        Value::List(nodes) => nodes.iter().map(column).collect(),
        _ => Ok(vec![column(node)?]),
    }
}

/// A column by name or number.
pub fn column(node: &Node) -> Result<Column, Fault> {
    let name = match &node.value {
        Value::Text(name) => Ok(name.clone()),
        Value::Int(number @ 1..=65_536) => Err(*number as usize),
        other => {
            let what = format!("a column is {}", other.kind());
            return Err(Fault::new(
                node.at,
                what,
                "write its name in quotes, or its number from 1",
            ));
        }
    };
    Ok(Column { at: node.at, name })
}

/// One of a few words; the first if absent.
pub fn word<T: Clone>(table: &Table<'_>, key: &str, words: &[(&str, T)]) -> Result<T, Fault> {
    let Some((text, at)) = table.text(key)? else {
        return Ok(words[0].1.clone());
    };
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    match words.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(value.clone()),
        None => Err(Fault::new(
            at,
            format!("`{key} = \"{text}\"` is unknown"),
            nearest(&text, &names),
        )),
    }
}

/// A name of a source or stage.
pub fn name(table: &Table<'_>) -> Result<String, Fault> {
    let (name, at) = table.need_text("name")?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        let what = format!("`name = \"{name}\"` is not a name");
        return Err(Fault::new(
            at,
            what,
            "use 1 to 64 letters, digits, `_` and `-`",
        ));
    }
    Ok(name)
}

/// A path from the file system's root, with or without the leading `/`.
pub fn clean_path(path: &str, at: usize) -> Result<String, Fault> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.is_empty() || parts.contains(&"..") || path.contains('\0') {
        return Err(Fault::new(
            at,
            format!("`{path}` is not a path"),
            "write it from the file system's root, without `..`",
        ));
    }
    if parts[0] == ".cluster" {
        return Err(Fault::new(
            at,
            "`/.cluster` is not for jobs",
            "use another folder",
        ));
    }
    Ok(format!("/{}", parts.join("/")))
}

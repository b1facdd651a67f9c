//! The job spec as written: what TOML or JSON says, checked key by key. What the names in it mean (columns,
//! stages, files) is resolved by `plan`. `docs/JOBS.md` is its reference.

use crate::spec_op::operation;
use crate::spec_tree::{Fault, Node, Table, Value, nearest, parse_json, parse_toml};

/// Largest spec file in bytes: its text travels with each committed job epoch.
pub const SPEC_BYTES_MAX: usize = 64 << 10;
/// Most tasks of one stage.
pub const TASKS_MAX: i64 = 64;
/// Most sources, most stages and most sinks.
pub const PARTS_MAX: usize = 16;

/// A spec.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Milliseconds between two barriers.
    pub epoch_ms: u64,
    pub sources: Vec<SourceSpec>,
    pub stages: Vec<StageSpec>,
    pub sinks: Vec<SinkSpec>,
}

/// How the lines of a source are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Lines,
    /// The first line names the columns and is no data.
    Csv,
}

#[derive(Debug, Clone)]
pub struct SourceSpec {
    pub at: usize,
    pub name: String,
    pub path: String,
    pub format: Format,
}

#[derive(Debug, Clone)]
pub struct StageSpec {
    pub at: usize,
    pub name: String,
    pub from: String,
    pub from_at: usize,
    pub op: OpSpec,
    pub tasks: u32,
    pub by_key: Option<Column>,
}

#[derive(Debug, Clone)]
pub struct SinkSpec {
    pub at: usize,
    pub from: String,
    pub from_at: usize,
    /// `None` is the job's own `output`.
    pub path: Option<String>,
    /// One JSON document instead of lines.
    pub json: bool,
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

/// An executable of the file system as operator.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    pub at: usize,
    pub path: String,
    pub contract: Contract,
    pub args: Vec<String>,
    pub timeout_ms: u64,
    pub memory_mb: u64,
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
    /// Lines (or the numbers in `of`) per value of `by`.
    Sum {
        by: Column,
        of: Option<Column>,
    },
    Exec {
        exec: ExecSpec,
        columns: Option<Vec<String>>,
    },
}

impl Spec {
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
        let spec = Self {
            epoch_ms: job(&table)?,
            sources: parts(&table, "source", source)?,
            stages: parts(&table, "stage", stage)?,
            sinks: parts(&table, "sink", sink)?,
        };
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

fn job(table: &Table<'_>) -> Result<u64, Fault> {
    let Some(node) = table.get("job") else {
        return Ok(50);
    };
    let job = Table::of(node, "[job]", &["epoch_ms", "on_error"])?;
    if let Some((word, at)) = job.text("on_error")?
        && word != "fail"
    {
        return Err(Fault::new(
            at,
            format!("`on_error = \"{word}\"` is unknown"),
            "the only choice so far is \"fail\"",
        ));
    }
    Ok(job.int("epoch_ms", 50, 5, 60_000)? as u64)
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

fn source(node: &Node) -> Result<SourceSpec, Fault> {
    let table = Table::of(node, "[[source]]", &["name", "path", "format"])?;
    let (path, path_at) = table.need_text("path")?;
    let format = word(
        &table,
        "format",
        &[("lines", Format::Lines), ("csv", Format::Csv)],
    )?;
    Ok(SourceSpec {
        at: path_at,
        name: name(&table)?,
        path: clean_path(&path, path_at)?,
        format,
    })
}

fn stage(node: &Node) -> Result<StageSpec, Fault> {
    let table = Table::of(
        node,
        "[[stage]]",
        &["name", "from", "op", "tasks", "partition", "key"],
    )?;
    let (from, from_at) = table.need_text("from")?;
    let Some(op) = table.get("op") else {
        return Err(Fault::new(
            node.at,
            "[[stage]] has no `op`",
            "add for example `op = { filter = { contains = \"x\" } }`",
        ));
    };
    let op = operation(op)?;
    let key = table.get("key").map(column).transpose()?;
    let partition = word(
        &table,
        "partition",
        &[("round-robin", false), ("key", true)],
    )?;
    let by_key = match (&op, partition, key) {
        (OpSpec::Sum { by, .. }, _, None) => Some(by.clone()),
        (OpSpec::Sum { by, .. }, _, Some(key)) if key.name == by.name => Some(key),
        (OpSpec::Sum { .. }, _, Some(key)) => {
            return Err(Fault::new(
                key.at,
                "`key` is not the column that is counted by",
                "leave `key` out",
            ));
        }
        (_, true, None) => {
            return Err(Fault::new(
                node.at,
                "`partition = \"key\"` without a key",
                "add `key = \"column\"`",
            ));
        }
        (_, false, Some(key)) => {
            return Err(Fault::new(
                key.at,
                "`key` without `partition = \"key\"`",
                "add `partition = \"key\"`",
            ));
        }
        (_, _, key) => key,
    };
    let tasks = table.int("tasks", 1, 1, TASKS_MAX)? as u32;
    Ok(StageSpec {
        at: node.at,
        name: name(&table)?,
        from,
        from_at,
        op,
        tasks,
        by_key,
    })
}

fn sink(node: &Node) -> Result<SinkSpec, Fault> {
    let table = Table::of(node, "[[sink]]", &["from", "path", "format"])?;
    let (from, from_at) = table.need_text("from")?;
    let path = table
        .text("path")?
        .map(|(path, at)| clean_path(&path, at))
        .transpose()?;
    let json = word(&table, "format", &[("lines", false), ("json", true)])?;
    Ok(SinkSpec {
        at: node.at,
        from,
        from_at,
        path,
        json,
    })
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

fn name(table: &Table<'_>) -> Result<String, Fault> {
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

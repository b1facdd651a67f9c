//! The ends of a job as written: sources and sinks.

use crate::extent::extent;
use crate::frames::{Encoding, Framing, Prefix};
use crate::spec::{
    ClockSpec, SPAN_MS_MAX, SinkFormat, SinkSpec, SourceSpec, clean_path, column, columns, from,
    name, time_format, word,
};
use crate::spec_tree::{Fault, Node, Table};

/// How the lines of a source are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Lines,
    /// The first line names the columns and is no data.
    Csv,
    /// One object a line; `columns` says which of its members are read.
    Json,
    /// Records behind their lengths.
    Binary(Framing),
}

impl Format {
    /// How records are read that are no lines.
    pub fn framing(self) -> Option<Framing> {
        match self {
            Self::Binary(framing) => Some(framing),
            Self::Lines | Self::Csv | Self::Json => None,
        }
    }
}

/// Reads a `[[source]]`.
pub fn source(node: &Node) -> Result<SourceSpec, Fault> {
    let keys = [
        "name",
        "path",
        "format",
        "prefix",
        "encoding",
        "columns",
        "follow",
        "start",
        "range",
        "time",
        "time_format",
        "out_of_order_ms",
        "idle_ms",
        "rate",
    ];
    let table = Table::of(node, "[[source]]", &keys)?;
    let (path, path_at) = table.need_text("path")?;
    let formats = [
        ("lines", Format::Lines),
        ("csv", Format::Csv),
        ("json", Format::Json),
        ("binary", Format::Binary(framing(&table)?)),
    ];
    let format = word(&table, "format", &formats)?;
    for key in ["prefix", "encoding"] {
        let node = table.get(key).filter(|_| format.framing().is_none());
        if let Some(node) = node {
            let what = format!("`{key}` of a source whose `format` is not \"binary\"");
            let remedy = "leave it out, or write `format = \"binary\"`";
            return Err(Fault::new(node.at, what, remedy));
        }
    }
    let columns = table.texts("columns")?;
    match (format, &columns) {
        (Format::Json, None) => {
            return Err(Fault::new(
                node.at,
                "`format = \"json\"` without `columns`",
                "name the members to be read: `columns = [\"a\", \"b\"]`",
            ));
        }
        (Format::Csv, Some(_)) => {
            let at = table.get("columns").map_or(node.at, |node| node.at);
            let what = "`columns` of a CSV source, whose first line names them";
            return Err(Fault::new(
                at,
                what,
                "leave it out, or use `format = \"lines\"`",
            ));
        }
        _ => {}
    }
    let follow = table.flag("follow")?;
    let path = clean_path(&path, path_at)?;
    let (extent, extent_at) = extent(&table, &path, follow)?;
    Ok(SourceSpec {
        at: path_at,
        name: name(&table)?,
        path,
        format,
        columns,
        follow,
        extent,
        extent_at,
        rate: rate(&table)?,
        clock: clock(&table)?,
    })
}

fn framing(table: &Table<'_>) -> Result<Framing, Fault> {
    let prefixes = [("u32be", Prefix::U32be), ("u32le", Prefix::U32le)];
    let encodings = [
        ("base64", Encoding::Base64),
        ("hex", Encoding::Hex),
        ("text", Encoding::Text),
    ];
    Ok(Framing {
        prefix: word(table, "prefix", &prefixes)?,
        encoding: word(table, "encoding", &encodings)?,
    })
}

fn rate(table: &Table<'_>) -> Result<Option<u64>, Fault> {
    let Some((text, at)) = table.text("rate")? else {
        return Ok(None);
    };
    match crate::rate::parse(&text) {
        Some(rate) => Ok(Some(rate)),
        None => Err(Fault::new(
            at,
            format!("`rate = \"{text}\"` is no rate"),
            "write lines a second, as in \"10000/s\"",
        )),
    }
}

fn clock(table: &Table<'_>) -> Result<Option<ClockSpec>, Fault> {
    let Some(node) = table.get("time") else {
        for key in ["time_format", "out_of_order_ms", "idle_ms"] {
            if let Some(node) = table.get(key) {
                return Err(Fault::new(
                    node.at,
                    format!("`{key}` without `time`"),
                    "add `time = \"column\"`",
                ));
            }
        }
        return Ok(None);
    };
    Ok(Some(ClockSpec {
        column: column(node)?,
        format: time_format(table, "time_format")?,
        out_of_order_ms: table.int("out_of_order_ms", 0, 0, SPAN_MS_MAX)?,
        idle_ms: table.int("idle_ms", 10_000, 10, SPAN_MS_MAX)? as u64,
    }))
}

/// Reads a `[[sink]]`.
pub fn sink(node: &Node) -> Result<SinkSpec, Fault> {
    let table = Table::of(
        node,
        "[[sink]]",
        &["from", "path", "format", "by", "numbers"],
    )?;
    let from = from(&table)?;
    let text = table.text("path")?;
    let folder = text.as_ref().is_some_and(|(path, _)| path.ends_with('/'));
    let path = text.map(|(path, at)| clean_path(&path, at)).transpose()?;
    let formats = [
        ("lines", SinkFormat::Lines),
        ("csv", SinkFormat::Csv),
        ("json-lines", SinkFormat::JsonLines),
        ("json", SinkFormat::Json),
    ];
    let format = word(&table, "format", &formats)?;
    let by = table.get("by").map(column).transpose()?;
    match &by {
        Some(by) if !folder => {
            let what = "`by` of a sink that is no folder";
            let remedy = "end its `path` with `/`, or leave `by` out";
            return Err(Fault::new(by.at, what, remedy));
        }
        _ if folder && format == SinkFormat::Json => {
            let at = table.get("format").map_or(node.at, |node| node.at);
            let what = "`format = \"json\"` of a sink that is a folder";
            let remedy = "a document is one file: end `path` without `/`, or use \"json-lines\"";
            return Err(Fault::new(at, what, remedy));
        }
        _ => {}
    }
    let numbers = table.get("numbers");
    if let Some(numbers) = numbers.filter(|_| format != SinkFormat::JsonLines) {
        let what = "`numbers` of a sink whose `format` is not \"json-lines\"";
        return Err(Fault::new(numbers.at, what, "leave it out"));
    }
    Ok(SinkSpec {
        at: node.at,
        from,
        path,
        format,
        numbers: numbers.map(columns).transpose()?.unwrap_or_default(),
        folder,
        by,
    })
}

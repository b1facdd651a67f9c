//! The ends of a job as written: sources and sinks.

use crate::extent::extent;
use crate::spec::{
    ClockSpec, Format, SPAN_MS_MAX, SinkFormat, SinkSpec, SourceSpec, clean_path, column, columns,
    from, name, time_format, word,
};
use crate::spec_tree::{Fault, Node, Table};

/// Reads a `[[source]]`.
pub fn source(node: &Node) -> Result<SourceSpec, Fault> {
    let keys = [
        "name",
        "path",
        "format",
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
    ];
    let format = word(&table, "format", &formats)?;
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

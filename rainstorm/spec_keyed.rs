//! The `op` of stages that work by key, as written: aggregates, `dedup` and `join`.

use crate::aggregate::Kind;
use crate::spec::{
    AggregateSpec, Column, LookupSpec, OpSpec, SPAN_MS_MAX, TimeSpec, clean_path, column, columns,
    time_format, word,
};
use crate::spec_tree::{Fault, Node, Table};
use crate::window::{Cut, OVERLAP_MAX};

/// Most keys of `top`.
const BEST_MAX: i64 = 10_000;

/// Reads an aggregate called `key`.
pub fn aggregate(key: &'static str, node: &Node) -> Result<OpSpec, Fault> {
    let what = format!("`{key}`");
    let mut keys = vec!["by", "window"];
    match key {
        "count" => keys.push("changelog"),
        "top" => keys.extend(["of", "n"]),
        _ => keys.extend(["of", "changelog"]),
    }
    let table = Table::of(node, &what, &keys)?;
    let kind = match key {
        "count" => Kind::Count,
        "sum" => Kind::Sum,
        "min" => Kind::Min,
        "max" => Kind::Max,
        "avg" => Kind::Avg,
        "distinct" => Kind::Distinct,
        _ if table.get("of").is_some() => Kind::Sum,
        _ => Kind::Count,
    };
    let of = match kind {
        Kind::Count => None,
        _ => Some(column(need(&table, "of")?)?),
    };
    let window = table.get("window").map(window).transpose()?;
    let changelog = table.flag("changelog")?;
    let refuse = |what: &str, remedy: &str| Err(Fault::new(node.at, what, remedy));
    match window {
        Some((Cut::Session(_), ..)) if kind == Kind::Distinct || key == "top" => {
            return refuse(
                "`distinct` and `top` have no session windows",
                "use `tumbling_ms` or `sliding_ms`",
            );
        }
        Some(_) if changelog => {
            return refuse(
                "`changelog` with a window",
                "leave one of them out: a window puts its result out once",
            );
        }
        _ => {}
    }
    let best = (key == "top").then(|| table.int("n", 10, 1, BEST_MAX));
    Ok(OpSpec::Aggregate(AggregateSpec {
        kind,
        by: columns(need(&table, "by")?)?,
        of,
        best: best.transpose()?.map(|best| best as usize),
        window,
        changelog,
    }))
}

fn window(node: &Node) -> Result<(Cut, TimeSpec, i64), Fault> {
    let cuts = ["tumbling_ms", "sliding_ms", "session_ms"];
    let others = ["step_ms", "time", "time_format", "allowed_lateness_ms"];
    let table = Table::of(node, "`window`", &[&cuts[..], &others].concat())?;
    let (key, _) = table.one_of(&cuts)?;
    let span = table.int(key, 1, 1, SPAN_MS_MAX)?;
    let step = table.get("step_ms");
    let cut = match (key, step) {
        ("sliding_ms", Some(at)) => {
            let step = table.int("step_ms", 1, 1, span)?;
            if (span + step - 1) / step > OVERLAP_MAX {
                let what = format!("each line would be in more than {OVERLAP_MAX} windows");
                return Err(Fault::new(at.at, what, "use a longer `step_ms`"));
            }
            Cut::Sliding { size: span, step }
        }
        ("sliding_ms", None) => {
            let what = "`sliding_ms` without `step_ms`";
            return Err(Fault::new(node.at, what, "say how far windows lie apart"));
        }
        (_, Some(at)) => {
            let what = format!("`step_ms` with `{key}`");
            return Err(Fault::new(at.at, what, "leave it out"));
        }
        ("session_ms", None) => Cut::Session(span),
        _ => Cut::Tumbling(span),
    };
    let lateness = table.int("allowed_lateness_ms", 0, 0, SPAN_MS_MAX)?;
    Ok((cut, time(&table, "time", "time_format")?, lateness))
}

fn time(table: &Table<'_>, key: &'static str, format: &str) -> Result<TimeSpec, Fault> {
    Ok(TimeSpec {
        column: column(need(table, key)?)?,
        format: time_format(table, format)?,
    })
}

/// Reads a `dedup`.
pub fn dedup(node: &Node) -> Result<OpSpec, Fault> {
    let keys = ["by", "within_ms", "time", "time_format"];
    let table = Table::of(node, "`dedup`", &keys)?;
    let within = match (table.get("within_ms"), table.get("time")) {
        (None, None) => None,
        (None, Some(time)) => {
            let what = "`time` of `dedup` without `within_ms`";
            return Err(Fault::new(time.at, what, "say for how long a key counts"));
        }
        (Some(_), _) => Some((
            time(&table, "time", "time_format")?,
            table.int("within_ms", 0, 0, SPAN_MS_MAX)?,
        )),
    };
    let by = table.get("by").map(columns).transpose()?;
    Ok(OpSpec::Dedup {
        by: by.unwrap_or_default(),
        within,
    })
}

/// Reads a `join`.
pub fn join(node: &Node) -> Result<OpSpec, Fault> {
    let of_file = ["file", "file_on", "keep"];
    let of_streams = [
        "right_on",
        "within_ms",
        "time",
        "time_format",
        "right_time",
        "right_time_format",
    ];
    let keys = [&["on"][..], &of_file, &of_streams].concat();
    let table = Table::of(node, "`join`", &keys)?;
    let wrong = match table.get("file") {
        Some(_) => &of_streams[..],
        None => &of_file[1..],
    };
    if let Some((key, found)) = wrong.iter().find_map(|key| Some((key, table.get(key)?))) {
        let what = format!("`{key}` is not for this kind of `join`");
        let remedy = "a join with a file has `file`, one of two streams `within_ms` and `time`";
        return Err(Fault::new(found.at, what, remedy));
    }
    let on = columns(need(&table, "on")?)?;
    let or_same = |key: &str, same: &[Column]| match table.get(key) {
        Some(node) => columns(node),
        None => Ok(same.to_vec()),
    };
    let right = match table.get("file") {
        Some(_) => or_same("file_on", &on)?,
        None => or_same("right_on", &on)?,
    };
    if right.len() != on.len() {
        let what = format!("{} columns meet {}", on.len(), right.len());
        return Err(Fault::new(node.at, what, "name as many on both sides"));
    }
    if table.get("file").is_some() {
        let (path, at) = table.need_text("file")?;
        return Ok(OpSpec::Lookup(LookupSpec {
            at,
            path: clean_path(&path, at)?,
            on,
            file_on: right,
            keep_all: word(&table, "keep", &[("matches", false), ("all", true)])?,
        }));
    }
    need(&table, "within_ms")?;
    let left_time = time(&table, "time", "time_format")?;
    let right_time = match table.get("right_time") {
        Some(_) => time(&table, "right_time", "right_time_format")?,
        None => left_time.clone(),
    };
    Ok(OpSpec::Join {
        on: [on, right],
        time: [left_time, right_time],
        within_ms: table.int("within_ms", 0, 0, SPAN_MS_MAX)?,
    })
}

fn need<'a>(table: &Table<'a>, key: &'static str) -> Result<&'a Node, Fault> {
    table.get(key).ok_or_else(|| {
        let remedy = match key {
            "within_ms" => "add `within_ms = 60000`, or `file` for a join with a file".to_owned(),
            _ => format!("add `{key} = \"column\"`"),
        };
        Fault::new(table.at, format!("`{key}` is missing"), remedy)
    })
}

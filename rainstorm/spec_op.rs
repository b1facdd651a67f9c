//! The `op` of a stage as written.

use crate::compute::ComputeSpec;
use crate::decimal::Decimal;
use crate::given::INPUTS_MAX;
use crate::spec::{
    Bound, Column, Contract, ExecSpec, InputSpec, Mapping, OpSpec, Order, Pieces, Place, Test,
    clean_path, column, word,
};
use crate::spec_keyed::{aggregate, dedup, join};
use crate::spec_tree::{Fault, Node, Table, Value};
use crate::split;

/// Reads an `op`.
pub fn operation(node: &Node) -> Result<OpSpec, Fault> {
    let keys = [
        "filter", "select", "map", "split", "flat_map", "count", "sum", "min", "max", "avg",
        "distinct", "top", "dedup", "join", "exec",
    ];
    let (key, node) = Table::of(node, "`op`", &keys)?.one_of(&keys)?;
    match key {
        "filter" => filter(node),
        "select" => select(node),
        "map" => map(node),
        "split" => split(node),
        "flat_map" => flat_map(node),
        "dedup" => dedup(node),
        "join" => join(node),
        "exec" => exec(node),
        _ => aggregate(key, node),
    }
}

fn filter(node: &Node) -> Result<OpSpec, Fault> {
    let tests = [
        "contains", "equals", "regex", "in", "above", "at_least", "below", "at_most", "where",
    ];
    let keys = [&tests[..], &["column", "not"]].concat();
    let table = Table::of(node, "`filter`", &keys)?;
    let (key, what) = table.one_of(&tests)?;
    if key == "where" {
        return ComputeSpec::filter(&table).map(OpSpec::Compute);
    }
    let column = table.get("column").map(column).transpose()?;
    let compare = |order| Ok(Test::Compare(order, bound(what)?));
    let test = match key {
        "contains" => Test::Contains(table.need_text(key)?.0.into_bytes()),
        "equals" => Test::Equals(table.need_text(key)?.0.into_bytes()),
        "in" => {
            let words = table.texts(key)?.unwrap_or_default();
            Test::In(words.into_iter().map(String::into_bytes).collect())
        }
        "above" => compare(Order::Above)?,
        "at_least" => compare(Order::AtLeast)?,
        "below" => compare(Order::Below)?,
        "at_most" => compare(Order::AtMost)?,
        _ => Test::Regex(regex(&table.need_text(key)?.0, what.at)?),
    };
    Ok(OpSpec::Filter {
        column,
        test,
        not: table.flag("not")?,
    })
}

/// What values are compared with.
pub fn bound(node: &Node) -> Result<Bound, Fault> {
    let number = match &node.value {
        Value::Text(text) => return Ok(Bound::Text(text.clone().into_bytes())),
        Value::Int(number) => Some(Decimal::whole(*number)),
        Value::Fraction(text) => Decimal::parse(text.as_bytes()),
        _ => None,
    };
    let wrong = || {
        let what = format!("a bound is {} that cannot be compared", node.value.kind());
        let remedy = "write a number with up to nine digits behind the point, or text in quotes";
        Fault::new(node.at, what, remedy)
    };
    number.map(Bound::Number).ok_or_else(wrong)
}

fn select(node: &Node) -> Result<OpSpec, Fault> {
    let table = Table::of(node, "`select`", &["columns"])?;
    let columns: Vec<Column> = table
        .list("columns")?
        .iter()
        .map(column)
        .collect::<Result<_, _>>()?;
    if columns.is_empty() {
        return Err(Fault::new(
            node.at,
            "`select` names no column",
            "add `columns = [\"a\", \"b\"]`",
        ));
    }
    Ok(OpSpec::Select(columns))
}

fn map(node: &Node) -> Result<OpSpec, Fault> {
    let kinds = ["set", "to", "template", "case", "trim", "replace"];
    let keys = [&kinds[..], &["with", "column", "columns"]].concat();
    let table = Table::of(node, "`map`", &keys)?;
    let (key, what) = table.one_of(&kinds)?;
    if let Some(with) = table.get("with").filter(|_| key != "replace") {
        return Err(Fault::new(
            with.at,
            "`with` without `replace`",
            "leave it out",
        ));
    }
    match key {
        "set" => return ComputeSpec::set(&table, what).map(OpSpec::Compute),
        "to" => return ComputeSpec::to(&table).map(OpSpec::Compute),
        _ => {}
    }
    let column = table.get("column").map(column).transpose()?;
    let mapping = match key {
        "template" => match &column {
            Some(column) => {
                return Err(Fault::new(
                    column.at,
                    "`column` with `template`",
                    "leave `column` out",
                ));
            }
            None => {
                let text = table.need_text(key)?.0;
                if text.contains('\n') {
                    let what = "the `template` holds a line end";
                    let remedy = "each line makes one line; `split` and `flat_map` make several";
                    return Err(Fault::new(table.at, what, remedy));
                }
                Mapping::Template(template(&text, what.at)?)
            }
        },
        "case" => word(
            &table,
            key,
            &[("upper", Mapping::Upper), ("lower", Mapping::Lower)],
        )?,
        "trim" if table.flag(key)? => Mapping::Trim,
        "trim" => {
            return Err(Fault::new(
                what.at,
                "`trim = false` does nothing",
                "leave the stage out",
            ));
        }
        _ => {
            let regex = regex(&table.need_text(key)?.0, what.at)?;
            let with = with(&table, &regex, "")?;
            Mapping::Replace(regex, with.into_bytes())
        }
    };
    Ok(OpSpec::Map {
        column,
        mapping,
        columns: table.texts("columns")?,
    })
}

/// `{name}` and `{2}` are columns, `{{` and `}}` are braces.
fn template(text: &str, at: usize) -> Result<Pieces, Fault> {
    let mut pieces = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text;
    while let Some(brace) = rest.find(['{', '}']) {
        literal.extend_from_slice(&rest.as_bytes()[..brace]);
        rest = &rest[brace..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            literal.push(rest.as_bytes()[0]);
            rest = &rest[2..];
            continue;
        }
        let inner = rest
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let Some((name, after)) = inner else {
            return Err(Fault::new(
                at,
                "a brace of the template is not closed or not opened",
                "write {{ or }} for a brace",
            ));
        };
        let name = name
            .parse::<usize>()
            .ok()
            .filter(|&number| number > 0)
            .map_or(Ok(name.to_owned()), Err);
        pieces.push((std::mem::take(&mut literal), Some(Column { at, name })));
        rest = after;
    }
    literal.extend_from_slice(rest.as_bytes());
    pieces.push((literal, None));
    Ok(pieces)
}

fn exec(node: &Node) -> Result<OpSpec, Fault> {
    let table = Table::of(
        node,
        "`exec`",
        &[
            "path",
            "command",
            "contract",
            "args",
            "exit_ok",
            "columns",
            "timeout_ms",
            "memory_mb",
            "max_attempts",
            "network",
            "processes",
            "cpu_percent",
            "state",
            "inputs",
        ],
    )?;
    let (place, at) = place(node, &table)?;
    let contracts = [
        ("lines", Contract::Lines),
        ("batch", Contract::Batch),
        ("argv", Contract::Argv),
    ];
    let exec = ExecSpec {
        at,
        place,
        contract: word(&table, "contract", &contracts)?,
        args: table.texts("args")?.unwrap_or_default(),
        exit_ok: exit_ok(&table)?,
        timeout_ms: table.int("timeout_ms", 30_000, 1, 3_600_000)? as u64,
        memory_mb: table.int("memory_mb", 2_048, 16, 1 << 20)? as u64,
        max_attempts: table.int("max_attempts", 4, 1, 20)? as u32,
        network: table.flag("network")?,
        processes: table.int("processes", 128, 1, 32_768)? as u64,
        cpu_percent: match table.get("cpu_percent") {
            Some(_) => table.int("cpu_percent", 100, 1, 100_000)? as u64,
            None => 0,
        },
        state: match table.flag("state")? {
            true => table.get("state").map(|state| state.at),
            false => None,
        },
        inputs: inputs(&table)?,
    };
    if let Some(at) = exec.state
        && exec.contract != Contract::Lines
    {
        let what = "`state` of an executable whose contract is not `lines`";
        let remedy = "leave `contract` out: what is to be remembered is said in lines, as docs/JOBS.md shows";
        return Err(Fault::new(at, what, remedy));
    }
    if exec.args.iter().any(|arg| arg.contains('\0')) {
        return Err(Fault::new(at, "an argument holds a NUL byte", "remove it"));
    }
    Ok(OpSpec::Exec {
        exec,
        columns: table.texts("columns")?,
    })
}

fn place(node: &Node, table: &Table) -> Result<(Place, usize), Fault> {
    match (table.text("path")?, table.text("command")?) {
        (Some((path, at)), None) => Ok((Place::Stored(clean_path(&path, at)?), at)),
        (None, Some((name, at))) if name.is_empty() || name.contains(['/', '\0']) => {
            let what = format!("`command` of `exec` is the name of a program, not {name:?}");
            let remedy = "write a name like \"grep\"; an executable of the file system is a `path`";
            Err(Fault::new(at, what, remedy))
        }
        (None, Some((name, at))) => Ok((Place::Member(name), at)),
        (Some(_), Some((_, at))) => {
            let what = "`exec` has both `path` and `command`";
            Err(Fault::new(at, what, "leave out one of them"))
        }
        (None, None) => {
            let what = "`exec` needs `path` or `command`";
            let remedy =
                "name an executable of the file system, or a program that every member has";
            Err(Fault::new(node.at, what, remedy))
        }
    }
}

fn inputs(table: &Table) -> Result<Vec<InputSpec>, Fault> {
    let mut inputs: Vec<InputSpec> = Vec::new();
    let paths = table.texts("inputs")?.unwrap_or_default();
    for (path, node) in paths.iter().zip(table.list("inputs")?) {
        let at = node.at;
        let path = clean_path(path, at)?;
        let input = InputSpec { path, at };
        if let Some(other) = inputs.iter().find(|other| other.name() == input.name()) {
            let (one, two) = (&other.path, &input.path);
            let what = format!("the inputs {one} and {two} have the same name");
            let remedy = "rename or copy one of them: the executable finds both in one folder";
            return Err(Fault::new(at, what, remedy));
        }
        if inputs.len() == INPUTS_MAX {
            let what = format!("`exec` has more than {INPUTS_MAX} `inputs`");
            return Err(Fault::new(at, what, "put some of them into one file"));
        }
        inputs.push(input);
    }
    Ok(inputs)
}

fn exit_ok(table: &Table) -> Result<Vec<i32>, Fault> {
    let Some(list) = table.get("exit_ok") else {
        return Ok(vec![0]);
    };
    let remedy = "write the exit statuses of a run that worked, as in [0, 1]";
    let wrong = |at| Fault::new(at, "`exit_ok` is no list of numbers from 0 to 255", remedy);
    let status = |item: &Node| match item.value {
        Value::Int(status @ 0..=255) => Ok(status as i32),
        _ => Err(wrong(item.at)),
    };
    match &list.value {
        Value::List(items) if !items.is_empty() => items.iter().map(status).collect(),
        _ => Err(wrong(list.at)),
    }
}

fn split(node: &Node) -> Result<OpSpec, Fault> {
    let table = Table::of(node, "`split`", &["by", "column", "columns"])?;
    let (by, at) = table.need_text("by")?;
    if by.is_empty() {
        let what = "`by` of `split` is empty";
        return Err(Fault::new(at, what, "write what stands between the pieces"));
    }
    Ok(OpSpec::Split {
        column: table.get("column").map(column).transpose()?,
        pieces: split::Pieces::Between(by.into_bytes()),
        columns: table.texts("columns")?,
    })
}

fn flat_map(node: &Node) -> Result<OpSpec, Fault> {
    let keys = ["matches", "with", "column", "columns"];
    let table = Table::of(node, "`flat_map`", &keys)?;
    let (text, at) = table.need_text("matches")?;
    let regex = regex(&text, at)?;
    let with = with(&table, &regex, "$0")?;
    if with.contains('\n') {
        let what = "`with` of `flat_map` holds a line end";
        return Err(Fault::new(at, what, "each match makes one line"));
    }
    Ok(OpSpec::Split {
        column: table.get("column").map(column).transpose()?,
        pieces: split::Pieces::Matches(regex, with.into_bytes()),
        columns: table.texts("columns")?,
    })
}

/// What stands in the place of a match: `$1`, `$name` and `${name}` are groups, which the pattern has, `$$` is a `$`.
fn with(table: &Table<'_>, regex: &regex::bytes::Regex, default: &str) -> Result<String, Fault> {
    let Some((with, at)) = table.text("with")? else {
        return Ok(default.to_owned());
    };
    let has = |group: &str| match group.parse::<usize>() {
        Ok(number) => number < regex.captures_len(),
        Err(_) => regex.capture_names().flatten().any(|name| name == group),
    };
    let mut rest = with.as_str();
    while let Some((_, behind)) = rest.split_once('$') {
        let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (group, next) = match behind
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'))
        {
            Some(braced) => braced,
            None => behind.split_at(behind.find(|c| !of_word(c)).unwrap_or(behind.len())),
        };
        if !group.is_empty() && !has(group) {
            let what = format!("`with` names the group `{group}`, which the pattern lacks");
            let digits = group.len() - group.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let remedy = match group.split_at(digits) {
                (number, text) if !text.is_empty() && has(number) => {
                    format!("write `${{{number}}}{text}` if the group {number} is meant")
                }
                _ => "name one that it has, or write `$$` for a `$`".to_owned(),
            };
            return Err(Fault::new(at, what, remedy));
        }
        rest = match behind.strip_prefix('$') {
            Some(behind) => behind,
            None => next,
        };
    }
    Ok(with)
}

fn regex(text: &str, at: usize) -> Result<regex::bytes::Regex, Fault> {
    regex::bytes::RegexBuilder::new(text)
        .size_limit(8 << 20)
        .build()
        .map_err(|error| {
            let why = error
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .to_owned();
            Fault::new(
                at,
                format!("not a valid regular expression: {why}"),
                "mend it, or use `contains`",
            )
        })
}

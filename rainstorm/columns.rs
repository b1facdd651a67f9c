//! Names of columns as numbers, and the operators that need little else to be resolved.

use crate::aggregate::{Aggregate, Kind};
use crate::dedup::DedupSpec;
use crate::plan::{Op, Route};
use crate::spec::{AggregateSpec, Column, Mapping, OpSpec};
use crate::spec_tree::{Fault, nearest};
use crate::window::WindowSpec;
use std::collections::BTreeSet;

/// Names of columns, where they are known.
pub type Columns = Option<Vec<String>>;

/// An operator that needs nothing but its columns, and the columns of what it puts out.
pub fn operator(op: &OpSpec, columns: Option<&[String]>) -> Result<(Op, Columns), Fault> {
    let same = || columns.map(<[String]>::to_vec);
    Ok(match op {
        OpSpec::Filter { column, test, not } => {
            let column = column
                .as_ref()
                .map(|column| number(column, columns))
                .transpose()?;
            (
                Op::Filter {
                    column,
                    test: test.clone(),
                    not: *not,
                },
                same(),
            )
        }
        OpSpec::Select(wanted) => {
            let numbers = wanted
                .iter()
                .map(|column| number(column, columns))
                .collect::<Result<Vec<_>, _>>()?;
            let names = select_names(&numbers, columns);
            (Op::Select(numbers), names)
        }
        OpSpec::Map {
            mapping: Mapping::Template(pieces),
            columns: after,
            ..
        } => {
            let piece = |(text, column): &(Vec<u8>, Option<Column>)| {
                Ok((
                    text.clone(),
                    column
                        .as_ref()
                        .map(|column| number(column, columns))
                        .transpose()?,
                ))
            };
            (
                Op::Template(pieces.iter().map(piece).collect::<Result<_, Fault>>()?),
                after.clone(),
            )
        }
        OpSpec::Map {
            column,
            mapping,
            columns: after,
        } => {
            let column = column
                .as_ref()
                .map(|column| number(column, columns))
                .transpose()?;
            (
                Op::Map {
                    column,
                    mapping: mapping.clone(),
                },
                after.clone().or_else(same),
            )
        }
        OpSpec::Split {
            column,
            pieces,
            columns: after,
        } => {
            let column = column
                .as_ref()
                .map(|column| number(column, columns))
                .transpose()?;
            let pieces = pieces.clone();
            (Op::Split { column, pieces }, after.clone())
        }
        OpSpec::Compute(spec) => {
            let (compute, after) = spec.resolve(columns)?;
            (Op::Compute(compute), after)
        }
        OpSpec::Dedup { by, within } => {
            let within = match within {
                Some((time, within_ms)) => {
                    Some((number(&time.column, columns)?, time.format, *within_ms))
                }
                None => None,
            };
            let by = numbers(by, columns)?;
            (Op::Dedup(DedupSpec { by, within }), same())
        }
        OpSpec::Aggregate(_) | OpSpec::Join { .. } | OpSpec::Lookup(_) | OpSpec::Exec { .. } => {
            unreachable!("the builder resolves these itself")
        }
    })
}

/// The number of a column, from 0.
pub fn number(column: &Column, columns: Option<&[String]>) -> Result<usize, Fault> {
    match (&column.name, columns) {
        (Err(number), Some(all)) if *number > all.len() => {
            let what = format!("there is no column {number}");
            Err(Fault::new(
                column.at,
                what,
                format!("there are {}: `{}`", all.len(), all.join("`, `")),
            ))
        }
        (Err(number), _) => Ok(number - 1),
        (Ok(name), Some(all)) => {
            let known: Vec<&str> = all.iter().map(String::as_str).collect();
            let missing = || {
                Fault::new(
                    column.at,
                    format!("there is no column `{name}`"),
                    nearest(name, &known),
                )
            };
            all.iter()
                .position(|other| other == name)
                .ok_or_else(missing)
        }
        (Ok(name), None) => {
            let what = format!("column `{name}` is named, but nothing names the columns here");
            Err(Fault::new(
                column.at,
                what,
                "use its number from 1, `format = \"csv\"`, or `columns = […]` of the operator before",
            ))
        }
    }
}

/// The numbers of several columns.
pub fn numbers(all: &[Column], columns: Option<&[String]>) -> Result<Vec<usize>, Fault> {
    all.iter().map(|column| number(column, columns)).collect()
}

/// The names of some columns, by their numbers.
pub fn select_names(numbers: &[usize], columns: Option<&[String]>) -> Columns {
    let all = columns?;
    let name = |&at: &usize| all.get(at).cloned().unwrap_or_default();
    Some(numbers.iter().map(name).collect())
}

/// An aggregate, and the columns of what it puts out.
pub fn aggregate(spec: &AggregateSpec, columns: Option<&[String]>) -> Result<(Op, Columns), Fault> {
    let label = match spec.kind {
        Kind::Count => "count",
        Kind::Sum => "sum",
        Kind::Min => "min",
        Kind::Max => "max",
        Kind::Avg => "avg",
        Kind::Distinct => "distinct",
    };
    let window = match &spec.window {
        Some((cut, time, lateness_ms)) => Some(WindowSpec {
            cut: *cut,
            time: number(&time.column, columns)?,
            format: time.format,
            lateness_ms: *lateness_ms,
        }),
        None => None,
    };
    let mut after = Vec::new();
    if window.is_some() {
        after.extend(["start".to_owned(), "end".to_owned()]);
    }
    let names = spec.by.iter().map(|by| by.name.clone());
    after.extend(names.map(|name| name.unwrap_or_else(|at| at.to_string())));
    after.push(label.to_owned());
    let aggregate = Aggregate {
        kind: spec.kind,
        by: numbers(&spec.by, columns)?,
        of: spec.of.as_ref().map(|of| number(of, columns)).transpose()?,
        best: spec.best,
        window,
        json: false,
        changelog: spec.changelog,
    };
    Ok((Op::Aggregate(aggregate), Some(after)))
}

/// An aggregate that is fed by key gets the columns that it reads, and no others (fault R15).
pub fn project(op: &mut Op, routes: &mut [Route]) {
    let Op::Aggregate(spec) = op else { return };
    let mut used: BTreeSet<usize> = spec.by.iter().copied().collect();
    used.extend(spec.of);
    used.extend(spec.window.as_ref().map(|window| window.time));
    let used: Vec<usize> = used.into_iter().collect();
    let place = |column: usize| used.binary_search(&column).unwrap_or_default();
    spec.by.iter_mut().for_each(|by| *by = place(*by));
    spec.of = spec.of.map(place);
    if let Some(window) = &mut spec.window {
        window.time = place(window.time);
    }
    for route in routes {
        if let Route::Key { by, keep } = route {
            by.iter_mut().for_each(|by| *by = place(*by));
            *keep = Some(used.clone());
        }
    }
}

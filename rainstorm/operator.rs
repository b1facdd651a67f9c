//! The operators of stages: lines in, lines out. Those built in never allocate per line on the way through.

use crate::aggregate::Totals;
use crate::batch::{Batch, Lines};
use crate::compute::Computing;
use crate::csv;
use crate::dead::Letters;
use crate::dedup::Dedup;
use crate::error::Result;
use crate::event_time::EventMark;
use crate::exec::Exec;
use crate::filter::Filter;
use crate::join::Join;
use crate::lookup::Index;
use crate::plan::Op;
use crate::room::Room;
use crate::spec::Mapping;
use crate::split::{self, Pieces};
use crate::stateful::{State, Stateful, work_on};
use crate::text::with_case;
use crate::window::Windows;
use memchr::{memchr, memchr_iter};

/// An operator of one task.
pub enum Operator {
    Pass,
    Filter(Box<Filter>),
    Select(Vec<usize>),
    Template(Vec<(Vec<u8>, Option<usize>)>),
    Map {
        column: Option<usize>,
        mapping: Mapping,
    },
    Split {
        column: Option<usize>,
        pieces: Pieces,
    },
    Compute(Box<Computing>),
    Stateful(Box<dyn Stateful>),
    Lookup(Box<Index>),
    Exec(Box<Exec>),
}

impl Operator {
    /// The operator of a plan's node, with `room` for its state if it has any; `None` for one that needs a file first.
    pub fn built_in(op: &Op, room: impl FnOnce() -> Room) -> Option<Self> {
        Some(match op {
            Op::Pass => Self::Pass,
            Op::Filter { column, test, not } => {
                Self::Filter(Box::new(Filter::new(*column, test.clone(), *not)))
            }
            Op::Select(columns) => Self::Select(columns.clone()),
            Op::Template(pieces) => Self::Template(pieces.clone()),
            Op::Map { column, mapping } => Self::Map {
                column: *column,
                mapping: mapping.clone(),
            },
            Op::Split { column, pieces } => Self::Split {
                column: *column,
                pieces: pieces.clone(),
            },
            Op::Compute(compute) => Self::Compute(Box::new(Computing::new(compute.clone()))),
            Op::Aggregate(spec) => Self::Stateful(match &spec.window {
                Some(window) => Box::new(Windows::new(spec.clone(), window.clone(), room())),
                None => Box::new(Totals::new(spec.clone(), room())),
            }),
            Op::Dedup(spec) => Self::Stateful(Box::new(Dedup::new(spec.clone(), room()))),
            Op::Join(spec) => Self::Stateful(Box::new(Join::new(spec.clone(), room()))),
            Op::Lookup(_) | Op::Exec { .. } => return None,
        })
    }

    /// Works on a batch of input number `input`; what comes out goes to `out`.
    pub async fn apply(
        &mut self,
        input: usize,
        batch: Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        match self {
            Self::Pass => out.push(batch),
            Self::Filter(filter) => out.extend(filter.apply(batch)),
            Self::Select(columns) => out.extend(each(&batch, |line, to| select(columns, line, to))),
            Self::Template(pieces) => {
                out.extend(each(&batch, |line, to| template(pieces, line, to)))
            }
            Self::Map { column, mapping } => {
                out.extend(each(&batch, |line, to| map(*column, mapping, line, to)))
            }
            Self::Split { column, pieces } => out.extend(split::split(*column, pieces, &batch)),
            Self::Compute(computing) => computing.apply(batch, out, letters)?,
            Self::Stateful(state) => work_on(&mut **state, |state| {
                state.apply(input, batch, out, letters)
            })?,
            Self::Lookup(index) => index.apply(batch, out, letters)?,
            Self::Exec(exec) => exec.apply(&batch, out, letters).await?,
        }
        Ok(())
    }

    /// Goes on with what `apply` has left, a batch or so at a time, so that little waits in memory; false: nothing is left.
    pub fn go_on(&mut self, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<bool> {
        match self {
            Self::Stateful(state) => work_on(&mut **state, |state| state.go_on(out, letters)),
            Self::Lookup(index) => index.go_on(out, letters),
            Self::Compute(computing) => computing.go_on(out, letters),
            _ => Ok(false),
        }
    }

    /// Works on what it has been given and has put aside.
    pub async fn flush(&mut self, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<()> {
        match self {
            Self::Exec(exec) => exec.flush(out, letters).await,
            _ => Ok(()),
        }
    }

    /// A job epoch ends: windows that the event watermark has passed close. Whether there is more to put out.
    pub fn barrier(&mut self, mark: i64, out: &mut Vec<Batch>) -> Result<bool> {
        match self {
            Self::Stateful(state) => work_on(&mut **state, |state| state.barrier(mark, out)),
            _ => Ok(false),
        }
    }

    /// What it remembers, if it remembers anything.
    pub fn state(&mut self) -> Option<&mut dyn State> {
        match self {
            Self::Stateful(state) => Some(&mut **state),
            Self::Exec(exec) => exec.state(),
            _ => None,
        }
    }

    /// The event watermark of what it puts out behind a barrier with this one.
    pub fn holds(&self, mark: EventMark) -> EventMark {
        match self {
            Self::Stateful(state) => mark.held(|at| state.holds(at)),
            _ => mark,
        }
    }

    /// What is left to say when the input has ended. Whether there is more to put out.
    pub fn finish(&mut self, out: &mut Vec<Batch>) -> Result<bool> {
        match self {
            Self::Stateful(state) => work_on(&mut **state, |state| state.finish(out)),
            _ => Ok(false),
        }
    }

    /// What came too late since the last call.
    pub fn take_late(&mut self) -> Option<Batch> {
        match self {
            Self::Stateful(state) => state.take_late(),
            _ => None,
        }
    }
}

/// One line out for each line in.
fn each(batch: &Batch, mut write: impl FnMut(&[u8], &mut Vec<u8>)) -> Option<Batch> {
    let mut lines = Lines::default();
    for line in batch.lines() {
        lines.push_with(|out| write(line, out));
    }
    lines.take()
}

/// Raw fields in the order asked for; those that a short line lacks are empty.
pub fn select(columns: &[usize], line: &[u8], out: &mut Vec<u8>) {
    let last = columns.iter().copied().max().unwrap_or(0);
    let mut found: [&[u8]; 16] = [b""; 16];
    let few = last < found.len();
    if few && memchr(b'"', line).is_none() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let ends = memchr_iter(b',', line).chain([line.len()]);
        let mut from = 0;
        for (slot, end) in found.iter_mut().zip(ends).take(last + 1) {
            *slot = &line[from..end];
            from = end + 1;
        }
    } else if few {
        csv::fields(line)
            .take(last + 1)
            .zip(&mut found)
            .for_each(|(raw, slot)| *slot = raw);
    }
    for (at, &column) in columns.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let raw = if few {
            found[column]
        } else {
            csv::field(line, column).unwrap_or_default()
        };
        out.extend_from_slice(raw);
    }
}

/// Literal text and the values of columns in turn.
fn template(pieces: &[(Vec<u8>, Option<usize>)], line: &[u8], out: &mut Vec<u8>) {
    for (text, column) in pieces {
        out.extend_from_slice(text);
        if let Some(raw) = column.and_then(|column| csv::field(line, column)) {
            out.extend_from_slice(&csv::value(raw));
        }
    }
}

fn map(column: Option<usize>, mapping: &Mapping, line: &[u8], out: &mut Vec<u8>) {
    let Some(column) = column else {
        return change(mapping, line.strip_suffix(b"\r").unwrap_or(line), out);
    };
    for (at, raw) in csv::fields(line).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        if at == column {
            let mut value = Vec::new();
            change(mapping, &csv::value(raw), &mut value);
            csv::push_value(&value, out);
        } else {
            out.extend_from_slice(raw);
        }
    }
}

fn change(mapping: &Mapping, text: &[u8], out: &mut Vec<u8>) {
    match mapping {
        Mapping::Upper => with_case(text, str::to_uppercase, out),
        Mapping::Lower => with_case(text, str::to_lowercase, out),
        Mapping::Trim => out.extend_from_slice(text.trim_ascii()),
        Mapping::Replace(regex, with) => {
            let changed = regex.replace_all(text, with.as_slice());
            // A line end would make two lines of one.
            out.extend(
                changed
                    .iter()
                    .map(|&byte| if byte == b'\n' { b' ' } else { byte }),
            );
        }
        Mapping::Template(_) => out.extend_from_slice(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    async fn run(op: Op, text: &'static str) -> String {
        let mut operator = Operator::built_in(&op, Room::vast).unwrap();
        let mut out = Vec::new();
        let batch = Batch::from_text(Bytes::from_static(text.as_bytes())).unwrap();
        let mut letters = Letters::new(false);
        let done = operator.apply(0, batch, &mut out, &mut letters).await;
        done.unwrap();
        assert!(!operator.finish(&mut out).unwrap());
        let text: Vec<String> = out
            .iter()
            .map(|batch| String::from_utf8(batch.bytes().to_vec()).unwrap())
            .collect();
        text.join("\n")
    }

    #[tokio::test]
    async fn selects_maps_and_counts() {
        let text = "1,\"a, b\",x\n2,c\n";
        assert_eq!(run(Op::Select(vec![1, 0]), text).await, "\"a, b\",1\nc,2");
        assert_eq!(run(Op::Select(vec![2, 20]), text).await, "x,\n,");
        let pieces = vec![(b"<".to_vec(), Some(1)), (b">".to_vec(), None)];
        assert_eq!(run(Op::Template(pieces), text).await, "<a, b>\n<c>");
        let upper = Op::Map {
            column: Some(1),
            mapping: Mapping::Upper,
        };
        assert_eq!(run(upper, text).await, "1,\"A, B\",x\n2,C");
        let regex = regex::bytes::Regex::new(r"(\d),").unwrap();
        let replace = Op::Map {
            column: None,
            mapping: Mapping::Replace(regex, b"${1}0,".to_vec()),
        };
        assert_eq!(run(replace, text).await, "10,\"a, b\",x\n20,c");
        let at_end = Op::Map {
            column: None,
            mapping: Mapping::Replace(regex::bytes::Regex::new("x$").unwrap(), b"y".to_vec()),
        };
        assert_eq!(run(at_end, "ax\r\nbx\n").await, "ay\nby");
    }
}

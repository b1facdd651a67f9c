//! The operators of stages: lines in, lines out. Those built in never allocate per line on the way through.

use crate::batch::{Batch, Lines};
use crate::csv;
use crate::error::Result;
use crate::exec::Exec;
use crate::plan::Op;
use crate::spec::{Mapping, Test};
use crate::sum::Sum;
use memchr::memmem;

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
    Sum(Sum),
    Exec(Box<Exec>),
}

impl Operator {
    /// The built-in operator of a plan's node; `None` for an executable.
    pub fn built_in(op: &Op) -> Option<Self> {
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
            Op::Sum { by, of, json } => Self::Sum(Sum::new(*by, *of, *json)),
            Op::Exec(_) => return None,
        })
    }

    /// Works on a batch; what comes out goes to `out`.
    pub async fn apply(&mut self, batch: Batch, out: &mut Vec<Batch>) -> Result<()> {
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
            Self::Sum(sum) => sum.apply(&batch)?,
            Self::Exec(exec) => exec.apply(&batch, out).await?,
        }
        Ok(())
    }

    /// What is left to say when the input has ended.
    pub fn finish(&mut self, out: &mut Vec<Batch>) {
        if let Self::Sum(sum) = self {
            sum.finish(out);
        }
    }
}

/// Passes the lines that match.
pub struct Filter {
    column: Option<usize>,
    test: Test,
    not: bool,
    /// Finds where a line may match: what is looked for, if it stands in the file as it is.
    finder: Option<memmem::Finder<'static>>,
}

impl Filter {
    fn new(column: Option<usize>, test: Test, not: bool) -> Self {
        let finder = match &test {
            Test::Contains(text) | Test::Equals(text)
                if !text.is_empty() && !text.contains(&b'\n') =>
            {
                // A quote inside a CSV field is doubled in the file; a trailing return may be stripped from a line.
                let literal = column.is_none() || !text.contains(&b'"');
                literal.then(|| memmem::Finder::new(text).into_owned())
            }
            _ => None,
        };
        Self {
            column,
            test,
            not,
            finder,
        }
    }

    fn matches(&self, line: &[u8]) -> bool {
        let test = |value: &[u8]| match &self.test {
            Test::Contains(text) => memmem::find(value, text).is_some(),
            Test::Equals(text) => value == text.as_slice(),
            Test::Regex(regex) => regex.is_match(value),
        };
        match self.column {
            None => test(line.strip_suffix(b"\r").unwrap_or(line)),
            Some(index) => csv::field(line, index).is_some_and(|raw| test(&csv::value(raw))),
        }
    }

    fn apply(&self, batch: Batch) -> Option<Batch> {
        let mut lines = Lines::default();
        let mut run = 0..0;
        let mut keep = |index: usize, lines: &mut Lines| match run.end == index {
            true => run.end += 1,
            false => lines.push_run(&batch, std::mem::replace(&mut run, index..index + 1)),
        };
        match &self.finder {
            Some(finder) if !self.not => {
                let bytes = batch.bytes();
                let mut at = 0;
                while let Some(hit) = finder.find(&bytes[at..]) {
                    let index = batch.line_at(at + hit);
                    if self.matches(batch.line(index)) {
                        keep(index, &mut lines);
                    }
                    at = batch.range(index).end;
                }
            }
            _ => {
                for index in 0..batch.count() {
                    if self.matches(batch.line(index)) != self.not {
                        keep(index, &mut lines);
                    }
                }
            }
        }
        if run.len() == batch.count() {
            return Some(batch);
        }
        lines.push_run(&batch, run);
        lines.take()
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
fn select(columns: &[usize], line: &[u8], out: &mut Vec<u8>) {
    let last = columns.iter().copied().max().unwrap_or(0);
    let mut found: [&[u8]; 16] = [b""; 16];
    let few = last < found.len();
    if few {
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
        return change(mapping, line, out);
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
    let cased = |upper: bool| {
        let text = String::from_utf8_lossy(text);
        if upper {
            text.to_uppercase()
        } else {
            text.to_lowercase()
        }
    };
    match mapping {
        Mapping::Upper => out.extend_from_slice(cased(true).as_bytes()),
        Mapping::Lower => out.extend_from_slice(cased(false).as_bytes()),
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
        let mut operator = Operator::built_in(&op).unwrap();
        let mut out = Vec::new();
        let batch = Batch::from_text(Bytes::from_static(text.as_bytes())).unwrap();
        operator.apply(batch, &mut out).await.unwrap();
        operator.finish(&mut out);
        let text: Vec<String> = out
            .iter()
            .map(|batch| String::from_utf8(batch.bytes().to_vec()).unwrap())
            .collect();
        text.join("\n")
    }

    fn filter(column: Option<usize>, test: Test, not: bool) -> Op {
        Op::Filter { column, test, not }
    }

    #[tokio::test]
    async fn filters() {
        let text = "a,x\nb,\"x, y\"\nxx,c\nd,x\n";
        let contains = || Test::Contains(b"x".to_vec());
        assert_eq!(
            run(filter(None, contains(), false), text).await,
            "a,x\nb,\"x, y\"\nxx,c\nd,x"
        );
        assert_eq!(
            run(filter(Some(1), contains(), false), text).await,
            "a,x\nb,\"x, y\"\nd,x"
        );
        assert_eq!(run(filter(Some(1), contains(), true), text).await, "xx,c");
        assert_eq!(
            run(filter(Some(1), Test::Equals(b"x".to_vec()), false), text).await,
            "a,x\nd,x"
        );
        assert_eq!(
            run(filter(Some(1), Test::Equals(b"x, y".to_vec()), false), text).await,
            "b,\"x, y\""
        );
        let regex = regex::bytes::Regex::new("^[ab],").unwrap();
        assert_eq!(
            run(filter(None, Test::Regex(regex), false), text).await,
            "a,x\nb,\"x, y\""
        );
        assert_eq!(
            run(
                filter(None, Test::Contains(b"nowhere".to_vec()), false),
                text
            )
            .await,
            ""
        );
        let quote = Test::Equals(b"a\"b".to_vec());
        assert_eq!(
            run(filter(Some(0), quote, false), "\"a\"\"b\",1\nab,2\n").await,
            "\"a\"\"b\",1"
        );
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
        let count = Op::Sum {
            by: 1,
            of: None,
            json: false,
        };
        assert_eq!(
            run(count, "1,b\n2,\"x,y\"\n3,b\n4\n").await,
            ",1\nb,2\n\"x,y\",1"
        );
        let sum = Op::Sum {
            by: 0,
            of: Some(1),
            json: true,
        };
        assert_eq!(
            run(sum, "a,2\nb,3\na,-7\n").await,
            "{\n  \"a\": -5,\n  \"b\": 3\n}"
        );
    }
}

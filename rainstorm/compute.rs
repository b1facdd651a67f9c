//! The operators that work with expressions: lines are kept, changed or made as these say. An expression is read once, when
//! the spec is; of a line only the columns that are named are looked at.

use crate::batch::{BATCH_BYTES, Batch, LINE_BYTES_MAX, Lines};
use crate::columns::{Columns, number, numbers};
use crate::csv;
use crate::dead::Letters;
use crate::error::{Error, Result};
use crate::expression::{Condition, Value};
use crate::expression_text::{Expression, Reader, Root};
use crate::spec::Column;
use crate::spec_tree::{Fault, Node, Table, Value as Written};
use std::borrow::Cow;

/// What a stage does with expressions, as written.
#[derive(Debug, Clone)]
pub struct ComputeSpec {
    /// Those that the expressions name.
    columns: Vec<Column>,
    work: Work<Column>,
    /// Names of what `to` puts out.
    after: Columns,
}

/// The same with its columns as numbers from 0.
#[derive(Debug, Clone)]
pub struct Compute {
    /// A column and its slot, in the order of the columns.
    columns: Vec<(usize, usize)>,
    work: Work<usize>,
}

#[derive(Debug, Clone)]
enum Work<C> {
    /// Lines pass for which this holds.
    Where(Condition, String),
    /// The line becomes this.
    To(Expression),
    /// These columns become this, new ones behind the others.
    Set(Vec<(C, Expression)>),
}

impl ComputeSpec {
    /// `filter = { where = … }`.
    pub fn filter(table: &Table<'_>) -> Result<Self, Fault> {
        alone(table, "where", &["column", "not"])?;
        let mut reader = Reader::default();
        let (text, at) = table.need_text("where")?;
        let read = reader.read(&text, at)?;
        let Root::Condition(condition) = read.root else {
            let what = format!("`{text}` is a value, and `where` needs something true or false");
            let remedy = "compare it, as in `… != ''` or `… > 0`";
            return Err(Fault::new(at, what, remedy));
        };
        Ok(Self {
            columns: reader.columns,
            work: Work::Where(condition, text),
            after: None,
        })
    }

    /// `map = { to = … }`.
    pub fn to(table: &Table<'_>) -> Result<Self, Fault> {
        alone(table, "to", &["column"])?;
        let mut reader = Reader::default();
        let (text, at) = table.need_text("to")?;
        let expression = reader.read(&text, at)?;
        Ok(Self {
            columns: reader.columns,
            work: Work::To(expression),
            after: table.texts("columns")?,
        })
    }

    /// `map = { set = { … } }`.
    pub fn set(table: &Table<'_>, node: &Node) -> Result<Self, Fault> {
        alone(table, "set", &["column", "columns"])?;
        let Written::Table(fields) = &node.value else {
            let what = format!("`set` of `map` is {}", node.value.kind());
            let remedy = "write `set = { column = \"expression\" }`";
            return Err(Fault::new(node.at, what, remedy));
        };
        let mut reader = Reader::default();
        let mut set = Vec::new();
        for field in fields {
            let Written::Text(text) = &field.node.value else {
                let what = format!("`{}` is set to {}", field.key, field.node.value.kind());
                let remedy = "write an expression in quotes";
                return Err(Fault::new(field.node.at, what, remedy));
            };
            let name = match field.key.parse() {
                Ok(number @ 1..=65_536_usize) => Err(number),
                _ => Ok(field.key.clone()),
            };
            let column = Column { at: field.at, name };
            set.push((column, reader.read(text, field.node.at)?));
        }
        if set.is_empty() {
            let what = "`set` names no column";
            return Err(Fault::new(
                node.at,
                what,
                "write `set = { column = \"expression\" }`",
            ));
        }
        Ok(Self {
            columns: reader.columns,
            work: Work::Set(set),
            after: None,
        })
    }

    /// The operator, and the columns of what it puts out.
    pub fn resolve(&self, columns: Option<&[String]>) -> Result<(Compute, Columns), Fault> {
        let named = numbers(&self.columns, columns)?;
        let mut named: Vec<(usize, usize)> = named.into_iter().zip(0..).collect();
        named.sort_unstable();
        let mut after = columns.map(<[String]>::to_vec);
        let work = match &self.work {
            Work::Where(condition, text) => Work::Where(condition.clone(), text.clone()),
            Work::To(expression) => {
                after = self.after.clone();
                Work::To(expression.clone())
            }
            Work::Set(set) => {
                let mut places: Vec<(usize, Expression)> = Vec::new();
                for (column, expression) in set {
                    let place = place(column, &mut after)?;
                    if places.iter().any(|(other, _)| *other == place) {
                        let what = "a column is set twice";
                        return Err(Fault::new(column.at, what, "leave one of them out"));
                    }
                    places.push((place, expression.clone()));
                }
                places.sort_by_key(|(place, _)| *place);
                Work::Set(places)
            }
        };
        let compute = Compute {
            columns: named,
            work,
        };
        Ok((compute, after))
    }
}

/// Refuses keys beside one whose expressions say it all.
fn alone(table: &Table<'_>, key: &str, others: &[&str]) -> Result<(), Fault> {
    for other in others {
        if let Some(node) = table.get(other) {
            let what = format!("`{other}` with `{key}`");
            let remedy = format!("leave `{other}` out: the expression says it");
            return Err(Fault::new(node.at, what, remedy));
        }
    }
    Ok(())
}

/// The number of a column that is set; a name that is new is added to those that are known.
fn place(column: &Column, after: &mut Columns) -> Result<usize, Fault> {
    match (&column.name, after) {
        (Ok(name), Some(known)) => {
            let at = known.iter().position(|other| other == name);
            Ok(at.unwrap_or_else(|| {
                known.push(name.clone());
                known.len() - 1
            }))
        }
        (_, after) => number(column, after.as_deref()),
    }
}

/// An operator of one task that works with expressions.
pub struct Computing {
    compute: Compute,
    /// Of a batch that makes more than one: the line to go on with.
    left: Option<(Batch, usize)>,
}

impl Computing {
    /// An operator that has seen no line.
    pub fn new(compute: Compute) -> Self {
        Self {
            compute,
            left: None,
        }
    }

    /// Works on as many lines as make a batch.
    pub fn apply(
        &mut self,
        batch: Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        match &self.compute.work {
            Work::Where(condition, text) => {
                out.extend(self.compute.kept(condition, text, batch, letters)?);
                Ok(())
            }
            _ => self.work(batch, 0, out, letters),
        }
    }

    /// Goes on with what is left; false: nothing is.
    pub fn go_on(&mut self, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<bool> {
        match self.left.take() {
            Some((batch, first)) => self.work(batch, first, out, letters).map(|()| true),
            None => Ok(false),
        }
    }

    fn work(
        &mut self,
        batch: Batch,
        first: usize,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        let mut lines = Lines::default();
        let mut made = Vec::new();
        let mut values = Vec::new();
        for at in first..batch.count() {
            if lines.bytes() >= BATCH_BYTES {
                self.left = Some((batch, at));
                break;
            }
            let line = batch.line(at);
            self.compute.find(line, &mut values);
            made.clear();
            match self.compute.make(line, &values, &mut made) {
                Ok(()) => lines.push(&made),
                Err(error) => letters.blame(&batch, at, error)?,
            }
        }
        out.extend(lines.take());
        Ok(())
    }
}

impl Compute {
    /// The values of the columns that are named, by their slots; those that a short line lacks are empty.
    fn find<'a>(&self, line: &'a [u8], values: &mut Vec<Cow<'a, [u8]>>) {
        values.clear();
        values.resize(self.columns.len(), Cow::Borrowed(&b""[..]));
        let mut fields = csv::fields(line);
        let mut next = 0;
        let mut raw: &[u8] = b"";
        for &(column, slot) in &self.columns {
            // Named twice, by name and by number, it is the same again.
            if column >= next {
                raw = fields.nth(column - next).unwrap_or_default();
                next = column + 1;
            }
            values[slot] = csv::value(raw);
        }
    }

    /// The lines for which the condition holds; the batch itself if all are.
    fn kept(
        &self,
        condition: &Condition,
        text: &str,
        batch: Batch,
        letters: &mut Letters,
    ) -> Result<Option<Batch>> {
        let mut lines = Lines::default();
        let mut run = 0..0;
        let mut values = Vec::new();
        for at in 0..batch.count() {
            self.find(batch.line(at), &mut values);
            match condition.holds(&values) {
                Ok(true) if run.end == at => run.end += 1,
                Ok(true) => lines.push_run(&batch, std::mem::replace(&mut run, at..at + 1)),
                Ok(false) => {}
                Err(why) => letters.blame(&batch, at, blamed(text, &why))?,
            }
        }
        if run.len() == batch.count() {
            return Ok(Some(batch));
        }
        lines.push_run(&batch, run);
        Ok(lines.take())
    }

    fn make(&self, line: &[u8], values: &[Cow<'_, [u8]>], out: &mut Vec<u8>) -> Result<()> {
        match &self.work {
            Work::Where(..) => out.extend_from_slice(line),
            Work::To(expression) => out.extend_from_slice(&expression.text(values)?),
            Work::Set(set) => {
                let mut set = set.iter().peekable();
                let mut fields = csv::fields(line);
                for at in 0.. {
                    let raw = fields.next();
                    if raw.is_none() && set.peek().is_none() {
                        break;
                    }
                    if at > 0 {
                        out.push(b',');
                    }
                    match set.next_if(|(place, _)| *place == at) {
                        Some((_, expression)) => csv::push_value(&expression.text(values)?, out),
                        None => out.extend_from_slice(raw.unwrap_or_default()),
                    }
                }
            }
        }
        match out.len() > LINE_BYTES_MAX {
            true => Err(Error::Line(format!(
                "the line that is made is longer than a line may be: {LINE_BYTES_MAX} bytes"
            ))),
            false => Ok(()),
        }
    }
}

impl Expression {
    fn text<'a>(&'a self, values: &'a [Cow<'_, [u8]>]) -> Result<Cow<'a, [u8]>> {
        let text = match &self.root {
            Root::Term(term) => term.value(values).map(Value::into_text),
            Root::Condition(condition) => condition.holds(values).map(|holds| match holds {
                true => Cow::Borrowed(&b"true"[..]),
                false => Cow::Borrowed(&b"false"[..]),
            }),
        };
        text.map_err(|why| blamed(&self.text, &why))
    }
}

fn blamed(expression: &str, why: &str) -> Error {
    Error::Line(format!("`{expression}`: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{OpSpec, Spec};
    use bytes::Bytes;

    fn columns(names: &str) -> Vec<String> {
        names.split(',').map(str::to_owned).collect()
    }

    fn resolve(op: &str, names: Option<&str>) -> Result<(Compute, Columns), Fault> {
        let text = format!(
            "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\n\
             [[stage]]\nname = \"op\"\nfrom = \"in\"\nop = {{ {op} }}\n"
        );
        let spec = Spec::parse(&text, false)?;
        let OpSpec::Compute(spec) = &spec.stages[0].op else {
            panic!("{op}");
        };
        spec.resolve(names.map(columns).as_deref())
    }

    /// What is put out and what is put aside, of a job that goes on.
    fn run(op: &str, names: Option<&str>, text: &'static str) -> (Vec<String>, Vec<String>) {
        let mut computing = Computing::new(resolve(op, names).unwrap().0);
        let (mut out, mut letters) = (Vec::new(), Letters::new(true));
        let batch = Batch::from_text(Bytes::from_static(text.as_bytes())).unwrap();
        computing.apply(batch, &mut out, &mut letters).unwrap();
        while computing.go_on(&mut out, &mut letters).unwrap() {}
        let shown = |line: &[u8]| String::from_utf8(line.to_vec()).unwrap();
        let dead = letters.take().into_iter();
        let dead = dead.map(|dead| format!("{}: {}", shown(&dead.line), dead.why));
        let lines = out.iter().flat_map(Batch::lines).map(shown);
        (lines.collect(), dead.collect())
    }

    #[test]
    fn lines_pass_are_changed_and_made() {
        let text = "ann,3,1.5\n\"b, c\",x,2\r\nd,4\ne,5,2,more\n";
        let names = Some("name,n,price");
        let (lines, dead) = run("filter = { where = \"n > 3\" }", names, text);
        assert_eq!(lines, ["d,4", "e,5,2,more"]);
        assert_eq!(dead, ["\"b, c\",x,2\r: `n > 3`: \"x\" is not a number"]);
        let (lines, _) = run("filter = { where = \"name != ''\" }", names, text);
        assert_eq!(lines.len(), 4);
        let (lines, _) = run("filter = { where = \"name == ''\" }", names, text);
        assert!(lines.is_empty());
        let set = "map = { set = { name = \"name | upper\", total = \"price * 2\" } }";
        let (lines, dead) = run(set, names, text);
        assert_eq!(lines, ["ANN,3,1.5,3", "\"B, C\",x,2,4", "E,5,2,4"]);
        assert_eq!(dead, ["d,4: `price * 2`: \"\" is not a number"]);
        let (lines, _) = run("map = { set = { 5 = \"col(1) ~ '\\\"'\" } }", None, text);
        assert_eq!(lines[0], "ann,3,1.5,,\"ann\"\"\"");
        assert_eq!(lines[1], "\"b, c\",x,2,,\"b, c\"\"\"");
        let (lines, _) = run("map = { to = \"col(1) ~ ':' ~ col(2)\" }", None, text);
        assert_eq!(lines, ["ann:3", "b, c:x", "d:4", "e:5"]);
        let (lines, _) = run("map = { to = \"n is number\" }", names, text);
        assert_eq!(lines, ["true", "false", "true", "true"]);
        // The same column by name and number, and one behind the others.
        let (lines, _) = run(
            "map = { to = \"price ~ name ~ col(1) ~ col(3)\" }",
            names,
            text,
        );
        assert_eq!(lines[0], "1.5annann1.5");
    }

    #[test]
    fn each_expression_sees_the_line_as_it_came() {
        let set = "map = { set = { a = \"b\", b = \"a\", c = \"a ~ b\" } }";
        let (compute, after) = resolve(set, Some("a,b")).unwrap();
        assert_eq!(after, Some(columns("a,b,c")));
        assert_eq!(compute.columns.len(), 2);
        assert_eq!(run(set, Some("a,b"), "1,2\n").0, ["2,1,12"]);
    }

    #[test]
    fn columns_that_are_not_there_are_refused() {
        for (op, names, why) in [
            (
                "filter = { where = \"Amuont > 3\" }",
                Some("Amount"),
                "did you mean `Amount`?",
            ),
            (
                "filter = { where = \"Amount > 3\" }",
                None,
                "nothing names the columns here",
            ),
            (
                "filter = { where = \"col(2) > 3\" }",
                Some("a"),
                "there is no column 2",
            ),
            (
                "filter = { where = \"a\" }",
                Some("a"),
                "`where` needs something true or false",
            ),
            (
                "filter = { where = \"a > 1\", not = true }",
                Some("a"),
                "`not` with `where`",
            ),
            (
                "filter = { where = \"a > 1\", column = \"a\" }",
                Some("a"),
                "`column` with `where`",
            ),
            (
                "map = { set = { new = \"1\" } }",
                None,
                "nothing names the columns here",
            ),
            (
                "map = { set = { 2 = \"1\" } }",
                Some("a"),
                "there is no column 2",
            ),
            (
                "map = { set = { 1 = \"1\", a = \"2\" } }",
                Some("a"),
                "a column is set twice",
            ),
            (
                "map = { set = { a = 1 } }",
                Some("a"),
                "write an expression in quotes",
            ),
            ("map = { set = {} }", Some("a"), "`set` names no column"),
            (
                "map = { set = \"a\" }",
                Some("a"),
                "write `set = { column = \"expression\" }`",
            ),
            (
                "map = { set = { a = \"1\" }, columns = [\"a\"] }",
                Some("a"),
                "`columns` with `set`",
            ),
            (
                "map = { to = \"a\", column = \"a\" }",
                Some("a"),
                "`column` with `to`",
            ),
            (
                "map = { to = \"a\", trim = true }",
                Some("a"),
                "both `to` and `trim`",
            ),
        ] {
            let fault = resolve(op, names).unwrap_err();
            let told = format!("{}; {}", fault.what, fault.remedy);
            assert!(told.contains(why), "{op}: {told}");
            assert!(fault.at > 0, "{op}");
        }
    }

    /// Lines that grow leave batch by batch; those that grow too long are put aside.
    #[test]
    fn what_grows_is_bounded() {
        let text: &'static str = "xxxxxxxxxx\n".repeat(600).leak();
        let grow = |times: usize| {
            let replaced = "|replace('x', 'xxxxxxxxxx')".repeat(times);
            format!("map = {{ to = \"col(1){replaced}\" }}")
        };
        let mut computing = Computing::new(resolve(&grow(3), None).unwrap().0);
        let (mut out, mut letters) = (Vec::new(), Letters::new(true));
        let batch = Batch::from_text(Bytes::from_static(text.as_bytes())).unwrap();
        computing.apply(batch, &mut out, &mut letters).unwrap();
        let mut lines = 0;
        loop {
            for batch in out.drain(..) {
                assert!(batch.bytes().len() < BATCH_BYTES + 20_000);
                lines += batch.count();
            }
            if !computing.go_on(&mut out, &mut letters).unwrap() {
                break;
            }
        }
        assert_eq!(lines, 600);
        let (lines, dead) = run(&grow(60), None, "x\nx\n");
        assert_eq!((lines.len(), dead.len()), (0, 2));
        assert!(dead[0].ends_with(crate::text::TOO_LONG), "{}", dead[0]);
    }
}

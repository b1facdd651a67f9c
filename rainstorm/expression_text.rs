//! From the text of an expression to an [`Expression`]. The syntax is that of Jinja, and MiniJinja reads it; of what it can
//! write only that passes which has a meaning for one line. What is a condition, and what a value, is known here already,
//! so a line can only be at fault for what its columns hold.

use crate::decimal::Decimal;
use crate::expression::{Arithmetic, Condition, Function, Relation, Term};
use crate::spec::Column;
use crate::spec_tree::{Fault, nearest};
use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, UnaryOpKind};
use minijinja::machinery::parse_expr;

/// Longest expression in bytes. It bounds how deep the parser nests, too.
const EXPRESSION_BYTES_MAX: usize = 2_000;
/// Most of an expression that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;
/// How deep an expression may be nested.
const DEPTH_MAX: usize = 200;
/// What a filter may be called.
const FUNCTIONS: [&str; 9] = [
    "upper", "lower", "trim", "length", "number", "abs", "round", "default", "replace",
];

/// An expression over the columns of a [`Reader`].
#[derive(Debug, Clone)]
pub struct Expression {
    /// As it is written, for messages.
    pub text: String,
    pub root: Root,
}

/// What an expression is.
#[derive(Debug, Clone)]
pub enum Root {
    Term(Term),
    Condition(Condition),
}

/// Reads expressions of one operator, which share the columns that they name.
#[derive(Default)]
pub struct Reader {
    /// Each once; its place is its slot.
    pub columns: Vec<Column>,
}

impl Reader {
    /// Reads the expression that stands at `at` of the spec.
    pub fn read(&mut self, text: &str, at: usize) -> Result<Expression, Fault> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let what = format!("the expression has {} bytes", text.len());
            let remedy = format!("use up to {EXPRESSION_BYTES_MAX}, or several stages");
            return Err(Fault::new(at, what, remedy));
        }
        let tree = parse_expr(text).map_err(|error| unreadable(text, at, &error))?;
        let mut one = One {
            text,
            at,
            depth: 0,
            columns: &mut self.columns,
        };
        Ok(Expression {
            root: one.root(&tree)?,
            text: text.to_owned(),
        })
    }
}

fn unreadable(text: &str, at: usize, error: &minijinja::Error) -> Fault {
    let why = error.detail().unwrap_or("it cannot be read");
    if why.contains("recursion") {
        let what = "the expression is nested too deep";
        return Fault::new(at, what, "use several stages");
    }
    let rest = error.range().and_then(|range| text.get(range.start..));
    let rest = rest.unwrap_or_default();
    let place = match rest {
        "" => "at its end".to_owned(),
        rest => format!("at `{}`", shortened(rest)),
    };
    let is_assigned = rest.starts_with('=') && !rest.starts_with("==");
    let remedy = match is_assigned {
        true => "compare with `==`",
        false => "mend it there; a column whose name is no word is written `col('…')`",
    };
    Fault::new(at, format!("not an expression: {why}, {place}"), remedy)
}

/// The beginning of a long text.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where a part begins. Of some the parser counts the word before them, too.
fn begin(tree: &Expr<'_>) -> usize {
    match tree {
        Expr::BinOp(both) => begin(&both.left),
        Expr::Compare(all) => begin(&all.expr),
        Expr::IfExpr(all) => begin(&all.true_expr),
        other => other.span().start_offset as usize,
    }
}

/// An expression that is read.
struct One<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    columns: &'a mut Vec<Column>,
}

impl One<'_> {
    fn fault<T>(&self, what: impl Into<String>, remedy: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::new(self.at, what, remedy))
    }

    /// A part of the expression as it is written.
    fn written(&self, tree: &Expr<'_>) -> String {
        let text = self.text.get(begin(tree)..tree.span().end_offset as usize);
        let text = text.unwrap_or(self.text);
        // A bracket in front of the first part is none of its own.
        let open = text
            .matches(')')
            .count()
            .saturating_sub(text.matches('(').count());
        shortened(&("(".repeat(open) + text))
    }

    fn boxed(&mut self, tree: &Expr<'_>) -> Result<Box<Term>, Fault> {
        self.term(tree).map(Box::new)
    }

    /// A value.
    fn term(&mut self, tree: &Expr<'_>) -> Result<Term, Fault> {
        match self.root(tree)? {
            Root::Term(term) => Ok(term),
            Root::Condition(_) => {
                let what = format!(
                    "`{}` is true or false, where a text or a number is needed",
                    self.written(tree)
                );
                self.fault(what, "make one of it: `'yes' if … else 'no'`")
            }
        }
    }

    /// A value that is computed with.
    fn number(&mut self, tree: &Expr<'_>) -> Result<Box<Term>, Fault> {
        let term = self.term(tree)?;
        match &term {
            Term::Text(text) if Decimal::parse(text).is_none() => {
                let what = format!("`{}` is not a number", self.written(tree));
                self.fault(what, "texts are joined with `~`; columns have no quotes")
            }
            _ => Ok(Box::new(term)),
        }
    }

    fn condition(&mut self, tree: &Expr<'_>) -> Result<Box<Condition>, Fault> {
        match self.root(tree)? {
            Root::Condition(condition) => Ok(Box::new(condition)),
            Root::Term(_) => {
                let what = format!(
                    "`{}` is a value, where something true or false is needed",
                    self.written(tree)
                );
                self.fault(what, "compare it, as in `… != ''` or `… > 0`")
            }
        }
    }

    fn root(&mut self, tree: &Expr<'_>) -> Result<Root, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let what = format!("the expression is nested more than {DEPTH_MAX} deep");
            return self.fault(what, "use several stages");
        }
        let root = match tree {
            Expr::Var(name) => Root::Term(self.column(Ok(name.id.to_owned()))),
            Expr::Const(_) => self.constant(tree)?,
            Expr::UnaryOp(one) => match one.op {
                UnaryOpKind::Not => Root::Condition(Condition::Not(self.condition(&one.expr)?)),
                UnaryOpKind::Neg => {
                    let zero = Box::new(Term::Number(Decimal::default()));
                    let number = self.number(&one.expr)?;
                    Root::Term(Term::Arithmetic(Arithmetic::Minus, zero, number))
                }
            },
            Expr::BinOp(both) => self.operator(both.op, &both.left, &both.right, tree)?,
            Expr::IfExpr(all) => {
                let condition = self.condition(&all.test_expr)?;
                let Some(other) = &all.false_expr else {
                    return self.fault("`if` without `else`", "write `… if … else …`");
                };
                let (a, b) = (self.boxed(&all.true_expr)?, self.boxed(other)?);
                Root::Term(Term::If(condition, a, b))
            }
            Expr::Filter(filter) => match &filter.expr {
                Some(inner) => {
                    let term = self.boxed(inner)?;
                    let function = self.function(filter.name, &filter.args)?;
                    Root::Term(Term::Function(function, term))
                }
                None => return self.unknown(tree),
            },
            Expr::Test(test) if test.name == "number" && test.args.is_empty() => {
                Root::Condition(Condition::IsNumber(self.boxed(&test.expr)?))
            }
            Expr::Test(test) => {
                let what = format!("there is no test `is {}`", test.name);
                return self.fault(what, "the only one is `is number`");
            }
            Expr::Slice(slice) if slice.step.is_none() => {
                let term = self.boxed(&slice.expr)?;
                let from = self.whole(slice.start.as_ref())?.unwrap_or(0);
                let function = Function::Slice(from, self.whole(slice.stop.as_ref())?);
                Root::Term(Term::Function(function, term))
            }
            Expr::Call(call) => Root::Term(self.called(&call.expr, &call.args)?),
            Expr::Compare(_) => {
                let what = format!("`{}` compares twice", self.written(tree));
                return self.fault(what, "write `a < b and b < c`");
            }
            _ => return self.unknown(tree),
        };
        self.depth -= 1;
        Ok(root)
    }

    fn unknown<T>(&self, tree: &Expr<'_>) -> Result<T, Fault> {
        let what = format!("`{}` means nothing here", self.written(tree));
        let remedy = "use columns, texts, numbers and what is under \"Expressions\" in JOBS.md; a list stands behind `in` only";
        self.fault(what, remedy)
    }

    fn column(&mut self, name: Result<String, usize>) -> Term {
        let known = self.columns.iter().position(|column| column.name == name);
        Term::Column(known.unwrap_or_else(|| {
            let at = self.at;
            self.columns.push(Column { at, name });
            self.columns.len() - 1
        }))
    }

    /// `col('Sign Post')` and `col(3)`.
    fn called(&mut self, called: &Expr<'_>, args: &[CallArg<'_>]) -> Result<Term, Fault> {
        let name = match called {
            Expr::Var(name) => name.id,
            other => return self.unknown(other),
        };
        if name != "col" {
            let remedy = match FUNCTIONS.contains(&name) {
                true => format!("write `… | {name}`"),
                false => "the only one is `col('…')`, a column".to_owned(),
            };
            return self.fault(format!("there is no function `{name}`"), remedy);
        }
        if let [CallArg::Pos(Expr::Const(of))] = args {
            if let Some(name) = of.value.as_str() {
                return Ok(self.column(Ok(name.to_owned())));
            }
            if let Ok(number @ 1..=65_536) = usize::try_from(of.value.clone()) {
                return Ok(self.column(Err(number)));
            }
        }
        let what = "`col` names one column";
        self.fault(what, "write its name in quotes, or its number from 1")
    }

    fn constant(&mut self, tree: &Expr<'_>) -> Result<Root, Fault> {
        let Expr::Const(of) = tree else {
            return self.unknown(tree);
        };
        if let Some(text) = of.value.as_str() {
            if text.contains('\n') {
                let remedy = "each line makes one line; `split` and `flat_map` make several";
                return self.fault("the expression makes a line end", remedy);
            }
            return Ok(Root::Term(Term::Text(text.as_bytes().to_vec())));
        }
        let source = self.written(tree);
        if let "true" | "True" | "false" | "False" = source.as_str() {
            return Ok(Root::Condition(Condition::Known(of.value.is_true())));
        }
        // As it is written, not as the binary fraction that has been made of it.
        match Decimal::parse(source.as_bytes()) {
            Some(number) => Ok(Root::Term(Term::Number(number))),
            None if of.value.is_none() => {
                self.fault(format!("there is no `{source}`"), "what is empty is `''`")
            }
            None => {
                let remedy = "write it in decimals, with up to nine behind the point";
                self.fault(format!("`{source}` is no number here"), remedy)
            }
        }
    }

    fn operator(
        &mut self,
        kind: BinOpKind,
        left: &Expr<'_>,
        right: &Expr<'_>,
        tree: &Expr<'_>,
    ) -> Result<Root, Fault> {
        let arithmetic = match kind {
            BinOpKind::Add => Some(Arithmetic::Plus),
            BinOpKind::Sub => Some(Arithmetic::Minus),
            BinOpKind::Mul => Some(Arithmetic::Times),
            BinOpKind::Div => Some(Arithmetic::Divided),
            BinOpKind::FloorDiv => Some(Arithmetic::DividedDown),
            BinOpKind::Rem => Some(Arithmetic::Remainder),
            _ => None,
        };
        if let Some(arithmetic) = arithmetic {
            let (a, b) = (self.number(left)?, self.number(right)?);
            return Ok(Root::Term(Term::Arithmetic(arithmetic, a, b)));
        }
        let relation = match kind {
            BinOpKind::Eq => Relation::Equal,
            BinOpKind::Ne => Relation::NotEqual,
            BinOpKind::Lt => Relation::Below,
            BinOpKind::Lte => Relation::AtMost,
            BinOpKind::Gt => Relation::Above,
            BinOpKind::Gte => Relation::AtLeast,
            BinOpKind::ScAnd => {
                let both = Condition::And(self.condition(left)?, self.condition(right)?);
                return Ok(Root::Condition(both));
            }
            BinOpKind::ScOr => {
                let either = Condition::Or(self.condition(left)?, self.condition(right)?);
                return Ok(Root::Condition(either));
            }
            BinOpKind::Concat => {
                let joined = Term::Joined(self.boxed(left)?, self.boxed(right)?);
                return Ok(Root::Term(joined));
            }
            BinOpKind::In => return self.within(left, right).map(Root::Condition),
            _ => return self.unknown(tree),
        };
        let compared = Condition::Compare(relation, self.boxed(left)?, self.boxed(right)?);
        Ok(Root::Condition(compared))
    }

    /// One of a list, or part of a text.
    fn within(&mut self, inner: &Expr<'_>, outer: &Expr<'_>) -> Result<Condition, Fault> {
        let inner = self.boxed(inner)?;
        let items = match outer {
            Expr::List(list) => &list.items,
            Expr::Tuple(tuple) => &tuple.items,
            other => return Ok(Condition::Within(inner, self.boxed(other)?)),
        };
        let all = items.iter().map(|item| self.term(item));
        Ok(Condition::OneOf(inner, all.collect::<Result<_, _>>()?))
    }

    fn function(&mut self, name: &str, args: &[CallArg<'_>]) -> Result<Function, Fault> {
        if !FUNCTIONS.contains(&name) {
            let what = format!("there is no `| {name}`");
            return self.fault(what, nearest(name, &FUNCTIONS));
        }
        let mut given = Vec::new();
        for arg in args {
            match arg {
                CallArg::Pos(tree) => given.push(tree),
                _ => return self.fault(format!("`| {name}` takes no names"), "write values alone"),
            }
        }
        Ok(match (name, given.as_slice()) {
            ("upper", []) => Function::Upper,
            ("lower", []) => Function::Lower,
            ("trim", []) => Function::Trim,
            ("length", []) => Function::Length,
            ("number", []) => Function::Number,
            ("abs", []) => Function::Abs,
            ("round", []) => Function::Round(0),
            ("round", [digits]) => match self.whole(Some(digits))? {
                Some(digits @ 0..=9) => Function::Round(digits as u32),
                _ => return self.fault("`| round` to that many digits", "use 0 to 9"),
            },
            ("default", [other]) => Function::Default(self.boxed(other)?),
            ("replace", [what, with]) => Function::Replace(self.boxed(what)?, self.boxed(with)?),
            _ => {
                let wanted = match name {
                    "replace" => "two values: `| replace('old', 'new')`",
                    "default" => "one value: `| default('none')`",
                    "round" => "how many digits, or nothing: `| round(2)`",
                    _ => "nothing behind it",
                };
                let what = format!("`| {name}` has {} values behind it", given.len());
                return self.fault(what, format!("it takes {wanted}"));
            }
        })
    }

    /// A whole number that is written down.
    fn whole(&self, tree: Option<&Expr<'_>>) -> Result<Option<i64>, Fault> {
        let Some(tree) = tree else { return Ok(None) };
        let number = match tree {
            Expr::UnaryOp(one) if matches!(one.expr, Expr::Const(_)) => tree.as_const(),
            Expr::Const(of) => Some(of.value.clone()),
            _ => None,
        };
        match number.map(i64::try_from) {
            Some(Ok(number)) => Ok(Some(number)),
            _ => {
                let what = format!("`{}` is no whole number", self.written(tree));
                self.fault(what, "write one, as in `name[0:3]`")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match Reader::default().read(text, 7) {
            Ok(read) => panic!("{text} is {:?}", read.root),
            Err(fault) => {
                assert_eq!(fault.at, 7);
                format!("{}; {}", fault.what, fault.remedy)
            }
        }
    }

    #[test]
    fn columns_are_named_once() {
        let mut reader = Reader::default();
        reader.read("a + col('a') * col(2) ~ b", 3).unwrap();
        reader.read("b == 'a'", 5).unwrap();
        let names = reader.columns.iter().map(|column| column.name.clone());
        let want = [Ok("a".to_owned()), Err(2), Ok("b".to_owned())];
        assert_eq!(names.collect::<Vec<_>>(), want);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (text, why) in [
            (
                "",
                "not an expression: unexpected end of input, expected expression, at its end",
            ),
            ("a = 'x'", "at `= 'x'`; compare with `==`"),
            ("a +", "expected expression"),
            ("a $ b", "at `$ b`"),
            ("'open", "not an expression"),
            ("a b", "unexpected input after expression"),
            (
                "a < b < c",
                "`a < b < c` compares twice; write `a < b and b < c`",
            ),
            (
                "a and b",
                "`a` is a value, where something true or false is needed",
            ),
            (
                "(a > 1) + 2",
                "`a > 1` is true or false, where a text or a number is needed",
            ),
            (
                "'x' + a",
                "`'x'` is not a number; texts are joined with `~`",
            ),
            ("a if b > 1", "`if` without `else`"),
            ("a | uper", "there is no `| uper`; did you mean `upper`?"),
            ("a | round(a)", "`a` is no whole number"),
            ("a | round(10)", "use 0 to 9"),
            (
                "a | replace('x')",
                "`| replace` has 1 values behind it; it takes two values",
            ),
            ("a | upper(x=1)", "takes no names"),
            (
                "a is defined",
                "there is no test `is defined`; the only one is `is number`",
            ),
            (
                "upper(a)",
                "there is no function `upper`; write `… | upper`",
            ),
            (
                "range(9)",
                "there is no function `range`; the only one is `col('…')`, a column",
            ),
            ("col(a)", "`col` names one column"),
            ("col(0)", "`col` names one column"),
            ("a.b", "`a.b` means nothing here"),
            ("a[0]", "`a[0]` means nothing here"),
            ("a[::2]", "means nothing here"),
            ("a[b:]", "`b` is no whole number"),
            ("[1, 2]", "`[1, 2]` means nothing here"),
            ("{'a': 1}", "means nothing here"),
            ("none", "there is no `none`; what is empty is `''`"),
            ("a == 1 and (b > 1) ~ a", "`b > 1` is true or false"),
            ("(a + 1) * 2 > 1 ~ (b if a > 1)", "`if` without `else`"),
            (
                "a ~ ((b + 1) * 2 > 3)",
                "`(b + 1) * 2 > 3` is true or false",
            ),
            ("1e9", "`1e9` is no number here; write it in decimals"),
            ("0x10", "`0x10` is no number here"),
            ("2 ** 9", "`2 ** 9` means nothing here"),
            ("'a\\nb'", "the expression makes a line end"),
        ] {
            let fault = refused(text);
            assert!(fault.contains(why), "{text}: {fault}");
        }
    }

    /// Whatever is written, reading it ends in a message, on half the stack that threads have.
    #[test]
    fn what_is_too_long_or_too_deep_is_refused() {
        let small = std::thread::Builder::new().stack_size(1 << 20);
        small.spawn(read_hostile_ones).unwrap().join().unwrap();
    }

    fn read_hostile_ones() {
        let around = |open: &str, close: &str| {
            let count = (EXPRESSION_BYTES_MAX - 1) / (open.len() + close.len());
            format!("{}a{}", open.repeat(count), close.repeat(count))
        };
        for text in [
            around("(", ")"),
            around("[", "]"),
            around("-", ""),
            around("not ", ""),
            around("", "~a"),
            around("", "|abs"),
            around("", "[0:1]"),
            around("", " if a>1 else a"),
            around("a if a>1 else ", ""),
            around("a[", ":]"),
            around("", "()"),
            around("", ".a"),
        ] {
            // Some are no deeper than may be.
            if let Err(fault) = Reader::default().read(&text, 0) {
                let why = fault.what;
                let is_told = why.contains("nested") || why.ends_with("means nothing here");
                assert!(is_told, "{why}");
            }
        }
        for text in [around("(", ")"), around("-", ""), around("", "~a")] {
            let why = refused(&text);
            assert!(why.contains("nested"), "{why}");
        }
        let why = refused(&"a".repeat(EXPRESSION_BYTES_MAX + 1));
        assert!(why.contains("the expression has 2001 bytes"), "{why}");
        let joined = vec!["column"; 190].join("~");
        Reader::default().read(&joined, 0).unwrap();
    }
}

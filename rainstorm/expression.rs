//! Expressions over the columns of one line. An expression has no loops, no state, no clock and no randomness: what it
//! comes to is a matter of its line alone, each step is done once at most, and no text on the way is longer than a line
//! may be.
//!
//! A column is text. With a number (one written down, or computed) it is compared as a number, with another column as a
//! number if both are numbers, with other text byte by byte. Arithmetic is that of [`Decimal`].

use crate::batch::LINE_BYTES_MAX;
use crate::decimal::Decimal;
use crate::text;
use memchr::memmem;
use std::borrow::Cow;
use std::cmp::Ordering;

/// Most of a value that a message shows, in bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Why an expression has no value for a line.
pub type Why = String;

/// What gives a text or a number.
#[derive(Debug, Clone)]
pub enum Term {
    /// The value of the column in this slot.
    Column(usize),
    Text(Vec<u8>),
    Number(Decimal),
    Arithmetic(Arithmetic, Box<Term>, Box<Term>),
    /// One text behind the other.
    Joined(Box<Term>, Box<Term>),
    If(Box<Condition>, Box<Term>, Box<Term>),
    Function(Function, Box<Term>),
}

/// What two numbers become.
#[derive(Debug, Clone, Copy)]
pub enum Arithmetic {
    Plus,
    Minus,
    Times,
    Divided,
    /// The whole quotient, rounded down.
    DividedDown,
    /// What that leaves.
    Remainder,
}

/// What a text or number becomes.
#[derive(Debug, Clone)]
pub enum Function {
    Upper,
    Lower,
    Trim,
    Length,
    Number,
    Abs,
    /// To so many digits behind the point.
    Round(u32),
    /// In the place of an empty text.
    Default(Box<Term>),
    /// Each of the first by the second.
    Replace(Box<Term>, Box<Term>),
    /// Characters from the first up to the second; negative ones count from the end.
    Slice(i64, Option<i64>),
}

/// What is true or false.
#[derive(Debug, Clone)]
pub enum Condition {
    Known(bool),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Compare(Relation, Box<Term>, Box<Term>),
    /// Equal to one of these.
    OneOf(Box<Term>, Vec<Term>),
    /// The first text stands in the second.
    Within(Box<Term>, Box<Term>),
    IsNumber(Box<Term>),
}

/// How two values stand to each other.
#[derive(Debug, Clone, Copy)]
pub enum Relation {
    Equal,
    NotEqual,
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// What a term comes to.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// As it stands in the line: perhaps a number.
    Column(Cow<'a, [u8]>),
    Text(Cow<'a, [u8]>),
    Number(Decimal),
}

impl<'a> Value<'a> {
    /// As text.
    pub fn into_text(self) -> Cow<'a, [u8]> {
        match self {
            Self::Column(text) | Self::Text(text) => text,
            Self::Number(number) => Cow::Owned(number.to_string().into_bytes()),
        }
    }

    fn number(&self) -> Result<Decimal, Why> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Column(text) | Self::Text(text) => {
                Decimal::parse(text).ok_or_else(|| format!("{} is not a number", shown(text)))
            }
        }
    }

    /// How it stands to another value; an error if one of them is a number and the other cannot be read as one.
    fn compare(&self, other: &Self) -> Result<Ordering, Why> {
        Ok(match (self, other) {
            (Self::Number(_), _) | (_, Self::Number(_)) => self.number()?.cmp(&other.number()?),
            (Self::Column(a), Self::Column(b)) => match (Decimal::parse(a), Decimal::parse(b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.cmp(b),
            },
            (Self::Column(a) | Self::Text(a), Self::Column(b) | Self::Text(b)) => a.cmp(b),
        })
    }

    /// What is no number equals none.
    fn equals(&self, other: &Self) -> bool {
        self.compare(other).is_ok_and(Ordering::is_eq)
    }
}

impl Condition {
    /// Whether it holds for a line with these values of columns.
    pub fn holds(&self, columns: &[Cow<'_, [u8]>]) -> Result<bool, Why> {
        Ok(match self {
            Self::Known(known) => *known,
            Self::Not(inner) => !inner.holds(columns)?,
            Self::And(a, b) => a.holds(columns)? && b.holds(columns)?,
            Self::Or(a, b) => a.holds(columns)? || b.holds(columns)?,
            Self::Compare(relation, a, b) => {
                let (a, b) = (a.value(columns)?, b.value(columns)?);
                match relation {
                    Relation::Equal => a.equals(&b),
                    Relation::NotEqual => !a.equals(&b),
                    Relation::Below => a.compare(&b)?.is_lt(),
                    Relation::AtMost => a.compare(&b)?.is_le(),
                    Relation::Above => a.compare(&b)?.is_gt(),
                    Relation::AtLeast => a.compare(&b)?.is_ge(),
                }
            }
            Self::OneOf(term, all) => {
                let value = term.value(columns)?;
                for other in all {
                    if value.equals(&other.value(columns)?) {
                        return Ok(true);
                    }
                }
                false
            }
            Self::Within(inner, outer) => {
                let outer = outer.text(columns)?;
                memmem::find(&outer, &inner.text(columns)?).is_some()
            }
            Self::IsNumber(term) => term.value(columns)?.number().is_ok(),
        })
    }
}

impl Term {
    /// What it comes to for a line with these values of columns.
    pub fn value<'a>(&'a self, columns: &'a [Cow<'_, [u8]>]) -> Result<Value<'a>, Why> {
        Ok(match self {
            Self::Column(slot) => Value::Column(Cow::Borrowed(&columns[*slot])),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Number(number) => Value::Number(*number),
            Self::Arithmetic(operation, a, b) => {
                let (a, b) = (a.value(columns)?.number()?, b.value(columns)?.number()?);
                Value::Number(operation.of(a, b)?)
            }
            Self::Joined(a, b) => {
                let (mut text, more) = (a.text(columns)?.into_owned(), b.text(columns)?);
                let bytes = text.len() + more.len();
                if bytes > LINE_BYTES_MAX {
                    return Err(text::TOO_LONG.to_owned());
                }
                text.extend_from_slice(&more);
                Value::Text(Cow::Owned(text))
            }
            Self::If(condition, a, b) => match condition.holds(columns)? {
                true => a.value(columns)?,
                false => b.value(columns)?,
            },
            Self::Function(function, term) => function.of(term.value(columns)?, columns)?,
        })
    }

    fn text<'a>(&'a self, columns: &'a [Cow<'_, [u8]>]) -> Result<Cow<'a, [u8]>, Why> {
        self.value(columns).map(Value::into_text)
    }
}

impl Arithmetic {
    fn of(self, a: Decimal, b: Decimal) -> Result<Decimal, Why> {
        let (sign, result) = match self {
            Self::Plus => ("+", a.checked_add(b)),
            Self::Minus => ("-", a.checked_sub(b)),
            Self::Times => ("*", a.checked_mul(b)),
            Self::Divided => ("/", a.checked_div(b)),
            Self::DividedDown => ("//", a.checked_div_floor(b).map(|(whole, _)| whole)),
            Self::Remainder => ("%", a.checked_div_floor(b).map(|(_, left)| left)),
        };
        let is_by_zero = b == Decimal::default() && matches!(sign, "/" | "//" | "%");
        result.ok_or_else(|| match is_by_zero {
            true => format!("{a} {sign} {b} divides by zero"),
            false => format!("{a} {sign} {b} is too large a number"),
        })
    }
}

impl Function {
    fn of<'a>(&'a self, value: Value<'a>, columns: &'a [Cow<'_, [u8]>]) -> Result<Value<'a>, Why> {
        let cased = |value: Value<'_>, cased: fn(&str) -> String| {
            let text = value.into_text();
            let mut out = Vec::with_capacity(text.len());
            text::with_case(&text, cased, &mut out);
            Value::Text(Cow::Owned(out))
        };
        Ok(match self {
            Self::Upper => cased(value, str::to_uppercase),
            Self::Lower => cased(value, str::to_lowercase),
            Self::Trim => Value::Text(match value.into_text() {
                Cow::Borrowed(text) => Cow::Borrowed(text.trim_ascii()),
                Cow::Owned(text) => Cow::Owned(text.trim_ascii().to_vec()),
            }),
            Self::Length => {
                let length = text::characters(&value.into_text()).count();
                Value::Number(Decimal::whole(length as i64))
            }
            Self::Number => Value::Number(value.number()?),
            Self::Abs => Value::Number(value.number()?.abs()),
            Self::Round(digits) => {
                let number = value.number()?;
                let rounded = number.rounded(*digits);
                Value::Number(rounded.ok_or_else(|| format!("{number} is too large a number"))?)
            }
            Self::Default(other) => match &value {
                Value::Column(text) | Value::Text(text) if text.is_empty() => {
                    other.value(columns)?
                }
                _ => value,
            },
            Self::Replace(what, with) => {
                let (what, with) = (what.text(columns)?, with.text(columns)?);
                let replaced = text::replaced(&value.into_text(), &what, &with)?;
                Value::Text(Cow::Owned(replaced))
            }
            Self::Slice(from, to) => Value::Text(match value.into_text() {
                Cow::Borrowed(text) => Cow::Borrowed(&text[text::slice(text, *from, *to)]),
                Cow::Owned(text) => Cow::Owned(text[text::slice(&text, *from, *to)].to_vec()),
            }),
        })
    }
}

/// A value in a message: its beginning, in quotes.
fn shown(text: &[u8]) -> String {
    let (begin, more) = match text.len() > SHOWN_BYTES_MAX {
        true => (&text[..SHOWN_BYTES_MAX], "…"),
        false => (text, ""),
    };
    format!("\"{}{more}\"", String::from_utf8_lossy(begin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression_text::{Reader, Root};

    const LINE: [(&str, &str); 8] = [
        ("price", "1.50"),
        ("quantity", "3"),
        ("name", "Ann, B."),
        ("zip", "01067"),
        ("other", "1067"),
        ("empty", ""),
        ("word", "n/a"),
        ("Sign Post", "4"),
    ];

    /// What it comes to for the line above; after a `!` why it comes to nothing.
    fn of(text: &str) -> String {
        let mut reader = Reader::default();
        let read = reader.read(text, 0).unwrap();
        let value = |name: &Result<String, usize>| match name {
            Ok(name) => LINE.iter().find(|(of, _)| of == name).unwrap().1,
            Err(number) => LINE[number - 1].1,
        };
        let columns: Vec<Cow<'_, [u8]>> = reader
            .columns
            .iter()
            .map(|column| Cow::Borrowed(value(&column.name).as_bytes()))
            .collect();
        let came = match &read.root {
            Root::Term(term) => term.value(&columns).map(|value| {
                let text = value.into_text().into_owned();
                String::from_utf8(text).unwrap()
            }),
            Root::Condition(condition) => condition.holds(&columns).map(|is| is.to_string()),
        };
        came.unwrap_or_else(|why| format!("! {why}"))
    }

    #[test]
    fn values() {
        for (text, value) in [
            ("price", "1.50"),
            ("price * quantity", "4.5"),
            ("0.1 + 0.2", "0.3"),
            ("10 / 4 - 1", "1.5"),
            ("1 / 3", "0.333333333"),
            ("-7 // 2", "-4"),
            ("-7 % 3", "2"),
            ("-price", "-1.5"),
            ("2 + 3 * 4", "14"),
            ("(2 + 3) * 4", "20"),
            ("9007199254740993 + 0", "9007199254740993"),
            ("zip + 1", "1068"),
            ("zip", "01067"),
            ("zip | number", "1067"),
            ("col('Sign Post') * 2", "8"),
            ("col(8) * 2", "8"),
            ("price ~ '/' ~ quantity * 2", "1.50/6"),
            ("name | upper", "ANN, B."),
            ("name | lower | replace('b.', \"C\")", "ann, C"),
            ("('  x ' | trim) ~ '!'", "x!"),
            ("name | length", "7"),
            ("name[0:3] ~ name[-2:]", "AnnB."),
            ("empty | default('-')", "-"),
            ("word | default('-')", "n/a"),
            ("price | round", "2"),
            ("price * 1.111 | round(2)", "1.665"),
            ("(price * 1.111) | round(2)", "1.67"),
            ("(2 - 5) | abs", "3"),
            ("'big' if quantity > 2 else 'small'", "big"),
            ("price if word is number else empty | default('x')", "x"),
        ] {
            assert_eq!(of(text), value, "{text}");
        }
    }

    #[test]
    fn conditions() {
        for (text, value) in [
            ("quantity > 2", "true"),
            ("quantity > 2.9 and price < 2", "true"),
            ("quantity == 3 or word == 'x'", "true"),
            ("not quantity == 3", "false"),
            ("price == 1.5", "true"),
            ("price == '1.50'", "true"),
            ("price == '1.5'", "false"),
            ("zip == '01067'", "true"),
            // Two columns that are numbers compare as numbers; texts that are written down do not.
            ("zip == other", "true"),
            ("zip != other ~ ''", "true"),
            ("'10' < '9'", "true"),
            ("word == 3", "false"),
            ("word != 3", "true"),
            ("word in ['x', 'n/a']", "true"),
            ("quantity in [1, 2]", "false"),
            ("quantity not in (1, 2)", "true"),
            ("'nn' in name", "true"),
            ("word is number", "false"),
            ("zip is number and empty is not number", "true"),
            ("true and not false", "true"),
            // What is not asked for does no harm.
            ("word is number and word > 3", "false"),
            ("empty == ''", "true"),
        ] {
            assert_eq!(of(text), value, "{text}");
        }
    }

    #[test]
    fn lines_at_fault() {
        for (text, why) in [
            ("word + 1", "! \"n/a\" is not a number"),
            ("empty + 1", "! \"\" is not a number"),
            ("word > 3", "! \"n/a\" is not a number"),
            ("name | abs", "! \"Ann, B.\" is not a number"),
            ("price / (quantity - 3)", "! 1.5 / 0 divides by zero"),
            ("price % 0", "! 1.5 % 0 divides by zero"),
            (
                "name | replace(empty, 'x')",
                "! an empty text cannot be replaced",
            ),
        ] {
            assert_eq!(of(text), why, "{text}");
        }
        let large = format!("{0} * {0}", "9".repeat(28));
        assert!(of(&large).ends_with("is too large a number"));
        let long = "x".repeat(500);
        let why = of(&format!("('{long}' | number) + 1"));
        assert!(
            why.len() < 100 && why.ends_with("…\" is not a number"),
            "{why}"
        );
    }

    /// What would grow without end stops at the length of a line.
    #[test]
    fn texts_that_grow_are_bounded() {
        let grown = |doubled: usize| {
            let mut text = String::from("'xxxxxxxxxx'");
            (0..doubled).for_each(|_| text.push_str("|replace('x','xxxxxxxxxx')"));
            of(&text)
        };
        assert_eq!(grown(3).len(), 10_000);
        assert_eq!(grown(60), format!("! {}", text::TOO_LONG));
    }
}

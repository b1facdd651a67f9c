//! TOML and JSON specs as one tree in which every value knows where it stands in the file.

use serde_json::value::RawValue;
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};

/// What is wrong in a spec, where (byte offset), and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: usize,
    pub what: String,
    pub remedy: String,
}

impl Fault {
    pub fn new(at: usize, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            at,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// `file:line:column: what; remedy`, lines and columns from 1, columns in characters.
    pub fn located(&self, file: &str, text: &str) -> String {
        let mut at = self.at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before[before.rfind('\n').map_or(0, |end| end + 1)..]
            .chars()
            .count()
            + 1;
        format!("{file}:{line}:{column}: {}; {}", self.what, self.remedy)
    }
}

/// A value of the spec.
#[derive(Debug, Clone)]
pub struct Node {
    pub at: usize,
    pub value: Value,
}

/// Kinds of values.
#[derive(Debug, Clone)]
pub enum Value {
    Text(String),
    Int(i64),
    /// With a fraction, as it is written.
    Fraction(String),
    Bool(bool),
    List(Vec<Node>),
    Table(Vec<Field>),
    /// A kind that no key takes.
    Other(&'static str),
}

/// A key of a table with its value.
#[derive(Debug, Clone)]
pub struct Field {
    pub key: String,
    pub at: usize,
    pub node: Node,
}

impl Value {
    /// The kind in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Int(_) => "a whole number",
            Self::Fraction(_) => "a number with a fraction",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Parses a TOML document.
pub fn parse_toml(text: &str) -> Result<Node, Fault> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        Fault::new(
            at,
            format!("not valid TOML: {}", error.message()),
            "mend the syntax there",
        )
    })?;
    Ok(Node {
        at: 0,
        value: toml_table(table.get_ref()),
    })
}

fn toml_table(table: &DeTable<'_>) -> Value {
    let mut fields: Vec<Field> = table
        .iter()
        .map(|(key, value)| Field {
            key: key.get_ref().to_string(),
            at: key.span().start,
            node: Node {
                at: value.span().start,
                value: toml_value(value.get_ref()),
            },
        })
        .collect();
    fields.sort_by_key(|field| field.at);
    Value::Table(fields)
}

fn toml_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Int(number),
            Err(_) => Value::Other("a number out of range"),
        },
        DeValue::Boolean(yes) => Value::Bool(*yes),
        DeValue::Array(all) => Value::List(
            all.iter()
                .map(|item| Node {
                    at: item.span().start,
                    value: toml_value(item.get_ref()),
                })
                .collect(),
        ),
        DeValue::Table(table) => toml_table(table),
        DeValue::Float(number) => Value::Fraction(number.as_str().to_owned()),
        DeValue::Datetime(_) => Value::Other("a date"),
    }
}

/// Parses a JSON document of the same shape.
pub fn parse_json(text: &str) -> Result<Node, Fault> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let start: usize = text
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1))
            .map(str::len)
            .sum();
        Fault::new(
            start + error.column().saturating_sub(1),
            format!("not valid JSON: {error}"),
            "mend the syntax there",
        )
    })?;
    json_value(raw, text)
}

fn json_value(raw: &RawValue, text: &str) -> Result<Node, Fault> {
    let source = raw.get();
    // RawValue borrows from `text`: the distance of the pointers is the offset.
    let at = (source.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let bad = |error: serde_json::Error| {
        Fault::new(
            at,
            format!("not valid JSON: {error}"),
            "mend the value there",
        )
    };
    let value = match source.as_bytes().first() {
        Some(b'{') => {
            let entries: BTreeMap<String, &RawValue> = serde_json::from_str(source).map_err(bad)?;
            let mut fields = Vec::with_capacity(entries.len());
            for (key, raw) in entries {
                let node = json_value(raw, text)?;
                let at = text[..node.at]
                    .rfind(&format!("\"{key}\""))
                    .unwrap_or(node.at);
                fields.push(Field { key, at, node });
            }
            fields.sort_by_key(|field| field.at);
            Value::Table(fields)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(source).map_err(bad)?;
            Value::List(
                items
                    .into_iter()
                    .map(|raw| json_value(raw, text))
                    .collect::<Result<_, _>>()?,
            )
        }
        Some(b'"') => Value::Text(serde_json::from_str(source).map_err(bad)?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Other("null"),
        _ => source
            .parse()
            .map_or_else(|_| Value::Fraction(source.to_owned()), Value::Int),
    };
    Ok(Node { at, value })
}

/// A table whose keys are checked against those it may have.
pub struct Table<'a> {
    pub at: usize,
    what: &'a str,
    fields: &'a [Field],
}

impl<'a> Table<'a> {
    /// Reads `node` as a table called `what` in messages.
    pub fn of(node: &'a Node, what: &'a str, keys: &[&str]) -> Result<Self, Fault> {
        let Value::Table(fields) = &node.value else {
            return Err(Fault::new(
                node.at,
                format!("{what} is {}", node.value.kind()),
                "write a table",
            ));
        };
        if let Some(field) = fields
            .iter()
            .find(|field| !keys.contains(&field.key.as_str()))
        {
            return Err(Fault::new(
                field.at,
                format!("unknown key `{}` in {what}", field.key),
                nearest(&field.key, keys),
            ));
        }
        Ok(Self {
            at: node.at,
            what,
            fields,
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        self.fields
            .iter()
            .find(|field| field.key == key)
            .map(|field| &field.node)
    }

    fn wrong<T>(&self, key: &str, node: &Node, want: &str) -> Result<T, Fault> {
        let what = format!("`{key}` of {} is {}", self.what, node.value.kind());
        Err(Fault::new(node.at, what, format!("write {want}")))
    }

    /// A string, with its place.
    pub fn text(&self, key: &str) -> Result<Option<(String, usize)>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Node {
                at,
                value: Value::Text(text),
            }) => Ok(Some((text.clone(), *at))),
            Some(node) => self.wrong(key, node, "a string in quotes"),
        }
    }

    /// A string that must be there.
    pub fn need_text(&self, key: &str) -> Result<(String, usize), Fault> {
        let missing = || {
            Fault::new(
                self.at,
                format!("{} has no `{key}`", self.what),
                format!("add `{key} = \"…\"`"),
            )
        };
        self.text(key)?.ok_or_else(missing)
    }

    /// A whole number between two limits, or the default.
    pub fn int(&self, key: &str, default: i64, min: i64, max: i64) -> Result<i64, Fault> {
        match self.get(key) {
            None => Ok(default),
            Some(Node {
                value: Value::Int(number),
                ..
            }) if (min..=max).contains(number) => Ok(*number),
            Some(Node {
                at,
                value: Value::Int(number),
            }) => {
                let what = format!("`{key} = {number}` of {} is out of range", self.what);
                Err(Fault::new(*at, what, format!("use {min} to {max}")))
            }
            Some(node) => self.wrong(key, node, "a whole number"),
        }
    }

    /// True or false; false if absent.
    pub fn flag(&self, key: &str) -> Result<bool, Fault> {
        match self.get(key) {
            None => Ok(false),
            Some(Node {
                value: Value::Bool(yes),
                ..
            }) => Ok(*yes),
            Some(node) => self.wrong(key, node, "true or false"),
        }
    }

    /// A list; empty if absent.
    pub fn list(&self, key: &str) -> Result<&'a [Node], Fault> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Node {
                value: Value::List(items),
                ..
            }) => Ok(items),
            Some(node) => self.wrong(key, node, "a list in brackets"),
        }
    }

    /// A list of strings; `None` if absent.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>, Fault> {
        if self.get(key).is_none() {
            return Ok(None);
        }
        let text = |node: &Node| match &node.value {
            Value::Text(text) => Ok(text.clone()),
            _ => self.wrong(key, node, "strings in quotes"),
        };
        self.list(key)?
            .iter()
            .map(text)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The only key that is set of several; an error if none or two are.
    pub fn one_of(&self, keys: &[&'static str]) -> Result<(&'static str, &'a Node), Fault> {
        let mut set = keys
            .iter()
            .filter_map(|key| self.get(key).map(|node| (*key, node)));
        let all = keys.join("`, `");
        let remedy = format!("write exactly one of `{all}`");
        let Some(first) = set.next() else {
            return Err(Fault::new(
                self.at,
                format!("{} says nothing to do", self.what),
                remedy,
            ));
        };
        match set.next() {
            None => Ok(first),
            Some((key, node)) => Err(Fault::new(
                node.at,
                format!("{} has both `{}` and `{key}`", self.what, first.0),
                remedy,
            )),
        }
    }
}

/// A remedy for an unknown word.
pub fn nearest(word: &str, known: &[&str]) -> String {
    let close = known
        .iter()
        .map(|&other| (distance(word, other), other))
        .min();
    match close {
        Some((far, other)) if far <= 2 || other.starts_with(word) => {
            format!("did you mean `{other}`?")
        }
        _ => format!("it may be one of `{}`", known.join("`, `")),
    }
}

/// Edit distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

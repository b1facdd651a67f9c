//! Lines as JSON objects, one a line: the way back from `json_lines`. Members have the names of the columns, in their order;
//! values are strings, or numbers in the columns of which the spec says so.

use crate::batch::{Batch, LINE_BYTES_MAX, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::decimal::Decimal;
use crate::error::{Error, Result};
use serde_json::value::RawValue;

/// The members of the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    names: Vec<String>,
    /// Of each: the value is a number.
    numbers: Vec<bool>,
}

impl Members {
    /// Columns with these names, which differ; `numbers` are those with numbers, from 0.
    pub fn new(names: Vec<String>, numbers: &[usize]) -> Self {
        let numbers = (0..names.len()).map(|at| numbers.contains(&at)).collect();
        Self { names, numbers }
    }

    /// The lines of a batch as objects; those that are none are put aside, or are the error.
    pub fn objects(&self, batch: &Batch, letters: &mut Letters) -> Result<Option<Batch>> {
        let (mut lines, mut object) = (Lines::default(), Vec::new());
        for (at, line) in batch.lines().enumerate() {
            object.clear();
            match self.push(line, &mut object) {
                Ok(()) => lines.push(&object),
                Err(what) => {
                    let remedy = "filter such lines out, or set `on_error = \"dead\"`";
                    letters.blame_result(batch, at, Error::Line(format!("{what}; {remedy}")))?;
                }
            }
        }
        Ok(lines.take())
    }

    /// Appends the object of a line, or says why it has none.
    fn push(&self, line: &[u8], to: &mut Vec<u8>) -> Result<(), String> {
        let mut fields = csv::fields(line);
        to.push(b'{');
        for (at, (name, is_number)) in self.names.iter().zip(&self.numbers).enumerate() {
            if at > 0 {
                to.push(b',');
            }
            push_text(name, to);
            to.push(b':');
            // Fields that a short line lacks are empty.
            let value = csv::value(fields.next().unwrap_or_default());
            let text = str::from_utf8(&value).map_err(|_| {
                let shown = value[..value.len().min(200)].escape_ascii();
                format!("`{shown}` in column `{name}` is no UTF-8, as JSON must be")
            })?;
            match is_number {
                true => push_number(text, name, to)?,
                false => push_text(text, to),
            }
        }
        to.push(b'}');
        let (more, names) = (fields.count(), self.names.len());
        if more > 0 {
            let all = names + more;
            return Err(format!("a line has {all} fields, and {names} names"));
        }
        match to.len() <= LINE_BYTES_MAX {
            true => Ok(()),
            false => Err(format!(
                "a line of JSON is longer than {LINE_BYTES_MAX} bytes"
            )),
        }
    }
}

fn push_text(text: &str, to: &mut Vec<u8>) {
    // A string always has its JSON.
    to.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

/// A number as it is written, if JSON writes numbers so; else as the operators read it. No number is `null`.
fn push_number(text: &str, name: &str, to: &mut Vec<u8>) -> Result<(), String> {
    let text = text.trim_ascii();
    if text.is_empty() {
        to.extend_from_slice(b"null");
        return Ok(());
    }
    let starts = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if starts && serde_json::from_str::<&RawValue>(text).is_ok() {
        to.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    let Some(number) = Decimal::parse(text.as_bytes()) else {
        let shown: String = text.chars().take(200).collect();
        return Err(format!("`{shown}` in column `{name}` is not a number"));
    };
    to.extend_from_slice(number.to_string().as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_lines;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn members() -> Members {
        Members::new(["a", "b \"x\""].map(str::to_owned).to_vec(), &[1])
    }

    fn object(line: &[u8]) -> Result<String, String> {
        let mut to = Vec::new();
        members().push(line, &mut to)?;
        Ok(String::from_utf8(to).unwrap())
    }

    #[test]
    fn fields_become_members() {
        for (line, want) in [
            (r#""x, ""y""",1.50"#, r#"{"a":"x, \"y\"","b \"x\"":1.50}"#),
            ("7", r#"{"a":"7","b \"x\"":null}"#),
            ("\t\\,-1e400\r", r#"{"a":"\t\\","b \"x\"":-1e400}"#),
            ("ü, +007.5", r#"{"a":"ü","b \"x\"":7.5}"#),
            (
                ",123456789012345678901234567890123456789012345678901234567890",
                r#"{"a":"","b \"x\"":123456789012345678901234567890123456789012345678901234567890}"#,
            ),
        ] {
            assert_eq!(object(line.as_bytes()).as_deref(), Ok(want));
        }
    }

    #[test]
    fn what_has_no_object_says_why() {
        for (line, why) in [
            (&b"\xff,1"[..], "`\\xff` in column `a` is no UTF-8"),
            (b"x,one", "`one` in column `b \"x\"` is not a number"),
            (b"x,1 2", "is not a number"),
            (b"x,null", "is not a number"),
            (b"x,1,", "a line has 3 fields, and 2 names"),
        ] {
            let error = object(line).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let mut long = vec![b'\x01'; LINE_BYTES_MAX / 6 + 1];
        long.extend_from_slice(b",1");
        assert!(object(&long).unwrap_err().contains("is longer than"));
    }

    #[test]
    fn lines_without_an_object_are_put_aside_and_the_others_stay() {
        let batch = Batch::from_lines(Bytes::from_static(b"x,1\n\xff,2\ny,3"));
        let mut letters = Letters::new(true);
        let objects = members().objects(&batch, &mut letters).unwrap().unwrap();
        assert_eq!(objects.count(), 2);
        let dead = letters.take();
        assert_eq!((dead.len(), &dead[0].line[..]), (1, &b"\xff,2"[..]));
        let error = members().objects(&batch, &mut Letters::new(false));
        assert!(matches!(error, Err(Error::Line(_))));
    }

    proptest! {
        /// What a source of JSON reads of the objects is what the lines held.
        #[test]
        fn read_again_the_values_are_the_same(values in proptest::collection::vec("[a,\"\\\\é\u{1} ]{0,6}", 3)) {
            let names: Vec<String> = ["x", "y", "z"].map(str::to_owned).to_vec();
            let mut line = Vec::new();
            for (at, value) in values.iter().enumerate() {
                if at > 0 { line.push(b','); }
                csv::push_value(value.as_bytes(), &mut line);
            }
            let batch = Batch::from_lines(line.into());
            let mut letters = Letters::new(false);
            let objects = Members::new(names.clone(), &[]).objects(&batch, &mut letters).unwrap().unwrap();
            let (again, _) = json_lines::to_csv(&names, &objects, &mut letters).unwrap().unwrap();
            let read: Vec<Vec<u8>> = csv::fields(again.line(0)).map(|raw| csv::value(raw).into_owned()).collect();
            let want: Vec<Vec<u8>> = values.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(read, want);
        }
    }
}

//! JSON lines as records: the members that the source names, as CSV fields in that order. Text comes as it is, numbers,
//! `true` and `false` as they are written, `null` and what is missing empty, lists and objects as their JSON.

use crate::batch::{Batch, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::error::{Error, Result};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The lines of a batch as CSV, and which they are; empty lines are left out, others that are no objects go to `letters`.
pub fn to_csv(
    names: &[String],
    batch: &Batch,
    letters: &mut Letters,
) -> Result<Option<(Batch, Vec<usize>)>> {
    let mut lines = Lines::default();
    let mut kept = Vec::new();
    let mut values: Vec<Option<&RawValue>> = Vec::new();
    for (at, line) in batch.lines().enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        values.clear();
        values.resize(names.len(), None);
        let members = Members {
            names,
            values: &mut values,
        };
        let mut reader = serde_json::Deserializer::from_slice(line);
        let read = reader.deserialize_map(members).and_then(|()| reader.end());
        if let Err(error) = read {
            let shown = String::from_utf8_lossy(&line[..line.len().min(200)]);
            let error = Error::Line(format!(
                "`{shown}` is not a JSON object: {error}; mend the source, or read it as `format = \"lines\"` and filter"
            ));
            letters.blame(batch, at, error)?;
            continue;
        }
        kept.push(at);
        lines.push_with(|to| {
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    to.push(b',');
                }
                if let Some(value) = value {
                    push(value.get(), to);
                }
            }
        });
    }
    Ok(lines.take().map(|lines| (lines, kept)))
}

fn push(json: &str, to: &mut Vec<u8>) {
    match json.as_bytes().first() {
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str::<Text>(json)
                .map_or(Cow::Borrowed(json), |text| text.0.into());
            // A record is one line.
            csv::push_value(text.replace(['\n', '\r'], " ").as_bytes(), to);
        }
        Some(b'n') => {}
        _ => csv::push_value(json.as_bytes(), to),
    }
}

#[derive(serde::Deserialize)]
struct Text(String);

/// Keeps the members that have one of the names; of several with one name the last.
struct Members<'a, 'de> {
    names: &'a [String],
    values: &'a mut [Option<&'de RawValue>],
}

impl<'de> Visitor<'de> for Members<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text>()? {
            match self.names.iter().position(|known| *known == name.0) {
                Some(at) => self.values[at] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn members_become_fields() {
        let names = ["user", "n", "deep", "none"].map(str::to_owned);
        let text = r#"{"n": 1.50, "x": [1, {}], "user": "a, \"b\"\nc", "deep": {"k": "v, w"}}

{"none": null, "n": true, "n": -2}"#;
        let batch = Batch::from_lines(Bytes::from(text));
        let mut letters = Letters::new(false);
        let (csv, kept) = to_csv(&names, &batch, &mut letters).unwrap().unwrap();
        assert_eq!(kept.len(), csv.count());
        let lines: Vec<_> = csv.lines().map(String::from_utf8_lossy).collect();
        assert_eq!(
            lines,
            [r#""a, ""b"" c",1.50,"{""k"": ""v, w""}","#, ",-2,,"]
        );
        for wrong in ["[1]", "{\"a\":", "{} {}", "plain"] {
            let batch = Batch::from_lines(Bytes::from(wrong));
            let error = to_csv(&names, &batch, &mut letters).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}

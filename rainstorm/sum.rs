//! Totals by key, and the deltas in which they are saved. Only the final result is put out (fault R8).

use crate::batch::{BATCH_BYTES, Batch, Lines};
use crate::csv;
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Most bytes of keys and totals in one task.
pub const SUM_BYTES_MAX: usize = 512 << 20;
/// What an entry costs beside its key, about.
const ENTRY_BYTES: usize = 64;

/// Totals of one task. The map's order never shows: results and deltas are sorted.
pub struct Sum {
    by: usize,
    of: Option<usize>,
    json: bool,
    totals: HashMap<Box<[u8]>, Total>,
    /// Keys changed since the last delta.
    changed: Vec<Box<[u8]>>,
    bytes: usize,
}

struct Total {
    value: i64,
    changed: bool,
}

impl Sum {
    /// Adds up column `of` (or counts lines) per value of column `by`.
    pub fn new(by: usize, of: Option<usize>, json: bool) -> Self {
        Self {
            by,
            of,
            json,
            totals: HashMap::new(),
            changed: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes lines in.
    pub fn apply(&mut self, batch: &Batch) -> Result<()> {
        for line in batch.lines() {
            let key = csv::value(csv::field(line, self.by).unwrap_or_default());
            let add = match self.of {
                None => 1,
                Some(of) => number(line, of)?,
            };
            self.add(&key, add)?;
        }
        if self.bytes > SUM_BYTES_MAX {
            let what = format!("one task holds {} different keys", self.totals.len());
            return Err(Error::Job(format!(
                "{what}, more than {SUM_BYTES_MAX} bytes; give the stage more `tasks`"
            )));
        }
        Ok(())
    }

    fn add(&mut self, key: &[u8], add: i64) -> Result<()> {
        let Some(total) = self.totals.get_mut(key) else {
            self.bytes += key.len() + ENTRY_BYTES;
            self.totals.insert(
                key.into(),
                Total {
                    value: add,
                    changed: true,
                },
            );
            self.changed.push(key.into());
            return Ok(());
        };
        let overflow = || {
            Error::Job(format!(
                "the sum of key `{}` overflows 64 bits",
                String::from_utf8_lossy(key)
            ))
        };
        total.value = total.value.checked_add(add).ok_or_else(overflow)?;
        if !std::mem::replace(&mut total.changed, true) {
            self.changed.push(key.into());
        }
        Ok(())
    }

    /// All totals (`full`) or those changed since the last delta, as an encoded list; `None` if there are none.
    pub fn delta(&mut self, full: bool) -> Option<bytes::Bytes> {
        let mut keys = std::mem::take(&mut self.changed);
        for key in &keys {
            if let Some(total) = self.totals.get_mut(key) {
                total.changed = false;
            }
        }
        if full {
            keys = self.totals.keys().cloned().collect();
        }
        keys.sort_unstable();
        let list: Vec<(&[u8], i64)> = keys
            .iter()
            .filter_map(|key| Some((&**key, self.totals.get(key)?.value)))
            .collect();
        (!list.is_empty()).then(|| hydfs_types::encode(&list))
    }

    /// Nothing changed since the last delta.
    pub fn is_unchanged(&self) -> bool {
        self.changed.is_empty()
    }

    /// Bytes that a full delta would take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts back what `delta` gave; later deltas win.
    pub fn restore(&mut self, delta: &[u8]) -> Result<()> {
        let list: Vec<(Vec<u8>, i64)> = hydfs_types::decode(delta)?;
        for (key, value) in list {
            let len = key.len();
            let old = self.totals.insert(
                key.into(),
                Total {
                    value,
                    changed: false,
                },
            );
            self.bytes += if old.is_none() { len + ENTRY_BYTES } else { 0 };
        }
        Ok(())
    }

    /// The result, sorted by key: lines `key,total`, or the lines of one JSON document.
    pub fn finish(&mut self, out: &mut Vec<Batch>) {
        let mut totals: Vec<(Box<[u8]>, i64)> = self
            .totals
            .drain()
            .map(|(key, total)| (key, total.value))
            .collect();
        totals.sort_unstable();
        let mut lines = Lines::default();
        if self.json {
            lines.push(b"{");
        }
        let count = totals.len();
        for (at, (key, total)) in totals.into_iter().enumerate() {
            lines.push_with(|to| match self.json {
                false => {
                    csv::push_value(&key, to);
                    to.extend_from_slice(format!(",{total}").as_bytes());
                }
                true => {
                    let key = serde_json::Value::from(String::from_utf8_lossy(&key));
                    let comma = if at + 1 < count { "," } else { "" };
                    to.extend_from_slice(format!("  {key}: {total}{comma}").as_bytes());
                }
            });
            if lines.bytes() >= BATCH_BYTES {
                out.extend(lines.take());
            }
        }
        if self.json {
            lines.push(b"}");
        }
        out.extend(lines.take());
    }
}

fn number(line: &[u8], column: usize) -> Result<i64> {
    let value = csv::value(csv::field(line, column).unwrap_or_default());
    let text = std::str::from_utf8(&value).ok().map(str::trim);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&line[..line.len().min(200)]);
        Error::Job(format!(
            "column {} of `{shown}` is not a whole number; filter such lines out",
            column + 1
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn deltas_restore_the_totals() {
        let feed = |sum: &mut Sum, text: &'static str| {
            sum.apply(&Batch::from_lines(Bytes::from_static(text.as_bytes())))
                .unwrap();
        };
        let mut sum = Sum::new(0, None, false);
        feed(&mut sum, "a\nb\na");
        let first = sum.delta(false).unwrap();
        assert!(sum.delta(false).is_none());
        feed(&mut sum, "b\nc");
        let second = sum.delta(false).unwrap();
        assert!(second.len() < first.len() + 8);
        for deltas in [vec![first, second], vec![sum.delta(true).unwrap()]] {
            let mut again = Sum::new(0, None, false);
            deltas
                .iter()
                .for_each(|delta| again.restore(delta).unwrap());
            let mut out = Vec::new();
            again.finish(&mut out);
            assert_eq!(out[0].bytes(), "a,2\nb,2\nc,1");
        }
        assert!(sum.restore(b"\x01\x00\xff").is_err());
    }

    #[test]
    fn a_number_that_is_none_fails_the_job() {
        let error = Sum::new(0, Some(1), false)
            .apply(&Batch::from_lines(Bytes::from_static(b"k,1.5")))
            .unwrap_err();
        assert!(
            error.is_final() && error.to_string().contains("column 2"),
            "{error}"
        );
    }
}

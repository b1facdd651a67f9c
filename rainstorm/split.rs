//! Operators that make several lines of one.

use crate::batch::{Batch, Lines};
use crate::csv;
use memchr::memmem;

/// What becomes a line.
#[derive(Debug, Clone)]
pub enum Pieces {
    /// What stands between the separators; nothing is no line.
    Between(Vec<u8>),
    /// Each match of an expression, as this template says.
    Matches(regex::bytes::Regex, Vec<u8>),
}

/// The pieces of each line, or of the value of a column of it.
pub fn split(column: Option<usize>, pieces: &Pieces, batch: &Batch) -> Option<Batch> {
    let mut lines = Lines::default();
    for line in batch.lines() {
        match column {
            None => one(pieces, line.strip_suffix(b"\r").unwrap_or(line), &mut lines),
            Some(at) => {
                if let Some(raw) = csv::field(line, at) {
                    one(pieces, &csv::value(raw), &mut lines);
                }
            }
        }
    }
    lines.take()
}

fn one(pieces: &Pieces, text: &[u8], lines: &mut Lines) {
    match pieces {
        Pieces::Between(separator) => {
            let mut from = 0;
            let ends = memmem::find_iter(text, separator).chain([text.len()]);
            for end in ends {
                if from < end {
                    lines.push(&text[from..end]);
                }
                from = end + separator.len();
            }
        }
        Pieces::Matches(regex, template) => {
            for found in regex.captures_iter(text) {
                lines.push_with(|to| found.expand(template, to));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn run(column: Option<usize>, pieces: Pieces, text: &'static str) -> Vec<String> {
        let batch = Batch::from_lines(Bytes::from_static(text.as_bytes()));
        let out = split(column, &pieces, &batch);
        let lines = out.iter().flat_map(Batch::lines);
        lines
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn lines_are_cut_in_pieces() {
        let words = || Pieces::Between(b" ".to_vec());
        assert_eq!(run(None, words(), " a  bc\n\nd"), ["a", "bc", "d"]);
        assert_eq!(run(Some(1), words(), "x,\"a, b\"\ny"), ["a,", "b"]);
        let regex = regex::bytes::Regex::new(r"(\w)=(\d+)").unwrap();
        let matches = Pieces::Matches(regex, b"$1,$2".to_vec());
        assert_eq!(run(None, matches, "a=1 b=22 c=\nno"), ["a,1", "b,22"]);
    }
}

//! How lines stand in the files of a sink: as they are, as CSV behind a header, or each as a JSON object.

use crate::batch::Batch;
use crate::csv;
use crate::dead::Letters;
use crate::error::Result;
use crate::json_rows::Members;
use std::borrow::Cow;

/// Largest header that is written: what a CSV source takes.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// The format of a sink's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    Lines,
    /// The first line of each file names these columns.
    Csv(Vec<String>),
    JsonLines(Members),
}

impl Layout {
    /// The first line of each file, without its end.
    pub fn header(&self) -> Option<Vec<u8>> {
        let Self::Csv(columns) = self else {
            return None;
        };
        let mut line = Vec::new();
        for (at, name) in columns.iter().enumerate() {
            if at > 0 {
                line.push(b',');
            }
            csv::push_value(name.as_bytes(), &mut line);
        }
        Some(line)
    }

    /// Lines as they are written, if any are left; those that cannot be written so are put aside, or are the error.
    pub fn lay_out<'a>(
        &self,
        batch: &'a Batch,
        letters: &mut Letters,
    ) -> Result<Option<Cow<'a, Batch>>> {
        match self {
            Self::Lines | Self::Csv(_) => Ok(Some(Cow::Borrowed(batch))),
            Self::JsonLines(members) => Ok(members.objects(batch, letters)?.map(Cow::Owned)),
        }
    }

    /// Whether lines of the other may follow in the same file.
    pub fn goes_on_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lines, Self::Lines) | (Self::JsonLines(_), Self::JsonLines(_)) => true,
            (Self::Csv(a), Self::Csv(b)) => a == b,
            _ => false,
        }
    }
}

//! Which part of its files a source reads. Of one file it may be named in bytes: a line belongs to the part in which it begins, so that
//! parts of several jobs tile a file without a line that is read twice or by none.
//!
//! Where such a part begins and ends is found out once, when the file is pinned, and travels with the positions: whoever reads, and
//! whoever audits, sees a file that is so long, and whose data begins there.

use crate::batch::LINE_BYTES_MAX;
use crate::glob;
use crate::pieces::Pieces;
use crate::plan::PinnedFile;
use crate::prepare::Fail;
use crate::seams::{Source, Storage, StorageResult};
use crate::spec::word;
use crate::spec_tree::{Fault, Node, Table, Value};
use memchr::memchr;

/// What is read of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// Of a followed source only what comes after the job's start.
    End,
    /// What begins at this byte of the one file or behind it.
    From(u64),
    /// Of a file that is not followed, what begins at the first of these bytes or behind it, and before the second.
    Range(u64, u64),
}

impl Extent {
    /// The first byte of a part, and the first one behind it where it ends before its file.
    pub fn bounds(self) -> Option<(u64, Option<u64>)> {
        match self {
            Self::Whole | Self::End => None,
            Self::From(from) => Some((from, None)),
            Self::Range(from, to) => Some((from, Some(to))),
        }
    }
}

/// Reads `start` and `range` of a `[[source]]`, and where they stand.
pub fn extent(table: &Table<'_>, path: &str, follow: bool) -> Result<(Extent, usize), Fault> {
    let start = table.get("start");
    let Some(node) = table.get("range") else {
        let at = start.map_or(table.at, |node| node.at);
        let extent = match start {
            Some(node) if !matches!(node.value, Value::Text(_)) => from(node)?,
            _ => match word(table, "start", &[("beginning", false), ("end", true)])? {
                false => Extent::Whole,
                true => Extent::End,
            },
        };
        if extent == Extent::End && !follow {
            let what = "`start = \"end\"` of a source that is not followed reads nothing";
            return Err(Fault::new(at, what, "add `follow = true`"));
        }
        return of_one_file(extent, path, at);
    };
    if follow {
        let what = "`range` of a source that is followed, which has no end";
        let remedy = "leave `follow` out, or write `start = { at = FROM }` instead";
        return Err(Fault::new(node.at, what, remedy));
    }
    if let Some(start) = start {
        let what = "`start` of a source that has a `range`";
        let remedy = "leave `start` out: the range says where to begin";
        return Err(Fault::new(start.at, what, remedy));
    }
    of_one_file(range(node)?, path, node.at)
}

fn of_one_file(extent: Extent, path: &str, at: usize) -> Result<(Extent, usize), Fault> {
    if extent.bounds().is_some() && glob::is_pattern(path) {
        let what = format!("bytes of the pattern `{path}`, which may name several files");
        return Err(Fault::new(at, what, "name one file as `path`"));
    }
    Ok((extent, at))
}

fn from(node: &Node) -> Result<Extent, Fault> {
    let fault = |at| {
        let what = "`start` is neither \"beginning\", \"end\" nor a byte of the file";
        Fault::new(at, what, "write a byte as in `start = { at = 1048576 }`")
    };
    if !matches!(node.value, Value::Table(_)) {
        return Err(fault(node.at));
    }
    let table = Table::of(node, "`start`", &["at"])?;
    match table.get("at") {
        None => Err(fault(node.at)),
        Some(at) => byte(at).map(Extent::From).ok_or_else(|| fault(at.at)),
    }
}

fn range(node: &Node) -> Result<Extent, Fault> {
    let bytes: Option<Vec<u64>> = match &node.value {
        Value::List(items) => items.iter().map(byte).collect(),
        _ => None,
    };
    match bytes.as_deref() {
        Some(&[from, to]) if from <= to => Ok(Extent::Range(from, to)),
        Some(&[from, to]) => {
            let what = format!("`range = [{from}, {to}]` ends before it begins");
            Err(Fault::new(node.at, what, "write the smaller byte first"))
        }
        _ => {
            let what = "`range` does not say two bytes of the file";
            let remedy =
                "write the first byte and the first one behind, as in `range = [0, 1048576]`";
            Err(Fault::new(node.at, what, remedy))
        }
    }
}

fn byte(node: &Node) -> Option<u64> {
    match node.value {
        Value::Int(byte) => u64::try_from(byte).ok(),
        _ => None,
    }
}

/// Cuts what was pinned down to the part that is read of it. `at`: where the spec says so.
pub async fn cut(
    storage: &dyn Storage,
    extent: Extent,
    (path, at): (&str, usize),
    follow: bool,
    files: &mut [PinnedFile],
) -> Result<(), Fail> {
    let Some((from, to)) = extent.bounds() else {
        return Ok(());
    };
    let fault = |what: String, remedy: &str| Err(Fail::Fault(Fault::new(at, what, remedy)));
    let file = match files {
        [file] if file.path == path => file,
        // It is followed and not there yet, or has no header.
        [] => {
            return fault(
                format!("there is nothing in {path} yet"),
                "leave `start` out",
            );
        }
        _ => {
            return fault(
                format!("bytes of the directory {path}"),
                "name one file as `path`",
            );
        }
    };
    let len = file.source.len;
    let last = to.unwrap_or(from);
    if last > len {
        let what = format!("{path} has {len} bytes, and none at {last}");
        return fault(what, &format!("write {len} at most"));
    }
    let place = async |byte| {
        let found = first_line(storage, &file.source, file.data_at, byte).await;
        found.map_err(|error| Fail::of(at, error, "name a file that can be read"))
    };
    let start = match place(from).await? {
        Some(start) => start,
        None if follow => {
            let what = format!("no line of {path} begins at byte {from} or behind it yet");
            return fault(
                what,
                "name a byte of a line that has its end, or write `start = \"end\"`",
            );
        }
        None => len,
    };
    let end = match to {
        Some(to) => place(to).await?.unwrap_or(len),
        None => len,
    };
    file.data_at = start;
    file.source.len = end;
    Ok(())
}

/// Where the first line of the data begins that begins at `byte` or behind it; `None` if none is known to.
async fn first_line(
    storage: &dyn Storage,
    source: &Source,
    data_at: u64,
    byte: u64,
) -> StorageResult<Option<u64>> {
    if byte <= data_at {
        return Ok(Some(data_at));
    }
    // A line begins behind the end of another, which may be the byte before.
    let mut at = byte - 1;
    let mut pieces = Pieces::new(storage, source.clone(), source.ino.to_string(), at);
    while let Some(piece) = pieces.next().await? {
        if let Some(end) = memchr(b'\n', &piece) {
            return Ok(Some(at + end as u64 + 1));
        }
        at += piece.len() as u64;
    }
    Ok(None)
}

/// Why what was pinned is not what the bounds say, if it is not.
pub async fn audit(
    storage: &dyn Storage,
    file: &PinnedFile,
    (from, to): (u64, Option<u64>),
) -> StorageResult<Option<String>> {
    let len = file.source.len;
    let start = first_line(storage, &file.source, 0, from.min(len)).await?;
    let start = start.unwrap_or(len);
    // Behind the header of CSV.
    let header = first_line(storage, &file.source, 0, 1.min(len)).await?;
    if file.data_at != start && !(start < file.data_at && header == Some(file.data_at)) {
        let what = format!(
            "the part from byte {from} on of {} begins at {start}, not at {}",
            file.path, file.data_at
        );
        return Ok(Some(what));
    }
    let Some(to) = to else { return Ok(None) };
    let rest = len
        .saturating_sub(to.max(1) - 1)
        .min(LINE_BYTES_MAX as u64 + 1);
    let rest = storage.read(&file.source, len - rest, rest as u32).await?;
    let end = memchr(b'\n', &rest).map(|end| end + 1);
    // The last line has its end there and no other, or the file ended.
    match len < to.max(file.data_at) || end.is_some_and(|end| end < rest.len()) {
        false => Ok(None),
        true => Ok(Some(format!(
            "the part of {} up to byte {to} does not end at {len}",
            file.path
        ))),
    }
}

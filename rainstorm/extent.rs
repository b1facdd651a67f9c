//! Which part of its files a source reads. Of one file it may be named in bytes: a line, or a frame, belongs to the part in which it begins,
//! so that parts of several jobs tile a file without one that is read twice or by none.
//!
//! Where such a part begins and ends is found out once, when the file is pinned, and travels with the positions: whoever reads, and
//! whoever audits, sees a file that is so long, and whose data begins there.

use crate::error::{Error, Result};
use crate::framed::Framed;
use crate::frames::Prefix;
use crate::glob;
use crate::pieces::Pieces;
use crate::plan::PinnedFile;
use crate::prepare::Fail;
use crate::seams::Storage;
use crate::spec::{SourceSpec, word};
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
    spec: &SourceSpec,
    files: &mut [PinnedFile],
) -> Result<(), Fail> {
    let Some((from, to)) = spec.extent.bounds() else {
        return Ok(());
    };
    let (path, at) = (&spec.path, spec.extent_at);
    let prefix = spec.format.framing().map(|framing| framing.prefix);
    let fault = |what: String, remedy: &str| Err(Fail::Fault(Fault::new(at, what, remedy)));
    let file = match files {
        [file] if file.path == *path => file,
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
        let found = first(storage, file, prefix, file.data_at, byte).await;
        found.map_err(|error| match error {
            Error::Storage(error) => Fail::of(at, error, "name a file that can be read"),
            other => Fail::Fault(Fault::new(at, other.to_string(), "or name another file")),
        })
    };
    let start = match place(from).await? {
        Some(start) => start,
        None if spec.follow => {
            let what = format!("nothing in {path} begins at byte {from} or behind it yet");
            return fault(
                what,
                "name a byte of what is whole, or write `start = \"end\"`",
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

/// Where the first line or frame begins that does at `byte` or behind it, and at `data_at` or behind that; `None` if none is known to.
async fn first(
    storage: &dyn Storage,
    file: &PinnedFile,
    prefix: Option<Prefix>,
    data_at: u64,
    byte: u64,
) -> Result<Option<u64>> {
    if byte <= data_at {
        return Ok(Some(data_at));
    }
    let source = &file.source;
    if let Some(prefix) = prefix {
        let framed = Framed {
            storage,
            source,
            path: &file.path,
            prefix,
        };
        let place = framed.walk(data_at, byte).await?;
        return Ok((!place.is_cut).then_some(place.at));
    }
    // A line begins behind the end of another, which may be the byte before.
    let mut at = byte - 1;
    let mut pieces = Pieces::new(storage, source.clone(), file.path.clone(), at);
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
    prefix: Option<Prefix>,
    (from, to): (u64, Option<u64>),
) -> Result<Option<String>> {
    let (data_at, len) = (file.data_at, file.source.len);
    let start = first(storage, file, prefix, 0, from.min(len)).await?;
    let start = start.unwrap_or(len);
    // Behind the header of CSV.
    let header = match prefix {
        None => first(storage, file, None, 0, 1.min(len)).await?,
        Some(_) => None,
    };
    if data_at != start && !(start < data_at && header == Some(data_at)) {
        let what = format!(
            "the part from byte {from} on of {} begins at {start}, not at {data_at}",
            file.path
        );
        return Ok(Some(what));
    }
    let Some(to) = to else { return Ok(None) };
    // What begins before the byte ends there or behind it, and nothing else begins in between.
    let end = match len < to.max(data_at) {
        true => None,
        false => Some(
            first(storage, file, prefix, data_at, to)
                .await?
                .unwrap_or(len),
        ),
    };
    match end == Some(len) {
        true => Ok(None),
        false => Ok(Some(format!(
            "the part of {} up to byte {to} does not end at {len}",
            file.path
        ))),
    }
}

//! The second half of an audit: the outputs of a job are what its receipt says, line for line.

use crate::audit::{Audited, PIECE_BYTES, lines, wrong};
use crate::error::Result;
use crate::receipt::{Begin, Line, Writes};
use crate::seams::{Owner, Source, Storage, StorageError};
use bytes::BytesMut;
use hydfs_types::JobInfo;
use memchr::memchr;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

/// What was written to a file in each job epoch that wrote to it.
type Written = Vec<(u64, Writes)>;

fn sum(written: &[(u64, Writes)]) -> Writes {
    let mut sum = Writes::default();
    written.iter().for_each(|(_, writes)| sum.join(*writes));
    sum
}

/// Checks that the outputs are what was written. Files that were removed are named; those that were made anew hold what was written
/// behind that.
pub async fn outputs(
    storage: &dyn Storage,
    job: &JobInfo,
    known: &[Line],
    audited: &mut Audited,
) -> Result<()> {
    let mut written: BTreeMap<&str, Written> = BTreeMap::new();
    let mut lengths = Lengths::default();
    for line in known {
        if let Some(begin) = &line.begin {
            lengths.begin(begin, &written);
        }
        for (path, writes) in &line.outputs {
            let of_path = written.entry(path).or_default();
            of_path.push((line.epoch, *writes));
        }
    }
    let mut found = Vec::new();
    for (path, want) in written {
        let from = lengths.files.get(path).copied().unwrap_or_default();
        match storage.pin(path, Owner::ROOT).await {
            Err(StorageError::NotFound(_)) => drop(audited.gone.insert(path.to_owned())),
            source => found.push((path, from, want, source?)),
        }
    }
    let is_other =
        |(_, from, want, source): &(_, u64, Written, Source)| source.len != from + sum(want).bytes;
    // A job that goes on has committed more since the receipt was read: what is in the outputs now is in it now.
    let later = match found.iter().any(is_other) {
        true => lines(storage, job).await?,
        false => Vec::new(),
    };
    for (path, from, mut want, source) in found {
        let seen = want.len();
        for line in later.iter().skip(known.len()) {
            let writes = line.outputs.get(path);
            want.extend(writes.map(|writes| (line.epoch, *writes)));
        }
        let ends = || seen..=want.len();
        let whole = ends().find(|&end| from + sum(&want[..end]).bytes == source.len);
        let (from, all, anew) = match (whole, part(&want, ends(), source.len)) {
            (Some(end), _) => (from, sum(&want[..end]), None),
            (None, Some(part)) => (0, sum(&want[part.clone()]), Some(want[part.start].0)),
            (None, None) => (from, sum(&want[..seen]), None),
        };
        let found = read_output(storage, path, &source, (from, all.bytes)).await?;
        if found != all {
            let what = format!(
                "{path} holds {} lines ({} bytes, checksum {:x}), but {} ({} bytes, {:x}) were written",
                found.lines, found.bytes, found.sum, all.lines, all.bytes, all.sum
            );
            return Err(wrong(&what));
        }
        if let Some(epoch) = anew {
            audited.anew.insert(path.to_owned(), epoch);
        }
        audited.lines_out += found.lines;
        audited.bytes_out += found.bytes;
    }
    Ok(())
}

/// Where the job epochs stand that make up a file of so many bytes: one that was removed holds what was written behind that.
fn part(want: &[(u64, Writes)], ends: RangeInclusive<usize>, bytes: u64) -> Option<Range<usize>> {
    for end in ends {
        let mut sum = 0;
        let all = (0..end).rev().map(|start| {
            sum += want[start].1.bytes;
            (start, sum)
        });
        let mut fitting = all.skip_while(|(_, sum)| *sum < bytes);
        if let Some((start, _)) = fitting.next().filter(|(_, sum)| *sum == bytes) {
            return Some(start..end);
        }
    }
    None
}

/// Where what a job wrote begins in its outputs.
#[derive(Default)]
struct Lengths<'a> {
    files: BTreeMap<&'a str, u64>,
    /// Folders that the job writes in: files that were not there at first begin empty.
    folders: BTreeSet<&'a str>,
}

impl<'a> Lengths<'a> {
    /// At the beginning of a plan. What the job has written to before begins where it did.
    fn begin(&mut self, begin: &'a Begin, written: &BTreeMap<&str, Written>) {
        let (folders, files): (Vec<_>, Vec<_>) = begin
            .lengths
            .iter()
            .partition(|(path, _)| path.ends_with('/'));
        for (path, len) in files {
            let end = path.rfind('/').map_or(0, |at| at + 1);
            if !written.contains_key(path.as_str()) && !self.folders.contains(&path[..end]) {
                self.files.entry(path).or_insert(*len);
            }
        }
        self.folders
            .extend(folders.into_iter().map(|(path, _)| path.as_str()));
    }
}

async fn read_output(
    storage: &dyn Storage,
    path: &str,
    source: &Source,
    (from, want): (u64, u64),
) -> Result<Writes> {
    if source.len != from + want {
        let before = match from {
            0 => String::new(),
            from => format!(" behind the first {from}"),
        };
        let what = format!(
            "{path} has {} bytes, but {want} were written{before}: something else wrote there",
            source.len
        );
        return Err(wrong(&what));
    }
    let (mut found, mut rest, mut at) = (Writes::default(), BytesMut::new(), from);
    while at < source.len {
        let piece = storage
            .read(source, at, (source.len - at).min(PIECE_BYTES) as u32)
            .await?;
        if piece.is_empty() {
            return Err(StorageError::Changed(path.to_owned()).into());
        }
        at += piece.len() as u64;
        rest.extend_from_slice(&piece);
        while let Some(end) = memchr(b'\n', &rest) {
            let line = rest.split_to(end + 1);
            found.add(&line[..end]);
        }
    }
    match rest.is_empty() {
        true => Ok(found),
        false => Err(wrong(&format!("{path} ends inside a line"))),
    }
}

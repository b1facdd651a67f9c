//! Checks of a stopped member's folder: the record journal, the bases and their checksums, and what lies about. They run
//! the decoders of a start, on a [`FrozenDisk`](crate::FrozenDisk), and write nothing. The agreement log's own check is its
//! crate's.

use crate::{
    Disk, Folder, Journal, JournalEntry, LogOptions, Position, StoreError,
    ahead::{file_number, file_path},
    base_file::{BaseFile, sum_path},
    disk::read_bytes,
    entry::{FILE_HEADER_BYTES, check_file_header},
    sums::{SUM_BLOCK_BYTES, Sums},
};
use hydfs_types::{Record, SegmentId};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Damaged ranges that are named of one base; more are counted.
const RANGES_MAX: usize = 16;
const HEAL: &str = "start the member: it finds the damage too and copies the block from another member. Only if every member with a copy is gone is this folder the last one: keep it";
const REFILL: &str = "the member will not start on it: move the folder away and start the member with an empty one, which the others fill. Keep the old folder until `hydfs status` is healthy";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Untidy, or to be expected after a crash: nothing is lost.
    Warning,
    /// Bytes that were stored are not what is there.
    Damage,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The file or folder.
    pub path: String,
    /// Byte in the file, where one can be named.
    pub offset: Option<u64>,
    /// What is wrong, in words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// A damage without a place in the file.
    pub fn damage(
        path: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Damage,
            path: path.into(),
            offset: None,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// The same as a warning.
    pub fn warning(
        path: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::damage(path, what, remedy)
        }
    }

    fn at(self, offset: u64) -> Self {
        Self {
            offset: Some(offset),
            ..self
        }
    }

    /// What a store error means for a log in `dir`: the next start fails with it.
    pub fn of_log(dir: &str, error: &StoreError) -> Self {
        match error {
            StoreError::Damaged { path, offset, why } => Self::damage(
                path.clone(),
                format!("damaged: {why}; what follows in this log was not checked"),
                REFILL,
            )
            .at(*offset),
            StoreError::Newer { path, .. } => Self::damage(
                path.clone(),
                error.to_string(),
                "upgrade hydfs and check again",
            ),
            other => Self::damage(dir, other.to_string(), REFILL),
        }
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Looked {
    pub journal_entries: u64,
    pub records: u64,
    pub bases: u64,
    pub base_bytes: u64,
}

/// What the journal knows of a base.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    len: u64,
    /// A cut may have been under way.
    unsettled: bool,
}

/// Files of one log: sizes, and names that are none of it. `others` are prefixes of names that belong there besides.
pub fn log_files(
    disk: &dyn Disk,
    dir: &str,
    options: LogOptions,
    others: &[&str],
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let names = disk
        .list(dir)
        .map_err(|error| StoreError::io("list", disk.locate(dir), error))?;
    let newest = names
        .iter()
        .filter_map(|name| file_number(name, ".log"))
        .max();
    for name in &names {
        let path = format!("{dir}/{name}");
        let number = file_number(name, ".log");
        let known = number.is_some_and(|number| file_path(dir, number) == path)
            || file_number(name, ".spare").is_some();
        if name.ends_with(".tmp") {
            findings.push(leftover(disk, &path));
        } else if !known && !others.iter().any(|prefix| name.starts_with(prefix)) {
            findings.push(stray(disk, &path));
        } else if let Some(number) = number {
            findings.extend(log_size(
                disk,
                &path,
                number,
                newest == Some(number),
                options,
            )?);
        }
    }
    Ok(findings)
}

/// A log file is made at its full size before it gets entries.
fn log_size(
    disk: &dyn Disk,
    path: &str,
    number: u32,
    newest: bool,
    options: LogOptions,
) -> Result<Option<Finding>, StoreError> {
    let failed = |error| StoreError::io("read", disk.locate(path), error);
    let file = disk.open_file(path, false).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    if len >= options.file_bytes {
        return Ok(None);
    }
    let head = read_bytes(&*file, 0, FILE_HEADER_BYTES).map_err(failed)?;
    if newest && check_file_header(&head, number, options.salt).is_err() {
        let what = format!("{len} bytes, not yet a log file: a crash came while it was made");
        return Ok(Some(Finding::warning(
            disk.locate(path),
            what,
            "nothing: the next start removes it",
        )));
    }
    let what = format!(
        "only {len} bytes long, but log files are made with {}: something cut it, and entries may be gone",
        options.file_bytes
    );
    Ok(Some(
        Finding::damage(disk.locate(path), what, REFILL).at(len),
    ))
}

fn leftover(disk: &dyn Disk, path: &str) -> Finding {
    Finding::warning(
        disk.locate(path),
        "a temporary file that a crash left",
        "nothing: the next start removes or replaces it",
    )
}

fn stray(disk: &dyn Disk, path: &str) -> Finding {
    Finding::warning(
        disk.locate(path),
        "hydfs did not make this, and does not read it",
        "move it elsewhere if you know it, or leave it",
    )
}

/// Names in the folder itself that are neither the store's nor among `others`.
pub fn strays(disk: &dyn Disk, others: &[&str]) -> Result<Vec<Finding>, StoreError> {
    let own = [
        "format",
        crate::marked::MARK,
        Folder::RAFT,
        Folder::JOURNAL,
        Folder::BASE,
        Folder::CACHE,
    ];
    let names = disk
        .list("")
        .map_err(|error| StoreError::io("list", disk.locate(""), error))?;
    Ok(names
        .iter()
        .filter(|name| !own.contains(&name.as_str()) && !others.contains(&name.as_str()))
        .map(|name| match name.as_str() {
            "format.tmp" | ".probe" => leftover(disk, name),
            _ => stray(disk, name),
        })
        .collect())
}

/// Checks journal and bases. Without `options` (the folder's identity is unreadable) only the bases, against themselves.
pub fn data(
    disk: &Arc<dyn Disk>,
    options: Option<LogOptions>,
    rebooted: bool,
) -> Result<(Looked, Vec<Finding>), StoreError> {
    let mut looked = Looked::default();
    let mut findings = Vec::new();
    let known = match options {
        Some(options) => journal(disk, options, &mut looked, &mut findings)?,
        None => None,
    };
    bases(disk, known.as_ref(), rebooted, &mut looked, &mut findings)?;
    Ok((looked, findings))
}

fn journal(
    disk: &Arc<dyn Disk>,
    options: LogOptions,
    looked: &mut Looked,
    findings: &mut Vec<Finding>,
) -> Result<Option<BTreeMap<SegmentId, Known>>, StoreError> {
    findings.extend(log_files(&**disk, Folder::JOURNAL, options, &[])?);
    let opened = Journal::load(Arc::clone(disk), Folder::JOURNAL, options);
    let (journal, entries) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            findings.push(Finding::of_log(&disk.locate(Folder::JOURNAL), &error));
            return Ok(None);
        }
    };
    let mut known: BTreeMap<SegmentId, Known> = BTreeMap::new();
    for (at, entry) in entries {
        looked.journal_entries += 1;
        match entry {
            JournalEntry::Record(head) => {
                looked.records += 1;
                known.entry(head.segment).or_default().unsettled = true;
                findings.extend(record(disk, &journal, at, head));
            }
            JournalEntry::Prepared(prepare) => {
                known.entry(prepare.segment).or_default().unsettled = true;
            }
            JournalEntry::Applied { segment, len, .. } => {
                known.entry(segment).or_default().len = len;
            }
            JournalEntry::Adopted { segment, len, .. } => {
                known.insert(
                    segment,
                    Known {
                        len,
                        unsettled: false,
                    },
                );
            }
            JournalEntry::Retired { segment } => {
                known.remove(&segment);
            }
            JournalEntry::Fence { .. }
            | JournalEntry::Dropped { .. }
            | JournalEntry::Incarnation { .. }
            | JournalEntry::Order { .. } => {}
        }
    }
    Ok(Some(known))
}

/// The entry's checksum held when the journal was opened; the record's own must hold too.
fn record(
    disk: &Arc<dyn Disk>,
    journal: &Journal,
    at: Position,
    head: hydfs_types::RecordHead,
) -> Option<Finding> {
    let path = disk.locate(&file_path(Folder::JOURNAL, at.file()));
    let (writer, seq) = (head.writer, head.seq);
    let read = journal.read_payload(at, head.len as usize);
    let why = match read.map(|payload| Record { head, payload }.intact()) {
        Ok(true) => return None,
        Ok(false) => "its payload does not match its checksum".to_owned(),
        Err(error) => error.to_string(),
    };
    let what = format!("record {seq} of writer {writer}: {why}");
    Some(Finding::damage(path, what, REFILL).at(at.offset()))
}

/// Segment of a base file's name in folder `dir`.
fn segment_of(dir: &str, name: &str) -> Option<SegmentId> {
    let segment = (name.len() == 16)
        .then(|| u64::from_str_radix(name, 16).ok())
        .flatten()?;
    (format!("{:02x}", segment as u8) == dir).then_some(SegmentId(segment))
}

fn bases(
    disk: &Arc<dyn Disk>,
    known: Option<&BTreeMap<SegmentId, Known>>,
    rebooted: bool,
    looked: &mut Looked,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    let list = |dir: &str| {
        disk.list(dir)
            .map_err(|error| StoreError::io("list", disk.locate(dir), error))
    };
    let mut found = BTreeSet::new();
    for dir in list(Folder::BASE)? {
        let folder = format!("{}/{dir}", Folder::BASE);
        if dir == "tmp" {
            let names = list(&folder)?;
            findings.extend(
                names
                    .iter()
                    .map(|name| leftover(&**disk, &format!("{folder}/{name}"))),
            );
            continue;
        }
        if dir.len() != 2 || u8::from_str_radix(&dir, 16).is_err() {
            findings.push(stray(&**disk, &folder));
            continue;
        }
        for name in list(&folder)? {
            let path = format!("{folder}/{name}");
            let base = name.strip_suffix(".sum").unwrap_or(&name);
            let Some(segment) = segment_of(&dir, base) else {
                findings.push(stray(&**disk, &path));
                continue;
            };
            if base == name {
                found.insert(segment);
                looked.bases += 1;
                looked.base_bytes += one_base(disk, &path, segment, known, rebooted, findings)?;
            } else if !disk.exists(&format!("{folder}/{base}")).unwrap_or(true) {
                let what = format!("checksums of segment {segment}, whose base is not there");
                let remedy = "the next start heals the copy if the segment is still wanted here";
                findings.push(Finding::warning(disk.locate(&path), what, remedy));
            }
        }
    }
    for (segment, known) in known.into_iter().flatten() {
        if known.len > 0 && !found.contains(segment) {
            let path = format!(
                "{}/{:02x}/{:016x}",
                Folder::BASE,
                segment.0 as u8,
                segment.0
            );
            let what = format!(
                "the base of segment {segment} is missing; the journal says that it has {} bytes",
                known.len
            );
            findings.push(Finding::damage(disk.locate(&path), what, HEAL));
        }
    }
    Ok(())
}

/// One base against its checksums and against what the journal says; its length.
fn one_base(
    disk: &Arc<dyn Disk>,
    path: &str,
    segment: SegmentId,
    known: Option<&BTreeMap<SegmentId, Known>>,
    rebooted: bool,
    findings: &mut Vec<Finding>,
) -> Result<u64, StoreError> {
    let shown = disk.locate(path);
    let unreadable = |error: StoreError| {
        let remedy = format!("{HEAL}. Look at the disk itself: `dmesg`, `smartctl`");
        Finding::damage(shown.clone(), error.to_string(), remedy)
    };
    findings.extend(sums_file(disk, path, &shown, rebooted)?);
    let base = match BaseFile::open(&**disk, path, false) {
        Ok(Some(base)) => base,
        Ok(None) => return Ok(0),
        Err(error) => {
            findings.push(unreadable(error));
            return Ok(0);
        }
    };
    let len = base.len()?;
    let mut bad: Vec<(u64, u64)> = Vec::new();
    let mut block = 0;
    loop {
        match base.verify(block) {
            Ok(true) => {}
            Ok(false) => break,
            Err(StoreError::Damaged { .. }) => match bad.last_mut() {
                Some((_, end)) if *end == block => *end += 1,
                _ => bad.push((block, block + 1)),
            },
            Err(error) => {
                findings.push(unreadable(error));
                break;
            }
        }
        block += 1;
    }
    for (first, end) in bad.iter().take(RANGES_MAX) {
        let what = format!(
            "the checksum of {} of segment {segment} does not match",
            blocks(*first, *end)
        );
        findings.push(judged(
            Finding::damage(shown.clone(), what, HEAL).at(first * SUM_BLOCK_BYTES),
            rebooted,
        ));
    }
    if bad.len() > RANGES_MAX {
        let what = format!("{} more damaged ranges", bad.len() - RANGES_MAX);
        findings.push(judged(Finding::damage(shown.clone(), what, HEAL), rebooted));
    }
    findings.extend(size(&shown, len, segment, known, rebooted));
    Ok(len)
}

fn blocks(first: u64, end: u64) -> String {
    let kib = SUM_BLOCK_BYTES >> 10;
    match end - first {
        1 => format!("the block of {kib} KiB at byte {}", first * SUM_BLOCK_BYTES),
        n => format!(
            "{n} blocks of {kib} KiB from byte {}",
            first * SUM_BLOCK_BYTES
        ),
    }
}

/// After a power cut bases may lack what the journal still has: the next start writes that again.
fn judged(finding: Finding, rebooted: bool) -> Finding {
    if !rebooted {
        return finding;
    }
    Finding {
        severity: Severity::Warning,
        remedy: format!(
            "the machine booted since the member ran, and its next start writes again what the journal has: start it, stop it, check again. If it stays: {HEAL}"
        ),
        ..finding
    }
}

fn sums_file(
    disk: &Arc<dyn Disk>,
    path: &str,
    shown: &str,
    rebooted: bool,
) -> Result<Option<Finding>, StoreError> {
    let sums = sum_path(path);
    let failed = |error| StoreError::io("read", disk.locate(&sums), error);
    if !disk.exists(&sums).map_err(failed)? {
        let what = "it has no checksums: its content cannot be checked here";
        let remedy =
            "start the member: it makes new ones and compares the copy with the other members'";
        return Ok(Some(judged(Finding::damage(shown, what, remedy), rebooted)));
    }
    let file = disk.open_file(&sums, false).map_err(failed)?;
    if Sums::is_headed(&*file).map_err(failed)? {
        return Ok(None);
    }
    let what = "its file of checksums is empty or unreadable: its content may not be checked here";
    let remedy =
        "start the member: it mends the file and compares the copy with the other members'";
    Ok(Some(judged(
        Finding::damage(disk.locate(&sums), what, remedy),
        rebooted,
    )))
}

fn size(
    shown: &str,
    len: u64,
    segment: SegmentId,
    known: Option<&BTreeMap<SegmentId, Known>>,
    rebooted: bool,
) -> Option<Finding> {
    let Some(known) = known?.get(&segment) else {
        let what = format!("the journal knows nothing of segment {segment}: this copy is not used");
        let remedy = "it may be deleted, with its .sum, once `hydfs status` is healthy";
        return Some(Finding::warning(shown, what, remedy));
    };
    if len < known.len {
        let what = format!(
            "{len} bytes long; the journal says that segment {segment} has {}",
            known.len
        );
        return Some(judged(Finding::damage(shown, what, HEAL).at(len), rebooted));
    }
    if len > known.len && !known.unsettled {
        let what = format!(
            "{len} bytes long, more than the {} that segment {segment} has",
            known.len
        );
        let remedy = "nothing: the rest is never read";
        return Some(Finding::warning(shown, what, remedy).at(known.len));
    }
    None
}

//! Savepoints: a job's committed positions and state under a name, `/.jobs/JOB/savepoints/NAME/`. Its last file, `savepoint`,
//! makes it exist, and says how long the others are and what their checksums are: what a leader that died has left is no savepoint.
//!
//! Two leaders may make the same one, the earlier not knowing yet that it leads no more: no try writes a file of another's, none is
//! removed before there is a savepoint, and what is at the front of `savepoint` counts.

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::position::{Inherited, Positions};
use crate::prepare::{SpecFile, is_job_name};
use crate::seams::{Owner, Source, Storage, StorageError, StorageResult};
use crate::spec_tree::{Fault, Table};
use bytes::{BufMut, Bytes, BytesMut};
use hydfs_types::{JobInfo, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Largest file that makes a savepoint: the largest positions there are, and a little.
const BYTES_MAX: usize = 5 << 20;

/// What that file holds, behind its length and checksum.
#[derive(Serialize, Deserialize)]
struct Saved {
    job: String,
    epoch: u64,
    /// With the names of files beside it in place of paths.
    positions: Bytes,
    /// The CRC-32C of each of them. Earlier versions end before it.
    checksums: BTreeMap<String, u32>,
}

/// A savepoint.
pub struct Savepoint {
    pub epoch: u64,
    /// All state is inherited.
    pub positions: Positions,
    /// By path.
    checksums: BTreeMap<String, u32>,
}

/// Whether a savepoint can be called so: 1 to 64 letters, digits, `_` and `-`.
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= 64 && name.chars().all(good)
}

/// A savepoint as a spec names it.
#[derive(Debug, Clone)]
pub struct StartSpec {
    pub at: usize,
    pub job: String,
    pub name: String,
}

/// The savepoint that `[job]` of a spec says it begins from.
pub fn start(job: &Table<'_>) -> Result<Option<StartSpec>, Fault> {
    let Some(node) = job.get("start") else {
        return Ok(None);
    };
    let (text, at) = Table::of(node, "start", &["savepoint"])?.need_text("savepoint")?;
    match text.split_once('/') {
        Some((job, name)) if is_name(name) && is_job_name(job) => Ok(Some(StartSpec {
            at,
            job: job.to_owned(),
            name: name.to_owned(),
        })),
        _ => {
            let what = format!("`savepoint = \"{text}\"` is no savepoint");
            let remedy = "write the job and the name that its `control` was given: \"JOB/NAME\"";
            Err(Fault::new(at, what, remedy))
        }
    }
}

fn folder(job: &str, name: &str) -> String {
    format!("/.jobs/{job}/savepoints/{name}")
}

/// The savepoint `name` of `job`, as `owner` may read it; `None` if there is none, or not all of it.
pub async fn load(
    storage: &dyn Storage,
    (job, name): (&str, &str),
    owner: Owner,
) -> Result<Option<Savepoint>> {
    let folder = folder(job, name);
    let path = format!("{folder}/savepoint");
    let bytes = match storage.read_small(&path, owner, BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(StorageError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let whole = || {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let body = rest.get(..u32::from_le_bytes(*len) as usize)?;
        (crc32c::crc32c(body) == u32::from_le_bytes(*crc)).then_some(body)
    };
    let Some(body) = whole() else {
        return Ok(None);
    };
    // The byte behind the end stands for no checksums.
    let saved: Saved = hydfs_types::decode(body)
        .or_else(|error| hydfs_types::decode(&[body, &[0]].concat()).map_err(|_| error))?;
    let mut positions = Positions::decode(&saved.positions)?;
    for file in files(&mut positions) {
        if file.path.contains('/') {
            return Err(Error::Job(format!(
                "{path} names a file that is not beside it"
            )));
        }
        file.path = format!("{folder}/{}", file.path);
        let there = match storage.pin(&file.path, owner).await {
            Ok(source) => source.len,
            Err(StorageError::NotFound(_)) => 0,
            Err(error) => return Err(error.into()),
        };
        if there < file.bytes {
            let what = format!("{} has {there} of {} bytes", file.path, file.bytes);
            return Err(Error::Job(format!("{what}: the savepoint is not whole")));
        }
    }
    let checksums = saved.checksums.into_iter();
    Ok(Some(Savepoint {
        epoch: saved.epoch,
        positions,
        checksums: checksums
            .map(|(name, crc)| (format!("{folder}/{name}"), crc))
            .collect(),
    }))
}

/// Whether the savepoint that a job begins from is what was written, if it begins from one. Reads all of it.
pub async fn check(driver: &Driver, positions: &Positions, spec: &SpecFile) -> Result<()> {
    let border = positions.border.as_ref();
    let start = border.and_then(|border| border.savepoint.as_deref());
    let Some((job, name)) = start.and_then(|start| start.split_once('/')) else {
        return Ok(());
    };
    let storage = &*driver.storage;
    let Some(mut saved) = load(storage, (job, name), spec.owner).await? else {
        let what = "its savepoint was removed meanwhile";
        return Err(Error::Spec(format!("{}: {what}", spec.path)));
    };
    let checksums = saved.checksums;
    let all: BTreeSet<Inherited> = files(&mut saved.positions)
        .map(|file| file.clone())
        .collect();
    for file in all {
        let Some(&want) = checksums.get(&file.path) else {
            continue;
        };
        let source = storage.pin(&file.path, spec.owner).await?;
        let (mut at, mut crc) = (0, 0);
        while at < file.bytes {
            let bytes = piece(storage, &source, &file, at).await?;
            at += bytes.len() as u64;
            crc = crc32c::crc32c_append(crc, &bytes);
            driver.beat.step();
        }
        if crc != want {
            let what = format!("{} is not what was written there", file.path);
            let remedy = "take another savepoint, or leave `start` out";
            return Err(Error::Spec(format!("{}: {what}; {remedy}", spec.path)));
        }
    }
    Ok(())
}

fn files(positions: &mut Positions) -> impl Iterator<Item = &mut Inherited> {
    let tasks = positions.tasks.iter_mut().flatten();
    tasks.flat_map(|task| &mut task.inherits)
}

/// Makes the savepoint `name` of a job as it is now; what there is to say about it.
pub async fn save(driver: &Driver, job: &JobInfo, name: &str) -> Result<String> {
    let storage = &*driver.storage;
    let folder = folder(&job.name, name);
    let path = format!("{folder}/savepoint");
    match load(storage, (&job.name, name), Owner::ROOT).await {
        Ok(Some(known)) => {
            let what = format!("savepoint `{name}` is there, of job epoch {}", known.epoch);
            return Ok(format!(
                "{what}; another needs another name, or its folder removed"
            ));
        }
        // It was not written wholly, or files of it are gone.
        Ok(None) | Err(Error::Job(_)) => storage.remove(&path, None).await?,
        Err(error) => return Err(error),
    }
    let _hold = driver.copying.hold(job.id);
    // As it is now that nothing of it goes away.
    let job = driver.job(job.id).ok_or(Error::Over)?;
    let owner = Owner {
        uid: job.uid,
        gid: job.gid,
    };
    let mut positions = Positions::decode(&job.positions)?;
    let draft = draft(driver, &job, &list(storage, &folder).await?);
    let mut names: BTreeMap<Inherited, String> = BTreeMap::new();
    for (node, tasks) in (0..).zip(&mut positions.tasks) {
        for (task, position) in (0..).zip(tasks) {
            position.inherits = position.states(&job, node, task);
            position.state = None;
            for file in &mut position.inherits {
                let number = names.len();
                let name = names.entry(file.clone());
                let name = name.or_insert_with(|| format!("{draft}{number}"));
                file.path.clone_from(name);
            }
        }
    }
    let mut checksums = BTreeMap::new();
    for (file, name) in names {
        let to = format!("{folder}/{name}");
        checksums.insert(name, copy(driver, &file, &to, owner).await?);
    }
    let saved = Saved {
        job: job.name.clone(),
        epoch: job.epoch.0,
        positions: positions.encode(),
        checksums,
    };
    let body = hydfs_types::encode(&saved);
    let mut bytes = BytesMut::with_capacity(body.len() + 8);
    bytes.put_u32_le(body.len() as u32);
    bytes.put_u32_le(crc32c::crc32c(&body));
    bytes.extend_from_slice(&body);
    append(storage, &path, owner, bytes.freeze()).await?;
    let Some(mut made) = load(storage, (&job.name, name), Owner::ROOT).await? else {
        let what = format!("{path} was written by two leaders at once");
        return Err(Error::Attempt(what));
    };
    // Now that there is one, nobody needs what other tries have left.
    let epoch = made.epoch;
    let needed: BTreeSet<String> = files(&mut made.positions)
        .map(|file| file.path.clone())
        .collect();
    for left in list(storage, &folder).await? {
        let left = format!("{folder}/{left}");
        if left != path && !needed.contains(&left) {
            storage.remove(&left, None).await?;
        }
    }
    Ok(format!("savepoint `{name}` is made, of job epoch {epoch}"))
}

/// What the names of one try's files begin with: like those of no other leader, and of no try before.
fn draft(driver: &Driver, job: &JobInfo, there: &[String]) -> String {
    let (life, attempt) = (driver.options.life, job.attempt.0);
    let tries = (1..).map(|number: u32| format!("{life:x}.{attempt}.{number}."));
    let is_new = |draft: &String| !there.iter().any(|name| name.starts_with(draft.as_str()));
    let mut new = tries.filter(is_new);
    new.next().unwrap_or_default()
}

async fn list(storage: &dyn Storage, folder: &str) -> StorageResult<Vec<String>> {
    match storage.list(folder).await {
        Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
        Err(StorageError::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The next bytes of a file of state, as many as a record takes.
async fn piece(storage: &dyn Storage, source: &Source, file: &Inherited, at: u64) -> Result<Bytes> {
    let len = (file.bytes - at).min(PAYLOAD_BYTES_MAX as u64) as u32;
    let bytes = storage.read(source, at, len).await?;
    match bytes.is_empty() {
        false => Ok(bytes),
        true => {
            let what = format!("{} ends at {at} of {}", file.path, file.bytes);
            Err(Error::Attempt(what))
        }
    }
}

/// The checksum of what was copied.
async fn copy(driver: &Driver, from: &Inherited, to: &str, owner: Owner) -> Result<u32> {
    let storage = &*driver.storage;
    let source = storage.pin(&from.path, Owner::ROOT).await?;
    let (mut at, mut crc) = (0, 0);
    while at < from.bytes {
        let bytes = piece(storage, &source, from, at).await?;
        at += bytes.len() as u64;
        crc = crc32c::crc32c_append(crc, &bytes);
        storage.append_text(to, owner, bytes).await?;
        driver.beat.step();
    }
    Ok(crc)
}

async fn append(storage: &dyn Storage, to: &str, owner: Owner, mut bytes: Bytes) -> Result<()> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PAYLOAD_BYTES_MAX));
        storage.append_text(to, owner, piece).await?;
    }
    Ok(())
}

//! Savepoints: a job's committed positions and state under a name, `/.jobs/JOB/savepoints/NAME/`. Its last file, `savepoint`,
//! makes it exist: what a leader that died has left is no savepoint, and is removed by the next try.

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::position::{Inherited, Positions};
use crate::prepare::is_job_name;
use crate::seams::{Owner, Storage, StorageError, StorageResult};
use crate::spec_tree::{Fault, Table};
use bytes::{BufMut, Bytes, BytesMut};
use hydfs_types::{JobInfo, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest file that makes a savepoint: the largest positions there are, and a little.
const BYTES_MAX: usize = 5 << 20;

/// What that file holds, behind its length and checksum.
#[derive(Serialize, Deserialize)]
struct Saved {
    job: String,
    epoch: u64,
    /// With the names of files beside it in place of paths.
    positions: Bytes,
}

/// A savepoint.
pub struct Savepoint {
    pub epoch: u64,
    /// All state is inherited.
    pub positions: Positions,
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
    // Two leaders may have written it, one after the other: either is whole.
    let whole = || {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let body = rest.get(..u32::from_le_bytes(*len) as usize)?;
        (crc32c::crc32c(body) == u32::from_le_bytes(*crc)).then_some(body)
    };
    let Some(body) = whole() else {
        return Ok(None);
    };
    let saved: Saved = hydfs_types::decode(body)?;
    let mut positions = Positions::decode(&saved.positions)?;
    for file in files(&mut positions) {
        if file.path.contains('/') {
            return Err(Error::Job(format!(
                "{path} names a file that is not beside it"
            )));
        }
        file.path = format!("{folder}/{}", file.path);
        let there = storage.pin(&file.path, owner).await?.len;
        if there < file.bytes {
            let what = format!("{} has {there} of {} bytes", file.path, file.bytes);
            return Err(Error::Job(format!("{what}: the savepoint is not whole")));
        }
    }
    Ok(Some(Savepoint {
        epoch: saved.epoch,
        positions,
    }))
}

fn files(positions: &mut Positions) -> impl Iterator<Item = &mut Inherited> {
    let tasks = positions.tasks.iter_mut().flatten();
    tasks.flat_map(|task| &mut task.inherits)
}

/// Makes the savepoint `name` of a job as it is now; what there is to say about it.
pub async fn save(driver: &Driver, job: &JobInfo, name: &str) -> Result<String> {
    let storage = &*driver.storage;
    let folder = folder(&job.name, name);
    if let Some(known) = load(storage, (&job.name, name), Owner::ROOT).await? {
        let what = format!("savepoint `{name}` is there, of job epoch {}", known.epoch);
        return Ok(format!(
            "{what}; another needs another name, or its folder removed"
        ));
    }
    let _hold = driver.copying.hold(job.id);
    // As it is now that nothing of it goes away.
    let job = driver.job(job.id).ok_or(Error::Over)?;
    let owner = Owner {
        uid: job.uid,
        gid: job.gid,
    };
    for left in list(storage, &folder).await? {
        storage.remove(&format!("{folder}/{left}"), None).await?;
    }
    let mut positions = Positions::decode(&job.positions)?;
    let mut names: BTreeMap<Inherited, String> = BTreeMap::new();
    for (node, tasks) in (0..).zip(&mut positions.tasks) {
        for (task, position) in (0..).zip(tasks) {
            position.inherits = position.states(&job, node, task);
            position.state = None;
            for file in &mut position.inherits {
                // No other leader writes a file of this name.
                let number = names.len();
                let name = names.entry(file.clone());
                let name = name.or_insert_with(|| format!("{number}.{:x}", driver.options.life));
                file.path.clone_from(name);
            }
        }
    }
    for (file, name) in &names {
        copy(storage, file, &format!("{folder}/{name}"), owner).await?;
    }
    let saved = Saved {
        job: job.name.clone(),
        epoch: job.epoch.0,
        positions: positions.encode(),
    };
    let body = hydfs_types::encode(&saved);
    let mut bytes = BytesMut::with_capacity(body.len() + 8);
    bytes.put_u32_le(body.len() as u32);
    bytes.put_u32_le(crc32c::crc32c(&body));
    bytes.extend_from_slice(&body);
    append(
        storage,
        &format!("{folder}/savepoint"),
        owner,
        bytes.freeze(),
    )
    .await?;
    Ok(format!(
        "savepoint `{name}` is made, of job epoch {}",
        job.epoch
    ))
}

async fn list(storage: &dyn Storage, folder: &str) -> StorageResult<Vec<String>> {
    match storage.list(folder).await {
        Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
        Err(StorageError::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn copy(storage: &dyn Storage, from: &Inherited, to: &str, owner: Owner) -> Result<()> {
    let source = storage.pin(&from.path, Owner::ROOT).await?;
    let mut at = 0;
    while at < from.bytes {
        let len = (from.bytes - at).min(PAYLOAD_BYTES_MAX as u64) as u32;
        let bytes = storage.read(&source, at, len).await?;
        if bytes.is_empty() {
            let what = format!("{} ends at {at} of {}", from.path, from.bytes);
            return Err(Error::Attempt(what));
        }
        at += bytes.len() as u64;
        storage.append_text(to, owner, bytes).await?;
    }
    Ok(())
}

async fn append(storage: &dyn Storage, to: &str, owner: Owner, mut bytes: Bytes) -> Result<()> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PAYLOAD_BYTES_MAX));
        storage.append_text(to, owner, piece).await?;
    }
    Ok(())
}

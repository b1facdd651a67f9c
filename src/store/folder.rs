//! The data folder: who it belongs to (`DIR/format`, readable by people) and the folders in it.

use crate::{
    Disk, RealDisk, Result, StoreError,
    disk::{read_bytes, replace_file},
    marked::{MARK, Mark, MarkedDisk},
};
use hydfs_types::{BootId, ClusterId, MemberId, StorageId};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Format of data folders that this binary writes and reads.
const FORMAT: u16 = 4;
const PATH: &str = "format";
const HEADING: &str = "# The data folder of one HyDFS member. Do not edit, and do not copy a folder: its copy is refused.\n";

/// `DIR/format`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    format: u16,
    name: String,
    storage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<u64>,
    start_count: u64,
    /// The machine's boot at the last start.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// The machine lost power, and not everything has been written again and compared since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    torn: bool,
    /// How often the end of the journal was lost though the machine was up.
    #[serde(default, skip_serializing_if = "is_zero")]
    losses: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Of a newer format only this may be known.
#[derive(Deserialize)]
struct Version {
    format: u16,
}

/// What a data folder's `format` file says, without opening the folder for a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderIdentity {
    /// The member's name.
    pub name: String,
    /// Drawn when the folder was made, in hex.
    pub storage: String,
    /// The cluster, in hex, once joined.
    pub cluster: Option<String>,
    /// The member id, once admitted.
    pub member: Option<u64>,
    /// Starts so far.
    pub start_count: u64,
    /// The machine booted since the last start, or since one after which not all was made good again: what was not synced
    /// may be missing until the next start.
    pub rebooted: bool,
    /// What makes the folder's logs its own ([`crate::LogOptions::salt`]).
    #[serde(skip)]
    pub salt: u64,
}

/// An open data folder. Nobody else has it open.
pub struct Folder {
    disk: Arc<dyn Disk>,
    name: String,
    storage: StorageId,
    boot: BootId,
    rebooted: bool,
    sync_failed: bool,
    mark: Arc<Mark>,
    format: Mutex<Format>,
}

impl Folder {
    /// Below the folder: the agreement log.
    pub const RAFT: &str = "raft";
    /// Below the folder: the record journal.
    pub const JOURNAL: &str = "journal";
    /// Below the folder: bases.
    pub const BASE: &str = "base";
    /// Below the folder: what can be made again.
    pub const CACHE: &str = "cache";

    /// Reads whose folder `disk` is; `None` where there is no `format` file. Changes nothing.
    pub fn identify(disk: &dyn Disk) -> Result<Option<FolderIdentity>> {
        let Some(format) = load(disk)? else {
            return Ok(None);
        };
        let path = disk.locate(PATH);
        let storage: StorageId = parse(&path, "storage", &format.storage)?;
        if let Some(cluster) = &format.cluster {
            let _: ClusterId = parse(&path, "cluster", cluster)?;
        }
        let boot = BootId(kernel_id("boot_id")?).to_string();
        Ok(Some(FolderIdentity {
            name: format.name,
            salt: salt_of(storage),
            storage: format.storage,
            cluster: format.cluster,
            member: format.member,
            start_count: format.start_count,
            rebooted: format.torn
                || Self::is_marked(disk)?
                || format.boot.is_some_and(|last| last != boot),
        }))
    }

    /// Whether the folder says that a sync has failed, and that no start has made it good.
    pub fn is_marked(disk: &dyn Disk) -> Result<bool> {
        disk.exists(MARK)
            .map_err(|error| StoreError::io("look for", disk.locate(MARK), error))
    }

    /// Opens (or makes) the data folder `dir` of the member `name`, locks it, and counts this start.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        Self::open_through(dir, name, |disk| disk)
    }

    /// As [`Folder::open`], with everything going through what `wrap` puts over the machine's disk.
    pub fn open_through(
        dir: &Path,
        name: &str,
        wrap: impl FnOnce(Arc<dyn Disk>) -> Arc<dyn Disk>,
    ) -> Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir)?);
        Self::on(
            wrap(disk),
            name,
            StorageId(kernel_id("uuid")?),
            BootId(kernel_id("boot_id")?),
        )
    }

    /// As [`Folder::open`], on any disk. `fresh` becomes the storage id if the folder is new.
    pub fn on(disk: Arc<dyn Disk>, name: &str, fresh: StorageId, boot: BootId) -> Result<Self> {
        let mark = Mark::new(Arc::clone(&disk));
        let disk: Arc<dyn Disk> = Arc::new(MarkedDisk {
            inner: disk,
            mark: Arc::clone(&mark),
        });
        let path = disk.locate(PATH);
        let mut format = match load(&*disk)? {
            Some(format) => format,
            None => new_format(&*disk, name, fresh)?,
        };
        if format.name != name {
            return Err(StoreError::OtherMember {
                path,
                found: format.name,
                wanted: name.into(),
            });
        }
        let storage = parse(&path, "storage", &format.storage)?;
        if let Some(cluster) = &format.cluster {
            let _: ClusterId = parse(&path, "cluster", cluster)?;
        }
        for dir in [Self::RAFT, Self::JOURNAL, Self::BASE, Self::CACHE] {
            disk.create_dir_all(dir)
                .map_err(|error| StoreError::io("make", disk.locate(dir), error))?;
        }
        format.start_count += 1;
        let sync_failed = Self::is_marked(&*disk)?;
        let last_boot = format.boot.replace(boot.to_string());
        let rebooted =
            format.torn || sync_failed || last_boot.is_some_and(|last| last != boot.to_string());
        // With the boot, in one step: a start that is killed before it has made good what is missing has made nothing good.
        format.torn = rebooted;
        save(&*disk, &format)?;
        Ok(Self {
            disk,
            name: name.into(),
            storage,
            boot,
            rebooted,
            sync_failed,
            mark,
            format: Mutex::new(format),
        })
    }

    fn format(&self) -> MutexGuard<'_, Format> {
        self.format.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk whose root is this folder.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The member's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drawn when the folder was made.
    pub fn storage(&self) -> StorageId {
        self.storage
    }

    /// What makes this folder's logs its own ([`crate::LogOptions::salt`]).
    pub fn salt(&self) -> u64 {
        salt_of(self.storage)
    }

    /// The machine's present boot; another one after each [`Folder::lose`].
    pub fn boot(&self) -> BootId {
        let mut boot = self.boot;
        let losses = self.format().losses.to_le_bytes();
        boot.0
            .iter_mut()
            .zip(losses)
            .for_each(|(byte, loss)| *byte ^= loss);
        boot
    }

    /// Whether the machine booted since the last start, or since one that did not come to [`Folder::made_good`], or a sync
    /// failed: what was not synced then may be lost.
    pub fn rebooted(&self) -> bool {
        self.rebooted
    }

    /// Whether a sync has failed in an earlier life, as far as that could be noted, and no start came to
    /// [`Folder::settled`] since.
    pub fn sync_failed(&self) -> bool {
        self.sync_failed
    }

    /// Everything that a power loss may have taken was written again and compared: the next start need not. Durable.
    pub fn made_good(&self) -> Result<()> {
        self.update(|format| {
            format.torn = false;
            Ok(())
        })
    }

    /// What was written and not synced may be lost though the machine is up, as after a failed sync, which notes it by itself:
    /// the next start looks how far its journal goes, writes bases again from it and compares them. For this boot.
    pub fn doubt(&self) {
        self.mark.make();
    }

    /// The end of the journal is gone though the machine is up, so that this member comes back as after a power loss: with
    /// another boot in everybody's eyes. Durable.
    pub fn lose(&self) -> Result<()> {
        self.update(|format| {
            format.losses += 1;
            format.torn = true;
            Ok(())
        })
    }

    /// What a failed sync of an earlier life may have taken from the journal is known, and what is left is on disk.
    pub fn settled(&self) -> Result<()> {
        self.mark
            .remove()
            .map_err(|error| StoreError::io("remove", self.disk.locate(MARK), error))
    }

    /// Starts so far, this one included.
    pub fn start_count(&self) -> u64 {
        self.format().start_count
    }

    /// Counts one more start, durably: a member that was expired while it ran asks for admission anew.
    pub fn count_start(&self) -> Result<u64> {
        self.update(|format| {
            format.start_count += 1;
            Ok(())
        })?;
        Ok(self.start_count())
    }

    /// The cluster, once the member has joined one.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.format()
            .cluster
            .as_ref()
            .and_then(|text| text.parse().ok())
    }

    /// The member id, once admitted.
    pub fn member(&self) -> Option<MemberId> {
        self.format().member.map(MemberId)
    }

    /// Binds the folder to a cluster, durably; refused if it belongs to another one.
    pub fn set_cluster(&self, cluster: ClusterId) -> Result<()> {
        self.update(|format| {
            let wanted = cluster.to_string();
            match &format.cluster {
                Some(found) if *found != wanted => Err(StoreError::OtherCluster {
                    path: self.disk.locate(PATH),
                    found: found.clone(),
                    wanted,
                }),
                _ => {
                    format.cluster = Some(wanted);
                    Ok(())
                }
            }
        })
    }

    /// Notes the member id, durably.
    pub fn set_member(&self, member: MemberId) -> Result<()> {
        self.update(|format| {
            format.member = Some(member.0);
            Ok(())
        })
    }

    fn update(&self, change: impl FnOnce(&mut Format) -> Result<()>) -> Result<()> {
        let mut format = self.format();
        let mut changed = format.clone();
        change(&mut changed)?;
        if changed != *format {
            save(&*self.disk, &changed)?;
            *format = changed;
        }
        Ok(())
    }
}

fn salt_of(storage: StorageId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = storage.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Reads `DIR/format`, if there is one.
fn load(disk: &dyn Disk) -> Result<Option<Format>> {
    let path = disk.locate(PATH);
    let failed = |error| StoreError::io("read", path.clone(), error);
    if !disk.exists(PATH).map_err(failed)? {
        return Ok(None);
    }
    let file = disk.open_file(PATH, false).map_err(failed)?;
    let bytes = read_bytes(&*file, 0, file.len().map_err(failed)? as usize).map_err(failed)?;
    let bad = |error: &dyn Display| StoreError::Damaged {
        path: path.clone(),
        offset: 0,
        why: error.to_string(),
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| bad(&error))?;
    let version: Version = toml::from_str(text).map_err(|error| bad(&error.message()))?;
    if version.format < FORMAT {
        let why = format!(
            "it was written by an earlier build (format {}, this one reads {FORMAT}): start with an empty folder",
            version.format
        );
        return Err(StoreError::NotUsable { path, why });
    }
    if version.format > FORMAT {
        return Err(StoreError::Newer {
            path: path.clone(),
            found: version.format,
            supported: FORMAT,
        });
    }
    toml::from_str(text)
        .map(Some)
        .map_err(|error| bad(&error.message()))
}

/// The format of a folder that has none: refused if other things are in it, which may be data whose format is lost.
fn new_format(disk: &dyn Disk, name: &str, storage: StorageId) -> Result<Format> {
    let path = disk.locate("");
    for dir in [Folder::RAFT, Folder::JOURNAL, Folder::BASE] {
        let used = disk
            .exists(dir)
            .map_err(|error| StoreError::io("read", path.clone(), error))?;
        if used
            && !disk
                .list(dir)
                .map_err(|error| StoreError::io("list", path.clone(), error))?
                .is_empty()
        {
            let why = format!(
                "it holds data in {dir}/ and no file \"{PATH}\" that says whose: put that file back, or empty the folder"
            );
            return Err(StoreError::NotUsable { path, why });
        }
    }
    Ok(Format {
        format: FORMAT,
        name: name.into(),
        storage: storage.to_string(),
        cluster: None,
        member: None,
        start_count: 0,
        boot: None,
        torn: false,
        losses: 0,
    })
}

fn save(disk: &dyn Disk, format: &Format) -> Result<()> {
    let path = disk.locate(PATH);
    let text = toml::to_string(format).map_err(|error| StoreError::Malformed {
        what: path.clone(),
        why: error.to_string(),
    })?;
    replace_file(disk, PATH, format!("{HEADING}{text}").as_bytes())
        .map_err(|error| StoreError::io("write", path, error))
}

fn parse<T: FromStr<Err: Display>>(path: &str, key: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| StoreError::Damaged {
        path: path.into(),
        offset: 0,
        why: format!("{key}: {error}"),
    })
}

/// An id that the kernel offers below `/proc/sys/kernel/random`.
fn kernel_id(which: &str) -> Result<[u8; 16]> {
    let path = format!("/proc/sys/kernel/random/{which}");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| StoreError::io("read", path.clone(), error))?;
    let id: StorageId = parse(&path, which, &text.trim().replace('-', ""))?;
    Ok(id.0)
}

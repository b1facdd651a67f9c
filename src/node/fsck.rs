//! `hydfs fsck`: a stopped member's data folder, checked offline with the decoders of a start. Never writes.

use crate::config::{CONTROL_SOCKET, WORKER_PID_FILE};
use hydfs_store::{
    Disk, Folder, FolderIdentity, FrozenDisk, LogOptions, StoreError,
    check::{self, Finding, Looked},
};
use serde::Serialize;
use std::{cmp::Reverse, path::Path, sync::Arc};

/// Names that members and commands keep in the folder besides the store's own.
const OTHERS: [&str; 7] = [
    CONTROL_SOCKET,
    WORKER_PID_FILE,
    "supervisor.pid",
    "lock",
    "member.toml",
    "member.toml.new",
    "member.log",
];

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderReport {
    pub folder: String,
    /// Nothing was found.
    pub clean: bool,
    /// Whose folder it is; `None` if that cannot be read.
    pub identity: Option<FolderIdentity>,
    #[serde(flatten)]
    pub looked: Looked,
    pub agreement_entries: u64,
    pub findings: Vec<Finding>,
}

/// Checks the folder `dir`. An error says why it could not be checked: a member runs on it, it is no data folder, or it
/// cannot be read. Time and memory grow with its bytes and with the entries of its journal.
pub fn fsck(dir: &Path) -> Result<FolderReport, StoreError> {
    let disk: Arc<dyn Disk> = Arc::new(FrozenDisk::open(dir)?);
    let mut findings = Vec::new();
    let identity = identify(&*disk, &mut findings)?;
    let rebooted = identity.as_ref().is_some_and(|one| one.rebooted);
    let options = identity.as_ref().map(|one| LogOptions::new(one.salt));
    findings.extend(check::strays(&*disk, &OTHERS)?);
    let agreement_entries = match options {
        Some(options) => agreement(&disk, options, &mut findings)?,
        None => 0,
    };
    let (looked, found) = check::data(&disk, options, rebooted)?;
    findings.extend(found);
    findings.sort_by_key(|finding| Reverse(finding.severity));
    Ok(FolderReport {
        folder: dir.display().to_string(),
        clean: findings.is_empty(),
        identity,
        looked,
        agreement_entries,
        findings,
    })
}

fn identify(
    disk: &dyn Disk,
    findings: &mut Vec<Finding>,
) -> Result<Option<FolderIdentity>, StoreError> {
    let format = disk.locate("format");
    let lost = "without it nobody knows whose folder this is, and the logs cannot be checked: put the file back, or move the folder away and start the member with an empty one";
    match Folder::identify(disk) {
        Ok(Some(identity)) => Ok(Some(identity)),
        Ok(None) => {
            let holds = |dir| disk.exists(dir).unwrap_or(false);
            if ![Folder::RAFT, Folder::JOURNAL, Folder::BASE]
                .into_iter()
                .any(holds)
            {
                return Err(StoreError::NotUsable {
                    path: disk.locate(""),
                    why: "it is not the data folder of a member: name the folder that --data named"
                        .into(),
                });
            }
            findings.push(Finding::damage(format, "the file is missing", lost));
            Ok(None)
        }
        Err(StoreError::Damaged { why, .. }) => {
            findings.push(Finding::damage(
                format,
                format!("it cannot be read: {why}"),
                lost,
            ));
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

fn agreement(
    disk: &Arc<dyn Disk>,
    options: LogOptions,
    findings: &mut Vec<Finding>,
) -> Result<u64, StoreError> {
    findings.extend(check::log_files(
        &**disk,
        Folder::RAFT,
        options,
        &["snapshot-"],
    )?);
    match hydfs_agreement::check(Arc::clone(disk), Folder::RAFT, options) {
        Ok(checked) => Ok(checked.entries),
        Err(error) => {
            let dir = disk.locate(Folder::RAFT);
            findings.push(match &error {
                hydfs_agreement::Error::Log(error) => Finding::of_log(&dir, error),
                other => Finding::of_log(
                    &dir,
                    &StoreError::Malformed {
                        what: "the agreement log or its snapshot".into(),
                        why: other.to_string(),
                    },
                ),
            });
            Ok(0)
        }
    }
}

//! The headers of CSV files: each file that a job writes begins with one, however many tasks and attempts write it.
//!
//! Of files that a plan names the coordinator writes it, before any task of the attempt may write: whoever finds the file empty when its
//! attempt begins, once all earlier attempts have ended. It becomes visible with the attempt's first job epoch, so an attempt that comes to
//! nothing leaves no header, and the one after a committed header finds it. Files that are made over time, one for each value of a column,
//! are each written by one task (`resolve_sinks`), which begins them in the same way.

use crate::error::Result;
use crate::layout::Layout;
use crate::plan::{Plan, default_output};
use crate::prepare::{self, Fail};
use crate::receipt::Writes;
use crate::seams::{Owner, Storage, StorageError};
use crate::sink::{Target, Writer};
use crate::spec::Spec;
use crate::spec_tree::Fault;
use futures_util::future::try_join_all;
use hydfs_types::{JobInfo, Seq, WriterId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Files that are begun at the same time.
const FILES_AT_ONCE: usize = 32;

/// Headers that become visible with the next job epoch.
#[derive(Default)]
pub struct Headers {
    writers: Vec<Writer>,
    written: BTreeMap<String, Writes>,
}

impl Headers {
    /// Begins the empty files of a plan. No task of the attempt runs yet.
    pub async fn begin(storage: &Arc<dyn Storage>, plan: &Plan, info: &JobInfo) -> Result<Self> {
        let files = plan.files();
        let due = files.filter_map(|(path, layout)| Some((path, layout.header()?)));
        // Several stages may write one file.
        let due: Vec<(String, Vec<u8>)> = due.collect::<BTreeMap<_, _>>().into_iter().collect();
        let mut headers = Self::default();
        let owner = Owner {
            uid: info.uid,
            gid: info.gid,
        };
        for some in due.chunks(FILES_AT_ONCE) {
            let begin = |(path, header): &(String, Vec<u8>)| {
                let target = Target {
                    storage: storage.clone(),
                    path: path.clone(),
                    owner,
                    job: info.id,
                    attempt: info.attempt,
                    exactly_once: plan.exactly_once,
                };
                begin(target, header.clone())
            };
            let begun = try_join_all(some.iter().map(begin)).await?;
            for ((path, header), writer) in some.iter().zip(begun) {
                let Some(writer) = writer else { continue };
                headers.writers.push(writer);
                let writes = headers.written.entry(path.clone()).or_default();
                writes.add(header);
            }
        }
        Ok(headers)
    }

    /// What was written, by file.
    pub fn written(&self) -> &BTreeMap<String, Writes> {
        &self.written
    }

    /// Waits until all are on disk everywhere; what has to be committed.
    pub async fn durable(&self) -> Result<Vec<(WriterId, Seq)>> {
        let marks: Vec<_> = self.writers.iter().filter_map(Writer::mark).collect();
        try_join_all(marks.iter().map(|mark| mark.durable())).await
    }
}

/// Writes the header of a file, if it is empty.
async fn begin(target: Target, header: Vec<u8>) -> Result<Option<Writer>> {
    if !is_empty(&*target.storage, &target.path).await? {
        return Ok(None);
    }
    let mut writer = Writer::new(target);
    writer.append([&header[..], b"\n"].concat().into()).await?;
    Ok(Some(writer))
}

/// Whether nothing is in a file, as of now or later.
pub async fn is_empty(storage: &dyn Storage, path: &str) -> Result<bool> {
    match storage.pin(path, Owner::ROOT).await {
        Ok(source) => Ok(source.len == 0),
        Err(StorageError::NotFound(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a job that would go on with a file that has another header, or none. The default output is replaced.
pub async fn check(
    storage: &dyn Storage,
    (spec, plan): (&Spec, &Plan),
    name: &str,
) -> Result<(), Fail> {
    let default = default_output(name);
    for (path, layout) in plan.files().filter(|(path, _)| *path != default) {
        let Layout::Csv(columns) = layout else {
            continue;
        };
        let at = spec.sink_at(&path);
        let of_file = |error| Fail::of(at, error, "name a file that can be read");
        let source = match storage.pin(&path, Owner::ROOT).await {
            Ok(source) if source.len > 0 => source,
            Ok(_) | Err(StorageError::NotFound(_)) => continue,
            Err(error) => return Err(of_file(error)),
        };
        let found = prepare::header(storage, &source, false).await;
        if found.map_err(of_file)?.map(|(names, _)| names).as_ref() != Some(columns) {
            let what = format!(
                "`{path}` holds something that does not begin with the header `{}`",
                columns.join(",")
            );
            let remedy = "write to another file, or remove this one first";
            return Err(Fail::Fault(Fault::new(at, what, remedy)));
        }
    }
    Ok(())
}

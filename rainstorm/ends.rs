//! Where a job may read and write: it never reads what it writes, or would write when it runs again, and never writes among the files
//! by which jobs are started and told of. A job that began before something was refused goes on.

use crate::glob;
use crate::plan::default_output;
use crate::prepare::Fail;
use crate::seams::{Storage, StorageError};
use crate::spec::Spec;
use crate::spec_tree::Fault;
use hydfs_types::FileKind;

/// The folder of a job's files.
pub fn own_folder(name: &str) -> String {
    format!("/.jobs/{name}")
}

/// What a sink writes, and where the spec says so.
struct Target {
    path: String,
    folder: bool,
    at: usize,
}

fn targets(spec: &Spec, name: &str) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for sink in &spec.sinks {
        let path = sink.path.clone();
        targets.push(Target {
            path: path.unwrap_or_else(|| default_output(name)),
            folder: sink.folder,
            at: sink.at,
        });
    }
    if targets.is_empty() {
        targets.push(Target {
            path: default_output(name),
            folder: false,
            at: spec.sources.first().map_or(0, |source| source.at),
        });
    }
    targets
}

/// Refuses sources and sinks that no job may have.
pub async fn check(storage: &dyn Storage, spec: &Spec, name: &str) -> Result<(), Fail> {
    let targets = targets(spec, name);
    no_circle(spec, name, &targets).map_err(Fail::Fault)?;
    for target in &targets {
        is_writable(storage, name, target).await?;
    }
    Ok(())
}

fn no_circle(spec: &Spec, name: &str, targets: &[Target]) -> Result<(), Fault> {
    let own = own_folder(name);
    for source in &spec.sources {
        let below = source.path.strip_prefix(&own);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let what = format!("`{}` is a file of this job itself", source.path);
            let remedy = "read something else, or give the job another name";
            return Err(Fault::new(source.at, what, remedy));
        }
        let fed = targets
            .iter()
            .find(|target| glob::may_name(&source.path, &target.path, target.folder));
        if let Some(Target { path, at, .. }) = fed {
            let what = format!(
                "`{path}` is in the source `{}`, which would read it",
                source.path
            );
            return Err(Fault::new(*at, what, "write it somewhere else"));
        }
    }
    Ok(())
}

/// A sink is a file, or where it ends with `/` a folder, and of the files of jobs only the job's own output.
async fn is_writable(storage: &dyn Storage, name: &str, target: &Target) -> Result<(), Fail> {
    let Target { path, folder, at } = target;
    let fault = |what: String, remedy: &str| Err(Fail::Fault(Fault::new(*at, what, remedy)));
    let default = default_output(name);
    let of_jobs = *path == "/.jobs" || path.starts_with("/.jobs/");
    if of_jobs && (*path != default || *folder) {
        let what = format!("the sink `{path}` is among the files of jobs");
        let remedy = format!("write it somewhere else, or leave `path` out: then it is {default}");
        return fault(what, &remedy);
    }
    match storage.stat(path).await {
        Ok(entry) => match (entry.kind, folder) {
            (FileKind::Regular, false) | (FileKind::Directory, true) => Ok(()),
            (FileKind::Directory, false) => fault(
                format!("the sink `{path}` is a directory"),
                "name a file in it, or end `path` with `/`: then it gets a file for each task or value",
            ),
            _ => fault(
                format!("the sink `{path}` is neither a file nor a directory as it should be"),
                "name another one, or remove what is there",
            ),
        },
        Err(StorageError::NotFound(_)) => Ok(()),
        Err(error) => Err(Fail::of(*at, error, "name a file that can be made")),
    }
}

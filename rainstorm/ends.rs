//! Where a job may read and write: it never reads what it writes, or would write when it runs again, and never writes among the files
//! by which jobs are started and told of. A job that began before something was refused goes on.

use crate::glob;
use crate::plan::{default_output, task_file};
use crate::prepare::Fail;
use crate::seams::{Storage, StorageError};
use crate::spec::{Spec, TASKS_MAX};
use crate::spec_tree::Fault;
use hydfs_types::FileKind;

/// The folder of a job's files.
pub fn own_folder(name: &str) -> String {
    format!("/.jobs/{name}")
}

/// What a sink writes, and where the spec says so.
pub struct Target {
    pub path: String,
    files: Files,
    at: usize,
}

/// What files a sink's path stands for.
enum Files {
    /// Itself.
    One,
    /// Those in it that are called so: one for each task.
    Tasks(Vec<String>),
    /// Any that are in it.
    Values,
}

impl Target {
    /// Whether a source of this path reads what it writes.
    pub fn is_read_by(&self, source: &str) -> bool {
        let folder = source.rsplit_once('/').unwrap_or_default();
        let is_file = match &self.files {
            Files::One => self.path == source,
            Files::Tasks(names) => {
                folder.0 == self.path && names.iter().any(|name| name == folder.1)
            }
            Files::Values => folder.0 == self.path,
        };
        is_file && !glob::is_pattern(source) || self.is_in(source)
    }

    /// Whether what it writes is in the directory, or called as the pattern says, that a source's path is.
    fn is_in(&self, source: &str) -> bool {
        let file = |name: &String| glob::may_name(source, &format!("{}/{name}", self.path), false);
        match &self.files {
            Files::One => glob::may_name(source, &self.path, false),
            Files::Tasks(names) => names.iter().any(file),
            Files::Values => glob::may_name(source, &self.path, true),
        }
    }
}

/// What a job of this name writes.
pub fn targets(spec: &Spec, name: &str) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for sink in &spec.sinks {
        let path = sink.path.clone();
        let names = sink.from.iter().flat_map(|from| {
            // Whatever the number of tasks will be.
            (0..TASKS_MAX as u32).map(|task| task_file(&from.name, from.late, task))
        });
        targets.push(Target {
            path: path.unwrap_or_else(|| default_output(name)),
            files: match (sink.folder, &sink.by) {
                (false, _) => Files::One,
                (true, None) => Files::Tasks(names.collect()),
                (true, Some(_)) => Files::Values,
            },
            at: sink.at,
        });
    }
    if targets.is_empty() {
        targets.push(Target {
            path: default_output(name),
            files: Files::One,
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

fn is_below(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

fn no_circle(spec: &Spec, name: &str, targets: &[Target]) -> Result<(), Fault> {
    let own = own_folder(name);
    for source in &spec.sources {
        if source.path == own || is_below(&source.path, &own) {
            let what = format!("`{}` is a file of this job itself", source.path);
            let remedy = "read something else, or give the job another name";
            return Err(Fault::new(source.at, what, remedy));
        }
        // Its own files are left out of what a pattern names.
        let others = targets
            .iter()
            .filter(|target| !is_below(&target.path, &own));
        let fed = others.into_iter().find(|target| target.is_in(&source.path));
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
    let Target { path, files, at } = target;
    let folder = !matches!(files, Files::One);
    let fault = |what: String, remedy: &str| Err(Fail::Fault(Fault::new(*at, what, remedy)));
    let default = default_output(name);
    let of_jobs = *path == "/.jobs" || path.starts_with("/.jobs/");
    if of_jobs && (*path != default || folder) {
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

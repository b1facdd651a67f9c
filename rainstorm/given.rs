//! Files of the file system that an executable is given to read (`inputs` of `exec`): fetched when a task begins, kept by
//! their content like executables, and laid out in a folder of the task's own, each under its name.
//!
//! The kept files are in a folder that nobody but this member enters. A task's folder is entered by the owner of the spec.

use crate::attempt::Context;
use crate::cache;
use crate::error::{Error, Result};
use crate::sandbox;
use crate::seams::Owner;
use crate::spec::ExecSpec;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Most inputs of an executable.
pub const INPUTS_MAX: usize = 16;
/// Largest input in bytes.
pub const INPUT_BYTES_MAX: usize = 64 << 20;
/// Below the folder of executables: files by their content.
pub const KEPT: &str = "kept";
/// Below it, too: a folder for each task that has inputs.
pub const FOLDERS: &str = "inputs";

/// An input that is on this member.
#[derive(Debug, Clone)]
pub struct Given {
    /// In the file system.
    pub path: String,
    /// What the executable finds it by.
    pub name: String,
    /// SHA-256 of its content, in hex.
    pub digest: String,
    /// Where it is kept.
    local: PathBuf,
}

/// Fetches what `spec` names, with its content of now.
pub async fn fetch(context: &Context, spec: &ExecSpec) -> Result<Vec<Given>> {
    let mut all = Vec::new();
    for input in &spec.inputs {
        let (path, owner) = (&input.path, context.owner());
        let read = context.storage.read_small(path, owner, INPUT_BYTES_MAX);
        let (content, dir) = (read.await?, context.options.cache_dir.join(KEPT));
        let kept = tokio::task::spawn_blocking(move || cache::keep(&dir, &content)).await;
        let failed =
            |why: String| Error::Attempt(format!("cannot prepare the input {path}: {why}"));
        let (local, digest) = kept
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        all.push(Given {
            path: path.clone(),
            name: input.name().to_owned(),
            digest,
            local,
        });
    }
    Ok(all)
}

/// A new folder below `dir`, called `name`, in which `owner` reads the files. Blocks on the disk.
pub fn lay_out(dir: &Path, name: &str, owner: Owner, files: &[Given]) -> io::Result<PathBuf> {
    let all = dir.join(FOLDERS);
    fs::create_dir_all(&all)?;
    // Owners of specs enter it and list nothing.
    fs::set_permissions(&all, fs::Permissions::from_mode(0o711))?;
    let folder = all.canonicalize()?.join(name);
    fs::DirBuilder::new().mode(0o750).create(&folder)?;
    if sandbox::is_root() {
        chown(&folder, None, Some(owner.gid))?;
    }
    for file in files {
        fs::hard_link(&file.local, folder.join(&file.name))?;
    }
    Ok(folder)
}

//! Executables from the file system, as local files named by their content (fault R11): a file that is there is
//! whole, because it appears by rename, and it is checked again before each use.

use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

static NEXT_TEMP: AtomicU64 = AtomicU64::new(0);
/// Held while a file is looked for and made. Tasks that begin together must not replace each other's: what a process may run
/// is bound to the file itself (`reach`), not to its name.
static PUBLISHING: Mutex<()> = Mutex::new(());

/// Where programs of the members are looked for.
pub const PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// SHA-256 in hex.
fn digest(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A program of this member, of `bytes_max` at most, and the SHA-256 of its content. It runs where it is: interpreters look
/// for their libraries beside themselves. Blocks on the disk.
pub fn find(name: &str, bytes_max: usize) -> io::Result<Option<(PathBuf, String)>> {
    for path in PATH.iter().map(|dir| Path::new(dir).join(name)) {
        let Ok(about) = fs::metadata(&path) else {
            continue;
        };
        if about.is_file()
            && about.permissions().mode() & 0o111 != 0
            && about.len() <= bytes_max as u64
        {
            let digest = digest(&fs::read(&path)?);
            return Ok(Some((path, digest)));
        }
    }
    Ok(None)
}

/// The path of an executable file with this content below `dir`, made if missing, and its SHA-256. Blocks on the disk.
pub fn publish(dir: &Path, content: &[u8]) -> io::Result<(PathBuf, String)> {
    let name = digest(content);
    let path = dir.join(&name);
    let _alone = PUBLISHING.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::read(&path).is_ok_and(|held| held == content) {
        return Ok((path, name));
    }
    fs::create_dir_all(dir)?;
    let temp = dir.join(format!(
        ".{name}.{}.{}",
        std::process::id(),
        NEXT_TEMP.fetch_add(1, Ordering::Relaxed)
    ));
    let made = write(&temp, content).and_then(|()| fs::rename(&temp, &path));
    if made.is_err() {
        // The error that matters is the one above.
        drop(fs::remove_file(&temp));
    }
    made.map(|()| (path, name))
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_begin_together_run_the_same_file() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let content = format!("#!/bin/sh\necho {round}\n");
            let start = std::sync::Barrier::new(8);
            let one = || {
                start.wait();
                let (path, _) = publish(dir.path(), content.as_bytes()).unwrap();
                fs::metadata(path).unwrap().ino()
            };
            let all = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
                let inodes = threads.into_iter().map(|thread| thread.join().unwrap());
                inodes.collect::<std::collections::BTreeSet<u64>>()
            });
            assert_eq!(all.len(), 1, "round {round}");
        }
    }

    #[test]
    fn fault_r11_a_changed_or_broken_executable_is_never_reused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let published = |content: &str| publish(&cache, content.as_bytes()).unwrap().0;
        let old = published("#!/bin/sh\necho old\n");
        let new = published("#!/bin/sh\necho new\n");
        assert_ne!(old, new);
        assert_eq!(published("#!/bin/sh\necho old\n"), old);
        fs::write(&new, b"half of i").unwrap();
        assert_eq!(published("#!/bin/sh\necho new\n"), new);
        assert_eq!(fs::read(&new).unwrap(), b"#!/bin/sh\necho new\n");
        assert_eq!(
            fs::metadata(&new).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 2);
    }
}

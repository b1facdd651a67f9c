//! Executables, and files that they read, from the file system, as local files named by their content (fault R11): a file that is there is
//! whole, because it appears by rename, and it is checked again before each use.

use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

static NEXT_TEMP: AtomicU64 = AtomicU64::new(0);
/// Held while a file is looked for and made. Tasks that begin together must not replace each other's: what a process may run
/// is bound to the file itself (`reach`), not to its name.
static PUBLISHING: Mutex<()> = Mutex::new(());

/// How long an executable is kept that no task begins with.
const UNUSED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

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
    fs::create_dir_all(dir)?;
    made(dir, content, 0o755)
}

/// The same of a file to be read, in a folder that nobody else enters: it may be a secret.
pub fn keep(dir: &Path, content: &[u8]) -> io::Result<(PathBuf, String)> {
    if let Some(parent) = dir.parent() {
        // Others enter that one.
        fs::create_dir_all(parent)?;
    }
    let mut closed = fs::DirBuilder::new();
    closed.recursive(true).mode(0o700).create(dir)?;
    made(dir, content, 0o444)
}

fn made(dir: &Path, content: &[u8], mode: u32) -> io::Result<(PathBuf, String)> {
    let name = digest(content);
    let path = dir.join(&name);
    let _alone = PUBLISHING.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::read(&path).is_ok_and(|held| held == content) {
        // It is used; that it cannot be noted makes it be published once more at worst.
        drop(File::open(&path).and_then(|file| file.set_modified(SystemTime::now())));
        return Ok((path, name));
    }
    let temp = dir.join(format!(
        ".{name}.{}.{}",
        std::process::id(),
        NEXT_TEMP.fetch_add(1, Ordering::Relaxed)
    ));
    let made = write(&temp, content, mode).and_then(|()| fs::rename(&temp, &path));
    if made.is_err() {
        // The error that matters is the one above.
        drop(fs::remove_file(&temp));
    }
    made.map(|()| (path, name))
}

/// Removes executables that no task has begun with for a week, and what was not made wholly. Only before any task runs. Blocks on
/// the disk.
pub fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_digest = |name: &str| {
            let name = name.strip_prefix('.').unwrap_or(name);
            name.len() >= 64 && name.as_bytes()[..64].iter().all(u8::is_ascii_hexdigit)
        };
        let used = entry.metadata().and_then(|about| about.modified());
        let age = used.map(|used| used.elapsed().unwrap_or_default());
        if entry.file_name().to_str().is_some_and(is_digest)
            && age.is_ok_and(|age| age > UNUSED_MAX)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "an executable that nobody needs stays");
        }
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
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

    #[test]
    fn what_is_kept_is_read_through_links_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::create_dir(dir.path().join("open")).unwrap();
        let cache = dir.path().join("cache");
        let (path, name) = keep(&cache.join("kept"), b"a secret").unwrap();
        assert_eq!(path, cache.join("kept").join(name));
        assert_eq!(mode(&cache), mode(&dir.path().join("open")));
        assert_eq!((mode(&cache.join("kept")), mode(&path)), (0o700, 0o444));
        assert_eq!(keep(&cache.join("kept"), b"a secret").unwrap().0, path);
    }

    #[test]
    fn executables_that_nobody_uses_are_removed_after_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["one", "two", "three"].map(|content| {
            let path = publish(dir.path(), content.as_bytes()).unwrap().0;
            let before = SystemTime::now() - UNUSED_MAX - Duration::from_secs(1);
            File::open(&path).unwrap().set_modified(before).unwrap();
            path
        });
        let other = dir.path().join("notes");
        fs::write(&other, b"of somebody").unwrap();
        publish(dir.path(), b"two").unwrap();
        sweep(dir.path());
        let left = paths.map(|path| path.exists());
        assert_eq!((left, other.exists()), ([false, true, false], true));
    }
}

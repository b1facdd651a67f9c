//! Who else on this machine may look into the data folder: nobody reads the bytes and logs of the cluster past the
//! permissions of its files; owners of jobs may enter the folder of executables, and list nothing.

use hydfs_store::Folder;
use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

/// Sets the modes of the data folder, whatever the umask was when it was made.
pub fn close(data: &Path) -> io::Result<()> {
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    for private in [Folder::RAFT, Folder::JOURNAL, Folder::BASE] {
        set(&data.join(private), 0o700)?;
    }
    set(&data.join(Folder::CACHE), 0o711)?;
    set(data, 0o711)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn others_reach_executables_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [Folder::RAFT, Folder::JOURNAL, Folder::BASE, Folder::CACHE] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        close(dir.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path()), 0o711);
        assert_eq!(mode(&dir.path().join(Folder::CACHE)), 0o711);
        assert_eq!(mode(&dir.path().join(Folder::BASE)), 0o700);
    }
}

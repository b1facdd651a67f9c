//! Which member a command talks to: the data folder named, else that of the mount that holds the current directory,
//! else the default one.

use hydfs_node::{CONTROL_SOCKET, DATA_DEFAULT};
use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// What a mount's source begins with; the data folder follows.
pub const SOURCE_PREFIX: &str = "hydfs:";

/// The data folder to talk to.
pub fn find(named: Option<PathBuf>) -> PathBuf {
    named
        .or_else(|| {
            let here = std::env::current_dir().ok()?;
            let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
            of_mount(&mounts, &here)
        })
        .unwrap_or_else(|| DATA_DEFAULT.into())
}

/// The socket in a data folder.
pub fn socket(data: &Path) -> PathBuf {
    data.join(CONTROL_SOCKET)
}

/// Data folder behind the innermost mount that holds `here`, if that mount is one of ours. Later lines of mountinfo lie over earlier ones.
fn of_mount(mountinfo: &[u8], here: &Path) -> Option<PathBuf> {
    let mut best: Option<(usize, Option<PathBuf>)> = None;
    for line in mountinfo.split(|b| *b == b'\n') {
        let Some((point, source)) = parse(line) else {
            continue;
        };
        if !here.starts_with(&point) {
            continue;
        }
        let depth = point.components().count();
        if best.as_ref().is_none_or(|(deepest, _)| depth >= *deepest) {
            let data = source.as_bytes().strip_prefix(SOURCE_PREFIX.as_bytes());
            best = Some((
                depth,
                data.map(|d| PathBuf::from(OsString::from_vec(d.to_vec()))),
            ));
        }
    }
    best?.1
}

/// Mount point and source of a line `id parent dev root POINT options … - type SOURCE options`.
fn parse(line: &[u8]) -> Option<(PathBuf, OsString)> {
    let mut fields = line.split(|b| *b == b' ');
    let point = fields.nth(4)?;
    let mut after = fields.skip_while(|field| *field != b"-").skip(2);
    let source = after.next()?;
    Some((
        OsString::from_vec(unescape(point)).into(),
        OsString::from_vec(unescape(source)),
    ))
}

/// Octal escapes (`\040` is a blank) back to bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|d| byte == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(digits) = digits {
            out.push(digits.iter().fold(0u8, |sum, digit| {
                sum.wrapping_mul(8).wrapping_add(digit - b'0')
            }));
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] = b"21 1 8:1 / / rw shared:1 - ext4 /dev/root rw\n\
        40 21 0:50 / /mnt/a rw,nosuid - fuse.hydfs hydfs:/var/lib/hy\\040dfs rw\n\
        41 21 0:51 / /mnt/a/tmp rw - tmpfs tmpfs rw\n";

    #[test]
    fn the_mount_that_holds_the_directory_tells_the_data_folder() {
        let found = of_mount(INFO, Path::new("/mnt/a/logs"));
        assert_eq!(found, Some("/var/lib/hy dfs".into()));
        assert_eq!(of_mount(INFO, Path::new("/mnt/ab")), None);
        assert_eq!(
            of_mount(INFO, Path::new("/mnt/a/tmp/x")),
            None,
            "another file system lies over it"
        );
    }

    #[test]
    fn what_is_no_mountinfo_is_ignored() {
        assert_eq!(of_mount(b"rubbish\n\n1 2 3", Path::new("/")), None);
        assert_eq!(unescape(b"a\\04"), b"a\\04");
    }
}

//! Reads `/proc/self/mountinfo`: what is mounted where, without touching any mount.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where.
    pub path: PathBuf,
    /// `MAJOR:MINOR` of its device.
    pub device: String,
    /// For ours `fuse.hydfs`.
    pub kind: String,
    /// What mount(8) shows as the device; ours is `MountOptions::name`.
    pub source: String,
}

impl MountEntry {
    /// Whether it is a mount of this project.
    pub fn is_hydfs(&self) -> bool {
        self.kind == "fuse.hydfs"
    }
}

/// All mounts that this process sees, in the order they were made.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(fs::read("/proc/self/mountinfo")?
        .split(|b| *b == b'\n')
        .filter_map(parse)
        .collect())
}

/// The topmost mount at exactly this path.
pub fn mount_at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rev().find(|mount| mount.path == path))
}

/// `ID PARENT DEVICE ROOT PATH OPTIONS [TAGS…] - KIND SOURCE OPTIONS`.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |at: usize| {
        fields
            .get(at)
            .map(|field| String::from_utf8_lossy(&unescape(field)).into_owned())
    };
    let path = PathBuf::from(OsString::from_vec(unescape(fields.get(4)?)));
    Some(MountEntry {
        path,
        device: text(2)?,
        kind: text(dash + 1)?,
        source: text(dash + 2)?,
    })
}

/// Undoes `\040` and its like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let code = octal.map(|digits| {
            digits
                .iter()
                .fold(0u32, |code, d| code << 3 | u32::from(d - b'0'))
        });
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_line_with_tags_and_blanks() {
        let line = br"36 35 0:52 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse.hydfs hydfs:/var/lib/x\011y rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.path, Path::new("/mnt/a b"));
        assert_eq!(
            (mount.device.as_str(), mount.source.as_str()),
            ("0:52", "hydfs:/var/lib/x\ty")
        );
        assert!(mount.is_hydfs());
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 2 3 4 5 6 7"), None);
        assert_eq!(unescape(br"\9\0\777"), br"\9\0\777");
    }

    #[test]
    fn sees_the_root() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
    }
}

//! Directory listings: `.` and `..`, offsets, and how many entries to ask for.
//!
//! The kernel's offset after `.` is 1, after `..` 2, after an entry its cookie + 2. Offset 0 is the start.

use crate::{COOKIE_MAX, Request};
use fuser::INodeNo;
use hydfs_types::Ino;

/// The inode number shown for `..`, whose parent the kernel knows and we need not (libfuse's FUSE_UNKNOWN_INO).
pub(crate) const UNKNOWN_INO: INodeNo = INodeNo(0xffff_ffff);
/// Entries asked for at once. glibc reads 32 KiB: up to 1,024 short names, or 190 with attributes.
const PLAIN_ENTRIES: usize = 512;
const PLUS_ENTRIES: usize = 160;

/// Dots that a listing from `offset` begins with: (inode, kernel offset after it, name).
pub(crate) fn dots(
    ino: INodeNo,
    offset: u64,
) -> impl Iterator<Item = (INodeNo, u64, &'static str)> {
    [(ino, 1, "."), (UNKNOWN_INO, 2, "..")]
        .into_iter()
        .filter(move |dot| dot.1 > offset)
}

/// The kernel's offset after an entry with this cookie.
pub(crate) fn offset_after(cookie: u64) -> u64 {
    debug_assert!(
        (1..=COOKIE_MAX).contains(&cookie),
        "cookie {cookie} out of range"
    );
    cookie.saturating_add(2)
}

/// The request that goes on at the kernel's `offset`.
pub(crate) fn request(ino: Ino, handle: u64, offset: u64) -> Request {
    Request::ReadDir {
        ino,
        handle,
        cookie: offset.saturating_sub(2),
        limit: PLAIN_ENTRIES,
        attrs: false,
    }
}

/// The same, for entries with their attributes.
pub(crate) fn request_plus(ino: Ino, handle: u64, offset: u64) -> Request {
    Request::ReadDir {
        ino,
        handle,
        cookie: offset.saturating_sub(2),
        limit: PLUS_ENTRIES,
        attrs: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_continue_where_they_stopped() {
        let names = |offset| dots(INodeNo(1), offset).map(|d| d.2).collect::<Vec<_>>();
        assert_eq!(names(0), [".", ".."]);
        assert_eq!(names(1), [".."]);
        assert!(names(2).is_empty() && names(3).is_empty());
        for (offset, cookie) in [
            (0, 0),
            (1, 0),
            (2, 0),
            (offset_after(1), 1),
            (offset_after(COOKIE_MAX), COOKIE_MAX),
        ] {
            let Request::ReadDir { cookie: asked, .. } = request(Ino(1), 0, offset) else {
                panic!()
            };
            assert_eq!(asked, cookie);
        }
        assert!(offset_after(COOKIE_MAX) <= i64::MAX as u64);
    }
}

//! What is agreed with the kernel when a mount begins. The first worker's agreement holds for the mount's
//! life: a later worker must ask for the same, so change this list only together with the mount.

use crate::answer::Shape;
use fuser::{InitFlags, KernelConfig};
use std::sync::OnceLock;

/// Bytes of the largest write and read-ahead request.
pub(crate) const IO_BYTES_MAX: u32 = 1 << 20;
/// Requests that the kernel sends without a caller waiting (read-ahead) before it holds back.
const BACKGROUND_MAX: u16 = 64;

/// Wanted, each on its own: an older kernel does without.
///
/// Left out on purpose: WRITEBACK_CACHE breaks append records. ASYNC_DIO sends the pieces of one large direct
/// append at once, so their order would be lost. PASSTHROUGH and OVER_IO_URING: not served. SETXATTR_EXT: fuser does not
/// read what it adds.
const WANTED: [InitFlags; 12] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Coherence rests on it: attributes are asked again at each read, and pages go when size or mtime changed.
    InitFlags::FUSE_AUTO_INVAL_DATA,
    // open(2) carries O_TRUNC: one request, and no moment in between.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Set-id bits are cleared by us (`dispatch`), which spares a getxattr before most writes.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Locks are asked of us instead of being granted on this machine alone.
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    // A worker that takes over asks for the requests of the one before.
    InitFlags::FUSE_HAS_RESEND,
    // Synthetic files use direct I/O; programs may still map them.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_MAX_PAGES,
    // The kernel obeys access control lists, which it asks for and keeps with the attributes.
    InitFlags::FUSE_POSIX_ACL,
    // The umask comes along and is not applied: a directory's default list takes its place.
    InitFlags::FUSE_DONT_MASK,
];

/// Listings with attributes, where the kernel may keep names: otherwise it looks each up again anyway, and the attributes
/// would have been gathered for nothing.
///
/// Without READDIRPLUS_AUTO on purpose: by itself the kernel would ask for attributes of the first page alone of whoever reads
/// all of a directory before it looks at anything, as `find` and `du` do.
const PLUS: InitFlags = InitFlags::FUSE_DO_READDIRPLUS;
/// The first protocol with FUSE_NOTIFY_INC_EPOCH, without which no name may be kept that others change.
const EPOCHS: (u32, u32) = (7, 44);

/// The first kernel that shares mappings of handles without page cache, see FUSE_DIRECT_IO_ALLOW_MMAP above. Asked of the
/// kernel's version: a worker that takes a mount over does not negotiate again.
const MAPS_DIRECT_HANDLES: (u32, u32) = (6, 6);

pub(crate) fn maps_direct_handles() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        version(&release).is_some_and(|version| version >= MAPS_DIRECT_HANDLES)
    })
}

/// `6.18.4-amd64` is (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

pub(crate) fn negotiate(config: &mut KernelConfig, shape: Shape) {
    let version = config.kernel_abi();
    let keeps_names = (version.0, version.1) >= EPOCHS || !shape.entry_ttl.is_zero();
    let plus = keeps_names.then_some(PLUS);
    for flag in WANTED.into_iter().chain(plus) {
        if let Err(missing) = config.add_capabilities(flag) {
            tracing::info!(?missing, "the kernel does without");
        }
    }
    // Where a value is out of range the setter names the nearest that is not.
    if let Err(nearest) = config.set_max_write(IO_BYTES_MAX) {
        accepted("max_write", config.set_max_write(nearest));
    }
    if let Err(nearest) = config.set_max_readahead(IO_BYTES_MAX) {
        accepted("max_readahead", config.set_max_readahead(nearest));
    }
    if let Err(nearest) = config.set_max_background(BACKGROUND_MAX) {
        accepted("max_background", config.set_max_background(nearest));
    }
}

fn accepted<T: std::fmt::Display>(what: &str, set: Result<T, T>) {
    match set {
        Ok(_) => tracing::debug!(what, "limited by the kernel"),
        Err(nearest) => tracing::warn!(what, %nearest, "not accepted by the kernel"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_read_from_their_release() {
        assert_eq!(version("6.18.4-amd64\n"), Some((6, 18)));
        assert_eq!(version("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(version("6.6-rc1"), Some((6, 6)));
        assert_eq!(version(""), None);
    }
}

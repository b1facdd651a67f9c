//! The four system calls that the standard library does not offer.
#![allow(unsafe_code)]

use crate::Space;
use std::{
    ffi::CString,
    fs::File,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
};

/// Most parts that one pwritev(2) takes (IOV_MAX).
const PARTS_MAX: usize = 1024;

/// pwritev(2); may write fewer bytes than given.
pub(crate) fn pwritev(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let count = parts.len().min(PARTS_MAX) as libc::c_int;
    // SAFETY: IoSlice has the layout of iovec on Unix; the slices outlive the call, the descriptor is open.
    let wrote = unsafe {
        libc::pwritev(
            file.as_raw_fd(),
            parts.as_ptr().cast(),
            count,
            offset as libc::off_t,
        )
    };
    if wrote < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(wrote as usize)
    }
}

/// preadv2(2) with RWF_NOWAIT: adds bytes of the file, up to `len` in all, that are in the page cache. Fails where the disk
/// would have to be asked; 0 bytes are the file's end. May add fewer than there are.
pub(crate) fn read_cached(
    file: &File,
    out: &mut Vec<u8>,
    len: usize,
    offset: u64,
) -> io::Result<usize> {
    let wanted = len - out.len();
    let room = &mut out.spare_capacity_mut()[..wanted];
    let part = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    // SAFETY: the one part is spare capacity of `out`, which nobody else uses; the descriptor is open.
    let got = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &part,
            1,
            offset as libc::off_t,
            libc::RWF_NOWAIT,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled that many bytes behind the old length, no more than there was room for.
    unsafe { out.set_len(out.len() + got as usize) };
    Ok(got as usize)
}

/// fallocate(2): reserves the first `len` bytes and grows the file to them.
pub(crate) fn fallocate(file: &File, len: u64) -> io::Result<()> {
    // SAFETY: plain integers and an open descriptor.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len as libc::off_t) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// statvfs(3) of the file system below `path`.
pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut out = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is NUL-terminated and the buffer has the size of the struct.
    if unsafe { libc::statvfs(path.as_ptr(), out.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs succeeded, so it filled the struct.
    let out = unsafe { out.assume_init() };
    Ok(Space {
        total: out.f_blocks * out.f_frsize,
        free: out.f_bavail * out.f_frsize,
    })
}

//! The system calls: a file in memory, and its words as atomic integers.
#![allow(unsafe_code)]

use crate::layout::WORDS;
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::atomic::AtomicU64,
};

const BYTES: usize = WORDS * size_of::<u64>();

/// A new file in memory of the right size, all zeros. Close-on-exec.
pub(crate) fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a string ended by NUL that lives for ever.
    let fd = unsafe { libc::memfd_create(c"hydfs-memory".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made this descriptor for us alone.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(BYTES as u64)?;
    Ok(file)
}

/// Maps a file of exactly the right size: its words, shared with every process that maps it. For the life of the process.
pub(crate) fn map(file: &File) -> io::Result<&'static [AtomicU64]> {
    if file.metadata()?.len() != BYTES as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not its size"));
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses; the descriptor is open and the file that long.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            BYTES,
            access,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page-aligned, WORDS long, never unmapped, and nobody shortens the file; every access, by whatever process, is
    // of whole integers, ours by atomic ones.
    Ok(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), WORDS) })
}

//! The system calls: a file in memory, its words as atomic integers, and its chunks of bytes, each with one owner.
#![allow(unsafe_code)]

use crate::layout::{CHUNK_BYTES, CHUNK_WORDS, CHUNKS_AT, WORDS};
use std::{
    fmt,
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

/// A memory file in this process, for the life of the process.
pub(crate) struct Mapped {
    /// All but the chunks, shared with every process that maps the file.
    pub words: &'static [AtomicU64],
    /// Every chunk, by number.
    pub chunks: Vec<Chunk>,
}

/// Maps a file of exactly the right size.
pub(crate) fn map(file: &File) -> io::Result<Mapped> {
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
    // of whole integers, ours by atomic ones; but for the words of chunks, see there.
    let all = unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), WORDS) };
    let (words, chunks) = all.split_at(CHUNKS_AT);
    let (chunks, _) = chunks.as_chunks();
    let chunk = |(number, words)| Chunk { number, words };
    Ok(Mapped {
        words,
        chunks: chunks.iter().enumerate().map(chunk).collect(),
    })
}

/// A page of bytes. Whoever has it is the only one to touch it: [`map`] makes each once and nothing copies it, and of the
/// processes that map the file the one that serves alone has its chunks, the supervisor none.
pub(crate) struct Chunk {
    number: usize,
    words: &'static [AtomicU64; CHUNK_WORDS],
}

impl Chunk {
    /// Which one it is of its file.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// All of it, what stands after the bytes that were last written included.
    pub(crate) fn bytes(&self) -> &[u8] {
        let at = self.words.as_ptr().cast::<u8>();
        // SAFETY: CHUNK_BYTES that are mapped for ever; who would change them needs the only owner's `&mut`.
        unsafe { std::slice::from_raw_parts(at, CHUNK_BYTES) }
    }

    /// Writes its first bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= CHUNK_BYTES, "more than a chunk");
        let at = self.words.as_ptr().cast::<u8>().cast_mut();
        // SAFETY: so many bytes are mapped there for ever, and may be changed behind a shared reference, being atomic
        // integers; nobody looks at them meanwhile, as this is the only owner's `&mut`, and so they are not `bytes` either.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) }
    }
}

/// Never shows what somebody wrote.
impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chunk").field(&self.number).finish()
    }
}

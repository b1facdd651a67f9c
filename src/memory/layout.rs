//! Where everything stands, in words of 64 bits. A change here is a new version.

use std::ops::Range;

/// Version of this layout.
pub const VERSION: u64 = 2;
/// `HYDFSMEM`.
pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"HYDFSMEM");

/// Requests in flight at most: those that the mount lets in, callers that wait for locks, and what is left of earlier ones.
pub const REQUESTS_MAX: usize = 8_192;
/// Open files of one mount at most.
pub const HANDLES_MAX: usize = 65_536;
/// Pairs of lock owner and open file at most.
pub const LOCKERS_MAX: usize = 16_384;
/// Records that one write request makes at most, to be told apart afterwards.
pub const PIECES_MAX: usize = 4;
/// Writes that were answered early at most.
pub const BEHIND_MAX: usize = 4_096;
/// Their bytes at most, each write's rounded up to whole chunks.
pub const BEHIND_BYTES: usize = 16 << 20;
/// A page: one that was never used takes no memory.
pub(crate) const CHUNK_BYTES: usize = 4_096;
pub(crate) const CHUNKS_MAX: usize = BEHIND_BYTES / CHUNK_BYTES;

// Words of the header. The first four never change.
pub(crate) const AT_MAGIC: usize = 0;
pub(crate) const AT_VERSION: usize = 1;
pub(crate) const AT_WORDS: usize = 2;
pub(crate) const AT_CHECKSUM: usize = 3;
pub(crate) const AT_SESSION: usize = 4;
pub(crate) const AT_SESSION_LAST: usize = 5;
pub(crate) const AT_SESSION_KNOWN: usize = 6;
pub(crate) const AT_INCARNATION: usize = 7;
pub(crate) const AT_HANDLES_ISSUED: usize = 8;
pub(crate) const AT_BEGUN: usize = 9;
pub(crate) const AT_READY: usize = 10;
pub(crate) const AT_BEHIND_ISSUED: usize = 11;
/// Words of the header that were free, and empty, in earlier builds: neither an earlier worker nor an earlier supervisor is
/// disturbed by what stands there, so that it is no new version.
pub(crate) const AT_JOURNAL_END: usize = 12;
pub(crate) const AT_POLLERS: usize = 64;
/// Pollers that are kept at most.
pub(crate) const POLLERS_MAX: usize = 64;
const HEADER_WORDS: usize = 512;

pub(crate) const REQUEST_WORDS: usize = 32;
pub(crate) const HANDLE_WORDS: usize = 4;
pub(crate) const LOCKER_WORDS: usize = 4;
pub(crate) const BEHIND_WORDS: usize = 20;
pub(crate) const CHUNK_WORDS: usize = CHUNK_BYTES / size_of::<u64>();

const REQUESTS_AT: usize = HEADER_WORDS;
const HANDLES_AT: usize = REQUESTS_AT + REQUESTS_MAX * REQUEST_WORDS;
const LOCKERS_AT: usize = HANDLES_AT + HANDLES_MAX * HANDLE_WORDS;
const BEHIND_AT: usize = LOCKERS_AT + LOCKERS_MAX * LOCKER_WORDS;
/// For each chunk the one after it in its write.
const LINKS_AT: usize = BEHIND_AT + BEHIND_MAX * BEHIND_WORDS;
/// The chunks themselves, up to the end.
pub(crate) const CHUNKS_AT: usize = LINKS_AT + CHUNKS_MAX;
const _: () = assert!(CHUNKS_AT.is_multiple_of(CHUNK_WORDS));
/// All of it.
pub(crate) const WORDS: usize = CHUNKS_AT + CHUNKS_MAX * CHUNK_WORDS;

pub(crate) fn request(at: usize) -> Range<usize> {
    record(REQUESTS_AT, REQUEST_WORDS, at)
}

pub(crate) fn handle(at: usize) -> Range<usize> {
    record(HANDLES_AT, HANDLE_WORDS, at)
}

pub(crate) fn locker(at: usize) -> Range<usize> {
    record(LOCKERS_AT, LOCKER_WORDS, at)
}

pub(crate) fn behind(at: usize) -> Range<usize> {
    record(BEHIND_AT, BEHIND_WORDS, at)
}

pub(crate) fn link(chunk: usize) -> usize {
    LINKS_AT + chunk
}

fn record(from: usize, words: usize, at: usize) -> Range<usize> {
    from + at * words..from + (at + 1) * words
}

/// Of the words that never change.
pub(crate) fn checksum(magic: u64, version: u64, words: u64) -> u64 {
    let bytes = [magic, version, words].map(u64::to_le_bytes).concat();
    u64::from(crc32c::crc32c(&bytes))
}

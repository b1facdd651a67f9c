//! The log's bytes: file header and entries. Golden-tested; any change needs a new format version.
//!
//! A file is `header · zeros up to 4096 · entries`. An entry begins at a multiple of 8 and never spans files:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | payload length, LE |
//! | 4 | CRC-32C of the payload |
//! | 8 | durable: everything before this position was synced when the entry was written |
//! | 1 | kind: 1..=127 of callers, [`KIND_END`], [`KIND_MARK`] |
//! | 3 | zeros |
//! | 4 | CRC-32C of the 20 bytes above, the entry's own position and the log's salt |
//! | n | payload |
//!
//! The position in the checksum makes stale bytes of a recycled file, and log bytes inside a payload, no entries.
//! The durable field is what tells a torn tail from damage: where an entry is unreadable, a later one that claims
//! that place was durable proves that it was there.

use std::fmt;

/// Nominal size of a log file in bytes.
pub const LOG_FILE_BYTES: u64 = 64 << 20;
/// Largest payload of one entry in bytes.
pub const ENTRY_BYTES_MAX: usize = (2 << 20) + (64 << 10);
/// Where entries begin: the header has a page of its own, which is never written again while the file lives.
pub(crate) const FIRST_ENTRY: u64 = 4096;
pub(crate) const ENTRY_HEADER_BYTES: usize = 24;
pub(crate) const FILE_HEADER_BYTES: usize = 32;
/// Entries go on in the next file.
pub(crate) const KIND_END: u8 = 0x80;
/// Says only that everything before it is durable.
pub(crate) const KIND_MARK: u8 = 0x81;
/// Kinds of callers end here.
pub(crate) const KIND_CALLER_MAX: u8 = 0x7f;

const MAGIC: [u8; 8] = *b"HYDFSLOG";
const FORMAT: u16 = 1;

/// Where an entry is: file number in the upper half, offset in that file in the lower. Later entries compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    pub(crate) fn new(file: u32, offset: u64) -> Self {
        Self(u64::from(file) << 32 | offset)
    }

    /// Number of the file.
    pub fn file(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Offset in the file in bytes.
    pub fn offset(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log file {} offset {}", self.file(), self.offset())
    }
}

/// Bytes that an entry with this payload takes.
pub(crate) fn entry_bytes(payload: usize) -> u64 {
    (ENTRY_HEADER_BYTES + payload).next_multiple_of(8) as u64
}

/// The head of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub len: u32,
    pub crc: u32,
    pub durable: Position,
    pub kind: u8,
}

impl EntryHeader {
    pub fn encode(&self, at: Position, salt: u64) -> [u8; ENTRY_HEADER_BYTES] {
        let mut out = [0; ENTRY_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..8].copy_from_slice(&self.crc.to_le_bytes());
        out[8..16].copy_from_slice(&self.durable.0.to_le_bytes());
        out[16] = self.kind;
        let seal = seal(&out[..20], at, salt);
        out[20..24].copy_from_slice(&seal.to_le_bytes());
        out
    }

    /// `None` for anything that was not written as an entry at this place of this log.
    pub fn decode(bytes: &[u8], at: Position, salt: u64) -> Option<Self> {
        let bytes: &[u8; ENTRY_HEADER_BYTES] = bytes.first_chunk()?;
        let kind = bytes[16];
        let len = u32_at(bytes, 0);
        // Cheap tests first: recovery looks at every eighth byte of what may be an unwritten file.
        if kind == 0
            || kind > KIND_MARK
            || bytes[17..20] != [0; 3]
            || len as usize > ENTRY_BYTES_MAX
        {
            return None;
        }
        if seal(&bytes[..20], at, salt) != u32_at(bytes, 20) {
            return None;
        }
        let durable = Position(u64::from_le_bytes(*bytes[8..].first_chunk()?));
        Some(Self {
            len,
            crc: u32_at(bytes, 4),
            durable,
            kind,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn seal(bytes: &[u8], at: Position, salt: u64) -> u32 {
    let crc = crc32c::crc32c(bytes);
    crc32c::crc32c_append(
        crc32c::crc32c_append(crc, &at.0.to_le_bytes()),
        &salt.to_le_bytes(),
    )
}

/// CRC-32C over several parts.
pub(crate) fn crc_parts(parts: &[&[u8]]) -> u32 {
    parts
        .iter()
        .fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

/// Why the first bytes of a file are not the header that belongs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Not a header, or torn, or of the number that a recycled file had before.
    Absent,
    /// A header, by another format of this software.
    Newer(u16),
    /// A header of another log.
    Foreign,
}

/// `magic · format u16 · zeros · file number u32 · salt u64 · crc u32 of all before · zeros`.
pub(crate) fn encode_file_header(number: u32, salt: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut out = [0; FILE_HEADER_BYTES];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    out[12..16].copy_from_slice(&number.to_le_bytes());
    out[16..24].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&out[..24]);
    out[24..28].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks the header of file `number`.
pub(crate) fn check_file_header(bytes: &[u8], number: u32, salt: u64) -> Result<(), BadHeader> {
    let header: &[u8; FILE_HEADER_BYTES] = bytes.first_chunk().ok_or(BadHeader::Absent)?;
    if header[0..8] != MAGIC || crc32c::crc32c(&header[..24]) != u32_at(header, 24) {
        return Err(BadHeader::Absent);
    }
    let format = u16::from_le_bytes([header[8], header[9]]);
    if format != FORMAT {
        return Err(BadHeader::Newer(format));
    }
    if header[16..24] != salt.to_le_bytes() {
        return Err(BadHeader::Foreign);
    }
    if u32_at(header, 12) == number {
        Ok(())
    } else {
        Err(BadHeader::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_file_header() {
        let bytes = encode_file_header(7, 0x0102_0304_0506_0708);
        assert_eq!(
            hex(&bytes),
            "48594446534c4f470100000007000000080706050403020162621ad900000000"
        );
        assert_eq!(check_file_header(&bytes, 7, 0x0102_0304_0506_0708), Ok(()));
        assert_eq!(
            check_file_header(&bytes, 8, 0x0102_0304_0506_0708),
            Err(BadHeader::Absent)
        );
        assert_eq!(check_file_header(&bytes, 7, 1), Err(BadHeader::Foreign));
        assert_eq!(check_file_header(&[0; 32], 7, 1), Err(BadHeader::Absent));
    }

    #[test]
    fn golden_entry_header() {
        let at = Position::new(7, 4096);
        let header = EntryHeader {
            len: 5,
            crc: crc_parts(&[b"he", b"llo"]),
            durable: Position::new(6, 8192),
            kind: 3,
        };
        let bytes = header.encode(at, 9);
        assert_eq!(
            hex(&bytes),
            "050000004cbb719a00200000060000000300000052b47035"
        );
        assert_eq!(EntryHeader::decode(&bytes, at, 9), Some(header));
        assert_eq!(
            EntryHeader::decode(&bytes, Position::new(8, 4096), 9),
            None,
            "a recycled file"
        );
        assert_eq!(
            EntryHeader::decode(&bytes, Position::new(7, 4104), 9),
            None,
            "another place"
        );
        assert_eq!(EntryHeader::decode(&bytes, at, 8), None, "another log");
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let at = Position::new(1, 4096);
        let bytes = EntryHeader {
            len: 70,
            crc: 1,
            durable: Position(2),
            kind: 1,
        }
        .encode(at, 0);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(EntryHeader::decode(&bad, at, 0), None, "bit {bit}");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}

//! Positions on the ring: 64-bit points, the first eight bytes (big endian) of a SHA-256.
//!
//! Slot `s` of the 4,096 is the range of points `[s * 2^52, (s + 1) * 2^52)`; it stands at the range's start.
//! So a key's slot is the top twelve bits of its hash.

use hydfs_types::{Digest, SLOTS, SlotId};
use sha2::{Digest as _, Sha256};

/// Points of the ring that one slot covers: 2^64 / 4,096.
pub const POSITIONS_PER_SLOT: u64 = 1 << (64 - SLOTS.trailing_zeros());

/// Where a virtual node of a member stands: `SHA-256("<name>#<index>")`.
pub fn point(name: &str, index: u32) -> u64 {
    head(
        Sha256::new()
            .chain_update(name)
            .chain_update("#")
            .chain_update(index.to_string())
            .finalize()
            .as_ref(),
    )
}

/// Where a slot stands. The pool number in the id's upper half plays no part.
pub fn slot_position(slot: SlotId) -> u64 {
    u64::from(slot.0 % SLOTS) * POSITIONS_PER_SLOT
}

/// The slot of a key (of pool 0).
pub fn slot_of(key: &Digest) -> SlotId {
    SlotId((head(&key.0) / POSITIONS_PER_SLOT) as u32)
}

/// The slot of segment `k` of the file with this key: segment 0 stands at the key itself, the others at
/// `SHA-256(key ‖ k as u64 little endian)`.
pub fn segment_slot(key: &Digest, k: u64) -> SlotId {
    if k == 0 {
        return slot_of(key);
    }
    let hash = Sha256::new()
        .chain_update(key.0)
        .chain_update(k.to_le_bytes())
        .finalize();
    SlotId((head(hash.as_ref()) / POSITIONS_PER_SLOT) as u32)
}

fn head(hash: &[u8]) -> u64 {
    hash.iter()
        .take(8)
        .fold(0, |high, byte| high << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden, computed by another implementation of SHA-256: places on the ring never change between versions.
    #[test]
    fn points_are_fixed() {
        assert_eq!(point("vm1", 0), 14_585_382_952_924_859_893);
        assert_eq!(segment_slot(&Digest([7; 32]), 1), SlotId(2796));
    }

    #[test]
    fn a_keys_slot_is_its_top_twelve_bits() {
        let mut key = [0u8; 32];
        key[0] = 0xab;
        key[1] = 0xcd;
        assert_eq!(slot_of(&Digest(key)), SlotId(0xabc));
        assert_eq!(segment_slot(&Digest(key), 0), SlotId(0xabc));
        assert_eq!(slot_position(SlotId(1)), POSITIONS_PER_SLOT);
        assert_eq!(slot_position(SlotId(0x1_0001)), POSITIONS_PER_SLOT);
    }
}

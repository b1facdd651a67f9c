//! The digest chain of a segment's base: equal digests mean equal operations in equal order, so equal bytes (I3).

use crate::{Digest, Op, RecordHead};
use sha2::{Digest as _, Sha256};

impl Digest {
    /// The digest after one more record.
    pub fn after_record(self, head: &RecordHead) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        match head.op {
            Op::Append => hash.update([1]),
            Op::WriteAt(offset) => {
                hash.update([2]);
                hash.update(offset.to_le_bytes());
            }
            Op::Zero {
                offset,
                len,
                extend,
            } => {
                hash.update([3, u8::from(extend)]);
                hash.update(offset.to_le_bytes());
                hash.update(len.to_le_bytes());
            }
        }
        hash.update(head.writer.0.to_le_bytes());
        hash.update(head.seq.0.to_le_bytes());
        hash.update(head.len.to_le_bytes());
        hash.update(head.crc.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// The digest after the base was cut or grown to `len`.
    pub fn after_set_len(self, len: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update([4]);
        hash.update(len.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// SHA-256 of some bytes: ring positions, file keys, content ids.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first eight bytes as a number: a position on the ring.
    pub fn position(&self) -> u64 {
        u64::from_be_bytes(self.0[..8].try_into().expect("a digest has 32 bytes"))
    }
}

//! Who a member is to SWIM.

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, sync::Arc};

/// Longest member name in bytes: three identities and some news have to fit one datagram.
pub const NAME_BYTES_MAX: usize = 128;

/// Why membership cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error(
        "a member's name has 1 to {NAME_BYTES_MAX} bytes, this one has {0}: choose a shorter one"
    )]
    Name(usize),
}

/// One life of a member. A member that was taken for dead renews itself under the next generation; of two lives at one
/// address the higher generation is the present one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub name: Arc<str>,
    /// Where it serves.
    pub addr: SocketAddr,
    /// Rises with each life. Leave room for renewals between lives: the agreed incarnation shifted left by 16 bits.
    pub generation: u64,
}

impl Identity {
    /// An identity, if the name fits.
    pub fn new(name: &str, addr: SocketAddr, generation: u64) -> Result<Self, MembershipError> {
        match name.len() {
            1..=NAME_BYTES_MAX => Ok(Self {
                name: name.into(),
                addr,
                generation,
            }),
            len => Err(MembershipError::Name(len)),
        }
    }

    /// Whoever serves at `addr`: good to be announced to, nothing else.
    pub(crate) fn unknown(addr: SocketAddr) -> Self {
        Self {
            name: "".into(),
            addr,
            generation: 0,
        }
    }
}

impl foca::Identity for Identity {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            generation: self.generation.checked_add(1)?,
            ..self.clone()
        })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, &self.name) > (adversary.generation, &adversary.name)
    }
}

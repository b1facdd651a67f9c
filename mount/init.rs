//! The INIT of a mount, which happens once: `begin` answers it for the supervisor and remembers what the kernel offered,
//! and each worker's session is shown that offer again (`take_over`).
//!
//! fuser reads an INIT before anything else. It gets one end of a socket pair with an INIT of our making inside; when it has
//! answered there, the real descriptor takes the socket's place. Nothing is read from the kernel before that.

use crate::{MountError, answer::Shape, kernel, sys};
use fuser::{Config, Filesystem, InitFlags, KernelConfig, Request, Session, SessionACL};
use std::{
    fmt,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

const OPCODE_INIT: u32 = 26;
const MAJOR: u32 = 7;
/// As `struct fuse_in_header` and `struct fuse_init_in` of linux/fuse.h.
const INIT_BYTES: usize = 40 + 64;
/// FUSE_NOTIFY_RESEND of linux/fuse.h.
const NOTIFY_RESEND: i32 = 7;

/// What the kernel offered in its INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Of its protocol, 7.
    pub minor: u32,
    /// What it can do.
    pub flags: u64,
    pub max_readahead: u32,
}

impl Offer {
    /// Whether the kernel sends requests again to another worker (Linux 6.9).
    pub fn can_resend(&self) -> bool {
        self.flags & InitFlags::FUSE_HAS_RESEND.bits() != 0
    }

    /// As the kernel would send it. `unique` is of no request of the kernel's.
    fn request(&self) -> [u8; INIT_BYTES] {
        // Bits from 32 on are read only where this one is set.
        let flags = self.flags | InitFlags::FUSE_INIT_EXT.bits();
        let mut bytes = [0; INIT_BYTES];
        let words = [
            (0, INIT_BYTES as u32),
            (4, OPCODE_INIT),
            (8, 1),
            (40, MAJOR),
            (44, self.minor),
            (48, self.max_readahead),
            (52, flags as u32),
            (56, (flags >> 32) as u32),
        ];
        for (at, word) in words {
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// For a command line: `MINOR:FLAGS:READAHEAD`.
impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:x}:{}", self.minor, self.flags, self.max_readahead)
    }
}

impl FromStr for Offer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or("three numbers are wanted");
        let number = "not a number";
        let offer = Self {
            minor: next()?.parse().map_err(|_| number)?,
            flags: u64::from_str_radix(next()?, 16).map_err(|_| number)?,
            max_readahead: next()?.parse().map_err(|_| number)?,
        };
        match parts.next() {
            None => Ok(offer),
            Some(_) => Err("more than three numbers"),
        }
    }
}

/// Answers the kernel's INIT and nothing else.
struct Beginner(Arc<OnceLock<Offer>>);

impl Filesystem for Beginner {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let version = config.kernel_abi();
        let mut offer = Offer {
            minor: version.1,
            flags: config.capabilities().bits(),
            max_readahead: 0,
        };
        // The setter names the largest value there may be.
        if let Err(most) = config.set_max_readahead(u32::MAX) {
            offer.max_readahead = most;
        }
        kernel::negotiate(config, UNCACHED);
        self.0
            .set(offer)
            .map_err(|_| io::Error::other("the kernel sent INIT twice"))
    }
}

/// A mount that is handed over lets the kernel keep nothing.
const UNCACHED: Shape = Shape {
    attr_ttl: Duration::ZERO,
    entry_ttl: Duration::ZERO,
    block_bytes: 0,
};

/// Agrees with the kernel on the protocol of a fresh mount. From then on workers may serve it, one after the other.
pub fn begin(fd: &OwnedFd) -> Result<Offer, MountError> {
    let offer = Arc::new(OnceLock::new());
    let fd = fd.try_clone().map_err(MountError::Session)?;
    // Dropped, it closes its copy of the descriptor and unmounts nothing.
    Session::from_fd(
        Beginner(offer.clone()),
        fd,
        SessionACL::All,
        Config::default(),
    )
    .map_err(MountError::Session)?;
    let said = offer.get().copied();
    said.ok_or_else(|| MountError::Session(io::Error::other("the kernel sent no INIT")))
}

/// A session on a mount that was begun, for the first worker or one after it.
pub(crate) fn take_over<F: Filesystem>(
    fs: F,
    fd: OwnedFd,
    offer: Offer,
    config: Config,
) -> io::Result<Session<F>> {
    let (ours, theirs) = sys::packet_pair()?;
    File::from(ours.try_clone()?).write_all(&offer.request())?;
    let session = Session::from_fd(fs, theirs, SessionACL::All, config)?;
    sys::replace_fd(session.as_fd(), fd.as_fd())?;
    // Its answer went nowhere: the kernel has had one.
    drop(ours);
    if offer.can_resend() {
        resend(fd)?;
    }
    Ok(session)
}

/// Has the kernel send again what was read from this mount and not answered.
fn resend(fd: OwnedFd) -> io::Result<()> {
    let mut notice = [0; 16];
    notice[..4].copy_from_slice(&16_u32.to_ne_bytes());
    notice[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    File::from(fd).write_all(&notice)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        minor: 45,
        flags: 0x0002_8000_0001,
        max_readahead: 131_072,
    };

    #[test]
    fn the_request_has_the_kernels_shape() {
        let bytes = OFFER.request();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four"));
        assert_eq!((word(0), word(4)), (104, 26));
        assert_eq!((word(40), word(44), word(48)), (7, 45, 131_072));
        // FUSE_INIT_EXT is set, so that the upper half counts.
        assert_eq!((word(52), word(56)), (0xc000_0001, 2));
        assert!(bytes[60..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_offer_passes_a_command_line() {
        assert_eq!(OFFER.to_string().parse(), Ok(OFFER));
        for bad in ["", "1:2", "1:x:3", "1:2:3:4"] {
            assert!(bad.parse::<Offer>().is_err(), "{bad}");
        }
    }

    struct Shown(Arc<OnceLock<(u64, u32)>>);

    impl Filesystem for Shown {
        fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
            let most = config.set_max_readahead(u32::MAX).expect_err("a limit");
            let shown = (config.capabilities().bits(), most);
            let twice = |_| io::Error::other("INIT twice");
            self.0.set(shown).map_err(twice)
        }
    }

    /// What the session is told is what the kernel had offered, and what it reads afterwards comes from the descriptor.
    #[test]
    fn a_session_is_shown_the_offer_and_then_has_the_descriptor() {
        let (kernel, fd) = sys::packet_pair().expect("a pair");
        let shown = Arc::new(OnceLock::new());
        let offer = Offer {
            flags: OFFER.flags | InitFlags::FUSE_HAS_RESEND.bits(),
            ..OFFER
        };
        let session = take_over(Shown(shown.clone()), fd, offer, Config::default()).expect("taken");
        let flags = offer.flags & !InitFlags::FUSE_INIT_EXT.bits();
        assert_eq!(shown.get(), Some(&(flags, 131_072)));
        let mut notice = [1; 64];
        let read = io::Read::read(&mut File::from(kernel), &mut notice).expect("a notice");
        assert_eq!(read, 16);
        assert_eq!(notice[4..8], 7_i32.to_ne_bytes());
        drop(session);
    }
}

//! Frames: what travels on a QUIC stream, and the versioned encoding of everything stored or sent.
//!
//! On the wire a frame is `version u16 LE · service u8 · head length u32 LE · body length u32 LE · head · body`.
//! The head is a postcard message; the body is raw payload that is never copied through an encoder.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// Oldest protocol version that this binary reads.
pub const PROTOCOL_MIN: u16 = 1;
/// Protocol version that this binary writes.
pub const PROTOCOL_MAX: u16 = 1;
/// Largest head of a frame in bytes.
pub const FRAME_HEAD_BYTES_MAX: usize = 8 << 20;
/// Largest body of a frame in bytes.
pub const FRAME_BODY_BYTES_MAX: usize = 16 << 20;

const PREFIX_BYTES: usize = 11;

/// Who a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Service {
    /// Raft, proposals, barriers, leases, admission.
    Agreement = 1,
    /// Records, cuts, reads, repair.
    Data = 2,
    /// RainStorm between members.
    Streaming = 3,
    /// The predecessor's commands and status, from the local command line.
    Control = 4,
}

/// One request or response.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Who it is for.
    pub service: Service,
    /// A postcard message of that service.
    pub head: Bytes,
    /// Raw payload.
    pub body: Bytes,
}

/// Why bytes are not a frame or not a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error(
        "protocol version {0} is not between {PROTOCOL_MIN} and {PROTOCOL_MAX}: upgrade the older side"
    )]
    Version(u16),
    #[error("unknown service {0}")]
    Service(u8),
    #[error("head of {0} bytes is over the limit of {FRAME_HEAD_BYTES_MAX}")]
    HeadSize(usize),
    #[error("body of {0} bytes is over the limit of {FRAME_BODY_BYTES_MAX}")]
    BodySize(usize),
    #[error("cut short")]
    Short,
    #[error("not a message of this service: {0}")]
    Malformed(String),
}

impl Frame {
    /// A frame whose head is `message` and whose body is `body`.
    pub fn new<T: Serialize>(service: Service, message: &T, body: Bytes) -> Self {
        Self {
            service,
            head: encode(message),
            body,
        }
    }

    /// Bytes of the fixed prefix before head and body.
    pub const PREFIX_BYTES: usize = PREFIX_BYTES;

    /// The fixed prefix of this frame.
    pub fn prefix(&self) -> [u8; PREFIX_BYTES] {
        let mut out = [0u8; PREFIX_BYTES];
        out[0..2].copy_from_slice(&PROTOCOL_MAX.to_le_bytes());
        out[2] = self.service as u8;
        out[3..7].copy_from_slice(&(self.head.len() as u32).to_le_bytes());
        out[7..11].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        out
    }

    /// Service, head bytes and body bytes that a prefix announces, checked against the limits.
    pub fn parse_prefix(
        prefix: &[u8; PREFIX_BYTES],
    ) -> Result<(Service, usize, usize), FrameError> {
        let version = u16::from_le_bytes([prefix[0], prefix[1]]);
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&version) {
            return Err(FrameError::Version(version));
        }
        let service = match prefix[2] {
            1 => Service::Agreement,
            2 => Service::Data,
            3 => Service::Streaming,
            4 => Service::Control,
            other => return Err(FrameError::Service(other)),
        };
        let head = u32::from_le_bytes([prefix[3], prefix[4], prefix[5], prefix[6]]) as usize;
        let body = u32::from_le_bytes([prefix[7], prefix[8], prefix[9], prefix[10]]) as usize;
        if head > FRAME_HEAD_BYTES_MAX {
            return Err(FrameError::HeadSize(head));
        }
        if body > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::BodySize(body));
        }
        Ok((service, head, body))
    }

    /// The message in the head.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        decode(&self.head)
    }
}

/// `version u16 LE` and the postcard encoding of `message`.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    out.put_u16_le(PROTOCOL_MAX);
    let writer = postcard::to_extend(message, Appender(out))
        .expect("in-memory encoding of our own types cannot fail");
    writer.0.freeze()
}

/// The message that [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let Some((version, rest)) = bytes.split_at_checked(2) else {
        return Err(FrameError::Short);
    };
    let version = u16::from_le_bytes([version[0], version[1]]);
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&version) {
        return Err(FrameError::Version(version));
    }
    postcard::from_bytes(rest).map_err(|error| FrameError::Malformed(error.to_string()))
}

struct Appender(BytesMut);

impl Extend<u8> for Appender {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        for byte in bytes {
            self.0.put_u8(byte);
        }
    }
}

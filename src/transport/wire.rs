//! One frame on one QUIC stream, and the codes by which streams and connections are ended.

use crate::tuning::{REQUEST_MEMORY_TIMEOUT, SMALL_REQUEST_BYTES};
use bytes::{Bytes, BytesMut};
use hydfs_types::{FRAME_BODY_BYTES_MAX, FRAME_HEAD_BYTES_MAX, Frame, FrameError, Service};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use std::sync::Arc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Codes of a stream that is reset or stopped.
pub(crate) mod stream {
    use quinn::VarInt;
    /// The caller no longer wants the answer.
    pub(crate) const CANCELLED: VarInt = VarInt::from_u32(1);
    /// Turned away before a handler saw it.
    pub(crate) const OVERLOADED: VarInt = VarInt::from_u32(2);
    /// Not a frame.
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(3);
    /// The handler gave no answer.
    pub(crate) const FAILED: VarInt = VarInt::from_u32(4);
}

/// Codes of a connection that is closed.
pub(crate) mod close {
    use quinn::VarInt;
    /// Hello or certificate refused; the reason says why.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
    /// The member stops.
    pub(crate) const SHUTDOWN: VarInt = VarInt::from_u32(2);
    /// No longer wanted.
    pub(crate) const FORGOTTEN: VarInt = VarInt::from_u32(3);
}

const AGREEMENT_PRIORITY: i32 = 1;

/// Both directions of a stream; dropped before [`Stream::finished`], it is reset, so that what was cut short is never
/// taken for complete (quinn finishes dropped streams).
pub(crate) struct Stream {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    /// How it ends where it is dropped early.
    pub(crate) end: VarInt,
    finished: bool,
}

impl Stream {
    pub(crate) fn new((send, recv): (SendStream, RecvStream), end: VarInt) -> Self {
        Self {
            send,
            recv,
            end,
            finished: false,
        }
    }

    /// All was sent and received.
    pub(crate) fn finished(&mut self) {
        self.finished = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // Both fail only where the stream is over already.
            self.send.reset(self.end).ok();
            self.recv.stop(self.end).ok();
        }
    }
}

/// Why no frame came.
#[derive(Debug)]
pub(crate) enum ReadFault {
    Frame(FrameError),
    Stream(ReadError),
    /// Too much in hand: nothing was read.
    Overload,
}

impl From<FrameError> for ReadFault {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<ReadError> for ReadFault {
    fn from(error: ReadError) -> Self {
        Self::Stream(error)
    }
}

/// Bytes of a frame on the wire.
pub(crate) fn frame_bytes(frame: &Frame) -> u64 {
    (Frame::PREFIX_BYTES + frame.head.len() + frame.body.len()) as u64
}

/// Whether a frame is small enough to be sent.
pub(crate) fn check_size(frame: &Frame) -> Result<(), FrameError> {
    if frame.head.len() > FRAME_HEAD_BYTES_MAX {
        return Err(FrameError::HeadSize(frame.head.len()));
    }
    if frame.body.len() > FRAME_BODY_BYTES_MAX {
        return Err(FrameError::BodySize(frame.body.len()));
    }
    Ok(())
}

/// Sends a frame and ends the direction; payloads are handed over, not copied. Agreement goes before waiting data.
pub(crate) async fn write_frame(send: &mut SendStream, frame: Frame) -> Result<(), WriteError> {
    if frame.service == Service::Agreement {
        send.set_priority(AGREEMENT_PRIORITY)
            .map_err(|_| WriteError::ClosedStream)?;
    }
    let prefix = Bytes::copy_from_slice(&frame.prefix());
    send.write_all_chunks(&mut [prefix, frame.head, frame.body])
        .await?;
    send.finish().map_err(|_| WriteError::ClosedStream)
}

/// What a frame's prefix announces, within the limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced {
    pub(crate) service: Service,
    head: usize,
    body: usize,
}

/// Reads the prefix of a frame.
pub(crate) async fn read_prefix(recv: &mut RecvStream) -> Result<Announced, ReadFault> {
    let mut prefix = [0; Frame::PREFIX_BYTES];
    recv.read_exact(&mut prefix)
        .await
        .map_err(|error| match error {
            ReadExactError::FinishedEarly(_) => ReadFault::Frame(FrameError::Short),
            ReadExactError::ReadError(error) => ReadFault::Stream(error),
        })?;
    let (service, head, body) = Frame::parse_prefix(&prefix)?;
    Ok(Announced {
        service,
        head,
        body,
    })
}

/// Waits until `memory` has room for a large frame.
pub(crate) async fn reserve(
    announced: Announced,
    memory: &Arc<Semaphore>,
) -> Result<Option<OwnedSemaphorePermit>, ReadFault> {
    let bytes = announced.head + announced.body;
    if bytes <= SMALL_REQUEST_BYTES {
        return Ok(None);
    }
    let bytes = u32::try_from(bytes).expect("both limits together are 24 MiB");
    match timeout(
        REQUEST_MEMORY_TIMEOUT,
        memory.clone().acquire_many_owned(bytes),
    )
    .await
    {
        Ok(Ok(permit)) => Ok(Some(permit)),
        _ => Err(ReadFault::Overload),
    }
}

/// Reads the rest of a frame and the end of the direction.
pub(crate) async fn read_rest(
    recv: &mut RecvStream,
    announced: Announced,
) -> Result<Frame, ReadFault> {
    let Announced {
        service,
        head,
        body,
    } = announced;
    // Always copied: a slice of the received packet would keep up to 64 KiB alive for a few bytes.
    let mut all = BytesMut::with_capacity(head + body);
    while all.len() < head + body {
        match recv.read_chunk(head + body - all.len(), true).await? {
            Some(chunk) => all.extend_from_slice(&chunk.bytes),
            None => return Err(FrameError::Short.into()),
        }
    }
    if recv.read_chunk(1, true).await?.is_some() {
        return Err(FrameError::Malformed("bytes after the frame".into()).into());
    }
    let mut head_bytes = all.freeze();
    let body_bytes = head_bytes.split_off(head);
    Ok(Frame {
        service,
        head: head_bytes,
        body: body_bytes,
    })
}

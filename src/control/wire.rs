//! Framing on the socket: `length u32 LE · message`, with a limit and a deadline on every read and write.

use crate::{Error, Kind, protocol::MESSAGE_BYTES_MAX};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Longest wait for the other side to take a message.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Sends one message.
pub(crate) async fn send<W, T>(to: &mut W, message: &T) -> Result<(), Error>
where
    W: AsyncWrite + Unpin,
    T: Serialize,
{
    let bytes = hydfs_types::encode(message);
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "message of {} bytes is over the limit of {MESSAGE_BYTES_MAX}",
                bytes.len()
            ),
        ));
    }
    let write = async {
        to.write_all(&(bytes.len() as u32).to_le_bytes()).await?;
        to.write_all(&bytes).await?;
        to.flush().await
    };
    match timeout(WRITE_DEADLINE, write).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Error::new(
            Kind::TimedOut,
            "the other side of the control socket does not read",
        )),
    }
}

/// Takes one message; `None` where the other side has closed between two.
pub(crate) async fn receive<R, T>(from: &mut R, deadline: Duration) -> Result<Option<T>, Error>
where
    R: AsyncRead + Unpin,
    T: DeserializeOwned,
{
    match timeout(deadline, receive_bytes(from)).await {
        Ok(Ok(Some(bytes))) => match hydfs_types::decode(&bytes) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(Error::new(
                Kind::Invalid,
                format!("not a control message: {error}"),
            )),
        },
        Ok(Ok(None)) => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(
            Kind::TimedOut,
            format!("nothing came within {} s", deadline.as_secs()),
        )),
    }
}

async fn receive_bytes<R: AsyncRead + Unpin>(from: &mut R) -> Result<Option<Vec<u8>>, Error> {
    let mut length = [0u8; 4];
    let first = from.read(&mut length).await?;
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[first..]).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(Error::new(
            Kind::Invalid,
            format!("message of {length} bytes is over the limit of {MESSAGE_BYTES_MAX}"),
        ));
    }
    let mut bytes = vec![0u8; length];
    from.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Request;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn what_is_sent_arrives_and_a_closed_side_is_an_end() {
        let (mut a, mut b) = tokio::io::duplex(1 << 16);
        send(&mut a, &Request::Merge { path: "/x".into() })
            .await
            .unwrap();
        drop(a);
        let got: Option<Request> = receive(&mut b, SOON).await.unwrap();
        assert_eq!(got, Some(Request::Merge { path: "/x".into() }));
        let end: Option<Request> = receive(&mut b, SOON).await.unwrap();
        assert_eq!(end, None);
    }

    #[tokio::test]
    async fn a_length_over_the_limit_is_refused_before_memory_is_taken() {
        let (mut a, mut b) = tokio::io::duplex(64);
        a.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let got: Result<Option<Request>, Error> = receive(&mut b, SOON).await;
        assert_eq!(got.unwrap_err().kind, Kind::Invalid);
    }

    #[tokio::test]
    async fn rubbish_is_an_error_and_a_silent_side_a_timeout() {
        let (mut a, mut b) = tokio::io::duplex(64);
        a.write_all(&[3, 0, 0, 0, 9, 9, 9]).await.unwrap();
        let got: Result<Option<Request>, Error> = receive(&mut b, SOON).await;
        assert_eq!(got.unwrap_err().kind, Kind::Invalid);
        let got: Result<Option<Request>, Error> = receive(&mut b, Duration::from_millis(10)).await;
        assert_eq!(got.unwrap_err().kind, Kind::TimedOut);
    }
}

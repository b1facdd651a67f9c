//! Log lines go to standard error; whoever starts the member decides where that goes.

use super::failure::Failure;
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging with a filter such as `info` or `warn,hydfs_data=debug`.
pub fn start(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(format!("--log {filter}: {error}; try info or debug")))?;
    let subscriber = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .finish();
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| Failure::new(format!("logging cannot start: {error}")))
}

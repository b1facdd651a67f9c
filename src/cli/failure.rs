//! How the binary fails: one line for a person, with the remedy, and an exit code.

use std::process::ExitCode;

/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of a worker or member that ended without having been asked to.
pub const DIED: u8 = 3;

/// A failure to report.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// What failed, on what, and what to do next.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: FAILED,
        }
    }

    /// A failure that another process has reported.
    pub fn told(code: u8) -> Self {
        Self {
            message: String::new(),
            code,
        }
    }

    /// The same with another exit code.
    pub fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Prints it and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("hydfs: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<hydfs_control::Error> for Failure {
    fn from(error: hydfs_control::Error) -> Self {
        Self::new(error.message)
    }
}

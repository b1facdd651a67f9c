//! What can go wrong before the network runs: files, certificates, the socket. Each message ends with a remedy.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why certificates could not be made or read, or the endpoint could not start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}; {remedy}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
        remedy: &'static str,
    },
    /// A key or certificate is there already; it is never overwritten.
    #[error("{path} exists and is not overwritten; move it away first if you mean to replace it")]
    Exists { path: PathBuf },
    /// A member name that cannot be part of a certificate and a file name.
    #[error(
        "{name:?} cannot name a member: use 1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit, and not \"ca\""
    )]
    Name { name: String },
    /// A host of a certificate is neither an address nor a DNS name.
    #[error("{host:?} is neither an IP address nor a DNS name; correct it or leave it out")]
    Host { host: String },
    /// Validity outside 1 to 36,500 days.
    #[error("a certificate cannot be valid for {days} days; choose 1 to 36500")]
    Days { days: u32 },
    /// A file is there but is not what it should be.
    #[error("{path}: {why}; {remedy}")]
    Certificate {
        path: PathBuf,
        why: String,
        remedy: &'static str,
    },
    /// The library that makes certificates refused.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The UDP socket could not be opened.
    #[error(
        "cannot listen on UDP {addr}: {source}; choose another --listen address or end the process that holds it (ss -ulpn)"
    )]
    Listen { addr: SocketAddr, source: io::Error },
    /// Peers would be told an address that reaches nobody.
    #[error(
        "listening on {listen} does not say how peers reach this member; set an address to advertise that is not 0.0.0.0 or [::]"
    )]
    Advertise { listen: SocketAddr },
    /// A certificate of another name for a member that runs.
    #[error(
        "{name} cannot become {other} while it runs: start it anew under that name, or load the certificate of {name}"
    )]
    Renamed { name: String, other: String },
    /// No asynchronous runtime to run on.
    #[error("the network needs a tokio runtime: {0}")]
    Runtime(String),
    /// The TLS library refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

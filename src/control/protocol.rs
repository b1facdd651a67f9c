//! Messages of the control socket. A connection carries requests and their answers in turn and has at most one
//! open transfer. Enums only grow at the end; the version word of `hydfs_types::encode` guards the rest.

use crate::{
    Appended, Audit, Drain, Error, FileCopies, MemberRow, Merged, Status, StoredRow, Suspicion,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of one piece of a transfer; an append of up to one piece is one record.
pub const PIECE_BYTES: usize = 1 << 20;
/// Largest message: a piece, or a listing of some ten thousand rows.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Longest path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Most members in one `multiappend`.
pub const APPENDERS_MAX: usize = 64;

/// How a file is opened for a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// A new file; it goes again if the transfer breaks off (fault S12).
    Create,
    /// The end of an existing file.
    Append,
    /// All of an existing file, merged.
    Read,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Status,
    Members,
    Locate {
        path: String,
    },
    Store,
    Metrics,
    Suspicion {
        set: Option<bool>,
    },
    Leave,
    Merge {
        path: String,
    },
    /// Begins a transfer: `Opened`.
    Open {
        path: String,
        transfer: Transfer,
    },
    /// The next piece of an upload: `Done`.
    Write {
        data: Bytes,
    },
    /// The next piece of a download: `Data`, empty at the end.
    Read,
    /// Ends the transfer. For uploads everything is durable on every replica when it answers.
    Close,
    ReadReplica {
        member: String,
        path: String,
        offset: u64,
        len: u32,
    },
    /// Begins a `multiappend` by these members: `Done`.
    Gather {
        path: String,
        members: Vec<String>,
    },
    /// The next piece of what the member at this position appends: `Done`.
    Piece {
        at: usize,
        data: Bytes,
    },
    /// All members append at once: `Appended`.
    Go,
    /// Would this job's spec start? `Done`.
    CheckJob {
        path: String,
        spec: String,
    },
    /// Does a job hold against its receipt? `Audit`, which says how far that is; who wants to know asks again.
    AuditJob {
        name: String,
    },
    /// Has the copies of a member (`None`: this one) moved to others, or takes that back: `Drain`. Asked again it says
    /// how far that is.
    Drain {
        member: Option<String>,
        on: bool,
    },
    /// A member that is down will not come back: `Done`. `now`: though nobody alive has what it has.
    Dismiss {
        member: String,
        now: bool,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Done,
    Failed(Error),
    Status(Status),
    Members(Vec<MemberRow>),
    Located(FileCopies),
    Store(Vec<StoredRow>),
    Text(String),
    Suspicion(Suspicion),
    Merged(Merged),
    /// Size at the time of opening.
    Opened {
        size: u64,
    },
    Data(Bytes),
    Appended(Vec<Appended>),
    Drain(Drain),
    Audit(Audit),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_messages() {
        let requests = [
            Request::Locate { path: "/a".into() },
            Request::Suspicion { set: Some(true) },
            Request::Drain {
                member: Some("n1".into()),
                on: true,
            },
        ];
        let responses = [
            Response::Text("n1".into()),
            Response::Opened { size: 300 },
            Response::Data(Bytes::from_static(b"bytes")),
        ];
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "messages")
            .seeds(requests.map(|request| hydfs_types::encode(&request)))
            .seeds(responses.map(|response| hydfs_types::encode(&response)))
            .run(|bytes| {
                let request = hydfs_fuzz::seen(&hydfs_types::decode::<Request>(bytes));
                request + &hydfs_fuzz::seen(&hydfs_types::decode::<Response>(bytes))
            });
        assert!(shapes > 30, "{shapes}");
    }
}

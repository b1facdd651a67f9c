//! What the group sends and stores, in types of our own: an upgrade of openraft does not change a byte of it.
//! Enums only grow at the end.

use crate::raft::{
    Entry, LogId, Membership, Payload, Sealed, SnapshotMeta, StoredMembership, Vote,
};
use bytes::{Bytes, BytesMut};
use hydfs_types::{Applied, Envelope, FRAME_BODY_BYTES_MAX, Frame, LogIndex, MemberId, Service};
use openraft::entry::RaftEntry;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Largest command in bytes, envelope included: an entry is one record of the log.
pub const COMMAND_BYTES_MAX: usize = 2 << 20;
/// Entries of one append message carry at most this many bytes of commands, or one command.
pub const APPEND_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX / 4;
/// Bytes of one piece of a snapshot.
pub const SNAPSHOT_PIECE_BYTES: usize = 4 << 20;

/// Where a member of the group serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address(pub SocketAddr);

/// Nowhere; openraft wants there to be one.
impl Default for Address {
    fn default() -> Self {
        Self(SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

/// `Service::Agreement`: a request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// A message of the member itself (leases and the like), which lies in the body. The group never looks at it.
    Member,
    Append(Append),
    Vote(VoteAsk),
    PreVote(VoteAsk),
    Piece(Piece),
    Transfer(Transfer),
    Propose(Propose),
    /// Asks the leader for an index that covers everything acknowledged so far.
    Barrier {
        millis: u32,
    },
    /// The same, and a read lease for this life of a member whose copy of the state has `applied`.
    Lease {
        member: MemberId,
        life: u64,
        applied: LogIndex,
        millis: u32,
    },
    /// Asks a holder of a read lease to apply everything up to `through`.
    Show {
        through: LogIndex,
    },
    /// Gives a read lease back.
    Release {
        member: MemberId,
        life: u64,
    },
}

/// `Service::Agreement`: an answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    Member,
    Append(AppendAnswer),
    Vote {
        vote: Ballot,
        granted: bool,
        last: Option<EntryId>,
    },
    /// `next` is the offset wanted next. Where that is the end, the state is being restored; `done` when it is.
    Piece {
        vote: Ballot,
        next: u64,
        done: bool,
    },
    Transfer {
        done: bool,
    },
    Applied(Applied),
    Barrier {
        index: LogIndex,
    },
    /// Whoever was asked does not lead.
    NotLeader {
        leader: Option<MemberId>,
        addr: Option<SocketAddr>,
    },
    /// No answer within the time the request allowed, or the group has stopped here. The effect is unknown.
    Unavailable {
        why: String,
    },
    Lease {
        index: LogIndex,
        granted: bool,
    },
    Shown {
        applied: LogIndex,
    },
    Released,
    /// Nothing was done, nor will be.
    NotTaken {
        why: String,
    },
}

/// A candidate's or leader's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    pub term: u64,
    pub member: u64,
    /// Granted by a majority: the claim is a leadership.
    pub committed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryId {
    pub term: u64,
    pub index: u64,
}

/// An entry without the bytes of its command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryHead {
    pub id: EntryId,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    Blank,
    /// A command of that many bytes, which lie elsewhere.
    Command(u32),
    Membership(Members),
}

/// Voters (two sets while a change is under way) and the addresses of all members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub voters: Vec<BTreeSet<u64>>,
    pub all: BTreeMap<u64, SocketAddr>,
}

/// The member that a message is for. Whoever else gets it, at an address that was another's, refuses it: what it answers
/// would count as the other's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target(pub MemberId);

/// Entries to append after `prev`; the commands lie back to back in the body.
#[derive(Debug, Serialize, Deserialize)]
pub struct Append {
    pub vote: Ballot,
    pub prev: Option<EntryId>,
    pub committed: Option<EntryId>,
    pub entries: Vec<EntryHead>,
    pub target: Target,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum AppendAnswer {
    Success,
    Partial(Option<EntryId>),
    Conflict,
    HigherVote(Ballot),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct VoteAsk {
    pub vote: Ballot,
    pub last: Option<EntryId>,
    pub transfer: bool,
    pub target: Target,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub last: Option<EntryId>,
    pub members_at: Option<EntryId>,
    pub members: Members,
}

/// A piece of a snapshot; its bytes lie in the body. An empty one at the end asks whether the state is restored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Piece {
    pub vote: Ballot,
    pub meta: Meta,
    pub offset: u64,
    pub total: u64,
    pub target: Target,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Transfer {
    pub from: Ballot,
    pub to: u64,
    pub last: Option<EntryId>,
}

/// Asks for a command to be committed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Propose {
    pub envelope: Envelope,
    /// How long the asker waits: the asked one answers by then.
    pub millis: u32,
    /// A member that does not lead passes the request on to the leader, once.
    pub forward: bool,
    /// Who shows the effect to nobody before its own copy has it: the member that asked first. 0: nobody.
    pub asker: MemberId,
}

/// Why a message makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message of the agreement group: {0}")]
pub struct Malformed(pub String);

/// A frame with this request.
pub fn request(message: &Request, body: Bytes) -> Frame {
    Frame::new(Service::Agreement, message, body)
}

/// A frame with this answer.
pub fn response(message: &Response) -> Frame {
    Frame::new(Service::Agreement, message, Bytes::new())
}

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            member: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        match ballot.committed {
            true => Vote::new_committed(ballot.term, ballot.member),
            false => Vote::new(ballot.term, ballot.member),
        }
    }
}

impl From<LogId> for EntryId {
    fn from(id: LogId) -> Self {
        Self {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<EntryId> for LogId {
    fn from(id: EntryId) -> Self {
        LogId::new_term_index(id.term, id.index)
    }
}

impl From<&Membership> for Members {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            all: membership.nodes().map(|(id, addr)| (*id, addr.0)).collect(),
        }
    }
}

impl TryFrom<Members> for Membership {
    type Error = Malformed;

    fn try_from(members: Members) -> Result<Self, Malformed> {
        let nodes: BTreeMap<_, _> = members
            .all
            .into_iter()
            .map(|(id, addr)| (id, Address(addr)))
            .collect();
        if members.voters.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(members.voters, nodes).map_err(|error| Malformed(error.to_string()))
    }
}

impl From<&SnapshotMeta> for Meta {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.map(Into::into),
            members_at: meta.last_membership.log_id().map(Into::into),
            members: meta.last_membership.membership().into(),
        }
    }
}

impl TryFrom<Meta> for SnapshotMeta {
    type Error = Malformed;

    fn try_from(meta: Meta) -> Result<Self, Malformed> {
        let members =
            StoredMembership::new(meta.members_at.map(Into::into), meta.members.try_into()?);
        Ok(Self {
            last_log_id: meta.last.map(Into::into),
            last_membership: members,
        })
    }
}

/// An entry's head and the bytes of its command (empty if it has none).
pub fn split_entry(entry: &Entry) -> (EntryHead, &[u8]) {
    let id = entry.log_id.into();
    match &entry.payload {
        Payload::Blank => (
            EntryHead {
                id,
                kind: EntryKind::Blank,
            },
            &[],
        ),
        Payload::Normal(Sealed(bytes)) => (
            EntryHead {
                id,
                kind: EntryKind::Command(bytes.len() as u32),
            },
            bytes,
        ),
        Payload::Membership(members) => (
            EntryHead {
                id,
                kind: EntryKind::Membership(members.into()),
            },
            &[],
        ),
    }
}

/// The entry of this head, whose command is cut off the front of `body`.
pub fn join_entry(head: EntryHead, body: &mut Bytes) -> Result<Entry, Malformed> {
    let payload = match head.kind {
        EntryKind::Blank => Payload::Blank,
        EntryKind::Membership(members) => Payload::Membership(members.try_into()?),
        EntryKind::Command(len) if body.len() < len as usize => {
            return Err(Malformed("a command is cut short".into()));
        }
        EntryKind::Command(len) => Payload::Normal(Sealed(body.split_to(len as usize))),
    };
    Ok(Entry::new(head.id.into(), payload))
}

/// Bytes of an entry's command.
pub fn command_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(Sealed(bytes)) => bytes.len(),
        _ => 0,
    }
}

/// Heads and joined bodies of entries.
pub fn split_entries(entries: &[Entry]) -> (Vec<EntryHead>, Bytes) {
    let mut body = BytesMut::with_capacity(entries.iter().map(command_bytes).sum());
    let heads = entries.iter().map(|entry| {
        let (head, bytes) = split_entry(entry);
        body.extend_from_slice(bytes);
        head
    });
    let heads = heads.collect();
    (heads, body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTE: Ballot = Ballot {
        term: 5,
        member: 2,
        committed: true,
    };
    const LAST: EntryId = EntryId {
        term: 4,
        index: 300,
    };

    const TARGET: Target = Target(MemberId(3));

    fn members() -> Members {
        Members {
            voters: vec![BTreeSet::from([1])],
            all: BTreeMap::from([(1, SocketAddr::from(([10, 0, 0, 1], 7000)))]),
        }
    }

    fn requests() -> Vec<(Request, Vec<u8>)> {
        let entries = vec![
            EntryHead {
                id: LAST,
                kind: EntryKind::Blank,
            },
            EntryHead {
                id: LAST,
                kind: EntryKind::Command(9),
            },
            EntryHead {
                id: LAST,
                kind: EntryKind::Membership(members()),
            },
        ];
        let meta = Meta {
            last: Some(LAST),
            members_at: None,
            members: members(),
        };
        let member_bytes = [1, 1, 1, 1, 1, 0, 10, 0, 0, 1, 0xd8, 0x36];
        let id = [4, 0xac, 2];
        let append = [
            &[1, 0, 1, 5, 2, 1, 1, 4, 0xac, 2, 0, 3][..],
            &id,
            &[0],
            &id,
            &[1, 9],
            &id,
            &[2],
            &member_bytes,
            &[3],
        ];
        let piece = [
            &[1, 0, 4, 5, 2, 1, 1][..],
            &id,
            &[0],
            &member_bytes,
            &[7, 8, 3],
        ];
        vec![
            (Request::Member, vec![1, 0, 0]),
            (
                Request::Append(Append {
                    vote: VOTE,
                    prev: Some(LAST),
                    committed: None,
                    entries,
                    target: TARGET,
                }),
                append.concat(),
            ),
            (
                Request::Vote(VoteAsk {
                    vote: VOTE,
                    last: None,
                    transfer: true,
                    target: TARGET,
                }),
                vec![1, 0, 2, 5, 2, 1, 0, 1, 3],
            ),
            (
                Request::PreVote(VoteAsk {
                    vote: VOTE,
                    last: None,
                    transfer: false,
                    target: TARGET,
                }),
                vec![1, 0, 3, 5, 2, 1, 0, 0, 3],
            ),
            (
                Request::Piece(Piece {
                    vote: VOTE,
                    meta,
                    offset: 7,
                    total: 8,
                    target: TARGET,
                }),
                piece.concat(),
            ),
            (
                Request::Transfer(Transfer {
                    from: VOTE,
                    to: 3,
                    last: None,
                }),
                vec![1, 0, 5, 5, 2, 1, 3, 0],
            ),
            (Request::Barrier { millis: 300 }, vec![1, 0, 7, 0xac, 2]),
            (
                Request::Lease {
                    member: MemberId(3),
                    life: 4,
                    applied: LogIndex(5),
                    millis: 300,
                },
                vec![1, 0, 8, 3, 4, 5, 0xac, 2],
            ),
            (
                Request::Show {
                    through: LogIndex(300),
                },
                vec![1, 0, 9, 0xac, 2],
            ),
            (
                Request::Release {
                    member: MemberId(3),
                    life: 4,
                },
                vec![1, 0, 10, 3, 4],
            ),
        ]
    }

    #[test]
    fn messages_have_golden_bytes() {
        for (message, bytes) in requests() {
            assert_eq!(hydfs_types::encode(&message), bytes, "{message:?}");
        }
        let responses = [
            (
                Response::Append(AppendAnswer::HigherVote(VOTE)),
                vec![1, 0, 1, 3, 5, 2, 1],
            ),
            (
                Response::Vote {
                    vote: VOTE,
                    granted: true,
                    last: None,
                },
                vec![1, 0, 2, 5, 2, 1, 1, 0],
            ),
            (
                Response::Piece {
                    vote: VOTE,
                    next: 7,
                    done: true,
                },
                vec![1, 0, 3, 5, 2, 1, 7, 1],
            ),
            (Response::Transfer { done: true }, vec![1, 0, 4, 1]),
            (
                Response::Barrier {
                    index: LogIndex(300),
                },
                vec![1, 0, 6, 0xac, 2],
            ),
            (
                Response::NotLeader {
                    leader: Some(MemberId(3)),
                    addr: None,
                },
                vec![1, 0, 7, 1, 3, 0],
            ),
            (
                Response::Unavailable { why: "x".into() },
                vec![1, 0, 8, 1, b'x'],
            ),
            (
                Response::Lease {
                    index: LogIndex(300),
                    granted: true,
                },
                vec![1, 0, 9, 0xac, 2, 1],
            ),
            (
                Response::Shown {
                    applied: LogIndex(3),
                },
                vec![1, 0, 10, 3],
            ),
            (Response::Released, vec![1, 0, 11]),
        ];
        for (message, bytes) in responses {
            assert_eq!(hydfs_types::encode(&message), bytes, "{message:?}");
        }
    }

    #[test]
    fn mutilated_messages_are_refused_or_read_but_never_fatal() {
        for (_, bytes) in requests() {
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut bad = bytes.clone();
                    bad[at] ^= 1 << bit;
                    let Ok(Request::Append(append)) = hydfs_types::decode::<Request>(&bad) else {
                        continue;
                    };
                    let mut body = Bytes::from_static(b"nine byte");
                    for head in append.entries {
                        // Refused or not: it only must not panic.
                        join_entry(head, &mut body).ok();
                    }
                }
                assert!(
                    hydfs_types::decode::<Request>(&bytes[..at]).is_err(),
                    "cut to {at} bytes"
                );
            }
        }
    }

    #[test]
    fn fuzz_messages() {
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "messages")
            .seeds(requests().into_iter().map(|(_, bytes)| bytes))
            .run(|bytes| {
                let request = hydfs_types::decode::<Request>(bytes);
                if let Ok(Request::Append(append)) = &request {
                    let mut body = Bytes::from_static(b"commands");
                    for head in &append.entries {
                        drop(join_entry(head.clone(), &mut body));
                    }
                }
                let response = hydfs_types::decode::<Response>(bytes);
                hydfs_fuzz::seen(&request) + &hydfs_fuzz::seen(&response)
            });
        assert!(shapes > 30, "{shapes}");
    }
}

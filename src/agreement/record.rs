//! Records of the group's log. Kind and bytes are golden-tested; kinds are never reused.

use crate::{
    error::Error,
    index::Index,
    raft::{Entry, LogId, Vote},
    wire::{Ballot, EntryHead, EntryId, join_entry, split_entry},
};
use bytes::Bytes;
use hydfs_store::{Log, Position, StoreError};

/// `head length u32 LE · versioned head · command`.
const ENTRY: u8 = 1;
/// The vote from now on.
const VOTE: u8 = 2;
/// Entries after this one (or all) are void: another leader overwrote them.
const TRUNCATED: u8 = 3;
/// Entries up to this one are in a snapshot.
const PURGED: u8 = 4;
/// Entries up to this one are committed. Lags behind, never ahead.
const COMMITTED: u8 = 5;

/// Appends an entry.
pub fn write_entry(log: &Log, entry: &Entry) -> Result<Position, StoreError> {
    let (head, command) = split_entry(entry);
    let head = hydfs_types::encode(&head);
    log.append(ENTRY, &[&(head.len() as u32).to_le_bytes(), &head, command])
}

pub fn write_vote(log: &Log, vote: Vote) -> Result<Position, StoreError> {
    log.append(VOTE, &[&hydfs_types::encode(&Ballot::from(vote))])
}

pub fn write_truncated(log: &Log, keep: Option<LogId>) -> Result<Position, StoreError> {
    log.append(TRUNCATED, &[&hydfs_types::encode(&keep.map(EntryId::from))])
}

pub fn write_purged(log: &Log, upto: LogId) -> Result<Position, StoreError> {
    log.append(PURGED, &[&hydfs_types::encode(&EntryId::from(upto))])
}

pub fn write_committed(log: &Log, upto: LogId) -> Result<Position, StoreError> {
    log.append(COMMITTED, &[&hydfs_types::encode(&EntryId::from(upto))])
}

/// The entry in a record of this kind and payload.
pub fn read_entry(kind: u8, payload: Bytes) -> Result<Entry, Error> {
    if kind != ENTRY {
        return Err(Error::Record(format!(
            "kind {kind} where an entry should be"
        )));
    }
    let short = || Error::Record("an entry is cut short".into());
    let (len, _) = payload.split_first_chunk::<4>().ok_or_else(short)?;
    let len = u32::from_le_bytes(*len) as usize;
    let end = len
        .checked_add(4)
        .filter(|end| *end <= payload.len())
        .ok_or_else(short)?;
    let head: EntryHead = decode(&payload[4..end])?;
    join_entry(head, &mut payload.slice(end..)).map_err(|error| Error::Record(error.0))
}

/// Does to the index what the record did when it was written.
pub fn replay(index: &mut Index, at: Position, kind: u8, payload: Bytes) -> Result<(), Error> {
    match kind {
        ENTRY => {
            let entry = read_entry(kind, payload)?;
            let id = entry.log_id.index;
            // Records that nothing needs any more may begin anywhere and break off where a purge made them void.
            if index.first_at().is_some() && id != index.next() {
                return Err(Error::Record(format!(
                    "entry {id} where {} should be",
                    index.next()
                )));
            }
            index.push(entry, at);
        }
        VOTE => index.vote = Some(decode::<Ballot>(&payload)?.into()),
        TRUNCATED => index.truncate_after(decode::<Option<EntryId>>(&payload)?.map(Into::into)),
        PURGED => index.purge(decode::<EntryId>(&payload)?.into()),
        COMMITTED => index.committed = Some(decode::<EntryId>(&payload)?.into()),
        other => {
            return Err(Error::Record(format!(
                "unknown kind {other}: written by a newer version of hydfs?"
            )));
        }
    }
    Ok(())
}

fn decode<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    hydfs_types::decode(payload).map_err(|error| Error::Record(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Payload, Sealed};
    use openraft::entry::RaftEntry;

    fn id(term: u64, index: u64) -> LogId {
        EntryId { term, index }.into()
    }

    fn bytes_of(entry: &Entry) -> Bytes {
        let (head, command) = split_entry(entry);
        let head = hydfs_types::encode(&head);
        [&(head.len() as u32).to_le_bytes()[..], &head, command]
            .concat()
            .into()
    }

    #[test]
    fn records_have_golden_bytes() {
        let entry = Entry::new(
            id(3, 300),
            Payload::Normal(Sealed(Bytes::from_static(b"cmd"))),
        );
        assert_eq!(
            &bytes_of(&entry)[..],
            [7, 0, 0, 0, 1, 0, 3, 0xac, 2, 1, 3, b'c', b'm', b'd']
        );
        let blank = Entry::new(id(1, 2), Payload::Blank);
        assert_eq!(&bytes_of(&blank)[..], [5, 0, 0, 0, 1, 0, 1, 2, 0]);
        assert_eq!(
            &hydfs_types::encode(&Ballot {
                term: 5,
                member: 2,
                committed: true
            })[..],
            [1, 0, 5, 2, 1]
        );
        assert_eq!(
            &hydfs_types::encode(&Some(EntryId { term: 1, index: 9 }))[..],
            [1, 0, 1, 1, 9]
        );
    }

    #[test]
    fn entries_come_back_and_mutilated_ones_are_refused() {
        let entry = Entry::new(
            id(3, 300),
            Payload::Normal(Sealed(Bytes::from_static(b"cmd"))),
        );
        let bytes = bytes_of(&entry);
        assert_eq!(read_entry(ENTRY, bytes.clone()).unwrap(), entry);
        for len in 0..bytes.len() {
            assert!(
                read_entry(ENTRY, bytes.slice(..len)).is_err(),
                "cut to {len} bytes"
            );
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.to_vec();
                bad[at] ^= 1 << bit;
                // Any answer will do; a panic or a huge allocation will not.
                read_entry(ENTRY, bad.into()).ok();
            }
        }
    }

    #[test]
    fn replay_follows_truncation_and_purge() {
        let mut index = Index::default();
        let blank = |term, at| Entry::new(id(term, at), Payload::Blank);
        let add = |index: &mut Index, entry: Entry| {
            replay(index, Position(entry.log_id.index), ENTRY, bytes_of(&entry)).unwrap();
        };
        (0..6).for_each(|at| add(&mut index, blank(1, at)));
        replay(
            &mut index,
            Position(0),
            TRUNCATED,
            hydfs_types::encode(&Some(EntryId { term: 1, index: 3 })),
        )
        .unwrap();
        add(&mut index, blank(2, 4));
        assert_eq!(index.last(), Some(id(2, 4)));
        replay(
            &mut index,
            Position(0),
            PURGED,
            hydfs_types::encode(&EntryId { term: 1, index: 2 }),
        )
        .unwrap();
        assert_eq!(index.first_at(), Some(Position(3)));
        // A snapshot past the end voids everything; the log goes on behind it.
        replay(
            &mut index,
            Position(0),
            PURGED,
            hydfs_types::encode(&EntryId { term: 4, index: 40 }),
        )
        .unwrap();
        assert_eq!((index.last(), index.next()), (Some(id(4, 40)), 41));
        add(&mut index, blank(4, 41));
        assert_eq!(
            index.range(0..100).map(|slot| slot.id).collect::<Vec<_>>(),
            [id(4, 41)]
        );
    }

    /// Every single damage and every cut of records of all kinds is an entry, or an error.
    #[test]
    fn fault_m7_damaged_records_are_read_or_refused_without_harm() {
        let entry = Entry::new(
            id(3, 300),
            Payload::Normal(Sealed(Bytes::from_static(b"cmd"))),
        );
        let vote = hydfs_types::encode(&Ballot {
            term: 5,
            member: 2,
            committed: true,
        });
        let samples = [
            (ENTRY, bytes_of(&entry)),
            (VOTE, vote),
            (PURGED, hydfs_types::encode(&EntryId { term: 1, index: 9 })),
        ];
        for (kind, bytes) in samples {
            let read = |bytes: Vec<u8>| {
                drop(replay(
                    &mut Index::default(),
                    Position::default(),
                    kind,
                    bytes.into(),
                ));
            };
            read(bytes.to_vec());
            for at in 0..bytes.len() {
                read(bytes[..at].to_vec());
                for byte in 0..=u8::MAX {
                    let mut damaged = bytes.to_vec();
                    damaged[at] = byte;
                    read(damaged);
                }
            }
        }
    }

    #[test]
    fn fuzz_log() {
        let entry = |index| {
            let payload = Payload::Normal(Sealed(Bytes::from_static(b"cmd")));
            [&[ENTRY][..], &bytes_of(&Entry::new(id(3, index), payload))].concat()
        };
        let facts = [
            [&[VOTE][..], &[1, 0, 5, 2, 1]].concat(),
            [&[TRUNCATED][..], &[1, 0, 1, 1, 9]].concat(),
            [&[PURGED][..], &[1, 0, 1, 9]].concat(),
            [&[COMMITTED][..], &[1, 0, 1, 9]].concat(),
        ];
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "log")
            .seeds([entry(1), entry(300)])
            .seeds(facts)
            .run(|bytes| {
                let Some((kind, payload)) = bytes.split_first() else {
                    return String::new();
                };
                let mut index = Index::default();
                let at = Position::default();
                let read = replay(&mut index, at, *kind, Bytes::copy_from_slice(payload));
                format!("{kind} {}", hydfs_fuzz::seen(&read))
            });
        assert!(shapes > 5, "{shapes}");
    }
}

//! Quotas of directories as a mount sees them (`hydfs_state::Quota` has the rules).
//!
//! `trusted.hydfs.quota.bytes` and `trusted.hydfs.quota.inodes` are the limits: the kernel lets root alone see and set them.
//! `user.hydfs.quota` says to everybody what the limits are and what is used.
//!
//! Below a limit of bytes nothing is answered early, and before a write becomes a record its writer has room for it: it takes
//! some in advance, so that the group is asked once for many writes (one command). Whoever is refused has the room that
//! others hold given back, once a second at most, before it is told EDQUOT.

use crate::{
    call::Call,
    content::Content,
    error::of_agreement,
    volume::{Outcome, Volume},
};
use hydfs_data::{DataError, FileWriter};
use hydfs_mount::{Answer, FsError};
use hydfs_types::{AgreementError, Command, CommandError, Ino, Limit, Reply, WriterId};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// What a writer asks for beside what it needs.
const SPARE: u64 = 4 << 20;
/// Between two times that room is given back on this mount's wish.
const RECLAIM_EVERY: Duration = Duration::from_secs(1);
/// Longest that is waited for others to give room back.
const RECLAIM: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

const BYTES: &[u8] = b"trusted.hydfs.quota.bytes";
const INODES: &[u8] = b"trusted.hydfs.quota.inodes";

/// What is left of the room that a writer of this mount was promised.
#[derive(Debug, Default)]
pub(crate) struct Room {
    of: WriterId,
    left: u64,
    /// Where its writes at offsets end.
    reach: u64,
}

impl Room {
    /// Takes room for a write of `len` bytes, at the end or at an offset of a file of `size`. `Some`: so much is missing.
    fn take(&mut self, writer: WriterId, at: Option<u64>, len: u64, size: u64) -> Option<u64> {
        if self.of != writer {
            *self = Self {
                of: writer,
                ..Self::default()
            };
        }
        let end = at.map(|at| at.saturating_add(len));
        let needed = end.map_or(len, |end| end.saturating_sub(size.max(self.reach)));
        if needed > self.left {
            return Some(needed - self.left);
        }
        self.left -= needed;
        self.reach = self.reach.max(end.unwrap_or_default());
        None
    }

    fn add(&mut self, writer: WriterId, bytes: u64) {
        if self.of == writer {
            self.left += bytes;
        }
    }
}

/// The limit that an extended attribute stands for.
pub(crate) fn limit_of(name: &[u8]) -> Option<Limit> {
    match name {
        BYTES => Some(Limit::Bytes),
        INODES => Some(Limit::Inodes),
        _ => None,
    }
}

/// A number with K, M, G, T or P behind it, each 1,024 of the one before.
fn number(text: &[u8]) -> Outcome<u64> {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let split = text.find(|c: char| !c.is_ascii_digit());
    let (digits, unit) = text.split_at(split.unwrap_or(text.len()));
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        "P" => Some(50),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().zip(shift);
    let number = number.and_then(|(number, shift)| number.checked_mul(1 << shift));
    number.ok_or_else(|| {
        FsError::Invalid(format!(
            "{text:?} is no limit: a number with K, M, G, T or P behind it, or none"
        ))
    })
}

impl Volume {
    pub(crate) async fn set_quota(
        &self,
        call: &Call,
        dir: Ino,
        limit: Limit,
        most: Option<&[u8]>,
    ) -> Outcome {
        let most = most.map(number).transpose()?;
        if most.is_none() {
            self.barrier().await?;
            self.limit(dir, limit)?;
        }
        let command = Command::SetQuota { dir, limit, most };
        let done = self.propose_for(call, command).await;
        done.map(|_| Answer::Done)
    }

    /// The limit, as text.
    pub(crate) fn limit(&self, dir: Ino, limit: Limit) -> Outcome {
        let state = self.ctx.state();
        let most = state.quota_of(dir).and_then(|quota| match limit {
            Limit::Bytes => quota.bytes_max,
            Limit::Inodes => quota.inodes_max,
        });
        let text = most.map(|most| Answer::Value(most.to_string().into_bytes()));
        text.ok_or(FsError::NoAttribute)
    }

    /// Limits and what is used, for people.
    pub(crate) fn quota_text(&self, dir: Ino) -> Outcome {
        let state = self.ctx.state();
        let quota = state.quota_of(dir).ok_or(FsError::NoAttribute)?;
        let most = |most: Option<u64>| most.map_or("no limit".to_owned(), |most| most.to_string());
        let text = format!(
            "bytes {} of {}, {} promised to writers; inodes {} of {}",
            quota.used.bytes,
            most(quota.bytes_max),
            quota.used.room,
            quota.used.inodes,
            most(quota.inodes_max),
        );
        Ok(Answer::Value(text.into_bytes()))
    }

    /// Before a write becomes a record: its writer has room for it. Zeros go where the file has content.
    pub(crate) async fn have_room_for(
        &self,
        writer: &Arc<FileWriter>,
        at: Option<u64>,
        content: &Content,
    ) -> Result<(), DataError> {
        match content {
            Content::Bytes(bytes) => self.have_room(writer, at, bytes.len() as u64).await,
            Content::Zeros(_) => Ok(()),
        }
    }

    /// A writer has room for so many bytes at an offset, or at the end. Cost: nothing where no quota limits the file's bytes.
    pub(crate) async fn have_room(
        &self,
        writer: &Arc<FileWriter>,
        at: Option<u64>,
        len: u64,
    ) -> Result<(), DataError> {
        let ino = writer.ino;
        loop {
            let size = {
                let state = self.ctx.state();
                if !state.names.limits_bytes(ino) {
                    return Ok(());
                }
                state.inode(ino).map_or(0, |inode| inode.attr.size)
            };
            let missing = self
                .table
                .with(ino, |used| used.room.take(writer.writer, at, len, size));
            let Some(missing) = missing else {
                return Ok(());
            };
            match self.reserve(writer.writer, missing, SPARE, None).await {
                Ok(bytes) => self
                    .table
                    .with(ino, |used| used.room.add(writer.writer, bytes)),
                Err(AgreementError::Refused(CommandError::Changed)) => {
                    return Err(DataError::WriterEnded(writer.writer));
                }
                Err(error @ AgreementError::Refused(CommandError::OverQuota(_))) => {
                    return Err(match self.reclaim(ino).await {
                        true => DataError::WriterEnded(writer.writer),
                        false => error.into(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn reserve(
        &self,
        writer: WriterId,
        bytes: u64,
        spare: u64,
        instead_of: Option<WriterId>,
    ) -> Result<u64, AgreementError> {
        let command = Command::Reserve {
            writer,
            bytes,
            spare,
            instead_of,
        };
        match self.ctx.agreement.propose(command).await? {
            Reply::Reserved(bytes) => Ok(bytes),
            _ => Ok(0),
        }
    }

    /// Room for a task's records in an output: how many bytes more it may append.
    pub async fn room_for(&self, writer: &FileWriter, bytes: u64) -> Outcome<u64> {
        let limited = self.ctx.state().names.limits_bytes(writer.ino);
        if !limited {
            return Ok(u64::MAX);
        }
        loop {
            match self.reserve(writer.writer, bytes, SPARE, None).await {
                Err(AgreementError::Refused(CommandError::OverQuota(_)))
                    if self.reclaim(writer.ino).await => {}
                reserved => return reserved.map_err(of_agreement),
            }
        }
    }

    /// A new writer has room for what an ended one could not get acknowledged.
    pub(crate) async fn hand_room_on(
        &self,
        old: &FileWriter,
        new: &FileWriter,
    ) -> Result<(), AgreementError> {
        if !self.ctx.state().names.limits_bytes(new.ino) {
            return Ok(());
        }
        let (bytes, instead_of) = (old.queued_bytes(), Some(old.writer));
        self.reserve(new.writer, bytes, 0, instead_of).await?;
        Ok(())
    }

    /// A size that was refused for want of room is tried once more when others have given room back.
    pub(crate) async fn may_try_again(&self, ino: Ino, error: &FsError) -> bool {
        matches!(error, FsError::OverQuota(_)) && self.reclaim(ino).await
    }

    /// Has the room given back that writers below the same quotas hold and may not need: they end, and what they wrote is
    /// merged. False where nobody has any, or it was done just now.
    async fn reclaim(&self, ino: Ino) -> bool {
        let now = Instant::now();
        {
            let mut last = self.reclaimed.lock().unwrap_or_else(|e| e.into_inner());
            if last.is_some_and(|last| now < last + RECLAIM_EVERY) {
                return false;
            }
            *last = Some(now);
        }
        let holding = self.ctx.state().files_with_room(ino);
        if holding.is_empty() {
            return false;
        }
        if let Err(error) = self.propose(Command::Reclaim { ino }).await {
            tracing::info!(%ino, %error, "room below a quota was not given back");
            return false;
        }
        let done = async {
            for file in holding {
                if let Some(writer) = self.table.writer(file) {
                    drop(self.replace_writer(file, &writer).await);
                }
                drop(self.look_at_all(file).await);
            }
            while !self.ctx.state().files_with_room(ino).is_empty() {
                tokio::time::sleep(LOOK).await;
                if self.barrier().await.is_err() {
                    return;
                }
            }
        };
        drop(tokio::time::timeout(RECLAIM, done).await);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_with_a_unit() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("3k", Some(3 << 10)),
            ("5M", Some(5 << 20)),
            (" 2G\n", Some(2 << 30)),
            ("16000P", Some(16_000 << 50)),
            ("17000P", None),
            ("", None),
            ("M", None),
            ("1.5G", None),
            ("-1", None),
            ("3KB", None),
        ] {
            assert_eq!(number(text.as_bytes()).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn room_is_taken_for_what_makes_a_file_longer() {
        let (mut room, one) = (Room::default(), WriterId(1));
        assert_eq!(room.take(one, Some(0), 100, 100), None);
        assert_eq!(room.take(one, Some(50), 100, 100), Some(50));
        room.add(one, 60);
        assert_eq!(room.take(one, Some(50), 100, 100), None);
        // The same bytes again are no growth, nor is what the size has not shown yet.
        assert_eq!(room.take(one, Some(50), 100, 100), None);
        assert_eq!(room.take(one, None, 11, 100), Some(1));
        assert_eq!(room.take(one, None, 10, 100), None);
        // Another writer begins anew.
        assert_eq!(room.take(WriterId(2), Some(0), 120, 110), Some(10));
        room.add(one, 50);
        assert_eq!(room.left, 0);
    }
}

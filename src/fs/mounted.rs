//! The volume as the FUSE adapter mounts it.

use crate::volume::{Outcome, Volume};
use hydfs_mount::{Caller, FileSystem, FsError, Keep, Request};
use hydfs_types::{Attr, BoxFuture, DirEntry, Ino};
use std::{sync::Arc, time::Duration};

/// The [`FileSystem`] that the FUSE adapter mounts.
pub struct Mounted(pub Arc<Volume>);

impl FileSystem for Mounted {
    fn keep(&self, entry: Option<(Ino, &[u8])>, attr: &Attr) -> Keep {
        self.0.let_keep(entry, attr)
    }

    fn call(&self, caller: Caller, request: Request) -> BoxFuture<'static, Outcome> {
        Box::pin(self.0.clone().answer(caller, request))
    }

    fn keep_listed(
        &self,
        dir: Ino,
        entries: &[(DirEntry, Option<Attr>)],
        most: Duration,
    ) -> Vec<Duration> {
        self.0.let_keep_listed(dir, entries, most)
    }

    fn may_have_set_id(&self, ino: Ino) -> bool {
        self.0.may_have_set_id(ino)
    }

    fn asked(&self, operation: &'static str) {
        self.0.asked.count(operation);
    }

    fn arrived(&self, unique: u64) {
        if let Some(memory) = self.0.table.memory() {
            memory.claim(unique);
        }
    }

    fn replied(&self, unique: u64) {
        if let Some(seq) = self
            .0
            .table
            .memory()
            .and_then(|memory| memory.replied(unique))
        {
            self.0.ctx.agreement.forget(seq);
        }
    }

    fn caught_up(&self) {
        self.0.caught_up();
    }

    fn failed(&self, operation: &'static str, about: (Ino, Option<&[u8]>), error: &FsError) {
        self.0.note_failure(operation, about, error);
    }

    fn call_now(&self, caller: Caller, request: &Request) -> Option<Outcome> {
        let answer = self.0.at_hand(caller.unique, request)?;
        Some(match request {
            Request::Lookup { .. } => self.0.or_moved(caller, answer),
            _ => answer,
        })
    }
}

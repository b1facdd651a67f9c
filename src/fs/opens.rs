//! Opening files that exist.

use crate::{
    call::Call,
    error::of_command,
    synthetic::{Node, Synthetic},
    volume::{Outcome, Volume},
};
use hydfs_mount::{FsError, Handle, How, Opened};
use hydfs_state::{Body, State};
use hydfs_types::Ino;

impl Volume {
    /// Opens an existing file. `cuts`: whose call the truncate is that goes with it, if one does.
    pub(crate) async fn open(
        &self,
        call: &Call,
        cuts: &Call,
        ino: Ino,
        how: How,
    ) -> Outcome<Opened> {
        if Synthetic::is(ino) {
            let (_, node) = self.control_of(ino)?;
            let Node::File(text) = node else {
                return Err(FsError::IsDirectory);
            };
            if how.write {
                self.put_control(ino, &[]).map_err(|_| FsError::Denied)?;
            }
            return self.opened_control(ino, how, text);
        }
        self.barrier().await?;
        let opened = self.open_in(&self.ctx.state(), call, ino, how)?;
        if how.truncate {
            self.truncate(cuts, ino, 0).await?;
        }
        Ok(opened)
    }

    /// Opens an existing file as it is. The state is held until the handle is in the table: an unlinked file is not given
    /// up between the two looks at it.
    pub(crate) fn open_in(
        &self,
        state: &State,
        call: &Call,
        ino: Ino,
        how: How,
    ) -> Outcome<Opened> {
        let inode = state.inode(ino).map_err(of_command)?;
        match &inode.body {
            Body::File(_) => {}
            Body::Directory(_) => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid("not a regular file".into())),
        }
        // Renamed over since the kernel looked its name up: it can be opened until this mount gives it up.
        if inode
            .orphan
            .as_ref()
            .is_some_and(|holders| !holders.contains(&self.ctx.me()))
        {
            return Err(FsError::Stale);
        }
        let handle = self.table.open(ino, how, None, call)?;
        if self.table.is_releasing(ino) {
            self.table.close(handle);
            return Err(FsError::Stale);
        }
        Ok(Self::opened(handle, how))
    }

    /// How the kernel shall treat a descriptor: none uses the page cache. Through it a read is as new as the size that
    /// the kernel believes, and the kernel throws away a size that it asked for when a write or another question of this
    /// mount overlaps: reads ended early, or in zeros. An append would be cut at the border of a page, and half a record
    /// is none. Mappings still use it. A kernel that cannot map such descriptors keeps its cache for those that do not append.
    pub(crate) fn opened(handle: Handle, how: How) -> Opened {
        Opened {
            handle,
            direct: true,
            mappable: !how.append,
            keep_cache: false,
        }
    }
}

//! Which writes are asked to be on disk before they are answered.

use crate::harness::{self, checked};
use hydfs_mount::{Answer, Caller, FileSystem, FsError, MemoryFs, Request};
use hydfs_types::BoxFuture;
use std::{
    fs::OpenOptions,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    sync::{Arc, Mutex},
};

/// The model, and what was asked of each write.
#[derive(Default)]
struct Watched {
    model: MemoryFs,
    synced: Mutex<Vec<bool>>,
}

impl FileSystem for Watched {
    fn call(
        &self,
        caller: Caller,
        request: Request,
    ) -> BoxFuture<'static, Result<Answer, FsError>> {
        if let Request::Write { sync, .. } = &request {
            self.synced.lock().unwrap().push(*sync);
        }
        self.model.call(caller, request)
    }
}

#[test]
fn a_single_write_may_be_asked_to_be_on_disk() {
    let fs = Arc::new(Watched::default());
    let Some(mount) = harness::mounted(fs.clone(), harness::config()) else {
        return;
    };
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).custom_flags(flags);
        options.open(mount.at("f")).unwrap()
    };
    let part = libc::iovec {
        iov_base: b"text".as_ptr().cast_mut().cast(),
        iov_len: 4,
    };
    let write = |file: &std::fs::File, flags| {
        // SAFETY: one part, of four bytes that live on; the descriptor is open.
        let written = unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, 0, flags) };
        assert_eq!(checked(written as i64).unwrap(), 4);
    };
    let plain = open(0);
    write(&plain, 0);
    write(&plain, libc::RWF_DSYNC);
    write(&plain, libc::RWF_SYNC);
    write(&open(libc::O_DSYNC), 0);
    assert_eq!(*fs.synced.lock().unwrap(), [false, true, true, true]);
}

//! Files as memory and as programs.
#![allow(unsafe_code, reason = "mmap has no safe wrapper here")]

use crate::{MEMBERS, Numbers, common::shared::Shared, folders, sh};
use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, PermissionsExt},
    },
    ptr, slice,
};

/// A shared mapping of a whole file, gone when dropped.
pub struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    pub fn of(file: &File, writable: bool) -> Self {
        let len = file.metadata().expect("metadata").len() as usize;
        let rights = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a new mapping anywhere, of an open file, of its length.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                rights,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        Self { at, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading for as long as `self` lives.
        unsafe { slice::from_raw_parts(self.at.cast(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped for writing by the caller, and borrowed for as long.
        unsafe { slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }

    fn sync(&self) {
        // SAFETY: the whole mapping.
        let done = unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) };
        assert_eq!(done, 0, "msync: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, used by nobody any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

#[test]
fn shared_mappings_read_and_write() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "map");
    let mut expected = Numbers(5).bytes(300_123);
    fs::write(at[0].join("f"), &expected).expect("written");
    for at in &at {
        let map = Mapping::of(&File::open(at.join("f")).expect("opened"), false);
        assert!(map.bytes() == expected, "{}", at.display());
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(at[1].join("f"))
        .expect("opened");
    let mut map = Mapping::of(&file, true);
    for at in [0, 4095, 4096, 150_000, 300_122] {
        map.bytes_mut()[at] = 0xEE;
        expected[at] = 0xEE;
    }
    map.sync();
    for at in &at {
        let found = fs::read(at.join("f")).expect("read");
        assert_eq!(
            found.iter().zip(&expected).position(|(a, b)| a != b),
            None,
            "{}",
            at.display()
        );
    }
    // What is written through the mapping after the descriptor was closed arrives when the mapping goes.
    map.bytes_mut()[77] = 0xDD;
    expected[77] = 0xDD;
    drop(file);
    drop(map);
    crate::common::until("the last page", crate::common::SOON, || {
        fs::read(at[2].join("f")).is_ok_and(|found| found == expected)
    });
}

/// What `fstat` tells is what the kernel goes by afterwards: it does not lose the size on the way.
#[test]
fn what_others_have_written_can_be_sent_and_mapped_as_soon_as_fstat_tells_it() {
    const ROUNDS: u64 = 60;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let folders = folders(&cluster, "sent");
    let path = |i: usize| folders[i].join("file");
    fs::write(path(0), [b'x'; 100]).expect("a file");
    let open = |i: usize| OpenOptions::new().write(true).open(path(i));
    let writers = [open(0).expect("opened"), open(1).expect("opened")];
    let reader = File::open(path(2)).expect("opened");
    let null = OpenOptions::new().write(true).open("/dev/null");
    let null = null.expect("opened");
    let (mut numbers, mut size, mut short) = (Numbers(7), 100, 0);
    for round in 0..ROUNDS {
        let len = 1 + numbers.below(9000) as usize;
        let more = numbers.bytes(len);
        let writer = &writers[round as usize % 2];
        writer.write_all_at(&more, size).expect("written");
        let mut at = size as libc::off_t;
        size += more.len() as u64;
        assert_eq!(reader.metadata().expect("metadata").len(), size);
        // SAFETY: two open files and an offset that lives for the call.
        let sent = unsafe {
            libc::sendfile(
                null.as_raw_fd(),
                reader.as_raw_fd(),
                &raw mut at,
                more.len(),
            )
        };
        short += u64::from(sent != more.len() as isize);
    }
    // A notice may cross the answer all the same, on a busy machine in one round of six; before, two of three did.
    assert!(short <= ROUNDS / 2, "{short} of {ROUNDS} were cut short");
}

#[test]
fn programs_run_from_the_mount() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "bin");
    fs::write(at[0].join("script"), "#!/bin/sh\necho \"ran $1\"\n").expect("written");
    fs::set_permissions(at[0].join("script"), fs::Permissions::from_mode(0o755))
        .expect("made executable");
    fs::copy("/bin/ls", at[1].join("program")).expect("copied");
    for at in &at {
        assert_eq!(sh(at, "./script here"), "ran here\n");
        assert_eq!(sh(at, "./program"), "program\nscript\n");
    }
    let refused = std::process::Command::new(at[2].join("program"))
        .arg("/nowhere")
        .output()
        .expect("it runs");
    assert_eq!(refused.status.code(), Some(2));
    // Text of a running program is not written to, and a new one takes its name.
    sh(
        &at[0],
        "cp /bin/sleep program2; ./program2 0.2 & wait; cp /bin/true other; mv other program2; ./program2",
    );
    sh(&at[2], "./program2");
}

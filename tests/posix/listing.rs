//! Listings of a large directory while it changes.
#![allow(unsafe_code, reason = "std has no words for positions in a directory")]

use crate::{MEMBERS, common::shared::Shared, folders};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    thread,
};

const ENTRIES: usize = 10_000;
/// Names made at once on each mount: they share rounds of the agreement group.
const THREADS: usize = 8;

/// An open directory.
struct Listing(*mut libc::DIR);

impl Listing {
    fn of(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: a string ended by NUL.
        let dir = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!dir.is_null(), "{}", std::io::Error::last_os_error());
        Self(dir)
    }

    /// The next name but `.` and `..`, with the position before it.
    fn next(&mut self) -> Option<(libc::c_long, String)> {
        loop {
            // SAFETY: the directory is open for as long as `self` lives.
            let at = unsafe { libc::telldir(self.0) };
            // SAFETY: as above; the entry is read before the next call.
            let entry = unsafe { libc::readdir(self.0) };
            if entry.is_null() {
                return None;
            }
            // SAFETY: not null, and the name in it ends with NUL.
            let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
            let name = name.to_str().expect("names here are text");
            if name != "." && name != ".." {
                return Some((at, name.to_owned()));
            }
        }
    }

    fn seek(&mut self, at: libc::c_long) {
        // SAFETY: the directory is open, and the position is one that it gave.
        unsafe { libc::seekdir(self.0, at) };
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        // SAFETY: opened by `of`, closed once.
        unsafe { libc::closedir(self.0) };
    }
}

/// Positions stay good while names come and go, on every mount: what is there all the time is listed exactly once.
#[test]
fn ten_thousand_names_are_listed_once_each_while_others_change() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "many");
    fs::write(at[0].join("f"), "").expect("made");
    thread::scope(|scope| {
        for thread in 0..MEMBERS * THREADS {
            let dir = &at[thread % MEMBERS];
            scope.spawn(move || {
                for number in (thread..ENTRIES).step_by(MEMBERS * THREADS) {
                    fs::hard_link(dir.join("f"), dir.join(format!("name-{number}")))
                        .unwrap_or_else(|error| panic!("name {number}: {error}"));
                }
            });
        }
    });
    let mut listing = Listing::of(&at[1]);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut middle = None;
    let mut read = 0;
    while let Some((position, name)) = listing.next() {
        read += 1;
        if read == ENTRIES / 2 {
            // Names that were listed go, others come, on other mounts; and the place is found again.
            let gone: Vec<String> = seen
                .keys()
                .filter(|name| *name != "f")
                .take(100)
                .cloned()
                .collect();
            for name in &gone {
                fs::remove_file(at[0].join(name)).expect("removed");
                seen.remove(name);
            }
            for number in 0..100 {
                fs::hard_link(at[2].join("f"), at[2].join(format!("late-{number}")))
                    .expect("linked");
            }
            middle = Some((position, name.clone()));
        }
        *seen.entry(name).or_default() += 1;
    }
    let (position, name) = middle.expect("half of the names were read");
    listing.seek(position);
    assert_eq!(
        listing.next().map(|next| next.1),
        Some(name),
        "the position leads to where it was taken"
    );
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "listed more than once: {twice:?}");
    let kept = seen.keys().filter(|name| name.starts_with("name-")).count();
    assert_eq!(kept, ENTRIES - 100, "names that were there all the time");
    let all = fs::read_dir(&at[2]).expect("listed").count();
    assert_eq!(all, 1 + ENTRIES, "100 went, 100 came, on every mount");
}

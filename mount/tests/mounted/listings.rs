//! Listings with attributes, of which the kernel may keep names.

use crate::harness::{self, Mount};
use hydfs_mount::{
    Answer, Caller, FileSystem, FsError, Keep, KernelCache, MemoryFs, Request, ServeConfig,
};
use hydfs_types::{Attr, BoxFuture, DirEntry, Ino};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const FILES: usize = 1_000;
const ELSEWHERE: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
    unique: 0,
};

/// The model, whose names and attributes may be kept for a second; counts what it is asked.
struct Keeping {
    memory: MemoryFs,
    asked: Mutex<BTreeMap<&'static str, usize>>,
    forgotten: Mutex<BTreeMap<Ino, usize>>,
}

impl FileSystem for Keeping {
    fn call(
        &self,
        caller: Caller,
        request: Request,
    ) -> BoxFuture<'static, Result<Answer, FsError>> {
        if let Request::Forget { ino } = &request {
            *self.forgotten.lock().unwrap().entry(*ino).or_default() += 1;
        }
        self.memory.call(caller, request)
    }

    fn asked(&self, operation: &'static str) {
        *self.asked.lock().unwrap().entry(operation).or_default() += 1;
    }

    fn keep(&self, _: Option<(Ino, &[u8])>, _: &Attr) -> Keep {
        let second = Duration::from_secs(1);
        Keep {
            attr: second,
            entry: second,
        }
    }

    fn keep_listed(
        &self,
        dir: Ino,
        entries: &[(DirEntry, Option<Attr>)],
        most: Duration,
    ) -> Vec<Duration> {
        let is_so = |entry: &DirEntry| {
            let name = entry.name.clone();
            let found = self
                .memory
                .apply(ELSEWHERE, &Request::Lookup { parent: dir, name });
            matches!(found, Ok(Answer::Attr(attr)) if attr.ino == entry.ino)
        };
        let kept = |(entry, _): &(DirEntry, _)| if is_so(entry) { most } else { Duration::ZERO };
        entries.iter().map(kept).collect()
    }
}

impl Keeping {
    fn asked_of(&self, operation: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.get(operation).copied().unwrap_or_default()
    }
}

/// A folder `d` of files, on a kernel that keeps names.
fn mounted() -> Option<(Arc<Keeping>, Mount, Arc<dyn KernelCache>)> {
    let fs = Arc::new(Keeping {
        memory: MemoryFs::default(),
        asked: Mutex::default(),
        forgotten: Mutex::default(),
    });
    let mount = harness::mounted(fs.clone(), ServeConfig::default())?;
    let cache = mount.serving.as_ref().unwrap().notifier();
    if !cache.keeps_entries() {
        eprintln!("skipped: this kernel has no epochs");
        return None;
    }
    fs::create_dir(mount.at("d")).unwrap();
    for n in 0..FILES {
        fs::write(mount.at(&format!("d/f{n:04}")), b"x").unwrap();
    }
    Some((fs, mount, cache))
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

/// Names and sizes, each looked at as soon as it is read.
fn look(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| fs::symlink_metadata(entry.unwrap().path()).unwrap().len() as usize)
        .sum()
}

#[test]
fn whoever_looks_at_what_is_listed_asks_for_few_names_and_they_are_given_back() {
    let Some((fs, mount, _)) = mounted() else {
        return;
    };
    let inos: Vec<Ino> = fs::read_dir(mount.at("d"))
        .unwrap()
        .map(|entry| Ino(entry.unwrap().metadata().unwrap().ino()))
        .collect();
    // What was looked up to be made is kept no more.
    std::thread::sleep(Duration::from_millis(1_100));
    let before = (fs.asked_of("lookup"), fs.asked_of("getattr"));
    assert_eq!(look(&mount.at("d")), FILES);
    let lookups = fs.asked_of("lookup") - before.0;
    let attrs = fs.asked_of("getattr") - before.1;
    println!(
        "{FILES} files: {lookups} lookups, {attrs} getattrs, {} listings",
        fs.asked_of("readdirplus")
    );
    // Each page is looked at in time, unless this machine is stopped.
    assert!(lookups + attrs < FILES / 4, "{lookups} + {attrs}");

    fs::remove_dir_all(mount.at("d")).unwrap();
    harness::eventually("all inodes to be given back", || {
        let forgotten = fs.forgotten.lock().unwrap();
        inos.iter().all(|ino| forgotten.contains_key(ino))
    });
    let forgotten = fs.forgotten.lock().unwrap();
    assert!(inos.iter().all(|ino| forgotten[ino] == 1), "once each");
}

#[test]
fn a_change_is_told_when_a_listing_under_way_cannot_bring_it_back() {
    let Some((fs, mount, cache)) = mounted() else {
        return;
    };
    let runtime = runtime();
    let parent = || Ino(fs::metadata(mount.at("d")).unwrap().ino());
    let rename = |from: &str, to: &str| {
        let parent = parent();
        let request = Request::Rename {
            parent,
            name: from.into(),
            to_parent: parent,
            to_name: to.into(),
            no_replace: false,
            exchange: false,
        };
        fs.memory.apply(ELSEWHERE, &request).unwrap();
        cache.invalidate_entries(Some(parent));
    };
    // Nobody lists: told at once.
    let begun = Instant::now();
    runtime.block_on(cache.settled());
    assert!(begun.elapsed() < Duration::from_millis(200));

    // Whoever changes names in the middle of a listing waits for nothing; the machine may be slow.
    let in_the_middle = || {
        let begun = Instant::now();
        let entry = fs::read_dir(mount.at("d")).unwrap().next().unwrap();
        let path = entry.unwrap().path();
        cache.invalidate_entries(Some(parent()));
        fs::rename(&path, mount.at("moved")).unwrap();
        runtime.block_on(cache.settled());
        fs::rename(mount.at("moved"), &path).unwrap();
        begun.elapsed() < Duration::from_millis(250)
    };
    assert!((0..5).any(|_| in_the_middle()));

    // Whoever stops in the middle holds a change up, but not for long.
    let mut stopped = fs::read_dir(mount.at("d")).unwrap();
    let first = stopped.next().unwrap().unwrap().file_name();
    let first = first.to_str().unwrap();
    rename(first, "elsewhere");
    runtime.block_on(cache.settled());
    assert!(fs::symlink_metadata(mount.at(&format!("d/{first}"))).is_err());
    assert!(fs::symlink_metadata(mount.at("d/elsewhere")).is_ok());

    // And whoever goes on does not.
    rename("elsewhere", first);
    let goes_on = std::thread::spawn(move || stopped.count());
    runtime.block_on(cache.settled());
    assert!(fs::symlink_metadata(mount.at("d/elsewhere")).is_err());
    assert!(goes_on.join().unwrap() >= FILES - 2);
}

/// Everybody lists and looks while names change elsewhere: once a change is told, no name is as it was before.
#[test]
fn what_is_listed_is_never_older_than_what_was_told() {
    let Some((fs, mount, cache)) = mounted() else {
        return;
    };
    let runtime = runtime();
    let dir = mount.at("d");
    let parent = Ino(fs::metadata(&dir).unwrap().ino());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for entry in fs::read_dir(&dir).unwrap() {
                        drop(fs::symlink_metadata(entry.unwrap().path()));
                    }
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..200 {
                let (from, to) = (format!("f{round:04}"), format!("g{round:04}"));
                let request = Request::Rename {
                    parent,
                    name: from.clone().into_bytes(),
                    to_parent: parent,
                    to_name: to.clone().into_bytes(),
                    no_replace: false,
                    exchange: false,
                };
                fs.memory.apply(ELSEWHERE, &request).unwrap();
                cache.invalidate_entries(Some(parent));
                runtime.block_on(cache.settled());
                let old = fs::symlink_metadata(dir.join(&from));
                assert!(old.is_err(), "round {round}: {from} is still there");
                assert!(fs::symlink_metadata(dir.join(&to)).is_ok(), "{to}");
            }
        }));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
}

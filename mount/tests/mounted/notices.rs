//! Changes made elsewhere, below a kernel that was told to keep what it knows.

use crate::harness;
use hydfs_mount::{Caller, MemoryFs, Request, ServeConfig};
use hydfs_types::{Ino, ROOT_INO};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    sync::Arc,
    time::Duration,
};

const ELSEWHERE: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
    unique: 0,
};

#[test]
fn the_kernel_forgets_what_it_is_told_to() {
    let fs = Arc::new(MemoryFs::default());
    let long = Duration::from_secs(600);
    let config = ServeConfig {
        attr_ttl: long,
        entry_ttl: long,
        ..harness::config()
    };
    let Some(mount) = harness::mounted(fs.clone(), config) else {
        return;
    };
    let cache = mount.serving.as_ref().unwrap().notifier();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    fs::write(mount.at("f"), b"content").unwrap();
    let ino = Ino(fs::metadata(mount.at("f")).unwrap().ino());

    let set = hydfs_mount::Change {
        size: Some(3),
        ..Default::default()
    };
    fs.apply(
        ELSEWHERE,
        &Request::SetAttr {
            ino,
            handle: None,
            set,
        },
    )
    .unwrap();
    assert_eq!(
        fs::metadata(mount.at("f")).unwrap().len(),
        7,
        "kept, as told"
    );
    cache.invalidate_attr(ino, tokio::time::Instant::now());
    runtime.block_on(cache.settled());
    assert_eq!(fs::metadata(mount.at("f")).unwrap().len(), 3);
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"con");

    // Renamed, not removed: its attributes may be asked for while the name is kept.
    fs.apply(
        ELSEWHERE,
        &Request::Rename {
            parent: ROOT_INO,
            name: b"f".to_vec(),
            to_parent: ROOT_INO,
            to_name: b"g".to_vec(),
            no_replace: false,
            exchange: false,
        },
    )
    .unwrap();
    assert!(fs::metadata(mount.at("f")).is_ok(), "kept, as told");
    if !cache.keeps_entries() {
        eprintln!("skipped the rest: this kernel has no epochs");
        return;
    }
    cache.invalidate_entries(None);
    runtime.block_on(cache.settled());
    assert_eq!(harness::errno(fs::metadata(mount.at("f"))), libc::ENOENT);
}

/// With no time-outs (the default) nothing needs to be told: attributes are asked for at each read.
#[test]
fn without_time_outs_changes_show_at_once() {
    let fs = Arc::new(MemoryFs::default());
    let Some(mount) = harness::mounted(fs.clone(), harness::config()) else {
        return;
    };
    fs::write(mount.at("f"), b"old content").unwrap();
    let file = File::open(mount.at("f")).unwrap();
    let ino = Ino(file.metadata().unwrap().ino());
    let read = || {
        let mut buffer = [0; 100];
        let len = file.read_at(&mut buffer, 0).unwrap();
        buffer[..len].to_vec()
    };
    assert_eq!(read(), b"old content");
    let how = hydfs_mount::How {
        write: true,
        ..Default::default()
    };
    let hydfs_mount::Answer::Opened(opened) =
        fs.apply(ELSEWHERE, &Request::Open { ino, how }).unwrap()
    else {
        panic!()
    };
    for (offset, data, expected) in [
        (0, &b"new"[..], &b"new content"[..]),
        (11, b" grown", b"new content grown"),
    ] {
        let data = bytes::Bytes::copy_from_slice(data);
        fs.apply(
            ELSEWHERE,
            &Request::Write {
                ino,
                handle: opened.handle,
                offset,
                data,
                append: false,
                sync: false,
            },
        )
        .unwrap();
        assert_eq!(read(), expected);
    }
}

//! Cases on names: entries, directories, links, renames.

use super::{Case, Client, READ, name};
use crate::{Answer, FsError, Request};
use hydfs_types::FileKind;
use std::collections::BTreeSet;

pub(super) const CASES: &[Case] = &[
    ("names-limits", |c| Box::pin(limits(c))),
    ("names-make-and-remove", |c| Box::pin(make_and_remove(c))),
    ("names-hard-links", |c| Box::pin(hard_links(c))),
    ("names-symlinks", |c| Box::pin(symlinks(c))),
    ("names-rename", |c| Box::pin(rename(c))),
    ("names-rename-directories", |c| {
        Box::pin(rename_directories(c))
    }),
    ("names-rename-flags", |c| Box::pin(rename_flags(c))),
    ("names-listing", |c| Box::pin(listing(c))),
    ("names-create-race", |c| Box::pin(create_race(c))),
    ("names-special", |c| Box::pin(special(c))),
];

async fn limits(c: Client) {
    let longest = "x".repeat(255);
    c.mkdir(&longest).await;
    c.lookup(&longest).await;
    c.refused(
        c.making(&"x".repeat(256), FileKind::Directory, 0o755),
        FsError::NameTooLong,
    )
    .await;
    // Fault S14: names are keys, never paths.
    for path in ["../x", "a/b", "/etc", "..", ".", "", "a\0b"] {
        c.refused(
            c.making(path, FileKind::Regular, 0o644),
            FsError::Invalid(String::new()),
        )
        .await;
    }
    c.missing("nothing").await;
    // Bytes, not text.
    let odd = b"\xff\xfe \n\"*?";
    let request = Request::Make {
        parent: c.dir,
        name: odd.to_vec(),
        kind: FileKind::Regular,
        mode: 0o600,
        umask: 0,
        rdev: 0,
        target: Vec::new(),
    };
    let made = c.attr_of(request).await;
    assert_eq!(
        c.attr_of(Request::Lookup {
            parent: c.dir,
            name: odd.to_vec()
        })
        .await
        .ino,
        made.ino
    );
}

async fn make_and_remove(c: Client) {
    let links = c.stat(c.dir).await.nlink;
    let sub = c.mkdir("d").await;
    assert_eq!(c.stat(sub).await.nlink, 2);
    assert_eq!(c.stat(c.dir).await.nlink, links + 1);
    c.refused(c.making("d", FileKind::Directory, 0o755), FsError::Exists)
        .await;
    let file = c.at(sub).file("f", b"x").await;
    c.refused(
        c.at(file)
            .making("below-a-file", FileKind::Directory, 0o755),
        FsError::NotDirectory,
    )
    .await;
    c.refused(c.removing("d"), FsError::NotEmpty).await;
    c.refused(c.unlinking("d"), FsError::IsDirectory).await;
    c.refused(c.at(sub).removing("f"), FsError::NotDirectory)
        .await;
    c.refused(c.unlinking("nothing"), FsError::NotFound).await;
    c.done(c.at(sub).unlinking("f")).await;
    c.done(c.removing("d")).await;
    c.missing("d").await;
    assert_eq!(c.stat(c.dir).await.nlink, links);
    assert!(c.list(10).await.is_empty());
}

async fn hard_links(c: Client) {
    let file = c.file("a", b"one").await;
    let sub = c.mkdir("d").await;
    let link = Request::Link {
        ino: file,
        parent: sub,
        name: name("b"),
    };
    assert_eq!(c.attr_of(link.clone()).await.nlink, 2);
    c.refused(link, FsError::Exists).await;
    c.refused(
        Request::Link {
            ino: sub,
            parent: c.dir,
            name: name("e"),
        },
        FsError::NotPermitted(String::new()),
    )
    .await;
    assert_eq!(c.at(sub).lookup("b").await.ino, file);
    c.done(c.unlinking("a")).await;
    assert_eq!(c.stat(file).await.nlink, 1);
    assert_eq!(c.content(file).await, b"one");
}

async fn symlinks(c: Client) {
    let target = "../".repeat(1_000);
    let mut make = c.making("s", FileKind::Symlink, 0o777);
    if let Request::Make { target: t, .. } = &mut make {
        *t = target.clone().into_bytes();
    }
    let made = c.attr_of(make).await;
    assert_eq!(
        (made.kind, made.size),
        (FileKind::Symlink, target.len() as u64)
    );
    assert_eq!(
        c.ask(Request::ReadLink { ino: made.ino }).await,
        Ok(Answer::Target(target.into_bytes()))
    );
    let file = c.file("f", b"").await;
    c.refused(
        Request::ReadLink { ino: file },
        FsError::Invalid(String::new()),
    )
    .await;
}

async fn rename(c: Client) {
    let (a, b) = (c.file("a", b"aaa").await, c.file("b", b"bbb").await);
    let reader = c.open(b, READ).await;
    c.done(c.renaming("a", c.dir, "b")).await;
    c.missing("a").await;
    assert_eq!(c.lookup("b").await.ino, a);
    assert_eq!(
        &c.read(reader, 0, 10).await[..],
        b"bbb",
        "an open file outlives being renamed over"
    );
    c.close(reader).await;
    let sub = c.mkdir("d").await;
    c.done(c.renaming("b", sub, "c")).await;
    assert_eq!(c.at(sub).lookup("c").await.ino, a);
    c.refused(c.renaming("b", sub, "c"), FsError::NotFound)
        .await;
    // Two names of one inode: nothing happens, both stay.
    c.attr_of(Request::Link {
        ino: a,
        parent: sub,
        name: name("e"),
    })
    .await;
    c.done(c.at(sub).renaming("c", sub, "e")).await;
    assert_eq!(c.at(sub).list(10).await.len(), 2);
}

async fn rename_directories(c: Client) {
    let (a, b) = (c.mkdir("a").await, c.mkdir("b").await);
    let links = c.stat(c.dir).await.nlink;
    let inner = c.at(a).mkdir("inner").await;
    let file = c.file("f", b"").await;
    c.refused(c.renaming("a", inner, "x"), FsError::Invalid(String::new()))
        .await;
    c.refused(c.renaming("a", a, "x"), FsError::Invalid(String::new()))
        .await;
    c.refused(c.renaming("a", c.dir, "f"), FsError::NotDirectory)
        .await;
    c.refused(c.renaming("f", c.dir, "b"), FsError::IsDirectory)
        .await;
    c.refused(c.renaming("b", c.dir, "a"), FsError::NotEmpty)
        .await;
    c.done(c.at(a).renaming("inner", b, "moved")).await;
    assert_eq!((c.stat(a).await.nlink, c.stat(b).await.nlink), (2, 3));
    c.done(c.renaming("b", c.dir, "a")).await;
    assert_eq!(c.lookup("a").await.ino, b);
    assert_eq!(c.at(b).lookup("moved").await.ino, inner);
    assert_eq!(c.stat(c.dir).await.nlink, links - 1);
    assert_eq!(c.lookup("f").await.ino, file);
}

async fn rename_flags(c: Client) {
    let (file, dir) = (c.file("f", b"").await, c.mkdir("d").await);
    let sub = c.mkdir("sub").await;
    let with = |request: Request, keep: bool, swap: bool| match request {
        Request::Rename {
            parent,
            name,
            to_parent,
            to_name,
            ..
        } => Request::Rename {
            parent,
            name,
            to_parent,
            to_name,
            no_replace: keep,
            exchange: swap,
        },
        other => other,
    };
    let plain = |from, to| c.renaming(from, c.dir, to);
    c.refused(with(plain("f", "d"), true, false), FsError::Exists)
        .await;
    c.refused(with(plain("f", "nothing"), false, true), FsError::NotFound)
        .await;
    c.refused(
        with(plain("f", "d"), true, true),
        FsError::Invalid(String::new()),
    )
    .await;
    c.done(with(plain("f", "d"), false, true)).await;
    assert_eq!(
        (c.lookup("d").await.ino, c.lookup("f").await.ino),
        (file, dir)
    );
    let inner = c.at(sub).file("g", b"").await;
    c.done(with(c.at(sub).renaming("g", c.dir, "f"), false, true))
        .await;
    assert_eq!(
        (c.at(sub).lookup("g").await.ino, c.lookup("f").await.ino),
        (dir, inner)
    );
    assert_eq!((c.stat(sub).await.nlink, c.stat(dir).await.nlink), (3, 2));
    c.refused(
        with(c.at(sub).renaming("g", dir, "x"), true, false),
        FsError::Invalid(String::new()),
    )
    .await;
    c.done(with(plain("f", "new"), true, false)).await;
    assert_eq!(c.lookup("new").await.ino, inner);
}

async fn listing(c: Client) {
    let names: BTreeSet<String> = (0..100).map(|n| format!("entry-{n}")).collect();
    for entry in &names {
        c.file(entry, b"").await;
    }
    for step in [1, 7, 1_000] {
        let listed = c.list(step).await;
        assert_eq!(listed.len(), names.len());
        assert!(listed.iter().all(|e| e.kind == FileKind::Regular));
        let seen: BTreeSet<String> = listed
            .into_iter()
            .map(|e| String::from_utf8_lossy(&e.name).into_owned())
            .collect();
        assert_eq!(seen, names);
    }
    // What is removed while it is listed neither hides others nor shows them twice (as `rm -r` does).
    let (ino, mut cookie, mut seen) = (c.dir, 0, 0);
    let Ok(Answer::Opened(opened)) = c.ask(Request::OpenDir { ino }).await else {
        panic!("opendir")
    };
    loop {
        let Ok(Answer::Entries(entries)) = c
            .ask(Request::ReadDir {
                ino,
                handle: opened.handle,
                cookie,
                limit: 9,
                attrs: true,
            })
            .await
        else {
            panic!("readdir")
        };
        let Some(last) = entries.last() else { break };
        cookie = last.0.cookie;
        seen += entries.len();
        for (entry, _) in &entries {
            c.done(Request::Unlink {
                parent: ino,
                name: entry.name.clone(),
            })
            .await;
        }
    }
    c.done(Request::ReleaseDir {
        ino,
        handle: opened.handle,
    })
    .await;
    assert_eq!(seen, names.len());
    assert!(c.list(10).await.is_empty());
}

/// Fault S12: two creators, one winner.
async fn create_race(c: Client) {
    let how = crate::How {
        exclusive: true,
        ..super::WRITE
    };
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let c = c.clone();
            tokio::spawn(async move { c.ask(c.creating("one", how)).await })
        })
        .collect();
    let mut won = Vec::new();
    for racer in racers {
        match racer.await.expect("no panic") {
            Ok(Answer::Created(attr, opened)) => won.push(super::File {
                ino: attr.ino,
                handle: opened.handle,
            }),
            Err(FsError::Exists) => {}
            other => panic!("create: {other:?}"),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(c.lookup("one").await.ino, won[0].ino);
    c.close(won[0]).await;
}

async fn special(c: Client) {
    for (entry, kind) in [
        ("fifo", FileKind::Fifo),
        ("socket", FileKind::Socket),
        ("device", FileKind::CharDevice),
    ] {
        let mut make = c.making(entry, kind, 0o640);
        if let Request::Make { rdev, .. } = &mut make {
            *rdev = if kind == FileKind::CharDevice {
                0x103
            } else {
                0
            };
        }
        let made = c.attr_of(make).await;
        assert_eq!((made.kind, made.mode, made.nlink), (kind, 0o640, 1));
        assert_eq!(c.lookup(entry).await.rdev, made.rdev);
    }
    assert_eq!(c.lookup("device").await.rdev, 0x103);
}

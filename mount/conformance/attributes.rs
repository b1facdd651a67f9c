//! Cases on attributes: modes, owners, times, extended attributes, statfs.

use super::{Case, Client, name};
use crate::{Answer, Change, FsError, How, Request, SetTime};
use hydfs_types::{FileKind, Time};

pub(super) const CASES: &[Case] = &[
    ("attributes-mode-and-owner", |c| Box::pin(mode_and_owner(c))),
    ("attributes-set-group-id-directory", |c| {
        Box::pin(set_group_id(c))
    }),
    ("attributes-umask", |c| Box::pin(umask(c))),
    ("attributes-times", |c| Box::pin(times(c))),
    ("attributes-extended", |c| Box::pin(extended(c))),
    ("attributes-extended-limits", |c| {
        Box::pin(extended_limits(c))
    }),
    ("attributes-statfs", |c| Box::pin(statfs(c))),
];

async fn mode_and_owner(c: Client) {
    let user = c.by(1_000, 1_001);
    let made = user
        .attr_of(user.making("f", FileKind::Regular, 0o604))
        .await;
    assert_eq!(
        (made.mode, made.uid, made.gid, made.nlink, made.size),
        (0o604, 1_000, 1_001, 1, 0)
    );
    let set = |set| Request::SetAttr {
        ino: made.ino,
        handle: None,
        set,
    };
    let attr = c
        .attr_of(set(Change {
            mode: Some(0o4755),
            ..Change::default()
        }))
        .await;
    assert_eq!((attr.mode, attr.uid), (0o4755, 1_000));
    let attr = c
        .attr_of(set(Change {
            uid: Some(5),
            gid: Some(u32::MAX - 1),
            mode: Some(0o755),
            ..Change::default()
        }))
        .await;
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o755, 5, u32::MAX - 1));
    assert!(attr.ctime > made.ctime && attr.mtime == made.mtime);
    assert_eq!(c.lookup("f").await, attr);
}

async fn set_group_id(c: Client) {
    let set = Change {
        mode: Some(0o2775),
        gid: Some(77),
        ..Change::default()
    };
    c.attr_of(Request::SetAttr {
        ino: c.dir,
        handle: None,
        set,
    })
    .await;
    let user = c.by(1_000, 1_001);
    let file = user
        .attr_of(user.making("f", FileKind::Regular, 0o644))
        .await;
    assert_eq!((file.gid, file.mode), (77, 0o644));
    let dir = user
        .attr_of(user.making("d", FileKind::Directory, 0o755))
        .await;
    assert_eq!((dir.gid, dir.mode), (77, 0o2755));
}

async fn umask(c: Client) {
    for (entry, kind, mode) in [
        ("f", FileKind::Regular, 0o4640),
        ("d", FileKind::Directory, 0o4750),
        ("l", FileKind::Symlink, 0o4777),
    ] {
        let mut make = c.making(entry, kind, 0o4777);
        if let Request::Make {
            mode,
            umask,
            target,
            ..
        } = &mut make
        {
            *umask = 0o027;
            match kind {
                FileKind::Regular => *mode = 0o4666,
                FileKind::Symlink => *target = name("f"),
                _ => {}
            }
        }
        assert_eq!(c.attr_of(make).await.mode, mode, "{entry}");
    }
    let mut create = c.creating("g", How::default());
    if let Request::Create { umask, .. } = &mut create {
        *umask = 0o077;
    }
    match c.ask(create).await {
        Ok(Answer::Created(attr, opened)) => {
            assert_eq!(attr.mode, 0o600);
            let (ino, handle) = (attr.ino, opened.handle);
            c.done(Request::Release { ino, handle }).await;
        }
        other => panic!("{other:?}"),
    }
}

async fn times(c: Client) {
    let file = c.create("f").await;
    let made = c.stat(file.ino).await;
    c.write(file, 0, b"x").await;
    let written = c.stat(file.ino).await;
    assert!(
        written.mtime > made.mtime && written.ctime > made.ctime,
        "{made:?} {written:?}"
    );
    c.close(file).await;
    let (old, older) = (
        Time {
            sec: -5,
            nsec: 250_000_000,
        },
        Time {
            sec: 4_102_444_800,
            nsec: 1,
        },
    );
    let set = Change {
        atime: Some(SetTime::At(old)),
        mtime: Some(SetTime::At(older)),
        ..Change::default()
    };
    let attr = c
        .attr_of(Request::SetAttr {
            ino: file.ino,
            handle: None,
            set,
        })
        .await;
    assert_eq!((attr.atime, attr.mtime), (old, older));
    assert!(attr.ctime > written.ctime);
    let set = Change {
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::Now),
        ..Change::default()
    };
    let attr = c
        .attr_of(Request::SetAttr {
            ino: file.ino,
            handle: None,
            set,
        })
        .await;
    assert!(attr.atime > old && attr.mtime < older);
    let before = c.stat(c.dir).await;
    c.done(c.unlinking("f")).await;
    assert!(
        c.stat(c.dir).await.mtime > before.mtime,
        "a directory's entries are its content"
    );
}

async fn extended(c: Client) {
    for ino in [c.file("f", b"").await, c.mkdir("d").await] {
        let get = |key: &str| Request::GetXattr {
            ino,
            name: name(key),
        };
        let set = |value: &[u8], create, replace| Request::SetXattr {
            ino,
            name: name("user.a"),
            value: value.to_vec(),
            create,
            replace,
        };
        c.refused(get("user.a"), FsError::NoAttribute).await;
        c.refused(set(b"1", false, true), FsError::NoAttribute)
            .await;
        c.done(set(b"\0one", true, false)).await;
        c.refused(set(b"2", true, false), FsError::Exists).await;
        assert_eq!(
            c.ask(get("user.a")).await,
            Ok(Answer::Value(b"\0one".to_vec()))
        );
        c.done(set(b"", false, true)).await;
        assert_eq!(c.ask(get("user.a")).await, Ok(Answer::Value(Vec::new())));
        c.done(Request::SetXattr {
            ino,
            name: name("user.b"),
            value: vec![7; 300],
            create: false,
            replace: false,
        })
        .await;
        let Ok(Answer::Names(mut names)) = c.ask(Request::ListXattr { ino }).await else {
            panic!("listxattr")
        };
        names.sort();
        assert_eq!(names, [name("user.a"), name("user.b")]);
        c.done(Request::RemoveXattr {
            ino,
            name: name("user.a"),
        })
        .await;
        c.refused(
            Request::RemoveXattr {
                ino,
                name: name("user.a"),
            },
            FsError::NoAttribute,
        )
        .await;
        assert_eq!(
            c.ask(Request::ListXattr { ino }).await,
            Ok(Answer::Names(vec![name("user.b")]))
        );
    }
}

async fn extended_limits(c: Client) {
    let ino = c.file("f", b"").await;
    let set = |key: &str, len: usize| Request::SetXattr {
        ino,
        name: name(key),
        value: vec![1; len],
        create: false,
        replace: false,
    };
    c.done(set("user.large", 65_536)).await;
    c.refused(set("user.larger", 65_537), FsError::TooBig).await;
    for key in ["user.b", "user.c"] {
        c.done(set(key, 65_536)).await;
    }
    c.refused(set("user.d", 65_536), FsError::NoSpace(String::new()))
        .await;
    c.done(set("user.large", 10)).await;
    c.done(set("user.d", 60_000)).await;
}

async fn statfs(c: Client) {
    let Ok(Answer::StatFs(stat)) = c.ask(Request::StatFs).await else {
        panic!("statfs")
    };
    assert!(stat.block.is_power_of_two() && stat.block >= 512);
    assert!(stat.free <= stat.blocks && stat.files_free <= stat.files && stat.name_max == 255);
}

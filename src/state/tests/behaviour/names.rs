//! The namespace, as POSIX has it.

use crate::bench::{Bench, create, rename, unlink};
use hydfs_state::{Event, LINKS_MAX, XATTR_TOTAL_BYTES_MAX};
use hydfs_types::*;

const DIR: FileKind = FileKind::Directory;
const REG: FileKind = FileKind::Regular;

fn link(ino: Ino, name: &str) -> Command {
    Command::Link {
        ino,
        parent: ROOT_INO,
        name: name.into(),
    }
}

#[test]
fn create_lookup_and_list() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "dir", DIR);
    let file = bench.make(dir, "file", REG);
    let pipe = bench.make(dir, "pipe", FileKind::Fifo);
    let link = bench.make(dir, "link", FileKind::Symlink);
    assert_eq!(bench.state.lookup(dir, b"file"), Ok(file));
    assert_eq!(
        bench.state.lookup(dir, b"none"),
        Err(CommandError::NotFound)
    );
    assert_eq!(
        bench.state.lookup(file, b"x"),
        Err(CommandError::NotDirectory)
    );
    assert_eq!(
        bench.state.lookup(Ino(999), b"x"),
        Err(CommandError::Stale(Ino(999)))
    );
    assert_eq!(bench.state.path_of(file).unwrap(), "/dir/file");
    assert_eq!(bench.state.path_of(ROOT_INO).unwrap(), "/");
    assert_eq!(bench.attr(link).size, 6);
    assert_eq!(
        (
            bench.attr(ROOT_INO).nlink,
            bench.attr(dir).nlink,
            bench.attr(file).nlink
        ),
        (3, 2, 1)
    );
    let all = bench.state.read_dir(dir, 0, 10).unwrap();
    assert_eq!(
        all.iter().map(|e| (e.ino, e.cookie)).collect::<Vec<_>>(),
        [(file, 3), (pipe, 4), (link, 5)]
    );
    let page = bench.state.read_dir(dir, 3, 1).unwrap();
    assert_eq!(
        (page.len(), page[0].ino, page[0].kind),
        (1, pipe, FileKind::Fifo)
    );
    assert_eq!(
        bench.refused(create(dir, "file", DIR, None)),
        CommandError::Exists
    );
    assert_eq!(
        bench.refused(create(file, "x", REG, None)),
        CommandError::NotDirectory
    );
    let long = create(dir, &"x".repeat(256), REG, None);
    assert_eq!(bench.refused(long), CommandError::NameTooLong);
}

#[test]
fn devices_keep_their_number() {
    let mut bench = Bench::new(1);
    for (kind, rdev) in [
        (FileKind::CharDevice, 77),
        (FileKind::BlockDevice, 77),
        (FileKind::Socket, 0),
    ] {
        let Command::Create {
            parent,
            mode,
            uid,
            gid,
            target,
            grant,
            ..
        } = create(ROOT_INO, "", kind, None)
        else {
            unreachable!()
        };
        let name = format!("{kind:?}").into_bytes();
        let reply = bench.ok(Command::Create {
            parent,
            name,
            kind,
            mode,
            uid,
            gid,
            rdev: 77,
            target,
            grant,
            umask: 0,
        });
        assert!(matches!(reply, Reply::Created(made) if made.attr.rdev == rdev));
    }
}

#[test]
fn set_gid_directories_pass_their_group_on() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "dir", DIR);
    let set = SetAttr {
        mode: Some(0o2775),
        gid: Some(42),
        ..SetAttr::default()
    };
    bench.ok(Command::SetAttr { ino: dir, set });
    let file = bench.make(dir, "file", REG);
    let sub = bench.make(dir, "sub", DIR);
    assert_eq!((bench.attr(file).gid, bench.attr(file).mode), (42, 0o644));
    assert_eq!((bench.attr(sub).gid, bench.attr(sub).mode), (42, 0o2644));
}

#[test]
fn times_never_stand_still() {
    let mut bench = Bench::new(1);
    let before = bench.attr(ROOT_INO);
    bench.make(ROOT_INO, "a", REG);
    let mut stopped = bench.envelope(create(ROOT_INO, "b", REG, None));
    stopped.time = Time::default();
    bench.send(&stopped).unwrap();
    let after = bench.attr(ROOT_INO);
    assert!(after.mtime > before.mtime && after.ctime > before.ctime);
    let future = Time {
        sec: 99_999,
        nsec: 999_999_999,
    };
    bench.ok(Command::SetAttr {
        ino: ROOT_INO,
        set: SetAttr {
            mtime: Some(future),
            ..SetAttr::default()
        },
    });
    assert_eq!(bench.attr(ROOT_INO).mtime, future);
    bench.make(ROOT_INO, "c", REG);
    assert_eq!(bench.attr(ROOT_INO).mtime, future.tick());
}

#[test]
fn fault_s12_racing_creates_have_one_winner() {
    let mut bench = Bench::new(8);
    let answers: Vec<_> = (1..=8)
        .map(|by| bench.run(create(ROOT_INO, "prize", REG, Some(Incarnation(by)))))
        .collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(
        answers
            .iter()
            .skip(1)
            .all(|answer| *answer == Err(CommandError::Exists))
    );
    assert_eq!(bench.state.stat_fs().inodes, 2, "the losers left nothing");
    assert_eq!(bench.state.names.writers.len(), 1);
}

#[test]
fn fault_s14_names_are_keys_not_paths() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "dir", DIR);
    bench.make(dir, "secret", REG);
    for name in [
        "..",
        ".",
        "",
        "../etc/passwd",
        "/etc/passwd",
        "dir/secret",
        "a\0b",
        "x/",
    ] {
        assert!(
            matches!(
                bench.refused(create(ROOT_INO, name, REG, None)),
                CommandError::Invalid(_)
            ),
            "{name:?}"
        );
        assert!(
            bench.state.lookup(dir, name.as_bytes()).is_err(),
            "{name:?}"
        );
        assert!(matches!(
            bench.refused(rename(dir, "secret", ROOT_INO, name)),
            CommandError::Invalid(_)
        ));
        assert!(bench.run(unlink(dir, name, false)).is_err());
    }
    // What looks odd and is no path is a name like any other.
    for name in ["...", "~", "-rf", "a\\b", "%2e%2e%2f", "\u{202e}"] {
        bench.make(ROOT_INO, name, REG);
    }
}

#[test]
fn hard_links_count() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "a", REG);
    assert!(matches!(bench.ok(link(file, "b")), Reply::Attr(attr) if attr.nlink == 2));
    assert_eq!(bench.refused(link(file, "b")), CommandError::Exists);
    bench.ok(unlink(ROOT_INO, "a", false));
    assert_eq!(
        (bench.attr(file).nlink, bench.state.path_of(file).unwrap()),
        (1, "/b".to_owned())
    );
    let dir = bench.make(ROOT_INO, "dir", DIR);
    assert!(matches!(
        bench.refused(link(dir, "d2")),
        CommandError::NotPermitted(_)
    ));
    bench.ok(unlink(ROOT_INO, "b", false));
    assert_eq!(bench.refused(link(file, "c")), CommandError::Stale(file));
    let file = bench.make(ROOT_INO, "many", REG);
    bench.state.names.inodes.get_mut(&file).unwrap().attr.nlink = LINKS_MAX;
    let refused = bench.envelope(link(file, "more"));
    assert_eq!(
        bench
            .state
            .clone()
            .apply(LogIndex(99), &refused, &mut Vec::new()),
        Err(CommandError::TooManyLinks)
    );
}

#[test]
fn unlink_and_rmdir() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "dir", DIR);
    bench.make(dir, "file", REG);
    assert_eq!(
        bench.refused(unlink(ROOT_INO, "dir", false)),
        CommandError::IsDirectory
    );
    assert_eq!(
        bench.refused(unlink(dir, "file", true)),
        CommandError::NotDirectory
    );
    assert_eq!(
        bench.refused(unlink(ROOT_INO, "dir", true)),
        CommandError::NotEmpty
    );
    assert_eq!(
        bench.refused(unlink(ROOT_INO, "none", true)),
        CommandError::NotFound
    );
    bench.ok(unlink(dir, "file", false));
    bench.ok(unlink(ROOT_INO, "dir", true));
    assert_eq!(bench.events.last(), Some(&Event::Gone(dir)));
    assert_eq!(bench.attr(ROOT_INO).nlink, 2);
    assert_eq!(
        bench.refused(create(dir, "x", REG, None)),
        CommandError::Stale(dir)
    );
}

#[test]
fn an_unlinked_file_lives_until_nobody_holds_it() {
    let mut bench = Bench::new(3);
    let (file, _, segment) = bench.open_new("a", 1);
    let slot = bench.state.segment(segment).unwrap().slot;
    bench.ok(unlink(ROOT_INO, "a", false));
    assert!(bench.events.contains(&Event::Orphan(file)));
    let release = |by| Command::ReleaseOrphans {
        incarnation: Incarnation(by),
        inos: vec![file, Ino(500)],
    };
    bench.ok(release(2));
    let grant = Command::Grant {
        ino: file,
        incarnation: Incarnation(2),
        job: None,
    };
    assert_eq!(
        bench.refused(grant),
        CommandError::Stale(file),
        "it said that it has it not open"
    );
    bench.grant(file, 3);
    bench.expire(&[3]);
    assert!(bench.state.inode(file).is_ok());
    bench.ok(release(1));
    assert!(bench.state.inode(file).is_err());
    assert_eq!(
        bench.events,
        [Event::Retired { segment, slot }, Event::Gone(file)]
    );
    assert!(bench.state.names.writers.is_empty() && bench.state.names.by_slot.is_empty());
}

#[test]
fn rename_replaces_atomically() {
    let mut bench = Bench::new(1);
    let old = bench.make(ROOT_INO, "old", REG);
    let new = bench.make(ROOT_INO, "new", REG);
    let cookie = bench.state.read_dir(ROOT_INO, 0, 9).unwrap()[1].cookie;
    bench.ok(rename(ROOT_INO, "old", ROOT_INO, "new"));
    assert_eq!(bench.state.lookup(ROOT_INO, b"new"), Ok(old));
    assert_eq!(
        bench.state.lookup(ROOT_INO, b"old"),
        Err(CommandError::NotFound)
    );
    assert!(bench.state.inode(new).unwrap().orphan.is_some());
    assert_eq!(
        bench.state.read_dir(ROOT_INO, 0, 9).unwrap()[0].cookie,
        cookie,
        "a listing sees the name once"
    );
    for name in ["old", "new"] {
        assert!(bench.events.contains(&Event::Entry {
            parent: ROOT_INO,
            name: name.into()
        }));
    }
    bench.ok(Command::Link {
        ino: old,
        parent: ROOT_INO,
        name: "twin".into(),
    });
    bench.ok(rename(ROOT_INO, "twin", ROOT_INO, "new"));
    assert!(
        bench.events.is_empty(),
        "names of one file: nothing happens"
    );
    assert_eq!(bench.attr(old).nlink, 2);
}

#[test]
fn rename_refuses_what_posix_refuses() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "dir", DIR);
    let sub = bench.make(dir, "sub", DIR);
    bench.make(ROOT_INO, "empty", DIR);
    bench.make(ROOT_INO, "file", REG);
    assert_eq!(
        bench.refused(rename(ROOT_INO, "none", dir, "x")),
        CommandError::NotFound
    );
    assert_eq!(
        bench.refused(rename(ROOT_INO, "empty", ROOT_INO, "dir")),
        CommandError::NotEmpty
    );
    assert_eq!(
        bench.refused(rename(ROOT_INO, "dir", ROOT_INO, "file")),
        CommandError::NotDirectory
    );
    assert_eq!(
        bench.refused(rename(ROOT_INO, "file", ROOT_INO, "empty")),
        CommandError::IsDirectory
    );
    for to in [dir, sub] {
        assert!(matches!(
            bench.refused(rename(ROOT_INO, "dir", to, "x")),
            CommandError::Invalid(_)
        ));
    }
    let no_replace = Command::Rename {
        parent: ROOT_INO,
        name: "file".into(),
        to_parent: ROOT_INO,
        to_name: "dir".into(),
        no_replace: true,
        exchange: false,
    };
    assert_eq!(bench.refused(no_replace), CommandError::Exists);
    bench.ok(rename(ROOT_INO, "dir", ROOT_INO, "empty"));
    assert_eq!(bench.state.path_of(sub).unwrap(), "/empty/sub");
    assert_eq!(bench.attr(ROOT_INO).nlink, 3);
}

#[test]
fn directories_move_with_their_links() {
    let mut bench = Bench::new(1);
    let from = bench.make(ROOT_INO, "from", DIR);
    let to = bench.make(ROOT_INO, "to", DIR);
    let moved = bench.make(from, "moved", DIR);
    let leaf = bench.make(moved, "leaf", REG);
    bench.ok(rename(from, "moved", to, "there"));
    assert_eq!((bench.attr(from).nlink, bench.attr(to).nlink), (2, 3));
    assert_eq!(bench.state.path_of(leaf).unwrap(), "/to/there/leaf");
}

#[test]
fn exchange_swaps_a_file_and_a_directory() {
    let mut bench = Bench::new(1);
    let one = bench.make(ROOT_INO, "one", DIR);
    let two = bench.make(ROOT_INO, "two", DIR);
    let file = bench.make(one, "x", REG);
    let dir = bench.make(two, "y", DIR);
    let exchange = |parent, name: &str, to_parent, to_name: &str, no_replace| Command::Rename {
        parent,
        name: name.into(),
        to_parent,
        to_name: to_name.into(),
        no_replace,
        exchange: true,
    };
    bench.ok(exchange(one, "x", two, "y", false));
    assert_eq!(
        (bench.state.lookup(one, b"x"), bench.state.lookup(two, b"y")),
        (Ok(dir), Ok(file))
    );
    assert_eq!((bench.attr(one).nlink, bench.attr(two).nlink), (3, 2));
    assert_eq!(
        bench.refused(exchange(one, "x", two, "z", false)),
        CommandError::NotFound
    );
    assert!(matches!(
        bench.refused(exchange(one, "x", two, "y", true)),
        CommandError::Invalid(_)
    ));
    assert!(matches!(
        bench.refused(exchange(ROOT_INO, "one", one, "x", false)),
        CommandError::Invalid(_)
    ));
    assert!(matches!(
        bench.refused(exchange(one, "x", ROOT_INO, "one", false)),
        CommandError::Invalid(_)
    ));
}

#[test]
fn attributes_change_as_asked() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "a", REG);
    let before = bench.attr(file);
    let set = SetAttr {
        mode: Some(0o104755),
        uid: Some(9),
        atime_now: true,
        ..SetAttr::default()
    };
    let Reply::Attr(after) = bench.ok(Command::SetAttr { ino: file, set }) else {
        panic!()
    };
    assert_eq!(
        (after.mode, after.uid, after.gid, after.mtime),
        (0o4755, 9, 6, before.mtime)
    );
    assert!(after.ctime > before.ctime && after.atime > before.atime);
    bench.ok(Command::SetAttr {
        ino: file,
        set: SetAttr::default(),
    });
    assert_eq!(bench.attr(file), after);
    let bad = SetAttr {
        mtime: Some(Time {
            sec: 0,
            nsec: 1_000_000_000,
        }),
        ..SetAttr::default()
    };
    assert!(matches!(
        bench.refused(Command::SetAttr {
            ino: file,
            set: bad
        }),
        CommandError::Invalid(_)
    ));
    assert_eq!(
        bench.refused(Command::SetAttr { ino: Ino(77), set }),
        CommandError::Stale(Ino(77))
    );
}

#[test]
fn extended_attributes_have_limits() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "a", REG);
    let set = |name: &str, bytes: usize, mode| Command::SetXattr {
        ino: file,
        name: name.into(),
        value: vec![1; bytes],
        mode,
    };
    assert_eq!(
        bench.refused(set("user.a", 1, SetXattrMode::Replace)),
        CommandError::NoAttribute
    );
    bench.ok(set("user.a", 1, SetXattrMode::Create));
    assert_eq!(
        bench.refused(set("user.a", 1, SetXattrMode::Create)),
        CommandError::Exists
    );
    bench.ok(set("user.a", 2, SetXattrMode::Replace));
    assert_eq!(
        bench.refused(set("user.b", XATTR_BYTES_MAX + 1, SetXattrMode::Any)),
        CommandError::NoSpace
    );
    assert!(matches!(
        bench.refused(set("", 1, SetXattrMode::Any)),
        CommandError::Invalid(_)
    ));
    let fit = (XATTR_TOTAL_BYTES_MAX - 8) / (XATTR_BYTES_MAX + 6);
    (0..fit).for_each(|at| {
        drop(bench.ok(set(
            &format!("user.{at}"),
            XATTR_BYTES_MAX,
            SetXattrMode::Any,
        )))
    });
    assert_eq!(
        bench.refused(set("user.x", XATTR_BYTES_MAX, SetXattrMode::Any)),
        CommandError::NoSpace
    );
    let remove = Command::RemoveXattr {
        ino: file,
        name: "user.a".into(),
    };
    bench.ok(remove.clone());
    assert_eq!(bench.refused(remove), CommandError::NoAttribute);
}

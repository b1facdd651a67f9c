//! Access control lists: who sets them, what becomes of modes, what is inherited. All of it is decided when a command is
//! applied; the arithmetic itself is tested beside it.

use crate::bench::{Bench, create};
use hydfs_state::{Acl, Event};
use hydfs_types::*;

const DIR: FileKind = FileKind::Directory;
const REG: FileKind = FileKind::Regular;
const NOBODY: u32 = u32::MAX;

/// `u::7,u:9:NAMED,g::5,m::MASK,o::0`
fn list(named: u8, mask: u8) -> Vec<u8> {
    let entries = [
        (1, 7, NOBODY),
        (2, named, 9),
        (4, 5, NOBODY),
        (16, mask, NOBODY),
        (32, 0, NOBODY),
    ];
    bytes(&entries)
}

fn minimal(owner: u8, group: u8, others: u8) -> Vec<u8> {
    bytes(&[(1, owner, NOBODY), (4, group, NOBODY), (32, others, NOBODY)])
}

fn bytes(entries: &[(u8, u8, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, rights, id) in entries {
        bytes.extend([*tag, 0, *rights, 0]);
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set(ino: Ino, list: &[u8]) -> Command {
    Command::SetAcl {
        ino,
        default: false,
        list: list.to_vec(),
        owner: None,
        set_gid: SetGid::Anywhere,
    }
}

fn set_default(ino: Ino, list: &[u8]) -> Command {
    Command::SetAcl {
        ino,
        default: true,
        list: list.to_vec(),
        owner: None,
        set_gid: SetGid::Nowhere,
    }
}

fn chmod(ino: Ino, mode: u16) -> Command {
    Command::SetAttr {
        ino,
        set: SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        },
    }
}

fn kept<'a>(bench: &'a Bench, ino: Ino, name: &[u8]) -> Option<&'a [u8]> {
    let inode = bench.state.inode(ino).expect("there");
    inode.xattrs.get(name).map(Vec::as_slice)
}

fn access(bench: &Bench, ino: Ino) -> Option<&[u8]> {
    kept(bench, ino, ACL_ACCESS)
}

/// Makes something with this mode under this umask.
fn made(bench: &mut Bench, parent: Ino, name: &str, kind: FileKind, mode: u16) -> Attr {
    let mut command = create(parent, name, kind, None);
    if let Command::Create { mode: m, umask, .. } = &mut command {
        (*m, *umask) = (mode, 0o077);
    }
    match bench.ok(command) {
        Reply::Created(made) => made.attr,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_and_the_mode_change_together() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "f", REG);
    let before = bench.attr(file);
    bench.ok(set(file, &list(6, 6)));
    assert!(bench.events.contains(&Event::Acl(file)) && bench.events.contains(&Event::Inode(file)));
    assert_eq!(access(&bench, file), Some(&list(6, 6)[..]));
    let after = bench.attr(file);
    assert_eq!(after.mode, 0o760);
    assert!(after.ctime > before.ctime && after.mtime == before.mtime);
    // chmod sets the mask, and says so to whoever keeps the list.
    bench.ok(chmod(file, 0o740));
    assert!(bench.events.contains(&Event::Acl(file)));
    assert_eq!(access(&bench, file), Some(&list(6, 4)[..]));
    // A list that says no more than a mode is kept as the mode.
    bench.ok(set(file, &minimal(6, 0, 4)));
    assert_eq!((access(&bench, file), bench.attr(file).mode), (None, 0o604));
    bench.ok(chmod(file, 0o600));
    assert!(!bench.events.contains(&Event::Acl(file)), "there is none");
    // A list that goes leaves the mode.
    bench.ok(set(file, &list(6, 6)));
    bench.ok(set(file, &[]));
    assert_eq!((access(&bench, file), bench.attr(file).mode), (None, 0o760));
    assert!(bench.events.contains(&Event::Acl(file)));
    let before = bench.attr(file);
    bench.ok(set(file, &[]));
    assert_eq!(bench.attr(file), before, "there was none");
    assert!(bench.events.is_empty());
}

#[test]
fn only_the_owner_of_that_moment_sets_a_list() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "f", REG);
    let owner = bench.attr(file).uid;
    let by = |uid, list: &[u8]| Command::SetAcl {
        ino: file,
        default: false,
        list: list.to_vec(),
        owner: Some(uid),
        set_gid: SetGid::Anywhere,
    };
    bench.ok(by(owner, &list(6, 6)));
    for new in [&list(7, 7)[..], &[]] {
        let refused = bench.refused(by(owner + 1, new));
        assert!(matches!(refused, CommandError::NotPermitted(_)));
    }
    assert_eq!(access(&bench, file), Some(&list(6, 6)[..]));
}

#[test]
fn lists_that_are_none_are_refused() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "f", REG);
    let link = bench.make(ROOT_INO, "l", FileKind::Symlink);
    let whole = list(6, 6);
    let cut = &whole[..whole.len() - 1];
    for wrong in [cut, b"x", &minimal(7, 7, 8)] {
        let refused = bench.refused(set(file, wrong));
        assert!(matches!(refused, CommandError::Invalid(_)), "{wrong:?}");
    }
    let many: Vec<_> = std::iter::once((1, 7, NOBODY))
        .chain((0..600).map(|id| (2, 7, id)))
        .chain([(4, 7, NOBODY), (16, 7, NOBODY), (32, 7, NOBODY)])
        .collect();
    assert_eq!(
        bench.refused(set(file, &bytes(&many))),
        CommandError::NoSpace
    );
    assert_eq!(bench.refused(set(link, &whole)), CommandError::Denied);
    // What is passed on belongs to directories; of others it can be removed.
    assert_eq!(
        bench.refused(set_default(file, &whole)),
        CommandError::Denied
    );
    bench.ok(set_default(file, &[]));
    // Nobody gets past all this by the name of the attribute.
    for name in [ACL_ACCESS, ACL_DEFAULT] {
        let raw = Command::SetXattr {
            ino: file,
            name: name.to_vec(),
            value: whole.clone(),
            mode: SetXattrMode::Any,
        };
        assert!(matches!(bench.refused(raw), CommandError::Invalid(_)));
    }
    bench.ok(set(file, &whole));
    let raw = Command::RemoveXattr {
        ino: file,
        name: ACL_ACCESS.to_vec(),
    };
    assert_eq!(bench.refused(raw), CommandError::NoAttribute);
}

#[test]
fn set_group_id_goes_where_the_caller_is_not_of_the_group() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "f", REG);
    let gid = bench.attr(file).gid;
    let by = |set_gid, default| Command::SetAcl {
        ino: file,
        default,
        list: minimal(7, 5, 5),
        owner: None,
        set_gid,
    };
    for (set_gid, mode) in [
        (SetGid::Anywhere, 0o2755),
        (SetGid::OfGroup(gid), 0o2755),
        (SetGid::OfGroup(gid + 1), 0o755),
        (SetGid::Nowhere, 0o755),
    ] {
        bench.ok(chmod(file, 0o2700));
        bench.ok(by(set_gid, false));
        assert_eq!(bench.attr(file).mode, mode, "{set_gid:?}");
    }
}

#[test]
fn what_a_directory_passes_on_takes_the_place_of_the_umask() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "d", DIR);
    let plain = made(&mut bench, dir, "before", REG, 0o666);
    assert_eq!(plain.mode, 0o600, "the umask");
    assert_eq!(
        made(&mut bench, dir, "link", FileKind::Symlink, 0o777).mode,
        0o777
    );
    bench.ok(chmod(dir, 0o2755));
    bench.ok(set_default(dir, &list(7, 7)));
    assert_eq!(
        bench.attr(dir).mode,
        0o2755,
        "of what is made, not of itself"
    );
    assert_eq!(access(&bench, dir), None);

    let file = made(&mut bench, dir, "f", REG, 0o664);
    assert_eq!(file.mode, 0o660);
    let mut wanted = list(7, 6);
    wanted[6] = 6; // of the owner
    assert_eq!(access(&bench, file.ino), Some(&wanted[..]));
    assert_eq!(kept(&bench, file.ino, ACL_DEFAULT), None);

    let below = made(&mut bench, dir, "sub", DIR, 0o777);
    assert_eq!(below.mode, 0o2770);
    assert_eq!(access(&bench, below.ino), Some(&list(7, 7)[..]));
    assert_eq!(kept(&bench, below.ino, ACL_DEFAULT), Some(&list(7, 7)[..]));
    let deep = made(&mut bench, below.ino, "fifo", FileKind::Fifo, 0o644);
    assert_eq!(deep.mode, 0o640);
    assert_eq!(
        made(&mut bench, dir, "l2", FileKind::Symlink, 0o777).mode,
        0o777
    );

    bench.ok(set_default(dir, &minimal(7, 0, 4)));
    let file = made(&mut bench, dir, "g", REG, 0o666);
    assert_eq!((file.mode, access(&bench, file.ino)), (0o604, None));
    bench.ok(set_default(dir, &[]));
    assert_eq!(made(&mut bench, dir, "h", REG, 0o666).mode, 0o600);
}

#[test]
fn rights_are_those_of_list_and_mode() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "f", REG);
    bench.ok(chmod(file, 0o600));
    let may = |bench: &Bench, uid| {
        let inode = bench.state.inode(file).expect("there");
        inode.grants(uid, |_| Some(false), 4)
    };
    assert!(!may(&bench, 9));
    bench.ok(set(file, &list(6, 6)));
    assert!(may(&bench, 9) && !may(&bench, 10));
    bench.ok(chmod(file, 0o720));
    assert!(!may(&bench, 9), "masked");
    assert!(Acl::parse(access(&bench, file).expect("a list")).is_ok());
}

/// A snapshot carries the lists: whoever starts from one decides the same.
#[test]
fn a_snapshot_holds_the_lists() {
    let mut bench = Bench::new(1);
    let dir = bench.make(ROOT_INO, "d", DIR);
    bench.ok(set_default(dir, &list(7, 5)));
    bench.ok(set(dir, &list(4, 4)));
    let restored = hydfs_state::State::restore(&bench.state.snapshot()).expect("restored");
    assert_eq!(restored.inode(dir).expect("there").xattrs.len(), 2);
    assert_eq!(restored.names, bench.state.names);
}

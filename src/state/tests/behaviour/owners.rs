//! Attribute changes that depend on what is agreed, and names that stay.

use crate::bench::{Bench, rename, unlink};
use hydfs_types::*;

const DIR: FileKind = FileKind::Directory;
const REG: FileKind = FileKind::Regular;

#[test]
fn only_the_owner_changes_attributes_and_gives_nothing_away() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "a", REG);
    let owner = bench.attr(file).uid;
    let asked = |owner, set| Command::SetAttrAs {
        ino: file,
        set,
        owner,
        clear_set_id: false,
    };
    let mode = |mode| SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    bench.ok(asked(Some(owner), mode(0o600)));
    let to = |uid| SetAttr {
        uid: Some(uid),
        ..SetAttr::default()
    };
    bench.ok(asked(Some(owner), to(owner)));
    for (by, set) in [(owner + 1, mode(0o666)), (owner, to(owner + 1))] {
        let refused = bench.refused(asked(Some(by), set));
        assert!(matches!(refused, CommandError::NotPermitted(_)));
    }
    bench.ok(asked(None, to(owner + 1)));
    let refused = bench.refused(asked(Some(owner), mode(0o666)));
    assert!(matches!(refused, CommandError::NotPermitted(_)));
}

#[test]
fn set_id_bits_go_from_the_mode_that_is_agreed() {
    let mut bench = Bench::new(1);
    let file = bench.make(ROOT_INO, "a", REG);
    let chmod = |mode| Command::SetAttr {
        ino: file,
        set: SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        },
    };
    let clear = |set| Command::SetAttrAs {
        ino: file,
        set,
        owner: None,
        clear_set_id: true,
    };
    bench.ok(chmod(0o6711));
    bench.ok(clear(SetAttr::default()));
    assert_eq!(bench.attr(file).mode, 0o711);
    bench.ok(chmod(0o600));
    let before = bench.attr(file);
    bench.ok(clear(SetAttr::default()));
    assert_eq!(bench.attr(file), before, "there was nothing to clear");
    bench.ok(chmod(0o4755));
    let set = SetAttr {
        gid: Some(77),
        ..SetAttr::default()
    };
    bench.ok(clear(set));
    assert_eq!((bench.attr(file).mode, bench.attr(file).gid), (0o755, 77));
    let set = SetAttr {
        mode: Some(0o4700),
        ..SetAttr::default()
    };
    bench.ok(clear(set));
    assert_eq!(bench.attr(file).mode, 0o4700);
}

#[test]
fn the_directory_of_jobs_keeps_its_name() {
    let mut bench = Bench::new(1);
    let jobs = bench.make(ROOT_INO, ".jobs", DIR);
    let other = bench.make(ROOT_INO, "other", DIR);
    let exchange = Command::Rename {
        parent: ROOT_INO,
        name: "other".into(),
        to_parent: ROOT_INO,
        to_name: ".jobs".into(),
        no_replace: false,
        exchange: true,
    };
    for command in [
        rename(ROOT_INO, ".jobs", ROOT_INO, "x"),
        rename(ROOT_INO, "other", ROOT_INO, ".jobs"),
        exchange,
        unlink(ROOT_INO, ".jobs", true),
    ] {
        assert!(matches!(bench.refused(command), CommandError::InUse(_)));
    }
    assert_eq!(bench.state.lookup(ROOT_INO, b".jobs"), Ok(jobs));
    bench.make(other, ".jobs", DIR);
    bench.ok(rename(other, ".jobs", other, "x"));
}

#[test]
fn only_owners_take_something_out_of_a_sticky_directory() {
    let mut bench = Bench::new(1);
    let (dir, other) = (
        bench.make(ROOT_INO, "dir", DIR),
        bench.make(ROOT_INO, "other", DIR),
    );
    let (file, free) = (bench.make(dir, "a", REG), bench.make(other, "free", REG));
    let chown = |ino, uid, mode| Command::SetAttr {
        ino,
        set: SetAttr {
            uid: Some(uid),
            mode: Some(mode),
            ..SetAttr::default()
        },
    };
    bench.ok(chown(dir, 1, 0o1777));
    bench.ok(chown(other, 1, 0o777));
    bench.ok(chown(file, 2, 0o644));
    bench.ok(chown(free, 3, 0o644));
    let unlink_as = |caller| Command::UnlinkAs {
        parent: dir,
        name: b"a".to_vec(),
        dir: false,
        caller,
    };
    let rename_as = |(parent, name): (Ino, &str), (to_parent, to_name): (Ino, &str), caller| {
        Command::RenameAs {
            parent,
            name: name.into(),
            to_parent,
            to_name: to_name.into(),
            no_replace: false,
            exchange: false,
            caller,
        }
    };
    for command in [
        unlink_as(3),
        rename_as((dir, "a"), (dir, "b"), 3),
        rename_as((dir, "a"), (other, "b"), 3),
        rename_as((other, "free"), (dir, "a"), 3),
    ] {
        let refused = bench.refused(command);
        assert!(matches!(refused, CommandError::NotPermitted(_)));
    }
    // Its owner, the directory's, and who takes from one without the bit.
    bench.ok(rename_as((dir, "a"), (dir, "b"), 2));
    bench.ok(rename_as((dir, "b"), (dir, "a"), 1));
    bench.ok(rename_as((other, "free"), (other, "freed"), 4));
    bench.ok(unlink_as(2));
}

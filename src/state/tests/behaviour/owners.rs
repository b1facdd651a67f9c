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

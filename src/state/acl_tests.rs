//! Against what Linux does with the same lists: the values were read off ext4 with setfacl, getfacl and stat.

use super::*;
use hydfs_types::{FileKind, Ino, Time};
use proptest::prelude::*;

const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP: u16 = 4;
const NAMED: u16 = 8;
const MASK: u16 = 16;
const OTHERS: u16 = 32;

/// As setfacl(1) writes it: tag, rights and whom it names.
fn bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn acl(entries: &[(u16, u16, u32)]) -> Acl {
    Acl::parse(&bytes(entries)).expect("valid").expect("a list")
}

/// `u::rwx,u:7:rwx,g::r-x,g:8:r--,m::rw-,o::--x`
fn full() -> Vec<(u16, u16, u32)> {
    vec![
        (OWNER, 7, NOBODY),
        (USER, 7, 7),
        (GROUP, 5, NOBODY),
        (NAMED, 4, 8),
        (MASK, 6, NOBODY),
        (OTHERS, 1, NOBODY),
    ]
}

fn minimal(owner: u16, group: u16, others: u16) -> Vec<(u16, u16, u32)> {
    vec![
        (OWNER, owner, NOBODY),
        (GROUP, group, NOBODY),
        (OTHERS, others, NOBODY),
    ]
}

fn attr(mode: u16) -> Attr {
    let at = Time::default();
    Attr {
        ino: Ino(2),
        kind: FileKind::Regular,
        mode,
        uid: 5,
        gid: 6,
        nlink: 1,
        rdev: 0,
        size: 0,
        stored: 0,
        atime: at,
        mtime: at,
        ctime: at,
        btime: at,
    }
}

#[test]
fn a_list_is_read_and_written_as_the_kernel_does() {
    let list = bytes(&full());
    assert_eq!(list.len(), 4 + 6 * 8);
    assert_eq!(list[..12], [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255]);
    assert_eq!(acl(&full()).bytes(), list);
    assert_eq!(Acl::parse(b""), Ok(None));
    assert_eq!(Acl::parse(&[2, 0, 0, 0]), Ok(None));
    // Ids that name nobody in particular are not looked at.
    let mut odd = minimal(6, 4, 4);
    odd[0].2 = 17;
    assert_eq!(acl(&odd), acl(&minimal(6, 4, 4)));
}

#[test]
fn malformed_lists_are_refused() {
    let whole = bytes(&full());
    for len in (1..whole.len()).filter(|len| *len != 4) {
        assert!(Acl::parse(&whole[..len]).is_err(), "{len} bytes of it");
    }
    let mut version = whole.clone();
    version[0] = 1;
    assert!(Acl::parse(&version).is_err());
    let without = |tag: u16| -> Vec<_> { full().into_iter().filter(|e| e.0 != tag).collect() };
    let twice = |at: usize| {
        let mut list = full();
        list.insert(at, list[at]);
        list
    };
    let changed = |at: usize, to: (u16, u16, u32)| {
        let mut list = full();
        list[at] = to;
        list
    };
    let mut order = full();
    order.swap(1, 2);
    for wrong in [
        without(OWNER),
        without(GROUP),
        without(OTHERS),
        without(MASK),
        twice(0),
        twice(2),
        twice(4),
        twice(5),
        changed(1, (USER, 7, NOBODY)),
        changed(1, (USER, 8, 7)),
        changed(1, (3, 7, 7)),
        order,
    ] {
        assert!(Acl::parse(&bytes(&wrong)).is_err(), "{wrong:?}");
    }
    // A user may be named twice: the first counts.
    assert!(Acl::parse(&bytes(&twice(1))).is_ok());
}

#[test]
fn the_group_class_of_the_mode_is_the_mask() {
    assert_eq!(acl(&full()).mode(), 0o761);
    assert_eq!(acl(&minimal(6, 4, 0)).mode(), 0o640);
    assert!(acl(&minimal(6, 4, 0)).is_mode_alone());
    assert!(!acl(&full()).is_mode_alone());
    let mut masked = minimal(6, 4, 0);
    masked.insert(2, (MASK, 7, NOBODY));
    assert_eq!(acl(&masked).mode(), 0o670);
    assert!(!acl(&masked).is_mode_alone(), "a mask is kept");
}

#[test]
fn chmod_sets_the_mask_and_without_one_the_group() {
    let mut wanted = full();
    (wanted[0].1, wanted[4].1, wanted[5].1) = (6, 0, 4);
    assert_eq!(acl(&full()).with_mode(0o4604), acl(&wanted));
    assert_eq!(
        acl(&minimal(7, 7, 7)).with_mode(0o640),
        acl(&minimal(6, 4, 0))
    );
}

#[test]
fn what_is_made_gets_no_more_than_the_list_and_the_mode_allow() {
    // ext4: mkdir with 0777 and mknod with 0666 below `d:` of the full list.
    let mut wanted = full();
    let (access, mode) = acl(&full()).of_new(0o777);
    assert_eq!((access, mode), (acl(&wanted), 0o761));
    (wanted[0].1, wanted[5].1) = (6, 0);
    let (access, mode) = acl(&full()).of_new(0o666);
    assert_eq!((access, mode), (acl(&wanted), 0o660));
    let (access, mode) = acl(&minimal(7, 5, 0)).of_new(0o4622);
    assert_eq!((access, mode), (acl(&minimal(6, 0, 0)), 0o4600));
}

#[test]
fn rights_are_looked_for_in_the_order_of_linux() {
    let list = || Some(acl(&full()));
    let may = |list: Option<Acl>, uid, groups: &[u32], wanted| {
        let is_in = |gid: u32| Some(groups.contains(&gid));
        let mode = list.as_ref().map_or(0o640, Acl::mode);
        grants(&attr(mode), list, uid, is_in, wanted)
    };
    // The owner by its own entry alone, whatever its groups say.
    assert!(may(list(), 5, &[], 7));
    assert!(may(list(), 7, &[], 6) && !may(list(), 7, &[], 1), "masked");
    assert!(may(list(), 9, &[6], 4));
    assert!(!may(list(), 9, &[6], 2), "the group's entry has no w");
    assert!(!may(list(), 9, &[6], 1), "the mask has no x");
    assert!(may(list(), 9, &[8], 4) && !may(list(), 9, &[8], 1));
    assert!(
        !may(list(), 9, &[6, 8], 1),
        "who is in a group is not of the others"
    );
    assert!(may(list(), 9, &[], 1) && !may(list(), 9, &[], 4));
    // Without a list by the mode.
    assert!(may(None, 5, &[], 6) && may(None, 9, &[6], 4));
    assert!(!may(None, 9, &[6], 2) && !may(None, 9, &[], 4));
    // One of two groups has to grant it all.
    let split = acl(&[
        (OWNER, 7, NOBODY),
        (GROUP, 4, NOBODY),
        (NAMED, 2, 8),
        (MASK, 7, NOBODY),
        (OTHERS, 0, NOBODY),
    ]);
    assert!(may(Some(split.clone()), 9, &[6, 8], 4) && may(Some(split.clone()), 9, &[6, 8], 2));
    assert!(!may(Some(split), 9, &[6, 8], 6));
}

#[test]
fn an_empty_mask_makes_linux_look_at_the_mode_alone() {
    let list = acl(&full()).with_mode(0o704);
    let may = |uid, gid| {
        let is_in = |other: u32| Some(other == gid);
        grants(&attr(0o704), Some(list.clone()), uid, is_in, 4)
    };
    assert!(may(7, 9), "named, and one of the others now");
    assert!(!may(9, 6));
}

#[test]
fn where_groups_are_not_known_only_what_is_granted_either_way() {
    let may = |list: &Acl, wanted| {
        let groups = |_: u32| None;
        grants(&attr(list.mode()), Some(list.clone()), 9, groups, wanted)
    };
    assert!(!may(&acl(&full()), 4) && !may(&acl(&full()), 1));
    let mut open = full();
    open[5].1 = 4;
    assert!(may(&acl(&open), 4));
    assert!(may(&acl(&minimal(0, 6, 4)), 4) && !may(&acl(&minimal(0, 6, 4)), 2));
}

fn any_acl() -> impl Strategy<Value = Acl> {
    let rights = || 0..8_u16;
    let named = || prop::collection::vec((0..8_u16, 0..4_u32), 0..3);
    (rights(), named(), rights(), named(), rights(), rights()).prop_map(
        |(owner, users, group, groups, mask, others)| {
            let mut list = vec![(OWNER, owner, NOBODY)];
            list.extend(users.iter().map(|(rights, id)| (USER, *rights, *id)));
            list.push((GROUP, group, NOBODY));
            list.extend(groups.iter().map(|(rights, id)| (NAMED, *rights, *id)));
            if list.len() > 2 || mask % 2 == 0 {
                list.push((MASK, mask, NOBODY));
            }
            list.push((OTHERS, others, NOBODY));
            acl(&list)
        },
    )
}

proptest! {
    #[test]
    fn lists_survive_their_bytes_and_modes(acl in any_acl(), mode in 0..0o10000_u16) {
        prop_assert_eq!(Acl::parse(&acl.bytes()), Ok(Some(acl.clone())));
        prop_assert_eq!(acl.clone().with_mode(mode).mode(), mode & RIGHTS);
        prop_assert_eq!(acl.clone().with_mode(acl.mode()), acl.clone());
        let (access, granted) = acl.of_new(mode);
        prop_assert_eq!(access.mode(), granted & RIGHTS);
        prop_assert_eq!(granted, mode & (acl.mode() | !RIGHTS));
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in prop::collection::vec(0..40_u8, 0..64)) {
        if let Ok(Some(acl)) = Acl::parse(&bytes) {
            prop_assert_eq!(Acl::parse(&acl.bytes()), Ok(Some(acl)));
        }
    }
}

//! Small sets and lists that are cheap to copy, to compare and to hash: a state is all that the checker ever stores.

use crate::{MEMBERS, RECORDS};

/// A set of members, or of records, or of segments: one bit each.
pub type Set = u8;

/// The set of one.
pub fn only(one: u8) -> Set {
    1 << one
}

/// Whether the set has it.
pub fn has(set: Set, one: u8) -> bool {
    set & only(one) != 0
}

/// What is in a set, in order.
pub fn each(set: Set) -> impl Iterator<Item = u8> {
    (0..MEMBERS as u8).filter(move |one| has(set, *one))
}

/// Records in an order, none twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct List(u8);

/// Every list of two records.
const LISTS: [&[u8]; 5] = [&[], &[0], &[1], &[0, 1], &[1, 0]];

impl List {
    /// How many there are.
    pub const COUNT: usize = LISTS.len();

    pub fn of(records: impl IntoIterator<Item = u8>) -> Self {
        let mut list = Self::default();
        records.into_iter().for_each(|record| list.push(record));
        list
    }

    /// Its number among all lists.
    pub fn code(self) -> usize {
        usize::from(self.0)
    }

    pub fn items(self) -> impl DoubleEndedIterator<Item = u8> {
        LISTS[self.code()].iter().copied()
    }

    pub fn set(self) -> Set {
        self.items().fold(0, |set, record| set | only(record))
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn contains(self, record: u8) -> bool {
        has(self.set(), record)
    }

    /// Adds it at the end, unless it is there.
    pub fn push(&mut self, record: u8) {
        assert!(usize::from(record) < RECORDS, "records are numbered from 0");
        self.0 = match self.0 {
            0 => 1 + record,
            1 if record == 1 => 3,
            2 if record == 0 => 4,
            same => same,
        };
    }

    /// The list without these.
    pub fn without(self, gone: Set) -> Self {
        Self::of(self.items().filter(|record| !has(gone, *record)))
    }
}

//! Tables against a model, however little fits into memory.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn table(memory: usize) -> Table<Vec<u8>> {
    Table::new(Room::of(memory, u64::MAX, 0))
}

/// All pieces of a save.
fn save(table: &mut Table<Vec<u8>>, which: Which, bytes: usize) -> Vec<Delta<Vec<u8>>> {
    table.begin(which).unwrap();
    let mut all = Vec::new();
    loop {
        let piece = table.next(&mut bytes.clone()).unwrap();
        if piece.is_empty() {
            return all;
        }
        all.push(piece);
    }
}

fn all(table: &mut Table<Vec<u8>>, bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let all = save(table, Which::All, bytes).into_iter().flatten();
    all.map(|(key, value)| (key, value.unwrap())).collect()
}

/// Keys are of different lengths, and some are the beginning of others.
fn key(number: u8) -> Vec<u8> {
    vec![number / 3; 1 + usize::from(number % 3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is done with it, a table is a map, and what it saves in between restores it.
    #[test]
    fn a_table_is_a_map_and_what_it_saves_restores_it(
        steps in proptest::collection::vec((0..10_u8, 0..40_u8, 0..200_u8), 0..150),
        memory in prop_oneof![Just(0_usize), 100..6000_usize, Just(usize::MAX)],
        bytes in prop_oneof![Just(1_usize), 1..2000_usize, Just(usize::MAX)],
    ) {
        let mut live = table(memory);
        let (mut model, mut changed) = (Model::new(), BTreeSet::new());
        let mut saves: Vec<Delta<Vec<u8>>> = Vec::new();
        for (what, number, len) in steps {
            let (key, value) = (key(number), vec![number; usize::from(len)]);
            match what {
                0..=2 => {
                    let was = live.update(&key, Vec::new, |old, is_new| {
                        let before = std::mem::replace(old, value.clone());
                        (!is_new).then_some(before)
                    });
                    prop_assert_eq!(was.unwrap(), model.insert(key.clone(), value));
                    changed.insert(key);
                }
                3 => {
                    let is_new = !model.contains_key(&key);
                    prop_assert_eq!(live.insert(&key, value.clone()).unwrap(), is_new);
                    if is_new {
                        model.insert(key.clone(), value);
                        changed.insert(key);
                    }
                }
                4 | 5 => {
                    let was = model.remove(&key);
                    prop_assert_eq!(live.remove(&key).unwrap(), was.clone());
                    if was.is_some() {
                        changed.insert(key);
                    }
                }
                6 => prop_assert_eq!(live.get(&key).unwrap(), model.get(&key)),
                7 => {
                    let which = if len < 100 { Which::Changed } else { Which::ChangedSorted };
                    let saved = save(&mut live, which, bytes);
                    let keys: Vec<_> = saved.iter().flatten().map(|(key, _)| key.clone()).collect();
                    prop_assert_eq!(keys.iter().cloned().collect::<BTreeSet<_>>(), changed.clone());
                    prop_assert_eq!(keys.len(), changed.len());
                    prop_assert!(which == Which::Changed || keys.is_sorted());
                    // Some changes are looked at first, and saved then.
                    if len % 2 == 0 {
                        live.saved().unwrap();
                        changed.clear();
                        saves.extend(saved);
                    }
                }
                8 => {
                    saves = save(&mut live, Which::All, bytes);
                    live.saved().unwrap();
                    changed.clear();
                }
                _ => {
                    let gone = |key: &[u8]| key[0] <= number / 6;
                    let border = [number / 6 + 1];
                    let range = (Bound::Unbounded, Bound::Excluded(&border[..]));
                    live.remove_where(&[range], gone).unwrap();
                    changed.extend(model.keys().filter(|key| gone(key)).cloned());
                    model.retain(|key, _| !gone(key));
                }
            }
            prop_assert_eq!(live.count(), model.len());
            prop_assert_eq!(live.is_unchanged(), changed.is_empty());
            let cost = |(key, value): (&Vec<u8>, &Vec<u8>)| Table::cost(key, Some(value));
            prop_assert_eq!(live.bytes(), model.iter().map(cost).sum::<usize>());
        }
        saves.extend(save(&mut live, Which::Changed, bytes));
        live.saved().unwrap();
        let want: Vec<_> = model.clone().into_iter().collect();
        let mut again = table(memory);
        for delta in saves {
            again.restore(delta, |_| true).unwrap();
        }
        for table in [&mut live, &mut again] {
            prop_assert!(table.is_unchanged());
            prop_assert_eq!(all(table, bytes), want.clone());
            prop_assert_eq!(table.count(), model.len());
        }
        prop_assert_eq!(live.bytes(), again.bytes());
        let mut half = table(memory);
        let mine = |key: &[u8]| key[0].is_multiple_of(2);
        half.restore(save(&mut live, Which::All, bytes).concat(), mine).unwrap();
        let of_half: Vec<_> = want.into_iter().filter(|(key, _)| mine(key)).collect();
        prop_assert_eq!(all(&mut half, bytes), of_half);
    }
}

/// So many bytes are in memory, and the rest is on disk.
#[test]
fn memory_stays_within_its_room_however_many_keys_there_are() {
    let memory = 256 << 10;
    let room = Room::of(memory, u64::MAX, 0);
    let mut table = Table::<i64>::new(room.clone());
    let mut most = 0;
    let keys = |count: u64| (0..count).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let count = 60_000;
    for key in keys(count) {
        assert!(table.insert(&key.to_be_bytes(), key as i64).unwrap());
        most = most.max(table.memory());
    }
    assert!(table.bytes() > 20 * memory, "{}", table.bytes());
    assert!(most <= memory, "{most} of {memory} bytes in memory");
    assert!(room.disk_bytes() > 1 << 20);
    for key in keys(count).step_by(100) {
        assert_eq!(table.get(&key.to_be_bytes()).unwrap(), Some(&(key as i64)));
    }
    // Nor does it take more to save all of it, to restore it, or to forget it.
    let mut again = Table::<i64>::new(room.clone());
    table.begin(Which::All).unwrap();
    loop {
        let piece = table.next(&mut 10_000).unwrap();
        if piece.is_empty() {
            break;
        }
        again.restore(piece, |_| true).unwrap();
        most = most.max(table.memory()).max(again.memory());
    }
    table.saved().unwrap();
    assert_eq!(
        (again.count(), again.bytes()),
        (table.count(), table.bytes())
    );
    for key in keys(count) {
        assert!(again.remove(&key.to_be_bytes()).unwrap().is_some());
        most = most.max(again.memory());
    }
    assert!(most <= memory, "{most} of {memory} bytes in memory");
    assert_eq!((again.count(), again.bytes()), (0, 0));
    drop((table, again));
    assert_eq!(room.disk_bytes(), 0);
}

/// What is used again and again stays in memory.
#[test]
fn what_is_used_stays() {
    let mut table = Table::<i64>::new(Room::of(64 << 10, u64::MAX, 0));
    for number in 0..20_000_u32 {
        table
            .update(b"often", || 0, |often, _| *often += 1)
            .unwrap();
        table.insert(&number.to_be_bytes(), 0).unwrap();
        assert!(table.place(b"often").is_some());
    }
    assert_eq!(table.get(b"often").unwrap(), Some(&20_000));
}

#[test]
fn more_than_the_disk_may_hold_is_the_jobs_error() {
    let mut table = Table::<i64>::new(Room::of(64 << 10, 1 << 20, 0));
    let error = (0..100_000_u32)
        .find_map(|number| table.insert(&number.to_be_bytes(), 0).err())
        .unwrap();
    let text = error.to_string();
    assert!(
        error.is_final() && text.contains("1048576 bytes of state"),
        "{text}"
    );
}

//! Keys: the values of one or several columns in one string of bytes that sorts as the values do, one after another.
//!
//! One column's value is its own key. Of several, each value ends with two zero bytes, and a zero byte within a value
//! is followed by 0xff.

use crate::csv;

/// The keys of one task of a stage that works by key.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    pub task: u32,
    pub tasks: u32,
}

impl Keys {
    /// Whether a key is one of them.
    pub fn hold(&self, key: &[u8]) -> bool {
        task_of(key, self.tasks) == self.task
    }
}

/// The task of `tasks` that lines with this key meet in.
pub fn task_of(key: &[u8], tasks: u32) -> u32 {
    (hash(key) % u64::from(tasks.max(1))) as u32
}

/// FNV-1a with a final mix: the same on every member and in every version.
pub fn hash(key: &[u8]) -> u64 {
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ hash >> 33
}

/// Writes the key of a line; of no column, the whole line. Columns that a short line lacks are empty.
pub fn write_key(line: &[u8], columns: &[usize], out: &mut Vec<u8>) {
    match columns {
        [] => out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line)),
        [column] => {
            out.extend_from_slice(&csv::value(csv::field(line, *column).unwrap_or_default()))
        }
        several => {
            for &column in several {
                for &byte in csv::value(csv::field(line, column).unwrap_or_default()).iter() {
                    out.push(byte);
                    if byte == 0 {
                        out.push(0xff);
                    }
                }
                out.extend_from_slice(&[0, 0]);
            }
        }
    }
}

/// Appends the key's values as CSV fields; `several` as it was written.
pub fn push_key(key: &[u8], several: bool, out: &mut Vec<u8>) {
    push_key_with(key, several, out, csv::push_value);
}

/// The same, with fields that `push` appends.
pub fn push_key_with(
    key: &[u8],
    several: bool,
    out: &mut Vec<u8>,
    push: impl Fn(&[u8], &mut Vec<u8>),
) {
    if !several {
        return push(key, out);
    }
    let mut value = Vec::new();
    let mut first = true;
    let mut bytes = key.iter();
    while let Some(&byte) = bytes.next() {
        if byte != 0 {
            value.push(byte);
            continue;
        }
        if bytes.next() == Some(&0xff) {
            value.push(0);
            continue;
        }
        if !std::mem::replace(&mut first, false) {
            out.push(b',');
        }
        push(&value, out);
        value.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_key_never_changes() {
        assert_eq!(
            [hash(b""), hash(b"key")],
            [17058014651485797458, 7349868639289661739]
        );
    }

    #[test]
    fn keys_come_back_as_fields() {
        let line = b"a,\"b, c\",,\"x\0y\"";
        for columns in [&[1][..], &[0, 1, 3], &[2, 2], &[3, 9]] {
            let (mut key, mut out) = (Vec::new(), Vec::new());
            write_key(line, columns, &mut key);
            push_key(&key, columns.len() > 1, &mut out);
            let want: Vec<_> = columns
                .iter()
                .map(|&at| csv::value(csv::field(line, at).unwrap_or_default()).into_owned())
                .collect();
            let fields: Vec<_> = csv::fields(&out)
                .map(|raw| csv::value(raw).into_owned())
                .collect();
            assert_eq!(fields, want);
        }
        let key = |line: &[u8]| {
            let mut key = Vec::new();
            write_key(line, &[0, 1], &mut key);
            key
        };
        assert_ne!(key(b"ab,c"), key(b"a,bc"));
        assert!(key(b"a,z") < key(b"ab,a"));
    }
}

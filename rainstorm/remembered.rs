//! What an executable of the contract `lines` wants remembered: a value for each key of its stage (`docs/JOBS.md`, "State of
//! executables"). The program writes and reads it as lines, `0x1f KEY tab VALUE`; it is stored as the state of operators built in is.
//!
//! What the program wrote for a batch is taken wholly, once the batch is done, or not at all.

use crate::batch::LINE_BYTES_MAX;
use crate::csv;
use crate::error::Result;
use crate::key::{Keys, push_key_with, write_key};
use crate::room::Room;
use crate::stateful::{Held, PIECE_BYTES, State};
use crate::table::{Delta, Table, Which};
use bytes::Bytes;
use memchr::{memchr, memchr2};

/// Begins state lines: ASCII "unit separator".
pub const STATE: u8 = 0x1f;
/// As much of a key is shown in a message.
const SHOWN_BYTES_MAX: usize = 200;

/// A key and its new value; an empty one forgets the key.
pub type Change = (Vec<u8>, Bytes);

/// Values by key.
pub struct Remembered {
    /// Those of the task.
    keys: Keys,
    /// Columns of the stage's key, by their places in a key that is written.
    columns: Vec<usize>,
    room: Room,
    values: Table<Vec<u8>>,
    /// A piece is to be saved even if it is empty.
    owes_piece: bool,
}

impl Remembered {
    /// Nothing, of `keys`, each of so many columns.
    pub fn new(keys: Keys, columns: usize, room: Room) -> Self {
        Self {
            keys,
            columns: (0..columns).collect(),
            values: Table::new(room.clone()),
            room,
            owes_piece: false,
        }
    }

    /// Begins to tell a process what is remembered. Nothing else is called until that is over, or given up.
    pub fn begin_telling(&mut self) -> Result<()> {
        self.values.begin(Which::All)
    }

    /// The next state lines for the process; none: that was all.
    pub fn next_lines(&mut self) -> Result<Vec<u8>> {
        let (several, mut lines) = (self.columns.len() > 1, Vec::new());
        self.values.walk(&mut PIECE_BYTES.clone(), |key, value| {
            lines.push(STATE);
            push_key_with(key, several, &mut lines, push_value);
            lines.push(b'\t');
            lines.extend_from_slice(value.map_or(&[], Vec::as_slice));
            lines.push(b'\n');
            Ok(())
        })?;
        Ok(lines)
    }

    /// What a program wrote for a batch, as its output and what it wants remembered; or what is wrong with the latter.
    pub fn split(&self, text: Bytes) -> Result<(Bytes, Vec<Change>), String> {
        if memchr(STATE, &text).is_none() {
            return Ok((text, Vec::new()));
        }
        let (mut output, mut changes) = (Vec::new(), Vec::new());
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_prefix(&[STATE]) {
                Some(rest) => {
                    let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
                    changes.push(self.change(&text.slice_ref(rest))?);
                }
                None => output.extend_from_slice(line),
            }
        }
        Ok((output.into(), changes))
    }

    fn change(&self, line: &Bytes) -> Result<Change, String> {
        if line.len() >= LINE_BYTES_MAX {
            let most = LINE_BYTES_MAX;
            return Err(format!("it wrote a state line of more than {most} bytes"));
        }
        let Some(end) = key_end(line) else {
            let shown = shown(line);
            return Err(format!(
                "it wrote a state line without a tab behind its key, `{shown}`: a state line is the byte 0x1f, the key, a tab and the value"
            ));
        };
        let (written, mut key) = (&line[..end], Vec::new());
        let (fields, columns) = (csv::fields(written).count(), self.columns.len());
        if fields != columns {
            let shown = shown(written);
            return Err(format!(
                "the key `{shown}` of a state line has {fields} fields, and the `key` of the stage {columns}: write the values of these columns as CSV"
            ));
        }
        write_key(written, &self.columns, &mut key);
        if !self.keys.hold(&key) {
            let shown = shown(written);
            return Err(format!(
                "the key `{shown}` of a state line belongs to another task: state is of the keys that the lines of a task have, in the columns that the stage names as `key`"
            ));
        }
        Ok((key, line.slice(end + 1..)))
    }

    /// Remembers what `split` has found.
    pub fn take(&mut self, changes: Vec<Change>) -> Result<()> {
        for (key, value) in changes {
            match value.is_empty() {
                true => drop(self.values.remove(&key)?),
                false => {
                    let set = |known: &mut Vec<u8>, _| *known = value.to_vec();
                    self.values.update(&key, Vec::new, set)?;
                }
            }
        }
        self.values.settle()
    }
}

impl State for Remembered {
    fn begin_save(&mut self, full: bool) -> Result<()> {
        self.owes_piece = full;
        self.values.begin(Which::to_save(full))
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let values = self.values.next(&mut PIECE_BYTES.clone())?;
        if values.is_empty() && !std::mem::take(&mut self.owes_piece) {
            self.values.saved()?;
            return Ok(None);
        }
        self.owes_piece = false;
        Ok(Some(hydfs_types::encode(&values)))
    }

    fn is_unchanged(&self) -> bool {
        self.values.is_unchanged()
    }

    fn bytes(&self) -> usize {
        self.values.bytes()
    }

    fn held(&self) -> Held {
        Held {
            memory: self.values.memory() as u64,
            disk: self.room.disk_bytes(),
        }
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let values: Delta<Vec<u8>> = hydfs_types::decode(saved)?;
        self.values.restore(values, |key| keys.hold(key))
    }
}

/// Where the tab behind a key stands: the first that is not within quotes.
fn key_end(line: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let from = match line.get(at)? {
            b'"' => at + csv::quoted_len(&line[at..]),
            _ => at,
        };
        let end = from + memchr2(b',', b'\t', &line[from..])?;
        match line[end] {
            b'\t' => return Some(end),
            _ => at = end + 1,
        }
    }
}

/// A value as a CSV field that holds no tab outside quotes.
fn push_value(value: &[u8], out: &mut Vec<u8>) {
    match memchr(b'\t', value) {
        Some(_) => csv::push_quoted(value, out),
        None => csv::push_value(value, out),
    }
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(SHOWN_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stateful::{put_back, save};

    const ALL: Keys = Keys { task: 0, tasks: 1 };

    fn hear(state: &mut Remembered, text: &'static [u8]) -> Result<Bytes, String> {
        let (output, changes) = state.split(Bytes::from_static(text))?;
        state.take(changes).unwrap();
        Ok(output)
    }

    fn told(state: &mut Remembered) -> Vec<u8> {
        state.begin_telling().unwrap();
        let pieces = std::iter::from_fn(|| {
            let lines = state.next_lines().unwrap();
            (!lines.is_empty()).then_some(lines)
        });
        pieces.collect::<Vec<_>>().concat()
    }

    #[test]
    fn state_lines_are_no_output_and_come_back() {
        let mut state = Remembered::new(ALL, 1, Room::vast());
        let text = b"a\n\x1fk\t1\nb\x1f\n\x1f\"x, y\"\tv\tw\n\x1f\"a\tb\"\t2\n\x1fgone\t1\n\x1fk\t2\n\x1fgone\t\n\x1f\tempty\n";
        assert_eq!(hear(&mut state, text).unwrap(), "a\nb\x1f\n");
        let want = b"\x1f\tempty\n\x1f\"a\tb\"\t2\n\x1fk\t2\n\x1f\"x, y\"\tv\tw\n";
        assert_eq!(
            told(&mut state).escape_ascii().to_string(),
            want.escape_ascii().to_string()
        );
        let saved = save(&mut state, false);
        assert!(state.is_unchanged());
        hear(&mut state, b"\x1fk\t\n").unwrap();
        let later = save(&mut state, false);
        let mut again = Remembered::new(ALL, 1, Room::vast());
        put_back(&mut again, &[saved, later].concat());
        assert_eq!(told(&mut again), told(&mut state));
        assert!(!told(&mut again).contains(&b'k'));
    }

    #[test]
    fn what_was_not_told_to_the_end_is_told_anew() {
        let mut state = Remembered::new(ALL, 1, Room::of(64 << 10, u64::MAX, 0));
        let line = |n: usize| format!("\x1f{n:05}\t{}\n", "v".repeat(n % 700));
        let text: String = (1..5000).map(line).collect();
        let (_, changes) = state.split(text.clone().into()).unwrap();
        state.take(changes).unwrap();
        assert!(state.held().disk > 0);
        state.begin_telling().unwrap();
        assert!(state.next_lines().unwrap().len() < text.len());
        let kept = |n: &usize| !n.is_multiple_of(700);
        let want: String = (1..5000).filter(kept).map(line).collect();
        assert!(told(&mut state) == want.into_bytes());
        let pieces = save(&mut state, false);
        let mut again = Remembered::new(ALL, 1, Room::vast());
        put_back(&mut again, &pieces);
        assert!(told(&mut again) == told(&mut state));
    }

    #[test]
    fn a_key_has_the_fields_of_the_stages_key_and_is_of_the_task() {
        let two = Keys { task: 1, tasks: 2 };
        let mut state = Remembered::new(two, 2, Room::vast());
        for (text, why) in [
            (&b"\x1fa,b\n"[..], "without a tab behind its key, `a,b`"),
            (b"\x1f\"a,b\t1\n", "without a tab"),
            (
                b"\x1fa\tb,c\n",
                "the key `a` of a state line has 1 fields, and the `key` of the stage 2",
            ),
            (b"\x1fa,b,c\t1\n", "has 3 fields"),
        ] {
            let error = hear(&mut state, text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let mut of_others = 0;
        for n in 0..100 {
            let text = format!("\x1fk,{n}\tv\n");
            match state.split(text.into()) {
                Ok((_, changes)) => state.take(changes).unwrap(),
                Err(error) => {
                    assert!(error.contains("belongs to another task"), "{error}");
                    of_others += 1;
                }
            }
        }
        let lines = told(&mut state);
        let mine = lines.split(|&byte| byte == b'\n').count() - 1;
        assert!(mine > 20 && mine + of_others == 100, "{mine}");
    }
}

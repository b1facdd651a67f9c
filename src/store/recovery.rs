//! Reading a log from its first entry to its last: at open, where the end has to be found, and later as [`Replay`].
//!
//! A power cut may leave any part of what was not synced. So the first unreadable entry is the end of the log,
//! unless a later entry claims that its place was durable: then bytes were damaged, and that is an error.

use crate::{
    DiskFile, Position, Result, StoreError,
    ahead::{Ahead, file_number, file_path},
    disk::{read_bytes, write_bytes},
    entry::{
        BadHeader, ENTRY_HEADER_BYTES, EntryHeader, FILE_HEADER_BYTES, FIRST_ENTRY,
        KIND_CALLER_MAX, KIND_END, check_file_header, entry_bytes,
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, io, sync::Arc};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// Bytes that a search compares with zeros at once; a multiple of 8.
const BLOCK_BYTES: usize = 4096;
static ZEROS: [u8; BLOCK_BYTES + ENTRY_HEADER_BYTES] = [0; BLOCK_BYTES + ENTRY_HEADER_BYTES];

pub(crate) type Files = BTreeMap<u32, Arc<dyn DiskFile>>;
/// Who is shown every entry while a log is opened. Payloads share a read buffer: copy what is kept for long.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(Position, u8, Bytes) -> Result<()>;

/// Reads one log file forward.
struct Reader {
    file: Arc<dyn DiskFile>,
    number: u32,
    salt: u64,
    start: u64,
    window: Bytes,
}

impl Reader {
    fn new(file: Arc<dyn DiskFile>, number: u32, salt: u64) -> Self {
        Self {
            file,
            number,
            salt,
            start: 0,
            window: Bytes::new(),
        }
    }

    /// `len` bytes at `offset`, fewer at the file's end.
    fn bytes(&mut self, offset: u64, len: usize) -> io::Result<Bytes> {
        let end = self.start + self.window.len() as u64;
        if offset < self.start || offset + len as u64 > end {
            self.window = read_bytes(&*self.file, offset, len.max(WINDOW_BYTES))?;
            self.start = offset;
        }
        let at = (offset - self.start) as usize;
        Ok(self.window.slice(at..self.window.len().min(at + len)))
    }

    /// The intact entry at `offset`, if there is one.
    fn entry(&mut self, offset: u64) -> io::Result<Option<(EntryHeader, Bytes)>> {
        let head = self.bytes(offset, ENTRY_HEADER_BYTES)?;
        let Some(header) =
            EntryHeader::decode(&head, Position::new(self.number, offset), self.salt)
        else {
            return Ok(None);
        };
        let payload = self.bytes(offset + ENTRY_HEADER_BYTES as u64, header.len as usize)?;
        let intact = payload.len() == header.len as usize && crc32c::crc32c(&payload) == header.crc;
        Ok(intact.then_some((header, payload)))
    }

    /// Looks for entries anywhere at or after `offset`: the place of one that knew `lost` to be durable, or else
    /// whether there is any.
    fn search(&mut self, mut offset: u64, lost: Position) -> io::Result<Search> {
        let mut any = false;
        loop {
            let window = self.bytes(offset, WINDOW_BYTES)?;
            if window.len() < ENTRY_HEADER_BYTES {
                return Ok(if any {
                    Search::Leftovers
                } else {
                    Search::Nothing
                });
            }
            let places = window.len() - ENTRY_HEADER_BYTES + 1;
            for block in (0..places).step_by(BLOCK_BYTES) {
                let end = places.min(block + BLOCK_BYTES);
                let reach = end - 1 + ENTRY_HEADER_BYTES;
                if window[block..reach] == ZEROS[..reach - block] {
                    // Most of a file that was made ahead: no header is all zeros.
                    continue;
                }
                for at in (block..end).step_by(8) {
                    let place = Position::new(self.number, offset + at as u64);
                    let head = &window[at..at + ENTRY_HEADER_BYTES];
                    match EntryHeader::decode(head, place, self.salt) {
                        Some(header) if header.durable > lost => return Ok(Search::Proof(place)),
                        Some(_) => any = true,
                        None => {}
                    }
                }
            }
            offset += ((window.len() - ENTRY_HEADER_BYTES) / 8 * 8 + 8) as u64;
        }
    }
}

/// What lies behind the first unreadable entry.
enum Search {
    Nothing,
    /// Entries that were never known to be durable.
    Leftovers,
    /// This entry was written when the unreadable one was durable.
    Proof(Position),
}

/// A log as found on disk.
pub(crate) struct Recovered {
    pub files: Files,
    /// Where the next entry goes.
    pub tail: Position,
}

/// Finds the log's end, shows every entry to `visit`, and leaves the disk as if nothing had followed that end.
pub(crate) fn recover(ahead: &mut Ahead, visit: Visit<'_>) -> Result<Recovered> {
    let numbers = inventory(ahead)?;
    let mut walk = Walk {
        ahead,
        files: Files::new(),
        ends: BTreeMap::new(),
        claimed: Position::default(),
        headless: None,
    };
    let stop = walk.entries(&numbers, visit)?;
    let leftovers = walk.judge(&numbers, stop)?;
    let tail = walk.cut(&numbers, stop, leftovers)?;
    walk.settle(tail)?;
    Ok(Recovered {
        files: walk.files,
        tail,
    })
}

/// Numbers of the log files; spares go to `ahead`.
fn inventory(ahead: &mut Ahead) -> Result<Vec<u32>> {
    let disk = Arc::clone(&ahead.disk);
    let here = |op, path: &str, error| StoreError::io(op, disk.locate(path), error);
    disk.create_dir_all(&ahead.dir)
        .map_err(|error| here("make", &ahead.dir, error))?;
    let mut numbers = Vec::new();
    for name in disk
        .list(&ahead.dir)
        .map_err(|error| here("list", &ahead.dir, error))?
    {
        let path = format!("{}/{name}", ahead.dir);
        numbers.extend(file_number(&name, ".log"));
        if file_number(&name, ".spare").is_some() {
            if ahead.spares.len() < ahead.spares_max {
                ahead.spares.push(path);
            } else {
                disk.remove_file(&path)
                    .map_err(|error| here("remove", &path, error))?;
            }
        }
    }
    numbers.sort_unstable();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        let path = disk.locate(&file_path(&ahead.dir, pair[0] + 1));
        return Err(StoreError::Damaged {
            path,
            offset: 0,
            why: "the file is missing".into(),
        });
    }
    ahead.last = numbers.last().copied().unwrap_or(0);
    Ok(numbers)
}

struct Walk<'a> {
    ahead: &'a mut Ahead,
    /// Files with a good header, up to where the entries stop.
    files: Files,
    /// Where the entries of each of them end.
    ends: BTreeMap<u32, u64>,
    /// Everything before this is known to be durable.
    claimed: Position,
    /// A file that was found without its header: it never had entries, or it is damaged.
    headless: Option<u32>,
}

impl Walk<'_> {
    fn error(&self, op: &'static str, number: u32) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.ahead.disk.locate(&file_path(&self.ahead.dir, number));
        move |error| StoreError::io(op, path.clone(), error)
    }

    fn damaged(&self, at: Position, why: String) -> StoreError {
        let path = self
            .ahead
            .disk
            .locate(&file_path(&self.ahead.dir, at.file()));
        StoreError::Damaged {
            path,
            offset: at.offset(),
            why,
        }
    }

    fn open(&self, number: u32) -> Result<Arc<dyn DiskFile>> {
        self.ahead
            .disk
            .open_file(&file_path(&self.ahead.dir, number), false)
            .map_err(self.error("open", number))
    }

    /// Whether file `number` begins with its own header.
    fn header(&self, number: u32, file: &dyn DiskFile) -> Result<bool> {
        let bytes = read_bytes(file, 0, FILE_HEADER_BYTES).map_err(self.error("read", number))?;
        match check_file_header(&bytes, number, self.ahead.salt) {
            Ok(()) => Ok(true),
            Err(BadHeader::Absent) => Ok(false),
            Err(BadHeader::Newer(found)) => {
                let path = self.ahead.disk.locate(&file_path(&self.ahead.dir, number));
                Err(StoreError::Newer {
                    path,
                    found,
                    supported: 1,
                })
            }
            Err(BadHeader::Foreign) => Err(self.damaged(
                Position::new(number, 0),
                "the file belongs to another log".into(),
            )),
        }
    }

    /// Reads entries until one is not there, and answers where.
    fn entries(&mut self, numbers: &[u32], visit: Visit<'_>) -> Result<Position> {
        let mut next = Position::new(numbers.first().copied().unwrap_or(1), FIRST_ENTRY);
        for &number in numbers {
            next = Position::new(number, FIRST_ENTRY);
            let file = self.open(number)?;
            if !self.header(number, &*file)? {
                self.headless = Some(number);
                return Ok(next);
            }
            self.files.insert(number, Arc::clone(&file));
            let mut reader = Reader::new(file, number, self.ahead.salt);
            loop {
                let Some((header, payload)) = reader
                    .entry(next.offset())
                    .map_err(self.error("read", number))?
                else {
                    self.ends.insert(number, next.offset());
                    return Ok(next);
                };
                self.claimed = self.claimed.max(header.durable);
                let at = next;
                next = Position(next.0 + entry_bytes(payload.len()));
                if header.kind == KIND_END {
                    self.ends.insert(number, next.offset());
                    next = Position::new(number + 1, FIRST_ENTRY);
                    break;
                }
                if header.kind <= KIND_CALLER_MAX {
                    visit(at, header.kind, payload)?;
                }
            }
        }
        Ok(next)
    }

    /// Decides whether the log may end at `stop`, and answers which files hold entries behind it.
    fn judge(&self, numbers: &[u32], stop: Position) -> Result<Vec<u32>> {
        let mut leftovers = Vec::new();
        for &number in numbers.iter().filter(|&&number| number >= stop.file()) {
            let from = if number == stop.file() && self.headless.is_none() {
                stop.offset() + 8
            } else {
                FIRST_ENTRY
            };
            let mut reader = Reader::new(self.open(number)?, number, self.ahead.salt);
            match reader
                .search(from, stop)
                .map_err(self.error("read", number))?
            {
                Search::Nothing => {}
                Search::Leftovers if self.headless == Some(number) => {
                    let why = "the file's header is unreadable, and entries follow".into();
                    return Err(self.damaged(Position::new(number, 0), why));
                }
                Search::Leftovers => leftovers.push(number),
                Search::Proof(proof) => {
                    let why = format!(
                        "nothing readable here, but it was durable when the entry at {proof} was written"
                    );
                    return Err(self.damaged(stop, why));
                }
            }
        }
        Ok(leftovers)
    }

    /// Removes what lies behind `stop`, newest first, and answers where the next entry goes.
    fn cut(&mut self, numbers: &[u32], stop: Position, leftovers: Vec<u32>) -> Result<Position> {
        let keeps = self.files.contains_key(&stop.file());
        for &number in numbers
            .iter()
            .rev()
            .filter(|&&number| number > stop.file() || (!keeps && number == stop.file()))
        {
            let file = self.open(number)?;
            let fresh = number == stop.file() + 1
                && !leftovers.contains(&number)
                && self.header(number, &*file)?;
            if keeps && fresh {
                self.ahead.ready = Some(file);
                continue;
            }
            self.ahead
                .remove(number)
                .map_err(self.error("remove", number))?;
        }
        self.ahead.last = stop.file() - u32::from(!keeps) + u32::from(self.ahead.ready.is_some());
        if !keeps {
            let (number, file) = self.ahead.take()?;
            self.files.insert(number, file);
            return Ok(Position::new(number, FIRST_ENTRY));
        }
        if leftovers.contains(&stop.file()) {
            erase(
                &*self.files[&stop.file()],
                stop.offset(),
                self.ahead.file_bytes,
            )
            .map_err(self.error("cut", stop.file()))?;
        }
        Ok(stop)
    }

    /// Makes durable what was read. It is written again first: after a failed sync the page cache may show bytes that
    /// the kernel believes clean and that are not on disk.
    fn settle(&self, tail: Position) -> Result<()> {
        for (&number, &end) in self
            .ends
            .range(self.claimed.file().min(tail.file())..=tail.file())
        {
            let file = &self.files[&number];
            let mut at = if number == self.claimed.file() {
                self.claimed.offset().max(FIRST_ENTRY)
            } else {
                FIRST_ENTRY
            };
            while at < end {
                let bytes = read_bytes(&**file, at, WINDOW_BYTES.min((end - at) as usize))
                    .map_err(self.error("read", number))?;
                write_bytes(&**file, at, &bytes).map_err(self.error("write", number))?;
                at += bytes.len().max(1) as u64;
            }
            file.sync().map_err(self.error("sync", number))?;
        }
        // A life that was killed while it made a file may have left header or name in memory only.
        if let Some(ready) = &self.ahead.ready {
            ready.sync().map_err(self.error("sync", self.ahead.last))?;
        }
        self.ahead
            .disk
            .sync_dir(&self.ahead.dir)
            .map_err(self.error("sync the folder of", tail.file()))
    }
}

/// Puts zeros over everything from `offset`, durably: nothing there may be taken for an entry again.
pub(crate) fn erase(file: &dyn DiskFile, offset: u64, file_bytes: u64) -> io::Result<()> {
    file.set_len(offset)?;
    file.allocate(file_bytes)?;
    file.sync()
}

/// The entries of callers between two positions, in order. After an error it ends.
pub struct Replay {
    files: Files,
    salt: u64,
    next: Position,
    tail: Position,
    reader: Option<Reader>,
    locate: Box<dyn Fn(u32) -> String + Send>,
}

impl Replay {
    pub(crate) fn new(
        files: Files,
        salt: u64,
        from: Position,
        tail: Position,
        locate: Box<dyn Fn(u32) -> String + Send>,
    ) -> Self {
        let first = files.first_key_value().map_or(1, |(&number, _)| number);
        let next = from.max(Position::new(first, FIRST_ENTRY));
        Self {
            files,
            salt,
            next,
            tail,
            reader: None,
            locate,
        }
    }

    fn step(&mut self) -> Result<Option<(Position, u8, Bytes)>> {
        while self.next < self.tail {
            let at = self.next;
            let number = at.file();
            let reader = match &mut self.reader {
                Some(reader) if reader.number == number => reader,
                slot => {
                    let file = self.files.get(&number).ok_or(StoreError::Dropped(at))?;
                    slot.insert(Reader::new(Arc::clone(file), number, self.salt))
                }
            };
            let found = reader
                .entry(at.offset())
                .map_err(|error| StoreError::io("read", (self.locate)(number), error))?;
            let Some((header, payload)) = found else {
                let why = "no intact entry begins here".into();
                return Err(StoreError::Damaged {
                    path: (self.locate)(number),
                    offset: at.offset(),
                    why,
                });
            };
            self.next = match header.kind {
                KIND_END => Position::new(number + 1, FIRST_ENTRY),
                _ => Position(at.0 + entry_bytes(payload.len())),
            };
            if header.kind <= KIND_CALLER_MAX {
                return Ok(Some((at, header.kind, payload)));
            }
        }
        Ok(None)
    }
}

impl Iterator for Replay {
    type Item = Result<(Position, u8, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step();
        if item.is_err() {
            self.tail = self.next;
        }
        item.transpose()
    }
}

//! Where a task's results leave the job: one file, or a folder with a file for each value of a column.
//!
//! A folder's files are files like others: transactional, one writer for each task and value, visible with the job epoch. Writers
//! live as long as their attempt, so what is open is bounded by starting again: a task that has opened enough ends its
//! attempt, and goes on behind the last job epoch with none open. What one job epoch may touch is bounded for good.

use crate::batch::{Batch, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::error::{Error, Result};
use crate::header;
use crate::layout::Layout;
use crate::receipt::Writes;
use crate::sink::{Mark, Output, Target};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Most files that one task writes in one job epoch, and has open.
pub const FILES_MAX: usize = 512;
/// Most bytes that wait in a task for the records of a folder's files.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Longest file name; one that would be longer is cut, with a digest behind it.
const NAME_BYTES_MAX: usize = 200;

/// One sink of a task.
pub enum Outlet {
    File(Box<Output>, Layout),
    Folder(Folder),
}

impl Outlet {
    /// Takes lines; how many it writes of them. The others are put aside.
    pub async fn write(&mut self, batch: &Batch, letters: &mut Letters) -> Result<u64> {
        match self {
            Self::File(output, layout) => {
                let Some(lines) = layout.lay_out(batch, letters)? else {
                    return Ok(0);
                };
                output.write(&lines).await?;
                Ok(lines.count() as u64)
            }
            Self::Folder(folder) => folder.write(batch, letters).await,
        }
    }

    /// Hands over everything and returns what has to become durable.
    pub async fn barrier(&mut self) -> Result<Vec<Mark>> {
        match self {
            Self::File(output, _) => Ok(output.barrier().await?.into_iter().collect()),
            Self::Folder(folder) => folder.barrier().await,
        }
    }

    /// What was written to the file since the last call; of a folder see `take_files`.
    pub fn take_writes(&mut self) -> Writes {
        match self {
            Self::File(output, _) => output.take_writes(),
            Self::Folder(_) => Writes::default(),
        }
    }

    /// What was written to each file of a folder since the last call.
    pub fn take_files(&mut self) -> Vec<(String, Writes)> {
        match self {
            Self::File(..) => Vec::new(),
            Self::Folder(folder) => std::mem::take(&mut folder.writes),
        }
    }

    pub async fn close(self) {
        match self {
            Self::File(output, _) => output.close().await,
            Self::Folder(folder) => {
                for (_, file) in folder.files {
                    file.output.close().await;
                }
            }
        }
    }
}

/// A folder with a file for each value of a column.
pub struct Folder {
    /// Of the folder; its files have paths below it.
    target: Target,
    column: usize,
    layout: Layout,
    files: BTreeMap<String, File>,
    touched: usize,
    writes: Vec<(String, Writes)>,
}

struct File {
    output: Output,
    /// Written since the last barrier.
    touched: bool,
}

impl Folder {
    /// An empty one, at the path of `target`.
    pub fn new(target: Target, column: usize, layout: Layout) -> Self {
        Self {
            target,
            column,
            layout,
            files: BTreeMap::new(),
            touched: 0,
            writes: Vec::new(),
        }
    }

    async fn write(&mut self, batch: &Batch, letters: &mut Letters) -> Result<u64> {
        let mut written = 0;
        let mut parts: BTreeMap<String, Lines> = BTreeMap::new();
        for line in batch.lines() {
            let value = csv::value(csv::field(line, self.column).unwrap_or_default());
            parts.entry(name(&value)).or_default().push(line);
        }
        for (name, mut lines) in parts {
            let Some(lines) = lines.take() else { continue };
            if let Some(lines) = self.layout.lay_out(&lines, letters)? {
                self.file(&name).await?.write(&lines).await?;
                written += lines.count() as u64;
            }
        }
        let files = self.files.values();
        if files.map(|file| file.output.waiting()).sum::<usize>() > WAITING_BYTES_MAX {
            for file in self.files.values_mut() {
                file.output.flush().await?;
            }
        }
        Ok(written)
    }

    /// The file of that name, which is written now.
    async fn file(&mut self, name: &str) -> Result<&mut Output> {
        let dir = &self.target.path;
        let touched = self.files.get(name).map(|file| file.touched);
        if touched != Some(true) && self.touched >= FILES_MAX {
            let what = format!(
                "the sink {dir}/ gets lines for more than {FILES_MAX} files from one task in one job epoch"
            );
            let remedy = "give `by` a column with fewer values, the last stage `partition = \"key\"` with that column and more `tasks`, or the job a shorter `epoch_ms`";
            return Err(Error::Job(format!("{what}; {remedy}")));
        }
        if touched.is_none() && self.files.len() >= FILES_MAX {
            let what = format!("a task has {FILES_MAX} files of the sink {dir}/ open");
            return Err(Error::Attempt(format!(
                "{what}: the next attempt goes on with none"
            )));
        }
        let mut header = None;
        if touched.is_none()
            && let Some(line) = self.layout.header()
        {
            // Nobody else writes it for the job, and what earlier attempts committed is in it.
            let path = format!("{dir}/{name}");
            let is_empty = header::is_empty(&*self.target.storage, &path).await?;
            header = Some(line).filter(|_| is_empty);
        }
        let file = self.files.entry(name.to_owned()).or_insert_with(|| File {
            output: Output::new(
                Target {
                    path: format!("{dir}/{name}"),
                    ..self.target.clone()
                },
                false,
            ),
            touched: false,
        });
        if let Some(header) = header {
            file.output.begin(&header);
        }
        self.touched += usize::from(!std::mem::replace(&mut file.touched, true));
        Ok(&mut file.output)
    }

    async fn barrier(&mut self) -> Result<Vec<Mark>> {
        let mut marks = Vec::new();
        for (name, file) in &mut self.files {
            if std::mem::take(&mut file.touched) {
                marks.extend(file.output.barrier().await?);
                file.output.shrink();
                let path = format!("{}/{name}", self.target.path);
                self.writes.push((path, file.output.take_writes()));
            }
        }
        self.touched = 0;
        Ok(marks)
    }
}

/// The file name that a value has. Different values have different names: letters, digits and most signs stand for themselves,
/// every other byte is `%` and two hexadecimal digits, the empty value is `%`.
pub fn name(value: &[u8]) -> String {
    let mut name = String::new();
    let escape = |name: &mut String, bytes: &[u8]| {
        for byte in bytes {
            name.push_str(&format!("%{byte:02X}"));
        }
    };
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            let plain = match c {
                // Hidden files, `.` and `..` are none of a job's.
                '.' => !name.is_empty(),
                ' ' | '-' | '_' | '+' | '@' | '=' | ',' | ':' | '~' | '(' | ')' => true,
                c => c.is_alphanumeric(),
            };
            match plain {
                true => name.push(c),
                false => escape(&mut name, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        escape(&mut name, chunk.invalid());
    }
    if name.is_empty() {
        name.push('%');
    }
    if name.len() > NAME_BYTES_MAX {
        let mut end = NAME_BYTES_MAX - 34;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        name.push_str("%~");
        for byte in &Sha256::digest(value)[..16] {
            name.push_str(&format!("{byte:02x}"));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_readable_where_they_can_be() {
        for (value, want) in [
            (&b"2026-11-28"[..], "2026-11-28"),
            ("Zürich, (ZH)".as_bytes(), "Zürich, (ZH)"),
            (b"", "%"),
            (b".", "%2E"),
            (b"..", "%2E."),
            (b"../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            (b"a\0b\nc\xff", "a%00b%0Ac%FF"),
            (b"100%", "100%25"),
        ] {
            assert_eq!(name(value), want);
        }
        let long = [name(&[b'x'; 300]), name(&[b'x'; 301])];
        assert!(long[0] != long[1] && long.iter().all(|name| name.len() == NAME_BYTES_MAX));
    }

    proptest! {
        /// Names are file names, and no two values share one.
        #[test]
        fn every_value_has_a_name_of_its_own(
            a in proptest::collection::vec(any::<u8>(), 0..90),
            b in proptest::collection::vec(proptest::sample::select(&b"./%a2E~"[..]), 0..6),
            c in proptest::collection::vec(proptest::sample::select(&b"./%a2E~"[..]), 0..6),
        ) {
            for value in [&a, &b, &c] {
                let name = name(value);
                prop_assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX);
                prop_assert!(!name.starts_with('.') && !name.contains(['/', '\0', '\n']));
            }
            prop_assert_eq!(b == c, name(&b) == name(&c));
        }
    }
}

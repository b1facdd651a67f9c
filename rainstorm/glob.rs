//! Which files a source names: one file, all files of a directory, or a pattern with `*` and `?` in any part of its
//! path. Dot files only match patterns that begin with a dot.

use crate::seams::{Entry, Storage, StorageError, StorageResult};
use hydfs_types::FileKind;

/// Most files of one source: each has a position that travels with every commit.
pub const FILES_MAX: usize = 1024;
/// Most directories that one pattern may lead to.
const DIRS_MAX: usize = 1024;

/// Whether a path is a pattern.
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?'])
}

/// Whether `name` matches: `*` is any text, `?` one character.
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on if what was tried last does not fit: behind a star, one character later.
    let mut retry = None;
    loop {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if name.get(n).is_some_and(|&d| c == '?' || c == d) => {
                p += 1;
                n += 1;
            }
            None if n == name.len() => return true,
            _ => match retry {
                Some((star, from)) if from < name.len() => {
                    retry = Some((star, from + 1));
                    (p, n) = (star, from + 1);
                }
                _ => return false,
            },
        }
    }
}

/// Whether a file at `path`, or if it is a `folder` one in it, would be among the files of the source `source`: a directory or a pattern.
pub fn may_name(source: &str, path: &str, folder: bool) -> bool {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    };
    let (mut pattern, mut path) = (parts(source), parts(path));
    if !is_pattern(source) {
        pattern.push("*".to_owned());
    }
    if folder {
        // What its files are called is not known yet.
        pattern.pop();
    }
    let same = |pattern: &String, name: &String| match is_pattern(pattern) {
        true => matches(pattern, name),
        false => pattern == name,
    };
    pattern.len() == path.len() && pattern.iter().zip(path.drain(..)).all(|(a, b)| same(a, &b))
}

/// What a path names.
#[derive(Debug, Default)]
pub struct Found {
    /// Regular files in order of their paths.
    pub files: Vec<(String, Entry)>,
    /// Files and directories whose names are no UTF-8, about: nothing can be read there.
    pub unreadable: Vec<String>,
}

/// The regular files that `path` names, without those below the folder `own`: what a job writes is nothing for it to read. A
/// plain path names one file, which must be there.
pub async fn expand(storage: &dyn Storage, path: &str, own: &str) -> StorageResult<Found> {
    let mut files = Vec::new();
    let mut unreadable = Vec::new();
    if is_pattern(path) {
        let mut dirs = vec![String::new()];
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for (at, &part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            let mut next = Vec::new();
            for dir in dirs {
                if !is_pattern(part) && !last {
                    next.push(format!("{dir}/{part}"));
                    continue;
                }
                let root = if dir.is_empty() { "/" } else { &dir };
                let entries = match storage.list(root).await {
                    Ok(entries) => entries,
                    Err(StorageError::NotFound(_) | StorageError::Invalid(_)) => continue,
                    Err(error) => return Err(error),
                };
                for entry in entries {
                    let fits = matches(part, &entry.name);
                    let path = format!("{dir}/{}", entry.name);
                    match entry.kind {
                        FileKind::Regular | FileKind::Directory
                            if fits
                                && !entry.is_text
                                && (entry.kind == FileKind::Regular) == last =>
                        {
                            unreadable.push(path);
                        }
                        FileKind::Regular if last && fits => files.push((path, entry)),
                        FileKind::Directory if !last && fits => next.push(path),
                        _ => {}
                    }
                }
            }
            if next.len() > DIRS_MAX {
                let what = format!("{path}: leads to more than {DIRS_MAX} directories");
                return Err(StorageError::Invalid(what));
            }
            dirs = next;
        }
    } else {
        let entry = storage.stat(path).await?;
        if entry.kind != FileKind::Directory {
            return Ok(Found {
                files: vec![(path.to_owned(), entry)],
                unreadable,
            });
        }
        for entry in storage.list(path).await? {
            if entry.kind != FileKind::Regular || entry.name.starts_with('.') {
                continue;
            }
            let path = format!("{path}/{}", entry.name);
            match entry.is_text {
                true => files.push((path, entry)),
                false => unreadable.push(path),
            }
        }
    }
    let is_own = |path: &str| {
        let below = path.strip_prefix(own);
        below.is_some_and(|rest| rest.starts_with('/'))
    };
    files.retain(|(path, _)| !is_own(path));
    if files.len() > FILES_MAX {
        let what = format!("{path}: names {} files, more than {FILES_MAX}", files.len());
        return Err(StorageError::Invalid(what));
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Found { files, unreadable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_in_sources() {
        assert!(may_name("/data", "/data/out", false));
        assert!(may_name("/data/*.csv", "/data/out.csv", false));
        assert!(may_name("/logs/*/*.log", "/logs/a", true));
        for (source, path, folder) in [
            ("/data", "/data/.out", false),
            ("/data", "/data/below/out", false),
            ("/data/in", "/data/out", false),
            ("/data", "/data/parts", true),
            ("/data/*.csv", "/data/out.json", false),
            ("/logs/*/*.log", "/other/a", true),
        ] {
            assert!(!may_name(source, path, folder), "{source} {path}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("*", "a"),
            ("*.log", "x.log"),
            ("a*b*c", "aXbbYc"),
            ("?.csv", "é.csv"),
            (".*", ".x"),
            ("a", "a"),
            ("*", ""),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.log", "x.log.1"),
            ("*", ".hidden"),
            ("?", ""),
            ("a*b", "ab.c"),
            ("a", "ab"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}

//! The control tree of a mount: `.cluster`, and the control files in the directories of jobs. What stands in it is the
//! node's word ([`Control`](crate::Control)); nothing in here waits for anybody.

use crate::{
    call::Call,
    synthetic::{CLUSTER_DIR, Node, Synthetic, read_only},
    volume::{Outcome, Volume},
};
use bytes::Bytes;
use hydfs_mount::{Answer, FsError, How, Opened};
use hydfs_state::{Body, State};
use hydfs_types::{Attr, DirEntry, FileKind, Ino, JOBS_DIR, ROOT_INO};

/// Control files of a job, in its directory.
const JOB_FILES: [&str; 3] = ["status", "progress", "status.json"];
/// Their cookies in a listing are from here on, past those of real entries.
pub(crate) const JOB_FILES_FROM: u64 = 1 << 62;

impl Volume {
    /// Whether an entry may be the control tree's, by its name alone.
    pub(crate) fn may_be_control(parent: Ino, name: &[u8]) -> bool {
        Synthetic::is(parent)
            || parent == ROOT_INO && name == CLUSTER_DIR
            || JOB_FILES.iter().any(|known| known.as_bytes() == name)
    }

    /// The control path of an entry, if it is one.
    pub(crate) fn control_path(&self, parent: Ino, name: &[u8]) -> Option<String> {
        let name_text = std::str::from_utf8(name).ok();
        if let Some(path) = Synthetic::is(parent)
            .then(|| self.synthetic.path(parent))
            .flatten()
        {
            return Some(format!("{path}/{}", name_text?));
        }
        if parent == ROOT_INO && name == CLUSTER_DIR {
            return Some("cluster".into());
        }
        if !name_text.is_some_and(|name| JOB_FILES.contains(&name)) {
            return None;
        }
        let job = job_dir_name(&self.ctx.state(), parent)?;
        Some(format!("jobs/{job}/{}", name_text?))
    }

    /// The control files of a job's directory, listed after its real ones.
    pub(crate) fn job_files(&self, ino: Ino, cookie: u64) -> Vec<DirEntry> {
        let Some(job) = job_dir_name(&self.ctx.state(), ino) else {
            return Vec::new();
        };
        let paths = JOB_FILES.iter().enumerate().map(|(at, name)| {
            (
                JOB_FILES_FROM + at as u64,
                *name,
                format!("jobs/{job}/{name}"),
            )
        });
        let after = paths.filter(|(at, _, path)| *at > cookie && self.control_node(path).is_ok());
        after
            .filter_map(|(cookie, name, path)| {
                Some(DirEntry {
                    name: name.into(),
                    ino: self.synthetic.ino(&path)?,
                    kind: FileKind::Regular,
                    cookie,
                })
            })
            .collect()
    }

    /// Whether a name is a control file's.
    pub(crate) fn is_control(&self, parent: Ino, name: &[u8]) -> bool {
        self.control_path(parent, name)
            .is_some_and(|path| self.control_node(&path).is_ok())
    }

    pub(crate) fn control_node(&self, path: &str) -> Outcome<Node> {
        self.control
            .get()
            .and_then(|control| control.node(path))
            .ok_or(FsError::NotFound)
    }

    pub(crate) fn control_attr(&self, path: &str) -> Outcome<Attr> {
        let node = self.control_node(path)?;
        let ino = self.synthetic.ino(path).ok_or(FsError::NotFound)?;
        let mut attr = Synthetic::attr(ino, &node, self.clock.now());
        if let Some(lines) = self.lines_at(path) {
            // Whoever follows a file looks at these.
            let (size, changed) = lines.size();
            (attr.size, attr.mtime, attr.ctime) = (size, changed, changed);
        }
        Ok(attr)
    }

    pub(crate) fn control_of(&self, ino: Ino) -> Outcome<(String, Node)> {
        let path = self.synthetic.path(ino).ok_or(FsError::Stale)?;
        let node = self.control_node(&path)?;
        Ok((path, node))
    }

    /// What a person writes into the control tree.
    pub(crate) fn put_control(&self, ino: Ino, text: &[u8]) -> Outcome<()> {
        let path = self.synthetic.path(ino).ok_or(FsError::Stale)?;
        self.control
            .get()
            .ok_or(FsError::NotFound)?
            .put(&path, text)
    }

    /// Makes and opens a file of the control tree, where one may be made.
    pub(crate) fn create_control(&self, parent: Ino, name: &[u8], how: How) -> Outcome {
        let path = self.control_path(parent, name).ok_or_else(read_only)?;
        let ino = self.synthetic.ino(&path).ok_or(FsError::NotFound)?;
        if how.exclusive && self.control_node(&path).is_ok() {
            return Err(FsError::Exists);
        }
        self.put_control(ino, &[])?;
        let attr = self.control_attr(&path)?;
        Ok(Answer::Created(
            attr,
            self.opened_control(ino, how, Bytes::new())?,
        ))
    }

    pub(crate) fn remove_control(&self, parent: Ino, name: &[u8]) -> Outcome<()> {
        let path = self.control_path(parent, name).ok_or(FsError::NotFound)?;
        self.control.get().ok_or(FsError::NotFound)?.remove(&path)
    }

    /// What the kernel may have open from an earlier worker has a path again, and whoever polls lines is heard.
    pub(crate) fn know_cluster_files(&self) {
        let Ok(Node::Directory(names)) = self.control_node("cluster") else {
            return;
        };
        for path in names.iter().map(|(name, _)| format!("cluster/{name}")) {
            let known = self.synthetic.ino(&path);
            if let Some(lines) = known.and_then(|_| self.lines_at(&path)) {
                self.hear(&lines);
            }
        }
    }

    pub(crate) fn opened_control(&self, ino: Ino, how: How, text: Bytes) -> Outcome<Opened> {
        let handle = self.table.open(ino, how, Some(text), &Call::once())?;
        self.follow_opened(ino, handle);
        Ok(Opened {
            handle,
            direct: true,
            mappable: false,
            keep_cache: false,
        })
    }

    /// Sets attributes in the control tree: what can be written can be cut, and nothing else changes.
    pub(crate) fn set_control_attr(&self, ino: Ino) -> Outcome<Attr> {
        self.put_control(ino, &[])?;
        let (path, _) = self.control_of(ino)?;
        self.control_attr(&path)
    }
}

/// The name of a directory directly below `.jobs`.
pub(crate) fn job_dir_name(state: &State, ino: Ino) -> Option<String> {
    let jobs = state.lookup(ROOT_INO, JOBS_DIR).ok()?;
    let Body::Directory(directory) = &state.inode(ino).ok()?.body else {
        return None;
    };
    if directory.parent != jobs {
        return None;
    }
    let path = state.path_of(ino)?;
    Some(path.rsplit('/').next()?.to_owned())
}

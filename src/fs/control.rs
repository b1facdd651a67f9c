//! The control tree of a mount: `.cluster`, and what is laid over the directories of jobs: their control files, and `tasks` with a
//! directory for each task. What stands in it is the node's word ([`Control`](crate::Control)); nothing in here waits for anybody.
//! A directory that is really there is shown as it is, with what is laid over it.

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
/// The directory in it that has one for each task, and the control file in each of those.
const TASKS: &str = "tasks";
const TASK_FILE: &str = "state";
/// The cookies of what is laid over a directory are from here on, past those of real entries.
pub(crate) const OVERLAY_FROM: u64 = 1 << 62;
/// What the control paths of jobs begin with.
const JOBS: &str = "jobs/";

impl Volume {
    /// Whether an entry may be the control tree's.
    pub(crate) fn may_be_control(state: &State, parent: Ino, name: &[u8]) -> bool {
        Synthetic::is(parent)
            || parent == ROOT_INO && name == CLUSTER_DIR
            || overlay_of(state, parent, name).is_some()
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
        let state = self.ctx.state();
        let path = overlay_of(&state, parent, name)?;
        // Whatever else has such a name is no business of the control tree.
        let is_laid_over = JOB_FILES.contains(&name_text?)
            || state.lookup(parent, name).is_err() && self.control_node(&path).is_ok();
        is_laid_over.then_some(path)
    }

    /// What is laid over a directory of jobs, listed after its real entries.
    pub(crate) fn laid_over(&self, ino: Ino, cookie: u64) -> Vec<DirEntry> {
        let state = self.ctx.state();
        let Some(path) = overlay(&state, ino) else {
            return Vec::new();
        };
        let Ok(Node::Directory(names)) = self.control_node(&path) else {
            return Vec::new();
        };
        let entries = (OVERLAY_FROM..).zip(names);
        let after = entries.filter(|(at, (name, is_dir))| {
            *at > cookie && !(*is_dir && state.lookup(ino, name.as_bytes()).is_ok())
        });
        after
            .map(|(cookie, (name, is_dir))| DirEntry {
                ino: self.synthetic.ino(&format!("{path}/{name}")),
                name: name.into(),
                kind: match is_dir {
                    true => FileKind::Directory,
                    false => FileKind::Regular,
                },
                cookie,
            })
            .collect()
    }

    /// Whether an entry is laid over a directory of a job: what is made when it is read goes with the directory, and `rm -r` need
    /// not trip over it.
    pub(crate) fn is_laid_over(&self, parent: Ino, name: &[u8]) -> bool {
        self.control_path(parent, name)
            .is_some_and(|path| path.starts_with(JOBS) && self.control_node(&path).is_ok())
    }

    pub(crate) fn control_node(&self, path: &str) -> Outcome<Node> {
        self.control
            .get()
            .and_then(|control| control.node(path))
            .ok_or(FsError::NotFound)
    }

    pub(crate) fn control_attr(&self, path: &str) -> Outcome<Attr> {
        let node = self.control_node(path)?;
        let ino = self.synthetic.ino(path);
        let mut attr = Synthetic::attr(ino, &node, self.clock.now());
        if let (Some(path), Node::Directory(_)) = (path.strip_prefix(JOBS), &node) {
            self.own(&mut attr, path.split('/').next().unwrap_or_default());
        }
        if let Some(lines) = self.lines_at(path) {
            // Whoever follows a file looks at these.
            let (size, changed) = lines.size();
            (attr.size, attr.mtime, attr.ctime) = (size, changed, changed);
        }
        Ok(attr)
    }

    /// Whoever owns the directory of a job may remove what is laid over it.
    fn own(&self, attr: &mut Attr, job: &str) {
        let state = self.ctx.state();
        let jobs = state.lookup(ROOT_INO, JOBS_DIR);
        let dir = jobs.and_then(|jobs| state.lookup(jobs, job.as_bytes()));
        if let Ok(inode) = dir.and_then(|dir| state.inode(dir)) {
            (attr.mode, attr.uid, attr.gid) = (0o755, inode.attr.uid, inode.attr.gid);
        }
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
        let ino = self.synthetic.ino(&path);
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
            self.synthetic.ino(&path);
            if let Some(lines) = self.lines_at(&path) {
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

/// The control path of an entry of a directory, if the control tree may be laid over it there.
fn overlay_of(state: &State, dir: Ino, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let number = name.rsplit('-').next().unwrap_or_default();
    let is_task = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let may_be = JOB_FILES.contains(&name) || name == TASKS || name == TASK_FILE || is_task;
    let path = may_be.then(|| overlay(state, dir))??;
    Some(format!("{path}/{name}"))
}

/// The control path of a directory that the control tree is laid over: a job's, its `tasks`, and those in it.
pub(crate) fn overlay(state: &State, ino: Ino) -> Option<String> {
    let jobs = state.lookup(ROOT_INO, JOBS_DIR).ok()?;
    let parent = |ino: &Ino| match &state.inode(*ino).ok()?.body {
        Body::Directory(directory) => Some(directory.parent),
        _ => None,
    };
    let above = std::iter::successors(Some(ino), parent).skip(1).take(3);
    above.into_iter().position(|dir| dir == jobs)?;
    let path = state.path_of(ino)?;
    let parts: Vec<&str> = path.split('/').skip(2).collect();
    match parts[..] {
        [_] | [_, TASKS] | [_, TASKS, _] => Some(format!("{JOBS}{}", parts.join("/"))),
        _ => None,
    }
}

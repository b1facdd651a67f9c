//! A cluster that the tests of one program use one after the other: each finds it whole and its file system empty. For tests that
//! harm no member and leave the root directory as it is. One that fails takes the cluster with it, as its own would go; the last
//! one goes when the program has ended.

use super::{Cluster, SOON, TURN, poll};
use std::{
    fs, io,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A cluster between two tests.
struct Kept {
    n: usize,
    folder: tempfile::TempDir,
    dir: PathBuf,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

fn kept() -> MutexGuard<'static, Option<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One test's use of it.
pub struct Shared(Option<Cluster>);

impl Shared {
    /// The cluster of `n` members that an earlier test has left, or a new one. `None`, after a line that says so, without the rights.
    pub fn up(n: usize) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Kept { n, folder, dir }) = kept().take_if(|kept| kept.n == n) {
            return Some(Self(Some(Cluster {
                n,
                folder: Some(folder),
                dir,
                envs: Vec::new(),
                kept: false,
                _turn: turn,
            })));
        }
        drop(turn);
        let cluster = Cluster::up(n)?;
        down_at_the_end(&cluster);
        Some(Self(Some(cluster)))
    }
}

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(mut cluster) = self.0.take() else {
            return;
        };
        let may = !std::thread::panicking() && std::env::var_os("HYDFS_KEEP").is_none();
        let mount = cluster.mount(1);
        if may
            && poll(SOON, || clear(&mount).is_ok())
            && poll(SOON, || {
                cluster.members().all(|i| cluster.healthy(i, cluster.n))
            })
            && let Some(folder) = cluster.folder.take()
        {
            let (n, dir) = (cluster.n, cluster.dir.clone());
            cluster.kept = true;
            *kept() = Some(Kept { n, folder, dir });
        }
    }
}

/// Empties a mounted file system.
fn clear(mount: &Path) -> io::Result<()> {
    for entry in fs::read_dir(mount)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            _ if [".cluster", ".jobs"].contains(&&*entry.file_name().to_string_lossy()) => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Has the cluster stopped, unmounted and removed once this program has ended, however it ends.
fn down_at_the_end(cluster: &Cluster) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster");
    let wait = r#"while kill -0 "$1" 2>/dev/null; do sleep 0.2; done; "$2" down "$3"; [ -n "$HYDFS_KEEP" ] || rm -rf "${3%/*}""#;
    // Nobody waits for it: it outlives this program.
    #[allow(clippy::zombie_processes)]
    Command::new("setsid")
        .args(["sh", "-c", wait, "sh"])
        .arg(std::process::id().to_string())
        .arg(script)
        .arg(cluster.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid and sh run");
}

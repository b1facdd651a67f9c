//! Mounts a file system for one test and unmounts it whatever happens.

use hydfs_mount::{
    FileSystem, MemoryFs, MountOptions, ServeConfig, Serving, begin, mount, serve, unmount,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Whether mounts can be made here; says so where they cannot.
pub fn can_mount() -> bool {
    let can = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok()
        && is_root();
    if !can {
        eprintln!("skipped: needs /dev/fuse");
    }
    can
}

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A mount, gone when dropped.
pub struct Mount {
    pub path: PathBuf,
    pub serving: Option<Serving>,
    // Dropped in this order: first the threads that serve, then the folder.
    runtime: Option<Runtime>,
    _folder: TempDir,
}

pub fn config() -> ServeConfig {
    ServeConfig {
        op_timeout: Duration::from_secs(10),
        ..ServeConfig::default()
    }
}

/// The model, mounted; `None` where that is not possible.
pub fn memory() -> Option<Mount> {
    mounted(Arc::new(MemoryFs::default()), config())
}

pub fn mounted(fs: Arc<dyn FileSystem>, config: ServeConfig) -> Option<Mount> {
    if !can_mount() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let made = mount(folder.path(), &MountOptions::default()).expect("mounted");
    let path = made.path;
    // As the supervisor does it. A kernel that may keep attributes is asked for more.
    let offer = (config.attr_ttl.is_zero()).then(|| begin(&made.fd).expect("begun"));
    let config = ServeConfig {
        path: Some(path.clone()),
        offer,
        ..config
    };
    let serving = serve(made.fd, fs, runtime.handle().clone(), &config).expect("served");
    Some(Mount {
        path,
        serving: Some(serving),
        runtime: Some(runtime),
        _folder: folder,
    })
}

impl Mount {
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path) {
            eprintln!("{error}");
        }
        if let Some(serving) = self.serving.take() {
            let result = serving.wait();
            if !std::thread::panicking() {
                result.expect("a clean end");
            }
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The model mounted, or return from the test.
#[macro_export]
macro_rules! mounted {
    () => {
        match $crate::harness::memory() {
            Some(mount) => mount,
            None => return,
        }
    };
}

/// A shell command's output; it must succeed.
pub fn shell(command: &str, folder: &Path) -> String {
    let output = run(command, folder);
    assert!(
        output.status.success(),
        "{command}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

pub fn run(command: &str, folder: &Path) -> Output {
    Command::new("sh")
        .arg("-ec")
        .arg(command)
        .current_dir(folder)
        .output()
        .expect("a shell")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The errno of a failed call.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result
        .expect_err("refused")
        .raw_os_error()
        .expect("an errno")
}

/// Result of a libc call.
pub fn checked(result: impl Into<i64>) -> std::io::Result<i64> {
    match result.into() {
        -1 => Err(std::io::Error::last_os_error()),
        value => Ok(value),
    }
}

pub fn c(path: impl AsRef<Path>) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_ref().as_os_str().as_bytes()).expect("no NUL")
}

/// Waits for a condition, with a deadline.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::yield_now();
    }
}

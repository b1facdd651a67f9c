//! Mounting and unmounting, for the supervisor: it opens `/dev/fuse`, mounts, and keeps the descriptor for as
//! long as the mount shall live. Serves nothing itself.

use crate::{MountError, mounts::mount_at, sys};
use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// The mount's read-ahead in KiB: buffered reads arrive in pieces of up to 1 MiB.
const READ_AHEAD_KIB: u32 = 1_024;
/// How long a mount in the way gets to show that somebody serves it.
const PROBE: Duration = Duration::from_secs(2);
/// How long fusermount3 may take.
const HELPER: Duration = Duration::from_secs(10);
/// Dead mounts stacked on one path that are cleared at most.
const STALE_MAX: usize = 16;
const DEVICE: &str = "/dev/fuse";
const HELPER_PROGRAM: &str = "fusermount3";

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What mount(8) shows as the device, for example `hydfs:/var/lib/hydfs`.
    pub name: String,
    /// Other users than the one who mounts may use it.
    pub allow_other: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            name: "hydfs".into(),
            allow_other: true,
        }
    }
}

/// A mount that nobody serves yet. It lives as long as a copy of `fd` does; dropping it does not unmount.
#[derive(Debug)]
pub struct Mounted {
    pub fd: OwnedFd,
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    /// Whether other users were admitted: an ordinary user may not be allowed to.
    pub allow_other: bool,
}

/// Mounts at `path`. A dead mount of ours in the way is removed first.
pub fn mount(path: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let path = clear_mount_point(path)?;
    let fd = open_device()?;
    match mount_directly(&path, &fd, options) {
        Ok(()) => Ok(Mounted {
            fd,
            path,
            allow_other: options.allow_other,
        }),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => mount_by_helper(path, options),
        Err(why) => Err(MountError::Mount {
            path,
            why: why.to_string(),
        }),
    }
}

/// Unmounts what is at `path`; that nothing is mounted there is no error. In use, it disappears from the
/// tree at once and ends with its last user. Wants the mount served, or its descriptors closed.
pub fn unmount(path: &Path) -> Result<(), MountError> {
    let failed = |why: io::Error| MountError::Unmount {
        path: path.into(),
        why: why.to_string(),
    };
    let path = resolve(path)?;
    let result = match sys::unmount(&path, false) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => sys::unmount(&path, true),
        other => other,
    };
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => unmount_by_helper(&path),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok(()),
    }
}

/// Raises the kernel's read-ahead for the mount at `path`. Best effort: only root may.
pub(crate) fn raise_read_ahead(path: &Path) {
    let raise = || -> io::Result<()> {
        let mount =
            mount_at(&resolve(path).map_err(io::Error::other)?)?.ok_or(io::ErrorKind::NotFound)?;
        fs::write(
            format!("/sys/class/bdi/{}/read_ahead_kb", mount.device),
            READ_AHEAD_KIB.to_string(),
        )
    };
    if let Err(error) = raise() {
        tracing::info!(path = %path.display(), %error, "read-ahead stays at the kernel's default: sequential reads are slower");
    }
}

/// The absolute path with its folder's links resolved. The last component is not touched: it may be a dead mount.
fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let absolute = std::path::absolute(path).map_err(|why| MountError::Mount {
        path: path.into(),
        why: why.to_string(),
    })?;
    let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    match fs::canonicalize(folder) {
        Ok(folder) => Ok(folder.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(MountError::Missing(path.into()))
        }
        Err(why) => Err(MountError::Mount {
            path: path.into(),
            why: why.to_string(),
        }),
    }
}

/// The path to mount at, free of our mounts.
fn clear_mount_point(path: &Path) -> Result<PathBuf, MountError> {
    let path = resolve(path)?;
    let failed = |why: io::Error| MountError::Mount {
        path: path.clone(),
        why: why.to_string(),
    };
    for _ in 0..STALE_MAX {
        let ours = mount_at(&path)
            .map_err(failed)?
            .is_some_and(|mount| mount.is_hydfs());
        match probe(&path) {
            Probe::Dead => {
                tracing::info!(path = %path.display(), "removing a dead mount");
                detach(&path)?;
            }
            Probe::Silent => return Err(MountError::Silent(path)),
            Probe::Lives(_) if ours => return Err(MountError::Busy(path)),
            Probe::Lives(Ok(true)) => return fs::canonicalize(&path).map_err(failed),
            Probe::Lives(Ok(false)) => return Err(MountError::NotDirectory(path)),
            Probe::Lives(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MountError::Missing(path));
            }
            Probe::Lives(Err(error)) => return Err(failed(error)),
        }
    }
    Err(MountError::Busy(path))
}

enum Probe {
    /// Its server is gone.
    Dead,
    /// No answer: somebody holds the descriptor and does not serve it.
    Silent,
    /// Whether it is a directory.
    Lives(io::Result<bool>),
}

/// Looks at a path that may be a mount whose server hangs, so from a thread that may be left behind.
fn probe(path: &Path) -> Probe {
    let (send, receive) = mpsc::channel();
    let target = path.to_path_buf();
    let look = move || send.send(fs::metadata(target).map(|found| found.is_dir()));
    if let Err(error) = std::thread::Builder::new()
        .name("mount-probe".into())
        .spawn(look)
    {
        return Probe::Lives(Err(error));
    }
    match receive.recv_timeout(PROBE) {
        Ok(Err(error))
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOTCONN | libc::ECONNABORTED)
            ) =>
        {
            Probe::Dead
        }
        Ok(found) => Probe::Lives(found),
        Err(_) => Probe::Silent,
    }
}

fn detach(path: &Path) -> Result<(), MountError> {
    match sys::unmount(path, true) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => unmount_by_helper(path),
        Err(why) => Err(MountError::Unmount {
            path: path.into(),
            why: why.to_string(),
        }),
    }
}

fn open_device() -> Result<OwnedFd, MountError> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(DEVICE);
    opened.map(OwnedFd::from).map_err(|error| MountError::Device {
        remedy: match error.kind() {
            io::ErrorKind::NotFound => "load the kernel module: modprobe fuse (in a container: give it the device /dev/fuse)",
            io::ErrorKind::PermissionDenied => "run as root, or let users open it: chmod 666 /dev/fuse (in a container: allow the device)",
            _ => "load the kernel module: modprobe fuse",
        },
        why: error.to_string(),
    })
}

fn mount_directly(path: &Path, fd: &OwnedFd, options: &MountOptions) -> io::Result<()> {
    let (uid, gid) = sys::user();
    let other = if options.allow_other {
        ",allow_other"
    } else {
        ""
    };
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions{other}",
        fd.as_raw_fd()
    );
    // Reads do not change atime here, so the mount says so.
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOATIME;
    sys::mount(&options.name, path, c"fuse.hydfs", flags, &data)
}

/// For users without the right to mount: fusermount3 mounts and sends the descriptor over a socket.
fn mount_by_helper(path: PathBuf, options: &MountOptions) -> Result<Mounted, MountError> {
    match helper_mounts(HELPER_PROGRAM, &path, options) {
        Ok(fd) => Ok(Mounted {
            fd,
            path,
            allow_other: options.allow_other,
        }),
        // /etc/fuse.conf does not let this user admit others: go on for this user alone.
        Err(MountError::Helper { why })
            if options.allow_other && why.contains("user_allow_other") =>
        {
            let fd = helper_mounts(
                HELPER_PROGRAM,
                &path,
                &MountOptions {
                    allow_other: false,
                    ..options.clone()
                },
            )?;
            Ok(Mounted {
                fd,
                path,
                allow_other: false,
            })
        }
        Err(error) => Err(error),
    }
}

fn helper_mounts(
    program: &str,
    path: &Path,
    options: &MountOptions,
) -> Result<OwnedFd, MountError> {
    let failed = |why: io::Error| MountError::Helper {
        why: why.to_string(),
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_read_timeout(Some(HELPER)).map_err(failed)?;
    let name = options.name.replace('\\', "\\\\").replace(',', "\\,");
    let other = if options.allow_other {
        ",allow_other"
    } else {
        ""
    };
    let child = Command::new(program)
        .arg("-o")
        .arg(format!(
            "fsname={name},subtype=hydfs,default_permissions,nosuid,nodev,noatime{other}"
        ))
        .arg("--")
        .arg(path)
        // The socket is its standard input, so that no descriptor has to be made inheritable.
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_helper)?;
    let received = sys::receive_fd(&ours);
    drop(ours);
    let output = child.wait_with_output().map_err(failed)?;
    match received.map_err(failed)? {
        Some(fd) => Ok(fd),
        None => Err(MountError::Helper {
            why: String::from_utf8_lossy(&output.stderr).trim().to_string(),
        }),
    }
}

fn unmount_by_helper(path: &Path) -> Result<(), MountError> {
    let run = |lazy: &[&str]| {
        Command::new(HELPER_PROGRAM)
            .arg("-u")
            .args(lazy)
            .arg("--")
            .arg(path)
            .output()
            .map_err(no_helper)
    };
    if run(&[])?.status.success() {
        return Ok(());
    }
    let output = run(&["-z"])?;
    match output.status.success() {
        true => Ok(()),
        false => Err(MountError::Helper {
            why: String::from_utf8_lossy(&output.stderr).trim().to_string(),
        }),
    }
}

fn no_helper(error: io::Error) -> MountError {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "fusermount3 is not installed, and without it only root may mount: apt-get install fuse3".into(),
        _ => error.to_string(),
    };
    MountError::Helper { why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;

    /// Writes a helper that does what this Python text says.
    fn helper(folder: &Path, does: &str) -> String {
        let program = folder.join("helper");
        let text = format!("#!/usr/bin/env python3\nimport array, os, socket, sys\n{does}\n");
        // Written by another process: a descriptor of this one that a child of another test inherits would make it busy.
        let write = r#"printf %s "$1" > "$0" && chmod 755 "$0""#;
        let written = Command::new("sh")
            .args(["-c", write])
            .arg(&program)
            .arg(text)
            .status();
        assert!(written.unwrap().success());
        program.display().to_string()
    }

    fn python() -> bool {
        let found = Command::new("python3")
            .arg("-V")
            .output()
            .is_ok_and(|output| output.status.success());
        if !found {
            eprintln!("skipped: needs python3");
        }
        found
    }

    #[test]
    fn takes_the_descriptor_from_the_helper() {
        if !python() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let sends = "s = socket.socket(fileno=int(os.environ['_FUSE_COMMFD']))\n\
            assert 'fsname=a\\\\,b,subtype=hydfs,default_permissions' in sys.argv[2]\n\
            s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [os.open('/dev/null', os.O_RDWR)]))])";
        let options = MountOptions {
            name: "a,b".into(),
            allow_other: true,
        };
        let fd = helper_mounts(&helper(folder.path(), sends), folder.path(), &options).unwrap();
        assert!(
            fs::File::from(fd)
                .metadata()
                .unwrap()
                .file_type()
                .is_char_device()
        );
        let fails = "sys.exit('option allow_other only allowed if user_allow_other is set')";
        let error =
            helper_mounts(&helper(folder.path(), fails), folder.path(), &options).unwrap_err();
        assert!(
            matches!(&error, MountError::Helper { why } if why.contains("user_allow_other")),
            "{error}"
        );
        let error = helper_mounts("/nowhere/fusermount3", folder.path(), &options).unwrap_err();
        assert!(
            error.to_string().contains("apt-get install fuse3"),
            "{error}"
        );
    }

    /// With the real one, where it is installed.
    #[test]
    fn the_real_helper_mounts() {
        let installed = Command::new(HELPER_PROGRAM)
            .arg("-V")
            .output()
            .is_ok_and(|output| output.status.success());
        if !installed || open_device().is_err() {
            eprintln!("skipped: needs fusermount3 and /dev/fuse");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = clear_mount_point(folder.path()).unwrap();
        let options = MountOptions {
            name: "hydfs:/a b,c".into(),
            allow_other: false,
        };
        let fd = helper_mounts(HELPER_PROGRAM, &path, &options).unwrap();
        let entry = mount_at(&path).unwrap().unwrap();
        assert!(
            entry.is_hydfs() && entry.source == options.name,
            "{entry:?}"
        );
        drop(fd);
        unmount_by_helper(&path).unwrap();
        assert_eq!(mount_at(&path).unwrap(), None);
    }
}

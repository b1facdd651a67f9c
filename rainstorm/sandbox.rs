//! What happens between fork and exec of an operator's process, and how it is ended. The only unsafe code of RainStorm.
//!
//! Everything is prepared before the fork (`cell`): between fork and exec only system calls are made, nothing is
//! allocated. The order matters: the cgroup first, so that all of it counts; namespaces while root, if root starts it;
//! then the owner; the file tree and the filter of system calls last, because they forbid what comes before.
#![allow(unsafe_code)]

use crate::seams::Owner;
use seccompiler::BpfProgram;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// Limits of each process, whatever cgroups do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of address space; 0: as much as the cgroup gives.
    pub address_bytes: u64,
    pub open_files: u64,
    /// Of all processes of the user together.
    pub processes: u64,
    pub file_bytes: u64,
    /// How much it stands back behind others, where no cgroup sees to it.
    pub nice: i32,
}

/// What a process is put into.
pub struct Confinement {
    pub owner: Owner,
    pub limits: Limits,
    /// `cgroup.procs` of the groups it joins, open for writing.
    pub groups: Vec<File>,
    /// Of its own: shared memory, host name, and the network unless `network`.
    pub namespaces: bool,
    pub network: bool,
    /// Landlock's rules.
    pub reach: Option<Arc<OwnedFd>>,
    /// Filters of system calls, the first one first.
    pub filters: Arc<Vec<BpfProgram>>,
}

/// Makes `command` run as `owner`, confined, in a session of its own, with no way to gain privileges.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let Owner { uid, gid } = confinement.owner;
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{uid} {uid} 1")),
        (c"/proc/self/gid_map", format!("{gid} {gid} 1")),
    ];
    // SAFETY: `enter` only makes async-signal-safe system calls; what it reads was made before the fork, and it
    // allocates nothing.
    unsafe { command.pre_exec(move || enter(&confinement, &maps)) };
}

/// Whether this process is root: it can then run others as anybody.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether this process can run others as `owner`.
pub fn can_become(owner: Owner) -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    is_root() || unsafe { libc::geteuid() } == owner.uid
}

/// The version of landlock that this kernel has; 0: none.
pub fn landlock_version() -> u8 {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no attributes and only answers a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    u8::try_from(version).unwrap_or(0)
}

/// Whether this kernel filters system calls.
pub fn has_seccomp() -> bool {
    // SAFETY: asks for the present mode and changes nothing.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) >= 0 }
}

/// Whether a process of this user may have namespaces of its own: a child tries it, and never runs anything.
pub fn has_namespaces() -> bool {
    let mut command = Command::new("/");
    let tried = move || match unshare(is_root(), false) {
        Ok(()) => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
        Err(error) => Err(error),
    };
    // SAFETY: `unshare` is one system call.
    unsafe { command.pre_exec(tried) };
    let error = command.spawn().err();
    error.and_then(|error| error.raw_os_error()) == Some(libc::ECANCELED)
}

type Maps = [(&'static std::ffi::CStr, String); 3];

fn enter(confinement: &Confinement, maps: &Maps) -> io::Result<()> {
    for mut group in &confinement.groups {
        group.write_all(b"0")?;
    }
    // SAFETY: system calls on this process alone.
    unsafe {
        check(libc::setsid())?;
        // Old kernels lack it; what is opened here closes at exec anyway, this is for what was inherited.
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        libc::umask(0o077);
    }
    let limits = &confinement.limits;
    if limits.nice > 0 {
        // SAFETY: changes this process's priority, downward.
        check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, limits.nice) })?;
    }
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_NOFILE, limits.open_files)?;
    limit(libc::RLIMIT_NPROC, limits.processes)?;
    limit(libc::RLIMIT_FSIZE, limits.file_bytes)?;
    if limits.address_bytes > 0 {
        limit(libc::RLIMIT_AS, limits.address_bytes)?;
    }
    let as_root = is_root();
    if confinement.namespaces && as_root {
        unshare(true, confinement.network)?;
    }
    if as_root {
        become_owner(confinement.owner)?;
    }
    if confinement.namespaces && !as_root {
        unshare(false, confinement.network)?;
        for (path, text) in maps {
            write_file(path, text.as_bytes())?;
        }
    }
    // SAFETY: system calls on this process alone, with a descriptor that the parent holds.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        if let Some(rules) = &confinement.reach {
            let done = libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0);
            check(done as libc::c_int)?;
        }
    }
    for filter in &*confinement.filters {
        // Its errors are made of numbers: nothing is allocated.
        seccompiler::apply_filter(filter).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))?;
    }
    Ok(())
}

fn unshare(as_root: bool, network: bool) -> io::Result<()> {
    let mut flags = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if !as_root {
        flags |= libc::CLONE_NEWUSER;
    }
    if !network {
        flags |= libc::CLONE_NEWNET;
    }
    // SAFETY: one system call on this process, which has one thread.
    check(unsafe { libc::unshare(flags) })
}

/// From root to a user, for good: no groups, no capabilities, also if that user is root.
fn become_owner(owner: Owner) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    // Effective, permitted and inheritable, of the lower and the upper capabilities.
    let none = [0_u32; 6];
    // SAFETY: system calls on this process, which has one thread; the structs have the kernel's layout and outlive
    // the calls.
    unsafe {
        for capability in 0..64 {
            // The first number that the kernel does not know ends it.
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                break;
            }
        }
        let gid = owner.gid;
        let uid = owner.uid;
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) as libc::c_int)?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as libc::c_int)?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as libc::c_int)?;
        check(libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) as libc::c_int)
    }
}

fn write_file(path: &std::ffi::CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: the path ends with NUL, the text is valid for its length, the descriptor is closed here.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(file)?;
        let written = libc::write(file, text.as_ptr().cast(), text.len());
        let result = check(written as libc::c_int);
        libc::close(file);
        result
    }
}

fn limit(what: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a valid, initialised struct.
    unsafe {
        check(libc::getrlimit(what, &raw mut now))?;
        let most = most.min(now.rlim_max);
        let wanted = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        check(libc::setrlimit(what, &raw const wanted))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Kills what is left of the process group of a child. Operators cannot leave it where system calls are filtered.
/// Called before the child is waited for, or right after: as long as anything is left, the number is the group's.
pub fn kill_group(pid: u32) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // SAFETY: sends a signal to the process group that the child made by setsid; nothing is dereferenced.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

/// Kills a process that was just found in a cgroup of ours.
pub fn kill(pid: i32) {
    if pid > 1 {
        // SAFETY: sends a signal; nothing is dereferenced.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

//! What an operator's process may do. The only unsafe code of RainStorm: calls between fork and exec, and kill.
//!
//! Own session, own user, no new privileges, resource limits. Networks and the file tree are not closed off here.
#![allow(unsafe_code)]

use crate::seams::Owner;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Limits of a process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub memory_bytes: u64,
    pub open_files: u64,
    pub processes: u64,
}

/// Makes `command` run as `owner` in a session of its own, under limits, with no way to gain privileges.
pub fn confine(command: &mut Command, owner: Owner, limits: Limits) {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        // The standard library drops supplementary groups when root sets a user.
        command.gid(owner.gid).uid(owner.uid);
    }
    // SAFETY: `restrict` only makes async-signal-safe system calls and allocates nothing on success.
    unsafe { command.pre_exec(move || restrict(limits)) };
}

/// Whether this process can run others as `owner`.
pub fn can_become(owner: Owner) -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let me = unsafe { libc::geteuid() };
    me == 0 || me == owner.uid
}

fn restrict(limits: Limits) -> io::Result<()> {
    // SAFETY: setsid, prctl and setrlimit are system calls on this process alone; the structs outlive the calls.
    unsafe {
        check(libc::setsid())?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
    }
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_AS, limits.memory_bytes)?;
    limit(libc::RLIMIT_NOFILE, limits.open_files)?;
    limit(libc::RLIMIT_NPROC, limits.processes)
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

/// Kills a process and everything in its session that did not leave its group. The process must be our child
/// and not yet waited for, so that its id is still its own.
pub fn kill_group(pid: u32) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // SAFETY: sends a signal to the process group that the child made by setsid; nothing is dereferenced.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

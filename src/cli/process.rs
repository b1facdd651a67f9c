//! The few system calls around processes that the standard library does not have.
#![allow(unsafe_code)]

use std::{io, os::fd::RawFd};
use tokio::process::Command;

/// Lets the child of `command` inherit these descriptors, end with this process (SIGKILL, whatever ended it), and
/// be in a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone.
///
/// Must be spawned from the main thread: the kernel sends the signal when the *thread* that spawned ends.
pub fn tie(command: &mut Command, inherited: Vec<RawFd>) {
    let parent = std::process::id();
    let in_child = move || {
        // SAFETY: only async-signal-safe calls between fork and exec; the arguments are plain numbers.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before the call above: then no signal would ever come.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for fd in &inherited {
                if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    };
    command.process_group(0);
    // SAFETY: the closure allocates nothing, takes no lock and makes only async-signal-safe calls.
    unsafe { command.pre_exec(in_child) };
}

/// Keeps an inherited descriptor from processes that this one starts.
pub fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: changes a flag of a descriptor; a wrong number answers EBADF.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes the current process the leader of a session of its own once it has exec'ed: it outlives the terminal.
pub fn detach(command: &mut Command) {
    let in_child = || {
        // SAFETY: async-signal-safe, no arguments.
        match unsafe { libc::setsid() } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: as above: nothing but one async-signal-safe call.
    unsafe { command.pre_exec(in_child) };
}

/// Sends a signal to a process that this one started and has not reaped.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers; a wrong process answers ESRCH.
    match unsafe { libc::kill(pid as i32, signal) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

//! The system calls that std has no words for: mount(2), umount2(2), dup3(2), a pair of packet sockets, a descriptor
//! received over a socket.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
};

fn text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte inside"))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// mount(2) of type `fuse.SUBTYPE`.
pub(crate) fn mount(
    source: &str,
    path: &Path,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    let (source, path, data) = (
        text(source.as_bytes())?,
        text(path.as_os_str().as_bytes())?,
        text(data.as_bytes())?,
    );
    // SAFETY: all five point to strings ended by NUL that live until the call returns.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            path.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    })
}

/// umount2(2), never through a symbolic link.
pub(crate) fn unmount(path: &Path, detach: bool) -> io::Result<()> {
    let path = text(path.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if detach { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path is a string ended by NUL that lives until the call returns.
    check(unsafe { libc::umount2(path.as_ptr(), flags) })
}

/// Two sockets that keep the borders of what is written. Close-on-exec.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for the two descriptors that the call makes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the call has made both for us alone.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Lets the descriptor `old` mean what `new` means. Whoever owns `old` goes on to own it.
pub(crate) fn replace_fd(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open; what `old` meant is closed by the kernel in the same step.
    match unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Real user and group of this process.
pub(crate) fn user() -> (u32, u32) {
    // SAFETY: both calls take nothing and cannot fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// Receives one descriptor (close-on-exec). `None`: the other end closed without sending one.
pub(crate) fn receive_fd(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // Room for one descriptor, aligned for the header.
    let mut control = [0u64; 8];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(&control) as _;
    // SAFETY: the message points to buffers of the lengths it names, all of which outlive the call.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    if received == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has filled in `message`; CMSG_FIRSTHDR checks the length it wrote.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, so it points to a header inside `control`, which is aligned for it.
    let (level, kind, len) = unsafe {
        (
            (*header).cmsg_level,
            (*header).cmsg_type,
            (*header).cmsg_len as usize,
        )
    };
    // SAFETY: CMSG_LEN only computes.
    let wanted = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as usize;
    if level != libc::SOL_SOCKET || kind != libc::SCM_RIGHTS || len < wanted {
        return Ok(None);
    }
    // SAFETY: a SCM_RIGHTS message of at least this length holds a descriptor, which is ours from now on.
    Ok(Some(unsafe {
        OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())
    }))
}

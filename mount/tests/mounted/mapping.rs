use crate::{
    harness::{checked, shell},
    mounted,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
};

/// A mapping, undone when dropped.
struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    fn new(file: &fs::File, len: usize, shared: bool) -> Self {
        let flags = if shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        // SAFETY: a fresh mapping of an open file.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { at: at.cast(), len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` bytes long, readable and writable, and the file is not cut meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    fn sync(&self) {
        // SAFETY: the whole mapping.
        checked(unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) }).unwrap();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, not used any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

#[test]
fn shared_mappings_reach_the_file() {
    const LEN: usize = 3 << 20;
    let mount = mounted!();
    let path = mount.at("f");
    fs::write(&path, vec![b'.'; LEN]).unwrap();
    // Appending descriptors write mapped pages where they belong, too.
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .open(&path)
        .unwrap();
    let mut map = Mapping::new(&file, LEN, true);
    assert!(map.bytes().iter().all(|b| *b == b'.'));
    map.bytes()[1_000_000..1_000_006].copy_from_slice(b"mapped");
    map.bytes()[LEN - 1] = b'!';
    map.sync();
    shell(
        "dd if=f bs=1 skip=1000000 count=6 iflag=direct 2> /dev/null | grep -x mapped",
        &mount.path,
    );
    drop(map);
    drop(file);
    let content = fs::read(&path).unwrap();
    assert_eq!((content.len(), content[LEN - 1]), (LEN, b'!'));
}

#[test]
fn mappings_see_writes() {
    let mount = mounted!();
    let path = mount.at("f");
    fs::write(&path, vec![b'a'; 8_192]).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let (mut shared, mut private) = (
        Mapping::new(&file, 8_192, true),
        Mapping::new(&file, 8_192, false),
    );
    private.bytes()[0] = b'p';
    (&file).write_all(b"new").unwrap();
    assert_eq!(&shared.bytes()[..4], b"newa");
    assert_eq!(fs::read(&path).unwrap()[..4], *b"newa");
    assert_eq!(private.bytes()[0], b'p');
}

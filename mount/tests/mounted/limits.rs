//! What the adapter does where a file system is slow, fails or falls over, and with calls that are not served.

use crate::harness::{self, checked, errno, eventually};
use hydfs_mount::{Answer, Caller, FileSystem, FsError, MemoryFs, Request, ServeConfig};
use hydfs_types::BoxFuture;
use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The model, in which reads of more than one page misbehave.
#[derive(Default)]
struct Faulty {
    memory: MemoryFs,
    reading: Arc<AtomicUsize>,
    reading_max: Arc<AtomicUsize>,
}

impl FileSystem for Faulty {
    fn call(
        &self,
        caller: Caller,
        request: Request,
    ) -> BoxFuture<'static, Result<Answer, FsError>> {
        if let Request::Read { .. } = request {
            let (reading, max) = (self.reading.clone(), self.reading_max.clone());
            return Box::pin(async move {
                max.fetch_max(reading.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(300)).await;
                reading.fetch_sub(1, Ordering::SeqCst);
                std::future::pending().await
            });
        }
        let damaged = matches!(&request, Request::Make { name, .. } if name == b"damaged");
        assert!(
            !matches!(&request, Request::Make { name, .. } if name == b"panic"),
            "a broken invariant, on purpose"
        );
        if damaged {
            Box::pin(async { Err(FsError::Damaged("on purpose".into())) })
        } else {
            self.memory.call(caller, request)
        }
    }

    fn call_now(&self, caller: Caller, request: &Request) -> Option<Result<Answer, FsError>> {
        assert!(
            !matches!(request, Request::Lookup { name, .. } if name == b"panic-now"),
            "a broken invariant, on purpose"
        );
        self.memory.call_now(caller, request)
    }
}

#[test]
fn fault_s16_requests_without_an_answer_time_out() {
    let fs = Arc::new(Faulty::default());
    let max = fs.reading_max.clone();
    let reading = fs.reading.clone();
    let config = ServeConfig {
        op_timeout: Duration::from_millis(1_000),
        in_flight: 2,
        ..harness::config()
    };
    let Some(mount) = harness::mounted(fs, config) else {
        return;
    };
    for n in 0..4 {
        fs::write(mount.at(&format!("f{n}")), b"x").unwrap();
    }
    let begun = Instant::now();
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let path = mount.at(&format!("f{n}"));
            thread::spawn(move || errno(fs::read(path)))
        })
        .collect();
    eventually("a read begins", || reading.load(Ordering::SeqCst) > 0);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), libc::ETIMEDOUT);
    }
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(
        max.load(Ordering::SeqCst) <= 2,
        "more in flight than allowed"
    );
    // The mount lives on.
    fs::write(mount.at("g"), b"x").unwrap();
    assert_eq!(fs::metadata(mount.at("g")).unwrap().len(), 1);
}

#[test]
fn panics_and_damage_are_eio_for_one_call() {
    let Some(mount) = harness::mounted(Arc::new(Faulty::default()), harness::config()) else {
        return;
    };
    for name in ["damaged", "panic"] {
        assert_eq!(errno(fs::create_dir(mount.at(name))), libc::EIO);
    }
    for _ in 0..3 {
        assert_eq!(errno(fs::metadata(mount.at("panic-now"))), libc::EIO);
    }
    fs::create_dir(mount.at("fine")).unwrap();
}

#[test]
fn calls_not_served_say_so_each_time() {
    let mount = crate::mounted!();
    fs::write(mount.at("f"), b"content").unwrap();
    let file = File::open(mount.at("f")).unwrap();
    let fd = file.as_raw_fd();
    for _ in 0..2 {
        // SAFETY: plain calls on an open descriptor, with a valid lock description.
        unsafe {
            assert_eq!(
                errno(checked(libc::flock(fd, libc::LOCK_SH | libc::LOCK_NB))),
                libc::ENOLCK
            );
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_RDLCK as _;
            assert_eq!(
                errno(checked(libc::fcntl(fd, libc::F_SETLK, &lock))),
                libc::ENOLCK
            );
            assert_eq!(
                errno(checked(libc::fcntl(fd, libc::F_GETLK, &mut lock))),
                libc::ENOLCK
            );
            assert_eq!(
                errno(checked(libc::ioctl(fd, libc::FIONREAD + 0x1000, 0))),
                libc::ENOTTY
            );
            let mut poll = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            assert_eq!(libc::poll(&mut poll, 1, 1_000), 1);
            assert_eq!(poll.revents & libc::POLLIN, libc::POLLIN);
        }
    }
    for _ in 0..2 {
        let mut nameless = fs::OpenOptions::new();
        nameless.write(true).custom_flags(libc::O_TMPFILE);
        assert_eq!(errno(nameless.open(&mount.path)), libc::EOPNOTSUPP);
    }
    // The kernel copies by itself where we do not.
    let to = File::create(mount.at("g")).unwrap();
    // SAFETY: two open descriptors, no offsets.
    let copied = unsafe {
        libc::copy_file_range(
            fd,
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            7,
            0,
        )
    };
    assert_eq!(copied, 7, "{}", std::io::Error::last_os_error());
    assert_eq!(fs::read(mount.at("g")).unwrap(), b"content");
    File::open(&mount.path).unwrap().sync_all().unwrap();
}

//! Names under contention: one winner, no gap, and files that outlive their name.

use crate::{MEMBERS, common::shared::Shared, folders, sh};
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

#[test]
fn fault_s12_exclusive_creation_has_one_winner() {
    const THREADS: usize = 2;
    const ROUNDS: usize = 50;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "race");
    let winners: Vec<AtomicUsize> = (0..ROUNDS).map(|_| AtomicUsize::new(0)).collect();
    let barrier = Barrier::new(MEMBERS * THREADS);
    thread::scope(|scope| {
        for (mount, at) in at.iter().enumerate() {
            for thread in 0..THREADS {
                let (winners, barrier) = (&winners, &barrier);
                scope.spawn(move || {
                    for (round, winners) in winners.iter().enumerate() {
                        barrier.wait();
                        match OpenOptions::new()
                            .write(true)
                            .create_new(true)
                            .open(at.join(format!("r{round}")))
                        {
                            Ok(mut file) => {
                                winners.fetch_add(1, Ordering::SeqCst);
                                write!(file, "{mount} {thread}").expect("written");
                            }
                            Err(error) => assert_eq!(
                                error.kind(),
                                ErrorKind::AlreadyExists,
                                "round {round}: {error}"
                            ),
                        }
                    }
                });
            }
        }
    });
    for (round, winners) in winners.iter().enumerate() {
        assert_eq!(winners.load(Ordering::SeqCst), 1, "round {round}");
        let texts: Vec<String> = at
            .iter()
            .map(|at| fs::read_to_string(at.join(format!("r{round}"))).expect("read"))
            .collect();
        assert!(
            texts[0].len() == 3 && texts.iter().all(|text| *text == texts[0]),
            "round {round}: {texts:?}"
        );
    }
}

/// Saving by rename: whoever opens the name meanwhile gets the old or the new file, whole, and never none.
#[test]
fn rename_over_is_atomic() {
    const ROUNDS: usize = 80;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "save");
    let content = |round: usize| format!("{round:06} ").repeat(500);
    fs::write(at[0].join("doc"), content(0)).expect("written");
    let done = AtomicBool::new(false);
    let opened = AtomicUsize::new(0);
    thread::scope(|scope| {
        for reader in &at[1..] {
            let (done, opened) = (&done, &opened);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::SeqCst) {
                    let mut text = String::new();
                    let mut file = File::open(reader.join("doc"))
                        .unwrap_or_else(|error| panic!("{}: {error}", reader.display()));
                    file.read_to_string(&mut text)
                        .unwrap_or_else(|error| panic!("{}: {error}", reader.display()));
                    let round: usize = text[..6].parse().expect("a round");
                    assert!(text == content(round), "a mixture of {} bytes", text.len());
                    assert!(round >= last, "back from {last} to {round}");
                    last = round;
                    opened.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..=ROUNDS {
            let writer = &at[if round % 2 == 0 { 0 } else { 2 }];
            fs::write(writer.join("new"), content(round)).expect("written");
            fs::rename(writer.join("new"), writer.join("doc")).expect("renamed");
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(opened.load(Ordering::SeqCst) > 0);
    assert_eq!(
        fs::read_to_string(at[1].join("doc")).expect("read"),
        content(ROUNDS)
    );
}

#[test]
fn unlinked_files_stay_readable_while_they_are_open() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "gone");
    for remover in 0..MEMBERS {
        fs::write(at[0].join("f"), "still here").expect("written");
        let files: Vec<File> = at
            .iter()
            .map(|at| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(at.join("f"))
                    .expect("opened")
            })
            .collect();
        fs::remove_file(at[remover].join("f")).expect("removed");
        assert!(at.iter().all(|at| !at.join("f").exists()));
        // A new file of the name is another.
        fs::write(at[1].join("f"), "another").expect("written");
        thread::sleep(std::time::Duration::from_millis(700));
        for (i, file) in files.iter().enumerate() {
            let mut text = [0; 10];
            file.read_exact_at(&mut text, 0).unwrap_or_else(|error| {
                panic!("mount {}, removed on {}: {error}", i + 1, remover + 1)
            });
            assert_eq!(&text, b"still here");
            assert_eq!(file.metadata().expect("metadata").nlink(), 0);
        }
        files[1]
            .write_all_at(b"more", 10)
            .expect("written after its name was gone");
        let mut text = [0; 14];
        files[2].read_exact_at(&mut text, 0).expect("read");
        assert_eq!(&text, b"still heremore");
        drop(files);
        assert_eq!(
            fs::read_to_string(at[2].join("f")).expect("read"),
            "another"
        );
    }
    // Nothing is left of them: one inode a name, root and folders aside.
    crate::common::until("the unlinked files' release", crate::common::SOON, || {
        cluster.status(1).contains("inodes 4,")
    });
}

#[test]
fn links_and_directories() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "links");
    let (a, b, c) = (&at[0], &at[1], &at[2]);
    fs::write(a.join("f"), "1").expect("written");
    fs::hard_link(b.join("f"), b.join("g")).expect("linked");
    fs::write(c.join("g"), "22").expect("written through the other name");
    assert_eq!(fs::read_to_string(a.join("f")).expect("read"), "22");
    assert_eq!(
        fs::metadata(a.join("f")).expect("metadata").ino(),
        fs::metadata(c.join("g")).expect("metadata").ino()
    );
    fs::remove_file(a.join("f")).expect("removed");
    assert_eq!(fs::metadata(b.join("g")).expect("metadata").nlink(), 1);
    // A rename into its own subtree is refused; over a full directory too.
    fs::create_dir_all(a.join("d/e/f")).expect("made");
    assert_eq!(
        fs::rename(b.join("d"), b.join("d/e/d"))
            .expect_err("refused")
            .raw_os_error(),
        Some(libc::EINVAL)
    );
    fs::create_dir(b.join("x")).expect("made");
    assert_eq!(
        fs::rename(c.join("x"), c.join("d"))
            .expect_err("refused")
            .raw_os_error(),
        Some(libc::ENOTEMPTY)
    );
    fs::rename(c.join("d"), c.join("x")).expect("renamed over an empty one");
    assert!(a.join("x/e/f").is_dir() && !a.join("d").exists());
    assert_eq!(
        fs::rename(a.join("g"), a.join("x"))
            .expect_err("refused")
            .raw_os_error(),
        Some(libc::EISDIR)
    );
    assert_eq!(
        fs::write(a.join("n".repeat(256)), "")
            .expect_err("refused")
            .raw_os_error(),
        Some(libc::ENAMETOOLONG)
    );
    fs::write(b.join("ä\n *?\\"), "odd").expect("any bytes but / and NUL");
    assert_eq!(fs::read_to_string(c.join("ä\n *?\\")).expect("read"), "odd");
    // A directory of many entries lists each once, also while others change it.
    sh(
        a,
        "mkdir many; cd many; seq -f name%06g 1 700 | xargs touch",
    );
    let listed: Vec<_> = fs::read_dir(b.join("many"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    let distinct: std::collections::BTreeSet<_> = listed.iter().collect();
    assert_eq!((listed.len(), distinct.len()), (700, 700));
    sh(c, "rm -r many");
    assert!(!a.join("many").exists());
    for at in &at {
        File::open(at)
            .expect("a directory")
            .sync_all()
            .expect("fsync of a directory");
    }
}

/// This thread's calls on files are those of an ordinary user from now on, with a further group.
#[allow(unsafe_code)]
fn become_user(id: u32, group: u32) {
    // SAFETY: plain numbers, and a list of one of them. The system call, unlike libc's function, is for this thread alone.
    unsafe {
        libc::syscall(libc::SYS_setgroups, 1, &raw const group);
        libc::setfsgid(id);
        libc::setfsuid(id);
    }
}

/// Whoever loses the race to make a file opens the winner's, if it may.
#[test]
fn files_that_several_mounts_make_at_once_are_opened_by_those_who_may() {
    const TEAM: u32 = 7_777;
    const ROUNDS: usize = 60;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "race");
    std::os::unix::fs::chown(&at[0], None, Some(TEAM)).expect("given to the team");
    sh(&at[0], "chmod 2777 .");
    for (rounds, mode, removes) in [
        ("team", 0o640, false),
        ("private", 0o600, false),
        ("churn", 0o640, true),
    ] {
        let turn = Barrier::new(MEMBERS);
        let users: Vec<_> = thread::scope(|scope| {
            let open_all = |i: usize| {
                let (turn, at) = (&turn, &at);
                move || {
                    become_user(20_000 + i as u32, TEAM);
                    let one = |n: usize| {
                        turn.wait();
                        let path = at[i].join(format!("{rounds}{n}"));
                        let mut options = OpenOptions::new();
                        let options = options.read(true).custom_flags(libc::O_CREAT).mode(mode);
                        let opened = options.open(&path).map(drop);
                        if removes {
                            // Also below those who are about to open it.
                            drop(fs::remove_file(&path));
                        }
                        opened.map_err(|error| error.raw_os_error())
                    };
                    (0..ROUNDS).map(one).collect::<Vec<_>>()
                }
            };
            let users: Vec<_> = (0..MEMBERS).map(|i| scope.spawn(open_all(i))).collect();
            users
                .into_iter()
                .map(|one| one.join().expect("opened"))
                .collect()
        });
        for n in 0..ROUNDS {
            let opened = users.iter().filter(|one| one[n].is_ok()).count();
            let refused = users.iter().filter(|one| one[n] == Err(Some(libc::EACCES)));
            let found: Vec<_> = users.iter().map(|one| one[n]).collect();
            match mode {
                0o600 => assert_eq!((opened, refused.count()), (1, MEMBERS - 1), "{found:?}"),
                _ => assert_eq!(opened, MEMBERS, "{rounds} {n}: {found:?}"),
            }
        }
    }
}

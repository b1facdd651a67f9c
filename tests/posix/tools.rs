//! The commands that everyone uses, each with its effect seen on another mount.

use crate::{MEMBERS, common::shared::Shared, folders, sh};
use std::{fs, os::unix::fs::MetadataExt};

#[test]
fn everyday_commands() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "tools");
    let (a, b, c) = (&at[0], &at[1], &at[2]);

    // A tree made here is listed and copied there, and found equal.
    sh(
        a,
        "mkdir -p tree/one/two; for i in 1 2 3 4 5; do echo file $i >tree/one/f$i; done; seq 1 20000 >tree/one/two/numbers; ln -s one/f1 tree/link; ln tree/one/f2 tree/hard",
    );
    assert_eq!(sh(b, "ls -lR tree | grep -c '^-'").trim(), "7");
    assert_eq!(sh(c, "find tree | wc -l").trim(), "11");
    assert_eq!(sh(c, "find tree -type l -name link | wc -l").trim(), "1");
    sh(
        b,
        "cp -r tree copy; diff -r tree copy; cp -a tree exact; diff -r tree exact",
    );
    sh(
        c,
        "diff -r tree copy; diff -r copy exact; cmp tree/one/two/numbers exact/one/two/numbers",
    );
    assert_eq!(
        sh(c, "readlink exact/link; cat exact/link"),
        "one/f1\nfile 1\n"
    );
    assert_eq!(
        fs::metadata(c.join("tree/hard")).expect("metadata").nlink(),
        2
    );
    assert_eq!(
        fs::metadata(c.join("exact/hard"))
            .expect("metadata")
            .nlink(),
        2,
        "cp -a keeps hard links"
    );
    assert_eq!(
        sh(
            a,
            "du -s --apparent-size -B1 copy/one/two/numbers | cut -f1"
        )
        .trim(),
        sh(b, "stat -c %s tree/one/two/numbers").trim()
    );

    // Appending, overwriting, cutting.
    sh(a, "echo one >log");
    sh(b, "echo two >>log");
    sh(c, "echo three >>log");
    assert_eq!(sh(a, "cat log"), "one\ntwo\nthree\n");
    sh(b, "echo short >log");
    assert_eq!(sh(c, "cat log"), "short\n");
    sh(
        c,
        "printf XY | dd of=log bs=1 seek=2 conv=notrunc status=none",
    );
    assert_eq!(sh(a, "cat log"), "shXYt\n");
    sh(a, "truncate -s 3 log");
    assert_eq!(sh(b, "cat log; stat -c %s log"), "shX3\n");
    sh(b, "truncate -s 5 log");
    assert_eq!(sh(c, "od -An -c log | tr -d ' \\n'"), "shX\\0\\0");
    sh(c, ": >log");
    assert_eq!(sh(a, "stat -c %s log").trim(), "0");

    // Renaming, removing.
    sh(a, "mv tree moved; mv moved/one/f1 moved/one/g1");
    sh(
        b,
        "test ! -e tree; test -f moved/one/g1; test ! -e moved/one/f1",
    );
    sh(
        b,
        "mv moved/one/two .; rmdir moved/one/nothing 2>/dev/null && exit 1; true",
    );
    assert_eq!(sh(c, "wc -l <two/numbers").trim(), "20000");
    sh(c, "rm -r moved two copy exact");
    assert_eq!(sh(a, "ls -A"), "log\n");
    sh(
        a,
        "mkdir d; touch d/x; rmdir d 2>/dev/null && exit 1; rm -r d; test ! -e d",
    );

    // Who may what.
    sh(
        a,
        "echo x >secret; chmod 640 secret; chown 1234:2345 secret",
    );
    assert_eq!(sh(b, "stat -c '%a %u %g' secret").trim(), "640 1234 2345");
    sh(b, "chmod u+s secret; stat -c %a secret");
    sh(c, "echo y >>secret; chown 7 secret");
    assert_eq!(
        sh(a, "stat -c '%a %u %g' secret").trim(),
        "640 7 2345",
        "a change of owner clears set-id bits"
    );

    // Room.
    let df = sh(c, "df -P . | tail -1; df -i . >/dev/null");
    let blocks: u64 = df
        .split_whitespace()
        .nth(1)
        .expect("a size")
        .parse()
        .expect("a number");
    assert!(blocks > 0, "{df}");
    sh(a, "sync; sync -f log; sync -d log");
}

#[test]
fn times_are_kept() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "times");
    let (a, b, c) = (&at[0], &at[1], &at[2]);
    // Right after the write, while its writer still lives; also of appends that nobody has merged.
    for (write, name) in [
        ("echo text >old", "old"),
        ("echo more >>appended", "appended"),
        ("truncate -s 5 cut", "cut"),
        ("mkdir dir", "dir"),
    ] {
        sh(
            a,
            &format!("{write}; touch -d '2001-02-03 04:05:06.789 UTC' {name}"),
        );
        for at in [b, c, a] {
            let time = || sh(at, &format!("TZ=UTC stat -c %y {name}"));
            assert_eq!(
                time().trim(),
                "2001-02-03 04:05:06.789000000 +0000",
                "{name} in {}, not yet read",
                at.display()
            );
            if name != "dir" {
                sh(at, &format!("cat {name} >/dev/null"));
            }
            assert_eq!(
                time().trim(),
                "2001-02-03 04:05:06.789000000 +0000",
                "{name} in {}",
                at.display()
            );
        }
    }
    // Set on another mount than the one whose writer still lives.
    for name in ["old", "appended"] {
        sh(a, &format!("echo x >>{name}"));
        sh(c, &format!("touch -d '2001-02-03 04:05:06.789 UTC' {name}"));
    }
    sh(b, "cp -p old copy; cp -p appended appended2");
    for (i, at) in at.iter().enumerate() {
        let times = sh(
            at,
            "cat copy appended2 >/dev/null; TZ=UTC stat -c %y copy appended2",
        );
        assert!(
            times
                .lines()
                .all(|time| time == "2001-02-03 04:05:06.789000000 +0000"),
            "mount {}: {times}",
            i + 1
        );
    }
    // Long after the writers have ended.
    crate::common::until("the writers' ends", crate::common::SOON, || {
        cluster.status(1).contains("writers 0")
    });
    for at in &at {
        let times = sh(
            at,
            "cat old copy appended appended2 >/dev/null; TZ=UTC stat -c %y old copy appended appended2 cut",
        );
        assert!(
            times
                .lines()
                .all(|time| time == "2001-02-03 04:05:06.789000000 +0000"),
            "in {}: {times}",
            at.display()
        );
    }
    // A write moves it, seen elsewhere, and never back.
    let mut last = 0;
    for round in 0..12 {
        let (writer, reader) = (&at[round % 3], &at[(round + 1) % 3]);
        sh(writer, "echo x >>old");
        let meta = fs::metadata(reader.join("old")).expect("metadata");
        let now = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        assert!(now > last, "round {round}: {now} is not after {last}");
        last = now;
    }
}

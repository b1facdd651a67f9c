//! Cases on the bytes of files.

use super::{Case, Client, READ, WRITE};
use crate::{Answer, FsError, How, Request};

pub(super) const CASES: &[Case] = &[
    ("files-read-what-was-written", |c| Box::pin(read_written(c))),
    ("files-append", |c| Box::pin(append(c))),
    ("files-append-at-once", |c| Box::pin(append_at_once(c))),
    ("files-truncate", |c| Box::pin(truncate(c))),
    ("files-open-flags", |c| Box::pin(open_flags(c))),
    ("files-sparse", |c| Box::pin(sparse(c))),
    ("files-allocate", |c| Box::pin(allocate(c))),
    ("files-copy", |c| Box::pin(copy(c))),
    ("files-unlinked-open", |c| Box::pin(unlinked_open(c))),
    ("files-errors", |c| Box::pin(errors(c))),
];

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed)
        .collect()
}

async fn read_written(c: Client) {
    let file = c.create("f").await;
    let mut expected = pattern(3 << 20, 1);
    for (at, piece) in expected.chunks(1 << 20).enumerate() {
        c.write(file, (at << 20) as u64, piece).await;
    }
    // Overwrites, unaligned, across where pieces met.
    let over = pattern(5_001, 2);
    c.write(file, (1 << 20) - 2_500, &over).await;
    expected[(1 << 20) - 2_500..][..5_001].copy_from_slice(&over);
    assert_eq!(c.stat(file.ino).await.size, expected.len() as u64);
    assert_eq!(
        c.content(file.ino).await,
        expected,
        "before the writer closed"
    );
    c.done(Request::Sync {
        ino: file.ino,
        handle: file.handle,
    })
    .await;
    c.close(file).await;
    assert_eq!(c.content(file.ino).await, expected);
    let reader = c.open(file.ino, READ).await;
    assert_eq!(
        &c.read(reader, 777_777, 99).await[..],
        &expected[777_777..][..99]
    );
    assert_eq!(
        c.read(reader, expected.len() as u64 - 3, 100).await.len(),
        3
    );
    assert!(
        c.read(reader, expected.len() as u64 + 3, 100)
            .await
            .is_empty()
    );
    c.close(reader).await;
}

async fn append(c: Client) {
    let ino = c.file("f", b"start-").await;
    let (one, two) = (
        c.open(
            ino,
            How {
                append: true,
                ..WRITE
            },
        )
        .await,
        c.open(ino, WRITE).await,
    );
    c.append(one, b"a").await;
    c.write(two, 0, b"S").await;
    c.append(one, b"b").await;
    // The descriptor's flag at this write counts, not that of its open.
    c.append(two, b"c").await;
    c.write(one, 1, b"T").await;
    assert_eq!(c.content(ino).await, b"STart-abc");
    c.close(one).await;
    c.close(two).await;
    assert_eq!(c.content(ino).await, b"STart-abc");
}

/// Appends of several writers at once: each whole, each once, those of one writer in its order.
async fn append_at_once(c: Client) {
    const WRITERS: u8 = 4;
    const EACH: u8 = 10;
    const LEN: usize = 10_007;
    let ino = c.file("f", b"").await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let c = c.clone();
            tokio::spawn(async move {
                let file = c
                    .open(
                        ino,
                        How {
                            append: true,
                            ..WRITE
                        },
                    )
                    .await;
                for number in 0..EACH {
                    let mut record = vec![writer; LEN];
                    record[LEN - 1] = number;
                    c.append(file, &record).await;
                }
                c.close(file).await;
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let content = c.content(ino).await;
    assert_eq!(
        content.len(),
        LEN * usize::from(WRITERS) * usize::from(EACH)
    );
    let mut next = [0; WRITERS as usize];
    for record in content.chunks(LEN) {
        let writer = record[0];
        assert!(
            record[..LEN - 1].iter().all(|b| *b == writer),
            "a torn record"
        );
        assert_eq!(record[LEN - 1], next[usize::from(writer)], "out of order");
        next[usize::from(writer)] += 1;
    }
}

async fn truncate(c: Client) {
    let ino = c.file("f", &pattern(10_000, 3)).await;
    assert_eq!(c.truncate(ino, 4_000).await.size, 4_000);
    assert_eq!(c.truncate(ino, 6_000).await.size, 6_000);
    let mut expected = pattern(4_000, 3);
    expected.resize(6_000, 0);
    assert_eq!(
        c.content(ino).await,
        expected,
        "what was cut does not come back"
    );
    let before = c.stat(ino).await;
    assert_eq!(c.truncate(ino, 0).await.size, 0);
    assert!(c.stat(ino).await.mtime > before.mtime);
    assert!(c.content(ino).await.is_empty());
    // With a writer that goes on.
    let file = c.open(ino, WRITE).await;
    c.append(file, b"12345").await;
    c.truncate(ino, 2).await;
    c.append(file, b"678").await;
    c.close(file).await;
    assert_eq!(c.content(ino).await, b"12678");
    let dir = c.mkdir("d").await;
    let set = crate::Change {
        size: Some(0),
        ..crate::Change::default()
    };
    c.refused(
        Request::SetAttr {
            ino: dir,
            handle: None,
            set,
        },
        FsError::IsDirectory,
    )
    .await;
}

async fn open_flags(c: Client) {
    let ino = c.file("f", b"content").await;
    c.refused(
        c.creating(
            "f",
            How {
                exclusive: true,
                ..WRITE
            },
        ),
        FsError::Exists,
    )
    .await;
    let Ok(Answer::Created(attr, opened)) = c.ask(c.creating("f", WRITE)).await else {
        panic!("create of an existing file")
    };
    assert_eq!((attr.ino, attr.size), (ino, 7));
    c.close(super::File {
        ino,
        handle: opened.handle,
    })
    .await;
    let file = c
        .open(
            ino,
            How {
                truncate: true,
                ..WRITE
            },
        )
        .await;
    assert_eq!(c.stat(ino).await.size, 0);
    c.write(file, 0, b"new").await;
    c.close(file).await;
    assert_eq!(c.content(ino).await, b"new");
    let file = c
        .open(
            ino,
            How {
                sync: true,
                append: true,
                ..WRITE
            },
        )
        .await;
    c.append(file, b"er").await;
    c.close(file).await;
    assert_eq!(c.content(ino).await, b"newer");
}

async fn sparse(c: Client) {
    const FAR: u64 = 200 << 20;
    let file = c.create("f").await;
    c.write(file, 0, b"begin").await;
    c.write(file, FAR, b"end").await;
    c.close(file).await;
    let attr = c.stat(file.ino).await;
    assert_eq!(attr.size, FAR + 3);
    assert!(attr.stored < 64 << 20, "holes take room: {}", attr.stored);
    let reader = c.open(file.ino, READ).await;
    assert!(c.read(reader, FAR / 2, 4_096).await.iter().all(|b| *b == 0));
    assert_eq!(&c.read(reader, FAR - 2, 10).await[..], b"\0\0end");
    let seek = |offset, data| Request::Seek {
        ino: reader.ino,
        handle: reader.handle,
        offset,
        data,
    };
    match c.ask(seek(64 << 20, true)).await {
        Ok(Answer::Offset(at)) => {
            assert!((64 << 20..=FAR).contains(&at), "data at {at}");
            let zeros = c.read(reader, at - 10, 10).await;
            assert!(zeros.iter().all(|b| *b == 0), "no data before {at}");
        }
        Err(FsError::NotSupported(_)) => return c.close(reader).await,
        other => panic!("seek: {other:?}"),
    }
    let Ok(Answer::Offset(hole)) = c.ask(seek(0, false)).await else {
        panic!("no hole")
    };
    assert!((5..=FAR + 3).contains(&hole));
    assert_eq!(
        c.ask(seek(FAR, false)).await,
        Ok(Answer::Offset(FAR + 3)),
        "the end is a hole"
    );
    c.refused(seek(FAR + 3, true), FsError::NoData).await;
    c.close(reader).await;
}

async fn allocate(c: Client) {
    let file = c.create("f").await;
    let bytes = pattern(20_000, 4);
    c.write(file, 0, &bytes).await;
    let allocate = |offset, len, keep_size, punch| Request::Allocate {
        ino: file.ino,
        handle: file.handle,
        offset,
        len,
        keep_size,
        punch,
    };
    c.done(allocate(0, 30_000, false, false)).await;
    assert_eq!(c.stat(file.ino).await.size, 30_000);
    c.done(allocate(0, 90_000, true, false)).await;
    c.done(allocate(5_000, 10_000, true, true)).await;
    c.done(allocate(29_000, 9_000, true, true)).await;
    let mut expected = bytes;
    expected.resize(30_000, 0);
    expected[5_000..15_000].fill(0);
    assert_eq!(c.content(file.ino).await, expected);
    c.done(allocate(1, 40_000, false, true)).await;
    expected.resize(40_001, 0);
    expected[1..].fill(0);
    assert_eq!(c.content(file.ino).await, expected);
    c.refused(
        allocate(0, 0, false, false),
        FsError::Invalid(String::new()),
    )
    .await;
    c.close(file).await;
}

async fn copy(c: Client) {
    let bytes = pattern(3 << 20, 5);
    let source = c.file("from", &bytes).await;
    let (from, to) = (c.open(source, READ).await, c.create("to").await);
    c.write(to, 0, b"before").await;
    let copy = |from_offset, offset, len| Request::Copy {
        from: from.ino,
        from_handle: from.handle,
        from_offset,
        ino: to.ino,
        handle: to.handle,
        offset,
        len,
    };
    let mut copied = 0;
    while copied < bytes.len() as u64 {
        match c.ask(copy(copied, 6 + copied, 5 << 20)).await {
            Ok(Answer::Written(some)) if some > 0 => copied += u64::from(some),
            Err(FsError::NotSupported(_)) if copied == 0 => return c.close(to).await,
            other => panic!("copy after {copied}: {other:?}"),
        }
    }
    let mut expected = b"before".to_vec();
    expected.extend_from_slice(&bytes);
    assert_eq!(c.content(to.ino).await, expected);
    assert_eq!(c.stat(to.ino).await.size, expected.len() as u64);
    // Past the end of the source there is nothing.
    assert_eq!(
        c.ask(copy(3 << 20, 0, 10)).await,
        Ok(Answer::Written(0)),
        "a copy from the end"
    );
    // From the middle, over what is there.
    assert_eq!(c.ask(copy(100, 1, 3)).await, Ok(Answer::Written(3)));
    expected[1..4].copy_from_slice(&bytes[100..103]);
    assert_eq!(c.content(to.ino).await, expected);
    c.close(from).await;
    c.close(to).await;
}

async fn unlinked_open(c: Client) {
    let file = c.create("f").await;
    c.write(file, 0, b"still").await;
    c.done(c.unlinking("f")).await;
    c.missing("f").await;
    c.append(file, b" here").await;
    assert_eq!(&c.read(file, 0, 100).await[..], b"still here");
    assert_eq!(
        c.attr_of(Request::GetAttr {
            ino: file.ino,
            handle: Some(file.handle)
        })
        .await
        .nlink,
        0
    );
    let other = c.file("f", b"another").await;
    assert_ne!(other, file.ino);
    c.close(file).await;
    assert_eq!(c.content(other).await, b"another");
}

async fn errors(c: Client) {
    let dir = c.mkdir("d").await;
    c.refused(
        Request::Open {
            ino: dir,
            how: WRITE,
        },
        FsError::IsDirectory,
    )
    .await;
    c.refused(c.creating("d", WRITE), FsError::IsDirectory)
        .await;
    let file = c.create("f").await;
    let far = Request::Write {
        ino: file.ino,
        handle: file.handle,
        offset: i64::MAX as u64,
        data: vec![1; 2].into(),
        append: false,
        sync: false,
    };
    c.refused(far, FsError::TooLarge).await;
    c.close(file).await;
    let gone = Request::Read {
        ino: file.ino,
        handle: file.handle,
        offset: 0,
        len: 1,
    };
    c.refused(gone, FsError::BadHandle).await;
    c.refused(Request::OpenDir { ino: file.ino }, FsError::NotDirectory)
        .await;
}

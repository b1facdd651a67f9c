//! Damage on members' disks, on real processes: a flipped bit is never read, is found and healed from a good copy; where no
//! copy is good the read fails and the file is named. `hydfs fsck` explains a stopped member's folder.

mod common;
#[path = "common/lines.rs"]
mod lines;
#[path = "damage/lossy.rs"]
mod lossy;
#[path = "damage/power.rs"]
mod power;

use common::{Cluster, SOON, replicas, retry, text, until, within, write_synced};
use serde_json::Value;
use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const BLOCK: u64 = 64 << 10;
/// A length that no other base has.
const BYTES: usize = 5 * BLOCK as usize + 4321;

fn content() -> Vec<u8> {
    (0..BYTES).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// The base of `len` bytes in a member's data folder; waits for it.
fn base(data: &Path, len: usize) -> PathBuf {
    let mut found = None;
    until("a base on disk", SOON, || {
        let folders = fs::read_dir(data.join("base"))
            .into_iter()
            .flatten()
            .flatten();
        let files =
            folders.flat_map(|one| fs::read_dir(one.path()).into_iter().flatten().flatten());
        found = files
            .filter(|file| file.metadata().is_ok_and(|meta| meta.len() == len as u64))
            .map(|file| file.path())
            .find(|path| path.extension().is_none());
        found.is_some()
    });
    found.expect("waited for it")
}

/// Flips one bit of a file, as a decaying disk does.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("a base is opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte is read");
    file.write_all_at(&[byte[0] ^ 4], at)
        .expect("a byte is written");
}

fn holds(path: &Path, wanted: &[u8]) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == wanted)
}

/// A small read inside the damaged block, and the whole file.
fn read_right(c: &Cluster, i: usize, name: &str) {
    let (path, wanted) = (c.at(i, name), content());
    within("reading a file", SOON, move || {
        let (bytes, _) = retry("reading a file", SOON, || fs::read(&path));
        assert!(bytes == wanted, "{} is wrong", path.display());
        let mut piece = [0; 100];
        let at = 2 * BLOCK as usize + 1000;
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut piece, at as u64))
            .expect("a piece is read");
        assert!(
            piece == wanted[at..at + 100],
            "a piece of {} is wrong",
            path.display()
        );
    });
}

/// A file of which every member has a base.
fn file_everywhere(c: &Cluster, name: &str) -> Vec<PathBuf> {
    write_synced(&c.at(1, name), &content()).expect("a file is written");
    assert_eq!(replicas(&c.at(1, name)).len(), 3);
    for i in c.members() {
        read_right(c, i, name);
    }
    c.members().map(|i| base(&c.data(i), BYTES)).collect()
}

#[test]
fn fault_s8_a_flipped_bit_is_never_read_and_the_read_heals_it() {
    let Some(c) = Cluster::up_with(3, &[], &[("HYDFS_SCRUB_MIB_S", "0")]) else {
        return;
    };
    c.wait_healthy();
    let bases = file_everywhere(&c, "f");
    for (i, at) in [(2, 2 * BLOCK + 1040), (3, 5 * BLOCK + 7)] {
        flip(&bases[i - 1], at);
        for reader in c.members() {
            read_right(&c, reader, "f");
        }
        until("the damaged block to be healed", SOON, || {
            c.metric(i, "hydfs_scrub_healed_blocks_total") == 1
        });
        assert!(
            holds(&bases[i - 1], &content()),
            "the base of n{i} is not whole again"
        );
        assert_eq!(c.metric(i, "hydfs_scrub_damaged_blocks_total"), 1);
        assert!(c.metric(i, "hydfs_data_damaged_reads_total") >= 1);
        assert!(c.log_text(i).contains("a copy here is damaged"));
    }
    // A write into a damaged block: the merge cannot be done there, and the whole base is fetched.
    flip(&bases[1], BLOCK + 60_000);
    let path = c.at(1, "f");
    let wrote = within("writing into a damaged block", SOON, move || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(&content()[BLOCK as usize + 100..][..200], BLOCK + 100)?;
        file.sync_all()
    });
    wrote.expect("it is written");
    for reader in c.members() {
        read_right(&c, reader, "f");
    }
    until("the base to be whole again", SOON, || {
        holds(&bases[1], &content())
    });
    c.wait_healthy();
}

#[test]
fn fault_s8_without_a_good_copy_reads_fail_and_the_file_is_named() {
    let Some(c) = Cluster::up_with(3, &[], &[("HYDFS_SCRUB_MIB_S", "0")]) else {
        return;
    };
    c.wait_healthy();
    let bases = file_everywhere(&c, "f");
    // The same block everywhere: no good copy is left.
    let at = 2 * BLOCK + 1040;
    bases.iter().for_each(|base| flip(base, at));
    let path = c.at(1, "f");
    let failed = within("a read without a good copy", SOON, move || {
        let mut bytes = Vec::new();
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    });
    let error = failed.expect_err("damaged bytes were served");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    for i in c.members() {
        until("the damaged file to be named", SOON, || {
            c.status(i).contains("damaged: /f, segment")
        });
        assert!(c.status(i).starts_with("degraded: "));
        assert_eq!(c.metric(i, "hydfs_scrub_lost_segments"), 1);
    }
    // What is not damaged is served.
    let mut piece = [0; 1000];
    let (_, _) = retry("reading an undamaged part", SOON, || {
        File::open(c.at(2, "f"))?.read_exact_at(&mut piece, 4 * BLOCK)
    });
    assert!(piece == content()[4 * BLOCK as usize..][..1000]);
    // One good copy comes back: all are healed from it.
    flip(&bases[0], at);
    for i in c.members() {
        until("the copies to be whole", SOON, || {
            holds(&bases[i - 1], &content())
        });
        read_right(&c, i, "f");
        until("the damage to be forgotten", SOON, || {
            c.metric(i, "hydfs_scrub_lost_segments") == 0
        });
    }
    c.wait_healthy();
}

#[test]
fn fault_s8_the_scrub_finds_what_nobody_reads() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let bases = file_everywhere(&c, "f");
    flip(&bases[1], 3 * BLOCK);
    until("the scrub to heal a copy that nobody reads", SOON, || {
        holds(&bases[1], &content())
    });
    assert!(c.metric(2, "hydfs_scrub_healed_bytes_total") >= BLOCK);
    assert!(c.metric(2, "hydfs_scrub_passes_total") >= 1);

    // Damage that its own checksums do not show: they were lost with it. The other replicas' do.
    c.stop(3);
    flip(&bases[2], BLOCK + 5);
    fs::remove_file(bases[2].with_extension("sum")).expect("the checksums are removed");
    c.start(3);
    until("the comparison to heal the copy", SOON, || {
        holds(&bases[2], &content())
    });
    c.wait_healthy();
}

#[test]
fn fault_s8_a_missing_base_is_made_again() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let bases = file_everywhere(&c, "f");
    c.stop(2);
    fs::remove_file(&bases[1]).expect("the base is removed");
    fs::remove_file(bases[1].with_extension("sum")).expect("the checksums are removed");
    c.start(2);
    read_right(&c, 2, "f");
    until("the missing base to be made again", SOON, || {
        holds(&bases[1], &content())
    });
    c.wait_healthy();
}

/// Exit code, and the document where there is one.
fn fsck(c: &Cluster, i: usize) -> (i32, Option<Value>, String) {
    let folder = c.data(i);
    let folder = folder.to_str().expect("a path in UTF-8");
    let out = c.hydfs(i, &["fsck", folder, "--json"]);
    let code = out.status.code().expect("it ended by itself");
    (
        code,
        serde_json::from_slice(&out.stdout).ok(),
        text(&out.stderr),
    )
}

#[test]
fn fsck_explains_a_members_folder() {
    let Some(c) = Cluster::up(3) else { return };
    c.wait_healthy();
    let bases = file_everywhere(&c, "f");
    let (code, _, complaint) = fsck(&c, 2);
    assert_eq!(code, 2);
    assert!(complaint.contains("in use"), "{complaint}");
    c.kill(2);
    let (code, report, complaint) = fsck(&c, 2);
    let report = report.unwrap_or_else(|| panic!("no report: {complaint}"));
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["clean"], true);
    assert_eq!(report["identity"]["name"], "n2");
    assert!(report["agreement_entries"].as_u64() > Some(0) && report["records"].as_u64() > Some(0));
    flip(&bases[1], BLOCK + 9);
    let (code, report, _) = fsck(&c, 2);
    let report = report.expect("a report");
    assert_eq!(code, 1);
    let finding = &report["findings"][0];
    assert_eq!(finding["severity"], "damage");
    assert_eq!(finding["offset"], BLOCK);
    assert!(finding["path"].as_str() == bases[1].to_str(), "{finding}");
    // As a person sees it.
    let folder = c.data(2);
    let out = c.hydfs(2, &["fsck", folder.to_str().expect("a path")]);
    let shown = text(&out.stdout);
    assert!(
        shown.contains("remedy: start the member") && shown.contains("1 finding"),
        "{shown}"
    );
    // The remedy helps.
    c.start(2);
    until("the copy to be healed", SOON, || {
        holds(&bases[1], &content())
    });
    c.stop(2);
    assert_eq!(fsck(&c, 2).0, 0);
    // The agreement log.
    let log = c.data(2).join("raft/00000001.log");
    flip(&log, 4096 + 25);
    let (code, report, _) = fsck(&c, 2);
    let report = report.expect("a report");
    assert_eq!(code, 1);
    assert!(
        report["findings"][0]["path"].as_str() == log.to_str(),
        "{report:#}"
    );
    flip(&log, 4096 + 25);
    assert_eq!(fsck(&c, 2).0, 0);
}

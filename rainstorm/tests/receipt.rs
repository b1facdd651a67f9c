//! A job's receipt says what came from what; an audit finds out where that does not hold.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{COUNT, FILTER, exec_job, filtered, numbers, signs};
use hydfs_types::{JobInfo, MemberId};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

async fn audit(world: &World, name: &str) -> rainstorm::Result<rainstorm::Audited> {
    let rain = world.rain(world.alive()[0]).unwrap();
    rain.audit(name).await
}

async fn fails(world: &World, name: &str, why: &str) {
    let error = audit(world, name).await.unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

async fn killed_filter() -> (Arc<World>, String) {
    let world = World::start(4, |options| {
        options.chunk_bytes = 4 << 10;
        options.uncommitted_bytes_max = 16 << 10;
    })
    .await;
    let input = signs(30_000);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.knobs.failed_appends.store(5, Relaxed);
    world.spec("filter.toml", FILTER, 0);
    world.spec("count.toml", COUNT, 0);
    for _ in 0..4 {
        sleep(Duration::from_millis(60)).await;
        let victim = MemberId(1 + world.random(4));
        world.kill(victim).await;
        world.revive(victim);
    }
    world.knobs.failed_appends.store(0, Relaxed);
    world.done("filter").await;
    world.done("count").await;
    (world, input)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receipt_of_a_job_that_was_hit_tiles_its_input_and_an_audit_notices_changes() {
    let (world, input) = killed_filter().await;
    let job = world.job("filter").unwrap();
    let audited = audit(&world, "filter").await.unwrap();
    assert_eq!(audited.epochs, job.epoch.0);
    assert_eq!(audited.lines_in, 30_000);
    assert_eq!(audited.lines_out as usize, filtered(&input).len());
    assert_eq!(audit(&world, "count").await.unwrap().lines_in, 30_000);
    world.check();

    let (output, receipt) = ("/.jobs/filter/output", "/.jobs/filter/receipt");
    let (good, lines) = (world.read(output).unwrap(), world.read(receipt).unwrap());
    let text = String::from_utf8(good.clone()).unwrap();
    let mut other = text.clone().into_bytes();
    other[0] ^= 1;
    world.write(output, &other, 0);
    fails(&world, "filter", "/.jobs/filter/output holds").await;
    world.write(output, &good[..good.len() - 1], 0);
    fails(&world, "filter", "something else wrote there").await;
    world.write(output, &good, 0);
    let lines = String::from_utf8(lines).unwrap();
    let without: String = lines
        .lines()
        .take(1)
        .chain(lines.lines().skip(2))
        .map(|l| format!("{l}\n"))
        .collect();
    world.write(receipt, without.as_bytes(), 0);
    fails(&world, "filter", "goes on with job epoch 3 after 1").await;
    let short: String = lines.lines().take(2).map(|l| format!("{l}\n")).collect();
    world.write(receipt, short.as_bytes(), 0);
    fails(&world, "filter", "has 2 lines for").await;
    let shifted = lines.replacen("\"from\":0,", "\"from\":3,", 1);
    assert_ne!(shifted, lines);
    world.write(receipt, shifted.as_bytes(), 0);
    fails(&world, "filter", "but 0 was next").await;
    world.write(receipt, lines.as_bytes(), 0);
    assert_eq!(audit(&world, "filter").await.unwrap(), audited);
    world.write(
        "/data/signs.csv",
        input.replace("Yield", "YIELD").as_bytes(),
        0,
    );
    assert!(
        audit(&world, "filter")
            .await
            .unwrap_err()
            .to_string()
            .contains("changed")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_files_and_executables_are_in_the_receipt() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", &numbers(100), 0);
    world.write("/bin/cat", b"#!/bin/sh\nexec cat\n", 0);
    let exec = exec_job("path = \"/bin/cat\", contract = \"batch\"", 2);
    let follow = exec.replace("path = \"/in\"", "path = \"/in\"\nfollow = true");
    world.spec("follow.toml", &follow, 0);
    let whole = |rows: u64| {
        let world = world.clone();
        async move {
            let progress = |job: &hydfs_types::JobInfo| rainstorm::progress(job);
            let enough =
                |job: &hydfs_types::JobInfo| progress(job).is_some_and(|p| p.rows_out == rows);
            world.until("follow", 20, enough).await;
        }
    };
    whole(100).await;
    world.extend("/in", b"more\nand more\npart");
    whole(102).await;
    let audited = audit(&world, "follow").await.unwrap();
    assert_eq!((audited.lines_in, audited.lines_out), (102, 102));
    let receipt = String::from_utf8(world.read("/.jobs/follow/receipt").unwrap()).unwrap();
    assert!(receipt.contains("\"operators\":{\"op\":\""), "{receipt}");
    assert!(
        receipt.contains("\"members\":[\"vm1\",\"vm2\"]"),
        "{receipt}"
    );
    world.spec(
        "none.toml",
        &exec.replace("version = 1\n", "version = 1\n[job]\nreceipt = false\n"),
        0,
    );
    world.done("none").await;
    assert_eq!(world.read("/.jobs/none/receipt"), None);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn what_was_in_an_output_before_is_no_part_of_the_job() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", b"a,1\nb,2\n", 0);
    world.write("/out/one", b"earlier\n", 0);
    world.write("/out/by/a", b"earlier, too\n", 0);
    world.write("/out/by/other", b"not of the job\n", 0);
    let spec = |more: &str| {
        format!(
            "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
             [[stage]]\nname = \"s\"\nfrom = \"in\"\nop = {{ filter = {{ contains = \"\" }} }}\n\
             [[sink]]\nfrom = \"s\"\npath = \"/out/one\"\n\
             [[sink]]\nfrom = \"s\"\npath = \"/out/by/\"\nby = 1\n{more}"
        )
    };
    world.spec("j.toml", &spec(""), 0);
    let rows = |rows: u64| {
        let enough = move |job: &hydfs_types::JobInfo| {
            rainstorm::progress(job).is_some_and(|p| p.rows_out == rows)
        };
        world.until("j", 20, enough)
    };
    rows(4).await;
    assert_eq!(audit(&world, "j").await.unwrap().lines_out, 4);
    // A new version goes on with its outputs, and finds another file.
    world.write("/out/more", b"of others\n", 0);
    world.spec(
        "j.toml",
        &spec("[[sink]]\nfrom = \"s\"\npath = \"/out/more\"\n"),
        0,
    );
    sleep(Duration::from_secs(5)).await;
    world.extend("/in", b"a,3\nc,4\n");
    rows(10).await;
    assert_eq!(audit(&world, "j").await.unwrap().lines_out, 10);
    assert_eq!(world.lines("/out/more"), ["of others", "a,3", "c,4"]);
    world.extend("/out/by/c", b"of nobody\n");
    fails(&world, "j", "/out/by/c has 14 bytes, but 4 were written").await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_followed_file_is_read_from_its_beginning() {
    let world = World::start(1, |_| {}).await;
    world.write("/in/a", b"one\ntwo\n", 0);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
        [[stage]]\nname = \"s\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n";
    world.spec("j.toml", spec, 0);
    world.spec(
        "end.toml",
        &spec.replace("true\n", "true\nstart = \"end\"\n"),
        0,
    );
    // What the first version of a spec found stays so under a later one.
    let end = spec.replace("true\n", "true\nstart = \"end\"\n");
    world.spec("other.toml", &end, 0);
    world.until("j", 20, |job| job.epoch.0 >= 1).await;
    sleep(Duration::from_secs(5)).await;
    world.spec("other.toml", spec, 0);
    sleep(Duration::from_secs(5)).await;
    world.extend("/in/a", b"three\n");
    world.write("/in/b", b"one\ntwo\n", 0);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(audit(&world, "j").await.unwrap().lines_in, 5);
    assert_eq!(audit(&world, "end").await.unwrap().lines_in, 3);
    assert_eq!(audit(&world, "other").await.unwrap().lines_in, 3);
    for (job, from, other) in [("j", 0, 4), ("end", 8, 0)] {
        let path = format!("/.jobs/{job}/receipt");
        let good = String::from_utf8(world.read(&path).unwrap()).unwrap();
        let bad = good.replacen(
            &format!("\"from\":{from},"),
            &format!("\"from\":{other},"),
            1,
        );
        assert_ne!(good, bad);
        world.write(&path, bad.as_bytes(), 0);
        fails(&world, job, "which is not its beginning").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_audit_holds_while_lines_come_and_says_which_input_is_removed() {
    let world = World::start(2, |_| {}).await;
    world.write("/logs/a", b"0\n", 0);
    let spec = "version = 1\n[job]\nepoch_ms = 5\n[[source]]\nname = \"in\"\npath = \"/logs\"\nfollow = true\n\
        [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\ntasks = 2\n";
    world.spec("j.toml", spec, 0);
    world.until("j", 20, |job| job.epoch.0 > 0).await;
    let traffic = async {
        for n in 0.. {
            world.extend("/logs/a", format!("{n}\n").as_bytes());
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    };
    let audits = async {
        for _ in 0..40 {
            let audited = audit(&world, "j").await.unwrap();
            assert!(audited.gone.is_empty());
            tokio::time::sleep(std::time::Duration::from_millis(29)).await;
        }
    };
    tokio::select! { () = traffic => {} () = audits => {} }
    world.write("/logs/b", b"b1\nb2\n", 0);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let before = audit(&world, "j").await.unwrap();
    world.unlink("/logs/a");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let after = audit(&world, "j").await.unwrap();
    assert_eq!((after.lines_in, after.lines_out), (2, before.lines_out));
    assert!(after.gone.iter().eq(["/logs/a"]), "{:?}", after.gone);
    world.extend("/.jobs/j/output", b"x\n");
    fails(&world, "j", "something else wrote there").await;
}

#[tokio::test(start_paused = true)]
async fn an_audit_knows_outputs_that_were_removed_and_made_anew() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", b"", 0);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
        [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n\
        [[sink]]\nfrom = \"all\"\npath = \"/out/one\"\n\
        [[sink]]\nfrom = \"all\"\npath = \"/out/by/\"\nby = 1\n";
    world.spec("j.toml", spec, 0);
    let mut epochs = Vec::new();
    for (round, line) in ["a,1", "b,2", "a,3", "a,40"].into_iter().enumerate() {
        if round == 2 {
            world.unlink("/out/one");
            world.unlink("/out/by/a");
        }
        world.extend("/in", format!("{line}\n").as_bytes());
        let enough = move |job: &hydfs_types::JobInfo| {
            rainstorm::progress(job).is_some_and(|p| p.rows_in == round as u64 + 1)
        };
        epochs.push(world.until("j", 20, enough).await.epoch.0);
    }
    let audited = audit(&world, "j").await.unwrap();
    let anew = [("/out/by/a", epochs[2]), ("/out/one", epochs[2])];
    let anew = anew.map(|(path, epoch)| (path.to_owned(), epoch));
    assert!(
        audited.anew.iter().eq(anew.iter().map(|(p, e)| (p, e))),
        "{:?}",
        audited.anew
    );
    assert_eq!((audited.lines_out, audited.gone.len()), (5, 0));
    world.unlink("/out/by/b");
    let gone = audit(&world, "j").await.unwrap().gone;
    assert!(gone.iter().eq(["/out/by/b"]), "{gone:?}");
    // What somebody else wrote is still found.
    world.write("/out/one", b"a,3\na,41\n", 0);
    fails(&world, "j", "/out/one holds 2 lines").await;
    world.write("/out/one", b"a,3\na,40\nmore\n", 0);
    fails(&world, "j", "something else wrote there").await;
    world.check();
}

/// A job that follows `/in`, and whose receipt is written as if it had read each line of it in a job epoch of its own. The seventh
/// line of the receipt is longer than two pieces.
async fn with_a_long_receipt(lines: u64) -> (Arc<World>, Vec<String>) {
    let world = World::start(1, |_| {}).await;
    world.knobs.calm.store(true, Relaxed);
    world.write("/in", &numbers(lines), 0);
    let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
        [[stage]]\nname = \"s\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n";
    world.spec("j.toml", spec, 0);
    let whole = |job: &JobInfo| rainstorm::progress(job).is_some_and(|p| p.rows_out == lines);
    world.until("j", 20, whole).await;
    let first: Value = serde_json::from_str(&world.lines("/.jobs/j/receipt")[0]).unwrap();
    let mut at = 0;
    let mut receipt = Vec::new();
    for (line, text) in (1..).zip(world.lines("/in")) {
        let mut one = first.clone();
        one["epoch"] = line.into();
        if line == 7 {
            one["members"] = vec!["a name of sixteen"; 120_000].into();
        }
        if line > 1 {
            one.as_object_mut().unwrap().remove("begin");
        }
        let bytes = text.len() as u64 + 1;
        let reads = &mut one["inputs"][0];
        reads["from"] = at.into();
        reads["to"] = (at + bytes).into();
        reads["lines"] = 1.into();
        reads["bytes"] = bytes.into();
        reads["crc"] = crc32c::crc32c(format!("{text}\n").as_bytes()).into();
        let sum = crc32c::crc32c(text.as_bytes());
        let writes = serde_json::json!({ "lines": 1, "bytes": bytes, "sum": sum });
        one["outputs"] = serde_json::json!({ "/.jobs/j/output": writes });
        receipt.push(one.to_string());
        at += bytes;
    }
    (world, receipt)
}

fn write_receipt(world: &World, lines: &[String]) -> u64 {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    world.write("/.jobs/j/receipt", text.as_bytes(), 0);
    text.len() as u64
}

#[tokio::test(start_paused = true)]
async fn a_receipt_of_any_length_is_read_in_pieces() {
    const LINES: u64 = 20_000;
    const PIECE: u64 = 1 << 20;
    let (world, receipt) = with_a_long_receipt(LINES).await;
    assert!(receipt[6].len() as u64 > 2 * PIECE);
    assert!(write_receipt(&world, &receipt) > 6 * PIECE);
    let counts = &world.counts;
    counts.read_bytes_max.store(0, Relaxed);
    let audited = audit(&world, "j").await.unwrap();
    assert_eq!(counts.read_bytes_max.load(Relaxed), PIECE);
    let bytes = world.read("/in").unwrap().len() as u64;
    assert_eq!(
        (audited.epochs, audited.lines_in, audited.lines_out),
        (LINES, LINES, LINES)
    );
    assert_eq!((audited.bytes_in, audited.bytes_out), (bytes, bytes));

    // An output that was made anew far behind the beginning is found in it.
    let all = world.lines("/.jobs/j/output");
    let rest: String = all[15_000..].iter().map(|l| format!("{l}\n")).collect();
    world.unlink("/.jobs/j/output");
    world.write("/.jobs/j/output", rest.as_bytes(), 0);
    counts.read_bytes_max.store(0, Relaxed);
    let audited = audit(&world, "j").await.unwrap();
    assert_eq!(counts.read_bytes_max.load(Relaxed), PIECE);
    assert_eq!(audited.anew["/.jobs/j/output"], 15_001);
    assert_eq!(audited.lines_out, LINES - 15_000);

    // So is what does not hold in a late line, and where.
    let mut bad = receipt.clone();
    bad[19_000] = bad[19_000].replace("\"lines\":1", "\"lines\":2");
    write_receipt(&world, &bad);
    fails(&world, "j", "job epoch 19001, task 0.0 read 2 lines").await;
    bad[18_000].truncate(50);
    write_receipt(&world, &bad);
    fails(&world, "j", "line 18001 of /.jobs/j/receipt is damaged").await;
    bad.truncate(1);
    bad.push("x".repeat((32 << 20) + 1));
    write_receipt(&world, &bad);
    fails(&world, "j", "line 2 of /.jobs/j/receipt has more than").await;
    write_receipt(&world, &receipt);
    world.unlink("/.jobs/j/output");
    assert_eq!(audit(&world, "j").await.unwrap().gone.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_audit_holds_while_lines_come_and_outputs_are_made_anew() {
    let world = World::start(2, |_| {}).await;
    world.write("/in", b"0\n", 0);
    let spec = "version = 1\n[job]\nepoch_ms = 5\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n\
        [[stage]]\nname = \"all\"\nfrom = \"in\"\nop = { filter = { contains = \"\" } }\n\
        [[sink]]\nfrom = \"all\"\npath = \"/out/one\"\n\
        [[sink]]\nfrom = \"all\"\npath = \"/out/two\"\n";
    world.spec("j.toml", spec, 0);
    world.until("j", 20, |job| job.epoch.0 > 0).await;
    let traffic = async {
        for n in 1.. {
            world.extend("/in", format!("{n}\n").as_bytes());
            if n % 500 == 0 && world.read("/out/one").is_some() {
                world.unlink("/out/one");
            }
            sleep(Duration::from_millis(3)).await;
        }
    };
    let audits = async {
        let mut anew = BTreeSet::new();
        while anew.len() < 3 {
            match audit(&world, "j").await {
                Ok(audited) => {
                    assert!(!audited.anew.contains_key("/out/two"));
                    anew.extend(audited.anew.into_values());
                }
                // An attempt has made it anew, and not committed yet: somebody may as well have emptied it.
                Err(error) => assert!(error.to_string().contains("/out/one has 0 bytes")),
            }
            sleep(Duration::from_millis(29)).await;
        }
    };
    let audits = tokio::time::timeout(Duration::from_secs(120), audits);
    tokio::select! { () = traffic => {} audits = audits => audits.unwrap() }
}

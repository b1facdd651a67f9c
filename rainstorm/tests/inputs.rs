//! Files that an executable is given: read by their names, not written, told in the receipt, gone with the task.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::exec_job;
use hydfs_types::JobPhase;
use rainstorm::Kernel;
use std::path::Path;
use world::World;

/// Says what it finds in the files, then tries to change them.
const READER: &str = r#"#!/bin/sh
cat >/dev/null
cd "$HYDFS_INPUTS" || exit 1
ls
cat words more.txt
(echo x >>words) 2>/dev/null && echo appended
rm -f words 2>/dev/null && echo removed
(: >new) 2>/dev/null && echo made
ls .. >/dev/null 2>&1 && echo looked around
exit 0
"#;

fn me() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap())
}

/// Somebody who owns specs: not root, if there is a choice.
fn owner() -> u32 {
    if me() == 0 { 65_534 } else { me() }
}

fn digest(content: &[u8]) -> String {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn batch(inputs: &str) -> String {
    let exec = format!("path = \"/bin/op\", contract = \"batch\", inputs = {inputs}");
    exec_job(&exec, 1)
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executable_reads_its_inputs_and_changes_none() {
    let kernel = Kernel::detect();
    // What the owner of the folder may do, only landlock forbids: without it, who runs the member must be another.
    let without = Kernel {
        landlock: 0,
        ..kernel
    };
    let kernels = match me() {
        0 => vec![kernel, without],
        _ if kernel.landlock > 0 => vec![kernel],
        _ => Vec::new(),
    };
    for kernel in kernels {
        let world = World::start(1, |options| options.kernel = Some(kernel)).await;
        world.write("/in", b"x\n", owner());
        world.write("/bin/op", READER.as_bytes(), owner());
        world.write("/a/words", b"one\n", owner());
        world.write("/b/more.txt", b"two\n", owner());
        let inputs = "[\"/a/words\", \"/b/more.txt\"]";
        for (job, first) in [("old", "one"), ("new", "changed")] {
            world.write("/a/words", format!("{first}\n").as_bytes(), owner());
            world.spec(&format!("{job}.toml"), &batch(inputs), owner());
            world.done(job).await;
            let output = world.lines(&format!("/.jobs/{job}/output"));
            assert_eq!(output, ["more.txt", "words", first, "two"]);
            let receipt = world.lines(&format!("/.jobs/{job}/receipt"));
            let line: serde_json::Value = serde_json::from_str(&receipt[0]).unwrap();
            let told = &line["operator_inputs"]["op"];
            assert_eq!(told["/a/words"], digest(format!("{first}\n").as_bytes()));
            assert_eq!(told["/b/more.txt"], digest(b"two\n"));
        }
        let folders = world.options.cache_dir.join("inputs");
        world
            .soon("the folders are gone", || entries(&folders) == 0)
            .await;
        assert_eq!(entries(&world.options.cache_dir.join("kept")), 3);
        world.check();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_that_cannot_be_given_are_refused_by_name() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"x\n", 0);
    world.write("/bin/op", b"#!/bin/sh\nexec cat\n", 0);
    world.write("/huge", &vec![0; (64 << 20) + 1], 0);
    let many: Vec<String> = (0..17).map(|n| format!("\"/in{n}\"")).collect();
    let many = format!("[{}]", many.join(", "));
    for (job, inputs, why) in [
        (
            "missing",
            "[\"/in\", \"/lists/none\"]",
            "/lists/none: no such file or directory; copy the file there first",
        ),
        (
            "huge",
            "[\"/huge\"]",
            "the input /huge has 67108865 bytes, more than 67108864; make it a source",
        ),
        (
            "twice",
            "[\"/a/x\", \"/b/x\"]",
            "the inputs /a/x and /b/x have the same name; rename or copy one of them",
        ),
        ("many", &many, "`exec` has more than 16 `inputs`"),
        ("up", "[\"/a/../x\"]", "`/a/../x` is not a path"),
    ] {
        world.spec(&format!("{job}.toml"), &batch(inputs), 0);
        let ended = world.ended(job).await;
        assert_eq!(ended.phase, JobPhase::Failed);
        assert!(ended.message.contains(why), "{job}: {}", ended.message);
    }
    world.check();
}

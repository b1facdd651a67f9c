//! What executables write to stderr is a file of the job's folder while they run: bounded, and gone with what it belongs to.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{exec_job, numbers};
use hydfs_types::JobPhase;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

const FILE_BYTES_MAX: usize = 1 << 20;

/// Says on stderr what it does with each line; on the first `twice` it dies.
const TALKER: &str = r#"#!/bin/sh
while IFS= read -r line; do
  case "$line" in
    "$(printf '\036')"*) printf '%s\n' "$line" ;;
    twice) [ -e ran ] || { : >ran; printf 'gone' >&2; exit 1; }; echo "$line" ;;
    *) echo "saw $line" >&2; echo "$line" ;;
  esac
done
"#;

/// Says much more on stderr than can be kept, for as long as it runs.
const CHATTERER: &str = r#"#!/bin/sh
text=$(printf '%8000s' x)
while sleep 0.01; do printf '%s\n' "$text" >&2; done &
exec cat
"#;

/// Somebody who owns specs: not root, if there is a choice.
fn owner() -> u32 {
    let me = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    if me == 0 { 65_534 } else { me }
}

async fn world(script: &str, input: &[u8]) -> Arc<World> {
    let world = World::start(2, |_| {}).await;
    world.write("/in", input, owner());
    world.write("/bin/op", script.as_bytes(), owner());
    world
}

fn followed(tasks: u32) -> String {
    let spec = exec_job("path = \"/bin/op\"", tasks);
    spec.replace("path = \"/in\"\n", "path = \"/in\"\nfollow = true\n")
}

fn said(world: &World, job: &str, task: u32) -> String {
    let path = format!("/.jobs/{job}/tasks/op-{task}/stderr");
    String::from_utf8(world.read(&path).unwrap_or_default()).unwrap()
}

fn files(world: &World, job: &str) -> Vec<String> {
    let mut paths = world.paths();
    paths.retain(|path| path.starts_with(&format!("/.jobs/{job}/tasks")));
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_executable_says_is_there_while_it_runs_and_a_quiet_one_makes_no_file() {
    let world = world(TALKER, b"one\n").await;
    world.spec("talks.toml", &followed(4), owner());
    let says = async |what: &str| {
        let holds = || (0..4).any(|task| said(&world, "talks", task).contains(what));
        world.soon(what, holds).await;
    };
    says("saw one\n").await;
    world.extend("/in", b"twice\ntwo\n");
    says("saw two\n").await;
    let job = world.job("talks").unwrap();
    assert_eq!((job.phase, job.attempt.0), (JobPhase::Running, 1));
    let files = files(&world, "talks");
    assert_eq!(
        files.len(),
        1,
        "a followed file belongs to one task: {files:?}"
    );
    assert_eq!(world.owner_of(&files[0]), Some(owner()));
    let text = String::from_utf8(world.read(&files[0]).unwrap()).unwrap();
    let is_mark = |line: &&str| {
        line.starts_with("--- ") && line.contains(", attempt 1, 20") && line.ends_with('Z')
    };
    let (marks, words): (Vec<&str>, Vec<&str>) = text.lines().partition(is_mark);
    assert_eq!(marks.len(), 2, "a mark for each process: {text}");
    // Between batches that were done and the one that failed any number of lines is worked on again.
    assert_eq!(
        (words[0], words.contains(&"gone")),
        ("saw one", true),
        "{text}"
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_slows_nothing_is_said_and_leaves_the_newest_of_it() {
    let world = world(CHATTERER, b"one\n").await;
    world.spec("floods.toml", &followed(1), owner());
    let cut = "… what came before was cut off\n";
    let limit = Instant::now() + Duration::from_secs(60);
    let mut lines = 1;
    while !said(&world, "floods", 0).starts_with(cut) {
        assert!(Instant::now() < limit);
        world.extend("/in", b"more\n");
        lines += 1;
        world.grown("/.jobs/floods/output", lines).await;
        let length = said(&world, "floods", 0).len();
        assert!(length <= FILE_BYTES_MAX + (65 << 10), "{length}");
        sleep(Duration::from_millis(50)).await;
    }
    let text = said(&world, "floods", 0);
    assert!(text.len() >= FILE_BYTES_MAX / 4, "{}", text.len());
    let left_out = text
        .lines()
        .filter(|line| line.ends_with(" bytes left out"));
    assert!(left_out.count() > 0);
    let whole = format!("{:>8000}", "x");
    let first = text[cut.len()..].lines().next().unwrap();
    assert!(first == whole || first.starts_with("… "), "{first}");
    assert_eq!(world.job("floods").unwrap().attempt.0, 1);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_of_a_batch_are_there_and_a_run_begins_without_those_of_the_one_before() {
    let world = world("#!/bin/sh\necho warning >&2\nexec cat\n", &numbers(9)).await;
    let spec = exec_job("path = \"/bin/op\", contract = \"batch\"", 3);
    world.spec("again.toml", &spec, owner());
    let first = world.done("again").await;
    let warned = || !files(&world, "again").is_empty();
    world.soon("the warning", warned).await;
    let path = &files(&world, "again")[0];
    assert!(world.lines(path).contains(&"warning".to_owned()));
    world.write("/bin/op", b"#!/bin/sh\nexec cat\n", owner());
    world.spec("again.toml", &spec, owner());
    let is_next = |job: &hydfs_types::JobInfo| job.id != first.id && job.phase == JobPhase::Done;
    world.until("again", 30, is_next).await;
    assert_eq!(files(&world, "again"), [""; 0]);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_removed_with_its_spec_does_not_come_back() {
    let world = world(CHATTERER, b"one\n").await;
    world.spec("ends.toml", &followed(1), owner());
    let begun = || !files(&world, "ends").is_empty();
    world.soon("words", begun).await;
    world.remove_all("/.jobs/ends");
    world.unlink("/.jobs/ends.toml");
    world.extend("/in", b"two\n");
    let limit = Instant::now() + Duration::from_secs(40);
    // Until some writes after the end of the last process.
    let mut left = 40;
    while left > 0 {
        assert!(Instant::now() < limit);
        assert_eq!(files(&world, "ends"), [""; 0]);
        if world
            .job("ends")
            .is_none_or(|job| job.phase == JobPhase::Cancelled)
        {
            left -= 1;
        }
        sleep(Duration::from_millis(50)).await;
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sandbox_refused_is_named() {
    let script = "#!/bin/sh\ncat\nfor i in 1 2 3 4 5 6 7 8; do sleep 1 & done\nwait\n";
    let world = world(script, &numbers(3)).await;
    let exec = "path = \"/bin/op\", contract = \"batch\", processes = 3, max_attempts = 1";
    world.spec("forks.toml", &exec_job(exec, 1), owner());
    world.ended("forks").await;
    if world
        .log("forks")
        .contains("memory is limited for each process alone")
    {
        // Without cgroups nobody counts.
        return;
    }
    let named = || said(&world, "forks", 0).contains("--- it began more than processes = 3\n");
    world.soon("the refusal", named).await;
    world.check();
}

//! What executables may do, and what they are kept from, with everything that the kernel offers and with less. As root and
//! as any other user: what the kernel lacks here is left out and said.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use data::{exec_job, numbers};
use hydfs_types::{JobInfo, JobPhase};
use rainstorm::Kernel;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::World;

fn me() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// Somebody who owns specs: not root, if there is a choice.
fn owner() -> u32 {
    if me() == 0 { 65_534 } else { me() }
}

fn kernel() -> Kernel {
    Kernel::detect()
}

async fn world(kernel: Kernel) -> Arc<World> {
    World::start(1, |options| options.kernel = Some(kernel)).await
}

fn batch(path: &str, more: &str) -> String {
    exec_job(&format!("path = \"{path}\", contract = \"batch\"{more}"), 1)
}

/// Tries everything that it should not, and says what came of it.
const NOSY: &str = r##"#!/usr/bin/env python3
import ctypes, os, signal, socket, subprocess, sys
sys.stdin.read()
secret = sys.argv[1]

def say(what, act):
    try:
        act()
        print(what, "works")
    except OSError as error:
        print(what, error.strerror)

def quiet(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(1, done.stderr.strip().rsplit(": ", 1)[-1])

def touch(path):
    with open(path, "w") as file:
        file.write("x")

say("own folder", lambda: touch("mine"))
say("temporary file", lambda: touch(os.environ["TMPDIR"] + "/other"))
say("itself", lambda: open(sys.argv[0]).read())
say("null", lambda: touch("/dev/null"))
say("child", lambda: subprocess.run(["sh", "-c", "echo x > /dev/null; cat mine > copy"], check=True))
say("pair", lambda: socket.socketpair())
say("home", lambda: os.listdir("/root"))
say("system settings", lambda: open("/etc/hostname").read())
say("data folder", lambda: open(secret).read())
say("data folder by child", lambda: quiet("cat", secret))
say("write elsewhere", lambda: touch("/tmp/hydfs-operator-was-here"))
say("write beside", lambda: touch("../hydfs-operator-was-here"))
say("other scratch", lambda: os.listdir(".."))
say("processes", lambda: open("/proc/1/status").read())
say("signal", lambda: os.kill(os.getppid(), 0))
say("session", os.setsid)
for name in ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"]:
    say(name, lambda: socket.socket(getattr(socket, name), socket.SOCK_RAW if name == "AF_NETLINK" else socket.SOCK_STREAM))
print("interfaces", len(socket.if_nameindex()) if sys.argv[2] == "open" else "unknown")
print("no new privileges", ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))
print("user", os.getuid())
"##;

/// What the nosy executable says under this kernel.
async fn nosy(kernel: Kernel, uid: u32) -> (BTreeMap<String, String>, String) {
    let world = world(kernel).await;
    let secret = world.options.cache_dir.parent().unwrap().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    world.write("/in", b"x\n", 0);
    world.write("/bin/nosy", NOSY.as_bytes(), uid);
    let sockets = if kernel.seccomp { "closed" } else { "open" };
    let more = format!(", args = [\"{}\", \"{sockets}\"]", secret.display());
    world.spec("nosy.toml", &batch("/bin/nosy", &more), uid);
    let job = world.ended("nosy").await;
    assert_eq!(job.phase, JobPhase::Done, "{}", job.message);
    let mut said = BTreeMap::new();
    for line in world.lines("/.jobs/nosy/output") {
        let at = line
            .find(" works")
            .or_else(|| line.find(" Operation"))
            .or_else(|| line.find(" Permission"))
            .or_else(|| line.rfind(' '));
        let (what, how) = line.split_at(at.unwrap());
        said.insert(what.to_owned(), how.trim().to_owned());
    }
    for left in ["/tmp/hydfs-operator-was-here"] {
        if std::fs::remove_file(left).is_ok() {
            said.insert("left outside".into(), left.into());
        }
    }
    world.check();
    (said, world.log("nosy"))
}

const WORKS: &[&str] = &[
    "own folder",
    "temporary file",
    "itself",
    "null",
    "child",
    "pair",
];
const FILES: &[&str] = &[
    "home",
    "system settings",
    "data folder",
    "data folder by child",
    "write elsewhere",
    "write beside",
    "other scratch",
    "processes",
];
const SOCKETS: &[&str] = &["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_an_operator_reaches_its_own_corner_and_nothing_else() {
    let kernel = kernel();
    let (said, log) = nosy(kernel, owner()).await;
    for what in WORKS {
        assert_eq!(said[*what], "works", "{what}: {said:?}");
    }
    assert_eq!(said["no new privileges"], "1");
    assert_eq!(said["user"], owner().to_string());
    if kernel.landlock > 0 {
        for what in FILES {
            assert_eq!(said[*what], "Permission denied", "{what}: {said:?}");
        }
    }
    if kernel.landlock >= 6 || owner() != me() {
        assert_eq!(said["signal"], "Operation not permitted", "{said:?}");
    }
    if kernel.seccomp {
        for what in SOCKETS.iter().chain(&["session"]) {
            assert_eq!(said[*what], "Operation not permitted", "{what}: {said:?}");
        }
    }
    assert_eq!(log.is_empty(), !log.contains("is not whole"), "{log}");
    println!("{kernel:?}: {said:?}; {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_each_line_of_defence_holds_without_the_others() {
    let all = kernel();
    if all.landlock > 0 {
        let only = Kernel {
            landlock: all.landlock,
            ..Kernel::NOTHING
        };
        let (said, log) = nosy(only, owner()).await;
        for what in FILES {
            assert_eq!(said[*what], "Permission denied", "{what}: {said:?}");
        }
        assert!(log.contains("the network is open"), "{log}");
        assert!(log.contains("memory is limited for each process"), "{log}");
        assert_eq!(log.lines().count(), 1, "said once: {log}");
    }
    if all.seccomp {
        let only = Kernel {
            seccomp: true,
            ..Kernel::NOTHING
        };
        let (said, log) = nosy(only, owner()).await;
        for what in SOCKETS {
            assert_eq!(said[*what], "Operation not permitted", "{what}: {said:?}");
        }
        assert!(log.contains("files are open"), "{log}");
    }
    if all.namespaces {
        let only = Kernel {
            namespaces: true,
            ..Kernel::NOTHING
        };
        let (said, _) = nosy(only, owner()).await;
        assert_eq!(said["AF_INET"], "works");
        assert_eq!(
            said["interfaces"], "1",
            "the loopback, which is down: {said:?}"
        );
    }
}

/// Root's own executables keep none of root's powers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_root_as_owner_is_confined_as_well() {
    if me() != 0 {
        return;
    }
    let kernel = kernel();
    let (said, _) = nosy(kernel, 0).await;
    for what in WORKS {
        assert_eq!(said[*what], "works", "{what}: {said:?}");
    }
    if kernel.landlock > 0 {
        for what in FILES {
            assert_eq!(said[*what], "Permission denied", "{what}: {said:?}");
        }
    }
    let world = world(Kernel {
        landlock: 0,
        ..kernel
    })
    .await;
    world.write("/in", b"x\n", 0);
    let script = "#!/bin/sh\ncat >/dev/null\ngrep -h CapEff /proc/self/status\ngrep -h CapBnd /proc/self/status\n";
    world.write("/bin/powers", script.as_bytes(), 0);
    world.spec("powers.toml", &batch("/bin/powers", ""), 0);
    world.done("powers").await;
    let none = "0".repeat(16);
    assert_eq!(
        world.lines("/.jobs/powers/output"),
        [format!("CapEff:\t{none}"), format!("CapBnd:\t{none}")]
    );
}

/// Talks to a port of this machine.
const CALLER: &str = r#"#!/usr/bin/env python3
import socket, sys
sys.stdin.read()
print(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10).recv(9).decode())
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_the_network_is_open_to_those_who_ask_for_it() {
    let world = world(kernel()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, b"greetings").await);
        }
    });
    world.write("/in", b"x\n", 0);
    world.write("/bin/caller", CALLER.as_bytes(), owner());
    let more = format!(", args = [\"{port}\"], max_attempts = 1");
    world.spec("closed.toml", &batch("/bin/caller", &more), owner());
    let open = format!("{more}, network = true");
    world.spec("open.toml", &batch("/bin/caller", &open), owner());
    world.done("open").await;
    assert_eq!(world.lines("/.jobs/open/output"), ["greetings"]);
    let job = world.ended("closed").await;
    let all = kernel();
    if all.seccomp || all.namespaces {
        assert_eq!(job.phase, JobPhase::Failed);
    }
    if all.seccomp {
        assert!(job.message.contains("not permitted"), "{}", job.message);
        assert!(job.message.contains("`network = true`"), "{}", job.message);
    }
    answers.abort();
    world.check();
}

async fn run_out(kernel: Kernel, script: &str, more: &str) -> (JobInfo, Arc<World>) {
    let world = world(kernel).await;
    world.write("/in", &numbers(10), 0);
    world.write("/bin/greedy", script.as_bytes(), owner());
    world.spec("greedy.toml", &batch("/bin/greedy", more), owner());
    let job = world.ended("greedy").await;
    (job, world)
}

/// Nothing of this machine has the word among its arguments any more.
async fn gone(word: &str) {
    let limit = Instant::now() + Duration::from_secs(20);
    let runs = |word: &str| {
        let mut found = false;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found |= line
                .split(|&byte| byte == 0)
                .any(|part| part == word.as_bytes());
        }
        found
    };
    while runs(word) {
        assert!(Instant::now() < limit, "a process with {word} is left");
        sleep(Duration::from_millis(20)).await;
    }
}

/// All that cells leave on disk goes with their tasks.
async fn swept(world: &World) {
    let scratch = world.options.cache_dir.join("scratch");
    let limit = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(&scratch).unwrap().count() > 0 {
        assert!(Instant::now() < limit, "a scratch folder is left");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_a_fork_bomb_is_held_and_leaves_nothing() {
    let script = "#!/bin/sh\ncat >/dev/null\nfor n in $(seq 40); do sleep 31.4159 & done\nwait\n";
    let more = ", processes = 12, max_attempts = 2, timeout_ms = 20000";
    let (job, world) = run_out(kernel(), script, more).await;
    let has_pids = Path::new("/sys/fs/cgroup/pids").exists()
        || Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if me() == 0 && has_pids && kernel().cgroups {
        assert_eq!(job.phase, JobPhase::Failed);
        let held = "it began more than processes = 12";
        assert!(job.message.contains(held), "{}", job.message);
    }
    gone("31.4159").await;
    swept(&world).await;
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_nothing_that_an_operator_leaves_behind_outlives_its_batch() {
    for kernel in [
        kernel(),
        Kernel {
            cgroups: false,
            ..kernel()
        },
    ] {
        let script =
            "#!/bin/sh\n(setsid sleep 27.1828 || sleep 27.1828) >/dev/null 2>&1 &\nexec cat\n";
        let (job, world) = run_out(kernel, script, "").await;
        assert_eq!(job.phase, JobPhase::Done, "{}", job.message);
        assert_eq!(world.lines("/.jobs/greedy/output").len(), 10);
        gone("27.1828").await;
        swept(&world).await;
    }
}

/// Takes half a gigabyte for a line that asks for it.
const HOG: &str = r#"#!/usr/bin/env python3
import sys
for line in sys.stdin.read().splitlines():
    if line == "7":
        hog = b"x" * (512 << 20)
    print(line)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_memory_has_an_end_and_the_line_at_fault_is_found() {
    let more = ", memory_mb = 100, max_attempts = 1";
    let has_cgroup = rainstorm_has_cgroup(&kernel()).await;
    for (kernel, words) in [
        (
            kernel(),
            if has_cgroup {
                "it needed more than memory_mb = 100"
            } else {
                "MemoryError"
            },
        ),
        (
            Kernel {
                cgroups: false,
                ..kernel()
            },
            "MemoryError",
        ),
    ] {
        let (job, world) = run_out(kernel, HOG, more).await;
        assert_eq!(job.phase, JobPhase::Failed);
        assert!(job.message.contains(words), "{}", job.message);
        let dead = batch("/bin/greedy", more)
            .replace("version = 1\n", "version = 1\n[job]\non_error = \"dead\"\n");
        world.spec("dead.toml", &dead, owner());
        world.done("dead").await;
        assert_eq!(world.lines("/.jobs/dead/output").len(), 9);
        let letters = world.lines("/.jobs/dead/dead/op");
        assert_eq!(letters.len(), 1);
        let letter: serde_json::Value = serde_json::from_str(&letters[0]).unwrap();
        assert_eq!(letter["line"], "7");
        assert!(letter["why"].as_str().unwrap().contains(words), "{letter}");
        swept(&world).await;
        world.check();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_output_from_which_the_kernel_took_a_process_is_not_whole() {
    if !rainstorm_has_cgroup(&kernel()).await {
        return;
    }
    // The status is that of the last process of a pipe, which does well.
    let script = "#!/bin/sh\npython3 -c 'import sys\nfor line in sys.stdin:\n  print(line, end=\"\", flush=True)\n  \
        if line == \"7\\n\": hog = b\"x\" * (512 << 20)' | cat\n";
    let more = ", memory_mb = 100, max_attempts = 1";
    let (job, _world) = run_out(kernel(), script, more).await;
    assert_eq!(job.phase, JobPhase::Failed, "{}", job.message);
    let words = "it needed more than memory_mb = 100";
    assert!(job.message.contains(words), "{}", job.message);
}

/// Whether operators get cgroups here, as a job's log has it.
async fn rainstorm_has_cgroup(kernel: &Kernel) -> bool {
    let (_, log) = nosy(*kernel, owner()).await;
    !log.contains("memory is limited for each process alone")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r14_a_job_that_requires_its_sandbox_fails_where_the_kernel_has_none() {
    let world = world(Kernel::NOTHING).await;
    world.write("/in", b"x\n", 0);
    world.write("/bin/cat", b"#!/bin/sh\nexec cat\n", owner());
    let spec = batch("/bin/cat", "");
    world.spec("best.toml", &spec, owner());
    let required = spec.replace(
        "version = 1\n",
        "version = 1\n[job]\nsandbox = \"required\"\n",
    );
    world.spec("required.toml", &required, owner());
    world.done("best").await;
    let log = world.log("best");
    assert!(log.contains("the sandbox of member"), "{log}");
    assert!(log.contains("no landlock"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    let job = world.ended("required").await;
    assert_eq!(job.phase, JobPhase::Failed);
    for words in ["`sandbox = \"required\"`", "no landlock", "other kernels"] {
        assert!(job.message.contains(words), "{}", job.message);
    }
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_means_of_confinement_alone_lets_operators_work() {
    let lines: u64 = std::env::var("HYDFS_LINES").map_or(300, |lines| lines.parse().unwrap());
    let all = kernel();
    let nothing = Kernel::NOTHING;
    let variants = [
        ("nothing", nothing),
        (
            "landlock",
            Kernel {
                landlock: all.landlock,
                ..nothing
            },
        ),
        (
            "seccomp",
            Kernel {
                seccomp: all.seccomp,
                ..nothing
            },
        ),
        (
            "namespaces",
            Kernel {
                namespaces: all.namespaces,
                ..nothing
            },
        ),
        (
            "cgroups",
            Kernel {
                cgroups: all.cgroups,
                ..nothing
            },
        ),
        ("everything", all),
    ];
    for (name, kernel) in variants {
        let world = World::start(1, |options| {
            options.kernel = Some(kernel);
            options.chunk_bytes = 64;
        })
        .await;
        world.knobs.calm.store(true, Relaxed);
        let input = numbers(lines);
        let processes = input.len().div_ceil(64) as f64;
        world.write("/in", &input, 0);
        world.write("/bin/say", b"#!/bin/sh\nprintf '%s\\n' \"$1\"\n", owner());
        let say = exec_job("path = \"/bin/say\", contract = \"argv\"", 1);
        world.spec("warm.toml", &say, owner());
        world.done("warm").await;
        let began = Instant::now();
        world.spec("cost.toml", &say, owner());
        world.done("cost").await;
        let each = began.elapsed().as_secs_f64() * 1e3 / processes;
        assert_eq!(world.read("/.jobs/cost/output"), Some(input));
        println!("{name}: {each:.2} ms for each process");
    }
}

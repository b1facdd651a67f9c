//! What a job can say beside the sample jobs: sources of several files, growing ones, graphs, operators by key, windows
//! and joins in event time. Each job's output equals a simple computation over the same input.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use hydfs_types::{JobPhase, MemberId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;
use world::World;

/// A job of one stage over `/in` with the columns of its header.
fn one(op: &str, tasks: u32) -> String {
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nformat = \"csv\"\n\
         [[stage]]\nname = \"op\"\nfrom = \"in\"\nop = {{ {op} }}\ntasks = {tasks}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operator_by_key_equals_a_simple_computation() {
    let world = World::start(3, |options| options.chunk_bytes = 1 << 10).await;
    let rows: Vec<(u64, u64, String)> = (0..3000_u64)
        .map(|n| (n * 7919 % 23, n * 31 % 17, format!("{}.5", n * 13 % 101)))
        .collect();
    let mut input = String::from("k,\"sub, key\",x\n");
    for (k, sub, x) in &rows {
        input.push_str(&format!("k{k},{sub},{x}\n"));
    }
    world.write("/in", input.as_bytes(), 0);
    let mut by_key: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    let mut counts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (k, sub, x) in &rows {
        by_key.entry(*k).or_default().push(x.parse().unwrap());
        *counts.entry((*k, *sub)).or_default() += 1;
    }
    type Work = fn(&[f64]) -> f64;
    let works: [(&str, Work); 4] = [
        ("sum", |all| all.iter().sum()),
        ("min", |all| all.iter().copied().fold(f64::MAX, f64::min)),
        ("max", |all| all.iter().copied().fold(f64::MIN, f64::max)),
        ("distinct", |all| {
            let all: BTreeSet<u64> = all.iter().map(|x| x.to_bits()).collect();
            all.len() as f64
        }),
    ];
    for (name, _) in works {
        let op = format!("{name} = {{ by = \"k\", of = \"x\" }}");
        world.spec(&format!("{name}.toml"), &one(&op, 3), 0);
    }
    world.spec("avg.toml", &one("avg = { by = \"k\", of = \"x\" }", 2), 0);
    let two = "count = { by = [\"k\", \"sub, key\"] }";
    world.spec("two.toml", &one(two, 3), 0);
    world.spec("top.toml", &one("top = { by = \"k\", n = 5 }", 3), 0);
    world.spec("dedup.toml", &one("dedup = { by = [\"k\", 2] }", 3), 0);
    let output = |name: &str| format!("/.jobs/{name}/output");
    for (name, work) in works {
        world.done(name).await;
        let mut want: Vec<String> = by_key
            .iter()
            .map(|(k, all)| format!("k{k},{}", work(all)))
            .collect();
        want.sort();
        assert_eq!(world.sorted(&output(name)), want, "{name}");
    }
    world.done("avg").await;
    for line in world.lines(&output("avg")) {
        let (key, avg) = line.split_once(',').unwrap();
        let all = &by_key[&key[1..].parse().unwrap()];
        let want = all.iter().sum::<f64>() / all.len() as f64;
        assert!((avg.parse::<f64>().unwrap() - want).abs() < 1e-6, "{line}");
    }
    world.done("two").await;
    let mut want: Vec<String> = counts
        .iter()
        .map(|((k, sub), count)| format!("k{k},{sub},{count}"))
        .collect();
    want.sort();
    assert_eq!(world.sorted(&output("two")), want);
    world.done("top").await;
    let mut best: Vec<(usize, String)> = by_key
        .iter()
        .map(|(k, all)| (all.len(), format!("k{k}")))
        .collect();
    best.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let want: Vec<String> = best[..5].iter().map(|(n, k)| format!("{k},{n}")).collect();
    assert_eq!(world.lines(&output("top")), want);
    world.done("dedup").await;
    let seen: BTreeSet<String> = world
        .lines(&output("dedup"))
        .iter()
        .map(|line| line.rsplit_once(',').unwrap().0.to_owned())
        .collect();
    assert_eq!(world.lines(&output("dedup")).len(), counts.len());
    assert_eq!(seen.len(), counts.len());
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_of_stages_with_union_fan_out_broadcast_and_several_sinks() {
    let world = World::start(3, |options| options.chunk_bytes = 512).await;
    for (at, path) in ["/logs/a/x.log", "/logs/b/y.log", "/logs/b/.hidden.log"]
        .iter()
        .enumerate()
    {
        let text: String = (0..300).map(|n| format!("{at} {n} w{}\n", n % 5)).collect();
        world.write(path, text.as_bytes(), 0);
    }
    let json: String = (0..200)
        .map(|n| format!("{{\"line\": \"9 {n} w{}\", \"more\": [1]}}\n", n % 5))
        .collect();
    world.write("/json/one.json", json.as_bytes(), 0);
    let spec = r#"
version = 1
[[source]]
name = "logs"
path = "/logs/*/*.log"
[[source]]
name = "json"
path = "/json"
format = "json"
columns = ["line"]
[[stage]]
name = "all"
from = ["logs", "json"]
op = { filter = { contains = "w" } }
tasks = 2
[[stage]]
name = "words"
from = "all"
op = { split = { by = " " } }
tasks = 3
[[stage]]
name = "counts"
from = "words"
op = { count = { by = 1 } }
tasks = 2
[[stage]]
name = "copies"
from = "all"
op = { flat_map = { matches = "^(9) (1.*)$", with = "$1:$2" } }
tasks = 3
partition = "broadcast"
[[sink]]
from = "counts"
path = "/out/counts"
[[sink]]
from = ["copies", "all"]
path = "/out/both"
"#;
    world.spec("graph.toml", spec, 0);
    world.done("graph").await;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let (mut both, mut all) = (Vec::new(), Vec::new());
    for (source, count) in [(0, 300), (1, 300), (9, 200)] {
        for n in 0..count {
            all.push(format!("{source} {n} w{}", n % 5));
        }
    }
    for line in &all {
        line.split(' ')
            .for_each(|word| *counts.entry(word.to_owned()).or_default() += 1);
        both.push(line.clone());
        if line.starts_with("9 1") {
            both.extend(vec![line.replacen(' ', ":", 1); 3]);
        }
    }
    both.sort();
    let mut want: Vec<String> = counts.iter().map(|(w, n)| format!("{w},{n}")).collect();
    want.sort();
    assert_eq!(world.sorted("/out/counts"), want);
    assert_eq!(world.sorted("/out/both"), both);
    world.check();
}

const FOLLOW: &str = "version = 1\n[[source]]\nname = \"logs\"\npath = \"/logs/*.log\"\nfollow = true\n\
    [[stage]]\nname = \"all\"\nfrom = \"logs\"\nop = { filter = { contains = \"\" } }\ntasks = 3\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_growing_directory_is_followed_line_by_line() {
    let world = World::start(3, |_| {}).await;
    world.write("/logs/a.log", b"a1\na2\npart", 0);
    world.spec("follow.toml", FOLLOW, 0);
    let end = FOLLOW.replace("follow = true", "follow = true\nstart = \"end\"");
    world.spec("end.toml", &end, 0);
    let output = "/.jobs/follow/output";
    assert_eq!(world.grown(output, 2).await, ["a1", "a2"]);
    world
        .until("end", 20, |job| job.phase == JobPhase::Running)
        .await;
    world.extend("/logs/a.log", b"ial\n");
    world.extend("/logs/b.log", b"b1\n");
    assert_eq!(world.grown(output, 4).await, ["a1", "a2", "b1", "partial"]);
    // A log that is rotated away goes on under its name; what stands in its place is new.
    world.rename("/logs/a.log", "/logs/a.1.log");
    world.write("/logs/a.log", b"new1\n", 0);
    world.extend("/logs/a.1.log", b"a3\n");
    let all = ["a1", "a2", "a3", "b1", "new1", "partial"];
    assert_eq!(world.grown(output, 6).await, all);
    // Whether the job that begins at the end saw the line that was written then depends on when it began.
    let from_end = world.grown("/.jobs/end/output", 3).await;
    let late = |line: &String| all[2..].contains(&line.as_str());
    assert!(from_end.iter().all(late), "{from_end:?}");
    // An overwritten file is not what was read.
    world.write("/logs/b.log", b"other content, and longer\n", 0);
    let job = world.ended("follow").await;
    assert_eq!(job.phase, JobPhase::Failed);
    assert!(job.message.contains("changed"), "{}", job.message);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r10_a_line_appended_late_is_read_once_while_members_die() {
    let world = World::start(4, |_| {}).await;
    world.write("/logs/0.log", b"", 0);
    world.spec("follow.toml", FOLLOW, 0);
    let mut want = Vec::new();
    for round in 0..40 {
        let line = format!("line {round:03}");
        world.extend(
            &format!("/logs/{}.log", round % 5),
            format!("{line}\n").as_bytes(),
        );
        want.push(line);
        if round % 8 == 3 {
            let victim = MemberId(1 + world.random(4));
            world.kill(victim).await;
            sleep(Duration::from_millis(world.random(60))).await;
            world.revive(victim);
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.grown("/.jobs/follow/output", want.len()).await, want);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.sorted("/.jobs/follow/output"), want);
    world.check();
}

/// Lines of a web server: time, user, page; each second some, a few out of order, some far too late.
fn visits(count: u64) -> Vec<(i64, String, String)> {
    let visit = |n: u64| {
        let late = match n {
            n if n % 501 == 500 => 400_000,
            n if n % 7 == 3 => 1500,
            _ => 0,
        };
        let time = 1_000_000 + n as i64 * 250 - late;
        // Users come in bursts, with pauses longer than a session's.
        let user = (n / 40 * 7919) % 13 + n % 3;
        (time, format!("u{user}"), format!("/page{}", n * n % 11))
    };
    (0..count).map(visit).collect()
}

fn spec_of_visits(tasks: u32) -> String {
    format!(
        r#"
version = 1
[job]
epoch_ms = 10
[[source]]
name = "visits"
path = "/visits"
format = "csv"
time = "time"
time_format = "unix_ms"
out_of_order_ms = 2000
[[stage]]
name = "minutes"
from = "visits"
op = {{ top = {{ by = "page", n = 3, window = {{ tumbling_ms = 60000, time = "time", time_format = "unix_ms" }} }} }}
tasks = {tasks}
[[stage]]
name = "sessions"
from = "visits"
op = {{ count = {{ by = "user", window = {{ session_ms = 5000, time = "time", time_format = "unix_ms" }} }} }}
tasks = {tasks}
[[stage]]
name = "sliding"
from = "visits"
op = {{ distinct = {{ by = "page", of = "user", window = {{ sliding_ms = 60000, step_ms = 20000, time = "time", time_format = "unix_ms" }} }} }}
tasks = {tasks}
[[stage]]
name = "once"
from = "visits"
op = {{ dedup = {{ by = ["user", "page"] }} }}
tasks = {tasks}
[[sink]]
from = "minutes"
path = "/out/minutes"
[[sink]]
from = "sessions"
path = "/out/sessions"
[[sink]]
from = "sliding"
path = "/out/sliding"
[[sink]]
from = "once"
path = "/out/once"
[[sink]]
from = ["minutes.late", "sessions.late", "sliding.late"]
path = "/out/late"
"#
    )
}

/// What must come out if nothing is late: top pages a minute, sessions, users by page in sliding windows.
fn of_visits(all: &[(i64, String, String)]) -> [Vec<String>; 3] {
    let mut pages: BTreeMap<(i64, &str), u64> = BTreeMap::new();
    let mut users: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let mut sliding: BTreeMap<(i64, &str), BTreeSet<&str>> = BTreeMap::new();
    for (time, user, page) in all {
        *pages.entry((time / 60_000, page)).or_default() += 1;
        users.entry(user).or_default().push(*time);
        for back in 0..3 {
            let start = time / 20_000 * 20_000 - back * 20_000;
            sliding.entry((start, page)).or_default().insert(user);
        }
    }
    let mut by_minute: BTreeMap<i64, Vec<(u64, &str)>> = BTreeMap::new();
    for ((minute, page), count) in pages {
        by_minute.entry(minute).or_default().push((count, page));
    }
    let mut out = [Vec::new(), Vec::new(), Vec::new()];
    for (minute, mut best) in by_minute {
        best.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        for (count, page) in &best[..best.len().min(3)] {
            let (start, end) = (minute * 60_000, (minute + 1) * 60_000);
            out[0].push(format!("{start},{end},{page},{count}"));
        }
    }
    for (user, mut times) in users {
        times.sort_unstable();
        for session in times.chunk_by(|a, b| b - a < 5000) {
            let (first, last) = (session[0], session[session.len() - 1] + 5000);
            out[1].push(format!("{first},{last},{user},{}", session.len()));
        }
    }
    for ((start, page), users) in sliding {
        out[2].push(format!("{start},{},{page},{}", start + 60_000, users.len()));
    }
    out.iter_mut().for_each(|lines| lines.sort());
    out
}

fn csv(visits: &[(i64, String, String)]) -> String {
    let rows = visits
        .iter()
        .map(|(time, user, page)| format!("{time},{user},{page}\n"));
    std::iter::once("time,user,page\n".to_owned())
        .chain(rows)
        .collect()
}

fn on_time() -> Vec<(i64, String, String)> {
    let mut all = visits(6000);
    all.retain(|(time, ..)| *time > 1_000_000);
    for (at, visit) in all.iter_mut().enumerate() {
        visit.0 = visit.0.max(999_000 + at as i64 * 250);
    }
    all
}

async fn check_visits(world: &World, all: &[(i64, String, String)]) {
    world.done("visits").await;
    let want = of_visits(all);
    for (path, want) in ["/out/minutes", "/out/sessions", "/out/sliding"]
        .iter()
        .zip(want)
    {
        assert_eq!(world.sorted(path), want, "{path}");
    }
    let pairs: BTreeSet<(&str, &str)> = all
        .iter()
        .map(|(_, u, p)| (u.as_str(), p.as_str()))
        .collect();
    assert_eq!(world.lines("/out/once").len(), pairs.len());
    assert_eq!(world.lines("/out/late"), [""; 0]);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_equal_the_batch_computation() {
    let all = on_time();
    for tasks in [1, 3] {
        let world = World::start(3, |options| {
            options.chunk_bytes = 2 << 10;
            options.uncommitted_bytes_max = 8 << 10;
        })
        .await;
        world.write("/visits", csv(&all).as_bytes(), 0);
        world.spec("visits.toml", &spec_of_visits(tasks), 0);
        check_visits(&world, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_r2_windows_joins_and_dedup_survive_the_death_of_members_at_random_points() {
    let all = on_time();
    for seed in 1..=2 {
        let world = World::start(4, |options| {
            options.chunk_bytes = 2 << 10;
            options.uncommitted_bytes_max = 4 << 10;
        })
        .await;
        world.seed(seed);
        world.knobs.lost_calls.store(10, Relaxed);
        world.knobs.lost_proposals.store(10, Relaxed);
        world.knobs.failed_appends.store(2, Relaxed);
        world.write("/visits", csv(&all).as_bytes(), 0);
        world.write("/pages", pages().as_bytes(), 0);
        world.write("/joined", joined_input(600).as_bytes(), 0);
        world.spec("visits.toml", &spec_of_visits(3), 0);
        world.spec("join.toml", &join_spec(3), 0);
        world.kill_until_ended(&["visits", "join"]).await;
        check_visits(&world, &all).await;
        check_join(&world, 600).await;
    }
}

/// Orders and payments of the same ids, 0 to 9 s apart; every other payment is too far away.
fn joined_input(count: i64) -> String {
    let mut rows = vec![];
    for n in 0..count {
        rows.push((n * 1000, format!("o,{n},/page{}", n % 11)));
        let apart = if n % 2 == 0 { 3000 } else { 9000 };
        rows.push((n * 1000 + apart, format!("p,{n},paid")));
    }
    rows.sort();
    let rows = rows
        .into_iter()
        .map(|(time, rest)| format!("{time},{rest}\n"));
    std::iter::once("time,kind,id,what\n".to_owned())
        .chain(rows)
        .collect()
}

fn pages() -> String {
    let rows = (0..6).map(|n| format!("\"Title, {n}\",/page{n}\n"));
    std::iter::once("title,page\n".to_owned())
        .chain(rows)
        .collect()
}

fn join_spec(tasks: u32) -> String {
    format!(
        r#"
version = 1
[job]
epoch_ms = 10
[[source]]
name = "rows"
path = "/joined"
format = "csv"
time = "time"
time_format = "unix_ms"
[[stage]]
name = "orders"
from = "rows"
op = {{ filter = {{ column = "kind", equals = "o" }} }}
[[stage]]
name = "titled"
from = "orders"
op = {{ join = {{ file = "/pages", on = "what", file_on = "page", keep = "all" }} }}
[[stage]]
name = "payments"
from = "rows"
op = {{ filter = {{ column = "kind", in = ["p"] }} }}
[[stage]]
name = "paid"
from = ["titled", "payments"]
op = {{ join = {{ on = "id", within_ms = 5000, time = "time", time_format = "unix_ms" }} }}
tasks = {tasks}
[[stage]]
name = "short"
from = "paid"
op = {{ select = {{ columns = [3, "title"] }} }}
tasks = {tasks}
"#
    )
}

async fn check_join(world: &World, count: i64) {
    world.done("join").await;
    let mut want: Vec<String> = (0..count)
        .filter(|n| n % 2 == 0)
        .map(|n| match n % 11 {
            page @ 0..6 => format!("{n},\"Title, {page}\""),
            _ => format!("{n},"),
        })
        .collect();
    want.sort();
    assert_eq!(world.sorted("/.jobs/join/output"), want);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_with_a_file_and_between_streams() {
    for tasks in [1, 3] {
        let world = World::start(2, |options| options.chunk_bytes = 4 << 10).await;
        world.write("/pages", pages().as_bytes(), 0);
        world.write("/joined", joined_input(300).as_bytes(), 0);
        world.spec("join.toml", &join_spec(tasks), 0);
        check_join(&world, 300).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_lines_go_aside_and_a_silent_file_freezes_no_window() {
    let world = World::start(2, |_| {}).await;
    world.write("/live/a", b"", 0);
    world.write("/live/silent", b"5,old\n", 0);
    let spec = r#"
version = 1
[[source]]
name = "live"
path = "/live"
columns = ["time", "what"]
follow = true
time = "time"
time_format = "unix"
idle_ms = 300
[[stage]]
name = "counts"
from = "live"
op = { count = { by = "what", window = { tumbling_ms = 10000, time = "time", time_format = "unix", allowed_lateness_ms = 5000 } } }
tasks = 2
[[sink]]
from = "counts"
path = "/out/counts"
[[sink]]
from = "counts.late"
path = "/out/late"
"#;
    world.spec("live.toml", spec, 0);
    for second in 10..30 {
        world.extend("/live/a", format!("{second},x\n").as_bytes());
    }
    // The second window ends at 20 s and 5 s behind.
    let want = ["0,10000,old,1", "10000,20000,x,10"];
    assert_eq!(world.grown("/out/counts", 2).await, want);
    world.extend("/live/a", b"12,late\n23,in time\n36,x\n");
    assert_eq!(world.grown("/out/late", 1).await, ["12,late"]);
    let want = [
        want[0],
        want[1],
        "20000,30000,in time,1",
        "20000,30000,x,10",
    ];
    assert_eq!(world.grown("/out/counts", 4).await, want);
    assert_eq!(world.sorted("/out/late"), ["12,late"]);
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_a_remedy() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"a,b\n1,2\n", 0);
    world.write("/other/1.csv", b"a,b\n", 0);
    world.write("/other/2.csv", b"a,c\n", 0);
    world.write("/alike/1.csv", b"a,b\n", 0);
    let window = "window = { tumbling_ms = 10, time = \"a\" }";
    let source = "[[source]]\nname = \"in\"\npath = \"/in\"\nformat = \"csv\"\n";
    let follow = one(&format!("count = {{ by = 1, {window} }}"), 1)
        .replace("format = \"csv\"", "format = \"csv\"\nfollow = true");
    let cases = [
        (
            one("count = { by = [] }", 1),
            "no column is named; name one",
        ),
        (one("top = { by = 1, n = 0 }", 1), "use 1 to 10000"),
        (follow, "add `time = \"column\"`"),
        (
            one(
                "count = { by = 1, window = { sliding_ms = 10, time = 1 } }",
                1,
            ),
            "`sliding_ms` without `step_ms`",
        ),
        (
            one(
                "distinct = { by = 1, of = 2, window = { session_ms = 10, time = 1 } }",
                1,
            ),
            "no session windows",
        ),
        (
            one("count = { by = 1 }", 1).replace("tasks = 1", "[[sink]]\nfrom = \"op.late\"\n"),
            "`op.late` is nothing; only stages above with a window",
        ),
        (
            one("join = { on = 1, within_ms = 5, time = 1 }", 1),
            "`join` of streams needs two",
        ),
        (
            one("join = { file = \"/in\", on = 1, within_ms = 5 }", 1),
            "`within_ms` is not for this kind of `join`",
        ),
        (
            one("filter = { column = 1, above = true }", 1),
            "a bound is true or false that cannot be compared",
        ),
        (
            one("select = { columns = [1] }", 1).replace("/in", "/other"),
            "/other/2.csv has the columns `a`, `c`, other than the files before it",
        ),
        (
            one("select = { columns = [1] }", 1).replace("/in", "/alike")
                + "[[sink]]\nfrom = \"op\"\npath = \"/alike/out\"\n",
            "`/alike/out` is in the source `/alike`, which would read it",
        ),
        (
            one("select = { columns = [1] }", 1).replace("/in", "/no/*.csv"),
            "/no/*.csv names no file",
        ),
        (
            one("select = { columns = [1] }", 1)
                .replace("from = \"in\"", "from = [\"in\", \"in\"]"),
            "`in` is named twice",
        ),
        (
            format!(
                "version = 1\n{source}[[stage]]\nname = \"s\"\nfrom = \"in\"\nop = {{ select = {{ columns = [\"b\"] }} }}\n\
                 [[stage]]\nname = \"u\"\nfrom = [\"in\", \"s\"]\nop = {{ filter = {{ contains = \"\" }} }}\n"
            ),
            "`s` has the columns `b`, but `in` has `a`, `b`",
        ),
    ];
    for (at, (spec, message)) in cases.iter().enumerate() {
        let name = format!("case{at}");
        world.spec(&format!("{name}.toml"), spec, 0);
        let job = world.ended(&name).await;
        assert_eq!(job.phase, JobPhase::Failed, "{spec}");
        assert!(job.message.contains(message), "{}\n{message}", job.message);
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn windows_with_lateness_have_their_best_whatever_the_number_of_tasks() {
    let mut outputs = Vec::new();
    for tasks in [1, 3] {
        let world = World::start(3, |_| {}).await;
        world.write(
            "/in.csv",
            b"at,page\n1000,a\n2000,a\n3000,b\n4000,d\n4001,d\n4002,d\n",
            0,
        );
        let spec = format!(
            "version = 1\n[[source]]\nname = \"in\"\npath = \"/in.csv\"\nformat = \"csv\"\nfollow = true\n\
             time = \"at\"\ntime_format = \"unix_ms\"\n\
             [[stage]]\nname = \"n\"\nfrom = \"in\"\ntasks = {tasks}\n\
             op = {{ top = {{ by = \"page\", n = 2, window = {{ tumbling_ms = 60000, time = \"at\", \
             time_format = \"unix_ms\", allowed_lateness_ms = 5000 }} }} }}\n"
        );
        world.spec("j.toml", &spec, 0);
        world.until("j", 20, |job| job.epoch.0 >= 1).await;
        for at in (50_000..80_000).step_by(500) {
            world.extend("/in.csv", format!("{at},c\n").as_bytes());
            sleep(Duration::from_millis(200)).await;
        }
        sleep(Duration::from_secs(5)).await;
        outputs.push(world.lines("/.jobs/j/output"));
        world.check();
    }
    assert_eq!(outputs[0], ["0,60000,c,20", "0,60000,d,3"]);
    assert_eq!(outputs[0], outputs[1]);
}

//! Specs that would feed on themselves, write where no job may, or mean what their author does not: refused where they stand.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::JobPhase;
use std::sync::Arc;
use world::World;

fn job(source: &str, sink: &str, op: &str) -> String {
    let sink = match sink {
        "" => String::new(),
        path => format!("[[sink]]\nfrom = \"s\"\npath = \"{path}\"\n"),
    };
    format!(
        "version = 1\n[[source]]\nname = \"in\"\npath = \"{source}\"\nfollow = true\n\
         [[stage]]\nname = \"s\"\nfrom = \"in\"\nop = {{ {op} }}\n{sink}"
    )
}

async fn refused(world: &Arc<World>, number: usize, spec: &str, why: &str) {
    let name = format!("j{number}");
    world.spec(&format!("{name}.toml"), spec, 0);
    let job = world.ended(&name).await;
    assert_eq!(job.phase, JobPhase::Failed, "{spec}");
    assert!(job.message.contains(why), "{spec}\n{}", job.message);
    assert!(job.message.contains(".toml:"), "{}", job.message);
}

#[tokio::test(start_paused = true)]
async fn circles_and_sinks_among_files_of_jobs() {
    let world = World::start(1, |_| {}).await;
    world.write("/lp/a", b"x\n", 0);
    world.write("/dir/below/a", b"x\n", 0);
    let among = "is among the files of jobs; write it somewhere else";
    for (number, (source, sink, why)) in [
        ("/lp/*", "/lp/result", "which would read it"),
        ("/lp", "/lp/result", "which would read it"),
        ("/l?/*", "/lp/", "which would read it"),
        ("/.jobs/j3/output", "", "is a file of this job itself"),
        ("/.jobs/j4", "/out", "is a file of this job itself"),
        ("/.jobs/j5/*", "/out", "is a file of this job itself"),
        ("/lp/s-?*", "/lp/", "which would read it"),
        ("/lp/*", "/.jobs/j7/status", among),
        ("/lp/*", "/.jobs/other.toml", among),
        ("/lp/*", "/.jobs/j9/more/", among),
        ("/lp/*", "/dir/below", "is a directory"),
        ("/lp/*", "/lp/a/", "as it should be"),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = job(source, sink, "filter = { contains = \"\" }");
        refused(&world, number, &spec, why).await;
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn circles_through_several_jobs() {
    let world = World::start(1, |_| {}).await;
    let spec = |source: &str, sink: &str| job(source, sink, "filter = { contains = \"\" }");
    let start = async |name: &str, source: &str, sink: &str| {
        world.spec(&format!("{name}.toml"), &spec(source, sink), 0);
        world.until(name, 20, |_| true).await
    };
    let circle = async |name: &str, source: &str, sink: &str, why: &str| {
        let job = start(name, source, sink).await;
        assert_eq!(job.phase, JobPhase::Failed, "{name}");
        assert!(job.message.contains(why), "{}", job.message);
    };
    world.write("/x/one.log", b"hi\n", 0);
    assert_eq!(
        start("a", "/x/*.log", "/y/a.log").await.phase,
        JobPhase::Running
    );
    assert_eq!(start("b", "/y", "/z/").await.phase, JobPhase::Running);
    assert_eq!(world.grown("/z/s-0", 1).await, ["hi"]);
    let why = "`/z/s-0` would read /z of job b, which reads /y/a.log of job a, which reads /x/c.log of job c: \
        lines would go round for ever";
    circle("c", "/z/s-0", "/x/c.log", why).await;
    // One that is changed, too; it goes on as it was.
    assert_eq!(start("d", "/z/*", "/w/d").await.phase, JobPhase::Running);
    assert_eq!(world.grown("/w/d", 1).await, ["hi"]);
    world.spec("d.toml", &spec("/z/*", "/x/d.log"), 0);
    let refused = |job: &hydfs_types::JobInfo| job.message.contains("go round for ever");
    let d = world.until("d", 20, refused).await;
    assert_eq!(d.phase, JobPhase::Running);
    // What is read once ends.
    let once = spec("/z/s-0", "/x/e.log").replace("follow = true\n", "");
    world.spec("e.toml", &once, 0);
    world.done("e").await;
    // Of two that come at once the second is refused.
    world.spec("p.toml", &spec("/p", "/q/p"), 0);
    world.spec("q.toml", &spec("/q", "/p/q"), 0);
    let phases = [
        world.until("p", 20, |_| true).await.phase,
        world.until("q", 20, |_| true).await.phase,
    ];
    let failed = phases.iter().filter(|phase| **phase == JobPhase::Failed);
    assert_eq!(failed.count(), 1, "{phases:?}");
    world.check();
}

#[tokio::test(start_paused = true)]
async fn patterns_that_match_no_file_of_the_job() {
    let world = World::start(1, |_| {}).await;
    world.write("/.jobs/old/output", b"o\n", 0);
    world.write("/out/a.csv", b"1\n", 0);
    let op = "filter = { contains = \"\" }";
    // Its own output is left out; another such job and this one would read each other's.
    world.spec("j.toml", &job("/.jobs/*/output", "", op), 0);
    assert_eq!(world.grown("/.jobs/j/output", 1).await, ["o"]);
    let again = job("/.jobs/*/output", "", op);
    refused(&world, 1, &again, "which reads /.jobs/j1/output of job j1").await;
    // Files of tasks are called `s-0`.
    world.spec("csv.toml", &job("/out/*.csv", "/out/", op), 0);
    assert_eq!(world.grown("/out/s-0", 1).await, ["1"]);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn operators_and_sinks_that_say_what_they_do_not_mean() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"a1\n", 0);
    for (number, (op, why)) in [
        (
            "map = { replace = \"(a)\", with = \"$1x\" }",
            "write `${1}x`",
        ),
        (
            "map = { replace = \"(a)\", with = \"$7\" }",
            "the group `7`",
        ),
        (
            "flat_map = { matches = \"(?<l>a)\", with = \"$l ${m}\" }",
            "the group `m`",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        refused(&world, number, &job("/in", "", op), why).await;
    }
    let twice = "[[sink]]\nfrom = [\"s\", \"s\"]\npath = \"/out\"\n";
    let spec = job("/in", "", "filter = { contains = \"\" }") + twice;
    refused(&world, 8, &spec, "`s` is named twice").await;
    let op = "map = { template = \"{1}\\n{1}\" }";
    refused(&world, 9, &job("/in", "", op), "holds a line end").await;
    let op = "map = { replace = \"(?<l>a)(1)\", with = \"$$1x ${2}x $l $0 $\" }";
    let spec = job("/in", "", op).replace("follow = true\n", "");
    world.spec("good.toml", &spec, 0);
    world.done("good").await;
    assert_eq!(world.lines("/.jobs/good/output"), ["$1x 1x a a1 $"]);
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_no_text_are_none_of_a_json_document() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"\xe9\n\xe8\nb\n", 0);
    let spec = job("/in", "/out.json", "count = { by = 1 }").replace("follow = true\n", "")
        + "format = \"json\"\n";
    world.spec("fails.toml", &spec, 0);
    let failed = world.ended("fails").await;
    assert_eq!(failed.phase, JobPhase::Failed);
    let why = "the key `\\xe8` is no UTF-8, as members of a JSON document must be";
    assert!(failed.message.contains(why), "{}", failed.message);
    let dead = spec.replace("version = 1\n", "version = 1\n[job]\non_error = \"dead\"\n");
    world.spec("dead.toml", &dead.replace("/out.json", "/good.json"), 0);
    world.done("dead").await;
    assert_eq!(world.lines("/good.json"), ["{", "  \"b\": 1", "}"]);
    assert_eq!(world.lines("/.jobs/dead/dead/s").len(), 2);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_is_none_of_the_text() {
    let world = World::start(1, |_| {}).await;
    world.write("/json", b"\xef\xbb\xbf{\"a\": 1}\n{\"a\": 2}\n", 0);
    world.write("/lines", b"\xef\xbb\xbf1\n2\n\xef\xbb\xbf3\n", 0);
    let op = "filter = { regex = \"^[0-9]\" }";
    let lines = job("/lines", "", op).replace("follow = true\n", "");
    world.spec("lines.toml", &lines, 0);
    let json = "path = \"/json\"\nformat = \"json\"\ncolumns = [\"a\"]";
    world.spec("json.toml", &lines.replace("path = \"/lines\"", json), 0);
    for name in ["lines", "json"] {
        world.done(name).await;
        assert_eq!(world.lines(&format!("/.jobs/{name}/output")), ["1", "2"]);
    }
    world.check();
}

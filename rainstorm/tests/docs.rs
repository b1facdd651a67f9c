//! What `docs/JOBS.md` and the `README` show is run: specs, each operator of the table, Python, the predecessor's command.
#![allow(clippy::unwrap_used)]

mod data;
mod world;

use hydfs_types::JobPhase;
use world::World;

const JOBS: &str = include_str!("../../docs/JOBS.md");
const README: &str = include_str!("../../README.md");
const PYTHON: &str = include_str!("../../scripts/operators/hydfs_lines.py");
const SHELL: &str = include_str!("../../scripts/operators/lines.sh");

/// The first code block of a language.
fn block(language: &str) -> &'static str {
    blocks(language)[0]
}

/// All code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(JOBS, language)
}

fn blocks_of(text: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let after = text.split(&fence).skip(1);
    after
        .map(|text| text.split_once("```").unwrap().0)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_job_reference_run() {
    let world = World::start(3, |_| {}).await;
    let input = data::signs(500);
    world.write("/data/signs.csv", input.as_bytes(), 0);
    world.write("/in", b"Name,Amount,b\nx,1,y\nz,2,\"q, r\"\n", 0);
    world.write("/names.csv", b"Name,Long\nx,Ecks\n", 0);
    world.write("/bin/op.py", block("python").as_bytes(), 0);
    world.spec("example.toml", block("toml"), 0);
    let rows = JOBS
        .lines()
        .filter_map(|line| line.strip_prefix("| `{ ")?.split_once(" }` |"));
    let ops: Vec<&str> = rows.map(|(op, _)| op).collect();
    assert_eq!(ops.len(), 22);
    for (at, op) in ops.iter().enumerate() {
        let text = format!(
            "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nformat = \"csv\"\n\
             [[stage]]\nname = \"op\"\nfrom = \"in\"\nop = {{ {op} }}\n"
        );
        world.spec(&format!("op{at}.toml"), &text, 0);
    }
    world.write(
        "/logs/1.csv",
        b"time,user,page\n1000,u,/a\n61000,u,/b\n62000,v,/b\n",
        0,
    );
    world.write("/shop/orders.csv", b"at,id\n1,7\n2,8\n", 0);
    world.write("/shop/payments.csv", b"at,order\n3600,7\n3603,8\n", 0);
    let [
        _,
        paced,
        binary,
        folder,
        formats,
        expressions,
        windows,
        join,
        confined,
        errors,
        known,
        counted,
        dead,
        scaled,
    ] = blocks("toml")[..]
    else {
        panic!("other examples than these");
    };
    world.spec("windows.toml", windows, 0);
    world.spec("join.toml", join, 0);
    world.spec("confined.toml", confined, 0);
    world.done("confined").await;
    assert_eq!(
        world.sorted("/.jobs/confined/output"),
        ["X,1,Y", "Z,2,\"Q, R\""]
    );
    world.write(
        "/bin/count.py",
        [PYTHON, blocks("python")[1]].concat().as_bytes(),
        0,
    );
    world.spec("counted.toml", counted, 0);
    world.write(
        "/bin/op.sh",
        [SHELL, blocks("sh")[1]].concat().as_bytes(),
        0,
    );
    world.spec("shell.toml", &confined.replace("op.py", "op.sh"), 0);
    world.done("counted").await;
    assert_eq!(world.sorted("/.jobs/counted/output"), ["x,1", "z,1"]);
    world.done("shell").await;
    assert_eq!(
        world.sorted("/.jobs/shell/output"),
        ["<x,1,y>", "<z,2,\"q, r\">"]
    );
    // Their source is about to be another.
    for at in 0..ops.len() {
        world.ended(&format!("op{at}")).await;
    }
    world.write("/in", b"fine\nAn Error\n", 0);
    world.spec("errors.toml", errors, 0);
    world.done("errors").await;
    assert_eq!(world.sorted("/.jobs/errors/output"), ["An Error"]);
    world.write("/lists/words.txt", b"ine\nhello\n", 0);
    world.write("/bin/known.sh", blocks("sh")[2].as_bytes(), 0);
    world.spec("known.toml", known, 0);
    world.done("known").await;
    assert_eq!(world.sorted("/.jobs/known/output"), ["fine"]);
    world.spec("folder.toml", folder, 0);
    world.done("folder").await;
    let speed = world.lines("/out/by-category/Speed Limit");
    assert!(speed.iter().all(|line| line.starts_with("Speed Limit,")));
    assert!(
        world
            .read("/out/by-category/Warning, %22Curve%22")
            .is_some()
    );
    world.spec("formats.toml", formats, 0);
    world.done("formats").await;
    let posts = world.lines("/out/posts.csv");
    assert_eq!((posts.len(), &*posts[0]), (501, "OBJECTID,Category"));
    let counts = world.lines("/out/counts.jsonl");
    let limit = counts.iter().find(|line| line.contains("Speed Limit"));
    assert!(
        JOBS.contains(&format!("\n{}\n", limit.unwrap())),
        "{limit:?}"
    );
    let orders =
        b"item,price,quantity,Ship To\n cup,2.50,40,\"Bonn, D\"\nmug,99.99,1,Ulm\npot,80,2,\n";
    world.write("/orders.csv", orders, 0);
    world.spec("expressions.toml", expressions, 0);
    world.done("expressions").await;
    assert_eq!(
        world.lines("/.jobs/expressions/output"),
        ["CUP,2.50,40,\"Bonn, D\",100"]
    );
    let readings = ["a,20", "b,21", "c,22", "d,23"];
    let readings = readings.map(|record| [b"\0\0\0\x04", record.as_bytes()].concat());
    world.write("/data/readings.bin", &readings.concat(), 0);
    world.spec("binary.toml", binary, 0);
    world.done("binary").await;
    assert_eq!(world.lines("/.jobs/binary/output"), ["b,21", "c,22"]);
    world.write("/clicks", b"a\nb\na\n", 0);
    world.spec("paced.toml", paced, 0);
    world.done("paced").await;
    assert_eq!(world.sorted("/.jobs/paced/output"), ["a", "b"]);
    world.write("/bills.csv", b"customer,amount\nx,1.50\ny,much\nx,2\n", 0);
    world.spec("dead.toml", dead, 0);
    world.done("dead").await;
    assert_eq!(world.lines("/.jobs/dead/output"), ["x,3.5"]);
    let letter = &world.lines("/.jobs/dead/dead/totals")[0];
    assert!(
        letter.contains("\"offset\":23,\"source\":\"/bills.csv\""),
        "{letter}"
    );
    world.write("/visits/1.log", b"/a /b\n/b /c\n", 0);
    world.spec("scaled.toml", scaled, 0);
    let rows = |job: &hydfs_types::JobInfo| rainstorm::progress(job).map_or(0, |all| all.rows_out);
    let job = world.until("scaled", 60, |job| rows(job) == 3).await;
    assert_eq!(world.sorted("/.jobs/scaled/output"), ["/a", "/b", "/c"]);
    let text = world::progress_text(&job);
    assert!(text.contains("tasks.first = 1 of 1 to 8\n"), "{text}");
    world.done("windows").await;
    assert_eq!(
        world.sorted("/out/pages"),
        ["0,60000,/a,1", "60000,120000,/b,2"]
    );
    assert_eq!(
        world.sorted("/out/sessions"),
        ["1000,1861000,u,2", "62000,1862000,v,1"]
    );
    world.done("join").await;
    assert_eq!(world.lines("/.jobs/join/output"), ["1,7,3600,7"]);
    world.done("example").await;
    assert!(
        world
            .read("/out/counts.json")
            .unwrap()
            .starts_with(b"{\n  \"")
    );
    for (at, op) in ops.iter().enumerate() {
        let job = world.ended(&format!("op{at}")).await;
        assert_eq!(job.phase, JobPhase::Done, "{op}: {}", job.message);
    }
    assert_eq!(
        world.lines(&format!("/.jobs/op{}/output", ops.len() - 1)),
        ["X,1,Y", "Z,2,\"Q, R\""]
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_of_the_predecessor_runs() {
    let world = World::start(3, |options| options.chunk_bytes = 4 << 10).await;
    let input: String = (0..4000)
        .map(|n| format!("word{} w{}\n", n % 7, n % 3))
        .collect();
    world.write("/in", input.as_bytes(), 0);
    world.write(
        "/bin/split",
        b"#!/bin/sh\nprintf '%s\\n' \"$1\" | tr ' ' '\\n'\n",
        0,
    );
    world.write(
        "/bin/ones",
        b"#!/bin/sh\nprintf '%s\\n' \"$1\" | sed 's/$/,1/'\n",
        0,
    );
    let text = rainstorm::legacy_spec("/bin/split", "aggregate:/bin/ones", "/in", "/out/words", 3)
        .unwrap();
    world.spec("words.toml", &text, 0);
    world.done("words").await;
    let document: serde_json::Value =
        serde_json::from_slice(&world.read("/out/words").unwrap()).unwrap();
    assert_eq!(document.as_object().unwrap().len(), 10);
    assert_eq!(
        (&document["word0"], &document["w0"]),
        (&572.into(), &1334.into())
    );
    world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wordcount_of_the_readme_counts_words_of_logs_that_grow() {
    const USER: u32 = 1000;
    let world = World::start(3, |_| {}).await;
    let [program] = blocks_of(README, "python")[..] else {
        panic!("other programs than this");
    };
    let [_, spec] = blocks_of(README, "toml")[..] else {
        panic!("other specs than these");
    };
    world.write("/words/words.py", program.as_bytes(), USER);
    world.write("/words/logs/a.log", b"", USER);
    world.spec("wordcount.toml", spec, USER);
    let counted = async |line: &str| {
        let is_there = || {
            let output = world.read("/.jobs/wordcount/output").unwrap_or_default();
            output
                .split(|byte| *byte == b'\n')
                .any(|one| one == line.as_bytes())
        };
        world.soon(line, is_there).await;
    };
    world.extend("/words/logs/a.log", b"to be or not to be\n");
    counted("to,2").await;
    world.write("/words/logs/b.log", b"To whom?\n", USER);
    counted("to,3").await;
    counted("whom,1").await;
    world.check();
}

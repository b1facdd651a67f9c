//! Jobs that compute with columns: through stages and deaths, with lines at fault, changed while they run, and refused.
#![allow(clippy::unwrap_used)]

mod world;

use hydfs_types::JobPhase;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use world::World;

const BILLS: &str = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nformat = \"csv\"\n";

fn stage(name: &str, from: &str, op: &str) -> String {
    format!("[[stage]]\nname = \"{name}\"\nfrom = \"{from}\"\nop = {{ {op} }}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_are_set_are_known_to_later_stages_while_members_die() {
    let world = World::start(3, |options| {
        options.chunk_bytes = 1 << 10;
        options.uncommitted_bytes_max = 4 << 10;
    })
    .await;
    let mut input = String::from("who,price,\"How Many\"\n");
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for n in 0..4_000_u64 {
        let (who, price, many) = (n % 7, n % 13, n % 5);
        input.push_str(&format!("\"w, {who}\",{price}.50,{many}\n"));
        // In halves.
        let total = (2 * price + 1) * many;
        if total > 10 {
            *sums.entry(format!("\"W, {who}\"")).or_default() += total;
        }
    }
    world.write("/in", input.as_bytes(), 0);
    world.knobs.failed_appends.store(5, Relaxed);
    let spec = [
        BILLS.replace("version = 1\n", "version = 1\n[job]\nepoch_ms = 10\n"),
        stage(
            "totals",
            "in",
            "map = { set = { total = \"price * col('How Many')\", who = \"who | upper\" } }",
        ),
        stage(
            "large",
            "totals",
            "filter = { where = \"total > 5 and 'W' in who\" }",
        ),
        stage("sums", "large", "sum = { by = \"who\", of = \"total\" }"),
    ];
    world.spec("sums.toml", &spec.concat(), 0);
    world.kill_until_ended(&["sums"]).await;
    world.done("sums").await;
    let halves = |sum: u64| match sum % 2 {
        0 => (sum / 2).to_string(),
        _ => format!("{}.5", sum / 2),
    };
    let want = sums
        .iter()
        .map(|(who, sum)| format!("{who},{}", halves(*sum)));
    assert_eq!(world.sorted("/.jobs/sums/output"), want.collect::<Vec<_>>());
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_line_without_a_value_fails_the_job_or_is_put_aside() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"n,of\n6,3\n7,0\n\"x, y\",1\n8\n9,4\n", 0);
    let ops = [
        ("set", "map = { set = { each = \"n / of\" } }"),
        ("where", "filter = { where = \"n / of > 2\" }"),
        ("to", "map = { to = \"(n / of) | round(1)\" }"),
    ];
    let want: [&[&str]; 3] = [&["6,3,2", "9,4,2.25"], &["9,4"], &["2", "2.3"]];
    for ((name, op), want) in ops.into_iter().zip(want) {
        let spec = BILLS.to_owned() + &stage("op", "in", op);
        world.spec(&format!("{name}.toml"), &spec, 0);
        let job = world.ended(name).await;
        assert_eq!(job.phase, JobPhase::Failed);
        assert!(
            job.message.contains("7 / 0 divides by zero"),
            "{}",
            job.message
        );
        assert!(job.message.contains("n / of"), "{}", job.message);
        let dead = spec.replace("version = 1\n", "version = 1\n[job]\non_error = \"dead\"\n");
        let name = format!("{name}-dead");
        world.spec(&format!("{name}.toml"), &dead, 0);
        world.done(&name).await;
        assert_eq!(world.lines(&format!("/.jobs/{name}/output")), want);
        let letters = world.lines(&format!("/.jobs/{name}/dead/op"));
        let letters: Vec<serde_json::Value> = letters
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let lines = letters
            .iter()
            .map(|letter| letter["line"].as_str().unwrap());
        assert_eq!(lines.collect::<Vec<_>>(), ["7,0", "\"x, y\",1", "8"]);
        let offsets = letters
            .iter()
            .map(|letter| letter["offset"].as_u64().unwrap());
        assert_eq!(offsets.collect::<Vec<_>>(), [9, 13, 22]);
        let why = letters[2]["why"].as_str().unwrap();
        assert!(why.ends_with("\"\" is not a number"), "{why}");
    }
    world.check();
}

#[tokio::test(start_paused = true)]
async fn an_expression_is_changed_while_its_job_runs() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"5\n20\n", 0);
    let spec = |bound: u64| {
        format!(
            "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\nfollow = true\n{}",
            stage(
                "op",
                "in",
                &format!("filter = {{ where = \"col(1) > {bound}\" }}")
            )
        )
    };
    world.spec("j.toml", &spec(1), 0);
    assert_eq!(world.grown("/.jobs/j/output", 2).await, ["20", "5"]);
    world.spec("j.toml", &spec(10), 0);
    let is_changed = || world.log("j").contains("changed behind");
    world.soon("the change", is_changed).await;
    world.extend("/in", b"6\n30\n");
    assert_eq!(world.grown("/.jobs/j/output", 3).await, ["20", "30", "5"]);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn mistakes_are_told_where_they_stand_before_anything_starts() {
    let world = World::start(1, |_| {}).await;
    world.write("/in", b"Amount,level\n1,x\n", 0);
    let deep = format!("filter = {{ where = \"{}1 > 0\" }}", "(".repeat(900));
    let long = format!("map = {{ to = \"'{}'\" }}", "x".repeat(3_000));
    for (number, (op, why)) in [
        (
            "filter = { where = \"Amuont > 3\" }",
            ":9:27: there is no column `Amuont`; did you mean `Amount`?",
        ),
        (
            "filter = { where = \"level = 'error'\" }",
            ":9:27: not an expression: unexpected input after expression, at `= 'error'`; compare with `==`",
        ),
        (
            "map = { set = { total = \"Amount * 2\", Amount = \"col('No')\" } }",
            ":9:55: there is no column `No`; it may be one of `Amount`, `level`",
        ),
        (
            "filter = { where = \"Amount\" }",
            ":9:27: `Amount` is a value, and `where` needs something true or false",
        ),
        ("map = { to = \"'x' * 1000000000\" }", ":9:21: `'x'` is not a number"),
        ("map = { to = \"range(1000000000)\" }", "there is no function `range`"),
        ("map = { to = \"Amount ** 999999999\" }", "means nothing here"),
        ("map = { to = \"Amount | shout\" }", "there is no `| shout`"),
        (&deep, ":9:27: the expression is nested too deep; use several stages"),
        (&long, ":9:21: the expression has 3002 bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("j{number}");
        let spec = BILLS.to_owned() + &stage("op", "in", op);
        world.spec(&format!("{name}.toml"), &spec, 0);
        let job = world.ended(&name).await;
        assert_eq!(job.phase, JobPhase::Failed, "{op}");
        assert!(job.message.contains(why), "{op}\n{}", job.message);
    }
    world.check();
}

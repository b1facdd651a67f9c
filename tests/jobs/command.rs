//! Executables stored in the file system, and the predecessor's command with both kinds of output.

use crate::desk::{Desk, check_in_order};
use std::collections::BTreeMap;

/// The operators get their lines as the last argument.
const POSTS: &str = "#!/bin/sh\nprintf '%s\\n' \"$1\" | grep Telespar || true\n";
const TAGGED: &str = "#!/bin/sh\nprintf '%s\\n' \"$1\" | sed 's/$/,seen/'\n";
const ONES: &str = "#!/bin/sh\nprintf '%s\\n' \"$1\" | sed 's/^[0-9]*,\\([^,]*\\),.*$/\\1,1/'\n";

#[test]
fn executables_stored_in_the_file_system_work_on_lines() {
    let Some(desk) = Desk::up(3, 20_000) else {
        return;
    };
    let job = desk.upper("upper", 4, 1);
    desk.wait_done(&job);
    desk.check_upper(&job, 4);
    // A changed executable is another one.
    desk.executable("paced", "#!/bin/sh\nexec cat\n");
    let spec = "version = 1\n[[source]]\nname = \"signs\"\npath = \"/data/signs.csv\"\nformat = \"csv\"\n\
                [[stage]]\nname = \"same\"\nfrom = \"signs\"\nop = { exec = { path = \"/bin/paced\", contract = \"batch\" } }\ntasks = 4\n";
    desk.user_spec(2, "same", spec);
    desk.wait_done("same");
    check_in_order(&desk.output("same"), &desk.rows, &desk.csv, 4);
    // Root's programs only where members are told so.
    desk.write_spec(3, "roots", spec);
    let status = desk.wait_status("roots", "failed");
    assert!(
        status.contains("may not run as root") && status.contains("chown"),
        "{status}"
    );
}

#[test]
fn fault_r4_an_operator_that_fails_fails_the_job_with_its_last_words() {
    let Some(desk) = Desk::up(3, 500) else { return };
    desk.executable("breaks", "#!/bin/sh\necho 'no such luck' >&2\nexit 3\n");
    let spec = "version = 1\n[[source]]\nname = \"signs\"\npath = \"/data/signs.csv\"\nformat = \"csv\"\n\
                [[stage]]\nname = \"breaks\"\nfrom = \"signs\"\nop = { exec = { path = \"/bin/breaks\", contract = \"batch\" } }\n";
    desk.user_spec(1, "breaks", spec);
    let status = desk.wait_status("breaks", "failed");
    assert!(
        status.contains("no such luck") && status.contains("/bin/breaks"),
        "{status}"
    );
    assert!(desk.job_file("breaks", "log").contains("no such luck"));
    assert_eq!(
        desk.output("breaks"),
        "",
        "nothing of a failed batch is put out"
    );
}

#[test]
fn fault_r8_the_predecessors_command_transforms_and_aggregates() {
    let Some(desk) = Desk::up_with(3, 20_000, &[("HYDFS_ALLOW_ROOT_JOBS", "true")]) else {
        return;
    };
    for (name, script) in [("posts", POSTS), ("tagged", TAGGED), ("ones", ONES)] {
        desk.executable(name, script);
    }
    let run = |op2: &str, dest: &str| {
        let out = desk.cluster.hydfs(
            2,
            &[
                "rainstorm",
                "--json",
                "/bin/posts",
                op2,
                "/data/signs.csv",
                dest,
                "3",
            ],
        );
        assert!(
            out.status.success(),
            "hydfs rainstorm: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        answer["job"].as_str().expect("the job's name").to_owned()
    };
    let transform = run("/bin/tagged", "/out/transformed");
    desk.wait_done(&transform);
    let posts: Vec<&String> = desk
        .rows
        .iter()
        .filter(|row| row.contains("Telespar"))
        .collect();
    let expected: Vec<String> = posts.iter().map(|row| format!("{row},seen")).collect();
    check_in_order(&desk.read("out/transformed"), &expected, &desk.csv, 3);

    let aggregate = run("aggregate:/bin/ones", "/out/totals");
    desk.wait_done(&aggregate);
    let mut totals = BTreeMap::<String, u64>::new();
    for row in &posts {
        *totals
            .entry(row.split(',').nth(1).expect("a type").to_owned())
            .or_default() += 1;
    }
    let document: BTreeMap<String, u64> =
        serde_json::from_str(&desk.read("out/totals")).expect("one JSON document");
    assert_eq!(document, totals);

    for (tasks, says) in [("0", "use 1 to 64"), ("65", "use 1 to 64"), ("x", "number")] {
        let out = desk.cluster.hydfs(
            1,
            &[
                "rainstorm",
                "/bin/posts",
                "/bin/tagged",
                "/data/signs.csv",
                "/out/never",
                tasks,
            ],
        );
        assert!(
            !out.status.success() && String::from_utf8_lossy(&out.stderr).contains(says),
            "{out:?}"
        );
    }
    assert!(!desk.cluster.at(1, "out/never").exists());
}

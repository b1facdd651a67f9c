//! How answers are printed: lines for a person, or one JSON document with `--json`.

use super::transfer::Moved;
use hydfs_control::{
    Appended, Drain, FileCopies, Liveness, MemberRow, Merged, Status, StoredRow, Suspicion,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// Prints `value` as JSON, or what `text` says.
fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) {
    let out = if json {
        // Our own rows always serialize: they hold no maps with other keys than strings.
        serde_json::to_string_pretty(value).unwrap_or_default()
    } else {
        text()
    };
    let newline = if out.is_empty() || out.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    use std::io::Write;
    // A reader that went away (`| head`) is no failure of the command.
    drop(write!(std::io::stdout(), "{out}{newline}"));
}

/// An upload.
pub fn moved(json: bool, done: &str, hydfs: &str, moved: Moved) {
    let value = json!({ "path": hydfs, "bytes": moved.bytes, "micros": micros(moved.took) });
    show(json, &value, || {
        format!(
            "{done} {hydfs}: {} bytes in {}",
            moved.bytes,
            time(micros(moved.took))
        )
    });
}

/// A download. Standard output carries the file itself where that was asked for.
pub fn got(json: bool, hydfs: &str, local: &Path, moved: Moved) {
    if local == Path::new("-") {
        return;
    }
    let value = json!({ "path": hydfs, "local": local, "bytes": moved.bytes, "micros": micros(moved.took) });
    show(json, &value, || {
        format!(
            "{hydfs} is in {}: {} bytes in {}",
            local.display(),
            moved.bytes,
            time(micros(moved.took))
        )
    });
}

/// A merge.
pub fn merged(json: bool, hydfs: &str, merged: Merged) {
    let value = json!({ "path": hydfs, "size": merged.size, "micros": merged.micros });
    show(json, &value, || {
        format!(
            "merged {hydfs} in {}: {} bytes",
            time(merged.micros),
            merged.size
        )
    });
}

/// Where copies are.
pub fn copies(json: bool, copies: &FileCopies) {
    show(json, copies, || {
        let mut out = format!(
            "{}  ring id {}  {} bytes\n",
            copies.path, copies.ring_id, copies.size
        );
        for segment in &copies.segments {
            line(
                &mut out,
                format_args!(
                    "segment at {} of {} bytes, version {}",
                    segment.start, segment.len, segment.version
                ),
            );
            for replica in &segment.replicas {
                let state = if replica.synced { "synced" } else { "learner" };
                line(
                    &mut out,
                    format_args!(
                        "  {}  ring id {}  {}  version {}  {state}",
                        replica.member, replica.ring_id, replica.addr, replica.version
                    ),
                );
            }
            if segment.replicas.is_empty() {
                line(&mut out, format_args!("  no replica answered"));
            }
        }
        out
    });
}

/// What a member holds.
pub fn store(json: bool, me: Option<&MemberRow>, rows: &[StoredRow]) {
    let value =
        json!({ "member": me.map(|m| &m.name), "ring_id": me.map(|m| &m.ring_id), "files": rows });
    show(json, &value, || {
        let mut out = String::new();
        if let Some(me) = me {
            line(
                &mut out,
                format_args!("member {}  ring id {}", me.name, me.ring_id),
            );
        }
        for row in rows {
            let path = row.path.as_deref().unwrap_or("(unlinked)");
            line(
                &mut out,
                format_args!(
                    "{path}  ring id {}  {} segments  {} bytes",
                    row.ring_id, row.segments, row.bytes
                ),
            );
        }
        out
    });
}

/// The members.
pub fn members(json: bool, rows: &[MemberRow]) {
    show(json, &rows, || {
        let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let mut out = String::new();
        for row in rows {
            let mut marks = String::new();
            for (mark, set) in [
                ("leader", row.leader),
                ("voter", row.voter),
                ("suspected", row.suspected),
            ] {
                if set && row.state != Liveness::Left {
                    marks.push(' ');
                    marks.push_str(mark);
                }
            }
            line(
                &mut out,
                format_args!(
                    "{}  {:width$}  {}  {:5}  incarnation {}{marks}",
                    row.ring_id, row.name, row.addr, row.state, row.incarnation
                ),
            );
        }
        out
    });
}

/// A `multiappend`.
pub fn appended(json: bool, hydfs: &str, rows: &[Appended]) {
    let value = json!({ "path": hydfs, "appends": rows });
    show(json, &value, || {
        let mut out = String::new();
        for row in rows {
            match &row.error {
                None => line(
                    &mut out,
                    format_args!(
                        "{}: {} bytes after {}",
                        row.member,
                        row.bytes,
                        time(row.micros)
                    ),
                ),
                Some(error) => line(&mut out, format_args!("{}: {error}", row.member)),
            }
        }
        out
    });
}

/// A job that was started.
pub fn job(json: bool, name: &str, dest: &str) {
    let value = json!({ "job": name, "status": format!("/.jobs/{name}/status"), "output": dest });
    show(json, &value, || {
        format!(
            "started job {name}: see .jobs/{name}/status below the mount; output goes to {dest}"
        )
    });
}

/// A spec that would start.
pub fn checked(json: bool, path: &str) {
    show(json, &json!({ "spec": path, "ok": true }), || {
        format!("{path} is good: copy it to .jobs below the mount to start it")
    });
}

/// All jobs, as their `status.json` has them.
pub fn jobs(json: bool, jobs: &[Value]) {
    show(json, &jobs, || {
        let mut out = String::new();
        let row = |out: &mut String, cells: [&str; 6]| {
            let [name, status, epoch, attempt, rows_in, rows_out] = cells;
            line(
                out,
                format_args!(
                    "{name:<24} {status:<10} {epoch:>8} {attempt:>8} {rows_in:>12} {rows_out:>12}"
                ),
            );
        };
        row(
            &mut out,
            ["job", "status", "epoch", "attempt", "rows in", "rows out"],
        );
        for job in jobs {
            let number = |key: &str| job[key].to_string();
            let text = |key: &str| job[key].as_str().unwrap_or_default().to_owned();
            let (epoch, attempt) = (number("epoch"), number("attempt"));
            let (rows_in, rows_out) = (number("rows_in"), number("rows_out"));
            let (name, status) = (text("name"), text("status"));
            row(
                &mut out,
                [&name, &status, &epoch, &attempt, &rows_in, &rows_out],
            );
        }
        out
    });
}

/// Everything about one job.
pub fn whole_job(json: bool, status: &Value, text: &str) {
    show(json, status, || text.to_owned());
}

/// A savepoint that is there now; `said` by the job's log.
pub fn savepoint(json: bool, (job, name): (&str, &str), folder: &str, said: &str) {
    let epoch = said.rsplit_once("of job epoch ");
    let epoch = epoch.and_then(|(_, epoch)| epoch.trim_start_matches("je").parse::<u64>().ok());
    let start = format!("{job}/{name}");
    let value =
        json!({ "job": job, "savepoint": name, "path": folder, "start": start, "epoch": epoch });
    show(json, &value, || {
        let of = epoch.map_or_else(String::new, |epoch| format!(", of its job epoch {epoch},"));
        format!(
            "savepoint {name} of job {job}{of} is in {folder}\n\
             a new job begins from it with `start = {{ savepoint = \"{start}\" }}` in [job] of its spec"
        )
    });
}

/// What a job is now.
pub fn job_is(json: bool, status: &Value) {
    show(json, status, || {
        let text = |key: &str| status[key].as_str().unwrap_or_default();
        format!("job {} is {}", text("name"), text("status"))
    });
}

/// A job that holds against its receipt.
pub fn audited(json: bool, name: &str, audited: &Value) {
    show(json, audited, || {
        let number = |key: &str| audited[key].to_string();
        let gone = audited["gone"].as_array().into_iter().flatten();
        let gone: Vec<&str> = gone.filter_map(Value::as_str).collect();
        let mut but = match gone.is_empty() {
            true => String::new(),
            false => format!(
                "; not read again, because it is removed: {} (to audit all, remove nothing before)",
                gone.join(", ")
            ),
        };
        for (path, epoch) in audited["anew"].as_object().into_iter().flatten() {
            but.push_str(&format!(
                "; {path} was removed meanwhile: it holds what was put out from job epoch {epoch} on"
            ));
        }
        format!(
            "job {name} holds: {} job epochs, {} lines ({} bytes) read, {} lines ({} bytes) put out{but}",
            number("epochs"),
            number("lines_in"),
            number("bytes_in"),
            number("lines_out"),
            number("bytes_out")
        )
    });
}

/// A job's log.
pub fn log(json: bool, log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    show(json, &lines, || match log.is_empty() {
        true => "nothing was logged".to_owned(),
        false => log.to_owned(),
    });
}

/// The suspicion mechanism.
pub fn suspicion(json: bool, state: Suspicion) {
    show(json, &state, || {
        format!("suspicion {}", if state.on { "on" } else { "off" })
    });
}

/// How far a member is from being free to go.
pub fn draining(drain: &Drain) -> String {
    let vote = if drain.voter { ", and its vote" } else { "" };
    let time = match drain.millis {
        Some(millis) if drain.bytes > 0 => format!(", about {} s", (millis / 1000).max(1)),
        _ => String::new(),
    };
    format!(
        "{}: {} slots, {} MiB to copy{vote}{time}",
        drain.member,
        drain.slots,
        drain.bytes.div_ceil(1 << 20)
    )
}

/// A drain that is done or was taken back.
pub fn drain(json: bool, drain: &Drain) {
    show(json, drain, || match drain.on {
        true => format!(
            "{} keeps nothing that others lack: stop it, `hydfs leave`, or take it back with `hydfs drain --cancel`",
            drain.member
        ),
        false => format!("{} takes its share again", drain.member),
    });
}

/// A member that left.
pub fn left(json: bool, name: &str) {
    show(json, &json!({ "member": name, "left": true }), || {
        format!("{name} has left the cluster; `hydfs join` brings it back")
    });
}

/// Health.
pub fn status(json: bool, status: &Status) {
    show(json, status, || {
        let leader = status.leader.as_deref().unwrap_or("none");
        format!(
            "member {}, leader {leader}, {} members alive\n{}",
            status.member, status.members_alive, status.text
        )
    });
}

fn line(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.push_str(&words.to_string());
    out.push('\n');
}

fn micros(took: Duration) -> u64 {
    took.as_micros() as u64
}

fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

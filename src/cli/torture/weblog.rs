//! The job that follows a web server's log while members fail: top pages of each minute, sessions of users, what came too
//! late aside. At the end its output has to be what a batch computation makes of the same files, and its audit has to hold.
//!
//! Time in the log runs a hundred times as fast as the clock, so that half an hour without a visit comes often.

use super::{
    check::{self, Found, Kind},
    work::{AFTER_ERROR, JOB, Work},
};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const LINE_PAUSE: Duration = Duration::from_millis(5);
/// Milliseconds in the log between two lines.
const STEP_MS: i64 = 500;
const BEGIN_MS: i64 = 1_700_000_000_000;
/// Lines of one file of the log.
const FILE_LINES: u64 = 4_000;
const MINUTE_MS: i64 = 60_000;
const SESSION_MS: i64 = 30 * MINUTE_MS;
/// Behind the last line of every file comes one so much later: all windows before it close.
const AFTER_MS: i64 = 48 * 60 * MINUTE_MS;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Who visits behind the last line.
const LAST: &str = "last";

/// Input and outputs as lines.
type Lines = Vec<String>;

fn spec(folder: &str) -> String {
    format!(
        r#"version = 1
[[source]]
name = "visits"
path = "/{folder}/visits/*.csv"
format = "csv"
follow = true
time = "time"
time_format = "unix_ms"
out_of_order_ms = 5000
idle_ms = 5000
[[stage]]
name = "pages"
from = "visits"
op = {{ top = {{ by = "page", n = 3, window = {{ tumbling_ms = {MINUTE_MS}, time = "time", time_format = "unix_ms" }} }} }}
tasks = 2
[[stage]]
name = "sessions"
from = "visits"
op = {{ count = {{ by = "user", window = {{ session_ms = {SESSION_MS}, allowed_lateness_ms = 10800000, time = "time", time_format = "unix_ms" }} }} }}
tasks = 2
[[sink]]
from = "pages"
path = "/{folder}/pages"
[[sink]]
from = "sessions"
path = "/{folder}/sessions"
[[sink]]
from = "pages.late"
path = "/{folder}/pages.late"
[[sink]]
from = "sessions.late"
path = "/{folder}/sessions.late"
"#
    )
}

/// Line `n` of the log: most a little out of order, some a minute late.
fn visit(n: u64) -> String {
    let mixed = n.wrapping_mul(6_364_136_223_846_793_005).rotate_left(31);
    let now = BEGIN_MS + n as i64 * STEP_MS;
    let page = mixed % 13 * (mixed % 7) % 29;
    if n % 50 == 7 {
        // Of somebody who is always there: none of his sessions ends between.
        return format!("{},always,/page{page}\n", now - MINUTE_MS);
    }
    // Each user is there for a while, and then away for longer than a session lasts.
    let user = (n / 4_000 * 7 + mixed % 6) % 41;
    let time = now - (mixed >> 8) as i64 % 4_000;
    format!("{time},user{user},/page{page}\n")
}

fn fields(line: &str) -> Option<(i64, &str, &str)> {
    let mut parts = line.split(',');
    let time = parts.next()?.parse().ok()?;
    Some((time, parts.next()?, parts.next()?))
}

/// What is left when each of these lines is taken away once.
fn without(all: &Lines, gone: &Lines) -> Lines {
    let mut left: BTreeMap<&str, u64> = BTreeMap::new();
    for line in gone {
        *left.entry(line).or_default() += 1;
    }
    let stays = |line: &&String| match left.get_mut(line.as_str()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    all.iter().filter(stays).cloned().collect()
}

/// The three best pages of each minute.
fn best_pages(visits: &Lines) -> Lines {
    let mut minutes: BTreeMap<i64, BTreeMap<&str, u64>> = BTreeMap::new();
    for (time, user, page) in visits.iter().filter_map(|line| fields(line)) {
        if user != LAST {
            let minute = minutes.entry(time / MINUTE_MS).or_default();
            *minute.entry(page).or_default() += 1;
        }
    }
    let mut out = Lines::new();
    for (minute, pages) in minutes {
        let mut best: Vec<(&str, u64)> = pages.into_iter().collect();
        best.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let (start, end) = (minute * MINUTE_MS, (minute + 1) * MINUTE_MS);
        let lines = best.iter().take(3);
        out.extend(lines.map(|(page, count)| format!("{start},{end},{page},{count}")));
    }
    out
}

/// Visits of one user with less than half an hour between them.
fn sessions(visits: &Lines) -> Lines {
    let mut users: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (time, user, _) in visits.iter().filter_map(|line| fields(line)) {
        if user != LAST {
            users.entry(user).or_default().push(time);
        }
    }
    let mut out = Lines::new();
    for (user, mut times) in users {
        times.sort_unstable();
        for session in times.chunk_by(|a, b| b - a < SESSION_MS) {
            let end = session[session.len() - 1] + SESSION_MS;
            out.push(format!("{},{end},{user},{}", session[0], session.len()));
        }
    }
    out
}

impl Work {
    /// Writes the log until told to stop, then waits for the job to have put out what it should.
    pub fn weblog(&self) {
        let name = format!("{}-weblog", self.name);
        let mut files = Vec::new();
        // The header of a first file names the job's columns.
        while files.is_empty() && self.goes_on() {
            files.extend(self.begin_file(0));
        }
        if !self.drop_spec(&name, &spec(&self.name)) {
            return;
        }
        self.write_log(&mut files);
        let last = format!("{},{LAST},/\n", self.last_time());
        if let Some(file) = files.iter().find(|file| !self.add(file, &last)) {
            let why = format!("{file} takes no line at the end");
            return self.found(Found::of(Kind::Stuck, why));
        }
        let began = Instant::now();
        let found = loop {
            let found = self.compare(&files);
            if found.is_clean() {
                break found;
            }
            match self.job_status(&name) {
                Some(status) if status != "running" => {
                    break Found::of(Kind::Stuck, format!("{name} is {status}"));
                }
                _ if began.elapsed() > JOB / 2 => break found,
                _ => thread::sleep(LOOK_EVERY),
            }
        };
        self.found(found);
        self.audit(&name, began);
    }

    /// A file of the log, complete with its header before the job can see it.
    fn begin_file(&self, number: u64) -> Option<String> {
        let file = format!("visits/{number}.csv");
        for i in 0..self.nodes.len() {
            let aside = self.at(i, &format!("visits/.{number}"));
            let made = fs::write(&aside, "time,user,page\n")
                .and_then(|()| fs::rename(&aside, self.at(i, &file)));
            if made.is_ok() {
                return Some(file);
            }
            self.failed();
        }
        None
    }

    /// Appends lines, now through this mount and now through that. Where no new file can be made the last one goes on.
    fn write_log(&self, files: &mut Vec<String>) {
        let mut i = 0;
        for n in 1.. {
            if !self.goes_on() {
                return;
            }
            if n % FILE_LINES == 0 {
                files.extend(self.begin_file(n));
            }
            let file = &files[files.len() - 1];
            let wrote = OpenOptions::new()
                .append(true)
                .open(self.at(i, file))
                .and_then(|mut open| open.write(visit(n).as_bytes()));
            if wrote.is_err() {
                // Its fate is unknown: what is in the file at the end counts.
                i = (i + 1) % self.nodes.len();
                self.failed();
            }
            thread::sleep(LINE_PAUSE);
        }
    }

    fn last_time(&self) -> i64 {
        let lines_max = self.began.elapsed().as_millis() / LINE_PAUSE.as_millis();
        BEGIN_MS + AFTER_MS + lines_max as i64 * STEP_MS
    }

    /// Adds a line through whichever mount takes it.
    fn add(&self, file: &str, line: &str) -> bool {
        let began = Instant::now();
        while began.elapsed() < JOB / 4 {
            for i in 0..self.nodes.len() {
                let open = OpenOptions::new().append(true).open(self.at(i, file));
                if open
                    .and_then(|mut open| open.write(line.as_bytes()))
                    .is_ok_and(|len| len == line.len())
                {
                    return true;
                }
            }
            thread::sleep(AFTER_ERROR);
        }
        false
    }

    fn lines(&self, name: &str) -> Option<Lines> {
        let bytes = self.anywhere(name)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some(text.lines().map(str::to_owned).collect())
    }

    fn compare(&self, files: &[String]) -> Found {
        let mut found = Found::default();
        let mut visits = Lines::new();
        for file in files {
            match self.lines(file) {
                Some(lines) => visits.extend(lines.into_iter().skip(1)),
                None => found.add(Kind::Stuck, format!("{file} cannot be read")),
            }
        }
        for (output, batch) in [
            ("pages", best_pages as fn(&Lines) -> Lines),
            ("sessions", sessions),
        ] {
            // Nothing is put out before a first window closes.
            let late = self.lines(&format!("{output}.late")).unwrap_or_default();
            let got = self.lines(output).unwrap_or_default();
            let mut wanted: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for line in batch(&without(&visits, &late)) {
                *wanted.entry((line + "\n").into_bytes()).or_default() += 1;
            }
            let got: String = got.into_iter().map(|line| line + "\n").collect();
            let what = format!("{output} of the web server's log");
            found.merge(check::output(got.as_bytes(), &wanted, &what));
        }
        found
    }

    /// `hydfs job audit`, on the first mount that answers.
    fn audit(&self, name: &str, began: Instant) {
        let mut why = "no mount answered".to_owned();
        while began.elapsed() < JOB {
            for node in self.nodes.iter() {
                let Ok(program) = std::env::current_exe() else {
                    continue;
                };
                let audit = Command::new(program)
                    .args(["job", "audit", name])
                    .current_dir(&node.mount)
                    .env_remove("HYDFS_DATA")
                    .stdin(Stdio::null())
                    .output();
                match audit {
                    Ok(out) if out.status.success() => {
                        self.jobs_done();
                        return;
                    }
                    Ok(out) => why = String::from_utf8_lossy(&out.stderr).trim().to_owned(),
                    Err(error) => why = error.to_string(),
                }
            }
            thread::sleep(LOOK_EVERY);
        }
        self.found(Found::of(
            Kind::Torn,
            format!("{name}: its audit fails: {why}"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Lines {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_batch_computation_knows_minutes_and_sessions() {
        let visits = lines("0,a,/x\n59999,a,/y\n60000,b,/y\n1860000,a,/y\n9000000,last,/");
        assert_eq!(
            best_pages(&visits),
            [
                "0,60000,/x,1",
                "0,60000,/y,1",
                "60000,120000,/y,1",
                "1860000,1920000,/y,1"
            ]
        );
        assert_eq!(
            sessions(&visits),
            ["0,1859999,a,2", "1860000,3660000,a,1", "60000,1860000,b,1"]
        );
        assert_eq!(
            without(&lines("a\nb\na\na"), &lines("a\na\nc")),
            lines("b\na")
        );
    }

    #[test]
    fn the_log_has_late_lines_and_users_who_go_and_return() {
        let visits: Lines = (0..40_000)
            .map(|n| visit(n).trim_end().to_owned())
            .collect();
        let of = |who: &str| {
            sessions(&visits)
                .iter()
                .filter(|line| line.contains(who))
                .count()
        };
        assert_eq!(of(",always,"), 1);
        assert!(sessions(&visits).len() > 60, "{}", sessions(&visits).len());
        assert!(
            best_pages(&visits).len() > 900,
            "{}",
            best_pages(&visits).len()
        );
    }
}

//! Which ended jobs the job table need not remember: without an end to it, a cluster could start only so many jobs in its life.

use crate::driver::Driver;
use crate::prepare::job_name;
use crate::seams::Entry;
use hydfs_types::{FileKind, Ino, JobCommand, JobId, JobInfo, JobPhase};
use std::collections::{BTreeMap, BTreeSet};

/// Above so many jobs (three quarters of what the table takes) those are forgotten, too, of which a folder is left: `status` is then
/// no more in it, and saving the spec again begins anew.
const JOBS_MANY: usize = 3072;
/// Most jobs forgotten in one scan.
const FORGOTTEN_MAX: usize = 16;

fn has_ended(job: &JobInfo) -> bool {
    match job.phase {
        JobPhase::Running | JobPhase::Paused => false,
        JobPhase::Done | JobPhase::Failed | JobPhase::Cancelled => true,
    }
}

/// Ended jobs that have a successor of their name, or of which nothing is left in `/.jobs`; of more than `many` jobs those whose
/// spec is gone, too. Never one whose spec is there as it was: it would run again.
fn needless(jobs: &[JobInfo], entries: &[Entry], many: usize) -> BTreeSet<JobId> {
    let files: BTreeSet<(Ino, u64)> = entries.iter().map(|e| (e.ino, e.generation)).collect();
    let paths: Vec<String> = entries
        .iter()
        .map(|e| format!("/.jobs/{}", e.name))
        .collect();
    let specs: BTreeSet<&str> = paths.iter().filter_map(|p| Some(job_name(p)?.0)).collect();
    let folders = entries.iter().filter(|e| e.kind == FileKind::Directory);
    let folders: BTreeSet<&str> = folders.map(|e| e.name.as_str()).collect();
    let mut last: BTreeMap<&str, JobId> = BTreeMap::new();
    for job in jobs {
        let known = last.entry(&job.name).or_insert(job.id);
        *known = job.id.max(*known);
    }
    let mut found = BTreeSet::new();
    let mut left = Vec::new();
    let ended = jobs.iter().filter(|job| has_ended(job));
    for job in ended.filter(|job| !files.contains(&(job.spec, job.generation))) {
        let name = job.name.as_str();
        if last[name] != job.id || (!specs.contains(name) && !folders.contains(name)) {
            found.insert(job.id);
        } else if !specs.contains(name) {
            left.push(job);
        }
    }
    // Those that nobody can go on with go first, then the oldest.
    left.sort_unstable_by_key(|job| (job.phase != JobPhase::Done, job.id));
    let over = (jobs.len() - found.len()).saturating_sub(many);
    found.extend(left.iter().take(over).map(|job| job.id));
    found
}

/// Forgets jobs that nobody needed at this scan and the one before (editors replace files: once is no sign). Returns those that
/// nobody needs now.
pub async fn needless_jobs(
    driver: &Driver,
    entries: &[Entry],
    before: &BTreeSet<JobId>,
) -> BTreeSet<JobId> {
    let now = needless(&driver.cluster.jobs(), entries, JOBS_MANY);
    for &job in now.intersection(before).take(FORGOTTEN_MAX) {
        match driver.cluster.propose(JobCommand::Forget { job }).await {
            Ok(_) => tracing::info!(%job, "an ended job is forgotten"),
            // It goes on again, is forgotten already, or the next scan tries once more.
            Err(error) => tracing::debug!(%job, %error, "an ended job is not forgotten yet"),
        }
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydfs_types::{Attempt, JobEpoch, Time};

    fn job(id: u64, name: &str, spec: u64, phase: JobPhase) -> JobInfo {
        JobInfo {
            id: JobId(id),
            name: name.to_owned(),
            spec: Ino(spec),
            generation: 7,
            uid: 0,
            gid: 0,
            phase,
            message: String::new(),
            attempt: Attempt(1),
            epoch: JobEpoch(0),
            positions: Vec::new(),
            progress: Vec::new(),
            started: Time::default(),
            changed: Time::default(),
        }
    }

    fn entry(name: &str, ino: u64, kind: FileKind) -> Entry {
        Entry {
            name: name.to_owned(),
            is_text: true,
            ino: Ino(ino),
            kind,
            generation: 7,
            size: 1,
            uid: 0,
            gid: 0,
            busy: false,
        }
    }

    #[test]
    fn what_would_run_again_or_may_go_on_is_remembered() {
        use JobPhase::{Cancelled, Done, Failed, Running};
        let jobs = [
            job(1, "twice", 11, Done),
            job(2, "twice", 12, Done),
            job(3, "other name", 13, Done),
            job(4, "other name", 14, Running),
            job(5, "nothing left", 15, Failed),
            job(6, "folder left", 16, Cancelled),
            job(7, "folder too", 17, Done),
            job(8, "new spec", 18, Done),
        ];
        let entries = [
            entry("twice.toml", 12, FileKind::Regular),
            entry("twice", 92, FileKind::Directory),
            // The first spec of that name was renamed: it is there as it was.
            entry("third.toml", 13, FileKind::Regular),
            entry("other name.json", 14, FileKind::Regular),
            entry("folder left", 96, FileKind::Directory),
            entry("folder too", 97, FileKind::Directory),
            entry("new spec.toml", 88, FileKind::Regular),
        ];
        let ids = |many| -> Vec<u64> {
            let found = needless(&jobs, &entries, many);
            found.into_iter().map(|id| id.0).collect()
        };
        assert_eq!(ids(100), [1, 5]);
        assert_eq!(ids(6), [1, 5]);
        assert_eq!(ids(5), [1, 5, 7]);
        assert_eq!(ids(0), [1, 5, 6, 7]);
    }
}

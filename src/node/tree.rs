//! The tree below `.cluster`, from the local state: a file of it costs no round.

use crate::{
    member::Member,
    metrics::metrics,
    status::{leading, liveness, status},
};
use bytes::Bytes;
use hydfs_fs::{Control, Lines, Node};
use hydfs_mount::FsError;
use hydfs_ring::Ring;
use hydfs_state::State;
use hydfs_types::{Incarnation, JobInfo, MemberInfo};
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Weak},
};

/// The control tree of a mount.
pub struct Tree(Weak<Member>);

impl Tree {
    pub fn new(member: &Arc<Member>) -> Arc<Self> {
        Arc::new(Self(Arc::downgrade(member)))
    }
}

impl Control for Tree {
    fn node(&self, path: &str) -> Option<Node> {
        let member = self.0.upgrade()?;
        let parts: Vec<&str> = path.split('/').collect();
        let text = match parts[..] {
            ["cluster"] => {
                let files = [
                    "errors", "events", "jobs", "leader", "members", "metrics", "ring", "status",
                ];
                let mut names: Vec<(String, bool)> = files
                    .iter()
                    .map(|name| ((*name).to_owned(), false))
                    .collect();
                names.push(("member".to_owned(), true));
                if member.faults.is_some() {
                    names.push(("faults".to_owned(), true));
                }
                return Some(Node::Directory(names));
            }
            ["cluster", "member"] => {
                let state = member.ctx.state();
                return Some(Node::Directory(
                    state
                        .cluster
                        .members
                        .values()
                        .map(|one| (one.said.name.clone(), true))
                        .collect(),
                ));
            }
            ["cluster", "member", name] => {
                member.ctx.state().member_named(name)?;
                return Some(Node::Directory(vec![
                    ("info".to_owned(), false),
                    ("why".to_owned(), false),
                ]));
            }
            ["cluster", "member", name, "info"] => info(&member, name)?,
            ["cluster", "member", name, "why"] => why(&member, name)?,
            ["cluster", "faults"] => {
                // There also where none may be made: making one says why.
                let faults = member.faults.as_ref();
                let names = faults.map(|faults| faults.names()).unwrap_or_default();
                return Some(Node::Directory(
                    names.into_iter().map(|name| (name, false)).collect(),
                ));
            }
            ["cluster", "faults", name] => member.faults.as_ref()?.text(name)?,
            ["cluster", "errors"] => member.volume.failures_text(),
            ["cluster", "events"] => return Some(Node::File(member.events.whole().into())),
            ["cluster", "leader"] => leader(&member),
            ["cluster", "members"] => members(&member.ctx.state()),
            ["cluster", "metrics"] => metrics(&member),
            ["cluster", "ring"] => ring(&member.ctx.state()),
            ["cluster", "status"] => status(&member).1,
            ["cluster", "jobs"] => {
                let state = member.ctx.state();
                state.jobs.values().map(rainstorm::job_json).collect()
            }
            ["jobs", name, what @ ("status" | "progress" | "status.json")] => {
                let state = member.ctx.state();
                let job = job_named(&state, name)?;
                match what {
                    "status" => rainstorm::status_text(job),
                    "status.json" => {
                        viewed(&member, &state, |view| rainstorm::status_json(job, view))
                    }
                    _ => viewed(&member, &state, |view| rainstorm::progress_text(job, view)),
                }
            }
            _ => return None,
        };
        Some(Node::File(Bytes::from(text)))
    }

    fn lines(&self, path: &str) -> Option<Arc<Lines>> {
        let member = self.0.upgrade().filter(|_| path == "cluster/events")?;
        Some(member.events.clone())
    }

    fn put(&self, path: &str, text: &[u8]) -> Result<(), FsError> {
        let (member, name) = self.fault_at(path)?;
        let faults = member.faults.as_ref().ok_or_else(no_faults)?;
        faults.put(name, text, |name| {
            member.ctx.state().member_named(name).is_some()
        })
    }

    fn remove(&self, path: &str) -> Result<(), FsError> {
        let (member, name) = self.fault_at(path)?;
        member.faults.as_ref().ok_or_else(no_faults)?.remove(name)
    }
}

impl Tree {
    /// The name of the fault that a path means: nothing else below `.cluster` can be written.
    fn fault_at<'a>(&self, path: &'a str) -> Result<(Arc<Member>, &'a str), FsError> {
        let name = path
            .strip_prefix("cluster/faults/")
            .filter(|name| !name.contains('/'))
            .ok_or_else(hydfs_fs::read_only)?;
        let member = self.0.upgrade().ok_or(FsError::NotFound)?;
        Ok((member, name))
    }
}

/// The last job of a name.
fn job_named<'a>(state: &'a State, name: &str) -> Option<&'a JobInfo> {
    state.jobs.values().rev().find(|job| job.name == name)
}

/// What `look` sees of jobs, now.
fn viewed<T>(member: &Member, state: &State, look: impl FnOnce(&rainstorm::View) -> T) -> T {
    let name = |id| Some(state.cluster.members.get(&id)?.said.name.clone());
    look(&rainstorm::View {
        now: member.clock.now(),
        name: &name,
    })
}

fn no_faults() -> FsError {
    FsError::NotPermitted(
        "faults may be injected only where a member runs with --allow-faults".into(),
    )
}

/// `NAME ADDR STATE INCARNATION` a line.
fn members(state: &State) -> String {
    state
        .cluster
        .members
        .values()
        .fold(String::new(), |mut text, one| {
            writeln!(
                text,
                "{} {} {} {}",
                one.said.name,
                one.said.addr,
                liveness(one),
                one.incarnation.0
            )
            .expect("text in memory");
            text
        })
}

fn leader(member: &Member) -> String {
    match leading(member, &member.ctx.state()) {
        Some(one) => format!("{} {}\n", one.said.name, one.said.addr),
        None => "none\n".to_owned(),
    }
}

fn info(member: &Member, name: &str) -> Option<String> {
    let state = member.ctx.state();
    let one = state.member_named(name)?;
    Some(format!(
        "name = {}\naddress = {}\nstate = {}\nid = {}\nincarnation = {}\nring_id = {:016x}\nzone = {}\nweight = {}\nstarts = {}\nfull = {}\n",
        one.said.name,
        one.said.addr,
        liveness(one),
        one.id.0,
        one.incarnation.0,
        Ring::position(&one.said.name),
        one.said.zone,
        one.said.weight,
        one.said.start_count,
        one.full,
    ))
}

/// What this member has seen of another one, and on what evidence.
fn why(member: &Member, name: &str) -> Option<String> {
    if name == member.config.name {
        return Some("this member itself\n".to_owned());
    }
    let seen = member
        .swim
        .get()?
        .view()
        .into_iter()
        .find(|seen| seen.name == name)?;
    Some(format!(
        "{:?} for {:.1} s: {}\n",
        seen.state,
        seen.age.as_secs_f64(),
        seen.evidence
    ))
}

/// Members by ring id, with the slots they keep and lead, as agreed.
fn ring(state: &State) -> String {
    let mut kept: BTreeMap<Incarnation, (u32, u32, u32)> = BTreeMap::new();
    for config in state.cluster.slots.values() {
        for acting in &config.acting {
            let row = kept.entry(acting.incarnation).or_default();
            if acting.synced {
                row.0 += 1
            } else {
                row.1 += 1
            }
        }
        kept.entry(config.leader).or_default().2 += 1;
    }
    let mut rows: Vec<(u64, &MemberInfo)> = state
        .cluster
        .members
        .values()
        .map(|one| (Ring::position(&one.said.name), one))
        .collect();
    rows.sort_by_key(|(position, _)| *position);
    let mut text = String::from("# ring_id name state slots_synced slots_learning slots_led\n");
    for (position, one) in rows {
        let (synced, learning, led) = kept.get(&one.incarnation).copied().unwrap_or_default();
        writeln!(
            text,
            "{position:016x} {} {} {synced} {learning} {led}",
            one.said.name,
            liveness(one)
        )
        .expect("text in memory");
    }
    text
}

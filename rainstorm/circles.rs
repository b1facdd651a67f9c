//! Circles through several jobs: a followed source of the one reads what the other writes, and that goes on to where it came
//! from. Each line would go round for ever, so whoever would close such a circle is refused.

use crate::ends::{self, Target};
use crate::error::{Error, Result};
use crate::position::Positions;
use crate::seams::{Cluster, Owner, Storage};
use crate::spec::{SPEC_BYTES_MAX, SourceSpec, Spec};
use crate::spec_tree::Fault;
use hydfs_types::{JobInfo, JobPhase};

/// A job as far as circles go.
struct Node {
    name: String,
    sources: Vec<SourceSpec>,
    targets: Vec<Target>,
}

impl Node {
    fn new(name: &str, spec: &Spec) -> Self {
        Self {
            name: name.to_owned(),
            sources: spec.sources.iter().filter(|s| s.follow).cloned().collect(),
            targets: ends::targets(spec, name),
        }
    }

    /// A source that reads what `other` writes, and that.
    fn reads<'a>(&'a self, other: &'a Self) -> Option<(&'a SourceSpec, &'a Target)> {
        let all = self.sources.iter();
        let mut all = all.flat_map(|source| other.targets.iter().map(move |to| (source, to)));
        all.find(|(source, target)| target.is_read_by(&source.path))
    }
}

/// A fault if a job of this name and spec would read what comes of its own output, by way of jobs that have not ended.
pub async fn check(
    storage: &dyn Storage,
    cluster: &dyn Cluster,
    name: &str,
    spec: &Spec,
) -> Result<Option<Fault>> {
    if !spec.sources.iter().any(|source| source.follow) {
        return Ok(None);
    }
    let mut others = Vec::new();
    for job in cluster.jobs() {
        let is_active = matches!(job.phase, JobPhase::Running | JobPhase::Paused);
        if !is_active || job.name == name {
            continue;
        }
        if let Some(spec) = spec_of(storage, &job).await? {
            others.push(Node::new(&job.name, &spec));
        }
    }
    Ok(circle(&Node::new(name, spec), &others))
}

/// The same of positions that a job would begin with, as an error at its place in the spec.
pub async fn located(
    storage: &dyn Storage,
    cluster: &dyn Cluster,
    (path, name): (&str, &str),
    positions: &Positions,
) -> Result<()> {
    let of_text = |fault: Fault| Error::Spec(fault.located(path, &positions.spec));
    let spec = positions.parse().map_err(of_text)?;
    let fault = check(storage, cluster, name, &spec).await?;
    fault.map_or(Ok(()), |fault| Err(of_text(fault)))
}

/// The spec of a job; `None` if nobody knows it any more.
async fn spec_of(storage: &dyn Storage, job: &JobInfo) -> Result<Option<Spec>> {
    if !job.positions.is_empty() {
        let positions = Positions::decode(&job.positions).ok();
        return Ok(positions.and_then(|positions| positions.parse().ok()));
    }
    // It has committed nothing: its spec is the one that was saved.
    for ending in ["toml", "json"] {
        let path = format!("/.jobs/{}.{ending}", job.name);
        match storage.read_small(&path, Owner::ROOT, SPEC_BYTES_MAX).await {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                return Ok(Spec::parse(&text, ending == "json").ok());
            }
            Err(error) if error.is_temporary() => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(None)
}

fn circle(new: &Node, others: &[Node]) -> Option<Fault> {
    // For each job that the new one reads of, by way of others perhaps: whose reader it is.
    let mut found: Vec<(&Node, Option<usize>)> = vec![(new, None)];
    let mut at = 0;
    while at < found.len() {
        let (reader, _) = found[at];
        if at > 0 && reader.reads(new).is_some() {
            let mut way = vec![new, reader];
            let mut of = found[at].1;
            while let Some(before) = of {
                way.push(found[before].0);
                of = found[before].1;
            }
            way.reverse();
            return fault(&way);
        }
        for other in others {
            let is_known = found.iter().any(|(node, _)| node.name == other.name);
            if !is_known && reader.reads(other).is_some() {
                found.push((other, Some(at)));
            }
        }
        at += 1;
    }
    None
}

/// `way` begins and ends with the new job, and each reads what the next one writes.
fn fault(way: &[&Node]) -> Option<Fault> {
    let mut words = Vec::new();
    for (reader, writer) in way.iter().zip(&way[1..]) {
        let (source, target) = reader.reads(writer)?;
        let (path, from) = (&target.path, &source.path);
        words.push(match words.is_empty() {
            true => format!("`{from}` would read {path} of job {}", writer.name),
            false => format!("which reads {path} of job {}", writer.name),
        });
    }
    let at = way[0].reads(way[1])?.0.at;
    let what = format!("{}: lines would go round for ever", words.join(", "));
    Some(Fault::new(at, what, "write or read somewhere else"))
}

//! Positions as the first version wrote them: a task had one share of its source, and no state but its own. Read, never
//! written.

use crate::plan::{Input, Pinned, Plan};
use crate::position::{FilePosition, Positions, Share, StateFile, TaskPosition};
use crate::rate::RateOrder;
use crate::spec::Spec;
use hydfs_types::FrameError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
struct Earlier {
    spec: String,
    json: bool,
    sources: Vec<Pinned>,
    chunk_bytes: u32,
    tasks: Vec<Vec<Task>>,
    /// What is older still ends before it.
    rate: Option<RateOrder>,
}

#[derive(Serialize, Deserialize)]
struct Task {
    chunk: u64,
    ended: bool,
    state: Option<StateFile>,
    /// Of a pinned source: where its chunk goes on.
    files: Vec<FilePosition>,
}

/// Reads them.
pub fn decode(bytes: &[u8]) -> Result<Positions, FrameError> {
    // The byte behind the end stands for no rate.
    let earlier: Earlier = hydfs_types::decode(&[bytes, &[0]].concat())?;
    let broken = |fault: crate::spec_tree::Fault| FrameError::Malformed(fault.what);
    let spec = Spec::parse(&earlier.spec, earlier.json).map_err(broken)?;
    let plan = Plan::resolve(&spec, "earlier", &earlier.sources).map_err(broken)?;
    let mut tasks = Vec::new();
    for (step, of_node) in plan.steps.iter().zip(earlier.tasks) {
        let whole = matches!(step.input, Input::Source(at) if !plan.sources[at].follow);
        let position = |(number, task): (u32, Task)| TaskPosition {
            ended: task.ended,
            shares: match whole {
                true => vec![Share {
                    next: task.chunk.max(number.into()),
                    at: task.files.first().map_or(0, |file| file.at),
                    ..Share::of_task(number, step.tasks)
                }],
                false => Vec::new(),
            },
            files: if whole { Vec::new() } else { task.files },
            state: task.state,
            inherits: Vec::new(),
        };
        tasks.push((0..).zip(of_node).map(position).collect());
    }
    Ok(Positions {
        spec: earlier.spec,
        json: earlier.json,
        sources: earlier.sources,
        chunk_bytes: earlier.chunk_bytes,
        tasks,
        rate: earlier.rate,
        counts: BTreeMap::new(),
        border: None,
        scaled: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydfs_types::{Attempt, Ino};

    #[test]
    fn positions_of_earlier_versions_are_read() {
        let spec = "version = 1\n[[source]]\nname = \"in\"\npath = \"/in\"\n\
             [[stage]]\nname = \"n\"\nfrom = \"in\"\nop = { count = { by = 1 } }\ntasks = 2\n";
        let task = |chunk, at: u64, state| Task {
            chunk,
            ended: false,
            state,
            files: (at > 0)
                .then_some(FilePosition {
                    ino: Ino(5),
                    generation: 1,
                    at,
                })
                .into_iter()
                .collect(),
        };
        let state = StateFile {
            attempt: Attempt(2),
            number: 1,
            bytes: 70,
        };
        let earlier = Earlier {
            spec: spec.to_owned(),
            json: false,
            sources: vec![Pinned {
                files: Vec::new(),
                columns: None,
            }],
            chunk_bytes: 64,
            tasks: vec![
                vec![task(4, 300, None), task(0, 0, None)],
                vec![task(0, 0, Some(state)), task(0, 0, None)],
            ],
            rate: Some(RateOrder::Lines(7)),
        };
        let read = Positions::decode(&hydfs_types::encode(&earlier)).unwrap();
        let shares = |task: usize| read.tasks[0][task].shares[0];
        assert_eq!((shares(0).next, shares(0).step, shares(0).at), (4, 2, 300));
        assert_eq!((shares(1).next, shares(1).step, shares(1).at), (1, 2, 0));
        assert_eq!(read.tasks[1][0].state, Some(state));
        assert_eq!(read.rate, Some(RateOrder::Lines(7)));
        // Written anew it is of this version; the one in between had no end.
        let bytes = read.encode();
        assert_eq!(Positions::decode(&bytes).unwrap(), read);
        let mut between = bytes[..bytes.len() - 1].to_vec();
        between[3] = 2;
        assert_eq!(Positions::decode(&between).unwrap(), read);
    }
}

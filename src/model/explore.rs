//! Looks at all states, or at as many as time and memory allow.

use crate::{Config, Slot, model::GOAL};
use stateright::{Checker, HasDiscoveries, Model};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Between two looks at clock and memory.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of a page, as `/proc` counts memory.
const PAGE_BYTES: u64 = 4096;

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub time: Duration,
    /// Bytes of memory of the process.
    pub memory_bytes: u64,
    pub threads: usize,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// States that differ.
    pub states: usize,
    /// Steps from one state to another.
    pub steps: usize,
    /// Length of the longest of the shortest ways to a state.
    pub depth: usize,
    /// All states were looked at.
    pub exhausted: bool,
    /// The state that a configuration is about was met.
    pub goal: bool,
    /// Invariants that do not hold, with the steps that lead there.
    pub broken: Vec<(&'static str, Vec<String>)>,
    pub took: Duration,
    pub memory_bytes: u64,
}

fn memory_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages
        .as_deref()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    resident.unwrap_or_default() * PAGE_BYTES
}

/// Tries every order of events within the bounds.
pub fn explore(config: Config, bounds: Bounds) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let watch = thread::spawn({
        let (stop, over) = (stop.clone(), over.clone());
        move || {
            let mut peak = 0;
            while !over.load(Ordering::Relaxed) {
                let used = memory_bytes();
                peak = used.max(peak);
                if began.elapsed() >= bounds.time || used >= bounds.memory_bytes {
                    stop.store(true, Ordering::Relaxed);
                }
                thread::sleep(LOOK);
            }
            peak
        }
    });
    let slot = Slot {
        config,
        stop: stop.clone(),
    };
    let checker = slot
        .checker()
        .threads(bounds.threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    over.store(true, Ordering::Relaxed);
    let peak = watch.join().unwrap_or_default();
    let mut outcome = Outcome {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        exhausted: !stop.load(Ordering::Relaxed),
        goal: false,
        broken: Vec::new(),
        took: began.elapsed(),
        memory_bytes: peak,
    };
    // The way there is walked once more, for which nothing may stop it.
    stop.store(false, Ordering::Relaxed);
    for (name, path) in checker.discoveries() {
        if name == GOAL {
            outcome.goal = true;
        } else {
            let steps = path.into_actions();
            let steps = steps.into_iter().map(|step| format!("{step:?}"));
            outcome.broken.push((name, steps.collect()));
        }
    }
    outcome.exhausted &= outcome.broken.is_empty();
    outcome
}

//! Who makes members fail: one fault after the other, drawn from the list by the seed, each ended again and waited for, so
//! that never more fails at once than three copies bear.

use super::{
    check::{Found, Kind},
    cluster::Node,
    work::Work,
};
use clap::ValueEnum;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

/// From one fault's end to the next one, and how long a fault lasts: milliseconds.
const GAP_MS: std::ops::Range<u64> = 1000..4000;
const FAULT_MS: std::ops::Range<u64> = 2000..8000;
/// Longest until all is well after a fault. What lasts longer is told.
const WELL: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// Name of the fault that is injected through `.cluster/faults`.
const FAULT: &str = "torture";

/// What can be done to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Killed (SIGKILL) and started again
    Kill,
    /// Stopped cleanly and started again
    Restart,
    /// All its processes stand still for a while (SIGSTOP)
    Pause,
    /// Nothing goes between it and the others
    Cut,
    /// Half of what it sends is lost
    Loss,
    /// What it sends comes later
    Delay,
    /// Its disk is full
    Fill,
    /// Each sync of its disk takes longer
    Slow,
    /// A bit of one of its copies flips
    Flip,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::Restart,
        Self::Pause,
        Self::Cut,
        Self::Loss,
        Self::Delay,
        Self::Fill,
        Self::Slow,
        Self::Flip,
    ];

    /// The line for `.cluster/faults`, for those that are injected so.
    fn line(self, millis: u64) -> Option<String> {
        let what = match self {
            Self::Cut => "cut with=all",
            Self::Loss => "loss=50% to=all",
            Self::Delay => "delay=150ms to=all",
            Self::Fill => "disk=full",
            Self::Slow => "disk=slow:200ms",
            Self::Kill | Self::Restart | Self::Pause | Self::Flip => return None,
        };
        Some(format!("{what} for={millis}ms\n"))
    }
}

/// What was done, and what of it went wrong.
#[derive(Default)]
pub struct Done {
    pub faults: BTreeMap<Fault, u64>,
    /// Bytes repaired by members that were ended: their counters went with them.
    pub repaired: u64,
    pub found: Found,
}

/// Bytes that a member repaired since it started.
pub fn repaired(node: &Node) -> u64 {
    node.metric("hydfs_data_repaired_bytes_total") + node.metric("hydfs_scrub_healed_bytes_total")
}

/// Makes members fail until `until`. `ours`: members can be killed, paused and started.
pub fn run(work: &Work, faults: &[Fault], ours: bool, seed: u64, until: Instant) -> Done {
    let mut draw = StdRng::seed_from_u64(seed);
    let mut done = Done::default();
    let usable: Vec<Fault> = faults
        .iter()
        .copied()
        .filter(|fault| ours || fault.line(1).is_some())
        .collect();
    // Bits flip on one member only: its copies are then the only ones that are not good.
    let decaying = draw.random_range(0..work.nodes.len());
    let mut refused = 0;
    loop {
        let gap = Duration::from_millis(draw.random_range(GAP_MS));
        thread::sleep(gap.min(until.saturating_duration_since(Instant::now())));
        if Instant::now() >= until || usable.is_empty() || refused > 3 {
            thread::sleep(until.saturating_duration_since(Instant::now()));
            return done;
        }
        let fault = usable[draw.random_range(0..usable.len())];
        let i = match fault {
            Fault::Flip => decaying,
            _ => draw.random_range(0..work.nodes.len()),
        };
        let millis = draw.random_range(FAULT_MS);
        // Of five members two may fail at once.
        let both = fault == Fault::Kill && work.nodes.len() >= 5 && draw.random_range(0..4) == 0;
        let mut victims = vec![i];
        if both {
            victims.push((i + 1) % work.nodes.len());
        }
        let place = draw.random();
        for i in &victims {
            work.down[*i].fetch_add(1, Ordering::AcqRel);
        }
        let outcome = strike(work, fault, &victims, millis, place, &mut done);
        for i in &victims {
            work.down[*i].fetch_add(1, Ordering::AcqRel);
        }
        match outcome {
            Ok(()) => {
                *done.faults.entry(fault).or_default() += 1;
                refused = 0;
            }
            Err(why) => {
                refused += 1;
                eprintln!("{fault:?} of {}: {why}", work.nodes[i].name);
            }
        }
        if let Err(why) = well_again(work) {
            done.found
                .add(Kind::Stuck, format!("after {fault:?}: {why}"));
            return done;
        }
    }
}

/// Does it and undoes it.
fn strike(
    work: &Work,
    fault: Fault,
    victims: &[usize],
    millis: u64,
    place: u64,
    done: &mut Done,
) -> Result<(), String> {
    let nodes: Vec<&Node> = victims.iter().map(|i| &work.nodes[*i]).collect();
    let wait = || thread::sleep(Duration::from_millis(millis));
    let start = |node: &&Node| node.start().map_err(|error| error.to_string());
    if matches!(fault, Fault::Kill | Fault::Restart) {
        done.repaired += nodes.iter().map(|node| repaired(node)).sum::<u64>();
    }
    match fault {
        Fault::Kill => {
            nodes.iter().for_each(|node| node.kill());
            wait();
            nodes.iter().try_for_each(start)
        }
        Fault::Restart => {
            nodes.iter().for_each(|node| node.stop());
            nodes.iter().try_for_each(start)
        }
        Fault::Pause => {
            nodes.iter().for_each(|node| node.pause());
            wait();
            nodes.iter().for_each(|node| node.resume());
            Ok(())
        }
        Fault::Flip => {
            let data = nodes[0].data().ok_or("its folder is not here")?;
            flip(data, place).map_err(|error| error.to_string())
        }
        injected => {
            let line = injected.line(millis).ok_or("it cannot be injected")?;
            nodes[0]
                .inject(FAULT, &line)
                .map_err(|error| format!("{line:?} was refused: {error}"))?;
            wait();
            Ok(())
        }
    }
}

/// Flips one bit of one base.
fn flip(data: &Path, place: u64) -> std::io::Result<()> {
    let mut bases: Vec<PathBuf> = Vec::new();
    for folder in fs::read_dir(data.join("base"))?.flatten() {
        // Its `tmp` holds what is being pulled.
        if folder.file_name().len() == 2 {
            let files = fs::read_dir(folder.path())?
                .flatten()
                .map(|file| file.path());
            bases.extend(files.filter(|path| path.extension().is_none()));
        }
    }
    bases.sort();
    bases.retain(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0));
    if bases.is_empty() {
        return Err(std::io::Error::other("it has no copies yet"));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&bases[place as usize % bases.len()])?;
    let at = (place >> 20) % file.metadata()?.len().max(1);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ (1 << (place >> 17 & 7))], at)
}

/// Waits until every member says that all is well.
fn well_again(work: &Work) -> Result<(), String> {
    let until = Instant::now() + WELL;
    loop {
        let unwell = work.nodes.iter().find_map(|node| {
            let why = node.trouble()?;
            Some(format!("{} is not well: {why}", node.name))
        });
        match unwell {
            None => return Ok(()),
            Some(why) if Instant::now() > until => {
                return Err(format!("{why}, {} s later", WELL.as_secs()));
            }
            Some(_) => thread::sleep(POLL),
        }
    }
}

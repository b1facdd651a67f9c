//! `hydfs torture`: a cluster under load whose members fail, and at the end a verdict on every promise. It uses the mounts
//! alone, as any application would. The seed draws faults and contents; when processes run is the machine's.

mod check;
mod cluster;
mod nemesis;
mod verdict;
mod weblog;
mod work;

use super::failure::Failure;
use check::{Found, Kind};
use cluster::Cluster;
use nemesis::Fault;
use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};
use verdict::Verdict;
use work::Work;

/// Exit code where a promise was broken.
const BROKEN: u8 = 1;
/// Exit code where the torture could not be run.
const NOT_RUN: u8 = 2;
/// A call that has not returned this long after the end hangs: the deadline of one call and some more.
const HANG: Duration = Duration::from_secs(90);
/// Until all is well before the verdict.
const WELL: Duration = Duration::from_secs(120);
/// Members that can be started.
const MEMBERS: std::ops::RangeInclusive<i64> = 1..=20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Minutes of load and faults; fractions are allowed
    #[arg(long, value_name = "M", default_value_t = 1.0)]
    minutes: f64,
    /// Members to start, in a temporary folder
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(MEMBERS))]
    members: u8,
    /// Use what is mounted at these folders instead: nothing is killed, and faults are injected only where members allow them
    #[arg(long, value_name = "DIR", num_args = 1.., value_delimiter = ',', conflicts_with = "members")]
    mounts: Vec<PathBuf>,
    /// What members suffer; all of it if not given, `none` for load alone
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    faults: Vec<Wish>,
    /// Draws faults and contents [default: from the clock; it is printed]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Folder for the members' data and logs, made and removed here; kept where a promise was broken [default: below TMPDIR]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A fault, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    Fault(Fault),
}

impl clap::ValueEnum for Wish {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::None,
            Self::Fault(Fault::Kill),
            Self::Fault(Fault::Restart),
            Self::Fault(Fault::Pause),
            Self::Fault(Fault::Cut),
            Self::Fault(Fault::Loss),
            Self::Fault(Fault::Delay),
            Self::Fault(Fault::Fill),
            Self::Fault(Fault::Slow),
            Self::Fault(Fault::Flip),
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::None => Some(clap::builder::PossibleValue::new("none").help("No faults at all")),
            Self::Fault(fault) => fault.to_possible_value(),
        }
    }
}

/// Exit code 0: every promise held; 1: one was broken; 2 (as an error): it could not be run.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let not_run = |failure: Failure| Failure::new(failure.to_string()).code(NOT_RUN);
    if !(args.minutes > 0.0 && args.minutes <= 60.0 * 24.0 * 30.0) {
        let why = format!("--minutes {} is not between 0 and a month", args.minutes);
        return Err(Failure::new(why).code(NOT_RUN));
    }
    let seed = args.seed.unwrap_or_else(clock);
    let cluster = if args.mounts.is_empty() {
        let folder = args.folder.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("hydfs-torture-{}", std::process::id()))
        });
        eprintln!("starting {} members in {}", args.members, folder.display());
        Cluster::start(folder, usize::from(args.members)).map_err(not_run)?
    } else {
        Cluster::mounted(args.mounts.clone()).map_err(not_run)?
    };
    let mut verdict = torture(&cluster, args, seed).map_err(not_run)?;
    verdict.seed = seed;
    let clean = verdict.is_clean();
    if let Some(kept) = cluster.end(!clean) {
        eprintln!("data and logs are kept in {}", kept.display());
    }
    let text = if args.json {
        serde_json::to_string_pretty(&verdict).unwrap_or_default() + "\n"
    } else {
        verdict.text()
    };
    use std::io::Write;
    // A reader that went away (`| head`) is no failure of the command.
    drop(write!(std::io::stdout(), "{text}"));
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(BROKEN)
    })
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_millis() as u64)
}

fn wanted(wishes: &[Wish]) -> Vec<Fault> {
    if wishes.is_empty() {
        return Fault::ALL.to_vec();
    }
    wishes
        .iter()
        .filter_map(|wish| match wish {
            Wish::None => None,
            Wish::Fault(fault) => Some(*fault),
        })
        .collect()
}

fn torture(cluster: &Cluster, args: &Args, seed: u64) -> Result<Verdict, Failure> {
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(args.minutes * 60.0);
    let work = Work::new(cluster.nodes.clone(), seed).map_err(|error| {
        Failure::new(format!(
            "cannot make the folder torture-{seed} on {} (is one left of another run with this seed?): {error}",
            cluster.nodes[0].mount.display()
        ))
    })?;
    let work = Arc::new(work);
    let (done, ended) = mpsc::channel::<&'static str>();
    let mut running = 0;
    let mut spawn = |name: &'static str, job: Box<dyn FnOnce(&Work) + Send>| {
        let (work, done) = (work.clone(), done.clone());
        running += 1;
        // Not scoped: a call that hangs must not hold up the verdict.
        thread::spawn(move || {
            job(&work);
            done.send(name).ok();
        });
    };
    for i in 0..cluster.nodes.len() {
        spawn("an appender", Box::new(move |work| work.append(i)));
        spawn("a reader", Box::new(move |work| work.read(i)));
        spawn("a maker of files", Box::new(move |work| work.names(i)));
    }
    spawn("the jobs", Box::new(|work| work.jobs()));
    spawn("the log of a web server", Box::new(|work| work.weblog()));
    let struck = nemesis::run(&work, &wanted(&args.faults), cluster.is_ours(), seed, until);
    work.stop.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs();
    let mut found = Found::default();
    found.merge(struck.found);
    if let Err(failure) = cluster.wait_healthy(WELL) {
        found.add(Kind::Stuck, failure.to_string());
    }
    let deadline = Instant::now() + HANG + work::JOB;
    while running > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left).is_err() {
            found.add(
                Kind::Stuck,
                format!(
                    "{running} calls have not returned {} s after the end",
                    HANG.as_secs()
                ),
            );
            break;
        }
        running -= 1;
    }
    let (counts, judged) = work.judge();
    found.merge(judged);
    if !cluster.is_ours()
        && found.is_clean()
        && let Err(error) = work.clean_up()
    {
        eprintln!("torture-{seed} and its jobs are left on the mounts: {error}");
    }
    let mut verdict = Verdict::new(counts, &found);
    verdict.members = cluster.nodes.len();
    verdict.seconds = seconds;
    verdict.repaired_bytes =
        struck.repaired + cluster.nodes.iter().map(nemesis::repaired).sum::<u64>();
    verdict.faults = struck
        .faults
        .iter()
        .map(|(fault, count)| (format!("{fault:?}").to_lowercase(), *count))
        .collect();
    Ok(verdict)
}

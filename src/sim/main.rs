//! Runs one plan and prints its verdict: `cargo run --release -p hydfs-sim -- --seed 7 --scenario failover`.
//! `HYDFS_SIM_LOG=debug` shows what the members log, on stderr.

mod chance;
mod shrink;

use hydfs_sim::{Faults, Kill, Plan, Scenario};
use hydfs_types::Planted;
use std::process::{Command, ExitCode, Output};

const USAGE: &str = "usage: hydfs-sim [--scenario append|failover|storm|chaos|kills] [--seed N] [--seeds COUNT] [--members M] [--seconds S]
  --seed N      the run's seed [default: 1]
  --seeds COUNT runs this many seeds from there on, each in a process of its own, and tells those that fail [default: 1]
  --members M   members, 1 to 100 [default: 5]
  --seconds S   virtual seconds of writes and faults [default: 20]
  --faults LIST kinds of faults in chaos, with commas between [default: all]
  --jobs        RainStorm runs jobs on what the others write; in chaos else one is imitated
  --kill CELL   who dies when in kills: source|stateful|sink|leader|plain / before|at|after|commit|recovery /
                ordered|unordered [default: stateful/commit/ordered]
  --plant BUG   gives all members this bug: the run has to find it
  --shrink      a run that fails is made smaller: fewer kinds of faults, shorter, fewer members";

/// What the command line asks for.
struct Wish {
    plan: Plan,
    seeds: u64,
    shrink: bool,
}

fn parse() -> Result<Wish, String> {
    let mut plan = Plan {
        scenario: Scenario::Failover,
        seed: 1,
        members: 5,
        seconds: 20,
        faults: Faults::ALL,
        jobs: false,
        kill: Kill::FIRST,
        planted: None,
        planted_in_jobs: None,
    };
    let (mut seeds, mut shrink) = (1, false);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if matches!(flag.as_str(), "-h" | "--help") {
            println!("{USAGE}");
            std::process::exit(0);
        }
        if flag == "--jobs" {
            plan.jobs = true;
            continue;
        }
        if flag == "--shrink" {
            shrink = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|error| format!("{flag} {value}: {error}"))
        };
        match flag.as_str() {
            "--scenario" => {
                plan.scenario = Scenario::named(&value)
                    .ok_or_else(|| format!("there is no scenario {value}"))?
            }
            "--seed" => plan.seed = number()?,
            "--seeds" => seeds = number()?,
            "--members" => {
                plan.members = u8::try_from(number()?)
                    .ok()
                    .filter(|members| (1..=100).contains(members))
                    .ok_or("1 to 100 members")?
            }
            "--seconds" => plan.seconds = number()?,
            "--faults" => plan.faults = Faults::parse(&value)?,
            "--kill" => plan.kill = value.parse()?,
            "--plant" => plant(&mut plan, &value)?,
            _ => return Err(format!("{flag} is not known")),
        }
    }
    Ok(Wish {
        plan,
        seeds,
        shrink,
    })
}

/// A bug of the file system, or of RainStorm.
fn plant(plan: &mut Plan, name: &str) -> Result<(), String> {
    let of_jobs = rainstorm::Planted::ALL;
    plan.planted = Planted::named(name);
    plan.planted_in_jobs = of_jobs.into_iter().find(|bug| bug.name() == name);
    if plan.planted.is_some() || plan.planted_in_jobs.is_some() {
        return Ok(());
    }
    let names = Planted::ALL.map(Planted::name).into_iter();
    let names: Vec<_> = names.chain(of_jobs.map(|bug| bug.name())).collect();
    let names = names.join(", ");
    Err(format!(
        "there is no bug {name} to plant; there are {names}"
    ))
}

fn main() -> ExitCode {
    if let Ok(filter) = std::env::var("HYDFS_SIM_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
    let Wish {
        plan,
        seeds,
        shrink,
    } = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let passed = if shrink {
        shrink::shrink(plan)
    } else if seeds == 1 {
        one(plan)
    } else {
        (plan.seed..plan.seed.saturating_add(seeds))
            .filter(|seed| {
                !alone(Plan {
                    seed: *seed,
                    ..plan
                })
            })
            .count()
            == 0
    };
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(plan: Plan) -> bool {
    // On a thread of its own: what this one drew before (for the log) is not the run's.
    let run = std::thread::spawn(move || plan.run());
    let Ok(verdict) = run.join() else {
        println!("panicked; run again: {}", plan.command());
        return false;
    };
    println!("{verdict}");
    verdict.violations.is_empty()
}

/// What a run of the plan in a process of its own prints.
fn output(plan: Plan) -> std::io::Result<Output> {
    let program = std::env::current_exe()?;
    Command::new(program).args(plan.arguments()).output()
}

/// Runs a plan as if it were the only one: a process has more state than its plan (see `chance`).
fn alone(plan: Plan) -> bool {
    match output(plan) {
        Ok(output) if output.status.success() => {
            println!("seed {}: ok", plan.seed);
            true
        }
        Ok(output) => {
            println!(
                "seed {}:\n{}{}",
                plan.seed,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            false
        }
        Err(error) => {
            eprintln!("seed {}: cannot start: {error}", plan.seed);
            false
        }
    }
}

//! Runs one plan and prints its verdict: `cargo run --release -p hydfs-sim -- --seed 7 --scenario failover`.
//! `HYDFS_SIM_LOG=debug` shows what the members log, on stderr.

mod chance;

use hydfs_sim::{Plan, Scenario};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: hydfs-sim [--scenario append|failover|storm] [--seed N] [--seeds COUNT] [--members M] [--seconds S]
  --seed N      the run's seed [default: 1]
  --seeds COUNT runs this many seeds from there on, each in a process of its own, and tells those that fail [default: 1]
  --members M   members, 1 to 20 [default: 5]
  --seconds S   virtual seconds of writes and faults [default: 20]";

fn parse() -> Result<(Plan, u64), String> {
    let mut plan = Plan {
        scenario: Scenario::Failover,
        seed: 1,
        members: 5,
        seconds: 20,
    };
    let mut seeds = 1;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
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
                    .filter(|members| (1..=20).contains(members))
                    .ok_or("1 to 20 members")?
            }
            "--seconds" => plan.seconds = number()?,
            _ => return Err(format!("{flag} is not known")),
        }
    }
    Ok((plan, seeds))
}

fn main() -> ExitCode {
    if let Ok(filter) = std::env::var("HYDFS_SIM_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
    let (plan, seeds) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let passed = if seeds == 1 {
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

/// Runs a plan as if it were the only one: a process has more state than its plan (see `chance`).
fn alone(plan: Plan) -> bool {
    let output = std::env::current_exe()
        .and_then(|program| Command::new(program).args(plan.arguments()).output());
    match output {
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

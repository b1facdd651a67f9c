//! Explores one configuration within bounds of time and memory: `cargo run --release -p hydfs-model -- --config NAME`.

use hydfs_model::{Bounds, Config, MORE, Outcome, PAIRS, Plant, WIDE, explore};
use std::{
    process::{Command, ExitCode},
    time::Duration,
};

const GIB: f64 = (1u64 << 30) as f64;

const USAGE: &str = "usage: hydfs-model --config NAME [--minutes M] [--max-gib G] [--threads T] [--plant BUG]
  Tries every order of events of one slot, and says how many states there are, how far they are from the first, and
  whether all of them were looked at. A broken invariant is printed with the shortest way to it.
  --config NAME  what may happen; `pairs` stands for all that the tests run, `wide` for the larger ones,
                 one after the other
  --minutes M    stops after this time, of which each configuration has an equal share [default: 10]
  --max-gib G    stops when the process has this much memory [default: 4]
  --threads T    [default: 1, for which the way to a broken invariant is a shortest one]
  --plant BUG    with this bug or hole: it should be found
  --list         says what configurations, bugs and holes there are";

struct Wish {
    configs: Vec<Config>,
    bounds: Bounds,
}

fn list() {
    println!("configurations:");
    for config in configs() {
        println!("  {:<12} {}", config.name, config.about);
    }
    println!("bugs and holes:");
    Plant::ALL
        .into_iter()
        .for_each(|plant| println!("  {}", plant.name()));
}

fn configs() -> Vec<Config> {
    [&PAIRS[..], &MORE[..], &WIDE[..]].concat()
}

fn parse() -> Result<Option<Wish>, String> {
    let (mut name, mut plant) = (None, None);
    let (mut minutes, mut gib, mut threads) = (10.0, 4.0, 1);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--list" => {
                list();
                return Ok(None);
            }
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            _ => {}
        }
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || match value.parse::<f64>() {
            Ok(number) if number > 0.0 => Ok(number),
            _ => Err(format!("{flag} {value}: not a number above 0")),
        };
        match flag.as_str() {
            "--config" => name = Some(value),
            "--minutes" => minutes = number()?,
            "--max-gib" => gib = number()?,
            "--threads" => threads = number()?.max(1.0) as usize,
            "--plant" => {
                plant = Some(
                    Plant::named(&value)
                        .ok_or_else(|| format!("there is no bug {value}; see --list"))?,
                )
            }
            _ => return Err(format!("{flag} is not known")),
        }
    }
    let name = name.ok_or("--config is missing; see --list")?;
    let mut found: Vec<Config> = match name.as_str() {
        "pairs" => PAIRS.to_vec(),
        "wide" => WIDE.to_vec(),
        name => configs()
            .into_iter()
            .filter(|config| config.name == name)
            .collect(),
    };
    if found.is_empty() {
        return Err(format!("there is no configuration {name}; see --list"));
    }
    if let Some(plant) = plant {
        found
            .iter_mut()
            .for_each(|config| *config = config.with(plant));
    }
    let bounds = Bounds {
        time: Duration::from_secs_f64(minutes * 60.0 / found.len() as f64),
        memory_bytes: (gib * GIB) as u64,
        threads,
    };
    Ok(Some(Wish {
        configs: found,
        bounds,
    }))
}

fn report(config: &Config, outcome: &Outcome) {
    let how = match (outcome.exhausted, outcome.broken.is_empty()) {
        (true, _) => "all of them",
        (false, true) => "stopped at the limit",
        (false, false) => "stopped at what is broken",
    };
    println!(
        "{:<12} {} states ({how}), depth {}, {} steps, {:.1} s, {:.2} GiB{}",
        config.name,
        outcome.states,
        outcome.depth,
        outcome.steps,
        outcome.took.as_secs_f64(),
        outcome.memory_bytes as f64 / GIB,
        if outcome.goal {
            ""
        } else {
            "; its goal was not reached"
        },
    );
    for (promise, steps) in &outcome.broken {
        println!("  BROKEN {promise}");
        steps.iter().for_each(|step| println!("    {step}"));
    }
}

/// Each in a process of its own, so that none begins with the memory of the one before.
fn run_each(configs: &[Config], bounds: Bounds, plant: Option<Plant>) -> std::io::Result<bool> {
    let mut whole = true;
    for config in configs {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--config", config.name]);
        command.args(["--minutes", &(bounds.time.as_secs_f64() / 60.0).to_string()]);
        command.args(["--max-gib", &(bounds.memory_bytes as f64 / GIB).to_string()]);
        command.args(["--threads", &bounds.threads.to_string()]);
        if let Some(plant) = plant {
            command.args(["--plant", &plant.name()]);
        }
        whole &= command.status()?.success();
    }
    Ok(whole)
}

fn main() -> ExitCode {
    let done = match parse() {
        Ok(None) => Ok(true),
        Ok(Some(Wish { configs, bounds })) => match &configs[..] {
            [config] => {
                let outcome = explore(*config, bounds);
                report(config, &outcome);
                Ok(outcome.broken.is_empty())
            }
            many => run_each(many, bounds, many[0].plant).map_err(|error| error.to_string()),
        },
        Err(why) => Err(format!("{why}\n{USAGE}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

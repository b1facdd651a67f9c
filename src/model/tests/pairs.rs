//! One model for each pair of rules: no order of events breaks an invariant, and what is planted is found.

use hydfs_model::{Bounds, Config, MORE, Outcome, PAIRS, Plant, explore};
use std::time::Duration;

/// More than this and a configuration has outgrown a test.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(120),
    memory_bytes: 2 << 30,
    threads: 1,
};

fn look(config: Config) -> Outcome {
    let outcome = explore(config, BOUNDS);
    println!(
        "{} {:?}: {} states, depth {}, {:.1} s, {:?}",
        config.name,
        config.plant,
        outcome.states,
        outcome.depth,
        outcome.took.as_secs_f64(),
        outcome
            .broken
            .iter()
            .map(|(promise, steps)| (&promise[..3], steps.len()))
            .collect::<Vec<_>>(),
    );
    outcome
}

fn named(name: &str) -> Config {
    let mut configs = PAIRS.into_iter().chain(MORE);
    let config = configs.find(|config| config.name == name);
    config.expect("the test is named after a configuration")
}

/// Nothing is broken, whatever the order of events.
fn check(name: &str) {
    let config = named(name);
    let outcome = look(config);
    assert_eq!(outcome.broken, [], "{name} breaks an invariant");
    assert!(outcome.exhausted, "not all states of {name} were looked at");
    assert!(outcome.goal, "{name} does not get to where it should");
    check_plants(name);
}

/// What is planted is found.
fn check_plants(name: &str) {
    let config = named(name);
    for plant in config.finds {
        let broken = look(config.with(*plant)).broken;
        assert_ne!(
            broken,
            [],
            "{plant:?} was planted in {name} and no invariant noticed it"
        );
    }
}

#[test]
fn ends_of_both_replicas() {
    check_plants("frozen");
}

#[test]
fn ends_of_a_learner() {
    check("heir");
}

#[test]
fn order_of_what_is_pulled() {
    check_plants("order");
}

#[test]
fn every_plant_is_found_somewhere() {
    for plant in Plant::ALL {
        let mut configs = PAIRS.iter().chain(&MORE);
        assert!(
            configs.any(|config| config.finds.contains(&plant)),
            "{plant:?}"
        );
        assert_eq!(Plant::named(&plant.name()), Some(plant));
    }
    assert!(PAIRS.iter().all(|config| !config.finds.is_empty()));
}

macro_rules! pairs {
    ($($test:ident $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check($name); })*

        #[test]
        fn every_pair_has_its_test() {
            assert_eq!(PAIRS.map(|config| config.name), [$($name),*]);
        }
    };
}

pairs! {
    config_and_fence "r2-r3",
    config_and_append "r2-r4",
    config_and_merge "r2-r6",
    config_and_roll "r2-r8",
    config_and_repair "r2-r11",
    config_and_restart "r2-r12",
    fence_and_append "r3-r4",
    fence_and_merge "r3-r6",
    fence_and_sole_end "r3-r7",
    fence_and_roll "r3-r8",
    fence_and_repair "r3-r11",
    fence_and_restart "r3-r12",
    append_and_merge "r4-r6",
    append_and_roll "r4-r8",
    append_and_repair "r4-r11",
    append_and_restart "r4-r12",
    merge_and_roll "r6-r8",
    merge_and_repair "r6-r11",
    merge_and_restart "r6-r12",
    sole_end_and_repair "r7-r11",
    roll_and_repair "r8-r11",
    roll_and_restart "r8-r12",
    repair_and_restart "r11-r12",
}

//! Makes a failing plan smaller by simple bisection: fewer kinds of faults, fewer members, shorter. Whatever still fails,
//! in whichever way, is kept; the last one is told with the command that repeats it.

use crate::output;
use hydfs_sim::{Kind, Plan, Scenario};

/// Most runs that one shrinking takes.
const RUNS_MAX: u32 = 80;

struct Shrinking {
    best: Plan,
    runs: u32,
}

impl Shrinking {
    /// Takes `smaller` where it fails, too.
    fn try_one(&mut self, smaller: Plan) -> bool {
        if smaller == self.best || self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let fails = output(smaller).is_ok_and(|output| !output.status.success());
        if fails {
            println!("still fails: {}", smaller.arguments().join(" "));
            self.best = smaller;
        }
        fails
    }

    fn faults(&mut self) -> bool {
        let mut any = false;
        for kind in Kind::ALL {
            let best = self.best;
            if best.scenario == Scenario::Chaos && best.faults.has(kind) {
                any |= self.try_one(Plan {
                    faults: best.faults.without(kind),
                    ..best
                });
            }
        }
        any
    }

    /// Not below as many as there are copies: where a machine has the only one, its power takes along what was not synced.
    fn members(&mut self) -> bool {
        let best = self.best;
        (3..best.members).any(|members| self.try_one(Plan { members, ..best }))
    }

    /// The shortest that fails, if failing at some length means failing at every longer one.
    fn seconds(&mut self) -> bool {
        let mut any = false;
        let mut low = 0;
        while low + 1 < self.best.seconds {
            let seconds = low + (self.best.seconds - low) / 2;
            let best = self.best;
            if self.try_one(Plan { seconds, ..best }) {
                any = true;
            } else {
                low = seconds;
            }
        }
        any
    }
}

/// Shrinks and answers whether the plan passed in the first place.
pub fn shrink(plan: Plan) -> bool {
    match output(plan) {
        Ok(output) if output.status.success() => {
            println!("nothing to shrink: {} passes", plan.command());
            return true;
        }
        Ok(_) => {}
        Err(error) => {
            eprintln!("cannot start the run: {error}");
            return false;
        }
    }
    let mut shrinking = Shrinking {
        best: plan,
        runs: 0,
    };
    while shrinking.seconds() | shrinking.faults() | shrinking.members() {}
    println!("smallest: {}", shrinking.best.command());
    if let Ok(output) = output(shrinking.best) {
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
    false
}

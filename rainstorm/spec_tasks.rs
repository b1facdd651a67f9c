//! `tasks` of a stage: a number, or the least and the most there may be.

use crate::scale::Bounds;
use crate::spec::TASKS_MAX;
use crate::spec_tree::{Fault, Table, Value};

/// How many tasks a stage begins with, and its bounds if it may have other numbers of them.
pub fn tasks(stage: &Table<'_>) -> Result<(u32, Option<Bounds>), Fault> {
    let node = match stage.get("tasks") {
        Some(node) if matches!(node.value, Value::Table(_)) => node,
        Some(node) if !matches!(node.value, Value::Int(_)) => {
            let what = format!("`tasks` of [[stage]] is {}", node.value.kind());
            let remedy = "write a number, or for example `{ min = 1, max = 8 }`";
            return Err(Fault::new(node.at, what, remedy));
        }
        _ => return Ok((stage.int("tasks", 1, 1, TASKS_MAX)? as u32, None)),
    };
    let table = Table::of(node, "`tasks`", &["min", "max"])?;
    let Some(last) = table.get("max") else {
        let remedy = "add for example `max = 8`, or write a number";
        return Err(Fault::new(node.at, "`tasks` has no `max`", remedy));
    };
    let bounds = Bounds {
        min: table.int("min", 1, 1, TASKS_MAX)? as u32,
        max: table.int("max", 1, 1, TASKS_MAX)? as u32,
    };
    if bounds.min > bounds.max {
        let what = format!(
            "`max = {}` of `tasks` is below `min = {}`",
            bounds.max, bounds.min
        );
        return Err(Fault::new(
            last.at,
            what,
            "exchange them, or write one number",
        ));
    }
    let why = match stage.text("partition")? {
        Some((word, _)) if word == "range" => "its `bounds` say how many tasks it has",
        Some((word, _)) if word == "broadcast" => {
            "each task gets every line, so what it puts out depends on how many there are"
        }
        _ => return Ok((bounds.min, Some(bounds))),
    };
    let what = format!("`tasks` of this stage is no single number, but {why}");
    Err(Fault::new(node.at, what, "write a number"))
}

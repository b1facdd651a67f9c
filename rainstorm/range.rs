//! Partition by range: each task gets the lines whose value lies between two bounds that the spec names. Together with a sink
//! that has a file for each task, output is sorted out by value.

use crate::decimal::Decimal;
use crate::spec::{Bound, Column, OpSpec, Partition, TASKS_MAX, column, state_without_key};
use crate::spec_op::bound;
use crate::spec_tree::{Fault, Node, Table};

/// Bounds in ascending order, all numbers or all text: task i gets what lies below bound i and not below the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges(Vec<Bound>);

impl Ranges {
    /// The task for a value. Where bounds are numbers, what is none goes to the first.
    pub fn task_of(&self, value: &[u8]) -> usize {
        let number = Decimal::parse(value);
        self.0.partition_point(|bound| match bound {
            Bound::Number(bound) => number.is_some_and(|number| number >= *bound),
            Bound::Text(bound) => value >= &bound[..],
        })
    }
}

/// The range partition of a stage with so many tasks, if it has one.
pub fn partition(
    node: &Node,
    table: &Table<'_>,
    op: &OpSpec,
    tasks: u32,
) -> Result<Option<Partition>, Fault> {
    let range = table.text("partition")?.filter(|(word, _)| word == "range");
    let bounds = table.get("bounds");
    let Some((_, at)) = range else {
        return match bounds {
            Some(bounds) => Err(Fault::new(
                bounds.at,
                "`bounds` without `partition = \"range\"`",
                "add it, or leave `bounds` out",
            )),
            None => Ok(None),
        };
    };
    if let OpSpec::Exec { exec, .. } = op
        && let Some(at) = exec.state
    {
        return Err(state_without_key(at));
    }
    if matches!(
        op,
        OpSpec::Aggregate(_) | OpSpec::Dedup { .. } | OpSpec::Join { .. }
    ) {
        let what = "`partition = \"range\"` of a stage that works by key";
        return Err(Fault::new(at, what, "leave it out"));
    }
    let (Some(key), Some(bounds)) = (table.get("key"), bounds) else {
        let what = "`partition = \"range\"` without `key` or `bounds`";
        let remedy = "add for example `key = \"Amount\"` and `bounds = [100, 1000]`";
        return Err(Fault::new(at, what, remedy));
    };
    let key: Column = column(key)?;
    let ranges: Vec<Bound> = table
        .list("bounds")?
        .iter()
        .map(bound)
        .collect::<Result<_, _>>()?;
    let ascend = ranges.windows(2).all(|pair| match pair {
        [Bound::Number(a), Bound::Number(b)] => a < b,
        [Bound::Text(a), Bound::Text(b)] => a < b,
        _ => false,
    });
    if ranges.is_empty() || !ascend {
        let what = "`bounds` do not ascend";
        let remedy = "write numbers, or text in quotes, the least first and each once";
        return Err(Fault::new(bounds.at, what, remedy));
    }
    let wanted = ranges.len() as i64 + 1;
    if i64::from(tasks) != wanted || wanted > TASKS_MAX {
        let at = table.get("tasks").map_or(node.at, |tasks| tasks.at);
        let what = format!(
            "{} bounds make {wanted} ranges for {tasks} tasks",
            ranges.len()
        );
        let remedy = format!(
            "write `tasks = {}`, and as many bounds less one",
            wanted.min(TASKS_MAX)
        );
        return Err(Fault::new(at, what, remedy));
    }
    Ok(Some(Partition::Range(key, Ranges(ranges))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_begins_the_next_range() {
        let numbers = Ranges(vec![
            Bound::Number(Decimal::whole(-1)),
            Bound::Number(Decimal::whole(10)),
        ]);
        for (value, task) in [
            ("-2", 0),
            ("-1", 1),
            ("9.5", 1),
            ("10", 2),
            ("9999", 2),
            ("x", 0),
        ] {
            assert_eq!(numbers.task_of(value.as_bytes()), task, "{value}");
        }
        let text = Ranges(vec![Bound::Text(b"g".to_vec())]);
        assert_eq!(
            [&b"fz"[..], b"g", b"ga", b""].map(|value| text.task_of(value)),
            [0, 1, 1, 0]
        );
    }
}

//! The predecessor's command line, `rainstorm OP1 OP2 SRC DEST NUM_TASKS`, as a spec.
//!
//! An operator is the path of an executable, run with the lines of a batch as its last argument (the
//! predecessor's contract), or built in: `filter:TEXT`, `select:COLUMN,…`, `count:COLUMN`. The second may be
//! `aggregate:PATH`: each line it prints is `key,number`, and the result is one JSON document with the sum of
//! each key, written once at the end (fault R8).

use crate::error::{Error, Result};
use crate::spec::{Spec, TASKS_MAX};

/// The spec (TOML) that does what the predecessor's command asked for.
pub fn legacy_spec(op1: &str, op2: &str, src: &str, dest: &str, num_tasks: u32) -> Result<String> {
    let wrong = |what: String| Err(Error::Spec(what));
    if num_tasks == 0 || i64::from(num_tasks) > TASKS_MAX {
        return wrong(format!("NUM_TASKS is {num_tasks}; use 1 to {TASKS_MAX}"));
    }
    for (what, text) in [("OP1", op1), ("OP2", op2), ("SRC", src), ("DEST", dest)] {
        if text.trim().is_empty() {
            return wrong(format!(
                "{what} is empty; the command is: rainstorm OP1 OP2 SRC DEST NUM_TASKS"
            ));
        }
    }
    let format = if src.ends_with(".csv") {
        "csv"
    } else {
        "lines"
    };
    let first = operator("OP1", op1)?;
    let (second, sums) = match op2.strip_prefix("aggregate:") {
        Some(path) => (operator("OP2", path)?, true),
        None => (operator("OP2", op2)?, false),
    };
    let counts = op2.starts_with("count:");
    let (last, sink) = match (sums, counts) {
        (true, _) => ("total", "format = \"json\"\n"),
        (false, true) => ("second", "format = \"json\"\n"),
        (false, false) => ("second", ""),
    };
    let mut text = format!(
        "version = 1\n\n[[source]]\nname = \"source\"\npath = {}\nformat = \"{format}\"\n\n\
         [[stage]]\nname = \"first\"\nfrom = \"source\"\nop = {first}\ntasks = {num_tasks}\n\n\
         [[stage]]\nname = \"second\"\nfrom = \"first\"\nop = {second}\ntasks = {num_tasks}\n",
        quoted(src)
    );
    if sums {
        text.push_str(&format!(
            "\n[[stage]]\nname = \"total\"\nfrom = \"second\"\nop = {{ sum = {{ by = 1, of = 2 }} }}\ntasks = {num_tasks}\n"
        ));
    }
    text.push_str(&format!(
        "\n[[sink]]\nfrom = \"{last}\"\npath = {}\n{sink}",
        quoted(dest)
    ));
    match Spec::parse(&text, false) {
        Ok(_) => Ok(text),
        Err(fault) => wrong(format!("{}; {}", fault.what, fault.remedy)),
    }
}

fn operator(what: &str, word: &str) -> Result<String> {
    let column = |text: &str| {
        text.parse::<usize>()
            .map_or_else(|_| quoted(text), |number| number.to_string())
    };
    Ok(match word.split_once(':') {
        Some(("filter", text)) => format!("{{ filter = {{ contains = {} }} }}", quoted(text)),
        Some(("select", names)) => {
            let names: Vec<String> = names.split(',').map(column).collect();
            format!("{{ select = {{ columns = [{}] }} }}", names.join(", "))
        }
        Some(("count", name)) => format!("{{ count = {{ by = {} }} }}", column(name)),
        Some((other, _)) if !other.contains('/') => {
            let known =
                "`filter:TEXT`, `select:COLUMNS`, `count:COLUMN` or the path of an executable";
            return Err(Error::Spec(format!(
                "{what} is `{word}`, and `{other}:` is no operator; use {known}"
            )));
        }
        _ => format!(
            "{{ exec = {{ path = {}, contract = \"argv\" }} }}",
            quoted(word)
        ),
    })
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_r9_the_old_command_is_checked_before_anything_starts() {
        for tasks in [0, 65, u32::MAX] {
            let error = legacy_spec("/bin/a", "/bin/b", "/in", "/out", tasks).unwrap_err();
            assert!(error.to_string().contains("use 1 to 64"), "{error}");
        }
        assert!(legacy_spec("", "/bin/b", "/in", "/out", 1).is_err());
        assert!(
            legacy_spec("sort:x", "/bin/b", "/in", "/out", 1)
                .unwrap_err()
                .to_string()
                .contains("no operator")
        );
        assert!(legacy_spec("/../a", "/bin/b", "/in", "/out", 1).is_err());
        let text = legacy_spec("filter:a\"b", "count:Cat, egory", "/in.csv", "/out", 3).unwrap();
        assert!(
            text.contains("format = \"csv\"") && text.contains("json"),
            "{text}"
        );
        let text = legacy_spec("/bin/op 1", "aggregate:/bin/b", "/in", "/out", 10).unwrap();
        assert!(
            text.contains("sum = { by = 1, of = 2 }") && text.contains("\"/bin/op 1\""),
            "{text}"
        );
    }
}

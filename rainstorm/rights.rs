//! Whether a job can go on for another owner: what it has written so far is the old one's.

use crate::error::Result;
use crate::plan::{Op, Parts, Plan};
use crate::receipt::receipt_path;
use crate::seams::{Owner, Storage, StorageError};
use crate::spec_tree::Fault;
use std::collections::BTreeSet;

/// A fault if `owner` may not write what the job called `name` writes by this plan.
pub async fn check(
    storage: &dyn Storage,
    (name, plan): (&str, &Plan),
    owner: Owner,
) -> Result<Option<Fault>> {
    let mut denied = Vec::new();
    for path in written(name, plan) {
        match storage.may_write(&path, owner).await {
            Ok(()) => {}
            Err(error) if error.is_temporary() => return Err(error.into()),
            Err(StorageError::Denied(_)) => denied.push(path),
            // Its sinks say it better.
            Err(_) => {}
        }
    }
    if denied.is_empty() {
        return Ok(None);
    }
    let (Owner { uid, gid }, denied) = (owner, denied.join(", "));
    let what = format!("the spec is another user's now, who may not write {denied}");
    let remedy = format!(
        "`chown -R {uid}:{gid}` them and the folder of the job, or save the spec as the user before"
    );
    Ok(Some(Fault::new(0, what, remedy)))
}

/// The files of a job, and the folders that it makes files in.
fn written(name: &str, plan: &Plan) -> BTreeSet<String> {
    let mut all = BTreeSet::from([format!("/.jobs/{name}/state")]);
    all.extend(plan.receipt.then(|| receipt_path(name)));
    all.extend(plan.outputs().map(str::to_owned));
    for step in &plan.steps {
        let stage = step.stage();
        all.extend(
            plan.dead_letters
                .then(|| format!("/.jobs/{name}/dead/{stage}")),
        );
        if matches!(step.op, Op::Exec { .. }) {
            let task = |task: u32| format!("/.jobs/{name}/tasks/{stage}-{task}/stderr");
            all.extend((0..step.tasks).map(task));
        }
        for sink in step.sinks.iter().filter(|sink| sink.parts == Parts::Tasks) {
            all.extend((0..step.tasks).map(|task| sink.task_path(step, task)));
        }
    }
    all
}

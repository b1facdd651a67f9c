//! Outputs of jobs as a user sees them: what was shown once stays.

use crate::{
    kernel::Ask,
    oracle::Oracle,
    paths::{self, Mounts},
};
use hydfs_node::Streaming;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// Audits a job to its end.
pub async fn audited(streaming: &Streaming, name: &str) -> Result<(), String> {
    loop {
        let audit = streaming.audit(name).await;
        if audit.map_err(|error| error.to_string())?.outcome.is_some() {
            return Ok(());
        }
    }
}

/// Outputs that are looked at.
pub struct Outputs {
    mounts: Mounts,
    oracle: Oracle,
    rng: SmallRng,
    /// What was shown of each.
    shown: BTreeMap<&'static str, Vec<u8>>,
}

impl Outputs {
    pub fn new(mounts: Mounts, oracle: Oracle, rng: SmallRng, paths: &[&'static str]) -> Self {
        Self {
            mounts,
            oracle,
            rng,
            shown: paths.iter().map(|path| (*path, Vec::new())).collect(),
        }
    }

    /// Looks at all of them through any mount. What cannot be read now is read the next time.
    pub async fn look(&mut self) {
        let Some(mount) = self.mounts.any(&mut self.rng) else {
            return;
        };
        for (path, shown) in &mut self.shown {
            let Ok(now) = paths::read(&*mount, path).await else {
                continue;
            };
            if !now.starts_with(shown) {
                self.oracle.report(format!(
                    "I10: {path} at {} has not what it showed before",
                    mount.member().config.name
                ));
            }
            *shown = now;
        }
    }

    /// Lines that were shown in all.
    pub fn lines(&self) -> usize {
        let lines = |shown: &Vec<u8>| shown.iter().filter(|byte| **byte == b'\n').count();
        self.shown.values().map(lines).sum()
    }

    /// All of a file through any mount, if it can be read now.
    pub async fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        let mount = self.mounts.any(&mut self.rng)?;
        paths::read(&*mount, path).await.ok()
    }
}

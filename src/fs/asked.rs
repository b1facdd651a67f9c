//! How often the kernel of this mount has asked for what.

use crate::volume::Volume;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Requests by operation, since the start. As many rows as there are operations.
#[derive(Default)]
pub(crate) struct Asked(Mutex<BTreeMap<&'static str, u64>>);

impl Asked {
    pub(crate) fn count(&self, operation: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(operation).or_default() += 1;
    }
}

impl Volume {
    /// Requests of the kernel by operation, since the start.
    pub fn asked_counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.asked.0.lock();
        counts.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! The file system as its users meet it: real members, real mounts, ordinary programs and system calls. One file a
//! family below `posix/`; most tests share one cluster, one after the other.

#[path = "posix/acls.rs"]
mod acls;
#[path = "posix/attributes.rs"]
mod attributes;
#[path = "posix/big.rs"]
mod big;
#[path = "posix/coherence.rs"]
mod coherence;
mod common;
#[path = "posix/content.rs"]
mod content;
#[path = "posix/listing.rs"]
mod listing;
#[path = "posix/locks.rs"]
mod locks;
#[path = "posix/mapping.rs"]
mod mapping;
#[path = "posix/names.rs"]
mod names;
#[path = "posix/pending.rs"]
mod pending;
#[path = "posix/quotas.rs"]
mod quotas;
#[path = "posix/ranges.rs"]
mod ranges;
#[path = "posix/remount.rs"]
mod remount;
#[path = "posix/tools.rs"]
mod tools;

use common::Cluster;
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Members of every cluster here: each file has a copy on all of them.
const MEMBERS: usize = 3;

/// Runs a script in a folder; it must succeed. Its standard output.
fn sh(folder: &Path, script: &str) -> String {
    let mut command = Command::new("timeout");
    command
        .args(["120", "sh", "-euc", script])
        .current_dir(folder)
        .stdin(Stdio::null());
    let out = command.output().expect("timeout and sh run");
    let (stdout, stderr) = (common::text(&out.stdout), common::text(&out.stderr));
    assert!(
        out.status.success(),
        "`{script}` in {}: {} {stdout}{stderr}",
        folder.display(),
        out.status
    );
    stdout
}

/// A folder of this name on every mount, made once; the paths of it, the first mount's first.
fn folders(cluster: &Cluster, name: &str) -> Vec<std::path::PathBuf> {
    std::fs::create_dir(cluster.at(1, name)).expect("a folder");
    cluster.members().map(|i| cluster.at(i, name)).collect()
}

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

//! What this machine's kernel offers to confine operators. Found out once; the tests hand in less.

use crate::cgroup::Cgroups;
use crate::sandbox;

/// Landlock from here on keeps signals inside.
const LANDLOCK_SCOPES: u8 = 6;

/// What the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Version of landlock, which closes off the file tree; 0: none.
    pub landlock: u8,
    /// System calls are filtered.
    pub seccomp: bool,
    /// Processes can have a network of their own, with nothing in it.
    pub namespaces: bool,
    /// Cgroups may be used, if there are any.
    pub cgroups: bool,
}

impl Kernel {
    /// A kernel that offers nothing.
    pub const NOTHING: Self = Self {
        landlock: 0,
        seccomp: false,
        namespaces: false,
        cgroups: false,
    };

    /// This one.
    pub fn detect() -> Self {
        Self {
            landlock: sandbox::landlock_version(),
            seccomp: crate::syscalls::filters(false).is_some() && sandbox::has_seccomp(),
            namespaces: sandbox::has_namespaces(),
            cgroups: true,
        }
    }

    /// What operators are not kept from, in words.
    pub fn missing(&self, cgroups: Result<&Cgroups, &str>) -> Vec<String> {
        let mut missing = Vec::new();
        if self.landlock == 0 {
            missing.push("files are open as for any program of that user (no landlock)".to_owned());
        } else if self.landlock < LANDLOCK_SCOPES {
            missing
                .push("processes of the same user can be sent signals (old landlock)".to_owned());
        }
        match (self.namespaces, self.seccomp) {
            (true, true) => {}
            (true, false) => missing.push("system calls are not filtered (no seccomp)".to_owned()),
            (false, true) => missing.push(
                "the network is closed by the filter of system calls alone (no namespaces)"
                    .to_owned(),
            ),
            (false, false) => {
                missing.push("the network is open (no namespaces, no seccomp)".to_owned());
            }
        }
        match cgroups {
            Ok(cgroups) => missing.extend(cgroups.missing()),
            Err(why) => missing.push(format!(
                "memory is limited for each process alone, processes for the user as a whole ({why})"
            )),
        }
        missing
    }
}

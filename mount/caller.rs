//! What a caller may do besides what its ids say: its capabilities and other groups, as /proc tells them. The kernel checks
//! permissions, by the attributes that it has; this is for checks by those that are agreed.

use crate::Caller;

/// Numbers of linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// To give files away.
    Chown = 0,
    /// To read and write what modes keep from it.
    OverrideAccess = 1,
    /// To do what is the owner's right.
    FileOwner = 3,
    /// To leave set-group-id on files of groups that it is not in.
    SetGroupId = 4,
    Administer = 21,
}

impl Caller {
    /// Whether it has this capability in effect, in whatever user namespace. One that is gone, or not seen from here, has none.
    pub fn has(&self, capability: Capability) -> bool {
        let effective = self.status().and_then(|status| effective(&status));
        effective.is_some_and(|set| set >> capability as u32 & 1 == 1)
    }

    /// Whether it belongs to a group; `None` where that cannot be found out.
    pub fn is_in(&self, gid: u32) -> Option<bool> {
        if self.gid == gid {
            return Some(true);
        }
        let groups = self.status().and_then(|status| groups(&status))?;
        Some(groups.contains(&gid))
    }

    fn status(&self) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()
    }
}

fn line_of<'a>(status: &'a str, what: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(what))
}

fn effective(status: &str) -> Option<u64> {
    u64::from_str_radix(line_of(status, "CapEff:")?.trim(), 16).ok()
}

fn groups(status: &str) -> Option<Vec<u32>> {
    let words = line_of(status, "Groups:")?.split_whitespace();
    words.map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_and_groups_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tcat\nGroups:\t4 1000 \nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000008\nSeccomp:\t0\n";
        assert_eq!(effective(status), Some(1 << Capability::FileOwner as u32));
        assert_eq!(groups(status), Some(vec![4, 1000]));
        assert_eq!(groups("Groups:\t \n"), Some(vec![]));
        assert_eq!(effective("Name:\tcat\n"), None);
        let nobody = Caller {
            uid: 1000,
            gid: 1000,
            pid: 0,
            unique: 0,
        };
        assert!(!nobody.has(Capability::Administer));
        assert_eq!((nobody.is_in(1000), nobody.is_in(4)), (Some(true), None));
    }
}

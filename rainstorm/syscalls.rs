//! The system calls that operators may not make. They are told "not permitted": a program that only tries goes on.
//!
//! The list is one of denials: what is not named here is allowed. It is the second line behind namespaces and landlock,
//! and closes what those leave open: sockets of every kind, leaving the process group, new namespaces, the kernel's rare doors.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Numbers of the x32 variant of a call on x86-64 have this bit; the kernel takes them for the same calls.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Always refused.
const REFUSED: &[i64] = &[
    // Other processes. A process group is how all of an operator is ended.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // Sockets by another way, and the kernel's rare doors.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_syslog,
];

/// The filters, to be applied in this order; `None` where the architecture is not known.
pub fn filters(network: bool) -> Option<Vec<BpfProgram>> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in REFUSED {
        refuse(&mut denied, call, &[]);
    }
    let families: &[i32] = match network {
        true => &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK],
        false => &[],
    };
    // Sockets with a name would reach services of this machine: a pair of them has none.
    refuse(&mut denied, libc::SYS_socket, &[all_but(families)?]);
    let pairs = all_but(&[libc::AF_UNIX])?;
    refuse(&mut denied, libc::SYS_socketpair, &[pairs]);
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let mut new = Vec::new();
    for flag in namespaces {
        let mask = flag as u32 as u64;
        new.push(rule(&[(SeccompCmpOp::MaskedEq(mask), mask)])?);
    }
    refuse_rules(&mut denied, libc::SYS_clone, new);
    // Its flags are out of a filter's sight: libraries fall back to `clone` where it is not there.
    let mut absent = BTreeMap::new();
    refuse(&mut absent, libc::SYS_clone3, &[]);
    let program = |rules, errno: i32| {
        let action = SeccompAction::Errno(errno as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).ok()?;
        BpfProgram::try_from(filter).ok()
    };
    Some(vec![
        program(absent, libc::ENOSYS)?,
        program(denied, libc::EPERM)?,
    ])
}

/// Conditions on the first argument; without any the call is refused whatever it says.
fn refuse(rules: &mut BTreeMap<i64, Vec<SeccompRule>>, call: i64, when: &[Option<SeccompRule>]) {
    refuse_rules(rules, call, when.iter().flatten().cloned().collect());
}

fn refuse_rules(rules: &mut BTreeMap<i64, Vec<SeccompRule>>, call: i64, when: Vec<SeccompRule>) {
    #[cfg(target_arch = "x86_64")]
    rules.insert(call | X32, when.clone());
    rules.insert(call, when);
}

/// Every family but these; `None` within: no condition. `None`: it cannot be said.
fn all_but(families: &[i32]) -> Option<Option<SeccompRule>> {
    if families.is_empty() {
        return Some(None);
    }
    let conditions: Vec<(SeccompCmpOp, u64)> = families
        .iter()
        .map(|&family| (SeccompCmpOp::Ne, family as u64))
        .collect();
    rule(&conditions).map(Some)
}

fn rule(conditions: &[(SeccompCmpOp, u64)]) -> Option<SeccompRule> {
    let conditions = conditions.iter().map(|(op, value)| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, op.clone(), *value).ok()
    });
    SeccompRule::new(conditions.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_made_for_this_machine() {
        for network in [false, true] {
            let filters = filters(network).unwrap();
            assert_eq!(filters.len(), 2);
            assert!(filters.iter().all(|filter| filter.len() < 4096));
        }
    }
}

//! The files that an operator's process may reach, as landlock's rules: programs and libraries of the system to be read
//! and run, its own executable, its inputs, its scratch folder. Not the data folder, not the mount, not the homes.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Read and run: programs, libraries, what interpreters bring along.
const PROGRAMS: &[&str] = &[
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libx32",
    "/usr/libexec",
    "/usr/share",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/share",
    "/nix/store",
];
/// Read only: what libraries and interpreters ask for. Nothing secret is in it.
const SETTINGS: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.alias",
    "/etc/mime.types",
    "/etc/inputrc",
    "/etc/perl",
    "/etc/python3",
    "/etc/python3.9",
    "/etc/python3.10",
    "/etc/python3.11",
    "/etc/python3.12",
    "/etc/python3.13",
    "/etc/python3.14",
    "/etc/ssl/openssl.cnf",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/dev/random",
    "/dev/urandom",
];
/// Read only, where the network is open: names and authorities.
const NETWORK: &[&str] = &[
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/usr/local/share/ca-certificates",
];
/// Read and written. Redirections to `/dev/null` need it.
const SINKS: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];
/// Rights are asked for up to this version; a kernel that knows fewer enforces those.
const VERSION: ABI = ABI::V6;

/// The rules, to be entered between fork and exec; `None` where the kernel has no landlock. Folders that hold `apart`,
/// the member's own, are left out.
pub fn rules(
    program: &Path,
    (scratch, inputs): (&Path, Option<&Path>),
    apart: &Path,
    network: bool,
) -> io::Result<Option<OwnedFd>> {
    let made = make(program, (scratch, inputs), apart, network);
    made.map(Into::into)
        .map_err(|error| io::Error::other(format!("landlock's rules: {error}")))
}

fn make(
    program: &Path,
    (scratch, inputs): (&Path, Option<&Path>),
    apart: &Path,
    network: bool,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let run = AccessFs::from_read(VERSION);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?;
    if !network {
        rules = rules.handle_access(AccessNet::from_all(VERSION))?;
    }
    let mut rules = rules.create()?;
    let away = |path: &&&str| !apart.starts_with(path);
    for path in PROGRAMS.iter().filter(away) {
        rules = allow(rules, Path::new(path), run)?;
    }
    let more = if network { NETWORK } else { &[] };
    for path in SETTINGS.iter().chain(more).filter(away) {
        rules = allow(rules, Path::new(path), read)?;
    }
    for path in SINKS {
        rules = allow(rules, Path::new(path), read | AccessFs::WriteFile)?;
    }
    let mut rules = allow(rules, program, AccessFs::ReadFile | AccessFs::Execute)?;
    if let Some(inputs) = inputs {
        rules = allow(rules, inputs, read)?;
    }
    allow(rules, scratch, AccessFs::from_all(VERSION))
}

/// What is not there is not reached.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(fd) = PathFd::new(path) else {
        return Ok(rules);
    };
    let access = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(VERSION),
    };
    rules.add_rule(PathBeneath::new(fd, access))
}

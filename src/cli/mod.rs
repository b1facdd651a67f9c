//! The command line: parsing, configuration, and the thin commands. Wiring only; what a member is lives in
//! `hydfs-node`, what the socket says in `hydfs-control`.

mod certs;
mod failure;
mod folder;
mod fsck;
mod job;
mod local;
mod logging;
mod member;
mod preflight;
mod process;
mod settings;
mod show;
mod supervisor;
mod torture;
mod transfer;
mod upgrade;
mod worker;
mod workers;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A replicated file system, mounted on every member, with a stream processor inside.
///
/// A member runs with `hydfs member`. All other commands talk to the member on this machine: the one whose data
/// folder is named by --data or HYDFS_DATA, else the one whose mount holds the current directory, else the one in
/// /var/lib/hydfs. HYDFS names are absolute paths in the file system: /logs/a is /hydfs/logs/a where it is mounted at
/// /hydfs.
#[derive(Debug, Parser)]
#[command(name = "hydfs", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a member: mount the file system and serve it until SIGTERM or SIGINT.
    Member(Box<member::Args>),
    /// Serve for a supervisor; started by `hydfs member` alone.
    #[command(hide = true)]
    Worker(worker::Args),
    /// Replace the worker of a running member by one of another binary; the mount goes on.
    Upgrade(upgrade::Args),
    /// Make the cluster's CA and its members' certificates.
    Certs(certs::Args),
    /// Check the data folder of a stopped member and explain what is found; changes nothing.
    ///
    /// Exit code 0: clean, 1: there are findings, 2: it could not be checked.
    Fsck(fsck::Args),
    /// Put a cluster under load while its members fail, and judge every promise; for machines that may suffer.
    ///
    /// Exit code 0: every promise held, 1: one was broken, 2: it could not be run.
    Torture(torture::Args),
    #[command(flatten)]
    Local(local::Command),
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    let ok = |()| ExitCode::SUCCESS;
    let done = match Cli::parse().command {
        Command::Member(args) => member::run(*args).map(ok),
        Command::Worker(args) => worker::run(&args),
        Command::Upgrade(args) => upgrade::run(&args).map(ok),
        Command::Certs(args) => certs::run(args).map(ok),
        Command::Fsck(args) => fsck::run(&args),
        Command::Torture(args) => torture::run(&args),
        Command::Local(command) => local::run(command).map(ok),
    };
    done.unwrap_or_else(|failure| failure.report())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_predecessor_is_there() {
        let cli = Cli::command();
        let names: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
        for name in [
            "create",
            "get",
            "append",
            "merge",
            "ls",
            "store",
            "getfromreplica",
            "list_mem_ids",
            "multiappend",
            "rainstorm",
            "suspicion",
            "drain",
            "leave",
            "join",
            "status",
        ] {
            assert!(names.contains(&name), "{name} is missing");
        }
    }
}

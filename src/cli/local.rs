//! The commands for the member on this machine. Thin: each asks over the control socket and shows the answer.

use super::{failure::Failure, folder, job, member, show, transfer};
use clap::{Args, Subcommand, ValueEnum};
use hydfs_control::{Client, Drain};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Pace of questions to a member that drains, and of what is printed of the answers.
const ASK_EVERY: Duration = Duration::from_millis(100);
const NEWS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the new file HYDFS from a local file; an existing one is refused
    Create {
        /// Local file
        local: PathBuf,
        /// Absolute path in the file system
        hydfs: String,
        #[command(flatten)]
        at: At,
    },
    /// Fetch a file, with everything appended so far
    Get {
        /// Absolute path in the file system
        hydfs: String,
        /// Local file or folder; `-` for standard output
        local: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Append a local file to the end of HYDFS
    Append {
        /// Local file
        local: PathBuf,
        /// Absolute path in the file system
        hydfs: String,
        #[command(flatten)]
        at: At,
    },
    /// Merge the pending appends of a file and say how long it took
    Merge {
        /// Absolute path in the file system
        hydfs: String,
        #[command(flatten)]
        at: At,
    },
    /// Show where the copies of a file are, asked from the replicas
    Ls {
        /// Absolute path in the file system
        hydfs: String,
        #[command(flatten)]
        at: At,
    },
    /// List the files of which this member holds a part
    Store {
        #[command(flatten)]
        at: At,
    },
    /// Fetch a file as one member's own disk has it
    Getfromreplica {
        /// Name of the member
        member: String,
        /// Absolute path in the file system
        hydfs: String,
        /// Local file; `-` for standard output
        local: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// List the members by ring id
    #[command(name = "list_mem_ids")]
    ListMemIds {
        #[command(flatten)]
        at: At,
    },
    /// Append to one file from several members at the same moment: as many members as local files
    Multiappend {
        /// Absolute path in the file system
        hydfs: String,
        /// Names of the members, then as many local files, in the same order
        #[arg(value_name = "MEMBER… LOCAL…", num_args = 2.., required = true)]
        parts: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Start a job of two operators over a file, as RainStorm of old
    Rainstorm {
        /// First operator: path of an executable in the file system, or filter:TEXT, select:COLUMN,… or count:COLUMN
        op1: String,
        /// Second operator: the same, or aggregate:PATH of an executable that prints `key,number` lines to be summed
        op2: String,
        /// Source file in the file system
        src: String,
        /// File in the file system that gets the output
        dest: String,
        /// Tasks of each stage
        num_tasks: String,
        #[command(flatten)]
        at: At,
    },
    /// Check, list, show, cancel, pause, resume, save or await jobs, or print their logs
    Job {
        #[command(subcommand)]
        command: job::Command,
        #[command(flatten)]
        at: At,
    },
    /// Switch the suspicion of silent members on or off in the whole cluster, or show it
    Suspicion {
        #[arg(value_enum, default_value = "status")]
        set: SuspicionWord,
        #[command(flatten)]
        at: At,
    },
    /// Move a member's copies and its vote to others, and wait until nothing is lost when it goes; it goes on to serve
    Drain {
        /// Name of the member [default: this one]
        member: Option<String>,
        /// Take it back: it gets its share again
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        at: At,
    },
    /// Leave the cluster: this member's copies move to others, then it stops; or say of one that is down that it left
    Leave {
        /// A member that is down and will not come back [default: this one]
        member: Option<String>,
        /// Do not wait for its copies: the others make them anew. Of one that is down: give up what it alone has
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        at: At,
    },
    /// Start the member of this data folder again in the background, with its last settings
    Join {
        /// Members to join through, besides those it knows
        #[arg(value_name = "HOST:PORT")]
        seeds: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Show the health of this member and of the cluster
    Status {
        #[command(flatten)]
        at: At,
    },
}

/// Which member, and how to print.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// Data folder of the member to talk to [default: that of the mount here, else /var/lib/hydfs]
    #[arg(
        long,
        global = true,
        env = "HYDFS_DATA",
        value_name = "DIR",
        hide_env_values = true
    )]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SuspicionWord {
    On,
    Off,
    Status,
}

/// Runs one of them.
pub fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(answer(command))
}

async fn answer(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { local, hydfs, at } => {
            let sent = transfer::create(&mut connect(&at).await?, &local, &hydfs).await?;
            show::moved(at.json, "created", &hydfs, sent);
        }
        Command::Get { hydfs, local, at } => {
            let got = transfer::get(&mut connect(&at).await?, &hydfs, &local).await?;
            show::got(at.json, &hydfs, &local, got);
        }
        Command::Append { local, hydfs, at } => {
            let sent = transfer::append(&mut connect(&at).await?, &local, &hydfs).await?;
            show::moved(at.json, "appended to", &hydfs, sent);
        }
        Command::Merge { hydfs, at } => {
            let merged = connect(&at).await?.merge(&hydfs).await?;
            show::merged(at.json, &hydfs, merged);
        }
        Command::Ls { hydfs, at } => {
            show::copies(at.json, &connect(&at).await?.locate(&hydfs).await?);
        }
        Command::Store { at } => {
            let mut client = connect(&at).await?;
            let me = client.status().await?.member;
            let rows = client.members().await?;
            let me = rows.into_iter().find(|row| row.name == me);
            show::store(at.json, me.as_ref(), &client.store().await?);
        }
        Command::Getfromreplica {
            member,
            hydfs,
            local,
            at,
        } => {
            let mut client = connect(&at).await?;
            let got = transfer::get_from_replica(&mut client, &member, &hydfs, &local).await?;
            show::got(at.json, &hydfs, &local, got);
        }
        Command::ListMemIds { at } => show::members(at.json, &connect(&at).await?.members().await?),
        Command::Multiappend { hydfs, parts, at } => {
            let parts = transfer::read_parts(parts).await?;
            let done = connect(&at).await?.multi_append(&hydfs, parts).await?;
            show::appended(at.json, &hydfs, &done);
            if let Some(failed) = done.iter().find(|row| row.error.is_some()) {
                return Err(Failure::new(format!(
                    "member {} did not append",
                    failed.member
                )));
            }
        }
        Command::Rainstorm {
            op1,
            op2,
            src,
            dest,
            num_tasks,
            at,
        } => {
            let mut client = connect(&at).await?;
            let job =
                transfer::rainstorm(&mut client, [&op1, &op2, &src, &dest, &num_tasks]).await?;
            show::job(at.json, &job, &dest);
        }
        Command::Job { command, at } => {
            job::run(&mut connect(&at).await?, command, at.json).await?;
        }
        Command::Suspicion { set, at } => {
            let set = match set {
                SuspicionWord::On => Some(true),
                SuspicionWord::Off => Some(false),
                SuspicionWord::Status => None,
            };
            show::suspicion(at.json, connect(&at).await?.suspicion(set).await?);
        }
        Command::Drain { member, cancel, at } => {
            let mut client = connect(&at).await?;
            let drain = match cancel {
                true => client.drain(member, false).await?,
                false => drained(&mut client, member).await?,
            };
            show::drain(at.json, &drain);
        }
        Command::Leave { member, now, at } => {
            let mut client = connect(&at).await?;
            let name = client.status().await?.member;
            if let Some(member) = member.filter(|member| *member != name) {
                client.dismiss(member.clone(), now).await?;
                show::left(at.json, &member);
                return Ok(());
            }
            if !now {
                drained(&mut client, None).await?;
            }
            client.leave().await?;
            show::left(at.json, &name);
        }
        Command::Join { seeds, at } => {
            let data = folder::find(at.data.clone());
            let status = member::join(&data, &seeds).await?;
            show::status(at.json, &status);
        }
        Command::Status { at } => show::status(at.json, &connect(&at).await?.status().await?),
    }
    Ok(())
}

/// Drains a member and waits until it is free to go, with a line on standard error whenever there is news.
async fn drained(client: &mut Client, member: Option<String>) -> Result<Drain, Failure> {
    let mut said = None;
    loop {
        let drain = client.drain(member.clone(), true).await?;
        if drain.is_done() {
            return Ok(drain);
        }
        let news = (drain.slots, drain.bytes);
        if said
            .is_none_or(|(at, before): (Instant, _)| before != news && at.elapsed() >= NEWS_EVERY)
        {
            eprintln!("{}", show::draining(&drain));
            said = Some((Instant::now(), news));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn connect(at: &At) -> Result<Client, Failure> {
    let data = folder::find(at.data.clone());
    Ok(Client::connect(&folder::socket(&data)).await?)
}

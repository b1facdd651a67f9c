//! `hydfs certs`: the cluster's CA and its members' certificates.

use super::failure::Failure;
use clap::Subcommand;
use hydfs_transport::certs;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a CA: ca.crt for every member, ca.key to keep safe.
    Init {
        /// Folder for the files
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
        /// Name of the cluster, seen in the certificates
        #[arg(long, value_name = "NAME", default_value = "hydfs")]
        cluster: String,
    },
    /// Make NAME.crt and NAME.key for a member; whoever holds them is a member, in full trust.
    Issue {
        /// The member's name
        name: String,
        /// Folder with ca.crt and ca.key
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
        /// Further host names or addresses to put into the certificate
        #[arg(long, value_name = "HOST", num_args = 1.., value_delimiter = ',')]
        host: Vec<String>,
        /// Days that it is valid
        #[arg(long, value_name = "DAYS", default_value_t = certs::MEMBER_DAYS)]
        days: u32,
    },
}

pub fn run(args: Args) -> Result<(), Failure> {
    let failed = |error: hydfs_transport::TransportError| Failure::new(error.to_string());
    match args.command {
        Command::Init { dir, cluster } => {
            certs::init(&dir, &cluster).map_err(failed)?;
            let at = dir.display();
            println!(
                "made {at}/ca.crt (copy it to every member) and {at}/ca.key (keep it off the members)"
            );
        }
        Command::Issue {
            name,
            dir,
            host,
            days,
        } => {
            certs::issue(&dir, &name, &host, days).map_err(failed)?;
            let at = dir.display();
            println!(
                "made {at}/{name}.crt and {at}/{name}.key: copy both, and ca.crt, to member {name}"
            );
        }
    }
    Ok(())
}

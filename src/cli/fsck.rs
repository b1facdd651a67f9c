//! `hydfs fsck`: shows what a check of a stopped member's data folder found.

use super::failure::Failure;
use hydfs_node::FolderReport;
use std::{path::PathBuf, process::ExitCode};

/// Exit code where something was found.
const FINDINGS: u8 = 1;
/// Exit code where the folder could not be checked.
const NOT_CHECKED: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data folder of a stopped member
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Exit code 0: clean; 1: there are findings; 2 (as an error): it could not be checked.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let report = hydfs_node::fsck(&args.dir)
        .map_err(|error| Failure::new(format!("not checked: {error}")).code(NOT_CHECKED))?;
    let text = if args.json {
        serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new(format!("no JSON: {error}")).code(NOT_CHECKED))?
            + "\n"
    } else {
        shown(&report)
    };
    use std::io::Write;
    // A reader that went away (`| head`) is no failure of the command.
    drop(write!(std::io::stdout(), "{text}"));
    Ok(if report.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FINDINGS)
    })
}

fn shown(report: &FolderReport) -> String {
    let mut lines = Vec::new();
    for finding in &report.findings {
        let severity = format!("{:?}", finding.severity).to_lowercase();
        let at = finding
            .offset
            .map_or_else(String::new, |offset| format!(" at byte {offset}"));
        lines.push(format!(
            "{severity}: {}{at}: {}\n  remedy: {}",
            finding.path, finding.what, finding.remedy
        ));
    }
    let whose = match &report.identity {
        Some(one) => format!("member {}, {} starts", one.name, one.start_count),
        None => "of an unknown member".to_owned(),
    };
    let looked = &report.looked;
    lines.push(format!(
        "{} ({whose}): {} agreement entries, {} journal entries with {} records, {} bases of {} bytes",
        report.folder,
        report.agreement_entries,
        looked.journal_entries,
        looked.records,
        looked.bases,
        looked.base_bytes
    ));
    lines.push(match report.findings.len() {
        0 => "clean".to_owned(),
        1 => "1 finding; nothing was changed".to_owned(),
        n => format!("{n} findings; nothing was changed"),
    });
    lines.join("\n") + "\n"
}

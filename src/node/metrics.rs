//! The Prometheus page of a member.

use crate::member::Member;
use std::fmt::Write;

/// The Prometheus text page.
pub fn metrics(member: &Member) -> String {
    let mut text = String::new();
    let mut described = String::new();
    // A family is described once, in front of its rows; rows of one family differ in their labels.
    let mut put = |name: &str, help: &str, kind: &str, value: u64| {
        let family = name.split('{').next().unwrap_or(name);
        if described != family {
            described = family.to_owned();
            writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}")
                .expect("text in memory");
        }
        writeln!(text, "{name} {value}").expect("text in memory");
    };
    if let Some(counters) = member.net.counters() {
        counters.each(|name, help, value| put(name, help, "counter", value));
    }
    for (name, help, value) in member.ctx.counters.read() {
        put(name, help, "counter", value);
    }
    put(
        "hydfs_scrub_lost_segments",
        "segments with damage here that no other copy could heal",
        "gauge",
        member.data.replica.health.lost().len() as u64,
    );
    put(
        "hydfs_repair_pace_bytes_per_second",
        "how fast repair may go here now, each way: what callers feel slows it down",
        "gauge",
        member.ctx.throttle.rate(),
    );
    let stats = member.data.replica.journal.log().stats();
    put(
        "hydfs_journal_appends_total",
        "entries written to the record journal",
        "counter",
        stats.appends,
    );
    put(
        "hydfs_journal_bytes_total",
        "bytes written to the record journal",
        "counter",
        stats.bytes,
    );
    put(
        "hydfs_journal_syncs_total",
        "fsyncs of the record journal",
        "counter",
        stats.syncs,
    );
    let metrics = member.group.metrics();
    put(
        "hydfs_agreement_term",
        "term of the agreement group",
        "gauge",
        metrics.term,
    );
    put(
        "hydfs_agreement_log_index",
        "last entry of the agreement log here",
        "gauge",
        metrics.last.map_or(0, |index| index.0),
    );
    put(
        "hydfs_agreement_applied_index",
        "last entry applied here",
        "gauge",
        metrics.applied.0,
    );
    put(
        "hydfs_agreement_voters",
        "voters of the agreement group",
        "gauge",
        metrics.voters.len() as u64,
    );
    let state = member.ctx.state();
    put(
        "hydfs_members_alive",
        "members that are alive",
        "gauge",
        state.cluster.alive.len() as u64,
    );
    let kept = member.volume.kept_counts();
    put(
        "hydfs_kernel_kept_total",
        "answers of which the kernel of the mount may keep something",
        "counter",
        kept.answers,
    );
    put(
        "hydfs_kernel_notices_total",
        "notices to the kernel that something it keeps has changed",
        "counter",
        kept.notices,
    );
    for (operation, count) in member.volume.asked_counts() {
        put(
            &format!("hydfs_mount_requests_total{{operation=\"{operation}\"}}"),
            "requests of the kernel of the mount, by operation",
            "counter",
            count,
        );
    }
    put(
        "hydfs_inodes",
        "inodes",
        "gauge",
        state.names.inodes.len() as u64,
    );
    put(
        "hydfs_segments",
        "segments",
        "gauge",
        state.names.segments.len() as u64,
    );
    put(
        "hydfs_file_bytes",
        "bytes of all files, one copy",
        "gauge",
        state.names.bytes,
    );
    text
}

//! Counts of what the transport did, for the metrics page.

use hydfs_types::Service;
use std::sync::atomic::{AtomicU64, Ordering};

const SERVICES: usize = 4;

/// Monotonic counts; shared by all that show them.
#[derive(Debug, Default)]
pub struct Counters {
    sent: [AtomicU64; SERVICES],
    served: [AtomicU64; SERVICES],
    pub(crate) bytes_out: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) datagrams_out: AtomicU64,
    pub(crate) datagrams_in: AtomicU64,
    pub(crate) datagrams_dropped: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) connects_failed: AtomicU64,
    pub(crate) accepts: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) overloads: AtomicU64,
    pub(crate) malformed: AtomicU64,
}

const SENT: [&str; SERVICES] = [
    "hydfs_net_calls_sent_total{service=\"agreement\"}",
    "hydfs_net_calls_sent_total{service=\"data\"}",
    "hydfs_net_calls_sent_total{service=\"streaming\"}",
    "hydfs_net_calls_sent_total{service=\"control\"}",
];
const SERVED: [&str; SERVICES] = [
    "hydfs_net_calls_served_total{service=\"agreement\"}",
    "hydfs_net_calls_served_total{service=\"data\"}",
    "hydfs_net_calls_served_total{service=\"streaming\"}",
    "hydfs_net_calls_served_total{service=\"control\"}",
];

impl Counters {
    /// Calls `visit` with name (labels included), help and value of every counter, in a fixed order.
    pub fn each(&self, mut visit: impl FnMut(&'static str, &'static str, u64)) {
        let mut show =
            |name, help, value: &AtomicU64| visit(name, help, value.load(Ordering::Relaxed));
        for (name, value) in SENT.into_iter().zip(&self.sent) {
            show(name, "Calls to other members.", value);
        }
        for (name, value) in SERVED.into_iter().zip(&self.served) {
            show(name, "Calls of other members that were answered.", value);
        }
        show(
            "hydfs_net_sent_bytes_total",
            "Bytes of frames sent, before encryption.",
            &self.bytes_out,
        );
        show(
            "hydfs_net_received_bytes_total",
            "Bytes of frames received, after decryption.",
            &self.bytes_in,
        );
        show(
            "hydfs_net_datagrams_sent_total",
            "Datagrams handed to a connection.",
            &self.datagrams_out,
        );
        show(
            "hydfs_net_datagrams_received_total",
            "Datagrams received.",
            &self.datagrams_in,
        );
        show(
            "hydfs_net_datagrams_dropped_total",
            "Datagrams dropped here: too large, no connection, queue full.",
            &self.datagrams_dropped,
        );
        show(
            "hydfs_net_connects_total",
            "Connections opened to other members.",
            &self.connects,
        );
        show(
            "hydfs_net_connects_failed_total",
            "Connections to other members that could not be opened.",
            &self.connects_failed,
        );
        show(
            "hydfs_net_accepts_total",
            "Connections of other members that passed the hello.",
            &self.accepts,
        );
        show(
            "hydfs_net_refused_total",
            "Connections refused by either side: certificate, cluster or protocol.",
            &self.refused,
        );
        show(
            "hydfs_net_timeouts_total",
            "Calls without an answer at their deadline.",
            &self.timeouts,
        );
        show(
            "hydfs_net_overloads_total",
            "Requests and connections turned away because too many were held.",
            &self.overloads,
        );
        show(
            "hydfs_net_malformed_total",
            "Streams that did not carry a frame.",
            &self.malformed,
        );
    }

    /// The value of one counter by its name, labels included.
    pub fn get(&self, name: &str) -> Option<u64> {
        let mut found = None;
        self.each(|at, _, value| {
            if at == name {
                found = Some(value);
            }
        });
        found
    }

    pub(crate) fn sent(&self, service: Service) {
        add(&self.sent[service as usize - 1], 1);
    }

    pub(crate) fn served(&self, service: Service) {
        add(&self.served[service as usize - 1], 1);
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

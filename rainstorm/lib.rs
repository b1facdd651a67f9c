//! RainStorm: the stream processor inside HyDFS. Jobs begin when a spec file is closed in `/.jobs`.
//!
//! It knows nothing of segments, replicas or FUSE: files come through [`Storage`], members and the agreed job
//! table through [`Cluster`]. Every member runs tasks; the leader of the agreement group coordinates. Output,
//! state and positions of a job epoch become visible in one agreed command, or never.

mod aggregate;
mod attempt;
mod audit;
mod audit_outputs;
mod batch;
mod beat;
mod cache;
mod cell;
mod cgroup;
mod change;
mod circles;
mod clock;
mod cold;
mod columns;
mod control;
mod coordinator;
mod csv;
mod dead;
mod decimal;
mod dedup;
mod driver;
mod due;
mod earlier;
mod ends;
mod epochs;
mod error;
mod event_time;
mod exec;
mod filter;
mod follow;
mod forget;
#[cfg(test)]
mod fuzz_tests;
mod glob;
mod held;
mod hold;
mod inbox;
mod join;
mod json_lines;
mod kernel;
mod key;
mod legacy;
mod links;
mod load;
mod lookup;
mod meaning;
mod message;
mod operator;
mod options;
mod outlet;
mod paced;
mod plan;
mod position;
mod prepare;
mod process;
mod range;
mod rate;
mod reach;
mod reader;
mod receipt;
mod resolve;
mod resolve_sinks;
mod rights;
mod room;
mod run;
mod sandbox;
mod savepoint;
mod scale;
mod seams;
mod service;
mod shares;
mod sink;
mod spec;
mod spec_ends;
mod spec_keyed;
mod spec_op;
mod spec_tasks;
mod spec_tree;
mod split;
mod starts;
mod state_log;
mod stateful;
mod status;
mod syscalls;
mod table;
mod task;
mod upgrade;
mod window;
mod worker;

pub use audit::Audited;
pub use error::{Error, Result};
pub use kernel::Kernel;
pub use legacy::legacy_spec;
pub use options::Options;
pub use position::Progress;
pub use prepare::job_name;
pub use savepoint::is_name as is_savepoint_name;
pub use seams::{
    CallError, Cluster, Entry, Owner, Sink, Source, Storage, StorageError, StorageResult,
};
pub use service::Rainstorm;
pub use status::{phase_word, progress, progress_text, status_json, status_text};

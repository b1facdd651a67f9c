//! RainStorm: the stream processor inside HyDFS. Jobs begin when a spec file is closed in `/.jobs`.
//!
//! It knows nothing of segments, replicas or FUSE: files come through [`Storage`], members and the agreed job
//! table through [`Cluster`].

mod seams;

pub use seams::{CallError, Cluster, Entry, Owner, Sink, Source, Storage, StorageError, StorageResult};

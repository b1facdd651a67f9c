//! hydfs-state

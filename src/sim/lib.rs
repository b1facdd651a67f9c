//! hydfs-sim

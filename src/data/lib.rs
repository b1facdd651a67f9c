//! hydfs-data

//! hydfs-ring

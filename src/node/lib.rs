//! hydfs-node

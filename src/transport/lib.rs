//! hydfs-transport

//! hydfs-store

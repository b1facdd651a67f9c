//! hydfs-fs

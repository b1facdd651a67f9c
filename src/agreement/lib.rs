//! hydfs-agreement

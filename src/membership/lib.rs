//! hydfs-membership

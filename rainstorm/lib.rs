//! rainstorm

//! The group as a whole, in one program: all of these build on the same code, which takes long to compile.

mod chaos;
mod common;
mod group;
mod leases;
mod real;

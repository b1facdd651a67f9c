//! Jobs on real clusters, judged by references that are computed here in the plainest way: the sample jobs, broken
//! specs, ways to drop a spec, executables, the predecessor's command, and members that are killed half-way.

mod common;

#[path = "jobs/broken.rs"]
mod broken;
#[path = "jobs/command.rs"]
mod command;
#[path = "jobs/course.rs"]
mod course;
#[path = "jobs/desk.rs"]
mod desk;
#[path = "jobs/dropped.rs"]
mod dropped;
#[path = "jobs/faults.rs"]
mod faults;
#[path = "jobs/input.rs"]
mod input;
#[path = "jobs/kills.rs"]
mod kills;
#[path = "jobs/ordered.rs"]
mod ordered;
#[path = "jobs/processes.rs"]
mod processes;
#[path = "jobs/remembering.rs"]
mod remembering;
#[path = "jobs/samples.rs"]
mod samples;

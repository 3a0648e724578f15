//! What it is to be inside a root.
//!
//! By default nothing is mounted between two tools and nothing runs: a tool that works inside the root makes its own
//! mount, PID and, unless plain root will do, user namespaces, mounts the plan of the document, does its work, and
//! ends. The kernel takes mounts and left-over daemons away with it, whatever killed it. See mount_namespaces(7),
//! pid_namespaces(7), user_namespaces(7).
//!
//! This is the one crate with `unsafe`: fork(2), and the few system calls that no crate wraps.

pub mod mountinfo;
pub mod occupants;

//! What it is to be inside a root.
//!
//! By default nothing is mounted between two tools and nothing runs: a tool that works inside the root makes its own
//! mount, PID and, unless plain root will do, user namespaces, mounts the plan of the document, does its work, and
//! ends. The kernel takes mounts and left-over daemons away with it, whatever killed it. See mount_namespaces(7),
//! pid_namespaces(7), user_namespaces(7).
//!
//! This is the one crate with `unsafe`: fork(2), and the few system calls that no crate wraps.

pub mod arch;
pub mod attach;
pub mod binfmt;
pub mod file;
pub mod gnupg;
pub mod hold;
pub mod identity;
pub mod idmap;
pub mod live;
pub mod mountinfo;
pub mod occupants;
pub mod plan;
pub mod probe;
pub mod root;
pub mod session;
mod sys;
pub mod user;

pub use arch::Arch;
pub use binfmt::Binfmt;
pub use idmap::IdMap;
pub use plan::Mount;
pub use root::Root;
pub use session::{Ended, Inside, Job, Place};
pub use sys::{die_with_us, seal_descriptors};

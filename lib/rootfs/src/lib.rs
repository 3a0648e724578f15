//! Roots: opening and reading them, mounting, running programs inside, and which processes use them.
//!
//! By default nothing is mounted between two tools and nothing runs: a tool that works inside the root makes its own mount,
//! PID and (if needed) user namespaces, mounts the plan of the document, does its work, and ends. The kernel removes the
//! mounts and ends left-over processes with the namespaces, whatever killed the tool. See mount_namespaces(7),
//! pid_namespaces(7), user_namespaces(7).
//!
//! This is the only crate with `unsafe`: for fork(2), and for system calls that no crate wraps.

pub mod arch;
pub mod attach;
pub mod binfmt;
pub mod file;
pub mod gnupg;
pub mod hold;
pub mod identity;
pub mod idmap;
mod kernel;
pub mod live;
pub mod mountinfo;
pub mod occupants;
pub mod plan;
pub mod probe;
pub mod remove;
pub mod root;
pub mod session;
pub mod stand_in;
mod sys;
pub mod tree;
pub mod user;

pub use arch::Arch;
pub use binfmt::Binfmt;
pub use plan::Mount;
pub use root::Root;
pub use session::{Ended, Inside, Job, Place};
pub use stage::members::IdMap;
pub use sys::{die_with_us, inherit, resolve_without_modules, seal_descriptors};

//! Whole pipelines: all of these tests are one program, so that what they share is linked once, and is built once where tests
//! share it. One file of them is `cargo test -p strapline-tests --test suite signals::`.
//!
//! Tests run at the same time in threads of this process: what is a process's own (its directory, environment, umask, signals,
//! namespaces) a test changes in a child only.

mod arches;
mod bad_input;
mod base;
mod boot;
mod causes;
mod choices;
mod chroot;
mod configure;
mod conformance;
mod containers;
mod crowds;
mod examples;
mod faults;
mod files;
mod filesystems;
mod formats;
mod growth;
mod hangs;
mod host_safety;
mod hostile;
mod killed;
mod layers;
mod locked;
mod man;
mod matrix;
mod mirrors;
mod mkdisk;
mod overlays;
mod ownership;
mod pack;
mod pacmans;
mod pacstrap;
mod pipeline;
mod presets;
mod progress;
mod receipt;
mod refusals;
mod repository;
mod reproducible;
mod resumes;
mod security;
mod shells;
mod signals;
mod supervisor;
mod tamper;
mod torture;
mod trees;
mod trixie;
mod trust;
mod verify;
mod workflows;

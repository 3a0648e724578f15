//! One configured item: checked before anything is written, then applied.

use crate::tree::Tree;
use rootfs::session::environment;
use stage::members::TreeFile;
use stage::{Cause, Code, Failure, child, quote};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;
use std::process::{Command, Stdio};

/// One thing that is configured.
pub(crate) trait Item {
    /// Checks that it can be applied in this root, and writes nothing.
    fn check(&self, site: &Site) -> Result<(), Failure>;

    /// Applies it. What is so already is not written.
    fn apply(&self, site: &mut Site) -> Result<(), Failure>;
}

/// What items work on.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) tree: Tree,
    /// Whether what programs print is shown only when they fail.
    pub(crate) quiet: bool,
    pub(crate) warnings: Vec<String>,
    /// Paths that will be there when the items are applied: those of trees.
    pub(crate) coming: BTreeSet<String>,
    /// What trees brought, for the document.
    pub(crate) laid: Vec<TreeFile>,
    /// Mount points of what will grow on a larger disk, for the document.
    pub(crate) grows: Vec<String>,
}

impl Site {
    /// Returns a site where nothing is coming.
    pub(crate) fn of(tree: Tree, quiet: bool) -> Self {
        Self { tree, quiet, warnings: Vec::new(), coming: BTreeSet::new(), laid: Vec::new(), grows: Vec::new() }
    }

    /// Fails where the root lacks a program, which `package` has. `doing` is what it is for, as `generating locales`.
    pub(crate) fn need(&self, program: &str, package: &str, doing: &str) -> Result<(), Failure> {
        match self.tree.has_program(program) {
            true => Ok(()),
            false => Err(lacks(format!("{doing}: the root has no {program}"), package)),
        }
    }

    /// Runs a program of the root, with `input` on its stdin: a password is never in its arguments.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where the root has no such program, [`Code::ChildFailed`] when it fails.
    pub(crate) fn run(&self, program: &str, args: &[&str], input: Option<&str>, doing: &str) -> Result<(), Failure> {
        let out = child::transcript(&mut command(program, args), input.map(str::as_bytes), !self.quiet);
        let out = out.map_err(|failure| not_run(failure, doing))?;
        if out.status.success() {
            return Ok(());
        }
        if self.quiet {
            // Where this cannot be written, the message of the failure cannot be either.
            drop(std::io::stderr().write_all(&out.stdout));
        }
        let (program, ended) = (quote(program), child::ended(out.status));
        Err(Failure::new(Code::ChildFailed, format!("{doing}: running {program}: {ended}")))
    }

    /// Runs a program that answers a question, and returns what it prints on stdout, whatever its exit status.
    pub(crate) fn ask(&self, program: &str, args: &[&str], doing: &str) -> Result<String, Failure> {
        let mut command = command(program, args);
        let out = child::output(command.stdin(Stdio::null()).stderr(Stdio::null()));
        let out = out.map_err(|failure| not_run(failure, doing))?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Runs a program that answers yes with exit status 0.
    pub(crate) fn confirms(&self, program: &str, args: &[&str], input: &str, doing: &str) -> Result<bool, Failure> {
        let out = child::transcript(&mut command(program, args), Some(input.as_bytes()), false);
        Ok(out.map_err(|f| not_run(f, doing))?.status.success())
    }
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(environment());
    // There is no systemd to talk to, and systemctl(1) believes this.
    command.env("SYSTEMD_OFFLINE", "1").stdin(Stdio::null());
    command
}

fn not_run(failure: Failure, doing: &str) -> Failure {
    let is_missing = failure.cause == Some(Cause::System(rustix::io::Errno::NOENT.raw_os_error()));
    let code = if is_missing { Code::NotFound } else { failure.code };
    Failure { code, ..failure }.while_doing(doing)
}

/// Returns the failure of what the root does not have.
pub(crate) fn not_found(message: impl Display) -> Failure {
    Failure::new(Code::NotFound, message)
}

/// Returns the failure of what the root does not have, and `package` brings.
pub(crate) fn lacks(message: impl Display, package: &str) -> Failure {
    not_found(message).hint(format!("install it first: 'strap {package}'"))
}

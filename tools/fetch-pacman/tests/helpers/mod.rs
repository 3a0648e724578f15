//! What the tests need: packages and databases, a server with faults, and a way to run the tool.

pub(crate) mod fixture;
pub(crate) mod keys;
pub(crate) mod server;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory of a test's own, with a cache in it.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: tempfile::TempDir,
}

/// How a run of the tool ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Returns the command with this lab's cache and nobody trusted that the presets do not.
    pub(crate) fn plain(&self) -> Command {
        let mut command = bare();
        command.arg("--cache-dir").arg(self.path("cache"));
        command
    }

    /// Returns the command with this lab's cache and trust in the key that signs packages.
    pub(crate) fn tool(&self) -> Command {
        let mut command = self.plain();
        command.args(["--trust", &keys::keys().lilac.fingerprint]);
        command
    }

    /// Returns the command with these servers.
    pub(crate) fn ask(&self, servers: &[&str]) -> Command {
        Self::at(self.tool(), servers)
    }

    /// Returns a command with these servers.
    pub(crate) fn at(mut command: Command, servers: &[&str]) -> Command {
        for server in servers {
            command.args(["--server", server]);
        }
        command
    }

    /// Returns the names in a directory of the cache, in order.
    pub(crate) fn cached(&self, dir: &str) -> Vec<String> {
        names(&self.path("cache").join(dir))
    }
}

/// Returns the names in a directory, in order.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns the command with nothing of this host's environment that steers it.
pub(crate) fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetch-pacman"));
    command.stdin(Stdio::null());
    for scheme in ["http", "https", "all", "no"] {
        command.env_remove(format!("{scheme}_proxy"));
        command.env_remove(format!("{}_PROXY", scheme.to_uppercase()));
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Run {
    /// Returns the one document on stdout.
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        let document: Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(document["strapline"], 1);
        document
    }

    /// Asserts that it went well, and returns the document.
    #[track_caller]
    pub(crate) fn good(&self) -> Value {
        assert_eq!(self.status, Some(0), "{self:?}");
        let document = self.document();
        assert_eq!(document.get("error"), None, "{self:?}");
        document
    }

    /// Asserts that it failed as it should, on all three ways, and returns the document.
    #[track_caller]
    pub(crate) fn bad(&self, exit: i32, code: &str, words: &[&str]) -> Value {
        assert_eq!(self.status, Some(exit), "{self:?}");
        let document = self.document();
        let error = &document["error"];
        assert_eq!(error["tool"], "fetch-pacman");
        assert_eq!(error["exit"], exit);
        assert_eq!(error["code"], code, "{self:?}");
        let message = error["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "'{word}' is not in {self:?}");
        }
        let line = format!("fetch-pacman: {message}");
        let said = self.stderr.lines().filter(|l| *l == line).count();
        assert_eq!(said, 1, "{self:?}");
        if let Some(hint) = error["hint"].as_str() {
            let line = format!("fetch-pacman: hint: {hint}");
            assert_eq!(self.stderr.lines().last(), Some(&*line), "{self:?}");
        }
        assert_eq!(document.get("pacman"), None, "{self:?}");
        document
    }
}

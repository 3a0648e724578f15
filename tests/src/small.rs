//! How the tests of one tool run the built program on a small root of their own: with a document on stdin, and what it left.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// Exit status.
    pub status: i32,
    /// What came out on stderr.
    pub stderr: String,
    /// The document on stdout; null where there is none.
    pub document: Value,
}

impl Ran {
    /// Reads what a program left that ended by itself.
    ///
    /// # Panics
    ///
    /// Where a signal ended it.
    #[must_use]
    pub fn of(out: &Output) -> Self {
        Self {
            status: out.status.code().expect("it ended by itself"),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
            document: document(&out.stdout),
        }
    }

    /// Checks that it failed with this code, this line on stderr and its own exit status in the document.
    ///
    /// # Panics
    ///
    /// Where it did not.
    #[track_caller]
    pub fn failed(&self, code: &str, line: &str) {
        assert!(self.stderr.lines().any(|l| l.contains(line)), "no «{line}» in: {}", self.stderr);
        assert_eq!(self.document["error"]["code"], code, "{}", self.stderr);
        assert_eq!(self.document["error"]["exit"], self.status);
    }
}

/// Reads what came out on stdout: a document of the schema, or nothing of the kind, which is null.
fn document(stdout: &[u8]) -> Value {
    let document: Value = serde_json::from_slice(stdout).unwrap_or_default();
    if document.is_object() {
        crate::schema::check(&document);
    }
    document
}

/// Returns a program that cargo built for its tests, or that of `STRAPLINE_BIN_DIR`.
#[must_use]
pub fn program(built: &str) -> PathBuf {
    let built = Path::new(built);
    match (std::env::var_os("STRAPLINE_BIN_DIR"), built.file_name()) {
        (Some(dir), Some(name)) => Path::new(&dir).join(name),
        _ => built.to_owned(),
    }
}

/// Has a command run in a directory, with pipes and without a date.
pub fn prepare(command: &mut Command, directory: &Path) {
    command
        .current_dir(directory)
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

/// Starts a command that was prepared, with this document.
///
/// # Panics
///
/// Where it cannot be started, or does not read.
#[must_use]
pub fn start(command: &mut Command, document: &Value) -> Child {
    let mut child = command.spawn().expect("the program is built");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(document.to_string().as_bytes()).expect("it reads");
    child
}

/// Returns the names in a directory, sorted.
///
/// # Panics
///
/// Where it cannot be read.
#[must_use]
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("our own directory");
    let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Runs a program of others, whose success is asked for, and returns what it says.
///
/// # Panics
///
/// Where it is not installed, or fails.
#[track_caller]
pub fn tool(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: tests/host-packages names its package"));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}{errors}");
    said
}

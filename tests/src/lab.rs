//! A laboratory: a directory, a way to run pipelines in it as this or that user, and a look at the host before and after.

use crate::bin_dir;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Who runs a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Root of this machine.
    Root,
    /// An ordinary user with a range of subordinate ids, in a mount namespace of its own that has them in its `/etc`: the
    /// host's files are not touched.
    User,
    /// An ordinary user without subordinate ids.
    Poor,
}

/// The ordinary user's ids. No distribution gives them to anybody.
pub const UID: u32 = 64_001;

/// Where the subordinate ids begin.
pub const SUBIDS: u32 = 1_900_000_000;

/// What a run left.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// Exit status; 128 + n for signal n.
    pub status: i32,
    /// What came out on stdout.
    pub stdout: String,
    /// What came out on stderr.
    pub stderr: String,
}

impl Ran {
    /// Runs a command with something to read.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[must_use]
    pub fn of(command: &mut Command, input: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("running {command:?}: {e}"));
        // A program that refuses its command line reads nothing.
        drop(child.stdin.take().map(|mut to| to.write_all(input.as_bytes())));
        Self::from(child.wait_with_output().expect("our own child"))
    }

    /// Checks that it went well and said nothing, and returns the document.
    ///
    /// # Panics
    ///
    /// Where it did not.
    #[track_caller]
    pub fn done(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        self.succeeded()
    }

    /// Checks that it failed with this status and code, and that stderr is these lines and no other: the message, which the
    /// document has too, and the hint. Returns the document.
    ///
    /// # Panics
    ///
    /// Where it did not.
    #[track_caller]
    pub fn refused(&self, tool: &str, status: i32, code: &str, lines: &[&str]) -> Value {
        let hint = lines.get(1).copied();
        let hint_line = hint.map_or(String::new(), |hint| format!("{tool}: hint: {hint}\n"));
        let expected = format!("{tool}: {}\n{hint_line}", lines[0]);
        assert_eq!((self.status, &self.stderr), (status, &expected));
        let document = self.document();
        let error = &document["error"];
        assert_eq!(error["tool"], tool);
        assert_eq!(error["exit"], status);
        assert_eq!(error["code"], code);
        assert_eq!(error["message"], lines[0]);
        assert_eq!(error["hint"].as_str(), hint);
        document
    }

    /// Returns the document on stdout.
    ///
    /// # Panics
    ///
    /// Where stdout is not exactly one document.
    #[must_use]
    pub fn document(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(document) => {
                crate::schema::check(&document);
                document
            }
            Err(e) => panic!("no document on stdout ({e}): {self:?}"),
        }
    }

    /// Checks that all went well, and returns the document.
    ///
    /// # Panics
    ///
    /// Where it did not.
    #[must_use]
    pub fn succeeded(&self) -> Value {
        assert_eq!(self.status, 0, "{}", self.stderr);
        let document = self.document();
        assert_eq!(document.get("error"), None, "{document}");
        document
    }

    /// Checks that it failed with this status and this line on stderr, and that the document says the same.
    ///
    /// # Panics
    ///
    /// Where it did not.
    #[track_caller]
    pub fn failed(&self, status: i32, line: &str) {
        assert_eq!(self.status, status, "{}\n{}", self.stderr, self.stdout);
        assert!(self.stderr.lines().any(|l| l.contains(line)), "no line with «{line}» in:\n{}", self.stderr);
        let document = self.document();
        assert_eq!(document["error"]["exit"], status, "{document}");
        let message = document["error"]["message"].as_str().unwrap_or_default();
        assert!(self.stderr.contains(message), "«{message}» is not on stderr:\n{}", self.stderr);
    }
}

/// A laboratory. When it goes, it checks that the host is what it was.
#[derive(Debug)]
pub struct Lab {
    dir: Option<tempfile::TempDir>,
    path: PathBuf,
    who: Who,
    before: Host,
}

impl Lab {
    /// Makes a laboratory for `who`.
    ///
    /// # Panics
    ///
    /// Where this is not root: the tests make namespaces of their own, and an ordinary user out of nothing.
    #[must_use]
    pub fn new(who: Who) -> Self {
        let me = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
        assert_eq!(me.ok(), Some(0), "this test needs root: run 'make test', which asks sudo for it");
        let before = Host::look();
        let dir =
            tempfile::Builder::new().prefix("strapline-test-").tempdir_in("/var/tmp").expect("room below /var/tmp");
        let path = dir.path().to_owned();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own directory");
        if who != Who::Root {
            chown(&path, Some(UID), Some(UID)).expect("root may give a directory away");
        }
        Self { dir: Some(dir), path, who, before }
    }

    /// Returns the laboratory's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a command that runs `program` in the laboratory, as its user, with the programs under test first in `PATH`.
    ///
    /// # Panics
    ///
    /// Where the programs are not built.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = format!("{}:{}", bin_dir().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = match self.who {
            Who::Root => Command::new(found(program.as_ref(), &path)),
            Who::User | Who::Poor => {
                let mut command = Command::new(found("unshare".as_ref(), &path));
                command.args(["--mount", "--propagation", "private", "sh", "-c", BECOME, "sh"]);
                command.arg(crate::top()).arg(self.user_files()).arg(UID.to_string()).arg(program);
                command
            }
        };
        command
            .current_dir(&self.path)
            .env("PATH", path)
            .env("HOME", self.path.join("home"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        command
    }

    /// Runs a script of sh(1) to its end.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[must_use]
    pub fn sh(&self, script: &str) -> Ran {
        run(self.command("sh").args(["-c", script]))
    }

    /// Runs a script of sh(1) as root, which must succeed, and returns what it printed. An agent that gpg starts ends with it.
    ///
    /// # Panics
    ///
    /// Where it fails.
    #[must_use]
    #[track_caller]
    pub fn run_script(&self, script: &str) -> String {
        fs::write(self.path.join("script"), script).expect("our own directory");
        let ran = self.sh("exec unshare --pid --fork --kill-child sh -eu script");
        assert_eq!(ran.status, 0, "{script}\n{}", ran.stderr);
        ran.stdout
    }

    /// Writes the files that make the ordinary user known, and returns their directory.
    fn user_files(&self) -> PathBuf {
        let dir = self.path.join(".etc");
        let range = match self.who {
            Who::User => format!("strapper:{SUBIDS}:65536\n"),
            _ => String::new(),
        };
        let passwd = format!(
            "{}strapper:x:{UID}:{UID}::{}:/bin/sh\n",
            fs::read_to_string("/etc/passwd").unwrap_or_default(),
            self.path.display()
        );
        let group = format!("{}strapper:x:{UID}:\n", fs::read_to_string("/etc/group").unwrap_or_default());
        fs::create_dir_all(&dir).expect("our own directory");
        for (name, text) in [("passwd", &passwd), ("group", &group), ("subuid", &range), ("subgid", &range)] {
            // Others of this laboratory may be reading it: it is never empty between two commands.
            let path = dir.join(name);
            if fs::read_to_string(&path).is_ok_and(|is| is == *text) {
                continue;
            }
            fs::write(path, text).expect("our own directory");
        }
        dir
    }
}

/// Looks a program up in `path`. With a `PATH` of its own and a program without one, the standard library forks instead of
/// posix_spawn(3): that copies the page tables of a process that has grown to a gigabyte, and until the child runs its program
/// it holds the files and locks of all other tests.
pub(crate) fn found(program: &OsStr, path: &str) -> PathBuf {
    let mut dirs = std::env::split_paths(path).map(|dir| dir.join(program));
    dirs.find(|file| file.is_file()).unwrap_or_else(|| PathBuf::from(program))
}

/// Makes the user known in this mount namespace, and becomes it.
pub const BECOME: &str = include_str!("../become.sh");

/// Runs a command to its end.
///
/// # Panics
///
/// Where it cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> Ran {
    let out = command.output();
    Ran::from(out.unwrap_or_else(|e| panic!("running {command:?}: {e}")))
}

impl From<Output> for Ran {
    fn from(out: Output) -> Self {
        let by = out.status.signal().unwrap_or(0);
        Self {
            status: out.status.code().unwrap_or(128 + by),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The first failure is the one to see; what it left is looked at by hand.
            let kept = self.dir.take().map(tempfile::TempDir::keep);
            eprintln!("kept {}", kept.unwrap_or_default().display());
            return;
        }
        let left = Host::look().mounts_below(&self.path);
        if !left.is_empty() {
            // Never a recursive delete below what is mounted.
            drop(self.dir.take().map(tempfile::TempDir::keep));
        }
        assert_eq!(left, Vec::<String>::new(), "mounts are left");
        self.before.compare(&Host::look(), &self.path);
    }
}

/// What a test must leave as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    mounts: Vec<String>,
    /// The files behind loop devices.
    loops: Vec<String>,
    binfmt: Vec<String>,
}

impl Host {
    /// Looks at the host.
    #[must_use]
    pub fn look() -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut mounts: Vec<_> = mountinfo.lines().filter_map(|l| l.split(' ').nth(4).map(str::to_owned)).collect();
        mounts.sort();
        let names = |dir: &str| {
            let mut names: Vec<_> = fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        let backing = |name: String| {
            let file = Path::new("/sys/block").join(name).join("loop/backing_file");
            fs::read_to_string(file).ok()
        };
        Self {
            mounts,
            loops: names("/sys/block").into_iter().filter_map(backing).collect(),
            binfmt: names("/proc/sys/fs/binfmt_misc"),
        }
    }

    /// Returns the mounts at or below a directory.
    #[must_use]
    pub fn mounts_below(&self, dir: &Path) -> Vec<String> {
        self.mounts.iter().filter(|m| Path::new(m).starts_with(dir)).cloned().collect()
    }

    /// Checks that `now` is what this was, and that no process has its root, its program or its directory below `dir`.
    ///
    /// Other tests run at the same time and mount below directories of their own, which are not looked at here.
    ///
    /// # Panics
    ///
    /// Where something is left.
    pub fn compare(&self, now: &Self, dir: &Path) {
        let foreign = |m: &&String| !m.contains("/strapline-test-");
        let (before, after): (Vec<_>, Vec<_>) =
            (self.mounts.iter().filter(foreign).collect(), now.mounts.iter().filter(foreign).collect());
        assert_eq!(before, after, "the host's mounts changed");
        assert_eq!(self.binfmt, now.binfmt, "the host's binfmt table changed");
        let loops: Vec<_> = now.loops.iter().filter(|f| Path::new(f).starts_with(dir)).collect();
        assert_eq!(loops, Vec::<&String>::new(), "loop devices are left");
        assert_eq!(processes_below(dir), Vec::<String>::new(), "processes are left");
    }
}

/// Returns the processes whose root, program or working directory is at or below a directory, or that have its path
/// among their arguments.
#[must_use]
pub fn processes_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let link = |what: &str| fs::read_link(entry.path().join(what)).unwrap_or_default();
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let there = ["root", "cwd", "exe"].iter().any(|what| link(what).starts_with(dir));
        if there || words.contains(&*dir.to_string_lossy()) {
            found.push(format!("{name} {words}"));
        }
    }
    found
}

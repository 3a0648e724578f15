//! Ground for the tests of built programs: a directory, an ordinary user with subordinate ids, and a root that has a
//! shell. Shared by `enter`, `mkroot` and `strap`.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "all of this is part of a test")]

use crate::lab::{BECOME, Ran, SUBIDS, UID, processes_below};
use crate::trial::PATIENCE;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory for a test, and who runs programs in it.
#[derive(Debug)]
pub struct Ground {
    dir: tempfile::TempDir,
    bins: PathBuf,
    user: bool,
}

impl Ground {
    /// `own` is the program under test; others are looked for beside it.
    pub fn new(own: &str, user: bool) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes mounts and namespaces: run it as root");
        let dir = tempfile::Builder::new().prefix("strapline-cli-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if user {
            chown(dir.path(), Some(UID), Some(UID)).unwrap();
            let etc = dir.path().join(".etc");
            fs::create_dir(&etc).unwrap();
            let ids = format!("strapper:{SUBIDS}:65536\n");
            let read = |file: &str| fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            for (name, text) in [
                ("passwd", format!("{}strapper:x:{UID}:{UID}::/:/bin/sh\n", read("passwd"))),
                ("group", format!("{}strapper:x:{UID}:\n", read("group"))),
                ("subuid", ids.clone()),
                ("subgid", ids),
            ] {
                fs::write(etc.join(name), text).unwrap();
            }
        }
        let bins = Path::new(own).parent().unwrap().to_owned();
        Self { dir, bins, user }
    }

    /// Returns the path of what lies below the directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Returns the path in text.
    pub fn at(&self, below: &str) -> String {
        self.path(below).display().to_string()
    }

    /// Returns another program of the suite.
    pub fn beside(&self, tool: &str) -> PathBuf {
        let path = self.bins.join(tool);
        assert!(path.exists(), "{} is not built: cargo build --workspace", path.display());
        path
    }

    /// A command in the directory, as its user, with an empty environment but for the path.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(if self.user { Path::new("/usr/bin/unshare") } else { program.as_ref() });
        if self.user {
            command
                .args(["--mount", "--propagation", "private", "sh", "-c", BECOME])
                .arg("sh")
                .arg(self.bins.as_path())
                .arg(self.path(".etc"))
                .arg(UID.to_string())
                .arg(program.as_ref());
        }
        let path = std::env::var("PATH").unwrap();
        command
            .env_clear()
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.bins.display()))
            .current_dir(self.dir.path());
        command
    }

    /// Runs a program with nothing to read but `input`.
    pub fn run(&self, program: impl AsRef<Path>, args: &[&str], input: &str) -> Ran {
        Ran::of(self.command(program).args(args), input)
    }

    /// Runs a script of sh(1).
    pub fn sh(&self, script: &str) -> Ran {
        self.run("/bin/sh", &["-c", script], "")
    }

    /// Runs mkroot, which is to go well, and keeps its document in `root.json`.
    pub fn mkroot(&self, options: &str) -> Value {
        self.beside("mkroot");
        let ran = self.sh(&format!("mkroot --new root {options}"));
        let document = ran.done();
        fs::write(self.path("root.json"), &ran.stdout).unwrap();
        document
    }

    /// Copies programs of the host into the root, with the libraries that ldd(1) lists, a shell, and a user.
    pub fn furnish(&self, programs: &[&str]) {
        let root = self.path("root");
        let mut files = BTreeSet::new();
        for program in [&["sh"], programs].concat() {
            let found = Ran::of(Command::new("sh").args(["-c", "command -v $0", program]), "");
            let from = fs::canonicalize(found.stdout.trim()).unwrap_or_else(|e| panic!("{program}: {e}"));
            let to = root.join("usr/bin").join(program);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            // See scripted::Ground::run.
            assert!(Command::new("cp").args([&from, &to]).status().unwrap().success(), "copying {program}");
            let libraries = Ran::of(Command::new("ldd").arg(&from), "");
            // name => /path (0x1234), or /path (0x1234)
            let words = libraries.stdout.split_whitespace();
            files.extend(words.filter(|w| w.starts_with('/')).map(str::to_owned));
        }
        for file in files {
            let to = root.join(file.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
        if !root.join("bin").exists() {
            std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        }
        let etc = root.join("etc");
        fs::write(etc.join("resolv.conf"), "").unwrap();
        fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n").unwrap();
        fs::write(etc.join("group"), "root:x:0:\nann:x:1000:\nwheel:x:998:ann\nvideo:x:985:bob\n").unwrap();
    }

    /// Returns what of the host's is mounted at or below the directory.
    pub fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.at("");
        all.lines().filter_map(|l| l.split(' ').nth(4)).filter(|at| at.starts_with(&here)).map(str::to_owned).collect()
    }

    /// Checks that nothing runs or is mounted below the directory, within a time that the kernel may take.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        assert_eq!(self.mounts(), Vec::<String>::new());
        let begin = std::time::Instant::now();
        loop {
            let left = processes_below(self.dir.path());
            if left.is_empty() {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "processes are left: {left:#?}");
            let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            rustix::event::poll(&mut [], Some(&moment)).unwrap();
        }
    }
}

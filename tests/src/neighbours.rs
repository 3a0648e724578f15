//! What lies and runs right beside a root and is not of it: whatever is done to the root, it must be as it was.
//!
//! A directory with a mount, laid out like a root that is in use, and processes (`tests/neighbours.py`) that the text of a path, a
//! name or a number would take for the root's: in chroots that were removed, that have the name that the kernel shows for such a
//! one, or the root's own in another mount namespace; daemons and agents of GnuPG there and here; another user's process.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "all of this is part of a test")]

use crate::top;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// What of a laboratory is theirs, by name: that of their directory begins like the name of the root beside it.
pub const NAMES: [&str; 2] = [DIRECTORY, "root (deleted)"];
const DIRECTORY: &str = "rooted";

/// The neighbours of the root `root` of a laboratory. They end with this, and at the latest with this program.
#[derive(Debug)]
pub struct Neighbours {
    script: Child,
    said: BufReader<ChildStdout>,
    dir: PathBuf,
    mount: PathBuf,
    /// Where one agent's keyring is: short, as the name of a socket has at most 107 bytes.
    _home: tempfile::TempDir,
    processes: Vec<String>,
    before: Vec<String>,
}

impl Neighbours {
    /// Starts them, and waits until all are there. The root must not be made yet.
    #[must_use]
    pub fn beside(lab: &Path) -> Self {
        let dir = lab.join(DIRECTORY);
        let mount = dir.join("proc");
        for path in ["proc", "etc/pacman.d/gnupg", "tmp"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        fs::write(dir.join("etc/pacman.d/gnupg/secret"), "another's\n").unwrap();
        fs::write(dir.join("etc/passwd"), "another's, too\n").unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "another"]).arg(&mount));
        fs::write(mount.join("mounted"), "on it\n").unwrap();
        let home = tempfile::Builder::new().prefix("gpg-").tempdir_in("/tmp");
        let home = home.unwrap();
        let mut script = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "python3"])
            .arg(top().join("tests/neighbours.py"))
            .args([lab, home.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut all = Self {
            said: BufReader::new(script.stdout.take().unwrap()),
            script,
            dir,
            mount,
            _home: home,
            processes: Vec::new(),
            before: Vec::new(),
        };
        all.settle();
        all
    }

    /// Starts one more, which uses the root itself in another mount namespace. The root must be there.
    pub fn use_the_root(&mut self) {
        self.script.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        self.settle();
    }

    /// Waits until all are where they are to be, and keeps what they are.
    fn settle(&mut self) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, "\n", "tests/neighbours.py");
        self.processes = descendants(self.script.id());
        self.before = self.look();
    }

    /// Whether a line of [`crate::trial::processes`], which begins with a pid, is about one of the processes.
    #[must_use]
    pub fn has(&self, line: &str) -> bool {
        let line = line.strip_prefix("/proc/").unwrap_or(line);
        let pid = line.split(' ').next();
        pid == Some(&self.script.id().to_string()) || self.processes.iter().any(|p| p.split(' ').next() == pid)
    }

    /// All that can be seen of the processes, of the files but when they were last read, and of the mount.
    fn look(&self) -> Vec<String> {
        let mut all: Vec<_> = self.processes.iter().map(|is| identity(is)).collect();
        let mut todo = vec![self.dir.clone()];
        while let Some(path) = todo.pop() {
            let meta = path.symlink_metadata().unwrap();
            let content = match meta.is_file() {
                true => fs::read(&path).unwrap(),
                false => Vec::new(),
            };
            if meta.is_dir() {
                let below = fs::read_dir(&path).unwrap();
                let mut below: Vec<_> = below.map(|e| e.unwrap().path()).collect();
                below.sort();
                todo.extend(below);
            }
            all.push(format!(
                "'{}' of device {} inode {} mode {:o} owner {}:{} changed {}.{}: {}",
                path.display(),
                meta.dev(),
                meta.ino(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.ctime(),
                meta.ctime_nsec(),
                String::from_utf8_lossy(&content).trim()
            ));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.to_string_lossy();
        let theirs = mounts.lines().filter(|l| l.contains(&*dir));
        all.extend(theirs.map(str::to_owned));
        all
    }

    /// Checks that all is as it was.
    #[track_caller]
    pub fn unharmed(&self, when: &str) {
        let now = self.look();
        let differs = now.iter().zip(&self.before).find(|(is, was)| is != was);
        if let Some((is, was)) = differs {
            panic!("{when}: of another: it was {was}, and is {is}");
        }
        assert_eq!(now.len(), self.before.len(), "{when}: of another: {now:#?}");
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let ended = self.script.wait();
        let unmounted = Command::new("umount").arg(&self.mount).status();
        if !std::thread::panicking() {
            assert!(ended.unwrap().success() && unmounted.unwrap().success());
        }
    }
}

/// Returns the processes below one, each as its pid, its name and when it started.
fn descendants(of: u32) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![of.to_string()];
    while let Some(pid) = todo.pop() {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(path).unwrap();
        for child in children.split_whitespace() {
            todo.push(child.to_owned());
            found.push(identity(child));
        }
    }
    found
}

/// Returns a process, of which the first word is the pid, as its pid, its name and when it started, as long as it lives.
fn identity(process: &str) -> String {
    let pid = process.split(' ').next().unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat.rsplit_once(") ") {
        Some((name, fields)) if !fields.starts_with(['Z', 'X', 'T']) => {
            format!("{name}) since {}", fields.split(' ').nth(19).unwrap())
        }
        _ => format!("{pid} is no more: {stat}"),
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {out:?}");
}

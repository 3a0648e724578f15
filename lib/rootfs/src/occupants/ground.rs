//! Ground for the tests of this module: real processes that end with the test.

use crate::root::RootId;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that a test started, and that ends with the test.
pub(super) struct Started(Child);

impl Started {
    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Makes it a zombie.
    pub(super) fn end_but_do_not_reap(&mut self) {
        drop(self.0.stdin.take());
        let pid = nix::unistd::Pid::from_raw(self.pid());
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a shell that runs the script, and then becomes a cat: what comes back through it says that it has.
pub(super) fn start(dir: &Path, script: &str) -> Started {
    let mut child = Command::new("sh")
        .args(["-c", &format!("{script}; exec cat")])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Started(child)
}

pub(super) fn id(path: &Path) -> RootId {
    let stat = path.metadata().unwrap();
    RootId {
        dev: stat.dev(),
        ino: stat.ino(),
    }
}

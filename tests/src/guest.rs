//! A virtual machine that a test watches: it reads the serial console, looks inside by ssh, and cuts the power.

use crate::Ran;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The most that a machine may take to say what it is waited for. On two idle processors it takes one minute.
const LIMIT: Duration = Duration::from_secs(1500);

/// A running machine. It ends with this.
pub struct Guest {
    child: Child,
    console: Receiver<String>,
    /// What it said so far.
    said: String,
    dir: PathBuf,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("child", &self.child).finish_non_exhaustive()
    }
}

impl Guest {
    /// Starts QEMU with a network, and its serial console on stdout. `dir` is for its monitor and ssh's known hosts.
    ///
    /// # Panics
    ///
    /// Where it is not there.
    #[must_use]
    pub fn start(qemu: &mut Command, dir: &Path) -> Self {
        let dir = dir.to_owned();
        qemu.arg("-nographic")
            // A port that is free: QEMU's monitor says which.
            .args(["-nic", "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:0-:22"])
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", dir.join("monitor").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = qemu.spawn().unwrap_or_else(|e| panic!("running {qemu:?}: {e}"));
        let mut from = BufReader::new(child.stdout.take().expect("a pipe"));
        let (to, console) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Self { child, console, said: String::new(), dir }
    }

    /// Waits until it says a line with this text.
    ///
    /// # Panics
    ///
    /// Where it ends, or takes too long.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        if let Err(why) = self.read_until(|line| line.contains(text)) {
            panic!("the machine did not say '{text}': {why}\n{}", self.said);
        }
    }

    fn read_until(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), RecvTimeoutError> {
        let end = Instant::now() + LIMIT;
        loop {
            let line = self.console.recv_timeout(end.saturating_duration_since(Instant::now()))?;
            self.said.push_str(&line);
            if wanted(&line) {
                return Ok(());
            }
        }
    }

    /// Waits until it has switched itself off.
    ///
    /// # Panics
    ///
    /// Where QEMU fails, or it takes too long.
    #[track_caller]
    pub fn wait_for_end(mut self) {
        let why = self.read_until(|_| false);
        assert_eq!(why, Err(RecvTimeoutError::Disconnected), "the machine did not end:\n{}", self.said);
        let status = self.child.wait().expect("our own child");
        assert!(status.success(), "{status}\n{}", self.said);
    }

    /// Cuts the power: QEMU ends at once.
    pub fn cut(self) {
        drop(self);
    }

    /// Runs a script of bash as root, by way of ssh as `user`, who may use sudo, with the key in the file `key` of the directory.
    /// The machine's host keys are those that it had when it was first asked.
    ///
    /// # Panics
    ///
    /// Where ssh is not there, or the monitor does not answer.
    #[must_use]
    pub fn run(&self, user: &str, script: &str) -> Ran {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-i", "key", "-p", &self.port(), "-l", user])
            .args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=guest"])
            .args(["-o", "UserKnownHostsFile=known_hosts", "-o", "StrictHostKeyChecking=accept-new"])
            .args(["-o", "ConnectTimeout=600", "-o", "ServerAliveInterval=60", "-o", "ServerAliveCountMax=20"])
            .args(["127.0.0.1", "sudo", "bash", "-eu"])
            .current_dir(&self.dir);
        Ran::of(&mut ssh, script)
    }

    /// Asks the monitor which port leads to the guest's port 22.
    fn port(&self) -> String {
        let mut monitor = UnixStream::connect(self.dir.join("monitor")).expect("QEMU listens");
        monitor.set_read_timeout(Some(LIMIT)).expect("a time");
        monitor.write_all(b"info usernet\n").expect("QEMU reads");
        let mut lines = BufReader::new(monitor).lines().map(|line| line.expect("QEMU answers"));
        // A descriptor, the address and the port of this host, and those of the guest.
        let port = |line: String| Some(line.split_once("TCP[HOST_FORWARD]")?.1.split_whitespace().nth(2)?.to_owned());
        lines.find_map(port).expect("QEMU forwards a port")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

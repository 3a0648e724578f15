//! What the pipeline tests stand on: the built programs, the offline mirror, a server on loopback, and a laboratory that
//! checks that the host is what it was.
//!
//! Nothing here stands in for a part of the real thing: pacman, gpg, QEMU and the kernel are the host's own. What is
//! missing makes a test fail, with what to install.

pub mod bootable;
pub mod daemons;
pub mod formats;
pub mod gpg;
pub mod ground;
pub mod guest;
pub mod lab;
pub mod matrix;
pub mod neighbours;
pub mod proxy;
pub mod schema;
pub mod screen;
pub mod scripted;
pub mod server;
pub mod small;
pub mod tier;
pub mod trial;

pub use guest::Guest;
pub use lab::{Lab, Ran, Who};
pub use neighbours::Neighbours;
pub use proxy::Proxy;
pub use server::{Answer, Request, Server};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Once};

/// Returns the top of the source tree.
#[must_use]
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Returns the directory of the programs under test: `STRAPLINE_BIN_DIR`, else where cargo put them beside this test.
///
/// # Panics
///
/// Where they are not built.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let dir = std::env::var_os("STRAPLINE_BIN_DIR").map_or_else(
        || {
            // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM
            let exe = std::env::current_exe().expect("this program has a path");
            let dir = exe.parent().expect("a program lies in a directory");
            let above = dir.parent().filter(|_| dir.ends_with("deps"));
            above.unwrap_or(dir).to_owned()
        },
        PathBuf::from,
    );
    for tool in TOOLS {
        assert!(dir.join(tool).exists(), "{} is not built: cargo build --workspace", dir.join(tool).display());
    }
    dir
}

pub use stage::TOOLS;

/// Returns the program of another Debian suite's pacman, `trixie` or `sid`, and unpacks it where it is not there yet. It
/// stays between runs.
///
/// # Panics
///
/// Where it cannot be had: `mkpacman` says why.
#[must_use]
pub fn pacman_of(suite: &str) -> PathBuf {
    let dir = top().join("build").join(format!("pacman-{suite}"));
    let mut command = Command::new(top().join("tests/mirror/mkpacman"));
    once(&dir, command.args(["--suite", suite]).arg(&dir));
    dir.join("pacman")
}

/// The host's own pacman.
pub const PACMAN: &str = "/usr/bin/pacman";

/// Returns the pacmans that a test is about: 6.0, 7.0 and 7.1; by day one of them, see [`tier::in_turn`].
///
/// # Panics
///
/// As [`pacman_of`].
#[must_use]
pub fn pacmans() -> Vec<PathBuf> {
    let make: [fn() -> PathBuf; 3] = [|| PACMAN.into(), || pacman_of("trixie"), || pacman_of("sid")];
    tier::in_turn(make).iter().map(|make| make()).collect()
}

/// Runs a program that makes something for the tests.
#[track_caller]
fn succeed(what: &str, command: &mut Command) {
    let out = command.output().expect("python3 is there");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{what}: {said}");
}

/// Runs what makes `dir`, once in this process. Where `dir` is from an earlier run it ends at once.
#[track_caller]
fn once(dir: &Path, command: &mut Command) {
    static MADE: Mutex<BTreeMap<PathBuf, Arc<Once>>> = Mutex::new(BTreeMap::new());
    let made = {
        let mut all = MADE.lock().expect("nothing panics with it");
        Arc::clone(all.entry(dir.to_owned()).or_insert_with(|| Arc::new(Once::new())))
    };
    made.call_once(|| succeed(&format!("making '{}'", dir.display()), command));
}

/// Returns the directory of another Debian suite's gpg, as [`pacman_of`] has it, for `tests/gpg.sh`.
///
/// # Panics
///
/// As [`pacman_of`].
#[must_use]
pub fn gpg_of(suite: &str) -> PathBuf {
    pacman_of(suite).with_file_name("gpg")
}

/// Returns the directory of another Debian suite's mkfs.btrfs and mkfs.xfs, as [`pacman_of`] has it, for a `PATH`.
///
/// # Panics
///
/// As [`pacman_of`].
#[must_use]
pub fn mkfs_of(suite: &str) -> PathBuf {
    pacman_of(suite).with_file_name("mkfs")
}

/// Returns the static pacman that `tests/mirror/mkpacman-static` builds, and builds it where it is not there yet, which takes
/// 200 s of a processor. It stays between runs.
///
/// # Panics
///
/// Where it cannot be built: `mkpacman-static` says why.
#[must_use]
pub fn static_pacman() -> PathBuf {
    let dir = top().join("build/pacman-static");
    let mut command = Command::new(top().join("tests/mirror/mkpacman-static"));
    once(&dir, command.arg(&dir));
    dir.join("pacman-static")
}

/// The offline mirror of an architecture.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where it is. `www` below it is what a server serves; `preset.toml` pins its keys.
    pub dir: PathBuf,
}

impl Mirror {
    /// Returns the mirror for `arch` (`aarch64` or `x86_64`), and makes it where it is not there yet. It stays between
    /// runs; a test never changes it.
    ///
    /// # Panics
    ///
    /// Where it cannot be made: `mkmirror` says why.
    #[must_use]
    pub fn of(arch: &str) -> Self {
        Self::made(&format!("mirror-{arch}"), &["--arch", arch])
    }

    /// Returns one whose kernel and initramfs boot.
    ///
    /// # Panics
    ///
    /// As [`Mirror::of`].
    #[must_use]
    pub fn that_boots(arch: &str) -> Self {
        Self::made(&format!("mirror-boot-{arch}"), &["--boot", "--arch", arch])
    }

    /// Returns the mirror for `arch` that is made of another suite of Debian's, such as `trixie`: the programs in it are
    /// newer.
    ///
    /// # Panics
    ///
    /// As [`Mirror::of`].
    #[must_use]
    pub fn of_suite(arch: &str, suite: &str) -> Self {
        let args = ["--arch", arch, "--suite", suite];
        Self::made(&format!("mirror-{arch}-{suite}"), &args)
    }

    /// Returns one of few packages, of one of the architectures that the others are not made of: `armv7h`, `riscv64`, `i686`.
    ///
    /// # Panics
    ///
    /// As [`Mirror::of`].
    #[must_use]
    pub fn small(arch: &str) -> Self {
        Self::made(&format!("mirror-small-{arch}"), &["--small", "--arch", arch])
    }

    /// Returns one of few packages whose pacman-static is static: [`static_pacman`].
    ///
    /// # Panics
    ///
    /// As [`Mirror::of`].
    #[must_use]
    pub fn with_static_pacman(arch: &str) -> Self {
        let pacman = static_pacman();
        let args = ["--arch", arch, "--small", "--pacman", &pacman.to_string_lossy()];
        Self::made(&format!("mirror-static-{arch}"), &args)
    }

    fn made(name: &str, options: &[&str]) -> Self {
        let dir = top().join("build").join(name);
        let mut command = Command::new(top().join("tests/mirror/mkmirror"));
        once(&dir, command.args(options).arg(&dir));
        Self { dir }
    }

    /// Returns a changed copy of it: `kind` as `tests/mirror/tamper list` prints them.
    ///
    /// # Panics
    ///
    /// Where it cannot be made.
    #[must_use]
    pub fn tampered(&self, into: &Path, kind: &str) -> Self {
        let mut command = Command::new(top().join("tests/mirror/tamper"));
        succeed("changing the mirror", command.args([&self.dir, into]).arg(kind));
        Self { dir: into.to_owned() }
    }

    /// Returns a copy of it with more packages and repositories, as `tests/mirror/extend` has them described.
    ///
    /// # Panics
    ///
    /// Where it cannot be made.
    #[must_use]
    pub fn extended(&self, into: &Path, description: &serde_json::Value) -> Self {
        use std::io::Write;
        let mut child = Command::new(top().join("tests/mirror/extend"))
            .args([&self.dir, into])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut stdin = child.stdin.take().expect("a pipe");
        let text = description.to_string();
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        let out = child.wait_with_output().expect("our own child");
        assert!(out.status.success(), "extending the mirror: {}", String::from_utf8_lossy(&out.stderr));
        Self { dir: into.to_owned() }
    }

    /// Returns the fingerprint of one of its keys, by its role as a JSON pointer: `/builder`, `/masters/0`, `/stranger`.
    ///
    /// # Panics
    ///
    /// Where it has no such key.
    #[must_use]
    pub fn key(&self, role: &str) -> String {
        let text = std::fs::read(self.dir.join("keys/fingerprints.json")).expect("keys");
        let keys: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let key = keys.pointer(role).and_then(serde_json::Value::as_str);
        key.expect(role).to_owned()
    }

    /// Returns the tree that a server serves.
    #[must_use]
    pub fn www(&self) -> PathBuf {
        self.dir.join("www")
    }

    /// Returns the preset that pins its keys.
    #[must_use]
    pub fn preset(&self) -> PathBuf {
        self.dir.join("preset.toml")
    }
}

//! Ground for the tests of built programs: a directory, an ordinary user with subordinate ids, and a root that has a
//! shell. Shared by `enter`, `mkroot` and `strap`.

#![allow(dead_code, reason = "each of the three uses a part of it")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The ordinary user's ids, and where the subordinate ones begin: no distribution gives them to anybody.
pub(crate) const UID: u32 = 64_001;
pub(crate) const SUBIDS: u32 = 1_900_000_000;

/// What a run left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// 128 + n for signal n.
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Runs a command with something to read.
    pub(crate) fn of(command: &mut Command, input: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        // A program that refuses its command line reads nothing.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let out = child.wait_with_output().unwrap();
        Self {
            status: out
                .status
                .code()
                .unwrap_or_else(|| 128 + out.status.signal().unwrap()),
            out: String::from_utf8(out.stdout).unwrap(),
            err: String::from_utf8(out.stderr).unwrap(),
        }
    }

    /// The document on stdout.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }

    /// Checks that it went well and said nothing, and returns the document.
    #[track_caller]
    pub(crate) fn done(&self) -> Value {
        assert_eq!((self.status, self.err.as_str()), (0, ""), "{self:?}");
        let document = self.document();
        assert_eq!(document.get("error"), None);
        document
    }

    /// Checks that it failed with this status, and that stderr is these lines and no other: the message, which the
    /// document has too, and the hint.
    #[track_caller]
    pub(crate) fn failed(&self, tool: &str, status: i32, code: &str, lines: &[&str]) -> Value {
        let expected: String = lines
            .iter()
            .enumerate()
            .map(|(i, line)| match i {
                0 => format!("{tool}: {line}\n"),
                _ => format!("{tool}: hint: {line}\n"),
            })
            .collect();
        assert_eq!((self.status, self.err.as_str()), (status, &*expected));
        let document = self.document();
        let error = &document["error"];
        assert_eq!(error["tool"], tool);
        assert_eq!(error["exit"], status);
        assert_eq!(error["code"], code);
        assert_eq!(error["message"], lines[0]);
        assert_eq!(error["hint"].as_str(), lines.get(1).copied());
        document
    }
}

/// A directory for a test, and who runs programs in it.
pub(crate) struct Ground {
    dir: tempfile::TempDir,
    bins: PathBuf,
    user: bool,
}

impl Ground {
    /// `own` is the program under test; others are looked for beside it.
    pub(crate) fn new(own: &str, user: bool) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes mounts and namespaces: run it as root"
        );
        let dir = tempfile::Builder::new()
            .prefix("strapline-cli-")
            .tempdir_in("/var/tmp")
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if user {
            chown(dir.path(), Some(UID), Some(UID)).unwrap();
            let etc = dir.path().join(".etc");
            fs::create_dir(&etc).unwrap();
            let ids = format!("strapper:{SUBIDS}:65536\n");
            let read = |file: &str| fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            for (name, text) in [
                (
                    "passwd",
                    format!("{}strapper:x:{UID}:{UID}::/:/bin/sh\n", read("passwd")),
                ),
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

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Returns the path in text.
    pub(crate) fn at(&self, below: &str) -> String {
        self.path(below).display().to_string()
    }

    /// Returns another program of the suite.
    pub(crate) fn beside(&self, tool: &str) -> PathBuf {
        let path = self.bins.join(tool);
        assert!(
            path.exists(),
            "{} is not built: cargo build --workspace",
            path.display()
        );
        path
    }

    /// A command in the directory, as its user, with an empty environment but for the path.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        /// Makes the user known in this mount namespace, and becomes it.
        const BECOME: &str = include_str!("../../../../tests/become.sh");
        let mut command = Command::new(if self.user {
            Path::new("/usr/bin/unshare")
        } else {
            program.as_ref()
        });
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
            .env(
                "PATH",
                format!("{}:{path}:/usr/sbin:/sbin", self.bins.display()),
            )
            .current_dir(self.dir.path());
        command
    }

    /// Runs a program with nothing to read but `input`.
    pub(crate) fn run(&self, program: impl AsRef<Path>, args: &[&str], input: &str) -> Ran {
        Ran::of(self.command(program).args(args), input)
    }

    /// Runs a script of sh(1).
    pub(crate) fn sh(&self, script: &str) -> Ran {
        self.run("/bin/sh", &["-c", script], "")
    }

    /// Runs mkroot, which is to go well, and keeps its document in `root.json`.
    pub(crate) fn mkroot(&self, options: &str) -> Value {
        self.beside("mkroot");
        let ran = self.sh(&format!("mkroot --new root {options}"));
        let document = ran.done();
        fs::write(self.path("root.json"), &ran.out).unwrap();
        document
    }

    /// Copies programs of the host into the root, with the libraries that ldd(1) lists, a shell, and a user.
    pub(crate) fn furnish(&self, programs: &[&str]) {
        let root = self.path("root");
        let mut files = BTreeSet::new();
        for program in [&["sh"], programs].concat() {
            let found = Ran::of(
                Command::new("sh").args(["-c", "command -v $0", program]),
                "",
            );
            let from =
                fs::canonicalize(found.out.trim()).unwrap_or_else(|e| panic!("{program}: {e}"));
            let to = root.join("usr/bin").join(program);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, to).unwrap();
            let libraries = Ran::of(Command::new("ldd").arg(&from), "");
            // name => /path (0x1234), or /path (0x1234)
            let words = libraries.out.split_whitespace();
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
        fs::write(
            etc.join("passwd"),
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            etc.join("group"),
            "root:x:0:\nann:x:1000:\nwheel:x:998:ann\nvideo:x:985:bob\n",
        )
        .unwrap();
    }

    /// Returns what of the host's is mounted at or below the directory.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.at("");
        all.lines()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|at| at.starts_with(&here))
            .map(str::to_owned)
            .collect()
    }

    /// Checks that nothing runs or is mounted below the directory, within a time that the kernel may take.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self) {
        assert_eq!(self.mounts(), Vec::<String>::new());
        let begin = std::time::Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(
                begin.elapsed().as_secs() < 5,
                "processes are left: {left:#?}"
            );
            let moment = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            rustix::event::poll(&mut [], Some(&moment)).unwrap();
        }
    }

    fn processes(&self) -> Vec<String> {
        let own = std::process::id().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().into_string().unwrap_or_default();
            if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let is_below = |link: &str| {
                fs::read_link(entry.path().join(link)).is_ok_and(|p| p.starts_with(self.dir.path()))
            };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if ["root", "cwd", "exe"].into_iter().any(is_below) || words.contains(&self.at("")) {
                found.push(format!("{pid} {words}"));
            }
        }
        found
    }
}

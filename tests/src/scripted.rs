//! Ground for tests with real mounts and real processes: a script of sh in a mount and PID namespace of its own, which
//! end with it, so that whatever a test does nothing is left on the host. Shared by `reap` and `unmount`.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "all of this is part of a test")]

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What every script begins with.
const PRELUDE: &str = r#"
set -eu
mkdir -p "$T"
mkfifo "$D/ready" "$D/hold"
# A read end that never sees an end: what reads it waits until it is ended.
exec 9<>"$D/hold"
# Runs a program and keeps what it says: step NAME COMMAND...
step() {
    name=$1; shift; status=0
    "$@" >"$D/$name.out" 2>"$D/$name.err" || status=$?
    echo "$status" >"$D/$name.status"
}
# Starts a program in the background, and waits until it says that it is ready; its pid is in $pid and in NAME.pid.
start() {
    name=$1; shift
    "$@" >"$D/ready" & pid=$!
    echo "$pid" >"$D/$name.pid"
    read -r line <"$D/ready"
    [ "$line" = ready ]
}
# A shell that stays where it was started.
stay='echo ready; read line <&9'
# The host's programs in the root, so that a process can live there.
furnish() {
    for name in usr bin lib lib32 lib64 sbin; do
        if [ -L "/$name" ]; then cp -P "/$name" "$T/"
        elif [ -d "/$name" ]; then mkdir "$T/$name"; mount --rbind "/$name" "$T/$name"
        fi
    done
    # What a shell starts in the background has it for input.
    mkdir "$T/dev"; : >"$T/dev/null"; mount --bind /dev/null "$T/dev/null"
}
# As the shell procedure of strapline(7) mounts it, but for the host's own /dev.
mount_all() {
    mkdir -p "$T/proc" "$T/sys" "$T/dev" "$T/run"
    mount --bind "$T" "$T"
    mount -t proc proc "$T/proc"
    mount -t tmpfs dev "$T/dev"
    mkdir "$T/dev/pts" "$T/dev/shm"
    mount -t devpts devpts "$T/dev/pts"
    mount -t tmpfs shm "$T/dev/shm"
    mount -t tmpfs run "$T/run"
}
# What mkroot --host writes down of all that is mounted there now.
claims() {
    printf '{"boot_id":"%s","mounts":[' "$(cat /proc/sys/kernel/random/boot_id)"
    awk -v t="$T" '$5 == t || index($5, t "/") == 1 {
        printf "%s{\"at\":\"%s\",\"number\":%s}", comma, substr($5, length(t) + 2), $1; comma = ","
    }' /proc/self/mountinfo
    printf ']}'
}
mounted() { grep -F " $T" /proc/self/mountinfo | cut -d' ' -f5 >"$D/$1.mounts" || :; }
is_alive() { kill -0 "$1"; }
"#;

/// A directory for a test, and what its script left there.
#[derive(Debug)]
pub struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    /// Runs a script in namespaces of its own. `$T` is the root, `$D` is the directory that it is in, and the programs
    /// of `bins` are in the path.
    pub fn run(bins: &[&str], needs: &[&str], script: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes mounts and namespaces: run it as root");
        for program in ["timeout", "unshare", "mount", "chroot", "setpriv"].iter().chain(needs) {
            let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
            assert!(found.unwrap().status.success(), "this test needs {program}, which is not there");
        }
        // Short: the name of a socket has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("u").tempdir_in("/tmp").unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for from in bins {
            // An ordinary user may not reach the place where it was built. Not by this process: a child of another test would have
            // it open for writing until that is another program, and what is open for writing cannot be run.
            let copied = Command::new("cp").args([Path::new(from), &bin]).status();
            assert!(copied.unwrap().success(), "copying {from}");
        }
        let path = format!("{}:{}:/usr/sbin:/sbin", bin.display(), std::env::var("PATH").unwrap_or_default());
        let ground = Self { dir };
        // A script that waits for what does not come is a failure, not a halt.
        let output = Command::new(crate::lab::found("timeout".as_ref(), &path))
            .args(["--signal=KILL", "600", "unshare"])
            .args(["--mount", "--propagation", "private", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "sh", "-c"])
            .arg(format!("{PRELUDE}{script}"))
            .env("D", ground.path())
            .env("T", ground.root())
            .env("PATH", path)
            .env("LC_ALL", "C")
            .current_dir(ground.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "the script failed: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        ground.assert_nothing_is_left();
        ground
    }

    /// Returns the directory that the root is in.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the root.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Returns what the script put into a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_else(|e| panic!("the script left no {name}: {e}"))
    }

    /// Returns the pid of a process that the script started.
    pub fn pid(&self, name: &str) -> String {
        self.read(&format!("{name}.pid")).trim().to_owned()
    }

    /// Asserts how a step ended, and every line that it printed for people; `ROOT` in them is the root. Returns its
    /// document.
    pub fn step(&self, name: &str, status: u8, lines: &[&str]) -> Value {
        let stderr = self.read(&format!("{name}.err"));
        let root = self.root();
        let expected: String =
            lines.iter().map(|line| format!("{}\n", line.replace("ROOT", root.to_str().unwrap()))).collect();
        assert_eq!(stderr, expected, "what {name} says");
        let said = self.read(&format!("{name}.status"));
        assert_eq!(said.trim(), status.to_string(), "how {name} ended");
        let stdout = self.read(&format!("{name}.out"));
        assert_eq!(stdout.matches('\n').count(), 1, "{stdout:?}");
        let document: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(document["strapline"], 1);
        let exit = document.get("error").map_or(0, |e| e["exit"].as_u64().unwrap());
        assert_eq!(exit, u64::from(status), "{document}");
        document
    }

    /// Asserts that no mount and no process of the test is left on the host.
    fn assert_nothing_is_left(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.path().to_str().unwrap();
        assert!(!mounts.contains(here), "{mounts}");
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            for link in ["root", "cwd"] {
                if let Ok(to) = std::fs::read_link(entry.path().join(link)) {
                    assert!(!to.starts_with(here), "{entry:?} is at {to:?}");
                }
            }
        }
    }
}

/// Asserts that the help fits a terminal, and that the manual page has every long option of it.
pub fn assert_help_and_manual(bin: &str, name: &str) {
    let output = Command::new(bin).arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    let page = crate::top().join(format!("man/{name}.8"));
    let page = std::fs::read_to_string(page).unwrap();
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let lines = help.lines().map(str::trim).filter(|l| l.starts_with('-'));
    let words = lines.flat_map(str::split_whitespace);
    let options: Vec<_> = words.filter_map(|w| w.strip_prefix("--")).collect();
    assert!(options.len() >= 5, "{help}");
    for option in &options {
        let item = format!("Fl -{option}");
        assert!(page.contains(&item), "the manual page lacks --{option}");
    }
    for line in page.lines().filter(|l| l.starts_with(".It Fl ")) {
        let option = line.split(' ').find_map(|w| w.strip_prefix('-')).unwrap();
        assert!(options.contains(&option), "the help lacks --{option}");
    }
}

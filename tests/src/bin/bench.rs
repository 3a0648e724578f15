//! `bench`: what the suite costs, as ratios measured in one run. Called by `make bench`.
//!
//! Wall times move with the machine; the ratios hold. Nothing here is a test: a number that got worse is for people to
//! look at, in `tests/bench/README.md`.

#![expect(clippy::print_stdout, reason = "its report is what this program is for")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strapline_tests::{Mirror, Server, TOOLS, bin_dir, top};

/// What there is to measure: all of it, or what the command line names.
const SECTIONS: [(&str, fn()); 3] = [("start-up", start_up), ("keyring", keyrings), ("whole", whole)];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for (name, section) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            section();
        }
    }
}

/// Runs a command and returns how long it took.
fn time(command: &mut Command) -> Duration {
    let begin = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let took = begin.elapsed();
    assert!(status.is_ok_and(|s| s.success()), "{command:?} failed");
    took
}

/// How long each tool takes to say its version, beside what starting any program takes.
fn start_up() {
    println!("start-up, median of 200, ms; /bin/true is what a process costs here");
    let median = |program: &Path| {
        let mut times: Vec<_> = (0..200).map(|_| time(Command::new(program).arg("--version"))).collect();
        times.sort_unstable();
        times[100].as_secs_f64() * 1000.0
    };
    println!("  {:14} {:6.2}", "/bin/true", median("/bin/true".as_ref()));
    for tool in TOOLS {
        println!("  {tool:14} {:6.2}", median(&bin_dir().join(tool)));
    }
}

/// What builds a keyring, for Arch Linux's ring and for one of Arch Linux ARM's shape: keyring, the host's pacman-key, and the
/// root's own pacman-key, emulated.
fn keyrings() {
    let mirror = Mirror::of("aarch64");
    let emulated = Emulated::new(&mirror);
    let rings = [("archlinux", Path::new("/usr/share/keyrings").to_owned()), ("archlinuxarm", mirror.dir.join("keys"))];
    println!("\nthe keyring, best of 3, s");
    for (name, from) in rings {
        let from = from.as_path();
        let times = (0..3).map(|_| keyring(name, from));
        let ours = times.min().unwrap_or_default().as_secs_f64();
        let theirs = pacman_key(name, from).as_secs_f64();
        println!("  {name:14} keyring {ours:6.3}   pacman-key {theirs:6.2}");
        println!("  {:14} keyring / pacman-key {:.3}", "", ours / theirs);
        let emulated = emulated.pacman_key(name, from).as_secs_f64();
        println!("  {:14} pacman-key, emulated {emulated:6.2}", "");
        println!("  {:14} keyring / emulated {:.4}", "", ours / emulated);
    }
}

/// How long `keyring` takes in a new root that has the ring.
fn keyring(name: &str, from: &Path) -> Duration {
    let dir = tempfile::tempdir_in("/var/tmp").expect("room below /var/tmp");
    let (root, preset) = (dir.path().join("root"), dir.path().join("bench.toml"));
    let read = |end: &str| std::fs::read(from.join(format!("{name}{end}"))).expect("the ring");
    let trusted = String::from_utf8(read("-trusted")).expect("fingerprints");
    let pins: String = trusted
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, _)| {
            format!("[[keyring.trusted]]\nfingerprint = \"{key}\"\nsource = \"bench\"\ndate = \"2026-11-22\"\n")
        })
        .collect();
    let text = format!(
        "name = \"bench\"\ntitle = \"Bench\"\n[keyring]\npopulate = [\"{name}\"]\n{pins}\
         [arch.x86_64]\nservers = [\"http://127.0.0.1:9/\"]\nrepos = [\"core\"]\n"
    );
    std::fs::write(&preset, text).expect("a file");
    let mut mkroot = Command::new(bin_dir().join("mkroot"));
    mkroot.arg(&root).args(["--arch", "x86_64", "--distro"]).arg(&preset);
    let made = mkroot.stdin(Stdio::null()).output().expect("mkroot is there");
    let state = dir.path().join("state.json");
    std::fs::write(&state, made.stdout).expect("a file");
    let rings = root.join("usr/share/pacman/keyrings");
    std::fs::create_dir_all(&rings).expect("a directory");
    for end in [".gpg", "-trusted", "-revoked"] {
        std::fs::write(rings.join(format!("{name}{end}")), read(end)).expect("a file");
    }
    let mut keyring = Command::new(bin_dir().join("keyring"));
    time(keyring.arg("--state").arg(&state))
}

/// How long the host's pacman-key takes, `--init` and `--populate`. The directory of the rings is written into it.
fn pacman_key(name: &str, from: &Path) -> Duration {
    let dir = tempfile::tempdir().expect("room below /tmp");
    let (home, conf) = (dir.path().join("g"), dir.path().join("pacman.conf"));
    std::fs::write(&conf, "[options]\n").expect("a file");
    let script = std::fs::read_to_string("/usr/bin/pacman-key").expect("pacman-key");
    let lines = script.lines().map(|line| {
        if line.contains("KEYRING_IMPORT_DIR=") {
            format!("KEYRING_IMPORT_DIR='{}'\n", from.display())
        } else {
            format!("{line}\n")
        }
    });
    let program = dir.path().join("pacman-key");
    std::fs::write(&program, lines.collect::<String>()).expect("a file");
    let run = |args: &[&str]| {
        let mut bash = Command::new("bash");
        bash.arg(&program).arg("--config").arg(&conf);
        time(bash.arg("--gpgdir").arg(&home).args(args))
    };
    let took = run(&["--init"]) + run(&["--populate", name]);
    time(Command::new("gpgconf").arg("--homedir").arg(&home).args(["--kill", "all"]));
    took
}

/// A root whose pacman-key runs emulated.
struct Emulated {
    dir: tempfile::TempDir,
}

impl Emulated {
    fn new(mirror: &Mirror) -> Self {
        let server = Server::of(&mirror.www());
        let dir = tempfile::tempdir_in("/var/tmp").expect("room below /var/tmp");
        let receipt = run_pipe(dir.path(), mirror, &server, "strap --loose base");
        std::fs::write(dir.path().join("receipt.json"), receipt.to_string()).expect("a file");
        Self { dir }
    }

    /// How long it takes, `--init` and `--populate`, in a keyring of its own.
    fn pacman_key(&self, name: &str, from: &Path) -> Duration {
        let rings = self.dir.path().join("root/usr/share/pacman/keyrings");
        std::fs::create_dir_all(&rings).expect("a directory");
        for end in [".gpg", "-trusted", "-revoked"] {
            let file = format!("{name}{end}");
            std::fs::copy(from.join(&file), rings.join(&file)).expect("the ring");
        }
        let key = format!("pacman-key --gpgdir /tmp/{name}");
        let mut enter = Command::new(bin_dir().join("enter"));
        enter.arg("--state").arg(self.dir.path().join("receipt.json"));
        time(enter.args(["bash", "-c", &format!("{key} --init && {key} --populate {name}")]))
    }
}

/// The whole pipe and the seed's procedure, on the same mirror and packages, three times each in turn.
fn whole() {
    let mirror = Mirror::of("aarch64");
    let server = Server::of(&mirror.www());
    let (mut ours, mut seeds, mut share) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let dir = tempfile::tempdir_in("/var/tmp").expect("room below /var/tmp");
        let begin = Instant::now();
        let receipt = pipe(dir.path(), &mirror, &server);
        ours.push(begin.elapsed().as_secs_f64());
        share.push(own_share(&receipt));
        let dir = tempfile::tempdir_in("/var/tmp").expect("room below /var/tmp");
        seeds.push(seed(dir.path(), &server).as_secs_f64());
    }
    let best = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    println!("\nbase archlinuxarm-keyring nano vim sudo openssh for aarch64, best of 3, s");
    println!("  the pipe             {:6.2}   of {ours:.2?}", best(&ours));
    println!("  the seed's procedure {:6.2}   of {seeds:.2?}", best(&seeds));
    println!("  ratio                {:6.2}", best(&ours) / best(&seeds));
    println!("  our own share of the pipe {:.1} %", best(&share) * 100.0);
}

/// What is not a child's work, of the whole.
fn own_share(receipt: &Value) -> f64 {
    let sum = |key: &str| -> f64 {
        let steps = receipt["steps"].as_array().expect("steps");
        steps.iter().filter_map(|s| s[key].as_f64()).sum()
    };
    1.0 - sum("child_seconds") / sum("seconds")
}

fn pipe(dir: &Path, mirror: &Mirror, server: &Server) -> Value {
    let rest = "keyring | strap base archlinuxarm-keyring | strap nano vim sudo openssh | reap | unmount";
    run_pipe(dir, mirror, server, rest)
}

/// Runs a pipe from mkroot to mkconf, and on. Returns the last document.
fn run_pipe(dir: &Path, mirror: &Mirror, server: &Server, rest: &str) -> Value {
    let script = format!(
        "mkroot root --arch aarch64 --distro {} | fetch-pacman --cache-dir c --server {url}/archlinuxcn/x86_64 \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages | {rest}",
        mirror.preset().display(),
        url = server.url()
    );
    let path = format!("{}:{}", bin_dir().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(dir).env("PATH", path).stdin(Stdio::null());
    let out = command.output().expect("sh is there");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("a receipt")
}

/// Runs the seed's procedure in namespaces of its own, with a binfmt table of its own, and returns how long it took.
///
/// unshare(1) leaves the maps to newuidmap(1), which gives root no identity map: so we write it.
fn seed(dir: &Path, server: &Server) -> Duration {
    let mut child = Command::new("unshare")
        .args(["--user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", WAIT, HANDLER])
        .arg(top().join("tests/bench/seed.sh"))
        .args([dir.join("root"), dir.join("packages")])
        .arg(server.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("unshare(1) of util-linux");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut ready = String::new();
    out.read_line(&mut ready).expect("a line");
    for kind in ["uid_map", "gid_map"] {
        let map = format!("/proc/{}/{kind}", child.id());
        std::fs::write(&map, "0 0 65536").expect("bench runs as root");
    }
    let begin = Instant::now();
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("a shell that reads");
    let mut log = String::new();
    out.read_to_string(&mut log).expect("what pacman prints");
    assert!(child.wait().is_ok_and(|s| s.success()), "{log}");
    begin.elapsed()
}

/// The shell gets its capabilities back with the execve(2) that follows the map.
const WAIT: &str = r#"echo ready; read go; exec sh -c "$0" "$@" </dev/null 2>&1"#;

/// Registers the emulator in the namespace's own table, as a host of the seed has it in its.
const HANDLER: &str = r#"set -e
mount -t proc proc /proc
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' ':a:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:OCPF' > /proc/sys/fs/binfmt_misc/register
exec sh "$0" "$@""#;

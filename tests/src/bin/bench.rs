//! `bench`: what the suite costs, as ratios measured in one run. Called by `make bench`.
//!
//! Wall times move with the machine; the ratios hold. Nothing here is a test: a number that got worse is for people to
//! look at, in `tests/bench/README.md`.

#![expect(
    clippy::print_stdout,
    reason = "its report is what this program is for"
)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strapline_tests::{Mirror, Server, TOOLS, bin_dir, top};

fn main() {
    start_up();
    whole();
}

/// Runs a command and returns how long it took.
fn time(command: &mut Command) -> Duration {
    let begin = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let took = begin.elapsed();
    assert!(status.is_ok_and(|s| s.success()), "{command:?} failed");
    took
}

/// How long each tool takes to say its version, beside what starting any program takes.
fn start_up() {
    println!("start-up, median of 200, ms; /bin/true is what a process costs here");
    let median = |program: &Path| {
        let mut times: Vec<_> = (0..200)
            .map(|_| time(Command::new(program).arg("--version")))
            .collect();
        times.sort_unstable();
        times[100].as_secs_f64() * 1000.0
    };
    println!("  {:14} {:6.2}", "/bin/true", median("/bin/true".as_ref()));
    for tool in TOOLS {
        println!("  {tool:14} {:6.2}", median(&bin_dir().join(tool)));
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
    println!(
        "  the seed's procedure {:6.2}   of {seeds:.2?}",
        best(&seeds)
    );
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
    let script = format!(
        "mkroot root --arch aarch64 --distro {} | fetch-pacman --cache-dir c --server {url}/archlinuxcn/x86_64 \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages | keyring \
         | strap base archlinuxarm-keyring | strap nano vim sudo openssh | reap | unmount",
        mirror.preset().display(),
        url = server.url()
    );
    let path = format!(
        "{}:{}",
        bin_dir().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .current_dir(dir)
        .env("PATH", path)
        .stdin(Stdio::null());
    let out = command.output().expect("sh is there");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).expect("a receipt")
}

/// Runs the seed's procedure in namespaces of its own, with a binfmt table of its own, and returns how long it took.
///
/// unshare(1) leaves the maps to newuidmap(1), which gives root no identity map: so we write it.
fn seed(dir: &Path, server: &Server) -> Duration {
    let mut child = Command::new("unshare")
        .args([
            "--user",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            WAIT,
            HANDLER,
        ])
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
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"go\n")
        .expect("a shell that reads");
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

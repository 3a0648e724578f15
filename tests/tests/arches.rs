//! The architectures that other tests do not have: the whole pipe, with the presets that people use, over a mirror of the same
//! packages.

use serde_json::Value;
use std::fs;
use strapline_tests::{Lab, Mirror, Server, Who, tier};

/// An architecture, its preset, the package with its keys, and the machine of uname(1).
type Row = (&'static str, &'static str, &'static str, &'static str);

const ROWS: [Row; 3] = [
    ("armv7h", "archlinuxarm", "archlinuxarm-keyring", "armv7l"),
    ("riscv64", "archriscv", "archlinux-keyring", "riscv64"),
    // The kernel of an x86_64 host runs these programs itself, and they see the machine that they were built for.
    ("i686", "archlinux32", "archlinux32-keyring", "i686"),
];

fn whole_pipe(who: Who, (arch, preset, keyring, machine): Row) {
    let (mirror, lab) = (Mirror::small(arch), Lab::new(who));
    let server = Server::of(&mirror.www());
    let url = server.url();
    let trust: String =
        ["/masters/0", "/masters/1", "/masters/2"].map(|role| format!(" --trust {}", mirror.key(role))).concat();
    let packages =
        if tier::soak() { format!("base {keyring} nano vim sudo openssh") } else { "bash coreutils nano".to_owned() };
    let ran = lab.sh(&format!(
        "mkroot root --arch {arch} --distro {preset} \
         | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 --trust {} \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages | keyring{trust} | strap {packages} \
         | verify | reap | unmount",
        mirror.key("/lilac")
    ));
    let receipt = ran.succeeded();
    assert_eq!((&receipt["arch"], &receipt["distro"]), (&arch.into(), &preset.into()));
    let installed = receipt["packages"].as_array().expect("packages");
    let unverified: Vec<_> = installed.iter().filter(|p| p["verified"] != true).collect();
    assert_eq!(unverified, Vec::<&Value>::new());
    let own = installed.iter().filter(|p| p["arch"] == arch).count();
    assert!(own >= 5, "{own} of {} packages are of {arch}", installed.len());
    fs::write(lab.path().join("receipt.json"), &ran.stdout).expect("our own directory");
    for entry in ["--state receipt.json uname -m", "./root uname -m"] {
        let ran = lab.sh(&format!("enter {entry} < /dev/null"));
        assert_eq!((ran.status, ran.stdout.trim()), (0, machine), "{entry}: {}", ran.stderr);
    }
    // What runs while packages are installed sees the same.
    if tier::soak() {
        assert!(ran.stderr.contains(&format!("base: scriptlet ran as uid 0 on {machine}")), "{}", ran.stderr);
    }
}

/// By day one of them, with few packages.
#[test]
fn the_whole_pipe_on_each() {
    for row in tier::sample(ROWS, ROWS.len(), 0) {
        whole_pipe(Who::User, row);
    }
}

/// By day the one that needs no emulator: `the_whole_pipe_on_each` has the others.
#[test]
fn the_whole_pipe_on_each_as_root() {
    for row in tier::sample(ROWS, ROWS.len(), 2) {
        whole_pipe(Who::Root, row);
    }
}

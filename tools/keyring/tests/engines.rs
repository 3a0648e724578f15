//! The native engine against gpg: one ring, two keyrings, and no difference that gpg can see.
//!
//! Each ring is built by both engines. gpg then lists what it finds, down to the validity of each name and the date on
//! which it would look again; and when it is made to look again at once, nothing changes. Last comes pacman, which is what
//! all of this is for.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

mod helpers;

use helpers::{Lab, Ring, gpg, keys, kill_agent, own_key, run, short};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use strapline_tests::gpg::{Odd, table};

// ---------------------------------------------------------------------------------------------------------------------
// Looking.

/// Who is trusted, without the own key.
fn owners(home: &Path, own: &str) -> BTreeSet<String> {
    let list = run(gpg(home).arg("--export-ownertrust"));
    let lines = list
        .lines()
        .filter(|l| !l.starts_with('#') && !l.starts_with(own));
    lines.map(str::to_owned).collect()
}

/// Nothing was started to look at it, and nothing is left of it.
fn no_agent(home: &Path) {
    for entry in fs::read_dir(home).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with("S."), "{name:?}");
    }
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(line) = fs::read(entry.unwrap().path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains("gpg-agent") || !line.contains(&*home.to_string_lossy()));
    }
}

/// What gpg lists of a keyring, and when it would look again.
fn listing(home: &Path, own: &str) -> (BTreeSet<String>, String) {
    let args = ["--no-auto-check-trustdb", "--with-colons", "--list-keys"];
    table(&run(gpg(home).args(args)), own)
}

/// Has gpg compute all anew. Without `--yes` a gpg with `--batch` does so only where the date for it has come.
fn look_again(home: &Path) {
    run(gpg(home).args(["--yes", "--check-trustdb"]));
}

/// Builds a ring with both engines and compares. Returns what gpg lists.
fn compare(ring: &Ring<'_>) -> BTreeSet<String> {
    let look = |engine: &str| {
        let lab = Lab::new(ring).install(ring);
        let ran = lab.run(&["--engine", engine]).good();
        let copy = lab.copy();
        (ran.stderr, copy)
    };
    let (told, ours) = look("native");
    let (told_by_gpg, theirs) = look("gpg");
    assert_eq!(told, told_by_gpg);
    let own = [&ours, &theirs].map(|home| {
        let copy = short();
        run(Command::new("cp")
            .arg("-a")
            .arg(home.path().join("."))
            .arg(copy.path()));
        let own = own_key(copy.path());
        kill_agent(copy.path());
        own
    });
    let before = listing(ours.path(), &own[0]);
    assert_eq!(before, listing(theirs.path(), &own[1]));
    assert_eq!(owners(ours.path(), &own[0]), owners(theirs.path(), &own[1]));
    look_again(ours.path());
    assert_eq!(listing(ours.path(), &own[0]), before);
    no_agent(ours.path());
    before.0
}

// ---------------------------------------------------------------------------------------------------------------------
// The tests.

#[test]
fn a_ring_with_all_that_there_is() {
    let odd = Odd::make();
    let trusted = odd.masters.iter().map(|m| format!("{m}:4:\n")).collect();
    let retired = format!("{}\n{}\n", odd.retired[0], "0".repeat(40));
    let ring = Ring {
        keys: &odd.ring,
        trusted,
        revoked: retired,
        pinned: odd.masters.clone(),
    };
    let lines = compare(&ring);
    for (key, validity) in &odd.expected {
        let of_key = format!("{} pub ", &key[24..]);
        let line = lines.iter().find_map(|l| l.strip_prefix(&of_key));
        let line = line.unwrap_or_else(|| panic!("{key} is not there"));
        assert!(
            *validity == "?" || line.starts_with(validity),
            "{key}: {validity}, {line}"
        );
    }
}

#[test]
fn the_rings_of_the_other_tests() {
    let good = Ring::good();
    compare(&good);
    let two = Ring {
        keys: helpers::ring("two"),
        trusted: good
            .trusted
            .lines()
            .take(2)
            .map(|l| format!("{l}\n"))
            .collect(),
        ..Ring::good()
    };
    compare(&two);
}

#[test]
fn the_ring_of_arch_linux() {
    let file = |end: &str| {
        let path = format!("/usr/share/keyrings/archlinux{end}");
        fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}; apt-get install archlinux-keyring"))
    };
    let text = |end: &str| String::from_utf8(file(end)).unwrap();
    let trusted = text("-trusted");
    let keys = file(".gpg");
    let ring = Ring {
        keys: &keys,
        pinned: trusted
            .lines()
            .map(|l| l.split(':').next().unwrap().to_owned())
            .collect(),
        trusted,
        revoked: text("-revoked"),
    };
    let lines = compare(&ring);
    assert!(lines.iter().filter(|l| l.contains(" pub ")).count() > 100);
}

/// What is built, gpg completes, and what gpg builds, we complete.
#[test]
fn the_engines_take_turns() {
    let good = Ring::good();
    for [first, second] in [["native", "gpg"], ["gpg", "native"], ["native", "native"]] {
        let lab = Lab::new(&good).install(&good);
        lab.run(&["--engine", first]).good();
        let before = lab.copy();
        let own = own_key(before.path());
        kill_agent(before.path());
        let listed = listing(before.path(), &own);
        let extra = &keys().extra;
        let more = Ring {
            trusted: good.trusted.clone(),
            ..Ring::good()
        };
        let both = [more.keys, helpers::ring("extra")].concat();
        let more = Ring {
            keys: &both,
            ..more
        };
        let lab = lab.install(&more);
        let ran = lab.run(&["--engine", second, "--trust", extra]).good();
        assert_eq!(
            ran.stderr.lines().count(),
            1,
            "{first}, {second}: {}",
            ran.stderr
        );
        let after = lab.copy();
        assert_eq!(own_key(after.path()), own, "{first}, {second}");
        kill_agent(after.path());
        let added = listing(after.path(), &own);
        let kept: BTreeSet<_> = added.0.difference(&listed.0).cloned().collect();
        assert!(listed.0.is_subset(&added.0) && kept.len() == 2, "{kept:?}");
        assert!(kept.iter().all(|l| extra.ends_with(&l[..16])), "{kept:?}");
        look_again(after.path());
        assert_eq!(listing(after.path(), &own), added);
    }
}

/// A keyring with another kind of own key is gpg's to complete, and it is said.
#[test]
fn a_keyring_of_pacman_key_is_completed_by_gpg() {
    let good = Ring::good();
    let lab = Lab::new(&good).install(&good);
    let reference = helpers::reference(&good);
    let theirs = reference.path().join("g");
    let own = own_key(&theirs);
    kill_agent(&theirs);
    run(Command::new("cp").arg("-a").arg(&theirs).arg(lab.home()));
    let ran = lab.run(&[]).good();
    assert!(
        ran.stderr.contains("not one of ours: gpg completes it"),
        "{}",
        ran.stderr
    );
    let after = lab.copy();
    assert_eq!(own_key(after.path()), own);
    kill_agent(after.path());
}

#[test]
fn pacman_takes_three_masters_and_refuses_two() {
    let good = Ring::good();
    let two = good
        .trusted
        .lines()
        .take(2)
        .map(|l| format!("{l}\n"))
        .collect();
    let short_of_one = Ring {
        keys: helpers::ring("two"),
        trusted: two,
        ..Ring::good()
    };
    for (ring, taken) in [(&good, true), (&short_of_one, false)] {
        let lab = Lab::new(ring).install(ring);
        lab.run(&[]).good();
        let top = lab.root.parent().unwrap();
        let package = top.join("signed-1-1-any.pkg.tar.zst");
        let signature = top.join("signed-1-1-any.pkg.tar.zst.sig");
        for (path, bytes) in [&package, &signature].into_iter().zip(&keys().package) {
            fs::write(path, bytes).unwrap();
        }
        let root = lab.root.display();
        let conf = top.join("strict.conf");
        let text = format!(
            "[options]\nRootDir = {root}\nDBPath = {root}/var/lib/pacman\nCacheDir = {root}/var/cache\n\
             LogFile = {root}/var/log/pacman.log\nGPGDir = {root}/etc/pacman.d/gnupg\n\
             Architecture = x86_64\nSigLevel = Required\nLocalFileSigLevel = Required\n"
        );
        fs::write(&conf, text).unwrap();
        let mut pacman = Command::new("pacman");
        pacman
            .env("LC_ALL", "C")
            .args(["-U", "--noconfirm", "--config"]);
        let out = pacman
            .arg(&conf)
            .arg(&package)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.success(), taken, "{told}");
        assert!(
            taken || told.contains("corrupted package (PGP signature)"),
            "{told}"
        );
        let installed = lab.root.join("var/lib/pacman/local/signed-1-1");
        assert_eq!(installed.exists(), taken, "{told}");
        no_agent(&lab.home());
    }
}

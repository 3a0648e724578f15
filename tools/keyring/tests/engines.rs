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

// ---------------------------------------------------------------------------------------------------------------------
// A ring with all that a web of trust can have.

/// A home in which keys are made and sign each other, at times that are long past.
struct Past {
    home: tempfile::TempDir,
}

impl Past {
    fn path(&self) -> &Path {
        self.home.path()
    }

    fn key(&self, name: &str, expires: &str) -> String {
        self.of_kind(name, "ed25519", expires)
    }

    fn of_kind(&self, name: &str, kind: &str, expires: &str) -> String {
        let before = helpers::all(self.path());
        let name = format!("{name} <{name}@test.invalid>");
        let args = ["--quick-gen-key", &name, kind, "cert,sign", expires];
        self.gpg("20150101", &args);
        let after = helpers::all(self.path());
        after.difference(&before).next().unwrap().clone()
    }

    /// Runs gpg at the noon of a day.
    fn gpg(&self, day: &str, args: &[&str]) {
        let mut gpg = gpg(self.path());
        gpg.arg(format!("--faked-system-time={day}T120000!"));
        gpg.args(["--yes", "--pinentry-mode=loopback", "--passphrase="]);
        run(gpg.args(args));
    }

    /// Has all of these sign that one.
    fn sign(&self, day: &str, signers: &[String], key: &str, options: &[&str]) {
        for signer in signers {
            let mut args = options.to_vec();
            args.extend(["--local-user", signer, "--quick-sign-key", key]);
            self.gpg(day, &args);
        }
    }

    fn revoke(&self, key: &str) {
        let path = self.path().join(format!("openpgp-revocs.d/{key}.rev"));
        let text = fs::read_to_string(path).unwrap().replace(":-----", "-----");
        let file = self.path().join("rev");
        fs::write(&file, text).unwrap();
        self.gpg("20220101", &["--import", &file.to_string_lossy()]);
    }
}

/// The ring, its masters and its retired keys; and which of its keys should be what.
struct Odd {
    ring: Vec<u8>,
    masters: Vec<String>,
    retired: Vec<String>,
    expected: Vec<(String, &'static str)>,
}

fn odd() -> Odd {
    let past = Past { home: short() };
    let never = "never";
    // Ed25519 does not sign with SHA-1.
    let masters: Vec<String> = ["m1", "m2", "m3", "m4"]
        .map(|name| past.of_kind(name, "rsa2048", "never"))
        .into();
    let retired = past.key("gone", never);
    let three = &masters[..3];
    let mut expected = Vec::new();
    let mut key = |name: &str, validity, made: &dyn Fn(&str)| -> String {
        let key = past.key(name, if name == "ends" { "2037-01-01" } else { never });
        made(&key);
        expected.push((key.clone(), validity));
        key
    };
    let full = key("full", "f", &|k| past.sign("20180101", three, k, &[]));
    key("ends", "f", &|k| past.sign("20180101", three, k, &[]));
    key("two", "m", &|k| {
        past.sign("20180101", &masters[..2], k, &[])
    });
    key("none", "-", &|_| {});
    key("retired", "m", &|k| {
        let signers = [masters[0].clone(), masters[1].clone(), retired.clone()];
        past.sign("20180101", &signers, k, &[]);
    });
    key("second", "q", &|k| {
        past.sign("20180101", std::slice::from_ref(&full), k, &[])
    });
    key("persona", "-", &|k| {
        past.sign("20180101", three, k, &["--default-cert-level=1"])
    });
    key("casual", "f", &|k| {
        past.sign("20180101", three, k, &["--default-cert-level=2"])
    });
    let ended = ["--default-cert-expire=2019-01-01"];
    key("ended", "m", &|k| {
        past.sign("20180101", &masters[..2], k, &[]);
        past.sign("20180101", &masters[2..3], k, &ended);
    });
    key("renewed", "f", &|k| {
        past.sign("20180101", &masters[..2], k, &[]);
        past.sign("20180101", &masters[2..3], k, &ended);
        past.sign("20200101", &masters[2..3], k, &["--force-sign-key"]);
    });
    key("withdrawn", "m", &|k| {
        past.sign("20180101", three, k, &[]);
        past.gpg("20190101", &["--quick-revoke-sig", k, &masters[2]]);
    });
    key("revoked", "r", &|k| {
        past.sign("20180101", three, k, &[]);
        past.revoke(k);
    });
    key("names", "f", &|k| {
        past.gpg(
            "20170101",
            &["--quick-add-uid", k, "Another <a@test.invalid>"],
        );
        past.sign("20180101", three, k, &[]);
        past.gpg(
            "20190101",
            &["--quick-revoke-uid", k, "Another <a@test.invalid>"],
        );
        past.gpg(
            "20190101",
            &["--quick-add-uid", k, "Third <c@test.invalid>"],
        );
    });
    key("subkeys", "f", &|k| {
        past.gpg(
            "20170101",
            &["--quick-add-key", k, "ed25519", "sign", "never"],
        );
        past.gpg(
            "20170101",
            &["--quick-add-key", k, "rsa2048", "encr", "never"],
        );
        past.sign("20180101", three, k, &[]);
    });
    key("local", "-", &|k| {
        for signer in three {
            past.gpg(
                "20180101",
                &["--local-user", signer, "--quick-lsign-key", k],
            );
        }
    });
    past.revoke(&retired);
    // What gpg makes of these is its own affair, and differs from release to release.
    let sha1 = ["--cert-digest-algo=SHA1", "--allow-weak-key-signatures"];
    key("sha1-old", "?", &|k| past.sign("20180101", three, k, &sha1));
    key("sha1-new", "?", &|k| past.sign("20210101", three, k, &sha1));
    key("sha1-one", "?", &|k| {
        past.sign("20180101", &masters[..2], k, &[]);
        past.sign("20210101", &masters[2..3], k, &sha1);
    });
    for kind in ["rsa2048", "rsa4096", "nistp256", "nistp521", "dsa2048"] {
        let key = past.of_kind(kind, kind, "2037-06-01");
        past.sign("20180101", three, &key, &[]);
        expected.push((key, "f"));
    }
    let gone = past.key("expired", "2016-01-01");
    expected.push((gone, "e"));
    let export = ["--export-options=export-local-sigs", "--export"];
    let mut gpg = gpg(past.path());
    let out = gpg.args(export).stdin(Stdio::null()).output().unwrap();
    kill_agent(past.path());
    Odd {
        ring: out.stdout,
        masters,
        retired: vec![retired],
        expected,
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking.

/// What gpg lists of a keyring, without its own key: for each key and name a line; and when it would look again.
fn listing(home: &Path, own: &str) -> (BTreeSet<String>, String) {
    let list = run(gpg(home).args(["--no-auto-check-trustdb", "--with-colons", "--list-keys"]));
    let mut lines = BTreeSet::new();
    let (mut key, mut next) = (String::new(), String::new());
    for line in list.lines() {
        let f: Vec<&str> = line.split(':').collect();
        match f[0] {
            "tru" => next = f[4].to_owned(),
            "pub" => key = f[4].to_owned(),
            _ => {}
        }
        if own.ends_with(&key) {
            continue;
        }
        // Validity, size, kind, creation, end, hash of a name, owner trust, what it can.
        if let "pub" | "sub" | "uid" | "uat" = f[0] {
            let what = f[1..9].join(":");
            let can = f.get(11).copied().unwrap_or_default();
            lines.insert(format!("{key} {} {what} {can}", f[0]));
        }
    }
    (lines, next)
}

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
    run(gpg(ours.path()).arg("--check-trustdb"));
    assert_eq!(listing(ours.path(), &own[0]), before);
    no_agent(ours.path());
    before.0
}

// ---------------------------------------------------------------------------------------------------------------------
// The tests.

#[test]
fn a_ring_with_all_that_there_is() {
    let odd = odd();
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
        run(gpg(after.path()).arg("--check-trustdb"));
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

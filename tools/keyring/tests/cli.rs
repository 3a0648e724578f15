//! The built program, against the host's gpg and pacman, with keys and a package of its own.
//!
//! The measure is `pacman-key --init` and `--populate` of the host: the keyring that we build must be the same one.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

mod helpers;

use helpers::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

#[test]
fn the_keyring_is_the_one_that_pacman_key_makes() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).serve(&ring);
    let ran = lab.run(&[]).good();
    let reference = reference(&ring);
    let theirs = reference.path().join("g");
    assert_eq!(modes(&lab.home()), modes(&theirs));
    assert_eq!(lab.home().metadata().unwrap().mode() & 0o7777, 0o755);
    for conf in ["gpg.conf", "gpg-agent.conf"] {
        let read = |home: &Path| fs::read_to_string(home.join(conf)).unwrap();
        assert_eq!(read(&lab.home()), read(&theirs));
    }
    let ours = lab.copy();
    let verdicts_of_ours = verdicts(ours.path());
    assert_eq!(verdicts_of_ours, verdicts(&theirs));
    // And both are what they should be.
    let full = |owner: &str, disabled, local| ("f".to_owned(), owner.to_owned(), disabled, local);
    let mut expected: BTreeMap<_, _> = keys().masters.clone().map(|m| (m, full("m", false, true))).into();
    expected.insert(keys().builder.clone(), full("-", false, false));
    expected.insert(keys().retired.clone(), full("-", true, false));
    assert_eq!(verdicts_of_ours, expected);

    let mut masters = keys().masters.clone();
    masters.sort();
    let recorded = json!({"dir": lab.home(), "populated": ["test"], "trusted": masters});
    assert_eq!(ran.document["keyring"], recorded);
    assert_eq!(ran.document["org.example.note"], lab.document["org.example.note"]);
    let step = &ran.document["steps"][0];
    assert!(step["child_seconds"].as_f64().unwrap() > 0.0);
    let last = ran.stderr.lines().last().unwrap();
    assert_eq!(last, "keyring: Test Linux: 3 keys trusted, 4 valid, 1 disabled");
    // Beside the root is the same, without a secret key; and what pacman of the host is told is ours.
    let keyring = |name: &str| fs::read(lab.gpgdir().join(name)).unwrap();
    for name in ["pubring.gpg", "trustdb.gpg"] {
        assert_eq!(keyring(name), fs::read(lab.home().join(name)).unwrap());
    }
    let mut names: Vec<_> =
        fs::read_dir(lab.gpgdir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["gpg.conf", "own-keys", "pubring.gpg", "trustdb.gpg"]);
    // Nothing beside the home, and nothing from inside.
    let beside: Vec<_> = fs::read_dir(lab.root.join("etc/pacman.d")).unwrap().collect();
    assert_eq!(beside.len(), 1);
    assert_eq!(fs::read_dir(lab.root.join("run")).unwrap().count(), 0);
}

#[test]
fn quiet_is_quiet() {
    let ring = Ring::good();
    assert_eq!(Lab::new(&ring).serve(&ring).run(&["--quiet"]).good().stderr, "");
}

#[test]
fn a_ring_that_is_installed_needs_no_pacman() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&[]).good();
    assert_eq!(ran.document["keyring"]["populated"], json!(["test"]));
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    // Without it, the tool that is missing is named.
    let ran = Lab::new(&ring).run(&[]);
    ran.bad(65, "bad-document", "\"pacman\"");
    assert!(ran.stderr.contains("fetch-pacman"));
}

#[test]
fn a_master_that_nobody_pinned_is_refused() {
    let mut ring = Ring::good();
    let stranger = ring.pinned.pop().unwrap();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&[]);
    ran.bad(69, "not-verified", &format!("it names {stranger} as a master key"));
    assert!(ran.stderr.contains(&format!("--trust {stranger}")), "{}", ran.stderr);
    assert!(!lab.home().exists());
    lab.run(&["--trust", &stranger]).good();
    // No pins at all: before anything is fetched.
    ring.pinned.clear();
    let ran = Lab::new(&ring).serve(&ring).run(&[]);
    ran.bad(69, "not-verified", "no key is pinned");
    assert_eq!(ran.stderr.lines().count(), 2);
    assert!(ran.stderr.contains("--trust FINGERPRINT"));
}

#[test]
fn pinned_keys_that_are_not_there() {
    // The ring says that it trusts a key, and lacks it.
    let mut ring = Ring::good();
    ring.keys = helpers::ring("two");
    let lab = Lab::new(&ring).install(&ring);
    let missing = &keys().masters[2];
    let ran = lab.run(&[]).good();
    assert_eq!(
        ran.warnings(),
        [format!("the pinned key {missing} gives no trust: no ring has it"), marginal(&keys().builder)]
    );
    assert_eq!(ran.document["keyring"]["trusted"].as_array().unwrap().len(), 2);
    // It does not speak of it any more: then two are left, and that is that.
    ring.trusted = ring.trusted.lines().take(2).map(|l| format!("{l}\n")).collect();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&[]).good();
    // Which is one too few for the builder.
    let builder = &keys().builder;
    assert_eq!(ran.warnings(), [marginal(builder)]);
    // None is left.
    ring.trusted.clear();
    let ran = Lab::new(&ring).install(&ring).run(&[]);
    ran.bad(69, "not-verified", "none of the pinned keys is a master key");
    // A key that the user names must be there too.
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&["--trust", &keys().extra]);
    ran.bad(69, "not-verified", ": no ring has it");
    // And one that is there gives trust: the builder, the workaround for rings that leave it marginal.
    let ran = lab.run(&["--trust", &keys().builder.to_lowercase()]).good();
    assert_eq!(ran.document["keyring"]["trusted"].as_array().unwrap().len(), 4);
    let verdict = &verdicts(lab.copy().path())[builder];
    assert_eq!(verdict, &("f".into(), "m".into(), false, true));
}

#[test]
fn an_expired_master_gives_no_trust_and_is_named() {
    let mut ring = Ring::good();
    ring.keys = helpers::ring("expired");
    ring.trusted = format!("{}:4:\n{}:4:\n", keys().masters[0], keys().expired);
    ring.pinned.push(keys().expired.clone());
    let lab = Lab::new(&ring).install(&ring);
    let expired = &keys().expired;
    let ran = lab.run(&[]).good();
    assert_eq!(
        ran.warnings(),
        [format!("the pinned key {expired} gives no trust: it expired on 2021-01-01"), marginal(&keys().builder)]
    );
    assert_eq!(ran.document["keyring"]["trusted"], json!([keys().masters[0]]));
    let verdict = &verdicts(lab.copy().path())[expired];
    assert_eq!(verdict, &("e".into(), "-".into(), false, false));
    // Where it is the only one, there is nobody to trust.
    let only = Ring { trusted: format!("{expired}:4:\n"), ..ring.clone() };
    let why = format!("trusting {expired}: it expired on 2021-01-01, and no other pinned key gives trust");
    Lab::new(&only).install(&only).run(&[]).bad(69, "not-verified", &why);
    // Revoked, it is not trusted, and it is disabled.
    ring.revoked = keys().expired.clone();
    lab.install(&ring).run(&[]).good();
}

#[test]
fn a_root_with_a_long_path() {
    let ring = Ring::good();
    let long = format!("{}/{}", "d".repeat(80), "e".repeat(80));
    let lab = Lab::at(&ring, &long).install(&ring);
    lab.run(&[]).good();
    assert_eq!(verdicts(lab.copy().path()).len(), 5);
}

/// Puts into a copy of the root's keyring what a malicious package or user could: a key that the keyring's own key signed, and
/// everything by which gpg can be told to run a program. Returns the keyring's own key.
fn infect(lab: &Lab, marker: &Path) -> String {
    let home = lab.copy();
    let home = home.path();
    let extra = lab.directory.path().join("extra.gpg");
    fs::write(&extra, &keys().rings["extra"]).unwrap();
    run(gpg(home).arg("--import").arg(&extra));
    run(gpg(home).args(["--yes", "--quick-lsign-key", &keys().extra]));
    run(gpg(home).args(["--yes", "--check-trustdb"]));
    assert_eq!(verdicts(home)[&keys().extra].0, "f");
    let own = own_key(home);
    kill_agent(home);
    let evil = lab.directory.path().join("evil");
    fs::write(&evil, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    let program = evil.display();
    let mut conf = fs::read_to_string(home.join("gpg.conf")).unwrap();
    conf.push_str(&format!(
        "agent-program {program}\nphoto-viewer \"{program}\"\nverify-options show-photos\n\
         list-options show-photos\n"
    ));
    fs::write(home.join("gpg.conf"), conf).unwrap();
    fs::write(home.join("gpg-agent.conf"), format!("pinentry-program {program}\nscdaemon-program {program}\n"))
        .unwrap();
    fs::write(home.join("common.conf"), format!("use-keyboxd\nkeyboxd-program {program}\n")).unwrap();
    symlink("/etc/passwd", home.join("link")).unwrap();
    run(Command::new("rm").arg("-r").arg(lab.home()));
    run(Command::new("cp").arg("-a").arg(home).arg(lab.home()));
    drop(std::os::unix::net::UnixListener::bind(lab.home().join("S.gpg-agent")).unwrap());
    own
}

/// The names in the root's `etc/pacman.d`.
fn beside(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.root.join("etc/pacman.d")).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_added_to_our_own_keyring_gives_no_trust() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    lab.run(&[]).good();
    let marker = lab.directory.path().join("marker");
    drop(infect(&lab, &marker));
    let ran = lab.run(&[]).good();
    assert!(ran.stderr.contains("the new one does not contain the changes"), "{}", ran.stderr);
    assert!(!marker.exists(), "a program of the host read the root's configuration");
    // Nothing of it is left, and it needs no place of its own: we had built it.
    assert_eq!(beside(&lab), ["gnupg"]);
    let verdicts = verdicts(lab.copy().path());
    assert_eq!(verdicts.len(), 5);
    assert!(!verdicts.contains_key(&keys().extra));
    for file in ["common.conf", "link", "S.gpg-agent"] {
        assert!(fs::symlink_metadata(lab.home().join(file)).is_err(), "{file}");
    }
    let conf = fs::read_to_string(lab.home().join("gpg.conf")).unwrap();
    assert!(!conf.contains("program"), "{conf}");
}

#[test]
fn a_keyring_that_we_did_not_build_is_set_aside() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    lab.run(&[]).good();
    let marker = lab.directory.path().join("marker");
    let theirs = infect(&lab, &marker);
    // As in a root that came from somewhere: what is beside it is not there.
    run(Command::new("rm").arg("-r").arg(lab.gpgdir()));
    let ran = lab.run(&[]).good();
    let set_aside = lab.root.join("etc/pacman.d/gnupg.set-aside");
    assert_eq!(
        ran.warnings(),
        [format!(
            "the root's keyring was not built by this pipeline: it gives no trust, and is kept as '{}'",
            set_aside.display()
        )]
    );
    assert!(!marker.exists(), "a program of the host read the root's configuration");
    assert!(set_aside.join("common.conf").exists());
    assert_eq!(ran.document["keyring"].get("extended"), None);
    let copy = lab.copy();
    assert_ne!(own_key(copy.path()), theirs);
    assert!(!verdicts(copy.path()).contains_key(&keys().extra));
    // An image has neither of them.
    lab.run(&["--strip"]).good();
    assert_eq!(beside(&lab), ["gnupg"]);
    // Nor can it be made to stay by filling all the names.
    for n in 1..=9 {
        let name = if n == 1 { String::new() } else { format!("-{n}") };
        fs::create_dir(lab.root.join(format!("etc/pacman.d/gnupg.set-aside{name}"))).unwrap();
    }
    run(Command::new("rm").arg("-r").arg(lab.gpgdir()));
    lab.run(&[]).bad(69, "failed", "9 keyrings were set aside already");
}

#[test]
fn only_extend_keeps_a_keyring_and_names_what_it_adds() {
    let ring = Ring::good();
    let mut lab = Lab::new(&ring).install(&ring);
    lab.run(&[]).good();
    let marker = lab.directory.path().join("marker");
    let theirs = infect(&lab, &marker);
    run(Command::new("rm").arg("-r").arg(lab.gpgdir()));
    let ran = lab.run(&["--extend"]).good();
    assert!(!marker.exists(), "a program of the host read the root's configuration");
    let extended: Vec<String> = serde_json::from_value(ran.document["keyring"]["extended"].clone()).unwrap();
    let keys_of = |names: &[String]| -> Vec<String> {
        let mut keys: Vec<_> = names.iter().map(|n| n[..40].to_owned()).collect();
        keys.sort();
        keys
    };
    let mut expected = vec![theirs, keys().extra.clone()];
    expected.sort();
    assert_eq!(keys_of(&extended), expected);
    for key in &extended {
        let warning = format!("the key {key} is valid by the root's own keyring alone, and by no pinned key");
        assert!(ran.warnings().contains(&warning), "{}", ran.stderr);
    }
    let list = run(gpg(lab.copy().path()).args(["--with-colons", "--list-keys", &keys().extra]));
    assert!(list.contains("\npub:f:"), "{list}");
    // Where nobody has verified what could have written to it, it is not.
    lab.document["strap"] = json!({"loose": true});
    lab.run(&["--extend"]).bad(69, "not-verified", "packages were installed without verification");
    lab.run(&[]).good();
    // There is nothing to add where there is none.
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&["--extend"]).good();
    assert_eq!(ran.document["keyring"].get("extended"), None);
}

#[test]
fn a_link_in_the_keyrings_place_leads_nowhere() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), lab.home()).unwrap();
    lab.run(&[]).bad(69, "failed", "it is not a directory");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    // A link in a ring's place does not either.
    let lab = Lab::new(&ring).install(&ring);
    let file = lab.root.join("usr/share/pacman/keyrings/test.gpg");
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    lab.run(&[]).bad(69, "failed", "usr/share/pacman/keyrings/test.gpg");
}

#[test]
fn a_host_without_gpg() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let empty = tempfile::tempdir().unwrap();
    let ran = Ran::of(lab.command(&[]).env("PATH", empty.path()));
    ran.bad(69, "not-found", "looking for gpg on this host: there is none in PATH");
    assert!(ran.stderr.contains("hint: sudo apt-get install gnupg"), "{}", ran.stderr);
}

#[test]
fn nothing_runs_and_nothing_is_mounted_afterwards() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).serve(&ring);
    keys();
    let _guard = RUNS.write();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let out = lab.command(&[]).output().unwrap();
    assert!(out.status.success());
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let again = Lab::new(&ring).install(&ring);
    let out = again.command(&[]).stdout(full).output().unwrap();
    assert_eq!(out.status.code(), Some(74));
    // What cannot be handed on is undone.
    assert!(!again.home().exists());
    assert_eq!(mounts(), before);
    // Inside, the keyring has the same name in every run: whose it is, the mounts say.
    let ours = [&lab, &again].map(|lab| lab.directory.path().file_name().unwrap().to_owned());
    for entry in fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        if !ours.iter().any(|name| mounts.contains(name.to_str().unwrap())) {
            continue;
        }
        let Ok(line) = fs::read(process.join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains("--homedir /run/k"), "{line}");
    }
    for entry in fs::read_dir(lab.home()).unwrap() {
        let kind = entry.unwrap().file_type().unwrap();
        assert!(kind.is_file() || kind.is_dir());
    }
}

#[test]
fn what_the_document_means_is_what_is_run() {
    let ring = Ring::good();
    let mut lab = Lab::new(&ring).serve(&ring);
    lab.document["pacman"]["sha256"] = json!("0".repeat(64));
    lab.run(&[]).bad(69, "not-verified", "it is not the program that the document means");
    let lab = Lab::new(&ring).serve(&ring);
    let ran = lab.run(&["--package", "no-such-package"]);
    ran.bad(69, "not-found", "target not found: no-such-package");
    // The package is there, and the ring is not in it.
    let ran = lab.run(&["--populate", "other"]);
    ran.bad(69, "not-found", "the ring 'other': it is not in test-keyring");
    // An archive that is not the database's: pacman finds it first.
    let package = lab.root.parent().unwrap().join("www/test-keyring-1-1-any.pkg.tar.zst");
    let mut bytes = fs::read(&package).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&package, bytes).unwrap();
    // What brought no ring is not kept for other roots to find.
    let cache = lab.root.parent().unwrap().join("cache");
    let kept = fs::read_dir(cache).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(kept.collect::<Vec<_>>(), ["databases"]);
    lab.run(&[]).bad(69, "not-verified", "invalid or corrupted package");
    assert!(!lab.home().exists());
}

#[test]
fn in_the_root_without_a_pacman_key() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&["--in-root"]);
    ran.bad(69, "not-found", "running 'pacman-key': No such file or directory");
    assert!(ran.stderr.contains("hint: the root needs pacman and gnupg first"), "{}", ran.stderr);
    let ran = Lab::new(&ring).run(&["--in-root"]);
    ran.bad(69, "not-found", "the root has no ring 'test' for its pacman-key");
    // Trust is decided before anything of the root runs.
    let ring = Ring { pinned: vec![keys().builder.clone()], ..ring };
    let lab = Lab::new(&ring).install(&ring);
    lab.run(&["--in-root"]).bad(69, "not-verified", "which is not pinned");
}

#[test]
fn an_image_carries_no_secret_key() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    lab.run(&[]).good();
    let names = || -> Vec<String> {
        let entries = fs::read_dir(lab.home()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert!(names().contains(&"private-keys-v1.d".to_owned()));
    // The secret key only: what it signed is as valid as before, and gpg has nothing to sign with.
    let list = |what: &str| {
        let copy = lab.copy();
        let text = run(gpg(copy.path()).args(["--with-colons", what]));
        kill_agent(copy.path());
        text
    };
    let valid = verdicts(lab.copy().path());
    let public = list("--list-keys");
    let ran = lab.run(&["--strip=secret"]).good();
    assert_eq!(ran.document["keyring"]["stripped"], "secret");
    assert_eq!(list("--list-keys"), public);
    assert_eq!(list("--list-secret-keys"), "");
    // All of it: what is left is the configuration, and a machine makes its own of that.
    let ran = lab.run(&["--strip"]).good();
    assert_eq!(names(), ["gpg-agent.conf", "gpg.conf"]);
    assert_eq!(ran.document["keyring"]["stripped"], "all");
    let again = lab.run(&["--strip=all"]).good();
    assert!(again.stderr.contains("nothing to remove"), "{}", again.stderr);
    // Built again, it is whole, and the document says nothing of before.
    let ran = lab.run(&[]).good();
    assert_eq!(verdicts(lab.copy().path()), valid);
    assert_eq!(ran.document["keyring"].get("stripped"), None);
}

#[test]
fn command_lines_that_are_refused() {
    let ring = Ring {
        keys: helpers::ring("all"),
        trusted: String::new(),
        revoked: String::new(),
        pinned: vec!["A".repeat(40)],
    };
    let lab = Lab::new(&ring);
    for (args, message) in [
        (["--populate", "../x"], "invalid value '../x'"),
        (["--package", "-x"], "unexpected argument"),
        (["--trust", "6AC6A4C2"], "is not a fingerprint"),
        (["--strip", "--in-root"], "cannot be used with"),
        (["--strip=public", "--quiet"], "invalid value 'public'"),
    ] {
        let ran = lab.run(&args);
        assert_eq!(ran.status, 64, "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
    let mut lab = lab;
    lab.document.as_object_mut().unwrap().remove("distro");
    lab.run(&[]).bad(64, "usage", "the document names no distribution");
}

/// What `--key` takes is one public key, and what else there may be in a file is named.
#[test]
fn a_file_that_is_not_one_public_key_is_refused() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let home = short();
    let key = make_key(home.path(), "own", "Expire-Date: 0");
    let mut export = gpg(home.path());
    let secret = run(export.args(["--armor", "--export-secret-keys", &key]));
    let mut export = gpg(home.path());
    let public = run(export.args(["--armor", "--export", &key]));
    let old = make_key(home.path(), "old", "Creation-Date: 20200101T000000\nExpire-Date: 366");
    let mut export = gpg(home.path());
    let old_key = run(export.args(["--armor", "--export", &old]));
    kill_agent(home.path());
    let at = |name: &str| lab.directory.path().join(name);
    for (name, bytes) in [
        ("secret", secret.as_bytes()),
        ("public", public.as_bytes()),
        ("expired", old_key.as_bytes()),
        ("several", ring.keys),
        ("none", b"no key"),
        ("empty", b""),
    ] {
        fs::write(at(name), bytes).unwrap();
    }
    fs::create_dir(at("directory")).unwrap();
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    for (name, code, why) in [
        ("secret", 64, "it has a secret key, which is for nobody but its owner"),
        ("several", 64, "there are 5 keys in it"),
        ("none", 64, "there is no OpenPGP key in it: gpg: no valid OpenPGP data found"),
        ("empty", 64, "there is no OpenPGP key in it: gpg: "),
        ("directory", 64, "not a regular file"),
        ("missing", 64, "No such file or directory"),
    ] {
        let ran = lab.run(&["--key", &path(name)]);
        let line = format!("keyring: reading the key '{}': ", path(name));
        let found = ran.stderr.lines().any(|l| l.starts_with(&line) && l.contains(why));
        assert!(found, "{name}: {}", ran.stderr);
        assert_eq!(ran.status, code, "{name}: {}", ran.stderr);
        assert!(!lab.home().exists());
    }
    let ran = lab.run(&["--key", &path("expired")]);
    let why = format!("{old}: it expired on 2021-01-01");
    assert!(ran.stderr.contains(&why), "{}", ran.stderr);
    assert_eq!(ran.status, 69);
    let ran = lab.run(&["--key", &path("public"), "--key", &path("public")]).good();
    let keyring = &ran.document["keyring"];
    assert_eq!(keyring["own"].as_array().unwrap().len(), 1);
    assert_eq!(keyring["own"][0]["fingerprint"], key.as_str());
    assert_eq!(keyring["publishers"][1], json!({"keys": [key]}));
    assert_eq!(keyring["populated"], json!(["test"]));
}

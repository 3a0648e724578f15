//! What a mirror can do to what it serves, over the whole pipe: nothing that was altered gets in, and each time the tool
//! that must stop it does, says why, and leaves nothing behind that a later run would take.
//!
//! One row is one lie. The pipe runs against it, and then again in the same place against the honest mirror, which must
//! go through at once. Signatures do not tell an old package from a new one: the rows that are *taken* say so, and
//! strapline(7) says what does.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use strapline_tests::{Answer, Lab, Mirror, Ran, Server, Who, tier};

/// What is lied about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Database,
    SignedDatabase,
    Package,
    Signature,
    KeyringPackage,
    PacmanStatic,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Altered,
    Removed,
    /// Replaced by an older one that was validly signed.
    Older,
    /// Replaced by another one's, which is validly signed.
    Swapped,
    /// As it should be.
    Honest,
}

use How::{Altered, Honest, Older, Removed, Swapped};
use What::{Database, KeyringPackage, Package, PacmanStatic, Signature, SignedDatabase};

/// What becomes of it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The tool that refuses, the code word, and words of its line: … stands for what does not matter.
    Refused(&'static str, &'static str, &'static str),
    /// The lie does not matter: what goes in is what the builder built and signed.
    Harmless,
}

use Fate::{Harmless, Refused};

/// One lie.
#[derive(Clone, Copy, Debug)]
struct Row {
    what: What,
    how: How,
    /// As `tests/mirror/tamper list` has it; "" for the mirror as it is.
    kind: &'static str,
    /// The server says 404 to paths that end so.
    missing: &'static str,
    /// What happens on the host between `mkconf` and `keyring`: a stage of the pipe.
    meanwhile: &'static str,
    fate: Fate,
}

const fn row(what: What, how: How, kind: &'static str, fate: Fate) -> Row {
    Row { what, how, kind, missing: "", meanwhile: "", fate }
}

/// A refusal because something does not verify.
const fn unverified(tool: &'static str, line: &'static str) -> Fate {
    Refused(tool, "not-verified", line)
}

impl Row {
    const fn without(self, missing: &'static str) -> Self {
        Self { missing, ..self }
    }

    const fn meanwhile(self, meanwhile: &'static str) -> Self {
        Self { meanwhile, ..self }
    }

    fn name(&self) -> String {
        let Self { what, how, kind, missing, .. } = self;
        format!("{what:?} {how:?} {kind} {missing}")
    }
}

const NANO: &str = "7.2-1";
const OLD_NANO: &str = "6.4-1";
const NOT_NANO: &str = "checking 'nano': it is not what the key …mkmirror Build System… signed";
const LOST: &str = "failed retrieving file";
const GONE: &str = "the mirror has no '";
const UNSIGNED: &str = "the package has no signature";
const BAD: &str = "the package or its signature was altered";
const UNPINNED: &str = "which is not pinned";

/// At least one for each cell of what and how.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // The databases. Unsigned, as most distributions' are, one can say what it likes. Where there is a signature, that is
    // what counts, and not the hash in the database.
    row(Database, Honest, "", Harmless),
    row(Database, Honest, "extra-bare", Harmless),
    row(Database, Altered, "extra-wrong-hash", Harmless),
    row(Database, Altered, "db-wrong-hash", unverified("fetch-pacman", "its SHA-256 is ")),
    row(Database, Removed, "extra-removed", Refused("keyring", "network", LOST)),
    row(Database, Removed, "cn-removed", Refused("fetch-pacman", "not-found", "archlinuxcn.db': HTTP status 404")),
    row(Database, Older, "extra-old", Refused("strap", "network", GONE)),
    row(Database, Swapped, "extra-swapped", Refused("strap", "not-found", "target not found: nano")),
    row(Database, Swapped, "cn-swapped", Refused("fetch-pacman", "not-found", "it has no package 'pacman-static'")),
    // Signed, with DatabaseRequired.
    row(SignedDatabase, Honest, "signed", Harmless),
    row(SignedDatabase, Altered, "signed-altered", unverified("keyring", "checking 'extra.db': it is not what the key ")),
    row(SignedDatabase, Altered, "signed-stranger", unverified("keyring", "'extra.db': …, which is not in the keyring")),
    row(SignedDatabase, Removed, "", unverified("keyring", "the mirror has no signature for '")),
    row(SignedDatabase, Removed, "signed-removed", unverified("keyring", "the mirror has no signature for 'extra.db'")),
    row(SignedDatabase, Removed, "signed", unverified("keyring", "the mirror has no signature for '")).without(".db.sig"),
    row(SignedDatabase, Older, "signed-old-signature", unverified("keyring", "checking 'extra.db': it is not what the key ")),
    row(SignedDatabase, Swapped, "signed-swapped", Refused("strap", "not-found", "target not found: nano")),
    // A package.
    row(Package, Altered, "nano-altered-unsigned", unverified("strap", "the mirror has no signature for 'nano-7.2-1-x86_64.pkg.tar.zst'")),
    row(Package, Altered, "nano-bad-signature", unverified("strap", NOT_NANO)),
    row(Package, Altered, "nano-stranger-key", unverified("strap", "checking 'nano': …, which is not in the keyring")),
    row(Package, Altered, "nano-retired-key", unverified("strap", "checking 'nano': …Retired…, which is disabled: the distribution revoked it")),
    row(Package, Removed, "nano-removed", Refused("strap", "network", GONE)),
    row(Package, Older, "nano-old-archive", unverified("strap", "checking 'nano': it is package 'nano' 6.4-1, validly signed, and should be 'nano' 7.2-1")),
    row(Package, Swapped, "nano-swapped", unverified("strap", "checking 'nano': it is package 'sudo' …, validly signed, and should be 'nano' 7.2-1")),
    // A signature.
    row(Signature, Altered, "nano-altered-signature", unverified("strap", NOT_NANO)),
    row(Signature, Removed, "nano-unsigned", unverified("strap", "the mirror has no signature for 'nano-7.2-1-x86_64.pkg.tar.zst'")),
    row(Signature, Removed, "extra-bare", unverified("keyring", "the mirror has no signature for 'archlinux-keyring-")).without(".sig"),
    row(Signature, Removed, "extra-bare", unverified("strap", "the mirror has no signature for 'nano-7.2-1-x86_64.pkg.tar.zst'")).without("/nano-7.2-1-x86_64.pkg.tar.zst.sig"),
    row(Signature, Older, "nano-old-signature", unverified("strap", NOT_NANO)),
    row(Signature, Swapped, "nano-swapped-signature", unverified("strap", NOT_NANO)),
    // The package that the keyring is from. It is used before there is a keyring to check it by.
    row(KeyringPackage, Altered, "keyring-extra-trusted", unverified("keyring", "as a master key, which is not pinned")),
    // A packager more, for whom no master vouches, counts for nothing.
    row(KeyringPackage, Honest, "keyring-extra-key", Harmless),
    row(KeyringPackage, Altered, "keyring-extra-key-used", unverified("strap", "checking 'nano': …Stranger…, for which no trusted key vouches where 3 must")),
    row(KeyringPackage, Altered, "keyring-stranger-key", unverified("keyring", "checking 'archlinux-keyring': …Stranger…, for which no trusted key vouches where 3 must")),
    row(KeyringPackage, Altered, "keyring-missing-master", unverified("keyring", "checking 'archlinux-keyring': …, for which 2 trusted keys vouch where 3 must")),
    row(KeyringPackage, Altered, "keyring-revoked-dropped", unverified("keyring", "checking 'archlinux-keyring': it is not what the key ")),
    row(KeyringPackage, Altered, "keyring-revoked-unsigned", unverified("keyring", "the mirror has no signature for 'archlinux-keyring-")),
    row(KeyringPackage, Altered, "keyring-builder-revoked", unverified("keyring", "checking 'archlinux-keyring': …, which is disabled: the distribution revoked it")),
    row(KeyringPackage, Removed, "keyring-removed", Refused("keyring", "network", GONE)),
    row(KeyringPackage, Removed, "keyring-unsigned", unverified("keyring", "the mirror has no signature for 'archlinux-keyring-")),
    row(KeyringPackage, Older, "keyring-old-archive", unverified("keyring", "it is package 'archlinux-keyring' 20200101-1")),
    // Master keys that ended: they give no trust, and what is left of the others decides.
    row(KeyringPackage, Older, "keyring-aged-one", unverified("keyring", "checking 'archlinux-keyring': …, for which 2 trusted keys vouch where 3 must")),
    row(KeyringPackage, Older, "keyring-aged", unverified("keyring", "…: it expired on 20…: it expired on 20…: it expired on 20…, and no other pinned key gives trust")),
    row(KeyringPackage, Swapped, "keyring-swapped", unverified("keyring", "it is package 'nano' 7.2-1, and should be")),
    // The program that checks all that comes after it.
    row(PacmanStatic, Altered, "static-altered-unsigned", unverified("fetch-pacman", UNSIGNED)),
    row(PacmanStatic, Altered, "static-bad-signature", unverified("fetch-pacman", BAD)),
    row(PacmanStatic, Altered, "static-stranger-key", unverified("fetch-pacman", UNPINNED)),
    row(PacmanStatic, Altered, "static-stranger-ring", unverified("fetch-pacman", UNPINNED)),
    row(PacmanStatic, Altered, "", unverified("keyring", "it is not the program that the document means"))
        .meanwhile("| sh -c 'document=$(cat); echo >> \"$(find fetched/pacman -type f)\"; echo \"$document\"'"),
    row(PacmanStatic, Honest, "cn-keyring-extra-key", Harmless),
    row(PacmanStatic, Altered, "cn-keyring-missing-key", unverified("fetch-pacman", "which is pinned and not in package")),
    row(PacmanStatic, Removed, "static-removed", Refused("fetch-pacman", "not-found", "HTTP status 404")),
    row(PacmanStatic, Removed, "static-unsigned", unverified("fetch-pacman", UNSIGNED)),
    row(PacmanStatic, Older, "static-old-archive", unverified("fetch-pacman", "it is package 'pacman-static' 6.0.2-9, ")),
    row(PacmanStatic, Swapped, "static-swapped", unverified("fetch-pacman", "it is package 'pacman-static-git' ")),
    row(PacmanStatic, Swapped, "static-swapped-signature", unverified("fetch-pacman", BAD)),
];

#[test]
fn every_cell_of_the_matrix_has_a_row() {
    for what in [Database, SignedDatabase, Package, Signature, KeyringPackage, PacmanStatic] {
        for how in [Altered, Removed, Older, Swapped] {
            let refused = |row: &&Row| matches!(row.fate, Refused(..));
            let mut rows = ROWS.iter().filter(refused);
            assert!(rows.any(|r| (r.what, r.how) == (what, how)), "{what:?} {how:?}");
        }
    }
}

#[test]
fn every_kind_of_tampering_has_a_row() {
    let list = Command::new(strapline_tests::top().join("tests/mirror/tamper"))
        .arg("list")
        .output()
        .expect("python3 is there");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let kinds: BTreeSet<&str> = list.lines().filter_map(|l| l.split(' ').next()).collect();
    let rows = ROWS.iter().map(|row| row.kind);
    let taken = TAKEN.iter().map(|(_, kind, ..)| *kind);
    let used: BTreeSet<&str> = rows.chain(taken).chain(ELSEWHERE).collect();
    assert!(kinds.len() > 50, "{list}");
    let left: Vec<_> = kinds.difference(&used).collect();
    assert_eq!(left, Vec::<&&str>::new());
}

#[test]
fn nothing_altered_gets_in() {
    let ground = Ground::new();
    let rows: Vec<&Row> = tier::sample(ROWS, 3, 0).collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        // Twice as many as processors: half of the time is spent on waiting for the disk.
        for _ in 0..2 * thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // All rows are run, and all that fail are named.
                    if catch_unwind(AssertUnwindSafe(|| ground.run(row))).is_err() {
                        eprintln!("that was {}", row.name());
                        failed.lock().expect("no poison").insert(row.name());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no poison");
    let refused = ROWS.iter().filter(|r| matches!(r.fate, Refused(..))).count();
    eprintln!("{} rows, {} got in", rows.len(), failed.len());
    assert_eq!(failed, BTreeSet::new());
    assert_eq!((ROWS.len(), refused), (56, 50));
}

/// Kinds that are validly signed and old; what goes in then: the version of nano, and whether that is altered.
const TAKEN: [(What, &str, &str, bool); 4] = [
    (Package, "nano-old", OLD_NANO, false),
    (SignedDatabase, "signed-old", OLD_NANO, false),
    (PacmanStatic, "static-old", NANO, false),
    // With an old keyring package comes an old list of revoked keys. Whoever has such a key can sign with it.
    (KeyringPackage, "keyring-old", NANO, true),
];

/// Kinds that other tests look at: what runs in the root, what only a lock is about, what is no lie.
const ELSEWHERE: [&str; 7] = [
    "keyring-aged-two",
    "nano-newer",
    "scriptlet-fails",
    "scriptlet-waits",
    "scriptlet-works",
    "hook-fails",
    "nano-rebuilt",
];

/// Old and validly signed: no signature tells it from what is new, and it goes in. strapline(7) says so, and what tells.
#[test]
fn what_was_once_good_is_taken() {
    let ground = Ground::new();
    for (what, kind, version, tampered) in TAKEN {
        let (lab, ran) = ground.against(&row(what, Older, kind, Harmless));
        let document = ran.succeeded();
        assert_eq!(package(&document, "nano")["version"], version, "{kind}");
        assert_eq!(package(&document, "nano")["verified"], true, "{kind}");
        let there = lab.path().join("root/usr/share/nano/TAMPERED").exists();
        assert_eq!(there, tampered, "{kind}");
        let old = if kind == "static-old" { "6.0.2-8" } else { "6.0.2-10" };
        assert_eq!(document["pacman"]["package"]["version"], old, "{kind}");
    }
}

/// As rings of some years have them, and presets that pin what these name: keys that ended are named, and the rest decides.
#[test]
fn an_aged_ring_is_taken_without_its_dead_keys() {
    let lab = Lab::new(Who::Root);
    let aged = Mirror::of("x86_64").tampered(&lab.path().join("mirror"), "keyring-aged-two");
    let server = Server::of(&aged.www());
    let ran = lab.sh(&pipe(&aged, &server, "", "", "nano"));
    went_in(&lab, &ran);
    let document = ran.document();
    let trusted = document["keyring"]["trusted"].as_array();
    let trusted: BTreeSet<&str> = trusted.expect("keys").iter().filter_map(Value::as_str).collect();
    let masters = [0, 1, 2].map(|n| aged.key(&format!("/masters/{n}")));
    assert_eq!(trusted, masters.iter().map(String::as_str).collect());
    let dead: Vec<&str> =
        ran.stderr.lines().filter_map(|l| l.strip_prefix("keyring: warning: the pinned key ")).collect();
    assert_eq!(dead.len(), 2, "{}", ran.stderr);
    for day in ["2019-01-26", "2020-05-05"] {
        let line = format!(" gives no trust: it expired on {day}");
        assert!(dead.iter().any(|l| l.ends_with(&line)), "{dead:?}");
    }
}

/// What tells the old from the new: the document of a root that was made before.
#[test]
fn a_lock_leaves_the_mirror_no_choice() {
    let ground = Ground::new();
    // A root from nothing: of what was there before, its document does not know from which archives it is.
    let finished = Lab::new(Who::Root);
    let server = Server::of(&ground.good.www());
    let ran = finished.sh(&pipe(&ground.good, &server, "", "", "nano"));
    drop(ran.succeeded());
    for (kind, line) in [
        ("nano-old", "installing what is locked: not available: 'nano' 7.2-1"),
        ("keyring-old", "the mirror has another archive of 'nano' 7.2-1"),
    ] {
        let lab = Lab::new(Who::Root);
        fs::write(lab.path().join("lock.json"), &ran.stdout).expect("our own directory");
        let mirror = ground.good.tampered(&lab.path().join("mirror"), kind);
        let server = Server::of(&mirror.www());
        let ran = lab.sh(&pipe(&ground.good, &server, "", "", "--locked lock.json"));
        let error = ran.document()["error"].clone();
        assert_eq!(error["tool"], "strap", "{kind}: {}", ran.stderr);
        ran.failed(69, line);
        assert_eq!(lab.sh("find root -name nano -o -name 'TAMPERED*'").stdout, "", "{kind}");
        assert_eq!(ran.document().get("packages"), None, "{kind}");
    }
}

/// A cache outlives the mirror that it was filled from, and the power.
#[test]
fn what_lies_broken_in_the_cache_is_fetched_again() {
    let ground = Ground::new();
    let row = &ROWS[0];
    let (lab, ran) = ground.against(row);
    went_in(&lab, &ran);
    let both = ["archlinux-keyring", "nano"];
    let again = |broken: &[&str], alter: fn(&mut Vec<u8>)| {
        for archive in broken {
            let found = lab.sh(&format!("ls packages/{archive}-[0-9]*.pkg.tar.[xz]*[zt]")).stdout;
            let path = lab.path().join(found.trim());
            let mut bytes = fs::read(&path).unwrap_or_else(|e| panic!("{found}: {e}"));
            alter(&mut bytes);
            fs::write(&path, bytes).expect("our own cache");
        }
        drop(lab.sh("rm -r root root.strapline"));
        let ran = ground.pipe(&lab, &ground.honest, row, "");
        went_in(&lab, &ran);
        ran
    };
    // As a pacman leaves one that met a full disk: strap meets it when it installs, and keyring when it downloads.
    for broken in [&both[1..], &both] {
        let ran = again(broken, |bytes| bytes.truncate(bytes.len() / 2));
        let says = |line: &&str| line.contains("nano-7") && line.ends_with("downloaded again");
        assert_eq!(ran.stderr.lines().filter(says).count(), 1, "{}", ran.stderr);
    }
    let ran = again(&both, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let warned = |line: &&str| line.ends_with("was in the cache before and is downloaded again");
    let warned: Vec<_> = ran.stderr.lines().filter(warned).collect();
    let [keyring, strap] = warned[..] else { panic!("{}", ran.stderr) };
    assert!(keyring.starts_with("keyring: warning: ") && keyring.contains("/archlinux-keyring-"));
    assert!(strap.starts_with("strap: warning: checking 'nano': it is not what the key "), "{strap}");
}

/// What all rows begin with: an honest mirror, and a root that has what nano needs and no keyring.
struct Ground {
    lab: Lab,
    good: Mirror,
    honest: Server,
    /// A mirror with signed databases.
    signed: Server,
}

impl Ground {
    fn new() -> Self {
        let lab = Lab::new(Who::Root);
        let good = Mirror::of("x86_64");
        let honest = Server::of(&good.www());
        let signed = good.tampered(&lab.path().join("signed"), "signed");
        let ran = lab.sh(&pipe(&good, &honest, "", "", "ncurses"));
        drop(ran.succeeded());
        let ran = lab.sh("rm -r root/etc/pacman.d/gnupg root/var/lib/pacman/sync packages/archlinux-keyring-*");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        Self { lab, honest, signed: Server::of(&signed.www()), good }
    }

    /// Runs the pipe against the lie, and then against the truth.
    fn run(&self, row: &Row) {
        let (lab, ran) = self.against(row);
        if let Refused(tool, code, line) = row.fate {
            refused(&ran, tool, code, line);
            let before = installed(&self.lab);
            nothing_is_in(&lab, &before, &ran.document(), tool);
            let honest = match row.what {
                SignedDatabase => &self.signed,
                _ => &self.honest,
            };
            went_in(&lab, &self.pipe(&lab, honest, row, ""));
        } else {
            went_in(&lab, &ran);
        }
    }

    /// Runs the pipe against the lie.
    fn against(&self, row: &Row) -> (Lab, Ran) {
        let lab = Lab::new(Who::Root);
        let ran = lab.sh(&format!("cp -a {0}/root {0}/packages .", self.lab.path().display()));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let mirror = match row.kind {
            "" => self.good.clone(),
            kind => self.good.tampered(&lab.path().join("mirror"), kind),
        };
        let missing = row.missing;
        let server = Server::lying(&mirror.www(), move |request| {
            if !missing.is_empty() && request.path.ends_with(missing) {
                Answer::Status(404, "<html>not found</html>")
            } else {
                Answer::Serve
            }
        });
        let ran = self.pipe(&lab, &server, row, row.meanwhile);
        (lab, ran)
    }

    fn pipe(&self, lab: &Lab, server: &Server, row: &Row, meanwhile: &str) -> Ran {
        let options = match row.what {
            SignedDatabase => "--set 'SigLevel=Required DatabaseRequired'",
            _ => "",
        };
        lab.sh(&pipe(&self.good, server, options, meanwhile, "nano"))
    }
}

/// The whole pipe, in directories that may be those of a run before.
fn pipe(mirror: &Mirror, server: &Server, options: &str, meanwhile: &str, package: &str) -> String {
    let (preset, url) = (mirror.preset(), server.url());
    format!(
        "mkroot root --arch x86_64 --distro {preset} \
         | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
         | mkconf {options} --server '{url}/$arch/$repo' --cache-dir packages {meanwhile} \
         | keyring | strap {package} | reap | unmount",
        preset = preset.display()
    )
}

/// Checks that a lie was refused, by whom and how.
#[track_caller]
fn refused(ran: &Ran, tool: &str, code: &str, line: &str) {
    let error = ran.document()["error"].clone();
    assert_eq!((&error["tool"], &error["code"]), (&tool.into(), &code.into()), "{}", ran.stderr);
    let status = if code == "network" { 75 } else { 69 };
    let message = text(&error, "message");
    ran.failed(status, &format!("{tool}: {message}"));
    let mut rest = message;
    for words in line.split('…') {
        let found = rest.split_once(words);
        rest = found.unwrap_or_else(|| panic!("no «{line}» in: {message}")).1;
    }
}

/// Checks that nothing of what was refused is anywhere, in the root, in the document, or ready to be run.
#[track_caller]
fn nothing_is_in(lab: &Lab, before: &BTreeSet<String>, document: &Value, tool: &str) {
    let ran = lab.sh("find root -name 'TAMPERED*' -o -name nano -o -name sudo");
    assert_eq!(ran.stdout, "");
    assert_eq!(installed(lab), *before);
    let recorded = document["packages"].as_array();
    let recorded: Option<BTreeSet<String>> = recorded.map(|all| {
        let name = |p: &Value| format!("{}-{}", text(p, "name"), text(p, "version"));
        all.iter().map(name).collect()
    });
    // strap says what is in, also after a failure.
    assert_eq!(recorded.as_ref(), (tool == "strap").then_some(before), "{document}");
    if tool == "strap" {
        return;
    }
    assert_eq!(document.get("keyring"), None);
    let ran = lab.sh("find root/etc/pacman.d -path '*gnupg*' -type f");
    assert_eq!(ran.stdout, "", "there is a keyring");
    if tool == "fetch-pacman" {
        assert_eq!(document.get("pacman"), None);
        let ran = lab.sh("find fetched -type f -perm /111");
        assert_eq!(ran.stdout, "", "there is a program");
    }
}

/// Checks that all went well, and that what is in is what the builder built.
#[track_caller]
fn went_in(lab: &Lab, ran: &Ran) {
    let document = ran.succeeded();
    let packages = document["packages"].as_array().expect("packages");
    for package in packages {
        assert_eq!(package["verified"], true, "{package}");
    }
    assert_eq!(package(&document, "nano")["version"], NANO);
    assert!(lab.path().join("root/usr/bin/nano").exists());
    assert_eq!(lab.sh("find root packages -name 'TAMPERED*'").stdout, "");
}

fn package<'a>(document: &'a Value, name: &str) -> &'a Value {
    let packages = document["packages"].as_array().expect("packages");
    packages.iter().find(|p| p["name"] == name).expect(name)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Returns what pacman has on record in the root: names with versions.
fn installed(lab: &Lab) -> BTreeSet<String> {
    fs::read_dir(lab.path().join("root/var/lib/pacman/local"))
        .expect("a database")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "ALPM_DB_VERSION")
        .collect()
}

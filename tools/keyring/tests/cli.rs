//! The built program, against the host's gpg and pacman, with keys and a package of its own.
//!
//! The measure is `pacman-key --init` and `--populate` of the host: the keyring that we build must be the same one.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{OnceLock, RwLock};
use tempfile::TempDir;

/// Held for reading by every run, and for writing by the test that looks for what a run left.
static RUNS: RwLock<()> = RwLock::new(());

// ---------------------------------------------------------------------------------------------------------------------
// Keys, made once.

struct Keys {
    /// What gpg exports: by name, some of the keys each.
    rings: BTreeMap<&'static str, Vec<u8>>,
    masters: [String; 3],
    builder: String,
    retired: String,
    expired: String,
    extra: String,
}

fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {err}");
    String::from_utf8(out.stdout).unwrap()
}

fn gpg(home: &Path) -> Command {
    let mut command = Command::new("gpg");
    command.env("LC_ALL", "C").arg("--homedir").arg(home);
    command.args(["--batch", "--quiet", "--no-permission-warning", "--no-tty"]);
    command
}

/// Ends the agent that gpg started for this home, and no other.
fn kill_agent(home: &Path) {
    let mut command = Command::new("gpgconf");
    run(command.arg("--homedir").arg(home).args(["--kill", "all"]));
}

/// A directory with a path that is short enough for an agent's socket.
fn short() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("k").tempdir_in("/tmp").unwrap()
}

fn primaries(list: &str) -> BTreeSet<String> {
    let primary = |l: &str| l.starts_with("pub:") || l.starts_with("sec:");
    let lines: Vec<_> = list.lines().collect();
    lines
        .windows(2)
        .filter(|w| primary(w[0]))
        .map(|w| w[1].split(':').nth(9).unwrap().to_owned())
        .collect()
}

fn all(home: &Path) -> BTreeSet<String> {
    primaries(&run(gpg(home).args(["--with-colons", "--list-keys"])))
}

fn make_key(home: &Path, name: &str, dates: &str) -> String {
    let before = all(home);
    let file = home.join("params");
    let text = format!(
        "Key-Type: EDDSA\nKey-Curve: ed25519\nKey-Usage: sign\nName-Real: Test {name}\n\
         Name-Email: {name}@test.invalid\n{dates}\n%no-protection\n%commit\n"
    );
    fs::write(&file, text).unwrap();
    run(gpg(home).arg("--gen-key").arg(&file));
    all(home).difference(&before).next().unwrap().clone()
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let directory = short();
        let home = directory.path();
        let never = "Expire-Date: 0";
        let masters = ["m1", "m2", "m3"].map(|name| make_key(home, name, never));
        let [builder, retired, extra] =
            ["builder", "retired", "extra"].map(|name| make_key(home, name, never));
        let past = "Creation-Date: 20200101T000000\nExpire-Date: 366";
        let expired = make_key(home, "expired", past);
        for master in &masters {
            for key in [&builder, &retired] {
                let mut sign = gpg(home);
                run(sign.args(["--yes", "--local-user", master, "--quick-sign-key", key]));
            }
        }
        let export = |keys: &[&String]| {
            let mut export = gpg(home);
            run(export.args(["--armor", "--export"]).args(keys)).into_bytes()
        };
        let [a, b, c] = &masters;
        let rings = BTreeMap::from([
            ("all", export(&[a, b, c, &builder, &retired])),
            ("two", export(&[a, b, &builder, &retired])),
            ("expired", export(&[a, &builder, &expired])),
            ("extra", export(&[&extra])),
        ]);
        kill_agent(home);
        Keys {
            rings,
            masters,
            builder,
            retired,
            expired,
            extra,
        }
    })
}

impl Keys {
    fn trusted(&self) -> String {
        self.masters.iter().map(|m| format!("{m}:4:\n")).collect()
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A root, a mirror and a document.

struct Lab {
    directory: TempDir,
    root: PathBuf,
    document: Value,
}

/// What a keyring package says.
struct Ring<'a> {
    keys: &'a str,
    trusted: String,
    revoked: String,
    pinned: Vec<String>,
}

impl Ring<'_> {
    /// As it should be: three masters that certify a builder, and one key that is retired.
    fn good() -> Self {
        Self {
            keys: "all",
            trusted: keys().trusted(),
            revoked: format!("{}\n", keys().retired),
            pinned: keys().masters.to_vec(),
        }
    }

    fn files(&self) -> [(String, Vec<u8>); 3] {
        let name = |end: &str| format!("usr/share/pacman/keyrings/test{end}");
        [
            (name(".gpg"), keys().rings[self.keys].clone()),
            (name("-trusted"), self.trusted.clone().into()),
            (name("-revoked"), self.revoked.clone().into()),
        ]
    }
}

impl Lab {
    fn new(ring: &Ring<'_>) -> Self {
        Self::at(ring, "root")
    }

    fn at(ring: &Ring<'_>, below: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let root = top.join(below);
        for at in [
            "dev",
            "etc/pacman.d",
            "proc",
            "run",
            "sys",
            "tmp",
            "var/cache",
            "var/lib/pacman",
            "var/log",
        ] {
            fs::create_dir_all(root.join(at)).unwrap();
        }
        let pins = ring.pinned.iter().map(|key| {
            format!(
                "[[keyring.trusted]]\nfingerprint = \"{key}\"\nsource = \"x\"\ndate = \"2026-11-22\"\n"
            )
        });
        let preset = format!(
            "name = \"test\"\ntitle = \"Test Linux\"\n[keyring]\npackages = [\"test-keyring\"]\n\
             populate = [\"test\"]\n{}[arch.x86_64]\nservers = [\"http://127.0.0.1:9/\"]\nrepos = [\"core\"]\n",
            pins.collect::<String>()
        );
        fs::write(top.join("test.toml"), preset).unwrap();
        let meta = fs::metadata(&root).unwrap();
        let document = json!({
            "strapline": 1,
            "root": root,
            "root_id": {"dev": meta.dev(), "ino": meta.ino()},
            "arch": "x86_64",
            "distro": top.join("test.toml"),
            "mode": "root",
            "mounts": rootfs::plan::api(false),
            "binfmt": {"kind": "native"},
            "org.example.note": {"kept": true},
        });
        Self {
            directory,
            root,
            document,
        }
    }

    /// As after the keyring package was installed.
    fn install(self, ring: &Ring<'_>) -> Self {
        for (path, bytes) in ring.files() {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        self
    }

    /// As before it: a mirror that has the package, a pacman, and a configuration for it.
    fn serve(mut self, ring: &Ring<'_>) -> Self {
        let top = self.root.parent().unwrap().to_owned();
        let www = top.join("www");
        fs::create_dir(&www).unwrap();
        let package = www.join("test-keyring-1-1-any.pkg.tar.zst");
        let encoder = zstd::Encoder::new(fs::File::create(&package).unwrap(), 1).unwrap();
        let mut tar = tar::Builder::new(encoder);
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, bytes).unwrap();
        };
        let info = "pkgname = test-keyring\npkgbase = test-keyring\npkgver = 1-1\npkgdesc = x\n\
                    builddate = 1\npackager = x\nsize = 1\narch = any\n";
        add(".PKGINFO", info.as_bytes());
        for (path, bytes) in ring.files() {
            add(&path, &bytes);
        }
        tar.into_inner().unwrap().finish().unwrap();
        let mut repo_add = Command::new("repo-add");
        run(repo_add
            .arg("-q")
            .arg(www.join("core.db.tar.gz"))
            .arg(&package));
        let conf = top.join("loose.conf");
        let root = self.root.display();
        let text = format!(
            "[options]\nRootDir = {root}\nDBPath = {root}/var/lib/pacman\nCacheDir = {top}/cache\n\
             LogFile = {root}/var/log/pacman.log\nGPGDir = {root}/etc/pacman.d/gnupg\n\
             Architecture = x86_64\nSigLevel = Never\n[core]\nServer = file://{www}\n",
            top = top.display(),
            www = www.display()
        );
        fs::write(&conf, text).unwrap();
        let pacman = which("pacman");
        let sum = run(Command::new("sha256sum").arg(&pacman));
        self.document["pacman"] = json!({
            "path": pacman,
            "version": "6.0.2",
            "sha256": sum.split(' ').next().unwrap(),
            "trust": "host",
        });
        self.document["config"] =
            json!({"strict": conf, "loose": conf, "cache": top.join("cache")});
        self
    }

    fn home(&self) -> PathBuf {
        self.root.join("etc/pacman.d/gnupg")
    }

    fn command(&self, args: &[&str]) -> Command {
        let state = self.directory.path().join("state.json");
        fs::write(&state, self.document.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyring"));
        command.arg("--state").arg(&state).args(args);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// The keyring in a place of its own, so that looking at it changes nothing.
    fn copy(&self) -> TempDir {
        let copy = short();
        let mut cp = Command::new("cp");
        run(cp.arg("-a").arg(self.home().join(".")).arg(copy.path()));
        copy
    }
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut all = std::env::split_paths(&path).map(|d| d.join(program));
    all.find(|p| p.is_file()).unwrap().canonicalize().unwrap()
}

struct Ran {
    status: i32,
    document: Value,
    stderr: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let _guard = RUNS.read();
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        let document = serde_json::from_slice(&stdout).unwrap_or_default();
        Self {
            status: status.code().unwrap(),
            document,
            stderr,
        }
    }

    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.stderr);
        assert!(self.document.get("error").is_none(), "{}", self.document);
        self
    }

    /// A failure: its exit status, its word, and one line with its hint.
    #[track_caller]
    fn bad(&self, status: i32, code: &str, message: &str) {
        assert_eq!(self.status, status, "{}", self.stderr);
        assert_eq!(self.document["error"]["code"], code, "{}", self.document);
        assert_eq!(self.document["error"]["exit"], status);
        let told = self.document["error"]["message"].as_str().unwrap();
        assert!(told.contains(message), "{told:?} should say {message:?}");
        assert!(
            self.stderr.contains(&format!("keyring: {told}\n")),
            "{}",
            self.stderr
        );
        assert!(self.document.get("keyring").is_none());
    }
}

/// What gpg says of a keyring, without its own key: fingerprint to validity, owner trust, disabled, signed locally.
fn verdicts(home: &Path) -> BTreeMap<String, (String, String, bool, bool)> {
    let own = own_key(home);
    let list = run(gpg(home).args(["--with-colons", "--check-signatures"]));
    kill_agent(home);
    let mut verdicts = BTreeMap::new();
    let mut fields = (String::new(), String::new(), false, false);
    let mut key = String::new();
    let mut primary = false;
    for line in list.lines().chain(["pub:"]) {
        let f: Vec<&str> = line.split(':').collect();
        match f[0] {
            "pub" => {
                if !key.is_empty() && key != own {
                    verdicts.insert(std::mem::take(&mut key), std::mem::take(&mut fields));
                }
                if f.len() > 11 {
                    fields = (f[1].into(), f[8].into(), f[11].contains('D'), false);
                    primary = true;
                }
            }
            "sub" => primary = false,
            "fpr" if primary => key = f[9].to_owned(),
            "sig" if f[1] == "!" && own.ends_with(f[4]) && f[10].ends_with('l') => fields.3 = true,
            _ => {}
        }
    }
    verdicts
}

fn own_key(home: &Path) -> String {
    let list = run(gpg(home).args(["--with-colons", "--list-secret-keys"]));
    let own = primaries(&list);
    assert_eq!(own.len(), 1, "{list}");
    own.into_iter().next().unwrap()
}

/// What `pacman-key` of the host makes of the same files. Debian's has another directory written into it.
fn reference(ring: &Ring<'_>) -> TempDir {
    let top = short();
    let import = top.path().join("import");
    fs::create_dir(&import).unwrap();
    for (path, bytes) in ring.files() {
        let name = Path::new(&path).file_name().unwrap();
        fs::write(import.join(name), bytes).unwrap();
    }
    let script = fs::read_to_string(which("pacman-key")).unwrap();
    let ours = format!("KEYRING_IMPORT_DIR='{}'", import.display());
    let script = ["/usr/share/keyrings", "/usr/share/pacman/keyrings"]
        .iter()
        .fold(script, |s, d| {
            s.replace(&format!("KEYRING_IMPORT_DIR='{d}'"), &ours)
        });
    assert!(script.contains(&ours));
    let program = top.path().join("pacman-key");
    fs::write(&program, script).unwrap();
    let conf = top.path().join("pacman.conf");
    fs::write(&conf, "[options]\n").unwrap();
    let home = top.path().join("g");
    for args in [&["--init"][..], &["--populate", "test"]] {
        let mut pacman_key = Command::new("bash");
        pacman_key.arg(&program).arg("--config").arg(&conf);
        run(pacman_key.arg("--gpgdir").arg(&home).args(args));
    }
    kill_agent(&home);
    top
}

/// The files of a home and their modes, without names that are random and what gpg leaves behind.
fn modes(home: &Path) -> BTreeMap<String, u32> {
    let mut modes = BTreeMap::new();
    let mut add = |directory: &str| {
        for entry in fs::read_dir(home.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let known = !name.ends_with('~') && !name.starts_with("S.") && name != "tofu.db";
            let name = match name.rsplit_once('.') {
                Some((_, end @ ("key" | "rev"))) => format!("{directory}/x.{end}"),
                _ => format!("{directory}/{name}"),
            };
            if known {
                modes.insert(
                    name,
                    entry.metadata().unwrap().permissions().mode() & 0o7777,
                );
            }
        }
    };
    // gpg also makes a certificate to revoke the own key with: nobody would ever be shown it.
    for directory in ["", "private-keys-v1.d"] {
        add(directory);
    }
    modes.remove("/openpgp-revocs.d");
    modes
}

// ---------------------------------------------------------------------------------------------------------------------
// The tests.

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
    let mut expected: BTreeMap<_, _> = keys()
        .masters
        .clone()
        .map(|m| (m, full("m", false, true)))
        .into();
    expected.insert(keys().builder.clone(), full("-", false, false));
    expected.insert(keys().retired.clone(), full("-", true, false));
    assert_eq!(verdicts_of_ours, expected);

    let mut masters = keys().masters.clone();
    masters.sort();
    let recorded = json!({"dir": lab.home(), "populated": ["test"], "trusted": masters});
    assert_eq!(ran.document["keyring"], recorded);
    assert_eq!(
        ran.document["org.example.note"],
        lab.document["org.example.note"]
    );
    let step = &ran.document["steps"][0];
    assert!(step["child_seconds"].as_f64().unwrap() > 0.0);
    eprintln!("native, with the download: {} s", step["seconds"]);
    let last = ran.stderr.lines().last().unwrap();
    assert_eq!(
        last,
        "keyring: Test Linux: 3 keys trusted, 4 valid, 1 disabled"
    );
    // Nothing beside the home, and nothing from inside.
    let beside: Vec<_> = fs::read_dir(lab.root.join("etc/pacman.d"))
        .unwrap()
        .collect();
    assert_eq!(beside.len(), 1);
    assert_eq!(fs::read_dir(lab.root.join("run")).unwrap().count(), 0);
}

#[test]
fn quiet_is_quiet() {
    let ring = Ring::good();
    assert_eq!(
        Lab::new(&ring).serve(&ring).run(&["--quiet"]).good().stderr,
        ""
    );
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
    ran.bad(
        69,
        "not-verified",
        &format!("it names {stranger} as a master key"),
    );
    assert!(
        ran.stderr.contains(&format!("--trust {stranger}")),
        "{}",
        ran.stderr
    );
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
    ring.keys = "two";
    let lab = Lab::new(&ring).install(&ring);
    let missing = &keys().masters[2];
    lab.run(&[]).bad(
        69,
        "not-verified",
        &format!("trusting {missing}: the ring has no such key"),
    );
    assert!(!lab.home().exists());
    // It does not speak of it any more: then two are left, and that is that.
    ring.trusted = ring
        .trusted
        .lines()
        .take(2)
        .map(|l| format!("{l}\n"))
        .collect();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&[]).good();
    // Which is one too few for the builder.
    let builder = &keys().builder;
    assert!(
        ran.stderr
            .contains(&format!("{builder} is only marginally valid")),
        "{}",
        ran.stderr
    );
    // None is left.
    ring.trusted.clear();
    let ran = Lab::new(&ring).install(&ring).run(&[]);
    ran.bad(
        69,
        "not-verified",
        "none of the pinned keys is a master key",
    );
    // A key that the user names must be there too.
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&["--trust", &keys().extra]);
    ran.bad(69, "not-verified", "the ring has no such key");
    // And one that is there gives trust: the builder, the workaround for rings that leave it marginal.
    let ran = lab.run(&["--trust", &keys().builder.to_lowercase()]).good();
    assert_eq!(
        ran.document["keyring"]["trusted"].as_array().unwrap().len(),
        4
    );
    let verdict = &verdicts(lab.copy().path())[builder];
    assert_eq!(verdict, &("f".into(), "m".into(), false, true));
}

#[test]
fn a_master_that_expired_is_named_with_the_day() {
    let mut ring = Ring::good();
    ring.keys = "expired";
    ring.trusted = format!("{}:4:\n{}:4:\n", keys().masters[0], keys().expired);
    ring.pinned.push(keys().expired.clone());
    let lab = Lab::new(&ring).install(&ring);
    let why = format!("trusting {}: it expired on 2021-01-01", keys().expired);
    lab.run(&[]).bad(69, "not-verified", &why);
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

#[test]
fn a_keyring_that_is_there_is_kept() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    lab.run(&[]).good();
    let first = lab.copy();
    let own = own_key(first.path());
    kill_agent(first.path());

    // Somebody adds a key and a line, and somebody else a program for the host's gpg to run, a link and a socket.
    let home = first.path();
    let extra = lab.directory.path().join("extra.gpg");
    fs::write(&extra, &keys().rings["extra"]).unwrap();
    run(gpg(home).arg("--import").arg(&extra));
    let evil = lab.directory.path().join("evil");
    let marker = lab.directory.path().join("marker");
    fs::write(&evil, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    kill_agent(home);
    run(Command::new("cp")
        .arg("-a")
        .arg(home.join("."))
        .arg(lab.home()));
    let mut conf = fs::read_to_string(home.join("gpg.conf")).unwrap();
    conf.push_str(&format!("agent-program {}\n", evil.display()));
    fs::write(lab.home().join("gpg.conf"), &conf).unwrap();
    symlink("/etc/passwd", lab.home().join("link")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(lab.home().join("S.gpg-agent")).unwrap());

    let ran = lab.run(&[]).good();
    assert!(
        ran.stderr
            .contains("'etc/pacman.d/gnupg/link' is no regular file"),
        "{}",
        ran.stderr
    );
    assert!(!marker.exists(), "the host's gpg read the root's gpg.conf");
    assert_eq!(
        fs::read_to_string(lab.home().join("gpg.conf")).unwrap(),
        conf
    );
    fs::write(lab.home().join("gpg.conf"), "").unwrap();
    let second = lab.copy();
    assert_eq!(own_key(second.path()), own);
    let verdicts = verdicts(second.path());
    assert_eq!(verdicts.len(), 6);
    assert_eq!(verdicts[&keys().extra].0, "-");
    assert!(fs::symlink_metadata(lab.home().join("S.gpg-agent")).is_err());
}

#[test]
fn a_link_in_the_keyrings_place_leads_nowhere() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), lab.home()).unwrap();
    lab.run(&[]).bad(69, "failed", "it is no plain directory");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    // A link in a ring's place does not either.
    let lab = Lab::new(&ring).install(&ring);
    let file = lab.root.join("usr/share/pacman/keyrings/test.gpg");
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    lab.run(&[])
        .bad(69, "failed", "usr/share/pacman/keyrings/test.gpg");
}

#[test]
fn a_host_without_gpg() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let empty = tempfile::tempdir().unwrap();
    // None is needed, for a ring that is installed.
    Ran::of(lab.command(&[]).env("PATH", empty.path())).good();
    assert_eq!(verdicts(lab.copy().path()).len(), 5);
    let lab = Lab::new(&ring).install(&ring);
    let args = ["--engine", "gpg"];
    let ran = Ran::of(lab.command(&args).env("PATH", empty.path()));
    ran.bad(
        69,
        "not-found",
        "looking for gpg on this host: there is none in PATH",
    );
    assert!(
        ran.stderr.contains("hint: sudo apt-get install gnupg"),
        "{}",
        ran.stderr
    );
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
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(line) = fs::read(entry.unwrap().path().join("cmdline")) else {
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
    lab.run(&[]).bad(
        69,
        "not-verified",
        "it is not the program that the document means",
    );
    let lab = Lab::new(&ring).serve(&ring);
    let ran = lab.run(&["--package", "no-such-package"]);
    ran.bad(69, "not-found", "target not found: no-such-package");
    // The package is there, and the ring is not in it.
    let ran = lab.run(&["--populate", "other"]);
    ran.bad(
        69,
        "not-found",
        "the ring 'other': it is not in test-keyring",
    );
    // An archive that is not the database's: pacman finds it first.
    let package = lab
        .root
        .parent()
        .unwrap()
        .join("www/test-keyring-1-1-any.pkg.tar.zst");
    let mut bytes = fs::read(&package).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&package, bytes).unwrap();
    fs::remove_file(
        lab.root
            .parent()
            .unwrap()
            .join("cache/test-keyring-1-1-any.pkg.tar.zst"),
    )
    .unwrap();
    lab.run(&[])
        .bad(69, "not-verified", "invalid or corrupted package");
    assert!(!lab.home().exists());
}

#[test]
fn in_the_root_without_a_pacman_key() {
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let ran = lab.run(&["--in-root"]);
    ran.bad(
        69,
        "not-found",
        "running 'pacman-key': No such file or directory",
    );
    assert!(
        ran.stderr
            .contains("hint: the root needs pacman and gnupg first"),
        "{}",
        ran.stderr
    );
    let ran = Lab::new(&ring).run(&["--in-root"]);
    ran.bad(
        69,
        "not-found",
        "the root has no ring 'test' for its pacman-key",
    );
    // Trust is decided before anything of the root runs.
    let ring = Ring {
        pinned: vec![keys().builder.clone()],
        ..ring
    };
    let lab = Lab::new(&ring).install(&ring);
    lab.run(&["--in-root"])
        .bad(69, "not-verified", "which is not pinned");
}

#[test]
fn command_lines_that_are_refused() {
    let ring = Ring {
        keys: "all",
        trusted: String::new(),
        revoked: String::new(),
        pinned: vec!["A".repeat(40)],
    };
    let lab = Lab::new(&ring);
    for (args, message) in [
        (["--populate", "../x"], "'../x' is not the name"),
        (["--package", "-x"], "unexpected argument"),
        (["--trust", "6AC6A4C2"], "is not a fingerprint"),
    ] {
        let ran = lab.run(&args);
        assert_eq!(ran.status, 64, "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
    let mut lab = lab;
    lab.document.as_object_mut().unwrap().remove("distro");
    lab.run(&[])
        .bad(64, "usage", "the document names no distribution");
}

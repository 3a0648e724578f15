//! The built program, against the host's gpg, with a key, a package and a small root of its own: what it prints, what it
//! writes and how it ends.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use strapline_tests::small::Ran;
use tempfile::TempDir;

const FILE: &str = "usr/share/hello";
const RECORD: &str = "var/lib/pacman/local/hello-1-1";
const ARCHIVE: &str = "hello-1-1-any.pkg.tar";
const HASH: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// Makes a home with a key of its own, ultimately trusted; returns the key's fingerprint. Its path is short enough for
/// an agent's socket.
fn signer() -> (TempDir, String) {
    let mut builder = tempfile::Builder::new();
    let home = builder.prefix("v").tempdir_in("/tmp").unwrap();
    let params = "Key-Type: EDDSA\nKey-Curve: ed25519\nKey-Usage: sign\nName-Real: A B\n\
        Name-Email: a@test.invalid\nExpire-Date: 0\n%no-protection\n%commit\n";
    let file = home.path().join("params");
    fs::write(&file, params).unwrap();
    gpg(home.path(), &["--gen-key", &file.to_string_lossy()]);
    let list = gpg(home.path(), &["--with-colons", "--list-keys"]);
    let fingerprint = list.lines().find_map(|l| l.strip_prefix("fpr:"));
    let fingerprint = fingerprint.unwrap().trim_matches(':').to_owned();
    (home, fingerprint)
}

/// Runs gpg. The agent that it starts ends with it.
fn gpg(home: &Path, args: &[&str]) -> String {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "gpg", "--homedir"]);
    command.arg(home).args(["--batch", "--quiet", "--no-tty"]).args(args);
    let out = command.env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {err}");
    String::from_utf8(out.stdout).unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

/// A root with one package, its archive and a document.
struct Lab {
    directory: TempDir,
    root: PathBuf,
    cache: PathBuf,
    document: Value,
    /// Who signed the archive.
    key: String,
}

/// What a run is to be.
trait Is {
    fn good(self) -> Value;
    fn bad(self, status: i32, code: &str, stderr: &str) -> Value;
}

impl Lab {
    fn new() -> Self {
        let mtree = format!(
            "#mtree\n/set type=file uid=0 gid=0 mode=644\n./.PKGINFO size=1 sha256digest=00\n\
             ./usr mode=755 type=dir\n./{FILE} size=5 sha256digest={HASH}\n"
        );
        Self::with(&[(".MTREE", gzip(&mtree)), (".PKGINFO", b"pkgname = hello\npkgver = 1-1\n".to_vec())])
    }

    /// The keyring beside the root.
    fn gpgdir(&self) -> PathBuf {
        self.cache.with_file_name("gnupg")
    }

    /// With an archive that has these members.
    fn with(members: &[(&str, Vec<u8>)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let (root, cache) = (path.join("root"), path.join("cache"));
        for below in [RECORD, "usr/share", "etc/pacman.d/gnupg", "var/log"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::create_dir(&cache).unwrap();
        fs::create_dir(path.join("gnupg")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
            if *name == ".MTREE" {
                fs::write(root.join(RECORD).join("mtree"), bytes).unwrap();
            }
        }
        let archive = cache.join(ARCHIVE);
        fs::write(&archive, tar.into_inner().unwrap()).unwrap();
        let (home, key) = signer();
        gpg(home.path(), &["--detach-sign", &archive.to_string_lossy()]);
        for name in ["pubring.kbx", "trustdb.gpg"] {
            fs::copy(home.path().join(name), path.join("gnupg").join(name)).unwrap();
        }
        fs::write(
            root.join(RECORD).join("desc"),
            "%NAME%\nhello\n\n%VERSION%\n1-1\n\n%ARCH%\nany\n\n%BUILDDATE%\n1700000000\n\n",
        )
        .unwrap();
        fs::write(root.join(RECORD).join("files"), "%FILES%\nusr/\n").unwrap();
        fs::write(root.join(FILE), "hello").unwrap();
        for (below, mode) in [("usr", 0o755), (FILE, 0o644)] {
            fs::set_permissions(root.join(below), fs::Permissions::from_mode(mode)).unwrap();
        }
        let conf = path.join("strict.conf");
        fs::write(&conf, "[options]\n").unwrap();
        let document = json!({"strapline": 1, "root": root, "arch": "x86_64", "mode": "root", "mounts": [],
            "binfmt": {"kind": "native"}, "config": {"strict": conf, "loose": conf, "cache": cache}});
        Self { directory, root, cache, document, key }
    }

    /// Replaces the archive by what `pack` returns, signed by a new key that is trusted.
    fn sign(&self, pack: impl FnOnce() -> Vec<u8>) -> TempDir {
        let archive = self.cache.join(ARCHIVE);
        fs::write(&archive, pack()).unwrap();
        let (home, _) = signer();
        let signature = self.cache.join(format!("{ARCHIVE}.sig"));
        fs::remove_file(signature).unwrap();
        gpg(home.path(), &["--detach-sign", &archive.to_string_lossy()]);
        for name in ["pubring.kbx", "trustdb.gpg"] {
            let into = self.gpgdir().join(name);
            fs::copy(home.path().join(name), into).unwrap();
        }
        home
    }

    fn command(&self, args: &[&str]) -> Command {
        let state = self.directory.path().join("state.json");
        fs::write(&state, self.document.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_verify"));
        command.arg("--state").arg(state).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&self.command(args).output().unwrap())
    }
}

impl Is for Ran {
    #[track_caller]
    fn good(self) -> Value {
        assert_eq!((self.status, self.document.get("error")), (0, None), "{}", self.stderr);
        self.document
    }

    #[track_caller]
    fn bad(self, status: i32, code: &str, stderr: &str) -> Value {
        let line = format!("verify: {stderr}");
        let said = self.stderr.lines().any(|l| l.starts_with(&line));
        assert!(said, "no «{line}» in:\n{}", self.stderr);
        let error = &self.document["error"];
        assert_eq!((self.status, &error["code"]), (status, &code.into()), "{error}");
        self.document
    }
}

/// Returns every file below a directory, with what is in it.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(here) = left.pop() {
        for entry in fs::read_dir(&here).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false => drop(files.insert(entry.path(), fs::read(entry.path()).unwrap())),
            }
        }
    }
    files
}

#[test]
fn a_root_that_is_what_was_signed() {
    let lab = Lab::new();
    let before = tree(lab.directory.path());
    let ran = lab.run(&[]);
    assert_eq!(ran.stderr, "verify: 1 package, 1 validly signed, 1 intact\n");
    let document = ran.good();
    assert_eq!(
        document["packages"],
        json!([{"name": "hello", "version": "1-1", "arch": "any", "file": ARCHIVE, "verified": true,
            "signature": "valid", "key": lab.key, "files": "intact"}])
    );
    assert_eq!(document["verify"]["transaction"], "unknown");
    let mut after = tree(lab.directory.path());
    after.remove(&lab.directory.path().join("state.json"));
    assert_eq!(after, before, "something was written");
    let ran = lab.run(&["--quiet"]);
    assert_eq!(ran.stderr, "");
    drop(ran.good());
}

#[test]
fn what_is_left_out_is_not_looked_at() {
    let mut lab = Lab::new();
    let document = lab.run(&["--no-files"]).good();
    let hello = &document["packages"][0];
    assert_eq!((&hello["signature"], hello.get("files")), (&"valid".into(), None));
    // An archive that is good does not say that what is installed came from it.
    assert_eq!(hello["verified"], false);
    assert_eq!(document["verify"].get("files"), None);
    assert!(Command::new("rm").arg("-r").arg(lab.gpgdir()).status().unwrap().success());
    lab.document["config"]["cache"] = "/no/such/directory".into();
    let document = lab.run(&["--no-signatures"]).good();
    let hello = &document["packages"][0];
    assert_eq!((hello.get("signature"), &hello["files"]), (None, &"intact".into()));
    assert_eq!(hello["verified"], false);
    let line = "--no-signatures and --no-files leave nothing to verify";
    drop(lab.run(&["--no-signatures", "--no-files"]).bad(64, "usage", line));
}

#[test]
fn what_is_needed_and_missing_is_named() {
    let mut lab = Lab::new();
    let config = lab.document["config"].take();
    lab.document.as_object_mut().unwrap().remove("config");
    drop(lab.run(&[]).bad(65, "bad-document", "reading the document: it has no \"config\""));
    lab.document["config"] = config;

    let empty = tempfile::tempdir().unwrap();
    let ran = Ran::of(&lab.command(&[]).env("PATH", empty.path()).output().unwrap());
    drop(ran.bad(69, "not-found", "looking for gpg on this host: there is none in PATH"));

    let home = lab.gpgdir();
    fs::rename(&home, lab.root.join("gnupg")).unwrap();
    let ran = lab.run(&[]);
    let hint = "verify: hint: put 'keyring' before 'verify', or give --no-signatures\n";
    assert!(ran.stderr.ends_with(hint), "{}", ran.stderr);
    drop(ran.bad(69, "not-verified", "looking for the keyring '"));
    // A link in its place leads nowhere, not even to a good one.
    symlink(lab.root.join("gnupg"), &home).unwrap();
    drop(lab.run(&[]).bad(69, "failed", "reading the keyring '"));
}

#[test]
fn while_a_strap_works_it_waits_for_nobody() {
    let lab = Lab::new();
    let database = fs::File::open(lab.root.join("var/lib/pacman")).unwrap();
    let lock = Flock::lock(database, FlockArg::LockExclusive).unwrap();
    drop(lab.run(&[]).bad(75, "busy", "locking '"));
    drop(lock);
    drop(lab.run(&[]).good());
}

#[test]
fn an_archive_that_is_nowhere() {
    let lab = Lab::new();
    fs::remove_file(lab.cache.join(format!("{ARCHIVE}.sig"))).unwrap();
    let line = "verifying 'hello': its archive has no signature";
    let document = lab.run(&[]).bad(69, "not-verified", line);
    assert_eq!(document["packages"][0]["signature"], "missing");
    fs::remove_file(lab.cache.join(ARCHIVE)).unwrap();
    let line = "verifying 'hello': its archive is not in the cache";
    let document = lab.run(&[]).bad(69, "not-verified", line);
    assert_eq!(document["packages"][0]["signature"], "no-archive");
    // A directory, a device or a fifo in its place is no archive, and is not waited for.
    nix::unistd::mkfifo(&lab.cache.join(ARCHIVE), nix::sys::stat::Mode::S_IRWXU).unwrap();
    drop(lab.run(&[]).bad(69, "not-verified", line));
}

#[test]
fn a_signature_that_is_none() {
    let lab = Lab::new();
    for junk in [&b""[..], b"junk", &[0xff; 4096]] {
        fs::write(lab.cache.join(format!("{ARCHIVE}.sig")), junk).unwrap();
        let line = "verifying 'hello': its signature file contains no signature";
        let document = lab.run(&[]).bad(69, "not-verified", line);
        assert_eq!(document["packages"][0]["signature"], "bad");
    }
}

#[test]
fn a_package_without_an_mtree() {
    let lab = Lab::with(&[(".PKGINFO", b"pkgname = hello\npkgver = 1-1\n".to_vec())]);
    let ran = lab.run(&["--quiet"]);
    let warning = "verify: warning: 'hello': it has no mtree to compare its files with: ";
    assert!(ran.stderr.starts_with(warning), "{}", ran.stderr);
    let document = ran.good();
    assert_eq!(document["packages"][0]["files"], "unknown");
    assert_eq!(document["packages"][0]["verified"], false);
    assert_eq!(document["verify"]["files"]["unknown"], 1);
}

#[test]
fn an_older_signed_archive_is_another_packages() {
    let lab = Lab::with(&[(".PKGINFO", b"pkgname = hello\npkgver = 0-1\n".to_vec())]);
    let line = "verifying 'hello': it is another package's: that of 'hello' 0-1";
    drop(lab.run(&[]).bad(69, "not-verified", line));
}

#[test]
fn names_from_the_root_cannot_drive_a_terminal() {
    let mtree = "#mtree\n./usr/\\033[2J\\012x type=file size=1 sha256digest=00\n";
    let lab = Lab::with(&[(".MTREE", gzip(mtree)), (".PKGINFO", b"pkgname = hello\npkgver = 1-1\n".to_vec())]);
    let ran = lab.run(&[]);
    let line = "verifying 'hello': 'usr/\\u{1b}[2J\\nx' is missing";
    let document = ran.bad(69, "not-verified", line);
    assert_eq!(document["packages"][0]["missing"][0], "usr/\u{1b}[2J\nx");
}

#[test]
fn a_clock_that_is_behind_is_said_first() {
    let lab = Lab::new();
    let desc = lab.root.join(RECORD).join("desc");
    let text = fs::read_to_string(&desc).unwrap();
    // It was built in 2096: or else it is earlier than that here.
    fs::write(&desc, text.replace("1700000000", "4000000000")).unwrap();
    drop(lab.run(&[]).good());
    fs::remove_file(lab.cache.join(format!("{ARCHIVE}.sig"))).unwrap();
    let ran = lab.run(&[]);
    // What follows from it is not said again, line by line.
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    let end = ", and 'hello' was built on 2096-10-02 (and 1 more)";
    assert!(ran.stderr.contains(end), "{}", ran.stderr);
    drop(ran.bad(69, "not-verified", "reading the clock: it says 20"));
}

#[test]
fn its_own_failure_is_forgotten_when_it_runs_again() {
    let mut lab = Lab::new();
    fs::write(lab.root.join(FILE), "hallo").unwrap();
    let line = "verifying 'hello': 'usr/share/hello' is changed (content)";
    lab.document = lab.run(&[]).bad(69, "not-verified", line);
    assert_eq!(lab.document["packages"][0]["changed"], json!([{"path": FILE, "what": "content"}]));
    assert_eq!(lab.document["packages"][0]["verified"], false);
    fs::write(lab.root.join(FILE), "hello").unwrap();
    let document = lab.run(&[]).good();
    assert_eq!(document["packages"][0].get("changed"), None);
    assert_eq!(document["packages"][0]["verified"], true);
}

/// An archive that its signer packed as we cannot read it is not what somebody altered.
#[test]
fn a_signed_archive_of_another_format_is_unreadable() {
    let lab = Lab::new();
    let archive = lab.cache.join(ARCHIVE);
    // bzip2, lz4 and nothing at all.
    for bytes in [&b"BZh91AY&SY"[..], b"\x04\x22\x4d\x18", b"hello"] {
        let home = lab.sign(|| bytes.to_vec());
        let line =
            "verifying 'hello': its archive is validly signed and cannot be read here, so its files were compared with";
        let ran = lab.run(&[]);
        assert!(!ran.stderr.contains("remove it") && !ran.stderr.contains("--loose"), "{}", ran.stderr);
        let document = ran.bad(69, "not-verified", line);
        let hello = &document["packages"][0];
        assert_eq!(
            [&hello["signature"], &hello["files"], &hello["verified"]],
            [&json!("unreadable"), &json!("intact"), &json!(false)]
        );
        let signatures = &document["verify"]["signatures"];
        assert_eq!([&signatures["unreadable"], &signatures["bad"]], [1, 0]);
        assert!(archive.exists());
        // What is wrong all the same is found, and comes first.
        fs::write(lab.root.join(FILE), "hallo").unwrap();
        let line = "verifying 'hello': 'usr/share/hello' is changed (content)";
        drop(lab.run(&[]).bad(69, "not-verified", line));
        fs::write(lab.root.join(FILE), "hello").unwrap();
        drop(home);
    }
}

/// A record that says nothing of its package is one package's.
#[test]
fn an_odd_record_refuses_no_other_package() {
    let lab = Lab::new();
    for (name, desc, why) in [
        ("odd-1-1", &b"%NAME%\n\n"[..], "its record is invalid: "),
        ("none-1-1", b"\xff\0", "its record is invalid: "),
        ("cut-1-1", b"%NAME%\ncut\n\n%VERSION%\n1-1\n\n", "its record is incomplete"),
    ] {
        let record = lab.root.join("var/lib/pacman/local").join(name);
        fs::create_dir(&record).unwrap();
        fs::write(record.join("desc"), desc).unwrap();
        let line = format!("verifying '{name}': {why}");
        let document = lab.run(&[]).bad(69, "not-verified", &line);
        assert_eq!(document["packages"][0]["signature"], "valid", "{name}");
        assert_eq!(document["packages"][0]["verified"], true, "{name}");
        fs::rename(&record, lab.directory.path().join(name)).unwrap();
    }
    // A link in place of a file: nobody knows what it says.
    let record = lab.root.join("var/lib/pacman/local/link-1-1");
    fs::create_dir(&record).unwrap();
    symlink("../hello-1-1/desc", record.join("desc")).unwrap();
    let line = "verifying 'link-1-1': its record has a 'desc' that cannot be read: ";
    drop(lab.run(&[]).bad(69, "not-verified", line));
    fs::rename(&record, lab.directory.path().join("link")).unwrap();
    // A log that cannot be read says nothing of packages.
    fs::create_dir(lab.root.join("var/log/pacman.log")).unwrap();
    let document = lab.run(&[]).bad(69, "failed", "reading '");
    assert_eq!(document["packages"][0]["verified"], true);
    fs::write(lab.root.join(FILE), "hallo").unwrap();
    let line = "verifying 'hello': 'usr/share/hello' is changed (content) (and 1 more)";
    drop(lab.run(&[]).bad(69, "not-verified", line));
}

/// What may be done to a packaged file, a directory and a configuration file, and what not.
#[test]
fn modes_owners_and_acls() {
    let lab = Lab::new();
    let file = lab.root.join(FILE);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, was, mode) in [("usr", 0o755, 0o775), ("usr", 0o755, 0o700), (FILE, 0o644, 0o640)] {
        set(&lab.root.join(path), mode);
        let line = format!("verifying 'hello': '{path}' is changed (mode)");
        drop(lab.run(&[]).bad(69, "not-verified", &line));
        set(&lab.root.join(path), was);
    }
    let acl = |options: &[&str]| {
        let status = Command::new("setfacl").args(options).arg(&file).status().unwrap();
        assert!(status.success());
    };
    // The mask is what the group may: the mode stays the same.
    acl(&["-m", "u:1000:r--"]);
    let line = "verifying 'hello': 'usr/share/hello' is changed (acl)";
    drop(lab.run(&[]).bad(69, "not-verified", line));
    acl(&["-b"]);
    drop(lab.run(&[]).good());
    // Rules that no package owns.
    for directory in ["usr/lib/tmpfiles.d", "etc/tmpfiles.d", "run/tmpfiles.d"] {
        fs::create_dir_all(lab.root.join(directory)).unwrap();
        let rules = format!("z /{FILE} 0666 1000 - -\nz /usr 0777\n");
        fs::write(lab.root.join(directory).join("x.conf"), rules).unwrap();
    }
    nix::unistd::chown(&file, Some(1000.into()), None).unwrap();
    let line = "verifying 'hello': 'usr/share/hello' is changed (owner)";
    drop(lab.run(&[]).bad(69, "not-verified", line));
}

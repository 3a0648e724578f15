//! Keys, and what gpg says of them: what the tests of keyrings have in common.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Runs a command and returns what it printed.
///
/// # Panics
///
/// Where it fails.
pub fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("gpg does its work");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {err}");
    String::from_utf8(out.stdout).expect("gpg does its work")
}

/// Returns the host's gpg on a home, without questions.
#[must_use]
pub fn gpg(home: &Path) -> Command {
    let mut command = Command::new("gpg");
    command.env("LC_ALL", "C").arg("--homedir").arg(home);
    command.args(["--batch", "--quiet", "--no-permission-warning", "--no-tty"]);
    command
}

/// Ends the agent that gpg started for this home, and no other.
pub fn kill_agent(home: &Path) {
    let mut command = Command::new("gpgconf");
    run(command.arg("--homedir").arg(home).args(["--kill", "all"]));
}

/// A directory with a path that is short enough for an agent's socket.
///
/// # Panics
///
/// Where none can be made.
#[must_use]
pub fn short() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("k").tempdir_in("/tmp").expect("gpg does its work")
}

/// Returns the fingerprints of the primary keys in a listing with colons.
///
/// # Panics
///
/// Where it is none.
#[must_use]
pub fn primaries(list: &str) -> BTreeSet<String> {
    let primary = |l: &str| l.starts_with("pub:") || l.starts_with("sec:");
    let lines: Vec<_> = list.lines().collect();
    lines
        .windows(2)
        .filter(|w| primary(w[0]))
        .map(|w| w[1].split(':').nth(9).expect("gpg does its work").to_owned())
        .collect()
}

/// Returns the fingerprints of all keys of a home.
#[must_use]
pub fn all(home: &Path) -> BTreeSet<String> {
    primaries(&run(gpg(home).args(["--with-colons", "--list-keys"])))
}

/// Reads what `gpg --with-colons --list-keys` printed, without the keyring's own key: for each key and name a line, and
/// when gpg would look again.
#[must_use]
pub fn table(list: &str, own: &str) -> (BTreeSet<String>, String) {
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
        let before = all(self.path());
        let name = format!("{name} <{name}@test.invalid>");
        let args = ["--quick-gen-key", &name, kind, "cert,sign", expires];
        self.gpg("20150101", &args);
        let after = all(self.path());
        after.difference(&before).next().expect("gpg does its work").clone()
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
        let text = fs::read_to_string(path).expect("gpg does its work").replace(":-----", "-----");
        let file = self.path().join("rev");
        fs::write(&file, text).expect("gpg does its work");
        self.gpg("20220101", &["--import", &file.to_string_lossy()]);
    }
}

/// A ring with all that a web of trust can have.
#[derive(Clone, Debug)]
pub struct Odd {
    /// The keys, as gpg exports them.
    pub ring: Vec<u8>,
    /// Those that are to be trusted.
    pub masters: Vec<String>,
    /// Those that are to be disabled.
    pub retired: Vec<String>,
    /// What gpg's verdict on each key is to be, as it stands in its listing; `?` where releases of gpg differ.
    pub expected: Vec<(String, &'static str)>,
}

impl Odd {
    /// Makes it.
    ///
    /// # Panics
    ///
    /// Where gpg fails.
    #[must_use]
    pub fn make() -> Self {
        odd()
    }

    /// Returns the text of `NAME-trusted`.
    #[must_use]
    pub fn trusted(&self) -> String {
        self.masters.iter().map(|m| format!("{m}:4:\n")).collect()
    }
}

fn odd() -> Odd {
    let past = Past { home: short() };
    let never = "never";
    // Ed25519 does not sign with SHA-1.
    let masters: Vec<String> = ["m1", "m2", "m3", "m4"].map(|name| past.of_kind(name, "rsa2048", "never")).into();
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
    key("two", "m", &|k| past.sign("20180101", &masters[..2], k, &[]));
    key("none", "-", &|_| {});
    key("retired", "m", &|k| {
        let signers = [masters[0].clone(), masters[1].clone(), retired.clone()];
        past.sign("20180101", &signers, k, &[]);
    });
    key("second", "q", &|k| past.sign("20180101", std::slice::from_ref(&full), k, &[]));
    key("persona", "-", &|k| past.sign("20180101", three, k, &["--default-cert-level=1"]));
    key("casual", "f", &|k| past.sign("20180101", three, k, &["--default-cert-level=2"]));
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
        past.gpg("20170101", &["--quick-add-uid", k, "Another <a@test.invalid>"]);
        past.sign("20180101", three, k, &[]);
        past.gpg("20190101", &["--quick-revoke-uid", k, "Another <a@test.invalid>"]);
        past.gpg("20190101", &["--quick-add-uid", k, "Third <c@test.invalid>"]);
    });
    key("subkeys", "f", &|k| {
        past.gpg("20170101", &["--quick-add-key", k, "ed25519", "sign", "never"]);
        past.gpg("20170101", &["--quick-add-key", k, "rsa2048", "encr", "never"]);
        past.sign("20180101", three, k, &[]);
    });
    key("local", "-", &|k| {
        for signer in three {
            past.gpg("20180101", &["--local-user", signer, "--quick-lsign-key", k]);
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
    let out = gpg.args(export).stdin(Stdio::null()).output().expect("gpg does its work");
    kill_agent(past.path());
    Odd { ring: out.stdout, masters, retired: vec![retired], expected }
}

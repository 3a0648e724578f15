//! Keys that gpg made, once for all tests, and what is signed with them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A key: its fingerprint, and what gpg exports of it.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) fingerprint: String,
    pub(crate) public: Vec<u8>,
    /// When it signs, as `--faked-system-time` wants it.
    when: &'static str,
}

/// The keys of these tests.
#[derive(Debug)]
pub(crate) struct Keys {
    home: PathBuf,
    /// Signs packages, and is pinned.
    pub(crate) lilac: Key,
    /// Signs packages, and nobody knows it.
    pub(crate) stranger: Key,
    /// Was good until 2020-02-01.
    pub(crate) expired: Key,
    /// Was good until its owner revoked it.
    pub(crate) revoked: Key,
    _guard: Child,
}

const NOW: &str = "";
const THEN: &str = "20200110T000000!";

/// Ends the agent and removes the home when the tests end, however they do: then its stdin is closed.
const GUARD: &str = "trap '' INT TERM HUP; cat; gpgconf --homedir \"$0\" --kill all; rm -rf -- \"$0\"";

/// Returns the keys.
pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        // Short, as the path of the agent's socket must be.
        let home = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap().keep();
        let guard = Command::new("sh")
            .args(["-c", GUARD])
            .arg(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lilac = make(&home, "lilac", "rsa2048", NOW, "never");
        let stranger = make(&home, "stranger", "ed25519", NOW, "never");
        let expired = make(&home, "expired", "ed25519", THEN, "2020-02-01");
        let mut revoked = make(&home, "revoked", "ed25519", NOW, "never");
        revoked.public = revoke(&home, &revoked);
        Keys { home, lilac, stranger, expired, revoked, _guard: guard }
    })
}

fn gpg(home: &Path, when: &str) -> Command {
    let mut command = Command::new("gpg");
    command.arg("--homedir").arg(home).args([
        "--batch",
        "--quiet",
        "--yes",
        "--no-tty",
        "--pinentry-mode=loopback",
        "--passphrase=",
        "--trust-model=always",
    ]);
    if !when.is_empty() {
        command.args(["--faked-system-time", when]);
    }
    command
}

#[track_caller]
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("this test needs gpg: apt install gnupg");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn make(home: &Path, name: &str, kind: &str, when: &'static str, until: &str) -> Key {
    let id = format!("{name} <{name}@example.org>");
    run(gpg(home, when).args(["--quick-gen-key", &id, kind, "sign", until]));
    let list = run(gpg(home, when).args(["--with-colons", "--list-keys", &id]));
    let list = String::from_utf8(list).unwrap();
    let line = list.lines().find(|line| line.starts_with("fpr:")).unwrap();
    let fingerprint = line.split(':').nth(9).unwrap().to_owned();
    Key { public: run(gpg(home, when).args(["--export", &fingerprint])), fingerprint, when }
}

/// Returns a key with its owner's revocation: a signature that stands right after the key itself. The one in the home
/// stays as it is, and can sign.
fn revoke(home: &Path, key: &Key) -> Vec<u8> {
    let file = home.join(format!("openpgp-revocs.d/{}.rev", key.fingerprint));
    // gpg puts a colon before it, so that nobody does this by mistake.
    let text = fs::read_to_string(&file).unwrap().replace(":-----", "-----");
    fs::write(&file, text).unwrap();
    let revocation = run(gpg(home, NOW).args(["--output", "-", "--dearmor"]).arg(&file));
    let (first, rest) = key.public.split_at(packet(&key.public));
    [first, &revocation, rest].concat()
}

/// Returns how long the first packet is, in the old format, which gpg writes.
fn packet(bytes: &[u8]) -> usize {
    match bytes[0] & 3 {
        0 => 2 + usize::from(bytes[1]),
        _ => 3 + usize::from(u16::from_be_bytes([bytes[1], bytes[2]])),
    }
}

impl Keys {
    /// Returns a detached signature.
    pub(crate) fn sign(&self, key: &Key, bytes: &[u8]) -> Vec<u8> {
        self.sign_as(key, bytes, &["--detach-sign"])
    }

    /// Returns a signature of some kind.
    pub(crate) fn sign_as(&self, key: &Key, bytes: &[u8], how: &[&str]) -> Vec<u8> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        run(gpg(&self.home, key.when)
            .args(["--local-user", &key.fingerprint, "--output", "-"])
            .args(how)
            .arg(file.path()))
    }

    /// Returns a ring as text.
    pub(crate) fn armored(&self, key: &Key) -> Vec<u8> {
        run(gpg(&self.home, "").args(["--armor", "--export", &key.fingerprint]))
    }
}

/// Returns a key that says nothing of itself: its self-signature is gone, or also its name.
pub(crate) fn mute(key: &Key, packets: usize) -> Vec<u8> {
    let end = (0..packets).fold(0, |at, _| at + packet(&key.public[at..]));
    key.public[..end].to_vec()
}

/// Returns a key that says that it does not expire, and that gpg found its signature on that good: it keeps such notes
/// in its rings.
pub(crate) fn forged(key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = &*key.public;
    while !rest.is_empty() {
        let (packet, after) = rest.split_at(packet(rest));
        rest = after;
        out.extend(packet);
        if (packet[0] >> 2) & 15 != 2 {
            continue;
        }
        // Subpacket 9 of the hashed ones: the key's lifetime in seconds. Each begins with its length and its kind.
        let mut at = if packet[0] & 3 == 0 { 2 } else { 3 } + 6;
        while packet[at + 1] != 9 {
            at += 1 + usize::from(packet[at]);
        }
        let at = out.len() - packet.len() + at + 2;
        out[at..at + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
        // A packet of gpg's own: checked, and good.
        out.extend([0xb0, 2, 0, 3]);
    }
    out
}

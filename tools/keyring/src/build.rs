//! Building the keyring: the host's gpg turns the rings into a GnuPG home, in namespaces of our own.
//!
//! The steps are those of `pacman-key --init` and `--populate`, and so is the result. What differs is the time: the trust
//! database is checked once at the end and not after every step, all owner trust and all disabled keys go in with one call,
//! and the root's own key is Ed25519, made in milliseconds where RSA-4096 takes seconds. That key is the root's alone and
//! signs nothing but these keys; every gpg since 2.1 knows the kind.
//!
//! gpg works in a scratch home of two letters, on a tmpfs that nobody else sees: an agent's socket may have a path of 108
//! bytes and a root's own is often longer, and what gpg leaves (backups, locks, sockets, the agent itself) ends with the
//! namespaces. The keyring is built from nothing each time. The files reach the root when all of them are there and checked.

use crate::home::{Home, Place};
use crate::listing::{self, Summary};
use crate::trust::Ring;
use pacman::diagnosis::gpg::{self, Gpg, Kept};
use pacman::diagnosis::listing::{Key, Keys};
use rootfs::{Inside, Root, gnupg};
use serde::{Deserialize, Serialize};
use stage::{Code, Context, Document, Doing, Failure, child, quote};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What gpg is told of the root's own key: as pacman-key does, but for its kind.
const OWN_KEY: &str = "Key-Type: EDDSA\n\
    Key-Curve: ed25519\n\
    Key-Usage: sign\n\
    Name-Real: Pacman Keyring Master Key\n\
    Name-Email: pacman@localhost\n\
    Expire-Date: 0\n\
    %no-protection\n\
    %commit\n";

/// The agent's configuration: it is started by gpg, and ends with the namespaces.
const AGENT: &str = "disable-scdaemon\nallow-loopback-pinentry\npinentry-program /bin/false\n";

/// Owner trust as gpg's trust database has it (g10/trustdb.h): marginal, and the mark of a disabled key. What edit-key's
/// `disable` sets one by one goes in by the same door as owner trust, all at once.
const MARGINAL: u8 = 4;
const DISABLED: u8 = 128;

/// What was built.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Built {
    /// What it is, in numbers.
    pub(crate) summary: Summary,
    /// The fingerprint of the root's own key.
    pub(crate) own: String,
    /// The pinned keys that give no trust, and why not.
    pub(crate) dead: Vec<(String, String)>,
    /// The keys that are valid and would not be by the pins alone: those of the keyring that was extended.
    pub(crate) extended: Vec<String>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
    /// How long gpg worked, in seconds.
    pub(crate) seconds: f64,
}

/// Builds the keyring beside the one of the root: where [`Place::new_path`] says. With `extend`, the keys and the trust of the
/// one that is there are added.
///
/// # Errors
///
/// When gpg fails, or what it built is not what was to be built.
pub(crate) fn build(
    context: &Context,
    document: &Document,
    inside: &Inside,
    ring: &Ring,
    gpg: &Gpg,
    extend: bool,
) -> Result<Built, Failure> {
    let built = inside.call(rootfs::Place::Host, &[], || {
        work(document, ring, gpg, extend)
    })?;
    for (key, why) in &built.dead {
        context.warn(format_args!("the pinned key {key} gives no trust: {why}"));
    }
    for warning in &built.warnings {
        context.warn(warning);
    }
    for key in &built.extended {
        context.warn(format_args!(
            "the key {key} is valid by the root's own keyring alone, and by no pinned key"
        ));
    }
    context.waited(Duration::try_from_secs_f64(built.seconds).unwrap_or_default());
    Ok(built)
}

/// The work inside.
fn work(document: &Document, ring: &Ring, gpg: &Gpg, extend: bool) -> Result<Built, Failure> {
    // Opened before the tmpfs is there: the root may be below what that covers.
    let root = Root::of(document)?;
    let place = Place::in_root(&root)?;
    let before = match extend {
        true => place.read_to_extend()?,
        false => Vec::new(),
    };
    let scratch = gpg::scratch()?;
    let begin = Instant::now();
    let scratch = Scratch::make(gpg, scratch)?;
    let own = scratch.make_own_key()?;
    scratch.import(ring)?;
    let mut dead = scratch.sign(ring, &own)?;
    scratch.set_owner_trust(ring, &dead)?;
    scratch.check_trust()?;
    let mut public = scratch.list("--list-keys")?;
    let mut extended = Vec::new();
    if !before.is_empty() {
        let by_pins = public;
        scratch.import_home(&before)?;
        // Once more: what is disabled by the rings stays disabled.
        scratch.set_owner_trust(ring, &dead)?;
        scratch.check_trust()?;
        public = scratch.list("--list-keys")?;
        let strangers = public.strangers(&by_pins, &[]);
        extended = strangers.into_iter().map(Key::name).collect();
    }
    let secret = scratch.list("--list-secret-keys")?;
    scratch.write_ring()?;
    let seconds = begin.elapsed().as_secs_f64();
    // gpg may sign a key and believe none of its names all the same.
    let invalid = listing::invalid_pins(alive(ring, &dead), &public.list);
    dead.extend(invalid);
    let trusted: Vec<&String> = need_one(ring, &dead)?;
    let summary = listing::check(&trusted, &ring.revoked, &public.list, &secret.list)?;
    let warnings = listing::marginal(ring, &public.list)
        .into_iter()
        .map(|key| {
            format!(
                "{key} is only marginally valid, so packages signed by it are refused; --trust {key} would take it as it is"
            )
        })
        .collect();
    let home = Home::of_scratch(scratch.path, gpg.version())
        .doing(Code::Os, || format!("reading {}", quote(scratch.path)))?;
    place.write_new(&home)?;
    Ok(Built {
        summary,
        own,
        dead,
        extended,
        warnings,
        seconds,
    })
}

/// Checks a keyring that programs of the root have made, by the host's gpg and a copy of the keys and the trust: every trusted
/// key is there and valid, and nothing else is valid that is not by the keyring at `gpgdir`, but for one key of its own.
/// Returns what it is in numbers, and that key.
///
/// # Errors
///
/// [`Code::NotVerified`] where it is not what was to be built.
pub(crate) fn check_foreign(
    document: &Document,
    inside: &Inside,
    ring: &Ring,
    gpg: &Gpg,
    gpgdir: &Path,
) -> Result<(Summary, String), Failure> {
    inside.call(rootfs::Place::Host, &[], || {
        let root = Root::of(document)?;
        let theirs = Place::in_root(&root)?.read_public()?;
        let ours = Kept::read(gpgdir)?;
        let scratch = gpg::scratch()?;
        let reference = list(gpg, ours.files(), scratch)?;
        let public = list(gpg, &theirs, &scratch.with_extension("theirs"))?;
        let (own, strangers): (Vec<_>, Vec<_>) = public
            .strangers(&reference, &[])
            .into_iter()
            .partition(|key| key.validity == 'u');
        if let Some(key) = own.get(1).or(strangers.first()) {
            return Err(Failure::new(
                Code::NotVerified,
                format!(
                    "checking the keyring that the root's pacman-key built: {} is valid in it, and by no pinned key",
                    key.name()
                ),
            )
            .hint("the root's pacman-key or gpg cannot be trusted: leave --in-root out"));
        }
        // Dead ones were named when ours was built.
        let is_alive = |key: &&String| reference.valid().any(|k| k.fingerprint == **key);
        let trusted: Vec<&String> = ring.trusted.iter().filter(is_alive).collect();
        let own: Vec<Key> = own.into_iter().cloned().collect();
        let summary = listing::check(&trusted, &ring.revoked, &public.list, &own)?;
        let own = own.first().map(|key| key.fingerprint.clone());
        Ok((summary, own.unwrap_or_default()))
    })
}

/// Lists the public keys of a home, in a copy of it.
fn list(gpg: &Gpg, files: &[(&'static str, Vec<u8>)], scratch: &Path) -> Result<Keys, Failure> {
    Scratch::lay_out(gpg, scratch, files)?.list("--list-keys")
}

/// Returns the pinned keys that give trust.
fn alive<'a>(ring: &'a Ring, dead: &[(String, String)]) -> impl Iterator<Item = &'a String> {
    let is_alive = |key: &&String| dead.iter().all(|(other, _)| other != *key);
    ring.trusted.iter().filter(is_alive)
}

/// Returns the pinned keys that give trust.
///
/// # Errors
///
/// [`Code::NotVerified`] where none does, with each and the reason.
fn need_one<'a>(ring: &'a Ring, dead: &[(String, String)]) -> Result<Vec<&'a String>, Failure> {
    let alive: Vec<&String> = alive(ring, dead).collect();
    if dead.is_empty() || !alive.is_empty() {
        return Ok(alive);
    }
    let each: Vec<String> = dead
        .iter()
        .map(|(key, why)| format!("{key}: {why}"))
        .collect();
    Err(Failure::new(
        Code::NotVerified,
        format!(
            "trusting {}, and no other pinned key gives trust",
            each.join("; ")
        ),
    )
    .hint("a newer keyring package may have keys that do"))
}

/// A home of gpg's on a file system that ends with the namespaces, and the calls that fill it.
struct Scratch<'a> {
    gpg: &'a Gpg,
    path: &'a Path,
}

impl<'a> Scratch<'a> {
    /// Makes an empty one.
    fn make(gpg: &'a Gpg, path: &'a Path) -> Result<Self, Failure> {
        // As pacman-key does. Without a pubring.gpg gpg makes a pubring.kbx, in which it finds keys six times as fast.
        Self::lay_out(gpg, path, &[("secring.gpg", b"")])
    }

    /// Makes one with these files.
    fn lay_out<B: AsRef<[u8]>>(
        gpg: &'a Gpg,
        path: &'a Path,
        files: &[(&str, B)],
    ) -> Result<Self, Failure> {
        gnupg::lay_out(path, files)?;
        let agent = path.join("gpg-agent.conf");
        std::fs::write(&agent, AGENT).doing(Code::Os, || format!("writing {}", quote(&agent)))?;
        Ok(Self { gpg, path })
    }

    /// Runs gpg and returns what it prints, and whether it says that all went well. Of its messages the last is kept.
    fn attempt(&self, args: &[&str]) -> Result<(Vec<u8>, Result<(), String>), Failure> {
        let log = self.path.with_extension("log");
        let file = File::create(&log).doing(Code::Os, || format!("making {}", quote(&log)))?;
        let mut command = self.gpg.command(self.path);
        command.arg("--no-auto-check-trustdb").args(args);
        let out = child::output(command.stderr(file))?;
        if out.status.success() {
            return Ok((out.stdout, Ok(())));
        }
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let why = match last {
            Some(line) => {
                let line = line.strip_prefix("gpg: ").unwrap_or(line);
                line.trim_end_matches('.').to_owned()
            }
            None => child::ended(out.status),
        };
        Ok((out.stdout, Err(why)))
    }

    fn run(&self, doing: &str, args: &[&str]) -> Result<Vec<u8>, Failure> {
        match self.attempt(args)? {
            (out, Ok(())) => Ok(out),
            (_, Err(why)) => Err(Failure::new(
                Code::ChildFailed,
                format!("{doing}: gpg: {why}"),
            )),
        }
    }

    /// Lists keys: `what` is gpg's command for that.
    fn list(&self, what: &str) -> Result<Keys, Failure> {
        let doing = "listing the keys of the keyring";
        let out = self.run(doing, &["--with-colons", what])?;
        Ok(Keys::parse(&out))
    }

    /// Writes a file beside the home, and returns its path as an argument.
    fn write(&self, extension: &str, bytes: impl AsRef<[u8]>) -> Result<String, Failure> {
        let file = self.path.with_extension(extension);
        std::fs::write(&file, bytes).doing(Code::Os, || format!("writing {}", quote(&file)))?;
        Ok(file.to_string_lossy().into_owned())
    }

    /// Makes the root's own key, and returns its fingerprint.
    fn make_own_key(&self) -> Result<String, Failure> {
        let doing = "making the keyring's own key";
        let file = self.write("params", OWN_KEY)?;
        let out = self.run(doing, &["--status-fd=1", "--gen-key", &file])?;
        let out = String::from_utf8_lossy(&out);
        created_key(&out).map(str::to_owned).ok_or_else(|| {
            Failure::new(
                Code::ChildFailed,
                format!("{doing}: gpg does not say which key it made"),
            )
        })
    }

    /// Imports the rings. gpg's exit status also says that some key of hundreds is odd, so what it did is asked for.
    fn import(&self, ring: &Ring) -> Result<(), Failure> {
        let mut args = vec!["--status-fd=1".to_owned(), "--import".to_owned()];
        for (i, (_, keys)) in ring.keys.iter().enumerate() {
            let file = self.ring_file(i);
            std::fs::write(&file, keys).doing(Code::Os, || format!("writing {}", quote(&file)))?;
            args.push(file.to_string_lossy().into_owned());
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let (out, ended) = self.attempt(&args)?;
        let read = import_count(&String::from_utf8_lossy(&out));
        let names: Vec<_> = ring.keys.iter().map(|(name, _)| name.as_str()).collect();
        match (read, ended) {
            (Some(1..), _) => Ok(()),
            (_, ended) => Err(Failure::new(
                Code::ChildFailed,
                format!(
                    "importing the ring '{}': gpg: {}",
                    names.join("', '"),
                    ended
                        .err()
                        .unwrap_or_else(|| "there is no key in it".into())
                ),
            )),
        }
    }

    /// Makes a pubring.gpg of the keybox, with what gpg has noted of signatures: pacman-key knows no other.
    fn write_ring(&self) -> Result<(), Failure> {
        let doing = "writing the keyring";
        let bytes = self.run(doing, &["--export-options=backup", "--export"])?;
        let [ring, keybox] = ["pubring.gpg", "pubring.kbx"].map(|name| self.path.join(name));
        std::fs::write(&ring, bytes)
            .and_then(|()| std::fs::remove_file(&keybox))
            .doing(Code::Os, || format!("{doing} {}", quote(&ring)))
    }

    /// Lists the keys of the rings that were made later than it is by this host's clock: gpg imports none of them.
    fn show_new_keys(&self, ring: &Ring) -> Result<Vec<Key>, Failure> {
        let files: Vec<String> = (0..ring.keys.len())
            .map(|n| self.ring_file(n).to_string_lossy().into_owned())
            .collect();
        let mut args = vec!["--with-colons", "--import-options=show-only", "--import"];
        args.extend(files.iter().map(String::as_str));
        let now = now()?;
        // It fails over what it would not import.
        let (out, _) = self.attempt(&args)?;
        let mut keys = Keys::parse(&out).list;
        keys.retain(|key| key.created > now);
        Ok(keys)
    }

    /// Returns where the keys of a ring are written for gpg.
    fn ring_file(&self, n: usize) -> PathBuf {
        self.path.with_extension(format!("ring{n}"))
    }

    /// Imports all keys of another home with their local signatures, and its owner trust.
    fn import_home(&self, files: &[(&'static str, Vec<u8>)]) -> Result<(), Failure> {
        let doing = "extending the root's keyring";
        let path = self.path.with_extension("before");
        let other = Scratch::lay_out(self.gpg, &path, files)?;
        let keys = other.run(
            doing,
            &["--export-options", "export-local-sigs", "--export"],
        )?;
        let trust = other.run(doing, &["--export-ownertrust"])?;
        if keys.is_empty() {
            return Ok(());
        }
        let keys = self.write("keys", keys)?;
        let args = ["--import-options", "import-local-sigs", "--import", &keys];
        // One key of many may be odd; what is there afterwards, the list says.
        drop(self.attempt(&args)?);
        let trust = self.write("trust", trust)?;
        self.run(doing, &["--import-ownertrust", &trust]).map(drop)
    }

    /// Signs the pinned keys locally. Returns those that cannot be, as they expired, were revoked or are not in the rings, with the
    /// reason: they give no trust.
    fn sign(&self, ring: &Ring, own: &str) -> Result<Vec<(String, String)>, Failure> {
        let mut args = vec!["--with-colons", "--list-keys", "--"];
        args.extend(ring.trusted.iter().map(String::as_str));
        // It fails where one is not there; which one, the list says.
        let (out, _) = self.attempt(&args)?;
        let mut keys = Keys::parse(&out).list;
        let is_there = |key: &String| keys.iter().any(|k| k.fingerprint == *key);
        if !ring.trusted.iter().all(is_there) {
            // A key that was made later than it is by this clock is not imported. What the rings have of it, gpg shows.
            keys.extend(self.show_new_keys(ring)?);
        }
        let mut dead = listing::dead_pins(ring, &keys, now()?)?;
        for fingerprint in &ring.trusted {
            if dead.iter().any(|(key, _)| key == fingerprint) {
                continue;
            }
            // It takes primary keys only: a hostile key that has a pinned one as its subkey is refused.
            let args = [
                "--yes",
                "--local-user",
                own,
                "--quick-lsign-key",
                fingerprint,
            ];
            if let (_, Err(why)) = self.attempt(&args)? {
                dead.push((fingerprint.clone(), format!("gpg does not sign it: {why}")));
            }
        }
        need_one(ring, &dead)?;
        Ok(dead)
    }

    /// Sets the owner trust of the pinned keys, and disables the revoked ones.
    fn set_owner_trust(&self, ring: &Ring, dead: &[(String, String)]) -> Result<(), Failure> {
        let trusted = alive(ring, dead).map(|key| format!("{key}:{MARGINAL}:\n"));
        let revoked = ring
            .revoked
            .iter()
            .map(|key| format!("{key}:{DISABLED}:\n"));
        let text: String = trusted.chain(revoked).collect();
        let file = self.write("owners", text)?;
        self.run("setting owner trust", &["--import-ownertrust", &file])
            .map(drop)
    }

    /// Has gpg compute which keys are valid.
    fn check_trust(&self) -> Result<(), Failure> {
        self.run("checking the trust database", &["--yes", "--check-trustdb"])
            .map(drop)
    }
}

/// The time in seconds since 1970.
fn now() -> Result<u64, Failure> {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .doing(Code::Os, || "reading the clock, which is before 1970")
}

/// Returns the fingerprint in `[GNUPG:] KEY_CREATED TYPE FINGERPRINT` (doc/DETAILS).
fn created_key(text: &str) -> Option<&str> {
    let mut lines = text
        .lines()
        .filter_map(|l| l.strip_prefix("[GNUPG:] KEY_CREATED "));
    lines.next()?.split(' ').nth(1)
}

/// Returns how many keys gpg read, from `[GNUPG:] IMPORT_RES` (doc/DETAILS).
fn import_count(text: &str) -> Option<u32> {
    let mut lines = text
        .lines()
        .filter_map(|l| l.strip_prefix("[GNUPG:] IMPORT_RES "));
    lines.next()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpgs_status_lines() {
        let text = "[GNUPG:] IMPORT_OK 1 ABC\n[GNUPG:] IMPORT_RES 5 0 5 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(import_count(text), Some(5));
        assert_eq!(import_count("[GNUPG:] NODATA 1\n"), None);
        assert_eq!(
            created_key("[GNUPG:] KEY_CONSIDERED X 0\n[GNUPG:] KEY_CREATED P ABC\n"),
            Some("ABC")
        );
        assert_eq!(created_key("gpg: KEY_CREATED P ABC\n"), None);
    }
}

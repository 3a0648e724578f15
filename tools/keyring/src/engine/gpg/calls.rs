//! The calls of gpg that turn a ring into a GnuPG home.
//!
//! The steps are those of `pacman-key --init` and `--populate`, and so is the result. What differs is the time: the trust
//! database is checked once at the end and not after every step, all owner trust and all disabled keys go in with one
//! call, and the root's own key is Ed25519, made in milliseconds where RSA-4096 takes seconds. The key is the root's
//! alone and signs nothing but these keys; every gpg since 2.1 knows the kind.

use crate::listing::{self, Key};
use crate::trust::Ring;
use rootfs::session::environment;
use stage::{Code, Doing, Failure, child, quote};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The host's gpg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpg {
    /// The program.
    program: PathBuf,
    /// Its version.
    pub(crate) version: (u32, u32, u32),
}

/// What gpg is told of the root's own key: as pacman-key does, but for its kind.
const OWN_KEY: &str = "Key-Type: EDDSA\n\
    Key-Curve: ed25519\n\
    Key-Usage: sign\n\
    Name-Real: Pacman Keyring Master Key\n\
    Name-Email: pacman@localhost\n\
    Expire-Date: 0\n\
    %no-protection\n\
    %commit\n";

/// Owner trust as gpg's trust database has it (g10/trustdb.h): marginal, and the mark of a disabled key. What edit-key's
/// `disable` sets one by one goes in by the same door as owner trust, all at once.
const MARGINAL: u8 = 4;
const DISABLED: u8 = 128;

impl Gpg {
    /// Finds gpg on the host.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where there is none, or one from before 2.1.
    pub(crate) fn find() -> Result<Self, Failure> {
        let missing = |why: String| {
            Failure::new(
                Code::NotFound,
                format!("looking for gpg on this host: {why}"),
            )
            .hint("sudo apt-get install gnupg (pacman -S gnupg, dnf install gnupg2)")
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            // A link is followed now: inside, the link may be hidden (NixOS has it in /run).
            .filter_map(|directory| directory.join("gpg").canonicalize().ok())
            .find(|file| is_program(file))
            .ok_or_else(|| missing("there is none in PATH".into()))?;
        let mut command = child::command(&program);
        command.arg("--version");
        rootfs::tie_to_us(&mut command);
        let out = child::output(&mut command)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let version = version(&text)
            .ok_or_else(|| missing(format!("{} does not say its version", program.display())))?;
        if version < (2, 1, 0) {
            return Err(missing("it is older than 2.1".into()));
        }
        Ok(Self { program, version })
    }

    /// Lists the public and the secret keys of a home.
    pub(crate) fn list(&self, home: &Path) -> Result<(Vec<Key>, Vec<Key>), Failure> {
        let doing = "listing the keys of the keyring";
        let public = self.run(home, doing, &["--with-colons", "--list-keys"])?;
        let secret = self.run(home, doing, &["--with-colons", "--list-secret-keys"])?;
        Ok((listing::parse(&public), listing::parse(&secret)))
    }

    fn command(&self, home: &Path, args: &[&str]) -> Command {
        let mut command = child::command(&self.program);
        command.env_clear().envs(environment());
        command.arg("--homedir").arg(home);
        // No configuration but ours: what a home's own could name is run. Nobody is there to be asked.
        command.args([
            "--no-options",
            "--no-permission-warning",
            "--batch",
            "--no-tty",
            "--quiet",
            "--pinentry-mode=cancel",
            "--lock-never",
            "--no-auto-check-trustdb",
        ]);
        command.args(args);
        command
    }

    /// Runs gpg and returns what it prints, and whether it says that all went well. Of its messages the last is kept.
    fn attempt(
        &self,
        home: &Path,
        args: &[&str],
    ) -> Result<(Vec<u8>, Result<(), String>), Failure> {
        let log = home.with_extension("log");
        let file = File::create(&log).doing(Code::Os, || format!("making {}", quote(&log)))?;
        let out = child::output(self.command(home, args).stderr(file))?;
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

    fn run(&self, home: &Path, doing: &str, args: &[&str]) -> Result<Vec<u8>, Failure> {
        match self.attempt(home, args)? {
            (out, Ok(())) => Ok(out),
            (_, Err(why)) => Err(Failure::new(
                Code::ChildFailed,
                format!("{doing}: gpg: {why}"),
            )),
        }
    }

    /// Returns the fingerprint of the root's own key, and whether it was there before.
    fn own_key(&self, home: &Path) -> Result<(String, bool), Failure> {
        let doing = "making the keyring's own key";
        let list = || -> Result<Option<String>, Failure> {
            let out = self.run(home, doing, &["--with-colons", "--list-secret-keys"])?;
            Ok(listing::parse(&out)
                .into_iter()
                .next()
                .map(|k| k.fingerprint))
        };
        if let Some(fingerprint) = list()? {
            return Ok((fingerprint, true));
        }
        let file = home.with_extension("params");
        std::fs::write(&file, OWN_KEY).doing(Code::Os, || doing)?;
        self.run(home, doing, &["--gen-key", &file.to_string_lossy()])?;
        match list()? {
            Some(fingerprint) => Ok((fingerprint, false)),
            None => Err(Failure::new(
                Code::ChildFailed,
                format!("{doing}: gpg says that it did, and there is none"),
            )),
        }
    }

    /// Imports the rings. gpg's exit status also says that some key of hundreds is odd, so what it did is asked for.
    fn import(&self, ring: &Ring, home: &Path) -> Result<(), Failure> {
        let mut args = vec!["--status-fd=1".to_owned(), "--import".to_owned()];
        for (i, (name, keys)) in ring.keys.iter().enumerate() {
            let file = home.with_extension(format!("ring{i}"));
            std::fs::write(&file, keys).doing(Code::Os, || format!("writing the ring '{name}'"))?;
            args.push(file.to_string_lossy().into_owned());
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let (out, ended) = self.attempt(home, &args)?;
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

    /// Signs the trusted keys with the root's own, where that is not done yet.
    fn sign(&self, ring: &Ring, home: &Path, own: &str, old: bool) -> Result<(), Failure> {
        let what = if old {
            "--check-signatures"
        } else {
            "--list-keys"
        };
        let mut args = vec!["--with-colons", what, "--"];
        args.extend(ring.trusted.iter().map(String::as_str));
        // It fails where one is not there; which one, the list says.
        let (out, _) = self.attempt(home, &args)?;
        let keys = listing::parse(&out);
        let own_id = &own[own.len().saturating_sub(16)..];
        listing::alive(ring, &keys, crate::engine::now()?.into())?;
        for fingerprint in &ring.trusted {
            let Some(key) = keys.iter().find(|k| k.fingerprint == *fingerprint) else {
                continue;
            };
            if key.signed_by.iter().any(|by| by == own_id) {
                continue;
            }
            // It takes primary keys only: a hostile key that has a trusted one as its subkey is refused.
            let doing = format!("signing {fingerprint} locally");
            let args = [
                "--yes",
                "--local-user",
                own,
                "--quick-lsign-key",
                fingerprint,
            ];
            self.run(home, &doing, &args)?;
        }
        Ok(())
    }

    /// Makes `home` the keyring that `ring` describes. `home` has the keys of before, or none; nobody else uses it, and
    /// its path is short enough for an agent's socket.
    ///
    /// # Errors
    ///
    /// When gpg fails, or a key that is to give trust is not there, or dead.
    pub(super) fn build(&self, ring: &Ring, home: &Path) -> Result<(), Failure> {
        // The agent is started by gpg, and ends with the namespaces that we are in.
        std::fs::write(
            home.join("gpg-agent.conf"),
            "disable-scdaemon\nallow-loopback-pinentry\npinentry-program /bin/false\n",
        )
        .doing(Code::Os, || "writing the agent's configuration")?;
        let (own, old) = self.own_key(home)?;
        self.import(ring, home)?;
        self.sign(ring, home, &own, old)?;
        let owners = home.with_extension("owners");
        let trusted = ring
            .trusted
            .iter()
            .map(|key| format!("{key}:{MARGINAL}:\n"));
        let revoked = ring
            .revoked
            .iter()
            .map(|key| format!("{key}:{DISABLED}:\n"));
        let text: String = trusted.chain(revoked).collect();
        std::fs::write(&owners, text).doing(Code::Os, || "writing the list of owner trust")?;
        let doing = "setting owner trust";
        self.run(
            home,
            doing,
            &["--import-ownertrust", &owners.to_string_lossy()],
        )?;
        self.run(home, "checking the trust database", &["--check-trustdb"])?;
        Ok(())
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Returns the version in `gpg (GnuPG) 2.2.40`, the first line of what gpg says.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text.lines().next()?.split_whitespace().nth(2)?;
    let mut numbers = word.split(['.', '-']).map(|n| n.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// Returns how many keys gpg read: the first number of `IMPORT_RES` (doc/DETAILS).
fn import_count(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("[GNUPG:] IMPORT_RES "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_gpg() {
        assert_eq!(
            version("gpg (GnuPG) 2.2.40\nlibgcrypt 1.10.1\n"),
            Some((2, 2, 40))
        );
        assert_eq!(version("gpg (GnuPG) 2.5.0-beta31"), Some((2, 5, 0)));
        assert_eq!(version("gpg (GnuPG/MacGPG2) 2.4"), Some((2, 4, 0)));
        for bad in ["", "gpg", "gpg (GnuPG) x.y"] {
            assert_eq!(version(bad), None);
        }
    }

    #[test]
    fn what_gpg_says_of_an_import() {
        let text = "[GNUPG:] IMPORT_OK 1 ABC\n[GNUPG:] IMPORT_RES 5 0 5 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(import_count(text), Some(5));
        assert_eq!(import_count("[GNUPG:] NODATA 1\n"), None);
    }
}

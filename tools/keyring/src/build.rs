//! Building the keyring: the host's gpg imports the rings into a GnuPG home, in namespaces of our own.
//!
//! The steps are those of `pacman-key --init` and `--populate`, and so is the result. What differs is the time: the trust
//! database is checked once at the end and not after every step, all owner trust and all disabled keys are set by one call,
//! and the root's own key is Ed25519, made in milliseconds where RSA-4096 takes seconds. That key is the root's alone and
//! signs nothing but these keys; every gpg since 2.1 knows its type.
//!
//! gpg works in a scratch home, on a tmpfs that nobody else sees, with a short path: that of an agent's socket may have 108
//! bytes. What gpg leaves (backups, locks, sockets, the agent itself) ends with the namespaces. The keyring is built from
//! nothing each time. Its files are copied to the root when all of them are complete and checked.

use crate::Session;
use crate::home::{KeyringFiles, Place, Which};
use crate::listing::{self, Summary};
use crate::trust::{Decided, Kept, Ring, Unusable};
use pacman::gpg::listing::{Key, Keys};
use pacman::gpg::{self, Gpg, Home, StoredKeyring};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use stage::{Code, Doing, Failure, Progress, Unit, quote};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The parameters of the root's own key: those of pacman-key, but for its type.
const OWN_KEY: &str = "Key-Type: EDDSA\n\
    Key-Curve: ed25519\n\
    Key-Usage: sign\n\
    Name-Real: Pacman Keyring Master Key\n\
    Name-Email: pacman@localhost\n\
    Expire-Date: 0\n\
    %no-protection\n\
    %commit\n";

/// The agent's configuration: gpg starts it, and it ends with the namespaces.
const AGENT_CONF: &str =
    "disable-scdaemon\nallow-loopback-pinentry\npinentry-program /bin/false\ndisable-check-own-socket\n";

/// Owner trust as gpg's trust database has it (g10/trustdb.h): marginal, and the flag of a disabled key. edit-key's
/// `disable` sets that for one key; importing owner trust sets it for all at once.
const MARGINAL: u8 = 4;
const DISABLED: u8 = 128;

/// What was built.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Built {
    pub(crate) summary: Summary,
    /// The fingerprint of the root's own key.
    pub(crate) own: String,
    pub(crate) unusable: Unusable,
    /// The keys that are valid only by the keyring that was extended.
    pub(crate) extended: Vec<String>,
    /// The keys that sign packages and are only marginally valid.
    pub(crate) marginal: Vec<String>,
    /// Where there are several publishers: the keys that are valid by the pins and the rings of each.
    pub(crate) publishers: Vec<Vec<String>>,
    /// The keys of a publisher that an overlay lists as revoked.
    pub(crate) kept: Vec<Kept>,
    /// How long gpg worked, in seconds.
    pub(crate) seconds: f64,
}

/// Builds the keyring beside the one of the root, as [`Which::New`]. With `extend`, the keys and the trust of the present
/// one are added.
///
/// # Errors
///
/// When gpg fails, or the keyring is not as it must be.
pub(crate) fn build(session: Session<'_>, decided: &Decided, extend: bool) -> Result<Built, Failure> {
    let context = session.context;
    let built = session.inside.call(rootfs::Place::Host, &[], || build_inside(session, decided, extend))?;
    for (key, why) in &built.unusable {
        context.warn(format_args!("the pinned key {key} gives no trust: {why}"));
    }
    for key in &built.marginal {
        context.warn(format_args!(
            "{key} is only marginally valid, so packages signed by it are refused; --trust {key} makes it valid"
        ));
    }
    for Kept { key, of, by } in &built.kept {
        context.warn(format_args!(
            "'{of}' lists {key} as revoked, which is a key of '{by}': packages of '{by}' may be by it"
        ));
    }
    for key in &built.extended {
        context.warn(format_args!("the key {key} is valid by the root's own keyring alone, and by no pinned key"));
    }
    context.waited(Duration::try_from_secs_f64(built.seconds).unwrap_or_default());
    Ok(built)
}

fn build_inside(
    Session { context, document, gpg, .. }: Session<'_>,
    decided: &Decided,
    extend: bool,
) -> Result<Built, Failure> {
    // Opened before the tmpfs is mounted, which may cover the root.
    let root = Root::of(document)?;
    let place = Place::in_root(&root)?;
    let before = if extend { place.read_to_extend()? } else { Vec::new() };
    let scratch = gpg::mount_scratch()?;
    let begin = Instant::now();
    let mut publishers = valid_by_publisher(gpg, scratch, decided)?;
    let (ring, kept) = decided.together(&publishers);
    let ring = &ring;
    // secring.gpg as pacman-key makes it. Without a pubring.gpg gpg makes a pubring.kbx, in which it finds keys six times as
    // fast.
    let files = [("secring.gpg", ""), ("gpg-agent.conf", AGENT_CONF)];
    let home = Home::create(gpg, scratch, &files)?;
    let progress = context.progress("building the keyring", Unit::Steps, Some(5));
    let (own, mut unusable) = populate(&home, ring, &progress)?;
    let mut public = home.list("--list-keys")?;
    let mut extended = Vec::new();
    if !before.is_empty() {
        let by_pins = public;
        import_home(&home, &before)?;
        // Again: what the rings disable stays disabled.
        set_owner_trust(&home, ring, &unusable)?;
        public = home.list("--list-keys")?;
        let strangers = public.strangers(&by_pins, &[]);
        extended = strangers.into_iter().map(Key::name).collect();
    }
    let secret = home.list("--list-secret-keys")?;
    write_pubring(&home)?;
    progress.advance(1);
    let is_valid = |key: &&String| public.list.iter().any(|is| is.fingerprint == **key && is.validity == 'f');
    for keys in &mut publishers {
        keys.extend(decided.asked.iter().filter(is_valid).cloned());
        keys.sort();
        keys.dedup();
    }
    let seconds = begin.elapsed().as_secs_f64();
    // gpg may sign a key and accept none of its names.
    unusable.extend(listing::invalid_pins(ring.usable(&unusable), &public.list));
    let trusted = require_usable(ring, &unusable)?;
    let summary = listing::check(&trusted, &ring.revoked, &public.list, &secret.list)?;
    let files =
        KeyringFiles::from_scratch(scratch, gpg.version).doing(Code::Os, || format!("reading {}", quote(scratch)))?;
    place.write_new(&files)?;
    let marginal = listing::marginal(ring, &public.list);
    Ok(Built { summary, own, unusable, extended, marginal, publishers, kept, seconds })
}

/// Imports rings into a home, and signs and trusts what is pinned. Returns the home's own key, and the pins that give no trust.
fn populate(home: &Home<'_>, ring: &Ring, progress: &Progress) -> Result<(String, Unusable), Failure> {
    let step = |item| {
        progress.item(item);
        progress.advance(1);
    };
    let own = make_own_key(home)?;
    step("importing the keys");
    let rings = import(home, ring)?;
    step("signing the pinned keys");
    let unusable = sign(home, ring, &rings, &own)?;
    step("computing what is valid");
    set_owner_trust(home, ring, &unusable)?;
    step("checking the keys");
    Ok((own, unusable))
}

/// Returns for each publisher the keys that are valid by its pins and its rings alone, each in a home of its own beside `scratch`;
/// without the keys of `--trust`. Nothing where there is one publisher.
fn valid_by_publisher(gpg: &Gpg, scratch: &Path, decided: &Decided) -> Result<Vec<Vec<String>>, Failure> {
    if decided.each.len() < 2 {
        return Ok(Vec::new());
    }
    let mut publishers = Vec::new();
    for (n, (ring, title)) in decided.each.iter().zip(&decided.titles).enumerate() {
        let path = scratch.with_file_name(format!("p{n}"));
        let home = Home::create(gpg, &path, &[("gpg-agent.conf", AGENT_CONF)])?;
        // What is asked for may be in another publisher's ring.
        let trusted = ring.trusted.iter().filter(|key| !ring.asked.contains(key)).cloned().collect();
        let ring = Ring { trusted, asked: Vec::new(), ..ring.clone() };
        let doing = || format!("building the keyring of '{title}'");
        let mut keys: Vec<String> = Vec::new();
        if !ring.trusted.is_empty() {
            let (own, _) =
                populate(&home, &ring, &Progress::hidden()).map_err(|failure| failure.while_doing(doing()))?;
            let listed = home.list("--list-keys")?;
            keys.extend(listed.valid().map(|key| key.fingerprint.clone()).filter(|key| *key != own));
        }
        publishers.push(keys);
    }
    Ok(publishers)
}

/// Checks a keyring that programs of the root made, by the host's gpg on a copy of the keys and the trust: every trusted key
/// is valid, and no other key that is not valid in the keyring at `gpgdir`, except for one of its own. Returns that key too.
///
/// # Errors
///
/// [`Code::NotVerified`] where it is not as it must be.
pub(crate) fn check_foreign(session: Session<'_>, ring: &Ring, gpgdir: &Path) -> Result<(Summary, String), Failure> {
    session.inside.call(rootfs::Place::Host, &[], || {
        let (root, gpg) = (Root::of(session.document)?, session.gpg);
        let theirs = Place::in_root(&root)?.read_public(Which::Present)?;
        let ours = StoredKeyring::read(gpgdir)?;
        let scratch = gpg::mount_scratch()?;
        let reference = Home::create(gpg, scratch, &ours.files)?.list("--list-keys")?;
        let scratch = scratch.with_extension("theirs");
        let public = Home::create(gpg, &scratch, &theirs)?.list("--list-keys")?;
        let (own, strangers): (Vec<_>, Vec<_>) =
            public.strangers(&reference, &[]).into_iter().partition(|key| key.validity == 'u');
        if let Some(key) = own.get(1).or(strangers.first()) {
            let doing = "checking the keyring that the root's pacman-key built";
            let message = format!("{doing}: {} is valid in it, and by no pinned key", key.name());
            return Err(Failure::new(Code::NotVerified, message)
                .hint("the root's pacman-key or gpg cannot be trusted: leave --in-root out"));
        }
        // The others were named when ours was built.
        let is_usable = |key: &&String| reference.valid().any(|k| k.fingerprint == **key);
        let trusted: Vec<&String> = ring.trusted.iter().filter(is_usable).collect();
        let own: Vec<Key> = own.into_iter().cloned().collect();
        let summary = listing::check(&trusted, &ring.revoked, &public.list, &own)?;
        let own = own.first().map(|key| key.fingerprint.clone());
        Ok((summary, own.unwrap_or_default()))
    })
}

/// Returns the pinned keys that give trust.
///
/// # Errors
///
/// [`Code::NotVerified`] where none does, with the reason of each.
fn require_usable<'a>(ring: &'a Ring, unusable: &Unusable) -> Result<Vec<&'a String>, Failure> {
    let usable = ring.usable(unusable);
    if unusable.is_empty() || !usable.is_empty() {
        return Ok(usable);
    }
    let reasons: Vec<String> = unusable.iter().map(|(key, why)| format!("{key}: {why}")).collect();
    let message = format!("trusting {}, and no other pinned key gives trust", reasons.join("; "));
    Err(Failure::new(Code::NotVerified, message).hint("a newer keyring package may have keys that do"))
}

/// Runs gpg, and returns what it printed.
fn run(home: &Home<'_>, doing: &str, args: &[&str]) -> Result<Vec<u8>, Failure> {
    home.run(args)?.succeeded(doing)
}

/// Writes a file beside the home, and returns its path as an argument.
fn write(home: &Home<'_>, extension: &str, bytes: impl AsRef<[u8]>) -> Result<String, Failure> {
    let file = home.path.with_extension(extension);
    std::fs::write(&file, bytes).doing(Code::Os, || format!("writing {}", quote(&file)))?;
    Ok(file.to_string_lossy().into_owned())
}

/// Makes the root's own key, and returns its fingerprint.
fn make_own_key(home: &Home<'_>) -> Result<String, Failure> {
    let doing = "making the keyring's own key";
    let file = write(home, "params", OWN_KEY)?;
    let out = run(home, doing, &["--status-fd=1", "--gen-key", &file])?;
    // KEY_CREATED TYPE FINGERPRINT
    let key = status_field(&out, "KEY_CREATED", 1);
    key.ok_or_else(|| gpg::failure(doing, "it does not report which key it made"))
}

/// Imports the rings, and returns the files that they were written to. gpg's exit status also reports that one key of hundreds
/// is unusual, so what counts is how many it read.
fn import(home: &Home<'_>, ring: &Ring) -> Result<Vec<String>, Failure> {
    let rings = ring.keys.iter().enumerate();
    let files: Vec<String> =
        rings.map(|(n, (_, keys))| write(home, &format!("ring{n}"), keys)).collect::<Result<_, _>>()?;
    let mut args = vec!["--status-fd=1", "--import"];
    args.extend(files.iter().map(String::as_str));
    let out = home.run(&args)?;
    // IMPORT_RES COUNT ...
    let count = status_field(&out.stdout, "IMPORT_RES", 0);
    if count.is_some_and(|count| count != "0") {
        return Ok(files);
    }
    let names: Vec<_> = ring.keys.iter().map(|(name, _)| name.as_str()).collect();
    let why = if out.success { "there is no key in it" } else { &out.error };
    let doing = format!("importing the ring '{}'", names.join("', '"));
    Err(gpg::failure(&doing, why))
}

/// Returns a field of a status line (doc/DETAILS of GnuPG).
fn status_field(out: &[u8], keyword: &str, field: usize) -> Option<String> {
    let text = String::from_utf8_lossy(out);
    let mut lines =
        text.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")?.strip_prefix(keyword)?.strip_prefix(' '));
    lines.next()?.split(' ').nth(field).map(str::to_owned)
}

/// Replaces the keybox by a pubring.gpg, with gpg's notes on signatures: pacman-key knows no other.
fn write_pubring(home: &Home<'_>) -> Result<(), Failure> {
    let doing = "writing the keyring";
    let bytes = run(home, doing, &["--export-options=backup", "--export"])?;
    let [ring, keybox] = ["pubring.gpg", "pubring.kbx"].map(|name| home.path.join(name));
    std::fs::write(&ring, bytes)
        .and_then(|()| std::fs::remove_file(&keybox))
        .doing(Code::Os, || format!("{doing} {}", quote(&ring)))
}

/// Imports all keys of another home with their local signatures, and its owner trust.
fn import_home(home: &Home<'_>, files: &[(&'static str, Vec<u8>)]) -> Result<(), Failure> {
    let doing = "extending the root's keyring";
    let other = Home::create(home.gpg, &home.path.with_extension("before"), files)?;
    let export = ["--export-options", "export-local-sigs", "--export"];
    let keys = run(&other, doing, &export)?;
    let trust = run(&other, doing, &["--export-ownertrust"])?;
    if keys.is_empty() {
        return Ok(());
    }
    let keys = write(home, "keys", keys)?;
    // One key of many may be unusual; the list shows which keys there are.
    home.run(&["--import-options", "import-local-sigs", "--import", &keys])?;
    let trust = write(home, "trust", trust)?;
    run(home, doing, &["--import-ownertrust", &trust]).map(drop)
}

/// Signs the pinned keys locally. Returns those that cannot be signed, with the reason: they give no trust.
fn sign(home: &Home<'_>, ring: &Ring, rings: &[String], own: &str) -> Result<Unusable, Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .doing(Code::Os, || "reading the clock, which is before 1970")?
        .as_secs();
    let out = home.run(&["--with-colons", "--list-keys"])?;
    let mut keys = Keys::parse(&out.stdout).list;
    let is_there = |key: &String| keys.iter().any(|k| k.fingerprint == *key);
    if !ring.trusted.iter().all(is_there) {
        // gpg imports no key that was made later than now by this host's clock, but shows it.
        let mut args = vec!["--with-colons", "--import-options=show-only", "--import"];
        args.extend(rings.iter().map(String::as_str));
        let shown = Keys::parse(&home.run(&args)?.stdout).list;
        keys.extend(shown.into_iter().filter(|key| key.created > now));
    }
    let mut unusable = listing::unusable_pins(ring, &keys, now)?;
    for key in &ring.trusted {
        if unusable.contains_key(key) {
            continue;
        }
        // It takes primary keys only: a hostile key with a pinned one as its subkey is refused.
        let out = home.run(&["--yes", "--local-user", own, "--quick-lsign-key", key])?;
        if !out.success {
            unusable.insert(key.clone(), format!("gpg does not sign it: {}", out.error));
        }
    }
    require_usable(ring, &unusable)?;
    Ok(unusable)
}

/// Sets the owner trust of the pinned keys, disables the revoked ones, and has gpg compute which keys are valid.
fn set_owner_trust(home: &Home<'_>, ring: &Ring, unusable: &Unusable) -> Result<(), Failure> {
    let trusted = ring.usable(unusable).into_iter().map(|key| format!("{key}:{MARGINAL}:\n"));
    let revoked = ring.revoked.iter().map(|key| format!("{key}:{DISABLED}:\n"));
    let file = write(home, "owners", trusted.chain(revoked).collect::<String>())?;
    run(home, "setting owner trust", &["--import-ownertrust", &file])?;
    run(home, "checking the trust database", &["--yes", "--check-trustdb"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let field = |text: &str, keyword, n| status_field(text.as_bytes(), keyword, n);
        let text = "[GNUPG:] IMPORT_OK 1 ABC\n[GNUPG:] IMPORT_RES 5 0 5 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(field(text, "IMPORT_RES", 0).as_deref(), Some("5"));
        assert_eq!(field("[GNUPG:] NODATA 1\n", "IMPORT_RES", 0), None);
        let text = "[GNUPG:] KEY_CONSIDERED X 0\n[GNUPG:] KEY_CREATED P ABC\n";
        assert_eq!(field(text, "KEY_CREATED", 1).as_deref(), Some("ABC"));
        assert_eq!(field("gpg: KEY_CREATED P ABC\n", "KEY_CREATED", 1), None);
    }
}

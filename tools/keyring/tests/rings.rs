//! The keyring against the host's `pacman-key --populate`, ring by ring: gpg lists both, and no verdict differs.
//!
//! The rings are random ones, made with real gpg by tests/mirror/rings (expired, revoked, designated revokers, names that come and
//! go, duplicate and shuffled blocks ...), Arch Linux's real one, and the one of all kinds in `strapline_tests::gpg`. Each is
//! judged today, and some on days of the rings' own time; with the host's gpg, and with the 2.4 of Debian trixie in its place,
//! for us, for pacman-key and for the look at both. `STRAPLINE_RINGS=200` takes that many random ones.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

mod helpers;

use helpers::{Lab, Ring, gpg, keys, kill_agent, own_key, run, short, verdicts, which};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use strapline_tests::gpg::Odd;
use tempfile::TempDir;

/// A day on which programs believe to be; `None` is today.
type Day = Option<&'static str>;

/// A host on which programs run: its day, and the directory of its gpg; `None` is this one's.
#[derive(Clone, Copy, Debug)]
struct Host<'a> {
    day: Day,
    gpg: Option<&'a Path>,
}

impl Host<'_> {
    /// Returns a command that runs `program` there, with all that it starts.
    fn command(self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "env"]);
        let script = |name: &str| strapline_tests::top().join("tests").join(name);
        if let Some(gpg) = self.gpg {
            command.arg("sh").arg(script("gpg.sh")).arg(gpg);
        }
        if let Some(day) = self.day {
            command.arg("sh").arg(script("clock.sh")).arg(day);
        }
        command.arg(program);
        command
    }
}

/// What `pacman-key --init` makes, once.
struct Reference {
    top: TempDir,
    script: String,
    /// The gpg that it is made and compared with.
    gpg: Option<PathBuf>,
}

impl Reference {
    /// One for this host's gpg, and one for a newer gpg.
    fn both() -> [Self; 2] {
        [None, Some(strapline_tests::gpg_of("trixie"))].map(Self::new)
    }

    fn new(gpg: Option<PathBuf>) -> Self {
        let top = short();
        let script = fs::read_to_string(which("pacman-key")).unwrap();
        let reference = Self { top, script, gpg };
        let version = run(reference.host(None).command(Path::new("gpg")).arg("--version"));
        let is_newer = version.starts_with("gpg (GnuPG) 2.4.");
        assert!(reference.gpg.is_none() || is_newer, "{version}");
        // Before all days on which a ring is judged: gpg signs with no key of the future.
        reference.run(Some("2018-06-01"), "init", Path::new("/nonexistent"), &["--init"]);
        kill_agent(&reference.home("init"));
        reference
    }

    fn host(&self, day: Day) -> Host<'_> {
        let gpg = self.gpg.as_deref();
        Host { day, gpg }
    }

    fn home(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// Runs pacman-key on the home of that name, with the rings of `from`.
    fn run(&self, day: Day, name: &str, from: &Path, args: &[&str]) {
        let ours = format!("KEYRING_IMPORT_DIR='{}'", from.display());
        let dirs = ["/usr/share/keyrings", "/usr/share/pacman/keyrings"];
        let script = dirs
            .iter()
            .fold(self.script.clone(), |script, dir| script.replace(&format!("KEYRING_IMPORT_DIR='{dir}'"), &ours));
        assert!(script.contains(&ours));
        let (program, conf) = (self.home("pacman-key"), self.home("pacman.conf"));
        fs::write(&program, script).unwrap();
        fs::write(&conf, "[options]\n").unwrap();
        let mut command = self.host(day).command(Path::new("bash"));
        command.arg(&program).arg("--config").arg(&conf);
        command.arg("--gpgdir").arg(self.home(name)).args(args);
        run(command.stdin(Stdio::null()));
    }

    /// Populates a home from a ring, and returns it.
    fn populate(&self, day: Day, from: &Path, ring: &str) -> PathBuf {
        let home = self.home("g");
        run(Command::new("rm").arg("-rf").arg(&home));
        copy_home(&self.home("init"), &home);
        self.run(day, "g", from, &["--populate", ring]);
        kill_agent(&home);
        home
    }
}

/// Copies a home into a directory, and not its sockets: an agent that was told to end may be about to remove them.
fn copy_home(from: &Path, to: &Path) {
    let script = "mkdir -p \"$1\" && tar -C \"$0\" --exclude='./S.*' -c . | tar -C \"$1\" -x";
    run(Command::new("sh").args(["-c", script]).arg(from).arg(to));
}

/// What gpg says of each key, its names and subkeys, as far as the own key has no part in it: validity, owner trust of those
/// that are valid, whether it is disabled, whether it is signed locally.
fn judge(host: Host<'_>, home: &Path) -> BTreeMap<String, (String, bool, bool, BTreeSet<String>)> {
    let copy = short();
    copy_home(home, copy.path());
    let list = {
        let mut list = host.command(Path::new("gpg"));
        list.arg("--homedir").arg(copy.path());
        list.args(["--batch", "--no-tty", "--quiet", "--no-permission-warning"]);
        run(list.args(["--with-colons", "--check-signatures"]))
    };
    let own = own_key(copy.path());
    kill_agent(copy.path());
    let mut found = BTreeMap::new();
    let mut entry = (String::new(), false, false, BTreeSet::new());
    let (mut key, mut primary) = (String::new(), false);
    for line in list.lines().chain(["pub:"]) {
        let f: Vec<&str> = line.split(':').collect();
        match f[0] {
            "pub" => {
                let before = (std::mem::take(&mut key), std::mem::take(&mut entry));
                if !before.0.is_empty() && before.0 != own {
                    found.insert(before.0, before.1);
                }
                if f.len() > 11 {
                    // Whether it may sign and has expired is in the capabilities.
                    entry.0 = format!("{} {}", f[1], f[6]);
                    entry.1 = f[11].contains('D');
                    if matches!(f[1], "f" | "u") {
                        entry.0 += f[8];
                    }
                }
                primary = true;
            }
            "sub" => {
                primary = false;
                entry.3.insert(format!("sub {} {} {}", f[1], f[4], f[6]));
            }
            "uid" | "uat" => {
                entry.3.insert(format!("uid {} {}", f[1], f[7]));
            }
            "fpr" if primary && key.is_empty() => key = f[9].to_owned(),
            "sig" if f[1] == "!" && own.ends_with(f[4]) && f[10].ends_with('l') => entry.2 = true,
            _ => {}
        }
    }
    found
}

/// A ring of some files, with all that its list of trusted keys names pinned.
fn ring_of<'a>(keys: &'a [u8], trusted: &str, revoked: &str) -> Ring<'a> {
    let pinned = trusted.lines().filter_map(|line| line.split_once(':'));
    Ring {
        keys,
        trusted: trusted.to_owned(),
        revoked: revoked.to_owned(),
        pinned: pinned.map(|(key, _)| key.to_owned()).collect(),
    }
}

/// Writes a ring for pacman-key, without trust in the keys that it also lists as revoked: pacman-key disables such a key, and has
/// its signatures on others count all the same. Here they do not, see keyring(8).
fn without_revoked(lab: &Lab, ring: &Ring<'_>) -> PathBuf {
    let from = lab.directory.path().join("rings");
    fs::create_dir(&from).unwrap();
    let is_kept = |line: &&str| line.get(..40).is_none_or(|key| !ring.revoked.contains(key));
    let trusted = ring.trusted.lines().filter(is_kept);
    let trusted = Ring { trusted: trusted.map(|line| format!("{line}\n")).collect(), ..ring.clone() };
    for (path, bytes) in trusted.files() {
        let name = Path::new(&path).file_name().unwrap();
        fs::write(from.join(name), bytes).unwrap();
    }
    from
}

/// Builds the keyring of a ring, and compares it with pacman-key's.
fn compare(reference: &Reference, day: Day, from: &Path, name: &str) -> usize {
    let read = |end: &str| fs::read(from.join(format!("{name}{end}"))).unwrap_or_default();
    let text = |end: &str| String::from_utf8(read(end)).unwrap();
    let bytes = read(".gpg");
    let ring = ring_of(&bytes, &text("-trusted"), &text("-revoked"));
    let host = reference.host(day);
    let what = format!("{}, on {host:?}", from.display());
    let lab = Lab::new(&ring).install(&ring);
    let given = lab.command(&[]);
    let mut command = host.command(Path::new(given.get_program()));
    let out = command.args(given.get_args()).stdin(Stdio::null()).output();
    let out = out.unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    let theirs = judge(host, &reference.populate(day, &without_revoked(&lab, &ring), "test"));
    // Where no master is alive there is nothing to trust, and pacman-key says so of each.
    let alive = ring.pinned.iter().any(|key| {
        let is_revoked = ring.revoked.contains(key.as_str());
        theirs.get(key).is_some_and(|found| found.2 && !is_revoked)
    });
    if !alive {
        assert_eq!(out.status.code(), Some(69), "{what}: {stderr}");
        return 0;
    }
    assert_eq!(out.status.code(), Some(0), "{what}: {stderr}");
    let ours = judge(host, &lab.home());
    for (key, theirs) in &theirs {
        let ours = ours.get(key);
        assert_eq!(ours, Some(theirs), "{what}: {key}");
    }
    assert_eq!(ours.len(), theirs.len(), "{what}");
    theirs.len()
}

#[test]
fn no_verdict_differs_on_random_rings() {
    let count = match std::env::var("STRAPLINE_RINGS") {
        Ok(count) => count.parse().unwrap(),
        Err(_) => strapline_tests::tier::times(3, 50),
    };
    let rings = tempfile::tempdir().unwrap();
    let make = strapline_tests::top().join("tests/mirror/rings");
    run(Command::new(make).args(["20261129", &count.to_string()]).arg(rings.path()));
    let mut keys = 0;
    for reference in Reference::both() {
        for n in 0..count {
            let from = rings.path().join(format!("{n:03}"));
            keys += compare(&reference, None, &from, "x");
            // On days when some of the keys and signatures had not ended yet.
            if n % 5 == 0 {
                keys += compare(&reference, Some("2018-06-15"), &from, "x");
            }
        }
    }
    assert!(keys > count, "{keys} keys in {count} rings");
    eprintln!("{count} rings, {keys} keys compared");
}

#[test]
fn no_verdict_differs_on_the_ring_of_arch_linux() {
    let from = Path::new("/usr/share/keyrings");
    for reference in Reference::both() {
        // Today, and soon after it was published.
        for day in [None, Some("2023-12-01")] {
            assert!(compare(&reference, day, from, "archlinux") > 150);
        }
    }
}

#[test]
fn no_verdict_differs_on_a_ring_of_all_kinds() {
    let odd = Odd::make();
    let dir = tempfile::tempdir().unwrap();
    for (end, text) in [
        (".gpg", odd.ring.clone()),
        ("-trusted", odd.trusted().into_bytes()),
        ("-revoked", format!("{}\n{}\n", odd.retired[0], "0".repeat(40)).into()),
    ] {
        fs::write(dir.path().join(format!("odd{end}")), text).unwrap();
    }
    for reference in Reference::both() {
        for day in [None, Some("2018-06-15")] {
            assert!(compare(&reference, day, dir.path(), "odd") >= odd.expected.len());
        }
    }
}

/// A home that gpg itself made has a pubring.kbx, and no pubring.gpg.
#[test]
fn a_keyring_of_either_gpg_is_extended_by_either() {
    let newer = strapline_tests::gpg_of("trixie");
    let hosts = [None, Some(newer.as_path())].map(|gpg| Host { day: None, gpg });
    let ring = Ring::good();
    for (theirs, ours) in hosts.iter().flat_map(|a| hosts.iter().map(move |b| (a, b))) {
        let home = short();
        let gpg = |args: &[&str]| {
            let mut command = theirs.command(Path::new("gpg"));
            command.arg("--homedir").arg(home.path());
            run(command.args(["--batch", "--quiet", "--yes", "--passphrase="]).args(args))
        };
        gpg(&["--quick-gen-key", "theirs@test.invalid", "ed25519", "sign", "never"]);
        let extra = home.path().join("extra");
        fs::write(&extra, helpers::ring("extra")).unwrap();
        gpg(&["--import", extra.to_str().unwrap()]);
        gpg(&["--quick-lsign-key", &keys().extra]);
        gpg(&["--check-trustdb"]);
        let mut expected = vec![own_key(home.path()), keys().extra.clone()];
        expected.sort();
        kill_agent(home.path());
        assert!(home.path().join("pubring.kbx").exists());
        assert!(!home.path().join("pubring.gpg").exists());

        let lab = Lab::new(&ring).install(&ring);
        copy_home(home.path(), &lab.home());
        let given = lab.command(&["--extend"]);
        let mut command = ours.command(Path::new(given.get_program()));
        let ran = helpers::Ran::of(command.args(given.get_args()).stdin(Stdio::null())).good();
        let extended = ran.document["keyring"]["extended"].as_array().unwrap();
        let mut extended: Vec<_> = extended.iter().map(|name| name.as_str().unwrap()[..40].to_owned()).collect();
        extended.sort();
        assert_eq!(extended, expected, "{theirs:?}, {ours:?}");
        assert_eq!(verdicts(lab.copy().path())[&keys().extra].0, "f");
    }
}

/// What keyboxd keeps nobody else reads: it is not passed over in silence.
#[test]
fn a_keyring_of_keyboxds_is_not_extended() {
    let newer = strapline_tests::gpg_of("trixie");
    let ring = Ring::good();
    let lab = Lab::new(&ring).install(&ring);
    let home = short();
    let keyboxd = newer.join("keyboxd");
    let text = format!("use-keyboxd\nkeyboxd-program {}\n", keyboxd.display());
    fs::write(home.path().join("common.conf"), text).unwrap();
    let extra = home.path().join("extra");
    fs::write(&extra, helpers::ring("extra")).unwrap();
    let host = Host { day: None, gpg: Some(&newer) };
    // It ends with the process namespace.
    let script = "exec unshare --pid --fork --kill-child gpg --homedir $0 --batch --quiet --import $0/extra";
    let mut import = host.command(Path::new("sh"));
    run(import.arg("-c").arg(script).arg(home.path()));
    assert!(home.path().join("public-keys.d/pubring.db").exists());
    copy_home(home.path(), &lab.home());
    let ran = lab.run(&["--extend"]);
    ran.bad(69, "failed", "keys in it are in a database of keyboxd's");
    assert!(lab.home().join("public-keys.d").exists());
    // From nothing it is built all the same.
    lab.run(&[]).good();
    assert!(!lab.home().join("public-keys.d").exists());
}

#[test]
fn pacman_takes_three_masters_and_refuses_two() {
    let good = Ring::good();
    let lab = Lab::new(&good).install(&good);
    drop(lab.run(&[]).good());
    assert_eq!(verdicts(&copy(&lab))[&keys().builder].0, "f");
    let two = Ring {
        keys: helpers::ring("two"),
        trusted: good.trusted.lines().take(2).map(|line| format!("{line}\n")).collect(),
        ..good
    };
    let lab = Lab::new(&two).install(&two);
    drop(lab.run(&[]).good());
    assert_eq!(verdicts(&copy(&lab))[&keys().builder].0, "m");
    // gpg, asked as pacman asks it.
    let ask = |home: &Path| {
        let data = home.join("data");
        fs::write(&data, &keys().package[0]).unwrap();
        fs::write(home.join("data.sig"), &keys().package[1]).unwrap();
        let mut verify = gpg(home);
        verify.args(["--status-fd=1", "--verify"]);
        let out = verify.arg(home.join("data.sig")).arg(&data).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(ask(&copy(&lab)).contains("TRUST_MARGINAL"));
}

/// A copy of the keyring that stays.
fn copy(lab: &Lab) -> PathBuf {
    let copy = lab.copy();
    let to = lab.directory.path().join("copy");
    run(Command::new("cp").arg("-a").arg(copy.path()).arg(&to));
    to
}

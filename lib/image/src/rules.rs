//! What goes into an image and what does not: a table, each rule with its reason, and what the command line says besides.
//!
//! An image is what other machines are made of. So what belongs to one machine or one moment stays out: caches, logs, locks,
//! temporary files, what is secret and would then be everybody's. Directories stay where that is possible: packages own them,
//! with modes that matter.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use stage::{Code, Doing, Failure};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is left out of every image: patterns as [`Rules::new`] takes them, and whether directories are left out, too.
/// `pack(8)` has this table too.
const LEFT_OUT: &[(bool, &[&str])] = &[
    // A file system of the running machine covers it: nobody ever sees it again.
    (true, &["proc/*", "sys/*", "run/*"]),
    // Temporary files.
    (true, &["tmp/*", "var/tmp/*"]),
    // Caches: what made them makes them again (hier(7)); ldconfig's has inode numbers in it.
    (false, &["var/cache/**"]),
    // Packages, and the directories of downloads that were cut off.
    (true, &["var/cache/pacman/pkg/*"]),
    // The repositories' databases of that day: 'pacman -Sy' fetches those of today.
    (true, &["var/lib/pacman/sync/*"]),
    // Logs: they say when and where the root was made.
    (false, &["var/log/**"]),
    // Journals, in a directory that is called after the machine's id.
    (true, &["var/log/journal/*"]),
    // What is left of a keyring that was being made.
    (true, &["etc/pacman.d/gnupg.new", "etc/pacman.d/gnupg.old", "etc/pacman.d/.gnupg.first-boot"]),
    // gpg's random numbers, backups, locks and sockets.
    (true, &["etc/pacman.d/gnupg/random_seed", "etc/pacman.d/gnupg/*~", "etc/pacman.d/gnupg/*.lock"]),
    (true, &["etc/pacman.d/gnupg/.#*", "etc/pacman.d/gnupg/S.*"]),
    // What the user databases were before the last change, old password hashes too, and their lock.
    (
        true,
        &["etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock"],
    ),
    // Secret, and another one on each machine (random-seed.service(8), systemd-creds(1)).
    (true, &["var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"]),
    (true, &["boot/loader/random-seed", "efi/loader/random-seed", "boot/efi/loader/random-seed"]),
    // When systemd last looked at /usr; without it, it looks (systemd-update-done.service(8)).
    (true, &["etc/.updated", "var/.updated"]),
    // Made by mkfs(8): a file system's, not the root's.
    (true, &["lost+found", "*/lost+found"]),
];

/// Returns the patterns of what is left out of every image, each with whether directories are, too.
pub fn left_out() -> impl Iterator<Item = (bool, &'static str)> {
    LEFT_OUT.iter().flat_map(|(all, patterns)| patterns.iter().map(|pattern| (*all, *pattern)))
}

/// Decides what goes into an image.
#[derive(Debug)]
pub struct Rules {
    exclude: GlobSet,
    include: GlobSet,
    /// The date that nothing in the image may be later than, in seconds since 1970.
    pub epoch: Option<u64>,
}

impl Rules {
    /// Returns the rules of the table, but for what matches `include`, and with what matches `exclude`, which comes first.
    ///
    /// A pattern is of a path from the root on, with or without the first slash. `*`, `?` and `[...]` do not match a slash,
    /// `**` does, and `{a,b}` is either. What is left out takes along what is below it.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where a pattern is invalid, with its option.
    pub fn new(exclude: &[String], include: &[String], epoch: Option<u64>) -> Result<Self, Failure> {
        Ok(Self {
            exclude: globs(exclude.iter().map(String::as_str), "--exclude")?,
            include: globs(include.iter().map(String::as_str), "--include")?,
            epoch,
        })
    }

    /// Returns whether what is at `path` below the root stays out, and with it what is below.
    #[must_use]
    pub fn leaves_out(&self, path: &[u8], directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        if self.exclude.is_match(path) {
            return true;
        }
        let is_ruled =
            left_out().any(|(all, pattern)| (all || !directory) && fits(pattern, path.as_os_str().as_bytes()));
        is_ruled && !self.include.is_match(path)
    }

    /// Returns whether what is at `path`, or a directory above it, stays out.
    #[must_use]
    pub fn leaves_out_with_above(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(n, _)| &path[..n]);
        above.map(str::as_bytes).any(|directory| self.leaves_out(directory, true))
            || self.leaves_out(path.as_bytes(), false)
    }

    /// Returns whether the command line asked for what is at `path` as it is.
    #[must_use]
    pub fn asks_for(&self, path: &[u8]) -> bool {
        self.include.is_match(Path::new(OsStr::from_bytes(path)))
    }

    /// Returns a time as the image has it: clamped to the date, so that what the run itself wrote has the same each time, and
    /// what came out of packages keeps its own.
    #[must_use]
    pub fn clamp(&self, seconds: i64) -> i64 {
        let last = self.epoch.and_then(|epoch| i64::try_from(epoch).ok());
        last.map_or(seconds, |last| seconds.min(last))
    }
}

/// Returns whether a path matches a pattern of the table: names with at most one `*`, and `/**` at the end. The automata of
/// `globset` for all of them take 18 MiB.
fn fits(pattern: &str, path: &[u8]) -> bool {
    if let Some(above) = pattern.strip_suffix("**") {
        return path.starts_with(above.as_bytes());
    }
    let (mut patterns, mut names) = (pattern.split('/'), path.split(|b| *b == b'/'));
    loop {
        let is_match = match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) => match pattern.split_once('*') {
                Some((begin, end)) => {
                    name.strip_prefix(begin.as_bytes()).is_some_and(|rest| rest.ends_with(end.as_bytes()))
                }
                None => name == pattern.as_bytes(),
            },
            _ => false,
        };
        if !is_match {
            return false;
        }
    }
}

/// Returns whether what is at `path` is a key that makes one machine known from another (sshd(8)): an image gives it to every
/// machine that is made of it.
#[must_use]
pub fn is_secret(path: &[u8]) -> bool {
    path.starts_with(b"etc/ssh/ssh_host_") && path.ends_with(b"_key")
}

/// Compiles patterns; `option` is where they come from, for a message.
fn globs<'a>(patterns: impl Iterator<Item = &'a str>, option: &str) -> Result<GlobSet, Failure> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let doing = || format!("reading '{option} {pattern}'");
        let plain = pattern.trim_start_matches('/').trim_end_matches('/');
        if plain.is_empty() {
            return Err(Failure::new(Code::Usage, format!("{}: it names the root itself, or nothing", doing())));
        }
        if plain.split('/').any(|name| matches!(name, "" | "." | "..")) {
            let why = format!("{}: no path in an image has such a name, so it matches nothing", doing());
            return Err(Failure::new(Code::Usage, why).hint("write it from the root on, as usr/share/man"));
        }
        let glob = GlobBuilder::new(plain)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|e| Failure::new(Code::Usage, format!("{}: {}", doing(), e.kind())))?;
        set.add(glob);
    }
    set.build().doing(Code::Usage, || format!("reading '{option}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(exclude: &[&str], include: &[&str]) -> Result<Rules, Failure> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Rules::new(&own(exclude), &own(include), None)
    }

    #[test]
    fn what_belongs_to_a_moment_or_a_machine_stays_out() {
        let rules = rules(&[], &[]).unwrap();
        for (path, directory, out) in [
            ("", true, false),
            ("tmp", true, false),
            ("tmp/x", true, true),
            ("var/cache", true, false),
            ("var/cache/man", true, false),
            ("var/cache/man/index.db", false, true),
            ("var/cache/pacman/pkg", true, false),
            ("var/cache/pacman/pkg/download-x", true, true),
            ("var/log/journal", true, false),
            ("var/log/journal/0123", true, true),
            ("var/log/pacman.log", false, true),
            ("var/lib/pacman/local", true, false),
            ("var/lib/pacman/sync/core.db", false, true),
            ("etc/passwd", false, false),
            ("etc/passwd-", false, true),
            ("etc/x.pacnew", false, false),
            ("home/x/var/log/y", false, false),
            ("boot/lost+found", true, true),
            ("srv/x/lost+found", true, false),
            ("dev/null", false, false),
        ] {
            assert_eq!(rules.leaves_out(path.as_bytes(), directory), out, "{path}");
        }
        assert!(rules.leaves_out_with_above("tmp/x/y"));
        assert!(!rules.leaves_out_with_above("etc/x/y"));
    }

    #[test]
    fn a_rule_means_what_the_same_pattern_means() {
        let ends = ["", "/x", "/x/y", "/.#x", "/.#", "/S.x", "/x~", "/~", "/x.lock", "/.lock", "-", "x", "/lost+found"];
        let plain = |pattern: &str| pattern.trim_end_matches(['*', '/']).to_owned();
        let beginnings =
            left_out().flat_map(|(_, p)| [plain(p), p.to_owned(), p.split('/').next().unwrap().to_owned()]);
        let paths: Vec<String> = beginnings.flat_map(|begin| ends.map(|end| format!("{begin}{end}"))).collect();
        let mut found = 0;
        for (_, pattern) in left_out() {
            assert!(pattern.split('/').all(|name| name == "**" || name.matches('*').count() < 2), "{pattern}");
            let glob = globs(std::iter::once(pattern), "a rule").unwrap();
            for path in &paths {
                let is_match = glob.is_match(path);
                assert_eq!(fits(pattern, path.as_bytes()), is_match, "{pattern} {path}");
                found += usize::from(is_match);
            }
        }
        assert!(found > 33, "{found}");
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let rules = rules(&["/usr/share/man/", "**/*.pyc", "var/log/b*"], &["var/log/*.log", "/var/log/btmp"]).unwrap();
        for (path, out) in [
            ("usr/share/man", true),
            ("usr/share/manual", false),
            ("x.pyc", true),
            ("a/b/x.pyc", true),
            ("var/log/pacman.log", false),
            ("var/log/btmp", true),
            ("var/log/x/y.log", true),
        ] {
            assert_eq!(rules.leaves_out(path.as_bytes(), false), out, "{path}");
        }
        assert!(rules.leaves_out(b"a/\xff\xfe.pyc", false), "not UTF-8");
        assert!(rules.leaves_out_with_above("usr/share/man/man1/x"));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_option() {
        for bad in ["", "/", "a[", "{a", "a**b[z-a]", "./a", "a//b", "a/../b"] {
            let failure = rules(&[bad], &[]).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            let beginning = format!("reading '--exclude {bad}': ");
            assert!(failure.message.starts_with(&beginning), "{failure}");
            rules(&[], &[bad]).unwrap_err();
        }
    }

    #[test]
    fn a_time_is_clamped_to_the_date_and_never_raised() {
        let of = |epoch| Rules::new(&[], &[], epoch).unwrap();
        assert_eq!(of(Some(100)).clamp(101), 100);
        assert_eq!(of(Some(100)).clamp(-5), -5);
        assert_eq!(of(None).clamp(101), 101);
    }

    #[test]
    fn every_rule_has_patterns_that_are_relative() {
        assert_eq!(left_out().count(), 34);
        assert!(left_out().all(|(_, p)| !p.is_empty() && !p.starts_with('/')));
    }
}

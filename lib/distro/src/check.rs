//! What a value may look like.
//!
//! Everything a preset says ends up in a pacman.conf, in a path or in a command line, and presets are written by
//! people. A value is refused where it is read, so that the message can name the line, and so that no tool has to ask
//! again whether a repository's name has a `]` in it.

/// The longest value taken: a URL of this length is a mistake, not a mirror.
const LONGEST: usize = 2048;

/// The state that `SigLevel =` lines change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SigLevel {
    package_required: bool,
    package_all: bool,
    database_all: bool,
}

impl SigLevel {
    /// Applies the words of one line, in order, as pacman does: a line starts from the state before it.
    fn apply(mut self, value: &str) -> Result<Self, String> {
        for word in value.split_whitespace() {
            let (package, database, rest) = match (word.strip_prefix("Package"), word.strip_prefix("Database")) {
                (Some(rest), _) => (true, false, rest),
                (_, Some(rest)) => (false, true, rest),
                (None, None) => (true, true, word),
            };
            match rest {
                "Never" | "Optional" | "Required" if package => self.package_required = rest == "Required",
                "Never" | "Optional" | "Required" => {}
                "TrustedOnly" | "TrustAll" => {
                    let all = rest == "TrustAll";
                    self.package_all = if package { all } else { self.package_all };
                    self.database_all = if database { all } else { self.database_all };
                }
                _ => {
                    let word = word.escape_default();
                    return Err(format!("'{word}' is not a value of SigLevel"));
                }
            }
        }
        Ok(self)
    }

    fn is_strict(self) -> bool {
        self.package_required && !self.package_all && !self.database_all
    }
}

/// Refuse a `SigLevel` that would let an unsigned or an untrusted package in.
///
/// `above` is the level of `[options]` that a repository's own level starts from. `[options]` itself starts from
/// nothing: pacman's built-in level is Optional up to 7.0 and Required from 7.1 on, so `DatabaseOptional` alone means
/// two different things and is not strict.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn strict_siglevel(above: Option<&str>, value: &str) -> Result<(), String> {
    text(value)?;
    let start = SigLevel::default().apply(above.unwrap_or_default())?;
    if start.apply(value)?.is_strict() {
        return Ok(());
    }
    Err(format!("'{value}' lets in packages without a trusted signature: it must say Required and not TrustAll"))
}

/// What a repository's own `SigLevel` comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// Each package must have a trusted signature.
    Always,
    /// A package may have none: this is said for the one repository.
    Perhaps,
}

/// Refuse a `SigLevel` of one repository that takes any key's signature. Of `above` see [`strict_siglevel`].
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn repo_siglevel(above: &str, value: &str) -> Result<Signed, String> {
    text(value)?;
    let level = SigLevel::default().apply(above)?.apply(value)?;
    if level.is_strict() {
        return Ok(Signed::Always);
    }
    if level.package_all || level.database_all {
        return strict_siglevel(Some(above), value).map(|()| Signed::Always);
    }
    Ok(Signed::Perhaps)
}

/// A flag of /proc/cpuinfo.
pub(crate) fn flag(value: &str) -> Result<(), String> {
    plain(value, "_")
}

/// A repository's name, or `*` for all.
pub(crate) fn repo_or_all(value: &str) -> Result<(), String> {
    if value == "*" { Ok(()) } else { repo(value) }
}

/// Refuse words that `SigLevel =` does not have; whether they are strict depends on where they stand.
pub(crate) fn siglevel(value: &str) -> Result<(), String> {
    text(value)?;
    SigLevel::default().apply(value).map(|_| ())
}

/// Refuse what is not one line of printable text.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn text(value: &str) -> Result<(), String> {
    if value.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if value.trim() != value {
        return Err(format!("'{}' begins or ends with white space", value.escape_default()));
    }
    if value.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("'{}' has the control character {} in it", value.escape_default(), c.escape_default())),
        None => Ok(()),
    }
}

/// Refuse what pacman cannot, or should not, use as a server.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn url(value: &str) -> Result<(), String> {
    text(value)?;
    match value.split_once("://") {
        Some(("file", path)) if !path.starts_with('/') => {
            return Err(format!("'{value}' does not name an absolute path"));
        }
        Some(("http" | "https" | "ftp", rest)) if rest.is_empty() || rest.starts_with('/') => {
            return Err(format!("'{value}' has no host"));
        }
        Some(("http" | "https" | "ftp" | "file", _)) => {}
        _ => return Err(format!("'{value}' is not a http, https, ftp or file URL")),
    }
    if let Some(c) = value.chars().find(|c| c.is_whitespace() || "\"<>\\^`{|}#?".contains(*c)) {
        return Err(format!("'{value}' has the character '{c}' in it"));
    }
    // pacman replaces the text `$arch`, whatever follows it: CachyOS's `$arch_v3` is `$arch` and `_v3`.
    for tail in value.split('$').skip(1) {
        if !tail.starts_with("repo") && !tail.starts_with("arch") {
            return Err(format!("'{value}' has a variable that pacman does not know: there are $repo and $arch"));
        }
    }
    Ok(())
}

/// A server pattern with a day in it: `%Y`, `%m` and `%d`, each at least once.
pub(crate) fn snapshot(value: &str) -> Result<(), String> {
    url(value)?;
    match ["%Y", "%m", "%d"].iter().find(|field| !value.contains(**field)) {
        Some(field) => Err(format!("'{value}' has no {field}: a snapshot is of one day")),
        None => Ok(()),
    }
}

/// Refuse what is not a day as `YYYY-MM-DD`.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn date(value: &str) -> Result<(), String> {
    let parts: Vec<&str> = value.split('-').collect();
    let plain = value.bytes().all(|b| b == b'-' || b.is_ascii_digit());
    if let [year, month, day] = parts[..]
        && plain
        && (year.len(), month.len(), day.len()) == (4, 2, 2)
        && let (Ok(year), Ok(month), Ok(day)) = (year.parse::<u32>(), month.parse::<u32>(), day.parse::<u32>())
    {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        if (1..=days).contains(&day) {
            return Ok(());
        }
    }
    let value = value.escape_default();
    Err(format!("'{value}' is not a day: write YYYY-MM-DD"))
}

/// Refuse what is not a whole OpenPGP v4 fingerprint in the one spelling we compare: a key id can be forged.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn fingerprint(value: &str) -> Result<(), String> {
    if value.len() == 40 && value.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
        return Ok(());
    }
    Err(format!("'{}' is not a fingerprint: 40 hexadecimal digits, upper case", value.escape_default()))
}

/// The name of a preset, a keyring or a package: safe in a path and in a command line.
pub(crate) fn name(value: &str) -> Result<(), String> {
    plain(value, "@._+-")
}

/// Refuse what cannot be a repository's name: it stands in `[…]`, in a URL and in the name of a file.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn repo(value: &str) -> Result<(), String> {
    plain(value, "@._+-")?;
    match value {
        // [options] is not a repository, and pacman keeps the installed packages under the name "local".
        "options" | "local" => Err(format!("'{value}' is a name that pacman keeps for itself")),
        _ => Ok(()),
    }
}

/// Refuse what cannot be one of pacman's names of an architecture. `auto` asks the host, which is never the answer
/// for a root that is made for another machine.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn arch(value: &str) -> Result<(), String> {
    plain(value, "_")?;
    match value {
        "auto" => Err("'auto' is the host's architecture: spell out the root's".to_owned()),
        _ => Ok(()),
    }
}

/// A path inside a package: relative, and down only.
pub(crate) fn member(value: &str) -> Result<(), String> {
    text(value)?;
    if value.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(format!("'{value}' is not the path of a file in a package, as usr/bin/pacman is"));
    }
    Ok(())
}

fn plain(value: &str, also: &str) -> Result<(), String> {
    text(value)?;
    let first = value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if first && value.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c)) {
        return Ok(());
    }
    Err(format!("'{value}' is not a name: letters, digits and any of {also} after the first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siglevels_that_are_strict_and_that_are_not() {
        for good in ["Required DatabaseOptional", "PackageRequired", "Never Required", "Required"] {
            assert_eq!(strict_siglevel(None, good), Ok(()), "{good}");
        }
        for bad in [
            "Never",
            "DatabaseOptional",
            "DatabaseRequired",
            "Optional",
            "Required PackageOptional",
            "Required TrustAll",
            "Required DatabaseTrustAll",
            "required",
            "Required\nSigLevel = Never",
            "",
        ] {
            assert!(strict_siglevel(None, bad).is_err(), "{bad}");
        }
        let above = Some("Required DatabaseOptional");
        assert_eq!(strict_siglevel(above, "DatabaseRequired"), Ok(()));
        assert!(strict_siglevel(above, "PackageOptional").is_err());
    }

    #[test]
    fn urls() {
        for good in [
            "http://mirror.archlinuxarm.org/$arch/$repo",
            "https://h/repo/$arch_v3/$repo",
            "file:///srv/mirror/$repo",
            "https://user:word@h:8443/x%20y/",
        ] {
            assert_eq!(url(good), Ok(()), "{good}");
        }
        for bad in [
            "mirror.archlinuxarm.org/$repo",
            "rsync://h/x",
            "https://",
            "https:///x",
            "file://srv/x",
            "http://h/$releasever",
            "http://h/a b",
            "http://h/\nSigLevel = Never",
            "http://h/#x",
            " http://h/",
            "HTTP://h/",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn days() {
        for good in ["2024-02-29", "2000-02-29", "2026-12-31"] {
            assert_eq!(date(good), Ok(()), "{good}");
        }
        for bad in ["2023-02-29", "1900-02-29", "2024-13-01", "2024-1-1", "+024-01-01", "today", "2024-01-00"] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(repo("cachyos-core-v3"), Ok(()));
        assert_eq!(repo("7Ji"), Ok(()));
        assert_eq!(arch("x86_64_v3"), Ok(()));
        assert_eq!(member("usr/bin/pacman-static"), Ok(()));
        for bad in ["options", "local", "a]b", "../x", "a b", "", "-x", ".x", "a/b"] {
            assert!(repo(bad).is_err(), "{bad}");
        }
        for bad in ["auto", "x86-64", "x86_64 any", "a/b"] {
            assert!(arch(bad).is_err(), "{bad}");
        }
        for bad in ["/usr/bin/x", "usr/../x", "usr//x", "usr/", "./x"] {
            assert!(member(bad).is_err(), "{bad}");
        }
        assert!(fingerprint("83f817213361bf5f02e7e124f9f9fa97a403f63e").is_err());
        assert!(fingerprint("F9F9FA97A403F63E").is_err());
    }
}

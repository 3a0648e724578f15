//! pacman's English: each line that pacman 6.0 to 7.1, and the curl and libarchive in it, print in the C locale, or write into
//! pacman's log ([`log`]), and what it means. No other module compares pacman's words.
//!
//! What scriptlets print is on the same terminal. So nothing here proves what a scriptlet could have printed: `strap` uses
//! pacman's log for that.

pub mod log;
pub mod progress;

use stage::{Cause, Code};

/// A line of pacman's output that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputEvent {
    /// It works on this package.
    Package(String),
    /// It runs the hook of this number in its list, whose description this is.
    Hook(u32, String),
    /// A scriptlet or hook failed, in pacman's words.
    CommandFailed(String),
    /// It kept this configuration file and wrote its own beside it, as `FILE.pacnew`.
    SavedBeside(String),
    /// This file in the cache is not what it should be: an absolute path.
    Corrupted(String),
    /// This file of a package was not extracted, or not completely, and why: pacman calls that a warning, and continues.
    NotExtracted(String, String),
    /// A server did not send this file.
    NotRetrieved(NotRetrieved),
    /// Any other error.
    Error(Trouble, String),
    /// What an error before it means: the packages and files that conflict. Without the `:: `.
    Reason(Reason, String),
    /// A package that the configuration ignores was left out.
    Ignored(String),
}

/// A file that could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRetrieved {
    /// Its name.
    pub file: String,
    /// Why.
    pub why: Refusal,
    /// pacman's words, with the server and the reason.
    pub text: String,
}

/// Why a server did not send a file. What may go away is least: the worst of several servers is what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It does not answer, or closes the connection: may go away.
    Trouble,
    /// It has no such file.
    NotThere,
    /// It wants a login, or refuses this host.
    Unauthorized,
    /// Its certificate is not accepted.
    Certificate,
    /// The file could not be written.
    NoSpace,
}

/// What a list after an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A file of a package is there already and no package has it.
    FileExists,
    /// Two packages have the same file.
    FileOfTwo,
    /// Two packages exclude each other.
    Conflict,
    /// A package needs what is not there.
    Dependency,
    /// A package is for other machines.
    Architecture,
    /// A package's file is not what it should be.
    Damaged,
}

impl Reason {
    /// Returns whether pacman lists such reasons below this error.
    #[must_use]
    pub fn is_below(self, trouble: Trouble) -> bool {
        match self {
            Self::FileExists | Self::FileOfTwo => trouble == Trouble::FileConflict,
            Self::Conflict => trouble == Trouble::Conflict,
            Self::Dependency => trouble == Trouble::Dependency,
            Self::Architecture => trouble == Trouble::Architecture,
            Self::Damaged => matches!(trouble, Trouble::PackageSignature | Trouble::Damaged),
        }
    }
}

const MIRROR: &str = "try again, or another mirror: mkconf --server URL";
const INVALID: &str = "its signature is not valid: nothing was installed";
const NO_ACCESS: &str =
    "the server, or the proxy, wants a login or does not let this host in: another mirror: mkconf --server URL";
const CERTIFICATE: &str = "check this host's clock and certificate authorities (ca-certificates; SSL_CERT_FILE=FILE names others), \
    or take another mirror: mkconf --server URL";
const NO_SPACE: &str = "the disk may be full: free some space and run the same pipe again: it goes on where it stopped";

/// Makes [`Trouble`] of a table: of each error its name, the code of a failure that says it, its words, and what to do about it,
/// empty where there is no general advice.
macro_rules! troubles {
    ($($name:ident: $code:ident, [$($words:literal),+], $hint:expr;)+) => {
        /// What an error of pacman's is. The more particular comes first: it is what is said where there are several.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the table says each")]
        pub enum Trouble { $($name,)+ Other }

        impl Trouble {
            const ALL: &[Self] = &[$(Self::$name),+];

            fn row(self) -> (Code, &'static [&'static str], &'static str) {
                match self {
                    $(Self::$name => (Code::$code, &[$($words),+], $hint),)+
                    Self::Other => (Code::ChildFailed, &[], ""),
                }
            }
        }
    };
}

// Of src/pacman/*.c and lib/libalpm/*.c, and libarchive's words in some of them.
troubles! {
    Locked: Busy, ["unable to lock database"], "";
    Configuration: Failed, ["config file ", "failed to resolve path"],
        "run mkconf again, which writes what this pacman accepts";
    // Of each signature it then says that it is missing: nobody has checked it.
    NoEngine: NotFound, ["GPGME error: Invalid crypto engine"],
        "pacman asks the gpgconf in PATH where gpg is, and finds none that works there: see 'gpgconf --list-components'";
    NoKeyring: NotVerified, ["keyring is not writable", "Public keyring not found"],
        "put 'keyring' before 'strap'";
    UnknownTrust: NotVerified, ["unknown trust", "should never be trusted"],
        "the key is in the keyring but not trusted: a newer keyring package may help";
    MarginalTrust: NotVerified, ["marginal trust"],
        "too few masters vouch for the key: a newer keyring package may help";
    KeyMissing: NotVerified, ["required key missing"],
        "the signing key is missing or expired: a newer keyring package may help";
    Unsigned: NotVerified, ["missing required signature", "missing PGP signature"],
        "the mirror offers it unsigned: try another mirror: mkconf --server URL";
    KeyUnusable: NotVerified, ["key \""],
        "the key that signed it may not be used: a newer keyring package may help";
    Signature: NotVerified, ["signature from \"", "signature format", "invalid PGP signature"],
        INVALID;
    DatabaseSignature: NotVerified, ["corrupted database (PGP signature)"], INVALID;
    PackageSignature: NotVerified, ["(PGP signature)"], INVALID;
    // A database that is a web page: then every package of it is "not found". `could not open file PATH/t.db: truncated gzip
    // input` is another.
    DatabaseUnreadable: Network, ["Unrecognized archive format", ".db: ", "could not read db '"],
        MIRROR;
    DatabaseDamaged: NotVerified, ["invalid or corrupted database"],
        "the mirror sent something else than a database: try again, or another mirror";
    // "libarchive error" is of a file that is to be installed.
    Damaged: NotVerified, ["invalid or corrupted", "missing package metadata",
        "': libarchive error", "could not fully load metadata", "package filename is not valid"],
        "the mirror sent something else than its database promises: try again, or another mirror";
    NotFound: NotFound, ["target not found", "database not found",
        "could not find or read package", "' was not found"],
        "check the spelling, and the repositories of mkconf";
    // "(Write failed)" is libarchive's for a file that could not be written completely; the reason gets lost in pacman (6.0.2).
    NoSpace: Failed, ["No space left", " too full: ", "not enough free disk space", "(Write failed)"],
        NO_SPACE;
    ReadOnly: Failed, ["is mounted read only", "Read-only file system"],
        "the root, or the package cache, is on a file system that is mounted read-only";
    FileConflict: Failed, ["(conflicting files)"], "";
    Conflict: Failed, ["(conflicting dependencies)", "unresolvable package conflicts"],
        "leave one of them out; one that is installed goes with strap --replace PKG";
    HookUnready: Failed, ["unable to run hook "],
        "the hook needs a package that is not there: strap that first";
    Hook: ChildFailed, ["failed to run transaction hooks"],
        "nothing was installed: the hook ends the transaction if it fails (AbortOnFail); see what it printed";
    Architecture: Failed, ["package architecture is not valid"],
        "the package is for another architecture than the root: check the repositories of mkconf";
    Dependency: Failed, ["(could not satisfy dependencies)"],
        "no repository has it: check the repositories of mkconf (--repo NAME=URL adds one)";
    NotPermitted: Permission, ["unless you are root", "(permission denied)"], "";
    NoServer: Failed, ["no servers configured"],
        "give the repository a server: mkconf --server URL";
    Retrieval: Network, ["failed to synchronize", "failed to update",
        "failed to retrieve", "download library error", "invalid url for server"],
        MIRROR;
}

impl Trouble {
    /// Returns what an error's text is about.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let is = |trouble: &&Self| trouble.row().1.iter().any(|words| text.contains(words));
        Self::ALL.iter().find(is).copied().unwrap_or(Self::Other)
    }

    /// Returns the code and the cause of a failure that says it, and what to do about it.
    #[must_use]
    pub fn says(self) -> (Code, Option<Cause>, Option<&'static str>) {
        let (code, _, hint) = self.row();
        (code, (self == Self::NoSpace).then_some(Cause::NoSpace), Some(hint).filter(|hint| !hint.is_empty()))
    }
}

/// What curl says, 7.x and 8.x, where it is not an HTTP status.
const CURL: [(Refusal, &[&str]); 3] = [
    (Refusal::NotThere, &["Couldn't open file", "Could not open file"]),
    (Refusal::NoSpace, &["Failure writing output to destination", "No space left"]),
    (
        Refusal::Certificate,
        &[
            "SSL certificate",
            "SSL: certificate",
            "SSL: no alternative certificate",
            "SSL: unable to obtain",
            "SSL peer certificate",
            "SSL CA cert",
            "setting certificate",
            "certificate verify failed",
        ],
    ),
];

impl Refusal {
    fn of(why: &str) -> Self {
        const STATUS: &str = "The requested URL returned error: ";
        if let Some((_, status)) = why.split_once(STATUS) {
            return match status.get(..3) {
                Some("401" | "403" | "407" | "451") => Self::Unauthorized,
                Some("404" | "410") => Self::NotThere,
                _ => Self::Trouble,
            };
        }
        let is = |(_, words): &&(_, &[&str])| words.iter().any(|words| why.contains(words));
        CURL.iter().find(is).map_or(Self::Trouble, |row| row.0)
    }

    /// Returns the code and the cause of a failure that says it, and what to do about it.
    #[must_use]
    pub fn says(self) -> (Code, Option<Cause>, &'static str) {
        match self {
            Self::Trouble => (Code::Network, None, MIRROR),
            Self::NotThere => (Code::Network, Some(Cause::NotOnServer), MIRROR),
            Self::Unauthorized => (Code::Failed, Some(Cause::Unauthorized), NO_ACCESS),
            Self::Certificate => (Code::Failed, Some(Cause::Certificate), CERTIFICATE),
            Self::NoSpace => (Code::Failed, Some(Cause::NoSpace), NO_SPACE),
        }
    }
}

/// Returns the repository whose database an error of [`Trouble::DatabaseUnreadable`] is about.
#[must_use]
pub fn unreadable(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix("could not read db '") {
        return rest.split('\'').next();
    }
    let (path, _) = text.split_once(".db: ")?;
    path.rsplit('/').next()
}

/// Why a scriptlet or hook could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// There is no such file, or not the program that interprets it.
    NoFile,
    /// It is a program of another architecture.
    WrongFormat,
    /// Anything else.
    Other,
}

/// Returns why a command was not started, where the line says so.
#[must_use]
pub fn not_started(line: &str) -> Option<NotStarted> {
    let why = line.strip_prefix("call to execv failed (")?;
    Some(match why.strip_suffix(')') {
        Some("No such file or directory") => NotStarted::NoFile,
        Some("Exec format error") => NotStarted::WrongFormat,
        _ => NotStarted::Other,
    })
}

/// Returns whether a line is an error or a warning.
#[must_use]
pub fn is_message(line: &str) -> bool {
    line.starts_with("error:") || line.starts_with("warning:")
}

/// Returns what a line of output means, where it matters. `line` is without what drives a terminal.
#[must_use]
pub fn read(line: &str) -> Option<OutputEvent> {
    let line = after_question(line);
    if let Some(error) = line.strip_prefix("error: ") {
        return Some(of_error(error));
    }
    if let Some(warning) = line.strip_prefix("warning: ") {
        return of_warning(warning);
    }
    if let Some(text) = line.strip_prefix(":: ") {
        if let Some((file, _)) = text.strip_prefix("File ").and_then(|text| text.split_once(" is corrupted (")) {
            return Some(OutputEvent::Corrupted(file.to_owned()));
        }
        return of_list(text).map(|reason| OutputEvent::Reason(reason, text.to_owned()));
    }
    if let Some(reason) = of_files(line) {
        return Some(OutputEvent::Reason(reason, line.to_owned()));
    }
    of_progress(line)
}

/// Returns what follows a question: pacman answers it itself, and continues in the same line if stdout is not a terminal.
fn after_question(line: &str) -> &str {
    let rest = ["? [y/N] ", "? [Y/n] "].iter().find_map(|question| line.split_once(question));
    rest.map(|(_, rest)| rest).filter(|rest| is_message(rest)).unwrap_or(line)
}

fn of_error(text: &str) -> OutputEvent {
    // `command failed to execute correctly`, `command terminated by signal 9: Killed`.
    if text.starts_with("command ") {
        return OutputEvent::CommandFailed(text.to_owned());
    }
    // `failed retrieving file 'core.db' from HOST : WHY`; HOST is `disk` for file://.
    let retrieved = text.strip_prefix("failed retrieving file '").and_then(|rest| rest.split_once("' "));
    match retrieved {
        Some((file, why)) => OutputEvent::NotRetrieved(NotRetrieved {
            file: file.to_owned(),
            why: Refusal::of(why),
            text: text.to_owned(),
        }),
        None => OutputEvent::Error(Trouble::of(text), text.to_owned()),
    }
}

fn of_warning(text: &str) -> Option<OutputEvent> {
    if let Some(rest) = text.strip_prefix("warning given when extracting ") {
        return not_extracted(rest);
    }
    if let Some(package) = text.strip_prefix("ignoring package ") {
        let words = package.split_whitespace().count();
        return (words == 1).then(|| OutputEvent::Ignored(package.to_owned()));
    }
    let (file, new) = text.split_once(" installed as ")?;
    (new.strip_suffix(".pacnew") == Some(file)).then(|| OutputEvent::SavedBeside(file.to_owned()))
}

/// Reads `FILE (REASON)` of a file that pacman could not extract: libarchive calls it a warning when it cannot make a file or
/// write all of it. If a file system has no owners, modes or attributes, it says the same of those; then the file is there, and
/// `verify` finds the rest.
fn not_extracted(text: &str) -> Option<OutputEvent> {
    // As in libarchive's archive_write_disk_posix.c and archive_acl.c.
    const OF_METADATA: [&str; 7] = [
        "Can't set ",
        "Can't restore ",
        "Can't update ",
        "Cannot restore ",
        "Failed to set ",
        "Failed to restore ",
        "Invalid extended attribute",
    ];
    let (file, reason) = text.strip_suffix(')')?.split_once(" (")?;
    let harmless = OF_METADATA.iter().any(|begin| reason.starts_with(begin));
    (!harmless).then(|| OutputEvent::NotExtracted(file.to_owned(), reason.to_owned()))
}

/// Reads a line that begins with `:: ` after "failed to prepare transaction".
fn of_list(text: &str) -> Option<Reason> {
    if text.starts_with("package ") && text.ends_with(" does not have a valid architecture") {
        return Some(Reason::Architecture);
    }
    let breaks =
        ["installing ", "removing "].iter().any(|verb| text.starts_with(verb) && text.contains(" breaks dependency '"));
    if breaks || text.starts_with("unable to satisfy dependency '") {
        return Some(Reason::Dependency);
    }
    // `a-1-1 and b-1-1 are in conflict (b<2)`; 6.0 has no versions. With a full stop it is a question.
    let (names, rest) = text.split_once(" are in conflict")?;
    let ends = rest.is_empty() || rest.starts_with(" (") && rest.ends_with(')');
    (ends && names.contains(" and ")).then_some(Reason::Conflict)
}

/// Reads a line that does not begin with `:: ` after "failed to commit transaction".
fn of_files(line: &str) -> Option<Reason> {
    if line.starts_with('/') && line.contains(" exists in both '") && line.ends_with('\'') {
        return Some(Reason::FileOfTwo);
    }
    if line.contains(": /") {
        if line.ends_with(" exists in filesystem") {
            return Some(Reason::FileExists);
        }
        if line.contains(" exists in filesystem (owned by ") && line.ends_with(')') {
            return Some(Reason::FileOfTwo);
        }
    }
    line.ends_with(" is invalid or corrupted").then_some(Reason::Damaged)
}

/// Reads `installing bash...`, `( 3/10) installing bash  [###] 100%` and `( 3/10) Creating users...`.
fn of_progress(line: &str) -> Option<OutputEvent> {
    let counted = line.strip_prefix('(').and_then(|rest| {
        let (count, text) = rest.split_once(')')?;
        let (number, all) = count.split_once('/')?;
        let number: u32 = number.trim_start().parse().ok()?;
        all.bytes().all(|b| b.is_ascii_digit() || b == b' ').then(|| (number, text.trim_start()))
    });
    let text = counted.map_or(line, |(_, text)| text);
    if let Some((verb, rest)) = text.split_once(' ')
        && ["installing", "upgrading", "reinstalling", "downgrading"].contains(&verb)
        && let Some(name) = rest.split_whitespace().next()
    {
        return Some(OutputEvent::Package(name.trim_end_matches("...").to_owned()));
    }
    let (number, text) = counted?;
    let description = text.split("  ").next()?.trim_end();
    Some(OutputEvent::Hook(number, description.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_cannot_be_read_has_a_name() {
        for (text, repo) in [
            ("could not read db 'core' (Truncated tar archive)", Some("core")),
            ("could not open file /r/var/lib/pacman/sync/core.db: truncated gzip input", Some("core")),
            ("could not open file /r/core.db: Unrecognized archive format", Some("core")),
            ("could not open file /c/x.pkg.tar: Unrecognized archive format", None),
        ] {
            assert_eq!(Trouble::of(text), Trouble::DatabaseUnreadable, "{text}");
            assert_eq!(unreadable(text), repo, "{text}");
        }
    }

    #[test]
    fn what_was_not_extracted_is_no_mere_warning() {
        for (reason, is) in [
            ("Could not chdir /r/usr", true),
            ("Write failed", true),
            ("Can't create '/r/usr/x'", true),
            ("Can't set permissions to 0644", false),
            ("Can't set user=0/group=0 for /r/x", false),
            ("Cannot restore extended attributes on this file system.", false),
        ] {
            let line = format!("warning: warning given when extracting /r/usr/x ({reason})");
            let expected = OutputEvent::NotExtracted("/r/usr/x".into(), reason.into());
            assert_eq!(read(&line), is.then_some(expected), "{reason}");
        }
    }

    #[test]
    fn each_list_that_pacman_prints_has_a_kind() {
        for (line, reason) in [
            ("plain: /r/usr/share/a b exists in filesystem", Reason::FileExists),
            ("three: /r/usr/share/same exists in filesystem (owned by two)", Reason::FileOfTwo),
            ("/r/usr/same exists in both 'two' and 'three'", Reason::FileOfTwo),
            (":: fights and plain are in conflict", Reason::Conflict),
            (":: versus-1-1 and plain-1-1 are in conflict (plain<2)", Reason::Conflict),
            (":: unable to satisfy dependency 'x>=3' required by lacks", Reason::Dependency),
            (":: installing a (2-1) breaks dependency 'a=1' required by b", Reason::Dependency),
            (":: removing a breaks dependency 'a' required by b", Reason::Dependency),
            (":: package x-1-1-aarch64 does not have a valid architecture", Reason::Architecture),
            ("x-1-1-any.pkg.tar.zst is invalid or corrupted", Reason::Damaged),
        ] {
            let text = line.strip_prefix(":: ").unwrap_or(line);
            let expected = Some(OutputEvent::Reason(reason, text.to_owned()));
            assert_eq!(read(line), expected, "{line}");
        }
        for other in [
            ":: fights-1-1 and plain-1-1 are in conflict. Remove plain? [y/N] ",
            ":: Synchronizing package databases...",
            "it exists in filesystem",
            "checking for file conflicts...",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn an_error_behind_a_question_is_an_error() {
        let line = ":: a and b are in conflict. Remove b? [y/N] error: unresolvable package conflicts detected";
        let text = "unresolvable package conflicts detected".to_owned();
        assert_eq!(read(line), Some(OutputEvent::Error(Trouble::Conflict, text)));
    }

    #[test]
    fn why_a_server_gave_nothing() {
        let status = "The requested URL returned error: ";
        for (why, expected) in [
            (format!("{status}401"), Refusal::Unauthorized),
            (format!("{status}403 Forbidden"), Refusal::Unauthorized),
            (format!("{status}407"), Refusal::Unauthorized),
            (format!("{status}404"), Refusal::NotThere),
            (format!("{status}410"), Refusal::NotThere),
            (format!("{status}429"), Refusal::Trouble),
            (format!("{status}503"), Refusal::Trouble),
            ("Couldn't open file /x".into(), Refusal::NotThere),
            ("SSL certificate problem: self-signed certificate".into(), Refusal::Certificate),
            (
                "SSL: no alternative certificate subject name matches target ipv4 address '127.0.0.1'".into(),
                Refusal::Certificate,
            ),
            ("Failure writing output to destination, passed 9 returned 0".into(), Refusal::NoSpace),
            ("Could not resolve host: nosuch.invalid".into(), Refusal::Trouble),
            ("Couldn't connect to server".into(), Refusal::Trouble),
            ("Operation too slow. Less than 1 bytes/sec transferred the last 10 seconds".into(), Refusal::Trouble),
        ] {
            let line = format!("error: failed retrieving file 'core.db' from h : {why}");
            let Some(OutputEvent::NotRetrieved(NotRetrieved { file, why: is, .. })) = read(&line) else {
                panic!("{line}");
            };
            assert_eq!((file.as_str(), is), ("core.db", expected), "{why}");
        }
    }

    #[test]
    fn words_are_of_the_first_error_that_has_them() {
        for trouble in Trouble::ALL {
            for words in trouble.row().1 {
                assert_eq!(Trouble::of(words), *trouble, "{words}");
            }
        }
        assert_eq!(Trouble::Other.says(), (Code::ChildFailed, None, None));
    }

    #[test]
    fn why_a_command_could_not_be_started() {
        let why = |text: &str| not_started(&format!("call to execv failed ({text})"));
        assert_eq!(why("Exec format error"), Some(NotStarted::WrongFormat));
        assert_eq!(why("No such file or directory"), Some(NotStarted::NoFile));
        assert_eq!(why("Permission denied"), Some(NotStarted::Other));
        assert_eq!(not_started("No such file or directory"), None);
    }
}

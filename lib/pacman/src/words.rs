//! What pacman's failure is, by its words; its exit status is 1 for all of them.

use crate::output::Mark;
use rootfs::Ended;
use stage::{Cause, Code, Failure, message};

/// Words of an error, the code of a failure that says them, and what mends it. What is more particular comes first.
const WORDS: &[(&str, Code, Option<&str>)] = &[
    (
        "keyring is not writable",
        Code::NotVerified,
        Some("put 'keyring' before 'strap'"),
    ),
    (
        "unknown trust",
        Code::NotVerified,
        Some("the key is in the keyring but not trusted: a newer keyring package may mend it"),
    ),
    (
        "marginal trust",
        Code::NotVerified,
        Some("too few masters vouch for the key: a newer keyring package may mend it"),
    ),
    (
        "required key missing",
        Code::NotVerified,
        Some("the signing key is missing or expired: a newer keyring package may mend it"),
    ),
    (
        "missing required signature",
        Code::NotVerified,
        Some("the mirror offers it unsigned: try another mirror: mkconf --server URL"),
    ),
    (
        "key \"",
        Code::NotVerified,
        Some("the key that signed it may not be used: a newer keyring package may mend it"),
    ),
    (
        "(PGP signature)",
        Code::NotVerified,
        Some("its signature does not hold: nothing was installed"),
    ),
    (
        "invalid or corrupted",
        Code::NotVerified,
        Some(
            "the mirror sent something else than its database promises: try again, or another mirror",
        ),
    ),
    // A database that is a web page: then every package of it is "not found".
    (
        "Unrecognized archive format",
        Code::Network,
        Some("try again, or another mirror: mkconf --server URL"),
    ),
    (
        "target not found",
        Code::NotFound,
        Some("look at the spelling, and at the repositories of mkconf"),
    ),
    (
        "No space left",
        Code::Failed,
        Some("free some space and run the same pipe again: it goes on where it stopped"),
    ),
    // libarchive's words for a file that could not be written whole; the reason gets lost in pacman (6.0.2).
    (
        "(Write failed)",
        Code::Failed,
        Some(
            "the disk may be full: free some space and run the same pipe again: it goes on where it stopped",
        ),
    ),
    // curl's, in 7.x and 8.x, for the same.
    (
        "Failure writing output to destination",
        Code::Failed,
        Some(
            "the disk of the package cache may be full: free some space and run the same pipe again: it goes on where it stopped",
        ),
    ),
    (
        "exists in filesystem",
        Code::Failed,
        Some("a file is there that no package owns: remove it, or begin with a new root"),
    ),
    (
        "failed retrieving file",
        Code::Network,
        Some("try again, or another mirror: mkconf --server URL"),
    ),
    (
        "failed to synchronize",
        Code::Network,
        Some("try again, or another mirror: mkconf --server URL"),
    ),
    (
        "failed to update",
        Code::Network,
        Some("try again, or another mirror: mkconf --server URL"),
    ),
    ("unable to lock database", Code::Busy, None),
];

/// Finds the failure in what pacman said.
#[must_use]
pub(crate) fn explain(marks: &[Mark], ended: Ended) -> Failure {
    let errors: Vec<&str> = marks
        .iter()
        .filter_map(|m| match m {
            Mark::Error(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    if let Some(failure) = unsigned(&errors) {
        return failure;
    }
    let said = WORDS
        .iter()
        .find(|(words, ..)| errors.iter().any(|e| e.contains(words)));
    let (code, hint) = said.map_or((Code::ChildFailed, None), |(_, code, hint)| (*code, *hint));
    let line = said
        .and_then(|(words, ..)| errors.iter().find(|e| e.contains(words)))
        .or(errors.last());
    let message = match line {
        Some(line) => format!("{}: {}", ended.words(), message::escape(line)),
        None => ended.words(),
    };
    let mut failure = Failure::new(code, message);
    failure.cause = line.and_then(|line| cause(line));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Returns whether curl says that a server does not have a file: by an HTTP status, or for `file://`.
pub(crate) fn is_not_on_server(why: &str) -> bool {
    why.ends_with(" 404") || why.contains("Couldn't open file")
}

/// Returns the cause that an error of pacman's shows.
fn cause(line: &str) -> Option<Cause> {
    const FULL: [&str; 3] = [
        "No space left",
        "(Write failed)",
        "Failure writing output to destination",
    ];
    if line.starts_with("failed retrieving file") && is_not_on_server(line) {
        return Some(Cause::NotOnServer);
    }
    FULL.iter()
        .any(|words| line.contains(words))
        .then_some(Cause::NoSpace)
}

/// Says that the mirror has the file and not its signature: to pacman that is one more file that it could not get, as if
/// trying again would help.
fn unsigned(errors: &[&str]) -> Option<Failure> {
    let mut files = errors
        .iter()
        .filter_map(|e| e.strip_prefix("failed retrieving file '"));
    let mut names = Vec::new();
    let all = files.all(|rest| {
        let Some((name, why)) = rest.split_once("' ") else {
            return false;
        };
        let Some(signed) = name.strip_suffix(".sig") else {
            return false;
        };
        names.push(signed);
        is_not_on_server(why)
    });
    let first = *names.first().filter(|_| all)?;
    names.sort_unstable();
    names.dedup();
    let more = match names.len() - 1 {
        0 => String::new(),
        n => format!(" (and for {n} more)"),
    };
    Some(
        Failure::new(
            Code::NotVerified,
            format!(
                "the mirror has no signature for '{}'{more}",
                message::escape(first)
            ),
        )
        .hint("nothing was installed; try another mirror: mkconf --server URL"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(errors: &[&str]) -> Failure {
        let marks: Vec<_> = errors.iter().map(|e| Mark::Error((*e).into())).collect();
        explain(&marks, Ended::Exited(1))
    }

    #[test]
    fn pacmans_words_become_codes() {
        for (words, code) in [
            (
                "failed to commit transaction (invalid or corrupted package (PGP signature))",
                Code::NotVerified,
            ),
            (
                "nano: signature from \"X\" is unknown trust",
                Code::NotVerified,
            ),
            ("target not found: nono", Code::NotFound),
            (
                "could not open file /r/core.db: Unrecognized archive format",
                Code::Network,
            ),
            (
                "failed retrieving file 'core.db' from h : Connection refused",
                Code::Network,
            ),
            ("could not extract /r/usr/x (Write failed)", Code::Failed),
            (
                "failed retrieving file 'a' from h : Failure writing output to destination, passed 9 returned 0",
                Code::Failed,
            ),
            ("problem occurred while installing x", Code::ChildFailed),
        ] {
            let failure = failure(&[words]);
            assert_eq!(failure.code, code, "{words}");
            assert_eq!(failure.message, format!("exit status 1: {words}"));
        }
        assert_eq!(
            explain(&[], Ended::Signalled(9)).message,
            "killed by signal 9 (SIGKILL)"
        );
    }

    #[test]
    fn what_is_more_particular_is_what_is_said() {
        let failure = failure(&[
            "nano: signature from \"X\" is unknown trust",
            "failed to commit transaction (invalid or corrupted package (PGP signature))",
        ]);
        assert!(failure.message.ends_with("is unknown trust"), "{failure}");
    }

    #[test]
    fn a_mirror_without_signatures_is_no_network_that_is_down() {
        let lost =
            |file: &str, why: &str| format!("failed retrieving file '{file}' from h : {why}");
        let (status, refused) = (
            "The requested URL returned error: 404",
            "Connection refused",
        );
        let last = "failed to commit transaction (failed to retrieve some files)";
        for (lines, code, said) in [
            (
                vec![lost("a.sig", status)],
                Code::NotVerified,
                "no signature for 'a'",
            ),
            (
                // Two servers, two files.
                vec![
                    lost("a.sig", status),
                    lost("b.sig", status),
                    lost("a.sig", status),
                ],
                Code::NotVerified,
                "no signature for 'a' (and for 1 more)",
            ),
            (vec![lost("a.sig", refused)], Code::Network, refused),
            (
                vec![lost("a", status), lost("a.sig", status)],
                Code::Network,
                status,
            ),
        ] {
            let mut errors: Vec<&str> = lines.iter().map(String::as_str).collect();
            errors.push(last);
            let failure = failure(&errors);
            assert_eq!(failure.code, code, "{errors:?}");
            assert!(failure.message.contains(said), "{failure}");
        }
        // Which leaves a failure that has nothing to do with files.
        assert_eq!(failure(&["target not found: nono"]).code, Code::NotFound);
    }
}

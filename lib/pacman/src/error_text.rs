//! Why pacman failed, by what it printed ([`crate::english`]); its exit status is 1 for all reasons.

use crate::english::{NotRetrieved, OutputEvent, Reason, Refusal, Trouble};
use rootfs::Ended;
use stage::{Cause, Code, Failure, message};

/// How many of a list of reasons are in the message.
const REASONS: usize = 3;

/// Returns the failure that pacman's output tells of. `hook` is the one that the log names last, where a hook ended the
/// transaction.
#[must_use]
pub(crate) fn failure(events: &[OutputEvent], ended: Ended, hook: Option<&str>) -> Failure {
    let lost = events.iter().filter_map(|event| match event {
        OutputEvent::NotRetrieved(lost) => Some(lost),
        _ => None,
    });
    let lost: Vec<&NotRetrieved> = lost.collect();
    if let Some(failure) = unsigned(&lost) {
        return failure;
    }
    let worst = events.iter().filter_map(trouble).min();
    // What could not be downloaded says more than that something could not be.
    let is_retrieval = worst.is_none_or(|worst| worst >= Trouble::Retrieval);
    if let Some(lost) = most_lasting(&lost).filter(|_| is_retrieval) {
        let message = format!("{}: {}", ended.words(), message::escape(&lost.text));
        let (code, cause, hint) = lost.why.says();
        return Failure { cause, ..Failure::new(code, message).hint(hint) };
    }
    let Some(worst) = worst else {
        return Failure::new(Code::ChildFailed, ended.words());
    };
    let reasons = reasons(events, worst);
    let mut of_it = events.iter().filter_map(|event| match event {
        OutputEvent::Error(trouble, text) if *trouble == worst => Some(text),
        _ => None,
    });
    // The list stands below the last of them; where there is none, the first is the most particular, or all there is.
    let is_last = worst == Trouble::Other || !reasons.is_empty();
    let text = if is_last { of_it.next_back() } else { of_it.next() };
    let mut message = ended.words();
    if let Some(text) = text {
        message += &format!(": {}", message::escape(text));
    }
    if let (Trouble::Hook | Trouble::HookUnready, Some(hook)) = (worst, hook) {
        message += &format!(": the hook '{}'", message::escape(hook));
    }
    if !reasons.is_empty() {
        let shown = reasons.iter().take(REASONS);
        let shown: Vec<String> = shown.map(|(_, text)| message::escape(text)).collect();
        let more = and_more(reasons.len().saturating_sub(REASONS));
        message += &format!(": {}{more}", shown.join("; "));
    } else if matches!(worst, Trouble::PackageSignature | Trouble::Damaged) {
        message += &corrupted(events);
    }
    let (code, cause, hint) = worst.says();
    let hint = hint_of_reasons(events, worst, &reasons).or(hint);
    let exists = reasons.iter().any(|(reason, _)| *reason == Reason::FileExists);
    let cause = cause.or(exists.then_some(Cause::FileExists));
    Failure { cause, hint: hint.map(str::to_owned), ..Failure::new(code, message) }
}

/// Returns how many more there are than those that a message names: nothing for none.
#[must_use]
pub fn and_more(n: usize) -> String {
    match n {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    }
}

/// Returns how many there are of something: `1 key`, `2 keys`.
#[must_use]
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Returns the first `max` of a list, for a line, and how many more there are.
#[must_use]
pub fn first_few(list: &[String], max: usize) -> String {
    let shown = list[..list.len().min(max)].join(", ");
    match list.len().saturating_sub(max) {
        0 => shown,
        n => format!("{shown} and {n} more"),
    }
}

fn trouble(event: &OutputEvent) -> Option<Trouble> {
    match event {
        OutputEvent::Error(trouble, _) => Some(*trouble),
        _ => None,
    }
}

/// Returns the file that stands for all that could not be downloaded: a full disk first, then what may go away, as then the
/// whole may; and else what is least likely to.
fn most_lasting<'a>(lost: &[&'a NotRetrieved]) -> Option<&'a NotRetrieved> {
    let first = |why| lost.iter().find(|one| one.why == why).copied();
    let last = || first(lost.iter().map(|one| one.why).max()?);
    first(Refusal::NoSpace).or_else(|| first(Refusal::Trouble)).or_else(last)
}

/// Returns the list that pacman printed below an error.
fn reasons(events: &[OutputEvent], trouble: Trouble) -> Vec<(Reason, &str)> {
    let last = |event: &OutputEvent| self::trouble(event) == Some(trouble);
    let below = events.iter().rposition(last).map_or(0, |at| at + 1);
    let list = events[below..].iter().filter_map(|event| match event {
        OutputEvent::Reason(reason, text) if reason.is_below(trouble) => Some((*reason, text.as_str())),
        _ => None,
    });
    list.collect()
}

/// Returns the names of the files that pacman asked whether to remove.
fn corrupted(events: &[OutputEvent]) -> String {
    let files = events.iter().filter_map(|event| match event {
        OutputEvent::Corrupted(path) => path.rsplit('/').next(),
        _ => None,
    });
    let files: Vec<&str> = files.collect();
    files
        .split_first()
        .map_or(String::new(), |(first, rest)| format!(": '{}'{}", message::escape(first), and_more(rest.len())))
}

/// Returns what to do, where that is not the same for all errors of a kind.
fn hint_of_reasons(events: &[OutputEvent], trouble: Trouble, reasons: &[(Reason, &str)]) -> Option<&'static str> {
    let ignores = |event: &OutputEvent| matches!(event, OutputEvent::Ignored(_));
    match (trouble, reasons.first()) {
        (Trouble::FileConflict, Some((Reason::FileOfTwo, _))) => {
            Some("two packages have the same file: leave one of them out")
        }
        (Trouble::FileConflict, _) => Some("a file is there that no package owns: remove it, or begin with a new root"),
        (Trouble::Dependency, Some((_, text))) if text.starts_with("removing ") => {
            Some("a package that is installed needs it: remove that, too")
        }
        (Trouble::Dependency, _) if events.iter().any(ignores) => {
            Some("the configuration has pacman ignore it (IgnorePkg, IgnoreGroup): mkconf --set IgnorePkg=...")
        }
        _ => None,
    }
}

/// Says that the mirror has the file and not its signature: to pacman that is one more file that it could not download, as if
/// trying again would help.
fn unsigned(lost: &[&NotRetrieved]) -> Option<Failure> {
    let mut names = Vec::new();
    for lost in lost {
        let signed = lost.file.strip_suffix(".sig")?;
        if lost.why != Refusal::NotThere {
            return None;
        }
        names.push(signed);
    }
    let first = message::escape(names.first()?);
    names.sort_unstable();
    names.dedup();
    let more = match names.len() - 1 {
        0 => String::new(),
        n => format!(" (and for {n} more)"),
    };
    let message = format!("the mirror has no signature for '{first}'{more}");
    Some(
        Failure::new(Code::NotVerified, message).hint("nothing was installed; try another mirror: mkconf --server URL"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::english;
    use stage::Cause;

    fn failure(errors: &[&str]) -> Failure {
        let lines = errors.iter().map(|error| format!("error: {error}"));
        said(&lines.collect::<Vec<_>>().join("\n"))
    }

    fn said(output: &str) -> Failure {
        let events: Vec<_> = output.lines().filter_map(english::read).collect();
        super::failure(&events, Ended::Exited(1), None)
    }

    #[test]
    fn pacmans_words_become_codes() {
        for (words, code) in [
            ("failed to commit transaction (invalid or corrupted package (PGP signature))", Code::NotVerified),
            ("nano: signature from \"X\" is unknown trust", Code::NotVerified),
            ("target not found: nono", Code::NotFound),
            ("could not open file /r/core.db: Unrecognized archive format", Code::Network),
            ("failed retrieving file 'core.db' from h : Connection refused", Code::Network),
            ("could not extract /r/usr/x (Write failed)", Code::Failed),
            (
                "failed retrieving file 'a' from h : Failure writing output to destination, passed 9 returned 0",
                Code::Failed,
            ),
            ("could not open file /r/var/lib/pacman/sync/t.db: truncated gzip input", Code::Network),
            ("problem occurred while installing x", Code::ChildFailed),
        ] {
            let failure = failure(&[words]);
            assert_eq!(failure.code, code, "{words}");
            assert_eq!(failure.message, format!("exit status 1: {words}"));
        }
        assert_eq!(super::failure(&[], Ended::Signalled(9), None).message, "killed by signal 9 (SIGKILL)");
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
        let lost = |file: &str, why: &str| format!("failed retrieving file '{file}' from h : {why}");
        let (status, refused) = ("The requested URL returned error: 404", "Connection refused");
        let last = "failed to commit transaction (failed to retrieve some files)";
        for (lines, code, said) in [
            (vec![lost("a.sig", status)], Code::NotVerified, "no signature for 'a'"),
            (
                // A database; pacman then says what it lacks by the repository's name.
                vec![lost("core.db.sig", status), "core: missing required signature".into()],
                Code::NotVerified,
                "no signature for 'core.db'",
            ),
            (
                // Two servers, two files.
                vec![lost("a.sig", status), lost("b.sig", status), lost("a.sig", status)],
                Code::NotVerified,
                "no signature for 'a' (and for 1 more)",
            ),
            (vec![lost("a.sig", refused)], Code::Network, refused),
            (vec![lost("a", status), lost("a.sig", status)], Code::Network, status),
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

    #[test]
    fn the_list_below_an_error_is_in_the_message() {
        for (output, message, hint) in [
            (
                "error: failed to commit transaction (conflicting files)\n\
                 plain: /r/usr/share/plain exists in filesystem\nErrors occurred, no packages were upgraded.",
                "failed to commit transaction (conflicting files): plain: /r/usr/share/plain exists in filesystem",
                "a file is there that no package owns: remove it, or begin with a new root",
            ),
            (
                "error: failed to commit transaction (conflicting files)\n\
                 /r/same exists in both 'two' and 'three'\na: /r/b exists in filesystem\n\
                 a: /r/c exists in filesystem\na: /r/d exists in filesystem",
                "failed to commit transaction (conflicting files): /r/same exists in both 'two' and 'three'; \
                 a: /r/b exists in filesystem; a: /r/c exists in filesystem (and 1 more)",
                "two packages have the same file: leave one of them out",
            ),
            (
                ":: a and b are in conflict. Remove b? [y/N] error: unresolvable package conflicts detected\n\
                 error: failed to prepare transaction (conflicting dependencies)\n\n:: a and b are in conflict",
                "failed to prepare transaction (conflicting dependencies): a and b are in conflict",
                "leave one of them out; one that is installed goes with strap --replace PKG",
            ),
            (
                "warning: ignoring package needed-1-1\n\
                 error: failed to prepare transaction (could not satisfy dependencies)\n\
                 :: unable to satisfy dependency 'virt' required by wants",
                "failed to prepare transaction (could not satisfy dependencies): \
                 unable to satisfy dependency 'virt' required by wants",
                "the configuration has pacman ignore it (IgnorePkg, IgnoreGroup): mkconf --set IgnorePkg=...",
            ),
        ] {
            let failure = said(output);
            assert_eq!(failure.message, format!("exit status 1: {message}"));
            assert_eq!(failure.hint.as_deref(), Some(hint));
            assert_eq!(failure.code, Code::Failed);
        }
        // Where a scriptlet prints what looks like one, it stands before the error.
        let failure = said(
            "other: /etc/passwd exists in filesystem\nerror: failed to commit transaction (conflicting files)\n\
             a: /r/b exists in filesystem",
        );
        assert!(!failure.message.contains("other"), "{failure}");
    }

    #[test]
    fn what_may_go_away_is_told_from_what_does_not() {
        let lost = |why: &str| format!("failed retrieving file 'core.db' from h : {why}");
        let status = |n: u16| lost(&format!("The requested URL returned error: {n}"));
        let certificate = lost("SSL certificate problem: self-signed certificate");
        let down = lost("Could not resolve host: h");
        for (errors, code, cause) in [
            (vec![status(401)], Code::Failed, Some(Cause::Unauthorized)),
            (vec![status(404), status(403)], Code::Failed, Some(Cause::Unauthorized)),
            (vec![certificate.clone()], Code::Failed, Some(Cause::Certificate)),
            (vec![status(404)], Code::Network, Some(Cause::NotOnServer)),
            (vec![down.clone()], Code::Network, None),
            (vec![status(503)], Code::Network, None),
            // One of two mirrors may come back.
            (vec![certificate, down, status(403)], Code::Network, None),
        ] {
            let mut errors: Vec<&str> = errors.iter().map(String::as_str).collect();
            errors.push("failed to synchronize all databases (failed to retrieve some files)");
            let failure = failure(&errors);
            assert_eq!((failure.code, failure.cause), (code, cause), "{errors:?}");
            assert!(failure.hint.is_some());
        }
    }
}

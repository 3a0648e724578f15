//! Reports what was found, to people and in the document.

use crate::check::{Checked, DISK};
use crate::files::Files;
use crate::installed::Subject;
use crate::transaction::Last;
use pacman::diagnosis::report::{Problem, problems};
use pacman::diagnosis::{self, Diagnosis, Verdict};
use pacman::{and_more, first_few};
use serde_json::{Map, json};
use stage::members::{TreeFile, Unowned, VerifiedPackage, VerifiedTree, Verify};
use stage::{Cause, Code, Document, Failure, message};
use std::collections::BTreeSet;

/// How many files stand in a line, how many lines on stderr, and how many paths of one package in the document.
const NAMES: usize = 3;
const LINES: usize = 20;
const PATHS: usize = 100;

/// The words of `packages[].files`.
const FILES: [&str; 5] = ["intact", "changed", "missing", "unread", "unknown"];

/// Writes it down in the document.
pub(crate) fn record(
    document: &mut Document,
    subjects: &[Subject],
    checked: &[Checked],
    last: Last,
    fetched: usize,
    unowned: Option<Unowned>,
) {
    let packages: Vec<VerifiedPackage> =
        subjects.iter().zip(checked).map(|(subject, checked)| record_of(subject, checked)).collect();
    let count = |words: &[&str], of: fn(&VerifiedPackage) -> Option<&String>| {
        let found: Vec<&String> = packages.iter().filter_map(of).collect();
        let number = |word: &str| json!(found.iter().filter(|w| **w == word).count());
        // Every word, also those that do not occur.
        let all = words.iter().map(|w| ((*w).to_owned(), number(w)));
        (!found.is_empty()).then(|| all.collect::<Map<_, _>>())
    };
    document.write(&packages);
    let changed: usize = files(checked).map(|f| f.configuration.len()).sum();
    let file_counts = count(&FILES, |p| p.files.as_ref());
    document.write(&Verify {
        packages: packages.len(),
        transaction: last.word().to_owned(),
        fetched,
        signatures: count(&Verdict::WORDS, |p| p.signature.as_ref()),
        configuration: file_counts.as_ref().map(|_| changed),
        files: file_counts,
        tree: None,
        unowned,
        boot: Vec::new(),
    });
}

/// Writes down what was found of the files that trees brought.
pub(crate) fn record_tree(document: &mut Document, tree: &[TreeFile], found: Option<&Files>) {
    let (Some(found), Some(verify)) = (found, document.get::<Verify>()) else {
        return;
    };
    let all: BTreeSet<&str> = tree.iter().map(|file| file.path.as_str()).collect();
    let changed = found.changed.iter().chain(&found.unread).map(|change| &change.path);
    let different: BTreeSet<&String> = changed.chain(&found.missing).collect();
    let tree = VerifiedTree {
        intact: all.len().saturating_sub(different.len()),
        changed: first(Some(found), |f| &f.changed),
        missing: first(Some(found), |f| &f.missing),
        unread: first(Some(found), |f| &f.unread),
    };
    document.write(&Verify { tree: Some(tree), ..verify });
}

fn files(checked: &[Checked]) -> impl Iterator<Item = &Files> {
    checked.iter().filter_map(|c| c.files.as_ref())
}

/// Returns whether the archive that was looked at is validly signed, and the root's files are those that it has.
fn is_proven(checked: &Checked) -> bool {
    let intact = checked.files.as_ref().is_some_and(|f| f.word() == "intact");
    intact && checked.signature.as_ref().is_some_and(Diagnosis::is_valid)
}

/// Returns the first of a list, as many as the document has.
fn first<T: Clone>(files: Option<&Files>, list: fn(&Files) -> &Vec<T>) -> Vec<T> {
    let list = files.map(list).into_iter().flatten();
    list.take(PATHS).cloned().collect()
}

fn record_of(subject: &Subject, checked: &Checked) -> VerifiedPackage {
    let recorded = subject.recorded.as_ref();
    let signature = checked.signature.as_ref();
    let files = checked.files.as_ref();
    VerifiedPackage {
        name: subject.known.name.clone(),
        version: subject.known.version.clone(),
        arch: subject.arch().to_owned(),
        repo: recorded.and_then(|p| p.repo.clone()),
        // Where the document does not know, an archive that holds and that all files are of is the one.
        file: recorded.and_then(|p| p.file.clone()).or_else(|| subject.archive.clone().filter(|_| is_proven(checked))),
        sha256: recorded.and_then(|p| p.sha256.clone()),
        verified: is_verified(subject, checked),
        signature: signature.map(|s| s.verdict.word().to_owned()),
        key: signature.and_then(|s| s.key.clone()),
        files: match (files, &checked.unknown) {
            (Some(files), _) => Some(files.word().to_owned()),
            (None, Some(_)) => Some("unknown".to_owned()),
            (None, None) => None,
        },
        changed: first(files, |f| &f.changed),
        missing: first(files, |f| &f.missing),
        configuration: first(files, |f| &f.configuration),
        unread: first(files, |f| &f.unread),
    }
}

/// Returns whether what is installed is what somebody trusted has signed. What pacman checked before it installed it is,
/// unless something is wrong now; what it did not check is when both the archive and the files are right.
fn is_verified(subject: &Subject, checked: &Checked) -> bool {
    let intact = checked.files.as_ref().map(|f| f.word() == "intact");
    match (checked.signature.as_ref().map(|s| s.is_valid()), intact) {
        (Some(false), _) | (_, Some(false)) => false,
        (Some(true), Some(true)) => true,
        _ => subject.known.validation.iter().any(|v| v == "pgp"),
    }
}

/// What was found besides the packages.
#[derive(Debug)]
pub(crate) struct Beside<'a> {
    /// Invalid records, and why.
    pub(crate) torn: &'a [(String, String)],
    pub(crate) last: Last,
    /// Why archives could not be fetched.
    pub(crate) fetch: Option<Failure>,
    /// Why the log could not be read.
    pub(crate) log: Option<Failure>,
    /// What was found of the files that trees brought.
    pub(crate) tree: Option<&'a Files>,
}

/// Returns what is wrong, the worst first: a failure, with the number of others, and a line for each of those.
///
/// What is known to be wrong comes before what could not be found out. Where archives could not be fetched, that is
/// reported once, and not for each archive and signature that is missing because of it.
pub(crate) fn failure(
    subjects: &[Subject],
    checked: &[Checked],
    beside: Beside<'_>,
    now: u64,
) -> Option<(Failure, Vec<String>)> {
    let told = subjects.iter().zip(checked);
    let told = told.filter_map(|(subject, c)| Some((subject.known.name.as_str(), c.signature.as_ref()?)));
    let mut signatures = problems(told);
    let built = subjects.iter().map(|s| (s.known.built.unwrap_or(0), s.known.name.as_str()));
    let signed = checked.iter().filter_map(|c| c.signature.as_ref());
    let made = signed.filter_map(|s| Some((s.created?, s.key.as_deref()?)));
    let cause = diagnosis::clock(now, built, made).filter(|_| !signatures.is_empty());
    let by_clock = cause.is_some();
    let mut failures: Vec<Failure> = cause.into_iter().collect();
    let mut not_fetched = 0;
    if beside.fetch.is_some() {
        signatures.retain(|problem| {
            let explained = LACKING.contains(&problem.word);
            not_fetched += if explained { problem.packages.len() } else { 0 };
            !explained
        });
    }
    let not_known = [Verdict::NoArchive, Verdict::Unreadable].map(|verdict| verdict.word());
    let is_unknown = |problem: &Problem<'_>| not_known.contains(&problem.word);
    let (not_known, signatures): (Vec<_>, Vec<_>) = signatures.into_iter().partition(is_unknown);
    let is_unread = |problem: &Problem<'_>| problem.word == UNREAD;
    let changed = changed(subjects, checked).into_iter();
    let (unread, changed): (Vec<_>, Vec<_>) = changed.partition(is_unread);
    let fail = |line: String, hint: Option<String>| Failure { hint, ..Failure::new(Code::NotVerified, line) };
    let of = |problem: Problem<'_>| fail(problem.line("verifying"), problem.hint);
    for problem in signatures.into_iter().chain(changed) {
        failures.push(Failure { cause: wants_newer_keyring(problem.word).then_some(Cause::OldKeyring), ..of(problem) });
    }
    let laid = beside.tree.filter(|files| files.word() != "intact");
    let laid = laid.map(|files| (files.word(), fail(format!("verifying the tree: {}", line_of(files)), None)));
    failures.extend(laid.iter().filter(|(word, _)| *word != UNREAD).map(|(_, failure)| {
        let hint = "lay the tree again, with 'configure --tree' or 'mkroot --tree'";
        failure.clone().hint(hint)
    }));
    let again = || Some("run strap again, which repairs it, and then verify".to_owned());
    for (record, why) in beside.torn {
        let record = message::escape(record);
        failures.push(fail(format!("verifying '{record}': {why}"), again()));
    }
    if beside.last == Last::Unfinished {
        let line = "verifying the last transaction: it was begun and not completed";
        failures.push(fail(line.to_owned(), again()));
    }
    // From here on it is what could not be found out.
    failures.extend(beside.fetch.filter(|_| not_fetched > 0).map(|mut failure| {
        let are = match not_fetched {
            1 => "1 package is".to_owned(),
            n => format!("{n} packages are"),
        };
        failure.message += &format!("; {are} not verified");
        failure
    }));
    failures.extend(not_known.into_iter().map(of));
    failures.extend(beside.log);
    failures.extend(unread.into_iter().map(|problem| Failure { code: Code::Os, ..of(problem) }));
    let unread = laid.into_iter().filter(|(word, _)| *word == UNREAD);
    failures.extend(unread.map(|(_, failure)| Failure { code: Code::Os, ..failure.hint(DISK) }));
    let mut failures = failures.into_iter();
    let mut first = failures.next()?;
    let mut lines: Vec<String> = failures.map(|f| f.message).collect();
    first.message += &and_more(lines.len());
    if by_clock {
        // The rest can be trusted when the clock is right.
        lines.clear();
    }
    if lines.len() > LINES {
        let left = lines.len() - LINES;
        lines.truncate(LINES);
        lines.push(format!("and {left} more: they are in the document"));
    }
    Some((first, lines))
}

/// Returns whether a newer keyring package may have the key that a verdict's word is about, or vouch for it.
fn wants_newer_keyring(word: &str) -> bool {
    let words = [Verdict::UnknownKey, Verdict::Expired, Verdict::Marginal, Verdict::Untrusted];
    words.iter().any(|verdict| verdict.word() == word)
}

/// The words for a package whose archive or signature is not in the cache.
const LACKING: [&str; 2] = ["no-archive", "missing"];

/// The word for a package with files that could not be read, and no others that differ.
const UNREAD: &str = "unread";

/// Returns what is different in a line.
fn line_of(files: &Files) -> String {
    let line = |path: &str, what: &str| format!("'{}' {what}", message::escape(path));
    let changed = files.changed.iter().map(|c| line(&c.path, &format!("is changed ({})", c.what)));
    let missing = files.missing.iter().map(|path| line(path, "is missing"));
    let unread = files.unread.iter().map(|c| line(&c.path, &format!("cannot be read ({})", c.what)));
    first_few(&changed.chain(missing).chain(unread).collect::<Vec<String>>(), NAMES)
}

/// Groups the packages whose files differ.
fn changed<'a>(subjects: &'a [Subject], checked: &[Checked]) -> Vec<Problem<'a>> {
    let mut problems: Vec<Problem<'_>> = Vec::new();
    for (subject, checked) in subjects.iter().zip(checked) {
        let Some(files) = checked.files.as_ref().filter(|f| f.word() != "intact") else {
            continue;
        };
        let why = line_of(files);
        let word = files.word();
        // A directory may belong to many packages.
        let same = |problem: &&mut Problem<'_>| problem.word == word && problem.why == why;
        if let Some(problem) = problems.iter_mut().find(same) {
            problem.packages.push(&subject.known.name);
            let hint = "set its owner, mode and ACL as in its packages: pacman does not alter an existing directory";
            problem.hint = Some(hint.to_owned());
            continue;
        }
        let hint = match word {
            UNREAD => DISK.to_owned(),
            _ => format!(
                "reinstall it, with 'pacman -S {}' inside, or begin with a new root",
                message::escape(&subject.known.name)
            ),
        };
        problems.push(Problem { packages: vec![&subject.known.name], word, why, hint: Some(hint) });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use package::localdb::Installed;
    use stage::members::ChangedFile as Change;

    fn subject(name: &str) -> Subject {
        let known =
            Installed { name: name.into(), version: "1-1".into(), built: Some(1_700_000_000), ..Installed::default() };
        Subject { known, ..Subject::default() }
    }

    fn signed(verdict: Verdict, why: &str) -> Checked {
        Checked {
            signature: Some(Diagnosis {
                verdict,
                key: Some("K".into()),
                created: None,
                why: why.into(),
                hint: Some("h".into()),
            }),
            files: Some(Files::default()),
            unknown: None,
        }
    }

    #[test]
    fn what_could_not_be_read_comes_last() {
        let unread = Files {
            unread: vec![Change { path: "etc/x".into(), what: "Input/output error (os error 5)".into() }],
            ..Files::default()
        };
        let mut checked = vec![signed(Verdict::Valid, ""); 2];
        checked[1].files = Some(unread);
        let subjects = ["a", "b"].map(subject);
        let (first, rest) = failure(&subjects, &checked, beside(&[], Last::Complete), NOW).unwrap();
        let line = "verifying 'b': 'etc/x' cannot be read (Input/output error (os error 5))";
        assert_eq!((first.code, first.message.as_str()), (Code::Os, line));
        assert!(rest.is_empty() && first.hint.is_some_and(|hint| hint.contains("dmesg")));
        let mut document = Document::default();
        record(&mut document, &subjects, &checked, Last::Complete, 0, None);
        let found = &document.value("packages").unwrap()[1];
        assert_eq!((&found["files"], &found["verified"]), (&json!("unread"), &json!(false)));
        assert_eq!(found["unread"][0]["path"], "etc/x");
        assert_eq!(document.value("verify").unwrap()["files"]["unread"], 1);
        checked[0].files = Some(Files { missing: vec!["1".into()], ..Files::default() });
        let (first, rest) = failure(&subjects, &checked, beside(&[], Last::Complete), NOW).unwrap();
        assert_eq!((first.code, rest.as_slice()), (Code::NotVerified, &[line.to_owned()][..]));
    }

    fn beside(torn: &[(String, String)], last: Last) -> Beside<'_> {
        Beside { torn, last, fetch: None, log: None, tree: None }
    }

    const NOW: u64 = 1_795_305_600;

    #[test]
    fn what_is_wrong_comes_before_what_is_not_known() {
        let subjects = ["a", "b", "c"].map(subject);
        let mut checked =
            vec![signed(Verdict::NoArchive, "n"), signed(Verdict::Valid, ""), signed(Verdict::Missing, "m")];
        let failure = |checked: &[Checked]| {
            let beside = Beside {
                fetch: Some(Failure::new(Code::Network, "fetching: no route").hint("h")),
                log: Some(Failure::new(Code::Failed, "reading the log: x")),
                ..beside(&[], Last::Complete)
            };
            let (first, rest) = failure(&subjects, checked, beside, NOW).unwrap();
            (first.code, first.message, rest)
        };
        let down = "fetching: no route; 2 packages are not verified";
        let log = "reading the log: x".to_owned();
        assert_eq!(failure(&checked), (Code::Network, format!("{down} (and 1 more)"), vec![log.clone()]));
        checked[1] = signed(Verdict::Unreadable, "no");
        let unread = "verifying 'b': no".to_owned();
        let rest = vec![unread, log.clone()];
        assert_eq!(failure(&checked), (Code::Network, format!("{down} (and 2 more)"), rest));
        checked[1] = signed(Verdict::Bad, "it is not");
        let (code, first, rest) = failure(&checked);
        assert_eq!((code, first.as_str()), (Code::NotVerified, "verifying 'b': it is not (and 2 more)"));
        assert_eq!(rest, [down.to_owned(), log]);
    }

    #[test]
    fn one_cause_is_one_line_and_the_clock_comes_first() {
        let subjects = ["a", "b", "c", "d", "e"].map(subject);
        let mut checked = vec![signed(Verdict::Expired, "it expired"); 4];
        checked.push(signed(Verdict::Valid, ""));
        checked[4].files = Some(Files {
            changed: vec![Change { path: "usr/x".into(), what: "content".into() }],
            missing: ["1", "2", "3"].map(str::to_owned).to_vec(),
            ..Files::default()
        });
        let torn = [("t-1-1".to_owned(), "its record is cut off".to_owned())];
        let failure = |now, last| failure(&subjects, &checked, beside(&torn, last), now).unwrap();
        let (first, rest) = failure(NOW, Last::Unfinished);
        assert_eq!(first.message, "verifying 'a', 'b', 'c' and 1 more: it expired (and 3 more)");
        assert_eq!((first.code, first.hint.as_deref()), (Code::NotVerified, Some("h")));
        assert_eq!(
            rest,
            [
                "verifying 'e': 'usr/x' is changed (content), '1' is missing, '2' is missing and 1 more",
                "verifying 't-1-1': its record is cut off",
                "verifying the last transaction: it was begun and not completed",
            ]
        );
        let (first, rest) = failure(1_000_000_000, Last::Complete);
        assert!(first.message.starts_with("reading the clock: it says 2001-09-09, and '"));
        assert!(first.message.ends_with(" (and 3 more)"));
        assert!(rest.is_empty());
    }

    #[test]
    fn files_of_trees_are_findings_and_in_the_document() {
        let (subjects, checked) = ([subject("a")], [signed(Verdict::Valid, "")]);
        let change = |path: &str| Change { path: path.into(), what: "content".into() };
        let files = Files { changed: vec![change("etc/x")], missing: vec!["etc/y".into()], ..Files::default() };
        let tree = |files| Beside { tree: Some(files), ..beside(&[], Last::Complete) };
        let (first, rest) = failure(&subjects, &checked, tree(&files), NOW).unwrap();
        let line = "verifying the tree: 'etc/x' is changed (content), 'etc/y' is missing";
        assert_eq!((first.code, first.message.as_str(), rest.len()), (Code::NotVerified, line, 0));
        let unread = Files { unread: vec![change("etc/x")], ..Files::default() };
        assert_eq!(failure(&subjects, &checked, tree(&unread), NOW).unwrap().0.code, Code::Os);
        assert_eq!(failure(&subjects, &checked, tree(&Files::default()), NOW), None);
        let mut document = Document::default();
        record(&mut document, &subjects, &checked, Last::Complete, 0, None);
        let laid = ["etc/x", "etc/y", "etc/z"].map(|path| TreeFile { path: path.into(), ..TreeFile::default() });
        record_tree(&mut document, &laid, Some(&files));
        let found = &document.value("verify").unwrap()["tree"];
        assert_eq!(
            found,
            &json!({"intact": 1, "changed": [{"path": "etc/x", "what": "content"}], "missing": ["etc/y"]})
        );
    }

    #[test]
    fn all_is_well() {
        let (subjects, checked) = ([subject("a")], [signed(Verdict::Valid, "")]);
        for last in [Last::Complete, Last::Unknown] {
            assert_eq!(failure(&subjects, &checked, beside(&[], last), NOW), None);
            // A clock that is behind is no failure by itself.
            assert_eq!(failure(&subjects, &checked, beside(&[], last), 0), None);
        }
    }

    #[test]
    fn what_makes_a_package_verified() {
        let intact = || Some(Files::default());
        let changed = Some(Files { missing: vec!["x".into()], ..Files::default() });
        for (before, signature, files, after) in [
            (false, Some(Verdict::Valid), intact(), true),
            (false, Some(Verdict::Valid), None, false),
            (true, Some(Verdict::Valid), None, true),
            (true, Some(Verdict::Expired), intact(), false),
            (true, None, intact(), true),
            (false, None, intact(), false),
            (true, Some(Verdict::Valid), changed.clone(), false),
            (true, None, changed, false),
        ] {
            let mut subject = subject("a");
            subject.known.validation.extend(before.then(|| "pgp".to_owned()));
            let mut checked = signed(signature.unwrap_or(Verdict::Valid), "");
            if signature.is_none() {
                checked.signature = None;
            }
            checked.files = files;
            assert_eq!(is_verified(&subject, &checked), after, "{before} {checked:?}");
        }
    }

    #[test]
    fn the_document_says_it_package_by_package_and_in_numbers() {
        let text = r#"{"strapline":1,"packages":[{"name":"gone","version":"1-1","arch":"any","verified":true},
                {"name":"a","version":"1-1","arch":"any","verified":false,"files":"changed","org.x":1}],
            "verify":{"packages":2,"transaction":"complete","fetched":0,"org.x":2,"signatures":{"bad":9}}}"#;
        let mut document = Document::parse(text.as_bytes(), "stdin").unwrap();
        record(&mut document, &[subject("a")], &[signed(Verdict::Valid, "")], Last::Complete, 1, None);
        let packages = json!([{"name": "a", "org.x": 1, "version": "1-1", "arch": "any", "verified": true,
            "signature": "valid", "key": "K", "files": "intact"}]);
        assert_eq!(document.value("packages"), Some(&packages));
        let verify = document.value("verify").unwrap();
        assert_eq!((&verify["org.x"], &verify["fetched"]), (&json!(2), &json!(1)));
        assert_eq!((&verify["signatures"]["bad"], &verify["signatures"]["valid"]), (&json!(0), &json!(1)));
    }
}

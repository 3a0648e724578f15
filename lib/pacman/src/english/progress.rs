//! How far pacman is, from its output: the lines that it prints, and the bars that it draws while it downloads.

/// What a line says of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The repository databases are downloaded.
    Databases,
    /// So many packages are to be installed or removed.
    Planned(u64),
    /// So many bytes are to be downloaded, as pacman rounds them.
    Size(u64),
    /// It begins to decide what is to be done.
    Resolve,
    /// Packages are downloaded.
    Download,
    /// This file is downloaded, so many bytes of it by now, and it is complete or not.
    File(String, u64, bool),
    /// So many files of so many are downloaded, and so many bytes.
    Files(u64, u64, u64),
    /// It works on this before it installs anything: on so many of so many packages, if it says that.
    Check(String, Option<(u64, u64)>),
    /// The transaction begins.
    Begin,
    /// It installs or removes this package.
    Package(String),
    /// Hooks run.
    Hooks,
    /// It runs this hook, one of so many.
    Hook(u64, u64, String),
}

/// What it says at the beginning of a phase.
const PHASES: [(&str, Step); 6] = [
    (":: Synchronizing package databases...", Step::Databases),
    (":: Starting full system upgrade...", Step::Resolve),
    (":: Retrieving packages...", Step::Download),
    (":: Processing package changes...", Step::Begin),
    (":: Running pre-transaction hooks...", Step::Hooks),
    (":: Running post-transaction hooks...", Step::Hooks),
];

/// What it works on before it installs anything, and says so without a number.
const CHECKS: [&str; 8] = [
    "resolving dependencies",
    "looking for conflicting packages",
    "checking dependencies",
    "checking keyring",
    "checking package integrity",
    "loading package files",
    "checking for file conflicts",
    "checking available disk space",
];

/// What it does with a package.
const VERBS: [&str; 5] = ["installing", "upgrading", "reinstalling", "downgrading", "removing"];

/// Returns what a line says. `line` is without what drives a terminal, and may be one that is overwritten.
#[must_use]
pub fn step(line: &str) -> Option<Step> {
    if let Some((_, step)) = PHASES.iter().find(|(text, _)| *text == line) {
        return Some(step.clone());
    }
    if let Some(bar) = bar(line) {
        return of_bar(bar, line.ends_with("100%"));
    }
    if let Some(size) = line.strip_prefix(DOWNLOAD_SIZE) {
        let (number, unit) = size.trim().split_once(' ')?;
        return bytes(number, unit).map(Step::Size);
    }
    if let Some((count, _)) = plan(line).and_then(|rest| rest.split_once(')')) {
        return count.parse().ok().map(Step::Planned);
    }
    if let Some(file) = line.strip_prefix(' ').filter(|rest| !rest.starts_with(' ')) {
        let (name, complete) = match file.strip_suffix(" is up to date") {
            Some(name) => (name, true),
            None => (file.strip_suffix(" downloading...").unwrap_or(file), false),
        };
        return (!name.contains(' ')).then(|| Step::File(name.to_owned(), 0, complete));
    }
    if let Some(((done, of), text)) = counted(line) {
        return Some(Step::Hook(done, of, text.trim_end_matches("...").to_owned()));
    }
    let text = line.strip_suffix("...")?;
    if CHECKS.contains(&text) {
        return Some(Step::Check(text.to_owned(), None));
    }
    let (verb, name) = text.split_once(' ')?;
    (VERBS.contains(&verb) && !name.contains(' ')).then(|| Step::Package(name.to_owned()))
}

/// Returns what follows the beginning of the list of what is to be done: `Packages (2) a-1-1  b-1-1`, or the head of a table.
pub(crate) fn plan(line: &str) -> Option<&str> {
    line.strip_prefix("Packages (").or_else(|| line.strip_prefix("Package ("))
}

const DOWNLOAD_SIZE: &str = "Total Download Size:";

/// Returns whether a line says how many bytes are to be downloaded.
pub(crate) fn is_download_size(line: &str) -> bool {
    line.starts_with(DOWNLOAD_SIZE)
}

/// Returns whether a line no longer belongs to that list.
pub(crate) fn is_after_plan(line: &str) -> bool {
    ["Total ", "Net ", "::", "error:", "warning:"].iter().any(|begin| line.starts_with(begin))
        || step(line).is_some_and(|step| !matches!(step, Step::Planned(_)))
}

/// Returns what stands before a bar, `[###---]  45%`.
fn bar(line: &str) -> Option<&str> {
    let (head, bar) = line.strip_suffix('%')?.rsplit_once('[')?;
    let (bar, percent) = bar.rsplit_once(']')?;
    let drawn = bar.bytes().all(|b| matches!(b, b'#' | b'-' | b' ' | b'o' | b'c' | b'C'));
    (drawn && percent.trim().parse::<u8>().is_ok()).then(|| head.trim())
}

/// Reads `(1/2) checking package integrity`, `core  52.9 KiB 1.2 MiB/s 00:00` and `Total (1/2)  52.9 KiB 1.2 MiB/s 00:00`.
fn of_bar(head: &str, complete: bool) -> Option<Step> {
    if let Some((count, text)) = counted(head) {
        return Some(Step::Check(text.to_owned(), Some(count)));
    }
    let mut fields: Vec<&str> = head.split_whitespace().collect();
    // SIZE UNIT RATE UNIT TIME
    let last = fields.split_off(fields.len().checked_sub(5)?);
    let size = bytes(last[0], last[1])?;
    let name = fields.join(" ");
    match name.strip_prefix("Total").map(str::trim).and_then(counted) {
        Some(((done, of), "")) => Some(Step::Files(done, of, size)),
        _ => Some(Step::File(name, size, complete)),
    }
}

/// Reads `( 3/10) TEXT`.
fn counted(text: &str) -> Option<((u64, u64), &str)> {
    let (count, rest) = text.strip_prefix('(')?.split_once(')')?;
    let (done, of) = count.split_once('/')?;
    Some(((done.trim().parse().ok()?, of.trim().parse().ok()?), rest.trim()))
}

/// Reads a number of bytes as pacman prints it for people.
fn bytes(number: &str, unit: &str) -> Option<u64> {
    let scale = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|known| *known == unit)?;
    let number: f64 = number.parse().ok().filter(|number| (0.0..1e6).contains(number))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small and not negative")]
    Some((number * 1024_f64.powi(i32::try_from(scale).ok()?)) as u64)
}

/// Returns a line as people are to see it, in one or two lines: pacman answers its questions itself (`--noconfirm`, `--ask`), and
/// one that has no answer looks as if it waited. Whether to proceed is not asked.
pub(crate) fn answered(line: &str) -> Vec<String> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    if let Some((what, default)) = line.trim_end().strip_suffix("):").and_then(|line| line.rsplit_once(" (default=")) {
        return vec![format!("{what}: {default}")];
    }
    for (mark, answer) in [("? [Y/n] ", "yes"), ("? [y/N] ", "no")] {
        let Some((question, rest)) = line.split_once(mark) else { continue };
        if question.starts_with(":: Proceed with ") {
            return some(rest).into_iter().collect();
        }
        // `--ask` answers these with no.
        let refused = ["Do you want to delete it", ":: Import PGP key"].iter().any(|begin| question.starts_with(begin));
        let answer = if refused { "no" } else { answer };
        return [Some(format!("{question}? {answer}")), some(rest)].into_iter().flatten().collect();
    }
    vec![line.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_progress_is_read() {
        let file = |name: &str, bytes, complete| Some(Step::File(name.into(), bytes, complete));
        let check = |text: &str, count| Some(Step::Check(text.into(), count));
        for (line, expected) in [
            (":: Synchronizing package databases...", Some(Step::Databases)),
            (" core", file("core", 0, false)),
            (" core downloading...", file("core", 0, false)),
            (" core is up to date", file("core", 0, true)),
            (
                " core                   52.9 KiB  0.00   B/s 00:00 [######################] 100%",
                file("core", 54169, true),
            ),
            (
                " bash-5.2.15-1-aa...    64.0 KiB  0.00   B/s --:-- [#---------------------]   9%",
                file("bash-5.2.15-1-aa...", 65536, false),
            ),
            (
                " Total ( 30/109)        48.6 MiB  56.6 MiB/s 00:00 [###################---]  89%",
                Some(Step::Files(30, 109, 50_960_793)),
            ),
            (
                " Total (  0/109)         0.0   B  0.00   B/s --:-- [----------------------]   0%",
                Some(Step::Files(0, 109, 0)),
            ),
            (
                "(1/1) checking keys in keyring                     [######################] 100%",
                check("checking keys in keyring", Some((1, 1))),
            ),
            (
                "(0/1) checking package integrity                   [----------------------]   0%",
                check("checking package integrity", Some((0, 1))),
            ),
            ("( 3/10) loading package files  [c  o  o  ]  30%", check("loading package files", Some((3, 10)))),
            ("checking keyring...", check("checking keyring", None)),
            (":: Starting full system upgrade...", Some(Step::Resolve)),
            ("Packages (110) bash-5.2.15-1  bzip2-1.0.8-1", Some(Step::Planned(110))),
            ("Package (2)  New Version  Net Change", Some(Step::Planned(2))),
            ("Total Download Size:  54.41 MiB", Some(Step::Size(57_053_020))),
            ("installing bash...", Some(Step::Package("bash".into()))),
            ("removing bash...", Some(Step::Package("bash".into()))),
            (
                "( 1/10) Creating system user accounts...",
                Some(Step::Hook(1, 10, "Creating system user accounts".into())),
            ),
            ("               archlinuxarm-keyring-20240419-1  base-3-1", None),
            ("Total Installed Size:  183.39 MiB", None),
            ("installing the files...", None),
            ("checking it twice...", None),
            ("100%", None),
            ("[100%", None),
            ("a b c d e [x] 5%", None),
            (" Total (1/2) 1e300 MiB 1 MiB/s 00:00 [#] 5%", None),
            ("(99999999999999999999/1) x", None),
            ("", None),
        ] {
            assert_eq!(step(line), expected, "{line}");
        }
    }

    #[test]
    fn no_question_looks_as_if_it_waited() {
        for (line, expected) in [
            (":: Proceed with installation? [Y/n] ", &[][..]),
            (":: Proceed with download? [Y/n] error: x", &["error: x"]),
            (":: Replace a with extra/b? [Y/n] ", &[":: Replace a with extra/b? yes"]),
            (
                ":: a and b are in conflict. Remove b? [y/N] error: x",
                &[":: a and b are in conflict. Remove b? no", "error: x"],
            ),
            ("Do you want to delete it? [Y/n] ", &["Do you want to delete it? no"]),
            (":: Import PGP key 0123, \"a\"? [Y/n] ", &[":: Import PGP key 0123, \"a\"? no"]),
            ("Enter a number (default=1): ", &["Enter a number: 1"]),
            (":: Enter a selection (default=all): ", &[":: Enter a selection: all"]),
            ("what (default=1)", &["what (default=1)"]),
        ] {
            assert_eq!(answered(line), expected, "{line}");
        }
    }
}

//! What a check says, and how it is shown: a table for people, one JSON object for programs.

use serde::Serialize;
use stage::message::escape;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// A pipeline works, but not all of it, or not in every case.
    Warn,
    /// A pipeline would fail.
    Fail,
}

impl Status {
    /// Returns the word of the table: what fails must be seen without colours.
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// What one check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check's name: a stable word.
    pub(crate) check: &'static str,
    /// How it came out.
    pub(crate) status: Status,
    /// What was found.
    pub(crate) found: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// What mends it: a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl Finding {
    /// Returns a finding without a reason.
    fn new(check: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self {
            check,
            status,
            found: found.into(),
            why: None,
            fix: None,
        }
    }

    /// Returns a finding of what is as it should be.
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, found)
    }

    /// Returns a finding of what is in the way of some.
    pub(crate) fn warn(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Status::Warn, found)
    }

    /// Returns a finding of what is in the way of all.
    pub(crate) fn fail(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Status::Fail, found)
    }

    /// Adds why it matters.
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds what mends it.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// How wide a line of reasons is. Commands are never broken: they are there to be copied.
const WIDTH: usize = 80;

/// Returns the table for people. `quiet` leaves out what is as it should be.
pub(crate) fn table(findings: &[Finding], quiet: bool) -> String {
    let shown = || findings.iter().filter(|f| !quiet || f.status != Status::Ok);
    let width = shown().map(|f| f.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in shown() {
        let (word, check) = (finding.status.word(), finding.check);
        let found = escape(&finding.found);
        out.push_str(&format!("{word:<4}  {check:<width$}  {found}\n"));
        if finding.status == Status::Ok {
            continue;
        }
        if let Some(why) = &finding.why {
            wrap(&mut out, "      why: ", &escape(why));
        }
        if let Some(fix) = &finding.fix {
            out.push_str(&format!("      fix: {}\n", escape(fix)));
        }
    }
    out
}

/// Adds `text` behind `head`, broken between words; lines after the first begin below its text.
fn wrap(out: &mut String, head: &str, text: &str) {
    let mut line = head.to_owned();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(head.len());
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out.push_str(&line);
    out.push('\n');
}

/// Returns the JSON object, on one line.
pub(crate) fn json(arch: &str, findings: &[Finding]) -> String {
    let value = serde_json::json!({"doctor": 1, "arch": arch, "findings": findings});
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_a_check_and_two_more_where_something_is_amiss() {
        let findings = [
            Finding::ok("kernel", "Linux 6.18").why("not shown"),
            Finding::fail("gpg", "not found: \x1b[2J")
                .why(
                    "signatures are checked by the host's gpg and without it not a single package of any repository \
                     would be taken",
                )
                .fix("sudo apt-get install gnupg"),
        ];
        let text = "\
ok    kernel  Linux 6.18
FAIL  gpg     not found: \\u{1b}[2J
      why: signatures are checked by the host's gpg and without it not a single
           package of any repository would be taken
      fix: sudo apt-get install gnupg
";
        assert_eq!(table(&findings, false), text);
        let quiet = table(&findings, true);
        assert_eq!(
            quiet.lines().next(),
            Some("FAIL  gpg  not found: \\u{1b}[2J")
        );
    }

    #[test]
    fn the_object_has_no_null() {
        let findings = [Finding::warn("x", "y").why("z"), Finding::ok("a", "b")];
        assert_eq!(
            json("aarch64", &findings),
            "{\"doctor\":1,\"arch\":\"aarch64\",\"findings\":[{\"check\":\"x\",\"status\":\"warn\",\"found\":\"y\",\
             \"why\":\"z\"},{\"check\":\"a\",\"status\":\"ok\",\"found\":\"b\"}]}\n"
        );
    }
}

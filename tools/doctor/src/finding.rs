//! The result of a check, and how results are shown: a table for people, one JSON object for programs.

use serde::Serialize;
use stage::message::escape;

/// How a check came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    #[default]
    Ok,
    /// Some pipelines fail, or a part of one.
    Warn,
    /// Every pipeline fails.
    Fail,
}

/// The result of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check's name: a stable word.
    pub(crate) check: &'static str,
    pub(crate) status: Status,
    pub(crate) found: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// How to fix it: a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(found: impl Into<String>) -> Self {
        Self { found: found.into(), ..Self::default() }
    }

    pub(crate) fn warn(found: impl Into<String>) -> Self {
        Self { status: Status::Warn, ..Self::ok(found) }
    }

    pub(crate) fn fail(found: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::ok(found) }
    }

    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// How wide a line of reasons is. Commands are never broken, so that they can be copied.
const WIDTH: usize = 80;

/// Returns the table for people. `quiet` leaves out what is ok.
pub(crate) fn table(findings: &[Finding], quiet: bool) -> String {
    let shown = || findings.iter().filter(|f| !quiet || f.status != Status::Ok);
    let width = shown().map(|f| f.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in shown() {
        // A failure must be seen without colours.
        let word = match finding.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let (check, found) = (finding.check, escape(&finding.found));
        out += &format!("{word:<4}  {check:<width$}  {found}\n");
        if finding.status == Status::Ok {
            continue;
        }
        if let Some(why) = &finding.why {
            wrap(&mut out, "      why:", &escape(why));
        }
        if let Some(fix) = &finding.fix {
            out += &format!("      fix: {}\n", escape(fix));
        }
    }
    out
}

/// Appends `text` after `head`, broken between words and indented below its first word.
fn wrap(out: &mut String, head: &str, text: &str) {
    let mut column = head.len();
    out.push_str(head);
    for word in text.split(' ') {
        let length = 1 + word.chars().count();
        if column > head.len() && column + length > WIDTH {
            *out += &format!("\n{:width$}", "", width = head.len());
            column = head.len();
        }
        *out += &format!(" {word}");
        column += length;
    }
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

    fn named(check: &'static str, finding: Finding) -> Finding {
        Finding { check, ..finding }
    }

    #[test]
    fn the_table_has_one_line_for_ok_and_three_for_others() {
        let findings = [
            named("kernel", Finding::ok("Linux 6.18").why("not shown")),
            named(
                "gpg",
                Finding::fail("not found: \x1b[2J")
                .why(
                    "signatures are checked by the host's gpg and without it not a single package of any repository \
                     would be taken",
                )
                .fix("sudo apt-get install gnupg"),
            ),
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
        assert_eq!(quiet.lines().next(), Some("FAIL  gpg  not found: \\u{1b}[2J"));
    }

    #[test]
    fn the_object_has_no_null() {
        let findings = [named("x", Finding::warn("y").why("z")), named("a", Finding::ok("b"))];
        assert_eq!(
            json("aarch64", &findings),
            "{\"doctor\":1,\"arch\":\"aarch64\",\"findings\":[{\"check\":\"x\",\"status\":\"warn\",\"found\":\"y\",\
             \"why\":\"z\"},{\"check\":\"a\",\"status\":\"ok\",\"found\":\"b\"}]}\n"
        );
    }
}

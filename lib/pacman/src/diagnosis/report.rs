//! Problems of many packages, in lines of output: an expired key that signed them all is reported once.

use super::Diagnosis;
use crate::first_few;
use stage::message;

/// How many names stand in a line.
const NAMES: usize = 3;

/// A problem, and the packages that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem<'a> {
    /// The names of the packages.
    pub packages: Vec<&'a str>,
    /// The verdict's word.
    pub word: &'a str,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Problem<'_> {
    /// Returns it as a line that begins with what was being done to them: `verifying 'a', 'b': why`.
    #[must_use]
    pub fn line(&self, doing: &str) -> String {
        let names: Vec<String> = self.packages.iter().map(|name| format!("'{}'", message::escape(name))).collect();
        format!("{doing} {}: {}", first_few(&names, NAMES), self.why)
    }
}

/// Groups the problems of packages with their signatures, in their order.
#[must_use]
pub fn problems<'a>(diagnoses: impl IntoIterator<Item = (&'a str, &'a Diagnosis)>) -> Vec<Problem<'a>> {
    let mut problems: Vec<Problem<'_>> = Vec::new();
    for (package, diagnosis) in diagnoses {
        if diagnosis.is_good() {
            continue;
        }
        match problems.iter_mut().find(|p| p.why == diagnosis.why) {
            Some(problem) => problem.packages.push(package),
            None => problems.push(Problem {
                packages: vec![package],
                word: diagnosis.verdict.word(),
                why: diagnosis.why.clone(),
                hint: diagnosis.hint.clone(),
            }),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Verdict;

    #[test]
    fn one_cause_is_reported_once() {
        let found = |verdict, why: &str| Diagnosis::without_key(verdict, why, "");
        let (good, old, bad) = (found(Verdict::Valid, ""), found(Verdict::Expired, "old"), found(Verdict::Bad, "bad"));
        let list = [("a", &old), ("b", &good), ("c", &bad), ("d", &old), ("e", &old), ("f\n", &old)];
        let lines: Vec<_> = problems(list).iter().map(|p| p.line("checking")).collect();
        assert_eq!(lines, ["checking 'a', 'd', 'e' and 1 more: old", "checking 'c': bad"]);
    }
}

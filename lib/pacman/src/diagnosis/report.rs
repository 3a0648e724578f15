//! What was found of many signatures, for people: one key that expired may have signed them all, and is said once.

use super::{Diagnosis, Verdict};
use serde::{Deserialize, Serialize};
use stage::message;

/// How many names stand in a line.
const NAMES: usize = 3;

/// A [`Diagnosis`] on its way out of the namespaces that it was made in.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The verdict's word.
    pub word: String,
    /// The key that signed.
    pub key: Option<String>,
    /// When that was made, in seconds since 1970.
    pub created: Option<u64>,
    /// What is wrong, as it follows a name and a colon.
    pub why: String,
    /// What mends it.
    pub hint: Option<String>,
}

impl Told {
    /// Returns whether pacman would take it at `Required`.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.word == Verdict::Valid.word()
    }
}

impl From<Diagnosis> for Told {
    fn from(diagnosis: Diagnosis) -> Self {
        Self {
            word: diagnosis.verdict.word().to_owned(),
            key: diagnosis.key,
            created: diagnosis.created,
            why: diagnosis.why,
            hint: diagnosis.hint,
        }
    }
}

/// Something that is wrong, and with which packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem<'a> {
    /// The names of the packages.
    pub packages: Vec<&'a str>,
    /// The verdict's word.
    pub word: &'a str,
    /// What is wrong with them.
    pub why: String,
    /// What mends it.
    pub hint: Option<String>,
}

impl Problem<'_> {
    /// Returns it as a line that begins with what was being done to them: `verifying 'a', 'b': why`.
    #[must_use]
    pub fn line(&self, doing: &str) -> String {
        let names = self.packages.iter().take(NAMES);
        let names: Vec<String> = names
            .map(|name| format!("'{}'", message::escape(name)))
            .collect();
        let more = match self.packages.len().saturating_sub(NAMES) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        format!("{doing} {}{more}: {}", names.join(", "), self.why)
    }
}

/// Groups what is wrong with the signatures of packages, in their order.
#[must_use]
pub fn problems<'a>(told: impl IntoIterator<Item = (&'a str, &'a Told)>) -> Vec<Problem<'a>> {
    let mut problems: Vec<Problem<'_>> = Vec::new();
    for (package, told) in told.into_iter().filter(|(_, told)| !told.is_valid()) {
        match problems.iter_mut().find(|p| p.why == told.why) {
            Some(problem) => problem.packages.push(package),
            None => problems.push(Problem {
                packages: vec![package],
                word: &told.word,
                why: told.why.clone(),
                hint: told.hint.clone(),
            }),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_said_once() {
        let told = |word: &str, why: &str| Told {
            word: word.into(),
            key: None,
            created: None,
            why: why.into(),
            hint: None,
        };
        let (good, old, bad) = (
            told("valid", ""),
            told("expired", "old"),
            told("bad", "bad"),
        );
        let list = [
            ("a", &old),
            ("b", &good),
            ("c", &bad),
            ("d", &old),
            ("e", &old),
            ("f\n", &old),
        ];
        let lines: Vec<_> = problems(list).iter().map(|p| p.line("checking")).collect();
        assert_eq!(
            lines,
            [
                "checking 'a', 'd', 'e' and 1 more: old",
                "checking 'c': bad"
            ]
        );
    }
}

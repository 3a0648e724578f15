//! Small edits of configuration files that keep every other line.

/// Returns shell-like `KEY=value` lines with this key set: in its place, or at the end. Of several lines with the key the
/// last one counts, so the others go.
pub(crate) fn with_variable(text: &str, key: &str, value: &str) -> String {
    let is_ours = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.starts_with('='))
    };
    let ours = format!("{key}={value}");
    let place = text.lines().position(is_ours);
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_ours(line)).collect();
    lines.insert(place.unwrap_or(lines.len()), &ours);
    joined(&lines)
}

/// Joins lines to a text; none is the empty text.
pub(crate) fn joined(lines: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line.as_ref());
        text.push('\n');
    }
    text
}

/// Adds what is not in the list yet, and keeps the order.
pub(crate) fn merge(list: &mut Vec<String>, more: &[String]) {
    for value in more {
        if !list.contains(value) {
            list.push(value.clone());
        }
    }
}

/// Returns a list without what is repeated.
pub(crate) fn unique(list: &[String]) -> Vec<String> {
    let mut unique = Vec::new();
    merge(&mut unique, list);
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_set_in_its_place_and_the_rest_is_kept() {
        for (before, after) in [
            ("", "LANG=x\n"),
            ("LC_TIME=y", "LC_TIME=y\nLANG=x\n"),
            ("# LANG=a\nLANG=b\nLC_TIME=y\n", "# LANG=a\nLANG=x\nLC_TIME=y\n"),
            ("LANG=a\nA=1\nLANG=b\nLANGUAGE=c\n", "LANG=x\nA=1\nLANGUAGE=c\n"),
        ] {
            let text = with_variable(before, "LANG", "x");
            assert_eq!(text, after);
            assert_eq!(with_variable(&text, "LANG", "x"), after);
        }
    }
}

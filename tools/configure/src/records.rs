//! The files of passwd(5), shadow(5), group(5) and their like: one record a line, fields between colons, the name first.

use crate::text::joined;

/// The field of a password: in all of these files the second.
pub(crate) const PASSWORD: usize = 1;

/// The field of the last change of a password in shadow(5).
pub(crate) const CHANGED: usize = 2;

/// Returns a field of the record with this name.
pub(crate) fn field<'a>(text: &'a str, name: &str, number: usize) -> Option<&'a str> {
    record(text, name)?.split(':').nth(number)
}

/// Returns whether there is a record with this name.
pub(crate) fn has(text: &str, name: &str) -> bool {
    record(text, name).is_some()
}

fn record<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| is_of(line, name))
}

fn is_of(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(is, _)| is == name)
}

/// Returns the text with another value in a field of the record with this name.
pub(crate) fn with_field(text: &str, name: &str, number: usize, value: &str) -> String {
    let edit = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        match fields.get_mut(number) {
            Some(field) if is_of(line, name) => *field = value,
            _ => {}
        }
        fields.join(":")
    };
    joined(&text.lines().map(edit).collect::<Vec<_>>())
}

/// Returns the text without the record with this name.
pub(crate) fn without(text: &str, name: &str) -> String {
    joined(&text.lines().filter(|l| !is_of(l, name)).collect::<Vec<_>>())
}

/// Returns the names of the records.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| Some(line.split_once(':')?.0))
}

/// Returns whether a user is a member of a group, by the text of group(5).
pub(crate) fn is_member(group: &str, of: &str, user: &str) -> bool {
    field(group, of, 3).is_some_and(|members| members.split(',').any(|m| m.trim() == user))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHADOW: &str = "root::14871::::::\nbin:!*:14871::::::\n";

    #[test]
    fn a_field_is_changed_and_all_else_stays() {
        assert_eq!(field(SHADOW, "root", PASSWORD), Some(""));
        let text = with_field(SHADOW, "root", PASSWORD, "!*");
        assert_eq!(text, "root:!*:14871::::::\nbin:!*:14871::::::\n");
        assert_eq!(without(&text, "root"), "bin:!*:14871::::::\n");
        assert!(!has(SHADOW, "roo") && has(SHADOW, "bin"));
        assert_eq!(names(SHADOW).collect::<Vec<_>>(), ["root", "bin"]);
    }

    #[test]
    fn members_are_whole_names() {
        let group = "wheel:x:998:bob,ann\nvideo:x:985:anna\n";
        assert!(is_member(group, "wheel", "ann"));
        assert!(!is_member(group, "video", "ann"));
        assert!(!is_member(group, "none", "ann"));
    }
}

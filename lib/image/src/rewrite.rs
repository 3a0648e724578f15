//! Files that are rewritten in an image: a table, each with its reason. The root itself is never changed.
//!
//! A package's own scriptlet, pacman or a program of the root writes today's date into a file, or a machine's identity. What
//! is not reproducible for another reason is not rewritten: it shows when two images are compared.

use stage::document::is_name;

/// A file that is rewritten in an image.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    /// Its path below the root; a `*` stands for one name.
    pub path: &'static str,
    /// Whether it is rewritten only where there is a date.
    pub dated: bool,
    /// What changes its text; `None` where the text is not one to change. The date is in seconds since 1970.
    with: fn(text: &str, epoch: u64) -> Option<String>,
}

/// The files. `pack(8)` has this table too.
pub const REWRITTEN: &[Rewrite] = &[
    // Every machine must have an id of its own: systemd gives it one at the first boot (machine-id(5)).
    Rewrite { path: "etc/machine-id", dated: false, with: |text, _| is_id(text).then(|| "uninitialized\n".to_owned()) },
    // The same; empty, D-Bus takes systemd's.
    Rewrite { path: "var/lib/dbus/machine-id", dated: false, with: |text, _| is_id(text).then(String::new) },
    // pacman writes down when it installed the package, in %INSTALLDATE%.
    Rewrite {
        path: "var/lib/pacman/local/*/desc",
        dated: true,
        with: |text, epoch| clamp_line_after(text, "%INSTALLDATE%", epoch),
    },
    // useradd(8) and systemd-sysusers(8) write down the day of the last change of a password.
    Rewrite { path: "etc/shadow", dated: true, with: |text, epoch| Some(clamp_third_field(text, epoch / 86_400)) },
];

/// Returns the rule for the file at this path, if there is one.
#[must_use]
pub fn rule_for(path: &[u8], epoch: Option<u64>) -> Option<&'static Rewrite> {
    let path = std::str::from_utf8(path).ok()?;
    let rule = REWRITTEN.iter().find(|rule| matches(rule.path, path))?;
    (epoch.is_some() || !rule.dated).then_some(rule)
}

impl Rewrite {
    /// Returns the new text, where it is another one.
    #[must_use]
    pub fn apply(&self, text: &[u8], epoch: Option<u64>) -> Option<Vec<u8>> {
        let new = (self.with)(std::str::from_utf8(text).ok()?, epoch.unwrap_or_default())?;
        (new.as_bytes() != text).then(|| new.into_bytes())
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => {
            path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(is_name)
        }
        None => pattern == path,
    }
}

/// Returns whether it is a machine's id.
fn is_id(text: &str) -> bool {
    let text = text.trim_end();
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Makes the number on the line after `key` no larger than `last`.
fn clamp_line_after(text: &str, key: &str, last: u64) -> Option<String> {
    let key = format!("\n{key}\n");
    let start = match text.strip_prefix(&key[1..]) {
        Some(_) => key.len() - 1,
        None => text.find(&key)? + key.len(),
    };
    let line = text[start..].lines().next()?;
    let number: u64 = line.parse().ok()?;
    let (before, after) = (&text[..start], &text[start + line.len()..]);
    Some(format!("{before}{}{after}", number.min(last)))
}

/// Makes the third field of each line of shadow(5) no larger than `last`, in days since 1970. Other lines stay.
fn clamp_third_field(text: &str, last: u64) -> String {
    let mut new = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut fields: Vec<_> = line.split(':').map(str::to_owned).collect();
        if let Some(field) = fields.get_mut(2)
            && let Ok(day) = field.parse::<u64>()
        {
            *field = day.min(last).to_string();
        }
        new.push_str(&fields.join(":"));
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(path: &str, text: &str, epoch: Option<u64>) -> Option<String> {
        let new = rule_for(path.as_bytes(), epoch)?.apply(text.as_bytes(), epoch)?;
        Some(String::from_utf8(new).unwrap())
    }

    #[test]
    fn a_machine_id_becomes_none_with_and_without_a_date() {
        let id = "0123456789abcdef0123456789abcdef\n";
        for epoch in [None, Some(1)] {
            assert_eq!(rewritten("etc/machine-id", id, epoch).as_deref(), Some("uninitialized\n"));
            assert_eq!(rewritten("etc/machine-id", "uninitialized\n", epoch), None);
            assert_eq!(rewritten("etc/machine-id", "", epoch), None);
            assert_eq!(rewritten("var/lib/dbus/machine-id", id, epoch).as_deref(), Some(""));
        }
    }

    #[test]
    fn pacmans_record_says_no_later_date() {
        let path = "var/lib/pacman/local/bash-5.3-1/desc";
        let text = "%NAME%\nbash\n\n%INSTALLDATE%\n1700000000\n\n%DESC%\n%INSTALLDATE%\n9\n";
        let new = text.replacen("1700000000", "1600000000", 1);
        assert_eq!(rewritten(path, text, Some(1_600_000_000)), Some(new));
        assert_eq!(rewritten(path, text, Some(1_800_000_000)), None);
        assert_eq!(rewritten(path, text, None), None);
        assert_eq!(rewritten("var/lib/pacman/local/a/b/desc", text, Some(1)), None);
        for odd in ["", "%INSTALLDATE%", "%INSTALLDATE%\n", "%INSTALLDATE%\nx\n"] {
            assert_eq!(rewritten(path, odd, Some(1)), None, "{odd:?}");
        }
        assert_eq!(rewritten(path, "%INSTALLDATE%\n9", Some(1)).as_deref(), Some("%INSTALLDATE%\n1"));
    }

    #[test]
    fn shadow_says_no_later_day() {
        let text = "root::20000::::::\nann:!*:0:0:99999:7:::\nbob:x::::::\nodd\n\nlast:*:20001:::::: ";
        let new = "root::18518::::::\nann:!*:0:0:99999:7:::\nbob:x::::::\nodd\n\nlast:*:18518:::::: ";
        let epoch = Some(1_600_000_000);
        assert_eq!(rewritten("etc/shadow", text, epoch).as_deref(), Some(new));
        assert_eq!(rewritten("etc/shadow", new, epoch), None);
        assert_eq!(rewritten("etc/shadow", text, None), None);
        assert!(rule_for(b"etc/shadow", epoch).unwrap().apply(b"\xff:x:20000", epoch).is_none());
    }

    #[test]
    fn every_rule_is_of_a_relative_path() {
        assert!(REWRITTEN.iter().all(|m| !m.path.starts_with('/')));
    }
}

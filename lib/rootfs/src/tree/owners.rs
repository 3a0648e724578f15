//! The list of owners and modes beside a tree: lines of tmpfiles.d(5) of the types `z` and `Z`, which is what they mean there.
//!
//! ```text
//! # type path             mode user group
//! z      /etc/app.secret  0600 app  app
//! Z      /home/ann        -    ann  ann
//! ```
//!
//! Patterns, specifiers and quotes are refused: a tree is a list of names already.

use stage::document::plain_absolute;

/// The highest id that a root may have files of: those of an ordinary user's root end there ([`crate::idmap::NEEDED`]).
const LAST: u32 = 65_534;

/// The user or the group of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// By its number.
    Number(u32),
    /// By its name in the root.
    Name(String),
}

/// What the list says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its mode.
    pub mode: Option<u32>,
    /// Its user.
    pub user: Option<Id>,
    /// Its group.
    pub group: Option<Id>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: usize,
    /// Whether it is for all that is below the path, too.
    recursive: bool,
    /// A path below the root.
    pub(super) path: String,
    listed: Listed,
}

impl Line {
    /// Returns whether the line is for this path.
    pub(super) fn is_for(&self, path: &str) -> bool {
        match path.strip_prefix(self.path.as_str()) {
            Some("") => true,
            Some(rest) => self.recursive && (self.path.is_empty() || rest.starts_with('/')),
            None => false,
        }
    }
}

/// Returns what the lines say of a path: of two that say the same thing, the later one counts.
pub(super) fn of(lines: &[Line], path: &str) -> Listed {
    let mut all = Listed::default();
    for Line { listed, .. } in lines.iter().filter(|line| line.is_for(path)) {
        all.mode = listed.mode.or(all.mode);
        all.user = listed.user.clone().or(all.user);
        all.group = listed.group.clone().or(all.group);
    }
    all
}

/// Parses the list.
///
/// # Errors
///
/// The first invalid line, and why.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (n, text) in text.lines().enumerate() {
        let text = text.trim();
        if !text.is_empty() && !text.starts_with('#') {
            let line = parse_line(n + 1, text).map_err(|why| format!("line {}: {why}", n + 1))?;
            lines.push(line);
        }
    }
    Ok(lines)
}

fn parse_line(number: usize, text: &str) -> Result<Line, String> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    // Age and argument, which have no meaning for these types.
    while words.len() > 5 && words.last() == Some(&"-") {
        words.pop();
    }
    let [kind, path, mode, user, group] = words[..] else {
        return Err("not of the form 'z PATH MODE USER GROUP' (tmpfiles.d(5))".into());
    };
    let recursive = match kind {
        "z" => false,
        "Z" => true,
        _ => return Err("its type is not 'z' or 'Z' (tmpfiles.d(5))".into()),
    };
    if path.contains(['*', '?', '[', '%', '\'', '"', '\\']) {
        return Err("patterns, specifiers and quotes are not for here: it names one path".into());
    }
    plain_absolute(path)?;
    let given = |text: &&str| *text != "-";
    let mode = Some(mode).filter(given).map(parse_mode).transpose()?;
    if recursive && mode.is_some() {
        return Err("one mode does not fit files and directories: give '-' as the mode of 'Z'".into());
    }
    let listed = Listed {
        mode,
        user: Some(user).filter(given).map(parse_id).transpose()?,
        group: Some(group).filter(given).map(parse_id).transpose()?,
    };
    Ok(Line { number, recursive, path: path.trim_start_matches('/').to_owned(), listed })
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o7777).ok_or_else(|| format!("'{text}' is not a mode in octal digits"))
}

fn parse_id(text: &str) -> Result<Id, String> {
    if let Ok(number) = text.parse::<u32>() {
        return match number {
            0..=LAST => Ok(Id::Number(number)),
            _ => Err(format!("the ids of a root end with {LAST}")),
        };
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
    if text.starts_with(['-', '.']) || !text.chars().all(fine) {
        return Err(format!("'{}' is not the name of a user or group", stage::message::escape(text)));
    }
    Ok(Id::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_lines_count_and_z_is_for_all_below() {
        let text = "# a list\n\nZ /home/ann - ann ann -\nz /home/ann/key 0600 - 0 - -\nz /home/ann - 5 -\n";
        let lines = parse(text).unwrap();
        let name = |name: &str| Some(Id::Name(name.into()));
        let number = |number| Some(Id::Number(number));
        for (path, mode, user, group) in [
            ("home/ann", None, number(5), name("ann")),
            ("home/ann/key", Some(0o600), name("ann"), number(0)),
            ("home/ann/b/c", None, name("ann"), name("ann")),
            ("home/anna", None, None, None),
            ("home", None, None, None),
        ] {
            assert_eq!(of(&lines, path), Listed { mode, user, group }, "{path}");
        }
        assert!(parse("Z / - 0 0").unwrap()[0].is_for("etc/x"));
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        for (text, why) in [
            ("z /a 0644 root", "line 1: not of the form"),
            ("\nd /a 0644 root root", "line 2: its type is not 'z' or 'Z'"),
            ("z a 0644 root root", "the path is not absolute"),
            ("z /a/../b 0644 root root", "'..'"),
            ("z /a* 0644 root root", "patterns"),
            ("z /a 0999 root root", "'0999' is not a mode"),
            ("z /a 17777 root root", "is not a mode"),
            ("z /a ~0644 root root", "is not a mode"),
            ("Z /a 0644 root root", "one mode does not fit"),
            ("z /a - 65535 root", "end with 65534"),
            ("z /a - ro:ot root", "not the name of a user"),
            ("z /a - root root - x", "not of the form"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

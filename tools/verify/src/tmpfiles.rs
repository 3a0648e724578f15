//! The owner, mode and ACL that packages' rules of tmpfiles.d(5) give a packaged file.
//!
//! systemd-tmpfiles(8) runs as a hook of systemd's and at boot, so a file that a rule names may differ from its package.
//! The rules are read in its order, and applied to the package's values; only the result is accepted. Of lines that make,
//! empty, copy or remove files, or write into them, only the owner and mode count here.

use crate::acl::{self, Acl, Wanted};
use crate::names::Names;
use package::mtree::Kind;
use pacman::fnmatch;
use std::collections::{BTreeMap, BTreeSet};

/// Where rules are. A file overrides those of the same name in later directories.
pub(crate) const DIRECTORIES: [&str; 4] =
    ["etc/tmpfiles.d", "run/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d"];

/// The limit for the paths that the braces of one rule name.
const BRACES: usize = 1000;

/// The owner, the mode and the ACLs of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Its ACL, where that has more than the mode.
    pub(crate) acl: Option<Acl>,
    /// The default ACL of a directory.
    pub(crate) default_acl: Option<Acl>,
}

/// A file with rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its path below the root.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Its package: a number of the caller's.
    pub(crate) package: usize,
    /// Whether it applies to other packages' files as well.
    pub(crate) for_all: bool,
}

/// A line.
#[derive(Clone, Debug, Default)]
struct Rule {
    kind: char,
    /// Only applied at boot.
    boot: bool,
    /// `+`.
    append: bool,
    mode: Option<u32>,
    /// `~`: bits that the file lacks are not set.
    masked: bool,
    uid: Option<u32>,
    gid: Option<u32>,
    acl: Option<Wanted>,
    default_acl: Option<Wanted>,
    package: usize,
    for_all: bool,
}

/// The lines of one path.
#[derive(Clone, Debug)]
struct Group {
    path: String,
    /// Whether it is a pattern.
    is_glob: bool,
    rules: Vec<Rule>,
}

/// All rules of a root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// In the order in which they are applied where the root was not booted, and where it was.
    orders: [Vec<Group>; 2],
}

impl Rules {
    /// Reads the rules in `files`. `machine` is the root's machine id, where it has one.
    pub(crate) fn read(files: &[File], names: &Names, machine: Option<&str>) -> Self {
        let mut by_name: BTreeMap<&str, &File> = BTreeMap::new();
        for at in DIRECTORIES {
            for file in files {
                if let Some((directory, name)) = file.path.rsplit_once('/')
                    && directory == at
                {
                    by_name.entry(name).or_insert(file);
                }
            }
        }
        let mut lines = Vec::new();
        for file in by_name.into_values() {
            for line in file.text.lines() {
                if let Some((path, mut rule)) = parse(line, names, machine) {
                    (rule.package, rule.for_all) = (file.package, file.for_all);
                    lines.push((path, rule));
                }
            }
        }
        Self { orders: [false, true].map(|boot| order(&lines, boot)) }
    }

    /// Returns the states that the rules may give a file of `package` at `path`, whose package has `before`: with and
    /// without lines for boot only, applied once and twice, and also as on a file system without ACLs.
    pub(crate) fn results(&self, package: usize, path: &str, kind: Kind, before: &State) -> Vec<State> {
        let mut results = Vec::new();
        for groups in &self.orders {
            for with_acls in [true, false] {
                let mut state = before.clone();
                for _ in 0..2 {
                    for group in groups {
                        group.apply(package, path, kind, with_acls, &mut state);
                    }
                    results.push(state.clone());
                }
            }
        }
        results
    }
}

/// Puts lines in the order of systemd-tmpfiles: paths before patterns, and each path after those that it is below.
fn order(lines: &[(String, Rule)], boot: bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    for (path, rule) in lines.iter().filter(|(_, rule)| boot || !rule.boot) {
        let is_glob = "wexXrRzZmtThHaA".contains(rule.kind);
        let place = *places.entry((is_glob, path)).or_insert_with(|| {
            groups.push(Group { path: path.clone(), is_glob, rules: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[place];
        // Of two lines that make the same path, the first counts.
        let taken = rule.owns() && group.rules.iter().any(Rule::owns);
        if !taken || rule.append {
            group.rules.push(rule.clone());
        }
    }
    for group in &mut groups {
        group.rules.sort_by_key(|rule| (!rule.owns(), rule.kind));
    }
    let mut done = BTreeSet::new();
    let mut sorted = Vec::new();
    for is_glob in [false, true] {
        let of_kind = (0..groups.len()).filter(|n| groups[*n].is_glob == is_glob);
        for place in of_kind {
            // The paths that it is below come before it, of a path and an equal pattern the path.
            let path = &groups[place].path;
            let above = path.rmatch_indices('/').map(|(at, _)| &path[..at]);
            let mut parents: Vec<usize> =
                above.filter_map(|path| places.get(&(false, path)).or(places.get(&(true, path)))).copied().collect();
            while let Some(parent) = parents.pop() {
                if done.insert(parent) {
                    sorted.push(parent);
                }
            }
            if done.insert(place) {
                sorted.push(place);
            }
        }
    }
    sorted.into_iter().map(|n| groups[n].clone()).collect()
}

impl Group {
    fn apply(&self, package: usize, path: &str, kind: Kind, with_acls: bool, state: &mut State) {
        let here = self.path.trim_start_matches('/');
        let fits = |below| if self.is_glob { matches(here, path, below) } else { !below && here == path };
        let (exact, below) = (fits(false), fits(true));
        for rule in &self.rules {
            let applies = rule.for_all || rule.package == package;
            if applies && (exact || below && matches!(rule.kind, 'Z' | 'A')) && rule.is_for(kind) {
                rule.apply(kind, with_acls, state);
            }
        }
    }
}

impl Rule {
    /// Returns whether it makes what it names, so that there can be only one for a path.
    fn owns(&self) -> bool {
        "fFdDevqQpLcbCwxXrR".contains(self.kind)
    }

    /// Returns whether it does anything to what is there and is of that kind.
    fn is_for(&self, kind: Kind) -> bool {
        match self.kind {
            'f' | 'F' => kind == Kind::File,
            'd' | 'D' | 'e' | 'v' | 'q' | 'Q' => kind == Kind::Directory,
            'p' | 'c' | 'b' => kind == Kind::Other,
            'L' => kind == Kind::Link,
            'a' | 'A' => kind != Kind::Link,
            'C' | 'z' | 'Z' | 'm' => true,
            _ => false,
        }
    }

    fn apply(&self, kind: Kind, with_acls: bool, state: &mut State) {
        if matches!(self.kind, 'a' | 'A') {
            if with_acls {
                self.apply_acls(kind, state);
            }
            return;
        }
        state.uid = self.uid.unwrap_or(state.uid);
        state.gid = self.gid.unwrap_or(state.gid);
        if let Some(mode) = self.mode.filter(|_| kind != Kind::Link) {
            state.mode = if self.masked { mask(mode, state.mode, kind) } else { mode };
            if let Some(acl) = &mut state.acl {
                acl.set_mode(state.mode);
            }
        }
    }

    fn apply_acls(&self, kind: Kind, state: &mut State) {
        let is_directory = kind == Kind::Directory;
        let mode = state.mode;
        let start = |acl: &Option<Acl>| acl.clone().filter(|_| self.append);
        if let Some(wanted) = &self.acl {
            let old = start(&state.acl).or_else(|| self.append.then(|| Acl::of_mode(mode)));
            let mut acl = old.unwrap_or_default();
            acl.add(wanted, mode, is_directory);
            state.mode = mode & !0o777 | acl.mode();
            state.acl = Some(acl).filter(Acl::is_extended);
        }
        if let Some(wanted) = self.default_acl.as_ref().filter(|_| is_directory) {
            let mut acl = start(&state.default_acl).unwrap_or_default();
            acl.add(wanted, state.mode, true);
            state.default_acl = Some(acl);
        }
    }
}

/// Returns a mode with `~`: nobody gets a permission that nobody had, and only directories get the upper bits.
fn mask(mut mode: u32, old: u32, kind: Kind) -> u32 {
    for bits in [0o111, 0o222, 0o444] {
        if old & bits == 0 {
            mode &= !bits;
        }
    }
    if kind != Kind::Directory {
        mode &= 0o777;
    }
    mode
}

/// Parses a line. `None` for an empty or invalid one, a comment, and one with a name or a specifier that only the running
/// system knows.
fn parse(line: &str, names: &Names, machine: Option<&str>) -> Option<(String, Rule)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return None;
    }
    let (fields, argument) = split(line)?;
    let field = |n: usize| {
        let field = fields.get(n).map(String::as_str);
        field.filter(|text| !text.is_empty() && *text != "-")
    };
    let mut kind = fields.first()?.chars();
    let mut rule = Rule { kind: kind.next()?, ..Rule::default() };
    for modifier in kind {
        match modifier {
            '!' => rule.boot = true,
            '+' => rule.append = true,
            '-' | '=' | '~' | '^' | '$' | '?' => {}
            _ => return None,
        }
    }
    let path = expand(fields.get(1)?, machine)?;
    if !path.starts_with('/') {
        return None;
    }
    let parts = path.split('/').filter(|p| !p.is_empty() && *p != ".");
    let path = format!("/{}", parts.collect::<Vec<_>>().join("/"));
    if let Some(text) = field(2) {
        let digits = text.trim_start_matches(['~', ':']);
        let prefixes = &text[..text.len() - digits.len()];
        let mode = u32::from_str_radix(digits, 8).ok()?;
        if mode > 0o7777 {
            return None;
        }
        rule.masked = prefixes.contains('~');
        rule.mode = (!prefixes.contains(':')).then_some(mode);
    }
    // With a colon, existing files keep their own.
    let id = |text: Option<&str>, find: &dyn Fn(&str) -> Option<u32>| match text {
        None => Some(None),
        Some(text) => {
            let id = find(text.strip_prefix(':').unwrap_or(text))?;
            Some((!text.starts_with(':')).then_some(id))
        }
    };
    rule.uid = id(field(3), &|name| names.user(name))?;
    rule.gid = id(field(4), &|name| names.group(name))?;
    if matches!(rule.kind, 'a' | 'A') {
        let argument = expand(argument, machine)?;
        (rule.acl, rule.default_acl) = acl::parse(&argument, names)?;
    }
    Some((path, rule))
}

/// Splits a line into its first six words, without their quotes and escapes, and the rest.
fn split(line: &str) -> Option<(Vec<String>, &str)> {
    let mut fields = Vec::new();
    let mut rest = line;
    while fields.len() < 6 && !rest.is_empty() {
        let mut word = String::new();
        let mut quote = None;
        let mut letters = rest.char_indices();
        let end = loop {
            let Some((at, letter)) = letters.next() else {
                break rest.len();
            };
            match (letter, quote) {
                ('\\', _) => word.push(letters.next()?.1),
                (letter, Some(open)) if letter == open => quote = None,
                ('"' | '\'', None) => quote = Some(letter),
                (letter, None) if letter.is_ascii_whitespace() => break at,
                _ => word.push(letter),
            }
        };
        if quote.is_some() {
            return None;
        }
        fields.push(word);
        rest = rest[end..].trim_start();
    }
    Some((fields, rest))
}

/// Replaces specifiers. Those that only a running system has are unknown.
fn expand(text: &str, machine: Option<&str>) -> Option<String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        out.push_str(match letters.next()? {
            '%' => "%",
            'C' => "/var/cache",
            'g' | 'u' => "root",
            'G' | 'U' => "0",
            'h' => "/root",
            'L' => "/var/log",
            'm' => machine?,
            'S' => "/var/lib",
            't' => "/run",
            'T' => "/tmp",
            'V' => "/var/tmp",
            _ => return None,
        });
    }
    Some(out)
}

/// Compares a path with a pattern of glob(7): stars stay in one directory, and only a pattern that begins with a dot matches
/// a name that does. With `below`, what is below a matching directory matches as well.
fn matches(pattern: &str, path: &str, below: bool) -> bool {
    let names: Vec<&str> = path.split('/').collect();
    braces(pattern).iter().any(|pattern| {
        let patterns: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
        let fits = if below { patterns.len() <= names.len() } else { patterns.len() == names.len() };
        let hidden = |name: &str, pattern: &str| name.starts_with('.') && !pattern.starts_with('.');
        fits && patterns
            .iter()
            .zip(&names)
            .all(|(pattern, name)| !hidden(name, pattern) && fnmatch::matches(pattern.as_bytes(), name.as_bytes()))
    })
}

/// Returns the patterns that one with braces stands for: `a{b,c}` is `ab` and `ac`.
fn braces(pattern: &str) -> Vec<String> {
    let mut done = Vec::new();
    let mut left = vec![pattern.to_owned()];
    while let Some(pattern) = left.pop() {
        if done.len() + left.len() > BRACES {
            break;
        }
        // The innermost ones first.
        let inner = pattern.find('}').and_then(|end| {
            let begin = pattern[..end].rfind('{')?;
            Some((begin, end))
        });
        match inner {
            None => done.push(pattern),
            Some((begin, end)) => {
                let (head, tail) = (&pattern[..begin], &pattern[end + 1..]);
                let parts = pattern[begin + 1..end].split(',');
                left.extend(parts.map(|part| format!("{head}{part}{tail}")));
            }
        }
    }
    done
}

#[cfg(test)]
mod tests;

//! No program logic reads our own messages: what a caller decides by is in `Failure::code` and `Failure::cause`.
//!
//! This reads the sources, as no type can keep a program from looking into a text.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// What looks into a text.
const READERS: [&str; 14] = [
    "contains",
    "ends_with",
    "eq",
    "find",
    "lines",
    "matches",
    "replace",
    "replacen",
    "rsplit_once",
    "split",
    "split_once",
    "starts_with",
    "strip_prefix",
    "strip_suffix",
];

/// What has a message of ours: the fields of a `Failure`, and a `Failure` or its message made into a text.
const TEXTS: [&str; 4] = [".message", ".hint", "failure.to_string()", "format!(\"{failure}\")"];

/// Returns where a source reads a message: the text and what is called on it.
fn reads(source: &str) -> Vec<String> {
    // Tests may read what is said.
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let without_comments: Vec<_> = source.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    // A chain of calls may go on in the next line.
    let source = without_comments.join(" ").replace(" .", ".");
    let mut found = Vec::new();
    for text in TEXTS {
        for (at, _) in source.match_indices(text) {
            let rest = &source[at + text.len()..];
            if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '(') {
                continue;
            }
            found.extend(reader(rest).map(|name| format!("{text}.{name}()")));
        }
    }
    found
}

/// Returns the first of the calls of a chain that looks into a text.
fn reader(mut chain: &str) -> Option<&str> {
    loop {
        chain = chain.trim_start_matches('?').strip_prefix('.')?;
        let end = chain.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        let (name, rest) = chain.split_at(end);
        if READERS.contains(&name) {
            return Some(name);
        }
        let mut depth = 0_usize;
        let close = rest.char_indices().find(|(_, c)| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        });
        chain = &rest[close.filter(|_| rest.starts_with('('))?.0 + 1..];
        // `is_some_and(|hint| hint.contains(…))` looks into it as well.
        let inside = &rest[..rest.len() - chain.len()];
        if let Some(name) = READERS.iter().find(|name| inside.contains(&format!(".{name}("))) {
            return Some(name);
        }
    }
}

fn sources(directory: &Path, list: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, list)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            list.push(path);
        }
    }
    Ok(())
}

#[test]
fn no_program_reads_its_own_messages() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for directory in ["lib", "tools"] {
        for package in fs::read_dir(top.join(directory)).unwrap() {
            sources(&package.unwrap().path().join("src"), &mut files).unwrap();
        }
    }
    assert!(files.len() > 100, "{} sources", files.len());
    let mut found = Vec::new();
    for file in files {
        // A file of tests.
        if file.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        let reads = reads(&source);
        found.extend(reads.iter().map(|what| format!("{}: {what}", file.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_reads_a_message_is_found() {
    for source in [
        r#"if failure.code == Code::Network && !failure.message.contains(" 404") {"#,
        "failure.message.contains(\"the mirror has no '\") || other",
        "let reason = failure\n    .message\n    .rsplit_once(\"': \")\n    .map_or(\"\", |(_, why)| why);",
        "self.message.as_str().trim().ends_with(\"x\")",
        "f.hint.as_deref().is_some_and(|hint| hint.contains(\"'doctor'\"))",
        "failure.to_string().starts_with(\"x\")",
    ] {
        assert_eq!(reads(source).len(), 1, "{source}");
    }
    for source in [
        "context.warn(&failure.message);",
        "format!(\"{what}: {}\", failure.message).contains(x)",
        "// failure.message.contains(\"x\")",
        "failure.hint(\"a\").cause(x)",
        "#[cfg(test)]\nmod tests { failure.message.contains(\"x\") }",
    ] {
        assert_eq!(reads(source), [""; 0], "{source}");
    }
}

//! The man pages against the programs: what a page says of options, exit statuses and documents is what there is.
//!
//! The pages are written by hand, since generated ones lack what matters: what a tool does in which order, what it reads
//! and writes, what its exit status means. So that they stay true, each option of a program's help must be in its page
//! and the reverse, and what an example writes must be understood.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use strapline_tests::{TOOLS, bin_dir, top};

/// The pages that are about no single tool.
const OTHERS: [&str; 3] = ["strapline.7", "strapline.8", "strapline-document.5"];

/// The options of every stage: short and long.
const EVERY_STAGE: [&str; 9] = ["--state", "-n", "--new", "-q", "--quiet", "--progress", "-h", "--help", "--version"];

fn page_path(name: &str) -> PathBuf {
    top().join("man").join(name)
}

fn page(name: &str) -> String {
    let path = page_path(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pages() -> Vec<String> {
    let tools = TOOLS.iter().map(|tool| format!("{tool}.8"));
    tools.chain(OTHERS.map(str::to_owned)).collect()
}

/// Returns what `TOOL --help` prints where a terminal has 80 columns.
fn help(tool: &str) -> String {
    let out =
        Command::new(bin_dir().join(tool)).arg("--help").env("COLUMNS", "80").output().expect("the program is built");
    assert!(out.status.success(), "{tool} --help: {}", out.status);
    String::from_utf8(out.stdout).expect("help is UTF-8")
}

/// Returns the options of a help, `-x` and `--long`, and whether each needs a value: `--long[=<WHAT>]` may have one.
fn options_of_help(help: &str) -> BTreeMap<String, bool> {
    let mut options = BTreeMap::new();
    for line in help.lines() {
        let text = line.trim_start();
        // Deeper than that is what is said about an option.
        if !text.starts_with('-') || line.len() - text.len() > 6 {
            continue;
        }
        let names = text.split("  ").next().unwrap_or(text);
        let value = names.contains('<') && !names.contains("[=");
        for word in names.split([' ', ',']).filter(|w| w.starts_with('-')) {
            let name = word.split('[').next().unwrap_or(word);
            options.insert(name.to_owned(), value);
        }
    }
    options
}

/// Returns the lines of a section of a page.
fn section<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let head = format!(".Sh {name}");
    let lines = page.lines().skip_while(|line| *line != head).skip(1);
    lines.take_while(|line| !line.starts_with(".Sh ")).collect()
}

/// Returns the options that a page explains: those of the `.It` lines in its section OPTIONS.
fn options_of_page(page: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in section(page, "OPTIONS") {
        let mut words = line.split_whitespace();
        if words.next() != Some(".It") {
            continue;
        }
        while let Some(word) = words.next() {
            if word == "Fl" {
                options.extend(words.next().map(|name| format!("-{name}")));
            }
        }
    }
    options
}

/// Returns the text of the literal blocks and lines among `lines`, as a reader sees it.
fn literal(lines: &[&str]) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in lines {
        if let Some(text) = line.strip_prefix(".Dl ") {
            blocks.push(seen(text));
        } else if line.starts_with(".Bd -literal") {
            open = Some(String::new());
        } else if *line == ".Ed" {
            blocks.extend(open.take());
        } else if let Some(block) = &mut open {
            block.push_str(&seen(line));
            block.push('\n');
        }
    }
    blocks
}

/// Returns a line of mdoc(7) text without its escapes.
fn seen(line: &str) -> String {
    line.replace("\\&", "").replace("\\e", "\\")
}

/// Splits a piece of shell into simple commands and their words; enough of sh(1) for what stands in examples.
fn commands(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let mut commands = vec![vec![]];
    let mut word = String::new();
    let mut quote = None;
    let end = |commands: &mut Vec<Vec<String>>, word: &mut String, command: bool| {
        if !word.is_empty() {
            commands.last_mut().expect("there is one").push(std::mem::take(word));
        }
        if command {
            commands.push(vec![]);
        }
    };
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '|' | '&' | ';' | '\n' | '(' | ')') => end(&mut commands, &mut word, true),
            (None, ' ' | '\t') => end(&mut commands, &mut word, false),
            (_, c) => word.push(c),
        }
    }
    end(&mut commands, &mut word, true);
    commands.retain(|words| !words.is_empty());
    commands
}

/// Checks that every option which `words` gives to a tool is one of the tool's; says whether it is a tool at all.
fn check_command(words: &[String], known: &BTreeMap<&str, BTreeMap<String, bool>>) -> bool {
    let Some((&tool, options)) = known.get_key_value(words[0].as_str()) else {
        return false;
    };
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            break;
        }
        if !word.starts_with('-') {
            // What comes after is the command's own.
            if tool == "enter" {
                break;
            }
            continue;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, _)) => (name, true),
            None => (word.as_str(), false),
        };
        let takes = options.get(name);
        assert!(takes.is_some(), "{tool} has no {name}: {}", words.join(" "));
        if takes == Some(&true) && !value {
            assert!(rest.next().is_some(), "{name} needs a value: {}", words.join(" "));
        }
    }
    true
}

#[test]
fn every_tool_has_a_page_with_its_options_and_no_others() {
    for tool in TOOLS {
        let text = page(&format!("{tool}.8"));
        assert!(text.contains(&format!(".Dt {} 8\n", tool.to_uppercase())));
        let of_help: BTreeSet<_> = options_of_help(&help(tool)).into_keys().filter(|o| o.starts_with("--")).collect();
        let of_page: BTreeSet<_> = options_of_page(&text).into_iter().filter(|o| o.starts_with("--")).collect();
        assert!(of_help.len() > 2, "{tool}: the help is not understood");
        assert_eq!(of_page, of_help, "left: man/{tool}.8, right: {tool} --help");
        if tool != "doctor" {
            for option in EVERY_STAGE {
                assert!(options_of_page(&text).contains(option), "{tool}: {option}");
            }
        }
    }
}

#[test]
fn every_page_of_a_tool_has_its_sections() {
    for tool in TOOLS {
        let text = page(&format!("{tool}.8"));
        let mut wanted = vec!["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"];
        // doctor is no stage, and no shell could say it in a few lines.
        if tool != "doctor" {
            wanted.extend(["DOCUMENT", "NOTES"]);
        }
        for name in wanted {
            assert!(!section(&text, name).is_empty(), "man/{tool}.8: {name}");
        }
    }
}

#[test]
fn help_fits_a_terminal_and_hides_nothing() {
    for tool in TOOLS {
        for line in help(tool).lines() {
            assert!(line.chars().count() <= 80, "{tool} --help: {line}");
        }
        let source = top().join("tools").join(tool).join("src/main.rs");
        let text = std::fs::read_to_string(&source).expect("a tool has a main.rs");
        assert!(!text.contains("hide = true"), "{}", source.display());
    }
}

#[test]
fn pages_are_clean_mdoc() {
    for name in pages() {
        let out = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(page_path(&name))
            .output()
            .expect("mandoc is not here: apt-get install mandoc");
        let said = [out.stdout, out.stderr].concat();
        assert_eq!(String::from_utf8_lossy(&said), "", "man/{name}");
        assert!(out.status.success(), "man/{name}: {}", out.status);
        let text = page(&name);
        assert!(text.starts_with(".Dd "), "man/{name}");
        assert!(text.contains("\n.Os strapline\n"), "man/{name}");
    }
}

/// groff puts four columns between two of a table, and has 78 beside an indent of 5. What is wider it breaks at each word.
#[test]
fn tables_fit_a_terminal() {
    for name in pages() {
        let text = page(&name);
        let mut lines = text.lines();
        while let Some(line) = lines.find(|line| line.starts_with(".Bl -column ")) {
            let widths: Vec<_> = line.split('"').skip(1).step_by(2).map(|cell| cell.chars().count() + 4).collect();
            let row = lines.next().unwrap_or_default();
            let columns = 1 + row.split(' ').filter(|word| *word == "Ta").count();
            // A last column without a width has the rest of the line.
            let most = if columns > widths.len() { 60 } else { 77 };
            assert!(widths.iter().sum::<usize>() <= most, "man/{name}: {line}");
        }
    }
}

#[test]
fn the_table_of_exit_statuses_is_the_programs_own() {
    let text = page("strapline-document.5");
    let mut rows = BTreeSet::new();
    for line in text.lines() {
        // .It Sy usage Ta 64 Ta the command line is wrong
        let cells: Vec<_> = line.split(" Ta ").collect();
        if let [code, exit, _] = cells[..]
            && let Some(code) = code.strip_prefix(".It Sy ")
            && let Ok(exit) = exit.parse::<u8>()
        {
            assert!(rows.insert((code.to_owned(), exit)), "{code} is there twice");
        }
    }
    let codes: BTreeSet<_> = stage::Code::ALL.iter().map(|code| (code.word().to_owned(), code.exit())).collect();
    assert_eq!(rows, codes);
}

#[test]
fn the_exit_statuses_of_a_page_are_of_the_table() {
    for tool in TOOLS {
        let text = page(&format!("{tool}.8"));
        let lines = section(&text, "EXIT STATUS");
        let numbers: BTreeSet<u8> = lines.iter().filter_map(|line| line.strip_prefix(".It ")?.parse().ok()).collect();
        assert!(numbers.contains(&0), "man/{tool}.8");
        let known = |n: &u8| {
            // chroot(1)'s, which enter has in its place when it stands alone.
            let alone = tool == "enter" && (125..=127).contains(n);
            *n == 0 || alone || stage::Code::ALL.iter().any(|code| code.exit() == *n)
        };
        let unknown: Vec<_> = numbers.iter().filter(|n| !known(n)).collect();
        assert!(unknown.is_empty(), "man/{tool}.8: {unknown:?}");
    }
}

#[test]
fn the_documents_of_the_page_are_documents() {
    let text = page("strapline-document.5");
    let blocks = literal(&section(&text, "EXAMPLES"));
    let documents: Vec<_> = blocks.iter().filter(|b| b.starts_with('{')).collect();
    assert_eq!(documents.len(), 2);
    for text in documents {
        strapline_tests::schema::check(&serde_json::from_str(text).expect("JSON"));
    }
}

/// Returns the type of a member as the table has it, and adds the names of its own members, at every level.
fn shape(schema: &Value, of: &Value, names: &mut BTreeSet<String>) -> String {
    if let Some(reference) = of["$ref"].as_str() {
        let target = reference.trim_start_matches('#');
        let target = schema.pointer(target).expect("a definition");
        return shape(schema, target, names);
    }
    for (name, inner) in of["properties"].as_object().into_iter().flatten() {
        // An error in `also` is as the first.
        if names.insert(name.clone()) {
            shape(schema, inner, names);
        }
    }
    for part in of["allOf"].as_array().into_iter().flatten() {
        shape(schema, part, names);
    }
    match of["type"].as_str() {
        Some("array") => {
            let kind = shape(schema, &of["items"], names);
            // Of one that two tools write, the parts are objects.
            let kind = if of["items"]["allOf"].is_array() { "object" } else { &kind };
            format!("array of {kind}s")
        }
        Some(kind) => kind.to_owned(),
        None => "string".to_owned(),
    }
}

#[test]
fn the_schema_and_the_table_are_those_of_the_types() {
    let schema = stage::members::schema();
    let file = top().join("docs/schema.json");
    let text = std::fs::read_to_string(&file).expect("the schema");
    let committed: Value = serde_json::from_str(&text).expect("JSON");
    assert!(committed == schema, "run 'cargo run -p stage --example schema > docs/schema.json'");

    let text = page("strapline-document.5");
    let rows = section(&text, "MEMBERS");
    let mut rows = rows.iter().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix(".It ")?.split(" Ta ").collect();
        <[&str; 4]>::try_from(cells).ok()
    });
    let head = ["Sy Name", "Sy Type", "Sy Written by", "Sy Read by"];
    assert_eq!(rows.next(), Some(head));
    for (name, of) in schema["properties"].as_object().expect("members") {
        let owners: Vec<_> = of["x-written-by"].as_array().into_iter().flatten().collect();
        let owners: Vec<_> = owners.iter().filter_map(|o| o.as_str()).collect();
        let mut names = BTreeSet::new();
        let kind = shape(&schema, of, &mut names);
        let row = rows.next().expect("a row for each member");
        assert_eq!(row[..3], [name, &*kind, &*owners.join(", ")]);
        let pages = owners.iter().filter(|o| TOOLS.contains(o));
        let pages: String = pages.map(|tool| page(&format!("{tool}.8"))).collect();
        let told: BTreeSet<_> = text.split([' ', '\n', '.']).chain(pages.split([' ', '\n', '.'])).collect();
        let untold: Vec<_> = names.iter().filter(|n| !told.contains(n.as_str())).collect();
        assert!(untold.is_empty(), "{name}: no page says what {untold:?} is");
    }
    assert_eq!(rows.next(), None);
}

#[test]
fn examples_use_options_that_there_are() {
    let known: BTreeMap<_, _> = TOOLS.iter().map(|tool| (*tool, options_of_help(&help(tool)))).collect();
    for name in pages() {
        let text = page(&name);
        // The page about the pipeline is examples throughout.
        let lines = match name.as_str() {
            "strapline.7" => text.lines().collect(),
            _ => section(&text, "EXAMPLES"),
        };
        let mut found = 0;
        for block in literal(&lines) {
            if block.starts_with('{') {
                continue;
            }
            for words in commands(&block) {
                found += usize::from(check_command(&words, &known));
            }
        }
        // The page about documents, and that of the program that only runs the tools.
        let without = ["strapline-document.5", "strapline.8"].contains(&name.as_str());
        assert!(without || found > 0, "man/{name} has no example");
    }
}

#[test]
fn shell_is_split_as_the_shell_does() {
    let text = "mkroot a --arch x \\\n  | mkconf --server 'http://h/$arch; x'\nreap b; unmount b > c\n";
    let expected: [&[&str]; 4] = [
        &["mkroot", "a", "--arch", "x"],
        &["mkconf", "--server", "http://h/$arch; x"],
        &["reap", "b"],
        &["unmount", "b", ">", "c"],
    ];
    assert_eq!(commands(text), expected);
}

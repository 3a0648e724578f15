//! The protocol, held against every stage by one table: what is no document, a document that says that a stage failed,
//! members that nobody knows, a stdout that takes nothing, terminals, wrong command lines, signals.
//!
//! A new tool is covered by its row in [`ROWS`]; a tool without one fails every test here.

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use strapline_tests::trial::PATIENCE;
use strapline_tests::{Lab, Mirror, Ran, Server, TOOLS, Who};

/// What a stage does with a document that says that a stage before it failed, and with none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Makes, and can begin a pipeline.
    Start,
    /// Makes.
    Make,
    /// Undoes.
    Undo,
}

/// A stage.
#[derive(Debug)]
struct Row {
    tool: &'static str,
    kind: Kind,
    /// Arguments with which it does its work on the finished root `root` in the working directory.
    works: &'static [&'static str],
    /// Arguments with which it fails on a document whose `root_id` is another root's, and the exit status.
    fails: (&'static [&'static str], i32),
}

/// Every stage, in the order of a pipeline.
const ROWS: &[Row] = &[
    Row { tool: "mkroot", kind: Kind::Start, works: &["root"], fails: (&["elsewhere"], 64) },
    Row {
        tool: "fetch-pacman",
        kind: Kind::Start,
        // Without a document the pins are archlinuxcn's own, and the mirror's key is not among them.
        works: &["--offline", "--unsigned", "--cache-dir", "fetched"],
        fails: (&["--offline", "--cache-dir", "nothing"], 69),
    },
    Row {
        tool: "mkconf",
        kind: Kind::Make,
        works: &["--cache-dir", "packages"],
        fails: (&["--cache-dir", "packages"], 69),
    },
    Row { tool: "keyring", kind: Kind::Make, works: &[], fails: (&[], 69) },
    Row { tool: "strap", kind: Kind::Make, works: &["--no-refresh", "filesystem"], fails: (&["filesystem"], 69) },
    Row { tool: "configure", kind: Kind::Make, works: &["--hostname", "alarm"], fails: (&["--hostname", "alarm"], 69) },
    Row { tool: "verify", kind: Kind::Make, works: &[], fails: (&[], 69) },
    Row {
        tool: "pack",
        kind: Kind::Make,
        works: &["-o", "image.tar", "--keep-keyring"],
        fails: (&["-o", "image.tar"], 69),
    },
    Row {
        tool: "mkdisk",
        kind: Kind::Make,
        works: &["-o", "disk.img", "--bootloader", "none", "--keep-keyring"],
        fails: (&["-o", "disk.img"], 69),
    },
    Row { tool: "enter", kind: Kind::Make, works: &["true"], fails: (&["true"], 69) },
    Row { tool: "reap", kind: Kind::Undo, works: &[], fails: (&[], 69) },
    Row { tool: "unmount", kind: Kind::Undo, works: &[], fails: (&[], 69) },
];

/// The stages: every program but `doctor`, which has no document.
fn rows() -> impl Iterator<Item = &'static Row> {
    for tool in TOOLS.iter().filter(|t| **t != "doctor") {
        let known = ROWS.iter().any(|row| row.tool == *tool);
        assert!(known, "{tool} is a stage without a row: give it one");
    }
    ROWS.iter()
}

// ---------------------------------------------------------------------------------------------------------------------
// Running one stage.

/// Starts a stage with its input and output as they are given.
fn start(lab: &Lab, tool: &str, args: &[&str], stdin: Stdio, stdout: Stdio) -> Child {
    let mut command = lab.command(tool);
    command.args(args).stdin(stdin).stdout(stdout);
    // With a date, the ids of an image are the same each time.
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    command.stderr(Stdio::piped());
    // The command keeps its ends of pipes and terminals as long as it lives: no longer than this.
    spawn(command)
}

fn spawn(mut command: Command) -> Child {
    command.spawn().unwrap_or_else(|e| panic!("running {command:?}: {e}"))
}

/// Writes a stage's input while it runs. One that does not want it all hangs up: that is its own business.
fn feed(child: &mut Child, input: &[u8]) -> thread::JoinHandle<()> {
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    thread::spawn(move || drop(pipe.write_all(&input)))
}

fn finish(child: Child) -> Ran {
    let out = child.wait_with_output().expect("our own child");
    Ran {
        status: out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Runs a stage with this document on stdin.
fn run(lab: &Lab, tool: &str, args: &[&str], input: &[u8]) -> Ran {
    run_into(lab, tool, args, input, Stdio::piped())
}

fn run_into(lab: &Lab, tool: &str, args: &[&str], input: &[u8], stdout: Stdio) -> Ran {
    let mut child = start(lab, tool, args, Stdio::piped(), stdout);
    let writer = feed(&mut child, input);
    let ran = finish(child);
    writer.join().expect("a writer does not panic");
    ran
}

/// What a stage says of a failure.
#[derive(Clone, Copy, Debug)]
struct Said<'a> {
    code: &'a str,
    exit: i32,
    message: &'a str,
    hint: Option<&'a str>,
}

impl Said<'_> {
    fn stderr(&self, tool: &str) -> String {
        let hint = self.hint.map(|hint| format!("{tool}: hint: {hint}\n"));
        format!("{tool}: {}\n{}", self.message, hint.unwrap_or_default())
    }

    fn error(&self, tool: &str) -> Value {
        let mut error = json!({"tool": tool, "code": self.code, "message": self.message, "exit": self.exit});
        if let Some(hint) = self.hint {
            error["hint"] = json!(hint);
        }
        error
    }

    /// Checks all that a stage shows of this failure: status, stderr whole, and a document of one line that is `rest`
    /// and the error.
    #[track_caller]
    fn is(&self, case: &str, tool: &str, ran: &Ran, rest: &Value) {
        assert_eq!(ran.status, self.exit, "{tool}: {case}: {ran:?}");
        assert_eq!(ran.stderr, self.stderr(tool), "{tool}: {case}");
        let mut expected = rest.clone();
        expected["error"] = self.error(tool);
        expected["error"]["also"] = json!([]);
        assert_eq!(one_line(ran), expected, "{tool}: {case}");
    }
}

/// Returns the document, which must be one line.
#[track_caller]
fn one_line(ran: &Ran) -> Value {
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    assert!(ran.stdout.ends_with('\n'), "{ran:?}");
    ran.document()
}

/// Returns a document without the record of runs, which has times in it.
fn without_steps(mut document: Value) -> Value {
    document.as_object_mut().expect("an object").shift_remove("steps");
    document
}

/// Returns the names in a directory, to see that nothing was made there.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

// ---------------------------------------------------------------------------------------------------------------------
// What is no document.

#[test]
fn what_is_no_document_is_refused_first() {
    let lab = Lab::new(Who::Root);
    let huge = format!("{{\"strapline\":1,\"org.example.x\":\"{}\"}}\n", "a".repeat(17 << 20));
    let deep = format!("{{\"strapline\":1,\"org.example.x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    const NOTHING: &str = "it is empty: the tool before this one printed nothing";
    const MIXED: &str = "there are other lines beside the document";
    const NOT_PLAIN: &str = "the path is absolute where it must not be, or has '.', '..' or '//'";
    let not_plain = |member: &str| format!("\"{member}\": {NOT_PLAIN}");
    let cases: Vec<(&str, &[u8], String)> = vec![
        ("empty", b"", NOTHING.into()),
        ("blank", b" \n\t\n", NOTHING.into()),
        ("junk", b"junk\n", "not JSON: expected value at line 1 column 1".into()),
        ("a web page", b"<html><body>404</body></html>", "not JSON: expected value at line 1 column 1".into()),
        (
            "cut off",
            b"{\"strapline\":1,\"root\":\"/sr",
            "not JSON: EOF while parsing a string at line 1 column 26".into(),
        ),
        (
            "two documents",
            b"{\"strapline\":1}{\"strapline\":1}",
            "more than one document, or text after it (trailing characters at line 1 column 16)".into(),
        ),
        (
            "two lines",
            b"{\"strapline\":1}\n{\"strapline\":1}\n",
            "more than one document, or text after it (trailing characters at line 2 column 1)".into(),
        ),
        ("text before it", b"starting\n{\"strapline\":1}\n", MIXED.into()),
        ("text after it", b"{\"strapline\":1}\nending\n", MIXED.into()),
        (
            "not UTF-8",
            b"{\"strapline\":1,\"root\":\"/\xff\"}",
            "not UTF-8: invalid utf-8 sequence of 1 bytes from index 24".into(),
        ),
        ("too deep", deep.as_bytes(), "not JSON: recursion limit exceeded at line 1 column 158".into()),
        ("an array", b"[{\"strapline\":1}]", "not a JSON object".into()),
        ("null", b"null", "not a JSON object".into()),
        (
            "another document",
            b"{\"ociVersion\":\"1.0\"}",
            "not a strapline document: it has no \"strapline\" member".into(),
        ),
        ("version 2", b"{\"strapline\":2}", "it is of version 2, this tool speaks version 1".into()),
        ("a version of words", b"{\"strapline\":\"1\"}", "\"strapline\" is not a version number".into()),
        ("null root", b"{\"strapline\":1,\"root\":null}", "\"root\": invalid type: null, expected a string".into()),
        (
            "the host's root",
            b"{\"strapline\":1,\"root\":\"/\"}",
            "\"root\": the path is '/', the host's own root".into(),
        ),
        ("relative root", b"{\"strapline\":1,\"root\":\"srv/x\"}", "\"root\": the path is not absolute".into()),
        ("root with ..", b"{\"strapline\":1,\"root\":\"/srv/../etc\"}", not_plain("root")),
        (
            "root with a newline",
            b"{\"strapline\":1,\"root\":\"/srv/a\\nb\"}",
            "\"root\": the path has a control character".into(),
        ),
        (
            "mount with ..",
            b"{\"strapline\":1,\"mounts\":[{\"at\":\"proc\",\"type\":\"proc\"},{\"at\":\"../etc\"}]}",
            not_plain("mounts[1].at"),
        ),
        ("absolute mount", b"{\"strapline\":1,\"mounts\":[{\"at\":\"/etc\"}]}", not_plain("mounts[0].at")),
        (
            "relative pacman",
            b"{\"strapline\":1,\"pacman\":{\"path\":\"pacman\"}}",
            "\"pacman.path\": the path is not absolute".into(),
        ),
        (
            "architecture with a path in it",
            b"{\"strapline\":1,\"arch\":\"../x\"}",
            "\"arch\": not the name of an architecture".into(),
        ),
        (
            "unknown mode",
            b"{\"strapline\":1,\"mode\":\"bare\"}",
            "\"mode\": unknown variant `bare`, expected one of `root`, `user`, `host`, `chroot`".into(),
        ),
        (
            "an error that says success",
            b"{\"strapline\":1,\"error\":{\"exit\":0}}",
            "\"error.exit\": not an exit status between 1 and 255".into(),
        ),
        (
            "a later error that is none",
            b"{\"strapline\":1,\"error\":{\"exit\":75,\"also\":[{\"exit\":69},5]}}",
            "\"error.also[1]\": invalid type: integer `5`, expected an object".into(),
        ),
        ("17 MiB", huge.as_bytes(), "is longer than 16777216 bytes".into()),
    ];
    for row in rows() {
        for (case, input, why) in &cases {
            let ran = run(&lab, row.tool, row.works, input);
            let message = format!("reading the document on stdin: {why}");
            let hint = (why == MIXED)
                .then_some("leave '2>&1' out: messages are on stderr, and a pipe carries the document alone");
            let said = Said { code: "bad-document", exit: 65, message: &message, hint };
            said.is(case, row.tool, &ran, &json!({"strapline": 1}));
        }
        let directory = File::open(lab.path()).expect("our own directory");
        let child = start(&lab, row.tool, row.works, directory.into(), Stdio::piped());
        let said = Said {
            code: "bad-document",
            exit: 65,
            message: "reading the document on stdin: Is a directory (os error 21)",
            hint: None,
        };
        let ran = finish(child);
        said.is("a directory", row.tool, &ran, &json!({"strapline": 1}));
        assert_eq!(names(lab.path()), Vec::<String>::new(), "{}", row.tool);
    }
}

#[test]
fn an_undoing_tool_works_from_the_directory_alone() {
    let lab = Lab::new(Who::Root);
    fs::create_dir(lab.path().join("root")).expect("our own directory");
    for row in rows().filter(|row| row.kind == Kind::Undo) {
        let ran = run(&lab, row.tool, &["--quiet", "root"], b"");
        assert_eq!(ran.status, 65, "{ran:?}");
        let document = one_line(&ran);
        assert!(document[row.tool].is_object(), "it did no work: {document}");
        let message = "reading the document on stdin: it is empty: the tool before this one printed nothing";
        assert_eq!(document["error"]["message"], message);
        assert_eq!(
            ran.stderr,
            format!("{tool}: {message}\n{tool}: hint: to work from the directory alone, give --new\n", tool = row.tool)
        );
        // What is not empty and no document may mean another root: nothing is done.
        let ran = run(&lab, row.tool, &["--quiet", "root"], b"<html>");
        assert_eq!(ran.status, 65, "{ran:?}");
        assert_eq!(one_line(&ran).get(row.tool), None);
        // Asked for, it is a success.
        let ran = run(&lab, row.tool, &["--quiet", "--new", "root"], b"not read");
        assert_eq!((ran.status, &*ran.stderr), (0, ""), "{ran:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A failed document.

#[test]
fn a_failed_document_passes_making_tools() {
    let lab = Lab::new(Who::Root);
    let root = lab.path().join("root");
    let with_root = format!("\"root\" : {:?},", root.display().to_string());
    for exit in [1, 69, 75, 130, 255] {
        for root_member in ["", &with_root] {
            // Not as we would write it: white space, an escape, an order of its own, no newline at the end.
            let input = format!(
                "\n{{ \"error\": {{\"exit\":{exit}, \"org.example.x\":\"\\u0041\", \"tool\":\"other\"}},{root_member}\n \
                 \"strapline\": 1, \"org.example.y\": 1.50 }}"
            );
            for row in rows() {
                let ran = run(&lab, row.tool, row.works, input.as_bytes());
                assert_eq!(ran.status, exit, "{}: {ran:?}", row.tool);
                if row.kind != Kind::Undo {
                    assert_eq!(ran.stdout, input, "{}", row.tool);
                    assert_eq!(ran.stderr, "", "{}", row.tool);
                    continue;
                }
                let nothing = format!("{}: no root was made: there is nothing to do\n", row.tool);
                assert_eq!(ran.stderr, nothing);
                let input: Value = serde_json::from_str(&input).expect("JSON");
                assert_eq!(without_steps(one_line(&ran)), input, "{}", row.tool);
            }
        }
    }
    assert_eq!(names(lab.path()), Vec::<String>::new());
    // With a root, undoing tools do their work, and the error stays to the byte.
    fs::create_dir(&root).expect("our own directory");
    let input = json!({"strapline": 1, "root": root, "error": {"tool": "strap", "code": "child-failed",
        "message": "m", "exit": 69, "also": [{"tool": "x", "exit": 71}], "org.example.x": [1]}});
    for row in rows().filter(|row| row.kind == Kind::Undo) {
        let ran = run(&lab, row.tool, row.works, input.to_string().as_bytes());
        assert_eq!(ran.status, 69, "{ran:?}");
        let document = one_line(&ran);
        assert_eq!(document["error"], input["error"], "{}", row.tool);
        assert!(document[row.tool].is_object(), "it did no work: {document}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A finished root.

/// A finished root with its document, and a server that its configuration names.
struct Bench {
    lab: Lab,
    document: Value,
    _server: Server,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::new(Who::Root);
        let server = serve(&lab);
        let ran = lab
            .sh("mkroot root --distro ./preset.toml | fetch-pacman --cache-dir fetched | mkconf --cache-dir packages \
             | keyring | strap filesystem bash coreutils");
        let document = ran.succeeded();
        Self { lab, document, _server: server }
    }

    /// Runs a stage on the finished root.
    fn run(&self, row: &Row, document: &Value) -> Ran {
        let ran = run(&self.lab, row.tool, row.works, document.to_string().as_bytes());
        assert_eq!(ran.status, 0, "{}: {}", row.tool, ran.stderr);
        ran
    }
}

/// Serves the mirror, and writes a preset that names the server and no other.
fn serve(lab: &Lab) -> Server {
    let mirror = Mirror::of("x86_64");
    let server = Server::of(&mirror.www());
    let preset = fs::read_to_string(mirror.preset()).expect("a preset");
    let preset = preset.replace("http://127.0.0.1:8765", server.url());
    assert!(preset.contains(server.url()), "{preset}");
    fs::write(lab.path().join("preset.toml"), preset).expect("our own directory");
    server
}

/// Puts a member that nobody knows into every object.
fn annotate(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(annotate);
            let note = json!({"deep": [1, {"x": "größe"}], "number": 9_007_199_254_740_991_u64});
            map.insert("org.example.note".into(), note);
        }
        Value::Array(list) => list.iter_mut().for_each(annotate),
        _ => {}
    }
}

/// Returns where the notes are, as JSON pointers (RFC 6901). Elements of `mounts` and `packages` are known by their
/// place or name, not by their number.
fn notes(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "org.example.note" {
                    found.push(at.to_owned());
                } else {
                    notes(value, &format!("{at}/{key}"), found);
                }
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                let name = ["at", "name"].iter().find_map(|key| value.get(key)?.as_str());
                let name = name.map_or(i.to_string(), str::to_owned);
                notes(value, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

/// Checks that every note of `before` is where it was.
#[track_caller]
fn survived(case: &str, row: &Row, before: &Value, after: &Value) {
    let (mut had, mut has) = (Vec::new(), Vec::new());
    notes(before, "", &mut had);
    notes(after, "", &mut has);
    had.retain(|at| !has.contains(at));
    assert_eq!(had, Vec::<String>::new(), "{}: {case}: lost", row.tool);
    assert_eq!(after["org.example.note"], before["org.example.note"], "{}: {case}", row.tool);
}

#[test]
fn what_a_tool_does_not_know_survives_at_every_level() {
    let bench = Bench::new();
    let mut document = bench.document.clone();
    annotate(&mut document);
    let mut had = Vec::new();
    notes(&document, "", &mut had);
    for at in [
        "",
        "/root_id",
        "/pacman",
        "/pacman/package",
        "/config",
        "/keyring",
        "/binfmt",
        "/mounts/dev/pts",
        "/packages/bash",
        "/steps/0",
    ] {
        assert!(had.contains(&at.to_owned()), "{at} is not tested: {had:?}");
    }
    for row in rows() {
        let ran = bench.run(row, &document);
        survived("success", row, &document, &one_line(&ran));
        // A failure does not lose them either, nor the members that are ours.
        let mut replaced = document.clone();
        replaced["root_id"] = json!({ "dev": 1, "ino": 1 });
        let (args, exit) = row.fails;
        let ran = run(&bench.lab, row.tool, args, replaced.to_string().as_bytes());
        assert_eq!(ran.status, exit, "{}: {ran:?}", row.tool);
        let after = one_line(&ran);
        survived("failure", row, &replaced, &after);
        assert_eq!(after["error"]["tool"], row.tool);
        let lines: Vec<_> = ran.stderr.lines().collect();
        let message = after["error"]["message"].as_str().expect("a message");
        assert_eq!(lines[0], format!("{}: {message}", row.tool));
        assert!(lines.len() <= 2, "{lines:?}");
        for (key, value) in replaced.as_object().expect("an object") {
            if key != "steps" {
                assert_eq!(&after[key], value, "{}: {key}", row.tool);
            }
        }
    }
}

#[test]
fn a_tool_removes_only_its_own_error() {
    let bench = Bench::new();
    for row in rows() {
        let mut failed = bench.document.clone();
        failed["error"] = json!({"tool": row.tool, "code": "busy", "message": "m", "exit": 75, "also": []});
        fs::write(bench.lab.path().join("failed.json"), failed.to_string()).expect("a file");
        if row.tool != "enter" {
            // enter with --state stands alone, and no document comes out.
            let args = [row.works, &["--state", "failed.json"]].concat();
            let ran = run(&bench.lab, row.tool, &args, b"not read");
            assert_eq!(ran.status, 0, "{}: {ran:?}", row.tool);
            assert_eq!(one_line(&ran).get("error"), None, "{}", row.tool);
        }
        // In a pipe the error may be of the same run: it passes.
        let ran = run(&bench.lab, row.tool, row.works, failed.to_string().as_bytes());
        let expected = if row.kind == Kind::Undo { 0 } else { 75 };
        assert_eq!(ran.status, expected, "{}: {ran:?}", row.tool);
        failed["error"]["tool"] = json!("other");
        let ran = run(&bench.lab, row.tool, row.works, failed.to_string().as_bytes());
        assert_eq!(ran.status, 75, "{}: {ran:?}", row.tool);
        assert_eq!(ran.document()["error"], failed["error"]);
        if row.kind == Kind::Undo {
            // Undone now, it is not among the later failures any more either; the first and the others stay.
            let mut also = failed.clone();
            let another = json!({"tool": "another", "exit": 71});
            also["error"]["also"] = json!([{"tool": row.tool, "exit": 75}, another]);
            let ran = run(&bench.lab, row.tool, row.works, also.to_string().as_bytes());
            also["error"]["also"] = json!([another]);
            assert_eq!((ran.status, &ran.document()["error"]), (75, &also["error"]));
            also["error"]["tool"] = json!(row.tool);
            let ran = run(&bench.lab, row.tool, row.works, also.to_string().as_bytes());
            let first = json!({"tool": "another", "exit": 71, "also": []});
            assert_eq!((ran.status, &ran.document()["error"]), (71, &first));
        }
    }
}

#[test]
fn a_terminal_or_dev_null_begins_a_pipeline() {
    let bench = Bench::new();
    let lab = &bench.lab;
    for row in rows() {
        let pty = openpty(None, None).expect("a terminal");
        let terminal = start(lab, row.tool, row.works, pty.slave.into(), Stdio::piped());
        let null = start(lab, row.tool, row.works, Stdio::null(), Stdio::piped());
        for (what, child) in [("a terminal", terminal), ("/dev/null", null)] {
            let ran = finish(child);
            if row.kind == Kind::Start {
                assert_eq!(ran.status, 0, "{}: {ran:?}", row.tool);
                let document = one_line(&ran);
                assert_eq!(document["strapline"], 1);
                assert_eq!(document["steps"][0]["tool"], row.tool);
                continue;
            }
            let message = format!("stdin is {what}: expected the document of the tool before this one");
            let said = Said {
                code: "usage",
                exit: 64,
                message: &message,
                hint: Some("begin with 'mkroot DIR |', or give a document with --state FILE"),
            };
            said.is(what, row.tool, &ran, &json!({"strapline": 1}));
        }
        drop(pty.master);
        if row.kind == Kind::Undo {
            let pty = openpty(None, None).expect("a terminal");
            let child = start(lab, row.tool, &["root"], pty.slave.into(), Stdio::piped());
            let ran = finish(child);
            assert_eq!(ran.status, 0, "{}: {ran:?}", row.tool);
        }
        // The same document, over several lines, and no other difference. Once before, since some say what they changed.
        bench.run(row, &bench.document);
        let pty = openpty(None, None).expect("a terminal");
        let mut child = start(lab, row.tool, row.works, Stdio::piped(), pty.slave.into());
        let writer = feed(&mut child, bench.document.to_string().as_bytes());
        let shown = read_terminal(File::from(pty.master));
        writer.join().expect("a writer does not panic");
        let ran = finish(child);
        assert_eq!(ran.status, 0, "{}: {}", row.tool, ran.stderr);
        assert!(shown.starts_with("{\r\n  \"strapline\": 1,\r\n"), "{shown}");
        let shown: Value = serde_json::from_str(&shown).expect("a document");
        let piped = one_line(&bench.run(row, &bench.document));
        assert_eq!(without_steps(shown), without_steps(piped), "{}", row.tool);
    }
}

/// Reads a terminal until nobody has its other side any more, which is EIO (pty(7)).
fn read_terminal(mut master: File) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(text).expect("UTF-8")
}

// ---------------------------------------------------------------------------------------------------------------------
// A stdout that takes nothing.

#[test]
fn a_document_that_cannot_be_handed_on() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    // The stages of a pipeline one by one, each at the point where it has everything to do.
    let arguments = |row: &Row| -> Vec<&str> {
        match row.tool {
            "mkroot" => vec!["root", "--distro", "./preset.toml"],
            "fetch-pacman" => vec!["--cache-dir", "fetched", "-o", "pacman"],
            "strap" => vec!["filesystem", "bash", "coreutils"],
            _ => row.works.to_vec(),
        }
    };
    let mut document = String::from("{\"strapline\":1}\n");
    for row in rows() {
        let args = arguments(row);
        for (reason, stdout) in
            [("No space left on device (os error 28)", full()), ("Broken pipe (os error 32)", reader_gone())]
        {
            let before = tree(lab.path());
            let ran = run_into(&lab, row.tool, &args, document.as_bytes(), stdout);
            assert_eq!(ran.status, 74, "{}: {ran:?}", row.tool);
            let line = format!("{}: writing the document on stdout: {reason}", row.tool);
            assert_eq!(ran.stderr.lines().last(), Some(&*line), "{}", row.tool);
            if ["strap", "configure"].contains(&row.tool) {
                // What is installed is installed, since pacman has no way back; and who is a user stays one.
                continue;
            }
            let after = tree(lab.path());
            // What was downloaded is kept for the next run, in the caches and in pacman's own records.
            let left: Vec<_> = after
                .iter()
                .filter(|path| !before.contains(path))
                .filter(|p| !p.starts_with("fetched") && !p.starts_with("packages/"))
                .filter(|p| !p.starts_with("root/var/lib/pacman/") && *p != "root/var/log/pacman.log")
                .collect();
            assert_eq!(left, Vec::<&String>::new(), "{} left", row.tool);
        }
        let ran = run(&lab, row.tool, &args, document.as_bytes());
        assert_eq!(ran.status, 0, "{}: {}", row.tool, ran.stderr);
        document = ran.stdout;
    }
    // On the host, too: Lab looks for the mounts.
    let args = ["live", "--host", "--distro", "./preset.toml"];
    let ran = run_into(&lab, "mkroot", &args, b"{\"strapline\":1}", full());
    assert_eq!(ran.status, 74, "{ran:?}");
    assert!(!lab.path().join("live").exists());
}

#[test]
fn a_failure_that_cannot_be_handed_on_is_74_too() {
    let lab = Lab::new(Who::Root);
    for row in rows() {
        for (reason, stdout) in [
            ("No space left on device (os error 28)", full as fn() -> Stdio),
            ("Broken pipe (os error 32)", reader_gone),
        ] {
            let line = format!("{}: writing the document on stdout: {reason}", row.tool);
            let option = ["--no-such-option"];
            for (case, args, input) in [
                ("no document", row.works, &b""[..]),
                ("wrong command line", &option[..], b"{\"strapline\":1}"),
                ("a failed document", row.works, b"{\"strapline\":1,\"error\":{\"exit\":69}}"),
            ] {
                let ran = run_into(&lab, row.tool, args, input, stdout());
                assert_eq!(ran.status, 74, "{}: {case}: {ran:?}", row.tool);
                assert_eq!(ran.stderr.lines().last(), Some(&*line), "{case}");
            }
            for option in ["--help", "--version"] {
                let ran = run_into(&lab, row.tool, &[option], b"", stdout());
                assert_eq!(ran.status, 74, "{}: {option}: {ran:?}", row.tool);
                let line = format!("{}: writing the help on stdout: {reason}\n", row.tool);
                assert_eq!(ran.stderr, line);
            }
        }
    }
    assert_eq!(names(lab.path()), Vec::<String>::new());
}

fn full() -> Stdio {
    let full = File::options().write(true).open("/dev/full");
    full.expect("/dev/full is there").into()
}

fn reader_gone() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Returns every path below a directory.
fn tree(dir: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(here) = left.pop() {
        for entry in fs::read_dir(&here).expect("a directory").flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                left.push(path.clone());
            }
            let below = path.strip_prefix(dir).expect("a path below it");
            paths.push(below.to_string_lossy().into_owned());
        }
    }
    paths
}

// ---------------------------------------------------------------------------------------------------------------------
// Command lines.

#[test]
fn a_wrong_command_line_is_a_failure_that_is_handed_on() {
    let lab = Lab::new(Who::Root);
    let upstream = json!({"strapline": 1, "root": lab.path().join("root"), "steps": [{"tool": "mkroot"}],
        "org.example.x": {"y": [1]}});
    for row in rows() {
        let hint = format!("see '{} --help'", row.tool);
        let said = Said {
            code: "usage",
            exit: 64,
            message: "unexpected argument '--no-such-option' found",
            hint: Some(&hint),
        };
        let args = [&["--no-such-option"], row.works].concat();
        let ran = run(&lab, row.tool, &args, upstream.to_string().as_bytes());
        said.is("a document", row.tool, &ran, &upstream);
        for input in [&b""[..], b"junk"] {
            let ran = run(&lab, row.tool, &args, input);
            said.is("no document", row.tool, &ran, &json!({"strapline": 1}));
        }
        let child = start(&lab, row.tool, &args, Stdio::null(), Stdio::piped());
        said.is("/dev/null", row.tool, &finish(child), &json!({"strapline": 1}));
        // The first error stays, ours goes beside it, and the exit status is the first one's.
        let mut failed = upstream.clone();
        failed["error"] = json!({"tool": "other", "code": "busy", "message": "m", "exit": 75, "also": []});
        let ran = run(&lab, row.tool, &args, failed.to_string().as_bytes());
        assert_eq!(ran.status, 75, "{ran:?}");
        assert_eq!(ran.stderr, said.stderr(row.tool));
        failed["error"]["also"] = json!([said.error(row.tool)]);
        assert_eq!(one_line(&ran), failed);
        // A document that is to be read from a file that is not there.
        if row.tool != "enter" {
            let args = [row.works, &["--state", "none.json"]].concat();
            let ran = run(&lab, row.tool, &args, b"not read");
            let said = Said {
                code: "usage",
                exit: 64,
                message: "opening the document 'none.json': No such file or directory (os error 2)",
                hint: None,
            };
            said.is("no file", row.tool, &ran, &json!({"strapline": 1}));
        }
    }
    assert_eq!(names(lab.path()), Vec::<String>::new());
}

/// Values that make no sense, and options that exclude one another: a tool, its arguments, and what it says. A document is
/// read to its end and handed on all the same, and nothing is made.
const SENSELESS: &[(&str, &[&str], &str)] = &[
    ("fetch-pacman", &["--timeout", "0"], "invalid value '0' for '--timeout <SECONDS>': 0 is not in 1..=86400"),
    (
        "fetch-pacman",
        &["--sha256", "xyz"],
        "invalid value 'xyz' for '--sha256 <HEX>': not a SHA-256: 64 hexadecimal digits",
    ),
    (
        "fetch-pacman",
        &["--trust", "1234"],
        "invalid value '1234' for '--trust <FINGERPRINT>': '1234' is not a fingerprint: 40 hexadecimal digits, upper case",
    ),
    ("fetch-pacman", &["--use", "pacman", "--offline"], "the argument '--use <FILE>' cannot be used with '--offline'"),
    ("keyring", &["--timeout", "86401"], "invalid value '86401' for '--timeout <SECONDS>': 86401 is not in 0..=86400"),
    ("keyring", &["--strip", "--in-root"], "the argument '--strip[=<WHAT>]' cannot be used with '--in-root'"),
    (
        "strap",
        &["--timeout", "x", "base"],
        "invalid value 'x' for '--timeout <SECONDS>': invalid digit found in string",
    ),
    ("strap", &["--locked", "lock.json", "--loose"], "the argument '--locked <FILE>' cannot be used with '--loose'"),
    ("strap", &["--locked", "lock.json", "base"], "the argument '--locked <FILE>' cannot be used with '[PKG]...'"),
    ("strap", &["--plan", "--download-only"], "the argument '--plan' cannot be used with '--download-only'"),
    (
        "configure",
        &["--timeout", "1.5"],
        "invalid value '1.5' for '--timeout <SECONDS>': invalid digit found in string",
    ),
    ("configure", &["--layout", "x"], "the following required arguments were not provided: --fstab"),
    ("verify", &["--timeout", "86401"], "invalid value '86401' for '--timeout <SECONDS>': 86401 is not in 0..=86400"),
    ("pack", &[], "the following required arguments were not provided: --output <FILE>"),
    (
        "pack",
        &["-o", "a.tar", "--format", "zip"],
        "invalid value 'zip' for '--format <FORMAT>' [possible values: tar, tar.zst, tar.xz, tar.gz, wsl, oci, squashfs, erofs]",
    ),
    ("mkdisk", &[], "the following required arguments were not provided: --output <FILE>"),
    (
        "mkdisk",
        &["-o", "a.img", "--size", "7"],
        "invalid value '7' for '--size <SIZE|auto>': '7' is not a multiple of 512 bytes",
    ),
    ("mkdisk", &["-o", "a.img", "--boot", "0"], "invalid value '0' for '--boot <SIZE|auto>': a size cannot be 0"),
    (
        "mkdisk",
        &["-o", "a.img", "--headroom", "2000%"],
        "invalid value '2000%' for '--headroom <SIZE|PERCENT%>': a share is a whole number of percent, up to 1000%",
    ),
    (
        "mkdisk",
        &["-o", "a.img", "--bootloader", "grub"],
        "invalid value 'grub' for '--bootloader <NAME>' [possible values: auto, extlinux, systemd-boot, raspberrypi, syslinux, none]",
    ),
    (
        "mkdisk",
        &["-o", "a.img", "--cmdline", "root=x"],
        "invalid value 'root=x' for '--cmdline <TEXT>': root= is set by mkdisk",
    ),
    (
        "mkdisk",
        &["-o", "a.img", "--dtb", "../x"],
        "invalid value '../x' for '--dtb <PATH>': not a path below the directory of devicetrees, such as rockchip/rk3588s-orangepi-5.dtb",
    ),
    ("reap", &["--timeout", "3601"], "invalid value '3601' for '--timeout <SECONDS>': 3601 is not in 0..=3600"),
];

#[test]
fn an_invalid_value_is_handed_on() {
    let lab = Lab::new(Who::Root);
    let upstream = json!({"strapline": 1, "root": lab.path().join("root"), "org.example.x": [1]});
    for (tool, args, message) in SENSELESS {
        let hint = format!("see '{tool} --help'");
        let said = Said { code: "usage", exit: 64, message, hint: Some(&hint) };
        let ran = run(&lab, tool, args, upstream.to_string().as_bytes());
        said.is(&args.join(" "), tool, &ran, &upstream);
    }
    assert_eq!(names(lab.path()), Vec::<String>::new());
}

#[test]
fn help_and_version_are_no_document_and_no_failure() {
    let lab = Lab::new(Who::Root);
    for row in rows() {
        for options in [["--help"], ["-h"]] {
            // Asked for help, a tool reads nothing: stdin is a pipe that nobody closes.
            let mut child = start(&lab, row.tool, &options, Stdio::piped(), Stdio::piped());
            let stdin = child.stdin.take();
            let ran = finish(child);
            drop(stdin);
            assert_eq!((ran.status, &*ran.stderr), (0, ""), "{}", row.tool);
            assert!(ran.stdout.contains("Usage: "), "{}", ran.stdout);
            for option in
                ["--state <FILE>", "-n, --new", "-q, --quiet", "--progress <WHEN>", "-h, --help", "-V, --version"]
            {
                assert!(ran.stdout.contains(option), "{option}: {}", ran.stdout);
            }
        }
        for option in ["--version", "-V"] {
            let ran = run(&lab, row.tool, &[option], b"");
            let version = format!("{} {}\n", row.tool, env!("CARGO_PKG_VERSION"));
            assert_eq!((ran.status, ran.stdout, &*ran.stderr), (0, version, ""));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Signals.

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Looks until `so`; after [`PATIENCE`] it never is.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < PATIENCE, "{what}: never");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a stage catches the signals and sleeps: then it waits for its document.
fn until_it_reads(child: &Child) {
    let caught = SIGNALS.iter().fold(0, |all, s| all | 1_u64 << (*s as i32 - 1));
    until("waiting for stdin", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let mask = field("SigCgt:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        mask.is_some_and(|mask| mask & caught == caught) && field("State:").is_some_and(|state| state.starts_with('S'))
    });
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, signal).expect("our own child");
}

#[test]
fn a_signal_while_it_waits_does_not_lose_the_document() {
    let lab = Lab::new(Who::Root);
    let root = lab.path().join("root");
    fs::create_dir(&root).expect("our own directory");
    let input =
        json!({"strapline": 1, "root": root, "org.example.x": {"y": 1}, "mounts": [{"at": "proc", "type": "proc"}]});
    for row in rows() {
        for signal in SIGNALS {
            let mut child = start(&lab, row.tool, row.works, Stdio::piped(), Stdio::piped());
            until_it_reads(&child);
            send(&child, signal);
            let writer = feed(&mut child, format!("{input}\n").as_bytes());
            let ran = finish(child);
            writer.join().expect("a writer does not panic");
            let case = signal.as_str();
            if row.kind == Kind::Undo {
                assert_eq!(ran.status, 0, "{}: {case}: {ran:?}", row.tool);
                let document = one_line(&ran);
                assert!(document[row.tool].is_object(), "it did no work: {document}");
                assert_eq!(document["org.example.x"], input["org.example.x"]);
                continue;
            }
            let mut stepless = ran;
            let document = one_line(&stepless);
            assert_eq!(document["steps"][0]["tool"], row.tool, "{case}");
            stepless.stdout = format!("{}\n", without_steps(document));
            INTERRUPTED.is(case, row.tool, &stepless, &input);
            assert_eq!(names(&root), Vec::<String>::new(), "{}: {case}", row.tool);
        }
        // A document that failed already passes, with its own exit status.
        let mut failed = input.clone();
        failed["error"] = json!({"tool": "other", "code": "interrupted", "message": "m", "exit": 75});
        let mut child = start(&lab, row.tool, row.works, Stdio::piped(), Stdio::piped());
        until_it_reads(&child);
        send(&child, Signal::SIGINT);
        let writer = feed(&mut child, failed.to_string().as_bytes());
        let ran = finish(child);
        writer.join().expect("a writer does not panic");
        assert_eq!(ran.status, 75, "{}: {ran:?}", row.tool);
        assert_eq!(ran.document()["error"], failed["error"]);
    }
    assert_eq!(names(lab.path()), ["root"]);
}

const INTERRUPTED: Said<'static> =
    Said { code: "interrupted", exit: 130, message: "interrupted by a signal", hint: None };

#[test]
fn no_signals_end_the_wait_for_a_document() {
    let lab = Lab::new(Who::Root);
    let failed = json!({"strapline": 1, "error": {"tool": "x", "code": "busy", "message": "m", "exit": 75}});
    let text = failed.to_string();
    for row in rows() {
        let mut child = start(&lab, row.tool, row.works, Stdio::piped(), Stdio::piped());
        until_it_reads(&child);
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(&text.as_bytes()[..5]).expect("it reads");
        for signal in SIGNALS.into_iter().chain([Signal::SIGQUIT]) {
            send(&child, signal);
            until_it_reads(&child);
        }
        stdin.write_all(&text.as_bytes()[5..]).expect("it reads");
        drop(stdin);
        let ran = finish(child);
        assert_eq!(ran.status, 75, "{}: {ran:?}", row.tool);
        assert_eq!(ran.document()["error"]["tool"], "x", "{}", row.tool);
    }
    assert_eq!(names(lab.path()), Vec::<String>::new());
}

#[test]
fn an_interrupted_pipeline_is_undone_and_says_so_once() {
    let bench = Bench::new();
    // Ctrl-C reaches every stage: here all of them while the first waits for its document.
    let mut stages = Vec::new();
    let mut stdin = Stdio::piped();
    for row in rows() {
        let mut child = start(&bench.lab, row.tool, row.works, stdin, Stdio::piped());
        stdin = match child.stdout.take() {
            Some(out) if row.tool != "unmount" => out.into(),
            last => {
                child.stdout = last;
                Stdio::null()
            }
        };
        stages.push((row, child));
    }
    for (_, child) in &stages {
        until_it_reads(child);
        send(child, Signal::SIGINT);
    }
    let writer = feed(&mut stages[0].1, bench.document.to_string().as_bytes());
    for (row, child) in stages {
        let ran = finish(child);
        assert_eq!(ran.status, 130, "{}: {ran:?}", row.tool);
        match (row.tool, row.kind) {
            ("mkroot", _) => assert_eq!(ran.stderr, INTERRUPTED.stderr("mkroot")),
            (_, Kind::Undo) => assert!(ran.stderr.contains(": nothing "), "{}", ran.stderr),
            _ => assert_eq!(ran.stderr, "", "{}", row.tool),
        }
        if row.tool == "unmount" {
            let document: Map<String, Value> = serde_json::from_str(&ran.stdout).expect("a document");
            assert_eq!(document["error"]["tool"], "mkroot");
            assert_eq!(document["root"], bench.document["root"]);
        }
    }
    writer.join().expect("a writer does not panic");
}

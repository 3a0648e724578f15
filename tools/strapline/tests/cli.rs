//! The program without the tools beside it, as `cargo install` of it alone leaves it, and what it says of documents.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

#[test]
fn what_is_not_installed_is_left_out() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
    let program = directory.join("strapline");
    fs::create_dir_all(&directory).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_strapline"), &program).unwrap();
    let run = |words: &[&str]| -> Output { Command::new(&program).args(words).output().unwrap() };

    let list = String::from_utf8(run(&[]).stdout).unwrap();
    assert!(list.contains("\nmkroot        (not installed)\n"), "{list}");
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("strapline"), "{shell}");
    }
    assert_eq!(run(&["mkroot"]).status.code(), Some(69));
}

/// Runs `strapline receipt` with these words in a directory with documents, and returns its status, stdout and stderr.
fn receipt(words: &[&str], stdin: &str) -> (i32, String, String) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("receipts");
    fs::create_dir_all(&directory).unwrap();
    let package = r#"{"name":"a","version":"1-1","arch":"any","repo":"core","reason":"explicit","verified":true}"#;
    let config = r#""config":{"strict":"/s","loose":"/l","cache":"/c","architecture":["any"],"repositories":[{"name":"core","publisher":"archlinux","siglevel":"Required","servers":["https://h"]}]}"#;
    let file = r#"{"path":"etc/x","type":"link","uid":0,"gid":0,"target":"y","from":"t","tool":"configure"}"#;
    let steps = r#""steps":[{"tool":"strap","version":"1","started":1750000000.5,"seconds":1}]"#;
    let whole = format!(
        r#"{{"strapline":1,"root":"/no/such","distro":"archlinux","packages":[{package}],"tree":[{file}],{config},{steps}}}"#
    );
    for (name, text) in [("whole", whole.as_str()), ("bare", r#"{"strapline":1}"#), ("other", "{}")] {
        // Tests run beside each other, and all write the same.
        let new = directory.join(format!("{name}.{:?}", std::thread::current().id()));
        fs::write(&new, text).unwrap();
        fs::rename(new, directory.join(name)).unwrap();
    }
    fs::write(directory.join(format!("{:?}.in", std::thread::current().id())), stdin).unwrap();
    let input = fs::File::open(directory.join(format!("{:?}.in", std::thread::current().id()))).unwrap();
    let program = env!("CARGO_BIN_EXE_strapline");
    let out = Command::new(program).arg("receipt").args(words).current_dir(directory).stdin(input).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

#[test]
fn a_receipt_answers_without_its_root() {
    let (status, text, stderr) = receipt(&["why", "a", "whole"], "");
    assert_eq!(status, 0, "{stderr}");
    assert!(text.starts_with("a\n  version        1-1 (any)\n  reason         it was asked for\n"), "{text}");
    assert!(text.contains("required by    not known without the root: "), "{text}");
    assert!(text.contains("signed by      not in the receipt"), "{text}");
    let (status, text, _) = receipt(&["why", "/etc/x", "whole"], "");
    assert_eq!(status, 0);
    assert!(text.contains("laid by        configure, from 't'\n  as             link to y, owner 0:0\n"), "{text}");
    let (status, text, _) = receipt(
        &["why", "a"],
        r#"{"strapline":1,"packages":[{"name":"a","version":"2-1","arch":"any","verified":false}]}"#,
    );
    assert!(status == 0 && text.contains("version        2-1 (any)"), "{text}");
    assert_eq!(receipt(&["diff", "whole", "whole"], ""), (0, String::new(), String::new()));
    let (status, text, _) = receipt(&["diff", "whole", "bare"], "");
    assert_eq!((status, text.lines().filter(|line| line.contains("- a ")).count()), (0, 1), "{text}");
    for format in ["--spdx", "--cyclonedx"] {
        let (status, text, _) = receipt(&[format, "whole"], "");
        assert!(status == 0 && text.contains("pkg:alpm/arch/a@1-1?arch=any"), "{text}");
        assert_eq!(receipt(&[format, "whole"], "").1, text);
    }
}

#[test]
fn what_cannot_be_answered_is_an_error() {
    for (words, status, line) in [
        (&["why", "b", "whole"][..], 69, "looking for 'b': the receipt has no package of this name"),
        (&["why", "/a/../b", "whole"], 64, "reading the path '/a/../b'"),
        (&["why", "a", "none"], 64, "opening the document 'none'"),
        (&["why", "a", "other"], 65, "not a strapline document"),
        (&["why"], 64, "required arguments were not provided: <PKG|PATH>"),
        (&["diff", "whole"], 64, "required arguments were not provided: <B>"),
        (&["diff", "whole", "other"], 65, "not a strapline document"),
        (&["--spdx", "--html", "whole"], 64, "cannot be used with"),
        (&["--spdx", "bare"], 65, "making a bill of materials: the document has no packages"),
        (&["--cyclonedx", "bare"], 65, "making a bill of materials: the document has no packages"),
        (&["--provenance", "whole"], 65, "making provenance: the document has no archives and no disks"),
        (&["--provenance", "--builder", "us", "whole"], 64, "not a URI"),
        (&["--builder", "https://example.org", "whole"], 64, "--provenance"),
        (&[], 64, "required arguments were not provided: <FILE>"),
    ] {
        let (is, stdout, stderr) = receipt(words, "");
        assert_eq!((is, stdout.as_str()), (status, ""), "{words:?}: {stderr}");
        assert!(stderr.starts_with("strapline: ") && stderr.contains(line), "{words:?}: {stderr}");
    }
}

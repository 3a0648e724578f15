//! The program without the tools beside it, as `cargo install` of it alone leaves it.

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

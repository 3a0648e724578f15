//! `docs/matrix.md` and `docs/needs.md` say by which test something was seen: those tests exist, and the matrix has all boards,
//! file systems, formats and makers of an initramfs that the code knows.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use strapline_tests::matrix::{self, EACH, FORMATS, NO_BOARD, NO_MAKER, ROWS, Seen};
use strapline_tests::{bin_dir, top};

/// Returns whether a test exists: `FILE::NAME` of tests/tests, or `TOOL/FILE::NAME` of a tool's own.
fn is_test(name: &str) -> bool {
    let Some((file, function)) = name.split_once("::") else { return false };
    let path = match file.split_once('/') {
        Some((tool, file)) => format!("tools/{tool}/tests/{file}.rs"),
        None => format!("tests/tests/{file}.rs"),
    };
    let read = |path: &str| fs::read_to_string(top().join(path)).unwrap_or_default();
    let is_built = file.contains('/') || read("tests/tests/suite.rs").contains(&format!("\nmod {file};\n"));
    let text = read(&path);
    let before = text.split_once(&format!("\nfn {function}()")).map(|(before, _)| before);
    // Attributes of the function are between it and what ends before it.
    let attributes = before.and_then(|before| before.rsplit_once("\n\n")).map(|(_, attributes)| attributes);
    is_built && attributes.is_some_and(|text| text.lines().any(|line| line == "#[test]"))
}

#[test]
fn each_test_that_a_page_names_exists() {
    for row in ROWS {
        assert!(is_test(row.test), "{}", row.test);
    }
    let page = fs::read_to_string(top().join("docs/needs.md")).expect("a page");
    let named: Vec<_> = page.split('`').filter(|word| word.contains("::") && !word.ends_with("::NAME")).collect();
    assert!(named.len() > 40, "{named:?}");
    let unknown: Vec<_> = named.into_iter().filter(|name| !is_test(name)).collect();
    assert_eq!(unknown, [""; 0], "docs/needs.md names tests that do not exist");
    for no in ["boot", "boot::boots", "boot::no_such_test", "nowhere::a_pc_boots", "mkdisk/nowhere::x"] {
        assert!(!is_test(no), "{no}");
    }
}

#[test]
fn the_matrix_has_what_the_code_knows() {
    let boards: BTreeSet<_> = matrix::boards().chain([EACH]).collect();
    let (kinds, makers): (BTreeSet<_>, BTreeSet<_>) = (matrix::kinds().collect(), matrix::makers().collect());
    for row in ROWS {
        let known = [
            (row.boards, &boards),
            (row.kinds, &kinds),
            (row.formats, &BTreeSet::from(FORMATS)),
            (row.makers, &makers),
        ];
        for (words, known) in known {
            assert!(!words.is_empty() && words.iter().all(|word| known.contains(word)), "{}: {words:?}", row.test);
        }
    }
    // What a user is told of the formats.
    let mut mkdisk = Command::new(bin_dir().join("mkdisk"));
    let out = mkdisk.args(["--new", "-o", "x.unknown"]).output().expect("mkdisk");
    let said = String::from_utf8_lossy(&out.stderr);
    let ends = said.split_once("end it with one of ").expect("a hint").1.lines().next().unwrap_or_default();
    let last = |end: &str| end.rsplit('.').next().unwrap_or_default().replace("img", "raw");
    let formats: BTreeSet<_> = ends.split(", ").map(last).collect();
    assert_eq!(formats, FORMATS.map(str::to_owned).into());
}

/// Boards say of themselves how far they were seen to work.
#[test]
fn the_matrix_agrees_with_the_boards() {
    for (name, layout) in image::board::list().expect("the boards are tested") {
        let board = layout.board.expect("a board");
        let seen = |how| ROWS.iter().any(|row| row.seen == how && (row.boards.contains(&name) || row.boards == [EACH]));
        assert_eq!(seen(Seen::Booted), !board.booted.is_empty(), "{name}");
        assert_eq!(seen(Seen::ReadBack), board.proof == image::board::Proof::ReadBack, "{name}");
    }
}

#[test]
fn the_matrix_is_written_down() {
    let page = matrix::page();
    for name in matrix::boards() {
        assert_eq!(page.matches(&format!("\n| {name} |")).count(), 3, "{name}");
    }
    assert!(page.contains(&format!("| {NO_MAKER} |")) && page.contains(&format!("| {NO_BOARD} |")));
    let written = fs::read_to_string(top().join("docs/matrix.md")).expect("a page");
    assert_eq!(written, page, "cargo run -p strapline-tests --example matrix > docs/matrix.md");
}

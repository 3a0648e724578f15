//! What the fuzzer's corpus and findings hold, against the checks that the fuzz targets make: with no nightly toolchain.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use strapline_tests::{formats, top};

/// How long one input may take, on a busy machine without optimisation.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the inputs that are kept for a target.
fn inputs(target: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for kind in ["corpus", "findings"] {
        let directory = top().join("fuzz").join(kind).join(target);
        let Ok(entries) = fs::read_dir(&directory) else {
            assert_eq!(kind, "findings", "no {}", directory.display());
            continue;
        };
        files.extend(entries.map(|e| e.unwrap().path()));
    }
    files.sort();
    files
}

/// Returns how long this thread has had a processor, which other programs do not change.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn all_that_a_fuzzer_found_holds() {
    for (target, check) in formats::ALL {
        let files = inputs(target);
        assert!(files.len() >= 3, "{target}: {files:?}");
        for file in files {
            let begin = processor_time();
            eprintln!("{}", file.display());
            check(&fs::read(&file).unwrap());
            let took = processor_time() - begin;
            assert!(took < PATIENCE, "{}: {took:?}", file.display());
        }
    }
}

#[test]
fn every_target_is_a_check() {
    let directory = top().join("fuzz/fuzz_targets");
    let mut targets: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort();
    // The packets of OpenPGP are read by a module of keyring, whose own tests have its corpus.
    let checks: Vec<_> = formats::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(targets, checks);
}

/// The order is pacman's own, for what a fuzzer thinks of, too.
#[test]
fn versions_are_in_pacmans_order() {
    let mut compared = 0;
    for file in inputs("vercmp") {
        let text = fs::read(&file).unwrap();
        let Some([a, b, c]) = formats::versions(&text) else {
            continue;
        };
        for (a, b) in [(a, b), (b, c), (a, c)] {
            // An argument has no NUL, and what begins with a hyphen would be an option.
            if [a, b].iter().any(|v| v.contains('\0') || v.starts_with('-')) {
                continue;
            }
            let out = Command::new("vercmp").args([a, b]).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout);
            let order: i32 = text.trim().parse().unwrap();
            assert_eq!(package::version::vercmp(a, b), order.cmp(&0), "{a:?} {b:?}");
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared}");
}

//! The contract of `strap` that needs no mirror: what is refused before anything is touched, in which words and with which
//! status. What pacman does with packages is in `tests/` at the top.

#![allow(clippy::unwrap_used, reason = "a helper of tests that fails is a test that fails")]

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn strap(args: &[&str], document: &Value) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_strap"))
        .args(args)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = document.to_string();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A root that could be entered, and a document about it.
fn root() -> (tempfile::TempDir, Value) {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    for below in ["root/var/lib/pacman", "root/var/log", "root/etc/pacman.d/gnupg", "gnupg"] {
        std::fs::create_dir_all(top.join(below)).unwrap();
    }
    let program = top.join("pacman");
    std::fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
    for file in ["strict.conf", "loose.conf"] {
        std::fs::write(top.join(file), "[options]\n").unwrap();
    }
    let document = json!({
        "strapline": 1,
        "root": top.join("root"),
        "arch": "x86_64",
        "mode": "root",
        "mounts": [],
        "binfmt": {"kind": "native"},
        "pacman": {
            "path": program,
            "version": "6.0.2",
            "sha256": "f4ed5ae39b0c7ff2df7ca5e0cc9e4c1ea7c2ef0d4d6d5fb9e6e1f6d1c5c6f0aa",
            "trust": "hash",
        },
        "config": {
            "strict": top.join("strict.conf"),
            "loose": top.join("loose.conf"),
            "cache": top.join("cache"),
        },
    });
    (dir, document)
}

/// Checks status, the line on stderr and the document's error, and that the rest of the document came through.
#[track_caller]
fn refused(output: &Output, before: &Value, status: i32, code: &str, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["tool"], "strap");
    assert_eq!(document["error"]["code"], code, "{stderr}");
    assert_eq!(document["error"]["exit"], status);
    let said = document["error"]["message"].as_str().unwrap();
    assert!(said.contains(message), "{said}");
    let line = format!("strap: {said}");
    assert!(stderr.lines().any(|l| l == line), "{stderr}");
    for (key, value) in before.as_object().unwrap() {
        assert_eq!(&document[key], value, "{key}");
    }
}

fn set_hash(document: &mut Value) {
    let path = document["pacman"]["path"].as_str().unwrap().to_owned();
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    document["pacman"]["sha256"] = json!(text.split(' ').next().unwrap());
}

#[test]
fn a_command_line_without_valid_names_is_refused() {
    let (_dir, document) = root();
    let output = strap(&["--no-refresh"], &document);
    let message = "--no-refresh upgrades only what is named, and no package is";
    refused(&output, &document, 64, "usage", message);
    let output = strap(&["a b"], &document);
    refused(&output, &document, 64, "usage", "installing 'a b': invalid package name");
    let output = strap(&["--", "--root=/"], &document);
    refused(&output, &document, 64, "usage", "installing '--root=/': invalid package name");
}

#[test]
fn a_missing_member_is_asked_for_by_name() {
    let (_dir, document) = root();
    for (key, tool) in [("pacman", "fetch-pacman"), ("config", "mkconf"), ("root", "mkroot"), ("mode", "mkroot")] {
        let mut less = document.clone();
        less.as_object_mut().unwrap().remove(key);
        let output = strap(&["nano"], &less);
        refused(&output, &less, 65, "bad-document", &format!("it has no \"{key}\""));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(&format!("strap: hint: put '{tool}' before")), "{stderr}");
    }
}

#[test]
fn a_program_that_is_another_by_now_is_not_run() {
    let (_dir, document) = root();
    let output = strap(&["nano"], &document);
    refused(&output, &document, 69, "not-verified", "it is not the program that the document means");
}

#[test]
fn strict_without_a_keyring_is_refused_before_pacman_runs() {
    let (_dir, mut document) = root();
    set_hash(&mut document);
    let output = strap(&["nano"], &document);
    refused(&output, &document, 69, "not-verified", "so nothing can be verified");
    std::fs::remove_file(document["config"]["loose"].as_str().unwrap()).unwrap();
    let output = strap(&["--loose", "nano"], &document);
    refused(&output, &document, 69, "not-found", "loose.conf': No such file or directory");
}

#[test]
fn another_directory_in_the_place_of_the_root_is_refused() {
    let (_dir, mut document) = root();
    set_hash(&mut document);
    document["root_id"] = json!({"dev": 1, "ino": 1});
    let output = strap(&["--loose", "nano"], &document);
    refused(&output, &document, 69, "failed", "it is not the directory that the document means");
}

#[test]
fn a_pacman_that_fails_is_quoted() {
    let (dir, mut document) = root();
    let program = document["pacman"]["path"].as_str().unwrap().to_owned();
    std::fs::write(
        &program,
        "#!/bin/sh\necho \"error: failed retrieving file 'core.db' from host : Connection refused\" >&2\nexit 1\n",
    )
    .unwrap();
    Command::new("chmod").args(["755", &program]).status().unwrap();
    set_hash(&mut document);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let output = strap(&["--loose", "nano"], &document);
    refused(
        &output,
        &document,
        75,
        "network",
        "running pacman to download: exit status 1: failed retrieving file 'core.db'",
    );
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    assert!(Path::new(dir.path()).join("root/var/lib/pacman").read_dir().unwrap().next().is_none());
}

/// A pacman that does nothing but say how it was called, in a file of the root: all else is read-only to it.
fn with_a_pacman_that_tells(document: &mut Value) -> std::path::PathBuf {
    let program = std::path::PathBuf::from(document["pacman"]["path"].as_str().unwrap());
    let calls = program.with_file_name("root").join("calls");
    let script = format!("#!/bin/sh\necho \"$@\" >>{0}\nread -r line && echo input >>{0}\nexit 0\n", calls.display());
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    set_hash(document);
    calls
}

#[test]
fn the_three_calls_of_pacman() {
    let (dir, mut document) = root();
    let calls = with_a_pacman_that_tells(&mut document);
    let conf = |name: &str| dir.path().canonicalize().unwrap().join(name).display().to_string();
    let (strict, loose) = (conf("strict.conf"), conf("loose.conf"));
    let id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(dir.path().join("root")).unwrap());
    let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(dir.path().join("root")).unwrap());
    // The one that downloads verifies databases only.
    let packages = conf("cache") + &format!("/download-{device}-{id}/packages.conf");
    let format = "--print-format strapline-plan %r %n %v %l %s";
    let keyring = conf("gnupg");
    std::fs::write(dir.path().join("gnupg/pubring.gpg"), "keys").unwrap();
    for (args, expected) in [
        (
            &["a", "b"][..],
            format!(
                "-Syuw --noconfirm --needed --noprogressbar --gpgdir {keyring} --ask 72 --config {packages} -- a b\n\
                 -Sup --noconfirm --needed {format} --gpgdir {keyring} --ask 72 --config {strict} -- a b\n\
                 -Su --noconfirm --needed --noprogressbar --gpgdir {keyring} --ask 72 --config {strict} -- a b\n"
            ),
        ),
        (
            &["--loose", "--no-refresh", "a"],
            format!(
                "-Sw --noconfirm --needed --noprogressbar --gpgdir {keyring} --ask 72 --config {loose} -- a\n\
                 -Sp --noconfirm --needed {format} --gpgdir {keyring} --ask 72 --config {loose} -- a\n\
                 -S --noconfirm --needed --noprogressbar --gpgdir {keyring} --ask 72 --config {loose} -- a\n"
            ),
        ),
        (
            &["--download-only", "a"],
            format!("-Syuw --noconfirm --needed --noprogressbar --gpgdir {keyring} --ask 72 --config {strict} -- a\n"),
        ),
        (
            &["--download-only", "--no-refresh", "--loose", "a"],
            format!("-Sw --noconfirm --needed --noprogressbar --gpgdir {keyring} --ask 72 --config {loose} -- a\n"),
        ),
    ] {
        let output = strap(args, &document);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(std::fs::read_to_string(&calls).unwrap(), expected);
        std::fs::remove_file(&calls).unwrap();
        let mut after: Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = after.as_object_mut().unwrap().remove("steps").unwrap();
        assert_eq!(steps[0]["tool"], "strap");
        let members = after.as_object_mut().unwrap();
        // A transaction that verified nothing is on record, and a download is none.
        let loose = args.contains(&"--loose") && !args.contains(&"--download-only");
        let expected = loose.then(|| json!({"loose": true}));
        assert_eq!(members.remove("strap"), expected, "{args:?}");
        assert_eq!(after, document, "nothing is installed: {args:?}");
    }
}

#[test]
fn a_root_that_another_tool_works_on_is_busy() {
    use rustix::fs::{FlockOperation, flock};
    let (dir, mut document) = root();
    let calls = with_a_pacman_that_tells(&mut document);
    let database = dir.path().canonicalize().unwrap().join("root/var/lib/pacman");
    let lock = std::fs::File::open(&database).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let output = strap(&["--loose", "nano"], &document);
    let message = format!("locking '{}': another tool works on this root", database.display());
    refused(&output, &document, 75, "busy", &message);
    assert!(!calls.exists(), "pacman was run");
    // A child of another test may have it open until it is another program.
    flock(&lock, FlockOperation::Unlock).unwrap();
    assert_eq!(strap(&["--loose", "nano"], &document).status.code(), Some(0));
    // The lock of a pacman that is no more is none.
    std::fs::write(database.join("db.lck"), "").unwrap();
    let output = strap(&["--loose", "nano"], &document);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("strap: warning: removed the stale lock '{}/db.lck' of a pacman that was killed\n", database.display())
    );
    let left: Vec<_> = database.read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_document_with_an_error_passes_untouched() {
    let (_dir, mut document) = root();
    let calls = with_a_pacman_that_tells(&mut document);
    document["error"] = json!({"tool": "keyring", "code": "network", "message": "m", "exit": 75, "also": []});
    let output = strap(&["--loose", "nano"], &document);
    assert_eq!(output.status.code(), Some(75));
    assert_eq!(String::from_utf8_lossy(&output.stdout), document.to_string());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(!calls.exists(), "pacman was run");
}

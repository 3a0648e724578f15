//! What SECURITY.md says: that each test it names is there, and what a namespace gives and does not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use strapline_tests::{Lab, Mirror, TOOLS, Who, bin_dir, lab, top};

/// Returns each `FILE.rs::TEST` of a text.
fn references(text: &str) -> BTreeSet<(String, String)> {
    let words = text.split(|c: char| c.is_whitespace() || "`|,;()".contains(c));
    words
        .filter_map(|word| word.split_once(".rs::"))
        .map(|(file, test)| (format!("{file}.rs"), test.to_owned()))
        .collect()
}

#[test]
fn every_test_that_security_md_names_exists() {
    let text = fs::read_to_string(top().join("SECURITY.md")).expect("SECURITY.md");
    let references = references(&text);
    assert!(references.len() >= 30, "{references:?}");
    let missing: Vec<_> = references
        .iter()
        .filter(|(file, test)| {
            let source = fs::read_to_string(top().join(file)).unwrap_or_default();
            !tests(&source).contains(test.as_str())
        })
        .collect();
    assert_eq!(missing, Vec::<&(String, String)>::new());
}

/// Returns the names of the test functions in a source.
fn tests(source: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut lines = source.lines().map(str::trim);
    while lines.any(|line| line == "#[test]") {
        // Other attributes may stand between.
        let name = lines.find_map(|line| line.strip_prefix("fn ")?.split('(').next());
        found.extend(name);
    }
    found
}

#[test]
fn a_tool_that_is_installed_set_uid_works_for_nobody() {
    let lab = Lab::new(Who::Root);
    for tool in TOOLS {
        let copy = lab.path().join(tool);
        // By another process: a file that a child of another test still has open for writing cannot be run.
        let copied = lab::run(Command::new("cp").arg(bin_dir().join(tool)).arg(&copy));
        assert_eq!(copied.status, 0, "{copied:?}");
        for mode in [0o4755, 0o2755] {
            fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).expect("our own file");
            let id = lab::UID.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
            command.arg(&copy).current_dir("/");
            // The command line must be right: it is read first.
            match tool {
                "mkroot" => command.arg("made"),
                "strap" => command.arg("bash"),
                "enter" => command.args(["--state", "/dev/null", "true"]),
                "mkdisk" | "pack" => command.args(["--output", "image"]),
                "mkconf" => command.args(["--print=loose", "--state", "/etc/shadow"]),
                _ => &mut command,
            };
            let ran = lab::run(&mut command);
            // Where it stands alone, as here, enter's own failures are those of env(1).
            let expected = if tool == "enter" { 125 } else { 77 };
            assert_eq!(ran.status, expected, "{tool} {mode:o}: {ran:?}");
            assert!(
                ran.stderr.contains("is installed set-uid or set-gid"),
                "{tool}: {ran:?}"
            );
        }
    }
}

/// A root with bash and coreutils, and its document in `receipt.json`.
fn root(lab: &Lab, mirror: &Mirror) {
    let ran = lab.sh(&format!(
        "mkroot root --quiet --arch x86_64 --distro {preset} \
         | fetch-pacman --quiet --use $(command -v pacman) \
         | mkconf --quiet --server 'file://{www}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring --quiet | strap --quiet bash coreutils > receipt.json; cat receipt.json",
        preset = mirror.preset().display(),
        www = mirror.www().display(),
    ));
    drop(ran.succeeded());
}

/// Returns what a script prints inside.
fn inside(lab: &Lab, script: &str) -> String {
    let mut command = lab.command("enter");
    command.args(["--state", "receipt.json", "bash", "-c", script]);
    let ran = lab::run(&mut command);
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.stdout.trim().to_owned()
}

#[test]
fn what_the_namespaces_give_and_what_they_do_not() {
    for who in [Who::Root, Who::User] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        root(&lab, &mirror);
        let theirs = |kind: &str| inside(&lab, &format!("readlink /proc/self/ns/{kind}"));
        let ours = |kind: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).expect(kind);
            link.to_string_lossy().into_owned()
        };
        for (kind, separate) in [
            ("mnt", true),
            ("pid", true),
            ("user", who == Who::User),
            ("net", false),
            ("ipc", false),
            ("uts", false),
        ] {
            assert_eq!(theirs(kind) != ours(kind), separate, "{who:?}: {kind}");
        }
        // Of processes there are the tool's first one, and its own.
        let count = inside(&lab, "echo /proc/[0-9]*");
        assert!(count.split(' ').count() <= 4, "{who:?}: {count}");
        // A device node is root's to make, and no user's.
        let node = inside(
            &lab,
            "mknod /root/disk b 7 0 2>/dev/null && rm /root/disk; echo $?",
        );
        assert_eq!(node == "0", who == Who::Root, "{who:?}: {node}");
    }
}

#[test]
fn a_chroot_is_no_boundary_and_what_is_beyond_it_is_what_the_caller_may() {
    for who in [Who::Root, Who::User] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        root(&lab, &mirror);
        let (theirs, roots) = (lab.path().join("theirs"), lab.path().join("roots"));
        fs::write(&theirs, "theirs").expect("our own directory");
        fs::write(&roots, "roots").expect("our own directory");
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).expect("our own file");
        if who == Who::User {
            std::os::unix::fs::chown(&theirs, Some(lab::UID), Some(lab::UID)).expect("root may");
        }
        // The way out that needs no program: the first process of the namespace is not in the chroot.
        let read = |path: &std::path::Path| {
            let script = format!("cat /proc/1/root{} 2>&1 || true", path.display());
            inside(&lab, &script)
        };
        assert_eq!(read(&theirs), "theirs", "{who:?}");
        assert_eq!(read(&roots) == "roots", who == Who::Root, "{who:?}");
    }
}

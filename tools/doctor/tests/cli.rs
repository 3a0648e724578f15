//! The built program on this host, and on hosts made worse in namespaces that end with the test.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const DOCTOR: &str = env!("CARGO_BIN_EXE_doctor");

/// Every check, in order.
const CHECKS: [&str; 20] = [
    "kernel",
    "namespaces",
    "apparmor",
    "seccomp",
    "no-new-privs",
    "subuid",
    "newuidmap",
    "emulator",
    "private-binfmt",
    "host-binfmt",
    "gpg",
    "gpg-agent",
    "pacman",
    "mkfs",
    "directory",
    "filesystem",
    "mount-options",
    "space",
    "inodes",
    "clock",
];

/// A directory of the test's own, that any user may look into, with a copy of the program in it.
struct Ground {
    directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        assert!(
            fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t0\t"),
            "these tests need root: run them with sudo"
        );
        let directory = tempfile::tempdir().unwrap();
        let ground = Self { directory };
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(ground.path(""), open).unwrap();
        // By another process: a file that is open for writing cannot be run, also where it is a child of another test's
        // that still has it open.
        let mut copy = Command::new("cp");
        copy.arg(DOCTOR).arg(ground.path("doctor"));
        assert!(copy.status().unwrap().success());
        for name in ["temporary", "empty", "place"] {
            fs::create_dir(ground.path(name)).unwrap();
        }
        fs::set_permissions(ground.path("temporary"), fs::Permissions::from_mode(0o1777)).unwrap();
        ground
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Runs a shell script in which `$D` is the directory; everything it makes is checked to be gone.
    fn sh(&self, script: &str) -> Output {
        self.within(&["sh", "-euc", script])
    }

    /// The same in namespaces of its own: `unshare` with these options.
    fn unshared(&self, options: &[&str], script: &str) -> Output {
        need("unshare", "util-linux");
        self.within(&[&["unshare"], options, &["sh", "-euc", script]].concat())
    }

    fn within(&self, command: &[&str]) -> Output {
        let output = Command::new(command[0])
            .args(&command[1..])
            .current_dir(self.path("place"))
            .env("D", self.path(""))
            .env("TMPDIR", self.path("temporary"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let left: Vec<_> = fs::read_dir(self.path("temporary")).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        output
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A missing prerequisite is a failure that says what is missing.
fn need(program: &str, package: &str) {
    let path = std::env::var_os("PATH").unwrap();
    assert!(
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file()),
        "no '{program}' here: apt-get install {package}"
    );
}

fn need_emulator() {
    assert!(
        ["qemu-aarch64-static", "qemu-aarch64"].iter().any(|name| Path::new("/usr/bin").join(name).is_file()),
        "no emulator for aarch64 here: apt-get install qemu-user-static"
    );
}

/// The findings of a run with `--json`.
fn findings(output: &Output) -> Vec<Value> {
    let stdout = text(&output.stdout);
    assert_eq!(stdout.matches('\n').count(), 1, "{output:?}");
    let object: Value = serde_json::from_str(stdout).unwrap();
    assert_eq!(object["doctor"], 1);
    object["findings"].as_array().unwrap().clone()
}

/// One finding: its status, what was found and why, and the fix.
fn finding(output: &Output, check: &str) -> (String, String, String) {
    let all = findings(output);
    let one = all.iter().find(|f| f["check"] == check).unwrap();
    let member = |key: &str| one[key].as_str().unwrap_or_default();
    (member("status").to_owned(), format!("{}\n{}", member("found"), member("why")), member("fix").to_owned())
}

/// The checks that failed.
fn failed(output: &Output) -> Vec<String> {
    findings(output).iter().filter(|f| f["status"] == "fail").map(|f| f["check"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn this_host_can_do_its_own_architecture() {
    let ground = Ground::new();
    let output = ground.sh("exec $D/doctor");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let checks: Vec<_> = text(&output.stdout)
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| {
            let mut words = line.split_whitespace();
            assert!(["ok", "warn"].contains(&words.next().unwrap()), "{line}");
            words.next().unwrap()
        })
        .collect();
    assert_eq!(checks, CHECKS);
    let quiet = ground.sh("exec $D/doctor --quiet");
    assert!(!text(&quiet.stdout).contains("ok "), "{quiet:?}");
}

#[test]
fn this_host_can_do_a_foreign_architecture() {
    need_emulator();
    let output = Ground::new().sh("exec $D/doctor --arch aarch64 --json");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (status, found, _) = finding(&output, "private-binfmt");
    assert_eq!(status, "ok", "{found}");
    let (_, found, _) = finding(&output, "emulator");
    assert!(found.contains("/qemu-aarch64"), "{found}");
}

#[test]
fn the_object_has_every_check_once() {
    let output = Ground::new().sh("exec $D/doctor --json --arch riscv64 --root new");
    let names: Vec<_> = findings(&output).iter().map(|f| f["check"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, CHECKS);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["arch"], "riscv64");
    assert!(!text(&output.stdout).contains("null"));
}

#[test]
fn nothing_is_left_and_nothing_is_changed() {
    let ground = Ground::new();
    let output = ground.unshared(
        &["--mount", "--pid", "--fork", "--mount-proc"],
        "cat /proc/self/mountinfo > $D/before
         ls /proc/sys/fs/binfmt_misc > $D/handlers-before
         $D/doctor --arch aarch64 > $D/report || true
         cat /proc/self/mountinfo > $D/after
         ls /proc/sys/fs/binfmt_misc > $D/handlers-after
         for p in /proc/[0-9]*; do cat $p/comm; done",
    );
    let read = |name| fs::read_to_string(ground.path(name)).unwrap();
    assert_eq!(read("before"), read("after"));
    assert_eq!(read("handlers-before"), read("handlers-after"));
    let report = read("report");
    assert!(report.contains("\nok    namespaces"), "{report}");
    // The shell is all that lived there before its first cat.
    assert_eq!(text(&output.stdout), "sh\n", "{output:?}");
}

#[test]
fn without_gpg_it_fails_and_says_what_to_install() {
    let output = Ground::new().sh("PATH=$D/empty exec $D/doctor");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let stdout = text(&output.stdout);
    assert!(stdout.contains("\nFAIL  gpg             not found\n"), "{stdout}");
    if Path::new("/usr/bin/apt-get").exists() {
        assert!(stdout.contains("\n      fix: apt-get install gnupg\n"), "{stdout}");
    }
    assert_eq!(text(&output.stderr).split_once(": ").unwrap().0, "doctor", "{output:?}");
    assert!(text(&output.stderr).ends_with("checks failed: gpg\n"));
}

#[test]
fn a_root_on_a_noexec_mount_fails() {
    let output = Ground::new().unshared(
        &["--mount"],
        "mount -t tmpfs -o noexec,size=3g none $D/place
         exec $D/doctor --json --root $D/place/target",
    );
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(failed(&output), ["mount-options"]);
    let (_, found, fix) = finding(&output, "mount-options");
    assert!(found.starts_with("noexec"), "{found}");
    assert!(fix.starts_with("mount -o remount,exec /"), "{fix}");
}

#[test]
fn a_root_with_little_space_fails() {
    let output = Ground::new().unshared(
        &["--mount"],
        "mount -t tmpfs -o size=16m,nr_inodes=500 none $D/place
         exec $D/doctor --json --root $D/place",
    );
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(failed(&output), ["space", "inodes"]);
    assert_eq!(finding(&output, "space").1.lines().next(), Some("16 MiB free"));
}

#[test]
fn a_full_directory_for_temporary_files_is_not_the_end() {
    let output = Ground::new().unshared(
        &["--mount"],
        "mount -t tmpfs -o nr_inodes=1 none $D/temporary
         exec $D/doctor --json",
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(finding(&output, "namespaces").0, "ok");
}

#[test]
fn a_user_without_subordinate_ids_is_told_how_to_get_some() {
    need("setpriv", "util-linux");
    let output = Ground::new().unshared(
        &["--mount"],
        "echo ann:100000:65536 > $D/subids
         mount --bind $D/subids /etc/subuid
         mount --bind $D/subids /etc/subgid
         exec setpriv --reuid nobody --regid nogroup --clear-groups $D/doctor --json --arch aarch64 --root $(mktemp -u)",
    );
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(failed(&output), ["subuid"]);
    assert_eq!(
        finding(&output, "subuid").2,
        "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 nobody"
    );
    assert_eq!(finding(&output, "namespaces").0, "warn");
}

#[test]
fn a_user_without_a_name_is_told_so() {
    need("setpriv", "util-linux");
    let output = Ground::new()
        .sh("exec setpriv --reuid 65533 --regid 65533 --clear-groups $D/doctor --json --root $(mktemp -u)");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let (status, found, fix) = finding(&output, "subuid");
    assert_eq!(status, "fail");
    assert!(found.starts_with("user 65533 has no name"), "{found}");
    assert!(fix.contains("usermod --add-subuids"), "{fix}");
}

/// Gives nobody subordinate ids, in a mount namespace, and runs `command` as nobody.
fn as_nobody(command: &str) -> Output {
    need("setpriv", "util-linux");
    need("newuidmap", "uidmap");
    let script = format!(
        "echo nobody:300000:65536 > $D/subids
         mount --bind $D/subids /etc/subuid
         mount --bind $D/subids /etc/subgid
         exec setpriv --reuid nobody --regid nogroup --clear-groups {command}"
    );
    Ground::new().unshared(&["--mount"], &script)
}

#[test]
fn a_user_with_subordinate_ids_can_do_it_all() {
    need_emulator();
    let output = as_nobody("$D/doctor --json --arch aarch64 --root $(mktemp -u)");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for check in ["namespaces", "subuid", "newuidmap", "private-binfmt"] {
        let (status, found, _) = finding(&output, check);
        assert_eq!(status, "ok", "{check}: {found}");
    }
    let (_, found, _) = finding(&output, "subuid");
    assert!(found.contains("300000-365534"), "{found}");
}

#[test]
fn a_user_without_newuidmap_is_told_to_install_it_once() {
    let output = as_nobody("env PATH=/bin.none $D/doctor --json --root $(mktemp -u)");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(failed(&output), ["newuidmap", "gpg"]);
    let (status, found, fix) = finding(&output, "namespaces");
    assert_eq!((status.as_str(), fix.as_str()), ("warn", "fix that, and run doctor again"), "{found}");
    assert!(found.ends_with("not tried\nit needs newuidmap and newgidmap first"), "{found}");
    let (_, found, _) = finding(&output, "newuidmap");
    assert!(found.starts_with("not found: newuidmap, newgidmap\n"), "{found}");
}

#[test]
fn no_new_privs_is_named_as_the_cause() {
    let output = as_nobody("--no-new-privs $D/doctor --json --root $(mktemp -u)");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(failed(&output), ["namespaces", "no-new-privs"]);
    let (_, found, _) = finding(&output, "namespaces");
    assert!(found.contains("'no_new_privs' is set"), "{found}");
}

#[test]
fn root_without_its_capability_needs_a_user_namespace() {
    need("setpriv", "util-linux");
    let doctor = "exec setpriv --bounding-set -sys_admin $D/doctor --json";
    let output = Ground::new().sh(doctor);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // The limit is that of a user namespace, so the host's stays as it is.
    let output = Ground::new()
        .unshared(&["--user", "--map-root-user"], &format!("echo 0 > /proc/sys/user/max_user_namespaces; {doctor}"));
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let (_, found, fix) = finding(&output, "namespaces");
    assert!(found.contains("'user.max_user_namespaces' is 0"), "{found}");
    assert_eq!(fix, "sysctl -w user.max_user_namespaces=15000");
}

#[test]
fn a_limit_of_zero_is_named() {
    // These limits are those of a user namespace, so the host's stay as they are.
    let output = Ground::new()
        .unshared(&["--user", "--map-root-user"], "echo 0 > /proc/sys/user/max_mnt_namespaces; exec $D/doctor --json");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let (status, found, fix) = finding(&output, "namespaces");
    assert_eq!(status, "fail");
    assert!(found.contains("'user.max_mnt_namespaces' is 0"), "{found}");
    assert_eq!(fix, "sysctl -w user.max_mnt_namespaces=15000");
}

#[test]
fn a_chroot_is_named_and_a_mount_point_mends_it() {
    let enter = |prepare: &str| {
        Ground::new().unshared(
            &["--mount"],
            &format!(
                "mkdir $D/jail; cd $D/jail; mkdir tmp
                 {prepare}
                 for d in bin dev etc lib lib64 proc sys usr; do
                     [ ! -d /$d ] || {{ mkdir $d; mount --rbind /$d $d; }}
                 done
                 cp $D/doctor doctor
                 TMPDIR=/tmp exec chroot . /doctor --json"
            ),
        )
    };
    let output = enter("");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let (_, found, fix) = finding(&output, "namespaces");
    assert!(found.contains("this is a chroot"), "{found}");
    assert!(fix.contains("mount --bind DIR DIR"), "{fix}");
    let output = enter("mount --bind $D/jail $D/jail; cd $D/jail");
    let (status, found, _) = finding(&output, "namespaces");
    assert_eq!(status, "ok", "{found}");
}

#[test]
fn a_container_without_root_is_told_what_it_lacks() {
    let output = Ground::new().unshared(&["--user", "--map-root-user", "--mount"], "exec $D/doctor --json");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let (status, found, fix) = finding(&output, "subuid");
    assert_eq!(status, "fail");
    assert!(found.contains("root of this user namespace has 1"), "{found}");
    assert!(fix.contains("a range of ids"), "{fix}");
    // What it may not mount anew is bound from the host.
    let (status, found, _) = finding(&output, "namespaces");
    assert_eq!(status, "ok", "{found}");
}

/// Runs doctor where no further user namespace may be made and the "host's" table, which is the namespace's own, has a
/// handler with these flags.
fn with_host_handler(flags: &str, then: &str) -> (Ground, Output) {
    need_emulator();
    let ground = Ground::new();
    let script = format!(
        "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
         sed 's/:[A-Z]*$/:{flags}/' /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register
         echo 0 > /proc/sys/user/max_user_namespaces
         {then}
         exec $D/doctor --json --arch aarch64"
    );
    assert!(
        Path::new("/usr/lib/binfmt.d/qemu-aarch64.conf").is_file(),
        "no binfmt.d file for aarch64 here: apt-get install qemu-user-static"
    );
    let options = ["--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--mount-proc"];
    let output = ground.unshared(&options, &script);
    (ground, output)
}

#[test]
fn a_host_handler_without_f_fails_and_the_fix_mends_it() {
    let (_ground, output) = with_host_handler("P", "");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let (status, found, fix) = finding(&output, "host-binfmt");
    assert_eq!(status, "fail", "{found}");
    assert!(found.contains("without F") && found.contains("sudo"), "{found}");
    let (_ground, output) = with_host_handler("P", &fix);
    // The namespace that stands for the host has one id, which is a finding of its own.
    assert_eq!(failed(&output), ["subuid"], "{fix}: {output:?}");
    assert_eq!(finding(&output, "host-binfmt").0, "ok");
}

#[test]
fn a_host_handler_without_c_is_a_warning() {
    let (_ground, output) = with_host_handler("PF", "");
    assert_eq!(failed(&output), ["subuid"], "{output:?}");
    let (status, found, _) = finding(&output, "host-binfmt");
    assert_eq!(status, "warn");
    assert!(found.contains("without C") && !found.contains("without P"), "{found}");
    assert_eq!(finding(&output, "private-binfmt").0, "ok");
}

#[test]
fn a_signal_ends_it_with_130_and_nothing_is_left() {
    let ground = Ground::new();
    fs::write(ground.path("empty/gpg"), "#!/bin/sh\necho > $D/asked\nexec sleep 60\n").unwrap();
    fs::set_permissions(ground.path("empty/gpg"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = ground.unshared(
        &["--pid", "--fork", "--mount-proc"],
        "PATH=$D/empty:$PATH $D/doctor > $D/out 2>&1 &
         until [ -e $D/asked ]; do sleep 0.02; done
         kill -TERM $!
         status=0; wait $! || status=$?
         cat $D/out; echo $status
         for p in /proc/[0-9]*; do cat $p/comm; done",
    );
    assert_eq!(text(&output.stdout), "doctor: interrupted by a signal\n130\nsh\n", "{output:?}");
}

#[test]
fn what_cannot_be_written_is_74() {
    for arguments in ["", "--json", "--help", "--version"] {
        let output = Ground::new().sh(&format!("exec $D/doctor {arguments} > /dev/full"));
        assert_eq!(output.status.code(), Some(74), "{arguments}: {output:?}");
        assert_eq!(text(&output.stderr), "doctor: writing on stdout: No space left on device (os error 28)\n");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    for (arguments, message) in [
        ("--arch sparc", "doctor: unknown architecture 'sparc'\n"),
        ("--bogus", "doctor: unexpected argument '--bogus' found\n"),
        ("target", "doctor: unexpected argument 'target' found\n"),
    ] {
        let output = Ground::new().sh(&format!("exec $D/doctor {arguments}"));
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert_eq!(text(&output.stdout), "");
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with(message), "{stderr}");
        assert!(stderr.contains("\ndoctor: hint: "), "{stderr}");
    }
}

#[test]
fn the_page_has_every_option() {
    let page = include_str!("../../../man/doctor.8");
    let help = Ground::new().sh("exec $D/doctor --help");
    for word in text(&help.stdout).split_whitespace() {
        let Some(option) = word.trim_end_matches(',').strip_prefix("--") else {
            continue;
        };
        assert!(page.contains(&format!("Fl -{option}")), "{option}");
    }
    for line in text(&help.stdout).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for check in CHECKS {
        assert!(page.contains(&format!(".It Sy {check}\n")), "{check}");
    }
}

//! The built program, in a mount namespace of its own: what it leaves as it was.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::process::{Command, Output};

/// Runs a script as root in a new mount namespace, in an empty directory; `$mkroot` is the program.
fn run(script: &str) -> Output {
    let ground = tempfile::tempdir().unwrap();
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec", script])
        .env("mkroot", env!("CARGO_BIN_EXE_mkroot"))
        .current_dir(ground.path())
        .output()
        .unwrap()
}

#[test]
fn undoing_leaves_what_the_user_mounted_at_the_root() {
    let out = run(r#"
        mkdir root
        for propagation in private shared; do
            mount -t tmpfs users root; mount --make-$propagation root
            cp /proc/self/mountinfo before
            status=0; "$mkroot" --new root --host > /dev/full 2> /dev/null || status=$?
            test $status = 74
            cmp before /proc/self/mountinfo
            test -z "$(ls -A root)"
            "$mkroot" --new root --host > /dev/null
            test "$(grep -c " $PWD/root/proc " /proc/self/mountinfo)" = 1
            umount --recursive --lazy root; umount --recursive --lazy root
        done
    "#);
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn in_a_chroot_the_mounts_are_made_in_the_chroot() {
    let out = run(r#"
        mkdir jail root
        mount --rbind / jail; mount --make-rprivate jail
        chroot jail sh -ec 'cd "$1"; "$mkroot" --new root --host > /dev/null' sh "$PWD"
        grep -q " $PWD/jail$PWD/root/proc " /proc/self/mountinfo
        ! grep " $PWD/root/proc " /proc/self/mountinfo >&2
    "#);
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn a_mount_point_that_cannot_be_made_leaves_none_of_the_others() {
    let out = run(r#"
        mkdir root source; ln -s /nowhere root/opt; mkdir -p root/var/lib/pacman
        find root | sort > before
        status=0
        "$mkroot" --new root --bind source:srv/a/b --bind source:srv/x/y --bind source:opt/z > failed.json || status=$?
        test $status = 69
        find root | sort > after
        cmp before after
    "#);
    assert!(out.status.success(), "{out:?}");
}

//! The built program on real mounts.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::json;
use strapline_tests::scripted::Ground;

const BINS: [&str; 1] = [env!("CARGO_BIN_EXE_unmount")];

fn run(script: &str) -> Ground {
    Ground::run(&BINS, &[], script)
}

#[test]
fn the_whole_tree_goes_deepest_first_and_nothing_else_does() {
    let ground = run(r#"
        mkdir "$D/elsewhere" "$D/root2"
        mount -t tmpfs other "$D/elsewhere"
        mount -t tmpfs other "$D/root2"
        cat /proc/self/mountinfo >"$D/before"
        mount_all
        step first unmount "$T"
        cat /proc/self/mountinfo >"$D/after"
        step second unmount "$T"
    "#);
    let document = ground.step("first", 0, &["unmount: unmounted 6 mounts at or below 'ROOT'"]);
    let unmounted = document["unmount"]["unmounted"].as_array().unwrap();
    assert_eq!(unmounted.len(), 6);
    assert_eq!(unmounted[5], "");
    let place = |at: &str| unmounted.iter().position(|u| u == at).unwrap();
    assert!(place("dev/pts") < place("dev") && place("dev/shm") < place("dev"));
    assert_eq!(document["unmount"]["left"], json!([]));
    assert_eq!(ground.read("before"), ground.read("after"));
    let document = ground.step("second", 0, &["unmount: nothing is mounted at or below 'ROOT'"]);
    assert_eq!(document["unmount"], json!({"unmounted": [], "left": []}));
}

#[test]
fn the_record_of_live_mounts_goes_with_the_last_of_them() {
    let ground = run(r#"
        mount_all
        id=$(stat -c '{"dev":%d,"ino":%i}' "$T")
        echo '{"strapline":1,"root":"'"$T"'","root_id":'"$id"',"mode":"host","host":'"$(claims)"',"org.x":1}' >"$D/in"
        step first unmount --quiet <"$D/in"
        step again unmount --quiet --state "$D/first.out"
    "#);
    let document = ground.step("first", 0, &[]);
    assert!(document.get("host").is_none());
    assert_eq!(document["org.x"], 1);
    assert_eq!(document["mode"], "host");
    assert_eq!(document["steps"][0]["tool"], "unmount");
    ground.step("again", 0, &[]);
}

#[test]
fn a_root_that_was_itself_a_mount_can_be_unmounted_again() {
    let ground = run(r#"
        mount -t tmpfs t "$T"
        id=$(stat -c '{"dev":%d,"ino":%i}' "$T")
        echo '{"strapline":1,"root":"'"$T"'","root_id":'"$id"',"host":'"$(claims)"'}' >"$D/in"
        step first unmount <"$D/in"
        step again unmount --state "$D/first.out"
        step other unmount <"$D/in"
    "#);
    ground.step("first", 0, &["unmount: unmounted 1 mount at or below 'ROOT'"]);
    ground.step("again", 0, &["unmount: nothing is mounted at or below 'ROOT'"]);
    let other = ground.step(
        "other",
        69,
        &[
            "unmount: opening the root 'ROOT': it is an empty directory, and not the one that the document means",
            "unmount: hint: mount the file system that the root is on; if it is gone, begin again with mkroot",
        ],
    );
    assert_eq!(other["error"]["code"], "failed");
}

#[test]
fn what_another_mounted_stays_and_is_named() {
    let ground = run(r#"
        mkdir -p "$T/boot" "$T/proc"
        mount -t tmpfs users "$T/boot"
        mount -t proc proc "$T/proc"
        mounted all
        echo '{"strapline":1,"root":"'"$T"'"}' >"$D/in"
        step none unmount <"$D/in"
        mounted none
        echo '{"strapline":1,"root":"'"$T"'","host":'"$(claims | sed 's/{"at":"boot[^}]*},//')"'}' >"$D/in"
        mount -t tmpfs more "$T/proc"
        step ours unmount <"$D/in"
        mounted ours
        # Another boot's mounts are not these, whatever their numbers.
        echo '{"strapline":1,"root":"'"$T"'","host":'"$(claims | sed 's/"boot_id":"./"boot_id":"x/')"'}' >"$D/in"
        step reboot unmount --quiet <"$D/in"
        mounted reboot
        # Who was refused before there was a root has mounted nothing, and may name it for all that.
        echo '{"strapline":1,"error":{"tool":"mkroot","code":"busy","message":"m","exit":75,"also":[]}}' >"$D/in"
        step refused unmount "$T" <"$D/in"
        mounted refused
        # A pipeline that was killed: reap had nothing to read, and said so.
        echo '{"strapline":1,"error":{"tool":"reap","code":"bad-document","message":"m","exit":65,"also":[]}}' >"$D/in"
        step killed unmount --quiet "$T" <"$D/in"
        mounted killed
        mount -t tmpfs users "$T/boot"
        step person unmount "$T"
        mounted person
    "#);
    let left = |names: &str| {
        format!(
            "unmount: warning: not mounted by this pipeline, and left: {names}; 'unmount --new ROOT' takes all down"
        )
    };
    let nothing = "unmount: nothing of this pipeline is mounted at or below 'ROOT'";
    let both = ground.read("all.mounts");
    let document = ground.step("none", 0, &[nothing, &left("'ROOT/proc', 'ROOT/boot'")]);
    assert_eq!(document["unmount"], json!({"unmounted": [], "left": [], "others": ["proc", "boot"]}));
    assert_eq!(ground.read("none.mounts"), both);
    let boot = left("'ROOT/boot'");
    let document = ground.step("ours", 0, &["unmount: unmounted 2 mounts at or below 'ROOT'", &boot]);
    assert_eq!(document["unmount"]["unmounted"], json!(["proc", "proc"]));
    ground.step("reboot", 0, &[&boot]);
    ground.step("refused", 75, &[nothing, &boot]);
    for name in ["ours", "reboot", "refused"] {
        let boot = format!("{}/boot\n", ground.root().display());
        assert_eq!(ground.read(&format!("{name}.mounts")), boot);
    }
    ground.step("killed", 65, &[]);
    assert_eq!(ground.read("killed.mounts"), "");
    ground.step("person", 0, &["unmount: unmounted 1 mount at or below 'ROOT'"]);
    assert_eq!(ground.read("person.mounts"), "");
}

#[test]
fn nothing_goes_while_a_tool_works_on_the_root() {
    let ground = run(r#"
        mount -t tmpfs t "$T"
        mkdir "$T/a"; mount -t tmpfs a "$T/a"
        mounted all
        # As every tool does while it works.
        start tool flock --shared --no-fork "$T" sh -c "$stay"
        step first unmount "$T"
        echo '{"strapline":1,"root":"'"$T"'","host":'"$(claims)"'}' >"$D/in"
        step claimed unmount <"$D/in"
        step look unmount --quiet --dry-run "$T"
        mounted busy
        kill "$pid"; wait "$pid" || :
        step second unmount "$T"
        mounted after
    "#);
    let pid = ground.pid("tool");
    let lines = [
        format!("unmount: locking the root 'ROOT': in use by {pid} sh (user root)"),
        format!("unmount: hint: wait until it has ended, or end it with 'kill {pid}', and try again"),
    ];
    for name in ["first", "claimed"] {
        let document = ground.step(name, 75, &[&lines[0], &lines[1]]);
        assert_eq!(document["error"]["code"], "busy");
    }
    assert_eq!(ground.read("busy.mounts"), ground.read("all.mounts"));
    ground.step("second", 0, &["unmount: unmounted 2 mounts at or below 'ROOT'"]);
    assert_eq!(ground.read("after.mounts"), "");
}

#[test]
fn mounts_that_are_stacked_or_half_gone_all_go() {
    let ground = run(r#"
        mount_all; mount_all
        mount -t tmpfs one "$T/proc"; mount -t tmpfs two "$T/proc"
        mounted before
        step first unmount "$T"
        mounted after
        mount_all
        umount "$T/proc" "$T/dev/pts"
        step second unmount "$T"
        mounted after_second
    "#);
    assert_eq!(ground.read("before.mounts").lines().count(), 14);
    ground.step("first", 0, &["unmount: unmounted 14 mounts at or below 'ROOT'"]);
    assert_eq!(ground.read("after.mounts"), "");
    ground.step("second", 0, &["unmount: unmounted 4 mounts at or below 'ROOT'"]);
    assert_eq!(ground.read("after_second.mounts"), "");
}

#[test]
fn the_time_grows_as_the_number_of_mounts_does() {
    let ground = run(r#"
        python3 - "$T" >"$D/seconds" <<'END'
import ctypes, os, resource, subprocess, sys
libc, root = ctypes.CDLL(None), sys.argv[1]
def seconds(mounts):
    for i in range(mounts):
        at = f"{root}/{i}"
        os.makedirs(at, exist_ok=True)
        assert libc.mount(b"t", at.encode(), b"tmpfs", 0, None) == 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["unmount", "--new", root], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert root + "/" not in open("/proc/self/mountinfo").read()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(seconds(500), seconds(4001))
END
    "#);
    let seconds = ground.read("seconds");
    let mut seconds = seconds.split_whitespace().map(|n| n.parse::<f64>().unwrap());
    let (few, many) = (seconds.next().unwrap(), seconds.next().unwrap());
    // Eight times as many: 64 times as long where each takes a look at all others.
    assert!(many < 24.0 * few, "500: {few} s, 4001: {many} s");
    eprintln!("500: {few} s, 4001: {many} s");
}

#[test]
fn two_that_work_at_the_same_time_do_not_fail_for_it() {
    let ground = run(r#"
        for i in 0 1 2 3 4 5 6 7 8 9; do
            for j in 0 1 2 3 4 5 6 7 8 9; do
                mkdir "$T/$i$j"; mount -t tmpfs t "$T/$i$j"
            done
        done
        unmount "$T" >"$D/one.out" 2>"$D/one.err" & one=$!
        unmount "$T" >"$D/two.out" 2>"$D/two.err" & two=$!
        wait "$one"; wait "$two"
        mounted after
    "#);
    let mut unmounted = 0;
    for name in ["one.out", "two.out"] {
        let document: serde_json::Value = serde_json::from_str(&ground.read(name)).unwrap();
        assert_eq!(document["unmount"]["left"], json!([]));
        unmounted += document["unmount"]["unmounted"].as_array().unwrap().len();
    }
    // Each is recorded by the one that took it down, and by no other.
    assert_eq!(unmounted, 100);
    assert_eq!(ground.read("after.mounts"), "");
}

#[test]
fn what_propagated_goes_too() {
    let ground = run(r#"
        mount --make-rshared /
        mount_all
        mounted before
        step first unmount "$T"
        mounted after
    "#);
    // The bind is a peer of '/', so each mount is there twice, once hidden.
    assert_eq!(ground.read("before.mounts").lines().count(), 11);
    let document = ground.step("first", 0, &["unmount: unmounted 6 mounts at or below 'ROOT'"]);
    assert_eq!(document["unmount"]["left"], json!([]));
    assert_eq!(ground.read("after.mounts"), "");
}

#[test]
fn who_is_in_the_way_is_named_and_the_next_run_goes_on() {
    let ground = run(r#"
        mount_all
        cd "$T/dev"
        start user sh -c "$stay"
        cd /
        echo '{"strapline":1,"root":"'"$T"'","host":'"$(claims)"'}' >"$D/in"
        step first unmount <"$D/in"
        mounted half
        kill "$pid"; wait "$pid" || :
        step second unmount --state "$D/first.out"
        mounted after
    "#);
    let pid = ground.pid("user");
    let document = ground.step(
        "first",
        75,
        &[
            &format!(
                "unmount: unmounting 'ROOT/dev': it is in use: {pid} sh (user root) has its working directory at 'ROOT/dev'"
            ),
            "unmount: hint: end it, or run 'reap ROOT' and then 'unmount ROOT' again",
        ],
    );
    assert_eq!(document["error"]["code"], "busy");
    assert!(document.get("host").is_some());
    let left = document["unmount"]["left"].as_array().unwrap();
    assert!(left.contains(&json!("dev")) && left.contains(&json!("")));
    assert!(!left.contains(&json!("dev/pts")));
    assert_eq!(ground.read("half.mounts").lines().count(), left.len());
    let n = left.len();
    let done = document["unmount"]["unmounted"].as_array().unwrap().len();
    assert_eq!(n + done, 6);
    let document = ground.step("second", 0, &[&format!("unmount: unmounted {n} mounts at or below 'ROOT'")]);
    assert!(document.get("error").is_none() && document.get("host").is_none());
    let all = document["unmount"]["unmounted"].as_array().unwrap();
    assert_eq!(all.len(), 6);
    assert_eq!(ground.read("after.mounts"), "");
}

#[test]
fn every_kind_of_use_is_named() {
    let ground = Ground::run(
        &BINS,
        &["losetup", "gpg-agent"],
        r#"
        mount -t tmpfs t "$T"
        mount -t tmpfs run /run
        start fd sh -c "exec 5>'$T/file'; $stay"
        step fd unmount "$T"; kill "$pid"; wait "$pid" || :
        start gone sh -c "exec 5>'$T/file'; rm '$T/file'; $stay"
        step gone unmount "$T"; kill "$pid"; wait "$pid" || :
        cp /bin/sh "$T/program"
        start exe "$T/program" -c "$stay"
        step exe unmount "$T"; kill "$pid"; wait "$pid" || :
        truncate -s 1M "$T/image"
        loop=$(losetup -f --show "$T/image")
        step loop unmount "$T"
        losetup -d "$loop"
        mkdir -m 700 "$T/g"
        gpg-agent --homedir "$T/g" --daemon >/dev/null 2>&1
        step socket unmount "$T"
        "#,
    );
    let busy = |name: &str, why: &str| {
        let message = format!("unmount: unmounting 'ROOT': it is in use: {why}");
        let hint = "unmount: hint: end it, or run 'reap ROOT' and then 'unmount ROOT' again";
        ground.step(name, 75, &[&message, hint]);
    };
    let sh = |name: &str| format!("{} sh (user root)", ground.pid(name));
    busy("fd", &format!("{} has 'ROOT/file' open as descriptor 5", sh("fd")));
    busy("gone", &format!("{} has 'ROOT/file (deleted)' open as descriptor 5", sh("gone")));
    let pid = ground.pid("exe");
    busy("exe", &format!("{pid} program (user root) runs 'ROOT/program'"));
    let socket = ground.read("socket.err");
    assert!(socket.contains("gpg-agent (user root) has a socket bound at '"), "{socket}");
    let said = ground.read("loop.err");
    assert!(said.contains("in use: the loop device /dev/loop") && said.contains("/image'"), "{said}");
}

#[test]
fn a_receipt_that_is_written_below_the_root_is_named() {
    let ground = run(r#"
        mount -t tmpfs t "$T"
        # Not by the shell itself: it would have the file open, too.
        step ours sh -c 'exec unmount "$T" >"$T/receipt"'
        cp "$T/receipt" "$D/ours.out"
    "#);
    ground.step(
        "ours",
        75,
        &[
            "unmount: unmounting 'ROOT': it is in use: this program's standard output is there",
            "unmount: hint: end it, or run 'reap ROOT' and then 'unmount ROOT' again",
        ],
    );
}

#[test]
fn our_own_working_directory_is_not_in_the_way() {
    let ground = run(r#"
        mount -t tmpfs t "$T"
        # The shell that starts it leaves first: only the program itself stands there.
        step first sh -c 'cd "$T" && exec unmount .'
    "#);
    ground.step("first", 0, &["unmount: unmounted 1 mount at or below 'ROOT'"]);
}

#[test]
fn lazy_detaches_what_is_in_use_and_says_what_that_means() {
    let ground = run(r#"
        mount --bind "$T" "$T"
        mkdir "$T/dev"; mount -t tmpfs dev "$T/dev"
        start root sh -c "exec 5>'$T/file'; $stay"
        start dev sh -c "exec 5>'$T/dev/file'; $stay"
        stat -f -c %T "$T" >"$D/fstype"
        grep -F " $T " /proc/self/mountinfo | sed 's/.* - //; s/ .*//' >"$D/fstype"
        step first unmount --lazy "$T"
        mounted after
    "#);
    let fstype = ground.read("fstype").trim().to_owned();
    let root = if ["tmpfs", "devtmpfs"].contains(&fstype.as_str()) {
        "unmount: warning: 'ROOT' is detached; it stays until its last user ends".to_owned()
    } else {
        format!(
            "unmount: warning: 'ROOT' is detached; data may still be in flight to its {fstype} until its last user ends"
        )
    };
    let document = ground.step(
        "first",
        0,
        &[
            "unmount: warning: 'ROOT/dev' is detached; it stays until its last user ends",
            &root,
            "unmount: unmounted 2 mounts at or below 'ROOT'",
        ],
    );
    assert_eq!(document["unmount"]["detached"], json!(["dev", ""]));
    assert_eq!(ground.read("after.mounts"), "");
}

#[test]
fn a_dry_run_touches_nothing() {
    let ground = run(r#"
        mkdir "$T/a"; mount -t tmpfs a "$T/a"; mkdir "$T/a/b c"; mount -t tmpfs b "$T/a/b c"
        cat /proc/self/mountinfo >"$D/before"
        step first unmount --dry-run "$T"
        cat /proc/self/mountinfo >"$D/after"
    "#);
    let document = ground.step("first", 0, &["unmount: would unmount 'ROOT/a/b c'", "unmount: would unmount 'ROOT/a'"]);
    assert_eq!(document["unmount"], json!({"would_unmount": ["a/b c", "a"]}));
    assert_eq!(ground.read("before"), ground.read("after"));
}

#[test]
fn a_link_in_the_root_leads_nowhere() {
    let ground = run(r#"
        mkdir "$D/outside" "$D/outside/pts"
        mount -t tmpfs outside "$D/outside/pts"
        ln -s "$D/outside" "$T/dev"
        cat /proc/self/mountinfo >"$D/before"
        mkdir "$T/a"; mount -t tmpfs a "$T/a"
        step first unmount "$T"
        cat /proc/self/mountinfo >"$D/after"
        ln -s "$T" "$D/link"
        mount -t tmpfs a "$T/a"
        step second unmount "$D/link"
        echo '{"strapline":1,"root":"'"$D/link"'"}' >"$D/in"
        step third unmount <"$D/in"
    "#);
    ground.step("first", 0, &["unmount: unmounted 1 mount at or below 'ROOT'"]);
    assert_eq!(ground.read("before"), ground.read("after"));
    // The user may name the root by a link; a document may not.
    ground.step("second", 0, &["unmount: unmounted 1 mount at or below 'ROOT'"]);
    let link = format!(
        "unmount: opening the root '{}': a part of the path is a symbolic link",
        ground.path().join("link").display()
    );
    ground.step("third", 69, &[&link, "unmount: hint: name the directory that it leads to, and run mkroot again"]);
}

#[test]
fn roots_that_cannot_be_meant_are_refused() {
    let ground = run(r#"
        mkdir "$D/host"; mount --rbind / "$D/host"
        cat /proc/self/mountinfo >"$D/before"
        step slash unmount /
        step dots unmount "$T/../../.."
        step host unmount "$D/host"
        step gone unmount "$T/gone"
        step none unmount
        step new unmount --new
        echo '{"strapline":1,"root":"'"$T"'"}' >"$D/in"
        mkdir "$D/another"
        step differ unmount "$D/another" <"$D/in"
        cat /proc/self/mountinfo >"$D/after"
    "#);
    let refused = |name, status, code: &str, lines: &[&str]| {
        assert_eq!(ground.step(name, status, lines)["error"]["code"], code);
    };
    let host = "unmount: opening the root '/': it is the root that this program runs in";
    refused("slash", 64, "usage", &[host]);
    refused("dots", 64, "usage", &[host]);
    let bound = ground.path().join("host");
    let bound = host.replace("'/'", &format!("'{}'", bound.display()));
    refused("host", 64, "usage", &[&bound]);
    refused(
        "gone",
        69,
        "not-found",
        &["unmount: opening the root 'ROOT/gone': No such file or directory (os error 2)"],
    );
    assert!(ground.read("none.err").contains("stdin is /dev/null"));
    refused("new", 64, "usage", &["unmount: finding the root: there is neither a document nor DIR"]);
    let another = ground.path().join("another");
    refused(
        "differ",
        64,
        "usage",
        &[
            &format!("unmount: '{}' is not 'ROOT', the root that the document means", another.display()),
            "unmount: hint: leave DIR out, or give --new to work from DIR alone",
        ],
    );
    assert_eq!(ground.read("before"), ground.read("after"));
}

#[test]
fn a_failed_document_keeps_its_error() {
    let ground = run(r#"
        mount_all
        echo '{"strapline":1,"root":"'"$T"'","host":'"$(claims)"',"error":{"tool":"strap","code":"child-failed","message":"m","exit":69,"also":[]}}' >"$D/in"
        step first unmount <"$D/in"
        mounted after
        mount -t tmpfs t "$T"
        : | step empty unmount "$T"
        mounted after_empty
        echo '{"strapline":1,"error":{"tool":"mkroot","code":"usage","message":"m","exit":64,"also":[]}}' >"$D/in"
        step none unmount <"$D/in"
    "#);
    let document = ground.step("first", 69, &["unmount: unmounted 6 mounts at or below 'ROOT'"]);
    let error = json!({"tool": "strap", "code": "child-failed", "message": "m", "exit": 69, "also": []});
    assert_eq!(document["error"], error);
    assert_eq!(ground.read("after.mounts"), "");
    let document = ground.step(
        "empty",
        65,
        &[
            "unmount: unmounted 1 mount at or below 'ROOT'",
            "unmount: reading the document on stdin: it is empty: the tool before this one printed nothing",
            "unmount: hint: to work from the directory alone, give --new",
        ],
    );
    assert_eq!(document["error"]["code"], "bad-document");
    assert_eq!(ground.read("after_empty.mounts"), "");
    ground.step("none", 64, &["unmount: no root was made: there is nothing to do"]);
}

#[test]
fn an_ordinary_user_is_told_what_it_takes() {
    let ground = run(r#"
        nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
        step nothing nobody unmount "$T"
        mount -t tmpfs t "$T"
        step first nobody unmount "$T"
        mounted after
    "#);
    ground.step("nothing", 0, &["unmount: nothing is mounted at or below 'ROOT'"]);
    let document = ground.step(
        "first",
        77,
        &[
            "unmount: unmounting 'ROOT': Operation not permitted (os error 1)",
            "unmount: hint: run it as root: sudo unmount ROOT",
        ],
    );
    assert_eq!(document["error"]["code"], "permission");
    assert_eq!(document["unmount"]["left"], json!([""]));
    assert_eq!(ground.read("after.mounts").lines().count(), 1);
}

#[test]
fn the_help_fits_and_the_manual_has_every_option() {
    strapline_tests::scripted::assert_help_and_manual(BINS[0], "unmount");
}

#[test]
fn a_root_is_deleted_however_deep_and_nothing_beside_it() {
    let ground = run(r#"
        mkdir -p "$T/var/lib/pacman" "$T/proc" "$D/kept" "$T.strapline/gnupg"
        : >"$D/kept/file"
        ln -s "$D/kept" "$T/link"
        ln -s "$D/kept" "$T.strapline/gnupg/link"
        mount -t proc proc "$T/proc"
        # Deeper than a path may be long, and than a program may have files open.
        (
            cd "$T"
            for i in $(seq 60); do name=$(printf '%0100d' $i); mkdir $name; cd -P ./$name; : >file; done
            for i in $(seq 600); do mkdir d; cd -P ./d 2>/dev/null || break; done
        )
        # What an earlier run moved up has a name that is taken.
        mkdir -p "$T/.deep-1/some/thing"
        mkdir -m 000 "$T/closed"; : >"$T/closed/file"
        step remove unmount --remove "$T"
        ls "$D/kept" >"$D/kept.ls"
        step again unmount --remove "$T"
    "#);
    let lines = ["unmount: unmounted 1 mount at or below 'ROOT'", "unmount: deleted 'ROOT'"];
    let document = ground.step("remove", 0, &lines);
    assert_eq!(document["unmount"], json!({"unmounted": ["proc"], "left": [], "removed": true}));
    assert_eq!(ground.read("kept.ls"), "file\n");
    assert!(!ground.root().exists());
    assert!(!ground.path().join("root.strapline").exists());
    ground.step("again", 69, &["unmount: opening the root 'ROOT': No such file or directory (os error 2)"]);
}

#[test]
fn what_is_no_root_or_in_use_is_not_deleted() {
    let ground = run(r#"
        mkdir "$T/home"
        step no_root unmount --remove "$T"
        mkdir -p "$T/var/lib/pacman"
        mount --bind "$T" "$T"
        step mount_point unmount --remove "$T"
        umount "$T"
        # Of another pipeline: it stays.
        mkdir "$T/dev"
        mount -t tmpfs other "$T/dev"
        id=$(stat -c '{"dev":%d,"ino":%i}' "$T")
        echo '{"strapline":1,"root":"'"$T"'","root_id":'"$id"'}' >"$D/in"
        step others unmount --quiet --remove <"$D/in"
        umount "$T/dev"
        cd "$T/home"
        start shell sh -c "$stay"
        cd "$D"
        step used unmount --remove "$T"
        kill -9 "$pid"; wait "$pid" || :
        # Beside the root, too.
        mkdir "$T.strapline"
        mount -t tmpfs other "$T.strapline"
        : >"$T.strapline/kept"
        step beside unmount --remove "$T"
        ls "$T.strapline" >"$D/kept"
        umount "$T.strapline"
        step receipt sh -c 'unmount --remove "$T" >"$T/receipt"'
        find "$T" >"$D/left"
    "#);
    let lines =
        ["unmount: deleting 'ROOT': it is not a root: it has no 'var/lib/pacman'", "unmount: hint: delete it by hand"];
    ground.step("no_root", 69, &lines);
    let hint = "unmount: hint: unmount it, or delete what is in it by hand";
    ground.step("mount_point", 69, &["unmount: deleting 'ROOT': it is a mount point", hint]);
    let warning =
        "unmount: warning: not mounted by this pipeline, and left: 'ROOT/dev'; 'unmount --new ROOT' takes all down";
    let hint = "unmount: hint: 'unmount --new ROOT' unmounts all";
    let document = ground.step("others", 75, &[warning, "unmount: deleting 'ROOT': 'ROOT/dev' is mounted", hint]);
    assert_eq!(document["unmount"]["others"], json!(["dev"]));
    let used = format!(
        "unmount: deleting 'ROOT': it is in use: {} sh (user root) has its working directory at 'ROOT/home'",
        ground.pid("shell")
    );
    let hint = "unmount: hint: end it, or run 'reap ROOT' and this again";
    ground.step("used", 75, &["unmount: nothing is mounted at or below 'ROOT'", &used, hint]);
    assert_eq!(ground.read("receipt.status"), "75\n");
    assert_eq!((ground.read("beside.status").as_str(), ground.read("kept").as_str()), ("75\n", "kept\n"));
    assert!(ground.read("beside.err").contains("root.strapline' is mounted\n"), "{}", ground.read("beside.err"));
    assert!(ground.read("left").contains("/root/home\n"));
}

#[test]
fn a_root_with_mounts_of_its_pipeline_is_deleted() {
    let ground = run(r#"
        mkdir -p "$T/var/lib/pacman"
        mount_all
        id=$(stat -c '{"dev":%d,"ino":%i}' "$T")
        echo '{"strapline":1,"root":"'"$T"'","root_id":'"$id"',"mode":"host","host":'"$(claims)"'}' >"$D/in"
        step remove unmount --quiet --remove <"$D/in"
    "#);
    let document = ground.step("remove", 0, &[]);
    assert_eq!(document["unmount"]["removed"], true);
    assert!(document.get("host").is_none() && !ground.root().exists());
}

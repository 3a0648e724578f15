//! Whose a root is, and whose what runs and is mounted there: a second pipeline on the root of a running one, roots that
//! are mounted again or copied, and what a root must not take over from the place where it is made.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::process::Command;
use strapline_tests::{Lab, Mirror, Neighbours, Ran, Server, Who, bin_dir};

/// The pipe up to a keyring, into `root`.
fn begin(mirror: &Mirror, server: &Server, options: &str) -> String {
    let (preset, url) = (mirror.preset(), server.url());
    format!(
        "mkroot root {options} --arch x86_64 --distro {p} | fetch-pacman --use /usr/bin/pacman \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages | keyring",
        p = preset.display()
    )
}

/// Returns the mounts below the laboratory's root.
fn mounts(lab: &Lab) -> Vec<String> {
    strapline_tests::lab::Host::look().mounts_below(&lab.path().join("root"))
}

#[track_caller]
fn ok(ran: &Ran) {
    assert_eq!(ran.status, 0, "{ran:?}");
}

// -- A second pipeline ------------------------------------------------------------------------------------------------

/// A stage that hands on what it got, and waits before: nothing of the pipe is at work.
const BETWEEN: &str = "sh -c 'handed=$(cat); echo ready >ready; read -r line <go; printf \"%s\\n\" \"$handed\"'";

/// A command in the root that waits until it is told to go on.
const WITHIN: &str = "echo ready >/ready; read -r line </go";

/// Has pacman run it at the end of a transaction, as it runs the scriptlets of packages.
const HOOK: &str = "[Trigger]\nOperation = Install\nType = Package\nTarget = coreutils\n\
                    [Action]\nWhen = PostTransaction\nExec = /usr/bin/bash -c 'WITHIN'\n";

#[test]
fn a_second_pipeline_at_each_step_of_one_in_mode_root() {
    second_pipeline(Who::Root, "");
}

#[test]
fn a_second_pipeline_beside_mounts_on_the_host() {
    second_pipeline(Who::Root, "--host");
}

#[test]
fn a_second_pipeline_at_each_step_of_one_of_a_user() {
    second_pipeline(Who::User, "");
}

/// Stops a pipeline between all its stages and in the middle of two of them, and each time runs a whole second one on its root.
fn second_pipeline(who: Who, options: &str) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::of(&mirror.www());
    let neighbours = Neighbours::beside(lab.path());
    let begin = |options| begin(&mirror, &server, options);
    ok(&lab.sh(&format!(
        "{} | strap filesystem bash >made.json
         mkfifo ready go root/ready root/go; mkdir -p root/etc/pacman.d/hooks",
        begin("")
    )));
    let hook = HOOK.replace("WITHIN", WITHIN);
    fs::write(lab.path().join("hook"), hook).expect("our own directory");
    ok(&lab.sh("cp hook root/etc/pacman.d/hooks/wait.hook"));
    let enter = format!("enter -- sh -c '{WITHIN}'");
    let first = begin(options);
    let mut stages: Vec<_> = first.split(" | ").collect();
    stages.extend(["strap coreutils", &enter, "configure --hostname alarm"]);
    stages.extend(["reap", "unmount"]);
    let first = format!("{} >first.json", stages.join(&format!(" | {BETWEEN} | ")));
    let mut first = lab.command("timeout").args(["300", "sh", "-c", &first]).spawn().expect("timeout is there");
    let second = format!("{} | strap bash | reap | unmount", begin(options));
    for stage in &stages[..stages.len() - 1] {
        let tool = stage.split(' ').next().unwrap_or_default();
        if ["strap", "enter"].contains(&tool) {
            ok(&lab.sh("read -r line <root/ready"));
            refused(&lab, tool, &second, options);
            ok(&lab.sh("echo >root/go"));
        }
        ok(&lab.sh("read -r line <ready"));
        let before = mounts(&lab);
        assert_eq!(before.is_empty(), options.is_empty(), "{before:#?}");
        // Nobody works there: the second one does all it wants, and leaves what is not its own.
        let ran = lab.sh(&second);
        ok(&ran);
        let left = "not mounted by this pipeline, and left: ";
        assert_eq!(ran.stderr.contains(left), !options.is_empty(), "{ran:?}");
        assert_eq!(mounts(&lab), before, "after {tool}");
        neighbours.unharmed(tool);
        ok(&lab.sh("echo >go"));
    }
    let status = first.wait().expect("a child");
    let document = fs::read_to_string(lab.path().join("first.json")).expect("a document");
    assert!(status.success(), "{document}");
    assert_eq!(mounts(&lab), Vec::<String>::new());
    // It is whole.
    ok(&lab.sh("verify <first.json >verified.json"));
    neighbours.unharmed("at the end");
}

/// Each way in which a second pipeline ends while `tool` of the first works in the root: refused, with the name of that, and
/// nothing is undone.
fn refused(lab: &Lab, tool: &str, second: &str, options: &str) {
    let before = mounts(lab);
    assert_eq!(before.is_empty(), options.is_empty(), "{before:#?}");
    for undo in [second, "reap --new root", "unmount --new root", "reap <made.json", "unmount <made.json"] {
        let ran = lab.sh(undo);
        ran.failed(75, "locking ");
        assert!(ran.stderr.contains(&format!(" {tool} (user ")), "{ran:?}");
        assert_eq!(ran.document()["error"]["code"], "busy", "{undo}");
        assert_eq!(mounts(lab), before, "{undo} while {tool} works");
    }
}

/// The stages that make something that has a name, what that is, and what another run has of it.
const MADE: [(&str, &str); 4] = [
    ("mkconf --server 'URL/$arch/$repo' --cache-dir $PWD/packages --out-dir $PWD/conf", "conf/pacman-strict.conf"),
    ("pack -o image.tar", "image.tar"),
    ("mkdisk -o image.raw --bootloader none", "image.raw"),
    ("fetch-pacman --server URL/archlinuxcn/x86_64 --cache-dir $PWD/cache -o pacman", "pacman"),
];

#[test]
fn what_another_has_made_its_own_is_not_undone() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let neighbours = Neighbours::beside(lab.path());
    ok(&lab.sh(&format!(
        "{} | strap filesystem | keyring --strip=secret >made.json; mkfifo full",
        begin(&mirror, &server, "")
    )));
    for (stage, made) in MADE {
        let stage = stage.replace("URL", server.url());
        // The first has done its work, and nobody takes its document.
        ok(&lab.sh(&format!(
            "exec 3<>full; head -c 65536 /dev/zero >full
             {stage} <made.json >full 2>err 3<&- & first=$!
             until grep -q pipe_write /proc/$first/wchan; do [ -e /proc/$first/exe ] || exit 1; done
             {stage} <made.json >second.json 2>second.err || {{ cat second.err >&2; exit 1; }}
             before=$(stat -c %i {made})
             exec 3<&-
             status=0; wait $first || status=$?
             test $status = 74 || {{ cat err >&2; exit 1; }}
             test $before = $(stat -c %i {made})"
        )));
        neighbours.unharmed(&stage);
    }
}

#[test]
fn mounts_that_another_works_on_are_not_undone() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    ok(&lab.sh(&format!(
        "{} | strap filesystem bash >made.json; mkfifo full root/ready root/go",
        begin(&mirror, &server, "")
    )));
    // The first has mounted all, and nobody takes its document; then another works there, or mounts something over it.
    for (second, end, why) in [
        (
            format!("enter --state made.json -- sh -c '{WITHIN}' 3<&- & read -r line <root/ready"),
            "echo >root/go; wait",
            "in use by ",
        ),
        ("mount -t tmpfs over root".to_owned(), "umount root", "another mount hides it"),
    ] {
        ok(&lab.sh(&format!(
            "exec 3<>full; head -c 65536 /dev/zero >full
             mkroot root --host --arch x86_64 --distro {} >full 2>err 3<&- & first=$!
             until grep -q pipe_write /proc/$first/wchan; do [ -e /proc/$first/exe ] || exit 1; done
             {second}
             grep -F \" $PWD/root\" /proc/self/mountinfo >before
             exec 3<&-
             status=0; wait $first || status=$?
             grep -F \" $PWD/root\" /proc/self/mountinfo | cmp - before; same=$?
             {end}
             unmount --new --quiet root >/dev/null || exit 1
             test $status = 74 && test $same = 0 && grep -q '{why}' err || {{ cat err >&2; exit 1; }}",
            mirror.preset().display()
        )));
    }
}

#[test]
fn mounts_that_another_one_hides_are_not_the_roots() {
    let lab = Lab::new(Who::Root);
    let ran = alone(
        &lab,
        "mkroot root --host >older.json
         mount -t tmpfs over root
         mkroot root --host >made.json 2>made.err; test ! -s made.err
         test -e root/proc/self
         unmount --quiet <made.json >unmounted.json
         test ! -e root/proc/self && mountpoint -q root
         umount root
         test -e root/proc/self
         unmount --quiet <older.json >unmounted.json
         ! grep -F \" $PWD/root\" /proc/self/mountinfo",
    );
    ok(&ran);
}

// -- The same root under another number -------------------------------------------------------------------------------

/// Runs a script as root in a mount namespace of its own.
fn alone(lab: &Lab, script: &str) -> Ran {
    let mut command = lab.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script]);
    strapline_tests::lab::run(&mut command)
}

/// A root on a file system that is unmounted and mounted again; `$make` makes it, `$again` mounts it on the directory `fs`.
fn mounted_again(make: &str, again: &str) {
    let lab = Lab::new(Who::Root);
    let ran = alone(
        &lab,
        &format!(
            "mkdir fs other
             trap 'umount -q fs other || :; losetup -D -j /nowhere 2>/dev/null || :; for l in $(losetup -nO NAME -j image -j spare); do losetup -d $l; done' EXIT
             {make}
             mkroot fs/root --arch x86_64 >doc.json
             mkroot fs --arch x86_64 >top.json 2>/dev/null || :
             before=$(stat -c %d fs/root)
             umount fs
             {again}
             echo \"$before $(stat -c %d fs/root)\" >&2
             reap --quiet --state doc.json >reaped.json
             mkconf --out-dir $PWD/conf --cache-dir $PWD/packages <doc.json 2>err.mkconf || cat err.mkconf >&2
             # A copy is another directory, and so is one that was made anew.
             cp -a fs/root fs/copy; mv fs/root fs/away; mv fs/copy fs/root
             status=0; reap --state doc.json >refused.json 2>refused.err || status=$?
             test $status = 69
             grep -q \"hint: .*'mkroot $PWD/fs/root' begins a new document\" refused.err
             rm -r fs/root; mv fs/away fs/root
             reap --quiet --state doc.json >reaped.json"
        ),
    );
    assert_eq!(ran.status, 0, "{ran:?}");
    let numbers: Vec<_> = ran.stderr.lines().next().unwrap_or_default().split(' ').map(str::to_owned).collect();
    assert_ne!(numbers.first(), numbers.get(1), "the device number is the same: {ran:?}");
}

#[test]
fn ext4_on_another_loop_device() {
    mounted_again(
        "truncate -s 64M image; mkfs.ext4 -q image; mount -o loop image fs",
        "truncate -s 1M spare; losetup -f spare; losetup -f spare; mount -o loop image fs",
    );
}

/// Mounts until the file system has another number: the lowest free one is given, and who else mounts is chance. What has the
/// old one is kept meanwhile.
fn with_another_number(mount: &str) -> String {
    format!(
        "{mount}
         n=0; while [ $(stat -c %d fs) = $before ]; do
             umount fs; n=$((n + 1)); mkdir -p other/$n; mount -t tmpfs y other/$n; {mount}
         done
         while [ $n -gt 0 ]; do umount other/$n; n=$((n - 1)); done"
    )
}

#[test]
fn btrfs_mounted_again() {
    let mount = "mount -o loop image fs";
    mounted_again(&format!("truncate -s 128M image; mkfs.btrfs -q image; {mount}"), &with_another_number(mount));
}

#[test]
fn xfs_on_another_loop_device() {
    mounted_again(
        "truncate -s 320M image; mkfs.xfs -q image; mount -o loop image fs",
        "truncate -s 1M spare; losetup -f spare; losetup -f spare; mount -o loop image fs",
    );
}

/// It is mounted elsewhere, and bound where it was.
#[test]
fn a_bind_of_what_is_mounted_elsewhere() {
    mounted_again(
        "truncate -s 64M image; mkfs.ext4 -q image; mount -o loop image fs",
        "truncate -s 1M spare; losetup -f spare; mkdir elsewhere; mount -o loop image elsewhere; mount --bind elsewhere fs
         umount elsewhere",
    );
}

#[test]
fn overlay_mounted_again() {
    let overlay = "mount -t overlay -o lowerdir=layers/l,upperdir=layers/u,workdir=layers/w o fs";
    mounted_again(
        &format!("mkdir -p layers; mount -t tmpfs layers layers; mkdir layers/l layers/u layers/w; {overlay}"),
        &with_another_number(overlay),
    );
}

#[test]
fn a_copy_in_memory_is_another_root() {
    let lab = Lab::new(Who::Root);
    let ran = alone(
        &lab,
        "mkdir fs
         mount -t tmpfs a fs
         mkroot fs --arch x86_64 >doc.json
         mkdir kept; cp -a fs/. kept/
         umount fs
         status=0; reap --state doc.json >/dev/null 2>empty.err || status=$?; test $status = 69
         grep -q 'hint: mount the file system that the root is on' empty.err
         mount -t tmpfs a fs; cp -a kept/. fs/
         status=0; reap --state doc.json >/dev/null 2>copy.err || status=$?; test $status = 69
         grep -q \"hint: .*'mkroot $PWD/fs' begins a new document\" copy.err
         umount fs",
    );
    assert_eq!(ran.status, 0, "{ran:?}");
}

// -- What a root must not take over from its place --------------------------------------------------------------------

#[test]
fn a_root_inherits_no_acl_group_or_attribute() {
    for who in [Who::Root, Who::User] {
        inherits_nothing(who);
    }
}

fn inherits_nothing(who: Who) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::of(&mirror.www());
    let place = lab.path();
    let give = |args: &[&str]| {
        let ran = strapline_tests::lab::run(Command::new(args[0]).args(&args[1..]).current_dir(place));
        ok(&ran);
        ran.stdout
    };
    give(&["setfacl", "-d", "-m", "u:1234:rwx,g:1234:rwx", "."]);
    // The directory is there, and has what its maker gave it.
    give(&["mkdir", "root"]);
    give(&["setfattr", "-n", "user.note", "-v", "mine", "root"]);
    give(&["chgrp", "1234", "root"]);
    give(&["chmod", "2775", "root"]);
    if who == Who::User {
        give(&["chown", &strapline_tests::lab::UID.to_string(), "root"]);
    }
    ok(&lab.sh(&format!("{} | strap filesystem bash >made.json", begin(&mirror, &server, ""))));
    let acls = give(&["getfacl", "--recursive", "--skip-base", "--absolute-names", "root"]);
    assert_eq!(acls, "");
    let attributes = give(&["getfattr", "--recursive", "--physical", "-h", "-d", "-m", "user", "root"]);
    assert_eq!(attributes, "");
    assert_eq!(give(&["find", "root", "-gid", "1234"]), "");
    let root = place.join("root").metadata().expect("a root");
    let own = if who == Who::Root { 0 } else { strapline_tests::lab::UID };
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o755, own, own));
    ok(&lab.sh("verify <made.json >verified.json"));
    // verify looks at files, at directories, and at what these hand on.
    // With no more than the group has: the mode stays as it was, and the ACL alone tells.
    give(&["setfacl", "-m", "u:1234:r-x", "root/usr/bin/bash"]);
    give(&["setfacl", "-d", "-m", "u:1234:rwx", "root/usr/lib"]);
    let ran = lab.sh("verify <made.json");
    assert_eq!(ran.status, 69, "{ran:?}");
    for path in ["usr/bin/bash", "usr/lib"] {
        assert!(ran.stderr.contains(&format!("{path}' is changed (acl)")), "{path}: {ran:?}");
    }
}

#[test]
fn a_root_of_other_ids_is_refused_by_mkroot() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::User));
    let server = Server::of(&mirror.www());
    ok(&lab.sh(&format!("{} | strap filesystem bash >made.json", begin(&mirror, &server, ""))));
    let preset = mirror.preset();
    let again = format!("mkroot root --distro {} >again.json", preset.display());
    ok(&lab.sh(&again));
    let refused = |ran: &Ran, what: &str| {
        assert_eq!(ran.status, 77, "{ran:?}");
        assert!(ran.stderr.contains(what), "{what}: {ran:?}");
        let hint = format!("'sudo unmount --remove {}/root'", lab.path().display());
        assert!(ran.stderr.contains("hint: use it as the user that made it") && ran.stderr.contains(&hint), "{ran:?}");
    };
    // Root is another user.
    let mut command = Command::new(bin_dir().join("mkroot"));
    let as_root = command.args(["--new", "root", "--distro"]).arg(&preset).current_dir(lab.path());
    let user = format!("root' belongs to user {}", strapline_tests::lab::UID);
    refused(&strapline_tests::lab::run(as_root), &user);
    // And so is who has other subordinate ids: one file is enough.
    let file = lab.path().join("root/usr/bin/bash");
    let before = file.metadata().expect("a shell");
    lchown(&file, None, Some(2_000_000_005)).expect("root may");
    refused(&lab.sh(&again), "usr/bin/bash' belongs to group 2000000005");
    lchown(&file, Some(2_000_000_006), Some(before.gid())).expect("root may");
    refused(&lab.sh(&again), "usr/bin/bash' belongs to user 2000000006");
    lchown(&file, Some(before.uid()), None).expect("root may");
    ok(&lab.sh(&again));
}

// -- The root is believed ---------------------------------------------------------------------------------------------

#[test]
fn mkroot_refuses_what_contradicts_the_root() {
    let lab = Lab::new(Who::Root);
    ok(&lab.sh("mkroot root --arch aarch64 >first.json"));
    // As pacman and the distribution's packages leave it.
    ok(&lab.sh(
        "mkdir -p root/var/lib/pacman/local/filesystem-1-1 root/usr/lib
         printf '%%NAME%%\\nfilesystem\\n\\n%%VERSION%%\\n1-1\\n\\n%%ARCH%%\\naarch64\\n' >root/var/lib/pacman/local/filesystem-1-1/desc
         printf 'NAME=\"Arch Linux ARM\"\\nID=archarm\\nID_LIKE=arch\\n' >root/usr/lib/os-release",
    ));
    let document = lab.sh("mkroot root").succeeded();
    assert_eq!((&document["arch"], &document["distro"]), (&"aarch64".into(), &"archlinuxarm".into()));
    lab.sh("mkroot root --arch x86_64").failed(64, "its packages are of aarch64");
    lab.sh("mkroot root --distro archlinux").failed(64, "it is archlinuxarm");
    ok(&lab.sh("mkroot root --arch aarch64 --distro archlinuxarm"));
    // A distribution that we do not know is not taken for the host's.
    ok(&lab.sh("sed -i s/ID=archarm/ID=own/ root/usr/lib/os-release"));
    lab.sh("mkroot root").failed(64, "no preset for 'own'");
    // The hint of a copied root leads here, and here it is what it was.
    ok(&lab.sh("sed -i s/ID=own/ID=archarm/ root/usr/lib/os-release; mv root away; cp -a away root"));
    let ran = lab.sh("mkconf --out-dir $PWD/conf <first.json");
    ran.failed(69, "it is not the directory that the document means");
    assert!(ran.stderr.contains("begins a new document for it, and keeps what is installed"), "{ran:?}");
    let document = lab.sh("mkroot root").succeeded();
    assert_eq!((&document["arch"], &document["distro"]), (&"aarch64".into(), &"archlinuxarm".into()));
}

//! The built program on small roots: what it takes and refuses, what it writes and how it ends. What is in an archive is
//! looked at with the host's own tar.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};
use strapline_tests::small::{self, Ran};
use tempfile::TempDir;

struct Lab {
    directory: TempDir,
    document: Value,
}

impl Lab {
    /// A root with a file or two.
    fn new() -> Self {
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let root = directory.path().canonicalize().unwrap().join("root");
        for below in ["etc/pacman.d", "proc", "run", "tmp", "var/lib/pacman/local", "var/log", "usr"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(root.join("usr/file"), "text").unwrap();
        let meta = root.metadata().unwrap();
        assert_eq!(meta.uid(), 0, "these tests make namespaces as root: run 'make test'");
        let document = json!({
            "strapline": 1,
            "root": root,
            "root_id": {"dev": meta.dev(), "ino": meta.ino()},
            "arch": "x86_64",
            "mode": "root",
            "mounts": rootfs::plan::api(false),
            "binfmt": {"kind": "native"},
        });
        Self { directory, document }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// Writes a file in the root, with the directories above it.
    fn put(&self, below: &str, text: &str) {
        let path = self.root().join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a file of so many MiB in the root, which compress to little less.
    fn put_much(&self, below: &str, count: u64) {
        let file = File::create(self.root().join(below)).unwrap();
        let mut state = 1_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let noise: Vec<u8> = (0..1 << 20).map(|_| noise()).collect();
        for n in 0..count {
            file.write_all_at(&noise, n << 20).unwrap();
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pack"));
        command.args(args);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        small::prepare(command, &self.path());
    }

    /// Starts it with this document.
    fn start(&self, command: &mut Command, document: &Value) -> Child {
        small::start(command, document)
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.finish(&mut self.command(args), &self.document)
    }

    fn finish(&self, command: &mut Command, document: &Value) -> Ran {
        let child = self.start(command, document);
        Ran::of(&child.wait_with_output().unwrap())
    }

    #[track_caller]
    fn good(&self, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(ran.document.get("error"), None);
        ran.document
    }

    /// Checks that it fails so, and leaves nothing.
    #[track_caller]
    fn bad(&self, args: &[&str], code: &str, line: &str) {
        let before = self.names();
        let ran = self.run(args);
        ran.failed(code, line);
        assert_eq!(ran.document.get("archives"), None);
        assert_eq!(self.names(), before);
    }

    fn names(&self) -> Vec<String> {
        small::names(&self.path())
    }

    /// Runs tar(1).
    #[track_caller]
    fn tar(&self, args: &[&str]) -> String {
        let mut command = Command::new("tar");
        let out = command.args(args).current_dir(self.path()).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{err}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// Returns what tar(1) lists.
    fn members(&self, archive: &str) -> Vec<String> {
        let list = self.tar(&["-tf", archive]);
        list.lines().map(str::to_owned).collect()
    }

    /// Returns what tar(1) lists, but for directories.
    fn files(&self, archive: &str) -> Vec<String> {
        let mut members = self.members(archive);
        members.retain(|m| !m.ends_with('/'));
        members
    }
}

fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn each_format_is_written_and_the_document_says_what() {
    let lab = Lab::new();
    let expected = [
        "./",
        "etc/",
        "etc/pacman.d/",
        "etc/passwd",
        "proc/",
        "run/",
        "tmp/",
        "usr/",
        "usr/file",
        "var/",
        "var/lib/",
        "var/lib/pacman/",
        "var/lib/pacman/local/",
        "var/log/",
    ];
    for (name, option, format) in [
        ("a.tar", None, "tar"),
        ("a.tar.zst", None, "tar.zst"),
        ("a.tgz", None, "tar.gz"),
        ("a.img", Some("tar.xz"), "tar.xz"),
    ] {
        let mut args = vec!["-o", name];
        args.extend(option.iter().flat_map(|format| ["--format", format]));
        let document = lab.good(&args);
        let path = lab.path().join(name);
        assert_eq!(lab.members(name), expected);
        let archives = json!([{
            "file": path,
            "format": format,
            "size": path.metadata().unwrap().len(),
            "sha256": sha256(&path),
            "entries": expected.len(),
        }]);
        assert_eq!(document["archives"], archives);
    }
}

#[test]
fn an_image_has_its_name_in_both_lists() {
    let lab = Lab::new();
    for (args, name) in [
        (&[][..], "root:latest"),
        (&["--name", "alarm"], "alarm:latest"),
        (&["--name", "r.example:5000/alarm:2"], "r.example:5000/alarm:2"),
    ] {
        drop(lab.good(&[&["-o", "a", "--format", "oci"], args].concat()));
        let read = |member: &str| -> Value { serde_json::from_str(&lab.tar(&["-xOf", "a", member])).unwrap() };
        let (index, list) = (read("index.json"), read("manifest.json"));
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["org.opencontainers.image.ref.name"], name);
        assert_eq!(list[0]["RepoTags"], json!([name]));
        // Both lists name the same blobs, which are there.
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let manifest = read(&blob(&index["manifests"][0]["digest"]));
        assert_eq!(list[0]["Config"], blob(&manifest["config"]["digest"]));
        assert_eq!(list[0]["Layers"], json!([blob(&manifest["layers"][0]["digest"])]));
        let members = lab.members("a");
        for blob in [&list[0]["Config"], &list[0]["Layers"][0]] {
            assert!(members.iter().any(|member| blob == member), "{blob}");
        }
    }
}

#[test]
fn a_second_run_replaces_its_own_record_only() {
    let lab = Lab::new();
    let mut document = lab.good(&["-o", "a.tar"]);
    document["archives"][0]["org.example"] = json!("kept");
    let archives = document["archives"].as_array_mut().unwrap();
    let other = json!({"file": "/other.tar", "format": "tar", "size": 1, "sha256": "0", "entries": 0, "org.x": 1});
    archives.push(other.clone());
    lab.put("usr/more", "more");
    let ran = lab.finish(&mut lab.command(&["-o", "a.tar"]), &document);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let archives = ran.document["archives"].as_array().unwrap();
    assert_eq!(archives.len(), 2);
    assert_eq!(archives[0], other);
    assert_eq!(archives[1]["org.example"], "kept");
    assert_eq!(archives[1]["sha256"], sha256(&lab.path().join("a.tar")));
}

#[test]
fn the_bytes_depend_on_nothing_but_the_root() {
    let lab = Lab::new();
    let words = (0..1_000_000_u64).map(|n| format!("{}\n", n.wrapping_mul(n) % 8_191));
    lab.put("usr/words", &words.collect::<String>());
    for format in ["tar", "tar.zst", "tar.xz", "tar.gz"] {
        let names = ["one", "other"].map(|name| format!("{name}.{format}"));
        drop(lab.good(&["-o", &names[0]]));
        // One processor is one thread.
        let mut command = Command::new("taskset");
        command.args(["-c", "0", env!("CARGO_BIN_EXE_pack"), "-o", &names[1]]);
        lab.prepare(&mut command);
        let ran = lab.finish(&mut command, &lab.document);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let [one, other] = names.map(|name| fs::read(lab.path().join(name)).unwrap());
        assert!(one == other, "{format}");
    }
}

#[test]
fn what_is_no_place_for_an_archive_is_refused() {
    let lab = Lab::new();
    fs::create_dir(lab.path().join("dir.tar")).unwrap();
    symlink("root/etc", lab.path().join("into")).unwrap();
    for (name, line) in [
        ("-", "writing '-': stdout carries the document"),
        ("root/a.tar", "writing 'root/a.tar': the file is in the root"),
        ("root/etc/../a.tar", "the file is in the root"),
        ("into/a.tar", "the file is in the root"),
        ("dir.tar", "writing 'dir.tar': it is a directory"),
        ("/dev/null", "writing '/dev/null': it is not a regular file"),
        ("/dev/stdout", "writing '/dev/stdout': it is a dangling symbolic link"),
        ("a.zip", "writing 'a.zip': its name does not say in which format"),
        ("new.tar/", "writing 'new.tar/': not a file name"),
        ("", "a value is required for '--output <FILE>'"),
    ] {
        lab.bad(&["-o", name], "usage", line);
    }
    let line = "writing 'none/a.tar': 'none': No such file";
    lab.bad(&["-o", "none/a.tar"], "not-found", line);
}

#[test]
fn wrong_options_are_refused() {
    let lab = Lab::new();
    for (args, line) in [
        (&["--level", "1"][..], "reading '--level 1': tar is not compressed"),
        (&["--format", "tar.zst", "--level", "20"], "tar.zst has the levels 1 to 19"),
        (&["--format", "tar.zst", "--level", "0"], "tar.zst has the levels 1 to 19"),
        (&["--format", "tar.xz", "--level", "10"], "tar.xz has the levels 0 to 9"),
        (&["--format", "tar.gz", "--level", "x"], "invalid value 'x'"),
        (&["--format", "zip"], "invalid value 'zip'"),
        (&["--format", "erofs", "--level", "1"], "erofs has no levels"),
        (&["--name", "x"], "reading '--name': only an image has a name"),
        (&["--change", "USER x"], "reading '--change': only an image has a configuration"),
        (&["--format", "oci", "--change", "RUN x"], "'RUN' is not one of CMD, ENTRYPOINT"),
        (&["--format", "oci", "--name", "Alarm"], "reading '--name Alarm': "),
        (&["--format", "oci", "--sparse"], "reading '--sparse': no program accepts it in the layer of an image"),
        (&["--exclude", "a["], "reading '--exclude a[': unclosed character class"),
        (&["--include", "/"], "reading '--include /': it names the root itself, or nothing"),
        (&["--exclude", ""], "reading '--exclude '"),
    ] {
        lab.bad(&[&["-o", "a.tar"], args].concat(), "usage", line);
    }
    lab.bad(&[], "usage", "--output <FILE>");
    for epoch in ["", "tomorrow", "-1", "99999999999"] {
        let mut command = lab.command(&["-o", "a.tar"]);
        let ran = lab.finish(command.env("SOURCE_DATE_EPOCH", epoch), &lab.document);
        ran.failed("usage", "reading SOURCE_DATE_EPOCH: ");
    }
    assert_eq!(lab.names(), ["root"]);
}

#[test]
fn a_secret_key_is_refused_unless_asked_for() {
    let lab = Lab::new();
    let key = "etc/pacman.d/gnupg/private-keys-v1.d/A.key";
    lab.put(key, "secret");
    lab.put("etc/pacman.d/gnupg/pubring.gpg", "public");
    lab.put("etc/pacman.d/gnupg.old/private-keys-v1.d/B.key", "secret");
    for line in [
        "is the keyring's secret key, and whoever gets the image would have it",
        "hint: put 'keyring --strip' before this",
    ] {
        lab.bad(&["-o", "a.tar"], "failed", line);
    }
    drop(lab.good(&["-o", "with.tar", "--keep-keyring"]));
    assert!(lab.files("with.tar").iter().any(|m| m == key));
    let private = "etc/pacman.d/gnupg/private-keys-v1.d/*";
    drop(lab.good(&["-o", "without.tar", "--exclude", private]));
    let expected = ["etc/pacman.d/gnupg/pubring.gpg", "etc/passwd", "usr/file"];
    assert_eq!(lab.files("without.tar"), expected);
}

#[test]
fn what_belongs_to_a_machine_stays_out() {
    let lab = Lab::new();
    let id = "0123456789abcdef0123456789abcdef\n";
    lab.put("etc/machine-id", id);
    let journal = "var/log/journal/0123/system.journal";
    for below in [
        "etc/shadow-",
        "proc/x",
        "run/x",
        "tmp/x/y",
        "var/cache/pacman/pkg/a.pkg.tar.zst",
        "var/cache/ldconfig/aux-cache",
        "var/lib/pacman/sync/core.db",
        "var/log/pacman.log",
        journal,
    ] {
        lab.put(below, "x");
    }
    drop(lab.good(&["-o", "a.tar"]));
    let members = lab.members("a.tar");
    for directory in ["var/cache/ldconfig/", "var/cache/pacman/pkg/", "var/lib/pacman/sync/", "var/log/journal/"] {
        assert!(members.iter().any(|m| m == directory), "{directory}");
    }
    let member = |archive: &str, name: &str| lab.tar(&["-xOf", archive, name]);
    let expected = ["etc/machine-id", "etc/passwd", "usr/file"];
    assert_eq!(lab.files("a.tar"), expected);
    assert_eq!(member("a.tar", "etc/machine-id"), "uninitialized\n");
    let on_disk = fs::read_to_string(lab.root().join("etc/machine-id"));
    assert_eq!(on_disk.unwrap(), id);

    let ask = ["--include", "/var/log/**", "--include", "etc/machine-id", "--exclude", "usr/*"];
    drop(lab.good(&[&["-o", "b.tar"], &ask[..]].concat()));
    let expected = ["etc/machine-id", "etc/passwd", journal, "var/log/pacman.log"];
    assert_eq!(lab.files("b.tar"), expected);
    assert_eq!(member("b.tar", "etc/machine-id"), id);
}

#[test]
fn host_keys_are_warned_of() {
    let lab = Lab::new();
    lab.put("etc/ssh/ssh_host_ed25519_key", "secret");
    lab.put("etc/ssh/ssh_host_ed25519_key.pub", "public");
    let ran = lab.run(&["-o", "a.tar", "--quiet"]);
    let warning =
        "pack: warning: every machine that is made from it has the same secret key: 'etc/ssh/ssh_host_ed25519_key'\n";
    assert_eq!((ran.status, &*ran.stderr), (0, warning));
}

#[test]
fn a_date_is_the_last_that_anything_has() {
    let lab = Lab::new();
    let record = "var/lib/pacman/local/a-1-1/desc";
    let desc = "%NAME%\na\n\n%BUILDDATE%\n5\n\n%INSTALLDATE%\n1790000000\n\n";
    lab.put(record, desc);
    lab.put("etc/shadow", "root:x:20700:::::\n");
    lab.put("usr/old", "");
    let old = File::options().write(true).open(lab.root().join("usr/old")).unwrap();
    old.set_modified(UNIX_EPOCH + Duration::from_secs(7)).unwrap();
    let mut command = lab.command(&["-o", "a.tar"]);
    let ran = lab.finish(command.env("SOURCE_DATE_EPOCH", "86400000"), &lab.document);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let member = |archive: &str, name: &str| lab.tar(&["-xOf", archive, name]);
    let new = desc.replace("1790000000", "86400000");
    assert_eq!(member("a.tar", record), new);
    assert_eq!(member("a.tar", "etc/shadow"), "root:x:1000:::::\n");
    for line in lab.tar(&["--utc", "--full-time", "-tvf", "a.tar"]).lines() {
        let date = if line.ends_with("usr/old") { "1970-01-01 00:00:07" } else { "1972-09-27 00:00:00" };
        assert!(line.contains(date), "{line}");
    }
    // Without a date all is as it is on the disk.
    drop(lab.good(&["-o", "b.tar"]));
    assert_eq!(member("b.tar", record), desc);
    assert_eq!(member("b.tar", "etc/shadow"), "root:x:20700:::::\n");
}

#[test]
fn a_root_that_pacman_works_in_or_was_killed_in_is_refused() {
    let lab = Lab::new();
    let database = File::open(lab.root().join("var/lib/pacman")).unwrap();
    flock(&database, FlockOperation::LockExclusive).unwrap();
    lab.bad(&["-o", "a.tar"], "busy", "another tool works on this root");
    // A child of another test may have it open until it is another program.
    flock(&database, FlockOperation::Unlock).unwrap();
    for name in ["db.lck", "db.lck.killed"] {
        let below = format!("var/lib/pacman/{name}");
        lab.put(&below, "");
        let hint = "hint: run strap again: it repairs what a killed pacman left";
        lab.bad(&["-o", "a.tar"], "failed", hint);
        fs::remove_file(lab.root().join(below)).unwrap();
    }
    drop(lab.good(&["-o", "a.tar"]));
}

/// Runs a script in a mount namespace of its own, with pack's document in `doc.json`.
fn in_namespace(lab: &Lab, script: &str) -> Ran {
    fs::write(lab.path().join("doc.json"), lab.document.to_string()).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script]);
    lab.prepare(&mut command);
    command.env("pack", env!("CARGO_BIN_EXE_pack"));
    Ran::of(&command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_full_disk_leaves_nothing_and_the_archive_of_before() {
    let lab = Lab::new();
    lab.put_much("usr/much", 4);
    fs::create_dir(lab.path().join("small")).unwrap();
    let ran = in_namespace(
        &lab,
        "mount -t tmpfs -o size=1M tmpfs small; echo before > small/a.tar
         status=0; $pack --state doc.json -o small/a.tar || status=$?
         test \"$(ls -A small)\" = a.tar; test \"$(cat small/a.tar)\" = before; exit $status",
    );
    assert_eq!(ran.status, 71, "{}", ran.stderr);
    ran.failed("os", "small/a.tar': No space left on device");
}

#[test]
fn a_mount_that_is_not_in_the_plan_is_refused() {
    let mut lab = Lab::new();
    let script = "mount -t tmpfs tmpfs root/usr; $pack --state doc.json -o a.tar";
    let ran = in_namespace(&lab, script);
    let line = "root/usr' is not in the mount plan";
    ran.failed("failed", line);
    // In the plan, it is the root's own; what is bound from the host is not, nor is an API filesystem.
    fs::create_dir(lab.root().join("usr/below")).unwrap();
    let plan = lab.document["mounts"].as_array_mut().unwrap();
    plan.push(json!({"at": "usr", "type": "ext4", "source": "/dev/none"}));
    plan.push(json!({"at": "etc", "type": "rbind", "source": "/usr"}));
    let script = "mount -t tmpfs -o mode=700 tmpfs root/usr; echo > root/usr/own
                  mount --bind /usr root/etc; mount -t proc proc root/proc; $pack --state doc.json -o a.tar";
    let ran = in_namespace(&lab, script);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let note = "pack: 'etc' is bound from the host, and left out\n";
    assert!(ran.stderr.contains(note), "{}", ran.stderr);
    assert_eq!(lab.files("a.tar"), ["etc/passwd", "usr/own"]);
    let mode = lab.tar(&["-tvf", "a.tar", "usr/"]);
    assert!(mode.starts_with("drwx------"), "{mode}");
    let script = "mount -t tmpfs tmpfs root/usr; mkdir root/usr/below
                  mount -t tmpfs tmpfs root/usr/below; $pack --state doc.json -o b.tar";
    let line = "root/usr/below' is not in the mount plan";
    in_namespace(&lab, script).failed("failed", line);
}

#[test]
fn a_document_that_cannot_be_handed_on_leaves_no_archive() {
    let lab = Lab::new();
    let mut command = lab.command(&["-o", "a.tar"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let ran = lab.finish(&mut command, &lab.document);
    assert_eq!(ran.status, 74, "{}", ran.stderr);
    assert_eq!(lab.names(), ["root"]);
}

/// Waits until the program has a process inside.
fn wait_for_child(pid: u32) {
    let children = format!("/proc/{pid}/task/{pid}/children");
    while fs::read_to_string(&children).unwrap().is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn signals_leave_nothing_and_the_archive_of_before() {
    let lab = Lab::new();
    lab.put_much("usr/much", 64);
    fs::write(lab.path().join("a.tar.zst"), "before").unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut command = lab.command(&["-o", "a.tar.zst", "--level", "19"]);
        let child = lab.start(&mut command, &lab.document);
        wait_for_child(child.id());
        kill_process(Pid::from_child(&child), signal).unwrap();
        let out = child.wait_with_output().unwrap();
        if signal != Signal::KILL {
            let ran = Ran::of(&out);
            ran.failed("interrupted", "interrupted by a signal");
            assert_eq!(ran.status, 130);
        }
        assert_eq!(lab.names(), ["a.tar.zst", "root"]);
        let before = fs::read(lab.path().join("a.tar.zst"));
        assert_eq!(before.unwrap(), b"before");
    }
}

#[test]
fn a_file_that_changes_while_it_is_read() {
    let lab = Lab::new();
    // Behind much else, so that it is seen by the walk long before it is read.
    lab.put_much("usr/a", 8);
    lab.put("usr/z", "before");
    let mut child = lab.start(&mut lab.command(&["-o", "a.tar.xz"]), &lab.document);
    let z = lab.root().join("usr/z");
    while child.try_wait().unwrap().is_none() {
        fs::write(&z, "while it is read").unwrap();
    }
    let ran = Ran::of(&child.wait_with_output().unwrap());
    ran.failed("failed", "/root/usr/z': the file changed while it was read");
    assert_eq!(lab.names(), ["root"]);
}

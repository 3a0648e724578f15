//! Roots, packages and documents that an attacker wrote: every tool meets them, and outside of the root nothing is read
//! into it, written, mounted over or ended, and nothing waits for ever.
//!
//! One table has the tricks, another the tools; each trick is played on a good root, and each tool then runs over it, as
//! root and as an ordinary user. What the host has is compared after each.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use rustix::fs::{XattrFlags, lgetxattr, setxattr};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use strapline_tests::{Lab, Mirror, Ran, Server, Who, top};

/// How long a tool may take over any trick, in seconds: on a busy machine, without optimisation. What waits for a fifo
/// waits for ever.
const PATIENCE: u32 = 120;

// ---------------------------------------------------------------------------------------------------------------------
// What is the host's.

/// A file of the host's: path, mode, owner, names, size, times, content, attribute.
type Row = (PathBuf, [u64; 8], Vec<u8>, Vec<u8>);

/// A directory of the host's beside the root that tricks lead to, and processes and a mount that are nobody's business.
struct Outside {
    dir: PathBuf,
    before: Vec<Row>,
    bystanders: Vec<Child>,
    mount: Option<PathBuf>,
    mounted: String,
}

impl Outside {
    fn new(lab: &Lab, who: Who) -> Self {
        // The ordinary user's own: what only root's permissions protect proves nothing.
        let ran = lab.sh(
            "set -e; umask 022; mkdir outside; cd outside; mkdir local gnupg pts shm
             echo 'root:x:0:0::/root:/bin/sh' >passwd; echo 'root:*:1::::::' >shadow; chmod 600 shadow
             echo log >log; : >linked; echo db >db; echo hook >x.hook; chmod 700 gnupg
             for file in pubring.gpg trustdb.gpg gpg.conf; do echo theirs >gnupg/$file; done
             touch -d 2001-01-01 * gnupg/*",
        );
        assert_eq!(ran.status, 0, "{ran:?}");
        let dir = lab.path().join("outside");
        setxattr(
            dir.join("log"),
            "user.sentinel",
            b"here",
            XattrFlags::empty(),
        )
        .unwrap();
        let mount = (who == Who::Root).then(|| lab.path().join("hostmount"));
        if let Some(mount) = &mount {
            fs::create_dir(mount).unwrap();
            let ran = Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=1m", "bystander"])
                .arg(mount)
                .status();
            assert!(ran.unwrap().success());
        }
        let mut outside = Self {
            bystanders: vec![sleep(lab, &dir)],
            before: picture(&dir),
            mounted: String::new(),
            dir,
            mount,
        };
        outside.mounted = outside.mount_line();
        outside
    }

    fn mount_line(&self) -> String {
        let Some(mount) = &self.mount else {
            return String::new();
        };
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = format!(" {} ", mount.display());
        all.lines()
            .find(|l| l.contains(&at))
            .unwrap_or_default()
            .to_owned()
    }

    /// Takes the picture anew: a trick has given one of these files a second name.
    fn look_again(&mut self) {
        self.before = picture(&self.dir);
    }

    #[track_caller]
    fn check(&mut self, what: &str) {
        assert_eq!(picture(&self.dir), self.before, "{what}");
        assert_eq!(self.mount_line(), self.mounted, "{what}");
        for bystander in &mut self.bystanders {
            assert_eq!(
                bystander.try_wait().unwrap(),
                None,
                "{what}: ended a bystander"
            );
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for bystander in &mut self.bystanders {
            drop((bystander.kill(), bystander.wait()));
        }
        if let Some(mount) = &self.mount {
            let ran = Command::new("umount").arg(mount).status();
            assert!(std::thread::panicking() || ran.unwrap().success());
        }
    }
}

/// Starts a process whose working directory this is, as the laboratory's user.
fn sleep(lab: &Lab, dir: &Path) -> Child {
    let mut command = lab.command("env");
    let quiet = |command: &mut Command| {
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    quiet(command.arg("-C").arg(dir).args(["sleep", "3600"]))
}

fn picture(dir: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let mut value = vec![0; 16];
        let length = lgetxattr(&path, "user.sentinel", &mut value[..]).unwrap_or(0);
        value.truncate(length);
        let time = |seconds: i64, nanos: i64| seconds as u64 * 1_000_000_000 + nanos as u64;
        let numbers = [
            u64::from(meta.mode()),
            u64::from(meta.uid()),
            u64::from(meta.gid()),
            meta.nlink(),
            meta.size(),
            time(meta.mtime(), meta.mtime_nsec()),
            time(meta.ctime(), meta.ctime_nsec()),
            meta.ino(),
        ];
        rows.push((path, numbers, content, value));
    }
    rows.sort();
    rows
}

// ---------------------------------------------------------------------------------------------------------------------
// A root to play tricks on, and the tools.

/// A good root in a laboratory, `good` with its document `good.json`, and the same as `root` with `doc.json` to play on.
struct Bench {
    lab: Lab,
    mirror: Mirror,
    server: Server,
    good: Value,
}

impl Bench {
    fn new(who: Who) -> Self {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        let server = Server::of(&mirror.www());
        let ran = lab.sh(&format!(
            "mkroot root --arch x86_64 --distro {preset} \
             | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
             | keyring | strap filesystem bash coreutils",
            preset = mirror.preset().display(),
            url = server.url(),
        ));
        let good = ran.succeeded();
        let bench = Self {
            lab,
            mirror,
            server,
            good,
        };
        bench.inside("mv root good");
        bench
    }

    /// Runs a script as who owns the root, with the root's ids: root, or root of the user's namespace.
    fn inside(&self, script: &str) -> Ran {
        let ran = self.lab.sh(&format!(
            "set -e; if [ $(id -u) = 0 ]; then {become_root}; else unshare --map-auto --map-root-user {become_root}; fi",
            become_root = format_args!("sh -ec '{}'", script.replace('\'', r"'\''"))
        ));
        assert_eq!(ran.status, 0, "{script}: {ran:?}");
        ran
    }

    /// Makes the root a copy of the good one.
    fn restore(&self) {
        self.inside("rm -rf --one-file-system root; cp -a --reflink=auto good root");
        let meta = fs::metadata(self.lab.path().join("root")).unwrap();
        let mut document = self.good.clone();
        document["root_id"] = json!({ "dev": meta.dev(), "ino": meta.ino() });
        self.write("doc.json", &document.to_string());
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.lab.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Runs a tool with a limit of time, and checks what holds of any tool over anything.
    #[track_caller]
    fn run(&self, tool: &str, what: &str) -> Ran {
        let ran = self
            .lab
            .sh(&format!("timeout --kill-after=5 {PATIENCE} {tool}"));
        sane(&ran, tool.starts_with("doctor"), &format!("{what}: {tool}"));
        ran
    }

    /// Every tool, as it is run over a root that is there.
    fn tools(&self) -> Vec<String> {
        let (preset, url) = (self.mirror.preset(), self.server.url());
        [
            format!("mkroot root --arch x86_64 --distro {}", preset.display()),
            format!(
                "mkconf --state doc.json --server '{url}/$arch/$repo' --cache-dir $PWD/packages"
            ),
            "keyring --state doc.json".to_owned(),
            "strap --state doc.json nano".to_owned(),
            "verify --state doc.json".to_owned(),
            "enter true < doc.json".to_owned(),
            "enter --user nobody true < doc.json".to_owned(),
            "doctor --root root".to_owned(),
            "reap --state doc.json".to_owned(),
            "unmount --state doc.json".to_owned(),
        ]
        .into()
    }
}

/// What holds whatever happens: it ended by itself and in time, said in lines that drive no terminal what it said, and
/// handed a document on.
#[track_caller]
fn sane(ran: &Ran, alone: bool, what: &str) {
    assert!(
        [0, 64, 65, 69, 71, 74, 75, 77].contains(&ran.status),
        "{what}: exit status {} (124: it took longer than {PATIENCE} s)\n{}",
        ran.status,
        ran.stderr
    );
    let driving = |c: char| c.is_control() && c != '\n';
    assert!(!ran.stderr.contains(driving), "{what}: {:?}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
    if !alone {
        let document = ran.document();
        assert_eq!(
            document["error"].is_object(),
            ran.status != 0,
            "{what}: {document}"
        );
        assert!(!ran.stdout.trim_end().contains(driving), "{what}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tricks.

/// What an attacker does to a root: a name, and commands of sh(1), run as who owns the root, in its directory. OUT is the
/// host's directory.
const TRICKS: &[(&str, &str)] = &[
    ("etc leads out", "mv etc x; ln -s $OUT etc"),
    ("etc/pacman.d leads out", "mv etc/pacman.d x; ln -s $OUT etc/pacman.d"),
    ("the keyring leads out", "rm -r etc/pacman.d/gnupg; ln -s $OUT/gnupg etc/pacman.d/gnupg"),
    (
        "files of the keyring lead out",
        "cd etc/pacman.d/gnupg; for f in pubring.gpg trustdb.gpg gpg.conf; do ln -sf $OUT/gnupg/$f $f; done
         ln -s $OUT/gnupg/S.gpg-agent S.gpg-agent; ln -s $OUT/db pubring.gpg.lock; ln -s $OUT/db .#lk",
    ),
    (
        "files of the keyring are fifos",
        "cd etc/pacman.d/gnupg; for f in pubring.gpg trustdb.gpg gpg.conf; do rm -f $f; mkfifo $f; done",
    ),
    ("the keyring is another file's name", "ln -f $OUT/linked etc/pacman.d/gnupg/pubring.gpg"),
    ("a record is a fifo", "cd var/lib/pacman/local/bash-*; rm desc; mkfifo desc"),
    ("a list of files is a fifo", "cd var/lib/pacman/local/bash-*; rm files mtree; mkfifo files mtree"),
    ("a record never ends", "cd var/lib/pacman/local/bash-*; ln -sf /dev/zero desc; ln -sf /dev/zero mtree"),
    ("a record is a gibibyte of nothing", "truncate -s 1G var/lib/pacman/local/bash-*/desc var/lib/pacman/local/bash-*/mtree"),
    ("records lead out", "for f in desc files mtree; do ln -sf $OUT/passwd var/lib/pacman/local/bash-5*/$f; done"),
    ("the records lead out", "mv var/lib/pacman/local x; ln -s $OUT/local var/lib/pacman/local"),
    ("the database leads out", "mv var/lib/pacman x; ln -s $OUT var/lib/pacman"),
    ("a record is to be written outside", "mkdir -p var/lib/pacman/local; ln -s $OUT/local var/lib/pacman/local/nano-7.2-1"),
    ("the databases lead out", "rm -r var/lib/pacman/sync; ln -s $OUT var/lib/pacman/sync"),
    ("a database leads out", "for f in core extra; do ln -sf $OUT/db var/lib/pacman/sync/$f.db; done"),
    ("a database is a fifo", "cd var/lib/pacman/sync; rm -f core.db; mkfifo core.db evil.db"),
    ("the lock leads out", "ln -s $OUT/new var/lib/pacman/db.lck"),
    ("the lock is a fifo", "mkfifo var/lib/pacman/db.lck"),
    ("the log leads out", "ln -sf $OUT/log var/log/pacman.log"),
    ("the log is to be made outside", "ln -sf $OUT/new var/log/pacman.log"),
    ("the log is a fifo", "rm -f var/log/pacman.log; mkfifo var/log/pacman.log"),
    ("the log is another file's name", "ln -f $OUT/linked var/log/pacman.log"),
    ("the logs lead out", "mv var/log x; ln -s $OUT var/log"),
    (
        "the log drives a terminal and lies",
        r#"printf '[2099-01-01T00:00:00+0000] [ALPM-SCRIPTLET] \033]0;x\007\033[2J\n[t] [ALPM] transaction started\n[t] [ALPM] installed \033[31mx (1)\n\0\377\n[' >>var/log/pacman.log"#,
    ),
    ("hooks lead out", "rm -rf etc/pacman.d/hooks; ln -s $OUT etc/pacman.d/hooks"),
    ("a hook is a fifo", "mkdir -p etc/pacman.d/hooks; mkfifo etc/pacman.d/hooks/x.hook; ln -s $OUT/x.hook etc/pacman.d/hooks/y.hook"),
    ("mtab is a fifo", "rm -f etc/mtab; mkfifo etc/mtab"),
    ("mtab leads out", "ln -sf $OUT/passwd etc/mtab"),
    ("users lead out", "ln -sf $OUT/passwd etc/passwd; ln -sf $OUT/shadow etc/shadow; ln -sf $OUT/passwd etc/group"),
    ("users are fifos", "cd etc; rm -f passwd group; mkfifo passwd group"),
    ("users never end", "ln -sf /dev/zero etc/passwd; truncate -s 1T etc/group"),
    ("proc and the like lead out", "for d in proc sys dev run tmp; do rm -rf $d; ln -s $OUT $d; done"),
    ("dev leads out", "rm -rf dev; ln -s $OUT dev"),
    ("what is to be in dev is there", "echo x >dev/null; ln -s $OUT/new dev/zero; ln -s $OUT dev/pts; mkfifo dev/tty"),
    ("home, srv and mnt lead out", "for d in home srv mnt opt root; do rm -rf $d; ln -s $OUT $d; done"),
    ("the files of packages lead out", "mv usr/share x; ln -s $OUT usr/share; rm -rf usr/bin/nano; ln -s $OUT/passwd usr/bin/nano"),
    ("resolv.conf leads out", "ln -sf $OUT/new etc/resolv.conf; ln -sf $OUT/passwd etc/hostname; ln -sf $OUT/log etc/ld.so.cache"),
    ("tmpfiles never end", "mkdir -p usr/lib/tmpfiles.d; ln -s /dev/zero usr/lib/tmpfiles.d/a.conf; mkfifo usr/lib/tmpfiles.d/b.conf"),
    ("a program is set-uid", "cp usr/bin/bash usr/local/bin/; chmod 6755 usr/local/bin/bash usr/bin/true"),
    (
        "names drive a terminal",
        r#"for d in var/lib/pacman/local var/lib/pacman/sync etc etc/pacman.d/gnupg etc/pacman.d/hooks usr/lib/tmpfiles.d; do mkdir -p $d
         (cd $d; n=$(printf 'a\nb'); mkdir "$n" "$(printf '\033]0;x\007')" "$(printf '\377\376')" "$(printf '%0255d' 0)" "$(printf 'x-1\033[2J-1')"
         echo >"$(printf '\033[2J.db')"; echo >"$(printf 'S.\033[2J')"; mkdir -- '-rf' '--config'); done"#,
    ),
    (
        "directories without end",
        r#"perl -e 'for (1..5000) { mkdir "d" or die; chdir "d" or die }'; cd var/lib/pacman/local; perl -e 'for (1..1000) { mkdir "d-1-1" or die; chdir "d-1-1" or die }'"#,
    ),
    ("ten thousand records", r#"cd var/lib/pacman/local; perl -e 'mkdir "p$_-1-1" for 1..10000'"#),
    (
        "a hook attacks the host",
        r#"mkdir -p etc/pacman.d/hooks; printf '[Trigger]\nOperation = Install\nType = Path\nTarget = *\n[Action]\nWhen = PreTransaction\nExec = /bin/bash /attack\n' >etc/pacman.d/hooks/a.hook
         printf 'for top in /proc/1/root /proc/1/cwd /proc/$PPID/root; do echo x >$top/'"$OUT"'/passwd; echo x >$top/'"$OUT"'/escaped; /usr/bin/rm -rf $top/'"$OUT"'; done\nkill -9 1\nkill -9 -1\n' >attack"#,
    ),
];

/// Those that only root can do.
const TRICKS_OF_ROOT: &[(&str, &str)] = &[
    (
        "a record is a device",
        "cd var/lib/pacman/local/bash-*; rm desc; mknod desc c 1 5",
    ),
    (
        "the log is a device",
        "rm -f var/log/pacman.log; mknod var/log/pacman.log c 1 5",
    ),
    (
        "users are a device",
        "rm etc/passwd; mknod etc/passwd c 1 5",
    ),
    (
        "dev has the host's disk",
        "mknod dev/sda b 8 0; mknod etc/sda b 8 0",
    ),
    (
        "somebody has mounted below",
        "mkdir -p mnt/a; mount -t tmpfs -o size=1m t mnt/a; echo theirs >mnt/a/file; mount --bind $OUT home; mount -o remount,bind,ro home",
    ),
];

fn every_tool_over_every_trick(who: Who) {
    let bench = Bench::new(who);
    let mut outside = Outside::new(&bench.lab, who);
    // A good root: a table of failures would prove nothing.
    bench.restore();
    for tool in bench.tools() {
        let ran = bench.run(&tool, "no trick");
        assert_eq!(ran.status, 0, "{tool}: {}", ran.stderr);
        outside.check(&tool);
    }
    let of_root = if who == Who::Root {
        TRICKS_OF_ROOT
    } else {
        &[]
    };
    let only = std::env::var("STRAPLINE_TRICK").unwrap_or_default();
    for (name, play) in TRICKS
        .iter()
        .chain(of_root)
        .filter(|(name, _)| name.contains(&only))
    {
        bench.restore();
        bench.inside(&format!("OUT=$PWD/outside; cd root; {play}"));
        outside.look_again();
        let mut in_the_way = sleep(&bench.lab, &bench.lab.path().join("root"));
        for tool in bench.tools() {
            let what = format!("{name}: {tool}");
            let ran = bench.run(&tool, name);
            eprintln!(
                "{what}: {}: {}",
                ran.status,
                ran.stderr.lines().last().unwrap_or_default()
            );
            outside.check(&what);
            assert_eq!(
                in_the_way.try_wait().unwrap(),
                None,
                "{what}: ended a bystander"
            );
        }
        in_the_way.kill().unwrap();
        in_the_way.wait().unwrap();
    }
    bench.inside("rm -rf --one-file-system root good");
}

#[test]
fn a_hostile_root_harms_nobody_as_root() {
    every_tool_over_every_trick(Who::Root);
}

#[test]
fn a_hostile_root_harms_nobody_as_a_user() {
    every_tool_over_every_trick(Who::User);
}

// ---------------------------------------------------------------------------------------------------------------------
// Packages.

/// Makes a variant of a mirror with a hostile package in it, which is validly signed.
fn hostile_mirror(lab: &Lab, kind: &str) -> Mirror {
    let dir = lab.path().join(format!("mirror-{kind}"));
    let out = Command::new(top().join("tests/mirror/hostile"))
        .args([&Mirror::of("x86_64").dir, &dir])
        .arg(kind)
        .arg(lab.path().join("outside"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Mirror { dir }
}

fn every_hostile_package(who: Who) {
    let bench = Bench::new(who);
    let mut outside = Outside::new(&bench.lab, who);
    let kinds = Command::new(top().join("tests/mirror/hostile"))
        .arg("list")
        .output()
        .unwrap();
    let kinds = String::from_utf8(kinds.stdout).unwrap();
    let only = std::env::var("STRAPLINE_TRICK").unwrap_or_default();
    for kind in kinds.lines().filter(|kind| kind.contains(&only)) {
        let mirror = hostile_mirror(&bench.lab, kind);
        let server = Server::of(&mirror.www());
        bench.restore();
        outside.look_again();
        let run = |tool: &str| {
            let ran = bench.run(tool, kind);
            eprintln!(
                "{kind}: {tool}: {}: {}",
                ran.status,
                ran.stderr.lines().last().unwrap_or_default()
            );
            ran
        };
        let ran = run(&format!(
            "mkconf --state doc.json --server '{}/$arch/$repo' --cache-dir $PWD/packages-{kind}",
            server.url()
        ));
        bench.write("doc.json", &ran.succeeded().to_string());
        let tools: &[&str] = if kind.starts_with("ring") {
            // A ring in a root that has none yet; and in one that has.
            &[
                "keyring --state doc.json",
                "strap --state doc.json archlinux-keyring",
                "verify --state doc.json",
            ]
        } else {
            &[
                "strap --state doc.json hostile",
                "verify --state doc.json",
                "enter true < doc.json",
            ]
        };
        let mut statuses = Vec::new();
        for tool in tools {
            statuses.push(run(tool).status);
            outside.check(&format!("{kind}: {tool}"));
        }
        match kind {
            "ring-link" | "ring-bomb" => assert_eq!(statuses[0], 69, "{kind}"),
            "set-uid" => assert_eq!(statuses, [0, 0, 0], "{kind}"),
            _ => {}
        }
    }
    bench.inside("rm -rf --one-file-system root good packages-*");
}

#[test]
fn a_hostile_package_harms_nobody_as_root() {
    every_hostile_package(Who::Root);
}

#[test]
fn a_hostile_package_harms_nobody_as_a_user() {
    every_hostile_package(Who::User);
}

// ---------------------------------------------------------------------------------------------------------------------
// Documents.

/// What no tool would have written: refused before anything is touched, whatever the tool.
fn texts(root: &str) -> Vec<(&'static str, Vec<u8>)> {
    let with =
        |members: &str| format!(r#"{{"strapline":1,"root":"{root}",{members}}}"#).into_bytes();
    let root_is = |root: &str| format!(r#"{{"strapline":1,"root":"{root}"}}"#).into_bytes();
    let deep = |open: &str, close: &str| {
        with(&format!(
            "\"x\":{}{}",
            open.repeat(100_000),
            close.repeat(100_000)
        ))
    };
    vec![
        ("the root is the host's", root_is("/")),
        ("the root is above", root_is("..")),
        ("the root is relative", root_is("root")),
        ("the root leads up", root_is("/var/../..")),
        ("the root has a NUL", root_is("/srv/x\\u0000y")),
        (
            "the root drives a terminal",
            root_is("/srv/\\u001b]0;x\\u0007"),
        ),
        ("the last of two roots counts", with(r#""root":"/""#)),
        (
            "an array of 64 MiB",
            with(&format!("\"packages\":[{}0]", "0,".repeat(32 << 20))),
        ),
        ("arrays in arrays", deep("[", "]")),
        (
            "objects in objects",
            deep("{\"a\":", "}").iter().copied().chain(*b" ").collect(),
        ),
        ("half a character", with(r#""x":"\ud800""#)),
        ("no UTF-8", [&root_is("/srv/x")[..], b"\xff"].concat()),
        ("a number out of range", with(r#""x":1e999"#)),
        (
            "a mount above the root",
            with(r#""mounts":[{"at":"../../etc","type":"tmpfs"}]"#),
        ),
        (
            "a mount of the host's",
            with(r#""mounts":[{"at":"/etc","type":"tmpfs"}]"#),
        ),
        (
            "a node that is none",
            with(r#""mounts":[{"at":"dev","type":"tmpfs","nodes":["../sda"]}]"#),
        ),
        ("a pacman somewhere", with(r#""pacman":{"path":"../x"}"#)),
        (
            "a cache somewhere",
            with(r#""config":{"cache":"/srv/../etc"}"#),
        ),
        ("an error that is none", with(r#""error":{"exit":0}"#)),
    ]
}

/// Changes to a good document: a JSON pointer and what is put there. Each is played alone. What the root's owner is asked to
/// mount or to run is theirs to decide (strapline-document(5), "Reading"); nothing here asks to write to the host.
fn changes(lab: &Lab) -> Vec<(&'static str, Value)> {
    let at = |name: &str| lab.path().join(name).display().to_string();
    let (outside, fifo, link) = (at("outside"), at("fifo"), at("link"));
    let passwd = at("outside/passwd");
    let mount = |kind: &str, source: &str, options: &[&str]| json!([{ "at": "mnt", "type": kind, "source": source, "options": options }]);
    let hostile = "\u{1b}]0;x\u{7}\u{202e}\n--config";
    vec![
        ("/root", json!(outside)),
        ("/root", json!(link)),
        ("/root", json!("/proc/self/root")),
        ("/root", json!("/proc/1/root")),
        ("/root", json!("/proc/1/cwd")),
        ("/root", json!("/etc")),
        ("/root", json!(passwd)),
        ("/root_id", json!({ "dev": 1, "ino": 1 })),
        ("/root_id", json!({ "dev": -1, "ino": 1e300 })),
        ("/mode", json!("user")),
        ("/mode", json!("root")),
        ("/mode", json!("host")),
        ("/arch", json!("aarch64")),
        ("/distro", json!("/dev/zero")),
        ("/distro", json!(fifo)),
        ("/distro", json!("../../etc/passwd")),
        ("/distro", json!(hostile)),
        ("/mounts", mount("ext4", "/dev/sda", &[])),
        ("/mounts", mount("ext4", &fifo, &["loop"])),
        (
            "/mounts",
            mount(
                "overlay",
                "o",
                // With an upperdir it would write there: that is what a document may ask for.
                &["lowerdir=/etc:/usr"],
            ),
        ),
        ("/mounts", mount("overlay", "o", &["lowerdir=/,upperdir=/"])),
        (
            "/mounts",
            mount("bind", &outside, &["remount,rw", "ro", "suid", "shared"]),
        ),
        ("/mounts", mount("bind", &fifo, &[])),
        ("/mounts", mount("bind", "", &[])),
        ("/mounts", mount("rbind", "/", &["ro"])),
        ("/mounts", mount("../x", "\u{0}", &["\u{0}=\u{0}"])),
        (
            "/mounts",
            mount("proc", "/proc/1/root", &["hidepid=x", "pid=1"]),
        ),
        (
            "/mounts",
            json!([{ "at": "", "type": "tmpfs", "nodes": ["null"] }]),
        ),
        (
            "/mounts",
            json!([{ "at": "dev", "type": "tmpfs", "nodes": ["sda", "mem", "nosuch"] }]),
        ),
        (
            "/mounts",
            json!([{ "at": "m".repeat(100_000), "type": "tmpfs" }]),
        ),
        (
            "/mounts",
            json!(vec![json!({ "at": "mnt", "type": "tmpfs" }); 2000]),
        ),
        (
            "/mounts",
            json!([{ "at": "etc/passwd", "type": "bind", "source": passwd }]),
        ),
        (
            "/idmap",
            json!({ "uid": [[0, 0, 65536]], "gid": [[0, 0, 65536]] }),
        ),
        ("/idmap", json!({ "uid": [[0, 1, 1]], "gid": [[0, 1, 1]] })),
        ("/idmap", json!({ "uid": [], "gid": [] })),
        (
            "/idmap",
            json!({ "uid": [[0, u64::MAX, u64::MAX]], "gid": [[u64::MAX, 0, 1]] }),
        ),
        ("/idmap/uid/1/1", json!(0)),
        ("/idmap/gid/0/1", json!(0)),
        (
            "/binfmt",
            json!({ "kind": "private", "interpreter": passwd, "flags": "OCPF" }),
        ),
        (
            "/binfmt",
            json!({ "kind": "private", "interpreter": fifo, "flags": "F:\n:x:M::x::/bin/sh:" }),
        ),
        ("/binfmt", json!({ "kind": hostile })),
        ("/pacman/path", json!(fifo)),
        ("/pacman/path", json!("/dev/zero")),
        ("/pacman/path", json!(outside)),
        ("/pacman/path", json!("/usr/bin/su")),
        ("/pacman/path", json!(passwd)),
        ("/pacman/sha256", json!(hostile)),
        ("/pacman/version", json!(hostile)),
        ("/config/strict", json!(fifo)),
        ("/config/strict", json!("/dev/zero")),
        ("/config/strict", json!(outside)),
        ("/config/strict", json!(passwd)),
        ("/config/cache", json!(fifo)),
        ("/config/cache", json!("/dev/zero")),
        ("/config/cache", json!("/proc")),
        ("/config/cache", json!(at("root/etc"))),
        ("/keyring/dir", json!(at("outside/gnupg"))),
        (
            "/keyring/populated",
            json!(["../../../etc/passwd", hostile, "--homedir"]),
        ),
        ("/keyring/trusted", json!([hostile, "0".repeat(1 << 20)])),
        (
            "/packages",
            json!([{ "name": "../../x", "version": hostile, "arch": "any", "file": "../../../etc/passwd", "verified": true }]),
        ),
        ("/packages", json!(vec![json!({ "name": "x" }); 300_000])),
        (
            "/steps",
            json!([{ "tool": hostile, "started": "x" }, 7, null]),
        ),
        (
            "/reap",
            json!({ "ended": [{ "pid": 1 }], "sockets": ["../../../x"] }),
        ),
        (
            "/unmount",
            json!({ "unmounted": ["../.."], "left": ["../..", "/"] }),
        ),
        (
            "/host",
            json!({ "boot_id": hostile, "mounts": [{ "at": "../..", "id": "1" }] }),
        ),
        (
            "/org.example",
            json!({ hostile: [1.5e300, -0.0, 1e-320, u64::MAX, i64::MIN] }),
        ),
    ]
}

fn every_hostile_document(who: Who) {
    let bench = Bench::new(who);
    let mut outside = Outside::new(&bench.lab, who);
    let ran = bench.lab.sh("mkfifo fifo; ln -s root link");
    assert_eq!(ran.status, 0, "{ran:?}");
    bench.restore();
    let root = bench.lab.path().join("root").display().to_string();
    for (name, text) in texts(&root) {
        fs::write(bench.lab.path().join("doc.json"), text).unwrap();
        let tools = [
            "mkroot new",
            "fetch-pacman",
            "mkconf",
            "keyring",
            "strap x",
            "verify",
            "enter true",
            "reap",
            "unmount",
        ];
        for tool in tools {
            let ran = bench.run(&format!("{tool} < doc.json"), name);
            assert_eq!(ran.status, 65, "{name}: {tool}: {}", ran.stderr);
            assert_eq!(
                ran.document()["error"]["code"],
                "bad-document",
                "{name}: {tool}"
            );
        }
        outside.check(name);
    }
    bench.restore();
    let text = fs::read_to_string(bench.lab.path().join("doc.json")).unwrap();
    let good: Value = serde_json::from_str(&text).unwrap();
    let only = std::env::var("STRAPLINE_TRICK").unwrap_or_default();
    for (pointer, value) in changes(&bench.lab) {
        let shown: String = format!("{pointer} {value}").chars().take(120).collect();
        if !shown.contains(&only) {
            continue;
        }
        let mut document = good.clone();
        match document.pointer_mut(pointer) {
            Some(there) => *there = value,
            None => document[&pointer[1..].split('/').next().unwrap()] = value,
        }
        bench.write("doc.json", &document.to_string());
        for tool in bench
            .tools()
            .iter()
            .filter(|tool| !tool.starts_with("doctor"))
        {
            let tool = match tool.starts_with("mkroot") {
                true => format!("{tool} < doc.json"),
                false => tool.clone(),
            };
            let what = format!("{shown}: {tool}");
            let ran = bench.run(&tool, &shown);
            eprintln!(
                "{what}: {}: {}",
                ran.status,
                ran.stderr.lines().last().unwrap_or_default()
            );
            outside.check(&what);
        }
    }
    bench.inside("rm -rf --one-file-system root good");
}

#[test]
fn a_hostile_document_harms_nobody_as_root() {
    every_hostile_document(Who::Root);
}

#[test]
fn a_hostile_document_harms_nobody_as_a_user() {
    every_hostile_document(Who::User);
}

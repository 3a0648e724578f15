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
use strapline_tests::{Lab, Mirror, Ran, Server, Who, tier, top};

/// How long a tool may take over any trick, in seconds: on a busy machine, without optimisation. What waits for a fifo
/// waits for ever.
const PATIENCE: u32 = 120;

/// What stands in every file of the host's that is not to be read into a root, an image, a document or a message.
const SENTINEL: &str = "only-the-host-knows";

/// Returns the rows of a table whose name has `STRAPLINE_TRICK` in it; by day every `stride`-th of all, and others as a user
/// than as root.
fn chosen<T>(rows: impl IntoIterator<Item = T>, who: Who, stride: usize, name: impl Fn(&T) -> String) -> Vec<T> {
    match std::env::var("STRAPLINE_TRICK") {
        Ok(only) => rows.into_iter().filter(|row| name(row).contains(&only)).collect(),
        Err(_) => tier::sample(rows, stride, if who == Who::Root { 0 } else { stride / 2 }).collect(),
    }
}

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
        let ran = lab.sh(&format!(
            "set -e; umask 022; mkdir outside; cd outside; mkdir local gnupg pts shm .ann.new skel
             echo 'root:x:0:0:{SENTINEL}:/root:/bin/sh' >passwd; echo 'root:*{SENTINEL}:1::::::' >shadow; chmod 600 shadow
             for file in log db x.hook .ann.new/file skel/file; do echo {SENTINEL} >$file; done; : >linked; chmod 700 gnupg
             for file in pubring.gpg trustdb.gpg gpg.conf; do echo {SENTINEL} >gnupg/$file; done
             touch -d 2001-01-01 * gnupg/* skel/* .ann.new/* .ann.new",
        ));
        assert_eq!(ran.status, 0, "{ran:?}");
        let dir = lab.path().join("outside");
        setxattr(dir.join("log"), "user.sentinel", b"here", XattrFlags::empty()).unwrap();
        let mount = (who == Who::Root).then(|| lab.path().join("hostmount"));
        if let Some(mount) = &mount {
            fs::create_dir(mount).unwrap();
            let ran = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "bystander"]).arg(mount).status();
            assert!(ran.unwrap().success());
        }
        let mut outside =
            Self { bystanders: vec![sleep(lab, &dir)], before: picture(&dir), mounted: String::new(), dir, mount };
        outside.mounted = outside.mount_line();
        outside
    }

    fn mount_line(&self) -> String {
        let Some(mount) = &self.mount else {
            return String::new();
        };
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = format!(" {} ", mount.display());
        all.lines().find(|l| l.contains(&at)).unwrap_or_default().to_owned()
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
            assert_eq!(bystander.try_wait().unwrap(), None, "{what}: ended a bystander");
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
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
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
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let mut value = vec![0; 16];
        let length = lgetxattr(&path, "user.sentinel", &mut value[..]).unwrap_or(0);
        value.truncate(length);
        let time = |seconds: i64, nanos: i64| seconds as u64 * 1_000_000_000 + nanos as u64;
        // Its name in the root is the root's, and may go.
        let linked = path.ends_with("linked");
        let of_names = |number| if linked { 0 } else { number };
        let numbers = [
            u64::from(meta.mode()),
            u64::from(meta.uid()),
            u64::from(meta.gid()),
            of_names(meta.nlink()),
            meta.size(),
            time(meta.mtime(), meta.mtime_nsec()),
            of_names(time(meta.ctime(), meta.ctime_nsec())),
            meta.ino(),
        ];
        rows.push((path, numbers, content, value));
    }
    rows.sort();
    rows
}

// ---------------------------------------------------------------------------------------------------------------------
// A root to play tricks on, and the tools.

/// What a root must have, beside what the mirror's packages bring, for everything that `configure` and `mkdisk` can be asked
/// for: commands of sh(1), run in its directory. Only names and first bytes of files matter here.
const FURNISH: &str = r#"
    mkdir -p boot etc/sudoers.d etc/skel etc/systemd/system usr/share/zoneinfo usr/share/kbd/keymaps usr/lib/systemd/system usr/lib/systemd/boot/efi
    for f in boot/vmlinuz-linux boot/initramfs-linux.img usr/lib/systemd/boot/efi/systemd-bootx64.efi; do echo x >$f; done
    tar -xf ../packages/archlinux-keyring-*.pkg.tar.xz usr/share/pacman/keyrings
    echo TZif >usr/share/zoneinfo/UTC; echo x >usr/share/kbd/keymaps/de.map; echo x >etc/skel/.bashrc; echo [Unit] >usr/lib/systemd/system/x.service
    echo 'Include = /etc/pacman.d/mirrorlist' >etc/pacman.conf; echo '@includedir /etc/sudoers.d' >etc/sudoers
    for f in sudo pacman-key gpg ../lib/systemd/systemd ../lib/systemd/systemd-resolved ../lib/systemd/systemd-networkd; do [ -e usr/bin/$f ] || cp usr/bin/true usr/bin/$f; done
    printf '#!/bin/bash\nu=/etc/systemd/system/x.service\ncase $1 in enable) ln -sf /usr/lib/systemd/system/x.service $u ;; *) [ -e $u ] && echo enabled || echo disabled ;; esac\n' >usr/bin/systemctl
    chmod 755 usr/bin/systemctl
"#;

/// All that `configure` can be asked for there, but for a mirror.
const CONFIGURE: &str = "--hostname alarm --locale C.UTF-8 --timezone UTC --keymap de --user ann:wheel --shell ann:/bin/bash \
    --password-file ann:password --password-hash-file root:hash --ssh-key ann:key.pub --sudo --enable x --fstab \
    --resolv-conf resolved --first-boot-keyring --group app --tree tree --nopasswd ann --os-release IMAGE_ID=x --network dhcp";

/// What no trick is about, and most of the bytes.
const LEFT_OUT: &str = "--exclude 'usr/lib/**/*.so*' --exclude 'usr/bin/[a-mo-z]*'";

/// The tools that make images, with as much of the root in them as can be.
const IMAGES: [&str; 2] = [
    "pack --state doc.json -o packed.tar --keep-keyring --include 'var/**'",
    "mkdisk --state doc.json -o disk.img --keep-keyring --include 'var/**' --headroom 1M --no-boot-check",
];

const HASH: &str = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN ann@home";

/// A good root in a laboratory, `good` with its document `good.json`, and the same as `root` with `doc.json` to play on.
struct Bench {
    lab: Lab,
    mirror: Mirror,
    server: Server,
    good: Value,
    /// What the good root was when it was made.
    inventory: String,
}

impl Bench {
    fn new(who: Who) -> Self {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        let server = Server::of(&mirror.www());
        let ran = lab.sh(&format!(
            "mkroot root --arch x86_64 --distro {preset} \
             | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
             | keyring | strap filesystem bash coreutils shadow",
            preset = mirror.preset().display(),
            url = server.url(),
        ));
        let good = ran.succeeded();
        for (file, text) in [("password", "correct horse"), ("hash", HASH), ("key.pub", KEY)] {
            fs::write(lab.path().join(file), format!("{text}\n")).unwrap();
        }
        assert_eq!(lab.sh("mkdir -p tree/etc/tree && echo x >tree/etc/tree/x && ln -s x tree/etc/tree/link").status, 0);
        let mut bench = Self { lab, mirror, server, good, inventory: String::new() };
        bench.inside(&format!("cd root; {FURNISH}"));
        bench.inside("mv root good");
        bench.inventory = bench.inventory();
        bench
    }

    fn inventory(&self) -> String {
        let found = self.inside(r"find good -printf '%p %y %m %U:%G %s %T@ %l\n' | sort");
        found.stdout
    }

    /// Checks that the good root is what it was, so that each trick was played on a good one, and removes all.
    fn end(&self) {
        assert_eq!(self.inventory(), self.inventory, "something wrote into the good root");
        // What somebody has mounted there is not our pipeline's, and it has left it.
        self.inside("unmount --new root > unmounted; rm -rf --one-file-system root good packages-*");
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

    /// Makes the root a copy of the good one. The files of `/usr` are other names of the good ones: nothing writes into
    /// those, and [`Bench::end`] sees to it.
    fn restore(&self) {
        self.inside(
            "rm -rf --one-file-system root; cp -al good root; cd root; rm -rf etc var; cp -a ../good/etc ../good/var .",
        );
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
        let ran = self.lab.sh(&format!("timeout --kill-after=5 {PATIENCE} {tool}"));
        sane(&ran, tool.starts_with("doctor"), &format!("{what}: {tool}"));
        ran
    }

    /// Checks that nothing that only the host knows is in the root or an image, and removes the images.
    #[track_caller]
    fn hides(&self, what: &str) {
        // What has not changed since it was restored was read of no host.
        let found = self.inside(&format!(
            "find root packed.tar disk.img -xdev -cnewer doc.json -type f -size -200M -exec grep -lF {SENTINEL} {{}} + || :
             rm -f packed.tar disk.img"
        ));
        assert_eq!(found.stdout, "", "{what}: it read the host's files");
    }

    /// Every tool, as it is run over a root that is there.
    fn tools(&self) -> Vec<String> {
        let (preset, url) = (self.mirror.preset(), self.server.url());
        [
            format!("mkroot root --arch x86_64 --distro {}", preset.display()),
            format!("mkconf --state doc.json --server '{url}/$arch/$repo' --cache-dir $PWD/packages"),
            "keyring --state doc.json".to_owned(),
            "strap --state doc.json nano".to_owned(),
            "verify --state doc.json".to_owned(),
            "enter true < doc.json".to_owned(),
            "enter --user nobody true < doc.json".to_owned(),
            format!("configure --state doc.json {CONFIGURE} --mirror '{url}/$arch/$repo'"),
            // Less of what is in no trick: the time is the disk's.
            format!("{} {LEFT_OUT}", IMAGES[0]),
            format!("{} --boot 40M {LEFT_OUT}", IMAGES[1]),
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
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(SENTINEL), "{what}: it read the host's files: {text}");
    }
    let driving = |c: char| c.is_control() && c != '\n';
    assert!(!ran.stderr.contains(driving), "{what}: {:?}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
    if !alone {
        let document = ran.document();
        assert_eq!(document["error"].is_object(), ran.status != 0, "{what}: {document}");
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
    (
        "a record is a gibibyte of nothing",
        "truncate -s 1G var/lib/pacman/local/bash-*/desc var/lib/pacman/local/bash-*/mtree",
    ),
    ("records lead out", "for f in desc files mtree; do ln -sf $OUT/passwd var/lib/pacman/local/bash-5*/$f; done"),
    ("the records lead out", "mv var/lib/pacman/local x; ln -s $OUT/local var/lib/pacman/local"),
    ("the database leads out", "mv var/lib/pacman x; ln -s $OUT var/lib/pacman"),
    (
        "a record is to be written outside",
        "mkdir -p var/lib/pacman/local; ln -s $OUT/local var/lib/pacman/local/nano-7.2-1",
    ),
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
    (
        "a hook is a fifo",
        "mkdir -p etc/pacman.d/hooks; mkfifo etc/pacman.d/hooks/x.hook; ln -s $OUT/x.hook etc/pacman.d/hooks/y.hook",
    ),
    ("mtab is a fifo", "rm -f etc/mtab; mkfifo etc/mtab"),
    ("mtab leads out", "ln -sf $OUT/passwd etc/mtab"),
    ("users lead out", "ln -sf $OUT/passwd etc/passwd; ln -sf $OUT/shadow etc/shadow; ln -sf $OUT/passwd etc/group"),
    ("users are fifos", "cd etc; rm -f passwd group; mkfifo passwd group"),
    ("users never end", "ln -sf /dev/zero etc/passwd; truncate -s 1T etc/group"),
    ("proc and the like lead out", "for d in proc sys dev run tmp; do rm -rf $d; ln -s $OUT $d; done"),
    ("dev leads out", "rm -rf dev; ln -s $OUT dev"),
    ("what is to be in dev is there", "echo x >dev/null; ln -s $OUT/new dev/zero; ln -s $OUT dev/pts; mkfifo dev/tty"),
    ("home, srv and mnt lead out", "for d in home srv mnt opt root; do rm -rf $d; ln -s $OUT $d; done"),
    (
        "the files of packages lead out",
        "mv usr/share x; ln -s $OUT usr/share; rm -rf usr/bin/nano; ln -s $OUT/passwd usr/bin/nano",
    ),
    (
        "resolv.conf leads out",
        "ln -sf $OUT/new etc/resolv.conf; ln -sf $OUT/passwd etc/hostname; ln -sf $OUT/log etc/ld.so.cache",
    ),
    (
        "tmpfiles never end",
        "mkdir -p usr/lib/tmpfiles.d; ln -s /dev/zero usr/lib/tmpfiles.d/a.conf; mkfifo usr/lib/tmpfiles.d/b.conf",
    ),
    (
        "a program is set-uid",
        "cp usr/bin/bash usr/local/bin/; cp usr/bin/true x; mv x usr/bin/true; chmod 6755 usr/local/bin/bash usr/bin/true",
    ),
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
    ("a record is a device", "cd var/lib/pacman/local/bash-*; rm desc; mknod desc c 1 5"),
    ("the log is a device", "rm -f var/log/pacman.log; mknod var/log/pacman.log c 1 5"),
    ("users are a device", "rm etc/passwd; mknod etc/passwd c 1 5"),
    ("dev has the host's disk", "mknod dev/sda b 8 0; mknod etc/sda b 8 0"),
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
    bench.hides("no trick");
    let of_root = if who == Who::Root { TRICKS_OF_ROOT } else { &[] };
    let all = TRICKS.iter().chain(of_root);
    for (name, play) in chosen(all, who, 12, |(name, _)| (*name).to_owned()) {
        bench.restore();
        bench.inside(&format!("OUT=$PWD/outside; cd root; {play}"));
        outside.look_again();
        let mut in_the_way = sleep(&bench.lab, &bench.lab.path().join("root"));
        for tool in bench.tools() {
            let what = format!("{name}: {tool}");
            let ran = bench.run(&tool, name);
            eprintln!("{what}: {}: {}", ran.status, ran.stderr.lines().last().unwrap_or_default());
            outside.check(&what);
            assert_eq!(in_the_way.try_wait().unwrap(), None, "{what}: ended a bystander");
        }
        bench.hides(name);
        in_the_way.kill().unwrap();
        in_the_way.wait().unwrap();
    }
    bench.end();
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
// What only `configure` reads and writes, each in the place of a file of its own.

/// What lies there in place of what should. HOST is the host's directory as a link in the root can name it: what works
/// chrooted is led there by no other name.
const IN_PLACE: &[(&str, &str)] = &[
    ("leads to the host", "ln -s $HOST/passwd $AT"),
    ("never ends", "ln -s /proc/1/root/dev/zero $AT"),
    ("is to be made on the host", "ln -s $HOST/new $AT"),
    ("leads to a directory of the host's", "ln -s $HOST/skel $AT"),
    ("is a fifo", "mkfifo $AT"),
    ("is a directory", "mkdir $AT"),
    ("is another file's name", "ln $OUT/linked $AT"),
    ("is a terabyte of nothing", "truncate -s 1T $AT"),
    ("drives a terminal", r"printf 'root::0:0:\033]0;x\007:/:\n\377\376\0%%wheel\n@includedir /etc/sudoers.d\n' >$AT"),
];

/// Where: below the root.
const PLACES: &[&str] = &[
    "etc/hostname",
    "etc/hosts",
    "etc/locale.gen",
    "etc/locale.conf",
    "etc/localtime",
    "etc/vconsole.conf",
    "etc/passwd",
    "etc/shadow",
    "etc/group",
    "etc/gshadow",
    "etc/subuid",
    "etc/subgid",
    "etc/login.defs",
    "etc/default/useradd",
    "etc/shells",
    "etc/skel",
    "etc/skel/x",
    "etc/sudoers",
    "etc/sudoers.d/10-wheel",
    "etc/sudoers.d/.10-wheel.new",
    "etc/sudoers.d/20-nopasswd",
    "etc/tree",
    "etc/tree/x",
    "etc/tree/.x.new",
    "etc/.tree.new",
    "etc/os-release",
    "etc/systemd/network",
    "etc/systemd/network/20-wired.network",
    "etc/systemd/system/first-boot-keyring.service",
    "etc/systemd/system/multi-user.target.wants",
    "etc/fstab",
    "etc/.fstab.new",
    "etc/pacman.conf",
    "etc/pacman.d/mirrorlist",
    "etc/resolv.conf",
    "etc/machine-id",
    "home",
    "home/ann",
    "home/.ann.new",
];

/// What keeps every program of the root: the loader opens it before anything else.
#[test]
fn a_program_of_the_root_that_waits_is_given_up() {
    for who in [Who::Root, Who::User] {
        let bench = Bench::new(who);
        bench.restore();
        bench.inside("mkfifo root/etc/ld.so.preload");
        let ran = bench.run("configure --state doc.json --timeout 2 --user ann", "it waits");
        ran.failed(75, "root': nothing happened for ");
        assert_eq!(ran.document()["error"]["code"], "hung");
        bench.end();
    }
}

fn configure_with_anything_in_place(who: Who) {
    let bench = Bench::new(who);
    let mut outside = Outside::new(&bench.lab, who);
    bench.restore();
    let server = bench.server.url();
    let tool = format!("configure --state doc.json {CONFIGURE} --mirror '{server}/$arch/$repo'");
    // What keeps an ordinary user's programs in is the same code: two of each are enough to see that.
    let kinds = if who == Who::Root { IN_PLACE } else { &IN_PLACE[..2] };
    let all =
        PLACES.iter().flat_map(|place| kinds.iter().map(move |(what, play)| (place, format!("{place} {what}"), play)));
    // No divisor of the number of kinds, so that each is tried somewhere.
    for (place, what, play) in chosen(all, who, 16, |(_, what, _)| what.clone()) {
        bench.inside(&format!(
            "rm -rf root/etc root/home; cp -a good/etc good/home root; OUT=$PWD/outside; HOST=/proc/1/root$OUT
             cd root; AT={place}; rm -rf $AT; mkdir -p $(dirname $AT); {play}"
        ));
        outside.look_again();
        let ran = bench.run(&tool, &what);
        eprintln!("{what}: {}: {}", ran.status, ran.stderr.lines().last().unwrap_or_default());
        outside.check(&what);
        bench.hides(&what);
    }
    bench.end();
}

#[test]
fn configure_is_led_nowhere_as_root() {
    configure_with_anything_in_place(Who::Root);
}

#[test]
fn configure_is_led_nowhere_as_a_user() {
    configure_with_anything_in_place(Who::User);
}

// ---------------------------------------------------------------------------------------------------------------------
// What images cannot hold, or only just.

/// What lies in a directory of the root's: commands of sh(1) that are run in it. BOOT is the root's `/boot`.
const CONTENTS: &[(&str, &str)] = &[
    ("a terabyte of nothing", "truncate -s 1T x; truncate -s 8000000000000 y"),
    (
        "a terabyte with something in it",
        "for n in 0 500000000 1000000000; do printf x | dd of=x bs=1 seek=${n}001 conv=notrunc status=none; done",
    ),
    (
        "thousands of holes",
        r#"perl -e 'open F, ">x"; for (0..5000) { seek F, $_ * 16384, 0; print F "x" } truncate F, 1 << 30'"#,
    ),
    (
        "sockets",
        r#"python3 -c 'import socket; [socket.socket(socket.AF_UNIX).bind(n) for n in (b"s", b"\x1b]0;x\x07", b"\xff")]'"#,
    ),
    (
        "attributes of all names",
        r#"python3 -c '
import os
open("x", "w"); os.mkdir("d")
for n in (b"user.a", b"user.\n\x1b]0;x\x07", b"user.\xff\xfe", b"user." + b"n" * 200, b"user.SCHILY.xattr.x", b"user. "):
    for f in ("x", "d"):
        try: os.setxattr(f, n, b"\x00\n\xff")
        except OSError as e: raise SystemExit(f"{n}: {e}")'"#,
    ),
    ("an attribute that ends early", r#"python3 -c 'import os; open("x", "w"); os.setxattr("x", b"user.a=b", b"x")'"#),
    (
        "an attribute as long as can be",
        r#"python3 -c '
import os
open("x", "w")
for size in range(65536, 0, -64):
    try: os.setxattr("x", b"user.x", b"x" * size)
    except OSError: continue
    break'"#,
    ),
    (
        "names as long as can be",
        r#"n=$(printf '%0255d' 0); : >"$n"; ln -s "$(printf '%04095d' 0)" l; mkdir "a$n" 2>/dev/null || mkdir "${n%0}a"
         perl -e '$n = "d" x 255; for (1..14) { mkdir $n or die; chdir $n or die } open F, ">x"'"#,
    ),
    (
        "a path longer than can be said",
        r#"perl -e '$n = "d" x 255; for (1..40) { mkdir $n or die; chdir $n or die } open F, ">x"'"#,
    ),
    (
        "names that are none",
        r#"for n in a "A" "-rf" "$(printf 'a\nb')" "$(printf '\033]0;x\007')" "$(printf '\377\376')" 'a\b' ' ' '*' '"'; do : >"$n"; done"#,
    ),
    (
        "times before and after all times",
        "touch -d @-9999999999 x; touch -d @99999999999 y; touch -d @-1.5 z; touch -h -d @-2147483649 .; ln -s x l; touch -h -d @4294967297 l",
    ),
    ("a file with many names", r#"perl -e 'open F, ">x"; for (1..20000) { link "x", "l$_" or die $! }'"#),
    ("many small files", r#"perl -e 'for (1..20000) { open F, ">f$_" or die }'"#),
    ("nobody may read", ": >x; chmod 0 x; mkdir d; : >d/x; chmod 0 d"),
    (
        "a kernel that is none",
        "cd $BOOT; rm -f vmlinuz-linux; mkfifo vmlinuz-linux; mkfifo Image; ln -s $OUT/passwd vmlinuz",
    ),
    ("a kernel that leads out", "cd $BOOT; ln -sf $OUT/passwd vmlinuz-linux; ln -sf $HOST/passwd initramfs-linux.img"),
    (
        "a kernel's name is a configuration",
        r#"cd $BOOT; for n in "$(printf 'vmlinuz-x\noptions init=/x')" 'vmlinuz-a b' 'vmlinuz-../../x' vmlinuz- "$(printf 'vmlinuz-\377')"; do echo >"$n" || :; done"#,
    ),
    ("a boot directory that leads out", "rm -r $BOOT; ln -s $HOST $BOOT"),
    ("a boot directory that is a fifo", "rm -r $BOOT; mkfifo $BOOT"),
    (
        "a boot configuration that leads out",
        "mkdir -p $BOOT/loader; ln -s $HOST/passwd $BOOT/loader/loader.conf; ln -s $HOST $BOOT/loader/entries; ln -s $HOST $BOOT/EFI",
    ),
    ("what FAT cannot say", r#"cd $BOOT; : >'a:b'"#),
    ("what FAT says twice", "cd $BOOT; : >readme; : >README; mkdir Efi efi"),
    ("FAT's names as long as can be", r#"cd $BOOT; : >"$(printf '%0255d' 0)""#),
    ("FAT's names without UTF-8", r#"cd $BOOT; : >"$(printf '\377')""#),
    ("more than FAT can hold", "cd $BOOT; truncate -s 5G x"),
    ("links where FAT has none", "cd $BOOT; ln -s vmlinuz-linux l; ln vmlinuz-linux h"),
    (
        "a name of the system that never ends",
        "ln -sf /dev/zero ../etc/os-release; ln -sf /dev/zero ../usr/lib/os-release",
    ),
    (
        "a name of the system that drives a terminal",
        r#"rm -f ../etc/os-release; printf 'PRETTY_NAME="\033]0;x\007"\nNAME=x\noptions init=/x\n' >../etc/os-release"#,
    ),
];

/// Those that only root can do.
const CONTENTS_OF_ROOT: &[(&str, &str)] = &[
    ("devices", "mknod a c 4095 1048575; mknod b b 8 0; mknod c c 0 0"),
    ("owners that are none", ": >x; chown 4294967294:4294967294 x; mkdir d; chown 2097152:2097152 d"),
    (
        "attributes of the kernel's",
        r#"python3 -c '
import os
open("x", "w")
for n in ("security.x", "trusted.x", "trusted.overlay.opaque"): os.setxattr("x", n, b"y")'"#,
    ),
    (
        "capabilities of another namespace",
        r#"python3 -c '
import os
open("x", "w")
os.setxattr("x", "security.capability", bytes([1, 0, 0, 3]) + bytes(16) + bytes([7, 0, 0, 0]))'"#,
    ),
];

/// Layouts that nobody means well with. `mkdisk` and `configure --fstab` read them.
fn layouts(lab: &Lab) -> Vec<(&'static str, Vec<u8>)> {
    let root = "[[partition]]\nname = \"root\"\ntype = \"root\"\nsize = \"rest\"\nfilesystem = \"ext4\"\nat = \"/\"\n";
    let with = |more: &str| format!("{more}\n{root}").into_bytes();
    let blob = |more: &str| with(&format!("[[blob]]\noffset = \"32K\"\n{more}"));
    let part = |more: &str| with(&format!("[[partition]]\nname = \"p\"\ntype = \"linux\"\n{more}"));
    let at = |name: &str| format!("file = {:?}", lab.path().join(name).display().to_string());
    let many = |n: usize| (0..n).map(|n| format!("[[partition]]\nname = \"p{n}\"\ntype = \"linux\"\nsize = \"1M\"\n"));
    vec![
        ("a fifo", blob(&at("fifo"))),
        ("a device without an end", blob("file = \"/dev/zero\"")),
        ("a disk", blob("file = \"/dev/sda\"")),
        ("memory", blob("file = \"/proc/kcore\"")),
        ("a directory", blob(&at("outside"))),
        ("a name with a NUL", blob("file = \"a\\u0000b\"")),
        ("the host's out of the root", blob("in_root = \"/proc/1/root/etc/passwd\"")),
        ("above the root", blob("in_root = \"/../../etc/passwd\"")),
        ("a link of the root's", blob("in_root = \"/trick/link\"")),
        ("a fifo of the root's", blob("in_root = \"/trick/fifo\"")),
        ("a socket of the root's", part("in_root = \"/trick/socket\"\nsize = \"auto\"")),
        ("nothing but a hole of the root's", part("in_root = \"/trick/sparse\"\nsize = \"auto\"")),
        ("a blob over the table", with("[[blob]]\noffset = \"512\"\nfile = \"key.pub\"")),
        ("an offset beyond all numbers", with("[[blob]]\noffset = \"16777215T\"\nfile = \"key.pub\"")),
        ("an offset beyond most numbers", part("offset = \"8388607T\"\nsize = \"8388607T\"")),
        ("a size beyond all numbers", part("size = \"99999999999999999999E\"")),
        ("a partition of all there is", part("size = \"8388607T\"\nfilesystem = \"ext4\"")),
        ("a partition of nothing", part("size = \"0\"")),
        ("FAT without room", part("size = \"512\"\nfilesystem = \"vfat\"\nat = \"/boot\"")),
        ("too many partitions", with(&many(129).collect::<String>())),
        ("many thousands of partitions", with(&many(10_000).collect::<String>())),
        (
            "a name that drives a terminal",
            part("size = \"1M\"\n")
                .iter()
                .copied()
                .chain(*b"[[partition]]\nname = \"\\u001b]0;x\"\ntype = \"linux\"\n")
                .collect(),
        ),
        ("a place outside", part("size = \"40M\"\nfilesystem = \"ext4\"\nat = \"/../../etc\"")),
        ("a place in a link", part("size = \"40M\"\nfilesystem = \"ext4\"\nat = \"/trick/link\"")),
        ("tables in tables", with(&format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000)))),
        ("a table twice", [with(""), b"[[partition]]\nname = \"root\"\nname = \"root\"\n".to_vec()].concat()),
        ("no UTF-8", [with(""), b"\xff".to_vec()].concat()),
        ("more than a layout ever is", with(&"#".repeat(2 << 20))),
        ("nothing", Vec::new()),
    ]
}

fn images_of_anything(who: Who) {
    let bench = Bench::new(who);
    let mut outside = Outside::new(&bench.lab, who);
    bench.restore();
    // No program of it is run here.
    bench.inside("rm -r root/usr/bin root/usr/share; find root/usr/lib -name '*.so*' -delete");
    let of_root = if who == Who::Root { CONTENTS_OF_ROOT } else { &[] };
    let play = |play: &str| {
        bench.inside(&format!(
            "rm -rf root/trick root/boot root/etc; cp -a good/boot good/etc root; OUT=$PWD/outside; HOST=/proc/1/root$OUT
             BOOT=$PWD/root/boot; mkdir root/trick; cd root/trick; {play}"
        ));
    };
    let mut run = |tool: &str, what: &str| {
        let ran = bench.run(tool, what);
        eprintln!("{what}: {tool}: {}: {}", ran.status, ran.stderr.lines().last().unwrap_or_default());
        outside.check(what);
    };
    let all = CONTENTS.iter().chain(of_root);
    for (name, commands) in chosen(all, who, 4, |(name, _)| (*name).to_owned()) {
        play(commands);
        for tool in [IMAGES[0], &format!("{} --boot 40M", IMAGES[1])] {
            run(tool, name);
        }
        bench.hides(name);
    }
    play(
        "ln -s $HOST/passwd link; mkfifo fifo; truncate -s 64M sparse; mkfifo ../../fifo
          python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
    );
    let name = |name: &str| format!("layout: {name}");
    for (layout, text) in chosen(layouts(&bench.lab), who, 4, |(layout, _)| name(layout)) {
        let name = name(layout);
        fs::write(bench.lab.path().join("layout.toml"), text).unwrap();
        for tool in [&format!("{} --bootloader none", IMAGES[1]), "configure --state doc.json --fstab"] {
            run(&format!("{tool} --layout layout.toml"), &name);
        }
        bench.hides(&name);
    }
    for layout in ["outside", "/dev/zero", "/dev/null", "nosuch"] {
        run(&format!("{} --layout {layout}", IMAGES[1]), layout);
    }
    bench.end();
}

#[test]
fn an_image_of_anything_harms_nobody_as_root() {
    images_of_anything(Who::Root);
}

#[test]
fn an_image_of_anything_harms_nobody_as_a_user() {
    images_of_anything(Who::User);
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
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Mirror { dir }
}

fn every_hostile_package(who: Who) {
    let bench = Bench::new(who);
    let mut outside = Outside::new(&bench.lab, who);
    let kinds = Command::new(top().join("tests/mirror/hostile")).arg("list").output().unwrap();
    let kinds = String::from_utf8(kinds.stdout).unwrap();
    for kind in chosen(kinds.lines(), who, 4, |kind| (*kind).to_owned()) {
        let mirror = hostile_mirror(&bench.lab, kind);
        let server = Server::of(&mirror.www());
        bench.restore();
        if kind.starts_with("ring") {
            bench.inside("rm -r root/usr/share/pacman/keyrings");
        }
        outside.look_again();
        let run = |tool: &str| {
            let ran = bench.run(tool, kind);
            eprintln!("{kind}: {tool}: {}: {}", ran.status, ran.stderr.lines().last().unwrap_or_default());
            ran
        };
        let ran = run(&format!(
            "mkconf --state doc.json --server '{}/$arch/$repo' --cache-dir $PWD/packages-{kind}",
            server.url()
        ));
        bench.write("doc.json", &ran.succeeded().to_string());
        let tools: &[&str] = if kind.starts_with("ring") {
            // A ring in a root that has none yet; and in one that has.
            &["keyring --state doc.json", "strap --state doc.json archlinux-keyring", "verify --state doc.json"]
        } else {
            &["strap --state doc.json hostile", "verify --state doc.json", "enter true < doc.json"]
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
    bench.end();
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
    let with = |members: &str| format!(r#"{{"strapline":1,"root":"{root}",{members}}}"#).into_bytes();
    let root_is = |root: &str| format!(r#"{{"strapline":1,"root":"{root}"}}"#).into_bytes();
    let deep = |open: &str, close: &str| with(&format!("\"x\":{}{}", open.repeat(100_000), close.repeat(100_000)));
    vec![
        ("the root is the host's", root_is("/")),
        ("the root is above", root_is("..")),
        ("the root is relative", root_is("root")),
        ("the root leads up", root_is("/var/../..")),
        ("the root has a NUL", root_is("/srv/x\\u0000y")),
        ("the root drives a terminal", root_is("/srv/\\u001b]0;x\\u0007")),
        ("two roots, the last the host's", with(r#""root":"/""#)),
        ("two roots, the last a good one", with(r#""root":"/srv/x""#)),
        ("an array of 64 MiB", with(&format!("\"packages\":[{}0]", "0,".repeat(32 << 20)))),
        ("arrays in arrays", deep("[", "]")),
        ("objects in objects", deep("{\"a\":", "}").iter().copied().chain(*b" ").collect()),
        ("half a character", with(r#""x":"\ud800""#)),
        ("no UTF-8", [&root_is("/srv/x")[..], b"\xff"].concat()),
        ("a number that is none", with(r#""x":1e"#)),
        ("a mount above the root", with(r#""mounts":[{"at":"../../etc","type":"tmpfs"}]"#)),
        ("a mount of the host's", with(r#""mounts":[{"at":"/etc","type":"tmpfs"}]"#)),
        ("a node that is none", with(r#""mounts":[{"at":"dev","type":"tmpfs","nodes":["../sda"]}]"#)),
        ("a pacman somewhere", with(r#""pacman":{"path":"../x"}"#)),
        ("a cache somewhere", with(r#""config":{"cache":"/srv/../etc"}"#)),
        ("an error that is none", with(r#""error":{"exit":0}"#)),
    ]
}

/// A file of a tree.
fn laid(path: &str, kind: &str, mode: &str) -> Value {
    json!({ "path": path, "type": kind, "mode": mode, "uid": 0, "gid": 4_294_967_295_u32, "sha256": kind, "target": path,
            "from": kind, "tool": "configure" })
}

/// Changes to a good document: a JSON pointer and what is put there. Each is played alone. What the root's owner is asked to
/// mount or to run is theirs to decide (strapline-document(5), "Reading"); nothing here asks to write to the host.
fn changes(lab: &Lab) -> Vec<(&'static str, Value)> {
    let at = |name: &str| lab.path().join(name).display().to_string();
    let (outside, fifo, link) = (at("outside"), at("fifo"), at("link"));
    let passwd = at("outside/passwd");
    let mount = |kind: &str, source: &str, options: &[&str]| json!([{ "at": "mnt", "type": kind, "source": source, "options": options }]);
    let hostile = "\u{1b}]0;x\u{7}\u{202e}\n--config";
    let at_root = |ids: &[&str]| {
        let file_system = |id| json!({ "at": "/", "type": "ext4", "uuid": id });
        json!(ids.iter().map(file_system).collect::<Vec<_>>())
    };
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
        ("/mounts", mount("bind", &outside, &["remount,rw", "ro", "suid", "shared"])),
        ("/mounts", mount("bind", &fifo, &[])),
        ("/mounts", mount("bind", "", &[])),
        ("/mounts", mount("rbind", "/", &["ro"])),
        ("/mounts", mount("../x", "\u{0}", &["\u{0}=\u{0}"])),
        ("/mounts", mount("proc", "/proc/1/root", &["hidepid=x", "pid=1"])),
        ("/mounts", json!([{ "at": "", "type": "tmpfs", "nodes": ["null"] }])),
        ("/mounts", json!([{ "at": "dev", "type": "tmpfs", "nodes": ["sda", "mem", "nosuch"] }])),
        ("/mounts", json!([{ "at": "m".repeat(100_000), "type": "tmpfs" }])),
        ("/mounts", json!(vec![json!({ "at": "mnt", "type": "tmpfs" }); 2000])),
        ("/mounts", json!([{ "at": "etc/passwd", "type": "bind", "source": passwd }])),
        ("/idmap", json!({ "uid": [[0, 0, 65536]], "gid": [[0, 0, 65536]] })),
        ("/idmap", json!({ "uid": [[0, 1, 1]], "gid": [[0, 1, 1]] })),
        ("/idmap", json!({ "uid": [], "gid": [] })),
        ("/idmap", json!({ "uid": [[0, u64::MAX, u64::MAX]], "gid": [[u64::MAX, 0, 1]] })),
        ("/idmap/uid/1/1", json!(0)),
        ("/idmap/gid/0/1", json!(0)),
        ("/binfmt", json!({ "kind": "private", "interpreter": passwd, "flags": "OCPF" })),
        ("/binfmt", json!({ "kind": "private", "interpreter": fifo, "flags": "F:\n:x:M::x::/bin/sh:" })),
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
        ("/keyring/populated", json!(["../../../etc/passwd", hostile, "--homedir"])),
        ("/keyring/trusted", json!([hostile, "0".repeat(1 << 20)])),
        (
            "/packages",
            json!([{ "name": "../../x", "version": hostile, "arch": "any", "file": "../../../etc/passwd", "verified": true }]),
        ),
        ("/packages", json!(vec![json!({ "name": "x" }); 300_000])),
        ("/filesystems", json!(7)),
        ("/filesystems", json!([])),
        ("/filesystems", at_root(&[hostile])),
        ("/filesystems", at_root(&["00000000-0000-0000-0000-000000000000 / x\n/dev/sda"])),
        ("/filesystems", at_root(&["../../x", "/proc/1/root"])),
        ("/filesystems", json!([{ "at": "/", "type": "btrfs", "uuid": "x" }])),
        ("/filesystems", json!([{ "at": hostile, "type": "ext4", "uuid": "9c2b3a51-5f0e-4f19-8f3c-0a3a3f2b7d10" }])),
        ("/filesystems", json!(vec![json!({ "at": "/../..", "type": "vfat", "uuid": "0000-0000" }); 100_000])),
        ("/configured", json!([])),
        ("/configured", json!({ "hostname": 7, "users": {} })),
        (
            "/configured",
            json!({ "hostname": hostile, "users": [{ "name": hostile }], "locales": [hostile], "fstab": ["../.."],
                    "changed": { "users": ["../../etc/passwd"], hostile: hostile }, "first_boot_keyring": [hostile] }),
        ),
        ("/configured", json!({ "users": vec![json!({ "name": "root" }); 300_000], "locales": vec!["x"; 20_000] })),
        ("/tree", json!({ "path": passwd })),
        ("/tree", json!([laid("../../etc/passwd", "file", "0644")])),
        ("/tree", json!([laid("", "directory", "0777")])),
        ("/tree", json!([laid("etc/passwd", hostile, "9999")])),
        ("/tree", json!([laid("etc/hosts", hostile, "0644"), laid("proc/1/root/etc/passwd", "file", "4755")])),
        (
            "/tree",
            json!([laid("etc", "file", "0644"), laid("etc/hosts/x", "link", "0644"), laid("etc", "link", "0000")]),
        ),
        ("/archives", json!({ "file": passwd })),
        ("/archives", json!([7, null, { "file": passwd }, { "file": hostile, "sha256": [] }])),
        ("/disks", json!("x")),
        ("/disks", json!([7, null, { "file": passwd, "partitions": hostile }, { "file": [] }])),
        ("/steps", json!([{ "tool": hostile, "started": "x" }, 7, null])),
        ("/reap", json!({ "ended": [{ "pid": 1 }], "sockets": ["../../../x"] })),
        ("/unmount", json!({ "unmounted": ["../.."], "left": ["../..", "/"] })),
        ("/host", json!({ "boot_id": hostile, "mounts": [{ "at": "../..", "id": "1" }] })),
        ("/org.example", json!({ hostile: [1.5e300, -0.0, 1e-320, u64::MAX, i64::MIN] })),
    ]
}

fn every_hostile_document(who: Who) {
    let bench = Bench::new(who);
    let mut outside = Outside::new(&bench.lab, who);
    let ran = bench.lab.sh("mkfifo fifo; ln -s root link");
    assert_eq!(ran.status, 0, "{ran:?}");
    bench.restore();
    let root = bench.lab.path().join("root").display().to_string();
    for (name, text) in chosen(texts(&root), who, 4, |(name, _)| (*name).to_owned()) {
        fs::write(bench.lab.path().join("doc.json"), text).unwrap();
        let tools = [
            "mkroot new",
            "fetch-pacman",
            "mkconf",
            "keyring",
            "strap x",
            "verify",
            "enter true",
            "configure --hostname x",
            "pack -o packed.tar",
            "mkdisk -o disk.img",
            "reap",
            "unmount",
        ];
        for tool in tools {
            let ran = bench.run(&format!("{tool} < doc.json"), name);
            assert_eq!(ran.status, 65, "{name}: {tool}: {}", ran.stderr);
            assert_eq!(ran.document()["error"]["code"], "bad-document", "{name}: {tool}");
        }
        outside.check(name);
    }
    bench.restore();
    let text = fs::read_to_string(bench.lab.path().join("doc.json")).unwrap();
    let good: Value = serde_json::from_str(&text).unwrap();
    let shown = |(pointer, value): &(&str, Value)| format!("{pointer} {value}").chars().take(120).collect::<String>();
    for change in chosen(changes(&bench.lab), who, 24, shown) {
        let shown = shown(&change);
        let (pointer, value) = change;
        let mut document = good.clone();
        match document.pointer_mut(pointer) {
            Some(there) => *there = value,
            None => document[&pointer[1..].split('/').next().unwrap()] = value,
        }
        bench.write("doc.json", &document.to_string());
        for tool in bench.tools().iter().filter(|tool| !tool.starts_with("doctor")) {
            let tool = match tool.starts_with("mkroot") {
                true => format!("{tool} < doc.json"),
                // What is in the images is no document's doing.
                false => tool.replace(LEFT_OUT, &format!("{LEFT_OUT} --exclude 'usr/share/**'")),
            };
            let what = format!("{shown}: {tool}");
            let ran = bench.run(&tool, &shown);
            eprintln!("{what}: {}: {}", ran.status, ran.stderr.lines().last().unwrap_or_default());
            outside.check(&what);
        }
    }
    bench.end();
}

#[test]
fn a_hostile_document_harms_nobody_as_root() {
    every_hostile_document(Who::Root);
}

#[test]
fn a_hostile_document_harms_nobody_as_a_user() {
    every_hostile_document(Who::User);
}

//! A whole pipe laid out step by step, for tests that stop one step in the middle and look at what is left: its files are
//! kept as they were before the step, brought back, and compared with what the step makes when nobody disturbs it.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "all of this is part of a test")]

use crate::neighbours::{self, Neighbours};
use crate::{Lab, Mirror, Server, Who, lab};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a loaded kernel may take to end the namespaces of a tool that is no more: only a failure takes that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What is installed: little, but with a scriptlet (bash's) and two packages that come before any shell.
const PACKAGES: &str = "filesystem bash";

/// Waits until something happens on `fds`, or the time is over; says which.
pub fn wait(fds: &mut [PollFd<'_>], time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap();
        match poll(fds, Some(&left)) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}

/// Returns a command of the laboratory's user whose temporary files are below it, where they are seen, and whose images
/// are the same whenever they are made.
#[must_use]
pub fn command(lab: &Lab, program: &str) -> Command {
    let mut command = lab.command(program);
    command.env("TMPDIR", lab.path().join(TMPDIR)).env("SOURCE_DATE_EPOCH", "1000000000");
    command
}

const TMPDIR: &str = "tmp";

/// Returns a script that becomes a tool with its arguments; what it prints goes to files below `.trial`.
#[must_use]
pub fn redirected(command: &str) -> String {
    format!("exec </dev/null >.trial/out.json 2>.trial/err {command}")
}

// -- What is there -----------------------------------------------------------------------------------------------------

/// What a file is, as far as a second run must make it the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its kind and permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Bytes, where it is a regular file.
    pub size: u64,
}

/// Files by their path.
pub type Tree = BTreeMap<PathBuf, File>;

/// Returns everything at or below `dir`, by its path from there. Sizes are only those of regular files. A name that is
/// a new key's fingerprint in every run is called by its number.
#[must_use]
pub fn tree(dir: &Path) -> Tree {
    fn walk(at: &Path, called: &Path, into: &mut Tree) {
        let mut names: Vec<_> = fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let mut keys = 0;
        for name in names {
            let path = at.join(&name);
            let meta = path.symlink_metadata().unwrap();
            let kind = meta.file_type();
            assert!(!kind.is_socket(), "a socket is left: {}", path.display());
            let text = name.to_string_lossy();
            let called = match text.split_once('.') {
                Some((key, "key" | "rev")) if key.len() == 40 => {
                    keys += 1;
                    called.join(format!("KEY{keys}"))
                }
                _ => called.join(&name),
            };
            let file = File {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                // The copy of a document has the times of the steps in it, and what new keys take is chance: numbers of OpenPGP
                // have no leading zeros, and gpg's table grows where keys fall into one bucket.
                size: match &*text {
                    "document.json" | "trustdb.gpg" | "pubring.gpg" => 0,
                    _ if text.ends_with(".key") || text.ends_with(".rev") => 0,
                    _ if kind.is_file() => meta.len(),
                    _ => 0,
                },
            };
            if kind.is_dir() {
                walk(&path, &called, into);
            }
            into.insert(called, file);
        }
    }
    let mut found = Tree::new();
    walk(dir, Path::new(""), &mut found);
    found
}

/// Returns what of a process is left: those that are somewhere below `dir`, and those in mount namespaces of their own
/// that have something of `dir` mounted. Mounts of the host are in copies of its namespace too, so with those the
/// latter says nothing.
#[must_use]
pub fn processes(dir: &Path, with_namespaces: bool) -> Vec<String> {
    let mut found = lab::processes_below(dir);
    if !with_namespaces {
        return found;
    }
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let text = dir.to_string_lossy();
    let theirs = dir.join(neighbours::NAMES[0]);
    let theirs = theirs.to_string_lossy();
    let ours = |line: &str| line.contains(&*text) && !line.contains(&*theirs);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        // What cannot be read has ended.
        if fs::read_link(path.join("ns/mnt")).is_ok_and(|ns| ns != own)
            && fs::read_to_string(path.join("mountinfo")).is_ok_and(|m| m.lines().any(ours))
        {
            found.push(format!("{} has mounts", path.display()));
        }
    }
    found
}

/// Returns the loop devices whose file is below `dir`.
#[must_use]
pub fn loops(dir: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let file = |path: PathBuf| fs::read_to_string(path.join("loop/backing_file")).ok();
    devices.filter_map(|d| file(d.path())).filter(|f| Path::new(f.trim()).starts_with(dir)).collect()
}

/// Returns the names of the host's binfmt handlers.
#[must_use]
pub fn binfmt() -> Vec<String> {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter();
    let names = entries.flatten().flatten().map(|e| e.file_name());
    let mut names: Vec<_> = names.map(|n| n.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// pacman's own lock, which a killed one leaves. The next strap takes it away.
pub const LOCK: &str = "root/var/lib/pacman/db.lck";
/// What that becomes where it is not the repairing run that finds it.
pub const KILLED: &str = "root/var/lib/pacman/db.lck.killed";

/// Looks again and again, until nothing is left of what `look` finds; after [`PATIENCE`] that is a failure which names it.
fn soon_empty<T: std::fmt::Debug>(when: &str, what: &str, pause: Duration, look: impl Fn() -> Vec<T>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = look();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{when}: {what} are left: {left:#?}");
        wait(&mut [], pause);
    }
}

/// Returns what is called like a temporary file of one of our tools where all users have theirs, is `who`'s, and in use no more:
/// who uses one has it locked.
#[must_use]
pub fn drafts(who: Who) -> Vec<PathBuf> {
    let uid = if who == Who::Root { 0 } else { lab::UID };
    let places = ["/tmp", "/var/tmp", "/run", "/dev/shm"].map(fs::read_dir);
    let paths = places.into_iter().flatten().flatten().flatten();
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let prefixes = ["strapline-", ".strapline-", ".pacman-"];
        prefixes.iter().any(|p| name.starts_with(p)) && !name.starts_with("strapline-test-")
    };
    let unused = |path: &PathBuf| {
        fs::File::open(path).is_ok_and(|file| {
            file.metadata().is_ok_and(|meta| meta.uid() == uid)
                && rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
        })
    };
    let mut found: Vec<_> = paths.map(|e| e.path()).filter(ours).filter(unused).collect();
    found.sort();
    found
}

// -- The bench --------------------------------------------------------------------------------------------------------

/// One step of the pipe.
#[derive(Debug)]
pub struct Step {
    /// The program.
    pub tool: &'static str,
    /// Its arguments, as sh(1) reads them.
    pub args: String,
    /// Which of [`WORK`] it changes, so that every trial needs that as it was.
    pub changes: &'static [&'static str],
    /// Below which a killed run may leave what it had begun: somebody else's files, whose next run repairs them.
    pub excused: &'static [&'static str],
    /// What a killed run may leave under a name of its own, and the next one takes away: a directory cannot be without a
    /// name (as a file can, `O_TMPFILE`) until it takes the place of another.
    pub drafts: &'static [&'static str],
    /// How many killed runs are followed by one that must work. Each is, where it costs little.
    pub again: usize,
}

impl Step {
    /// Whether a killed run may leave this, and the next one takes it away. Every step writes a copy of the document.
    #[must_use]
    pub fn is_draft(&self, path: &Path) -> bool {
        // A file whose name is taken has another for a moment, until it takes its place.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let replaces = self.tool == "configure" && path.starts_with("root/etc");
        replaces && name.starts_with('.') && name.ends_with(".new")
            || self.drafts.iter().any(|draft| path.starts_with(draft))
            || path == Path::new("root.strapline/document.json.new")
    }
}

/// A laboratory with a whole pipe in it, and what its files were before and after each step.
#[derive(Debug)]
pub struct Bench {
    /// They go first, as they have a mount in the laboratory.
    pub neighbours: Neighbours,
    /// Where it is laid out.
    pub lab: Lab,
    /// Who runs it.
    pub who: Who,
    /// Whether mkroot mounts on the host: namespaces that others make meanwhile have copies of that.
    on_the_host: bool,
    /// The pipe.
    pub steps: Vec<Step>,
    binfmt: Vec<String>,
    /// What had names like our tools' temporary files before.
    drafts: Vec<PathBuf>,
    _server: Server,
}

/// What trials change. `.trial` has what a run prints; all else in the laboratory is the harness's.
pub const WORK: [&str; 5] = ["root", "root.strapline", "cache", "packages", IMAGES];

/// Where images of the root are written.
pub const IMAGES: &str = "images";

impl Bench {
    /// Lays out a pipe for a root of `arch`; `options` are more of mkroot's.
    #[must_use]
    pub fn new(who: Who, arch: &str, options: &str) -> Self {
        let (mirror, lab) = (Mirror::of(arch), Lab::new(who));
        let server = Server::of(&mirror.www());
        let (preset, url) = (mirror.preset(), server.url().to_owned());
        let step = |tool, args: String| Step { tool, args, changes: &WORK, excused: &[], drafts: &[], again: 1 };
        let steady = |tool, args: &str| Step { changes: &[], ..step(tool, args.into()) };
        let steps = vec![
            step("mkroot", format!("root {options} --arch {arch} --distro {}", preset.display())),
            step("fetch-pacman", format!("--server {url}/archlinuxcn/x86_64 --cache-dir $PWD/cache")),
            step("mkconf", format!("--server '{url}/$arch/$repo' --cache-dir $PWD/packages")),
            Step {
                excused: &["packages", "root/var/lib/pacman/sync", LOCK, KILLED],
                drafts: &["root/etc/pacman.d/gnupg.new", "root.strapline/gnupg.new"],
                again: 2,
                ..step("keyring", String::new())
            },
            Step { excused: &["packages", "root"], again: 5, ..step("strap", PACKAGES.into()) },
            step("configure", "--hostname alarm --fstab".into()),
            // A daemon is left at the end, which must go, too.
            steady("enter", "-- bash -c '(exec 3<> <(:); read -t 100 -u 3 line) &'"),
            steady("reap", ""),
            steady("unmount", ""),
        ];
        let out = lab.sh(&format!("mkdir .trial .snap {IMAGES} {TMPDIR}"));
        assert_eq!(out.status, 0, "{out:?}");
        Self {
            neighbours: Neighbours::beside(lab.path()),
            lab,
            who,
            on_the_host: options.contains("--host"),
            steps,
            binfmt: binfmt(),
            drafts: drafts(who),
            _server: server,
        }
    }

    /// Returns which step is `tool`'s.
    #[must_use]
    pub fn place(&self, tool: &str) -> usize {
        self.steps.iter().position(|s| s.tool == tool).unwrap()
    }

    /// Runs the steps before `tool`, each to its end, and keeps what they made.
    pub fn up_to(&mut self, tool: &str) {
        let place = self.place(tool);
        for i in 0..place {
            match self.run(&self.command(i)) {
                0 => self.host("cp .trial/out.json .snap/document.json"),
                status => panic!("{}: {status}\n{}", self.steps[i].tool, self.stderr()),
            }
        }
        if place > 0 {
            self.neighbours.use_the_root();
        }
        self.keep();
    }

    /// Runs a tool with its arguments to its end, and returns its exit status. What it prints goes to files below `.trial`.
    #[must_use]
    pub fn run(&self, command: &str) -> i32 {
        let mut shell = self::command(&self.lab, "sh");
        let status = shell.args(["-c", &redirected(command)]).status().unwrap();
        let by = status.signal().unwrap_or(0);
        status.code().unwrap_or(128 + by)
    }

    /// Runs a script as root of the host.
    pub fn host(&self, script: &str) {
        let out = Command::new("sh").args(["-ec", script]).current_dir(self.lab.path()).output().unwrap();
        assert!(out.status.success(), "{script}: {out:?}");
    }

    /// Keeps the files as they are now.
    pub fn keep(&self) {
        self.host(&format!(
            "rm -rf .snap/work; mkdir .snap/work
             for f in {}; do [ ! -e $f ] || cp -a --reflink=auto $f .snap/work/; done",
            WORK.join(" ")
        ));
    }

    /// Makes the files what they were when they were kept. The root stays the same directory, as documents know it.
    pub fn restore(&self) {
        self.restore_only(&WORK);
    }

    /// Makes a part of [`WORK`] what it was.
    pub fn restore_only(&self, work: &[&str]) {
        if work.is_empty() {
            return;
        }
        self.host(&format!(
            "for f in {}; do
                [ ! -e $f ] || find $f -xdev -mindepth 1 -delete
                if [ -e .snap/work/$f ]; then
                    mkdir -p $f; cp -a --reflink=auto .snap/work/$f/. $f/
                elif [ -e $f ]; then rmdir $f
                fi
             done",
            work.join(" ")
        ));
    }

    /// Returns a step's command line, with the document of the steps before it as a file.
    #[must_use]
    pub fn command(&self, step: usize) -> String {
        let Step { tool, args, .. } = &self.steps[step];
        match step {
            0 => format!("{tool} {args}"),
            _ => format!("{tool} --state .snap/document.json {args}"),
        }
    }

    /// The pipe from `step` on, as a person would start it again.
    #[must_use]
    pub fn rest(&self, step: usize) -> String {
        let first = self.command(step);
        let rest = self.steps[step + 1..].iter().map(|s| format!(" | {} {}", s.tool, s.args));
        // enter in a pipe is a stage; with --state it is a command.
        let first = match first.strip_prefix("enter --state .snap/document.json") {
            Some(args) => format!("enter {args} <.snap/document.json"),
            None => first,
        };
        first + &rest.collect::<String>()
    }

    /// Returns what the last run said.
    #[must_use]
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.lab.path().join(".trial/err")).unwrap_or_default()
    }

    /// What is there, without what is the harness's.
    #[must_use]
    pub fn look(&self) -> Tree {
        let mut all = tree(self.lab.path());
        all.retain(|path, _| {
            ![".trial", ".snap", ".etc"].iter().chain(&neighbours::NAMES).any(|own| path.starts_with(own))
        });
        all
    }

    /// No process, no mount, no loop device, no handler, no temporary file; and the neighbours are there.
    pub fn check_nothing_is_left(&self, when: &str) {
        let dir = self.lab.path();
        self.check_no_process(when, !self.on_the_host);
        let mounts = self.mounts();
        assert!(mounts.is_empty(), "{when}: mounts are left: {mounts:#?}");
        assert_eq!(loops(dir), Vec::<String>::new(), "{when}");
        assert_eq!(self.binfmt, binfmt(), "{when}");
        // Another test's tool may be at work, and about to lock or remove its own.
        soon_empty(when, "temporary files", Duration::from_millis(20), || {
            let mut left = drafts(self.who);
            left.retain(|path| !self.drafts.contains(path));
            left
        });
        self.neighbours.unharmed(when);
    }

    /// No process. Those that hold mounts of ours in other namespaces count where nothing is mounted on the host.
    pub fn check_no_process(&self, when: &str, with_namespaces: bool) {
        soon_empty(when, "processes", Duration::from_millis(1), || {
            let mut left = processes(self.lab.path(), with_namespaces);
            left.retain(|line| !self.neighbours.has(line));
            left
        });
    }

    /// Returns what was not there before, and is not there after the whole step either.
    #[must_use]
    pub fn strangers(&self, step: &Step, known: &[&Tree]) -> Vec<PathBuf> {
        let mut found = self.look();
        found.retain(|path, _| {
            !step.excused.iter().any(|e| path.starts_with(e)) && !known.iter().any(|k| k.contains_key(path))
        });
        found.into_keys().collect()
    }

    /// Asks the pacman of a repaired root whether each package has all its files; returns what it has to say.
    #[must_use]
    pub fn ask_pacman(&self) -> Option<String> {
        let ran = self.lab.sh("strap --quiet --state .trial/out.json pacman >.trial/asked.json \
             && enter --state .trial/asked.json -- pacman -Qkq");
        (ran.status != 0 || !ran.stdout.is_empty()).then(|| format!("pacman -Qk: {ran:?}"))
    }

    /// Runs a step's command again, which must work, and make what it makes when nobody disturbs it. Returns what is wrong.
    #[must_use]
    pub fn again(&self, command: &str, after: &Tree) -> Vec<String> {
        let status = self.run(command);
        if status != 0 {
            return vec![format!("the second run: {status}\n{}", self.stderr())];
        }
        let mut wrong = self.differs(after);
        if !wrong.is_empty() {
            wrong.insert(0, "after a second run:".into());
            wrong.push(self.stderr());
        }
        wrong
    }

    /// Returns in what the files now differ from what they should be.
    #[must_use]
    pub fn differs(&self, after: &Tree) -> Vec<String> {
        let now = self.look();
        let paths: BTreeSet<_> = after.keys().chain(now.keys()).collect();
        let mut wrong: Vec<_> = paths
            .into_iter()
            .map(|path| (path, after.get(path), now.get(path)))
            .filter(|(path, should, is)| !same(path, *should, *is))
            .map(|(path, should, is)| {
                let path = path.display();
                format!("'{path}' is {is:?}, and not {should:?}")
            })
            .collect();
        if wrong.len() > 5 {
            let n = wrong.len() - 5;
            wrong.truncate(5);
            wrong.push(format!("and {n} more"));
        }
        wrong
    }

    /// Returns the mounts on the host below the laboratory.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        let mut mounts = lab::Host::look().mounts_below(self.lab.path());
        let theirs = self.lab.path().join(neighbours::NAMES[0]);
        mounts.retain(|at| !Path::new(at).starts_with(&theirs));
        mounts
    }

    /// Runs `mkroot --host` to its end; returns what is mounted then.
    pub fn mount(&self) -> Vec<String> {
        let status = self.run(&self.command(0));
        assert_eq!(status, 0, "{}", self.stderr());
        self.host("cp .trial/out.json .snap/document.json");
        let mounts = self.mounts();
        assert!(mounts.len() >= 8, "{mounts:?}");
        mounts
    }

    /// Takes down what is mounted, as a person would who has nothing but the directory.
    pub fn unmount(&self, when: &str) {
        let ran = self.lab.sh("unmount --new --quiet root");
        assert_eq!(ran.status, 0, "{when}: {ran:?}");
        assert_eq!(ran.stderr, "", "{when}");
        assert_eq!(self.mounts(), Vec::<String>::new(), "{when}");
    }
}

/// A process that lives in the root, and ends when it is asked to.
#[derive(Debug)]
pub struct Tenant(Child);

impl Tenant {
    /// Starts it, and waits until it is there.
    #[must_use]
    pub fn new(bench: &Bench) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", "import os, signal; os.chroot('root'); os.chdir('/'); print(flush=True); signal.pause()"])
            .current_dir(bench.lab.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child)
    }

    /// Whether it has not ended yet.
    pub fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended, by SIGTERM or SIGKILL and nothing else.
    pub fn ended(mut self, when: &str) {
        if self.lives() {
            let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
            let ended = wait(&mut [PollFd::new(&pidfd, PollFlags::IN)], PATIENCE);
            assert!(ended, "{when}: what lives in the root lives on");
        }
        let by = self.0.wait().unwrap().signal();
        assert!(matches!(by, Some(9 | 15)), "{when}: ended by {by:?}");
    }
}

/// Says whether a file is what it should be. A log, a date and a cache may differ.
#[must_use]
pub fn same(path: &Path, should: Option<&File>, is: Option<&File>) -> bool {
    let (Some(should), Some(is)) = (should, is) else {
        return path.starts_with("packages") || path == Path::new(KILLED);
    };
    let any_size = ["root/var/log/pacman.log", "root/etc/pacman.d/gnupg", "root.strapline/gnupg", "cache"]
        .iter()
        .any(|p| path.starts_with(p));
    should.mode == is.mode && should.owner == is.owner && (any_size || should.size == is.size)
}

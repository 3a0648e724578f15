//! SIGKILL of every tool at many moments: nothing may be left, and the same pipe must then go on.
//!
//! Each step is first run to its end, which says how long it takes and what it makes. Then it is killed at moments that
//! are spread over that time. The moments are pseudo-random from a fixed seed; a failure says which one it was.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strapline_tests::{Lab, Mirror, Server, Who, lab};

/// How often each tool is killed, as each user.
const MOMENTS: usize = 50;

/// How long the kernel may take to end the namespaces of a tool that is no more.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is installed: little, but with a scriptlet (bash's) and two packages that come before any shell.
const PACKAGES: &str = "filesystem bash";

// -- Moments ----------------------------------------------------------------------------------------------------------

/// Marsaglia's xorshift: the same moments in every run.
#[derive(Debug)]
struct Moments(u64);

impl Moments {
    fn seeded(name: &str) -> Self {
        // FNV-1a: any number that is not 0 and differs from tool to tool.
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        }))
    }

    /// Returns a moment before `end`.
    fn before(&mut self, end: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        #[allow(clippy::cast_precision_loss, reason = "any fraction will do")]
        let fraction = (self.0 >> 11) as f64 / (1u64 << 53) as f64;
        end.mul_f64(fraction)
    }
}

/// The moments of one tool: each falls in a run, or does not count. A run that ended before its moment says that runs
/// take less time now than they did.
#[derive(Debug)]
struct Killing {
    name: String,
    moments: Moments,
    duration: Duration,
    tries: usize,
    killed: usize,
}

impl Killing {
    fn new(name: &str, duration: Duration) -> Self {
        Self {
            name: name.to_owned(),
            moments: Moments::seeded(name),
            duration,
            tries: 0,
            killed: 0,
        }
    }

    /// Runs and kills; returns a text that says when that was. `None` when all moments are over.
    fn next(&mut self, ready: impl FnOnce() -> Ready) -> Option<String> {
        if self.killed == MOMENTS {
            return None;
        }
        self.tries += 1;
        assert!(
            self.tries <= 4 * MOMENTS,
            "{}: {} of {} runs ended before they were killed",
            self.name,
            self.tries - self.killed,
            self.tries
        );
        let moment = self.moments.before(self.duration);
        let when = format!(
            "{}, try {}: {moment:?} of {:?}",
            self.name, self.tries, self.duration
        );
        match ready().run(Some(moment)) {
            End::Killed => self.killed += 1,
            End::Itself(0, time) => self.duration = (self.duration + time) / 2,
            end => panic!("{when}: {end:?}"),
        }
        Some(when)
    }
}

impl std::fmt::Display for Killing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: killed {} times within {:?}",
            self.name, self.killed, self.duration
        )
    }
}

/// Waits until something happens on `fds`, or the time is over; says which.
fn wait(fds: &mut [PollFd<'_>], time: Duration) -> bool {
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

// -- One run of one tool ----------------------------------------------------------------------------------------------

/// A tool that waits to be started: its user, its directory and its files are what they will be, and only execve(2) is
/// left to do.
struct Ready(Child);

/// How a run ended.
#[derive(Debug)]
enum End {
    /// By itself: with this status, after this time.
    Itself(i32, Duration),
    /// By our SIGKILL.
    Killed,
}

impl Ready {
    fn new(lab: &Lab, command: &str) -> Self {
        let script =
            format!("echo; read -r go; exec {command} </dev/null >.trial/out.json 2>.trial/err");
        let mut child = lab
            .command("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "\n", "the shell before '{command}'");
        Self(child)
    }

    /// Starts it, and kills it after that time, where it still runs.
    fn run(mut self, kill: Option<Duration>) -> End {
        let pid = Pid::from_child(&self.0);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut stdin = self.0.stdin.take().unwrap();
        stdin.write_all(b"\n").unwrap();
        let begin = Instant::now();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let ended = wait(&mut fds, kill.unwrap_or(Duration::from_secs(120)));
        let time = begin.elapsed();
        if !ended {
            pidfd_send_signal(pidfd.as_fd(), Signal::KILL).unwrap();
        }
        let status = self.0.wait().unwrap();
        match status.signal() {
            Some(9) if !ended => End::Killed,
            Some(n) => panic!("ended by signal {n}"),
            None => End::Itself(status.code().unwrap(), time),
        }
    }
}

/// What a file is, as far as a second run must make it the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    mode: u32,
    owner: (u32, u32),
    size: u64,
}

type Tree = BTreeMap<PathBuf, File>;

/// Returns everything at or below `dir`, by its path from there. Sizes are only those of regular files. A name that is
/// a new key's fingerprint in every run is called by its number.
fn tree(dir: &Path) -> Tree {
    fn walk(at: &Path, called: &Path, into: &mut Tree) {
        let mut names: Vec<_> = fs::read_dir(at)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
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
                size: if kind.is_file() { meta.len() } else { 0 },
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
fn processes(dir: &Path, with_namespaces: bool) -> Vec<String> {
    let mut found = lab::processes_below(dir);
    if !with_namespaces {
        return found;
    }
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let text = dir.to_string_lossy();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        // What cannot be read has ended.
        if fs::read_link(path.join("ns/mnt")).is_ok_and(|ns| ns != own)
            && fs::read_to_string(path.join("mountinfo")).is_ok_and(|m| m.contains(&*text))
        {
            found.push(format!("{} has mounts", path.display()));
        }
    }
    found
}

/// Returns the loop devices whose file is below `dir`.
fn loops(dir: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let file = |path: PathBuf| fs::read_to_string(path.join("loop/backing_file")).ok();
    devices
        .filter_map(|d| file(d.path()))
        .filter(|f| Path::new(f.trim()).starts_with(dir))
        .collect()
}

fn binfmt() -> Vec<String> {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter();
    let names = entries.flatten().flatten().map(|e| e.file_name());
    let mut names: Vec<_> = names.map(|n| n.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// pacman's own lock, which a killed one leaves, and what it becomes where it is not the repairing run that finds it.
/// Both are gone after the next strap.
const LOCK: &str = "root/var/lib/pacman/db.lck";
const KILLED: &str = "root/var/lib/pacman/db.lck.killed";

// -- The bench --------------------------------------------------------------------------------------------------------

/// One step of the pipe.
struct Step {
    tool: &'static str,
    args: String,
    /// Whether it changes the root, so that every trial needs it as it was.
    changes: bool,
    /// Below which a killed run may leave what it had begun: somebody else's files, whose next run repairs them.
    excused: &'static [&'static str],
    /// What a killed run may leave under a name of its own, and the next one takes away: a directory cannot be without a
    /// name (as a file can, `O_TMPFILE`) until it takes the place of another.
    drafts: &'static [&'static str],
    /// How many killed runs are followed by one that must work. Each is, where it costs little.
    again: usize,
}

/// A laboratory with a whole pipe in it, and what its files were before and after each step.
struct Bench {
    lab: Lab,
    who: Who,
    steps: Vec<Step>,
    binfmt: Vec<String>,
    _server: Server,
}

/// What trials change. `.trial` has what a run prints; all else in the laboratory is the harness's.
const WORK: [&str; 4] = ["root", "root.strapline", "cache", "packages"];

impl Bench {
    fn new(who: Who, options: &str) -> Self {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        let server = Server::of(&mirror.www());
        let (preset, url) = (mirror.preset(), server.url().to_owned());
        let step = |tool, args: String| Step {
            tool,
            args,
            changes: true,
            excused: &[],
            drafts: &[],
            again: 1,
        };
        let steady = |tool, args: &str| Step {
            changes: false,
            ..step(tool, args.into())
        };
        let steps = vec![
            step(
                "mkroot",
                format!("root {options} --arch x86_64 --distro {}", preset.display()),
            ),
            Step {
                excused: &["cache/partial"],
                ..step(
                    "fetch-pacman",
                    format!("--server {url}/archlinuxcn/x86_64 --cache-dir $PWD/cache"),
                )
            },
            step(
                "mkconf",
                format!("--server '{url}/$arch/$repo' --cache-dir $PWD/packages"),
            ),
            Step {
                excused: &["packages", "root/var/lib/pacman/sync", LOCK, KILLED],
                drafts: &["root/etc/pacman.d/gnupg.new"],
                again: 2,
                ..step("keyring", String::new())
            },
            Step {
                excused: &["packages", "root"],
                again: 5,
                ..step("strap", PACKAGES.into())
            },
            // A file whose name is taken has another for a moment, until it takes its place.
            Step {
                drafts: &[
                    "root/etc/.fstab.new",
                    "root/etc/.hosts.new",
                    "root/etc/.shadow.new",
                ],
                ..step("configure", "--hostname alarm --fstab".into())
            },
            // A daemon is left at the end, which must go, too.
            steady(
                "enter",
                "-- bash -c '(exec 3<> <(:); read -t 100 -u 3 line) & for ((i = 0; i < 20000; i++)); do :; done'",
            ),
            steady("reap", ""),
            steady("unmount", ""),
        ];
        let out = lab.sh("mkdir .trial .snap");
        assert_eq!(out.status, 0, "{out:?}");
        Self {
            lab,
            who,
            steps,
            binfmt: binfmt(),
            _server: server,
        }
    }

    fn place(&self, tool: &str) -> usize {
        self.steps.iter().position(|s| s.tool == tool).unwrap()
    }

    /// Runs the steps before `tool`, each to its end, and keeps what they made.
    fn up_to(&self, tool: &str) {
        let place = self.place(tool);
        for i in 0..place {
            match Ready::new(&self.lab, &self.command(i)).run(None) {
                End::Itself(0, _) => self.host("cp .trial/out.json .snap/document.json"),
                end => panic!("{}: {end:?}\n{}", self.steps[i].tool, self.stderr()),
            }
        }
        self.keep();
    }

    /// Runs a script as root of the host.
    fn host(&self, script: &str) {
        let out = Command::new("sh")
            .args(["-ec", script])
            .current_dir(self.lab.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{script}: {out:?}");
    }

    /// Keeps the files as they are now.
    fn keep(&self) {
        self.host(&format!(
            "rm -rf .snap/work; mkdir .snap/work
             for f in {}; do [ ! -e $f ] || cp -a --reflink=auto $f .snap/work/; done",
            WORK.join(" ")
        ));
    }

    /// Makes the files what they were when they were kept. The root stays the same directory, as documents know it.
    fn restore(&self) {
        self.host(&format!(
            "for f in {}; do
                [ ! -e $f ] || find $f -xdev -mindepth 1 -delete
                if [ -e .snap/work/$f ]; then
                    mkdir -p $f; cp -a --reflink=auto .snap/work/$f/. $f/
                elif [ -e $f ]; then rmdir $f
                fi
             done",
            WORK.join(" ")
        ));
    }

    fn command(&self, step: usize) -> String {
        let Step { tool, args, .. } = &self.steps[step];
        match step {
            0 => format!("{tool} {args}"),
            _ => format!("{tool} --state .snap/document.json {args}"),
        }
    }

    /// The pipe from `step` on, as a person would start it again.
    fn rest(&self, step: usize) -> String {
        let first = self.command(step);
        let rest = self.steps[step + 1..]
            .iter()
            .map(|s| format!(" | {} {}", s.tool, s.args));
        // enter in a pipe is a stage; with --state it is a command.
        let first = match first.strip_prefix("enter --state .snap/document.json") {
            Some(args) => format!("enter {args} <.snap/document.json"),
            None => first,
        };
        first + &rest.collect::<String>()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.lab.path().join(".trial/err")).unwrap_or_default()
    }

    /// What is there, without what is the harness's.
    fn look(&self) -> Tree {
        let mut all = tree(self.lab.path());
        all.retain(|path, _| {
            ![".trial", ".snap", ".etc"]
                .iter()
                .any(|own| path.starts_with(own))
        });
        all
    }

    /// Kills `tool` at all its moments. The steps before it have run.
    fn kill(&self, tool: &str) {
        let place = self.place(tool);
        let step = &self.steps[place];
        let before = self.look();
        let (duration, after) = self.measure(place);
        let name = format!("{tool} as {:?}", self.who);
        let mut killing = Killing::new(&name, duration);
        let (mut left, mut wrong) = (0, Vec::new());
        let ready = || {
            if step.changes {
                self.restore();
            }
            Ready::new(&self.lab, &self.command(place))
        };
        while let Some(when) = killing.next(ready) {
            self.check_nothing_is_left(&when);
            let (drafts, strangers): (Vec<_>, Vec<_>) = self
                .strangers(step, &[&before, &after])
                .into_iter()
                .partition(|path| step.drafts.iter().any(|d| path.starts_with(d)));
            left += usize::from(!drafts.is_empty());
            let mut found: Vec<_> = strangers
                .iter()
                .map(|path| format!("'{}' is left", path.display()))
                .collect();
            if !drafts.is_empty() || killing.tries.is_multiple_of(step.again) {
                found.extend(self.again(place, &after));
                if tool == "strap" && killing.tries.is_multiple_of(25) {
                    found.extend(self.ask_pacman());
                }
            }
            wrong.extend(found.into_iter().map(|what| format!("{when}: {what}")));
        }
        assert!(
            wrong.is_empty(),
            "{killing}, {} things are wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        if step.changes {
            ready().run(Some(duration / 2));
            self.check_nothing_is_left(&name);
        }
        let rest = self.lab.sh(&self.rest(place));
        assert_eq!(rest.status, 0, "{name}, the rest of the pipe: {rest:?}");
        assert_eq!(rest.document().get("error"), None, "{name}");
        let now = self.look();
        let locks = [LOCK, KILLED].map(|lock| now.contains_key(Path::new(lock)));
        assert_eq!(locks, [false; 2], "{name}: a lock is left");
        let drafts = match left {
            0 => String::new(),
            n => format!(" but {n} drafts, which the second run took away"),
        };
        eprintln!("{killing}, nothing left{drafts}");
    }

    /// Runs a step to its end, and returns how long that takes and what is then there.
    fn measure(&self, step: usize) -> (Duration, Tree) {
        let mut times = Vec::new();
        let mut after = Tree::new();
        for _ in 0..3 {
            if self.steps[step].changes {
                self.restore();
            }
            match Ready::new(&self.lab, &self.command(step)).run(None) {
                End::Itself(0, time) => times.push(time),
                end => panic!("{}: {end:?}\n{}", self.steps[step].tool, self.stderr()),
            }
            after = self.look();
        }
        times.sort();
        (times[1], after)
    }

    /// No process, no mount, no loop device, no handler.
    fn check_nothing_is_left(&self, when: &str) {
        let dir = self.lab.path();
        self.check_no_process(when, true);
        let mounts = lab::Host::look().mounts_below(dir);
        assert!(mounts.is_empty(), "{when}: mounts are left: {mounts:#?}");
        assert_eq!(loops(dir), Vec::<String>::new(), "{when}");
        assert_eq!(self.binfmt, binfmt(), "{when}");
    }

    fn check_no_process(&self, when: &str, with_namespaces: bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = processes(self.lab.path(), with_namespaces);
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < end,
                "{when}: processes are left: {left:#?}"
            );
            wait(&mut [], Duration::from_millis(1));
        }
    }

    /// Returns what was not there before, and is not there after the whole step either.
    fn strangers(&self, step: &Step, known: &[&Tree]) -> Vec<PathBuf> {
        let mut found = self.look();
        found.retain(|path, _| {
            !step.excused.iter().any(|e| path.starts_with(e))
                && !known.iter().any(|k| k.contains_key(path))
        });
        found.into_keys().collect()
    }

    /// Asks the pacman of a repaired root whether each package has all its files; returns what it has to say.
    fn ask_pacman(&self) -> Option<String> {
        let ran = self.lab.sh(
            "strap --quiet --state .trial/out.json pacman >.trial/asked.json \
             && enter --state .trial/asked.json -- pacman -Qkq",
        );
        (ran.status != 0 || !ran.stdout.is_empty()).then(|| format!("pacman -Qk: {ran:?}"))
    }

    /// Runs the same step again, which must work, and make what it makes when nobody kills it. Returns what is wrong.
    fn again(&self, place: usize, after: &Tree) -> Vec<String> {
        let end = Ready::new(&self.lab, &self.command(place)).run(None);
        if !matches!(end, End::Itself(0, _)) {
            return vec![format!("the second run: {end:?}\n{}", self.stderr())];
        }
        let now = self.look();
        let paths: BTreeSet<_> = after.keys().chain(now.keys()).collect();
        let mut wrong: Vec<_> = paths
            .into_iter()
            .map(|path| (path, after.get(path), now.get(path)))
            .filter(|(path, should, is)| !same(path, *should, *is))
            .map(|(path, should, is)| {
                let path = path.display();
                format!("after a second run '{path}' is {is:?}, and not {should:?}")
            })
            .collect();
        if wrong.len() > 5 {
            let n = wrong.len() - 5;
            wrong.truncate(5);
            wrong.push(format!("and {n} more"));
        }
        if !wrong.is_empty() {
            wrong.push(self.stderr());
        }
        wrong
    }
}

/// Says whether a file is what it should be. A log, a date and a cache may differ.
fn same(path: &Path, should: Option<&File>, is: Option<&File>) -> bool {
    let (Some(should), Some(is)) = (should, is) else {
        return path.starts_with("packages")
            || path.starts_with("cache/partial")
            || path == Path::new(KILLED);
    };
    let any_size = [
        "root/var/log/pacman.log",
        "root/etc/pacman.d/gnupg",
        "cache",
    ]
    .iter()
    .any(|p| path.starts_with(p));
    should.mode == is.mode && should.owner == is.owner && (any_size || should.size == is.size)
}

// -- The tests --------------------------------------------------------------------------------------------------------

fn kill_each(who: Who, tools: &[&str]) {
    let bench = Bench::new(who, "");
    bench.up_to(tools[0]);
    for (i, tool) in tools.iter().enumerate() {
        bench.kill(tool);
        if i + 1 == tools.len() {
            break;
        }
        // The next tool begins where this one leaves off.
        bench.restore();
        let place = bench.place(tool);
        let end = Ready::new(&bench.lab, &bench.command(place)).run(None);
        assert!(matches!(end, End::Itself(0, _)), "{tool}: {end:?}");
        // What enter prints on stdout is its command's.
        if *tool != "enter" {
            bench.host("cp .trial/out.json .snap/document.json");
        }
        bench.keep();
    }
}

#[test]
fn mkroot_and_fetch_pacman_as_root() {
    kill_each(Who::Root, &["mkroot", "fetch-pacman"]);
}

#[test]
fn mkroot_and_fetch_pacman_as_a_user() {
    kill_each(Who::User, &["mkroot", "fetch-pacman"]);
}

#[test]
fn mkconf_as_root() {
    kill_each(Who::Root, &["mkconf"]);
}

#[test]
fn mkconf_as_a_user() {
    kill_each(Who::User, &["mkconf"]);
}

#[test]
fn keyring_as_root() {
    kill_each(Who::Root, &["keyring"]);
}

#[test]
fn keyring_as_a_user() {
    kill_each(Who::User, &["keyring"]);
}

#[test]
fn strap_as_root() {
    kill_each(Who::Root, &["strap"]);
}

#[test]
fn strap_as_a_user() {
    kill_each(Who::User, &["strap"]);
}

#[test]
fn what_needs_a_finished_root_as_root() {
    kill_each(Who::Root, &["configure", "enter", "reap", "unmount"]);
}

#[test]
fn what_needs_a_finished_root_as_a_user() {
    kill_each(Who::User, &["configure", "enter", "reap", "unmount"]);
}

// -- Mounts and processes on the host ---------------------------------------------------------------------------------

impl Bench {
    fn mounts(&self) -> Vec<String> {
        lab::Host::look().mounts_below(self.lab.path())
    }

    /// Runs `mkroot --host` to its end; returns what is mounted then.
    fn mount(&self) -> Vec<String> {
        let end = Ready::new(&self.lab, &self.command(0)).run(None);
        assert!(
            matches!(end, End::Itself(0, _)),
            "{end:?} {}",
            self.stderr()
        );
        self.host("cp .trial/out.json .snap/document.json");
        let mounts = self.mounts();
        assert!(mounts.len() >= 8, "{mounts:?}");
        mounts
    }

    /// Takes down what is mounted, as a person would who has nothing but the directory.
    fn unmount(&self, when: &str) {
        let ran = self.lab.sh("unmount --new --quiet root");
        assert_eq!(ran.status, 0, "{when}: {ran:?}");
        assert_eq!(ran.stderr, "", "{when}");
        assert_eq!(self.mounts(), Vec::<String>::new(), "{when}");
    }

    /// Runs a command to its end between `before` and `after`, a few times, and returns how long it takes.
    fn time(&self, command: &str, before: impl Fn(), after: impl Fn()) -> Duration {
        let mut times = Vec::new();
        for _ in 0..3 {
            before();
            match Ready::new(&self.lab, command).run(None) {
                End::Itself(0, time) => times.push(time),
                end => panic!("{command}: {end:?}\n{}", self.stderr()),
            }
            after();
        }
        times.sort();
        times[1]
    }
}

#[test]
fn mkroot_with_mounts_on_the_host_mounts_all_or_nothing() {
    let bench = Bench::new(Who::Root, "--host");
    bench.keep();
    let all = bench.mount();
    bench.unmount("unkilled");
    let command = bench.command(0);
    let duration = bench.time(&command, || bench.restore(), || bench.unmount("unkilled"));
    let mut killing = Killing::new("mkroot --host", duration);
    let mut mounted = 0;
    let ready = || {
        bench.restore();
        Ready::new(&bench.lab, &command)
    };
    while let Some(when) = killing.next(ready) {
        bench.check_no_process(&when, false);
        let mounts = bench.mounts();
        assert!(
            mounts.is_empty() || mounts == all,
            "{when}: a part is mounted: {mounts:#?}"
        );
        mounted += usize::from(!mounts.is_empty());
        // Mounted or not, it goes on from here.
        let end = Ready::new(&bench.lab, &command).run(None);
        assert!(
            matches!(end, End::Itself(0, _)),
            "{when}: the second run: {end:?}\n{}",
            bench.stderr()
        );
        assert_eq!(bench.mounts(), all, "{when}: after a second run");
        bench.unmount(&when);
    }
    bench.restore();
    Ready::new(&bench.lab, &command).run(Some(duration / 2));
    let rest = bench.lab.sh(&bench.rest(0));
    assert_eq!(rest.status, 0, "{rest:?}");
    bench.check_nothing_is_left("the whole pipe");
    eprintln!("{killing}, all was mounted {mounted} times, and never a part");
}

#[test]
fn unmount_goes_on_where_a_killed_one_ended() {
    let bench = Bench::new(Who::Root, "--host");
    let all = bench.mount();
    let command = bench.command(bench.place("unmount"));
    let remount = || {
        if bench.mounts().is_empty() {
            bench.mount();
        }
    };
    let duration = bench.time(&command, remount, || {
        assert_eq!(bench.mounts(), Vec::<String>::new());
    });
    let mut killing = Killing::new("unmount", duration);
    let mut part = 0;
    let ready = || {
        bench.mount();
        Ready::new(&bench.lab, &command)
    };
    while let Some(when) = killing.next(ready) {
        bench.check_no_process(&when, false);
        let mounts = bench.mounts();
        assert!(mounts.iter().all(|m| all.contains(m)), "{when}: {mounts:?}");
        part += usize::from(!mounts.is_empty() && mounts != all);
        let end = Ready::new(&bench.lab, &command).run(None);
        assert!(
            matches!(end, End::Itself(0, _)),
            "{when}: the second run: {end:?}\n{}",
            bench.stderr()
        );
        bench.check_nothing_is_left(&when);
    }
    eprintln!("{killing}, {part} times half way, nothing left after a second run");
}

/// A process that lives in the root, and ends when it is asked to.
struct Tenant(Child);

impl Tenant {
    fn new(bench: &Bench) -> Self {
        let mut child = Command::new("python3")
            .args([
                "-c",
                "import os, signal; os.chroot('root'); os.chdir('/'); print(flush=True); signal.pause()",
            ])
            .current_dir(bench.lab.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self(child)
    }

    /// Waits until it has ended, by SIGTERM or SIGKILL and nothing else.
    fn ended(mut self, when: &str) {
        if self.0.try_wait().unwrap().is_none() {
            let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
            let ended = wait(&mut [PollFd::new(&pidfd, PollFlags::IN)], PATIENCE);
            assert!(ended, "{when}: what lives in the root lives on");
        }
        let by = self.0.wait().unwrap().signal();
        assert!(matches!(by, Some(9 | 15)), "{when}: ended by {by:?}");
    }
}

#[test]
fn reap_goes_on_where_a_killed_one_ended() {
    let bench = Bench::new(Who::Root, "--host");
    bench.mount();
    let command = bench.command(bench.place("reap"));
    let tenant = std::cell::Cell::new(None);
    let duration = bench.time(
        &command,
        || tenant.set(Some(Tenant::new(&bench))),
        || tenant.take().unwrap().ended("unkilled"),
    );
    let mut killing = Killing::new("reap", duration);
    let mut before = 0;
    let ready = || {
        tenant.set(Some(Tenant::new(&bench)));
        Ready::new(&bench.lab, &command)
    };
    while let Some(when) = killing.next(ready) {
        let mut tenant = tenant.take().unwrap();
        before += usize::from(tenant.0.try_wait().unwrap().is_none());
        let end = Ready::new(&bench.lab, &command).run(None);
        assert!(
            matches!(end, End::Itself(0, _)),
            "{when}: the second run: {end:?}\n{}",
            bench.stderr()
        );
        tenant.ended(&when);
        bench.check_no_process(&when, false);
    }
    bench.unmount("at the end");
    eprintln!(
        "{killing}, {before} times before anybody had ended, nothing left after a second run"
    );
}

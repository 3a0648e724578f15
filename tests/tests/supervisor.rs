//! A supervisor of system calls: it sees every call of a list that a program and its descendants make, in order, and lets
//! each happen, fail, or be the caller's last.
//!
//! By seccomp_unotify(2) and not by ptrace(2): a tracer counts calls for each process by itself, takes part in who is
//! whose parent, and is felt by what sets parent-death signals and lives as PID 1. A filter is inherited through clone,
//! execve and set-user-ID programs, and one queue has the calls of all. That filter needs no `no_new_privs`, as root makes it.
//!
//! A filter stays with who takes it on, so that is the process that becomes the command, before it does.

use crate::faults::{self, Fault};
use libseccomp::{
    ScmpAction, ScmpFilterContext, ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags, ScmpSyscall, notify_id_valid,
    set_api,
};
use nix::sys::socket::{Shutdown, shutdown};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};
use strapline_tests::trial::{self, PATIENCE};
use strapline_tests::{Lab, bin_dir};

/// How long a tool may take that has met a fault.
const LIMIT: Duration = Duration::from_secs(120);

/// How long where that is another's program: pacman then goes on for ever in some places, and a person loses patience sooner.
/// libalpm reads `while (read(…) > 0 || errno == EINTR)`: once interrupted, it never sees the end of the file.
const LIMIT_OF_OTHERS: Duration = Duration::from_secs(60);

/// How long it may take to end a program that it runs, when it is asked to: after that it is asked again.
const GRACE: Duration = Duration::from_secs(30);

/// How often it is asked: the third signal has the program inside killed, see strap(8).
const ASKED: u32 = 3;

/// Which call it is: the same in every run of the same program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Who makes it: the program's name, and `:init` where it is PID 1 of a namespace, `:inside` where it is another there.
    pub(crate) who: String,
    /// Its name.
    pub(crate) name: String,
    /// How many of this name `who` had made before.
    pub(crate) before: usize,
}

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Which one it is.
    pub(crate) key: Key,
    /// Its path, or what its descriptor is.
    pub(crate) what: String,
    /// Whether the process is the one that was started.
    pub(crate) first: bool,
    /// Whether it is a program under test.
    pub(crate) ours: bool,
    /// Its arguments.
    pub(crate) args: [u64; 6],
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Key { who, name, before } = &self.key;
        write!(f, "{who}: {name} {} ({})", before + 1, self.what)
    }
}

/// What came of a supervised run.
#[derive(Debug)]
pub(crate) struct Run {
    /// The exit status; 128 + n for signal n.
    pub(crate) status: i32,
    /// The calls in their order, without those that nothing is done to.
    pub(crate) calls: Vec<Call>,
    /// The call that a fault was for.
    pub(crate) hit: Option<Call>,
    /// How often it was sent a SIGINT, as a fault had one of the programs that it runs go on for ever: pacman may use the
    /// processor in a loop, which no tool can tell from work. A person would press Ctrl-C, and so does the supervisor.
    pub(crate) asked: u32,
    /// What outlived it by more than [`PATIENCE`], or had to be stopped.
    pub(crate) left: Option<String>,
}

/// A program that runs under a filter.
struct Supervised {
    child: Child,
    pidfd: OwnedFd,
    listener: OwnedFd,
    bin: PathBuf,
    begun: bool,
    counts: BTreeMap<(String, String), usize>,
    run: Run,
}

/// Runs a command to its end, and that of all that it starts. Every call of a program below `bin` is put to `decide`, and
/// those of programs that it starts.
fn run(command: &Command, bin: &Path, decide: &mut dyn FnMut(&Call) -> Option<Fault>) -> Run {
    // libseccomp asks the kernel what it can only where it loads a filter; notifications are its level 6 (Linux 5.0).
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_api(6).expect("libseccomp 2.5"));
    let (child, listener) = start(command);
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a child");
    let mut supervised = Supervised {
        child,
        pidfd,
        listener,
        bin: bin.to_owned(),
        begun: false,
        counts: BTreeMap::new(),
        run: Run { status: 0, calls: Vec::new(), hit: None, asked: 0, left: None },
    };
    supervised.serve(decide);
    supervised.run
}

/// Runs a tool of a laboratory with its arguments, as [`trial::Bench::run`] does, and puts its calls to `decide`.
pub(crate) fn run_tool(lab: &Lab, command: &str, decide: &mut dyn FnMut(&Call) -> Option<Fault>) -> Run {
    let mut shell = trial::command(lab, "sh");
    shell.args(["-c", &trial::redirected(command)]);
    run(&shell, &bin_dir(), decide)
}

/// What tells [`takes_on_the_filter`] the command that it becomes: a JSON array of words.
const BECOME: &str = "STRAPLINE_TORTURE_BECOME";

/// Starts a command with the filter: as this very program, which takes that on and then becomes the command. A thread of
/// ours could have it and start the command, too, but fork(3) holds locks that the supervisor needs to answer it.
fn start(command: &Command) -> (Child, OwnedFd) {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_str().expect("UTF-8"))
        .collect();
    let (mut ours, theirs) = UnixStream::pair().expect("a socket");
    let mut helper = Command::new(std::env::current_exe().expect("this program has a path"));
    helper
        .args(["--ignored", "--exact", "supervisor::takes_on_the_filter"])
        .arg("--nocapture")
        .env(BECOME, serde_json::to_string(&words).expect("words"))
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => helper.env(name, value),
            None => helper.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        helper.current_dir(dir);
    }
    let child = helper.spawn().expect("this program runs");
    // Its end of the socket lives on in the command: what is waited for is that it is shut.
    drop(helper);
    ours.read_to_end(&mut Vec::new()).expect("a socket");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", child.id())).expect("a process");
    let raw = descriptors.flatten().find_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let name = entry.file_name().into_string().ok()?;
        link.to_string_lossy().contains("seccomp notify").then(|| name.parse().ok())?
    });
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a child");
    let raw = raw.expect("a process that has taken on the filter");
    let listener = pidfd_getfd(pidfd, raw, PidfdGetfdFlags::empty()).expect("root may");
    (child, listener)
}

/// No test: what a supervised process is before it becomes the command.
#[test]
#[ignore = "the beginning of a supervised process"]
fn takes_on_the_filter() {
    let words = std::env::var(BECOME).expect("only the supervisor runs this");
    let words: Vec<String> = serde_json::from_str(&words).expect("words");
    let mut context = ScmpFilterContext::new(ScmpAction::Allow).expect("libseccomp");
    context.set_ctl_nnp(false).expect("libseccomp");
    for name in faults::calls() {
        let call = ScmpSyscall::from_name(name).unwrap_or_else(|_| panic!("no call {name}"));
        context.add_rule(ScmpAction::Notify, call).expect("libseccomp");
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_remove(BECOME);
    context.load().expect("root may filter");
    // From here on every call of the list waits for the supervisor, who waits for this one, which is not.
    shutdown(0, Shutdown::Both).expect("a socket");
    panic!("running {words:?}: {}", command.exec());
}

/// Says whether a notification waits, whether the last process with the filter has ended, and whether one of `others` can
/// be read.
fn ready(listener: &OwnedFd, others: &[&OwnedFd], time: Duration) -> (bool, bool, bool) {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)));
    let time = Timespec::try_from(time).expect("a short time");
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => panic!("poll: {e}"),
    }
    let events = fds[0].revents();
    let other = fds[1..].iter().any(|fd| !fd.revents().is_empty());
    (events.contains(PollFlags::IN), events.contains(PollFlags::HUP), other)
}

/// Takes a request. `None` where its caller has meanwhile been killed.
fn receive(listener: &OwnedFd) -> Option<ScmpNotifReq> {
    ScmpNotifReq::receive(listener.as_raw_fd()).ok()
}

fn is_valid(listener: &OwnedFd, request: &ScmpNotifReq) -> bool {
    notify_id_valid(listener.as_raw_fd(), request.id).is_ok()
}

fn proceed(listener: &OwnedFd, request: &ScmpNotifReq) {
    respond(listener, ScmpNotifResp::new_continue(request.id, ScmpNotifRespFlags::empty()));
}

/// Answers. That the caller is no more (ENOENT) is all that can be wrong, and then nobody waits.
fn respond(listener: &OwnedFd, response: ScmpNotifResp) {
    drop(response.respond(listener.as_raw_fd()));
}

impl Supervised {
    /// Serves until the last process with the filter has ended.
    fn serve(&mut self, decide: &mut dyn FnMut(&Call) -> Option<Fault>) {
        let begin = Instant::now();
        let mut ended: Option<Instant> = None;
        loop {
            let wait = Duration::from_millis(200);
            let (call, over, exited) = if ended.is_some() {
                ready(&self.listener, &[], wait)
            } else {
                ready(&self.listener, &[&self.pidfd], wait)
            };
            // First of all: who calls for ever would never let us get there.
            let others = self.run.hit.as_ref().is_some_and(|call| !call.ours);
            let limit = if others { LIMIT_OF_OTHERS } else { LIMIT };
            if ended.is_none() && begin.elapsed() > limit + GRACE * self.run.asked {
                self.lose_patience(others);
            }
            if ended.is_some_and(|at| at.elapsed() > PATIENCE) {
                self.run.left = Some("a process lives on after the tool".into());
                return;
            }
            if call && let Some(request) = receive(&self.listener) {
                self.answer(&request, decide);
                continue;
            }
            if exited && ended.is_none() {
                let status = self.child.wait().expect("our child");
                let by = status.signal().unwrap_or(0);
                self.run.status = status.code().unwrap_or(128 + by);
                ended = Some(Instant::now());
            }
            if over && ended.is_some() {
                return;
            }
        }
    }

    fn kill_first(&self) {
        pidfd_send_signal(&self.pidfd, Signal::KILL).expect("our child");
    }

    /// A fault of another's program may be too much for that; one of ours must be enough to end.
    fn lose_patience(&mut self, others: bool) {
        if self.run.left.is_some() {
            return;
        }
        if others && self.run.asked < ASKED {
            self.run.asked += 1;
            pidfd_send_signal(&self.pidfd, Signal::INT).expect("our child");
            return;
        }
        let asked = self.run.asked;
        self.run.left = Some(format!("it hangs: killed after {asked} SIGINT"));
        self.kill_first();
    }

    fn answer(&mut self, request: &ScmpNotifReq, decide: &mut dyn FnMut(&Call) -> Option<Fault>) {
        let call = self.look(request);
        let valid = is_valid(&self.listener, request);
        let Some(call) = call.filter(|_| valid) else {
            proceed(&self.listener, request);
            return;
        };
        let fault = decide(&call);
        self.run.calls.push(call.clone());
        match fault {
            None => proceed(&self.listener, request),
            Some(fault) => {
                self.run.hit = Some(call);
                self.inflict(request, fault);
            }
        }
    }

    fn inflict(&self, request: &ScmpNotifReq, fault: Fault) {
        match fault {
            Fault::Error(errno) => respond(
                &self.listener,
                ScmpNotifResp::new_error(request.id, -(errno as i32), ScmpNotifRespFlags::empty()),
            ),
            // Its call is never answered, so that it is never made.
            Fault::Kill => {
                // A request has a thread's id.
                let status = fs::read_to_string(format!("/proc/{}/status", request.pid));
                let process = status.ok().and_then(|text| field(&text, "Tgid:"));
                let pid = process.and_then(Pid::from_raw);
                let pidfd = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
                // Still the same process, as the request is still valid.
                if let Some(Ok(pidfd)) = pidfd
                    && is_valid(&self.listener, request)
                {
                    pidfd_send_signal(&pidfd, Signal::KILL).expect("root may");
                }
            }
            Fault::KillTool => {
                self.kill_first();
                proceed(&self.listener, request);
            }
        }
    }

    /// Finds out what a request is. `None` where nothing is done to it: before the tool begins, and what the dynamic loader
    /// does before it.
    fn look(&mut self, request: &ScmpNotifReq) -> Option<Call> {
        let proc = PathBuf::from(format!("/proc/{}", request.pid));
        let exe = fs::read_link(proc.join("exe")).ok()?;
        let status = fs::read_to_string(proc.join("status")).ok()?;
        let first = field(&status, "Tgid:") == i32::try_from(self.child.id()).ok();
        // Not what lies below: the supervisor is there, and what it starts begins as that.
        let ours = exe.parent() == Some(&self.bin);
        self.begun |= first && ours;
        if !self.begun {
            return None;
        }
        let name = request.data.syscall.get_name().ok()?;
        let what = describe(&proc, &name, &request.data.args);
        if is_loader(&what) {
            return None;
        }
        let inside = status
            .lines()
            .find_map(|l| l.strip_prefix("NSpid:"))
            .map(|l| l.split_whitespace().skip(1).last().unwrap_or_default());
        let place = match inside {
            Some("") | None => "",
            Some("1") => ":init",
            Some(_) => ":inside",
        };
        let program = exe.file_name().unwrap_or_default().to_string_lossy();
        let who = format!("{program}{place}");
        let count = self.counts.entry((who.clone(), name.clone())).or_default();
        let before = *count;
        *count += 1;
        Some(Call { key: Key { who, name, before }, what, first, ours, args: request.data.args })
    }
}

/// Returns a number of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// Says what a call is about: the path that it names, or what its descriptor is.
fn describe(proc: &Path, name: &str, args: &[u64; 6]) -> String {
    match faults::subject(name) {
        faults::Subject::Path(i) => text_at(proc, args[i]).unwrap_or_default(),
        faults::Subject::Descriptor(i) => fs::read_link(proc.join(format!("fd/{}", args[i])))
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        faults::Subject::None => String::new(),
    }
}

/// Reads a string in another process's memory.
fn text_at(proc: &Path, address: u64) -> Option<String> {
    let memory = File::open(proc.join("mem")).ok()?;
    let mut buffer = [0; 256];
    // A string may end at the end of what is mapped.
    let n = memory.read_at(&mut buffer, address).or_else(|_| memory.read_at(&mut buffer[..16], address)).ok()?;
    let text = buffer[..n].split(|b| *b == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Whether this is the dynamic loader's: what fails there is not a program yet.
fn is_loader(what: &str) -> bool {
    what.ends_with(".so") || what.contains(".so.") || what.starts_with("/etc/ld.so")
}

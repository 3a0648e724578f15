//! SIGKILL of every tool at many moments: nothing may be left, and the same pipe must then go on.
//!
//! Each step is first run to its end, which says what it makes and how many system calls it and its programs make. Then it is
//! killed when the n-th of them comes. The numbers are pseudo-random from a fixed seed; a failure says which one it was.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use crate::faults::Fault;
use crate::supervisor::{self, Run};
use std::fs;
use std::path::Path;
use strapline_tests::trial::{Bench, KILLED, LOCK, Tenant};
use strapline_tests::{Lab, Who, small, tier};

/// How often each tool is killed, as each user.
fn moments() -> usize {
    tier::times(3, 50)
}

// -- Moments ----------------------------------------------------------------------------------------------------------

/// The moments of one tool: each falls in a run, or does not count, as programs do not make the same calls each time.
#[derive(Debug)]
struct Killing<'a> {
    bench: &'a Bench,
    name: String,
    command: String,
    /// The state of Marsaglia's xorshift: the same moments in every run.
    random: u64,
    calls: usize,
    tries: usize,
    killed: usize,
}

impl<'a> Killing<'a> {
    /// Runs the command once, which must end well, and counts its calls.
    fn new(bench: &'a Bench, name: &str, command: &str) -> Self {
        let run = supervisor::run_tool(&bench.lab, command, &mut |_| None);
        assert_eq!(run.status, 0, "{name}: {}", bench.stderr());
        Self {
            bench,
            name: name.to_owned(),
            command: command.to_owned(),
            // FNV-1a: any number that is not 0 and differs from tool to tool.
            random: name
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)),
            calls: run.calls.len(),
            tries: 0,
            killed: 0,
        }
    }

    /// Runs it, and kills the tool at one of its calls or its programs'.
    fn run(&self, call: usize) -> Run {
        let mut before = 0;
        let run = supervisor::run_tool(&self.bench.lab, &self.command, &mut |_| {
            before += 1;
            (before == call + 1).then_some(Fault::KillTool)
        });
        assert_eq!(run.left, None, "{}, call {call}", self.name);
        run
    }

    /// Runs and kills; returns a text that says when that was. `None` when all moments are over.
    fn next(&mut self) -> Option<String> {
        if self.killed == moments() {
            return None;
        }
        self.tries += 1;
        assert!(
            self.tries <= 4 * moments(),
            "{}: {} of {} runs ended before they were killed",
            self.name,
            self.tries - self.killed,
            self.tries
        );
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let call = usize::try_from(self.random % self.calls as u64).unwrap();
        let when = format!("{}, try {}: call {call} of {}", self.name, self.tries, self.calls);
        let status = self.run(call).status;
        match status {
            137 => self.killed += 1,
            0 => {}
            _ => panic!("{when}: {status}"),
        }
        Some(when)
    }

    /// Whether this was the last moment.
    fn is_over(&self) -> bool {
        self.killed == moments()
    }
}

impl std::fmt::Display for Killing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (killed, calls) = (self.killed, self.calls);
        write!(f, "{}: killed {killed} times within {calls} calls", self.name)
    }
}

// -- Killing ----------------------------------------------------------------------------------------------------------

/// Kills `tool` at all its moments. The steps before it have run.
fn kill(bench: &Bench, tool: &str) {
    let place = bench.place(tool);
    let step = &bench.steps[place];
    let before = bench.look();
    let name = format!("{tool} as {:?}", bench.who);
    let command = bench.command(place);
    // Twice: what only a first run does, does not count.
    assert_eq!(bench.run(&command), 0, "{name}: {}", bench.stderr());
    bench.restore_only(step.changes);
    let mut killing = Killing::new(bench, &name, &command);
    let after = bench.look();
    let (mut left, mut wrong) = (0, Vec::new());
    loop {
        bench.restore_only(step.changes);
        let Some(when) = killing.next() else {
            break;
        };
        bench.check_nothing_is_left(&when);
        let (drafts, strangers): (Vec<_>, Vec<_>) =
            bench.strangers(step, &[&before, &after]).into_iter().partition(|path| step.is_draft(path));
        left += usize::from(!drafts.is_empty());
        let mut found: Vec<_> = strangers.iter().map(|path| format!("'{}' is left", path.display())).collect();
        let last = killing.is_over();
        if !drafts.is_empty() || last || killing.tries.is_multiple_of(step.again) {
            found.extend(bench.again(&command, &after));
            if tool == "strap" && (last || killing.tries.is_multiple_of(25)) {
                found.extend(bench.ask_pacman());
            }
        }
        wrong.extend(found.into_iter().map(|what| format!("{when}: {what}")));
    }
    assert!(wrong.is_empty(), "{killing}, {} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
    if !step.changes.is_empty() {
        killing.run(killing.calls / 2);
        bench.check_nothing_is_left(&name);
    }
    let rest = bench.lab.sh(&bench.rest(place));
    assert_eq!(rest.status, 0, "{name}, the rest of the pipe: {rest:?}");
    assert_eq!(rest.document().get("error"), None, "{name}");
    let now = bench.look();
    let locks = [LOCK, KILLED].map(|lock| now.contains_key(Path::new(lock)));
    assert_eq!(locks, [false; 2], "{name}: a lock is left");
    let drafts = match left {
        0 => String::new(),
        n => format!(" but {n} drafts, which the second run took away"),
    };
    eprintln!("{killing}, nothing left{drafts}");
}

// -- The tests --------------------------------------------------------------------------------------------------------

fn kill_each(who: Who, options: &str, tools: &[&str]) {
    let mut bench = Bench::new(who, "x86_64", options);
    bench.up_to(tools[0]);
    for (i, tool) in tools.iter().enumerate() {
        kill(&bench, tool);
        if i + 1 == tools.len() {
            break;
        }
        // The next tool begins where this one leaves off.
        bench.restore();
        let status = bench.run(&bench.command(bench.place(tool)));
        assert_eq!(status, 0, "{tool}: {}", bench.stderr());
        // What enter prints on stdout is its command's.
        if *tool != "enter" {
            bench.host("cp .trial/out.json .snap/document.json");
        }
        bench.keep();
    }
}

/// All that makes and undoes. Two tests each, as two may run at once.
const PIPE: [&[&str]; 2] =
    [&["mkroot", "fetch-pacman", "mkconf", "keyring"], &["strap", "configure", "enter", "reap", "unmount"]];

#[test]
fn up_to_keyring_as_root() {
    kill_each(Who::Root, "", PIPE[0]);
}

#[test]
fn up_to_keyring_as_a_user() {
    kill_each(Who::User, "", PIPE[0]);
}

#[test]
fn strap_and_after_as_root() {
    kill_each(Who::Root, "", PIPE[1]);
}

#[test]
fn strap_and_after_as_a_user() {
    kill_each(Who::User, "", PIPE[1]);
}

#[test]
#[ignore = "soak: by day there is chroot::a_root_is_as_it_was_whoever_is_killed"]
fn up_to_keyring_in_mode_chroot() {
    kill_each(Who::Root, "--chroot", PIPE[0]);
}

#[test]
#[ignore = "soak: by day there is chroot::a_root_is_as_it_was_whoever_is_killed"]
fn strap_and_after_in_mode_chroot() {
    kill_each(Who::Root, "--chroot", PIPE[1]);
}

/// `pack` onto an archive that is there.
#[test]
fn an_archive_is_that_of_before_or_the_new_one() {
    let lab = Lab::new(Who::Root);
    let ran = lab.sh(
        "export SOURCE_DATE_EPOCH=1000000000; mkdir .trial tmp && mkroot root --arch $(uname -m) --distro archlinux --quiet >doc.json \
         && mkdir -p root/usr && head -c 16M /dev/urandom >root/usr/much && pack --state doc.json --quiet -o new.tar.gz",
    );
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let archive = |name: &str| fs::read(lab.path().join(name)).unwrap();
    let new = archive("new.tar.gz");
    let run = |kill: Option<usize>| {
        fs::write(lab.path().join("a.tar.gz"), "before").unwrap();
        let mut call = 0;
        supervisor::run_tool(&lab, "pack --state doc.json -o a.tar.gz", &mut |_| {
            call += 1;
            (Some(call) == kill).then_some(Fault::KillTool)
        })
    };
    let calls = run(None).calls.len();
    assert!(archive("a.tar.gz") == new);
    let mut killed = 0;
    for moment in 1..=moments() {
        let ran = run(Some(calls * moment / moments()));
        killed += usize::from(ran.status == 137);
        let is = archive("a.tar.gz");
        assert!(is == b"before" || is == new, "{moment}");
        // Between two system calls it may have a name of its own, which the next run takes away.
        let mut names = small::names(lab.path());
        names.retain(|name| name.contains(".tar.gz") && name != ".a.tar.gz.part");
        assert_eq!(names, ["a.tar.gz", "new.tar.gz"]);
    }
    assert!(killed > moments() / 2, "{killed}");
    assert_eq!(run(None).status, 0);
    assert!(!lab.path().join(".a.tar.gz.part").exists());
}

// -- Mounts and processes on the host ---------------------------------------------------------------------------------

#[test]
fn mkroot_with_mounts_on_the_host_mounts_all_or_nothing() {
    let bench = Bench::new(Who::Root, "x86_64", "--host");
    bench.keep();
    let all = bench.mount();
    bench.unmount("unkilled");
    bench.restore();
    let command = bench.command(0);
    let mut killing = Killing::new(&bench, "mkroot --host", &command);
    bench.unmount("unkilled");
    let mut mounted = 0;
    loop {
        bench.restore();
        let Some(when) = killing.next() else {
            break;
        };
        bench.check_no_process(&when, false);
        let mounts = bench.mounts();
        assert!(mounts.is_empty() || mounts == all, "{when}: a part is mounted: {mounts:#?}");
        mounted += usize::from(!mounts.is_empty());
        // Mounted or not, it goes on from here.
        let status = bench.run(&command);
        assert_eq!(status, 0, "{when}: the second run: {}", bench.stderr());
        assert_eq!(bench.mounts(), all, "{when}: after a second run");
        bench.unmount(&when);
    }
    killing.run(killing.calls / 2);
    // Where the killed one had mounted all, that is nobody's, and stays for a person to take down.
    let rest = bench.lab.sh(&bench.rest(0));
    assert_eq!(rest.status, 0, "{rest:?}");
    bench.unmount("after the whole pipe");
    bench.check_nothing_is_left("the whole pipe");
    eprintln!("{killing}, all was mounted {mounted} times, and never a part");
}

#[test]
fn unmount_goes_on_where_a_killed_one_ended() {
    let bench = Bench::new(Who::Root, "x86_64", "--host");
    let all = bench.mount();
    let command = bench.command(bench.place("unmount"));
    let mut killing = Killing::new(&bench, "unmount", &command);
    assert_eq!(bench.mounts(), Vec::<String>::new());
    let mut part = 0;
    loop {
        bench.mount();
        let Some(when) = killing.next() else {
            break;
        };
        bench.check_no_process(&when, false);
        let mounts = bench.mounts();
        assert!(mounts.iter().all(|m| all.contains(m)), "{when}: {mounts:?}");
        part += usize::from(!mounts.is_empty() && mounts != all);
        let status = bench.run(&command);
        assert_eq!(status, 0, "{when}: the second run: {}", bench.stderr());
        bench.check_nothing_is_left(&when);
    }
    bench.unmount("at the end");
    eprintln!("{killing}, {part} times half way, nothing left after a second run");
}

#[test]
fn reap_goes_on_where_a_killed_one_ended() {
    let bench = Bench::new(Who::Root, "x86_64", "--host");
    bench.mount();
    let command = bench.command(bench.place("reap"));
    let tenant = Tenant::new(&bench);
    let mut killing = Killing::new(&bench, "reap", &command);
    tenant.ended("unkilled");
    let mut before = 0;
    loop {
        let mut tenant = Tenant::new(&bench);
        let Some(when) = killing.next() else {
            assert_eq!(bench.run(&command), 0, "{}", bench.stderr());
            tenant.ended("at the end");
            break;
        };
        before += usize::from(tenant.lives());
        let status = bench.run(&command);
        assert_eq!(status, 0, "{when}: the second run: {}", bench.stderr());
        tenant.ended(&when);
        bench.check_no_process(&when, false);
    }
    bench.unmount("at the end");
    eprintln!("{killing}, {before} times before anybody had ended, nothing left after a second run");
}

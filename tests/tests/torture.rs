//! A fault at every system call: each tool is run once and its calls are counted; then it is run again for each call and each
//! thing that can go wrong with it, and for each call is killed there.
//!
//! After every one: no process, mount, loop device, handler or file is left, nothing outside is touched, an exit status of
//! 0 means that the work is done as ever, another one is in the table, with one document that says the same and one line
//! that says what failed; and the same command works again, and makes what it always makes.
//!
//! `make soak STRAPLINE_TORTURE=1` does them all, in days; a larger number every n-th. `make test` does a sample.
//! `STRAPLINE_TORTURE_TOOL=NAME,...` does these tools only.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use crate::faults::{self, Fault};
use crate::supervisor::{self, Call, Run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use strapline_tests::Who;
use strapline_tests::trial::{self, Bench, Step, Tenant, Tree};

/// The exit statuses of the suite.
const STATUSES: [i32; 8] = [64, 65, 69, 71, 74, 75, 77, 130];

/// What of the document is another in every run: times, and the directory that mkroot makes.
const CHANGING: [&str; 2] = ["steps", "root_id"];

/// One tool, in one mode.
struct Subject<'a> {
    bench: &'a Bench,
    step: &'a Step,
    name: String,
    /// The command line, as sh(1) reads it.
    command: String,
    /// Whether what comes out on stdout is a document.
    document: bool,
    /// What the calls of programs that the tool starts are worth: every how many-th point of theirs is taken; 0 for none.
    others: usize,
}

/// What a run that nobody disturbed made.
struct Good {
    before: Tree,
    after: Tree,
    document: Value,
    calls: Vec<Call>,
}

/// How a sweep went.
#[derive(Debug, Default)]
struct Score {
    injections: usize,
    /// How many of the runs ended well, said that they failed, and were killed.
    ends: [usize; 3],
    /// How many had to be asked to end: see [`Run::asked`].
    asked: usize,
    missed: usize,
    wrong: Vec<String>,
}

/// Returns every how many-th point is taken: never fewer than by day.
fn every(sample: usize) -> usize {
    match std::env::var("STRAPLINE_TORTURE") {
        Ok(n) => sample.min(n.parse().expect("STRAPLINE_TORTURE is a number")),
        Err(_) => sample,
    }
}

impl Subject<'_> {
    /// Runs it with a fault, or without one.
    fn run(&self, fault: Option<(&Call, Fault)>) -> Run {
        self.run_with(&mut |call| {
            fault
                // Threads may have made another call of this name first: then this point is not met.
                .filter(|(at, fault)| at.key == call.key && faults::of(call).contains(fault))
                .map(|(_, fault)| fault)
        })
    }

    /// Runs it, and puts every call to `decide`.
    fn run_with(&self, decide: &mut dyn FnMut(&Call) -> Option<Fault>) -> Run {
        supervisor::run_tool(&self.bench.lab, &self.command, decide)
    }

    fn restore(&self) {
        self.bench.restore_only(self.step.changes);
    }

    fn stdout(&self) -> String {
        let path = self.bench.lab.path().join(".trial/out.json");
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Runs it undisturbed. A second time, so that what only a first run does, does not count.
    fn good(&self) -> Good {
        let before = self.bench.look();
        let mut good = None;
        for _ in 0..2 {
            self.restore();
            let run = self.run(None);
            assert_eq!(run.status, 0, "{}: {}", self.name, self.bench.stderr());
            assert_eq!(run.left, None, "{}", self.name);
            self.bench.check_nothing_is_left(&self.name);
            good = Some(run);
        }
        Good {
            before,
            after: self.bench.look(),
            document: self.bench_document(),
            calls: good.map(|run| run.calls).unwrap_or_default(),
        }
    }

    fn bench_document(&self) -> Value {
        if !self.document {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout()).expect("a document")
    }

    /// Returns the faults of a run: of our own programs' calls all, of others' a few.
    fn points<'a>(&self, calls: &'a [Call], every: usize) -> Vec<(&'a Call, Fault)> {
        let all = |ours: bool| {
            let calls = calls.iter().filter(move |call| call.ours == ours);
            calls.flat_map(|call| faults::of(call).into_iter().map(move |fault| (call, fault)))
        };
        let mut points: Vec<_> = all(true).step_by(every).collect();
        if self.others > 0 {
            points.extend(all(false).step_by(every.saturating_mul(self.others)));
        }
        points
    }

    /// Does them all, and returns what is wrong.
    fn sweep(&self, sample: usize) -> Vec<String> {
        let good = self.good();
        let points = self.points(&good.calls, every(sample));
        let mut score = Score::default();
        for (n, (call, fault)) in points.iter().enumerate() {
            if n > 0 && n.is_multiple_of(100) {
                eprintln!("{}: {n} of {} points", self.name, points.len());
            }
            let when = format!("{}: {fault} at {call}", self.name);
            self.restore();
            let run = self.run(Some((call, *fault)));
            match &run.hit {
                Some(_) => score.injections += 1,
                None => score.missed += 1,
            }
            score.ends[match run.status {
                0 => 0,
                137 => 2,
                _ => 1,
            }] += 1;
            score.asked += usize::from(run.asked > 0);
            let wrong = self.wrong(&run, *fault, &good);
            if !wrong.is_empty() {
                let wrong = format!("{when}:\n    {}", wrong.join("\n    "));
                // At once: the whole may take hours.
                eprintln!("{wrong}");
                score.wrong.push(wrong);
            }
        }
        self.restore();
        let [well, said, killed] = score.ends;
        eprintln!(
            "{}: {} calls, {} injections ({well} made no difference, {said} were said, {killed} killed it, \
             {} had pacman go on for ever), {} runs without the call, {} leaks and lies",
            self.name,
            good.calls.len(),
            score.injections,
            score.asked,
            score.missed,
            score.wrong.len()
        );
        // reap looks at all processes of the host, and they come and go: so do its calls.
        if self.step.tool != "reap" && score.missed * 20 > points.len().max(20) {
            score.wrong.push(format!(
                "{}: {} of {} points were not met: runs differ too much",
                self.name,
                score.missed,
                points.len()
            ));
        }
        score.wrong
    }

    /// Returns what is wrong after a run.
    fn wrong(&self, run: &Run, fault: Fault, good: &Good) -> Vec<String> {
        let bench = self.bench;
        let mut wrong: Vec<_> = run.left.iter().cloned().collect();
        let (stdout, stderr) = (self.stdout(), bench.stderr());
        let clean = || bench.check_nothing_is_left("after it");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(clean)) {
            wrong.push(text(&*panic));
        }
        wrong.extend(self.strangers(good));
        let killed = run.status == 128 + 9;
        if killed {
            if fault != Fault::KillTool && !run.hit.as_ref().is_some_and(|call| call.first) {
                wrong.push("the tool died of it".into());
            }
        } else {
            wrong.extend(self.lies(run, fault, good, &stdout));
        }
        wrong.extend(bench.again(&self.command, &good.after));
        if !wrong.is_empty() {
            wrong.push(format!("exit status {}: {stderr}", run.status));
        }
        wrong
    }

    fn strangers(&self, good: &Good) -> Vec<String> {
        let all = self.bench.strangers(self.step, &[&good.before, &good.after]);
        all.into_iter()
            .filter(|path| !self.step.is_draft(path))
            .map(|path| format!("'{}' is left", path.display()))
            .collect()
    }

    /// Compares what a run says with what it did.
    fn lies(&self, run: &Run, fault: Fault, good: &Good, stdout: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let stderr = self.bench.stderr();
        if stderr.contains("panicked") {
            wrong.push("it panicked".into());
        }
        if run.status != 0 && !STATUSES.contains(&run.status) {
            wrong.push(format!("exit status {}", run.status));
        }
        if run.status == 0 {
            let hit = run.hit.as_ref().map_or("", |call| &call.key.name);
            if matches!(fault, Fault::Error(nix::errno::Errno::EIO)) && hit.ends_with("sync") {
                wrong.push("what is not on the disk counts as done".into());
            }
            // That a cache or a copy could not be written is a warning: the work is done, and the next run writes it.
            let warned = stderr.contains(": warning: writing '");
            let no_copy = ["writing the document's copy '", "reading '"]
                .iter()
                .any(|w| stderr.contains(&format!(": warning: {w}")));
            let excused = |what: &str| {
                warned && what.starts_with("'cache/") || no_copy && what.starts_with("'root.strapline/document.json")
            };
            wrong.extend(self.bench.differs(&good.after).into_iter().filter(|what| !excused(what)));
        } else if !(says_why(&stderr, self.step.tool) || run.asked > 0 && run.status == 130) {
            wrong.push("no line says what failed".into());
        }
        if self.document {
            wrong.extend(document_lies(run, good, stdout));
        }
        wrong
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a leak".into())
}

/// Whether one line is the tool's own, and neither a warning nor a hint: `tool: doing what: reason`.
fn says_why(stderr: &str, tool: &str) -> bool {
    stderr.lines().any(|line| {
        line.strip_prefix(tool)
            .and_then(|rest| rest.strip_prefix(": "))
            .is_some_and(|rest| rest.contains(": ") && !rest.starts_with("hint: ") && !rest.starts_with("warning: "))
    })
}

/// Compares the document with the exit status, and that of a success with that of other successes.
fn document_lies(run: &Run, good: &Good, stdout: &str) -> Vec<String> {
    let document: Value = match serde_json::from_str(stdout) {
        Ok(document) => document,
        // It is stdout itself that failed.
        Err(_) if run.status == 74 => return Vec::new(),
        Err(e) => return vec![format!("no document on stdout ({e}): «{stdout}»")],
    };
    if run.status == 74 {
        return Vec::new();
    }
    let exit = document["error"]["exit"].as_i64().unwrap_or(0);
    if exit != i64::from(run.status) {
        return vec![format!("exit status {} and {exit} in the document", run.status)];
    }
    let mut wrong = Vec::new();
    if run.status == 0
        && let (Some(is), Some(should)) = (document.as_object(), good.document.as_object())
    {
        let keys: BTreeSet<_> = is.keys().chain(should.keys()).collect();
        for key in keys {
            if !CHANGING.contains(&key.as_str()) && plain(is.get(key)) != plain(should.get(key)) {
                wrong.push(format!("the document's {key} is {:?}, and not {:?}", is.get(key), should.get(key)));
            }
        }
    }
    wrong
}

/// Returns a member as text, as far as it is the same in every run. An emulator that is not found on one way to it is found on
/// the other. How many processes of others cannot be looked at is another number at any time, as others come and go; that
/// a process was passed over for want of something of our own is no such number, but an error.
fn plain(member: Option<&Value>) -> Option<String> {
    member.map(|value| {
        let mut value = value.clone();
        if let Some(members) = value.as_object_mut() {
            members.remove("unreadable");
        }
        value.to_string().replace("\"/usr/bin/qemu", "\"/bin/qemu")
    })
}

// -- The tools --------------------------------------------------------------------------------------------------------

/// Returns what is swept of one step of a pipe.
fn subject<'a>(bench: &'a Bench, tool: &str, mode: &str) -> Subject<'a> {
    let place = bench.place(tool);
    let step = &bench.steps[place];
    let command = match tool {
        // With --state it is a command and no stage.
        "enter" => format!("enter {} <.snap/document.json", step.args),
        "doctor" => format!("doctor --json {}", step.args),
        _ => bench.command(place),
    };
    Subject {
        bench,
        step,
        name: format!("{tool} as {:?}{mode}", bench.who),
        command,
        document: tool != "doctor",
        others: 20,
    }
}

/// Sweeps the steps of a pipe one after another; each begins where the one before leaves off.
fn sweep(mut bench: Bench, mode: &str, tools: &[(&str, usize)]) {
    bench.up_to(tools[0].0);
    let bench = &bench;
    let wanted = |tool: &str| match std::env::var("STRAPLINE_TORTURE_TOOL") {
        Ok(only) => only.split(',').any(|one| one == tool),
        Err(_) => true,
    };
    let mut wrong = Vec::new();
    for (tool, sample) in tools {
        if wanted(tool) {
            wrong.extend(subject(bench, tool, mode).sweep(*sample));
        }
        let status = bench.run(&subject(bench, tool, mode).command);
        assert_eq!(status, 0, "{tool}: {}", bench.stderr());
        // What enter prints is its command's, and doctor's findings are no document.
        if !["enter", "doctor"].contains(tool) {
            bench.host("cp .trial/out.json .snap/document.json");
        }
        bench.keep();
    }
}

/// As little as there can be, with something to run: the pipe is what is tried, and not pacman.
const PACKAGES: &str = "filesystem bash";

/// pacman may wait for ever for what a fault took from it: then its tool says so, and sooner than it does by default.
const PATIENCE: &str = "--timeout 20";

/// Lays out a whole pipe.
fn bench(who: Who, arch: &str) -> Bench {
    let mut bench = Bench::new(who, arch, "");
    let step = |tool, args: &str| Step { tool, args: args.into(), changes: &[], excused: &[], drafts: &[], again: 1 };
    let image = |tool, args: &str| Step { changes: &[trial::IMAGES], ..step(tool, args) };
    let (keyring, strap) = (bench.place("keyring"), bench.place("strap"));
    bench.steps[keyring].args = PATIENCE.into();
    bench.steps[strap].args = format!("{PATIENCE} {PACKAGES}");
    let enter = bench.place("enter");
    bench.steps[enter] = step("enter", "-- bash -c :");
    let finished = [
        step("verify", PATIENCE),
        image("pack", "-o images/root.tar.zst --level 1 --keep-keyring"),
        image("mkdisk", "-o images/disk.img --bootloader none --keep-keyring"),
    ];
    bench.steps.splice(enter..enter, finished);
    bench
        .steps
        .push(Step { drafts: &["tmp/strapline-doctor-"], ..step("doctor", &format!("--arch {arch} --root root")) });
    bench
}

/// libarchive gives directories their modes when the whole package is extracted, and the next pacman leaves those that it finds.
#[test]
fn directories_of_a_killed_pacman_get_their_modes() {
    for who in [Who::Root, Who::User] {
        let mut bench = bench(who, "x86_64");
        bench.up_to("strap");
        // mkroot has made them with their modes: here pacman is to make them.
        bench.host("rmdir root/root root/var/tmp");
        bench.keep();
        let place = bench.place("strap");
        bench.steps[place].changes = &trial::WORK;
        let subject = subject(&bench, "strap", "");
        let run = subject.run(None);
        assert_eq!(run.status, 0, "{run:?}");
        let good = bench.look();
        let mode = |name: &str| bench.look()[std::path::Path::new(name)].mode & 0o7777;
        assert_eq!((mode("root/root"), mode("root/var/tmp")), (0o750, 0o1777));
        subject.restore();
        // At the first call of pacman after it has made the last directory.
        let last = bench.lab.path().join("root/var/tmp");
        let run = subject.run_with(&mut |call| (!call.ours && last.is_dir()).then_some(Fault::Kill));
        assert!(run.hit.is_some() && run.status != 0, "{run:?}");
        assert_ne!(mode("root/var/tmp"), 0o1777, "pacman was killed too late");
        assert_eq!(bench.again(&subject.command, &good), [""; 0]);
        drop(bench.lab.sh("verify --state .trial/out.json").succeeded());
    }
}

#[test]
fn mkroot_to_mkconf_as_root() {
    let tools = [("mkroot", 300), ("fetch-pacman", 500), ("mkconf", 200)];
    sweep(bench(Who::Root, "x86_64"), "", &tools);
}

#[test]
fn mkroot_to_mkconf_as_a_user() {
    let tools = [("mkroot", 300), ("fetch-pacman", 500), ("mkconf", 200)];
    sweep(bench(Who::User, "x86_64"), "", &tools);
}

#[test]
fn a_table_of_handlers_of_its_own_as_root() {
    sweep(bench(Who::Root, "aarch64"), ", aarch64", &[("mkroot", 300)]);
}

#[test]
fn a_table_of_handlers_of_its_own_as_a_user() {
    sweep(bench(Who::User, "aarch64"), ", aarch64", &[("mkroot", 300)]);
}

#[test]
fn keyring_and_strap_as_root() {
    let tools = [("keyring", 8000), ("strap", 16_000)];
    sweep(bench(Who::Root, "x86_64"), "", &tools);
}

#[test]
fn keyring_and_strap_as_a_user() {
    let tools = [("keyring", 8000), ("strap", 16_000)];
    sweep(bench(Who::User, "x86_64"), "", &tools);
}

/// What a killed or failed `mkroot --host` leaves: all mounts or none; then the same again works, and all goes.
#[test]
fn mounts_on_the_host_are_all_or_none() {
    let bench = Bench::new(Who::Root, "x86_64", "--host");
    bench.keep();
    let all = bench.mount();
    bench.unmount("undisturbed");
    let subject = subject(&bench, "mkroot", " --host");
    let calls = subject.run(None).calls;
    bench.unmount("undisturbed");
    let (mut score, mut mounted) = (Score::default(), 0);
    for (call, fault) in subject.points(&calls, every(300)) {
        let when = format!("{}: {fault} at {call}", subject.name);
        bench.restore();
        let run = subject.run(Some((call, fault)));
        score.injections += usize::from(run.hit.is_some());
        bench.check_no_process(&when, false);
        bench.neighbours.unharmed(&when);
        let mounts = bench.mounts();
        if !(mounts.is_empty() || mounts == all) {
            score.wrong.push(format!("{when}: a part is mounted: {mounts:?}"));
        }
        if (run.status == 0 && mounts != all) || (STATUSES.contains(&run.status) && !mounts.is_empty()) {
            score.wrong.push(format!(
                "{when}: exit status {} and {} mounts: {}",
                run.status,
                mounts.len(),
                bench.stderr()
            ));
        }
        mounted += usize::from(!mounts.is_empty());
        let status = bench.run(&subject.command);
        if status != 0 || bench.mounts() != all {
            score.wrong.push(format!("{when}: the second run: {status} {}", bench.stderr()));
        }
        bench.unmount(&when);
    }
    bench.restore();
    eprintln!(
        "{}: {} calls, {} injections (all was mounted {mounted} times), {} leaks and lies",
        subject.name,
        calls.len(),
        score.injections,
        score.wrong.len()
    );
    assert!(score.wrong.is_empty(), "{}", score.wrong.join("\n"));
}

/// What a killed or failed `unmount` or `reap` leaves on the host: no more than there was, and nothing after a success or a second
/// run.
#[test]
fn what_is_on_the_host_is_undone_or_it_is_said() {
    let bench = Bench::new(Who::Root, "x86_64", "--host");
    bench.keep();
    for (tool, sample) in [("unmount", 120), ("reap", 2000)] {
        let all = bench.mount();
        let subject = subject(&bench, tool, " --host");
        let tenant = (tool == "reap").then(|| Tenant::new(&bench));
        let good =
            Good { before: Tree::new(), after: Tree::new(), calls: subject.run(None).calls, document: Value::Null };
        if let Some(tenant) = tenant {
            tenant.ended("undisturbed");
        }
        let mut score = Score::default();
        for (call, fault) in subject.points(&good.calls, every(sample)) {
            let when = format!("{}: {fault} at {call}", subject.name);
            bench.mount();
            let mut tenant = (tool == "reap").then(|| Tenant::new(&bench));
            let run = subject.run(Some((call, fault)));
            score.injections += usize::from(run.hit.is_some());
            let mut wrong: Vec<String> = run.left.iter().cloned().collect();
            let mounts = bench.mounts();
            if !mounts.iter().all(|at| all.contains(at)) || tool == "reap" && mounts != all {
                wrong.push(format!("{mounts:?} are mounted"));
            }
            let lives = tenant.as_mut().is_some_and(Tenant::lives);
            match run.status {
                0 if lives || tool == "unmount" && !mounts.is_empty() => {
                    wrong.push("what is left counts as undone".into());
                }
                0 | 137 => {}
                status if !STATUSES.contains(&status) || !says_why(&bench.stderr(), tool) => {
                    wrong.push("no line says what failed".into());
                }
                _ => wrong.extend(document_lies(&run, &good, &subject.stdout())),
            }
            if !wrong.is_empty() {
                wrong.push(format!("exit status {}: {}", run.status, bench.stderr()));
            }
            bench.neighbours.unharmed(&when);
            let status = bench.run(&subject.command);
            if status != 0 {
                wrong.push(format!("the second run: {status} {}", bench.stderr()));
            }
            if let Some(tenant) = tenant {
                tenant.ended(&when);
            }
            bench.check_no_process(&when, false);
            bench.unmount(&when);
            let wrong = wrong.iter().map(|what| format!("{when}: {what}"));
            score.wrong.extend(wrong);
        }
        eprintln!(
            "{}: {} calls, {} injections, {} leaks and lies",
            subject.name,
            good.calls.len(),
            score.injections,
            score.wrong.len()
        );
        assert!(score.wrong.is_empty(), "{}", score.wrong.join("\n"));
    }
}

/// What comes after `strap`.
const FINISHED: [(&str, usize); 8] = [
    ("configure", 400),
    ("verify", 12_000),
    ("pack", 8000),
    ("mkdisk", 9000),
    ("enter", 250),
    ("reap", 2500),
    ("unmount", 150),
    ("doctor", 900),
];

#[test]
fn what_needs_a_finished_root_as_root() {
    sweep(bench(Who::Root, "x86_64"), "", &FINISHED);
}

#[test]
fn what_needs_a_finished_root_as_a_user() {
    sweep(bench(Who::User, "x86_64"), "", &FINISHED);
}

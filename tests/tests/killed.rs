//! SIGKILL of every tool at many moments: nothing may be left, and the same pipe must then go on.
//!
//! Each step is first run to its end, which says how long it takes and what it makes. Then it is killed at moments that
//! are spread over that time. The moments are pseudo-random from a fixed seed; a failure says which one it was.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::path::Path;
use std::time::Duration;
use strapline_tests::Who;
use strapline_tests::trial::{Bench, End, KILLED, LOCK, Ready, Tenant};

/// How often each tool is killed, as each user.
const MOMENTS: usize = 50;

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

// -- Killing ---

/// Kills `tool` at all its moments. The steps before it have run.
fn kill(bench: &Bench, tool: &str) {
    let place = bench.place(tool);
    let step = &bench.steps[place];
    let before = bench.look();
    let (duration, after) = bench.measure(place);
    let name = format!("{tool} as {:?}", bench.who);
    let mut killing = Killing::new(&name, duration);
    let (mut left, mut wrong) = (0, Vec::new());
    let ready = || {
        bench.restore_only(step.changes);
        Ready::new(&bench.lab, &bench.command(place))
    };
    while let Some(when) = killing.next(ready) {
        bench.check_nothing_is_left(&when);
        let (drafts, strangers): (Vec<_>, Vec<_>) = bench
            .strangers(step, &[&before, &after])
            .into_iter()
            .partition(|path| step.drafts.iter().any(|d| path.starts_with(d)));
        left += usize::from(!drafts.is_empty());
        let mut found: Vec<_> = strangers
            .iter()
            .map(|path| format!("'{}' is left", path.display()))
            .collect();
        if !drafts.is_empty() || killing.tries.is_multiple_of(step.again) {
            found.extend(bench.again(&bench.command(place), &after));
            if tool == "strap" && killing.tries.is_multiple_of(25) {
                found.extend(bench.ask_pacman());
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
    if !step.changes.is_empty() {
        ready().run(Some(duration / 2));
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

fn kill_each(who: Who, tools: &[&str]) {
    let mut bench = Bench::new(who, "x86_64", "");
    bench.up_to(tools[0]);
    for (i, tool) in tools.iter().enumerate() {
        kill(&bench, tool);
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

#[test]
fn mkroot_with_mounts_on_the_host_mounts_all_or_nothing() {
    let bench = Bench::new(Who::Root, "x86_64", "--host");
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

#[test]
fn reap_goes_on_where_a_killed_one_ended() {
    let bench = Bench::new(Who::Root, "x86_64", "--host");
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
        before += usize::from(tenant.lives());
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

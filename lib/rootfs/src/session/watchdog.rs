//! A watchdog: finds, describes and ends programs inside that make no progress.
//!
//! A pacman that waits for a thread that its fork(2) did not copy, a scriptlet that reads from an unattended terminal, a
//! mirror that accepts a connection and sends nothing: all of them sleep for ever. No limit on the whole time can tell them
//! from a large download or an emulated mkinitcpio, so the time without progress is limited. Progress is any output, bytes
//! written to any file by any process inside, and CPU time.
//!
//! Time counts only while we wait: not while the pipeline is stopped by ^Z, or the machine sleeps.

use crate::occupants::proc::{numbers, open_dir, read_at};
use crate::occupants::text::Stat;
use rustix::fs::CWD;
use stage::{Code, Failure, message};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How many bytes written within the limit are progress. Fewer may be of a loop that only wakes itself up.
const BYTES: u64 = 1024;

/// Which part of the limit must be CPU time to be progress. Less may be of a polling loop.
const PART: u32 = 100;

/// The longest command line in a message.
const COMMAND: usize = 100;

/// How many processes a failure names; stderr has them all.
const NAMED: usize = 4;

/// Measures progress inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watchdog {
    tool: &'static str,
    limit: Duration,
    idle: Duration,
    before: Done,
}

/// What the processes inside have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    /// Ticks of CPU time.
    ticks: u64,
    /// Bytes written. `None` if the kernel does not count them (`CONFIG_TASK_IO_ACCOUNTING`).
    written: Option<u64>,
}

/// A process without progress. See proc(5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sleeper {
    /// Its pid, as the host has it.
    pid: i32,
    /// How many processes inside are above it; 0 is what was run.
    depth: usize,
    /// Its command line, or its name if it has none.
    command: String,
    /// Its state: `S` sleeps, `D` sleeps and cannot be woken, `T` is stopped.
    state: char,
    /// The kernel function that it sleeps in, if we may know.
    wchan: Option<String>,
    /// The number of the system call that it is in, if we may know.
    syscall: Option<u32>,
    /// The kernel functions of its stack, the innermost first. Only root may know.
    stack: Vec<String>,
}

impl Watchdog {
    /// Returns one with this limit, whose messages begin with the name of `tool`.
    pub(super) fn new(tool: &'static str, limit: Duration) -> Self {
        Self { tool, limit, idle: Duration::ZERO, before: Done::default() }
    }

    /// Returns after which time without output [`Watchdog::waited`] must be called.
    pub(super) fn tick(&self) -> Duration {
        (self.limit / 10).clamp(Duration::from_millis(20), Duration::from_secs(5))
    }

    /// Notes that there was output.
    pub(super) fn output(&mut self) {
        self.idle = Duration::ZERO;
    }

    /// Notes that a tick has passed without output, and looks at the processes below `init`. When the limit is reached,
    /// prints each of them with where it sleeps, and returns the failure.
    pub(super) fn waited(&mut self, init: i32) -> Option<Failure> {
        let tree = tree_of(init);
        let now = Done {
            ticks: tree.iter().map(|p| p.stat.ticks).sum(),
            written: tree.iter().filter_map(Process::written).reduce(|a, b| a + b),
        };
        if !self.is_over(now) {
            return None;
        }
        let found: Vec<Sleeper> = tree.iter().map(Process::sleeper).collect();
        for sleeper in &found {
            message::line(self.tool, format_args!("hung: {sleeper}"));
        }
        Some(self.failure(&found))
    }

    /// Adds a tick, and returns whether the limit is reached without progress.
    fn is_over(&mut self, now: Done) -> bool {
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let ticks = (self.limit / PART).as_secs_f64() * per_second;
        let written = match (now.written, self.before.written) {
            (Some(now), Some(before)) => now.saturating_sub(before) >= BYTES,
            (None, None) => false,
            _ => true,
        };
        #[allow(clippy::cast_precision_loss, reason = "52 bits of ticks are 10^6 years")]
        let worked = now.ticks.saturating_sub(self.before.ticks) as f64 >= ticks.max(1.0);
        if written || worked {
            self.before = now;
            self.idle = Duration::ZERO;
            return false;
        }
        self.idle += self.tick();
        self.idle >= self.limit
    }

    fn failure(&self, found: &[Sleeper]) -> Failure {
        let mut why = format!("nothing happened for {} s", self.limit.as_secs_f64());
        // The others wait for the deepest.
        let skip = found.len().saturating_sub(NAMED);
        for (i, sleeper) in found.iter().skip(skip).enumerate() {
            why += if i == 0 { ": " } else { ", " };
            why += &format!("{} {}", message::quote(&sleeper.command), sleeper.place());
        }
        Failure::new(Code::Hung, why).hint(
            "run it again, which continues with what is there; if it only takes long, give more time with --timeout SECONDS",
        )
    }
}

impl Sleeper {
    /// Returns in words where it sleeps.
    fn place(&self) -> String {
        match (self.state, &self.wchan) {
            ('T' | 't', _) => "is stopped".to_owned(),
            (_, Some(wchan)) => format!("sleeps in {wchan}"),
            (_, None) => format!("is in state {}", self.state),
        }
    }
}

impl Display for Sleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = message::quote(&self.command);
        write!(f, "{:width$}{} {command} {}", "", self.pid, self.place(), width = 2 * self.depth)?;
        if let Some(number) = self.syscall {
            write!(f, ", system call {number}")?;
        }
        if !self.stack.is_empty() {
            write!(f, ", {}", self.stack.join(" < "))?;
        }
        Ok(())
    }
}

/// A process below init.
pub(super) struct Process {
    pub(super) pid: i32,
    depth: usize,
    pub(super) dir: OwnedFd,
    pub(super) stat: Stat,
}

impl Process {
    fn text(&self, name: &str) -> Option<String> {
        let bytes = read_at(&self.dir, name).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Returns how many bytes it and the children that it has waited for have written.
    fn written(&self) -> Option<u64> {
        let text = self.text("io")?;
        text.lines().find_map(|l| l.strip_prefix("wchar: "))?.trim().parse().ok()
    }

    fn sleeper(&self) -> Sleeper {
        let words = self.text("cmdline").unwrap_or_default();
        let mut command = match words.trim_end_matches('\0') {
            "" => self.stat.comm.clone(),
            words => words.replace('\0', " "),
        };
        if let Some((end, _)) = command.char_indices().nth(COMMAND) {
            command.truncate(end);
            command.push('…');
        }
        let stack = self.text("stack").unwrap_or_default();
        // "[<0>] do_wait+0x53/0x120". Those below the system call are the same for all.
        let function = |line: &str| Some(line.split(' ').nth(1)?.split('+').next()?.to_owned());
        let below = |name: &String| name.starts_with("do_syscall") || name.starts_with("entry_");
        Sleeper {
            pid: self.pid,
            depth: self.depth,
            command,
            state: char::from(self.stat.state),
            // 0: it does not sleep, or we may not know.
            wchan: self.text("wchan").filter(|w| !w.is_empty() && w != "0"),
            // "61 0x… …", "-1 0x… 0x…" or "running"
            syscall: self.text("syscall").and_then(|t| t.split(' ').next()?.parse().ok()),
            stack: stack.lines().filter_map(function).filter(|name| !below(name)).collect(),
        }
    }
}

/// Returns the processes below `init`, parents before their children. Those that end in the meantime are left out.
pub(super) fn tree_of(init: i32) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for pid in numbers::<i32>(CWD, "/proc").unwrap_or_default() {
        if let Ok(dir) = open_dir(CWD, &format!("/proc/{pid}"))
            && let Ok(text) = read_at(&dir, "stat")
            && let Some(stat) = Stat::parse(&text)
        {
            children.entry(stat.parent).or_default().push(Process { pid, depth: 0, dir, stat });
        }
    }
    let mut tree = Vec::new();
    descend(init, 0, &mut children, &mut tree);
    tree
}

fn descend(pid: i32, depth: usize, children: &mut BTreeMap<i32, Vec<Process>>, tree: &mut Vec<Process>) {
    for mut process in children.remove(&pid).unwrap_or_default() {
        let pid = process.pid;
        process.depth = depth;
        tree.push(process);
        descend(pid, depth + 1, children, tree);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(ticks: u64, written: u64) -> Done {
        Done { ticks, written: Some(written) }
    }

    #[test]
    fn only_time_without_progress_counts() {
        let mut dog = Watchdog::new("test", Duration::from_secs(10));
        let mut ticks = |count: usize, now: Done| (0..count).any(|_| dog.is_over(now));
        assert!(!ticks(10, done(1, 1)));
        assert!(!ticks(9, done(90_000, 1)), "the processor was used");
        assert!(!ticks(5, done(90_001, 5000)), "something was written");
        assert!(!ticks(5, done(90_005, 5900)), "a little of both is no progress yet");
        assert!(ticks(1, done(90_006, 5950)));
        dog.output();
        assert!(!dog.is_over(done(90_006, 5950)));
    }

    #[test]
    fn what_ends_takes_nothing_away() {
        let mut dog = Watchdog::new("test", Duration::from_secs(1));
        assert!(!dog.is_over(done(500, 9000)));
        assert!((0..10).any(|_| dog.is_over(done(0, 0))));
    }

    #[test]
    fn a_kernel_that_does_not_count_bytes_leaves_the_rest() {
        let mut dog = Watchdog::new("test", Duration::from_secs(1));
        let now = |ticks| Done { ticks, written: None };
        assert!(!(0..9).any(|_| dog.is_over(now(0))));
        assert!(!dog.is_over(now(50)));
        assert!((0..10).any(|_| dog.is_over(now(50))));
    }

    #[test]
    fn who_sleeps_and_where() {
        let sleeper = Sleeper {
            pid: 12,
            depth: 1,
            command: "sh -c read\u{1b}".into(),
            state: 'S',
            wchan: Some("wait_for_partner".into()),
            syscall: Some(257),
            stack: vec!["wait_for_partner".into(), "fifo_open".into()],
        };
        assert_eq!(
            sleeper.to_string(),
            "  12 'sh -c read\\u{1b}' sleeps in wait_for_partner, system call 257, wait_for_partner < fifo_open"
        );
        let dog = Watchdog::new("test", Duration::from_millis(1500));
        let found = [Sleeper { state: 'T', command: "pacman -Su".into(), ..sleeper.clone() }, sleeper];
        assert_eq!(
            dog.failure(&found).message,
            "nothing happened for 1.5 s: 'pacman -Su' is stopped, 'sh -c read\\u{1b}' sleeps in wait_for_partner"
        );
    }

    #[test]
    fn our_own_children_are_found_with_their_children() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "cat; :"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let id = i32::try_from(child.id()).unwrap();
        // The shell has forked when its child is there.
        let begin = std::time::Instant::now();
        let found = loop {
            assert!(begin.elapsed() < Duration::from_secs(60), "no 'cat' is found");
            let tree = tree_of(me);
            let mut below = tree.iter().skip_while(|p| p.pid != id);
            let (shell, cat) = (below.next(), below.next());
            if let (Some(shell), Some(cat)) = (shell, cat)
                && cat.stat.parent == id
                && cat.sleeper().command == "cat"
            {
                break (shell.sleeper(), cat.sleeper());
            }
        };
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!((found.0.depth, found.1.depth), (0, 1));
        assert_eq!(found.0.command, "sh -c cat; :");
    }
}

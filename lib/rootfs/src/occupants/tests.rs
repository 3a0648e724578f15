//! Tests with real processes, which end with the test.

use super::scan::Scanner;
use super::text::Stat;
use super::{Occupant, Outcome, Use, UseKind, end, find};
use crate::root::RootId;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process that a test started, and that ends with the test.
struct Started(Child);

impl Started {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Makes it a zombie.
    fn end_but_do_not_reap(&mut self) {
        drop(self.0.stdin.take());
        let pid = nix::unistd::Pid::from_raw(self.pid());
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a shell that runs the script, and then becomes a cat: what comes back through it says that it has.
fn start(dir: &Path, script: &str) -> Started {
    let mut child = Command::new("sh")
        .args(["-c", &format!("{script}; exec cat")])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Started(child)
}

fn cwd(path: PathBuf) -> Use {
    Use { kind: UseKind::Cwd, path }
}

fn id(path: &Path) -> RootId {
    let stat = path.metadata().unwrap();
    RootId { dev: stat.dev(), ino: stat.ino() }
}

/// A scan in which every process of this system lives in the root, so that one can be ended without a chroot.
fn as_if_all_lived_there(root: &Path, pid: i32) -> (RootId, Occupant) {
    let id = id(Path::new("/"));
    let scanner = Scanner::new(root, id).unwrap();
    let occupant = scanner.examine(pid).unwrap().occupant.unwrap();
    assert!(occupant.lives);
    (id, occupant)
}

#[test]
fn who_got_the_pid_of_one_that_has_ended_is_not_hit() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let mut child = start(&root, "true");
    let (everywhere, mut occupant) = as_if_all_lived_there(&root, child.pid());
    // The same process does not live in the true root: it has left since the scan, so to say.
    let patience = Duration::from_secs(5);
    let outcome = end(&root, id(&root), vec![occupant.clone()], patience).unwrap();
    assert_eq!(outcome, Outcome::default());
    assert!(child.is_alive());
    // Another process with this pid, that lives there too, and that nobody has judged.
    occupant.start_time -= 1;
    let outcome = end(&root, everywhere, vec![occupant.clone()], patience).unwrap();
    assert_eq!(outcome, Outcome::default());
    assert!(child.is_alive());
    // And the right one.
    occupant.start_time += 1;
    let outcome = end(&root, everywhere, vec![occupant.clone()], patience).unwrap();
    assert_eq!(outcome.ended, [occupant.clone()]);
    assert!(!child.is_alive());
    // One that is not there any more is no error.
    let outcome = end(&root, everywhere, vec![occupant], patience).unwrap();
    assert_eq!(outcome, Outcome::default());
}

#[test]
fn who_ignores_sigterm_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let mut child = start(&root, "trap '' TERM");
    let (everywhere, occupant) = as_if_all_lived_there(&root, child.pid());
    let patience = Duration::from_millis(20);
    let outcome = end(&root, everywhere, vec![occupant.clone()], patience).unwrap();
    assert_eq!(outcome.killed, [occupant]);
    assert!(!child.is_alive());
}

#[test]
fn who_uses_a_path_is_found_and_does_not_live_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("x")).unwrap();
    let child = start(&root.join("x"), "exec 5>file; rm file");
    let scan = find(&root, id(&root)).unwrap();
    let pids: Vec<_> = scan.occupants.iter().map(|o| o.pid).collect();
    assert_eq!(pids, [child.pid()]);
    let found = &scan.occupants[0];
    assert!(!found.lives && !found.elsewhere);
    assert_eq!(found.comm, "cat");
    assert_eq!(found.uid, rustix::process::geteuid().as_raw());
    assert_eq!(found.uses, [cwd(root.join("x")), Use { kind: UseKind::Fd(5), path: root.join("x/file (deleted)") },]);
    assert_eq!(found.how(), format!("has its working directory at '{}/x'", root.display()));
    // A directory whose name only begins the same is another one.
    let other = root.with_extension("other");
    std::fs::create_dir(&other).unwrap();
    let scan = find(&other, id(&other)).unwrap();
    std::fs::remove_dir(&other).unwrap();
    assert_eq!(scan.occupants, []);
}

#[test]
fn we_and_our_ancestors_are_not_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let _ours = File::create(root.join("ours")).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let scan = find(&root, id(&root)).unwrap();
    assert!(scan.occupants.iter().all(|o| o.pid.unsigned_abs() != std::process::id()));
    let scanner = Scanner::new(&root, id(Path::new("/"))).unwrap();
    let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
    for pid in [1, parent] {
        let look = scanner.examine(pid).unwrap();
        assert!(!look.unreadable);
        if let Some(occupant) = look.occupant {
            assert!(!occupant.lives, "{occupant}");
        }
    }
}

#[test]
fn a_zombie_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let mut child = start(&root, "true");
    child.end_but_do_not_reap();
    let scanner = Scanner::new(&root, id(Path::new("/"))).unwrap();
    let look = scanner.examine(child.pid()).unwrap();
    assert!(look.occupant.is_none() && !look.unreadable);
}

#[test]
fn a_process_whose_first_thread_has_ended_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let place = std::ffi::CString::new(root.to_str().unwrap()).unwrap();
    // SAFETY: the child goes on with one thread, and starts another that has what pthread_create(3) takes. glibc
    // keeps malloc usable after its fork(3), and nothing else of ours is touched.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a constant of ours, and two system calls. The second ends this thread alone.
        unsafe {
            libc::chdir(place.as_ptr());
            drop(std::thread::spawn(|| {
                loop {
                    std::thread::park()
                }
            }));
            libc::syscall(libc::SYS_exit, 0);
        }
    }
    let scanner = Scanner::new(&root, id(Path::new("/"))).unwrap();
    let stat = || {
        let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
        Stat::parse(&text).unwrap()
    };
    while !stat().is_over() {
        std::thread::yield_now();
    }
    let look = scanner.examine(pid).unwrap();
    // SAFETY: the child that was forked above.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    let occupant = look.occupant.unwrap();
    assert!(occupant.lives);
    assert!(occupant.uses.contains(&cwd(root)), "{occupant:?}");
}

//! Many at once, and many after another: what pipes share (two caches, the machine) and what they must not (a root).

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use package::db::{self, Limits};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use strapline_tests::{Lab, Mirror, Neighbours, Server, Who, tier};

/// How many pipes there are at once.
fn crowd() -> usize {
    tier::times(4, 20)
}

/// How long all of them may take together: a deadlock is longer.
const LIMIT: Duration = Duration::from_secs(900);

/// Returns a pipe that makes the root `name`; its document, messages and exit status go to files of that `run`'s name.
fn pipe(mirror: &Mirror, server: &Server, name: &str, run: &str) -> String {
    let (preset, url) = (mirror.preset(), server.url());
    format!(
        "{{ mkroot {name} --arch x86_64 --distro {} \
         | fetch-pacman --server {url}/archlinuxcn/x86_64 --cache-dir $PWD/cache \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring | strap filesystem | reap | unmount >{run}.json; }} 2>{run}.err; echo $? >{run}.status",
        preset.display()
    )
}

fn start(lab: &Lab, script: &str) -> Child {
    let mut command = lab.command("sh");
    command.args(["-c", script]).stdout(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until all have ended; a deadlock fails the test.
fn wait(mut children: Vec<Child>) {
    let end = Instant::now() + LIMIT;
    while let Some(mut child) = children.pop() {
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "they wait for each other");
            rustix::event::poll(&mut [], Some(&Duration::from_millis(50).try_into().unwrap())).unwrap();
        }
    }
}

fn read(lab: &Lab, file: &str) -> String {
    fs::read_to_string(lab.path().join(file)).unwrap_or_default()
}

/// Checks every archive in the cache by the hash that the mirror's databases have, and that no part is left.
fn check_cache(mirror: &Mirror, lab: &Lab) {
    let mut hashes = BTreeMap::new();
    for repo in ["core", "extra"] {
        let file = mirror.www().join(format!("x86_64/{repo}/{repo}.db"));
        let text = fs::read(file).unwrap();
        for entry in db::read(text.as_slice(), Limits::default()).unwrap().entries {
            hashes.insert(entry.filename.clone(), entry.sha256.clone());
        }
    }
    let mut archives = 0;
    for entry in fs::read_dir(lab.path().join("packages")).unwrap() {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".part"), "{name} is left");
        let Some(wanted) = hashes.get(&name) else {
            continue;
        };
        let is = Sha256::digest(fs::read(entry.unwrap().path()).unwrap());
        let is: String = is.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(Some(&is), wanted.as_ref(), "{name} is corrupt");
        archives += 1;
    }
    assert!(archives >= 2, "{archives} archives");
}

fn different_targets(who: Who) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::of(&mirror.www());
    let neighbours = Neighbours::beside(lab.path());
    let begin = Instant::now();
    let pipes = (0..crowd()).map(|i| {
        let name = format!("root{i}");
        start(&lab, &pipe(&mirror, &server, &name, &name))
    });
    wait(pipes.collect());
    for i in 0..crowd() {
        let status = read(&lab, &format!("root{i}.status"));
        assert_eq!(status.trim(), "0", "{}", read(&lab, &format!("root{i}.err")));
    }
    check_cache(&mirror, &lab);
    neighbours.unharmed("at the end");
    eprintln!("{} pipes as {who:?}: {:?}", crowd(), begin.elapsed());
}

#[test]
fn pipes_with_one_cache_all_succeed_as_root() {
    different_targets(Who::Root);
}

#[test]
fn pipes_with_one_cache_all_succeed_as_a_user() {
    different_targets(Who::User);
}

#[test]
fn of_pipes_with_one_target_the_later_are_refused() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let neighbours = Neighbours::beside(lab.path());
    let pipes = (0..crowd()).map(|i| start(&lab, &pipe(&mirror, &server, "root", &format!("run{i}"))));
    wait(pipes.collect());
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..crowd() {
        let status = read(&lab, &format!("run{i}.status")).trim().to_owned();
        let errors = read(&lab, &format!("run{i}.err"));
        assert!(["0", "75"].contains(&&*status), "{status}: {errors}");
        if status == "75" {
            assert!(errors.contains("another tool works on this root"), "{errors}");
            let document = read(&lab, &format!("run{i}.json"));
            assert!(document.contains(r#""code":"busy""#), "{document}");
        }
        *ends.entry(status).or_default() += 1;
    }
    assert!(ends.contains_key("0"), "nobody got through: {ends:?}");
    check_cache(&mirror, &lab);
    eprintln!("{} pipes with one target: {ends:?}", crowd());
    let last = lab.sh(&format!("{}; exit $(cat last.status)", pipe(&mirror, &server, "root", "last")));
    assert_eq!(last.status, 0, "{}", read(&lab, "last.err"));
    neighbours.unharmed("at the end");
}

#[test]
fn a_lock_dies_with_its_holder() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let first = lab.sh(&format!("{}; exit $(cat first.status)", pipe(&mirror, &server, "root", "first")));
    assert_eq!(first.status, 0, "{}", read(&lab, "first.err"));
    // Its scriptlet or download takes its time: a server that says nothing holds it.
    let stalled = Server::lying(&mirror.www(), |_| strapline_tests::Answer::Stall(0));
    let conf = lab.sh(&format!(
        "mkconf --state first.json --server '{}/$arch/$repo' --cache-dir $PWD/packages >stalled.json",
        stalled.url()
    ));
    assert_eq!(conf.status, 0, "{conf:?}");
    let mut holder = lab
        .command("strap")
        .args(["--state", "stalled.json", "bash"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while stalled.requests().is_empty() {
        assert!(Instant::now() < end, "the holder asks for nothing");
        rustix::event::poll(&mut [], Some(&Duration::from_millis(5).try_into().unwrap())).unwrap();
    }
    let refused = lab.sh("strap --state first.json filesystem");
    refused.failed(75, "another tool works on this root");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let again = lab.sh(&format!("{}; exit $(cat again.status)", pipe(&mirror, &server, "root", "again")));
    assert_eq!(again.status, 0, "{}", read(&lab, "again.err"));
}

// -- One after another ------------------------------------------------------------------------------------------------

/// How often a root is made, entered and left.
fn cycles() -> usize {
    match std::env::var("STRAPLINE_CYCLES") {
        Ok(n) => n.parse().expect("STRAPLINE_CYCLES is a number"),
        Err(_) => tier::times(10, 1000),
    }
}

/// What a cycle must not use up, as far as it is this laboratory's: other tests come and go.
#[derive(Debug, PartialEq, Eq)]
struct Used {
    mounts: Vec<String>,
    loops: Vec<String>,
    processes: Vec<String>,
    /// Those of the user that runs the cycles: `/proc/key-users`.
    keys: Option<String>,
    /// inotify instances of this process.
    inotify: usize,
}

impl Used {
    fn now(lab: &Lab, who: Who) -> Self {
        let uid = match who {
            Who::Root => 0,
            _ => strapline_tests::lab::UID,
        };
        Self {
            mounts: strapline_tests::lab::Host::look().mounts_below(lab.path()),
            loops: strapline_tests::trial::loops(lab.path()),
            processes: strapline_tests::lab::processes_below(lab.path()),
            keys: keys(uid).filter(|_| who != Who::Root),
            inotify: inotify(),
        }
    }
}

/// Returns how many keys a user has.
fn keys(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/proc/key-users").ok()?;
    users.lines().find_map(|line| {
        let (user, rest) = line.trim().split_once(':')?;
        (user == uid.to_string()).then(|| rest.split_whitespace().nth(1).map(str::to_owned))?
    })
}

/// Returns how many of our own descriptors are inotify's.
fn inotify() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("inotify")).count()
}

/// Kilobytes that this machine has left, and how many mounts the kernel holds in all namespaces.
fn machine() -> (u64, Option<u64>) {
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let free = memory.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let free = free.and_then(|l| l.split_whitespace().next()?.parse().ok());
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let mounts = slabs
        .lines()
        .find_map(|l| l.strip_prefix("mnt_cache "))
        .and_then(|l| l.split_whitespace().next()?.parse().ok());
    (free.unwrap_or(0), mounts)
}

fn cycle(who: Who, host: &str) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::of(&mirror.www());
    let neighbours = Neighbours::beside(lab.path());
    let whole = pipe(&mirror, &server, "root", "whole").replace("strap filesystem", "strap bash");
    let whole = lab.sh(&format!("{whole}; exit $(cat whole.status)"));
    assert_eq!(whole.status, 0, "{}", read(&lab, "whole.err"));
    let script = format!(
        "mkroot root {host} --arch x86_64 --distro {} | enter -- bash -c : | unmount --quiet >out.json",
        mirror.preset().display()
    );
    let one = || {
        let ran = lab.sh(&script);
        assert_eq!((ran.status, &*ran.stderr), (0, ""), "{ran:?}");
    };
    one();
    let (before, machine_before) = (Used::now(&lab, who), machine());
    let begin = Instant::now();
    for _ in 0..cycles() {
        one();
    }
    assert_eq!(before, Used::now(&lab, who), "after {} cycles", cycles());
    neighbours.unharmed("after all cycles");
    eprintln!(
        "{} cycles as {who:?} {host}: {:?}; kB available and mounts of the kernel before {machine_before:?}, after {:?}",
        cycles(),
        begin.elapsed(),
        machine()
    );
}

#[test]
fn cycles_use_nothing_up_as_root() {
    cycle(Who::Root, "");
}

#[test]
fn cycles_use_nothing_up_as_a_user() {
    cycle(Who::User, "");
}

#[test]
fn cycles_use_nothing_up_on_the_host() {
    cycle(Who::Root, "--host");
}

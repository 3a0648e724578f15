//! Maps from ids of the root to ids of the host.
//!
//! An ordinary user has a range of subordinate ids (subuid(5)), mapped by newuidmap(1) and newgidmap(1). A user namespace
//! with a single id is refused: there pacman only warns when it cannot set an owner, and exits with 0.

use crate::user;
use stage::members::IdMap;
use stage::{Code, Doing, Failure, child};
use std::fs;
use std::path::Path;

/// How many ids a root needs, from 0: Arch's packages use ids up to 65534 (`nobody`).
pub const NEEDED: u64 = 65_535;

/// Where the ranges of users and of groups are.
const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Returns the map for this ordinary user: root inside is the user, and the rest comes from its subordinate ids.
///
/// # Errors
///
/// [`Code::Permission`] when the user has no range that is long enough, with the command that adds one.
pub fn of_user(uid: u32, gid: u32) -> Result<IdMap, Failure> {
    let name = user::name_of(&fs::read("/etc/passwd").unwrap_or_default(), uid);
    let find = |file: &str, own: u32| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let who = name.clone().unwrap_or_else(|| uid.to_string());
        let looking = format!("looking for subordinate ids of '{who}' in '{file}'");
        let reason = match range_in(&text, uid, name.as_deref(), own) {
            Ok(start) => return Ok(start),
            Err(None) => format!("no range of {NEEDED} or more, without which the owners of files would be wrong"),
            Err(Some(start)) => format!(
                "the range that begins with {start} contains the user's own id {own}, which cannot be mapped twice"
            ),
        };
        let command = adding("sudo ", free_range(), &missing_files(), &who);
        let hint = format!("run '{command}', or run the pipeline as root");
        Err(Failure::new(Code::Permission, format!("{looking}: {reason}")).hint(hint))
    };
    let map = |own: u32, start: u64| vec![[0, u64::from(own), 1], [1, start, NEEDED]];
    Ok(IdMap { uid: map(uid, find(FILES[0], uid)?), gid: map(gid, find(FILES[1], gid)?) })
}

/// Returns those of subuid(5) and subgid(5) that this host has not. usermod(8) refuses to add a range to a file that is not there.
pub fn missing_files() -> Vec<&'static str> {
    FILES.into_iter().filter(|file| !Path::new(file).exists()).collect()
}

/// Returns the command that gives `who` the range `free`, where the files `missing` must be made first.
pub fn adding(sudo: &str, (first, last): (u64, u64), missing: &[&str], who: &str) -> String {
    let make = if missing.is_empty() { String::new() } else { format!("{sudo}touch {} && ", missing.join(" ")) };
    format!("{make}{sudo}usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {who}")
}

/// Writes these maps for the user namespace of process `pid`, by the set-uid helpers of package `uidmap`.
///
/// # Errors
///
/// [`Code::Permission`] when a helper is missing or refuses.
pub(crate) fn write(ids: &IdMap, pid: i32) -> Result<(), Failure> {
    for (program, map) in [("newuidmap", &ids.uid), ("newgidmap", &ids.gid)] {
        let mut command = child::command(program);
        command.arg(pid.to_string());
        command.args(map.iter().flatten().map(u64::to_string));
        let out = child::output(&mut command).map_err(|failure| {
            Failure::new(Code::Permission, failure.message).hint(
                "sudo apt-get install uidmap (pacman -S shadow, dnf install shadow-utils), or run the pipeline as root",
            )
        })?;
        if !out.status.success() {
            return Err(Failure::new(
                Code::Permission,
                format!("running '{program}': {}", child::ended(out.status)),
            )
            .hint(
                "the ids of the document must be this user's in /etc/subuid and /etc/subgid, and no_new_privs unset",
            ));
        }
    }
    Ok(())
}

/// Checks that root here has the ids that a root needs: root of a user namespace may have only one.
///
/// # Errors
///
/// [`Code::Permission`] when ids are missing.
pub fn check_root() -> Result<(), Failure> {
    for kind in KINDS {
        let have: u64 = parse(&own_map(kind)?).iter().map(|(_, count)| count).sum();
        if have < NEEDED {
            return Err(Failure::new(
                Code::Permission,
                format!(
                    "counting our ids in '/proc/self/{kind}': root of this user namespace has {have}, and {NEEDED} are \
                     needed, without which the owners of files would be wrong"
                ),
            )
            .hint("give the namespace or container a range of ids, or run the pipeline outside of it"));
        }
    }
    Ok(())
}

/// Maps in the user namespace of process `pid` every id that we have to itself.
///
/// # Errors
///
/// [`Code::Permission`] when the kernel refuses.
pub(crate) fn write_identity(pid: i32) -> Result<(), Failure> {
    for kind in KINDS {
        let ours = parse(&own_map(kind)?);
        let line = |(first, count): (u64, u64)| format!("{first} {first} {count}\n");
        let theirs = format!("/proc/{pid}/{kind}");
        fs::write(&theirs, ours.into_iter().map(line).collect::<String>())
            .doing(Code::Permission, || format!("writing '{theirs}'"))?;
    }
    Ok(())
}

/// The maps of a process, in `/proc/PID` (user_namespaces(7)).
const KINDS: [&str; 2] = ["uid_map", "gid_map"];

fn own_map(kind: &str) -> Result<String, Failure> {
    let path = format!("/proc/self/{kind}");
    fs::read_to_string(&path).doing(Code::Os, || format!("reading '{path}'"))
}

/// Parses a map: the first id inside and the count of each range.
fn parse(map: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
        Some((numbers.next()??, numbers.nth(1)??))
    };
    map.lines().filter_map(range).collect()
}

/// Returns the start of the first range of subuid(5) that is this user's, is long enough and does not contain the `own` id.
/// The error is the start of one that contains it.
fn range_in(text: &str, uid: u32, name: Option<&str>, own: u32) -> Result<u64, Option<u64>> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let mine = Some(owner) == name || owner.parse() == Ok(uid);
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (start, count) = (number()?, number()?);
        (mine && count >= NEEDED).then_some(start)
    };
    let starts: Vec<u64> = text.lines().filter_map(range).collect();
    let contains = |start: u64| (start..start.saturating_add(NEEDED)).contains(&own.into());
    starts.iter().copied().find(|start| !contains(*start)).ok_or(starts.first().copied())
}

/// The length of the ranges that useradd(8) adds.
const LENGTH: u64 = 65_536;

/// Returns the first and the last id of a free range: not in subuid(5) or subgid(5), and no user or group is in it,
/// including us.
#[must_use]
pub fn free_range() -> (u64, u64) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let ranges = FILES.map(read);
    let mut names = ["/etc/passwd", "/etc/group"].map(read).concat();
    names.push_str(&format!("\n::{}:\n::{}:", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
    let first = free_in(&ranges.concat(), &names);
    (first, first + LENGTH - 1)
}

/// Returns the start of the first free range from 100000 on, in steps of [`LENGTH`]. `names` is passwd(5) and group(5).
fn free_in(ranges: &str, names: &str) -> u64 {
    const FIRST: u64 = 100_000;
    let number = |line: &str, n: usize| line.trim().split(':').nth(n)?.parse::<u64>().ok();
    let ranges = ranges.lines().filter_map(|l| Some((number(l, 1)?, number(l, 2)?)));
    let ids = names.lines().filter_map(|l| Some((number(l, 2)?, 1)));
    let mut taken: Vec<_> = ranges.chain(ids).collect();
    taken.sort_unstable();
    let mut first = FIRST;
    for (start, count) in taken {
        let end = start.saturating_add(count);
        if start < first + LENGTH && end > first && end <= u64::from(u32::MAX) + 1 {
            first = FIRST + (end - FIRST).div_ceil(LENGTH) * LENGTH;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_id_and_must_be_long_enough() {
        let text = "ann:100000:65536\n1002:165536:65536\nbob:300000:1000\nbob:400000:65536\nx:y\n";
        for (uid, name, start) in [
            (1001, Some("ann"), Some(100_000)),
            (1002, None, Some(165_536)),
            (1003, Some("bob"), Some(400_000)),
            (1004, Some("eve"), None),
        ] {
            assert_eq!(range_in(text, uid, name, uid).ok(), start);
        }
    }

    #[test]
    fn a_range_with_the_users_own_id_is_passed_over_and_named() {
        let text = "ann:500:65536\nann:0:65536\nbob:500:65536\nbob:200000:65536\n";
        assert_eq!(range_in(text, 1001, Some("ann"), 1001), Err(Some(500)));
        assert_eq!(range_in(text, 1002, Some("bob"), 1002), Ok(200_000));
        assert_eq!(range_in(text, 1003, Some("eve"), 1003), Err(None));
    }

    #[test]
    fn a_free_range_is_nobodys() {
        for (ranges, names, first) in [
            ("", "", 100_000),
            ("ann:100000:65536\nbob:165536:65536", "", 231_072),
            ("ann:100000:1000\n", "", 165_536),
            ("bob:231072:65536\nann:100000:65536\n", "", 165_536),
            // From Podman's manual: no ids follow it.
            ("containers:2147483647:2147483648\n", "", 100_000),
            ("x\n:::\nann:5:5\na:18446744073709551615:9\nb:99999999999:1", "", 100_000),
            ("ann:0:100001\n", "", 165_536),
            // Users and groups, such as a domain's.
            ("", "eve:x:165535:100:::\n", 165_536),
            ("ann:165536:65536\n", "eve:x:100000:\nusers:x:231073:\n", 296_608),
        ] {
            assert_eq!(free_in(ranges, names), first, "{ranges}{names}");
        }
    }

    #[test]
    fn maps_are_parsed() {
        assert_eq!(parse("0 0 4294967295\n"), [(0, 4_294_967_295)]);
        assert_eq!(parse("         0 100000 65536\n 70000 3 1\nx\n"), [(0, 65_536), (70_000, 1)]);
        assert_eq!(parse(""), []);
    }
}

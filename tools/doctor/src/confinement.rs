//! Namespaces, and what may forbid them: security modules, seccomp, limits, a chroot.

use crate::finding::Finding;
use crate::release::Release;
use crate::trial::{self, Trials, Tried};
use std::fs;

/// The restrictions on this process that can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confinement {
    /// Whether we are root.
    pub(crate) root: bool,
    /// Whether we have the capability `SYS_ADMIN`.
    pub(crate) sys_admin: bool,
    /// The mode of seccomp(2): 0 off, 1 strict, 2 filter.
    pub(crate) seccomp: u32,
    /// Whether `no_new_privs` is set (prctl(2)).
    pub(crate) no_new_privs: bool,
    /// Whether AppArmor takes the capabilities of an ordinary user's namespace away.
    pub(crate) apparmor: bool,
    /// The AppArmor profile that confines us, such as a container's.
    pub(crate) profile: Option<String>,
    /// A switch or limit below `/proc/sys` that is 0 and forbids what we need.
    pub(crate) zero: Option<&'static str>,
    /// Whether we run in a chroot(2).
    pub(crate) chrooted: bool,
    /// Whether we are in a user namespace other than the initial one.
    pub(crate) nested: bool,
    /// Whether QEMU's user mode runs us: it has a thread of its own, and we have one.
    pub(crate) emulated: bool,
}

/// AppArmor's switch, of Ubuntu 23.10 and later.
const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";

const NO_NEW_PRIVS_FIX: &str = "start it without the option that sets it: NoNewPrivileges=yes of a service, \
                                --security-opt no-new-privileges of a container, setpriv --no-new-privs";

impl Confinement {
    /// Reads it from `/proc`.
    pub(crate) fn read(root: bool) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let is = |name: &str, value: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
            text.is_ok_and(|text| text.trim() == value)
        };
        let all = [
            "user.max_mnt_namespaces",
            "user.max_pid_namespaces",
            "user.max_user_namespaces",
            // Debian's own, until Debian 12.
            "kernel.unprivileged_userns_clone",
        ];
        let of_status = Self::of_status(&status);
        // Root that may mount needs user namespaces only for a private binfmt table.
        let needed = &all[..if root && of_status.sys_admin { 2 } else { 4 }];
        let mounts = rootfs::mountinfo::read();
        Self {
            root,
            zero: needed.iter().copied().find(|name| is(name, "0")),
            profile: rootfs::attach::apparmor_profile(),
            apparmor: is(APPARMOR, "1"),
            // A process in a chroot sees only the mounts below it, and its own root is rarely one of them.
            chrooted: mounts.is_ok_and(|all| all.iter().all(|m| m.target.as_os_str() != "/")),
            nested: fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_partial(&map)),
            emulated: fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1),
            ..of_status
        }
    }

    /// Reads the text of proc_pid_status(5).
    fn of_status(text: &str) -> Self {
        let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map_or("", str::trim);
        const SYS_ADMIN: u32 = 21;
        let capabilities = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0);
        Self {
            sys_admin: capabilities & (1 << SYS_ADMIN) != 0,
            seccomp: field("Seccomp:").parse().unwrap_or(0),
            no_new_privs: field("NoNewPrivs:") == "1",
            ..Self::default()
        }
    }

    /// Returns the most likely cause of a refusal, and how to fix it.
    fn cause(&self, sudo: &str) -> Option<(String, String)> {
        const SECCOMP: &str = "a seccomp filter is active: this container forbids namespaces";
        let cause = |why: &str, fix: &str| Some((why.to_owned(), fix.to_owned()));
        let filtered = self.seccomp != 0;
        match (self.zero, &self.profile) {
            _ if self.emulated => cause(
                "QEMU's user mode runs this program: it has not all system calls, and makes no namespaces",
                "use the tools for this machine's own architecture, which make roots of any, or a virtual machine",
            ),
            (Some(zero), _) => {
                let value = if zero.ends_with("_clone") { 1 } else { 15000 };
                cause(&format!("'{zero}' is 0"), &format!("{sudo}sysctl -w {zero}={value}"))
            }
            (None, None) if filtered && !self.sys_admin => {
                cause(SECCOMP, "run the container with --security-opt seccomp=unconfined (--privileged is not needed)")
            }
            (None, Some(_)) if filtered && !self.sys_admin => cause(
                SECCOMP,
                "run the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
                 (--privileged is not needed)",
            ),
            (None, Some(profile)) => cause(
                &format!("the AppArmor profile '{profile}' confines us; a container's forbids mounts"),
                "run the container with --security-opt apparmor=unconfined",
            ),
            _ if self.root && !self.sys_admin => cause(
                "root lacks the capability SYS_ADMIN, and may not make a user namespace to get it",
                "run the container with --privileged",
            ),
            _ if self.root && self.nested => cause(
                "root of a user namespace may mount only what the container shows as a whole",
                "run the container with --security-opt unmask=ALL (podman), or run on the host",
            ),
            _ if filtered => cause(
                "a seccomp filter is active: this container forbids mounts",
                "run the container with --security-opt seccomp=unconfined",
            ),
            _ if !self.root && self.no_new_privs => {
                cause("'no_new_privs' is set, so newuidmap and newgidmap may not write a map", NO_NEW_PRIVS_FIX)
            }
            _ if !self.root && self.apparmor => cause(
                "AppArmor takes the capabilities of an ordinary user's namespaces away",
                &format!("{sudo}sysctl -w {APPARMOR}=0"),
            ),
            _ if self.root && self.chrooted => cause(
                "this is a chroot that is no mount point, so its mounts cannot be told from the host's",
                "leave the chroot, or enter it by a mount point: mount --bind DIR DIR && chroot DIR",
            ),
            _ if self.chrooted => cause(
                "this is a chroot, in which the kernel allows no user namespace",
                "leave the chroot, or run the pipeline as root",
            ),
            _ => None,
        }
    }
}

/// Returns whether a map of user_namespaces(7) leaves ids out: only the initial namespace has all.
fn is_partial(map: &str) -> bool {
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Checks whether a root can be entered at all.
pub(crate) fn namespaces(trials: &Trials, confinement: &Confinement, release: &Release) -> Finding {
    let kind = match confinement.root {
        true => "mount and PID namespaces, as root",
        false => "user, mount and PID namespaces, as an ordinary user",
    };
    let failure = match &trials.native {
        Tried::Worked => return Finding::ok(format!("{kind}: work")),
        // The reason is a finding of its own.
        Tried::Not(why) => return Finding::warn(format!("{kind}: not tried")).why(why).fix(trial::AGAIN),
        Tried::Failed(failure) => failure,
    };
    let finding = Finding::fail(format!("{kind}: {failure}"));
    // Where the container is not ours to choose.
    let or_chroot = match trials.chroot {
        Tried::Worked => {
            "; where that cannot be had, as in 'docker build', 'mkroot --chroot' works here, and promises less"
        }
        _ => "",
    };
    match (confinement.cause(release.sudo), &failure.hint) {
        (Some((why, fix)), _) => finding.why(why).fix(format!("{fix}{or_chroot}")),
        (None, Some(hint)) if failure.cause != Some(stage::Cause::SeeDoctor) => {
            finding.why("this is the first step of every tool").fix(hint)
        }
        (None, _) => finding
            .why("the kernel refused, and none of the known causes applies")
            .fix("try it as root, outside of every container and chroot"),
    }
}

/// Checks AppArmor's restriction of user namespaces.
pub(crate) fn apparmor(works: bool, confinement: &Confinement, release: &Release) -> Finding {
    match (confinement.apparmor, confinement.root, works) {
        (false, ..) => Finding::ok("does not restrict user namespaces"),
        (true, true, _) => Finding::ok("restricts the user namespaces of ordinary users, not root's"),
        (true, false, true) => Finding::ok("restricts user namespaces, but not ours"),
        (true, false, false) => Finding::fail(format!("'{APPARMOR}' is 1"))
            .why(
                "a user namespace can be made, but without capabilities: nothing can be mounted in it. Root is not \
                 restricted, nor is a program with an AppArmor profile that says 'userns,'",
            )
            .fix(format!("{}sysctl -w {APPARMOR}=0", release.sudo)),
    }
}

pub(crate) fn seccomp(works: bool, confinement: &Confinement) -> Finding {
    match (confinement.seccomp, works) {
        (0, _) => Finding::ok("no filter"),
        (_, true) => Finding::ok("a filter is active, and allows what is needed"),
        (_, false) => Finding::warn("a filter is active")
            .why("a container's filter may forbid namespaces and mounts")
            .fix("run the container with --security-opt seccomp=unconfined"),
    }
}

pub(crate) fn no_new_privs(confinement: &Confinement) -> Finding {
    let finding = match (confinement.no_new_privs, confinement.root) {
        (false, _) => return Finding::ok("not set"),
        (true, true) => Finding::warn("set").why("set-uid programs in the root, such as sudo, work only for root"),
        (true, false) => {
            Finding::fail("set").why("newuidmap and newgidmap may not map ids, since they cannot be set-uid")
        }
    };
    finding.fix(NO_NEW_PRIVS_FIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;
    use stage::{Code, Failure};

    fn user() -> Confinement {
        Confinement::default()
    }

    fn tried(native: Tried) -> Trials {
        Trials { native, ..Trials::none("not needed") }
    }

    fn refused() -> Trials {
        tried(Tried::Failed(Failure::new(Code::Permission, "making namespaces: Operation not permitted")))
    }

    fn release() -> Release {
        Release::parse("ID=debian\nVERSION_ID=12\n", false)
    }

    #[test]
    fn the_kernels_text_is_read() {
        let text = "Name:\tx\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let read = Confinement::of_status(text);
        assert!(read.sys_admin && read.no_new_privs);
        assert_eq!(read.seccomp, 2);
        assert!(is_partial("0 1001 1\n1 100000 65535\n"));
        assert!(!is_partial("         0          0 4294967295\n"));
        let docker = Confinement::of_status("CapEff:\t00000000a80425fb\n");
        assert!(!docker.sys_admin);
    }

    #[test]
    fn each_cause_of_a_refusal_has_its_fix() {
        for (confinement, why, fix) in [
            (
                Confinement { zero: Some("user.max_user_namespaces"), ..user() },
                "'user.max_user_namespaces' is 0",
                "sudo sysctl -w user.max_user_namespaces=15000",
            ),
            (
                Confinement { zero: Some("kernel.unprivileged_userns_clone"), ..user() },
                "is 0",
                "sudo sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            (Confinement { root: true, seccomp: 2, ..user() }, "seccomp", "--security-opt seccomp=unconfined ("),
            (Confinement { root: true, ..user() }, "SYS_ADMIN", "--privileged"),
            (
                Confinement { root: true, seccomp: 2, profile: Some("docker-default".to_owned()), ..user() },
                "seccomp",
                "seccomp=unconfined --security-opt apparmor=unconfined",
            ),
            (
                Confinement {
                    root: true,
                    sys_admin: true,
                    seccomp: 2,
                    profile: Some("docker-default".to_owned()),
                    ..user()
                },
                "'docker-default'",
                "--security-opt apparmor=unconfined",
            ),
            (Confinement { root: true, sys_admin: true, nested: true, ..user() }, "user namespace", "unmask=ALL"),
            (
                Confinement { root: true, sys_admin: true, chrooted: true, ..user() },
                "no mount point",
                "mount --bind DIR DIR",
            ),
            (Confinement { root: true, seccomp: 2, emulated: true, ..user() }, "QEMU's user mode", "own architecture"),
            (user(), "none of the known causes", "as root"),
            (Confinement { seccomp: 2, ..user() }, "seccomp", "--security-opt seccomp=unconfined"),
            (Confinement { no_new_privs: true, ..user() }, "newuidmap", "NoNewPrivileges=yes"),
            (
                Confinement { apparmor: true, ..user() },
                "AppArmor",
                "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (Confinement { chrooted: true, ..user() }, "chroot", "as root"),
        ] {
            let finding = namespaces(&refused(), &confinement, &release());
            assert_eq!(finding.status, Status::Fail);
            assert!(finding.found.ends_with("Operation not permitted"));
            assert!(finding.why.unwrap().contains(why), "{why}");
            assert!(finding.fix.unwrap().contains(fix), "{fix}");
        }
    }

    #[test]
    fn chroot_is_named_where_it_works() {
        let docker = Confinement { root: true, seccomp: 2, ..user() };
        let fix = |trials: &Trials| namespaces(trials, &docker, &release()).fix.unwrap();
        assert!(fix(&Trials { chroot: Tried::Worked, ..refused() }).contains("'mkroot --chroot' works here"));
        assert!(!fix(&refused()).contains("chroot"));
    }

    #[test]
    fn a_restriction_fails_only_where_namespaces_do_not_work() {
        let all = Confinement { apparmor: true, seccomp: 2, no_new_privs: true, ..user() };
        assert_eq!(apparmor(true, &all, &release()).status, Status::Ok);
        assert_eq!(apparmor(false, &all, &release()).status, Status::Fail);
        assert_eq!(seccomp(true, &all).status, Status::Ok);
        assert_eq!(seccomp(false, &all).status, Status::Warn);
        assert_eq!(no_new_privs(&all).status, Status::Fail);
        let root = Confinement { root: true, ..all };
        assert_eq!(apparmor(false, &root, &release()).status, Status::Ok);
        assert_eq!(no_new_privs(&root).status, Status::Warn);
        let finding = namespaces(&tried(Tried::Not("no ids".into())), &user(), &release());
        assert_eq!(finding.status, Status::Warn);
        assert_eq!(namespaces(&tried(Tried::Worked), &user(), &release()).status, Status::Ok);
    }
}

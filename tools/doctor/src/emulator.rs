//! Programs of a foreign architecture: the emulator, a private binfmt_misc table, and the host's.

use crate::finding::Finding;
use crate::ids::find_in_path;
use crate::kernel::PRIVATE_TABLE;
use crate::release::{Need, Release};
use crate::trial::{self, Trials, Tried};
use rootfs::Arch;
use rootfs::binfmt::{Handler, TABLE, find_interpreter, host_handler};
use stage::quote;
use std::fs;
use std::path::{Path, PathBuf};

/// What this host has to run foreign programs with.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// The target.
    pub(crate) arch: Arch,
    /// Whether the kernel runs its programs itself.
    pub(crate) native: bool,
    /// The static emulator.
    pub(crate) interpreter: Option<PathBuf>,
    /// An emulator that needs libraries, where there is no static one.
    pub(crate) dynamic: Option<PathBuf>,
    /// The host's handler.
    pub(crate) handler: Option<Handler>,
    /// Whether Debian's update-binfmts(8) knows the emulator.
    pub(crate) update_binfmts: bool,
    /// Whether systemd runs.
    pub(crate) systemd: bool,
    /// The binfmt.d(5) file of the emulator.
    pub(crate) file: Option<PathBuf>,
    /// Whether the host's table is mounted.
    pub(crate) mounted: bool,
    /// Whether the kernel has binfmt_misc loaded.
    pub(crate) binfmt_misc: bool,
    /// The kernel's version.
    pub(crate) kernel: (u32, u32),
}

impl Means {
    /// Reads them from the host.
    pub(crate) fn read(arch: Arch, host: Arch, kernel: (u32, u32)) -> Self {
        let names = ["-static", ""].map(|end| format!("qemu-{}{end}", arch.qemu));
        let interpreter = find_interpreter(arch);
        let dynamic = || names.iter().find_map(|name| find_in_path(name));
        let in_binfmt_d = |dir| names.each_ref().map(|n| Path::new(dir).join(format!("{n}.conf")));
        let files = ["/etc/binfmt.d", "/run/binfmt.d", "/usr/lib/binfmt.d"].map(in_binfmt_d);
        let known = format!("/var/lib/binfmts/qemu-{}", arch.qemu);
        Self {
            arch,
            native: arch.is_native_on(host),
            dynamic: interpreter.is_none().then(dynamic).flatten(),
            interpreter,
            handler: host_handler(arch),
            update_binfmts: Path::new(&known).exists(),
            systemd: Path::new("/run/systemd/system").is_dir(),
            file: files.into_iter().flatten().find(|path| path.is_file()),
            mounted: Path::new(TABLE).join("register").exists(),
            binfmt_misc: fs::read_to_string("/proc/filesystems")
                .is_ok_and(|all| all.lines().any(|l| l.ends_with("binfmt_misc"))),
            kernel,
        }
    }

    /// Returns the command that registers the emulator with the host.
    fn register(&self, release: &Release) -> String {
        let sudo = release.sudo;
        match &self.file {
            _ if self.update_binfmts => {
                format!("{sudo}update-binfmts --enable qemu-{}", self.arch.qemu)
            }
            None => release.install(Need::Registration(self.arch)),
            Some(_) if self.systemd => format!("{sudo}systemctl restart systemd-binfmt"),
            Some(file) => {
                let mount = format!("mount -t binfmt_misc binfmt_misc {TABLE} && ");
                let mount = if self.mounted { "" } else { &mount };
                format!("{sudo}sh -c '{mount}cat {} > {TABLE}/register'", file.display())
            }
        }
    }

    /// Returns the command that registers the host's handler again, with all flags.
    fn register_again(&self, handler: &Handler, release: &Release) -> String {
        let sudo = release.sudo;
        let Some(file) = &self.file else {
            return format!("register '{}' again, with the flags OCPF", handler.name);
        };
        let conf = file.display();
        if self.systemd {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            return format!(
                "sed 's/:[A-Z]*$/:OCPF/' {conf} | {sudo}tee /etc/binfmt.d/{name}.new && {sudo}mv \
                 /etc/binfmt.d/{name}.new /etc/binfmt.d/{name} && {sudo}systemctl restart systemd-binfmt"
            );
        }
        format!("{sudo}sh -c 'echo -1 > {TABLE}/{}; sed \"s/:[A-Z]*$/:OCPF/\" {conf} > {TABLE}/register'", handler.name)
    }
}

/// Returns the fix where an emulator is installed, and does not work.
fn reinstall(arch: Arch, release: &Release) -> String {
    let install = release.install(Need::Emulator(arch));
    format!("check that the emulator itself works, and reinstall it: {install}")
}

/// Checks the emulator.
pub(crate) fn emulator(means: &Means, trials: &Trials, release: &Release) -> Finding {
    let arch = means.arch.name;
    let finding = match (&means.interpreter, &means.dynamic) {
        (Some(path), _) => return Finding::ok(format!("{}, static", quote(path))),
        (None, _) if trials.host == Tried::Worked => {
            return Finding::ok(format!("none, but programs of {arch} run here without"));
        }
        (None, Some(path)) => Finding::fail(format!("only {}, which is not static", quote(path)))
            .why("an emulator that needs libraries looks for them inside the root, which has none of this host's"),
        (None, None) => Finding::fail(format!("none for {arch}"))
            .why("scriptlets and hooks are programs of the target: without it all fail, although pacman exits 0"),
    };
    finding.fix(release.install(Need::Emulator(means.arch)))
}

/// Checks the private table.
pub(crate) fn private_binfmt(means: &Means, trials: &Trials, release: &Release) -> Finding {
    const NONE: &str = "Linux before 6.7 has none";
    let why = "with a private table a pipeline runs foreign programs without registering anything on the host";
    let host = trials.host == Tried::Worked;
    let old = means.kernel < PRIVATE_TABLE;
    let failure = match &trials.private {
        Tried::Worked => {
            return Finding::ok(format!("runs programs of {}, without changes to the host", means.arch.name));
        }
        Tried::Not(reason) if host => {
            return Finding::ok(format!("not tried: {reason}; the host has what is needed")).why(why);
        }
        Tried::Not(reason) => return Finding::warn(format!("not tried: {reason}")).why(why).fix(trial::AGAIN),
        Tried::Failed(failure) => failure,
    };
    if host {
        let reason = if old { NONE } else { &failure.message };
        return Finding::ok(format!("{reason}; the host's handler is used")).why(why);
    }
    if old {
        return Finding::warn(NONE)
            .why("a newer kernel needs nothing on the host; this one needs the host's handler")
            .fix("see the fix of host-binfmt, or use a newer kernel");
    }
    Finding::fail(&failure.message).why(why).fix(match &failure.hint {
        _ if !means.binfmt_misc => format!("{}modprobe binfmt_misc", release.sudo),
        Some(hint) => hint.clone(),
        None => reinstall(means.arch, release),
    })
}

/// Checks the host's handler and its flags. It is needed only where a private table cannot be used.
pub(crate) fn host_binfmt(means: &Means, trials: &Trials, release: &Release) -> Finding {
    let arch = means.arch.name;
    let Some(handler) = &means.handler else {
        if trials.host == Tried::Worked {
            return Finding::ok(format!("not needed: this machine runs {arch} itself"));
        }
        // What prevents a private table is a finding of its own.
        let not_tried = matches!(trials.private, Tried::Not(_));
        if trials.private == Tried::Worked || not_tried && means.kernel >= PRIVATE_TABLE {
            return Finding::ok(format!("no handler for {arch}, and none is needed"));
        }
        return Finding::fail(format!("no handler for {arch} in '{TABLE}'"))
            .why("without a handler programs of the target end with 'Exec format error'")
            .fix(match means.interpreter {
                None => release.install(Need::Emulator(means.arch)),
                Some(_) => means.register(release),
            });
    };
    let missing = missing_flags(&handler.flags);
    let (name, flags) = (&handler.name, &handler.flags);
    let found = format!("'{name}' runs {} with flags {flags}", quote(&handler.interpreter));
    let unused = format!("{found}; a pipeline does not use it");
    let why = missing.join("; ");
    let finding = match &trials.host {
        _ if trials.private == Tried::Worked && missing.is_empty() => return Finding::ok(unused),
        _ if trials.private == Tried::Worked => Finding::ok(unused).why(why),
        Tried::Worked if missing.is_empty() => return Finding::ok(found),
        Tried::Worked => Finding::warn(found).why(why),
        Tried::Not(reason) if flags.contains('F') => {
            return Finding::ok(format!("{found}; not tried: {reason}"));
        }
        Tried::Not(_) => Finding::fail(found).why(why),
        Tried::Failed(failure) if missing.is_empty() => {
            return Finding::fail(found).why(&failure.message).fix(reinstall(means.arch, release));
        }
        Tried::Failed(failure) => Finding::fail(found).why(format!("{failure}: {why}")),
    };
    finding.fix(means.register_again(handler, release))
}

/// Returns what does not work for each flag that a handler lacks.
#[rustfmt::skip]
fn missing_flags(flags: &str) -> Vec<&'static str> {
    let all = [
        ('F', "without F (fix binary) the kernel looks for the emulator inside the root, where it is not"),
        ('C', "without C (credentials) set-uid programs such as sudo and passwd run without their rights"),
        ('P', "without P (preserve argv[0]) programs that check the name they are called by see another"),
    ];
    all.iter().filter(|(flag, _)| !flags.contains(*flag)).map(|(_, why)| *why).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;
    use stage::{Code, Failure};
    use std::path::PathBuf;

    fn means() -> Means {
        Means {
            arch: Arch::named("aarch64").unwrap(),
            native: false,
            interpreter: Some("/usr/bin/qemu-aarch64-static".into()),
            dynamic: None,
            handler: None,
            update_binfmts: false,
            systemd: false,
            file: None,
            mounted: false,
            binfmt_misc: true,
            kernel: (6, 18),
        }
    }

    fn debian() -> Release {
        Release::parse("ID=debian\nVERSION_ID=12\n", false)
    }

    fn failed() -> Tried {
        Tried::Failed(Failure::new(Code::Failed, "running a program of aarch64"))
    }

    fn trials(private: Tried, host: Tried) -> Trials {
        Trials { native: Tried::Worked, private, host, chroot: Tried::Not("not needed".to_owned()) }
    }

    fn handler(flags: &str) -> Option<Handler> {
        Some(Handler {
            name: "qemu-aarch64".into(),
            interpreter: "/usr/libexec/qemu-binfmt/aarch64-binfmt-P".into(),
            flags: flags.into(),
        })
    }

    fn statuses(means: &Means, trials: &Trials) -> [Status; 3] {
        [
            emulator(means, trials, &debian()).status,
            private_binfmt(means, trials, &debian()).status,
            host_binfmt(means, trials, &debian()).status,
        ]
    }

    #[test]
    fn one_way_that_works_is_enough() {
        use Status::{Fail, Ok, Warn};
        let old = Means { kernel: (6, 1), ..means() };
        let old_with_handler = Means { handler: handler("OCPF"), ..old.clone() };
        let bare = Means { interpreter: None, ..means() };
        let not = || Tried::Not("it needs an emulator first".into());
        for (means, trials, expected) in [
            (means(), trials(Tried::Worked, failed()), [Ok, Ok, Ok]),
            (means(), trials(failed(), failed()), [Ok, Fail, Fail]),
            (old.clone(), trials(failed(), failed()), [Ok, Warn, Fail]),
            (old_with_handler, trials(failed(), Tried::Worked), [Ok, Ok, Ok]),
            (bare.clone(), trials(not(), failed()), [Fail, Warn, Ok]),
            (bare, trials(not(), Tried::Worked), [Ok, Ok, Ok]),
        ] {
            assert_eq!(statuses(&means, &trials), expected, "{means:?} {trials:?}");
        }
    }

    #[test]
    fn each_missing_flag_is_reported_with_its_effect() {
        for (flags, host, status, says, silent) in [
            ("PF", Tried::Worked, Status::Warn, "sudo", "inside the root"),
            ("OCF", Tried::Worked, Status::Warn, "argv[0]", "sudo"),
            ("OCP", failed(), Status::Fail, "inside the root", "sudo"),
            ("OCPF", Tried::Worked, Status::Ok, "", "without"),
        ] {
            let means = Means { handler: handler(flags), ..means() };
            let finding = host_binfmt(&means, &trials(failed(), host), &debian());
            assert_eq!(finding.status, status, "{flags}");
            let why = finding.why.unwrap_or_default();
            assert!(why.contains(says) && !why.contains(silent), "{flags}: {why}");
        }
    }

    #[test]
    fn a_dynamic_emulator_does_not_count() {
        let means = Means { interpreter: None, dynamic: Some("/usr/bin/qemu-aarch64".into()), ..means() };
        let finding = emulator(&means, &trials(Tried::Not(String::new()), failed()), &debian());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.found, "only '/usr/bin/qemu-aarch64', which is not static");
        assert_eq!(finding.fix.unwrap(), "sudo apt-get install qemu-user-static");
    }

    #[test]
    fn the_command_that_registers_depends_on_the_host() {
        let file = Some(PathBuf::from("/usr/lib/binfmt.d/qemu-aarch64.conf"));
        for (means, command) in [
            (Means { update_binfmts: true, ..means() }, "sudo update-binfmts --enable qemu-aarch64"),
            (Means { systemd: true, file: file.clone(), ..means() }, "sudo systemctl restart systemd-binfmt"),
            (
                Means { file, ..means() },
                "sudo sh -c 'mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && cat \
                 /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register'",
            ),
            (means(), "sudo apt-get install qemu-user-static"),
        ] {
            let finding = host_binfmt(&means, &trials(failed(), failed()), &debian());
            assert_eq!(finding.fix.unwrap(), command);
        }
    }
}

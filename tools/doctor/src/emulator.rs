//! Programs of a foreign architecture: the emulator, a binfmt_misc table of our own, and the host's.

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

/// What there is to run foreign programs with.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// The target.
    pub(crate) arch: Arch,
    /// Whether the kernel runs its programs itself.
    pub(crate) native: bool,
    /// The static emulator.
    pub(crate) interpreter: Option<PathBuf>,
    /// An emulator that needs libraries, where there is only that.
    pub(crate) dynamic: Option<PathBuf>,
    /// The host's handler.
    pub(crate) handler: Option<Handler>,
    /// How a handler gets into the host's table.
    pub(crate) registrar: Registrar,
    /// Whether the kernel has binfmt_misc loaded.
    pub(crate) binfmt_misc: bool,
    /// The kernel's version.
    pub(crate) kernel: (u32, u32),
}

/// How a handler gets into the host's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registrar {
    /// Whether Debian's update-binfmts(8) knows the emulator.
    pub(crate) update_binfmts: bool,
    /// Whether systemd runs.
    pub(crate) systemd: bool,
    /// The binfmt.d(5) file of the emulator.
    pub(crate) file: Option<PathBuf>,
    /// Whether the host's table is mounted.
    pub(crate) mounted: bool,
}

impl Means {
    /// Looks for them.
    pub(crate) fn here(arch: Arch, host: Arch, kernel: (u32, u32)) -> Self {
        let interpreter = find_interpreter(arch);
        let dynamic = match interpreter {
            Some(_) => None,
            None => [
                format!("qemu-{}-static", arch.qemu),
                format!("qemu-{}", arch.qemu),
            ]
            .iter()
            .find_map(|name| find_in_path(name)),
        };
        let file = ["/etc/binfmt.d", "/run/binfmt.d", "/usr/lib/binfmt.d"]
            .iter()
            .flat_map(|dir| {
                ["-static", ""]
                    .map(|end| Path::new(dir).join(format!("qemu-{}{end}.conf", arch.qemu)))
            })
            .find(|path| path.is_file());
        let known = format!("/var/lib/binfmts/qemu-{}", arch.qemu);
        Self {
            arch,
            native: arch.is_native_on(host),
            interpreter,
            dynamic,
            handler: host_handler(arch),
            registrar: Registrar {
                update_binfmts: Path::new(&known).exists(),
                systemd: Path::new("/run/systemd/system").is_dir(),
                file,
                mounted: Path::new(TABLE).join("register").exists(),
            },
            binfmt_misc: fs::read_to_string("/proc/filesystems")
                .is_ok_and(|all| all.lines().any(|l| l.ends_with("binfmt_misc"))),
            kernel,
        }
    }

    fn not_needed(&self, name: &'static str) -> Finding {
        let arch = self.arch.name;
        Finding::ok(name, format!("not needed: {arch} is native here"))
    }

    /// Returns the command that registers the emulator with the host.
    fn register(&self, release: &Release) -> String {
        let sudo = release.sudo();
        match &self.registrar {
            Registrar {
                update_binfmts: true,
                ..
            } => format!("{sudo}update-binfmts --enable qemu-{}", self.arch.qemu),
            Registrar {
                systemd: true,
                file: Some(_),
                ..
            } => format!("{sudo}systemctl restart systemd-binfmt"),
            Registrar {
                file: Some(file),
                mounted,
                ..
            } => {
                let mount = if *mounted {
                    String::new()
                } else {
                    format!("mount -t binfmt_misc binfmt_misc {TABLE} && ")
                };
                format!(
                    "{sudo}sh -c '{mount}cat {} > {TABLE}/register'",
                    file.display()
                )
            }
            Registrar { file: None, .. } => release.install(Need::Registration),
        }
    }

    /// Returns the command that registers the host's handler again, with all flags.
    fn register_again(&self, handler: &Handler, release: &Release) -> String {
        let sudo = release.sudo();
        let Registrar { systemd, file, .. } = &self.registrar;
        let Some(file) = file else {
            return format!("register '{}' again, with the flags OCPF", handler.name);
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let conf = file.display();
        if *systemd {
            return format!(
                "sed 's/:[A-Z]*$/:OCPF/' {conf} | {sudo}tee /etc/binfmt.d/{name}.new && {sudo}mv \
                 /etc/binfmt.d/{name}.new /etc/binfmt.d/{name} && {sudo}systemctl restart systemd-binfmt"
            );
        }
        format!(
            "{sudo}sh -c 'echo -1 > {TABLE}/{}; sed \"s/:[A-Z]*$/:OCPF/\" {conf} > {TABLE}/register'",
            handler.name
        )
    }
}

/// Judges the emulator.
pub(crate) fn emulator(means: &Means, trials: &Trials, release: &Release) -> Finding {
    const NAME: &str = "emulator";
    if means.native {
        return means.not_needed(NAME);
    }
    let arch = means.arch.name;
    let finding = match (&means.interpreter, &means.dynamic) {
        (Some(path), _) => return Finding::ok(NAME, format!("{}, static", quote(path))),
        (None, _) if trials.host.worked() => {
            return Finding::ok(NAME, format!("none, but programs of {arch} run here without"));
        }
        (None, Some(path)) => {
            Finding::fail(NAME, format!("only {}, which is not static", quote(path))).why(
                "inside a root an emulator that needs libraries would look for them there, where there are none of \
                 this host's",
            )
        }
        (None, None) => Finding::fail(NAME, format!("none for {arch}"))
            .why("scriptlets and hooks of packages are programs of the target: pacman would exit 0 with all of them failed"),
    };
    finding.fix(release.install(Need::Emulator))
}

/// Judges the table of our own.
pub(crate) fn private_binfmt(means: &Means, trials: &Trials, release: &Release) -> Finding {
    const NAME: &str = "private-binfmt";
    if means.native {
        return means.not_needed(NAME);
    }
    let arch = means.arch.name;
    let why = "with a table of its own a pipeline runs foreign programs without anything being registered on the host";
    let failure = match &trials.private {
        Tried::Worked => {
            return Finding::ok(NAME, format!("runs programs of {arch}, the host unchanged"));
        }
        Tried::Not(reason) if trials.host.worked() => {
            return Finding::ok(
                NAME,
                format!("not tried: {reason}; the host has what is needed"),
            )
            .why(why);
        }
        Tried::Not(reason) => {
            return Finding::warn(NAME, format!("not tried: {reason}"))
                .why(why)
                .fix(trial::AGAIN);
        }
        Tried::Failed(failure) => failure,
    };
    let old = means.kernel < PRIVATE_TABLE;
    if trials.host.worked() {
        let reason = if old {
            "Linux before 6.7 has none".to_owned()
        } else {
            failure.to_string()
        };
        return Finding::ok(NAME, format!("{reason}; the host's handler is used")).why(why);
    }
    if old {
        return Finding::warn(NAME, "Linux before 6.7 has none")
            .why("a newer kernel needs nothing on the host; this one needs the host's handler")
            .fix("mend what is said of host-binfmt, or use a newer kernel");
    }
    let finding = Finding::fail(NAME, failure.to_string()).why(why);
    if !means.binfmt_misc {
        return finding.fix(format!("{}modprobe binfmt_misc", release.sudo()));
    }
    match &failure.hint {
        Some(hint) => finding.fix(hint),
        None => finding.fix(format!(
            "see whether the emulator itself works, and install it anew: {}",
            release.install(Need::Emulator)
        )),
    }
}

/// Judges the host's handler and its flags. It is needed only where a table of our own cannot be had.
pub(crate) fn host_binfmt(means: &Means, trials: &Trials, release: &Release) -> Finding {
    const NAME: &str = "host-binfmt";
    if means.native {
        return means.not_needed(NAME);
    }
    let arch = means.arch.name;
    let why = "without a handler programs of the target end with 'Exec format error'";
    let Some(handler) = &means.handler else {
        let found = format!("no handler for {arch} in '{TABLE}'");
        if trials.host.worked() {
            return Finding::ok(NAME, format!("not needed: this machine runs {arch} itself"));
        }
        // What is in the way of a table of our own is a finding of its own, and mended there.
        let hopeful = matches!(trials.private, Tried::Not(_)) && means.kernel >= PRIVATE_TABLE;
        if trials.private.worked() || hopeful {
            return Finding::ok(NAME, format!("no handler for {arch}, and none is needed"));
        }
        let fix = if means.interpreter.is_none() {
            release.install(Need::Emulator)
        } else {
            means.register(release)
        };
        return Finding::fail(NAME, found).why(why).fix(fix);
    };
    let missing = missing_flags(&handler.flags);
    let found = format!(
        "'{}' runs {} with flags {}",
        handler.name,
        quote(&handler.interpreter),
        handler.flags
    );
    let reasons: Vec<_> = missing.iter().map(|(_, why)| *why).collect();
    let why = reasons.join("; ");
    if trials.private.worked() {
        let finding = Finding::ok(NAME, format!("{found}; a pipeline does not use it"));
        return if missing.is_empty() {
            finding
        } else {
            finding.why(why).fix(means.register_again(handler, release))
        };
    }
    let finding = match &trials.host {
        Tried::Worked if missing.is_empty() => return Finding::ok(NAME, found),
        Tried::Worked => Finding::warn(NAME, found).why(why),
        Tried::Not(reason) if missing.iter().all(|(flag, _)| *flag != 'F') => {
            return Finding::ok(NAME, format!("{found}; not tried: {reason}"));
        }
        Tried::Not(_) => Finding::fail(NAME, found).why(why),
        Tried::Failed(failure) if missing.is_empty() => {
            let fix = format!(
                "see whether the emulator itself works, and install it anew: {}",
                release.install(Need::Emulator)
            );
            return Finding::fail(NAME, found).why(failure.to_string()).fix(fix);
        }
        Tried::Failed(failure) => Finding::fail(NAME, found).why(format!("{failure}: {why}")),
    };
    finding.fix(means.register_again(handler, release))
}

/// Returns the flags that a handler lacks, each with what does not work without it.
fn missing_flags(flags: &str) -> Vec<(char, &'static str)> {
    [
        (
            'F',
            "without F (fix binary) the kernel looks for the emulator inside the root, where it is not",
        ),
        (
            'C',
            "without C (credentials) set-uid programs such as sudo and passwd run without their rights",
        ),
        (
            'P',
            "without P (preserve argv[0]) programs that look at the name they are called by see another",
        ),
    ]
    .into_iter()
    .filter(|(flag, _)| !flags.contains(*flag))
    .collect()
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
            registrar: Registrar::default(),
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
        Trials {
            native: Tried::Worked,
            private,
            host,
        }
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
        let old = Means {
            kernel: (6, 1),
            ..means()
        };
        let old_with_handler = Means {
            handler: handler("OCPF"),
            ..old.clone()
        };
        let bare = Means {
            interpreter: None,
            ..means()
        };
        let not = || Tried::Not("it needs an emulator first".into());
        for (means, trials, expected) in [
            (means(), trials(Tried::Worked, failed()), [Ok, Ok, Ok]),
            (means(), trials(failed(), failed()), [Ok, Fail, Fail]),
            (old.clone(), trials(failed(), failed()), [Ok, Warn, Fail]),
            (
                old_with_handler,
                trials(failed(), Tried::Worked),
                [Ok, Ok, Ok],
            ),
            (bare.clone(), trials(not(), failed()), [Fail, Warn, Ok]),
            (bare, trials(not(), Tried::Worked), [Ok, Ok, Ok]),
        ] {
            assert_eq!(statuses(&means, &trials), expected, "{means:?} {trials:?}");
        }
        let native = Means {
            native: true,
            ..means()
        };
        assert_eq!(
            statuses(
                &native,
                &trials(Tried::Not(String::new()), Tried::Not(String::new()))
            ),
            [Ok; 3]
        );
    }

    #[test]
    fn each_missing_flag_is_said_with_what_it_breaks() {
        for (flags, host, status, says, silent) in [
            ("PF", Tried::Worked, Status::Warn, "sudo", "inside the root"),
            ("OCF", Tried::Worked, Status::Warn, "argv[0]", "sudo"),
            ("OCP", failed(), Status::Fail, "inside the root", "sudo"),
            ("OCPF", Tried::Worked, Status::Ok, "", "without"),
        ] {
            let means = Means {
                handler: handler(flags),
                ..means()
            };
            let finding = host_binfmt(&means, &trials(failed(), host), &debian());
            assert_eq!(finding.status, status, "{flags}");
            let why = finding.why.unwrap_or_default();
            assert!(
                why.contains(says) && !why.contains(silent),
                "{flags}: {why}"
            );
        }
    }

    #[test]
    fn an_emulator_that_is_not_static_is_no_emulator() {
        let means = Means {
            interpreter: None,
            dynamic: Some("/usr/bin/qemu-aarch64".into()),
            ..means()
        };
        let finding = emulator(
            &means,
            &trials(Tried::Not(String::new()), failed()),
            &debian(),
        );
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(
            finding.found,
            "only '/usr/bin/qemu-aarch64', which is not static"
        );
        assert_eq!(
            finding.fix.unwrap(),
            "sudo apt-get install qemu-user-static"
        );
    }

    #[test]
    fn the_command_that_registers_is_this_hosts() {
        let file = Some(PathBuf::from("/usr/lib/binfmt.d/qemu-aarch64.conf"));
        for (registrar, command) in [
            (
                Registrar {
                    update_binfmts: true,
                    ..Registrar::default()
                },
                "sudo update-binfmts --enable qemu-aarch64",
            ),
            (
                Registrar {
                    systemd: true,
                    file: file.clone(),
                    ..Registrar::default()
                },
                "sudo systemctl restart systemd-binfmt",
            ),
            (
                Registrar {
                    file,
                    ..Registrar::default()
                },
                "sudo sh -c 'mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && cat \
                 /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register'",
            ),
            (
                Registrar::default(),
                "sudo apt-get install qemu-user-static",
            ),
        ] {
            let means = Means {
                registrar,
                ..means()
            };
            let finding = host_binfmt(&means, &trials(failed(), failed()), &debian());
            assert_eq!(finding.fix.unwrap(), command);
        }
    }
}

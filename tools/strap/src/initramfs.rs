//! The initramfs is made for any machine. mkinitcpio, dracut and booster look at the devices of the machine that they run on,
//! which is this one, and leave out the drivers of the one that the root is for.
//!
//! They run as hooks of pacman. A hook that comes before theirs has them include all drivers, and one that comes after removes what the
//! first has written: a system that makes its next initramfs decides for itself. A pacman that is killed between the two leaves its
//! lock, no image is made of such a root, and the run that repairs it installs something, so the second hook runs: with
//! `--initramfs host`, before all others.

use crate::plan::Plan;
use pacman::Planned;
use rootfs::file;
use rustix::fs::{Mode, OFlags};
use stage::{Code, Doing, Failure, quote};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Which machine the initramfs is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Initramfs {
    /// All drivers are included.
    #[default]
    Any,
    /// What the programs decide by the devices of this machine.
    Host,
}

/// The programs that make an initramfs; names of their packages begin with these.
const MAKERS: [&str; 3] = ["mkinitcpio", "dracut", "booster"];

/// mkinitcpio looks in `/etc/initcpio` first, also for the hook that finds the devices. Hooks of dracut give it `--hostonly`, which
/// counts more than what dracut.conf(5) sets: the other two names are those that dracut has its command line in when it reads the file.
/// booster has one file, which may be missing, and no drop-ins.
const BEFORE: &str = "cd /etc || exit; \
    for d in initcpio initcpio/install dracut.conf.d; do mkdir $d 2>/dev/null && echo $d >> strapline-made; done; \
    [ -e initcpio/install/autodetect ] || { echo \"build() { true; }\" > initcpio/install/autodetect && \
    chmod 755 initcpio/install/autodetect; }; \
    echo hostonly=no hostonly_l=no hostonly_cmdline_l=no > dracut.conf.d/zz-strapline.conf; \
    [ -e booster.yaml ] || [ ! -e ../usr/bin/booster ] || { : > booster.yaml && echo booster.yaml >> strapline-made; }; \
    [ ! -e booster.yaml ] || { { [ -e booster.yaml.strapline ] || cp -p booster.yaml booster.yaml.strapline; } && \
    { sed \"/^universal:/d\" booster.yaml.strapline; echo \"universal: true\"; } > booster.yaml; }";

/// Removes what [`BEFORE`] has made.
const AFTER: &str = "cd /etc || exit; \
    [ \"$(cat initcpio/install/autodetect 2>/dev/null)\" != \"build() { true; }\" ] || rm initcpio/install/autodetect; \
    rm -f dracut.conf.d/zz-strapline.conf; \
    [ ! -e booster.yaml.strapline ] || mv booster.yaml.strapline booster.yaml; \
    [ ! -e strapline-made ] || { for f in booster.yaml dracut.conf.d initcpio/install initcpio; do \
    ! grep -qx $f strapline-made || rm -d $f 2>/dev/null; done; rm strapline-made; }";

/// Names of the hooks: before and after those of the programs.
const FIRST: &str = "05-strapline-initramfs.hook";
const LAST: &str = "zz-strapline-initramfs.hook";

/// Returns the directory of the hooks for a transaction that may make an initramfs.
///
/// # Errors
///
/// When the hooks cannot be written.
pub(crate) fn hooks(plan: &Plan, initramfs: Initramfs, planned: &[Planned]) -> Result<Option<PathBuf>, Failure> {
    const REMOVES: &str = "Leaving the next initramfs to the system...";
    let hooks: &[_] = match initramfs {
        Initramfs::Any => &[(FIRST, "Including all drivers in the initramfs...", BEFORE), (LAST, REMOVES, AFTER)],
        // What a run left that was killed between the two.
        Initramfs::Host if is_left(plan) => &[(FIRST, REMOVES, AFTER)],
        Initramfs::Host => return Ok(None),
    };
    let is_planned = |maker: &str| planned.iter().any(|planned| planned.name.starts_with(maker));
    if !MAKERS.iter().any(|maker| is_planned(maker) || exists(plan, &format!("usr/bin/{maker}"))) {
        return Ok(None);
    }
    let path = plan.config.with_file_name("initramfs-hooks");
    let doing = || format!("writing pacman hooks in {}", quote(&path));
    match std::fs::create_dir(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e).doing(Code::Os, doing),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&path, flags, Mode::empty()).doing(Code::Os, doing)?;
    file::check_owner(directory.as_fd(), &path)?;
    // pacman runs all hooks that are there.
    for entry in std::fs::read_dir(&path).doing(Code::Os, doing)? {
        let entry = entry.doing(Code::Os, doing)?;
        if !entry.file_name().to_str().is_some_and(|name| hooks.iter().any(|(hook, ..)| *hook == name)) {
            std::fs::remove_file(entry.path()).doing(Code::Os, doing)?;
        }
    }
    for (name, what, script) in hooks {
        file::replace(directory.as_fd(), name, hook(what, script).as_bytes(), 0o644, None).doing(Code::Os, doing)?;
    }
    Ok(Some(path))
}

/// Returns whether the files of the first hook are in the root.
fn is_left(plan: &Plan) -> bool {
    ["etc/strapline-made", "etc/dracut.conf.d/zz-strapline.conf"].iter().any(|name| exists(plan, name))
}

fn exists(plan: &Plan, path: &str) -> bool {
    plan.inside.root().open_below(path, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
}

/// Returns the text of a hook (alpm-hooks(5)) that runs whatever is installed.
fn hook(what: &str, script: &str) -> String {
    format!(
        "[Trigger]\nOperation = Install\nOperation = Upgrade\nOperation = Remove\nType = Path\nTarget = *\n\n\
         [Action]\nDescription = {what}\nWhen = PostTransaction\nExec = /bin/sh -c '{script}'\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    /// Runs a script as the hook does, on `/etc` below a directory.
    fn run(script: &str, top: &std::path::Path) {
        let script = script.replace("/etc", top.join("etc").to_str().unwrap());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success(), "{script}");
    }

    #[test]
    fn what_the_first_hook_makes_the_second_removes() {
        let top = tempfile::tempdir().unwrap();
        let etc = top.path().join("etc");
        fs::create_dir(&etc).unwrap();
        run(BEFORE, top.path());
        assert_eq!(fs::read_to_string(etc.join("initcpio/install/autodetect")).unwrap(), "build() { true; }\n");
        let dracut = fs::read_to_string(etc.join("dracut.conf.d/zz-strapline.conf")).unwrap();
        assert_eq!(dracut, "hostonly=no hostonly_l=no hostonly_cmdline_l=no\n");
        run(AFTER, top.path());
        assert_eq!(fs::read_dir(&etc).unwrap().count(), 0);

        // booster without its file looks at this machine.
        let booster = top.path().join("usr/bin/booster");
        fs::create_dir_all(booster.parent().unwrap()).unwrap();
        fs::write(&booster, "").unwrap();
        for _ in 0..2 {
            run(BEFORE, top.path());
            assert_eq!(fs::read_to_string(etc.join("booster.yaml")).unwrap(), "universal: true\n");
        }
        run(AFTER, top.path());
        assert_eq!(fs::read_dir(&etc).unwrap().count(), 0);

        // What is there stays; a run that was killed in between changes nothing of it.
        fs::create_dir_all(etc.join("initcpio/install")).unwrap();
        fs::create_dir(etc.join("dracut.conf.d")).unwrap();
        let yaml = "compression: zstd\nuniversal: false\n";
        fs::write(etc.join("booster.yaml"), yaml).unwrap();
        fs::write(etc.join("dracut.conf.d/own.conf"), "x=y\n").unwrap();
        run(BEFORE, top.path());
        let changed = fs::read_to_string(etc.join("booster.yaml")).unwrap();
        assert_eq!(changed, "compression: zstd\nuniversal: true\n");
        run(BEFORE, top.path());
        run(AFTER, top.path());
        assert_eq!(fs::read_to_string(etc.join("booster.yaml")).unwrap(), yaml);
        assert!(!etc.join("initcpio/install/autodetect").exists() && etc.join("initcpio/install").exists());
        let left: Vec<_> = fs::read_dir(etc.join("dracut.conf.d")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["own.conf"]);

        // A hook of one's own is not replaced.
        fs::write(etc.join("initcpio/install/autodetect"), "build() { add_module x; }\n").unwrap();
        run(BEFORE, top.path());
        run(AFTER, top.path());
        let own = fs::read_to_string(etc.join("initcpio/install/autodetect")).unwrap();
        assert_eq!(own, "build() { add_module x; }\n");
    }

    #[test]
    fn pacman_splits_the_command_as_it_is_meant() {
        for script in [BEFORE, AFTER] {
            assert!(!script.contains(['\'', '\\', '\n']), "{script}");
        }
        assert!(hook("a", "b").ends_with("\nExec = /bin/sh -c 'b'\n"));
    }
}

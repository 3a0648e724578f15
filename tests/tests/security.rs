//! What SECURITY.md says: that each test it names is there, and what a namespace gives and does not.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use strapline_tests::{Lab, Mirror, Server, TOOLS, Who, bin_dir, lab, top};

/// Returns each `FILE.rs::TEST` of a text.
fn references(text: &str) -> BTreeSet<(String, String)> {
    let words = text.split(|c: char| c.is_whitespace() || "`|,;()".contains(c));
    words
        .filter_map(|word| word.split_once(".rs::"))
        .map(|(file, test)| (format!("{file}.rs"), test.to_owned()))
        .collect()
}

#[test]
fn every_test_that_security_md_names_exists() {
    let text = fs::read_to_string(top().join("SECURITY.md")).expect("SECURITY.md");
    let references = references(&text);
    assert!(references.len() >= 30, "{references:?}");
    let missing: Vec<_> = references
        .iter()
        .filter(|(file, test)| {
            let source = fs::read_to_string(top().join(file)).unwrap_or_default();
            !tests(&source).contains(test.as_str())
        })
        .collect();
    assert_eq!(missing, Vec::<&(String, String)>::new());
}

/// Returns the names of the test functions in a source.
fn tests(source: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut lines = source.lines().map(str::trim);
    while lines.any(|line| line == "#[test]") {
        // Other attributes may stand between.
        let name = lines.find_map(|line| line.strip_prefix("fn ")?.split('(').next());
        found.extend(name);
    }
    found
}

#[test]
fn a_tool_that_is_installed_set_uid_works_for_nobody() {
    let lab = Lab::new(Who::Root);
    for tool in TOOLS {
        let copy = lab.path().join(tool);
        // By another process: a file that a child of another test still has open for writing cannot be run.
        let copied = lab::run(Command::new("cp").arg(bin_dir().join(tool)).arg(&copy));
        assert_eq!(copied.status, 0, "{copied:?}");
        for mode in [0o4755, 0o2755] {
            fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).expect("our own file");
            let id = lab::UID.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
            command.arg(&copy).current_dir("/");
            // The command line must be right: it is read first.
            match tool {
                "mkroot" => command.arg("made"),
                "strap" => command.arg("bash"),
                "enter" if mode == 0o4755 => command.args(["--state", "/dev/null", "true"]),
                "enter" => command.args(["/usr", "true"]),
                "mkdisk" | "pack" => command.args(["--output", "image"]),
                "mkconf" => command.args(["--print=loose", "--state", "/etc/shadow"]),
                _ => &mut command,
            };
            let ran = lab::run(&mut command);
            // Where it stands alone, as here, enter's own failures are those of env(1).
            let expected = if tool == "enter" { 125 } else { 77 };
            assert_eq!(ran.status, expected, "{tool} {mode:o}: {ran:?}");
            assert!(ran.stderr.contains("must not be installed set-uid or set-gid"), "{tool}: {ran:?}");
        }
    }
}

/// A root with bash, coreutils and util-linux, and its document in `receipt.json`.
fn root(lab: &Lab, mirror: &Mirror) {
    let ran = lab.sh(&format!(
        "mkroot root --quiet --arch x86_64 --distro {preset} \
         | fetch-pacman --quiet --use $(command -v pacman) \
         | mkconf --quiet --server 'file://{www}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring --quiet | strap --quiet bash coreutils util-linux > receipt.json; cat receipt.json",
        preset = mirror.preset().display(),
        www = mirror.www().display(),
    ));
    drop(ran.succeeded());
}

/// Returns what a script prints inside.
fn inside(lab: &Lab, script: &str) -> String {
    let mut command = lab.command("enter");
    command.args(["--state", "receipt.json", "bash", "-c", script]);
    let ran = lab::run(&mut command);
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.stdout.trim().to_owned()
}

#[test]
fn what_the_namespaces_give_and_what_they_do_not() {
    for who in [Who::Root, Who::User] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        root(&lab, &mirror);
        let theirs = |kind: &str| inside(&lab, &format!("readlink /proc/self/ns/{kind}"));
        let ours = |kind: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).expect(kind);
            link.to_string_lossy().into_owned()
        };
        for (kind, separate) in
            [("mnt", true), ("pid", true), ("user", who == Who::User), ("net", false), ("ipc", false), ("uts", false)]
        {
            assert_eq!(theirs(kind) != ours(kind), separate, "{who:?}: {kind}");
        }
        // Of processes there are the tool's first one, and its own.
        let count = inside(&lab, "echo /proc/[0-9]*");
        assert!(count.split(' ').count() <= 4, "{who:?}: {count}");
        // A device node is root's to make, and no user's.
        let node = inside(&lab, "mknod /root/disk b 7 0 2>/dev/null && rm /root/disk; echo $?");
        assert_eq!(node == "0", who == Who::Root, "{who:?}: {node}");
    }
}

/// Two files of the host: the caller's, and one that only root may read.
fn files_of_the_host(lab: &Lab, who: Who) -> (PathBuf, PathBuf) {
    let (theirs, roots) = (lab.path().join("theirs"), lab.path().join("roots"));
    fs::write(&theirs, "theirs").expect("our own directory");
    fs::write(&roots, "roots").expect("our own directory");
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).expect("our own file");
    if who == Who::User {
        std::os::unix::fs::chown(&theirs, Some(lab::UID), Some(lab::UID)).expect("root may");
    }
    (theirs, roots)
}

/// Scripts that lead out of a chroot(2), and print a file there.
fn ways_out(file: &Path) -> Vec<(&'static str, String)> {
    let file = file.display();
    let libraries = "usr/lib/x86_64-linux-gnu";
    let loader = format!("{libraries}/ld-linux-x86-64.so.2 --library-path {libraries}");
    vec![
        ("the root of init", format!("cat /proc/1/root{file}")),
        // Of a directory that is outside of a chroot, all above it can be reached.
        ("another chroot", format!("nsenter --root=/tmp --wd=/ {loader} usr/bin/cat ../../../../../..{file}")),
    ]
}

#[test]
fn a_program_of_the_root_reaches_nothing_else_of_the_host() {
    // aarch64 has a handler of its own: as root it is in a user namespace then, and otherwise in none.
    for (who, arch) in [(Who::Root, "x86_64"), (Who::User, "x86_64"), (Who::Root, "aarch64"), (Who::User, "aarch64")] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        root(&lab, &mirror);
        if arch == "aarch64" {
            let ran = lab.sh("mkroot other --quiet --arch aarch64 --distro archlinuxarm");
            let binfmt = ran.succeeded()["binfmt"].clone();
            assert_eq!(binfmt["kind"], "private", "{binfmt}");
            let receipt = fs::read(lab.path().join("receipt.json")).expect("a document");
            let mut receipt: Value = serde_json::from_slice(&receipt).expect("a document");
            receipt["arch"] = "aarch64".into();
            receipt["binfmt"] = binfmt;
            fs::write(lab.path().join("receipt.json"), receipt.to_string()).expect("our own file");
        }
        let (theirs, _) = files_of_the_host(&lab, who);
        let ways = ways_out(&theirs);
        if (who, arch) == (Who::Root, "x86_64") {
            let ran = lab.sh(&format!("chroot root bash -c '{}'", ways[1].1));
            assert_eq!(ran.stdout, "theirs", "no way out: {ran:?}");
        }
        for (way, script) in ways {
            let said = inside(&lab, &format!("{{ {script}; }} 2>&1 || true"));
            assert!(said != "theirs" && !said.is_empty(), "{who:?}, {arch}: {way}: {said}");
        }
        // The tool itself is on the host, and its owner could write to it.
        let exe = inside(&lab, "readlink /proc/1/exe || true");
        let traces = who == Who::Root && arch == "x86_64";
        assert_eq!(!exe.is_empty(), traces, "{who:?}, {arch}: {exe}");
        // Nothing else is mounted there than what the plan has.
        let mounts = inside(&lab, "cat /proc/self/mountinfo");
        let host: Vec<_> = mounts.lines().filter(|l| l.contains("/var/tmp")).collect();
        assert!(host.len() <= 1, "{who:?}, {arch}: {host:?}");
    }
}

#[test]
fn a_hook_runs_in_a_chroot() {
    for who in [Who::Root, Who::User] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        root(&lab, &mirror);
        let (theirs, roots) = files_of_the_host(&lab, who);
        // pacman, which runs hooks and scriptlets, has the host's file system, and so has init.
        let script = format!(
            "for f in {} {}; do cat /proc/1/root$f; echo; done >/out 2>&1; true",
            theirs.display(),
            roots.display()
        );
        let hook = format!(
            "[Trigger]\nOperation = Install\nType = Package\nTarget = *\n\n\
             [Action]\nWhen = PostTransaction\nExec = /usr/bin/bash -c '{script}'\n"
        );
        let write = format!("mkdir -p /etc/pacman.d/hooks; cat > /etc/pacman.d/hooks/out.hook <<'END'\n{hook}END");
        inside(&lab, &write);
        drop(lab.sh("strap --quiet --state receipt.json grep").succeeded());
        let said = inside(&lab, "cat /out");
        assert!(said.lines().any(|l| l == "theirs"), "{who:?}: {said}");
        assert_eq!(said.lines().any(|l| l == "roots"), who == Who::Root, "{who:?}: {said}");
    }
}

/// Programs of the host that the tools start. What else runs is the tools themselves, which read as data, and the root's.
const OF_THE_HOST: [&str; 10] =
    ["pacman", "pacman-static", "gpg", "gpg-agent", "gpgconf", "gpgsm", "keyboxd", "dirmngr", "newuidmap", "newgidmap"];

/// Runs a script in the laboratory and returns which files the programs of the host opened to read.
fn opened(lab: &Lab, script: &str) -> BTreeSet<(String, PathBuf)> {
    let (log, inner) = (lab.path().join("opened"), lab.command("sh"));
    // It is root that traces: newuidmap(1) would not be set-uid otherwise.
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--decode-fds=path", "--successful-only"]);
    command.arg("--trace=execve,open,openat,openat2");
    command.arg("--output").arg(&log).arg(inner.get_program());
    command.args(inner.get_args()).args(["-c", script]);
    command.current_dir(lab.path());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    drop(lab::run(&mut command).succeeded());
    let log = fs::read_to_string(&log).expect("apt-get install strace");
    // What each process is since it was started. Before that it is one of ours.
    let mut programs: BTreeMap<&str, &str> = BTreeMap::new();
    let mut opened = BTreeSet::new();
    for line in log.lines() {
        let (pid, call) = line.split_once(' ').expect("a process and its call");
        let call = call.trim_start();
        if let Some(call) = call.strip_prefix("execve(\"") {
            let path = call.split('"').next().unwrap_or_default();
            programs.insert(pid, path.rsplit('/').next().unwrap_or_default());
        } else if call.starts_with("+++") {
            programs.remove(pid);
        } else if call.contains("O_RDONLY") && !["O_DIRECTORY", "O_PATH"].iter().any(|f| call.contains(f)) {
            let program = programs.get(pid).filter(|p| OF_THE_HOST.contains(p));
            let path = call.rsplit_once('<').and_then(|(_, path)| path.strip_suffix('>'));
            opened.extend(program.zip(path).map(|(p, path)| (p.to_string(), path.into())));
        }
    }
    opened
}

/// Makes files of the root by which a program could be told what to do, were it to take them for its own.
const TEMPT: &str = "cd root; mkdir -p etc/gnupg etc/ssl root/.gnupg
for dir in etc/gnupg root/.gnupg etc/pacman.d/gnupg; do
    for file in gpg common gpg-agent dirmngr gpgsm; do echo '#' >> $dir/$file.conf; done
done
for file in etc/pacman.conf etc/netrc root/.netrc etc/resolv.conf etc/hosts etc/nsswitch.conf etc/gpgconf.conf \
    etc/ssl/openssl.cnf etc/subuid etc/subgid; do echo '#' >> $file; done";

/// Returns whether a program may open a file of the laboratory: our own configuration, and what is data to it.
fn is_data(program: &str, path: &Path) -> bool {
    let places: &[&str] = match program {
        "gpg" => &["root.strapline/gnupg", "root.strapline/gnupg.new", "other/partial", "packages"],
        "pacman-static" => &[
            "root.strapline/pacman-loose.conf",
            "root.strapline/pacman-strict.conf",
            "root/var/lib/pacman/local",
            "root/var/lib/pacman/sync",
            "packages",
        ],
        _ => &[],
    };
    places.iter().any(|place| path.starts_with(place))
}

/// Line by line what SECURITY.md says of the programs of the host: what they open of the root and of what the mirror sent is data.
#[test]
fn programs_of_the_host_open_no_configuration_of_the_roots() {
    for who in [Who::Root, Who::User] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        let server = Server::of(&mirror.www());
        let ran = lab.sh(&format!(
            "mkroot root --quiet --arch x86_64 --distro {preset} \
             | fetch-pacman --quiet --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --quiet --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
             | keyring --quiet | strap --quiet bash > doc; cat doc; {TEMPT}",
            preset = mirror.preset().display(),
            url = server.url(),
        ));
        drop(ran.succeeded());
        let all = opened(
            &lab,
            "fetch-pacman --new --quiet --cache-dir other --server $(grep -o 'http://[0-9.:]*' doc | head -n 1)/archlinuxcn/x86_64 > doc2
             rm -r root.strapline/gnupg; keyring --quiet --state doc | strap --quiet sed > doc2
             rm -r packages; verify --quiet --state doc2",
        );
        let strange: Vec<_> = all
            .iter()
            .filter_map(|(program, path)| {
                let path = path.strip_prefix(lab.path()).ok()?;
                (!is_data(program, path)).then_some((program, path))
            })
            .collect();
        assert_eq!(strange, [], "{who:?}");
        let was_opened = |program: &str, path: PathBuf| all.contains(&(program.to_owned(), path));
        let here = |path: &str| lab.path().join(path);
        assert!(was_opened("gpg", here("root.strapline/gnupg/gpg.conf")));
        assert!(was_opened("gpg-agent", "/run/k/gpg-agent.conf".into()));
        assert!(was_opened("pacman-static", here("root.strapline/pacman-strict.conf")));
        assert_eq!(was_opened("newuidmap", "/etc/subuid".into()), who == Who::User);
    }
}

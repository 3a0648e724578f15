//! The built program: exact stdout, stderr, status, and what is on disk afterwards.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn mkconf(args: &[&str], document: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mkconf"));
    command.args(args);
    feed(command, document)
}

fn feed(mut command: Command, document: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its command line reads nothing.
    drop(child.stdin.take().unwrap().write_all(document.as_bytes()));
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A root, made as mkroot makes it, in a directory of its own.
struct Ground {
    directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("target")).unwrap();
        Self { directory }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(below)
    }

    fn document(&self) -> String {
        let root = self.path("target");
        json!({"strapline": 1, "root": root, "arch": "aarch64", "distro": "archlinuxarm",
            "pacman": {"path": "/p", "version": "7.1.0", "sha256": "00", "trust": "host"},
            "org.example.mine": {"kept": true}})
        .to_string()
    }

    fn run(&self, args: &[&str]) -> Output {
        let cache = self.path("cache/packages");
        mkconf(&[&["--cache-dir", cache.to_str().unwrap()], args].concat(), &self.document())
    }

    /// Every path below the directory.
    fn tree(&self) -> Vec<PathBuf> {
        fn walk(at: &Path, into: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, into);
                }
                into.push(path);
            }
        }
        let mut paths = Vec::new();
        walk(self.directory.path(), &mut paths);
        paths.sort();
        paths
    }
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

// -- What is written --------------------------------------------------------------------------------------------------

#[test]
fn the_files_are_written_recorded_and_stay_as_they_are() {
    let ground = Ground::new();
    let output = ground.run(&[]);
    let strict = ground.path("target.strapline/pacman-strict.conf");
    let loose = ground.path("target.strapline/pacman-loose.conf");
    assert_eq!(text(&output.stderr), format!("mkconf: Arch Linux ARM for aarch64: '{}'\n", strict.display()));
    assert!(output.status.success());
    let document = document(&output);
    let repositories = ["core", "extra", "alarm", "aur"].map(|name| {
        json!({
            "name": name,
            "publisher": "archlinuxarm",
            "servers": ["http://mirror.archlinuxarm.org/$arch/$repo"],
            "siglevel": "Required DatabaseOptional",
        })
    });
    assert_eq!(
        document["config"],
        json!({
            "strict": strict,
            "loose": loose,
            "cache": ground.path("cache/packages"),
            "gpgdir": ground.path("target.strapline/gnupg"),
            "architecture": ["aarch64"],
            "repositories": repositories,
        })
    );
    assert_eq!(document["org.example.mine"], json!({"kept": true}));
    assert_eq!(document["steps"][0]["tool"], "mkconf");
    for at in ["etc/pacman.d/gnupg", "etc/pacman.d/hooks", "var/lib/pacman", "var/log"] {
        assert!(ground.path("target").join(at).is_dir(), "{at}");
    }
    assert!(ground.path("cache/packages").is_dir());
    assert!(ground.path("target.strapline/gnupg").is_dir());
    let lines = |path: &Path| fs::read_to_string(path).unwrap();
    assert!(lines(&strict).contains("\nSigLevel = Required DatabaseOptional\n"));
    assert!(lines(&loose).contains("\nSigLevel = Never\n"));

    // Again: nothing changes, not even an inode, so that make sees nothing to do.
    let tree = ground.tree();
    let inode = fs::metadata(&strict).unwrap().ino();
    assert!(ground.run(&["--quiet"]).stderr.is_empty());
    assert_eq!(ground.tree(), tree);
    assert_eq!(fs::metadata(&strict).unwrap().ino(), inode);
    // And with other servers, what was there is replaced.
    assert!(ground.run(&["--server", "file:///m/$repo"]).status.success());
    assert!(lines(&strict).contains("\nServer = file:///m/$repo\n"));
    assert_eq!(ground.tree(), tree);
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let ground = Ground::new();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$0\" --cache-dir \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_mkconf")).arg(ground.path("cache/packages"));
    assert!(feed(command, &ground.document()).status.success());
    for path in ground.tree() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        let expected = if path.is_dir() { 0o755 } else { 0o644 };
        if path != ground.path("target") {
            assert_eq!(mode, expected, "{}", path.display());
        }
    }
}

#[test]
fn distro_and_arch_are_filled_in_where_they_are_absent() {
    let ground = Ground::new();
    let preset = ground.path("mine.toml");
    fs::write(
        &preset,
        "name = \"mine\"\ntitle = \"Mine\"\nextends = \"archlinux\"\n[arch.x86_64]\n\
         servers = [\"http://h/$repo\"]\n",
    )
    .unwrap();
    let bare = json!({"strapline": 1, "root": ground.path("target")}).to_string();
    let (preset, cache) = (preset.to_str().unwrap(), ground.path("cache"));
    let output = mkconf(&["--distro", preset, "--cache-dir", cache.to_str().unwrap()], &bare);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document = document(&output);
    // The absolute path: the tools after this one look it up again.
    assert_eq!(document["distro"], preset);
    assert_eq!(document["arch"], "x86_64");
}

#[test]
fn nothing_is_left_where_the_document_cannot_be_handed_on() {
    let ground = Ground::new();
    let before = ground.tree();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mkconf"));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = command
        .arg("--cache-dir")
        .arg(ground.path("cache/packages"))
        .stdin(Stdio::piped())
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(ground.document().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(text(&output.stderr).contains("writing the document on stdout"));
    assert_eq!(ground.tree(), before);
}

// -- What is refused --------------------------------------------------------------------------------------------------

#[test]
fn a_failure_is_a_line_a_hint_and_a_document() {
    let ground = Ground::new();
    let before = ground.tree();
    for (args, expected) in [
        (
            &["--arch", "armv7h"][..],
            "mkconf: --arch is armv7h, but the document is of aarch64\n\
             mkconf: hint: leave --arch out, or give it to mkroot\n",
        ),
        (
            &["--set", "DownloadUser="],
            "mkconf: reading --set: DownloadUser cannot be set: pacman 7 looks the user up on the \
             host, and fails where there is none; pacman 6 does not know it\n\
             mkconf: hint: leave it out; set it in the root's own etc/pacman.conf\n",
        ),
        (
            &["--set", "SigLevel=Never"],
            "mkconf: reading --set: the value of SigLevel: 'Never' lets in packages without a trusted \
             signature: it must say Required and not TrustAll\n\
             mkconf: hint: for one repository alone there is --repo NAME=URL,siglevel=WORDS; for all, strap --loose\n",
        ),
        (
            &["--snapshot", "2026-01-02"],
            "mkconf: Arch Linux ARM has no public archive of its repository 'core': there is no \
             snapshot of 2026-01-02\n\
             mkconf: hint: keep the package cache, or name an archive of your own with 'snapshot' \
             in a preset file\n",
        ),
        (&["--server", "h/x"], "mkconf: reading --server: 'h/x' is not a http, https, ftp or file URL\n"),
    ] {
        let output = ground.run(args);
        assert_eq!(text(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        let document = document(&output);
        assert_eq!(document["error"]["tool"], "mkconf");
        assert_eq!(document["error"]["code"], "usage");
        assert_eq!(document["org.example.mine"], json!({"kept": true}));
        assert_eq!(ground.tree(), before);
    }
}

#[test]
fn a_link_in_the_root_is_not_followed() {
    for link in ["etc", "etc/pacman.d", "var/log"] {
        let ground = Ground::new();
        fs::create_dir(ground.path("elsewhere")).unwrap();
        let at = ground.path("target").join(link);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(ground.path("elsewhere"), &at).unwrap();
        let before = ground.tree();
        let output = ground.run(&[]);
        assert_eq!(output.status.code(), Some(69), "{link}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("it is not followed"), "{}", text(&output.stderr));
        assert_eq!(ground.tree(), before, "{link}");
    }
}

#[test]
fn a_world_writable_directory_is_refused() {
    let ground = Ground::new();
    let out = ground.path("target.strapline");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let before = ground.tree();
    let output = ground.run(&[]);
    assert_eq!(output.status.code(), Some(77));
    assert!(text(&output.stderr).contains("anyone may write in it"), "{}", text(&output.stderr));
    assert_eq!(ground.tree(), before);

    // Nor is a link in its place followed.
    fs::remove_dir(&out).unwrap();
    fs::create_dir(ground.path("elsewhere")).unwrap();
    symlink(ground.path("elsewhere"), &out).unwrap();
    assert_eq!(ground.run(&[]).status.code(), Some(69));
    assert_eq!(fs::read_dir(ground.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn a_package_cache_that_anyone_may_write_to_is_refused() {
    let ground = Ground::new();
    let cache = ground.path("cache/packages");
    fs::create_dir_all(&cache).unwrap();
    for (mode, status) in [(0o777, 77), (0o1777, 77), (0o775, 0)] {
        fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).unwrap();
        let before = ground.tree();
        let output = ground.run(&[]);
        assert_eq!(output.status.code(), Some(status), "{mode:o}");
        if status != 0 {
            let stderr = text(&output.stderr);
            assert!(stderr.contains("anyone may write to it"), "{stderr}");
            assert_eq!(ground.tree(), before);
        }
    }
}

#[test]
fn another_directory_in_the_place_of_the_root_is_refused() {
    let ground = Ground::new();
    let mut document: Value = serde_json::from_str(&ground.document()).unwrap();
    document["root_id"] = json!({"dev": 1, "ino": 1});
    let before = ground.tree();
    let cache = ground.path("cache");
    let output = mkconf(&["--cache-dir", cache.to_str().unwrap()], &document.to_string());
    assert_eq!(output.status.code(), Some(69));
    assert_eq!(ground.tree(), before);
}

#[test]
fn a_failed_document_passes_as_it_came() {
    let ground = Ground::new();
    let mut failed: Value = serde_json::from_str(&ground.document()).unwrap();
    failed["error"] = json!({"tool": "x", "code": "network", "message": "m", "exit": 75});
    let failed = format!("{failed}\n");
    let before = ground.tree();
    let output = mkconf(&[], &failed);
    assert_eq!((text(&output.stdout), text(&output.stderr)), (failed.as_str(), ""));
    assert_eq!(output.status.code(), Some(75));
    let output = mkconf(&["--print", "strict"], &failed);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("", ""));
    assert_eq!(output.status.code(), Some(75));
    assert_eq!(ground.tree(), before);
}

// -- --print and --explain --------------------------------------------------------------------------------------------

#[test]
fn print_touches_nothing() {
    let ground = Ground::new();
    let before = ground.tree();
    let printed = ground.run(&["--print", "strict"]);
    assert!(printed.status.success());
    assert_eq!(text(&printed.stderr), "");
    assert_eq!(ground.tree(), before);
    ground.run(&[]);
    let written = fs::read(ground.path("target.strapline/pacman-strict.conf")).unwrap();
    assert_eq!(text(&printed.stdout), text(&written));

    let state = ground.path("state.json");
    fs::write(&state, ground.document()).unwrap();
    let (state, cache) = (state.to_str().unwrap(), ground.path("cache/packages"));
    let args = ["--print", "strict", "--state", state, "--cache-dir", cache.to_str().unwrap()];
    assert_eq!(text(&mkconf(&args, "").stdout), text(&written));

    let output = mkconf(&["--print", "loose"], "");
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output.stderr).contains("the tool before this one printed nothing"));
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn print_and_list_need_no_document() {
    let alone = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkconf"));
        command.args(args).stdin(Stdio::null()).output().unwrap()
    };
    let what =
        ["--print", "strict", "--distro", "archlinuxarm", "--arch", "aarch64", "--cache-dir", "/nonexistent/cache"];
    let output = alone(&what);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let conf = text(&output.stdout);
    for line in ["RootDir = /mnt/", "Architecture = aarch64", "CacheDir = /nonexistent/cache/", "[core]"] {
        assert!(conf.lines().any(|l| l == line), "{line}: {conf}");
    }
    let output = alone(&[&what[..], &["--root", "/srv/alarm"]].concat());
    assert!(text(&output.stdout).contains("\nDBPath = /srv/alarm/var/lib/pacman/\n"));
    let output = alone(&["--print", "loose", "--distro", "archlinuxarm"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(64), ""));

    let listed = alone(&["--list"]);
    let list = text(&listed.stdout);
    let lines: Vec<_> = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let files = fs::read_dir("../../presets").unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(lines.len(), files.filter(|path| path.extension().is_some_and(|end| end == "toml")).count() + 1);
    assert!(lines.contains(&vec!["archlinuxarm", "aarch64,armv7h", "-", "never", "Arch", "Linux", "ARM"]), "{list}");
    let cn = ["archlinuxcn", "x86_64", "aarch64,x86_64", "never", "Arch", "Linux", "with", "archlinuxcn"];
    assert!(lines.contains(&cn.to_vec()), "{list}");
    assert_eq!(alone(&["--list", "--quiet"]).status.code(), Some(64));
}

#[test]
fn explain_has_a_line_for_each_line_on_stderr() {
    let ground = Ground::new();
    let output = ground.run(&["--print", "strict", "--explain"]);
    let explained = text(&output.stderr);
    for line in text(&output.stdout).lines().filter(|line| line.contains(" = ")) {
        assert!(explained.contains(&format!("] {line}: ")), "{line}");
    }
    for absent in ["DownloadUser", "CheckSpace", "Include"] {
        assert!(explained.contains(&format!("mkconf: [options] no {absent}: ")), "{absent}");
    }
}

#[test]
fn help_fits_a_terminal() {
    let output = mkconf(&["--help"], "");
    assert!(output.status.success());
    for line in text(&output.stdout).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

// -- Every line of some files, and what pacman makes of them ----------------------------------------------------------

const ROOT: &str = "/srv/target";
const CACHE: &str = "/var/cache/strapline";

/// A golden file, what the document says, and the command line.
type Golden = (&'static str, [&'static str; 3], &'static [&'static str]);

const GOLDEN: &[Golden] = &[
    ("archlinuxarm-strict.conf", ["archlinuxarm", "aarch64", "7.1.0"], &["--print=strict"]),
    ("archlinuxarm-loose.conf", ["archlinuxarm", "aarch64", "7.1.0"], &["--print=loose"]),
    ("archlinux-6.0.2.conf", ["archlinux", "x86_64", "6.0.2"], &["--print=strict"]),
    (
        "archlinux-snapshot.conf",
        ["archlinux", "x86_64", "7.1.0.r9.g54d9411-24"],
        &["--print=strict", "--snapshot=2026-01-02"],
    ),
    ("archlinux32-no-pacman.conf", ["archlinux32", "i686", ""], &["--print=strict"]),
    ("archriscv.conf", ["archriscv", "riscv64", "7.0.0"], &["--print=strict"]),
    ("loongarchlinux.conf", ["loongarchlinux", "loong64", "7.0.0"], &["--print=strict"]),
    ("cachyos-v3-strict.conf", ["cachyos", "x86_64_v3", "7.1.0"], &["--print=strict"]),
    ("cachyos-v3-loose.conf", ["cachyos", "x86_64_v3", "7.1.0"], &["--print=loose"]),
    ("cachyos-znver4.conf", ["cachyos", "znver4", "7.0.0"], &["--print=strict"]),
    ("archports.conf", ["archports", "aarch64", "7.1.0"], &["--print=strict"]),
    ("asahi-alarm.conf", ["asahi-alarm", "aarch64", "7.1.0"], &["--print=strict"]),
    ("chaotic-aur.conf", ["chaotic-aur", "x86_64", "7.1.0"], &["--print=strict"]),
    (
        "archlinuxarm-own.conf",
        ["archlinuxarm", "aarch64", "7.1.0"],
        &[
            "--print=strict",
            "--repo=first=https://m/$arch/$repo,before=core,siglevel=Required",
            "--repo=unsigned=file:///srv/unsigned,after=core,siglevel=Never",
            "--repo=second=https://m/second,after=core,usage=Sync Search",
            "--repo=aur=https://m/aur",
            "--set=NoExtract=usr/share/man/* usr/share/info/*",
            "--set=NoExtract=!usr/share/man/de/*",
        ],
    ),
    (
        "archlinuxarm-changed.conf",
        ["archlinuxarm", "armv7h", "7.1.0"],
        &[
            "--print=strict",
            "--server=https://a/$arch/$repo",
            "--server=file:///srv/mirror/$repo",
            "--repo=mine=https://m/$arch",
            "--repo=aur=http://127.0.0.1:8000/aur",
            "--set=ParallelDownloads=9",
            "--set=IgnorePkg=linux-aarch64 linux-firmware",
            "--set=Color",
            "--set=SigLevel=Required",
        ],
    ),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn every_line_is_as_in_the_golden_files() {
    for (name, [distro, arch, version], args) in GOLDEN {
        let mut document = json!({"strapline": 1, "root": ROOT, "arch": arch, "distro": distro});
        if !version.is_empty() {
            document["pacman"] = json!({"path": "/p", "version": version, "sha256": "00", "trust": "host"});
        }
        let output = mkconf(&[&["--cache-dir", CACHE], *args].concat(), &document.to_string());
        assert_eq!(text(&output.stderr), "", "{name}");
        let golden = golden(name);
        // A new expectation is written by hand: STRAPLINE_GOLDEN=write, then git diff.
        if std::env::var_os("STRAPLINE_GOLDEN").is_some_and(|value| value == "write") {
            fs::write(&golden, &output.stdout).unwrap();
        }
        assert_eq!(text(&output.stdout), fs::read_to_string(&golden).unwrap(), "{name}");
    }
}

/// What pacman-conf says of one section, by directive.
fn pacman_conf(file: &Path, args: &[&str]) -> BTreeMap<String, Vec<String>> {
    let output = Command::new("pacman-conf").arg("-c").arg(file).args(args).output().unwrap();
    assert_eq!(text(&output.stderr), "", "{}", file.display());
    assert!(output.status.success());
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text(&output.stdout).lines() {
        if line.starts_with('[') && line != "[options]" {
            break;
        }
        if let Some((key, value)) = line.split_once(" = ") {
            found.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    found
}

#[test]
fn pacman_reads_back_what_we_mean() {
    let there = Command::new("pacman-conf").arg("--version").output().is_ok();
    assert!(there, "pacman-conf is missing: apt-get install pacman-package-manager");
    const STRICT: [&str; 4] = ["PackageRequired", "PackageTrustedOnly", "DatabaseOptional", "DatabaseTrustedOnly"];
    const BOTH: [&str; 4] = ["PackageRequired", "PackageTrustedOnly", "DatabaseRequired", "DatabaseTrustedOnly"];
    const NEVER: [&str; 2] = ["PackageNever", "DatabaseNever"];
    for (name, [distro, arch, _], args) in GOLDEN {
        let file = golden(name);
        let preset = distro::Preset::load(distro).unwrap();
        let arch = preset.arch(arch).unwrap();
        let loose = args.contains(&"--print=loose");
        let changed = *name == "archlinuxarm-changed.conf";
        if *name == "archlinuxarm-own.conf" {
            continue;
        }

        let options = pacman_conf(&file, &[]);
        for (key, value) in [
            ("RootDir", "/srv/target/"),
            ("DBPath", "/srv/target/var/lib/pacman/"),
            ("CacheDir", "/var/cache/strapline/"),
            ("LogFile", "/srv/target/var/log/pacman.log"),
            ("GPGDir", "/srv/target.strapline/gnupg/"),
            ("HookDir", "/srv/target/etc/pacman.d/hooks/"),
        ] {
            assert_eq!(options[key], [value], "{name} {key}");
        }
        assert_eq!(options["Architecture"], arch.architecture, "{name}");
        match (loose, changed) {
            (true, _) => assert_eq!(options["SigLevel"], NEVER, "{name}"),
            (_, true) => assert_eq!(options["SigLevel"], BOTH, "{name}"),
            _ => assert_eq!(options["SigLevel"], STRICT, "{name}"),
        }
        for absent in ["CheckSpace", "DownloadUser", "IgnoreGroup"] {
            assert!(!options.contains_key(absent), "{name} {absent}");
        }

        let output = Command::new("pacman-conf").arg("-c").arg(&file).arg("-l").output().unwrap();
        let listed: Vec<_> = text(&output.stdout).lines().collect();
        let mut repos: Vec<_> = arch.repos.iter().map(|repo| repo.name.as_str()).collect();
        if changed {
            repos.push("mine");
        }
        assert_eq!(listed, repos, "{name}");

        for repo in &arch.repos {
            let read = pacman_conf_repo(&file, &repo.name);
            if loose {
                // None of its own: it is that of [options].
                assert_eq!(read.get("SigLevel"), None, "{name} {}", repo.name);
            } else if repo.siglevel.is_some() {
                assert_eq!(read["SigLevel"], BOTH, "{name} {}", repo.name);
            }
            if changed || name.contains("snapshot") {
                continue;
            }
            let expand = |server: &String| server.replace("$repo", &repo.name).replace("$arch", &arch.architecture[0]);
            let servers: Vec<_> = repo.servers.iter().map(expand).collect();
            assert_eq!(read["Server"], servers, "{name} {}", repo.name);
        }
    }
    let changed = golden("archlinuxarm-changed.conf");
    let read = |repo| pacman_conf_repo(&changed, repo).remove("Server").unwrap();
    assert_eq!(read("core"), ["https://a/armv7h/core", "file:///srv/mirror/core"]);
    assert_eq!(read("aur"), ["http://127.0.0.1:8000/aur"]);
    assert_eq!(read("mine"), ["https://m/armv7h"]);
    let own = golden("archlinuxarm-own.conf");
    let output = Command::new("pacman-conf").arg("-c").arg(&own).arg("-l").output().unwrap();
    let order = ["first", "core", "unsigned", "second", "extra", "alarm", "aur"];
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), order);
    let level = |repo| pacman_conf_repo(&own, repo).remove("SigLevel");
    assert_eq!(level("first").unwrap(), BOTH);
    assert_eq!(level("unsigned").unwrap(), NEVER);
    assert_eq!((level("second"), level("aur")), (None, None));
    let snapshot = pacman_conf_repo(&golden("archlinux-snapshot.conf"), "extra");
    let expected = "https://archive.archlinux.org/repos/2026/01/02/extra/os/x86_64";
    assert_eq!(snapshot["Server"], [expected]);
}

fn pacman_conf_repo(file: &Path, repo: &str) -> BTreeMap<String, Vec<String>> {
    pacman_conf(file, &["-r", repo])
}

// -- A pacman.conf of the user's ----------------------------------------------------------------------------------------

#[test]
fn no_password_is_in_the_document_or_in_a_message() {
    let ground = Ground::new();
    let output = ground.run(&["--server", "https://me:word@h/$arch/$repo"]);
    let document = document(&output);
    assert_eq!(document["config"]["repositories"][0]["servers"], json!(["https://h/$arch/$repo"]));
    let strict = fs::read_to_string(ground.path("target.strapline/pacman-strict.conf")).unwrap();
    assert!(strict.contains("\nServer = https://me:word@h/$arch/$repo\n"), "{strict}");
    for args in [["--server", "rsync://me:word@h/"], ["--repo", "core=https://me:word@h/,usage=No"]] {
        let output = ground.run(&args);
        assert_eq!(output.status.code(), Some(64));
        for text in [text(&output.stdout), text(&output.stderr)] {
            assert!(!text.is_empty() && !text.contains("word"), "{text}");
        }
    }
}

#[test]
fn a_pacman_conf_that_is_there_is_taken_over() {
    let ground = Ground::new();
    let conf = ground.path("pacman.conf");
    let write = |options: &str, more: &str| {
        let lists = ground.path("lists/*");
        let text = format!(
            "[options]\nArchitecture = aarch64\nCacheDir = /elsewhere\nCheckSpace\nNoExtract = a  b\nNoExtract = c\n{options}\n\
             [mine]\nServer = file:///mine\n[core]\nInclude = {}\n{more}\n",
            lists.display()
        );
        fs::write(&conf, text).unwrap();
    };
    fs::create_dir(ground.path("lists")).unwrap();
    fs::write(ground.path("lists/1"), "Server = http://one/$arch/$repo\n").unwrap();
    fs::write(ground.path("lists/2"), "Server = http://two/$arch/$repo\n").unwrap();
    let args = ["--conf", conf.to_str().unwrap()];
    write("SigLevel = Required DatabaseOptional\nParallelDownloads = 7", "");
    let output =
        ground.run(&[&args[..], &["--repo", "core=http://three/,usage=Sync", "--set", "NoExtract=d"]].concat());
    let notes = format!(
        "mkconf: not taken from '{0}': CacheDir, CheckSpace\nmkconf: not in '{0}': the repositories extra, alarm, aur\n",
        conf.display()
    );
    assert!(text(&output.stderr).starts_with(&notes), "{}", text(&output.stderr));
    let strict = fs::read_to_string(ground.path("target.strapline/pacman-strict.conf")).unwrap();
    assert!(strict.contains("\nParallelDownloads = 7\n") && !strict.contains("elsewhere"), "{strict}");
    assert!(strict.contains("\nNoExtract = a b c\n") && strict.contains("\nNoExtract = d\n"), "{strict}");
    assert!(
        strict.ends_with("\n[mine]\nServer = file:///mine\n\n[core]\nUsage = Sync\nServer = http://three/\n"),
        "{strict}"
    );
    let level = "PackageRequired PackageTrustedOnly DatabaseOptional DatabaseTrustedOnly";
    assert!(strict.contains(&format!("\nSigLevel = {level}\n")), "{strict}");
    let repositories = &document(&output)["config"]["repositories"];
    assert_eq!(repositories[0], json!({"name": "mine", "servers": ["file:///mine"], "siglevel": level}));
    assert_eq!((&repositories[1]["publisher"], &repositories[1]["siglevel"]), (&json!("archlinuxarm"), &json!(level)));
    // All that it includes.
    let output = ground.run(&args);
    let servers = &document(&output)["config"]["repositories"][1]["servers"];
    assert_eq!(*servers, json!(["http://one/aarch64/core", "http://two/aarch64/core"]));

    // What nobody verifies has to be said.
    let said = ["--repo", "open=file:///open,siglevel=Optional"];
    write("SigLevel = Required", "[open]\nSigLevel = PackageOptional\nServer = file:///open");
    let output = ground.run(&[&args[..], &said].concat());
    assert_eq!(document(&output)["config"]["repositories"][2]["unsigned"], true);
    assert!(
        text(&output.stderr).contains("warning: packages of the repository 'open' need no signature"),
        "{output:?}"
    );
    let failed = |args: &[&str], status: i32, why: &str| {
        let output = ground.run(args);
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(why), "{why}: {}", text(&output.stderr));
    };
    failed(&args, 64, "packages of the repository 'open' need no signature");
    write("SigLevel = Required", "[open]\nSigLevel = TrustAll\nServer = file:///open");
    failed(&args, 64, "reading the SigLevel of 'open': ");
    write("SigLevel = Optional", "");
    failed(&args, 64, "lets in packages without a trusted signature");
    let stricter = ["--set", "SigLevel=Required", "--repo", "mine=file:///mine,siglevel=DatabaseOptional"];
    let output = ground.run(&[&args[..], &stricter].concat());
    // Its packages are signed: no 'unsigned'.
    let expected = json!({"name": "mine", "servers": ["file:///mine"], "siglevel": "Required DatabaseOptional"});
    assert_eq!(document(&output)["config"]["repositories"][0], expected);
    // pacman's own level is Optional, or not, as the version has it.
    write("", "[empty]");
    failed(&[&args[..], &["--set", "SigLevel=Required"]].concat(), 64, "the repository 'empty' has no server");
    write("SigLevel = Required\nArchitecture = x86_64", "");
    fs::write(&conf, fs::read_to_string(&conf).unwrap().replace("Architecture = aarch64\n", "")).unwrap();
    failed(&args, 64, "its Architecture is x86_64, and the root is of aarch64");
    write("SigLevel = Wrong", "");
    failed(&args, 69, "pacman-conf' ended with exit status 1");
    // Nobody has checked what lies beside the document's pacman.
    let planted = ground.path("planted/pacman-conf");
    fs::create_dir(ground.path("planted")).unwrap();
    fs::write(&planted, "#!/bin/sh\n: > ${0%/*}/ran\n").unwrap();
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o755)).unwrap();
    let mut beside: Value = serde_json::from_str(&ground.document()).unwrap();
    beside["pacman"]["path"] = json!(ground.path("planted/pacman"));
    write("SigLevel = Required\nXferCommand = /bin/sh -c evil", "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mkconf"));
    command.args(args);
    let output = feed(command, &beside.to_string());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("CacheDir, XferCommand, CheckSpace"), "{}", text(&output.stderr));
    assert!(!ground.path("planted/ran").exists());
    let fifo = ground.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    failed(&["--conf", fifo.to_str().unwrap()], 64, "fifo': is not a regular file");
    failed(&["--conf", "/no/such"], 64, "reading '/no/such': No such file or directory");
    fs::copy(&conf, ground.path("target/pacman.conf")).unwrap();
    failed(&["--conf", ground.path("target/pacman.conf").to_str().unwrap()], 64, "it is in the root");
    failed(&[&args[..], &["--server", "http://h/"]].concat(), 64, "cannot be used with");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mkconf"));
    command.args(args).env("PATH", ground.path("nothing"));
    let output = feed(command, &ground.document());
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("there is no pacman-conf in PATH"), "{}", text(&output.stderr));
}

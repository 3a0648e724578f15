//! What the tests need: keys made by gpg, a root, a mirror and a document, and ways to look at a keyring.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]
#![allow(dead_code, reason = "each test program uses what it needs of them")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{OnceLock, RwLock};
pub(crate) use strapline_tests::gpg::{all, gpg, kill_agent, primaries, run, short};
use tempfile::TempDir;

/// Held for reading by every run, and for writing by the test that looks for what a run left.
pub(crate) static RUNS: RwLock<()> = RwLock::new(());

// ---------------------------------------------------------------------------------------------------------------------
// Keys, made once.

pub(crate) struct Keys {
    /// What gpg exports: by name, some of the keys each.
    pub(crate) rings: BTreeMap<&'static str, Vec<u8>>,
    pub(crate) masters: [String; 3],
    pub(crate) builder: String,
    pub(crate) retired: String,
    pub(crate) expired: String,
    pub(crate) extra: String,
    /// A package, and the builder's signature on it.
    pub(crate) package: [Vec<u8>; 2],
}

/// A ring of the test's own keys.
pub(crate) fn ring(name: &str) -> &'static [u8] {
    &keys().rings[name]
}

pub(crate) fn make_key(home: &Path, name: &str, dates: &str) -> String {
    let before = all(home);
    let file = home.join("params");
    let text = format!(
        "Key-Type: EDDSA\nKey-Curve: ed25519\nKey-Usage: sign\nName-Real: Test {name}\n\
         Name-Email: {name}@test.invalid\n{dates}\n%no-protection\n%commit\n"
    );
    fs::write(&file, text).unwrap();
    run(gpg(home).arg("--gen-key").arg(&file));
    all(home).difference(&before).next().unwrap().clone()
}

pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let directory = short();
        let home = directory.path();
        let never = "Expire-Date: 0";
        let masters = ["m1", "m2", "m3"].map(|name| make_key(home, name, never));
        let [builder, retired, extra] = ["builder", "retired", "extra"].map(|name| make_key(home, name, never));
        let past = "Creation-Date: 20200101T000000\nExpire-Date: 366";
        let expired = make_key(home, "expired", past);
        for master in &masters {
            for key in [&builder, &retired] {
                let mut sign = gpg(home);
                run(sign.args(["--yes", "--local-user", master, "--quick-sign-key", key]));
            }
        }
        let export = |keys: &[&String]| {
            let mut export = gpg(home);
            run(export.args(["--armor", "--export"]).args(keys)).into_bytes()
        };
        let [a, b, c] = &masters;
        let rings = BTreeMap::from([
            ("all", export(&[a, b, c, &builder, &retired])),
            ("two", export(&[a, b, &builder, &retired])),
            ("expired", export(&[a, &builder, &expired])),
            ("extra", export(&[&extra])),
        ]);
        let package = home.join("package");
        write_package(&package, "signed", &[]);
        let mut sign = gpg(home);
        sign.args(["--local-user", &builder, "--detach-sign"]);
        run(sign.arg(&package));
        let signature = package.with_extension("sig");
        let package = [&package, &signature].map(|p| fs::read(p).unwrap());
        kill_agent(home);
        Keys { package, rings, masters, builder, retired, expired, extra }
    })
}

impl Keys {
    pub(crate) fn trusted(&self) -> String {
        self.masters.iter().map(|m| format!("{m}:4:\n")).collect()
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A root, a mirror and a document.

pub(crate) struct Lab {
    pub(crate) directory: TempDir,
    pub(crate) root: PathBuf,
    pub(crate) document: Value,
}

/// The warning about a key that too few sign.
pub(crate) fn marginal(key: &str) -> String {
    format!("{key} is only marginally valid, so packages signed by it are refused; --trust {key} makes it valid")
}

/// What a keyring package says.
#[derive(Clone)]
pub(crate) struct Ring<'a> {
    pub(crate) keys: &'a [u8],
    pub(crate) trusted: String,
    pub(crate) revoked: String,
    pub(crate) pinned: Vec<String>,
}

impl Ring<'_> {
    /// As it should be: three masters that certify a builder, and one key that is retired.
    pub(crate) fn good() -> Self {
        Self {
            keys: ring("all"),
            trusted: keys().trusted(),
            revoked: format!("{}\n", keys().retired),
            pinned: keys().masters.to_vec(),
        }
    }

    pub(crate) fn files(&self) -> [(String, Vec<u8>); 3] {
        let name = |end: &str| format!("usr/share/pacman/keyrings/test{end}");
        [
            (name(".gpg"), self.keys.to_vec()),
            (name("-trusted"), self.trusted.clone().into()),
            (name("-revoked"), self.revoked.clone().into()),
        ]
    }
}

impl Lab {
    pub(crate) fn new(ring: &Ring<'_>) -> Self {
        Self::at(ring, "root")
    }

    pub(crate) fn at(ring: &Ring<'_>, below: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let root = top.join(below);
        for at in ["dev", "etc/pacman.d", "proc", "run", "sys", "tmp", "var/cache", "var/lib/pacman", "var/log"] {
            fs::create_dir_all(root.join(at)).unwrap();
        }
        let pins = ring.pinned.iter().map(|key| {
            format!("[[keyring.trusted]]\nfingerprint = \"{key}\"\nsource = \"x\"\ndate = \"2026-11-22\"\n")
        });
        let preset = format!(
            "name = \"test\"\ntitle = \"Test Linux\"\n[keyring]\npackages = [\"test-keyring\"]\n\
             populate = [\"test\"]\n{}[arch.x86_64]\nservers = [\"http://127.0.0.1:9/\"]\nrepos = [\"core\"]\n",
            pins.collect::<String>()
        );
        fs::write(top.join("test.toml"), preset).unwrap();
        let meta = fs::metadata(&root).unwrap();
        let document = json!({
            "strapline": 1,
            "root": root,
            "root_id": {"dev": meta.dev(), "ino": meta.ino()},
            "arch": "x86_64",
            "distro": top.join("test.toml"),
            "mode": "root",
            "mounts": rootfs::plan::api(false),
            "binfmt": {"kind": "native"},
            "org.example.note": {"kept": true},
        });
        Self { directory, root, document }
    }

    /// As after the keyring package was installed.
    pub(crate) fn install(self, ring: &Ring<'_>) -> Self {
        for (path, bytes) in ring.files() {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        self
    }

    /// As before it: a mirror that has the package, a pacman, and a configuration for it.
    pub(crate) fn serve(mut self, ring: &Ring<'_>) -> Self {
        let top = self.root.parent().unwrap().to_owned();
        let www = top.join("www");
        fs::create_dir(&www).unwrap();
        let package = www.join("test-keyring-1-1-any.pkg.tar.zst");
        write_package(&package, "test-keyring", &ring.files());
        let mut repo_add = Command::new("repo-add");
        run(repo_add.arg("-q").arg(www.join("core.db.tar.gz")).arg(&package));
        let conf = top.join("loose.conf");
        let root = self.root.display();
        let text = format!(
            "[options]\nRootDir = {root}\nDBPath = {root}/var/lib/pacman\nCacheDir = {top}/cache\n\
             LogFile = {root}/var/log/pacman.log\nGPGDir = {root}/etc/pacman.d/gnupg\n\
             Architecture = x86_64\nSigLevel = Never\n[core]\nServer = file://{www}\n",
            top = top.display(),
            www = www.display()
        );
        fs::write(&conf, text).unwrap();
        let pacman = which("pacman");
        let sum = run(Command::new("sha256sum").arg(&pacman));
        self.document["pacman"] = json!({
            "path": pacman,
            "version": "6.0.2",
            "sha256": sum.split(' ').next().unwrap(),
            "trust": "host",
        });
        self.document["config"] = json!({"strict": conf, "loose": conf, "cache": top.join("cache")});
        self
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root.join("etc/pacman.d/gnupg")
    }

    /// The keyring beside the root.
    pub(crate) fn gpgdir(&self) -> PathBuf {
        let top = self.root.parent().unwrap();
        match self.document["config"]["strict"].as_str() {
            Some(strict) => Path::new(strict).with_file_name("gnupg"),
            None => top.join(format!("{}.strapline/gnupg", self.root.file_name().unwrap().to_str().unwrap())),
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let state = self.directory.path().join("state.json");
        fs::write(&state, self.document.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyring"));
        command.arg("--state").arg(&state).args(args);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// The keyring in a place of its own, so that looking at it changes nothing.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = short();
        let mut cp = Command::new("cp");
        run(cp.arg("-a").arg(self.home().join(".")).arg(copy.path()));
        copy
    }
}

/// Writes a package of this name, version 1-1.
pub(crate) fn write_package(path: &Path, name: &str, files: &[(String, Vec<u8>)]) {
    let encoder = zstd::Encoder::new(fs::File::create(path).unwrap(), 1).unwrap();
    let mut tar = tar::Builder::new(encoder);
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    let info = format!(
        "pkgname = {name}\npkgbase = {name}\npkgver = 1-1\npkgdesc = x\n\
         builddate = 1\npackager = x\nsize = 1\narch = any\n"
    );
    add(".PKGINFO", info.as_bytes());
    for (path, bytes) in files {
        add(path, bytes);
    }
    tar.into_inner().unwrap().finish().unwrap();
}

pub(crate) fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut all = std::env::split_paths(&path).map(|d| d.join(program));
    all.find(|p| p.is_file()).unwrap().canonicalize().unwrap()
}

pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) document: Value,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let _guard = RUNS.read();
        let Output { status, stdout, stderr } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        let document = serde_json::from_slice(&stdout).unwrap_or_default();
        Self { status: status.code().unwrap(), document, stderr }
    }

    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.stderr);
        assert!(self.document.get("error").is_none(), "{}", self.document);
        self
    }

    /// Its warnings, without the prefix.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let lines = self.stderr.lines();
        lines.filter_map(|line| line.strip_prefix("keyring: warning: ")).map(str::to_owned).collect()
    }

    /// A failure: its exit status, its word, and one line with its hint.
    #[track_caller]
    pub(crate) fn bad(&self, status: i32, code: &str, message: &str) {
        assert_eq!(self.status, status, "{}", self.stderr);
        assert_eq!(self.document["error"]["code"], code, "{}", self.document);
        assert_eq!(self.document["error"]["exit"], status);
        let told = self.document["error"]["message"].as_str().unwrap();
        assert!(told.contains(message), "{told:?} should say {message:?}");
        assert!(self.stderr.contains(&format!("keyring: {told}\n")), "{}", self.stderr);
        assert!(self.document.get("keyring").is_none());
    }
}

/// What gpg says of a keyring, without its own key: fingerprint to validity, owner trust, disabled, signed locally.
pub(crate) fn verdicts(home: &Path) -> BTreeMap<String, (String, String, bool, bool)> {
    let own = own_key(home);
    let list = run(gpg(home).args(["--with-colons", "--check-signatures"]));
    kill_agent(home);
    let mut verdicts = BTreeMap::new();
    let mut fields = (String::new(), String::new(), false, false);
    let mut key = String::new();
    let mut primary = false;
    for line in list.lines().chain(["pub:"]) {
        let f: Vec<&str> = line.split(':').collect();
        match f[0] {
            "pub" => {
                if !key.is_empty() && key != own {
                    verdicts.insert(std::mem::take(&mut key), std::mem::take(&mut fields));
                }
                if f.len() > 11 {
                    fields = (f[1].into(), f[8].into(), f[11].contains('D'), false);
                    primary = true;
                }
            }
            "sub" => primary = false,
            "fpr" if primary => key = f[9].to_owned(),
            "sig" if f[1] == "!" && own.ends_with(f[4]) && f[10].ends_with('l') => fields.3 = true,
            _ => {}
        }
    }
    verdicts
}

pub(crate) fn own_key(home: &Path) -> String {
    let list = run(gpg(home).args(["--with-colons", "--list-secret-keys"]));
    let own = primaries(&list);
    assert_eq!(own.len(), 1, "{list}");
    own.into_iter().next().unwrap()
}

/// What `pacman-key` of the host makes of the same files. Debian's has another directory written into it.
pub(crate) fn reference(ring: &Ring<'_>) -> TempDir {
    let top = short();
    let import = top.path().join("import");
    fs::create_dir(&import).unwrap();
    for (path, bytes) in ring.files() {
        let name = Path::new(&path).file_name().unwrap();
        fs::write(import.join(name), bytes).unwrap();
    }
    let script = fs::read_to_string(which("pacman-key")).unwrap();
    let ours = format!("KEYRING_IMPORT_DIR='{}'", import.display());
    let script = ["/usr/share/keyrings", "/usr/share/pacman/keyrings"]
        .iter()
        .fold(script, |s, d| s.replace(&format!("KEYRING_IMPORT_DIR='{d}'"), &ours));
    assert!(script.contains(&ours));
    let program = top.path().join("pacman-key");
    fs::write(&program, script).unwrap();
    let conf = top.path().join("pacman.conf");
    fs::write(&conf, "[options]\n").unwrap();
    let home = top.path().join("g");
    for args in [&["--init"][..], &["--populate", "test"]] {
        let mut pacman_key = Command::new("bash");
        pacman_key.arg(&program).arg("--config").arg(&conf);
        run(pacman_key.arg("--gpgdir").arg(&home).args(args));
    }
    kill_agent(&home);
    top
}

/// The files of a home and their modes, without names that are random and what gpg leaves behind.
pub(crate) fn modes(home: &Path) -> BTreeMap<String, u32> {
    let mut modes = BTreeMap::new();
    let mut add = |directory: &str| {
        for entry in fs::read_dir(home.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let known = !name.ends_with('~') && !name.starts_with("S.") && name != "tofu.db";
            let name = match name.rsplit_once('.') {
                Some((_, end @ ("key" | "rev"))) => format!("{directory}/x.{end}"),
                _ => format!("{directory}/{name}"),
            };
            if known {
                modes.insert(name, entry.metadata().unwrap().permissions().mode() & 0o7777);
            }
        }
    };
    // gpg also makes a certificate to revoke the own key with: nobody would ever be shown it.
    for directory in ["", "private-keys-v1.d"] {
        add(directory);
    }
    modes.remove("/openpgp-revocs.d");
    modes
}

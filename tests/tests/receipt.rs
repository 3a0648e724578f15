//! What the receipt says of each package is what pacman installed; and what was installed is there.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use strapline_tests::{Lab, Mirror, PACMAN, Ran, Server, Who, pacmans, schema};

/// The pacmans that people have: 6.0 of Debian 12, which is this host's, 7.0 and 7.1.
/// A mirror with more in it, a server for it, and the pipe up to a keyring.
struct Stage {
    mirror: Mirror,
    server: Server,
    pacman: PathBuf,
}

impl Stage {
    fn new(lab: &Lab, name: &str, pacman: &Path, description: &Value) -> Self {
        let mirror = Mirror::of("x86_64").extended(&lab.path().join(name), description);
        let server = Server::of(&mirror.www());
        let pacman = pacman.to_owned();
        Self { mirror, server, pacman }
    }

    fn begin(&self, root: &str) -> String {
        format!(
            "mkroot {root} --arch x86_64 --distro {} | fetch-pacman --quiet --use {} \
             | mkconf --quiet --server '{}/$arch/$repo' --cache-dir $PWD/packages-{root} | keyring --quiet",
            self.mirror.preset().display(),
            self.pacman.display(),
            self.server.url()
        )
    }

    /// Runs the pipe with these stages behind it.
    fn run(&self, lab: &Lab, root: &str, stages: &str) -> Ran {
        lab.sh(&format!("{} | {stages}", self.begin(root)))
    }

    /// The SHA-256 of an archive as the mirror has it.
    fn sha256(&self, repo: &str, file: &str) -> String {
        let path = self.mirror.www().join("x86_64").join(repo).join(file);
        package::digest::sha256_hex(fs::read(&path).expect("the mirror has it"))
    }
}

fn package(name: &str, text: &str) -> Value {
    json!({"name": name, "version": "1", "files": {format!("usr/share/{name}/build"): text}})
}

fn of<'a>(document: &'a Value, name: &str) -> &'a Value {
    let packages = document["packages"].as_array().expect("packages");
    packages.iter().find(|p| p["name"] == name).expect(name)
}

/// What is recorded of a package's archive.
fn record(document: &Value, name: &str) -> [Value; 4] {
    let package = of(document, name);
    ["repo", "file", "sha256", "pgpsig"].map(|key| package[key].clone())
}

fn build(lab: &Lab, root: &str, name: &str) -> String {
    let path = lab.path().join(root).join(format!("usr/share/{name}/build"));
    fs::read_to_string(path).expect("it is installed")
}

/// Checks that the document has of `name` what this repository of the mirror has, and the root its files.
#[track_caller]
fn is_from(stage: &Stage, lab: &Lab, root: &str, document: &Value, name: &str, repo: &str) {
    let file = format!("{name}-1-1-any.pkg.tar.zst");
    let [r, f, sha256, pgpsig] = record(document, name);
    assert_eq!((r, f), (repo.into(), file.clone().into()), "{name}");
    assert_eq!(sha256, stage.sha256(repo, &file), "{name}");
    let signature = stage.mirror.www().join("x86_64").join(repo).join(format!("{file}.sig"));
    let signature = package::db::encode_signature(&fs::read(signature).expect("it is signed"));
    assert_eq!(pgpsig, signature, "{name}");
    assert_eq!(build(lab, root, name), repo, "{name}");
}

/// Two repositories with the same names, versions and file names, and other bytes. In the order of directories, hashes or the
/// alphabet either may come first; in that of the configuration `zeta` does.
fn two_builds() -> Value {
    let packages = |repo: &str| {
        json!([
            package("hello", repo),
            package("world", repo),
            {"name": "needs", "version": "1", "depend": ["hello", "provided"],
             "files": {"usr/share/needs/build": repo}},
            {"name": "gives", "version": "1", "provides": ["provided"], "files": {"usr/share/gives/build": repo}},
            {"name": "one", "version": "1", "groups": ["both"], "files": {"usr/share/one/build": repo}},
            {"name": "two", "version": "1", "groups": ["both"], "files": {"usr/share/two/build": repo}},
        ])
    };
    json!({"first": ["zeta"], "last": ["alpha"],
           "repos": {"zeta": {"packages": packages("zeta")}, "alpha": {"packages": packages("alpha")}}})
}

#[test]
fn the_record_is_of_what_pacman_installed() {
    for (pacman, who) in pacmans().iter().zip([Who::User, Who::Root, Who::Root]) {
        let lab = Lab::new(who);
        let stage = Stage::new(&lab, "mirror", pacman, &two_builds());
        let ran = stage.run(&lab, "root", "strap --quiet needs alpha/world both");
        let receipt = ran.succeeded();
        for name in ["needs", "hello", "gives", "one", "two"] {
            is_from(&stage, &lab, "root", &receipt, name, "zeta");
        }
        is_from(&stage, &lab, "root", &receipt, "world", "alpha");
        // A lock of it installs those bytes.
        fs::write(lab.path().join("receipt.json"), receipt.to_string()).expect("our own directory");
        let ran = stage.run(&lab, "second", "strap --quiet --locked receipt.json | verify --quiet");
        let second = ran.succeeded();
        for name in ["needs", "hello", "gives", "one", "two", "world"] {
            assert_eq!(record(&second, name), record(&receipt, name), "{name}");
            assert_eq!(build(&lab, "second", name), build(&lab, "root", name), "{name}");
        }
    }
}

#[test]
fn a_database_outside_the_configuration_is_not_read() {
    let lab = Lab::new(Who::Root);
    let stage = Stage::new(&lab, "mirror", Path::new(PACMAN), &two_builds());
    let begun = stage.run(&lab, "root", "cat > begun.json");
    assert_eq!(begun.status, 0, "{}", begun.stderr);
    let sync = lab.path().join("root/var/lib/pacman/sync");
    fs::create_dir_all(&sync).expect("our own root");
    for repo in ["0", "aaa", "zzz"] {
        let from = stage.mirror.www().join("x86_64/alpha/alpha.db");
        fs::copy(from, sync.join(format!("{repo}.db"))).expect("our own root");
    }
    // One that cannot even be read does not matter either.
    fs::write(sync.join("rubbish.db"), "<html>").expect("our own root");
    let ran = lab.sh("strap --quiet --state begun.json hello | verify --quiet");
    is_from(&stage, &lab, "root", &ran.succeeded(), "hello", "zeta");
}

#[test]
fn what_is_unchanged_keeps_its_record() {
    let lab = Lab::new(Who::Root);
    let described = |text: &str| {
        let packages = json!([package("hello", text), package("world", text)]);
        json!({"last": ["own"], "repos": {"own": {"packages": packages}}})
    };
    let old = Stage::new(&lab, "old", Path::new(PACMAN), &described("own"));
    let ran = old.run(&lab, "root", "strap --quiet hello");
    let first = ran.succeeded();
    is_from(&old, &lab, "root", &first, "hello", "own");
    let new = Stage::new(&lab, "new", Path::new(PACMAN), &described("new"));
    assert_ne!(old.sha256("own", "hello-1-1-any.pkg.tar.zst"), new.sha256("own", "hello-1-1-any.pkg.tar.zst"));
    fs::write(lab.path().join("first.json"), first.to_string()).expect("our own directory");
    let server = format!("{}/$arch/$repo", new.server.url());
    let ran = lab.sh(&format!(
        "mkconf --quiet --state first.json --server '{server}' --cache-dir $PWD/packages-root \
         | strap --quiet world"
    ));
    let second = ran.succeeded();
    assert_eq!(record(&second, "hello"), record(&first, "hello"));
    assert_eq!(build(&lab, "root", "hello"), "own");
    assert_eq!(build(&lab, "root", "world"), "new");
    assert_eq!(record(&second, "world")[2], new.sha256("own", "world-1-1-any.pkg.tar.zst"));
    // A lock of the first is another build than what a root from the new mirror has; nothing is installed over it.
    let ran = new.run(&lab, "other", "strap --quiet hello | strap --quiet --locked first.json");
    ran.failed(69, "'hello' 1-1 is another build than the locked one");
    assert_eq!(build(&lab, "other", "hello"), "new");
    // What somebody installs by hand in between is no more what was recorded: that is left out, never guessed. (As if the run
    // before had been a minute ago: pacman writes down seconds.)
    let loose = second["config"]["loose"].as_str().expect("a configuration");
    let by_hand = lab.sh(&format!("pacman --config {loose} -U --noconfirm packages-root/world-1-1-any.pkg.tar.zst"));
    assert_eq!(by_hand.status, 0, "{}", by_hand.stderr);
    let mut earlier = second.clone();
    for step in earlier["steps"].as_array_mut().expect("steps") {
        step["started"] = json!(step["started"].as_f64().expect("a time") - 60.0);
    }
    fs::write(lab.path().join("earlier.json"), earlier.to_string()).expect("our own directory");
    let third = lab.sh("strap --quiet --state earlier.json sed").succeeded();
    assert_eq!(record(&third, "world"), [(); 4].map(|()| Value::Null));
}

/// Entries as real repositories have them, and what pacman 6.0 to 7.1 make of each: none keeps another package back.
#[test]
fn an_odd_entry_fails_only_where_it_is_wanted() {
    for pacman in pacmans() {
        let lab = Lab::new(Who::Root);
        let desc = |name: &str, version: &str, file: &str| {
            format!("%FILENAME%\n{file}\n\n%NAME%\n{name}\n\n%VERSION%\n{version}\n\n")
        };
        let hello = "hello-1-1-any.pkg.tar.zst";
        let description = json!({"last": ["own"], "repos": {
            "own": {
                "packages": [
                    package("hello", "own"),
                    {"name": "strange", "version": ".1\u{e9}", "files": {"usr/share/strange/build": "own"}},
                ],
                "odd": {
                    "moved-1-1": desc("other", "1-1", hello),
                    "older-1-1": desc("older", "2-1", hello),
                    "nofile-1-1": "%NAME%\nnofile\n\n%VERSION%\n1-1\n\n",
                    "empty-1-1": "",
                    "crlf-1-1": desc("crlf", "1-1", hello).replace('\n', "\r\n"),
                    "dashes-1-2-3-1": desc("dashes", "1-2-3-1", hello),
                },
            },
            "core": {"odd": {"empty-1-1": "", "archlinux-keyring-0-1": "%NAME%\nx\n"}},
        }});
        let stage = Stage::new(&lab, "mirror", &pacman, &description);
        let ran = stage.run(&lab, "root", "strap hello strange bash | tee doc.json | verify");
        let receipt = ran.succeeded();
        is_from(&stage, &lab, "root", &receipt, "hello", "own");
        assert_eq!(of(&receipt, "strange")["version"], ".1\u{e9}-1");
        assert_eq!(record(&receipt, "strange")[0], "own");
        assert_eq!(record(&receipt, "bash")[0], "core");
        for odd in ["nofile", "empty", "crlf", "moved"] {
            let ran = lab.sh(&format!("strap --quiet --state doc.json {odd}"));
            assert_ne!(ran.status, 0, "{odd}");
            // What is there is on record all the same.
            assert_eq!(record(&ran.document(), "hello"), record(&receipt, "hello"));
        }
    }
}

#[test]
fn the_keyring_is_out_of_the_archive_that_pacman_took() {
    // Overlays carry the distribution's keyring package, by the same name, version and file name, as another build. Each of
    // the two databases once has the one that pacman takes: whichever is read first, it is once the wrong one.
    let mirror = Mirror::of("x86_64");
    let core = mirror.www().join("x86_64/core");
    let entries = package::db::read(
        fs::File::open(core.join("core.db")).expect("the mirror has it"),
        package::db::Limits::default(),
    );
    let database = entries.expect("the mirror's own");
    let own = package::db::newest(&database.entries, "archlinux-keyring").expect("it is in core");
    let (version, rel) = own.version.rsplit_once('-').expect("a release");
    let (_, ext) = own.filename.rsplit_once('.').expect("a suffix");
    let other = json!({"packages": [{"name": "archlinux-keyring", "version": version, "rel": rel, "ext": ext,
        "files": {"usr/share/pacman/keyrings/other.gpg": "none"}}]});
    let same = json!({"packages": [{"copy": format!("core/{}", own.filename)}]});
    for (name, description) in [
        ("core", json!({"last": ["aaa"], "repos": {"aaa": other}})),
        ("aaa", json!({"first": ["aaa"], "repos": {"aaa": same, "core": other}})),
        ("none", json!({"first": ["aaa"], "repos": {"aaa": other}})),
    ] {
        let lab = Lab::new(Who::Root);
        let stage = Stage::new(&lab, "mirror", Path::new(PACMAN), &description);
        let archive = |repo: &str| stage.sha256(repo, &own.filename);
        assert_ne!(archive("aaa"), archive("core"));
        let ran = stage.run(&lab, "root", "strap --quiet bash archlinux-keyring");
        match name {
            "none" => ran.failed(69, "looking for the ring 'archlinux'"),
            repo => {
                let [of, file, sha256, _] = record(&ran.succeeded(), "archlinux-keyring");
                assert_eq!((of, file), (repo.into(), own.filename.as_str().into()));
                assert_eq!(sha256, archive(repo));
            }
        }
    }
}

#[test]
fn an_asked_for_dependency_becomes_explicit() {
    let lab = Lab::new(Who::Root);
    let stage = Stage::new(&lab, "mirror", Path::new(PACMAN), &two_builds());
    let ran =
        stage.run(&lab, "root", "strap --quiet needs one | tee first.json | strap --quiet zeta/hello both provided sh");
    let second = ran.succeeded();
    let first = fs::read_to_string(lab.path().join("first.json")).expect("a document");
    let first: Value = serde_json::from_str(&first).expect("a document");
    let reasons = |document: &Value| {
        ["needs", "one", "hello", "gives", "two", "bash", "glibc"].map(|name| {
            let packages = document["packages"].as_array().expect("packages");
            let package = packages.iter().find(|p| p["name"] == name);
            let reason = package.map(|p| p["reason"].as_str().expect("a reason").to_owned());
            reason.unwrap_or_default()
        })
    };
    let (e, d) = ("explicit", "dependency");
    assert_eq!(reasons(&first)[..4], [e, e, d, d]);
    assert_eq!(reasons(&second), [e, e, e, e, e, e, d]);
    let pacman = lab.sh("pacman -Qqe --dbpath root/var/lib/pacman");
    let explicit: Vec<_> = pacman.stdout.lines().collect();
    assert_eq!(explicit, ["bash", "gives", "hello", "needs", "one", "two"]);
}

/// Without it a pacman that is linked to glibc stops at the first name that is not ASCII and exits 0.
const WITHOUT_LOCALE: &str = "unshare --mount --propagation private sh -ec 'mount -t tmpfs t /usr/lib/locale; ";

#[test]
fn files_left_out_by_pacman_come_with_the_next_run() {
    for pacman in pacmans() {
        let lab = Lab::new(Who::Root);
        let description = json!({"last": ["own"], "repos": {"own": {"packages": [
            {"name": "hello", "version": "1", "files": {
                "usr/share/hello/build": "own", "usr/share/hello/caf\u{e9}": "1", "usr/share/hello/last": "2"}},
            package("world", "own"),
        ]}}});
        let stage = Stage::new(&lab, "mirror", &pacman, &description);
        let begun = stage.run(&lab, "root", "cat > begun.json");
        assert_eq!(begun.status, 0, "{}", begun.stderr);
        let ran = lab.sh(&format!("{WITHOUT_LOCALE} strap --quiet --state begun.json hello world' | tee failed.json"));
        let document = ran.document();
        let message = document["error"]["message"].as_str().expect(&ran.stderr);
        assert_eq!(message, "installing 'hello': 2 of its 6 files are not there, such as 'usr/share/hello/caf\u{e9}'");
        assert_eq!(document["error"]["exit"], 69);
        assert!(!lab.path().join("root/usr/share/hello/last").exists());
        // It is refused when it is chosen, too.
        let ran = lab.sh(&format!("{WITHOUT_LOCALE} fetch-pacman --new --use {}'", pacman.display()));
        ran.failed(69, "it leaves out files whose names are not ASCII");
        let ran = lab.sh("strap --quiet --state begun.json world | tee good.json | verify --quiet");
        let receipt = ran.succeeded();
        assert_eq!(build(&lab, "root", "hello"), "own");
        assert!(lab.path().join("root/usr/share/hello/last").exists());
        assert_eq!(record(&receipt, "hello")[0], "own");
    }
}

#[test]
fn a_file_that_could_not_be_written_is_missed() {
    let lab = Lab::new(Who::Root);
    let description = json!({"last": ["own"], "repos": {"own": {"packages": [
        package("hello", "own"),
        {"name": "cleans", "version": "1", "depend": ["bash", "coreutils"],
         "files": {"usr/share/cleans/build": "own", "usr/share/cleans/doc": "x"},
         "install": "post_install() {\n  rm usr/share/cleans/doc\n}\n"},
        {"name": "big", "version": "1", "files": {"usr/share/big/build": "own", "usr/share/big/data": "x".repeat(6 << 20)}},
    ]}}});
    let stage = Stage::new(&lab, "mirror", Path::new(PACMAN), &description);
    let begun = stage.run(&lab, "root", "cat > begun.json");
    assert_eq!(begun.status, 0, "{}", begun.stderr);
    // A place that nobody can write to.
    let script = "set -u; trap 'chattr -i root/usr/share/hello' EXIT; mkdir -p root/usr/share/hello; \
                  chattr +i root/usr/share/hello; strap --quiet --state begun.json hello";
    let ran = lab.sh(script);
    ran.failed(69, "extracting '");
    assert!(ran.stderr.contains(" of 'hello': "), "{}", ran.stderr);
    drop(lab.sh("strap --quiet --state begun.json sed").succeeded());
    assert_eq!(build(&lab, "root", "hello"), "own");
    // What a scriptlet removes is missed like what was never written; NoExtract says that it is meant.
    let ran = lab.sh("strap --quiet --state begun.json cleans");
    ran.failed(69, "installing 'cleans': 1 of its 5 files are not there, such as 'usr/share/cleans/doc'");
    assert_eq!(build(&lab, "root", "cleans"), "own");
    let ran = lab.sh(&format!(
        "mkconf --quiet --state begun.json --server '{}/$arch/$repo' --cache-dir $PWD/packages-root \
         --set NoExtract=usr/share/cleans/doc | strap --quiet --allow-failed-scriptlet cleans sed",
        stage.server.url()
    ));
    drop(ran.succeeded());
    // A disk that is full.
    let ran = lab.sh("unshare --mount --propagation private sh -ec 'mkdir -p root/usr/share/big; \
         mount -t tmpfs -o size=1m t root/usr/share/big; strap --quiet --state begun.json big'");
    assert_eq!(ran.status, 69, "{}", ran.stderr);
    let document = ran.document();
    let message = document["error"]["message"].as_str().expect("an error");
    // pacman itself says so, and fails.
    assert!(message.contains("usr/share/big/data"), "{message}");
    drop(lab.sh("strap --quiet --state begun.json sed").succeeded());
    assert_eq!(build(&lab, "root", "big"), "own");
}

#[test]
fn what_a_killed_pacman_left_is_installed_again() {
    let lab = Lab::new(Who::Root);
    let stage = Stage::new(&lab, "mirror", Path::new(PACMAN), &two_builds());
    let ran = stage.run(&lab, "root", "strap --quiet needs one alpha/world");
    let first = ran.succeeded();
    fs::write(lab.path().join("first.json"), first.to_string()).expect("our own directory");
    // As a pacman leaves it that is killed over a package: a record without its `desc`, and its lock.
    let database = lab.path().join("root/var/lib/pacman");
    for record in ["hello-1-1", "one-1-1"] {
        fs::remove_file(database.join("local").join(record).join("desc")).expect("our own root");
    }
    fs::write(database.join("db.lck"), "").expect("our own root");
    let ran = lab.sh("strap --quiet --state first.json sed | verify --quiet");
    let second = ran.succeeded();
    for (name, reason) in [("hello", "dependency"), ("one", "explicit"), ("needs", "explicit")] {
        assert_eq!(of(&second, name)["reason"], reason, "{name}");
        is_from(&stage, &lab, "root", &second, name, "zeta");
    }
    // It was of the transaction too, and is installed from where its name is found first now.
    is_from(&stage, &lab, "root", &second, "world", "zeta");
}

/// What in-toto's Statement v1 and SLSA's Provenance v1 require, and no member that they do not have.
fn of_provenance() -> Value {
    let object = |properties: Value, required: Value| json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required});
    let [text, uri, time] = [
        json!({"type": "string", "minLength": 1}),
        json!({"type": "string", "format": "uri"}),
        json!({"type": "string", "format": "date-time"}),
    ];
    let digest = json!({"type": "object", "minProperties": 1,
        "additionalProperties": false, "properties": {"sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}});
    let members = json!({"name": text, "uri": uri, "digest": digest, "content": text, "downloadLocation": uri,
        "mediaType": text, "annotations": {"type": "object"}});
    let mut descriptor = object(members, json!([]));
    descriptor["anyOf"] = json!([{"required": ["uri"]}, {"required": ["digest"]}, {"required": ["content"]}]);
    let descriptors = json!({"type": "array", "items": descriptor});
    let mut subjects = descriptors.clone();
    subjects["minItems"] = json!(1);
    subjects["items"]["required"] = json!(["digest"]);
    let definition = object(
        json!({"buildType": uri, "externalParameters": {"type": "object"}, "internalParameters": {"type": "object"},
            "resolvedDependencies": descriptors}),
        json!(["buildType", "externalParameters"]),
    );
    let versions = json!({"type": "object", "additionalProperties": text});
    let builder = object(json!({"id": uri, "version": versions, "builderDependencies": descriptors}), json!(["id"]));
    let metadata = object(json!({"invocationId": text, "startedOn": time, "finishedOn": time}), json!([]));
    let details =
        object(json!({"builder": builder, "metadata": metadata, "byproducts": descriptors}), json!(["builder"]));
    let predicate =
        object(json!({"buildDefinition": definition, "runDetails": details}), json!(["buildDefinition", "runDetails"]));
    object(
        json!({"_type": {"const": "https://in-toto.io/Statement/v1"}, "subject": subjects,
            "predicateType": {"const": "https://slsa.dev/provenance/v1"}, "predicate": predicate}),
        json!(["_type", "subject", "predicateType", "predicate"]),
    )
}

#[test]
fn provenance_names_the_bytes_that_are_there() {
    let lab = Lab::new(Who::User);
    let stage = Stage::new(&lab, "mirror", Path::new(PACMAN), &two_builds());
    let signed = stage.mirror.www().join("x86_64/alpha/two-1-1-any.pkg.tar.zst");
    fs::copy(signed, lab.path().join("own-1-1-any.pkg.tar.zst")).expect("our own directory");
    let made = "strap --quiet needs --unsigned ./own-1-1-any.pkg.tar.zst | keyring --quiet --strip | pack --quiet -o root.tar.zst \
                | mkdisk --quiet --bootloader none -o root.img.zst | unmount --quiet | tee receipt.json";
    drop(stage.run(&lab, "root", made).succeeded());
    let builder = "https://ci.example.org/images";
    let ran = lab.sh(&format!("strapline receipt --provenance --builder {builder} receipt.json"));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let statement: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    schema::check_by(of_provenance(), &statement);
    let sha256 = |path: &Path| package::digest::sha256_hex(fs::read(path).expect("it is there"));
    let subjects = ["root.tar.zst", "root.img.zst"]
        .map(|name| json!({"name": name, "digest": {"sha256": sha256(&lab.path().join(name))}}));
    assert_eq!(statement["subject"], json!(subjects));
    let predicate = &statement["predicate"];
    assert_eq!(predicate["runDetails"]["builder"]["id"], builder);
    assert_eq!(predicate["buildDefinition"]["externalParameters"]["packages"], json!(["needs", "two"]));
    // Each is where it is said to be.
    let dependencies = predicate["buildDefinition"]["resolvedDependencies"].as_array().expect("dependencies");
    let mut seen = Vec::new();
    for one in dependencies {
        let name = one["name"].as_str().expect("a name");
        let path = match one["downloadLocation"].as_str() {
            None => PathBuf::from(PACMAN),
            Some(url) => match url.strip_prefix(stage.server.url()) {
                Some(below) => stage.mirror.www().join(below.trim_start_matches('/')),
                None => url.strip_prefix("file://").expect("a file").into(),
            },
        };
        assert_eq!(one["digest"]["sha256"], sha256(&path), "{name}");
        seen.push(name);
    }
    let package = |name: &str| format!("{name}-1-1-any.pkg.tar.zst");
    assert_eq!(seen, ["pacman".to_owned(), package("gives"), package("hello"), package("needs"), package("own")]);
    // What is changed afterwards is another root.
    let ran = lab.sh("strap --quiet --state receipt.json one > later.json; strapline receipt --provenance later.json");
    assert_eq!((ran.status, ran.stdout.as_str()), (65, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("making provenance: 'strap' ran after 'pack' wrote '"), "{}", ran.stderr);
}

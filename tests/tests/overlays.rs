//! Several publishers in one root: overlays, each with its own keys and its place, and repositories of one's own.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use strapline_tests::{Lab, Mirror, PACMAN, Ran, Server, Who, pacman_of, pacmans, top};

/// A mirror with overlays, a server for it, and pipes.
struct Bench {
    lab: Lab,
    /// The mirror without them.
    base: Mirror,
    mirror: Mirror,
    server: Server,
    pacman: PathBuf,
}

impl Bench {
    fn new(description: &Value) -> Self {
        Self::with(Path::new(PACMAN), description)
    }

    fn with(pacman: &Path, description: &Value) -> Self {
        Self::of(Mirror::of("x86_64"), pacman, description)
    }

    fn of(base: Mirror, pacman: &Path, description: &Value) -> Self {
        let lab = Lab::new(Who::Root);
        let mirror = base.extended(&lab.path().join("mirror"), description);
        let server = Server::of(&mirror.www());
        let presets = fs::read_dir(&mirror.dir).expect("a mirror").map(|entry| entry.expect("a file").path());
        for path in presets.filter(|path| path.extension().is_some_and(|end| end == "toml")) {
            let text = fs::read_to_string(&path).expect("a preset").replace("http://127.0.0.1:8765", server.url());
            fs::write(lab.path().join(path.file_name().expect("a name")), text).expect("our own directory");
        }
        Self { lab, base, mirror, server, pacman: pacman.to_owned() }
    }

    /// Runs a pipe with these overlays: `mkroot`, `fetch-pacman`, `mkconf` with options, and the rest.
    fn run(&self, overlays: &[&str], mkconf: &str, rest: &str) -> Ran {
        let overlays: String = overlays.iter().map(|name| format!(" --overlay {name}.toml")).collect();
        self.sh(&format!(
            "mkroot root --arch x86_64 --distro preset.toml{overlays} | fetch-pacman --quiet --use {} \
             | mkconf --cache-dir $PWD/packages {mkconf} | {rest}",
            self.pacman.display()
        ))
    }

    fn sh(&self, script: &str) -> Ran {
        self.lab.sh(script)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.lab.path().join(below)
    }

    /// Returns the fingerprint of an overlay's key.
    fn key(&self, overlay: &str) -> String {
        let text = fs::read_to_string(self.mirror.dir.join("overlays.json")).expect("keys");
        let keys: Value = serde_json::from_str(&text).expect("JSON");
        keys[overlay].as_str().expect("a key").to_owned()
    }
}

fn package(name: &str) -> Value {
    json!({"name": name, "version": "1", "files": {format!("usr/share/{name}"): name}})
}

/// Returns name and repository of the installed packages, without those of the distribution.
fn installed(document: &Value) -> Vec<(&str, &str, bool)> {
    let packages = document["packages"].as_array().expect("packages");
    let rows = packages
        .iter()
        .map(|p| (p["name"].as_str().expect("a name"), p["repo"].as_str().unwrap_or_default(), p["verified"] == true));
    rows.filter(|(_, repo, _)| !["core", "extra"].contains(repo)).collect()
}

/// Three publishers over the distribution, one of them before it, with the same package as another.
fn three() -> Value {
    json!({"overlays": {
        "first": {"before": "core", "packages": [package("hello"), {"copy": "extra/nano-7.2-1-x86_64.pkg.tar.zst"}]},
        "second": {"after": "core", "packages": [package("hello"), package("world")]},
        "third": {"packages": [package("world"), package("third")]},
    }})
}

#[test]
fn three_overlays_with_three_keyrings() {
    for pacman in pacmans() {
        let bench = Bench::with(&pacman, &three());
        let ran = bench.run(&["first", "second", "third"], "", "keyring | strap hello world third nano | verify");
        let document = ran.succeeded();
        let repos = document["config"]["repositories"].as_array().expect("repositories");
        let order: Vec<_> = repos.iter().map(|repo| (repo["name"].as_str(), repo["publisher"].as_str())).collect();
        let base = Some("archlinux");
        let expected = [
            ("first", Some("first")),
            ("core", base),
            ("second", Some("second")),
            ("extra", base),
            ("third", Some("third")),
        ];
        assert_eq!(order, expected.map(|(name, publisher)| (Some(name), publisher)));
        let expected =
            [("hello", "first", true), ("nano", "first", true), ("third", "third", true), ("world", "second", true)];
        assert_eq!(installed(&document), expected);
        assert_eq!(document["keyring"]["populated"], json!(["archlinux", "first", "second", "third"]));
        let publishers = document["keyring"]["publishers"].as_array().expect("publishers");
        let keys = |name: &str| publishers.iter().find(|p| p["name"] == name).expect(name)["keys"].clone();
        for name in ["first", "second", "third"] {
            assert_eq!(keys(name), json!([bench.key(name)]));
        }
        let base: Vec<String> = serde_json::from_value(keys("archlinux")).expect("keys");
        assert!(base.contains(&bench.base.key("/builder")) && base.contains(&bench.base.key("/masters/0")));
        assert!(!base.contains(&bench.key("first")));
        let recorded: Vec<PathBuf> = serde_json::from_value(document["overlays"].clone()).expect("paths");
        assert_eq!(recorded, ["first.toml", "second.toml", "third.toml"].map(|file| bench.path(file)));
    }
}

/// To pacman a valid key is valid for all repositories.
#[test]
fn an_overlay_vouches_for_its_own_packages_only() {
    let victim = json!({"name": "victim", "version": "1", "signer": "over", "files": {"usr/share/victim": "x"}});
    // pacman takes such a name, and no receipt has it.
    let odd = json!({"name": "odd~x", "version": "1", "signer": "over", "files": {"usr/share/odd": "x"}});
    let stray = json!({"name": "stray", "version": "1", "signer": "over", "files": {"usr/share/stray": "x"}});
    let bench = Bench::new(&json!({
        "last": ["more"],
        "repos": {"more": {"packages": [victim, odd, package("good")]}},
        "overlays": {
            "over": {"packages": [package("hello")]},
            "other": {"packages": [stray, {"name": "replayed", "version": "1", "signer": "builder"}]},
        },
    }));
    let both = ["over", "other"];
    let begun = bench.run(&both, "", "keyring > begun.json");
    assert_eq!(begun.status, 0, "{}", begun.stderr);
    let (over, builder) = (bench.key("over"), bench.base.key("/builder"));
    for (name, repo, key, whose) in [
        ("victim", "more", &over, "archlinux"),
        ("stray", "other", &over, "other"),
        ("replayed", "other", &builder, "other"),
    ] {
        let ran = bench.sh(&format!("strap --state begun.json hello good {name}"));
        let line = format!(
            "checking '{name}' of the repository '{repo}': it is signed by the key {key}, which is not one of '{whose}'"
        );
        ran.failed(69, &line);
        assert_eq!(ran.document()["error"]["code"], "not-verified");
        // pacman itself has nothing against it: nothing was installed, and it is not in the cache any more.
        assert!(!bench.path("root/var/lib/pacman/local").join(format!("{name}-1-1")).exists());
        assert!(!bench.path(&format!("packages/{name}-1-1-any.pkg.tar.zst")).exists());
    }
    bench
        .sh("strap --state begun.json odd~x")
        .failed(69, "asking pacman what it would install: its answer 'strapline-plan more odd~x ");
    assert_eq!(bench.sh("ls root/var/lib/pacman/local | grep -c odd").stdout, "0\n");
    let document = bench.sh("strap --state begun.json hello good").succeeded();
    assert_eq!(installed(&document), [("good", "more", true), ("hello", "over", true)]);
    // What the preset says, and what the user says.
    let over_toml = fs::read_to_string(bench.path("over.toml")).expect("a preset");
    let says = over_toml.replace("[keyring]", "[keyring]\nvouches_for = [\"more\"]");
    fs::write(bench.path("over.toml"), says).expect("our own directory");
    drop(bench.sh("keyring --state begun.json | strap victim").succeeded());
    bench.sh("keyring --state begun.json | strap stray").failed(69, "which is not one of 'other'");
    let ran = bench.sh(&format!("keyring --state begun.json --trust {over} | strap stray | verify > with.json"));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // What is installed is held to the same: without that word the key is another publisher's again.
    let again = bench.sh("keyring --state with.json | verify");
    again.failed(69, &format!("verifying 'stray': it is signed by the key {over}, which is not one of 'other'"));
    let document = again.document();
    let packages = document["packages"].as_array().expect("packages");
    let stray = packages.iter().find(|package| package["name"] == "stray").expect("stray");
    assert_eq!((&stray["signature"], &stray["verified"]), (&json!("other-publisher"), &json!(false)));
    assert_eq!(document["verify"]["signatures"]["other-publisher"], 1);
    let with: Value = serde_json::from_slice(&fs::read(bench.path("with.json")).expect("a document")).expect("JSON");
    assert_eq!((with.get("error"), &with["verify"]["signatures"]["other-publisher"]), (None, &json!(0)));
}

/// A packager of the distribution's whom an overlay lists as revoked signs the distribution's packages, and none of the overlay's.
#[test]
fn an_overlay_disables_no_key_of_another() {
    let bench = Bench::new(&json!({"overlays": {"over": {"packages": [
        package("hello"), {"name": "replayed", "version": "1", "signer": "builder"},
    ], "revoked": ["builder", "stranger"]}}}));
    let builder = bench.base.key("/builder");
    let ran = bench.run(&["over"], "", "keyring > begun.json && strap --state begun.json hello sed | verify");
    let document = ran.succeeded();
    let packages = document["packages"].as_array().expect("packages");
    let sed = packages.iter().find(|package| package["name"] == "sed").expect("sed");
    assert_eq!((&sed["verified"], &sed["key"]), (&json!(true), &json!(builder)));
    assert_eq!(installed(&document), [("hello", "over", true)]);
    let line = format!(
        "keyring: warning: 'over' lists {builder} as revoked, which is a key of 'archlinux': packages of 'archlinux' may be by it"
    );
    assert!(ran.stderr.lines().any(|is| is == line), "{}", ran.stderr);
    bench.sh("strap --state begun.json replayed").failed(69, "which is not one of 'over'");
}

/// What an overlay offers as the distribution's keyring is not where the distribution's keys come from.
#[test]
fn an_overlay_brings_no_keyring_of_another() {
    let fake = json!({"name": "archlinux-keyring", "version": "20990101",
                      "files": {"usr/share/pacman/keyrings/archlinux.gpg": "x"}});
    let bench = Bench::new(&json!({"overlays": {
        "over": {"before": "core", "packages": [fake, package("hello")]},
    }}));
    let document = bench.run(&["over"], "", "keyring | strap hello").succeeded();
    assert_eq!(installed(&document), [("hello", "over", true)]);
}

#[test]
fn a_bad_overlay_is_refused_with_the_reason() {
    let same = json!({"packages": [package("x")]});
    let bench = Bench::new(&json!({"overlays": {
        "good": same,
        "pinned": {"packages": [package("y")], "trusted": ["stranger"]},
        "revoker": {"packages": [package("z")], "revoked": ["masters/0"]},
        "borrower": {"packages": [package("w")], "pins": ["good"]},
    }}));
    let (good, stranger, master) = (bench.key("good"), bench.base.key("/stranger"), bench.base.key("/masters/0"));
    let toml = |name: &str| fs::read_to_string(bench.path(&format!("{name}.toml"))).expect("a preset");
    let write = |name: &str, text: String| fs::write(bench.path(&format!("{name}.toml")), text).expect("ours");
    write("twin", toml("good").replace("name = \"good\"\ntitle", "name = \"twin\"\ntitle"));
    write("nowhere", toml("good").replace("{ name = \"good\" }", "{ name = \"n\", before = \"cor\" }"));
    write("itself", "name = \"i\"\ntitle = \"I\"\nextends = [\"itself.toml\"]\n".to_owned());
    write("stolen", toml("good").replace(&good, &stranger));
    for (overlays, status, line) in [
        (&["good", "twin"][..], 64, "line 3: [arch.x86_64]: repository 'good' is there already, of the preset 'good'"),
        (&["good", "good"], 64, "laying 'good' over 'archlinux+good': it is there already"),
        (&["nowhere"], 64, "repository 'n': there is no 'cor' to be before: there are core, extra"),
        (&["preset"], 64, "laying 'archlinux' over 'archlinux': it adds no repositories"),
        (&["missing"], 64, "No such file or directory"),
    ] {
        let names: String = overlays.iter().map(|name| format!(" --overlay {name}.toml")).collect();
        let ran = bench.sh(&format!("mkroot root --arch x86_64 --distro preset.toml{names}"));
        ran.failed(status, line);
    }
    bench
        .sh("mkroot root --arch x86_64 --distro itself.toml")
        .failed(64, "line 3: extends: it extends itself, or too many others");
    bench.sh("mkroot root --arch x86_64 --distro good.toml").failed(64, "'good' is an overlay, and no distribution");
    assert!(!bench.path("root").exists());
    // What only the keys show: a master key that is not pinned, one of another's that is revoked, a pin for nobody's key.
    for (overlay, line) in [
        (
            "pinned",
            format!(
                "building the keyring of 'pinned': reading 'pinned-trusted': it names {stranger} as a master key, which is not pinned"
            ),
        ),
        (
            "revoker",
            format!(
                "building the keyring of 'revoker': it lists {master} as revoked, which is a master key of 'archlinux'"
            ),
        ),
        (
            "stolen",
            format!(
                "building the keyring of 'good': reading 'good-trusted': it names {good} as a master key, which is not pinned"
            ),
        ),
    ] {
        bench.run(&[overlay], "", "keyring").failed(69, &line);
    }
    // A pin for a key of another overlay gives that key nothing: no ring of this one has it.
    let document = bench.run(&["good", "borrower"], "", "keyring").succeeded();
    let publishers = document["keyring"]["publishers"].as_array().expect("publishers");
    let borrower = publishers.iter().find(|p| p["name"] == "borrower").expect("it is there");
    assert_eq!(borrower["keys"], json!([bench.key("borrower")]));
    // And a keyring of before the overlay does not do.
    let before = "mkroot other --arch x86_64 --distro preset.toml | fetch-pacman --quiet --use /usr/bin/pacman \
                  | mkconf --cache-dir $PWD/packages | keyring > before.json";
    assert_eq!(bench.sh(before).status, 0);
    let after = "mkroot other --state before.json --overlay good.toml | mkconf --cache-dir $PWD/packages | strap x";
    bench.sh(after).failed(69, "looking for whose keys are whose: the keyring was built without the overlays");
}

/// What somebody got wrong: overlays, what comes behind mkconf, and the status, the code and the line that it is refused with.
type Wrong = (&'static str, &'static [&'static str], String, (i32, &'static str), String);

/// Returns what people get wrong about publishers and packages.
fn wrong_inputs(over: &str, stranger: &str) -> Vec<Wrong> {
    let (usage, failed, unverified) = ((64, "usage"), (69, "failed"), (69, "not-verified"));
    let none = "0123456789ABCDEF0123456789ABCDEF01234567";
    let install = |words: &str| format!("keyring | strap {words}");
    let row = |what: &'static str,
               overlays: &'static [&'static str],
               rest: String,
               code: (i32, &'static str),
               line: &str|
     -> Wrong { (what, overlays, rest, code, line.to_owned()) };
    let only: &'static [&'static str] = &["over"];
    let twice = "repository 'over' is there already, of the preset 'over'";
    let unpinned = format!("reading 'over-trusted': it names {over} as a master key, which is not pinned");
    let foreign = "package foreign-1-1-aarch64 does not have a valid architecture";
    let whose = format!(
        "checking 'wrong' of the repository 'more': it is signed by the key {over}, which is not one of 'archlinux'"
    );
    let strange = "checking 'strange' of the repository 'more'";
    let unknown = format!("{strange}: it is signed by the key {stranger}, which is not in the keyring");
    let junk = "installing 'hello\\u{0}world': invalid package name";
    let binary = "installing '\\u{1b}[2J': invalid package name";
    vec![
        row("two overlays claim one name", &["over", "twin"], "keyring".to_owned(), usage, twice),
        row(
            "a key in no ring",
            only,
            format!("keyring --trust {none}"),
            unverified,
            &format!("trusting {none}: no ring has it"),
        ),
        row("a pin for another's key", &["stolen"], "keyring".to_owned(), unverified, &unpinned),
        row("a list with junk", only, install("--packages-from junk"), usage, junk),
        row("a list of what is no text", only, install("--packages-from binary"), usage, binary),
        row("a package for another architecture", only, install("foreign"), failed, foreign),
        row("a signature by another publisher", only, install("wrong"), unverified, &whose),
        row("a signature by nobody known", only, install("strange"), unverified, &unknown),
    ]
}

#[test]
fn each_bad_input_has_a_line_and_a_status() {
    let bench = Bench::new(&json!({
        "last": ["more"],
        "repos": {"more": {"packages": [
            {"name": "foreign", "version": "1", "arch": "aarch64"},
            {"name": "wrong", "version": "1", "signer": "over"},
            {"name": "strange", "version": "1", "signer": "stranger"},
        ]}},
        "overlays": {"over": {"packages": [package("hello")]}},
    }));
    let (over, stranger) = (bench.key("over"), bench.base.key("/stranger"));
    let text = fs::read_to_string(bench.path("over.toml")).expect("a preset");
    let twin = text.replace("name = \"over\"\ntitle", "name = \"twin\"\ntitle");
    for (name, text) in [
        ("twin.toml", &*twin),
        ("stolen.toml", &text.replace(&over, &stranger)),
        ("junk", "hello\0world\n"),
        ("binary", "\u{1b}[2J hello\n"),
    ] {
        fs::write(bench.path(name), text).expect("our own directory");
    }
    for (what, overlays, rest, (status, code), line) in wrong_inputs(&over, &stranger) {
        let ran = bench.run(overlays, "", &rest);
        assert_eq!(ran.status, status, "{what}: {}", ran.stderr);
        assert!(ran.stderr.lines().any(|l| l.contains(&line)), "{what}: no «{line}» in: {}", ran.stderr);
        let error = &ran.document()["error"];
        assert_eq!((&error["code"], &error["exit"]), (&json!(code), &json!(status)), "{what}");
        assert!(!bench.path("root/usr/bin").exists(), "{what}: something was installed");
    }
}

/// Returns the commands of an example in a page: those of the first one behind these words.
fn example(page: &str, words: &str) -> String {
    let text = fs::read_to_string(top().join("man").join(page)).expect("a page");
    let (_, rest) = text.split_once(words).expect(words);
    let (_, rest) = rest.split_once(".Bd -literal -offset indent\n").expect("an example");
    let (example, _) = rest.split_once("\n.Ed").expect("its end");
    example.replace("\\e", "\\")
}

/// keyring(8) says how, and it is run word for word: only which distribution is archlinux, and where it is served, is the test's.
#[test]
fn a_repository_of_ones_own_as_the_page_has_it() {
    let bench = Bench::new(&json!({"overlays": {}}));
    let signed = example("keyring.8", "A repository of one's own, with packages that one signs oneself:");
    let unsigned = example("keyring.8", "The same without a key, for that one repository:");
    let script = format!(
        "set -eu
        mount -t tmpfs tmpfs /srv && mkdir /srv/mine
        mkdir -m 700 gnupg && export GNUPGHOME=$PWD/gnupg
        gpg --batch --quiet --passphrase '' --quick-generate-key 'Me <me@example.org>' ed25519 sign 2y
        mkdir -p hello/usr/share/hello && echo hello > hello/usr/share/hello/world
        printf 'pkgname = hello\\npkgver = 1-1\\npkgdesc = Hello\\narch = any\\nsize = 6\\n' > hello/.PKGINFO
        (cd hello && bsdtar -cf - .PKGINFO usr) | zstd -q > /srv/mine/hello-1-1-any.pkg.tar.zst
        gpg --batch --detach-sign /srv/mine/hello-1-1-any.pkg.tar.zst
        mkroot() {{ command mkroot \"$1\" \"$2\" \"$3\" \"$4\" preset.toml; }}
        fetch-pacman() {{ command fetch-pacman --use {PACMAN}; }}
        mkconf() {{ command mkconf --cache-dir $PWD/packages \"$@\"; }}
        {signed}
        rm /srv/mine/*.sig /srv/mine/mine.*; rm -r packages
        strapline repository /srv/mine/mine.db
        {unsigned}"
    );
    fs::write(bench.path("script"), script).expect("our own directory");
    let ran = bench.sh("unshare --mount --propagation private --pid --fork --kill-child bash script");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let document = |name: &str| -> Value {
        let text = fs::read(bench.path(name)).expect("a document");
        serde_json::from_slice(&text).expect("JSON")
    };
    let (document, second) = (document("target.json"), document("second.json"));
    assert!(installed(&document).contains(&("hello", "mine", true)), "{document}");
    let own = &document["keyring"]["own"][0];
    let key = own["fingerprint"].as_str().expect("a key");
    assert!(own["key"].as_str().expect("a key").starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----"));
    let publishers = &document["keyring"]["publishers"];
    assert_eq!((&publishers[1]["name"], &publishers[1]["keys"]), (&Value::Null, &json!([key])));
    // Without a signature the receipt says so, of that package alone.
    assert!(second["packages"].as_array().expect("packages").len() > 50);
    let unverified: Vec<_> =
        second["packages"].as_array().expect("packages").iter().filter(|p| p["verified"] == false).collect();
    assert_eq!(unverified.len(), 1);
    assert_eq!((&unverified[0]["name"], &unverified[0]["pgpsig"]), (&json!("hello"), &Value::Null));
    let repos = second["config"]["repositories"].as_array().expect("repositories");
    let loose: Vec<_> = repos.iter().filter(|repo| repo["unsigned"] == true).map(|repo| repo["name"].clone()).collect();
    assert_eq!(loose, ["mine"]);
    let warning = "mkconf: warning: packages of the repository 'mine' need no signature: nothing verifies them";
    assert_eq!(ran.stderr.lines().filter(|line| *line == warning).count(), 1);
}

/// Nobody's key but the distribution's and one's own is for one's own repository, and one's own is for no other.
#[test]
fn ones_own_key_is_for_ones_own_repository() {
    let bench = Bench::new(&json!({
        "last": ["more"],
        "repos": {"more": {"packages": [{"name": "victim", "version": "1", "signer": "me"}]}},
        "overlays": {
            "me": {"packages": [package("mine"), {"name": "theirs", "version": "1", "signer": "builder"}]},
            "over": {"packages": [package("other")]},
        },
    }));
    let url = bench.server.url();
    let mkconf = format!("--repo me='{url}/$arch/$repo',before=core");
    // Without the key it is nobody's.
    bench.run(&["over"], &mkconf, "keyring | strap mine").failed(69, &bench.key("me"));
    let ran = bench.run(&["over"], &mkconf, "keyring --key mirror/me.asc > begun.json");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let document = bench.sh("strap --state begun.json mine theirs other").succeeded();
    assert_eq!(installed(&document), [("mine", "me", true), ("other", "over", true), ("theirs", "me", true)]);
    bench.sh("strap --state begun.json victim").failed(69, "which is not one of 'archlinux'");
    for (option, line) in [
        (
            format!("--repo me={url},siglevel='Optional TrustAll'"),
            "reading the SigLevel of 'me': 'Optional TrustAll' lets in packages",
        ),
        (
            format!("--repo me={url},before=nowhere"),
            "reading --repo: repository 'me': there is no 'nowhere' to be before: there are core",
        ),
        (format!("--repo core={url},after=extra"), "reading --repo: 'core' has its place by the preset already"),
        (format!("--repo me={url},siglevel=Sometimes"), "'Sometimes' is not a value of SigLevel"),
    ] {
        bench.run(&[], &option, "keyring").failed(64, line);
    }
}

/// A lock has packages of a repository that signs none, also where a signature that nobody asked for is by a stranger.
#[test]
fn a_lock_has_packages_that_need_no_signature() {
    let bench = Bench::new(&json!({
        "overlays": {"stranger": {"packages": []}},
        "repos": {"bare": {"packages": [
            {"name": "bare", "version": "1", "unsigned": true},
            {"name": "strange", "version": "1", "signer": "stranger"},
        ]}},
    }));
    let own = format!("--repo bare='{}/$arch/$repo',siglevel=Never", bench.server.url());
    let begin = |rest: &str| bench.run(&[], &own, &format!("keyring --quiet | {rest}"));
    let made = begin("strap bare strange > lock.json; status=$?; cat lock.json; exit $status").succeeded();
    assert_eq!(installed(&made), [("bare", "bare", false), ("strange", "bare", false)]);
    for cache in ["true", "rm -r packages"] {
        let ran = bench.sh(&format!("unmount --quiet --remove root && {cache}"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let again = begin("strap --locked lock.json | verify").succeeded();
        assert_eq!(again["verify"]["signatures"]["unsigned"], 2, "{again}");
        let hashes = |document: &Value| -> Vec<Value> {
            document["packages"].as_array().expect("packages").iter().map(|p| p["sha256"].clone()).collect()
        };
        assert_eq!(hashes(&again), hashes(&made));
    }
}

/// What the root was built from is what it upgrades from, with its own pacman and the keyring of its first boot.
#[track_caller]
fn keeps_its_repositories(base: Mirror, version: &str) {
    let bench = Bench::of(
        base,
        Path::new(PACMAN),
        &json!({
            "overlays": {
                "first": {"before": "core", "packages": [package("hello")]},
                "second": {"after": "core", "packages": [package("world")]},
                "me": {"packages": [package("mine")]},
            },
            "repos": {"bare": {"packages": [{"name": "bare", "version": "1", "unsigned": true}]}},
        }),
    );
    let url = bench.server.url();
    let own = format!("--repo me='{url}/$arch/$repo' --repo bare='{url}/$arch/$repo',siglevel=Never");
    let ran = bench.run(
        &["first", "second"],
        &own,
        "keyring --key mirror/me.asc | strap --quiet base archlinux-keyring first-keyring second-keyring \
         | configure --quiet --repositories --first-boot-keyring > doc.json",
    );
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let conf = bench.path("root/etc/pacman.conf");
    let text = fs::read_to_string(&conf).expect("a pacman.conf");
    let sections: Vec<_> = text.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(sections, ["[options]", "[first]", "[core]", "[second]", "[extra]", "[me]", "[bare]"]);
    assert!(text.contains("[core]\nInclude = /etc/pacman.d/mirrorlist\n"), "{text}");
    // A second run changes nothing.
    drop(bench.sh("configure --quiet --repositories --first-boot-keyring --state doc.json").succeeded());
    assert_eq!(fs::read_to_string(&conf).expect("it"), text);
    // The mirror of the test is the list's; then the keyring is made as at the first boot.
    fs::write(bench.path("root/etc/pacman.d/mirrorlist"), format!("Server = {url}/$arch/$repo\n"))
        .expect("our own root");
    assert_eq!(bench.sh("keyring --quiet --state doc.json --strip > stripped.json").status, 0);
    let unit = fs::read_to_string(bench.path("root/etc/systemd/system/first-boot-keyring.service")).expect("a unit");
    let commands = crate::configure::commands_of(&unit);
    assert!(commands.contains(&format!("--lsign-key {}", bench.key("me"))), "{commands}");
    let script = format!(
        "set -e\n{commands}\npacman --version | grep 'Pacman v{version}'\npacman -Sy\n\
         for package in first/hello second/world me/mine bare/bare extra/nano; do pacman -S --noconfirm $package; done\n\
         pacman -Q hello world mine bare nano"
    );
    fs::write(bench.path("script"), script).expect("our own directory");
    let ran = bench.sh("enter --state stripped.json bash -c \"$(cat script)\"");
    assert_eq!(ran.status, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert!(
        ran.stdout.ends_with("hello 1-1\nworld 1-1\nmine 1-1\nbare 1-1\nnano 7.2-1\n") || version != "6",
        "{}",
        ran.stdout
    );
}

#[test]
fn the_built_system_keeps_its_repositories() {
    keeps_its_repositories(Mirror::of("x86_64"), "6");
}

#[test]
fn so_does_one_with_pacman_7() {
    keeps_its_repositories(Mirror::of_suite("x86_64", "trixie"), "7");
}

/// Returns the pacman-conf of a pacman, as `tests/mirror/mkpacman` unpacks it.
fn pacman_conf(suite: Option<&str>) -> Command {
    let Some(suite) = suite else { return Command::new("pacman-conf") };
    let tree = pacman_of(suite).with_file_name("tree");
    let mut command = Command::new(tree.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(tree.join("usr/lib/x86_64-linux-gnu")).arg(tree.join("usr/bin/pacman-conf"));
    command
}

/// Runs pacman-conf, which must say nothing but what is asked.
#[track_caller]
fn ask(suite: Option<&str>, file: &Path, args: &[&str]) -> Vec<String> {
    let out = pacman_conf(suite).arg("-c").arg(file).args(args).output().expect("pacman-conf is there");
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{suite:?} {}", file.display());
    assert!(out.status.success());
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

const SUITES: [(Option<&str>, &str); 3] = [(None, "6.0.2"), (Some("trixie"), "7.0.0"), (Some("sid"), "7.1.0")];

/// Every preset on every architecture, laid over another where it can be, is read by each pacman without a warning.
#[test]
fn each_pacman_reads_each_preset() {
    let lab = Lab::new(Who::Root);
    for path in ["root/var/lib/pacman", "root/etc/pacman.d/hooks", "root.strapline/gnupg", "c"] {
        fs::create_dir_all(lab.path().join(path)).expect("our own directory");
    }
    let mut read = 0;
    for summary in distro::Preset::summaries().expect("presets") {
        let over = summary.overlay.iter().flat_map(|arch| {
            let bases = ["archlinux", "archlinuxarm"].into_iter();
            bases
                .filter(|base| *base != summary.name)
                .map(|base| (base.to_owned(), Some(summary.name.clone()), arch.clone()))
        });
        let alone = summary.arches.iter().map(|arch| (summary.name.clone(), None, arch.clone()));
        for (name, overlay, arch) in alone.chain(over) {
            let overlays: Vec<String> = overlay.clone().into_iter().collect();
            let Ok(preset) = distro::Preset::with_overlays(&name, &overlays) else { continue };
            let Ok(expected) = preset.arch(&arch) else { continue };
            for (suite, version) in SUITES {
                let document = json!({"strapline": 1, "root": lab.path().join("root"), "distro": name, "overlays": overlays,
                    "arch": arch, "pacman": {"path": "/p", "version": version, "sha256": "00", "trust": "host"}});
                fs::write(lab.path().join("doc.json"), document.to_string()).expect("our own directory");
                let ran = lab.sh("mkconf --print strict --cache-dir $PWD/c --state doc.json > strict.conf");
                assert_eq!(ran.status, 0, "{}", ran.stderr);
                let file = lab.path().join("strict.conf");
                let repos: Vec<_> = expected.repos.iter().map(|repo| repo.name.clone()).collect();
                assert_eq!(ask(suite, &file, &["--repo-list"]), repos, "{name} {overlay:?} {arch} {version}");
                assert_eq!(ask(suite, &file, &["Architecture"]), expected.architecture);
                read += 1;
            }
        }
    }
    assert!(read > 50, "{read} files");
}

/// What `--set` and `--repo` take is what pacman takes: it adds up where pacman adds up, and a key that it would ignore is refused.
#[test]
fn what_can_be_set_is_what_this_pacman_knows() {
    let lab = Lab::new(Who::Root);
    for path in ["root/var/lib/pacman", "root/etc/pacman.d/hooks", "root.strapline/gnupg", "c"] {
        fs::create_dir_all(lab.path().join(path)).expect("our own directory");
    }
    for (suite, version) in SUITES {
        let document = json!({"strapline": 1, "root": lab.path().join("root"), "distro": "cachyos", "arch": "x86_64_v3",
            "pacman": {"path": "/p", "version": version, "sha256": "00", "trust": "host"}});
        fs::write(lab.path().join("doc.json"), document.to_string()).expect("our own directory");
        let print = |options: &str| {
            lab.sh(&format!("mkconf --print strict --cache-dir $PWD/c --state doc.json {options} > conf"))
        };
        let refused = |option: &str| {
            let ran = print(option);
            assert!(ran.status == 0 || ran.status == 64, "{ran:?}");
            ran.status == 64
        };
        let file = lab.path().join("conf");
        let mut options = String::new();
        for key in ["Color", "ILoveCandy", "NoProgressBar", "UseSyslog", "VerbosePkgLists", "DisableDownloadTimeout"] {
            options += &format!(" --set {key}");
        }
        for key in ["HoldPkg", "IgnorePkg", "IgnoreGroup", "NoExtract", "NoUpgrade"] {
            options += &format!(" --set {key}=a --set '{key}=b c'");
        }
        options += " --set CleanMethod=KeepInstalled --set CleanMethod=KeepCurrent --set ParallelDownloads=2 --set ParallelDownloads=3";
        options +=
            " --set 'XferCommand=/usr/bin/curl -o %o %u' --repo 'mine=http://h/$repo,after=core,usage=Sync Search'";
        // The switches of the sandbox, each where it is known.
        for (key, since) in
            [("DisableSandbox", "7.0"), ("DisableSandboxFilesystem", "7.1"), ("DisableSandboxSyscalls", "7.1")]
        {
            assert_eq!(refused(&format!("--set {key}")), version < since, "{key} {version}");
            if version >= since {
                options += &format!(" --set {key}");
            }
        }
        let cached = "--repo 'mine=http://h/,cacheserver=http://c/'";
        assert_eq!(refused(cached), version < "6.1");
        if version >= "6.1" {
            drop(print(cached));
            assert_eq!(ask(suite, &file, &["--repo", "mine", "CacheServer"]), ["http://c/"]);
        }
        let ran = print(&options);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        for key in ["HoldPkg", "IgnorePkg", "IgnoreGroup", "NoExtract", "NoUpgrade"] {
            assert_eq!(ask(suite, &file, &[key]), ["a", "b", "c"], "{key} {version}");
        }
        assert_eq!(ask(suite, &file, &["CleanMethod"]), ["KeepInstalled", "KeepCurrent"]);
        assert_eq!(ask(suite, &file, &["ParallelDownloads"]), ["3"]);
        assert_eq!(ask(suite, &file, &["XferCommand"]), ["/usr/bin/curl -o %o %u"]);
        assert_eq!(ask(suite, &file, &["Architecture"]), ["x86_64", "x86_64_v3"]);
        assert_eq!(ask(suite, &file, &["--repo", "mine", "Usage"]), ["Sync", "Search"]);
        let order = ["cachyos-v3", "cachyos-core-v3", "cachyos-extra-v3", "cachyos", "core", "mine", "extra"];
        assert_eq!(ask(suite, &file, &["--repo-list"]), order);
        for key in [
            "IgnorPkg=x",
            "TotalDownload",
            "UseDelta",
            "SyncFirst=x",
            "Include=/etc/pacman.d/*.conf",
            "CacheServer=http://h/",
        ] {
            assert!(refused(&format!("--set '{key}'")), "{key}");
        }
    }
}

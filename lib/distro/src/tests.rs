use super::*;

/// The smallest preset there is.
const SMALL: &str = r#"name = "small"
title = "Small"
[arch.aarch64]
servers = ["http://h/$arch/$repo"]
repos = ["core"]
"#;

fn parse(text: &str) -> Result<Preset, Failure> {
    let (label, reference) = ("small.toml".to_owned(), "/p/small.toml".to_owned());
    Preset::merge(&Found { label, reference, text: text.to_owned(), beside: None }, 0)
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn every_file_is_built_in_and_says_its_own_name() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../presets");
    let mut files: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|file| file.strip_suffix(".toml").map(str::to_owned))
        .collect();
    files.sort();
    assert_eq!(files, Preset::names().collect::<Vec<_>>());
    for name in Preset::names() {
        let preset = Preset::load(name).unwrap();
        assert_eq!(preset.name, name);
        assert_eq!(preset.reference(), name);
    }
}

#[test]
fn what_is_built_in_is_whole() {
    for name in Preset::names() {
        let preset = Preset::load(name).unwrap();
        assert!(!preset.keyring.packages.is_empty(), "{name}");
        assert!(!preset.keyring.populate.is_empty(), "{name}");
        assert!(!preset.pacman.trusted.is_empty(), "{name}");
        assert!(preset.arches().next().is_some(), "{name}");
        let pins = preset.keyring.trusted.iter().chain(&preset.pacman.trusted);
        for pin in pins {
            assert_eq!(check::fingerprint(&pin.fingerprint), Ok(()), "{name}");
            assert_eq!(check::date(&pin.date), Ok(()), "{name}");
        }
        for arch in preset.arches() {
            let arch = preset.arch(arch).unwrap();
            for level in arch.repos.iter().filter_map(|repo| repo.siglevel.as_deref()) {
                assert_eq!(check::strict_siglevel(Some(&preset.siglevel), level), Ok(()), "{name}");
            }
            for server in arch.repos.iter().flat_map(|repo| &repo.servers) {
                let web = server.starts_with("https://") || server.starts_with("http://");
                assert!(web, "{name}: {server}");
            }
        }
        let mut keys: Vec<_> = preset.keyring.trusted.iter().map(|pin| &pin.fingerprint).collect();
        let listed = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), listed, "{name} pins a key twice");
    }
}

#[test]
fn arch_linux_arm() {
    let preset = Preset::load("archlinuxarm").unwrap();
    assert_eq!(preset.title, "Arch Linux ARM");
    assert_eq!(preset.siglevel, "Required DatabaseOptional");
    assert_eq!(preset.arches().collect::<Vec<_>>(), ["aarch64", "armv7h"]);
    let arch = preset.arch("aarch64").unwrap();
    assert_eq!(arch.architecture, ["aarch64"]);
    let repos: Vec<_> = arch.repos.iter().map(|repo| repo.name.as_str()).collect();
    assert_eq!(repos, ["core", "extra", "alarm", "aur"]);
    for repo in &arch.repos {
        assert_eq!(repo.servers, ["http://mirror.archlinuxarm.org/$arch/$repo"]);
        assert_eq!(repo.snapshot, None);
    }
    // The one that nobody gave it.
    assert_eq!(preset.pacman.member, "usr/bin/pacman-static");
    assert_eq!(preset.pacman.servers("x86_64").unwrap(), ["https://repo.archlinuxcn.org/x86_64"]);
    assert_eq!(preset.pacman.trusted[0].fingerprint, "83F817213361BF5F02E7E124F9F9FA97A403F63E");
}

#[test]
fn a_refusal_lists_what_there_is() {
    let error = Preset::load("debian").unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert_eq!(error.to_string(), "there is no preset 'debian'");
    assert!(error.hint.unwrap().starts_with("there are 7Ji, arch4edu, archlinux, "));

    for (wanted, preset) in [("alarm", "archlinuxarm"), ("arch", "archlinux"), ("manajro", "manjaro")] {
        let hint = Preset::load(wanted).unwrap_err().hint.unwrap();
        assert!(hint.starts_with(&format!("did you mean '{preset}'? there are ")), "{hint}");
    }

    let preset = Preset::load("archlinuxarm").unwrap();
    let error = preset.arch("x86_64").unwrap_err();
    assert_eq!(error.to_string(), "Arch Linux ARM has no architecture 'x86_64'");
    assert_eq!(error.hint.as_deref(), Some("it has aarch64, armv7h"));
    let error = preset.pacman.servers("aarch64").unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("it is built for x86_64"));

    let error = Preset::load("no/such.toml").unwrap_err();
    assert_eq!(error.code, Code::Os);
    assert_eq!(error.to_string(), "reading 'no/such.toml': No such file or directory (os error 2)");
    // A document names presets, too: what never ends is not read.
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long.toml");
    std::fs::File::create(&long).unwrap().set_len(1 << 40).unwrap();
    for (path, why) in
        [("/dev/zero", "is not a regular file"), (long.to_str().unwrap(), "is longer than 1048576 bytes")]
    {
        let error = Preset::load(path).unwrap_err();
        assert_eq!(error.code, Code::Os);
        assert!(error.to_string().ends_with(why), "{error}");
    }
}

#[test]
fn an_overlay_keeps_its_order_and_the_bases_servers() {
    let preset = Preset::load("endeavouros").unwrap();
    let arch = preset.arch("x86_64").unwrap();
    let base = Preset::load("archlinux").unwrap();
    let repos: Vec<_> = arch.repos.iter().map(|repo| repo.name.as_str()).collect();
    assert_eq!(repos, ["endeavouros", "core", "extra"]);
    assert_eq!(arch.repos[1..], base.arch("x86_64").unwrap().repos);
    assert_eq!(arch.repos[0].snapshot, None);
    assert_eq!(preset.keyring.packages, ["archlinux-keyring", "endeavouros-keyring"]);
    assert_eq!(preset.keyring.populate, ["archlinux", "endeavouros"]);
    assert!(preset.keyring.trusted.starts_with(&base.keyring.trusted));

    let preset = Preset::load("cachyos").unwrap();
    let arch = preset.arch("x86_64_v3").unwrap();
    assert_eq!(arch.architecture, ["x86_64", "x86_64_v3"]);
    assert_eq!(arch.repos[0].siglevel.as_deref(), Some("Required"));
}

#[test]
fn a_file_may_change_only_the_servers() {
    let preset = parse(
        r#"name = "mine"
title = "Mine"
extends = "archlinuxarm"
[arch.aarch64]
servers = ["file:///srv/mirror/$arch/$repo"]
"#,
    )
    .unwrap();
    assert_eq!(preset.reference(), "/p/small.toml");
    assert_eq!(preset.arches().collect::<Vec<_>>(), ["aarch64"]);
    let arch = preset.arch("aarch64").unwrap();
    assert_eq!(arch.repos.len(), 4);
    assert!(arch.repos.iter().all(|r| r.servers == ["file:///srv/mirror/$arch/$repo"]));
    assert_eq!(preset.keyring, Preset::load("archlinuxarm").unwrap().keyring);
}

#[test]
fn files_extend_files_beside_them_and_not_themselves() {
    let directory = std::env::temp_dir().join(format!("distro-test-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let at = |name: &str| directory.join(name);
    std::fs::write(at("small.toml"), SMALL).unwrap();
    std::fs::write(at("over.toml"), "name = \"o\"\ntitle = \"O\"\nextends = \"small.toml\"\n").unwrap();
    std::fs::write(at("loop.toml"), "name = \"l\"\ntitle = \"L\"\nextends = \"loop.toml\"\n").unwrap();
    let over = Preset::load(at("over.toml").to_str().unwrap());
    let itself = Preset::load(at("loop.toml").to_str().unwrap());
    for name in ["small.toml", "over.toml", "loop.toml"] {
        std::fs::remove_file(at(name)).unwrap();
    }
    std::fs::remove_dir(&directory).unwrap();

    let over = over.unwrap();
    assert_eq!(over.reference(), at("over.toml").to_str().unwrap());
    assert_eq!(over.arch("aarch64").unwrap().repos[0].servers, ["http://h/$arch/$repo"]);
    let message = itself.unwrap_err().to_string();
    assert!(message.contains("line 3: extends: it extends itself"), "{message}");
}

#[test]
fn the_fixed_shape_is_read_whole() {
    let preset = parse(
        r#"name = "fix"
title = "Fix"
siglevel = "Required"
[keyring]
packages = ["fix-keyring"]
populate = ["fix"]
[[keyring.trusted]]
fingerprint = "68B3537F39A313B3E574D06777193F152BDBE6A6"
source = "here"
date = "2026-01-02"
[arch.aarch64]
architecture = ["aarch64"]
servers = ["http://h/$arch/$repo"]
repos = ["core", { name = "x", servers = ["file:///x"], siglevel = "DatabaseOptional" }]
[pacman]
repo = "p"
package = "pacman-static"
member = "usr/bin/pacman-static"
[pacman.arch.x86_64]
servers = ["http://127.0.0.1:8000/p"]
[[pacman.trusted]]
fingerprint = "83F817213361BF5F02E7E124F9F9FA97A403F63E"
source = "there"
date = "2026-01-02"
"#,
    )
    .unwrap();
    assert_eq!(preset.siglevel, "Required");
    assert_eq!(preset.keyring.trusted.len(), 1);
    assert_eq!(preset.pacman.repo, "p");
    assert_eq!(preset.pacman.servers("x86_64").unwrap(), ["http://127.0.0.1:8000/p"]);
    let repo = &preset.arch("aarch64").unwrap().repos[1];
    assert_eq!(repo.servers, ["file:///x"]);
    assert_eq!(repo.siglevel.as_deref(), Some("DatabaseOptional"));
    assert!(parse(SMALL).unwrap().keyring.trusted.is_empty());
}

#[test]
fn a_mistake_is_answered_with_file_line_and_key() {
    let with = |more: &str| format!("{SMALL}{more}");
    for (text, expected) in [
        (
            with("[keyring]\npackage = [\"x\"]\n"),
            "preset 'small.toml' line 7: unknown field `package`, expected one of `packages`, \
             `populate`, `vouches_for`, `trusted`",
        ),
        (
            with("[[keyring.trusted]]\nfingerprint = \"BEEF\"\nsource = \"x\"\ndate = \"2026-01-01\"\n"),
            "preset 'small.toml' line 7: fingerprint: 'BEEF' is not a fingerprint: 40 hexadecimal \
             digits, upper case",
        ),
        (
            "name = \"x\"\ntitle = 3\n".to_owned(),
            "preset 'small.toml' line 2: title: invalid type: integer `3`, expected a string",
        ),
        (
            SMALL.replace("http://h/", "h/"),
            "preset 'small.toml' line 4: servers: 'h/$arch/$repo' is not a http, https, ftp or file \
             URL",
        ),
        (
            SMALL.replace("[\"core\"]", "[\n  \"core\",\n  \"options\",\n]"),
            "preset 'small.toml' line 7: repos: 'options' is a name that pacman keeps for itself",
        ),
        (
            SMALL.replace("\"core\"", "{ name = \"x\", server = [] }"),
            "preset 'small.toml' line 5: repos: unknown field `server`, expected one of `name`, \
             `servers`, `siglevel`, `snapshot`, `before`, `after`",
        ),
        (
            SMALL.replace("\"core\"", "7"),
            "preset 'small.toml' line 5: repos: invalid type: integer `7`, expected the name of a \
             repository, or a table with its name",
        ),
        (
            SMALL.replace("servers = [\"http://h/$arch/$repo\"]\n", ""),
            "preset 'small.toml' line 3: [arch.aarch64]: repository 'core' has no servers",
        ),
        (
            SMALL.replace("\"core\"", "\"core\", \"core\""),
            "preset 'small.toml' line 3: [arch.aarch64]: repository 'core' is listed twice",
        ),
        (
            SMALL.replace("aarch64", "auto"),
            "preset 'small.toml' line 3: [arch.auto]: 'auto' is the host's architecture: spell out \
             the root's",
        ),
        (
            SMALL.replace("title = \"Small\"", "title = \"Small\"\nsiglevel = \"DatabaseOptional\""),
            "preset 'small.toml' line 3: siglevel: 'DatabaseOptional' lets in packages without a \
             trusted signature: it must say Required and not TrustAll",
        ),
        (
            SMALL.replace("\"core\"", "{ name = \"core\", siglevel = \"Optional TrustAll\" }"),
            "preset 'small.toml' line 3: [arch.aarch64]: repository 'core': 'Optional TrustAll' lets \
             in packages without a trusted signature: it must say Required and not TrustAll",
        ),
        (
            SMALL.replace("title = \"Small\"", "title = \"Small\"\nextends = \"nobody\""),
            "preset 'small.toml' line 3: extends: there is no preset 'nobody'",
        ),
        (
            SMALL.replace("title = \"Small\"", "title = \"Small\"\nsnapshot = \"http://h/%Y/%m\""),
            "preset 'small.toml' line 3: snapshot: 'http://h/%Y/%m' has no %d: a snapshot is of one \
             day",
        ),
        ("title = \"x\"\n".to_owned(), "preset 'small.toml' line 1: missing field `name`"),
    ] {
        assert_eq!(message(&text), expected);
    }
    let twice = "[[keyring.trusted]]\nfingerprint = \"68B3537F39A313B3E574D06777193F152BDBE6A6\"\n\
                 source = \"x\"\ndate = \"2026-01-01\"\n";
    let text = with(&format!("{twice}{twice}"));
    assert!(message(&text).starts_with("preset 'small.toml' line 11: fingerprint: 68B3537F"));
}

/// An overlay for `SMALL`'s architecture.
fn overlay(name: &str, add: &str) -> String {
    format!(
        "name = \"{name}\"\ntitle = \"{name}\"\n[arch.aarch64]\nservers = [\"http://{name}/\"]\nadd = [{add}]\n\
         [keyring]\npackages = [\"{name}-keyring\"]\npopulate = [\"{name}\"]\n"
    )
}

/// Lays these over `SMALL`, in order.
fn laid(overlays: &[String]) -> Result<Preset, Failure> {
    let base = parse(SMALL);
    overlays.iter().enumerate().fold(base, |base, (n, text)| {
        let label = format!("{n}.toml");
        base?.lay(&Found { label: label.clone(), reference: format!("/p/{label}"), text: text.clone(), beside: None })
    })
}

#[test]
fn overlays_are_before_after_and_behind() {
    let preset = laid(&[
        overlay("a", r#"{ name = "a1", before = "core" }, { name = "a2", after = "core" }, "a3""#),
        overlay(
            "b",
            r#"{ name = "b1", after = "core" }, { name = "b2", before = "a1" }, { name = "b3", before = "core" }"#,
        ),
    ]);
    let preset = preset.unwrap();
    let repos: Vec<_> =
        preset.arch("aarch64").unwrap().repos.iter().map(|r| (r.name.as_str(), r.publisher.as_str())).collect();
    let expected = [("b2", "b"), ("a1", "a"), ("b3", "b"), ("core", "small"), ("a2", "a"), ("b1", "b"), ("a3", "a")];
    assert_eq!(repos, expected);
    let names: Vec<_> = preset.publishers.iter().map(|publisher| publisher.name.as_str()).collect();
    assert_eq!(names, ["small", "a", "b"]);
    assert_eq!(preset.keyring.populate, ["a", "b"]);
    assert_eq!((preset.name.as_str(), preset.title.as_str()), ("small+a+b", "Small + a + b"));
    assert_eq!(preset.overlays(), ["/p/0.toml", "/p/1.toml"]);
}

#[test]
fn what_cannot_be_laid_over_another_is_refused() {
    let mine = || overlay("a", r#""mine""#);
    let vouching = |of: &str| mine().replace("[keyring]", &format!("[keyring]\nvouches_for = [\"{of}\"]"));
    for (overlays, code, expected) in [
        (
            vec![mine(), overlay("b", r#""mine""#)],
            Code::Failed,
            "preset '1.toml' line 3: [arch.aarch64]: repository 'mine' is there already, of the preset 'a'",
        ),
        (
            vec![overlay("a", r#"{ name = "x", after = "exta" }"#)],
            Code::Failed,
            "preset '0.toml' line 3: [arch.aarch64]: repository 'x': there is no 'exta' to be after: there are core",
        ),
        (
            vec![overlay("a", r#"{ name = "x", after = "core", before = "core" }"#)],
            Code::Failed,
            "preset '0.toml' line 3: [arch.aarch64]: repository 'x': it has both before and after",
        ),
        (
            vec![overlay("a", r#"{ name = "x", siglevel = "Optional TrustAll" }"#)],
            Code::Failed,
            "preset '0.toml' line 3: [arch.aarch64]: repository 'x': 'Optional TrustAll' lets in packages without a \
             trusted signature: it must say Required and not TrustAll",
        ),
        (vec![vouching("cor")], Code::Failed, "preset '0.toml' line 7: vouches_for: there is no repository 'cor'"),
        (vec![mine(), mine()], Code::Usage, "laying 'a' over 'small+a': it is there already"),
        (vec![SMALL.to_owned()], Code::Usage, "laying 'small' over 'small': it adds no repositories"),
        (
            vec![mine().replace("aarch64", "x86_64")],
            Code::Usage,
            "laying 'a' over 'small': it is for x86_64, which is for aarch64",
        ),
    ] {
        let failure = laid(&overlays).unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (code, expected));
    }
    let failure = parse(&mine()).unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (Code::Usage, "'a' is an overlay, and no distribution"));
    laid(&[vouching("core")]).unwrap();
    laid(&[vouching("*")]).unwrap();
}

#[test]
fn keys_are_for_the_repositories_that_they_come_with() {
    let extends = "name = \"mine\"\ntitle = \"Mine\"\nextends = \"archlinux\"\n";
    let key = "[keyring]\npopulate = [\"mine\"]\n";
    let own = "[arch.x86_64]\nadd = [{ name = \"mine\", servers = [\"http://h/\"], siglevel = \"Never\" }]\n";
    let names = |text: &str| -> Vec<String> {
        let preset = parse(text).unwrap();
        let publishers = preset.publishers.iter();
        publishers.map(|publisher| format!("{} {}", publisher.name, publisher.keyring.populate.join(","))).collect()
    };
    // Of a file without repositories they are the distribution's.
    assert_eq!(names(&format!("{extends}{key}")), ["archlinux archlinux,mine"]);
    assert_eq!(names(&format!("{extends}{key}{own}")), ["archlinux archlinux", "mine mine"]);
    // Of a file without keys the repositories are the distribution's to sign.
    let preset = parse(&format!("{extends}{own}")).unwrap();
    let repo = preset.arch("x86_64").unwrap().repos.last().unwrap();
    assert_eq!((repo.name.as_str(), repo.publisher.as_str()), ("mine", "archlinux"));
    assert_eq!(names(&format!("{extends}{own}")), ["archlinux archlinux"]);
    let failure =
        parse(&format!("{extends}{key}{own}").replace("\"mine\"\ntitle", "\"archlinux\"\ntitle")).unwrap_err();
    assert!(failure.message.ends_with("two presets, one over the other, have the name 'archlinux'"), "{failure}");
}

#[test]
fn a_list_extends_a_distribution_by_overlays() {
    let preset =
        parse("name = \"m\"\ntitle = \"M\"\nextends = [\"archlinux\", \"archlinuxcn\", \"endeavouros\"]\n").unwrap();
    let repos: Vec<_> = preset.arch("x86_64").unwrap().repos.iter().map(|repo| repo.name.as_str()).collect();
    assert_eq!(repos, ["endeavouros", "core", "extra", "archlinuxcn"]);
    let names: Vec<_> = preset.publishers.iter().map(|publisher| publisher.name.as_str()).collect();
    assert_eq!(names, ["archlinux", "archlinuxcn", "endeavouros"]);
    // One over another architecture: what is made of an architecture has its overlays.
    let overlays = ["cachyos", "archlinuxcn"].map(str::to_owned);
    let preset = Preset::with_overlays("archlinux", &overlays).unwrap();
    assert_eq!(preset.arches().collect::<Vec<_>>(), ["x86_64", "x86_64_v3", "x86_64_v4", "znver4"]);
    let fast = preset.arch("x86_64_v3").unwrap();
    assert_eq!(fast.repos.last().unwrap().name, "archlinuxcn");
    assert_eq!(fast.architecture, ["x86_64", "x86_64_v3"]);
    assert_eq!((fast.machine.as_deref(), fast.from.as_deref()), (Some("x86_64"), Some("x86_64")));
    assert!(fast.cpu.contains(&"avx2".to_owned()));
    let preset = Preset::with_overlays("archlinuxarm", &overlays[1..]).unwrap();
    assert_eq!(preset.arches().collect::<Vec<_>>(), ["aarch64"]);
    let message = message("name = \"m\"\ntitle = \"M\"\nextends = 7\n");
    assert!(
        message
            .ends_with("line 3: extends: invalid type: integer `7`, expected the name of a preset, or a list of names")
    );
}

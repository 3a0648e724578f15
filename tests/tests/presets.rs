//! presets/refresh, with the mirror in the place of the servers: it says what changed, and nothing of what did not.

use serde_json::json;
use std::fs;
use std::process::Command;
use strapline_tests::{Lab, Mirror, Ran, Server, Who, top};

/// Runs it on a preset, and returns its status and lines.
fn refresh(lab: &Lab, text: &str) -> (i32, Vec<String>) {
    let file = lab.path().join("here.toml");
    fs::write(&file, text).expect("our own directory");
    let ran = Ran::of(Command::new(top().join("presets/refresh")).arg(&file), "");
    assert_eq!(ran.stderr, "");
    (ran.status, ran.stdout.lines().map(str::to_owned).collect())
}

#[test]
fn refresh_says_what_changed() {
    let lab = Lab::new(Who::Root);
    let repos = json!({"repos": {"signed": {"signed": "builder", "packages": [{"name": "x", "version": "1"}]}}});
    let mirror = Mirror::of("x86_64").extended(&lab.path().join("mirror"), &repos);
    let server = Server::of(&mirror.www());
    let url = server.url();
    let right = fs::read_to_string(mirror.preset()).expect("a preset").replace("http://127.0.0.1:8765", url);
    assert_eq!(refresh(&lab, &right), (0, Vec::new()));
    let master = Mirror::of("x86_64").key("/masters/0");
    let (stranger, retired) = (Mirror::of("x86_64").key("/stranger"), Mirror::of("x86_64").key("/retired"));
    let at = |path: &str| format!("{url}/{path}");
    let none = "HTTP Error 404";
    for (what, by, lines) in [
        (
            "\"extra\"]",
            "\"extra\", \"gone\"]",
            vec![format!("x86_64 gone: fetching '{}': {none}", at("x86_64/gone/gone.db"))],
        ),
        (
            "\"extra\"]",
            "\"extra\", \"signed\"]",
            vec![format!("x86_64 signed: '{}' is signed now", at("x86_64/signed/signed.db"))],
        ),
        (
            "\"extra\"]",
            "{ name = \"extra\", siglevel = \"Required\" }]",
            vec![format!("x86_64 extra: '{}' has no signature, which siglevel asks for", at("x86_64/extra/extra.db"))],
        ),
        (
            &master,
            &stranger,
            vec![
                format!("keyring: 'archlinux-trusted' names {master}, which is not pinned"),
                format!("keyring: the pinned {stranger} is no master key any more"),
            ],
        ),
        (
            &master,
            &retired,
            vec![
                format!("keyring: 'archlinux-trusted' names {master}, which is not pinned"),
                format!("keyring: the pinned {retired} is revoked"),
            ],
        ),
        (
            "\"archlinux-keyring\"",
            "\"other-keyring\"",
            vec![
                "keyring: no repository of its own has 'other-keyring'".to_owned(),
                "keyring: no keyring package has a list of master keys".to_owned(),
            ],
        ),
        (
            "\"pacman-static\"",
            "\"pacman-dynamic\"",
            vec![format!("pacman: '{}' has no 'pacman-dynamic'", at("archlinuxcn/x86_64/archlinuxcn.db"))],
        ),
    ] {
        assert!(right.contains(what), "{what}");
        let (status, found) = refresh(&lab, &right.replace(what, by));
        let same = found.iter().zip(&lines).all(|(line, start)| line.starts_with(&format!("here: {start}")));
        assert!(status == 1 && same && found.len() == lines.len(), "{what}: {found:?}");
    }
    // A key that has expired since.
    let aged = Mirror::of("x86_64").tampered(&lab.path().join("aged"), "keyring-aged-one");
    let old = Server::of(&aged.www());
    let (status, found) = refresh(&lab, &right.replace(url, old.url()));
    assert_eq!((status, found.len()), (1, 1), "{found:?}");
    assert!(found[0].starts_with("here: keyring: the pinned ") && found[0].ends_with(" has expired"), "{found:?}");
    // Of a server that is not there it is said that it is not, and nothing of its keys.
    let (status, found) = refresh(&lab, &right.replace(url, "http://127.0.0.1:9"));
    assert!(status == 1 && found.len() == 3 && found.iter().all(|line| line.contains(": fetching '")), "{found:?}");
    let only_some = right.replace("\"extra\"]", "\"extra\", \"gone\"]").replace(&master, &stranger);
    let (_, found) = refresh(&lab, &only_some);
    assert!(found.len() == 3 && found[2].ends_with("is no master key any more"), "{found:?}");
    let ran = Ran::of(Command::new(top().join("presets/refresh")).arg("--all"), "");
    assert_eq!((ran.status, ran.stderr.as_str()), (64, "refresh: hint: refresh [FILE.toml ...]\n"));
    let ran = Ran::of(Command::new(top().join("presets/refresh")).arg("/none.toml"), "");
    assert_eq!(ran.status, 64);
}

//! What people decide about a transaction: lists, plans, replacing, removing, overwriting, ignoring and assuming.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use strapline_tests::{Lab, Mirror, Ran, Server, Who, pacmans, tier};

/// A mirror with packages that fight.
fn mirror(lab: &Lab) -> Mirror {
    let package = |name: &str, more: Value| {
        let mut package = json!({"name": name, "version": "1", "files": {format!("usr/share/{name}"): name}});
        package.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        package
    };
    let description = json!({"repos": {"extra": {"packages": [
        package("tables", json!({})),
        package("nft", json!({"provides": ["tables=1"], "conflicts": ["tables"]})),
        package("user", json!({"depend": ["tables"]})),
        package("older", json!({})),
        package("newer", json!({"replaces": ["older"], "conflicts": ["older"]})),
        package("clash", json!({})),
        package("needs", json!({"depend": ["absent=1"]})),
        package("first", json!({"provides": ["virtual"]})),
        package("second", json!({"provides": ["virtual"]})),
        package("wants", json!({"depend": ["virtual"]})),
    ]}}});
    Mirror::of("x86_64").extended(&lab.path().join("mirror"), &description)
}

fn names(document: &Value) -> Vec<&str> {
    let packages = document["packages"].as_array().expect("packages");
    packages.iter().filter_map(|package| package["name"].as_str()).collect()
}

/// Runs `strap` on the newest document, which a good run replaces.
fn strap(lab: &Lab, options: &str) -> Ran {
    let ran = lab.sh(&format!("strap --quiet --state document.json {options}"));
    if ran.status == 0 {
        fs::write(lab.path().join("document.json"), &ran.stdout).expect("our own directory");
    }
    ran
}

fn begin(lab: &Lab, mirror: &Mirror, url: &str, pacman: &Path) {
    let begun = lab.sh(&format!(
        "mkroot root --arch x86_64 --distro {} | fetch-pacman --quiet --use {} \
         | mkconf --quiet --server '{url}/$arch/$repo' --cache-dir $PWD/cache | keyring --quiet",
        mirror.preset().display(),
        pacman.display(),
    ));
    fs::write(lab.path().join("document.json"), begun.succeeded().to_string()).expect("our own directory");
}

/// What a plan may not change: the databases, the records, the log and the cache.
fn state(lab: &Lab) -> String {
    lab.sh("find root/var cache -mindepth 1 -printf '%P %s %T@\\n' | sort").stdout
}

#[test]
fn a_plan_is_what_then_happens() {
    for (who, pacman) in
        pacmans().into_iter().flat_map(|p| tier::sample([Who::Root, Who::User], 2, 1).map(move |w| (w, p.clone())))
    {
        let lab = Lab::new(who);
        let mirror = mirror(&lab);
        let server = Server::of(&mirror.www());
        begin(&lab, &mirror, server.url(), &pacman);
        fs::write(lab.path().join("list"), "tables user # both\n\n#nft\nolder\n").expect("our own directory");
        // Before there are any databases.
        let before = state(&lab);
        let planned = strap(&lab, "--plan --packages-from list").done();
        let list = |planned: &Value| -> Vec<String> {
            let packages = planned["planned"]["packages"].as_array().expect("a plan");
            packages.iter().filter_map(|package| package["name"].as_str().map(str::to_owned)).collect()
        };
        let mut all = list(&planned);
        all.sort();
        assert_eq!(all, ["older", "tables", "user"]);
        assert!(planned["planned"]["download"].as_u64() > Some(0), "{}", planned["planned"]);
        assert_eq!((state(&lab), planned.get("packages")), (before, None));
        let done = strap(&lab, "--packages-from list").done();
        assert_eq!((names(&done), done.get("planned")), (vec!["older", "tables", "user"], None));
        // What conflicts stays, unless somebody says that it goes.
        let before = state(&lab);
        let conflict = strap(&lab, "--plan nft");
        conflict.failed(69, "installing 'nft': it conflicts with 'tables', which is installed");
        let hint = "leave it out; or let it replace that: --replace 'tables'";
        assert_eq!(conflict.document()["error"]["hint"], hint);
        strap(&lab, "--plan --replace user nft")
            .failed(69, "installing 'nft': it conflicts with 'tables', which is installed");
        let planned = strap(&lab, "--plan --replace tables nft").done();
        let mut all = list(&planned);
        all.sort();
        assert_eq!(
            (all, &planned["planned"]["removed"]),
            (vec!["newer".to_owned(), "nft".into()], &json!(["older", "tables"]))
        );
        let ignored = strap(&lab, "--plan --ignore older").done();
        assert_eq!(ignored["planned"], json!({"packages": [], "removed": [], "download": 0}));
        assert_eq!(state(&lab), before);
        strap(&lab, "--replace user nft")
            .failed(69, "installing 'nft': it conflicts with 'tables', which is installed");
        assert!(lab.path().join("root/usr/share/tables").exists());
        let done = strap(&lab, "--replace tables nft").done();
        assert_eq!(
            (names(&done), &done["strap"]["removed"]),
            (vec!["newer", "nft", "user"], &json!(["older", "tables"]))
        );
        for name in ["nft", "newer"] {
            let packages = done["packages"].as_array().expect("packages");
            let package = packages.iter().find(|package| package["name"] == name).expect(name);
            assert_eq!((&package["verified"], package["sha256"].is_string()), (&json!(true), true), "{package}");
        }
        // Without a name all is brought up to date, and all is.
        assert_eq!(names(&strap(&lab, "").done()), ["newer", "nft", "user"]);
        // As if an older version had been installed.
        let older = "cd root/var/lib/pacman/local && mv user-1-1 user-0-1 && sed -i 's/^1-1$/0-1/' user-0-1/desc";
        assert_eq!(lab.sh(older).status, 0);
        let planned = strap(&lab, "--plan").done()["planned"]["packages"].clone();
        assert_eq!(
            (&planned[0]["name"], &planned[0]["installed"], &planned[0]["version"]),
            (&json!("user"), &json!("0-1"), &json!("1-1"))
        );
        strap(&lab, "--plan --remove nothing").failed(69, "planning to remove 'nothing': it is not installed");
        // What depends on it, now and after what is installed first: as pacman says when it is done.
        let refused = strap(&lab, "--no-refresh --remove nft").document();
        let before = state(&lab);
        let planned = strap(&lab, "--plan --remove nft");
        planned.failed(69, "removing nft breaks dependency 'tables' required by user");
        assert_eq!(planned.document()["error"], refused["error"]);
        drop(strap(&lab, "--plan --remove nft --remove user").done());
        let gone = strap(&lab, "--plan --remove user").done();
        assert_eq!(gone["planned"]["removed"], json!(["user"]));
        assert_eq!(state(&lab), before);
        drop(strap(&lab, "--remove user").done());
        drop(strap(&lab, "--plan --remove nft").done());
        strap(&lab, "--plan --remove nft user").failed(69, "removing nft breaks dependency 'tables' required by user");
        let nothing = strap(&lab, "--no-refresh");
        nothing.failed(64, "--no-refresh upgrades only what is named, and no package is");
    }
}

/// Returns what the lab's root has installed, and for each whether it is a dependency.
fn installed(lab: &Lab) -> Vec<(String, bool)> {
    let text = lab.sh("cat root/var/lib/pacman/local/*/desc").stdout;
    let records = text.split("%NAME%\n").skip(1);
    records.map(|record| (record.lines().next().unwrap_or_default().to_owned(), record.contains("%REASON%"))).collect()
}

/// A provider that is named beside what depends on it is what pacman makes of the answer to its question: so no option gives
/// that answer.
#[test]
fn a_named_provider_is_the_answer() {
    let both = |second: bool| vec![("second".to_owned(), second), ("wants".to_owned(), false)];
    for pacman in pacmans() {
        let (asked, lab) = (Lab::new(Who::Root), Lab::new(Who::Root));
        let mirror = mirror(&lab);
        let server = Server::of(&mirror.www());
        begin(&asked, &mirror, server.url(), &pacman);
        let config = "--config root.strapline/pacman-strict.conf -Sy";
        let ran = asked.sh(&format!("printf '2\\ny\\n' | {} {config} wants", pacman.display()));
        assert!(ran.status == 0 && ran.stdout.contains("2 providers available for virtual"), "{ran:?}");
        assert_eq!(installed(&asked), both(true));
        begin(&lab, &mirror, server.url(), &pacman);
        drop(strap(&lab, "wants").done());
        assert_eq!(installed(&lab), [("first".to_owned(), true), ("wants".to_owned(), false)]);
        drop(strap(&lab, "--remove wants --remove first").done());
        for targets in ["wants second", "second wants"] {
            drop(strap(&lab, targets).done());
            assert_eq!(installed(&lab), both(false), "{targets}");
            drop(strap(&lab, "--remove wants --remove second").done());
        }
        // As a dependency, too.
        drop(strap(&lab, "--asdeps second").done());
        drop(strap(&lab, "wants").done());
        assert_eq!(installed(&lab), installed(&asked));
        drop(strap(&lab, "--remove wants --remove second").done());
        // pacman does not ask where a package has the name.
        drop(strap(&lab, "user nft").done());
        assert_eq!(installed(&lab), [("nft".to_owned(), false), ("user".to_owned(), false)]);
    }
}

/// A hook whose program is not there fails, so it shows whether it runs.
#[test]
fn a_masked_hook_does_not_run_once() {
    let hook = "[Trigger]\nOperation = Install\nOperation = Remove\nType = Package\nTarget = t*\n[Action]\nWhen = PostTransaction\n\
                Exec = /no/such\n";
    let package = |name: &str, files: Value| json!({"name": name, "version": "1", "files": files});
    let packages = json!({"repos": {"extra": {"packages": [
        package("hooked", json!({"usr/share/libalpm/hooks/50-test.hook": hook})), package("thing", json!({})),
        package("tool", json!({})),
    ]}}});
    for pacman in pacmans() {
        let lab = Lab::new(Who::Root);
        let mirror = Mirror::of("x86_64").extended(&lab.path().join("mirror"), &packages);
        let server = Server::of(&mirror.www());
        begin(&lab, &mirror, server.url(), &pacman);
        drop(strap(&lab, "hooked").done());
        strap(&lab, "thing").failed(69, "running the hook '50-test.hook'");
        let masked = strap(&lab, "--mask-hook 50-test.hook --remove thing tool").done();
        assert_eq!((names(&masked), &masked["strap"]["masked_hooks"]), (vec!["hooked", "tool"], &json!(["50-test"])));
        let found =
            lab.sh("ls cache root/var/lib/pacman/sync | grep -c hooks; ls root.strapline; ls root/etc/pacman.d/hooks");
        assert!(!found.stdout.contains("50-test") && found.stdout.starts_with("0\n"), "{found:?}");
        strap(&lab, "--remove tool").failed(69, "running the hook '50-test.hook'");
        // One that the root's own directory has, and one that nobody has.
        fs::write(lab.path().join("root/etc/pacman.d/hooks/51-own.hook"), hook).expect("our own root");
        let ran = strap(&lab, "--mask-hook 50-test --mask-hook 51-own --mask-hook 52-none thing");
        assert_eq!(ran.stderr, "strap: warning: masking the hook '52-none': the root has no such hook\n");
        assert_eq!(ran.succeeded()["strap"]["masked_hooks"], json!(["50-test", "51-own", "52-none"]));
        strap(&lab, "--mask-hook ../x thing").failed(64, "this is no name of a hook");
        // A name of which the file cannot be made: nothing of the others is left.
        strap(&lab, &format!("--mask-hook 50-test --mask-hook {} thing", "x".repeat(253)))
            .failed(71, "File name too long");
        assert_eq!(lab.sh("ls cache | grep hooks").stdout, "");
        // A lock, too.
        assert_eq!(lab.sh("cp document.json lock.json").status, 0);
        drop(strap(&lab, "--mask-hook 50-test --mask-hook 51-own --remove thing").done());
        let again = "--locked lock.json --mask-hook 50-test --mask-hook 51-own";
        assert_eq!(names(&strap(&lab, again).done()), ["hooked", "thing"]);
    }
}

#[test]
fn removing_overwriting_and_assuming() {
    let lab = Lab::new(Who::Root);
    let mirror = mirror(&lab);
    let server = Server::of(&mirror.www());
    begin(&lab, &mirror, server.url(), &pacmans()[0]);
    drop(strap(&lab, "tables user").done());
    let needed = strap(&lab, "--remove tables");
    needed.failed(69, "removing tables breaks dependency 'tables' required by user");
    assert_eq!(needed.document()["error"]["hint"], "a package that is installed needs it: remove that, too");
    let removed = strap(&lab, "--remove user --remove tables").done();
    assert_eq!((removed.get("packages"), &removed["strap"]["removed"]), (None, &json!(["tables", "user"])));
    assert!(!lab.path().join("root/usr/share/user").exists());
    strap(&lab, "--remove user").failed(69, "target not found: user");
    // One that is there again was not removed.
    let done = strap(&lab, "--asdeps tables").done();
    assert_eq!((&done["packages"][0]["reason"], &done["strap"]["removed"]), (&json!("dependency"), &json!(["user"])));
    fs::write(lab.path().join("root/usr/share/clash"), "mine").expect("our own root");
    strap(&lab, "clash").failed(69, "usr/share/clash exists in filesystem");
    strap(&lab, "--overwrite 'usr/share/other*' clash").failed(69, "usr/share/clash exists in filesystem");
    drop(strap(&lab, "--overwrite 'usr/share/cla*' clash").done());
    assert_eq!(fs::read_to_string(lab.path().join("root/usr/share/clash")).expect("a file"), "clash");
    strap(&lab, "needs").failed(69, "unable to satisfy dependency 'absent=1' required by needs");
    assert_eq!(names(&strap(&lab, "--assume-installed absent=1 needs").done()), ["clash", "needs", "tables"]);
    for (options, message) in [
        ("--packages-from none", "reading the list 'none': No such file or directory"),
        ("--packages-from empty", "reading the list 'empty': it names no package"),
        ("--packages-from odd", "installing '--root=/': invalid package name"),
        ("--remove 'a b'", "removing 'a b': invalid package name"),
    ] {
        fs::write(lab.path().join("empty"), "# none\n").expect("our own directory");
        fs::write(lab.path().join("odd"), "--root=/\n").expect("our own directory");
        strap(&lab, options).failed(64, message);
    }
}

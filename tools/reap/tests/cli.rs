//! The built program on real processes.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::json;
use strapline_tests::scripted::Ground;

const BINS: [&str; 1] = [env!("CARGO_BIN_EXE_reap")];

fn run(script: &str) -> Ground {
    Ground::run(&BINS, &[], script)
}

/// A script with a keyring in the root, and no `/run/user`, where agents would have their sockets instead.
fn run_with_keyring(script: &str) -> Ground {
    const KEYRING: &str = r#"
        mount -t tmpfs run /run
        keyring=$T/etc/pacman.d/gnupg
        mkdir -p "$keyring"; chmod 700 "$keyring"
        # The pids of the processes of that name.
        pids() {
            for stat in /proc/[0-9]*/stat; do
                read -r pid comm state rest <"$stat" || continue
                [ "$comm" = "($1)" ] && [ "$state" != Z ] && echo "$pid"
            done 2>/dev/null
            :
        }
    "#;
    let needs = ["gpg-agent", "gpg-connect-agent"];
    Ground::run(&BINS, &needs, &format!("{KEYRING}{script}"))
}

#[test]
fn who_lives_there_ends_and_who_only_uses_it_is_named() {
    let ground = run(r#"
        furnish
        mkdir "$T/home"
        start lives chroot "$T" sh -c "$stay"
        cd "$T/home"
        start way sh -c "$stay"
        cd /
        start other sh -c "$stay"
        step first reap "$T"
        is_alive "$(cat "$D/way.pid")"
        is_alive "$(cat "$D/other.pid")"
        step second reap --quiet "$T"
    "#);
    let (lives, way) = (ground.pid("lives"), ground.pid("way"));
    let warning = format!(
        "reap: warning: {way} sh (user root) has its working directory at 'ROOT/home'; it does not live there and is left alone"
    );
    let document =
        ground.step("first", 0, &[&format!("reap: ended {lives} sh (user root): lives in 'ROOT'"), &warning]);
    let (lives, way): (u32, u32) = (lives.parse().unwrap(), way.parse().unwrap());
    let how = format!("has its working directory at '{}/home'", ground.root().display());
    assert_eq!(
        document["reap"],
        json!({
            "ended": [{"pid": lives, "program": "sh", "user": "root"}],
            "in_the_way": [{"pid": way, "program": "sh", "user": "root", "how": how}],
        })
    );
    let document = ground.step("second", 0, &[&warning]);
    assert_eq!(document["reap"]["ended"], json!([]));
}

#[test]
fn nobody_is_ended_while_a_tool_works_on_the_root() {
    let ground = run(r#"
        furnish
        start lives chroot "$T" sh -c "$stay"
        start tool flock --shared --no-fork "$T" sh -c "$stay"
        step first reap "$T"
        echo '{"strapline":1,"root":"'"$T"'"}' >"$D/in"
        step document reap <"$D/in"
        kill "$pid"; wait "$pid" || :
        echo '{"strapline":1,"root":"'"$T"'","error":{"tool":"strap","code":"busy","message":"m","exit":75,"also":[]}}' >"$D/in"
        step refused reap <"$D/in"
        echo '{"strapline":1,"error":{"tool":"mkroot","code":"busy","message":"m","exit":75,"also":[]}}' >"$D/in"
        step early reap "$T" <"$D/in"
        is_alive "$(cat "$D/lives.pid")"
        step person reap "$T"
    "#);
    let pid = ground.pid("tool");
    let lines = [
        format!("reap: locking the root 'ROOT': in use by {pid} sh (user root)"),
        format!("reap: hint: wait until it has ended, or end it with 'kill {pid}', and try again"),
    ];
    for name in ["first", "document"] {
        let document = ground.step(name, 75, &[&lines[0], &lines[1]]);
        assert_eq!(document["error"]["code"], "busy");
    }
    let refused = "reap: this pipeline was refused, as another works on 'ROOT': nothing is ended";
    ground.step("refused", 75, &[refused]);
    ground.step("early", 75, &[refused]);
    let line = format!("reap: ended {} sh (user root): lives in 'ROOT'", ground.pid("lives"));
    ground.step("person", 0, &[&line]);
}

#[test]
fn a_root_below_the_root_is_the_root_too() {
    let ground = run(r#"
        mkdir "$T/var"
        (T=$T/var; furnish)
        start lives chroot "$T/var" sh -c "$stay"
        step first reap "$T"
    "#);
    let line = format!("reap: ended {} sh (user root): lives in 'ROOT'", ground.pid("lives"));
    ground.step("first", 0, &[&line]);
}

#[test]
fn a_stubborn_one_is_killed_and_so_are_its_orphans() {
    let ground = run(r#"
        furnish
        start lives chroot "$T" sh -c 'trap "" TERM HUP; (sh -c "echo ready; read line <&9" &); read line <&9'
        step first reap --timeout 0 "$T"
        start lives chroot "$T" sh -c 'trap "" TERM; echo ready; read line <&9'
        step second reap --timeout 1 "$T"
    "#);
    let document = ground.read("first.out");
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["reap"]["ended"].as_array().unwrap().len(), 2);
    assert_eq!(ground.read("first.status"), "0\n");
    let line = format!(
        "reap: ended {} sh (user root): lives in 'ROOT'; killed, since SIGTERM did not end it in 1 s",
        ground.pid("lives")
    );
    ground.step("second", 0, &[&line]);
}

#[test]
fn only_the_agent_of_the_roots_keyring_ends() {
    let ground = run_with_keyring(
        r#"
        mkdir -m 700 "$D/home"
        gpg-agent --homedir "$D/home" --daemon >/dev/null 2>&1
        host=$(pids gpg-agent)
        gpg-agent --homedir "$keyring" --daemon >/dev/null 2>&1
        for p in $(pids gpg-agent); do [ "$p" = "$host" ] || echo "$p" >"$D/agent.pid"; done
        # It says that it is there before it has caught signals; an answer comes after.
        gpg-connect-agent --homedir "$keyring" --no-autostart /bye
        [ -S "$keyring/S.gpg-agent" ]
        step first reap "$T"
        is_alive "$host"
        gpg-connect-agent --homedir "$D/home" --no-autostart /bye
        ls "$keyring" >"$D/left"
        # One that is killed leaves its sockets.
        gpg-agent --homedir "$keyring" --daemon >/dev/null 2>&1
        for p in $(pids gpg-agent); do [ "$p" = "$host" ] || echo "$p" >"$D/killed.pid"; done
        step second reap --timeout 0 "$T"
        ls "$keyring" >"$D/left_second"
        is_alive "$host"
        "#,
    );
    let ended = |name: &str| format!("reap: ended {} gpg-agent (user root): lives in 'ROOT'", ground.pid(name));
    ground.step("first", 0, &[&ended("agent")]);
    assert!(!ground.read("left").contains("S."), "{}", ground.read("left"));
    let sockets = "S.gpg-agent S.gpg-agent.browser S.gpg-agent.extra S.gpg-agent.ssh";
    let document = ground.step(
        "second",
        0,
        &[&ended("killed"), &format!("reap: removed stale sockets in 'ROOT/etc/pacman.d/gnupg': {sockets}")],
    );
    assert_eq!(document["reap"]["sockets"], json!(sockets.split(' ').collect::<Vec<_>>()));
    assert!(!ground.read("left_second").contains("S."));
}

#[test]
fn an_agent_is_known_by_its_home() {
    let ground = run_with_keyring(
        r#"
        ln -s "$keyring" "$D/k"
        mkdir -p -m 755 /run/user; mkdir -m 700 /run/user/0
        gpg-agent --homedir "$D/k" --daemon >/dev/null 2>&1
        pids gpg-agent >"$D/agent.pid"
        [ ! -e "$keyring/S.gpg-agent" ]
        # It has the name of an agent, and serves nothing there.
        cp /bin/sh "$D/bin/dirmngr"
        start named dirmngr -c "$stay" --homedir "$D"
        step first reap "$T"
        is_alive "$(cat "$D/named.pid")"
        "#,
    );
    let line = format!("reap: ended {} gpg-agent (user root): lives in 'ROOT'", ground.pid("agent"));
    ground.step("first", 0, &[&line]);
}

#[test]
fn a_dry_run_ends_nothing() {
    let ground = run(r#"
        furnish
        start lives chroot "$T" sh -c "$stay"
        step first reap --dry-run "$T"
        is_alive "$pid"
        step second reap --state "$D/first.out"
    "#);
    let pid = ground.pid("lives");
    let line = |verb: &str| format!("reap: {verb} {pid} sh (user root): lives in 'ROOT'");
    let document = ground.step("first", 0, &[&line("would end")]);
    let would_end = &document["reap"]["would_end"];
    assert_eq!(would_end[0]["pid"], pid.parse::<u32>().unwrap());
    assert_eq!(document["reap"]["ended"], json!([]));
    // The document of a directory alone has no root, so the second run has none either.
    assert_eq!(ground.read("second.status"), "65\n");
}

#[test]
fn another_mount_namespace_is_another_place() {
    let ground = run(r#"
        # The same path, and another directory: what is mounted there in a namespace of its own.
        start elsewhere unshare --mount sh -c "mount -t tmpfs x '$T' && cd '$T' && $stay"
        step first reap "$T"
        is_alive "$pid"
        # The root itself, and a root of it in another namespace.
        furnish
        start inside unshare --mount chroot "$T" sh -c "$stay"
        step second reap "$T"
    "#);
    ground.step("first", 0, &["reap: nothing lives in 'ROOT'"]);
    let line = format!("reap: ended {} sh (user root): lives in 'ROOT'", ground.pid("inside"));
    ground.step("second", 0, &[&line]);
}

#[test]
fn who_lives_in_another_directory_of_that_name_lives_on() {
    let ground = run(r#"
        # An older root, which a mount hides now; one that was removed and made again; and one that has an odd name.
        furnish
        mkdir "$T/sub"; for d in usr bin lib lib64; do
            [ -e "/$d" ] || continue
            if [ -L "/$d" ]; then cp -P "/$d" "$T/sub/"; else mkdir "$T/sub/$d"; mount --rbind "/$d" "$T/sub/$d"; fi
        done
        start hidden chroot "$T" sh -c "$stay"
        start below chroot "$T/sub" sh -c "$stay"
        cd "$T/sub"; start cwd sh -c "exec 5>'$T/sub/file'; $stay"; cd /
        mount -t tmpfs new "$T"
        mkdir "$T/sub"; : >"$T/sub/file"
        step mounted reap --timeout 0 "$T"
        umount "$T"
        R="$D/again"; mkdir "$R" "$R (deleted)"
        for r in "$R" "$R (deleted)"; do
            for d in usr bin lib lib64; do
                [ -e "/$d" ] || continue
                if [ -L "/$d" ]; then cp -P "/$d" "$r/"; else mkdir "$r/$d"; mount --rbind "/$d" "$r/$d"; fi
            done
        done
        start odd chroot "$R (deleted)" sh -c "$stay"
        start removed chroot "$R" sh -c "$stay"
        umount -Rl "$R/usr"; rm -r "$R"; mkdir "$R"
        step made reap --timeout 0 "$R"
        # A bind of a directory of the root is the root, whatever its name.
        mkdir "$D/bound"; mount --rbind "$T/sub" "$D/bound"
        for p in hidden below cwd odd removed; do is_alive "$(cat "$D/$p.pid")" || { echo $p; cat $D/*.err; exit 1; } >&2; done
        step old reap --timeout 0 "$T"
    "#);
    ground.step("mounted", 0, &["reap: nothing lives in 'ROOT'"]);
    let again = ground.path().join("again");
    ground.step("made", 0, &[&format!("reap: nothing lives in '{}'", again.display())]);
    let ended = |name: &str| format!("reap: ended {} sh (user root): lives in 'ROOT'", ground.pid(name));
    let cwd = format!(
        "reap: warning: {} sh (user root) has its working directory at 'ROOT/sub'; it does not live there and is left alone",
        ground.pid("cwd")
    );
    ground.step("old", 0, &[&ended("hidden"), &ended("below"), &cwd]);
}

#[test]
fn an_agent_of_unknown_keyring_is_named_and_left() {
    let ground = run_with_keyring(
        r#"
        # Those of this keyring: other tests have agents, too.
        agents() {
            for p in $(pids gpg-agent); do
                tr '\0' ' ' <"/proc/$p/cmdline" | grep -qF -- "--homedir $keyring " && echo "$p"
            done
        }
        # One of an older keyring, which a mount hides now.
        gpg-agent --homedir "$keyring" --daemon >/dev/null 2>&1
        agents >"$D/older.pid"
        mount -t tmpfs new "$T"
        mkdir -p "$keyring"; chmod 700 "$keyring"
        step older reap --timeout 0 "$T"
        is_alive "$(cat "$D/older.pid")"
        # And one in another mount namespace.
        unshare --mount gpg-agent --homedir "$keyring" --daemon >/dev/null 2>&1
        for p in $(agents); do [ "$p" = "$(cat "$D/older.pid")" ] || echo "$p" >"$D/elsewhere.pid"; done
        [ -S "$keyring/S.gpg-agent" ]
        step elsewhere reap --timeout 0 "$T"
        is_alive "$(cat "$D/older.pid")"
        is_alive "$(cat "$D/elsewhere.pid")"
        [ -S "$keyring/S.gpg-agent" ]
        "#,
    );
    let said = ground.read("older.err");
    assert!(said.contains(&format!("{} gpg-agent", ground.pid("older"))), "{said}");
    assert!(
        said.ends_with("reap: nothing lives in 'ROOT'\n".replace("ROOT", ground.root().to_str().unwrap()).as_str()),
        "{said}"
    );
    let said = ground.read("elsewhere.err");
    assert!(said.contains(&format!("{} gpg-agent", ground.pid("elsewhere"))), "{said}");
    assert!(said.contains("in another mount namespace; it does not live"), "{said}");
    for name in ["older", "elsewhere"] {
        assert_eq!(ground.read(&format!("{name}.status")), "0\n");
    }
}

#[test]
fn our_ancestors_are_spared_wherever_they_are() {
    let ground = run(r#"
        furnish
        # The shell lives in the root; what it starts is outside again.
        mkdir "$T/out"; mount --rbind / "$T/out"
        step first chroot "$T" sh -c 'chroot /out reap "$T"; exit $?'
    "#);
    let said = ground.read("first.err");
    assert!(
        said.contains(" sh (user root) has its root directory at '")
            && said.contains("; this program was started from there, and it is left alone"),
        "{said}"
    );
    assert_eq!(ground.read("first.status"), "0\n");
}

#[test]
fn a_failed_document_keeps_its_error() {
    let ground = run(r#"
        furnish
        start lives chroot "$T" sh -c "$stay"
        echo '{"strapline":1,"root":"'"$T"'","error":{"tool":"strap","code":"child-failed","message":"m","exit":69,"also":[]}}' >"$D/in"
        step first reap <"$D/in"
        start again chroot "$T" sh -c "$stay"
        : | step empty reap "$T"
        echo '{"strapline":1,"error":{"tool":"mkroot","code":"usage","message":"m","exit":64,"also":[]}}' >"$D/in"
        step none reap <"$D/in"
    "#);
    let ended = |name: &str| format!("reap: ended {} sh (user root): lives in 'ROOT'", ground.pid(name));
    let document = ground.step("first", 69, &[&ended("lives")]);
    let error = json!({"tool": "strap", "code": "child-failed", "message": "m", "exit": 69, "also": []});
    assert_eq!(document["error"], error);
    let document = ground.step(
        "empty",
        65,
        &[
            &ended("again"),
            "reap: reading the document on stdin: it is empty: the tool before this one printed nothing",
            "reap: hint: to work from the directory alone, give --new",
        ],
    );
    assert_eq!(document["error"]["code"], "bad-document");
    ground.step("none", 64, &["reap: no root was made: there is nothing to do"]);
}

#[test]
fn an_ordinary_user_ends_its_own_and_is_told_of_others() {
    let ground = run_with_keyring(
        r#"
        nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
        furnish
        chmod 755 "$keyring"
        start own chroot "$T" setpriv --reuid 65534 --regid 65534 --clear-groups sh -c "$stay"
        gpg-agent --homedir "$keyring" --daemon >/dev/null 2>&1
        pids gpg-agent >"$D/agent.pid"
        # With the agent two that nobody may look at; PID 1 lives in no root anyhow.
        start other sh -c "$stay"
        step first nobody reap "$T"
        is_alive "$(cat "$D/agent.pid")"
        "#,
    );
    let said = ground.read("first.err");
    let lines: Vec<_> = said.lines().collect();
    let root = ground.root();
    assert_eq!(lines[0], format!("reap: ended {} sh (user nobody): lives in '{}'", ground.pid("own"), root.display()));
    // That it serves this keyring is only what its command line says.
    assert_eq!(
        lines[1],
        format!(
            "reap: warning: {} gpg-agent (user root) serves the keyring at '{}/etc/pacman.d/gnupg'; it does not live there \
             and is left alone",
            ground.pid("agent"),
            root.display()
        )
    );
    assert_eq!(lines[2..], ["reap: 2 processes could not be looked at"]);
    assert_eq!(ground.read("first.status"), "0\n");
    let document: serde_json::Value = serde_json::from_str(&ground.read("first.out")).unwrap();
    assert_eq!(document["reap"]["unreadable"], 2);
}

#[test]
fn who_is_hidden_from_an_ordinary_user_is_counted() {
    let ground = run(r#"
        furnish
        start other sh -c "$stay"
        # The names of all processes are to be seen, and no more than that.
        mount -o remount,hidepid=1 /proc
        step first setpriv --reuid 65534 --regid 65534 --clear-groups reap "$T"
    "#);
    let document =
        ground.step("first", 0, &["reap: 1 process could not be looked at", "reap: nothing lives in 'ROOT'"]);
    assert_eq!(document["reap"]["unreadable"], 1);
}

#[test]
fn more_processes_than_descriptors_end_in_turn() {
    let ground = run(r#"
        furnish
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            start lives chroot "$T" sh -c "$stay"
        done
        step first sh -c 'ulimit -n 18; exec reap --quiet "$T"'
    "#);
    let document = ground.step("first", 0, &[]);
    assert_eq!(document["reap"]["ended"].as_array().unwrap().len(), 20);
}

#[test]
fn roots_that_cannot_be_meant_are_refused_and_nobody_ends() {
    let ground = run(r#"
        mkdir "$D/host"; mount --rbind / "$D/host"
        start other sh -c "$stay"
        step slash reap /
        step host reap "$D/host"
        step gone reap "$T/gone"
        step new reap --new
        mkdir "$D/another"
        echo '{"strapline":1,"root":"'"$T"'"}' >"$D/in"
        step differ reap "$D/another" <"$D/in"
        echo '{"strapline":1,"root":"'"$T"'","root_id":{"dev":1,"ino":1}}' >"$D/in"
        step swapped reap <"$D/in"
        echo '{"strapline":1,"root":"'"$T"'/gone"}' >"$D/in"
        step vanished reap <"$D/in"
        is_alive "$pid"
        step long reap --timeout 3601 "$T"
    "#);
    let refused = |name, status, code: &str, lines: &[&str]| {
        assert_eq!(ground.step(name, status, lines)["error"]["code"], code);
    };
    let host = "reap: opening the root '/': it is the root that this program runs in";
    refused("slash", 64, "usage", &[host]);
    let bound = ground.path().join("host");
    let bound = host.replace("'/'", &format!("'{}'", bound.display()));
    refused("host", 64, "usage", &[&bound]);
    let gone = "reap: opening the root 'ROOT/gone': No such file or directory (os error 2)";
    refused("gone", 69, "not-found", &[gone]);
    refused("vanished", 69, "not-found", &[gone]);
    refused("new", 64, "usage", &["reap: finding the root: there is neither a document nor DIR"]);
    let another = ground.path().join("another");
    refused(
        "differ",
        64,
        "usage",
        &[
            &format!("reap: '{}' is not 'ROOT', the root that the document means", another.display()),
            "reap: hint: leave DIR out, or give --new to work from DIR alone",
        ],
    );
    refused(
        "swapped",
        69,
        "failed",
        &[
            "reap: opening the root 'ROOT': it is an empty directory, and not the one that the document means",
            "reap: hint: mount the file system that the root is on; if it is gone, begin again with mkroot",
        ],
    );
    assert_eq!(ground.read("long.status"), "64\n");
}

#[test]
fn the_help_fits_and_the_manual_has_every_option() {
    strapline_tests::scripted::assert_help_and_manual(BINS[0], "reap");
}

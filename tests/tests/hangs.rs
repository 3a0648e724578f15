//! What hangs is found out, described and ended; what only takes long is not.
//!
//! Each hang here is for ever: nobody writes to the FIFO, nobody continues the stopped process, the server never answers.
//! So no test depends on how fast this machine is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use strapline_tests::{Answer, Lab, Mirror, Ran, Request, Server, Who};

/// The pipe up to a keyring, with a pacman of this host or what stands before it.
fn begin(mirror: &Mirror, server: &Server, pacman: &str, mkconf: &str) -> String {
    let (preset, url) = (mirror.preset(), server.url());
    format!(
        "mkroot root --arch x86_64 --distro {} | fetch-pacman --use {pacman} \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages {mkconf} | keyring",
        preset.display()
    )
}

/// Checks that it was a hang, and returns the message.
#[track_caller]
fn hung(ran: &Ran, tool: &str, doing: &str) -> String {
    ran.failed(75, &format!("{tool}: {doing}: nothing happened for "));
    let error = &ran.document()["error"];
    assert_eq!((&error["tool"], &error["code"]), (&tool.into(), &"hung".into()));
    let hint = error["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("--timeout SECONDS"), "{error}");
    error["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_scriptlet_that_waits_for_nobody() {
    for who in [Who::Root, Who::User] {
        let lab = Lab::new(who);
        let mirror = Mirror::of("x86_64").tampered(&lab.path().join("m"), "scriptlet-waits");
        let server = Server::of(&mirror.www());
        let begin = begin(&mirror, &server, "/usr/bin/pacman", "");
        let ran = lab.sh(&format!("{begin} | tee keyring.json | strap --timeout 2 waits | reap | unmount"));
        let message = hung(&ran, "strap", "running pacman to install");
        assert!(message.contains("post_install 1-1'"), "{message}");
        // Each process has a line of its own, the scriptlet below pacman.
        let lines: Vec<_> = ran.stderr.lines().filter_map(|l| l.strip_prefix("strap: hung: ")).collect();
        assert_eq!(lines.len(), 2, "{}", ran.stderr);
        assert!(!lines[0].starts_with(' ') && lines[0].contains("pacman -Su"));
        assert!(lines[1].starts_with("  ") && lines[1].contains(" sleeps in "));
        // What is installed is on record; the next run repairs the rest.
        assert!(ran.document()["packages"].is_array());
        let ran = lab.sh("strap --state keyring.json waits");
        drop(ran.succeeded());
        assert!(ran.stderr.contains("an earlier transaction was interrupted"));
        assert!(lab.path().join("root/var/waits.done").exists());
    }
}

#[test]
fn a_pacman_that_is_stopped() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let wrapper = lab.path().join("pacman");
    // Of the host, pacman may write in the package cache only.
    let stopped = lab.path().join("packages/stopped");
    let text = format!(
        "#!/bin/sh\ncase $1 in -Su) [ -e {0} ] || {{ : > {0}; kill -STOP $$; }} ;; esac\n\
         exec /usr/bin/pacman \"$@\"\n",
        stopped.display()
    );
    fs::write(&wrapper, text).expect("our own directory");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("our own file");
    let begin = begin(&mirror, &server, "./pacman", "");
    let ran = lab.sh(&format!("{begin} | tee keyring.json | strap --timeout 1 filesystem"));
    let message = hung(&ran, "strap", "running pacman to install");
    assert!(message.ends_with(" is stopped"), "{message}");
    drop(lab.sh("strap --state keyring.json filesystem").succeeded());
}

#[test]
fn a_server_that_takes_the_call_and_is_silent() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let silent = |request: &Request| match request.path.ends_with(".db") {
        true => Answer::Silence,
        false => Answer::Serve,
    };
    let server = Server::lying(&mirror.www(), silent);
    // pacman has a limit of its own, 10 s, and a user may turn that off.
    let begin = begin(&mirror, &server, "/usr/bin/pacman", "--set DisableDownloadTimeout");
    let ran = lab.sh(&format!("{begin} --timeout 1 | strap base"));
    let message = hung(&ran, "keyring", "running pacman to download");
    assert!(message.contains("pacman -Syw"), "{message}");
}

#[test]
fn what_works_in_silence_is_no_hang() {
    let lab = Lab::new(Who::Root);
    let mirror = Mirror::of("x86_64").tampered(&lab.path().join("m"), "scriptlet-works");
    let server = Server::of(&mirror.www());
    let begin = begin(&mirror, &server, "/usr/bin/pacman", "");
    let receipt = lab.sh(&format!("{begin} | strap --timeout 3 works | reap | unmount")).succeeded();
    let steps = receipt["steps"].as_array().expect("steps");
    let strap = steps.iter().find(|s| s["tool"] == "strap");
    let seconds = strap.and_then(|s| s["seconds"].as_f64());
    assert!(seconds > Some(7.0), "it did not take long");
}

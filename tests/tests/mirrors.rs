//! Mirrors as they are: one of several that is down, slow or incomplete, one that is out of step with itself, a captive portal
//! and a proxy in between. With every pacman, whose words differ.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use strapline_tests::{Answer, Lab, Mirror, PACMAN, Proxy, Ran, Request, Server, Who, pacmans, top};

/// The pipe up to a keyring, with these servers.
fn begin(mirror: &Mirror, pacman: &Path, servers: &[&str]) -> String {
    let servers: String = servers.iter().map(|url| format!(" --server '{url}/$arch/$repo'")).collect();
    format!(
        "mkroot root --arch x86_64 --distro {} | fetch-pacman --use {} | mkconf{servers} --cache-dir $PWD/packages | keyring",
        mirror.preset().display(),
        pacman.display()
    )
}

/// What a tool's failure is, in the document.
fn error(ran: &Ran, key: &str) -> String {
    ran.document()["error"][key].as_str().unwrap_or_default().to_owned()
}

fn is_nano(request: &Request) -> bool {
    request.path.contains("/nano-") && !request.path.ends_with(".sig")
}

#[test]
fn the_next_server_is_asked() {
    let mirror = Mirror::of("x86_64");
    for pacman in pacmans() {
        let good = Server::of(&mirror.www());
        let lacks = Server::lying(&mirror.www(), |request| match is_nano(request) {
            true => Answer::Status(404, "<html>gone</html>"),
            false => Answer::Serve,
        });
        // Half of it, and then less than pacman's least: a byte a second for ten.
        let slow = Server::lying(&mirror.www(), |request| match is_nano(request) {
            true => Answer::Stall(1000),
            false => Answer::Serve,
        });
        for first in ["http://127.0.0.1:1", lacks.url(), slow.url()] {
            let lab = Lab::new(Who::Root);
            let begin = begin(&mirror, &pacman, &[first, good.url()]);
            let before = good.requests().len();
            drop(lab.sh(&format!("{begin} | strap nano | reap | unmount")).succeeded());
            assert!(good.requests()[before..].iter().any(is_nano), "{first}");
        }
    }
}

#[test]
fn a_missing_package_refreshes_the_databases_once() {
    let mirror = Mirror::of("x86_64");
    for pacman in pacmans() {
        // After it was asked for in vain, the databases are asked for again; and then it is there, or not.
        for (comes, status) in [(true, 0), (false, 75)] {
            let lab = Lab::new(Who::Root);
            let (missed, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let (miss, count) = (Arc::clone(&missed), Arc::clone(&asked));
            let server = Server::lying(&mirror.www(), move |request| {
                if request.path.ends_with("/extra.db") && miss.load(Ordering::SeqCst) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                let there = comes && count.load(Ordering::SeqCst) > 0;
                if !is_nano(request) || there {
                    return Answer::Serve;
                }
                miss.store(true, Ordering::SeqCst);
                Answer::Status(404, "<html>gone</html>")
            });
            let begin = begin(&mirror, &pacman, &[server.url()]);
            let ran = lab.sh(&format!("{begin} | tee keyring.json | strap nano | reap | unmount"));
            assert_eq!(ran.status, status, "{}", ran.stderr);
            let said = "strap: warning: 'nano-7.2-1-x86_64.pkg.tar.zst' is not on the mirror, whose database names it: \
                        downloading the databases again";
            assert!(ran.stderr.contains(said), "{}", ran.stderr);
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            if status == 0 {
                continue;
            }
            ran.failed(
                75,
                "strap: running pacman to download: the mirror has no 'nano-7.2-1-x86_64.pkg.tar.zst', which its \
                            database names, also after downloading that again",
            );
            assert_eq!(error(&ran, "code"), "network");
            let ran = lab.sh("strap --state keyring.json --no-refresh nano");
            ran.failed(75, "which the database in the root names");
            assert_eq!(asked.load(Ordering::SeqCst), 1, "it was told not to");
        }
    }
}

/// The databases are newer than those that the root has, and the archive that these name is gone.
#[test]
fn a_mirror_that_moved_on() {
    let mirror = Mirror::of("x86_64");
    for pacman in pacmans() {
        let lab = Lab::new(Who::Root);
        let moved = mirror.tampered(&lab.path().join("moved"), "nano-newer");
        // One address, whatever is behind it.
        let point_to = |mirror: &Mirror| {
            drop(std::fs::remove_file(lab.path().join("www")));
            symlink(mirror.www(), lab.path().join("www")).expect("our own directory");
        };
        point_to(&mirror);
        let server = Server::of(&lab.path().join("www"));
        let begin = begin(&mirror, &pacman, &[server.url()]);
        let ran = lab.sh(&format!(
            "for at in a b c; do mkdir $at; done; (cd a; {begin} | strap nano) > receipt.json && (cd b; {begin}) > b.json \
             && (cd c; {begin}) > c.json && cat receipt.json"
        ));
        let receipt = ran.succeeded();
        let count = receipt["packages"].as_array().map(Vec::len).expect("packages");
        let file = "nano-7.2-1-x86_64.pkg.tar.zst";
        point_to(&moved);
        // The databases that the root has lead nowhere; what follows is of today.
        let ran = lab.sh("strap --state b.json --no-refresh nano");
        ran.failed(75, &format!("the mirror has no '{file}', which the database in the root names"));
        let ran = lab.sh("strap --state b.json nano").succeeded();
        assert_eq!(version(&ran, "nano"), "7.3-1");
        // A lock is about what is no more.
        let ran = lab.sh("strap --state c.json --locked receipt.json");
        ran.failed(69, "installing what is locked: not available: 'nano' 7.2-1");
        assert_eq!(error(&ran, "code"), "not-found");
        assert!(!lab.path().join("c/root/usr/bin/bash").exists());
        // It costs verify one package, by the old databases and by those of today.
        for before in ["", "strap --state receipt.json --quiet --download-only sed > /dev/null && "] {
            let ran = lab.sh(&format!("{before}rm a/packages/*.pkg.* && verify --state receipt.json"));
            ran.failed(
                69,
                "verify: verifying 'nano': its archive is not in the cache, and no repository has that version",
            );
            let signatures = &ran.document()["verify"]["signatures"];
            assert_eq!((&signatures["valid"], &signatures["no-archive"]), (&(count - 1).into(), &1.into()));
        }
        // An upgrade mends it.
        let ran = lab.sh("strap --state receipt.json sed | verify").succeeded();
        assert_eq!(version(&ran, "nano"), "7.3-1");
    }
}

fn version(document: &serde_json::Value, name: &str) -> String {
    let packages = document["packages"].as_array().expect("packages");
    let package = packages.iter().find(|p| p["name"] == name).expect(name);
    package["version"].as_str().expect("a version").to_owned()
}

#[test]
fn a_captive_portal_is_named_and_leaves_nothing() {
    let mirror = Mirror::of("x86_64");
    const PAGE: &str = "<!DOCTYPE html>\n<html><title>Log in</title></html>\n";
    let good = Server::of(&mirror.www());
    let page = |_: &Request| Answer::Status(200, PAGE);
    let redirect = |request: &Request| match &*request.path {
        "/login" => Answer::Status(200, PAGE),
        _ => Answer::Redirect("/login".into()),
    };
    let packages = |request: &Request| match request.path.contains(".pkg.tar") {
        true => Answer::Status(200, PAGE),
        false => Answer::Serve,
    };
    let portals = [
        (Server::lying(&mirror.www(), page), "core.db"),
        (Server::lying(&mirror.www(), redirect), "core.db"),
        (Server::lying(&mirror.www(), packages), ".pkg.tar."),
    ];
    for pacman in pacmans() {
        for (portal, what) in &portals {
            let lab = Lab::new(Who::Root);
            let from = |url: &str| format!("{} | strap nano | reap | unmount", begin(&mirror, &pacman, &[url]));
            // Before there is a keyring, with the loose configuration.
            let ran = lab.sh(&from(portal.url()));
            ran.failed(75, "': a web page came in its place");
            assert_eq!(error(&ran, "tool"), "keyring");
            assert!(error(&ran, "message").contains(what), "{}", ran.stderr);
            assert!(error(&ran, "hint").contains("may want a login"));
            // And after, with the strict one.
            let begin = begin(&mirror, &pacman, &[good.url()]);
            drop(lab.sh(&format!("{begin} > keyring.json; cat keyring.json")).succeeded());
            let ran = lab.sh(&format!(
                "mkconf --state keyring.json --server '{}/$arch/$repo' --cache-dir $PWD/packages | strap nano",
                portal.url()
            ));
            ran.failed(75, "': a web page came in its place");
            assert_eq!(error(&ran, "tool"), "strap");
            assert_eq!(error(&ran, "code"), "network");
            // Once it is gone, nothing of it is in the way.
            drop(lab.sh(&from(good.url())).succeeded());
        }
    }
}

#[test]
fn a_proxy_by_the_usual_variables() {
    let mirror = Mirror::of("x86_64");
    // No name server knows it: who gets there has asked the proxy.
    let nowhere = "http://mirror.invalid";
    for pacman in pacmans() {
        let lab = Lab::new(Who::User);
        let proxy = Server::of(&mirror.www());
        let begin = begin(&mirror, &pacman, &[nowhere]);
        let rest = "strap nano | reap | unmount";
        let ran = lab.sh(&format!("export http_proxy={}; {begin} | {rest}", proxy.url()));
        drop(ran.succeeded());
        let requests = proxy.requests();
        let hosts: Vec<_> = requests.iter().filter_map(|r| r.proxy_for.as_deref()).collect();
        assert_eq!(hosts.len(), requests.len(), "all of them through it");
        assert!(hosts.iter().all(|host| *host == "mirror.invalid"), "{hosts:?}");
        // What is not to go through it does not.
        let ran = lab.sh(&format!(
            "export http_proxy={} no_proxy=mirror.invalid; {begin}| strap vim | reap | unmount",
            proxy.url()
        ));
        ran.failed(75, "Could not resolve host: mirror.invalid");
        assert_eq!(proxy.requests().len(), requests.len());
    }
}

#[test]
fn fetch_pacman_goes_the_same_ways() {
    let mirror = Mirror::of("x86_64");
    let lab = Lab::new(Who::User);
    let proxy = Server::of(&mirror.www());
    let fetch = |environment: &str| {
        lab.sh(&format!(
            "{environment} mkroot root --arch x86_64 --distro {} > mkroot.json; \
             {environment} fetch-pacman --state mkroot.json --cache-dir fetched --server http://mirror.invalid/archlinuxcn/x86_64",
            mirror.preset().display()
        ))
    };
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy"] {
        let before = proxy.requests().len();
        drop(fetch(&format!("{variable}={}", proxy.url())).succeeded());
        let asked = &proxy.requests()[before..];
        assert!(!asked.is_empty() && asked.iter().all(|r| r.proxy_for.as_deref() == Some("mirror.invalid")));
    }
    fetch(&format!("http_proxy={} no_proxy=.invalid", proxy.url())).failed(75, "fetch-pacman: fetching ");
}

/// A server that only those trust who name its authority, and which that is. It ends with the test's process.
fn secure(lab: &Lab, mirror: &Mirror) -> (String, PathBuf, Child) {
    let script = r#"
set -e
openssl req -x509 -nodes -newkey rsa:2048 -keyout ca.key -out ca.pem -subj '/CN=An authority' -days 30
openssl req -nodes -newkey rsa:2048 -keyout server.key -out server.csr -subj /CN=localhost
echo subjectAltName=DNS:localhost,DNS:mirror.invalid > extensions
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 30 -extfile extensions
chmod a+r ca.pem
"#;
    let made = lab.sh(script);
    assert_eq!(made.status, 0, "this test needs openssl: {}", made.stderr);
    let serve = "import http.server, os, ssl, sys\n\
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        tls.load_cert_chain('server.pem', 'server.key')\n\
        os.chdir(sys.argv[1])\n\
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n\
        server.socket = tls.wrap_socket(server.socket, server_side=True)\n\
        print(server.server_port, flush=True)\n\
        server.serve_forever()\n";
    let mut server = Command::new("python3")
        .args(["-c", serve])
        .arg(mirror.www())
        .current_dir(lab.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is there");
    let mut port = String::new();
    let mut out = BufReader::new(server.stdout.take().expect("a pipe"));
    out.read_line(&mut port).expect("a port");
    let url = format!("https://localhost:{}", port.trim());
    (url, lab.path().join("ca.pem"), server)
}

#[test]
fn a_private_authority_and_a_clock_that_is_behind() {
    let mirror = Mirror::of("x86_64");
    for who in [Who::Root, Who::User] {
        let lab = Lab::new(who);
        let (url, authority, mut server) = secure(&lab, &mirror);
        let mut rans = Vec::new();
        for pacman in pacmans() {
            let begin = begin(&mirror, &pacman, &[&url]);
            let pipe = format!("{begin} | strap nano | reap | unmount");
            rans.push((
                lab.sh(&pipe),
                lab.sh(&format!("export SSL_CERT_FILE={}; {pipe}", authority.display())),
                lab.sh(&format!(
                    "mkdir -p authorities; cp ca.pem authorities; ln -sf ca.pem authorities/0a0b0c0d.0; rm -rf packages
                     mkdir -p nobody; export SSL_CERT_DIR=$PWD/nobody:$PWD/authorities; {pipe}"
                )),
            ));
        }
        let missing = lab.sh(&format!("export SSL_CERT_FILE=./none; {}", begin(&mirror, Path::new(PACMAN), &[&url])));
        let nobody = lab.sh(&format!("export SSL_CERT_DIR=./nobody; {}", begin(&mirror, Path::new(PACMAN), &[&url])));
        let clock = top().join("tests/clock.sh");
        let fetch = lab.sh(&format!(
            "mkroot other --arch x86_64 --distro {} > other.json; export SSL_CERT_FILE={}; \
             unshare --map-root-user --mount sh {} 2020-02-20 fetch-pacman --state other.json --cache-dir fetched \
             --server {url}/archlinuxcn/x86_64",
            mirror.preset().display(),
            authority.display(),
            clock.display()
        ));
        server.kill().expect("our own child");
        server.wait().expect("our own child");
        for (without, with, with_directory) in rans {
            // A certificate that nobody vouches for does not go away.
            without.failed(69, "failed retrieving file 'core.db' from localhost");
            drop(with.succeeded());
            drop(with_directory.succeeded());
        }
        nobody.failed(69, "keyring: using SSL_CERT_DIR './nobody': no file in it has a certificate");
        missing.failed(69, "keyring: using SSL_CERT_FILE './none': there is no such file");
        if who == Who::Root {
            fetch.failed(69, "fetch-pacman: fetching ");
            assert!(
                fetch.stderr.contains("this host's clock says 2020-02-20: if that is wrong, set it"),
                "{}",
                fetch.stderr
            );
        }
    }
}

/// Through a proxy, TLS is the client's and the mirror's own (`CONNECT`): the proxy learns a name and a port.
#[test]
fn https_through_a_proxy() {
    let mirror = Mirror::of("x86_64");
    let lab = Lab::new(Who::User);
    let (direct, authority, mut server) = secure(&lab, &mirror);
    let address = direct.replace("https://localhost", "127.0.0.1");
    let proxy = Proxy::to(Some(address.parse().expect("an address")));
    let refusing = Proxy::to(None);
    // No name server knows it: who gets there has asked the proxy.
    let nowhere = "https://mirror.invalid";
    let run = |environment: &str, command: &str| {
        lab.sh(&format!("export SSL_CERT_FILE={} {environment}; {command}", authority.display()))
    };
    let fetch = |environment: &str, url: &str| {
        run(
            environment,
            &format!(
                "mkroot other --arch x86_64 --distro {} > other.json; \
                 fetch-pacman --state other.json --cache-dir $(mktemp -d -p .) --server {url}/archlinuxcn/x86_64",
                mirror.preset().display()
            ),
        )
    };
    let mut through = Vec::new();
    for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        let before = proxy.asked().len();
        let ran = fetch(&format!("{variable}={}", proxy.url()), nowhere);
        through.push((ran, proxy.asked().len() - before));
    }
    let refused = fetch(&format!("https_proxy={}", refusing.url()), nowhere);
    for pacman in pacmans() {
        let begin = begin(&mirror, &pacman, &[nowhere]);
        let before = proxy.asked().len();
        let ran = run(&format!("https_proxy={}", proxy.url()), &format!("{begin} | strap nano | reap | unmount"));
        through.push((ran, proxy.asked().len() - before));
    }
    // What is not to go through it does not, by name and by domain.
    let before = proxy.asked().len();
    let mut directly = Vec::new();
    let mut lost = Vec::new();
    for list in ["localhost", "example.org,localhost", "*"] {
        let environment = format!("https_proxy={} no_proxy={list}", proxy.url());
        directly.push(fetch(&environment, &direct));
        let begin = begin(&mirror, Path::new(PACMAN), &[&direct]);
        directly.push(run(&environment, &format!("{begin} | strap vim | reap | unmount")));
    }
    for list in ["mirror.invalid", ".invalid"] {
        let environment = format!("https_proxy={} no_proxy={list}", proxy.url());
        lost.push(fetch(&environment, nowhere));
        let begin = begin(&mirror, Path::new(PACMAN), &[nowhere]);
        lost.push(run(&environment, &format!("rm -r packages; {begin}")));
    }
    let passed_by = proxy.asked().len() - before;
    server.kill().expect("our own child");
    server.wait().expect("our own child");
    for (ran, asked) in through {
        drop(ran.succeeded());
        assert!(asked > 0, "{}", ran.stderr);
    }
    let asked = proxy.asked();
    assert!(asked.iter().all(|host| host == "mirror.invalid:443"), "{asked:?}");
    refused.failed(75, "fetch-pacman: fetching ");
    assert!(!refusing.asked().is_empty());
    for ran in directly {
        drop(ran.succeeded());
    }
    for ran in lost {
        assert_eq!(ran.status, 75, "{}", ran.stderr);
    }
    assert_eq!(passed_by, 0);
}

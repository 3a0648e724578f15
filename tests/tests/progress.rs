//! Progress, of whole pipelines: what a person sees on a terminal, what a log has, and what a front end reads.
//!
//! Each phase is drawn at its beginning and at its end in any case, so nothing here depends on how long it takes.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use strapline_tests::screen::{on_lost_terminal, on_terminal, seen};
use strapline_tests::{Answer, Lab, Mirror, Ran, Request, Server, Who, pacmans};

/// A laboratory with a mirror, whose pipelines have nothing in a cache.
struct Bench {
    lab: Lab,
    mirror: Mirror,
    server: Server,
}

/// How many databases the mirror has.
const DATABASES: u64 = 2;

impl Bench {
    fn new() -> Self {
        let mirror = Mirror::of("x86_64");
        Self { lab: Lab::new(Who::Root), server: Server::of(&mirror.www()), mirror }
    }

    /// Returns the pipe up to the package bash, every stage with these options. It begins with nothing.
    fn pipe(&self, options: &str) -> String {
        let fetch = format!("--cache-dir fetched --server {}/archlinuxcn/x86_64", self.server.url());
        self.pipe_with(options, &fetch)
    }

    /// The same, with other options of fetch-pacman's.
    fn pipe_with(&self, options: &str, fetch: &str) -> String {
        format!(
            "rm -rf root root.strapline fetched packages; export SOURCE_DATE_EPOCH=1700000000
             mkroot root --arch x86_64 --distro {preset} {options} | fetch-pacman {options} {fetch} \
             | mkconf {options} --server '{url}/$arch/$repo' --cache-dir $PWD/packages --set Color \
             | keyring {options} | strap bash {options} > doc.json; cat doc.json",
            preset = self.mirror.preset().display(),
            url = self.server.url(),
        )
    }

    /// Returns what comes after it.
    fn rest(options: &str) -> String {
        format!(
            "verify --state doc.json {options} | pack -o a.tar --keep-keyring {options} \
             | mkdisk -o a.img.zst --keep-keyring --bootloader none {options} | reap {options} | unmount --remove {options}"
        )
    }
}

/// Returns the lines that are progress, and all others.
fn split(ran: &Ran) -> (Vec<Value>, Vec<&str>) {
    let (progress, others): (Vec<_>, Vec<_>) = ran.stderr.lines().partition(|line| line.starts_with('{'));
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    (progress.into_iter().map(parse).collect(), others)
}

/// Checks that the lines are phases, one after the other and each whole, and returns what they are.
#[track_caller]
fn phases(lines: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    const MEMBERS: [&str; 7] = ["tool", "phase", "done", "total", "unit", "item", "end"];
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    let mut open: Option<&Value> = None;
    for line in lines {
        let object = line.as_object().expect("an object");
        assert!(object.keys().all(|key| MEMBERS.contains(&key.as_str())), "{line}");
        let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{key}: {line}"));
        let done = line["done"].as_u64().unwrap_or_else(|| panic!("{line}"));
        assert!(line["total"].is_null() || line["total"].as_u64() >= Some(done), "{line}");
        assert!(line.get("end").is_none_or(|end| *end == true), "{line}");
        assert!(["bytes", "databases", "hooks", "packages", "steps"].contains(&text("unit")), "{line}");
        match open {
            None => assert_eq!((done, line.get("item"), line.get("end")), (0, None, None), "{line}"),
            Some(before) => {
                for same in ["tool", "phase", "total", "unit"] {
                    assert_eq!(before[same], line[same], "{line}");
                }
                assert!(before["done"].as_u64() <= Some(done), "{before} {line}");
            }
        }
        open = line.get("end").is_none().then_some(line);
        found.entry(text("tool").to_owned()).or_default().insert(text("phase").to_owned());
    }
    assert_eq!(open, None, "the last phase has no end");
    found
}

#[test]
fn a_terminal_shows_one_line_a_phase() {
    let bench = Bench::new();
    for pacman in pacmans() {
        let ran = on_terminal(&bench.lab, 80, "xterm", &bench.pipe_with("", &format!("--use {}", pacman.display())));
        let document = ran.succeeded();
        let number = document["packages"].as_array().expect("packages").len();
        let text = &ran.stderr;
        assert!(number >= 5);
        for phase in [
            format!("keyring: downloading databases [                    ] 0/{DATABASES}"),
            format!("strap: installing [                    ] 0/{number}"),
            format!("strap: installing [====================] {number}/{number} "),
            "keyring: building the keyring [====================] 5/5 ".to_owned(),
            "strap: downloading [".to_owned(),
            "strap: preparing".to_owned(),
        ] {
            assert!(text.contains(&phase), "no {phase:?} in {text:?}");
        }
        // What is drawn is cut to the terminal; pacman's own lists have its width.
        let longest = text.split(['\r', '\n']).map(|line| line.replace("\x1b[K", "").len()).max();
        assert!(longest <= Some(200), "{text:?}");
        let seen = seen(text);
        for gone in ["[=", "[ ", "[Y/n]", "Proceed"] {
            assert!(!seen.iter().any(|line| line.contains(gone)), "{gone}: {seen:#?}");
        }
        let lists: Vec<_> = seen.iter().filter(|line| line.starts_with("Packages (")).collect();
        assert_eq!(lists.len(), 2, "the keyring's and strap's: {seen:#?}");
        assert!(lists[1].starts_with(&format!("Packages ({number}) ")), "{lists:?}");
        for line in [format!("strap: downloaded {number} packages"), format!("strap: installed {number} packages")] {
            assert_eq!(seen.iter().filter(|is| **is == line).count(), 1, "{line}: {seen:#?}");
        }
    }
}

#[test]
fn a_repository_shows_how_far_it_is() {
    let bench = Bench::new();
    drop(bench.lab.sh(&bench.pipe("")).succeeded());
    let files = bench.lab.sh("find packages -name '*.pkg.tar.*' ! -name '*.sig'").stdout;
    let number = files.lines().count();
    let script =
        format!("strapline repository repo/kept.db {} ; strapline repository repo/kept.db", files.replace('\n', " "));
    let text = on_terminal(&bench.lab, 80, "xterm", &script).stderr;
    for phase in ["hashing", "writing"] {
        let whole = format!("strapline: {phase} [====================] {number}/{number}");
        assert!(number >= 5 && text.contains(&whole), "no {whole:?} in {text:?}");
    }
    // The second run reads what is there.
    let (_, second) = text.rsplit_once("writing").expect("the first run");
    assert!(second.contains(&format!("hashing [====================] {number}/{number}")), "{text:?}");
    assert!(!text.contains("0/0"), "{text:?}");
}

#[test]
fn a_message_of_another_stage_takes_the_place_of_a_bar() {
    let bench = Bench::new();
    let ran = on_terminal(&bench.lab, 80, "xterm", &bench.pipe(""));
    drop(ran.succeeded());
    let bars = ran.stderr.split_inclusive('\r').filter(|piece| piece.contains("strap: downloading ["));
    let bar = bars.max_by_key(|bar| bar.len()).expect("it is drawn").trim_start_matches('\n');
    let other = on_terminal(&bench.lab, 80, "xterm", "verify --new").stderr;
    let message = other.lines().next().expect("a message");
    assert_eq!(seen(&format!("{bar}{message}\r\n{bar}")), [seen(message), seen(bar)].concat());
    assert!(message.len() < bar.len(), "{message:?} {bar:?}");
}

#[test]
fn no_escape_where_none_is_wanted() {
    let bench = Bench::new();
    let pipe = |options| format!("{} && {{ {}; }} > rest.json", bench.pipe(options), Bench::rest(options));
    let piped = bench.lab.sh(&pipe(""));
    let dumb = on_terminal(&bench.lab, 80, "dumb", &pipe(""));
    let unknown = on_terminal(&bench.lab, 80, "", &bench.pipe(""));
    for ran in [&piped, &dumb, &unknown] {
        drop(ran.succeeded());
        assert!(!ran.stderr.contains('\x1b'), "{:?}", ran.stderr);
        assert!(ran.stderr.contains("installing bash..."), "{}", ran.stderr);
        for gone in ["[Y/n]", "[=", "installing ["] {
            assert!(!ran.stderr.contains(gone), "{}", ran.stderr);
        }
        let text = ran.stderr.replace("\r\n", "\n");
        assert!(!text.contains('\r'), "{text:?}");
    }
    assert_eq!(piped.stderr.lines().count(), dumb.stderr.lines().count(), "{}\n{}", piped.stderr, dumb.stderr);
    // --quiet is silent, wherever.
    let quiet = on_terminal(&bench.lab, 80, "xterm", &pipe("--quiet"));
    assert_eq!((quiet.status, &*quiet.stderr), (0, ""));
    let never = on_terminal(&bench.lab, 80, "xterm", &bench.pipe("--progress never"));
    assert!(never.stderr.contains("installing bash...") && !never.stderr.contains("installing ["), "{}", never.stderr);
    // Colours are asked of pacman, which is not told that there is a NO_COLOR.
    for script in [bench.pipe(""), format!("export NO_COLOR=1; {}", bench.pipe(""))] {
        let ran = on_terminal(&bench.lab, 80, "xterm", &script);
        drop(ran.succeeded());
        assert_eq!(ran.stderr.matches('\x1b').count(), ran.stderr.matches("\x1b[K").count(), "{:?}", ran.stderr);
    }
}

#[test]
fn a_narrow_terminal_and_a_lost_one_do_no_harm() {
    let bench = Bench::new();
    let packages = |ran: &Ran| ran.succeeded()["packages"].clone();
    let expected = packages(&bench.lab.sh(&bench.pipe("")));
    for columns in [0, 1, 2, 20, 1000] {
        let ran = on_terminal(&bench.lab, columns, "xterm", &bench.pipe(""));
        assert_eq!(packages(&ran), expected, "{columns}");
        let drawn =
            ran.stderr.split(['\r', '\n']).filter(|line| line.contains("\x1b[K") && line.contains(": installing"));
        for line in drawn {
            let width = if columns == 0 { 80 } else { usize::from(columns) };
            assert!(line.replace("\x1b[K", "").len() < width, "{columns}: {line:?}");
        }
    }
    assert_eq!(packages(&on_lost_terminal(&bench.lab, &bench.pipe(""))), expected);
    for options in ["", "--progress json"] {
        let script = format!("{{ {} ; }} 2> /dev/full", bench.pipe(options));
        assert_eq!(packages(&bench.lab.sh(&script)), expected, "{options}");
        let script = format!("{{ {} ; }} 2>&-", bench.pipe(options));
        assert_eq!(packages(&bench.lab.sh(&script)), expected, "{options}");
    }
}

#[test]
fn a_front_end_reads_every_phase() {
    let bench = Bench::new();
    let json = "--progress json";
    let ran = bench.lab.sh(&bench.pipe(json));
    let number = ran.succeeded()["packages"].as_array().expect("packages").len() as u64;
    let (lines, others) = split(&ran);
    let pacman = ["downloading", "downloading databases", "preparing"];
    let mut found = phases(&lines);
    let of = |more: &[&str]| pacman.iter().chain(more).map(|phase| (*phase).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(found.remove("keyring"), Some(of(&["building the keyring"])));
    assert_eq!(found.remove("fetch-pacman"), Some(["downloading".to_owned()].into()));
    let strap = found.remove("strap").expect("strap");
    assert!(strap.is_superset(&of(&["installing"])), "{strap:?}");
    assert_eq!(found, BTreeMap::new());
    let ends = |phase: &str| {
        lines.iter().find(|line| line["phase"] == phase && line["end"] == true && line["tool"] == "strap")
    };
    let end = ends("installing").expect("it ends");
    assert_eq!((&end["done"], &end["total"]), (&number.into(), &number.into()));
    let end = ends("downloading databases").expect("it ends");
    assert_eq!((&end["done"], &end["total"]), (&DATABASES.into(), &DATABASES.into()));
    assert!(ends("downloading").expect("it ends")["done"].as_u64() > Some(1 << 20));
    // What progress says needs no line of its own; all else is as it was.
    assert!(others.iter().any(|line| line.starts_with("Packages (")), "{others:#?}");
    assert!(!others.iter().any(|line| line.starts_with("installing ")), "{others:#?}");

    let ran = bench.lab.sh(&format!("{{ {}; }} > rest.json", Bench::rest(json)));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let found = phases(&split(&ran).0);
    let expected = [
        ("mkdisk", vec!["compressing", "hashing", "writing"]),
        ("pack", vec!["packing"]),
        ("unmount", vec!["deleting"]),
        ("verify", vec!["verifying"]),
    ];
    let expected = expected.map(|(tool, phases)| (tool.to_owned(), phases.into_iter().map(str::to_owned).collect()));
    assert_eq!(found, BTreeMap::from(expected));

    // Nothing else, where nothing else is wanted; and a phase that fails has an end.
    let quiet = bench.lab.sh(&bench.pipe("--quiet --progress json"));
    drop(quiet.succeeded());
    let (lines, others) = split(&quiet);
    assert_eq!(others, Vec::<&str>::new());
    assert!(phases(&lines).contains_key("strap"));
    let failed = bench.lab.sh("strap --state doc.json --progress json no-such-package");
    assert_eq!(failed.status, 69, "{}", failed.stderr);
    let (lines, others) = split(&failed);
    assert!(phases(&lines).contains_key("strap"));
    assert!(others.iter().any(|line| line.starts_with("strap: running pacman to download: ")), "{others:#?}");
}

#[test]
fn lines_of_json_are_few() {
    let bench = Bench::new();
    drop(bench.lab.sh(&bench.pipe("--quiet")).succeeded());
    let begin = std::time::Instant::now();
    let ran = bench.lab.sh("verify --state doc.json --progress json");
    let seconds = begin.elapsed().as_secs_f64();
    let lines = split(&ran).0;
    let packages = ran.succeeded()["packages"].as_array().expect("packages").len();
    // Each package is two updates; the beginning and the end of the phase are shown in any case.
    assert!(lines.len() as f64 <= 3.0 + 10.0 * seconds, "{} lines in {seconds} s: {packages} packages", lines.len());
    assert!(lines.len() >= 2);
}

#[test]
fn a_failure_is_the_same_on_a_terminal() {
    let mut bench = Bench::new();
    let is_bash = |request: &Request| request.path.contains("/bash-") && !request.path.ends_with(".sig");
    let refuse = move |request: &Request| match is_bash(request) {
        true => Answer::Status(404, ""),
        false => Answer::Serve,
    };
    bench.server = Server::lying(&bench.mirror.www(), refuse);
    for pacman in pacmans() {
        let pipe = bench.pipe_with("", &format!("--use {}", pacman.display()));
        let piped = bench.lab.sh(&pipe);
        let shown = on_terminal(&bench.lab, 80, "xterm", &pipe);
        let error = |ran: &Ran| ran.document()["error"].clone();
        assert_eq!(error(&piped)["code"], "network", "{}", piped.stderr);
        assert_eq!(error(&shown), error(&piped), "{:?}", shown.stderr);
        // pacman's own words, too.
        let of_pacman = |line: &str| line.starts_with("error: failed retrieving file 'bash-");
        assert!(piped.stderr.lines().any(of_pacman), "{}", piped.stderr);
        assert!(seen(&shown.stderr).iter().any(|line| of_pacman(line)), "{:?}", shown.stderr);
    }
}

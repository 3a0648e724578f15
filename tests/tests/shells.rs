//! `strapline`, the one name in PATH: it runs the tools from where they are, and shells complete their command lines.

use serde_json::json;
use strapline_tests::{Lab, TOOLS, Who, bin_dir, top};

/// Puts the tools where a package has them: one name in `usr/bin`, the others in `usr/lib/strapline`.
fn install(lab: &Lab) {
    let make =
        format!("make -s -C {} BIN={} PREFIX=/usr DESTDIR=$PWD/package install", top().display(), bin_dir().display());
    assert_eq!(lab.sh(&make).status, 0);
}

#[test]
fn one_name_in_path_runs_every_tool() {
    let lab = Lab::new(Who::Root);
    install(&lab);
    let run = |words: &str| lab.sh(&format!("env -i PATH=$PWD/package/usr/bin:/usr/bin:/bin strapline {words}"));
    let list = run("");
    assert_eq!(list.status, 0, "{list:?}");
    for tool in TOOLS {
        assert_eq!(run(&format!("{tool} --version")).stdout, format!("{tool} {}\n", env!("CARGO_PKG_VERSION")));
        let line = list.stdout.lines().find(|line| line.split(' ').next() == Some(tool));
        assert!(line.is_some_and(|line| line.len() > 30), "{tool}: {list:?}");
    }
    let path = lab.sh("readlink -f package/usr/lib/strapline").stdout;
    assert_eq!(run("path").stdout, path);
    // A tool's own status, document and messages.
    run("mkroot --nosuch").failed(64, "mkroot: unexpected argument '--nosuch' found");
    let ran = run("mkroto");
    assert_eq!((ran.status, ran.stdout.as_str()), (64, ""));
    assert!(
        ran.stderr.contains("there is no tool 'mkroto'") && ran.stderr.contains("did you mean 'mkroot'?"),
        "{ran:?}"
    );
    assert_eq!(lab.sh("rm package/usr/lib/strapline/pack").status, 0);
    let ran = run("pack -o x");
    assert_eq!(ran.status, 69, "{ran:?}");
    assert!(ran.stderr.ends_with("/usr/lib/strapline/pack': No such file or directory (os error 2)\n"), "{ran:?}");
}

/// What `make install` copied is all that `make uninstall` removes, and neither builds.
#[test]
fn what_is_installed_can_be_uninstalled() {
    let lab = Lab::new(Who::Root);
    install(&lab);
    let files = lab.sh("cd package && find . -type f | sort").stdout;
    let in_path: Vec<_> = files.lines().filter(|file| file.starts_with("./usr/bin/")).collect();
    assert_eq!(in_path, ["./usr/bin/strapline"]);
    // No page or program has a name that other packages have.
    let named = |file: &&str| file.starts_with("./usr/share/man/") && !file.contains("/strapline");
    assert_eq!(files.lines().filter(named).collect::<Vec<_>>(), [""; 0]);
    let page = lab.sh("cat package/usr/share/man/man8/strapline-mkroot.8").stdout;
    assert!(page.contains(".Xr strapline-fetch-pacman 8") && page.contains(".Xr strapline 7"), "{page}");
    let make =
        |goal: &str| format!("make -s -C {} BIN=/nonexistent PREFIX=/usr DESTDIR=$PWD/package {goal}", top().display());
    assert_eq!(lab.sh(&make("uninstall")).status, 0);
    assert_eq!(lab.sh("find package -type f").stdout, "");
    let ran = lab.sh(&make("install"));
    assert_ne!(ran.status, 0);
    assert!(ran.stderr.contains("hint: build it first, without sudo: 'make build'"), "{ran:?}");
}

/// A document is shown as text and as a page; what stands in it may be a mirror's or a root's.
#[test]
fn a_receipt_is_shown_to_a_person() {
    let lab = Lab::new(Who::Root);
    let package = |name: &str, verified: bool| json!({"name": name, "version": "1-1", "arch": "any", "verified": verified, "sha256": "0", "size": 1});
    let document = json!({
        "strapline": 1, "root": "/srv/<b>&", "arch": "aarch64", "distro": "archlinuxarm", "mode": "user",
        "packages": [package("bash", true), package("\u{1b}[2J<script>", false)],
        "steps": [{"tool": "mkroot", "started": 1.0e9, "seconds": 0.5, "child_seconds": 0.25}, {"tool": "strap", "seconds": 1.5}],
        "error": {"tool": "strap", "code": "failed", "message": "it is <broken>", "exit": 69},
    });
    std::fs::write(lab.path().join("r.json"), document.to_string()).expect("our own directory");
    let ran = lab.sh("strapline receipt r.json");
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    for line in [
        "  FAILED         strap: it is <broken>",
        "  architecture   aarch64",
        "  begun          2001-09-09T01:46:40Z",
        "  packages       1 of 2",
        "  not verified   \\u{1b}[2J<script>",
        "  mkroot             0.500     0.250",
        "  all                2.000     0.250   our own: 87.5 %",
    ] {
        assert!(ran.stdout.lines().any(|l| l == line), "{line}: {}", ran.stdout);
    }
    let page = lab.sh("strapline receipt --html r.json").stdout;
    assert!(page.contains("<h1>/srv/&lt;b&gt;&amp;</h1>") && page.contains("it is &lt;broken&gt;"), "{page}");
    assert!(!page.contains("<script") && !page.contains("<broken") && page.ends_with("</html>\n"), "{page}");
    assert_eq!(page.matches("fill=\"#1793d1\"").count(), 2);
    let ran = lab.sh("echo '{}' > r.json; strapline receipt r.json");
    assert_eq!((ran.status, ran.stdout.as_str()), (65, ""), "{ran:?}");
    assert_eq!(lab.sh("strapline receipt none.json").status, 64);
}

/// Command lines, and words that each shell must offer for them.
const COMPLETED: [(&str, &str); 5] = [
    ("mkroot --arch ri", "riscv64"),
    ("mkroot --distro archlinuxa", "archlinuxarm"),
    ("strapline mkd", "mkdisk"),
    ("strapline unmount --rem", "--remove"),
    ("strapline doctor --arch loo", "loong64"),
];

fn offered(shell: &str, script: &str) {
    let lab = Lab::new(Who::Root);
    for (line, word) in COMPLETED {
        let ran = lab.sh(&format!("line='{line}'; export line; {script}"));
        assert!(ran.stdout.contains(word), "{shell}: '{line}': {ran:?}");
    }
}

#[test]
fn bash_completes() {
    offered(
        "bash",
        r#"bash -c 'eval "$(strapline completions bash)"
            read -ra COMP_WORDS <<<"$line"
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
            function=$(complete -p "${COMP_WORDS[0]}" | sed "s/.*-F \([^ ]*\).*/\1/")
            $function "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}"
            echo "${COMPREPLY[@]}"'"#,
    );
}

#[test]
fn fish_completes() {
    offered("fish", r#"HOME=$PWD fish -c 'strapline completions fish | source; complete -C "$line"'"#);
}

/// zsh completes only where it has a terminal, which zpty gives it. All of a PID namespace end with its first process.
#[test]
fn zsh_completes() {
    offered(
        "zsh",
        r#"unshare --pid --fork zsh -f -c 'zmodload zsh/zpty
            zpty shell zsh -f -i
            zpty -w shell "PS1=; autoload -U compinit; compinit -u -D; eval \"\$(strapline completions zsh)\"; echo rea\"\"dy"
            zpty -r shell out "*ready*"
            # The completed line becomes what printf prints between two @.
            zpty -w -n shell "$line"$'\''\t\C-aprintf "\\100%s\\100" "\C-e"\n'\''
            zpty -r shell out "*@*@*"; print -r -- "$out"'"#,
    );
}

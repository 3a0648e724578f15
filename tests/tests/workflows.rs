//! What examples/ci.yml and docs/scale.md have others run: their YAML and Starlark are parsed, and the shell in them is run here.

use crate::containers::contained;
use crate::examples::bench;
use serde_json::Value;
use std::fs;
use std::process::Command;
use strapline_tests::{Lab, Mirror, Ran, Who, bin_dir, top};

/// Reads YAML; all scalars are text.
const YAML: &str = "import json, sys, yaml; print(json.dumps(yaml.load(sys.stdin, yaml.BaseLoader)))";

/// Reads a call of Starlark, which Python's parser takes, but for what its `srcs` are.
const STARLARK: &str = "import ast, json, sys
call, = (node.value for node in ast.parse(sys.stdin.read()).body)
print(json.dumps({one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg != 'srcs'}))";

fn parsed(program: &str, text: &str) -> Value {
    let ran = Ran::of(Command::new("python3").args(["-c", program]), text);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).expect("JSON")
}

/// Returns the blocks of docs/scale.md in a language.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(top().join("docs/scale.md")).expect("our own page");
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

/// Replaces the expressions of a workflow, each of which must be known.
fn expanded(text: &str, known: &[(&str, &str)]) -> String {
    let mut parts = text.split("${{ ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" }}").expect("the end of an expression");
        let (_, value) = known.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}"));
        out += value;
        out += rest;
    }
    out
}

/// Runs a script as a runner does, in a checkout, and with a sudo that asks nothing.
#[track_caller]
fn run_step(lab: &Lab, script: &str) {
    fs::write(lab.path().join("step"), script).expect("our own directory");
    let ran = lab.sh("mkdir -p runner && printf '#!/bin/sh\\nexec \"$@\"\\n' > runner/sudo \
         && printf '#!/bin/sh\\necho 1700000000\\n' > runner/git && chmod 755 runner/sudo runner/git \
         && PATH=$PWD/runner:$PATH bash -e step");
    assert_eq!(ran.status, 0, "{script}\n{}", ran.stderr);
}

/// Returns the receipt of a root that was finished.
fn receipt(lab: &Lab, name: &str) -> Value {
    let document: Value =
        serde_json::from_slice(&fs::read(lab.path().join(name)).expect("a receipt")).expect("a document");
    strapline_tests::schema::check(&document);
    assert_eq!(document.get("error"), None);
    assert!(!list(&document["archives"]).is_empty(), "{document}");
    document
}

#[test]
fn the_workflow_of_ci_yml() {
    let (lab, _server) = bench(Who::User, "x86_64");
    let workflow = fs::read_to_string(top().join("examples/ci.yml")).expect("our own example");
    let job = &parsed(YAML, &workflow)["jobs"]["root"];
    for row in list(&job["strategy"]["matrix"]["include"]) {
        let (distro, arch) = (text(&row["distro"]), text(&row["arch"]));
        let ran = lab.sh(&format!("mkconf --print strict --distro {distro} --arch {arch}"));
        assert_eq!((ran.status, text(&row["keyring"]).ends_with("-keyring")), (0, true), "{row}: {}", ran.stderr);
    }
    let known = [
        ("matrix.distro", "preset.toml"),
        ("matrix.arch", "x86_64"),
        ("matrix.keyring", "archlinux-keyring"),
        ("github.run_id", "1"),
    ];
    expanded(&workflow, &known);
    let mut left = Vec::new();
    for step in list(&job["steps"]) {
        match (step["run"].as_str(), step["name"].as_str()) {
            (Some(_), Some("build")) | (None, _) => left.push(step["uses"].as_str().unwrap_or("build")),
            (Some(script), _) => run_step(&lab, &expanded(script, &known)),
        }
    }
    assert_eq!(left, ["actions/checkout@v4", "actions/cache@v4", "build", "actions/upload-artifact@v4"]);
    let document = receipt(&lab, "root.json");
    assert!(list(&document["packages"]).iter().any(|package| package["name"] == "base"));
    assert!(lab.path().join("root.tar.zst").exists() && lab.path().join("packages/databases").exists());
}

#[test]
fn the_workflow_for_many_boards() {
    let (lab, server) = bench(Who::User, "x86_64");
    let page = &blocks("yaml")[0];
    let workflow = parsed(YAML, page);
    let jobs = &workflow["jobs"];
    let matrix = &jobs["board"]["strategy"]["matrix"];
    let targets = |rows: &Value| -> Vec<(String, String)> {
        let pair = |row: &Value| (text(&row["distro"]).to_owned(), text(&row["arch"]).to_owned());
        list(rows).iter().map(pair).collect()
    };
    // Each board has a base.
    assert_eq!(targets(&matrix["include"]), targets(&jobs["base"]["strategy"]["matrix"]["include"]));
    let arches: Vec<_> = targets(&matrix["include"]).into_iter().map(|(_, arch)| arch).collect();
    assert_eq!(list(&matrix["arch"]), arches);
    assert_eq!((text(&jobs["board"]["needs"]), list(&matrix["board"]).len()), ("base", 2));
    let known = [
        ("matrix.distro", "preset.toml"),
        ("matrix.arch", "x86_64"),
        ("matrix.base", "filesystem bash coreutils shadow"),
        ("matrix.board", "red"),
        ("github.run_id", "1"),
    ];
    expanded(page, &known);
    let ours = bin_dir().display().to_string();
    let boards = text(&workflow["env"]["BOARDS"]).replace("/usr/lib/strapline", &ours);
    assert!(boards.contains(&ours), "{boards}");
    let ran = lab.sh("ln -s . examples");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for name in ["base", "board"] {
        let step = list(&jobs[name]["steps"]).iter().find(|step| step["name"] == name).expect("a step");
        let script = expanded(text(&step["run"]), &known);
        run_step(&lab, &format!("export MIRROR='{}' BOARDS='{boards}'\n{script}", server.url()));
    }
    assert_eq!(receipt(&lab, "red.json")["base"]["checked"], "receipt");
    assert!(lab.path().join("base.tar.zst").exists() && lab.path().join("red.tar.zst").exists());
}

#[test]
fn the_job_of_kubernetes() {
    let (lab, _server) = bench(Who::Root, "x86_64");
    let job = parsed(YAML, &blocks("yaml")[1]);
    let spec = &job["spec"];
    assert_eq!((text(&spec["completions"]), text(&spec["completionMode"])), ("2", "Indexed"));
    let container = &spec["template"]["spec"]["containers"][0];
    // Nothing but what docker's default permits.
    let context = &container["securityContext"];
    assert_eq!((&context["privileged"], &context["capabilities"]), (&Value::Null, &Value::Null));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let home = lab.path().display().to_string();
    let words: Vec<&str> = list(&container["command"]).iter().chain(list(&container["args"])).map(text).collect();
    let ["sh", "-euc", script] = words[..] else { panic!("{words:?}") };
    let script = script.replace("/cache", &format!("{home}/cache"));
    let script = script.replace("/usr/share/strapline/examples", &home);
    let mut env = format!("export MIRROR='file://{}'\n", Mirror::of("x86_64").www().display());
    for one in list(&container["env"]) {
        let value = text(&one["value"]).replace("archlinux", &format!("{home}/preset.toml"));
        env += &format!("export {}='{value}'\n", text(&one["name"]));
    }
    let base = format!(
        "{env} mkdir -p cache && cd cache && make --silent -f {home}/boards.mk MODE=--chroot base.json \
         BASE='filesystem bash coreutils shadow'"
    );
    let ran = contained(&lab, "docker", &base);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for (index, name) in ["red", "blue"].iter().enumerate() {
        let pod = format!("{env} mkdir work{index} && cd work{index}\nexport JOB_COMPLETION_INDEX={index}\n{script}");
        let ran = contained(&lab, "docker", &format!("set -eu\n{pod}"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let document = receipt(&lab, &format!("cache/{name}.json"));
        assert_eq!((&document["mode"], &document["base"]["checked"]), (&"chroot".into(), &"receipt".into()));
        let list = lab.sh(&format!("tar -xOf cache/{name}.tar.zst etc/hostname"));
        assert_eq!(list.stdout, format!("{name}\n"));
    }
}

#[test]
fn the_action_of_remote_execution() {
    let (lab, server) = bench(Who::Root, "x86_64");
    let ran = lab.sh(&format!("set -eu; mkdir in; cp preset.toml in; cd in; DISTRO=preset.toml\n{}", blocks("sh")[0]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    drop(server);
    let rule = parsed(STARLARK, &blocks("python")[0]);
    let [out] = list(&rule["outs"]) else { panic!("{rule}") };
    let mut command = text(&rule["cmd"]).replace("$@", text(out));
    while let Some((before, rest)) = command.split_once("$(location ") {
        let (file, after) = rest.split_once(')').expect("an end");
        command = format!("{before}../in/{file}{after}");
    }
    let command = command.replace("$$", "$");
    let archives = ["first", "second"].map(|place| {
        // Bazel runs bash this way.
        let action = format!("mkdir {place} && cd {place} && exec bash -euo pipefail -c '{command}'");
        assert!(!command.contains('\''), "{command}");
        let ran = contained(&lab, "docker", &action);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let document = receipt(&lab, &format!("{place}/board.json"));
        let names = list(&document["packages"]).iter().map(|package| text(&package["name"]));
        assert!(names.filter(|name| ["bash", "nano"].contains(name)).count() == 2, "{document}");
        assert!(!lab.path().join(place).join("root").exists());
        fs::read(lab.path().join(place).join("board.tar.zst")).expect("an archive")
    });
    assert_eq!(archives[0], archives[1], "another archive of the same inputs");
}

//! The receipt as provenance of the archives and disks that were made: an in-toto Statement v1 with the predicate SLSA
//! Provenance v1, as JSON.
//!
//! What is in it is in the receipt, and the same receipt gives the same bytes. The parameters are members of the receipt, by
//! their names: strapline(8) documents them, as a build type has to be.

use super::bill::{Bill, encoded, facts};
use super::{Known, steps};
use serde_json::{Map, Value, json};
use stage::members::{
    Arch, Archive, Base, Binfmt, Config, Configured, Disk, Distro, Keyring, Member, Mode, Overlays, Package, Pacman,
    Step, Strap,
};
use stage::message::without_password;
use stage::{Code, Document, Failure, date, quote};
use std::path::Path;

/// The default of `--builder`. The project has no address of its own, so this is a package URL.
pub(crate) const BUILDER: &str = "pkg:generic/strapline";

/// What the parameters mean.
const BUILD_TYPE: &str = "pkg:generic/strapline#provenance/v1";

const DOING: &str = "making provenance";

/// Tools that change neither a root nor what the document says of how it was made.
const READERS: [&str; 5] = ["pack", "mkdisk", "verify", "reap", "unmount"];

/// A file that was made.
struct Output {
    /// Its absolute path.
    file: String,
    sha256: Option<String>,
    /// The tool that made it.
    tool: &'static str,
    /// What the document has of it that was chosen.
    member: Value,
}

/// Returns a Statement whose predicate names `builder`, a URI.
///
/// # Errors
///
/// [`Code::BadDocument`] where a run failed, nothing was made, the SHA-256 of an output is not known, or the root was changed
/// after an output was written: the document is of another root then.
pub(crate) fn provenance(document: &Document, builder: &str) -> Result<String, Failure> {
    if let Some(error) = document.error() {
        let why = format!("{DOING}: the document is of a run that failed, in {}", quote(error.tool));
        return Err(Failure::new(Code::BadDocument, why).hint("give the document of a run that succeeded"));
    }
    let bill = Bill::of(document, DOING)?;
    let (steps, outputs) = (steps(document), outputs(document));
    if outputs.is_empty() {
        let failure = Failure::new(Code::BadDocument, format!("{DOING}: the document has no archives and no disks"));
        return Err(failure.hint("put 'pack' or 'mkdisk' at the end of the pipe"));
    }
    let (first, other): (Vec<&Output>, Vec<&Output>) = outputs.iter().partition(|output| output.tool == "pack");
    [first, other].iter().try_for_each(|of_tool| refuse_changed(&steps, of_tool))?;
    let names = names(&outputs);
    let subjects: Result<Vec<Value>, Failure> = outputs.iter().zip(&names).map(subject).collect();
    let versions: Map<String, Value> =
        bill.tools.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
    let begun = steps.iter().map(|step| step.started).find(|started| *started > 0.0).unwrap_or_default();
    let text = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects?,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external(document, &bill, &outputs, &names),
                "internalParameters": internal(document, &steps),
                "resolvedDependencies": dependencies(document, &bill)?,
            },
            "runDetails": {
                "builder": {"id": builder, "version": versions},
                // A number of a document may be any; seconds since 1970 are whole and positive.
                "metadata": {"startedOn": date::time(begun as u64), "finishedOn": bill.created},
            },
        },
    });
    // Documents of earlier versions have them.
    Ok(without_password(&format!("{text:#}\n")))
}

/// Returns what the document says was made, in order.
fn outputs(document: &Document) -> Vec<Output> {
    let archives: Vec<Archive> = document.get().unwrap_or_default();
    let disks: Vec<Disk> = document.get().unwrap_or_default();
    let archives = archives.into_iter().map(|one| Output {
        member: without(json!(&one), &["file", "sha256", "size", "entries"]),
        file: one.file,
        sha256: Some(one.sha256),
        tool: "pack",
    });
    let disks = disks.into_iter().map(|one| Output {
        member: without(json!(&one), &["file", "sha256", "size", "partitions", "boot"]),
        file: one.file.display().to_string(),
        sha256: one.sha256,
        tool: "mkdisk",
    });
    archives.chain(disks).collect()
}

/// Fails where a tool changed the root after one wrote these outputs.
fn refuse_changed(steps: &[Step], outputs: &[&Output]) -> Result<(), Failure> {
    let Some(output) = outputs.first() else {
        return Ok(());
    };
    let is_run = |step: &Step| step.tool == output.tool;
    // Which of several runs wrote which of several files is not in the document.
    let wrote = match outputs {
        [_] => steps.iter().rposition(is_run),
        _ => steps.iter().position(is_run),
    };
    let wrong = |why: String| Err(Failure::new(Code::BadDocument, format!("{DOING}: {why}")));
    let Some(wrote) = wrote else {
        return wrong(format!("the document has no step of '{}', which wrote {}", output.tool, quote(&output.file)));
    };
    match steps[wrote..].iter().find(|step| !READERS.contains(&step.tool.as_str())) {
        Some(step) => {
            let why = format!("{} ran after '{}' wrote {}", quote(&step.tool), output.tool, quote(&output.file));
            wrong(why).map_err(|failure| failure.hint(format!("give the document as '{}' wrote it", output.tool)))
        }
        None => Ok(()),
    }
}

/// Returns the outputs' names: of their files, and where two have one name, their paths.
fn names(outputs: &[Output]) -> Vec<String> {
    let name = |file: &str| file.rsplit('/').next().unwrap_or_default().to_owned();
    let all: Vec<String> = outputs.iter().map(|output| name(&output.file)).collect();
    let is_only = |name: &String| all.iter().filter(|other| *other == name).count() == 1;
    let one = |(name, output): (&String, &Output)| if is_only(name) { name.clone() } else { output.file.clone() };
    all.iter().zip(outputs).map(one).collect()
}

fn subject((output, name): (&Output, &String)) -> Result<Value, Failure> {
    let Some(sha256) = &output.sha256 else {
        let why = format!("{DOING}: the document has no SHA-256 of {}", quote(&output.file));
        let hint = "mkdisk hashes no raw image with more than 4 GiB of holes: write another format, as x.img.zst";
        return Err(Failure::new(Code::BadDocument, why).hint(hint));
    };
    Ok(json!({"name": name, "digest": digest(sha256, &output.file)?}))
}

/// Returns a DigestSet.
fn digest(sha256: &str, what: &str) -> Result<Value, Failure> {
    match sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(json!({"sha256": sha256.to_lowercase()})),
        false => {
            let why = format!("{DOING}: the document's SHA-256 of {} is not 64 hexadecimal digits", quote(what));
            Err(Failure::new(Code::BadDocument, why))
        }
    }
}

/// Returns an object without some of its members.
fn without(mut value: Value, members: &[&str]) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !members.contains(&name.as_str()));
    }
    value
}

/// Returns what the user chose. `names` are those of the outputs.
fn external(document: &Document, bill: &Bill, outputs: &[Output], names: &[String]) -> Value {
    fn put<T: Member>(into: &mut Map<String, Value>, value: Option<T>, leave_out: &[&str]) {
        into.extend(value.map(|value| (T::NAME.to_owned(), without(json!(value), leave_out))));
    }
    let mut all = Map::new();
    put(&mut all, document.get::<Distro>(), &[]);
    put(&mut all, document.get::<Overlays>(), &[]);
    put(&mut all, document.get::<Arch>(), &[]);
    put(&mut all, document.get::<Config>(), &["strict", "loose", "cache", "gpgdir"]);
    let keyring: Option<Keyring> = document.get();
    let own = keyring.iter().flat_map(|keyring| &keyring.own);
    let own: Vec<String> = own.map(|key| key.fingerprint.clone()).collect();
    put(&mut all, keyring, &["dir", "own", "stripped"]);
    if !own.is_empty() {
        all["keyring"]["own"] = json!(own);
    }
    put(&mut all, document.get::<Strap>(), &[]);
    put(&mut all, document.get::<Configured>(), &["changed"]);
    let asked = bill.packages.iter().filter(|known| known.package.reason.as_deref() == Some("explicit"));
    all.insert("packages".to_owned(), asked.map(|known| known.package.name.clone()).collect());
    for (member, tool) in [(Vec::<Archive>::NAME, "pack"), (Vec::<Disk>::NAME, "mkdisk")] {
        let of_tool = outputs.iter().zip(names).filter(|(output, _)| output.tool == tool);
        let list: Vec<Value> = of_tool
            .map(|(output, name)| {
                let mut one = output.member.clone();
                one["name"] = json!(name);
                one
            })
            .collect();
        if !list.is_empty() {
            all.insert(member.to_owned(), Value::Array(list));
        }
    }
    Value::Object(all)
}

/// Returns how the tools worked.
fn internal(document: &Document, steps: &[Step]) -> Value {
    let run = |step: &Step| json!({"tool": step.tool, "version": step.version});
    let mut all = json!({"steps": steps.iter().map(run).collect::<Vec<_>>()});
    for (name, value) in [
        (Mode::NAME, document.get::<Mode>().map(|mode| json!(mode))),
        (Binfmt::NAME, document.get::<Binfmt>().map(|binfmt| json!(binfmt))),
    ] {
        if let Some(value) = value {
            all[name] = value;
        }
    }
    all
}

/// Returns what went into the outputs: a ResourceDescriptor each, with a URI or a digest, as each has to have.
fn dependencies(document: &Document, bill: &Bill) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    if let Some(base) = document.get::<Base>() {
        let name = base.file.rsplit('/').next().unwrap_or_default();
        let mut one = json!({"name": name, "digest": digest(&base.sha256, &base.file)?,
            "downloadLocation": file_url(&base.file), "annotations": {"checked": base.checked}});
        if let Some(key) = base.key {
            one["annotations"]["signed-by"] = json!(key);
        }
        all.push(one);
    }
    if let Some(pacman) = document.get::<Pacman>() {
        if let Some(package) = &pacman.package {
            let location = format!("{}/{}", package.server, encoded(&package.file));
            let mut one = json!({"name": package.file, "digest": digest(&package.sha256, &package.file)?,
                "downloadLocation": location, "annotations": {"repository": package.repo}});
            if let Some(key) = &package.signed_by {
                one["annotations"]["signed-by"] = json!(key);
            }
            all.push(one);
        }
        let path = pacman.path.display().to_string();
        all.push(json!({"name": "pacman", "digest": digest(&pacman.sha256, &path)?,
            "annotations": {"version": pacman.version, "trust": pacman.trust}}));
    }
    // What a base brought is from its mirrors.
    let config: Option<Config> = document.get().filter(|_| document.get::<Base>().is_none());
    for known in &bill.packages {
        all.push(package(known, bill, config.as_ref())?);
    }
    for file in &bill.tree {
        if let Some(sha256) = &file.sha256 {
            let path = format!("/{}", file.path);
            all.push(json!({"digest": digest(sha256, &path)?, "name": path,
                "annotations": {"laid-by": file.tool, "from": file.from}}));
        }
    }
    Ok(all)
}

fn package(known: &Known, bill: &Bill, config: Option<&Config>) -> Result<Value, Failure> {
    let package = &known.package;
    let mut one = json!({"name": package.file.as_deref().unwrap_or(&package.name)});
    let url = bill.url(known).or_else(|| {
        // Not the distribution's, and without a hash: this is all that is known.
        let (name, version) = (encoded(&package.name), encoded(&package.version));
        package.sha256.is_none().then(|| format!("pkg:generic/{name}@{version}?arch={}", encoded(&package.arch)))
    });
    if let Some(url) = url {
        one["uri"] = json!(url);
    }
    if let Some(sha256) = &package.sha256 {
        one["digest"] = digest(sha256, &package.name)?;
    }
    if let Some(location) = location(package, config) {
        one["downloadLocation"] = json!(location);
    }
    let facts = facts(known).into_iter().map(|(name, value)| (name.to_owned(), json!(value)));
    one["annotations"] = Value::Object(facts.collect());
    Ok(one)
}

/// Returns where a package's archive was given from, or, with the configuration that it was installed with, where it is on the first
/// server of its repository.
fn location(package: &Package, config: Option<&Config>) -> Option<String> {
    if let Some(origin) = &package.origin {
        let is_path = Path::new(origin).is_absolute();
        return Some(if is_path { file_url(origin) } else { origin.clone() });
    }
    let (config, repo) = (config?, package.repo.as_deref()?);
    let repository = config.repositories.iter().find(|repository| repository.name == repo)?;
    let server = repository.servers.first()?;
    // As pacman has it: `$arch` is the first one.
    let server = server.replace("$repo", repo).replace("$arch", config.architecture.first()?);
    Some(format!("{}/{}", server.trim_end_matches('/'), encoded(package.file.as_deref()?)))
}

/// Returns the URL of a file of this host.
fn file_url(path: &str) -> String {
    format!("file://{}", path.split('/').map(encoded).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(tool: &str) -> Value {
        json!({"tool": tool, "version": "0.3.0", "started": 1_750_000_000.5, "seconds": 1.5})
    }

    /// A document of these outputs and steps.
    fn document(archives: Value, disks: Value, tools: &[&str]) -> Value {
        json!({"strapline": 1, "root": "/r", "distro": "archlinuxarm", "arch": "aarch64", "mode": "user",
            "base": {"file": "/b/base 1.tar", "size": 1, "sha256": "05".repeat(32), "checked": "nothing", "entries": 1},
            "pacman": {"path": "/p", "version": "7.1", "sha256": "01".repeat(32), "trust": "signature",
                "package": {"name": "pacman-static", "version": "7-1", "repo": "cn", "file": "p-1:7.pkg.tar.xz",
                    "sha256": "02".repeat(32), "server": "https://me:word@c", "signed_by": "FE"}},
            "config": {"strict": "/s", "loose": "/l", "cache": "/c", "architecture": ["aarch64", "any"],
                "repositories": [{"name": "core", "publisher": "archlinuxarm", "siglevel": "Required",
                    "servers": ["https://me:word@h/$arch/$repo", "https://i"]}]},
            "keyring": {"dir": "/k", "populated": ["archlinuxarm"], "trusted": ["AA"],
                "own": [{"fingerprint": "BB", "key": "-----BEGIN"}]},
            "packages": [
                {"name": "gtk+", "version": "1:2-1", "arch": "aarch64", "repo": "core", "file": "gtk+-1:2-1.pkg",
                    "sha256": "AB".repeat(32), "reason": "explicit", "verified": true},
                {"name": "own", "version": "1-1", "arch": "any", "repo": "strapline-unsigned", "file": "own.pkg",
                    "origin": "/o/own #1.pkg", "sha256": "03".repeat(32), "reason": "explicit", "verified": false},
                {"name": "by-hand", "version": "1-1", "arch": "any", "repo": "strapline-local", "verified": false}],
            "tree": [{"path": "etc/x", "type": "file", "mode": "0644", "uid": 0, "gid": 0, "sha256": "04".repeat(32),
                "from": "t", "tool": "configure"}],
            "configured": {"hostname": "h", "mirrors": ["https://me:word@m/$repo"], "changed": {"hostname": ["/etc/hostname"]}},
            "archives": archives, "disks": disks, "steps": tools.iter().copied().map(step).collect::<Vec<_>>()})
    }

    fn archive(file: &str) -> Value {
        json!({"file": file, "format": "tar.zst", "size": 1, "sha256": "0A".repeat(32), "entries": 2})
    }

    fn disk(file: &str) -> Value {
        json!({"file": file, "size": 1, "partitions": [], "board": "rpi", "sha256": "0b".repeat(32)})
    }

    fn make(document: &Value) -> Result<Value, Failure> {
        let document = Document::parse(document.to_string().as_bytes(), "x").unwrap();
        provenance(&document, "https://example.org/ci").map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn the_statement_says_what_the_receipt_says() {
        let tools = ["mkroot", "strap", "pack", "mkdisk", "unmount"];
        let document = document(json!([archive("/o/x.tar.zst")]), json!([disk("/o/x.img")]), &tools);
        let made = make(&document).unwrap();
        assert_eq!(made["subject"][0], json!({"name": "x.tar.zst", "digest": {"sha256": "0a".repeat(32)}}));
        assert_eq!(made["subject"][1], json!({"name": "x.img", "digest": {"sha256": "0b".repeat(32)}}));
        let definition = &made["predicate"]["buildDefinition"];
        let external = &definition["externalParameters"];
        assert_eq!(external["packages"], json!(["gtk+", "own"]));
        assert_eq!(external["keyring"]["own"], json!(["BB"]));
        assert_eq!(external["configured"], json!({"hostname": "h", "mirrors": ["https://m/$repo"]}));
        assert_eq!(external["disks"], json!([{"board": "rpi", "name": "x.img"}]));
        assert_eq!(external["config"]["repositories"][0]["servers"], json!(["https://h/$arch/$repo", "https://i"]));
        assert!(!made.to_string().contains("word@"), "{made}");
        assert_eq!(definition["internalParameters"]["steps"][1], json!({"tool": "strap", "version": "0.3.0"}));
        let dependencies = definition["resolvedDependencies"].as_array().unwrap();
        let of = |name: &str| dependencies.iter().find(|one| one["name"] == name).unwrap();
        let location = |name: &str| of(name)["downloadLocation"].as_str().unwrap();
        assert_eq!(location("base 1.tar"), "file:///b/base%201.tar");
        assert_eq!(location("p-1:7.pkg.tar.xz"), "https://c/p-1:7.pkg.tar.xz");
        // The base may have it from another mirror.
        assert_eq!(of("gtk+-1:2-1.pkg")["downloadLocation"], Value::Null);
        let mut whole = document.clone();
        whole.as_object_mut().unwrap().remove("base");
        let whole = make(&whole).unwrap();
        let package = &whole["predicate"]["buildDefinition"]["resolvedDependencies"][2];
        assert_eq!(package["downloadLocation"], "https://h/aarch64/core/gtk%2B-1:2-1.pkg");
        assert_eq!(location("own.pkg"), "file:///o/own%20%231.pkg");
        assert_eq!(of("gtk+-1:2-1.pkg")["uri"], "pkg:alpm/archarm/gtk%2B@1:2-1?arch=aarch64");
        assert_eq!(of("gtk+-1:2-1.pkg")["digest"], json!({"sha256": "ab".repeat(32)}));
        assert_eq!((&of("own.pkg")["uri"], &of("own.pkg")["annotations"]["verified"]), (&Value::Null, &json!("false")));
        assert_eq!(of("by-hand")["uri"], "pkg:generic/by-hand@1-1?arch=any");
        assert_eq!(of("/etc/x")["digest"]["sha256"], "04".repeat(32));
        assert_eq!(dependencies.len(), 7);
        let run = &made["predicate"]["runDetails"];
        assert_eq!(run["builder"]["id"], "https://example.org/ci");
        assert_eq!(run["builder"]["version"], json!({"strapline": "0.3.0", "pacman": "7.1"}));
        assert_eq!(run["metadata"], json!({"startedOn": "2025-06-15T15:06:40Z", "finishedOn": "2025-06-15T15:06:42Z"}));
    }

    #[test]
    fn two_files_of_one_name_have_their_paths() {
        let document =
            document(json!([archive("/a/x"), archive("/b/x"), archive("/b/y")]), json!([]), &["strap", "pack"]);
        let made = make(&document).unwrap();
        let names = [0, 1, 2].map(|n| made["subject"][n]["name"].clone());
        assert_eq!(names, ["/a/x", "/b/x", "y"]);
    }

    #[test]
    fn what_the_receipt_does_not_prove_is_refused() {
        let [one, none] = [json!([archive("/o/x")]), json!([])];
        let two = json!([archive("/o/x"), archive("/o/y")]);
        let disks = json!([disk("/o/x.img")]);
        let mut failed = document(one.clone(), none.clone(), &["strap", "pack"]);
        failed["error"] = json!({"tool": "mkdisk", "code": "failed", "message": "x", "exit": 69});
        let mut short = document(one.clone(), none.clone(), &["strap", "pack"]);
        short["archives"][0]["sha256"] = json!("0a");
        let mut holes = document(none.clone(), disks.clone(), &["strap", "mkdisk"]);
        holes["disks"][0].as_object_mut().unwrap().remove("sha256");
        for (document, why) in [
            (failed, "the document is of a run that failed, in 'mkdisk'"),
            (short, "the document's SHA-256 of '/o/x' is not 64 hexadecimal digits"),
            (holes, "the document has no SHA-256 of '/o/x.img'"),
            (document(none.clone(), none.clone(), &["strap", "pack"]), "the document has no archives and no disks"),
            (document(one.clone(), none.clone(), &["strap"]), "the document has no step of 'pack', which wrote '/o/x'"),
            (document(one.clone(), none.clone(), &["pack", "strap"]), "'strap' ran after 'pack' wrote '/o/x'"),
            (
                document(none, disks, &["mkdisk", "org.example.x"]),
                "'org.example.x' ran after 'mkdisk' wrote '/o/x.img'",
            ),
            // Either run may have written the one or the other.
            (document(two, json!([]), &["pack", "configure", "pack"]), "'configure' ran after 'pack' wrote '/o/x'"),
        ] {
            let failure = make(&document).unwrap_err();
            assert_eq!((failure.code, failure.message), (Code::BadDocument, format!("making provenance: {why}")));
        }
        // The one file is that of the last run.
        make(&document(one, json!([]), &["pack", "strap", "pack", "verify"])).unwrap();
    }
}

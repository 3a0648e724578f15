//! An image in the Open Container Initiative's layout, as one tar archive: what `podman load`, `skopeo copy oci-archive:` and
//! `docker load` take; docker before 25 by its own list, `manifest.json`. It says what a bare archive cannot: the architecture,
//! what to run, and a name.
//!
//! The layer is written first and in place, where its name, which is its hash, and its size are known only afterwards: its
//! header is filled in at the end. So no second copy of it is ever on the disk.

use crate::Plan;
use crate::archive::{self, Hashed};
use crate::change;
use image::stream::member::{self, BLOCK};
use image::stream::{END, Source, padding};
use image::{Kind, Node};
use oci_spec::distribution::Reference;
use rootfs::session::environment;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use stage::{Code, Document, Doing, Failure, date};

use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use tar::{EntryType, Header};

/// Where the blobs are.
const BLOBS: &str = "blobs/sha256/";

/// Writes the image. Returns the size and the SHA-256 of the file.
///
/// # Errors
///
/// As streaming the tree; when it has what a layer would lose; and when the file cannot be written or read back.
pub(crate) fn write(plan: &Plan, document: &Document, source: Source<'_>) -> Result<(u64, String), Failure> {
    let doing = || source.writing;
    refuse_marks(source)?;
    let mut file = &plan.output.file;
    for directory in ["blobs/", BLOBS] {
        file.write_all(header(plan, directory, EntryType::Directory, 0).as_bytes()).doing(Code::Os, doing)?;
    }
    let place = file.stream_position().doing(Code::Os, doing)?;
    file.write_all(&END[..BLOCK]).doing(Code::Os, doing)?;
    let mut tree_hash = String::new();
    let layer = archive::compress_into_file(plan, source, |out| {
        tree_hash = archive::stream(source, Hashed::new(out))?.hex();
        Ok(())
    })?;
    let layer = Blob { hash: layer.hex(), size: layer.size };
    file.write_all(padding(layer.size)).doing(Code::Os, doing)?;
    let layer_header = header(plan, &layer.place(), EntryType::Regular, layer.size);
    let documents = documents(plan, document, source.nodes, &layer, &tree_hash);
    for (name, text) in documents {
        let size = text.len() as u64;
        let header = header(plan, &name, EntryType::Regular, size);
        for bytes in [header.as_bytes(), text.as_slice(), padding(size)] {
            file.write_all(bytes).doing(Code::Os, doing)?;
        }
    }
    file.write_all(&END).doing(Code::Os, doing)?;
    file.write_all_at(layer_header.as_bytes(), place).doing(Code::Os, doing)?;
    archive::hash(plan, source)
}

/// Returns a member's header: what is in it says all that there is to know, so it has no date but that of the image.
fn header(plan: &Plan, name: &str, kind: EntryType, size: u64) -> Header {
    member::header(name.as_bytes(), kind, plan.rules.epoch.unwrap_or_default(), size)
}

/// What the types of an image's documents begin with.
const TYPE: &str = "application/vnd.oci.image";

/// What a container runs that is told nothing else, where the root has it.
const SHELL: &str = "usr/bin/bash";

/// A blob, by its SHA-256 in hex.
#[derive(Debug)]
struct Blob {
    hash: String,
    size: u64,
}

impl Blob {
    fn of(text: &[u8]) -> Self {
        Self { hash: format!("{:x}", Sha256::digest(text)), size: text.len() as u64 }
    }

    fn place(&self) -> String {
        format!("{BLOBS}{}", self.hash)
    }

    /// Returns its descriptor (image-spec, descriptor.md).
    fn describe(&self, kind: &str) -> Value {
        let digest = format!("sha256:{}", self.hash);
        json!({"mediaType": format!("{TYPE}.{kind}"), "digest": digest, "size": self.size})
    }
}

/// Returns the documents of an image with that layer, by the names of their members. `tree` is the hash of what is in the layer
/// (image-spec, config.md, manifest.md, image-index.md, image-layout.md).
fn documents(plan: &Plan, document: &Document, nodes: &[Node], layer: &Blob, tree: &str) -> Vec<(String, Vec<u8>)> {
    let (arch, variant) = arch(document.arch().unwrap_or_default());
    let created = plan.rules.epoch.map(date::time);
    let path = environment().into_iter().find(|(key, _)| key == "PATH").unwrap_or_default().1;
    let has_shell = nodes.iter().any(|n| n.path == SHELL.as_bytes());
    let mut container = Map::new();
    container.insert("Env".to_owned(), json!([format!("PATH={}", path.to_string_lossy()), "LANG=C.UTF-8"]));
    if has_shell {
        container.insert("Cmd".to_owned(), json!([format!("/{SHELL}")]));
    }
    change::apply(&plan.changes, &mut container);
    let config = text(json!({
        "created": created,
        "architecture": arch,
        "os": "linux",
        "variant": variant,
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{tree}")]},
        "history": [{"created": created, "created_by": "strapline pack"}],
    }));
    let config_blob = Blob::of(&config);
    let manifest = text(json!({
        "schemaVersion": 2,
        "mediaType": format!("{TYPE}.manifest.v1+json"),
        "config": config_blob.describe("config.v1+json"),
        "layers": [layer.describe("layer.v1.tar+gzip")],
    }));
    let manifest_blob = Blob::of(&manifest);
    let mut descriptor = manifest_blob.describe("manifest.v1+json");
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": plan.name});
    descriptor["platform"] = json!({"architecture": arch, "os": "linux", "variant": variant});
    let index = text(json!({
        "schemaVersion": 2,
        "mediaType": format!("{TYPE}.index.v1+json"),
        "manifests": [descriptor],
    }));
    let list = text(json!([{
        "Config": config_blob.place(),
        "RepoTags": [plan.name],
        "Layers": [layer.place()],
    }]));
    let layout = text(json!({"imageLayoutVersion": "1.0.0"}));
    vec![
        (config_blob.place(), config),
        (manifest_blob.place(), manifest),
        ("index.json".to_owned(), index),
        ("manifest.json".to_owned(), list),
        ("oci-layout".to_owned(), layout),
    ]
}

/// Returns the architecture and its variant in the words of Go, which are the images' (image-spec, image-index.md).
fn arch(arch: &str) -> (&str, Option<&'static str>) {
    match arch {
        "x86_64" => ("amd64", None),
        "x86_64_v3" => ("amd64", Some("v3")),
        "aarch64" => ("arm64", Some("v8")),
        "armv7h" => ("arm", Some("v7")),
        "armv6h" => ("arm", Some("v6")),
        "i686" | "pentium4" | "i486" => ("386", None),
        other => (other, None),
    }
}

/// Returns a document's text, without the members that have no value.
fn text(mut document: Value) -> Vec<u8> {
    fn remove_nulls(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.retain(|_, value| !value.is_null());
                members.values_mut().for_each(remove_nulls);
            }
            Value::Array(elements) => elements.iter_mut().for_each(remove_nulls),
            _ => {}
        }
    }
    remove_nulls(&mut document);
    document.to_string().into_bytes()
}

/// Returns what an image is called, with a tag: what was asked for, else after the distribution where its name is one that an
/// image may have.
///
/// # Errors
///
/// [`Code::Usage`] where an image cannot have the name that was asked for.
pub(crate) fn name(asked: Option<&str>, distro: Option<&str>) -> Result<String, Failure> {
    match asked {
        Some(name) => tagged(name).map_err(|why| {
            Failure::new(Code::Usage, format!("reading '--name {name}': {why}"))
                .hint("it is like 'alarm', 'alarm:aarch64' or 'registry.example.org/alarm:1.0'")
        }),
        None => Ok(distro.and_then(|distro| tagged(distro).ok()).unwrap_or_else(|| "root:latest".to_owned())),
    }
}

/// Returns a name with its tag.
fn tagged(name: &str) -> Result<String, String> {
    let reference = Reference::from_str(name).map_err(|e| e.to_string())?;
    match reference.tag() {
        // The library takes letters of every script for some of a tag's.
        Some(tag) if reference.digest().is_none() && name.is_ascii() => {
            let end = format!(":{tag}");
            Ok(format!("{}{end}", name.strip_suffix(&end).unwrap_or(name)))
        }
        _ => Err("invalid reference format".to_owned()),
    }
}

fn refuse_marks(source: Source<'_>) -> Result<(), Failure> {
    let mut marks = source.nodes.iter().filter_map(|e| Some((e, mark(e)?)));
    marks.next().map_or(Ok(()), |(node, what)| {
        let show = source.tree.show(&node.path);
        let why =
            format!("packing {show}: {what} is the mark of a deleted file in a layer of an image, so it would be lost");
        Err(Failure::new(Code::Failed, why)
            .hint("remove it, leave it out with --exclude, or write another format than oci"))
    })
}

/// Returns what of an entry makes it a mark that a file is deleted, for programs that unpack a layer: they do not unpack it
/// (image-spec, layer.md), or their file system hides it (overlayfs).
pub(crate) fn mark(node: &Node) -> Option<&'static str> {
    let name = node.path.rsplit(|b| *b == b'/').next();
    match node.kind {
        _ if name.is_some_and(|name| name.starts_with(b".wh.")) => Some("a name that begins with '.wh.'"),
        Kind::Character(0, 0) => Some("the character device 0:0"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gets_a_tag_and_no_wrong_one() {
        for (asked, distro, name) in [
            (None, Some("archlinuxarm"), Some("archlinuxarm:latest")),
            (None, Some("my-arch_2.x"), Some("my-arch_2.x:latest")),
            (None, Some("My Arch"), Some("root:latest")),
            (None, None, Some("root:latest")),
            (Some("alarm"), Some("x"), Some("alarm:latest")),
            (Some("alarm:Aarch64"), None, Some("alarm:Aarch64")),
            (Some("latest"), None, Some("latest:latest")),
            (Some("r:5000/a/latest"), None, Some("r:5000/a/latest:latest")),
            (Some("r.org:5000/b:1"), None, Some("r.org:5000/b:1")),
            (Some(""), Some("x"), None),
            (Some("Alarm"), None, None),
            (Some("alarm:"), None, None),
            (Some("alarm:\u{e9}"), None, None),
            (Some("a b"), None, None),
        ] {
            assert_eq!(super::name(asked, distro).ok().as_deref(), name, "{asked:?}");
        }
        let digest = format!("alarm@sha256:{}", "0".repeat(64));
        assert!(super::name(Some(&digest), None).is_err());
    }

    #[test]
    fn what_a_layer_would_lose_is_known() {
        for (path, kind, lost) in [
            (&b"a/.wh.x"[..], Kind::Fifo, true),
            (b".wh..wh..opq", Kind::Directory, true),
            (b"a.wh.x", Kind::Fifo, false),
            (b"a/.wh", Kind::Fifo, false),
            (b"null", Kind::Character(1, 3), false),
            (b"x", Kind::Character(0, 0), true),
            (b"x", Kind::Block(0, 0), false),
        ] {
            let found = mark(&Node::new(path, kind));
            assert_eq!(found.is_some(), lost, "{path:?}");
        }
    }
}

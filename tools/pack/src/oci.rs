//! An image in the Open Container Initiative's layout, as one tar archive: what `podman load`, `skopeo copy oci-archive:` and
//! `docker load` take; docker before 25 by its own list, `manifest.json`. It says what a bare archive cannot: the architecture,
//! what to run, and a name.
//!
//! The layer is written first and in place, where its name, which is its hash, and its size are known only afterwards: its
//! header is filled in at the end. So no second copy of it is ever on the disk.

use crate::archive::{self, Hashed, Task};
use crate::member::BLOCK;
use crate::stream::{END, Source, padding};
use image::{Kind, Node};
use oci_spec::OciSpecError;
use oci_spec::distribution::Reference;
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, DescriptorBuilder, Digest,
    HistoryBuilder, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType,
    OciLayoutBuilder, Os, Platform, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
};
use rootfs::session::environment;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use stage::{Code, Doing, Failure, date};
use std::io::{self, Seek, SeekFrom, Write};
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
pub(crate) fn write(task: &Task<'_>, source: Source<'_>) -> Result<(u64, String), Failure> {
    let doing = || source.writing;
    refuse_marks(source)?;
    let mut file = task.file;
    for directory in ["blobs/", BLOBS] {
        file.write_all(header(task, directory, EntryType::Directory, 0).as_bytes())
            .doing(Code::Os, doing)?;
    }
    let place = file.stream_position().doing(Code::Os, doing)?;
    file.write_all(&END[..BLOCK]).doing(Code::Os, doing)?;
    let encoder = Hashed::new(archive::encoder(task, source)?);
    let tree = archive::stream(source, encoder)?;
    let tree_hash = tree.hex();
    let layer = tree.inner.finish().doing(Code::Os, doing)?;
    let layer = Blob {
        hash: layer.hex(),
        size: layer.size,
    };
    file.write_all(padding(layer.size)).doing(Code::Os, doing)?;
    let name = format!("{BLOBS}{}", layer.hash);
    let layer_header = header(task, &name, EntryType::Regular, layer.size);

    let documents = Image { task, source }
        .documents(&layer, &tree_hash)
        .doing(Code::Os, || "describing the image")?;
    for (name, text) in documents {
        let size = text.len() as u64;
        let header = header(task, &name, EntryType::Regular, size);
        for bytes in [header.as_bytes(), text.as_slice(), padding(size)] {
            file.write_all(bytes).doing(Code::Os, doing)?;
        }
    }
    file.write_all(&END).doing(Code::Os, doing)?;
    file.write_all_at(layer_header.as_bytes(), place)
        .doing(Code::Os, doing)?;
    file.seek(SeekFrom::Start(0)).doing(Code::Os, doing)?;
    let mut whole = Hashed::new(io::sink());
    io::copy(&mut file, &mut whole).doing(Code::Os, doing)?;
    Ok((whole.size, whole.hex()))
}

/// Returns a member's header: what is in it says all that there is to know, so it has no date but that of the image.
fn header(task: &Task<'_>, name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(task.rules.epoch().unwrap_or_default());
    header.set_size(size);
    header.set_cksum();
    header
}

/// A blob, by its SHA-256 in hex.
#[derive(Debug)]
struct Blob {
    hash: String,
    size: u64,
}

impl Blob {
    fn of(text: &[u8]) -> Self {
        Self {
            hash: format!("{:x}", Sha256::digest(text)),
            size: text.len() as u64,
        }
    }

    fn digest(&self) -> Result<Digest, OciSpecError> {
        Digest::from_str(&format!("sha256:{}", self.hash))
    }

    fn describe(&self, kind: MediaType) -> Result<Descriptor, OciSpecError> {
        Ok(Descriptor::new(kind, self.size, self.digest()?))
    }
}

/// What the documents of an image are made of.
#[derive(Debug)]
struct Image<'a> {
    task: &'a Task<'a>,
    source: Source<'a>,
}

impl Image<'_> {
    /// Returns the documents, by the names of their members.
    fn documents(&self, layer: &Blob, tree: &str) -> Result<Vec<(String, Vec<u8>)>, OciSpecError> {
        let config = text(&self.config(tree)?)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(Blob::of(&config).describe(MediaType::ImageConfig)?)
            .layers([layer.describe(MediaType::ImageLayerGzip)?])
            .build()?;
        let manifest = text(&manifest)?;
        let blob = Blob::of(&manifest);
        let descriptor = DescriptorBuilder::default()
            .media_type(MediaType::ImageManifest)
            .size(blob.size)
            .digest(blob.digest()?)
            .platform(self.platform()?)
            .annotations([(ANNOTATION_REF_NAME.to_owned(), self.task.name.to_owned())])
            .build()?;
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests([descriptor])
            .build()?;
        let layout = OciLayoutBuilder::default()
            .image_layout_version("1.0.0")
            .build()?;
        let place = |blob: &Blob| format!("{BLOBS}{}", blob.hash);
        let list = json!([{
            "Config": place(&Blob::of(&config)),
            "RepoTags": [self.task.name],
            "Layers": [place(layer)],
        }]);
        Ok(vec![
            (place(&Blob::of(&config)), config),
            (place(&blob), manifest),
            ("index.json".to_owned(), text(&index)?),
            ("manifest.json".to_owned(), text(&list)?),
            ("oci-layout".to_owned(), text(&layout)?),
        ])
    }

    fn config(&self, tree: &str) -> Result<oci_spec::image::ImageConfiguration, OciSpecError> {
        let mut env: Vec<_> = environment()
            .into_iter()
            .filter(|(key, _)| key == "PATH")
            .map(|(key, value)| format!("{}={}", key.to_string_lossy(), value.to_string_lossy()))
            .collect();
        env.push("LANG=C.UTF-8".to_owned());
        let mut config = ConfigBuilder::default().env(env);
        let nodes = &self.source.nodes;
        if nodes.iter().any(|e| e.path == SHELL.as_bytes()) {
            config = config.cmd([format!("/{SHELL}")]);
        }
        let mut history = HistoryBuilder::default().created_by("strapline pack");
        let mut image = ImageConfigurationBuilder::default();
        if let Some(epoch) = self.task.rules.epoch() {
            history = history.created(date::time(epoch));
            image = image.created(date::time(epoch));
        }
        let rootfs = RootFsBuilder::default()
            .typ("layers")
            .diff_ids([format!("sha256:{tree}")])
            .build()?;
        let (arch, variant) = self.arch();
        if let Some(variant) = variant {
            image = image.variant(variant);
        }
        image
            .architecture(arch)
            .os(Os::Linux)
            .config(config.build()?)
            .rootfs(rootfs)
            .history([history.build()?])
            .build()
    }

    fn platform(&self) -> Result<Platform, OciSpecError> {
        let (arch, variant) = self.arch();
        let mut platform = PlatformBuilder::default().os(Os::Linux).architecture(arch);
        if let Some(variant) = variant {
            platform = platform.variant(variant);
        }
        platform.build()
    }

    /// Returns the architecture and its variant in the words of Go, which are the images' (image-spec, image-index.md).
    fn arch(&self) -> (Arch, Option<&'static str>) {
        match self.task.document.arch().unwrap_or_default() {
            "x86_64" => (Arch::Amd64, None),
            "x86_64_v3" => (Arch::Amd64, Some("v3")),
            "aarch64" => (Arch::ARM64, Some("v8")),
            "armv7h" => (Arch::ARM, Some("v7")),
            "armv6h" => (Arch::ARM, Some("v6")),
            "i686" | "pentium4" | "i486" => (Arch::i386, None),
            other => (Arch::from(other), None),
        }
    }
}

/// What a container runs that is told nothing else, where the root has it.
const SHELL: &str = "usr/bin/bash";

fn text(document: &impl Serialize) -> Result<Vec<u8>, OciSpecError> {
    Ok(serde_json::to_vec(document)?)
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
        None => Ok(distro
            .and_then(|distro| tagged(distro).ok())
            .unwrap_or_else(|| "root:latest".to_owned())),
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
        let why = format!("packing {show}: {what} is the mark of a deleted file in a layer of an image, so it would be lost");
        Err(Failure::new(Code::Failed, why)
            .hint("remove it, leave it out with --exclude, or write another format than oci"))
    })
}

/// Returns what of an entry makes it a mark that a file is deleted, for programs that unpack a layer: they do not unpack it
/// (image-spec, layer.md), or their file system hides it (overlayfs).
pub(crate) fn mark(node: &Node) -> Option<&'static str> {
    let name = node.path.rsplit(|b| *b == b'/').next();
    match node.kind {
        _ if name.is_some_and(|name| name.starts_with(b".wh.")) => {
            Some("a name that begins with '.wh.'")
        }
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
            (
                Some("r:5000/a/latest"),
                None,
                Some("r:5000/a/latest:latest"),
            ),
            (Some("r.org:5000/b:1"), None, Some("r.org:5000/b:1")),
            (Some(""), Some("x"), None),
            (Some("Alarm"), None, None),
            (Some("alarm:"), None, None),
            (Some("alarm:\u{e9}"), None, None),
            (Some("a b"), None, None),
        ] {
            assert_eq!(
                super::name(asked, distro).ok().as_deref(),
                name,
                "{asked:?}"
            );
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

//! An image in the Open Container Initiative's layout, as one tar archive: what `podman load`, `skopeo copy oci-archive:` and
//! docker from 25 on take. It says what a bare archive cannot: the architecture, and what to run.
//!
//! The layer is written first and in place, where its name, which is its hash, and its size are known only afterwards: its
//! header is filled in at the end. So no second copy of it is ever on the disk.

use crate::archive::{self, Hashed, Task};
use crate::member::BLOCK;
use crate::stream::{END, Source, padding};
use oci_spec::OciSpecError;
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, DescriptorBuilder, Digest,
    HistoryBuilder, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType,
    OciLayoutBuilder, Os, Platform, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
};
use rootfs::session::environment;
use serde::Serialize;
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
/// As streaming the tree; and when the file cannot be written or read back.
pub(crate) fn write(task: &Task<'_>, source: Source<'_>) -> Result<(u64, String), Failure> {
    let doing = || source.writing;
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
            .annotations([(ANNOTATION_REF_NAME.to_owned(), self.name())])
            .build()?;
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests([descriptor])
            .build()?;
        let layout = OciLayoutBuilder::default()
            .image_layout_version("1.0.0")
            .build()?;
        Ok(vec![
            (format!("{BLOBS}{}", Blob::of(&config).hash), config),
            (format!("{BLOBS}{}", blob.hash), manifest),
            ("index.json".to_owned(), text(&index)?),
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
        let entries = &self.source.entries;
        if entries.iter().any(|e| e.path == SHELL.as_bytes()) {
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
        match self.task.document.text("arch").unwrap_or_default() {
            "x86_64" => (Arch::Amd64, None),
            "x86_64_v3" => (Arch::Amd64, Some("v3")),
            "aarch64" => (Arch::ARM64, Some("v8")),
            "armv7h" => (Arch::ARM, Some("v7")),
            "armv6h" => (Arch::ARM, Some("v6")),
            "i686" | "pentium4" | "i486" => (Arch::i386, None),
            other => (Arch::from(other), None),
        }
    }

    /// Returns what the image is called: after the distribution, where its name is one that an image may have.
    fn name(&self) -> String {
        let name = self.task.document.text("distro").unwrap_or_default();
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !name.is_empty() && name.bytes().all(fits) {
            name.to_owned()
        } else {
            "root".to_owned()
        }
    }
}

/// What a container runs that is told nothing else, where the root has it.
const SHELL: &str = "usr/bin/bash";

fn text(document: &impl Serialize) -> Result<Vec<u8>, OciSpecError> {
    Ok(serde_json::to_vec(document)?)
}

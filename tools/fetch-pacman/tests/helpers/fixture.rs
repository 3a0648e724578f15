//! Packages and databases, as makepkg(8) and repo-add(8) make them.

use super::keys::{Key, keys};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;
use tar::{Builder, EntryType, Header};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gz,
    Xz,
    Zst,
}

pub(crate) const FORMATS: [Format; 3] = [Format::Gz, Format::Xz, Format::Zst];

pub(crate) const MEMBER: &str = "usr/bin/pacman-static";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Returns a program that prints pacman's banner. It is large and does not compress, so that there is a middle.
pub(crate) fn program(version: &str) -> Vec<u8> {
    script(&format!(
        "cat <<'END'\n\n .--.                  Pacman v{version} - libalpm v13.0.2\n/ _.-' .-.  .-.  .-.\nEND"
    ))
}

/// Returns a shell script with ballast behind it.
pub(crate) fn script(body: &str) -> Vec<u8> {
    let mut text = format!("#!/bin/sh\n{body}\nexit\n");
    let mut seed = Sha256::digest(body);
    for _ in 0..4000 {
        seed = Sha256::digest(seed);
        writeln!(text, "# {seed:x}").unwrap();
    }
    text.into_bytes()
}

pub(crate) fn compress(format: Format, bytes: &[u8]) -> Vec<u8> {
    match format {
        Format::Gz => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        Format::Xz => {
            let mut out = xz2::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        Format::Zst => zstd::encode_all(bytes, 1).unwrap(),
    }
}

fn add(tape: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if path.starts_with("usr/bin") { 0o755 } else { 0o644 });
    if kind == EntryType::Symlink {
        header.set_size(0);
        let target = std::str::from_utf8(bytes).unwrap();
        tape.append_link(&mut header, path, target).unwrap();
    } else {
        header.set_size(bytes.len() as u64);
        tape.append_data(&mut header, path, bytes).unwrap();
    }
}

/// A package, and what a database says of it.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
    /// What the database says of its hash.
    pub(crate) sha256: Option<String>,
    /// What the database says of its size.
    pub(crate) csize: Option<u64>,
    /// What the database says of its signature.
    pub(crate) signature: Option<Vec<u8>>,
}

impl Package {
    /// Returns `pacman-static` of that version; the program says the version without its epoch and release.
    pub(crate) fn new(version: &str, format: Format) -> Self {
        let bare = version.split_once(':').map_or(version, |(_, rest)| rest);
        let bare = bare.rsplit_once('-').map_or(bare, |(start, _)| start);
        Self::of("pacman-static", version, format, &program(bare))
    }

    pub(crate) fn of(name: &str, version: &str, format: Format, program: &[u8]) -> Self {
        Self::with(name, version, format, |tape| {
            add(tape, MEMBER, EntryType::Regular, program);
        })
    }

    /// Returns a package that has something else where the program should be.
    pub(crate) fn with_link(version: &str, target: &str) -> Self {
        Self::with("pacman-static", version, Format::Zst, |tape| {
            add(tape, MEMBER, EntryType::Symlink, target.as_bytes());
        })
    }

    /// Returns the package that has a repository's keys.
    pub(crate) fn keyring(repo: &str, ring: &[u8]) -> Self {
        Self::with(&format!("{repo}-keyring"), "1-1", Format::Zst, |tape| {
            let path = format!("usr/share/pacman/keyrings/{repo}.gpg");
            add(tape, &path, EntryType::Regular, ring);
        })
    }

    /// Returns it signed by another key.
    pub(crate) fn signed_by(mut self, key: &Key) -> Self {
        self.signature = Some(keys().sign(key, &self.bytes));
        self
    }

    /// Returns it with that for its signature.
    pub(crate) fn with_signature(mut self, signature: Option<Vec<u8>>) -> Self {
        self.signature = signature;
        self
    }

    pub(crate) fn without_program(version: &str) -> Self {
        Self::with("pacman-static", version, Format::Zst, |_| ())
    }

    fn with(name: &str, version: &str, format: Format, middle: impl Fn(&mut Builder<Vec<u8>>)) -> Self {
        let mut tape = Builder::new(Vec::new());
        add(&mut tape, ".PKGINFO", EntryType::Regular, format!("pkgname = {name}\npkgver = {version}\n").as_bytes());
        // A decoy with the right file name in another place.
        let decoy = "usr/share/usr/bin/pacman-static";
        add(&mut tape, decoy, EntryType::Regular, b"#!/bin/false\n");
        middle(&mut tape);
        add(&mut tape, "usr/lib/x.a", EntryType::Regular, &[7; 4096]);
        let bytes = compress(format, &tape.into_inner().unwrap());
        let suffix = match format {
            Format::Gz => "gz",
            Format::Xz => "xz",
            Format::Zst => "zst",
        };
        Self {
            name: name.into(),
            version: version.into(),
            file: format!("{name}-{version}-x86_64.pkg.tar.{suffix}"),
            sha256: Some(sha256(&bytes)),
            csize: Some(bytes.len() as u64),
            signature: Some(keys().sign(&keys().lilac, &bytes)),
            bytes,
        }
    }

    /// Returns what it really hashes to.
    pub(crate) fn hash(&self) -> String {
        sha256(&self.bytes)
    }
}

/// Returns the keyring package of `archlinuxcn`.
pub(crate) fn ring() -> &'static Package {
    static RING: OnceLock<Package> = OnceLock::new();
    RING.get_or_init(|| Package::keyring("archlinuxcn", &keys().lilac.public))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let three = [0, 1, 2].map(|i| u32::from(piece.get(i).copied().unwrap_or(0)));
        let all = three[0] << 16 | three[1] << 8 | three[2];
        for i in 0..4 {
            let digit = DIGITS[(all >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= piece.len() { digit as char } else { '=' });
        }
    }
    text
}

/// Returns a repository's database.
pub(crate) fn database(packages: &[&Package], format: Format) -> Vec<u8> {
    let mut tape = Builder::new(Vec::new());
    for package in packages {
        let (name, version) = (&package.name, &package.version);
        let mut desc = format!("%FILENAME%\n{}\n\n%NAME%\n{name}\n\n", package.file);
        write!(desc, "%BASE%\nx\n\n%VERSION%\n{version}\n\n%ARCH%\nx86_64\n\n").unwrap();
        if let Some(size) = package.csize {
            write!(desc, "%CSIZE%\n{size}\n\n").unwrap();
        }
        if let Some(hash) = &package.sha256 {
            write!(desc, "%SHA256SUM%\n{hash}\n\n").unwrap();
        }
        if let Some(signature) = &package.signature {
            write!(desc, "%PGPSIG%\n{}\n\n", base64(signature)).unwrap();
        }
        let path = format!("{name}-{version}/desc");
        add(&mut tape, &path, EntryType::Regular, desc.as_bytes());
    }
    compress(format, &tape.into_inner().unwrap())
}

//! The members of a document: one type each, with the tools that write it.
//!
//! Everything that is said of a member comes from here: `Document::parse` checks each by reading it, `docs/schema.json`
//! and the table of `strapline-document(5)` are made from these types (and tests hold both to them).
//!
//! A type has no place for unknown members: `Document::write` changes only what the type knows, so all else survives.
//! Words that may become more with a later version are strings, so that an older tool still reads the document.

use crate::path::{is_name, is_word, plain_absolute, plain_below};
use crate::strict::Strict;
use crate::{Code, Doing, Failure, file, quote};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

/// The tools that write a member of everybody's.
const EVERY_TOOL: &[&str] = &["every tool"];

/// A member of the document.
pub trait Member: Serialize + DeserializeOwned {
    /// Its name.
    const NAME: &'static str;
    /// The tools that write it. The first is the one that a pipeline lacks where the member is missing.
    const OWNERS: &'static [&'static str];
}

macro_rules! members {
    ($($name:literal: $type:ty, $owners:expr;)+) => {
        $(impl Member for $type {
            const NAME: &'static str = $name;
            const OWNERS: &'static [&'static str] = $owners;
        })+

        /// Reads a member as its types have it, and says which part of it is wrong.
        pub(crate) fn check(name: &str, value: &Value) -> Result<(), String> {
            $(if name == $name {
                read::<$type>(value)?;
            })+
            Ok(())
        }

        /// Returns each member's name, owners and schema.
        fn all(generator: &mut SchemaGenerator) -> Vec<(&'static str, &'static [&'static str], Value)> {
            vec![$(($name, $owners, generator.subschema_for::<$type>().into())),+]
        }
    };
}

members! {
    "strapline": Version, EVERY_TOOL;
    "root": Root, &["mkroot"];
    "root_id": Identity, &["mkroot"];
    "arch": Arch, &["mkroot", "mkconf"];
    "machine": Machine, &["mkroot"];
    "distro": Distro, &["mkroot", "mkconf"];
    "overlays": Overlays, &["mkroot", "mkconf"];
    "mode": Mode, &["mkroot"];
    "idmap": IdMap, &["mkroot"];
    "mounts": Vec<Mount>, &["mkroot"];
    "binfmt": Binfmt, &["mkroot"];
    "host": Host, &["mkroot", "unmount"];
    "base": Base, &["mkroot"];
    "pacman": Pacman, &["fetch-pacman"];
    "config": Config, &["mkconf"];
    "strap": Strap, &["strap"];
    "planned": Planned, &["strap"];
    "keyring": Keyring, &["keyring"];
    "packages": Vec<Package>, &["strap", "verify", "mkroot"];
    "packages": Vec<VerifiedPackage>, &["strap", "verify", "mkroot"];
    "tree": Vec<TreeFile>, &["mkroot", "configure"];
    "configured": Configured, &["configure"];
    "filesystems": Vec<FileSystem>, &["configure"];
    "verify": Verify, &["verify"];
    "archives": Vec<Archive>, &["pack"];
    "disks": Vec<Disk>, &["mkdisk"];
    "reap": Reap, &["reap"];
    "unmount": Unmount, &["unmount"];
    "steps": Vec<Step>, EVERY_TOOL;
    "error": ErrorRecord, EVERY_TOOL;
}

/// Returns the JSON Schema (draft 2020-12) of a document. `x-written-by` names the tools that write a member.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaGenerator::default();
    let mut properties = Map::new();
    for (name, owners, mut schema) in all(&mut generator) {
        // Of one with two types, two tools write their parts.
        if let Some(first) = properties.remove(name) {
            schema["items"] = json!({"allOf": [first["items"], schema["items"]]});
        }
        schema["x-written-by"] = json!(owners);
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "strapline-document(5)",
        "type": "object",
        "required": ["strapline"],
        "properties": properties,
        "$defs": generator.take_definitions(true),
    });
    forbid_null(&mut schema);
    schema
}

/// Takes null out of the types of a schema: a member that is not there is left out.
fn forbid_null(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Array(types)) = members.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [one] = &types[..] {
                    members["type"] = one.clone();
                }
            }
            if let Some(Value::Array(choices)) = members.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [Value::Object(one)] = &choices[..] {
                    let one = one.clone();
                    members.shift_remove("anyOf");
                    members.extend(one);
                }
            }
            if members.get("default") == Some(&Value::Null) {
                members.shift_remove("default");
            }
            members.values_mut().for_each(forbid_null);
        }
        Value::Array(elements) => elements.iter_mut().for_each(forbid_null),
        _ => {}
    }
}

/// Reads a member. The error says which part of it is wrong, and what was expected.
pub(crate) fn read<T: Member>(value: &Value) -> Result<T, String> {
    // To follow the path doubles the time, so it is done only where there is an error to tell.
    T::deserialize(Strict(value)).or_else(|_| read_with_path(value))
}

fn read_with_path<T: Member>(value: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|e| {
        let path = match e.path().to_string() {
            path if path == "." => String::new(),
            path if path.starts_with('[') => path,
            path => format!(".{path}"),
        };
        let why = e.inner().to_string();
        match why.split_once("expected struct ") {
            Some((why, _)) => format!("\"{}{path}\": {why}expected an object", T::NAME),
            None => format!("\"{}{path}\": {why}", T::NAME),
        }
    })
}

fn checked<'de, D: Deserializer<'de>>(
    deserializer: D,
    check: impl FnOnce(&str) -> Result<(), String>,
) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    check(&text).map_err(D::Error::custom)?;
    Ok(text)
}

fn absolute<'de, D: Deserializer<'de>, T: From<PathBuf>>(deserializer: D) -> Result<T, D::Error> {
    checked(deserializer, plain_absolute).map(|path| PathBuf::from(path).into())
}

fn root<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let root: PathBuf = absolute(deserializer)?;
    match root.parent() {
        Some(_) => Ok(root),
        None => Err(D::Error::custom("the path is '/', the host's own root")),
    }
}

fn below<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked(deserializer, plain_below)
}

fn below_root<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked(deserializer, |path| match path {
        "" => Err("the path is the root itself".to_owned()),
        path => plain_below(path),
    })
}

/// Reads a mode as four octal digits.
fn octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let is_octal = |text: &str| text.len() == 4 && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let text = checked(deserializer, |text| match is_octal(text) {
        true => Ok(()),
        false => Err("not a mode of four octal digits".to_owned()),
    })?;
    Ok(Some(text))
}

fn arch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked(deserializer, |text| match is_word(text) {
        true => Ok(()),
        false => Err("not the name of an architecture".to_owned()),
    })
}

fn nodes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let nodes: Vec<String> = Vec::deserialize(deserializer)?;
    match nodes.iter().find(|node| !is_name(node)) {
        Some(node) => Err(D::Error::custom(format!("{} is not a name in /dev", quote(node)))),
        None => Ok(nodes),
    }
}

fn exit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match u8::deserialize(deserializer) {
        Ok(exit @ 1..) => Ok(exit),
        _ => Err(D::Error::custom("not an exit status between 1 and 255")),
    }
}

/// The major version of the protocol, which is how a document is recognised.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct Version(#[schemars(range(min = 1, max = 1))] pub u64);

/// The directory that the pipeline works on.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct Root(
    #[serde(deserialize_with = "root")]
    #[schemars(with = "String", regex(pattern = "^/."))]
    pub PathBuf,
);

/// Which directory the root is. Where both sides have one of the strings, it decides.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The device number, as stat(2) has it. It does not outlive the mount.
    pub dev: u64,
    /// The inode number.
    pub ino: u64,
    /// The file system's own id, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs: Option<String>,
    /// The directory's handle: the type in decimal, a colon, and the handle in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// When it was made: seconds since 1970-01-01 UTC, and nine digits after the point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birth: Option<String>,
}

impl Identity {
    /// Returns whether the directory that was seen `now` is this one.
    #[must_use]
    pub fn is(&self, now: &Self) -> bool {
        let both = |a: &Option<String>, b: &Option<String>| Some(a.as_ref()? == b.as_ref()?);
        let fs = both(&self.fs, &now.fs);
        let birth = both(&self.birth, &now.birth);
        let handle = both(&self.handle, &now.handle);
        if [fs, birth, handle].contains(&Some(false)) {
            return false;
        }
        // The first directory of a file system has the same handle on each of its kind.
        let same_fs = fs.or(birth).unwrap_or(self.dev == now.dev);
        same_fs && handle.unwrap_or(self.ino == now.ino)
    }
}

/// The root's architecture, in pacman's words.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct Arch(
    #[serde(deserialize_with = "arch")]
    #[schemars(with = "String", regex(pattern = "^[A-Za-z0-9_-]{1,63}$"))]
    pub String,
);

/// The machine of uname(2) that runs the root's programs, where only the preset knows the architecture.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct Machine(
    #[serde(deserialize_with = "arch")]
    #[schemars(with = "String", regex(pattern = "^[A-Za-z0-9_-]{1,63}$"))]
    pub String,
);

/// The distribution: the name of a preset, or the absolute path of a preset file.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct Distro(pub String);

/// What is laid over the distribution, in order: each the name of a preset, or the absolute path of a preset file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct Overlays(pub Vec<String>);

/// How the root is entered.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By root, in mount and PID namespaces.
    Root,
    /// By an ordinary user, in a user namespace as well.
    User,
    /// As `root`, and the plan is also mounted on the host.
    Host,
    /// By root, with chroot(2) alone: no namespace, and no mount.
    Chroot,
}

/// In mode `user`: maps of ids, each the first id inside, the first outside, and how many.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct IdMap {
    /// User ids. The first element maps root inside to the user.
    pub uid: Vec<[u64; 3]>,
    /// Group ids.
    pub gid: Vec<[u64; 3]>,
}

impl IdMap {
    /// Returns whether root inside is the user `uid` outside.
    #[must_use]
    pub fn is_of(&self, uid: u32) -> bool {
        self.uid.first() == Some(&[0, u64::from(uid), 1])
    }
}

/// A mount around a program in the root.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where, relative to the root. Empty for the root itself.
    #[serde(deserialize_with = "below")]
    #[schemars(regex(pattern = "^($|[^/])"))]
    pub at: String,
    /// A file system's name, `bind` (one mount) or `rbind` (with what is mounted below it). In mode `chroot` it is `none`:
    /// nothing is mounted, and what programs make there is removed when they have ended.
    #[serde(rename = "type")]
    pub kind: String,
    /// The absolute path of the host that is bound, or the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Options of mount(8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// For `dev`: the device nodes of the host that are bound into it, or in mode `chroot` made in it.
    #[serde(default, deserialize_with = "nodes", skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl Mount {
    /// Returns a mount without a source.
    #[must_use]
    pub fn new(at: &str, kind: &str, options: &[&str]) -> Self {
        Self {
            at: at.to_owned(),
            kind: kind.to_owned(),
            source: None,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            nodes: Vec::new(),
        }
    }
}

/// The archive that the root began with.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Base {
    /// Its absolute path.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, in hex, as it was unpacked.
    pub sha256: String,
    /// What it was checked by before it was unpacked: `sha256`, `signature`, `receipt`, or `nothing`.
    pub checked: String,
    /// The fingerprint of the key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How many of its members were unpacked.
    pub entries: u64,
}

impl Base {
    /// The word of [`Base::checked`] for an archive of which nobody knows who made it.
    pub const NOTHING: &str = "nothing";
}

/// How programs of the root's architecture are run.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Binfmt {
    /// `native`: by the kernel. `private`: by a handler that each entry registers in its user namespace. `host`: by the
    /// host's handler.
    pub kind: String,
    /// The emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<PathBuf>,
    /// The handler's flags, as binfmt_misc has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
}

impl Binfmt {
    /// Returns the handling of programs that the kernel runs itself.
    #[must_use]
    pub fn native() -> Self {
        Self { kind: "native".to_owned(), interpreter: None, flags: None }
    }

    /// Returns a handler of our own with this emulator: `O`pen binary, `C`redentials (for set-uid programs), `P`reserve
    /// argv\[0\], `F`ix binary.
    #[must_use]
    pub fn private(interpreter: PathBuf) -> Self {
        Self { kind: "private".to_owned(), interpreter: Some(interpreter), flags: Some("OCPF".to_owned()) }
    }

    /// Returns whether a handler must be registered in our own user namespace.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.kind == "private"
    }
}

/// What `mkroot --host` mounted. `unmount` removes it once nothing of it is mounted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Host {
    /// The boot it was mounted in (proc(5), `random/boot_id`): mounts do not outlive it.
    pub boot_id: String,
    /// The mounts, in the order they were made.
    pub mounts: Vec<HostMount>,
}

/// A mount of the host.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct HostMount {
    /// Where, relative to the root. Empty for the root itself.
    pub at: String,
    /// The kernel's id of it, which is never used again (Linux 6.8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its number in mountinfo, which the kernel uses again. Compared where there is no id, together with the place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
}

/// The pacman to run, a program of the host.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Pacman {
    /// The program's path.
    #[serde(deserialize_with = "absolute")]
    #[schemars(with = "String", regex(pattern = "^/"))]
    pub path: PathBuf,
    /// Its version, as `pacman --version` says it, without the `v`.
    pub version: String,
    /// SHA-256 of the program, in hex, which is compared before it is run.
    pub sha256: String,
    /// What its origin was checked by: `signature` (of a pinned key), `sha256` (of the command line), `hash` (the
    /// repository's own, where that was permitted), `host` (a program of this host).
    pub trust: String,
    /// The package that it was fetched from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<PacmanPackage>,
}

/// The package that pacman was fetched from, as the database described it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct PacmanPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The repository.
    pub repo: String,
    /// The file name.
    pub file: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// The server that had it.
    pub server: String,
    /// The fingerprint of the primary key that signed it, where a signature was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

impl Pacman {
    /// Checks that the program is still the one that the document means: that may have been written yesterday.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where it is gone, [`Code::NotVerified`] where it is another program.
    pub fn check(&self) -> Result<(), Failure> {
        let doing = || format!("checking {}", quote(&self.path));
        let again = "run fetch-pacman again";
        let mut file = file::open(&self.path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Failure::new(Code::NotFound, format!("{}: {e}", doing())).hint(again),
            _ => Failure::new(Code::Failed, format!("{}: {e}", doing())),
        })?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).doing(Code::Os, doing)?;
        let is = format!("{:x}", hash.finalize());
        if !is.eq_ignore_ascii_case(&self.sha256) {
            return Err(Failure::new(
                Code::NotVerified,
                format!(
                    "{}: it is not the program that the document means: its SHA-256 is {is}, not {}",
                    doing(),
                    self.sha256
                ),
            )
            .hint(format!("it was replaced since: {again}")));
        }
        Ok(())
    }
}

/// The pacman.conf(5) files, and what they refer to.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The file that verifies every package.
    #[serde(deserialize_with = "absolute")]
    #[schemars(with = "String", regex(pattern = "^/"))]
    pub strict: PathBuf,
    /// The file that verifies none.
    #[serde(deserialize_with = "absolute")]
    #[schemars(with = "String", regex(pattern = "^/"))]
    pub loose: PathBuf,
    /// The package cache.
    #[serde(deserialize_with = "absolute")]
    #[schemars(with = "String", regex(pattern = "^/"))]
    pub cache: PathBuf,
    /// The GnuPG home that packages are verified by: a directory of the host, which `keyring` fills. Documents of before
    /// 0.2 have none, see [`Config::gpgdir`].
    #[serde(default, deserialize_with = "absolute", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", regex(pattern = "^/"))]
    pub gpgdir: Option<PathBuf>,
    /// `Architecture` of both files, in order. Documents of before 0.3 have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architecture: Vec<String>,
    /// The repositories, in order. Documents of before 0.3 have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<Repository>,
}

/// A repository of the pacman.conf(5) files.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// The preset that it is from: the distribution's or an overlay's. None where the command line named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    /// Its servers, in order.
    pub servers: Vec<String>,
    /// Its `SigLevel` in the strict file, in full: its own, or that of `[options]`.
    pub siglevel: String,
    /// Whether a package of it may have no signature: so for the one repository.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsigned: bool,
}

impl Config {
    /// Returns the GnuPG home that packages are verified by, which is beside the configuration where the document does not
    /// say.
    #[must_use]
    pub fn gpgdir(&self) -> PathBuf {
        let beside = || self.strict.with_file_name("gnupg");
        self.gpgdir.clone().unwrap_or_else(beside)
    }
}

/// How packages got into the root.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Strap {
    /// Whether a transaction verified nothing.
    #[serde(default)]
    pub loose: bool,
    /// The packages that were removed, or replaced by others, and are not installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// The hooks that a run did not run, though packages have them, without `.hook`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked_hooks: Vec<String>,
}

/// What a transaction would do: `strap --plan`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// What would be installed.
    pub packages: Vec<PlannedPackage>,
    /// The packages that would be removed.
    pub removed: Vec<String>,
    /// How much would be downloaded, in bytes.
    pub download: u64,
}

/// A package that would be installed.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct PlannedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version that is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed: Option<String>,
    /// Its repository.
    pub repo: String,
    /// The file name of its archive.
    pub file: String,
    /// How much of that is not in the package cache, in bytes.
    pub download: u64,
}

/// pacman's keyring in the root.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Keyring {
    /// The GnuPG home directory.
    #[serde(deserialize_with = "absolute")]
    #[schemars(with = "String", regex(pattern = "^/"))]
    pub dir: PathBuf,
    /// The names of the rings that were populated.
    pub populated: Vec<String>,
    /// The fingerprints that give trust, in upper-case hex.
    pub trusted: Vec<String>,
    /// Where the root's own keyring was kept: the keys that are valid by that alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended: Vec<String>,
    /// Whose keys are valid, where the repositories are of more than one publisher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publishers: Vec<Publisher>,
    /// The keys that the user gave as files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnKey>,
    /// Where keys were taken out of it again: `all`, or the `secret` one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripped: Option<String>,
}

/// Who publishes repositories, and the keys that are valid by the pins for them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Publisher {
    /// The preset. None for the user, whose keys are for the repositories that a command line named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The fingerprints of the primary keys.
    pub keys: Vec<String>,
    /// The repositories of others that these keys may sign packages of; `*` is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vouches_for: Vec<String>,
}

/// A public key of the user's.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct OwnKey {
    /// Its fingerprint.
    pub fingerprint: String,
    /// The key as gpg exports it, in ASCII armour.
    pub key: String,
}

/// A package that is installed.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, `[epoch:]pkgver-pkgrel`.
    pub version: String,
    /// Its architecture: pacman's word, or `any`.
    pub arch: String,
    /// The repository that it was installed from: `strapline-local` and `strapline-unsigned` have the files of a command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Where the archive is from that was given as a file: its URL, or its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The file name of its archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// SHA-256 of the archive that was installed, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The archive's detached signature, in Base64 (RFC 4648) as a repository's database has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgpsig: Option<String>,
    /// `explicit` where somebody asked for it, or `dependency`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether pacman checked a signature of it before it was installed (`%VALIDATION%` of the local database), or
    /// `verify` has since.
    pub verified: bool,
}

impl Package {
    /// The repository of package files of a command line that are signed.
    pub const LOCAL: &str = "strapline-local";

    /// The repository of those that the command line said are not.
    pub const UNSIGNED: &str = "strapline-unsigned";

    /// Returns whether a repository is one of these two, which no server has.
    #[must_use]
    pub fn is_own(repo: &str) -> bool {
        [Self::LOCAL, Self::UNSIGNED].contains(&repo)
    }
}

/// A package that is installed, with what `verify` found.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct VerifiedPackage {
    /// Its name.
    pub name: String,
    /// Its version, `[epoch:]pkgver-pkgrel`.
    pub version: String,
    /// Its architecture: pacman's word, or `any`.
    pub arch: String,
    /// The repository that it was installed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// The file name of its archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// SHA-256 of the archive that was installed, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whether it was signed by somebody trusted.
    pub verified: bool,
    /// What its signature is: `valid`, or what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The fingerprint of the key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What its files are: `intact`, `changed`, `missing`, `unread` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// Files that are changed; up to 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ChangedFile>,
    /// Paths of files that are missing; up to 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Paths of configuration files that are changed; up to 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<String>,
    /// Files that could not be read; up to 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<ChangedFile>,
}

/// A file of a package, and what is different.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct ChangedFile {
    /// Its path below the root.
    pub path: String,
    /// What is different: `type`, `content`, `size`, `target`, `mode`, `owner`, `group`, `acl`, or why it could not be
    /// read.
    pub what: String,
}

/// A file, directory or symbolic link that a tree of the builder's brought, as it was left in the root.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct TreeFile {
    /// Its path below the root.
    #[serde(deserialize_with = "below_root")]
    #[schemars(regex(pattern = "^[^/]"))]
    pub path: String,
    /// `file`, `directory` or `link`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its mode, as four octal digits. A link has none.
    #[serde(default, deserialize_with = "octal", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-7]{4}$"))]
    pub mode: Option<String>,
    /// Its user, a number of the root's.
    pub uid: u32,
    /// Its group, a number of the root's.
    pub gid: u32,
    /// The size of a file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of a file, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The tree that it came from, as on the command line.
    pub from: String,
    /// The tool that put it there: `mkroot`, before packages, or `configure`, after them.
    pub tool: String,
}

impl TreeFile {
    /// Returns its mode as a number.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        u32::from_str_radix(self.mode.as_deref()?, 8).ok()
    }
}

/// What the root was configured to be, by all runs. No password, no hash and no key is in it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Configured {
    /// The host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The locales; the first is `LANG`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locales: Vec<String>,
    /// The time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// The console's keymap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keymap: Option<String>,
    /// The users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<ConfiguredUser>,
    /// root's account: `locked`, or `password` where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The group that may use sudo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sudo: Option<String>,
    /// Users, and groups after a percent sign, that may use sudo without a password.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nopasswd: Vec<String>,
    /// The groups that were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The units that are enabled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// The units that are disabled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<String>,
    /// The units that are masked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<String>,
    /// The units that are enabled for every user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub global_units: Vec<String>,
    /// The target that is booted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_target: Option<String>,
    /// Variables of os-release(5), and their values.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub os_release: Map<String, Value>,
    /// The mount points in fstab(5).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fstab: Vec<String>,
    /// The mirrors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// How names are resolved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolv_conf: Vec<String>,
    /// The repositories that the root's own pacman.conf(5) was given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
    /// How the network is configured: `dhcp`, and names of files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<String>,
    /// The rings that the first boot populates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first_boot_keyring: Vec<String>,
    /// Who can log in, where the root is for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// What the last run changed: arrays of paths in the root, by the step that changed them.
    pub changed: Map<String, Value>,
}

/// A user that something was asked for.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct ConfiguredUser {
    /// The user's name.
    pub name: String,
    /// The user's supplementary groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The login shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Whether a password was set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub password: bool,
    /// Whether keys of ssh were added.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ssh_key: bool,
}

/// Who can log in to the machine that a root is for.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Login {
    /// Users who have a password, or need none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    /// Users who have a key of ssh, and those but root who have a password.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<String>,
    /// What is missing for ssh: `sshd`, a program; `sshd-unit`, one that is enabled; `network`, an enabled unit that configures
    /// one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// A file system that an image is to have.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// Where it is mounted: an absolute path in the root, or `none` for swap.
    pub at: String,
    /// Its type, as mount(8) calls it: `ext4`, `vfat`, `btrfs`, `erofs`, `squashfs`, `xfs` or `swap`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its UUID, as blkid(8) shows it: `1A2B-3C4D` for FAT, empty for squashfs, which has none.
    pub uuid: String,
    /// The subvolume of a btrfs that is mounted there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<String>,
    /// Where the root grows it on a larger disk, with its partition: the GUID of that partition's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grows: Option<String>,
}

/// Counts of what `verify` found.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Verify {
    /// How many packages are installed.
    pub packages: usize,
    /// How the last transaction ended: `complete`, `unfinished` or `unknown`.
    pub transaction: String,
    /// How many archives were fetched again.
    pub fetched: usize,
    /// How many packages have each word of `signature`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Map<String, Value>>,
    /// How many packages have each word of `files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Map<String, Value>>,
    /// How many configuration files were changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<usize>,
    /// The files of trees that differ from the document. Not there where it has none, or files were not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<VerifiedTree>,
    /// What belongs to no package, where the root began with an archive and files were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unowned: Option<Unowned>,
    /// Whether each image of the document can boot. Not there where that was not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot: Vec<VerifiedBoot>,
}

/// What belongs to no package.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Unowned {
    /// How many files, and directories with all that is in them.
    pub count: usize,
    /// The paths of up to 100; that of a directory ends with a slash.
    pub paths: Vec<String>,
}

/// What `verify --boot` found.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct VerifiedBoot {
    /// The image.
    pub disk: PathBuf,
    /// How many entries of the boot loader's menu were checked.
    pub entries: usize,
    /// Buses from which every entry has all drivers to the root, and nothing else is wrong or unproven.
    pub buses: Vec<String>,
    /// What keeps it from booting; up to 100 lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
    /// What could not be found out; up to 100 lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unproven: Vec<String>,
}

/// What `verify` found of the files of trees.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct VerifiedTree {
    /// How many are as the document has them.
    pub intact: usize,
    /// Files that are changed; up to 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ChangedFile>,
    /// Paths of files that are missing; up to 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Files that could not be read; up to 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<ChangedFile>,
}

/// An archive that was written.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// Its absolute path.
    pub file: String,
    /// Its format.
    pub format: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// How many members it has.
    pub entries: u64,
}

/// A disk image that was written.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Its absolute path.
    pub file: PathBuf,
    /// The size of the disk in bytes.
    pub size: u64,
    /// The partitions, in their order.
    pub partitions: Vec<DiskPartition>,
    /// The kind of its partition table, where it is not a GPT: `hybrid`, `mbr` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The board that it is for: as `--board` names it, a file by its absolute path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// Bytes in a sector, where it is not 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sector: Option<u64>,
    /// The SHA-256 of the file, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The format of the file, where it is not a raw image: `zst`, `xz`, `gz`, or as qemu-img(1) calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// What its boot loader starts, an entry of its menu each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Vec<BootEntry>>,
}

/// An entry of a boot loader's menu, with paths below the root.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct BootEntry {
    /// The file that has it.
    pub file: String,
    /// The kernel.
    pub kernel: String,
    /// The files of the initramfs, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub initramfs: Vec<String>,
    /// The devicetree, or with a slash at its end the directory that the boot loader looks in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devicetree: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// A partition of a disk image.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct DiskPartition {
    /// Its name.
    pub name: String,
    /// Its type: a GUID, or two hexadecimal digits of an MBR.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its UUID, as the kernel calls it: of an MBR, the number of the disk and its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The file system on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<DiskFileSystem>,
    /// The path in the root where it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// The file system on a partition.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct DiskFileSystem {
    /// Its type, as mount(8) calls it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its UUID; empty for squashfs, which has none.
    pub uuid: String,
    /// The subvolumes of a btrfs: their names, and where in the root they are mounted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subvolumes: BTreeMap<String, String>,
}

/// What `reap` found and did.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Reap {
    /// The processes that were ended.
    pub ended: Vec<Process>,
    /// The processes that a dry run found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_end: Option<Vec<Process>>,
    /// The processes that only use the root.
    pub in_the_way: Vec<Process>,
    /// The names of the stale sockets that were removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<String>,
    /// How many processes the kernel did not let us look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<usize>,
}

/// A process.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its program's name.
    pub program: String,
    /// Its user's name.
    pub user: String,
    /// How it uses the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
}

/// What `unmount` found and did: paths relative to the root, the empty one for the root itself.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Unmount {
    /// What was unmounted, in that order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmounted: Option<Vec<String>>,
    /// What is still mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Vec<String>>,
    /// What was only detached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detached: Vec<String>,
    /// What is mounted below the root and is not this pipeline's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// What a dry run found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_unmount: Option<Vec<String>>,
    /// Whether the root was deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// One tool's run.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Step {
    /// The tool's name.
    pub tool: String,
    /// The tool's version.
    #[serde(default)]
    pub version: String,
    /// When its work began: seconds since 1970-01-01 UTC.
    #[serde(default)]
    pub started: f64,
    /// How long it worked, in seconds; waiting for its input does not count.
    #[serde(default)]
    pub seconds: f64,
    /// How much of that it waited for pacman or another program that does the work, in seconds.
    #[serde(default)]
    pub child_seconds: f64,
}

/// Why a tool failed.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct ErrorRecord {
    /// The tool's name.
    #[serde(default)]
    pub tool: String,
    /// A word of the table of exit statuses.
    #[serde(default)]
    pub code: String,
    /// What failed and why, as on stderr, without the tool's name.
    #[serde(default)]
    pub message: String,
    /// The exit status.
    #[serde(deserialize_with = "exit")]
    #[schemars(range(min = 1, max = 255))]
    pub exit: u8,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What failed after that, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<Vec<ErrorRecord>>,
}

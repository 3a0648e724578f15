//! What an archive is checked by, before anything of it is unpacked.

use super::extract::Counted;
use package::digest::{Sha256Reader, is_sha256};
use pacman::gpg::detached::{KEYS_LIMIT, Keyring, find_gpg};
use pacman::gpg::status::{Signature, State};
use stage::members::{Archive, Base};
use stage::{Code, Context, Document, Doing, Failure, Progress, Unit, document, quote};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

/// Exactly one of these is given, beside `--from`: clap puts all that is here into the group.
#[derive(Debug, clap::Args)]
#[group(id = "proof", multiple = false, args = ["sha256", "key", "receipt", "unverified"])]
pub(crate) struct Options {
    /// The SHA-256 of the archive
    #[arg(long, value_name = "HEX", requires = "archive")]
    sha256: Option<String>,

    /// The archive is signed by a key in FILE
    #[arg(long, value_name = "FILE", requires = "archive")]
    key: Option<PathBuf>,

    /// FILE is the receipt of the pipe that wrote the archive
    #[arg(long, value_name = "FILE", requires = "archive")]
    receipt: Option<PathBuf>,

    /// Take the archive as it is, whoever made it
    #[arg(long, requires = "archive")]
    unverified: bool,
}

/// An archive that was checked.
pub(crate) struct Proof {
    /// It, open.
    pub(crate) file: File,
    /// Its absolute path.
    pub(crate) path: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its SHA-256, in hex.
    pub(crate) sha256: String,
    /// What it was checked by, in the document's word.
    pub(crate) checked: &'static str,
    /// The fingerprint of the key that signed it.
    pub(crate) key: Option<String>,
    /// The receipt that has its SHA-256.
    pub(crate) receipt: Option<Document>,
}

impl Proof {
    /// Returns what the document has of it.
    pub(crate) fn record(&self, entries: u64) -> Base {
        Base {
            file: self.path.display().to_string(),
            size: self.size,
            sha256: self.sha256.clone(),
            checked: self.checked.to_owned(),
            key: self.key.clone(),
            entries,
        }
    }
}

impl Options {
    /// Checks an archive, which may have its signature in another file than beside it.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where it is another one than was asked for; when it cannot be read.
    pub(crate) fn check(&self, context: &Context, archive: &Path, signature: Option<&Path>) -> Result<Proof, Failure> {
        let doing = || format!("reading {}", quote(archive));
        let path = archive.canonicalize().map_err(|e| not_there(&e, doing()))?;
        if path.to_str().is_none() {
            return Err(Failure::new(Code::Usage, format!("{}: the path is not UTF-8", doing())));
        }
        let file = stage::file::open(&path).map_err(|e| not_there(&e, doing()))?;
        let size = file.metadata().doing(Code::Os, doing)?.len();
        let checking = || format!("checking {}", quote(archive));
        let wanted = self.sha256.as_deref().map(str::to_ascii_lowercase);
        if let Some(wanted) = wanted.as_deref().filter(|text| !is_sha256(text)) {
            return Err(Failure::new(Code::Usage, format!("reading '--sha256 {wanted}': not a SHA-256 in hex")));
        }
        let receipt = self.receipt.as_deref().map(read_receipt).transpose()?;
        let mut proof = Proof { file, path, size, sha256: String::new(), checked: Base::NOTHING, key: None, receipt };
        let refused = |why: String| Err(Failure::new(Code::NotVerified, format!("{}: {why}", checking())));
        if let Some(key) = &self.key {
            let signer = signer(context, &proof, key, signature);
            let (key, sha256) = signer.map_err(|failure| failure.while_doing(checking()))?;
            return Ok(Proof { key: Some(key), sha256, checked: "signature", ..proof });
        }
        let progress = context.progress("hashing", Unit::Bytes, Some(size));
        proof.sha256 = hash(&proof.file, &progress, &mut io::sink()).doing(Code::Os, doing)?;
        if let Some(wanted) = wanted {
            if wanted != proof.sha256 {
                return refused(format!("its SHA-256 is {}, and not {wanted}", proof.sha256));
            }
            proof.checked = "sha256";
        } else if let Some(receipt) = &proof.receipt {
            let archives: Vec<Archive> = receipt.get().unwrap_or_default();
            if !archives.iter().any(|archive| archive.sha256 == proof.sha256) {
                return refused(format!("the receipt has no archive with its SHA-256, {}", proof.sha256));
            }
            // A receipt of what nobody checked says no more of it.
            let began = receipt.get::<Base>();
            proof.checked =
                if began.is_some_and(|base| base.checked == Base::NOTHING) { Base::NOTHING } else { "receipt" };
        } else {
            context.warn(format_args!("nothing says who made {}: --unverified", quote(archive)));
        }
        Ok(proof)
    }
}

/// Returns the key in the file `key` that signed the archive, and the SHA-256 of what it signed.
fn signer(context: &Context, proof: &Proof, key: &Path, signature: Option<&Path>) -> Result<(String, String), Failure> {
    let beside = || {
        let mut path = proof.path.clone().into_os_string();
        path.push(".sig");
        PathBuf::from(path)
    };
    let path = signature.map_or_else(beside, Path::to_owned);
    let doing = || format!("reading the signature {}", quote(&path));
    let signature =
        stage::file::open(&path).map_err(|e| not_there(&e, doing()).hint("give it with --signature FILE"))?;
    let signature = stage::file::read_to_limit(signature, KEYS_LIMIT).doing(Code::Failed, doing)?;
    let gpg = find_gpg(context)?;
    let keyring = Keyring::from_files(context, &gpg, &[key.to_owned()])?;
    let (file, progress) = (&proof.file, context.progress("hashing", Unit::Bytes, Some(proof.size)));
    let (found, fed) = keyring.check_fed(context, &gpg, &signature, |gpg| hash(file, &progress, gpg))?;
    let sha256 = match fed {
        // gpg ended before it had all, and says why.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => None,
        fed => Some(fed.doing(Code::Os, || format!("reading {}", quote(&proof.path)))?),
    };
    let bad = found.iter().find(|signature| !is_good(signature));
    let signed = match (bad, found.first(), sha256) {
        (None, Some(first), Some(sha256)) => return Ok((first.key.clone(), sha256)),
        (Some(bad), ..) => bad,
        _ => return Err(Failure::new(Code::NotVerified, "it has no signature")),
    };
    let why = match signed.state {
        State::Bad => "is bad: the archive or its signature was altered".to_owned(),
        State::NoKey => format!("is of a key that is not in {}", keyring.name),
        State::Expired(_) => "has expired".to_owned(),
        State::KeyExpired(_) => "is of a key that has expired".to_owned(),
        State::KeyRevoked => "is of a key that was revoked".to_owned(),
        State::Good(_) => "is over text and not over bytes (class 01)".to_owned(),
        State::Unusable(ref why) => format!("cannot be checked by gpg (error {why})"),
    };
    Err(Failure::new(Code::NotVerified, format!("its signature by {} {why}", signed.key)))
}

fn is_good(signature: &Signature) -> bool {
    matches!(signature.state, State::Good(_)) && !signature.text
}

fn not_there(error: &io::Error, doing: String) -> Failure {
    let code = if error.kind() == ErrorKind::NotFound { Code::NotFound } else { Code::Failed };
    Failure::new(code, format!("{doing}: {error}"))
}

fn read_receipt(path: &Path) -> Result<Document, Failure> {
    let doing = || format!("reading the receipt {}", quote(path));
    let file = stage::file::open(path).map_err(|e| not_there(&e, doing()))?;
    let text = stage::file::read_to_limit(file, document::LIMIT).doing(Code::Failed, doing)?;
    let receipt = Document::parse(&text, &quote(path))?;
    match receipt.failed() {
        Some(_) => Err(Failure::new(Code::Failed, format!("{}: it is of a pipe that failed", doing()))),
        None => Ok(receipt),
    }
}

/// Hashes a file, from its beginning, and writes it to `copy`.
fn hash(mut file: &File, progress: &Progress, copy: &mut impl Write) -> io::Result<String> {
    file.rewind()?;
    let mut reader = Sha256Reader::new(Counted { inner: file, progress });
    io::copy(&mut reader, copy)?;
    Ok(reader.finish())
}

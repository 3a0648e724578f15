//! Signing with a key of the user's own, in the user's own home of gpg: its configuration is read and its agent asked, as when
//! the user runs gpg.

use super::{Gpg, failure, run};
use stage::{Code, Doing, Failure, child};
use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A key that signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    gpg: Gpg,
    home: Option<PathBuf>,
    key: String,
    time: Option<u64>,
}

impl Signer {
    /// Returns the key with this fingerprint, whose secret part is in `home`, or else in gpg's own. Signatures are of now, or of
    /// `time`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where there is no gpg, or the secret key is not there.
    pub fn new(key: &str, home: Option<&Path>, time: Option<u64>) -> Result<Self, Failure> {
        let signer = Self { gpg: Gpg::find()?, home: home.map(Path::to_owned), key: key.to_owned(), time };
        let found = run(signer.command().args(["--list-secret-keys", "--", key]))?;
        if !found.success {
            return Err(Failure::new(
                Code::NotFound,
                format!("looking for the secret key {key}: gpg: {}", found.error),
            )
            .hint("gpg --list-secret-keys --with-colons shows fingerprints; --gpgdir DIR is another home of gpg"));
        }
        Ok(signer)
    }

    fn command(&self) -> Command {
        let mut command = child::command(&self.gpg.program);
        command.args(["--batch", "--no-tty", "--quiet", "--no-auto-check-trustdb"]);
        if let Some(home) = &self.home {
            command.arg("--homedir").arg(home);
        }
        command
    }

    /// Returns a detached signature of what `data` holds, not armoured.
    ///
    /// # Errors
    ///
    /// When gpg does not make one.
    pub fn sign(&self, mut data: File) -> Result<Vec<u8>, Failure> {
        let mut signature = self.sign_once(&data)?;
        // gpg stops its clock at any second but the present one (gnupg_set_time), which has passed where that went wrong.
        if self.time.is_some_and(|time| !is_of(&signature, time)) {
            data.rewind().doing(Code::Os, || "reading once more what is signed")?;
            signature = self.sign_once(&data)?;
        }
        // The first bit of every OpenPGP packet is set (RFC 9580, 4.2).
        match signature.first() {
            Some(byte) if byte & 0x80 != 0 => Ok(signature),
            _ => Err(failure(&self.doing(), "it wrote no signature")),
        }
    }

    fn sign_once(&self, data: &File) -> Result<Vec<u8>, Failure> {
        let mut command = self.command();
        if let Some(time) = self.time {
            command.arg(format!("--faked-system-time={time}!"));
        }
        // Whatever the user's configuration says.
        command.args(["--no-armor", "--no-textmode", "--output=-", "--local-user", &self.key, "--detach-sign"]);
        command.stdin(data.try_clone().doing(Code::Os, || self.doing())?);
        run(&mut command)?.succeeded(&self.doing())
    }

    fn doing(&self) -> String {
        format!("signing with {}", self.key)
    }
}

/// Returns whether a signature says that it was made at this time, in seconds since 1970: a subpacket of five octets, the second one's
/// type 2 (RFC 9580, 5.2.3.11).
fn is_of(signature: &[u8], time: u64) -> bool {
    let time = u32::try_from(time).unwrap_or(u32::MAX).to_be_bytes();
    let subpacket = [&[5, 2][..], &time].concat();
    signature.windows(subpacket.len()).any(|bytes| bytes == subpacket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_signature() {
        // The beginning of one of gpg 2.2.40.
        let signature = b"\x88\x75\x04\x00\x16\x08\x00\x1d\x16\x21\x04\x18\x70\x1b\x3c\xca\x5e\xf4\x78\xa4\x00\x5a\xf0\xec\x8f\xa0\xc3\x64\
            \x87\xd2\x72\x05\x02\x6b\x0d\xae\x91\x00\x0a\x09\x10\xec\x8f\xa0\xc3\x64\x87\xd2\x72";
        assert!(is_of(signature, 1_796_058_769));
        assert!(!is_of(signature, 1_796_058_768));
    }
}

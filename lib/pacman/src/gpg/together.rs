//! Checking many signatures with one gpg.
//!
//! Most of what gpg takes for a package is its start. It checks several messages in a run, but of detached signatures only one. So
//! a signature and its data are written as a message that gpg takes for the same: the signature packet, and the data as a literal
//! data packet (RFC 9580, 4.2 and 5.9). The framing is ours: a signature file counts only where it is one signature packet and
//! nothing else, as what follows a signature is what gpg takes for its data.
//!
//! Only a good signature counts here. What else gpg says, [`Home::verify`] finds out from the detached signature; so it does for
//! what comes after a bad one, where gpg ends (`--batch`).

use super::status::{self, Signature, State};
use super::{Home, run};
use stage::Failure;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use tempfile::NamedTempFile;

/// A signature, and what it is of: a regular file that was just opened.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The signature.
    pub signature: &'a [u8],
    /// The file.
    pub data: &'a File,
}

impl Home<'_> {
    /// Checks signatures. Of each that is good, for a key that the keyring has, returns what gpg found; `None` for all others,
    /// also for those that are good in a form that is not checked here.
    ///
    /// # Errors
    ///
    /// When gpg cannot be run.
    pub fn verify_together(&self, all: &[Signed<'_>]) -> Result<Vec<Option<Signature>>, Failure> {
        let mut messages = Vec::new();
        for signed in all {
            // Where no more files can be open, each is checked alone. Of what cannot be read, Home::verify says why.
            let Ok(mut message) = NamedTempFile::new_in(&self.path) else {
                messages.push(None);
                continue;
            };
            let is_whole =
                is_one_signature(signed.signature) && write_message(message.as_file_mut(), *signed).unwrap_or(false);
            messages.push(is_whole.then_some(message));
        }
        // Without files gpg would read stdin.
        if messages.iter().all(Option::is_none) {
            return Ok(messages.iter().map(|_| None).collect());
        }
        let mut command =
            self.command(&["--no-auto-check-trustdb", "--status-fd=1", "--no-armor", "--verify-files", "--"]);
        command.args(messages.iter().flatten().map(NamedTempFile::path));
        let out = run(&mut command)?;
        let text = String::from_utf8_lossy(&out.stdout);
        let found = |message: NamedTempFile| good(&text, message.path().to_str()?);
        Ok(messages.into_iter().map(|message| message.and_then(found)).collect())
    }
}

/// Writes the message. Returns whether the data is as long as the message says: the file may be written to.
fn write_message(out: &mut File, Signed { signature, mut data }: Signed<'_>) -> io::Result<bool> {
    // A binary file without a name and a date.
    const HEAD: &[u8; 6] = b"b\0\0\0\0\0";
    let size = data.metadata()?.len();
    let Some(length) = u32::try_from(size).ok().and_then(|size| size.checked_add(HEAD.len() as u32)) else {
        return Ok(false);
    };
    out.write_all(&[signature, &[0xcb, 0xff], &length.to_be_bytes(), HEAD].concat())?;
    data.rewind()?;
    let copied = io::copy(&mut data.take(size + 1), out)?;
    Ok(copied == size)
}

/// Returns whether that is one signature packet, of a length that its head says, and nothing else.
fn is_one_signature(bytes: &[u8]) -> bool {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    let (tag, length, body) = match bytes {
        // The older format: lengths of one, two and four octets.
        [head @ 0x80..=0xbf, rest @ ..] => {
            let Some((length, body)) = rest.split_at_checked(1 << (head & 3)).filter(|_| head & 3 != 3) else {
                return false;
            };
            (head >> 2 & 0xf, number(length), body)
        }
        [head @ 0xc0..=0xff, 0xff, a, b, c, d, body @ ..] => (head & 0x3f, number(&[*a, *b, *c, *d]), body),
        [head @ 0xc0..=0xff, first @ 0..=191, body @ ..] => (head & 0x3f, u64::from(*first), body),
        [head @ 0xc0..=0xff, first @ 192..=223, second, body @ ..] => {
            (head & 0x3f, u64::from(*first - 192) * 256 + u64::from(*second) + 192, body)
        }
        _ => return false,
    };
    tag == 2 && length == body.len() as u64
}

/// Returns what gpg found of the message at `path`, where that is one good signature over binary data.
fn good(text: &str, path: &str) -> Option<Signature> {
    // At the beginning of a line only: a user ID can have these words in it.
    let text = format!("\n{text}");
    let mut files = text.split("\n[GNUPG:] FILE_START ").skip(1);
    let of = files
        .find(|of| of.lines().next().and_then(|line| line.split_once(' ')).is_some_and(|(_, name)| name == path))?;
    match <[Signature; 1]>::try_from(status::parse(of)) {
        Ok([signature]) if matches!(signature.state, State::Good(_)) && !signature.text => Some(signature),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpg::Gpg;
    use crate::gpg::status::Trust;
    use std::fs::{self, DirBuilder};
    use std::os::unix::fs::DirBuilderExt;
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn only_one_signature_packet_counts() {
        let body = |n: usize| vec![4; n];
        let packet = |head: &[u8], n| [head.to_vec(), body(n)].concat();
        let good = [
            packet(&[0x88, 3], 3),
            packet(&[0x89, 1, 0x33], 0x133),
            packet(&[0x8a, 0, 0, 0, 9], 9),
            packet(&[0xc2, 191], 191),
            packet(&[0xc2, 192, 8], 200),
            packet(&[0xc2, 0xff, 0, 0, 1, 0], 256),
        ];
        for bytes in &good {
            assert!(is_one_signature(bytes), "{:?}", &bytes[..4]);
            assert!(!is_one_signature(&bytes[..bytes.len() - 1]));
            for more in [&b"\0"[..], &[0xcb, 1, b'b'], bytes] {
                assert!(!is_one_signature(&[bytes, more].concat()), "{:?}", &bytes[..4]);
            }
        }
        for bad in [
            packet(&[], 0),
            packet(&[0x88], 0),
            // Of no length, and of a part.
            packet(&[0x8b], 3),
            packet(&[0xc2, 224], 1),
            // Other packets.
            packet(&[0xcb, 3], 3),
            packet(&[0xac, 3], 3),
            b"-----BEGIN PGP SIGNATURE-----\n".to_vec(),
        ] {
            assert!(!is_one_signature(&bad), "{bad:?}");
        }
    }

    #[test]
    fn a_message_is_a_signature_and_a_literal() {
        let (mut data, mut out) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        data.write_all(b"data").unwrap();
        assert!(write_message(&mut out, Signed { signature: b"S", data: &data }).unwrap());
        let mut text = Vec::new();
        out.rewind().and_then(|()| out.read_to_end(&mut text)).unwrap();
        assert_eq!(text, b"S\xcb\xff\0\0\0\x0ab\0\0\0\0\0data");
        // What no length of a packet can say.
        data.set_len(u64::from(u32::MAX)).unwrap();
        assert!(!write_message(&mut out, Signed { signature: b"S", data: &data }).unwrap());
    }

    /// Runs gpg; the agent that it starts ends with it.
    fn gpg(home: &Path, args: &[&str]) {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "gpg", "--homedir"]).arg(home);
        let out = command.args(["--batch", "--quiet", "--no-tty", "--passphrase="]).args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    #[test]
    fn gpg_judges_each_as_it_does_alone() {
        let dir = tempfile::Builder::new().prefix("v").tempdir_in("/tmp").unwrap();
        let keys = dir.path().join("k");
        DirBuilder::new().mode(0o700).create(&keys).unwrap();
        gpg(&keys, &["--quick-gen-key", "A <a@test.invalid>", "ed25519", "sign", "never"]);
        let signed = |text: &str| {
            let path = dir.path().join(text);
            fs::write(&path, text).unwrap();
            gpg(&keys, &["--detach-sign", path.to_str().unwrap()]);
            (fs::read(dir.path().join(format!("{text}.sig"))).unwrap(), File::open(path).unwrap())
        };
        let [(one, first), (two, second)] = ["one", "two"].map(signed);
        let program = Gpg::find().unwrap();
        let files = ["pubring.kbx", "trustdb.gpg"].map(|name| (name, fs::read(keys.join(name)).unwrap()));
        let home = Home::create(&program, &dir.path().join("h"), &files).unwrap();
        // It is time for gpg to check the trust database.
        home.keys().unwrap();
        // What gpg would take for the data of the signature.
        let own = [&*one, b"\xcb\x09b\0\0\0\0\0one"].concat();
        let armored = [b"\n".to_vec(), one.clone()].concat();
        let all =
            [(&one, &first), (&two, &second), (&own, &second), (&own, &first), (&armored, &first), (&one, &second)];
        let all = all.map(|(signature, data)| Signed { signature, data });
        let found = home.verify_together(&all).unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, false, false, false]);
        assert_eq!(found[0].clone().unwrap().state, State::Good(Trust::Full));
        let alone = home.verify(&one, File::open(dir.path().join("one")).unwrap()).unwrap();
        assert_eq!(found[0].as_slice(), alone);
        assert_eq!(home.verify_together(&all[2..4]).unwrap(), [None, None]);
        assert_eq!(fs::read_dir(dir.path().join("h")).unwrap().filter(is_ours).count(), 0);
    }

    /// Returns whether it is a temporary file.
    fn is_ours(entry: &io::Result<fs::DirEntry>) -> bool {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp")
    }

    #[test]
    fn each_message_has_its_own_verdict() {
        let key = "A".repeat(40);
        let of = |name: &str, class: &str| {
            format!(
                "[GNUPG:] FILE_START 1 {name}\n[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG {} x\n\
                 [GNUPG:] VALIDSIG {key} d 1 0 4 0 1 10 {class} {key}\n[GNUPG:] TRUST_FULLY 0 pgp\n[GNUPG:] FILE_DONE\n",
                &key[..16]
            )
        };
        let bad = "[GNUPG:] FILE_START 1 /b\n[GNUPG:] NEWSIG\n[GNUPG:] BADSIG AAAAAAAAAAAAAAAA x\n[GNUPG:] FILE_DONE\n";
        let named = of("/a", "00").replacen(" x\n", " [GNUPG:] FILE_START 1 /e\n", 1);
        let text = [named, bad.to_owned(), of("/c", "01"), of("/bb", "00")].concat();
        assert_eq!(good(&text, "/a").unwrap().key, key);
        assert!(good(&text, "/bb").is_some());
        for none in ["/b", "/c", "/d", "/e", ""] {
            assert_eq!(good(&text, none), None, "{none}");
        }
    }
}

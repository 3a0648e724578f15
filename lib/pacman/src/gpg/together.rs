//! Checking many signatures with one gpg.
//!
//! Most of what gpg takes for a small package is its start. It checks several messages in a run, but of detached signatures only one,
//! whose data it reads byte by byte. So a signature and its data are written as a message that gpg takes for the same: the signature
//! packet, and the data as a literal data packet (RFC 9580, 4.2 and 5.9). gpg reads each from a pipe. The framing is ours: a
//! signature file counts only where it is one signature packet and nothing else, as what follows a signature is what gpg takes for
//! its data.
//!
//! Only a good signature counts here. What else gpg says, [`Home::verify`] finds out from the detached signature; so it does for
//! what comes after a bad one, where gpg ends (`--batch`).

use super::status::{self, Signature, State};
use super::{Home, run_with};
use rustix::fs::sendfile;
use rustix::io::retry_on_intr;
use stage::{Failure, child};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};

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
        let mut command =
            self.command(&["--no-auto-check-trustdb", "--status-fd=1", "--no-armor", "--verify-files", "--"]);
        let (mut paths, mut messages, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for signed in all {
            // Where no more files can be open, each is checked alone. Of what cannot be read, Home::verify says why.
            let made = Message::of(*signed).zip(io::pipe().ok());
            paths.push(made.map(|(message, (read, write))| {
                let path = format!("/proc/self/fd/{}", read.as_raw_fd());
                command.arg(&path);
                ends.push(read.into());
                messages.push((message, File::from(OwnedFd::from(write))));
                path
            }));
        }
        // Without files gpg would read stdin.
        if messages.is_empty() {
            return Ok(all.iter().map(|_| None).collect());
        }
        rootfs::inherit(&mut command, ends);
        let mut whole = Vec::new();
        let feed = || whole.extend(messages.into_iter().map(|(message, pipe)| message.write(pipe).unwrap_or(false)));
        let out = run_with(command, |command| child::output_fed(command, feed))?;
        let text = String::from_utf8_lossy(&out.stdout);
        let mut whole = whole.into_iter();
        let counts = paths.into_iter().map(|path| path.filter(|_| whole.next() == Some(true)));
        Ok(counts.map(|path| good(&text, &path?)).collect())
    }
}

/// A signature and its data as a message.
struct Message<'a> {
    /// What goes before the data.
    head: Vec<u8>,
    data: &'a File,
    size: u64,
}

impl<'a> Message<'a> {
    /// Returns that of one signature, and of data whose length a message can say.
    fn of(Signed { signature, data }: Signed<'a>) -> Option<Self> {
        // A binary file without a name and a date.
        const LITERAL: &[u8; 6] = b"b\0\0\0\0\0";
        let size = data.metadata().ok()?.len();
        let length = u32::try_from(size).ok()?.checked_add(LITERAL.len() as u32)?;
        let head = [signature, &[0xcb, 0xff], &length.to_be_bytes(), LITERAL].concat();
        is_one_signature(signature).then_some(Self { head, data, size })
    }

    /// Writes it. Returns whether the data is as long as it says: the file may be written to.
    fn write(self, mut out: File) -> io::Result<bool> {
        let mut data = self.data;
        data.rewind()?;
        out.write_all(&self.head)?;
        let mut left = usize::try_from(self.size).map_err(io::Error::other)?;
        while left > 0 {
            match retry_on_intr(|| sendfile(&out, data, None, left))? {
                0 => return Ok(false),
                n => left -= n,
            }
        }
        Ok(data.read(&mut [0])? == 0)
    }
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
        let message = |data| Message::of(Signed { signature: b"\x88\x01S", data });
        assert!(message(&data).unwrap().write(out.try_clone().unwrap()).unwrap());
        let mut text = Vec::new();
        out.rewind().and_then(|()| out.read_to_end(&mut text)).unwrap();
        assert_eq!(text, b"\x88\x01S\xcb\xff\0\0\0\x0ab\0\0\0\0\0data");
        // Of a file that is written to meanwhile.
        for size in [3, 5] {
            let message = message(&data).unwrap();
            data.set_len(size).unwrap();
            assert!(!message.write(tempfile::tempfile().unwrap()).unwrap());
            data.set_len(4).unwrap();
        }
        // What no length of a packet can say.
        data.set_len(u64::from(u32::MAX)).unwrap();
        assert!(message(&data).is_none());
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
        // gpg ends at the first, and nobody reads the second, which is more than a pipe holds.
        let mut long = tempfile::tempfile().unwrap();
        long.write_all(&vec![0; 1 << 20]).unwrap();
        let all = [(&one, &second), (&one, &long), (&one, &first)].map(|(signature, data)| Signed { signature, data });
        assert_eq!(home.verify_together(&all).unwrap(), [None, None, None]);
        let all = [(&one, &first), (&one, &long)].map(|(signature, data)| Signed { signature, data });
        assert_eq!(home.verify_together(&all).unwrap().iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
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

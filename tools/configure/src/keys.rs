//! `--ssh-key`: public keys as sshd(8) takes them in authorized_keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What the names of types of keys begin with.
const TYPES: [&str; 4] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"];

/// Returns the keys of a file, one a line.
///
/// # Errors
///
/// Why it is not a list of public keys.
pub(crate) fn parse(text: &str) -> Result<Vec<String>, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err("it is a private key: give the file that ends in .pub".into());
    }
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        match line {
            line if line.is_empty() || line.starts_with('#') => {}
            line if is_key(line) => keys.push(line.to_owned()),
            _ => return Err(format!("line {number} is not a public key")),
        }
    }
    if keys.is_empty() {
        return Err("it has no key".into());
    }
    Ok(keys)
}

/// A key is a type and, in base64, the key itself, which begins with the type again (RFC 4253, 6.6). Options may precede
/// them, and a comment may follow.
fn is_key(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let mut names_its_type = || {
        let kind = words.find(|word| TYPES.iter().any(|t| word.starts_with(t)))?;
        let key = STANDARD.decode(words.next()?).ok()?;
        let (length, rest) = key.split_first_chunk::<4>()?;
        let named = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        Some(named == kind.as_bytes() && rest.len() > named.len())
    };
    !line.chars().any(|c| c.is_control() && c != '\t') && names_its_type() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN a@b";

    #[test]
    fn public_keys_are_taken_and_nothing_else() {
        let text = format!("# mine\n{KEY}\n\nno-pty {KEY}\n");
        assert_eq!(parse(&text).unwrap().len(), 2);
        let wrong_type = KEY.replacen("ssh-ed25519", "ssh-rsa", 1);
        for bad in [
            "",
            "# nothing\n",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n",
            "secret\n",
            "ssh-ed25519\n",
            "ssh-ed25519 AAAA\n",
            &KEY.replace("AAAAC3", "AAAA*3"),
            &wrong_type,
            &format!("{KEY}\x1b[2J"),
        ] {
            parse(bad).unwrap_err();
        }
    }
}

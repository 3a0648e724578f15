//! `--network`: interfaces by DHCP, a file of systemd.network(5), or a wireless network of iwd.network(5) or
//! wpa_supplicant.conf(5).
//!
//! A file of those may have a passphrase: so nothing but its name is in the document, and nobody but root reads it.

use crate::item::{Item, Site, lacks};
use crate::tree::ROOT;
use stage::document::is_name;
use stage::{Code, Failure, quote};
use std::path::{Path, PathBuf};

const NETWORKD: &str = "etc/systemd/network";
const IWD: &str = "var/lib/iwd";
const SUPPLICANT: &str = "etc/wpa_supplicant";

/// What the unit `wpa_supplicant@INTERFACE` reads: its name begins and ends so.
const SUPPLICANT_NAME: (&str, &str) = ("wpa_supplicant-", ".conf");

/// What iwd calls a network's security, at the end of its file's name (iwd.network(5)).
const SECURITIES: [&str; 3] = ["open", "psk", "8021x"];

/// All that is a wire: wireless is of another type, and bridges, tunnels and the like have a kind.
const WIRED: &str = "\
# Written by configure(8) of strapline.
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
";

/// The rest of a wireless network: iwd and wpa_supplicant connect, and give no address by themselves.
const WIRELESS: &str = "\
# Written by configure(8) of strapline.
[Match]
Type=wlan

[Network]
DHCP=yes
IgnoreCarrierLoss=3s
";

const DOING: &str = "configuring the network";

/// A file that is written.
#[derive(Debug)]
struct Written {
    directory: &'static str,
    name: String,
    text: String,
}

/// What was asked for, read.
#[derive(Debug)]
pub(crate) struct Network {
    files: Vec<Written>,
    /// For the document: `dhcp`, and names of files.
    pub(crate) names: Vec<String>,
}

impl Network {
    /// Reads `dhcp` and the files that are named.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where a file is none of these, or cannot be read.
    pub(crate) fn read(asked: &[PathBuf]) -> Result<Self, Failure> {
        let mut network = Self { files: Vec::new(), names: Vec::new() };
        for path in asked {
            let (file, name) = if path == Path::new("dhcp") {
                let (name, text) = ("20-wired.network".to_owned(), WIRED.to_owned());
                (Written { directory: NETWORKD, name, text }, "dhcp".to_owned())
            } else {
                let file = read_file(path)?;
                let name = file.name.clone();
                (file, name)
            };
            network.files.push(file);
            network.names.push(name);
        }
        let is_wireless = network.files.iter().any(|file| file.directory != NETWORKD);
        if is_wireless && network.names.iter().any(|name| name == "dhcp") {
            let (name, text) = ("25-wireless.network".to_owned(), WIRELESS.to_owned());
            network.files.push(Written { directory: NETWORKD, name, text });
        }
        Ok(network)
    }
}

fn read_file(path: &Path) -> Result<Written, Failure> {
    let usage = |why: &str| Failure::new(Code::Usage, format!("reading {}: {why}", quote(path)));
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_name(name));
    let name = name.ok_or_else(|| usage("the name is not plain UTF-8"))?;
    let (begin, end) = SUPPLICANT_NAME;
    let interface = name.strip_prefix(begin).and_then(|name| name.strip_suffix(end));
    let directory = match name.rsplit_once('.') {
        _ if interface.is_some_and(|interface| !interface.is_empty()) => SUPPLICANT,
        Some((before, "network")) if !before.is_empty() => NETWORKD,
        Some((before, security)) if !before.is_empty() && SECURITIES.contains(&security) => IWD,
        _ => {
            let why = "neither 'dhcp' nor a name that ends in .network, for iwd in .psk, .open or .8021x, \
                       or is wpa_supplicant-INTERFACE.conf";
            return Err(usage(why).hint("lay other files with --tree"));
        }
    };
    let text = stage::file::read_text(path).map_err(|failure| Failure { code: Code::Usage, ..failure })?;
    Ok(Written { directory, name: name.to_owned(), text })
}

impl Item for Network {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        for file in &self.files {
            let (program, package) = match file.directory {
                IWD => ("usr/lib/iwd/iwd", "iwd"),
                SUPPLICANT => ("usr/bin/wpa_supplicant", "wpa_supplicant"),
                _ => ("usr/lib/systemd/systemd-networkd", "systemd"),
            };
            if !site.tree.is_program(program) {
                let program = program.rsplit('/').next().unwrap_or(program);
                return Err(lacks(format!("{DOING}: the root has no {program}"), package));
            }
            site.tree.read(&format!("{}/{}", file.directory, file.name))?;
        }
        Ok(())
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        for Written { directory, name, text } in &self.files {
            let is_secret = *directory != NETWORKD;
            let mode = if is_secret { 0o600 } else { 0o644 };
            let directory_mode = if *directory == IWD { 0o700 } else { 0o755 };
            if site.tree.make_directory(directory, directory_mode, ROOT)? {
                site.tree.mark_changed(directory);
            }
            let path = format!("{directory}/{name}");
            // A passphrase that anybody could read stays so where the file is there already.
            if site.tree.attributes(&path)?.is_some_and(|is| is_secret && is != (mode, ROOT)) {
                site.tree.replace(&path, text.as_bytes(), mode, ROOT)?;
                site.tree.mark_changed(&path);
            }
            site.tree.write(&path, text, mode)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_where_its_name_says() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "[Match]\n").unwrap();
            Network::read(&[path]).map(|network| (network.files[0].directory, network.names))
        };
        assert_eq!(of("10-x.network").unwrap(), (NETWORKD, vec!["10-x.network".to_owned()]));
        for name in ["home.psk", "free.open", "work.8021x"] {
            assert_eq!(of(name).unwrap().0, IWD);
        }
        assert_eq!(of("wpa_supplicant-wlan0.conf").unwrap().0, SUPPLICANT);
        for bad in ["wpa_supplicant-.conf", "wpa_supplicant.conf", "x.netdev", ".network", "network", "x"] {
            let failure = of(bad).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{failure}");
            assert!(failure.message.contains("neither 'dhcp' nor"), "{failure}");
        }
        assert_eq!(Network::read(&["/no/such.network".into()]).unwrap_err().code, Code::Usage);
        assert_eq!(Network::read(&["dhcp".into()]).unwrap().names, ["dhcp"]);
        let both = Network::read(&["dhcp".into(), dir.path().join("home.psk")]).unwrap();
        let names: Vec<&str> = both.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["20-wired.network", "home.psk", "25-wireless.network"],
            "a wireless network needs an address"
        );
    }
}

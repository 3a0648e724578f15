//! `--first-boot-keyring`: a unit that makes pacman's keyring on the machine itself, when it boots for the first time.
//!
//! The keyring of an image must have no secret key: everybody who has the image would have it, and could sign packages for
//! every such machine (`keyring --strip` removes it). The machine makes its own, from the keys of the keyring package,
//! without a network. The commands are pacman-key's own, as its manual names them; both do only what is missing.

use crate::item::{Item, Site, lacks, not_found};
use crate::tree::ROOT;
use distro::Preset;
use stage::members::{Keyring, OwnKey};
use stage::{Code, Document, Failure};

const UNITS: &str = "etc/systemd/system";
const WANTS: &str = "etc/systemd/system/multi-user.target.wants";
const NAME: &str = "first-boot-keyring.service";
const RINGS: &str = "usr/share/pacman/keyrings";
/// Where the user's own keys are.
const KEYS: &str = "etc/pacman.d/own-keys";
/// How the unit calls pacman-key(8).
const KEY: &str = "ExecStart=/usr/bin/pacman-key --gpgdir /etc/pacman.d/gnupg.new";
const DOING: &str = "making a keyring at first boot";

/// The rings that a unit populates the keyring from, and the user's own keys that it adds.
pub(crate) struct FirstBootKeyring(pub(crate) Vec<String>, Vec<OwnKey>);

impl FirstBootKeyring {
    /// Returns the rings that `keyring` populated, else those of the distribution.
    pub(crate) fn of(document: &Document) -> Result<Self, Failure> {
        let keyring: Option<Keyring> = document.get();
        let (mut names, own) = keyring.map(|k| (k.populated, k.own)).unwrap_or_default();
        if names.is_empty()
            && let Some(preset) = Preset::of(document).map_err(|failure| Failure { code: Code::Failed, ..failure })?
        {
            names = preset.keyring.populate;
        }
        if names.is_empty() && own.is_empty() {
            let message = "--first-boot-keyring: the document names no distribution and no keyring";
            return Err(Failure::new(Code::Usage, message).hint("put 'keyring' before 'configure'"));
        }
        // They become part of a unit's command line, and the document is untrusted.
        let is_bad = |name: &&String| !stage::document::is_word(name) || name.starts_with('-');
        for key in &own {
            let of_it =
                |why| Failure::new(Code::BadDocument, format!("reading \"keyring.own\" of the document: {why}"));
            distro::check::fingerprint(&key.fingerprint).map_err(of_it)?;
        }
        match names.iter().find(is_bad) {
            None => Ok(Self(names, own)),
            Some(bad) => Err(Failure::new(
                Code::BadDocument,
                format!("reading \"keyring.populated\" of the document: invalid name of a ring: '{bad}'"),
            )),
        }
    }
}

impl Item for FirstBootKeyring {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let tree = &site.tree;
        if !tree.is_program("usr/lib/systemd/systemd") {
            return Err(lacks(format!("{DOING}: the root has no systemd"), "systemd"));
        }
        site.need("pacman-key", "pacman", DOING)?;
        site.need("gpg", "gnupg", DOING)?;
        for ring in &self.0 {
            let path = format!("{RINGS}/{ring}.gpg");
            if tree.stat(&path).is_none() {
                return Err(not_found(format!("{DOING}: no {}", tree.quote(&path)))
                    .hint(format!("install the keyring package first: '{ring}-keyring'")));
            }
        }
        tree.read(&format!("{UNITS}/{NAME}")).map(drop)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let tree = &mut site.tree;
        if !self.1.is_empty() && tree.make_directory(KEYS, 0o755, ROOT)? {
            tree.mark_changed(KEYS);
        }
        for key in &self.1 {
            tree.write(&format!("{KEYS}/{}.asc", key.fingerprint), &key.key, 0o644)?;
        }
        let date = |ring| tree.stat(&format!("{RINGS}/{ring}.gpg")).map_or(0, |stat| stat.st_mtime);
        let date = self.0.iter().map(date).max().unwrap_or_default();
        tree.write(&format!("{UNITS}/{NAME}"), &unit(&self.0, &self.1, date), 0o644)?;
        if tree.make_directory(WANTS, 0o755, ROOT)? {
            tree.mark_changed(WANTS);
        }
        // As systemctl(1) links it.
        tree.link(&format!("{WANTS}/{NAME}"), &format!("/{UNITS}/{NAME}"))
    }
}

/// Returns the unit's text; `date` is that of the newest ring, in seconds since 1970. `$$` and `%%` are systemd's `$` and `%`
/// (systemd.service(5)).
fn unit(rings: &[String], own: &[OwnKey], date: i64) -> String {
    let mut commands = Vec::new();
    if !rings.is_empty() {
        commands.push(format!("{KEY} --populate {}\n", rings.join(" ")));
    }
    for OwnKey { fingerprint, .. } in own {
        commands.push(format!("{KEY} --add /{KEYS}/{fingerprint}.asc\n"));
        commands.push(format!("{KEY} --lsign-key {fingerprint}\n"));
    }
    format!(
        "\
# Written by configure(8) of strapline.
[Unit]
Description=Make this machine's own keyring for pacman
Documentation=man:pacman-key(8) man:configure(8)
# Where there is no secret key, or where the power went before all was done.
ConditionDirectoryNotEmpty=|!/etc/pacman.d/gnupg/private-keys-v1.d
ConditionPathExists=|/etc/pacman.d/.gnupg.first-boot
ConditionPathIsReadWrite=/etc/pacman.d
After=local-fs.target systemd-random-seed.service
# Who can log in can use pacman.
Before=systemd-user-sessions.service archlinux-keyring-wkd-sync.service

[Service]
Type=oneshot
# In a copy, which takes the place of the other when it is whole: gpg cannot go on with what the power left of a keyring.
ExecStartPre=/usr/bin/sh -c 'cd /etc/pacman.d && rm -rf gnupg.new && if [ -e .gnupg.first-boot ] && [ ! -e gnupg ]; then mv .gnupg.first-boot gnupg; fi && if [ -e gnupg ]; then cp -a gnupg gnupg.new; fi'
# A board without a clock wakes up before the keys were made, and gpg takes no key from the future. The first date is the one
# that the keys had before an image gave all files an older one.
ExecStartPre=-/usr/bin/sh -c 'for t in {date} $$(stat -c %%Y /usr/share/pacman/keyrings/*.gpg /{KEYS}/*.asc 2>/dev/null); do [ \"$$(date +%%s)\" -ge \"$$t\" ] || date -s \"@$$t\"; done'
{KEY} --init
{commands}# The file system may write the keys after this directory, and the power go in between.
ExecStart=/usr/bin/sync --file-system /etc/pacman.d/gnupg.new
ExecStart=/usr/bin/sh -c 'cd /etc/pacman.d && rm -rf .gnupg.first-boot && if [ -e gnupg ]; then mv gnupg .gnupg.first-boot; fi && mv gnupg.new gnupg && rm -rf .gnupg.first-boot'
# Old kernels wait for randomness; nobody is to wait for ever to log in. The next boot tries again.
TimeoutStartSec=10min

[Install]
WantedBy=multi-user.target
",
        commands = commands.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_on_the_disk_before_it_is_done() {
        let text = unit(&["x".to_owned()], &[], 1_700_000_000);
        assert!(text.contains("for t in 1700000000 $$(stat "), "{text}");
        let at = |command: &str| text.find(command).expect(command);
        let key = "pacman-key --gpgdir /etc/pacman.d/gnupg.new";
        let order =
            [&format!("{key} --init"), &format!("{key} --populate x"), "sync --file-system ", "mv gnupg.new gnupg"];
        let order = order.map(at);
        assert!(order.is_sorted(), "{text}");
        assert!(!text.contains("/gnupg.old") && !text.contains(" gnupg.old"), "that name is anybody's");
    }

    #[test]
    fn rings_are_the_keyrings_then_the_distributions() {
        let of = |text: &str| {
            let document = Document::parse(text.as_bytes(), "x").unwrap();
            FirstBootKeyring::of(&document).map(|rings| rings.0)
        };
        let keyring = r#"{"strapline":1,"distro":"archlinux","keyring":{"dir":"/r","populated":["x"],"trusted":[]}}"#;
        assert_eq!(of(keyring).unwrap(), ["x"]);
        let distro = r#"{"strapline":1,"distro":"archlinux"}"#;
        assert_eq!(of(distro).unwrap(), ["archlinux"]);
        assert_eq!(of(r#"{"strapline":1}"#).unwrap_err().code, Code::Usage);
        let bad = keyring.replace("[\"x\"]", "[\"x; reboot\"]");
        assert_eq!(of(&bad).unwrap_err().code, Code::BadDocument);
    }
}

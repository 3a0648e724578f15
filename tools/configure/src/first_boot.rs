//! `--first-boot-keyring`: a unit that makes pacman's keyring on the machine itself, when it boots for the first time.
//!
//! The keyring of an image must have no secret key: everybody who has the image would have it, and with it could sign what
//! every such machine installs (`keyring --strip` removes it). The machine makes its own, from the keys that the keyring
//! package brought, without a network. The commands are pacman-key's own, as its manual names them; both do only what is
//! missing.

use crate::step::{Site, Step};
use stage::{Code, Failure};

/// The unit's name.
pub(crate) const NAME: &str = "first-boot-keyring.service";

const UNITS: &str = "etc/systemd/system";
const WANTS: &str = "etc/systemd/system/multi-user.target.wants";
const RINGS: &str = "usr/share/pacman/keyrings";

#[derive(Debug)]
pub(crate) struct FirstBootKeyring(pub(crate) Vec<String>);

impl Step for FirstBootKeyring {
    fn name(&self) -> &'static str {
        "first_boot_keyring"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        let Site { tree, .. } = site;
        let missing = |what: String| {
            Failure::new(
                Code::NotFound,
                format!("making a keyring at first boot: {what}"),
            )
        };
        for (there, what, package) in [
            (
                tree.is_program("usr/lib/systemd/systemd"),
                "systemd",
                "systemd",
            ),
            (tree.has_program("pacman-key"), "pacman-key", "pacman"),
            (tree.has_program("gpg"), "gpg", "gnupg"),
        ] {
            if !there {
                return Err(missing(format!("the root has no {what}"))
                    .hint(format!("strap {package} first")));
            }
        }
        for ring in &self.0 {
            let path = format!("{RINGS}/{ring}.gpg");
            if tree.stat(&path).is_none() {
                return Err(missing(format!("there is no {}", tree.quote(&path)))
                    .hint(format!("strap the keyring package first: '{ring}-keyring'")));
            }
        }
        tree.read(&format!("{UNITS}/{NAME}")).map(drop)
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let Site { tree, .. } = site;
        tree.write(&format!("{UNITS}/{NAME}"), unit(&self.0).as_bytes(), 0o644)?;
        let directory = crate::tree::Attributes {
            mode: 0o755,
            owner: (0, 0),
        };
        tree.directory(WANTS, directory)?;
        // As systemctl(1) links it.
        tree.link(&format!("{WANTS}/{NAME}"), &format!("/{UNITS}/{NAME}"))
    }
}

/// Returns the unit's text. `$$` and `%%` are systemd's `$` and `%` (systemd.service(5)).
fn unit(rings: &[String]) -> String {
    format!(
        "\
# Written by configure(8) of strapline.
[Unit]
Description=Make this machine's own keyring for pacman
Documentation=man:pacman-key(8) man:configure(8)
# Where there is no secret key, or where the power went before all was done.
ConditionDirectoryNotEmpty=|!/etc/pacman.d/gnupg/private-keys-v1.d
ConditionPathExists=|/etc/pacman.d/gnupg.unfinished
After=local-fs.target systemd-random-seed.service
# Who can log in can use pacman.
Before=systemd-user-sessions.service archlinux-keyring-wkd-sync.service

[Service]
Type=oneshot
ExecStartPre=/usr/bin/touch /etc/pacman.d/gnupg.unfinished
# A board without a clock wakes up before the keys were made, and gpg takes no key from the future.
ExecStartPre=-/usr/bin/sh -c 'for f in /usr/share/pacman/keyrings/*.gpg; do t=$$(stat -c %%Y \"$$f\"); [ \"$$(date +%%s)\" -ge \"$$t\" ] || date -s \"@$$t\"; done'
ExecStart=/usr/bin/pacman-key --init
ExecStart=/usr/bin/pacman-key --populate {rings}
ExecStart=/usr/bin/rm /etc/pacman.d/gnupg.unfinished
# Old kernels wait for randomness; nobody is to wait for ever to log in. The next boot tries again.
TimeoutStartSec=10min

[Install]
WantedBy=multi-user.target
",
        rings = rings.join(" ")
    )
}

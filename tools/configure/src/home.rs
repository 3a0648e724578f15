//! A user's home directory: a copy of skel that is made under another name, and renamed when it is complete.

use crate::item::Site;
use crate::tree::ROOT;
use rootfs::user::User;
use stage::document::plain_below;
use stage::{Code, Failure, quote};

const SKEL: &str = "etc/skel";

/// The mode of a home where login.defs(5) has no `HOME_MODE`.
const MODE: u32 = 0o700;

/// Returns a user's home as a path below the root.
///
/// # Errors
///
/// [`Code::Failed`] where it is not a directory of the user's own.
pub(crate) fn path(user: &User) -> Result<&str, Failure> {
    let below = user.home.strip_prefix('/').unwrap_or_default();
    if below.is_empty() || plain_below(below).is_err() {
        let (name, home) = (&user.name, quote(&user.home));
        let message = format!("looking for the home of '{name}': {home} is not a user's own");
        return Err(Failure::new(Code::Failed, message));
    }
    Ok(below)
}

/// Makes a user's home, where there is none.
pub(crate) fn make(site: &mut Site, user: &User) -> Result<(), Failure> {
    // A user of a package may well have none: "/" is not ours to fill.
    let Ok(path) = path(user) else { return Ok(()) };
    if site.tree.exists(path) {
        return Ok(());
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let doing = format!("making the home of '{}'", user.name);
    // Programs of the root follow links, and by way of /proc out of it.
    site.tree.attributes(parent)?;
    let beside = format!("{parent}/{}", rootfs::file::temporary_name(name));
    let at = format!("/{beside}");
    site.run("rm", &["-rf", "--one-file-system", "--", &at], None, &doing)?;
    site.tree.make_directory(&beside, 0o700, ROOT)?;
    if site.tree.stat(SKEL).is_some() {
        let from = format!("/{SKEL}/.");
        let args = ["-RP", "--preserve=mode,timestamps", "--", &from, &at];
        site.run("cp", &args, None, &doing)?;
    }
    let owner = format!("{}:{}", user.uid, user.gid);
    site.run("chown", &["-Rh", "--", &owner, &at], None, &doing)?;
    let defs = site.tree.read_linked("etc/login.defs").unwrap_or_default();
    let mode = home_mode(&String::from_utf8_lossy(&defs)).unwrap_or(MODE);
    site.run("chmod", &[&format!("{mode:04o}"), &at], None, &doing)?;
    site.tree.rename(&beside, name)?;
    site.tree.mark_changed(path);
    Ok(())
}

/// Reads `HOME_MODE` of login.defs(5).
fn home_mode(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|key| *key == "HOME_MODE")?;
        let mode = u32::from_str_radix(words.next()?, 8).ok();
        mode.filter(|m| *m <= 0o777)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_that_of_login_defs() {
        assert_eq!(home_mode("#HOME_MODE 0755\nUMASK 022\nHOME_MODE\t0750\n"), Some(0o750));
        assert_eq!(home_mode("#HOME_MODE\t0700\n"), None);
    }

    #[test]
    fn a_home_is_a_path_below_the_root() {
        let user = |home: &str| User {
            name: "a".into(),
            uid: 1,
            gid: 1,
            groups: vec![1],
            home: home.into(),
            shell: "/bin/sh".into(),
        };
        assert_eq!(path(&user("/home/a")).unwrap(), "home/a");
        for bad in ["/", "", "home/a", "/home/../etc", "/home//a"] {
            path(&user(bad)).unwrap_err();
        }
    }
}

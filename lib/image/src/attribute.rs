//! Which extended attributes of a file are the root's business.

const CAPABILITY: &[u8] = b"security.capability";

/// The highest byte of `magic_etc` in version 3 of file capabilities (linux/capability.h), which names a user namespace.
const CAPABILITY_OF_A_NAMESPACE: u8 = 3;

/// Returns whether it is a file capability of another user namespace, which has no effect.
#[must_use]
pub fn is_of_a_namespace(name: &[u8], value: &[u8]) -> bool {
    name == CAPABILITY && value.get(3) == Some(&CAPABILITY_OF_A_NAMESPACE)
}

/// Returns whether an extended attribute goes into an image, and out of one: those that a package or an administrator sets.
/// Labels and measurements (`security.selinux`, `security.ima`) are of the host's policy, `trusted.*` only the host's root can
/// see, and file systems of containers keep attributes of their own.
#[must_use]
pub fn is_kept(name: &[u8]) -> bool {
    match name {
        CAPABILITY | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        name => name.strip_prefix(b"user.").is_some_and(|name| {
            let containers = [&b"overlay."[..], b"fuseoverlayfs.", b"containers."];
            !containers.iter().any(|c| name.starts_with(c))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_are_the_roots_are_kept() {
        for (name, kept) in [
            (&b"security.capability"[..], true),
            (b"system.posix_acl_access", true),
            (b"user.x", true),
            (b"user.overlay.opaque", false),
            (b"trusted.overlay.opaque", false),
            (b"security.selinux", false),
            (b"security.ima", false),
        ] {
            assert_eq!(is_kept(name), kept, "{name:?}");
        }
    }
}

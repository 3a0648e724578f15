//! Access control lists as text, for archives: `SCHILY.acl.*` of star(5), which GNU tar and bsdtar read and write.

/// The version and the tags of linux/posix_acl_xattr.h and linux/posix_acl.h.
const VERSION: u32 = 2;
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// Returns the text of what getxattr(2) gives for `system.posix_acl_access` or `_default`, as acl(5)'s short form with ids
/// for names; `None` where it makes no sense.
pub(crate) fn text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_at_checked(4)?;
    if u32::from_le_bytes(version.try_into().ok()?) != VERSION {
        return None;
    }
    let entries = entries.chunks(8).map(entry).collect::<Option<Vec<_>>>()?;
    Some(entries.join(","))
}

fn entry(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 8] = bytes.try_into().ok()?;
    let [t0, t1, p0, p1, id @ ..] = bytes;
    let (tag, permissions) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
    let (_, word, named) = TAGS.iter().find(|(number, ..)| *number == tag)?;
    let id = u32::from_le_bytes(id);
    let id = if *named { id.to_string() } else { String::new() };
    let letter = |bit, letter| if permissions & bit == 0 { '-' } else { letter };
    let letters: String = [letter(4, 'r'), letter(2, 'w'), letter(1, 'x')].iter().collect();
    (permissions < 8).then(|| format!("{word}:{id}:{letters}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    #[test]
    fn an_acl_is_text() {
        let none = u32::MAX;
        let journal = value(&[(1, 7, none), (4, 5, none), (8, 5, 998), (8, 5, 4), (0x10, 5, none), (0x20, 0, none)]);
        assert_eq!(
            text(&journal).as_deref(),
            Some("user::rwx,group::r-x,group:998:r-x,group:4:r-x,mask::r-x,other::---")
        );
    }

    #[test]
    fn what_makes_no_sense_is_none() {
        for bad in [&[][..], &[2, 0, 0], &[3, 0, 0, 0], &[2, 0, 0, 0, 1], &value(&[(3, 7, 0)]), &value(&[(1, 8, 0)])] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
    }
}

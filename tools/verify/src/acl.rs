//! POSIX ACLs of acl(5): read from a file or from an argument of tmpfiles.d(5), and changed as chmod(2) does.

use crate::names::Names;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// The attributes that the kernel keeps ACLs in.
pub(crate) const ACCESS: &str = "system.posix_acl_access";
pub(crate) const DEFAULT: &str = "system.posix_acl_default";

/// The tags of `linux/posix_acl.h`.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The id of an entry without one.
const NO_ID: u32 = u32::MAX;

/// The longest ACL: the kernel's limit for an attribute, in bytes.
const LONGEST: usize = 64 << 10;

/// An ACL: permissions (read 4, write 2, execute 1) by tag and id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acl(BTreeMap<(u16, u32), u16>);

/// The ACL of a rule, and which of its entries permit execution only where somebody may execute already (`X`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    entries: Acl,
    conditional: Vec<(u16, u32)>,
}

impl Acl {
    /// Reads the ACL that a file has in the attribute `name`: `None` where it has only its mode, or the file system has no
    /// ACLs.
    pub(crate) fn read(file: impl AsFd, name: &str) -> Result<Option<Self>, Errno> {
        // Of a file without an ACL, as nearly all are, this takes less of the kernel than to offer it room for one.
        if let Err(Errno::NODATA | Errno::OPNOTSUPP) = rustix::fs::fgetxattr(&file, name, &mut [0u8; 0]) {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(LONGEST);
        match rustix::fs::fgetxattr(&file, name, spare_capacity(&mut bytes)) {
            Ok(_) => Self::parse(&bytes).ok_or(Errno::INVAL).map(Some),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Parses the kernel's format: a version, 2, and entries of tag, permissions and id, all little endian.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let entries = bytes.strip_prefix(&2u32.to_le_bytes())?;
        let mut acl = BTreeMap::new();
        for entry in entries.chunks(8) {
            let &[t0, t1, p0, p1, i0, i1, i2, i3] = entry else {
                return None;
            };
            let key = (u16::from_le_bytes([t0, t1]), u32::from_le_bytes([i0, i1, i2, i3]));
            acl.insert(key, u16::from_le_bytes([p0, p1]));
        }
        Some(Self(acl))
    }

    /// Returns the ACL of a mode.
    pub(crate) fn of_mode(mode: u32) -> Self {
        let bits = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or(0);
        Self(BTreeMap::from([((USER_OBJ, NO_ID), bits(6)), ((GROUP_OBJ, NO_ID), bits(3)), ((OTHER, NO_ID), bits(0))]))
    }

    /// Adds what is wanted, as systemd-tmpfiles(8) does: a mask where one is needed and missing, and missing permissions of
    /// the owner, the group and others from `mode`.
    pub(crate) fn add(&mut self, wanted: &Wanted, mode: u32, is_directory: bool) {
        let may_execute = is_directory || mode & 0o111 != 0;
        for (key, permissions) in &wanted.entries.0 {
            let without = wanted.conditional.contains(key) && !may_execute;
            let allowed = if without { 6 } else { 7 };
            self.0.insert(*key, permissions & allowed);
        }
        if self.is_extended() && !self.0.contains_key(&(MASK, NO_ID)) {
            let group = |key: &(u16, u32)| matches!(key.0, USER | GROUP_OBJ | GROUP);
            let of_groups = self.0.iter().filter(|(key, _)| group(key));
            let mask = of_groups.fold(0, |mask, (_, permissions)| mask | permissions);
            self.0.insert((MASK, NO_ID), mask);
        }
        for (key, permissions) in Self::of_mode(mode).0 {
            self.0.entry(key).or_insert(permissions);
        }
    }

    /// Returns whether it has more than a mode.
    pub(crate) fn is_extended(&self) -> bool {
        let mut tags = self.0.keys().map(|(tag, _)| *tag);
        tags.any(|tag| matches!(tag, USER | GROUP | MASK))
    }

    /// Returns the mode of a file with this ACL, without the upper bits.
    pub(crate) fn mode(&self) -> u32 {
        let of = |tag: u16| self.0.get(&(tag, NO_ID)).copied();
        let group = of(MASK).or_else(|| of(GROUP_OBJ));
        [of(USER_OBJ), group, of(OTHER)].iter().fold(0, |mode, bits| mode << 3 | u32::from(bits.unwrap_or(0)))
    }

    /// Changes it as chmod(2) does.
    pub(crate) fn set_mode(&mut self, mode: u32) {
        let group = if self.0.contains_key(&(MASK, NO_ID)) { MASK } else { GROUP_OBJ };
        for (tag, shift) in [(USER_OBJ, 6), (group, 3), (OTHER, 0)] {
            let bits = u16::try_from(mode >> shift & 7).unwrap_or(0);
            self.0.insert((tag, NO_ID), bits);
        }
    }
}

/// Parses the argument of a line of type `a`: the ACL of the file itself, and the default ACL of a directory.
pub(crate) fn parse(argument: &str, names: &Names) -> Option<(Option<Wanted>, Option<Wanted>)> {
    let (mut access, mut default) = (None, None);
    for entry in argument.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let of_default = ["default:", "d:"].iter().find_map(|prefix| entry.strip_prefix(prefix));
        let (wanted, entry) = match of_default {
            Some(entry) => (&mut default, entry),
            None => (&mut access, entry),
        };
        let wanted: &mut Wanted = wanted.get_or_insert_default();
        let mut fields: Vec<&str> = entry.split(':').map(str::trim).collect();
        let permissions = fields.pop()?;
        let (tag, name) = match fields[..] {
            [tag] => (tag, ""),
            [tag, name] => (tag, name),
            _ => return None,
        };
        let key = match (tag, name) {
            ("user" | "u", "") => (USER_OBJ, NO_ID),
            ("group" | "g", "") => (GROUP_OBJ, NO_ID),
            ("mask" | "m", "") => (MASK, NO_ID),
            ("other" | "o", "") => (OTHER, NO_ID),
            ("user" | "u", name) => (USER, names.user(name)?),
            ("group" | "g", name) => (GROUP, names.group(name)?),
            _ => return None,
        };
        let mut bits = 0;
        for letter in permissions.bytes() {
            bits |= match letter {
                b'r' => 4,
                b'w' => 2,
                b'x' => 1,
                b'X' => {
                    wanted.conditional.push(key);
                    1
                }
                b'-' => 0,
                _ => return None,
            };
        }
        wanted.entries.0.insert(key, bits);
    }
    Some((access, default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::of("ann:x:7:7::/:/bin/sh\n", "adm:x:9:\nwheel:x:10:\n")
    }

    #[test]
    fn the_kernels_format() {
        let entry = |tag: u16, permissions: u16, id: u32| {
            let mut bytes = tag.to_le_bytes().to_vec();
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
            bytes
        };
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (GROUP, 5, 9), (MASK, 5, NO_ID), (OTHER, 5, NO_ID)]
        {
            bytes.extend(entry(tag, permissions, id));
        }
        let acl = Acl::parse(&bytes).unwrap();
        let mut made = Acl::of_mode(0o755);
        let (wanted, default) = parse("group:adm:r-x", &names()).unwrap();
        made.add(&wanted.unwrap(), 0o755, true);
        assert_eq!((acl, default), (made, None));
        for broken in [&b""[..], b"\x01\0\0\0", &bytes[..bytes.len() - 1]] {
            assert_eq!(Acl::parse(broken), None);
        }
    }

    #[test]
    fn a_mask_and_a_mode_move_together() {
        let mut acl = Acl::of_mode(0o640);
        assert!(!acl.is_extended());
        let (wanted, _) = parse("u:ann:rw,g:10:rX", &names()).unwrap();
        acl.add(&wanted.unwrap(), 0o640, false);
        assert_eq!((acl.is_extended(), acl.mode()), (true, 0o660));
        acl.set_mode(0o705);
        assert_eq!(acl.mode(), 0o705);
        assert_eq!(acl.0[&(GROUP_OBJ, NO_ID)], 4);
        assert_eq!(acl.0[&(GROUP, 10)], 4);
    }

    #[test]
    fn an_invalid_argument() {
        for argument in ["group:nobody:r", "x:ann:r", "u:ann:z", "u:ann:r:w", "user"] {
            assert_eq!(parse(argument, &names()), None, "{argument}");
        }
        let (access, default) = parse("d:g::rx, default:other:---", &names()).unwrap();
        assert_eq!((access, default.unwrap().entries.0.len()), (None, 2));
    }
}

//! Whether the kernel's command line and fstab(5) mean the file systems of the image.

use super::prove::{Finding, Place, show};
use super::unified;
use rootfs::mountinfo;
use stage::members::BootEntry;
use stage::message;

/// What names a file system or its partition, and what that is of an image.
type Tag = (&'static str, fn(&Place) -> &String);
const TAGS: [Tag; 3] = [
    ("UUID=", |place| &place.uuid),
    ("PARTUUID=", |place| &place.part_uuid),
    ("PARTLABEL=", |place| &place.part_label),
];

/// Returns what is wrong with `root=`.
pub(super) fn argument(entry: &BootEntry, places: &[Place]) -> Option<Finding> {
    let file = show(&entry.file);
    let words = entry.cmdline.split_whitespace();
    let Some(root) = words.filter_map(|word| word.strip_prefix("root=")).next_back() else {
        return Some(Finding::unproven(format!("{file} does not say root=")));
    };
    let place = places.iter().find(|place| place.at == "/")?;
    let said = message::escape(root);
    match is_of(root, place) {
        None => Some(Finding::unproven(format!("{file} has root={said}: which disk that is depends on the machine"))),
        Some((tag, wanted)) if wanted.is_empty() => Some(Finding::wrong(
            format!("{file} has root={said}, and the root of the image has no {}", tag.trim_end_matches('=')),
            correct(entry),
        )),
        Some((tag, wanted)) if !wanted.eq_ignore_ascii_case(value(root)) => Some(Finding::wrong(
            format!("{file} has root={said}, and the root of the image is {tag}{wanted}"),
            correct(entry),
        )),
        Some((tag, _)) if entry.initramfs.is_empty() && tag == "UUID=" => Some(Finding::wrong(
            format!("{file} has root={said} and no initramfs, and a kernel by itself finds partitions only"),
            format!("root=PARTUUID={} is the same", place.part_uuid),
        )),
        Some(_) => None,
    }
}

/// Returns how the command line of an entry is corrected.
fn correct(entry: &BootEntry) -> &'static str {
    match unified::is_unified(entry) {
        true => "write the right one into /etc/kernel/cmdline, and make the image again",
        false => "correct that file, or have mkdisk write its own: --bootloader NAME",
    }
}

/// Returns the tag that a word begins with, and its value of a place.
fn is_of<'a>(word: &str, place: &'a Place) -> Option<(&'static str, &'a String)> {
    let (tag, of) = TAGS.iter().find(|(tag, _)| word.starts_with(tag))?;
    Some((tag, of(place)))
}

/// Returns what follows a tag.
fn value(word: &str) -> &str {
    word.split_once('=').map_or("", |(_, value)| value.trim_matches('"'))
}

/// Returns the lines of fstab that mean file systems which the image does not have, and that a boot waits for.
pub(super) fn fstab(text: &str, places: &[Place]) -> Vec<Finding> {
    text.lines().filter_map(|line| fstab_line(line, places)).collect()
}

fn fstab_line(line: &str, places: &[Place]) -> Option<Finding> {
    let mut fields = line.split_whitespace().take_while(|field| !field.starts_with('#'));
    let (what, at) = (fields.next()?, fields.next()?);
    let options = fields.nth(1).unwrap_or_default();
    if !at.starts_with('/') || options.split(',').any(|option| option == "nofail" || option == "noauto") {
        return None;
    }
    let (tag, of) = TAGS.iter().find(|(tag, _)| what.starts_with(tag))?;
    let wanted = unescape(value(what));
    let is_meant = |place: &&Place| !of(place).is_empty() && of(place).eq_ignore_ascii_case(&wanted);
    let at = unescape(at);
    let there = places.iter().find(|place| place.at == at);
    let has = match there {
        Some(place) if is_meant(&place) => return None,
        Some(place) if of(place).is_empty() => format!("no {} there", tag.trim_end_matches('=')),
        Some(place) => format!("{tag}{} there", of(place)),
        // Another directory of a file system that is in the image.
        None if places.iter().any(|place| is_meant(&place)) => return None,
        None => "no such file system".to_owned(),
    };
    let (what, at) = (message::escape(what), message::escape(&at));
    Some(Finding::wrong(
        format!("'/etc/fstab' mounts {what} at '{at}', and the image has {has}"),
        "put 'configure --fstab' before mkdisk, or correct /etc/fstab",
    ))
}

/// Returns a field of fstab(5), where a blank is an octal number.
fn unescape(field: &str) -> String {
    mountinfo::decode(field.as_bytes()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<Place> {
        let place = |at: &str, uuid: &str, part_uuid: &str| Place {
            at: at.into(),
            kind: "ext4".into(),
            uuid: uuid.into(),
            part_uuid: part_uuid.into(),
            part_label: if at == "/boot" { "my boot".into() } else { String::new() },
        };
        vec![place("/boot", "1A2B-3C4D", "b0"), place("/", "aa", "c0")]
    }

    #[test]
    fn the_command_line_means_the_root_of_the_image() {
        let of = |cmdline: &str, initramfs: &[&str]| {
            let initramfs = initramfs.iter().map(|path| (*path).to_owned()).collect();
            let entry =
                BootEntry { file: "boot/x.conf".into(), cmdline: cmdline.into(), initramfs, ..BootEntry::default() };
            argument(&entry, &places()).map(|finding| (finding.is_wrong, finding.message))
        };
        for good in ["rw root=UUID=AA quiet", "root=PARTUUID=c0", "root=/dev/sda1 root=UUID=aa"] {
            assert_eq!(of(good, &["i"]), None, "{good}");
        }
        assert_eq!(of("root=PARTUUID=c0", &[]), None);
        let wrong = |text: &str| Some((true, text.to_owned()));
        assert_eq!(
            of("root=UUID=bb", &["i"]),
            wrong("'/boot/x.conf' has root=UUID=bb, and the root of the image is UUID=aa")
        );
        assert!(of("root=UUID=aa", &[]).is_some_and(|(is_wrong, _)| is_wrong));
        assert_eq!(
            of("root=PARTLABEL=root", &["i"]),
            wrong("'/boot/x.conf' has root=PARTLABEL=root, and the root of the image has no PARTLABEL")
        );
        for unproven in ["rw", "root=/dev/sda2", "root=LABEL=x"] {
            assert!(of(unproven, &["i"]).is_some_and(|(is_wrong, _)| !is_wrong), "{unproven}");
        }
    }

    #[test]
    fn fstab_means_the_file_systems_of_the_image() {
        let of = |text: &str| fstab(text, &places()).into_iter().map(|finding| finding.message).collect::<Vec<_>>();
        let good = "# x\nUUID=AA / ext4 rw 0 1\nUUID=\"1a2b-3c4d\" /boot vfat\nPARTUUID=c0 /home ext4 subvol=x\n\
                    PARTLABEL=my\\040boot /boot vfat\nUUID=zz /data ext4 defaults,nofail\nUUID=zz none swap\ntmpfs /tmp tmpfs\n/dev/sda1 /mnt ext4\n";
        assert!(of(good).is_empty(), "{:?}", of(good));
        assert_eq!(
            of("PARTLABEL= / ext4\nUUID=bb / ext4\nUUID=cc /srv ext4 rw\n"),
            [
                "'/etc/fstab' mounts PARTLABEL= at '/', and the image has no PARTLABEL there",
                "'/etc/fstab' mounts UUID=bb at '/', and the image has UUID=aa there",
                "'/etc/fstab' mounts UUID=cc at '/srv', and the image has no such file system",
            ]
        );
    }
}

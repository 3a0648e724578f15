//! `mkdisk` on roots that the whole pipe made: what the tools of others say of the image, and that it is the same whoever
//! made the root, wherever and whenever.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use strapline_tests::{Lab, Mirror, Ran, Server, Who};

/// The date of the images, which is later than any of the packages'.
const EPOCH: &str = "1700000000";

/// A root in a laboratory, with its document in `doc.json`.
struct Bench {
    lab: Lab,
}

impl Bench {
    fn new(who: Who, arch: &str, root: &str, packages: &str) -> Self {
        let (mirror, lab) = (Mirror::of(arch), Lab::new(who));
        let server = Server::of(&mirror.www());
        let ran = lab.sh(&format!(
            "export SOURCE_DATE_EPOCH={EPOCH}; mkroot {root} --arch {arch} --distro {preset} \
             | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
             | keyring | strap {packages} > doc.json; cat doc.json",
            preset = mirror.preset().display(),
            url = server.url(),
        ));
        drop(ran.succeeded());
        Self { lab }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.lab.path().join(below)
    }

    fn strip(&self) {
        let ran = self.lab.sh("keyring --strip --state doc.json > d && mv d doc.json; cat doc.json");
        drop(ran.succeeded());
    }

    fn mkdisk(&self, options: &str) -> Ran {
        self.lab.sh(&format!("SOURCE_DATE_EPOCH={EPOCH} mkdisk --state doc.json {options}"))
    }
}

/// Runs a tool of others, and returns what it says; its success is asked for.
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: tests/host-packages names its package"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}\n{said}", output.status);
    said
}

/// The partitions of an image, copied out of it, by name: the tools of others know no offsets.
pub(crate) fn partitions(image: &Path, document: &Value) -> BTreeMap<String, PathBuf> {
    let disks = document["disks"].as_array().expect("disks");
    let disk = disks.iter().find(|d| d["file"] == *image.to_str().expect("UTF-8"));
    let partitions = disk.expect("the image is recorded")["partitions"].as_array().expect("partitions");
    let mut found = BTreeMap::new();
    for partition in partitions {
        let name = partition["name"].as_str().expect("a name").to_owned();
        let to = image.with_extension(&name);
        let number = |key: &str| partition[key].as_u64().expect(key).to_string();
        tool(
            "dd",
            &[
                &format!("if={}", image.display()),
                &format!("of={}", to.display()),
                "bs=1M",
                "iflag=skip_bytes,count_bytes",
                "conv=sparse",
                &format!("skip={}", number("start")),
                &format!("count={}", number("size")),
            ],
        );
        found.insert(name, to);
    }
    found
}

/// Checks an image with the tools of others.
fn check(image: &Path, document: &Value) -> BTreeMap<String, PathBuf> {
    let said = tool("sgdisk", &["--verify", image.to_str().expect("UTF-8")]);
    assert!(said.contains("No problems found"), "{said}");
    let sum = tool("sha256sum", &[image.to_str().expect("UTF-8")]);
    let recorded = &document["disks"][0]["sha256"];
    assert!(sum.starts_with(recorded.as_str().expect("a hash")), "{sum}");
    let partitions = partitions(image, document);
    let said = tool("e2fsck", &["-f", "-n", path(&partitions, "root")]);
    assert!(!said.contains("Fix?"), "{said}");
    let said = tool("fsck.vfat", &["-n", path(&partitions, "boot")]);
    assert_eq!(said.lines().count(), 2, "{said}");
    partitions
}

fn path<'a>(partitions: &'a BTreeMap<String, PathBuf>, name: &str) -> &'a str {
    partitions[name].to_str().expect("UTF-8")
}

/// What of each file is compared: all that ext4 holds of it. Left out are the sizes of directories and the links of those
/// that something is missing in.
const LIST: &str = r#"
    cd "$1" && find . -mindepth 1 \( -type d -printf '%p %y %m %U:%G\n' -o -type l -printf '%p %y %U:%G %l\n' \
        -o -printf '%p %y %m %U:%G %s %n\n' \) | sort
    find . -type f -exec sha256sum {} + | sort
    getfattr -Rhd -m '^(security.capability|user|system.posix)' . 2> /dev/null || true
"#;

fn list(directory: &str) -> Vec<String> {
    let said = tool("sh", &["-c", LIST, "sh", directory]);
    said.lines().map(str::to_owned).collect()
}

/// Mounts a partition for as long as it is looked at, in a namespace of its own.
fn list_mounted(partition: &str, at: &Path) -> Vec<String> {
    std::fs::create_dir_all(at).expect("our own directory");
    let script = format!("mount -o loop,ro \"$1\" \"$2\"; set -- \"$2\"; {LIST}");
    let at = at.to_str().expect("UTF-8");
    let args = ["--mount", "--propagation", "private", "sh", "-ec", &script, "sh", partition, at];
    let said = tool("unshare", &args);
    said.lines().map(str::to_owned).collect()
}

/// What stays out of images, and what is another text in them: the line of a file begins with its path, that of a sum ends
/// with it.
fn is_left_out(line: &str) -> bool {
    let paths = [
        "./var/cache/",
        "./var/log/",
        "./var/lib/pacman/sync/",
        "./etc/pacman.d/gnupg/",
        "./tmp/",
        "./run/",
        "./boot/",
        "./etc/passwd-",
        "./etc/group-",
        "./etc/shadow-",
        "./etc/gshadow-",
        "./etc/.pwd.lock",
        "./etc/machine-id",
        "./var/lib/pacman/local/",
        "./etc/shadow",
        "./lost+found",
        "./var/lib/dbus/machine-id",
        "./etc/.updated",
        "./var/.updated",
    ];
    let path = line.find("./").map_or(line, |at| &line[at..]);
    paths.iter().any(|p| path.starts_with(p))
}

#[test]
fn an_image_of_a_board_as_root() {
    let bench = Bench::new(Who::Root, "aarch64", "root", "base linux-aarch64 openssh");
    let refused = bench.mkdisk("-o disk.img");
    refused.failed(69, "is the keyring's secret key");
    assert!(!bench.path("disk.img").exists());
    bench.strip();
    let document = bench.mkdisk("-o disk.img --cmdline console=ttyS2,1500000").succeeded();
    let image = bench.path("disk.img");
    let partitions = check(&image, &document);

    // As much as is in it, and no more.
    let meta = std::fs::metadata(&image).expect("the image");
    let written = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    assert!(written < meta.len() * 2 / 3, "{written} of {} bytes", meta.len());

    // What the root has is in the image, and what the image has is in the root.
    let root = bench.path("root");
    let kept = |lines: Vec<String>| -> Vec<String> { lines.into_iter().filter(|l| !is_left_out(l)).collect() };
    let expected = kept(list(root.to_str().expect("UTF-8")));
    let found = kept(list_mounted(path(&partitions, "root"), &bench.path("mounted")));
    assert!(found.len() > 2000, "{} lines", found.len());
    for line in &expected {
        assert!(found.contains(line), "the image lacks {line}");
    }
    for line in &found {
        assert!(expected.contains(line), "the image has {line}");
    }

    // The boot partition, through mtools.
    let boot = path(&partitions, "boot");
    let copied = bench.path("Image");
    tool("mcopy", &["-i", boot, "::Image", copied.to_str().expect("UTF-8")]);
    let read = |path: &Path| std::fs::read(path).expect("a file");
    assert!(read(&copied) == read(&root.join("boot/Image")));
    let conf = tool("mtype", &["-i", boot, "::extlinux/extlinux.conf"]);
    let partition = |n: usize| &document["disks"][0]["partitions"][n];
    let uuid = partition(1)["filesystem"]["uuid"].as_str().expect("a UUID");
    assert!(conf.contains(&format!("append root=UUID={uuid} rw console=ttyS2,1500000")), "{conf}");
    assert!(conf.contains("initrd /initramfs-linux.img"), "{conf}");
    let said = tool("blkid", &["-p", "-o", "export", path(&partitions, "root")]);
    assert!(said.contains(&format!("UUID={uuid}")), "{said}");
    let said = tool("blkid", &["-p", "-o", "export", boot]);
    let serial = partition(0)["filesystem"]["uuid"].as_str().expect("a UUID");
    assert!(said.contains(&format!("UUID={serial}")), "{said}");
    // The root itself is as it was.
    assert!(!root.join("boot/extlinux").exists());

    // The same again, and another with another date.
    let again = bench.mkdisk("-o again.img --cmdline console=ttyS2,1500000").succeeded();
    assert_eq!(again["disks"][0]["sha256"], document["disks"][0]["sha256"]);
    let sizes = bench.mkdisk("-o small.img --size 300M");
    sizes.failed(69, "a size of 300M is too small");
    let hint = sizes.stderr.lines().find_map(|l| l.strip_prefix("mkdisk: hint: --size ")).expect("a hint");
    let would_do = hint.split(',').next().expect("a size");
    let small = bench.mkdisk(&format!("-o small.img --size {would_do}")).succeeded();
    check(&bench.path("small.img"), &small);
    let large = bench.mkdisk("-o large.img --size 3G --boot 600M").succeeded();
    check(&bench.path("large.img"), &large);
}

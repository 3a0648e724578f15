//! The work inside, where the root's ids are its own: walk the tree, measure, arrange, write.
//!
//! Everything is decided before the first byte is written; what is written is then a copy. The image comes open from outside,
//! where it belongs to the user.

use crate::arrange::{self, Arrangement, Need};
use crate::content;
use crate::plan::{Plan, mounted_at};
use crate::table;
use image::boot::{self, Booting, Loader, Place, Subject, Wish};
use image::filesystem::{Options, Region};
use image::layout::{Content as Holds, Partition, Size, Source};
use image::node::total;
use image::reader::Reader;
use image::rules::is_secret;
use image::{FileSystem, Kind, Node, Tree, size};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use stage::members::BootEntry;
use stage::{Code, Context, Document, Doing, Failure, Progress, Unit};
use std::fs::File;
use std::ops::Range;

/// What was done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Done {
    pub(crate) disk: Arrangement,
    /// How many bytes all files have, without the holes of those on ext4.
    pub(crate) content: u64,
    /// What the boot loader starts, where one was configured.
    pub(crate) boot: Option<Vec<BootEntry>>,
    /// For people.
    pub(crate) notes: Vec<String>,
    /// The secret keys of the machine that it has, as paths.
    pub(crate) secrets: Vec<String>,
}

/// Makes the image. `scratch` has a file for each partition whose file system a program of the host makes.
pub(crate) fn work(
    context: &Context,
    plan: &Plan<'_>,
    document: &Document,
    image: &File,
    scratch: &[Option<File>],
) -> Result<Done, Failure> {
    let tree = Tree::open(&Root::of(document)?, &plan.points)?;
    let found = tree.walk(&plan.rules)?;
    let job = Job { plan, image, tree: &tree, nodes: &found.nodes, scratch };
    let Filled { fillings, boot, mut notes } = job.fill(context)?;
    let disk = job.arrange(&fillings)?;
    job.write(context, &fillings, &disk)?;
    if !found.sockets.is_empty() {
        notes.push(format!("{} sockets are left out", found.sockets.len()));
    }
    let secrets = found.nodes.iter().filter(|node| is_secret(&node.path));
    Ok(Done {
        disk,
        content: fillings.iter().map(Filling::content).sum(),
        boot,
        notes,
        secrets: secrets.map(Node::path_text).collect(),
    })
}

/// The longest configuration of a boot loader that is read, in bytes.
const LONGEST: u64 = 1 << 16;

/// How many of the faults that keep an image from booting a message has beside the first.
const MOST: usize = 9;

/// What goes into the image.
struct Filled<'a> {
    fillings: Vec<Filling<'a>>,
    boot: Option<Vec<BootEntry>>,
    notes: Vec<String>,
}

/// What a partition gets.
enum Filling<'a> {
    Nothing,
    /// The bytes of a file, and how many those are.
    Bytes(&'a Source, u64),
    FileSystem(Box<dyn FileSystem>),
}

impl Filling<'_> {
    /// Returns how many bytes all files have.
    fn content(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(_, size) => *size,
            Self::FileSystem(fs) => fs.content(),
        }
    }
}

struct Job<'a> {
    plan: &'a Plan<'a>,
    image: &'a File,
    tree: &'a Tree,
    nodes: &'a [Node],
    scratch: &'a [Option<File>],
}

impl<'a> Job<'a> {
    /// Decides what goes into each partition.
    fn fill(&self, context: &Context) -> Result<Filled<'a>, Failure> {
        let plan = self.plan;
        let partitions = || plan.layout.partitions.iter();
        for path in plan.layout.board.iter().flat_map(|board| &board.needs) {
            self.find(path)?;
        }
        let (n, root_kind, root_id) = partitions()
            .zip(&plan.file_systems)
            .enumerate()
            .find(|(_, (p, _))| mounted_at(p, "/"))
            .and_then(|(n, (p, id))| Some((n, p.mounted()?.0, id)))
            .ok_or_else(|| Failure::new(Code::Usage, "the layout has no root"))?;
        let part_id = plan.layout.partition_id(n, &plan.ids);
        let existing = match plan.boot.loader {
            Loader::RaspberryPi => [self.text(boot::EXISTING[0])?, self.text(boot::EXISTING[1])?],
            _ => [None, None],
        };
        let now = plan.time.cast_signed();
        let wish = Wish {
            loader: plan.boot.loader,
            keep: plan.args.bootloader == Loader::Auto,
            cmdline: plan.boot.cmdline.as_deref(),
            dtb: plan.boot.dtb.as_deref(),
            overlays: &plan.boot.overlays,
            config: plan.layout.board.as_ref().and_then(|board| board.config.as_deref()),
            existing: [existing[0].as_deref(), existing[1].as_deref()],
            no_initramfs: plan.args.no_initramfs,
            root: [root_id, part_id.as_deref().unwrap_or_default()],
            root_kind,
            title: &plan.title,
            time: now,
        };
        let mut booting = boot::plan(self.nodes, &plan.layout, plan.arch, &wish)?;
        let boot = self.check_boot(&mut booting)?;
        let points: Vec<&str> = partitions().flat_map(Partition::mount_points).collect();
        let mut split = content::split(self.nodes, &booting.added, &points, now)?.into_iter();
        let mut fillings = Vec::new();
        for ((partition, id), scratch) in partitions().zip(&plan.file_systems).zip(self.scratch) {
            fillings.push(match &partition.content {
                Holds::Nothing => Filling::Nothing,
                Holds::File(source) => Filling::Bytes(source, self.size_of(source)?),
                Holds::FileSystem { kind, at, label } => {
                    let empty = || vec![Node { mtime: now, ..Node::new(b"", Kind::Directory) }];
                    let trees: Vec<_> = split.by_ref().take(partition.mount_points().len()).collect();
                    let nodes = if trees.is_empty() { empty() } else { partition.join(trees, now) };
                    let options = Options {
                        at: at.clone().unwrap_or_else(|| format!("/{}", partition.name)),
                        uuid: id.clone(),
                        seed: plan.ids.bytes(&format!("hash seed {id}")),
                        label: label.clone(),
                        time: plan.time,
                        sector: plan.layout.geometry.sector,
                        compress: partition.compress.clone(),
                        subvolumes: partition.subvolumes.iter().map(|subvolume| subvolume.name.clone()).collect(),
                    };
                    let scratch = scratch.as_ref().map(File::try_clone).transpose();
                    let scratch = scratch.doing(Code::Os, || "opening a file for a program")?;
                    let progress = match scratch {
                        Some(_) => context.progress("packing", Unit::Bytes, Some(total(&nodes))),
                        None => Progress::hidden(),
                    };
                    Filling::FileSystem(kind.make(nodes, options, self.tree, scratch, &progress)?)
                }
            });
        }
        Ok(Filled { fillings, boot, notes: booting.notes })
    }

    /// Checks that the image can boot, as far as that does not depend on the machine; returns what is started.
    fn check_boot(&self, booting: &mut Booting) -> Result<Option<Vec<BootEntry>>, Failure> {
        let plan = self.plan;
        if plan.boot.loader == Loader::None {
            return Ok(None);
        }
        let ids = plan.file_systems.iter().enumerate();
        let places = ids.flat_map(|(n, id)| Place::of_layout(&plan.layout, n, &plan.ids, id)).collect();
        let subject = Subject::new(self.tree, self.nodes, &booting.added, places);
        let mut entries = subject.entries()?;
        // The menu of another loader, which nobody starts, may be of another day.
        entries.retain(|entry| plan.boot.loader.reads(&entry.file));
        if plan.args.no_boot_check {
            return Ok(Some(entries));
        }
        let (wrong, unproven): (Vec<_>, Vec<_>) =
            subject.prove(&entries, &[])?.into_iter().partition(|finding| finding.is_wrong);
        if let Some(first) = wrong.first() {
            let mut failure = first.failure(Code::Failed, "checking that the image boots");
            for other in wrong[1..].iter().take(MOST) {
                failure.message += &format!("; {}", other.message);
            }
            if let Some(more) = wrong.len().checked_sub(1 + MOST).filter(|more| *more > 0) {
                failure.message += &format!("; and {more} more");
            }
            let or = "or give --no-boot-check";
            let hint = failure.hint.take().map_or_else(|| or.to_owned(), |hint| format!("{hint}, {or}"));
            return Err(failure.hint(hint));
        }
        booting.notes.extend(unproven.into_iter().map(|finding| finding.message));
        Ok(Some(entries))
    }

    /// Measures, and gives each partition its place.
    fn arrange(&self, fillings: &[Filling<'_>]) -> Result<Arrangement, Failure> {
        let plan = self.plan;
        let mut needs = Vec::new();
        for filling in fillings {
            let (least, roomy) = match filling {
                Filling::FileSystem(fs) => {
                    let spare = plan.args.headroom.unwrap_or_default().of(fs.content());
                    (fs.smallest(0)?, fs.smallest(spare)?)
                }
                other => (other.content(), other.content()),
            };
            needs.push(Need { least, roomy });
        }
        let blobs = plan.layout.blobs.iter().map(|b| self.size_of(&b.source)).collect::<Result<Vec<_>, _>>()?;
        let size = match plan.args.size {
            Size::Bytes(bytes) => Some(bytes),
            Size::Auto | Size::Rest => None,
        };
        let places = arrange::arrange(&plan.layout, size, &needs, &blobs)?;
        let partitions = plan.layout.partitions.iter().zip(&places.partitions);
        for ((filling, need), (partition, place)) in fillings.iter().zip(&needs).zip(partitions) {
            let fits = match filling {
                Filling::FileSystem(fs) if place.size > fs.largest() => {
                    let (name, size) = (&partition.name, size::show(place.size));
                    let why =
                        format!("arranging the disk: partition '{name}' of {size} is too large for its file system");
                    let most = size::show(fs.largest() >> 20 << 20);
                    return Err(Failure::new(Code::Failed, why).hint(format!("give it at most {most}")));
                }
                Filling::FileSystem(fs) => fs.fits(place.size),
                other => other.content() <= place.size,
            };
            if !fits {
                return Err(arrange::too_small(&partition.name, place.size, need.least));
            }
        }
        Ok(places)
    }

    fn write(&self, context: &Context, fillings: &[Filling<'_>], places: &Arrangement) -> Result<(), Failure> {
        let Self { plan, image, .. } = self;
        let doing = || "writing the image";
        image.set_len(places.size).doing(Code::Os, doing)?;
        table::write(image, &plan.layout, places, &plan.ids)?;
        let content = fillings.iter().map(Filling::content).sum();
        let progress = &context.progress("writing", Unit::Bytes, Some(content));
        let region = |start, size| Region { image, start, size, progress };
        let partitions = plan.layout.partitions.iter().zip(&places.partitions);
        for (filling, (partition, place)) in fillings.iter().zip(partitions) {
            let to = region(place.start, place.size);
            match filling {
                Filling::Nothing => {}
                Filling::Bytes(source, size) => self.copy(source, 0..*size, &to)?,
                Filling::FileSystem(fs) => {
                    fs.write(&to, self.tree).map_err(|f| f.while_doing(format!("filling '{}'", partition.name)))?
                }
            }
        }
        for blob in &plan.layout.blobs {
            let size = self.size_of(&blob.source)?;
            for range in plan.layout.geometry.written(blob.offset, size) {
                self.copy(&blob.source, range, &region(blob.offset, size))?;
            }
        }
        Ok(())
    }

    /// Returns the file of the root that the layout names.
    fn find(&self, path: &str) -> Result<&Node, Failure> {
        let node = match self.nodes.iter().find(|n| n.path == path.as_bytes()) {
            Some(Node { kind: Kind::HardLink(first), .. }) => Some(&self.nodes[*first]),
            node => node,
        };
        node.filter(|node| matches!(node.kind, Kind::File(_))).ok_or_else(|| {
            let doing = format!("looking for '/{path}' of the root, which the layout names");
            let hint = self.plan.layout.hints.get(path).map(String::as_str);
            Failure::new(Code::NotFound, format!("{doing}: there is no such file, or it stays out of images"))
                .hint(hint.unwrap_or("strap the package that has it, or name another file in the layout"))
        })
    }

    /// Returns the text of a short file of the root; `None` where there is none.
    fn text(&self, path: &str) -> Result<Option<String>, Failure> {
        if !self.nodes.iter().any(|n| n.path == path.as_bytes()) {
            return Ok(None);
        }
        let doing = || format!("reading '/{path}' of the root");
        let reader = self.tree.open_content(self.find(path)?)?;
        if reader.size() > LONGEST {
            let why = format!("{}: it has more than {} bytes", doing(), size::show(LONGEST));
            return Err(Failure::new(Code::Failed, why));
        }
        let mut text = Vec::new();
        reader.copy(0..reader.size(), |_, bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })?;
        reader.check_unchanged()?;
        String::from_utf8(text).map(Some).doing(Code::Failed, doing)
    }

    fn size_of(&self, source: &Source) -> Result<u64, Failure> {
        match source {
            Source::Root(path) => Ok(self.find(path)?.size()),
            Source::Host(path) => Ok(self.plan.files[path].1),
        }
    }

    /// Copies a range of what the layout names to the same place of the region.
    fn copy(&self, source: &Source, range: Range<u64>, to: &Region<'_>) -> Result<(), Failure> {
        let doing = format!("copying '{}'", source.show());
        let reader = match source {
            Source::Root(path) => self.tree.open_content(self.find(path)?)?,
            Source::Host(path) => {
                let file = self.plan.files[path].0.try_clone();
                Reader::of_file(file.doing(Code::Os, || &doing)?, doing)?
            }
        };
        to.copy(&reader, range.clone(), range.start)?;
        reader.check_unchanged()
    }
}

//! The work inside, where the root's ids are its own: walk the tree, measure, arrange, write.
//!
//! Everything is decided before the first byte is written; what is written is then a copy. The image comes open from outside,
//! where it belongs to the user.

use crate::arrange::{self, Arrangement, Need};
use crate::content;
use crate::plan::{Plan, mounted_at};
use crate::table;
use image::boot::{self, Wish};
use image::filesystem::{Options, Region};
use image::layout::{Content as Holds, FileSystemKind, Partition, Size, Source};
use image::reader::Reader;
use image::rules::is_secret;
use image::{FileSystem, Kind, Node, Tree, size};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use stage::{Code, Context, Document, Doing, Failure, Progress, Unit};
use std::fs::File;

/// What was done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Done {
    pub(crate) disk: Arrangement,
    /// How many bytes all files have, without the holes of those on ext4.
    pub(crate) content: u64,
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
    let (fillings, mut notes) = job.fill(context)?;
    let disk = job.arrange(&fillings)?;
    job.write(context, &fillings, &disk)?;
    if !found.sockets.is_empty() {
        notes.push(format!("{} sockets are left out", found.sockets.len()));
    }
    let secrets = found.nodes.iter().filter(|node| is_secret(&node.path));
    Ok(Done {
        disk,
        content: fillings.iter().map(Filling::content).sum(),
        notes,
        secrets: secrets.map(Node::path_text).collect(),
    })
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
    fn fill(&self, context: &Context) -> Result<(Vec<Filling<'a>>, Vec<String>), Failure> {
        let plan = self.plan;
        let partitions = || plan.layout.partitions.iter();
        let (root, root_id) = partitions()
            .zip(&plan.file_systems)
            .find(|(p, _)| mounted_at(p, "/"))
            .ok_or_else(|| Failure::new(Code::Usage, "the layout has no root"))?;
        let part_id = root.id(&plan.ids);
        let now = plan.time.cast_signed();
        let wish = Wish {
            loader: plan.args.bootloader,
            cmdline: plan.args.cmdline.as_deref(),
            dtb: plan.args.dtb.as_deref(),
            no_initramfs: plan.args.no_initramfs,
            root: [root_id, &part_id],
            root_kind: root.mounted().map_or(FileSystemKind::Ext4, |(kind, _)| kind),
            title: &plan.title,
            time: now,
        };
        let booting = boot::plan(self.nodes, &plan.layout, plan.arch, &wish)?;
        let points: Vec<&str> = partitions().filter_map(Partition::mounted).map(|(_, at)| at).collect();
        let mut split = content::split(self.nodes, &booting.added, &points, now)?.into_iter();
        let mut fillings = Vec::new();
        for ((partition, id), scratch) in partitions().zip(&plan.file_systems).zip(self.scratch) {
            fillings.push(match &partition.content {
                Holds::Nothing => Filling::Nothing,
                Holds::File(source) => Filling::Bytes(source, self.size_of(source)?),
                Holds::FileSystem { kind, at, label } => {
                    let empty = || vec![Node { mtime: now, ..Node::new(b"", Kind::Directory) }];
                    let nodes = at.as_ref().and_then(|_| split.next()).unwrap_or_else(empty);
                    let options = Options {
                        at: at.clone().unwrap_or_else(|| format!("/{}", partition.name)),
                        uuid: id.clone(),
                        seed: plan.ids.bytes(&format!("hash seed {id}")),
                        label: label.clone(),
                        time: plan.time,
                    };
                    let scratch = scratch.as_ref().map(File::try_clone).transpose();
                    let scratch = scratch.doing(Code::Os, || "opening a file for a program")?;
                    let progress = match scratch {
                        Some(_) => context.progress("packing", Unit::Bytes, Some(nodes.iter().map(Node::size).sum())),
                        None => Progress::hidden(),
                    };
                    Filling::FileSystem(kind.make(nodes, options, self.tree, scratch, &progress)?)
                }
            });
        }
        Ok((fillings, booting.notes))
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
                Filling::Bytes(source, size) => self.copy(source, *size, &to)?,
                Filling::FileSystem(fs) => {
                    fs.write(&to, self.tree).map_err(|f| f.while_doing(format!("filling '{}'", partition.name)))?
                }
            }
        }
        for blob in &plan.layout.blobs {
            let size = self.size_of(&blob.source)?;
            self.copy(&blob.source, size, &region(blob.offset, size))?;
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
            Failure::new(Code::NotFound, format!("{doing}: there is no such file, or it stays out of images"))
                .hint("strap the package that has it, or name another file in the layout")
        })
    }

    fn size_of(&self, source: &Source) -> Result<u64, Failure> {
        match source {
            Source::Root(path) => Ok(self.find(path)?.size()),
            Source::Host(path) => Ok(self.plan.files[path].1),
        }
    }

    /// Copies what the layout names.
    fn copy(&self, source: &Source, size: u64, to: &Region<'_>) -> Result<(), Failure> {
        let doing = format!("copying '{}'", source.show());
        let reader = match source {
            Source::Root(path) => self.tree.open_content(self.find(path)?)?,
            Source::Host(path) => {
                let file = self.plan.files[path].0.try_clone();
                Reader::of_file(file.doing(Code::Os, || &doing)?, doing)?
            }
        };
        to.copy(&reader, 0..size, 0)?;
        reader.check_unchanged()
    }
}

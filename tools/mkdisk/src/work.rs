//! The work inside, where the root's ids are its own: walk the tree, measure, arrange, write.
//!
//! Everything is decided before the first byte is written; what is written is then a copy. The image comes open from outside,
//! where it belongs to the user.

use crate::arrange::{self, Arrangement};
use crate::boot::{self, Wish};
use crate::content::{self, Body, Item, What, show};
use crate::fat;
use crate::filling::{Ext4, Filling};
use crate::plan::Plan;
use crate::table;
use ext4::NodeId;
use image::layout::{Content as Holds, FileSystemKind, Partition, Source};
use image::rules::is_secret;
use image::tree::{Points, Reader};
use image::{Content, Entry, Kind, Rules, Tree, size, sparse};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rootfs::{Arch, Root};
use serde::{Deserialize, Serialize};
use stage::{Code, Document, Doing, Failure, signal};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) document: &'a Document,
    pub(crate) plan: &'a Plan,
    pub(crate) points: &'a Points,
    pub(crate) rules: &'a Rules,
    pub(crate) image: &'a File,
    /// The files of the host that the layout names, by their paths.
    pub(crate) files: &'a [HostFile],
    pub(crate) arch: Arch,
    /// The system's name.
    pub(crate) title: &'a str,
    pub(crate) quiet: bool,
}

/// A file of the host, open.
#[derive(Debug)]
pub(crate) struct HostFile {
    pub(crate) source: Source,
    pub(crate) file: File,
    pub(crate) size: u64,
}

/// What was done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Done {
    /// The disk's size, and the start and size of each partition, in bytes.
    pub(crate) size: u64,
    pub(crate) partitions: Vec<(u64, u64)>,
    /// How many bytes all files have, without the holes of those on ext4.
    pub(crate) content: u64,
    /// For people.
    pub(crate) notes: Vec<String>,
    /// The secret keys of the machine that it has, as paths.
    pub(crate) secrets: Vec<String>,
}

/// Makes the image.
pub(crate) fn work(task: &Task<'_>) -> Result<Done, Failure> {
    let root = Root::of(task.document)?;
    let tree = Tree::open(&root, task.points)?;
    let found = tree.walk(task.rules)?;
    let job = Job {
        task,
        tree: &tree,
        entries: &found.entries,
    };
    let (fillings, mut notes) = job.fill()?;
    let places = job.arrange(&fillings)?;
    job.write(&fillings, &places)?;
    match found.sockets.len() {
        0 => {}
        n => notes.push(format!(
            "{n} sockets are left out: they are of programs that ran"
        )),
    }
    Ok(Done {
        size: places.size,
        content: fillings.iter().map(Filling::content).sum(),
        partitions: places
            .partitions
            .iter()
            .map(|p| (p.start, p.size))
            .collect(),
        notes,
        secrets: found
            .entries
            .iter()
            .filter(|e| is_secret(&e.path))
            .map(|e| String::from_utf8_lossy(&e.path).into_owned())
            .collect(),
    })
}

struct Job<'a> {
    task: &'a Task<'a>,
    tree: &'a Tree,
    entries: &'a [Entry],
}

impl Job<'_> {
    /// Decides what goes into each partition.
    fn fill(&self) -> Result<(Vec<Filling>, Vec<String>), Failure> {
        let Plan { layout, ids, .. } = self.task.plan;
        let (root, root_id) = layout
            .partitions
            .iter()
            .zip(&self.task.plan.file_systems)
            .find(|(p, _)| mount_point(p) == Some("/"))
            .ok_or_else(|| Failure::new(Code::Usage, "the layout has no root"))?;
        let part_id = root.id(ids);
        let wish = Wish {
            loader: self.task.plan.loader,
            cmdline: self.task.plan.cmdline.as_deref(),
            dtb: self.task.plan.dtb.as_deref(),
            root: [root_id, &part_id],
            title: self.task.title,
        };
        let booting = boot::plan(self.entries, layout, self.task.arch, &wish)?;
        let points: Vec<String> = layout
            .partitions
            .iter()
            .filter_map(|p| mount_point(p).map(str::to_owned))
            .collect();
        let now = self.task.plan.time.cast_signed();
        let split = content::split(self.entries, &booting.added, &points, now)?;
        let mut split = split.into_iter();
        let mut fillings = Vec::new();
        for (n, partition) in layout.partitions.iter().enumerate() {
            let items = match mount_point(partition) {
                Some(_) => split.next().unwrap_or_default(),
                None => vec![content::top(now)],
            };
            fillings.push(match &partition.content {
                Holds::Nothing => Filling::Nothing,
                Holds::File(source) => Filling::Bytes(source.clone(), self.size_of(source)?),
                Holds::FileSystem {
                    kind: FileSystemKind::Vfat,
                    at,
                    ..
                } => {
                    let at = at.clone().unwrap_or_else(|| format!("/{}", partition.name));
                    fat::check(&items, &at)?;
                    Filling::Fat(at, items)
                }
                Holds::FileSystem {
                    kind: FileSystemKind::Ext4,
                    at,
                    label,
                } => {
                    let at = at.clone().unwrap_or_else(|| format!("/{}", partition.name));
                    let id = &self.task.plan.file_systems[n];
                    let options = ext4::Options {
                        uuid: uuid(id)?.into_bytes(),
                        hash_seed: ids.bytes(&format!("hash seed {id}")),
                        label: label.clone().unwrap_or_default(),
                        time: self.task.plan.time,
                    };
                    Filling::Ext4(Ext4::new(at, options, items, |item| self.data(item))?)
                }
            });
        }
        Ok((fillings, booting.notes))
    }

    /// Returns the pieces of a file that has holes.
    fn data(&self, item: &Item) -> Result<Option<Vec<sparse::Piece>>, Failure> {
        let What::File(size, Body::Root(n)) = item.what else {
            return Ok(None);
        };
        let entry = &self.entries[n];
        if !entry.sparse {
            return Ok(None);
        }
        match self.tree.content(entry)? {
            Content::File(reader) => reader.data(size),
            Content::Text(_) => Ok(None),
        }
    }

    /// Measures, and gives each partition its place.
    fn arrange(&self, fillings: &[Filling]) -> Result<Arrangement, Failure> {
        let plan = self.task.plan;
        let mut needs = Vec::new();
        for (filling, partition) in fillings.iter().zip(&plan.layout.partitions) {
            needs.push(filling.need(plan.headroom, &partition.name)?);
        }
        let mut blobs = Vec::new();
        for blob in &plan.layout.blobs {
            blobs.push(self.size_of(&blob.source)?);
        }
        let places = arrange::arrange(&plan.layout, plan.size, &needs, &blobs)?;
        for ((filling, need), (partition, place)) in fillings
            .iter()
            .zip(&needs)
            .zip(plan.layout.partitions.iter().zip(&places.partitions))
        {
            if matches!(filling, Filling::Fat(..)) && place.size > fat::LARGEST_SYSTEM {
                let (name, size) = (&partition.name, size::show(place.size));
                let why = format!(
                    "arranging the disk: partition '{name}' of {size} is too large for FAT32"
                );
                return Err(Failure::new(Code::Failed, why).hint("give it less than 1T"));
            }
            if !filling.fits(place.size) {
                return Err(arrange::too_small(&partition.name, place.size, need.least));
            }
        }
        Ok(places)
    }

    fn write(&self, fillings: &[Filling], places: &Arrangement) -> Result<(), Failure> {
        let Task { image, plan, .. } = self.task;
        let doing = || "writing the image";
        image.set_len(places.size).doing(Code::Os, doing)?;
        table::write(image, &plan.layout, places, &plan.ids)?;
        let bar = self.bar(fillings);
        for ((filling, place), (partition, id)) in fillings
            .iter()
            .zip(&places.partitions)
            .zip(plan.layout.partitions.iter().zip(&plan.file_systems))
        {
            match filling {
                Filling::Nothing => {}
                Filling::Bytes(source, size) => {
                    self.copy(source, *size, place.start, &bar)?;
                }
                Filling::Fat(at, items) => {
                    let Holds::FileSystem { label, .. } = &partition.content else {
                        continue;
                    };
                    let volume = fat::Volume {
                        serial: serial(id)?,
                        label: label.as_deref(),
                        time: plan.time.cast_signed(),
                    };
                    let to = (*image, place.start, place.size);
                    fat::write(items, at, &volume, to, |item, offset| match item.what {
                        What::File(size, _) => {
                            self.copy_content(self.open(item)?, size, offset, &bar)
                        }
                        _ => Ok(()),
                    })?;
                }
                Filling::Ext4(ext4) => self.write_ext4(ext4, &partition.name, place, &bar)?,
            }
        }
        for blob in &plan.layout.blobs {
            self.copy(&blob.source, self.size_of(&blob.source)?, blob.offset, &bar)?;
        }
        Ok(())
    }

    fn write_ext4(
        &self,
        ext4: &Ext4,
        name: &str,
        place: &arrange::Place,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let plan = ext4::Plan::new(&ext4.tree, &ext4.options, place.size / ext4::BLOCK)
            .map_err(|_| arrange::too_small(name, place.size, place.size + 1))?;
        let written = plan.write(self.task.image, place.start, |node| {
            let item = &ext4.items[ext4.item_of[&node]];
            let content = self.open(item).map_err(io::Error::other)?;
            Ok(Bytes { content, bar })
        });
        written.map_err(|error| {
            let path = |node: NodeId| {
                let item = ext4.item_of.get(&node).map(|n| &ext4.items[*n]);
                show(
                    &ext4.at,
                    item.map(|i| i.path.as_slice()).unwrap_or_default(),
                )
            };
            let failed =
                |doing, why: &dyn Display| Failure::new(Code::Os, format!("{doing}: {why}"));
            match error {
                ext4::WriteError::Writing(e) => failed(format!("writing partition '{name}'"), &e),
                ext4::WriteError::Changed(node) => {
                    failed(format!("reading {}", path(node)), &error)
                }
                ext4::WriteError::Reading(node, e) => Failure::of_io(e)
                    .unwrap_or_else(|e| failed(format!("reading {}", path(node)), &e)),
            }
        })
    }

    /// Opens what is in a file.
    fn open<'b>(&'b self, item: &'b Item) -> Result<Content<'b>, Failure> {
        match &item.what {
            What::File(_, Body::Made(text)) => Ok(Content::Text(text)),
            What::File(_, Body::Root(n)) => self.tree.content(&self.entries[*n]),
            _ => Ok(Content::Text(&[])),
        }
    }

    /// Returns the entry of a file of the root that the layout names.
    fn entry(&self, path: &str) -> Result<&Entry, Failure> {
        let found = self.entries.iter().find(|e| e.path == path.as_bytes());
        let found = match found.map(|e| &e.kind) {
            Some(Kind::HardLink(first)) => self.entries.get(*first),
            _ => found,
        };
        found
            .filter(|e| matches!(e.kind, Kind::File { .. }))
            .ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    format!("looking for '/{path}' of the root, which the layout names: there is no such file, or it stays out of images"),
                )
                .hint("strap the package that has it, or name another file in the layout")
            })
    }

    fn host_file(&self, source: &Source) -> Option<&HostFile> {
        self.task.files.iter().find(|f| f.source == *source)
    }

    fn size_of(&self, source: &Source) -> Result<u64, Failure> {
        match source {
            Source::Root(path) => match &self.entry(path)?.kind {
                Kind::File { size, .. } => Ok(*size),
                _ => Ok(0),
            },
            Source::Host(_) => Ok(self.host_file(source).map_or(0, |f| f.size)),
        }
    }

    /// Copies what the layout names to an offset of the disk.
    fn copy(
        &self,
        source: &Source,
        size: u64,
        offset: u64,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let copied = match source {
            Source::Root(path) => {
                self.copy_content(self.tree.content(self.entry(path)?)?, size, offset, bar)
            }
            Source::Host(_) => match self.host_file(source) {
                Some(host) => self.copy_file(&host.file, size, offset, bar),
                None => Ok(()),
            },
        };
        copied.map_err(|f| f.while_doing(format!("copying '{}'", source.show())))
    }

    fn copy_content(
        &self,
        content: Content<'_>,
        size: u64,
        offset: u64,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        match content {
            Content::Text(text) => self
                .task
                .image
                .write_all_at(text, offset)
                .doing(Code::Os, || "writing the image"),
            Content::File(reader) => {
                self.copy_file(reader.file(), size, offset, bar)?;
                reader.is_the_same()
            }
        }
    }

    /// Copies a file to an offset of the image, where there are only zeros: holes are not read, and zeros not written.
    fn copy_file(
        &self,
        file: &File,
        size: u64,
        offset: u64,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let reading = || "reading it";
        let mut buffer = vec![0; 1 << 18];
        let zeros = buffer.clone();
        for (begin, length) in sparse::stored(file, size).doing(Code::Os, reading)? {
            let (mut at, end) = (begin, begin + length);
            while at < end {
                signal::check()?;
                let most = usize::try_from(end - at)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let n = file
                    .read_at(&mut buffer[..most], at)
                    .doing(Code::Os, reading)?;
                if n == 0 {
                    break;
                }
                if buffer[..n] != zeros[..n] {
                    let written = self.task.image.write_all_at(&buffer[..n], offset + at);
                    written.doing(Code::Os, || "writing the image")?;
                }
                bar.inc(n as u64);
                at += n as u64;
            }
        }
        if file.metadata().doing(Code::Os, reading)?.len() == size {
            return Ok(());
        }
        Err(Failure::new(Code::Failed, "it changed while it was read"))
    }

    /// Returns a progress bar over the content of all files. It draws on a terminal only.
    fn bar(&self, fillings: &[Filling]) -> ProgressBar {
        if self.task.quiet {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(fillings.iter().map(Filling::content).sum());
        bar.set_draw_target(ProgressDrawTarget::stderr());
        let template = "disk {bar:20} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.with_finish(indicatif::ProgressFinish::AndClear)
    }
}

/// A file's bytes, on their way. What goes wrong while they are read is a [`Failure`] inside of the error.
struct Bytes<'a> {
    content: Content<'a>,
    bar: &'a ProgressBar,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        signal::check().map_err(io::Error::other)?;
        let n = match &mut self.content {
            Content::Text(text) => text.read(buffer)?,
            Content::File(reader) => read(reader, buffer).map_err(io::Error::other)?,
        };
        self.bar.inc(n as u64);
        Ok(n)
    }
}

impl Seek for Bytes<'_> {
    /// Goes to where a piece begins: only a file has holes.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match (&mut self.content, to) {
            (Content::File(reader), SeekFrom::Start(at)) => reader.seek(at).map(|()| at),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Reads; at the end, the file must still be what it was.
fn read(reader: &mut Reader, buffer: &mut [u8]) -> Result<usize, Failure> {
    loop {
        match reader.read(buffer) {
            Ok(0) if !buffer.is_empty() => return reader.is_the_same().map(|()| 0),
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(reader.failed(&e)),
        }
    }
}

fn mount_point(partition: &Partition) -> Option<&str> {
    match &partition.content {
        Holds::FileSystem { at, .. } => at.as_deref(),
        _ => None,
    }
}

fn serial(text: &str) -> Result<u32, Failure> {
    let number = u32::from_str_radix(&text.replace('-', ""), 16);
    number.doing(Code::Usage, || format!("reading the volume id '{text}'"))
}

fn uuid(text: &str) -> Result<uuid::Uuid, Failure> {
    uuid::Uuid::parse_str(text).doing(Code::Usage, || format!("reading the UUID '{text}'"))
}

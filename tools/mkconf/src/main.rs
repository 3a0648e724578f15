//! mkconf: write the pacman.conf that *this* pacman accepts for *this* distribution, strict and loose.
//!
//! The same file does not do for every pacman: 7.1 wants its directories to be there and changed what a missing
//! SigLevel means, 7.0 looks a DownloadUser up on the host, and all of them take a relative path for one below the
//! current directory. So the file is made from the version in the document, with every path absolute, every
//! directory made and the signature level spelt out. Two are written, which differ in SigLevel alone: the strict one,
//! that everything uses, and the loose one, for `strap --loose`.
//!
//! They lie beside the root, not in it: they are the build's, not the image's.

mod foreign;
mod place;
mod plan;
mod render;
mod repos;
mod setting;

use clap::Parser;
use distro::{Preset, Summary};
use place::Made;
use plan::{Host, Plan};
use render::Level;
use rootfs::{Root, session};
use stage::complete::names;
use stage::members::{self, Arch, Config, Distro, Mode, Overlays};
use stage::run::{read_state_or_nothing, write_out};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, message, quote};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write the pacman.conf that this pacman accepts for this distribution, strict and loose
///
/// Writes pacman-strict.conf and pacman-loose.conf, which differ in SigLevel alone, for the pacman in the document, and
/// makes the directories that they name.
#[derive(Debug, Parser)]
#[command(name = "mkconf", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  mkroot target --arch aarch64 --distro archlinuxarm | fetch-pacman \\\n    | mkconf --server 'https://mirror.example/$arch/$repo' | keyring"
)]
struct Args {
    /// The distribution, where the document names none
    #[arg(long, value_name = "NAME|FILE.toml", add = names(distro::Preset::names))]
    distro: Option<String>,

    /// Lay the repositories of this preset over it, where the document names no
    /// distribution; more than one in order
    #[arg(long, value_name = "NAME|FILE.toml", add = names(distro::Preset::names))]
    overlay: Vec<String>,

    /// The architecture, where the document names none
    #[arg(long, value_name = "ARCH", add = names(rootfs::arch::names))]
    arch: Option<String>,

    /// Use URL in place of the distribution's own servers; more than one in order
    #[arg(long, value_name = "URL", conflicts_with = "snapshot")]
    server: Vec<String>,

    /// Add a repository, or give one of the others another server or SigLevel
    ///
    /// Behind URL there may be ,before=NAME or ,after=NAME for its place among the others, which is the last;
    /// ,siglevel=WORDS, and with Never or Optional its packages need no signature; ,usage=WORDS; ,cacheserver=URL.
    #[arg(long, value_name = "NAME=URL[,...]")]
    repo: Vec<String>,

    /// Use the repositories and options of FILE, a pacman.conf that is there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "snapshot"])]
    conf: Option<PathBuf>,

    /// Set a line of [options]; KEY alone sets a switch
    #[allow(rustdoc::broken_intra_doc_links, reason = "this is help, and not Markdown")]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Keep packages in DIR [default: /var/cache or ~/.cache,
    /// strapline/packages/DISTRO-ARCH in it]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Write the two files in DIR [default: ROOT.strapline]
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,

    /// Use the repositories as they were on that day, where someone keeps them
    #[arg(long, value_name = "YYYY-MM-DD")]
    snapshot: Option<String>,

    /// Print a file instead of the document, and touch nothing
    #[arg(long, value_name = "strict|loose", hide_possible_values = true, conflicts_with = "new")]
    print: Option<Level>,

    /// With --print and no document: the root that the file is for [default: /mnt]
    #[arg(long, value_name = "DIR", requires = "print")]
    root: Option<PathBuf>,

    /// List the presets, each with its architectures, and those that it can be
    /// laid over others for
    #[arg(long, exclusive = true)]
    list: bool,

    /// Say why each line is there, and why some are not
    #[arg(long)]
    explain: bool,

    #[command(flatten)]
    common: Common,
}

impl Stage for Args {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let plan = plan::plan(self, document, &Host::here())?;
        let root = Root::of(document)?;
        // Root may write them for a user. A document without a mode is for a look at the configuration.
        if document.get::<Mode>().is_some() && !rustix::process::geteuid().is_root() {
            session::whose(document)?;
        }
        if self.explain {
            explain(context.tool, &plan, Level::Strict);
        }
        let mut made = Made::default();
        let config = apply(&plan, &root, &mut made);
        let config = match config {
            Ok(config) => config,
            Err(failure) => {
                made.undo();
                return Err(failure);
            }
        };
        context.on_undo(move |_| made.undo());
        for repo in plan.conf.repos.iter().filter(|repo| repo.unsigned) {
            context.warn(format_args!(
                "packages of the repository '{}' need no signature: nothing verifies them",
                repo.name
            ));
        }
        record(document, &plan, &config);
        for note in &plan.notes {
            context.note(note);
        }
        context.note(format_args!("{} for {}: {}", plan.conf.title, plan.arch, quote(&config.strict)));
        Ok(())
    }
}

/// Makes the directories and writes the files.
fn apply(plan: &Plan, root: &Root, made: &mut Made) -> Result<Config, Failure> {
    made.in_root(root)?;
    let cache = made.directory(&plan.cache, "--cache-dir")?;
    place::closed(&cache, &plan.cache)?;
    place::ours(&cache, &plan.cache, "--cache-dir")?;
    let directory = made.directory(&plan.out_dir, "--out-dir")?;
    place::ours(&directory, &plan.out_dir, "--out-dir")?;
    let gpgdir = plan.out_dir.join(plan::GPGDIR);
    made.directory(&gpgdir, "--out-dir")?;
    let config = Config {
        strict: plan.out_dir.join("pacman-strict.conf"),
        loose: plan.out_dir.join("pacman-loose.conf"),
        cache: plan.cache.clone(),
        gpgdir: Some(gpgdir),
        architecture: plan.conf.architecture.clone(),
        repositories: plan.conf.repos.iter().map(|repo| repo.record(&plan.conf.siglevel)).collect(),
    };
    for (path, level) in [(&config.strict, Level::Strict), (&config.loose, Level::Loose)] {
        made.file(&directory, path, &render::text(&plan.conf, level))?;
    }
    Ok(config)
}

/// Records what was written. The distribution and the architecture are mkroot's: they are only filled in.
fn record(document: &mut Document, plan: &Plan, config: &Config) {
    document.write(config);
    if document.distro().is_none() {
        document.write(&Distro(plan.distro.clone()));
        if !plan.overlays.is_empty() {
            document.write(&Overlays(plan.overlays.clone()));
        }
    }
    if document.arch().is_none() {
        document.write(&Arch(plan.arch.clone()));
    }
}

fn explain(tool: &str, plan: &Plan, level: Level) {
    for sentence in render::explain(&plan.conf, level) {
        message::line(tool, sentence);
    }
    if level == Level::Strict {
        message::line(tool, "the loose file is the same, with SigLevel = Never everywhere");
    }
}

/// `--print` and `--list`: no stage of a pipeline but its end, for people and for comparing.
fn print(args: &Args) -> ExitCode {
    let context = Context::new("mkconf", args.common.quiet);
    let text = if args.list { list().map(Ok) } else { read_and_render(args, args.print.unwrap_or(Level::Strict)) };
    let written = text.and_then(|text| match text {
        Ok(text) => write_out(text.as_bytes()).doing(Code::Output, || "writing on stdout").map(|()| ExitCode::SUCCESS),
        Err(exit) => Ok(ExitCode::from(exit)),
    });
    written.unwrap_or_else(|failure| {
        context.report(&failure);
        ExitCode::from(failure.code.exit())
    })
}

/// Returns the table of presets: name, architectures, those that it can be laid over another preset for, when it was seen to
/// work online, title.
fn list() -> Result<String, Failure> {
    let words = |list: &[String]| if list.is_empty() { "-".to_owned() } else { list.join(",") };
    let row = |preset: Summary| {
        let seen = preset.seen_online.unwrap_or_else(|| "never".to_owned());
        [preset.name, words(&preset.arches), words(&preset.overlay), seen, preset.title]
    };
    let head = ["NAME", "ARCHITECTURES", "AS OVERLAY", "SEEN ONLINE", "TITLE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(Preset::summaries()?.into_iter().map(row)).collect();
    let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let cell = |(text, width): (&String, &usize)| format!("{text:width$}  ");
    let line = |row: &[String; 5]| row.iter().zip(&widths).map(cell).collect::<String>() + &row[4] + "\n";
    Ok(rows.iter().map(line).collect())
}

/// Returns the file's text; or the exit status of the stage that failed before this one, and has said so.
fn read_and_render(args: &Args, level: Level) -> Result<Result<String, u8>, Failure> {
    let document = match read_state_or_nothing(&args.common)? {
        Some(document) => document,
        None => {
            let mut document = Document::new();
            let root = args.root.as_deref().unwrap_or(Path::new("/mnt"));
            document.write(&members::Root(
                std::path::absolute(root).doing(Code::Os, || format!("reading {}", quote(root)))?,
            ));
            document
        }
    };
    if let Some(exit) = document.failed() {
        return Ok(Err(exit));
    }
    let plan = plan::plan(args, &document, &Host::here())?;
    if args.explain {
        explain("mkconf", &plan, level);
    }
    Ok(Ok(render::text(&plan.conf, level)))
}

fn main() -> ExitCode {
    stage::complete::answer::<Args>();
    match Args::try_parse() {
        Ok(args) if args.list || args.print.is_some() => print(&args),
        _ => stage::main::<Args>(),
    }
}

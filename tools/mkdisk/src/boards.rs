//! What a board adds to the command line, and the list of boards.

use crate::Args;
use clap::ValueEnum;
use image::Layout;
use image::board;
use image::boot::Loader;
use stage::{Code, Context, Doing, Failure};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What is to boot: what the command line says, and else the board.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) loader: Loader,
    pub(crate) cmdline: Option<String>,
    pub(crate) dtb: Option<String>,
    pub(crate) overlays: Vec<String>,
    /// The name of the board, or its absolute path.
    pub(crate) board: Option<String>,
}

impl Boot {
    /// Returns what is to boot. The board's words come first, since of two consoles the last one is the kernel's.
    pub(crate) fn of(args: &Args, layout: &Layout) -> Result<Self, Failure> {
        let board = layout.board.as_ref();
        let mut loader = args.bootloader;
        if let (Loader::Auto, Some(name)) = (loader, board.and_then(|b| b.loader.as_deref())) {
            loader = Loader::from_str(name, false).doing(Code::Usage, || "reading the board")?;
        }
        let words = [board.and_then(|b| b.cmdline.as_deref()), args.cmdline.as_deref()];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        let overlays = if args.dtbo.is_empty() { board.map(|b| b.overlays.clone()) } else { Some(args.dtbo.clone()) };
        Ok(Self {
            loader,
            cmdline: (!words.is_empty()).then(|| words.join(" ")),
            dtb: args.dtb.clone().or_else(|| board?.dtb.clone()),
            overlays: overlays.unwrap_or_default(),
            board: args.board.as_deref().map(board::reference).transpose()?,
        })
    }
}

/// Parses `NAME=FILE`.
pub(crate) fn parse_blob(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err("not of the form NAME=FILE".to_owned()),
    }
}

/// `--list-boards`: no stage of a pipeline, for people.
pub(crate) fn list() -> ExitCode {
    let context = Context::new("mkdisk", true);
    let text = board::list().map(|boards| board::table(&boards));
    let written = text.and_then(|text| {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).doing(Code::Output, || "writing on stdout")
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            context.report(&failure);
            ExitCode::from(failure.code.exit())
        }
    }
}

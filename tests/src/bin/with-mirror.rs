//! `with-mirror TREE COMMAND…` serves a tree on loopback while a command runs, with its address in `MIRROR`.
//!
//! For `make demo` and `make bench`: the server is a thread of this program, so nothing is left when the command ends.

use std::path::Path;
use std::process::{Command, ExitCode};
use strapline_tests::Server;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(tree), Some(program)) = (args.next(), args.next()) else {
        eprintln!("with-mirror: hint: with-mirror TREE COMMAND [ARG]...");
        return ExitCode::from(64);
    };
    let server = Server::of(Path::new(&tree));
    match Command::new(&program).args(args).env("MIRROR", server.url()).status() {
        Ok(status) => ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)),
        Err(e) => {
            eprintln!("with-mirror: running '{}': {e}", program.to_string_lossy());
            ExitCode::from(127)
        }
    }
}

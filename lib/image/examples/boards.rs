//! Prints `docs/boards.md`.

use image::board;
use std::process::ExitCode;

fn main() -> ExitCode {
    match board::list() {
        Ok(boards) => {
            print!("{}", board::page(&boards));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("boards: {}", failure.message);
            ExitCode::FAILURE
        }
    }
}

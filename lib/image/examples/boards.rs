//! Writes `docs/boards.md`: `cargo run -p image --example boards > docs/boards.md`.

use image::board;

fn main() -> std::io::Result<()> {
    let boards = board::list().map_err(|failure| std::io::Error::other(failure.message))?;
    stage::run::write_out(board::page(&boards).as_bytes())
}

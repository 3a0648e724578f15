//! Writes `docs/matrix.md`: `cargo run -p strapline-tests --example matrix > docs/matrix.md`.

fn main() -> std::io::Result<()> {
    stage::run::write_out(strapline_tests::matrix::page().as_bytes())
}

//! Writes `docs/schema.json`: `cargo run -p stage --example schema > docs/schema.json`.

fn main() -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(&stage::members::schema())?;
    stage::run::write_out(format!("{text}\n").as_bytes())
}

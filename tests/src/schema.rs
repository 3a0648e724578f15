//! Holds documents to `docs/schema.json`.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// Checks a document that a tool wrote: it is of the schema, and every member in it is of the schema or a third party's.
///
/// # Panics
///
/// Where it is not.
#[track_caller]
pub fn check(document: &Value) {
    static SCHEMA: OnceLock<(Schemas, SchemaIndex)> = OnceLock::new();
    let (schemas, index) = SCHEMA.get_or_init(|| {
        let path = crate::top().join("docs/schema.json");
        let text = std::fs::read(&path).expect("docs/schema.json");
        let mut schema: Value = serde_json::from_slice(&text).expect("JSON");
        close(&mut schema);
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        let url = "file:///schema.json";
        compiler.add_resource(url, schema).expect("a schema");
        let index = compiler.compile(url, &mut schemas).expect("a schema");
        (schemas, index)
    });
    if let Err(error) = schemas.validate(document, *index) {
        panic!("not of docs/schema.json: {error:#}\n{document}");
    }
}

/// Checks a value by a schema of the test's own; formats count.
///
/// # Panics
///
/// Where it is not of the schema.
#[track_caller]
pub fn check_by(schema: Value, value: &Value) {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.enable_format_assertions();
    let url = "file:///own.json";
    compiler.add_resource(url, schema).expect("a schema");
    let index = compiler.compile(url, &mut schemas).expect("a schema");
    if let Err(error) = schemas.validate(value, index) {
        panic!("not of the schema: {error:#}\n{value:#}");
    }
}

/// Allows no other members than the schema's and third parties', whose names have a dot.
fn close(schema: &mut Value) {
    // Parts of a whole do not know each other's members: the whole is closed, and they are not.
    if let Some(parts) = schema.get("$defs").cloned() {
        let whole = ["Package", "VerifiedPackage"];
        for (name, mut part) in parts.as_object().into_iter().flatten().map(|(n, p)| (n, p.clone())) {
            if !whole.contains(&name.as_str()) {
                close(&mut part);
                schema["$defs"][name] = part;
            }
        }
    }
    if schema.get("properties").is_some() || schema.get("allOf").is_some() {
        schema["patternProperties"] = json!({"\\.": true});
        schema["unevaluatedProperties"] = json!(false);
    }
    let inner = ["properties", "items"];
    for key in inner {
        match schema.get_mut(key) {
            Some(Value::Object(members)) if key == "properties" => {
                members.values_mut().for_each(close);
            }
            Some(items) => close(items),
            None => {}
        }
    }
}

//! `--change`: instructions of a Dockerfile for the configuration of an image, as 'docker import --change' takes them.

use serde_json::{Map, Value, json};
use std::str::FromStr;

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The member of the configuration (image-spec, config.md).
    member: &'static str,
    value: Value,
}

/// Instructions, the members that they set, and whether each adds to it.
const INSTRUCTIONS: [(&str, &str, Parse); 9] = [
    ("CMD", "Cmd", command),
    ("ENTRYPOINT", "Entrypoint", command),
    ("ENV", "Env", variable),
    ("EXPOSE", "ExposedPorts", port),
    ("LABEL", "Labels", label),
    ("STOPSIGNAL", "StopSignal", word),
    ("USER", "User", word),
    ("VOLUME", "Volumes", volume),
    ("WORKDIR", "WorkingDir", directory),
];

/// Reads what follows the name of an instruction.
type Parse = fn(&str) -> Result<Value, String>;

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.trim().split_once([' ', '\t']).unwrap_or((text.trim(), ""));
        let found = INSTRUCTIONS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
        let Some((_, member, parse)) = found else {
            let names: Vec<_> = INSTRUCTIONS.iter().map(|(name, ..)| *name).collect();
            return Err(format!("'{}' is not one of {}", name.escape_default(), names.join(", ")));
        };
        if text.contains(|c: char| c.is_control() && c != '\t') {
            return Err("an instruction is one line".to_owned());
        }
        Ok(Self { member, value: parse(rest.trim())? })
    }
}

/// Applies instructions to a configuration, in their order.
pub(crate) fn apply(changes: &[Change], config: &mut Map<String, Value>) {
    // What the entry point is given is its own matter.
    if changes.iter().any(|change| change.member == "Entrypoint") {
        config.remove("Cmd");
    }
    for Change { member, value } in changes {
        match (config.get_mut(*member), value) {
            (Some(Value::Array(variables)), Value::String(new)) => {
                let key = |v: &str| v.split_once('=').map(|(key, _)| key.to_owned());
                variables.retain(|old| old.as_str().and_then(key) != key(new));
                variables.push(value.clone());
            }
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more.clone()),
            (None, Value::String(_)) if *member == "Env" => {
                config.insert((*member).to_owned(), json!([value]));
            }
            _ => {
                config.insert((*member).to_owned(), value.clone());
            }
        }
    }
}

/// An array in JSON, or a command for a shell.
fn command(text: &str) -> Result<Value, String> {
    if text.starts_with('[') {
        return match serde_json::from_str::<Vec<String>>(text) {
            Ok(words) => Ok(json!(words)),
            Err(e) => Err(format!("it is not an array of strings in JSON: {e}")),
        };
    }
    Ok(json!(["/bin/sh", "-c", some(text)?]))
}

/// `KEY=VALUE`, with the value in double quotes, as in JSON, where it is not a plain word.
fn pair(text: &str) -> Result<(&str, String), String> {
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| is_plain(key) && !key.is_empty()) else {
        return Err(format!("'{}' is not KEY=VALUE", text.escape_default()));
    };
    match serde_json::from_str(value) {
        Ok(quoted) if value.starts_with('"') => Ok((key, quoted)),
        _ if is_plain(value) => Ok((key, value.to_owned())),
        _ => {
            Err(format!("write the value in double quotes, as in {key}=\"a value\"; one instruction sets one of them"))
        }
    }
}

/// A value with a blank, a quote, a backslash or a variable is read in different ways.
fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_whitespace() || "\"'\\$".contains(c))
}

fn variable(text: &str) -> Result<Value, String> {
    let (key, value) = pair(text)?;
    if value.contains('\0') {
        return Err("a variable has no NUL".to_owned());
    }
    Ok(json!(format!("{key}={value}")))
}

fn label(text: &str) -> Result<Value, String> {
    let (key, value) = pair(text)?;
    Ok(json!({key: value}))
}

fn some(text: &str) -> Result<&str, String> {
    if text.is_empty() { Err("its value is missing".to_owned()) } else { Ok(text) }
}

fn word(text: &str) -> Result<Value, String> {
    match some(text)? {
        text if is_plain(text) => Ok(json!(text)),
        _ => Err(format!("'{}' is not one word", text.escape_default())),
    }
}

fn port(text: &str) -> Result<Value, String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match number.parse::<u16>() {
        Ok(number) if number > 0 && ["tcp", "udp", "sctp"].contains(&protocol) => {
            Ok(json!({format!("{number}/{protocol}"): {}}))
        }
        _ => Err(format!("'{}' is not a port such as 80 or 53/udp", text.escape_default())),
    }
}

fn absolute(text: &str) -> Result<&str, String> {
    if text.starts_with('/') && !text.contains('$') {
        return Ok(text);
    }
    Err(format!("'{}' is not an absolute path", text.escape_default()))
}

fn directory(text: &str) -> Result<Value, String> {
    Ok(json!(absolute(text)?))
}

fn volume(text: &str) -> Result<Value, String> {
    Ok(json!({absolute(text)?: {}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Value {
        let changes: Vec<Change> = changes.iter().map(|c| c.parse().unwrap()).collect();
        let mut config = json!({"Env": ["PATH=/usr/bin", "LANG=C.UTF-8"], "Cmd": ["/usr/bin/bash"]});
        apply(&changes, config.as_object_mut().unwrap());
        config
    }

    #[test]
    fn instructions_set_and_add() {
        assert_eq!(changed(&["CMD [\"a\", \"b c\"]"])["Cmd"], json!(["a", "b c"]));
        assert_eq!(changed(&["cmd echo hello"])["Cmd"], json!(["/bin/sh", "-c", "echo hello"]));
        let entry = changed(&["ENTRYPOINT [\"/init\"]"]);
        assert_eq!((&entry["Entrypoint"], &entry["Cmd"]), (&json!(["/init"]), &Value::Null));
        assert_eq!(changed(&["CMD [\"x\"]", "ENTRYPOINT [\"/init\"]"])["Cmd"], json!(["x"]));
        let environment = changed(&["ENV LANG=de_DE.UTF-8", "ENV A=\"b c\\n\"", "ENV PATH=/x:/y", "ENV A=="]);
        assert_eq!(environment["Env"], json!(["LANG=de_DE.UTF-8", "PATH=/x:/y", "A=="]));
        let labels = changed(&["LABEL a.b=c", "LABEL d=\"e f\"", "LABEL a.b=g"]);
        assert_eq!(labels["Labels"], json!({"a.b": "g", "d": "e f"}));
        let others =
            changed(&["USER ann:users", "WORKDIR /a b", "STOPSIGNAL SIGRTMIN+3", "EXPOSE 80", "EXPOSE 53/udp"]);
        assert_eq!((&others["User"], &others["WorkingDir"]), (&json!("ann:users"), &json!("/a b")));
        assert_eq!(others["StopSignal"], "SIGRTMIN+3");
        assert_eq!(others["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        assert_eq!(changed(&["VOLUME /data"])["Volumes"], json!({"/data": {}}));
    }

    #[test]
    fn what_is_no_instruction_is_refused() {
        for bad in [
            "",
            "RUN x",
            "ENV",
            "ENV A",
            "ENV =b",
            "ENV A=b c",
            "ENV A=b C=d",
            "ENV A=$B",
            "ENV A='b'",
            "ENV A=\"b",
            "ENV A b",
            "ENV A=\"\\u0000\"",
            "LABEL a",
            "CMD",
            "CMD [1]",
            "CMD [\"a\"",
            "USER",
            "USER a b",
            "WORKDIR x",
            "EXPOSE 0",
            "EXPOSE 65536",
            "EXPOSE 80/x",
            "VOLUME",
            "VOLUME [\"/a\"]",
            "CMD a\nUSER b",
            "ENV A=b\0",
        ] {
            bad.parse::<Change>().unwrap_err();
        }
    }
}

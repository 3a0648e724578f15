//! The document that stages hand on.
//!
//! It is kept as JSON, and typed parts are views of it, so that whatever a tool does not know survives, at every level.
//! It is also untrusted input to a program that may run as root: [`Document::parse`] refuses what no tool of ours would
//! write before anything is touched, and what a path leads to is checked again where it is opened.

use crate::members::Step;
use crate::{Code, Failure, quote};
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::{Component, Path};

/// The protocol's major version: the value of the `strapline` member. Additive change never bumps it.
pub const VERSION: u64 = 1;

/// The longest document that is read, in bytes.
pub const LIMIT: u64 = 16 << 20;

/// The document: one JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct Document(Map<String, Value>);

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

impl Document {
    /// Returns a document that says nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let mut map = Map::new();
        map.insert("strapline".into(), json!(VERSION));
        Self(map)
    }

    /// Parses a document and refuses one that no tool would have written. `origin` says where it came from.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] with what is wrong and where.
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, Failure> {
        let bad = |why: String| {
            Failure::new(
                Code::BadDocument,
                format!("reading the document on {origin}: {why}"),
            )
        };
        let text = std::str::from_utf8(text).map_err(|e| bad(format!("not UTF-8: {e}")))?;
        if text.trim().is_empty() {
            return Err(bad(
                "it is empty: the tool before this one printed nothing".into()
            ));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let value = Value::deserialize(&mut json).map_err(|e| bad(format!("not JSON: {e}")))?;
        json.end()
            .map_err(|e| bad(format!("more than one document, or text after it ({e})")))?;
        // It is JSON, so what is wrong now is that.
        serde_json::from_str::<Unique>(text).map_err(|e| bad(e.to_string()))?;
        let Value::Object(map) = value else {
            return Err(bad("not a JSON object".into()));
        };
        match map.get("strapline").map(Value::as_u64) {
            Some(Some(VERSION)) => {}
            Some(Some(v)) => {
                return Err(bad(format!(
                    "it is of version {v}, this tool speaks version {VERSION}"
                )));
            }
            Some(None) => return Err(bad("\"strapline\" is not a version number".into())),
            None => {
                return Err(bad(
                    "not a strapline document: it has no \"strapline\" member".into(),
                ));
            }
        }
        let document = Self(map);
        document.validate().map_err(bad)?;
        Ok(document)
    }

    /// Checks what every tool relies on: types, absolute paths, a root that is not the host's.
    fn validate(&self) -> Result<(), String> {
        for key in ["root", "arch", "distro", "mode"] {
            if self.0.get(key).is_some_and(|v| !v.is_string()) {
                return Err(format!("\"{key}\" is not a string"));
            }
        }
        if let Some(root) = self.text("root") {
            plain_absolute(root).map_err(|why| format!("\"root\": {why}"))?;
            if root == "/" {
                return Err("\"root\" is '/', the host's own root".into());
            }
        }
        if let Some(arch) = self.text("arch")
            && !is_word(arch)
        {
            return Err("\"arch\" is not the name of an architecture".into());
        }
        if let Some(mode) = self.text("mode")
            && !["root", "user", "host"].contains(&mode)
        {
            return Err(format!("\"mode\" is '{mode}', not root, user or host"));
        }
        for (key, members) in [
            ("pacman", &["path"][..]),
            ("config", &["strict", "loose", "cache"]),
            ("keyring", &["dir"]),
        ] {
            let Some(value) = self.0.get(key) else {
                continue;
            };
            let object = value
                .as_object()
                .ok_or(format!("\"{key}\" is not an object"))?;
            for member in members {
                if let Some(value) = object.get(*member) {
                    let path = value
                        .as_str()
                        .ok_or(format!("\"{key}.{member}\" is not a string"))?;
                    plain_absolute(path).map_err(|why| format!("\"{key}.{member}\": {why}"))?;
                }
            }
        }
        if let Some(mounts) = self.0.get("mounts") {
            let mounts = mounts.as_array().ok_or("\"mounts\" is not an array")?;
            for (i, mount) in mounts.iter().enumerate() {
                let at = mount.get("at").and_then(Value::as_str);
                let at = at.ok_or(format!("\"mounts[{i}].at\" is not a string"))?;
                plain_below(at).map_err(|why| format!("\"mounts[{i}].at\": {why}"))?;
                // Absent or of another shape: that is for the tool to say that reads it.
                let nodes = mount.get("nodes").and_then(Value::as_array);
                let mut names = nodes.into_iter().flatten().filter_map(Value::as_str);
                if !names.all(is_name) {
                    return Err(format!("\"mounts[{i}].nodes\" has what is no name in /dev"));
                }
            }
        }
        for key in ["packages", "steps"] {
            if self.0.get(key).is_some_and(|v| !v.is_array()) {
                return Err(format!("\"{key}\" is not an array"));
            }
        }
        if let Some(error) = self.0.get("error") {
            // Any of them may become the first, whose exit status is the pipeline's.
            let none = Vec::new();
            let also = match error.get("also") {
                None => &none,
                Some(also) => also.as_array().ok_or("\"error.also\" is not an array")?,
            };
            let all = std::iter::once(("error".to_owned(), error)).chain(
                also.iter()
                    .enumerate()
                    .map(|(i, error)| (format!("error.also[{i}]"), error)),
            );
            for (key, error) in all {
                let exit = error.get("exit").and_then(Value::as_u64);
                if !exit.is_some_and(|n| (1..=255).contains(&n)) {
                    return Err(format!(
                        "\"{key}.exit\" is not an exit status between 1 and 255"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns a member that is a string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// Returns a member as it stands.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Returns the directory that the pipeline works on.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.text("root").map(Path::new)
    }

    /// Returns the directory that the pipeline works on.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where there is none.
    pub fn need_root(&self) -> Result<&Path, Failure> {
        self.root().ok_or_else(|| missing("root", "mkroot"))
    }

    /// Returns a typed view of a member.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where the member is not of that shape.
    pub fn view<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        T::deserialize(value).map(Some).map_err(|e| {
            Failure::new(
                Code::BadDocument,
                format!("reading \"{key}\" of the document: {e}"),
            )
        })
    }

    /// Returns a typed view of a member that `tool` writes.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where the member is missing or not of that shape.
    pub fn need<T: DeserializeOwned>(&self, key: &str, tool: &str) -> Result<T, Failure> {
        self.view(key)?.ok_or_else(|| missing(key, tool))
    }

    /// Records a member that this tool owns. What the document has there and `value` does not know is kept: objects are
    /// merged, and so are elements of arrays that have the same `at`, `name` or `file`.
    pub fn record(&mut self, key: &str, value: &impl Serialize) {
        // A value of ours always serialises: views have string keys and no floats that JSON lacks.
        let new = serde_json::to_value(value).unwrap_or(Value::Null);
        match self.0.get_mut(key) {
            Some(old) => merge(old, new),
            None => {
                self.0.insert(key.to_owned(), new);
            }
        }
    }

    /// Records an object that this tool owns anew: of the members that it `knows`, what an earlier run said and this one
    /// does not goes; what others put there stays.
    pub fn record_anew(&mut self, key: &str, knows: &[&str], value: &impl Serialize) {
        if let Some(old) = self.0.get_mut(key).and_then(Value::as_object_mut) {
            old.retain(|member, _| !knows.contains(&member.as_str()));
        }
        self.record(key, value);
    }

    /// Removes a member that this tool owns.
    pub fn remove(&mut self, key: &str) {
        self.0.shift_remove(key);
    }

    /// Returns the exit status that a failed stage left, where one did.
    #[must_use]
    pub fn failed(&self) -> Option<u8> {
        let exit = self.0.get("error")?.get("exit").and_then(Value::as_u64);
        Some(exit.and_then(|n| u8::try_from(n).ok()).unwrap_or(1))
    }

    /// Returns the tool that recorded the error, where there is one.
    #[must_use]
    pub fn failed_tool(&self) -> Option<&str> {
        self.0.get("error")?.get("tool").and_then(Value::as_str)
    }

    /// Returns whether a making stage failed. One that undoes may have had nothing to read, and have worked from a directory.
    #[must_use]
    pub fn failed_making(&self) -> bool {
        self.failed().is_some() && !matches!(self.failed_tool(), Some("reap" | "unmount"))
    }

    /// Returns whether a making stage was refused because somebody else works on the root. What runs there is then none of
    /// this pipeline's.
    #[must_use]
    pub fn refused(&self) -> bool {
        let code = self.0.get("error").and_then(|error| error.get("code"));
        self.failed_making() && code.and_then(Value::as_str) == Some(Code::Busy.word())
    }

    /// Records a failure. The first one stays, since it is the cause; later ones go to `error.also`.
    pub fn fail(&mut self, tool: &str, failure: &Failure) {
        let mut error = json!({
            "tool": tool,
            "code": failure.code.word(),
            "message": failure.message,
            "exit": failure.code.exit(),
        });
        if let Some(hint) = &failure.hint {
            error["hint"] = json!(hint);
        }
        match self.0.get_mut("error").and_then(Value::as_object_mut) {
            None => {
                error["also"] = json!([]);
                self.0.insert("error".into(), error);
            }
            Some(first) => match first.get_mut("also").and_then(Value::as_array_mut) {
                Some(also) => also.push(error),
                None => {
                    first.insert("also".into(), json!([error]));
                }
            },
        }
    }

    /// Forgets the failures that `tool` recorded in an earlier run: it runs again now, and will say how that went. Where
    /// its failure was the first, the next one takes its place.
    pub fn forget_failures_of(&mut self, tool: &str) {
        let is_of_tool = |error: &Value| error.get("tool").and_then(Value::as_str) == Some(tool);
        let Some(first) = self.0.get_mut("error") else {
            return;
        };
        let mut none = Vec::new();
        let also = first.get_mut("also").and_then(Value::as_array_mut);
        let also = also.unwrap_or(&mut none);
        also.retain(|error| !is_of_tool(error));
        let also = also.clone();
        if !is_of_tool(first) {
            return;
        }
        let mut rest = also.into_iter();
        match rest.next() {
            Some(mut next) => {
                next["also"] = rest.collect();
                *first = next;
            }
            None => self.remove("error"),
        }
    }

    /// Removes members from each element of an array that this tool owns: what it does not know any more must not stay
    /// beside what it records next.
    pub fn forget_in_each(&mut self, key: &str, members: &[&str]) {
        let elements = self.0.get_mut(key).and_then(Value::as_array_mut);
        for element in elements
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            for member in members {
                element.shift_remove(*member);
            }
        }
    }

    /// Adds a step to the record.
    pub fn step(&mut self, step: &Step) {
        let value = serde_json::to_value(step).unwrap_or(Value::Null);
        match self.0.get_mut("steps").and_then(Value::as_array_mut) {
            Some(steps) => steps.push(value),
            None => {
                self.0.insert("steps".into(), json!([value]));
            }
        }
    }

    /// Returns the document as one line, with its newline.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(&self.0).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Returns the document for people, with its newline.
    #[must_use]
    pub fn pretty(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// JSON in which no object has two members of one name: programs differ in which of them counts.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Unique, A::Error> {
        while elements.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = members.next_key::<String>()? {
            members.next_value::<Unique>()?;
            if seen.contains(&key) {
                let key = quote(&key);
                return Err(serde::de::Error::custom(format!(
                    "it has the member {key} twice"
                )));
            }
            seen.insert(key);
        }
        Ok(Unique)
    }
}

fn missing(key: &str, tool: &str) -> Failure {
    Failure::new(
        Code::BadDocument,
        format!("reading the document: it has no \"{key}\""),
    )
    .hint(format!("put '{tool}' before this tool in the pipeline"))
}

/// Puts `new` over `old`, keeping what `new` does not know.
fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                match old.get_mut(&key) {
                    Some(slot) => merge(slot, value),
                    None => {
                        old.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            // Two mounts may be at one place: each then is merged with the one that it was, in their order.
            let mut before: HashMap<String, VecDeque<Value>> = HashMap::new();
            for value in std::mem::take(old) {
                if let Some(id) = identity(&value) {
                    before.entry(id).or_default().push_back(value);
                }
            }
            let mut known = |value: &Value| before.get_mut(&identity(value)?)?.pop_front();
            *old = new
                .into_iter()
                .map(|value| match known(&value) {
                    Some(mut slot) => {
                        merge(&mut slot, value);
                        slot
                    }
                    None => value,
                })
                .collect();
        }
        (slot, new) => *slot = new,
    }
}

/// Returns what tells an element of an array from the others: its place, its name, or its file.
fn identity(value: &Value) -> Option<String> {
    let key = ["at", "name", "file"]
        .into_iter()
        .find_map(|key| value.get(key))?;
    key.as_str().map(str::to_owned)
}

/// Returns why `path` is not an absolute path in its plainest form.
///
/// # Errors
///
/// The reason, for a message.
pub fn plain_absolute(path: &str) -> Result<(), String> {
    if path == "/" {
        return Ok(());
    }
    match path.strip_prefix('/') {
        Some(below) => plain_below(below),
        None => Err("the path is not absolute".into()),
    }
}

/// Returns why `path` is not a relative path that stays below where it starts. The empty path is the start itself.
///
/// # Errors
///
/// The reason, for a message.
pub fn plain_below(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    if path.chars().any(char::is_control) {
        return Err("the path has a control character".into());
    }
    let normal = Path::new(path)
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    if !normal || path.ends_with('/') || path.contains("//") || path.split('/').any(|c| c == ".") {
        return Err("the path is absolute where it must not be, or has '.', '..' or '//'".into());
    }
    Ok(())
}

/// Returns whether `text` names an entry of a directory, and not the way to another one.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/') && plain_below(text).is_ok()
}

/// Returns whether `text` is a word of letters, digits, `_` and `-`.
#[must_use]
pub fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() < 64
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document, Failure> {
        Document::parse(text.as_bytes(), "stdin")
    }

    #[test]
    fn what_is_not_a_document_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "it is empty: the tool before this one printed nothing"),
            ("   \n", "it is empty"),
            ("<html>", "not JSON: expected value at line 1 column 1"),
            ("[1]", "not a JSON object"),
            ("{}", "it has no \"strapline\" member"),
            ("{\"strapline\":\"1\"}", "is not a version number"),
            (
                "{\"strapline\":2}",
                "it is of version 2, this tool speaks version 1",
            ),
            (
                "{\"strapline\":1}{\"strapline\":1}",
                "more than one document",
            ),
            ("{\"strapline\":1} x", "text after it"),
            ("{\"strapline\":1,\"root\":\"/\"}", "the host's own root"),
            ("{\"strapline\":1,\"root\":\"srv\"}", "not absolute"),
            (
                "{\"strapline\":1,\"root\":\"/srv/../etc\"}",
                "has '.', '..'",
            ),
            ("{\"strapline\":1,\"root\":\"/srv/./x\"}", "has '.', '..'"),
            ("{\"strapline\":1,\"root\":\"//srv\"}", "'//'"),
            ("{\"strapline\":1,\"root\":\"/srv/\"}", "'//'"),
            ("{\"strapline\":1,\"root\":\"/a\\nb\"}", "control character"),
            ("{\"strapline\":1,\"root\":7}", "\"root\" is not a string"),
            (
                "{\"strapline\":1,\"root\":null}",
                "\"root\" is not a string",
            ),
            (
                "{\"strapline\":1,\"arch\":\"../x\"}",
                "not the name of an architecture",
            ),
            (
                "{\"strapline\":1,\"mode\":\"bare\"}",
                "not root, user or host",
            ),
            (
                "{\"strapline\":1,\"mounts\":{}}",
                "\"mounts\" is not an array",
            ),
            (
                "{\"strapline\":1,\"mounts\":[{\"at\":\"../etc\"}]}",
                "\"mounts[0].at\"",
            ),
            (
                "{\"strapline\":1,\"mounts\":[{\"at\":\"/etc\"}]}",
                "\"mounts[0].at\"",
            ),
            (
                "{\"strapline\":1,\"mounts\":[{\"at\":\"dev\",\"nodes\":[\"null\",\"../x\"]}]}",
                "\"mounts[0].nodes\"",
            ),
            (
                "{\"strapline\":1,\"pacman\":{\"path\":\"pacman\"}}",
                "\"pacman.path\": the path is not",
            ),
            (
                "{\"strapline\":1,\"config\":[]}",
                "\"config\" is not an object",
            ),
            ("{\"strapline\":1,\"error\":{\"exit\":0}}", "\"error.exit\""),
            (
                "{\"strapline\":1,\"error\":{\"exit\":256}}",
                "\"error.exit\"",
            ),
            ("{\"strapline\":1,\"error\":7}", "\"error.exit\""),
            (
                "{\"strapline\":1,\"error\":{\"exit\":69,\"also\":{}}}",
                "\"error.also\" is not an array",
            ),
            (
                "{\"strapline\":1,\"error\":{\"exit\":69,\"also\":[{\"exit\":75},5]}}",
                "\"error.also[1].exit\"",
            ),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, Code::BadDocument, "{text}");
            assert!(
                failure.message.contains(reason),
                "{text}: {}",
                failure.message
            );
        }
        assert!(Document::parse(b"\xff", "stdin").is_err());
    }

    #[test]
    fn two_elements_of_one_place_stay_apart() {
        let mut document = Document::new();
        document.record(
            "mounts",
            &json!([{ "at": "x" }, { "at": "x", "source": "/y" }]),
        );
        let before = document.line();
        document.record(
            "mounts",
            &json!([{ "at": "x" }, { "at": "x", "source": "/y" }]),
        );
        assert_eq!(document.line(), before);
    }

    #[test]
    fn what_a_tool_does_not_know_survives_at_every_level() {
        let mut document = parse(
            r#"{"org.x":1,"strapline":1,"pacman":{"path":"/p","org.x":2},
                "mounts":[{"at":"proc","org.x":3},{"at":"sys","org.x":4}]}"#,
        )
        .unwrap();
        document.record("pacman", &json!({"path": "/q", "version": "7"}));
        document.record("mounts", &json!([{"at": "sys"}, {"at": "dev"}]));
        assert_eq!(
            document.line(),
            "{\"org.x\":1,\"strapline\":1,\"pacman\":{\"path\":\"/q\",\"org.x\":2,\"version\":\"7\"},\
             \"mounts\":[{\"at\":\"sys\",\"org.x\":4},{\"at\":\"dev\"}]}\n"
        );
    }

    #[test]
    fn numbers_of_others_stay_what_they_are() {
        let text = "{\"strapline\":1,\"org.x\":[18446744073709551616,123456789012345678901234567890,-9223372036854775809,\
                    0.1000,1e+400,1e-7],\"root_id\":{\"dev\":1,\"ino\":36893488147419103232}}\n";
        let document = parse(text).unwrap();
        assert_eq!(document.line(), text);
        #[derive(Deserialize)]
        struct Id {
            ino: u64,
        }
        let seen = document.view::<Id>("root_id");
        assert_eq!(
            seen.map(|id| id.map(|id| id.ino)).unwrap_err().code,
            Code::BadDocument
        );
    }

    #[test]
    fn two_members_of_one_name_are_refused_at_every_level() {
        for (text, name) in [
            (r#"{"strapline":1,"root":"/a","root":"/b"}"#, "root"),
            (r#"{"strapline":1,"root":"/a","strapline":1}"#, "strapline"),
            (r#"{"strapline":1,"org.x":[{"a":{"b":1,"\u0062":2}}]}"#, "b"),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, Code::BadDocument);
            let why = format!("it has the member '{name}' twice");
            assert!(failure.message.contains(&why), "{failure}");
        }
        parse(r#"{"strapline":1,"a":{"x":1},"b":{"x":1}}"#).unwrap();
    }

    #[test]
    fn what_is_recorded_anew_does_not_mix_with_an_earlier_run() {
        let mut document =
            parse(r#"{"strapline":1,"reap":{"ended":[{"name":"a"}],"sockets":["s"],"org.x":1}}"#)
                .unwrap();
        document.record_anew("reap", &["ended", "sockets"], &json!({"ended": []}));
        assert_eq!(
            document.get("reap"),
            Some(&json!({"org.x": 1, "ended": []}))
        );
    }

    #[test]
    fn the_first_error_stays_and_later_ones_are_kept_beside_it() {
        let mut document = Document::new();
        document.fail("strap", &Failure::new(Code::ChildFailed, "a").hint("h"));
        document.fail("unmount", &Failure::new(Code::Busy, "b"));
        assert_eq!(document.failed(), Some(69));
        let error = document.get("error").unwrap();
        assert_eq!(error["code"], "child-failed");
        assert_eq!(error["hint"], "h");
        assert_eq!(error["also"][0]["tool"], "unmount");
        let mut other = document.clone();
        document.forget_failures_of("unmount");
        assert_eq!(document.failed(), Some(69));
        assert_eq!(document.get("error").unwrap()["also"], json!([]));
        document.forget_failures_of("strap");
        assert_eq!(document.failed(), None);
        other.forget_failures_of("strap");
        assert_eq!(other.failed(), Some(75));
        assert_eq!(other.failed_tool(), Some("unmount"));
    }

    #[test]
    fn a_pipeline_was_refused_where_a_making_stage_found_the_root_busy() {
        let failed = |tool: &str, code| {
            let mut document = Document::new();
            document.fail(tool, &Failure::new(code, "m"));
            document.refused()
        };
        assert!(failed("strap", Code::Busy) && failed("mkroot", Code::Busy));
        assert!(!failed("reap", Code::Busy) && !failed("unmount", Code::Busy));
        assert!(!failed("strap", Code::Network) && !Document::new().refused());
    }

    #[test]
    fn plain_paths() {
        for good in ["/", "/srv", "/srv/a b", "/srv/..a"] {
            assert_eq!(plain_absolute(good), Ok(()), "{good}");
        }
        for bad in [
            "", "srv", "/srv/..", "/..", "/srv//x", "/srv/.", "/srv/", "/a\u{7f}",
        ] {
            assert!(plain_absolute(bad).is_err(), "{bad}");
        }
        assert_eq!(plain_below(""), Ok(()));
        for (name, good) in [("null", true), ("", false), (".", false), ("..", false)] {
            assert_eq!(is_name(name), good, "{name}");
        }
        assert!(!is_name("../null") && !is_name("pts/ptmx") && !is_name("/null"));
    }
}

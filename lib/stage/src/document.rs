//! The document that stages hand on.
//!
//! It is kept as JSON, and its members are read and written as the types of [`crate::members`], so that whatever a tool does
//! not know survives, at every level. It is also untrusted input to a program that may run as root: [`Document::parse`]
//! refuses what no tool of ours would write before anything is touched, and what a path leads to is checked again where it
//! is opened.

use crate::members::{self, ErrorRecord, Member, Step};
use crate::message::without_password;
use crate::{Code, Failure, quote};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};

pub use crate::path::{is_name, is_word, plain_absolute, plain_below};

/// The protocol's major version: the value of the `strapline` member. Additive change never bumps it.
pub const VERSION: u64 = 1;

/// Returns the directory beside a root, of what is the root's and not in it: `ROOT.strapline`.
#[must_use]
pub fn beside(root: &Path) -> PathBuf {
    let mut path = root.as_os_str().to_owned();
    path.push(".strapline");
    path.into()
}

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

/// Returns whether one line is a document and others are no JSON, as where stderr goes the same way.
fn is_mixed(text: &str) -> bool {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let (json, others): (Vec<_>, Vec<_>) =
        lines.map(serde_json::from_str::<Value>).partition(|line| line.as_ref().is_ok_and(Value::is_object));
    !others.is_empty() && json.len() == 1 && json.iter().flatten().all(|value| value.get("strapline").is_some())
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
        let bad = |why: String| Failure::new(Code::BadDocument, format!("reading the document on {origin}: {why}"));
        let text = std::str::from_utf8(text).map_err(|e| bad(format!("not UTF-8: {e}")))?;
        if text.trim().is_empty() {
            return Err(bad("it is empty: the tool before this one printed nothing".into()));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let value = Value::deserialize(&mut json).map_err(|e| format!("not JSON: {e}"));
        let value = value.and_then(|value| match json.end() {
            Ok(()) => Ok(value),
            Err(e) => Err(format!("more than one document, or text after it ({e})")),
        });
        let value = value.map_err(|why| match is_mixed(text) {
            true => bad("there are other lines beside the document".into())
                .hint("leave '2>&1' out: messages are on stderr, and a pipe carries the document alone"),
            false => bad(why),
        })?;
        // To compare the counts takes a fifth of the time that it takes to compare all names.
        if count_members(&value) != count_colons(text) {
            // It is JSON, so what is wrong now is that.
            serde_json::from_str::<Unique>(text).map_err(|e| bad(e.to_string()))?;
        }
        let Value::Object(map) = value else {
            return Err(bad("not a JSON object".into()));
        };
        match map.get("strapline").map(Value::as_u64) {
            Some(Some(VERSION)) => {}
            Some(Some(v)) => {
                return Err(bad(format!("it is of version {v}, this tool speaks version {VERSION}")));
            }
            Some(None) => return Err(bad("\"strapline\" is not a version number".into())),
            None => {
                return Err(bad("not a strapline document: it has no \"strapline\" member".into()));
            }
        }
        for (name, value) in &map {
            members::check(name, value).map_err(bad)?;
        }
        Ok(Self(map))
    }

    /// Returns the directory that the pipeline works on.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.text(members::Root::NAME).map(Path::new)
    }

    /// Returns the directory that the pipeline works on.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where there is none.
    pub fn need_root(&self) -> Result<&Path, Failure> {
        self.root().ok_or_else(missing::<members::Root>)
    }

    /// Returns the root's architecture, in pacman's words.
    #[must_use]
    pub fn arch(&self) -> Option<&str> {
        self.text(members::Arch::NAME)
    }

    /// Returns the root's architecture, in pacman's words.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where there is none.
    pub fn need_arch(&self) -> Result<&str, Failure> {
        self.arch().ok_or_else(missing::<members::Arch>)
    }

    /// Returns the distribution: the name of a preset, or the path of a preset file.
    #[must_use]
    pub fn distro(&self) -> Option<&str> {
        self.text(members::Distro::NAME)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// Returns a member.
    #[must_use]
    pub fn get<T: Member>(&self) -> Option<T> {
        // All of them could be read when the document was parsed.
        self.0.get(T::NAME).and_then(|v| members::read(v).ok())
    }

    /// Returns a member.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where there is none.
    pub fn need<T: Member>(&self) -> Result<T, Failure> {
        self.get().ok_or_else(missing::<T>)
    }

    /// Returns a member as it stands, also one of a third party.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Writes a member in the place of what an earlier run wrote. What the document has there and the type does not know
    /// is kept: objects are merged, and so are elements of arrays that have the same `at`, `name` or `file`.
    pub fn write<T: Member>(&mut self, member: &T) {
        let new = to_json(member);
        match self.0.get_mut(T::NAME) {
            Some(old) => {
                let known = members::read::<T>(old).map(|known| to_json(&known));
                replace(old, &known.unwrap_or_default(), new);
            }
            None => {
                self.0.insert(T::NAME.to_owned(), new);
            }
        }
    }

    /// Removes a member.
    pub fn remove<T: Member>(&mut self) {
        self.0.shift_remove(T::NAME);
    }

    /// Returns the first failure.
    #[must_use]
    pub fn error(&self) -> Option<ErrorRecord> {
        self.get()
    }

    /// Returns the exit status that a failed stage left, where one did.
    #[must_use]
    pub fn failed(&self) -> Option<u8> {
        self.error().map(|error| error.exit)
    }

    /// Returns the tool that recorded the error, where there is one.
    #[must_use]
    pub fn failed_tool(&self) -> Option<String> {
        self.error().map(|error| error.tool)
    }

    /// Returns whether a making stage failed. One that undoes may have had nothing to read, and have worked from a directory.
    #[must_use]
    pub fn failed_making(&self) -> bool {
        let tool = self.failed_tool();
        tool.is_some_and(|tool| tool != "reap" && tool != "unmount")
    }

    /// Returns whether a making stage was refused because somebody else works on the root. What runs there is then none of
    /// this pipeline's.
    #[must_use]
    pub fn refused(&self) -> bool {
        let is_busy = |error: ErrorRecord| error.code == Code::Busy.word();
        self.failed_making() && self.error().is_some_and(is_busy)
    }

    /// Records a failure, without what URLs in it have of users and passwords. The first one stays, since it is the cause; later ones
    /// go to `error.also`.
    pub fn fail(&mut self, tool: &str, failure: &Failure) {
        let mut error = ErrorRecord {
            tool: tool.to_owned(),
            code: failure.code.word().to_owned(),
            message: without_password(&failure.message),
            exit: failure.code.exit(),
            hint: failure.hint.as_deref().map(without_password),
            also: None,
        };
        match self.0.get_mut(ErrorRecord::NAME) {
            None => {
                error.also = Some(Vec::new());
                self.write(&error);
            }
            Some(first) => match first.get_mut("also").and_then(Value::as_array_mut) {
                Some(also) => also.push(to_json(&error)),
                None => first["also"] = json!([to_json(&error)]),
            },
        }
    }

    /// Forgets the failures that `tool` recorded in an earlier run: it runs again now, and will say how that went. Where
    /// its failure was the first, the next one takes its place.
    pub fn forget_failures_of(&mut self, tool: &str) {
        let is_of_tool = |error: &Value| error["tool"] == tool;
        let Some(first) = self.0.get_mut(ErrorRecord::NAME) else {
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
            None => self.remove::<ErrorRecord>(),
        }
    }

    /// Adds a step to the record.
    pub fn step(&mut self, step: &Step) {
        let steps = self.0.entry(Vec::<Step>::NAME).or_insert(json!([]));
        if let Value::Array(steps) = steps {
            steps.push(to_json(step));
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

/// Returns how many members all objects of a value have.
fn count_members(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.len() + members.values().map(count_members).sum::<usize>(),
        Value::Array(elements) => elements.iter().map(count_members).sum(),
        _ => 0,
    }
}

/// Returns how many colons of JSON are in no string: as many as there are members, those of one name counted apart.
fn count_colons(json: &str) -> usize {
    let mut in_string = false;
    let mut colons = 0;
    for part in json.split('"') {
        if in_string {
            let backslashes = part.bytes().rev().take_while(|byte| *byte == b'\\').count();
            in_string = backslashes % 2 == 1;
        } else {
            colons += part.bytes().filter(|byte| *byte == b':').count();
            in_string = true;
        }
    }
    colons
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
                return Err(serde::de::Error::custom(format!("it has the member {key} twice")));
            }
            seen.insert(key);
        }
        Ok(Unique)
    }
}

fn missing<T: Member>() -> Failure {
    Failure::new(Code::BadDocument, format!("reading the document: it has no \"{}\"", T::NAME))
        .hint(format!("put '{}' before this tool in the pipeline", T::OWNERS[0]))
}

fn to_json(value: &impl Serialize) -> Value {
    // Members have string keys, and no floats that JSON lacks.
    serde_json::to_value(value).unwrap_or_default()
}

/// Puts `new` in the place of what is `known` of `old`, and keeps the rest.
fn replace(old: &mut Value, known: &Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            // A name with a dot is a third party's.
            old.retain(|key, _| new.contains_key(key) || known.get(key).is_none() || key.contains('.'));
            for (key, value) in new {
                match old.get_mut(&key) {
                    Some(slot) => replace(slot, known.get(&key).unwrap_or(&Value::Null), value),
                    None => {
                        old.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            // Two mounts may be at one place: each then is merged with the one that it was, in their order.
            let mut before: HashMap<String, VecDeque<(Value, &Value)>> = HashMap::new();
            for (i, value) in std::mem::take(old).into_iter().enumerate() {
                if let Some(id) = identity(&value) {
                    let known = known.get(i).unwrap_or(&Value::Null);
                    before.entry(id).or_default().push_back((value, known));
                }
            }
            let mut earlier = |value: &Value| before.get_mut(&identity(value)?)?.pop_front();
            *old = new
                .into_iter()
                .map(|value| match earlier(&value) {
                    Some((mut slot, known)) => {
                        replace(&mut slot, known, value);
                        slot
                    }
                    None => value,
                })
                .collect();
        }
        (slot, new) => *slot = new,
    }
}

/// Returns what tells an element of an array from the others: its place, its name, its file, or its path.
fn identity(value: &Value) -> Option<String> {
    let key = ["at", "name", "file", "path"].into_iter().find_map(|key| value.get(key))?;
    key.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Mount, Pacman};

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
            ("{\"strapline\":2}", "it is of version 2, this tool speaks version 1"),
            ("{\"strapline\":1}{\"strapline\":1}", "more than one document"),
            ("{\"strapline\":1} x", "text after it"),
            ("mkroot: warning: x\n{\"strapline\":1}\n", "there are other lines beside the document"),
            ("{\"strapline\":1}\nx: y\n", "there are other lines beside the document"),
            ("x\n{\"strapline\":1}\n{\"strapline\":1}\n", "not JSON"),
            ("{\"strapline\":1,\"root\":\"/\"}", "the host's own root"),
            ("{\"strapline\":1,\"root\":\"srv\"}", "not absolute"),
            ("{\"strapline\":1,\"root\":\"/srv/../etc\"}", "has '.', '..'"),
            ("{\"strapline\":1,\"root\":\"/srv/./x\"}", "has '.', '..'"),
            ("{\"strapline\":1,\"root\":\"//srv\"}", "'//'"),
            ("{\"strapline\":1,\"root\":\"/srv/\"}", "'//'"),
            ("{\"strapline\":1,\"root\":\"/a\\nb\"}", "control character"),
            ("{\"strapline\":1,\"root\":7}", "\"root\": invalid type"),
            ("{\"strapline\":1,\"root\":null}", "\"root\": invalid type"),
            ("{\"strapline\":1,\"arch\":\"../x\"}", "not the name of an architecture"),
            ("{\"strapline\":1,\"mode\":\"bare\"}", "unknown variant `bare`, expected one of `root`, `user`, `host`"),
            ("{\"strapline\":1,\"mounts\":{}}", "\"mounts\": invalid type: map, expected a sequence"),
            ("{\"strapline\":1,\"mounts\":[{\"at\":\"../etc\"}]}", "\"mounts[0].at\""),
            ("{\"strapline\":1,\"mounts\":[{\"at\":\"/etc\"}]}", "\"mounts[0].at\""),
            ("{\"strapline\":1,\"mounts\":[{\"at\":\"dev\",\"nodes\":[\"null\",\"../x\"]}]}", "\"mounts[0].nodes\""),
            ("{\"strapline\":1,\"pacman\":{\"path\":\"pacman\"}}", "\"pacman.path\": the path is not"),
            ("{\"strapline\":1,\"config\":[]}", "\"config\": invalid"),
            ("{\"strapline\":1,\"error\":{\"exit\":0}}", "\"error.exit\""),
            ("{\"strapline\":1,\"error\":{\"exit\":256}}", "\"error.exit\""),
            ("{\"strapline\":1,\"configured\":[]}", "\"configured\": invalid type: sequence, expected an object"),
            (
                "{\"strapline\":1,\"filesystems\":[[\"/\",\"ext4\",\"1\",null,null]]}",
                "\"filesystems[0]\": invalid type: sequence, expected an object",
            ),
            ("{\"strapline\":1,\"error\":7}", "\"error\": invalid type"),
            ("{\"strapline\":1,\"error\":{\"exit\":69,\"also\":{}}}", "\"error.also\": invalid type"),
            ("{\"strapline\":1,\"error\":{\"exit\":69,\"also\":[{\"exit\":75},5]}}", "\"error.also[1]\": invalid type"),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, Code::BadDocument, "{text}");
            assert!(failure.message.contains(reason), "{text}: {}", failure.message);
        }
        assert!(Document::parse(b"\xff", "stdin").is_err());
    }

    fn mount(at: &str) -> Mount {
        Mount::new(at, "tmpfs", &[])
    }

    #[test]
    fn two_elements_of_one_place_stay_apart() {
        let mut document = Document::new();
        let source = Some("/y".to_owned());
        let second = Mount { source, ..mount("x") };
        let mounts = vec![mount("x"), second];
        document.write(&mounts);
        let before = document.line();
        document.write(&mounts);
        assert_eq!(document.line(), before);
        assert_eq!(document.get(), Some(mounts));
    }

    #[test]
    fn write_keeps_what_a_type_does_not_know() {
        let mut document = parse(
            r#"{"org.x":1,"strapline":1,
                "pacman":{"path":"/p","version":"6","org.x":2,"sha256":"","trust":"hash","package":{"org.x":5,
                    "name":"a","version":"1","repo":"c","file":"f","sha256":"","server":"s"},"org.y":7},
                "mounts":[{"at":"proc","type":"a","org.x":3},{"at":"sys","type":"b","org.x":4,"options":["ro"]}],
                "verify":{"packages":1,"transaction":"complete","fetched":0,"files":{"intact":1,"org.x":6},"signatures":{"valid":1}},
                "tree":[{"path":"a","type":"link","uid":0,"gid":0,"from":"t","tool":"mkroot"},
                    {"path":"b","type":"link","uid":0,"gid":0,"from":"t","tool":"mkroot","org.x":7}]}"#,
        )
        .unwrap();
        let mut pacman: Pacman = document.need().unwrap();
        (pacman.path, pacman.package) = ("/q".into(), None);
        document.write(&pacman);
        document.write(&vec![mount("sys"), mount("dev")]);
        let mut verify: members::Verify = document.need().unwrap();
        verify.signatures = None;
        verify.files = Some([("changed".to_owned(), json!(1))].into_iter().collect());
        document.write(&verify);
        let mut tree: Vec<members::TreeFile> = document.need().unwrap();
        tree.remove(0);
        tree[0].uid = 1;
        document.write(&tree);
        assert_eq!(
            document.line(),
            "{\"org.x\":1,\"strapline\":1,\
             \"pacman\":{\"path\":\"/q\",\"version\":\"6\",\"org.x\":2,\"sha256\":\"\",\"trust\":\"hash\",\
             \"org.y\":7},\
             \"mounts\":[{\"at\":\"sys\",\"type\":\"tmpfs\",\"org.x\":4},{\"at\":\"dev\",\"type\":\"tmpfs\"}],\
             \"verify\":{\"packages\":1,\"transaction\":\"complete\",\"fetched\":0,\"files\":{\"org.x\":6,\"changed\":1}},\
             \"tree\":[{\"path\":\"b\",\"type\":\"link\",\"uid\":1,\"gid\":0,\"from\":\"t\",\"tool\":\"mkroot\",\"org.x\":7}]}\n"
        );
    }

    #[test]
    fn numbers_of_others_stay_what_they_are() {
        let text = "{\"strapline\":1,\"org.x\":[18446744073709551616,123456789012345678901234567890,-9223372036854775809,\
                    0.1000,1e+400,1e-7],\"root_id\":{\"dev\":1,\"ino\":1,\"org.x\":1.00}}\n";
        let mut document = parse(text).unwrap();
        let id: members::Identity = document.need().unwrap();
        document.write(&id);
        assert_eq!(document.line(), text);
        let too_large = text.replace("\"ino\":1", "\"ino\":36893488147419103232");
        let failure = parse(&too_large).unwrap_err();
        assert!(failure.message.contains("\"root_id.ino\": "), "{failure}");
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
        // Colons, quotes and backslashes of strings do not make up for it, nor hide it.
        for text in [r#"":""#, r#""\":""#, r#""\\""#, r#""a\":\"b""#, r#""\\\":\\""#] {
            parse(&format!(r#"{{"strapline":1,"org.x":{text}}}"#)).unwrap();
            let failure = parse(&format!(r#"{{"strapline":1,"org.x":[{text},{{"a":1,"a":2}}]}}"#)).unwrap_err();
            assert!(failure.message.contains("it has the member 'a' twice"), "{text}: {failure}");
        }
    }

    #[test]
    fn the_first_error_stays_and_later_ones_are_kept_beside_it() {
        let mut document = Document::new();
        document.fail("strap", &Failure::new(Code::ChildFailed, "a").hint("h"));
        document.fail("unmount", &Failure::new(Code::Busy, "b"));
        assert_eq!(document.failed(), Some(69));
        let error = document.value("error").unwrap();
        assert_eq!(error["code"], "child-failed");
        assert_eq!(error["hint"], "h");
        assert_eq!(error["also"][0]["tool"], "unmount");
        let mut other = document.clone();
        document.forget_failures_of("unmount");
        assert_eq!(document.failed(), Some(69));
        assert_eq!(document.value("error").unwrap()["also"], json!([]));
        document.forget_failures_of("strap");
        assert_eq!(document.failed(), None);
        other.forget_failures_of("strap");
        assert_eq!(other.failed(), Some(75));
        assert_eq!(other.failed_tool().as_deref(), Some("unmount"));
    }

    #[test]
    fn a_busy_root_refuses_the_pipeline() {
        let failed = |tool: &str, code| {
            let mut document = Document::new();
            document.fail(tool, &Failure::new(code, "m"));
            document.refused()
        };
        assert!(failed("strap", Code::Busy) && failed("mkroot", Code::Busy));
        assert!(!failed("reap", Code::Busy) && !failed("unmount", Code::Busy));
        assert!(!failed("strap", Code::Network) && !Document::new().refused());
    }
}

//! What is configured, for the document: `configured`. No password, no hash and no key is in it.

use crate::plan::{Plan, merge};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stage::{Document, Failure};
use std::collections::BTreeMap;

/// The member's name.
const KEY: &str = "configured";

/// `configured`: what this run and those before it made of the root, and what this run changed for that.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub(crate) struct Configured {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locales: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keymap: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    users: Vec<User>,
    /// `locked` or `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    /// The group that may use sudo.
    #[serde(skip_serializing_if = "Option::is_none")]
    sudo: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    units: Vec<String>,
    /// Mount points.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fstab: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resolv_conf: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    first_boot_keyring: Vec<String>,
    /// Paths in the root, by the step that changed them; of this run only.
    changed: Map<String, Value>,
}

/// A user that something was asked for.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
struct User {
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    /// Whether a password was set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    password: bool,
    /// Whether keys of ssh were added.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ssh_key: bool,
}

impl Configured {
    /// Reads what earlier runs said.
    ///
    /// # Errors
    ///
    /// [`stage::Code::BadDocument`] where that is of another shape.
    pub(crate) fn of(document: &Document) -> Result<Self, Failure> {
        Ok(document.view(KEY)?.unwrap_or_default())
    }

    /// Adds what this run did: a single value takes the place of an earlier one, locales, users and units come to them.
    pub(crate) fn add(
        &mut self,
        plan: &Plan,
        fstab: Vec<String>,
        root: Option<String>,
        changed: BTreeMap<String, Vec<String>>,
    ) {
        let replace = |old: &mut Option<String>, new: Option<String>| {
            if new.is_some() {
                *old = new;
            }
        };
        let replace_all = |old: &mut Vec<String>, new: Vec<String>| {
            if !new.is_empty() {
                *old = new;
            }
        };
        replace(&mut self.hostname, plan.hostname.clone());
        replace(&mut self.timezone, plan.timezone.clone());
        replace(&mut self.keymap, plan.keymap.clone());
        replace(&mut self.root, root);
        replace(&mut self.sudo, plan.sudo.then(|| "wheel".to_owned()));
        // The first one is the machine's own.
        let before = std::mem::replace(&mut self.locales, plan.locales.clone());
        merge(&mut self.locales, before);
        merge(&mut self.units, plan.units.clone());
        replace_all(&mut self.fstab, fstab);
        replace_all(&mut self.mirrors, plan.mirrors.clone());
        let resolver = plan.resolver.as_ref().map(|r| r.words());
        replace_all(&mut self.resolv_conf, resolver.unwrap_or_default());
        replace_all(
            &mut self.first_boot_keyring,
            plan.first_boot_keyring.clone().unwrap_or_default(),
        );
        for (name, groups) in &plan.users {
            merge(&mut self.user(name).groups, groups.clone());
        }
        for (name, shell) in &plan.shells {
            self.user(name).shell = Some(shell.clone());
        }
        for (name, _) in plan.passwords.iter().chain(&plan.hashes) {
            self.user(name).password = true;
        }
        for (name, _) in &plan.keys {
            self.user(name).ssh_key = true;
        }
        // What others put there has a dot in its name (reverse DNS notation), and stays.
        self.changed.retain(|name, _| name.contains('.'));
        for (name, paths) in changed {
            self.changed.insert(name, json!(paths));
        }
    }

    fn user(&mut self, name: &str) -> &mut User {
        let place = self.users.iter().position(|user| user.name == name);
        let place = place.unwrap_or_else(|| {
            self.users.push(User {
                name: name.to_owned(),
                ..User::default()
            });
            self.users.len() - 1
        });
        &mut self.users[place]
    }

    /// Writes it down.
    pub(crate) fn record(&self, document: &mut Document) {
        document.record_anew(KEY, &["changed"], self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up_and_what_changed_is_of_the_last_one() {
        let mut document = Document::parse(
            br#"{"strapline":1,"configured":{"hostname":"a","locales":["de_DE.UTF-8"],
                "users":[{"name":"ann","groups":["wheel"],"org.example.x":1}],"changed":{"hostname":["/etc/hostname"],"org.example.z":3},
                "org.example.y":2}}"#,
            "x",
        )
        .unwrap();
        let mut configured = Configured::of(&document).unwrap();
        let plan = Plan {
            locales: vec!["en_US.UTF-8".into()],
            users: vec![("ann".into(), vec!["video".into()])],
            hashes: vec![("root".into(), "/f".into())],
            ..Plan::default()
        };
        let changed = [("users".to_owned(), vec!["/etc/shadow".to_owned()])].into();
        configured.add(&plan, vec![], Some("password".into()), changed);
        configured.record(&mut document);
        assert_eq!(
            document.get("configured").unwrap(),
            &serde_json::json!({"hostname": "a", "locales": ["en_US.UTF-8", "de_DE.UTF-8"],
                "users": [{"name": "ann", "groups": ["wheel", "video"], "org.example.x": 1},
                          {"name": "root", "password": true}],
                "root": "password", "changed": {"org.example.z": 3, "users": ["/etc/shadow"]}, "org.example.y": 2})
        );
    }
}

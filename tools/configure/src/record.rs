//! What is configured, for the document: `configured`. It has no password, no hash and no key.

use crate::accounts::Accounts;
use crate::args::Args;
use crate::text::{merge, unique};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stage::{Document, Failure};
use std::collections::BTreeMap;

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
    pub(crate) root: Option<String>,
    /// The group that may use sudo.
    #[serde(skip_serializing_if = "Option::is_none")]
    sudo: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    units: Vec<String>,
    /// Mount points.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fstab: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resolv_conf: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) first_boot_keyring: Vec<String>,
    /// Paths in the root, by the item that changed them; of this run only.
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
    /// Whether ssh keys were added.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ssh_key: bool,
}

impl Configured {
    /// Reads what earlier runs recorded, and adds what this one is asked for: a single value replaces an earlier one,
    /// locales, users and units are added.
    ///
    /// # Errors
    ///
    /// [`stage::Code::BadDocument`] where that is of another shape.
    pub(crate) fn of(
        document: &Document,
        args: &Args,
        accounts: &Accounts,
    ) -> Result<Self, Failure> {
        let mut before: Self = document.view("configured")?.unwrap_or_default();
        // The first locale is the machine's own.
        let mut locales = unique(&args.locale);
        merge(&mut locales, &before.locales);
        merge(&mut before.units, &args.enable);
        for (name, account) in &accounts.users {
            let user = before.user(name);
            merge(&mut user.groups, &account.groups);
            user.shell = account.shell.clone().or(user.shell.take());
            user.password |= account.secret.is_some();
            user.ssh_key |= !account.keys.is_empty();
        }
        // What others put there has a dot in its name (reverse DNS notation), and stays.
        before.changed.retain(|name, _| name.contains('.'));
        // What is left out here stays in the document.
        Ok(Self {
            hostname: args
                .hostname
                .as_ref()
                .map(|n| n.0.clone())
                .or(before.hostname),
            locales,
            timezone: args.timezone.as_ref().map(|z| z.0.clone()),
            keymap: args.keymap.as_ref().map(|k| k.0.clone()),
            users: before.users,
            sudo: args.sudo.then(|| "wheel".to_owned()),
            units: before.units,
            mirrors: unique(&args.mirror),
            resolv_conf: args.resolv_conf.as_ref().map_or(Vec::new(), |r| r.words()),
            changed: before.changed,
            ..Self::default()
        })
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

    /// Writes it into the document, with what this run changed.
    pub(crate) fn record(
        mut self,
        document: &mut Document,
        changed: BTreeMap<String, Vec<String>>,
    ) {
        let changed = changed
            .into_iter()
            .map(|(name, paths)| (name, json!(paths)));
        self.changed.extend(changed);
        document.record_anew("configured", &["changed"], &self);
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
        let args = [
            "configure",
            "--locale",
            "en_US.UTF-8",
            "--user",
            "ann:video",
        ];
        let args = <Args as clap::Parser>::try_parse_from(args).unwrap();
        let mut accounts = Accounts::of(&args).unwrap();
        let root = accounts.users.entry("root".into()).or_default();
        root.secret = Some(crate::secret::Secret::Hash("$6$a$b".into()));
        let mut configured = Configured::of(&document, &args, &accounts).unwrap();
        configured.root = Some("password".into());
        let changed = [("users".to_owned(), vec!["/etc/shadow".to_owned()])].into();
        configured.record(&mut document, changed);
        assert_eq!(
            document.get("configured").unwrap(),
            &serde_json::json!({"hostname": "a", "locales": ["en_US.UTF-8", "de_DE.UTF-8"],
                "users": [{"name": "ann", "groups": ["wheel", "video"], "org.example.x": 1},
                          {"name": "root", "password": true}],
                "root": "password", "changed": {"org.example.z": 3, "users": ["/etc/shadow"]}, "org.example.y": 2})
        );
    }
}

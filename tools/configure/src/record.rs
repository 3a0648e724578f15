//! What is configured, for the document: `configured`. No password, no hash and no key is in it.

use crate::plan::{Plan, merge};
use serde_json::json;
use stage::members::{Configured, ConfiguredUser};
use std::collections::BTreeMap;

/// Adds what this run did: a single value takes the place of an earlier one, locales, users and units come to them.
pub(crate) fn add(
    configured: &mut Configured,
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
    replace(&mut configured.hostname, plan.hostname.clone());
    replace(&mut configured.timezone, plan.timezone.clone());
    replace(&mut configured.keymap, plan.keymap.clone());
    replace(&mut configured.root, root);
    replace(&mut configured.sudo, plan.sudo.then(|| "wheel".to_owned()));
    // The first one is the machine's own.
    let before = std::mem::replace(&mut configured.locales, plan.locales.clone());
    merge(&mut configured.locales, before);
    merge(&mut configured.units, plan.units.clone());
    replace_all(&mut configured.fstab, fstab);
    replace_all(&mut configured.mirrors, plan.mirrors.clone());
    let resolver = plan.resolver.as_ref().map(|r| r.words());
    replace_all(&mut configured.resolv_conf, resolver.unwrap_or_default());
    replace_all(
        &mut configured.first_boot_keyring,
        plan.first_boot_keyring.clone().unwrap_or_default(),
    );
    for (name, groups) in &plan.users {
        merge(&mut user(configured, name).groups, groups.clone());
    }
    for (name, shell) in &plan.shells {
        user(configured, name).shell = Some(shell.clone());
    }
    for (name, _) in plan.passwords.iter().chain(&plan.hashes) {
        user(configured, name).password = true;
    }
    for (name, _) in &plan.keys {
        user(configured, name).ssh_key = true;
    }
    let changed = changed
        .into_iter()
        .map(|(name, paths)| (name, json!(paths)));
    configured.changed = changed.collect();
}

fn user<'a>(configured: &'a mut Configured, name: &str) -> &'a mut ConfiguredUser {
    let place = configured.users.iter().position(|user| user.name == name);
    let place = place.unwrap_or_else(|| {
        configured.users.push(ConfiguredUser {
            name: name.to_owned(),
            ..ConfiguredUser::default()
        });
        configured.users.len() - 1
    });
    &mut configured.users[place]
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::Document;

    #[test]
    fn runs_add_up_and_what_changed_is_of_the_last_one() {
        let mut document = Document::parse(
            br#"{"strapline":1,"configured":{"hostname":"a","locales":["de_DE.UTF-8"],
                "users":[{"name":"ann","groups":["wheel"],"org.example.x":1}],"changed":{"hostname":["/etc/hostname"],"org.example.z":3},
                "org.example.y":2}}"#,
            "x",
        )
        .unwrap();
        let mut configured = document.get::<Configured>().unwrap();
        let plan = Plan {
            locales: vec!["en_US.UTF-8".into()],
            users: vec![("ann".into(), vec!["video".into()])],
            hashes: vec![("root".into(), "/f".into())],
            ..Plan::default()
        };
        let changed = [("users".to_owned(), vec!["/etc/shadow".to_owned()])].into();
        add(
            &mut configured,
            &plan,
            vec![],
            Some("password".into()),
            changed,
        );
        document.write(&configured);
        assert_eq!(
            document.value("configured").unwrap(),
            &serde_json::json!({"hostname": "a", "locales": ["en_US.UTF-8", "de_DE.UTF-8"],
                "users": [{"name": "ann", "groups": ["wheel", "video"], "org.example.x": 1},
                          {"name": "root", "password": true}],
                "root": "password", "changed": {"org.example.z": 3, "users": ["/etc/shadow"]}, "org.example.y": 2})
        );
    }
}

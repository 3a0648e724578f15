//! What is configured, for the document: `configured`. It has no password, no hash and no key.

use crate::accounts::Accounts;
use crate::args::Args;
use crate::resolver::Resolver;
use crate::text::{merge, unique};
use serde_json::{Map, Value, json};
use stage::Document;
use stage::members::{Configured, ConfiguredUser};
use stage::message::without_password;
use std::collections::BTreeMap;

/// Returns what earlier runs recorded, with what this one is asked for: a single value replaces an earlier one, locales,
/// users and units are added.
pub(crate) fn configured(document: &Document, args: &Args, accounts: &Accounts) -> Configured {
    let mut before: Configured = document.get().unwrap_or_default();
    // The first locale is the machine's own.
    let mut locales = unique(&args.locale);
    merge(&mut locales, &before.locales);
    merge(&mut before.units, &args.enable);
    before.units.retain(|unit| !args.disable.contains(unit) && !args.mask.contains(unit));
    merge(&mut before.disabled, &args.disable);
    before.disabled.retain(|unit| !args.enable.contains(unit));
    merge(&mut before.masked, &args.mask);
    merge(&mut before.global_units, &args.enable_global);
    merge(&mut before.nopasswd, &args.nopasswd);
    merge(&mut before.groups, &accounts.groups.keys().cloned().collect::<Vec<_>>());
    before.os_release.extend(args.os_release.iter().map(|(key, value)| (key.clone(), json!(value))));
    for (name, account) in &accounts.users {
        let user = user(&mut before.users, name);
        merge(&mut user.groups, &account.groups);
        user.shell = account.shell.clone().or(user.shell.take());
        user.password |= account.secret.is_some();
        user.ssh_key |= !account.keys.is_empty();
    }
    let or = |new: Option<&String>, old| new.cloned().or(old);
    Configured {
        hostname: or(args.hostname.as_ref().map(|n| &n.0), before.hostname),
        locales,
        timezone: or(args.timezone.as_ref().map(|z| &z.0), before.timezone),
        keymap: or(args.keymap.as_ref().map(|k| &k.0), before.keymap),
        default_target: or(args.default_target.as_ref(), before.default_target),
        sudo: args.sudo.then(|| "wheel".to_owned()).or(before.sudo),
        mirrors: match args.mirror.is_empty() {
            true => before.mirrors,
            false => unique(&args.mirror).iter().map(|mirror| without_password(mirror)).collect(),
        },
        resolv_conf: args.resolv_conf.as_ref().map_or(before.resolv_conf, Resolver::words),
        ..before
    }
}

fn user<'a>(users: &'a mut Vec<ConfiguredUser>, name: &str) -> &'a mut ConfiguredUser {
    let place = users.iter().position(|user| user.name == name).unwrap_or_else(|| {
        users.push(ConfiguredUser { name: name.to_owned(), ..ConfiguredUser::default() });
        users.len() - 1
    });
    &mut users[place]
}

/// Returns the paths in the root that this run changed, by the item that changed them.
pub(crate) fn changed(changed: BTreeMap<String, Vec<String>>) -> Map<String, Value> {
    changed.into_iter().map(|(name, paths)| (name, json!(paths))).collect()
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
        let args = ["configure", "--locale", "en_US.UTF-8", "--user", "ann:video"];
        let args = <Args as clap::Parser>::try_parse_from(args).unwrap();
        let mut accounts = Accounts::of(&args).unwrap();
        let root = accounts.users.entry("root".into()).or_default();
        root.secret = Some(crate::secret::Secret::Hash("$6$a$b".into()));
        let mut configured = configured(&document, &args, &accounts);
        configured.root = Some("password".into());
        configured.changed = changed([("users".into(), vec!["/etc/shadow".into()])].into());
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

// SPDX-License-Identifier: GPL-2.0

//! Everything that can be seen of an interface's configuration: what `ethtool` and `ip` show in the guest, and
//! what the host has been told, as a flat list of fields that can be compared one by one.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{json, Value};

use crate::guest::{End, Guest, SHORT};

/// Fields by path, such as `link/mtu`, `features/scatter-gather/active`, `host/rss/key`.
pub type Fields = BTreeMap<String, Value>;

/// Looks at one interface, again and again.
pub struct Viewer<'a> {
    guest: &'a Guest,
    end: End,
    /// What each view printed last: the guest's line is slow, so only what is new crosses it.
    views: BTreeMap<String, String>,
}

/// Stands before each view that is new.
const MARK: &str = "@view ";
const SHOW_PATH: &str = "/tmp/show";

/// Prints the views that differ from last time's; with a second argument, all.
const SHOW: &str = r#"#!/bin/bash
device=$1
for view in link features channels rings rss settings tcp4 tcp6 udp4 udp6 stack; do
    case $view in
    link) now=$(ip -d -j link show dev "$device" 2>&1) ;;
    features) now=$(ethtool --json -k "$device" 2>&1) ;;
    channels) now=$(ethtool --json -l "$device" 2>&1) ;;
    rings) now=$(ethtool --json -g "$device" 2>&1) ;;
    rss) now=$(ethtool --json -x "$device" 2>&1) ;;
    settings) now=$(ethtool "$device" 2>&1) ;;
    stack)
        # In another network namespace there is no sysfs to look into.
        cd "/sys/class/net/$device/queues" 2>/dev/null || continue
        shopt -s nullglob
        tx=(tx-*) rx=(rx-*) upper=(../upper_*)
        now="{\"tx-queues\":${#tx[@]},\"rx-queues\":${#rx[@]},\"upper\":\"${upper[*]#../upper_}\"}"
        ;;
    *) now=$(ethtool -n "$device" rx-flow-hash "$view" 2>&1) ;;
    esac
    file=/tmp/shown-$device-$view
    old=
    [ -n "$2" ] || IFS= read -r -d '' old <"$file"
    [ "$now" != "$old" ] || continue
    printf '%s' "$now" >"$file"
    printf '@view %s\n%s\n' "$view" "$now"
done
"#;

impl<'a> Viewer<'a> {
    /// For the interface of `end`.
    pub fn new(guest: &'a Guest, end: End) -> Result<Self> {
        guest.agent.write(SHOW_PATH, SHOW.as_bytes())?;
        Ok(Self {
            guest,
            end,
            views: BTreeMap::new(),
        })
    }

    /// All fields now.
    pub fn look(&mut self) -> Result<Fields> {
        let mut argv = vec!["bash", SHOW_PATH, self.end.interface()];
        if self.views.is_empty() {
            argv.push("all");
        }
        let text = self.guest.at(self.end, &argv, SHORT)?;
        for view in text.split(MARK).filter(|view| !view.is_empty()) {
            let (name, text) = view.split_once('\n').unwrap_or((view, ""));
            self.views.insert(name.to_owned(), text.to_owned());
        }
        let mut fields = Fields::new();
        for (name, text) in &self.views {
            add_view(&mut fields, name, text.trim_end());
        }
        let counters = self.guest.host.counters()?;
        let nic = &counters.0["nics"][self.end.nic()]["counters"];
        flatten(&mut fields, "host", &of_host(nic));
        let open = counters.open_channels(self.end).unwrap_or(0);
        fields.insert("host/open-channels".into(), json!(open));
        sort_flags(&mut fields);
        Ok(fields)
    }
}

/// What the host's report says of the configuration, without what it counts.
fn of_host(nic: &Value) -> Value {
    const SHOWN: [&str; 13] = [
        "mac",
        "permanent_mac",
        "link",
        "speed_mbps",
        "nvsp_version",
        "ndis_version",
        "capabilities",
        "mtu",
        "rndis",
        "packet_filter",
        "subchannels_granted",
        "rss",
        "offloads",
    ];
    let mut shown = json!({});
    for name in SHOWN {
        shown[name] = nic[name].clone();
    }
    for buffer in ["receive_buffer", "send_buffer"] {
        for part in ["bytes", "section_size", "sections"] {
            shown[buffer][part] = nic[buffer][part].clone();
        }
    }
    shown
}

/// Adds what one view printed: JSON if it is that, else `Key: value` lines, else the text.
fn add_view(fields: &mut Fields, name: &str, text: &str) {
    if let Ok(mut value) = serde_json::from_str::<Value>(text) {
        if let Some(list) = value.as_array_mut() {
            value = list.pop().unwrap_or(Value::Null);
        }
        return flatten(fields, name, &value);
    }
    if name != "settings" {
        fields.insert(name.to_owned(), json!(text));
        return;
    }
    let mut key = "head".to_owned();
    for line in text.lines() {
        // Only keys stand eight columns from the margin; further lines of a value are indented more.
        let own = columns(line) == 8;
        let value = match line.split_once(':').filter(|_| own) {
            Some((name, value)) => {
                key = name.trim().to_owned();
                value
            }
            None => line,
        };
        let place = fields.entry(format!("{name}/{key}")).or_insert(json!(""));
        let before = place.as_str().unwrap_or_default();
        *place = json!(format!("{before} {}", value.trim()).trim());
    }
}

/// How far a line is indented.
fn columns(line: &str) -> usize {
    let indent = line.chars().take_while(|c| c.is_whitespace());
    indent.map(|c| if c == '\t' { 8 } else { 1 }).sum()
}

/// Adds the leaves of a value; a list without objects is one leaf.
fn flatten(fields: &mut Fields, path: &str, value: &Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten(fields, &format!("{path}/{name}"), member);
            }
        }
        _ => {
            fields.insert(path.to_owned(), value.clone());
        }
    }
}

/// In which order `ip` prints flags says nothing.
fn sort_flags(fields: &mut Fields) {
    if let Some(flags) = fields.get_mut("link/flags").and_then(Value::as_array_mut) {
        flags.sort_by_key(ToString::to_string);
    }
}

/// The fields in which `actual` is not as expected, one line each.
pub fn differences(expected: &Fields, actual: &Fields) -> Vec<String> {
    let mut paths: Vec<&String> = expected.keys().chain(actual.keys()).collect();
    paths.sort();
    paths.dedup();
    let shown = |fields: &Fields, path: &String| match fields.get(path) {
        Some(value) => value.to_string(),
        None => "absent".into(),
    };
    paths
        .into_iter()
        .filter(|path| expected.get(*path) != actual.get(*path))
        .map(|path| {
            let (wanted, found) = (shown(expected, path), shown(actual, path));
            format!("{path} is {found}, not {wanted}")
        })
        .collect()
}

/// A number among the fields.
pub fn number(fields: &Fields, path: &str) -> Result<u32> {
    fields
        .get(path)
        .and_then(Value::as_u64)
        .and_then(|n| u32::try_from(n).ok())
        .with_context(|| format!("no number at {path}"))
}

/// A string among the fields.
pub fn text<'f>(fields: &'f Fields, path: &str) -> Result<&'f str> {
    fields
        .get(path)
        .and_then(Value::as_str)
        .with_context(|| format!("no text at {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_become_fields() {
        let mut fields = Fields::new();
        let link = r#"[{"mtu":1500,"flags":["UP","LOWER_UP"],"a":{"b":true}}]"#;
        add_view(&mut fields, "link", link);
        sort_flags(&mut fields);
        let settings =
            "Settings for eth0:\n\tSpeed: 10Mb/s\n\tLevel: 0x1 (1)\n\t\t\tdrv\n        Link: no";
        add_view(&mut fields, "settings", settings);
        add_view(&mut fields, "tcp4", "ports");
        let found = |path: &str| fields.get(path).cloned();
        assert_eq!(found("link/mtu"), Some(json!(1500)));
        assert_eq!(found("link/flags"), Some(json!(["LOWER_UP", "UP"])));
        assert_eq!(found("link/a/b"), Some(json!(true)));
        assert_eq!(found("settings/Speed"), Some(json!("10Mb/s")));
        assert_eq!(found("settings/Level"), Some(json!("0x1 (1) drv")));
        assert_eq!(found("settings/Link"), Some(json!("no")));
        assert_eq!(found("tcp4"), Some(json!("ports")));
    }

    #[test]
    fn differences_name_what_is_absent_too() {
        let field = |path: &str, value: Value| (path.to_owned(), value);
        let one = Fields::from([field("a", json!(1)), field("b", json!(2))]);
        let other = Fields::from([field("a", json!(3)), field("c", json!(4))]);
        let found = differences(&one, &other);
        assert_eq!(
            found,
            ["a is 3, not 1", "b is absent, not 2", "c is 4, not absent"]
        );
        assert!(differences(&one, &one).is_empty());
    }
}

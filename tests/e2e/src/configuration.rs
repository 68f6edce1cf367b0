// SPDX-License-Identifier: GPL-2.0

//! A model of an interface's configuration: what every field of a [`Snapshot`](crate::snapshot) must show once
//! an administrator has set this and that.
//!
//! The model starts from what an interface shows by default, and says which fields differ from that.

use std::collections::BTreeSet;

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

use crate::ethtool::RingSizes;
use crate::scenario::Driver;
use crate::snapshot::{number, text, Fields};

/// Buckets of the indirection table.
pub const BUCKETS: u32 = 128;
/// Flow types whose hashed fields can be chosen, and the bit of their ports in the host's hash types; this host
/// hashes no UDP.
pub const FLOWS: [(&str, u32); 4] = [("tcp4", 0x200), ("tcp6", 0x1000), ("udp4", 0), ("udp6", 0)];
/// Features that can be switched, as `ethtool -K` names them.
pub const FEATURES: [&str; 8] = ["rx", "tx", "sg", "tso", "gso", "gro", "lro", "rxhash"];

/// Most bytes of a receive buffer from NVSP 4 on.
const MOST_RECEIVE_BYTES: u32 = 31 << 20;
/// Buffers are whole pages.
const PAGE: u32 = 4096;
/// By how many pages the C driver's receive buffer changes in a rebuild.
const MOST_PAGES_BY_C: u32 = 3;

/// What the host's packet filter is: nothing, what an interface needs, everything.
const FILTER: [&str; 3] = ["0x0", "0xd", "0x20"];

/// What the administrator has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Channels in use.
    pub channels: u32,
    /// Indirection table, if it is not the default.
    pub table: Option<Vec<u32>>,
    /// Hash key.
    pub key: Vec<u8>,
    /// Whether ports are hashed, in the order of [`FLOWS`].
    pub ports: [bool; 4],
    /// Bytes of the receive buffer, whole pages: an MTU makes sections of it.
    pub receive_bytes: u32,
    /// Sections of the send buffer.
    pub send_sections: u32,
    /// Features that are wanted, in the order of [`FEATURES`].
    pub wanted: [bool; 8],
    /// A kind of segmentation that is off until segmentation is switched on by hand.
    pub mangled_segmentation: bool,
    /// Largest frame payload.
    pub mtu: u32,
    /// Station address.
    pub address: String,
    /// Promiscuous mode.
    pub promiscuous: bool,
    /// All multicast groups.
    pub all_multicast: bool,
    /// Name that the administrator gave.
    pub alias: String,
    /// The interface is up.
    pub up: bool,
    /// The host's link is up.
    pub link: bool,
    /// Message level.
    pub message_level: u32,
    /// VLAN interfaces above.
    pub vlans: BTreeSet<u16>,
    /// There has been a VLAN interface since coalescing was switched: the core may have switched it off.
    pub vlan_seen: bool,
    /// What is shown as requested of coalescing, once the core has decided that.
    pub coalescing_requested: Option<bool>,
}

/// An interface before anything was changed, and what it can be changed to.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// Its configuration.
    pub configuration: Configuration,
    /// What it shows.
    pub fields: Fields,
    /// Most channels.
    pub most_channels: u32,
    /// Bytes of a receive section beyond the MTU.
    section_reserve: u32,
    /// Bytes of a send section.
    send_section: u32,
    /// Most send sections.
    most_send_sections: u32,
    driver: Driver,
}

/// Position of a feature in [`FEATURES`].
pub fn feature(name: &str) -> Option<usize> {
    FEATURES.iter().position(|known| *known == name)
}

/// The table that spreads evenly.
pub fn even(channels: u32) -> Vec<u32> {
    (0..BUCKETS)
        .map(|bucket| bucket % channels.max(1))
        .collect()
}

fn bytes(fields: &Fields, path: &str) -> Result<Vec<u8>> {
    serde_json::from_value(fields.get(path).cloned().unwrap_or_default())
        .with_context(|| format!("no bytes at {path}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Baseline {
    /// From what an interface with default settings shows.
    pub fn new(fields: Fields, driver: Driver) -> Result<Self> {
        let switch = |path: &str| fields.get(path) == Some(&Value::Bool(true));
        let active = |name: &str| switch(&format!("features/{name}/active"));
        let level = text(&fields, "settings/Current message level")?;
        let level = level.split([' ', 'x']).nth(1).unwrap_or_default();
        let configuration = Configuration {
            channels: number(&fields, "channels/combined")?,
            table: None,
            key: bytes(&fields, "rss/rss-hash-key")?,
            ports: [true; 4],
            receive_bytes: number(&fields, "host/receive_buffer/bytes")?,
            send_sections: number(&fields, "rings/tx")?,
            wanted: SHOWN_AS.map(active),
            mangled_segmentation: false,
            mtu: number(&fields, "link/mtu")?,
            address: text(&fields, "link/address")?.to_owned(),
            promiscuous: false,
            all_multicast: false,
            alias: text(&fields, "link/ifalias").unwrap_or_default().to_owned(),
            up: true,
            link: true,
            message_level: u32::from_str_radix(level, 16).context("message level")?,
            vlans: BTreeSet::new(),
            vlan_seen: false,
            coalescing_requested: None,
        };
        let section = number(&fields, "host/receive_buffer/section_size")?;
        let baseline = Self {
            most_channels: number(&fields, "channels/combined-max")?,
            section_reserve: section - configuration.mtu,
            send_section: number(&fields, "host/send_buffer/section_size")?,
            most_send_sections: number(&fields, "rings/tx-max")?,
            configuration,
            driver,
            fields,
        };
        // The model must know what it starts from.
        let shown = baseline.fields(&baseline.configuration);
        let differences = crate::snapshot::differences(&shown, &baseline.fields);
        ensure!(
            differences.is_empty(),
            "an interface with default settings: {}",
            differences.join("; ")
        );
        Ok(baseline)
    }

    /// Bytes of a receive section.
    fn section(&self, mtu: u32) -> u32 {
        mtu + self.section_reserve
    }

    /// Most sections of an interface with this MTU.
    pub fn most_sections(&self, mtu: u32) -> RingSizes {
        RingSizes {
            rx: MOST_RECEIVE_BYTES / self.section(mtu),
            tx: self.most_send_sections,
        }
    }

    /// Sections of an interface with this configuration.
    pub fn sections(&self, of: &Configuration) -> RingSizes {
        RingSizes {
            rx: of.receive_bytes / self.section(of.mtu),
            tx: of.send_sections,
        }
    }

    /// Gives a configuration buffers of so many sections, in whole pages. What it has already stays.
    pub fn set_sections(&self, of: &mut Configuration, wanted: RingSizes) {
        if wanted.rx != self.sections(of).rx {
            of.receive_bytes = (wanted.rx * self.section(of.mtu)).next_multiple_of(PAGE);
        }
        of.send_sections = wanted.tx;
    }

    /// What an interface with this configuration must show.
    pub fn fields(&self, wanted: &Configuration) -> Fields {
        let mut fields = self.fields.clone();
        self.show_link(&mut fields, wanted);
        self.show_features(&mut fields, wanted);
        self.show_queues(&mut fields, wanted);
        self.show_host(&mut fields, wanted);
        fields
    }

    fn show_link(&self, fields: &mut Fields, wanted: &Configuration) {
        let mut set = |path: &str, value: Value| {
            fields.insert(path.into(), value);
        };
        let running = wanted.up && wanted.link;
        let flags = [
            (true, "BROADCAST"),
            (true, "MULTICAST"),
            (wanted.all_multicast, "ALLMULTI"),
            (wanted.promiscuous, "PROMISC"),
            (wanted.up, "UP"),
            (running, "LOWER_UP"),
            (wanted.up && !wanted.link, "NO-CARRIER"),
        ];
        let mut flags: Vec<_> = flags.iter().filter(|(on, _)| *on).map(|(_, f)| f).collect();
        flags.sort();
        set("link/flags", json!(flags));
        set("link/operstate", json!(if running { "UP" } else { "DOWN" }));
        set("link/mtu", json!(wanted.mtu));
        set("link/address", json!(wanted.address));
        set("link/promiscuity", json!(u32::from(wanted.promiscuous)));
        set("link/allmulti", json!(u32::from(wanted.all_multicast)));
        set(
            "settings/Link detected",
            json!(if running { "yes" } else { "no" }),
        );
        let level = message_level(wanted.message_level);
        set("settings/Current message level", json!(level));
        let vlans = wanted.vlans.iter().map(|id| format!("eth0.{id}"));
        let mut vlans: Vec<String> = vlans.collect();
        vlans.sort();
        self.show_stack(fields, "upper", json!(vlans.join(" ")));
        if wanted.alias.is_empty() {
            fields.remove("link/ifalias");
        } else {
            fields.insert("link/ifalias".into(), json!(wanted.alias));
        }
        let permanent = &self.configuration.address;
        if wanted.address == *permanent {
            fields.remove("link/permaddr");
        } else {
            fields.insert("link/permaddr".into(), json!(permanent));
        }
    }

    /// Features depend on one another by the core's rules.
    fn show_features(&self, fields: &mut Fields, wanted: &Configuration) {
        let [_, tx, sg, tso, ..] = wanted.wanted;
        let segmentation = tso && tx && sg;
        for (index, active) in self.active(wanted).into_iter().enumerate() {
            let names: &[&str] = match FEATURES[index] {
                "tx" => &["tx-checksumming", "tx-checksum-ipv4", "tx-checksum-ipv6"],
                "sg" => &["scatter-gather", "tx-scatter-gather"],
                "tso" => &[
                    "tcp-segmentation-offload",
                    "tx-tcp-segmentation",
                    "tx-tcp6-segmentation",
                ],
                _ => &SHOWN_AS[index..=index],
            };
            for name in names {
                self.show_feature(fields, name, active, wanted.wanted[index]);
            }
        }
        let path = "features/large-receive-offload/requested";
        if let (Some(requested), Some(place)) = (wanted.coalescing_requested, fields.get_mut(path))
        {
            *place = json!(requested);
        }
        let mangled = wanted.mangled_segmentation;
        let name = "tx-tcp-mangleid-segmentation";
        self.show_feature(fields, name, mangled && segmentation, mangled);
    }

    /// Which of [`FEATURES`] are in force.
    pub fn active(&self, wanted: &Configuration) -> [bool; 8] {
        let [rx, tx, sg, tso, gso, gro, lro, rxhash] = wanted.wanted;
        // The C driver does not care whether received checksums are verified.
        let lro = lro && (rx || self.driver == Driver::C);
        [rx, tx, sg, tso && tx && sg, gso && sg, gro, lro, rxhash]
    }

    fn show_feature(&self, fields: &mut Fields, name: &str, active: bool, requested: bool) {
        for (state, value) in [("active", active), ("requested", requested)] {
            if let Some(place) = fields.get_mut(&format!("features/{name}/{state}")) {
                if place.is_boolean() {
                    *place = json!(value);
                }
            }
        }
    }

    fn show_queues(&self, fields: &mut Fields, wanted: &Configuration) {
        let mut set = |path: &str, value: Value| {
            fields.insert(path.into(), value);
        };
        set("channels/combined", json!(wanted.channels));
        set("rss/rss-indirection-table", json!(wanted.spread()));
        set("rss/rss-hash-key", json!(wanted.key));
        let (now, most) = (self.sections(wanted), self.most_sections(wanted.mtu));
        set("rings/rx", json!(now.rx));
        set("rings/tx", json!(now.tx));
        set("rings/rx-max", json!(most.rx));
        for ((flow, _), ports) in FLOWS.iter().zip(wanted.ports) {
            let by_default = self.fields.get(*flow).and_then(Value::as_str);
            let lines = by_default.unwrap_or_default().lines();
            let kept: Vec<&str> = lines
                .filter(|line| ports || !line.starts_with("L4 bytes"))
                .collect();
            set(flow, json!(kept.join("\n")));
        }
        self.show_stack(fields, "tx-queues", json!(wanted.channels));
        self.show_stack(fields, "rx-queues", json!(wanted.channels));
    }

    /// What is seen where sysfs can be looked into.
    fn show_stack(&self, fields: &mut Fields, name: &str, value: Value) {
        if let Some(place) = fields.get_mut(&format!("stack/{name}")) {
            *place = value;
        }
    }

    fn show_host(&self, fields: &mut Fields, wanted: &Configuration) {
        let filter = match (wanted.up, wanted.promiscuous) {
            (false, _) => FILTER[0],
            (true, false) => FILTER[1],
            (true, true) => FILTER[2],
        };
        let mut set = |path: &str, value: Value| {
            fields.insert(path.into(), value);
        };
        set("host/mac", json!(wanted.address));
        set("host/mtu", json!(wanted.mtu));
        set("host/packet_filter", json!(filter));
        set("host/link", json!(if wanted.link { "up" } else { "down" }));
        set("host/open-channels", json!(wanted.channels));
        set("host/subchannels_granted", json!(wanted.channels - 1));
        let sections = self.sections(wanted);
        set("host/receive_buffer/bytes", json!(wanted.receive_bytes));
        set(
            "host/receive_buffer/section_size",
            json!(self.section(wanted.mtu)),
        );
        set("host/receive_buffer/sections", json!(sections.rx));
        let send_bytes = (sections.tx * self.send_section).next_multiple_of(PAGE);
        set("host/send_buffer/bytes", json!(send_bytes));
        set("host/send_buffer/sections", json!(sections.tx));
        set("host/offloads", json!(self.host_offloads(wanted)));
        if wanted.channels == 1 {
            // Nothing to spread.
            fields.retain(|path, _| !path.starts_with("host/rss"));
            fields.insert("host/rss".into(), Value::Null);
            return;
        }
        set("host/rss/table", json!(wanted.spread()));
        set("host/rss/key", json!(hex(&wanted.key)));
        set("host/rss/hash_info", json!(self.hash_info(wanted)));
    }

    fn host_offloads(&self, wanted: &Configuration) -> Vec<String> {
        let [rx, .., lro, _] = self.active(wanted);
        let by_default = self.fields.get("host/offloads").and_then(Value::as_array);
        let names = by_default.into_iter().flatten().filter_map(Value::as_str);
        names
            .filter(|name| (rx || !name.starts_with("rx-")) && (lro || !name.starts_with("rsc")))
            .map(str::to_owned)
            .collect()
    }

    fn hash_info(&self, wanted: &Configuration) -> String {
        let by_default = text(&self.fields, "host/rss/hash_info").unwrap_or_default();
        let digits = by_default.trim_start_matches("0x");
        let all = u32::from_str_radix(digits, 16).unwrap_or_default();
        let off = FLOWS.iter().zip(wanted.ports).filter(|(_, ports)| !ports);
        let info = off.fold(all, |info, ((_, bit), _)| info & !bit);
        format!("{info:#x}")
    }
}

/// [`FEATURES`] as `ethtool -k` shows them.
const SHOWN_AS: [&str; 8] = [
    "rx-checksumming",
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
    "large-receive-offload",
    "receive-hashing",
];

/// A message level as `ethtool` shows it, number and names.
fn message_level(level: u32) -> String {
    const NAMES: [&str; 15] = [
        "drv",
        "probe",
        "link",
        "timer",
        "ifdown",
        "ifup",
        "rx_err",
        "tx_err",
        "tx_queued",
        "intr",
        "tx_done",
        "rx_status",
        "pktdata",
        "hw",
        "wol",
    ];
    let on = NAMES
        .iter()
        .enumerate()
        .filter(|(bit, _)| level & (1 << bit) != 0);
    let names: Vec<&str> = on.map(|(_, name)| *name).collect();
    let text = format!("{level:#010x} ({}) {}", level, names.join(" "));
    text.trim_end().to_owned()
}

impl Configuration {
    /// The indirection table in force.
    pub fn spread(&self) -> Vec<u32> {
        self.table.clone().unwrap_or_else(|| even(self.channels))
    }

    /// Takes over from what is shown what the model does not decide: whether the core let coalescing be under a
    /// VLAN interface, and the pages that the C driver loses or gains with each rebuild.
    pub fn adopt(&mut self, shown: &Fields, driver: Driver) {
        if let (Driver::C, Ok(bytes)) = (driver, number(shown, "host/receive_buffer/bytes")) {
            if bytes.abs_diff(self.receive_bytes) <= MOST_PAGES_BY_C * PAGE {
                self.receive_bytes = bytes;
            }
        }
        if let (true, Some(lro)) = (self.vlan_seen, feature("lro")) {
            let state = |name: &str| {
                let path = format!("features/large-receive-offload/{name}");
                shown.get(&path).and_then(Value::as_bool)
            };
            self.wanted[lro] = state("active").unwrap_or(self.wanted[lro]);
            self.coalescing_requested = state("requested");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What an administrator can do to an interface: as a command, as a change of the model, as something to choose
//! at random.
//!
//! Every kind of operation comes with right and with wrong values; what is wrong is decided by the model.

use proptest::prelude::*;
use proptest::sample::select;

use crate::configuration::{feature, Baseline, Configuration, BUCKETS, FEATURES, FLOWS};
use crate::ethtool::RingSizes;

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `ethtool -L combined`.
    Channels(u32),
    /// `ethtool -X default`.
    DefaultTable,
    /// `ethtool -X equal`.
    Equal(u32),
    /// `ethtool -X weight`.
    Weight(Vec<u32>),
    /// `ethtool -X hkey`.
    Key(Vec<u8>),
    /// `ethtool -N rx-flow-hash`: flow type and fields.
    FlowHash(&'static str, &'static str),
    /// `ethtool -G rx tx`.
    Rings(RingSizes),
    /// `ethtool -K`.
    Feature(&'static str, bool),
    /// `ip link set mtu`.
    Mtu(u32),
    /// `ip link set address`.
    Address(String),
    /// `ip link set promisc`.
    Promiscuous(bool),
    /// `ip link set allmulticast`.
    AllMulticast(bool),
    /// `ip link set alias`.
    Alias(String),
    /// `ip link set up` and `down`.
    Up(bool),
    /// `ethtool -s msglvl`.
    MessageLevel(u32),
    /// `ip link add type vlan`.
    AddVlan(u16),
    /// `ip link delete` of a VLAN interface.
    RemoveVlan(u16),
}

/// What must come of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The configuration afterwards.
    pub after: Configuration,
    /// The command fails and says this.
    pub refused: Option<&'static str>,
}

const INVALID: &str = "Invalid argument";

impl Operation {
    /// The command for interface `device`.
    pub fn argv(&self, device: &str) -> Vec<String> {
        let on = |on: bool| if on { "on" } else { "off" };
        let line = match self {
            Operation::Channels(count) => format!("ethtool -L {device} combined {count}"),
            Operation::DefaultTable => format!("ethtool -X {device} default"),
            Operation::Equal(count) => format!("ethtool -X {device} equal {count}"),
            Operation::Weight(weights) => {
                let weights: Vec<String> = weights.iter().map(u32::to_string).collect();
                format!("ethtool -X {device} weight {}", weights.join(" "))
            }
            Operation::Key(key) => {
                let bytes: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("ethtool -X {device} hkey {}", bytes.join(":"))
            }
            Operation::FlowHash(flow, fields) => {
                format!("ethtool -N {device} rx-flow-hash {flow} {fields}")
            }
            Operation::Rings(sizes) => {
                format!("ethtool -G {device} rx {} tx {}", sizes.rx, sizes.tx)
            }
            Operation::Feature(name, state) => format!("ethtool -K {device} {name} {}", on(*state)),
            Operation::Mtu(mtu) => format!("ip link set {device} mtu {mtu}"),
            Operation::Address(address) => format!("ip link set {device} address {address}"),
            Operation::Promiscuous(state) => format!("ip link set {device} promisc {}", on(*state)),
            Operation::AllMulticast(state) => {
                format!("ip link set {device} allmulticast {}", on(*state))
            }
            Operation::Alias(_) => format!("ip link set {device} alias"),
            Operation::Up(true) => format!("ip link set {device} up"),
            Operation::Up(false) => format!("ip link set {device} down"),
            Operation::MessageLevel(level) => format!("ethtool -s {device} msglvl {level:#x}"),
            Operation::AddVlan(id) => {
                format!("ip link add link {device} name {device}.{id} type vlan id {id}")
            }
            Operation::RemoveVlan(id) => format!("ip link delete {device}.{id}"),
        };
        let mut argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if let Operation::Alias(alias) = self {
            argv.push(alias.clone());
        }
        argv
    }

    /// What must come of it on an interface with configuration `now`.
    pub fn predict(&self, now: &Configuration, limits: &Baseline) -> Prediction {
        let mut after = now.clone();
        let refused = self.apply(&mut after, limits);
        Prediction { after, refused }
    }

    /// Changes the configuration, or says what it is refused with.
    fn apply(&self, to: &mut Configuration, limits: &Baseline) -> Option<&'static str> {
        match self {
            Operation::Channels(count) => {
                let highest = to.table.iter().flatten().max().copied().unwrap_or(0);
                if *count == 0 || *count > limits.most_channels || highest >= *count {
                    return Some(INVALID);
                }
                to.channels = *count;
            }
            Operation::DefaultTable => to.table = None,
            Operation::Equal(count) => return set_table(to, equal(*count)),
            Operation::Weight(weights) => return set_table(to, weighted(weights)),
            Operation::Key(key) if key.len() != to.key.len() => return Some(""),
            Operation::Key(key) => to.key.clone_from(key),
            Operation::FlowHash(flow, fields) => return set_flow_hash(to, flow, fields),
            Operation::Rings(wanted) => {
                let most = limits.most_sections(to.mtu);
                if wanted.rx > most.rx || wanted.tx > most.tx {
                    return Some(INVALID);
                }
                limits.set_sections(to, *wanted);
            }
            Operation::Feature(name, state) => return set_feature(to, limits, name, *state),
            Operation::Mtu(mtu) if *mtu < 68 => return Some("mtu less than device minimum"),
            Operation::Mtu(mtu) if *mtu > 65521 => return Some("mtu greater than device maximum"),
            Operation::Mtu(mtu) => to.mtu = *mtu,
            Operation::Address(address) if !is_station(address) => {
                return Some("Cannot assign requested address");
            }
            Operation::Address(address) => to.address.clone_from(address),
            Operation::Promiscuous(state) => to.promiscuous = *state,
            Operation::AllMulticast(state) => to.all_multicast = *state,
            Operation::Alias(alias) if alias.len() > LONGEST_ALIAS => return Some(""),
            Operation::Alias(alias) => to.alias.clone_from(alias),
            Operation::Up(state) => to.up = *state,
            Operation::MessageLevel(level) => to.message_level = *level,
            Operation::AddVlan(id) if *id > 4094 => return Some(""),
            Operation::AddVlan(id) => {
                if !to.vlans.insert(*id) {
                    return Some("File exists");
                }
                to.vlan_seen = true;
            }
            Operation::RemoveVlan(id) if !to.vlans.remove(id) => return Some("Cannot find device"),
            Operation::RemoveVlan(_) => {}
        }
        None
    }

    /// Whether the C driver brings it about and keeps it: it forgets tables, keys, promiscuous mode and addresses
    /// with the next rebuild (Q1 to Q4), leaves the stack's queues alone with one channel (Q5), does not tell the
    /// host of hashed fields (Q20) and receive checksums, and refuses an address while the interface is up.
    pub fn kept_by_c(&self) -> bool {
        match self {
            Operation::Channels(count) => *count != 1,
            Operation::DefaultTable
            | Operation::Equal(_)
            | Operation::Weight(_)
            | Operation::Key(_)
            | Operation::FlowHash(..)
            | Operation::Address(_)
            | Operation::Promiscuous(_)
            | Operation::Feature("rx" | "lro", _) => false,
            _ => true,
        }
    }
}

/// The operations that lead from one configuration to another, in an order that the core allows.
pub fn between(from: &Configuration, to: &Configuration, limits: &Baseline) -> Vec<Operation> {
    let mut way: Vec<Operation> = Vec::new();
    let mut add = |differs: bool, operation: Operation| {
        if differs {
            way.push(operation);
        }
    };
    for id in from.vlans.difference(&to.vlans) {
        add(true, Operation::RemoveVlan(*id));
    }
    for id in to.vlans.difference(&from.vlans) {
        add(true, Operation::AddVlan(*id));
    }
    add(from.up != to.up, Operation::Up(to.up));
    // A table of the user's may stand in the way of a channel count.
    add(from.table != to.table, Operation::DefaultTable);
    add(
        from.channels != to.channels,
        Operation::Channels(to.channels),
    );
    add(from.mtu != to.mtu, Operation::Mtu(to.mtu));
    let buffers = |of: &Configuration| (of.receive_bytes, of.send_sections);
    let rings = Operation::Rings(limits.sections(to));
    add(buffers(from) != buffers(to), rings);
    add(from.key != to.key, Operation::Key(to.key.clone()));
    for (index, (flow, _)) in FLOWS.into_iter().enumerate() {
        let fields = if to.ports[index] { "sdfn" } else { "sd" };
        add(
            from.ports[index] != to.ports[index],
            Operation::FlowHash(flow, fields),
        );
    }
    for (index, name) in FEATURES.into_iter().enumerate() {
        let decided = name == "lro" && from.vlan_seen;
        let differs = decided || from.wanted[index] != to.wanted[index];
        add(differs, Operation::Feature(name, to.wanted[index]));
    }
    let mangled = from.mangled_segmentation || from.wanted != to.wanted;
    let name = MANGLED_SEGMENTATION;
    add(mangled, Operation::Feature(name, to.mangled_segmentation));
    add(
        from.address != to.address,
        Operation::Address(to.address.clone()),
    );
    add(
        from.promiscuous != to.promiscuous,
        Operation::Promiscuous(to.promiscuous),
    );
    let all = Operation::AllMulticast(to.all_multicast);
    add(from.all_multicast != to.all_multicast, all);
    add(from.alias != to.alias, Operation::Alias(to.alias.clone()));
    let level = Operation::MessageLevel(to.message_level);
    add(from.message_level != to.message_level, level);
    way
}

/// The command as it is typed.
impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.argv("eth0").join(" "))
    }
}

/// What is switched on with segmentation, but off by default.
const MANGLED_SEGMENTATION: &str = "tx-tcp-mangleid-segmentation";
/// Receive sections of which some are left when an MTU of 9000 makes larger ones.
const ENOUGH_SECTIONS: u32 = 300;
/// Bytes of an alias.
const LONGEST_ALIAS: usize = 255;

fn equal(count: u32) -> Option<Vec<u32>> {
    (count > 0).then(|| (0..BUCKETS).map(|bucket| bucket % count).collect())
}

/// As `ethtool` divides the buckets among channels by their weights.
fn weighted(weights: &[u32]) -> Option<Vec<u32>> {
    let sum: u32 = weights.iter().sum();
    let (mut partial, mut next) = (0, 0);
    (sum > 0).then(|| {
        (0..BUCKETS)
            .map(|bucket| {
                while bucket >= BUCKETS * partial / sum {
                    partial += weights[next];
                    next += 1;
                }
                next as u32 - 1
            })
            .collect()
    })
}

fn set_table(to: &mut Configuration, table: Option<Vec<u32>>) -> Option<&'static str> {
    let Some(table) = table else {
        return Some("");
    };
    if table.iter().any(|channel| *channel >= to.channels) {
        return Some(INVALID);
    }
    to.table = Some(table);
    None
}

fn set_flow_hash(to: &mut Configuration, flow: &str, fields: &str) -> Option<&'static str> {
    let flow = FLOWS.iter().position(|(known, _)| *known == flow);
    match (flow, fields) {
        (Some(flow), "sd" | "sdfn") => {
            to.ports[flow] = fields == "sdfn";
            None
        }
        _ => Some("not supported"),
    }
}

/// The core notes what is wanted even where it cannot be had.
fn set_feature(
    to: &mut Configuration,
    limits: &Baseline,
    name: &str,
    state: bool,
) -> Option<&'static str> {
    if name == MANGLED_SEGMENTATION {
        to.mangled_segmentation = state;
        return None;
    }
    let Some(index) = feature(name) else {
        return Some("Could not change any device features");
    };
    let before = limits.active(to);
    to.wanted[index] = state;
    match name {
        "tso" => to.mangled_segmentation = state,
        // The core may have its own will while there is a VLAN interface.
        "lro" if to.vlans.is_empty() => (to.vlan_seen, to.coalescing_requested) = (false, None),
        _ => {}
    }
    let after = limits.active(to);
    // Nothing to change is no error, unless it was asked for.
    let in_vain = after[index] != state && (before == after);
    in_vain.then_some("Could not change any device features")
}

fn is_station(address: &str) -> bool {
    let first = address.split(':').next();
    let first = first.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    first.is_some_and(|first| first & 1 == 0) && address != "00:00:00:00:00:00"
}

/// Operations on an interface with at most these channels and sections, right ones and, now and then, wrong ones.
pub fn any_operation(most_channels: u32, most: RingSizes) -> BoxedStrategy<Operation> {
    let on = any::<bool>;
    prop_oneof![
        3 => (0..=most_channels + 1).prop_map(Operation::Channels),
        1 => Just(Operation::DefaultTable),
        1 => (1..=most_channels + 1).prop_map(Operation::Equal),
        2 => prop::collection::vec(0..4u32, 1..=most_channels as usize)
            .prop_map(Operation::Weight),
        2 => key(),
        2 => (select(&["tcp4", "tcp6", "udp4", "udp6", "esp4"][..]), select(&["sd", "sdfn", "s"][..]))
            .prop_map(|(flow, fields)| Operation::FlowHash(flow, fields)),
        2 => (ENOUGH_SECTIONS..=most.rx + 1, 20..=most.tx + 1)
            .prop_map(|(rx, tx)| Operation::Rings(RingSizes { rx, tx })),
        1 => Just(Operation::Rings(RingSizes { rx: most.rx + 1, tx: 100 })),
        5 => (select(&FEATURES[..]), on()).prop_map(|(name, on)| Operation::Feature(name, on)),
        1 => Just(Operation::Feature("rx-fcs", true)),
        3 => (1500..=9000u32).prop_map(Operation::Mtu),
        1 => select(&[0u32, 67, 65522][..]).prop_map(Operation::Mtu),
        2 => address(),
        2 => on().prop_map(Operation::Promiscuous),
        1 => on().prop_map(Operation::AllMulticast),
        1 => alias(),
        2 => Just(Operation::Up(false)),
        4 => Just(Operation::Up(true)),
        1 => (0..0x8000u32).prop_map(Operation::MessageLevel),
        2 => select(&[1u16, 5, 4094, 4095][..]).prop_map(Operation::AddVlan),
        2 => select(&[1u16, 5, 4094][..]).prop_map(Operation::RemoveVlan),
    ]
    .boxed()
}

fn key() -> impl Strategy<Value = Operation> {
    prop_oneof![
        5 => prop::collection::vec(any::<u8>(), 40),
        1 => prop::collection::vec(any::<u8>(), 38..43),
    ]
    .prop_map(Operation::Key)
}

fn address() -> impl Strategy<Value = Operation> {
    // Locally administered; a group address now and then.
    (
        select(&[0x02u8, 0x02, 0x02, 0x06, 0x01][..]),
        any::<[u8; 5]>(),
    )
        .prop_map(|(first, rest)| {
            let rest: Vec<String> = rest.iter().map(|byte| format!("{byte:02x}")).collect();
            Operation::Address(format!("{first:02x}:{}", rest.join(":")))
        })
}

fn alias() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => "[a-z0-9 ]{0,40}".prop_map(|text| text.trim().to_owned()),
        1 => Just("x".repeat(300)),
    ]
    .prop_map(Operation::Alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_divide_the_buckets() {
        assert_eq!(weighted(&[0, 0]), None);
        assert_eq!(weighted(&[0, 1]), Some(vec![1; 128]));
        let table = weighted(&[1, 1, 2]).expect("a table");
        let count = |channel| table.iter().filter(|c| **c == channel).count();
        assert_eq!([count(0), count(1), count(2)], [32, 32, 64]);
    }

    #[test]
    fn commands_name_the_interface_and_keep_an_alias_whole() {
        let alias = Operation::Alias("two words".into());
        assert_eq!(
            alias.argv("eth1"),
            ["ip", "link", "set", "eth1", "alias", "two words"]
        );
        assert_eq!(
            Operation::Channels(2).to_string(),
            "ethtool -L eth0 combined 2"
        );
    }

    #[test]
    fn group_addresses_are_none_of_a_station() {
        assert!(is_station("02:00:00:00:00:01"));
        assert!(!is_station("01:00:00:00:00:01") && !is_station("00:00:00:00:00:00"));
    }
}

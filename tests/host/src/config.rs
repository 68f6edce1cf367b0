// SPDX-License-Identifier: GPL-2.0

//! The values of `hvhost`'s command line: protocol versions and the description of a NIC.
//!
//! Everything here is parsed from text with [`FromStr`]; an error is one line that names the value
//! that was wrong. The same text is accepted by `nic-add` on the control socket.

use std::borrow::Borrow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::netvsp::{NvspVersion, OffloadSupport};

/// A value on the command line that cannot be used. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

fn bad<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError(text))
}

/// A VMBus protocol version as in INITIATE_CONTACT: major in the upper, minor in the lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmbusVersion(u32);

impl VmbusVersion {
    /// The versions a Linux guest asks for and this host can be told to stop at.
    pub const ALL: [VmbusVersion; 7] = [
        VmbusVersion(0x0004_0000),
        VmbusVersion(0x0004_0001),
        VmbusVersion(0x0005_0000),
        VmbusVersion(0x0005_0001),
        VmbusVersion(0x0005_0002),
        VmbusVersion(0x0005_0003),
        VmbusVersion(0x0006_0000),
    ];

    /// The number used on the wire, such as `0x0005_0003` for 5.3.
    pub fn wire(self) -> u32 {
        self.0
    }
}

impl fmt::Display for VmbusVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl FromStr for VmbusVersion {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        pick(
            &Self::ALL,
            |version| version.to_string(),
            text,
            "VMBus version",
        )
    }
}

/// The NVSP version with the given name, such as `6.1`.
pub fn parse_nvsp_version(text: &str) -> Result<NvspVersion, ConfigError> {
    pick(&NvspVersion::ALL, NvspVersion::name, text, "NVSP version")
}

/// The element of `all` that is called `text`.
fn pick<T: Copy, N: Borrow<str>>(
    all: &[T],
    name: impl Fn(T) -> N,
    text: &str,
    what: &str,
) -> Result<T, ConfigError> {
    if let Some(found) = all.iter().find(|one| name(**one).borrow() == text) {
        return Ok(*found);
    }
    let names: Vec<N> = all.iter().map(|one| name(*one)).collect();
    bad(format!(
        "'{text}' is not a {what} (known: {})",
        names.join(", ")
    ))
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            match parts.next().filter(|part| part.len() == 2) {
                Some(part) => match u8::from_str_radix(part, 16) {
                    Ok(value) => *byte = value,
                    Err(_) => {
                        return bad(format!("mac: '{text}' has a part that is not hexadecimal"))
                    }
                },
                None => {
                    return bad(format!(
                        "mac: '{text}' is not of the form 00:15:5d:00:00:01"
                    ))
                }
            }
        }
        if parts.next().is_some() {
            return bad(format!("mac: '{text}' has more than six parts"));
        }
        if bytes[0] & 1 != 0 {
            return bad(format!("mac: '{text}' is a group address"));
        }
        Ok(MacAddress(bytes))
    }
}

/// Where a NIC's frames go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSpec {
    /// Wired to the NICs of the same guest that name the same switch.
    Switch(String),
    /// A tap interface of the machine `hvhost` runs on.
    Tap(String),
    /// Takes everything, gives nothing.
    Null,
    /// Feeds the guest what the control socket's `generate` says; counts what it transmits.
    Generator,
    /// Counts what the guest transmits.
    Sink,
}

impl FromStr for BackendSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        match (kind, name) {
            ("null", "") => Ok(BackendSpec::Null),
            ("gen", "") => Ok(BackendSpec::Generator),
            ("sink", "") => Ok(BackendSpec::Sink),
            ("switch", name) if is_name(name) => Ok(BackendSpec::Switch(name.into())),
            ("tap", name) if is_name(name) && name.len() < 16 => Ok(BackendSpec::Tap(name.into())),
            _ => bad(format!(
                "backend: '{text}' is none of switch:NAME, tap:INTERFACE, gen, sink, null"
            )),
        }
    }
}

impl fmt::Display for BackendSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendSpec::Switch(name) => write!(f, "switch:{name}"),
            BackendSpec::Tap(name) => write!(f, "tap:{name}"),
            BackendSpec::Null => f.write_str("null"),
            BackendSpec::Generator => f.write_str("gen"),
            BackendSpec::Sink => f.write_str("sink"),
        }
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.chars().all(allowed)
}

/// One NIC, as in `--nic mac=00:15:5d:00:00:01,queues=8,backend=switch:sw0,mtu=9000,pcap=a.pcap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicSpec {
    /// `name=`: how the control socket and the counters call it; empty until the command line or
    /// `nic-add` gives it the next free `nicN`.
    pub name: String,
    /// `mac=`: permanent address, compulsory.
    pub mac: MacAddress,
    /// `queues=`: largest number of channels the host grants, 1 to 64; 8 if not given.
    pub queues: u16,
    /// `backend=`: where frames go; `null` if not given.
    pub backend: BackendSpec,
    /// `mtu=`: largest MTU the host accepts, 1500 to 65500 bytes; 9000 if not given.
    pub mtu: u32,
    /// `speed=`: link speed in Mbit/s; 10000 if not given.
    pub speed_mbps: u32,
    /// `link=up|down`: carrier at start; up if not given.
    pub link_up: bool,
    /// `offloads=`: what the NIC offers to the guest, such as `csum4+csum6+udp+lso4+lso6+rsc`, `all` or
    /// `none`; all if not given.
    pub offloads: OffloadSupport,
    /// `pcap=`: file that receives a copy of every frame in both directions.
    pub pcap: Option<PathBuf>,
}

impl FromStr for NicSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut mac = None;
        let mut spec = NicSpec {
            name: String::new(),
            mac: MacAddress([0; 6]),
            queues: 8,
            backend: BackendSpec::Null,
            mtu: 9000,
            speed_mbps: 10_000,
            link_up: true,
            offloads: OffloadSupport::ALL,
            pcap: None,
        };
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',') {
            let Some((key, value)) = part.split_once('=') else {
                return bad(format!("'{part}' is not of the form KEY=VALUE"));
            };
            if seen.contains(&key) {
                return bad(format!("'{key}' is given twice"));
            }
            seen.push(key);
            match key {
                "mac" => mac = Some(value.parse()?),
                "name" if is_name(value) => spec.name = value.into(),
                "name" => {
                    return bad(format!(
                        "name: '{value}' has characters other than a-z 0-9 - _ ."
                    ))
                }
                "queues" => spec.queues = number(key, value, 1, 64)?,
                "backend" => spec.backend = value.parse()?,
                "mtu" => spec.mtu = number(key, value, 1500, 65500)?,
                "speed" => spec.speed_mbps = number(key, value, 1, 400_000)?,
                "link" => spec.link_up = link(value)?,
                "offloads" => spec.offloads = value.parse().map_err(ConfigError)?,
                "pcap" if !value.is_empty() => spec.pcap = Some(value.into()),
                "pcap" => return bad("pcap: the file name is empty".into()),
                _ => {
                    return bad(format!(
                        "'{key}' is none of mac, name, queues, backend, mtu, speed, link, offloads, pcap"
                    ))
                }
            }
        }
        match mac {
            Some(mac) => Ok(NicSpec { mac, ..spec }),
            None => bad(format!("'{text}' gives no mac=")),
        }
    }
}

fn number<T>(key: &str, value: &str, low: u32, high: u32) -> Result<T, ConfigError>
where
    T: TryFrom<u32>,
{
    let parsed = value
        .parse::<u32>()
        .ok()
        .filter(|n| (low..=high).contains(n));
    match parsed.and_then(|n| T::try_from(n).ok()) {
        Some(n) => Ok(n),
        None => bad(format!(
            "{key}: '{value}' is not a number from {low} to {high}"
        )),
    }
}

fn link(value: &str) -> Result<bool, ConfigError> {
    match value {
        "up" => Ok(true),
        "down" => Ok(false),
        _ => bad(format!("link: '{value}' is neither up nor down")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nic_with_everything() {
        let text = "mac=00:15:5d:00:00:01,name=a,queues=64,backend=tap:tap0,mtu=1500,speed=100,\
                    link=down,offloads=csum4+lso4,pcap=x.pcap";
        let spec: NicSpec = text.parse().unwrap();
        assert_eq!(spec.mac.to_string(), "00:15:5d:00:00:01");
        assert_eq!((spec.name.as_str(), spec.queues, spec.mtu), ("a", 64, 1500));
        assert_eq!(spec.backend, BackendSpec::Tap("tap0".into()));
        assert_eq!((spec.speed_mbps, spec.link_up), (100, false));
        assert_eq!(Ok(spec.offloads), "csum4+lso4".parse());
        assert_eq!(spec.pcap, Some("x.pcap".into()));
    }

    #[test]
    fn back_ends_read_as_they_are_written() {
        for text in ["switch:a", "tap:t0", "null", "gen", "sink"] {
            let spec: BackendSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
        assert!("gen:x".parse::<BackendSpec>().is_err());
    }

    #[test]
    fn errors_name_the_value() {
        let message = |text: &str| text.parse::<NicSpec>().unwrap_err().to_string();
        for (text, part) in [
            ("queues=8", "gives no mac"),
            ("mac=00:15:5d:00:00", "00:15:5d:00:00"),
            ("mac=01:15:5d:00:00:00", "group"),
            ("mac=00:15:5d:00:00:zz", "zz"),
            ("mac=00:15:5d:00:00:01:02", "six"),
            ("mac=00:15:5d:00:00:01,queues=65", "'65'"),
            ("mac=00:15:5d:00:00:01,queues=0", "'0'"),
            ("mac=00:15:5d:00:00:01,mtu=lots", "'lots'"),
            ("mac=00:15:5d:00:00:01,backend=hub:x", "'hub:x'"),
            ("mac=00:15:5d:00:00:01,backend=switch:", "'switch:'"),
            ("mac=00:15:5d:00:00:01,colour=red", "'colour'"),
            ("mac=00:15:5d:00:00:01,mtu=1500,mtu=1500", "twice"),
            ("mac=00:15:5d:00:00:01,offloads=csum5", "'csum5'"),
            ("mac=00:15:5d:00:00:01,link=maybe", "'maybe'"),
        ] {
            let got = message(text);
            assert!(got.contains(part), "{text}: {got}");
            assert!(!got.contains('\n'));
        }
    }

    #[test]
    fn versions_round_trip() {
        for version in VmbusVersion::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        for version in NvspVersion::ALL {
            assert_eq!(parse_nvsp_version(version.name()), Ok(version));
        }
        assert_eq!("5.3".parse::<VmbusVersion>().unwrap().wire(), 0x50003);
        let error = parse_nvsp_version("3").unwrap_err().to_string();
        assert!(error.contains("'3'") && error.contains("6.1"), "{error}");
    }
}

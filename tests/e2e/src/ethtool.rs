// SPDX-License-Identifier: GPL-2.0

//! Reading what stock `ethtool` prints.

use anyhow::{Context, Result};

/// Output of `ethtool --show-channels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Pre-set maximum of combined channels.
    pub maximum: u32,
    /// Combined channels now.
    pub current: u32,
}

/// Parses `ethtool --show-channels DEV`.
pub fn channels(text: &str) -> Result<Channels> {
    let (maximums, current) = text
        .split_once("Current hardware settings:")
        .with_context(|| format!("no current settings in {text:?}"))?;
    let combined = |part: &str| -> Result<u32> {
        let value =
            field(part, "Combined").with_context(|| format!("no 'Combined' in {text:?}"))?;
        value
            .parse()
            .with_context(|| format!("'Combined: {value}' is not a number"))
    };
    Ok(Channels {
        maximum: combined(maximums)?,
        current: combined(current)?,
    })
}

/// Output of `ethtool --show-rxfh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// Receive rings.
    pub rings: u32,
    /// Ring of each bucket.
    pub table: Vec<u32>,
    /// Key in hexadecimal digits, without colons.
    pub key: String,
    /// Hash functions that are on.
    pub functions: Vec<String>,
}

/// Parses `ethtool --show-rxfh DEV`.
pub fn rss(text: &str) -> Result<Rss> {
    let (head, rest) = text
        .split_once("RSS hash key:")
        .with_context(|| format!("no key in {text:?}"))?;
    let (key, functions) = rest
        .split_once("RSS hash function:")
        .with_context(|| format!("no hash function in {text:?}"))?;
    let rings = head
        .split_once(" with ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .with_context(|| format!("no number of rings in {text:?}"))?;
    // Rows such as `    8:      0     1     2     3`.
    let rows = head.lines().filter_map(|line| {
        let (index, row) = line.split_once(':')?;
        index.trim().parse::<u32>().ok().map(|_| row)
    });
    let entries = rows.flat_map(str::split_whitespace).map(str::parse);
    Ok(Rss {
        rings: rings.parse().context("number of rings")?,
        table: entries
            .collect::<Result<_, _>>()
            .with_context(|| format!("indirection table in {text:?}"))?,
        key: key.trim().replace(':', ""),
        functions: functions
            .lines()
            .filter_map(|line| line.trim().strip_suffix(": on"))
            .map(str::to_owned)
            .collect(),
    })
}

/// Numbers of `ethtool --show-ring`, one for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Receive.
    pub rx: u32,
    /// Transmit.
    pub tx: u32,
}

/// Output of `ethtool --show-ring`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Pre-set maximums.
    pub maximum: RingSizes,
    /// Present settings.
    pub current: RingSizes,
}

/// Parses `ethtool --show-ring DEV`.
pub fn rings(text: &str) -> Result<Rings> {
    let (maximums, current) = text
        .split_once("Current hardware settings:")
        .with_context(|| format!("no current settings in {text:?}"))?;
    let sizes = |part: &str| -> Result<RingSizes> {
        let number = |name: &str| -> Result<u32> {
            let value = field(part, name).with_context(|| format!("no '{name}' in {text:?}"))?;
            value
                .parse()
                .with_context(|| format!("'{name}: {value}' is not a number"))
        };
        Ok(RingSizes {
            rx: number("RX")?,
            tx: number("TX")?,
        })
    };
    Ok(Rings {
        maximum: sizes(maximums)?,
        current: sizes(current)?,
    })
}

/// The value after `NAME:` on a line of its own.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Parses `ethtool -S DEV` into names and values, in the order printed.
pub fn statistics(text: &str) -> Result<Vec<(String, u64)>> {
    text.lines()
        .filter(|line| !line.starts_with("NIC statistics"))
        .filter_map(|line| line.rsplit_once(':'))
        .map(|(name, value)| {
            let value = value.trim();
            let number = value
                .parse()
                .with_context(|| format!("statistic {name} is '{value}'"))?;
            Ok((name.trim().to_owned(), number))
        })
        .collect()
}

/// The names `ethtool -S` must print for `queues` queues and `cpus` processors, in order.
pub fn statistic_names(queues: u32, cpus: u32) -> Vec<String> {
    const DEVICE: &str = "tx_scattered tx_no_memory tx_no_space tx_too_big tx_busy tx_send_full \
        rx_comp_busy rx_no_memory stop_queue wake_queue vlan_error vf_rx_packets vf_rx_bytes \
        vf_tx_packets vf_tx_bytes vf_tx_dropped";
    const QUEUE: &str = "tx_queue_#_packets tx_queue_#_bytes tx_queue_#_xdp_xmit \
        rx_queue_#_packets rx_queue_#_bytes rx_queue_#_xdp_drop rx_queue_#_xdp_redirect \
        rx_queue_#_xdp_tx";
    const CPU: &str = "cpu#_rx_packets cpu#_rx_bytes cpu#_tx_packets cpu#_tx_bytes \
        cpu#_vf_rx_packets cpu#_vf_rx_bytes cpu#_vf_tx_packets cpu#_vf_tx_bytes";
    let numbered = |names: &'static str, count: u32| {
        (0..count).flat_map(move |i| {
            names
                .split_whitespace()
                .map(move |name| name.replace('#', &i.to_string()))
        })
    };
    DEVICE
        .split_whitespace()
        .map(str::to_owned)
        .chain(numbered(QUEUE, queues))
        .chain(numbered(CPU, cpus))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNELS: &str = "Channel parameters for eth0:\nPre-set maximums:\nRX:\t\tn/a\n\
        TX:\t\tn/a\nOther:\t\tn/a\nCombined:\t8\nCurrent hardware settings:\nRX:\t\tn/a\n\
        TX:\t\tn/a\nOther:\t\tn/a\nCombined:\t4\n";

    #[test]
    fn channels_are_read_from_both_halves() {
        let expected = Channels {
            maximum: 8,
            current: 4,
        };
        assert_eq!(channels(CHANNELS).expect("parses"), expected);
        assert!(channels("netlink error: Operation not supported\n").is_err());
    }

    #[test]
    fn rings_are_read_from_both_halves() {
        let text = "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t18811\nRX Mini:\tn/a\n\
            TX:\t\t2560\nCurrent hardware settings:\nRX:\t\t9709\nRX Mini:\tn/a\nTX:\t\t170\n";
        let rings = rings(text).expect("parses");
        assert_eq!((rings.maximum.rx, rings.maximum.tx), (18811, 2560));
        assert_eq!((rings.current.rx, rings.current.tx), (9709, 170));
    }

    #[test]
    fn rss_is_read_row_by_row() {
        let text = "RX flow hash indirection table for eth0 with 4 RX ring(s):\n    \
            0:      0     1     2     3\n    4:      3     3     3     3\nRSS hash key:\n\
            6d:5a:00\nRSS hash function:\n    toeplitz: on\n    xor: off\n";
        let expected = Rss {
            rings: 4,
            table: vec![0, 1, 2, 3, 3, 3, 3, 3],
            key: "6d5a00".into(),
            functions: vec!["toeplitz".into()],
        };
        assert_eq!(rss(text).expect("parses"), expected);
        assert!(rss("netlink error: Operation not supported\n").is_err());
    }

    #[test]
    fn statistics_keep_order_and_values() {
        let text = "NIC statistics:\n     tx_scattered: 0\n     tx_queue_0_packets: 17\n";
        let parsed = statistics(text).expect("parses");
        assert_eq!(parsed[1], ("tx_queue_0_packets".to_owned(), 17));
    }

    #[test]
    fn names_number_queues_and_processors() {
        let names = statistic_names(2, 1);
        assert_eq!(names.len(), 16 + 2 * 8 + 8);
        assert_eq!(names[16], "tx_queue_0_packets");
        assert_eq!(names[24], "tx_queue_1_packets");
        assert_eq!(names[32], "cpu0_rx_packets");
    }
}

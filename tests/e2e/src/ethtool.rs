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

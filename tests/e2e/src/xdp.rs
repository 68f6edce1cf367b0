// SPDX-License-Identifier: GPL-2.0

//! XDP programs on the interfaces, what the driver counts of them, and datagrams for them.
//!
//! Programs that act on some frames only act on UDP datagrams to [`PORT`], so that everything else still works.

use anyhow::{ensure, Context, Result};
use guest_agent::sweep;
use serde_json::Value;

use crate::ethtool;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::Driver;

/// The agent's program in the guest.
const PROGRAM: &str = "/agent";
/// Where datagrams go to that programs act on, and where they come from.
pub const PORT: u16 = 5020;
/// Largest MTU that a program which takes frames in one piece goes with.
pub const MOST_MTU: u32 = 3506;

/// What an interface counts of XDP, all queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that were dropped: `XDP_DROP`, `XDP_ABORTED`, no action, or no room.
    pub drop: u64,
    /// Frames that were redirected from here.
    pub redirect: u64,
    /// Frames that were sent back.
    pub tx: u64,
    /// Frames that were redirected to here.
    pub xmit: u64,
}

impl Counts {
    /// From the names and values of `ethtool -S`.
    fn of(statistics: &[(String, u64)]) -> Counts {
        let sum = |kind: &str| {
            let of_kind = statistics
                .iter()
                .filter(|(name, _)| name.contains("_queue_") && name.ends_with(kind));
            of_kind.map(|(_, value)| value).sum()
        };
        Counts {
            drop: sum("_xdp_drop"),
            redirect: sum("_xdp_redirect"),
            tx: sum("_xdp_tx"),
            xmit: sum("_xdp_xmit"),
        }
    }

    /// What was counted since `before`.
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            drop: self.drop.wrapping_sub(before.drop),
            redirect: self.redirect.wrapping_sub(before.redirect),
            tx: self.tx.wrapping_sub(before.tx),
            xmit: self.xmit.wrapping_sub(before.xmit),
        }
    }
}

/// Datagrams to [`PORT`] that must be answered or must not.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Who asks.
    pub from: End,
    /// Whom.
    pub to: &'a str,
    /// Payload lengths, such as `0-1472`.
    pub lengths: &'a str,
}

impl Guest {
    /// Brings an interface into a state in which its driver takes programs: the C driver wants LRO switched off.
    pub fn permit_xdp(&self, end: End) -> Result<()> {
        self.with_c_driver(end, "off")
    }

    /// Undoes [`Guest::permit_xdp`].
    pub fn forget_xdp(&self, end: End) -> Result<()> {
        self.with_c_driver(end, "on")
    }

    fn with_c_driver(&self, end: End, lro: &str) -> Result<()> {
        if self.driver.get() == Driver::C {
            let argv = ["ethtool", "--features", end.interface(), "lro", lro];
            self.at(end, &argv, SHORT)?;
        }
        Ok(())
    }

    /// Attaches a program to the interface of an end; `arguments` are those of the agent's `xdp-attach`.
    pub fn attach_xdp(&self, end: End, arguments: &str) -> Result<()> {
        let argv = attaching(end.interface(), arguments);
        self.at(end, &argv, SHORT)?;
        let attached = self.xdp_program(end)?;
        ensure!(
            attached.is_some(),
            "a program was attached, and ip shows none"
        );
        Ok(())
    }

    /// Attaching a program to `eth0` must fail and say `why`.
    pub fn xdp_refused(&self, arguments: &str, why: &str) -> Result<()> {
        self.refused(&attaching("eth0", arguments), why)
    }

    /// Takes the program off.
    pub fn detach_xdp(&self, end: End) -> Result<()> {
        let argv = [PROGRAM, "xdp-detach", "--device", end.interface()];
        self.at(end, &argv, SHORT)?;
        let attached = self.xdp_program(end)?;
        ensure!(
            attached.is_none(),
            "the program was taken off, and ip shows number {attached:?}"
        );
        Ok(())
    }

    /// The number of the program that the driver of an end runs.
    pub fn xdp_program(&self, end: End) -> Result<Option<u64>> {
        let link = self.link(end)?;
        match &link["xdp"] {
            Value::Null => Ok(None),
            xdp => {
                ensure!(xdp["mode"] == 1, "the program is not the driver's: {xdp}");
                let id = xdp["prog"]["id"].as_u64();
                id.with_context(|| format!("ip shows no number in {xdp}"))
                    .map(Some)
            }
        }
    }

    /// What the interface of an end counts.
    pub fn xdp_counts(&self, end: End) -> Result<Counts> {
        self.statistics(end).map(|all| Counts::of(&all))
    }

    /// What an interface of the guest's own namespace counts.
    pub fn xdp_counts_of(&self, interface: &str) -> Result<Counts> {
        let text = self.run(&["ethtool", "-S", interface])?;
        ethtool::statistics(&text).map(|all| Counts::of(&all))
    }

    /// Sends a datagram of each length, some again if there is no answer; each must come back as it was sent. How
    /// many were sent.
    pub fn answered(&self, asking: Asking<'_>) -> Result<u64> {
        let report = self.ask(asking, &["--window", "16"])?;
        ensure!(
            report.answered == report.probes && report.corrupt.is_empty(),
            "{asking:?}: {} of {} answered, damaged at lengths {:?}, never answered at {:?}",
            report.answered,
            report.probes,
            report.corrupt,
            report.lost
        );
        Ok((report.probes + report.repeated.len()) as u64)
    }

    /// Sends a datagram of each length once; none must come back. How many were sent.
    pub fn unanswered(&self, asking: Asking<'_>) -> Result<u64> {
        let once = [
            "--window",
            "1000",
            "--attempts",
            "1",
            "--patience-ms",
            "1500",
        ];
        let report = self.ask(asking, &once)?;
        ensure!(
            report.lost.len() == report.probes && report.late == 0 && report.corrupt.is_empty(),
            "{asking:?}: {} of {} answered, and {} late",
            report.answered,
            report.probes,
            report.late
        );
        Ok(report.probes as u64)
    }

    fn ask(&self, asking: Asking<'_>, more: &[&str]) -> Result<sweep::Report> {
        let (to, port) = (format!("{}:{PORT}", asking.to), PORT.to_string());
        let mut argv = vec![PROGRAM, "udp-sweep", "--to", &to, "--port", &port];
        argv.extend(["--lengths", asking.lengths]);
        argv.extend(more);
        let outcome = self.try_at(asking.from, &argv, SHORT * 5)?;
        serde_json::from_str(&outcome.stdout)
            .with_context(|| format!("{}: {}", argv[1..].join(" "), outcome.stderr.trim()))
    }
}

fn attaching<'a>(interface: &'a str, arguments: &'a str) -> Vec<&'a str> {
    let mut argv = vec![PROGRAM, "xdp-attach", "--device", interface];
    argv.extend(arguments.split_whitespace());
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_queues() {
        let statistics: Vec<(String, u64)> = ethtool::statistic_names(2, 1)
            .into_iter()
            .zip(1..)
            .collect();
        let value = |name: &str| {
            let found = statistics.iter().find(|(known, _)| known == name);
            found.expect("is there").1
        };
        let counts = Counts::of(&statistics);
        let sum = |kind: &str| value(&kind.replace('#', "0")) + value(&kind.replace('#', "1"));
        assert_eq!(counts.drop, sum("rx_queue_#_xdp_drop"));
        assert_eq!(counts.redirect, sum("rx_queue_#_xdp_redirect"));
        assert_eq!(counts.tx, sum("rx_queue_#_xdp_tx"));
        assert_eq!(counts.xmit, sum("tx_queue_#_xdp_xmit"));
        assert_eq!(counts.since(counts), Counts::default());
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Cells that change a NIC's configuration by a rebuild: how long no frame passes, and how long the command takes.

use std::fmt;

use anyhow::{ensure, Context, Result};

use super::cells::{settle, start_profile, FLOWS, FRAME_64};
use super::measure::{Measured, Quantity};
use super::network::Network;
use super::statistics::median;
use super::steal::StealWatch;
use super::Port;
use crate::guest::{End, SHORT};

/// Frames a second through the guest meanwhile: a gap is known to a millisecond.
const TRICKLE: u32 = 1000;

/// A change and the way back.
pub struct Reconfiguration {
    /// Longest gap when the NIC that receives is changed.
    receiving: &'static str,
    /// Longest gap when the NIC that transmits is changed.
    sending: &'static str,
    /// Duration of the command, if that is a cell.
    command: Option<&'static str>,
    /// The two commands, with `NIC` and `CHANNELS`, `HALF`, `SECTIONS` (what the NIC has at first) where those belong.
    commands: [&'static str; 2],
}

/// To half of the channels and back.
pub const CHANNELS: Reconfiguration = Reconfiguration {
    receiving: "channel-change-receive",
    sending: "channel-change-send",
    command: Some("channel-change-command"),
    commands: [
        "ethtool --set-channels NIC combined HALF",
        "ethtool --set-channels NIC combined CHANNELS",
    ],
};

/// To a smaller receive buffer and back.
pub const RINGS: Reconfiguration = Reconfiguration {
    receiving: "ring-change-receive",
    sending: "ring-change-send",
    command: None,
    commands: ["ethtool -G NIC rx 4096", "ethtool -G NIC rx SECTIONS"],
};

/// To a smaller MTU and back.
pub const MTU: Reconfiguration = Reconfiguration {
    receiving: "mtu-change-receive",
    sending: "mtu-change-send",
    command: None,
    commands: [
        "ip link set dev NIC mtu 1400",
        "ip link set dev NIC mtu 1500",
    ],
};

impl Reconfiguration {
    /// The longest time without a frame from the guest around either change, on the NIC that receives and on the
    /// one that transmits, and the median of what the commands took.
    pub fn measure(&self, network: &Network<'_>) -> Result<Vec<Measured>> {
        let host = &network.guest.host;
        network.forward(true)?;
        host.generate(Port::Generator.name(), FRAME_64, FLOWS, TRICKLE)?;
        settle(network, Port::Sink, |nic| nic.from_guest_packets)?;
        if network.profile.get() {
            start_profile(network)?;
        }
        let mut measured = Vec::new();
        let mut commands = Vec::new();
        for (name, port) in [
            (self.receiving, Port::Generator),
            (self.sending, Port::Sink),
        ] {
            let mut longest = 0.0_f64;
            let shown = network.run(&["ethtool", "-g", port.name()])?;
            let sections = crate::ethtool::rings(&shown)?.current.rx;
            for command in self.commands {
                let command = on(network, command, port, sections);
                let change = change(network, &command)?;
                if network.profile.get() {
                    println!("{command}: {change}");
                }
                longest = longest.max(change.gap_us);
                commands.push(change.command_us);
            }
            measured.push(Measured::cost(name, Quantity::Microseconds, longest));
        }
        host.stop_generating(Port::Generator.name())?;
        network.forward(false)?;
        if let Some(name) = self.command {
            let time = median(&commands).context("nothing was changed")?;
            measured.push(Measured::cost(name, Quantity::Microseconds, time));
        }
        Ok(measured)
    }
}

/// `command` for one NIC of this machine, which has so many receive sections.
fn on(network: &Network<'_>, command: &str, port: Port, sections: u32) -> String {
    let most = network.guest.machine.most_channels();
    command
        .replace("NIC", port.name())
        .replace("HALF", &(most / 2).to_string())
        .replace("CHANNELS", &most.to_string())
        .replace("SECTIONS", &sections.to_string())
}

/// What a change took, in microseconds.
struct Change {
    gap_us: f64,
    command_us: f64,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gap, command) = (self.gap_us / 1000.0, self.command_us / 1000.0);
        write!(f, "no frame for {gap:.0} ms, command {command:.0} ms")
    }
}

fn change(network: &Network<'_>, command: &str) -> Result<Change> {
    let host = &network.guest.host;
    host.restart_gap(Port::Sink.name())?;
    let argv: Vec<&str> = command.split(' ').collect();
    let watch = StealWatch::start(network.bench)?;
    let outcome = network.guest.try_at(End::Near, &argv, SHORT * 2)?;
    let steal = watch.steal()?;
    ensure!(
        outcome.success(),
        "'{command}' failed: {}",
        outcome.stderr.trim()
    );
    settle(network, Port::Sink, |nic| nic.from_guest_packets)
        .with_context(|| format!("after '{command}'"))?;
    let counters = host.counters()?;
    let sink = &counters.0["nics"][Port::Sink.name()]["counters"]["backend"]["counters"];
    let gap = sink["longest_gap_us"]
        .as_f64()
        .context("the host gives no longest_gap_us")?;
    Ok(Change {
        gap_us: gap * steal.clock,
        command_us: outcome.elapsed_ms as f64 * 1000.0 * steal.clock,
    })
}

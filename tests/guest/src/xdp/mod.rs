// SPDX-License-Identifier: GPL-2.0

//! XDP programs for scenarios, without a compiler in the guest:
//! * `assembly`: text to instructions;
//! * `program`: what programs there are, as text;
//! * `load`: the way of a program into the kernel;
//! * `link`: attached to an interface, and off it again.
//!
//! A program is attached by netlink, so it stays when the command that attached it has ended, and goes with its
//! interface.

mod assembly;
mod link;
mod load;
mod program;

use anyhow::{ensure, Context, Result};
use clap::{Args, ValueEnum};

use program::{Action, Addresses, Match, Program};

/// What `xdp-attach` is told.
#[derive(Args, Clone, Debug)]
pub struct Attach {
    /// Interface.
    #[arg(long)]
    device: String,
    /// What becomes of a frame that matches; others pass.
    #[arg(long)]
    action: Verdict,
    /// Only UDP datagrams over IPv4 to this port match.
    #[arg(long, conflicts_with = "ping")]
    udp_port: Option<u16>,
    /// Only echo requests over IPv4 match.
    #[arg(long)]
    ping: bool,
    /// Where to redirect to.
    #[arg(long, required_if_eq("action", "redirect"))]
    to: Option<String>,
    /// Source address that a redirected frame gets.
    #[arg(long, requires = "destination", value_parser = parse_mac)]
    source: Option<[u8; 6]>,
    /// Destination address that a redirected frame gets.
    #[arg(long, requires = "source", value_parser = parse_mac)]
    destination: Option<[u8; 6]>,
    /// Bytes that a matching frame grows by at its end, or shrinks by if negative.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    tail: i32,
    /// VLAN whose tag a matching frame gets in front of its type.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..4095))]
    push_vlan: Option<u16>,
    /// The program takes frames in several pieces.
    #[arg(long)]
    fragments: bool,
    /// Run it in the stack instead of the driver.
    #[arg(long)]
    generic: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    /// XDP_ABORTED.
    Aborted,
    /// XDP_DROP.
    Drop,
    /// XDP_PASS.
    Pass,
    /// XDP_TX; addresses are exchanged, and of a UDP datagram the ports.
    Tx,
    /// XDP_REDIRECT.
    Redirect,
    /// A number that is no action.
    Invalid,
}

/// What `xdp-detach` is told.
#[derive(Args, Clone, Debug)]
pub struct Detach {
    /// Interface.
    #[arg(long)]
    device: String,
    /// The program runs in the stack instead of the driver.
    #[arg(long)]
    generic: bool,
}

/// Assembles, loads and attaches the program, in place of one that is attached already.
pub fn attach(arguments: &Attach) -> Result<()> {
    let instructions = assembly::assemble(&program(arguments)?.text(program::KERNEL))
        .context("assembling the program")?;
    let program = load::load(&instructions, arguments.fragments).context("loading the program")?;
    let device = &arguments.device;
    link::set_program(
        index(device)?,
        Some(std::os::fd::AsFd::as_fd(&program)),
        mode(arguments.generic),
    )
    .with_context(|| format!("cannot attach the program to '{device}'"))
}

/// Takes the program off an interface; that there is none is no error.
pub fn detach(arguments: &Detach) -> Result<()> {
    let device = &arguments.device;
    link::set_program(index(device)?, None, mode(arguments.generic))
        .with_context(|| format!("cannot take the program off '{device}'"))
}

/// The numbers of all programs that the kernel holds.
pub fn loaded() -> Result<Vec<u32>> {
    load::loaded().context("listing programs")
}

fn mode(generic: bool) -> link::Mode {
    if generic {
        link::Mode::Generic
    } else {
        link::Mode::Driver
    }
}

fn program(arguments: &Attach) -> Result<Program> {
    let matching = match (arguments.udp_port, arguments.ping) {
        (Some(port), _) => Match::UdpPort(port),
        (None, true) => Match::Ping,
        (None, false) => Match::All,
    };
    let action = match (arguments.action, &arguments.to) {
        (Verdict::Aborted, _) => Action::Aborted,
        (Verdict::Drop, _) => Action::Drop,
        (Verdict::Pass, _) => Action::Pass,
        (Verdict::Tx, _) => Action::Tx,
        (Verdict::Invalid, _) => Action::Invalid,
        (Verdict::Redirect, to) => Action::Redirect {
            interface: index(to.as_deref().context("--to is missing")?)?,
            addresses: arguments
                .source
                .zip(arguments.destination)
                .map(|(source, destination)| Addresses {
                    source,
                    destination,
                }),
        },
    };
    Ok(Program {
        matching,
        action,
        tail: arguments.tail,
        push_vlan: arguments.push_vlan,
    })
}

fn index(device: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(device).with_context(|| format!("no interface '{device}'"))
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("'{text}' is not like 00:15:5d:00:00:01"))?;
    ensure!(bytes.len() == 6, "'{text}' has not 6 bytes");
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes);
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_ip_prints_them() {
        assert_eq!(
            parse_mac("00:15:5d:00:0a:ff").expect("is one"),
            [0, 0x15, 0x5d, 0, 10, 255]
        );
        for wrong in [
            "",
            "00:15:5d:00:00",
            "00:15:5d:00:00:01:02",
            "00:15:5d:00:00:g1",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}

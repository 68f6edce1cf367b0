// SPDX-License-Identifier: GPL-2.0

//! Frames that a program sends out of another interface.
//!
//! `eth1` (namespace `peer`) – `eth0` = `eth2` – `eth3` (namespace `far`): the programs of `eth0` and `eth2` carry
//! datagrams between both ends, as a router does, and the guest's stack sees none of them.

use anyhow::{bail, Context, Result};

use super::echo::set_mtu;
use crate::agent::Job;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Driver, Machine, Scenario, Set};
use crate::traffic::until_listening;
use crate::xdp::{Asking, Counts, PORT};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "xdp-redirects-between-interfaces",
        about: "every length of datagram goes from one NIC to another and its answer back, in programs; all counted",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: redirects,
    },
    Scenario {
        name: "xdp-redirects-frames-of-9000-bytes",
        about: "the same with frames in several pieces",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("L5: its programs get one piece of at most a page"),
        run: large_frames,
    },
];

const MIDDLE_MAC: &str = "00:15:5d:00:00:03";
const FAR_MAC: &str = "00:15:5d:00:00:04";
const FAR: &str = "10.0.0.3";

/// Datagrams from one end of the chain to the other.
pub(super) const ACROSS: Asking<'static> = Asking {
    from: End::Peer,
    to: FAR,
    lengths: "0-1472",
};

/// The two further NICs.
pub(super) struct Chain<'a> {
    guest: &'a Guest,
    echo: Job,
}

const CONFIGURE: &str = r#"set -e
for path in /sys/class/net/*; do
    read -r mac <$path/address || continue
    case $mac in
    @MIDDLE@) middle=${path##*/} ;;
    @FAR@) far=${path##*/} ;;
    esac
done
ip netns add far
ip link set $far netns far name eth3
[ $middle = eth2 ] || ip link set $middle name eth2
echo 1 >/proc/sys/net/ipv6/conf/eth2/disable_ipv6
ip link set eth2 up
ip -n far -batch - <<END
link set lo up
address add 10.0.0.3/24 dev eth3
neighbour replace 10.0.0.2 lladdr @MIDDLE@ nud permanent dev eth3
link set eth3 up
END
ip -n peer neighbour replace 10.0.0.3 lladdr @NEAR@ nud permanent dev eth1
"#;

impl<'a> Chain<'a> {
    /// Adds the NICs and has datagrams answered at the far end.
    pub fn new(guest: &'a Guest) -> Result<Chain<'a>> {
        for (name, mac) in [("nic2", MIDDLE_MAC), ("nic3", FAR_MAC)] {
            let queues = guest.machine.queues;
            guest.host.add_nic(&format!(
                "name={name},mac={mac},queues={queues},backend=switch:behind"
            ))?;
        }
        guest.wait_until("two further interfaces", SHORT, || {
            let script = "cat /sys/class/net/*/address 2>/dev/null || true";
            let found = guest.shell(script, SHORT)?;
            Ok(found.contains(MIDDLE_MAC) && found.contains(FAR_MAC))
        })?;
        let script = CONFIGURE
            .replace("@MIDDLE@", MIDDLE_MAC)
            .replace("@FAR@", FAR_MAC)
            .replace("@NEAR@", End::Near.mac());
        guest.shell(&script, SHORT)?;
        guest.permit_xdp(End::Near)?;
        if guest.driver.get() == Driver::C {
            guest.run(&["ethtool", "--features", "eth2", "lro", "off"])?;
        }
        let listen = format!("0.0.0.0:{PORT}");
        let within = "ip netns exec far ";
        let command = format!("exec {within}/agent udp-echo --listen {listen}");
        let echo = guest.spawn_at(End::Near, &["sh", "-c", &command])?;
        guest.shell(&until_listening(within, PORT), SHORT)?;
        guest.wait_until("carrier of both", SHORT, || {
            let near = guest.run(&["cat", "/sys/class/net/eth2/carrier"])?;
            let far = guest.run(&["ip", "-n", "far", "link", "show", "dev", "eth3"])?;
            Ok(near.trim() == "1" && far.contains("LOWER_UP"))
        })?;
        Ok(Chain { guest, echo })
    }

    /// Attaches both programs, with further arguments.
    pub fn connect(&self, more: &str) -> Result<()> {
        let redirect = |to: &str, source: &str, destination: &str| {
            format!("--action redirect --udp-port {PORT} --to {to} --source {source} --destination {destination} {more}")
        };
        self.guest
            .attach_xdp(End::Near, &redirect("eth2", MIDDLE_MAC, FAR_MAC))?;
        let back = redirect("eth0", End::Near.mac(), End::Peer.mac());
        let mut argv = vec!["/agent", "xdp-attach", "--device", "eth2"];
        argv.extend(back.split_whitespace());
        self.guest.run(&argv).map(drop)
    }

    /// What `eth0` and `eth2` count.
    pub fn counts(&self) -> Result<[Counts; 2]> {
        Ok([
            self.guest.xdp_counts_of("eth0")?,
            self.guest.xdp_counts_of("eth2")?,
        ])
    }

    /// Sets the MTU of all four.
    fn set_mtu(&self, mtu: u32) -> Result<()> {
        set_mtu(self.guest, mtu)?;
        let script = format!("ip link set eth2 mtu {mtu}; ip -n far link set eth3 mtu {mtu}");
        self.guest.shell(&script, SHORT).map(drop)
    }

    /// Takes programs and NICs away.
    pub fn end(self) -> Result<()> {
        let guest = self.guest;
        guest.agent.kill(self.echo, 15)?;
        guest.ended(self.echo, SHORT)?;
        guest.detach_xdp(End::Near)?;
        guest.run(&["/agent", "xdp-detach", "--device", "eth2"])?;
        guest.forget_xdp(End::Near)?;
        guest.shell("ip -n peer neighbour del 10.0.0.3 dev eth1", SHORT)?;
        for nic in ["nic2", "nic3"] {
            guest.host.remove_nic(nic)?;
        }
        guest.wait_until("the host's end of both NICs", SHORT, || {
            guest.host.counters().map(|c| c.devices() == 2)
        })?;
        guest.run(&["ip", "netns", "del", "far"])?;
        guest.configure(guest.machine.most_channels())?;
        guest.bulk_each_way()
    }
}

fn redirects(guest: &Guest) -> Result<()> {
    let chain = Chain::new(guest)?;
    // Without programs nobody forwards.
    guest.unanswered(Asking {
        lengths: "100-110",
        ..ACROSS
    })?;
    chain.connect("")?;
    let before = chain.counts()?;
    let sent = guest.answered(ACROSS)?;
    guest.ping_both_ways()?;
    both_counted(&chain, before, sent).context("all lengths")?;

    // An interface that is down takes nothing; the frames are dropped, and are counted so.
    guest.run(&["ip", "link", "set", "eth2", "down"])?;
    guest.unanswered(Asking {
        lengths: "100-130",
        ..ACROSS
    })?;
    guest.ping_both_ways()?;
    guest.run(&["ip", "link", "set", "eth2", "up"])?;
    guest.wait_until("carrier of eth2", SHORT, || {
        let carrier = guest.run(&["cat", "/sys/class/net/eth2/carrier"])?;
        Ok(carrier.trim() == "1")
    })?;
    let before = chain.counts()?;
    let sent = guest.answered(Asking {
        lengths: "0-64",
        ..ACROSS
    })?;
    both_counted(&chain, before, sent).context("after down and up")?;
    chain.end()
}

/// Each of `sent` datagrams and each answer was redirected once.
fn both_counted(chain: &Chain<'_>, before: [Counts; 2], sent: u64) -> Result<()> {
    let now = chain.counts()?;
    let expected = Counts {
        redirect: sent,
        xmit: sent,
        ..Counts::default()
    };
    let counts = [now[0].since(before[0]), now[1].since(before[1])];
    if counts != [expected; 2] {
        let script = "for nic in eth0 eth2; do ethtool -S $nic | grep -v ': 0$'; ip -s link show dev $nic; done; \
            ip -n far -s link show dev eth3; ip netns exec far cat /proc/net/snmp";
        let shown = chain.guest.run(&["sh", "-c", script])?;
        bail!("{sent} datagrams were sent; eth0 and eth2 have counted {counts:?}\n{shown}");
    }
    Ok(())
}

fn large_frames(guest: &Guest) -> Result<()> {
    let chain = Chain::new(guest)?;
    chain.set_mtu(9000)?;
    chain.connect("--fragments")?;
    let before = chain.counts()?;
    let sent = guest.answered(Asking {
        lengths: "0-16,1472,3440-3560,3780-3840,4000-4110,7500-7640,8000-8210,8900-8972",
        ..ACROSS
    })?;
    both_counted(&chain, before, sent)?;
    guest.ping_both_ways()?;
    guest.detach_xdp(End::Near)?;
    guest.run(&["/agent", "xdp-detach", "--device", "eth2"])?;
    chain.set_mtu(1500)?;
    chain.end()
}

// SPDX-License-Identifier: GPL-2.0

//! A program stays in force whatever is rebuilt below it: it may be what keeps attackers out.

use anyhow::{ensure, Context, Result};

use crate::agent::Job;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Driver, Machine, Scenario, Set};
use crate::xdp::{MOST_MTU, PORT};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "xdp-program-survives-rebuilds",
    about: "a filter under a stream of datagrams: channels, rings, MTU, down and up; nothing comes through, all else does",
    set: Set::Full,
    machine: Machine::COMMON,
    c_defect: None,
    run: survives,
}];

fn survives(guest: &Guest) -> Result<()> {
    guest.permit_xdp(End::Near)?;
    guest.attach_xdp(End::Near, &format!("--action drop --udp-port {PORT}"))?;
    let program = guest.xdp_program(End::Near)?;
    let before = received(guest)?;
    let stream = Stream::start(guest)?;
    for step in steps(guest)? {
        step.take(guest).with_context(|| format!("{step:?}"))?;
        in_force(guest).with_context(|| format!("after {step:?}"))?;
    }
    let now = guest.xdp_program(End::Near)?;
    ensure!(now == program, "program {program:?} has become {now:?}");
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways()?;
    let through = received(guest)? - before;
    // The C driver takes the program off before it stops receiving.
    ensure!(
        through == 0 || guest.driver.get() == Driver::C,
        "{through} datagrams came through the filter"
    );

    // Without the filter they do, or nothing was shown.
    guest.detach_xdp(End::Near)?;
    guest.wait_until("datagrams without the filter", SHORT, || {
        Ok(received(guest)? > before + through)
    })?;
    stream.end()?;
    guest.forget_xdp(End::Near)?;
    guest.bulk_each_way()
}

/// What an administrator does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Channels(u32),
    Rings(u32, u32),
    Mtu(u32),
    DownAndUp,
}

fn steps(guest: &Guest) -> Result<Vec<Step>> {
    let most = guest.machine.most_channels();
    let rings = guest.rings(End::Near)?.current;
    Ok(vec![
        Step::Channels(1),
        Step::Rings(rings.rx / 2, rings.tx / 2),
        Step::DownAndUp,
        Step::Mtu(2000),
        Step::Channels(most),
        Step::Mtu(MOST_MTU),
        Step::Mtu(1500),
        Step::Rings(rings.rx, rings.tx),
    ])
}

impl Step {
    fn take(self, guest: &Guest) -> Result<()> {
        match self {
            Step::Channels(count) => guest.set_channels(count, SHORT),
            Step::Rings(rx, tx) => {
                let script = format!("ethtool --set-ring eth0 rx {rx} tx {tx}");
                guest.shell(&script, SHORT).map(drop)
            }
            Step::Mtu(mtu) => {
                let script = format!("ip link set eth0 mtu {mtu}");
                guest.shell(&script, SHORT).map(drop)
            }
            Step::DownAndUp => {
                let script = "ip link set eth0 down; ip link set eth0 up";
                guest.shell(script, SHORT).map(drop)
            }
        }
    }
}

/// The program drops datagrams.
fn in_force(guest: &Guest) -> Result<()> {
    let first = guest.xdp_counts(End::Near)?.drop;
    guest.wait_until("dropped datagrams", SHORT, || {
        Ok(guest.xdp_counts(End::Near)?.drop > first)
    })
}

/// Datagrams that the stack of `eth0`'s namespace was given; nobody listens.
fn received(guest: &Guest) -> Result<u64> {
    let script = r#"while read -r a b c d e; do [ "$a" = Udp: ] && sum=$b+$c; done </proc/net/snmp; echo $(($sum))"#;
    let text = guest.run(&["sh", "-c", script])?;
    text.trim()
        .parse()
        .with_context(|| format!("received datagrams: {text:?}"))
}

/// A stream of datagrams from the peer to `eth0` that nothing stops.
struct Stream<'a> {
    guest: &'a Guest,
    generator: Job,
}

impl<'a> Stream<'a> {
    fn start(guest: &'a Guest) -> Result<Stream<'a>> {
        let (interface, address, mac) = (End::Peer.interface(), End::Near.v4(), End::Near.mac());
        // One each two milliseconds: enough that none of many would go astray unseen, and time for the rest.
        let script = format!(
            "modprobe pktgen
cd /proc/net/pktgen
echo rem_device_all >kpktgend_0
echo add_device {interface} >kpktgend_0
for word in 'count 0' 'pkt_size 100' 'delay 2000000' 'dst {address}' 'dst_mac {mac}' \
    'udp_dst_min {PORT}' 'udp_dst_max {PORT}'; do
    echo \"$word\" >{interface}
done
echo start >pgctrl"
        );
        let generator = guest.spawn_at(End::Peer, &["sh", "-ec", &script])?;
        Ok(Stream { guest, generator })
    }

    fn end(self) -> Result<()> {
        let script = "echo stop >/proc/net/pktgen/pgctrl";
        self.guest.at(End::Peer, &["sh", "-c", script], SHORT)?;
        let outcome = self.guest.ended(self.generator, SHORT)?;
        ensure!(outcome.success(), "pktgen: {}", outcome.stderr.trim());
        let script = "echo rem_device_all >/proc/net/pktgen/kpktgend_0";
        self.guest
            .at(End::Peer, &["sh", "-c", script], SHORT)
            .map(drop)
    }
}

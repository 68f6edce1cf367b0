// SPDX-License-Identifier: GPL-2.0

//! Receive segment coalescing (LRO): delivered, forwarded, switched off, and sent wrongly.

use anyhow::{bail, ensure, Result};
use guest_agent::tcp;

use crate::guest::{End, Guest, SHORT};
use crate::packets::{message, udp4, with_word, Piece};
use crate::scenario::{Driver, Machine, Scenario, Set};
use crate::traffic::{until_listening, Bulk, Family};

const MIB: u64 = 1 << 20;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "coalesced-segments-arrive-as-sent",
        about: "large TCP frames in several pieces, IPv4 and IPv6; none after 'ethtool -K lro off'",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: delivered,
    },
    Scenario {
        name: "coalesced-segments-are-forwarded",
        about: "the guest routes between two NICs, with LRO off as the kernel turns it and on again",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("L3: coalesced frames carry no segment size, so they cannot be sent on"),
        run: forwarded,
    },
    Scenario {
        name: "wrong-messages-of-the-host-are-counted",
        about: "pieces without start or end, messages cut short, records of size 0: refused, and no other frame lost",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("weakness 1 of 8.2: loops for ever over a per-packet record of size 0"),
        run: wrong_messages,
    },
    Scenario {
        name: "wrong-checksums-are-counted",
        about: "the host verifies and says so: a datagram with a wrong checksum is dropped and counted",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: wrong_checksums,
    },
];

fn bulk(guest: &Guest, from: End, family: Family) -> Result<()> {
    guest
        .bulk(Bulk {
            from,
            family,
            connections: 2,
            bytes: 2 * MIB,
        })
        .map(drop)
}

/// Frames that the host handed to the near end in pieces.
fn coalesced(guest: &Guest) -> Result<u64> {
    guest.host.counters()?.count(End::Near, "rx_coalesced")
}

fn set_lro(guest: &Guest, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    guest
        .run(&["ethtool", "-K", "eth0", "lro", state])
        .map(drop)
}

fn delivered(guest: &Guest) -> Result<()> {
    // The kernel switches LRO off below a VLAN interface, and leaves it off when that has gone.
    set_lro(guest, true)?;
    for family in [Family::V4, Family::V6] {
        let before = coalesced(guest)?;
        bulk(guest, End::Peer, family)?;
        let frames = coalesced(guest)? - before;
        ensure!(
            frames > 10,
            "the host coalesced {frames} frames only ({family:?}), told {:?}",
            guest.host.counters()?.offloads(End::Near)?
        );
    }
    if guest.driver.get() == Driver::Rust {
        let packets = guest.statistic(End::Near, "rx_lro_packets")?;
        let pieces = guest.statistic(End::Near, "rx_lro_pieces")?;
        ensure!(
            pieces > packets && packets > 20,
            "{packets} packets of {pieces} pieces"
        );
    }
    set_lro(guest, false)?;
    let before = coalesced(guest)?;
    let moved = bulk(guest, End::Peer, Family::V4);
    let frames = coalesced(guest)? - before;
    set_lro(guest, true)?;
    moved?;
    ensure!(
        frames == 0,
        "LRO is off, and the host coalesced {frames} frames"
    );
    let before = coalesced(guest)?;
    bulk(guest, End::Peer, Family::V4)?;
    ensure!(
        coalesced(guest)? > before,
        "LRO is on again, and the host coalesces nothing"
    );
    Ok(())
}

/// A second wire: eth2 in the guest's own namespace, eth3 in the namespace `far`.
const SECOND_WIRE: &str = r#"
for mac in 03 04; do
    for try in $(seq 100); do
        name=$(ip -o link | sed -n "s/^[0-9]*: \([^:]*\):.*00:15:5d:00:00:$mac.*/\1/p")
        [ -n "$name" ] && break
        sleep 0.1
    done
    case $mac in
    03) ip link set "$name" down; ip link set "$name" name wire2 ;;
    04) ip netns add far; ip link set "$name" netns far name wire3 ;;
    esac
done
ip address add 10.0.1.1/24 dev wire2
ip link set wire2 up
ip -n far address add 10.0.1.2/24 dev wire3
ip -n far link set lo up
ip -n far link set wire3 up
ip -n far route add default via 10.0.1.1
ip -n peer route add 10.0.1.0/24 via 10.0.0.1
sysctl -qw net.ipv4.ip_forward=1
"#;

const NO_SECOND_WIRE: &str = "sysctl -qw net.ipv4.ip_forward=0
ip netns del far 2>/dev/null || true
ip -n peer route del 10.0.1.0/24 2>/dev/null || true
ethtool -K eth0 lro on";

fn forwarded(guest: &Guest) -> Result<()> {
    for (name, mac) in [("wire2", "03"), ("wire3", "04")] {
        let nic = format!("mac=00:15:5d:00:00:{mac},name={name},queues=2,backend=switch:second");
        guest.host.add_nic(&nic)?;
    }
    let result = guest
        .shell(SECOND_WIRE, SHORT * 2)
        .and_then(|_| forward(guest));
    let undone = guest.shell(NO_SECOND_WIRE, SHORT);
    for name in ["wire3", "wire2"] {
        guest.host.remove_nic(name)?;
    }
    result?;
    undone.map(drop)
}

fn forward(guest: &Guest) -> Result<()> {
    let features = guest.run(&["ethtool", "-k", "eth0"])?;
    ensure!(
        features.contains("large-receive-offload: off"),
        "forwarding was turned on, and LRO is still on"
    );
    let before = coalesced(guest)?;
    route(guest)?;
    ensure!(
        coalesced(guest)? == before,
        "LRO is off, and the host coalesces"
    );
    set_lro(guest, true)?;
    route(guest)?;
    let frames = coalesced(guest)? - before;
    ensure!(frames > 5, "the host coalesced {frames} frames only");
    Ok(())
}

/// Sends 4 MiB from the namespace `peer` through the guest to the namespace `far`, and verifies them.
fn route(guest: &Guest) -> Result<()> {
    let listening = until_listening("ip netns exec far ", 5009);
    let script = format!(
        "ip netns exec far /agent tcp-receive --listen 10.0.1.2:5009 --connections 2 --patience 60 >/tmp/routed &\n\
         {listening}\n\
         ip netns exec peer /agent tcp-send --to 10.0.1.2:5009 --connections 2 --bytes 2097152\n\
         wait\ncat /tmp/routed"
    );
    let printed = guest.shell(&script, SHORT)?;
    let reports: Vec<tcp::Report> = serde_json::Deserializer::from_str(&printed)
        .into_iter()
        .collect::<Result<_, _>>()?;
    let [sent, received] = &reports[..] else {
        bail!("not two reports: {printed}");
    };
    let whole = received
        .streams
        .iter()
        .all(|s| s.intact && s.bytes == 2 * MIB);
    ensure!(
        whole && sent.streams.len() == 2 && received.streams.len() == 2,
        "data was damaged: sent {sent:?}, received {received:?}"
    );
    Ok(())
}

/// What is wrong, RNDIS messages of one packet that no driver may take, and by how much the statistics of
/// malformed and of badly coalesced frames rise.
type Wrong = (&'static str, Vec<Vec<u8>>, [u64; 2]);

fn wrong(frame: &[u8]) -> Vec<Wrong> {
    let (start, end) = frame.split_at(40);
    let plain = || message(frame, None);
    let piece = |data: &[u8], which| message(data, Some(which));
    let mut many = vec![piece(start, Piece::First)];
    many.extend((0..562).map(|_| piece(&[0], Piece::Middle)));
    vec![
        (
            "a last piece without a first",
            vec![piece(end, Piece::Last)],
            [1, 1],
        ),
        (
            "a first piece without a last",
            vec![piece(start, Piece::First)],
            [1, 1],
        ),
        (
            "a whole frame between two pieces",
            vec![piece(start, Piece::First), plain(), piece(end, Piece::Last)],
            [2, 2],
        ),
        ("563 pieces", many, [1, 1]),
        (
            "a message longer than its range",
            vec![with_word(plain(), 4, 5000)],
            [1, 0],
        ),
        (
            "a message shorter than its header",
            vec![with_word(plain(), 4, 7)],
            [1, 0],
        ),
        (
            "data beyond the message",
            vec![with_word(plain(), 12, 5000)],
            [1, 0],
        ),
        (
            "data over the header",
            vec![with_word(plain(), 8, 4)],
            [1, 0],
        ),
        (
            "a record of size 0",
            vec![with_word(piece(frame, Piece::First), 44, 0)],
            [1, 0],
        ),
        (
            "a frame of 13 bytes",
            vec![message(&frame[..13], None)],
            [1, 0],
        ),
    ]
}

fn wrong_messages(guest: &Guest) -> Result<()> {
    let frame = udp4(End::Near, 9, &[0x55; 100]);
    let counts = || -> Result<[u64; 2]> {
        let all = guest.statistics(End::Near)?;
        let one = |name| {
            let found = all.iter().find(|(known, _)| known == name);
            found.map_or(0, |(_, value)| *value)
        };
        Ok([one("rx_bad_packet"), one("rx_lro_bad")])
    };
    let mut before = counts()?;
    for (what, messages, more) in wrong(&frame) {
        let failed = guest.host.counters()?.rx_completions_failed(End::Near)?;
        guest.host.inject_messages(End::Near, &messages)?;
        guest.wait_until("a failure status", SHORT, || {
            Ok(guest.host.counters()?.rx_completions_failed(End::Near)? == failed + 1)
        })?;
        let after = counts()?;
        ensure!(
            after == [before[0] + more[0], before[1] + more[1]],
            "{what}: counters went from {before:?} to {after:?}"
        );
        before = after;
    }
    guest.ping_both_ways()
}

/// A counter of the guest's UDP, such as `InCsumErrors`.
fn udp_counter(guest: &Guest, name: &str) -> Result<u64> {
    let script = format!(
        "awk '$1 == \"Udp:\" {{ if (!n) {{ for (i = 2; i <= NF; i++) if ($i == \"{name}\") n = i }} \
         else {{ print $n; exit }} }}' /proc/net/snmp"
    );
    Ok(guest.shell(&script, SHORT)?.trim().parse()?)
}

fn wrong_checksums(guest: &Guest) -> Result<()> {
    let right = udp4(End::Near, 9, b"as it was sent");
    let mut wrong = right.clone();
    if let Some(last) = wrong.last_mut() {
        *last ^= 1;
    }
    let (errors, unwanted) = ("InCsumErrors", "NoPorts");
    let before = (udp_counter(guest, errors)?, udp_counter(guest, unwanted)?);
    for _ in 0..3 {
        guest.host.inject_frame(End::Near, &wrong)?;
    }
    guest.host.inject_frame(End::Near, &right)?;
    guest.wait_until("the datagram that is right", SHORT, || {
        Ok(udp_counter(guest, unwanted)? > before.1)
    })?;
    let after = (udp_counter(guest, errors)?, udp_counter(guest, unwanted)?);
    ensure!(
        after == (before.0 + 3, before.1 + 1),
        "wrong and right datagrams went from {before:?} to {after:?}, 3 and 1 were sent"
    );
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! NICs that come and go while others carry traffic.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::bench::nic_specification;
use crate::guest::{End, Guest, SHORT};
use crate::packets::udp4;
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "nic-is-removed-and-added-under-traffic",
        about:
            "the peer NIC is pulled while it carries data, three times, and works when it is back",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some("Q22: now and then it waits for the host for ever, RTNL held, when a busy NIC is taken away"),
        run: remove_and_add,
    },
    Scenario {
        name: "third-nic-comes-and-goes-while-two-work",
        about: "adding and removing a NIC does not disturb the others",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("Q22: its removal of a NIC can wait for ever, with RTNL held"),
        run: third,
    },
    Scenario {
        name: "lost-sub-channel-is-replaced",
        about: "the host takes one sub-channel away: its flows go on over a new one",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some("L14: the flows of a lost sub-channel go nowhere until the user intervenes"),
        run: lost_channel,
    },
    Scenario {
        name: "lost-sub-channel-that-only-receives-is-noticed",
        about: "nothing is sent on a sub-channel that the host takes away: its frames come again within seconds",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some("L14: the flows of a lost sub-channel go nowhere until the user intervenes"),
        run: lost_receiver,
    },
];

/// Prints the addresses of all interfaces; one that goes away meanwhile is left out.
const ADDRESSES: &str = "cat /sys/class/net/*/address 2>/dev/null || true";

fn remove_and_add(guest: &Guest) -> Result<()> {
    for _ in 0..3 {
        // A flood of small packets in both directions, on the NIC that goes.
        let flood = guest.spawn_at(End::Near, &["ping", "-f", "-q", "-w", "60", End::Peer.v4()])?;
        replace_peer(guest)?;
        guest.agent.kill(flood, 2)?;
        guest.ended(flood, SHORT)?;
    }
    Ok(())
}

/// Takes the peer's NIC away, sees that the host is left clean, and gives it back, configured.
pub fn replace_peer(guest: &Guest) -> Result<()> {
    guest.host.remove_nic(End::Peer.nic())?;
    guest.wait_until("end of the peer interface", SHORT, || {
        let argv = ["ip", "link", "show", "dev", End::Peer.interface()];
        Ok(!guest.try_at(End::Peer, &argv, SHORT)?.success())
    })?;
    guest.wait_until("the host's end of the NIC", SHORT, || {
        guest.host.counters().map(|c| c.devices() == 1)
    })?;
    let counters = guest.host.counters()?;
    let open = counters.open_channels(End::Near)?;
    ensure!(
        counters.all_open_channels() == open,
        "{} channels are open at the host, {open} of them belong to eth0",
        counters.all_open_channels()
    );
    guest
        .host
        .add_nic(&nic_specification(End::Peer, guest.machine))?;
    guest.wait_until("the new interface", SHORT, || {
        let found = guest.shell(ADDRESSES, SHORT)?;
        Ok(found.contains(End::Peer.mac()))
    })?;
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways()
}

fn third(guest: &Guest) -> Result<()> {
    const MAC: &str = "00:15:5d:00:00:03";
    let traffic = guest.background(End::Near, 2)?;
    for _ in 0..5 {
        guest
            .host
            .add_nic(&format!("name=nic2,mac={MAC},queues=4,backend=null"))?;
        guest.wait_until("the third interface", SHORT, || {
            let found = guest.shell(ADDRESSES, SHORT)?;
            Ok(found.contains(MAC))
        })?;
        guest.host.remove_nic("nic2")?;
        guest.wait_until("end of the third interface", SHORT, || {
            let found = guest.shell(ADDRESSES, SHORT)?;
            Ok(!found.contains(MAC))
        })?;
        guest.wait_until("the host's end of the NIC", SHORT, || {
            guest.host.counters().map(|c| c.devices() == 2)
        })?;
        traffic.still_runs()?;
    }
    traffic.finish()?;
    Ok(())
}

/// The channel that the host takes away in [`lost_receiver`].
const RECEIVER: u32 = 2;
/// Where the last byte of the destination lies in a frame with an IPv4 header.
const DESTINATION_END: usize = 33;

fn lost_receiver(guest: &Guest) -> Result<()> {
    // All frames come on one channel, and no answer to them is sent.
    guest.run(&["ethtool", "--rxfh", "eth0", "weight", "0", "0", "1"])?;
    let result = lose_receiver(guest);
    guest.run(&["ethtool", "--rxfh", "eth0", "default"])?;
    result?;
    guest.ping_both_ways()
}

fn lose_receiver(guest: &Guest) -> Result<()> {
    // For another station's address: nobody answers.
    let mut frame = udp4(End::Near, 9, b"not for you");
    frame[DESTINATION_END] = 99;
    let arrives = || -> Result<bool> {
        let count = || guest.statistic(End::Near, &format!("rx_queue_{RECEIVER}_packets"));
        let before = count()?;
        for _ in 0..10 {
            guest.host.inject_frame(End::Near, &frame)?;
        }
        Ok(count()? >= before + 10)
    };
    guest.wait_until("frames on the channel", SHORT, arrives)?;
    let sent = |counters: &crate::host::Counters| counters.channel(End::Near, RECEIVER);
    let before = guest.host.counters()?;
    guest.forget_kernel_log()?;
    guest.host.rescind(End::Near.nic(), RECEIVER)?;
    let began = Instant::now();
    let mut last = sent(&before)?.to_host;
    guest.wait_until("a new attach", SHORT, || {
        let counters = guest.host.counters()?;
        let attached = counters.attaches(End::Near)? > before.attaches(End::Near)?;
        if !attached {
            last = sent(&counters).map_or(last, |packets| packets.to_host);
        }
        Ok(attached)
    })?;
    let took = began.elapsed();
    let limit = guest.agent.patient(NOTICED);
    ensure!(
        took < limit,
        "noticed after {took:.1?}, not within {limit:.0?}"
    );
    let unsent = sent(&before)?.to_host;
    ensure!(
        last == unsent,
        "{} frames were sent on the channel",
        last - unsent
    );
    guest.wait_until("frames on the channel again", SHORT, arrives)?;
    let said = guest.kernel_messages("eth0.*took a channel away")?;
    ensure!(said.len() == 1, "the kernel log says: {said:?}");
    Ok(())
}

/// Time to notice a loss without a send: two looks, the rebuild's delay, and the rebuild.
const NOTICED: Duration = Duration::from_secs(10);

fn lost_channel(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    guest.forget_kernel_log()?;
    // The loss shows when something is sent: as many flows as leave no channel of four without one.
    let traffic = guest.background(End::Near, 40)?;
    guest.host.rescind(End::Near.nic(), 2)?;
    guest.wait_until("a new attach", SHORT, || {
        Ok(guest.host.counters()?.attaches(End::Near)? > attaches)
    })?;
    guest.wait_until("all channels", SHORT, || {
        Ok(guest.host.counters()?.open_channels(End::Near)? == u64::from(most))
    })?;
    traffic.finish()?;
    let said = guest.kernel_messages("eth0.*took a channel away")?;
    ensure!(
        said.len() == 1,
        "one channel was lost, and the kernel log says: {said:?}"
    );
    guest.ping_both_ways()
}

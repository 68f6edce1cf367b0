// SPDX-License-Identifier: GPL-2.0

//! What goes with a program and what does not, and that the user is told why.

use anyhow::{ensure, Context, Result};

use super::echo::set_mtu;
use crate::ethtool;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Driver, Machine, Scenario, Set};
use crate::traffic::Family;
use crate::xdp::{Asking, Counts, MOST_MTU, PORT};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "xdp-says-why-it-refuses",
        about: "a large MTU, LRO: refused with a reason, or switched off and on again",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: refusals,
    },
    Scenario {
        name: "xdp-program-leaves-no-reference-behind",
        about: "replaced, taken off, its device rebuilt, unbound or gone with the module: the kernel has freed it",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: references,
    },
    Scenario {
        name: "xdp-takes-frames-of-9000-bytes",
        about: "a program that takes fragments at MTU 9000: pass and tx of every kind of length, payloads verified",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("L5: its programs get one piece of at most a page"),
        run: fragments,
    },
];

fn refusals(guest: &Guest) -> Result<()> {
    guest.permit_xdp(End::Near)?;
    // What a host's switch can hold back differs, but not what a page can.
    for (mtu, fits) in [(MOST_MTU, true), (MOST_MTU + 1, false), (9000, false)] {
        set_mtu(guest, mtu)?;
        if fits {
            guest.attach_xdp(End::Near, "--action pass")?;
            guest.detach_xdp(End::Near)?;
        } else {
            let why = match guest.driver.get() {
                Driver::Rust => "MTU above 3506: lower it",
                Driver::C => "mtu too large",
            };
            guest.xdp_refused("--action pass", why)?;
            ensure!(
                guest.xdp_program(End::Near)?.is_none(),
                "a refused program is there"
            );
        }
    }
    set_mtu(guest, 1500)?;
    guest.forget_xdp(End::Near)?;
    match guest.driver.get() {
        // It has no way to bring both together.
        Driver::C => guest.xdp_refused("--action pass", "not support LRO")?,
        Driver::Rust => {
            coalescing(guest)?;
            larger_mtu(guest)?;
        }
    }
    guest.configure(guest.machine.most_channels())?;
    guest.bulk_each_way()
}

fn lro(guest: &Guest) -> Result<String> {
    let text = guest.run(&["ethtool", "--show-features", "eth0"])?;
    ethtool::field(&text, "large-receive-offload")
        .map(str::to_owned)
        .with_context(|| format!("no LRO in {text}"))
}

fn lro_is(guest: &Guest, expected: &str) -> Result<()> {
    let shown = lro(guest)?;
    ensure!(
        shown == expected,
        "LRO is shown as '{shown}', not '{expected}'"
    );
    Ok(())
}

/// Frames that the host has put together are not for a program: LRO makes way for it, and comes back.
fn coalescing(guest: &Guest) -> Result<()> {
    const SUSPENDED: &str = "off [requested on]";
    guest.run(&["ethtool", "--features", "eth0", "lro", "on"])?;
    lro_is(guest, "on")?;
    guest.attach_xdp(End::Near, "--action pass")?;
    lro_is(guest, SUSPENDED)?;
    guest.bulk_each_way()?;
    // It is wanted already, so ethtool has nothing to do, or says that it could not.
    guest.try_at(
        End::Near,
        &["ethtool", "--features", "eth0", "lro", "on"],
        SHORT,
    )?;
    lro_is(guest, SUSPENDED)?;
    guest.set_channels(2, SHORT)?;
    guest.set_channels(guest.machine.most_channels(), SHORT)?;
    lro_is(guest, SUSPENDED)?;
    guest.detach_xdp(End::Near)?;
    lro_is(guest, "on")?;

    // Who does not want it does not get it back.
    guest.run(&["ethtool", "--features", "eth0", "lro", "off"])?;
    guest.attach_xdp(End::Near, "--action pass")?;
    lro_is(guest, "off")?;
    guest.detach_xdp(End::Near)?;
    lro_is(guest, "off")?;
    guest.run(&["ethtool", "--features", "eth0", "lro", "on"])?;
    lro_is(guest, "on")
}

/// The program is there first: an MTU that does not go with it changes nothing.
fn larger_mtu(guest: &Guest) -> Result<()> {
    guest.attach_xdp(End::Near, "--action pass")?;
    let program = guest.xdp_program(End::Near)?;
    let traffic = guest.background(End::Peer, 2)?;
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    guest.forget_kernel_log()?;
    for mtu in [MOST_MTU + 1, 9000] {
        let mtu = mtu.to_string();
        let argv = ["ip", "link", "set", "eth0", "mtu", &mtu];
        guest.refused(&argv, "Operation not supported")?;
        let said = guest.kernel_messages(&format!("eth0: MTU {mtu} is above 3506"))?;
        ensure!(
            said.len() == 1,
            "of MTU {mtu} the kernel log says: {said:?}"
        );
    }
    let shown = guest.link(End::Near)?["mtu"].clone();
    let again = guest.host.counters()?.attaches(End::Near)?;
    ensure!(
        shown == 1500 && guest.xdp_program(End::Near)? == program && again == attaches,
        "a refused MTU has changed something: MTU {shown}, {} attaches",
        again - attaches
    );
    traffic.finish()?;
    guest.detach_xdp(End::Near)
}

/// Ways for a program to go.
#[derive(Clone, Copy, Debug)]
enum Way {
    Replaced,
    Rebuilt,
    Unbound,
    Unloaded,
}

fn references(guest: &Guest) -> Result<()> {
    let mut ways = vec![Way::Replaced, Way::Rebuilt];
    // The C driver has no device any more when the core wants to take the program off: the kernel warns, and the
    // program stays for ever.
    if guest.driver.get() == Driver::Rust {
        ways.extend([Way::Unbound, Way::Unloaded]);
    }
    for way in ways {
        guest.permit_xdp(End::Near)?;
        guest.attach_xdp(End::Near, "--action pass")?;
        let program = guest
            .xdp_program(End::Near)?
            .context("no program right after it was attached")?;
        ensure!(
            loaded(guest)?.contains(&program),
            "program {program} is attached, and the kernel does not list it"
        );
        end(guest, way).with_context(|| format!("{way:?}"))?;
        guest
            .wait_until("end of the program", SHORT, || {
                Ok(!loaded(guest)?.contains(&program))
            })
            .with_context(|| format!("{way:?}"))?;
    }
    guest.ping_both_ways()
}

/// Numbers of all programs in the kernel.
fn loaded(guest: &Guest) -> Result<Vec<u64>> {
    let text = guest.run(&["/agent", "bpf-programs"])?;
    serde_json::from_str(&text).with_context(|| format!("bpf-programs printed {text:?}"))
}

fn end(guest: &Guest, way: Way) -> Result<()> {
    let most = guest.machine.most_channels();
    match way {
        Way::Replaced => {
            guest.attach_xdp(End::Near, "--action drop --ping")?;
            guest.detach_xdp(End::Near)?;
            guest.forget_xdp(End::Near)
        }
        Way::Rebuilt => {
            for channels in [1, most, 2] {
                guest.set_channels(channels, SHORT)?;
            }
            guest.detach_xdp(End::Near)?;
            guest.set_channels(most, SHORT)?;
            guest.forget_xdp(End::Near)
        }
        Way::Unbound => {
            let script = "device=$(basename $(readlink /sys/class/net/eth0/device))
cd /sys/bus/vmbus/drivers/hv_netvsc
echo $device >unbind
echo $device >bind";
            guest.shell(script, SHORT)?;
            anew(guest)
        }
        Way::Unloaded => {
            guest.unload()?;
            guest.load()?;
            anew(guest)
        }
    }
}

/// The new interface has no program.
fn anew(guest: &Guest) -> Result<()> {
    guest.wait_until("eth0", SHORT, || {
        let found = guest.run(&["sh", "-c", "cat /sys/class/net/*/address"])?;
        Ok(found.contains(End::Near.mac()))
    })?;
    guest.configure(guest.machine.most_channels())?;
    let program = guest.xdp_program(End::Near)?;
    ensure!(program.is_none(), "a new interface has program {program:?}");
    guest.ping_both_ways()
}

/// Of a payload: around the ends of pages, whatever headers and headroom lie before it.
const LENGTHS: &str = "0-16,1460-1480,3440-3560,3780-3840,4000-4110,7500-7640,8000-8210,8900-8972";

fn fragments(guest: &Guest) -> Result<()> {
    set_mtu(guest, 9000)?;
    guest.attach_xdp(End::Near, "--action pass --fragments")?;
    let before = guest.xdp_counts(End::Near)?;
    guest.udp_sweep(End::Peer, Family::V4, LENGTHS, None)?;
    guest.bulk_each_way()?;
    let passed = guest.xdp_counts(End::Near)?.since(before);
    ensure!(
        passed == Counts::default(),
        "all frames passed, and eth0 has counted {passed:?}"
    );

    let asking = Asking {
        from: End::Peer,
        to: End::Near.v4(),
        lengths: LENGTHS,
    };
    let only = format!("--fragments --udp-port {PORT}");
    guest.attach_xdp(End::Near, &format!("--action tx {only}"))?;
    let before = guest.xdp_counts(End::Near)?;
    let tx = guest.answered(asking)?;
    guest.attach_xdp(End::Near, &format!("--action drop {only}"))?;
    let drop = guest.unanswered(asking)?;
    let counts = guest.xdp_counts(End::Near)?.since(before);
    let expected = Counts {
        tx,
        drop,
        ..Counts::default()
    };
    ensure!(
        counts == expected,
        "eth0 has counted {counts:?}, not {expected:?}"
    );
    guest.ping_both_ways()?;
    guest.detach_xdp(End::Near)?;
    set_mtu(guest, 1500)?;
    guest.configure(guest.machine.most_channels())
}

// SPDX-License-Identifier: GPL-2.0

//! XDP: which programs the interface takes, and the frames that programs send.
//!
//! A program stays with the interface whatever is rebuilt below it. Frames that it sends back, or that others redirect
//! here, go the way of all frames, past the queueing discipline.

use crate::device::Adapter;
use crate::net::{
    cpu, net_down, BpfProgram, Device, ExtAck, PollContext, Rtnl, SkbList, SoftIrq, TxQueueGuard,
    XdpFrames, LARGEST_FRAME,
};
use crate::queue::Queue;
use crate::stats::TxStats;
use kernel::prelude::*;

/// Bytes of an Ethernet header.
const ETHERNET_HEADER: u32 = 14;
/// Largest MTU with a program that cannot be given frames in several pieces: these fit a page.
const MAX_MTU: u32 = LARGEST_FRAME - ETHERNET_HEADER;

fn not_supported() -> Error {
    Error::from_errno(-(kernel::bindings::EOPNOTSUPP as i32))
}

/// See [`Operations::set_xdp`](crate::net::Operations::set_xdp).
///
/// While there is a program the host must not put frames together: LRO goes off before the program comes, and back on,
/// if the user wants it, after it has gone.
pub(crate) fn set_program(
    dev: &Device<Adapter>,
    rtnl: &Rtnl,
    program: Option<BpfProgram>,
    extack: &ExtAck<'_>,
) -> Result {
    let Some(program) = program else {
        dev.xdp.install(rtnl, None);
        dev.xdp.expect_program(rtnl, false);
        dev.update_features(rtnl);
        return Ok(());
    };
    if dev.mtu() > MAX_MTU && !program.takes_fragments() {
        extack.say(
            c"MTU above 3506: lower it, or load the program with support of fragments (xdp.frags)",
        );
        return Err(not_supported());
    }
    let expected = dev.xdp.expects_program();
    dev.xdp.expect_program(rtnl, true);
    dev.update_features(rtnl);
    if dev.coalesces(rtnl) {
        dev.xdp.expect_program(rtnl, expected);
        extack.say(c"The host does not stop coalescing frames: switch LRO off first (ethtool -K)");
        return Err(EIO);
    }
    dev.xdp.install(rtnl, Some(program));
    Ok(())
}

const _: () = assert!(MAX_MTU == 3506, "what the refusals say");

/// Whether the MTU suits the program; `EOPNOTSUPP` otherwise.
pub(crate) fn check_mtu(dev: &Device<Adapter>, rtnl: &Rtnl, mtu: u32) -> Result {
    if mtu > MAX_MTU && dev.xdp.limits_frames(rtnl) {
        Adapter::say_err(
            dev,
            format_args!(
                "MTU {mtu} is above {MAX_MTU}, the largest for the XDP program: remove it first"
            ),
        );
        return Err(not_supported());
    }
    Ok(())
}

/// Sends frames that were redirected here, on a queue of this CPU's; returns how many it took.
pub(crate) fn xmit(
    dev: &Device<Adapter>,
    frames: XdpFrames<'_>,
    section: SoftIrq<'_>,
) -> Result<u32> {
    if !dev.is_running() {
        return Err(net_down());
    }
    let channels = dev.path.get(section).ok_or_else(net_down)?.channels();
    let queue = cpu::current(section)
        .checked_rem(channels.into())
        .unwrap_or(0) as u16;
    let skbs = frames.to_skbs(dev);
    let taken = skbs.len();
    send(dev, queue, skbs, |stats| stats.xdp_xmit.add(taken.into()));
    Ok(taken)
}

/// Completes what the program of a poll did with frames.
#[inline(never)]
pub(crate) fn finish_poll(queue: &Queue, poll: &PollContext<'_>) {
    let frames = poll.finish_xdp();
    if frames.len() > 0 {
        send(queue.dev(), queue.index, frames, |_| ());
    }
}

/// Sends frames; those that cannot be sent are dropped, and counted so. `count` runs under the queue's lock.
fn send(dev: &Device<Adapter>, queue: u16, frames: SkbList, count: impl FnOnce(&TxStats)) {
    let (Some(mut guard), Some(stats)) = (TxQueueGuard::lock(dev, queue), dev.queue_stat(queue))
    else {
        return;
    };
    count(&stats.tx);
    let lost = guard.send(frames);
    stats.tx.dropped.add(lost.into());
}

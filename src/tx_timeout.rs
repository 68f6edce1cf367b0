// SPDX-License-Identifier: GPL-2.0

//! A transmit queue that has been stopped for long: says what is known, and looks once more.
//!
//! Either the host does not complete what it was sent, or an interrupt was lost, which another poll makes up
//! for. The core calls this once per queue and timeout.

use crate::attach::has_broken_ring;
use crate::device::Adapter;
use crate::net::{Device, SoftIrq};

/// Reports the state of `queue` and schedules its poll.
pub(crate) fn report(dev: &Device<Adapter>, queue: u16, section: SoftIrq<'_>) {
    if let Some(stats) = dev.queue_stat(queue) {
        stats.tx.timeouts.add(1);
    }
    let Some(path) = dev.path.get(section) else {
        let text = format_args!("transmit queue {queue} waits for a rebuild of the device");
        return Adapter::say_err(dev, text);
    };
    let Some(napi) = path.napi(queue) else {
        let channels = path.channels();
        let text = format_args!("transmit queue {queue} is stopped: there are {channels} channels");
        return Adapter::say_err(dev, text);
    };
    let Some(channel) = napi.channel.get(section) else {
        let text = format_args!("transmit queue {queue} is stopped: its channel is closed");
        return Adapter::say_err(dev, text);
    };
    let stats = dev
        .queue_stat(queue)
        .map(|stats| (stats.receive(), stats.transmit()));
    let (rx, tx) = stats.unwrap_or_default();
    Adapter::say_err(
        dev,
        format_args!(
            "transmit queue {queue} is stuck: channel {} on CPU {}{}, {} packets in flight, {} bytes free to \
             the host, {} bytes to read, {} frames sent, {} received, stopped {} times, woken {}",
            channel.reference().relid(),
            channel.reference().target_cpu(),
            if channel.reference().rescinded() { " (rescinded)" } else { "" },
            napi.in_flight.count(),
            channel.bytes_to_write(),
            channel.bytes_to_read(),
            tx.packets,
            rx.packets,
            tx.stop,
            tx.wake,
        ),
    );
    if channel.reference().rescinded() || has_broken_ring(channel) {
        // Nobody sends on a stopped queue, which is how a loss is noticed otherwise.
        napi.shared.lost_channel();
    }
    napi.schedule();
}

// SPDX-License-Identifier: GPL-2.0

//! Suite: frames both ways between the driver and a scripted host; what goes wrong on the way is counted.

use super::attach::Machine;
use super::host::Script;
use crate::bindings;
use kernel::{
    prelude::*,
    time::{delay::fsleep, Delta},
};

/// An interface that is up.
fn machine() -> Result<Machine> {
    let machine = Machine::new(Script::default())?;
    machine.up()?;
    Ok(machine)
}

/// Waits for up to five seconds.
pub(super) fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if condition() {
            return true;
        }
        fsleep(Delta::from_millis(5));
    }
    condition()
}

/// Frames whose buffers nobody has released.
fn frames() -> i32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::netvsc_kunit_skbs() }
}

/// Has the stack send a UDP packet of `linear` and `fragments` times `len` bytes.
fn send(machine: &Machine, linear: u32, fragments: u32, len: u32) -> Result {
    send_from(machine, 1000, linear, fragments, len)
}

/// The same from another port.
fn send_from(machine: &Machine, port: u16, linear: u32, fragments: u32, len: u32) -> Result {
    // SAFETY: No preconditions.
    let skb = unsafe { bindings::netvsc_kunit_skb(linear, fragments, len) };
    if skb.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: Just made, with room for the headers; then given away to a registered device.
    kernel::error::to_result(unsafe {
        bindings::netvsc_kunit_udp(skb, port, false);
        bindings::netvsc_kunit_send(machine.netdev.as_raw(), skb)
    })
}

/// The frame that [`send`] makes.
fn sent(len: usize) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(len, GFP_KERNEL)?;
    // SAFETY: No preconditions; the frame is freed below.
    unsafe {
        let skb = bindings::netvsc_kunit_skb(len as u32, 0, 0);
        if skb.is_null() {
            return Err(ENOMEM);
        }
        bindings::netvsc_kunit_udp(skb, 1000, false);
        let linear = core::slice::from_raw_parts((*skb).data, len);
        let copied = bytes.extend_from_slice(linear, GFP_KERNEL);
        bindings::consume_skb(skb);
        copied?;
    }
    Ok(bytes)
}

/// An Ethernet frame for the interface, of a protocol that nobody wants.
pub(super) fn arriving(number: u8) -> [u8; 200] {
    let mut frame = [number; 200];
    frame[..6].copy_from_slice(&super::host::MAC);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn has_carrier(machine: &Machine) -> bool {
    // SAFETY: The device is alive; an aligned word is read whole.
    let state = unsafe { (&raw const (*machine.netdev.as_raw()).state).read_volatile() };
    state & (1 << bindings::netdev_state_t___LINK_STATE_NOCARRIER) == 0
}

#[kunit_tests(hv_netvsc_traffic)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_sizes_arrive_as_they_were_sent() -> Result {
        let before = frames();
        let machine = machine()?;
        // Copied to a section, and left where they are.
        for (linear, fragments, len) in [
            (60, 0, 0),
            (300, 0, 0),
            (1514, 0, 0),
            (60, 1, 500),
            (60, 3, 480),
            (42, 8, 184),
        ] {
            // The stack sends frames of its own, too.
            machine
                .host
                .expect(sent((linear + fragments * len) as usize)?);
            send(&machine, linear, fragments, len)?;
            assert!(wait_for(|| machine.host.matching() == 1));
        }
        assert!(wait_for(|| frames() == before));
        assert!(machine.totals().tx_packets >= 6);
        assert_eq!(machine.totals().tx_dropped, 0);
        Ok(())
    }

    #[test]
    fn flows_spread_over_all_channels_and_stay_whole_when_their_number_changes() -> Result {
        let before = frames();
        let script = Script {
            queues: 2,
            ..Script::default()
        };
        let machine = Machine::new(script)?;
        machine.up()?;
        for (channels, mask) in [(2, 3), (1, 1), (2, 3)] {
            machine.set_channels(channels)?;
            machine.host.forget_channels();
            for port in 0..48 {
                send_from(&machine, 3000 + port, 100, 0, 0)?;
            }
            assert!(wait_for(|| frames() == before));
            assert!(wait_for(|| machine.host.channels() == mask));
        }
        drop(machine);
        assert_eq!((frames(), super::super::bus::subchannels()), (before, 0));
        Ok(())
    }

    #[test]
    fn frames_that_the_host_never_completes_are_released_with_the_interface() -> Result {
        let before = frames();
        let machine = machine()?;
        machine.host.complete_frames(false);
        for _ in 0..20 {
            send(&machine, 60, 3, 400)?;
        }
        // Byte queue limits keep the others in the queue.
        assert!(wait_for(|| machine.host.frames() > 0));
        assert!(frames() > before);
        let device = machine.device.clone();
        drop(machine);
        assert_eq!((frames(), device.shared()), (before, 0));
        Ok(())
    }

    #[test]
    fn frames_from_the_host_reach_the_stack_and_are_each_completed() -> Result {
        let machine = machine()?;
        let before = machine.totals().rx_packets;
        let (completed, _) = machine.host.completed();
        for number in 0..100 {
            assert!(wait_for(|| machine.host.deliver(&arriving(number))));
        }
        assert!(wait_for(|| machine.totals().rx_packets == before + 100));
        assert!(wait_for(|| machine.host.completed().0 == completed + 100));
        assert_eq!(machine.host.completed().1, 0);
        assert_eq!(machine.totals().rx_errors, 0);
        Ok(())
    }

    #[test]
    fn what_is_no_message_is_refused_and_counted() -> Result {
        let machine = machine()?;
        let before = machine.totals();
        // Too short; a length beyond the range; a frame beyond the message.
        let bad: [&[u8]; 3] = [
            &[1, 0, 0, 0, 44],
            &[1, 0, 0, 0, 0xff, 0xff, 0, 0],
            &[
                1, 0, 0, 0, 44, 0, 0, 0, 36, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        ];
        for message in bad {
            assert!(machine.host.indicate(message, 0));
        }
        assert!(wait_for(|| machine.host.completed().1 == 3));
        assert_eq!(machine.totals().rx_errors, before.rx_errors + 3);
        // The next frame is none the worse for it.
        assert!(machine.host.deliver(&arriving(1)));
        assert!(wait_for(|| machine.totals().rx_packets > before.rx_packets));
        Ok(())
    }

    #[test]
    fn the_carrier_follows_the_hosts_link() -> Result {
        let machine = machine()?;
        assert!(wait_for(|| has_carrier(&machine)));
        for (status, carrier) in [(0x4001_000cu32, false), (0x4001_000b, true)] {
            let mut message = [0u8; 20];
            for (place, word) in message.chunks_exact_mut(4).zip([7, 20, status, 0, 0]) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            assert!(machine.host.indicate(&message, 1));
            assert!(wait_for(|| has_carrier(&machine) == carrier));
        }
        machine.down();
        assert!(!has_carrier(&machine));
        Ok(())
    }

    #[test]
    fn a_rebuild_under_traffic_loses_no_buffer() -> Result {
        let before = frames();
        let machine = machine()?;
        for mtu in [2000, 1500] {
            for _ in 0..10 {
                send(&machine, 60, 2, 700)?;
            }
            machine.set_mtu(mtu)?;
            assert!(wait_for(|| has_carrier(&machine)));
        }
        send(&machine, 60, 0, 0)?;
        assert!(wait_for(|| frames() == before));
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Suite: sending and receiving over rings in kernel memory, by the driver's own code and that of `hv_vmbus`.

use super::bus::{Ring, TestDevice, MAX_PACKET};
use crate::vmbus::{
    channel::OpenConfig, packet::Packet, Channel, Deadline, Interrupt, InterruptedChannel,
    OpenChannel,
};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{prelude::*, sync::Arc};

/// Counts interrupts, and masks them if it is told to.
struct Bell {
    rung: AtomicU32,
    masks: bool,
}

impl Interrupt for Bell {
    fn channel_interrupt(&self, channel: &InterruptedChannel<'_>) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        if self.masks {
            channel.mask();
        }
    }
}

const RING_BYTES: u32 = 4 * 4096;

fn soon() -> Deadline {
    Deadline::after(2000)
}

/// An open channel and who is at its other end.
struct Bench {
    channel: OpenChannel<Bell>,
    bell: Arc<Bell>,
    /// Goes last.
    device: TestDevice,
}

impl Bench {
    fn new() -> Result<Self> {
        let device = TestDevice::new()?;
        let bell = Arc::new(
            Bell {
                rung: AtomicU32::new(0),
                masks: true,
            },
            GFP_KERNEL,
        )?;
        let channel = open(device.channel()?, &bell).map_err(|(_, error)| error)?;
        Ok(Self {
            channel,
            bell,
            device,
        })
    }
}

fn open(channel: Channel, bell: &Arc<Bell>) -> Result<OpenChannel<Bell>, (Option<Channel>, Error)> {
    let config = OpenConfig {
        ring_bytes: RING_BYTES,
        max_packet: MAX_PACKET as u32,
    };
    channel.open(config, bell.clone(), soon(), drop)
}

/// `len` bytes that differ from those of other `seed`s.
fn pattern(buffer: &mut [u8; 1024], seed: usize, len: usize) -> &[u8] {
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = (index * 7 + seed) as u8;
    }
    &buffer[..len]
}

/// Whether a packet's payload is `bytes` and padding.
fn carries(packet: &Packet<'_>, bytes: &[u8]) -> bool {
    packet.payload.len() == bytes.len().next_multiple_of(8) && packet.payload.starts_with(bytes)
}

#[kunit_tests(hv_netvsc_ring)]
mod tests {
    use super::*;
    use crate::vmbus::{
        packet::{PacketType, DESCRIPTOR_LEN, TRAILER_LEN},
        SendError,
    };

    fn buffer() -> Result<KBox<[u8; MAX_PACKET]>> {
        Ok(KBox::new([0; MAX_PACKET], GFP_KERNEL)?)
    }

    #[test]
    fn what_is_sent_stands_in_the_ring_as_hosts_read_it() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        let mut bytes = buffer()?;
        bench.channel.send_inband(b"ten bytes.", 77, true)?;
        bench.channel.write(|ring| ring.completion(78, &[]))?;
        let len = host.read(&mut bytes).ok_or(ENOENT)?;
        let packet = Packet::parse(&bytes[..len]).map_err(|_| EINVAL)?;
        assert_eq!(packet.packet_type, PacketType::DataInBand);
        assert!(packet.completion_requested);
        assert_eq!(packet.transaction_id, 77);
        assert!(carries(&packet, b"ten bytes."));
        let len = host.read(&mut bytes).ok_or(ENOENT)?;
        let packet = Packet::parse(&bytes[..len]).map_err(|_| EINVAL)?;
        assert_eq!(packet.packet_type, PacketType::Completion);
        assert!(!packet.completion_requested);
        assert_eq!((packet.transaction_id, packet.payload.len()), (78, 0));
        assert!(host.read(&mut bytes).is_none());
        Ok(())
    }

    #[test]
    fn packets_survive_the_end_of_the_ring_in_both_directions() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        let (mut bytes, mut expected) = (buffer()?, KBox::new([0u8; 1024], GFP_KERNEL)?);
        let mut over_the_end = [0u32; 2];
        for round in 0..600usize {
            let sent = pattern(&mut expected, round, 1 + round * 37 % 1000);
            for (count, ring) in over_the_end.iter_mut().zip([Ring::Outbound, Ring::Inbound]) {
                let end = host.indices(ring).0 + (DESCRIPTOR_LEN + sent.len()) as u32;
                *count += u32::from(end > host.size(ring));
            }
            bench.channel.send_inband(sent, round as u64, false)?;
            let len = host.read(&mut bytes).ok_or(ENOENT)?;
            let packet = Packet::parse(&bytes[..len]).map_err(|_| EINVAL)?;
            assert!(carries(&packet, sent));

            assert!(host.write(6, round as u64, false, &[], sent));
            let mut reader = bench.channel.reader().ok_or(EBUSY)?;
            let packet = reader.next_packet().ok_or(ENOENT)?;
            assert!(carries(&packet, sent));
            assert_eq!(packet.transaction_id, round as u64);
            assert!(reader.next_packet().is_none());
        }
        assert!(over_the_end[0] > 5);
        assert!(over_the_end[1] > 5);
        Ok(())
    }

    #[test]
    fn a_full_ring_takes_nothing_and_loses_nothing() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        let mut bytes = buffer()?;
        let mut sent = 0u64;
        while bench.channel.send_inband(&[9; 1000], sent, false).is_ok() {
            sent += 1;
        }
        assert_eq!(sent, 12 * 1024 / 1024 - 1);
        assert!(bench.channel.bytes_to_write() < 1032);
        assert!(bench.channel.has_free(7) && !bench.channel.has_free(9));
        let full = bench.channel.send_inband(&[9; 1000], 99, false);
        assert_eq!(full, Err(SendError::Full));
        for id in 0..sent {
            let len = host.read(&mut bytes).ok_or(ENOENT)?;
            let packet = Packet::parse(&bytes[..len]).map_err(|_| EINVAL)?;
            assert_eq!(packet.transaction_id, id);
        }
        assert_eq!(bench.channel.bytes_to_write(), host.size(Ring::Outbound));
        assert!(bench.channel.has_free(99) && !bench.channel.has_free(100));
        bench.channel.send_inband(&[9; 1000], 99, false)?;
        Ok(())
    }

    #[test]
    fn what_cannot_be_sent_is_refused_before_the_ring_is_touched() -> Result {
        let bench = Bench::new()?;
        let too_long = KVec::from_elem(0u8, RING_BYTES as usize, GFP_KERNEL)?;
        assert_eq!(
            bench.channel.send_inband(&too_long, 1, false),
            Err(SendError::Invalid)
        );
        bench.device.rescind(true);
        assert_eq!(
            bench.channel.send_inband(&[1], 1, false),
            Err(SendError::Rescinded)
        );
        assert!(bench.channel.reference().rescinded());
        bench.device.rescind(false);
        assert_eq!(bench.device.host().indices(Ring::Outbound), (0, 0));
        Ok(())
    }

    #[test]
    fn the_host_is_signalled_once_for_an_empty_ring_and_not_when_it_masks() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        let mut bytes = buffer()?;
        for _ in 0..3 {
            bench.channel.send_inband(&[1], 1, false)?;
        }
        assert_eq!(bench.device.signals(), 1);
        while host.read(&mut bytes).is_some() {}
        host.mask_signals(true);
        bench.channel.send_inband(&[1], 1, false)?;
        assert_eq!(bench.device.signals(), 1);
        Ok(())
    }

    #[test]
    fn a_packet_that_was_put_back_comes_again_and_keeps_its_place() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        assert!(host.write(6, 1, false, &[], &[1; 16]));
        assert!(host.write(6, 2, false, &[], &[2; 16]));
        let mut reader = bench.channel.reader().ok_or(EBUSY)?;
        assert!(bench.channel.reader().is_none());
        assert_eq!(reader.next_packet().map(|p| p.transaction_id), Some(1));
        reader.put_back();
        drop(reader);
        assert_eq!(host.indices(Ring::Inbound).1, 0);
        let mut reader = bench.channel.reader().ok_or(EBUSY)?;
        assert_eq!(reader.next_packet().map(|p| p.transaction_id), Some(1));
        assert_eq!(reader.next_packet().map(|p| p.transaction_id), Some(2));
        assert!(reader.is_empty());
        drop(reader);
        let (written, read) = host.indices(Ring::Inbound);
        assert_eq!(written, read);
        Ok(())
    }

    #[test]
    fn a_host_that_waits_for_room_is_signalled_when_there_is() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        while host.write(6, 1, false, &[], &[3; 1000]) {}
        host.wait_for_room(6000);
        let mut reader = bench.channel.reader().ok_or(EBUSY)?;
        for _ in 0..2 {
            reader.next_packet().ok_or(ENOENT)?;
            reader.publish();
        }
        assert_eq!(bench.device.signals(), 0);
        while reader.next_packet().is_some() {}
        drop(reader);
        assert_eq!(bench.device.signals(), 1);
        Ok(())
    }

    #[test]
    fn interrupts_are_masked_until_all_is_read() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        host.interrupt();
        assert_eq!(bench.bell.rung.load(Ordering::Relaxed), 1);
        assert!(host.is_masked());
        assert!(!bench.channel.unmask());
        assert!(!host.is_masked());
        bench.channel.mask();
        assert!(host.write(6, 1, false, &[], &[1; 8]));
        // Nobody rang for it: whoever unmasks has to read again.
        assert!(bench.channel.unmask());
        assert!(bench.channel.bytes_to_read() >= 24);
        Ok(())
    }

    #[test]
    fn a_closed_channel_does_not_interrupt_and_can_be_opened_again() -> Result {
        let Bench {
            channel,
            bell,
            device,
        } = Bench::new()?;
        let host = device.host();
        assert!(host.write(6, 1, false, &[], &[1; 8]));
        assert_eq!(device.channel().err(), Some(EBUSY));
        let (closed, kept) = channel.close(soon(), 42, drop)?;
        assert_eq!(kept, 42);
        assert_eq!(device.opened_closed(), (1, 1));
        host.interrupt();
        assert_eq!(bell.rung.load(Ordering::Relaxed), 0);
        let channel = open(closed, &bell).map_err(|(_, error)| error)?;
        assert_eq!(channel.bytes_to_read(), 0);
        host.interrupt();
        assert_eq!(bell.rung.load(Ordering::Relaxed), 1);
        drop(channel);
        assert_eq!(device.opened_closed(), (2, 2));
        assert!(device.channel().is_ok());
        Ok(())
    }

    #[test]
    fn a_refused_opening_gives_the_channel_back() -> Result {
        let device = TestDevice::new()?;
        let bell = Arc::new(
            Bell {
                rung: AtomicU32::new(0),
                masks: false,
            },
            GFP_KERNEL,
        )?;
        device.refuse_open(EAGAIN.to_errno());
        let Err((Some(channel), error)) = open(device.channel()?, &bell) else {
            return Err(EINVAL);
        };
        assert_eq!(error, EAGAIN);
        device.refuse_open(0);
        drop(open(channel, &bell).map_err(|(_, error)| error)?);
        assert_eq!(device.opened_closed(), (1, 1));
        Ok(())
    }

    #[test]
    fn indices_outside_the_ring_are_an_empty_ring() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        assert!(host.write(6, 1, false, &[], &[1; 8]));
        for index in [host.size(Ring::Inbound), 0x8000_0000, u32::MAX] {
            host.set_write_index(Ring::Inbound, index);
            assert_eq!(bench.channel.bytes_to_read(), 0);
            let mut reader = bench.channel.reader().ok_or(EBUSY)?;
            assert!(reader.next_packet().is_none());
            drop(reader);
            host.set_read_index(Ring::Outbound, index);
            assert_eq!(bench.channel.bytes_to_write(), 0);
            assert!(bench.channel.cannot_send() && !bench.channel.has_free(0));
        }
        host.set_read_index(Ring::Outbound, 0);
        assert!(!bench.channel.cannot_send());
        Ok(())
    }

    #[test]
    fn a_packet_longer_than_what_was_written_ends_reading() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        assert!(host.write(6, 1, false, &[], &[1; 8]));
        let mut overlong = [0u8; 24];
        overlong[..6].copy_from_slice(&[6, 0, 2, 0, 0xff, 0]);
        assert!(host.write_raw(&overlong));
        let mut reader = bench.channel.reader().ok_or(EBUSY)?;
        assert_eq!(reader.next_packet().map(|p| p.transaction_id), Some(1));
        assert!(reader.next_packet().is_none());
        assert_eq!(reader.malformed(), 1);
        assert!(bench.channel.is_broken());
        drop(reader);
        assert!(!bench.channel.unmask());
        Ok(())
    }

    #[test]
    fn a_descriptor_that_makes_no_sense_is_skipped_and_counted() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        // A payload that begins behind the end, and one that begins in the descriptor.
        for offset in [9, 1] {
            let mut odd = [0u8; 24];
            odd[..6].copy_from_slice(&[6, 0, offset, 0, 3, 0]);
            assert!(host.write_raw(&odd));
        }
        assert!(host.write(6, 2, false, &[], &[2; 8]));
        let mut reader = bench.channel.reader().ok_or(EBUSY)?;
        assert_eq!(reader.next_packet().map(|p| p.transaction_id), Some(2));
        assert_eq!(reader.malformed(), 2);
        drop(reader);
        assert!(!bench.channel.is_broken());
        let (written, read) = host.indices(Ring::Inbound);
        assert_eq!(written, read);
        assert_eq!((DESCRIPTOR_LEN + 8 + TRAILER_LEN) as u32 * 3, written);
        Ok(())
    }

    #[test]
    fn a_packet_that_the_buffer_cannot_hold_is_skipped() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        let mut long = KVec::from_elem(5u8, MAX_PACKET + 800, GFP_KERNEL)?;
        let len8 = (long.len() / 8) as u16;
        long[..4].copy_from_slice(&[6, 0, 2, 0]);
        long[4..6].copy_from_slice(&len8.to_le_bytes());
        assert!(host.write_raw(&long));
        assert!(host.write(6, 2, false, &[], &[2; 8]));
        let mut reader = bench.channel.reader().ok_or(EBUSY)?;
        assert_eq!(reader.next_packet().map(|p| p.transaction_id), Some(2));
        assert_eq!(reader.malformed(), 1);
        Ok(())
    }

    #[test]
    fn a_length_below_the_descriptors_ends_reading() -> Result {
        let bench = Bench::new()?;
        let host = bench.device.host();
        assert!(host.write_raw(&[6, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        let mut reader = bench.channel.reader().ok_or(EBUSY)?;
        assert!(reader.next_packet().is_none());
        assert_eq!(reader.malformed(), 1);
        assert!(bench.channel.is_broken());
        Ok(())
    }

    #[test]
    fn a_device_goes_when_its_last_user_has_gone() -> Result {
        let before = super::super::bus::devices();
        let device = TestDevice::new()?;
        let channel = device.channel()?;
        let reference = channel.reference().clone();
        drop(device);
        assert_eq!(super::super::bus::devices(), before + 1);
        drop(channel);
        assert_eq!(super::super::bus::devices(), before + 1);
        drop(reference);
        assert_eq!(super::super::bus::devices(), before);
        Ok(())
    }
}

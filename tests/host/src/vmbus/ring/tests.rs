// SPDX-License-Identifier: GPL-2.0

//! Tests of the rings against the guest's side and against a queue as model.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::guest::{
    channel, GuestPacket, Recorder, INTERRUPT_MASK, PENDING_SEND, READ_INDEX, WRITE_INDEX,
};
use super::*;
use crate::vmbus::gpa::GpaRange;

const IN_BAND: u16 = 6;

#[test]
fn packets_arrive_whole() {
    let (mut rings, guest, recorder) = channel(2, 2);
    assert_eq!(rings.incoming.next(), None);
    assert_eq!(guest.send(IN_BAND, 1, 77, &[], b"hello"), Some(true));
    let packet = rings.incoming.next().unwrap();
    assert_eq!(packet.kind, PacketType::InBand);
    assert!(packet.wants_completion());
    assert_eq!(packet.transaction_id, 77);
    assert_eq!(packet.payload, b"hello\0\0\0");
    assert!(packet.header.is_empty());
    assert_eq!(rings.incoming.next(), None);

    let header = transfer_page_header(
        0xcafe,
        &[TransferRange {
            len: 100,
            offset: 1806,
        }],
    );
    rings
        .outgoing
        .try_write(PacketType::TransferPages, 1, 5, &header, &[b"ab", b"cde"])
        .unwrap();
    let (packet, _) = guest.receive().unwrap();
    assert_eq!(packet.kind, 7);
    assert_eq!(packet.header[..8], [0xfe, 0xca, 0, 0, 1, 0, 0, 0]);
    assert_eq!(packet.header[8..], [100, 0, 0, 0, 0x0e, 7, 0, 0]);
    assert_eq!(packet.payload, b"abcde\0\0\0");
    assert_eq!(recorder.interrupts(), 1);
    assert!(recorder.violation_names().is_empty());
    let stats = rings.stats().snapshot();
    assert_eq!((stats.packets_in, stats.packets_out), (1, 1));
    assert_eq!((stats.bytes_in, stats.bytes_out), (24, 40));
}

#[test]
fn gpa_direct_ranges_are_read() {
    let (mut rings, guest, _) = channel(2, 2);
    let mut header = vec![0; 4];
    header.extend(1u32.to_le_bytes());
    header.extend(40u32.to_le_bytes());
    header.extend(4080u32.to_le_bytes());
    header.extend(3u64.to_le_bytes());
    header.extend(9u64.to_le_bytes());
    guest.send(9, 1, 1, &header, &[0; 40]).unwrap();
    let packet = rings.incoming.next().unwrap();
    let ranges = packet.gpa_ranges().unwrap();
    assert_eq!(
        ranges,
        [GpaRange {
            offset: 4080,
            len: 40,
            pfns: vec![3, 9]
        }]
    );
    ranges[0].write(rings.memory(), 0, &[7; 40]).unwrap();

    guest.send(9, 1, 2, &header[..16], &[]).unwrap();
    assert!(rings.incoming.next().unwrap().gpa_ranges().is_err());
    guest.send(9, 1, 3, &[], &[]).unwrap();
    assert!(rings.incoming.next().unwrap().gpa_ranges().is_err());
    assert!(!rings.is_broken());
}

#[test]
fn guest_is_interrupted_only_when_empty_and_unmasked() {
    let (mut rings, guest, recorder) = channel(2, 2);
    let mut write = || {
        rings
            .outgoing
            .try_write(PacketType::Completion, 0, 1, &[], &[&[0; 8]])
            .unwrap();
    };
    write();
    assert_eq!(recorder.interrupts(), 1);
    write();
    assert_eq!(recorder.interrupts(), 1, "ring was not empty");
    while guest.receive().is_some() {}
    guest.mask(true);
    write();
    assert_eq!(recorder.interrupts(), 1, "guest has masked");
    while guest.receive().is_some() {}
    guest.mask(false);
    write();
    assert_eq!(recorder.interrupts(), 2);
    assert_eq!(rings.stats().completions_out.get(), 4);
    assert_eq!(rings.stats().interrupts.get(), 2);
}

#[test]
fn host_masks_and_rechecks() {
    let (mut rings, guest, _) = channel(2, 2);
    assert_eq!(guest.send(IN_BAND, 0, 1, &[], &[]), Some(true));
    rings.incoming.mask();
    assert_eq!(guest.peek(guest.to_host, INTERRUPT_MASK), 1);
    rings.incoming.next().unwrap();
    assert_eq!(guest.send(IN_BAND, 0, 2, &[], &[]), Some(false));
    assert!(rings.incoming.unmask(), "a packet came while masked");
    rings.incoming.mask();
    rings.incoming.next().unwrap();
    assert!(!rings.incoming.unmask());
    assert_eq!(guest.peek(guest.to_host, INTERRUPT_MASK), 0);
}

#[test]
fn a_full_ring_asks_for_a_signal() {
    let (mut rings, guest, _) = channel(2, 2);
    assert!(rings.outgoing.guest_signals_space());
    let write = |rings: &mut RingPair| {
        rings
            .outgoing
            .try_write(PacketType::InBand, 0, 0, &[], &[&[1; 1000]])
    };
    let written = (0..).take_while(|_| write(&mut rings).is_ok()).count();
    assert_eq!(written, 3, "4096 / 1024, less the byte that stays free");
    assert_eq!(guest.peek(guest.from_host, PENDING_SEND), 1024);
    assert_eq!(rings.stats().ring_full.get(), 1);
    let (_, signal) = guest.receive().unwrap();
    assert!(signal, "the space is there now");
    write(&mut rings).unwrap();
    assert_eq!(guest.peek(guest.from_host, PENDING_SEND), 0);
    assert_eq!(
        rings
            .outgoing
            .try_write(PacketType::InBand, 0, 0, &[], &[&[0; 4096]]),
        Err(WriteError::TooLong(4112))
    );
}

#[test]
fn a_guest_that_waits_for_space_is_told_once() {
    let (mut rings, guest, recorder) = channel(2, 2);
    while guest.send(IN_BAND, 0, 0, &[], &[2; 1000]).is_some() {}
    // Not a multiple of 8: the host rounds up.
    guest.poke(guest.to_host, PENDING_SEND, 2041);
    rings.incoming.next().unwrap();
    assert_eq!(recorder.interrupts(), 0, "2048 free is not more than 2048");
    rings.incoming.next().unwrap();
    assert_eq!(recorder.interrupts(), 1);
    rings.incoming.next().unwrap();
    assert_eq!(recorder.interrupts(), 1);
    assert_eq!(rings.stats().space_interrupts.get(), 1);
}

/// What a broken packet must be called.
fn breach_of(bytes: &[u8]) -> &'static str {
    let (mut rings, guest, recorder) = channel(2, 2);
    guest.send_raw(bytes);
    assert_eq!(rings.incoming.next(), None);
    assert!(rings.is_broken());
    assert_eq!(rings.incoming.next(), None);
    let write = rings.outgoing.try_write(PacketType::InBand, 0, 0, &[], &[]);
    assert_eq!(write, Err(WriteError::Broken));
    let names = recorder.violation_names();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0]
}

#[test]
fn broken_packets_have_names() {
    let packet = |kind: u16, offset8: u16, len8: u16, flags: u16, total: usize| {
        let mut bytes: Vec<u8> = [kind, offset8, len8, flags]
            .into_iter()
            .flat_map(u16::to_le_bytes)
            .collect();
        bytes.resize(total, 0);
        bytes
    };
    assert_eq!(breach_of(&[0; 16]), "ring.short-packet");
    assert_eq!(breach_of(&packet(6, 1, 2, 0, 24)), "ring.packet-length");
    assert_eq!(breach_of(&packet(6, 3, 2, 0, 32)), "ring.packet-length");
    assert_eq!(breach_of(&packet(6, 2, 3, 0, 24)), "ring.packet-length");
    assert_eq!(
        breach_of(&packet(6, 0xffff, 0xffff, 0, 64)),
        "ring.packet-length"
    );
    assert_eq!(breach_of(&packet(6, 2, 2, 2, 24)), "ring.packet-flags");
    assert_eq!(breach_of(&packet(3, 2, 2, 0, 24)), "ring.packet-type");
    let mut trailer = packet(6, 2, 2, 0, 24);
    trailer[20] = 8;
    assert_eq!(breach_of(&trailer), "ring.trailer");
}

#[test]
fn broken_indices_have_names() {
    for index in [4096, 4, u32::MAX] {
        let (mut rings, guest, recorder) = channel(2, 2);
        guest.poke(guest.to_host, WRITE_INDEX, index);
        assert_eq!(rings.incoming.next(), None);
        assert_eq!(recorder.violation_names(), ["ring.write-index"]);

        let (mut rings, guest, recorder) = channel(2, 2);
        guest.poke(guest.from_host, READ_INDEX, index);
        let write = rings.outgoing.try_write(PacketType::InBand, 0, 0, &[], &[]);
        assert_eq!(write, Err(WriteError::Broken));
        assert_eq!(recorder.violation_names(), ["ring.read-index"]);
    }
}

#[test]
fn memory_taken_back_breaks_the_rings() {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap());
    let guest = guest::GuestRings::new(memory.clone(), 0x10000, 2, 2);
    let recorder = Arc::new(Recorder::default());
    let gpadl = Arc::new(GpadlMemory::new(memory, 1, guest.range()).unwrap());
    let stats = Arc::new(ChannelStats::default());
    let mut rings = RingPair::new(gpadl.clone(), 2, recorder.clone(), stats).unwrap();
    guest.send(IN_BAND, 0, 0, &[], &[]).unwrap();
    gpadl.tear_down();
    assert_eq!(rings.incoming.next(), None);
    assert_eq!(recorder.violation_names(), ["ring.memory"]);
}

#[test]
fn impossible_rings_are_refused() {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap());
    let open = |offset: u32, len: u32, split: u32| {
        let pages = crate::vmbus::gpa::pages_covered(offset, len) as u64;
        let range = GpaRange {
            offset,
            len,
            pfns: (16..16 + pages).collect(),
        };
        let gpadl = Arc::new(GpadlMemory::new(memory.clone(), 1, range).unwrap());
        let owner = Arc::new(Recorder::default());
        RingPair::new(gpadl, split, owner, Arc::default()).err()
    };
    assert_eq!(open(0, 4 * 4096, 2), None);
    assert_eq!(open(8, 4 * 4096, 2), Some(RingError::NotPages));
    assert_eq!(open(0, 4 * 4096 - 8, 2), Some(RingError::NotPages));
    for split in [0, 1, 3, 4, u32::MAX] {
        let error = open(0, 4 * 4096, split);
        assert_eq!(error, Some(RingError::Split { pages: 4, split }));
    }
}

#[test]
fn indices_that_are_wrong_at_open_are_refused() {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap());
    let guest = guest::GuestRings::new(memory.clone(), 0x10000, 2, 2);
    guest.poke(guest.from_host, WRITE_INDEX, 4096);
    let gpadl = Arc::new(GpadlMemory::new(memory, 1, guest.range()).unwrap());
    let owner = Arc::new(Recorder::default());
    let error = RingPair::new(gpadl, 2, owner, Arc::default()).err();
    assert!(matches!(
        error,
        Some(RingError::Index {
            which: "write_index",
            value: 4096,
            size: 4096
        })
    ));
}

/// One step of the model test.
#[derive(Clone, Debug)]
enum Step {
    GuestSends(u16, Vec<u8>, Vec<u8>),
    HostReads,
    HostSends(Vec<u8>, Vec<u8>),
    GuestReads,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        (
            prop_oneof![Just(6u16), Just(9), Just(0xb)],
            bytes(64),
            bytes(900)
        )
            .prop_map(|(kind, header, payload)| Step::GuestSends(kind, header, payload)),
        Just(Step::HostReads),
        (bytes(64), bytes(900)).prop_map(|(header, payload)| Step::HostSends(header, payload)),
        Just(Step::GuestReads),
    ]
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().div_ceil(8) * 8, 0);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the two sides do, each gets what the other sent, in order; a packet is refused
    /// exactly when it does not fit strictly; and every signal that is due is given.
    #[test]
    fn rings_are_queues(steps in proptest::collection::vec(step(), 1..200)) {
        let (mut rings, guest, recorder) = channel(2, 3);
        let (mut to_host, mut to_guest) = (VecDeque::new(), VecDeque::new());
        let (mut used_in, mut used_out) = (0, 0);
        let mut due = 0;
        for (id, step) in steps.into_iter().enumerate() {
            let id = id as u64;
            match step {
                Step::GuestSends(kind, header, payload) => {
                    let (header, payload) = (padded(&header), padded(&payload));
                    let size = 24 + header.len() + payload.len();
                    let sent = guest.send(kind, 0, id, &header, &payload);
                    prop_assert_eq!(sent.is_some(), used_in + size < 4096);
                    if let Some(signal) = sent {
                        prop_assert_eq!(signal, to_host.is_empty());
                        used_in += size;
                        to_host.push_back((kind, id, header, payload, size));
                    }
                }
                Step::HostReads => {
                    let packet = rings.incoming.next();
                    let expected = to_host.pop_front();
                    prop_assert_eq!(packet.is_some(), expected.is_some());
                    if let (Some(packet), Some((kind, id, header, payload, size))) =
                        (packet, expected)
                    {
                        prop_assert_eq!(packet.kind as u16, kind);
                        prop_assert_eq!(packet.transaction_id, id);
                        prop_assert_eq!(packet.header, header);
                        prop_assert_eq!(packet.payload, payload);
                        used_in -= size;
                    }
                }
                Step::HostSends(header, payload) => {
                    let (cut, rest) = payload.split_at(payload.len() / 3);
                    let done = rings.outgoing.try_write(
                        PacketType::InBand, 1, id, &header, &[cut, rest]);
                    let (header, payload) = (padded(&header), padded(&payload));
                    let size = 24 + header.len() + payload.len();
                    let fits = used_out + size < 8192;
                    prop_assert_eq!(done, if fits { Ok(()) } else { Err(WriteError::Full) });
                    if fits {
                        due += u64::from(to_guest.is_empty());
                        used_out += size;
                        to_guest.push_back((id, header, payload, size));
                    }
                }
                Step::GuestReads => {
                    let packet = guest.receive();
                    let expected = to_guest.pop_front();
                    prop_assert_eq!(packet.is_some(), expected.is_some());
                    if let (Some((packet, _)), Some((id, header, payload, size))) =
                        (packet, expected)
                    {
                        let expected = GuestPacket {
                            kind: 6, flags: 1, transaction_id: id, header, payload,
                        };
                        prop_assert_eq!(packet, expected);
                        used_out -= size;
                    }
                }
            }
        }
        prop_assert_eq!(recorder.interrupts(), due);
        prop_assert!(recorder.violation_names().is_empty());
    }

    /// No bytes that a guest can put into its ring make the host panic or read beyond them.
    #[test]
    fn no_ring_contents_make_the_host_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        write in any::<u32>(),
        read in any::<u32>(),
        pending in any::<u32>(),
        plausible in any::<bool>(),
    ) {
        let (mut rings, guest, _) = channel(2, 2);
        guest.send_raw(&bytes);
        let mask = if plausible { 4096 - 8 } else { u32::MAX };
        guest.poke(guest.to_host, WRITE_INDEX, write & mask);
        guest.poke(guest.to_host, PENDING_SEND, pending);
        guest.poke(guest.from_host, READ_INDEX, read & mask);
        for _ in 0..200 {
            if rings.incoming.next().is_none() {
                break;
            }
        }
        let _ = rings.outgoing.try_write(PacketType::InBand, 0, 0, &[], &[&[0; 100]]);
    }
}

/// Two threads, signals only where the rules ask for them: nothing gets stuck.
#[test]
fn no_wakeup_is_lost_between_threads() {
    use std::sync::mpsc;
    use std::time::Duration;
    const COUNT: u64 = 20_000;
    let (mut rings, guest, _) = channel(2, 2);
    let (doorbell, rung) = mpsc::channel();
    let sender = std::thread::spawn(move || {
        let mut id = 0;
        while id < COUNT {
            match guest.send(IN_BAND, 0, id, &[], &[0; 40]) {
                Some(signal) => {
                    id += 1;
                    if signal {
                        doorbell.send(()).unwrap();
                    }
                }
                None => std::thread::yield_now(),
            }
        }
        guest
    });
    let mut next = 0;
    rings.incoming.mask();
    while next < COUNT {
        while let Some(packet) = rings.incoming.next() {
            assert_eq!(packet.transaction_id, next);
            next += 1;
        }
        if rings.incoming.unmask() {
            rings.incoming.mask();
            continue;
        }
        if next < COUNT {
            rung.recv_timeout(Duration::from_secs(20))
                .expect("a packet waits, but nobody was signalled");
            rings.incoming.mask();
        }
    }
    drop(sender.join().unwrap());
}

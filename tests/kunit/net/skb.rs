// SPDX-License-Identifier: GPL-2.0

//! Suite: socket buffers: that each ends once, and what the host is told of a frame.

use super::{frame, frames, in_softirq_section};
use crate::bindings;
use crate::net::{SharedMemory, SkBuff, TxPrepared};
use core::ptr::NonNull;
use kernel::prelude::*;

/// More pages than any frame here touches.
const ANY_PAGES: u32 = 64;

fn prepare(skb: &mut SkBuff, max_pages: u32, csum_mask: u32) -> Result<TxPrepared> {
    in_softirq_section(|| skb.prepare_tx(max_pages, csum_mask))
}

/// The C object, to change what the abstraction has no word for.
fn raw(skb: SkBuff, f: impl FnOnce(*mut bindings::sk_buff)) -> SkBuff {
    let raw = skb.into_raw();
    f(raw);
    // SAFETY: Given away above, and still there.
    unsafe { SkBuff::from_raw(raw) }
}

fn udp(len: u32, want_checksum: bool) -> Result<SkBuff> {
    Ok(raw(frame(len, 0, 0)?, |raw| {
        // SAFETY: A frame of the test's with room for the headers.
        unsafe { bindings::netvsc_kunit_udp(raw, 1000, want_checksum) }
    }))
}

fn udp_checksum_is_right(skb: SkBuff) -> (SkBuff, bool) {
    let mut right = false;
    let skb = raw(skb, |raw| {
        // SAFETY: A frame of the test's, from `udp`.
        right = unsafe { bindings::netvsc_kunit_udp_checksum_ok(raw) }
    });
    (skb, right)
}

/// Memory that the test plays the host's part for.
struct Plain(KVec<u8>);

// SAFETY: The vector keeps its memory while it is borrowed; tests read it afterwards only.
unsafe impl SharedMemory for Plain {
    fn region(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let bytes = self.0.get(offset..offset.checked_add(len)?)?;
        NonNull::new(bytes.as_ptr().cast_mut())
    }
}

fn is_pattern(bytes: &[u8]) -> bool {
    let numbered = bytes.iter().enumerate();
    numbered
        .take_while(|(at, byte)| (at % 251) as u8 == **byte)
        .count()
        == bytes.len()
}

#[kunit_tests(hv_netvsc_skb)]
mod tests {
    use super::*;
    use crate::net::{
        skb::{Pieces, MAX_PIECES},
        InFlight, Sent,
    };
    use crate::rndis::{packet::TxOffload, ppi::Transport};

    #[test]
    fn a_buffer_is_released_once_whichever_way_it_ends() -> Result {
        let before = frames();
        let dropped = frame(100, 2, 3000)?;
        assert_eq!(frames(), before + 1);
        drop(dropped);
        assert_eq!(frames(), before);
        frame(100, 2, 3000)?.consume(0);
        assert_eq!(frames(), before);
        let polled = frame(100, 0, 0)?;
        in_softirq_section(|| polled.consume(64));
        assert_eq!(frames(), before);
        // Nobody's while it is given away.
        let away = frame(100, 0, 0)?.into_raw();
        assert_eq!(frames(), before + 1);
        // SAFETY: Given away just now.
        let back = unsafe { SkBuff::from_raw(away) };
        assert!(back.is(away));
        drop(back);
        assert_eq!(frames(), before);
        Ok(())
    }

    #[test]
    fn a_frame_is_copied_whole_and_within_bounds_only() -> Result {
        let to = Plain(KVec::from_elem(0u8, 8192, GFP_KERNEL)?);
        let skb = frame(90, 2, 3000)?;
        skb.copy_to(&to, 10, &[], 6090, 0)?;
        assert!(is_pattern(&to.0[10..6100]));
        assert_eq!((to.0[9], to.0[6100]), (0, 0));
        assert_eq!(skb.copy_to(&to, 8192 - 6089, &[], 6090, 0), Err(EINVAL));
        assert_eq!(skb.copy_to(&to, usize::MAX, &[], 6090, 0), Err(EINVAL));
        // More than the frame has.
        assert_eq!(skb.copy_to(&to, 0, &[], 6091, 0), Err(EFAULT));
        let linear = frame(300, 0, 0)?;
        assert_eq!(linear.copy_to(&to, 0, &[], 4000, 0), Err(EFAULT));
        linear.copy_to(&to, 1000, &[], 300, 0)?;
        assert!(is_pattern(&to.0[1000..1300]));
        Ok(())
    }

    #[test]
    fn pieces_lead_to_every_byte_of_a_frame() -> Result {
        let mut pieces = KBox::new(Pieces::new(), GFP_KERNEL)?;
        for (linear, fragments, len) in [(60, 0, 0), (60, 1, 100), (1400, 3, 9000), (14, 17, 60)] {
            let skb = frame(linear, fragments, len)?;
            pieces.find(&skb)?;
            assert_eq!(pieces.iter().count(), 1 + fragments as usize);
            let whole = (linear + fragments * len) as usize;
            let mut bytes = KVec::from_elem(0u8, whole, GFP_KERNEL)?;
            let mut at = 0;
            for (address, len) in pieces.iter() {
                let place = &mut bytes[at..at + len as usize];
                // SAFETY: `place` has so many bytes.
                let there = unsafe {
                    bindings::netvsc_kunit_read_gpa(address, place.as_mut_ptr().cast(), len)
                };
                assert!(there);
                at += len as usize;
            }
            assert_eq!(at, whole);
            assert!(is_pattern(&bytes));
        }
        assert!(MAX_PIECES >= 18);
        Ok(())
    }

    #[test]
    fn a_plain_frame_needs_nothing_from_the_host() -> Result {
        let mut skb = udp(1000, false)?;
        let prepared = prepare(&mut skb, ANY_PAGES, 0)?;
        assert_eq!(
            (prepared.meta.len, prepared.packets, prepared.wire_bytes),
            (1000, 1, 1000)
        );
        assert_eq!(
            (prepared.meta.vlan, prepared.meta.hash, prepared.linearized),
            (None, None, false)
        );
        assert_eq!(prepared.meta.offload, TxOffload::None);
        Ok(())
    }

    #[test]
    fn a_checksum_is_the_hosts_if_it_computes_such_and_else_ours() -> Result {
        let udp4 = bindings::NETVSC_CSUM_UDP4;
        let mut skb = udp(777, true)?;
        let prepared = prepare(&mut skb, ANY_PAGES, udp4)?;
        let expected = TxOffload::Checksum {
            ipv6: false,
            transport: Transport::Udp,
            l4_offset: 34,
        };
        assert_eq!(prepared.meta.offload, expected);
        let (mut skb, right) = udp_checksum_is_right(skb);
        assert!(!right);
        let prepared = prepare(&mut skb, ANY_PAGES, !udp4)?;
        assert_eq!(prepared.meta.offload, TxOffload::None);
        let (mut skb, right) = udp_checksum_is_right(skb);
        assert!(right);
        // A frame that comes again is left as it is.
        assert_eq!(
            prepare(&mut skb, ANY_PAGES, udp4)?.meta.offload,
            TxOffload::None
        );
        assert!(udp_checksum_is_right(skb).1);
        Ok(())
    }

    #[test]
    fn segments_are_counted_with_their_headers() -> Result {
        let mut fits = false;
        let mut skb = raw(frame(54, 3, 4000)?, |raw| {
            // SAFETY: A frame of the test's with room for the headers.
            fits = unsafe { bindings::netvsc_kunit_tcp_lso(raw, 1448) }
        });
        assert!(fits);
        for _ in 0..2 {
            let prepared = prepare(&mut skb, ANY_PAGES, 0)?;
            let expected = TxOffload::Lso {
                ipv6: false,
                l4_offset: 34,
                mss: 1448,
            };
            assert_eq!(prepared.meta.offload, expected);
            assert_eq!((prepared.meta.len, prepared.packets), (12_054, 9));
            assert_eq!(prepared.wire_bytes, 12_054 + 8 * 54);
        }
        Ok(())
    }

    #[test]
    fn a_tag_moves_from_the_frame_to_the_message() -> Result {
        let mut skb = raw(frame(200, 0, 0)?, |raw| {
            // SAFETY: A frame of the test's with room for the tag.
            unsafe { bindings::netvsc_kunit_tag(raw, 0x602a) }
        });
        for _ in 0..2 {
            let prepared = prepare(&mut skb, ANY_PAGES, 0)?;
            assert_eq!(prepared.meta.vlan, Some(0x602a));
            assert_eq!(prepared.meta.len, 196);
        }
        let to = Plain(KVec::from_elem(0u8, 200, GFP_KERNEL)?);
        skb.copy_to(&to, 0, &[], 196, 0)?;
        assert!(is_pattern(&to.0[..12]));
        assert_eq!((to.0[12], to.0[195]), (16, 199));
        Ok(())
    }

    #[test]
    fn a_frame_in_too_many_pieces_is_put_into_one() -> Result {
        let mut skb = frame(60, 10, 300)?;
        let prepared = prepare(&mut skb, 4, 0)?;
        assert!(prepared.linearized);
        assert_eq!(prepared.meta.len, 3060);
        let mut pieces = KBox::new(Pieces::new(), GFP_KERNEL)?;
        pieces.find(&skb)?;
        assert_eq!(pieces.iter().count(), 1);
        let to = Plain(KVec::from_elem(0u8, 3060, GFP_KERNEL)?);
        skb.copy_to(&to, 0, &[], 3060, 0)?;
        assert!(is_pattern(&to.0));
        let mut long = frame(60, 4, 30_000)?;
        assert_eq!(prepare(&mut long, 4, 0).err(), Some(E2BIG));
        Ok(())
    }

    fn sent(skb: SkBuff) -> Sent {
        Sent {
            skb: Some(skb),
            section: None,
            bytes: 100,
            packets: 1,
        }
    }

    #[test]
    fn a_packet_in_flight_comes_back_once() -> Result {
        let before = frames();
        let table = InFlight::new(4)?;
        let id = table.insert(sent(frame(100, 0, 0)?)).map_err(|_| ENOSPC)?;
        assert_eq!((table.count(), frames()), (1, before + 1));
        let back = table.complete(id).ok_or(ENOENT)?;
        assert_eq!((back.bytes, back.packets, table.count()), (100, 1, 0));
        assert!(table.complete(id).is_none() && table.cancel(id).is_none());
        drop(back);
        assert_eq!(frames(), before);
        let cancelled = table.insert(sent(frame(100, 0, 0)?)).map_err(|_| ENOSPC)?;
        assert!(cancelled.value() != id.value());
        drop(table.cancel(cancelled).ok_or(ENOENT)?);
        assert_eq!((table.count(), frames()), (0, before));
        Ok(())
    }

    #[test]
    fn an_id_is_not_good_for_the_next_packet_in_its_place() -> Result {
        let before = frames();
        let table = InFlight::new(1)?;
        let first = table.insert(sent(frame(100, 0, 0)?)).map_err(|_| ENOSPC)?;
        drop(table.complete(first).ok_or(ENOENT)?);
        let second = table.insert(sent(frame(100, 0, 0)?)).map_err(|_| ENOSPC)?;
        assert!(table.complete(first).is_none());
        assert_eq!((table.count(), frames()), (1, before + 1));
        drop(table.complete(second).ok_or(ENOENT)?);
        assert_eq!(frames(), before);
        Ok(())
    }

    #[test]
    fn a_full_table_gives_the_packet_back_and_a_dropped_one_releases_all() -> Result {
        let before = frames();
        let table = InFlight::new(4)?;
        for _ in 0..4 {
            table.insert(sent(frame(100, 0, 0)?)).map_err(|_| ENOSPC)?;
        }
        let Err(refused) = table.insert(sent(frame(100, 0, 0)?)) else {
            return Err(EINVAL);
        };
        assert!(refused.skb.is_some());
        drop(refused);
        assert_eq!(frames(), before + 4);
        let mut drained = 0;
        table.drain(|sent| drained += u32::from(sent.packets));
        assert_eq!((drained, frames(), table.count()), (4, before, 0));
        table.insert(sent(frame(100, 0, 0)?)).map_err(|_| ENOSPC)?;
        drop(table);
        assert_eq!(frames(), before);
        assert!(InFlight::new(3).is_err());
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Suite: memory that a host reads and writes: shared buffers, and pages that a packet names.

use super::bus::TestDevice;
use crate::bindings;
use crate::vmbus::{gpa_direct::GpaDirect, Channel, ChannelRef, Deadline, SharedBuffer};
use kernel::prelude::*;

const PAGE: usize = 4096;

fn soon() -> Deadline {
    Deadline::after(2000)
}

/// A device with a closed channel, over which buffers are shared.
struct Bench {
    channel: Channel,
    device: TestDevice,
}

impl Bench {
    fn new() -> Result<Self> {
        let device = TestDevice::new()?;
        Ok(Self {
            channel: device.channel()?,
            device,
        })
    }

    fn reference(&self) -> ChannelRef {
        self.channel.reference().clone()
    }
}

/// The page that an address lies in.
fn pfn(address: &u8) -> u64 {
    // SAFETY: The address of something mapped.
    unsafe { bindings::netvsc_kunit_pfn(core::ptr::from_ref(address).cast()) }
}

/// What a host reads there; false if there is no memory.
pub(crate) fn read_gpa(address: u64, to: &mut [u8]) -> bool {
    // SAFETY: `to` has so many bytes; any address will do.
    unsafe { bindings::netvsc_kunit_read_gpa(address, to.as_mut_ptr().cast(), to.len() as u32) }
}

/// Reads all that a GPA-direct header with one range describes, as a host does.
fn read_range(header: &[u8], to: &mut [u8]) -> Option<usize> {
    let word = |at: usize| {
        let bytes = header.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes) as usize)
    };
    let (len, offset) = (word(24)?, word(28)?);
    let mut done = 0;
    for page in header.get(32..)?.chunks_exact(8) {
        let pfn = u64::from_le_bytes(page.try_into().ok()?);
        let skip = if done == 0 { offset } else { 0 };
        let part = (PAGE - skip).min(len - done);
        let place = to.get_mut(done..done + part)?;
        if !read_gpa(pfn * PAGE as u64 + skip as u64, place) {
            return None;
        }
        done += part;
    }
    Some(done).filter(|done| *done == len)
}

#[kunit_tests(hv_netvsc_memory)]
mod tests {
    use super::*;
    use crate::net::HostPages;
    use crate::vmbus::gpadl;

    #[test]
    fn a_shared_buffer_is_zeroed_and_copied_within_its_bounds() -> Result {
        let bench = Bench::new()?;
        let buffer = SharedBuffer::establish(bench.reference(), 3 * PAGE, None, soon())?;
        assert_eq!((buffer.len(), bench.device.shared()), (3 * PAGE, 1));
        let mut bytes = [1u8; 64];
        buffer.copy_out(3 * PAGE - 64, &mut bytes)?;
        assert_eq!(bytes, [0; 64]);
        // Over the border of two pages that need not be neighbours.
        buffer.copy_in(PAGE - 10, b"twenty bytes of text")?;
        let mut text = [0u8; 20];
        buffer.copy_out(PAGE - 10, &mut text)?;
        assert_eq!(&text, b"twenty bytes of text");
        assert_eq!(buffer.copy_out(3 * PAGE - 63, &mut bytes), Err(EINVAL));
        assert_eq!(buffer.copy_in(usize::MAX, &bytes), Err(EINVAL));
        let view = buffer.view(PAGE, PAGE).ok_or(EINVAL)?;
        assert!(view.view(PAGE - 8, 9).is_none() && view.view(PAGE, 0).is_some());
        let pages = buffer.teardown(soon())?;
        assert_eq!(bench.device.shared(), 0);
        // What was in it is still there when it is shared again.
        let buffer = SharedBuffer::establish(bench.reference(), 3 * PAGE, Some(pages), soon())?;
        buffer.copy_out(PAGE - 10, &mut text)?;
        assert_eq!(&text, b"twenty bytes of text");
        let pages = buffer.teardown(soon())?;
        // Another size is other memory.
        let buffer = SharedBuffer::establish(bench.reference(), 4 * PAGE, Some(pages), soon())?;
        buffer.copy_out(PAGE - 10, &mut text)?;
        assert_eq!(text, [0; 20]);
        drop(buffer.teardown(soon())?);
        Ok(())
    }

    #[test]
    fn the_host_sees_the_same_bytes_as_the_guest() -> Result {
        let bench = Bench::new()?;
        let buffer = SharedBuffer::establish(bench.reference(), 2 * PAGE, None, soon())?;
        let (start, len) = bench.device.buffer(buffer.handle()).ok_or(ENOENT)?;
        assert_eq!(len, 2 * PAGE);
        buffer.copy_in(PAGE - 4, b"8 bytes.")?;
        // SAFETY: The buffer has two pages, and is written by this thread only.
        let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), len) };
        assert_eq!(&bytes[PAGE - 4..PAGE + 4], b"8 bytes.");
        let mut read = [0u8; 4];
        assert!(read_gpa(pfn(&bytes[PAGE]) * PAGE as u64, &mut read));
        assert_eq!(&read, b"tes.");
        drop(buffer.teardown(soon())?);
        Ok(())
    }

    #[test]
    fn lengths_that_no_gpadl_covers_are_refused() -> Result {
        let bench = Bench::new()?;
        for len in [0, 100, PAGE + 1, SharedBuffer::MAX_LEN + PAGE] {
            let refused = SharedBuffer::establish(bench.reference(), len, None, soon());
            assert_eq!(refused.err(), Some(EINVAL));
        }
        assert_eq!(bench.device.shared(), 0);
        Ok(())
    }

    #[test]
    fn memory_that_the_host_never_had_is_freed() -> Result {
        let bench = Bench::new()?;
        let leaked = gpadl::leaked_bytes();
        // `EDQUOT` is what `hv_vmbus` makes of a refusal.
        let refusal = Error::from_errno(-(kernel::bindings::EDQUOT as i32));
        for error in [ENOMEM, ENODEV, refusal] {
            bench.device.refuse_gpadl(error.to_errno());
            let refused = SharedBuffer::establish(bench.reference(), PAGE, None, soon());
            assert_eq!(refused.err(), Some(error));
            assert_eq!(gpadl::leaked_bytes(), leaked);
        }
        Ok(())
    }

    #[test]
    fn memory_that_the_host_may_still_use_is_kept_and_counted() -> Result {
        let bench = Bench::new()?;
        let shared = || SharedBuffer::establish(bench.reference(), PAGE, None, soon());
        let before = gpadl::leaked_bytes();
        let leaked = || (gpadl::leaked_bytes() - before) / PAGE as u64;

        bench.device.keep_gpadls(true);
        assert_eq!(shared()?.teardown(soon()).err(), Some(EIO));
        assert_eq!(leaked(), 1);
        bench.device.keep_gpadls(false);
        assert_eq!(bench.device.free_leaked(), 1);

        drop(shared()?);
        assert_eq!(leaked(), 2);
        assert_eq!(bench.device.free_leaked(), 1);

        // Part of the list of pages may have reached the host.
        bench.device.refuse_gpadl(EAGAIN.to_errno());
        assert_eq!(shared().err(), Some(EAGAIN));
        assert_eq!(leaked(), 3);
        assert_eq!(bench.device.free_leaked(), 1);

        // A host that has taken the channel away uses nothing of it.
        bench.device.refuse_gpadl(0);
        let buffer = shared()?;
        bench.device.keep_gpadls(true);
        bench.device.rescind(true);
        drop(buffer.teardown(soon())?);
        assert_eq!(leaked(), 3);
        Ok(())
    }

    #[test]
    fn a_page_for_the_host_is_written_within_a_page_only() -> Result {
        let mut pages = HostPages::new(2)?;
        let address = pages.write(PAGE + 200, b"header").ok_or(EINVAL)?;
        assert_eq!(address % PAGE as u64, 200);
        let mut read = [0u8; 6];
        assert!(read_gpa(address, &mut read));
        assert_eq!(&read, b"header");
        assert!(pages.write(PAGE - 3, b"header").is_none());
        assert!(pages.write(2 * PAGE, b"h").is_none());
        assert!(pages.write(PAGE - 6, b"header").is_some());
        Ok(())
    }

    #[test]
    fn page_ranges_lead_a_host_to_the_bytes_of_kmalloc_memory() -> Result {
        let mut bytes = KVec::<u8>::with_capacity(3 * PAGE, GFP_KERNEL)?;
        for index in 0..3 * PAGE {
            bytes.push((index % 251) as u8, GFP_KERNEL)?;
        }
        let mut read = KVec::from_elem(0u8, 3 * PAGE, GFP_KERNEL)?;
        for (offset, len) in [(0, 1), (0, PAGE), (5, PAGE), (PAGE - 1, 2), (100, 2 * PAGE)] {
            let mut header = [0u8; 128];
            let mut packet = GpaDirect::header_in_section(&mut header).map_err(|_| EINVAL)?;
            let address =
                pfn(&bytes[offset]) * PAGE as u64 + (bytes[offset..].as_ptr() as u64 % PAGE as u64);
            packet.push(address, len as u32).map_err(|_| EINVAL)?;
            let header_len = packet.finish(40, 1).ok_or(EINVAL)?;
            assert_eq!(read_range(&header[..header_len], &mut read), Some(len));
            assert!(read[..len] == bytes[offset..offset + len]);
        }
        Ok(())
    }

    #[test]
    fn page_ranges_lead_a_host_to_the_bytes_of_vmalloc_memory() -> Result {
        let mut bytes = VVec::<u8>::with_capacity(5 * PAGE, GFP_KERNEL)?;
        for index in 0..5 * PAGE {
            bytes.push((index % 241) as u8, GFP_KERNEL)?;
        }
        let mut read = KVec::from_elem(0u8, 5 * PAGE, GFP_KERNEL)?;
        for (offset, len) in [(0, 5 * PAGE), (7, PAGE), (PAGE - 1, 2), (4000, 3 * PAGE)] {
            let mut header = [0u8; 128];
            let mut packet = GpaDirect::header_in_section(&mut header).map_err(|_| EINVAL)?;
            let pages = (offset / PAGE)..=((offset + len - 1) / PAGE);
            let pfns = pages.map(|page| pfn(&bytes[page * PAGE]));
            packet
                .push_pages((offset % PAGE) as u32, len as u32, pfns)
                .map_err(|_| EINVAL)?;
            let header_len = packet.finish(40, 1).ok_or(EINVAL)?;
            assert_eq!(read_range(&header[..header_len], &mut read), Some(len));
            assert!(read[..len] == bytes[offset..offset + len]);
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! XDP: programs of the administrator that decide about received frames before the stack sees them.
//!
//! C headers: `include/net/xdp.h`, `include/linux/filter.h`.

use super::{
    device::net_down, host_pages::PAGE_SIZE, napi::PollContext, rx::RxFrame, Device, Rtnl, SkBuff,
    SkbList, SoftIrq,
};
use crate::bindings;
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};
use kernel::prelude::*;

/// Largest frame that a program without support of fragments can be given.
pub(crate) const LARGEST_FRAME: u32 = bindings::NETVSC_XDP_ROOM;

/// A reference to a program.
///
/// # Invariants
///
/// The pointer is valid, and this owns one reference.
pub(crate) struct BpfProgram(NonNull<bindings::bpf_prog>);

// SAFETY: References are counted atomically and may be given back anywhere.
unsafe impl Send for BpfProgram {}

impl BpfProgram {
    /// Another reference to a program; `None` for none.
    ///
    /// # Safety
    ///
    /// `raw` is null or valid.
    pub(super) unsafe fn get(raw: *mut bindings::bpf_prog) -> Option<Self> {
        let raw = NonNull::new(raw)?;
        // SAFETY: Valid by the requirement.
        unsafe { bindings::bpf_prog_inc(raw.as_ptr()) };
        // INVARIANT: Just counted.
        Some(Self(raw))
    }

    /// Whether it can be given frames in several pieces.
    pub(crate) fn takes_fragments(&self) -> bool {
        takes_fragments(self.0)
    }
}

impl Drop for BpfProgram {
    fn drop(&mut self) {
        // SAFETY: Gives back the reference of the invariant. The program is freed only after all softirq sections
        // that run now.
        unsafe { bindings::bpf_prog_put(self.0.as_ptr()) };
    }
}

fn takes_fragments(program: NonNull<bindings::bpf_prog>) -> bool {
    // SAFETY: Whoever calls has the program alive; both fields never change.
    unsafe { (*(*program.as_ptr()).aux).xdp_has_frags }
}

/// The program of an interface.
///
/// # Invariants
///
/// `program` is null or from a [`BpfProgram`], whose reference this owns.
pub(crate) struct XdpSlot {
    program: AtomicPtr<bindings::bpf_prog>,
    expected: AtomicBool,
}

impl XdpSlot {
    /// No program.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Null.
        Self {
            program: AtomicPtr::new(ptr::null_mut()),
            expected: AtomicBool::new(false),
        }
    }

    /// The program to run.
    #[inline]
    pub(crate) fn program<'a>(&'a self, _section: SoftIrq<'a>) -> Option<XdpProgram<'a>> {
        let program = NonNull::new(self.program.load(Ordering::Acquire))?;
        // INVARIANT: The slot's reference is given back only after the pointer has left the slot, and the program
        // freed only after this section.
        Some(XdpProgram(program, PhantomData))
    }

    /// Replaces the program.
    pub(crate) fn install(&self, _rtnl: &Rtnl, program: Option<BpfProgram>) {
        let new = program.map_or(ptr::null_mut(), |program| {
            ManuallyDrop::new(program).0.as_ptr()
        });
        // INVARIANT: The slot takes over the reference.
        let old = self.program.swap(new, Ordering::AcqRel);
        // INVARIANT: The old program's reference was the slot's.
        drop(NonNull::new(old).map(BpfProgram));
    }

    /// Whether there is a program, and one that cannot be given fragments.
    pub(crate) fn limits_frames(&self, _rtnl: &Rtnl) -> bool {
        let program = NonNull::new(self.program.load(Ordering::Relaxed));
        // RTNL keeps the program in the slot.
        program.is_some_and(|program| !takes_fragments(program))
    }

    /// Whether there is a program or will be one soon, so that the host must not put frames together.
    pub(crate) fn expects_program(&self) -> bool {
        self.expected.load(Ordering::Relaxed)
    }

    /// See [`XdpSlot::expects_program`].
    pub(crate) fn expect_program(&self, _rtnl: &Rtnl, expected: bool) {
        self.expected.store(expected, Ordering::Relaxed);
    }
}

impl Drop for XdpSlot {
    fn drop(&mut self) {
        // INVARIANT: As in `install`.
        drop(NonNull::new(*self.program.get_mut()).map(BpfProgram));
    }
}

/// A program for the length of a softirq section.
///
/// # Invariants
///
/// The pointer is valid for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct XdpProgram<'a>(NonNull<bindings::bpf_prog>, PhantomData<&'a XdpSlot>);

/// What became of a frame.
pub(crate) enum XdpVerdict {
    /// The stack has it; whether it was for a group of stations.
    Passed(bool),
    /// It is to be sent back, when the poll ends.
    SentBack,
    /// Another interface, CPU or socket has it.
    Redirected,
    /// It is gone: the program said so, failed, or cannot be given such a frame.
    Dropped,
}

impl RxFrame<'_> {
    /// Copies the frame to pages and has `program` decide what becomes of it. `ENOMEM` if there is no memory,
    /// `ENETDOWN` if the interface is down.
    #[inline(never)]
    pub(crate) fn filter<T>(
        &mut self,
        program: XdpProgram<'_>,
        poll: &PollContext<'_>,
        dev: &Device<T>,
    ) -> Result<XdpVerdict> {
        if !dev.is_running() {
            return Err(net_down());
        }
        if self.len() > LARGEST_FRAME && !takes_fragments(program.0) {
            return Ok(XdpVerdict::Dropped);
        }
        let mut buffer = XdpBuffer::new(self, poll)?;
        self.fill_checksums(buffer.linear());
        let (raw, dev_raw) = (program.0.as_ptr(), dev.as_raw());
        // SAFETY: Program and buffer are valid; the poll runs with bottom halves disabled.
        let action = unsafe { bindings::bpf_prog_run_xdp(raw, &raw mut buffer.0) };
        match action {
            bindings::xdp_action_XDP_PASS => {
                let skb = buffer.into_skb()?;
                return Ok(XdpVerdict::Passed(self.pass(skb, poll, dev)));
            }
            bindings::xdp_action_XDP_TX => {
                let mut skb = buffer.into_skb()?;
                self.put_vlan_tag(&mut skb);
                poll.send_back(skb);
                return Ok(XdpVerdict::SentBack);
            }
            // SAFETY: As above. On success the buffer is given away.
            bindings::xdp_action_XDP_REDIRECT => unsafe {
                if bindings::xdp_do_redirect(dev_raw, &raw mut buffer.0, raw) == 0 {
                    buffer.forget();
                    poll.redirected();
                    return Ok(XdpVerdict::Redirected);
                }
                bindings::trace_xdp_exception(dev_raw, raw, action);
            },
            bindings::xdp_action_XDP_DROP => {}
            // SAFETY: Device and program are valid.
            bindings::xdp_action_XDP_ABORTED => unsafe {
                bindings::trace_xdp_exception(dev_raw, raw, action);
            },
            // SAFETY: As above.
            _ => unsafe {
                bindings::bpf_warn_invalid_xdp_action(dev_raw, raw, action);
                bindings::trace_xdp_exception(dev_raw, raw, action);
            },
        }
        Ok(XdpVerdict::Dropped)
    }
}

/// A frame in pages of a pool, as programs take it.
///
/// # Invariants
///
/// What it points to is one page of the pool of a poll, and pages that were added as fragments; it owns them.
struct XdpBuffer<'a>(bindings::xdp_buff, PhantomData<&'a PollContext<'a>>);

impl<'a> XdpBuffer<'a> {
    fn new(frame: &RxFrame<'_>, poll: &'a PollContext<'a>) -> Result<Self> {
        let first = frame.len().min(LARGEST_FRAME);
        let (_, page) = allocate(poll).ok_or(ENOMEM)?;
        let mut buffer = bindings::xdp_buff::default();
        // SAFETY: A whole page, of which the frame gets the part between the headroom and what the end of a buffer is
        // kept for, which `LARGEST_FRAME` leaves. The receive queue's information lives as long as its poll.
        unsafe {
            let headroom = bindings::XDP_PACKET_HEADROOM;
            bindings::xdp_init_buff(&mut buffer, PAGE_SIZE as u32, poll.rxq());
            bindings::xdp_prepare_buff(
                &mut buffer,
                page.as_ptr(),
                headroom as i32,
                first as i32,
                true,
            );
            frame.copy_to(0, page.as_ptr().add(headroom as usize), first);
        }
        // INVARIANT: The page was allocated for it.
        let mut buffer = Self(buffer, PhantomData);
        buffer.add_fragments(frame, first, poll)?;
        Ok(buffer)
    }

    /// Adds what of the frame lies behind byte `done`.
    fn add_fragments(
        &mut self,
        frame: &RxFrame<'_>,
        mut done: u32,
        poll: &PollContext<'_>,
    ) -> Result {
        while done < frame.len() {
            let part = frame.len().saturating_sub(done).min(PAGE_SIZE as u32);
            let (memory, page) = allocate(poll).ok_or(ENOMEM)?;
            // SAFETY: A whole page, of which the first `part` bytes are written and belong to the fragment; the buffer
            // has room for the fragment or says that it has not.
            // INVARIANT: An added page is the buffer's.
            unsafe {
                frame.copy_to(done, page.as_ptr(), part);
                if !bindings::xdp_buff_add_frag(&mut self.0, memory, 0, part, PAGE_SIZE as u32) {
                    bindings::page_pool_put_full_netmem(poll.page_pool(), memory, true);
                    return Err(ENOMEM);
                }
            }
            done = done.wrapping_add(part);
        }
        Ok(())
    }

    /// The bytes of the first page.
    fn linear(&mut self) -> &mut [u8] {
        // SAFETY: From `data` to `data_end` the page is initialised, and ours alone.
        unsafe {
            let data = self.0.data.cast::<u8>();
            let len = self.0.data_end.cast::<u8>().offset_from_unsigned(data);
            core::slice::from_raw_parts_mut(data, len)
        }
    }

    /// As a socket buffer for the interface that it was received on, its data at the network header.
    fn into_skb(self) -> Result<SkBuff> {
        // SAFETY: The buffer is valid, in a NAPI poll; its pages are the result's if there is one.
        let skb = unsafe { bindings::xdp_build_skb_from_buff(&self.0) };
        if skb.is_null() {
            return Err(ENOMEM);
        }
        self.forget();
        // SAFETY: New and ours.
        Ok(unsafe { SkBuff::from_raw(skb) })
    }

    /// Its pages belong to somebody else now.
    fn forget(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl Drop for XdpBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: Gives the pages back to their pool, in the poll that they were allocated in.
        unsafe { bindings::xdp_return_buff(&mut self.0) };
    }
}

/// A page of the poll's pool.
fn allocate(poll: &PollContext<'_>) -> Option<(bindings::netmem_ref, NonNull<u8>)> {
    // SAFETY: The pool belongs to the poll that runs.
    let memory = unsafe { bindings::page_pool_dev_alloc_netmems(poll.page_pool()) };
    if memory == 0 {
        return None;
    }
    // SAFETY: Just allocated, from a pool of pages.
    let page = unsafe { bindings::netmem_address(memory) };
    Some((memory, NonNull::new(page.cast())?))
}

/// Frames that somebody redirected to an interface.
pub(crate) struct XdpFrames<'a>(pub(super) &'a [*mut bindings::xdp_frame]);

impl XdpFrames<'_> {
    /// As socket buffers for `dev` to send. Those that there is no memory for, and all behind them, stay with
    /// their owner.
    pub(crate) fn to_skbs<T>(&self, dev: &Device<T>) -> SkbList {
        let mut list = SkbList::new();
        for frame in self.0 {
            // SAFETY: The frame is valid and given away if there is a result, which is ours.
            let skb = unsafe {
                let skb = bindings::xdp_build_skb_from_frame(*frame, dev.as_raw());
                if skb.is_null() {
                    break;
                }
                SkBuff::from_raw(skb)
            };
            list.push(skb.with_link_header());
        }
        list
    }
}

/// Where the kernel tells the administrator why it refused something.
pub(crate) struct ExtAck<'a>(*mut bindings::netlink_ext_ack, PhantomData<&'a ()>);

impl ExtAck<'_> {
    /// # Safety
    ///
    /// `raw` is null or valid for as long as the result is used.
    pub(super) unsafe fn from_raw(raw: *mut bindings::netlink_ext_ack) -> Self {
        Self(raw, PhantomData)
    }

    /// Gives a reason.
    pub(crate) fn say(&self, reason: &'static CStr) {
        if !self.0.is_null() {
            // SAFETY: Valid by the promise of `from_raw`; the text is there for ever.
            unsafe { (*self.0)._msg = reason.as_char_ptr() };
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! NAPI: a poll context and the state that only its poll touches.
//!
//! C header: `include/linux/netdevice.h`.

use super::{
    grace_period::GracePeriod, Config, Device, DeviceRef, SkBuff, SkbList, SoftIrq, PAGE_SIZE,
};
use crate::bindings;
use core::{
    cell::{Cell, UnsafeCell},
    marker::PhantomPinned,
    ops::Deref,
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};
use kernel::{
    error::{from_err_ptr, to_result},
    ffi::c_int,
    prelude::*,
    sync::Arc,
    types::{NotThreadSafe, Opaque},
};

/// Pages that a pool keeps for later.
const POOL_PAGES: u32 = 256;

/// How a poll ended.
pub(crate) enum Progress {
    /// Everything is handled; so many packets were received.
    Done(u32),
    /// There is more: poll again at once.
    More,
}

/// What a NAPI context polls.
pub(crate) trait Poll: Send + Sync + Sized + 'static {
    /// State that only the poll touches.
    type State: Send;

    /// Receives up to `budget` packets. With a budget of 0 (netpoll: any context, interrupts off) it may
    /// only see to what was sent; what it returns then does not matter. Otherwise runs in softirq.
    fn poll(&self, poll: &PollContext<'_>, state: &mut Self::State, budget: u32) -> Progress;

    /// Lets interrupts come again after a poll that was [`Progress::Done`]. True if something came
    /// meanwhile for which there will be no interrupt. Another poll may be running already.
    fn unmask(&self, section: SoftIrq<'_>) -> bool;

    /// Undoes [`Poll::unmask`], because another poll follows.
    fn mask(&self, section: SoftIrq<'_>);
}

/// A NAPI context around `T`. Dereferences to `T`.
///
/// Lives in an [`Arc`] because interrupts refer to it; exists only registered (see
/// [`NapiRegistration`]) or deleted, so that scheduling is always sound: a context that is disabled
/// or deleted has `NAPI_STATE_SCHED` set and is not scheduled.
///
/// # Invariants
///
/// `napi` was given to `netif_napi_add` with our poll function. `page_pool` was made for it, and `rxq` registered with
/// that pool, before the first poll; both are there until the last one has ended.
#[pin_data]
pub(crate) struct Napi<T: Poll> {
    #[pin]
    napi: Opaque<bindings::napi_struct>,
    page_pool: AtomicPtr<bindings::page_pool>,
    #[pin]
    rxq: Opaque<bindings::xdp_rxq_info>,
    data: T,
    state: UnsafeCell<T::State>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: `data` is `Send + Sync` by `Poll`, `state` is `Send`; the C object has its own locking.
unsafe impl<T: Poll> Send for Napi<T> {}
// SAFETY: As above; `state` is reached only in the poll, which the core never runs twice at a time.
unsafe impl<T: Poll> Sync for Napi<T> {}

impl<T: Poll> Deref for Napi<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T: Poll> Napi<T> {
    /// Schedules the poll unless it is scheduled or disabled. `prepare` runs first, in the one case
    /// that it is going to be scheduled. For hard interrupts.
    #[inline]
    pub(crate) fn schedule_irqoff(&self, prepare: impl FnOnce()) {
        // SAFETY: Added by the invariant; may be called in any context.
        if unsafe { bindings::napi_schedule_prep(self.napi.get()) } {
            prepare();
            // SAFETY: `napi_schedule_prep` gave us the right to schedule; interrupts are off in a
            // hard interrupt.
            unsafe { bindings::__napi_schedule_irqoff(self.napi.get()) };
        }
    }

    /// Schedules the poll unless it is scheduled or disabled. Any context.
    pub(crate) fn schedule(&self) {
        self.schedule_with(|| ());
    }

    fn schedule_with(&self, prepare: impl FnOnce()) {
        // SAFETY: Added by the invariant; may be called in any context.
        if unsafe { bindings::napi_schedule_prep(self.napi.get()) } {
            prepare();
            // SAFETY: As in `schedule_irqoff`; this form saves the interrupt state itself.
            unsafe { bindings::__napi_schedule(self.napi.get()) };
        }
    }

    extern "C" fn poll_trampoline(napi: *mut bindings::napi_struct, budget: c_int) -> c_int {
        // SAFETY: The core calls with the `napi_struct` that was added, which is the `napi` member
        // of a `Self` that lives until a grace period after the deletion has ended (`Opaque` is transparent).
        let this = unsafe {
            &*kernel::container_of!(napi.cast::<Opaque<bindings::napi_struct>>(), Self, napi)
        };
        let context = PollContext {
            napi,
            page_pool: this.page_pool.load(Ordering::Relaxed),
            rxq: this.rxq.get(),
            sent_back: Cell::new(SkbList::new()),
            redirected: Cell::new(false),
            // SAFETY: NAPI polls run with bottom halves disabled, or interrupts (netpoll).
            section: unsafe { SoftIrq::assume() },
            _thread: NotThreadSafe,
        };
        let budget = u32::try_from(budget).unwrap_or(0);
        let progress = {
            // SAFETY: The core runs one poll of a NAPI at a time, up to `napi_complete_done` (netpoll's by
            // `poll_owner`), and nothing else reaches `state`. The reference ends before that.
            let state = unsafe { &mut *this.state.get() };
            this.data.poll(&context, state, budget)
        };
        match progress {
            // Netpoll has not scheduled the poll, so there is nothing to complete.
            _ if budget == 0 => 0,
            // At the budget, the core polls again.
            Progress::More => budget as c_int,
            Progress::Done(work) => this.finish(napi, work.min(budget.wrapping_sub(1))),
        }
    }

    /// Ends a poll that has received `work` packets, less than its budget.
    fn finish(&self, napi: *mut bindings::napi_struct, work: u32) -> c_int {
        // SAFETY: NAPI polls run with bottom halves disabled.
        let section = unsafe { SoftIrq::assume() };
        // SAFETY: Called at the end of a poll of this NAPI, once.
        let completed = unsafe { bindings::napi_complete_done(napi, work as c_int) };
        if completed && self.data.unmask(section) {
            self.schedule_with(|| self.data.mask(section));
        }
        work as c_int
    }
}

/// Makes a pool of pages for the poll of `napi`.
///
/// # Safety
///
/// Device and NAPI live until the pool was destroyed.
unsafe fn create_pool(
    dev: *mut bindings::net_device,
    napi: *mut bindings::napi_struct,
    queue: u16,
) -> Result<*mut bindings::page_pool> {
    let mut params = bindings::page_pool_params::default();
    // SAFETY: Both members of each union have the same fields.
    let (fast, slow) = unsafe {
        (
            &mut params.__bindgen_anon_1.fast,
            &mut params.__bindgen_anon_2.slow,
        )
    };
    fast.pool_size = POOL_PAGES;
    fast.nid = bindings::NUMA_NO_NODE;
    fast.napi = napi;
    slow.netdev = dev;
    slow.queue_idx = queue.into();
    // SAFETY: The caller's promise; the parameters are copied.
    from_err_ptr(unsafe { bindings::page_pool_create(&params) })
}

/// Runs inside a NAPI poll.
pub(crate) struct PollContext<'a> {
    napi: *mut bindings::napi_struct,
    page_pool: *mut bindings::page_pool,
    rxq: *mut bindings::xdp_rxq_info,
    sent_back: Cell<SkbList>,
    redirected: Cell<bool>,
    section: SoftIrq<'a>,
    _thread: NotThreadSafe,
}

impl<'a> PollContext<'a> {
    /// The NAPI being polled.
    pub(super) fn as_napi(&self) -> *mut bindings::napi_struct {
        self.napi
    }

    /// The pool of pages that belongs to the NAPI.
    pub(super) fn page_pool(&self) -> *mut bindings::page_pool {
        self.page_pool
    }

    /// What XDP programs learn of the queue.
    pub(super) fn rxq(&self) -> *mut bindings::xdp_rxq_info {
        self.rxq
    }

    /// An XDP program wants a received frame to be sent. Its data are at the network header.
    pub(super) fn send_back(&self, skb: SkBuff) {
        let mut list = self.sent_back.take();
        list.push(skb.with_link_header());
        self.sent_back.set(list);
    }

    /// An XDP program has redirected a frame.
    pub(super) fn redirected(&self) {
        self.redirected.set(true);
    }

    /// Completes what XDP programs redirected in this poll, and returns what they want to be sent.
    pub(crate) fn finish_xdp(&self) -> SkbList {
        if self.redirected.replace(false) {
            // SAFETY: In a NAPI poll.
            unsafe { bindings::xdp_do_flush() };
        }
        self.sent_back.take()
    }

    /// The softirq section that the poll runs in.
    #[inline]
    pub(crate) fn section(&self) -> SoftIrq<'a> {
        self.section
    }
}

/// A NAPI context in its device's list. Dropping deletes it and waits, see [`NapiRegistration::delete`].
pub(crate) struct NapiRegistration<T: Poll, D> {
    napi: Arc<Napi<T>>,
    dev: DeviceRef<D>,
    index: u16,
    enabled: bool,
    linked: AtomicBool,
    listed: bool,
}

impl<T: Poll, D> NapiRegistration<T, D> {
    /// Adds a disabled NAPI for queue `index` of `dev`. Settings that the user made for this index
    /// come back (`netif_napi_add_config`). Apart from its callers: it needs a good part of a kernel stack.
    #[inline(never)]
    pub(crate) fn new(
        dev: &Device<D>,
        index: u16,
        data: T,
        state: T::State,
        _config: &Config<'_>,
    ) -> Result<Self> {
        if u32::from(index) >= dev.rx_queues().min(dev.tx_queues()) {
            return Err(EINVAL);
        }
        let napi = Arc::pin_init(
            pin_init!(Napi {
                // SAFETY: `slot` is valid for writes; all zeroes is what C expects before the add.
                napi <- Opaque::ffi_init(|slot: *mut bindings::napi_struct| unsafe {
                    slot.write_bytes(0, 1)
                }),
                page_pool: AtomicPtr::new(core::ptr::null_mut()),
                // SAFETY: `slot` is valid for writes; all zeroes is "not registered".
                rxq <- Opaque::ffi_init(|slot: *mut bindings::xdp_rxq_info| unsafe {
                    slot.write_bytes(0, 1)
                }),
                data,
                state: UnsafeCell::new(state),
                _pin: PhantomPinned,
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: `dev` is alive and stays so while we hold a reference; `napi` is zeroed, pinned in
        // its `Arc`, and lives until a grace period after its deletion has ended (`DeletedNapi`); `index` was checked.
        // INVARIANT: This is the add that `Napi` speaks of.
        unsafe {
            bindings::netif_napi_add_config(
                dev.as_raw(),
                napi.napi.get(),
                Some(Napi::<T>::poll_trampoline),
                index.into(),
            )
        };
        let this = Self {
            napi,
            dev: dev.to_ref(),
            index,
            enabled: false,
            linked: AtomicBool::new(false),
            listed: true,
        };
        // SAFETY: The device is alive, and the NAPI was just added; it is deleted after the pool has gone.
        let pool = unsafe { create_pool(dev.as_raw(), this.napi.napi.get(), index) }?;
        this.napi.page_pool.store(pool, Ordering::Relaxed);
        this.register_rxq(pool)?;
        Ok(this)
    }

    /// Registers what XDP programs learn of the queue.
    fn register_rxq(&self, pool: *mut bindings::page_pool) -> Result {
        let rxq = self.napi.rxq.get();
        // SAFETY: Zeroed and pinned with the NAPI; the device is alive, and the pool until `rxq` is unregistered.
        unsafe {
            to_result(bindings::__xdp_rxq_info_reg(
                rxq,
                self.dev.as_raw(),
                self.index.into(),
                0,
                PAGE_SIZE as u32,
            ))?;
            to_result(bindings::xdp_rxq_info_reg_mem_model(
                rxq,
                bindings::xdp_mem_type_MEM_TYPE_PAGE_POOL,
                pool.cast(),
            ))
        }
    }

    /// The context, for interrupts and the transmit path.
    pub(crate) fn napi(&self) -> &Arc<Napi<T>> {
        &self.napi
    }

    /// Lets the poll run.
    pub(crate) fn enable(&mut self) {
        if !self.enabled {
            // SAFETY: Added, and disabled since.
            unsafe { bindings::napi_enable(self.napi.napi.get()) };
            self.enabled = true;
        }
    }

    /// Waits for the poll and keeps it from running. Sleeps.
    pub(crate) fn disable(&mut self) {
        if self.enabled {
            // SAFETY: Added and enabled; configuration may sleep.
            unsafe { bindings::napi_disable(self.napi.napi.get()) };
            self.enabled = false;
        }
    }

    /// Tells netlink that this NAPI serves its queue, once the queue exists.
    pub(crate) fn link(&self, _config: &Config<'_>) {
        self.say_who_serves(self.napi.napi.get());
        self.linked.store(true, Ordering::Relaxed);
    }

    /// Disables the context, waits for its poll, and takes it off its device's list. What others that run now may
    /// still see of it stays until the result is dropped, which waits; so several can be deleted for one wait.
    pub(crate) fn delete(mut self) -> DeletedNapi<T> {
        self.unlist()
    }

    /// To be called once.
    fn unlist(&mut self) -> DeletedNapi<T> {
        self.disable();
        let pool = self
            .napi
            .page_pool
            .swap(core::ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: Made in `new`, if at all (null is none, zeroes are not registered); no poll uses them any more. Pages
        // that are still in socket buffers come back to the pool later.
        unsafe {
            let rxq = self.napi.rxq.get();
            if bindings::xdp_rxq_info_is_reg(rxq) {
                bindings::xdp_rxq_info_unreg(rxq);
            }
            bindings::page_pool_destroy(pool);
        }
        // Whoever links holds a `Config`, and so does whoever deletes a linked registration (configuration owns
        // these).
        if self.linked.load(Ordering::Relaxed) {
            self.say_who_serves(core::ptr::null_mut());
        }
        // SAFETY: Added in `new`, disabled just now; the device is alive. The memory stays for a grace period:
        // the result sees to that.
        unsafe { bindings::__netif_napi_del(self.napi.napi.get()) };
        self.listed = false;
        DeletedNapi {
            napi: self.napi.clone(),
            readers: GracePeriod::from_now(),
        }
    }

    /// Under RTNL, or before the device is registered.
    fn say_who_serves(&self, napi: *mut bindings::napi_struct) {
        let (receive, transmit) = (
            bindings::netdev_queue_type_NETDEV_QUEUE_TYPE_RX,
            bindings::netdev_queue_type_NETDEV_QUEUE_TYPE_TX,
        );
        for kind in [receive, transmit] {
            // SAFETY: The device is alive and has the queue; `napi` is null, or ours and added.
            unsafe {
                bindings::netif_queue_set_napi(self.dev.as_raw(), self.index.into(), kind, napi)
            };
        }
    }
}

impl<T: Poll, D> Drop for NapiRegistration<T, D> {
    fn drop(&mut self) {
        if self.listed {
            drop(self.unlist());
        }
    }
}

/// A NAPI context that was taken off its device's list, for as long as somebody may see it there. Dropping it waits
/// for them.
pub(crate) struct DeletedNapi<T: Poll> {
    napi: Arc<Napi<T>>,
    readers: GracePeriod,
}

impl<T: Poll> Deref for DeletedNapi<T> {
    type Target = Napi<T>;

    fn deref(&self) -> &Napi<T> {
        &self.napi
    }
}

impl<T: Poll> Drop for DeletedNapi<T> {
    fn drop(&mut self) {
        self.readers.wait();
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Channels: who owns them, and how they are opened and closed.
//!
//! C header: `include/linux/hyperv.h`, `struct vmbus_channel`. What can be done with an open channel is in
//! [`crate::vmbus::send`] and [`crate::vmbus::receive`]; how sub-channels come into being in
//! [`crate::vmbus::subchannel`].
//!
//! A [`Channel`] is closed and has one owner. [`Channel::open`] turns it into an [`OpenChannel`], and
//! [`OpenChannel::close`] turns that back. Both have a deadline, although `hv_vmbus` would wait for the host
//! without limit: see [`crate::vmbus::bounded`]. When it passes, whoever called goes on without the channel,
//! and gets it back if the host answers after all.

use crate::{
    bindings,
    vmbus::{
        bounded::{begin, bounded},
        completion::{Completion, Deadline},
        device::Device,
        subchannel::Arrivals,
    },
};
use core::{marker::PhantomData, ptr::NonNull, sync::atomic::AtomicBool};
use kernel::{
    device,
    error::to_result,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Acquire, Atomic, AtomicFlag, Full, Relaxed},
        Arc, SpinLock,
    },
    time::{Delta, Msecs},
};

/// How often a wait looks whether the channel was rescinded: `hv_vmbus` does not wake waiters of ours.
const RESCIND_POLL_MS: Msecs = 50;

/// Bytes of a page of the protocol, and of a ring's header.
const PAGE: u32 = crate::vmbus::packet::PAGE_SIZE;

/// Primary channels that could not be closed because a sub-channel was still in use.
static LEAKED: Atomic<u64> = Atomic::new(0);

/// How many open channels were leaked since the module was loaded, see [`OpenChannel::close`].
pub fn leaked() -> u64 {
    LEAKED.load(Relaxed)
}

/// What the channels of one device have in common.
#[pin_data]
pub(super) struct Group {
    device: ARef<Device>,
    /// [`Group::CLOSED`], or the number of sub-channels open beside the primary.
    open: Atomic<i32>,
    #[pin]
    pub(super) arrivals: SpinLock<Arrivals>,
    /// Signalled for each sub-channel that arrives.
    #[pin]
    pub(super) arrived: Completion,
}

impl Group {
    const CLOSED: i32 = -1;

    fn new(device: ARef<Device>) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                device,
                open: Atomic::new(Self::CLOSED),
                arrivals <- new_spinlock!(Arrivals::new()),
                arrived <- Completion::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Counts a sub-channel in, unless the primary is closed.
    fn enter(&self) -> Result {
        let mut open = self.open.load(Relaxed);
        while open != Self::CLOSED {
            match self.open.cmpxchg(open, open.wrapping_add(1), Full) {
                Ok(_) => return Ok(()),
                Err(now) => open = now,
            }
        }
        Err(ENODEV)
    }
}

/// A reference to a channel, open or closed: keeps the C object in memory, and gives access to what
/// never depends on the channel's state. May be dropped only where sleeping is allowed.
///
/// # Invariants
///
/// `raw` points at a valid `struct vmbus_channel`. If it is the primary of `group.device`, it lives as
/// long as that; otherwise `self` owns a reference to its `kobj`.
pub struct ChannelRef {
    raw: NonNull<bindings::vmbus_channel>,
    group: Arc<Group>,
    is_primary: bool,
}

// SAFETY: The C object is shared between all CPUs and has its own locking; its references can be
// released from any thread.
unsafe impl Send for ChannelRef {}

// SAFETY: As above: the methods read single words that others may write, or call C functions that
// may be called at any time.
unsafe impl Sync for ChannelRef {}

impl Clone for ChannelRef {
    fn clone(&self) -> Self {
        if !self.is_primary {
            // SAFETY: By the type invariant we own a reference already.
            unsafe { bindings::kobject_get(&raw mut (*self.as_raw()).kobj) };
        }
        // INVARIANT: `group` holds the device for a primary, the reference just taken a sub-channel.
        Self {
            raw: self.raw,
            group: self.group.clone(),
            is_primary: self.is_primary,
        }
    }
}

impl Drop for ChannelRef {
    fn drop(&mut self) {
        if !self.is_primary {
            // SAFETY: By the type invariant we own a reference, which ends here.
            unsafe { bindings::kobject_put(&raw mut (*self.as_raw()).kobj) };
        }
    }
}

impl ChannelRef {
    /// Takes over a reference to the `kobj` of a sub-channel.
    ///
    /// # Safety
    ///
    /// `raw` is a valid sub-channel of `group`, and the caller gives a reference to its `kobj` away.
    pub(super) unsafe fn subchannel(
        raw: NonNull<bindings::vmbus_channel>,
        group: Arc<Group>,
    ) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            raw,
            group,
            is_primary: false,
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::vmbus_channel {
        self.raw.as_ptr()
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The device that the channel belongs to.
    pub fn device(&self) -> &device::Device {
        (*self.group.device).as_ref()
    }

    /// Whether this is the device's primary channel.
    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// The host's name for the channel.
    pub fn relid(&self) -> u32 {
        // SAFETY: Valid by the type invariant; set when the channel was offered. Packed, so a copy.
        unsafe { (*self.as_raw()).offermsg.child_relid }
    }

    /// 0 for the primary channel; for sub-channels what the host says, which is not checked here.
    pub fn index(&self) -> u16 {
        // SAFETY: As in `relid`.
        unsafe { (*self.as_raw()).offermsg.offer.sub_channel_index }
    }

    /// The CPU that the host interrupts for this channel. Changes when the user moves the channel.
    pub fn target_cpu(&self) -> u32 {
        // SAFETY: Valid by the type invariant; an aligned word is read whole.
        unsafe { (&raw const (*self.as_raw()).target_cpu).read_volatile() }
    }

    /// Whether the host has taken the channel away: then nothing can be sent any more.
    pub fn rescinded(&self) -> bool {
        // SAFETY: Valid by the type invariant; `hv_vmbus` writes it once, false to true.
        unsafe { (&raw const (*self.as_raw()).rescind).read_volatile() }
    }

    /// Waits for `completion`, which the host's answer on this channel signals.
    ///
    /// `ETIMEDOUT` when `deadline` passes first, `ENODEV` when the host takes the channel away.
    pub fn wait(&self, completion: &Completion, deadline: Deadline) -> Result {
        while !completion.wait_slice(deadline, RESCIND_POLL_MS) {
            if self.rescinded() {
                return Err(ENODEV);
            }
            if deadline.passed() {
                // The signal may have come between the wait and the look at the clock.
                return completion.try_wait().then_some(()).ok_or(ETIMEDOUT);
            }
        }
        Ok(())
    }
}

/// Geometry of a channel's rings.
#[derive(Clone, Copy, Debug)]
pub struct OpenConfig {
    /// Bytes of each of the two rings, header page included; a multiple of 4096.
    pub ring_bytes: u32,
    /// Bytes of the largest packet that can be received, descriptor included; longer ones are cut.
    pub max_packet: u32,
}

impl OpenConfig {
    /// Smallest ring: with the header page off, a packet of any allowed size fits in what is left.
    pub const MIN_RING: u32 = 4 * PAGE;
    /// Largest ring: far above what is useful, and the sum of two is far from overflowing.
    pub const MAX_RING: u32 = 16 << 20;

    fn check(&self) -> Result {
        let ring = self.ring_bytes;
        // `hv_vmbus` copies up to `max_packet` bytes out of a ring that is mapped twice in a row:
        // more than one ring's data must never be asked for.
        let fits = self.max_packet >= crate::vmbus::packet::DESCRIPTOR_LEN as u32
            && self.max_packet < ring.saturating_sub(PAGE);
        if ring % PAGE != 0 || !(Self::MIN_RING..=Self::MAX_RING).contains(&ring) || !fits {
            return Err(EINVAL);
        }
        Ok(())
    }
}

/// What an open channel's interrupt tells.
pub trait Interrupt: Send + Sync + 'static {
    /// The host has put packets into an empty ring. Called in hard interrupt context, maybe before
    /// [`Channel::open`] has returned; must do no more than schedule the work.
    fn channel_interrupt(&self, channel: &InterruptedChannel<'_>);
}

/// The channel whose interrupt is being handled.
pub struct InterruptedChannel<'a> {
    raw: NonNull<bindings::vmbus_channel>,
    _context: PhantomData<&'a ()>,
}

impl InterruptedChannel<'_> {
    /// Asks the host for no further interrupts, until [`OpenChannel::unmask`].
    #[inline]
    pub fn mask(&self) {
        // SAFETY: The interrupt handler runs under the channel's `sched_lock`, which keeps the rings
        // in place (`vmbus_reset_channel_cb` takes it before they are freed).
        unsafe { bindings::hv_begin_read(&raw mut (*self.raw.as_ptr()).inbound) };
    }
}

/// What the interrupt callback is given.
struct Context<H> {
    raw: NonNull<bindings::vmbus_channel>,
    handler: Arc<H>,
}

// SAFETY: `raw` is only passed on to functions that may be called on any CPU; `H` is `Send + Sync`.
unsafe impl<H: Interrupt> Send for Context<H> {}

// SAFETY: As above.
unsafe impl<H: Interrupt> Sync for Context<H> {}

/// The callback of an open channel.
///
/// # Safety
///
/// `context` points at a `Context<H>` that lives until the callback was taken back.
unsafe extern "C" fn interrupt<H: Interrupt>(context: *mut c_void) {
    // SAFETY: By the requirements of this function: `hv_vmbus` passes what `Session::open` gave it, and
    // takes callbacks back under `sched_lock`, under which this runs.
    let context = unsafe { &*context.cast::<Context<H>>() };
    context.handler.channel_interrupt(&InterruptedChannel {
        raw: context.raw,
        _context: PhantomData,
    });
}

/// A closed channel, and the right to open it.
///
/// # Invariants
///
/// There is at most one `Channel` or [`OpenChannel`] for a C object, and it is not open through us. For a
/// primary, `per_channel_state` holds a reference to `group` while it exists.
pub struct Channel(ChannelRef);

impl Channel {
    /// See [`Device::channel`].
    pub(super) fn primary_of(device: &Device) -> Result<Self> {
        let raw = device.primary();
        let group = Group::new(device.into())?;
        let state = Arc::into_raw(group.clone()).cast_mut().cast::<c_void>();

        // SAFETY: `raw` is valid as `device` is. Nobody but the bound driver uses the field: the
        // bus binds one driver at a time, and others leave it alone or clear it when they are done.
        let slot = unsafe { &raw mut (*raw.as_ptr()).per_channel_state };

        // SAFETY: `slot` is an aligned pointer-sized field that C code does not touch while we are bound.
        let slot = unsafe { Atomic::<*mut c_void>::from_ptr(slot) };
        if slot.cmpxchg(core::ptr::null_mut(), state, Full).is_err() {
            // SAFETY: From `into_raw` above, and not stored.
            drop(unsafe { Arc::from_raw(state.cast::<Group>()) });
            return Err(EBUSY);
        }
        // INVARIANT: `group` holds the device and so the primary; the exchange above makes us the
        // only owner.
        Ok(Self(ChannelRef {
            raw,
            group,
            is_primary: true,
        }))
    }

    /// Takes a sub-channel over.
    ///
    /// # Safety
    ///
    /// Nobody else owns or will own the sub-channel while the result exists.
    pub(super) unsafe fn from_subchannel(channel: ChannelRef) -> Self {
        // INVARIANT: By the requirements of this function.
        Self(channel)
    }

    /// A reference to the channel that can outlive it.
    pub fn reference(&self) -> &ChannelRef {
        &self.0
    }

    /// Opens the channel: allocates its rings, shares them and tells the host. `handler` is called for
    /// its interrupts from before this returns until the channel is closed.
    ///
    /// Errors: `EINVAL` for a bad `config`, `EAGAIN` if the host refuses, `EDQUOT` if it refuses the GPADL,
    /// `ENODEV` if it has taken the channel away or, for a sub-channel, the primary is closed, `EBUSY` for a
    /// sub-channel that was closed before its primary. `ETIMEDOUT`, without the channel, if the host has not
    /// answered by `deadline`: `late` gets the channel, closed, should it answer later.
    pub fn open<H: Interrupt>(
        self,
        config: OpenConfig,
        handler: Arc<H>,
        deadline: Deadline,
        late: impl FnOnce(Channel) + Send + Unpin + 'static,
    ) -> Result<OpenChannel<H>, (Option<Self>, Error)> {
        self.begin_open(config, handler, late)(deadline)
    }

    /// Begins what [`Channel::open`] does; the result waits for the end of it. Several channels can be opened at the
    /// same time.
    pub fn begin_open<H: Interrupt>(
        self,
        config: OpenConfig,
        handler: Arc<H>,
        late: impl FnOnce(Channel) + Send + Unpin + 'static,
    ) -> impl FnOnce(Deadline) -> Result<OpenChannel<H>, (Option<Self>, Error)> {
        let begun = begin(
            move || self.open_unlimited(&config, handler),
            move |opened: Result<OpenChannel<H>, _>| {
                late(opened.map_or_else(|(channel, _)| channel, OpenChannel::close_unlimited))
            },
        );
        move |deadline| match begun.wait(deadline) {
            Some(opened) => opened.map_err(|(channel, error)| (Some(channel), error)),
            None => Err((None, ETIMEDOUT)),
        }
    }

    /// As [`Channel::open`], but waits for the host without limit.
    fn open_unlimited<H: Interrupt>(
        self,
        config: &OpenConfig,
        handler: Arc<H>,
    ) -> Result<OpenChannel<H>, (Self, Error)> {
        match Session::open(&self.0, config, handler) {
            Ok(session) => Ok(OpenChannel {
                session,
                reading: AtomicFlag::new(false),
                broken: AtomicBool::new(false),
                channel: self,
            }),
            Err(error) => Err((self, error)),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if !self.0.is_primary {
            return;
        }
        // SAFETY: Valid by the type invariant of `ChannelRef`; we published a `Group` here.
        let slot = unsafe { Atomic::from_ptr(&raw mut (*self.0.as_raw()).per_channel_state) };
        let state: *mut c_void = slot.xchg(core::ptr::null_mut(), Full);

        // A sub-channel that arrives just now may have seen the pointer.
        // SAFETY: Channels are dropped where sleeping is allowed.
        unsafe { kernel::bindings::synchronize_rcu() };

        // SAFETY: By the type invariant this is the reference that `primary_of` stored, and nobody can
        // reach it any more.
        drop(unsafe { Arc::from_raw(state.cast::<Group>()) });
    }
}

/// An open channel as `hv_vmbus` knows it: dropping it closes the channel.
///
/// # Invariants
///
/// `raw` is a valid channel, open with `interrupt::<H>` as callback and `context` as its context, which
/// may run at any time until it is detached.
struct Session<H: Interrupt> {
    channel: ChannelRef,
    context: KBox<Context<H>>,
}

impl<H: Interrupt> Session<H> {
    fn open(channel: &ChannelRef, config: &OpenConfig, handler: Arc<H>) -> Result<Self> {
        config.check()?;
        let raw = channel.as_raw();
        let context = KBox::new(
            Context {
                raw: channel.raw,
                handler,
            },
            GFP_KERNEL,
        )?;
        if !channel.is_primary {
            channel.group.enter()?;
        }
        // SAFETY: `raw` is valid and closed: callers own the `Channel`. `context` lives until the
        // callback is detached, below or when the result is dropped.
        let result = unsafe { Self::open_raw(raw, config, &context) };
        if let Err(error) = result {
            if !channel.is_primary {
                channel.group.open.fetch_sub(1, Full);
            }
            return Err(error);
        }
        if channel.is_primary {
            let _ = channel.group.open.cmpxchg(Group::CLOSED, 0, Full);
        }
        // INVARIANT: Just opened so.
        Ok(Self {
            channel: channel.clone(),
            context,
        })
    }

    /// # Safety
    ///
    /// `raw` is valid and nobody else opens or closes it; on success `context` stays where it is until
    /// the callback was detached.
    unsafe fn open_raw(
        raw: *mut bindings::vmbus_channel,
        config: &OpenConfig,
        context: &Context<H>,
    ) -> Result {
        // A sub-channel that was closed here stays open at the host until its primary is closed. And
        // `vmbus_open` would free the rings of a channel that it finds open.
        // SAFETY: Valid by the requirements of this function; nobody else changes it.
        if unsafe { (*raw).state } != bindings::vmbus_channel_state_CHANNEL_OPEN_STATE {
            return Err(EBUSY);
        }
        // SAFETY: As above; the channel is closed, so `hv_vmbus` uses none of the fields set.
        unsafe { bindings::netvsc_channel_prepare(raw, config.max_packet) };
        // SAFETY: The channel is closed and ready; we may sleep; the callback matches its context.
        let result = to_result(unsafe {
            bindings::vmbus_open(
                raw,
                config.ring_bytes,
                config.ring_bytes,
                core::ptr::null_mut(),
                0,
                Some(interrupt::<H>),
                core::ptr::from_ref(context).cast_mut().cast(),
            )
        });
        if result.is_err() {
            // SAFETY: Valid as above. A failed open leaves the callback in place.
            unsafe { bindings::netvsc_channel_detach(raw) };
        }
        result
    }
}

impl<H: Interrupt> Drop for Session<H> {
    fn drop(&mut self) {
        let raw = self.channel.as_raw();
        let group = &self.channel.group;
        if !self.channel.is_primary {
            // The host learns of it when the primary is closed: VMBus closes sub-channels with it.
            // SAFETY: Valid by the type invariant.
            unsafe { bindings::netvsc_channel_detach(raw) };
            group.open.fetch_sub(1, Full);
        } else if group.open.cmpxchg(0, Group::CLOSED, Full).is_ok() {
            // SAFETY: Open by the type invariant; no `OpenChannel` of a sub-channel exists any more,
            // and none can be opened, so nobody uses the rings that this frees. We may sleep.
            unsafe { bindings::vmbus_close(raw) };
        } else {
            // Closing would free the rings of sub-channels that are in use.
            LEAKED.add(1, Relaxed);
            dev_err!(
                self.channel.device(),
                "channel {} left open: a sub-channel is still in use\n",
                self.channel.relid()
            );
            // SAFETY: Valid by the type invariant.
            unsafe { bindings::netvsc_channel_detach(raw) };
        }
    }
}

/// An open channel. Shared by all who send on it.
///
/// Dropping it closes it, as [`OpenChannel::close`] does.
pub struct OpenChannel<H: Interrupt> {
    session: Session<H>,
    /// Whether a [`crate::vmbus::receive::Reader`] exists.
    pub(super) reading: AtomicFlag,
    /// The host wrote a packet that does not fit what it says it has written.
    pub(super) broken: AtomicBool,
    // After `session`: fields are dropped in this order.
    channel: Channel,
}

impl<H: Interrupt> OpenChannel<H> {
    pub(super) fn as_raw(&self) -> *mut bindings::vmbus_channel {
        self.channel.0.as_raw()
    }

    /// A reference to the channel that can outlive it.
    pub fn reference(&self) -> &ChannelRef {
        &self.channel.0
    }

    /// What handles the channel's interrupts.
    pub fn handler(&self) -> &Arc<H> {
        &self.session.context.handler
    }

    /// Sub-channels that are open beside this channel.
    pub fn open_subchannels(&self) -> u32 {
        self.channel
            .0
            .group
            .open
            .load(Acquire)
            .max(0)
            .unsigned_abs()
    }

    /// Closes the channel. When this returns, its interrupt handler does not run and will not run
    /// again. Closing a primary tells the host, and frees the rings of it and of all its sub-channels, which
    /// are closed first; a sub-channel is only let go of, and cannot be opened again.
    ///
    /// `read_by_host` comes back with the channel: what the host may use until then. `ETIMEDOUT` if it has
    /// not given the rings back by `deadline`: should it do so later, `read_by_host` is dropped and `late` gets
    /// the channel.
    #[inline(never)]
    pub fn close<K: Send + Unpin + 'static>(
        self,
        deadline: Deadline,
        read_by_host: K,
        late: impl FnOnce(Channel) + Send + Unpin + 'static,
    ) -> Result<(Channel, K)> {
        bounded(
            deadline,
            move || (self.close_unlimited(), read_by_host),
            move |(channel, read_by_host)| {
                drop(read_by_host);
                late(channel);
            },
        )
        .ok_or(ETIMEDOUT)
    }

    /// As [`OpenChannel::close`], but waits without limit, for the host and for the opening of sub-channels
    /// that nobody waits for any more.
    fn close_unlimited(self) -> Channel {
        while self.channel.0.is_primary && self.open_subchannels() != 0 {
            kernel::time::delay::fsleep(Delta::from_millis(RESCIND_POLL_MS.into()));
        }
        let Self {
            session, channel, ..
        } = self;
        drop(session);
        channel
    }
}

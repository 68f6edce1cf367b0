// SPDX-License-Identifier: GPL-2.0

//! A network device with driver data, from allocation to release.
//!
//! C header: `include/linux/netdevice.h`.

use super::{ethtool, ops::Vtable, queue_stats, Config, Operations, PollContext, Rtnl};
use crate::bindings;
use core::{marker::PhantomData, mem, ops::Deref, ptr::NonNull};
use kernel::{
    device,
    ffi::c_uint,
    prelude::*,
    time::{msecs_to_jiffies, Msecs},
    types::Opaque,
};

/// What `netif_tx_stop_queue` sets.
const DRIVER_STOPPED: usize = 1 << bindings::netdev_queue_state_t___QUEUE_STATE_DRV_XOFF;
/// Time that a transmit queue may be stopped before [`Operations::tx_timeout`] is called: longer than any
/// rebuild takes, during which all are.
const WATCHDOG: Msecs = 75_000;

/// What the device can do for XDP programs: run them, also with frames in several pieces, and take frames that others
/// redirect.
const XDP_FEATURES: bindings::xdp_features_t = bindings::netdev_xdp_act_NETDEV_XDP_ACT_BASIC
    | bindings::netdev_xdp_act_NETDEV_XDP_ACT_REDIRECT
    | bindings::netdev_xdp_act_NETDEV_XDP_ACT_NDO_XMIT
    | bindings::netdev_xdp_act_NETDEV_XDP_ACT_RX_SG
    | bindings::netdev_xdp_act_NETDEV_XDP_ACT_NDO_XMIT_SG;

/// What is said of an interface that is down (`ENETDOWN`), which the kernel crate has no name for.
pub(crate) fn net_down() -> Error {
    Error::from_errno(-(kernel::bindings::ENETDOWN as i32))
}

/// A `struct net_device` whose private area holds a `T`. Dereferences to `T`.
///
/// # Invariants
///
/// A `&Device<T>` points at a live `net_device` allocated by [`UniqueDevice::new`], so `T` in its
/// private area is initialised.
#[repr(transparent)]
pub(crate) struct Device<T> {
    raw: Opaque<bindings::net_device>,
    _data: PhantomData<T>,
}

// SAFETY: All methods are callable from any thread; `T` is shared as `&T`.
unsafe impl<T: Send + Sync> Send for Device<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Device<T> {}

impl<T> Device<T> {
    /// Borrows a device from its C pointer.
    ///
    /// # Safety
    ///
    /// `raw` was allocated by `UniqueDevice::<T>::new` and lives for `'a`.
    #[inline]
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::net_device) -> &'a Self {
        // SAFETY: Transparent over `net_device`; the rest is the caller's promise.
        unsafe { &*raw.cast() }
    }

    /// The C object.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::net_device {
        self.raw.get()
    }

    /// Where `T` lies in the private area.
    #[inline]
    fn data_ptr(raw: *mut bindings::net_device) -> *mut T {
        // SAFETY: `raw` points at a `net_device` with a private area behind it (`netdev_priv`).
        unsafe { (&raw mut (*raw).priv_).cast() }
    }

    /// Another counted reference. `unregister` waits until all have gone.
    pub(crate) fn to_ref(&self) -> DeviceRef<T> {
        // SAFETY: The device is alive.
        unsafe { bindings::dev_hold(self.as_raw()) };
        // INVARIANT: Just counted.
        DeviceRef(NonNull::from(self))
    }

    /// Transmit queues allocated.
    pub(crate) fn tx_queues(&self) -> u32 {
        // SAFETY: The field does not change after allocation.
        unsafe { (*self.as_raw()).num_tx_queues }
    }

    /// Receive queues allocated.
    pub(crate) fn rx_queues(&self) -> u32 {
        // SAFETY: The field does not change after allocation.
        unsafe { (*self.as_raw()).num_rx_queues }
    }

    /// Sets the MTU in the device, after the host took it.
    pub(crate) fn set_mtu(&self, _config: &Config<'_>, mtu: u32) {
        // SAFETY: Only configuration writes the field.
        unsafe { (&raw mut (*self.as_raw()).mtu).write_volatile(mtu) };
    }

    /// The MTU.
    pub(crate) fn mtu(&self) -> u32 {
        // SAFETY: The device is alive; an aligned word is read whole.
        unsafe { (&raw const (*self.as_raw()).mtu).read_volatile() }
    }

    /// Whether the interface is up (`IFF_UP` and opened).
    pub(crate) fn is_running(&self) -> bool {
        // SAFETY: The device is alive; an aligned word is read whole.
        let state = unsafe { (&raw const (*self.as_raw()).state).read_volatile() };
        state & (1 << bindings::netdev_state_t___LINK_STATE_START) != 0
    }

    /// Interface flags (`IFF_*`).
    pub(crate) fn flags(&self) -> u32 {
        // What is in effect, not what user space asked for: a bridge or a capture raises promiscuity
        // without it.
        // SAFETY: The device is alive; an aligned word is read whole.
        unsafe { (&raw const (*self.as_raw()).flags).read_volatile() }
    }

    /// Number of queues in use, both directions. May sleep.
    pub(crate) fn set_real_queues(&self, _config: &Config<'_>, queues: u16) -> Result {
        // SAFETY: Under RTNL or before registration, as C asserts.
        kernel::error::to_result(unsafe {
            bindings::netif_set_real_num_queues(self.as_raw(), queues.into(), queues.into())
        })
    }

    /// Reports link up. Any context.
    pub(crate) fn carrier_on(&self) {
        // SAFETY: The device is alive.
        unsafe { bindings::netif_carrier_on(self.as_raw()) };
    }

    /// Reports link down. Any context.
    pub(crate) fn carrier_off(&self) {
        // SAFETY: The device is alive.
        unsafe { bindings::netif_carrier_off(self.as_raw()) };
    }

    /// Announces the interface's addresses again (gratuitous ARP, unsolicited NA).
    pub(crate) fn notify_peers(&self, _rtnl: &Rtnl) {
        // SAFETY: RTNL is held, as C asserts.
        unsafe { bindings::__netdev_notify_peers(self.as_raw()) };
    }

    /// Has [`Operations::work`] called soon with `events`, a mask. Not before registration, nor once
    /// the device is leaving. Softirq or process context.
    pub(crate) fn schedule_work(&self, events: usize) {
        // C takes a device that is not registered yet for one that is. Its owner may be changing it without RTNL,
        // and could not free it while work is pending.
        if self.is_registered() {
            // SAFETY: The device is alive; C looks whether it is leaving.
            unsafe { bindings::netdev_work_sched(self.as_raw(), events) };
        }
    }

    fn is_registered(&self) -> bool {
        // SAFETY: The device is alive; the bytes are read whole.
        let state = unsafe { (&raw const (*self.as_raw()).reg_state).read_volatile() };
        u32::from(state) == bindings::netdev_reg_state_NETREG_REGISTERED
    }

    /// The name, once the device is registered.
    pub(crate) fn name(&self) -> Option<&CStr> {
        // SAFETY: `name` lives with the device.
        let name = unsafe { &(*self.as_raw()).name };
        // A rename that runs meanwhile keeps the last byte zero.
        CStr::from_bytes_until_nul(name)
            .ok()
            .filter(|_| self.is_registered())
    }

    /// Stops all transmit queues and waits until no `ndo_start_xmit` runs.
    pub(crate) fn tx_disable(&self) {
        // SAFETY: The device is alive.
        unsafe { bindings::netif_tx_disable(self.as_raw()) };
    }

    /// Wakes all transmit queues.
    pub(crate) fn tx_wake_all(&self) {
        // SAFETY: The device is alive.
        unsafe { bindings::netif_tx_wake_all_queues(self.as_raw()) };
    }

    /// Stops one transmit queue. For the holder of its lock.
    pub(crate) fn stop_queue(&self, queue: u16) {
        if u32::from(queue) < self.tx_queues() {
            // SAFETY: The queue exists.
            unsafe { bindings::netif_tx_stop_queue(tx_queue(self.as_raw(), queue)) };
        }
    }

    /// Wakes one transmit queue.
    pub(crate) fn wake_queue(&self, queue: u16) {
        if u32::from(queue) < self.tx_queues() {
            // SAFETY: The queue exists.
            unsafe { bindings::netif_tx_wake_queue(tx_queue(self.as_raw(), queue)) };
        }
    }

    /// Whether the driver stopped a transmit queue.
    pub(crate) fn queue_stopped(&self, queue: u16) -> bool {
        u32::from(queue) < self.tx_queues()
            // SAFETY: The queue exists; an aligned word of it is read whole.
            && unsafe {
                let queue = tx_queue(self.as_raw(), queue);
                (&raw const (*queue).state).read_volatile() & DRIVER_STOPPED != 0
            }
    }

    /// Byte queue limits: that much was completed, of what `TxLocked::sent` was told of before. For the
    /// one poll of the queue. Returns whether the driver has stopped the queue, as seen after a full
    /// barrier.
    #[inline]
    pub(crate) fn tx_completed(&self, poll: &PollContext<'_>, queue: u16, sent: Completed) -> bool {
        let _ = poll;
        u32::from(queue) < self.tx_queues()
            // SAFETY: The queue exists; the poll of a NAPI runs once at a time.
            && unsafe {
                bindings::netvsc_txq_completed(
                    self.as_raw(),
                    queue.into(),
                    sent.packets,
                    sent.bytes,
                )
            }
    }

    /// Has the core look again which features there can be. Does nothing for a device that is leaving.
    pub(crate) fn update_features(&self, _rtnl: &Rtnl) {
        if self.is_registered() {
            // SAFETY: The device is alive; RTNL is held.
            unsafe { bindings::netdev_update_features(self.as_raw()) };
        }
    }

    /// Whether received segments are coalesced.
    pub(crate) fn coalesces(&self, _rtnl: &Rtnl) -> bool {
        // SAFETY: The device is alive; features change under RTNL.
        unsafe { (*self.as_raw()).features & bindings::NETIF_F_LRO != 0 }
    }

    /// Sets the alias that `ip link` shows; at most 255 bytes.
    pub(crate) fn set_alias(&self, _config: &Config<'_>, alias: &[u8]) -> Result {
        // SAFETY: `alias` has the bytes that are read, which is so many.
        let len =
            unsafe { bindings::dev_set_alias(self.as_raw(), alias.as_ptr().cast(), alias.len()) };
        kernel::error::to_result(len.min(0))
    }

    /// Sets the hardware address in the device.
    pub(crate) fn set_address(&self, _config: &Config<'_>, address: &[u8; 6]) {
        // SAFETY: `address` has the 6 bytes that are read.
        unsafe { bindings::dev_addr_mod(self.as_raw(), 0, address.as_ptr().cast(), 6) };
    }
}

impl<T> Deref for Device<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: Initialised by the type invariant.
        unsafe { &*Self::data_ptr(self.as_raw()) }
    }
}

/// A counted reference to a device.
///
/// # Invariants
///
/// Holds one reference (`dev_hold`).
pub(crate) struct DeviceRef<T>(NonNull<Device<T>>);

// SAFETY: As `&Device<T>`; `dev_put` may be called anywhere.
unsafe impl<T: Send + Sync> Send for DeviceRef<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for DeviceRef<T> {}

impl<T> Deref for DeviceRef<T> {
    type Target = Device<T>;

    #[inline]
    fn deref(&self) -> &Device<T> {
        // SAFETY: Our reference keeps the device, and `T` in it, alive: release of both waits for it.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Clone for DeviceRef<T> {
    fn clone(&self) -> Self {
        self.to_ref()
    }
}

impl<T> Drop for DeviceRef<T> {
    fn drop(&mut self) {
        // SAFETY: Gives back the reference that the invariant speaks of.
        unsafe { bindings::dev_put(self.as_raw()) };
    }
}

/// What was completed since the last report.
#[derive(Clone, Copy, Default)]
pub(crate) struct Completed {
    /// Frames.
    pub(crate) packets: u32,
    /// Bytes.
    pub(crate) bytes: u32,
}

/// What a new device offers to the stack.
pub(crate) struct Granted {
    /// Checksums that are computed for frames to send, a mask of `NETVSC_CSUM_*`.
    pub(crate) checksums: u32,
    /// TCP segmentation, IPv4.
    pub(crate) tso4: bool,
    /// TCP segmentation, IPv6.
    pub(crate) tso6: bool,
    /// Bytes of the largest frame to segment.
    pub(crate) tso_max: u32,
    /// Received segments are coalesced, by default.
    pub(crate) lro: bool,
}

impl Granted {
    /// As a mask of `NETIF_F_*`: what the user can switch.
    fn features(&self) -> u64 {
        let sums = |kind| self.checksums & kind != 0;
        [
            (true, bindings::NETIF_F_RXCSUM),
            (true, bindings::NETIF_F_SG),
            (true, bindings::NETIF_F_RXHASH),
            (sums(bindings::NETVSC_CSUM_TCP4), bindings::NETIF_F_IP_CSUM),
            (
                sums(bindings::NETVSC_CSUM_TCP6),
                bindings::NETIF_F_IPV6_CSUM,
            ),
            (self.tso4, bindings::NETIF_F_TSO),
            (self.tso6, bindings::NETIF_F_TSO6),
            (self.lro, bindings::NETIF_F_LRO),
        ]
        .iter()
        .fold(0, |mask, (on, bit)| if *on { mask | bit } else { mask })
    }
}

/// The C object of a transmit queue.
///
/// # Safety
///
/// `dev` is alive and has the queue.
#[inline]
pub(super) unsafe fn tx_queue(
    dev: *mut bindings::net_device,
    queue: u16,
) -> *mut bindings::netdev_queue {
    // SAFETY: By the requirements `_tx` is an array that has this element.
    unsafe { (*dev)._tx.add(queue.into()) }
}

/// A device that is not registered yet: ours alone.
pub(crate) struct UniqueDevice<T: Operations>(NonNull<bindings::net_device>, PhantomData<KBox<T>>);

// SAFETY: Owns the device and the `T` in it.
unsafe impl<T: Operations> Send for UniqueDevice<T> {}

impl<T: Operations> UniqueDevice<T> {
    /// Allocates an Ethernet device with `queues` queues each way and `data` in its private area.
    pub(crate) fn new(
        parent: &device::Device,
        queues: u16,
        data: impl PinInit<T, Error>,
    ) -> Result<Self> {
        const {
            assert!(
                mem::align_of::<T>() <= 64,
                "the private area is cache-line aligned"
            )
        };
        let size = mem::size_of::<T>().max(1) as i32;
        let queues = c_uint::from(queues);
        // SAFETY: No preconditions.
        let raw = unsafe { bindings::alloc_etherdev_mqs(size, queues, queues) };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        let slot = Device::<T>::data_ptr(raw.as_ptr());
        // SAFETY: `slot` is `size` bytes, zeroed, aligned, and does not move.
        if let Err(error) = unsafe { data.__pinned_init(slot) } {
            // SAFETY: Allocated above, nobody else knows it.
            unsafe { bindings::free_netdev(raw.as_ptr()) };
            return Err(error);
        }
        // SAFETY: Not registered, so the fields are ours; the tables are static, `device::Device` is transparent over
        // the C type, and `parent` outlives the device because a bound driver's device does.
        unsafe {
            (*raw.as_ptr()).netdev_ops = Vtable::<T>::ops();
            (*raw.as_ptr()).ethtool_ops = ethtool::vtable::<T>();
            (*raw.as_ptr()).stat_ops = queue_stats::vtable::<T>();
            (*raw.as_ptr()).xdp_features = XDP_FEATURES;
            (*raw.as_ptr()).watchdog_timeo = msecs_to_jiffies(WATCHDOG) as i32;
            (*raw.as_ptr()).dev.parent = core::ptr::from_ref(parent).cast_mut().cast();
        }
        Ok(Self(raw, PhantomData))
    }

    /// The device and the right to configure it.
    pub(crate) fn configure(&mut self) -> (&Device<T>, Config<'_>) {
        // SAFETY: Allocated in `new`; `&mut self` makes us its only user.
        unsafe { (Device::from_raw(self.0.as_ptr()), Config::unregistered()) }
    }

    /// Features that the host grants.
    pub(crate) fn set_features(&mut self, granted: &Granted) {
        let dev = self.0.as_ptr();
        let hw = granted.features();
        let always = bindings::NETIF_F_HIGHDMA
            | bindings::NETIF_F_HW_VLAN_CTAG_TX
            | bindings::NETIF_F_HW_VLAN_CTAG_RX;
        // SAFETY: Not registered, ours alone.
        unsafe {
            (*dev).hw_features = hw;
            (*dev).features = hw | always;
            (*dev).vlan_features = hw | always;
            bindings::netvsc_allow_live_address_change(dev);
            bindings::netif_set_tso_max_size(dev, granted.tso_max);
        }
    }

    /// Limits for the MTU, in bytes of payload.
    pub(crate) fn set_mtu_range(&mut self, min: u32, max: u32) {
        // SAFETY: Not registered, ours alone.
        unsafe {
            (*self.0.as_ptr()).min_mtu = min;
            (*self.0.as_ptr()).max_mtu = max;
        }
    }

    /// Makes the device known to the system.
    pub(crate) fn register(self) -> Result<Registration<T>> {
        // SAFETY: Fully set up; takes RTNL itself.
        kernel::error::to_result(unsafe { bindings::register_netdev(self.0.as_ptr()) })?;
        let raw = self.0;
        mem::forget(self);
        Ok(Registration(raw, PhantomData))
    }
}

impl<T: Operations> Drop for UniqueDevice<T> {
    fn drop(&mut self) {
        {
            let (dev, config) = self.configure();
            T::released(dev, &config);
        }
        // SAFETY: Ours; the initial reference of an allocated device is one.
        let references = unsafe { bindings::netdev_refcnt_read(self.0.as_ptr()) };
        if references != 1 {
            // A `DeviceRef` still points here: losing the memory is the lesser evil.
            pr_err!("netdev released with {} references: leaked\n", references);
            return;
        }
        // SAFETY: Not registered and not referenced.
        unsafe { release::<T>(self.0) };
    }
}

/// Drops the driver data and frees the device.
///
/// # Safety
///
/// No reference to the device or its data is left; it is not registered.
unsafe fn release<T>(raw: NonNull<bindings::net_device>) {
    // SAFETY: Initialised in `UniqueDevice::new`, dropped once, here.
    unsafe { Device::<T>::data_ptr(raw.as_ptr()).drop_in_place() };
    // SAFETY: Allocated by `alloc_etherdev_mqs`; the caller says that nobody uses it.
    unsafe { bindings::free_netdev(raw.as_ptr()) };
}

/// A registered device. Dropping unregisters it, waits for all references and frees it.
pub(crate) struct Registration<T: Operations>(NonNull<bindings::net_device>, PhantomData<KBox<T>>);

// SAFETY: Registration may be undone from any thread that can sleep.
unsafe impl<T: Operations> Send for Registration<T> {}
// SAFETY: Gives only `&Device<T>`.
unsafe impl<T: Operations> Sync for Registration<T> {}

impl<T: Operations> Deref for Registration<T> {
    type Target = Device<T>;

    fn deref(&self) -> &Device<T> {
        // SAFETY: Alive until `drop`.
        unsafe { Device::from_raw(self.0.as_ptr()) }
    }
}

impl<T: Operations> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: Registered; takes RTNL itself, calls `ndo_stop` and `ndo_uninit`, and returns when
        // every reference has gone.
        unsafe { bindings::unregister_netdev(self.0.as_ptr()) };
        // SAFETY: Unregistered and without references.
        unsafe { release::<T>(self.0) };
    }
}

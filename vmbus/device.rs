// SPDX-License-Identifier: GPL-2.0

//! Devices on the VMBus, as a bound driver sees them.
//!
//! C header: `include/linux/hyperv.h`, `struct hv_device`. The driver side is [`crate::vmbus::driver`];
//! what a device can do, it does through its [`Channel`].

use crate::{
    bindings,
    vmbus::{channel::Channel, guid::Guid, version::VmbusVersion},
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{device, prelude::*, sync::aref::AlwaysRefCounted, types::Opaque};

/// The VMBus version that the kernel and the host agreed on at boot.
pub fn protocol_version() -> VmbusVersion {
    // SAFETY: Written by `hv_vmbus` before the first device exists, and again only on resume from
    // hibernation while no driver runs; a `u32` is read whole.
    VmbusVersion(unsafe { (&raw const bindings::vmbus_proto_version).read_volatile() })
}

/// Whether this is a confidential virtual machine, whose memory the host cannot read.
pub fn is_isolated() -> bool {
    // SAFETY: Reads a setting made at boot; no preconditions.
    unsafe { bindings::hv_is_isolation_supported() }
}

/// A device on the VMBus.
///
/// # Invariants
///
/// A [`Device`] represents a valid `struct hv_device` that `hv_vmbus` created, with its primary channel.
#[repr(transparent)]
pub struct Device<Ctx: device::DeviceContext = device::Normal>(
    Opaque<bindings::hv_device>,
    PhantomData<Ctx>,
);

impl<Ctx: device::DeviceContext> Device<Ctx> {
    pub(super) fn as_raw(&self) -> *mut bindings::hv_device {
        self.0.get()
    }

    /// The embedded `struct device`, for C functions that want a parent.
    pub(crate) fn as_raw_device(&self) -> *mut bindings::device {
        // SAFETY: By the type invariant this is a valid `struct hv_device`; no reference is made.
        unsafe { &raw mut (*self.as_raw()).device }
    }

    /// GUID of the device's class.
    pub fn class(&self) -> Guid {
        // SAFETY: By the type invariant; written before the device is registered, never again.
        Guid(unsafe { (*self.as_raw()).dev_type.b })
    }

    /// GUID of this device; stays the same over hot remove and add.
    pub fn instance(&self) -> Guid {
        // SAFETY: As in `class`.
        Guid(unsafe { (*self.as_raw()).dev_instance.b })
    }

    /// The primary channel's C object.
    pub(super) fn primary(&self) -> NonNull<bindings::vmbus_channel> {
        // SAFETY: By the type invariant the device has a primary channel, which lives as long as the
        // device does (`vmbus_device_release` frees both).
        unsafe { NonNull::new_unchecked((*self.as_raw()).channel) }
    }
}

impl Device<device::Core<'_>> {
    /// The device's primary channel, closed.
    ///
    /// There is one owner of it at a time: `EBUSY` while a [`Channel`] from an earlier call (or from an
    /// earlier binding of this driver) still exists. The driver lets go of it before it is unbound.
    pub fn channel(&self) -> Result<Channel> {
        Channel::primary_of(self)
    }
}

// SAFETY: The context is a marker in the type only: `Device` is laid out alike in all of them.
kernel::impl_device_context_deref!(unsafe { Device });
kernel::impl_device_context_into_aref!(Device);

// SAFETY: A `struct hv_device` is reference-counted through its `struct device`.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        // SAFETY: The existence of a shared reference guarantees a non-zero reference count.
        unsafe { bindings::get_device(self.as_raw_device()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference, so the object is valid; `Self` is a transparent
        // wrapper of `struct hv_device`.
        let device = unsafe { obj.as_ref() }.as_raw_device();

        // SAFETY: The caller gives its reference up.
        unsafe { bindings::put_device(device) };
    }
}

impl<Ctx: device::DeviceContext> AsRef<device::Device<Ctx>> for Device<Ctx> {
    fn as_ref(&self) -> &device::Device<Ctx> {
        // SAFETY: `as_raw_device` points at the `struct device` of a valid `struct hv_device`, which
        // lives at least as long as `self`, and both are in the same context.
        unsafe { device::Device::from_raw(self.as_raw_device()) }
    }
}

// SAFETY: A `Device` is always reference-counted and can be released from any thread.
unsafe impl Send for Device {}

// SAFETY: All methods of `Device` can be called from any thread: they read what never changes.
unsafe impl Sync for Device {}

// SAFETY: As for `Device`.
unsafe impl Sync for Device<device::Bound> {}

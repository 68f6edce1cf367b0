// SPDX-License-Identifier: GPL-2.0

//! Registering a driver with the VMBus.
//!
//! C header: `include/linux/hyperv.h`, `struct hv_driver`. Written like its siblings `kernel::auxiliary`
//! and `kernel::usb`: a module holds a `kernel::driver::Registration<Adapter<T>>`, where `T` implements
//! [`Driver`].

use crate::{
    bindings,
    vmbus::{device::Device, guid::Guid},
};
use core::{marker::PhantomData, mem::offset_of};
use kernel::{
    device,
    device_id::{RawDeviceId, RawDeviceIdIndex},
    driver,
    error::{from_result, to_result},
    prelude::*,
    types::Opaque,
};

/// Registers a [`Driver`] with the VMBus.
pub struct Adapter<T: Driver>(PhantomData<T>);

// SAFETY:
// - `bindings::hv_driver` is a C type declared as `repr(C)`.
// - `T::Data` is the type of the driver's device private data.
// - `struct hv_driver` embeds a `struct device_driver`.
// - `DEVICE_DRIVER_OFFSET` is the byte offset of that.
unsafe impl<T: Driver> driver::DriverLayout for Adapter<T> {
    type DriverType = bindings::hv_driver;
    type DriverData<'bound> = T::Data<'bound>;
    const DEVICE_DRIVER_OFFSET: usize = offset_of!(Self::DriverType, driver);
}

// SAFETY: `unregister` undoes what `register` did; it is valid after a successful `register`.
unsafe impl<T: Driver> driver::RegistrationOps for Adapter<T> {
    unsafe fn register(
        reg: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        let drv = reg.get();

        // SAFETY: The driver is not registered yet: nobody else looks at it.
        unsafe {
            (*drv).name = name.as_char_ptr();
            (*drv).id_table = T::ID_TABLE.as_ptr();
            (*drv).probe = Some(Self::probe_callback);
            (*drv).remove = Some(Self::remove_callback);
            // Devices come up in the order in which they were offered, and a probe that fails is
            // seen by whoever loads the module.
            (*drv).driver.probe_type = kernel::bindings::probe_type_PROBE_FORCE_SYNCHRONOUS;
            if T::HAS_SUSPEND && T::HAS_RESUME {
                (*drv).suspend = Some(Self::suspend_callback);
                (*drv).resume = Some(Self::resume_callback);
            }
        }

        // SAFETY: The caller keeps `reg` pinned and valid until `unregister`; `name` is static.
        to_result(unsafe {
            bindings::__vmbus_driver_register(drv, module.as_ptr(), name.as_char_ptr())
        })
    }

    unsafe fn unregister(reg: &Opaque<Self::DriverType>) {
        // SAFETY: By the requirements of this function `reg` was registered.
        unsafe { bindings::vmbus_driver_unregister(reg.get()) };

        // The module's text may go away after this. All channels are closed by now, which took the
        // sub-channel callbacks back; see `subchannel.rs` for why one may still be running.
        // SAFETY: Unregistering sleeps, so may this.
        unsafe { bindings::synchronize_rcu_tasks() };
    }
}

impl<T: Driver> Adapter<T> {
    extern "C" fn probe_callback(
        hdev: *mut bindings::hv_device,
        id: *const bindings::hv_vmbus_device_id,
    ) -> c_int {
        // SAFETY: The bus calls the probe callback with a valid `struct hv_device`.
        //
        // INVARIANT: `hdev` is valid for the duration of `probe_callback()`.
        let hdev = unsafe { &*hdev.cast::<Device<device::CoreInternal<'_>>>() };

        // SAFETY: The bus passes an entry of our table, or one with `driver_data` 0 (dynamic ids and
        // `driver_override`); `DeviceId` is a transparent wrapper of it.
        let id = unsafe { &*id.cast::<DeviceId>() };
        let info = T::ID_TABLE.info(id.index());

        from_result(|| {
            let data = T::probe(hdev, info);

            hdev.as_ref().set_drvdata(data)?;
            Ok(0)
        })
    }

    extern "C" fn remove_callback(hdev: *mut bindings::hv_device) {
        Self::with_data(hdev, |hdev, data| T::unbind(hdev, data));
    }

    extern "C" fn suspend_callback(hdev: *mut bindings::hv_device) -> c_int {
        from_result(|| Self::with_data(hdev, |hdev, data| T::suspend(hdev, data)).map(|()| 0))
    }

    extern "C" fn resume_callback(hdev: *mut bindings::hv_device) -> c_int {
        from_result(|| Self::with_data(hdev, |hdev, data| T::resume(hdev, data)).map(|()| 0))
    }

    /// Calls `f` with the device and its private data. `hdev` comes from the bus, which calls the
    /// callbacks that use this only between a successful probe and the end of remove.
    fn with_data<R>(
        hdev: *mut bindings::hv_device,
        f: impl for<'b> FnOnce(&'b Device<device::Core<'_>>, Pin<&'b T::Data<'b>>) -> R,
    ) -> R {
        // SAFETY: The bus calls with a valid `struct hv_device`.
        //
        // INVARIANT: `hdev` is valid for the duration of the callback.
        let hdev = unsafe { &*hdev.cast::<Device<device::CoreInternal<'_>>>() };

        // SAFETY: The probe was successful, hence `set_drvdata` has been called with a
        // `Pin<KBox<T::Data<'_>>>`, and the device is still bound.
        let data = unsafe { hdev.as_ref().drvdata_borrow::<T::Data<'_>>() };

        f(hdev, data)
    }
}

/// The class of devices that an entry of an id table matches.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct DeviceId(bindings::hv_vmbus_device_id);

impl DeviceId {
    /// Matches every device of a class.
    pub const fn new(class: Guid) -> Self {
        Self(bindings::hv_vmbus_device_id {
            guid: bindings::guid_t { b: class.0 },
            driver_data: 0,
        })
    }
}

// SAFETY: `DeviceId` is a transparent wrapper of `struct hv_vmbus_device_id` without invariants.
unsafe impl RawDeviceId for DeviceId {
    type RawType = bindings::hv_vmbus_device_id;
}

// SAFETY: `DRIVER_DATA_OFFSET` is the offset of `driver_data`, which has the size of a `usize`.
unsafe impl RawDeviceIdIndex for DeviceId {
    const DRIVER_DATA_OFFSET: usize = offset_of!(bindings::hv_vmbus_device_id, driver_data);

    fn index(&self) -> usize {
        self.0.driver_data
    }
}

/// Table of the device classes that a driver serves.
pub type IdTable<T> = &'static dyn kernel::device_id::IdTable<DeviceId, T>;

/// Makes an [`IdTable`] and the module aliases (`vmbus:...`) that load the module for it.
#[macro_export]
macro_rules! vmbus_device_table {
    ($table_name:ident, $module_table_name:ident, $id_info_type:ty, $table_data:expr) => {
        const $table_name: kernel::device_id::IdArray<
            $crate::vmbus::driver::DeviceId,
            $id_info_type,
            { $table_data.len() },
        > = kernel::device_id::IdArray::new($table_data);

        kernel::module_device_table!("vmbus", $module_table_name, $table_name);
    };
}

/// A driver for devices on the VMBus.
///
/// Suspend and resume (hibernation) are optional and count only together; without them `hv_vmbus`
/// refuses to hibernate while a device is bound.
#[vtable]
pub trait Driver {
    /// What the driver knows about each entry of its id table.
    type IdInfo: 'static;

    /// The driver's data for a bound device.
    type Data<'bound>: Send + 'bound;

    /// The device classes served. Not empty.
    const ID_TABLE: IdTable<Self::IdInfo>;

    /// Binds the driver to a device of a class in [`Driver::ID_TABLE`].
    fn probe<'bound>(
        dev: &'bound Device<device::Core<'_>>,
        id_info: &'bound Self::IdInfo,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound;

    /// Called before the device is unbound, with the device still operational unless the host has
    /// taken it away. `this` is dropped afterwards; the channel must be closed by then.
    fn unbind<'bound>(
        dev: &'bound Device<device::Core<'_>>,
        this: Pin<&'bound Self::Data<'bound>>,
    ) {
        let _ = (dev, this);
    }

    /// Called before hibernation: the channel must be closed when this returns.
    fn suspend<'bound>(
        dev: &'bound Device<device::Core<'_>>,
        this: Pin<&'bound Self::Data<'bound>>,
    ) -> Result {
        let _ = (dev, this);
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Called after hibernation: opens the channel again.
    fn resume<'bound>(
        dev: &'bound Device<device::Core<'_>>,
        this: Pin<&'bound Self::Data<'bound>>,
    ) -> Result {
        let _ = (dev, this);
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }
}

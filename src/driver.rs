// SPDX-License-Identifier: GPL-2.0

//! What loading the module does: a driver is registered with the VMBus.

use crate::device::Bound;
use crate::{net, vmbus};
use kernel::{device::Core, driver, prelude::*};

/// The loaded module: a driver registered with the VMBus.
#[pin_data]
pub(crate) struct HvNetvsc {
    #[pin]
    _driver: driver::Registration<vmbus::Adapter<NetvscDriver>>,
    /// Dropped after the driver, which makes the calls.
    _calls: vmbus::CallQueue,
    /// Dropped after the driver, whose devices have folders in it.
    _debugfs: net::debugfs::Root,
}

impl kernel::InPlaceModule for HvNetvsc {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Made first, and dropped last: fields are dropped in the order of the struct.
            _calls: vmbus::CallQueue::new()?,
            _debugfs: net::debugfs::Root::new(c"hv_netvsc")?,
            _driver <- driver::Registration::new(c"hv_netvsc", module),
        })
    }
}

/// The driver as the VMBus sees it.
pub(crate) struct NetvscDriver;

crate::vmbus_device_table!(
    NIC_TABLE,
    MODULE_NIC_TABLE,
    <NetvscDriver as vmbus::Driver>::IdInfo,
    [(vmbus::DeviceId::new(vmbus::guid::NIC_CLASS), ())]
);

#[vtable]
impl vmbus::Driver for NetvscDriver {
    type IdInfo = ();
    type Data<'bound> = Bound;
    const ID_TABLE: vmbus::IdTable<Self::IdInfo> = &NIC_TABLE;

    fn probe<'bound>(
        dev: &'bound vmbus::Device<Core<'_>>,
        _id_info: &'bound Self::IdInfo,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        Bound::new(Bound::register(dev))
    }

    fn unbind<'bound>(
        _dev: &'bound vmbus::Device<Core<'_>>,
        this: Pin<&'bound Self::Data<'bound>>,
    ) {
        this.unbind();
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Root of the kernel module `hv_netvsc`: the network driver of guests on Hyper-V and Azure.
//!
//! Three layers, each a folder: `vmbus/` (channels, rings, shared memory), `rndis/` (the protocol, as state
//! machines without I/O), and this one, the network device. `net/` holds safe abstractions over the
//! kernel's networking API; nothing outside it and `vmbus/` has unsafe code.

pub mod bindings;
#[path = "../rndis/mod.rs"]
pub mod rndis;
#[path = "../vmbus/mod.rs"]
pub mod vmbus;

mod attach;
mod buffers;
mod control;
mod debug_view;
mod device;
mod ethtool;
mod link;
mod mailbox;
mod net;
mod params;
mod queue;
mod reconfigure;
mod rx;
mod settings;
mod stats;
mod trace;
mod tx;
mod tx_timeout;

// Of the structures that `tests/models` compiles with other ones.
use core::sync::atomic;
use device::Bound;
use kernel::{device::Core, driver, prelude::*};

module! {
    type: HvNetvsc,
    name: "hv_netvsc",
    description: "Microsoft Hyper-V network driver",
    license: "GPL",
}

/// The loaded module: a driver registered with the VMBus.
#[pin_data]
struct HvNetvsc {
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
struct NetvscDriver;

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

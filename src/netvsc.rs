// SPDX-License-Identifier: GPL-2.0

//! Root of the kernel module `hv_netvsc`.

pub mod bindings;

use kernel::prelude::*;

module! {
    type: HvNetvsc,
    name: "hv_netvsc",
    description: "Microsoft Hyper-V network driver",
    license: "GPL",
}

struct HvNetvsc;

impl kernel::Module for HvNetvsc {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("no driver is registered yet\n");
        Err(ENODEV)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! `ethtool --config-nfc ... rx-flow-hash`: whether ports are part of a flow's hash.
//!
//! It decides on which channel a flow is sent and, where the host can hash it, on which one it arrives.

use crate::device::Adapter;
use crate::net::{ethtool::FlowKind, Device, Rtnl};
use crate::rndis::rss::Flow;
use kernel::prelude::*;

/// Whether ports of such flows are hashed.
pub(super) fn has_ports(dev: &Device<Adapter>, kind: FlowKind) -> bool {
    dev.control.lock().flow_hash().has_ports(flow(kind))
}

/// Has them hashed, or not; no channel is closed for it.
pub(super) fn set_ports(dev: &Device<Adapter>, rtnl: &Rtnl, kind: FlowKind, ports: bool) -> Result {
    dev.control
        .lock()
        .set_flow_hash(dev, &rtnl.into(), flow(kind), ports)
}

fn flow(kind: FlowKind) -> Flow {
    match kind {
        FlowKind::Tcp4 => Flow::Tcp4,
        FlowKind::Tcp6 => Flow::Tcp6,
        FlowKind::Udp4 => Flow::Udp4,
        FlowKind::Udp6 => Flow::Udp6,
    }
}

// SPDX-License-Identifier: GPL-2.0

//! `ethtool -n`, `-N` with `rx-flow-hash`: which fields of a packet its flow's hash covers.

use super::{not_supported, Vtable};
use crate::bindings;
use crate::net::ops;
use kernel::{error::from_result, ffi::c_int};

/// Source and destination address: always hashed.
const ADDRESSES: u32 = bindings::RXH_IP_SRC | bindings::RXH_IP_DST;
/// Source and destination port.
const PORTS: u32 = bindings::RXH_L4_B_0_1 | bindings::RXH_L4_B_2_3;

/// Protocols whose fields can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl FlowKind {
    fn new(flow_type: u32) -> Option<Self> {
        match flow_type {
            bindings::TCP_V4_FLOW => Some(Self::Tcp4),
            bindings::TCP_V6_FLOW => Some(Self::Tcp6),
            bindings::UDP_V4_FLOW => Some(Self::Udp4),
            bindings::UDP_V6_FLOW => Some(Self::Udp6),
            _ => None,
        }
    }
}

impl<T: ops::Operations> Vtable<T> {
    pub(super) extern "C" fn get_rxfh_fields(
        dev: *mut bindings::net_device,
        fields: *mut bindings::ethtool_rxfh_fields,
    ) -> c_int {
        // SAFETY: Called by the core; `fields` is valid for the call.
        let ((dev, rtnl), fields) = unsafe { (Self::enter(dev), &mut *fields) };
        fields.data = match (FlowKind::new(fields.flow_type), fields.flow_type) {
            (Some(kind), _) if T::hashes_ports(dev, &rtnl, kind) => ADDRESSES | PORTS,
            (Some(_), _) | (None, bindings::IPV4_FLOW | bindings::IPV6_FLOW) => ADDRESSES,
            _ => 0,
        };
        0
    }

    pub(super) extern "C" fn set_rxfh_fields(
        dev: *mut bindings::net_device,
        fields: *const bindings::ethtool_rxfh_fields,
        _extack: *mut bindings::netlink_ext_ack,
    ) -> c_int {
        // SAFETY: Called by the core; `fields` is valid for the call.
        let ((dev, rtnl), fields) = unsafe { (Self::enter(dev), &*fields) };
        from_result(|| {
            let kind = FlowKind::new(fields.flow_type).ok_or_else(not_supported)?;
            let ports = match fields.data {
                ADDRESSES => false,
                data if data == ADDRESSES | PORTS => true,
                _ => return Err(not_supported()),
            };
            T::set_hashes_ports(dev, &rtnl, kind, ports).map(|()| 0)
        })
    }
}

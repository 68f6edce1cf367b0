// SPDX-License-Identifier: GPL-2.0

//! What the core calls on a network device: the driver's trait and the C table that leads to it.

use super::{
    ethtool, BpfProgram, Config, Device, ExtAck, Rtnl, RxQueueStats, SkBuff, SoftIrq, TxQueueGuard,
    TxQueueStats, XdpFrames, XdpSlot,
};
use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    error::from_result,
    ffi::{c_int, c_void},
    prelude::*,
    sync::rcu,
};

/// What became of a frame given to [`Operations::start_xmit`].
pub(crate) enum TxVerdict {
    /// The driver has it: sent, or dropped and counted.
    Taken,
    /// The queue is stopped; the stack keeps the frame and tries again.
    Busy(SkBuff),
}

/// Interface totals.
#[derive(Default)]
pub(crate) struct Stats64 {
    /// Frames received.
    pub(crate) rx_packets: u64,
    /// Bytes received.
    pub(crate) rx_bytes: u64,
    /// Frames received that were not for one station.
    pub(crate) multicast: u64,
    /// Frames lost for want of memory.
    pub(crate) rx_dropped: u64,
    /// Frames or messages from the host that were wrong.
    pub(crate) rx_errors: u64,
    /// Frames sent.
    pub(crate) tx_packets: u64,
    /// Bytes sent.
    pub(crate) tx_bytes: u64,
    /// Frames not sent.
    pub(crate) tx_dropped: u64,
    /// Frames that the host refused.
    pub(crate) tx_errors: u64,
}

/// Features that decide what is done for received frames before the stack sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveOffloads {
    /// Their checksums are verified.
    pub(crate) checksum: bool,
    /// Their segments are coalesced.
    pub(crate) lro: bool,
}

/// A network driver. `Self` lives in the device's private area.
pub(crate) trait Operations: ethtool::Operations + Send + Sync + Sized + 'static {
    /// The interface goes up.
    fn open(dev: &Device<Self>, rtnl: &Rtnl) -> Result;

    /// The interface goes down. Cannot fail: what the host does not confirm is done without it.
    fn stop(dev: &Device<Self>, rtnl: &Rtnl);

    /// The device leaves: the driver gives up everything that refers to it. Called once after the
    /// last `stop`, and also for a device that was never registered; a second call does nothing.
    fn released(dev: &Device<Self>, config: &Config<'_>);

    /// A frame to send, on the queue that `queue` holds the lock of.
    fn start_xmit(
        dev: &Device<Self>,
        skb: SkBuff,
        queue: &mut TxQueueGuard<'_>,
        section: SoftIrq<'_>,
    ) -> TxVerdict;

    /// Protocols whose ports are part of the flow hash, a mask of `NETVSC_PORTS_*`.
    fn hashed_ports(dev: &Device<Self>) -> u32;

    /// The transmit queue for a frame with flow hash `hash` that has none yet.
    fn select_queue(dev: &Device<Self>, hash: u32, section: SoftIrq<'_>) -> u16;

    /// A new MTU, within the limits of the device. On error nothing has changed.
    fn change_mtu(dev: &Device<Self>, rtnl: &Rtnl, mtu: u32) -> Result;

    /// A new, valid hardware address. On error nothing has changed.
    fn set_address(dev: &Device<Self>, rtnl: &Rtnl, address: &[u8; 6]) -> Result;

    /// Switches what is done for received frames. On error nothing has changed.
    fn set_receive_offloads(dev: &Device<Self>, rtnl: &Rtnl, wanted: ReceiveOffloads) -> Result;

    /// A program that shall decide about received frames, or none any more. On error nothing has changed, and `extack`
    /// was told why.
    fn set_xdp(
        dev: &Device<Self>,
        rtnl: &Rtnl,
        program: Option<BpfProgram>,
        extack: &ExtAck<'_>,
    ) -> Result;

    /// The program that decides about received frames.
    fn xdp(dev: &Device<Self>) -> &XdpSlot;

    /// Sends frames that were redirected to this device; returns how many it took, in order.
    fn xdp_xmit(dev: &Device<Self>, frames: XdpFrames<'_>, section: SoftIrq<'_>) -> Result<u32>;

    /// Flags or address lists changed: program the receive filter.
    fn set_rx_mode(dev: &Device<Self>, rtnl: &Rtnl) -> Result;

    /// Does what [`Device::schedule_work`] asked for. Under RTNL.
    fn work(dev: &Device<Self>, rtnl: &Rtnl, events: usize);

    /// Interface totals; must never go backwards.
    fn stats(dev: &Device<Self>, stats: &mut Stats64);

    /// Receive counters of a queue, in use or not; must never go backwards.
    fn rx_queue_stats(dev: &Device<Self>, queue: u16) -> RxQueueStats;

    /// Transmit counters of a queue, in use or not; must never go backwards.
    fn tx_queue_stats(dev: &Device<Self>, queue: u16) -> TxQueueStats;

    /// Transmit queue `queue` has been stopped for so long that something must be wrong. In softirq.
    fn tx_timeout(dev: &Device<Self>, queue: u16, section: SoftIrq<'_>);
}

/// The `net_device_ops` of a driver.
pub(super) struct Vtable<T>(PhantomData<T>);

impl<T: Operations> Vtable<T> {
    const OPS: bindings::net_device_ops = {
        // SAFETY: A table of optional function pointers: all zeroes is "none".
        let mut ops: bindings::net_device_ops = unsafe { core::mem::zeroed() };
        ops.ndo_open = Some(Self::open);
        ops.ndo_stop = Some(Self::stop);
        ops.ndo_uninit = Some(Self::uninit);
        ops.ndo_start_xmit = Some(Self::start_xmit);
        ops.ndo_features_check = Some(bindings::netvsc_features_check);
        ops.ndo_tx_timeout = Some(Self::tx_timeout);
        ops.ndo_select_queue = Some(Self::select_queue);
        ops.ndo_change_mtu = Some(Self::change_mtu);
        ops.ndo_validate_addr = Some(bindings::eth_validate_addr);
        ops.ndo_set_mac_address = Some(Self::set_mac_address);
        ops.ndo_fix_features = Some(Self::fix_features);
        ops.ndo_set_features = Some(Self::set_features);
        ops.ndo_bpf = Some(Self::bpf);
        ops.ndo_xdp_xmit = Some(Self::xdp_xmit);
        ops.ndo_set_rx_mode_async = Some(Self::set_rx_mode);
        ops.ndo_work = Some(Self::work);
        ops.ndo_get_stats64 = Some(Self::get_stats64);
        ops
    };

    /// The table, for a device whose private area holds a `T`.
    pub(super) fn ops() -> &'static bindings::net_device_ops {
        &Self::OPS
    }

    extern "C" fn open(dev: *mut bindings::net_device) -> c_int {
        // SAFETY: The core passes the device that the table belongs to, and holds RTNL.
        let (dev, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        from_result(|| T::open(dev, &rtnl).map(|()| 0))
    }

    extern "C" fn stop(dev: *mut bindings::net_device) -> c_int {
        // SAFETY: As in `open`.
        let (dev, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        T::stop(dev, &rtnl);
        0
    }

    extern "C" fn uninit(dev: *mut bindings::net_device) {
        // SAFETY: As in `open`: called from unregistration or failed registration, under RTNL.
        let (dev, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        T::released(dev, &Config::from(&rtnl));
    }

    extern "C" fn start_xmit(
        skb: *mut bindings::sk_buff,
        dev: *mut bindings::net_device,
    ) -> bindings::netdev_tx_t {
        // SAFETY: The core gives us the buffer, holds the lock of the queue that it names, and has
        // bottom halves disabled for the whole call.
        let (device, mut queue, section, owned) = unsafe {
            let queue = (*skb).queue_mapping;
            (
                Device::<T>::from_raw(dev),
                TxQueueGuard::assume_held(dev, queue),
                SoftIrq::assume(),
                SkBuff::from_raw(skb),
            )
        };
        match T::start_xmit(device, owned, &mut queue, section) {
            TxVerdict::Taken => bindings::netdev_tx_NETDEV_TX_OK,
            TxVerdict::Busy(returned) if returned.is(skb) => {
                let _kept_by_core = returned.into_raw();
                bindings::netdev_tx_NETDEV_TX_BUSY
            }
            // The core's own buffer has an end already: this other one is dropped.
            TxVerdict::Busy(_) => bindings::netdev_tx_NETDEV_TX_OK,
        }
    }

    extern "C" fn select_queue(
        dev: *mut bindings::net_device,
        skb: *mut bindings::sk_buff,
        _sb_dev: *mut bindings::net_device,
    ) -> u16 {
        let mut hash = 0;
        // SAFETY: The core passes the device that the table belongs to.
        let device = unsafe { Device::<T>::from_raw(dev) };
        let ports = T::hashed_ports(device);
        // SAFETY: Both are valid for the call.
        let picked = unsafe { bindings::netvsc_pick_tx(dev, skb, ports, &mut hash) };
        if let Ok(queue) = u16::try_from(picked) {
            return queue;
        }
        // Packet sockets that bypass the qdisc call this without any RCU section.
        let guard = rcu::read_lock();
        let queue = T::select_queue(device, hash, SoftIrq::from(&guard));
        drop(guard);
        // SAFETY: `skb` is valid and ours to annotate here.
        unsafe { bindings::netvsc_pick_tx_done(skb, queue) };
        queue
    }

    extern "C" fn change_mtu(dev: *mut bindings::net_device, mtu: c_int) -> c_int {
        // SAFETY: As in `open`.
        let (dev, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        from_result(|| {
            let mtu = u32::try_from(mtu).map_err(|_| EINVAL)?;
            T::change_mtu(dev, &rtnl, mtu).map(|()| 0)
        })
    }

    extern "C" fn set_mac_address(dev: *mut bindings::net_device, addr: *mut c_void) -> c_int {
        // SAFETY: `addr` is a `sockaddr` for an Ethernet device; the check is the core's own.
        let checked = unsafe { bindings::eth_prepare_mac_addr_change(dev, addr) };
        if checked != 0 {
            return checked;
        }
        let mut address = [0u8; 6];
        // SAFETY: `sa_data` of an Ethernet `sockaddr` has the six bytes of the address.
        unsafe {
            let sockaddr = addr.cast::<bindings::sockaddr>();
            address
                .as_mut_ptr()
                .copy_from((&raw const (*sockaddr).sa_data).cast(), 6);
        }
        // SAFETY: As in `open`.
        let (dev, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        from_result(|| {
            T::set_address(dev, &rtnl, &address)?;
            dev.set_address(&Config::from(&rtnl), &address);
            Ok(0)
        })
    }

    extern "C" fn bpf(dev: *mut bindings::net_device, bpf: *mut bindings::netdev_bpf) -> c_int {
        // SAFETY: As in `open`; the command says which member of the union is valid, and what it points to is.
        let (dev, rtnl, raw, program, extack) = unsafe {
            if (*bpf).command != bindings::bpf_netdev_command_XDP_SETUP_PROG {
                return EINVAL.to_errno();
            }
            let setup = (*bpf).__bindgen_anon_1.__bindgen_anon_1;
            (
                Device::<T>::from_raw(dev),
                Rtnl::assume_held(),
                setup.prog,
                BpfProgram::get(setup.prog),
                ExtAck::from_raw(setup.extack),
            )
        };
        from_result(|| {
            T::set_xdp(dev, &rtnl, program, &extack)?;
            if !raw.is_null() {
                // SAFETY: On success the core's reference is ours, and we have one of our own.
                unsafe { bindings::bpf_prog_put(raw) };
            }
            Ok(0)
        })
    }

    extern "C" fn xdp_xmit(
        dev: *mut bindings::net_device,
        count: c_int,
        frames: *mut *mut bindings::xdp_frame,
        flags: u32,
    ) -> c_int {
        if flags & !bindings::XDP_XMIT_FLAGS_MASK != 0 {
            return EINVAL.to_errno();
        }
        // SAFETY: The core passes our device and so many frames, with bottom halves disabled.
        let (dev, section, frames) = unsafe {
            let count = usize::try_from(count).unwrap_or(0);
            (
                Device::<T>::from_raw(dev),
                SoftIrq::assume(),
                core::slice::from_raw_parts(frames, count),
            )
        };
        from_result(|| T::xdp_xmit(dev, XdpFrames(frames), section).map(|taken| taken as c_int))
    }

    /// The checksums of coalesced frames were verified by the host and may not be there to be verified again; and XDP
    /// programs want frames as they were sent.
    extern "C" fn fix_features(
        dev: *mut bindings::net_device,
        features: bindings::netdev_features_t,
    ) -> bindings::netdev_features_t {
        // SAFETY: The core passes our device.
        let dev = unsafe { Device::<T>::from_raw(dev) };
        if features & bindings::NETIF_F_RXCSUM == 0 || T::xdp(dev).expects_program() {
            features & !bindings::NETIF_F_LRO
        } else {
            features
        }
    }

    extern "C" fn set_features(
        dev: *mut bindings::net_device,
        features: bindings::netdev_features_t,
    ) -> c_int {
        // SAFETY: As in `open`.
        let (device, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        // SAFETY: The device is alive; its features change under RTNL.
        let changed = features ^ unsafe { (*dev).features };
        from_result(|| {
            if changed & (bindings::NETIF_F_LRO | bindings::NETIF_F_RXCSUM) != 0 {
                let wanted = ReceiveOffloads {
                    checksum: features & bindings::NETIF_F_RXCSUM != 0,
                    lro: features & bindings::NETIF_F_LRO != 0,
                };
                T::set_receive_offloads(device, &rtnl, wanted)?;
            }
            Ok(0)
        })
    }

    extern "C" fn set_rx_mode(
        dev: *mut bindings::net_device,
        _uc: *mut bindings::netdev_hw_addr_list,
        _mc: *mut bindings::netdev_hw_addr_list,
    ) -> c_int {
        // SAFETY: As in `open`: the asynchronous form runs under RTNL for a device without ops lock.
        let (dev, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        from_result(|| T::set_rx_mode(dev, &rtnl).map(|()| 0))
    }

    extern "C" fn work(dev: *mut bindings::net_device, events: usize) {
        // SAFETY: As in `open`: the core runs the work under RTNL.
        let (dev, rtnl) = unsafe { (Device::<T>::from_raw(dev), Rtnl::assume_held()) };
        T::work(dev, &rtnl, events);
    }

    extern "C" fn tx_timeout(dev: *mut bindings::net_device, queue: u32) {
        // SAFETY: The core passes our device, in a timer's softirq.
        let (dev, section) = unsafe { (Device::<T>::from_raw(dev), SoftIrq::assume()) };
        if let Ok(queue) = u16::try_from(queue) {
            T::tx_timeout(dev, queue, section);
        }
    }

    extern "C" fn get_stats64(
        dev: *mut bindings::net_device,
        storage: *mut bindings::rtnl_link_stats64,
    ) {
        // SAFETY: The core passes our device.
        let dev = unsafe { Device::<T>::from_raw(dev) };
        let mut stats = Stats64::default();
        T::stats(dev, &mut stats);
        // What we do not count keeps what the core put there.
        // SAFETY: `storage` is initialised and ours during the call. It may lie in a netlink message, at a multiple
        // of 4 only.
        let mut all = unsafe { storage.read_unaligned() };
        all.rx_packets = stats.rx_packets;
        all.rx_bytes = stats.rx_bytes;
        all.multicast = stats.multicast;
        all.rx_dropped = stats.rx_dropped;
        all.rx_errors = stats.rx_errors;
        all.tx_packets = stats.tx_packets;
        all.tx_bytes = stats.tx_bytes;
        all.tx_dropped = stats.tx_dropped;
        all.tx_errors = stats.tx_errors;
        // SAFETY: As above.
        unsafe { storage.write_unaligned(all) };
    }
}

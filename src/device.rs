// SPDX-License-Identifier: GPL-2.0

//! A network adapter: from probe to removal, and what the network stack asks of it in between.

use crate::attach::{any_lost, Attachment};
use crate::cpu_traffic::CpuTraffic;
use crate::debug_view::{History, View};
use crate::link::LinkState;
use crate::net::{
    cpu, BpfProgram, Config, Device, ExtAck, Granted, Napi, Operations, Published, ReceiveOffloads,
    Registration, Rtnl, RxQueueStats, SkBuff, SoftIrq, Stats64, TxQueueGuard, TxQueueStats,
    TxVerdict, UniqueDevice, XdpFrames, XdpSlot,
};
use crate::params;
use crate::queue::Queue;
use crate::reconfigure::{Control, Returned};
use crate::rndis::{
    address::MacAddress,
    bringup::{Negotiated, OnRefusal},
    offload::Offloads,
    rss::{FlowHash, MAX_CHANNELS},
};
use crate::settings::Settings;
use crate::stats::QueueStats;
use crate::vmbus::{self, Channel};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{
    device, new_mutex, new_spinlock,
    prelude::*,
    sync::{aref::ARef, Arc, Mutex, SpinLock},
};

/// Smallest MTU.
const MIN_MTU: u32 = 68;
/// Largest MTU of hosts with NDIS configuration (NVSP 2): 65535 less an Ethernet header.
const MAX_MTU: u32 = 65521;
/// The MTU of a new interface, and the largest of older hosts.
const ETHERNET_MTU: u32 = 1500;

/// Work of the device: the link has changed.
pub(crate) const LINK: usize = 1;
/// Work of the device: tell the peers where we are.
pub(crate) const ANNOUNCE: usize = 2;
/// Work of the device: a channel is gone.
pub(crate) const REPAIR: usize = 4;

/// What the packet paths need, while the device is attached.
pub(crate) struct DataPath {
    queues: KVec<Arc<Napi<Queue>>>,
    /// Checksums that the host computes, a mask of `NETVSC_CSUM_*`.
    pub(crate) checksums: u32,
    /// RNDIS messages in one packet.
    pub(crate) max_messages: u32,
    /// What messages in a packet are aligned to, in bytes.
    pub(crate) alignment: u32,
    /// Packets in flight from which on a ring may be short of room.
    pub(crate) may_fill_ring: u32,
}

impl DataPath {
    /// For these queues, by index.
    pub(crate) fn new(queues: KVec<Arc<Napi<Queue>>>, negotiated: &Negotiated) -> Result<Self> {
        Ok(Self {
            queues,
            checksums: checksum_mask(&negotiated.offloads),
            max_messages: negotiated.max_packets_per_message,
            alignment: negotiated.alignment,
            may_fill_ring: crate::tx::may_fill_ring(params::ring_bytes()),
        })
    }

    /// Queue `index`.
    #[inline]
    pub(crate) fn queue(&self, index: u16) -> Option<&Queue> {
        self.napi(index).map(|napi| &**napi)
    }

    /// Queue `index` with its poll.
    #[inline]
    pub(crate) fn napi(&self, index: u16) -> Option<&Napi<Queue>> {
        self.queues.get(usize::from(index)).map(|queue| &**queue)
    }

    /// Whether the host has taken a channel away, or broken a ring.
    pub(crate) fn lost_channel(&self, section: SoftIrq<'_>) -> bool {
        let queues = self.queues.iter();
        any_lost(queues.filter_map(|queue| queue.channel.get(section)))
    }

    /// Channels in use, 1 to 64.
    #[inline]
    pub(crate) fn channels(&self) -> u16 {
        self.queues.len() as u16
    }
}

/// The mask for [`DataPath::checksums`].
fn checksum_mask(offloads: &Offloads) -> u32 {
    use crate::bindings::{NETVSC_CSUM_TCP4, NETVSC_CSUM_TCP6, NETVSC_CSUM_UDP4, NETVSC_CSUM_UDP6};
    [
        (offloads.tcp4_checksum, NETVSC_CSUM_TCP4),
        (offloads.tcp6_checksum, NETVSC_CSUM_TCP6),
        (offloads.udp4_checksum, NETVSC_CSUM_UDP4),
        (offloads.udp6_checksum, NETVSC_CSUM_UDP6),
    ]
    .into_iter()
    .filter(|(granted, _)| *granted)
    .fold(0, |mask, (_, bit)| mask | bit)
}

/// The CPUs that are plugged in.
fn present_cpus() -> Result<KVec<u32>> {
    let present = || (0..cpu::id_limit()).filter(|cpu| cpu::is_present(*cpu));
    let count = present().fold(0usize, |count, _| count.wrapping_add(1));
    let mut cpus = KVec::with_capacity(count, GFP_KERNEL)?;
    // One plugged in meanwhile is not shown.
    for cpu in present().take(count) {
        cpus.push_within_capacity(cpu)?;
    }
    Ok(cpus)
}

/// One network adapter; lives in the private area of its network device.
///
/// Lock order: RTNL, then `control`. Packet paths take neither: they read `path`.
#[pin_data]
pub(crate) struct Adapter {
    hv: ARef<vmbus::Device>,
    /// Where the primary channel comes back to when the host answers too late.
    pub(crate) returned: Arc<Returned>,
    /// What the packet paths use; absent while the device is being rebuilt.
    pub(crate) path: Published<DataPath>,
    /// Link state and speed.
    pub(crate) link: LinkState,
    /// The XDP program.
    pub(crate) xdp: XdpSlot,
    message_level: AtomicU32,
    /// The mask of [`FlowHash`] in effect, for the packet paths.
    hashed_ports: AtomicU32,
    stats: KVec<QueueStats>,
    /// CPUs that were present at probe: the statistics that `ethtool` shows.
    cpus: KVec<u32>,
    /// Their traffic. A leaf: nothing is locked under it.
    #[pin]
    pub(crate) traffic: SpinLock<CpuTraffic>,
    /// What debugfs shows beside the channels.
    #[pin]
    pub(crate) history: History,
    /// Settings, and what is attached.
    #[pin]
    pub(crate) control: Mutex<Control>,
}

impl Adapter {
    fn new(hv: ARef<vmbus::Device>, channel: Channel) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            hv,
            returned: Returned::new()?,
            path: Published::new(),
            link: LinkState::new(),
            xdp: XdpSlot::new(),
            message_level: AtomicU32::new(params::message_level()),
            hashed_ports: AtomicU32::new(FlowHash::ALL.mask().into()),
            stats: {
                let mut stats = KVec::with_capacity(MAX_CHANNELS.into(), GFP_KERNEL)?;
                for _ in 0..MAX_CHANNELS {
                    stats.push_within_capacity(QueueStats::default())?;
                }
                stats
            },
            cpus: present_cpus()?,
            traffic <- new_spinlock!(CpuTraffic::new(MAX_CHANNELS, cpus)?),
            history <- History::new(),
            control <- new_mutex!(Control::new(Settings::new(ETHERNET_MTU), channel)),
        })
    }

    /// Counters of queue `index`.
    #[inline]
    pub(crate) fn queue_stat(&self, index: u16) -> Option<&QueueStats> {
        self.stats.get(usize::from(index))
    }

    /// Counters of all queues that there can be.
    pub(crate) fn queue_stats(&self) -> impl Iterator<Item = &QueueStats> {
        self.stats.iter()
    }

    /// CPUs to show statistics of.
    pub(crate) fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// Looks how much the queues have carried, see [`CpuTraffic::look`].
    pub(crate) fn count_traffic(&self, cpu_of: impl Fn(u16) -> Option<u32>) {
        self.traffic.lock().look(self.queue_stats(), cpu_of);
    }

    /// `ethtool -s msglvl`.
    pub(crate) fn message_level(&self) -> u32 {
        self.message_level.load(Ordering::Relaxed)
    }

    /// See [`Adapter::message_level`].
    pub(crate) fn set_message_level(&self, level: u32) {
        self.message_level.store(level, Ordering::Relaxed);
    }

    /// Has the packet paths hash flows by this.
    pub(crate) fn set_hashed_ports(&self, flow_hash: FlowHash) {
        self.hashed_ports
            .store(flow_hash.mask().into(), Ordering::Relaxed);
    }

    /// Tells the administrator of a failure.
    pub(crate) fn say_err(dev: &Device<Self>, text: core::fmt::Arguments<'_>) {
        let device: &device::Device = (*dev.hv).as_ref();
        match dev.name() {
            Some(name) => dev_err!(device, "{}: {}\n", name, text),
            None => dev_err!(device, "{}\n", text),
        }
    }

    /// Tells the administrator of something worth knowing.
    pub(crate) fn say(dev: &Device<Self>, text: core::fmt::Arguments<'_>) {
        let device: &device::Device = (*dev.hv).as_ref();
        match dev.name() {
            Some(name) => dev_info!(device, "{}: {}\n", name, text),
            None => dev_info!(device, "{}\n", text),
        }
    }

    /// The carrier follows the link while the interface is up.
    pub(crate) fn update_carrier(dev: &Device<Self>, _config: &Config<'_>) {
        if dev.is_running() && dev.link.has_carrier() {
            dev.carrier_on();
        } else {
            dev.carrier_off();
        }
    }

    /// Changes the settings, and the device with them. On failure both are as before.
    pub(crate) fn reconfigure(
        dev: &Device<Self>,
        rtnl: &Rtnl,
        change: impl FnOnce(&mut Settings),
    ) -> Result {
        let result = dev.control.lock().transact(dev, &rtnl.into(), change);
        Self::announce_lost_table(dev, rtnl);
        result
    }

    /// Tells the core if a rebuild had to give up the user's indirection table. Not under `control`: the
    /// core asks for the new table at once.
    fn announce_lost_table(dev: &Device<Self>, rtnl: &Rtnl) {
        let lost = dev.control.lock().take_table_lost();
        if lost {
            dev.rss_table_lost(rtnl);
        }
    }
}

impl Operations for Adapter {
    fn open(dev: &Device<Self>, rtnl: &Rtnl) -> Result {
        let config = Config::from(rtnl);
        let mut control = dev.control.lock();
        control.ensure_attached(dev, &config)?;
        let filtered = control.set_filter(dev, &config, true);
        drop(control);
        Self::announce_lost_table(dev, rtnl);
        filtered?;
        Self::update_carrier(dev, &config);
        dev.tx_wake_all();
        Ok(())
    }

    fn stop(dev: &Device<Self>, rtnl: &Rtnl) {
        dev.tx_disable();
        let config = Config::from(rtnl);
        // A host that does not answer will not have its way: the interface is down for the stack.
        if let Err(error) = dev.control.lock().set_filter(dev, &config, false) {
            if error != ENODEV {
                Adapter::say_err(dev, format_args!("receive filter not closed: {error:?}"));
            }
        }
        dev.carrier_off();
    }

    fn released(dev: &Device<Self>, config: &Config<'_>) {
        let mut control = dev.control.lock();
        control.detach(dev, config);
        control.give_up_channel(dev);
        drop(dev.returned.take());
    }

    #[inline]
    fn start_xmit(
        dev: &Device<Self>,
        skb: SkBuff,
        queue: &mut TxQueueGuard<'_>,
        section: SoftIrq<'_>,
    ) -> TxVerdict {
        crate::tx::start_xmit(dev, skb, queue, section)
    }

    #[inline]
    fn hashed_ports(dev: &Device<Self>) -> u32 {
        dev.hashed_ports.load(Ordering::Relaxed)
    }

    fn select_queue(dev: &Device<Self>, hash: u32, section: SoftIrq<'_>) -> u16 {
        dev.path
            .get(section)
            .and_then(|path| {
                let channel = path.queue(0)?.shared.channel_of(hash);
                channel.checked_rem(path.channels())
            })
            .unwrap_or(0)
    }

    fn change_mtu(dev: &Device<Self>, rtnl: &Rtnl, mtu: u32) -> Result {
        crate::xdp::check_mtu(dev, rtnl, mtu)?;
        Self::reconfigure(dev, rtnl, |settings| settings.mtu = mtu)?;
        dev.set_mtu(&Config::from(rtnl), mtu);
        Ok(())
    }

    fn set_address(dev: &Device<Self>, rtnl: &Rtnl, address: &[u8; 6]) -> Result {
        let address = MacAddress(*address);
        dev.control
            .lock()
            .set_address(dev, &Config::from(rtnl), address)
    }

    fn set_receive_offloads(dev: &Device<Self>, rtnl: &Rtnl, wanted: ReceiveOffloads) -> Result {
        dev.control
            .lock()
            .set_receive_offloads(dev, &Config::from(rtnl), wanted)
    }

    fn set_xdp(
        dev: &Device<Self>,
        rtnl: &Rtnl,
        program: Option<BpfProgram>,
        extack: &ExtAck<'_>,
    ) -> Result {
        crate::xdp::set_program(dev, rtnl, program, extack)
    }

    fn xdp(dev: &Device<Self>) -> &XdpSlot {
        &dev.xdp
    }

    fn xdp_xmit(dev: &Device<Self>, frames: XdpFrames<'_>, section: SoftIrq<'_>) -> Result<u32> {
        crate::xdp::xmit(dev, frames, section)
    }

    fn set_rx_mode(dev: &Device<Self>, rtnl: &Rtnl) -> Result {
        let mut control = dev.control.lock();
        if control.attachment.is_none() {
            // The next attach programs the filter.
            return Ok(());
        }
        control.set_filter(dev, &Config::from(rtnl), true)
    }

    fn work(dev: &Device<Self>, rtnl: &Rtnl, events: usize) {
        if events & LINK != 0 {
            Self::update_carrier(dev, &Config::from(rtnl));
        }
        if events & ANNOUNCE != 0 && dev.is_running() {
            dev.notify_peers(rtnl);
        }
        if events & REPAIR != 0 {
            dev.control.lock().repair(dev, &Config::from(rtnl));
            Self::announce_lost_table(dev, rtnl);
        }
    }

    fn stats(dev: &Device<Self>, stats: &mut Stats64) {
        for queue in dev.queue_stats() {
            queue.add_to(stats);
        }
    }

    fn rx_queue_stats(dev: &Device<Self>, queue: u16) -> RxQueueStats {
        dev.queue_stat(queue)
            .map(QueueStats::receive)
            .unwrap_or_default()
    }

    fn tx_queue_stats(dev: &Device<Self>, queue: u16) -> TxQueueStats {
        dev.queue_stat(queue)
            .map(QueueStats::transmit)
            .unwrap_or_default()
    }

    fn tx_timeout(dev: &Device<Self>, queue: u16, section: SoftIrq<'_>) {
        crate::tx_timeout::report(dev, queue, section);
    }
}

/// A network device that is in use.
pub(crate) struct Served {
    /// Dropped first: it holds a reference that unregistering would wait for.
    _view: Option<View>,
    _registration: Registration<Adapter>,
}

#[cfg(netvsc_kunit)]
impl core::ops::Deref for Served {
    type Target = Device<Adapter>;

    fn deref(&self) -> &Device<Adapter> {
        &self._registration
    }
}

/// A bound device: the network device while it is registered.
#[pin_data]
pub(crate) struct Bound {
    #[pin]
    served: Mutex<Option<Served>>,
}

impl Bound {
    /// Holds what [`Bound::register`] made.
    pub(crate) fn new(served: Result<Served>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            served <- new_mutex!(Some(served?)),
        }? Error)
    }

    /// Brings the adapter up and registers its network device.
    pub(crate) fn register(hv: &vmbus::Device<device::Core<'_>>) -> Result<Served> {
        let device: &device::Device<device::Core<'_>> = hv.as_ref();
        if vmbus::device::is_isolated() {
            dev_err!(
                device,
                "confidential virtual machines are not supported yet\n"
            );
            return Err(ENODEV);
        }
        let parent: &device::Device = device;
        let mut netdev =
            UniqueDevice::new(parent, MAX_CHANNELS, Adapter::new(hv.into(), hv.channel()?))?;
        let negotiated = first_attach(&mut netdev)?;
        let offloads = negotiated.offloads;
        netdev.set_features(&Granted {
            checksums: checksum_mask(&offloads),
            tso4: offloads.tso4,
            tso6: offloads.tso6,
            tso_max: offloads.gso_max,
            lro: offloads.rsc_offered,
        });
        let max_mtu = if negotiated.version.has_ndis_config() {
            MAX_MTU
        } else {
            ETHERNET_MTU
        };
        netdev.set_mtu_range(MIN_MTU, max_mtu);
        let registration = netdev.register()?;
        Ok(Served {
            _view: View::new(&registration, hv.instance()),
            _registration: registration,
        })
    }

    /// Unregisters the network device and detaches from the host.
    pub(crate) fn unbind(&self) {
        let served = self.served.lock().take();
        drop(served);
    }
}

/// Attaches for the first time, and gives the device what the host says of it.
fn first_attach(netdev: &mut UniqueDevice<Adapter>) -> Result<Negotiated> {
    let (dev, config) = netdev.configure();
    dev.carrier_off();
    let mut control = dev.control.lock();
    control.attach(dev, &config, OnRefusal::Continue)?;
    let negotiated = control.attached()?.negotiated.clone();
    dev.set_address(&config, &negotiated.mac.0);
    dev.set_mtu(&config, negotiated.mtu);
    control.adopt_mtu(negotiated.mtu);
    control.adopt_name(dev, &config);
    Ok(negotiated)
}

impl Control {
    /// What is attached; `ENODEV` if nothing is.
    pub(crate) fn attached(&mut self) -> Result<&mut Attachment> {
        self.attachment.as_mut().ok_or(ENODEV)
    }
}

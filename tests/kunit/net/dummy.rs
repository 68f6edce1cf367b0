// SPDX-License-Identifier: GPL-2.0

//! A network driver without hardware: notes what the core calls.

use crate::net::{
    ethtool::{self, Channels, Duplex, FlowKind, Link, RingSizes, Rings, RssChange, RssView},
    BpfProgram, Config, Device, ExtAck, Operations, ReceiveOffloads, Registration, Rtnl,
    RxQueueStats, SkBuff, SoftIrq, Stats64, TxQueueGuard, TxQueueStats, TxVerdict, UniqueDevice,
    XdpFrames, XdpSlot,
};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{
    faux, new_spinlock,
    prelude::*,
    str::CString,
    sync::{Arc, SpinLock},
};

/// Queues of a device.
pub(super) const QUEUES: u16 = 2;
/// Statistics of `ethtool -S`.
pub(super) const STATISTICS: usize = 3;

/// What happened to a device, for after its end too.
#[derive(Default)]
pub(super) struct Log {
    pub(super) opened: AtomicU32,
    pub(super) stopped: AtomicU32,
    pub(super) released: AtomicU32,
    pub(super) dropped: AtomicU32,
    pub(super) sent: AtomicU32,
    pub(super) worked: AtomicU32,
    /// Frames to turn away before one is taken.
    pub(super) busy: AtomicU32,
}

impl Log {
    pub(super) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self::default(), GFP_KERNEL)?)
    }
}

/// Reads a counter.
pub(super) fn count(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}

fn raise(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The driver's data.
#[pin_data(PinnedDrop)]
pub(super) struct Dummy {
    pub(super) log: Arc<Log>,
    /// The frame sent last.
    #[pin]
    pub(super) last: SpinLock<Option<SkBuff>>,
    pub(super) xdp: XdpSlot,
}

#[pinned_drop]
impl PinnedDrop for Dummy {
    fn drop(self: Pin<&mut Self>) {
        raise(&self.log.dropped);
    }
}

/// A parent for network devices, with a name of its own.
pub(super) fn parent() -> Result<faux::Registration> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = CString::try_from_fmt(fmt!("netvsc-kunit-parent-{number}"))?;
    faux::Registration::new(&name, None)
}

/// A device that is not registered.
pub(super) fn device(parent: &faux::Registration, log: &Arc<Log>) -> Result<UniqueDevice<Dummy>> {
    let log = log.clone();
    let data = try_pin_init!(Dummy {
        log,
        last <- new_spinlock!(None),
        xdp: XdpSlot::new(),
    }? Error);
    let mut device = UniqueDevice::new(parent.as_ref(), QUEUES, data)?;
    device.set_mtu_range(100, 9000);
    let (dev, config) = device.configure();
    dev.set_address(&config, &[2, 0, 0, 0, 0, 7]);
    dev.carrier_on();
    Ok(device)
}

/// A registered one, and its parent, which goes last.
pub(super) struct Registered {
    pub(super) dev: Registration<Dummy>,
    _parent: faux::Registration,
}

impl Registered {
    pub(super) fn new(log: &Arc<Log>) -> Result<Self> {
        let parent = parent()?;
        Ok(Self {
            dev: device(&parent, log)?.register()?,
            _parent: parent,
        })
    }
}

impl Operations for Dummy {
    fn open(dev: &Device<Self>, _rtnl: &Rtnl) -> Result {
        raise(&dev.log.opened);
        dev.tx_wake_all();
        Ok(())
    }

    fn stop(dev: &Device<Self>, _rtnl: &Rtnl) {
        dev.tx_disable();
        raise(&dev.log.stopped);
    }

    fn released(dev: &Device<Self>, _config: &Config<'_>) {
        raise(&dev.log.released);
    }

    fn start_xmit(
        dev: &Device<Self>,
        skb: SkBuff,
        _queue: &mut TxQueueGuard<'_>,
        _section: SoftIrq<'_>,
    ) -> TxVerdict {
        if count(&dev.log.busy) > 0 {
            dev.log.busy.fetch_sub(1, Ordering::Relaxed);
            return TxVerdict::Busy(skb);
        }
        raise(&dev.log.sent);
        let earlier = dev.last.lock().replace(skb);
        drop(earlier);
        TxVerdict::Taken
    }

    fn hashed_ports(_dev: &Device<Self>) -> u32 {
        0
    }

    fn select_queue(_dev: &Device<Self>, hash: u32, _section: SoftIrq<'_>) -> u16 {
        (hash % u32::from(QUEUES)) as u16
    }

    fn change_mtu(dev: &Device<Self>, rtnl: &Rtnl, mtu: u32) -> Result {
        if mtu == 1234 {
            return Err(EIO);
        }
        dev.set_mtu(&Config::from(rtnl), mtu);
        Ok(())
    }

    fn set_address(_dev: &Device<Self>, _rtnl: &Rtnl, _address: &[u8; 6]) -> Result {
        Ok(())
    }

    fn set_receive_offloads(_dev: &Device<Self>, _rtnl: &Rtnl, _wanted: ReceiveOffloads) -> Result {
        Ok(())
    }

    fn set_xdp(
        dev: &Device<Self>,
        rtnl: &Rtnl,
        program: Option<BpfProgram>,
        _extack: &ExtAck<'_>,
    ) -> Result {
        dev.xdp.install(rtnl, program);
        Ok(())
    }

    fn xdp(dev: &Device<Self>) -> &XdpSlot {
        &dev.xdp
    }

    fn xdp_xmit(_dev: &Device<Self>, _frames: XdpFrames<'_>, _section: SoftIrq<'_>) -> Result<u32> {
        Ok(0)
    }

    fn set_rx_mode(_dev: &Device<Self>, _rtnl: &Rtnl) -> Result {
        Ok(())
    }

    fn work(dev: &Device<Self>, _rtnl: &Rtnl, events: usize) {
        dev.log.worked.fetch_or(events as u32, Ordering::Relaxed);
    }

    fn stats(dev: &Device<Self>, stats: &mut Stats64) {
        stats.tx_packets = count(&dev.log.sent).into();
        stats.rx_dropped = 11;
        stats.multicast = 12;
    }

    fn rx_queue_stats(_dev: &Device<Self>, _queue: u16) -> RxQueueStats {
        RxQueueStats::default()
    }

    fn tx_queue_stats(_dev: &Device<Self>, _queue: u16) -> TxQueueStats {
        TxQueueStats::default()
    }

    fn tx_timeout(_dev: &Device<Self>, _queue: u16, _section: SoftIrq<'_>) {}
}

impl ethtool::Operations for Dummy {
    const DRIVER: &'static CStr = c"netvsc_kunit";
    const RSS_KEY_LEN: u32 = 0;
    const REGISTERS: usize = 0;
    const REGISTERS_VERSION: u32 = 0;

    fn link(_dev: &Device<Self>, _rtnl: &Rtnl) -> Link {
        Link {
            speed: 10,
            duplex: Duplex::Full,
        }
    }

    fn set_link(_dev: &Device<Self>, _rtnl: &Rtnl, _link: Link) {}

    fn registers(_dev: &Device<Self>, _rtnl: &Rtnl, _values: &mut [u32]) {}

    fn channels(_dev: &Device<Self>, _rtnl: &Rtnl) -> Channels {
        Channels {
            max_combined: QUEUES,
            combined: QUEUES,
        }
    }

    fn set_channels(_dev: &Device<Self>, _rtnl: &Rtnl, _combined: u32) -> Result {
        Err(EINVAL)
    }

    fn rings(_dev: &Device<Self>, _rtnl: &Rtnl) -> Rings {
        Rings::default()
    }

    fn set_rings(_dev: &Device<Self>, _rtnl: &Rtnl, _wanted: RingSizes) -> Result {
        Err(EINVAL)
    }

    fn rss_table_len(_dev: &Device<Self>, _rtnl: &Rtnl) -> u32 {
        0
    }

    fn rss(_dev: &Device<Self>, _rtnl: &Rtnl, _view: RssView<'_>) -> Result {
        Err(EINVAL)
    }

    fn set_rss(_dev: &Device<Self>, _rtnl: &Rtnl, _change: &RssChange<'_>) -> Result {
        Err(EINVAL)
    }

    fn hashes_ports(_dev: &Device<Self>, _rtnl: &Rtnl, _kind: FlowKind) -> bool {
        false
    }

    fn set_hashes_ports(
        _dev: &Device<Self>,
        _rtnl: &Rtnl,
        _kind: FlowKind,
        _ports: bool,
    ) -> Result {
        Err(EINVAL)
    }

    fn statistics_count(_dev: &Device<Self>, _rtnl: &Rtnl) -> usize {
        STATISTICS
    }

    /// One more than announced, and one that is too long.
    fn statistics_names(_dev: &Device<Self>, _rtnl: &Rtnl, names: &mut ethtool::Strings<'_>) {
        names.put(format_args!("first_{}", 1));
        names.put(format_args!("a_name_that_is_longer_than_a_string_can_be"));
        names.put(format_args!("third"));
        names.put(format_args!("one_too_many"));
    }

    fn statistics(_dev: &Device<Self>, _rtnl: &Rtnl, values: &mut ethtool::Values<'_>) {
        for value in 0..=STATISTICS as u64 {
            values.put(value + 1);
        }
    }

    fn message_level(_dev: &Device<Self>) -> u32 {
        0
    }

    fn set_message_level(_dev: &Device<Self>, _level: u32) {}
}

// SPDX-License-Identifier: GPL-2.0

//! One channel of an attached device: its poll, its transmit state, what both share.

use crate::buffers::{ReceiveArea, SendArea};
use crate::device::{Adapter, LINK, REPAIR};
use crate::mailbox::Mailbox;
use crate::net::{
    Config, DelayedWork, Device, DeviceRef, InFlight, Napi, NapiRegistration, Poll, PollContext,
    Progress, Published, SoftIrq, TxCell,
};
use crate::rndis::{nvsp::SEND_TABLE_LEN, send_table::SendTable, version::NvspVersion};
use crate::rx::RxState;
use crate::stats::QueueStats;
use crate::tx::TxState;
use crate::vmbus;
use core::sync::atomic::{AtomicU32, AtomicU8, Ordering};
use kernel::{
    prelude::*,
    sync::{rcu, Arc},
};

/// The channel of a queue, open.
pub(crate) type OpenChannel = vmbus::OpenChannel<Napi<Queue>>;
/// A queue's place in the device's list of polls.
pub(crate) type Registration = NapiRegistration<Queue, Adapter>;

/// Packets of frames that one queue may have on their way; a power of two.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

/// Milliseconds from the loss of a channel to the rebuild.
const REPAIR_MS: u32 = 1000;

/// Milliseconds between two looks for channels that are gone or whose rings are broken. A loss shows at once when something
/// is sent; a channel that only receives is missed by nobody.
const WATCH_MS: u32 = 3000;

/// What the channels of one attach share.
#[pin_data]
pub(crate) struct Shared {
    /// The interface.
    pub(crate) dev: DeviceRef<Adapter>,
    /// Where the control plane's messages go.
    #[pin]
    pub(crate) mailbox: Mailbox,
    /// Where received frames lie, once the host has it.
    pub(crate) receive: Published<ReceiveArea>,
    /// Where small frames are copied to, once the host has it.
    pub(crate) send: Published<SendArea>,
    /// Which channel a flow hash goes to: spread evenly, until the host says otherwise.
    send_table: [AtomicU8; SEND_TABLE_LEN],
    /// NVSP version in use, as on the wire.
    version: AtomicU32,
    /// Brings the carrier back after a change of network.
    #[pin]
    pub(crate) carrier_return: DelayedWork<DeviceRef<Adapter>>,
    /// Rebuilds the device without a channel that the host took away.
    #[pin]
    repair: DelayedWork<DeviceRef<Adapter>>,
    /// Looks for channels that are gone.
    #[pin]
    watch: DelayedWork<DeviceRef<Adapter>>,
}

impl Shared {
    /// For a new attach.
    pub(crate) fn new(dev: &Device<Adapter>) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                dev: dev.to_ref(),
                mailbox <- Mailbox::new(),
                receive: Published::new(),
                send: Published::new(),
                send_table: core::array::from_fn(|index| AtomicU8::new(index as u8)),
                version: AtomicU32::new(0),
                carrier_return <- DelayedWork::new(dev.to_ref(), |dev| {
                    dev.link.set_away(false);
                    dev.schedule_work(LINK);
                }),
                repair <- DelayedWork::new(dev.to_ref(), |dev| dev.schedule_work(REPAIR)),
                watch <- DelayedWork::deferrable(dev.to_ref(), |dev| look_for_losses(dev)),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The host took a sub-channel away: its flows get another one, at most a rebuild a second.
    pub(crate) fn lost_channel(&self) {
        self.repair.queue(REPAIR_MS);
    }

    /// Begins to look for lost channels, now and then while the machine is awake.
    pub(crate) fn watch_channels(&self) {
        self.watch.queue(WATCH_MS);
    }

    /// Cancels what was to be done later, for teardown. Sleeps.
    pub(crate) fn cancel_work(&self) {
        self.carrier_return.cancel();
        // Before what it may queue.
        self.watch.cancel();
        self.repair.cancel();
    }

    /// The channel for a flow hash; may exceed the number of channels in use.
    #[inline]
    pub(crate) fn channel_of(&self, hash: u32) -> u16 {
        self.send_table
            .get(hash as usize % SEND_TABLE_LEN)
            .map_or(0, |entry| entry.load(Ordering::Relaxed).into())
    }

    /// Replaces the table that [`Shared::channel_of`] looks into.
    pub(crate) fn set_send_table(&self, table: &SendTable) {
        for (place, &entry) in self.send_table.iter().zip(table.entries()) {
            place.store(entry, Ordering::Relaxed);
        }
    }

    /// NVSP version, for messages whose layout depends on it.
    pub(crate) fn version(&self) -> Option<NvspVersion> {
        NvspVersion::from_value(self.version.load(Ordering::Relaxed))
    }

    /// Notes the NVSP version.
    pub(crate) fn set_version(&self, version: NvspVersion) {
        self.version.store(version.value(), Ordering::Relaxed);
    }
}

/// Counts what the channels' CPUs have carried, has the device rebuilt if the host took a channel away or broke a ring, and
/// looks again later. Ends when the path is taken down; the next attach begins anew.
fn look_for_losses(dev: &Device<Adapter>) {
    let section = rcu::read_lock();
    let Some(path) = dev.path.get(SoftIrq::from(&section)) else {
        return;
    };
    let Some(primary) = path.queue(0) else {
        return;
    };
    dev.count_traffic(|index| {
        let channel = path.queue(index)?.channel.get(SoftIrq::from(&section))?;
        Some(channel.reference().target_cpu())
    });
    if path.lost_channel(SoftIrq::from(&section)) {
        primary.shared.lost_channel();
    }
    primary.shared.watch_channels();
}

/// One channel of an attached device. Wrapped in a [`Napi`], which is what interrupts refer to.
pub(crate) struct Queue {
    /// Index of channel, transmit and receive queue; 0 is the primary.
    pub(crate) index: u16,
    /// What all channels share.
    pub(crate) shared: Arc<Shared>,
    /// The channel, while it is open.
    pub(crate) channel: Published<OpenChannel>,
    /// State of the transmit side.
    pub(crate) tx: TxCell<TxState>,
    /// Packets that the host has not completed.
    pub(crate) in_flight: InFlight,
    /// Bytes that the stack was told of as sent but that the ring did not take: the next poll reports them
    /// as completed, since that is for one caller at a time.
    pub(crate) unsent_bytes: AtomicU32,
}

impl Queue {
    /// Adds a queue to the device, disabled.
    pub(crate) fn register(
        dev: &Device<Adapter>,
        shared: &Arc<Shared>,
        index: u16,
        config: &Config<'_>,
    ) -> Result<Registration> {
        let queue = Self {
            index,
            shared: shared.clone(),
            channel: Published::new(),
            tx: TxCell::new(dev, index, TxState::new()?),
            in_flight: InFlight::new(MAX_IN_FLIGHT)?,
            unsent_bytes: AtomicU32::new(0),
        };
        Registration::new(dev, index, queue, RxState::new()?, config)
    }

    /// The interface.
    #[inline]
    pub(crate) fn dev(&self) -> &Device<Adapter> {
        &self.shared.dev
    }

    /// This queue's counters, which outlive it.
    #[inline]
    pub(crate) fn stats(&self) -> Option<&QueueStats> {
        self.dev().queue_stat(self.index)
    }
}

impl vmbus::Interrupt for Napi<Queue> {
    #[inline]
    fn channel_interrupt(&self, channel: &vmbus::InterruptedChannel<'_>) {
        self.schedule_irqoff(|| channel.mask());
    }
}

impl Poll for Queue {
    type State = RxState;

    fn poll(&self, poll: &PollContext<'_>, state: &mut RxState, budget: u32) -> Progress {
        crate::rx::poll(self, poll, state, budget)
    }

    fn unmask(&self, section: SoftIrq<'_>) -> bool {
        self.channel
            .get(section)
            .is_some_and(|channel| channel.unmask())
    }

    fn mask(&self, section: SoftIrq<'_>) {
        if let Some(channel) = self.channel.get(section) {
            channel.mask();
        }
    }
}

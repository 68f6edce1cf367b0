// SPDX-License-Identifier: GPL-2.0

//! Reconfiguration as a transaction: take the device down, bring it up with the new settings, or else with
//! the old ones; and the requests that need no rebuild.
//!
//! Time: an attach has `ATTACH_MS` for all its waits. A detach has a second for what is in flight, and `CALL_MS`
//! for each of closing the channel and taking back two buffers. So an operation that fails and goes back holds
//! the locks for 106 seconds at most; a host that answers everything but one message costs 30 or 15. A
//! request has [`EXCHANGE_MS`].

mod offload;
mod rss;

use crate::attach::Attachment;
use crate::buffers::Kept;
use crate::control::Started;
use crate::debug_view::HostError;
use crate::device::Adapter;
use crate::net::{Config, Device};
use crate::rndis::{
    address::MacAddress,
    bringup::OnRefusal,
    exchange::{ExchangeError, Reply, Request},
    filter::{PacketFilter, Wanted},
    name::FriendlyName,
};
use crate::settings::Settings;
use crate::vmbus::{Channel, Deadline};
use core::cell::Cell;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
    time::Msecs,
};

/// Time that the host has to answer one request.
const EXCHANGE_MS: Msecs = 5_000;
/// Interface flag: deliver everything.
const IFF_PROMISC: u32 = 0x100;

/// A place for the primary channel, which a thread that has waited for the host puts there at last.
#[pin_data]
pub(crate) struct Returned {
    #[pin]
    channel: Mutex<Option<Channel>>,
}

impl Returned {
    /// An empty place.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(pin_init!(Self { channel <- new_mutex!(None) }), GFP_KERNEL)
    }

    /// Puts the channel there.
    pub(crate) fn put(&self, channel: Channel) {
        *self.channel.lock() = Some(channel);
    }

    /// Takes what is there.
    pub(crate) fn take(&self) -> Option<Channel> {
        self.channel.lock().take()
    }
}

/// Everything that configuration changes, behind the adapter's mutex.
pub(crate) struct Control {
    /// What the user wants; what the attached device was brought up with.
    settings: Settings,
    /// The attached device.
    pub(crate) attachment: Option<Attachment>,
    /// The primary channel, closed, while nothing is attached.
    channel: Option<Channel>,
    /// The buffers for the next attach, during a rebuild.
    kept: Kept,
    /// The filter that the host has, if that is known.
    filter: Option<PacketFilter>,
    /// The user's indirection table had to be given up, which the core does not know yet.
    table_lost: bool,
}

impl Control {
    /// Nothing attached yet.
    pub(crate) fn new(settings: Settings, channel: Channel) -> Self {
        Self {
            settings,
            attachment: None,
            channel: Some(channel),
            kept: Kept::default(),
            filter: Some(PacketFilter::NONE),
            table_lost: false,
        }
    }

    /// Attaches with the current settings. Apart from its callers: it needs a good part of a kernel stack.
    #[inline(never)]
    pub(crate) fn attach(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        on_refusal: OnRefusal,
    ) -> Result {
        self.forget_default_table(dev, config);
        let settings = self.settings.clone();
        self.attach_with(dev, config, &settings, on_refusal)?;
        self.commit(settings);
        Ok(())
    }

    /// These settings are in effect, apart from an indirection table that did not fit.
    fn commit(&mut self, settings: Settings) {
        self.settings = settings;
        let fits = self
            .attached()
            .is_ok_and(|attachment| attachment.negotiated.user_table);
        if !fits && self.settings.rss_table.take().is_some() {
            self.table_lost = true;
        }
    }

    /// Attaches if that has failed before: `ip link set up` is another try.
    pub(crate) fn ensure_attached(&mut self, dev: &Device<Adapter>, config: &Config<'_>) -> Result {
        if self.attachment.is_some() {
            return Ok(());
        }
        let result = self.attach(dev, config, OnRefusal::Continue);
        if result.is_err() {
            self.kept.release(dev);
        }
        result
    }

    /// The MTU that a new interface got, which may be lower than the one asked for.
    pub(crate) fn adopt_mtu(&mut self, mtu: u32) {
        self.settings.mtu = mtu;
    }

    /// Gives the channel up for good, and what was shared over it.
    pub(crate) fn give_up_channel(&mut self, dev: &Device<Adapter>) {
        self.kept.release(dev);
        self.channel = None;
    }

    /// Takes the device down; frames wait in the stack meanwhile.
    pub(crate) fn detach(&mut self, dev: &Device<Adapter>, config: &Config<'_>) {
        let Some(attachment) = self.attachment.take() else {
            return;
        };
        // From here on a frame that comes stops its queue and goes back to the stack.
        let path = dev.path.unpublish(config);
        dev.history.detached();
        // Takes each queue's lock, so no transmit that has seen the path is under way afterwards.
        dev.tx_disable();
        self.channel = attachment.detach(dev, config, &mut self.kept);
        self.filter = Some(PacketFilter::NONE);
        drop(path);
    }

    /// Changes the settings by a rebuild. On failure the old ones are in effect again.
    pub(crate) fn transact(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        change: impl FnOnce(&mut Settings),
    ) -> Result {
        self.forget_default_table(dev, config);
        let mut wanted = self.settings.clone();
        change(&mut wanted);
        let on_refusal = self.demands();
        self.prepare_buffers(&wanted)?;
        self.detach(dev, config);
        let result = self
            .attach_with(dev, config, &wanted, on_refusal)
            .and_then(|()| self.check_mtu(dev, config, &wanted));
        match result {
            Ok(()) => self.commit(wanted),
            Err(error) => {
                Adapter::say_err(
                    dev,
                    format_args!("new configuration failed ({error:?}): going back"),
                );
                self.go_back(dev, config);
            }
        }
        result
    }

    /// Gets the memory that a rebuild with `wanted` will need.
    fn prepare_buffers(&mut self, wanted: &Settings) -> Result {
        let Some(attachment) = &self.attachment else {
            return Ok(());
        };
        let negotiated = &attachment.negotiated;
        let config = wanted.bringup(OnRefusal::Continue);
        let receive = config.receive_buffer_len(negotiated.version);
        let send = config.send_buffer_len();
        self.kept.prepare(negotiated, receive, send)
    }

    /// Attaches with the settings that worked before, as far as the host grants them now.
    fn go_back(&mut self, dev: &Device<Adapter>, config: &Config<'_>) {
        if let Err(error) = self.attach(dev, config, OnRefusal::Continue) {
            self.kept.release(dev);
            dev.carrier_off();
            Adapter::say_err(
                dev,
                format_args!(
                    "old configuration failed too ({error:?}): no traffic until the interface is set \
                     down and up again"
                ),
            );
        }
    }

    /// Rebuilds the device if the host took a sub-channel away, whose flows would go nowhere, or broke a ring.
    pub(crate) fn repair(&mut self, dev: &Device<Adapter>, config: &Config<'_>) {
        let lost = |attachment: &Attachment| attachment.lost_channel(config);
        if !self.attachment.as_ref().is_some_and(lost) {
            return;
        }
        Adapter::say(
            dev,
            format_args!("host took a channel away or broke its ring: attaching again"),
        );
        self.detach(dev, config);
        self.go_back(dev, config);
    }

    /// A rebuild fails where the host refuses what it granted before; what it refused all along is not
    /// asked of it.
    fn demands(&self) -> OnRefusal {
        match &self.attachment {
            Some(attachment) if attachment.negotiated.refused_steps == 0 => OnRefusal::Fail,
            _ => OnRefusal::Continue,
        }
    }

    /// Takes the device down again if the host does not take the MTU that was asked for.
    fn check_mtu(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        settings: &Settings,
    ) -> Result {
        let granted = self.attached()?.negotiated.mtu;
        if granted >= settings.mtu {
            return Ok(());
        }
        Adapter::say_err(
            dev,
            format_args!(
                "MTU {} asked for: the host takes at most {granted}",
                settings.mtu
            ),
        );
        self.detach(dev, config);
        Err(EINVAL)
    }

    /// Attaches with `settings` and lets traffic flow.
    fn attach_with(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        settings: &Settings,
        on_refusal: OnRefusal,
    ) -> Result {
        let channel = self.channel.take().or_else(|| dev.returned.take());
        let channel = channel.ok_or(ENODEV)?;
        let link = dev.link.snapshot();
        // The channels may interrupt other CPUs than before.
        dev.count_traffic(|_| None);
        match Attachment::new(dev, config, channel, settings, on_refusal, &mut self.kept) {
            Ok(attachment) => self.attachment = Some(attachment),
            Err((channel, error)) => {
                self.channel = channel;
                dev.history.failed();
                return Err(error);
            }
        }
        let result = self.start(dev, config, settings, link);
        let attachment = self.attachment.as_ref();
        dev.count_traffic(|index| attachment?.target_cpu(config, index.into()));
        match result {
            // Memory of another size, kept for as long as nothing was attached.
            Ok(()) => self.kept.tidy(),
            Err(_) => self.detach(dev, config),
        }
        result
    }

    /// From attached to running: replays what the user had set, then opens the packet paths.
    #[inline(never)]
    fn start(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        settings: &Settings,
        link: u32,
    ) -> Result {
        let attachment = self.attached()?;
        let negotiated = attachment.negotiated.clone();
        let path = KBox::new(attachment.data_path()?, GFP_KERNEL)?;
        if let Some(address) = settings.address {
            self.request(dev, config, &Request::SetAddress(address))?;
        }
        // Before the host may deliver on a queue, the stack must know of it.
        let attachment = self.attached()?;
        dev.set_real_queues(config, attachment.channels())?;
        attachment.link_queues(config);
        if dev.is_running() {
            self.set_filter(dev, config, true)?;
        }
        if let Some(speed) = negotiated.link_speed {
            dev.link.set_speed_asked(speed.mbit());
        }
        dev.link.set_if_unchanged(link, negotiated.link_up);
        if let Err(occupied) = dev.path.publish(config, path) {
            drop(occupied);
            return Err(EBUSY);
        }
        dev.history.attached(&negotiated);
        self.attached()?.watch();
        report(dev, settings, &negotiated);
        if dev.is_running() {
            Adapter::update_carrier(dev, config);
            dev.tx_wake_all();
        }
        Ok(())
    }

    /// Sets the address, on the host first.
    pub(crate) fn set_address(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        address: MacAddress,
    ) -> Result {
        self.request(dev, config, &Request::SetAddress(address))?;
        self.settings.address = Some(address);
        Ok(())
    }

    /// Shows the name that the host's administrator gave the adapter, if there is one and the host
    /// tells.
    #[inline(never)]
    pub(crate) fn adopt_name(&mut self, dev: &Device<Adapter>, config: &Config<'_>) {
        let deadline = Deadline::after(EXCHANGE_MS);
        let place = Cell::new(FriendlyName::decode(&[]));
        // Whoever does not tell has no name.
        let _ = self.exchange(config, deadline, &Request::QueryFriendlyName(&place));
        if let Some(alias) = place.into_inner().given() {
            // Without memory there is no alias.
            let _ = dev.set_alias(config, alias);
        }
    }

    /// Has the host deliver what the interface's flags ask for, or nothing if it is not `open`.
    pub(crate) fn set_filter(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        open: bool,
    ) -> Result {
        let filter = if open {
            wanted_filter(dev)
        } else {
            PacketFilter::NONE
        };
        if self.attached().is_ok() && self.filter == Some(filter) {
            return Ok(());
        }
        // A request that times out may be carried out later, or not.
        self.filter = None;
        self.request(dev, config, &Request::SetPacketFilter(filter))?;
        self.filter = Some(filter);
        Ok(())
    }

    /// Asks the host for something, and waits for its answer.
    fn request(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        request: &Request<'_>,
    ) -> Result {
        let deadline = Deadline::after(EXCHANGE_MS);
        self.exchange(config, deadline, request)?
            .map(drop)
            .map_err(|error| {
                dev.history.error(HostError::Request(error));
                Adapter::say_err(dev, format_args!("host refused a request: {error}"));
                errno(&error)
            })
    }

    /// One request and its answer. The outer error is of this side: not attached, or no memory.
    fn exchange(
        &mut self,
        config: &Config<'_>,
        deadline: Deadline,
        request: &Request<'_>,
    ) -> Result<Result<Reply, ExchangeError>> {
        let attachment = self.attached()?;
        let (result, in_flight) = attachment.with_line(config, deadline, |ids, mut line| {
            let (mut exchange, first) = match line.start(ids, request) {
                Ok(started) => started,
                Err(error) => return (Err(error), false),
            };
            let result = line.run(&mut Started::new(&mut exchange, first), |_, _| {
                // An exchange asks for nothing but messages.
                crate::rndis::event::Event::SendFailed
            });
            let in_flight = result.is_err() && exchange.buffer_in_flight();
            let reply = result.map(|()| exchange.reply().unwrap_or(Reply::Set));
            (reply, in_flight)
        })?;
        if in_flight {
            attachment.withhold_page()?;
        }
        Ok(result)
    }
}

/// The filter for the interface's flags. All multicast groups pass: the stack filters them.
fn wanted_filter(dev: &Device<Adapter>) -> PacketFilter {
    PacketFilter::new(Wanted {
        promiscuous: dev.flags() & IFF_PROMISC != 0,
        multicast: true,
        broadcast: true,
    })
}

/// Says what the interface runs with, if that is less than was asked for.
fn report(
    dev: &Device<Adapter>,
    settings: &Settings,
    negotiated: &crate::rndis::bringup::Negotiated,
) {
    let granted = negotiated.channels;
    let requested = negotiated.subchannels_requested.saturating_add(1);
    if granted < requested {
        Adapter::say(
            dev,
            format_args!("host granted {granted} of {requested} channels: running with {granted}"),
        );
    }
    if settings.rss_table.is_some() && !negotiated.user_table {
        Adapter::say(
            dev,
            format_args!("indirection table does not fit {granted} channels: spread evenly"),
        );
    }
}

fn errno(error: &ExchangeError) -> Error {
    match error {
        ExchangeError::Rescinded => ENODEV,
        ExchangeError::Deadline => ETIMEDOUT,
        ExchangeError::SendFailed => EAGAIN,
        ExchangeError::Refused(_) | ExchangeError::MessageTooLong => EIO,
    }
}

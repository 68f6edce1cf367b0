// SPDX-License-Identifier: GPL-2.0

//! What host and driver agreed on, and what went wrong, for people: `/sys/kernel/debug/hv_netvsc/DEVICE/state`.
//!
//! Reading waits for no rebuild and for no host. What an attach has brought about is noted apart from the
//! configuration's lock, and the channels are looked at as the packet paths see them.

use crate::device::{Adapter, DataPath};
use crate::net::{cpu, debugfs::Root, Device, DeviceRef, SoftIrq};
use crate::rndis::{
    bringup::{BringupError, Negotiated},
    exchange::ExchangeError,
};
use crate::vmbus::{self, guid::Guid, Moment};
use core::fmt::{self, Write};
use kernel::{
    debugfs::File,
    new_mutex,
    prelude::*,
    str::CString,
    sync::{rcu, Mutex},
};

/// Why the host did not do what it was asked for.
#[derive(Clone, Copy)]
pub(crate) enum HostError {
    /// In an attach.
    Attach(BringupError),
    /// In a request on a device that is attached.
    Request(ExchangeError),
    /// It does not give back the memory that is shared with it, or the rings.
    NotReturned(Error),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach(error) => write!(f, "attach: {error}"),
            Self::Request(error) => write!(f, "request: {error}"),
            Self::NotReturned(error) => write!(f, "shared memory not returned: {error:?}"),
        }
    }
}

/// What is noted of a device.
#[derive(Default)]
struct Notes {
    /// What the last attach agreed on, while it lasts.
    negotiated: Option<Negotiated>,
    attaches: u64,
    failed: u64,
    last_attach: Option<Moment>,
    last_error: Option<(HostError, Moment)>,
}

/// Notes for the view. Its lock is taken last and held for no longer than it takes to write or show them.
#[pin_data]
pub(crate) struct History {
    #[pin]
    notes: Mutex<Notes>,
}

impl History {
    /// Nothing has happened yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self { notes <- new_mutex!(Notes::default()) })
    }

    /// An attach has succeeded.
    pub(crate) fn attached(&self, negotiated: &Negotiated) {
        let mut notes = self.notes.lock();
        notes.negotiated = Some(negotiated.clone());
        notes.attaches = notes.attaches.wrapping_add(1);
        notes.last_attach = Some(Moment::now());
    }

    /// An attach has failed.
    pub(crate) fn failed(&self) {
        let mut notes = self.notes.lock();
        notes.failed = notes.failed.wrapping_add(1);
    }

    /// The device is taken down.
    pub(crate) fn detached(&self) {
        self.notes.lock().negotiated = None;
    }

    /// The host did not do something.
    pub(crate) fn error(&self, error: HostError) {
        self.notes.lock().last_error = Some((error, Moment::now()));
    }
}

/// The file, which is there until this is dropped. Holds a reference to the network device: to be dropped
/// before that is unregistered.
pub(crate) struct View {
    _file: Pin<KBox<File<DeviceRef<Adapter>>>>,
}

impl View {
    /// Shows `dev` under the name of its VMBus device. Without debugfs, or memory, there is no view.
    pub(crate) fn new(dev: &Device<Adapter>, name: Guid) -> Option<Self> {
        let name = CString::try_from_fmt(format_args!("{name}")).ok()?;
        let folder = Root::folder(&name)?;
        let file = folder.read_callback_file(c"state", dev.to_ref(), &show);
        Some(Self {
            _file: KBox::pin_init(file, GFP_KERNEL).ok()?,
        })
    }
}

fn show(dev: &DeviceRef<Adapter>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    show_line(f, "interface", format_args!("{}", Name(dev)))?;
    let vmbus = vmbus::device::protocol_version();
    let version = format_args!("{}.{}", vmbus.major(), vmbus.minor());
    show_line(f, "VMBus version", version)?;
    let section = rcu::read_lock();
    let path = dev.path.get(SoftIrq::from(&section));
    show_channels(f, path, SoftIrq::from(&section))?;
    drop(section);
    let notes = dev.history.notes.lock();
    match &notes.negotiated {
        Some(negotiated) => show_negotiated(f, negotiated)?,
        None => show_line(f, "attached", format_args!("no"))?,
    }
    let attaches = format_args!("{}, {} failed", notes.attaches, notes.failed);
    show_line(f, "attaches", attaches)?;
    if let Some(last) = notes.last_attach {
        show_line(f, "last attach", format_args!("{} ago", Ago(last)))?;
    }
    match &notes.last_error {
        Some((error, when)) => show_line(
            f,
            "last host error",
            format_args!("{error} ({} ago)", Ago(*when)),
        ),
        None => show_line(f, "last host error", format_args!("none")),
    }
}

fn show_line(f: &mut fmt::Formatter<'_>, key: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    f.write_str(key)?;
    f.write_str(": ")?;
    f.write_fmt(value)?;
    f.write_char('\n')
}

/// The interface's name, if it has one yet.
struct Name<'a>(&'a Device<Adapter>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.name().and_then(|name| name.to_str().ok());
        f.write_str(name.unwrap_or("unnamed"))
    }
}

/// The time since a moment, in seconds.
struct Ago(Moment);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.elapsed();
        write!(f, "{}.{:03} s", millis / 1000, millis % 1000)
    }
}

fn show_negotiated(f: &mut fmt::Formatter<'_>, negotiated: &Negotiated) -> fmt::Result {
    let version = negotiated.version;
    let wire = version.value();
    let nvsp = format_args!("{}.{}", wire >> 16, wire & 0xffff);
    show_line(f, "NVSP version", nvsp)?;
    let (major, minor) = version.ndis_version();
    show_line(f, "NDIS version", format_args!("{major}.{minor}"))?;
    show_line(f, "MTU", format_args!("{}", negotiated.mtu))?;
    if let Some(most) = negotiated.host_mtu {
        show_line(f, "host's largest MTU", format_args!("{most}"))?;
    }
    let receive = format_args!(
        "{} bytes, {} sections of {}",
        negotiated.receive_buffer, negotiated.receive_section_count, negotiated.receive_section_len
    );
    show_line(f, "receive buffer", receive)?;
    let send = format_args!(
        "{} bytes, {} sections of {}",
        negotiated.send_buffer, negotiated.send_section_count, negotiated.send_section_len
    );
    show_line(f, "send buffer", send)?;
    let messages = format_args!(
        "at most {}, aligned to {}",
        negotiated.max_packets_per_message, negotiated.alignment
    );
    show_line(f, "messages in a packet", messages)?;
    let channels = format_args!(
        "{} of at most {}",
        negotiated.channels,
        negotiated.max_channels(cpu::online())
    );
    show_line(f, "channels", channels)?;
    show_line(f, "refused", format_args!("{}", negotiated.refused))
}

fn show_channels(
    f: &mut fmt::Formatter<'_>,
    path: Option<&DataPath>,
    section: SoftIrq<'_>,
) -> fmt::Result {
    let Some(path) = path else {
        return Ok(());
    };
    for index in 0..path.channels() {
        let Some(queue) = path.queue(index) else {
            continue;
        };
        let Some(channel) = queue.channel.get(section) else {
            continue;
        };
        let reference = channel.reference();
        writeln!(
            f,
            "channel {index}: id {}, CPU {}, {} bytes free to the host, {} bytes to read, {} packets in flight{}",
            reference.relid(),
            reference.target_cpu(),
            channel.bytes_to_write(),
            channel.bytes_to_read(),
            queue.in_flight.count(),
            if reference.rescinded() { ", rescinded" } else { "" },
        )?;
    }
    Ok(())
}

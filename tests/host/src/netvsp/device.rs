// SPDX-License-Identifier: GPL-2.0

//! The NIC as the VMBus server and the control socket see it: everything is forwarded to the
//! worker thread.

use std::io;
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{json, Value};

use super::attack::RingIndex;
use super::config::{NicConfig, OffloadSupport};
use super::nic::Nic;
use super::worker::{Command, Mailbox, Worker};
use crate::backend::frame::Frame;
use crate::backend::pcap::Capture;
use crate::backend::Backend;
use crate::vmbus::device::{DeviceHost, Guid, Offer, OpenChannel, VmbusDevice};
use crate::vmbus::ring::RawPacket;

/// Class GUID of network devices, f8615163-df3e-46c5-913f-f2d2f965ed0e.
pub const NETWORK_CLASS: Guid = [
    0x63, 0x51, 0x61, 0xf8, 0x3e, 0xdf, 0xc5, 0x46, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e,
];
/// Longest time a report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A NIC that has been asked for but whose worker does not run yet.
struct Parts {
    backend: Box<dyn Backend>,
    capture: Option<Capture>,
}

/// A synthetic network device.
pub struct Netvsp {
    config: NicConfig,
    parts: Option<Parts>,
    mailbox: Arc<Mailbox>,
    worker: Option<JoinHandle<()>>,
}

/// Controls a NIC from any thread, also after the device has gone (then to no effect).
#[derive(Clone)]
pub struct NicHandle {
    mailbox: Arc<Mailbox>,
}

impl Netvsp {
    /// Makes a NIC. Values of `config` that are out of range are put at the end of the range.
    ///
    /// # Errors
    ///
    /// If the capture file cannot be made (the message names it), or no eventfd.
    pub fn new(config: NicConfig, backend: Box<dyn Backend>) -> io::Result<Self> {
        let capture = match &config.pcap {
            None => None,
            Some(path) => Some(Capture::create(path).map_err(|e| {
                io::Error::new(e.kind(), format!("capture file {}: {e}", path.display()))
            })?),
        };
        Ok(Netvsp {
            config: config.clamped(),
            parts: Some(Parts { backend, capture }),
            mailbox: Arc::new(Mailbox::new()?),
            worker: None,
        })
    }

    /// A handle for the control socket.
    pub fn handle(&self) -> NicHandle {
        NicHandle {
            mailbox: Arc::clone(&self.mailbox),
        }
    }

    fn start(&mut self, host: Arc<dyn DeviceHost>, parts: Parts) -> io::Result<()> {
        let mut nic = Nic::new(self.config.clone(), host, parts.backend, parts.capture);
        nic.backend.set_link(self.config.link_up);
        let worker = Worker::new(nic, Arc::clone(&self.mailbox))?;
        let name = format!("nic-{}", self.config.name);
        let thread = std::thread::Builder::new().name(name);
        self.worker = Some(thread.spawn(move || worker.run())?);
        Ok(())
    }
}

impl NicHandle {
    /// Plugs (true) or pulls the cable.
    pub fn set_link(&self, up: bool) {
        self.mailbox.send(Command::Link(up));
    }

    /// Changes the link speed.
    pub fn set_speed(&self, mbps: u32) {
        self.mailbox.send(Command::Speed(mbps));
    }

    /// Tells the guest that the network behind the link changed.
    pub fn network_change(&self) {
        self.mailbox.send(Command::NetworkChange);
    }

    /// Delivers a frame to the guest as if it had come from the back end.
    pub fn inject(&self, frame: Frame) {
        self.mailbox.send(Command::Inject(frame));
    }

    /// Changes what the NIC offers, from the guest's next attach on.
    pub fn set_offloads(&self, offloads: OffloadSupport) {
        self.mailbox.send(Command::Offloads(offloads));
    }

    /// Writes RNDIS messages to the guest as they are, in one ring packet on the primary channel.
    ///
    /// # Errors
    ///
    /// If they cannot be written now; the text says why.
    pub fn inject_messages(&self, messages: Vec<Vec<u8>>) -> Result<(), String> {
        self.ask(|reply| Command::InjectMessages(messages, reply))
    }

    /// Writes a ring packet to a channel as it is.
    ///
    /// # Errors
    ///
    /// If it cannot be written now; the text says why.
    pub fn inject_packet(&self, channel: u16, packet: RawPacket) -> Result<(), String> {
        self.ask(|reply| Command::InjectPacket(channel, packet, reply))
    }

    /// Writes an index of a channel's rings.
    ///
    /// # Errors
    ///
    /// If the channel is not open.
    pub fn set_index(&self, channel: u16, which: RingIndex, value: u32) -> Result<(), String> {
        self.ask(|reply| Command::SetIndex(channel, which, value, reply))
    }

    fn ask(
        &self,
        command: impl FnOnce(SyncSender<Result<(), String>>) -> Command,
    ) -> Result<(), String> {
        let (reply, answer) = sync_channel(1);
        self.mailbox.send(command(reply));
        match answer.recv_timeout(REPORT_TIMEOUT) {
            Ok(done) => done,
            Err(_) => Err("the NIC's worker does not answer".to_owned()),
        }
    }

    /// State and counters.
    pub fn report(&self) -> Value {
        let (reply, answer) = sync_channel(1);
        self.mailbox.send(Command::Report(reply));
        match answer.recv_timeout(REPORT_TIMEOUT) {
            Ok(report) => report,
            Err(_) => json!({ "error": "the NIC's worker does not answer" }),
        }
    }
}

impl VmbusDevice for Netvsp {
    fn offer(&self) -> Offer {
        Offer {
            class: NETWORK_CLASS,
            instance: self.config.instance,
            max_channels: self.config.max_queues,
        }
    }

    fn attach(&mut self, host: Arc<dyn DeviceHost>) {
        let Some(parts) = self.parts.take() else {
            return;
        };
        if let Err(error) = self.start(host, parts) {
            tracing::error!(nic = self.config.name, "worker does not start: {error}");
        }
    }

    fn open(&mut self, channel: OpenChannel) {
        self.mailbox.send(Command::Open(channel));
    }

    fn close(&mut self, index: u16) {
        let Some(worker) = self.worker.as_ref().filter(|w| !w.is_finished()) else {
            return;
        };
        let (done, wait) = sync_channel(1);
        self.mailbox.send(Command::Close(index, done));
        // The worker never blocks. Should it die, its rings die with it.
        while wait.recv_timeout(Duration::from_millis(100)).is_err() && !worker.is_finished() {}
    }

    fn counters(&self) -> Value {
        self.handle().report()
    }
}

impl Drop for Netvsp {
    fn drop(&mut self) {
        self.mailbox.send(Command::Stop);
        if let Some(worker) = self.worker.take() {
            if worker.join().is_err() {
                tracing::error!(nic = self.config.name, "worker panicked");
            }
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The thread of a NIC: waits for signals of the guest, frames from the back end and commands, and
//! does all the work. Nothing else touches the rings.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::attack::RingIndex;
use super::config::OffloadSupport;
use super::nic::Nic;
use super::nvsp_wire::NvspVersion;
use super::rndis_wire::status;
use crate::backend::frame::Frame;
use crate::vmbus::device::OpenChannel;
use crate::vmbus::ring::RawPacket;

/// What others ask of the worker.
pub enum Command {
    /// Take a channel over.
    Open(OpenChannel),
    /// Let go of a channel, then say so.
    Close(u16, SyncSender<()>),
    /// Change the link state.
    Link(bool),
    /// Change the link speed, in Mbit/s.
    Speed(u32),
    /// Tell the guest that the network behind the link changed.
    NetworkChange,
    /// Deliver a frame to the guest as if it had come from the back end.
    Inject(Frame),
    /// Offer something else to a guest that attaches.
    Offloads(OffloadSupport),
    /// Write RNDIS messages to the guest as they are.
    InjectMessages(Vec<Vec<u8>>, SyncSender<Result<(), String>>),
    /// Write a ring packet to a channel as it is.
    InjectPacket(u16, RawPacket, SyncSender<Result<(), String>>),
    /// Write an index of a channel's rings.
    SetIndex(u16, RingIndex, u32, SyncSender<Result<(), String>>),
    /// Report state and counters.
    Report(SyncSender<Value>),
    /// End.
    Stop,
}

/// Commands on their way to the worker.
pub struct Mailbox {
    commands: Mutex<VecDeque<Command>>,
    wake: EventFd,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// If no eventfd can be made.
    pub fn new() -> io::Result<Self> {
        Ok(Mailbox {
            commands: Mutex::new(VecDeque::new()),
            wake: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Sends a command.
    pub fn send(&self, command: Command) {
        self.lock().push_back(command);
        // A full counter already reads as ready.
        let _ = self.wake.write(1);
    }

    fn take(&self) -> VecDeque<Command> {
        let _ = self.wake.read();
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const TOKEN_MAILBOX: u64 = u64::MAX;
const TOKEN_BACKEND: u64 = u64::MAX - 1;
/// Packets of one channel served before the next channel has its turn.
const SERVICE_BUDGET: usize = 64;
/// A guest that frees room signals it if its ring says so; in case it does not, look again after
/// this many milliseconds.
const RETRY_MS: i32 = 2;
const EVENTS: usize = 80;

/// The worker.
pub struct Worker {
    nic: Nic,
    mailbox: Arc<Mailbox>,
    epoll: Epoll,
    backend_fd: Option<RawFd>,
    /// Whether the back end's descriptor is being watched.
    backend_armed: bool,
    backend_ready: bool,
    frames: Vec<Frame>,
}

impl Worker {
    /// Prepares the worker of `nic`.
    ///
    /// # Errors
    ///
    /// If epoll does not take the descriptors.
    pub fn new(nic: Nic, mailbox: Arc<Mailbox>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = mailbox.wake.as_raw_fd();
        let event = EpollEvent::new(EventSet::IN, TOKEN_MAILBOX);
        epoll.ctl(ControlOperation::Add, wake, event)?;
        let backend_fd = nic.backend.readiness();
        if let Some(fd) = backend_fd {
            let event = EpollEvent::new(EventSet::IN, TOKEN_BACKEND);
            epoll.ctl(ControlOperation::Add, fd, event)?;
        }
        Ok(Worker {
            nic,
            mailbox,
            epoll,
            backend_fd,
            backend_armed: backend_fd.is_some(),
            backend_ready: false,
            frames: Vec::new(),
        })
    }

    /// Works until told to stop.
    pub fn run(mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        loop {
            match self.epoll.wait(self.timeout(), &mut events) {
                Ok(count) => events[..count].iter().for_each(|e| self.on_event(e)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(nic = self.nic.config.name, "epoll: {error}");
                    return;
                }
            }
            if !self.obey() {
                return;
            }
            self.turn();
        }
    }

    fn timeout(&self) -> i32 {
        let active = |c: &super::channel::Channel| c.active && !c.is_clogged();
        if self.nic.channels.values().any(active) {
            0
        } else if self.nic.waits_for_room() {
            RETRY_MS
        } else {
            -1
        }
    }

    fn on_event(&mut self, event: &EpollEvent) {
        match event.data() {
            // Looked at in every turn.
            TOKEN_MAILBOX => {}
            TOKEN_BACKEND => self.backend_ready = true,
            index => {
                if let Some(channel) = self.nic.channels.get_mut(&(index as u16)) {
                    channel.wake();
                }
            }
        }
    }

    /// Serves every channel that has something, takes frames, and writes what waits.
    fn turn(&mut self) {
        let active = |(index, c): (&u16, &super::channel::Channel)| c.active.then_some(*index);
        let indices: Vec<u16> = self.nic.channels.iter().filter_map(active).collect();
        for index in indices {
            let served = self.nic.service(index, SERVICE_BUDGET);
            self.nic.flush_channel(index);
            if let Some(channel) = self.nic.channels.get_mut(&index) {
                if served < SERVICE_BUDGET && !channel.is_clogged() {
                    channel.sleep();
                }
            }
        }
        if self.backend_ready && self.nic.takes_frames() {
            self.backend_ready = false;
            self.nic.receive(&mut self.frames);
        }
        self.nic.release_late();
        self.nic.flush();
        self.arm_backend();
    }

    /// Watches the back end only while there is room for its frames.
    fn arm_backend(&mut self) {
        let Some(fd) = self.backend_fd else { return };
        let wanted = self.nic.takes_frames();
        if wanted == self.backend_armed {
            return;
        }
        let set = if wanted {
            EventSet::IN
        } else {
            EventSet::empty()
        };
        let event = EpollEvent::new(set, TOKEN_BACKEND);
        match self.epoll.ctl(ControlOperation::Modify, fd, event) {
            Ok(()) => self.backend_armed = wanted,
            Err(error) => tracing::warn!(nic = self.nic.config.name, "back end: {error}"),
        }
    }

    /// Carries out commands. False after Stop.
    fn obey(&mut self) -> bool {
        for command in self.mailbox.take() {
            match command {
                Command::Open(open) => self.open(open),
                Command::Close(index, done) => {
                    self.close(index);
                    // The other side may have given up waiting.
                    let _ = done.send(());
                }
                Command::Link(up) => self.nic.set_link(up),
                Command::Speed(mbps) => self.nic.set_speed(mbps),
                Command::NetworkChange => {
                    self.nic
                        .indicate(status::NETWORK_CHANGE, "NETWORK_CHANGE", &[]);
                }
                Command::Inject(frame) => self.nic.deliver(frame),
                Command::Offloads(offloads) => self.nic.config.offloads = offloads,
                Command::InjectMessages(messages, reply) => {
                    let _ = reply.send(self.nic.inject_messages(&messages));
                }
                Command::InjectPacket(index, packet, reply) => {
                    let _ = reply.send(self.nic.inject_packet(index, &packet));
                }
                Command::SetIndex(index, which, value, reply) => {
                    let _ = reply.send(self.nic.set_index(index, which, value));
                }
                Command::Report(reply) => {
                    if let Some(capture) = &mut self.nic.capture {
                        // A failure shows at the next record.
                        let _ = capture.flush();
                    }
                    let _ = reply.send(self.nic.report());
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn open(&mut self, open: OpenChannel) {
        // A second open of a channel that was not closed replaces it.
        self.close(open.index);
        let event = EpollEvent::new(EventSet::IN, u64::from(open.index));
        let fd = open.kick.as_raw_fd();
        if let Err(error) = self.epoll.ctl(ControlOperation::Add, fd, event) {
            tracing::error!(
                nic = self.nic.config.name,
                "channel {}: {error}",
                open.index
            );
        }
        self.nic.open(open);
    }

    fn close(&mut self, index: u16) {
        if let Some(channel) = self.nic.channels.get(&index) {
            let fd = channel.kick.as_raw_fd();
            let event = EpollEvent::default();
            if let Err(error) = self.epoll.ctl(ControlOperation::Delete, fd, event) {
                tracing::warn!(nic = self.nic.config.name, "channel {index}: {error}");
            }
            self.nic.close(index);
        }
    }
}

impl Nic {
    /// Pulls or plugs the cable, and tells the guest.
    pub fn set_link(&mut self, up: bool) {
        if self.link_up == up {
            return;
        }
        self.link_up = up;
        self.backend.set_link(up);
        if up {
            self.indicate(status::MEDIA_CONNECT, "MEDIA_CONNECT", &[]);
        } else {
            self.indicate(status::MEDIA_DISCONNECT, "MEDIA_DISCONNECT", &[]);
        }
    }

    /// Changes the speed of the link, and tells a guest that knows of speeds.
    pub fn set_speed(&mut self, mbps: u32) {
        self.speed_mbps = mbps;
        if self.session.at_least(NvspVersion::V5) {
            let speed = self.link_speed().to_le_bytes();
            self.indicate(status::LINK_SPEED_CHANGE, "LINK_SPEED_CHANGE", &speed);
        }
    }
}

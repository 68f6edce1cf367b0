// SPDX-License-Identifier: GPL-2.0

//! The Hyper-V side of the virtual machine: message slots, event flags, connections, hypercalls.
//!
//! This is what the VMBus server sees of the machine ([`Hypervisor`]), and where vCPU threads bring
//! the guest's hypercalls. Locks: a `Synic`'s is a leaf; none is held while the server is called.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_hv_sint, kvm_irq_routing_irqchip, KvmIrqRouting,
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQ_ROUTING_HV_SINT,
    KVM_IRQ_ROUTING_IRQCHIP,
};
use kvm_ioctls::VmFd;
use serde_json::{json, Value};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::kvm;
use super::layout;
use super::synic::{Flagged, Synic, PAYLOAD};
use crate::hypervisor::{HvStatus, Hypervisor, MessageSink, Posted, VMBUS_SINT};

/// How long an occupied message slot is left before it is looked at again, should the guest's
/// end-of-message not be reported.
const SLOT_POLL_MS: i32 = 1;

/// Hypercall codes (TLFS).
mod hypercall {
    pub const POST_MESSAGE: u64 = 0x5c;
    pub const SIGNAL_EVENT: u64 = 0x5d;
    pub const FAST: u64 = 1 << 16;
}

/// Bytes before the payload in the input of POST_MESSAGE: connection, reserved, type, size.
const POST_HEADER: usize = 16;

/// The interrupt of one virtual processor's VMBus source.
struct SintInterrupt {
    /// Writing to it raises the interrupt.
    raise: EventFd,
    /// KVM writes to it when the guest ends an interrupt or a message; absent if this KVM cannot.
    acknowledged: Option<EventFd>,
}

/// Counts of what went between guest and server.
#[derive(Default)]
struct Traffic {
    messages_delivered: AtomicU64,
    messages_busy: AtomicU64,
    events_raised: AtomicU64,
    events_merged: AtomicU64,
    messages_received: AtomicU64,
    signals_received: AtomicU64,
    hypercalls_refused: AtomicU64,
}

/// Slots that were found busy, and a call for the thread that watches them.
#[derive(Default)]
struct BusySlots {
    slots: Mutex<BTreeSet<(u32, u8)>>,
    changed: Condvar,
    stop: AtomicBool,
}

/// A virtual machine as the VMBus server sees it.
pub struct Partition {
    vm: Arc<VmFd>,
    memory: GuestMemoryMmap,
    synics: Vec<Synic>,
    interrupts: Vec<SintInterrupt>,
    connections: Mutex<HashMap<u32, EventFd>>,
    busy: BusySlots,
    sink: OnceLock<Arc<dyn MessageSink>>,
    traffic: Traffic,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Partition {
    /// Routes the VMBus interrupt source of every virtual processor. The vCPUs must exist and have
    /// their SynIC enabled.
    pub fn new(vm: Arc<VmFd>, memory: GuestMemoryMmap, cpus: u8) -> io::Result<Self> {
        set_routes(&vm, cpus)?;
        let interrupts = (0..cpus)
            .map(|vp| SintInterrupt::new(&vm, sint_gsi(vp)))
            .collect::<io::Result<_>>()?;
        Ok(Partition {
            vm,
            memory,
            synics: (0..cpus).map(|_| Synic::new()).collect(),
            interrupts,
            connections: Mutex::default(),
            busy: BusySlots::default(),
            sink: OnceLock::new(),
            traffic: Traffic::default(),
        })
    }

    /// Names the server. Has to happen once, before the first vCPU runs; a later call is ignored.
    pub fn connect(&self, sink: Arc<dyn MessageSink>) {
        if self.sink.set(sink).is_err() {
            tracing::warn!("the partition has a VMBus server already");
        }
    }

    /// The guest wrote a SynIC register of `vp`.
    pub fn synic_registers(&self, vp: u32, control: u64, event_page: u64, message_page: u64) {
        tracing::debug!(vp, control, event_page, message_page, "SynIC");
        if let Some(synic) = self.synics.get(vp as usize) {
            synic.update(&self.memory, control, event_page, message_page);
        }
    }

    /// Serves a hypercall; the result is the status in the low 16 bits.
    pub fn hypercall(&self, input: u64, param: u64) -> u64 {
        let fast = input & hypercall::FAST != 0;
        let status = match input & 0xffff {
            hypercall::POST_MESSAGE if !fast => self.guest_message(param),
            hypercall::SIGNAL_EVENT => self.guest_signal(param, fast),
            code => {
                tracing::debug!("hypercall {code:#x} (input {input:#x}) is not served");
                HvStatus::InvalidHypercallCode
            }
        };
        if status != HvStatus::Success {
            count(&self.traffic.hypercalls_refused);
        }
        status as u64
    }

    fn guest_message(&self, page: u64) -> HvStatus {
        let mut input = [0u8; POST_HEADER + PAYLOAD];
        let read = self.memory.read_slice(&mut input, GuestAddress(page));
        if page % 8 != 0 || read.is_err() {
            return HvStatus::InvalidHypercallInput;
        }
        let word = |at: usize| {
            u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]])
        };
        let (connection, kind, size) = (word(0), word(8), word(12) as usize);
        let Some(payload) = input[POST_HEADER..].get(..size) else {
            return HvStatus::InvalidParameter;
        };
        count(&self.traffic.messages_received);
        match self.sink.get() {
            Some(sink) => sink.message(connection, kind, payload),
            None => HvStatus::InvalidConnectionId,
        }
    }

    fn guest_signal(&self, param: u64, fast: bool) -> HvStatus {
        let value = match fast {
            true => param,
            false => match self.memory.read_obj::<u64>(GuestAddress(param)) {
                Ok(value) => value,
                Err(_) => return HvStatus::InvalidHypercallInput,
            },
        };
        let (connection, flag) = (value as u32, (value >> 32) as u16);
        count(&self.traffic.signals_received);
        if let Some(event) = lock(&self.connections).get(&connection) {
            return match event.write(1) {
                Ok(()) => HvStatus::Success,
                Err(_) => HvStatus::InsufficientBuffers,
            };
        }
        match self.sink.get() {
            Some(sink) => sink.signal(connection, flag),
            None => HvStatus::InvalidConnectionId,
        }
    }

    fn raise(&self, vp: u32) {
        if let Some(interrupt) = self.interrupts.get(vp as usize) {
            if let Err(error) = interrupt.raise.write(1) {
                tracing::error!(vp, "cannot raise the VMBus interrupt: {error}");
            }
        }
    }

    /// Watches occupied message slots and tells the server when one is free. Returns after
    /// [`Partition::stop`]. To be run by a thread of its own.
    pub fn watch_slots(&self) -> io::Result<()> {
        let epoll = self.acknowledgements()?;
        let mut events = vec![EpollEvent::default(); self.interrupts.len()];
        while let Some(slots) = self.wait_for_busy() {
            for (vp, sint) in slots {
                let synic = &self.synics[vp as usize];
                if synic.is_free(&self.memory, sint) {
                    lock(&self.busy.slots).remove(&(vp, sint));
                    if let Some(sink) = self.sink.get() {
                        sink.slot_free(vp, sint);
                    }
                }
            }
            if !lock(&self.busy.slots).is_empty() {
                match epoll.wait(SLOT_POLL_MS, &mut events) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// All acknowledgement events, edge triggered: nobody has to read them, and a guest that ends
    /// interrupts while no slot is busy wakes nobody.
    fn acknowledgements(&self) -> io::Result<Epoll> {
        let epoll = Epoll::new()?;
        for event in self
            .interrupts
            .iter()
            .filter_map(|i| i.acknowledged.as_ref())
        {
            let edge = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), edge)?;
        }
        Ok(epoll)
    }

    /// Sleeps until a slot is busy; `None` when the machine stops.
    fn wait_for_busy(&self) -> Option<Vec<(u32, u8)>> {
        let mut slots = lock(&self.busy.slots);
        loop {
            if self.busy.stop.load(Ordering::Acquire) {
                return None;
            }
            if !slots.is_empty() {
                return Some(slots.iter().copied().collect());
            }
            let waited = self
                .busy
                .changed
                .wait_timeout(slots, Duration::from_secs(1));
            slots = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends [`Partition::watch_slots`].
    pub fn stop(&self) {
        self.busy.stop.store(true, Ordering::Release);
        self.busy.changed.notify_all();
    }

    /// What went between guest and server, as JSON.
    pub fn counters(&self) -> Value {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let traffic = &self.traffic;
        json!({
            "messages_delivered": get(&traffic.messages_delivered),
            "messages_slot_busy": get(&traffic.messages_busy),
            "events_raised": get(&traffic.events_raised),
            "events_merged": get(&traffic.events_merged),
            "messages_received": get(&traffic.messages_received),
            "signals_by_exit": get(&traffic.signals_received),
            "hypercalls_refused": get(&traffic.hypercalls_refused),
        })
    }
}

impl Hypervisor for Partition {
    fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    fn vp_count(&self) -> u32 {
        self.synics.len() as u32
    }

    fn post_message(&self, vp: u32, sint: u8, message_type: u32, payload: &[u8]) -> Posted {
        let Some(synic) = self.synics.get(vp as usize).filter(|_| sint == VMBUS_SINT) else {
            return Posted::Disabled;
        };
        let posted = synic.post(&self.memory, sint, message_type, payload);
        match posted {
            Posted::Delivered => {
                count(&self.traffic.messages_delivered);
                self.raise(vp);
            }
            Posted::Busy => {
                count(&self.traffic.messages_busy);
                lock(&self.busy.slots).insert((vp, sint));
                self.busy.changed.notify_one();
            }
            Posted::Disabled => {}
        }
        posted
    }

    fn signal_event(&self, vp: u32, sint: u8, flag: u16) {
        let Some(synic) = self.synics.get(vp as usize).filter(|_| sint == VMBUS_SINT) else {
            return;
        };
        match synic.set_flag(&self.memory, sint, flag) {
            Flagged::Raise => {
                count(&self.traffic.events_raised);
                self.raise(vp);
            }
            Flagged::AlreadySet => count(&self.traffic.events_merged),
            Flagged::Disabled => {}
        }
    }

    fn bind_connection(&self, connection: u32, event: &EventFd) -> io::Result<()> {
        // The copy serves signals that come as exits: from before KVM knew the connection, or
        // because this KVM cannot do it.
        lock(&self.connections).insert(connection, event.try_clone()?);
        if let Err(error) = kvm::hyperv_eventfd(&self.vm, connection, Some(event)) {
            tracing::warn!("connection {connection:#x} is signalled by exits: {error}");
        }
        Ok(())
    }

    fn unbind_connection(&self, connection: u32, _event: &EventFd) -> io::Result<()> {
        lock(&self.connections).remove(&connection);
        match kvm::hyperv_eventfd(&self.vm, connection, None) {
            // It was never bound inside KVM.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

impl SintInterrupt {
    fn new(vm: &VmFd, gsi: u32) -> io::Result<Self> {
        let raise = EventFd::new(EFD_NONBLOCK)?;
        let acknowledged = EventFd::new(EFD_NONBLOCK)?;
        let both = vm.register_irqfd_with_resample(&raise, &acknowledged, gsi);
        if both.is_ok() {
            return Ok(SintInterrupt {
                raise,
                acknowledged: Some(acknowledged),
            });
        }
        vm.register_irqfd(&raise, gsi)?;
        Ok(SintInterrupt {
            raise,
            acknowledged: None,
        })
    }
}

/// The interrupt number that stands for the VMBus source of `vp`.
fn sint_gsi(vp: u8) -> u32 {
    layout::IO_APIC_PINS + u32::from(vp)
}

/// Tells KVM where every interrupt goes: the legacy ones to PIC and I/O APIC as on a PC without
/// overrides, ours to the SynICs.
fn set_routes(vm: &VmFd, cpus: u8) -> io::Result<()> {
    let mut routes = Vec::new();
    for gsi in 0..layout::IO_APIC_PINS {
        match gsi {
            0..8 => routes.push(chip_route(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
            8..16 => routes.push(chip_route(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
            _ => {}
        }
        routes.push(chip_route(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    }
    for vp in 0..cpus {
        let mut route = kvm_irq_routing_entry {
            gsi: sint_gsi(vp),
            type_: KVM_IRQ_ROUTING_HV_SINT,
            ..Default::default()
        };
        route.u.hv_sint = kvm_irq_routing_hv_sint {
            vcpu: u32::from(vp),
            sint: u32::from(VMBUS_SINT),
        };
        routes.push(route);
    }
    let table = KvmIrqRouting::from_entries(&routes)
        .map_err(|_| io::Error::other("interrupt routing table"))?;
    Ok(vm.set_gsi_routing(&table)?)
}

fn chip_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    route.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    route
}

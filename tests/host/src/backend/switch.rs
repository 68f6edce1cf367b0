// SPDX-License-Identifier: GPL-2.0

//! An Ethernet switch in the process: wires NICs of the guest together.
//!
//! Every port has a bounded queue that any other port's worker may fill; a full queue drops and
//! counts. With learning on, a frame goes to the port its destination was last heard from;
//! otherwise, and for group addresses, to every other port.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::frame::Frame;
use super::{Backend, Takes, TxDrop};

/// Frames a port's queue holds before it drops.
pub const DEFAULT_QUEUE: usize = 8192;
/// Addresses the table holds before it forgets all of them.
const TABLE_LIMIT: usize = 4096;

/// How a switch finds the port for a unicast frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// By the source addresses heard before; unknown destinations are flooded.
    Learning,
    /// Every frame to every other port.
    Flooding,
}

/// One switch. Clones are handles to the same switch.
#[derive(Clone)]
pub struct Switch(Arc<Inner>);

struct Inner {
    forwarding: Forwarding,
    queue: usize,
    ports: Mutex<Ports>,
}

#[derive(Default)]
struct Ports {
    next_id: u64,
    queues: HashMap<u64, Arc<PortQueue>>,
    /// MAC address to port id.
    table: HashMap<[u8; 6], u64>,
}

struct PortQueue {
    frames: Mutex<VecDeque<Frame>>,
    ready: EventFd,
    dropped: AtomicU64,
}

/// A NIC's end of a switch port. Dropping it unplugs the cable.
pub struct SwitchPort {
    switch: Switch,
    id: u64,
    queue: Arc<PortQueue>,
}

/// No lock of this file is held over code that can panic half-way, so a poisoned one is intact.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    /// A switch whose ports hold up to `queue` frames each.
    pub fn new(forwarding: Forwarding, queue: usize) -> Self {
        Switch(Arc::new(Inner {
            forwarding,
            queue: queue.max(1),
            ports: Mutex::new(Ports::default()),
        }))
    }

    /// Adds a port.
    ///
    /// # Errors
    ///
    /// If no eventfd can be made.
    pub fn port(&self) -> io::Result<SwitchPort> {
        let queue = Arc::new(PortQueue {
            frames: Mutex::new(VecDeque::new()),
            ready: EventFd::new(EFD_NONBLOCK)?,
            dropped: AtomicU64::new(0),
        });
        let mut ports = locked(&self.0.ports);
        let id = ports.next_id;
        ports.next_id += 1;
        ports.queues.insert(id, Arc::clone(&queue));
        Ok(SwitchPort {
            switch: self.clone(),
            id,
            queue,
        })
    }

    /// Number of ports in use.
    pub fn ports(&self) -> usize {
        locked(&self.0.ports).queues.len()
    }

    fn unplug(&self, id: u64) {
        let mut ports = locked(&self.0.ports);
        ports.queues.remove(&id);
        ports.table.retain(|_, port| *port != id);
    }

    fn targets(&self, from: u64, frame: &Frame) -> Vec<Arc<PortQueue>> {
        let mut ports = locked(&self.0.ports);
        let is_group = |mac: &[u8; 6]| mac[0] & 1 != 0;
        if self.0.forwarding == Forwarding::Learning {
            if let Some(source) = frame.source().filter(|mac| !is_group(mac)) {
                if ports.table.len() >= TABLE_LIMIT {
                    ports.table.clear();
                }
                ports.table.insert(source, from);
            }
            let known = frame
                .destination()
                .and_then(|mac| ports.table.get(&mac).copied());
            if let Some(port) = known {
                if port == from {
                    return Vec::new();
                }
                return ports.queues.get(&port).cloned().into_iter().collect();
            }
        }
        let others = ports.queues.iter().filter(|(id, _)| **id != from);
        others.map(|(_, queue)| Arc::clone(queue)).collect()
    }
}

impl PortQueue {
    fn push(&self, frame: Frame, limit: usize) -> bool {
        let mut frames = locked(&self.frames);
        if frames.len() >= limit {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let was_empty = frames.is_empty();
        frames.push_back(frame);
        if was_empty {
            // Written under the lock, so that it cannot be lost against the reader clearing it.
            // A full counter (WouldBlock) already reads as ready.
            let _ = self.ready.write(1);
        }
        true
    }
}

impl Backend for SwitchPort {
    fn kind(&self) -> &'static str {
        "switch"
    }

    fn takes(&self) -> Takes {
        // Whoever receives a large frame cuts it up, or hands it to a guest that takes it whole.
        Takes {
            segmentation: true,
            vlan_metadata: true,
            ..Takes::default()
        }
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.queue.ready.as_raw_fd())
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), TxDrop> {
        let mut targets = self.switch.targets(self.id, &frame);
        let Some(last) = targets.pop() else {
            return Err(TxDrop::NoPeer);
        };
        let limit = self.switch.0.queue;
        let mut taken = false;
        for target in targets {
            taken |= target.push(frame.clone(), limit);
        }
        taken |= last.push(frame, limit);
        if taken {
            Ok(())
        } else {
            Err(TxDrop::QueueFull)
        }
    }

    fn receive(&mut self, budget: usize, out: &mut Vec<Frame>) -> io::Result<()> {
        let mut frames = locked(&self.queue.frames);
        let take = budget.min(frames.len());
        out.extend(frames.drain(..take));
        if frames.is_empty() {
            match self.queue.ready.read() {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn counters(&self) -> serde_json::Value {
        json!({
            "ports": self.switch.ports(),
            "queued": locked(&self.queue.frames).len(),
            "queue_dropped": self.queue.dropped.load(Ordering::Relaxed),
        })
    }
}

impl Drop for SwitchPort {
    fn drop(&mut self) {
        self.switch.unplug(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Frame {
        let mut bytes = vec![0u8; 60];
        bytes[5] = to;
        bytes[11] = from;
        Frame::new(bytes)
    }

    fn received(port: &mut SwitchPort) -> usize {
        let mut out = Vec::new();
        port.receive(100, &mut out).expect("receive");
        out.len()
    }

    fn ports(switch: &Switch) -> [SwitchPort; 3] {
        [(); 3].map(|()| switch.port().expect("port"))
    }

    #[test]
    fn learning_switch_floods_until_it_knows() {
        let switch = Switch::new(Forwarding::Learning, 8);
        let [mut a, mut b, mut c] = ports(&switch);
        a.transmit(frame(2, 1)).expect("flood");
        assert_eq!((received(&mut b), received(&mut c)), (1, 1));
        b.transmit(frame(1, 2)).expect("reply");
        assert_eq!((received(&mut a), received(&mut c)), (1, 0));
        a.transmit(frame(2, 1)).expect("known");
        assert_eq!((received(&mut b), received(&mut c)), (1, 0));
    }

    #[test]
    fn flooding_switch_never_learns() {
        let switch = Switch::new(Forwarding::Flooding, 8);
        let [mut a, mut b, mut c] = ports(&switch);
        b.transmit(frame(1, 2)).expect("b");
        a.transmit(frame(2, 1)).expect("a");
        assert_eq!(
            (received(&mut a), received(&mut b), received(&mut c)),
            (1, 1, 2)
        );
    }

    #[test]
    fn full_queue_drops_and_counts() {
        let switch = Switch::new(Forwarding::Learning, 2);
        let mut a = switch.port().expect("a");
        assert_eq!(a.transmit(frame(2, 1)), Err(TxDrop::NoPeer));
        let mut b = switch.port().expect("b");
        for _ in 0..2 {
            a.transmit(frame(2, 1)).expect("room");
        }
        assert_eq!(a.transmit(frame(2, 1)), Err(TxDrop::QueueFull));
        assert_eq!(b.counters()["queue_dropped"], 1);
        assert_eq!(received(&mut b), 2);
        a.transmit(frame(2, 1)).expect("room again");
    }

    #[test]
    fn readiness_follows_the_queue() {
        let switch = Switch::new(Forwarding::Learning, 8);
        let mut a = switch.port().expect("a");
        let mut b = switch.port().expect("b");
        for _ in 0..3 {
            a.transmit(frame(2, 1)).expect("room");
        }
        let mut out = Vec::new();
        b.receive(2, &mut out).expect("two");
        // One is left: the event must still be pending.
        assert!(b.queue.ready.read().is_ok());
        let _ = b.queue.ready.write(1);
        b.receive(2, &mut out).expect("last");
        assert!(b.queue.ready.read().is_err());
    }

    #[test]
    fn unplugged_port_is_forgotten() {
        let switch = Switch::new(Forwarding::Learning, 8);
        let mut a = switch.port().expect("a");
        let mut b = switch.port().expect("b");
        b.transmit(frame(1, 2)).expect("learn");
        drop(b);
        assert_eq!(switch.ports(), 1);
        assert_eq!(a.transmit(frame(2, 1)), Err(TxDrop::NoPeer));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What the host counts: messages, violations by the guest, channels, devices.
//!
//! [`Ledger`] is written while the host runs; [`ServerCounters`] is the picture of one moment that
//! goes to the control socket as JSON.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;

use crate::vmbus::ring::StatsSnapshot;

/// Something the guest did against the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ViolationRecord {
    /// Stable identifier such as `vmbus.unknown-relid`.
    pub name: &'static str,
    /// How often it happened.
    pub count: u64,
    /// The first time, in a sentence.
    pub first: String,
    /// The last time, in a sentence.
    pub last: String,
}

/// Counters that only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MessageCounters {
    /// Control messages received, by name.
    pub messages_in: BTreeMap<&'static str, u64>,
    /// Control messages put into the guest's message slot, by name.
    pub messages_out: BTreeMap<&'static str, u64>,
    /// Messages to the guest that were dropped because its message page was off.
    pub undeliverable: u64,
    /// Times the message slot was still occupied.
    pub slot_busy: u64,
    /// Times a waiting message got into the slot without the guest having reported it free.
    pub slot_polled: u64,
    /// Guest messages turned away because too many were waiting.
    pub turned_away: u64,
    /// UNLOAD messages served.
    pub unloads: u64,
    /// Channels still open when the guest sent UNLOAD or contacted the bus anew.
    pub open_at_disconnect: u64,
    /// Signals that came by hypercall exit instead of through an event descriptor.
    pub signals_by_exit: u64,
    /// Signals for channels that were offered but not open.
    pub signals_to_closed: u64,
}

#[derive(Default)]
struct Inner {
    messages: MessageCounters,
    violations: BTreeMap<&'static str, ViolationRecord>,
}

/// The running counters of the server. The lock inside is a leaf.
#[derive(Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a violation.
    pub fn violation(&self, name: &'static str, detail: String) {
        tracing::warn!(name, %detail, "protocol violation by the guest");
        let mut inner = self.lock();
        let record = inner
            .violations
            .entry(name)
            .or_insert_with(|| ViolationRecord {
                name,
                count: 0,
                first: detail.clone(),
                last: String::new(),
            });
        record.count += 1;
        record.last = detail;
    }

    /// All violations so far, by name.
    pub fn violations(&self) -> Vec<ViolationRecord> {
        self.lock().violations.values().cloned().collect()
    }

    /// Forgets the violations; for scenarios that provoke them.
    pub fn clear_violations(&self) {
        self.lock().violations.clear();
    }

    /// Changes message counters.
    pub fn count(&self, change: impl FnOnce(&mut MessageCounters)) {
        change(&mut self.lock().messages);
    }

    /// Message counters at this moment.
    pub fn messages(&self) -> MessageCounters {
        self.lock().messages.clone()
    }
}

/// A channel that was offered to the guest and not released yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelRecord {
    /// The channel's number.
    pub relid: u32,
    /// The device's number.
    pub device: u32,
    /// Sub-channel index, 0 for the primary.
    pub index: u16,
    /// `offered`, `open` or `rescinded`.
    pub state: &'static str,
    /// The virtual processor that gets the interrupts; `None` if not open.
    pub target_vp: Option<u32>,
    /// How often this offer was opened.
    pub opens: u64,
    /// Handles of the GPADLs established on it.
    pub gpadls: Vec<u32>,
}

/// A device behind the bus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceRecord {
    /// Its number, as returned when it was added.
    pub id: u32,
    /// Class GUID.
    pub class: String,
    /// Instance GUID, the name in the guest's sysfs.
    pub instance: String,
    /// Whether it was removed and waits for the guest to let go.
    pub removing: bool,
    /// Ring statistics by sub-channel index, over all incarnations.
    pub channels: BTreeMap<u16, StatsSnapshot>,
    /// What the device counts itself.
    pub counters: Value,
}

/// Everything the VMBus server counts, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerCounters {
    /// Negotiated version such as `5.3`; `None` while the guest is not connected.
    pub version: Option<String>,
    /// False if the server's thread did not answer in time; the channel lists are empty then.
    pub responsive: bool,
    /// GPADLs established and not torn down.
    pub live_gpadls: usize,
    /// GPADLs of which page numbers are missing.
    pub partial_gpadls: usize,
    /// Channels open.
    pub open_channels: usize,
    /// Messages waiting for the guest's message slot.
    pub waiting_messages: usize,
    /// Message counters.
    #[serde(flatten)]
    pub messages: MessageCounters,
    /// Violations by the guest; must be empty.
    pub violations: Vec<ViolationRecord>,
    /// Channels offered.
    pub channels: Vec<ChannelRecord>,
    /// Devices.
    pub devices: Vec<DeviceRecord>,
    /// Fault points, see [`FaultPoints::counters`](crate::fault::FaultPoints::counters).
    pub faults: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_keep_first_and_last() {
        let ledger = Ledger::default();
        ledger.violation("vmbus.x", "one".into());
        ledger.violation("vmbus.x", "two".into());
        ledger.violation("vmbus.a", "other".into());
        let all = ledger.violations();
        assert_eq!(all.len(), 2);
        assert_eq!(
            all[1],
            ViolationRecord {
                name: "vmbus.x",
                count: 2,
                first: "one".into(),
                last: "two".into()
            }
        );
        ledger.clear_violations();
        assert!(ledger.violations().is_empty());
    }
}

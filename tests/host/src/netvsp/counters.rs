// SPDX-License-Identifier: GPL-2.0

//! What a NIC counts. Every way a frame can end has a counter.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters of one channel. They start anew when the guest opens it again.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChannelCounters {
    /// Frames from the guest, large ones counted once.
    pub tx_packets: u64,
    /// Their bytes, Ethernet header included.
    pub tx_bytes: u64,
    /// Ring packets they came in.
    pub tx_ring_packets: u64,
    /// Ring packets whose data lay in a send section, wholly or in part.
    pub tx_section: u64,
    /// Ring packets with data in pages of the guest.
    pub tx_gpa_direct: u64,
    /// Completions written for them.
    pub tx_completions: u64,
    /// Ring packets refused with a failure status.
    pub tx_refused: u64,
    /// Frames to the guest.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Ring packets they went in.
    pub rx_ring_packets: u64,
    /// Completions the guest sent for them.
    pub rx_completions: u64,
    /// Of those, completions with a failure status.
    pub rx_completions_failed: u64,
    /// Times a packet found the ring to the guest full.
    pub ring_full: u64,
}

/// Counters of a NIC, from its making on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NicCounters {
    /// Frames from the guest, all channels.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Large frames among them.
    pub tx_lso: u64,
    /// Frames with a checksum to compute.
    pub tx_checksum: u64,
    /// Frames with a VLAN tag as metadata.
    pub tx_vlan: u64,
    /// Frames to the guest, all channels.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Large frames among them, handed over in pieces.
    pub rx_coalesced: u64,
    /// Their pieces.
    pub rx_coalesced_pieces: u64,
    /// RNDIS messages injected from the control socket.
    pub rx_injected: u64,
    /// Ring packets injected from the control socket.
    pub injected_packets: u64,
    /// Completions of them by the guest.
    pub injected_completed: u64,
    /// Of those, completions with a failure status.
    pub injected_refused: u64,
    /// Frames the guest's filter did not let in.
    pub rx_filtered: u64,
    /// Frames that RSS sent to a channel which is not open; they went to the primary one.
    pub rx_unopened_channel: u64,
    /// Frames from the guest that were lost, by reason.
    pub tx_dropped: BTreeMap<&'static str, u64>,
    /// Frames for the guest that were lost, by reason.
    pub rx_dropped: BTreeMap<&'static str, u64>,
    /// NVSP messages from the guest, by name.
    pub nvsp: BTreeMap<&'static str, u64>,
    /// RNDIS control messages from the guest, by name and OID.
    pub rndis: BTreeMap<String, u64>,
    /// RNDIS indications to the guest, by status.
    pub indications: BTreeMap<String, u64>,
    /// Times the primary channel was opened.
    pub attaches: u64,
    /// Violations by the guest, by name.
    pub violations: BTreeMap<&'static str, u64>,
    /// Errors of the capture file.
    pub capture_errors: u64,
}

impl NicCounters {
    /// Counts a lost frame from the guest.
    pub fn drop_tx(&mut self, reason: &'static str) {
        *self.tx_dropped.entry(reason).or_default() += 1;
    }

    /// Counts lost frames for the guest.
    pub fn drop_rx(&mut self, reason: &'static str, frames: usize) {
        if frames > 0 {
            *self.rx_dropped.entry(reason).or_default() += frames as u64;
        }
    }
}

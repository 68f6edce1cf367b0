// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: what goes to the host and comes from it, where `trace-cmd`, `perf` and `bpftrace` find it.
//!
//! C side: `trace_events.h`. Frames have no tracepoints here: those of the stack show them.

use super::Device;
use crate::bindings;

/// Which tracepoint.
#[derive(Clone, Copy)]
pub(crate) enum Message {
    /// `netvsc:nvsp_send`: an NVSP message to the host.
    NvspSend,
    /// `netvsc:nvsp_recv`: an NVSP message from the host.
    NvspReceive,
    /// `netvsc:rndis_send`: an RNDIS control message to the host.
    RndisSend,
    /// `netvsc:rndis_recv`: an RNDIS control message from the host.
    RndisReceive,
}

impl<T> Device<T> {
    /// Shows a message of `len` bytes to whoever traces: its type, and the number by which requests and answers
    /// find each other. Any context.
    pub(crate) fn trace(&self, message: Message, kind: u32, len: usize, id: u64) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let call = match message {
            Message::NvspSend => bindings::netvsc_trace_nvsp_send,
            Message::NvspReceive => bindings::netvsc_trace_nvsp_recv,
            Message::RndisSend => bindings::netvsc_trace_rndis_send,
            Message::RndisReceive => bindings::netvsc_trace_rndis_recv,
        };
        // SAFETY: The device is alive. A name that changes meanwhile is copied as it is, and has an end.
        unsafe { call(self.as_raw(), kind, len, id) };
    }
}

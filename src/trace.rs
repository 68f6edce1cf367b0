// SPDX-License-Identifier: GPL-2.0

//! What tracepoints show of a control message. All of it was copied from the host's memory before.

use crate::device::Adapter;
use crate::net::{trace::Message, Device};
use crate::rndis::transaction::TransactionId;

/// Where the request id of an RNDIS control message lies; of an indication, its status.
const REQUEST_ID: usize = 8;

/// The word at byte `at` of a message; 0 behind its end.
fn word(message: &[u8], at: usize) -> u32 {
    let bytes = message.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Shows an NVSP message that is sent.
pub(crate) fn nvsp_sent(dev: &Device<Adapter>, message: &[u8], id: TransactionId) {
    let kind = word(message, 0);
    dev.trace(Message::NvspSend, kind, message.len(), id.value());
}

/// Shows an NVSP message that came; an answer has the transaction id of its request.
pub(crate) fn nvsp_received(dev: &Device<Adapter>, message: &[u8], id: Option<TransactionId>) {
    let kind = word(message, 0);
    let id = id.map_or(0, TransactionId::value);
    dev.trace(Message::NvspReceive, kind, message.len(), id);
}

/// Shows an RNDIS control message that is sent.
pub(crate) fn rndis_sent(dev: &Device<Adapter>, message: &[u8]) {
    let (kind, id) = (word(message, 0), word(message, REQUEST_ID));
    dev.trace(Message::RndisSend, kind, message.len(), id.into());
}

/// Shows an RNDIS control message that came.
pub(crate) fn rndis_received(dev: &Device<Adapter>, message: &[u8]) {
    let (kind, id) = (word(message, 0), word(message, REQUEST_ID));
    dev.trace(Message::RndisReceive, kind, message.len(), id.into());
}

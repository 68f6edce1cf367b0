// SPDX-License-Identifier: GPL-2.0

//! Undoing an attach, complete or not: what has to be done, and in which order.
//!
//! The order depends on the VMBus version: hosts before 4.0 want shared memory back before the channel
//! closes, later ones after. Source: specification 1.10. A step that fails does not stop the others, but
//! memory whose GPADL the host did not give back must be leaked, never freed.

use crate::rndis::event::{Action, RequestIds, MESSAGE_BUFFER_LEN};
use crate::rndis::message::encode_halt;
use crate::rndis::nvsp::{GuestMessage, MESSAGE_LEN};
use crate::rndis::transaction::TransactionId;
use crate::vmbus::version::VmbusVersion;

/// What exists on the host side of an attach.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Established {
    /// Shared memory of the receive buffer.
    pub receive_gpadl: Option<u32>,
    /// Shared memory of the send buffer.
    pub send_gpadl: Option<u32>,
    /// The host accepted the receive buffer.
    pub receive_buffer: bool,
    /// The host accepted the send buffer.
    pub send_buffer: bool,
    /// The RNDIS device is initialised.
    pub rndis: bool,
}

/// One step of a teardown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send RNDIS HALT ([`halt`]) and wait, within the budget, for its completion and those of all frames.
    Halt,
    /// Send REVOKE_RECV_BUF ([`revoke`]); no answer.
    RevokeReceiveBuffer,
    /// Send REVOKE_SEND_BUF ([`revoke`]); no answer.
    RevokeSendBuffer,
    /// Stop NAPI on every channel.
    StopPolling,
    /// Close the sub-channels, then the primary.
    Close,
    /// Tear down the GPADL of the receive buffer.
    UnshareReceiveBuffer {
        /// Its handle.
        gpadl: u32,
    },
    /// Tear down the GPADL of the send buffer.
    UnshareSendBuffer {
        /// Its handle.
        gpadl: u32,
    },
}

/// The steps for what is established, in order. `StopPolling` and `Close` are always among them.
pub fn steps(version: VmbusVersion, established: &Established) -> impl Iterator<Item = Step> {
    let halt = established.rndis.then_some(Step::Halt);
    let revoke_receive = established
        .receive_buffer
        .then_some(Step::RevokeReceiveBuffer);
    let revoke_send = established.send_buffer.then_some(Step::RevokeSendBuffer);
    let unshare_receive = established
        .receive_gpadl
        .map(|gpadl| Step::UnshareReceiveBuffer { gpadl });
    let unshare_send = established
        .send_gpadl
        .map(|gpadl| Step::UnshareSendBuffer { gpadl });
    let stop = Some(Step::StopPolling);
    let close = Some(Step::Close);
    let ordered = if version < VmbusVersion::V4_0 {
        [
            halt,
            revoke_receive,
            unshare_receive,
            revoke_send,
            unshare_send,
            stop,
            close,
        ]
    } else {
        [
            halt,
            revoke_receive,
            revoke_send,
            stop,
            close,
            unshare_receive,
            unshare_send,
        ]
    };
    ordered.into_iter().flatten()
}

/// Writes HALT to `buffer`; the returned action sends it. The buffer is the host's until the completion.
pub fn halt(ids: &mut RequestIds, buffer: &mut [u8; MESSAGE_BUFFER_LEN]) -> Action {
    match encode_halt(ids.request(), buffer) {
        Some(len) => Action::SendRndis {
            len,
            transaction: ids.transaction(),
        },
        None => Action::Done,
    }
}

/// The message of a revoking step; `None` for the others. Send it with [`TransactionId::NONE`].
pub fn revoke(step: Step) -> Option<([u8; MESSAGE_LEN], TransactionId)> {
    let message = match step {
        Step::RevokeReceiveBuffer => GuestMessage::RevokeReceiveBuffer,
        Step::RevokeSendBuffer => GuestMessage::RevokeSendBuffer,
        _ => return None,
    };
    Some((message.encode(), TransactionId::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Established = Established {
        receive_gpadl: Some(1),
        send_gpadl: Some(2),
        receive_buffer: true,
        send_buffer: true,
        rndis: true,
    };

    #[test]
    fn old_hosts_get_memory_back_before_close() {
        let order: Vec<_> = steps(VmbusVersion(0x0003_0000), &ALL).collect();
        let close = order.iter().position(|s| *s == Step::Close);
        let unshare = order
            .iter()
            .position(|s| *s == Step::UnshareSendBuffer { gpadl: 2 });
        assert!(unshare < close);
        assert_eq!(order.len(), 7);
    }

    #[test]
    fn new_hosts_get_memory_back_after_close() {
        let order: Vec<_> = steps(VmbusVersion::V4_0, &ALL).collect();
        assert_eq!(
            order,
            [
                Step::Halt,
                Step::RevokeReceiveBuffer,
                Step::RevokeSendBuffer,
                Step::StopPolling,
                Step::Close,
                Step::UnshareReceiveBuffer { gpadl: 1 },
                Step::UnshareSendBuffer { gpadl: 2 },
            ]
        );
    }

    #[test]
    fn only_what_exists_is_undone() {
        let partial = Established {
            receive_gpadl: Some(1),
            ..Established::default()
        };
        let order: Vec<_> = steps(VmbusVersion::V4_0, &partial).collect();
        assert_eq!(
            order,
            [
                Step::StopPolling,
                Step::Close,
                Step::UnshareReceiveBuffer { gpadl: 1 }
            ]
        );
    }
}

// SPDX-License-Identifier: GPL-2.0

//! One request on its way: what would complete it, and nothing else does.
//!
//! An NVSP request ends with its completion packet. An RNDIS request needs two things, in either order:
//! the completion of the packet that carried it (until then the host may read the message's memory), and
//! the answer with its request id and of its type.

use crate::rndis::message::{HostMessage, MessageError, RndisStatus};
use crate::rndis::nvsp::{Completion, NvspError, Status};
use crate::rndis::transaction::TransactionId;

/// Kind of RNDIS request, which decides the type of answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RequestKind {
    Initialize,
    Query,
    Set,
}

/// An outstanding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pending {
    Nvsp {
        transaction: TransactionId,
    },
    Rndis {
        transaction: TransactionId,
        request_id: u32,
        kind: RequestKind,
        /// The packet was completed: the message's memory is ours again.
        acknowledged: bool,
        /// The answer came.
        answered: bool,
    },
}

/// Why a request failed, apart from its transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The host answered NVSP with a status other than success.
    Nvsp(Status),
    /// The host answered RNDIS with a status other than success.
    Rndis(RndisStatus),
    /// The completion cannot be decoded, or is not of the request's type.
    MalformedCompletion,
    /// The answer's information buffer is outside the message, or has the wrong size.
    MalformedAnswer,
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Nvsp(status) => write!(f, "host says {status}"),
            Self::Rndis(status) => write!(f, "host says {status}"),
            Self::MalformedCompletion => f.write_str("host sent a malformed completion"),
            Self::MalformedAnswer => f.write_str("host sent a malformed answer"),
        }
    }
}

/// What a completion packet means for the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival<T> {
    /// Nothing: it belongs to something else.
    NotOurs,
    /// Progress, nothing to look at.
    Progress,
    /// What was waited for.
    Answer(T),
    /// The request failed.
    Refused(Refusal),
}

impl Pending {
    pub(super) const fn rndis(
        transaction: TransactionId,
        request_id: u32,
        kind: RequestKind,
    ) -> Self {
        Self::Rndis {
            transaction,
            request_id,
            kind,
            acknowledged: false,
            answered: false,
        }
    }

    /// Whether the host may still read the memory of the request.
    pub(super) const fn in_flight(&self) -> bool {
        matches!(
            self,
            Self::Rndis {
                acknowledged: false,
                ..
            }
        )
    }

    /// Whether everything that was waited for has come.
    pub(super) const fn is_complete(&self) -> bool {
        matches!(
            self,
            Self::Rndis {
                acknowledged: true,
                answered: true,
                ..
            }
        )
    }

    /// Looks at a completion packet of the control kind.
    pub(super) fn completion(&mut self, id: TransactionId, payload: &[u8]) -> Arrival<Completion> {
        let decoded: Result<Completion, NvspError> = match self {
            Self::Nvsp { transaction } | Self::Rndis { transaction, .. } if *transaction == id => {
                Completion::decode(payload)
            }
            _ => return Arrival::NotOurs,
        };
        let Self::Rndis {
            acknowledged,
            answered,
            ..
        } = self
        else {
            return match decoded {
                Ok(completion) => Arrival::Answer(completion),
                Err(_) => Arrival::Refused(Refusal::MalformedCompletion),
            };
        };
        if *acknowledged {
            return Arrival::NotOurs;
        }
        // Whatever it says, the host is done with the packet.
        *acknowledged = true;
        match decoded {
            _ if *answered => Arrival::Progress,
            Ok(Completion::RndisPacket { status }) if status.is_success() => Arrival::Progress,
            Ok(Completion::RndisPacket { status }) => Arrival::Refused(Refusal::Nvsp(status)),
            _ => Arrival::Refused(Refusal::MalformedCompletion),
        }
    }

    /// Looks at an RNDIS control message.
    pub(super) fn rndis_message<'a>(
        &mut self,
        message: Result<HostMessage<'a>, MessageError>,
    ) -> Arrival<HostMessage<'a>> {
        let Self::Rndis {
            request_id: ours,
            kind,
            answered,
            ..
        } = self
        else {
            return Arrival::NotOurs;
        };
        if *answered {
            return Arrival::NotOurs;
        }
        let (id, status) = match message {
            Ok(HostMessage::InitializeComplete {
                request_id, status, ..
            }) if *kind == RequestKind::Initialize => (request_id, Ok(status)),
            Ok(HostMessage::QueryComplete {
                request_id, status, ..
            }) if *kind == RequestKind::Query => (request_id, Ok(status)),
            Ok(HostMessage::SetComplete { request_id, status }) if *kind == RequestKind::Set => {
                (request_id, Ok(status))
            }
            Err(MessageError::Buffer { request_id, .. }) if *kind == RequestKind::Query => {
                (request_id, Err(Refusal::MalformedAnswer))
            }
            _ => return Arrival::NotOurs,
        };
        if id != *ours {
            return Arrival::NotOurs;
        }
        *answered = true;
        match (status, message) {
            (Ok(status), Ok(message)) if status.is_success() => Arrival::Answer(message),
            (Ok(status), _) => Arrival::Refused(Refusal::Rndis(status)),
            (Err(refusal), _) => Arrival::Refused(refusal),
        }
    }
}

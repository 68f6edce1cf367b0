// SPDX-License-Identifier: GPL-2.0

//! One RNDIS request after the attach: receive filter, MAC address, RSS, offloads, link, name.
//!
//! Same rules as [`crate::rndis::bringup`]: only the completion and the answer of this very request count.
//! One exchange at a time may use a message buffer.

use crate::rndis::address::MacAddress;
use crate::rndis::event::{Action, Event, RequestIds, MESSAGE_BUFFER_LEN};
use crate::rndis::filter::PacketFilter;
use crate::rndis::link::LinkSpeed;
use crate::rndis::message::{self, HostMessage};
use crate::rndis::name::FriendlyName;
use crate::rndis::offload::{Offloads, MAX_PARAMETERS_LEN};
use crate::rndis::oid::Oid;
use crate::rndis::pending::{Arrival, Pending, Refusal, RequestKind};
use crate::rndis::rss;
use crate::rndis::version::NvspVersion;
use crate::rndis::wire::u32_at;
use core::{cell::Cell, fmt};

/// A request to the RNDIS device.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Choose which frames are received.
    SetPacketFilter(PacketFilter),
    /// Change the adapter's address.
    SetAddress(MacAddress),
    /// Set how frames are spread. A change is two requests: `Disable`, whose refusal does not matter, then `Enable`.
    SetRss {
        /// Disable or enable.
        mode: rss::Mode,
        /// Table, key, hash types.
        parameters: rss::Parameters<'a>,
    },
    /// Set offloads again.
    SetOffloads {
        /// Which.
        offloads: Offloads,
        /// The version negotiated.
        version: NvspVersion,
    },
    /// Ask for the link speed.
    QueryLinkSpeed,
    /// Ask whether the link is up.
    QueryLinkState,
    /// Ask for the adapter's name, and put it there.
    QueryFriendlyName(&'a Cell<FriendlyName>),
}

/// The successful answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The setting was accepted.
    Set,
    /// To `QueryLinkSpeed`.
    LinkSpeed(LinkSpeed),
    /// To `QueryLinkState`: whether the link is up.
    LinkState(bool),
    /// To `QueryFriendlyName`: it is in its place.
    FriendlyName,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExchangeError {
    /// The ring did not take the message.
    SendFailed,
    /// Time ran out while waiting for the answer.
    Deadline,
    /// The host took the channel away.
    Rescinded,
    /// The host refused.
    Refused(Refusal),
    /// The message did not fit its buffer (a defect of this driver).
    MessageTooLong,
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SendFailed => f.write_str("message not sent"),
            Self::Deadline => f.write_str("host did not answer in time"),
            Self::Rescinded => f.write_str("host removed the device"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::MessageTooLong => f.write_str("message exceeds its buffer"),
        }
    }
}

/// A query's answer, or none for settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question<'a> {
    Setting,
    LinkSpeed,
    LinkState,
    FriendlyName(&'a Cell<FriendlyName>),
}

/// A request under way.
#[derive(Debug)]
pub struct Exchange<'a> {
    question: Question<'a>,
    pending: Pending,
    reply: Option<Reply>,
    failure: Option<ExchangeError>,
    ignored: u32,
}

impl<'a> Exchange<'a> {
    /// Writes the request to `buffer` and returns the action that sends it. The buffer must stay as it
    /// is while [`Self::buffer_in_flight`].
    pub fn start(
        ids: &mut RequestIds,
        request: &Request<'a>,
        buffer: &mut [u8; MESSAGE_BUFFER_LEN],
    ) -> Result<(Self, Action), ExchangeError> {
        let id = ids.request();
        let len = encode(id, request, buffer).ok_or(ExchangeError::MessageTooLong)?;
        let transaction = ids.transaction();
        let (question, kind) = match request {
            Request::QueryLinkSpeed => (Question::LinkSpeed, RequestKind::Query),
            Request::QueryLinkState => (Question::LinkState, RequestKind::Query),
            Request::QueryFriendlyName(place) => {
                (Question::FriendlyName(place), RequestKind::Query)
            }
            _ => (Question::Setting, RequestKind::Set),
        };
        let this = Self {
            question,
            pending: Pending::rndis(transaction, id, kind),
            reply: None,
            failure: None,
            ignored: 0,
        };
        Ok((this, Action::SendRndis { len, transaction }))
    }

    /// Takes what happened; after an error the request is over.
    pub fn event(&mut self, event: Event<'_>) -> Result<(), ExchangeError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.is_complete() {
            return Ok(());
        }
        let result = self.dispatch(event);
        self.failure = result.err();
        result
    }

    fn dispatch(&mut self, event: Event<'_>) -> Result<(), ExchangeError> {
        match event {
            Event::SendFailed => Err(ExchangeError::SendFailed),
            Event::Deadline => Err(ExchangeError::Deadline),
            Event::Rescinded => Err(ExchangeError::Rescinded),
            Event::Completion {
                transaction,
                payload,
            } => match self.pending.completion(transaction, payload) {
                Arrival::Refused(refusal) => Err(ExchangeError::Refused(refusal)),
                Arrival::Progress => Ok(()),
                Arrival::NotOurs | Arrival::Answer(_) => self.ignore(),
            },
            Event::Rndis(received) => {
                match self.pending.rndis_message(HostMessage::decode(received)) {
                    Arrival::Answer(message) => self.answer(&message),
                    Arrival::Refused(refusal) => Err(ExchangeError::Refused(refusal)),
                    Arrival::NotOurs | Arrival::Progress => self.ignore(),
                }
            }
            Event::Shared { .. } | Event::ShareFailed | Event::SubchannelsOpen { .. } => {
                self.ignore()
            }
        }
    }

    fn answer(&mut self, message: &HostMessage<'_>) -> Result<(), ExchangeError> {
        let info = match message {
            HostMessage::QueryComplete { info, .. } => *info,
            _ => &[],
        };
        let value = u32_at(info, 0);
        let reply = match self.question {
            Question::Setting => Some(Reply::Set),
            Question::LinkSpeed => value.map(|speed| Reply::LinkSpeed(LinkSpeed(speed))),
            Question::LinkState => value.map(|status| Reply::LinkState(status == 0)),
            Question::FriendlyName(place) => {
                place.set(FriendlyName::decode(info));
                Some(Reply::FriendlyName)
            }
        };
        self.reply = reply;
        match reply {
            Some(_) => Ok(()),
            None => Err(ExchangeError::Refused(Refusal::MalformedAnswer)),
        }
    }

    fn ignore(&mut self) -> Result<(), ExchangeError> {
        self.ignored = self.ignored.saturating_add(1);
        Ok(())
    }

    /// The answer, once it and the completion of the request's packet are there.
    pub fn reply(&self) -> Option<Reply> {
        self.reply.filter(|_| self.pending.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.reply().is_some()
    }

    /// Events that had nothing to do with this request.
    pub const fn ignored(&self) -> u32 {
        self.ignored
    }

    /// Whether the host may still read the message buffer. True after a failure means: do not reuse the
    /// buffer until the completion came or the channel is closed ([`Self::acknowledge`]).
    pub fn buffer_in_flight(&self) -> bool {
        self.failure != Some(ExchangeError::SendFailed) && self.pending.in_flight()
    }

    /// After a failure: notes a completion that comes late. Returns whether the buffer is free now.
    pub fn acknowledge(&mut self, event: Event<'_>) -> bool {
        if let Event::Completion {
            transaction,
            payload,
        } = event
        {
            let _ = self.pending.completion(transaction, payload);
        }
        !self.buffer_in_flight()
    }
}

fn encode(id: u32, request: &Request<'_>, out: &mut [u8]) -> Option<usize> {
    match request {
        Request::SetPacketFilter(filter) => message::encode_set(
            id,
            Oid::GEN_CURRENT_PACKET_FILTER,
            &filter.value().to_le_bytes(),
            out,
        ),
        Request::SetAddress(mac) => {
            message::encode_set_with(id, Oid::GEN_RNDIS_CONFIG_PARAMETER, out, |w| {
                mac.write_parameter(w);
            })
        }
        Request::SetRss { mode, parameters } => rss::encode_set(id, *mode, parameters, out),
        Request::SetOffloads { offloads, version } => {
            let mut info = [0; MAX_PARAMETERS_LEN];
            let len = offloads.encode_parameters(*version, &mut info)?;
            message::encode_set(id, Oid::TCP_OFFLOAD_PARAMETERS, info.get(..len)?, out)
        }
        Request::QueryLinkSpeed => message::encode_query(id, Oid::GEN_LINK_SPEED, &[], out),
        Request::QueryLinkState => {
            message::encode_query(id, Oid::GEN_MEDIA_CONNECT_STATUS, &[], out)
        }
        Request::QueryFriendlyName(_) => {
            message::encode_query(id, Oid::GEN_FRIENDLY_NAME, &[], out)
        }
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: GPL-2.0

//! Talking with the host: carries out what a state machine asks for, and feeds it what arrives, within a
//! time budget.
//!
//! One operation at a time has the control page and the mailbox: whoever holds the adapter's `control`
//! mutex.

use crate::attach::has_broken_ring;
use crate::mailbox::{Mail, Mailbox, MAX_MESSAGE};
use crate::net::HostPages;
use crate::queue::OpenChannel;
use crate::rndis::{
    bringup::{Bringup, BringupError},
    event::{Action, Event, RequestIds, MESSAGE_BUFFER_LEN},
    exchange::{Exchange, ExchangeError, Request},
    nvsp::{self, RndisChannel},
    transaction::TransactionId,
};
use crate::trace;
use crate::vmbus::{
    gpa_direct::{header_len, GpaDirect, RndisHeaderRange},
    Deadline, SendError,
};
use kernel::{prelude::*, time::delay::fsleep, time::Delta};

/// How long a message waits for room in the ring before it is tried again.
const RETRY_MS: i64 = 2;
/// How often a wait looks whether the host has taken the channel away.
const SLICE_MS: u32 = 50;

/// A state machine that is driven here.
pub(crate) trait Operation {
    /// Why it failed.
    type Error;

    /// What to do next; messages are written to `buffer`.
    fn next(&mut self, buffer: &mut [u8; MESSAGE_BUFFER_LEN]) -> Action;

    /// Takes what happened.
    fn event(&mut self, event: Event<'_>) -> Result<(), Self::Error>;
}

impl Operation for Bringup {
    type Error = BringupError;

    fn next(&mut self, buffer: &mut [u8; MESSAGE_BUFFER_LEN]) -> Action {
        Bringup::next(self, buffer)
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), BringupError> {
        Bringup::event(self, event)
    }
}

/// An exchange whose message is written already.
pub(crate) struct Started<'a, 'b> {
    exchange: &'a mut Exchange<'b>,
    first: Option<Action>,
}

impl<'a, 'b> Started<'a, 'b> {
    /// To be driven, beginning with `first`.
    pub(crate) fn new(exchange: &'a mut Exchange<'b>, first: Action) -> Self {
        Self {
            exchange,
            first: Some(first),
        }
    }
}

impl Operation for Started<'_, '_> {
    type Error = ExchangeError;

    fn next(&mut self, _buffer: &mut [u8; MESSAGE_BUFFER_LEN]) -> Action {
        match self.first.take() {
            Some(action) => action,
            None if self.exchange.reply().is_some() => Action::Done,
            None => Action::Wait,
        }
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), ExchangeError> {
        self.exchange.event(event)
    }
}

/// Memory that control operations of one attach use again and again.
pub(crate) struct Buffers {
    /// Messages to the host are made here...
    pub(crate) message: KBox<[u8; MESSAGE_BUFFER_LEN]>,
    /// ...and arrive here.
    mail: KBox<[u8; MAX_MESSAGE]>,
    /// RNDIS messages to the host are read by it here.
    page: HostPages,
    /// Pages that the host may still read because it never completed their packet; kept until the
    /// channel is closed.
    withheld: KVec<HostPages>,
}

impl Buffers {
    /// Empty.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            message: KBox::new([0; MESSAGE_BUFFER_LEN], GFP_KERNEL)?,
            mail: KBox::new([0; MAX_MESSAGE], GFP_KERNEL)?,
            page: HostPages::new(1)?,
            withheld: KVec::new(),
        })
    }

    /// The host may still read the page: later messages get another.
    pub(crate) fn withhold_page(&mut self) -> Result {
        // A new list: to grow the old one is arithmetic that may panic.
        let room = self.withheld.len().saturating_add(1);
        let mut withheld = KVec::with_capacity(room, GFP_KERNEL)?;
        let page = core::mem::replace(&mut self.page, HostPages::new(1)?);
        for earlier in core::mem::take(&mut self.withheld) {
            withheld.push_within_capacity(earlier)?;
        }
        withheld.push_within_capacity(page)?;
        self.withheld = withheld;
        Ok(())
    }
}

/// The primary channel, for the length of one operation. Opens the mailbox, and closes it when dropped.
pub(crate) struct Line<'a> {
    channel: &'a OpenChannel,
    mailbox: &'a Mailbox,
    buffers: &'a mut Buffers,
    deadline: Deadline,
}

impl<'a> Line<'a> {
    /// Begins an operation that has until `deadline`.
    pub(crate) fn new(
        channel: &'a OpenChannel,
        mailbox: &'a Mailbox,
        buffers: &'a mut Buffers,
        deadline: Deadline,
    ) -> Self {
        mailbox.open();
        Self {
            channel,
            mailbox,
            buffers,
            deadline,
        }
    }

    /// Writes `request`; to be driven by [`Line::run`].
    pub(crate) fn start<'b>(
        &mut self,
        ids: &mut RequestIds,
        request: &Request<'b>,
    ) -> Result<(Exchange<'b>, Action), ExchangeError> {
        Exchange::start(ids, request, &mut self.buffers.message)
    }

    /// Drives `operation` to its end. What is not a message is done by `perform`, which answers with the
    /// event that comes of it.
    pub(crate) fn run<O: Operation>(
        &mut self,
        operation: &mut O,
        mut perform: impl FnMut(Action, &O) -> Event<'static>,
    ) -> Result<(), O::Error> {
        loop {
            let action = operation.next(&mut self.buffers.message);
            let sent = match action {
                Action::Done => return Ok(()),
                Action::Wait => {
                    self.wait(operation)?;
                    continue;
                }
                Action::SendNvsp { len, transaction } => {
                    self.send_nvsp(len, transaction, action.wants_completion())
                }
                Action::SendRndis { len, transaction } => self.send_rndis(len, transaction),
                Action::ShareReceiveBuffer { .. }
                | Action::ShareSendBuffer { .. }
                | Action::OpenSubchannels { .. } => {
                    let event = perform(action, operation);
                    operation.event(event)?;
                    continue;
                }
            };
            if sent.is_err() {
                operation.event(self.unsent())?;
            }
        }
    }

    /// Waits for one message and hands it to `operation`.
    fn wait<O: Operation>(&mut self, operation: &mut O) -> Result<(), O::Error> {
        // Looked at before, so that what arrived in time counts; and with every message, so that a host
        // that sends without end does not hold the wait.
        let late = self.deadline.passed();
        let slice = Deadline::after(SLICE_MS).min(self.deadline);
        let mail = &mut self.buffers.mail;
        let Some((kind, len)) = self.mailbox.take(mail, slice) else {
            if self.channel.reference().rescinded() {
                return operation.event(Event::Rescinded);
            }
            // Through a broken ring no answer comes, however long we wait.
            if self.deadline.passed() || has_broken_ring(self.channel) {
                return operation.event(Event::Deadline);
            }
            return Ok(());
        };
        let bytes = mail.get(..len).unwrap_or(&[]);
        let dev = self.channel.handler().dev();
        let event = match kind {
            Mail::Completion(transaction) => {
                trace::nvsp_received(dev, bytes, Some(transaction));
                Event::Completion {
                    transaction,
                    payload: bytes,
                }
            }
            Mail::Rndis => {
                trace::rndis_received(dev, bytes);
                Event::Rndis(bytes)
            }
        };
        if !late {
            return operation.event(event);
        }
        operation.event(event)?;
        operation.event(Event::Deadline)
    }

    fn unsent(&self) -> Event<'static> {
        if self.channel.reference().rescinded() {
            Event::Rescinded
        } else {
            Event::SendFailed
        }
    }

    fn send_nvsp(&mut self, len: usize, id: TransactionId, want: bool) -> Result<(), SendError> {
        let message = self.buffers.message.get(..len).ok_or(SendError::Invalid)?;
        trace::nvsp_sent(self.channel.handler().dev(), message, id);
        retry(self.channel, self.deadline, || {
            self.channel.send_inband(message, id.value(), want)
        })
    }

    /// Sends the RNDIS message in the buffer, from the control page.
    pub(crate) fn send_rndis(&mut self, len: usize, id: TransactionId) -> Result<(), SendError> {
        let buffers = &mut *self.buffers;
        let message = buffers.message.get(..len).ok_or(SendError::Invalid)?;
        trace::rndis_sent(self.channel.handler().dev(), message);
        let range = buffers
            .page
            .write(0, message)
            .and_then(|address| RndisHeaderRange::new(address, len as u32))
            .ok_or(SendError::Invalid)?;
        let payload = nvsp::rndis_packet(RndisChannel::Control, None, 0);
        let mut header = [0u8; header_len(1, 1)];
        let header_len = GpaDirect::with_header(&mut header, range)
            .ok()
            .and_then(|packet| packet.finish(payload.len(), id.value()))
            .ok_or(SendError::Invalid)?;
        let header = header.get(..header_len).ok_or(SendError::Invalid)?;
        retry(self.channel, self.deadline, || {
            self.channel.send_gpa_direct(header, &payload)
        })
    }

    /// Waits until the packet `id` is completed and `done` says so too, or the deadline passes.
    pub(crate) fn settle(&mut self, id: TransactionId, mut done: impl FnMut() -> bool) -> bool {
        let mut completed = false;
        while !(completed && done()) {
            let lost = self.channel.reference().rescinded() || has_broken_ring(self.channel);
            if self.deadline.passed() || lost {
                return false;
            }
            let slice = Deadline::after(2).min(self.deadline);
            if let Some((Mail::Completion(transaction), _)) =
                self.mailbox.take(&mut self.buffers.mail, slice)
            {
                completed |= transaction == id;
            }
        }
        true
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

/// Repeats `send` until the ring has room, or cannot have it any more, or `deadline` passes. Sleeps.
fn retry(
    channel: &OpenChannel,
    deadline: Deadline,
    mut send: impl FnMut() -> Result<(), SendError>,
) -> Result<(), SendError> {
    loop {
        match send() {
            Err(SendError::Full) if !deadline.passed() && !channel.cannot_send() => {
                fsleep(Delta::from_millis(RETRY_MS));
            }
            result => return result,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! One attach: from a freshly opened primary channel to a device that carries traffic.
//!
//! The caller loops: [`Bringup::next`] says what to do, [`Bringup::event`] takes what happened. Messages
//! that answer something else (late, duplicate, of another type, unasked) are counted and never complete
//! a wait. Order of steps and what may fail: specification 2.3 and 3.2.
//!
//! * `config.rs`: what the driver wants, and what it got;
//! * `step.rs`: the steps, their order, which of them may fail;
//! * `request.rs`: the message of each step; `answer.rs`: what its answer changes;
//! * `error.rs`: why an attach failed.

mod answer;
mod config;
mod error;
mod request;
mod step;

pub use config::{Config, Negotiated, OnRefusal};
pub use error::BringupError;
pub use step::{Step, Steps};

use crate::rndis::event::{Action, Event, RequestIds, MESSAGE_BUFFER_LEN};
use crate::rndis::link::LinkEvent;
use crate::rndis::message::HostMessage;
use crate::rndis::nvsp::Completion;
use crate::rndis::pending::{Arrival, Pending, Refusal};
use crate::rndis::rss;
use crate::rndis::teardown::Established;
use crate::rndis::transaction::TransactionId;

/// Where the current step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Its action is still to be handed out.
    Ready,
    /// Its message needs no answer; the next call of `next` moves on.
    Sent,
    /// Its action was handed out; only an event moves on.
    Waiting,
}

/// State of one attach. About 500 bytes; contains no buffers.
#[derive(Debug)]
pub struct Bringup {
    config: Config,
    negotiated: Negotiated,
    established: Established,
    ids: RequestIds,
    step: Step,
    phase: Phase,
    pending: Option<Pending>,
    subchannels_granted: u16,
    ignored: u32,
    failure: Option<BringupError>,
}

impl Bringup {
    /// Prepares an attach on a channel that was just opened.
    pub fn new(config: Config) -> Self {
        Self {
            negotiated: Negotiated::new(&config),
            config,
            established: Established::default(),
            ids: RequestIds::new(),
            step: Step::Init,
            phase: Phase::Ready,
            pending: None,
            subchannels_granted: 0,
            ignored: 0,
            failure: None,
        }
    }

    /// What to do now. Messages are written to the start of `buffer`, whose contents must stay as they
    /// are while [`Self::buffer_in_flight`].
    pub fn next(&mut self, buffer: &mut [u8; MESSAGE_BUFFER_LEN]) -> Action {
        if self.failure.is_some() {
            return Action::Wait;
        }
        if self.phase == Phase::Sent {
            self.advance();
        }
        if self.phase == Phase::Waiting {
            return Action::Wait;
        }
        let action = self.request(buffer);
        self.phase = match action {
            Action::SendNvsp { .. } if !action.wants_completion() => Phase::Sent,
            Action::Done => Phase::Ready,
            _ => Phase::Waiting,
        };
        action
    }

    /// Takes what happened. After an error the attach is over: undo what [`Self::established`] lists.
    pub fn event(&mut self, event: Event<'_>) -> Result<(), BringupError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let result = self.dispatch(event);
        if let Err(failure) = result {
            self.failure = Some(failure);
        }
        result
    }

    fn dispatch(&mut self, event: Event<'_>) -> Result<(), BringupError> {
        let step = self.step;
        match event {
            Event::Rescinded => Err(BringupError::Rescinded { step }),
            Event::Deadline if step == Step::Done => Ok(()),
            Event::Deadline => Err(BringupError::Deadline { step }),
            Event::SendFailed if self.phase == Phase::Sent || self.pending.is_some() => {
                // The message never left, so its memory is not in flight.
                self.pending = None;
                Err(BringupError::SendFailed { step })
            }
            Event::Completion {
                transaction,
                payload,
            } => self.completion(transaction, payload),
            Event::Rndis(received) => self.rndis(received),
            Event::Shared { gpadl } => self.shared(gpadl),
            Event::ShareFailed if self.is_sharing() => Err(BringupError::ShareFailed { step }),
            Event::SubchannelsOpen { count } => self.subchannels_open(count),
            Event::SendFailed | Event::ShareFailed => {
                self.ignore();
                Ok(())
            }
        }
    }

    fn completion(
        &mut self,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<(), BringupError> {
        let arrival = match &mut self.pending {
            Some(pending) => pending.completion(transaction, payload),
            None => Arrival::NotOurs,
        };
        match arrival {
            Arrival::NotOurs => self.ignore(),
            Arrival::Progress => self.finish_if_complete(),
            Arrival::Answer(completion) => {
                self.pending = None;
                self.nvsp_answer(completion)?;
            }
            Arrival::Refused(refusal) => {
                self.pending = None;
                self.refused(refusal)?;
                self.advance_unless_ready();
            }
        }
        Ok(())
    }

    fn rndis(&mut self, received: &[u8]) -> Result<(), BringupError> {
        let message = HostMessage::decode(received);
        if let Some(event) = message.as_ref().ok().and_then(LinkEvent::from_message) {
            self.negotiated.apply(event);
            return Ok(());
        }
        let arrival = match &mut self.pending {
            Some(pending) => pending.rndis_message(message),
            None => Arrival::NotOurs,
        };
        match arrival {
            Arrival::NotOurs | Arrival::Progress => {
                self.ignore();
                return Ok(());
            }
            Arrival::Answer(message) => {
                if let Err(refusal) = self.rndis_answer(&message)? {
                    self.refused(refusal)?;
                }
            }
            Arrival::Refused(refusal) => self.refused(refusal)?,
        }
        self.finish_if_complete();
        Ok(())
    }

    fn nvsp_answer(&mut self, completion: Completion) -> Result<(), BringupError> {
        match self.nvsp_outcome(completion) {
            Ok(()) => self.advance(),
            Err(answer::NvspFailure::Fatal(error)) => return Err(error),
            Err(answer::NvspFailure::Refused(refusal)) => {
                self.refused(refusal)?;
                self.advance_unless_ready();
            }
        }
        Ok(())
    }

    /// Moves on, unless handling a refusal has already prepared another try.
    fn advance_unless_ready(&mut self) {
        if self.phase == Phase::Waiting {
            self.advance();
        }
    }

    fn finish_if_complete(&mut self) {
        if self.pending.as_ref().is_some_and(Pending::is_complete) {
            self.pending = None;
            self.advance();
        }
    }

    fn advance(&mut self) {
        self.step = self.following();
        self.phase = Phase::Ready;
    }

    fn ignore(&mut self) {
        self.ignored = self.ignored.saturating_add(1);
    }

    fn is_sharing(&self) -> bool {
        self.phase == Phase::Waiting
            && matches!(self.step, Step::ShareReceiveBuffer | Step::ShareSendBuffer)
    }

    /// What came out so far; complete once `next` returned [`Action::Done`].
    pub const fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// What exists on the host and has to be undone, by [`crate::rndis::teardown`].
    pub const fn established(&self) -> &Established {
        &self.established
    }

    /// The indirection table in use: the user's if it fits the channels, else the even spread.
    pub fn rss_table(&self) -> rss::Table {
        self.effective_table()
    }

    /// Where the attach is, for logs.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Host messages that answered nothing.
    pub const fn ignored(&self) -> u32 {
        self.ignored
    }

    /// Whether the host may still read the message buffer. True after a failure means: free the buffer
    /// only once the channel is closed.
    pub fn buffer_in_flight(&self) -> bool {
        self.pending.as_ref().is_some_and(Pending::in_flight)
    }

    /// Whether the attach has finished successfully.
    pub fn is_done(&self) -> bool {
        self.step == Step::Done && self.failure.is_none()
    }

    /// The numbering to go on with after the attach.
    pub fn into_ids(self) -> RequestIds {
        self.ids
    }

    fn refused(&mut self, refusal: Refusal) -> Result<(), BringupError> {
        let step = self.step;
        match (step.policy(self.config.on_refusal), refusal) {
            (step::Policy::LowerVersion, Refusal::Nvsp(_)) => self.lower_version(),
            (step::Policy::Continue, _) => {
                self.negotiated.refuse(step);
                Ok(())
            }
            _ => Err(BringupError::Refused { step, refusal }),
        }
    }
}

#[cfg(test)]
mod tests;

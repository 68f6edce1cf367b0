// SPDX-License-Identifier: GPL-2.0

//! Why an attach failed.

use super::step::Step;
use crate::rndis::address::MacAddress;
use crate::rndis::offload::OffloadError;
use crate::rndis::pending::Refusal;
use core::fmt;

/// Why an attach failed. `Display` is one line for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BringupError {
    /// The ring did not take the message of this step.
    SendFailed {
        /// The step that failed.
        step: Step,
    },
    /// Memory for a buffer could not be allocated or shared.
    ShareFailed {
        /// The step that failed.
        step: Step,
    },
    /// Time ran out while waiting for this step's answer.
    Deadline {
        /// The step that was waited for.
        step: Step,
    },
    /// The host took the channel away.
    Rescinded {
        /// The step that was under way.
        step: Step,
    },
    /// The host refused a step that cannot be done without.
    Refused {
        /// The step that failed.
        step: Step,
        /// How.
        refusal: Refusal,
    },
    /// The host accepted no NVSP version, down to the first.
    NoVersion,
    /// Receive sections that do not fit the buffer.
    ReceiveSections {
        /// Section descriptions (must be 1).
        groups: u32,
        /// Where they start (must be 0).
        offset: u32,
        /// Bytes of a section (at least 68).
        len: u32,
        /// Number of sections.
        count: u32,
    },
    /// A send section size that the buffer has no room for, or below 68.
    SendSection(u32),
    /// RNDIS alignment above a page.
    Alignment(u32),
    /// The host's address for this adapter is zero or a group address.
    Address(MacAddress),
    /// The offload answer is malformed.
    Offload(OffloadError),
    /// More sub-channels granted than asked for.
    TooManySubchannels {
        /// How many were asked for.
        asked: u16,
        /// How many were granted.
        granted: u32,
    },
    /// Granted sub-channels that did not get offered or could not be opened.
    SubchannelsNotOpen {
        /// How many were granted.
        granted: u16,
        /// How many are open.
        open: u16,
    },
    /// A message did not fit its buffer (a defect of this driver).
    MessageTooLong {
        /// The step whose message it was.
        step: Step,
    },
}

impl fmt::Display for BringupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SendFailed { step } => write!(f, "{step}: message not sent"),
            Self::ShareFailed { step } => write!(
                f,
                "{step}: no memory, or the host refused it or did not answer"
            ),
            Self::Deadline { step } => write!(f, "{step}: host did not answer in time"),
            Self::Rescinded { step } => write!(f, "{step}: host removed the device"),
            Self::Refused { step, refusal } => write!(f, "{step}: {refusal}"),
            Self::NoVersion => f.write_str("host accepts no NVSP version from 1 to 6.1"),
            Self::ReceiveSections {
                groups,
                offset,
                len,
                count,
            } => write!(
                f,
                "host wants {count} receive sections of {len} bytes at {offset} in {groups} groups"
            ),
            Self::SendSection(len) => write!(f, "host wants send sections of {len} bytes"),
            Self::Alignment(factor) => write!(f, "host wants RNDIS messages aligned to 2^{factor}"),
            Self::Address(mac) => write!(f, "host gave the unusable address {mac}"),
            Self::Offload(error) => write!(f, "{error}"),
            Self::TooManySubchannels { asked, granted } => {
                write!(
                    f,
                    "host granted {granted} sub-channels, {asked} were asked for"
                )
            }
            Self::SubchannelsNotOpen { granted, open } => {
                write!(
                    f,
                    "{open} of {granted} granted sub-channels could be opened"
                )
            }
            Self::MessageTooLong { step } => write!(f, "{step}: message exceeds its buffer"),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The steps of an attach, their order, and what happens when the host refuses one.

use super::config::OnRefusal;
use super::Bringup;
use core::fmt;

/// A step of an attach; each is one action.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// Offer an NVSP version.
    Init,
    /// Announce MTU and capabilities.
    NdisConfig,
    /// Announce the NDIS version.
    NdisVersion,
    /// Allocate and share the receive buffer.
    ShareReceiveBuffer,
    /// Hand it to the host.
    SendReceiveBuffer,
    /// Allocate and share the send buffer.
    ShareSendBuffer,
    /// Hand it to the host.
    SendSendBuffer,
    /// RNDIS INITIALIZE.
    Initialize,
    /// Ask for the largest MTU.
    MaxFrameSize,
    /// Ask for the MAC address.
    Address,
    /// Ask for offloads.
    OffloadCapabilities,
    /// Set offloads.
    OffloadParameters,
    /// Ask for the link state.
    MediaStatus,
    /// Ask for the link speed.
    LinkSpeed,
    /// Ask for RSS abilities.
    RssCapabilities,
    /// Ask for sub-channels.
    Subchannels,
    /// Wait until they are open.
    OpenSubchannels,
    /// Disable RSS before it is changed.
    RssDisable,
    /// Set table and key.
    RssEnable,
    /// Nothing left.
    Done,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "NVSP version",
            Self::NdisConfig => "NDIS configuration",
            Self::NdisVersion => "NDIS version",
            Self::ShareReceiveBuffer => "receive buffer memory",
            Self::SendReceiveBuffer => "receive buffer",
            Self::ShareSendBuffer => "send buffer memory",
            Self::SendSendBuffer => "send buffer",
            Self::Initialize => "RNDIS initialize",
            Self::MaxFrameSize => "maximum frame size",
            Self::Address => "MAC address",
            Self::OffloadCapabilities => "offload capabilities",
            Self::OffloadParameters => "offload parameters",
            Self::MediaStatus => "link state",
            Self::LinkSpeed => "link speed",
            Self::RssCapabilities => "RSS capabilities",
            Self::Subchannels => "sub-channel request",
            Self::OpenSubchannels => "opening sub-channels",
            Self::RssDisable => "RSS disable",
            Self::RssEnable => "RSS parameters",
            Self::Done => "done",
        })
    }
}

/// A set of steps. `Display` lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Steps(u32);

impl Steps {
    /// All that there can be, in their order.
    const ALL: [Step; 20] = [
        Step::Init,
        Step::NdisConfig,
        Step::NdisVersion,
        Step::ShareReceiveBuffer,
        Step::SendReceiveBuffer,
        Step::ShareSendBuffer,
        Step::SendSendBuffer,
        Step::Initialize,
        Step::MaxFrameSize,
        Step::Address,
        Step::OffloadCapabilities,
        Step::OffloadParameters,
        Step::MediaStatus,
        Step::LinkSpeed,
        Step::RssCapabilities,
        Step::Subchannels,
        Step::OpenSubchannels,
        Step::RssDisable,
        Step::RssEnable,
        Step::Done,
    ];

    /// Adds one.
    pub(super) fn add(&mut self, step: Step) {
        self.0 |= Self::bit(step);
    }

    fn bit(step: Step) -> u32 {
        // At most 19.
        1u32.checked_shl(step as u32).unwrap_or(0)
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for step in Self::ALL {
            if self.0 & Self::bit(step) != 0 {
                write!(f, "{separator}{step}")?;
                separator = ", ";
            }
        }
        match separator {
            "" => f.write_str("nothing"),
            _ => Ok(()),
        }
    }
}

/// What a refusal does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Policy {
    /// Ends the attach.
    Fatal,
    /// Tries the next older version.
    LowerVersion,
    /// Goes on without.
    Continue,
}

impl Step {
    pub(super) const fn policy(self, on_refusal: OnRefusal) -> Policy {
        match self {
            Self::Init => Policy::LowerVersion,
            Self::MaxFrameSize | Self::MediaStatus | Self::LinkSpeed | Self::RssDisable => {
                Policy::Continue
            }
            Self::RssCapabilities | Self::Subchannels | Self::RssEnable => match on_refusal {
                OnRefusal::Continue => Policy::Continue,
                OnRefusal::Fail => Policy::Fatal,
            },
            _ => Policy::Fatal,
        }
    }
}

impl Bringup {
    /// The step after the current one.
    pub(super) fn following(&self) -> Step {
        let version = self.negotiated.version;
        match self.step {
            Step::Init if version.has_ndis_config() => Step::NdisConfig,
            Step::Init | Step::NdisConfig => Step::NdisVersion,
            Step::NdisVersion => Step::ShareReceiveBuffer,
            Step::ShareReceiveBuffer => Step::SendReceiveBuffer,
            Step::SendReceiveBuffer => Step::ShareSendBuffer,
            Step::ShareSendBuffer => Step::SendSendBuffer,
            Step::SendSendBuffer => Step::Initialize,
            Step::Initialize => Step::MaxFrameSize,
            Step::MaxFrameSize => Step::Address,
            Step::Address => Step::OffloadCapabilities,
            Step::OffloadCapabilities => Step::OffloadParameters,
            Step::OffloadParameters => Step::MediaStatus,
            Step::MediaStatus if version.has_subchannels() => Step::LinkSpeed,
            Step::LinkSpeed => Step::RssCapabilities,
            Step::RssCapabilities if self.subchannels_wanted() > 0 => Step::Subchannels,
            Step::Subchannels if self.subchannels_granted > 0 => Step::OpenSubchannels,
            Step::OpenSubchannels if self.negotiated.channels > 1 => Step::RssDisable,
            Step::RssDisable => Step::RssEnable,
            Step::MediaStatus
            | Step::RssCapabilities
            | Step::Subchannels
            | Step::OpenSubchannels
            | Step::RssEnable
            | Step::Done => Step::Done,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What the host does for received frames: changed on the open channels, by one request.

use super::{errno, Control, EXCHANGE_MS};
use crate::debug_view::HostError;
use crate::device::Adapter;
use crate::net::{Config, Device, ReceiveOffloads};
use crate::rndis::{
    exchange::{ExchangeError, Request},
    offload::Offloads,
};
use crate::vmbus::Deadline;
use kernel::prelude::*;

impl Control {
    /// Has the host verify checksums and coalesce segments, or not, as far as it can. On failure it is as
    /// before.
    pub(crate) fn set_receive_offloads(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        wanted: ReceiveOffloads,
    ) -> Result {
        // Without a device it is told with the next attach.
        if let Ok(attachment) = self.attached() {
            let old = attachment.negotiated.offloads;
            let mut new = old;
            new.rx_checksum = wanted.checksum;
            new.rsc = old.rsc_offered && wanted.lro;
            if new != old {
                self.change_offloads(dev, config, old, new)?;
            }
        }
        self.settings.rx_checksum = wanted.checksum;
        self.settings.coalesce = wanted.lro;
        Ok(())
    }

    fn change_offloads(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        old: Offloads,
        new: Offloads,
    ) -> Result {
        let Err(error) = self.tell_offloads(config, new)? else {
            self.attached()?.negotiated.offloads = new;
            return Ok(());
        };
        dev.history.error(HostError::Request(error));
        Adapter::say_err(
            dev,
            format_args!("host does not change offloads, they stay as they were: {error}"),
        );
        // A host that said nothing may still do it.
        if !matches!(error, ExchangeError::Refused(_)) {
            if let Err(again) = self.tell_offloads(config, old)? {
                Adapter::say_err(
                    dev,
                    format_args!("host does not take the old offloads either: {again}"),
                );
            }
        }
        Err(errno(&error))
    }

    fn tell_offloads(
        &mut self,
        config: &Config<'_>,
        offloads: Offloads,
    ) -> Result<Result<(), ExchangeError>> {
        let version = self.attached()?.negotiated.version;
        let request = Request::SetOffloads { offloads, version };
        let answer = self.exchange(config, Deadline::after(EXCHANGE_MS), &request)?;
        Ok(answer.map(drop))
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How received frames are spread over the channels: changed while they are open, by two requests.

use super::{errno, Control, EXCHANGE_MS};
use crate::debug_view::HostError;
use crate::device::Adapter;
use crate::net::{ethtool::not_supported, Config, Device};
use crate::rndis::{
    exchange::{ExchangeError, Request},
    rss::{Flow, FlowHash, Mode, Parameters, Table, KEY_LEN},
};
use crate::vmbus::Deadline;
use kernel::prelude::*;

/// What decides on which channel a flow arrives.
pub(crate) struct Spread {
    /// The channel for each bucket of the hash; `None` if the host cannot spread.
    pub(crate) table: Option<Table>,
    /// The key of the hash.
    pub(crate) key: [u8; KEY_LEN],
}

/// What to tell the host; for what is `None`, the settings.
#[derive(Clone, Copy, Default)]
struct Change<'a> {
    table: Option<&'a Table>,
    key: Option<&'a [u8; KEY_LEN]>,
    flow_hash: Option<FlowHash>,
}

impl Control {
    /// What is in effect, or would be with more than one channel. `ENODEV` if nothing is attached.
    pub(crate) fn spread(&self) -> Result<Spread> {
        let negotiated = &self.attachment.as_ref().ok_or(ENODEV)?.negotiated;
        let table = negotiated.rss_table(self.settings.rss_table.as_ref());
        Ok(Spread {
            table: (negotiated.rss_table_len > 0).then_some(table),
            key: self.settings.rss_key,
        })
    }

    /// Changes table, key, or both. On failure the old ones are in effect.
    pub(crate) fn set_spread(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        table: Option<&Table>,
        key: Option<&[u8; KEY_LEN]>,
    ) -> Result {
        let negotiated = &self.attached()?.negotiated;
        let (len, channels) = (negotiated.rss_table_len, negotiated.channels);
        if len == 0 {
            return Err(not_supported());
        }
        if table.is_some_and(|table| table.len() != len || !table.fits(channels)) {
            return Err(EINVAL);
        }
        let change = Change {
            table,
            key,
            flow_hash: None,
        };
        self.change_spread(dev, config, &change)?;
        if let Some(key) = key {
            self.settings.rss_key = *key;
        }
        if let Some(table) = table {
            self.settings.rss_table = Some(*table);
            self.attached()?.negotiated.user_table = true;
        }
        Ok(())
    }

    /// What flows are hashed over.
    pub(crate) fn flow_hash(&self) -> FlowHash {
        self.settings.flow_hash
    }

    /// Changes whether ports of a protocol are hashed. On failure they are as before.
    pub(crate) fn set_flow_hash(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        flow: Flow,
        ports: bool,
    ) -> Result {
        let old = self.settings.flow_hash;
        let new = old.with_ports(flow, ports);
        // Without a device it is told with the next attach.
        if let Ok(attachment) = self.attached() {
            let hashes = attachment.negotiated.rss_hashes;
            if new.types(hashes) != old.types(hashes) {
                let change = Change {
                    flow_hash: Some(new),
                    ..Change::default()
                };
                self.change_spread(dev, config, &change)?;
            }
        }
        self.settings.flow_hash = new;
        dev.set_hashed_ports(new);
        Ok(())
    }

    /// Has the host spread by `change`, without closing a channel. On failure it is told the settings
    /// again.
    ///
    /// With one channel there is nothing to spread: the host hears of the change when there are more.
    fn change_spread(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        change: &Change<'_>,
    ) -> Result {
        let negotiated = &self.attached()?.negotiated;
        if negotiated.channels < 2 || negotiated.rss_table_len == 0 {
            return Ok(());
        }
        let Err(error) = self.tell_spread(config, change)? else {
            self.attached()?.negotiated.rss_enabled = true;
            return Ok(());
        };
        dev.history.error(HostError::Request(error));
        Adapter::say_err(
            dev,
            format_args!("host does not change RSS, it stays as it was: {error}"),
        );
        // The host may have turned spreading off, or may do so now that the time is up.
        if let Err(again) = self.tell_spread(config, &Change::default())? {
            self.attached()?.negotiated.rss_enabled = false;
            Adapter::say_err(
                dev,
                format_args!("host does not take the old RSS settings either: {again}"),
            );
        }
        Err(errno(&error))
    }

    /// Turns spreading off and on again. That the host does not turn it off does not matter, unless it
    /// is silent.
    #[inline(never)]
    fn tell_spread(
        &mut self,
        config: &Config<'_>,
        change: &Change<'_>,
    ) -> Result<Result<(), ExchangeError>> {
        let (key, hash) = (self.settings.rss_key, self.settings.flow_hash);
        let negotiated = &self.attachment.as_ref().ok_or(ENODEV)?.negotiated;
        let table = negotiated.rss_table(self.settings.rss_table.as_ref());
        let parameters = Parameters {
            table: change.table.unwrap_or(&table),
            key: change.key.unwrap_or(&key),
            types: change
                .flow_hash
                .unwrap_or(hash)
                .types(negotiated.rss_hashes),
        };
        let deadline = Deadline::after(EXCHANGE_MS);
        let request = |mode| Request::SetRss { mode, parameters };
        match self.exchange(config, deadline, &request(Mode::Disable))? {
            Ok(_) | Err(ExchangeError::Refused(_)) => {}
            Err(error) => return Ok(Err(error)),
        }
        let enabled = self.exchange(config, deadline, &request(Mode::Enable))?;
        Ok(enabled.map(drop))
    }

    /// A table that the core holds for the default is not the user's: it follows the channel count.
    pub(super) fn forget_default_table(&mut self, dev: &Device<Adapter>, config: &Config<'_>) {
        if !dev.rss_table_is_users(config) {
            self.settings.rss_table = None;
        }
    }

    /// Whether the user's table was given up since this was asked last.
    pub(crate) fn take_table_lost(&mut self) -> bool {
        core::mem::take(&mut self.table_lost)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How received frames are spread over the channels: changed while they are open, by two requests.

use super::{errno, Control, EXCHANGE_MS};
use crate::device::Adapter;
use crate::net::{ethtool::not_supported, Config, Device};
use crate::rndis::{
    exchange::{ExchangeError, Request},
    rss::{Flow, FlowHash, Mode, Parameters, Table, KEY_LEN},
};
use crate::vmbus::Deadline;
use kernel::prelude::*;

/// What decides on which channel a flow arrives.
#[derive(Clone)]
pub(crate) struct Spread {
    /// The channel for each bucket of the hash; `None` if the host cannot spread.
    pub(crate) table: Option<Table>,
    /// The key of the hash.
    pub(crate) key: [u8; KEY_LEN],
    /// What is hashed.
    flow_hash: FlowHash,
}

impl Control {
    /// What is in effect, or would be with more than one channel. `ENODEV` if nothing is attached.
    pub(crate) fn spread(&self) -> Result<Spread> {
        let negotiated = &self.attachment.as_ref().ok_or(ENODEV)?.negotiated;
        let table = negotiated.rss_table(self.settings.rss_table.as_ref());
        Ok(Spread {
            table: (negotiated.rss_table_len > 0).then_some(table),
            key: self.settings.rss_key,
            flow_hash: self.settings.flow_hash,
        })
    }

    /// Changes table, key, or both. On failure the old ones are in effect.
    pub(crate) fn set_spread(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        table: Option<Table>,
        key: Option<[u8; KEY_LEN]>,
    ) -> Result {
        let old = self.spread()?;
        let old_table = old.table.ok_or_else(not_supported)?;
        let new_table = table.unwrap_or(old_table);
        let negotiated = &self.attached()?.negotiated;
        if new_table.len() != negotiated.rss_table_len || !new_table.fits(negotiated.channels) {
            return Err(EINVAL);
        }
        let new = Spread {
            table: Some(new_table),
            key: key.unwrap_or(old.key),
            ..old
        };
        self.change_spread(dev, config, &old, &new)?;
        self.settings.rss_key = new.key;
        if table.is_some() {
            self.settings.rss_table = table;
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
        let flow_hash = self.settings.flow_hash.with_ports(flow, ports);
        // Without a device it is told with the next attach.
        if let Ok(old) = self.spread() {
            let hashes = self.attached()?.negotiated.rss_hashes;
            let new = Spread {
                flow_hash,
                ..old.clone()
            };
            if new.flow_hash.types(hashes) != old.flow_hash.types(hashes) {
                self.change_spread(dev, config, &old, &new)?;
            }
        }
        self.settings.flow_hash = flow_hash;
        dev.set_hashed_ports(flow_hash);
        Ok(())
    }

    /// Has the host spread by `new`, without closing a channel. On failure it is told `old` again.
    ///
    /// With one channel there is nothing to spread: the host hears of the change when there are more.
    fn change_spread(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        old: &Spread,
        new: &Spread,
    ) -> Result {
        if self.attached()?.negotiated.channels < 2 {
            return Ok(());
        }
        let Err(error) = self.tell_spread(config, new)? else {
            self.attached()?.negotiated.rss_enabled = true;
            return Ok(());
        };
        Adapter::say_err(
            dev,
            format_args!("host does not change RSS, it stays as it was: {error}"),
        );
        // The host may have turned spreading off, or may do so now that the time is up.
        if let Err(again) = self.tell_spread(config, old)? {
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
    fn tell_spread(
        &mut self,
        config: &Config<'_>,
        spread: &Spread,
    ) -> Result<Result<(), ExchangeError>> {
        let Some(table) = &spread.table else {
            return Ok(Ok(()));
        };
        let parameters = Parameters {
            table,
            key: &spread.key,
            types: spread
                .flow_hash
                .types(self.attached()?.negotiated.rss_hashes),
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

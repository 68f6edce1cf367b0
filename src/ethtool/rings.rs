// SPDX-License-Identifier: GPL-2.0

//! `ethtool --show-ring`, `--set-ring`: sections of the buffers shared with the host.

use crate::device::Adapter;
use crate::net::{
    ethtool::{RingSizes, Rings},
    Device, Rtnl,
};
use crate::rndis::{bringup::Negotiated, version::MAX_SEND_BUFFER};
use kernel::prelude::*;

/// Fewest sections. (The C driver takes less, and sets this.)
const MIN_SECTIONS: u32 = 10;

/// Sections in use, and the most that the protocol allows. Zeroes when the device is gone.
pub(super) fn get(dev: &Device<Adapter>) -> Rings {
    let control = dev.control.lock();
    control
        .attachment
        .as_ref()
        .map_or(Rings::default(), |attachment| of(&attachment.negotiated))
}

fn of(negotiated: &Negotiated) -> Rings {
    let most = |bytes: u32, section: u32| bytes.checked_div(section).unwrap_or(0);
    Rings {
        max: RingSizes {
            rx: most(
                negotiated.version.max_receive_buffer(),
                negotiated.receive_section_len,
            ),
            tx: most(MAX_SEND_BUFFER, negotiated.send_section_len),
        },
        current: RingSizes {
            rx: negotiated.receive_section_count,
            tx: negotiated.send_section_count,
        },
    }
}

/// Rebuilds the device with buffers of these numbers of sections, or leaves it with those it has.
///
/// A buffer is whole pages, so that there may be a section or two more than were asked for. A number that
/// is in effect leaves its buffer as it is. `EINVAL` for fewer than [`MIN_SECTIONS`]; the core refuses more than the
/// maximum.
pub(super) fn set(dev: &Device<Adapter>, rtnl: &Rtnl, wanted: RingSizes) -> Result {
    let (rings, receive_len, send_len) = {
        let mut control = dev.control.lock();
        let negotiated = &control.attached()?.negotiated;
        (
            of(negotiated),
            negotiated.receive_section_len,
            negotiated.send_section_len,
        )
    };
    let RingSizes { rx, tx } = wanted;
    if (rx, tx) == (rings.current.rx, rings.current.tx) {
        return Ok(());
    }
    let too_few = |wanted: u32, current: u32| wanted != current && wanted < MIN_SECTIONS;
    if too_few(rx, rings.current.rx) || too_few(tx, rings.current.tx) {
        return Err(EINVAL);
    }
    Adapter::reconfigure(dev, rtnl, |settings| {
        if rx != rings.current.rx {
            settings.receive_buffer = rx.saturating_mul(receive_len);
        }
        if tx != rings.current.tx {
            settings.send_buffer = tx.saturating_mul(send_len);
        }
    })
}

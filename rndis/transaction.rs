// SPDX-License-Identifier: GPL-2.0

//! Transaction ids of the packets this driver sends: what a completion may claim to complete.
//!
//! ```text
//!  63    56 55        32 31        0
//! +--------+------------+-----------+
//! |  kind  | generation |  number   |
//! +--------+------------+-----------+
//! ```
//!
//! The kind keeps control and data apart: a host cannot complete a frame with the id of a control
//! message. For frames, number is the slot and the generation changes each time the slot is used, so an
//! id is good once. No id is ever 0 (hosts read it as "none") or one of `hv_vmbus`'s special values near
//! `u64::MAX`.

use crate::vmbus::packet::NO_RESPONSE;

const KIND_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 32;
const KIND_CONTROL: u64 = 1;
const KIND_FRAME: u64 = 2;

/// Generations run through 24 bits.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

/// The id of one packet from guest to host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionId(u64);

/// What an id stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transaction {
    /// An NVSP or RNDIS control message; the number of the exchange.
    Control(u32),
    /// A packet of frames.
    Frame {
        /// Index in the queue's slot table.
        slot: u32,
        /// How often the slot had been used, modulo 2^24.
        generation: u32,
    },
    /// Not an id this driver makes.
    Foreign,
}

impl TransactionId {
    /// For packets that want no completion.
    pub const NONE: Self = Self(NO_RESPONSE);

    /// Id of the control exchange `number`.
    pub const fn control(number: u32) -> Self {
        Self((KIND_CONTROL << KIND_SHIFT) | number as u64)
    }

    /// Id of the frames in `slot`; `generation` is taken modulo 2^24.
    pub const fn frame(slot: u32, generation: u32) -> Self {
        let generation = (generation & GENERATION_MASK) as u64;
        Self((KIND_FRAME << KIND_SHIFT) | (generation << GENERATION_SHIFT) | slot as u64)
    }

    /// Takes an id out of a packet.
    pub const fn from_wire(value: u64) -> Self {
        Self(value)
    }

    /// The value for a packet.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// What the id stands for, by its form alone.
    pub const fn decode(self) -> Transaction {
        let number = (self.0 & 0xffff_ffff) as u32;
        let generation = ((self.0 >> GENERATION_SHIFT) as u32) & GENERATION_MASK;
        match self.0 >> KIND_SHIFT {
            KIND_CONTROL if generation == 0 => Transaction::Control(number),
            KIND_FRAME => Transaction::Frame {
                slot: number,
                generation,
            },
            _ => Transaction::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_do_not_mix() {
        assert_eq!(TransactionId::control(7).decode(), Transaction::Control(7));
        assert_eq!(
            TransactionId::frame(7, 0x0112_3456).decode(),
            Transaction::Frame {
                slot: 7,
                generation: 0x0012_3456
            }
        );
        for foreign in [0, 1, u64::MAX, NO_RESPONSE, 1 << 63] {
            assert_eq!(
                TransactionId::from_wire(foreign).decode(),
                Transaction::Foreign
            );
        }
    }
}

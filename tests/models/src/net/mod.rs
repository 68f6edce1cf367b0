// SPDX-License-Identifier: GPL-2.0

//! `src/net/published.rs`, with softirq sections and grace periods that Loom understands.

mod grace_period;
#[path = "../../../../src/net/published.rs"]
pub(crate) mod published;
mod token;

pub use grace_period::Readers;
pub use token::{Config, SoftIrq};

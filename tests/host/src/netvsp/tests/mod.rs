// SPDX-License-Identifier: GPL-2.0

//! A scripted guest drives the whole device over rings and buffers in memory.

mod bring_up;
mod control;
mod faults;
mod guest;
mod hostile;
pub mod memory;
mod receive;
mod recorded;
mod storm;
mod transmit;
mod violations;

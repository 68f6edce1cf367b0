// SPDX-License-Identifier: GPL-2.0

//! Suites for the abstractions of `src/net`, which this module is a part of so that it sees what they keep to
//! themselves:
//!
//! * `skb`: socket buffers, what the host is told of them, and who owns them on their way;
//! * `device`: a network device from allocation to release, and what the core calls;
//! * `napi`: polls; `published`: objects that packet paths read without a lock.

mod device;
mod dummy;
mod napi;
mod published;
mod skb;

use super::SkBuff;
use crate::bindings;
use kernel::prelude::*;

/// Frames of [`frame`] and its like that nobody has released.
fn frames() -> i32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::netvsc_kunit_skbs() }
}

/// A frame of `linear` bytes and `fragments` fragments of `len` bytes; byte N is N modulo 251.
fn frame(linear: u32, fragments: u32, len: u32) -> Result<SkBuff> {
    // SAFETY: No preconditions.
    let raw = unsafe { bindings::netvsc_kunit_skb(linear, fragments, len) };
    if raw.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: Just made, and nobody else's.
    Ok(unsafe { SkBuff::from_raw(raw) })
}

/// Runs `f` with bottom halves disabled, as packet paths do.
fn in_softirq_section<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: Enabled again below.
    unsafe { bindings::netvsc_kunit_bh_disable() };
    let result = f();
    // SAFETY: Disabled above.
    unsafe { bindings::netvsc_kunit_bh_enable() };
    result
}

/// Runs `f` with interrupts off too, as interrupt handlers do; what it schedules in softirq runs afterwards.
fn in_interrupt_section<R>(f: impl FnOnce() -> R) -> R {
    in_softirq_section(|| {
        // SAFETY: Enabled again below.
        let flags = unsafe { bindings::netvsc_kunit_irq_disable() };
        let result = f();
        // SAFETY: Disabled above.
        unsafe { bindings::netvsc_kunit_irq_enable(flags) };
        result
    })
}

// SPDX-License-Identifier: GPL-2.0

//! Softirq sections, and waiting for their end. What RCU promises is modelled, not how it does it: a section that
//! began before a moment has ended, and what it did is seen, when the wait for that moment returns.

use super::SoftIrq;
use loom::sync::atomic::{fence, AtomicUsize, Ordering};
use loom::thread;

loom::lazy_static! {
    /// Sections that run now.
    static ref RUNNING: AtomicUsize = AtomicUsize::new(0);
}

/// Where softirq sections are made.
pub struct Readers;

impl Readers {
    /// Runs `section` as a softirq section.
    pub fn section<R>(section: impl FnOnce(SoftIrq<'_>) -> R) -> R {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let result = section(SoftIrq::new());
        fence(Ordering::SeqCst);
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

/// A moment.
pub(super) struct GracePeriod;

impl GracePeriod {
    pub(super) fn from_now() -> Self {
        fence(Ordering::SeqCst);
        Self
    }

    /// Waits until no section runs, so that none does that ran at the moment.
    pub(super) fn wait(&mut self) {
        while RUNNING.load(Ordering::SeqCst) != 0 {
            thread::yield_now();
        }
        fence(Ordering::SeqCst);
    }
}

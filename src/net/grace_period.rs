// SPDX-License-Identifier: GPL-2.0

//! Waiting once for many: the end of all softirq sections that were running at a certain moment.
//!
//! C header: `include/linux/rcutree.h`.

use crate::bindings;

/// A moment. Those who could see something before it are gone when [`GracePeriod::wait`] returns; a wait for a
/// later moment that has ended makes it return at once.
pub(super) struct GracePeriod(bindings::rcu_gp_oldstate);

impl GracePeriod {
    /// Now: after what the caller has written before.
    pub(super) fn from_now() -> Self {
        let mut state = bindings::rcu_gp_oldstate::default();
        // SAFETY: Writes the state; begins with a full barrier.
        unsafe { bindings::get_state_synchronize_rcu_full(&mut state) };
        Self(state)
    }

    /// Waits for the softirq and RCU sections that were running then. Sleeps; costs the other CPUs an interrupt,
    /// which is dear but soon over: traffic waits too.
    pub(super) fn wait(&mut self) {
        // SAFETY: The state is from `from_now`; configuration may sleep.
        unsafe { bindings::cond_synchronize_rcu_expedited_full(&mut self.0) };
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Sub-channels, which the host offers when a protocol above asks it to.
//!
//! `hv_vmbus` tells of each in process context on its work queue `hv_sub_chan`, by a callback of the
//! primary channel that it reads and calls without a lock and without a reference to the module. So:
//!
//! * The callback reaches its data ([`Group`]) through the primary's `per_channel_state`, within an RCU
//!   read section; the owner of the primary takes the pointer away and waits for a grace period.
//! * It never sleeps, so that a Tasks-RCU grace period after the last close says that nobody is in it;
//!   the driver's registration waits for one before the module's text can go.
//! * It only queues what arrived. Whoever waits for sub-channels ([`Subchannels`]) sorts them. What arrives
//!   while nobody waits is counted and left alone: it stays closed.
//!
//! A sub-channel that nobody has opened is freed when the host rescinds it; a reference to its `kobj` keeps
//! the memory of those in the queue, and opening them fails with `ENODEV`.

use crate::{
    bindings,
    vmbus::{
        channel::{Channel, ChannelRef, Group, Interrupt, OpenChannel},
        completion::Deadline,
    },
};
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::{rcu, Arc},
    time::Msecs,
};

/// How often waiting looks whether the device is gone.
const RESCIND_POLL_MS: Msecs = 50;

/// A sub-channel in the queue.
///
/// # Invariants
///
/// Valid, with a reference to its `kobj` that belongs to this object.
pub(super) struct Arrived(NonNull<bindings::vmbus_channel>);

// SAFETY: A reference to a C object that is shared between all CPUs.
unsafe impl Send for Arrived {}

impl Arrived {
    /// `group` is the one whose queue this was in.
    fn into_reference(self, group: Arc<Group>) -> ChannelRef {
        let raw = self.0;
        core::mem::forget(self);
        // SAFETY: Valid by the type invariant; the reference is given away.
        unsafe { ChannelRef::subchannel(raw, group) }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kobject_put(&raw mut (*self.0.as_ptr()).kobj) };
    }
}

/// The queue between the callback and [`Subchannels`].
pub(super) struct Arrivals {
    /// Counts calls of [`OpenChannel::expect_subchannels`]; even: nobody waits.
    generation: u64,
    /// Never grows in the callback: its capacity is reserved.
    queue: KVec<Arrived>,
    refused: u64,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self {
            generation: 0,
            queue: KVec::new(),
            refused: 0,
        }
    }

    fn accepting(&self) -> bool {
        self.generation % 2 == 1
    }
}

impl Group {
    /// Queues a sub-channel. Does not sleep.
    ///
    /// # Safety
    ///
    /// `sub` is a valid sub-channel of this group's primary.
    unsafe fn arrive(&self, sub: NonNull<bindings::vmbus_channel>) {
        let mut arrivals = self.arrivals.lock();
        if !arrivals.accepting() || arrivals.queue.len() == arrivals.queue.capacity() {
            arrivals.refused = arrivals.refused.wrapping_add(1);
            return;
        }
        // SAFETY: Valid by the requirements of this function.
        unsafe { bindings::kobject_get(&raw mut (*sub.as_ptr()).kobj) };
        // INVARIANT: The reference just taken.
        let arrived = Arrived(sub);
        if let Err(error) = arrivals.queue.push_within_capacity(arrived) {
            // There is room. Should that ever be wrong: dropping might sleep, losing a reference
            // does not.
            core::mem::forget(error);
        }
        drop(arrivals);
        self.arrived.complete();
    }
}

/// Called by `hv_vmbus` for each new sub-channel.
///
/// # Safety
///
/// `sub` is a valid sub-channel; it and its primary stay so until this returns. The primary's
/// `per_channel_state` is null or a [`Group`] whose owner waits for an RCU grace period before dropping it.
unsafe extern "C" fn subchannel_arrived(sub: *mut bindings::vmbus_channel) {
    // SAFETY: By the requirements of this function: `hv_vmbus` frees neither the sub-channel before this
    // returns (`probe_done`), nor the primary that it names.
    let slot = unsafe { &raw const (*(*sub).primary_channel).per_channel_state };
    let guard = rcu::read_lock();
    // SAFETY: An aligned pointer of a valid object. C's `rcu_dereference` is a volatile read too.
    let group = unsafe { slot.read_volatile() }.cast::<Group>();
    if let (Some(group), Some(sub)) = (NonNull::new(group), NonNull::new(sub)) {
        // SAFETY: Not null, so it is the `Group` that the owner of the primary published, who waits
        // for our read section before dropping it.
        unsafe { group.as_ref().arrive(sub) };
    }
    drop(guard);
}

/// Accepts the sub-channels of an open primary channel for as long as it exists.
pub struct Subchannels {
    primary: ChannelRef,
    /// By index, from 1; each closed and not rescinded when last looked at.
    slots: KVec<Option<Channel>>,
    /// Empty, with room for as many as the queue: changes places with it.
    spare: KVec<Arrived>,
    refused: u64,
}

impl<H: Interrupt> OpenChannel<H> {
    /// Begins to accept sub-channels with the indices 1 to `max`; to be called on the primary before the
    /// host is asked for them. `EBUSY` while the result of an earlier call exists, `EINVAL` on a
    /// sub-channel.
    pub fn expect_subchannels(&self, max: u16) -> Result<Subchannels> {
        let primary = self.reference();
        if !primary.is_primary() {
            return Err(EINVAL);
        }
        let mut slots = KVec::with_capacity(max.into(), GFP_KERNEL)?;
        for _ in 0..max {
            slots.push_within_capacity(None).map_err(|_| ENOMEM)?;
        }
        // Twice: those of an earlier attach, being rescinded, may come before the new ones.
        let room = usize::from(max).saturating_mul(2);
        let queue = KVec::with_capacity(room, GFP_KERNEL)?;
        let spare = KVec::with_capacity(room, GFP_KERNEL)?;
        let mut arrivals = primary.group().arrivals.lock();
        if arrivals.accepting() {
            return Err(EBUSY);
        }
        arrivals.generation = arrivals.generation.wrapping_add(1);
        let old = core::mem::replace(&mut arrivals.queue, queue);
        drop(arrivals);
        drop(old);

        primary.group().arrived.reset();
        // SAFETY: The primary is valid; the callback may run from now on, and finds the group through
        // `per_channel_state`.
        unsafe {
            bindings::vmbus_set_sc_create_callback(primary.as_raw(), Some(subchannel_arrived))
        };
        Ok(Subchannels {
            primary: primary.clone(),
            slots,
            spare,
            refused: 0,
        })
    }
}

impl Subchannels {
    /// Waits until `count` sub-channels are there, `deadline` passes, or the primary is rescinded, and
    /// returns how many are there.
    pub fn wait(&mut self, count: u16, deadline: Deadline) -> u16 {
        loop {
            self.sort();
            let present = self.present();
            if present >= count || self.primary.rescinded() || deadline.passed() {
                return present;
            }
            self.primary
                .group()
                .arrived
                .wait_slice(deadline, RESCIND_POLL_MS);
        }
    }

    /// Takes the sub-channels that are there, by ascending index; the first missing one ends them, as
    /// the host numbers them without gaps.
    pub fn take(&mut self) -> impl Iterator<Item = Channel> + '_ {
        self.slots.iter_mut().map_while(Option::take)
    }

    /// Sub-channels that were turned away: index 0 or too high, an index that came twice, or too many.
    pub fn refused(&self) -> u64 {
        self.refused
            .wrapping_add(self.primary.group().arrivals.lock().refused)
    }

    fn present(&self) -> u16 {
        let present = self.slots.iter().take_while(|slot| slot.is_some()).count();
        u16::try_from(present).unwrap_or(u16::MAX)
    }

    /// Moves what arrived from the queue to its place, and drops what was rescinded meanwhile.
    fn sort(&mut self) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|sub| sub.reference().rescinded()) {
                *slot = None;
            }
        }
        let mut arrived = core::mem::take(&mut self.spare);
        core::mem::swap(
            &mut arrived,
            &mut self.primary.group().arrivals.lock().queue,
        );
        // What is dropped here may sleep: not under the lock.
        for sub in arrived.drain_all() {
            let sub = sub.into_reference(self.primary.group().clone());
            self.place(sub);
        }
        self.spare = arrived;
    }

    fn place(&mut self, sub: ChannelRef) {
        let index = usize::from(sub.index()).checked_sub(1);
        let slot = index.and_then(|index| self.slots.get_mut(index));
        let Some(slot) = slot.filter(|_| !sub.rescinded()) else {
            self.refused = self.refused.wrapping_add(1);
            return;
        };
        // SAFETY: `hv_vmbus` tells of each sub-channel once, so this is its only owner.
        let channel = unsafe { Channel::from_subchannel(sub) };
        // The newer one wins: the older may be of an earlier attach, about to be rescinded.
        if slot.replace(channel).is_some() {
            self.refused = self.refused.wrapping_add(1);
        }
    }
}

impl Drop for Subchannels {
    fn drop(&mut self) {
        // The callback stays until the primary is closed: `hv_vmbus` reads it twice without a lock, and
        // turns arrivals over to the generation below.
        let mut arrivals = self.primary.group().arrivals.lock();
        arrivals.generation = arrivals.generation.wrapping_add(1);
        let left = core::mem::take(&mut arrivals.queue);
        drop(arrivals);
        // May sleep.
        drop(left);
    }
}

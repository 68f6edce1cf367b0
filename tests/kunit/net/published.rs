// SPDX-License-Identifier: GPL-2.0

//! Suite: an object that packet paths read without a lock; and work that is cancelled before its object goes.

use crate::net::{Config, DelayedWork, Published, SoftIrq};
use crate::vmbus::{Completion, Deadline};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kernel::{
    prelude::*,
    sync::{rcu, Arc},
    time::{delay::fsleep, Delta},
    workqueue,
};

/// What the slots of this suite hold: says when it is dropped.
struct Value(u32, Arc<AtomicU32>);

impl Drop for Value {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

fn value(number: u32, dropped: &Arc<AtomicU32>) -> Result<KBox<Value>> {
    Ok(KBox::new(Value(number, dropped.clone()), GFP_KERNEL)?)
}

fn counter() -> Result<Arc<AtomicU32>> {
    Ok(Arc::new(AtomicU32::new(0), GFP_KERNEL)?)
}

/// The tests own their slots alone, which is what a `Config` says.
fn config() -> Config<'static> {
    // SAFETY: There is no device that others could configure.
    unsafe { Config::unregistered() }
}

/// What a packet path finds.
fn seen(slot: &Published<Value>) -> Option<u32> {
    let guard = rcu::read_lock();
    slot.get(SoftIrq::from(&guard)).map(|value| value.0)
}

/// A reader in another thread, and how far it has got.
#[pin_data]
struct Reading {
    place: Published<Value>,
    #[pin]
    entered: Completion,
    left: AtomicBool,
    read: AtomicU32,
}

/// Stays in its section for about `ms` milliseconds without sleeping, then reads once more through what it found.
fn read_for(reading: &Reading, ms: u32) {
    let guard = rcu::read_lock();
    if let Some(value) = reading.place.get(SoftIrq::from(&guard)) {
        reading.entered.complete();
        let end = Deadline::after(ms);
        while !end.passed() {
            core::hint::spin_loop();
        }
        reading.read.store(value.0, Ordering::SeqCst);
        reading.left.store(true, Ordering::SeqCst);
    }
    drop(guard);
}

#[kunit_tests(hv_netvsc_published)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_what_is_published_and_nothing_else() -> Result {
        let (config, dropped) = (config(), counter()?);
        let slot = Published::new();
        assert_eq!(seen(&slot), None);
        slot.publish(&config, value(1, &dropped)?)
            .map_err(|_| EBUSY)?;
        assert_eq!(seen(&slot), Some(1));
        let Err(refused) = slot.publish(&config, value(2, &dropped)?) else {
            return Err(EINVAL);
        };
        assert_eq!((refused.0, seen(&slot)), (2, Some(1)));
        drop(refused);
        let taken = slot.unpublish(&config).ok_or(ENOENT)?;
        assert_eq!((seen(&slot), dropped.load(Ordering::SeqCst)), (None, 1));
        assert_eq!(taken.take().0, 1);
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
        assert!(slot.unpublish(&config).is_none());
        Ok(())
    }

    #[test]
    fn a_slot_that_goes_takes_its_object_along() -> Result {
        let dropped = counter()?;
        let slot = Published::new();
        slot.publish(&config(), value(1, &dropped)?)
            .map_err(|_| EBUSY)?;
        drop(slot);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        Ok(())
    }

    #[test]
    fn the_configuration_side_may_hold_an_object_across_sleeps() -> Result {
        let (config, dropped) = (config(), counter()?);
        let slot = Published::new();
        slot.publish(&config, value(3, &dropped)?)
            .map_err(|_| EBUSY)?;
        let lent = slot.get_config(&config).ok_or(ENOENT)?;
        fsleep(Delta::from_millis(5));
        assert_eq!(lent.0, 3);
        drop(lent);
        assert!(slot.unpublish(&config).is_some());
        assert!(slot.get_config(&config).is_none());
        Ok(())
    }

    /// `taking` waits for readers in one of its ways; then none may be left.
    fn with_a_reader(taking: impl FnOnce(&Published<Value>, &Config<'_>)) -> Result<bool> {
        let dropped = counter()?;
        let reading = Arc::pin_init(
            pin_init!(Reading {
                place: Published::new(),
                entered <- Completion::new(),
                left: AtomicBool::new(false),
                read: AtomicU32::new(0),
            }),
            GFP_KERNEL,
        )?;
        let config = config();
        reading
            .place
            .publish(&config, value(9, &dropped)?)
            .map_err(|_| EBUSY)?;
        let reader = reading.clone();
        workqueue::system_unbound().try_spawn(GFP_KERNEL, move || read_for(&reader, 60))?;
        if !reading.entered.wait(Deadline::after(5000)) {
            return Err(ETIMEDOUT);
        }
        taking(&reading.place, &config);
        Ok(reading.left.load(Ordering::SeqCst)
            && reading.read.load(Ordering::SeqCst) == 9
            && dropped.load(Ordering::SeqCst) == 1)
    }

    #[test]
    fn an_object_is_given_back_when_its_readers_have_gone() -> Result {
        let good = with_a_reader(|slot, config| {
            drop(slot.unpublish(config).map(|object| object.take()));
        })?;
        assert!(good);
        Ok(())
    }

    #[test]
    fn an_object_is_dropped_when_its_readers_have_gone() -> Result {
        assert!(with_a_reader(|slot, config| drop(slot.unpublish(config)))?);
        Ok(())
    }

    #[test]
    fn delayed_work_runs_once_and_not_after_its_cancelling() -> Result {
        let runs = counter()?;
        let run = |runs: &Arc<AtomicU32>| {
            runs.fetch_add(1, Ordering::SeqCst);
        };
        let work = KBox::pin_init(DelayedWork::new(runs.clone(), run), GFP_KERNEL)?;
        work.queue(1);
        work.queue(1);
        for _ in 0..200 {
            if runs.load(Ordering::SeqCst) != 0 {
                break;
            }
            fsleep(Delta::from_millis(5));
        }
        work.cancel();
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        work.queue(30);
        work.cancel();
        work.queue(30);
        drop(work);
        fsleep(Delta::from_millis(80));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        Ok(())
    }
}

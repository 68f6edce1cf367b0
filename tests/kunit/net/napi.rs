// SPDX-License-Identifier: GPL-2.0

//! Suite: a poll context from its addition to its deletion.

use super::{
    dummy::{self, Dummy, Log, QUEUES},
    in_interrupt_section, in_softirq_section,
};
use crate::bindings;
use crate::net::{Device, NapiRegistration, Poll, PollContext, Progress, SoftIrq, UniqueDevice};
use crate::vmbus::{Completion, Deadline};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kernel::{
    faux,
    prelude::*,
    sync::Arc,
    time::{delay::fsleep, Delta},
    workqueue,
};

/// What a poll did.
#[pin_data]
struct Seen {
    polls: AtomicU32,
    unmasked: AtomicU32,
    masked: AtomicU32,
    dropped: AtomicU32,
    /// Polls to answer with "more".
    more: AtomicU32,
    /// Times that something came while the mask was off.
    late: AtomicU32,
    /// Whether the pool of pages was there in each poll.
    pooled: AtomicU32,
    #[pin]
    done: Completion,
}

fn seen() -> Result<Arc<Seen>> {
    Ok(Arc::pin_init(
        pin_init!(Seen {
            polls: AtomicU32::new(0),
            unmasked: AtomicU32::new(0),
            masked: AtomicU32::new(0),
            dropped: AtomicU32::new(0),
            more: AtomicU32::new(0),
            late: AtomicU32::new(0),
            pooled: AtomicU32::new(0),
            done <- Completion::new(),
        }),
        GFP_KERNEL,
    )?)
}

fn get(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}

/// Takes one, if there is one.
fn take(counter: &AtomicU32) -> bool {
    let less = |count: u32| count.checked_sub(1);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

struct Probe(Arc<Seen>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Poll for Probe {
    /// Polls so far.
    type State = u32;

    fn poll(&self, poll: &PollContext<'_>, state: &mut u32, _budget: u32) -> Progress {
        *state += 1;
        self.0.polls.store(*state, Ordering::Relaxed);
        if !poll.page_pool().is_null() {
            self.0.pooled.fetch_add(1, Ordering::Relaxed);
        }
        if take(&self.0.more) {
            return Progress::More;
        }
        Progress::Done(0)
    }

    fn unmask(&self, _section: SoftIrq<'_>) -> bool {
        self.0.unmasked.fetch_add(1, Ordering::Relaxed);
        let again = take(&self.0.late);
        if !again {
            self.0.done.complete();
        }
        again
    }

    fn mask(&self, _section: SoftIrq<'_>) {
        self.0.masked.fetch_add(1, Ordering::Relaxed);
    }
}

/// A device that is not registered, and its parent.
struct Bench {
    device: UniqueDevice<Dummy>,
    seen: Arc<Seen>,
    _parent: faux::Registration,
}

impl Bench {
    fn new() -> Result<Self> {
        let parent = dummy::parent()?;
        Ok(Self {
            device: dummy::device(&parent, &Log::new()?)?,
            seen: seen()?,
            _parent: parent,
        })
    }

    fn add(&mut self, index: u16) -> Result<NapiRegistration<Probe, Dummy>> {
        let probe = Probe(self.seen.clone());
        let (dev, config) = self.device.configure();
        NapiRegistration::new(dev, index, probe, 0, &config)
    }

    fn dev(&mut self) -> &Device<Dummy> {
        self.device.configure().0
    }

    fn listed(&mut self) -> u32 {
        let dev = self.dev().as_raw();
        // SAFETY: The device is alive.
        unsafe { bindings::netvsc_kunit_napis(dev) }
    }

    /// Waits until a poll is over.
    fn polled(&self) -> bool {
        self.seen.done.wait(Deadline::after(5000))
    }
}

/// Somebody in a softirq section, in another thread.
#[pin_data]
struct Reading {
    #[pin]
    entered: Completion,
    left: AtomicBool,
}

impl Reading {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            entered <- Completion::new(),
            left: AtomicBool::new(false),
        })
    }

    /// Stays there for about `ms` milliseconds.
    fn stay_for(&self, ms: u32) {
        in_softirq_section(|| {
            self.entered.complete();
            let end = Deadline::after(ms);
            while !end.passed() {
                core::hint::spin_loop();
            }
            self.left.store(true, Ordering::SeqCst);
        });
    }
}

fn schedule(napi: &NapiRegistration<Probe, Dummy>) {
    in_softirq_section(|| napi.napi().schedule());
}

#[kunit_tests(hv_netvsc_napi)]
mod tests {
    use super::*;

    #[test]
    fn a_context_polls_only_while_it_is_enabled() -> Result {
        let mut bench = Bench::new()?;
        let mut napi = bench.add(0)?;
        assert_eq!(bench.listed(), 1);
        schedule(&napi);
        fsleep(Delta::from_millis(20));
        assert_eq!(get(&bench.seen.polls), 0);
        napi.enable();
        schedule(&napi);
        assert!(bench.polled());
        // Two if the core made up for the one that was not allowed.
        assert!((1..=2).contains(&get(&bench.seen.polls)));
        napi.disable();
        let before = get(&bench.seen.polls);
        schedule(&napi);
        fsleep(Delta::from_millis(20));
        assert_eq!(get(&bench.seen.polls), before);
        napi.enable();
        // Twice does nothing.
        napi.enable();
        schedule(&napi);
        assert!(bench.polled());
        napi.disable();
        assert!(get(&bench.seen.polls) > before);
        assert_eq!(get(&bench.seen.pooled), get(&bench.seen.polls));
        drop(napi);
        assert_eq!((bench.listed(), get(&bench.seen.dropped)), (0, 1));
        Ok(())
    }

    #[test]
    fn more_means_another_poll_at_once() -> Result {
        let mut bench = Bench::new()?;
        let mut napi = bench.add(1)?;
        napi.enable();
        bench.seen.more.store(3, Ordering::Relaxed);
        schedule(&napi);
        assert!(bench.polled());
        assert_eq!((get(&bench.seen.polls), get(&bench.seen.unmasked)), (4, 1));
        assert_eq!(get(&bench.seen.masked), 0);
        Ok(())
    }

    #[test]
    fn what_comes_between_poll_and_unmasking_is_polled_for() -> Result {
        let mut bench = Bench::new()?;
        let mut napi = bench.add(0)?;
        napi.enable();
        bench.seen.late.store(2, Ordering::Relaxed);
        schedule(&napi);
        assert!(bench.polled());
        assert_eq!((get(&bench.seen.polls), get(&bench.seen.unmasked)), (3, 3));
        assert_eq!(get(&bench.seen.masked), 2);
        Ok(())
    }

    #[test]
    fn an_interrupt_masks_first_and_only_if_it_schedules() -> Result {
        let mut bench = Bench::new()?;
        let mut napi = bench.add(0)?;
        let mut prepared = 0;
        in_interrupt_section(|| napi.napi().schedule_irqoff(|| prepared += 1));
        assert_eq!(prepared, 0);
        napi.enable();
        in_interrupt_section(|| {
            napi.napi().schedule_irqoff(|| prepared += 1);
            napi.napi().schedule_irqoff(|| prepared += 1);
        });
        assert!(bench.polled());
        assert_eq!(prepared, 1);
        Ok(())
    }

    #[test]
    fn a_deleted_context_stays_until_its_last_reader_has_gone() -> Result {
        let mut bench = Bench::new()?;
        let (mut first, mut second) = (bench.add(0)?, bench.add(1)?);
        first.enable();
        second.enable();
        let kept = first.napi().clone();
        let deleted = (first.delete(), second.delete());
        assert_eq!((bench.listed(), get(&bench.seen.dropped)), (0, 0));
        // Whoever still holds it may schedule it: nothing happens.
        in_softirq_section(|| kept.schedule());
        drop(deleted);
        assert_eq!(get(&bench.seen.dropped), 1);
        drop(kept);
        assert_eq!((get(&bench.seen.dropped), get(&bench.seen.polls)), (2, 0));
        Ok(())
    }

    #[test]
    fn the_end_of_a_deleted_context_waits_for_whoever_may_still_see_it() -> Result {
        let mut bench = Bench::new()?;
        let napi = bench.add(0)?;
        let reading = Arc::pin_init(Reading::new(), GFP_KERNEL)?;
        let reader = reading.clone();
        workqueue::system_unbound().try_spawn(GFP_KERNEL, move || reader.stay_for(60))?;
        if !reading.entered.wait(Deadline::after(5000)) {
            return Err(ETIMEDOUT);
        }
        drop(napi.delete());
        assert!(reading.left.load(Ordering::SeqCst));
        assert_eq!(get(&bench.seen.dropped), 1);
        Ok(())
    }

    #[test]
    fn there_is_no_context_for_a_queue_that_there_is_not() -> Result {
        let mut bench = Bench::new()?;
        assert_eq!(bench.add(QUEUES).err(), Some(EINVAL));
        assert_eq!(bench.listed(), 0);
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Suite: waiting with a limit: deadlines, completions, and calls that a caller may give up on.

use super::bus::module_references;
use crate::vmbus::{
    bounded::{abandoned, bounded},
    Completion, Deadline,
};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{delay::fsleep, Delta},
    workqueue,
};

fn sleep(ms: i64) {
    fsleep(Delta::from_millis(ms));
}

fn completion() -> Result<Arc<Completion>> {
    Ok(Arc::pin_init(Completion::new(), GFP_KERNEL)?)
}

/// Signals after `ms` milliseconds, from another thread.
fn signal_after(completion: &Arc<Completion>, ms: i64) -> Result {
    let completion = completion.clone();
    workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
        sleep(ms);
        completion.complete();
    })?;
    Ok(())
}

#[kunit_tests(hv_netvsc_waiting)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_and_the_sooner_of_two_counts() -> Result {
        let soon = Deadline::after(20);
        let late = Deadline::after(60_000);
        assert!(!soon.passed() && soon.left() > 0);
        assert!(late.min(soon).left() <= soon.left());
        assert!(soon.min(late).left() <= soon.left());
        sleep(40);
        assert!(soon.passed() && !late.passed());
        assert_eq!(soon.left(), 0);
        // Longer than the clock can tell from the past.
        assert!(!Deadline::after(u32::MAX).passed());
        Ok(())
    }

    #[test]
    fn a_signal_ends_one_wait_and_is_not_lost_before_it() -> Result {
        let completion = completion()?;
        assert!(!completion.try_wait());
        completion.complete();
        assert!(completion.wait(Deadline::after(0)));
        assert!(!completion.wait(Deadline::after(10)));
        completion.complete();
        completion.reset();
        assert!(!completion.try_wait());
        completion.complete_all();
        assert!(completion.wait(Deadline::after(0)) && completion.try_wait());
        Ok(())
    }

    #[test]
    fn a_wait_ends_when_another_thread_signals() -> Result {
        let completion = completion()?;
        signal_after(&completion, 20)?;
        assert!(completion.wait(Deadline::after(10_000)));
        Ok(())
    }

    #[test]
    fn a_call_that_returns_in_time_gives_its_result() -> Result {
        let before = abandoned();
        let late = |_: i32| ();
        assert_eq!(bounded(Deadline::after(10_000), || 42, late), Some(42));
        assert_eq!(abandoned(), before);
        Ok(())
    }

    #[test]
    fn a_call_that_returns_too_late_is_taken_care_of() -> Result {
        let before = abandoned();
        let references = module_references();
        let (gate, done) = (completion()?, completion()?);
        let result = Arc::new(AtomicU32::new(0), GFP_KERNEL)?;
        let (entered, released, cleaned) = (gate.clone(), done.clone(), result.clone());
        let given_up = bounded(
            Deadline::after(30),
            move || {
                entered.wait(Deadline::after(10_000));
                7u32
            },
            move |late| {
                cleaned.store(late, Ordering::Relaxed);
                released.complete();
            },
        );
        assert_eq!(given_up, None);
        assert_eq!(abandoned(), before + 1);
        // The call is code of the module.
        assert_eq!(module_references(), references + 1);
        assert_eq!(result.load(Ordering::Relaxed), 0);
        gate.complete();
        assert!(done.wait(Deadline::after(10_000)));
        assert_eq!(result.load(Ordering::Relaxed), 7);
        for _ in 0..100 {
            if abandoned() == before && module_references() == references {
                break;
            }
            sleep(10);
        }
        assert_eq!((abandoned(), module_references()), (before, references));
        Ok(())
    }

    #[test]
    fn calls_that_block_do_not_hold_up_others() -> Result {
        let gate = completion()?;
        for _ in 0..4 {
            let gate = gate.clone();
            let blocked = bounded(
                Deadline::after(1),
                move || gate.wait(Deadline::after(10_000)),
                |_| (),
            );
            assert_eq!(blocked, None);
        }
        assert_eq!(bounded(Deadline::after(5_000), || 1, |_| ()), Some(1));
        gate.complete_all();
        Ok(())
    }
}

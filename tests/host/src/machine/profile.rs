// SPDX-License-Identifier: GPL-2.0

//! A statistical profile of the guest: while it is on, each virtual processor is interrupted after a fixed
//! amount of CPU time of its thread, and notes where the guest was. A halted processor is left alone.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::signal::SIGRTMIN;

use super::vcpu::thread_clock;

/// A POSIX timer that signals one thread; dropping it ends it.
struct CpuTimer(libc::timer_t);

// SAFETY: a timer's id belongs to the process, and any thread may use it.
unsafe impl Send for CpuTimer {}

impl CpuTimer {
    /// Sends the vCPU signal to thread `id` whenever it has used `period_us` more microseconds.
    fn start(id: i32, period_us: u32) -> io::Result<CpuTimer> {
        let clock = thread_clock(id);
        // SAFETY: all-zero is a valid sigevent; what matters is set below.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_notify_thread_id = id;
        event.sigev_signo = SIGRTMIN();
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are to live values of the types that timer_create takes.
        if unsafe { libc::timer_create(clock, &mut event, &mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let timer = CpuTimer(timer);
        let period = libc::timespec {
            tv_sec: (period_us / 1_000_000).into(),
            tv_nsec: (period_us % 1_000_000 * 1000).into(),
        };
        let times = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the timer exists, `times` lives, and the old value is not asked for.
        if unsafe { libc::timer_settime(timer.0, 0, &times, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(timer)
    }
}

impl Drop for CpuTimer {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `start` and is deleted once. There is nothing to do if it fails.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// The profile of a machine.
#[derive(Default)]
pub struct Profile {
    on: AtomicBool,
    timers: Mutex<Vec<CpuTimer>>,
    /// How often a virtual processor was found at an address.
    samples: Mutex<BTreeMap<u64, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Profile {
    /// Begins anew, for the vCPU threads with these ids.
    ///
    /// # Errors
    ///
    /// If the operating system gives no timer.
    pub fn start(&self, threads: &[i32], period_us: u32) -> io::Result<()> {
        let timers: io::Result<Vec<CpuTimer>> = threads
            .iter()
            .map(|id| CpuTimer::start(*id, period_us))
            .collect();
        *lock(&self.timers) = timers?;
        lock(&self.samples).clear();
        self.on.store(true, Ordering::Release);
        Ok(())
    }

    /// Ends, and returns how often each address was found.
    pub fn finish(&self) -> BTreeMap<u64, u64> {
        self.on.store(false, Ordering::Release);
        lock(&self.timers).clear();
        std::mem::take(&mut *lock(&self.samples))
    }

    /// Whether a processor that was interrupted should say where it is.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// A processor was found at `address`.
    pub fn note(&self, address: u64) {
        *lock(&self.samples).entry(address).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    static SIGNALS: AtomicU32 = AtomicU32::new(0);

    extern "C" fn count(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn a_thread_that_computes_is_signalled_and_one_that_sleeps_is_not() {
        vmm_sys_util::signal::register_signal_handler(SIGRTMIN(), count).unwrap();
        // SAFETY: gettid takes nothing and cannot fail.
        let id = unsafe { libc::gettid() };
        let profile = Profile::default();
        profile.start(&[id], 2000).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(SIGNALS.load(Ordering::Relaxed), 0);
        let began = Instant::now();
        while SIGNALS.load(Ordering::Relaxed) == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "no signal");
        }
        profile.finish();
    }

    #[test]
    fn samples_are_counted_by_address_until_the_profile_ends() {
        let profile = Profile::default();
        profile.start(&[], 1000).unwrap();
        assert!(profile.is_on());
        for address in [0x10, 0x20, 0x10] {
            profile.note(address);
        }
        assert_eq!(profile.finish(), BTreeMap::from([(0x10, 2), (0x20, 1)]));
        assert!(!profile.is_on());
        assert!(profile.finish().is_empty());
    }
}

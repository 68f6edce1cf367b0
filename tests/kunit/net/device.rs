// SPDX-License-Identifier: GPL-2.0

//! Suite: a network device from allocation to release, and what the core calls in between.

use super::dummy::{self, count, Log, Registered, QUEUES, STATISTICS};
use super::{frame, frames};
use crate::bindings;
use crate::net::{Device, SkBuff, TxCell, TxQueueGuard};
use kernel::prelude::*;

fn references<T>(dev: &Device<T>) -> i32 {
    // SAFETY: The device is alive.
    unsafe { bindings::netdev_refcnt_read(dev.as_raw()) }
}

fn up<T>(dev: &Device<T>) -> Result {
    // SAFETY: The device is registered.
    kernel::error::to_result(unsafe { bindings::netvsc_kunit_up(dev.as_raw()) })
}

fn down<T>(dev: &Device<T>) {
    // SAFETY: The device is registered.
    unsafe { bindings::netvsc_kunit_down(dev.as_raw()) };
}

fn send<T>(dev: &Device<T>, skb: SkBuff) -> Result {
    // SAFETY: The device is registered; the frame is given away.
    kernel::error::to_result(unsafe { bindings::netvsc_kunit_send(dev.as_raw(), skb.into_raw()) })
}

fn set_mtu<T>(dev: &Device<T>, mtu: u32) -> Result {
    // SAFETY: The device is registered.
    kernel::error::to_result(unsafe { bindings::netvsc_kunit_set_mtu(dev.as_raw(), mtu) })
}

fn is_locked<T>(dev: &Device<T>, queue: u16) -> bool {
    // SAFETY: The device is alive and has the queue.
    unsafe { bindings::netvsc_kunit_tx_locked(dev.as_raw(), queue) }
}

#[kunit_tests(hv_netvsc_netdev)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_was_never_registered_is_released_once() -> Result {
        let log = Log::new()?;
        let parent = dummy::parent()?;
        let mut device = dummy::device(&parent, &log)?;
        let (dev, _) = device.configure();
        assert_eq!((dev.tx_queues(), dev.rx_queues()), (2, 2));
        assert!(dev.name().is_none() && !dev.is_running());
        assert_eq!(references(dev), 1);
        drop(device);
        assert_eq!((count(&log.released), count(&log.dropped)), (1, 1));
        assert_eq!((count(&log.opened), count(&log.stopped)), (0, 0));
        Ok(())
    }

    #[test]
    fn data_that_cannot_be_made_leaves_no_device() -> Result {
        let log = Log::new()?;
        let parent = dummy::parent()?;
        let failing = crate::net::UniqueDevice::<dummy::Dummy>::new(
            parent.as_ref(),
            QUEUES,
            // SAFETY: Writes nothing and fails.
            unsafe { pin_init::pin_init_from_closure(|_: *mut dummy::Dummy| Err(ENXIO)) },
        );
        assert_eq!(failing.err(), Some(ENXIO));
        assert_eq!(count(&log.dropped), 0);
        Ok(())
    }

    #[test]
    fn a_registered_device_is_stopped_released_and_dropped_in_that_order() -> Result {
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        assert!(device.dev.name().is_some());
        up(&device.dev)?;
        assert!(device.dev.is_running());
        assert_eq!(count(&log.opened), 1);
        let before = references(&device.dev);
        let reference = device.dev.to_ref();
        let another = reference.clone();
        assert_eq!(references(&reference), before + 2);
        drop((reference, another));
        assert_eq!(references(&device.dev), before);
        drop(device);
        assert_eq!((count(&log.stopped), count(&log.released)), (1, 1));
        assert_eq!(count(&log.dropped), 1);
        Ok(())
    }

    #[test]
    fn down_and_up_again_is_told_to_the_driver() -> Result {
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        for round in 1..=2 {
            up(&device.dev)?;
            down(&device.dev);
            assert_eq!((count(&log.opened), count(&log.stopped)), (round, round));
        }
        assert!(!device.dev.is_running());
        Ok(())
    }

    #[test]
    fn a_frame_reaches_the_driver_and_one_turned_away_comes_again() -> Result {
        let before = frames();
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        up(&device.dev)?;
        let earlier = count(&log.sent);
        send(&device.dev, frame(60, 1, 900)?)?;
        for _ in 0..200 {
            if count(&log.sent) > earlier {
                break;
            }
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(10));
        }
        assert!(count(&log.sent) > earlier);
        log.busy.store(3, core::sync::atomic::Ordering::Relaxed);
        let sent = count(&log.sent);
        send(&device.dev, frame(60, 0, 0)?)?;
        for _ in 0..500 {
            if count(&log.busy) == 0 && count(&log.sent) > sent {
                break;
            }
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(10));
        }
        assert_eq!(count(&log.busy), 0);
        assert!(count(&log.sent) > sent);
        drop(device);
        assert_eq!(frames(), before);
        Ok(())
    }

    #[test]
    fn limits_and_refusals_of_the_mtu_leave_it_as_it_was() -> Result {
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        set_mtu(&device.dev, 4000)?;
        assert_eq!(device.dev.mtu(), 4000);
        assert_eq!(set_mtu(&device.dev, 1234), Err(EIO));
        assert_eq!(set_mtu(&device.dev, 99), Err(EINVAL));
        assert_eq!(set_mtu(&device.dev, 9001), Err(EINVAL));
        assert_eq!(device.dev.mtu(), 4000);
        Ok(())
    }

    #[test]
    fn totals_are_the_drivers() -> Result {
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        let mut stats = bindings::rtnl_link_stats64::default();
        // SAFETY: The device is registered; `stats` is ours.
        unsafe { bindings::netvsc_kunit_stats(device.dev.as_raw(), &mut stats) };
        assert_eq!((stats.rx_dropped, stats.multicast), (11, 12));
        assert_eq!(stats.tx_packets, u64::from(count(&log.sent)));
        Ok(())
    }

    #[test]
    fn statistics_have_as_many_names_and_values_as_announced() -> Result {
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        let mut names = [0xffu8; 32 * (STATISTICS + 1)];
        let mut values = [u64::MAX; STATISTICS + 1];
        // SAFETY: Both have room for so many.
        let counted = unsafe {
            bindings::netvsc_kunit_statistics(
                device.dev.as_raw(),
                names.as_mut_ptr(),
                values.as_mut_ptr(),
                STATISTICS as u32,
            )
        };
        assert_eq!(counted, STATISTICS as i32);
        let name = |index: usize| CStr::from_bytes_until_nul(&names[index * 32..]).ok();
        assert_eq!(name(0), Some(c"first_1"));
        assert_eq!(name(1), Some(c"a_name_that_is_longer_than_a_st"));
        assert_eq!(name(2), Some(c"third"));
        assert!(names[32 * STATISTICS..].iter().all(|byte| *byte == 0xff));
        assert_eq!(values, [1, 2, 3, u64::MAX]);
        Ok(())
    }

    #[test]
    fn work_is_done_under_rtnl_and_only_while_registered() -> Result {
        let log = Log::new()?;
        let parent = dummy::parent()?;
        let mut device = dummy::device(&parent, &log)?;
        device.configure().0.schedule_work(8);
        let registered = device.register()?;
        registered.schedule_work(5);
        for _ in 0..200 {
            if count(&log.worked) != 0 {
                break;
            }
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(10));
        }
        assert_eq!(count(&log.worked), 5);
        drop(registered);
        Ok(())
    }

    #[test]
    fn a_transmit_queues_state_is_its_lock_holders_only() -> Result {
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        let dev: &Device<_> = &device.dev;
        let cell = TxCell::new(dev, 1, 5u32);
        assert!(TxQueueGuard::lock(dev, QUEUES).is_none());
        let mut other = TxQueueGuard::lock(dev, 0).ok_or(EINVAL)?;
        let refused = cell.get(&mut other).is_none();
        drop(other);
        assert!(refused);
        let mut guard = TxQueueGuard::lock(dev, 1).ok_or(EINVAL)?;
        let locked = (is_locked(dev, 1), is_locked(dev, 0));
        let value = cell.get(&mut guard).map(|(value, _)| {
            *value += 1;
            *value
        });
        drop(guard);
        assert_eq!(locked, (true, false));
        assert_eq!(value, Some(6));
        assert!(!is_locked(dev, 1));
        Ok(())
    }

    #[test]
    fn a_queue_is_stopped_and_woken_alone() -> Result {
        let log = Log::new()?;
        let device = Registered::new(&log)?;
        let dev: &Device<_> = &device.dev;
        up(dev)?;
        dev.stop_queue(1);
        assert!(dev.queue_stopped(1) && !dev.queue_stopped(0));
        dev.wake_queue(1);
        assert!(!dev.queue_stopped(1));
        dev.tx_disable();
        assert!(dev.queue_stopped(0) && dev.queue_stopped(1));
        dev.tx_wake_all();
        assert!(!dev.queue_stopped(0) && !dev.queue_stopped(1));
        // There is no such queue: nothing happens.
        dev.stop_queue(QUEUES);
        assert!(!dev.queue_stopped(QUEUES));
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Suite: `ethtool -S` of the driver. The names and their order are an interface: what the C driver has comes first and
//! as it has it, what is ours behind.

use super::attach::Machine;
use crate::bindings;
use crate::{cpu_traffic::CpuTraffic, stats::QueueStats};
use kernel::prelude::*;

/// More than there are with one channel and the few processors of the test machine.
const MOST: usize = 128;

/// The C driver's counters of the interface.
const FIXED: [&str; 16] = [
    "tx_scattered",
    "tx_no_memory",
    "tx_no_space",
    "tx_too_big",
    "tx_busy",
    "tx_send_full",
    "rx_comp_busy",
    "rx_no_memory",
    "stop_queue",
    "wake_queue",
    "vlan_error",
    "vf_rx_packets",
    "vf_rx_bytes",
    "vf_tx_packets",
    "vf_tx_bytes",
    "vf_tx_dropped",
];

/// Its counters of queue 0.
const QUEUE: [&str; 8] = [
    "tx_queue_0_packets",
    "tx_queue_0_bytes",
    "tx_queue_0_xdp_xmit",
    "rx_queue_0_packets",
    "rx_queue_0_bytes",
    "rx_queue_0_xdp_drop",
    "rx_queue_0_xdp_redirect",
    "rx_queue_0_xdp_tx",
];

/// Its counters of CPU 0.
const CPU: [&str; 8] = [
    "cpu0_rx_packets",
    "cpu0_rx_bytes",
    "cpu0_tx_packets",
    "cpu0_tx_bytes",
    "cpu0_vf_rx_packets",
    "cpu0_vf_rx_bytes",
    "cpu0_vf_tx_packets",
    "cpu0_vf_tx_bytes",
];

/// What ethtool would print.
struct Printed {
    names: KVec<u8>,
    values: KVec<u64>,
    count: usize,
}

impl Printed {
    fn new(machine: &Machine) -> Result<Self> {
        let mut names = KVec::from_elem(0xffu8, 32 * MOST, GFP_KERNEL)?;
        let mut values = KVec::from_elem(u64::MAX, MOST, GFP_KERNEL)?;
        // SAFETY: Both have room for so many; the device is registered.
        let count = unsafe {
            bindings::netvsc_kunit_statistics(
                machine.netdev.as_raw(),
                names.as_mut_ptr(),
                values.as_mut_ptr(),
                MOST as u32,
            )
        };
        Ok(Self {
            names,
            values,
            count: usize::try_from(count).map_err(|_| Error::from_errno(count))?,
        })
    }

    fn name(&self, index: usize) -> Option<&str> {
        let name = self.names.get(index * 32..index * 32 + 32)?;
        CStr::from_bytes_until_nul(name).ok()?.to_str().ok()
    }

    fn value(&self, name: &str) -> Option<u64> {
        let index = (0..self.count).find(|index| self.name(*index) == Some(name))?;
        self.values.get(index).copied()
    }
}

#[kunit_tests(hv_netvsc_statistics)]
mod tests {
    use super::super::host::Script;
    use super::*;

    #[test]
    fn names_are_those_of_the_c_driver_in_its_order() -> Result {
        let machine = Machine::new(Script::default())?;
        let printed = Printed::new(&machine)?;
        for (index, name) in [&FIXED[..], &QUEUE, &CPU].into_iter().flatten().enumerate() {
            assert_eq!(printed.name(index), Some(*name));
        }
        Ok(())
    }

    #[test]
    fn there_are_as_many_names_and_values_as_announced() -> Result {
        let machine = Machine::new(Script::default())?;
        let printed = Printed::new(&machine)?;
        assert!(printed.count > FIXED.len() + QUEUE.len() + CPU.len());
        assert!(printed.count < MOST);
        for index in 0..printed.count {
            let name = printed.name(index).ok_or(EINVAL)?;
            let known = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            assert!(!name.is_empty() && known);
            let earlier = (0..index).any(|other| printed.name(other) == Some(name));
            assert!(!earlier);
            assert!(printed.values[index] != u64::MAX);
        }
        assert!(printed.name(printed.count).is_none());
        assert_eq!(printed.values[printed.count], u64::MAX);
        Ok(())
    }

    #[test]
    fn what_a_queue_has_carried_stays_with_the_cpu_that_it_was_carried_by() -> Result {
        let queues = [QueueStats::default(), QueueStats::default()];
        let mut traffic = CpuTraffic::new(2, &[0, 3])?;
        let mut received = |cpu_of: &dyn Fn(u16) -> Option<u32>| {
            traffic.look(queues.iter(), cpu_of);
            let mut packets = traffic.cpus().map(|carried| carried[0]);
            (packets.next(), packets.next())
        };
        queues[0].poll.rx_packets.add(5);
        queues[1].poll.rx_packets.add(7);
        // Nobody knows yet whose they are.
        assert_eq!(received(&|_| None), (Some(0), Some(0)));
        assert_eq!(received(&|_| Some(3)), (Some(0), Some(12)));
        // One channel moves, the other is closed.
        queues[0].poll.rx_packets.add(1);
        queues[1].poll.rx_packets.add(2);
        let moved = |index| (index == 0).then_some(0);
        assert_eq!(received(&moved), (Some(1), Some(14)));
        assert_eq!(received(&|_| None), (Some(1), Some(14)));
        Ok(())
    }

    #[test]
    fn what_is_refused_shows_in_its_counter() -> Result {
        let machine = Machine::new(Script::default())?;
        machine.up()?;
        assert_eq!(Printed::new(&machine)?.value("rx_bad_packet"), Some(0));
        assert!(machine.host.indicate(&[1, 0, 0, 0, 9], 0));
        for _ in 0..500 {
            if machine.host.completed().1 == 1 {
                break;
            }
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(5));
        }
        let printed = Printed::new(&machine)?;
        assert_eq!(printed.value("rx_bad_packet"), Some(1));
        assert_eq!(printed.value("no_such_counter"), None);
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! `ethtool -S`: names and order of the C driver, which operators and test suites match on. What is new
//! comes after them.

use crate::device::Adapter;
use crate::net::{
    ethtool::{Strings, Values},
    Device, Rtnl,
};
use crate::stats::{Counter, QueueStats};

/// A counter summed over all queues.
struct Total {
    name: &'static str,
    of: fn(&QueueStats) -> &Counter,
}

/// The C driver's interface-wide counters.
const TOTALS: [Total; 11] = [
    Total {
        name: "tx_scattered",
        of: |queue| &queue.tx.scattered,
    },
    Total {
        name: "tx_no_memory",
        of: |queue| &queue.tx.no_memory,
    },
    Total {
        name: "tx_no_space",
        of: |queue| &queue.tx.no_space,
    },
    Total {
        name: "tx_too_big",
        of: |queue| &queue.tx.too_big,
    },
    Total {
        name: "tx_busy",
        of: |queue| &queue.tx.busy,
    },
    Total {
        name: "tx_send_full",
        of: |queue| &queue.tx.send_full,
    },
    Total {
        name: "rx_comp_busy",
        of: |queue| &queue.poll.rx_comp_busy,
    },
    Total {
        name: "rx_no_memory",
        of: |queue| &queue.poll.rx_no_memory,
    },
    Total {
        name: "stop_queue",
        of: |queue| &queue.tx.stop_queue,
    },
    Total {
        name: "wake_queue",
        of: |queue| &queue.poll.wake_queue,
    },
    Total {
        name: "vlan_error",
        of: |queue| &queue.tx.vlan_error,
    },
];

/// Counters that the C driver does not have.
const OURS: [Total; 8] = [
    Total {
        name: "rx_bad_packet",
        of: |queue| &queue.poll.rx_bad,
    },
    Total {
        name: "bad_completion",
        of: |queue| &queue.poll.bad_completions,
    },
    Total {
        name: "tx_refused",
        of: |queue| &queue.poll.tx_errors,
    },
    Total {
        name: "tx_lost",
        of: |queue| &queue.poll.tx_lost,
    },
    Total {
        name: "rx_lro_packets",
        of: |queue| &queue.poll.rx_lro_packets,
    },
    Total {
        name: "rx_lro_pieces",
        of: |queue| &queue.poll.rx_lro_pieces,
    },
    Total {
        name: "rx_lro_bad",
        of: |queue| &queue.poll.rx_lro_bad,
    },
    Total {
        name: "tx_timeout",
        of: |queue| &queue.tx.timeouts,
    },
];

/// Counters of the virtual function: there is none, so they stay zero.
const VF: [&str; 5] = [
    "vf_rx_packets",
    "vf_rx_bytes",
    "vf_tx_packets",
    "vf_tx_bytes",
    "vf_tx_dropped",
];

/// Per-queue counters.
const TX_QUEUE: [&str; 3] = ["packets", "bytes", "xdp_xmit"];
const RX_QUEUE: [&str; 5] = ["packets", "bytes", "xdp_drop", "xdp_redirect", "xdp_tx"];

/// Per-CPU counters.
const CPU: [&str; 8] = [
    "rx_packets",
    "rx_bytes",
    "tx_packets",
    "tx_bytes",
    "vf_rx_packets",
    "vf_rx_bytes",
    "vf_tx_packets",
    "vf_tx_bytes",
];

fn channels(dev: &Device<Adapter>) -> usize {
    let control = dev.control.lock();
    control
        .attachment
        .as_ref()
        .map_or(0, |attachment| attachment.channels().into())
}

/// Number of statistics.
pub(super) fn count(dev: &Device<Adapter>) -> usize {
    const PER_QUEUE: usize = TX_QUEUE.len() + RX_QUEUE.len();
    const FIXED: usize = TOTALS.len() + VF.len() + OURS.len();
    FIXED
        .wrapping_add(channels(dev).wrapping_mul(PER_QUEUE))
        .wrapping_add(dev.cpus().len().wrapping_mul(CPU.len()))
}

/// Their names.
pub(super) fn names(dev: &Device<Adapter>, names: &mut Strings<'_>) {
    for total in &TOTALS {
        names.put(format_args!("{}", total.name));
    }
    for name in VF {
        names.put(format_args!("{name}"));
    }
    for queue in 0..channels(dev) {
        for name in TX_QUEUE {
            names.put(format_args!("tx_queue_{queue}_{name}"));
        }
        for name in RX_QUEUE {
            names.put(format_args!("rx_queue_{queue}_{name}"));
        }
    }
    for &cpu in dev.cpus() {
        for name in CPU {
            names.put(format_args!("cpu{cpu}_{name}"));
        }
    }
    for total in &OURS {
        names.put(format_args!("{}", total.name));
    }
}

/// Their values.
pub(super) fn values(dev: &Device<Adapter>, rtnl: &Rtnl, values: &mut Values<'_>) {
    put_totals(dev, &TOTALS, values);
    for _ in VF {
        values.put(0);
    }
    for queue in dev.queue_stats().take(channels(dev)) {
        values.put(queue.poll.tx_packets.get());
        values.put(queue.poll.tx_bytes.get());
        values.put(queue.tx.xdp_xmit.get());
        values.put(queue.poll.rx_packets.get());
        values.put(queue.poll.rx_bytes.get());
        values.put(queue.poll.xdp_drop.get());
        values.put(queue.poll.xdp_redirect.get());
        values.put(queue.poll.xdp_tx.get());
    }
    put_cpus(dev, rtnl, values);
    put_totals(dev, &OURS, values);
}

fn put_totals(dev: &Device<Adapter>, totals: &[Total], values: &mut Values<'_>) {
    for total in totals {
        let sum = dev
            .queue_stats()
            .fold(0u64, |sum, queue| sum.wrapping_add((total.of)(queue).get()));
        values.put(sum);
    }
}

/// The traffic of each CPU.
fn put_cpus(dev: &Device<Adapter>, rtnl: &Rtnl, values: &mut Values<'_>) {
    let control = dev.control.lock();
    let attachment = control.attachment.as_ref();
    dev.count_traffic(|index| attachment?.target_cpu(&rtnl.into(), index.into()));
    let traffic = dev.traffic.lock();
    for carried in traffic.cpus() {
        for count in carried {
            values.put(*count);
        }
        for _ in carried.len()..CPU.len() {
            values.put(0);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How many processors there are.

use super::SoftIrq;
use crate::bindings;
use kernel::cpu::CpuId;

/// One more than the largest CPU number.
pub(crate) fn id_limit() -> u32 {
    // SAFETY: Does not change after boot.
    unsafe { bindings::nr_cpu_ids }
}

/// Whether CPU `cpu` is plugged in.
pub(crate) fn is_present(cpu: u32) -> bool {
    // SAFETY: The number is one that the mask has.
    cpu < id_limit() && unsafe { bindings::cpu_present(cpu) }
}

/// The CPU that the caller runs on, which does not change in a softirq section.
pub(crate) fn current(_section: SoftIrq<'_>) -> u32 {
    CpuId::current().as_u32()
}

/// CPUs online now.
pub(crate) fn online() -> u16 {
    // SAFETY: No preconditions.
    let count = unsafe { bindings::num_online_cpus() };
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// How many queues the kernel suggests for a multi-queue device.
pub(crate) fn default_queues() -> u32 {
    // SAFETY: No preconditions.
    let queues = unsafe { bindings::netif_get_num_default_rss_queues() };
    queues.unsigned_abs()
}

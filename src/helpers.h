/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C side of vmbus/ (kernel half) and the module parameters; see the comments in helpers.c for why each
 * of these must be C.
 */
#ifndef NETVSC_HELPERS_H
#define NETVSC_HELPERS_H

#include <linux/hyperv.h>

extern unsigned int netvsc_ring_size;
extern int netvsc_debug;

void netvsc_channel_prepare(struct vmbus_channel *channel, u32 max_packet);
void netvsc_channel_detach(struct vmbus_channel *channel);

unsigned long netvsc_spin_lock_irqsave(spinlock_t *lock);

struct workqueue_struct *netvsc_alloc_workqueue(void);

#endif /* NETVSC_HELPERS_H */

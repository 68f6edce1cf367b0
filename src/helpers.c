// SPDX-License-Identifier: GPL-2.0
/*
 * C side of vmbus/ (kernel half) and the module parameters: macros, and fields whose locks Rust cannot take.
 */
#include <linux/hyperv.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/workqueue.h>

#include "helpers.h"

/*
 * Parameters of the same names and types as the in-tree driver's. Rust's module! macro knows neither
 * C's type names nor permissions other than 0, so they are declared here.
 */
unsigned int netvsc_ring_size = 128;
module_param_named(ring_size, netvsc_ring_size, uint, 0444);
MODULE_PARM_DESC(ring_size, "Ring buffer size in each direction, in pages of 4096 bytes");

int netvsc_debug = -1;
module_param_named(debug, netvsc_debug, int, 0444);
MODULE_PARM_DESC(debug, "Message level: number of kinds of messages shown, 0 none, 16 all (-1: default)");

/**
 * netvsc_channel_prepare - make a closed channel ready to be opened by this driver
 * @channel: closed channel
 * @max_packet: largest packet that can be received, in bytes
 *
 * The channel outlives drivers. Its requestor still points at memory that hv_vmbus freed when an
 * earlier driver's channel was closed, and hv_vmbus frees it once more when an open without
 * requestor fails or is closed: forget it. C because the fields are set together or not at all, in one
 * place that a reader can compare with struct vmbus_channel.
 */
void netvsc_channel_prepare(struct vmbus_channel *channel, u32 max_packet)
{
	memset(&channel->requestor, 0, sizeof(channel->requestor));
	channel->rqstor_size = 0;
	channel->next_request_id_callback = NULL;
	channel->request_addr_callback = NULL;
	channel->max_pkt_size = max_packet;
	set_channel_read_mode(channel, HV_CALL_ISR);
}

/**
 * netvsc_channel_detach - stop interrupts from reaching the channel's callback
 * @channel: channel whose open failed, or sub-channel that is no longer used
 *
 * hv_vmbus runs the callback under sched_lock: when this returns, the callback does not run and will
 * not run again. hv_vmbus does the same on close, but not when an open fails, and it closes
 * sub-channels only together with the primary. C because of the irqsave lock.
 */
void netvsc_channel_detach(struct vmbus_channel *channel)
{
	unsigned long flags;

	spin_lock_irqsave(&channel->sched_lock, flags);
	channel->onchannel_callback = NULL;
	spin_unlock_irqrestore(&channel->sched_lock, flags);
}

/* netvsc_spin_lock_irqsave - take a lock of hv_vmbus. C because it is a macro. Return: for spin_unlock_irqrestore(). */
unsigned long netvsc_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

/**
 * netvsc_alloc_workqueue - a work queue for calls that may wait for the host for ever
 *
 * Unbound, as the calls block, and of many threads, as one that blocks must not hold up the others. Of high
 * priority: the interface is down until they are done, while the machine may be busy with traffic.
 *
 * Return: the queue, or NULL. C because of the variable arguments.
 */
struct workqueue_struct *netvsc_alloc_workqueue(void)
{
	return alloc_workqueue("hv_netvsc", WQ_UNBOUND | WQ_HIGHPRI, WQ_MAX_ACTIVE);
}

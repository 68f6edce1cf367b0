// SPDX-License-Identifier: GPL-2.0
/*
 * C side of vmbus/ (kernel half) and the module parameters: macros, inline functions and fields whose
 * locks Rust cannot take.
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

/**
 * netvsc_begin_read - ask the host not to interrupt for new packets
 * @channel: open channel
 *
 * C because of the barrier, which must be the one that hv_vmbus uses.
 */
void netvsc_begin_read(struct vmbus_channel *channel)
{
	hv_begin_read(&channel->inbound);
}

/**
 * netvsc_end_read - let the host interrupt again
 * @channel: open channel
 *
 * Return: bytes that wait in the ring although the host may not have interrupted for them. C for the
 * same reason as netvsc_begin_read().
 */
u32 netvsc_end_read(struct vmbus_channel *channel)
{
	return hv_end_read(&channel->inbound);
}

/**
 * netvsc_pfn - number of the 4 KiB guest page that holds an address
 * @addr: address in the linear map or in vmalloc space
 */
u64 netvsc_pfn(const void *addr)
{
	return virt_to_hvpfn((void *)addr);
}

/**
 * netvsc_copy_shared - copy to or from memory that the host can change at any time
 * @to: destination
 * @from: source
 * @len: bytes
 *
 * C, and not inline, so that no compiler can read the source again through the destination.
 */
noinline void netvsc_copy_shared(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
	barrier();
}

/**
 * netvsc_synchronize_arrivals - wait until no sub-channel callback can be running
 *
 * hv_vmbus reads and calls a primary's sub-channel callback on a work queue without a lock and without
 * a reference to the module. The callback never sleeps; so once every task has slept or left the
 * kernel of its own accord since the callback was taken back, nobody is in it or on the way to it.
 */
void netvsc_synchronize_arrivals(void)
{
	synchronize_rcu_tasks();
}

/**
 * netvsc_alloc_workqueue - a work queue for calls that may wait for the host for ever
 *
 * Unbound, as the calls block, and of many threads, as one that blocks must not hold up the others.
 *
 * Return: the queue, or NULL. C because of the variable arguments.
 */
struct workqueue_struct *netvsc_alloc_workqueue(void)
{
	return alloc_workqueue("hv_netvsc", WQ_UNBOUND, WQ_MAX_ACTIVE);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * See bus.h.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "bus.h"

struct test_device {
	struct hv_device hv;
	struct vmbus_channel channel;
	struct netvsc_kunit_host host;
	/* Held while somebody is at the rings or the list of sub-channels, so that they do not go away. */
	struct mutex lock;
	struct list_head subchannels;
};

/* A sub-channel; its kobject counts who refers to it. */
struct test_subchannel {
	struct vmbus_channel channel;
	struct list_head node;
};

static atomic_t devices;
static atomic_t subchannels;

static struct test_device *of_channel(struct vmbus_channel *channel)
{
	if (channel->primary_channel)
		channel = channel->primary_channel;
	return container_of(channel, struct test_device, channel);
}

static struct test_device *of_device(struct hv_device *hv)
{
	return container_of(hv, struct test_device, hv);
}

static void channel_init(struct vmbus_channel *channel)
{
	channel->state = CHANNEL_OPEN_STATE;
	/* Signals go by hypercall, which fails without any effect, not by pages that are not there. */
	channel->is_dedicated_interrupt = true;
	INIT_LIST_HEAD(&channel->sc_list);
	spin_lock_init(&channel->sched_lock);
	spin_lock_init(&channel->outbound.ring_lock);
	spin_lock_init(&channel->inbound.ring_lock);
	mutex_init(&channel->outbound.ring_buffer_mutex);
	mutex_init(&channel->inbound.ring_buffer_mutex);
}

static void device_released(struct device *dev)
{
	struct test_device *this = container_of(dev, struct test_device, hv.device);

	WARN_ON(this->channel.outbound.ring_buffer || this->channel.inbound.ring_buffer);
	WARN_ON(!list_empty(&this->subchannels));
	atomic_dec(&devices);
	kfree(this);
}

/**
 * netvsc_kunit_device_new - a device with a closed primary channel
 *
 * Return: the device, to be ended by netvsc_kunit_device_remove() or NULL.
 */
struct hv_device *netvsc_kunit_device_new(void)
{
	struct test_device *this = kzalloc(sizeof(*this), GFP_KERNEL);
	static atomic_t number;

	if (!this)
		return NULL;
	device_initialize(&this->hv.device);
	this->hv.device.release = device_released;
	atomic_inc(&devices);
	this->hv.channel = &this->channel;
	this->channel.device_obj = &this->hv;
	channel_init(&this->channel);
	mutex_init(&this->lock);
	INIT_LIST_HEAD(&this->subchannels);
	if (dev_set_name(&this->hv.device, "netvsc-kunit-%d", atomic_inc_return(&number)) ||
	    device_add(&this->hv.device)) {
		put_device(&this->hv.device);
		return NULL;
	}
	return &this->hv;
}

/* netvsc_kunit_device_remove - takes the device away; whoever refers to it keeps its memory */
void netvsc_kunit_device_remove(struct hv_device *hv)
{
	device_del(&hv->device);
	put_device(&hv->device);
}

struct netvsc_kunit_host *netvsc_kunit_host_of(struct hv_device *hv)
{
	return &of_device(hv)->host;
}

/* netvsc_kunit_devices - devices whose memory somebody still refers to */
int netvsc_kunit_devices(void)
{
	return atomic_read(&devices);
}

/* netvsc_kunit_interrupt - what hv_vmbus does when the host signals a channel of ISR mode */
void netvsc_kunit_interrupt(struct vmbus_channel *channel)
{
	void (*callback)(void *context);
	unsigned long flags;

	local_bh_disable();
	spin_lock_irqsave(&channel->sched_lock, flags);
	callback = channel->onchannel_callback;
	if (callback)
		callback(channel->channel_callback_context);
	spin_unlock_irqrestore(&channel->sched_lock, flags);
	local_bh_enable();
}

/* netvsc_kunit_rings_hold - channel @index if it is open, whose rings stay until the release; or NULL */
struct vmbus_channel *netvsc_kunit_rings_hold(struct hv_device *hv, u32 index)
{
	struct test_device *this = of_device(hv);
	struct vmbus_channel *channel = index ? NULL : &this->channel;
	struct test_subchannel *sub;

	mutex_lock(&this->lock);
	list_for_each_entry(sub, &this->subchannels, node)
		if (index && sub->channel.offermsg.offer.sub_channel_index == index)
			channel = &sub->channel;
	if (channel && channel->state == CHANNEL_OPENED_STATE)
		return channel;
	mutex_unlock(&this->lock);
	return NULL;
}

void netvsc_kunit_rings_release(struct hv_device *hv)
{
	mutex_unlock(&of_device(hv)->lock);
}

static void subchannel_released(struct kobject *kobj)
{
	struct test_subchannel *sub = container_of(kobj, struct test_subchannel, channel.kobj);

	WARN_ON(sub->channel.outbound.ring_buffer);
	atomic_dec(&subchannels);
	kfree(sub);
}

static const struct kobj_type subchannel_type = { .release = subchannel_released };

/**
 * netvsc_kunit_offer - a new sub-channel of an open primary, of which the driver is told
 * @hv: device, whose rings are held
 * @index: sub-channel index, as the host says it
 */
int netvsc_kunit_offer(struct hv_device *hv, u16 index)
{
	struct test_device *this = of_device(hv);
	struct test_subchannel *sub = kzalloc(sizeof(*sub), GFP_KERNEL);
	void (*arrived)(struct vmbus_channel *channel) = READ_ONCE(this->channel.sc_creation_callback);

	if (!sub)
		return -ENOMEM;
	channel_init(&sub->channel);
	sub->channel.primary_channel = &this->channel;
	sub->channel.device_obj = hv;
	sub->channel.offermsg.offer.sub_channel_index = index;
	kobject_init(&sub->channel.kobj, &subchannel_type);
	atomic_inc(&subchannels);
	list_add_tail(&sub->node, &this->subchannels);
	if (arrived)
		arrived(&sub->channel);
	return 0;
}

/* netvsc_kunit_subchannels - those whose memory somebody still refers to */
int netvsc_kunit_subchannels(void)
{
	return atomic_read(&subchannels);
}

/* Its data is mapped twice in a row, as hv_vmbus does. */
static int ring_make(struct hv_ring_buffer_info *ring, u32 bytes, u32 max_packet)
{
	u32 count = bytes >> PAGE_SHIFT, made, i;
	struct page **pages = kcalloc(2 * count, sizeof(*pages), GFP_KERNEL);

	if (!pages)
		return -ENOMEM;
	ring->pkt_buffer = kzalloc(max_packet, GFP_KERNEL);
	for (made = 0; ring->pkt_buffer && made < count; made++) {
		pages[made] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!pages[made])
			break;
	}
	if (made == count) {
		for (i = 1; i < count; i++)
			pages[count - 1 + i] = pages[i];
		ring->ring_buffer = vmap(pages, 2 * count - 1, VM_MAP, PAGE_KERNEL);
	}
	if (!ring->ring_buffer) {
		while (made)
			__free_page(pages[--made]);
		kfree(ring->pkt_buffer);
		ring->pkt_buffer = NULL;
		kfree(pages);
		return -ENOMEM;
	}
	kfree(pages);
	ring->pkt_buffer_size = max_packet;
	ring->ring_size = bytes;
	ring->ring_datasize = bytes - sizeof(struct hv_ring_buffer);
	ring->priv_read_index = 0;
	ring->ring_buffer->feature_bits.value = 1;
	return 0;
}

static void ring_free(struct hv_ring_buffer_info *ring)
{
	u32 count = ring->ring_size >> PAGE_SHIFT, i;
	struct page **pages = kcalloc(count, sizeof(*pages), GFP_KERNEL | __GFP_NOFAIL);

	for (i = 0; i < count; i++)
		pages[i] = vmalloc_to_page((void *)ring->ring_buffer + i * PAGE_SIZE);
	vunmap(ring->ring_buffer);
	for (i = 0; i < count; i++)
		__free_page(pages[i]);
	kfree(pages);
	ring->ring_buffer = NULL;
	kfree(ring->pkt_buffer);
	ring->pkt_buffer = NULL;
}

/* In place of vmbus_open(). */
int netvsc_kunit_open(struct vmbus_channel *channel, u32 send_bytes, u32 receive_bytes,
		      void *userdata, u32 userdata_len, void (*callback)(void *context),
		      void *context)
{
	struct netvsc_kunit_host *host = &of_channel(channel)->host;
	int err;

	if (host->open_error)
		return host->open_error;
	if (channel->state != CHANNEL_OPEN_STATE)
		return -EINVAL;
	err = ring_make(&channel->outbound, send_bytes, channel->max_pkt_size);
	if (err)
		return err;
	err = ring_make(&channel->inbound, receive_bytes, channel->max_pkt_size);
	if (err) {
		ring_free(&channel->outbound);
		return err;
	}
	channel->onchannel_callback = callback;
	channel->channel_callback_context = context;
	mutex_lock(&of_channel(channel)->lock);
	channel->state = CHANNEL_OPENED_STATE;
	host->opened += !channel->primary_channel;
	mutex_unlock(&of_channel(channel)->lock);
	return 0;
}

/* A host reads what was sent before the close message. */
static void drain(struct vmbus_channel *channel)
{
	const u32 *indices = (const void *)channel->outbound.ring_buffer;
	int i;

	for (i = 0; i < 2000 && of_channel(channel)->host.running; i++) {
		if (READ_ONCE(indices[0]) == READ_ONCE(indices[1]))
			break;
		usleep_range(500, 1000);
	}
}

/* The host takes the sub-channels of a primary away that is closed. */
static void subchannels_remove(struct test_device *this)
{
	struct test_subchannel *sub, *next;

	list_for_each_entry_safe(sub, next, &this->subchannels, node) {
		WARN_ON(sub->channel.onchannel_callback);
		sub->channel.rescind = true;
		if (sub->channel.state == CHANNEL_OPENED_STATE) {
			ring_free(&sub->channel.outbound);
			ring_free(&sub->channel.inbound);
			sub->channel.state = CHANNEL_OPEN_STATE;
		}
		list_del(&sub->node);
		kobject_put(&sub->channel.kobj);
	}
}

/* In place of vmbus_close(), of a primary. */
void netvsc_kunit_close(struct vmbus_channel *channel)
{
	struct test_device *this = of_channel(channel);
	unsigned long flags;

	spin_lock_irqsave(&channel->sched_lock, flags);
	channel->onchannel_callback = NULL;
	spin_unlock_irqrestore(&channel->sched_lock, flags);
	channel->sc_creation_callback = NULL;
	if (WARN_ON(channel->state != CHANNEL_OPENED_STATE || channel->primary_channel))
		return;
	drain(channel);
	mutex_lock(&this->lock);
	subchannels_remove(this);
	ring_free(&channel->outbound);
	ring_free(&channel->inbound);
	channel->state = CHANNEL_OPEN_STATE;
	this->host.closed++;
	mutex_unlock(&this->lock);
}

/* In place of vmbus_establish_gpadl(). */
int netvsc_kunit_establish_gpadl(struct vmbus_channel *channel, void *buffer, u32 len,
				 struct vmbus_gpadl *gpadl)
{
	struct netvsc_kunit_host *host = &of_channel(channel)->host;
	unsigned int i;

	if (host->gpadl_error) {
		host->refused = buffer;
		return host->gpadl_error;
	}
	for (i = 0; i < NETVSC_KUNIT_GPADLS; i++) {
		struct netvsc_kunit_gpadl *place = &host->gpadls[i];

		if (place->handle)
			continue;
		place->start = buffer;
		place->len = len;
		place->handle = ++host->last_handle;
		gpadl->gpadl_handle = place->handle;
		gpadl->buffer = buffer;
		gpadl->size = len;
		gpadl->decrypted = false;
		return 0;
	}
	return -ENOSPC;
}

/* In place of vmbus_teardown_gpadl(). */
int netvsc_kunit_teardown_gpadl(struct vmbus_channel *channel, struct vmbus_gpadl *gpadl)
{
	struct netvsc_kunit_host *host = &of_channel(channel)->host;
	unsigned int i;

	for (i = 0; i < NETVSC_KUNIT_GPADLS; i++) {
		struct netvsc_kunit_gpadl *place = &host->gpadls[i];

		if (!place->handle || place->handle != gpadl->gpadl_handle)
			continue;
		/* As C does when it could not post the message. */
		if (host->keeps_gpadls)
			return 0;
		memset(place, 0, sizeof(*place));
		gpadl->gpadl_handle = 0;
		return 0;
	}
	WARN(1, "GPADL %u is not there to be torn down", gpadl->gpadl_handle);
	return -EINVAL;
}

/*
 * Frees what the driver leaked because the host may still use it: buffers that are still shared, and the one
 * refused last. Returns how many there were.
 */
int netvsc_kunit_free_leaked(struct hv_device *hv)
{
	struct netvsc_kunit_host *host = netvsc_kunit_host_of(hv);
	unsigned int i;
	int count = 0;

	for (i = 0; i < NETVSC_KUNIT_GPADLS; i++) {
		struct netvsc_kunit_gpadl *place = &host->gpadls[i];

		if (!place->handle)
			continue;
		vfree(place->start);
		memset(place, 0, sizeof(*place));
		count++;
	}
	if (host->refused) {
		vfree(host->refused);
		host->refused = NULL;
		count++;
	}
	return count;
}

/* Who keeps the module from being unloaded. */
int netvsc_kunit_module_references(void)
{
	return module_refcount(THIS_MODULE);
}

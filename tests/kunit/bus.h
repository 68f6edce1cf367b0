/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VMBus without a hypervisor: devices whose rings and shared buffers are ordinary memory, which a test plays
 * the host on. The driver's calls into hv_vmbus that would wait for a host come here (src/bindings.rs); those
 * that only touch a ring go to hv_vmbus itself.
 */
#ifndef NETVSC_KUNIT_BUS_H
#define NETVSC_KUNIT_BUS_H

#include <linux/hyperv.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>

/* Buffers that a device can have shared at a time. */
#define NETVSC_KUNIT_GPADLS	4

struct netvsc_kunit_gpadl {
	u32 handle;
	u32 len;
	void *start;
};

/* What a device's host does and has seen. */
struct netvsc_kunit_host {
	/* Errors, negative, that the next calls end with; 0: none. */
	int open_error;
	int gpadl_error;
	/* Teardowns are not acknowledged. */
	bool keeps_gpadls;
	/* Somebody reads what the guest sends: a close lets them finish. */
	bool running;
	/* Calls that did not fail. */
	u32 opened;
	u32 closed;
	struct netvsc_kunit_gpadl gpadls[NETVSC_KUNIT_GPADLS];
	u32 last_handle;
	/* The memory that was refused last. */
	void *refused;
};

struct hv_device *netvsc_kunit_device_new(void);
void netvsc_kunit_device_remove(struct hv_device *hv);
struct netvsc_kunit_host *netvsc_kunit_host_of(struct hv_device *hv);
int netvsc_kunit_devices(void);
void netvsc_kunit_interrupt(struct vmbus_channel *channel);
struct vmbus_channel *netvsc_kunit_rings_hold(struct hv_device *hv, u32 index);
void netvsc_kunit_rings_release(struct hv_device *hv);
int netvsc_kunit_offer(struct hv_device *hv, u16 index);
int netvsc_kunit_subchannels(void);
int netvsc_kunit_module_references(void);
int netvsc_kunit_free_leaked(struct hv_device *hv);

int netvsc_kunit_open(struct vmbus_channel *channel, u32 send_bytes, u32 receive_bytes,
		      void *userdata, u32 userdata_len, void (*callback)(void *context),
		      void *context);
void netvsc_kunit_close(struct vmbus_channel *channel);
int netvsc_kunit_establish_gpadl(struct vmbus_channel *channel, void *buffer, u32 len,
				 struct vmbus_gpadl *gpadl);
int netvsc_kunit_teardown_gpadl(struct vmbus_channel *channel, struct vmbus_gpadl *gpadl);

#endif /* NETVSC_KUNIT_BUS_H */

// SPDX-License-Identifier: GPL-2.0
/*
 * See xdp.h.
 */
#include <linux/bottom_half.h>
#include <linux/filter.h>
#include <linux/mm.h>
#include <linux/rtnetlink.h>
#include <net/xdp.h>

#include "xdp.h"

/**
 * netvsc_kunit_program - a program that answers @action to every frame, with one reference
 * @fragments: whether it may be given frames in several pieces
 *
 * Return: NULL if there is no memory.
 */
struct bpf_prog *netvsc_kunit_program(u32 action, bool fragments)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, action) };
	struct sock_fprog_kern filter = { .len = ARRAY_SIZE(code), .filter = code };
	struct bpf_prog *program;

	if (bpf_prog_create(&program, &filter))
		return NULL;
	program->type = BPF_PROG_TYPE_XDP;
	program->aux->xdp_has_frags = fragments;
	atomic64_set(&program->aux->refcnt, 1);
	return program;
}

s64 netvsc_kunit_program_references(const struct bpf_prog *program)
{
	return atomic64_read(&program->aux->refcnt);
}

/* netvsc_kunit_set_program - as the core: the device is given a reference, which it keeps if it returns 0 */
int netvsc_kunit_set_program(struct net_device *dev, struct bpf_prog *program)
{
	struct netdev_bpf setup = { .command = XDP_SETUP_PROG, .prog = program };
	int error;

	if (program)
		bpf_prog_inc(program);
	rtnl_lock();
	error = dev->netdev_ops->ndo_bpf(dev, &setup);
	rtnl_unlock();
	if (error && program)
		bpf_prog_put(program);
	return error;
}

/* netvsc_kunit_xdp_xmit - redirects a frame to @dev; returns what that says */
int netvsc_kunit_xdp_xmit(struct net_device *dev, const void *bytes, u32 len, u32 flags)
{
	struct xdp_rxq_info queue = { .dev = dev, .mem.type = MEM_TYPE_PAGE_ORDER0 };
	struct page *page = alloc_page(GFP_KERNEL);
	struct xdp_frame *frame;
	struct xdp_buff buffer;
	int taken;

	if (!page)
		return -ENOMEM;
	xdp_init_buff(&buffer, PAGE_SIZE, &queue);
	xdp_prepare_buff(&buffer, page_address(page), XDP_PACKET_HEADROOM, len, false);
	memcpy(buffer.data, bytes, len);
	frame = xdp_convert_buff_to_frame(&buffer);
	local_bh_disable();
	taken = dev->netdev_ops->ndo_xdp_xmit(dev, 1, &frame, flags);
	local_bh_enable();
	if (taken != 1)
		xdp_return_frame(frame);
	return taken;
}

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What tests of XDP need from C: programs, and frames that others redirect.
 */
#ifndef NETVSC_KUNIT_XDP_H
#define NETVSC_KUNIT_XDP_H

#include <linux/bpf.h>
#include <linux/netdevice.h>

struct bpf_prog *netvsc_kunit_program(u32 action, bool fragments);
s64 netvsc_kunit_program_references(const struct bpf_prog *program);
int netvsc_kunit_set_program(struct net_device *dev, struct bpf_prog *program);
int netvsc_kunit_xdp_xmit(struct net_device *dev, const void *frame, u32 len, u32 flags);

#endif /* NETVSC_KUNIT_XDP_H */

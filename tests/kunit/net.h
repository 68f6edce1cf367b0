/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What tests of the network side need from C: buffers whose release is counted, and what user space does.
 */
#ifndef NETVSC_KUNIT_NET_H
#define NETVSC_KUNIT_NET_H

#include <linux/netdevice.h>
#include <linux/skbuff.h>

struct sk_buff *netvsc_kunit_skb(u32 linear, u32 fragments, u32 fragment_len);
int netvsc_kunit_skbs(void);
void netvsc_kunit_udp(struct sk_buff *skb, u16 source, bool want_checksum);
void netvsc_kunit_tag(struct sk_buff *skb, u16 tci);
bool netvsc_kunit_tcp_lso(struct sk_buff *skb, u16 mss);
bool netvsc_kunit_udp_checksum_ok(const struct sk_buff *skb);
int netvsc_kunit_send(struct net_device *dev, struct sk_buff *skb);

void netvsc_kunit_bh_disable(void);
void netvsc_kunit_bh_enable(void);
unsigned long netvsc_kunit_irq_disable(void);
void netvsc_kunit_irq_enable(unsigned long flags);
int netvsc_kunit_up(struct net_device *dev);
void netvsc_kunit_down(struct net_device *dev);
int netvsc_kunit_set_mtu(struct net_device *dev, u32 mtu);
int netvsc_kunit_set_channels(struct net_device *dev, u32 combined);
u32 netvsc_kunit_channels(struct net_device *dev);
void netvsc_kunit_stats(struct net_device *dev, struct rtnl_link_stats64 *stats);
int netvsc_kunit_statistics(struct net_device *dev, u8 *names, u64 *values, u32 max);
bool netvsc_kunit_tx_locked(struct net_device *dev, u16 queue);
u32 netvsc_kunit_napis(struct net_device *dev);

bool netvsc_kunit_read_gpa(u64 address, void *to, u32 len);
u64 netvsc_kunit_pfn(const void *address);

#endif /* NETVSC_KUNIT_NET_H */

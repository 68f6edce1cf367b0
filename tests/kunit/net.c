// SPDX-License-Identifier: GPL-2.0
/*
 * See net.h.
 */
#include <linux/ethtool.h>
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/mm.h>
#include <linux/rtnetlink.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/vmalloc.h>
#include <net/ip.h>
#include <net/netdev_lock.h>
#include <net/udp.h>

#include "net.h"

static atomic_t skbs;

static void skb_gone(struct sk_buff *skb)
{
	atomic_dec(&skbs);
}

/**
 * netvsc_kunit_skb - a frame of which it is known whether it was released
 * @linear: bytes in the linear part
 * @fragments: number of fragments, each in pages of its own
 * @fragment_len: bytes of each, that begin 100 bytes into its first page
 *
 * The byte at offset N of the frame is N modulo 251.
 */
struct sk_buff *netvsc_kunit_skb(u32 linear, u32 fragments, u32 fragment_len)
{
	struct sk_buff *skb = alloc_skb(linear + 64, GFP_KERNEL);
	u32 at = 0, i, n;
	u8 *bytes;

	if (!skb)
		return NULL;
	skb_reserve(skb, 64);
	bytes = skb_put(skb, linear);
	for (n = 0; n < linear; n++)
		bytes[n] = at++ % 251;
	for (i = 0; i < fragments; i++) {
		unsigned int order = get_order(100 + fragment_len);
		struct page *page = alloc_pages(GFP_KERNEL | __GFP_COMP, order);

		if (!page) {
			kfree_skb(skb);
			return NULL;
		}
		bytes = page_address(page) + 100;
		for (n = 0; n < fragment_len; n++)
			bytes[n] = at++ % 251;
		skb_add_rx_frag(skb, i, page, 100, fragment_len, PAGE_SIZE << order);
	}
	skb->destructor = skb_gone;
	atomic_inc(&skbs);
	return skb;
}

/* netvsc_kunit_skbs - those that have not been released */
int netvsc_kunit_skbs(void)
{
	return atomic_read(&skbs);
}

static const u8 addresses[] = { 0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00 };

/* Ethernet and IPv4 in front of @protocol; the frame keeps its length. */
static struct iphdr *write_headers(struct sk_buff *skb, u8 protocol)
{
	struct iphdr *ip = (void *)skb->data + ETH_HLEN;

	memcpy(skb->data, addresses, ETH_HLEN);
	memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->ttl = 64;
	ip->protocol = protocol;
	ip->tot_len = htons(skb->len - ETH_HLEN);
	ip->saddr = htonl(0x0a000001);
	ip->daddr = htonl(0x0a000002);
	ip_send_check(ip);
	skb->protocol = htons(ETH_P_IP);
	skb_reset_mac_header(skb);
	skb_set_network_header(skb, ETH_HLEN);
	skb_set_transport_header(skb, ETH_HLEN + sizeof(*ip));
	return ip;
}

/* netvsc_kunit_udp - makes a UDP packet from port @source of a frame; with @want_checksum its sum is left to the device */
void netvsc_kunit_udp(struct sk_buff *skb, u16 source, bool want_checksum)
{
	struct iphdr *ip = write_headers(skb, IPPROTO_UDP);
	struct udphdr *udp = udp_hdr(skb);

	udp->source = htons(source);
	udp->dest = htons(2000);
	udp->len = htons(skb->len - ETH_HLEN - sizeof(*ip));
	udp->check = 0;
	if (!want_checksum)
		return;
	skb->ip_summed = CHECKSUM_PARTIAL;
	skb->csum_start = skb_transport_header(skb) - skb->head;
	skb->csum_offset = offsetof(struct udphdr, check);
	udp->check = ~udp_v4_check(ntohs(udp->len), ip->saddr, ip->daddr, 0);
}

/* netvsc_kunit_udp_checksum_ok - whether the sum in the packet is that of what is in the packet */
bool netvsc_kunit_udp_checksum_ok(const struct sk_buff *skb)
{
	int offset = ETH_HLEN + sizeof(struct iphdr);
	const struct iphdr *ip = (void *)skb->data + ETH_HLEN;
	__wsum sum = skb_checksum(skb, offset, skb->len - offset, 0);

	return !udp_v4_check(skb->len - offset, ip->saddr, ip->daddr, sum);
}

/* netvsc_kunit_tag - writes an 802.1Q tag behind the addresses of a frame */
void netvsc_kunit_tag(struct sk_buff *skb, u16 tci)
{
	*(__be16 *)(skb->data + 2 * ETH_ALEN) = htons(ETH_P_8021Q);
	*(__be16 *)(skb->data + 2 * ETH_ALEN + 2) = htons(tci);
	skb->protocol = htons(ETH_P_8021Q);
}

/* netvsc_kunit_tcp_lso - makes a TCP super-frame of segments of @mss bytes of a frame */
bool netvsc_kunit_tcp_lso(struct sk_buff *skb, u16 mss)
{
	struct iphdr *ip = write_headers(skb, IPPROTO_TCP);
	struct tcphdr *tcp = tcp_hdr(skb);
	u32 headers = ETH_HLEN + sizeof(*ip) + sizeof(*tcp);

	if (skb_headlen(skb) < headers)
		return false;
	memset(tcp, 0, sizeof(*tcp));
	tcp->doff = 5;
	skb->ip_summed = CHECKSUM_PARTIAL;
	skb->csum_start = skb_transport_header(skb) - skb->head;
	skb->csum_offset = offsetof(struct tcphdr, check);
	skb_shinfo(skb)->gso_size = mss;
	skb_shinfo(skb)->gso_segs = DIV_ROUND_UP(skb->len - headers, mss);
	skb_shinfo(skb)->gso_type = SKB_GSO_TCPV4;
	return true;
}

/* netvsc_kunit_send - sends a frame as a packet socket does; consumes it */
int netvsc_kunit_send(struct net_device *dev, struct sk_buff *skb)
{
	skb->dev = dev;
	return dev_queue_xmit(skb);
}

void netvsc_kunit_bh_disable(void)
{
	local_bh_disable();
}

void netvsc_kunit_bh_enable(void)
{
	local_bh_enable();
}

unsigned long netvsc_kunit_irq_disable(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void netvsc_kunit_irq_enable(unsigned long flags)
{
	local_irq_restore(flags);
}

int netvsc_kunit_up(struct net_device *dev)
{
	int err;

	rtnl_lock();
	err = dev_open(dev, NULL);
	rtnl_unlock();
	return err;
}

void netvsc_kunit_down(struct net_device *dev)
{
	rtnl_lock();
	dev_close(dev);
	rtnl_unlock();
}

int netvsc_kunit_set_mtu(struct net_device *dev, u32 mtu)
{
	int err;

	rtnl_lock();
	err = dev_set_mtu(dev, mtu);
	rtnl_unlock();
	return err;
}

/* netvsc_kunit_set_channels - as "ethtool -L" does, without the core's own checks */
int netvsc_kunit_set_channels(struct net_device *dev, u32 combined)
{
	struct ethtool_channels channels = { .cmd = ETHTOOL_SCHANNELS, .combined_count = combined };
	int err;

	rtnl_lock();
	err = dev->ethtool_ops->set_channels(dev, &channels);
	rtnl_unlock();
	return err;
}

u32 netvsc_kunit_channels(struct net_device *dev)
{
	struct ethtool_channels channels = { .cmd = ETHTOOL_GCHANNELS };

	rtnl_lock();
	dev->ethtool_ops->get_channels(dev, &channels);
	rtnl_unlock();
	return channels.combined_count;
}

void netvsc_kunit_stats(struct net_device *dev, struct rtnl_link_stats64 *stats)
{
	dev_get_stats(dev, stats);
}

/**
 * netvsc_kunit_statistics - what "ethtool -S" shows
 * @names: gets ETH_GSTRING_LEN bytes a name
 * @values: gets the values
 * @max: room in both
 *
 * Return: how many there are, which may be more than @max: then nothing was written.
 */
int netvsc_kunit_statistics(struct net_device *dev, u8 *names, u64 *values, u32 max)
{
	const struct ethtool_ops *ops = dev->ethtool_ops;
	struct ethtool_stats header = { .cmd = ETHTOOL_GSTATS };
	int count;

	rtnl_lock();
	count = ops->get_sset_count(dev, ETH_SS_STATS);
	if (count > 0 && count <= max) {
		header.n_stats = count;
		ops->get_strings(dev, ETH_SS_STATS, names);
		ops->get_ethtool_stats(dev, &header, values);
	}
	rtnl_unlock();
	return count;
}

bool netvsc_kunit_tx_locked(struct net_device *dev, u16 queue)
{
	return spin_is_locked(&netdev_get_tx_queue(dev, queue)->_xmit_lock);
}

u32 netvsc_kunit_napis(struct net_device *dev)
{
	struct napi_struct *napi;
	u32 count = 0;

	rcu_read_lock();
	list_for_each_entry_rcu(napi, &dev->napi_list, dev_list)
		count++;
	rcu_read_unlock();
	return count;
}

/* netvsc_kunit_read_gpa - what a host reads at a guest-physical address */
bool netvsc_kunit_read_gpa(u64 address, void *to, u32 len)
{
	while (len) {
		u32 part = min_t(u32, len, PAGE_SIZE - offset_in_page(address));

		if (!pfn_valid(address >> PAGE_SHIFT))
			return false;
		memcpy(to, page_address(pfn_to_page(address >> PAGE_SHIFT)) + offset_in_page(address), part);
		address += part;
		to += part;
		len -= part;
	}
	return true;
}

/* netvsc_kunit_pfn - the page that an address of kmalloc or vmalloc lies in */
u64 netvsc_kunit_pfn(const void *address)
{
	return is_vmalloc_addr(address) ? vmalloc_to_pfn(address) : page_to_pfn(virt_to_page(address));
}

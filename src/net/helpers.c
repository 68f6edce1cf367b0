// SPDX-License-Identifier: GPL-2.0
/*
 * What the safe abstractions of src/net cannot do in Rust: macros and bit-fields of the networking headers.
 * On the packet path one call does the whole job, because a call per field costs more than the field.
 * Functions that are merely inline are wrapped by bindgen, see src/inline_parameters.
 */
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/hyperv.h>
#include <linux/jhash.h>
#include <linux/net.h>
#include <linux/netdevice.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/flow_dissector.h>
#include <net/ip6_checksum.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "helpers.h"

/* Pages touched by @len bytes at offset @offset of a page. */
static u32 pages_of(u32 offset, u32 len)
{
	return HVPFN_UP(offset_in_hvpage(offset) + len);
}

static u32 tx_pages(const struct sk_buff *skb)
{
	const struct skb_shared_info *shinfo = skb_shinfo(skb);
	u32 pages = pages_of(offset_in_page(skb->data), skb_headlen(skb));
	unsigned int i;

	for (i = 0; i < shinfo->nr_frags; i++)
		pages += pages_of(skb_frag_off(&shinfo->frags[i]), skb_frag_size(&shinfo->frags[i]));
	return pages;
}

/* Moves a tag that stands in the frame into the skb's metadata, as the host wants it. */
static int tx_take_vlan(struct sk_buff *skb)
{
	u16 tci;
	int err;

	skb_reset_mac_header(skb);
	/* Senders of raw frames say what they like about the protocol: look. */
	if (!eth_type_vlan(eth_hdr(skb)->h_proto))
		return 0;
	err = __skb_vlan_pop(skb, &tci);
	if (err)
		return err;
	__vlan_hwaccel_put_tag(skb, htons(ETH_P_8021Q), tci);
	return 0;
}

/* Prepares the headers for the host's segmentation: lengths zero, pseudo-header sum without length. */
static int tx_prepare_lso(struct sk_buff *skb, struct netvsc_tx_meta *meta)
{
	int err = skb_cow_head(skb, 0);

	if (err)
		return err;
	if (skb_is_gso_v6(skb)) {
		tcp_v6_gso_csum_prep(skb);
		meta->flags |= NETVSC_TX_IPV6;
	} else {
		struct iphdr *ip = ip_hdr(skb);

		ip->tot_len = 0;
		ip->check = 0;
		tcp_hdr(skb)->check = ~csum_tcpudp_magic(ip->saddr, ip->daddr, 0, IPPROTO_TCP, 0);
	}
	meta->mss = skb_shinfo(skb)->gso_size;
	meta->packets = skb_shinfo(skb)->gso_segs ?: 1;
	meta->wire_bytes = skb->len + (meta->packets - 1) * skb_tcp_all_headers(skb);
	meta->l4_offset = skb_transport_offset(skb);
	meta->flags |= NETVSC_TX_LSO;
	return 0;
}

/* The checksum offload that @skb asks for, as a NETVSC_CSUM_ bit; 0 if the host knows no such one. */
static u32 tx_csum_kind(const struct sk_buff *skb)
{
	if (skb->protocol == htons(ETH_P_IP)) {
		if (ip_hdr(skb)->protocol == IPPROTO_TCP)
			return NETVSC_CSUM_TCP4;
		if (ip_hdr(skb)->protocol == IPPROTO_UDP)
			return NETVSC_CSUM_UDP4;
	} else if (skb->protocol == htons(ETH_P_IPV6)) {
		if (ipv6_hdr(skb)->nexthdr == IPPROTO_TCP)
			return NETVSC_CSUM_TCP6;
		if (ipv6_hdr(skb)->nexthdr == IPPROTO_UDP)
			return NETVSC_CSUM_UDP6;
	}
	return 0;
}

static int tx_prepare_csum(struct sk_buff *skb, u32 csum_mask, struct netvsc_tx_meta *meta)
{
	u32 kind = tx_csum_kind(skb);

	if (!(kind & csum_mask))
		return skb_checksum_help(skb);
	meta->flags |= NETVSC_TX_CSUM;
	if (kind & (NETVSC_CSUM_TCP6 | NETVSC_CSUM_UDP6))
		meta->flags |= NETVSC_TX_IPV6;
	if (kind & (NETVSC_CSUM_UDP4 | NETVSC_CSUM_UDP6))
		meta->flags |= NETVSC_TX_UDP;
	meta->l4_offset = skb_transport_offset(skb);
	return 0;
}

/*
 * netvsc_tx_prepare - make a frame ready for the host and say what the host must know of it
 *
 * Takes a VLAN tag out of the frame, prepares LSO headers or computes a checksum in software where
 * @csum_mask lacks the protocol, and linearises a frame that touches more than @max_pages pages.
 * Idempotent: a frame that was not accepted may come again. Context: ndo_start_xmit.
 * Return: 0; -ENOMEM; -E2BIG when the frame cannot be brought below @max_pages; another errno when
 * its VLAN tag is broken.
 */
int netvsc_tx_prepare(struct sk_buff *skb, u32 max_pages, u32 csum_mask,
		      struct netvsc_tx_meta *meta)
{
	u32 pages;
	int err;

	meta->flags = netdev_xmit_more() ? NETVSC_TX_MORE : 0;
	meta->packets = 1;

	if (unlikely(skb->protocol == htons(ETH_P_8021Q)) && !skb_vlan_tag_present(skb)) {
		err = tx_take_vlan(skb);
		if (err)
			return err;
	}
	pages = tx_pages(skb);
	if (unlikely(pages > max_pages)) {
		if (skb_linearize(skb))
			return -ENOMEM;
		meta->flags |= NETVSC_TX_LINEARIZED;
		pages = tx_pages(skb);
		if (pages > max_pages)
			return -E2BIG;
	}
	if (skb_vlan_tag_present(skb)) {
		meta->flags |= NETVSC_TX_VLAN;
		meta->vlan_tci = skb_vlan_tag_get(skb);
	}
	meta->hash = skb_get_hash_raw(skb);
	if (meta->hash)
		meta->flags |= NETVSC_TX_HASH;

	meta->wire_bytes = skb->len;
	if (skb_is_gso(skb))
		err = tx_prepare_lso(skb, meta);
	else if (skb->ip_summed == CHECKSUM_PARTIAL)
		err = tx_prepare_csum(skb, csum_mask, meta);
	else
		err = 0;
	if (err)
		return -ENOMEM;

	skb_tx_timestamp(skb);
	meta->len = skb->len;
	return 0;
}

/*
 * netvsc_tx_pieces - where the bytes of a frame lie, as physically contiguous pieces in order
 *
 * Return: number of pieces written to @out, -E2BIG when @max is too small.
 */
int netvsc_tx_pieces(const struct sk_buff *skb, struct netvsc_tx_piece *out, u32 max)
{
	const struct skb_shared_info *shinfo = skb_shinfo(skb);
	u32 count = 0;
	unsigned int i;

	if (!!skb_headlen(skb) + shinfo->nr_frags > max)
		return -E2BIG;
	if (skb_headlen(skb)) {
		out[count].address = virt_to_phys(skb->data);
		out[count++].len = skb_headlen(skb);
	}
	for (i = 0; i < shinfo->nr_frags; i++) {
		const skb_frag_t *frag = &shinfo->frags[i];

		out[count].address = page_to_phys(skb_frag_page(frag)) + skb_frag_off(frag);
		out[count++].len = skb_frag_size(frag);
	}
	return count;
}

/*
 * netvsc_tx_copy - write @header, a frame of @len bytes and @pad zeros into send-section memory
 *
 * Return: false if the frame has not so many bytes.
 */
bool netvsc_tx_copy(const struct sk_buff *skb, void *to, const void *header, u32 header_len, u32 len,
		    u32 pad)
{
	if (unlikely(len > skb->len))
		return false;
	memcpy(to, header, header_len);
	to += header_len;
	if (pad)
		memset(to + len, 0, pad);
	if (likely(!skb_is_nonlinear(skb))) {
		memcpy(to, skb->data, len);
		return true;
	}
	return !skb_copy_bits(skb, 0, to, len);
}

/*
 * netvsc_txq_completed - byte queue limits: that much came back, since the last call
 *
 * By one caller at a time. Return: whether the driver has stopped the queue, as seen after a full barrier.
 */
bool netvsc_txq_completed(struct net_device *dev, unsigned int queue, u32 packets, u32 bytes)
{
	struct netdev_queue *txq = netdev_get_tx_queue(dev, queue);

	netdev_tx_completed_queue(txq, packets, bytes);
	/* Pairs with the barrier of whoever stops the queue and then looks for room. */
	smp_mb();
	return netif_tx_queue_stopped(txq);
}

/* netvsc_features_check - leave to software what the host's messages cannot say. */
netdev_features_t netvsc_features_check(struct sk_buff *skb, struct net_device *dev,
					netdev_features_t features)
{
	features = vlan_features_check(skb, features);
	/* Nothing inside a tunnel; a transport header begins within 10 bits. */
	if (skb->encapsulation ||
	    (skb->ip_summed == CHECKSUM_PARTIAL && skb_transport_offset(skb) >= NETVSC_L4_OFFSETS))
		features &= ~(NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK);
	return features;
}

/* The NETVSC_PORTS_ bit of a dissected packet; 0 if its ports are never hashed. */
static u32 ports_bit(const struct flow_keys *keys)
{
	bool v6 = keys->basic.n_proto == htons(ETH_P_IPV6);

	if (!v6 && keys->basic.n_proto != htons(ETH_P_IP))
		return 0;
	if (keys->basic.ip_proto == IPPROTO_TCP)
		return v6 ? NETVSC_PORTS_TCP6 : NETVSC_PORTS_TCP4;
	if (keys->basic.ip_proto == IPPROTO_UDP)
		return v6 ? NETVSC_PORTS_UDP6 : NETVSC_PORTS_UDP4;
	return 0;
}

/* A hash of the addresses alone, the same for all packets between two hosts. */
static u32 hash_addresses(const struct flow_keys *keys)
{
	static u32 seed __read_mostly;

	net_get_random_once(&seed, sizeof(seed));
	switch (keys->control.addr_type) {
	case FLOW_DISSECTOR_KEY_IPV4_ADDRS:
		return jhash(&keys->addrs.v4addrs, sizeof(keys->addrs.v4addrs), seed);
	case FLOW_DISSECTOR_KEY_IPV6_ADDRS:
		return jhash(&keys->addrs.v6addrs, sizeof(keys->addrs.v6addrs), seed);
	default:
		return 0;
	}
}

/* The flow hash of @skb, over ports only where the user wants it. */
static u32 tx_flow_hash(struct sk_buff *skb, u32 ports_of)
{
	struct flow_keys keys;
	u32 hash;

	if (likely(ports_of == NETVSC_PORTS_ALL))
		return skb_get_hash(skb);
	if (!skb_flow_dissect_flow_keys(skb, &keys, 0))
		return 0;
	if (ports_bit(&keys) & ports_of)
		return skb_get_hash(skb);
	hash = hash_addresses(&keys);
	skb_set_hash(skb, hash, PKT_HASH_TYPE_L3);
	return hash;
}

/* Whether the administrator has assigned processors or receive queues to transmit queues. */
static bool has_xps_map(const struct net_device *dev)
{
#ifdef CONFIG_XPS
	return rcu_access_pointer(dev->xps_maps[XPS_CPUS]) ||
	       rcu_access_pointer(dev->xps_maps[XPS_RXQS]);
#else
	return false;
#endif
}

/*
 * netvsc_pick_tx - the transmit queue that is already decided for @skb
 *
 * Return: the socket's cached queue, the one of the administrator's XPS map if there is a map, or the recorded
 * receive queue (forwarding) if there is one; else -1 with the flow hash in @hash.
 */
int netvsc_pick_tx(struct net_device *dev, struct sk_buff *skb, u32 ports_of, u32 *hash)
{
	const struct sock *sk = skb->sk;
	int queue = sk ? sk_tx_queue_get(sk) : -1;

	if (queue >= 0 && !skb->ooo_okay && queue < dev->real_num_tx_queues)
		return queue;
	if (unlikely(has_xps_map(dev)))
		return netdev_pick_tx(dev, skb, NULL);
	if (!sk && skb_rx_queue_recorded(skb)) {
		queue = skb_get_rx_queue(skb);
		if (queue < dev->real_num_tx_queues)
			return queue;
	}
	*hash = tx_flow_hash(skb, ports_of);
	return -1;
}

/* netvsc_pick_tx_done - let the socket remember the queue picked for it. */
void netvsc_pick_tx_done(struct sk_buff *skb, u16 queue)
{
	struct sock *sk = skb->sk;

	if (sk && sk_fullsock(sk) && rcu_access_pointer(sk->sk_dst_cache) &&
	    sk_tx_queue_get(sk) != queue)
		sk_tx_queue_set(sk, queue);
}

/* The host takes a new address at any time. priv_flags is a bit-field. Context: before registration. */
void netvsc_allow_live_address_change(struct net_device *dev)
{
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE;
}

void netvsc_delayed_work_init(struct delayed_work *work, work_func_t fn, bool deferrable)
{
	if (deferrable)
		INIT_DEFERRABLE_WORK(work, fn);
	else
		INIT_DELAYED_WORK(work, fn);
}

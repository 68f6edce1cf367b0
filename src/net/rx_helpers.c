// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of src/net/rx.rs: a received frame becomes a socket buffer, in one call.
 */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/netdevice.h>
#include <linux/tcp.h>
#include <net/page_pool/helpers.h>

#include "helpers.h"

/* Frames up to this length are copied to a small buffer of the slab, longer ones to pages of the pool. */
#define RX_COPYBREAK		256
/* Room for headers before a frame whose payload lies in fragments. */
#define RX_HEADERS		256

/* How much of a frame has been copied. */
struct rx_cursor {
	const struct netvsc_rx_frame *frame;
	u32 piece;
	u32 done;
};

/* Copies the next @len bytes, which the frame must still have. */
static void rx_copy(struct rx_cursor *cursor, void *to, u32 len)
{
	while (len) {
		const struct netvsc_rx_piece *piece = &cursor->frame->pieces[cursor->piece];
		u32 part = min(len, piece->len - cursor->done);

		memcpy(to, cursor->frame->base + piece->offset + cursor->done, part);
		to += part;
		len -= part;
		cursor->done += part;
		if (cursor->done == piece->len) {
			cursor->piece++;
			cursor->done = 0;
		}
	}
}

/* netvsc_rx_copy - @len bytes of @frame, beginning with byte @from, all of which it must have */
void netvsc_rx_copy(const struct netvsc_rx_frame *frame, u32 from, void *to, u32 len)
{
	struct rx_cursor cursor = { .frame = frame };

	for (; from >= frame->pieces[cursor.piece].len; cursor.piece++)
		from -= frame->pieces[cursor.piece].len;
	cursor.done = from;
	rx_copy(&cursor, to, len);
}

/* A buffer for @len bytes in one piece: from the slab if they are few, else part of a page of @pool. */
static struct sk_buff *rx_alloc_linear(struct napi_struct *napi, struct page_pool *pool, u32 len)
{
	unsigned int size = SKB_HEAD_ALIGN(NET_SKB_PAD + NET_IP_ALIGN + len);
	struct sk_buff *skb;
	void *head;

	if (len <= RX_COPYBREAK)
		return napi_alloc_skb(napi, len);
	head = page_pool_dev_alloc_va(pool, &size);
	if (unlikely(!head))
		return NULL;
	skb = napi_build_skb(head, size);
	if (unlikely(!skb)) {
		page_pool_free_va(pool, head, true);
		return NULL;
	}
	skb_mark_for_recycle(skb);
	skb_reserve(skb, NET_SKB_PAD + NET_IP_ALIGN);
	return skb;
}

/* A frame that does not fit a page: headers in front, payload in pages of @pool. */
static struct sk_buff *rx_build_paged(struct napi_struct *napi, struct page_pool *pool,
				      struct rx_cursor *cursor, u32 len)
{
	struct sk_buff *skb = napi_alloc_skb(napi, RX_HEADERS);
	const skb_frag_t *first;
	u32 part;

	if (unlikely(!skb))
		return NULL;
	skb_mark_for_recycle(skb);
	for (; len; len -= part) {
		unsigned int offset, size = min_t(u32, len, PAGE_SIZE);
		struct page *page;

		part = size;
		page = page_pool_dev_alloc(pool, &offset, &size);
		if (unlikely(!page)) {
			kfree_skb(skb);
			return NULL;
		}
		rx_copy(cursor, page_address(page) + offset, part);
		skb_add_rx_frag(skb, skb_shinfo(skb)->nr_frags, page, offset, part, size);
	}
	/* Nothing but headers in front, so that GRO can chain the fragments. */
	first = &skb_shinfo(skb)->frags[0];
	part = eth_get_headlen(napi->dev, skb_frag_address(first),
			       min_t(u32, skb_frag_size(first), RX_HEADERS));
	if (unlikely(!__pskb_pull_tail(skb, part))) {
		kfree_skb(skb);
		return NULL;
	}
	return skb;
}

/*
 * netvsc_rx_build - one frame from host-shared memory to a socket buffer: the copy is what makes it ours
 *
 * Context: NAPI poll of @napi, to which @pool belongs. Return: the buffer, its data at the network header;
 * NULL when there was none.
 */
struct sk_buff *netvsc_rx_build(struct napi_struct *napi, struct page_pool *pool,
				const struct netvsc_rx_frame *frame)
{
	struct rx_cursor cursor = { .frame = frame };
	struct sk_buff *skb;

	if (likely(SKB_HEAD_ALIGN(NET_SKB_PAD + NET_IP_ALIGN + frame->len) <= PAGE_SIZE)) {
		skb = rx_alloc_linear(napi, pool, frame->len);
		if (likely(skb))
			rx_copy(&cursor, skb_put(skb, frame->len), frame->len);
	} else {
		skb = rx_build_paged(napi, pool, &cursor, frame->len);
	}
	if (likely(skb))
		skb->protocol = eth_type_trans(skb, napi->dev);
	return skb;
}

/* Hands a frame to GRO. Return: whether it was for a group. */
static bool rx_deliver(struct napi_struct *napi, struct sk_buff *skb,
		       const struct netvsc_rx_frame *frame)
{
	bool group = is_multicast_ether_addr(eth_hdr(skb)->h_dest);

	if ((frame->flags & NETVSC_RX_HASH) && (skb->dev->features & NETIF_F_RXHASH))
		skb_set_hash(skb, frame->hash, frame->flags & NETVSC_RX_HASH_L4 ?
			     PKT_HASH_TYPE_L4 : PKT_HASH_TYPE_L3);
	if (frame->flags & NETVSC_RX_VLAN)
		__vlan_hwaccel_put_tag(skb, htons(ETH_P_8021Q), frame->vlan_tci);
	skb_record_rx_queue(skb, frame->queue);
	napi_gro_receive(napi, skb);
	return group;
}

/*
 * netvsc_rx_receive - one frame from host-shared memory to GRO
 *
 * Context: NAPI poll of @napi, to which @pool belongs. Return: 0, or 1 for a frame to a group; -ENOMEM when
 * there was no buffer, -ENETDOWN when the interface is down (or not registered yet) and nobody wants the
 * frame.
 */
int netvsc_rx_receive(struct napi_struct *napi, struct page_pool *pool,
		      const struct netvsc_rx_frame *frame)
{
	struct sk_buff *skb;

	if (unlikely(!netif_running(napi->dev)))
		return -ENETDOWN;
	skb = netvsc_rx_build(napi, pool, frame);
	if (unlikely(!skb))
		return -ENOMEM;
	if ((frame->flags & NETVSC_RX_CSUM_OK) && (napi->dev->features & NETIF_F_RXCSUM))
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	return rx_deliver(napi, skb, frame);
}

/*
 * netvsc_rx_finish - hand a frame to GRO whose checksum the host verified but did not fill in
 *
 * @tcp_offset: where the TCP header begins, whose checksum is completed by whoever sends @skb on; 0 if there
 * is none. @gso_size: payload bytes of each of @segments segments; 0 if there is but one. Return: whether it
 * was for a group.
 */
bool netvsc_rx_finish(struct napi_struct *napi, struct sk_buff *skb,
		      const struct netvsc_rx_frame *frame, u16 tcp_offset, u16 gso_size,
		      u16 segments, u32 gso_type)
{
	if ((frame->flags & NETVSC_RX_CSUM_OK) && (napi->dev->features & NETIF_F_RXCSUM))
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	if (tcp_offset) {
		skb->ip_summed = CHECKSUM_PARTIAL;
		skb->csum_start = skb_headroom(skb) + tcp_offset;
		skb->csum_offset = offsetof(struct tcphdr, check);
	}
	if (gso_size) {
		skb_shinfo(skb)->gso_size = gso_size;
		skb_shinfo(skb)->gso_segs = segments;
		skb_shinfo(skb)->gso_type = gso_type;
	}
	return rx_deliver(napi, skb, frame);
}

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C side of src/net: what is inline, a macro or a bit-field in C, or would cost several calls per
 * packet from Rust. One fat helper a packet and direction, see kernel-doc in helpers.c.
 */
#ifndef NETVSC_NET_HELPERS_H
#define NETVSC_NET_HELPERS_H

#include <linux/ethtool.h>
#include <linux/etherdevice.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/workqueue.h>
#include <net/netdev_queues.h>
#include <net/page_pool/helpers.h>

/* struct netvsc_rx_frame.flags */
#define NETVSC_RX_HASH			0x01
#define NETVSC_RX_HASH_L4		0x02
#define NETVSC_RX_VLAN			0x04
#define NETVSC_RX_CSUM_OK		0x08

/* A part of a frame, counted from netvsc_rx_frame.base. */
struct netvsc_rx_piece {
	u32 offset;
	u32 len;
};

/* Bytes of a frame that fit a page beside what an XDP program may put before them and what a buffer needs behind. */
#define NETVSC_XDP_ROOM \
	((u32)(PAGE_SIZE - XDP_PACKET_HEADROOM - SKB_DATA_ALIGN(sizeof(struct skb_shared_info))))

struct netvsc_rx_frame {
	const void *base;
	const struct netvsc_rx_piece *pieces;
	u32 nr_pieces;
	u32 len;
	u32 hash;
	u16 vlan_tci;
	u16 queue;
	u8 flags;
};

/* struct netvsc_tx_meta.flags */
#define NETVSC_TX_HASH		0x01
#define NETVSC_TX_VLAN		0x02
#define NETVSC_TX_CSUM		0x04
#define NETVSC_TX_LSO		0x08
#define NETVSC_TX_IPV6		0x10
#define NETVSC_TX_UDP		0x20
#define NETVSC_TX_MORE		0x40
#define NETVSC_TX_LINEARIZED	0x80

/* Checksum offloads the host grants, the csum_mask of netvsc_tx_prepare(). */
#define NETVSC_CSUM_TCP4	0x1
#define NETVSC_CSUM_TCP6	0x2
#define NETVSC_CSUM_UDP4	0x4
#define NETVSC_CSUM_UDP6	0x8

/* Protocols whose ports are part of a flow's hash, the ports_of of netvsc_pick_tx(). */
#define NETVSC_PORTS_TCP4	0x1
#define NETVSC_PORTS_TCP6	0x2
#define NETVSC_PORTS_UDP4	0x4
#define NETVSC_PORTS_UDP6	0x8
#define NETVSC_PORTS_ALL	0xf

/* Values that the offset of a transport header can have in a message: 10 bits. */
#define NETVSC_L4_OFFSETS	1024

struct netvsc_tx_meta {
	u32 len;
	u32 hash;
	u32 packets;
	u32 wire_bytes;
	u16 vlan_tci;
	u16 mss;
	u16 l4_offset;
	u8 flags;
};

/* A physically contiguous part of a frame. */
struct netvsc_tx_piece {
	u64 address;
	u32 len;
};

int netvsc_rx_receive(struct napi_struct *napi, struct page_pool *pool,
		      const struct netvsc_rx_frame *frame);
struct sk_buff *netvsc_rx_build(struct napi_struct *napi, struct page_pool *pool,
				const struct netvsc_rx_frame *frame);
void netvsc_rx_copy(const struct netvsc_rx_frame *frame, u32 from, void *to, u32 len);
bool netvsc_rx_finish(struct napi_struct *napi, struct sk_buff *skb,
		      const struct netvsc_rx_frame *frame, u16 tcp_offset, u16 gso_size,
		      u16 segments, u32 gso_type);
int netvsc_tx_prepare(struct sk_buff *skb, u32 max_pages, u32 csum_mask,
		      struct netvsc_tx_meta *meta);
int netvsc_tx_pieces(const struct sk_buff *skb, struct netvsc_tx_piece *out, u32 max);
bool netvsc_tx_copy(const struct sk_buff *skb, void *to, const void *header, u32 header_len, u32 len,
		    u32 pad);

bool netvsc_txq_completed(struct net_device *dev, unsigned int queue, u32 packets, u32 bytes);
netdev_features_t netvsc_features_check(struct sk_buff *skb, struct net_device *dev,
					netdev_features_t features);

int netvsc_pick_tx(struct net_device *dev, struct sk_buff *skb, u32 ports_of, u32 *hash);
void netvsc_pick_tx_done(struct sk_buff *skb, u16 queue);

void netvsc_allow_live_address_change(struct net_device *dev);
void netvsc_delayed_work_init(struct delayed_work *work, work_func_t fn, bool deferrable);

void netvsc_trace_nvsp_send(const struct net_device *dev, u32 type, u32 len, u64 id);
void netvsc_trace_nvsp_recv(const struct net_device *dev, u32 type, u32 len, u64 id);
void netvsc_trace_rndis_send(const struct net_device *dev, u32 type, u32 len, u64 id);
void netvsc_trace_rndis_recv(const struct net_device *dev, u32 type, u32 len, u64 id);

#endif /* NETVSC_NET_HELPERS_H */

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Everything bindgen reads to make src/bindings_generated.rs; src/bindgen_parameters says what it
 * keeps of it.
 */
#include <asm/mshyperv.h>
#include <linux/bpf.h>
#include <linux/bpf_trace.h>
#include <linux/completion.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/hyperv.h>
#include <linux/if_vlan.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/skbuff.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <net/netdev_lock.h>
#include <net/netdev_queues.h>
#include <net/page_pool/helpers.h>
#include <net/xdp.h>

#include "helpers.h"
#include "net/helpers.h"
#ifdef NETVSC_KUNIT
#include "../tests/kunit/bus.h"
#include "../tests/kunit/net.h"
#include "../tests/kunit/xdp.h"
#endif

/*
 * Constants that C makes with casts, which bindgen cannot evaluate as macros. It can as variables;
 * Kbuild strips the prefix.
 */
#define NETVSC_CONST(type, name) static const type NETVSC_CONST_##name = name

NETVSC_CONST(u32, NETVSC_XDP_ROOM);
NETVSC_CONST(gfp_t, GFP_ATOMIC);
NETVSC_CONST(gfp_t, GFP_KERNEL);
NETVSC_CONST(netdev_features_t, NETIF_F_GRO);
NETVSC_CONST(netdev_features_t, NETIF_F_HIGHDMA);
NETVSC_CONST(netdev_features_t, NETIF_F_HW_VLAN_CTAG_RX);
NETVSC_CONST(netdev_features_t, NETIF_F_HW_VLAN_CTAG_TX);
NETVSC_CONST(netdev_features_t, NETIF_F_IPV6_CSUM);
NETVSC_CONST(netdev_features_t, NETIF_F_IP_CSUM);
NETVSC_CONST(netdev_features_t, NETIF_F_LRO);
NETVSC_CONST(netdev_features_t, NETIF_F_RXCSUM);
NETVSC_CONST(netdev_features_t, NETIF_F_RXHASH);
NETVSC_CONST(netdev_features_t, NETIF_F_SG);
NETVSC_CONST(netdev_features_t, NETIF_F_TSO);
NETVSC_CONST(netdev_features_t, NETIF_F_TSO6);

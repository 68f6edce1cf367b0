// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of src/net/trace.rs: tracepoints are made of macros. Any context.
 */
#include "helpers.h"

#define CREATE_TRACE_POINTS
#include "trace_events.h"

void netvsc_trace_nvsp_send(const struct net_device *dev, u32 type, u32 len, u64 id)
{
	trace_nvsp_send(dev, type, len, id);
}

void netvsc_trace_nvsp_recv(const struct net_device *dev, u32 type, u32 len, u64 id)
{
	trace_nvsp_recv(dev, type, len, id);
}

void netvsc_trace_rndis_send(const struct net_device *dev, u32 type, u32 len, u64 id)
{
	trace_rndis_send(dev, type, len, id);
}

void netvsc_trace_rndis_recv(const struct net_device *dev, u32 type, u32 len, u64 id)
{
	trace_rndis_recv(dev, type, len, id);
}

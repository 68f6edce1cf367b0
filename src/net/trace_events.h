/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of control messages, under the names that the stock driver gives them.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM netvsc

#if !defined(NETVSC_TRACE_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define NETVSC_TRACE_EVENTS_H

#include <linux/netdevice.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(netvsc_message,
	TP_PROTO(const struct net_device *dev, u32 type, u32 len, u64 id),
	TP_ARGS(dev, type, len, id),
	TP_STRUCT__entry(
		__string(name, dev->name)
		__field(u32, msg_type)
		__field(u32, msg_len)
		__field(u64, id)
	),
	TP_fast_assign(
		__assign_str(name);
		__entry->msg_type = type;
		__entry->msg_len = len;
		__entry->id = id;
	),
	TP_printk("dev=%s type=%#x len=%u id=%#llx", __get_str(name), __entry->msg_type,
		  __entry->msg_len, __entry->id)
);

#define NETVSC_MESSAGE_EVENT(event)						\
	DEFINE_EVENT(netvsc_message, event,					\
		     TP_PROTO(const struct net_device *dev, u32 type, u32 len, u64 id), \
		     TP_ARGS(dev, type, len, id))

NETVSC_MESSAGE_EVENT(nvsp_send);
NETVSC_MESSAGE_EVENT(nvsp_recv);
NETVSC_MESSAGE_EVENT(rndis_send);
NETVSC_MESSAGE_EVENT(rndis_recv);

#endif /* NETVSC_TRACE_EVENTS_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH net
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace_events
#include <trace/define_trace.h>

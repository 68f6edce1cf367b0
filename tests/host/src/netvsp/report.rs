// SPDX-License-Identifier: GPL-2.0

//! The state and the counters of a NIC as JSON, for the control socket.

use serde_json::{json, Map, Value};

use super::nic::Nic;
use super::rss::Rss;

impl Nic {
    /// Everything there is to know about the NIC.
    pub fn report(&self) -> Value {
        let s = &self.session;
        json!({
            "name": self.config.name,
            "mac": mac(&self.mac),
            "permanent_mac": mac(&self.config.mac),
            "link": if self.link_up { "up" } else { "down" },
            "speed_mbps": self.speed_mbps,
            "max_queues": self.config.max_queues,
            "nvsp_version": s.version.map(|v| v.name()),
            "ndis_version": s.ndis.map(|(major, minor)| format!("{major}.{minor}")),
            "capabilities": s.capabilities.map(|c| format!("{c:#x}")),
            "mtu": s.frame_len - super::config::ETHERNET_HEADER,
            "rndis": s.rndis.name(),
            "packet_filter": format!("{:#x}", s.filter.bits),
            "receive_buffer": s.receive.as_ref().map(|r| json!({
                "bytes": r.len(),
                "section_size": r.section_size(),
                "sections": r.sections(),
                "in_flight": r.in_flight(),
            })),
            "send_buffer": s.send.as_ref().map(|b| json!({
                "bytes": b.len(),
                "section_size": super::buffers::SEND_SECTION,
                "sections": b.sections(),
            })),
            "subchannels_granted": s.granted,
            "rss": s.rss.as_ref().map(rss),
            "offloads": self.offload_names(),
            "channels": self.channel_report(),
            "backend": { "kind": self.backend.kind(), "counters": self.backend.counters() },
            "counters": self.counters,
        })
    }

    fn channel_report(&self) -> Value {
        let channels = self.channels.values().map(|channel| {
            let mut value = json!(channel.counters);
            value["relid"] = json!(channel.relid);
            value["outbox"] = json!(channel.outbox.len());
            value["staged"] = json!(channel.staged.len());
            value["broken"] = json!(channel.rings.is_broken());
            (channel.index.to_string(), value)
        });
        Value::Object(channels.collect::<Map<_, _>>())
    }

    fn offload_names(&self) -> Vec<&'static str> {
        let o = &self.session.offloads;
        let all = [
            (o.ip4.tx, "tx-ip4"),
            (o.ip4.rx, "rx-ip4"),
            (o.tcp4.tx, "tx-tcp4"),
            (o.tcp4.rx, "rx-tcp4"),
            (o.udp4.tx, "tx-udp4"),
            (o.udp4.rx, "rx-udp4"),
            (o.tcp6.tx, "tx-tcp6"),
            (o.tcp6.rx, "rx-tcp6"),
            (o.udp6.tx, "tx-udp6"),
            (o.udp6.rx, "rx-udp6"),
            (o.lso4, "lso4"),
            (o.lso6, "lso6"),
            (o.rsc4, "rsc4"),
            (o.rsc6, "rsc6"),
        ];
        let on = all.into_iter().filter(|(on, _)| *on);
        on.map(|(_, name)| name).collect()
    }
}

fn rss(rss: &Rss) -> Value {
    json!({
        "key": hex(&rss.key),
        "table": rss.table,
        "hash_info": format!("{:#x}", rss.hash_info),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn mac(bytes: &[u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

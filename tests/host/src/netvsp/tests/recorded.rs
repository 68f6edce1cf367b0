// SPDX-License-Identifier: GPL-2.0

//! Messages recorded from the C driver and an independent host.

use super::super::rndis_wire::{Lso, TxChecksum};
use super::super::tx_message::parse_message;
use super::memory::source;
use crate::backend::checksum;
use crate::backend::frame::{Checksum, L4};
use crate::backend::headers::IpHeaders;

/// One line of a recording.
pub struct Line {
    pub to_host: bool,
    pub channel: String,
    pub layer: String,
    fields: Vec<(String, String)>,
    pub bytes: Vec<u8>,
}

impl Line {
    pub fn field(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|(key, _)| key == name);
        field.map_or("", |(_, value)| value)
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    (0..hex.len() / 2).map(|i| digit(i * 2)).collect()
}

fn parse(text: &str) -> Vec<Line> {
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let fields = &words[4..words.len() - 1];
            let pair = |f: &&str| {
                let (key, value) = f.split_once('=').unwrap();
                (key.to_owned(), value.to_owned())
            };
            Line {
                to_host: words[1] == "G>H",
                channel: words[2].to_owned(),
                layer: words[3].to_owned(),
                fields: fields.iter().map(pair).collect(),
                bytes: unhex(words[words.len() - 1]),
            }
        })
        .collect()
}

/// Attach and detach of the C driver.
pub fn attach() -> Vec<Line> {
    parse(include_str!("../../../tests/data/attach.txt"))
}

/// Frames of the C driver, cut after 64 bytes.
pub fn frames() -> Vec<Line> {
    parse(include_str!("../../../tests/data/frames.txt"))
}

/// The recording ends 64 bytes into the frame, before data offset and checksum of TCP over IPv6.
fn restore_tcp_header(message: &mut [u8], line: &Line) {
    let data = 8 + line.field("data_off").parse::<usize>().unwrap();
    let frame = &mut message[data..];
    let Some(h) = IpHeaders::parse(frame) else {
        return;
    };
    let at = h.l4_offset + L4::Tcp.checksum_offset();
    if h.l4() != Some(L4::Tcp) || at < 64 {
        return;
    }
    frame[h.l4_offset + 12] = 0x80;
    let large = line.field("ppi").contains("2:");
    let length = if large { 0 } else { h.end - h.l4_offset };
    let sum = checksum::pseudo_header(&h.addresses, L4::Tcp, length as u32);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn frames_of_the_c_driver_are_accepted() {
    let mut seen = (0, 0, 0, 0);
    for line in frames() {
        let mut message = line.bytes.clone();
        let len: usize = line.field("msg_len").parse().unwrap();
        message.resize(len, 0);
        restore_tcp_header(&mut message, &line);
        let (frame, used) = parse_message(&source(&[&message]), 0).unwrap();
        assert_eq!(used, len);
        assert_eq!(frame.bytes.len().to_string(), line.field("data_len"));
        let mut expected = (None, None, None);
        for ppi in line.field("ppi").split(',').filter(|p| !p.is_empty()) {
            let (kind, payload) = ppi.split_once(':').unwrap();
            let payload = u32::from_le_bytes(unhex(payload).try_into().unwrap());
            match kind {
                "0" => expected.0 = Some(TxChecksum(payload)),
                "2" => expected.1 = Some(Lso(payload)),
                "6" => expected.2 = Some(payload),
                _ => {}
            }
        }
        let l4 = match frame.checksum {
            Checksum::Partial { l4, l4_offset } => Some((l4, l4_offset)),
            _ => None,
        };
        let expected_l4 = expected.0.map(|c| {
            let l4 = if c.tcp() { L4::Tcp } else { L4::Udp };
            (l4, c.l4_offset())
        });
        assert_eq!(l4, expected_l4);
        let segmentation = frame.segmentation.map(|s| (s.mss, s.l4_offset, s.v6));
        let expected_lso = expected.1.map(|l| (l.mss(), l.l4_offset(), l.ipv6()));
        assert_eq!(segmentation, expected_lso);
        assert_eq!(frame.vlan, expected.2.map(|_| 5));
        seen.0 += 1;
        seen.1 += usize::from(l4.is_some());
        seen.2 += usize::from(segmentation.is_some());
        seen.3 += usize::from(frame.vlan.is_some());
    }
    assert_eq!(seen, (15, 6, 2, 4));
}

// SPDX-License-Identifier: GPL-2.0

//! Reads the conversations of the C driver in `tests/data/` for the tests of this folder.

/// Who sent a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    GuestToHost,
    HostToGuest,
}

/// A line of a recording.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) seq: u32,
    pub(crate) direction: Direction,
    pub(crate) layer: String,
    pub(crate) name: String,
    /// Packet line that this one belongs to.
    pub(crate) of: Option<u32>,
    pub(crate) bytes: Vec<u8>,
    fields: Vec<(String, String)>,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.starts_with('#') {
            return None;
        }
        let parts: Vec<&str> = text.split(' ').collect();
        let (head, rest) = parts.split_at(4);
        let (hex, pairs) = rest.split_last().expect("no bytes");
        let fields: Vec<(String, String)> = pairs
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut this = Self {
            seq: head[0].parse().expect("sequence number"),
            direction: match head[1] {
                "G>H" => Direction::GuestToHost,
                "H>G" => Direction::HostToGuest,
                other => panic!("direction {other}"),
            },
            layer: head[3].to_owned(),
            name: String::new(),
            of: None,
            bytes: from_hex(hex),
            fields,
        };
        this.name = this.field("name").expect("name").to_owned();
        this.of = this.field("of").map(|of| of.parse().expect("of"));
        Some(this)
    }

    pub(crate) fn field(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn number(&self, key: &str) -> u32 {
        let text = self.field(key).expect(key);
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).expect(key),
            None => text.parse().expect(key),
        }
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    if hex == "-" {
        return Vec::new();
    }
    assert_eq!(hex.len() % 2, 0, "odd hex");
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
        .collect()
}

fn parse(text: &str) -> Vec<Line> {
    let lines: Vec<Line> = text.lines().filter_map(Line::parse).collect();
    assert!(!lines.is_empty(), "recording is empty");
    lines
}

pub(crate) fn attach_4_channels() -> Vec<Line> {
    parse(include_str!("../tests/data/attach-4-channels.txt"))
}

pub(crate) fn reattach_2_channels() -> Vec<Line> {
    parse(include_str!("../tests/data/reattach-2-channels.txt"))
}

pub(crate) fn requests() -> Vec<Line> {
    parse(include_str!("../tests/data/requests.txt"))
}

pub(crate) fn frames() -> Vec<Line> {
    parse(include_str!("../tests/data/frames.txt"))
}

/// The lines of one direction and layer.
pub(crate) fn select(lines: &[Line], direction: Direction, layer: &str) -> Vec<Line> {
    lines
        .iter()
        .filter(|line| line.direction == direction && line.layer == layer)
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: GPL-2.0

//! An Ethernet frame on its way between a NIC and a back end.

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// Checksum field 16 bytes into the header.
    Tcp,
    /// Checksum field 6 bytes into the header.
    Udp,
}

impl L4 {
    /// Offset of the checksum field in the L4 header, in bytes.
    pub fn checksum_offset(self) -> usize {
        match self {
            L4::Tcp => 16,
            L4::Udp => 6,
        }
    }

    /// Smallest header, in bytes.
    pub fn header_len(self) -> usize {
        match self {
            L4::Tcp => 20,
            L4::Udp => 8,
        }
    }

    /// IP protocol number.
    pub fn protocol(self) -> u8 {
        match self {
            L4::Tcp => 6,
            L4::Udp => 17,
        }
    }
}

/// State of the L4 checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nobody looked at it.
    #[default]
    Unverified,
    /// The field holds the sum of the pseudo header; the rest is still to be added.
    Partial {
        /// Start of the L4 header in the frame, in bytes.
        l4_offset: u16,
        /// Which header it is.
        l4: L4,
    },
    /// Known to be right.
    Verified,
}

/// Request to cut a TCP frame into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Payload bytes per segment.
    pub mss: u32,
    /// Start of the TCP header in the frame, in bytes.
    pub l4_offset: u16,
    /// IPv6 instead of IPv4.
    pub v6: bool,
}

/// Ethernet bytes without FCS, and what travels beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Destination MAC to end of payload.
    pub bytes: Vec<u8>,
    /// Tag control information of an 802.1Q tag that is not in `bytes`.
    pub vlan: Option<u16>,
    /// State of the L4 checksum.
    pub checksum: Checksum,
    /// Set when the frame is to be cut into segments.
    pub segmentation: Option<Segmentation>,
}

const TPID_8021Q: [u8; 2] = [0x81, 0x00];
/// Two MAC addresses: where a tag is inserted.
const TAG_OFFSET: usize = 12;
const TAG_LEN: usize = 4;

impl Frame {
    /// A plain frame.
    pub fn new(bytes: Vec<u8>) -> Self {
        Frame {
            bytes,
            ..Frame::default()
        }
    }

    /// Destination MAC, if the frame is long enough.
    pub fn destination(&self) -> Option<[u8; 6]> {
        self.bytes.get(0..6)?.try_into().ok()
    }

    /// Source MAC, if the frame is long enough.
    pub fn source(&self) -> Option<[u8; 6]> {
        self.bytes.get(6..12)?.try_into().ok()
    }

    /// Moves the VLAN tag from the metadata into the bytes and shifts the offsets behind it.
    pub fn insert_vlan(&mut self) {
        let Some(tci) = self.vlan.take() else { return };
        if self.bytes.len() < TAG_OFFSET {
            return;
        }
        let [hi, lo] = tci.to_be_bytes();
        let tag = [TPID_8021Q[0], TPID_8021Q[1], hi, lo];
        self.bytes.splice(TAG_OFFSET..TAG_OFFSET, tag);
        self.shift(TAG_LEN as i32);
    }

    /// Moves an outer 802.1Q tag from the bytes into the metadata, unless there is one already.
    pub fn strip_vlan(&mut self) {
        let end = TAG_OFFSET + TAG_LEN;
        if self.vlan.is_some() || self.bytes.len() < end + 2 {
            return;
        }
        if self.bytes[TAG_OFFSET..TAG_OFFSET + 2] != TPID_8021Q {
            return;
        }
        self.vlan = Some(u16::from_be_bytes([
            self.bytes[TAG_OFFSET + 2],
            self.bytes[TAG_OFFSET + 3],
        ]));
        self.bytes.drain(TAG_OFFSET..end);
        self.shift(-(TAG_LEN as i32));
    }

    fn shift(&mut self, by: i32) {
        let moved = |offset: u16| (i32::from(offset) + by) as u16;
        if let Checksum::Partial { l4_offset, .. } = &mut self.checksum {
            *l4_offset = moved(*l4_offset);
        }
        if let Some(seg) = &mut self.segmentation {
            seg.l4_offset = moved(seg.l4_offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Frame {
        Frame::new((0u8..64).collect())
    }

    #[test]
    fn vlan_tag_round_trip_moves_offsets() {
        let mut frame = sample();
        frame.vlan = Some(0x6005);
        frame.checksum = Checksum::Partial {
            l4_offset: 34,
            l4: L4::Tcp,
        };
        let before = frame.clone();
        frame.insert_vlan();
        assert_eq!(frame.bytes.len(), 68);
        assert_eq!(frame.bytes[12..16], [0x81, 0x00, 0x60, 0x05]);
        assert_eq!(
            frame.checksum,
            Checksum::Partial {
                l4_offset: 38,
                l4: L4::Tcp
            }
        );
        frame.strip_vlan();
        assert_eq!(frame, before);
    }

    #[test]
    fn untagged_and_short_frames_stay_as_they_are() {
        let mut frame = sample();
        frame.strip_vlan();
        assert_eq!(frame, sample());
        let mut short = Frame::new(vec![1; 5]);
        short.vlan = Some(1);
        short.insert_vlan();
        short.strip_vlan();
        assert_eq!(short.bytes, vec![1; 5]);
        assert_eq!(short.destination(), None);
    }
}

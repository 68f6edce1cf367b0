// SPDX-License-Identifier: GPL-2.0

//! What a scripted host answers to the control messages of NVSP and RNDIS: bytes in, bytes out, without memory of its
//! own, so that unit tests, fuzz targets and KUnit suites have the same one. How answers travel, and what goes wrong, is
//! theirs.
//!
//! Formats are written out here by their numbers, not with the driver's encoders: a mistake of those would not show.

/// Bytes of an NVSP message.
pub(crate) const NVSP_LEN: usize = 40;
/// Most bytes of an answer.
pub(crate) const MAX_ANSWER: usize = 256;

/// Statuses of NVSP.
pub(crate) const SUCCESS: u32 = 1;
const FAILURE: u32 = 2;
const TOO_NEW: u32 = 3;
/// `STATUS_NOT_SUPPORTED` of RNDIS.
const NOT_SUPPORTED: u32 = 0xc000_00bb;
/// The bit that makes a request's type its answer's.
const COMPLETION: u32 = 0x8000_0000;
/// Bytes in front of the information in the answer to a query.
const QUERY_HEADER: usize = 24;

/// What the host has and can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers {
    /// Newest NVSP version, as on the wire.
    pub(crate) newest: u32,
    /// Receive queues: the most channels.
    pub(crate) queues: u32,
    /// Sub-channels granted, however many were asked for; else as many as there are queues for.
    pub(crate) grant: Option<u32>,
    /// Largest MTU.
    pub(crate) mtu: u32,
    /// Link state: 0 is up.
    pub(crate) media: u32,
    /// The adapter's address.
    pub(crate) mac: &'static [u8],
    /// Of the receive buffer: groups, offset, bytes and number of sections.
    pub(crate) receive_sections: [u32; 4],
    /// Bytes of a send section.
    pub(crate) send_section: u32,
    /// Alignment of messages in a packet, as a power of two.
    pub(crate) alignment_factor: u32,
    /// Most messages in a packet.
    pub(crate) max_packets: u32,
    /// Frames can be coalesced.
    pub(crate) coalesces: bool,
    /// The adapter's name, in ASCII.
    pub(crate) name: &'static str,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            newest: 0x6_0001,
            queues: 4,
            grant: None,
            mtu: 9000,
            media: 0,
            mac: &[0, 0x15, 0x5d, 1, 2, 3],
            receive_sections: [1, 0, 1728, 0],
            send_section: 6144,
            alignment_factor: 3,
            max_packets: 8,
            coalesces: false,
            name: "eth",
        }
    }
}

/// The `index`-th word of `bytes`, 0 beyond the end.
pub(crate) fn word(bytes: &[u8], index: usize) -> u32 {
    let field = bytes.get(index * 4..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

/// Writes words from the start of `to`; returns their bytes.
pub(crate) fn put(to: &mut [u8], words: &[u32]) -> usize {
    for (place, word) in to.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    words.len() * 4
}

impl Answers {
    /// The payload of the completion that answers an NVSP message; `None` for a type that has no such answer.
    pub(crate) fn nvsp(&self, message: &[u8], refuse: bool) -> Option<[u8; NVSP_LEN]> {
        let status = if refuse { FAILURE } else { SUCCESS };
        let mut answer = [0; NVSP_LEN];
        match word(message, 0) {
            1 => {
                let known = word(message, 1) <= self.newest;
                let status = if known { status } else { TOO_NEW };
                put(&mut answer, &[2, u32::MAX, 34, status])
            }
            101 => {
                let [groups, offset, len, count] = self.receive_sections;
                let end = len.wrapping_mul(count);
                put(&mut answer, &[102, status, groups, offset, len, count, end])
            }
            104 => put(&mut answer, &[105, status, self.send_section]),
            133 => {
                let possible = word(message, 2).min(self.queues.saturating_sub(1));
                put(&mut answer, &[133, status, self.grant.unwrap_or(possible)])
            }
            _ => return None,
        };
        Some(answer)
    }

    /// The payload of the completion of an RNDIS packet.
    pub(crate) fn rndis_packet(taken: bool) -> [u8; NVSP_LEN] {
        let mut completion = [0; NVSP_LEN];
        put(&mut completion, &[108, if taken { SUCCESS } else { 5 }]);
        completion
    }

    /// Writes the answer to an RNDIS request and returns its bytes; `None` for a type or an object that is not known.
    pub(crate) fn rndis(
        &self,
        request: &[u8],
        refuse: bool,
        answer: &mut [u8; MAX_ANSWER],
    ) -> Option<usize> {
        let (kind, id) = (word(request, 0), word(request, 2));
        let status = if refuse { NOT_SUPPORTED } else { 0 };
        let (header, info) = answer.split_at_mut(QUERY_HEADER);
        let len = match kind {
            2 => {
                let (packets, alignment) = (self.max_packets, self.alignment_factor);
                let body = [1, 0, 1, 0, packets, 0x4000, alignment, 0, 0];
                put(&mut answer[16..], &body) + 16
            }
            4 => {
                let len = self.object(word(request, 3), info)?;
                put(&mut header[16..], &[len as u32, 16]);
                QUERY_HEADER + len
            }
            5 => 16,
            _ => return None,
        };
        put(
            &mut answer[..16],
            &[kind | COMPLETION, len as u32, id, status],
        );
        Some(len)
    }

    /// Writes the value of an object; returns its bytes.
    fn object(&self, oid: u32, to: &mut [u8]) -> Option<usize> {
        Some(match oid {
            0x0001_0106 => put(to, &[self.mtu]),
            0x0001_0114 => put(to, &[self.media]),
            // Link speed: 10 Gbit/s.
            0x0001_0107 => put(to, &[100_000_000]),
            // RSS capabilities: 128 entries, 16 bits.
            0x0001_0203 => put(to, &[0x0012_0288, 0, 0, self.queues, 128]) - 2,
            // Friendly name, in UTF-16.
            0x0002_0216 => {
                for (place, letter) in to.chunks_exact_mut(2).zip(self.name.bytes()) {
                    place.copy_from_slice(&u16::from(letter).to_le_bytes());
                }
                self.name.len() * 2
            }
            // Permanent address.
            0x0101_0101 => {
                to[..self.mac.len()].copy_from_slice(self.mac);
                self.mac.len()
            }
            // What can be offloaded: all.
            0xfc01_020d => {
                for (offset, value) in [
                    (0, 0x009c_03a7),
                    (8, 0x155),
                    (24, 0x55),
                    (80, 2),
                    (84, 0xf53c),
                    (92, 2),
                    (96, 0xf53c),
                    (104, 5),
                    (144, if self.coalesces { 0x0101 } else { 0 }),
                ] {
                    put(&mut to[offset..], &[value]);
                }
                156
            }
            _ => return None,
        })
    }
}

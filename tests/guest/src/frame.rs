// SPDX-License-Identifier: GPL-2.0

//! Frames: how one message is delimited on a byte stream that may carry anything in between.
//!
//! Layout, little-endian, 17 bytes and the payload:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..3 | magic `A7 68 76` |
//! | 3 | kind: 0 request, 1 acknowledgement (no payload), 2 response |
//! | 4 | flags: bit 0, the payload is deflated |
//! | 5..9 | id: a response carries the id of its request |
//! | 9..13 | payload length in bytes, at most [`MAX_PAYLOAD`] |
//! | 13..17 | CRC-32 of bytes 3..13 and the payload |
//!
//! A reader skips to the next magic; a frame whose CRC is wrong costs only its magic, so noise that
//! looks like a header cannot swallow the frame behind it for longer than until more bytes arrive.

/// Longest payload of a frame, in bytes, before and after inflation.
pub const MAX_PAYLOAD: usize = 4 << 20;

const MAGIC: [u8; 3] = [0xa7, 0x68, 0x76];
const HEADER: usize = 17;
const DEFLATED: u8 = 1;
/// Payloads below this are sent as they are: a header and a checksum cost more than deflation saves.
const DEFLATE_FROM: usize = 200;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request, answered by one response; may be repeated with the same id.
    Request,
    /// The request was read; its response comes later.
    Acknowledge,
    /// The response to the request of the same id.
    Response,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Request => 0,
            Kind::Acknowledge => 1,
            Kind::Response => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            0 => Some(Kind::Request),
            1 => Some(Kind::Acknowledge),
            2 => Some(Kind::Response),
            _ => None,
        }
    }
}

/// One message as found in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Ties a response to its request.
    pub id: u32,
    /// The message, inflated.
    pub payload: Vec<u8>,
}

/// The payload is longer than [`MAX_PAYLOAD`].
#[derive(Debug, thiserror::Error)]
#[error("a message of {0} bytes is longer than a frame may be ({MAX_PAYLOAD})")]
pub struct TooLong(pub usize);

impl Frame {
    /// The bytes to write to the stream.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        if self.payload.len() > MAX_PAYLOAD {
            return Err(TooLong(self.payload.len()));
        }
        let deflated = (self.payload.len() >= DEFLATE_FROM)
            .then(|| miniz_oxide::deflate::compress_to_vec(&self.payload, 6))
            .filter(|d| d.len() < self.payload.len());
        let (flags, body) = match &deflated {
            Some(d) => (DEFLATED, d.as_slice()),
            None => (0, self.payload.as_slice()),
        };
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(&MAGIC);
        out.push(self.kind.byte());
        out.push(flags);
        out.extend_from_slice(&self.id.to_le_bytes());
        // Fits: MAX_PAYLOAD is far below 2^32.
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        let crc = checksum(&out[3..13], body);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(body);
        Ok(out)
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(body);
    crc.finalize()
}

/// Finds frames in a stream fed to it piece by piece.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    noise: Vec<u8>,
}

/// How much noise is kept for diagnosis, in bytes.
const NOISE_KEPT: usize = 4096;

impl Decoder {
    /// Adds bytes read from the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame, if its bytes are all there.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let start = find_magic(&self.buffer);
            self.discard(start);
            match parse(&self.buffer) {
                Parse::Incomplete => return None,
                Parse::Noise => self.discard(1),
                Parse::Frame(frame, length) => {
                    self.buffer.drain(..length);
                    return Some(frame);
                }
            }
        }
    }

    /// The last bytes seen that belonged to no frame: what somebody else wrote to the line.
    pub fn noise(&self) -> &[u8] {
        &self.noise
    }

    /// Gives up on a frame that does not get completed: the next one is searched behind its magic.
    pub fn resync(&mut self) {
        if !self.buffer.is_empty() {
            self.discard(1);
        }
    }

    fn discard(&mut self, count: usize) {
        self.noise.extend(self.buffer.drain(..count));
        let surplus = self.noise.len().saturating_sub(NOISE_KEPT);
        self.noise.drain(..surplus);
    }
}

/// Where the next magic, or a beginning of one at the very end, starts.
fn find_magic(buffer: &[u8]) -> usize {
    (0..buffer.len())
        .find(|&i| {
            let rest = &buffer[i..];
            let n = rest.len().min(MAGIC.len());
            rest[..n] == MAGIC[..n]
        })
        .unwrap_or(buffer.len())
}

enum Parse {
    Incomplete,
    Noise,
    Frame(Frame, usize),
}

fn parse(buffer: &[u8]) -> Parse {
    let Some(header) = buffer.get(..HEADER) else {
        return Parse::Incomplete;
    };
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (Some(kind), true) = (Kind::from_byte(header[3]), header[4] & !DEFLATED == 0) else {
        return Parse::Noise;
    };
    let length = word(9) as usize;
    if length > MAX_PAYLOAD {
        return Parse::Noise;
    }
    let Some(body) = buffer.get(HEADER..HEADER + length) else {
        return Parse::Incomplete;
    };
    if checksum(&header[3..13], body) != word(13) {
        return Parse::Noise;
    }
    let payload = if header[4] & DEFLATED != 0 {
        match miniz_oxide::inflate::decompress_to_vec_with_limit(body, MAX_PAYLOAD) {
            Ok(payload) => payload,
            Err(_) => return Parse::Noise,
        }
    } else {
        body.to_vec()
    };
    Parse::Frame(
        Frame {
            kind,
            id: word(5),
            payload,
        },
        HEADER + length,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u32, payload: &[u8]) -> Frame {
        Frame {
            kind: Kind::Response,
            id,
            payload: payload.to_vec(),
        }
    }

    fn all(decoder: &mut Decoder) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.next_frame()).collect()
    }

    #[test]
    fn frames_survive_byte_by_byte_delivery() {
        let frames = [
            frame(1, b""),
            frame(2, b"hello"),
            frame(3, &[b'x'; 100_000]),
        ];
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        for f in &frames {
            for byte in f.encode().expect("short enough") {
                decoder.feed(&[byte]);
                got.extend(decoder.next_frame());
            }
        }
        assert_eq!(got, frames);
        assert!(decoder.noise().is_empty());
    }

    #[test]
    fn long_repetitive_payloads_are_deflated_and_random_ones_are_not() {
        assert!(frame(1, &[7; 10_000]).encode().expect("encodes").len() < 200);
        let mut noise = vec![0; 1000];
        crate::pattern::Pattern::new(3).fill(&mut noise);
        assert_eq!(frame(1, &noise).encode().expect("encodes").len(), 1017);
    }

    #[test]
    fn noise_between_frames_is_skipped_and_kept() {
        let mut decoder = Decoder::default();
        decoder.feed(b"[    1.0] hv_vmbus: \xa7\x68 something");
        decoder.feed(&frame(9, b"answer").encode().expect("encodes"));
        decoder.feed(b"more\xa7");
        decoder.feed(&frame(10, b"again").encode().expect("encodes"));
        assert_eq!(
            all(&mut decoder),
            [frame(9, b"answer"), frame(10, b"again")]
        );
        assert!(decoder.noise().starts_with(b"[    1.0] hv_vmbus"));
    }

    #[test]
    fn a_damaged_frame_costs_only_itself() {
        let mut bytes = frame(1, b"first").encode().expect("encodes");
        bytes[18] ^= 0x40;
        bytes.extend(frame(2, b"second").encode().expect("encodes"));
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        assert_eq!(all(&mut decoder), [frame(2, b"second")]);
    }

    #[test]
    fn a_header_that_promises_more_than_comes_can_be_given_up() {
        let mut lost = frame(1, &[5; 150]).encode().expect("encodes");
        lost.truncate(30);
        let mut decoder = Decoder::default();
        decoder.feed(&lost);
        decoder.feed(&frame(2, b"next").encode().expect("encodes"));
        assert_eq!(decoder.next_frame(), None);
        decoder.resync();
        assert_eq!(decoder.next_frame(), Some(frame(2, b"next")));
    }
}

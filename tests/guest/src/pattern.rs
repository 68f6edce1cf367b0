// SPDX-License-Identifier: GPL-2.0

//! Reproducible bytes: what a receiver expects is computed, never sent.

/// An endless byte sequence determined by its seed (splitmix64, little-endian words).
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    /// The sequence of `seed`, from its beginning.
    pub fn new(seed: u64) -> Self {
        Pattern {
            state: seed,
            word: [0; 8],
            used: 8,
        }
    }

    fn next_word(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    /// The next `buffer.len()` bytes of the sequence.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        if self.used < 8 {
            let n = rest.len().min(8 - self.used);
            rest[..n].copy_from_slice(&self.word[self.used..self.used + n]);
            self.used += n;
            rest = &mut rest[n..];
        }
        let mut words = rest.chunks_exact_mut(8);
        for chunk in &mut words {
            chunk.copy_from_slice(&self.next_word());
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            self.word = self.next_word();
            self.used = tail.len();
            tail.copy_from_slice(&self.word[..tail.len()]);
        }
    }
}

/// Running checksum of a byte stream (CRC-32), so that both ends can state what they saw.
#[derive(Clone, Debug, Default)]
pub struct Checksum(crc32fast::Hasher);

impl Checksum {
    /// Takes the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_same_sequence() {
        let mut whole = [0; 100];
        Pattern::new(42).fill(&mut whole);
        for step in 1..20 {
            let mut pieces = [0; 100];
            let mut pattern = Pattern::new(42);
            pieces.chunks_mut(step).for_each(|c| pattern.fill(c));
            assert_eq!(pieces, whole, "step {step}");
        }
    }

    #[test]
    fn seeds_differ() {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        Pattern::new(1).fill(&mut a);
        Pattern::new(2).fill(&mut b);
        assert_ne!(a, b);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Little-endian words, read and written without the code under test.

/// The `index`-th word of `bytes`, wide enough for sums; `None` beyond the end.
pub fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let field = bytes.get(index * 4..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*field).into())
}

/// The bytes of `words`.
pub fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Whether `part` lies inside `whole`, or is empty.
pub fn lies_in(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    part.is_empty() || (whole.start <= part.start && part.end <= whole.end)
}

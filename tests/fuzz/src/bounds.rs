// SPDX-License-Identifier: GPL-2.0

//! Length fields at their bounds. Whether a part just fits depends on sums of several fields, which blind changes
//! hardly ever hit: here a field is set to what others leave, give or take one.

use crate::words::word;

/// Checks the message in `data`, which follows 4 bytes that say how to change it, as it is and changed.
pub fn run(data: &[u8], check: impl Fn(&[u8])) {
    let Some((change, message)) = data.split_first_chunk::<4>() else {
        return check(data);
    };
    check(message);
    if let Some(changed) = changed(message, *change) {
        check(&changed);
    }
}

/// Sets word `at` to the word (or length) `from`, less the word (or 8) `less`, with or without a header's 8 bytes,
/// and give or take one. No change if `at` is 0, which is the type of most messages.
fn changed(message: &[u8], [at, from, less, rest]: [u8; 4]) -> Option<Vec<u8>> {
    let place = usize::from(at).checked_mul(4).filter(|place| *place > 0)?;
    let from = match from.checked_sub(1) {
        Some(index) => word(message, index.into())?,
        None => message.len() as u64,
    };
    let less = match less.checked_sub(2) {
        Some(index) => word(message, index.into())?,
        None => u64::from(less) * 8,
    };
    let header = u64::from(rest & 4) * 2;
    let value = (from
        .wrapping_sub(less)
        .wrapping_sub(header)
        .wrapping_add(u64::from(rest & 3)))
    .wrapping_sub(1);
    let mut changed = message.to_vec();
    let field = changed.get_mut(place..)?.first_chunk_mut::<4>()?;
    *field = (value as u32).to_le_bytes();
    Some(changed)
}

// SPDX-License-Identifier: GPL-2.0

//! Arithmetic on the indices of a ring that is shared with the host.
//!
//! Source: `include/linux/hyperv.h`, `struct hv_ring_buffer`: `write_index` at 0, `read_index` at 4. Indices
//! are byte offsets into the data; equal ones mean empty, so a ring is never filled to the last byte.
//! Whatever the host wrote, the results here are within the ring's size.
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic
)]

/// Bytes waiting between `read` and `write` in a ring of `size` bytes; `None` if an index is outside.
pub const fn bytes_used(write: u32, read: u32, size: u32) -> Option<u32> {
    if write >= size || read >= size {
        None
    } else if write >= read {
        Some(write.wrapping_sub(read))
    } else {
        Some(size.wrapping_sub(read).wrapping_add(write))
    }
}

/// Bytes free in a ring of `size` bytes; none if an index is outside.
pub const fn bytes_free(write: u32, read: u32, size: u32) -> u32 {
    match bytes_used(write, read, size) {
        Some(used) => size.wrapping_sub(used),
        None => 0,
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)] // on generated values of known range
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn indices_outside_the_ring_are_refused() {
        assert_eq!(bytes_used(4096, 0, 4096), None);
        assert_eq!(bytes_used(0, 4096, 4096), None);
        assert_eq!(bytes_free(u32::MAX, 0, 4096), 0);
    }

    #[test]
    fn equal_indices_mean_empty() {
        assert_eq!(bytes_used(8, 8, 4096), Some(0));
        assert_eq!(bytes_free(8, 8, 4096), 4096);
    }

    proptest! {
        #[test]
        fn used_and_free_make_the_ring(write: u32, read: u32, size in 1u32..1 << 24) {
            match bytes_used(write, read, size) {
                Some(used) => {
                    prop_assert_eq!((read + used) % size, write);
                    prop_assert_eq!(used + bytes_free(write, read, size), size);
                }
                None => prop_assert!(write >= size || read >= size),
            }
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Copying to and from memory that the host can change at any time.
//!
//! Every byte is read once and written once, by volatile accesses: the compiler cannot read the source again
//! through the destination, whatever becomes of the copy. What is copied so is short, headers and control
//! messages, for which a few moves cost less than a string instruction; frames are copied by the kernel's `memcpy`.

/// Eight bytes that one instruction moves, however they are aligned.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Word(u64);

/// Four bytes of the same kind.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Half(u32);

/// Copies `len` bytes.
///
/// # Safety
///
/// `from` is readable and `to` writable for `len` bytes, and the two do not overlap. Of the two, one may be
/// memory that others change at the same time.
#[inline(always)]
pub(super) unsafe fn copy_shared(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0usize;
    // SAFETY: `done + size_of::<T>() <= len` before each step, so by the requirements of this function both
    // pointers are good for a `T`; any bytes are one. Both are multiples of 8 where a `u64` is moved, the others have no
    // alignment.
    unsafe {
        // What hosts write lies so; the compiler moves a packed word by way of the stack.
        if (from.addr() | to.addr()) % size_of::<u64>() == 0 {
            while len.wrapping_sub(done) >= 8 {
                step::<u64>(from, to, &mut done);
            }
        }
        while len.wrapping_sub(done) >= 8 {
            step::<Word>(from, to, &mut done);
        }
        if len.wrapping_sub(done) >= 4 {
            step::<Half>(from, to, &mut done);
        }
        while done < len {
            step::<u8>(from, to, &mut done);
        }
    }
}

/// Copies one `T` at `done`, which moves on.
///
/// # Safety
///
/// From `done` on, `from` is readable and `to` writable for a `T`, for which any bytes are valid and which
/// they are aligned for.
#[inline(always)]
unsafe fn step<T: Copy>(from: *const u8, to: *mut u8, done: &mut usize) {
    // SAFETY: By the requirements of this function.
    unsafe {
        let value = from.add(*done).cast::<T>().read_volatile();
        to.add(*done).cast::<T>().write_volatile(value);
    }
    *done = done.wrapping_add(size_of::<T>());
}

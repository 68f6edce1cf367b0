// SPDX-License-Identifier: GPL-2.0

//! A mark for whoever counts instructions below this machine, at the moment that counters are read.

/// Executes the mark: a `nop` whose operand an emulator's plugin knows (`tests/instructions` in this repository), and
/// nothing else does anything with.
#[cfg(target_arch = "x86_64")]
pub fn moment() {
    // SAFETY: A no-operation, whatever its operand says: it touches neither memory nor registers nor flags.
    unsafe {
        std::arch::asm!(
            ".byte 0x0f, 0x1f, 0x84, 0x00, 0x69, 0x6e, 0x73, 0x6e",
            options(nomem, nostack, preserves_flags)
        );
    }
}

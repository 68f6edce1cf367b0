// SPDX-License-Identifier: GPL-2.0

//! What the plugin needs of QEMU's plugin interface, version 7 (QEMU 11.1), which no published crate knows yet.
//!
//! Source: `include/plugins/qemu-plugin.h` of QEMU. QEMU refuses plugins that were written for another version.

use std::ffi::{c_int, c_uint, c_void};

/// Version of the interface.
pub const VERSION: c_int = 7;
/// `QEMU_PLUGIN_CB_NO_REGS`: the callback does not look at registers.
pub const NO_REGS: c_int = 0;
/// `QEMU_PLUGIN_INLINE_ADD_U64`.
pub const ADD: c_int = 0;

/// `qemu_plugin_id_t`.
pub type Id = u64;

/// `struct qemu_plugin_tb`: a block of code that is being translated.
#[repr(C)]
pub struct Block {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_insn`: an instruction of a block.
#[repr(C)]
pub struct Instruction {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_scoreboard`: memory for each processor.
#[repr(C)]
pub struct Scoreboard {
    _opaque: [u8; 0],
}

/// `qemu_plugin_u64`: a number in that memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Number {
    /// Where.
    pub score: *mut Scoreboard,
    /// Bytes from the beginning of a processor's memory.
    pub offset: usize,
}

/// `qemu_plugin_vcpu_tb_trans_cb_t`: the block is valid until it returns.
pub type Translated = unsafe extern "C" fn(block: *mut Block, data: *mut c_void);
/// `qemu_plugin_vcpu_udata_cb_t`.
pub type Executed = unsafe extern "C" fn(processor: c_uint, data: *mut c_void);

extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, call: Translated, data: *mut c_void);
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Block,
        call: Executed,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block: *mut Block,
        operation: c_int,
        number: Number,
        operand: u64,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: Executed,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_data(
        instruction: *const Instruction,
        to: *mut c_void,
        len: usize,
    ) -> usize;
    pub fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    pub fn qemu_plugin_scoreboard_new(element_size: usize) -> *mut Scoreboard;
    pub fn qemu_plugin_scoreboard_find(score: *mut Scoreboard, processor: c_uint) -> *mut c_void;
}

// SPDX-License-Identifier: GPL-2.0

//! A QEMU plugin that counts the instructions which a nested guest executes, by address.
//!
//! The machine that QEMU emulates (L1) runs the guest (L2) by `VMRUN`. Translations of code are kept apart by
//! whether the processor is in guest mode, so what is translated between a `VMRUN` and the instruction behind it, which
//! is where the exit leads, is the guest's. Only that is counted, a block of code at a time: an instruction at which a
//! block is left early (a page fault) counts with those behind it in the block.
//!
//! `-plugin FILE,socket=PATH` has the count served on a Unix socket, see `service`. For one processor.

mod counts;
mod qemu;
mod service;

use std::ffi::{c_char, c_int, c_void, CStr};
use std::os::unix::net::UnixListener;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;

use counts::Counts;
use qemu::{
    qemu_plugin_insn_data, qemu_plugin_insn_vaddr, qemu_plugin_register_vcpu_insn_exec_cb,
    qemu_plugin_register_vcpu_tb_exec_cb, qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu,
    qemu_plugin_register_vcpu_tb_trans_cb, qemu_plugin_tb_get_insn, qemu_plugin_tb_n_insns,
    qemu_plugin_tb_vaddr, Block, ADD, NO_REGS,
};

/// A `nop` by which a program of L1 says that the count as of then is wanted.
const MARK: [u8; 8] = [0x0f, 0x1f, 0x84, 0x00, b'i', b'n', b's', b'n'];
/// `VMRUN`.
const VMRUN: [u8; 3] = [0x0f, 0x01, 0xd8];

/// Whether the processor is between a `VMRUN` and the instruction behind it.
static IN_GUEST: AtomicBool = AtomicBool::new(false);
/// Address of the instruction behind the `VMRUN` translated last; 0: none yet.
static EXIT: AtomicU64 = AtomicU64::new(0);
static COUNTS: OnceLock<Counts> = OnceLock::new();

/// The version of the interface that this was written for.
#[no_mangle]
pub static qemu_plugin_version: c_int = qemu::VERSION;

/// Called by QEMU with the arguments of `-plugin`; another return value than 0 ends QEMU.
///
/// # Safety
///
/// `argv` has `argc` strings.
#[no_mangle]
pub unsafe extern "C" fn qemu_plugin_install(
    id: qemu::Id,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let arguments = (0..usize::try_from(argc).unwrap_or(0)).map(|index| {
        // SAFETY: By the requirements of this function.
        unsafe { CStr::from_ptr(*argv.add(index)) }.to_string_lossy()
    });
    match start(arguments) {
        Ok(()) => {
            // SAFETY: The callback has the type that is asked for and stays for ever.
            unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated, null_mut()) };
            0
        }
        Err(why) => {
            eprintln!("guest-instructions: {why}");
            1
        }
    }
}

fn start<S: AsRef<str>>(arguments: impl Iterator<Item = S>) -> Result<(), String> {
    let mut listener = None;
    for argument in arguments {
        let argument = argument.as_ref();
        let path = argument
            .strip_prefix("socket=")
            .ok_or_else(|| format!("'{argument}' is not socket=PATH"))?;
        let bound = UnixListener::bind(path).map_err(|e| format!("socket={path}: {e}"))?;
        listener = Some(bound);
    }
    let listener = listener.ok_or("socket=PATH is not given")?;
    let counts = COUNTS.get_or_init(Counts::new);
    std::thread::Builder::new()
        .name("instructions".into())
        .spawn(move || service::serve(&listener, counts))
        .map(drop)
        .map_err(|e| format!("cannot start a thread: {e}"))
}

/// A block of code was translated: adds what counts it.
unsafe extern "C" fn translated(tb: *mut Block, _data: *mut c_void) {
    // SAFETY: QEMU calls with a block that is valid until this returns.
    let (start, len) = unsafe { (qemu_plugin_tb_vaddr(tb), qemu_plugin_tb_n_insns(tb)) };
    if start == EXIT.load(Ordering::Relaxed) {
        IN_GUEST.store(false, Ordering::Relaxed);
        // SAFETY: As above; the callback stays for ever.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_cb(tb, leave, NO_REGS, null_mut());
        }
    }
    if !IN_GUEST.load(Ordering::Relaxed) {
        // SAFETY: As above.
        unsafe { watch_entry(tb, len) };
        return;
    }
    if let Some(entry) = COUNTS.get().and_then(|counts| counts.entry(start)) {
        // SAFETY: As above; the entry stays for ever.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, ADD, entry, len as u64);
        }
    }
}

/// Notes when a block of L1 enters the guest or has the mark, if it does.
///
/// # Safety
///
/// `tb` is a block of `len` instructions that is being translated.
unsafe fn watch_entry(tb: *mut Block, len: usize) {
    for index in 0..len {
        let mut bytes = [0u8; MARK.len()];
        // SAFETY: There is such an instruction; so many bytes fit.
        unsafe {
            let insn = qemu_plugin_tb_get_insn(tb, index);
            let copied = qemu_plugin_insn_data(insn, bytes.as_mut_ptr().cast(), bytes.len());
            let bytes = bytes.get(..copied).unwrap_or(&[]);
            if bytes == MARK {
                qemu_plugin_register_vcpu_insn_exec_cb(insn, mark, NO_REGS, null_mut());
            } else if bytes == VMRUN {
                let behind = qemu_plugin_insn_vaddr(insn).wrapping_add(VMRUN.len() as u64);
                EXIT.store(behind, Ordering::Relaxed);
                qemu_plugin_register_vcpu_insn_exec_cb(insn, enter, NO_REGS, null_mut());
            }
        }
    }
}

unsafe extern "C" fn enter(_vcpu: u32, _data: *mut c_void) {
    IN_GUEST.store(true, Ordering::Relaxed);
}

unsafe extern "C" fn mark(_vcpu: u32, _data: *mut c_void) {
    if let Some(counts) = COUNTS.get() {
        counts.mark();
    }
}

unsafe extern "C" fn leave(_vcpu: u32, _data: *mut c_void) {
    IN_GUEST.store(false, Ordering::Relaxed);
}

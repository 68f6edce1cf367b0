// SPDX-License-Identifier: GPL-2.0

//! `bpf(2)`, as far as it loads a program and lists all (`include/uapi/linux/bpf.h`).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{anyhow, Result};
use nix::libc;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;
const LOG: usize = 64 << 10;
const NAME: &[u8] = b"scenario";

/// The beginning of the part of `union bpf_attr` that is for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_kind: u32,
}

/// Has the kernel check a program; a refusal carries what its verifier says.
pub fn load(instructions: &[u8], fragments: bool) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut log = vec![0_u8; LOG];
    let mut name = [0; 16];
    name[..NAME.len()].copy_from_slice(NAME);
    let attributes = Attributes {
        kind: BPF_PROG_TYPE_XDP,
        count: u32::try_from(instructions.len() / INSTRUCTION)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: LOG as u32,
        log: log.as_mut_ptr() as u64,
        flags: if fragments { BPF_F_XDP_HAS_FRAGS } else { 0 },
        name,
        ..Attributes::default()
    };
    // SAFETY: `attributes` is initialised and as long as is said. The addresses in it are those of `instructions` (the
    // kernel reads `count` of 8 bytes), of a string that ends with a zero, and of `log`, of which the kernel writes
    // `log_size` bytes at most; all of them outlive the call, and nobody else uses `log` meanwhile.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    match libc::c_int::try_from(result) {
        // SAFETY: the call has just opened this descriptor, and nobody else knows it.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => {
            let error = io::Error::last_os_error();
            let said = log.split(|&byte| byte == 0).next().unwrap_or_default();
            Err(anyhow!("{error}: {}", String::from_utf8_lossy(said).trim()))
        }
    }
}

/// The part of `union bpf_attr` for BPF_PROG_GET_NEXT_ID.
#[repr(C)]
#[derive(Default)]
struct Following {
    after: u32,
    next: u32,
    flags: u32,
}

/// The numbers of all programs that are loaded.
pub fn loaded() -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    loop {
        let mut following = Following {
            after: numbers.last().copied().unwrap_or(0),
            ..Following::default()
        };
        // SAFETY: `following` is initialised and as long as is said; the kernel reads and writes nothing else.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_GET_NEXT_ID,
                &raw mut following,
                size_of::<Following>(),
            )
        };
        if result == 0 {
            numbers.push(following.next);
            continue;
        }
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::NotFound => Ok(numbers),
            _ => Err(error),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_lie_as_the_kernel_has_them() {
        assert_eq!(size_of::<Attributes>(), 72);
        assert_eq!(std::mem::offset_of!(Attributes, instructions), 8);
        assert_eq!(std::mem::offset_of!(Attributes, log), 32);
        assert_eq!(std::mem::offset_of!(Attributes, flags), 44);
        assert_eq!(std::mem::offset_of!(Attributes, attach_kind), 68);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! KVM's Hyper-V interfaces that `kvm-ioctls` does not wrap, and the payload of a Hyper-V exit.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    kvm_cpuid_entry2, kvm_hyperv_eventfd, kvm_run, CpuId, KVMIO, KVM_CAP_HYPERV_SYNIC2,
    KVM_EXIT_HYPERV, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNIC, KVM_HYPERV_EVENTFD_DEASSIGN,
};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_ref};
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_HYPERV_EVENTFD, KVMIO, 0xbd, kvm_hyperv_eventfd);
ioctl_iowr_nr!(
    KVM_GET_SUPPORTED_HV_CPUID,
    KVMIO,
    0xc1,
    kvm_bindings::kvm_cpuid2
);

/// Model specific registers of Hyper-V that the host touches (TLFS).
pub mod msr {
    /// Index of the virtual processor.
    pub const VP_INDEX: u32 = 0x4000_0002;
    /// SynIC control; bit 0 enables it.
    pub const SCONTROL: u32 = 0x4000_0080;
    /// First of the five crash parameters.
    pub const CRASH_P0: u32 = 0x4000_0100;
    /// Crash control; bit 63 says that the guest may report a crash.
    pub const CRASH_CTL: u32 = 0x4000_0105;
}

/// Whether this KVM emulates Hyper-V's interrupt controller.
pub fn has_synic(kvm: &Kvm) -> bool {
    kvm.check_extension_raw(u64::from(KVM_CAP_HYPERV_SYNIC2)) > 0
}

/// The Hyper-V CPUID leaves KVM can emulate.
pub fn supported_hyperv_cpuid(kvm: &Kvm) -> io::Result<Vec<kvm_cpuid_entry2>> {
    const MOST_LEAVES: usize = 32;
    let mut table = CpuId::new(MOST_LEAVES).map_err(|_| io::Error::other("CPUID table"))?;
    // SAFETY: the pointer is to a `kvm_cpuid2` that is followed by the `nent` entries it announces
    // (`CpuId` keeps that invariant); KVM writes no more entries than that and lowers `nent`.
    let code = unsafe {
        ioctl_with_mut_ptr(
            kvm,
            KVM_GET_SUPPORTED_HV_CPUID(),
            table.as_mut_fam_struct_ptr(),
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(table.as_slice().to_vec())
}

/// Has the guest's SIGNAL_EVENT on `connection` written to `event` inside KVM, or stops that.
pub fn hyperv_eventfd(vm: &VmFd, connection: u32, event: Option<&EventFd>) -> io::Result<()> {
    let request = kvm_hyperv_eventfd {
        conn_id: connection,
        fd: event.map_or(-1, AsRawFd::as_raw_fd),
        flags: if event.is_some() {
            0
        } else {
            KVM_HYPERV_EVENTFD_DEASSIGN
        },
        ..Default::default()
    };
    // SAFETY: the ioctl reads one `kvm_hyperv_eventfd`, which lives until it returns; KVM takes its
    // own reference to the eventfd.
    match unsafe { ioctl_with_ref(vm, KVM_HYPERV_EVENTFD(), &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a KVM_EXIT_HYPERV is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypervExit {
    /// The guest wrote one of the SynIC's registers; all three as they are now.
    Synic {
        /// SCONTROL
        control: u64,
        /// SIEFP
        event_page: u64,
        /// SIMP
        message_page: u64,
    },
    /// A hypercall for user space; the answer goes to [`set_hypercall_result`].
    Hypercall {
        /// control word: code in bits 0-15, fast in bit 16
        input: u64,
        /// first parameter: guest address, or the value itself when fast
        param: u64,
    },
    /// Something this host does not know.
    Other(u32),
}

/// Reads the payload of a Hyper-V exit; `None` if the last exit was of another kind.
pub fn hyperv_exit(run: &kvm_run) -> Option<HypervExit> {
    if run.exit_reason != KVM_EXIT_HYPERV {
        return None;
    }
    // SAFETY: with this exit reason KVM has filled the `hyperv` member. All members of its inner
    // union are plain integers, so any bytes are valid; `type_` says which one has meaning.
    unsafe {
        let exit = &run.__bindgen_anon_1.hyperv;
        Some(match exit.type_ {
            KVM_EXIT_HYPERV_SYNIC => HypervExit::Synic {
                control: exit.u.synic.control,
                event_page: exit.u.synic.evt_page,
                message_page: exit.u.synic.msg_page,
            },
            KVM_EXIT_HYPERV_HCALL => HypervExit::Hypercall {
                input: exit.u.hcall.input,
                param: exit.u.hcall.params[0],
            },
            other => HypervExit::Other(other),
        })
    }
}

/// Answers the hypercall that caused the last exit.
pub fn set_hypercall_result(run: &mut kvm_run, result: u64) {
    // Writing a `Copy` field of a union is safe; KVM reads it on the next KVM_RUN.
    run.__bindgen_anon_1.hyperv.u.hcall.result = result;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(kind: u32, words: [u64; 4]) -> kvm_run {
        let mut run = kvm_run {
            exit_reason: KVM_EXIT_HYPERV,
            ..Default::default()
        };
        run.__bindgen_anon_1.hyperv.type_ = kind;
        let [input, result, first, second] = words;
        run.__bindgen_anon_1.hyperv.u.hcall.input = input;
        run.__bindgen_anon_1.hyperv.u.hcall.result = result;
        run.__bindgen_anon_1.hyperv.u.hcall.params = [first, second];
        run
    }

    #[test]
    fn ioctl_numbers_are_the_kernels() {
        assert_eq!(KVM_HYPERV_EVENTFD(), 0x4018_aebd);
        assert_eq!(KVM_GET_SUPPORTED_HV_CPUID(), 0xc008_aec1);
    }

    #[test]
    fn payloads_are_told_apart() {
        let mut run = run_with(KVM_EXIT_HYPERV_HCALL, [0x5c, 0, 0x1000, 0]);
        let expected = HypervExit::Hypercall {
            input: 0x5c,
            param: 0x1000,
        };
        assert_eq!(hyperv_exit(&run), Some(expected));
        run.exit_reason = 0;
        assert_eq!(hyperv_exit(&run), None);
        // msr and padding, control, event page, message page
        let run = run_with(KVM_EXIT_HYPERV_SYNIC, [0x4000_0083, 1, 0x2001, 0x3001]);
        let expected = HypervExit::Synic {
            control: 1,
            event_page: 0x2001,
            message_page: 0x3001,
        };
        assert_eq!(hyperv_exit(&run), Some(expected));
    }
}

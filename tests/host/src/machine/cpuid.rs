// SPDX-License-Identifier: GPL-2.0

//! CPUID as the guest sees it: what KVM can do, one socket with one thread per core, and Hyper-V's
//! leaves in place of KVM's own.
//!
//! The Hyper-V leaves start from what KVM's Hyper-V emulation supports; only features whose other
//! half this host provides are passed on.

use kvm_bindings::kvm_cpuid_entry2;

/// Leaf 0x40000003: what a partition may use.
mod privilege {
    /// EAX: run time counter, reference counter, SynIC, synthetic timers, APIC access, hypercalls,
    /// VP index, reset MSR, reference TSC, frequency MSRs, invariant TSC control.
    pub const EAX: u32 = 1 << 0
        | 1 << 1
        | 1 << 2
        | 1 << 3
        | 1 << 4
        | 1 << 5
        | 1 << 6
        | 1 << 7
        | 1 << 9
        | 1 << 11
        | 1 << 15;
    /// EBX: post messages, signal events.
    pub const EBX: u32 = 1 << 4 | 1 << 5;
    /// EDX: XMM hypercall input, frequency MSRs, crash MSRs, direct synthetic timers.
    pub const EDX: u32 = 1 << 4 | 1 << 8 | 1 << 10 | 1 << 19;
    /// Without these two the guest does not take us for Hyper-V: hypercalls, VP index.
    pub const REQUIRED_EAX: u32 = 1 << 5 | 1 << 6;
}

/// Leaf 0x40000004, EAX: remote TLB flush, APIC MSRs, relaxed timing, no automatic end of interrupt,
/// cluster IPI, extended processor masks.
const HINTS: u32 = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11;

/// The largest Hyper-V leaf of the ordinary range.
const LAST_LEAF: u32 = 0x4000_0006;
/// Read by Linux whether announced or not; zero means "no VMBus for confidential guests here".
const VIRTUALIZATION_STACK_LEAF: u32 = 0x4000_0082;

/// KVM lacks something without which no guest takes this machine for Hyper-V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this machine's KVM has no usable Hyper-V emulation (CPUID leaf {leaf:#x} lacks bits {bits:#x})")]
pub struct NotHyperV {
    leaf: u32,
    bits: u32,
}

/// Builds the table of one vCPU out of `supported` (KVM_GET_SUPPORTED_CPUID) and `hyperv`
/// (KVM_GET_SUPPORTED_HV_CPUID).
pub fn build(
    supported: &[kvm_cpuid_entry2],
    hyperv: &[kvm_cpuid_entry2],
    vcpu: u8,
    cpus: u8,
) -> Result<Vec<kvm_cpuid_entry2>, NotHyperV> {
    let mut table: Vec<_> = supported
        .iter()
        .filter(|entry| !is_hypervisor_leaf(entry.function) && !is_topology(entry.function))
        .copied()
        .collect();
    for entry in &mut table {
        adjust(entry, vcpu, cpus);
    }
    table.extend(extended_topology(supported, vcpu, cpus));
    table.extend(hyperv_leaves(hyperv, cpus)?);
    Ok(table)
}

fn is_hypervisor_leaf(function: u32) -> bool {
    (0x4000_0000..0x4001_0000).contains(&function)
}

/// Leaves 0xb, 0x1f and AMD's 0x80000026, which KVM fills with the host's topology.
fn is_topology(function: u32) -> bool {
    matches!(function, 0xb | 0x1f | 0x8000_0026)
}

fn adjust(entry: &mut kvm_cpuid_entry2, vcpu: u8, cpus: u8) {
    match entry.function {
        1 => {
            const X2APIC: u32 = 1 << 21;
            const HYPERVISOR: u32 = 1 << 31;
            const HYPERTHREADING: u32 = 1 << 28;
            entry.ecx |= X2APIC | HYPERVISOR;
            entry.ebx = entry.ebx & 0xffff | u32::from(cpus) << 16 | u32::from(vcpu) << 24;
            entry.edx &= !HYPERTHREADING;
            if cpus > 1 {
                entry.edx |= HYPERTHREADING;
            }
        }
        4 => {
            // Cores in the package, minus one; each cache is private to its core.
            entry.eax = entry.eax & 0x3fff | core_id_mask(cpus) << 26;
        }
        0x8000_0008 => {
            entry.ecx = core_bits(cpus) << 12 | (u32::from(cpus) - 1);
        }
        0x8000_001d => entry.eax &= !(0xfff << 14),
        0x8000_001e => {
            entry.eax = u32::from(vcpu);
            entry.ebx = u32::from(vcpu);
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Bits of an APIC id that number cores.
fn core_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

fn core_id_mask(cpus: u8) -> u32 {
    (1 << core_bits(cpus)) - 1
}

/// Leaf 0xb: a level of threads (one each), a level of cores, and the terminating level.
fn extended_topology(supported: &[kvm_cpuid_entry2], vcpu: u8, cpus: u8) -> Vec<kvm_cpuid_entry2> {
    const SIGNIFICANT_INDEX: u32 = 1;
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let Some(model) = supported.iter().find(|entry| entry.function == 0xb) else {
        return Vec::new();
    };
    let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: model.flags | SIGNIFICANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: u32::from(vcpu),
        ..Default::default()
    };
    vec![
        level(0, THREAD, 0, 1),
        level(1, CORE, core_bits(cpus), u32::from(cpus)),
        level(2, 0, 0, 0),
    ]
}

fn hyperv_leaves(
    hyperv: &[kvm_cpuid_entry2],
    cpus: u8,
) -> Result<Vec<kvm_cpuid_entry2>, NotHyperV> {
    let leaf = |function: u32| kvm_cpuid_entry2 {
        function,
        ..Default::default()
    };
    let offered = |function: u32| {
        let found = hyperv.iter().find(|entry| entry.function == function);
        found.copied().unwrap_or(leaf(function))
    };
    let features = offered(0x4000_0003);
    let missing = privilege::REQUIRED_EAX & !features.eax;
    if missing != 0 {
        return Err(NotHyperV {
            leaf: features.function,
            bits: missing,
        });
    }
    let hints = offered(0x4000_0004);
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    Ok(vec![
        kvm_cpuid_entry2 {
            eax: LAST_LEAF,
            ebx: word(b"Micr"),
            ecx: word(b"osof"),
            edx: word(b"t Hv"),
            ..leaf(0x4000_0000)
        },
        kvm_cpuid_entry2 {
            eax: word(b"Hv#1"),
            ..leaf(0x4000_0001)
        },
        // Build number and version of a recent Windows Server; guests only print it.
        kvm_cpuid_entry2 {
            eax: 20348,
            ebx: 10 << 16,
            ..leaf(0x4000_0002)
        },
        kvm_cpuid_entry2 {
            eax: features.eax & privilege::EAX,
            ebx: features.ebx & privilege::EBX,
            edx: features.edx & privilege::EDX,
            ..leaf(0x4000_0003)
        },
        kvm_cpuid_entry2 {
            eax: hints.eax & HINTS,
            // Never notify the hypervisor of long spin waits: nobody listens.
            ebx: u32::MAX,
            ..leaf(0x4000_0004)
        },
        kvm_cpuid_entry2 {
            eax: u32::from(cpus),
            ebx: u32::from(cpus),
            ..leaf(0x4000_0005)
        },
        leaf(LAST_LEAF),
        leaf(VIRTUALIZATION_STACK_LEAF),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn sample(vcpu: u8, cpus: u8) -> Vec<kvm_cpuid_entry2> {
        let supported = [
            leaf(0, 0xd, 0, 0, 0),
            leaf(1, 0, 0x0f08_1234, 0, 0),
            leaf(0xb, 0, 0, 0, 99),
            leaf(0x4000_0000, 0x4000_0001, 0x4b4d_564b, 0, 0),
            leaf(0x4000_0001, 0xffff, 0, 0, 0),
            leaf(0x8000_0008, 0, 0, 0, 0),
        ];
        let hyperv = [
            leaf(0x4000_0000, 0x4000_0082, 0, 0, 0),
            leaf(0x4000_0003, u32::MAX, u32::MAX, 0, u32::MAX),
            leaf(0x4000_0004, u32::MAX, 0xfff, 0, 0),
            leaf(0x4000_0082, 2, 0, 0, 0),
        ];
        build(&supported, &hyperv, vcpu, cpus).unwrap()
    }

    fn find(table: &[kvm_cpuid_entry2], function: u32) -> kvm_cpuid_entry2 {
        let all: Vec<_> = table.iter().filter(|e| e.function == function).collect();
        assert_eq!(all.len(), 1, "leaf {function:#x}");
        *all[0]
    }

    #[test]
    fn signature_is_microsofts_and_kvms_is_gone() {
        let table = sample(0, 4);
        let signature = find(&table, 0x4000_0000);
        let bytes: Vec<u8> = [signature.ebx, signature.ecx, signature.edx]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(bytes, b"Microsoft Hv");
        assert!((0x4000_0005..0x4001_0000).contains(&signature.eax));
        assert_eq!(find(&table, 0x4000_0001).eax.to_le_bytes(), *b"Hv#1");
        assert_eq!(find(&table, 1).ecx >> 31, 1);
    }

    #[test]
    fn only_known_privileges_are_passed_on() {
        let table = sample(0, 4);
        let features = find(&table, 0x4000_0003);
        assert_eq!(features.ebx, 0x30);
        assert_eq!(features.eax & 0x6c, 0x6c);
        for bit in [0, 12, 20, 22] {
            assert_eq!(features.ebx >> bit & 1, 0);
        }
        assert_eq!(find(&table, 0x4000_0004).eax >> 9 & 1, 1);
        assert_eq!(find(&table, 0x4000_0082).eax, 0);
    }

    #[test]
    fn every_vcpu_has_its_own_id() {
        for cpus in [1u8, 2, 3, 8] {
            for vcpu in 0..cpus {
                let table = sample(vcpu, cpus);
                let basic = find(&table, 1);
                assert_eq!(basic.ebx >> 24, u32::from(vcpu));
                assert_eq!(basic.ebx & 0xffff, 0x1234);
                let levels: Vec<_> = table.iter().filter(|e| e.function == 0xb).collect();
                assert_eq!(levels.len(), 3);
                assert!(levels.iter().all(|e| e.edx == u32::from(vcpu)));
                assert!(1u32 << levels[1].eax >= u32::from(cpus));
            }
        }
    }

    #[test]
    fn a_kvm_without_hyperv_is_refused() {
        let error = build(&[], &[], 0, 1).unwrap_err();
        assert!(error.to_string().contains("0x40000003"), "{error}");
    }
}

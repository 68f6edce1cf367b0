// SPDX-License-Identifier: GPL-2.0

//! ACPI tables: processors, fixed power management hardware, and the VMBus device.

use acpi_tables::aml::{AddressSpace, AddressSpaceCacheable, Device, Name, Package, Path};
use acpi_tables::aml::{ResourceTemplate, Scope};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace as GasSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, ProcessorLocalApic, MADT,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{facs::FACS, Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};
use zerocopy::{Immutable, IntoBytes};

use super::layout;

const OEM: [u8; 6] = *b"HVHOST";
const OEM_TABLE: [u8; 8] = *b"HVHOST  ";
const REVISION: u32 = 1;
/// DSDT header size: the AML follows.
const HEADER: u32 = 36;

/// Builds all tables for `cpus` processors, writes them to guest memory and returns the address of
/// the root pointer (RSDP).
pub fn write_tables(memory: &GuestMemoryMmap, cpus: u8) -> Result<u64, GuestMemoryError> {
    let mut area = Area {
        memory,
        next: layout::ACPI_TABLES + 64,
    };
    let facs = area.put(&FACS::new())?;
    let dsdt = area.put(&dsdt())?;
    let fadt = area.put(&fadt(facs, dsdt))?;
    let madt = area.put(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.put(&xsdt)?;
    let rsdp = bytes_of(&Rsdp::new(OEM, xsdt));
    memory.write_slice(&rsdp, GuestAddress(layout::ACPI_TABLES))?;
    Ok(layout::ACPI_TABLES)
}

/// The part of guest memory that holds the tables, filled from its beginning.
struct Area<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Area<'_> {
    /// Writes one table, aligned to 64 bytes (the FACS asks for that), and returns its address.
    fn put(&mut self, table: &dyn Aml) -> Result<u64, GuestMemoryError> {
        let bytes = bytes_of(table);
        let at = self.next;
        self.memory.write_slice(&bytes, GuestAddress(at))?;
        self.next = (at + bytes.len() as u64 + 63) & !63;
        Ok(at)
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Soft off, and a bus node that holds the VMBus device and the window it may hand out.
fn dsdt() -> Sdt {
    let soft_off = Name::new(
        Path::new("_S5_"),
        &Package::new(vec![&layout::SLEEP_TYPE_OFF, &0u8, &0u8, &0u8]),
    )
    .bytes();
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::VMBUS_MMIO,
        layout::VMBUS_MMIO + layout::VMBUS_MMIO_SIZE - 1,
        None,
    );
    let vmbus = Device::new(
        Path::new("VMBS"),
        vec![
            &Name::new(Path::new("_HID"), &"VMBUS"),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_STA"), &0x0fu8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![])),
        ],
    )
    .bytes();
    let module = Device::new(
        Path::new("VMOD"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0004"),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&window])),
            &Raw(vmbus),
        ],
    )
    .bytes();
    let mut table = Sdt::new(*b"DSDT", HEADER, 2, OEM, OEM_TABLE, REVISION);
    table.append_slice(&soft_off);
    table.append_slice(&Scope::new(Path::new("_SB_"), vec![&Raw(module)]).bytes());
    table
}

/// AML that is already encoded.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

trait Encoded: Aml {
    fn bytes(&self) -> Vec<u8>
    where
        Self: Sized,
    {
        bytes_of(self)
    }
}

impl<T: Aml> Encoded for T {}

/// Fixed hardware: power button, S5, timer, reset register. Neither keyboard controller nor VGA nor
/// the clock (of which there is only what Linux reads before it reads this) is announced, which
/// spares the guest their probing.
fn fadt(facs: u64, dsdt: u64) -> acpi_tables::fadt::FADT {
    const NO_VGA: u16 = 1 << 2;
    const NO_MSI: u16 = 1 << 3;
    const NO_CMOS_CLOCK: u16 = 1 << 5;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = (layout::SCI_IRQ as u16).into();
    fadt.pm1a_evt_blk = u32::from(layout::PM_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(layout::PM_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(layout::PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = 0xffff.into();
    fadt.p_lvl3_lat = 0xffff.into();
    fadt.iapc_boot_arch = (NO_VGA | NO_MSI | NO_CMOS_CLOCK).into();
    fadt.reset_reg = io(layout::RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.x_pm1a_evt_blk = io(layout::PM_EVENT, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = io(layout::PM_CONTROL, 16, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = io(layout::PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.finalize()
}

fn io(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(GasSpace::SystemIo, bits, 0, access, u64::from(port))
}

/// An entry of the MADT that says how a legacy interrupt reaches the I/O APIC.
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct InterruptOverride {
    kind: u8,
    length: u8,
    bus: u8,
    source: u8,
    gsi: [u8; 4],
    flags: [u8; 2],
}

impl Aml for InterruptOverride {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.as_bytes());
    }
}

fn madt(cpus: u8) -> MADT {
    const ACTIVE_HIGH: u16 = 1;
    const LEVEL: u16 = 3 << 2;
    let apics = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, REVISION, apics);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt.add_structure(InterruptOverride {
        kind: 2,
        length: 10,
        bus: 0,
        source: layout::SCI_IRQ as u8,
        gsi: layout::SCI_IRQ.to_le_bytes(),
        flags: (ACTIVE_HIGH | LEVEL).to_le_bytes(),
    });
    madt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(cpus: u8) -> (GuestMemoryMmap, u64) {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), layout::HIGH_MEMORY as usize)])
                .unwrap();
        let root = write_tables(&memory, cpus).unwrap();
        (memory, root)
    }

    fn read(memory: &GuestMemoryMmap, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn table(memory: &GuestMemoryMmap, at: u64) -> Vec<u8> {
        let len = u32::from_le_bytes(read(memory, at + 4, 4).try_into().unwrap());
        read(memory, at, len as usize)
    }

    fn sums_to_zero(bytes: &[u8]) -> bool {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    }

    #[test]
    fn chain_of_tables_is_whole() {
        let (memory, root) = tables(8);
        let rsdp = read(&memory, root, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert!(sums_to_zero(&rsdp[..20]) && sums_to_zero(&rsdp));
        let xsdt = table(
            &memory,
            u64::from_le_bytes(rsdp[24..32].try_into().unwrap()),
        );
        assert_eq!(&xsdt[..4], b"XSDT");
        assert!(sums_to_zero(&xsdt));
        let mut found = Vec::new();
        for entry in xsdt[36..].chunks(8) {
            let one = table(&memory, u64::from_le_bytes(entry.try_into().unwrap()));
            assert!(sums_to_zero(&one));
            found.push(one);
        }
        assert_eq!(&found[0][..4], b"FACP");
        assert_eq!(&found[1][..4], b"APIC");
        let dsdt = table(
            &memory,
            u64::from_le_bytes(found[0][140..148].try_into().unwrap()),
        );
        assert_eq!(&dsdt[..4], b"DSDT");
        assert!(sums_to_zero(&dsdt));
        assert!(dsdt.windows(6).any(|w| w == b"VMBUS\0"));
        assert!(dsdt.windows(4).any(|w| w == b"_S5_"));
    }

    #[test]
    fn every_processor_is_listed() {
        for cpus in [1u8, 4, 8] {
            let table = bytes_of(&madt(cpus));
            let mut at = 44;
            let mut ids = Vec::new();
            while at < table.len() {
                if table[at] == 0 {
                    ids.push(table[at + 3]);
                }
                at += usize::from(table[at + 1]);
            }
            assert_eq!(ids, (0..cpus).collect::<Vec<_>>());
            assert_eq!(at, table.len());
        }
    }

    #[test]
    fn fixed_hardware_has_its_ports() {
        let fadt = bytes_of(&fadt(0x1000, 0x2000));
        let word = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap());
        assert_eq!(word(36), 0x1000);
        assert_eq!(word(56), u32::from(layout::PM_EVENT));
        assert_eq!(word(64), u32::from(layout::PM_CONTROL));
        assert_eq!(word(76), u32::from(layout::PM_TIMER));
        assert_eq!(fadt[128], layout::RESET_VALUE);
    }
}

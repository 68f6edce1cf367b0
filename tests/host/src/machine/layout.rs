// SPDX-License-Identifier: GPL-2.0

//! Where things are in the guest's physical memory and I/O space.

/// Global descriptor table of the boot CPU (three entries are used).
pub const GDT: u64 = 0x500;
/// `struct boot_params`, the "zero page".
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack of the boot CPU until the kernel sets its own; grows downwards.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables that map the first 4 GiB one to one: PML4, PDPT and four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line, zero-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line, terminator included: what Linux on x86 accepts.
pub const CMDLINE_SIZE: usize = 2048;
/// End of the memory below the legacy hole.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// ACPI tables, in the hole where old firmware had its ROM.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Room for the ACPI tables.
pub const ACPI_SIZE: u64 = 0x2_0000;
/// Start of the memory above the hole.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; devices lie above.
pub const DEVICE_HOLE: u64 = 0xc000_0000;
/// The window VMBus may hand out to devices (none of ours wants any).
pub const VMBUS_MMIO: u32 = 0xf800_0000;
/// Size of that window.
pub const VMBUS_MMIO_SIZE: u32 = 0x0400_0000;
/// I/O APIC, as KVM's in-kernel chip has it.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page KVM needs on Intel for its identity map; three more follow for the TSS.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Where RAM goes on above 4 GiB.
pub const ABOVE_4G: u64 = 1 << 32;

/// Console UART.
pub const COM1: u16 = 0x3f8;
/// Interrupt of the console UART.
pub const COM1_IRQ: u32 = 4;
/// UART of the agent stream.
pub const COM2: u16 = 0x2f8;
/// Interrupt of the agent's UART.
pub const COM2_IRQ: u32 = 3;
/// ACPI event block (status, enable), control block and timer, in this order.
pub const PM_EVENT: u16 = 0x600;
/// PM1 control register.
pub const PM_CONTROL: u16 = 0x604;
/// Power management timer, 32 bits.
pub const PM_TIMER: u16 = 0x608;
/// ACPI interrupt.
pub const SCI_IRQ: u32 = 9;
/// Reset control register, as in Intel's chip sets.
pub const RESET: u16 = 0xcf9;
/// What written there resets the machine.
pub const RESET_VALUE: u8 = 6;
/// Keyboard controller, whose only service here is reset.
pub const I8042_COMMAND: u16 = 0x64;
/// Sleep type of soft off (S5) in the PM1 control register.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// Inputs of the I/O APIC; interrupt numbers from here on are ours to route.
pub const IO_APIC_PINS: u32 = 24;

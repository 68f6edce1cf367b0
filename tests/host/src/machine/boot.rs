// SPDX-License-Identifier: GPL-2.0

//! Putting a Linux kernel into guest memory, by the 64-bit boot protocol
//! (`Documentation/arch/x86/boot.rst`): ELF `vmlinux` or bzImage, initrd, command line, zero page,
//! page tables and segment descriptors for the boot CPU.
//!
//! Prefer an ELF image: a bzImage decompresses itself in the guest, which takes long on an emulated
//! machine. There, [`FAST_CMDLINE`] makes a stock kernel boot several times faster.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{load_cmdline, BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    ReadVolatile,
};

use super::layout;

/// Kernel parameters for a guest on an emulated machine, where exits, timer interrupts and memory
/// accesses are dear: no mitigations, no zeroing of allocations, no self tests, no watchdog, no
/// memory access sampling (200 timer interrupts a second), timers of the CPUs not all at once.
///
/// The emulated machine itself wants `mitigations=off init_on_alloc=0 damon_stat.enabled=0`, and
/// `tsc=reliable`: once it takes its own TSC for unstable, KVM has no reference TSC page for guests.
pub const FAST_CMDLINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=acpi \
     mitigations=off init_on_alloc=0 skew_tick=1 cryptomgr.notests=1 nowatchdog audit=0 \
     damon_stat.enabled=0";

const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;

/// An image that cannot be booted; one line naming the file.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be opened or read.
    #[error("{what} '{path}': {cause}")]
    Unreadable {
        /// kernel or initrd
        what: &'static str,
        /// the file
        path: PathBuf,
        /// why
        cause: std::io::Error,
    },
    /// The file is not a kernel.
    #[error("kernel '{0}' is neither an x86-64 ELF vmlinux nor a bzImage")]
    NotAKernel(PathBuf),
    /// The loader refused the image.
    #[error("kernel '{path}' cannot be loaded: {reason} (is --memory large enough?)")]
    Loader {
        /// the file
        path: PathBuf,
        /// the loader's words
        reason: String,
    },
    /// The initrd does not fit above the kernel.
    #[error("initrd '{path}' ({mib} MiB) does not fit: raise --memory")]
    InitrdTooLarge {
        /// the file
        path: PathBuf,
        /// its size in MiB, rounded up
        mib: u64,
    },
    /// The command line is too long or holds bytes it cannot.
    #[error("--cmdline cannot be used: {0}")]
    Cmdline(String),
    /// The tables for the boot CPU cannot be written.
    #[error("--memory is too small for the boot tables: {0}")]
    Tables(String),
}

/// What is to be booted.
#[derive(Clone, Debug)]
pub struct BootSource {
    /// ELF `vmlinux` or bzImage.
    pub kernel: PathBuf,
    /// Initial file system.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
}

/// Loads everything and returns the 64-bit entry point.
pub fn load(memory: &GuestMemoryMmap, source: &BootSource, rsdp: u64) -> Result<u64, BootError> {
    let (loaded, entry) = load_kernel(memory, &source.kernel)?;
    let kernel_end = kernel_end(&loaded);
    if kernel_end > low_ram_end(memory) {
        return Err(BootError::Loader {
            path: source.kernel.clone(),
            reason: format!("it needs memory up to {} MiB", kernel_end.div_ceil(1 << 20)),
        });
    }
    let initrd = match &source.initrd {
        Some(path) => Some(load_initrd(memory, path, kernel_end)?),
        None => None,
    };
    let cmdline_len = write_cmdline(memory, &source.cmdline)?;
    let mut params = zero_page(memory, &loaded, rsdp);
    params.hdr.cmdline_size = cmdline_len;
    if let Some((at, size)) = initrd {
        params.hdr.ramdisk_image = at as u32;
        params.hdr.ramdisk_size = size as u32;
    }
    let page = BootParams::new(&params, GuestAddress(layout::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&page, memory)
        .map_err(|error| BootError::Tables(error.to_string()))?;
    write_cpu_tables(memory).map_err(|error| BootError::Tables(error.to_string()))?;
    Ok(entry.raw_value())
}

fn open(what: &'static str, path: &Path) -> Result<File, BootError> {
    let unreadable = |cause| BootError::Unreadable {
        what,
        path: path.into(),
        cause,
    };
    let file = File::open(path).map_err(unreadable)?;
    let kind = file.metadata().map_err(unreadable)?;
    if kind.is_dir() {
        return Err(unreadable(std::io::Error::from_raw_os_error(libc::EISDIR)));
    }
    Ok(file)
}

fn load_kernel(
    memory: &GuestMemoryMmap,
    path: &Path,
) -> Result<(KernelLoaderResult, GuestAddress), BootError> {
    let mut file = open("kernel", path)?;
    let high = Some(GuestAddress(layout::HIGH_MEMORY));
    let refused = |error: linux_loader::loader::Error| BootError::Loader {
        path: path.into(),
        reason: error.to_string(),
    };
    match image_kind(&mut file) {
        Ok(ImageKind::Elf) => {
            let loaded = Elf::load(memory, None, &mut file, high).map_err(refused)?;
            let entry = loaded.kernel_load;
            Ok((loaded, entry))
        }
        Ok(ImageKind::BzImage) => {
            let loaded = BzImage::load(memory, None, &mut file, high).map_err(refused)?;
            let entry = loaded.kernel_load.unchecked_add(0x200);
            Ok((loaded, entry))
        }
        Err(()) => Err(BootError::NotAKernel(path.into())),
    }
}

enum ImageKind {
    Elf,
    BzImage,
}

/// Tells the two formats apart by their magic numbers.
fn image_kind(file: &mut File) -> Result<ImageKind, ()> {
    let mut magic = [0u8; 4];
    let mut at = |offset: u64| -> std::io::Result<[u8; 4]> {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut magic)?;
        Ok(magic)
    };
    match (at(0), at(0x202)) {
        (Ok(first), _) if &first == b"\x7fELF" => Ok(ImageKind::Elf),
        (_, Ok(header)) if &header == b"HdrS" => Ok(ImageKind::BzImage),
        _ => Err(()),
    }
}

/// First address that is certainly free of the kernel, its bss or decompression buffer included.
fn kernel_end(loaded: &KernelLoaderResult) -> u64 {
    const BSS_ALLOWANCE: u64 = 32 << 20;
    match &loaded.setup_header {
        Some(header) => {
            let start = header.pref_address.max(loaded.kernel_load.raw_value());
            start + u64::from(header.init_size)
        }
        None => loaded.kernel_end + BSS_ALLOWANCE,
    }
}

/// Puts the initrd as high as it may be below the device hole; returns address and size.
fn load_initrd(
    memory: &GuestMemoryMmap,
    path: &Path,
    lowest: u64,
) -> Result<(u64, u64), BootError> {
    let unreadable = |cause| BootError::Unreadable {
        what: "initrd",
        path: path.into(),
        cause,
    };
    let mut file = open("initrd", path)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let top = low_ram_end(memory).min(0x8000_0000);
    let at = top.checked_sub(size).map(|at| at & !0xfff);
    let Some(at) = at.filter(|at| *at >= lowest) else {
        return Err(BootError::InitrdTooLarge {
            path: path.into(),
            mib: size.div_ceil(1 << 20),
        });
    };
    let mut target = memory
        .get_slice(GuestAddress(at), size as usize)
        .map_err(|error| BootError::Tables(error.to_string()))?;
    file.read_exact_volatile(&mut target)
        .map_err(|error| unreadable(std::io::Error::other(error.to_string())))?;
    Ok((at, size))
}

/// End of the RAM below the device hole.
fn low_ram_end(memory: &GuestMemoryMmap) -> u64 {
    memory
        .iter()
        .map(|region| region.start_addr().raw_value() + region.len())
        .filter(|end| *end <= layout::DEVICE_HOLE)
        .max()
        .unwrap_or(0)
}

/// Writes the command line and returns its length without the terminator.
fn write_cmdline(memory: &GuestMemoryMmap, text: &str) -> Result<u32, BootError> {
    let refused = |error: &dyn std::fmt::Display| BootError::Cmdline(error.to_string());
    let mut cmdline = linux_loader::cmdline::Cmdline::new(layout::CMDLINE_SIZE)
        .map_err(|error| refused(&error))?;
    if !text.trim().is_empty() {
        cmdline
            .insert_str(text.trim())
            .map_err(|error| refused(&error))?;
    }
    load_cmdline(memory, GuestAddress(layout::CMDLINE), &cmdline).map_err(|e| refused(&e))?;
    Ok(text.trim().len() as u32)
}

fn zero_page(memory: &GuestMemoryMmap, loaded: &KernelLoaderResult, rsdp: u64) -> boot_params {
    const OTHER_LOADER: u8 = 0xff;
    let mut params = boot_params::default();
    if let Some(header) = loaded.setup_header {
        params.hdr = header;
    } else {
        params.hdr.boot_flag = 0xaa55;
        params.hdr.header = u32::from_le_bytes(*b"HdrS");
        params.hdr.version = 0x020c;
        params.hdr.kernel_alignment = 0x0100_0000;
    }
    params.hdr.type_of_loader = OTHER_LOADER;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.acpi_rsdp_addr = rsdp;
    let map = memory_map(memory);
    for (slot, (addr, size, kind)) in params.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: *addr,
            size: *size,
            r#type: *kind,
        };
    }
    params.e820_entries = map.len() as u8;
    params
}

/// The E820 map: address, size, type.
fn memory_map(memory: &GuestMemoryMmap) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::LOW_MEMORY_END, RAM),
        (
            layout::LOW_MEMORY_END,
            0xa_0000 - layout::LOW_MEMORY_END,
            RESERVED,
        ),
        (layout::ACPI_TABLES, layout::ACPI_SIZE, ACPI),
    ];
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        let end = start + region.len();
        let start = start.max(layout::HIGH_MEMORY);
        if start < end {
            map.push((start, end - start, RAM));
        }
    }
    map
}

/// Page tables that map 4 GiB one to one with 2 MiB pages, and the descriptors of the boot CPU.
fn write_cpu_tables(memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 4096;
    let pml4 = layout::PAGE_TABLES;
    let pdpt = pml4 + PAGE;
    memory.write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(pml4))?;
    for gib in 0..4u64 {
        let directory = pdpt + (gib + 1) * PAGE;
        let entry = directory | PRESENT_WRITABLE;
        memory.write_obj(entry, GuestAddress(pdpt + gib * 8))?;
        for page in 0..512u64 {
            let entry = (gib << 30) | (page << 21) | LARGE | PRESENT_WRITABLE;
            memory.write_obj(entry, GuestAddress(directory + page * 8))?;
        }
    }
    for (index, descriptor) in GDT_ENTRIES.iter().enumerate() {
        memory.write_obj(*descriptor, GuestAddress(layout::GDT + 8 * index as u64))?;
    }
    Ok(())
}

/// Null, null, `__BOOT_CS` (0x10: 64-bit code), `__BOOT_DS` (0x18: data).
pub const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
        let ranges: Vec<_> = ranges.iter().map(|(a, s)| (GuestAddress(*a), *s)).collect();
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    #[test]
    fn map_covers_all_memory_but_the_holes() {
        let memory = memory(&[(0, 0x4000_0000), (layout::ABOVE_4G, 0x1000_0000)]);
        let map = memory_map(&memory);
        let ram: u64 = map.iter().filter(|e| e.2 == RAM).map(|e| e.1).sum();
        let expected = layout::LOW_MEMORY_END + 0x4000_0000 - layout::HIGH_MEMORY + 0x1000_0000;
        assert_eq!(ram, expected);
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?} overlap");
        }
    }

    #[test]
    fn page_tables_are_an_identity() {
        let memory = memory(&[(0, 0x10_0000)]);
        write_cpu_tables(&memory).unwrap();
        let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        for address in [0u64, 0x20_0000, 0x1234_5678, 0xffe0_0000] {
            let pdpt = read(layout::PAGE_TABLES) & !0xfff;
            let directory = read(pdpt + (address >> 30) * 8) & !0xfff;
            let entry = read(directory + ((address >> 21) & 511) * 8);
            assert_eq!(entry & !0x1f_ffff, address & !0x1f_ffff);
            assert_eq!(entry & 0x83, 0x83);
        }
        assert_eq!(read(layout::GDT + 0x10), GDT_ENTRIES[2]);
    }

    #[test]
    fn bad_images_are_named() {
        let memory = memory(&[(0, 0x20_0000)]);
        let mut source = BootSource {
            kernel: "/no/such/kernel".into(),
            initrd: None,
            cmdline: String::new(),
        };
        let error = load(&memory, &source, 0).unwrap_err().to_string();
        assert!(error.contains("'/no/such/kernel'"), "{error}");
        source.kernel = "/proc/self/status".into();
        let error = load(&memory, &source, 0).unwrap_err().to_string();
        assert!(error.contains("neither"), "{error}");
        source.kernel = "/".into();
        let error = load(&memory, &source, 0).unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
    }

    #[test]
    fn initrd_goes_below_the_top_or_is_refused() {
        let memory = memory(&[(0, 0x40_0000)]);
        let path = std::env::temp_dir().join(format!("hvhost-initrd-{}", std::process::id()));
        std::fs::write(&path, vec![0x5a; 5000]).unwrap();
        let (at, size) = load_initrd(&memory, &path, layout::HIGH_MEMORY).unwrap();
        assert_eq!((at, size), (0x40_0000 - 0x2000, 5000));
        assert_eq!(
            memory.read_obj::<u8>(GuestAddress(at + 4999)).unwrap(),
            0x5a
        );
        let error = load_initrd(&memory, &path, 0x40_0000).unwrap_err();
        assert!(error.to_string().contains("--memory"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn long_command_line_is_refused() {
        let memory = memory(&[(0, 0x10_0000)]);
        assert_eq!(write_cmdline(&memory, " quiet ").unwrap(), 5);
        let error = write_cmdline(&memory, &"x".repeat(4000)).unwrap_err();
        assert!(error.to_string().starts_with("--cmdline"), "{error}");
    }
}

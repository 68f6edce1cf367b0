// SPDX-License-Identifier: GPL-2.0

//! Virtual processors: their state at power-on, and the loop that runs one and serves its exits.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use kvm_bindings::{
    kvm_enable_cap, kvm_msr_entry, kvm_regs, kvm_segment, CpuId, Msrs, KVM_CAP_HYPERV_SYNIC2,
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use serde_json::{json, Map, Value};

use super::kvm::{self, msr, HypervExit};
use super::layout;
use super::outcome::Outcome;
use super::Shared;

/// Kinds of exits to user space that are counted.
#[derive(Clone, Copy)]
enum Kind {
    IoIn,
    IoOut,
    MmioRead,
    MmioWrite,
    Synic,
    Hypercall,
    Interrupted,
    Other,
}

const KIND_NAMES: [&str; 8] = [
    "io_in",
    "io_out",
    "mmio_read",
    "mmio_write",
    "synic",
    "hypercall",
    "interrupted",
    "other",
];

/// Counters of one virtual processor.
#[derive(Default)]
pub struct VcpuStats {
    exits: [AtomicU64; KIND_NAMES.len()],
    /// The kernel's id of the thread, 0 until it runs.
    thread: AtomicU64,
    /// CPU time in nanoseconds, set when the thread ends.
    final_time: AtomicU64,
}

impl VcpuStats {
    fn count(&self, kind: Kind) {
        self.exits[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Exits by kind and CPU time, as JSON.
    pub fn counters(&self) -> Value {
        let exits: Map<String, Value> = KIND_NAMES
            .iter()
            .zip(&self.exits)
            .map(|(name, n)| (name.to_string(), json!(n.load(Ordering::Relaxed))))
            .collect();
        json!({ "exits": exits, "cpu_time_us": self.cpu_time_us() })
    }

    /// CPU time the processor's thread has used, in microseconds: that of the guest and of its exits; a
    /// halted processor uses none.
    fn cpu_time_us(&self) -> u64 {
        match self.final_time.load(Ordering::Acquire) {
            0 => thread_time(self.thread.load(Ordering::Acquire)).unwrap_or(0) / 1000,
            nanoseconds => nanoseconds / 1000,
        }
    }

    /// The id of the thread, if it has begun and not ended.
    pub fn thread(&self) -> Option<i32> {
        let id = i32::try_from(self.thread.load(Ordering::Acquire)).ok()?;
        (id > 0 && self.final_time.load(Ordering::Acquire) == 0).then_some(id)
    }

    fn begin(&self) {
        // SAFETY: gettid takes nothing and cannot fail.
        let id = unsafe { libc::gettid() };
        self.thread.store(id as u64, Ordering::Release);
    }

    fn end(&self) {
        let id = self.thread.load(Ordering::Acquire);
        let time = thread_time(id).unwrap_or(1).max(1);
        self.final_time.store(time, Ordering::Release);
    }
}

/// The clock of a thread's CPU time: the complement of its id with three bits behind it, which say "per thread,
/// as the scheduler accounts it". It is what `pthread_getcpuclockid` returns, but asking for the time of a
/// thread that has ended is an error and nothing worse.
pub fn thread_clock(id: i32) -> libc::clockid_t {
    const PER_THREAD_SCHEDULED: i32 = 0b110;
    !id << 3 | PER_THREAD_SCHEDULED
}

/// CPU time of a thread of this process in nanoseconds; `None` if it has ended. Unlike the figures in
/// `/proc` it includes what ran since the last timer tick.
fn thread_time(id: u64) -> Option<u64> {
    let id = i32::try_from(id).ok().filter(|id| *id > 0)?;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime writes one timespec, and refuses clocks that do not exist.
    let code = unsafe { libc::clock_gettime(thread_clock(id), &mut time) };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    (code == 0).then_some(seconds * 1_000_000_000 + time.tv_nsec as u64)
}

/// Prepares a new vCPU: CPUID, SynIC, VP index.
pub fn initialize(fd: &VcpuFd, index: u8, cpuid: &CpuId) -> io::Result<()> {
    fd.set_cpuid2(cpuid)?;
    let synic = kvm_enable_cap {
        cap: KVM_CAP_HYPERV_SYNIC2,
        ..Default::default()
    };
    fd.enable_cap(&synic)?;
    const SYNIC_ENABLED: u64 = 1;
    const CRASH_NOTIFY: u64 = 1 << 63;
    set_msrs(
        fd,
        &[
            (msr::VP_INDEX, u64::from(index)),
            (msr::SCONTROL, SYNIC_ENABLED),
            (msr::CRASH_CTL, CRASH_NOTIFY),
        ],
    )?;
    connect_local_interrupts(fd)
}

fn set_msrs(fd: &VcpuFd, values: &[(u32, u64)]) -> io::Result<()> {
    let entries: Vec<_> = values
        .iter()
        .map(|(index, data)| kvm_msr_entry {
            index: *index,
            data: *data,
            ..Default::default()
        })
        .collect();
    let msrs = Msrs::from_entries(&entries).map_err(|_| io::Error::other("MSR list"))?;
    let done = fd.set_msrs(&msrs)?;
    match values.get(done) {
        None => Ok(()),
        Some((index, _)) => Err(io::Error::other(format!("KVM refuses MSR {index:#x}"))),
    }
}

/// LINT0 takes the PIC's interrupts, LINT1 is NMI, as firmware leaves them.
fn connect_local_interrupts(fd: &VcpuFd) -> io::Result<()> {
    const LINT0: usize = 0x350;
    const LINT1: usize = 0x360;
    const EXTERNAL: u32 = 7 << 8;
    const NMI: u32 = 4 << 8;
    let mut lapic = fd.get_lapic()?;
    for (register, mode) in [(LINT0, EXTERNAL), (LINT1, NMI)] {
        for (to, from) in lapic.regs[register..register + 4]
            .iter_mut()
            .zip(mode.to_le_bytes())
        {
            *to = from as _;
        }
    }
    Ok(fd.set_lapic(&lapic)?)
}

/// Puts the boot CPU at `entry` in 64-bit mode, as the boot protocol asks.
pub fn set_boot_state(fd: &VcpuFd, entry: u64) -> io::Result<()> {
    const CR0_PE_ET_PG: u64 = 1 | 1 << 4 | 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
    const RFLAGS_RESERVED: u64 = 2;
    let mut sregs = fd.get_sregs()?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (8 * super::boot::GDT_ENTRIES.len() - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = segment(2, 0xb, true);
    let data = segment(3, 0x3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr0 = CR0_PE_ET_PG;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME_LMA;
    fd.set_sregs(&sregs)?;
    fd.set_regs(&kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rsp: layout::BOOT_STACK,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    })?;
    Ok(())
}

/// A flat segment of the boot GDT; `kind` is the descriptor's type field.
fn segment(index: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: index * 8,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

/// Runs a virtual processor until the machine stops.
pub fn run(mut fd: VcpuFd, vp: u32, shared: &Arc<Shared>) {
    let stats = &shared.vcpus[vp as usize];
    stats.begin();
    while !shared.stopping() {
        if let Some(outcome) = step(&mut fd, vp, shared, stats) {
            shared.stop(outcome);
        }
    }
    stats.end();
}

/// Enters the guest once and serves the exit; an outcome means that the machine stops.
fn step(fd: &mut VcpuFd, vp: u32, shared: &Shared, stats: &VcpuStats) -> Option<Outcome> {
    let exit = match fd.run() {
        Ok(exit) => exit,
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            stats.count(Kind::Interrupted);
            if shared.profile.is_on() {
                if let Ok(regs) = fd.get_regs() {
                    shared.profile.note(regs.rip);
                }
            }
            return None;
        }
        Err(error) => return Some(Outcome::Fault(format!("vCPU {vp}: {error}"))),
    };
    match exit {
        VcpuExit::IoOut(port, data) => {
            stats.count(Kind::IoOut);
            shared.ports.write(port, data)
        }
        VcpuExit::IoIn(port, data) => {
            stats.count(Kind::IoIn);
            shared.ports.read(port, data);
            None
        }
        VcpuExit::MmioRead(address, data) => {
            stats.count(Kind::MmioRead);
            tracing::debug!(vp, "read of {address:#x}, where nothing is");
            data.fill(0xff);
            None
        }
        VcpuExit::MmioWrite(address, _) => {
            stats.count(Kind::MmioWrite);
            tracing::debug!(vp, "write to {address:#x}, where nothing is");
            None
        }
        VcpuExit::Hyperv => serve_hyperv(fd, vp, shared, stats),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => Some(crash(fd)),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Some(Outcome::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Some(Outcome::Reset("Hyper-V MSR")),
        VcpuExit::Shutdown => Some(Outcome::TripleFault {
            vp,
            rip: fd.get_regs().map_or(0, |regs| regs.rip),
        }),
        VcpuExit::FailEntry(reason, cpu) => Some(Outcome::Fault(format!(
            "vCPU {vp}: entry failed with {reason:#x} on CPU {cpu}"
        ))),
        VcpuExit::InternalError => Some(internal_error(fd, vp)),
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => {
            stats.count(Kind::Other);
            None
        }
        other => Some(Outcome::Fault(format!("vCPU {vp}: {other:?}"))),
    }
}

fn serve_hyperv(fd: &mut VcpuFd, vp: u32, shared: &Shared, stats: &VcpuStats) -> Option<Outcome> {
    match kvm::hyperv_exit(fd.get_kvm_run()) {
        Some(HypervExit::Synic {
            control,
            event_page,
            message_page,
        }) => {
            stats.count(Kind::Synic);
            let partition = &shared.partition;
            partition.synic_registers(vp, control, event_page, message_page);
        }
        Some(HypervExit::Hypercall { input, param }) => {
            stats.count(Kind::Hypercall);
            let result = shared.partition.hypercall(input, param);
            kvm::set_hypercall_result(fd.get_kvm_run(), result);
        }
        Some(HypervExit::Other(kind)) => {
            stats.count(Kind::Other);
            tracing::warn!(vp, "Hyper-V exit of unknown type {kind}");
        }
        None => {
            return Some(Outcome::Fault(format!(
                "vCPU {vp}: Hyper-V exit unreadable"
            )))
        }
    }
    None
}

/// Collects the crash parameters the guest left in its MSRs.
fn crash(fd: &VcpuFd) -> Outcome {
    let entries: Vec<_> = (0..5)
        .map(|n| kvm_msr_entry {
            index: msr::CRASH_P0 + n,
            ..Default::default()
        })
        .collect();
    let mut parameters = [0; 5];
    if let Ok(mut msrs) = Msrs::from_entries(&entries) {
        if fd.get_msrs(&mut msrs).is_ok() {
            for (to, from) in parameters.iter_mut().zip(msrs.as_slice()) {
                *to = from.data;
            }
        }
    }
    Outcome::Crash(parameters)
}

fn internal_error(fd: &mut VcpuFd, vp: u32) -> Outcome {
    let rip = fd.get_regs().map_or(0, |regs| regs.rip);
    // SAFETY: after KVM_EXIT_INTERNAL_ERROR the `internal` member is filled, and it is integers.
    let suberror = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
    Outcome::Fault(format!(
        "vCPU {vp}: KVM internal error {suberror} at rip {rip:#x}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_s_time_grows_with_what_it_computes() {
        let stats = VcpuStats::default();
        assert_eq!(stats.cpu_time_us(), 0, "no thread yet");
        stats.begin();
        let before = stats.cpu_time_us();
        let mut n = 0u64;
        while stats.cpu_time_us() < before + 20_000 {
            n = std::hint::black_box(n + 1);
        }
        stats.end();
        let after = stats.cpu_time_us();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(after >= before + 20_000);
        assert_eq!(stats.cpu_time_us(), after, "it has ended");
    }

    #[test]
    fn a_thread_that_is_gone_has_no_time() {
        let id = std::thread::spawn(|| {
            // SAFETY: gettid takes nothing and cannot fail.
            (unsafe { libc::gettid() }) as u64
        });
        assert_eq!(thread_time(id.join().unwrap()), None);
        assert_eq!(thread_time(0), None);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The virtual machine: a small PC with Hyper-V's interfaces, on KVM.
//!
//! [`Machine::new`] builds it and loads the kernel, [`Machine::run`] runs it to its end. What the
//! VMBus server needs of it is [`Machine::partition`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::{
    kvm_enable_cap, kvm_pit_config, kvm_userspace_memory_region, CpuId, KVM_CAP_HALT_POLL,
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde_json::{json, Value};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

use crate::hypervisor::MessageSink;
use crate::stream::{Connector, Endpoint};

pub mod acpi;
pub mod boot;
mod clock;
pub mod cpuid;
pub mod kvm;
pub mod layout;
mod mark;
pub mod outcome;
pub mod partition;
mod ports;
mod power;
mod profile;
mod serial;
pub mod synic;
mod vcpu;

use boot::{BootError, BootSource};
use outcome::Outcome;
use partition::Partition;
use ports::Ports;
use profile::Profile;
use serial::SerialPort;
use vcpu::VcpuStats;

/// What machine to build.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Kernel, initrd, command line.
    pub boot: BootSource,
    /// Virtual processors, 1 to 8.
    pub cpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Where the first UART leads.
    pub console: Endpoint,
    /// Where the second UART leads; nowhere if absent.
    pub agent: Option<Endpoint>,
}

/// A machine that cannot be built. Displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// There is no usable KVM.
    #[error("/dev/kvm cannot be used: {0}")]
    NoKvm(io::Error),
    /// KVM is there, but without Hyper-V emulation.
    #[error("/dev/kvm has no Hyper-V emulation (KVM_CAP_HYPERV_SYNIC2 is 0): run on another kernel or in QEMU/TCG with nested SVM")]
    NoSynic,
    /// Hyper-V emulation is incomplete.
    #[error(transparent)]
    NotHyperV(#[from] cpuid::NotHyperV),
    /// Kernel, initrd or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Guest memory.
    #[error("--memory {mib}: {reason}")]
    Memory {
        /// what was asked for
        mib: u32,
        /// why it cannot be had
        reason: String,
    },
    /// Console or agent stream.
    #[error("{what} '{endpoint}': {cause}")]
    Stream {
        /// --console or --agent
        what: &'static str,
        /// where it should lead
        endpoint: Endpoint,
        /// why it does not
        cause: io::Error,
    },
    /// A step of building the machine.
    #[error("KVM: {step}: {cause}")]
    Kvm {
        /// what was being done
        step: &'static str,
        /// why it failed
        cause: io::Error,
    },
}

/// Wraps a KVM error with what was being done.
fn during<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> MachineError {
    move |error| MachineError::Kvm {
        step,
        cause: error.into(),
    }
}

/// What vCPU threads share.
pub struct Shared {
    partition: Arc<Partition>,
    ports: Ports,
    vcpus: Vec<VcpuStats>,
    profile: Profile,
    stopping: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    stopped: Condvar,
    start: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Stops the machine; the first outcome is the one that counts.
    pub fn stop(&self, outcome: Outcome) {
        self.lock().get_or_insert(outcome);
        self.stopping.store(true, Ordering::Release);
        self.stopped.notify_all();
    }

    fn wait(&self) -> Outcome {
        let mut outcome = self.lock();
        loop {
            if let Some(outcome) = outcome.clone() {
                return outcome;
            }
            let woken = self.stopped.wait(outcome);
            outcome = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Begins to note where the guest is, every so many microseconds of each virtual processor's CPU time.
    pub fn start_profile(&self, period_us: u32) -> io::Result<()> {
        let threads: Vec<i32> = self.vcpus.iter().filter_map(VcpuStats::thread).collect();
        self.profile.start(&threads, period_us)
    }

    /// Ends that: how often the guest was found at each address, as JSON.
    pub fn finish_profile(&self) -> Value {
        let samples = self.profile.finish();
        samples
            .iter()
            .map(|(address, count)| (format!("{address:x}"), json!(count)))
            .collect()
    }

    /// Presses the ACPI power button.
    pub fn press_power_button(&self) {
        self.ports.press_power_button();
    }

    /// Run time, exits and SynIC traffic as JSON.
    pub fn counters(&self) -> Value {
        mark::moment();
        let vcpus: Vec<Value> = self.vcpus.iter().map(VcpuStats::counters).collect();
        json!({
            "uptime_us": self.start.elapsed().as_micros() as u64,
            "vcpus": vcpus,
            "synic": self.partition.counters(),
            "console_bytes_dropped": self.ports.console.dropped(),
            "agent_bytes_dropped": self.ports.agent.dropped(),
        })
    }
}

/// A virtual machine that is ready to run.
pub struct Machine {
    shared: Arc<Shared>,
    vcpus: Vec<VcpuFd>,
}

impl Machine {
    /// Builds the machine and loads the kernel.
    pub fn new(config: &MachineConfig) -> Result<Self, MachineError> {
        let kvm = Kvm::new().map_err(|error| MachineError::NoKvm(error.into()))?;
        if !kvm::has_synic(&kvm) {
            return Err(MachineError::NoSynic);
        }
        let vm = Arc::new(create_vm(&kvm)?);
        let memory = create_memory(&vm, config.memory_mib)?;
        let rsdp =
            acpi::write_tables(&memory, config.cpus).map_err(|error| MachineError::Memory {
                mib: config.memory_mib,
                reason: error.to_string(),
            })?;
        let entry = boot::load(&memory, &config.boot, rsdp)?;
        let vcpus = create_vcpus(&kvm, &vm, config.cpus)?;
        vcpu::set_boot_state(&vcpus[0], entry).map_err(during("boot CPU"))?;
        let partition = Partition::new(vm.clone(), memory, config.cpus)
            .map_err(during("interrupt routes of the SynICs"))?;
        let ports = create_ports(vm, config)?;
        let shared = Shared {
            partition: Arc::new(partition),
            ports,
            vcpus: vcpus.iter().map(|_| VcpuStats::default()).collect(),
            profile: Profile::default(),
            stopping: AtomicBool::new(false),
            outcome: Mutex::new(None),
            stopped: Condvar::new(),
            start: Instant::now(),
        };
        Ok(Machine {
            shared: Arc::new(shared),
            vcpus,
        })
    }

    /// The machine as the VMBus server sees it.
    pub fn partition(&self) -> Arc<Partition> {
        self.shared.partition.clone()
    }

    /// For stopping the machine and reading its counters while it runs.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Runs the machine until it stops. Guest messages go to `sink`.
    pub fn run(self, sink: Arc<dyn MessageSink>) -> Result<Outcome, MachineError> {
        let Machine { shared, vcpus } = self;
        shared.partition.connect(sink);
        extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), interrupt).map_err(during("signal handler"))?;
        let watcher = {
            let shared = shared.clone();
            spawn("synic", move || {
                if let Err(error) = shared.partition.watch_slots() {
                    shared.stop(Outcome::Fault(format!("message slots: {error}")));
                }
            })?
        };
        let mut threads = Vec::new();
        for (vp, fd) in vcpus.into_iter().enumerate() {
            let shared = shared.clone();
            let body = move || vcpu::run(fd, vp as u32, &shared);
            threads.push(spawn(&format!("vcpu{vp}"), body)?);
        }
        let outcome = shared.wait();
        join_vcpus(threads);
        shared.partition.stop();
        if watcher.join().is_err() {
            tracing::error!("the thread that watches message slots panicked");
        }
        shared.ports.console.close();
        shared.ports.agent.close();
        Ok(outcome)
    }
}

fn spawn<F>(name: &str, body: F) -> Result<JoinHandle<()>, MachineError>
where
    F: FnOnce() + Send + 'static,
{
    let builder = thread::Builder::new().name(name.into());
    builder.spawn(body).map_err(during("thread"))
}

/// Interrupts the vCPU threads until all have ended: one signal may come just before KVM_RUN.
fn join_vcpus(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        while !thread.is_finished() {
            if let Err(error) = thread.kill(SIGRTMIN()) {
                tracing::debug!("vCPU thread: {error}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        if thread.join().is_err() {
            tracing::error!("a vCPU thread panicked");
        }
    }
}

fn create_vm(kvm: &Kvm) -> Result<VmFd, MachineError> {
    let vm = kvm.create_vm().map_err(during("create VM"))?;
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(during("identity map"))?;
    let tss = layout::IDENTITY_MAP as usize + 0x1000;
    vm.set_tss_address(tss).map_err(during("TSS"))?;
    vm.create_irq_chip().map_err(during("interrupt chips"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(during("timer chip"))?;
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        // A CPU that polls for an idle guest's next interrupt keeps everybody else from making it.
        let no_polling = kvm_enable_cap {
            cap: KVM_CAP_HALT_POLL,
            ..Default::default()
        };
        if let Err(error) = vm.enable_cap(&no_polling) {
            tracing::debug!("halt polling stays on: {error}");
        }
    }
    Ok(vm)
}

fn create_memory(vm: &VmFd, mib: u32) -> Result<GuestMemoryMmap, MachineError> {
    let refused = |reason: String| MachineError::Memory { mib, reason };
    let size = u64::from(mib) << 20;
    let low = size.min(layout::DEVICE_HOLE);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if size > low {
        ranges.push((GuestAddress(layout::ABOVE_4G), (size - low) as usize));
    }
    let memory = GuestMemoryMmap::from_ranges(&ranges).map_err(|e| refused(e.to_string()))?;
    for (slot, region) in memory.iter().enumerate() {
        let host = region
            .get_host_address(vm_memory::MemoryRegionAddress(0))
            .map_err(|e| refused(e.to_string()))?;
        // SAFETY: the range is the region's own mapping. The call only advises the kernel to use
        // large pages, which spares an emulated machine many page walks; failure changes nothing.
        unsafe {
            libc::madvise(host.cast(), region.len() as usize, libc::MADV_HUGEPAGE);
        }
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host as u64,
            ..Default::default()
        };
        // SAFETY: the mapping is `memory`'s, which the partition owns as long as vCPUs run. Guest
        // and host share it by design; the host side reads it only through `vm-memory`.
        unsafe { vm.set_user_memory_region(region) }.map_err(during("guest memory"))?;
    }
    Ok(memory)
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, cpus: u8) -> Result<Vec<VcpuFd>, MachineError> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(during("CPUID"))?;
    let hyperv = kvm::supported_hyperv_cpuid(kvm).map_err(during("Hyper-V CPUID"))?;
    let mut vcpus = Vec::new();
    for index in 0..cpus {
        let fd = vm
            .create_vcpu(u64::from(index))
            .map_err(during("create vCPU"))?;
        let table = cpuid::build(supported.as_slice(), &hyperv, index, cpus)?;
        let table = CpuId::from_entries(&table)
            .map_err(|_| during("CPUID")(io::Error::other("too many leaves")))?;
        vcpu::initialize(&fd, index, &table).map_err(during("vCPU state"))?;
        vcpus.push(fd);
    }
    Ok(vcpus)
}

fn create_ports(vm: Arc<VmFd>, config: &MachineConfig) -> Result<Ports, MachineError> {
    let port = |base: u16, irq: u32| -> Result<Arc<SerialPort>, MachineError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(during("UART"))?;
        vm.register_irqfd(&event, irq)
            .map_err(during("UART interrupt"))?;
        Ok(Arc::new(SerialPort::new(base, event)))
    };
    let console = port(layout::COM1, layout::COM1_IRQ)?;
    let agent = port(layout::COM2, layout::COM2_IRQ)?;
    attach(&console, "--console", &config.console)?;
    if let Some(endpoint) = &config.agent {
        attach(&agent, "--agent", endpoint)?;
    }
    Ok(Ports::new(vm, console, agent))
}

fn attach(
    port: &Arc<SerialPort>,
    what: &'static str,
    endpoint: &Endpoint,
) -> Result<(), MachineError> {
    let failed = |cause| MachineError::Stream {
        what,
        endpoint: endpoint.clone(),
        cause,
    };
    let connector = Connector::open(endpoint).map_err(failed)?;
    port.attach(&what[2..], connector).map_err(failed)
}

// SPDX-License-Identifier: GPL-2.0

//! The whole host: machine, VMBus server and NICs, and what the control protocol does to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{json, Map, Value};

use crate::backend::frame::Frame;
use crate::backend::generator::{Generator, GeneratorHandle, Load};
use crate::backend::null::Null;
use crate::backend::sink::{Sink, SinkHandle};
use crate::backend::switch::{Forwarding, Switch, DEFAULT_QUEUE};
use crate::backend::tap::Tap;
use crate::backend::Backend;
use crate::config::{BackendSpec, NicSpec};
use crate::control::ControlTarget;
use crate::fault::FaultSpec;
use crate::machine::outcome::Outcome;
use crate::machine::Shared;
use crate::netvsp::{Netvsp, NicConfig, NicHandle, NvspVersion, OffloadSupport, RingIndex};
use crate::vmbus::ring::RawPacket;
use crate::vmbus::server::{DeviceId, VmbusServer};

/// A NIC that is on the bus.
struct PluggedNic {
    device: DeviceId,
    handle: NicHandle,
    mac: [u8; 6],
    generator: Option<GeneratorHandle>,
    sink: Option<SinkHandle>,
}

/// A back end and, as far as it has them, the handles that the control socket uses.
struct Wiring {
    backend: Box<dyn Backend>,
    generator: Option<GeneratorHandle>,
    sink: Option<SinkHandle>,
}

impl Wiring {
    /// A back end that nobody controls.
    fn plain(backend: impl Backend + 'static) -> Self {
        Wiring {
            backend: Box::new(backend),
            generator: None,
            sink: None,
        }
    }

    fn sink(sink: Sink) -> Self {
        Wiring {
            sink: Some(sink.handle()),
            ..Wiring::plain(sink)
        }
    }

    fn generator(generator: Generator) -> Self {
        let handle = generator.handle();
        Wiring {
            sink: Some(handle.sink()),
            generator: Some(handle),
            ..Wiring::plain(generator)
        }
    }
}

#[derive(Default)]
struct Nics {
    plugged: BTreeMap<String, PluggedNic>,
    switches: HashMap<String, Switch>,
}

/// Machine, server and NICs. The lock is held while the server is called, never by the server.
pub struct TestHost {
    machine: Arc<Shared>,
    server: Arc<VmbusServer>,
    nvsp: NvspVersion,
    nics: Mutex<Nics>,
}

impl TestHost {
    /// A host without NICs that grants NVSP up to `nvsp`.
    pub fn new(machine: Arc<Shared>, server: Arc<VmbusServer>, nvsp: NvspVersion) -> Self {
        TestHost {
            machine,
            server,
            nvsp,
            nics: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Nics> {
        self.nics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_nic<T>(&self, name: &str, work: impl FnOnce(&PluggedNic) -> T) -> Result<T, String> {
        let nics = self.lock();
        match nics.plugged.get(name) {
            Some(nic) => Ok(work(nic)),
            None => Err(unknown(&nics, name)),
        }
    }
}

fn unknown(nics: &Nics, name: &str) -> String {
    let names: Vec<&str> = nics.plugged.keys().map(String::as_str).collect();
    format!("there is no NIC '{name}' (NICs: {})", names.join(", "))
}

impl Nics {
    /// The name of a new NIC: as given, or the first free `nicN`.
    fn name_for(&self, spec: &NicSpec) -> Result<String, String> {
        if !spec.name.is_empty() {
            return match self.plugged.contains_key(&spec.name) {
                true => Err(format!("name: there is a NIC '{}' already", spec.name)),
                false => Ok(spec.name.clone()),
            };
        }
        let mut names = (0..).map(|n| format!("nic{n}"));
        let free = names.find(|name| !self.plugged.contains_key(name));
        free.ok_or_else(|| "all names are taken".into())
    }

    fn wire(&mut self, spec: &NicSpec) -> Result<Wiring, String> {
        let failed = |error: std::io::Error| format!("backend: {}: {error}", spec.backend);
        match &spec.backend {
            BackendSpec::Null => Ok(Wiring::plain(Null::default())),
            BackendSpec::Sink => Ok(Wiring::sink(Sink::default())),
            BackendSpec::Generator => Generator::new(spec.mac.0)
                .map(Wiring::generator)
                .map_err(failed),
            // Its errors name the interface.
            BackendSpec::Tap(name) => Tap::open(name)
                .map(Wiring::plain)
                .map_err(|error| format!("backend: {error}")),
            BackendSpec::Switch(name) => {
                let new = || Switch::new(Forwarding::Learning, DEFAULT_QUEUE);
                let switch = self.switches.entry(name.clone()).or_insert_with(new);
                switch.port().map(Wiring::plain).map_err(failed)
            }
        }
    }
}

fn nic_config(name: &str, spec: &NicSpec, nvsp: NvspVersion) -> NicConfig {
    NicConfig {
        max_queues: spec.queues,
        max_nvsp: nvsp,
        max_mtu: spec.mtu,
        speed_mbps: spec.speed_mbps,
        link_up: spec.link_up,
        offloads: spec.offloads,
        pcap: spec.pcap.clone(),
        ..NicConfig::new(name, spec.mac.0)
    }
}

impl ControlTarget for TestHost {
    fn counters(&self) -> Value {
        let vmbus = self.server.counters();
        let nics: Map<String, Value> = self
            .lock()
            .plugged
            .iter()
            .map(|(name, nic)| (name.clone(), nic_counters(nic.device, &vmbus)))
            .collect();
        json!({
            "machine": self.machine.counters(),
            "nics": nics,
            "violations": vmbus["violations"].clone(),
            "vmbus": vmbus,
        })
    }

    fn inject(&self, fault: FaultSpec) -> Result<(), String> {
        self.server.faults().add(fault).map_err(|e| e.to_string())
    }

    fn clear_faults(&self) {
        self.server.faults().clear();
    }

    fn fault_log(&self, reset: bool) -> Vec<String> {
        let log = self.server.faults().log();
        if reset {
            self.server.faults().reset_log();
        }
        log
    }

    fn clear_violations(&self) {
        self.server.clear_violations();
    }

    fn nic_add(&self, spec: NicSpec) -> Result<String, String> {
        let mut nics = self.lock();
        let name = nics.name_for(&spec)?;
        if let Some((other, _)) = nics.plugged.iter().find(|(_, nic)| nic.mac == spec.mac.0) {
            return Err(format!("mac: {} is the address of '{other}'", spec.mac));
        }
        let wiring = nics.wire(&spec)?;
        let nic = Netvsp::new(nic_config(&name, &spec, self.nvsp), wiring.backend)
            .map_err(|error| error.to_string())?;
        let handle = nic.handle();
        let device = self
            .server
            .add_device(Box::new(nic))
            .map_err(|error| error.to_string())?;
        let plugged = PluggedNic {
            device,
            handle,
            mac: spec.mac.0,
            generator: wiring.generator,
            sink: wiring.sink,
        };
        nics.plugged.insert(name.clone(), plugged);
        Ok(name)
    }

    fn nic_remove(&self, name: &str) -> Result<(), String> {
        let mut nics = self.lock();
        let Some(nic) = nics.plugged.remove(name) else {
            return Err(unknown(&nics, name));
        };
        let removed = self.server.remove_device(nic.device);
        removed.map_err(|error| error.to_string())
    }

    fn link(&self, name: &str, up: bool, speed_mbps: Option<u32>) -> Result<(), String> {
        self.with_nic(name, |nic| {
            if let Some(speed) = speed_mbps {
                nic.handle.set_speed(speed);
            }
            nic.handle.set_link(up);
        })
    }

    fn generate(&self, name: &str, load: Option<Load>) -> Result<(), String> {
        let generator = self.with_nic(name, |nic| nic.generator.clone())?;
        let Some(generator) = generator else {
            return Err(format!("NIC '{name}' has no generator (backend=gen)"));
        };
        generator.generate(load)
    }

    fn restart_gap(&self, name: &str) -> Result<(), String> {
        let sink = self.with_nic(name, |nic| nic.sink.clone())?;
        let Some(sink) = sink else {
            return Err(format!("NIC '{name}' does not count (backend=gen or sink)"));
        };
        sink.restart_gap();
        Ok(())
    }

    fn start_profile(&self, period_us: u32) -> Result<(), String> {
        const SHORTEST_US: u32 = 100;
        if period_us < SHORTEST_US {
            return Err(format!("period_us: {period_us} is below {SHORTEST_US}"));
        }
        let started = self.machine.start_profile(period_us);
        started.map_err(|error| format!("timers of the profile: {error}"))
    }

    fn finish_profile(&self) -> Value {
        self.machine.finish_profile()
    }

    fn set_offloads(&self, name: &str, offloads: OffloadSupport) -> Result<(), String> {
        self.with_nic(name, |nic| nic.handle.set_offloads(offloads))
    }

    fn inject_frame(&self, name: &str, frame: Vec<u8>) -> Result<(), String> {
        self.with_nic(name, |nic| nic.handle.inject(Frame::new(frame)))
    }

    fn inject_messages(&self, name: &str, messages: Vec<Vec<u8>>) -> Result<(), String> {
        self.with_nic(name, |nic| nic.handle.inject_messages(messages))?
    }

    fn inject_packet(&self, name: &str, channel: u16, packet: RawPacket) -> Result<(), String> {
        self.with_nic(name, |nic| nic.handle.inject_packet(channel, packet))?
    }

    fn set_index(
        &self,
        name: &str,
        channel: u16,
        which: RingIndex,
        value: u32,
    ) -> Result<(), String> {
        self.with_nic(name, |nic| nic.handle.set_index(channel, which, value))?
    }

    fn rescind(&self, name: &str, channel: u16) -> Result<(), String> {
        let device = self.with_nic(name, |nic| nic.device)?;
        let done = self.server.rescind_subchannel(device, channel);
        done.map_err(|error| error.to_string())
    }

    fn power_button(&self) {
        self.machine.press_power_button();
    }

    fn quit(&self) {
        self.machine.stop(Outcome::Quit);
    }
}

/// What the server's counters say about one device.
fn nic_counters(device: DeviceId, vmbus: &Value) -> Value {
    let devices = vmbus["devices"].as_array();
    let record = devices.and_then(|all| all.iter().find(|one| one["id"] == device.0));
    record.cloned().unwrap_or(Value::Null)
}

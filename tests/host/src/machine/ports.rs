// SPDX-License-Identifier: GPL-2.0

//! The machine's I/O ports: two UARTs, clock and power management. Everything else reads as ones.

use std::sync::Arc;

use kvm_ioctls::VmFd;

use super::clock::Clock;
use super::layout;
use super::outcome::Outcome;
use super::power::{Effect, Power};
use super::serial::SerialPort;

/// All I/O ports that are not KVM's.
pub struct Ports {
    /// The console's UART.
    pub console: Arc<SerialPort>,
    /// The agent's UART.
    pub agent: Arc<SerialPort>,
    power: Power,
    clock: Clock,
    vm: Arc<VmFd>,
}

impl Ports {
    /// Ports of a machine at power-on.
    pub fn new(vm: Arc<VmFd>, console: Arc<SerialPort>, agent: Arc<SerialPort>) -> Self {
        Ports {
            console,
            agent,
            power: Power::new(),
            clock: Clock::default(),
            vm,
        }
    }

    /// The guest reads a port.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if self.console.owns(port) {
            self.console.read(port, data);
        } else if self.agent.owns(port) {
            self.agent.read(port, data);
        } else if Power::owns(port) {
            self.power.read(port, data);
        } else if let (true, Some(byte)) = (Clock::owns(port), data.first_mut()) {
            *byte = self.clock.read();
        }
    }

    /// The guest writes a port; an outcome means that the machine stops.
    pub fn write(&self, port: u16, data: &[u8]) -> Option<Outcome> {
        if self.console.owns(port) {
            self.console.write(port, data);
        } else if self.agent.owns(port) {
            self.agent.write(port, data);
        } else if Power::owns(port) {
            match self.power.write(port, data) {
                Effect::None => {}
                Effect::Interrupt(level) => self.acpi_interrupt(level),
                Effect::Stop(outcome) => return Some(outcome),
            }
        } else if let (true, Some(byte)) = (Clock::owns(port), data.first()) {
            self.clock.write(port, *byte);
        }
        None
    }

    /// Presses the ACPI power button.
    pub fn press_power_button(&self) {
        let level = self.power.press_button();
        self.acpi_interrupt(level);
    }

    fn acpi_interrupt(&self, level: bool) {
        if let Err(error) = self.vm.set_irq_line(layout::SCI_IRQ, level) {
            tracing::error!("cannot set the ACPI interrupt: {error}");
        }
    }
}

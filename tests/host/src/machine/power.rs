// SPDX-License-Identifier: GPL-2.0

//! ACPI fixed hardware and the two ways to reset a PC.

use std::sync::Mutex;
use std::time::Instant;

use super::layout;
use super::outcome::Outcome;

/// PM1 status and enable: power button.
const POWER_BUTTON: u16 = 1 << 8;
/// PM1 control: ACPI mode is on (there is no other here).
const SCI_ENABLE: u16 = 1;
/// PM1 control: enter the sleep state in bits 10-12.
const SLEEP_ENABLE: u16 = 1 << 13;
/// Ticks of the power management timer per second.
const TIMER_HZ: u128 = 3_579_545;

#[derive(Default)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
}

/// The machine's power management registers.
pub struct Power {
    registers: Mutex<Registers>,
    start: Instant,
}

/// What a write to a power register leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing outside.
    None,
    /// The ACPI interrupt line takes this level.
    Interrupt(bool),
    /// The machine stops.
    Stop(Outcome),
}

impl Default for Power {
    fn default() -> Self {
        Self::new()
    }
}

impl Power {
    /// As after power-on.
    pub fn new() -> Self {
        Power {
            registers: Mutex::default(),
            start: Instant::now(),
        }
    }

    /// Whether `port` belongs here.
    pub fn owns(port: u16) -> bool {
        (layout::PM_EVENT..layout::PM_TIMER + 4).contains(&port)
            || port == layout::RESET
            || port == layout::I8042_COMMAND
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads from `port`.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        let (base, value) = match port {
            p if (layout::PM_TIMER..layout::PM_TIMER + 4).contains(&p) => {
                let ticks = self.start.elapsed().as_nanos() * TIMER_HZ / 1_000_000_000;
                (layout::PM_TIMER, ticks as u32)
            }
            p if (layout::PM_EVENT..layout::PM_TIMER).contains(&p) => {
                let registers = self.lock();
                match p - layout::PM_EVENT {
                    0 | 1 => (layout::PM_EVENT, u32::from(registers.status)),
                    2 | 3 => (layout::PM_EVENT + 2, u32::from(registers.enable)),
                    _ => (
                        layout::PM_CONTROL,
                        u32::from(registers.control | SCI_ENABLE),
                    ),
                }
            }
            _ => (port, 0),
        };
        let shifted = value >> (8 * u32::from(port - base));
        let bytes = shifted.to_le_bytes();
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = from;
        }
    }

    /// Writes to `port`.
    pub fn write(&self, port: u16, data: &[u8]) -> Effect {
        const I8042_PULSE_RESET: u8 = 0xfe;
        const RESET_CPU: u8 = 4;
        let byte = data.first().copied().unwrap_or(0);
        let word = u16::from_le_bytes([byte, data.get(1).copied().unwrap_or(0)]);
        if port == layout::RESET {
            return match byte & RESET_CPU {
                0 => Effect::None,
                _ => Effect::Stop(Outcome::Reset("reset register")),
            };
        }
        if port == layout::I8042_COMMAND {
            return match byte {
                I8042_PULSE_RESET => Effect::Stop(Outcome::Reset("keyboard controller")),
                _ => Effect::None,
            };
        }
        let mut registers = self.lock();
        match port - layout::PM_EVENT {
            0 => registers.status &= !word,
            2 => registers.enable = word,
            4 => return registers.write_control(word),
            _ => return Effect::None,
        }
        Effect::Interrupt(registers.interrupt())
    }

    /// Presses the power button; says whether the guest wants to be interrupted for that.
    pub fn press_button(&self) -> bool {
        let mut registers = self.lock();
        registers.status |= POWER_BUTTON;
        registers.interrupt()
    }
}

impl Registers {
    fn interrupt(&self) -> bool {
        self.status & self.enable != 0
    }

    fn write_control(&mut self, value: u16) -> Effect {
        self.control = value & !SLEEP_ENABLE;
        let sleep_type = (value >> 10 & 7) as u8;
        if value & SLEEP_ENABLE != 0 && sleep_type == layout::SLEEP_TYPE_OFF {
            return Effect::Stop(Outcome::PowerOff);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_and_resets_stop_the_machine() {
        let power = Power::new();
        let off = (u16::from(layout::SLEEP_TYPE_OFF) << 10 | SLEEP_ENABLE).to_le_bytes();
        assert_eq!(
            power.write(layout::PM_CONTROL, &off),
            Effect::Stop(Outcome::PowerOff)
        );
        let other = (1u16 << 10 | SLEEP_ENABLE).to_le_bytes();
        assert_eq!(power.write(layout::PM_CONTROL, &other), Effect::None);
        let reset = power.write(layout::RESET, &[layout::RESET_VALUE]);
        assert!(matches!(reset, Effect::Stop(Outcome::Reset(_))));
        let reset = power.write(layout::I8042_COMMAND, &[0xfe]);
        assert!(matches!(reset, Effect::Stop(Outcome::Reset(_))));
        assert_eq!(power.write(layout::I8042_COMMAND, &[0x20]), Effect::None);
    }

    #[test]
    fn button_interrupts_until_acknowledged() {
        let power = Power::new();
        assert!(!power.press_button());
        let bits = POWER_BUTTON.to_le_bytes();
        let enable = power.write(layout::PM_EVENT + 2, &bits);
        assert_eq!(enable, Effect::Interrupt(true));
        let mut status = [0; 2];
        power.read(layout::PM_EVENT, &mut status);
        assert_eq!(status, bits);
        assert_eq!(
            power.write(layout::PM_EVENT, &bits),
            Effect::Interrupt(false)
        );
    }

    #[test]
    fn acpi_mode_is_on_and_the_timer_runs() {
        let power = Power::new();
        let mut control = [0; 2];
        power.read(layout::PM_CONTROL, &mut control);
        assert_eq!(control[0] & 1, 1);
        let now = || {
            let mut ticks = [0; 4];
            power.read(layout::PM_TIMER, &mut ticks);
            u32::from_le_bytes(ticks)
        };
        let first = now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(now().wrapping_sub(first) >= 7000);
    }
}

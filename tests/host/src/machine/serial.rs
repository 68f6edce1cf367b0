// SPDX-License-Identifier: GPL-2.0

//! A 16550 UART between the guest and a byte stream.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::stream::{self, Connector, Outbox};

/// The UART's interrupt: an eventfd KVM turns into an edge.
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where the UART's transmitted bytes go.
struct Transmit(Arc<Outbox>);

impl Write for Transmit {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells the thread that feeds the receive buffer when the guest has emptied it.
struct Emptied(Arc<Condvar>);

impl SerialEvents for Emptied {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.0.notify_all();
    }
}

type Uart = Serial<Interrupt, Emptied, Transmit>;

/// One serial port.
pub struct SerialPort {
    base: u16,
    uart: Mutex<Uart>,
    emptied: Arc<Condvar>,
    outbox: Arc<Outbox>,
}

impl SerialPort {
    /// A port at I/O address `base` that raises its interrupt through `interrupt`.
    pub fn new(base: u16, interrupt: EventFd) -> Self {
        let outbox = Arc::new(Outbox::default());
        let emptied = Arc::new(Condvar::new());
        let uart = Serial::with_events(
            Interrupt(interrupt),
            Emptied(emptied.clone()),
            Transmit(outbox.clone()),
        );
        SerialPort {
            base,
            uart: Mutex::new(uart),
            emptied,
            outbox,
        }
    }

    /// Connects the port with the outside by a thread that lives as long as the process.
    pub fn attach(self: &Arc<Self>, name: &str, connector: Connector) -> io::Result<()> {
        let port = self.clone();
        let body = move || {
            let input = |bytes: &[u8]| port.receive(bytes);
            stream::serve(connector, &port.outbox, &input);
        };
        thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `port` is one of the eight registers.
    pub fn owns(&self, port: u16) -> bool {
        (self.base..self.base + 8).contains(&port)
    }

    /// The guest reads a register.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        if let Some(byte) = data.first_mut() {
            *byte = self.lock().read((port - self.base) as u8);
        }
    }

    /// The guest writes a register.
    pub fn write(&self, port: u16, data: &[u8]) {
        let Some(byte) = data.first() else { return };
        if let Err(error) = self.lock().write((port - self.base) as u8, *byte) {
            tracing::warn!("serial port {:#x}: {error}", self.base);
        }
    }

    /// Feeds bytes to the guest, waiting for room in the receive buffer.
    fn receive(&self, mut bytes: &[u8]) {
        /// In case the guest empties the buffer without reading (it cannot reset ours).
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let mut uart = self.lock();
        while !bytes.is_empty() {
            let room = uart.fifo_capacity().min(bytes.len());
            match uart.enqueue_raw_bytes(&bytes[..room]) {
                Ok(taken) if taken > 0 => bytes = &bytes[taken..],
                _ => {
                    let waited = self.emptied.wait_timeout(uart, LOOK_AGAIN);
                    uart = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Lets the peer take what the guest wrote last.
    pub fn close(&self) {
        const LIMIT: Duration = Duration::from_secs(2);
        self.outbox.close(LIMIT);
    }

    /// Bytes the guest sent that nobody took.
    pub fn dropped(&self) -> u64 {
        self.outbox.dropped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    const BASE: u16 = 0x3f8;

    #[test]
    fn long_input_reaches_the_guest_in_order() {
        let port = Arc::new(SerialPort::new(BASE, EventFd::new(EFD_NONBLOCK).unwrap()));
        let sent: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        let (feeder, bytes) = (port.clone(), sent.clone());
        let feeding = thread::spawn(move || feeder.receive(&bytes));
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let mut status = [0];
            port.read(BASE + 5, &mut status);
            if status[0] & 1 != 0 {
                let mut byte = [0];
                port.read(BASE, &mut byte);
                got.push(byte[0]);
            }
        }
        feeding.join().unwrap();
        assert_eq!(got, sent);
    }

    #[test]
    fn other_ports_are_not_ours() {
        let port = SerialPort::new(BASE, EventFd::new(EFD_NONBLOCK).unwrap());
        assert!(port.owns(0x3f8) && port.owns(0x3ff));
        assert!(!port.owns(0x3f7) && !port.owns(0x400));
    }
}

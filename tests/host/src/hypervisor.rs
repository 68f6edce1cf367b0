// SPDX-License-Identifier: GPL-2.0

//! What the VMBus server needs from the virtual machine, and what the machine tells the server.
//!
//! `machine` implements [`Hypervisor`] on KVM; unit tests implement it in memory. The server
//! implements [`MessageSink`].

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// The synthetic interrupt source that VMBus uses (specification section 9.8).
pub const VMBUS_SINT: u8 = 2;

/// What became of a message offered to a SynIC message slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The message is in the slot and the interrupt was raised.
    Delivered,
    /// The slot still holds an earlier message; its pending flag is set, so the guest's
    /// end-of-message will be reported through [`MessageSink::slot_free`].
    Busy,
    /// The guest has not enabled its SynIC, or not this slot: the message cannot be delivered.
    Disabled,
}

/// Services of the virtual machine. All methods may be called from any thread.
pub trait Hypervisor: Send + Sync {
    /// The guest's physical memory.
    fn memory(&self) -> &GuestMemoryMmap;
    /// Number of virtual processors; VP indices are 0..count.
    fn vp_count(&self) -> u32;
    /// Places a message (`message_type` is 1 for VMBus, `payload` at most 240 bytes) in the slot
    /// of `sint` on `vp` and raises the interrupt.
    fn post_message(&self, vp: u32, sint: u8, message_type: u32, payload: &[u8]) -> Posted;
    /// Sets event flag `flag` (0..2048) of `sint` on `vp` and raises the interrupt if the flag was
    /// clear. Does nothing when the guest has not enabled its event flags page.
    fn signal_event(&self, vp: u32, sint: u8, flag: u16);
    /// Has the guest's SIGNAL_EVENT on `connection` write to `event`, without an exit to user
    /// space where KVM can do that.
    fn bind_connection(&self, connection: u32, event: &EventFd) -> std::io::Result<()>;
    /// Undoes [`Hypervisor::bind_connection`].
    fn unbind_connection(&self, connection: u32, event: &EventFd) -> std::io::Result<()>;
}

/// Result of a hypercall, as in the TLFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum HvStatus {
    /// HV_STATUS_SUCCESS
    Success = 0,
    /// HV_STATUS_INVALID_HYPERCALL_CODE
    InvalidHypercallCode = 2,
    /// HV_STATUS_INVALID_HYPERCALL_INPUT
    InvalidHypercallInput = 3,
    /// HV_STATUS_INVALID_PARAMETER
    InvalidParameter = 5,
    /// HV_STATUS_INSUFFICIENT_MEMORY (guest retries)
    InsufficientMemory = 0xb,
    /// HV_STATUS_INVALID_CONNECTION_ID
    InvalidConnectionId = 0x12,
    /// HV_STATUS_INSUFFICIENT_BUFFERS (guest retries)
    InsufficientBuffers = 0x13,
}

/// Receives what the guest sends to the VMBus server. Called from vCPU threads: must not block.
pub trait MessageSink: Send + Sync {
    /// POST_MESSAGE hypercall: `payload` is at most 240 bytes.
    fn message(&self, connection: u32, message_type: u32, payload: &[u8]) -> HvStatus;
    /// The guest ended a message (EOM, or the slot was seen free): the next one may be posted.
    fn slot_free(&self, vp: u32, sint: u8);
    /// SIGNAL_EVENT on a connection that is not bound to an eventfd.
    fn signal(&self, connection: u32, flag: u16) -> HvStatus;
}

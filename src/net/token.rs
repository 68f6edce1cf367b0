// SPDX-License-Identifier: GPL-2.0

//! Tokens: proofs that code runs in a certain context or under a certain lock.
//!
//! They are zero-sized and cannot be made outside `src/net`, so that a signature says which lock its
//! caller holds. See the lock model in the module documentation.

use core::marker::PhantomData;
use kernel::{sync::rcu, types::NotThreadSafe};

/// Proof that the caller holds RTNL.
pub(crate) struct Rtnl(NotThreadSafe);

impl Rtnl {
    /// Says that RTNL is held.
    ///
    /// # Safety
    ///
    /// The current thread holds RTNL for as long as the token lives.
    pub(super) unsafe fn assume_held() -> Self {
        Self(NotThreadSafe)
    }
}

/// Proof that no other configuration change of the device can run: RTNL is held, or the device is not
/// registered yet and the caller owns it alone.
pub(crate) struct Config<'a> {
    _holder: PhantomData<&'a ()>,
    _thread: NotThreadSafe,
}

impl<'a> Config<'a> {
    /// Configuration of a device that nobody else knows.
    ///
    /// # Safety
    ///
    /// The device is not registered, and the caller has it exclusively for `'a`.
    pub(super) unsafe fn unregistered() -> Self {
        Self {
            _holder: PhantomData,
            _thread: NotThreadSafe,
        }
    }
}

impl<'a> From<&'a Rtnl> for Config<'a> {
    fn from(_: &'a Rtnl) -> Self {
        Self {
            _holder: PhantomData,
            _thread: NotThreadSafe,
        }
    }
}

/// Proof that the caller runs where RCU waits for it: in softirq or with bottom halves disabled (NAPI
/// poll, `ndo_start_xmit`), or in an RCU read-side critical section.
///
/// `synchronize_net` returns only after every such section that began before it has ended.
#[derive(Clone, Copy)]
pub(crate) struct SoftIrq<'a> {
    _section: PhantomData<&'a ()>,
    _thread: NotThreadSafe,
}

impl<'a> SoftIrq<'a> {
    /// Says that RCU waits for the caller.
    ///
    /// # Safety
    ///
    /// Bottom halves are disabled, or an RCU read-side section is open, for the whole of `'a`.
    pub(super) unsafe fn assume() -> Self {
        Self {
            _section: PhantomData,
            _thread: NotThreadSafe,
        }
    }
}

impl<'a> From<&'a rcu::Guard> for SoftIrq<'a> {
    fn from(_: &'a rcu::Guard) -> Self {
        Self {
            _section: PhantomData,
            _thread: NotThreadSafe,
        }
    }
}

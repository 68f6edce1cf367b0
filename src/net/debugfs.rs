// SPDX-License-Identifier: GPL-2.0

//! The module's folder in debugfs, which each device finds while the module is loaded.
//!
//! The kernel crate's `Dir` is owned by handles, and a folder's name can be made once. So the module makes it,
//! and keeps the handle where probes find it.

use core::sync::atomic::{AtomicBool, Ordering};
use kernel::{debugfs::Dir, prelude::*};

kernel::sync::global_lock! {
    // SAFETY: Initialised in `Root::new`; used only after `READY` says so, or by a `Root`.
    unsafe(uninit) static ROOT: Mutex<Option<Dir>> = None;
}

/// Whether a [`Root`] has been made.
static MADE: AtomicBool = AtomicBool::new(false);
/// Whether [`ROOT`] is initialised.
static READY: AtomicBool = AtomicBool::new(false);

/// The module's folder. Dropping it removes the folder once those in it are gone.
pub(crate) struct Root(());

impl Root {
    /// Makes the folder. `EBUSY` if this module has made it before.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        if MADE.swap(true, Ordering::Relaxed) {
            return Err(EBUSY);
        }
        // SAFETY: The exchange above lets this run once.
        unsafe { ROOT.init() };
        READY.store(true, Ordering::Release);
        *ROOT.lock() = Some(Dir::new(name));
        Ok(Self(()))
    }

    /// A new folder in it; `None` if there is no [`Root`] any more.
    pub(crate) fn folder(name: &CStr) -> Option<Dir> {
        if !READY.load(Ordering::Acquire) {
            return None;
        }
        ROOT.lock().as_ref().map(|root| root.subdir(name))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        drop(ROOT.lock().take());
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The files a run is made of, and how the Hyper-V guest is accelerated.

use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use clap::Args;
use kvm_ioctls::Kvm;

/// Kernels, images and programs; `scripts/` makes them.
#[derive(Args, Clone, Debug)]
pub struct Artifacts {
    /// Emulator for the machine that has KVM where this one has not.
    #[arg(long, env = "E2E_QEMU", default_value = "qemu-system-x86_64")]
    pub qemu: String,
    /// Kernel of that machine (L1).
    #[arg(long, env = "E2E_L1_KERNEL")]
    pub l1_kernel: Option<PathBuf>,
    /// Its initrd, which holds the test host, the guest's kernel and the guest's initrd too.
    #[arg(long, env = "E2E_L1_INITRD")]
    pub l1_initrd: Option<PathBuf>,
    /// The test host (where KVM has the Hyper-V capabilities).
    #[arg(long, env = "E2E_HVHOST")]
    pub hvhost: Option<PathBuf>,
    /// Kernel of the guest (where KVM has the Hyper-V capabilities).
    #[arg(long, env = "E2E_GUEST_KERNEL")]
    pub guest_kernel: Option<PathBuf>,
    /// Initrd of the guest (where KVM has the Hyper-V capabilities).
    #[arg(long, env = "E2E_GUEST_INITRD")]
    pub guest_initrd: Option<PathBuf>,
}

/// A path that must have been given and must exist.
pub fn required<'a>(path: &'a Option<PathBuf>, option: &str) -> Result<&'a Path> {
    let path = path
        .as_deref()
        .with_context(|| format!("--{option} is not given (scripts/e2e gives it)"))?;
    if !path.exists() {
        bail!("--{option}: '{}' does not exist", path.display());
    }
    Ok(path)
}

/// Where the Hyper-V guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// On this machine's KVM.
    Kvm,
    /// On the KVM of a machine emulated by QEMU.
    Tcg,
}

/// `HVHOST_ACCEL` if it is set, else what this machine's KVM can do.
pub fn acceleration() -> Result<Acceleration> {
    let wanted = std::env::var("HVHOST_ACCEL").unwrap_or_default();
    match wanted.as_str() {
        "kvm" => kvm_speaks_hyperv()
            .map(|()| Acceleration::Kvm)
            .context("HVHOST_ACCEL=kvm"),
        "tcg" => Ok(Acceleration::Tcg),
        "" => Ok(match kvm_speaks_hyperv() {
            Ok(()) => Acceleration::Kvm,
            Err(_) => Acceleration::Tcg,
        }),
        other => bail!("HVHOST_ACCEL is '{other}', which is neither kvm nor tcg"),
    }
}

fn kvm_speaks_hyperv() -> Result<()> {
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let synic = kvm.check_extension_raw(kvm_bindings::KVM_CAP_HYPERV_SYNIC2.into());
    if synic <= 0 {
        bail!("this machine's KVM has no Hyper-V SynIC (KVM_CAP_HYPERV_SYNIC2)");
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! VMBus protocol versions, as far as a driver above the bus must tell them apart.
#![forbid(unsafe_code)]

/// A negotiated VMBus version: major in the upper, minor in the lower 16 bits (`vmbus_proto_version`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct VmbusVersion(pub u32);

impl VmbusVersion {
    /// Windows Server 2016, the first version that wants GPADLs torn down after the channel is closed.
    pub const V4_0: Self = Self(0x0004_0000);

    /// Major number.
    pub const fn major(self) -> u32 {
        self.0 >> 16
    }

    /// Minor number.
    pub const fn minor(self) -> u32 {
        self.0 & 0xffff
    }
}

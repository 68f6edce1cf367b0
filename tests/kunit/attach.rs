// SPDX-License-Identifier: GPL-2.0

//! Suite: the driver attaches to a scripted host, is refused at every step, and leaves nothing behind.

use super::bus::{devices, subchannels, TestDevice};
use super::host::{Fault, Host, Request, Script};
use crate::bindings;
use crate::device::{Adapter, Bound, Served};
use crate::net::Device;
use crate::vmbus::gpadl::leaked_bytes;
use kernel::{prelude::*, sync::Arc};

/// An interface and its host.
pub(super) struct Machine {
    pub(super) netdev: Served,
    pub(super) host: Host,
    pub(super) device: Arc<TestDevice>,
}

impl Machine {
    /// Attached to a host with this script.
    pub(super) fn new(script: Script) -> Result<Self> {
        let device = Arc::new(TestDevice::new()?, GFP_KERNEL)?;
        let host = Host::start(&device, script)?;
        let netdev = Bound::register(device.core())?;
        Ok(Self {
            netdev,
            host,
            device,
        })
    }

    pub(super) fn up(&self) -> Result {
        let dev = self.netdev.as_raw();
        // SAFETY: The device is registered.
        kernel::error::to_result(unsafe { bindings::netvsc_kunit_up(dev) })
    }

    pub(super) fn down(&self) {
        // SAFETY: The device is registered.
        unsafe { bindings::netvsc_kunit_down(self.netdev.as_raw()) };
    }

    pub(super) fn set_mtu(&self, mtu: u32) -> Result {
        let dev = self.netdev.as_raw();
        // SAFETY: The device is registered.
        kernel::error::to_result(unsafe { bindings::netvsc_kunit_set_mtu(dev, mtu) })
    }

    /// As `ethtool -L`.
    pub(super) fn set_channels(&self, combined: u32) -> Result {
        let dev = self.netdev.as_raw();
        // SAFETY: The device is registered.
        kernel::error::to_result(unsafe { bindings::netvsc_kunit_set_channels(dev, combined) })
    }

    /// As `ethtool -l`.
    pub(super) fn channels(&self) -> u32 {
        // SAFETY: The device is registered.
        unsafe { bindings::netvsc_kunit_channels(self.netdev.as_raw()) }
    }

    pub(super) fn totals(&self) -> bindings::rtnl_link_stats64 {
        let mut stats = bindings::rtnl_link_stats64::default();
        // SAFETY: The device is registered; `stats` is ours.
        unsafe { bindings::netvsc_kunit_stats(self.netdev.as_raw(), &mut stats) };
        stats
    }
}

fn address(dev: &Device<Adapter>) -> [u8; 6] {
    let mut address = [0; 6];
    // SAFETY: The device is alive, and an Ethernet one: its address has six bytes.
    unsafe {
        let from: *const u8 = (*dev.as_raw()).dev_addr;
        address.as_mut_ptr().copy_from(from, 6);
    }
    address
}

/// What an attach by this script comes to, and whether everything that it made is gone again.
fn outcome(script: Script, prepare: impl FnOnce(&TestDevice)) -> Result<(Option<Error>, bool)> {
    let before = (devices(), leaked_bytes());
    let device = Arc::new(TestDevice::new()?, GFP_KERNEL)?;
    prepare(&device);
    let host = Host::start(&device, script)?;
    let error = Bound::register(device.core()).map(drop).err();
    let (opened, closed) = device.opened_closed();
    let clean = opened == closed && device.shared() == 0 && device.channel().is_ok();
    drop(host);
    drop(device);
    Ok((error, clean && (devices(), leaked_bytes()) == before))
}

#[kunit_tests(hv_netvsc_attach)]
mod tests {
    use super::super::host::MAC;
    use super::*;

    const EPROTO: i32 = -(kernel::bindings::EPROTO as i32);

    #[test]
    fn an_attach_takes_what_the_host_gives_and_a_detach_gives_it_back() -> Result {
        let before = (devices(), leaked_bytes());
        let machine = Machine::new(Script::default())?;
        assert_eq!(address(&machine.netdev), MAC);
        assert_eq!(machine.netdev.mtu(), 1500);
        assert!(machine.netdev.name().is_some());
        assert_eq!(machine.device.opened_closed(), (1, 0));
        assert_eq!(machine.device.shared(), 2);
        assert!(machine.host.requests() >= 12);
        let Machine {
            netdev,
            host,
            device,
        } = machine;
        drop(netdev);
        assert_eq!(device.opened_closed(), (1, 1));
        assert_eq!(device.shared(), 0);
        drop(host);
        assert!(device.channel().is_ok());
        drop(device);
        assert_eq!((devices(), leaked_bytes()), before);
        Ok(())
    }

    #[test]
    fn the_host_is_told_of_the_end() -> Result {
        let Machine {
            netdev,
            host,
            device,
        } = Machine::new(Script::default())?;
        drop(netdev);
        // The messages are in the ring before it is freed, or the host would not have seen them.
        assert_eq!(host.farewells(), (1, 2));
        drop((host, device));
        Ok(())
    }

    #[test]
    fn every_version_attaches() -> Result {
        for newest in [2, 0x3_0002, 0x4_0000, 0x5_0000, 0x6_0000, 0x6_0001] {
            let script = Script {
                newest,
                ..Script::default()
            };
            assert_eq!(outcome(script, |_| ())?, (None, true));
        }
        Ok(())
    }

    #[test]
    fn a_refusal_of_what_is_needed_ends_the_attach_and_leaves_nothing() -> Result {
        let needed = [
            (Request::Nvsp(1), EPROTO),
            (Request::Nvsp(101), EIO.to_errno()),
            (Request::Nvsp(104), EIO.to_errno()),
            (Request::Initialize, EIO.to_errno()),
            (Request::Query(0x0101_0101), EIO.to_errno()),
            (Request::Query(0xfc01_020d), EIO.to_errno()),
            (Request::Set(0xfc01_020c), EIO.to_errno()),
        ];
        for (request, errno) in needed {
            let script = Script {
                fault: Some((request, Fault::Refuse)),
                ..Script::default()
            };
            let (error, clean) = outcome(script, |_| ())?;
            assert_eq!(error.map(Error::to_errno), Some(errno));
            assert!(clean);
        }
        Ok(())
    }

    #[test]
    fn a_refusal_of_what_can_be_done_without_is_lived_with() -> Result {
        for oid in [0x0001_0106, 0x0001_0114, 0x0001_0107, 0x0001_0203] {
            let script = Script {
                fault: Some((Request::Query(oid), Fault::Refuse)),
                ..Script::default()
            };
            assert_eq!(outcome(script, |_| ())?, (None, true));
        }
        Ok(())
    }

    #[test]
    fn a_device_that_is_taken_away_meanwhile_leaves_nothing() -> Result {
        for request in [
            Request::Nvsp(1),
            Request::Nvsp(101),
            Request::Nvsp(104),
            Request::Initialize,
            Request::Query(0x0101_0101),
            Request::Set(0xfc01_020c),
        ] {
            let script = Script {
                fault: Some((request, Fault::Rescind)),
                ..Script::default()
            };
            assert_eq!(outcome(script, |_| ())?, (Some(ENODEV), true));
        }
        Ok(())
    }

    #[test]
    fn a_channel_or_buffer_that_is_refused_leaves_nothing() -> Result {
        let refused = outcome(Script::default(), |device| {
            device.refuse_open(EAGAIN.to_errno())
        })?;
        assert_eq!(refused, (Some(EAGAIN), true));
        let refused = outcome(Script::default(), |device| {
            device.refuse_gpadl(ENOMEM.to_errno())
        })?;
        assert_eq!(refused, (Some(ENOMEM), true));
        Ok(())
    }

    #[test]
    fn the_order_of_newer_hosts_leaves_nothing_either() -> Result {
        let version = &raw mut bindings::vmbus_proto_version;
        // SAFETY: There is no hypervisor, so hv_vmbus uses the word for nothing.
        let before = unsafe { version.read_volatile() };
        // SAFETY: As above.
        unsafe { version.write_volatile(6 << 16) };
        let result = outcome(Script::default(), |_| ());
        // SAFETY: As above.
        unsafe { version.write_volatile(before) };
        assert_eq!(result?, (None, true));
        Ok(())
    }

    #[test]
    fn sub_channels_come_and_go_with_their_number() -> Result {
        let script = Script {
            queues: 2,
            ..Script::default()
        };
        let before = (subchannels(), leaked_bytes());
        let machine = Machine::new(script)?;
        machine.up()?;
        for channels in [1, 2, 1, 2] {
            machine.set_channels(channels)?;
            assert_eq!(machine.channels(), channels);
            assert_eq!(subchannels() - before.0, channels as i32 - 1);
            assert_eq!(machine.device.shared(), 2);
        }
        for refused in [0, 3, u32::MAX] {
            assert!(machine.set_channels(refused).is_err());
            assert_eq!(machine.channels(), 2);
        }
        let device = machine.device.clone();
        drop(machine);
        let (opened, closed) = device.opened_closed();
        assert_eq!(opened, closed);
        assert_eq!((subchannels(), leaked_bytes()), before);
        Ok(())
    }

    #[test]
    fn a_host_that_offers_fewer_sub_channels_is_lived_with() -> Result {
        let script = Script {
            queues: 2,
            offers: 0,
            ..Script::default()
        };
        let machine = Machine::new(script)?;
        machine.up()?;
        assert_eq!(machine.channels(), 1);
        assert_eq!(subchannels(), 0);
        Ok(())
    }

    #[test]
    fn a_new_mtu_is_a_new_attach_in_the_same_memory() -> Result {
        let leaked = leaked_bytes();
        let machine = Machine::new(Script::default())?;
        machine.up()?;
        machine.set_mtu(4000)?;
        assert_eq!(machine.netdev.mtu(), 4000);
        assert_eq!(machine.device.opened_closed(), (2, 1));
        assert_eq!(machine.device.shared(), 2);
        // Beyond what the host takes: the old one is in effect again.
        assert!(machine.set_mtu(9001).is_err());
        assert_eq!(machine.netdev.mtu(), 4000);
        assert_eq!(machine.device.shared(), 2);
        machine.down();
        let device = machine.device.clone();
        drop(machine);
        assert_eq!((device.shared(), leaked_bytes()), (0, leaked));
        let (opened, closed) = device.opened_closed();
        assert_eq!(opened, closed);
        Ok(())
    }
}

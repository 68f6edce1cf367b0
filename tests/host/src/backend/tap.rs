// SPDX-License-Identifier: GPL-2.0

//! A TAP interface of the machine, with a `virtio_net_hdr` before every frame.
//!
//! The kernel finishes checksums and segmentation of frames from the guest. Towards the guest it may
//! leave checksums partial; it never hands over large frames, because the NIC offers no RSC.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::raw::c_int;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::json;
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_iow_nr;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::frame::{Checksum, Frame, Segmentation, L4};
use super::segment;
use super::{Backend, Takes, TxDrop};

const TUN_DEVICE: &str = "/dev/net/tun";
const O_NONBLOCK: c_int = 0o4000;
const TUN_IOC: u32 = b'T' as u32;

ioctl_iow_nr!(TUNSETIFF, TUN_IOC, 202, c_int);
ioctl_iow_nr!(TUNSETOFFLOAD, TUN_IOC, 208, u32);
ioctl_iow_nr!(TUNSETVNETHDRSZ, TUN_IOC, 216, c_int);
ioctl_iow_nr!(TUNSETCARRIER, TUN_IOC, 226, c_int);

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// The reader accepts partial checksums.
const TUN_F_CSUM: u32 = 0x01;
const IFNAMSIZ: usize = 16;

/// `struct ifreq` as TUNSETIFF reads it: name and flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; IFNAMSIZ],
    flags: u16,
    padding: [u8; 22],
}

const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// `struct virtio_net_hdr`, 10 bytes, little-endian on this machine.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
struct VnetHeader {
    flags: u8,
    gso_type: u8,
    header_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
}

const VNET_LEN: usize = size_of::<VnetHeader>();
/// Largest frame the kernel hands over without RSC, with room to spare.
const READ_BUFFER: usize = VNET_LEN + 65_536 + 64;

/// An attached TAP interface.
pub struct Tap {
    file: File,
    name: String,
    buffer: Vec<u8>,
    write_errors: u64,
    read_errors: u64,
}

impl Tap {
    /// Attaches to the TAP interface `name`, which is made if it does not exist.
    ///
    /// # Errors
    ///
    /// With one line naming the interface, if the name is too long or the kernel refuses.
    pub fn open(name: &str) -> io::Result<Self> {
        let named = |what: &str, e: io::Error| {
            io::Error::new(e.kind(), format!("TAP interface {name}: {what}: {e}"))
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open(TUN_DEVICE)
            .map_err(|e| named("cannot open /dev/net/tun", e))?;
        attach(&file, name).map_err(|e| named("cannot attach", e))?;
        Ok(Tap {
            file,
            name: name.to_owned(),
            buffer: vec![0; READ_BUFFER],
            write_errors: 0,
            read_errors: 0,
        })
    }
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() >= IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "name must have 1 to 15 characters",
        ));
    }
    let mut request = InterfaceRequest {
        name: [0; IFNAMSIZ],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        padding: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (40 bytes on x86_64), which `request`
    // is in size and layout; it lives until the call returns.
    check(unsafe { ioctl_with_ref(file, TUNSETIFF(), &request) })?;
    let header_len = VNET_LEN as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int through the pointer.
    check(unsafe { ioctl_with_ref(file, TUNSETVNETHDRSZ(), &header_len) })?;
    // SAFETY: TUNSETOFFLOAD takes its flags by value and touches no memory of ours.
    check(unsafe { ioctl_with_val(file, TUNSETOFFLOAD(), u64::from(TUN_F_CSUM)) })
}

fn check(returned: c_int) -> io::Result<()> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Turns a frame into header and bytes for the kernel. The VLAN tag is already in place.
fn outgoing(frame: &mut Frame) -> Result<VnetHeader, segment::SegmentError> {
    let mut header = VnetHeader::default();
    if let Some(request) = frame.segmentation {
        let headers = segment::prepare(frame)?;
        if frame.bytes.len() - headers > request.mss as usize {
            header.gso_type = if request.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
            header.header_len = U16::new(headers as u16);
            header.gso_size = U16::new(request.mss.min(0xffff) as u16);
        }
    }
    match frame.checksum {
        Checksum::Partial { l4_offset, l4 } => {
            header.flags = FLAG_NEEDS_CSUM;
            header.csum_start = U16::new(l4_offset);
            header.csum_offset = U16::new(l4.checksum_offset() as u16);
        }
        Checksum::Verified => header.flags = FLAG_DATA_VALID,
        Checksum::Unverified => {}
    }
    Ok(header)
}

/// Turns what the kernel wrote into a frame.
fn incoming(header: &VnetHeader, bytes: &[u8]) -> Frame {
    let mut frame = Frame::new(bytes.to_vec());
    let l4_offset = header.csum_start.get();
    if header.flags & FLAG_NEEDS_CSUM != 0 {
        let l4 = [L4::Tcp, L4::Udp]
            .into_iter()
            .find(|l4| l4.checksum_offset() == usize::from(header.csum_offset.get()));
        if let Some(l4) = l4 {
            frame.checksum = Checksum::Partial { l4_offset, l4 };
        }
    } else if header.flags & FLAG_DATA_VALID != 0 {
        frame.checksum = Checksum::Verified;
    }
    if matches!(header.gso_type, GSO_TCPV4 | GSO_TCPV6) {
        frame.segmentation = Some(Segmentation {
            mss: u32::from(header.gso_size.get()),
            l4_offset,
            v6: header.gso_type == GSO_TCPV6,
        });
    }
    frame.strip_vlan();
    frame
}

impl Backend for Tap {
    fn kind(&self) -> &'static str {
        "tap"
    }

    fn takes(&self) -> Takes {
        Takes {
            partial_checksum: true,
            segmentation: true,
            vlan_metadata: false,
        }
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }

    fn transmit(&mut self, mut frame: Frame) -> Result<(), TxDrop> {
        let written = outgoing(&mut frame)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
            .and_then(|header| {
                let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(&frame.bytes)];
                self.file.write_vectored(&parts)
            });
        match written {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(TxDrop::QueueFull),
            Err(e) => {
                self.write_errors += 1;
                tracing::debug!(tap = self.name, "write: {e}");
                Err(TxDrop::Error)
            }
        }
    }

    fn receive(&mut self, budget: usize, out: &mut Vec<Frame>) -> io::Result<()> {
        for _ in 0..budget {
            match self.file.read(&mut self.buffer) {
                Ok(len) => match VnetHeader::read_from_prefix(&self.buffer[..len]) {
                    Ok((header, bytes)) => out.push(incoming(&header, bytes)),
                    Err(_) => self.read_errors += 1,
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.read_errors += 1;
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn set_link(&mut self, up: bool) {
        let carrier = c_int::from(up);
        // SAFETY: TUNSETCARRIER reads one int through the pointer.
        if let Err(e) = check(unsafe { ioctl_with_ref(&self.file, TUNSETCARRIER(), &carrier) }) {
            tracing::warn!(tap = self.name, "carrier {carrier}: {e}");
        }
    }

    fn counters(&self) -> serde_json::Value {
        json!({
            "interface": self.name,
            "write_errors": self.write_errors,
            "read_errors": self.read_errors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers::samples;
    use super::*;

    #[test]
    fn layouts_match_the_kernel_headers() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
        assert_eq!(std::mem::offset_of!(InterfaceRequest, flags), 16);
        assert_eq!(VNET_LEN, 10);
        assert_eq!(std::mem::offset_of!(VnetHeader, csum_start), 6);
        assert_eq!(TUNSETIFF(), 0x4004_54ca);
        assert_eq!(TUNSETOFFLOAD(), 0x4004_54d0);
        assert_eq!(TUNSETVNETHDRSZ(), 0x4004_54d8);
        assert_eq!(TUNSETCARRIER(), 0x4004_54e2);
    }

    #[test]
    fn large_frame_becomes_gso() {
        let mut frame = Frame::new(samples::tcp4(&[1; 4000]));
        frame.segmentation = Some(Segmentation {
            mss: 1448,
            l4_offset: 34,
            v6: false,
        });
        let header = outgoing(&mut frame).expect("large frame");
        assert_eq!(header.flags, FLAG_NEEDS_CSUM);
        assert_eq!(header.gso_type, GSO_TCPV4);
        assert_eq!(header.gso_size.get(), 1448);
        assert_eq!(header.header_len.get(), 54);
        assert_eq!(
            (header.csum_start.get(), header.csum_offset.get()),
            (34, 16)
        );
        let back = incoming(&header, &frame.bytes);
        assert_eq!(back, frame);
    }

    #[test]
    fn small_large_frame_is_not_gso() {
        let mut frame = Frame::new(samples::tcp4(&[1; 100]));
        frame.segmentation = Some(Segmentation {
            mss: 1448,
            l4_offset: 34,
            v6: false,
        });
        let header = outgoing(&mut frame).expect("small frame");
        assert_eq!((header.gso_type, header.flags), (0, FLAG_NEEDS_CSUM));
    }

    #[test]
    fn tag_from_the_kernel_becomes_metadata() {
        let mut bytes = samples::udp4(b"x");
        bytes.splice(12..12, [0x81, 0, 0x20, 5]);
        let frame = incoming(&VnetHeader::default(), &bytes);
        assert_eq!(frame.vlan, Some(0x2005));
        assert_eq!(frame.bytes, samples::udp4(b"x"));
    }

    #[test]
    fn bad_names_are_refused_by_name() {
        for name in ["", "sixteen-chars-xx"] {
            match Tap::open(name) {
                Ok(_) => panic!("{name:?} accepted"),
                Err(e) => assert!(e.to_string().contains(name), "{e}"),
            }
        }
    }
}

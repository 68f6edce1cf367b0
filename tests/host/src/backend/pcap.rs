// SPDX-License-Identifier: GPL-2.0

//! Writes frames to a classic pcap file (microseconds, Ethernet), readable by tcpdump and Wireshark.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::frame::Frame;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const LINKTYPE_ETHERNET: u32 = 1;
const SNAPLEN: u32 = 0x0004_0000;

/// File header of the libpcap format.
#[derive(IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    magic: U32,
    major: U16,
    minor: U16,
    zone: U32,
    accuracy: U32,
    snaplen: U32,
    linktype: U32,
}

/// Header of one record.
#[derive(IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RecordHeader {
    seconds: U32,
    microseconds: U32,
    captured: U32,
    original: U32,
}

/// A capture file. The last buffered records are written when it is dropped.
pub struct Capture<W: Write = BufWriter<File>> {
    out: W,
}

impl Capture {
    /// Creates (or truncates) the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be created or written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Capture::new(BufWriter::new(File::create(path)?))
    }
}

impl<W: Write> Capture<W> {
    /// Starts a capture on any writer.
    ///
    /// # Errors
    ///
    /// If the file header cannot be written.
    pub fn new(mut out: W) -> io::Result<Self> {
        let header = FileHeader {
            magic: U32::new(MAGIC_MICROSECONDS),
            major: U16::new(2),
            minor: U16::new(4),
            zone: U32::new(0),
            accuracy: U32::new(0),
            snaplen: U32::new(SNAPLEN),
            linktype: U32::new(LINKTYPE_ETHERNET),
        };
        out.write_all(header.as_bytes())?;
        Ok(Capture { out })
    }

    /// Records a frame, its VLAN tag in place.
    ///
    /// # Errors
    ///
    /// If the record cannot be written.
    pub fn record(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.vlan.is_some() {
            let mut tagged = frame.clone();
            tagged.insert_vlan();
            return self.write(&tagged.bytes);
        }
        self.write(&frame.bytes)
    }

    /// Writes buffered records to the file.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let captured = bytes.len().min(SNAPLEN as usize);
        let header = RecordHeader {
            seconds: U32::new(now.as_secs() as u32),
            microseconds: U32::new(now.subsec_micros()),
            captured: U32::new(captured as u32),
            original: U32::new(bytes.len() as u32),
        };
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(&bytes[..captured])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_records_have_the_documented_layout() {
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file).expect("header");
        let mut frame = Frame::new(vec![9; 60]);
        capture.record(&frame).expect("plain");
        frame.vlan = Some(5);
        capture.record(&frame).expect("tagged");
        assert_eq!(file.len(), 24 + 16 + 60 + 16 + 64);
        assert_eq!(file[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(file[20..24], [1, 0, 0, 0]);
        assert_eq!(file[32..40], [60, 0, 0, 0, 60, 0, 0, 0]);
        let tagged = 24 + 16 + 60 + 16;
        assert_eq!(file[tagged + 12..tagged + 16], [0x81, 0, 0, 5]);
    }
}

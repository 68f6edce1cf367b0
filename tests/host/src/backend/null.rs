// SPDX-License-Identifier: GPL-2.0

//! A wire that leads nowhere: counts and discards.

use std::io;
use std::os::fd::RawFd;

use serde_json::json;

use super::frame::Frame;
use super::{Backend, Takes, TxDrop};

/// Discards every frame, as it is.
#[derive(Debug, Default)]
pub struct Null {
    packets: u64,
    bytes: u64,
}

impl Backend for Null {
    fn kind(&self) -> &'static str {
        "null"
    }

    fn takes(&self) -> Takes {
        Takes {
            partial_checksum: true,
            segmentation: true,
            vlan_metadata: true,
        }
    }

    fn readiness(&self) -> Option<RawFd> {
        None
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), TxDrop> {
        self.packets += 1;
        self.bytes += frame.bytes.len() as u64;
        Ok(())
    }

    fn receive(&mut self, _budget: usize, _out: &mut Vec<Frame>) -> io::Result<()> {
        Ok(())
    }

    fn counters(&self) -> serde_json::Value {
        json!({ "discarded_packets": self.packets, "discarded_bytes": self.bytes })
    }
}

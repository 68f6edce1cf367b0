// SPDX-License-Identifier: GPL-2.0

//! GPADLs on the bus: established, torn down, accounted for.

use super::bus::Bus;
use super::shared::{lock, Gpadl};
use crate::fault::FaultAction;
use crate::vmbus::gpa::GpaRange;
use crate::vmbus::gpadl::{GpadlBuilder, GpadlMemory};
use crate::vmbus::message::{
    encode, number, GpadlBody, GpadlCreated, GpadlHeader, GpadlTeardown, GpadlTorndown,
    STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
};

/// A GPADL whose page numbers are still arriving.
pub(super) struct Partial {
    relid: u32,
    builder: GpadlBuilder,
}

impl Bus {
    pub fn gpadl_header(&mut self, header: &GpadlHeader, pfns: &[u8]) {
        let (relid, handle) = (header.relid.get(), header.gpadl.get());
        self.refused.remove(&handle);
        if !self.known(relid, "GPADL_HEADER") {
            return self.refuse_gpadl(relid, handle);
        }
        if self.partial.contains_key(&handle) || lock(&self.shared.gpadls).contains_key(&handle) {
            let detail = format!("GPADL {handle:#x} on relid {relid} exists already");
            self.violation("vmbus.gpadl-exists", detail);
            return self.send_created(relid, handle, STATUS_UNSUCCESSFUL);
        }
        let builder = GpadlBuilder::new(
            header.range_count.get(),
            header.range_buflen.get(),
            header.byte_count.get(),
            header.byte_offset.get(),
            whole_pfns(pfns),
        );
        match builder {
            Ok(builder) => {
                self.partial.insert(handle, Partial { relid, builder });
                self.finish_gpadl(handle);
            }
            Err(error) => {
                let detail = format!("GPADL {handle:#x} on relid {relid}: {error}");
                self.violation("vmbus.gpadl-description", detail);
                self.refuse_gpadl(relid, handle);
            }
        }
    }

    pub fn gpadl_body(&mut self, body: &GpadlBody, pfns: &[u8]) {
        let handle = body.gpadl.get();
        if self.refused.contains(&handle) {
            return;
        }
        let Some(partial) = self.partial.get_mut(&handle) else {
            let detail = format!("GPADL_BODY for {handle:#x}, which is not being described");
            return self.violation("vmbus.gpadl-body", detail);
        };
        let relid = partial.relid;
        if let Err(error) = partial.builder.add(whole_pfns(pfns)) {
            self.partial.remove(&handle);
            let detail = format!("GPADL {handle:#x} on relid {relid}: {error}");
            self.violation("vmbus.gpadl-description", detail);
            return self.refuse_gpadl(relid, handle);
        }
        self.finish_gpadl(handle);
    }

    /// Establishes the GPADL if all page numbers are there.
    fn finish_gpadl(&mut self, handle: u32) {
        if !self
            .partial
            .get(&handle)
            .is_some_and(|p| p.builder.is_complete())
        {
            return;
        }
        let Some(Partial { relid, builder }) = self.partial.remove(&handle) else {
            return;
        };
        let Some(range) = builder.finish() else {
            return;
        };
        let status = match self.fault("vmbus.gpadl") {
            Some(FaultAction::Silent) => return,
            Some(FaultAction::Rescind) => return self.rescind_device_of(relid),
            Some(FaultAction::Status(status)) => status,
            Some(_) => STATUS_UNSUCCESSFUL,
            None => self.establish(relid, handle, range),
        };
        self.send_created(relid, handle, status);
    }

    fn establish(&mut self, relid: u32, handle: u32, range: GpaRange) -> u32 {
        let Some(channel) = self.channels.get(&relid) else {
            return STATUS_UNSUCCESSFUL;
        };
        if channel.rescinded {
            return STATUS_UNSUCCESSFUL;
        }
        let device = channel.slot.id;
        match GpadlMemory::new(self.shared.memory.clone(), handle, range) {
            Ok(memory) => {
                let gpadl = Gpadl {
                    relid,
                    device,
                    memory: memory.into(),
                };
                lock(&self.shared.gpadls).insert(handle, gpadl);
                STATUS_SUCCESS
            }
            Err(error) => {
                let detail = format!("GPADL {handle:#x} on relid {relid}: {error}");
                self.violation("vmbus.gpadl-pages", detail);
                STATUS_UNSUCCESSFUL
            }
        }
    }

    /// Refuses a GPADL of which more page numbers may come.
    fn refuse_gpadl(&mut self, relid: u32, handle: u32) {
        self.refused.insert(handle);
        self.send_created(relid, handle, STATUS_UNSUCCESSFUL);
    }

    fn send_created(&mut self, relid: u32, handle: u32, status: u32) {
        self.send(encode(
            number::GPADL_CREATED,
            &GpadlCreated {
                relid: relid.into(),
                gpadl: handle.into(),
                status: status.into(),
            },
        ));
    }

    /// GPADL_TORNDOWN has no status, so whatever is wrong it is sent: the guest waits for it.
    pub fn gpadl_teardown(&mut self, teardown: &GpadlTeardown) {
        let (relid, handle) = (teardown.relid.get(), teardown.gpadl.get());
        match self.fault("vmbus.gpadl-teardown") {
            Some(FaultAction::Rescind) => return self.rescind_device_of(relid),
            Some(_) => return,
            None => {}
        }
        self.refused.remove(&handle);
        let owner = lock(&self.shared.gpadls).get(&handle).map(|g| g.relid);
        match owner {
            None => {
                let detail = format!("GPADL_TEARDOWN of {handle:#x}, which is not established");
                self.violation("vmbus.gpadl-unknown", detail);
            }
            Some(owner) => {
                if owner != relid {
                    let detail =
                        format!("GPADL_TEARDOWN of {handle:#x} on relid {relid}, not {owner}");
                    self.violation("vmbus.gpadl-owner", detail);
                }
                self.check_not_ring(owner, handle);
                let gpadl = lock(&self.shared.gpadls).remove(&handle);
                if let Some(gpadl) = gpadl {
                    gpadl.memory.tear_down();
                }
            }
        }
        self.send(encode(
            number::GPADL_TORNDOWN,
            &GpadlTorndown {
                gpadl: handle.into(),
            },
        ));
    }

    /// A guest that takes the rings of an open channel back has lost that channel.
    fn check_not_ring(&mut self, relid: u32, handle: u32) {
        if self.ring_gpadl(relid) == Some(handle) {
            let detail = format!("GPADL_TEARDOWN of {handle:#x}, the rings of relid {relid}");
            self.violation("vmbus.gpadl-in-use", detail);
            self.stop_channel(relid);
        }
    }

    /// Denies further access to memory lent on a channel; it stays accounted for.
    pub fn stop_using_gpadls(&mut self, relid: u32) {
        for gpadl in lock(&self.shared.gpadls).values() {
            if gpadl.relid == relid {
                gpadl.memory.tear_down();
            }
        }
    }

    /// Forgets memory lent on a channel. A guest does not tear down what it lent on a channel that
    /// was rescinded.
    pub fn drop_gpadls(&mut self, relid: u32) {
        self.stop_using_gpadls(relid);
        lock(&self.shared.gpadls).retain(|_, gpadl| gpadl.relid != relid);
        self.partial.retain(|_, partial| partial.relid != relid);
    }

    /// Forgets all memory.
    pub fn drop_all_gpadls(&mut self) {
        let all = std::mem::take(&mut *lock(&self.shared.gpadls));
        for gpadl in all.values() {
            gpadl.memory.tear_down();
        }
        self.partial.clear();
        self.refused.clear();
    }
}

/// The part of `bytes` that consists of whole page numbers.
fn whole_pfns(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() - bytes.len() % 8]
}

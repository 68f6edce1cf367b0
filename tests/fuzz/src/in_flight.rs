// SPDX-License-Identifier: GPL-2.0

//! What is on its way to the host: slots and sections, against a model. A host may complete any id, at any time,
//! any number of times.
//!
//! Each cargo comes back once, each section has one owner, no id is given out that the host could have kept.

use arbitrary::{Arbitrary, Unstructured};
use netvsc_proto::rndis::{
    sections::{lines_needed, Section, SectionLine, Sections},
    slots::{Cargo, Slot, SlotTable},
    transaction::{Transaction, TransactionId},
};
use std::collections::{HashMap, HashSet};

/// What happens next.
#[derive(Arbitrary)]
enum Deed {
    /// A packet is sent from a section, on this queue.
    Send(u8),
    /// A packet is sent from where it lies.
    SendDirect,
    /// The ring does not take the packet sent last.
    Cancel,
    /// The host completes one of the ids it was ever given, newest first.
    Complete(u8),
    /// The host completes an id of its own.
    Foreign(u64),
    /// The host completes an id that differs in slot or generation.
    Near(u8, u32, u32),
    /// The oldest is completed, as often.
    Oldest(u8),
}

/// `data` is a script.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let [slots, count, queues] = script.arbitrary::<[u8; 3]>().unwrap_or_default();
    let mut queue = Queue::new(1 << (slots % 7), count.into(), queues % 9);
    while !script.is_empty() {
        let Ok(deed) = Deed::arbitrary(&mut script) else {
            break;
        };
        queue.step(&deed);
        assert_eq!(queue.table.in_use() as usize, queue.model.len());
        assert_eq!(queue.sections.in_use() as usize, queue.owned.len());
    }
    queue.close();
}

struct Queue {
    table: SlotTable<Vec<Slot>>,
    sections: Sections<Vec<SectionLine>>,
    count: u32,
    /// What is on its way, by id.
    model: HashMap<u64, Cargo>,
    owned: HashSet<u32>,
    /// Ids that the host was given, oldest first.
    sent: Vec<TransactionId>,
    seen: HashSet<u64>,
    last: Option<TransactionId>,
    token: u64,
}

impl Queue {
    fn new(slots: usize, count: u32, queues: u8) -> Self {
        let queues = queues.into();
        let lines = (0..lines_needed(count, queues)).map(|_| SectionLine::default());
        let slots = (0..slots).map(|_| Slot::default());
        Self {
            table: SlotTable::new(slots.collect()).expect("a power of two"),
            sections: Sections::new(lines.collect(), count, queues).expect("room enough"),
            count,
            model: HashMap::new(),
            owned: HashSet::new(),
            sent: Vec::new(),
            seen: HashSet::new(),
            last: None,
            token: 0,
        }
    }

    fn step(&mut self, deed: &Deed) {
        match *deed {
            Deed::Send(queue) => {
                let section = self.sections.allocate(queue.into());
                match section {
                    Some(section) => {
                        assert!(section.index() < self.count);
                        assert!(self.owned.insert(section.index()), "two owners");
                        self.send(Some(section));
                    }
                    None => assert_eq!(self.owned.len() as u32, self.count, "there was one"),
                }
            }
            Deed::SendDirect => self.send(None),
            Deed::Cancel => self.cancel(),
            Deed::Complete(back) => {
                if let Some(index) = self.sent.len().checked_sub(1 + usize::from(back)) {
                    self.complete(self.sent[index]);
                }
            }
            Deed::Foreign(id) => self.complete(TransactionId::from_wire(id)),
            Deed::Near(back, slot, generation) => {
                let id = self.sent.iter().rev().nth(back.into());
                if let Some(Transaction::Frame {
                    slot: s,
                    generation: g,
                }) = id.map(|id| id.decode())
                {
                    let near = TransactionId::frame(s ^ slot, g.wrapping_add(generation));
                    self.complete(near);
                }
            }
            Deed::Oldest(times) => {
                for _ in 0..times {
                    let oldest = self
                        .sent
                        .iter()
                        .find(|id| self.model.contains_key(&id.value()));
                    let Some(oldest) = oldest.copied() else {
                        return;
                    };
                    self.complete(oldest);
                }
            }
        }
    }

    fn send(&mut self, section: Option<Section>) {
        self.token += 1;
        let cargo = Cargo {
            token: self.token,
            section,
            bytes: self.token as u32 ^ 0x5555,
            packets: self.token as u16,
        };
        match self.table.allocate(cargo) {
            Some(id) => {
                assert!(matches!(id.decode(), Transaction::Frame { .. }));
                assert!(self.seen.insert(id.value()), "an id that the host knows");
                assert!(self.model.insert(id.value(), cargo).is_none());
                self.sent.push(id);
                self.last = Some(id);
            }
            None => {
                assert_eq!(
                    self.model.len() as u32,
                    self.table.capacity(),
                    "there was room"
                );
                self.release(&cargo);
            }
        }
    }

    fn cancel(&mut self) {
        let Some(id) = self.last.take() else {
            return;
        };
        let cargo = self.table.cancel(id);
        assert_eq!(cargo, self.model.remove(&id.value()));
        // The host may have made the id up in the meantime.
        if let Some(cargo) = cargo {
            self.release(&cargo);
            self.sent.pop();
        }
    }

    fn complete(&mut self, id: TransactionId) {
        let cargo = self.table.complete(id);
        assert_eq!(cargo, self.model.remove(&id.value()), "{id:?}");
        if let Some(cargo) = cargo {
            self.release(&cargo);
        }
        assert_eq!(self.table.complete(id), None, "twice");
    }

    fn release(&mut self, cargo: &Cargo) {
        let Some(section) = cargo.section else {
            return;
        };
        assert!(self.owned.remove(&section.index()));
        assert!(self.sections.free(section));
        assert!(!self.sections.free(section), "freed twice");
    }

    /// The channel is closed: what the host never completed comes back, too.
    fn close(mut self) {
        let mut left = Vec::new();
        self.table.drain(|cargo| left.push(cargo));
        for cargo in left {
            let same = |(_, other): &(&u64, &Cargo)| other.token == cargo.token;
            let (id, kept) = self.model.iter().find(same).expect("it was on its way");
            assert_eq!(*kept, cargo);
            let id = *id;
            self.model.remove(&id);
            self.release(&cargo);
        }
        assert!(self.model.is_empty() && self.owned.is_empty() && self.table.is_idle());
    }
}

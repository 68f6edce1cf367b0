// SPDX-License-Identifier: GPL-2.0

//! `rndis/sections.rs`: any queue may allocate, any poll may free. The bytes of a section have one owner at a time,
//! who sees what the owner before did to them.

use loom::{cell::UnsafeCell, sync::Arc, thread};
use netvsc_models::rndis::sections::{lines_needed, SectionLine, Sections};

struct Buffer {
    sections: Sections<Vec<SectionLine>>,
    /// What lies in each section; Loom reports two accesses that are not ordered.
    bytes: Vec<UnsafeCell<u32>>,
}

fn buffer(count: u32, queues: u16) -> Arc<Buffer> {
    let lines = (0..lines_needed(count, queues)).map(|_| SectionLine::default());
    Arc::new(Buffer {
        sections: Sections::new(lines.collect(), count, queues).expect("room enough"),
        bytes: (0..count).map(|_| UnsafeCell::new(0)).collect(),
    })
}

/// Allocates, writes, frees. Whether there was a section.
fn use_one(buffer: &Buffer, queue: u16) -> bool {
    let Some(section) = buffer.sections.allocate(queue) else {
        return false;
    };
    buffer.bytes[section.index() as usize].with_mut(|bytes| {
        // SAFETY: The section is ours, and Loom checks that.
        unsafe { *bytes += 1 };
    });
    assert!(buffer.sections.free(section));
    true
}

#[test]
fn a_section_has_one_owner_at_a_time() {
    loom::model(|| {
        let buffer = buffer(1, 2);
        let other = {
            let buffer = buffer.clone();
            thread::spawn(move || use_one(&buffer, 1))
        };
        let mine = use_one(&buffer, 0);
        let theirs = other.join().unwrap();
        assert!(mine || theirs);
        assert_eq!(buffer.sections.in_use(), 0);
    });
}

#[test]
fn while_there_are_enough_nobody_goes_without() {
    loom::model(|| {
        let buffer = buffer(2, 1);
        let other = {
            let buffer = buffer.clone();
            thread::spawn(move || use_one(&buffer, 0))
        };
        assert!(use_one(&buffer, 0));
        assert!(other.join().unwrap());
        assert_eq!(buffer.sections.in_use(), 0);
    });
}

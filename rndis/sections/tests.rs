// SPDX-License-Identifier: GPL-2.0

//! The allocator against a model, and under contention.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn sections(count: u32, queues: u16) -> Sections<Vec<SectionLine>> {
    let lines = (0..lines_needed(count, queues))
        .map(|_| SectionLine::default())
        .collect();
    Sections::new(lines, count, queues).unwrap()
}

/// The section of an index, in use or not.
fn section(sections: &Sections<Vec<SectionLine>>, index: u32) -> Section {
    let region = index / sections.layout.region;
    let within = index % sections.layout.region;
    Section::from_parts(index, sections.first_place(region) + within)
}

#[test]
fn a_line_is_a_cache_line() {
    assert_eq!(size_of::<SectionLine>(), 64);
    assert_eq!(align_of::<SectionLine>(), 64);
}

#[test]
fn queues_have_lines_of_their_own() {
    let sections = sections(170, 4);
    let first = sections.allocate(0).unwrap();
    let second = sections.allocate(1).unwrap();
    assert_eq!((first.index(), second.index()), (0, 43));
    let line = |section: Section| {
        let word = sections.word(section.place, 0).unwrap();
        core::ptr::from_ref(word) as usize / 64
    };
    assert_ne!(line(first), line(second));
}

#[test]
fn an_empty_region_takes_from_the_others() {
    let sections = sections(10, 4);
    let taken: BTreeSet<u32> = (0..10)
        .map(|_| sections.allocate(3).unwrap().index())
        .collect();
    assert_eq!(taken, (0..10).collect());
    assert_eq!(sections.allocate(3), None);
    assert_eq!(sections.in_use(), 10);
}

#[test]
fn storage_must_be_large_enough_and_zero() {
    assert!(Sections::new(Vec::new(), 1, 1).is_none());
    let used = SectionLine::default();
    used.0[3].store(1, Ordering::Relaxed);
    assert!(Sections::new(vec![used], 1, 1).is_none());
    let none = Sections::new(Vec::new(), 0, 4).unwrap();
    assert_eq!(none.allocate(0), None);
    assert!(!none.free(Section::from_parts(0, 0)));
}

proptest! {
    #[test]
    fn behaves_as_a_set(
        count in 0u32..1300,
        queues in 0u16..9,
        steps in proptest::collection::vec((any::<bool>(), any::<u16>()), 0..400),
    ) {
        let sections = sections(count, queues);
        let mut model = BTreeSet::new();
        for (allocate, value) in steps {
            if allocate {
                match sections.allocate(value) {
                    Some(section) => {
                        prop_assert!(section.index() < count);
                        prop_assert!(model.insert(section.index()));
                    }
                    None => prop_assert_eq!(model.len(), count as usize),
                }
            } else {
                let Some(index) = u32::from(value).checked_rem(count) else {
                    continue;
                };
                let freed = sections.free(section(&sections, index));
                prop_assert_eq!(freed, model.remove(&index));
            }
        }
        prop_assert_eq!(sections.in_use() as usize, model.len());
    }

    #[test]
    fn all_sections_can_be_had(count in 0u32..1300, queues in 0u16..70, queue: u16) {
        let sections = sections(count, queues);
        let taken: BTreeSet<u32> =
            core::iter::from_fn(|| sections.allocate(queue)).map(Section::index).collect();
        prop_assert_eq!(taken.len(), count as usize);
    }
}

#[test]
fn no_section_has_two_owners() {
    let sections = sections(100, 4);
    let owners: Vec<AtomicU64> = (0..100).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for queue in 0..4 {
            let (sections, owners) = (&sections, &owners);
            scope.spawn(move || {
                for round in 0..20_000u32 {
                    let Some(section) = sections.allocate(queue) else {
                        continue;
                    };
                    let owner = &owners[section.index() as usize];
                    assert_eq!(owner.swap(u64::from(queue) + 1, Ordering::Relaxed), 0);
                    if round % 7 == 0 {
                        std::thread::yield_now();
                    }
                    owner.store(0, Ordering::Relaxed);
                    assert!(sections.free(section));
                }
            });
        }
    });
    assert_eq!(sections.in_use(), 0);
}

// SPDX-License-Identifier: GPL-2.0

//! A host that writes wrong packets while traffic flows: transfer pages outside the buffer, send tables out of
//! range, completions of nothing, per-packet information that lies, storms of link changes; and rings whose
//! lengths and indices are wrong.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::guest::{End, Guest, SHORT};
use crate::host::RawPacket;
use crate::packets::{message, mutated, udp4, with_word, words, Piece};
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "wrong-packets-of-the-host-are-counted",
        about: "transfer pages, notices, completions and kinds that no host sends: refused and counted, traffic goes on",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("weaknesses 3, 7, 8 of 8.2: empty completions, range counts and refusals without a completion"),
        run: wrong_packets,
    },
    Scenario {
        name: "wrong-information-about-frames-does-no-harm",
        about: "records cut short or overlapping, five hundred mutated messages, storms of link changes",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("weaknesses 1, 2, 9 of 8.2: records of size 0 and short frames"),
        run: wrong_information,
    },
    Scenario {
        name: "broken-rings-are-opened-again",
        about: "lengths that do not fit, indices out of range and backwards: the device is attached again by itself",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("8.2: steps over the host's index and reads what the ring held a round ago"),
        run: broken_rings,
    },
];

const IN_BAND: u16 = 6;
const TRANSFER_PAGES: u16 = 7;
const COMPLETION: u16 = 11;
const RNDIS_PACKET: [u32; 4] = [107, 0, u32::MAX, 0];

/// What must count a wrong packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// `rx_bad_packet`, by one.
    Bad,
    /// `bad_completion`, by one.
    Completion,
    /// Nothing: the driver can live with it.
    Nothing,
}

type Wrong = (&'static str, Counts, RawPacket);

fn pages(pageset: u32, count: u32, ranges: &[(u32, u32)], payload: &[u32]) -> RawPacket {
    let mut header = words(&[pageset, count]);
    for (offset, len) in ranges {
        header.extend(words(&[*len, *offset]));
    }
    RawPacket {
        kind: TRANSFER_PAGES,
        flags: 1,
        id: 0xfee1_dead,
        header,
        payload: words(payload),
        ..RawPacket::default()
    }
}

fn wrong_pages() -> Vec<Wrong> {
    let good = RNDIS_PACKET;
    let range = |offset, len| pages(0xcafe, 1, &[(offset, len)], &good);
    let bad = |what, packet| (what, Counts::Bad, packet);
    vec![
        bad("another pageset", pages(0xbeef, 1, &[(0, 100)], &good)),
        bad("the send buffer", pages(0, 1, &[(0, 100)], &good)),
        bad("2^32-1 ranges", pages(0xcafe, u32::MAX, &[(0, 100)], &good)),
        bad(
            "2^31 ranges",
            pages(0xcafe, 0x8000_0000, &[(0, 100)], &good),
        ),
        bad(
            "more ranges than the header holds",
            pages(0xcafe, 3, &[(0, 100), (0, 100)], &good),
        ),
        (
            "no range",
            Counts::Nothing,
            pages(0xcafe, 0, &[(0, 100)], &good),
        ),
        bad("a range behind the buffer", range(0x7fff_0000, 100)),
        bad("a range that ends behind it", range(0, 0x7fff_0000)),
        bad("a range that wraps", range(0xffff_fff0, 100)),
        bad("a length that wraps", range(100, u32::MAX)),
        bad("an empty range", range(0, 0)),
        bad("a range shorter than a header", range(0, 7)),
        bad(
            "no transfer page header",
            RawPacket {
                header: Vec::new(),
                ..range(0, 100)
            },
        ),
        bad(
            "no NVSP message",
            RawPacket {
                payload: Vec::new(),
                ..range(0, 100)
            },
        ),
        bad(
            "another NVSP message",
            pages(0xcafe, 1, &[(0, 100)], &[105, 1, 0, 0]),
        ),
    ]
}

fn plain(kind: u16, id: u64, payload: &[u32]) -> RawPacket {
    RawPacket {
        kind,
        id,
        payload: words(payload),
        ..RawPacket::default()
    }
}

fn table(count: u32, offset: u32, entry: u32) -> RawPacket {
    let mut payload = vec![134, count, offset];
    payload.extend([entry; 16]);
    plain(IN_BAND, 0, &payload)
}

fn wrong_notices() -> Vec<Wrong> {
    let bad = |what, packet| (what, Counts::Bad, packet);
    vec![
        bad("a table of no entries", table(0, 12, 0)),
        bad("a table of 2^32-1 entries", table(u32::MAX, 12, 0)),
        bad("a table of 17 entries", table(17, 12, 0)),
        bad("a table behind its message", table(16, 4096, 0)),
        bad("a table at the end of memory", table(16, u32::MAX - 3, 0)),
        bad("a table cut short", plain(IN_BAND, 0, &[134, 16, 12, 0, 0])),
        bad("a table without count", plain(IN_BAND, 0, &[134])),
        bad("an empty notice", plain(IN_BAND, 0, &[])),
        bad(
            "a virtual function without serial",
            plain(IN_BAND, 0, &[128]),
        ),
        (
            "an unknown notice",
            Counts::Nothing,
            plain(IN_BAND, 0, &[9999, 1, 2, 3]),
        ),
        (
            "a table of channels there are not",
            Counts::Nothing,
            table(16, 12, 0xffff_fffb),
        ),
        ("a right table", Counts::Nothing, table(16, 12, 1)),
    ]
}

fn wrong_completions() -> Vec<Wrong> {
    let done = [108, 1];
    let nothing = |what, id| (what, Counts::Completion, plain(COMPLETION, id, &done));
    vec![
        nothing("completion of 0", 0),
        nothing("completion of 1", 1),
        nothing("completion of 2^64-1", u64::MAX),
        nothing("completion of a frame not in flight", 2 << 56 | 511),
        nothing("completion of a slot there is not", 2 << 56 | 0xffff_ffff),
        nothing("completion of another generation", 2 << 56 | 0xabcdef << 32),
        nothing("completion of no kind", 7 << 56 | 1),
        nothing("completion of a control message", 1 << 56 | 3),
        (
            "an empty completion of nothing",
            Counts::Completion,
            plain(COMPLETION, 2 << 56, &[]),
        ),
        (
            "a packet of kind 0",
            Counts::Bad,
            plain(0, 0, &RNDIS_PACKET),
        ),
        (
            "pages of the host's memory",
            Counts::Bad,
            plain(9, 0, &RNDIS_PACKET),
        ),
        (
            "a packet of kind 65535",
            Counts::Bad,
            plain(u16::MAX, 0, &RNDIS_PACKET),
        ),
    ]
}

/// `rx_bad_packet` and `bad_completion`.
fn counted(guest: &Guest) -> Result<[u64; 2]> {
    let all = guest.statistics(End::Near)?;
    let one = |name: &str| {
        let found = all.iter().find(|(known, _)| known == name);
        found.map_or(0, |(_, value)| *value)
    };
    Ok([one("rx_bad_packet"), one("bad_completion")])
}

fn wrong_packets(guest: &Guest) -> Result<()> {
    let layers = [
        ("transfer pages", wrong_pages()),
        ("notices", wrong_notices()),
        ("completions and kinds", wrong_completions()),
    ];
    for (layer, cases) in layers {
        let mut count = counted(guest)?;
        for (what, counts, packet) in &cases {
            try_packet(guest, &mut count, *counts, packet)
                .with_context(|| format!("{layer}: {what}"))?;
        }
        guest.no_kernel_report()?;
        guest.ping_both_ways()?;
        println!("      {} wrong {layer}", cases.len());
    }
    Ok(())
}

/// Writes a packet, which must change `count` as `counts` says.
fn try_packet(
    guest: &Guest,
    count: &mut [u64; 2],
    counts: Counts,
    packet: &RawPacket,
) -> Result<()> {
    let host = |name| guest.host.counters()?.number(End::Near, name);
    let before = *count;
    let (completed, refused) = (host("injected_completed")?, host("injected_refused")?);
    guest.host.inject_packet(End::Near, 0, packet)?;
    let mut expected = before;
    match counts {
        Counts::Bad => expected[0] += 1,
        Counts::Completion => expected[1] += 1,
        Counts::Nothing => {}
    }
    if packet.flags == 1 {
        guest.wait_until("a completion", SHORT, || {
            Ok(host("injected_completed")? == completed + 1)
        })?;
        let more = host("injected_refused")? - refused;
        ensure!(
            more == u64::from(counts == Counts::Bad),
            "{more} packets were refused"
        );
    }
    guest
        .wait_until("a count", Duration::from_secs(10), || {
            *count = counted(guest)?;
            Ok(*count == expected)
        })
        .with_context(|| format!("counters went from {before:?}, not to {expected:?}"))
}

/// A frame with one record of information, whose word at `at` is `word`.
fn with_record(frame: &[u8], at: usize, word: u32) -> Vec<u8> {
    with_word(message(frame, Some(Piece::First)), at, word)
}

fn wrong_records(frame: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let record = |what, at, word| (what, with_record(frame, at, word));
    vec![
        record("a record of 4 bytes", 44, 4),
        record("a record of 11 bytes", 44, 11),
        record("a record longer than all", 44, 4096),
        record("a record of 2^32-1 bytes", 44, u32::MAX),
        record("a value behind its record", 52, 16),
        record("a value at the end of memory", 52, u32::MAX - 1),
        record("records behind the message", 28, 4096),
        record("records at the end of memory", 28, u32::MAX - 3),
        record("records of 2^32-1 bytes", 32, u32::MAX),
        record("records over the frame", 32, 4000),
    ]
}

/// An indication of `status` whose buffer is said to be at `offset`, `len` long.
fn indication(status: u32, len: u32, offset: u32) -> Vec<u8> {
    words(&[7, 24, status, len, offset, 1000])
}

const CONNECT: u32 = 0x4001_000b;
const DISCONNECT: u32 = 0x4001_000c;
const SPEED: u32 = 0x4001_0013;
const NETWORK_CHANGE: u32 = 0x4001_0018;

fn wrong_information(guest: &Guest) -> Result<()> {
    let frame = udp4(End::Near, 9, &[0x55; 100]);
    let records = wrong_records(&frame);
    for (what, wrong) in &records {
        let [before, _] = counted(guest)?;
        guest
            .host
            .inject_messages(End::Near, std::slice::from_ref(wrong))?;
        guest
            .wait_until("a count", Duration::from_secs(10), || {
                Ok(counted(guest)?[0] == before + 1)
            })
            .with_context(|| (*what).to_owned())?;
    }
    println!("      {} wrong records", records.len());

    const SEEDS: u64 = 500;
    let whole = message(&frame, None);
    let piece = message(&frame, Some(Piece::First));
    let all: Vec<Vec<u8>> = (0..SEEDS)
        .map(|seed| mutated(if seed % 2 == 0 { &whole } else { &piece }, seed))
        .collect();
    for group in all.chunks(20) {
        inject(guest, group)?;
    }
    guest.no_kernel_report()?;
    guest.ping_both_ways()?;
    println!("      {SEEDS} mutated messages");
    link_storm(guest)
}

/// Injects as soon as there are receive sections.
fn inject(guest: &Guest, messages: &[Vec<u8>]) -> Result<()> {
    guest.wait_until("receive sections", SHORT, || {
        Ok(guest.host.inject_messages(End::Near, messages).is_ok())
    })
}

fn link_storm(guest: &Guest) -> Result<()> {
    let wrong = [
        indication(SPEED, 4, 4096),
        indication(SPEED, u32::MAX, 12),
        indication(SPEED, 4, u32::MAX),
        indication(SPEED, 0, 0),
        indication(u32::MAX, 4, 12),
        indication(NETWORK_CHANGE, 0, 0),
        words(&[7, 8]),
        words(&[7, 12, CONNECT]),
        words(&[0x8000_0004, 24, 1, 0, u32::MAX, 16]),
        words(&[0x8000_0002, 8]),
        words(&[0x8000_0005, 16, 1, 0]),
    ];
    for message in &wrong {
        inject(guest, std::slice::from_ref(message))?;
    }
    const ROUNDS: usize = 40;
    let storm: Vec<Vec<u8>> = (0..20)
        .map(|n| {
            let up = n % 2 == 1;
            indication(if up { CONNECT } else { DISCONNECT }, 0, 0)
        })
        .collect();
    for _ in 0..ROUNDS {
        inject(guest, &storm)?;
    }
    guest.wait_until("carrier", Duration::from_secs(20), || {
        guest.carrier(End::Near)
    })?;
    guest.no_kernel_report()?;
    println!(
        "      {} wrong indications and answers, {} link changes",
        wrong.len(),
        ROUNDS * storm.len()
    );
    guest.ping_both_ways()
}

fn ring_cases() -> Vec<(&'static str, RawPacket)> {
    let packet = |offset8, len8| RawPacket {
        offset8,
        len8,
        ..plain(IN_BAND, 0, &[9999, 0, 0, 0])
    };
    vec![
        ("a packet of length 0", packet(None, Some(0))),
        (
            "a packet shorter than its descriptor",
            packet(None, Some(1)),
        ),
        (
            "a packet longer than what was written",
            packet(None, Some(5)),
        ),
        (
            "a packet longer than the ring",
            packet(None, Some(u16::MAX)),
        ),
    ]
}

fn broken_rings(guest: &Guest) -> Result<()> {
    let breaking = ring_cases();
    for channel in [0, 1] {
        for (what, packet) in &breaking {
            break_ring(guest, channel, packet)
                .with_context(|| format!("channel {channel}: {what}"))?;
        }
    }
    println!("      {} broken rings", 2 * breaking.len());
    // An offset that does not fit its packet is that packet's problem only.
    let offsets = [0, 1, 5, u16::MAX];
    for offset8 in offsets {
        let packet = RawPacket {
            offset8: Some(offset8),
            ..plain(IN_BAND, 0, &[9999, 0, 0, 0])
        };
        guest.host.inject_packet(End::Near, 0, &packet)?;
    }
    guest.ping_both_ways()?;
    wrong_indices(guest)?;
    println!("      {} wrong offsets", offsets.len());
    guest.no_kernel_report()?;
    guest.ping_both_ways()
}

fn wrong_indices(guest: &Guest) -> Result<()> {
    let indices = [0xffff_fff8, 0x8000_0000, 0x0010_0000, 0x00ff_fff1];
    // Until the host's next packet there is nothing to read.
    for value in indices {
        guest.host.set_index(End::Near, 0, "write", value)?;
        guest
            .ping_both_ways()
            .with_context(|| format!("write index {value:#x}"))?;
    }
    // Nothing fits the ring any more: whoever sends notices, and the device is attached again.
    for value in indices {
        wrong_read_index(guest, value).with_context(|| format!("read index {value:#x}"))?;
    }
    println!("      {} wrong indices", 2 * indices.len());
    Ok(())
}

fn wrong_read_index(guest: &Guest, value: u32) -> Result<()> {
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    let most = guest.machine.most_channels();
    for channel in 0..most as u16 {
        guest.host.set_index(End::Near, channel, "read", value)?;
    }
    guest.wait_until("new attach", SHORT, || {
        // Lost, and meant to be: a frame that does not fit.
        guest.try_at(
            End::Near,
            &["ping", "-c1", "-W1", "-q", End::Peer.v4()],
            SHORT,
        )?;
        let counters = guest.host.counters()?;
        Ok(counters.attaches(End::Near)? > attaches
            && counters.open_channels(End::Near)? == u64::from(most))
    })?;
    guest.wait_until("carrier", SHORT, || guest.carrier(End::Near))?;
    guest.ping_both_ways()
}

/// Breaks the ring of a channel; the device must come back by itself.
fn break_ring(guest: &Guest, channel: u16, packet: &RawPacket) -> Result<()> {
    let before = counted(guest)?[0];
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    guest.host.inject_packet(End::Near, channel, packet)?;
    let most = u64::from(guest.machine.most_channels());
    guest.wait_until("new attach", SHORT, || {
        let counters = guest.host.counters()?;
        Ok(counters.attaches(End::Near)? == attaches + 1
            && counters.open_channels(End::Near)? == most)
    })?;
    guest.wait_until("carrier", SHORT, || guest.carrier(End::Near))?;
    let after = counted(guest)?[0];
    ensure!(
        after == before + 1,
        "rx_bad_packet went from {before} to {after}"
    );
    guest.run(&["ping", "-c1", "-W10", "-q", End::Peer.v4()])?;
    Ok(())
}

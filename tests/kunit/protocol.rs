// SPDX-License-Identifier: GPL-2.0

//! Suite: formats and state machines as they are compiled for the kernel, against the recorded conversations of
//! `tests/data` and a host that answers single requests.

use kernel::prelude::*;

/// The recordings, by what the lines are of.
const RECORDINGS: [&str; 4] = [
    include_str!("../data/attach-4-channels.txt"),
    include_str!("../data/reattach-2-channels.txt"),
    include_str!("../data/requests.txt"),
    include_str!("../data/frames.txt"),
];

/// A line of a recording.
struct Line<'a> {
    text: &'a str,
    bytes: &'a [u8],
}

impl Line<'_> {
    fn is(&self, word: &str) -> bool {
        self.text.split(' ').any(|other| other == word)
    }

    fn field(&self, key: &str) -> Option<&str> {
        let mut pairs = self.text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    fn has(&self, key: &str, value: &str) -> bool {
        self.field(key) == Some(value)
    }
}

/// Reads the hexadecimal digits at the end of a line.
fn from_hex<'a>(text: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let hex = text.rsplit(' ').next()?.as_bytes();
    if hex.len() % 2 != 0 || hex.len() / 2 > buffer.len() {
        return None;
    }
    for (byte, digits) in buffer.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    buffer.get(..hex.len() / 2)
}

/// Calls `f` for each line of all recordings; returns for how many it was true. `None` if it was false for one.
fn check_lines(mut f: impl FnMut(&Line<'_>) -> Option<bool>) -> Result<Option<u32>> {
    let mut buffer = KVec::from_elem(0u8, 4096, GFP_KERNEL)?;
    let mut compared = 0;
    for text in RECORDINGS.iter().flat_map(|text| text.lines()) {
        if text.is_empty() || text.starts_with('#') || text.ends_with(" -") {
            continue;
        }
        let Some(bytes) = from_hex(text, &mut buffer) else {
            pr_err!("no line of a recording: {text}\n");
            return Ok(None);
        };
        match f(&Line { text, bytes }) {
            Some(true) => compared += 1,
            Some(false) => {
                pr_err!("differs: {text}\n");
                return Ok(None);
            }
            None => {}
        }
    }
    Ok(Some(compared))
}

#[kunit_tests(hv_netvsc_protocol)]
mod tests {
    use super::*;
    use crate::rndis::{
        address::MacAddress,
        bringup::Bringup,
        event::{Action, Event, RequestIds, MESSAGE_BUFFER_LEN},
        exchange::{Exchange, ExchangeError, Reply, Request},
        filter::{PacketFilter, Wanted},
        link::LinkSpeed,
        message::REQUEST_LEN,
        rss::{self, FlowHash, Mode, OfferedHashes, Table, KEY_LEN},
        teardown::{steps, Established, Step},
    };
    use crate::vmbus::{
        gpa_direct::{GpaDirect, RndisHeaderRange},
        transfer_pages::TransferPages,
        version::VmbusVersion,
    };

    fn number(line: &Line<'_>, key: &str) -> Option<u32> {
        line.field(key)?.parse().ok()
    }

    /// Length, offset and page numbers of the first of some ranges, and the others.
    fn split_range(ranges: &[u8]) -> Option<(u32, u32, &[u8], &[u8])> {
        let len = u32::from_le_bytes(*ranges.first_chunk()?);
        let offset = u32::from_le_bytes(*ranges.get(4..)?.first_chunk()?);
        let pages = (offset + len).div_ceil(4096) as usize;
        let (pfns, rest) = ranges.get(8..)?.split_at_checked(pages * 8)?;
        Some((len, offset, pfns, rest))
    }

    fn numbers(pfns: &[u8]) -> impl Iterator<Item = u64> + '_ {
        let pfns = pfns.chunks_exact(8);
        pfns.filter_map(|pfn| Some(u64::from_le_bytes(pfn.try_into().ok()?)))
    }

    /// The header that the driver makes of the ranges in a recorded one.
    fn rebuilt<'a>(recorded: &[u8], buffer: &'a mut [u8; 512]) -> Option<&'a [u8]> {
        let (len, offset, pfns, mut rest) = split_range(recorded.get(24..)?)?;
        let address = numbers(pfns).next()? * 4096 + u64::from(offset);
        let mut gpa = match RndisHeaderRange::new(address, len) {
            Some(range) => GpaDirect::with_header(&mut buffer[..], range).ok()?,
            None => {
                // The RNDIS header is in a section: what comes first is part of the frame.
                let mut gpa = GpaDirect::header_in_section(&mut buffer[..]).ok()?;
                gpa.push_pages(offset, len, numbers(pfns)).ok()?;
                gpa
            }
        };
        while !rest.is_empty() {
            let (len, offset, pfns, after) = split_range(rest)?;
            gpa.push_pages(offset, len, numbers(pfns)).ok()?;
            rest = after;
        }
        let id = u64::from_le_bytes(*recorded.get(8..)?.first_chunk()?);
        let len8 = u16::from_le_bytes(*recorded.get(4..)?.first_chunk()?);
        let payload = usize::from(len8) * 8 - recorded.len().next_multiple_of(8);
        let len = gpa.finish(payload, id)?;
        buffer.get(..len)
    }

    #[test]
    fn headers_over_pages_are_those_of_the_c_driver() -> Result {
        let mut buffer = [0u8; 512];
        let compared = check_lines(|line| {
            if !line.is("pkt") || !line.is("G>H") || !line.has("name", "DATA_GPA_DIRECT") {
                return None;
            }
            Some(rebuilt(line.bytes, &mut buffer) == Some(line.bytes))
        })?;
        assert!(compared > Some(20));
        Ok(())
    }

    #[test]
    fn every_list_of_ranges_is_read() -> Result {
        let compared = check_lines(|line| {
            if !line.has("name", "DATA_XFER_PAGES") {
                return None;
            }
            let Ok(pages) = TransferPages::parse(line.bytes) else {
                return Some(false);
            };
            let (count, mut recorded) = line.field("ranges")?.split_once(':')?;
            let mut same = count.parse() == Ok(pages.len());
            for range in pages.iter() {
                let (first, rest) = recorded.split_once(',').unwrap_or((recorded, ""));
                let (len, offset) = first.split_once('@')?;
                same &= len.parse() == Ok(range.len) && offset.parse() == Ok(range.offset);
                recorded = rest;
            }
            Some(same && pages.pageset_id() == 0xcafe)
        })?;
        assert!(compared > Some(20));
        Ok(())
    }

    #[test]
    fn spreading_is_set_as_by_the_c_driver() -> Result {
        let mut out = KVec::from_elem(0u8, MESSAGE_BUFFER_LEN, GFP_KERNEL)?;
        let mut enable = false;
        let compared = check_lines(|line| {
            let rss = line
                .field("oid")
                .is_some_and(|oid| oid.starts_with("0x10204"));
            if !rss || !line.has("name", "SET") || !line.is("G>H") {
                return None;
            }
            let key: &[u8; KEY_LEN] = line.bytes.last_chunk()?;
            let table = line
                .bytes
                .get(REQUEST_LEN + 40..line.bytes.len() - KEY_LEN)?;
            let entries = table
                .chunks_exact(4)
                .filter_map(|entry| entry.try_into().ok());
            let table = Table::from_entries(entries.map(u32::from_le_bytes))?;
            let parameters = rss::Parameters {
                table: &table,
                key,
                types: FlowHash::ALL.types(OfferedHashes::default()),
            };
            let mode = if enable { Mode::Enable } else { Mode::Disable };
            enable = !enable;
            let len = rss::encode_set(number(line, "reqid")?, mode, &parameters, &mut out)?;
            Some(out.get(..len)? == line.bytes)
        })?;
        assert_eq!(compared, Some(8));
        Ok(())
    }

    #[test]
    fn a_table_spreads_evenly_and_fits_only_its_channels() -> Result {
        for (len, channels) in [(128u16, 4u16), (128, 64), (64, 3), (256, 1)] {
            let table = Table::spread(len, channels);
            assert_eq!(table.entries().len(), usize::from(len));
            let mut counts = [0u16; 64];
            for entry in table.entries() {
                counts[usize::from(*entry)] += 1;
            }
            let used = &counts[..usize::from(channels)];
            assert_eq!(used.iter().sum::<u16>(), len);
            assert!(used.iter().all(|count| count.abs_diff(len / channels) <= 1));
            assert!(table.fits(channels));
            assert!(channels == 1 || !table.fits(channels - 1));
        }
        Ok(())
    }

    /// Starts a request; its id is 1.
    fn start<'a>(
        request: &Request<'a>,
        buffer: &mut [u8; MESSAGE_BUFFER_LEN],
    ) -> Result<(Exchange<'a>, Action)> {
        Exchange::start(&mut RequestIds::new(), request, buffer).map_err(|_| EINVAL)
    }

    fn acknowledged(exchange: &mut Exchange<'_>, action: Action) -> Result<(), ExchangeError> {
        let Action::SendRndis { transaction, .. } = action else {
            return Err(ExchangeError::MessageTooLong);
        };
        exchange.event(Event::Completion {
            transaction,
            payload: &[108, 0, 0, 0, 1, 0, 0, 0],
        })
    }

    #[test]
    fn requests_are_those_of_the_c_driver() -> Result {
        let mut buffer = KBox::new([0u8; MESSAGE_BUFFER_LEN], GFP_KERNEL)?;
        let wanted = Wanted {
            promiscuous: false,
            multicast: true,
            broadcast: true,
        };
        let compared = check_lines(|line| {
            let oid = line.field("oid")?;
            if !line.is("G>H") || !line.has("name", "SET") {
                return None;
            }
            let value = line.bytes.get(28..32)?;
            let request = if oid.contains("CONFIG_PARAMETER") {
                Request::SetAddress(MacAddress([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]))
            } else if !oid.contains("PACKET_FILTER") {
                return None;
            } else {
                Request::SetPacketFilter(match value[0] {
                    0 => PacketFilter::NONE,
                    0x20 => PacketFilter::new(Wanted {
                        promiscuous: true,
                        ..Wanted::default()
                    }),
                    _ => PacketFilter::new(wanted),
                })
            };
            let Ok((_, Action::SendRndis { len, .. })) = start(&request, &mut buffer) else {
                return Some(false);
            };
            // Numbers of requests depend on what came before.
            buffer.get_mut(8..12)?.copy_from_slice(&line.bytes[8..12]);
            Some(buffer.get(..len)? == line.bytes)
        })?;
        assert!(compared >= Some(5));
        Ok(())
    }

    #[test]
    fn an_answer_and_the_completion_of_its_packet_end_a_request() -> Result {
        let mut buffer = KBox::new([0u8; MESSAGE_BUFFER_LEN], GFP_KERNEL)?;
        let (mut exchange, action) = start(&Request::QueryLinkSpeed, &mut buffer)?;
        let mut answer = [0u8; 28];
        let words = [0x8000_0004u32, 28, 2, 0, 4, 16, 10_000];
        for (place, word) in answer.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        // To another request.
        exchange.event(Event::Rndis(&answer)).map_err(|_| EIO)?;
        assert_eq!((exchange.reply(), exchange.ignored()), (None, 1));
        answer[8] = 1;
        exchange.event(Event::Rndis(&answer)).map_err(|_| EIO)?;
        assert!(exchange.reply().is_none() && exchange.buffer_in_flight());
        acknowledged(&mut exchange, action).map_err(|_| EIO)?;
        assert_eq!(exchange.reply(), Some(Reply::LinkSpeed(LinkSpeed(10_000))));
        assert!(!exchange.buffer_in_flight());
        Ok(())
    }

    #[test]
    fn a_request_that_is_given_up_keeps_its_buffer_until_it_is_acknowledged() -> Result {
        let mut buffer = KBox::new([0u8; MESSAGE_BUFFER_LEN], GFP_KERNEL)?;
        let (mut exchange, action) = start(&Request::QueryLinkState, &mut buffer)?;
        let given_up = exchange.event(Event::Deadline);
        assert_eq!(given_up, Err(ExchangeError::Deadline));
        assert!(exchange.buffer_in_flight());
        let Action::SendRndis { transaction, .. } = action else {
            return Err(EINVAL);
        };
        let late = Event::Completion {
            transaction,
            payload: &[108, 0, 0, 0, 1, 0, 0, 0],
        };
        assert!(exchange.acknowledge(late));
        Ok(())
    }

    #[test]
    fn memory_goes_back_before_or_after_the_close_by_the_age_of_the_host() -> Result {
        let all = Established {
            receive_gpadl: Some(1),
            send_gpadl: Some(2),
            receive_buffer: true,
            send_buffer: true,
            rndis: true,
        };
        for (version, before_close) in [(VmbusVersion(3 << 16), true), (VmbusVersion::V4_0, false)]
        {
            let place = |step| steps(version, &all).position(|other| other == step);
            let close = place(Step::Close).ok_or(ENOENT)?;
            let unshare = place(Step::UnshareReceiveBuffer { gpadl: 1 }).ok_or(ENOENT)?;
            assert!((unshare < close) == before_close);
            assert_eq!(place(Step::Halt), Some(0));
        }
        Ok(())
    }

    #[test]
    fn the_state_of_an_attach_does_not_burden_the_stack() {
        assert!(core::mem::size_of::<Bringup>() <= 512);
    }
}

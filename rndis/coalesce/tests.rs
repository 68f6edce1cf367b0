// SPDX-License-Identifier: GPL-2.0

//! Pieces in order, and in every other way that a host can send them.

use super::*;
use crate::rndis::ppi::{Fragment, RxChecksum};
use proptest::prelude::*;

const FIRST: u8 = 2;
const LAST: u8 = 4;

fn data(len: u32, fragment: Option<Fragment>) -> RxData {
    RxData {
        data_offset: 100,
        data_len: len,
        vlan: None,
        checksum: RxChecksum(0),
        hash: None,
        hash_has_ports: false,
        fragment,
    }
}

fn piece(len: u32, flags: u8) -> RxData {
    data(
        len,
        Some(Fragment {
            first: flags & FIRST != 0,
            last: flags & LAST != 0,
            id: 7,
        }),
    )
}

fn coalescer() -> Coalescer<Vec<Piece>> {
    Coalescer::new(vec![Piece::default(); MAX_PIECES])
}

fn frame(step: Result<Step<'_>, CoalesceError>) -> (u32, Vec<Piece>) {
    match step {
        Ok(Step::Frame(frame)) => (frame.len, frame.pieces.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_frame_is_its_only_piece() {
    let mut c = coalescer();
    let expected = Piece { offset: 5, len: 60 };
    assert_eq!(frame(c.push(5, &data(60, None))), (60, vec![expected]));
    assert_eq!(
        frame(c.push(5, &piece(60, FIRST | LAST))),
        (60, vec![expected])
    );
    assert_eq!((c.end_of_packet(), c.lost()), (Ok(()), 0));
}

#[test]
fn pieces_become_one_frame_with_the_infos_of_the_first() {
    let mut c = coalescer();
    let mut first = piece(1514, FIRST);
    first.hash = Some(9);
    assert_eq!(c.push(1000, &first), Ok(Step::More));
    assert_eq!(c.push(3000, &piece(1460, 0)), Ok(Step::More));
    match c.push(9000, &piece(1, LAST)) {
        Ok(Step::Frame(frame)) => {
            assert_eq!(frame.data, first);
            assert_eq!(frame.len, 2975);
            let at: Vec<_> = frame.pieces.iter().map(|p| (p.offset, p.len)).collect();
            assert_eq!(at, [(1000, 1514), (3000, 1460), (9000, 1)]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((c.end_of_packet(), c.lost()), (Ok(()), 0));
}

#[test]
fn a_missing_start_is_lost_piece_by_piece() {
    let mut c = coalescer();
    for flags in [0, LAST] {
        assert_eq!(c.push(0, &piece(100, flags)), Err(CoalesceError::NoStart));
    }
    assert_eq!((c.end_of_packet(), c.lost()), (Ok(()), 2));
}

#[test]
fn a_missing_end_costs_one_frame_and_no_other() {
    let mut c = coalescer();
    assert_eq!(c.push(0, &piece(100, FIRST)), Ok(Step::More));
    assert_eq!(frame(c.push(0, &data(60, None))).0, 60);
    assert_eq!(c.lost(), 1);
    assert_eq!(c.push(0, &piece(100, FIRST)), Ok(Step::More));
    assert_eq!(c.push(0, &piece(200, FIRST)), Ok(Step::More));
    assert_eq!(frame(c.push(0, &piece(1, LAST))).0, 201);
    assert_eq!(c.lost(), 2);
    assert_eq!(c.push(0, &piece(100, FIRST)), Ok(Step::More));
    assert_eq!(
        (c.end_of_packet(), c.lost()),
        (Err(CoalesceError::NoEnd), 3)
    );
    assert_eq!(c.push(0, &piece(1, LAST)), Err(CoalesceError::NoStart));
}

#[test]
fn a_refused_message_in_between_costs_the_frame() {
    let mut c = coalescer();
    assert_eq!(c.push(0, &piece(1514, FIRST)), Ok(Step::More));
    c.gap();
    assert_eq!(c.push(0, &piece(1, LAST)), Err(CoalesceError::NoStart));
    assert_eq!(c.lost(), 2);
    c.gap();
    assert_eq!((c.end_of_packet(), c.lost()), (Ok(()), 2));
}

#[test]
fn too_many_pieces_and_too_many_bytes_are_refused() {
    let mut c = coalescer();
    assert_eq!(c.push(0, &piece(14, FIRST)), Ok(Step::More));
    for _ in 1..MAX_PIECES {
        assert_eq!(c.push(0, &piece(1, 0)), Ok(Step::More));
    }
    assert_eq!(
        c.push(0, &piece(1, LAST)),
        Err(CoalesceError::TooManyPieces)
    );
    assert_eq!(c.push(0, &piece(MAX_FRAME_LEN, FIRST)), Ok(Step::More));
    assert_eq!(c.push(0, &piece(1, LAST)), Err(CoalesceError::TooLong));
    let long = data(MAX_FRAME_LEN + 1, None);
    assert_eq!(c.push(0, &long), Err(CoalesceError::TooLong));
    assert_eq!(c.lost(), 3);
    let mut small = Coalescer::new(vec![Piece::default(); 2]);
    let two = [piece(14, FIRST), piece(1, 0)];
    assert!(two.iter().all(|p| small.push(0, p) == Ok(Step::More)));
    let third = small.push(0, &piece(1, LAST));
    assert_eq!(third, Err(CoalesceError::TooManyPieces));
}

/// A message that a hostile host sends: length, and flags if it is a piece.
fn message() -> impl Strategy<Value = (u32, Option<u8>)> {
    (
        prop_oneof![1u32..2000, Just(MAX_FRAME_LEN), any::<u32>()],
        proptest::option::weighted(0.8, 0u8..8),
    )
}

proptest! {
    /// Whatever comes, what is delivered consists of messages in a row from a first to a last one, and
    /// every message that was taken ends up in one delivered or one lost frame.
    #[test]
    fn delivered_frames_are_rows_of_messages(
        packets in proptest::collection::vec(proptest::collection::vec(message(), 0..700), 0..4)
    ) {
        let mut c = coalescer();
        let mut errors = 0u64;
        for packet in &packets {
            for (index, (len, flags)) in packet.iter().enumerate() {
                let message = match flags {
                    Some(flags) => piece(*len, *flags),
                    None => data(*len, None),
                };
                match c.push(index as u32, &message) {
                    Ok(Step::More) => prop_assert_eq!(flags.map(|f| f & LAST), Some(0)),
                    Ok(Step::Frame(frame)) => {
                        let first = index + 1 - frame.pieces.len();
                        let row: Vec<u32> = frame.pieces.iter().map(|p| p.offset).collect();
                        prop_assert_eq!(row, (first as u32..=index as u32).collect::<Vec<_>>());
                        let bytes: u32 = frame.pieces.iter().map(|p| p.len).sum();
                        prop_assert_eq!(bytes, frame.len);
                        prop_assert!(frame.len <= MAX_FRAME_LEN);
                        prop_assert!(frame.pieces.len() <= MAX_PIECES);
                        let whole = |flags: Option<u8>, bit| flags.is_none_or(|f| f & bit != 0);
                        prop_assert!(whole(packet[first].1, FIRST) && whole(*flags, LAST));
                        for (_, inner) in &packet[first + 1..=index] {
                            prop_assert_eq!(inner.map(|f| f & FIRST), Some(0));
                        }
                    }
                    Err(_) => errors += 1,
                }
                prop_assert!(c.lost() >= errors);
            }
            errors += u64::from(c.end_of_packet().is_err());
            prop_assert!(c.lost() >= errors);
            prop_assert_eq!(c.end_of_packet(), Ok(()));
        }
    }
}

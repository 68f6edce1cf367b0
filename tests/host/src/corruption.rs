// SPDX-License-Identifier: GPL-2.0

//! What a hostile host makes of its own answers: cut short, too long, twice, late, unasked for, about
//! something else, or with wrong values.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How an answer is spoilt. The request itself is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// Only the first so many bytes are sent.
    Truncate(u32),
    /// So many bytes of 0xff follow, which no length in the answer mentions.
    Extend(u32),
    /// The answer comes twice.
    Duplicate,
    /// The answer comes after so many milliseconds.
    Late(u32),
    /// An answer with an id that was never used comes first.
    Unsolicited,
    /// The answer has an id that was never used.
    WrongId,
    /// The answer says that it is another message: the lowest bit of its number is inverted.
    WrongType,
    /// The 32-bit word at this offset of the answer has this value. Nothing happens beyond its end.
    Set {
        /// Bytes from the beginning of the message.
        offset: u32,
        /// Little-endian.
        value: u32,
    },
    /// One to four words or bytes are replaced, by values that grow from this seed.
    Mutate(u64),
}

/// What the rest of a message tells whoever spoils it.
pub trait Message: Clone {
    /// The bytes, beginning with the number of the message.
    fn bytes(&mut self) -> &mut Vec<u8>;
    /// Makes the id one that no request had.
    fn disown(&mut self);
}

/// What is sent for a message: these, in order, after the delay.
#[derive(Debug, PartialEq, Eq)]
pub struct Spoilt<M> {
    /// The messages.
    pub messages: Vec<M>,
    /// How long they are kept back.
    pub delay: Duration,
}

impl Corruption {
    /// Spoils `message`.
    pub fn apply<M: Message>(self, mut message: M) -> Spoilt<M> {
        let mut delay = Duration::ZERO;
        let mut messages = Vec::with_capacity(2);
        match self {
            Corruption::Duplicate => messages.push(message.clone()),
            Corruption::Late(milliseconds) => delay = Duration::from_millis(milliseconds.into()),
            Corruption::Unsolicited => {
                let mut first = message.clone();
                first.disown();
                messages.push(first);
            }
            Corruption::WrongId => message.disown(),
            in_place => in_place.spoil(message.bytes()),
        }
        messages.push(message);
        Spoilt { messages, delay }
    }

    /// Spoils bytes, as far as that can be done to bytes.
    pub fn spoil(self, bytes: &mut Vec<u8>) {
        match self {
            Corruption::Truncate(len) => bytes.truncate(len as usize),
            Corruption::Extend(len) => bytes.resize(bytes.len() + len as usize, 0xff),
            Corruption::WrongType => {
                if let Some(lowest) = bytes.first_mut() {
                    *lowest ^= 1;
                }
            }
            Corruption::Set { offset, value } => put(bytes, offset as usize, &value.to_le_bytes()),
            Corruption::Mutate(seed) => mutate(bytes, seed),
            _ => {}
        }
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Values at which lengths, offsets and counts are compared.
const EDGES: [u32; 10] = [
    0,
    1,
    7,
    8,
    0x28,
    0xffff,
    0x10000,
    0x7fff_ffff,
    0xffff_fff8,
    0xffff_ffff,
];

fn mutate(bytes: &mut [u8], seed: u64) {
    let mut random = SplitMix(seed);
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        if random.below(2) == 0 {
            let edge = EDGES[random.below(EDGES.len())];
            put(bytes, at & !3, &edge.to_le_bytes());
        } else {
            put(bytes, at, &[random.next() as u8]);
        }
    }
}

/// The generator "splitmix64": the same seed gives the same attack.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Answer {
        id: u32,
        bytes: Vec<u8>,
    }

    impl Message for Answer {
        fn bytes(&mut self) -> &mut Vec<u8> {
            &mut self.bytes
        }
        fn disown(&mut self) {
            self.id = 99;
        }
    }

    fn answer(id: u32, bytes: &[u8]) -> Answer {
        Answer {
            id,
            bytes: bytes.to_vec(),
        }
    }

    fn spoilt(corruption: Corruption) -> Vec<Answer> {
        corruption
            .apply(answer(1, &[4, 0, 0, 0, 5, 6, 7, 8]))
            .messages
    }

    #[test]
    fn each_way_does_what_it_says() {
        let whole = answer(1, &[4, 0, 0, 0, 5, 6, 7, 8]);
        let cut = spoilt(Corruption::Truncate(3));
        assert_eq!(cut, [answer(1, &[4, 0, 0])]);
        let long = spoilt(Corruption::Extend(1));
        assert_eq!(long, [answer(1, &[4, 0, 0, 0, 5, 6, 7, 8, 255])]);
        let twice = spoilt(Corruption::Duplicate);
        assert_eq!(twice, [whole.clone(), whole.clone()]);
        let first = answer(99, &whole.bytes);
        assert_eq!(spoilt(Corruption::WrongId), std::slice::from_ref(&first));
        assert_eq!(spoilt(Corruption::Unsolicited), [first, whole.clone()]);
        let other = spoilt(Corruption::WrongType);
        assert_eq!(other, [answer(1, &[5, 0, 0, 0, 5, 6, 7, 8])]);
        let set = |offset| Corruption::Set {
            offset,
            value: 0x0102,
        };
        let with = spoilt(set(4));
        assert_eq!(with, [answer(1, &[4, 0, 0, 0, 2, 1, 0, 0])]);
        assert_eq!(spoilt(set(5)), std::slice::from_ref(&whole));
        let late = Corruption::Late(7).apply(whole.clone());
        assert_eq!((late.messages, late.delay.as_millis()), (vec![whole], 7));
    }

    #[test]
    fn a_seed_is_one_mutation() {
        let changed = |seed| {
            let mut bytes = vec![0x55; 40];
            Corruption::Mutate(seed).spoil(&mut bytes);
            bytes
        };
        let all: std::collections::BTreeSet<_> = (0..100).map(changed).collect();
        assert!(all.len() > 95, "{} different ones", all.len());
        assert_eq!(changed(7), changed(7));
        Corruption::Mutate(1).spoil(&mut Vec::new());
    }

    #[test]
    fn json_form() {
        let parse = |text: &str| serde_json::from_str::<Corruption>(text).unwrap();
        assert_eq!(parse(r#""wrong-id""#), Corruption::WrongId);
        assert_eq!(parse(r#"{"truncate": 4}"#), Corruption::Truncate(4));
        let set = Corruption::Set {
            offset: 8,
            value: 9,
        };
        assert_eq!(parse(r#"{"set": {"offset": 8, "value": 9}}"#), set);
    }
}

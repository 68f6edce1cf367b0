// SPDX-License-Identifier: GPL-2.0

//! The name that the administrator of the host gave the adapter. Source: specification 3.2, 3.3.

/// Bytes of an interface alias in Linux, its terminator not counted.
const MAX_LEN: usize = 255;
/// What hosts say when nobody gave the adapter a name.
const NO_NAME: &str = "Network Adapter";

/// A friendly name, in UTF-8, at most 255 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FriendlyName {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl FriendlyName {
    /// Reads UTF-16 up to its end or the first zero. What is no character becomes U+FFFD, and what
    /// does not fit is left out.
    pub fn decode(utf16: &[u8]) -> Self {
        let units = utf16
            .chunks_exact(2)
            .filter_map(|pair| <[u8; 2]>::try_from(pair).ok())
            .map(u16::from_le_bytes)
            .take_while(|unit| *unit != 0);
        let mut this = Self {
            bytes: [0; MAX_LEN],
            len: 0,
        };
        for letter in char::decode_utf16(units) {
            if !this.push(letter.unwrap_or(char::REPLACEMENT_CHARACTER)) {
                break;
            }
        }
        this
    }

    /// Whether there was room.
    fn push(&mut self, letter: char) -> bool {
        let (bytes, len) = utf8(letter);
        let end = self.len.saturating_add(len);
        let Some(room) = self.bytes.get_mut(self.len..end) else {
            return false;
        };
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = from;
        }
        self.len = end;
        true
    }

    /// The name, if the administrator gave one.
    pub fn given(&self) -> Option<&[u8]> {
        let name = self.bytes.get(..self.len).unwrap_or(&[]);
        (!name.is_empty() && name != NO_NAME.as_bytes()).then_some(name)
    }
}

/// The bytes of a character, and how many count. (`char::encode_utf8` can panic.)
fn utf8(letter: char) -> ([u8; 4], usize) {
    let code = u32::from(letter);
    let six = |shift: u32| 0x80 | ((code >> shift) & 0x3f) as u8;
    match letter.len_utf8() {
        1 => ([code as u8, 0, 0, 0], 1),
        2 => ([0xc0 | (code >> 6) as u8, six(0), 0, 0], 2),
        3 => ([0xe0 | (code >> 12) as u8, six(6), six(0), 0], 3),
        _ => ([0xf0 | (code >> 18) as u8, six(12), six(6), six(0)], 4),
    }
}

impl core::fmt::Debug for FriendlyName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or(&[])).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(units: impl IntoIterator<Item = u16>) -> Option<String> {
        let bytes: Vec<u8> = units.into_iter().flat_map(u16::to_le_bytes).collect();
        let name = FriendlyName::decode(&bytes);
        name.given()
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn names_end_at_zero_and_become_utf8() {
        let padded = "Büro 🖧".encode_utf16().chain([0, 0x41]);
        assert_eq!(decode(padded).as_deref(), Some("Büro 🖧"));
        assert_eq!(decode([0x41, 0xd800, 0x42]).as_deref(), Some("A\u{fffd}B"));
        // A byte that is no unit is left out.
        assert_eq!(
            FriendlyName::decode(&[0x41, 0, 0x42]).given(),
            Some(&b"A"[..])
        );
    }

    #[test]
    fn every_character_has_its_bytes() {
        for letter in [
            '\0',
            '\u{7f}',
            '\u{80}',
            '\u{7ff}',
            '\u{800}',
            '\u{ffff}',
            '\u{10000}',
            char::MAX,
        ] {
            let (bytes, len) = utf8(letter);
            assert_eq!(&bytes[..len], letter.to_string().as_bytes());
        }
    }

    #[test]
    fn no_name_is_none() {
        assert_eq!(decode([]), None);
        assert_eq!(decode([0, 0x41]), None);
        assert_eq!(decode("Network Adapter".encode_utf16()), None);
        assert!(decode("Network Adapter 2".encode_utf16()).is_some());
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(decode([0x41; 300]).unwrap().len(), 255);
        assert_eq!(decode([0x20ac; 256]).unwrap(), "€".repeat(85));
        assert_eq!(decode([0xe4; 256]).unwrap(), "ä".repeat(127));
    }

    proptest! {
        #[test]
        fn any_bytes_make_text(bytes in proptest::collection::vec(any::<u8>(), 0..520)) {
            let name = FriendlyName::decode(&bytes);
            if let Some(given) = name.given() {
                prop_assert!(given.len() <= MAX_LEN);
                prop_assert!(core::str::from_utf8(given).is_ok());
            }
        }
    }
}

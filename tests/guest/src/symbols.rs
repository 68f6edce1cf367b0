// SPDX-License-Identifier: GPL-2.0

//! Where a sampled kernel spent its time: addresses become functions, by the kernel's own table.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

/// No function is longer, in bytes.
const LONGEST_FUNCTION: u64 = 1 << 20;

/// Start addresses of the kernel's functions, with their names.
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Reads a table as in `/proc/kallsyms`: address, type, name and perhaps `[module]` in each line; only what
    /// is code is kept.
    pub fn read(table: impl BufRead) -> io::Result<Symbols> {
        let mut symbols = Vec::new();
        for line in table.lines() {
            let line = line?;
            let mut words = line.split_whitespace();
            let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let address = u64::from_str_radix(address, 16).map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("'{line}': {e}"))
            })?;
            let module = words.next().unwrap_or_default();
            symbols.push((address, format!("{name} {module}").trim_end().to_owned()));
        }
        symbols.sort();
        Ok(Symbols(symbols))
    }

    /// The function that an address lies in, as far as the table tells. What lies far behind the function
    /// before it is code without a name: the hypercall page, or code that the kernel generates.
    pub fn name(&self, address: u64) -> &str {
        match self.before(address) {
            None => "(not in the kernel)",
            Some((start, _)) if address - start > LONGEST_FUNCTION => {
                "(hypercall page or generated)"
            }
            Some((_, name)) => name,
        }
    }

    fn before(&self, address: u64) -> Option<&(u64, String)> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        after.checked_sub(1).and_then(|at| self.0.get(at))
    }

    /// Adds up samples by function: most first.
    pub fn profile(&self, samples: &BTreeMap<u64, u64>) -> Vec<(String, u64)> {
        let mut functions: BTreeMap<&str, u64> = BTreeMap::new();
        for (address, count) in samples {
            *functions.entry(self.name(*address)).or_default() += count;
        }
        let mut list: Vec<(String, u64)> = functions
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        list
    }

    /// The samples in functions whose name contains `part`, each with its distance from the beginning of the function:
    /// in order of address.
    pub fn within(&self, part: &str, samples: &BTreeMap<u64, u64>) -> Vec<(String, u64)> {
        samples
            .iter()
            .filter_map(|(address, count)| {
                let (start, name) = self.before(*address)?;
                let inside = address - start <= LONGEST_FUNCTION && name.contains(part);
                inside.then(|| (format!("{name} +{:#x}", address - start), *count))
            })
            .collect()
    }
}

/// Samples as the host tells them: an address in hexadecimal and how often it was found, on each line.
pub fn parse_samples(text: &str) -> Result<BTreeMap<u64, u64>, String> {
    text.lines()
        .map(|line| {
            let wrong = || format!("'{line}' is not an address and a number");
            let (address, count) = line.split_once(' ').ok_or_else(wrong)?;
            let address = u64::from_str_radix(address, 16).map_err(|_| wrong())?;
            Ok((address, count.parse().map_err(|_| wrong())?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "ffff0000 T first\n\
        ffff0100 t second\n\
        ffff0180 D data\n\
        ffff0200 t third\t[module]\n";

    #[test]
    fn samples_are_added_up_by_function_most_first() {
        let symbols = Symbols::read(TABLE.as_bytes()).expect("reads");
        let samples = parse_samples(
            "10 1\nffff0000 2\nffff0190 3\nffff01ff 4\nffff0fff 5\nffff000000000000 1",
        )
        .expect("parses");
        let profile = symbols.profile(&samples);
        let expected = [
            ("second", 7),
            ("third [module]", 5),
            ("first", 2),
            ("(hypercall page or generated)", 1),
            ("(not in the kernel)", 1),
        ];
        let expected: Vec<(String, u64)> = expected
            .iter()
            .map(|(n, c)| ((*n).to_owned(), *c))
            .collect();
        assert_eq!(profile, expected);
    }

    #[test]
    fn samples_within_a_function_keep_their_place() {
        let symbols = Symbols::read(TABLE.as_bytes()).expect("reads");
        let samples =
            parse_samples("ffff0110 3\nffff0100 4\nffff0000 9\nffff0210 1").expect("parses");
        let expected = [
            ("second +0x0".to_owned(), 4),
            ("second +0x10".to_owned(), 3),
        ];
        assert_eq!(symbols.within("sec", &samples), expected);
        assert_eq!(symbols.within("none", &samples), []);
    }

    #[test]
    fn what_is_no_sample_or_table_is_named() {
        for wrong in ["ffff", "xyz 1", "1 x"] {
            let error = parse_samples(wrong).expect_err("refused");
            assert!(error.contains(wrong), "{error}");
        }
        assert!(Symbols::read("xyz T name\n".as_bytes()).is_err());
    }
}

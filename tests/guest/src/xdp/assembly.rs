// SPDX-License-Identifier: GPL-2.0

//! rbpf's assembler with names for the targets of jumps: a line `name:` is a target, and `@name` in a jump stands
//! for its distance.

use std::collections::HashMap;

use anyhow::{anyhow, bail, Context, Result};

/// The instructions of a program, one a line, as the kernel takes them.
pub fn assemble(text: &str) -> Result<Vec<u8>> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let targets = targets(&lines)?;
    let mut resolved = String::new();
    let mut slot = 0;
    for line in lines.iter().filter(|line| !line.ends_with(':')) {
        slot += slots(line);
        resolved.push_str(&resolve(line, slot, &targets)?);
        resolved.push('\n');
    }
    rbpf::assembler::assemble(&resolved).map_err(|e| anyhow!("{e} in\n{resolved}"))
}

/// Where each name is, counted in instructions of 8 bytes.
fn targets<'a>(lines: &[&'a str]) -> Result<HashMap<&'a str, i64>> {
    let mut found = HashMap::new();
    let mut slot = 0;
    for line in lines {
        match line.strip_suffix(':') {
            Some(name) => {
                if found.insert(name, slot).is_some() {
                    bail!("the target '{name}' is there twice");
                }
            }
            None => slot += slots(line),
        }
    }
    Ok(found)
}

/// A load of 64 bits takes two.
fn slots(line: &str) -> i64 {
    if line.starts_with("lddw") {
        2
    } else {
        1
    }
}

/// The line with the distance from `next`, the instruction after it, in place of a name.
fn resolve(line: &str, next: i64, targets: &HashMap<&str, i64>) -> Result<String> {
    let Some((start, name)) = line.split_once('@') else {
        return Ok(line.to_owned());
    };
    let at = targets
        .get(name)
        .with_context(|| format!("no target '{name}' for '{line}'"))?;
    Ok(format!("{start}{:+}", at - next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> u64 {
        let program = assemble(text).expect("assembles");
        let machine = rbpf::EbpfVmNoData::new(Some(&program)).expect("is a program");
        machine.execute_program().expect("runs")
    }

    #[test]
    fn jumps_reach_their_targets_forward_and_back() {
        let text = "
            mov r0, 0
            ja @test
            again:
            add r0, 3
            test:
            jlt r0, 10, @again
            exit";
        assert_eq!(run(text), 12);
    }

    #[test]
    fn a_load_of_64_bits_counts_twice() {
        let text = "
            mov r0, 1
            ja @end
            lddw r0, 0x123456789
            end:
            exit";
        assert_eq!(run(text), 1);
    }

    #[test]
    fn a_missing_target_and_a_wrong_line_are_named() {
        let said = |text: &str| format!("{:#}", assemble(text).expect_err("is wrong"));
        assert!(said("ja @nowhere\nexit").contains("nowhere"));
        assert!(said("twice:\ntwice:\nexit").contains("twice"));
        assert!(said("frobnicate r0\nexit").contains("frobnicate"));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The programs, as text: which frames, what is changed of them, and what becomes of them.
//!
//! Registers: r6 the context, r2 the first byte of the frame, r3 the one behind its last (of the first piece).

use std::fmt::Write;

/// How a program finds the frame in its context.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The instruction that loads a pointer.
    load: &'static str,
    /// Where the pointer to the end lies; that to the beginning lies at 0.
    end: u32,
}

/// `struct xdp_md`: the kernel makes 64 bits of these.
pub const KERNEL: Context = Context {
    load: "ldxw",
    end: 4,
};

/// Which frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// All.
    All,
    /// UDP datagrams to a port, over IPv4 without options, unfragmented.
    UdpPort(u16),
    /// Echo requests over IPv4 without options.
    Ping,
}

/// What becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// XDP_ABORTED.
    Aborted,
    /// XDP_DROP.
    Drop,
    /// XDP_PASS.
    Pass,
    /// XDP_TX, addresses exchanged; of a UDP datagram the IP addresses and ports, too.
    Tx,
    /// XDP_REDIRECT.
    Redirect {
        /// Index of an interface in the same namespace.
        interface: u32,
        /// New addresses of the frame.
        addresses: Option<Addresses>,
    },
    /// A number that is no action.
    Invalid,
}

/// Ethernet addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Of the sender.
    pub source: [u8; 6],
    /// Of the receiver.
    pub destination: [u8; 6],
}

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Which frames; others pass.
    pub matching: Match,
    /// What becomes of them.
    pub action: Action,
    /// By how many bytes they grow at the end.
    pub tail: i32,
    /// VLAN whose tag they get.
    pub push_vlan: Option<u16>,
}

const ABORTED: u32 = 0;
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const INVALID: u32 = 0x2a;

// Numbers of `enum bpf_func_id`.
const REDIRECT: u32 = 23;
const ADJUST_HEAD: u32 = 44;
const ADJUST_TAIL: u32 = 65;

// Offsets in a frame; IPv4 without options.
const TYPE: u32 = 12;
const ETHERNET: u32 = 14;
const FRAGMENT: u32 = ETHERNET + 6;
const PROTOCOL: u32 = ETHERNET + 9;
const ADDRESSES: u32 = ETHERNET + 12;
const L4: u32 = ETHERNET + 20;
const UDP: u32 = L4 + 8;
const VLAN_TAG: u32 = 4;

impl Program {
    /// Its text, for [`assemble`](super::assembly::assemble).
    pub fn text(&self, context: Context) -> String {
        let mut text = String::from("mov r6, r1\n");
        text += &self.select(context);
        text += &self.edit();
        text += &self.resize(context);
        text += &self.verdict();
        // The kernel refuses what cannot be reached.
        for (name, action) in [("pass", PASS), ("abort", ABORTED)] {
            if text.contains(&format!("@{name}")) {
                text += &format!("{name}:\n{}", end(action));
            }
        }
        text
    }

    /// Has other frames pass; leaves what is needed of the frame checked, and r2 and r3 set.
    fn select(&self, context: Context) -> String {
        let ipv4 = |protocol: u32| {
            let (ip, more) = (network(0x0800), network(0x3fff));
            format!(
                "ldxh r5, [r2+{TYPE}]\njne r5, {ip}, @pass\n\
                 ldxb r5, [r2+{ETHERNET}]\njne r5, 0x45, @pass\n\
                 ldxh r5, [r2+{FRAGMENT}]\nand r5, {more}\njne r5, 0, @pass\n\
                 ldxb r5, [r2+{PROTOCOL}]\njne r5, {protocol}, @pass\n"
            )
        };
        match self.matching {
            Match::All => has(context, ETHERNET, "pass"),
            Match::Ping => {
                has(context, UDP, "pass")
                    + &ipv4(1)
                    + &format!("ldxb r5, [r2+{L4}]\njne r5, 8, @pass\n")
            }
            Match::UdpPort(port) => {
                let (at, port) = (L4 + 2, network(port));
                has(context, UDP, "pass")
                    + &ipv4(17)
                    + &format!("ldxh r5, [r2+{at}]\njne r5, {port}, @pass\n")
            }
        }
    }

    /// Changes addresses and ports. Exchanging them leaves every checksum right.
    fn edit(&self) -> String {
        match self.action {
            Action::Tx => {
                let mut text = exchange("w", 0, 6) + &exchange("h", 4, 10);
                if matches!(self.matching, Match::UdpPort(_)) {
                    text += &exchange("w", ADDRESSES, ADDRESSES + 4);
                    text += &exchange("h", L4, L4 + 2);
                }
                text
            }
            Action::Redirect {
                addresses: Some(new),
                ..
            } => store(0, new.destination) + &store(6, new.source),
            _ => String::new(),
        }
    }

    /// Grows or shrinks the frame; pointers have to be loaded anew then.
    fn resize(&self, context: Context) -> String {
        let mut text = String::new();
        if self.tail != 0 {
            text += &adjust(ADJUST_TAIL, self.tail);
        }
        if let Some(vlan) = self.push_vlan {
            text += &adjust(ADJUST_HEAD, -(VLAN_TAG as i32));
            text += &has(context, TYPE + VLAN_TAG, "abort");
            for at in [0, 4, 8] {
                let from = at + VLAN_TAG;
                let _ = write!(text, "ldxw r5, [r2+{from}]\nstxw [r2+{at}], r5\n");
            }
            let (kind, vlan) = (network(0x8100), network(vlan));
            let _ = write!(text, "sth [r2+12], {kind}\nsth [r2+14], {vlan}\n");
        }
        text
    }

    fn verdict(&self) -> String {
        match self.action {
            Action::Aborted => end(ABORTED),
            Action::Drop => end(DROP),
            Action::Pass => end(PASS),
            Action::Tx => end(TX),
            Action::Invalid => end(INVALID),
            Action::Redirect { interface, .. } => {
                format!("mov r1, {interface}\nmov r2, 0\ncall {REDIRECT}\nexit\n")
            }
        }
    }
}

fn end(action: u32) -> String {
    format!("mov r0, {action}\nexit\n")
}

/// Loads r2 and r3, and goes elsewhere with a frame that is shorter.
fn has(Context { load, end }: Context, length: u32, otherwise: &str) -> String {
    format!(
        "{load} r2, [r6+0]\n{load} r3, [r6+{end}]\nmov r4, r2\nadd r4, {length}\njgt r4, r3, @{otherwise}\n"
    )
}

/// Calls a helper that moves an end of the frame.
fn adjust(helper: u32, by: i32) -> String {
    format!("mov r1, r6\nmov r2, {by}\ncall {helper}\njne r0, 0, @abort\n")
}

fn exchange(size: &str, one: u32, other: u32) -> String {
    format!(
        "ldx{size} r4, [r2+{one}]\nldx{size} r5, [r2+{other}]\n\
         stx{size} [r2+{one}], r5\nstx{size} [r2+{other}], r4\n"
    )
}

/// Stores an Ethernet address.
fn store(at: u32, [a, b, c, d, e, f]: [u8; 6]) -> String {
    let (word, half) = (i32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
    format!("stw [r2+{at}], {word}\nsth [r2+{}], {half}\n", at + 4)
}

/// What a load of 16 bits finds where the network has `value`.
fn network(value: u16) -> u16 {
    value.to_be()
}

#[cfg(test)]
mod tests {
    use super::super::assembly::assemble;
    use super::*;

    /// Of rbpf's machine.
    const MACHINE: Context = Context {
        load: "ldxdw",
        end: 8,
    };

    fn program(matching: Match, action: Action) -> Program {
        Program {
            matching,
            action,
            tail: 0,
            push_vlan: None,
        }
    }

    /// What a program says of a frame, and makes of it.
    fn run(program: Program, mut frame: Vec<u8>) -> (u64, Vec<u8>) {
        let instructions = assemble(&program.text(MACHINE)).expect("assembles");
        let mut machine =
            rbpf::EbpfVmFixedMbuff::new(Some(&instructions), 0, 8).expect("is a program");
        machine
            .register_helper(REDIRECT, |interface, flags, _, _, _| {
                interface * 1000 + flags
            })
            .expect("has a number");
        for helper in [ADJUST_HEAD, ADJUST_TAIL] {
            // No frame has room.
            machine
                .register_helper(helper, |_, _, _, _, _| u64::MAX)
                .expect("has a number");
        }
        let said = machine.execute_program(&mut frame).expect("runs");
        drop(machine);
        (said, frame)
    }

    /// From port 0x1234, with TTL and checksums that say nothing.
    fn datagram(port: u16) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..50).collect();
        frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        frame[20..24].copy_from_slice(&[0x40, 0, 64, 17]);
        frame[34..36].copy_from_slice(&[0x12, 0x34]);
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame
    }

    #[test]
    fn actions_have_their_numbers_and_leave_the_frame_alone() {
        let actions = [
            (Action::Aborted, 0),
            (Action::Drop, 1),
            (Action::Pass, 2),
            (Action::Invalid, 0x2a),
        ];
        for (action, number) in actions {
            for matching in [Match::All, Match::UdpPort(77)] {
                let after = run(program(matching, action), datagram(77));
                assert_eq!(after, (number, datagram(77)));
            }
        }
    }

    #[test]
    fn what_does_not_match_passes() {
        let drop = program(Match::UdpPort(77), Action::Drop);
        let changed = |at: usize, to: u8| {
            let mut frame = datagram(77);
            frame[at] = to;
            frame
        };
        // Another port, another type, options, a fragment, more fragments, TCP, a port cut off.
        let others = [
            datagram(78),
            changed(12, 0x86),
            changed(14, 0x46),
            changed(21, 1),
            changed(20, 0x20),
            changed(23, 6),
            datagram(77)[..37].to_vec(),
        ];
        for frame in others {
            assert_eq!(run(drop, frame.clone()), (2, frame));
        }
        let ping = |kind: u8| {
            let mut frame = changed(23, 1);
            frame[34] = kind;
            frame
        };
        let drop = program(Match::Ping, Action::Drop);
        let said = [ping(8), ping(0), datagram(77)].map(|frame| run(drop, frame).0);
        assert_eq!(said, [1, 2, 2]);
    }

    #[test]
    fn tx_exchanges_sender_and_receiver() {
        let (said, frame) = run(program(Match::UdpPort(77), Action::Tx), datagram(77));
        let before = datagram(77);
        assert_eq!(said, 3);
        assert_eq!((&frame[..6], &frame[6..12]), (&before[6..12], &before[..6]));
        assert_eq!(
            (&frame[26..30], &frame[30..34]),
            (&before[30..34], &before[26..30])
        );
        assert_eq!(frame[34..38], [0, 77, 0x12, 0x34]);
        assert_eq!(
            (&frame[12..26], &frame[38..]),
            (&before[12..26], &before[38..])
        );
    }

    #[test]
    fn redirect_names_the_interface_and_readdresses() {
        let addresses = Addresses {
            source: [0, 0x15, 0x5d, 0, 0, 3],
            destination: [0xf2, 0x15, 0x5d, 0xff, 0xfe, 0xf4],
        };
        let redirect = Action::Redirect {
            interface: 7,
            addresses: Some(addresses),
        };
        let (said, frame) = run(program(Match::All, redirect), datagram(77));
        assert_eq!(said, 7000);
        assert_eq!(frame[..6], addresses.destination);
        assert_eq!(frame[6..12], addresses.source);
        assert_eq!(frame[12..], datagram(77)[12..]);
    }

    #[test]
    fn a_frame_that_cannot_grow_is_aborted() {
        for (tail, push_vlan) in [(8, None), (-8, None), (0, Some(5))] {
            let grown = Program {
                tail,
                push_vlan,
                ..program(Match::All, Action::Pass)
            };
            assert_eq!(run(grown, datagram(77)), (0, datagram(77)));
        }
    }
}

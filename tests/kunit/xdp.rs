// SPDX-License-Identifier: GPL-2.0

//! Suite: XDP programs, from their installation to the fate of frames, with a scripted host.

use super::attach::Machine;
use super::host::{Script, MAC};
use super::traffic::{arriving, wait_for};
use crate::bindings;
use crate::stats::{Counter, PollStats};
use core::ptr::NonNull;
use kernel::prelude::*;

const EOPNOTSUPP: i32 = -(kernel::bindings::EOPNOTSUPP as i32);
const ENETDOWN: i32 = -(kernel::bindings::ENETDOWN as i32);
const FLUSH: u32 = bindings::XDP_XMIT_FLUSH;

/// A program that answers the same to every frame, and a reference to it.
struct Program(NonNull<bindings::bpf_prog>);

impl Program {
    fn new(action: u32, fragments: bool) -> Result<Self> {
        // SAFETY: No preconditions.
        let raw = unsafe { bindings::netvsc_kunit_program(action, fragments) };
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    fn references(&self) -> i64 {
        // SAFETY: Alive while we have a reference.
        unsafe { bindings::netvsc_kunit_program_references(self.0.as_ptr()) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: Our reference.
        unsafe { bindings::bpf_prog_put(self.0.as_ptr()) };
    }
}

fn install(machine: &Machine, program: Option<&Program>) -> Result {
    let raw = program.map_or(core::ptr::null_mut(), |program| program.0.as_ptr());
    // SAFETY: The device is registered, the program alive.
    kernel::error::to_result(unsafe {
        bindings::netvsc_kunit_set_program(machine.netdev.as_raw(), raw)
    })
}

fn redirect(machine: &Machine, frame: &[u8], flags: u32) -> i32 {
    // SAFETY: The device is registered; the frame has so many bytes, less than a page.
    unsafe {
        bindings::netvsc_kunit_xdp_xmit(
            machine.netdev.as_raw(),
            frame.as_ptr().cast(),
            frame.len() as u32,
            flags,
        )
    }
}

fn bytes(frame: &[u8]) -> Result<KVec<u8>> {
    let mut copy = KVec::new();
    copy.extend_from_slice(frame, GFP_KERNEL)?;
    Ok(copy)
}

/// An interface that is up, with one channel.
fn machine() -> Result<Machine> {
    let machine = Machine::new(Script::default())?;
    machine.up()?;
    Ok(machine)
}

fn count(machine: &Machine, of: fn(&PollStats) -> &Counter) -> u64 {
    machine
        .netdev
        .queue_stat(0)
        .map_or(0, |stats| of(&stats.poll).get())
}

#[kunit_tests(hv_netvsc_xdp)]
mod tests {
    use super::*;

    #[test]
    fn a_program_decides_and_its_decisions_are_counted() -> Result {
        let machine = machine()?;
        let before = machine.totals().rx_packets;
        let seen = |machine: &Machine| {
            [
                count(machine, |stats| &stats.rx_packets),
                count(machine, |stats| &stats.xdp_drop),
                count(machine, |stats| &stats.xdp_tx),
                count(machine, |stats| &stats.xdp_redirect),
            ]
        };
        let mut expected = seen(&machine);
        for (number, action) in [
            bindings::xdp_action_XDP_PASS,
            bindings::xdp_action_XDP_DROP,
            bindings::xdp_action_XDP_ABORTED,
            bindings::xdp_action_XDP_TX,
            77,
        ]
        .into_iter()
        .enumerate()
        {
            let program = Program::new(action, false)?;
            install(&machine, Some(&program))?;
            assert_eq!(program.references(), 2);
            let frame = arriving(number as u8);
            machine.host.expect(bytes(&frame)?);
            assert!(machine.host.deliver(&frame));
            let passed = action == bindings::xdp_action_XDP_PASS;
            let sent_back = action == bindings::xdp_action_XDP_TX;
            expected[0] += u64::from(passed || sent_back);
            expected[1] += u64::from(!passed && !sent_back);
            expected[2] += u64::from(sent_back);
            assert!(wait_for(|| seen(&machine) == expected));
            assert!(wait_for(|| machine.host.matching() == u32::from(sent_back)));
            install(&machine, None)?;
            assert_eq!(program.references(), 1);
        }
        // Whatever became of them, they were received.
        assert_eq!(machine.totals().rx_packets, before + 5);
        assert_eq!(machine.totals().tx_dropped, 0);
        assert_eq!(machine.host.completed().1, 0);
        Ok(())
    }

    #[test]
    fn a_frame_that_is_sent_back_has_its_tag_again() -> Result {
        let machine = machine()?;
        let program = Program::new(bindings::xdp_action_XDP_TX, false)?;
        install(&machine, Some(&program))?;
        let frame = arriving(9);
        machine.host.expect(bytes(&frame)?);
        // Priority 5, VLAN 0x123.
        for (round, tag) in [0x1235, 0, 0x1235].into_iter().enumerate() {
            assert!(match tag {
                0 => machine.host.deliver(&frame),
                tag => machine.host.deliver_tagged(&frame, tag),
            });
            let sent = round as u32 + 1;
            assert!(wait_for(|| machine.host.matching() == sent));
            assert_eq!(machine.host.tag(), tag);
        }
        install(&machine, None)?;
        Ok(())
    }

    #[test]
    fn a_program_stays_whatever_is_rebuilt_and_goes_with_the_interface() -> Result {
        let program = Program::new(bindings::xdp_action_XDP_DROP, false)?;
        let script = Script {
            queues: 2,
            ..Script::default()
        };
        let machine = Machine::new(script)?;
        install(&machine, Some(&program))?;
        machine.up()?;
        let mut dropped = count(&machine, |stats| &stats.xdp_drop);
        for rebuild in 0..4 {
            match rebuild {
                0 => machine.set_channels(2)?,
                1 => machine.set_mtu(3506)?,
                2 => machine.set_channels(1)?,
                _ => {
                    machine.down();
                    machine.up()?;
                }
            }
            assert!(machine.host.deliver(&arriving(rebuild)));
            dropped += 1;
            assert!(wait_for(
                || count(&machine, |stats| &stats.xdp_drop) == dropped
            ));
        }
        assert_eq!(count(&machine, |stats| &stats.rx_packets), 0);
        assert_eq!(program.references(), 2);
        drop(machine);
        assert_eq!(program.references(), 1);
        Ok(())
    }

    #[test]
    fn frames_that_do_not_fit_a_page_need_a_program_that_takes_fragments() -> Result {
        let machine = machine()?;
        let whole = Program::new(bindings::xdp_action_XDP_DROP, false)?;
        let fragments = Program::new(bindings::xdp_action_XDP_DROP, true)?;
        install(&machine, Some(&whole))?;
        assert_eq!(machine.set_mtu(3507), Err(Error::from_errno(EOPNOTSUPP)));
        assert_eq!(machine.netdev.mtu(), 1500);
        install(&machine, Some(&fragments))?;
        assert_eq!((whole.references(), fragments.references()), (1, 2));
        machine.set_mtu(9000)?;
        let refused = install(&machine, Some(&whole));
        assert_eq!(refused, Err(Error::from_errno(EOPNOTSUPP)));
        assert_eq!((whole.references(), fragments.references()), (1, 2));
        install(&machine, None)?;
        assert_eq!(fragments.references(), 1);
        Ok(())
    }

    #[test]
    fn redirected_frames_arrive_at_the_host_while_the_interface_is_up() -> Result {
        let machine = machine()?;
        let mut frame = [0x5a; 1200];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[6..12].copy_from_slice(&MAC);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        machine.host.expect(bytes(&frame)?);
        assert_eq!(redirect(&machine, &frame, FLUSH), 1);
        assert!(wait_for(|| machine.host.matching() == 1));
        assert_eq!(redirect(&machine, &frame, 0x80), EINVAL.to_errno());
        machine.down();
        assert_eq!(redirect(&machine, &frame, FLUSH), ENETDOWN);
        let sent = (0..2).filter_map(|queue| machine.netdev.queue_stat(queue));
        assert_eq!(sent.map(|stats| stats.tx.xdp_xmit.get()).sum::<u64>(), 1);
        assert_eq!(machine.totals().tx_dropped, 0);
        Ok(())
    }
}

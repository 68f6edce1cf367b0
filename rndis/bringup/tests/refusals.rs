// SPDX-License-Identifier: GPL-2.0

//! A host that refuses, is silent, removes the device or answers nonsense, at each step in turn.

use super::super::*;
use super::host::{attach, config, words, Answers, Fault, Host};
use crate::rndis::address::MacAddress;
use crate::rndis::message::RndisStatus;
use crate::rndis::nvsp::Status;

/// Steps that send something and want an answer.
const ANSWERED: [Step; 15] = [
    Step::Init,
    Step::SendReceiveBuffer,
    Step::SendSendBuffer,
    Step::Initialize,
    Step::MaxFrameSize,
    Step::Address,
    Step::OffloadCapabilities,
    Step::OffloadParameters,
    Step::MediaStatus,
    Step::LinkSpeed,
    Step::RssCapabilities,
    Step::Subchannels,
    Step::RssDisable,
    Step::RssEnable,
    Step::OpenSubchannels,
];

const SHARING: [Step; 2] = [Step::ShareReceiveBuffer, Step::ShareSendBuffer];
const ONE_WAY: [Step; 2] = [Step::NdisConfig, Step::NdisVersion];

fn is_rndis(step: Step) -> bool {
    step >= Step::Initialize && !matches!(step, Step::Subchannels | Step::OpenSubchannels)
}

fn with_fault(step: Step, fault: Fault, on_refusal: OnRefusal) -> Result<Bringup, BringupError> {
    let mut host = Host {
        fault: Some((step, fault)),
        ..Host::default()
    };
    let config = Config {
        on_refusal,
        ..config()
    };
    attach(config, &mut host).map_err(|(error, _)| error)
}

#[test]
fn a_refused_step_ends_the_attach_only_where_it_must() {
    use OnRefusal::{Continue, Fail};
    for step in ANSWERED {
        if matches!(step, Step::Init | Step::OpenSubchannels) {
            continue;
        }
        for on_refusal in [Continue, Fail] {
            let optional = match step {
                Step::MaxFrameSize | Step::MediaStatus | Step::LinkSpeed | Step::RssDisable => true,
                Step::RssCapabilities | Step::Subchannels | Step::RssEnable => {
                    on_refusal == Continue
                }
                _ => false,
            };
            let refusal = if is_rndis(step) {
                Refusal::Rndis(RndisStatus(0xc000_00bb))
            } else {
                Refusal::Nvsp(Status::Failure)
            };
            match with_fault(step, Fault::Refuse, on_refusal) {
                Ok(bringup) => {
                    assert!(optional, "{step:?} was refused and ignored");
                    assert_eq!(bringup.negotiated().refused_steps, 1);
                }
                Err(error) => {
                    assert!(!optional, "{step:?}: {error}");
                    assert_eq!(error, BringupError::Refused { step, refusal });
                }
            }
        }
    }
}

#[test]
fn without_sub_channels_there_is_one() {
    for step in [Step::RssCapabilities, Step::Subchannels] {
        let bringup = with_fault(step, Fault::Refuse, OnRefusal::Continue).unwrap();
        assert_eq!(bringup.negotiated().channels, 1);
        assert!(!bringup.negotiated().rss_enabled);
    }
    let bringup = with_fault(Step::RssEnable, Fault::Refuse, OnRefusal::Continue).unwrap();
    assert_eq!(bringup.negotiated().channels, 4);
    assert!(!bringup.negotiated().rss_enabled);
}

#[test]
fn a_refused_packet_is_a_refused_request() {
    for step in ANSWERED.into_iter().filter(|step| is_rndis(*step)) {
        match with_fault(step, Fault::RefusePacket, OnRefusal::Fail) {
            Ok(bringup) => assert_eq!(bringup.negotiated().refused_steps, 1, "{step:?}"),
            Err(error) => assert_eq!(
                error,
                BringupError::Refused {
                    step,
                    refusal: Refusal::Nvsp(Status::InvalidRndisPacket)
                }
            ),
        }
    }
}

#[test]
fn every_version_refused_is_the_end() {
    let mut host = Host {
        fault: Some((Step::Init, Fault::Refuse)),
        ..Host::default()
    };
    let (error, _) = attach(config(), &mut host).unwrap_err();
    assert_eq!(error, BringupError::NoVersion);
    assert_eq!(host.nvsp.len(), 6);
}

#[test]
fn silence_ends_at_the_deadline_wherever_it_begins() {
    for step in ANSWERED.into_iter().chain(SHARING) {
        let mut host = Host {
            fault: Some((step, Fault::Silence)),
            ..Host::default()
        };
        let (error, mut bringup) = attach(config(), &mut host).unwrap_err();
        assert_eq!(error, BringupError::Deadline { step });
        assert_eq!(bringup.buffer_in_flight(), is_rndis(step), "{step:?}");
        assert_eq!(bringup.next(&mut [0; MESSAGE_BUFFER_LEN]), Action::Wait);
        assert_eq!(bringup.event(Event::Deadline), Err(error));
        assert!(!bringup.is_done());
    }
}

#[test]
fn removal_ends_the_attach_wherever_it_is() {
    for step in ANSWERED.into_iter().chain(SHARING).chain(ONE_WAY) {
        let error = with_fault(step, Fault::Rescind, OnRefusal::Continue).unwrap_err();
        assert_eq!(error, BringupError::Rescinded { step });
    }
}

#[test]
fn a_message_that_is_not_sent_ends_the_attach() {
    for step in ANSWERED.into_iter().chain(ONE_WAY) {
        if step == Step::OpenSubchannels {
            continue;
        }
        let mut host = Host {
            fault: Some((step, Fault::NotSent)),
            ..Host::default()
        };
        let (error, bringup) = attach(config(), &mut host).unwrap_err();
        assert_eq!(error, BringupError::SendFailed { step });
        assert!(!bringup.buffer_in_flight());
    }
}

#[test]
fn memory_that_cannot_be_shared_ends_the_attach() {
    for step in SHARING {
        let error = with_fault(step, Fault::Refuse, OnRefusal::Continue).unwrap_err();
        assert_eq!(error, BringupError::ShareFailed { step });
    }
}

#[test]
fn what_is_established_is_known_at_every_failure() {
    let at = |step| {
        let mut host = Host {
            fault: Some((step, Fault::Silence)),
            ..Host::default()
        };
        let (_, bringup) = attach(config(), &mut host).unwrap_err();
        let e = *bringup.established();
        (
            e.receive_gpadl.is_some(),
            e.receive_buffer,
            e.send_gpadl.is_some(),
            e.send_buffer,
            e.rndis,
        )
    };
    assert_eq!(at(Step::Init), (false, false, false, false, false));
    assert_eq!(
        at(Step::ShareReceiveBuffer),
        (false, false, false, false, false)
    );
    assert_eq!(
        at(Step::SendReceiveBuffer),
        (true, false, false, false, false)
    );
    assert_eq!(at(Step::ShareSendBuffer), (true, true, false, false, false));
    assert_eq!(at(Step::SendSendBuffer), (true, true, true, false, false));
    assert_eq!(at(Step::Initialize), (true, true, true, true, false));
    assert_eq!(at(Step::MaxFrameSize), (true, true, true, true, true));
}

#[test]
fn completions_of_another_type_are_no_answers() {
    for step in [
        Step::Init,
        Step::SendReceiveBuffer,
        Step::SendSendBuffer,
        Step::Subchannels,
    ] {
        let error = with_fault(step, Fault::WrongType, OnRefusal::Fail).unwrap_err();
        assert_eq!(
            error,
            BringupError::Refused {
                step,
                refusal: Refusal::MalformedCompletion
            }
        );
    }
}

#[test]
fn answers_of_another_type_do_not_complete_the_wait() {
    let mut host = Host {
        fault: Some((Step::Initialize, Fault::WrongType)),
        ..Host::default()
    };
    let mut bringup = Bringup::new(config());
    let mut buffer = [0; MESSAGE_BUFFER_LEN];
    loop {
        let action = bringup.next(&mut buffer);
        if action == Action::Wait {
            break;
        }
        for event in host.react(bringup.step(), action, &buffer) {
            bringup.event(event.borrow()).unwrap();
        }
    }
    assert_eq!(bringup.ignored(), 1);
    assert_eq!(bringup.next(&mut buffer), Action::Wait);
    assert_eq!(
        bringup.event(Event::Deadline),
        Err(BringupError::Deadline {
            step: Step::Initialize
        })
    );
    assert!(!bringup.buffer_in_flight(), "the packet was completed");
}

#[test]
fn unasked_messages_complete_nothing_at_any_step() {
    for step in ANSWERED.into_iter().filter(|step| is_rndis(*step)) {
        let mut host = Host {
            unasked_at: Some(step),
            ..Host::default()
        };
        let bringup = attach(config(), &mut host).unwrap();
        // Eight of the nine; the ninth is a link event.
        assert_eq!(bringup.ignored(), 8, "{step:?}");
        assert_eq!(bringup.negotiated().channels, 4);
    }
}

#[test]
fn repeated_answers_are_counted() {
    let mut bringup = Bringup::new(config());
    let mut buffer = [0; MESSAGE_BUFFER_LEN];
    let Action::SendNvsp { transaction, .. } = bringup.next(&mut buffer) else {
        panic!("no INIT");
    };
    let payload = words(&[2, 0, 34, 1]);
    let completion = Event::Completion {
        transaction,
        payload: &payload,
    };
    bringup.event(completion).unwrap();
    bringup.event(completion).unwrap();
    assert_eq!(bringup.ignored(), 1);
    assert_eq!(bringup.step(), Step::NdisConfig);
}

fn refused_by(change: impl FnOnce(&mut Host)) -> BringupError {
    let mut host = Host::default();
    change(&mut host);
    attach(config(), &mut host).unwrap_err().0
}

#[test]
fn impossible_receive_sections_are_refused() {
    for sections in [
        [2, 0, 1728, 100],
        [0, 0, 1728, 100],
        [1, 4, 1728, 100],
        [1, 0, 67, 100],
        [1, 0, 1728, 9710],
        [1, 0, 0x10000, 0x10000],
        [1, 0, u32::MAX, u32::MAX],
        [1, 0, (16 << 20) + 1, 0],
    ] {
        let [groups, offset, len, count] = sections;
        assert_eq!(
            refused_by(|host| host.answers.receive_sections = sections),
            BringupError::ReceiveSections {
                groups,
                offset,
                len,
                count
            },
        );
    }
}

#[test]
fn impossible_send_sections_are_refused() {
    for len in [0, 67, (1 << 20) + 1, u32::MAX] {
        assert_eq!(
            refused_by(|host| host.answers.send_section = len),
            BringupError::SendSection(len)
        );
    }
}

#[test]
fn impossible_alignment_is_refused_and_batch_size_is_bounded() {
    for factor in [13, 31, 32, u32::MAX] {
        assert_eq!(
            refused_by(|host| host.answers.alignment_factor = factor),
            BringupError::Alignment(factor)
        );
    }
    for (host_says, used) in [(0, 1), (1, 1), (8, 8), (u32::MAX, 255)] {
        let mut host = Host {
            answers: Answers {
                max_packets: host_says,
                ..Answers::default()
            },
            ..Host::default()
        };
        let bringup = attach(config(), &mut host).unwrap();
        assert_eq!(bringup.negotiated().max_packets_per_message, used);
    }
}

#[test]
fn unusable_addresses_are_refused() {
    assert_eq!(
        refused_by(|host| host.answers.mac = &[0; 6]),
        BringupError::Address(MacAddress([0; 6]))
    );
    for mac in [&[][..], &[2; 5], &[2; 7]] {
        assert_eq!(
            refused_by(|host| host.answers.mac = mac),
            BringupError::Refused {
                step: Step::Address,
                refusal: Refusal::MalformedAnswer
            }
        );
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Attaches: against the recorded C driver, against a host that misbehaves at each step, against noise.

mod host;
mod noise;
mod recorded;
mod refusals;

use super::*;
use crate::rndis::link::LinkSpeed;
use crate::rndis::message::RndisStatus;
use crate::rndis::nvsp::Status;
use crate::rndis::version::NvspVersion;
use host::{attach, config, Answers, Host};

#[test]
fn the_state_is_small_enough_for_a_kernel_stack() {
    assert!(
        size_of::<Bringup>() <= 512,
        "{} bytes",
        size_of::<Bringup>()
    );
}

#[test]
fn a_full_attach_takes_what_the_host_gives() {
    let bringup = attach(config(), &mut Host::default()).unwrap();
    let got = bringup.negotiated();
    assert!(bringup.is_done());
    assert_eq!(got.version, NvspVersion::V61);
    assert_eq!((got.channels, got.max_channels(4)), (4, 4));
    // A processor that comes later may have a channel, too, if the host allows.
    assert_eq!((got.host_channels, got.max_channels(1)), (4, 1));
    assert_eq!((got.mtu, got.host_mtu), (1500, Some(9000)));
    assert_eq!(got.mac.0, [0, 0x15, 0x5d, 1, 2, 3]);
    assert_eq!(
        (got.receive_section_len, got.receive_section_count),
        (1728, 9709)
    );
    assert_eq!((got.send_section_len, got.send_section_count), (6144, 170));
    assert_eq!((got.max_packets_per_message, got.alignment), (8, 8));
    assert_eq!(got.link_speed.map(LinkSpeed::mbit), Some(10_000));
    assert!(got.link_up && got.rss_enabled && got.offloads.tso4);
    assert_eq!(got.rss_table_len, 128);
    assert_eq!(bringup.rss_table(), rss::Table::spread(128, 4));
    assert_eq!((got.refused_steps, bringup.ignored()), (0, 0));
    assert!(!bringup.buffer_in_flight());
    assert_eq!(
        *bringup.established(),
        Established {
            receive_gpadl: Some(101),
            send_gpadl: Some(102),
            receive_buffer: true,
            send_buffer: true,
            rndis: true,
        }
    );
}

#[test]
fn every_version_attaches_with_what_it_has() {
    for version in NvspVersion::NEWEST_FIRST {
        let mut host = Host {
            answers: Answers {
                newest: version.value(),
                ..Answers::default()
            },
            ..Host::default()
        };
        let bringup = attach(config(), &mut host).unwrap();
        let got = bringup.negotiated();
        assert_eq!(got.version, version);
        let modern = version.has_subchannels();
        assert_eq!(host.saw(Step::NdisConfig), version.has_ndis_config());
        assert_eq!(host.saw(Step::LinkSpeed), modern);
        assert_eq!(host.saw(Step::RssEnable), modern);
        assert_eq!(got.channels, if modern { 4 } else { 1 });
        assert!(got.receive_buffer <= version.max_receive_buffer());
    }
}

#[test]
fn a_configured_version_is_not_exceeded() {
    let bringup = attach(
        Config {
            max_version: NvspVersion::V5,
            ..config()
        },
        &mut Host::default(),
    );
    assert_eq!(bringup.unwrap().negotiated().version, NvspVersion::V5);
}

#[test]
fn channels_are_limited_by_host_processors_and_wish() {
    let channels = |wanted, online_cpus, queues| {
        let mut host = Host {
            answers: Answers {
                queues,
                ..Answers::default()
            },
            ..Host::default()
        };
        let config = Config {
            channels: wanted,
            online_cpus,
            ..config()
        };
        let bringup = attach(config, &mut host).unwrap();
        let got = bringup.negotiated();
        (got.channels, got.max_channels(online_cpus))
    };
    assert_eq!(channels(4, 8, 64), (4, 8));
    assert_eq!(channels(8, 2, 64), (2, 2));
    assert_eq!(channels(8, 8, 3), (3, 3));
    assert_eq!(channels(0, 8, 3), (1, 3));
    assert_eq!(channels(200, 200, u32::MAX), (64, 64));
    assert_eq!(channels(8, 8, 1), (1, 1));
    assert_eq!(channels(8, 8, 0), (1, 1));
}

#[test]
fn fewer_channels_than_asked_are_run_with() {
    for on_refusal in [OnRefusal::Continue, OnRefusal::Fail] {
        let mut host = Host {
            answers: Answers {
                grant: Some(1),
                ..Answers::default()
            },
            ..Host::default()
        };
        let config = Config {
            on_refusal,
            ..config()
        };
        let bringup = attach(config, &mut host).unwrap();
        let got = bringup.negotiated();
        assert_eq!((got.channels, got.subchannels_requested), (2, 3));
        assert!(got.rss_enabled);
        assert_eq!(bringup.rss_table(), rss::Table::spread(128, 2));
    }
}

#[test]
fn no_channel_granted_is_one_channel() {
    let mut host = Host {
        answers: Answers {
            grant: Some(0),
            ..Answers::default()
        },
        ..Host::default()
    };
    let bringup = attach(config(), &mut host).unwrap();
    assert_eq!(bringup.negotiated().channels, 1);
    assert!(!host.saw(Step::OpenSubchannels) && !host.saw(Step::RssEnable));
}

#[test]
fn more_channels_than_asked_are_a_violation() {
    let mut host = Host {
        answers: Answers {
            grant: Some(4),
            ..Answers::default()
        },
        ..Host::default()
    };
    assert_eq!(
        attach(config(), &mut host).unwrap_err().0,
        BringupError::TooManySubchannels {
            asked: 3,
            granted: 4
        }
    );
}

#[test]
fn sub_channels_that_do_not_open_matter_by_policy() {
    let with = |on_refusal| {
        let mut host = Host {
            open: Some(1),
            ..Host::default()
        };
        let config = Config {
            on_refusal,
            ..config()
        };
        attach(config, &mut host)
    };
    let bringup = with(OnRefusal::Continue).unwrap();
    assert_eq!(bringup.negotiated().channels, 2);
    assert_eq!(bringup.negotiated().refused_steps, 1);
    assert_eq!(
        with(OnRefusal::Fail).unwrap_err().0,
        BringupError::SubchannelsNotOpen {
            granted: 3,
            open: 1
        }
    );
}

#[test]
fn the_users_table_is_kept_while_it_fits() {
    let user = |entries: Vec<u32>, grant| {
        let mut host = Host {
            answers: Answers {
                grant,
                ..Answers::default()
            },
            ..Host::default()
        };
        let config = Config {
            rss_table: rss::Table::from_entries(entries),
            ..config()
        };
        let bringup = attach(config, &mut host).unwrap();
        (bringup.negotiated().user_table, bringup.rss_table())
    };
    let table: Vec<u32> = (0..128).map(|i| i % 2 * 3).collect();
    let (kept, used) = user(table.clone(), None);
    assert!(kept);
    assert_eq!(Some(used), rss::Table::from_entries(table.clone()));
    let (kept, used) = user(table.clone(), Some(1));
    assert!(!kept, "entry 3 with 2 channels");
    assert_eq!(used, rss::Table::spread(128, 2));
    let (kept, _) = user(table[..64].to_vec(), None);
    assert!(!kept, "64 entries where the host has 128");
}

#[test]
fn the_hosts_mtu_lowers_ours_if_it_makes_sense() {
    let mtu = |host_mtu| {
        let mut host = Host {
            answers: Answers {
                mtu: host_mtu,
                ..Answers::default()
            },
            ..Host::default()
        };
        let bringup = attach(config(), &mut host).unwrap();
        let got = bringup.negotiated();
        (got.mtu, got.host_mtu, got.refused_steps)
    };
    assert_eq!(mtu(1400), (1400, Some(1400), 0));
    assert_eq!(mtu(68), (68, Some(68), 0));
    assert_eq!(mtu(67), (1500, None, 1));
}

#[test]
fn link_events_during_the_attach_are_not_lost() {
    let mut host = Host {
        unasked_at: Some(Step::RssEnable),
        ..Host::default()
    };
    let bringup = attach(config(), &mut host).unwrap();
    assert!(!bringup.negotiated().link_up);
    let mut host = Host {
        answers: Answers {
            media: 1,
            ..Answers::default()
        },
        ..Host::default()
    };
    assert!(!attach(config(), &mut host).unwrap().negotiated().link_up);
}

#[test]
fn answers_may_come_before_the_completion_of_their_request() {
    let mut host = Host {
        answer_first: true,
        ..Host::default()
    };
    let bringup = attach(config(), &mut host).unwrap();
    assert_eq!(bringup.ignored(), 0);
}

#[test]
fn buffers_are_whole_pages_within_the_versions_limits() {
    let shared = |receive_buffer, send_buffer, newest| {
        let mut host = Host {
            answers: Answers {
                newest: NvspVersion::value(newest),
                ..Answers::default()
            },
            ..Host::default()
        };
        let config = Config {
            receive_buffer,
            send_buffer,
            ..config()
        };
        let bringup = attach(config, &mut host).unwrap();
        let got = bringup.negotiated();
        (got.receive_buffer, got.send_buffer)
    };
    let v61 = NvspVersion::V61;
    assert_eq!(shared(4097, 10_000, v61), (8192, 12288));
    assert_eq!(shared(u32::MAX, u32::MAX, v61), (31 << 20, 15 << 20));
    assert_eq!(shared(u32::MAX, 6144, NvspVersion::V2), (15 << 20, 8192));
}

#[test]
fn only_what_is_implemented_is_announced() {
    use crate::rndis::nvsp::{capability, kind};
    let announced = |max_version| {
        let mut host = Host::default();
        let config = Config {
            max_version,
            ..config()
        };
        attach(config, &mut host).unwrap();
        let message = host
            .nvsp
            .iter()
            .find(|message| message[0] == kind::NDIS_CONFIG as u8)
            .unwrap();
        u64::from_le_bytes(*message[12..].first_chunk().unwrap())
    };
    let v5 = capability::VLAN | capability::TEAMING;
    assert_eq!(announced(NvspVersion::V61), v5 | capability::RSC);
    assert_eq!(announced(NvspVersion::V6), v5);
    assert_eq!(announced(NvspVersion::V4), capability::VLAN);
}

#[test]
fn statuses_are_said_in_words() {
    let error = BringupError::Refused {
        step: Step::OffloadParameters,
        refusal: Refusal::Rndis(RndisStatus(0xc000_00bb)),
    };
    assert_eq!(
        error.to_string(),
        "offload parameters: host says not supported (0xc00000bb)"
    );
    let error = BringupError::Refused {
        step: Step::SendReceiveBuffer,
        refusal: Refusal::Nvsp(Status::Failure),
    };
    assert_eq!(error.to_string(), "receive buffer: host says failure (2)");
}

// SPDX-License-Identifier: GPL-2.0

//! Attaches against a host that does anything: they end, at the latest at their deadline; what they believe is
//! possible; what exists on the host is known, and a teardown undoes just that, in an order that takes no memory
//! away from a host that may use it.

use crate::control_buffer::ControlBuffer;
use crate::honest_host::{padded, rndis_message, HonestHost, Owned};
use arbitrary::{Arbitrary, Unstructured};
use netvsc_proto::rndis::{
    bringup::{Bringup, BringupError, Config, Negotiated, OnRefusal},
    event::{Action, Event},
    message::HostMessage,
    nvsp::Completion,
    rss,
    teardown::{self, Established, Step},
    transaction::TransactionId,
    version::NvspVersion,
};
use netvsc_proto::vmbus::version::VmbusVersion;

/// Actions that an attach may take: each of its 20 steps once, and all versions tried.
const MAX_ACTIONS: usize = 20 + 6;
/// What a host does in a row before it is found silent.
const MAX_TURNS: usize = 300;

/// What the host does about the last action.
#[derive(Arbitrary, Debug)]
enum Deed {
    /// Answers as it should; the plainest of all.
    Proper,
    /// Does so with a byte changed: of which message, where, to what.
    Bent(u8, u8, u8),
    /// Cuts a message to so many bytes.
    Cut(u8, u8),
    /// Says no.
    Refuses,
    /// Says everything twice.
    Twice,
    /// Says something that it said earlier.
    Again(u8),
    /// Answers later.
    Withholds,
    /// Completes an id of its own choice with these words.
    Completes(u64, [u8; 3]),
    /// Answers the last request with another type of message.
    Answers(u8, [u32; 4]),
    /// Says something unasked.
    Says(u8, [u32; 4]),
    /// The ring does not take the message.
    NotSent,
    /// Something of our own side comes unasked.
    Unasked(u8, u16),
    /// Says nothing until the deadline.
    Silent,
    /// Takes the device away.
    Rescinds,
}

/// `data` is a script: what the driver wants, what the host can, and what it does.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let config = config(&mut script);
    let host = host(&mut script);
    let mut attach = Attach::new(&config, host);
    let mut turns = 0;
    while attach.goes_on() {
        turns += 1;
        assert!(turns < MAX_TURNS + MAX_ACTIONS, "does not end");
        let deed = if script.is_empty() || turns > MAX_TURNS {
            Deed::Proper
        } else {
            Deed::arbitrary(&mut script).unwrap_or(Deed::Proper)
        };
        attach.turn(deed);
    }
    attach.finish(&config);
}

/// All zero: four channels of a machine with four processors, and nothing special.
fn config(script: &mut Unstructured<'_>) -> Config {
    let [mtu, receive, send] = script.arbitrary::<[u32; 3]>().unwrap_or_default();
    let [version, channels, cpus, flags, table] = script.arbitrary::<[u8; 5]>().unwrap_or_default();
    let entries = (0..u32::from(table)).map(|index| index % 5);
    Config {
        mtu: 68 + (1432 ^ mtu) % 65454,
        max_version: NvspVersion::NEWEST_FIRST[usize::from(version) % 6],
        receive_buffer: (16 << 20) ^ receive,
        send_buffer: (1 << 20) ^ send,
        channels: 4 ^ u16::from(channels),
        online_cpus: 4 ^ u16::from(cpus),
        on_refusal: if flags & 1 == 0 {
            OnRefusal::Continue
        } else {
            OnRefusal::Fail
        },
        rx_checksum: flags & 2 == 0,
        coalesce: flags & 4 == 0,
        rss_key: rss::DEFAULT_KEY,
        rss_table: rss::Table::from_entries(entries),
        flow_hash: rss::FlowHash::ALL,
    }
}

fn host(script: &mut Unstructured<'_>) -> HonestHost {
    let [newest, queues, flags] = script.arbitrary::<[u8; 3]>().unwrap_or_default();
    let [mtu, receive, send] = script.arbitrary::<[u16; 3]>().unwrap_or_default();
    HonestHost {
        newest: NvspVersion::NEWEST_FIRST[usize::from(newest) % 6].value(),
        queues: 8 ^ u32::from(queues),
        mtu: 9000 ^ u32::from(mtu),
        sections: (1728 ^ u32::from(receive), 6144 ^ u32::from(send)),
        receive_buffer: 0,
        too_many: u32::from(flags >> 1) % 3,
        answer_first: flags & 1 != 0,
    }
}

/// The last action, and what of it is still open.
struct Open {
    action: Action,
    request: Option<u32>,
}

/// An attach, and what we know about it without asking it.
struct Attach {
    bringup: Bringup,
    host: HonestHost,
    buffer: ControlBuffer,
    open: Open,
    actions: usize,
    established: Established,
    said: Vec<Owned>,
    withheld: Vec<Owned>,
    failure: Option<BringupError>,
}

impl Attach {
    fn new(config: &Config, host: HonestHost) -> Self {
        Self {
            bringup: Bringup::new(config.clone()),
            host,
            buffer: ControlBuffer::new(),
            open: Open {
                action: Action::Wait,
                request: None,
            },
            actions: 0,
            established: Established::default(),
            said: Vec::new(),
            withheld: Vec::new(),
            failure: None,
        }
    }

    fn goes_on(&self) -> bool {
        self.failure.is_none() && self.open.action != Action::Done
    }

    /// One action, if there is one to take, and what the host does then.
    fn turn(&mut self, deed: Deed) {
        let lent = self.buffer.is_lent();
        let action = self.bringup.next(&mut self.buffer.bytes);
        let mut deed = deed;
        if action == Action::Wait {
            assert_eq!(self.buffer.is_lent(), lent);
            if let Deed::Proper | Deed::Withholds | Deed::NotSent = deed {
                // It has answered all it wants to.
                let withheld = std::mem::take(&mut self.withheld);
                deed = if withheld.is_empty() {
                    Deed::Silent
                } else {
                    Deed::Proper
                };
                self.deliver_all(withheld);
            }
        } else {
            self.actions += 1;
            assert!(self.actions <= MAX_ACTIONS, "too many actions");
            let request = self.buffer.sent(action);
            self.open = Open { action, request };
        }
        if self.goes_on() && action != Action::Done {
            let events = self.events(deed, action);
            self.deliver_all(events);
        }
    }

    fn events(&mut self, deed: Deed, action: Action) -> Vec<Owned> {
        let message = self.buffer.bytes;
        let mut proper = |refuse| self.host.react(action, &message, refuse);
        let (transaction, request) = (self.open.transaction(), self.open.request.unwrap_or(1));
        match deed {
            Deed::Proper => proper(false),
            Deed::Bent(which, at, byte) => {
                let mut events = proper(false);
                if let Some(bytes) = pick(&mut events, which).and_then(Owned::bytes_mut) {
                    let len = bytes.len().max(1);
                    if let Some(place) = bytes.get_mut(usize::from(at) % len) {
                        *place = byte;
                    }
                }
                events
            }
            Deed::Cut(which, len) => {
                let mut events = proper(false);
                if let Some(bytes) = pick(&mut events, which).and_then(Owned::bytes_mut) {
                    bytes.truncate(len.into());
                }
                events
            }
            Deed::Refuses => proper(true),
            Deed::Twice => {
                let events = proper(false);
                [events.clone(), events].concat()
            }
            Deed::Again(which) => {
                let index = usize::from(which) % self.said.len().max(1);
                self.said.get(index).cloned().into_iter().collect()
            }
            Deed::Withholds => {
                let events = proper(false);
                self.withheld.extend(events);
                Vec::new()
            }
            Deed::Completes(id, words) => {
                let id = if id & 1 == 0 {
                    transaction.value().wrapping_add(id >> 1)
                } else {
                    id
                };
                let payload = padded(&words.map(u32::from));
                vec![Owned::Completion(TransactionId::from_wire(id), payload)]
            }
            Deed::Answers(kind, [_, rest @ ..]) => {
                let [a, b, c] = rest;
                let kind = u32::from(kind & 0xf) | 0x8000_0000;
                vec![Owned::Rndis(rndis_message(
                    kind,
                    &[request, a, b, c],
                    &[0; 40],
                ))]
            }
            Deed::Says(kind, words) => {
                vec![Owned::Rndis(rndis_message(
                    kind.into(),
                    &words,
                    &[1, 2, 3, 4],
                ))]
            }
            Deed::NotSent if self.is_sent_just_now(action) => vec![Owned::SendFailed],
            Deed::NotSent | Deed::Silent => vec![Owned::Deadline],
            Deed::Unasked(0, n) => vec![Owned::Shared(n.into())],
            Deed::Unasked(1, n) => vec![Owned::SubchannelsOpen(n)],
            Deed::Unasked(..) => vec![Owned::ShareFailed],
            Deed::Rescinds => vec![Owned::Rescinded],
        }
    }

    fn is_sent_just_now(&self, action: Action) -> bool {
        matches!(action, Action::SendNvsp { .. } | Action::SendRndis { .. })
    }

    fn deliver_all(&mut self, events: Vec<Owned>) {
        for event in events {
            if self.failure.is_none() {
                self.deliver(event);
            }
        }
    }

    fn deliver(&mut self, event: Owned) {
        self.note_established(&event);
        self.buffer.heard(&event.borrow());
        let result = self.bringup.event(event.borrow());
        if let Err(error) = result {
            assert!(!error.to_string().is_empty());
            self.failure = Some(error);
        } else {
            assert_eq!(self.bringup.buffer_in_flight(), self.buffer.is_lent());
            let ends = matches!(
                event,
                Owned::Deadline | Owned::Rescinded | Owned::SendFailed
            );
            assert!(!ends, "{event:?} at {:?}", self.bringup.step());
        }
        if matches!(event, Owned::Completion(..) | Owned::Rndis(_)) {
            self.said.push(event);
        }
        assert_eq!(*self.bringup.established(), self.established);
        // Whether or not it failed: what the host may read is not given up.
        assert!(self.bringup.buffer_in_flight() || !self.buffer.is_lent());
    }

    /// What the host has from now on, if `event` is what the open action waits for.
    fn note_established(&mut self, event: &Owned) {
        let open = &mut self.open;
        match (open.action, event) {
            (Action::ShareReceiveBuffer { .. }, Owned::Shared(gpadl)) => {
                self.established.receive_gpadl = Some(*gpadl);
                open.action = Action::Wait;
            }
            (Action::ShareSendBuffer { .. }, Owned::Shared(gpadl)) => {
                self.established.send_gpadl = Some(*gpadl);
                open.action = Action::Wait;
            }
            (Action::SendNvsp { transaction, .. }, Owned::Completion(id, payload))
                if transaction == *id && transaction != TransactionId::NONE =>
            {
                let asked = self.buffer.bytes[0];
                match Completion::decode(payload) {
                    Ok(Completion::ReceiveBuffer { status, .. }) if asked == 101 => {
                        self.established.receive_buffer |= status.is_success();
                    }
                    Ok(Completion::SendBuffer { status, .. }) if asked == 104 => {
                        self.established.send_buffer |= status.is_success();
                    }
                    _ => {}
                }
                open.action = Action::Wait;
            }
            (Action::SendRndis { .. }, Owned::Rndis(message)) => {
                if let Ok(HostMessage::InitializeComplete {
                    request_id, status, ..
                }) = HostMessage::decode(message)
                {
                    if open.request == Some(request_id) && self.buffer.bytes[0] == 2 {
                        self.established.rndis |= status.is_success();
                        open.request = None;
                    }
                }
            }
            _ => {}
        }
    }

    fn finish(mut self, config: &Config) {
        match self.failure {
            None => {
                assert!(self.bringup.is_done());
                assert_eq!(self.bringup.event(Event::Deadline), Ok(()));
                check_negotiated(self.bringup.negotiated(), config);
                check_table(&self.bringup, config);
                assert!(!self.buffer.is_lent());
            }
            Some(error) => {
                assert!(!self.bringup.is_done());
                let next = self.bringup.next(&mut self.buffer.bytes);
                assert_eq!(next, Action::Wait, "goes on after its end");
                for event in [
                    Event::Deadline,
                    Event::Shared { gpadl: 1 },
                    Event::Rescinded,
                ] {
                    assert_eq!(self.bringup.event(event), Err(error));
                }
                if self.bringup.buffer_in_flight() {
                    self.buffer.withhold();
                }
            }
        }
        self.tear_down();
    }

    /// With what the attach knows, and compared with what we know.
    fn tear_down(mut self) {
        for version in [VmbusVersion(0x0003_0000), VmbusVersion::V4_0] {
            let steps: Vec<_> = teardown::steps(version, self.bringup.established()).collect();
            check_steps(&steps, &self.established, version);
        }
        let mut ids = self.bringup.into_ids();
        let action = teardown::halt(&mut ids, &mut self.buffer.bytes);
        assert!(matches!(action, Action::SendRndis { len: 12, .. }));
        self.buffer.sent(action);
    }
}

impl Open {
    fn transaction(&self) -> TransactionId {
        match self.action {
            Action::SendNvsp { transaction, .. } | Action::SendRndis { transaction, .. } => {
                transaction
            }
            _ => TransactionId::NONE,
        }
    }
}

fn pick<T>(list: &mut [T], which: u8) -> Option<&mut T> {
    let len = list.len().max(1);
    list.get_mut(usize::from(which) % len)
}

fn check_negotiated(got: &Negotiated, config: &Config) {
    assert!(got.version <= config.max_version);
    assert!(got.mtu <= config.mtu && got.host_mtu.is_none_or(|mtu| got.mtu <= mtu));
    assert!(got.mac.is_valid());
    assert!(1 <= got.channels && got.channels <= got.max_channels(config.online_cpus));
    assert!(got.channels <= config.channels.max(1));
    assert!(got.host_channels <= rss::MAX_CHANNELS && got.channels <= config.online_cpus.max(1));
    assert!(got.channels <= got.subchannels_requested + 1);
    assert!(got.channels == 1 || got.version.has_subchannels());
    assert!(got.receive_buffer <= got.version.max_receive_buffer());
    assert!(got.receive_buffer % 4096 == 0 && got.send_buffer % 4096 == 0);
    for (len, count, buffer) in [
        (
            got.receive_section_len,
            got.receive_section_count,
            got.receive_buffer,
        ),
        (
            got.send_section_len,
            got.send_section_count,
            got.send_buffer,
        ),
    ] {
        assert!(len >= 68 && count > 0);
        assert!(u64::from(len) * u64::from(count) <= buffer.into());
    }
    assert!(got.alignment.is_power_of_two() && got.alignment <= 4096);
    assert!((1..=255).contains(&got.max_packets_per_message));
    let offloads = &got.offloads;
    assert!(!offloads.rsc || config.coalesce && got.version >= NvspVersion::V61);
    assert!(!offloads.rsc_offered || got.version >= NvspVersion::V61);
    assert_eq!(offloads.rx_checksum, config.rx_checksum);
}

fn check_table(bringup: &Bringup, config: &Config) {
    let (got, table) = (bringup.negotiated(), bringup.rss_table());
    assert!(table.fits(got.channels), "a flow without a channel");
    if got.user_table {
        assert_eq!(Some(table), config.rss_table);
        assert_eq!(table.len(), got.rss_table_len);
    }
}

/// Every step that is due, once, and in an order that the host understands.
fn check_steps(steps: &[Step], established: &Established, version: VmbusVersion) {
    let at = |step: Step| {
        let mut places = steps
            .iter()
            .enumerate()
            .filter(|(_, other)| **other == step);
        let first = places.next().map(|(place, _)| place);
        assert!(places.next().is_none(), "{step:?} twice");
        first
    };
    let halt = at(Step::Halt);
    let stop = at(Step::StopPolling).expect("polls stop");
    let close = at(Step::Close).expect("the channel is closed");
    let revoked = [at(Step::RevokeReceiveBuffer), at(Step::RevokeSendBuffer)];
    let unshared = [
        established
            .receive_gpadl
            .and_then(|gpadl| at(Step::UnshareReceiveBuffer { gpadl })),
        established
            .send_gpadl
            .and_then(|gpadl| at(Step::UnshareSendBuffer { gpadl })),
    ];
    assert_eq!(halt, established.rndis.then_some(0));
    assert_eq!(revoked[0].is_some(), established.receive_buffer);
    assert_eq!(revoked[1].is_some(), established.send_buffer);
    assert_eq!(unshared[0].is_some(), established.receive_gpadl.is_some());
    assert_eq!(unshared[1].is_some(), established.send_gpadl.is_some());
    let known = [halt, Some(stop), Some(close)];
    let known = known
        .iter()
        .chain(&revoked)
        .chain(&unshared)
        .flatten()
        .count();
    assert_eq!(steps.len(), known, "nothing that was not done is undone");
    assert!(stop < close);
    for (revoked, unshared) in revoked.into_iter().zip(unshared) {
        assert!(revoked.is_none_or(|revoked| revoked < close));
        let Some(unshared) = unshared else {
            assert!(revoked.is_none(), "a buffer that was never shared");
            continue;
        };
        // The host has let go of the memory: by name, and where it wants that, by closing.
        assert!(revoked.is_none_or(|revoked| revoked < unshared));
        assert_eq!(unshared > close, version >= VmbusVersion::V4_0);
    }
    for step in steps {
        let message = teardown::revoke(*step);
        let revokes = matches!(step, Step::RevokeReceiveBuffer | Step::RevokeSendBuffer);
        assert_eq!(message.is_some(), revokes);
    }
}

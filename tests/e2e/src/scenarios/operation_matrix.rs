// SPDX-License-Identifier: GPL-2.0

//! Every operation, in every situation, with every kind of host: afterwards the old or the new configuration is in
//! force, in every field that can be shown.
//!
//! | situation | host |
//! |---|---|
//! | idle, traffic, link down, interface down, the same on two NICs at once | accepts, refuses, is silent, takes the NIC away |
//!
//! The host stands in the way at the request that decides the operation; where an operation asks nothing of the
//! host, it can only take the NIC away.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::random_operations::ANNOUNCE;
use crate::administrator::Administrator;
use crate::bench::nic_specification;
use crate::configuration::Baseline;
use crate::ethtool::RingSizes;
use crate::guest::{End, Guest, SHORT};
use crate::host::Action;
use crate::operations::Operation;
use crate::scenario::{Machine, Scenario, Set};
use crate::snapshot::differences;
use crate::traffic::Background;

const DEFECTS: Option<&str> = Some(
    "Q1 to Q5, Q10, Q11, Q20, Q22: settings are forgotten, a failed step or a silent host hangs",
);

const fn matrix(
    name: &'static str,
    about: &'static str,
    run: fn(&Guest) -> Result<()>,
) -> Scenario {
    Scenario {
        name,
        about,
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: DEFECTS,
        run,
    }
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        set: Set::Quick,
        ..matrix(
            "some-operations-with-some-hosts",
            "rings and a table refused under traffic: the old configuration in every field",
            |guest| {
                few(
                    guest,
                    Situation::Traffic,
                    &[("-G", Host::Refuses), ("-X", Host::Refuses)],
                )
            },
        )
    },
    matrix(
        "every-operation-when-idle",
        "all operations, with hosts that accept, refuse, are silent, take the NIC away",
        |guest| all(guest, Situation::Idle),
    ),
    matrix(
        "every-operation-under-traffic",
        "the same while verified data flows",
        |guest| all(guest, Situation::Traffic),
    ),
    matrix(
        "every-operation-without-link",
        "the same while the host's link is down",
        |guest| all(guest, Situation::LinkDown),
    ),
    matrix(
        "every-operation-while-down",
        "the same while the interface is down",
        |guest| all(guest, Situation::InterfaceDown),
    ),
    matrix(
        "every-operation-on-two-nics",
        "the same on two NICs at once, where the host treats one badly",
        |guest| all(guest, Situation::TwoNics),
    ),
];

/// What goes on meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    Idle,
    Traffic,
    LinkDown,
    InterfaceDown,
    TwoNics,
}

/// What the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Accepts,
    Refuses,
    Silent,
    Rescinds,
}

const HOSTS: [Host; 4] = [Host::Accepts, Host::Refuses, Host::Silent, Host::Rescinds];

/// Longest that a command may take: a silent host costs an attach its 30 seconds, and the way back.
const LIMIT: Duration = Duration::from_secs(120);

/// An operation, and the request that decides it.
struct Row {
    operation: Operation,
    decisive: Option<Decisive>,
}

#[derive(Clone, Copy)]
struct Decisive {
    point: &'static str,
    nth: u32,
}

const fn at(point: &'static str) -> Option<Decisive> {
    Some(Decisive { point, nth: 1 })
}

/// Spreading is turned off, which may fail, and on.
const SPREAD: Option<Decisive> = Some(Decisive {
    point: "rndis.set.GEN_RECEIVE_SCALE_PARAMETERS",
    nth: 2,
});
const OFFLOADS: &str = "rndis.set.TCP_OFFLOAD_PARAMETERS";
const FILTER: &str = "rndis.set.GEN_CURRENT_PACKET_FILTER";
const ADDRESS: &str = "rndis.set.GEN_RNDIS_CONFIG_PARAMETER";

fn rows() -> Vec<Row> {
    let rings = RingSizes { rx: 4000, tx: 300 };
    let key = (0..40).map(|i| 6 * i + 1).collect();
    let rows = [
        (Operation::Channels(2), at("nvsp.subchannel")),
        (Operation::Weight(vec![0, 1]), SPREAD),
        (Operation::Equal(3), SPREAD),
        (Operation::Key(key), SPREAD),
        (Operation::FlowHash("tcp4", "sd"), SPREAD),
        (Operation::Rings(rings), at("nvsp.send-recv-buf")),
        (Operation::Feature("rx", false), at(OFFLOADS)),
        (Operation::Feature("lro", false), at(OFFLOADS)),
        (Operation::Feature("tso", false), None),
        (Operation::Feature("gro", false), None),
        (Operation::Mtu(4000), at("rndis.initialize")),
        (Operation::Address("02:11:22:33:44:55".into()), at(ADDRESS)),
        (Operation::Promiscuous(true), at(FILTER)),
        (Operation::AllMulticast(true), None),
        (Operation::Up(false), at(FILTER)),
        (Operation::Up(true), at(FILTER)),
        (Operation::Alias("another name".into()), None),
        (Operation::MessageLevel(0x21), None),
        (Operation::AddVlan(5), None),
    ];
    rows.into_iter()
        .map(|(operation, decisive)| Row {
            operation,
            decisive,
        })
        .collect()
}

impl Row {
    /// Fields that the core shows as wanted although the host has refused: its interfaces for some operations cannot
    /// say no, and of a feature it remembers what was requested.
    fn lagging(&self) -> &'static [&'static str] {
        match self.operation {
            Operation::Promiscuous(_) | Operation::Up(false) => &["host/packet_filter"],
            Operation::Feature("rx", _) => &["features/rx-checksumming/requested"],
            Operation::Feature("lro", _) => &["features/large-receive-offload/requested"],
            _ => &[],
        }
    }
}

/// All rows in one situation. What fails is collected: the rest is tried all the same.
fn all(guest: &Guest, situation: Situation) -> Result<()> {
    let mut table = Table::new(guest, situation)?;
    let mut failed = Vec::new();
    let mut passed = 0;
    for row in rows() {
        for host in HOSTS {
            if row.decisive.is_none() && matches!(host, Host::Refuses | Host::Silent) {
                continue;
            }
            match table.cell(&row, host) {
                Ok(()) => passed += 1,
                Err(error) => {
                    let text = format!("{}, host {host:?}: {error:#}", row.operation);
                    println!("      failed: {text}");
                    failed.push(text);
                }
            }
            if let Err(error) = table.restore(&row) {
                bail!(
                    "{passed} cells passed; then there was no way back ({error:#}) after: {}",
                    failed.join("\n  ")
                );
            }
        }
    }
    println!(
        "      {situation:?}: {passed} cells passed, {} failed",
        failed.len()
    );
    ensure!(
        failed.is_empty(),
        "{passed} cells passed, these failed:\n  {}",
        failed.join("\n  ")
    );
    table.finish()
}

/// Single cells of one situation, by a word of the command and host.
fn few(guest: &Guest, situation: Situation, cells: &[(&str, Host)]) -> Result<()> {
    let mut table = Table::new(guest, situation)?;
    let rows = rows();
    for (word, host) in cells {
        let named = |row: &&Row| row.operation.argv("eth0").iter().any(|w| w == word);
        let row = rows.iter().find(named);
        let row = row.with_context(|| format!("no operation with {word}"))?;
        table
            .cell(row, *host)
            .with_context(|| format!("{}, host {host:?}", row.operation))?;
        table.restore(row)?;
    }
    table.finish()
}

/// The interfaces of one situation.
struct Table<'a> {
    guest: &'a Guest,
    situation: Situation,
    near: Administrator<'a>,
    peer: Option<Administrator<'a>>,
    traffic: Option<Background<'a>>,
}

impl<'a> Table<'a> {
    fn new(guest: &'a Guest, situation: Situation) -> Result<Self> {
        guest.reload()?;
        guest.shell(ANNOUNCE, SHORT)?;
        let peer = (situation == Situation::TwoNics).then(|| Administrator::new(guest, End::Peer));
        let traffic = (situation == Situation::Traffic).then(|| guest.trickle(End::Near, 2));
        Ok(Self {
            guest,
            situation,
            near: Administrator::new(guest, End::Near)?,
            peer: peer.transpose()?,
            traffic: traffic.transpose()?,
        })
    }

    /// One operation with one kind of host.
    fn cell(&mut self, row: &Row, host: Host) -> Result<()> {
        match self.situation {
            Situation::LinkDown => self.near.set_link(false)?,
            Situation::InterfaceDown => self.near.perform(&Operation::Up(false))?,
            _ => {}
        }
        if row.operation == Operation::Up(true) {
            self.near.perform(&Operation::Up(false))?;
        }
        let meanwhile = match &self.peer {
            Some(peer) => Some(peer.begin(&row.operation)?),
            None => None,
        };
        if host == Host::Rescinds {
            self.take_away(row)?;
        } else {
            self.near_under(row, host)?;
        }
        if let (Some(job), Some(peer)) = (meanwhile, &mut self.peer) {
            let done = self.guest.ended(job, LIMIT)?.success();
            let treated_well = matches!(host, Host::Accepts | Host::Rescinds);
            ensure!(done || !treated_well, "refused on the other NIC");
            peer.came_to(&row.operation, done, row.lagging())
                .context("on the other NIC")?;
        }
        self.guest.host.clear_faults()?;
        if host == Host::Rescinds {
            self.give_back()?;
        }
        self.traffic.as_ref().map_or(Ok(()), Background::still_runs)
    }

    /// The operation on eth0; the host answers as `host` says, or not at all.
    fn near_under(&mut self, row: &Row, host: Host) -> Result<()> {
        let action = match host {
            Host::Refuses => Some(Action::Refuse),
            Host::Silent => Some(Action::Silent),
            Host::Accepts | Host::Rescinds => None,
        };
        let (Some(action), Some(decisive)) = (action, row.decisive) else {
            return self.near.perform(&row.operation);
        };
        let host = &self.guest.host;
        host.take_log()?;
        host.add_fault(decisive.point, decisive.nth, 1, action)?;
        let done = self.near.attempt(&row.operation, LIMIT, row.lagging())?;
        let fired = host.counters()?.fired(decisive.point);
        ensure!(done || fired > 0, "refused, and no fault fired");
        Ok(())
    }

    /// The host takes the NIC away during the operation.
    fn take_away(&mut self, row: &Row) -> Result<()> {
        let host = &self.guest.host;
        host.take_log()?;
        // A fault would take away whichever of two NICs asks first.
        let decisive = row.decisive.filter(|_| self.peer.is_none());
        if let Some(decisive) = decisive {
            host.add_fault(decisive.point, decisive.nth, 1, Action::Rescind)?;
        }
        let job = self.near.begin(&row.operation)?;
        if decisive.is_none() {
            host.remove_nic(End::Near.nic())?;
        }
        // It was done before the NIC went, or not.
        self.guest.ended(job, LIMIT)?;
        host.clear_faults()?;
        // A fault takes the device from the bus, not the NIC from the host's list; and one that was not reached
        // takes nothing.
        let _ = host.remove_nic(End::Near.nic());
        self.guest.wait_until("end of the interface", SHORT, || {
            let argv = ["ip", "link", "show", "dev", "eth0"];
            Ok(!self.guest.try_at(End::Near, &argv, SHORT)?.success())
        })?;
        self.guest
            .wait_until("the host's end of the NIC", SHORT, || {
                host.counters().map(|c| c.devices() == 1)
            })
    }

    /// A new NIC in the place of the old one has the default settings, all of them.
    fn give_back(&mut self) -> Result<()> {
        let host = &self.guest.host;
        host.add_nic(&nic_specification(End::Near, self.guest.machine))?;
        self.guest.wait_until("the new interface", SHORT, || {
            let list = "cat /sys/class/net/*/address 2>/dev/null || true";
            Ok(self.guest.shell(list, SHORT)?.contains(End::Near.mac()))
        })?;
        self.guest.shell(NEW_NIC, SHORT)?;
        let most = self.guest.machine.most_channels();
        self.guest.wait_until("all channels", SHORT, || {
            Ok(self.guest.channels(End::Near)?.current == most)
        })?;
        self.guest.shell(ANNOUNCE, SHORT)?;
        let old = known(self.near.baseline());
        self.near = Administrator::new(self.guest, End::Near)?;
        let wrong = differences(&old, &known(self.near.baseline()));
        ensure!(wrong.is_empty(), "a new NIC: {}", wrong.join("; "));
        Ok(())
    }

    fn restore(&mut self, row: &Row) -> Result<()> {
        self.guest.host.clear_faults()?;
        if let Operation::Feature(name, wanted) = row.operation {
            let before = if wanted { "off" } else { "on" };
            for end in [Some(End::Near), self.peer.as_ref().map(|_| End::Peer)] {
                let Some(end) = end else { continue };
                let argv = ["ethtool", "-K", end.interface(), name, before];
                self.guest.at(end, &argv, SHORT)?;
            }
        }
        self.near.go_back()?;
        if let Some(peer) = &mut self.peer {
            peer.go_back()?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        if let Some(traffic) = self.traffic {
            traffic.finish()?;
        }
        self.guest.configure(self.guest.machine.most_channels())?;
        self.guest.ping_both_ways()
    }
}

/// What two NICs in the same place have in common.
fn known(baseline: &Baseline) -> crate::snapshot::Fields {
    let mut fields = baseline.fields.clone();
    fields.remove("link/ifindex");
    fields
}

/// Gives the new NIC, the only one in this namespace, its name and addresses.
const NEW_NIC: &str = "
for path in /sys/class/net/*/device; do
    path=${path%/device}
    [ ${path##*/} = eth0 ] || ip link set ${path##*/} down name eth0
done
ip address replace 10.0.0.1/24 dev eth0
ip address replace fd00::1/64 dev eth0 nodad
ip link set eth0 up";

// SPDX-License-Identifier: GPL-2.0

//! A running guest with its two NICs, as scenarios see it.
//!
//! Both NICs are wired to one switch of the host. `eth0` stays in the guest's own namespace, the
//! other one moves into the network namespace `peer`, so that whatever goes between the two ends
//! crosses the driver and the host twice.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use guest_agent::protocol::{Command, Outcome};
use serde_json::Value;

use crate::agent::{Agent, Job};
use crate::ethtool::{self, Channels};
use crate::host::Host;
use crate::kernel_log::KernelLog;
use crate::scenario::{Driver, Machine};

/// Time for a command that should take no time.
pub const SHORT: Duration = Duration::from_secs(60);

/// One end of the wire inside the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest's own namespace: `eth0`.
    Near,
    /// The network namespace `peer`.
    Peer,
}

impl End {
    /// The namespace to run a command in.
    pub fn netns(self) -> Option<String> {
        match self {
            End::Near => None,
            End::Peer => Some("peer".into()),
        }
    }

    /// Interface name after [`Guest::configure`].
    pub fn interface(self) -> &'static str {
        match self {
            End::Near => "eth0",
            End::Peer => "eth1",
        }
    }

    /// IPv4 address after [`Guest::configure`].
    pub fn v4(self) -> &'static str {
        match self {
            End::Near => "10.0.0.1",
            End::Peer => "10.0.0.2",
        }
    }

    /// IPv6 address after [`Guest::configure`].
    pub fn v6(self) -> &'static str {
        match self {
            End::Near => "fd00::1",
            End::Peer => "fd00::2",
        }
    }

    /// Permanent address the host gives the NIC.
    pub fn mac(self) -> &'static str {
        match self {
            End::Near => "00:15:5d:00:00:01",
            End::Peer => "00:15:5d:00:00:02",
        }
    }

    /// Name of the NIC at the host.
    pub fn nic(self) -> &'static str {
        match self {
            End::Near => "nic0",
            End::Peer => "nic1",
        }
    }

    /// The end it talks to.
    pub fn other(self) -> End {
        match self {
            End::Near => End::Peer,
            End::Peer => End::Near,
        }
    }
}

/// A running guest.
pub struct Guest {
    /// Commands in the guest.
    pub agent: Agent,
    /// The host's counters, faults and plugs.
    pub host: Host,
    /// What it was booted as.
    pub machine: Machine,
    /// Which driver is under test; [`Guest::load`] inserts it.
    pub driver: std::cell::Cell<Driver>,
    log: KernelLog,
}

impl Guest {
    /// A booted guest without a driver.
    pub fn new(agent: Agent, host: Host, machine: Machine, driver: Driver) -> Guest {
        Guest {
            agent,
            host,
            machine,
            driver: driver.into(),
            log: KernelLog::default(),
        }
    }

    /// Runs a command at an end of the wire; any exit code is an answer, hanging is not.
    pub fn try_at(&self, end: End, argv: &[&str], limit: Duration) -> Result<Outcome> {
        let command = command(end, argv);
        let outcome = self
            .agent
            .run(command, limit)
            .with_context(|| argv.join(" "))?;
        if outcome.timed_out {
            let how = if outcome.stuck {
                "hangs in the kernel"
            } else {
                "was killed"
            };
            bail!(
                "'{}' did not end within {limit:?} and {how}",
                argv.join(" ")
            );
        }
        Ok(outcome)
    }

    /// Runs a command that must succeed at an end of the wire; its standard output.
    pub fn at(&self, end: End, argv: &[&str], limit: Duration) -> Result<String> {
        succeed(argv, self.try_at(end, argv, limit)?)
    }

    /// Runs a short command that must succeed in the guest's own namespace.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.at(End::Near, argv, SHORT)
    }

    /// Runs a shell script that must succeed in the guest's own namespace.
    pub fn shell(&self, script: &str, limit: Duration) -> Result<String> {
        self.at(End::Near, &["sh", "-ec", script], limit)
    }

    /// Runs a short command that must fail, and say `message`.
    pub fn refused(&self, argv: &[&str], message: &str) -> Result<()> {
        let outcome = self.try_at(End::Near, argv, SHORT)?;
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        ensure!(
            !outcome.success(),
            "'{}' succeeded, but must be refused",
            argv.join(" ")
        );
        ensure!(
            said.contains(message),
            "'{}' failed with {said:?}, not with '{message}'",
            argv.join(" ")
        );
        Ok(())
    }

    /// Starts a command in the background.
    pub fn spawn_at(&self, end: End, argv: &[&str]) -> Result<Job> {
        self.agent
            .spawn(command(end, argv))
            .with_context(|| argv.join(" "))
    }

    /// Inserts the driver under test; both NICs must appear.
    pub fn load(&self) -> Result<()> {
        let path = module_path(self.driver.get());
        self.at(End::Near, &["insmod", path], SHORT * 2)?;
        Ok(())
    }

    /// Removes the driver; its NICs vanish.
    pub fn unload(&self) -> Result<()> {
        self.at(End::Near, &["rmmod", "hv_netvsc"], SHORT * 2)?;
        Ok(())
    }

    /// Whether a driver of the NIC is loaded.
    pub fn loaded(&self) -> Result<bool> {
        let argv = ["test", "-d", "/sys/module/hv_netvsc/drivers"];
        Ok(self.try_at(End::Near, &argv, SHORT)?.success())
    }

    /// Gives both ends names, addresses and carrier, and waits until `near` channels are open at the
    /// near end and all at the other.
    pub fn configure(&self, near: u32) -> Result<()> {
        let script = CONFIGURE
            .replace("@NEAR_MAC@", End::Near.mac())
            .replace("@PEER_MAC@", End::Peer.mac());
        self.shell(&script, SHORT)
            .context("configuring the two NICs")?;
        for (end, expected) in [(End::Near, near), (End::Peer, self.machine.most_channels())] {
            self.wait_until(&format!("{expected} channels at {end:?}"), SHORT, || {
                Ok(self.channels(end)?.current == expected && self.carrier(end)?)
            })?;
        }
        Ok(())
    }

    /// Asks until the answer is yes, at most `limit`.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut yes: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        while !yes().with_context(|| format!("waiting for {what}"))? {
            ensure!(began.elapsed() < limit, "no {what} within {limit:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What `ethtool --show-channels` says at an end.
    pub fn channels(&self, end: End) -> Result<Channels> {
        let argv = ["ethtool", "--show-channels", end.interface()];
        ethtool::channels(&self.at(end, &argv, SHORT)?)
    }

    /// `ethtool --set-channels eth0 combined COUNT`, which must succeed within `limit`.
    pub fn set_channels(&self, count: u32, limit: Duration) -> Result<()> {
        let count = count.to_string();
        let argv = ["ethtool", "--set-channels", "eth0", "combined", &count];
        self.at(End::Near, &argv, limit).map(drop)
    }

    /// What `ethtool -S` says at an end.
    pub fn statistics(&self, end: End) -> Result<Vec<(String, u64)>> {
        let argv = ["ethtool", "-S", end.interface()];
        ethtool::statistics(&self.at(end, &argv, SHORT)?)
    }

    /// Whether the interface of an end has carrier.
    pub fn carrier(&self, end: End) -> Result<bool> {
        let link = self.link(end)?;
        let flags = link["flags"].as_array().cloned().unwrap_or_default();
        Ok(flags.iter().any(|f| f == "LOWER_UP"))
    }

    /// What `ip -json link show` says about the interface of an end.
    pub fn link(&self, end: End) -> Result<Value> {
        let argv = ["ip", "-json", "link", "show", "dev", end.interface()];
        let text = self.at(end, &argv, SHORT)?;
        let mut list: Vec<Value> = serde_json::from_str(&text)
            .with_context(|| format!("'{}' printed {text:?}", argv.join(" ")))?;
        list.pop().context("ip printed no interface")
    }

    /// One ping each way over IPv4 and IPv6 must be answered.
    pub fn ping_both_ways(&self) -> Result<()> {
        for end in [End::Near, End::Peer] {
            for address in [end.other().v4(), end.other().v6()] {
                let argv = ["ping", "-c", "3", "-i", "0.2", "-W", "10", "-q", address];
                self.at(end, &argv, SHORT)
                    .with_context(|| format!("pinging {address} from {end:?}"))?;
            }
        }
        Ok(())
    }

    /// The kernel's messages since the last call, and all of this scenario so far.
    pub fn kernel_log(&self) -> Result<String> {
        // `dmesg -c` prints and forgets: each message crosses the slow line once.
        let new = self.run(&["dmesg", "-c"])?;
        Ok(self.log.add(&new))
    }

    /// Forgets the kernel's messages of this scenario: the next one begins.
    pub fn forget_kernel_log(&self) {
        self.log.clear();
    }

    /// Nothing in the kernel's messages is a report of a defect.
    pub fn no_kernel_report(&self) -> Result<()> {
        self.kernel_log()?;
        self.log.no_report()
    }
}

/// Where the image keeps a driver.
pub fn module_path(driver: Driver) -> &'static str {
    match driver {
        Driver::Rust => "/drivers/rust/hv_netvsc.ko",
        Driver::C => "/drivers/c/hv_netvsc.ko",
    }
}

fn command(end: End, argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        netns: end.netns(),
        ..Command::default()
    }
}

fn succeed(argv: &[&str], outcome: Outcome) -> Result<String> {
    if outcome.success() {
        return Ok(outcome.stdout);
    }
    let how = match (outcome.code, outcome.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".into(),
    };
    bail!(
        "'{}' failed with {how}: {}{}",
        argv.join(" "),
        outcome.stderr.trim(),
        if outcome.stdout.is_empty() {
            String::new()
        } else {
            format!(" [{}]", outcome.stdout.trim())
        }
    )
}

/// Names by address, not by order of arrival: two NICs may be probed in either order.
const CONFIGURE: &str = r#"
by_mac() {
    for path in /sys/class/net/*; do
        [ "$(cat "$path/address")" = "$1" ] && { echo "${path##*/}"; return; }
    done
    echo "no interface has the address $1" >&2
    return 1
}
[ -e /run/netns/peer ] || ip netns add peer
if ! ip -n peer link show dev eth1 >/dev/null 2>&1; then
    peer=$(by_mac @PEER_MAC@)
    [ "$peer" = eth1 ] || ip link set "$peer" name spare0
    ip link set "$(by_mac @PEER_MAC@)" netns peer name eth1
fi
near=$(by_mac @NEAR_MAC@)
[ "$near" = eth0 ] || ip link set "$near" down name eth0
ip address replace 10.0.0.1/24 dev eth0
ip address replace fd00::1/64 dev eth0 nodad
ip link set eth0 up
ip -n peer address replace 10.0.0.2/24 dev eth1
ip -n peer address replace fd00::2/64 dev eth1 nodad
ip -n peer link set lo up
ip -n peer link set eth1 up
ip link set lo up
"#;

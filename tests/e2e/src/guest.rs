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
use crate::ethtool::{self, Channels, Rings, Rss};
use crate::host::Host;
use crate::kernel_log;
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
    pub const fn v4(self) -> &'static str {
        match self {
            End::Near => "10.0.0.1",
            End::Peer => "10.0.0.2",
        }
    }

    /// IPv6 address after [`Guest::configure`].
    pub const fn v6(self) -> &'static str {
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
}

impl Guest {
    /// A booted guest without a driver.
    pub fn new(agent: Agent, host: Host, machine: Machine, driver: Driver) -> Guest {
        Guest {
            agent,
            host,
            machine,
            driver: driver.into(),
        }
    }

    /// Runs a command at an end of the wire; any exit code is an answer, hanging is not.
    pub fn try_at(&self, end: End, argv: &[&str], limit: Duration) -> Result<Outcome> {
        let command = command(end, argv);
        let began = Instant::now();
        let outcome = self
            .agent
            .run(command, limit)
            .with_context(|| argv.join(" "))?;
        if std::env::var_os("E2E_TRACE").is_some() {
            eprintln!(
                "      {:6.2?} (in the guest {} ms, {} bytes) {}",
                began.elapsed(),
                outcome.elapsed_ms,
                outcome.stdout.len() + outcome.stderr.len(),
                argv.join(" ").chars().take(80).collect::<String>()
            );
        }
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

    /// Loads the driver anew: interfaces with default settings, whatever was done to the old ones.
    pub fn reload(&self) -> Result<()> {
        self.unload()?;
        self.load()?;
        self.configure(self.machine.most_channels())
    }

    /// Gives both ends names, addresses and carrier, and waits until `near` channels are open at the
    /// near end and all at the other.
    pub fn configure(&self, near: u32) -> Result<()> {
        let near = near.to_string();
        let peer = self.machine.most_channels().to_string();
        let argv = ["sh", CONFIGURE_PATH, &near, &peer];
        self.at(End::Near, &argv, SHORT * 2)
            .context("configuring the two NICs")
            .map(drop)
    }

    /// Puts the scripts that every scenario uses into the guest: its line is too slow to carry them
    /// each time.
    pub fn install_scripts(&self) -> Result<()> {
        let configure = CONFIGURE
            .replace("@NEAR_MAC@", End::Near.mac())
            .replace("@PEER_MAC@", End::Peer.mac());
        self.agent.write(CONFIGURE_PATH, configure.as_bytes())?;
        self.agent
            .write(CHECK_PATH, kernel_log::script().as_bytes())?;
        Ok(())
    }

    /// Forgets the kernel's messages so far; whether the driver is loaded.
    pub fn begin(&self) -> Result<bool> {
        let script = "cat /tmp/kernel-log >>/tmp/kernel-log-earlier; : >/tmp/kernel-log; [ ! -d /sys/module/hv_netvsc/drivers ] || echo y";
        Ok(self.shell(script, SHORT)?.trim() == "y")
    }

    /// Asks until the answer is yes, at most `limit`.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut yes: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        let limit = self.agent.patient(limit);
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

    /// What `ethtool --show-ring` says at an end.
    pub fn rings(&self, end: End) -> Result<Rings> {
        let argv = ["ethtool", "--show-ring", end.interface()];
        ethtool::rings(&self.at(end, &argv, SHORT)?)
    }

    /// What `ethtool --show-rxfh` says at an end.
    pub fn rss(&self, end: End) -> Result<Rss> {
        let argv = ["ethtool", "--show-rxfh", end.interface()];
        ethtool::rss(&self.at(end, &argv, SHORT)?)
    }

    /// What `ethtool -S` says at an end.
    pub fn statistics(&self, end: End) -> Result<Vec<(String, u64)>> {
        let argv = ["ethtool", "-S", end.interface()];
        ethtool::statistics(&self.at(end, &argv, SHORT)?)
    }

    /// One statistic of `ethtool -S` at an end.
    pub fn statistic(&self, end: End, name: &str) -> Result<u64> {
        let all = self.statistics(end)?;
        let found = all.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| *value)
            .with_context(|| format!("ethtool -S shows no {name}"))
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

    /// The kernel's messages of this scenario that match an extended regular expression.
    pub fn kernel_messages(&self, pattern: &str) -> Result<Vec<String>> {
        self.no_kernel_report()?;
        let text = self.shell(
            &format!("grep -E '{pattern}' /tmp/kernel-log || true"),
            SHORT,
        )?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Forgets the kernel's messages of this scenario: the next one begins.
    pub fn forget_kernel_log(&self) -> Result<()> {
        self.shell(": >/tmp/kernel-log", SHORT).map(drop)
    }

    /// The counters of both interfaces and of the protocols above them, those that are not zero; for a
    /// person, so what cannot be had is said in place.
    pub fn network_counters(&self) -> String {
        const SHOW: &str = "ethtool -S $0 | grep -v ': 0$'; ip -s -s link show dev $0; \
            awk '{ if (head[$1]) { n = split(head[$1], name); for (i = 2; i <= n; i++) if ($i != 0) \
            printf \"%s%s %s\\n\", $1, name[i], $i; head[$1] = \"\" } else head[$1] = $0 }' \
            /proc/net/snmp /proc/net/netstat";
        let mut text = String::new();
        for end in [End::Near, End::Peer] {
            let shown = self.try_at(end, &["sh", "-c", SHOW, end.interface()], SHORT);
            text.push_str(&match shown {
                Ok(outcome) => outcome.stdout + &outcome.stderr,
                Err(error) => format!("{}: {error:#}\n", end.interface()),
            });
        }
        text
    }

    /// Nothing in the kernel's new messages is a report of a defect.
    pub fn no_kernel_report(&self) -> Result<()> {
        kernel_log::check(&self.run(&["sh", CHECK_PATH])?)
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

const CONFIGURE_PATH: &str = "/tmp/configure";
const CHECK_PATH: &str = "/tmp/check";

/// Names by address, not by order of arrival: two NICs may be probed in either order. Few processes
/// are started, because each costs a tenth of a second where everything is emulated twice.
const CONFIGURE: &str = r#"set -e
wanted="$1 $2 1"
near= peer=
for path in /sys/class/net/*; do
    read -r mac <$path/address || continue
    case $mac in
    @NEAR_MAC@) near=${path##*/} ;;
    @PEER_MAC@) peer=${path##*/} ;;
    esac
done
# Emulated twice, a round trip takes so long that TCP would make its large packets small.
if ! [ -e /run/netns/peer ]; then
    ip netns add peer
    for netns in /proc/self/ns/net /run/netns/peer; do
        nsenter --net=$netns sh -c 'echo 32 >/proc/sys/net/ipv4/tcp_min_tso_segs'
    done
fi
if [ -n "$peer" ]; then
    # Its new name may be in use here by the other one.
    ip link set "$peer" netns peer name eth1
fi
if [ "${near:-eth0}" != eth0 ]; then
    ip link set "$near" down name eth0
fi
ip -batch - <<END
address replace 10.0.0.1/24 dev eth0
address replace fd00::1/64 dev eth0 nodad
link set eth0 up
END
ip -n peer -batch - <<END
address replace 10.0.0.2/24 dev eth1
address replace fd00::2/64 dev eth1 nodad
link set lo up
link set eth1 up
END
# Sub-channels open in the background.
current() {
    "$@" | { current=0; while read -r name value; do case $name in Combined:) current=$value ;; esac; done; echo "$current"; }
}
for try in $(seq 100); do
    near=$(current ethtool -l eth0)
    peer=$(current ip netns exec peer ethtool -l eth1)
    read -r carrier </sys/class/net/eth0/carrier || carrier=0
    [ "$near $peer $carrier" = "$wanted" ] && break
    sleep 0.1
done
[ "$near $peer $carrier" = "$wanted" ] || {
    echo "channels of eth0, of eth1, carrier: $near $peer $carrier, expected $wanted" >&2
    exit 1
}
for try in 1 2 3; do
    ping -c1 -W5 -q 10.0.0.2 >/dev/null && exit
done
echo "10.0.0.2 does not answer a ping" >&2
exit 1
"#;

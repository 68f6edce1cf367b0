// SPDX-License-Identifier: GPL-2.0

//! The guest's three interfaces, and who is at their other ends.
//!
//! | interface | guest | other end |
//! |---|---|---|
//! | `tcp0` | 10.9.0.2 | 10.9.0.1: TCP servers on the machine below |
//! | `gen0` | | the host's generator: UDP to 198.19.0.1 |
//! | `sink0` | route to 198.19.0.1 | the host's sink |
//!
//! What comes in at `gen0` is dropped by the guest's routing unless forwarding is on at `gen0`.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result};

use super::measure::{Measured, Quantity};
use super::{cells, Port};
use crate::agent::Job;
use crate::bench::{Below, Bench};
use crate::guest::{End, Guest, SHORT};

/// The TAP interface on the machine below.
pub const TAP: &str = "hvbench0";
/// The guest's address.
pub const GUEST: &str = "10.9.0.2";
/// The address of the machine below.
pub const BELOW: &str = "10.9.0.1";
/// Where connections are drained.
pub const DRAIN_PORT: u16 = 7001;
/// Where bytes are answered.
pub const ANSWER_PORT: u16 = 7002;
/// The agent's program in the guest.
pub const PROGRAM: &str = "/agent";
/// Local ports of connections are counted from here, below those that the kernel chooses itself.
const FIRST_PORT: u16 = 20_000;
const PORTS_OF_A_ROUND: u16 = 32;
/// After so many rounds ports are used again.
const ROUNDS: u32 = 256;
const CONFIGURE_PATH: &str = "/tmp/configure-benchmark";

/// The guest, with what is needed to have it loaded from below.
pub struct Network<'a> {
    /// The machine below.
    pub bench: &'a Bench,
    /// The guest.
    pub guest: &'a Guest,
    /// The host takes a profile of the guest during each sample, and keeps it until it is asked for.
    pub profile: Cell<bool>,
    /// The next local port for a connection.
    next_port: Cell<u16>,
    drain: Job,
    servers: Vec<Below>,
}

impl<'a> Network<'a> {
    /// Does what has to be done once for a boot.
    pub fn prepare(bench: &'a Bench, guest: &'a Guest) -> Result<Network<'a>> {
        let mut below = format!(
            "ip address add {BELOW}/24 dev {TAP} && ip link set {TAP} up && echo configured"
        );
        if bench.is_emulated() {
            below += "; echo 32 >/proc/sys/net/ipv4/tcp_min_tso_segs";
        }
        let said = bench.run_below(&below, SHORT)?;
        anyhow::ensure!(
            said.contains("configured"),
            "cannot configure {TAP} on the machine below: {}",
            said.trim()
        );
        let mut servers = Vec::new();
        for (server, port) in [("tcp-drain", DRAIN_PORT), ("tcp-answer", ANSWER_PORT)] {
            let listen = format!("{BELOW}:{port}");
            servers.push(bench.start_below(&[server, "--listen", &listen])?);
        }
        guest.agent.write(CONFIGURE_PATH, script().as_bytes())?;
        guest.shell(PREPARE, SHORT)?;
        let listen = format!("0.0.0.0:{DRAIN_PORT}");
        let drain = guest.spawn_at(End::Near, &[PROGRAM, "tcp-drain", "--listen", &listen])?;
        Ok(Network {
            bench,
            guest,
            profile: Cell::new(false),
            next_port: Cell::new(FIRST_PORT),
            drain,
            servers,
        })
    }

    /// Ends what [`Network::prepare`] started.
    pub fn end(&self) -> Result<()> {
        self.guest.agent.kill(self.drain, 9)?;
        for server in &self.servers {
            self.bench.end_below(server)?;
        }
        Ok(())
    }

    /// Loads the driver and brings the interfaces up; what that took of the guest's memory, for one NIC.
    pub fn load(&self) -> Result<Measured> {
        let before = self.available_kib()?;
        self.guest.load()?;
        let channels = self.guest.machine.most_channels().to_string();
        let argv = ["sh", CONFIGURE_PATH, &channels];
        self.guest.at(End::Near, &argv, SHORT * 2)?;
        let taken = before - self.available_kib()?;
        Ok(Measured::cost(
            cells::MEMORY,
            Quantity::Kibibytes,
            taken / Port::ALL.len() as f64,
        ))
    }

    /// Begins a turn in a round: the drivers of a round use the same ports, those of another round others.
    pub fn begin(&self, round: u32) {
        let round = u16::try_from(round % ROUNDS).unwrap_or(0);
        self.next_port.set(FIRST_PORT + round * PORTS_OF_A_ROUND);
    }

    /// The first of `count` local ports that no other connection of this turn uses.
    pub fn ports(&self, count: u16) -> u16 {
        let first = self.next_port.get();
        self.next_port.set(first.wrapping_add(count));
        first
    }

    /// Removes the driver.
    pub fn unload(&self) -> Result<()> {
        self.guest.unload()
    }

    fn available_kib(&self) -> Result<f64> {
        let script = "sync; echo 3 >/proc/sys/vm/drop_caches; grep MemAvailable: /proc/meminfo";
        let text = self.guest.shell(script, SHORT)?;
        text.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .with_context(|| format!("no MemAvailable in '{}'", text.trim()))
    }

    /// Whether the guest forwards what the generator sends to the sink.
    pub fn forward(&self, on: bool) -> Result<()> {
        let path = "/proc/sys/net/ipv4/conf/gen0/forwarding";
        self.guest
            .agent
            .write(path, if on { b"1" } else { b"0" })
            .with_context(|| format!("writing {path}"))
    }

    /// A command in the guest's own namespace.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.guest.at(End::Near, argv, SHORT * 2)
    }

    /// Ends a program in the guest.
    pub fn kill(&self, job: Job) -> Result<()> {
        self.guest.agent.kill(job, 9)?;
        self.guest.ended(job, Duration::from_secs(10)).map(drop)
    }
}

const PREPARE: &str = "modprobe pktgen
echo 32 >/proc/sys/net/ipv4/tcp_min_tso_segs
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";

fn script() -> String {
    CONFIGURE
        .replace("@TCP@", Port::Tcp.mac())
        .replace("@GEN@", Port::Generator.mac())
        .replace("@SINK@", Port::Sink.mac())
        .replace("@GUEST@", GUEST)
}

/// Names by address; then waits for carrier and all queues. Starting a program costs a tenth of a second
/// where everything is emulated twice, so few are.
const CONFIGURE: &str = r#"set -e
wanted=$1
tries=0
tcp= gen= sink=
while :; do
    for path in /sys/class/net/*; do
        read -r mac <$path/address || continue
        case $mac in
        @TCP@) tcp=${path##*/} ;;
        @GEN@) gen=${path##*/} ;;
        @SINK@) sink=${path##*/} ;;
        esac
    done
    [ -z "$tcp" ] || [ -z "$gen" ] || [ -z "$sink" ] || break
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { echo "not all of the three NICs are there: $tcp $gen $sink" >&2; exit 1; }
    sleep 0.1
done
rename() { [ "$1" = "$2" ] || echo "link set $1 name $2"; }
ip -batch - <<END
$(rename $tcp tcp0)
$(rename $gen gen0)
$(rename $sink sink0)
address replace @GUEST@/24 dev tcp0
address replace 198.19.255.1/16 dev sink0
neighbour replace 198.19.0.1 lladdr 02:00:00:00:00:02 nud permanent dev sink0
link set tcp0 up
link set gen0 up
link set sink0 up
END
count() { echo $#; }
tries=0
for name in tcp0 gen0 sink0; do
    while :; do
        queues="$(count /sys/class/net/$name/queues/rx-*) $(count /sys/class/net/$name/queues/tx-*)"
        read -r carrier </sys/class/net/$name/carrier || carrier=0
        [ "$queues $carrier" = "$wanted $wanted 1" ] && break
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "queues and carrier of $name: $queues $carrier, expected $wanted $wanted 1" >&2; exit 1; }
        sleep 0.1
    done
done
"#;

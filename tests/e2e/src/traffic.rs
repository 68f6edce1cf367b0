// SPDX-License-Identifier: GPL-2.0

//! Verified traffic between the two ends of the wire.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use guest_agent::protocol::Outcome;
use guest_agent::{sweep, tcp};

use crate::agent::Job;
use crate::guest::{End, Guest, SHORT};

/// The agent's program in the guest.
const PROGRAM: &str = "/agent";
const TCP_PORT: u16 = 5001;
const UDP_PORT: u16 = 5002;
const SIGTERM: i32 = 15;

/// A line of shell that waits until a socket listens on `port`, TCP or UDP, where `within` (a command's
/// beginning, such as `ip netns exec peer `) leads; fails after half a minute.
pub fn until_listening(within: &str, port: u16) -> String {
    format!(
        "for i in $(seq 300); do {within}netstat -lntu | grep -q ':{port} ' && break; sleep 0.1; done; \
         {within}netstat -lntu | grep -q ':{port} '"
    )
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The address of an end.
    pub fn address(self, end: End) -> &'static str {
        match self {
            Family::V4 => end.v4(),
            Family::V6 => end.v6(),
        }
    }

    fn socket(self, end: End, port: u16) -> String {
        match self {
            Family::V4 => format!("{}:{port}", end.v4()),
            Family::V6 => format!("[{}]:{port}", end.v6()),
        }
    }

    /// Longest payload of a UDP or ICMP echo packet at an MTU, unfragmented.
    pub fn longest_payload(self, mtu: u32) -> u32 {
        match self {
            Family::V4 => mtu - 20 - 8,
            Family::V6 => mtu - 40 - 8,
        }
    }
}

/// A verified bulk transfer.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Sending end; the other one receives.
    pub from: End,
    /// Address family.
    pub family: Family,
    /// Parallel connections.
    pub connections: u32,
    /// Bytes in all, divided among the connections.
    pub bytes: u64,
}

impl Guest {
    /// Transfers 1 MiB of TCP over two connections from each end to the other, and verifies.
    pub fn bulk_each_way(&self) -> Result<()> {
        for from in [End::Near, End::Peer] {
            self.bulk(Bulk {
                from,
                family: Family::V4,
                connections: 2,
                bytes: 1 << 20,
            })?;
        }
        Ok(())
    }

    /// Transfers and verifies; how many Mbit/s it made.
    pub fn bulk(&self, bulk: Bulk) -> Result<f64> {
        // Half a Mbit/s: emulated machines under load have been seen at 1.
        let limit = SHORT + Duration::from_millis(bulk.bytes * 8 / 500);
        let connections = bulk.connections.to_string();
        let bytes = (bulk.bytes / u64::from(bulk.connections)).to_string();
        let to = bulk.family.socket(bulk.from.other(), TCP_PORT);
        let receiver = self.spawn_at(
            bulk.from.other(),
            &[
                PROGRAM,
                "tcp-receive",
                "--listen",
                &to,
                "--connections",
                &connections,
                "--patience",
                "120",
            ],
        )?;
        let sent = self.try_at(
            bulk.from,
            &[
                PROGRAM,
                "tcp-send",
                "--to",
                &to,
                "--connections",
                &connections,
                "--bytes",
                &bytes,
            ],
            limit,
        );
        let received = self.ended(receiver, Duration::from_secs(10))?;
        let sent = parse_tcp("sender", &sent?)?;
        let received = parse_tcp("receiver", &received)?;
        compare(&sent, &received)?;
        let all: u64 = received.streams.iter().map(|s| s.bytes).sum();
        ensure!(
            all == bulk.bytes / u64::from(bulk.connections) * u64::from(bulk.connections),
            "{all} bytes arrived of {}",
            bulk.bytes
        );
        Ok(all as f64 * 8.0 / 1000.0 / received.elapsed_ms.max(1) as f64)
    }

    /// Has all payload `lengths` (such as `0-1472`) echoed over ICMP by the other end.
    pub fn icmp_sweep(&self, from: End, family: Family, lengths: &str) -> Result<()> {
        let to = family.address(from.other());
        let argv = [PROGRAM, "icmp-sweep", "--to", to, "--lengths", lengths];
        let outcome = self.try_at(from, &argv, SHORT * 5)?;
        check_sweep(&argv, &outcome)
    }

    /// Has payloads echoed over UDP by the other end: all `lengths`, each in one piece or, with
    /// `splits`, once for each division into linear part and fragment.
    pub fn udp_sweep(
        &self,
        from: End,
        family: Family,
        lengths: &str,
        splits: Option<&str>,
    ) -> Result<()> {
        let to = family.socket(from.other(), UDP_PORT);
        let echo = self.spawn_at(from.other(), &[PROGRAM, "udp-echo", "--listen", &to])?;
        let mut argv = vec![PROGRAM, "udp-sweep", "--to", &to, "--lengths", lengths];
        if let Some(splits) = splits {
            argv.extend(["--splits", splits]);
        }
        let outcome = self.try_at(from, &argv, SHORT * 5);
        self.agent.kill(echo, SIGTERM)?;
        self.ended(echo, Duration::from_secs(10))?;
        check_sweep(&argv, &outcome?)
    }

    /// Starts a verified transfer that goes on until [`Background::finish`].
    pub fn background(&self, from: End, connections: u32) -> Result<Background<'_>> {
        // Rests leave the processors time for what is being tested.
        self.background_with(from, connections, "20")
    }

    /// The same with long rests, for scenarios that look at very much meanwhile.
    pub fn trickle(&self, from: End, connections: u32) -> Result<Background<'_>> {
        self.background_with(from, connections, "300")
    }

    /// Rests so many milliseconds after each write.
    fn background_with(
        &self,
        from: End,
        connections: u32,
        pause_ms: &str,
    ) -> Result<Background<'_>> {
        let to = Family::V4.socket(from.other(), TCP_PORT + 10);
        let stop = format!("/tmp/stop-{from:?}");
        let connections = connections.to_string();
        self.run(&["rm", "-f", &stop])?;
        let receiver = self.spawn_at(
            from.other(),
            &[
                PROGRAM,
                "tcp-receive",
                "--listen",
                &to,
                "--connections",
                &connections,
                "--patience",
                "120",
            ],
        )?;
        let sender = self.spawn_at(
            from,
            &[
                PROGRAM,
                "tcp-send",
                "--to",
                &to,
                "--connections",
                &connections,
                "--until",
                &stop,
                "--pause-ms",
                pause_ms,
                "--patience",
                "120",
            ],
        )?;
        Ok(Background {
            guest: self,
            stop,
            receiver,
            sender,
        })
    }

    /// The outcome of a background program that must end within `limit`; killed if it does not.
    pub fn ended(&self, job: Job, limit: Duration) -> Result<Outcome> {
        if let Some(outcome) = self.agent.poll(job, limit)? {
            return Ok(outcome);
        }
        self.agent.kill(job, 9)?;
        let said = self
            .agent
            .poll(job, Duration::from_secs(5))?
            .map(|o| o.stderr)
            .unwrap_or_default();
        bail!("a background program did not end within {limit:?} ({said})")
    }
}

/// A transfer in the background.
pub struct Background<'a> {
    guest: &'a Guest,
    stop: String,
    receiver: Job,
    sender: Job,
}

impl Background<'_> {
    /// Neither side has given up.
    pub fn still_runs(&self) -> Result<()> {
        for (who, job) in [("sender", self.sender), ("receiver", self.receiver)] {
            if let Some(outcome) = self.guest.agent.poll(job, Duration::ZERO)? {
                bail!("the {who} of the background transfer ended early: {outcome:?}");
            }
        }
        Ok(())
    }

    /// Ends the transfer and verifies it; how many bytes it carried.
    pub fn finish(self) -> Result<u64> {
        self.guest.run(&["touch", &self.stop])?;
        let sent = self.guest.ended(self.sender, SHORT * 2)?;
        let received = self.guest.ended(self.receiver, SHORT)?;
        let sent = parse_tcp("sender", &sent)?;
        let received = parse_tcp("receiver", &received)?;
        compare(&sent, &received)?;
        let bytes = received.streams.iter().map(|s| s.bytes).sum();
        ensure!(bytes > 0, "the background transfer carried nothing");
        Ok(bytes)
    }
}

fn parse_tcp(who: &str, outcome: &Outcome) -> Result<tcp::Report> {
    serde_json::from_str(&outcome.stdout).with_context(|| {
        format!(
            "the {who} failed (code {:?}): {}",
            outcome.code,
            outcome.stderr.trim()
        )
    })
}

fn compare(sent: &tcp::Report, received: &tcp::Report) -> Result<()> {
    for (sent, received) in sent.streams.iter().zip(&received.streams) {
        ensure!(
            sent.intact && received.intact && sent == received,
            "data was damaged: sent {sent:?}, received {received:?}"
        );
    }
    ensure!(
        sent.streams.len() == received.streams.len(),
        "{} connections sent and {} received",
        sent.streams.len(),
        received.streams.len()
    );
    Ok(())
}

fn check_sweep(argv: &[&str], outcome: &Outcome) -> Result<()> {
    let what = argv[1..].join(" ");
    let report: sweep::Report = serde_json::from_str(&outcome.stdout)
        .with_context(|| format!("{what}: {}", outcome.stderr.trim()))?;
    ensure!(
        report.corrupt.is_empty(),
        "{what}: payloads damaged at lengths {:?}",
        report.corrupt
    );
    ensure!(
        report.lost.is_empty(),
        "{what}: never answered at lengths {:?}",
        report.lost
    );
    // A guest that was not scheduled for a while answers late; what never came at all was lost.
    ensure!(
        report.late == report.repeated.len(),
        "{what}: {} lost at first, among those of lengths {:?}",
        report.repeated.len() - report.late.min(report.repeated.len()),
        report.repeated
    );
    ensure!(
        report.answered == report.probes,
        "{what}: {} of {} answered",
        report.answered,
        report.probes
    );
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! The cells of the table: what each makes the guest do, and what is counted as a unit of work.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use guest_agent::load::RoundTrips;
use guest_agent::rebind::Rebinding;

use super::measure::{Measured, Quantity};
use super::moment::{Moment, NicCounts, Span};
use super::network::{Network, ANSWER_PORT, BELOW, DRAIN_PORT, GUEST, PROGRAM};
use super::reconfiguration;
use super::statistics::median;
use super::steal::StealWatch;
use super::Port;
use crate::guest::{End, SHORT};

/// Measures a cell (its name) for about this long.
type Measure = fn(&Network<'_>, &'static str, Duration) -> Result<Vec<Measured>>;

/// A cell, or some that are measured together.
pub struct Cell {
    /// Name of the first of them.
    pub name: &'static str,
    /// How it is done.
    pub measure: Measure,
}

const fn cell(name: &'static str, measure: Measure) -> Cell {
    Cell { name, measure }
}

/// The cell that is measured at loading.
pub const MEMORY: &str = "memory-per-nic";
const ROUND_TRIP_P50: &str = "tcp-round-trip-p50";
const ROUND_TRIP_P99: &str = "tcp-round-trip-p99";

/// In the order they are measured in.
pub const ALL: [Cell; 17] = [
    cell("tcp-1-from-guest", |n, c, w| tcp_from_guest(n, c, w, 1)),
    cell("tcp-8-from-guest", |n, c, w| tcp_from_guest(n, c, w, 8)),
    cell("tcp-1-to-guest", |n, c, w| tcp_to_guest(n, c, w, 1)),
    cell("tcp-8-to-guest", |n, c, w| tcp_to_guest(n, c, w, 8)),
    cell("udp-64-from-guest", |n, c, w| {
        udp_from_guest(n, c, w, FRAME_64)
    }),
    cell("udp-1472-from-guest", |n, c, w| {
        udp_from_guest(n, c, w, FRAME_1472)
    }),
    cell("udp-64-to-guest", |n, c, w| udp_to_guest(n, c, w, FRAME_64)),
    cell("udp-1472-to-guest", |n, c, w| {
        udp_to_guest(n, c, w, FRAME_1472)
    }),
    cell("forward-64", |n, c, w| forward(n, c, w, FRAME_64)),
    cell("forward-1472", |n, c, w| forward(n, c, w, FRAME_1472)),
    cell("xdp-drop-64", |n, c, w| {
        in_program(n, c, w, "drop", |nic| nic.to_guest_packets)
    }),
    cell("xdp-tx-64", |n, c, w| {
        in_program(n, c, w, "tx", |nic| nic.from_guest_packets)
    }),
    cell("tcp-round-trip", round_trips),
    cell("channel-change", |n, _, _| {
        reconfiguration::CHANNELS.measure(n)
    }),
    cell("ring-change", |n, _, _| reconfiguration::RINGS.measure(n)),
    cell("mtu-change", |n, _, _| reconfiguration::MTU.measure(n)),
    cell("attach", attach),
];

/// 64 bytes on the wire, without FCS.
pub const FRAME_64: u16 = 60;
/// 1472 bytes of UDP payload, and the headers.
const FRAME_1472: u16 = 1514;
/// What TCP carries is counted in full-sized frames, since drivers and host may send large ones.
const FULL_FRAME: f64 = 1514.0;
/// Flows of UDP.
pub const FLOWS: u16 = 8;
/// Load runs this long before it is measured.
const SETTLE: Duration = Duration::from_millis(400);
/// CPU time between two samples of a profile.
const PROFILE_PERIOD_US: u32 = 1000;
/// Load must have begun by then.
const BEGIN: Duration = Duration::from_secs(10);
/// How often a NIC is detached and attached for one measurement.
const ATTACHES: usize = 3;

/// Begins a profile: of instructions where they are counted, else of time.
pub fn start_profile(network: &Network<'_>) -> Result<()> {
    match network.bench.instructions() {
        Some(counter) => counter.begin_profile(),
        None => network.guest.host.start_profile(PROFILE_PERIOD_US),
    }
}

/// Samples what goes on now, for `window`; takes the guest's profile meanwhile, if that is wanted.
fn sample(network: &Network<'_>, window: Duration) -> Result<Span> {
    if network.profile.get() {
        start_profile(network)?;
    }
    let watch = StealWatch::start(network.bench)?;
    let before = Moment::now(network)?;
    std::thread::sleep(window);
    let after = Moment::now(network)?;
    Ok(after.since(&before)?.without(watch.steal()?))
}

/// Waits until a NIC carries frames, and then until the load has settled.
pub fn settle(network: &Network<'_>, port: Port, carried: fn(&NicCounts) -> u64) -> Result<()> {
    let first = Moment::now(network)?;
    let began = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = Moment::now(network)?;
        if carried(now.since(&first)?.nic(port)) > 0 {
            std::thread::sleep(SETTLE);
            return Ok(());
        }
        ensure!(
            began.elapsed() < network.guest.agent.patient(BEGIN),
            "{} carries nothing within {BEGIN:?}",
            port.name()
        );
    }
}

/// Longest that a program may load: it is ended as soon as the window is over.
fn load_limit(window: Duration) -> String {
    (window * 2 + Duration::from_secs(60))
        .as_millis()
        .to_string()
}

/// The agent's arguments for a flood. Both drivers of a round get the same ports, and so the same channels.
fn flood(network: &Network<'_>, to: &str, connections: u16, window: Duration) -> Vec<String> {
    let port = network.ports(connections);
    format!(
        "tcp-flood --to {to}:{DRAIN_PORT} --connections {connections} --port {port} --ms {}",
        load_limit(window)
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

fn tcp_from_guest(
    network: &Network<'_>,
    cell: &'static str,
    window: Duration,
    connections: u16,
) -> Result<Vec<Measured>> {
    let arguments = flood(network, BELOW, connections, window);
    let argv: Vec<&str> = std::iter::once(PROGRAM)
        .chain(arguments.iter().map(String::as_str))
        .collect();
    let job = network.guest.spawn_at(End::Near, &argv)?;
    settle(network, Port::Tcp, |nic| nic.from_guest_packets)?;
    let span = sample(network, window)?;
    network.kill(job)?;
    let frames = span.nic(Port::Tcp).from_guest_bytes as f64 / FULL_FRAME;
    Ok(vec![Measured::work(cell, frames, &span)?])
}

fn tcp_to_guest(
    network: &Network<'_>,
    cell: &'static str,
    window: Duration,
    connections: u16,
) -> Result<Vec<Measured>> {
    let arguments = flood(network, GUEST, connections, window);
    let argv: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let below = network.bench.start_below(&argv)?;
    settle(network, Port::Tcp, |nic| nic.to_guest_packets)?;
    let span = sample(network, window)?;
    network.bench.end_below(&below)?;
    let frames = span.nic(Port::Tcp).to_guest_bytes as f64 / FULL_FRAME;
    Ok(vec![Measured::work(cell, frames, &span)?])
}

/// The kernel's packet generator, on one processor, into one queue.
fn udp_from_guest(
    network: &Network<'_>,
    cell: &'static str,
    window: Duration,
    frame: u16,
) -> Result<Vec<Measured>> {
    let script = PKTGEN.replace("@FRAME@", &frame.to_string());
    let job = network.guest.spawn_at(End::Near, &["sh", "-ec", &script])?;
    settle(network, Port::Sink, |nic| nic.from_guest_packets)?;
    let span = sample(network, window)?;
    network.run(&["sh", "-c", "echo stop >/proc/net/pktgen/pgctrl"])?;
    let outcome = network.guest.ended(job, SHORT)?;
    ensure!(outcome.success(), "pktgen: {}", outcome.stderr.trim());
    let frames = span.nic(Port::Sink).from_guest_packets as f64;
    Ok(vec![Measured::work(cell, frames, &span)?])
}

/// A device is given up in the background, so it is kept until its driver goes.
const PKTGEN: &str = "cd /proc/net/pktgen
[ -e sink0 ] || echo add_device sink0 >kpktgend_0
for line in 'count 0' 'delay 0' 'clone_skb 0' 'pkt_size @FRAME@' 'dst 198.19.0.1' 'dst_mac 02:00:00:00:00:02'; do
    echo $line >sink0
done
echo start >pgctrl";

/// The host's generator, as fast as the guest takes it; the guest's routing drops the frames.
fn udp_to_guest(
    network: &Network<'_>,
    cell: &'static str,
    window: Duration,
    frame: u16,
) -> Result<Vec<Measured>> {
    let span = generated(network, window, frame, |nic| nic.to_guest_packets)?;
    let frames = span.nic(Port::Generator).to_guest_packets as f64;
    Ok(vec![Measured::work(cell, frames, &span)?])
}

/// From the generator through the guest to the sink; what arrives there counts.
fn forward(
    network: &Network<'_>,
    cell: &'static str,
    window: Duration,
    frame: u16,
) -> Result<Vec<Measured>> {
    network.forward(true)?;
    let span = generated(network, window, frame, |nic| nic.to_guest_packets)?;
    network.forward(false)?;
    let frames = span.nic(Port::Sink).from_guest_packets as f64;
    Ok(vec![Measured::work(cell, frames, &span)?])
}

/// From the generator to a program in the driver; the frames that `carried` counts are its work. LRO does not go with
/// programs in the C driver, so it is off for both.
fn in_program(
    network: &Network<'_>,
    cell: &'static str,
    window: Duration,
    action: &str,
    carried: fn(&NicCounts) -> u64,
) -> Result<Vec<Measured>> {
    let nic = Port::Generator.name();
    network.run(&["ethtool", "--features", nic, "lro", "off"])?;
    network.run(&[PROGRAM, "xdp-attach", "--device", nic, "--action", action])?;
    let span = generated(network, window, FRAME_64, carried)?;
    network.run(&[PROGRAM, "xdp-detach", "--device", nic])?;
    network.run(&["ethtool", "--features", nic, "lro", "on"])?;
    let frames = carried(span.nic(Port::Generator)) as f64;
    Ok(vec![Measured::work(cell, frames, &span)?])
}

fn generated(
    network: &Network<'_>,
    window: Duration,
    frame: u16,
    carried: fn(&NicCounts) -> u64,
) -> Result<Span> {
    let host = &network.guest.host;
    let nic = Port::Generator.name();
    host.generate(nic, frame, FLOWS, 0)?;
    settle(network, Port::Generator, carried)?;
    let span = sample(network, window)?;
    host.stop_generating(nic)?;
    Ok(span)
}

/// One connection, one byte each way at a time: the work of a round trip, and how long it takes. The start of
/// the program is in the work, alike for both drivers.
fn round_trips(
    network: &Network<'_>,
    cell: &'static str,
    window: Duration,
) -> Result<Vec<Measured>> {
    let to = format!("{BELOW}:{ANSWER_PORT}");
    let time = (window + SETTLE).as_millis().to_string();
    let port = network.ports(1).to_string();
    let argv = [
        PROGRAM,
        "tcp-round-trips",
        "--to",
        &to,
        "--port",
        &port,
        "--ms",
        &time,
    ];
    let watch = StealWatch::start(network.bench)?;
    let before = Moment::now(network)?;
    let text = network.run(&argv)?;
    let after = Moment::now(network)?;
    let steal = watch.steal()?;
    let trips: RoundTrips =
        serde_json::from_str(&text).with_context(|| format!("{cell} printed '{text}'"))?;
    let span = after.since(&before)?.without(steal);
    let time =
        |name, us: u64| Measured::cost(name, Quantity::Microseconds, us as f64 * steal.clock);
    Ok(vec![
        Measured::work(cell, trips.count as f64, &span)?,
        time(ROUND_TRIP_P50, trips.p50_us),
        time(ROUND_TRIP_P99, trips.p99_us),
    ])
}

/// From the binding of the driver to all queues in use, on an interface that is down: the median of some.
fn attach(network: &Network<'_>, cell: &'static str, _window: Duration) -> Result<Vec<Measured>> {
    let path = format!("/sys/class/net/{}/device", Port::Sink.name());
    let device = network.run(&["readlink", &path])?;
    let device = device.trim().rsplit('/').next().unwrap_or_default();
    let queues = network.guest.machine.most_channels().to_string();
    let argv = [PROGRAM, "rebind", "--device", device, "--queues", &queues];
    let mut times = Vec::new();
    for _ in 0..ATTACHES {
        let watch = StealWatch::start(network.bench)?;
        let text = network.run(&argv)?;
        let steal = watch.steal()?;
        let took: Rebinding =
            serde_json::from_str(&text).with_context(|| format!("{cell} printed '{text}'"))?;
        times.push(took.complete_us as f64 * steal.clock);
    }
    let time = median(&times).context("nothing was attached")?;
    Ok(vec![Measured::cost(cell, Quantity::Microseconds, time)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_different_names() {
        let mut names: Vec<&str> = ALL.iter().map(|c| c.name).collect();
        names.push(MEMORY);
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The administrator's session, for real: a stock kernel, our driver, a multi-queue NIC.
//!
//! Every command is one that anybody would type; its output is printed as it came. A step that ends
//! differently from what is expected ends the demonstration with an error.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::Bench;
use crate::ethtool::Channels;
use crate::guest::{module_path, End, Guest, SHORT};
use crate::runner::Options;
use crate::scenario::{Driver, Machine};

/// Runs the demonstration.
pub fn run(options: &Options, driver: Driver) -> Result<()> {
    let began = Instant::now();
    heading("a Hyper-V guest boots");
    let bench = Bench::new(
        &options.artifacts,
        options.acceleration,
        &options.folder.join("demo"),
    )?;
    let session = bench.boot(Machine::COMMON, options.kernel, driver)?;
    println!("booted in {:.1?}", began.elapsed());
    let proved = steps(&session.guest);
    if proved.is_err() {
        eprint!("{}", session.diagnosis());
    }
    println!("\n{} [{:.0} s]", proved?, began.elapsed().as_secs_f64());
    Ok(())
}

fn steps(guest: &Guest) -> Result<String> {
    let most = guest.machine.most_channels();
    show(guest, &["uname", "-srv"])?;
    show(guest, &["ls", "/sys/bus/vmbus/devices"])?;

    heading("the driver attaches");
    show(guest, &["insmod", module_path(guest.driver.get())])?;
    guest.configure(most)?;
    let info = show(guest, &["ethtool", "-i", "eth0"])?;
    ensure!(info.contains("driver: hv_netvsc"), "not our name");
    show(guest, &["ip", "-brief", "link", "show", "eth0"])?;
    shows(guest, most, most)?;

    heading("traffic starts");
    show(guest, &["ping", "-c", "3", End::Peer.v4()])?;
    show(guest, &["ping", "-c", "3", End::Peer.v6()])?;
    let traffic = guest.background(End::Near, 4)?;
    println!("(a verified TCP transfer goes on in the background from here)");

    heading("the number of channels changes under traffic");
    set(guest, 1)?;
    shows(guest, most, 1)?;
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    set(guest, 1)?;
    let again = guest.host.counters()?.attaches(End::Near)?;
    ensure!(
        again == attaches,
        "setting the same count re-attached the device"
    );
    println!("(host: {again} attaches before and after: nothing was rebuilt)");
    for count in ["0", "99"] {
        let argv = ["ethtool", "--set-channels", "eth0", "combined", count];
        refused(guest, &argv, "Invalid argument")?;
    }
    shows(guest, most, 1)?;
    set(guest, most)?;
    shows(guest, most, most)?;
    traffic.still_runs()?;
    let bytes = traffic.finish()?;
    println!(
        "(the background transfer carried {} MiB through all this, every byte as sent)",
        bytes >> 20
    );

    heading("throughput, and where it went");
    let mut rates = Vec::new();
    for reverse in [false, true] {
        let rate = crate::scenarios::iperf3_mbit(guest, reverse, 4)?;
        ensure!(rate > 0.0, "iperf3 carried nothing");
        rates.push(rate);
        let way = if reverse { "to" } else { "from" };
        println!(
            "$ iperf3 {}--client {}\n{rate:.0} Mbit/s {way} the guest",
            if reverse { "--reverse " } else { "" },
            End::Peer.v4()
        );
    }
    show(
        guest,
        &[
            "sh",
            "-c",
            "ethtool -S eth0 | grep -E 'queue_[0-9]+_packets'",
        ],
    )?;
    host_view(guest, most)?;

    heading("the driver leaves");
    show(guest, &["rmmod", "hv_netvsc"])?;
    let counters = guest.host.counters()?;
    ensure!(
        counters.all_open_channels() == 0 && counters.live_gpadls() == 0,
        "the host has {} channels open and {} GPADLs live",
        counters.all_open_channels(),
        counters.live_gpadls()
    );
    println!("(host: no channel open, no GPADL live)");
    guest.no_kernel_report()?;
    let violations = counters.violations();
    ensure!(violations.is_empty(), "protocol violations: {violations:?}");
    Ok(format!(
        "proved: on a stock kernel, the {} driver changes its channels 1..{most} under traffic, refuses 0 and 99, \
         loses no byte, leaves nothing behind",
        guest.driver.get()
    ))
}

/// What the host counted, channel by channel.
fn host_view(guest: &Guest, channels: u32) -> Result<()> {
    let counters = guest.host.counters()?;
    println!("(host: packets per channel of eth0, since it was opened)");
    for channel in 0..channels {
        let packets = counters.channel(End::Near, channel)?;
        println!(
            "  channel {channel}: {} from the guest, {} to the guest",
            packets.to_host, packets.to_guest
        );
    }
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// Runs a command that must succeed, and shows it with its output.
fn show(guest: &Guest, argv: &[&str]) -> Result<String> {
    println!("$ {}", typed(argv));
    let text = guest.at(End::Near, argv, Duration::from_secs(90))?;
    print!("{text}");
    Ok(text)
}

/// Runs a command that must fail with `message`, and shows it with its output.
fn refused(guest: &Guest, argv: &[&str], message: &str) -> Result<()> {
    println!("$ {}", typed(argv));
    let outcome = guest.try_at(End::Near, argv, SHORT)?;
    print!("{}{}", outcome.stdout, outcome.stderr);
    println!("[exit code {}]", outcome.code.context("no exit code")?);
    ensure!(
        !outcome.success() && outcome.stderr.contains(message),
        "'{}' is not refused with '{message}'",
        typed(argv)
    );
    Ok(())
}

fn set(guest: &Guest, count: u32) -> Result<()> {
    let count = count.to_string();
    show(
        guest,
        &["ethtool", "--set-channels", "eth0", "combined", &count],
    )?;
    println!("[exit code 0]");
    Ok(())
}

fn shows(guest: &Guest, maximum: u32, current: u32) -> Result<()> {
    let text = show(guest, &["ethtool", "--show-channels", "eth0"])?;
    let expected = Channels { maximum, current };
    let found = crate::ethtool::channels(&text)?;
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    Ok(())
}

/// A command as one would type it.
fn typed(argv: &[&str]) -> String {
    match argv {
        ["sh", "-c", script] => (*script).to_owned(),
        _ => argv.join(" "),
    }
}

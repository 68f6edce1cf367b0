// SPDX-License-Identifier: GPL-2.0

//! The program inside the test machines: the agent, and the traffic it is told to make.
//! Traffic subcommands print one line of JSON and exit with 0 if every byte was right.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use guest_agent::icmp::IcmpEcho;
use guest_agent::sweep::{parse_lengths, sweep, Probe, Report, Settings};
use guest_agent::symbols::{self, Symbols};
use guest_agent::udp::UdpEcho;
use guest_agent::{device, load, rebind, server, tcp, udp, xdp};

#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Serve the runner over this virtio-serial port or serial line.
    #[arg(long, required = true)]
    device: Option<PathBuf>,
    #[command(subcommand)]
    traffic: Option<Traffic>,
}

#[derive(Subcommand)]
enum Traffic {
    /// Receive checked TCP connections and compare what arrives.
    TcpReceive {
        /// Address and port to listen at.
        #[arg(long)]
        listen: SocketAddr,
        /// Connections to receive.
        #[arg(long, default_value_t = 1)]
        connections: u32,
        #[command(flatten)]
        patience: Patience,
    },
    /// Send checked TCP connections to a tcp-receive.
    TcpSend {
        /// Address and port of the receiver.
        #[arg(long)]
        to: SocketAddr,
        /// Local address.
        #[arg(long)]
        from: Option<IpAddr>,
        /// Connections, in parallel.
        #[arg(long, default_value_t = 1)]
        connections: u32,
        /// Bytes on each connection.
        #[arg(long, required_unless_present = "until")]
        bytes: Option<u64>,
        /// Send until this file exists.
        #[arg(long, conflicts_with = "bytes")]
        until: Option<PathBuf>,
        /// Rest between two chunks of 64 KiB on a connection, in milliseconds.
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
        /// Seed of the data of the first connection; the others count up.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        patience: Patience,
    },
    /// Echo UDP datagrams until killed.
    UdpEcho {
        /// Address and port to listen at.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Have every payload length echoed over UDP and compare.
    UdpSweep {
        /// Address and port of the udp-echo.
        #[arg(long)]
        to: SocketAddr,
        /// Local port; any if 0.
        #[arg(long, default_value_t = 0)]
        port: u16,
        #[command(flatten)]
        sweep: Sweep,
        /// Divide each payload after every number of bytes in this range into linear part and
        /// fragment, instead of sending it in one piece.
        #[arg(long, value_parser = parse_ranges)]
        splits: Option<Ranges>,
    },
    /// Have every payload length echoed over ICMP and compare.
    IcmpSweep {
        /// Address to ping, IPv4 or IPv6.
        #[arg(long)]
        to: IpAddr,
        #[command(flatten)]
        sweep: Sweep,
    },
    /// Attach an XDP program to an interface; it stays until it is detached or replaced.
    XdpAttach(xdp::Attach),
    /// Detach an interface's XDP program.
    XdpDetach(xdp::Detach),
    /// List the numbers of all BPF programs in the kernel.
    BpfPrograms,
    #[command(flatten)]
    Measure(Measure),
}

/// What measures and does not judge.
#[derive(Subcommand)]
enum Measure {
    /// Throw away what comes over TCP, until killed.
    TcpDrain {
        /// Address and port to listen at.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Answer every byte over TCP with one, until killed.
    TcpAnswer {
        /// Address and port to listen at.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Send zeroes over TCP to a tcp-drain.
    TcpFlood {
        /// Address and port of the tcp-drain.
        #[arg(long)]
        to: SocketAddr,
        /// Connections, in parallel.
        #[arg(long, default_value_t = 1)]
        connections: u16,
        /// Local port of the first; the others count up. Any if 0.
        #[arg(long, default_value_t = 0)]
        port: u16,
        #[command(flatten)]
        time: Time,
    },
    /// Exchange single bytes with a tcp-answer, and say how long that takes.
    TcpRoundTrips {
        /// Address and port of the tcp-answer.
        #[arg(long)]
        to: SocketAddr,
        /// Local port; any if 0.
        #[arg(long, default_value_t = 0)]
        port: u16,
        #[command(flatten)]
        time: Time,
    },
    /// Name the functions in which samples were taken, most first.
    Symbols {
        /// Lines of an address and a number, as the host's profile has them.
        #[arg(long)]
        samples: PathBuf,
        /// So many functions.
        #[arg(long, default_value_t = 40)]
        most: usize,
        /// Instead: every sampled address in functions whose name contains this.
        #[arg(long)]
        within: Option<String>,
    },
    /// Take a network device from hv_netvsc and give it back, and say how long that takes.
    Rebind {
        /// Its name in /sys/bus/vmbus/devices.
        #[arg(long)]
        device: String,
        /// Queues its interface must have at the end.
        #[arg(long)]
        queues: usize,
        #[command(flatten)]
        patience: Patience,
    },
}

#[derive(Args)]
struct Time {
    /// How long, in milliseconds.
    #[arg(long = "ms")]
    milliseconds: u64,
}

impl Time {
    fn duration(&self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

#[derive(Args)]
struct Patience {
    /// Longest silence of the other side, in seconds.
    #[arg(long = "patience", default_value_t = 30)]
    seconds: u64,
}

#[derive(Args)]
struct Sweep {
    /// Payload lengths, as 0-1472 or 0-100,1472.
    #[arg(long, default_value = "0-1472", value_parser = parse_ranges)]
    lengths: Ranges,
    /// Most packets waiting for their echo.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// How long to wait for an echo, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    patience_ms: u64,
    /// How often a packet is sent in all before it counts as lost.
    #[arg(long, default_value_t = 3)]
    attempts: u32,
}

#[derive(Clone)]
struct Ranges(Vec<usize>);

fn parse_ranges(text: &str) -> Result<Ranges, String> {
    parse_lengths(text).map(Ranges)
}

impl Sweep {
    fn settings(&self) -> Settings {
        Settings {
            window: self.window.max(1),
            patience: Duration::from_millis(self.patience_ms),
            attempts: self.attempts,
        }
    }

    fn probes(&self, splits: Option<&Ranges>) -> Vec<Probe> {
        let whole = |length| Probe {
            length,
            first: None,
        };
        self.lengths
            .0
            .iter()
            .flat_map(|&length| match splits {
                None => vec![whole(length)],
                Some(splits) => splits
                    .0
                    .iter()
                    .filter(|&&at| at <= length)
                    .map(|&at| Probe {
                        first: Some(at),
                        ..whole(length)
                    })
                    .collect(),
            })
            .collect()
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("agent: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match (cli.traffic, cli.device) {
        (Some(traffic), _) => run_traffic(traffic),
        (None, Some(path)) => {
            let reader = device::open(&path)?;
            let writer = BufWriter::new(reader.try_clone().context("second handle")?);
            server::serve(device::Patient(reader), writer).context("the line to the runner")?;
            Ok(ExitCode::SUCCESS)
        }
        (None, None) => anyhow::bail!("give --device or a subcommand"),
    }
}

fn run_traffic(traffic: Traffic) -> Result<ExitCode> {
    match traffic {
        Traffic::TcpReceive {
            listen,
            connections,
            patience,
        } => {
            let listener =
                TcpListener::bind(listen).with_context(|| format!("cannot listen at {listen}"))?;
            tcp_report(tcp::receive(&listener, connections, patience.duration())?)
        }
        Traffic::TcpSend {
            to,
            from,
            connections,
            bytes,
            until,
            pause_ms,
            seed,
            patience,
        } => tcp_report(
            tcp::send(tcp::Sending {
                to,
                from,
                streams: connections,
                amount: match until {
                    Some(path) => tcp::Amount::UntilExists(path),
                    None => tcp::Amount::Bytes(bytes.unwrap_or(0)),
                },
                pause: Duration::from_millis(pause_ms),
                seed,
                patience: patience.duration(),
            })
            .with_context(|| format!("sending to {to}"))?,
        ),
        Traffic::UdpEcho { listen } => {
            udp::echo_server(listen).with_context(|| format!("echo at {listen}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Traffic::UdpSweep {
            to,
            port,
            sweep: options,
            splits,
        } => {
            let mut echo = UdpEcho::new(to, port).with_context(|| format!("socket to {to}"))?;
            let probes = options.probes(splits.as_ref());
            sweep_report(sweep(&probes, options.settings(), &mut echo)?)
        }
        Traffic::IcmpSweep { to, sweep: options } => {
            let mut echo = IcmpEcho::new(to).with_context(|| format!("socket to {to}"))?;
            let probes = options.probes(None);
            sweep_report(sweep(&probes, options.settings(), &mut echo)?)
        }
        Traffic::XdpAttach(arguments) => xdp::attach(&arguments).map(|()| ExitCode::SUCCESS),
        Traffic::XdpDetach(arguments) => xdp::detach(&arguments).map(|()| ExitCode::SUCCESS),
        Traffic::BpfPrograms => {
            println!("{}", serde_json::to_string(&xdp::loaded()?)?);
            Ok(ExitCode::SUCCESS)
        }
        Traffic::Measure(what) => measure(what),
    }
}

fn measure(what: Measure) -> Result<ExitCode> {
    let report = match what {
        Measure::TcpDrain { listen } => {
            load::drain(listen).with_context(|| format!("draining at {listen}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Measure::TcpAnswer { listen } => {
            load::answer(listen).with_context(|| format!("answering at {listen}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Measure::TcpFlood {
            to,
            connections,
            port,
            time,
        } => {
            let bytes = load::flood(to, connections, port, time.duration());
            serde_json::to_string(&bytes.with_context(|| format!("sending to {to}"))?)?
        }
        Measure::TcpRoundTrips { to, port, time } => {
            let trips = load::round_trips(to, port, time.duration());
            serde_json::to_string(&trips.with_context(|| format!("round trips to {to}"))?)?
        }
        Measure::Symbols {
            samples,
            most,
            within,
        } => {
            let text = std::fs::read_to_string(&samples)
                .with_context(|| format!("cannot read '{}'", samples.display()))?;
            let samples = symbols::parse_samples(&text).map_err(anyhow::Error::msg)?;
            let table = File::open("/proc/kallsyms").context("/proc/kallsyms")?;
            let symbols = Symbols::read(BufReader::new(table))?;
            let profile = match within {
                Some(part) => symbols.within(&part, &samples),
                None => symbols.profile(&samples).into_iter().take(most).collect(),
            };
            serde_json::to_string(&profile)?
        }
        Measure::Rebind {
            device,
            queues,
            patience,
        } => serde_json::to_string(&rebind::rebind(&device, queues, patience.duration())?)?,
    };
    println!("{report}");
    Ok(ExitCode::SUCCESS)
}

impl Patience {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn tcp_report(report: tcp::Report) -> Result<ExitCode> {
    println!("{}", serde_json::to_string(&report)?);
    Ok(code(report.streams.iter().all(|s| s.intact)))
}

fn sweep_report(report: Report) -> Result<ExitCode> {
    println!("{}", serde_json::to_string(&report)?);
    Ok(code(
        report.answered == report.probes && report.corrupt.is_empty(),
    ))
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

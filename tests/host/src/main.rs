// SPDX-License-Identifier: GPL-2.0

//! `hvhost`: see `hvhost --help`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use hvhost::control::{server as control_server, ControlTarget};
use hvhost::host::TestHost;
use hvhost::machine::outcome::Outcome;
use hvhost::machine::{Machine, Shared};
use hvhost::options::Options;
use hvhost::stream::{Connector, Endpoint, Outbox};
use hvhost::terminal::RawMode;
use hvhost::vmbus::server::{ServerConfig, VmbusServer};

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    match run(&options) {
        Ok(outcome) => {
            eprintln!("hvhost: {outcome}");
            ExitCode::from(outcome.exit_code())
        }
        Err(error) => {
            eprintln!("hvhost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Outcome> {
    let signals = block_stop_signals()?;
    let machine = Machine::new(&options.machine())?;
    let config = ServerConfig {
        max_version: options.vmbus_version.wire(),
    };
    let server = VmbusServer::new(machine.partition(), config)?;
    let host = Arc::new(TestHost::new(
        machine.shared(),
        server.clone(),
        options.nvsp_version,
    ));
    for spec in &options.nics {
        host.nic_add(spec.clone())
            .map_err(|error| anyhow::anyhow!("--nic: {error}"))?;
    }
    let control = match &options.control {
        Some(endpoint) => Some(open_control(endpoint, host.clone())?),
        None => None,
    };
    stop_on_signal(signals, machine.shared())?;
    let terminal = match options.console {
        Endpoint::Stdio => RawMode::enter().context("terminal")?,
        _ => None,
    };
    let outcome = machine.run(server)?;
    drop(terminal);
    if let Some(path) = &options.counters {
        write_counters(path, &host)?;
    }
    if let Some(control) = control {
        const LAST_ANSWER: Duration = Duration::from_secs(1);
        control.close(LAST_ANSWER);
    }
    if let Some(Endpoint::Listen(path)) = &options.control {
        // The thread that listens ends with the process, without cleaning up.
        let _ = std::fs::remove_file(path);
    }
    Ok(outcome)
}

fn open_control(endpoint: &Endpoint, host: Arc<TestHost>) -> Result<Arc<Outbox>> {
    let connector = Connector::open(endpoint).with_context(|| format!("--control '{endpoint}'"))?;
    control_server::start(connector, host).context("control thread")
}

fn write_counters(path: &Path, host: &TestHost) -> Result<()> {
    let text = serde_json::to_string_pretty(&host.counters())?;
    std::fs::write(path, text + "\n").with_context(|| format!("--counters '{}'", path.display()))
}

/// Blocks SIGTERM and SIGINT in this thread and those it will start; returns the set.
fn block_stop_signals() -> Result<libc::sigset_t> {
    let set = vmm_sys_util::signal::create_sigset(&[libc::SIGTERM, libc::SIGINT])?;
    // SAFETY: `set` is an initialised signal set; the old mask is not asked for.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    match code {
        0 => Ok(set),
        code => Err(std::io::Error::from_raw_os_error(code)).context("signal mask"),
    }
}

/// Stops the machine when one of the blocked signals comes.
fn stop_on_signal(signals: libc::sigset_t, machine: Arc<Shared>) -> Result<()> {
    let body = move || {
        let mut number = 0;
        // SAFETY: `signals` is an initialised set of signals that every thread blocks, and
        // `number` outlives the call.
        if unsafe { libc::sigwait(&signals, &mut number) } == 0 {
            machine.stop(Outcome::Signal(number));
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(body)
        .context("signal thread")?;
    Ok(())
}

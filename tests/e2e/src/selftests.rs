// SPDX-License-Identifier: GPL-2.0

//! The kernel's own tests for network drivers (`tools/testing/selftests/drivers/net`), in a guest.
//!
//! They are told of one NIC, and of another in a network namespace as the remote end. Each prints its cases as
//! KTAP. A case that fails or is skipped must be listed here with the reason.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::bench::Bench;
use crate::guest::{End, Guest};
use crate::runner::Options;
use crate::scenario::{Driver, Machine};

/// Where the image has the tests.
const FOLDER: &str = "/kernel/tools/testing/selftests/drivers/net";
/// Longest that one program may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Which programs are run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run this program only (a name such as ping or hw/tso); may be repeated.
    #[arg(long)]
    test: Vec<String>,
}

/// The programs that need two NICs, and nothing that hosts do not have.
const PROGRAMS: [&str; 11] = [
    "ping",
    "queues",
    "stats",
    "ring_reconfig",
    "napi_id",
    "napi_threaded",
    "hw/csum",
    "hw/tso",
    "hw/rss_api",
    "hw/rss_drv",
    "xdp",
];

/// Cases that need not pass, and why. A `*` stands for anything.
const EXCUSED: &[(&str, &str)] = &[
    (
        "ping.test_xdp_offload",
        "XDP cannot be offloaded to this device",
    ),
    (
        "ring_reconfig.reconfig_tx_stall",
        "the stock kernel has no fq qdisc",
    ),
    ("stats.check_pause", "a virtual link has no pause frames"),
    ("stats.check_fec*", "a virtual link has no FEC"),
    ("tso.vxlan*", NO_TUNNELS),
    ("tso.gre*", NO_TUNNELS),
    ("tso.ip4_*", NO_TUNNELS),
    ("tso.ip6_*", NO_TUNNELS),
    ("rss_api.test_rxfh_nl_set_indir_ctx", ONE_CONTEXT),
    ("rss_api.test_rxfh_indir_ctx_ntf", ONE_CONTEXT),
    ("rss_api.test_rss_ctx_*", ONE_CONTEXT),
    (
        "rss_api.test_rxfh_fields_set*",
        "hosts hash addresses, or addresses and ports; not one of them",
    ),
    ("rss_drv.*.ctx", ONE_CONTEXT),
    ("rss_drv.resize_*", "the host's table has one size"),
];
const NO_TUNNELS: &str = "hosts do not segment what is inside a tunnel";
const ONE_CONTEXT: &str = "hosts have one RSS context";

/// One case of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    name: String,
    result: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed,
}

/// Runs the programs and prints what came of each case. Whether all is as expected.
pub fn run(options: &Options, driver: Driver, arguments: &Arguments) -> Result<bool> {
    let chosen = choose(&arguments.test)?;
    let bench = Bench::new(
        &options.artifacts,
        options.acceleration,
        &options.folder.join("selftests"),
    )?;
    let session = bench.boot(Machine::COMMON, options.kernel, driver)?;
    let guest = &session.guest;
    guest.load()?;
    let (mut passed, mut failed, mut excused) = (0, 0, 0);
    for program in chosen {
        guest.configure(guest.machine.most_channels())?;
        let verdict = cases(guest, program).and_then(|cases| {
            guest.no_kernel_report()?;
            Ok(cases)
        });
        let cases = match verdict {
            Ok(cases) => cases,
            Err(error) => {
                eprint!("{}", session.diagnosis());
                return Err(error.context(program));
            }
        };
        let before = failed;
        for case in cases {
            let why = match &case.result {
                Verdict::Passed => {
                    println!("ok {}", case.name);
                    passed += 1;
                    continue;
                }
                Verdict::Skipped(reason) => format!("skipped: {reason}"),
                Verdict::Failed => "see its output above".to_owned(),
            };
            if let Some(excuse) = excuse(&case.name) {
                println!("excused {}: {excuse}", case.name);
                excused += 1;
            } else {
                println!("FAIL {} [{driver}]: {why}", case.name);
                failed += 1;
            }
        }
        if failed > before {
            eprint!("{}", guest.network_counters());
        }
    }
    let violations = guest.host.counters()?.violations();
    ensure!(violations.is_empty(), "protocol violations: {violations:?}");
    println!("{excused} excused");
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Why a case need not pass.
fn excuse(case: &str) -> Option<&'static str> {
    let fits = |pattern: &str| match pattern.split_once('*') {
        Some((beginning, end)) => case.starts_with(beginning) && case.ends_with(end),
        None => pattern == case,
    };
    let found = EXCUSED.iter().find(|(pattern, _)| fits(pattern));
    found.map(|(_, reason)| *reason)
}

fn choose(wanted: &[String]) -> Result<Vec<&'static str>> {
    if wanted.is_empty() {
        return Ok(PROGRAMS.to_vec());
    }
    let find = |name: &String| {
        let known = PROGRAMS.into_iter().find(|program| program == name);
        known.with_context(|| {
            format!(
                "--test: there is no '{name}' (there are {})",
                PROGRAMS.join(", ")
            )
        })
    };
    wanted.iter().map(find).collect()
}

/// Runs one program; what it printed.
fn cases(guest: &Guest, program: &str) -> Result<Vec<Case>> {
    let (folder, file) = match program.rsplit_once('/') {
        Some((below, file)) => (format!("{FOLDER}/{below}"), file),
        None => (FOLDER.to_owned(), program),
    };
    let peer = End::Peer.netns().context("the peer has no namespace")?;
    let script = format!(
        "cd {folder} && PYTHONDONTWRITEBYTECODE=1 KSFT_MACHINE_SLOW=yes NETIF={} LOCAL_V4={} LOCAL_V6={} REMOTE_V4={} REMOTE_V6={} \
         REMOTE_TYPE=netns REMOTE_ARGS={peer} python3 {file}.py",
        End::Near.interface(),
        End::Near.v4(),
        End::Near.v6(),
        End::Peer.v4(),
        End::Peer.v6(),
    );
    let outcome = guest.try_at(End::Near, &["bash", "-c", &script], LIMIT)?;
    print!("{}", outcome.stdout);
    eprint!("{}", outcome.stderr);
    let cases = parse(&outcome.stdout)?;
    ensure!(
        !cases.is_empty(),
        "{program} printed no case: {}{}",
        outcome.stdout,
        outcome.stderr
    );
    Ok(cases)
}

/// The cases of a KTAP report, which must have as many as it announces.
fn parse(report: &str) -> Result<Vec<Case>> {
    let (mut cases, mut announced) = (Vec::new(), None);
    for line in report.lines() {
        let (result, rest) = if let Some(count) = line.strip_prefix("1..") {
            announced = Some(count.trim().parse::<usize>().context("number of cases")?);
            continue;
        } else if let Some(rest) = line.strip_prefix("not ok ") {
            (Verdict::Failed, rest)
        } else if let Some(rest) = line.strip_prefix("ok ") {
            (Verdict::Passed, rest)
        } else {
            continue;
        };
        let (name, comment) = rest.split_once(" # ").unwrap_or((rest, ""));
        let name = name.split_once(' ').map_or(name, |(_, name)| name);
        let skipped = comment
            .strip_prefix("SKIP")
            .or_else(|| comment.strip_prefix("XFAIL"));
        cases.push(Case {
            name: name.trim().to_owned(),
            result: match skipped {
                Some(reason) => Verdict::Skipped(reason.trim().to_owned()),
                None => result,
            },
        });
    }
    if let Some(announced) = announced.filter(|count| *count != cases.len()) {
        bail!("{} of {announced} cases were reported", cases.len());
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_with_their_verdicts() {
        let report = "TAP version 13\n1..4\nok 1 ping.v4\n# noise\nnot ok 2 ping.v6\n\
            ok 3 ping.xdp # SKIP no XDP\nok 4 ping.later # XFAIL slow machine\n# Totals: pass:1\n";
        let cases = parse(report).expect("parses");
        let of = |name: &str, result| Case {
            name: name.into(),
            result,
        };
        assert_eq!(
            cases,
            [
                of("ping.v4", Verdict::Passed),
                of("ping.v6", Verdict::Failed),
                of("ping.xdp", Verdict::Skipped("no XDP".into())),
                of("ping.later", Verdict::Skipped("slow machine".into())),
            ]
        );
    }

    #[test]
    fn a_program_that_ends_early_is_noticed() {
        let error = parse("1..2\nok 1 a.b\n").expect_err("one is missing");
        assert!(error.to_string().contains("1 of 2"), "{error}");
    }

    #[test]
    fn excuses_are_by_name_or_pattern() {
        assert!(excuse("stats.check_pause").is_some() && excuse("rss_drv.a.ctx").is_some());
        assert!(excuse("ping.test_default_v4").is_none() && excuse("rss_drv.a.main").is_none());
    }
}

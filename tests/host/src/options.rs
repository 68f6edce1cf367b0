// SPDX-License-Identifier: GPL-2.0

//! The command line of `hvhost`.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{parse_nvsp_version, NicSpec, VmbusVersion};
use crate::machine::boot::{BootSource, FAST_CMDLINE};
use crate::machine::outcome::EXIT_CODES;
use crate::machine::MachineConfig;
use crate::netvsp::NvspVersion;
use crate::stream::Endpoint;

/// Runs a Linux guest on a Hyper-V compatible machine with synthetic network devices.
#[derive(Debug, Parser)]
#[command(name = "hvhost", version, after_help = EXIT_CODES)]
pub struct Options {
    /// Kernel: ELF vmlinux (boots faster) or bzImage
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,

    /// Initial file system
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = FAST_CMDLINE
    )]
    pub cmdline: String,

    /// Virtual processors, 1 to 8
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cpus: u8,

    /// Guest memory in MiB, 64 to 65536
    #[arg(long, value_name = "MIB", default_value = "512", value_parser = clap::value_parser!(u32).range(64..=65536))]
    pub memory: u32,

    /// A NIC: mac=ADDR[,name=NAME][,queues=1-64][,backend=switch:NAME|tap:INTERFACE|null]
    /// [,mtu=1500-65500][,speed=MBIT][,link=up|down][,offloads=all|none|csum4+csum6+udp+lso4+lso6+rsc]
    /// [,pcap=FILE]; may be repeated
    #[arg(long = "nic", value_name = "SPEC")]
    pub nics: Vec<NicSpec>,

    /// Console (first serial port): stdio, a file, or a character device
    #[arg(long, value_name = "WHERE", default_value = "stdio", value_parser = Endpoint::parse_console)]
    pub console: Endpoint,

    /// Second serial port: a character device, or the path of a Unix socket to listen on
    #[arg(long, value_name = "PATH", value_parser = Endpoint::parse_stream)]
    pub agent: Option<Endpoint>,

    /// Control protocol: a character device, or the path of a Unix socket to listen on
    #[arg(long, value_name = "PATH", value_parser = Endpoint::parse_stream)]
    pub control: Option<Endpoint>,

    /// Highest VMBus version to grant: 4.0, 4.1, 5.0, 5.1, 5.2, 5.3, 6.0
    #[arg(long, value_name = "VERSION", default_value = "6.0")]
    pub vmbus_version: VmbusVersion,

    /// Highest NVSP version to grant: 1, 2, 4, 5, 6, 6.1
    #[arg(long, value_name = "VERSION", default_value = "6.1", value_parser = parse_nvsp_version)]
    pub nvsp_version: NvspVersion,

    /// Write all counters there as JSON when the machine stops
    #[arg(long, value_name = "FILE")]
    pub counters: Option<PathBuf>,
}

impl Options {
    /// The part that describes the machine.
    pub fn machine(&self) -> MachineConfig {
        MachineConfig {
            boot: BootSource {
                kernel: self.kernel.clone(),
                initrd: self.initrd.clone(),
                cmdline: self.cmdline.clone(),
            },
            cpus: self.cpus,
            memory_mib: self.memory,
            console: self.console.clone(),
            agent: self.agent.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let all = ["hvhost", "--kernel", "vmlinux"].iter().chain(arguments);
        Options::try_parse_from(all).map_err(|error| error.to_string())
    }

    #[test]
    fn definition_is_sound() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn full_command_line() {
        let options = parse(&[
            "--cpus=4",
            "--nic=mac=00:15:5d:00:00:01,backend=switch:a",
            "--nic=mac=00:15:5d:00:00:02,backend=switch:a",
            "--vmbus-version=5.3",
            "--nvsp-version=6.1",
            "--control=/tmp/no-such-path",
            "--console=stdio",
        ])
        .unwrap();
        assert_eq!((options.cpus, options.nics.len()), (4, 2));
        assert_eq!(options.vmbus_version.wire(), 0x50003);
        assert_eq!(options.console, Endpoint::Stdio);
    }

    #[test]
    fn errors_name_value_and_option() {
        for (argument, value, option) in [
            ("--cpus=9", "'9'", "--cpus"),
            ("--memory=1", "'1'", "--memory"),
            ("--nic=mac=zz", "mac: 'zz'", "--nic"),
            ("--vmbus-version=3.0", "'3.0'", "--vmbus-version"),
            ("--nvsp-version=7", "'7'", "--nvsp-version"),
            ("--control=/proc/version", "/proc/version", "--control"),
            ("--console=/", "'/'", "--console"),
        ] {
            let error = parse(&[argument]).unwrap_err();
            let first = error.lines().next().unwrap_or_default();
            assert!(first.contains(value) && first.contains(option), "{error}");
        }
    }
}

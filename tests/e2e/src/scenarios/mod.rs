// SPDX-License-Identifier: GPL-2.0

//! All scenarios, one file a subject.

mod attach_faults;
mod bulk;
pub use bulk::iperf3_mbit;
mod channels;
mod debug_view;
mod echo;
mod ethtool_features;
mod ethtool_flow_hash;
mod ethtool_link;
mod ethtool_rings;
mod ethtool_rss;
mod hostile_control;
mod hostile_receive;
mod hotplug;
mod identity;
mod life;
mod lifecycle;
mod monotony;
mod offload_matrix;
mod offload_rsc;
mod operation_matrix;
mod overload;
mod processors;
mod random_operations;
mod reload;
mod soak;
mod trace;
mod versions;
mod vmbus_silence;
mod xdp_actions;
mod xdp_limits;
mod xdp_load;
mod xdp_rebuilds;
mod xdp_redirect;
mod xps;

use crate::scenario::Scenario;

/// Every scenario, in the order they are run.
pub fn all() -> Vec<Scenario> {
    [
        identity::SCENARIOS,
        echo::SCENARIOS,
        bulk::SCENARIOS,
        channels::SCENARIOS,
        ethtool_rss::SCENARIOS,
        ethtool_features::SCENARIOS,
        ethtool_flow_hash::SCENARIOS,
        xps::SCENARIOS,
        ethtool_rings::SCENARIOS,
        ethtool_link::SCENARIOS,
        offload_matrix::SCENARIOS,
        offload_rsc::SCENARIOS,
        overload::SCENARIOS,
        processors::SCENARIOS,
        random_operations::SCENARIOS,
        operation_matrix::SCENARIOS,
        lifecycle::SCENARIOS,
        monotony::SCENARIOS,
        hotplug::SCENARIOS,
        attach_faults::SCENARIOS,
        hostile_control::SCENARIOS,
        hostile_receive::SCENARIOS,
        reload::SCENARIOS,
        versions::SCENARIOS,
        debug_view::SCENARIOS,
        trace::SCENARIOS,
        life::SCENARIOS,
        vmbus_silence::SCENARIOS,
        xdp_actions::SCENARIOS,
        xdp_rebuilds::SCENARIOS,
        xdp_limits::SCENARIOS,
        xdp_redirect::SCENARIOS,
        xdp_load::SCENARIOS,
        soak::SCENARIOS,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_can_be_typed() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), all.len());
        for name in names {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.chars().all(plain), "{name}");
        }
    }
}

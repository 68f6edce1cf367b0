// SPDX-License-Identifier: GPL-2.0

//! Fault points: places where a scenario can make the host refuse, ignore or cut short a request.
//!
//! A fault point is a dotted name such as `vmbus.open` or `rndis.query.GEN_LINK_SPEED`. The code
//! that handles a request asks [`FaultPoints::check`] once per request and obeys the answer. Each
//! check is also recorded in order, so that a scenario can learn which requests an operation makes
//! and then fail the k-th of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use thiserror::Error;

use crate::corruption::Corruption;

/// Recorded checks are kept up to this number; later ones are only counted.
const LOG_LIMIT: usize = 16 * 1024;

/// An answer cannot be made longer by so many bytes.
const MOST_EXTENDED: u32 = 64 * 1024;

/// What the host does instead of serving the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultAction {
    /// Answer with the protocol's failure status.
    Refuse,
    /// Do not answer at all, as if the request had been lost.
    Silent,
    /// Grant this many of what was asked for (sub-channels).
    Grant(u32),
    /// Take the device away: its channels are rescinded, and the request gets no answer.
    Rescind,
    /// Answer with this status code.
    Status(u32),
    /// Serve the request, and spoil the answer. For the points of NVSP and RNDIS, and for
    /// `vmbus.offer-subchannel`; at another point of VMBus, or where there is no answer, it is as if
    /// there were no fault.
    Corrupt(Corruption),
}

/// Which requests fail, and how.
///
/// In JSON: `{"point": "rndis.query.*", "nth": 2, "count": 1, "action": "refuse"}` or
/// `"action": {"grant": 2}` or `"action": {"corrupt": {"truncate": 4}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// Name of the fault point. `*` stands for any run of characters. `control.*` means every NVSP
    /// and RNDIS control request.
    pub point: String,
    /// The first match that fails; 1 is the next one.
    #[serde(default = "one")]
    pub nth: u32,
    /// How many matches fail from there on; 0 means all.
    #[serde(default = "one")]
    pub count: u32,
    /// What happens to them.
    pub action: FaultAction,
}

fn one() -> u32 {
    1
}

/// A fault that cannot be installed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FaultError {
    /// The point's name is empty.
    #[error("fault point is empty: give a name such as vmbus.open")]
    EmptyPoint,
    /// The ordinal is zero.
    #[error("fault on {0}: nth is 0, but the next match is number 1")]
    ZeroNth(String),
    /// The answer would become longer than anything that can be sent.
    #[error("fault on {0}: {1} bytes more cannot be sent: less than {MOST_EXTENDED} can")]
    TooLong(String, u32),
}

struct Installed {
    spec: FaultSpec,
    matches: u32,
    firings: u32,
}

#[derive(Default)]
struct Inner {
    faults: Vec<Installed>,
    log: Vec<String>,
    log_dropped: u64,
    hits: BTreeMap<String, u64>,
    fired: BTreeMap<String, u64>,
}

/// All fault points of the host. Shared between threads; the lock inside is a leaf: nothing is
/// called while it is held.
#[derive(Default)]
pub struct FaultPoints {
    inner: Mutex<Inner>,
    /// There are faults in `inner`.
    armed: AtomicBool,
}

impl FaultPoints {
    /// No faults installed, nothing recorded.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Installs a fault; its matches are counted from now on.
    pub fn add(&self, spec: FaultSpec) -> Result<(), FaultError> {
        if spec.point.is_empty() {
            return Err(FaultError::EmptyPoint);
        }
        if spec.nth == 0 {
            return Err(FaultError::ZeroNth(spec.point));
        }
        if let FaultAction::Corrupt(Corruption::Extend(len @ MOST_EXTENDED..)) = spec.action {
            return Err(FaultError::TooLong(spec.point, len));
        }
        self.lock().faults.push(Installed {
            spec,
            matches: 0,
            firings: 0,
        });
        self.armed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Records that a request reached `point` and says what to do with it; `None` is to serve it.
    ///
    /// Every installed fault that matches counts the request. If several fire at once the one that
    /// was installed first decides.
    pub fn check(&self, point: &str) -> Option<FaultAction> {
        let mut inner = self.lock();
        inner.record(point);
        let mut action = None;
        for fault in &mut inner.faults {
            if !matches(&fault.spec.point, point) {
                continue;
            }
            fault.matches = fault.matches.saturating_add(1);
            if fault.fires() && action.is_none() {
                fault.firings += 1;
                action = Some(fault.spec.action);
            }
        }
        if let Some(action) = action {
            *inner.fired.entry(point.to_owned()).or_default() += 1;
            tracing::info!(point, ?action, "fault fires");
        }
        action
    }

    /// Whether any fault is installed. Points that are reached with every packet are checked, and recorded,
    /// only then.
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// Removes every fault. The record of points and the counts of firings stay.
    pub fn clear(&self) {
        self.lock().faults.clear();
        self.armed.store(false, Ordering::Relaxed);
    }

    /// The points that were checked since the last [`FaultPoints::reset_log`], in order.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Forgets the recorded points and all counts; installed faults stay.
    pub fn reset_log(&self) {
        let mut inner = self.lock();
        inner.log.clear();
        inner.log_dropped = 0;
        inner.hits.clear();
        inner.fired.clear();
    }

    /// `{"faults": [{"spec", "matches", "firings"}], "points": {name: checks},
    /// "fired": {name: firings}, "log_dropped": n}`.
    pub fn counters(&self) -> Value {
        let inner = self.lock();
        let faults: Vec<Value> = inner
            .faults
            .iter()
            .map(|f| json!({"spec": f.spec, "matches": f.matches, "firings": f.firings}))
            .collect();
        json!({
            "faults": faults,
            "points": inner.hits,
            "fired": inner.fired,
            "log_dropped": inner.log_dropped,
        })
    }
}

impl Inner {
    fn record(&mut self, point: &str) {
        *self.hits.entry(point.to_owned()).or_default() += 1;
        if self.log.len() < LOG_LIMIT {
            self.log.push(point.to_owned());
        } else {
            self.log_dropped += 1;
        }
    }
}

impl Installed {
    /// Whether the match just counted is one of those that fail.
    fn fires(&self) -> bool {
        let Some(past) = self.matches.checked_sub(self.spec.nth) else {
            return false;
        };
        self.spec.count == 0 || past < self.spec.count
    }
}

/// Whether `pattern` names `point`; `control.*` is the alias described at [`FaultSpec::point`].
fn matches(pattern: &str, point: &str) -> bool {
    if pattern == "control.*" {
        return point.starts_with("nvsp.") || point.starts_with("rndis.");
    }
    glob(pattern.as_bytes(), point.as_bytes())
}

/// Shell-like match where `*` is any run of bytes; backtracks to the latest `*` only.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(point: &str, nth: u32, count: u32, action: FaultAction) -> FaultSpec {
        FaultSpec {
            point: point.into(),
            nth,
            count,
            action,
        }
    }

    #[test]
    fn nothing_installed_serves_and_records() {
        let faults = FaultPoints::new();
        assert_eq!(faults.check("vmbus.open"), None);
        assert_eq!(faults.check("nvsp.init"), None);
        assert_eq!(faults.log(), ["vmbus.open", "nvsp.init"]);
        faults.reset_log();
        assert!(faults.log().is_empty());
    }

    #[test]
    fn nth_and_count_select_matches() {
        let faults = FaultPoints::new();
        faults
            .add(spec("vmbus.*", 2, 2, FaultAction::Refuse))
            .unwrap();
        let got: Vec<_> = (0..4)
            .map(|_| faults.check("vmbus.open").is_some())
            .collect();
        assert_eq!(got, [false, true, true, false]);
        assert_eq!(faults.counters()["faults"][0]["matches"], 4);
        assert_eq!(faults.counters()["faults"][0]["firings"], 2);
        assert_eq!(faults.counters()["fired"]["vmbus.open"], 2);
    }

    #[test]
    fn count_zero_means_for_ever_and_clear_ends_it() {
        let faults = FaultPoints::new();
        faults
            .add(spec("rndis.set.*", 1, 0, FaultAction::Silent))
            .unwrap();
        for _ in 0..5 {
            assert_eq!(faults.check("rndis.set.X"), Some(FaultAction::Silent));
        }
        faults.clear();
        assert_eq!(faults.check("rndis.set.X"), None);
    }

    #[test]
    fn control_covers_nvsp_and_rndis_only() {
        let faults = FaultPoints::new();
        faults
            .add(spec("control.*", 3, 1, FaultAction::Status(7)))
            .unwrap();
        assert_eq!(faults.check("nvsp.init"), None);
        assert_eq!(faults.check("vmbus.open"), None);
        assert_eq!(faults.check("rndis.initialize"), None);
        assert_eq!(
            faults.check("rndis.query.GEN_LINK_SPEED"),
            Some(FaultAction::Status(7))
        );
    }

    #[test]
    fn first_installed_decides_but_all_count() {
        let faults = FaultPoints::new();
        faults.add(spec("a", 1, 1, FaultAction::Grant(2))).unwrap();
        faults.add(spec("*", 2, 1, FaultAction::Rescind)).unwrap();
        assert_eq!(faults.check("a"), Some(FaultAction::Grant(2)));
        assert_eq!(faults.check("a"), Some(FaultAction::Rescind));
    }

    #[test]
    fn globs() {
        assert!(glob(b"*", b""));
        assert!(glob(b"a*c", b"abbc"));
        assert!(glob(b"a*b*c", b"a1b2b3c"));
        assert!(glob(b"rndis.query.*", b"rndis.query.X"));
        assert!(!glob(b"rndis.query.*", b"rndis.set.X"));
        assert!(!glob(b"vmbus.open", b"vmbus.opened"));
        assert!(!glob(b"", b"x"));
    }

    #[test]
    fn bad_specs_are_refused() {
        let faults = FaultPoints::new();
        assert_eq!(
            faults.add(spec("", 1, 1, FaultAction::Refuse)),
            Err(FaultError::EmptyPoint)
        );
        let err = faults
            .add(spec("x", 0, 1, FaultAction::Refuse))
            .unwrap_err();
        assert!(err.to_string().contains("fault on x"));
        let endless = FaultAction::Corrupt(Corruption::Extend(u32::MAX));
        let err = faults.add(spec("x", 1, 1, endless)).unwrap_err();
        assert!(err.to_string().contains("4294967295 bytes more"));
    }

    #[test]
    fn json_form() {
        let short: FaultSpec =
            serde_json::from_str(r#"{"point":"vmbus.open","action":"refuse"}"#).unwrap();
        assert_eq!(short, spec("vmbus.open", 1, 1, FaultAction::Refuse));
        let grant: FaultSpec =
            serde_json::from_str(r#"{"point":"nvsp.subchannel","nth":1,"action":{"grant":2}}"#)
                .unwrap();
        assert_eq!(grant.action, FaultAction::Grant(2));
        let spoilt = r#"{"point":"rndis.query.*","action":{"corrupt":{"truncate":4}}}"#;
        let spoilt: FaultSpec = serde_json::from_str(spoilt).unwrap();
        assert_eq!(spoilt.action, FaultAction::Corrupt(Corruption::Truncate(4)));
        assert!(serde_json::from_str::<FaultSpec>(r#"{"point":"x","action":"explode"}"#).is_err());
    }
}

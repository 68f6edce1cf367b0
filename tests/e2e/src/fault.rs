// SPDX-License-Identifier: GPL-2.0

//! Telling a broken test bench from a broken driver, and bad luck from a defect.

use anyhow::Error;

/// The machine below the guest failed, not what is being tested: worth one more try, counted and
/// reported.
#[derive(Debug, thiserror::Error)]
#[error("infrastructure fault: {0}")]
pub struct Infrastructure(String);

impl Infrastructure {
    /// As an error, keeping the text of `cause`.
    pub fn wrap(cause: impl std::fmt::Display) -> Error {
        // The whole chain in one line, where there is one.
        Error::new(Infrastructure(format!("{cause:#}")))
    }

    /// Whether an error is, or was caused by, an infrastructure fault.
    pub fn caused(error: &Error) -> bool {
        error.chain().any(|e| e.is::<Infrastructure>())
    }
}

/// Seen beyond doubt, however busy the machine is: a report of the kernel, a broken protocol, a guest that died. Not
/// worth another try.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Proof(String);

impl Proof {
    /// As an error, keeping the text of `cause`.
    pub fn wrap(cause: impl std::fmt::Display) -> Error {
        Error::new(Proof(format!("{cause:#}")))
    }

    /// Whether an error is, or was caused by, a defect that is proved.
    pub fn caused(error: &Error) -> bool {
        error.chain().any(|e| e.is::<Proof>())
    }
}

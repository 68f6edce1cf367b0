// SPDX-License-Identifier: GPL-2.0

//! Telling a broken test bench from a broken driver.

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

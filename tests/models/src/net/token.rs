// SPDX-License-Identifier: GPL-2.0

//! The tokens of `src/net/token.rs`, without the contexts they stand for.

use core::marker::PhantomData;

/// Proof that no other configuration change runs.
pub struct Config<'a>(PhantomData<&'a ()>);

impl Config<'_> {
    /// The model sees to it that there is one at a time.
    pub fn only_one() -> Self {
        Self(PhantomData)
    }
}

/// Proof of a softirq section: see [`super::Readers::section`].
#[derive(Clone, Copy)]
pub struct SoftIrq<'a>(PhantomData<&'a ()>);

impl SoftIrq<'_> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

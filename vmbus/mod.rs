// SPDX-License-Identifier: GPL-2.0

//! Filled by its owner.

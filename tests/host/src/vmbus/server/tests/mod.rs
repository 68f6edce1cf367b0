// SPDX-License-Identifier: GPL-2.0

//! Tests of the server with a virtual machine in memory and a scripted guest.

mod faults;
mod lifecycle;
mod machine;
mod recording;
mod violations;
